"""`concord verify`: do all systems hold the same, as far as the mapping goes? While everything runs, in flat memory.

Each system in turn leads: its table is read in the order of its key, a chunk at a time. For the chunk,

    1. `concord.key` of all databases says which thing each row is, and which rows it is elsewhere;
    2. those rows are fetched by key; a thing that an earlier system has led already is passed over;
    3. both rows are mapped to canonical fields and compared in either system's own representation, references as things;
    4. what is not equal is a suspect, no more: it may be in flight. Suspects are looked at again after a while, several times, and only
       what stays as it is gets reported. What keeps changing is counted as in flight.

A row that nobody linked is missing elsewhere if things may be born in its system, else out of scope; with the match value of another row
of its system it is a duplicate that waits. Where a thing is gone in one system and the policy is soft or ignore, nothing is missing.

Values are in the report: the operator asked for them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import psycopg
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from connectors import concord_schema
from connectors.rows import FlatRows, cast_type, quoted
from console import wiring
from console.logs import first_line
from console.status import Observer
from schemas.change import Canonical, parse_row_name
from schemas.config import Config
from schemas.errors import ConcordError, MappingError, UnfitDatabase
from schemas.mapping import Binding, Entity, Pipeline, Row

logger = logging.getLogger(__name__)

CHUNK = 1_000  # rows read and compared at once
SUSPECTS = 20_000  # kept at once; then they are settled before reading on: memory stays flat however much differs
WAITS = (0.2, 0.4, 0.8, 1.6)  # seconds before each further look: two orders of magnitude more than a change takes on its way
CHANGING_LOOKS = 6  # further looks at what was different at each of them

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one look at one thing showed."""

    what: str  # equal, differing, missing, deleted, out_of_scope, unlinked, passed_over
    link: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, Mapping[str, Canonical]] = field(default_factory=dict)  # differing: field → system → value
    missing_in: tuple[str, ...] = ()
    match_value: str | None = None
    note: str = ""


@dataclass
class Count:
    """An entity's figures."""

    systems: tuple[str, ...]
    equal: int = 0
    differing: int = 0
    in_flight: int = 0
    deleted: int = 0  # gone in one system, and the policy leaves the other as it is
    adjusted: int = 0  # a trigger or a domain made something else of what was written; recorded, never fought over
    duplicates: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    absent: int = 0  # things that are missing somewhere
    out_of_scope: dict[str, int] = field(default_factory=dict)
    conflicts: int | None = None
    parked: int = 0
    dead: int = 0

    def __post_init__(self) -> None:
        self.missing = dict.fromkeys(self.systems, 0)
        self.out_of_scope = dict.fromkeys(self.systems, 0)

    @property
    def things(self) -> int:
        return self.equal + self.differing + self.in_flight + self.deleted + self.adjusted + self.absent

    def to_json(self) -> dict[str, Any]:
        return {
            "things": self.things,
            "equal": self.equal,
            "differing": self.differing,
            "missing": self.missing,
            "in_flight": self.in_flight,
            "deleted": self.deleted,
            "adjusted": self.adjusted,
            "duplicates": self.duplicates,
            "out_of_scope": self.out_of_scope,
            "conflicts": self.conflicts,
            "parked": self.parked,
            "dead": self.dead,
        }


@dataclass
class Report:
    """What was found; `differences` is cut at the limit, the counts are not."""

    entities: dict[str, Count]
    differences: list[dict[str, Any]] = field(default_factory=list)
    differences_total: int = 0
    limit: int = 100

    @property
    def equal(self) -> bool:
        """Nothing differs, nothing is missing, and nothing changed too fast to be compared."""
        return not any(count.differing or count.absent or count.in_flight for count in self.entities.values())

    def add(self, difference: dict[str, Any]) -> None:
        self.differences_total += 1
        if len(self.differences) < self.limit:
            self.differences.append(difference)

    def to_json(self) -> dict[str, Any]:
        return {
            "equal": self.equal,
            "entities": {name: count.to_json() for name, count in self.entities.items()},
            "differences": self.differences,
            "differences_total": self.differences_total,
        }


def verify(
    pipeline: Pipeline,
    entities: Sequence[str],
    limit: int = 100,
    *,
    waits: Sequence[float] = WAITS,
    sleep: Callable[[float], None] = time.sleep,
) -> Report:
    """Raises Retriable when a database does not answer, UnfitDatabase when one knows nothing of Concord."""
    report = Report({name: Count(pipeline.entities[name].systems) for name in entities}, limit=limit)
    with ExitStack() as stack:
        connections: dict[str, Connection] = {}
        for system in pipeline.systems:
            connections[system] = stack.enter_context(wiring.session(pipeline.config, system))
            if not concord_schema.version(connections[system]):
                raise UnfitDatabase(f"system {system} has no schema concord: nothing has been synced yet, start `concord up` first")
        for name in entities:
            _Comparison(pipeline.entities[name], connections, report, waits, sleep).run()
            _count_stuck(connections.values(), name, report.entities[name])
    _count_in_kafka(pipeline.config, report)
    return report


def _count_stuck(connections: Iterable[Connection], entity: str, count: Count) -> None:
    query = (
        "SELECT (SELECT count(*) FROM concord.parked WHERE entity = %(e)s), (SELECT count(*) FROM concord.dead_letter WHERE entity = %(e)s)"
    )
    for connection in connections:
        parked, dead = connection.execute(query, {"e": entity}).fetchone() or (0, 0)
        count.parked += parked
        count.dead += dead


def _count_in_kafka(config: Config, report: Report) -> None:
    """Conflicts, all that were ever recorded, and the dead letters of the parts before the sinks.

    When Kafka does not answer they are not counted, and it is said: the databases could be compared all the same.
    """
    try:
        with Observer(config) as observer:
            conflicts = observer.conflicts()
            letters = [observer.dead_before_sinks(system) for system in config.systems]
    except ConcordError as error:
        logger.warning("conflicts and dead letters before the sinks are not counted: %s", first_line(error))
        return
    for name, count in report.entities.items():
        count.conflicts = conflicts.get(name, 0)
        count.dead += sum(counted.get(name, 0) for counted in letters)


# --- reading rows -----------------------------------------------------------------------------------------------------------------


class Rows:
    """A binding's flat rows: in the order of the root's key, or by keys."""

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self._flat = flat = FlatRows(binding)
        key = binding.key_columns
        columns = ", ".join(f"r.{quoted(column)}" for column in binding.root_columns)
        in_order, after = (", ".join(f"{alias}.{quoted(column)}" for column in key) for alias in ("t", "r"))
        casts = [f"%s::{cast_type(binding.table, column)}" for column in key]

        def chunk(where: str) -> str:  # the roots first, then what hangs at them
            return flat.select(
                f"(SELECT {columns} FROM {flat.root} r {where}ORDER BY {after} LIMIT {CHUNK}) t", among=f"ORDER BY {in_order}"
            )

        self._first = chunk("")
        self._after = chunk(f"WHERE ({after}) > ({', '.join(casts)}) ")
        numbered = [f"k{number}" for number in range(len(key))]
        on = [f"r.{quoted(column)} = w.{k}::{cast_type(binding.table, column)}" for column, k in zip(key, numbered, strict=True)]
        wanted = f"unnest({', '.join('%s::text[]' for _ in key)}) AS w({', '.join(numbered)})"
        self._by_key = flat.select(f"(SELECT {columns} FROM {wanted} JOIN {flat.root} r ON {' AND '.join(on)}) t")

    def chunks(self, connection: Connection) -> Iterator[list[Row]]:
        """The whole table. Each chunk is a statement of its own: no transaction stays open, no snapshot holds back VACUUM."""
        rows = self._rows(connection, self._first, ())
        while rows:
            yield rows
            if len(rows) < CHUNK:
                return
            rows = self._rows(connection, self._after, [rows[-1][column] for column in self.binding.key_columns])

    def by_key(self, connection: Connection, keys: Iterable[str]) -> dict[str, Row]:
        """Those that are there and in scope, by key."""
        wanted = [self.binding.key_values(key) for key in keys]
        if not wanted:
            return {}
        rows = self._rows(connection, self._by_key, [[key[column] for key in wanted] for column in self.binding.key_columns])
        return {self.binding.key_of(row): row for row in rows if self.binding.in_scope(row)}

    def _rows(self, connection: Connection, statement: str, parameters: Sequence[Any]) -> list[Row]:
        return [self._flat.row(values) for values in connection.execute(statement.encode(), parameters)]


class Crosswalk:
    """`concord.key` of all databases together: what one knows already another may only be about to hear."""

    def __init__(self, connections: Mapping[str, Connection]) -> None:
        self._connections = connections

    def links(self, entity: str, names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """(system, key) → link."""
        asked = sorted(set(names))
        if not asked:
            return {}
        query = (
            "SELECT k.system, k.key, k.link FROM concord.key k JOIN unnest(%s::text[], %s::text[]) AS w(system, key) "
            "ON k.system = w.system AND k.key = w.key WHERE k.entity = %s"
        )
        found = {}
        for connection in self._connections.values():
            rows = connection.execute(query, ([system for system, _ in asked], [key for _, key in asked], entity))
            found.update({(system, key): link for system, key, link in rows})
        return found

    def keys(self, entity: str, links: Iterable[str]) -> dict[str, dict[str, set[str]]]:
        """link → system → keys. Also the ones marked gone: whether a row is there is for its table to say."""
        asked = list(set(links))
        found: dict[str, dict[str, set[str]]] = {}
        if not asked:
            return found
        for connection in self._connections.values():
            rows = connection.execute("SELECT link, system, key FROM concord.key WHERE entity = %s AND link = ANY(%s)", (entity, asked))
            for link, system, key in rows:
                found.setdefault(link, {}).setdefault(system, set()).add(key)
        return found


# --- comparing --------------------------------------------------------------------------------------------------------------------


def comparable(entity: Entity, one: Binding, other: Binding) -> list[str]:
    """Fields that must agree between two systems: written in both, or written in one and decided by the other."""
    return [
        name
        for name in one.fields
        if name in other.fields
        and (name in one.writable or entity.owner[name] == one.system)
        and (name in other.writable or entity.owner[name] == other.system)
        and (name in one.writable or name in other.writable)
    ]


Suspect = tuple[str, str]  # (leading system, key)


class _Comparison:
    """One entity across its systems."""

    def __init__(
        self,
        entity: Entity,
        connections: Mapping[str, Connection],
        report: Report,
        waits: Sequence[float],
        sleep: Callable[[float], None],
    ) -> None:
        self.entity = entity
        self.connections = connections
        self.report = report
        self.count = report.entities[entity.name]
        self.waits = waits
        self.sleep = sleep
        self.crosswalk = Crosswalk(connections)
        self.rows = {system: Rows(entity.bindings[system]) for system in entity.systems}
        self.comparable = {
            (one, other): comparable(entity, entity.bindings[one], entity.bindings[other])
            for one in entity.systems
            for other in entity.systems
            if one != other
        }

    def run(self) -> None:
        suspects: list[Suspect] = []
        for leading in self.entity.systems:
            binding = self.entity.bindings[leading]
            for chunk in self.rows[leading].chunks(self.connections[leading]):
                there = {binding.key_of(row): row for row in chunk if binding.in_scope(row)}
                for key, verdict in self.look(leading, there).items():
                    if verdict.what in ("differing", "missing", "unlinked"):
                        suspects.append((leading, key))
                    else:
                        self.settle(leading, verdict)
                if len(suspects) >= SUSPECTS:
                    self.look_again(suspects)
                    suspects = []
        self.look_again(suspects)

    def look(self, leading: str, there: Mapping[str, Row], led: Collection[Suspect] | None = None) -> dict[str, Verdict]:
        """A verdict on each of these rows of the leading system.

        Things that an earlier system has are passed over, since they were led from there; looking again, only those that are looked at
        again from there (`led`): the others came to be there later.
        """
        entity = self.entity
        links = self.crosswalk.links(entity.name, ((leading, key) for key in there))
        keys = self.crosswalk.keys(entity.name, links.values())
        rows: dict[str, dict[str, Row]] = {leading: dict(there)}
        for system in entity.systems:
            wanted = {key for known in keys.values() for key in known.get(system, ())} - rows.get(system, {}).keys()
            rows.setdefault(system, {}).update(self.rows[system].by_key(self.connections[system], wanted))
        things: dict[str, str | Verdict] = {}
        for key in there:
            link = links.get((leading, key))
            things[key] = self._unlinked(leading, key, there[key]) if link is None else link
        found: dict[str, Verdict] = {}
        candidates: dict[str, dict[str, dict[str, dict[str, Canonical]]]] = {}  # key → system → key → values
        for key, thing in things.items():
            if isinstance(thing, Verdict):
                found[key] = thing
                continue
            live = {system: sorted(keys[thing].get(system, set()) & rows[system].keys()) for system in entity.systems}
            earlier = entity.systems[: entity.systems.index(leading)]
            elsewhere = ((system, one) for system in earlier for one in live[system])
            if any(led is None or one in led for one in elsewhere) or key != live[leading][0]:
                found[key] = Verdict("passed_over", thing)  # an earlier system led it, or another row of this one does
                continue
            try:
                candidates[key] = {
                    system: {one: entity.bindings[system].to_canonical(rows[system][one]) for one in of_system}
                    for system, of_system in live.items()
                }
            except MappingError as error:
                named = {system: of_system[0] for system, of_system in live.items() if of_system}
                found[key] = Verdict("differing", thing, named, note=str(error))
        references = self._references(candidates.values())
        for key, systems in candidates.items():
            thing = things[key]
            assert isinstance(thing, str)
            found[key] = self._judge(leading, thing, systems, keys[thing], references)
        return found

    def _unlinked(self, leading: str, key: str, row: Row) -> Verdict:
        if leading not in self.entity.born_in:
            return Verdict("out_of_scope", keys={leading: key})
        others = tuple(system for system in self.entity.systems if system != leading)
        try:
            match_value = self.entity.match_value(self.entity.bindings[leading].to_canonical(row))
        except MappingError as error:
            return Verdict("unlinked", keys={leading: key}, missing_in=others, note=str(error))
        return Verdict("unlinked", keys={leading: key}, missing_in=others, match_value=match_value)

    def _references(self, candidates: Iterable[Mapping[str, Mapping[str, Mapping[str, Canonical]]]]) -> dict[tuple[str, str], str]:
        """(entity, row name) → link, of every reference in these rows."""
        named: dict[str, set[str]] = {}
        for systems in candidates:
            for of_system in systems.values():
                for values in of_system.values():
                    for name, entity in self.entity.refs.items():
                        if isinstance(value := values.get(name), str):
                            named.setdefault(entity, set()).add(value)
        found = {}
        for entity, names in named.items():
            links = self.crosswalk.links(entity, map(parse_row_name, names))
            found.update({(entity, f"{system}:{key}"): link for (system, key), link in links.items()})
        return found

    def _judge(
        self,
        leading: str,
        link: str,
        systems: Mapping[str, Mapping[str, Mapping[str, Canonical]]],
        known: Mapping[str, set[str]],
        references: Mapping[tuple[str, str], str],
    ) -> Verdict:
        keys = {system: next(iter(of_system)) for system, of_system in systems.items() if of_system}
        absent = tuple(system for system, of_system in systems.items() if not of_system)
        if absent:
            here = systems[leading][keys[leading]]
            if all(self._may_be_gone(leading, here, system, known) for system in absent):
                return Verdict("deleted", link, keys)
            return Verdict("missing", link, keys, missing_in=absent)
        fields: dict[str, dict[str, Canonical]] = {}
        for other in systems:
            if other == leading:
                continue
            # several rows of one system may be the same thing for a while (deleted and entered again): the one that agrees counts
            told = min(
                (
                    self._differing(leading, mine, other, theirs, references)
                    for mine in systems[leading].values()
                    for theirs in systems[other].values()
                ),
                key=len,
            )
            for name, values in told.items():
                fields.setdefault(name, {}).update(values)
        return Verdict("differing", link, keys, fields) if fields else Verdict("equal", link, keys)

    def _may_be_gone(self, leading: str, here: Mapping[str, Canonical], absent: str, known: Mapping[str, set[str]]) -> bool:
        """Whether the policy leaves the leading system's row alone although the other one's is gone."""
        policy = self.entity.delete
        if not known.get(absent):
            return False  # it never was there
        if policy.policy == "ignore":
            return True
        if policy.policy != "soft":
            return False
        binding = self.entity.bindings[leading]
        return all(binding.same(name, value, here.get(name)) for name, value in policy.soft.items() if name in binding.fields)

    def _differing(
        self,
        one: str,
        mine: Mapping[str, Canonical],
        other: str,
        theirs: Mapping[str, Canonical],
        references: Mapping[tuple[str, str], str],
    ) -> dict[str, dict[str, Canonical]]:
        found: dict[str, dict[str, Canonical]] = {}
        for name in self.comparable[one, other]:
            a, b = mine.get(name), theirs.get(name)
            if a == b:
                continue
            if (entity := self.entity.refs.get(name)) is not None:
                link = references.get((entity, str(a)))
                if link is not None and link == references.get((entity, str(b))):
                    continue
            bindings = self.entity.bindings
            if bindings[one].same(name, b, a) or bindings[other].same(name, a, b):
                continue
            found[name] = {one: a, other: b}
        return found

    # --- looking again ------------------------------------------------------------------------------------------------------------

    def look_again(self, suspects: Sequence[Suspect]) -> None:
        """Settles suspects: looks again after each wait; what stayed as it was all the time is what it is."""
        before: dict[Suspect, Verdict | None] = dict.fromkeys(suspects)
        for looks in range(len(self.waits) + CHANGING_LOOKS):
            if not before:
                return
            self.sleep(self.waits[min(looks, len(self.waits) - 1)])
            stays: dict[Suspect, Verdict | None] = {}
            final = looks >= len(self.waits) - 1
            for leading in self.entity.systems:
                mine = [key for system, key in before if system == leading]
                for start in range(0, len(mine), CHUNK):
                    self._look_at(leading, mine[start : start + CHUNK], before, stays, final)
            before = stays
        for (leading, _), verdict in before.items():
            self.count.in_flight += 1
            if verdict is not None:
                self.report.add(self._named("in flight", leading, verdict))

    def _look_at(
        self, leading: str, keys: Sequence[str], before: Mapping[Suspect, Verdict | None], stays: dict[Suspect, Verdict | None], final: bool
    ) -> None:
        verdicts = self.look(leading, self.rows[leading].by_key(self.connections[leading], keys), before)
        sure: dict[str, Verdict] = {}
        for key, verdict in verdicts.items():  # a row that is gone or left scope has none: then there is no such thing to compare
            if verdict.what not in ("differing", "missing", "unlinked"):
                self.settle(leading, verdict)
            elif final and verdict == before[leading, key]:
                sure[key] = verdict
            else:
                stays[leading, key] = verdict
        self.report_on(leading, sure)

    def settle(self, leading: str, verdict: Verdict) -> None:
        match verdict.what:
            case "equal":
                self.count.equal += 1
            case "deleted":
                self.count.deleted += 1
            case "out_of_scope":
                self.count.out_of_scope[leading] += 1

    def report_on(self, leading: str, verdicts: Mapping[str, Verdict]) -> None:
        """Counts and names what is not as it should be."""
        duplicates = self._duplicates(leading, {verdict.match_value for verdict in verdicts.values()} - {None})
        adjusted = self._adjusted([verdict for verdict in verdicts.values() if verdict.what == "differing"])
        stuck = self._stuck([verdict for verdict in verdicts.values() if verdict.link is not None])
        for verdict in verdicts.values():
            if verdict.what == "unlinked" and verdict.match_value in duplicates:
                self.count.duplicates += 1
                self.report.add({**self._named("duplicate", leading, verdict), "of": duplicates[verdict.match_value]})
            elif verdict.what == "differing":
                if verdict.fields and all((verdict.link, name) in adjusted for name in verdict.fields):
                    self.count.adjusted += 1
                    self._name_fields("adjusted", leading, verdict, stuck)
                else:
                    self.count.differing += 1
                    self._name_fields("differing", leading, verdict, stuck)
            else:
                self.count.absent += 1
                for system in verdict.missing_in:
                    self.count.missing[system] += 1
                why = stuck.get(verdict.link or "")
                self.report.add({**self._named("missing", leading, verdict), "missing_in": list(verdict.missing_in), **_why(why)})

    def _name_fields(self, what: str, leading: str, verdict: Verdict, stuck: Mapping[str, str]) -> None:
        why = _why(stuck.get(verdict.link or ""))
        if not verdict.fields:
            self.report.add({**self._named(what, leading, verdict), **why})
        for name, values in verdict.fields.items():
            self.report.add({**self._named(what, leading, verdict), "field": name, "values": dict(values), **why})

    def _named(self, what: str, leading: str, verdict: Verdict) -> dict[str, Any]:
        told: dict[str, Any] = {"what": what, "entity": self.entity.name, "link": verdict.link, "keys": dict(verdict.keys)}
        if verdict.match_value is not None:
            told["match_value"] = verdict.match_value
        if verdict.note:
            told["note"] = verdict.note
        return told

    def _duplicates(self, leading: str, match_values: set[str | None]) -> dict[str | None, str]:
        """Match value → key of the linked row of the same system that has it. One more pass over the table, only when somebody asks."""
        found: dict[str | None, str] = {}
        if not match_values:
            return found
        binding = self.entity.bindings[leading]
        for chunk in self.rows[leading].chunks(self.connections[leading]):
            having: dict[str, str] = {}
            for row in chunk:
                try:
                    if binding.in_scope(row) and (value := self.entity.match_value(binding.to_canonical(row))) in match_values:
                        having[binding.key_of(row)] = str(value)
                except MappingError:
                    continue  # it is a suspect of its own
            for _, key in self.crosswalk.links(self.entity.name, ((leading, key) for key in having)):
                found[having[key]] = key
        return found

    def _adjusted(self, verdicts: Sequence[Verdict]) -> set[tuple[str | None, str]]:
        """(link, field) where what a system holds is what it made of our write."""
        found: set[tuple[str | None, str]] = set()
        fields = {verdict.link: verdict.fields for verdict in verdicts}
        for system in self.entity.systems if fields else ():
            query = "SELECT link, adjusted FROM concord.link WHERE entity = %s AND link = ANY(%s) AND adjusted <> '{}'"
            for thing, adjusted in self.connections[system].execute(query, (self.entity.name, list(fields))):
                for name, (_, came_back) in adjusted.items():
                    if name in fields[thing] and fields[thing][name].get(system) == came_back:
                        found.add((thing, name))
        return found

    def _stuck(self, verdicts: Sequence[Verdict]) -> dict[str, str]:
        """Link → why a system does not have it."""
        found: dict[str, str] = {}
        links = [verdict.link for verdict in verdicts]
        for system in self.entity.systems if links else ():
            connection = self.connections[system]
            asked = (self.entity.name, links)
            for link, waits_for, reason in connection.execute(
                "SELECT link, waits_for_entity || ' ' || waits_for, reason FROM concord.parked WHERE entity = %s AND link = ANY(%s)", asked
            ):
                found[link] = f"parked in {system}: waits for {waits_for} ({reason})"
            for link, number, error in connection.execute(
                "SELECT link, id, error FROM concord.dead_letter WHERE entity = %s AND link = ANY(%s)", asked
            ):
                found[link] = f"dead letter {system}:{number}: {error}"
        return found


def _why(why: str | None) -> dict[str, str]:
    return {"why": why} if why else {}


# --- for people -------------------------------------------------------------------------------------------------------------------


def table(report: Report) -> Grid:
    """Entities with their figures."""
    counts = report.entities.values()
    optional = {
        "in flight": [count.in_flight for count in counts],
        "deleted": [count.deleted for count in counts],
        "adjusted": [count.adjusted for count in counts],
        "duplicates": [count.duplicates for count in counts],
        "out of scope": [sum(count.out_of_scope.values()) for count in counts],
    }
    shown = {heading: figures for heading, figures in optional.items() if any(figures)}
    grid = Grid(box=None, header_style="bold", pad_edge=False)
    grid.add_column("entity")
    for heading in ("things", "equal", "differing", "missing", *shown, "conflicts decided", "parked", "dead"):
        grid.add_column(heading, justify="right")
    for number, (name, count) in enumerate(report.entities.items()):
        missing = ", ".join(f"{figure:,} in {system}" for system, figure in count.missing.items() if figure) or "0"
        grid.add_row(
            name,
            f"{count.things:,}",
            f"{count.equal:,}",
            _red(f"{count.differing:,}", count.differing),
            _red(missing, count.absent),
            *(f"{figures[number]:,}" for figures in shown.values()),
            "?" if count.conflicts is None else f"{count.conflicts:,}",
            _red(f"{count.parked:,}", count.parked),
            _red(f"{count.dead:,}", count.dead),
        )
    return grid


def _red(text: str, bad: int) -> str:
    return f"[red]{text}[/]" if bad else text


def show(report: Report, console: Console) -> None:
    console.print(table(report))
    for one in report.differences:
        console.print(escape(sentence(one)))
    if (more := report.differences_total - len(report.differences)) > 0:
        console.print(f"… and {more:,} more (--limit)")
    console.print("[green]all equal[/]" if report.equal else "[red]not equal[/]")


def sentence(one: Mapping[str, Any]) -> str:
    """One difference in words."""
    rows = " ".join(f"{system}:{key}" for system, key in one["keys"].items())
    text = f"{one['entity']} {rows}: "
    if "field" in one:
        text += f"{one['field']} {one['what']}: " + ", ".join(f"{system} has {value!r}" for system, value in one["values"].items())
    elif one["what"] == "missing":
        text += f"missing in {', '.join(one['missing_in'])}"
    elif one["what"] == "duplicate":
        text += f"has the match value of {one['of']}, waits for a person to decide"
    else:
        text += one["what"]
    for more in ("note", "why"):
        if more in one:
            text += f"; {one[more]}"
    return text
