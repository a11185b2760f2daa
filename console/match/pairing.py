"""One entity after the other, parents first: read, pair, foretell. What is found goes out line by line; figures and examples are kept.

read all systems ─▶ exact (same match value) ─┬─▶ pairs       ─▶ what they would overwrite
                                              ├─▶ duplicates  ─▶ a person
                                              └─▶ left        ─▶ likeness ─▶ candidates ─▶ a person
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import combinations, islice, product

from console import wiring
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

    def of(self, entity: str, name: str) -> str:
        """The thing that a row is: its own name, if nobody knows more."""
        return self._thing.get((entity, name), name)


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
    decisions: Decisions | None = None,
    write: Write = lambda line: None,
    tell: Tell = lambda doing, rows: None,
) -> Report:
    """Reads only. `limit`: examples of each sort. Raises Retriable when a database does not answer."""
    report, things = Report(), Things()
    with ExitStack() as stack:
        connections = {system: stack.enter_context(wiring.session(pipeline.config, system)) for system in pipeline.systems}
        for name in with_parents(pipeline, entities):
            one = _Pairing(pipeline, pipeline.entities[name], connections, things, limit, decisions or {}, write, tell)
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
        decisions: Decisions,
        write: Write,
        tell: Tell,
    ) -> None:
        self.entity = entity
        self.limit = limit
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
        report.alone = {system: len(rows) for system, rows in exact.left.items()}
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

    # pairs

    def _pairs(self, pairs: Sequence[SameValue]) -> None:
        reason = "same " + ", ".join(self.entity.match_on)
        lines = (self._line(Kind.EXACT, pair.rows, reason, default=Decision.ACCEPT) for pair in pairs)
        for line in self._told(lines):
            if line.decision is Decision.ACCEPT:
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


def _open(lines: Sequence[Line]) -> Iterator[Line]:
    """Lines that wait for a decision: none has been said, and none of their rows has found its partner in another line."""
    taken = {row for line in lines if line.decision is Decision.ACCEPT for row in line.rows}
    return (line for line in lines if line.decision is Decision.OPEN and not taken.intersection(line.rows))
