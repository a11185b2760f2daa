"""One entity after the other, parents first: read, pair, foretell. What is found goes out line by line; figures and examples are kept.

read all systems ─▶ exact (same match value) ─┬─▶ pairs       ─▶ what they would overwrite
                                              ├─▶ duplicates  ─▶ a person
                                              └─▶ left        ─▶ likeness ─▶ candidates ─▶ a person
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import combinations, groupby, islice, product

from console import wiring
from console.match.alike import alike
from console.match.census import Census, Tell, Values
from console.match.exact import JUNK_ROWS, Exact, FoundRow, SameValue, compared
from console.match.file import Names
from console.match.foretold import foretell
from console.match.report import Cluster, Decision, EntityReport, Kind, Line, Report
from console.verify import CHUNK, Connection
from schemas.change import Canonical
from schemas.mapping import Entity, Pipeline
from streams.rules import rules_of

Decisions = Mapping[tuple[str, Names], Decision]
Write = Callable[[Line], None]

OF_A_LABEL = 3  # texts that name a row
LEAST = 50  # the score of a candidate: as likely as not
MOST_SURE = 99
UNLIKE = frozenset({"boolean", "json", "bytes"})  # kinds that say nothing about who somebody is
ENOUGH, LEARNT = 50, 5_000  # pairs of one match value that weights can be learned from; and are


class Things:
    """Which rows are one thing: what `concord.key` says, and the pairs that were found. For references."""

    def __init__(self) -> None:
        self._thing: dict[tuple[str, str], str] = {}

    def learn(self, entity: str, rows: Iterable[FoundRow]) -> None:
        """These rows are one thing."""
        rows = list(rows)
        thing = next((row.link for row in rows if row.link is not None), rows[0].name)
        for row in rows:
            self._thing[entity, row.name] = thing

    def same(self, entity: str, name: str, other: str) -> bool:
        thing = self._thing.get((entity, name))
        return thing is not None and thing == self._thing.get((entity, other))

    def of(self, entity: str, name: str) -> str | None:
        """The thing that a row is, if it is known to be one that other systems have too."""
        return self._thing.get((entity, name))


def with_parents(pipeline: Pipeline, entities: Iterable[str]) -> list[str]:
    """These entities and all that they refer to, parents first."""
    wanted, todo = set[str](), list(entities)
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo += pipeline.entities[name].refs.values()
    return [name for name in pipeline.entities if name in wanted]


def match(
    pipeline: Pipeline,
    entities: Sequence[str],
    *,
    limit: int = 10,
    least: int = LEAST,
    decisions: Decisions | None = None,
    write: Write = lambda line: None,
    tell: Tell = lambda doing, rows: None,
) -> Report:
    """Reads only. `limit`: examples of each sort. `least`: score of a candidate; more than 99, and none is looked for.

    Raises Retriable when a database does not answer.
    """
    report, things = Report(), Things()
    with ExitStack() as stack:
        connections = {system: stack.enter_context(wiring.session(pipeline.config, system)) for system in pipeline.systems}
        for name in with_parents(pipeline, entities):
            one = _Pairing(pipeline, pipeline.entities[name], connections, things, limit, least, decisions or {}, write, tell)
            exact = one.read()
            if name in entities:
                report.entities[name] = one.run(exact)
    return report


class _Pairing:
    """One entity."""

    def __init__(
        self,
        pipeline: Pipeline,
        entity: Entity,
        connections: Mapping[str, Connection],
        things: Things,
        limit: int,
        least: int,
        decisions: Decisions,
        write: Write,
        tell: Tell,
    ) -> None:
        self.entity = entity
        self.limit = limit
        self.least = least
        self.decisions = decisions
        self.write = write
        self.tell = tell
        self.things = things
        self.census = Census(entity, {system: connections[system] for system in entity.systems})
        self.rules = rules_of(pipeline, entity, things.same)
        self.referred = any(entity.name in other.refs.values() for other in pipeline.entities.values())
        self.report = EntityReport(entity.name, entity.systems, entity.match_on, entity.born_in)

    def read(self) -> Exact:
        """Everybody reads a parent before its children, so that references can be compared as things."""
        exact = compared(self.entity.systems, self._learning(self.census.read(self.tell)))
        if self.referred:
            for pair in exact.pairs:
                self.things.learn(self.entity.name, pair.rows)
        return exact

    def _learning(self, rows: Iterable[tuple[FoundRow, str | None]]) -> Iterator[tuple[FoundRow, str | None]]:
        for row, value in rows:
            if self.referred and row.link is not None:
                self.things.learn(self.entity.name, [row])
            yield row, value

    def run(self, exact: Exact) -> EntityReport:
        report = self.report
        for system, counted in self.census.counted.items():
            report.rows[system] = counted.rows
            report.without_value[system] = counted.without_value
            report.unreadable[system] = counted.unreadable
        report.linked = exact.linked
        report.pairs = len(exact.pairs)
        self._duplicates(exact.duplicates)
        self._candidates(exact)
        report.alone = {system: len(rows) - report.candidate_rows.get(system, 0) for system, rows in exact.left.items()}
        self._pairs(exact.pairs)
        return report

    # duplicates

    def _duplicates(self, clusters: Sequence[SameValue]) -> None:
        report = self.report
        report.duplicates = len(clusters)
        report.duplicate_rows = {system: sum(len(cluster.of(system)) for cluster in clusters) for system in self.entity.systems}
        for number, cluster in enumerate(sorted(clusters, key=lambda cluster: (-len(cluster.rows), cluster.value)), 1):
            lines = list(self._lines_of(cluster, f"d{number}")) if len(cluster.rows) <= JUNK_ROWS else []
            is_open = not lines or any(_open(lines))
            report.duplicates_open += is_open
            for line in self._told(lines):
                self.write(line)
            if len(report.clusters) < self.limit:
                keys = {system: [row.key for row in cluster.of(system)][:3] for system in self.entity.systems}
                report.clusters.append(
                    Cluster(cluster.value, {system: of for system, of in keys.items() if of}, len(cluster.rows), not is_open)
                )

    def _lines_of(self, cluster: SameValue, group: str) -> Iterator[Line]:
        """Each way of pairing the cluster's rows; a row alone where there is nobody to pair it with."""
        systems = [system for system in self.entity.systems if cluster.of(system)]
        matched = ", ".join(self.entity.match_on)
        combined: Iterator[tuple[FoundRow, ...]] = (
            pair for one, other in combinations(systems, 2) for pair in product(cluster.of(one), cluster.of(other))
        )
        if len(systems) == 1:
            combined = ((row,) for row in cluster.rows)
        for rows in combined:
            if any(row.link is None for row in rows):
                others = ", ".join(row.name for row in cluster.rows if row not in rows)
                yield self._line(Kind.DUPLICATE, rows, f"same {matched} {cluster.value!r}, as have {others}", group)

    # candidates

    def _candidates(self, exact: Exact) -> None:
        report = self.report
        rows: dict[str, set[str]] = {system: set() for system in self.entity.systems}
        for one, other in combinations(self.entity.systems, 2) if self.least <= MOST_SURE else ():
            lines = list(self._alike(exact, one, other))
            shown = _spread([line for line in lines if line.proposed], self.limit)
            report.candidates += len(lines)
            report.proposed += sum(line.proposed for line in lines)
            for _, group in groupby(lines, key=lambda line: line.group):
                report.groups += 1
                report.candidates_open += any(_open(list(group)))
            for line in self._told(lines):
                for row in line.rows:
                    rows[row.system].add(row.key)
                if line.decision is Decision.ACCEPT or (line.proposed and line.decision is Decision.OPEN):
                    report.if_proposed.add(line.overwrites)
                if line.rows in shown:
                    report.examples.append(line)
                self.write(line)
        report.candidate_rows = {system: len(keys) for system, keys in rows.items()}

    def _alike(self, exact: Exact, one: str, other: str) -> Iterator[Line]:
        """The candidates between two systems, the surest first, those of a group one after the other."""
        entity, before = self.entity, self.report.groups
        bindings = [entity.bindings[system] for system in (one, other)]
        kinds = {name: entity.kinds[name] for name in bindings[0].fields if name in bindings[1].fields}
        kinds = {name: kind for name, kind in kinds.items() if kind not in UNLIKE}
        rows, table = self._table(one, exact.left[one], kinds)
        other_rows, other_table = self._table(other, exact.left[other], kinds)
        known = self._known(exact.pairs, one, other, [name for name in kinds if name not in entity.match_on])
        self.tell(f"{entity.name}: looking for rows that are alike in {one} and {other}", 0)
        for found in alike(kinds, table, other_table, known, self.least):
            pair = (rows[found.one], other_rows[found.other])
            line = self._line(Kind.CANDIDATE, pair, found.reason, f"c{before + found.group}")
            yield replace(line, score=found.score, proposed=found.proposed)

    def _table(self, system: str, left: Sequence[FoundRow], names: Iterable[str]) -> tuple[list[FoundRow], dict[str, list[str | None]]]:
        """The rows that are still there, and what they hold in these fields."""
        rows: list[FoundRow] = []
        table: dict[str, list[str | None]] = {name: [] for name in names}
        for start in range(0, len(left), CHUNK):
            chunk = left[start : start + CHUNK]
            there = self.census.values(system, [row.key for row in chunk])
            self.tell(f"{self.entity.name}: reading what is left in {system}", len(chunk))
            for row in chunk:
                if (values := there.get(row.key)) is not None:
                    rows.append(row)
                    for name, column in table.items():
                        column.append(self._text(name, values.get(name)))
        return rows, table

    def _text(self, name: str, value: Canonical) -> str | None:
        if isinstance(value, str):
            return self.things.of(self.entity.refs[name], value) if name in self.entity.refs else value
        return None if value is None else str(value)

    def _known(self, pairs: Sequence[SameValue], one: str, other: str, names: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
        """What some of the pairs of one match value hold on either side, if there are enough to learn from."""
        both = [pair for pair in pairs if pair.of(one) and pair.of(other)]
        if len(both) < ENOUGH:
            return {}
        known: dict[str, list[tuple[str, str]]] = {name: [] for name in names}
        learnt = both[:: max(1, len(both) // LEARNT)][:LEARNT]
        for values in self.census.groups([(*pair.of(one), *pair.of(other)) for pair in learnt]):
            if len(values) == 2:
                mine, theirs = values.values()
                for name, found in known.items():
                    a, b = self._text(name, mine.get(name)), self._text(name, theirs.get(name))
                    if a is not None and b is not None:
                        found.append((a, b))
        return known

    # pairs

    def _pairs(self, pairs: Sequence[SameValue]) -> None:
        reason = "same " + ", ".join(self.entity.match_on)
        lines = (self._line(Kind.EXACT, pair.rows, reason, default=Decision.ACCEPT) for pair in pairs)
        for line in self._told(lines):
            if line.decision is not Decision.REJECT:  # what is left open the running pipeline pairs
                self.report.if_paired.add(line.overwrites)
            self.write(line)

    # lines

    def _line(self, kind: Kind, rows: tuple[FoundRow, ...], reason: str, group: str = "", default: Decision = Decision.OPEN) -> Line:
        names = tuple((row.system, row.key) for row in rows)
        return Line(self.entity.name, kind, rows, reason, self.decisions.get((self.entity.name, names), default), group)

    def _told(self, lines: Iterable[Line]) -> Iterator[Line]:
        """The lines with what their rows hold and what would become of it; without those whose rows have gone meanwhile."""
        lines = iter(lines)
        while chunk := list(islice(lines, CHUNK)):
            self.tell(f"{self.entity.name}: comparing", len(chunk))
            for line, values in zip(chunk, self.census.groups([line.rows for line in chunk]), strict=True):
                if len(values) == len(line.rows):
                    yield self._with_values(line, values)

    def _with_values(self, line: Line, values: Mapping[FoundRow, Values]) -> Line:
        foretold = foretell(self.entity, self.rules, {(row.system, row.key): of for row, of in values.items()})
        return replace(line, label=self._label(values), differing=self._differing(values), overwrites=foretold.overwrites)

    def _label(self, values: Mapping[FoundRow, Values]) -> str:
        """The first texts of the first row: names and numbers come first in a configuration."""
        first = next(iter(values.values()))
        texts = (value for name, value in first.items() if self.entity.kinds[name] == "text" and isinstance(value, str) and value)
        return " · ".join(islice(texts, OF_A_LABEL))

    def _differing(self, values: Mapping[FoundRow, Values]) -> dict[str, dict[str, Canonical]]:
        """What the rows hold in the fields in which they are not the same, in the order of the configuration."""
        found: dict[str, dict[str, Canonical]] = {}
        for (one, mine), (other, theirs) in combinations(values.items(), 2):
            for name in self.entity.kinds:
                if name in mine and name in theirs and self._differs(name, one.system, mine[name], other.system, theirs[name]):
                    found.setdefault(name, {}).update({one.system: mine[name], other.system: theirs[name]})
        return found

    def _differs(self, name: str, one: str, mine: Canonical, other: str, theirs: Canonical) -> bool:
        if mine == theirs:
            return False
        if (entity := self.entity.refs.get(name)) is not None:
            return not (isinstance(mine, str) and isinstance(theirs, str) and self.things.same(entity, mine, theirs))
        bindings = self.entity.bindings
        return not (bindings[one].same(name, theirs, mine) or bindings[other].same(name, mine, theirs))


def _spread(lines: Sequence[Line], limit: int) -> set[tuple[FoundRow, ...]]:
    """The rows of so many of the lines, from the first to the last of them."""
    if len(lines) <= limit:
        return {line.rows for line in lines}
    return {lines[number * (len(lines) - 1) // max(1, limit - 1)].rows for number in range(limit)}


def _open(lines: Sequence[Line]) -> Iterator[Line]:
    """Lines that wait for a decision: none has been said, and none of their rows has found its partner in another line."""
    taken = {row for line in lines if line.decision is Decision.ACCEPT for row in line.rows}
    return (line for line in lines if line.decision is Decision.OPEN and not taken.intersection(line.rows))
