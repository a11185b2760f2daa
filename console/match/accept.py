"""What a person has accepted becomes links in `concord.key` of every database, where the first snapshot of `concord up` finds them.

    1  the file alone        each line for itself; what several accepted lines make one thing has at most one row of a system
    2  the tables            every row is there and counts
    3  concord.key, locked   no row is another thing already
    4  write                 one transaction for each database, committed one after the other; a crash in between and the next run agree:
                             the link is named after the thing's first row, or is the one that was there

A rejected pair with one match value would be paired by the running pipeline all the same. So each of its rows becomes a thing of its own,
unless it has found its partner in another line: then the target lets no second row with that value in, and they stay apart. Rows that were
rejected for another reason need nothing: without a link they are things of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from connectors import concord_schema
from connectors.postgres import translated
from console import wiring
from console.match.census import Census, Tell
from console.match.file import Decided, Unacceptable, read
from console.match.report import Decision
from console.verify import Connection
from schemas.change import row_name
from schemas.errors import MappingError, Problem, Refused
from schemas.mapping import Entity, Pipeline

logger = logging.getLogger(__name__)

ROWS = 10_000  # written with one statement
LOCK_SECONDS = 10  # how long we wait for the sinks to let go of concord.key

Name = tuple[str, str]  # (system, key)

_KNOWN = """
SELECT k.system, k.key, k.link FROM unnest(%s::text[], %s::text[]) AS w(system, key)
JOIN concord.key k ON k.entity = %s AND k.system = w.system AND k.key = w.key
"""
_ROWS = "SELECT link, system, key FROM concord.key WHERE entity = %s AND link = ANY(%s) AND NOT gone"
_WRITE = """
INSERT INTO concord.key (entity, system, key, link) SELECT %s, u.* FROM unnest(%s::text[], %s::text[], %s::text[]) AS u(system, key, link)
ON CONFLICT (entity, system, key) DO NOTHING
"""


@dataclass
class Accepted:
    """What became of one entity's lines."""

    things: int = 0  # that several rows are
    linked: int = 0  # of them, newly
    apart: int = 0  # rows that are things of their own, newly
    open: int = 0  # lines that nobody has decided

    def to_json(self) -> dict[str, Any]:
        return {"accepted": self.things, "linked": self.linked, "kept_apart": self.apart, "open": self.open}


@dataclass
class _Thing:
    """Rows that are to be one thing."""

    rows: tuple[Name, ...]  # in the order of the systems
    lines: list[Decided] = field(default_factory=list)

    @property
    def at(self) -> int:
        """The line that is to blame."""
        return self.lines[0].number


@dataclass
class _Plan:
    """One entity's decisions."""

    entity: Entity
    things: list[_Thing] = field(default_factory=list)
    apart: list[_Thing] = field(default_factory=list)  # one row each
    open: int = 0


def accept(pipeline: Pipeline, file: Path, tell: Tell = lambda doing, rows: None) -> dict[str, Accepted]:
    """Raises Unacceptable with everything that is wrong; then nothing was written."""
    by_entity: dict[str, list[Decided]] = {}
    for line in read(file, pipeline):
        by_entity.setdefault(line.entity, []).append(line)
    problems: list[Problem] = []
    with ExitStack() as stack:
        connections = {system: stack.enter_context(wiring.session(pipeline.config, system)) for system in pipeline.systems}
        plans = []
        for name in pipeline.entities:
            if name in by_entity:
                planning = _Planning(pipeline.entities[name], by_entity[name], file, problems)
                plans.append(planning.plan(Census(pipeline.entities[name], connections), tell))
        _raise(file, problems)
        return _write(plans, connections, file, tell)


def _raise(file: Path, problems: list[Problem]) -> None:
    if problems:
        raise Unacceptable(file, sorted(problems, key=lambda one: int(one.where.rpartition(":")[2])))


# --- the file and the tables ------------------------------------------------------------------------------------------------------


class _Planning:
    """One entity's lines → what is to be one thing, and what is to stay apart."""

    def __init__(self, entity: Entity, lines: Sequence[Decided], file: Path, problems: list[Problem]) -> None:
        self.entity = entity
        self.lines = lines
        self.file = file
        self.problems = problems

    def plan(self, census: Census, tell: Tell) -> _Plan:
        accepted = [line for line in self.lines if line.decision is Decision.ACCEPT]
        rejected = [line for line in self.lines if line.decision is Decision.REJECT and len(line.names) > 1]
        things = self._things(accepted)
        thing_of = {name: thing for thing in things for name in thing.rows}
        for line in rejected:
            together = {id(thing_of.get(name, name)) for name in line.names}
            if len(together) < len(line.names):
                others = ", ".join(str(other.number) for other in thing_of[line.names[0]].lines)
                self._wrong(line.number, f"rejects what is accepted in line {others}")
        values = self._values(census, [*accepted, *rejected], tell)
        undecided = (line for line in self.lines if line.decision is Decision.OPEN)
        return _Plan(
            self.entity,
            things,
            self._apart(rejected, thing_of, values),
            sum(not any(name in thing_of for name in line.names) for line in undecided),
        )

    def _things(self, accepted: Sequence[Decided]) -> list[_Thing]:
        """Rows that accepted lines make one thing, also by way of a third."""
        leader: dict[Name, Name] = {}

        def lead(name: Name) -> Name:
            while (above := leader.setdefault(name, name)) != name:
                leader[name] = leader[above]
                name = above
            return name

        for line in accepted:
            for name in line.names[1:]:
                leader[lead(name)] = lead(line.names[0])
        together: dict[Name, tuple[dict[Name, None], list[Decided]]] = {}
        for line in accepted:
            rows, lines = together.setdefault(lead(line.names[0]), ({}, []))
            rows.update(dict.fromkeys(line.names))
            lines.append(line)
        things = []
        for rows, lines in together.values():
            if len({system for system, _ in rows}) < len(rows):
                named = ", ".join(row_name(*name) for name in sorted(rows))
                others = ", ".join(str(line.number) for line in lines)
                for line in lines:
                    self._wrong(line.number, f"lines {others} make one {self.entity.name} of {named}", "accept one row of each system")
            order = self.entity.systems.index
            things.append(_Thing(tuple(sorted(rows, key=lambda name: order(name[0]))), lines))
        return things

    def _values(self, census: Census, lines: Sequence[Decided], tell: Tell) -> dict[Name, str | None]:
        """The match values of all rows that these lines name; one that is not there is a problem of each line that names it."""
        found: dict[Name, str | None] = {}
        for system in self.entity.systems:
            keys = list(dict.fromkeys(key for line in lines for of, key in line.names if of == system))
            for start in range(0, len(keys), ROWS):
                part = keys[start : start + ROWS]
                found.update({(system, key): value for key, value in _match_values(census, system, part).items()})
                tell(f"{self.entity.name}: looking for the rows in {system}", len(part))
        for line in lines:
            for name in line.names:
                if name not in found:
                    what = f"{row_name(*name)} is not there, does not count or cannot be read"
                    self._wrong(line.number, what, "run `concord match -o` again: it keeps your decisions")
        return found

    def _apart(self, rejected: Sequence[Decided], thing_of: Mapping[Name, _Thing], values: Mapping[Name, str | None]) -> list[_Thing]:
        """Rows that become things of their own, since the running pipeline would pair them."""
        apart: dict[Name, _Thing] = {}
        for line in rejected:
            shared = {values.get(name) for name in line.names}
            if len(shared) > 1 or shared == {None}:
                continue
            for name in line.names:
                if name in thing_of:
                    continue
                if name[0] not in self.entity.born_in:
                    what = f"{row_name(*name)} cannot be kept apart: it has the same {', '.join(self.entity.match_on)}"
                    mend = f"no {self.entity.name} is born in {name[0]}, so it can only be the other one: change its value there"
                    self._wrong(line.number, what, mend)
                apart.setdefault(name, _Thing((name,))).lines.append(line)
        return list(apart.values())

    def _wrong(self, number: int, what: str, mend: str = "") -> None:
        self.problems.append(Problem(f"{self.file}:{number}", what, mend))


def _match_values(census: Census, system: str, keys: Sequence[str]) -> dict[str, str | None]:
    """Of those rows that are there. What cannot even be a key of the table (`abc` for a number) names no row."""
    try:
        return census.match_values(system, keys)
    except (MappingError, Refused):
        if len(keys) == 1:
            return {}
        middle = len(keys) // 2
        return {**_match_values(census, system, keys[:middle]), **_match_values(census, system, keys[middle:])}


# --- concord.key ------------------------------------------------------------------------------------------------------------------


def _write(plans: Sequence[_Plan], connections: Mapping[str, Connection], file: Path, tell: Tell) -> dict[str, Accepted]:
    if not any(plan.things or plan.apart for plan in plans):
        return {plan.entity.name: Accepted(open=plan.open) for plan in plans}
    for system, connection in connections.items():
        with translated(f"system {system}"):
            concord_schema.ensure(connection)
            connection.execute("BEGIN")
            connection.execute(f"SET LOCAL lock_timeout TO '{LOCK_SECONDS}s'".encode())
            connection.execute("LOCK TABLE concord.key IN SHARE ROW EXCLUSIVE MODE")  # no sink links anything from here on
    problems: list[Problem] = []
    told = {plan.entity.name: _write_entity(plan, connections, file, problems, tell) for plan in plans}
    _raise(file, problems)  # the transactions end with the sessions
    for system, connection in connections.items():
        with translated(f"system {system}"):
            connection.execute("COMMIT")
    return told


def _write_entity(plan: _Plan, connections: Mapping[str, Connection], file: Path, problems: list[Problem], tell: Tell) -> Accepted:
    entity = plan.entity
    ours = {system: connections[system] for system in entity.systems}
    accepted = Accepted(things=len(plan.things), open=plan.open)
    wanted = [*plan.things, *plan.apart]
    for start in range(0, len(wanted), ROWS):
        part = wanted[start : start + ROWS]
        tell(f"{entity.name}: linking", len(part))
        known = _known(ours, entity.name, [name for thing in part for name in thing.rows])
        links = {thing.rows: _link(thing, known, file, problems) for thing in part}
        rows = _rows_of(ours, entity.name, {link for link in links.values() if link is not None})
        entries: list[tuple[str, str, str]] = []
        for thing in part:
            link = links[thing.rows]
            if link is None or _has_another_row(entity, thing, link, rows.get(link, set()), file, problems):
                continue
            if any(len(known.get(name, ())) < len(ours) for name in thing.rows):
                if len(thing.rows) > 1:
                    accepted.linked += 1
                else:
                    accepted.apart += 1
                entries += [(*name, link) for name in thing.rows]
        for system, connection in ours.items():
            with translated(f"concord.key of {system}"):
                connection.execute(_WRITE, (entity.name, *([entry[at] for entry in entries] for at in range(3))))
    return accepted


def _known(connections: Mapping[str, Connection], entity: str, names: Sequence[Name]) -> dict[Name, list[str]]:
    """The link of each row that is known, once for each database that knows it."""
    found: dict[Name, list[str]] = {}
    for of, connection in connections.items():
        with translated(f"concord.key of {of}"):
            for system, key, link in connection.execute(_KNOWN, ([system for system, _ in names], [key for _, key in names], entity)):
                found.setdefault((system, key), []).append(link)
    return found


def _rows_of(connections: Mapping[str, Connection], entity: str, links: set[str]) -> dict[str, set[Name]]:
    """The rows that a thing has, by any database."""
    found: dict[str, set[Name]] = {}
    for of, connection in connections.items():
        with translated(f"concord.key of {of}"):
            for link, system, key in connection.execute(_ROWS, (entity, list(links))):
                found.setdefault(link, set()).add((system, key))
    return found


def _link(thing: _Thing, known: Mapping[Name, Sequence[str]], file: Path, problems: list[Problem]) -> str | None:
    """The link that the thing's rows have, else one named after the first of them. None: they are different things already."""
    links = {link for name in thing.rows for link in known.get(name, ())}
    if len(links) > 1:
        told = ", ".join(f"{row_name(*name)} is {known[name][0]}" for name in thing.rows if name in known)
        mend = "two things that were synced cannot become one: reject the line, and merge the rows in the application"
        problems.append(Problem(f"{file}:{thing.at}", f"by concord.key these are different things already: {told}", mend))
        return None
    return next(iter(links), row_name(*thing.rows[0]))


def _has_another_row(entity: Entity, thing: _Thing, link: str, rows: set[Name], file: Path, problems: list[Problem]) -> bool:
    mine = dict(thing.rows)
    others = sorted((system, key) for system, key in rows if mine.get(system, key) != key)
    for system, key in others:
        what = f"{row_name(system, mine[system])} cannot be {link}: by concord.key that {entity.name} has the row {row_name(system, key)}"
        problems.append(Problem(f"{file}:{thing.at}", what, "reject the line, or delete that row in its application first"))
    return bool(others)


# --- for people -------------------------------------------------------------------------------------------------------------------


def show(told: Mapping[str, Accepted], console: Console) -> None:
    for name, one in told.items():
        already = one.things - one.linked
        sentence = f"{name}: {one.things:,} accepted, {one.linked:,} newly linked"
        sentence += f", {already:,} were already" if already else ""
        sentence += f", {one.apart:,} rows newly kept apart" if one.apart else ""
        console.print(escape(sentence), soft_wrap=True)
        if one.open:
            console.print(f"[yellow]{one.open:,} lines are open[/]: blank is neither accepted nor rejected", soft_wrap=True)
    if not any(one.open for one in told.values()):
        console.print("[green]nothing to decide[/]")
