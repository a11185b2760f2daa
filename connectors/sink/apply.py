"""A batch of golden records → one transaction in the target database. All reads and writes of the sink are here; `plan` decides.

    begin, lock progress, load         one round trip: what is known of all things of the batch, their rows, locked
    write, per wave                    one round trip; a second wave only where one record of the batch needs what another brings. One more
                                       where rows of parts are inserted at a root that is, or the other way round (`part_rows`)
    wake                               one, only when something is parked: children of what has just come
    links, crosswalk, parked, dead letters, progress, origin, commit      one round trip; I2: the progress is in the rows' own transaction

A batch that the database refuses is rolled back and halved under savepoints until the bad records stand alone (I8): they become dead
letters, or wait where another thing's row is in the way, or where their own is locked for longer than `lock_timeout`. An error that is
nobody's fault (`Retriable`) passes through: the caller tries again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, LiteralString, NamedTuple

import orjson
import psycopg

from connectors.postgres import concord_error
from connectors.sink import statements as sql
from connectors.sink.part_rows import Op, RowWrite, is_there, part_key
from connectors.sink.plan import (
    Dead,
    End,
    LinkState,
    Name,
    Park,
    Planner,
    Row,
    Task,
    There,
    Thing,
    Write,
    coalesced,
    held_match,
    in_order,
    match_columns,
    match_texts,
    named_after,
    root_key,
    supersedes,
    value_wait,
    wanted_match,
    wants_holders,
)
from connectors.sink.statements import EntityStatements, Lock, Statement
from connectors.text_lists import literals
from schemas.change import Canonical, parse_row_name, row_name
from schemas.errors import ConcordError, MappingError, Refused, Retriable, SchemaError, UnfitDatabase
from schemas.golden import GoldenRecord, Version
from schemas.lsn import Lsn
from schemas.mapping import ROOT, Binding, Pipeline
from schemas.metrics import State

logger = logging.getLogger(__name__)

Connection = psycopg.Connection[tuple[Any, ...]]


class _Group(NamedTuple):
    """What one statement writes."""

    entity: str
    part: str
    op: Op
    above: str
    columns: tuple[str, ...]


_Read = tuple[str, Lock | None, Statement]  # of an entity: rows that it locks, or flat rows
Place = tuple[str, int]  # (topic, partition)

LOCKING = 5  # times that rows which go on changing hands are looked at; each time all that were seen before are locked
SHORT_WAIT: Statement = ("SET LOCAL lock_timeout TO '100ms'", ())  # where one record after the other may meet a locked row
LOCKED = "55P03"
NO_ROW = "no_row"  # the code of a write that hit no row


class Fenced(ConcordError):
    """Somebody else has moved on in a partition that we thought was ours: read the progress again."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message that is no golden record."""

    entity: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    error: str
    code: str

    @property
    def link(self) -> str:
        """What it is filed under: its key, as far as that is text; so a good record of the same thing takes it away."""
        try:
            text = (self.key or b"").decode()
        except UnicodeDecodeError:
            text = ""
        return text.replace("\x00", "�") or f"{self.topic}/{self.partition}@{self.offset}"


@dataclass(slots=True)
class Batch:
    """What is to become one transaction."""

    tasks: list[Task] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    progress: dict[Place, tuple[int, int]] = field(default_factory=dict)  # (offset stored before, offset to store)

    def __len__(self) -> int:
        return len(self.tasks) + len(self.unreadable)


@dataclass(slots=True)
class Outcome:
    """How the records of a batch ended (I6)."""

    wrote: list[Task] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    parks: list[Park] = field(default_factory=list)
    deads: list[Dead] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)


@dataclass(slots=True)
class _Locked:
    """What of entities with parts is locked."""

    rows: set[tuple[str, str]] = field(default_factory=set)  # (entity, key) of flat rows that were read after all their rows were locked
    held: set[tuple[str, Lock, tuple[str, ...]]] = field(default_factory=set)  # (entity, which, key) of single rows


@dataclass(slots=True)
class _Run:
    """A set of records on its way through load, waves and book."""

    there: There
    todo: list[Task] = field(default_factory=list)
    wrote: dict[Task, None] = field(default_factory=dict)
    ends: list[End] = field(default_factory=list)
    parks: dict[Thing, Park] = field(default_factory=dict)
    deads: dict[Thing, Dead] = field(default_factory=dict)
    hlc: int = 0
    any_parked: bool = False
    was_parked: dict[Thing, None] = field(default_factory=dict)  # rows of concord.parked that are in our hands
    dead_before: dict[Thing, bytes | None] = field(default_factory=dict)
    changed: dict[Thing, None] = field(default_factory=dict)  # links to write
    woken: set[tuple[str, str]] = field(default_factory=set)  # names whose children were looked for
    locked: _Locked = field(default_factory=lambda: _Locked())

    def drain(self, outcome: Outcome) -> None:
        outcome.wrote += self.wrote
        outcome.ends += [end for end in self.ends if end.task not in self.wrote]
        outcome.parks += self.parks.values()
        outcome.deads += self.deads.values()


class Applier:
    """Applies batches through one connection, which must be in autocommit mode and hold a replication origin."""

    def __init__(
        self, conn: Connection, pipeline: Pipeline, system: str, decode: Callable[[str, bytes], GoldenRecord], anew: bool = False
    ) -> None:
        """`anew`: records that were parked by a rebuild go on as part of it (`Task.anew`)."""
        self._conn = conn
        self._anew = anew
        self._pipeline = pipeline
        self._system = system
        self._decode = decode
        self._planner = Planner(pipeline, system)
        self._tables = {
            name: EntityStatements(entity.bindings[system], entity.writes_rows(system))
            for name, entity in pipeline.entities.items()
            if system in entity.bindings
        }
        sides = {
            name: [table.binding.sides[match] for match in pipeline.entities[name].match_on if match in table.binding.sides]
            for name, table in self._tables.items()
        }
        self._cleaned = {name for name, matched in sides.items() if any(side.alike != "equal" for side in matched)}
        self._comparable = {
            name: not any(
                sql.has_no_equality(table.binding, column)
                for column in match_columns(table.binding, pipeline.entities[name].match_on) or ()
            )
            for name, table in self._tables.items()
        }

    # the transaction

    def apply(self, batch: Batch, *first: Statement, tries: int = 3) -> Outcome:
        """`first`: settings of the transaction. `tries`: while intake decides on the same rows.

        Raises Retriable, Fenced, or UnfitDatabase when not even dead letters can be written; then nothing was applied.
        """
        try:
            return self._at_once(batch, first)
        except (Refused, UnfitDatabase, Retriable) as error:
            if isinstance(error, Retriable) and not _is_locked(error):
                raise
            if _is_outrun(error) and tries > 1:
                self._rollback()
                return self.apply(batch, *first, tries=tries - 1)  # now it is seen
            logger.debug("a batch of %d was refused, looking for the bad record: %s", len(batch), error)
            self._rollback()
            return self._halving(batch)

    def sweep(self, limit: int = 200) -> Outcome:
        """Tries parked records whose time may have come: their parent came at the same moment through another worker, or they wait for a
        value."""
        self._round_trip([("BEGIN", ())])
        (rows,) = self._round_trip([(sql.DUE_PARKED, (self._system, limit))])
        batch = Batch(tasks=self._parked_tasks(rows))
        self._round_trip([("COMMIT", ())])
        return self.apply(batch, SHORT_WAIT) if batch.tasks else Outcome()

    def positions(self, places: Sequence[Place]) -> dict[Place, int]:
        """The next offset to read of each, 0 where we have never been; from now on there is a row to lock for each."""
        topics, partitions = [topic for topic, _ in places], [partition for _, partition in places]
        _, rows = self._round_trip([(sql.BEGIN_PROGRESS, (topics, partitions)), (sql.READ_PROGRESS, (topics, partitions))])
        return {(topic, partition): offset for topic, partition, offset in rows}

    def _at_once(self, batch: Batch, first: Sequence[Statement]) -> Outcome:
        tasks, ends = coalesced(batch.tasks)
        run = _Run(There(self._system), ends=ends)
        before = [("BEGIN", ()), *first, *self._lock_progress(batch)]
        self._load(run, tasks, before, check=lambda results: self._fence(batch, results[1 + len(first) :]))
        self._waves(run, wake=True)
        outcome = Outcome()
        run.drain(outcome)
        self._finish(batch, outcome, self._book(run), run.hlc)
        return outcome

    def _halving(self, batch: Batch) -> Outcome:
        tasks, ends = coalesced(batch.tasks)
        outcome = Outcome(ends=ends)
        _, _, *progress = self._round_trip([("BEGIN", ()), SHORT_WAIT, *self._lock_progress(batch)])
        self._fence(batch, progress)
        hlc = 0
        names: dict[tuple[str, str], None] = {}
        done: set[Thing] = set()
        waiting = in_order(tasks, self._pipeline)
        while waiting:
            halves = [waiting]
            while halves:
                half = halves.pop()
                run = self._attempt(half)
                if run is None:
                    middle = len(half) // 2
                    halves += [half[middle:], half[:middle]]
                    continue
                run.drain(outcome)
                hlc = max(hlc, run.hlc)
                done.update(task.thing for task in half)
                names.update(dict.fromkeys(self._names_to_wake(run)))
            (rows,) = self._round_trip([(sql.WAITING_FOR, ([entity for entity, _ in names], [name for _, name in names]))])
            names.clear()
            waiting = [task for task in self._parked_tasks(rows) if task.thing not in done]
        self._finish(batch, outcome, [], hlc)
        return outcome

    def _attempt(self, tasks: list[Task]) -> _Run | None:
        """These records under a savepoint; None if they were refused and there are several."""
        run = _Run(There(self._system))
        try:
            self._load(run, tasks, before=[("SAVEPOINT concord", ())])
            self._waves(run, wake=False)
            # deferred constraints are asked now, so that it is known whom they refuse
            asked = [("SET CONSTRAINTS ALL IMMEDIATE", ()), ("SET CONSTRAINTS ALL DEFERRED", ())]
            self._round_trip([*self._book(run), *asked, ("RELEASE concord", ())])
            return run
        except (Refused, UnfitDatabase, Retriable) as error:
            if isinstance(error, Retriable) and not _is_locked(error):
                raise
            self._alone("ROLLBACK TO concord")
            self._alone("RELEASE concord")
            if _is_outrun(error):
                raise Retriable(f"{self._system}: intake has just decided on a row of this batch: {error}") from error
            if len(tasks) > 1:
                return None
            return self._refused(tasks[0], error)

    def _refused(self, task: Task, error: ConcordError) -> _Run:
        """One record that the database refuses: to wait, where another thing's row is in the way; else a dead letter."""
        run = _Run(There(self._system))
        self._load(run, [task], rows=False)
        run.todo.clear()
        run.there.enter_seen(task.record)
        decision = self._judged(task, error, run.there)
        if isinstance(decision, Park):
            run.parks[task.thing] = decision
        else:
            run.deads[task.thing] = decision
        self._round_trip(self._book(run))
        return run

    def _judged(self, task: Task, error: ConcordError, there: There) -> Park | Dead:
        """By SQLSTATE and by what the violated constraint is about, never by the text."""
        cause = error.__cause__ if isinstance(error.__cause__, psycopg.Error) else None
        code = (cause.sqlstate if cause is not None else None) or (error.code if isinstance(error, Refused) else "") or type(error).__name__
        entity = self._pipeline.entities[task.record.entity]
        binding = entity.bindings[self._system]
        if code == LOCKED:
            return Park(task, entity.name, value_wait(task.record.link), f"somebody else is holding its row: {error.whole}")  # I8
        if cause is not None and code == "23505":
            columns = self._constraint_columns(
                sql.UNIQUE_COLUMNS, cause, cause.diag.schema_name, cause.diag.constraint_name, binding=binding
            )
            matched = {column for name in entity.match_on for column in binding.columns.get(name, ())}
            if columns & matched:
                with suppress(MappingError, SchemaError):
                    match = wanted_match(entity, binding, self._local_values(task.record, there)) or str(cause.diag.constraint_name)
                    return Park(task, entity.name, value_wait(match), f"another row has {', '.join(entity.match_on)}: {error.whole}")
        if cause is not None and code == "23503":
            if not task.record.alive:
                mend = f"give {entity.name} a soft delete (delete: {{soft: …}}), or remove what refers to it"
                child = self._referring(entity.name, cause)
                if child is not None:  # its own end may be in a later batch
                    return Park(
                        task, entity.name, value_wait(task.record.link), f"a {child} of it is still there: {error.whole}; or {mend}"
                    )
                return Dead(task, f"{error.whole}; {mend}", code)
            name = (cause.diag.schema_name, cause.diag.table_name, cause.diag.constraint_name)
            columns = self._constraint_columns(sql.FOREIGN_KEY_COLUMNS, cause, *name, binding=binding)
            for field_name, referred in entity.refs.items():
                value = task.record.values.get(field_name)
                if value is not None and columns & set(binding.columns.get(field_name, ())):
                    return Park(task, referred, str(value), f"{field_name}: the row of {referred} {value} has gone here: {error.whole}")
        return Dead(task, error.whole, code)

    def _referring(self, referred: str, cause: psycopg.Error) -> str | None:
        """The entity whose rows are in the table that keeps a row of `referred` from being deleted."""
        table = f"{cause.diag.schema_name}.{cause.diag.table_name}"
        for name, entity in self._pipeline.entities.items():
            if referred in entity.refs.values() and name in self._tables and str(self._tables[name].binding.table) == table:
                return name
        return None

    def _constraint_columns(self, statement: str, cause: psycopg.Error, *names: str | None, binding: Binding) -> set[str]:
        """The columns that a constraint is about, as the flat row calls them."""
        (rows,) = self._round_trip([(statement, names)])
        table = f"{cause.diag.schema_name}.{cause.diag.table_name}"
        parts = [part for part in binding.parts if str(part.table) == table]
        mine = {column for (column,) in rows} if str(binding.table) == table else set()
        return mine | {part.flat(column) for part in parts for (column,) in rows}

    def _lock_progress(self, batch: Batch) -> list[Statement]:
        if not batch.progress:
            return []
        return [(sql.LOCK_PROGRESS, ([topic for topic, _ in batch.progress], [partition for _, partition in batch.progress]))]

    @staticmethod
    def _fence(batch: Batch, results: Sequence[list[tuple[Any, ...]]]) -> None:
        """I2: nobody has moved on in these partitions since we did. The lock holds until we commit."""
        if batch.progress:
            stored = {(topic, partition): offset for topic, partition, offset in results[0]}
            for place, (expected, _) in batch.progress.items():
                if stored.get(place) != expected:
                    raise Fenced(f"{place[0]}/{place[1]}: progress is at {stored.get(place)}, we had left it at {expected}")

    def _finish(self, batch: Batch, outcome: Outcome, booked: list[Statement], hlc: int) -> None:
        steps = list(booked)
        if not (booked or batch.unreadable or outcome.wrote):
            steps.append(("SET LOCAL synchronous_commit TO off", ()))  # only progress: lost in a crash, the batch is read again
        if batch.unreadable:
            latest = {(message.entity, message.link): message for message in batch.unreadable}
            steps.append(
                _dead_letters([(m.entity, m.link, m.topic, m.partition, m.offset, m.value, m.error, m.code) for m in latest.values()])
            )
            outcome.unreadable = batch.unreadable
        if batch.progress:
            places = batch.progress.items()
            steps.append(
                (sql.WRITE_PROGRESS, ([p[0] for p, _ in places], [p[1] for p, _ in places], [offset for _, (_, offset) in places]))
            )
        # I5: what we write comes back in the log under our origin, with the hlc up to which the system has now seen
        self._round_trip([*steps, (sql.XACT_ORIGIN, (str(Lsn(max(hlc, 1))),)), ("COMMIT", ())])

    def rollback(self) -> None:
        """Ends a transaction that may be open, on a connection that may be gone."""
        try:
            self._rollback()
        except ConcordError as error:
            logger.debug("rolling back: %s", error)

    def _rollback(self) -> None:
        self._alone("ROLLBACK")

    # 1: load

    def _load(
        self,
        run: _Run,
        tasks: list[Task],
        before: Sequence[Statement] = (),
        check: Callable[[list[list[tuple[Any, ...]]]], None] = lambda _: None,
        rows: bool = True,
    ) -> None:
        """What is there of these records' things, in one round trip; the records go to `run.todo`.

        `rows`: also of the customer's tables; without, only what we keep.
        """
        there = run.there
        things = list(dict.fromkeys(task.thing for task in tasks))
        of_things = ([entity for entity, _ in things], [link for _, link in things])
        names = list(dict.fromkeys(name for task in tasks for name in self._names_of(task.record)))
        of_names = ([name[0] for name in names], [name[1] for name in names], [name[2] for name in names])
        steps: list[Statement] = [
            *before,
            (sql.LOAD_PARKED, of_things),  # first: it is the lock that keeps two workers from applying one thing at once
            (sql.LOAD_LINKS, of_things),
            (sql.LOAD_OWN, (*of_things, self._system)),
            (sql.LOAD_DEAD, of_things),
            (sql.LOAD_NAMES, (*of_names, self._system)),
            (sql.ANY_PARKED, ()),
        ]
        reads = self._row_reads(tasks) if rows else []
        steps += [statement for _, _, statement in reads]
        searches = self._holder_searches(tasks, there) if rows else []
        steps += [statement for _, statement in searches]
        results = self._round_trip(steps)
        check(results[: len(before)])
        parked, links, own, dead, known, any_parked, *rest = results[len(before) :]
        for entity, link, applied, wrote, adjusted in links:
            there.links[entity, link] = _link_state(applied, wrote, adjusted)
        for entity, link, key, *marks in own:
            there.take_own((entity, link), key, *marks)
        for entity, system, key, link, own_key, *marks in known:
            there.names[entity, system, key] = link
            if own_key is not None:
                there.take_own((entity, link), own_key, *marks)
        run.dead_before.update({(entity, link): record for entity, link, record in dead})
        run.any_parked = run.any_parked or any_parked[0][0]
        self._take_rows(run, reads, rest[: len(reads)])
        for (name, _), found in zip(searches, rest[len(reads) :], strict=True):
            self._take_holders(there, name, found)
        if rows:
            self._lock(run, tasks)
        for task in tasks:
            there.enter_others(task.record)
            if self._system in task.record.targets:
                run.hlc = max(run.hlc, task.record.hlc)
        run.was_parked.update(dict.fromkeys(task.thing for task in tasks if task.woken))
        earlier = [task for task in self._parked_tasks(parked) if task.thing not in run.was_parked]
        if earlier:
            # a record of the same thing was parked before: it goes on only if it says something that the later one does not
            run.was_parked.update(dict.fromkeys(task.thing for task in earlier))
            tasks, ends = coalesced([*earlier, *tasks])
            run.ends += [end for end in ends if not end.task.woken]
            again = [task for task in tasks if task.woken]
            if again:
                run.todo += [task for task in tasks if not task.woken]
                self._load(run, again, rows=rows)
                run.todo = in_order(run.todo, self._pipeline)
                return
        run.todo = in_order([*run.todo, *tasks], self._pipeline)

    def _names_of(self, record: GoldenRecord) -> Iterable[Name]:
        """The rows that this record speaks of: its own in each system, and those it refers to."""
        for system, key in record.keys.items():
            yield record.entity, system, key
        if self._system in record.targets:
            for name, referred in self._pipeline.entities[record.entity].refs.items():
                value = record.values.get(name)
                if value is not None:
                    with suppress(SchemaError):  # not a row name: the plan says so
                        yield (referred, *parse_row_name(str(value)))

    def _row_reads(self, tasks: Sequence[Task]) -> list[_Read]:
        links: dict[str, list[str]] = {}
        keys: dict[str, list[str]] = {}
        for task in tasks:
            record = task.record
            if self._system in record.targets and record.entity in self._tables:
                links.setdefault(record.entity, []).append(record.link)
                keys.setdefault(record.entity, []).extend(self._keys_of(record))
        reads: list[_Read] = []
        for entity, of in links.items():
            table = self._tables[entity]
            if table.binding.parts:
                wanted: dict[str, tuple[list[str], list[str]]] = {}
                for task in tasks:
                    for part in self._children(task.record) if task.record.entity == entity else ():
                        wanted_links, wanted_keys = wanted.setdefault(part, ([], []))
                        wanted_links.append(task.record.link)
                        wanted_keys += self._keys_of(task.record)
                reads += [(entity, lock, text) for lock, text in table.locks(self._system, of, keys[entity], wanted)]
            reads.append((entity, None, table.rows_of(self._system, of, keys[entity])))
        return reads

    def _keys_of(self, record: GoldenRecord) -> list[str]:
        """The rows here that may be the record's thing, besides those that the crosswalk knows."""
        return [key for key in (record.keys.get(self._system), named_after(record.link, self._system)) if key is not None]

    def _children(self, record: GoldenRecord) -> set[str]:
        """Child parts that are to have a row, as far as the record tells."""
        shape = self._tables[record.entity].shape

        def needed(part: str) -> bool:
            return shape.is_filled(part, record.values, frozenset()) or any(needed(below.name) for below in shape.below[part])

        if not record.alive or self._system not in record.targets:
            return set()
        return {part.name for part in shape.parts if part.kind == "child" and part.made and needed(part.name)}

    def _take_rows(self, run: _Run, reads: Sequence[_Read], results: Sequence[list[tuple[Any, ...]]]) -> None:
        for (entity, lock, _), found in zip(reads, results, strict=True):
            table = self._tables[entity]
            if lock is not None:
                run.locked.held.update((entity, lock, tuple(key)) for key in found)
                continue
            for values in found:
                row = table.row(values)
                key = table.binding.key_of(row)
                run.there.rows[entity, key] = row
                run.locked.rows.add((entity, key))

    def _lock(self, run: _Run, tasks: Sequence[Task]) -> None:
        """Sees to it that all rows of things with parts are locked, and those that may become such things, and that they are as they were
        read after that.

        What `_row_reads` locked was chosen by one statement and read by a later one: mostly the same rows. Where somebody has put another
        child in front meanwhile, or taken one away, it is done again.
        """
        for entity, table in self._tables.items():
            mine = [task.record for task in tasks if task.record.entity == entity]
            if not table.binding.parts or not mine:
                continue
            children = {record.link: self._children(record) for record in mine}
            for _ in range(LOCKING):
                loose = self._loose(run, entity, children)
                if not loose:
                    break
                wanted: dict[str, tuple[list[str], list[str]]] = {}
                for key, parts in loose.items():
                    run.there.rows.pop((entity, key))
                    for part in parts:
                        wanted.setdefault(part, ([], []))[1].append(key)
                reads: list[_Read] = [(entity, lock, text) for lock, text in table.locks(self._system, [], list(loose), wanted)]
                reads.append((entity, None, table.rows_of(self._system, [], list(loose))))
                self._take_rows(run, reads, self._round_trip([statement for _, _, statement in reads]))
            else:
                raise Retriable(f"writing to {self._system}: parts of {entity} {next(iter(loose))} go on changing hands")

    def _loose(self, run: _Run, entity: str, children: Mapping[str, set[str]]) -> dict[str, set[str]]:
        """Keys of rows that are these things', or nobody's, and not locked with all that belongs to them; with the children that they are
        to have."""
        loose = {}
        anybodys = set[str]().union(*children.values())
        for of, key in run.there.rows:
            link = run.there.names.get((entity, self._system, key)) if of == entity else ""
            if of == entity and (link is None or link in children):
                wanted = anybodys if link is None else children[link]
                if (entity, key) not in run.locked.rows or not self._is_locked(run, entity, key, wanted):
                    loose[key] = wanted
        return loose

    def _is_locked(self, run: _Run, entity: str, key: str, wanted: set[str]) -> bool:
        table, held = self._tables[entity], run.locked.held
        row = run.there.rows[entity, key]
        for part in table.shape.parts:
            above = table.binding.part.get(part.of)
            if is_there(part, row):
                if table.is_locked(part) and (entity, Lock(part.name), part_key(part, row)) not in held:
                    return False
            elif part.name in wanted and (above is None or is_there(above, row)):
                at = tuple(str(row[column]) for column in table.binding.key_columns) if above is None else part_key(above, row)
                if (entity, Lock(part.of, part.name), at) not in held:
                    return False
        return True

    def _holder_searches(self, tasks: Sequence[Task], there: There) -> list[tuple[str, Statement]]:
        """Rows that have their match columns just as we would write them: what an ordinary index finds."""
        wanted: dict[str, dict[tuple[str, ...], None]] = {}
        for task, match, texts in self._wanted(tasks, there):
            name = task.record.entity
            if (name, match) not in there.holders:
                there.holders[name, match] = []
                given = tuple(text for text in texts.values() if text is not None)
                if len(given) == len(texts) and self._comparable[name]:
                    wanted.setdefault(name, {})[given] = None
        searches = []
        for name, values in wanted.items():
            table = self._tables[name]
            columns = match_columns(table.binding, self._pipeline.entities[name].match_on)
            assert columns is not None
            searches.append((name, table.holders(self._system, columns, list(values))))
        return searches

    def _wanted(self, tasks: Sequence[Task], there: There) -> Iterator[tuple[Task, str, dict[str, str | None]]]:
        """The records for which it matters who holds their match value, that value, and the columns' texts."""
        for task in tasks:
            record = task.record
            entity = self._pipeline.entities[record.entity]
            if record.entity in self._tables and wants_holders(record, entity, self._system):
                with suppress(MappingError, SchemaError):  # the plan meets it again and says so
                    binding = self._tables[record.entity].binding
                    values = self._local_values(record, there)
                    match = wanted_match(entity, binding, values)
                    if match is not None:
                        texts = match_texts(binding, entity.match_on, values)
                        if not any(text is not None and "\x00" in text for text in texts.values()):
                            yield task, match, texts

    def _local_values(self, record: GoldenRecord, there: There) -> dict[str, Canonical]:
        """The values of the match fields, references by this system's own keys. Raises SchemaError."""
        entity = self._pipeline.entities[record.entity]
        values = {name: record.values.get(name) for name in entity.match_on}
        for name, value in values.items():
            if name in entity.refs and value is not None:
                values[name] = there.resolve(entity.refs[name], str(value))
        return values

    def _take_holders(self, there: There, name: str, found: Iterable[Sequence[Any]]) -> None:
        """Files rows under the match value that they are read as, those that anybody has asked for."""
        table, entity = self._tables[name], self._pipeline.entities[name]
        for link, *texts in found:
            row = table.row(texts)
            match = held_match(entity, table.binding, row)
            holders = None if match is None else there.holders.get((name, match))
            if holders is None:
                continue
            key = table.binding.key_of(row)
            there.rows.setdefault((name, key), row)
            if key not in holders:
                holders.append(key)
            if link is not None:
                there.names[name, self._system, key] = link

    def _parked_tasks(self, rows: Iterable[Sequence[Any]]) -> list[Task]:
        tasks = []
        for entity, link, topic, partition, offset, raw in rows:
            try:
                record = self._decode(entity, bytes(raw))
            except SchemaError as error:  # was readable when it was parked
                logger.warning(
                    "%s/%s@%s/%s was parked and cannot be read any more (%s)", topic, link, partition, offset, type(error).__name__
                )
                continue
            if entity in self._pipeline.entities:
                lost = self._anew and record.targets == (self._system,) and record.seen.get(self._system) is None
                tasks.append(Task(record, topic, partition, offset, bytes(raw), woken=True, anew=lost))
        return tasks

    # 2 to 5: plan and write, wave by wave

    def _waves(self, run: _Run, wake: bool) -> None:
        there, last = run.there, False
        while run.todo:
            self._look_for_holders(run)
            wave = self._planner.plan_wave(run.todo, there, last)
            if wave.writes:
                self._write(wave.writes, run)
            for write in wave.writes:
                run.wrote[write.task] = None
                run.changed[write.task.thing] = None
                if write.then is not None:
                    run.parks[write.task.thing] = write.then
            for end in wave.ends:
                run.ends.append(end)
                if end.state is not None and there.links.get(end.task.thing) != end.state:
                    there.links[end.task.thing] = end.state
                    run.changed[end.task.thing] = None
            run.parks.update({park.task.thing: park for park in wave.parks})
            run.deads.update({dead.task.thing: dead for dead in wave.deads})
            again = [write.task for write in wave.writes if write.again]
            run.todo = [wait.task for wait in wave.waits] + again
            self._lock(run, again)  # what they have come to point at
            last = bool(run.todo) and len(wave.waits) == len(run.todo) and not (wave.writes or wave.ends or wave.parks or wave.deads)
            if wake and (run.any_parked or run.parks):
                self._wake(run)
                last = last and all(not task.woken for task in run.todo)
            run.todo = in_order(run.todo, self._pipeline)

    def _look_for_holders(self, run: _Run) -> None:
        """Rows that hold a match value and were not found while loading: it has a reference in it, known only once that was resolved; or
        the value has to be cleaned, and their text is not what we would write."""
        there = run.there
        tasks = [task for task in run.todo if self._pipeline.entities[task.record.entity].refs.keys() & self._matched(task.record.entity)]
        searches = self._holder_searches(tasks, there) if tasks else []
        for (name, _), found in zip(searches, self._round_trip([statement for _, statement in searches]), strict=True):
            self._take_holders(there, name, found)
        cleaned = [task for task in run.todo if task.record.entity in self._cleaned]
        wanted: dict[str, list[Mapping[str, str | None]]] = {}
        for task, match, texts in self._wanted(cleaned, there):
            place = (task.record.entity, match)
            if place not in there.searched and not self._settled(task, match, there):
                there.searched.add(place)
                there.holders.setdefault(place, [])
                wanted.setdefault(task.record.entity, []).append(texts)
        steps = [self._tables[name].alike(self._system, self._pipeline.entities[name].match_on, values) for name, values in wanted.items()]
        for name, found in zip(wanted, self._round_trip(steps, prepare=False), strict=True):
            self._take_holders(there, name, found)
        if searches or wanted:
            self._lock(run, run.todo)

    def _settled(self, task: Task, match: str, there: There) -> bool:
        """Whether the rows that are known say enough: the thing's own holds the value already, or one that it can become does."""
        name, link = task.thing
        entity, binding = self._pipeline.entities[name], self._tables[name].binding
        own, known = there.own.get(task.thing, {}), task.record.keys.get(self._system)
        keys = own if known is None or there.names.get((name, self._system, known), link) != link else [*own, known]
        mine = [row for key in keys if (row := there.rows.get((name, key))) is not None]
        if mine:
            return any(held_match(entity, binding, row) == match for row in mine)
        if own and known is None:
            return True  # it had a row, which has gone: nothing is born
        return any(
            there.names.get((name, self._system, key), link) == link
            and (row := there.rows.get((name, key))) is not None
            and binding.in_scope(row)
            for key in there.holders.get((name, match), [])
        )

    def _matched(self, entity: str) -> frozenset[str]:
        return frozenset(self._pipeline.entities[entity].match_on)

    def _names_to_wake(self, run: _Run) -> list[tuple[str, str]]:
        """Row names, new in this run, of things that this system has a row of."""
        there = run.there
        names: dict[tuple[str, str], None] = {}
        for (entity, system, key), (link, _) in there.register.items():
            if there.live_key((entity, link)) is not None:
                if system == self._system:
                    for other in [name for name, of in there.names.items() if of == link and name[0] == entity]:
                        names[entity, row_name(other[1], other[2])] = None
                names[entity, row_name(system, key)] = None
        return [name for name in names if name not in run.woken]

    def _wake(self, run: _Run) -> None:
        """Children that waited for what has just come, oldest first; those of this very batch too."""
        names = self._names_to_wake(run)
        if not names:
            return
        run.woken.update(names)
        for thing, park in list(run.parks.items()):
            if (park.entity, park.waits_for) in run.woken:
                del run.parks[thing]
                run.todo.append(park.task)
        if not run.any_parked:
            return
        (rows,) = self._round_trip([(sql.WAITING_FOR, ([entity for entity, _ in names], [name for _, name in names]))])
        busy = {task.thing for task in run.todo} | run.was_parked.keys() | {task.thing for task in run.wrote}
        children = [task for task in self._parked_tasks(rows) if task.thing not in busy]
        if children:
            self._load(run, children)

    def _write(self, writes: Sequence[Write], run: _Run) -> None:
        """One statement per table, kind and set of columns, all of a step in one round trip; parents first, deletes last and children
        first. Things with parts are read again, as they are now."""
        rows = [(write, row) for write in writes for row in write.rows]
        last = max(row.step for _, row in rows)
        back: dict[Write, Row | None] = {}
        for step in range(last + 1):
            groups = self._groups([(write, row) for write, row in rows if row.step == step])
            statements = [self._statement(name, group) for name, group in groups]
            known = step == last and not any(row.op is Op.INSERT and row.part == ROOT and row.step == last for _, row in rows)
            again = self._read_again(writes, run.there) if known else []
            results = self._round_trip([*statements, *(statement for _, statement in again)])
            for (name, group), found in zip(groups, results, strict=False):
                back.update(self._wrote(name, group, found))
            self._take_again(run, again, results[len(statements) :])
        if not known:
            again = self._read_again(writes, run.there)
            self._take_again(run, again, self._round_trip([statement for _, statement in again]))
        for write in writes:
            table = self._tables[write.task.record.entity]
            if table.binding.parts and write.op is not Op.DELETE:
                back[write] = run.there.rows.get((write.task.record.entity, self._key_after(write)))
                if back[write] is None:
                    raise Refused(f"{write.op.value} of {table.binding.table} for {write.task} left no row", NO_ROW)
            self._planner.learn(write, back[write], run.there)

    def _groups(self, rows: Iterable[tuple[Write, RowWrite]]) -> list[tuple[_Group, list[tuple[Write, RowWrite]]]]:
        groups: dict[_Group, list[tuple[Write, RowWrite]]] = {}
        for write, row in rows:
            row.point()
            group = _Group(write.task.record.entity, row.part, row.op, row.above, tuple(row.columns))
            groups.setdefault(group, []).append((write, row))
        depth = {name: number for number, name in enumerate(self._pipeline.entities)}

        def place(item: tuple[_Group, object]) -> tuple[bool, int, int]:
            group = item[0]
            order = depth[group.entity], self._tables[group.entity].shape.place[group.part]
            return (True, -order[0], -order[1]) if group.op in (Op.DELETE, Op.CLEAR) else (False, *order)

        return sorted(groups.items(), key=place)

    def _statement(self, group: _Group, rows: Sequence[tuple[Write, RowWrite]]) -> Statement:
        table = self._tables[group.entity]
        writing, keys, columns = table.writing[group.part], [row.key for _, row in rows], [row.columns for _, row in rows]
        match group.op:
            case Op.INSERT:
                return writing.insert(group.columns, columns)
            case Op.UPDATE:
                return writing.update(group.columns, keys, columns)
            case Op.DELETE:
                return writing.delete(keys)
            case Op.CLEAR:
                return table.clear(group.part, group.above, keys)

    def _wrote(self, group: _Group, rows: Sequence[tuple[Write, RowWrite]], found: Sequence[Sequence[Any]]) -> dict[Write, Row | None]:
        """What came back of things without parts; the others' rows learn their keys. Raises Refused if a write hit no row."""
        if group.op is Op.CLEAR:
            return {}
        table = self._tables[group.entity]
        numbered = enumerate(found, 1) if group.op is Op.INSERT else ((values[0], values[1:]) for values in found)
        back = dict(numbered)
        if len(back) != len(rows):
            missed = next((write for number, (write, _) in enumerate(rows, 1) if number not in back), rows[0][0])
            raise Refused(
                f"{group.op.value} of {table.writing[group.part].table} for {missed.task} hit no row: a trigger or row-level security kept "
                "it from happening; see the system's session settings",
                NO_ROW,
            )
        told: dict[Write, Row | None] = {}
        for number, (write, row) in enumerate(rows, 1):
            if group.op is Op.DELETE:
                told[write] = None
            elif table.binding.parts:
                row.key = tuple(back[number])
            else:
                told[write] = table.row(back[number])
        return told

    def _read_again(self, writes: Sequence[Write], there: There) -> list[tuple[str, Statement]]:
        """Things with parts that were written, and those that have a row of them too: as they are now."""
        keys: dict[str, dict[str, tuple[str, ...]]] = {}
        shared: dict[str, set[tuple[str, tuple[str, ...]]]] = {}
        for write in writes:
            entity = write.task.record.entity
            table = self._tables[entity]
            if table.binding.parts and write.op is not Op.DELETE:
                key = self._key_after(write)
                keys.setdefault(entity, {})[key] = root_key(table.binding, key)
                before = None if write.key is None else there.rows.get((entity, write.key))
                if before is not None:
                    shared.setdefault(entity, set()).update(table.shape.shared_rows(write.rows, before))
        for (entity, key), row in there.rows.items():
            if shared.get(entity) and shared[entity] & self._tables[entity].shape.all_shared(row):
                keys[entity].setdefault(key, root_key(self._tables[entity].binding, key))
        return [(entity, self._tables[entity].read_again(list(of.values()))) for entity, of in keys.items()]

    def _take_again(self, run: _Run, again: Sequence[tuple[str, Statement]], results: Sequence[list[tuple[Any, ...]]]) -> None:
        for (entity, _), found in zip(again, results, strict=True):
            table = self._tables[entity]
            for values in found:
                row = table.row(values)
                run.there.rows[entity, table.binding.key_of(row)] = row

    def _key_after(self, write: Write) -> str:
        """The root's key, as it is once it was written."""
        binding = self._tables[write.task.record.entity].binding
        root = next((row for row in write.rows if row.part == ROOT), None)
        if root is None:
            assert write.key is not None
            return write.key
        texts = dict(zip(binding.key_columns, root.key, strict=True))
        return binding.key_of({column: root.columns.get(column) or text for column, text in texts.items()})

    # 6: what we keep

    def _book(self, run: _Run) -> list[Statement]:
        """Links, crosswalk, parked, dead letters; empty if nothing is new."""
        there, steps = run.there, list[Statement]()
        if run.changed:
            things = sorted(run.changed)
            states = [there.links[thing] for thing in things]
            texts = [_link_texts(state) for state in states]
            steps.append(
                (
                    sql.WRITE_LINKS,
                    (
                        [e for e, _ in things],
                        [link for _, link in things],
                        [t[0] for t in texts],
                        [t[1] for t in texts],
                        [t[2] for t in texts],
                    ),
                )
            )
        if there.register:
            steps += self._crosswalk(there)
            steps += self._asks_for_vanished(there)
        unparked = [thing for thing in run.was_parked if thing not in run.parks]
        if unparked:
            steps.append((sql.DELETE_PARKED, ([entity for entity, _ in unparked], [link for _, link in unparked])))
        if run.parks:
            steps.append(_parked(list(run.parks.values())))
        mended = self._mended(run)
        if mended:
            steps.append((sql.DELETE_DEAD, ([entity for entity, _ in mended], [link for _, link in mended])))
        if run.deads:
            steps.append(
                _dead_letters(
                    [
                        (*thing, dead.task.topic, dead.task.partition, dead.task.offset, dead.task.raw, dead.error, dead.code)
                        for thing, dead in run.deads.items()
                    ]
                )
            )
        return steps

    def _asks_for_vanished(self, there: There) -> Iterator[Statement]:
        """For rows of this system that we hear of here for the first time, without having seen them."""
        keys: dict[str, list[str]] = {}
        for (entity, system, key), (_, gone) in there.register.items():
            if system == self._system and not gone and entity in self._tables and (entity, key) not in there.rows:
                keys.setdefault(entity, []).append(key)
        slot = self._pipeline.config.systems[self._system].slot
        for entity in sorted(keys):
            table = self._tables[entity]
            yield table.ask_for_vanished(slot, [root_key(table.binding, key) for key in sorted(keys[entity])])

    def _crosswalk(self, there: There) -> list[Statement]:
        """What is new in it. What is not live comes first: of a thing there is one live row at any moment."""
        adopted, written = list[tuple[Name, str]](), list[tuple[bool, Name, str, bool]]()
        for name, (link, gone) in there.register.items():
            live = name in there.live
            if live and name not in there.born:
                adopted.append((name, link))
            else:
                written.append((live, name, link, gone))
        written.sort()
        adopted.sort()
        steps: list[Statement] = []
        if written:
            names = _columns(name for _, name, _, _ in written)
            flags = [gone for _, _, _, gone in written], [live for live, _, _, _ in written]
            steps.append((sql.WRITE_KEYS, (*names, [link for _, _, link, _ in written], *flags)))
        if adopted:
            steps.append((sql.ADOPT_KEYS, (*_columns(name for name, _ in adopted), [link for _, link in adopted])))
        return steps

    def _mended(self, run: _Run) -> list[Thing]:
        """Things whose dead letter has been superseded by a record that went through."""
        through = {end.task.thing: end.task.record for end in run.ends if end.end is not State.OUT_OF_SCOPE}
        through.update({task.thing: task.record for task in run.wrote})
        mended = []
        for thing, raw in run.dead_before.items():
            if thing in run.deads or thing in run.parks or thing not in through:
                continue
            try:
                dead = None if raw is None else self._decode(thing[0], bytes(raw))
            except (SchemaError, Retriable):
                dead = None  # garbage, filed under the thing's name
            if dead is None or supersedes(through[thing], dead):
                mended.append(thing)
        return mended

    # the line

    def _alone(self, command: LiteralString) -> None:
        """Sends one command outside of a pipeline: at a rollback psycopg drops what it has prepared, and within a pipeline it would do so
        too late, together with what came after."""
        try:
            self._conn.execute(command, prepare=False)
        except psycopg.Error as error:
            if self._conn.closed or self._conn.broken:
                raise Retriable(f"writing to {self._system}: the connection is gone: {error}") from error
            raise concord_error(error, f"writing to {self._system}") from error

    def _round_trip(self, steps: Sequence[Statement], prepare: bool = True) -> list[list[tuple[Any, ...]]]:
        """Sends all statements at once, then reads all answers. Raises our errors; after one, nothing behind it was done."""
        if not steps:
            return []
        first: psycopg.Error | None = None
        cursors: list[psycopg.Cursor[tuple[Any, ...]]] = []
        try:
            with self._conn.pipeline():
                try:
                    for text, params in steps:
                        prepared = prepare and (bool(params) or text is sql.ANY_PARKED)
                        cursors.append(self._conn.execute(text, literals(params), prepare=prepared))
                except psycopg.Error as error:
                    first = error  # what comes out of the pipeline's end is only that it was cut short
            return [cursor.fetchall() if cursor.description else [] for cursor in cursors]
        except psycopg.Error as error:
            cause = first or error
            if self._conn.closed or self._conn.broken:
                raise Retriable(f"writing to {self._system}: the connection is gone: {cause}") from cause
            raise concord_error(cause, f"writing to {self._system}") from cause


def _columns(names: Iterable[Name]) -> tuple[list[str], list[str], list[str]]:
    """Entities, systems and keys."""
    entities, systems, keys = zip(*names, strict=True)
    return list(entities), list(systems), list(keys)


def _is_outrun(error: ConcordError) -> bool:
    """Whether the crosswalk says otherwise by now: intake has given a row another link, or the thing another row."""
    cause = error.__cause__
    return isinstance(cause, psycopg.Error) and (cause.diag.schema_name, cause.diag.table_name) == ("concord", "key")


def _is_locked(error: ConcordError) -> bool:
    return isinstance(error.__cause__, psycopg.Error) and error.__cause__.sqlstate == LOCKED


def _link_state(applied: str, wrote: str, adjusted: str) -> LinkState:
    versions = {name: Version(*version) for name, version in orjson.loads(applied).items()}
    return LinkState(versions, orjson.loads(wrote), orjson.loads(adjusted))


def _link_texts(state: LinkState) -> tuple[str, str, str]:
    applied = {name: tuple(version) for name, version in state.applied.items()}
    return orjson.dumps(applied).decode(), orjson.dumps(state.wrote).decode(), orjson.dumps(state.adjusted).decode()


def _parked(parks: Sequence[Park]) -> Statement:
    tasks = [park.task for park in parks]
    return sql.WRITE_PARKED, (
        [task.record.entity for task in tasks],
        [task.record.link for task in tasks],
        [park.entity for park in parks],
        [park.waits_for for park in parks],
        [task.topic for task in tasks],
        [task.partition for task in tasks],
        [task.offset for task in tasks],
        [task.raw for task in tasks],
        [_without_nul(park.reason) for park in parks],
    )


def _dead_letters(letters: Sequence[tuple[str, str, str, int, int, bytes | None, str, str]]) -> Statement:
    columns = [list(column) for column in zip(*letters, strict=True)]
    columns[6] = [_without_nul(error) for error in columns[6]]
    return sql.WRITE_DEAD, tuple(columns)


def _without_nul(text: Any) -> str:
    return str(text).replace("\x00", "�").encode("utf-8", "replace").decode()
