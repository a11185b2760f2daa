"""What `concord match` found, in figures and examples: for people and, with the same facts, for scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from console.match.exact import FoundRow
from console.match.foretold import Decider, Effect, Overwrite
from schemas.change import Canonical

OF_A_VALUE = 40  # characters shown of a value


class Kind(StrEnum):
    """Why rows stand together."""

    EXACT = "exact"  # one match value, one row of each system
    DUPLICATE = "duplicate"  # one match value, several rows of one system
    CANDIDATE = "candidate"  # alike


class Decision(StrEnum):
    """What a person says of a line."""

    ACCEPT = "accept"
    REJECT = "reject"
    OPEN = ""


@dataclass(frozen=True, slots=True)
class Line:
    """Rows that may be one thing: one line of the file."""

    entity: str
    kind: Kind
    rows: tuple[FoundRow, ...]  # at most one of each system
    reason: str
    decision: Decision = Decision.OPEN
    group: str = ""  # lines that a person must see together
    score: int | None = None  # of candidates, 0 to 100
    proposed: bool = False  # the best partner for both
    label: str = ""  # what a person knows the row by
    differing: Mapping[str, Mapping[str, Canonical]] = field(default_factory=dict)  # field → system → value
    overwrites: tuple[Overwrite, ...] = ()

    def to_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "kind": self.kind.value,
            "rows": {row.system: row.key for row in self.rows},
            "label": self.label,
            "reason": self.reason,
            "decision": self.decision.value,
        }
        if self.kind is Kind.CANDIDATE:
            told |= {"score": self.score, "group": self.group, "proposed": self.proposed}
        told["differing"] = {name: dict(values) for name, values in self.differing.items()}
        told["overwrites"] = [{"field": one.field, "in": one.into, "from": one.by, "rule": one.rule.value} for one in self.overwrites]
        return told


@dataclass(frozen=True, slots=True)
class Cluster:
    """Duplicates: rows of one match value, of which a system has several."""

    value: str
    rows: Mapping[str, list[str]]  # system → keys in the order of reading, cut; the first is the one that would go through
    size: int
    decided: bool = False

    def to_json(self) -> dict[str, Any]:
        taken = {system: keys[0] for system, keys in self.rows.items()}
        return {"match_value": self.value, "rows": dict(self.rows), "size": self.size, "would_be_taken": taken, "decided": self.decided}


Written = tuple[str, str, str, Decider]  # field, into, by, rule


@dataclass
class Overwrites:
    """Values that go-live would write over others."""

    pairs: int = 0
    agreeing: int = 0  # pairs that nothing is written to
    effects: dict[Written, Counter[Effect]] = field(default_factory=dict)

    def add(self, overwrites: tuple[Overwrite, ...]) -> None:
        self.pairs += 1
        self.agreeing += not overwrites
        for one in overwrites:
            self.effects.setdefault((one.field, one.into, one.by, one.rule), Counter())[one.effect] += 1

    def __bool__(self) -> bool:
        return bool(self.effects)

    def to_json(self) -> dict[str, Any]:
        fields = [
            {"field": name, "in": into, "from": by, "rule": rule.value, **{effect.value: counted[effect] for effect in Effect}}
            for (name, into, by, rule), counted in sorted(self.effects.items())
        ]
        return {"pairs": self.pairs, "agreeing": self.agreeing, "fields": fields}


@dataclass
class EntityReport:
    """One entity's figures."""

    entity: str
    systems: tuple[str, ...]
    match_on: tuple[str, ...]
    born_in: frozenset[str]
    rows: dict[str, int] = field(default_factory=dict)
    without_value: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    linked: dict[str, int] = field(default_factory=dict)
    pairs: int = 0
    duplicates: int = 0  # clusters
    duplicate_rows: dict[str, int] = field(default_factory=dict)
    duplicates_open: int = 0
    candidates: int = 0
    groups: int = 0
    proposed: int = 0
    candidates_open: int = 0  # groups with a line that is not decided
    candidate_rows: dict[str, int] = field(default_factory=dict)
    alone: dict[str, int] = field(default_factory=dict)  # rows that have nobody elsewhere
    if_paired: Overwrites = field(default_factory=Overwrites)  # of the exact pairs
    if_proposed: Overwrites = field(default_factory=Overwrites)  # of the proposed candidates
    clusters: list[Cluster] = field(default_factory=list)  # examples
    examples: list[Line] = field(default_factory=list)  # candidates

    @property
    def decided(self) -> bool:
        return not self.duplicates_open and not self.candidates_open

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "without_match_value": self.without_value,
            "unreadable": {system: len(rows) for system, rows in self.unreadable.items()},
            "linked": self.linked,
            "exact": self.pairs,
            "duplicates": {"clusters": self.duplicates, "open": self.duplicates_open, "rows": self.duplicate_rows},
            "candidates": {
                "pairs": self.candidates,
                "groups": self.groups,
                "proposed": self.proposed,
                "open": self.candidates_open,
                "rows": self.candidate_rows,
            },
            "alone": self.alone,
            "overwrites": {"exact": self.if_paired.to_json(), "proposed": self.if_proposed.to_json()},
            "examples": {
                "duplicates": [cluster.to_json() for cluster in self.clusters],
                "candidates": [line.to_json() for line in self.examples],
                "unreadable": [
                    {"row": FoundRow(system, key).name, "why": why} for system, rows in self.unreadable.items() for key, why in rows[:3]
                ],
            },
        }


@dataclass
class Report:
    """All that was asked about. `file`: where the lines were written."""

    entities: dict[str, EntityReport] = field(default_factory=dict)
    file: str | None = None

    @property
    def decided(self) -> bool:
        """Nothing is left for a person to decide."""
        return all(entity.decided for entity in self.entities.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "decided": self.decided,
            "entities": {name: entity.to_json() for name, entity in self.entities.items()},
            "file": self.file,
        }


# --- for people -------------------------------------------------------------------------------------------------------------------


def show(report: Report, console: Console) -> None:
    for entity in report.entities.values():
        console.print(_figures(entity))
        _say_overwrites(entity, console)
        for sentence in _examples(entity):
            console.print(sentence, soft_wrap=True)
        console.print()
    for sentence in _what_to_do(report):
        console.print(sentence, soft_wrap=True)


def _figures(entity: EntityReport) -> Grid:
    grid = Grid(box=None, header_style="bold", pad_edge=False)
    grid.add_column(entity.entity)
    for system in entity.systems:
        grid.add_column(system, justify="right")
    grid.add_column("")

    def line(name: str, figures: Mapping[str, int], told: str = "", always: bool = False) -> None:
        if always or any(figures.values()):
            grid.add_row(name, *(f"{figures.get(system, 0):,}" for system in entity.systems), told)

    matched = ", ".join(entity.match_on)
    line("rows", entity.rows, always=True)
    line("cannot be read", {system: len(rows) for system, rows in entity.unreadable.items()}, "[red]would become dead letters[/]")
    line("are linked already", entity.linked)
    if matched:
        line(f"have no {matched}", entity.without_value)
        agreeing = f", {entity.if_paired.agreeing:,} of them agree in everything" if entity.pairs else ""
        pairs = dict.fromkeys(entity.systems, entity.pairs)
        line("[green]pairs[/]", pairs, f"of one {matched}{agreeing}", always=True)
        line("[red]duplicates[/]", entity.duplicate_rows, f"{entity.duplicates:,} times one {matched} in several rows of a system")
    told = f"{entity.candidates:,} pairs in {entity.groups:,} groups, {entity.proposed:,} proposed: for a person to decide"
    line("[yellow]candidates[/]", entity.candidate_rows, told)
    fate = [_fate(entity, system) for system in entity.systems if entity.alone.get(system)]
    line("alone", entity.alone, "; ".join(fate))
    return grid


def _fate(entity: EntityReport, system: str) -> str:
    others = " and ".join(other for other in entity.systems if other != system)
    return f"{system}'s become new in {others}" if system in entity.born_in else f"{system}'s stay there: none is born in {system}"


_REASONS = {Decider.OWNER: "its owner", Decider.VALUE: "the other has none", Decider.RANK: "its rank is higher"}


def _say_overwrites(entity: EntityReport, console: Console) -> None:
    """First what is lost, then what only fills in."""
    found = {told: counted for told, counted in (("pairs", entity.if_paired), ("proposed", entity.if_proposed)) if counted}
    if not found:
        return
    console.print(f"\n[bold]{entity.entity}: values that going live would write[/]")
    grid = Grid(box=None, header_style="bold", pad_edge=False)
    for heading in ("field", "into", "decided by"):
        grid.add_column(heading)
    for told in found:
        grid.add_column(told, justify="right")
    grid.add_column("")
    written = {key: None for counted in found.values() for key in counted.effects}
    for key in sorted(written, key=lambda key: (key[3] is Decider.VALUE, key)):
        name, into, by, rule = key
        effects = [counted.effects.get(key, Counter[Effect]()) for counted in found.values()]
        alarms = {effect: sum(each[effect] for each in effects) for effect in (Effect.EMPTIED, Effect.REFUSED)}
        alarm = ", ".join(f"{figure:,} {_ALARMS[effect]}" for effect, figure in alarms.items() if figure)
        grid.add_row(name, into, f"{by}, {_REASONS[rule]}", *(f"{each.total():,}" for each in effects), f"[red]{alarm}[/]" if alarm else "")
    console.print(grid)


_ALARMS = {Effect.EMPTIED: "emptied by an empty text: `clean: empty_is_null` makes it lose", Effect.REFUSED: "refused: dead letters"}


def _examples(entity: EntityReport) -> Iterator[str]:
    if entity.clusters:
        yield f"\n[bold]{entity.entity}: duplicates[/]"
    for cluster in entity.clusters:
        rows = " ".join(FoundRow(system, key).name for system, keys in cluster.rows.items() for key in keys)
        more = cluster.size - sum(map(len, cluster.rows.values()))
        taken = " and ".join(FoundRow(system, keys[0]).name for system, keys in cluster.rows.items())
        told = f"{shown(cluster.value)}: {rows}" + (f" and {more:,} more" if more else "")
        yield escape(f"{told}; left alone, {taken} would be taken and the others wait")
    if (more := entity.duplicates - len(entity.clusters)) > 0 and entity.clusters:
        yield f"… and {more:,} more (--limit)"
    if entity.examples:
        yield f"\n[bold]{entity.entity}: candidates, from the surest to the least sure[/]"
    for line in entity.examples:
        rows = " ~ ".join(row.name for row in line.rows)
        yield escape(f"{line.score:>3}  {rows}  {line.label}: {line.reason}")
    if (more := entity.candidates - len(entity.examples)) > 0 and entity.examples:
        yield f"… and {more:,} more (--limit)"
    for system, unreadable in entity.unreadable.items():
        for key, why in unreadable[:3]:
            yield "[red]" + escape(f"{FoundRow(system, key).name} cannot be read: {why}") + "[/]"


def _what_to_do(report: Report) -> Iterator[str]:
    entities = report.entities.values()
    duplicates, groups = sum(entity.duplicates_open for entity in entities), sum(entity.candidates_open for entity in entities)
    if report.file:
        yield f"[bold]{escape(report.file)}[/] has a line for each of them. Say accept or reject in its first column, then:"
        yield f"  concord match --accept {escape(report.file)}"
    elif duplicates or groups or any(entity.pairs for entity in entities):
        yield "Nothing was written. To decide: concord match -o matches.csv"
    if duplicates or groups:
        open_ones = " and ".join(
            filter(
                None,
                [
                    f"{duplicates:,} duplicate{'s' * (duplicates != 1)}" if duplicates else "",
                    f"{groups:,} group{'s' * (groups != 1)} of candidates" if groups else "",
                ],
            )
        )
        yield f"[yellow]to decide: {open_ones}[/]"
    else:
        yield "[green]nothing to decide[/]"


def shown(value: Canonical) -> str:
    """A value for a person, cut."""
    text = "—" if value is None else repr(value)
    return text if len(text) <= OF_A_VALUE else text[: OF_A_VALUE - 2] + "…'"
