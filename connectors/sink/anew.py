"""A target that was lost, written again from golden records alone: all of it, or what a backup of yesterday lacks.

    golden.<entity>, the last record of each thing ─▶ `as_lost` ─▶ the sink's own plan, with `Task.anew` ─▶ its transaction (`apply`)

What `anew` changes in the plan: a value is written over whatever is there, a row that is missing is made, under the key that it had, and
what the application's own sequences and the owner gave once is given again. What stays: a version that is older than what was applied is
never written (I3), references are resolved, match values are nobody's twice, a bad record holds up nothing but itself (I8).

`Foresight` says what a record would do, and does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg
from psycopg import sql

from connectors import concord_schema
from connectors.postgres import translated
from connectors.sink.apply import Applier, _Run
from connectors.sink.part_rows import Op
from connectors.sink.plan import Decision, Name, Task, There, Thing, Wave, Write, coalesced, held_values
from schemas.catalog import Table
from schemas.change import Canonical
from schemas.golden import GoldenRecord
from schemas.mapping import Pipeline


def as_lost(record: GoldenRecord, system: str) -> GoldenRecord | None:
    """The record for a system whose rows are lost; None if it has no row of the thing, or never had one that must go."""
    lives = record.seen.get(system) is not None or system in record.targets
    has = lives if record.alive else system in record.keys
    return replace(record, targets=(system,), seen={**record.seen, system: None}) if has else None


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a sink would do with one record."""

    entity: str
    link: str
    system: str
    what: str  # insert, update, delete; waits, dead; nothing, or only of our own: the crosswalk
    key: str | None = None
    fields: Mapping[str, tuple[Canonical, Canonical]] = field(default_factory=dict)  # from, to
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {"entity": self.entity, "link": self.link, "system": self.system, "what": self.what, "key": self.key}
        fields = {name: {"from": before, "to": after} for name, (before, after) in self.fields.items()}
        return {**told, "fields": fields, **({"why": self.why} if self.why else {})}


class Foresight(Applier):
    """Plans as the sink does, in transactions that are rolled back before anything is written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Rows that earlier answers would have made, of entities that others refer to: which thing a name is of, and the thing's key here.
        # A thing is foreseen once, so nothing else of them is asked for again.
        self._made: dict[Name, tuple[str, str]] = {}
        self._referred = {of for entity in self._pipeline.entities.values() for of in entity.refs.values()}

    def foresee(self, tasks: Iterable[Task]) -> list[Foreseen]:
        """One answer for each thing. Rows are locked meanwhile, for as long as it takes to read them. Raises as `apply` does."""
        wanted, _ = coalesced(tasks)
        run = _Run(There(self._system))
        self._alone("BEGIN")
        try:
            self._without_schema()
            self._load(run, wanted)
            self._stand_in(self._made_before(wanted), run.there)
            self._look_for_holders(run)
            wave = self._looked(run)
        finally:
            self._rollback()
        for (entity, link), (key, names) in self._rows_of(wave).items():
            if entity in self._referred:
                self._made.update(dict.fromkeys(names, (link, key)))
        return self._told(wave, run)

    def _made_before(self, tasks: Iterable[Task]) -> dict[Thing, tuple[str, set[Name]]]:
        """What of that these records name."""
        found: dict[Thing, tuple[str, set[Name]]] = {}
        for name in {name for task in tasks for name in self._names_of(task.record)} & self._made.keys():
            link, key = self._made[name]
            found.setdefault((name[0], link), (key, {(name[0], self._system, key)}))[1].add(name)
        return found

    def _without_schema(self) -> None:
        """Where there is no schema `concord`, one for this transaction."""
        if not concord_schema.version(self._conn):
            threshold, self._conn.prepare_threshold = self._conn.prepare_threshold, None  # several statements at once
            try:
                concord_schema.ensure(self._conn)
            finally:
                self._conn.prepare_threshold = threshold

    def _looked(self, run: _Run) -> Wave:
        """Wave by wave, each with what those before it would have brought."""
        found, todo, last = Wave(), run.todo, False
        while True:
            wave = self._planner.plan_wave(todo, run.there, last)
            done: list[Decision] = [*wave.writes, *wave.ends, *wave.parks, *wave.deads]
            for decision in done:
                found.add(decision)
            self._stand_in(self._rows_of(wave), run.there)
            if not wave.waits or (last and not done):
                found.waits = wave.waits
                return found
            todo, last = [wait.task for wait in wave.waits], not done

    def _rows_of(self, wave: Wave) -> dict[Thing, tuple[str, set[Name]]]:
        return {write.task.thing: self._row_of(write) for write in wave.writes if write.op is not Op.DELETE}

    def _row_of(self, write: Write) -> tuple[str, set[Name]]:
        record = write.task.record
        key = record.keys.get(self._system) or "0"  # some key: that of a row which nobody has made
        names = {(record.entity, system, each) for system, each in (*record.keys.items(), (self._system, key))}
        return key, names

    @staticmethod
    def _stand_in(made: Mapping[Thing, tuple[str, set[Name]]], there: There) -> None:
        for (entity, link), (key, names) in made.items():
            there.own.setdefault((entity, link), {})[key] = False
            for name in names:
                there.names.setdefault(name, link)

    def _told(self, wave: Wave, run: _Run) -> list[Foreseen]:
        there = run.there
        entered = {(entity, link) for (entity, _, _), (link, _) in there.register.items()}
        told = [self._of_write(write, run) for write in wave.writes]
        told += [self._named(park.task, "waits", why=park.reason) for park in (*wave.parks, *(wait.instead for wait in wave.waits))]
        told += [self._named(dead.task, "dead", why=dead.error) for dead in wave.deads]
        for end in wave.ends:
            changed = end.state is not None and there.links.get(end.task.thing) != end.state
            ours = changed or end.task.thing in entered
            told.append(self._named(end.task, "ours" if ours else "nothing", why=end.reason))
        return told

    def _named(self, task: Task, what: str, key: str | None = None, why: str = "") -> Foreseen:
        record = task.record
        return Foreseen(record.entity, record.link, self._system, what, key or record.keys.get(self._system), why=why)

    def _of_write(self, write: Write, run: _Run) -> Foreseen:
        record, there = write.task.record, run.there
        binding = self._pipeline.entities[record.entity].bindings[self._system]
        row = None if write.key is None else there.rows.get((record.entity, write.key))
        held = {} if row is None else held_values(binding, row)
        plain = {name: value if isinstance(value, str | bool) else None for name, value in held.items()}
        again = "it is a dead letter there now, and would be tried again" if write.task.thing in run.dead_before else ""
        told = self._named(write.task, str(write.op), write.key, again)
        if write.op is Op.DELETE:
            return replace(told, fields={name: (value, None) for name, value in plain.items()})
        return replace(told, fields={name: (plain.get(name), value) for name, value in write.values.items()})


def sequences_behind(conn: psycopg.Connection[Any], pipeline: Pipeline, system: str) -> dict[str, int]:
    """Sequences of key columns that would give a key that is taken → the highest key there is. Those that we may read."""
    behind = {}
    for table, column, sequence in _numbered_keys(conn, pipeline, system):
        asked = sql.SQL("SELECT (SELECT max({column})::bigint FROM {table}), last_value - (NOT is_called)::int FROM {sequence}").format(
            column=sql.Identifier(column), table=sql.Identifier(table.schema, table.name), sequence=sql.SQL(sequence)
        )
        with translated(f"reading the sequence of {table}"):
            may = conn.execute("SELECT has_sequence_privilege(%s, 'SELECT')", (sequence,)).fetchone()
            highest, last = (conn.execute(asked).fetchone() or (None, None)) if may is not None and may[0] else (None, None)
        if highest is not None and last is not None and highest > last:
            behind[sequence] = highest
    return behind


def rights_lacking(conn: psycopg.Connection[Any], pipeline: Pipeline, system: str) -> list[str]:
    """What the session may not do and a rebuild has to: give rows their keys, move the sequences of keys."""
    lacking = []
    for table in {str(binding.table): binding.table for binding in pipeline.tables(system)}.values():
        name = sql.Identifier(table.schema, table.name).as_string()
        with translated(f"asking for the rights in {table}"):
            for column in table.primary_key:
                may = conn.execute("SELECT has_column_privilege(%s, %s, 'INSERT')", (name, column)).fetchone()
                if may is None or not may[0]:
                    lacking.append(f"INSERT ({column}) on {table}")
    for _, _, sequence in _numbered_keys(conn, pipeline, system):
        with translated(f"asking for the rights in {sequence}"):
            may = conn.execute(
                "SELECT has_sequence_privilege(%s, 'SELECT') AND has_sequence_privilege(%s, 'UPDATE')", [sequence] * 2
            ).fetchone()
        if may is None or not may[0]:
            lacking.append(f"SELECT and UPDATE on sequence {sequence}")
    return lacking


def move_sequences(conn: psycopg.Connection[Any], behind: Mapping[str, int]) -> None:
    """Past the keys that were given again. Raises UnfitDatabase when the right (UPDATE) is missing."""
    for name, highest in behind.items():
        with translated(f"moving sequence {name} past {highest}"):
            conn.execute("SELECT setval(%s::regclass, %s)", (name, highest))


def _numbered_keys(conn: psycopg.Connection[Any], pipeline: Pipeline, system: str) -> Iterable[tuple[Table, str, str]]:
    """Key columns of root tables with the sequences that number them, quoted."""
    for table in {str(binding.table): binding.table for binding in pipeline.tables(system)}.values():
        for column in table.primary_key:
            name = sql.Identifier(table.schema, table.name).as_string()
            with translated(f"looking for the sequence of {table}"):
                told = conn.execute("SELECT pg_get_serial_sequence(%s, %s)", (name, column)).fetchone()
            if told is not None and told[0] is not None:
                yield table, column, str(told[0])
