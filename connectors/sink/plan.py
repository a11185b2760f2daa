"""Golden records → what to write: decides everything, does no I/O.

A batch is planned in waves. `plan_wave` looks at the records and at what is `There` in the database, and says for each what to do: write
(insert, update, delete), end (nothing to write), park, dead-letter, or wait for the next wave, when it needs what another record of this
wave is about to bring: its parent's key, a match value that is being let go. What a write brought back goes in with `learn`. The rules are
those of the protocol's model, named where they are kept: applied, guard, adopt, crosswalk.

All rows are texts, as PostgreSQL prints them; all comparisons are of canonical values, in this system's own representation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from connectors.sink.part_rows import Op, Rows, RowWrite, database_fills, is_there
from schemas.change import Canonical, parse_row_name, row_name
from schemas.errors import MappingError, SchemaError
from schemas.golden import NEVER, GoldenRecord, Version
from schemas.mapping import ROOT, Binding, Entity, Pipeline
from schemas.metrics import State

EXISTS = ""  # where the version of `exists` stands among the versions applied: no field has this name

Thing = tuple[str, str]  # (entity, link)
Name = tuple[str, str, str]  # (entity, system, key): a row of some system
Row = Mapping[str, str | None]  # column -> text


@dataclass(slots=True)
class LinkState:
    """What the sink knows of a thing from its own writes: `concord.link`."""

    applied: dict[str, Version] = field(default_factory=dict)
    wrote: dict[str, Canonical] = field(default_factory=dict)
    adjusted: dict[str, list[Canonical]] = field(default_factory=dict)  # field -> [written, came back]

    def copy(self) -> LinkState:
        return LinkState(dict(self.applied), dict(self.wrote), dict(self.adjusted))

    def version(self, name: str) -> Version:
        return self.applied.get(name, NEVER)


@dataclass(slots=True, eq=False)
class Task:
    """One golden record to apply, and where it was read."""

    record: GoldenRecord
    topic: str
    partition: int
    offset: int
    raw: bytes
    woken: bool = False  # came out of `concord.parked`, not out of this batch
    anew: bool = False  # a lost target is written again (`rebuild`): whatever it holds now, and under the keys that its rows had

    @property
    def thing(self) -> Thing:
        return self.record.entity, self.record.link

    def __str__(self) -> str:
        return f"{self.topic}/{self.record.link}@{self.partition}/{self.offset}"


@dataclass(slots=True, eq=False)
class Write:
    """One entity to write. `state` is what holds once it went through, but for what comes back (`learn`)."""

    task: Task
    op: Op
    key: str | None  # None: an insert, the database makes it
    columns: dict[str, str | None]  # of the flat row
    values: dict[str, Canonical]  # the fields among them, as they should come back
    state: LinkState
    rows: list[RowWrite]  # what it comes to in the tables
    again: bool = False  # a field had to be left out and is written in the next wave
    made: frozenset[str] = frozenset()  # fields that an insert expression gives their value
    then: Park | None = None  # a field had to be left out and waits


@dataclass(slots=True, eq=False)
class End:
    """Nothing to write."""

    task: Task
    end: State
    reason: str = ""
    state: LinkState | None = None  # to keep, if it changed


@dataclass(slots=True, eq=False)
class Park:
    """To wait for another thing."""

    task: Task
    entity: str  # of the thing waited for
    waits_for: str  # a row name, or `value_wait(…)`
    reason: str


@dataclass(slots=True, eq=False)
class Dead:
    """Cannot be applied as it is."""

    task: Task
    error: str
    code: str


@dataclass(slots=True, eq=False)
class Wait:
    """For the next wave of this batch; `instead` is what becomes of it when no further wave can help."""

    task: Task
    instead: Park


Decision = Write | End | Park | Dead | Wait


def value_wait(value: str) -> str:
    """What a record waits for while another thing's row holds its match value. Row names never begin so."""
    return "=" + value


def key_order(key: str) -> tuple[int, str]:
    """The lowest key first, numbers as numbers."""
    return len(key), key


class There:
    """What is in the database of what a batch needs: loaded once, kept up to date with what the batch writes."""

    def __init__(self, system: str) -> None:
        self.system = system
        self.links: dict[Thing, LinkState] = {}
        self.own: dict[Thing, dict[str, bool]] = {}  # this system's keys of a thing -> gone
        self.names: dict[Name, str] = {}  # row -> link, for every system's rows that somebody asked about
        self.rows: dict[tuple[str, str], Row] = {}  # (entity, key) -> row. What was asked for and is not here is not there
        self.holders: dict[tuple[str, str], list[str]] = {}  # (entity, match value) -> keys of rows that held it when they were loaded
        self.searched: set[tuple[str, str]] = set()  # those for which rows were looked for whose text is another
        self.known: set[Name] = set()  # entries of this system that the crosswalk had, whatever they say
        self.register: dict[Name, tuple[str, bool]] = {}  # crosswalk entries to write: (link, gone)
        self.born: set[Name] = set()  # of those, rows that this batch inserts
        self.live: set[Name] = set()  # of this system, the one row that is the thing, if it has one
        self.unheard: set[Name] = set()  # entries of intake's that no golden record has told us yet

    def take_own(self, thing: Thing, key: str, gone: bool, live: bool, heard: bool) -> None:
        """Takes in an entry of this system that is in the crosswalk."""
        name = thing[0], self.system, key
        self.known.add(name)
        if name in self.register:
            return  # it is being written
        self.own.setdefault(thing, {})[key] = gone
        self.names[name] = thing[1]
        if live:
            self.live.add(name)
        if not heard:
            self.unheard.add(name)

    def enter(self, name: Name, link: str, gone: bool = False, live: bool | None = None) -> str:
        """Notes a crosswalk entry, to be written if it says anything new. What is there stands: returns whose row it is.

        `live`: it is the thing's row here; told apart from `gone`, since nobody may have heard yet that a row has gone.
        """
        entity, system, key = name
        held_by = self.names.setdefault(name, link)
        if held_by == link and system == self.system:
            own = self.own.setdefault((entity, link), {})
            live = not gone if live is None else live
            if own.get(key) is not gone or name in self.unheard or (name in self.live) is not live:
                own[key] = gone
                self.unheard.discard(name)
                self.register[name] = (link, gone)
            if live:
                self._stands((entity, link), key)
            else:
                self.live.discard(name)
        return held_by

    def _stands(self, thing: Thing, key: str) -> None:
        """The thing's row here is this one, and no other."""
        entity, link = thing
        for other, gone in self.own[thing].items():
            name = entity, self.system, other
            if other != key and name in self.live:
                self.live.discard(name)
                self.register[name] = (link, gone)
        self.live.add((entity, self.system, key))

    def enter_seen(self, record: GoldenRecord) -> None:
        """Notes which row this system has of a thing that nothing is written to: only what merge saw is known of it."""
        key, gone = record.keys.get(self.system), record.seen.get(self.system) is None
        own, name = self.own.get((record.entity, record.link), {}), (record.entity, self.system, key or "")
        if key is not None and (gone or key not in own or name in self.unheard):
            self.enter(name, record.link, gone)

    def made(self, thing: Thing, key: str, born: bool) -> None:
        """Notes the row that a write has just left: whoever had this key before is gone."""
        entity, link = thing
        name = entity, self.system, key
        self.names[name] = link
        self.own.setdefault(thing, {})[key] = False
        self.register[name] = (link, False)
        self._stands(thing, key)
        if born:
            self.born.add(name)

    def enter_others(self, record: GoldenRecord) -> None:
        """Notes which rows the other systems have of a thing."""
        for system, key in record.keys.items():
            if system != self.system and (record.entity, system, key) not in self.names:
                self.names[record.entity, system, key] = record.link
                self.register[record.entity, system, key] = (record.link, False)

    def live_key(self, thing: Thing, preferred: str | None = None) -> str | None:
        """The row of this system that is this thing, by the crosswalk alone."""
        keys = [key for key, gone in self.own.get(thing, {}).items() if not gone]
        keys.sort(key=lambda key: (thing[0], self.system, key) not in self.live)
        return preferred if preferred in keys else (keys[0] if keys else None)

    def resolve(self, entity: str, name: str) -> str | None:
        """The row name in this system of what `name` names in any. None: nothing here is that thing (yet).

        A row of this system that nobody has linked stands for itself: a foreign key pointed at it.
        """
        system, key = parse_row_name(name)
        link = self.names.get((entity, system, key))
        if link is None:
            return name if system == self.system else None
        found = self.live_key((entity, link), key if system == self.system else None)
        return None if found is None else row_name(self.system, found)


@dataclass(slots=True)
class Wave:
    """What one look at the records came to."""

    writes: list[Write] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    parks: list[Park] = field(default_factory=list)
    deads: list[Dead] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)

    def add(self, decision: Decision) -> None:
        match decision:
            case Write():
                self.writes.append(decision)
            case End():
                self.ends.append(decision)
            case Park():
                self.parks.append(decision)
            case Dead():
                self.deads.append(decision)
            case Wait():
                self.waits.append(decision)


def supersedes(later: GoldenRecord, earlier: GoldenRecord) -> bool:
    """Whether nothing in `earlier` is newer than it is in `later`."""
    return earlier.exists <= later.exists and all(
        name in later.versions and version <= later.versions[name] for name, version in earlier.versions.items()
    )


def _says_it_all(later: GoldenRecord, earlier: GoldenRecord) -> bool:
    """A repair knows what this system was seen to hold, which no other record of the thing does."""
    return earlier.mend in (None, later.mend) and supersedes(later, earlier)


def coalesced(tasks: Iterable[Task]) -> tuple[list[Task], list[End]]:
    """The records of one thing as few as they can be, in order: a golden record is the whole state, so the newest says it all."""
    kept: dict[Thing, list[Task]] = {}
    ends: list[End] = []
    for task in tasks:
        mine = kept.setdefault(task.thing, [])
        if mine and _says_it_all(task.record, mine[-1].record):
            ends.append(End(mine.pop(), State.SUPERSEDED, "a newer record of the thing is there"))
        elif mine and _says_it_all(mine[-1].record, task.record):
            ends.append(End(task, State.SUPERSEDED, "a newer record of the thing is there"))
            continue
        mine.append(task)
    return [task for mine in kept.values() for task in mine], ends


def in_order(tasks: Sequence[Task], pipeline: Pipeline) -> list[Task]:
    """Parents before children, what is to be deleted last and children first; else as they came."""
    depth = {name: number for number, name in enumerate(pipeline.entities)}

    def place(task: Task) -> tuple[bool, int]:
        alive, number = task.record.alive, depth[task.record.entity]
        return not alive, number if alive else -number

    return sorted(tasks, key=place)


def match_columns(binding: Binding, match_on: Sequence[str]) -> tuple[str, ...] | None:
    """The columns that things are matched on in a system; None if it does not have them all."""
    if not match_on or any(name not in binding.columns or name not in binding.writable for name in match_on):
        return None
    return tuple(
        column
        for name in match_on
        for column in (binding.columns[name] if binding.sides[name].read is None else binding.columns[name][:1])  # all of a joined text
    )


def wanted_match(entity: Entity, binding: Binding, values: Mapping[str, Canonical]) -> str | None:
    """What a row of a thing with these values is recognised by here: of the values as this system would hold them. None: by nothing.
    References must be this system's."""
    if match_columns(binding, entity.match_on) is None:
        return None
    return entity.match_value({name: binding.represent(name, values.get(name)) for name in entity.match_on})


def held_match(entity: Entity, binding: Binding, row: Row) -> str | None:
    """The same of a row that is there: rows are compared by what they are read as, never by their text."""
    columns = match_columns(binding, entity.match_on)
    try:
        return None if columns is None else entity.match_value(binding.to_canonical({name: row[name] for name in columns if name in row}))
    except MappingError:
        return None


def match_texts(binding: Binding, match_on: Sequence[str], values: Mapping[str, Canonical]) -> dict[str, str | None]:
    """What these columns would be written as, to look for rows that have it. References must be this system's. Raises MappingError."""
    columns = match_columns(binding, match_on) or ()
    texts = binding.to_columns({name: values.get(name) for name in match_on})
    return {column: texts.get(column) for column in columns}


def wants_holders(record: GoldenRecord, entity: Entity, system: str) -> bool:
    """Whether it matters which rows hold this record's match value: it may be inserted, or the value changes."""
    if system not in record.targets or not record.alive:
        return False
    seen = record.seen.get(system)
    return seen is None or any(seen.get(name) != record.values.get(name) for name in entity.match_on)


def unfit_text(columns: Mapping[str, str | None]) -> str | None:
    """Which column's text PostgreSQL cannot take, and why."""
    for name, text in columns.items():
        if text is None:
            continue
        if "\x00" in text:
            return f"column {name}: text with a NUL, which PostgreSQL cannot hold"
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                return f"column {name}: text with a lone surrogate, which is no Unicode"
    return None


def named_after(link: str, system: str) -> str | None:
    """The key of the row that a thing is named after, if that is a row of `system`."""
    try:
        of, key = parse_row_name(link)
    except SchemaError:
        return None
    return key if of == system else None


def root_key(binding: Binding, key: str) -> tuple[str, ...]:
    """The key columns' texts."""
    values = binding.key_values(key)
    return tuple(values[column] for column in binding.key_columns)


class _NoValue:
    """A held value that the mapping cannot read: equal to nothing."""


def held_values(binding: Binding, row: Row) -> dict[str, Canonical | _NoValue]:
    """The row's fields. One that the mapping cannot read does not hide the others."""
    try:
        return dict(binding.to_canonical(row))
    except MappingError:
        held: dict[str, Canonical | _NoValue] = {}
        for name, columns in binding.columns.items():
            try:
                held.update(binding.to_canonical({column: row[column] for column in columns if column in row}))
            except MappingError:
                held[name] = _NoValue()
        return held


class Planner:
    """Plans for one system."""

    def __init__(self, pipeline: Pipeline, system: str) -> None:
        self.pipeline = pipeline
        self.system = system
        self.shapes = {name: Rows(entity.bindings[system]) for name, entity in pipeline.entities.items() if system in entity.bindings}

    def plan_wave(self, tasks: Sequence[Task], there: There, last: bool = False) -> Wave:
        """One decision per task.

        `last`: the wave before was nothing but waiting. If leaving out a reference that may be null gets one record on, that is all this
        wave does; else nobody waits any longer.
        """
        wave = Wave()
        look = _Look(self, there, wave, tasks, last)
        if not last:
            for task in tasks:
                wave.add(look.decide(task))
            return wave
        decisions = [look.decide(task) for task in tasks]
        opener = next((decision for decision in decisions if isinstance(decision, Write)), None)
        for decision in decisions:
            # a ring is opened at one place; what that brings, the next wave sees
            wave.add(decision if opener in (None, decision) else Wait(decision.task, _no_park(decision.task)))
        return wave

    def learn(self, write: Write, row: Row | None, there: There) -> None:
        """Takes in what a write brought back: the row as it now is, None after a delete."""
        described = self.pipeline.entities[write.task.record.entity]
        binding = described.bindings[self.system]
        thing = entity, link = write.task.thing
        state = write.state
        there.links[thing] = state
        if write.key is not None:
            there.rows.pop((entity, write.key), None)
        if row is None:
            assert write.key is not None
            there.enter((entity, self.system, write.key), link, gone=True)  # crosswalk: marked, never deleted
            return
        key = binding.key_of(row)
        if write.key is not None and write.key != key:  # a mapped key column changed
            there.enter((entity, self.system, write.key), link, gone=True)
        there.rows[entity, key] = row
        match = held_match(described, binding, row)
        if match is not None and key not in (holders := there.holders.setdefault((entity, match), [])):
            holders.append(key)
        there.made(thing, key, write.op is Op.INSERT)
        held = held_values(binding, row)
        for name, value in write.values.items():
            now = held.get(name)
            if isinstance(now, _NoValue) or name not in held:
                state.wrote[name] = value
                continue
            if not binding.same(name, value, now):
                state.adjusted[name] = [value, now]  # a trigger, a domain: noted, never fought over
            else:
                state.adjusted.pop(name, None)
            state.wrote[name] = now
        inserted = {one.part for one in write.rows if one.op is Op.INSERT}
        if inserted:
            # what a default gave is of our making as well; what an insert expression gave is the system's own, an edit of it
            ours = [name for name in held if all(binding.split(column)[0] in inserted for column in binding.columns[name])]
            state.wrote.update({name: now for name in ours if name not in write.made and not isinstance(now := held[name], _NoValue)})
            for name in write.made:
                state.wrote.pop(name, None)


def _no_park(task: Task) -> Park:
    return Park(task, task.record.entity, value_wait(task.record.link), "an earlier record of the thing waits")


class _Look:
    """One look at a wave's tasks."""

    def __init__(self, planner: Planner, there: There, wave: Wave, tasks: Sequence[Task], last: bool) -> None:
        self.system = planner.system
        self.pipeline = planner.pipeline
        self.shapes = planner.shapes
        self.there = there
        self.wave = wave
        self.last = last
        self.present = {task.thing for task in tasks}  # things that this wave may still change
        self.begun: set[Thing] = set()
        self.inserted: set[tuple[str, str]] = set()  # match values taken in this wave
        self.touched: set[tuple[str, tuple[str, ...]]] = set()  # rows (table, key) written in this wave that several things may have

    def decide(self, task: Task) -> Decision:
        record = task.record
        entity = self.pipeline.entities[record.entity]
        binding = entity.bindings.get(self.system)
        if binding is None:
            return End(task, State.OUT_OF_SCOPE, f"{record.entity} is not in {self.system}")
        if task.thing in self.begun:  # two records of one thing that don't say all of each other: one after the other
            return Wait(task, _no_park(task))
        self.begun.add(task.thing)
        if self.system not in record.targets:
            self.there.enter_seen(record)
            return End(task, State.UNCHANGED, "merge saw nothing to do here")
        try:
            return self._targeted(task, entity, binding)
        except (MappingError, SchemaError) as error:
            return Dead(task, str(error), type(error).__name__)

    def _targeted(self, task: Task, entity: Entity, binding: Binding) -> Decision:
        record, thing = task.record, task.thing
        key = self._own_key(record, binding)
        state = self.there.links.get(thing, LinkState()).copy()
        row = None if key is None else self.there.rows.get((record.entity, key))
        if task.anew and row is not None and (told := self._is_another(task, entity, binding, row)):
            return told
        if not record.alive:
            return self._removal(task, entity, binding, state, key, row)
        if record.exists < state.version(EXISTS):
            return End(task, State.SUPERSEDED, "its being there was decided later")
        if row is None and not task.anew:
            known = record.keys.get(self.system)
            if known is not None and record.seen.get(self.system) is not None:
                return End(task, State.SUPERSEDED, "its row here has just gone: merge does not know yet")
            if known is None and self.there.own.get(thing):
                return End(task, State.SUPERSEDED, "was inserted, and has gone since: merge does not know either yet")  # I3
        if row is None:
            return self._birth(task, entity, binding, state)
        assert key is not None
        state.applied[EXISTS] = record.exists
        return self._update(task, entity, binding, state, key, row)

    def _own_key(self, record: GoldenRecord, binding: Binding) -> str | None:
        """The row that is this thing, if it is there and counts: the crosswalk's, else the one merge knows, else the one that the thing is
        named after. Brings the crosswalk up to date."""
        entity, link = thing = record.entity, record.link
        own = self.there.own.get(thing, {})
        known = record.keys.get(self.system)
        candidates = list(own)
        for other in (known, named_after(link, self.system)):
            if other is not None and other not in candidates and self.there.names.get((entity, self.system, other), link) == link:
                candidates.append(other)
        live = [key for key in candidates if (row := self.there.rows.get((entity, key))) is not None and binding.in_scope(row)]
        stays = [key for key in live if own.get(key) is False] or live
        key = known if known in stays else (stays[0] if stays else None)
        for candidate in candidates:
            if candidate in own or candidate in (key, known):
                gone = candidate != key
                if gone and (entity, candidate) not in self.there.rows and not self._knows_that_it_went(record, candidate):
                    gone = own.get(candidate, False)  # as long as nobody has read its delete, the source must find that it is missing
                name = entity, self.system, candidate
                stands = candidate == key or (key is None and not gone and name in self.there.live)
                self.there.enter(name, link, gone, stands)
        return key

    def _knows_that_it_went(self, record: GoldenRecord, key: str) -> bool:
        """Whether merge does."""
        return record.keys.get(self.system) == key and record.seen.get(self.system) is None

    # what is gone

    def _removal(self, task: Task, entity: Entity, binding: Binding, state: LinkState, key: str | None, row: Row | None) -> Decision:
        record = task.record
        if entity.delete.policy == "ignore":
            return End(task, State.UNCHANGED, "deletes are ignored here")
        newer = not self._is_applied(task, state, EXISTS, record.exists)
        if row is None or key is None:
            if record.seen.get(self.system) is not None:
                return End(task, State.SUPERSEDED, "its row here has just gone, or got another key: merge does not know yet")
            if newer:
                state.applied[EXISTS] = record.exists
            return End(task, State.UNCHANGED, "not there already", state if newer else None)
        if not newer:
            return End(task, State.SUPERSEDED, "its being there was decided later")
        held = held_values(binding, row)
        # guard: an edit that merge has not seen; it will decide, and ask again
        seen = record.seen.get(self.system)
        soft = {name: value for name, value in entity.delete.soft.items() if name in binding.columns}
        parted = {name for name in held if self._in_parts(binding, name)}
        watched = [
            name for name in held if seen is None or name in seen or name in state.wrote or name in parted
        ]  # the others nobody knows
        if entity.delete.policy == "soft":
            watched = list(soft)
        if not all(self._over_known(task, state, binding, name, held, row) for name in watched):
            return End(task, State.SUPERSEDED, "an edit of it here is on its way")
        state.applied[EXISTS] = record.exists
        if entity.delete.policy == "propagate":
            return Write(task, Op.DELETE, key, {}, {}, state, self.shapes[entity.name].removal(root_key(binding, key)))
        for name in soft:
            state.applied.pop(name, None)  # should it come back, its own values are news again
        values = {name: value for name, value in soft.items() if not binding.same(name, value, self._plain(held.get(name)))}
        after = {**{name: self._plain(value) for name, value in held.items()}, **values}
        return self._written(task, binding, state, key, row, values, after, State.UNCHANGED)

    # what is new here

    def _birth(self, task: Task, entity: Entity, binding: Binding, state: LinkState) -> Decision:
        """No row of this thing here: adopt one, else insert."""
        record = task.record
        wanted = {name: value for name, value in record.values.items() if name in binding.columns and name in binding.writable}
        values: dict[str, Canonical] = {}
        left_out: set[str] = set()
        made = self._made(binding, task)
        for name, value in wanted.items():
            if name in made:
                continue
            found, missing = self._local(task, entity, binding, name, value)
            if missing is not None:
                if not self._may_leave_out(binding, name, missing, task):
                    return missing
                left_out.add(name)
                continue
            values[name] = found
        match = (
            None
            if any(name in entity.refs and name not in values for name in entity.match_on)
            else self._match(entity, binding, values, record)
        )
        if match is not None:
            if (record.entity, match) in self.inserted:
                return self._value_taken(task, entity, match, None)
            holders = [(key, row) for key, row in self._holders(entity, binding, match) if binding.in_scope(row)]
            adopted = self._adoptable(entity, binding, holders, values, record)
            if adopted is not None:
                key, row = adopted
                self.there.enter((record.entity, self.system, key), record.link)  # adopt
                state.applied[EXISTS] = record.exists
                return self._update(task, entity, binding, state, key, row)
            if holders:
                return self._value_taken(task, entity, match, self.there.names.get((record.entity, self.system, holders[0][0])))
            self.inserted.add((record.entity, match))
        columns = {
            column: text for column, text in binding.to_columns(values).items() if text is not None or not database_fills(binding, column)
        }
        if task.anew:
            columns = {**self._old_key(record, binding), **columns}
        shape = self.shapes[entity.name]
        for name in shape.moving(columns, insert=True) & values.keys():  # they wait for the next wave, which sees what is there
            del values[name]
            left_out.add(name)
        problem = unfit_text(columns)
        if problem is not None:
            return Dead(task, problem, "22021")
        state.applied = {name: version for name, version in record.versions.items() if name in wanted and name not in left_out}
        state.applied[EXISTS] = record.exists
        state.adjusted = {}
        rows = shape.writes((), None, columns, values, made)
        return Write(task, Op.INSERT, None, columns, values, state, rows, bool(left_out), made)

    def _match(self, entity: Entity, binding: Binding, values: Mapping[str, Canonical], record: GoldenRecord) -> str | None:
        return wanted_match(entity, binding, {name: values.get(name, record.values.get(name)) for name in entity.match_on})

    def _adoptable(
        self, entity: Entity, binding: Binding, holders: list[tuple[str, Row]], values: Mapping[str, Canonical], record: GoldenRecord
    ) -> tuple[str, Row] | None:
        """Which of the rows that hold a thing's match value becomes the thing, never one that is another's: the one that merge names, one
        that says it just as we would write it, the one with the lowest key."""
        texts = match_texts(binding, entity.match_on, {name: values.get(name, record.values.get(name)) for name in entity.match_on})
        known = record.keys.get(self.system)

        def place(holder: tuple[str, Row]) -> tuple[bool, bool, tuple[int, str]]:
            key, row = holder
            return key != known, any(row.get(column) != text for column, text in texts.items()), key_order(key)

        free = [(key, row) for key, row in holders if self.there.names.get((entity.name, self.system, key), record.link) == record.link]
        return min(free, key=place, default=None)

    def _value_taken(self, task: Task, entity: Entity, match: str, holder: str | None) -> Decision:
        park = Park(task, entity.name, value_wait(match), f"another thing's row has {', '.join(entity.match_on)}")
        if self.last or not (holder is None or (entity.name, holder) in self.present):
            return park
        return Wait(task, park)  # the holder may be letting go of it in this very wave

    # what is there

    def _update(self, task: Task, entity: Entity, binding: Binding, state: LinkState, key: str, row: Row) -> Decision:
        record = task.record
        held = held_values(binding, row)
        after = {name: self._plain(value) for name, value in held.items()}
        before = state.copy()
        values: dict[str, Canonical] = {}
        waits: Park | None = None  # what a field waits for; the rest is written
        end, guarded = State.SUPERSEDED, False
        for name, value in record.values.items():
            if name not in binding.columns or name not in binding.writable:
                continue
            version = record.versions[name]
            if self._is_applied(task, state, name, version):  # I3
                if value is None and binding.same(name, value, after.get(name)):
                    after[name] = None
                continue
            end = State.UNCHANGED
            found, missing = self._local(task, entity, binding, name, value)
            if missing is None and binding.same(name, found, self._plain(held.get(name))) and not isinstance(held.get(name), _NoValue):
                if name in state.wrote and (
                    not binding.same(name, state.wrote[name], found) or self._has_come_back(record, state, binding, name)
                ):
                    del state.wrote[name]  # of a version before: this one was there already
                state.applied[name] = version
                after[name] = found
                continue
            ours = name in state.wrote and state.wrote[name] == held.get(name)
            if entity.owner.get(name) == self.system and version.owned and not (ours or task.anew or record.mends(self.system, name)):
                seen = record.seen.get(self.system) or {}
                if held.get(name) is not None or seen.get(name, "") is not None:
                    continue  # its owner's decision is never written to the owner: but over our own value, or where its row says nothing
            if not self._over_known(task, state, binding, name, held, row):
                guarded = True  # guard: an edit that is on its way; merge decides on it and asks again
                continue
            if missing is not None:
                if not isinstance(missing, Park):
                    return missing
                waits = missing
                continue
            values[name] = found
            state.applied[name] = version
        if values and any(name in values for name in entity.match_on):
            taken = self._taken_by_another(task, entity, binding, key, values, held)
            if isinstance(taken, Wait):
                return taken
            if isinstance(taken, Park):
                waits = taken
                for name in entity.match_on:
                    if values.pop(name, None) is not None:
                        state.applied[name] = before.version(name)
        moving = self.shapes[entity.name].moving(self._changed(binding, values, row), insert=False) if binding.parts else set()
        for name in moving & values.keys():  # they wait for the next wave, which sees what is there
            del values[name]
            state.applied[name] = before.version(name)
        decision = self._written(
            task, binding, state, key, row, values, {**after, **values}, State.SUPERSEDED if guarded else end, bool(moving)
        )
        if waits is None or isinstance(decision, Dead | Wait):
            return decision
        if not isinstance(decision, Write):
            return waits
        decision.then = waits
        return decision

    def _taken_by_another(
        self,
        task: Task,
        entity: Entity,
        binding: Binding,
        key: str,
        values: Mapping[str, Canonical],
        held: Mapping[str, Canonical | _NoValue],
    ) -> Decision | None:
        full = {name: values.get(name, self._plain(held.get(name))) for name in entity.match_on}
        match = wanted_match(entity, binding, full)
        if match is None or match == entity.match_value({name: self._plain(held.get(name)) for name in entity.match_on}):
            return None
        if (entity.name, match) in self.inserted:
            return self._value_taken(task, entity, match, None)
        for other, _ in self._holders(entity, binding, match):
            if other != key:
                return self._value_taken(task, entity, match, self.there.names.get((entity.name, self.system, other)))
        self.inserted.add((entity.name, match))
        return None

    def _holders(self, entity: Entity, binding: Binding, match: str) -> Iterator[tuple[str, Row]]:
        """The rows that hold a match value, but for those that this batch has made hold another."""
        for key in self.there.holders.get((entity.name, match), []):
            row = self.there.rows.get((entity.name, key))
            if row is not None and held_match(entity, binding, row) == match:
                yield key, row

    @staticmethod
    def _changed(binding: Binding, values: Mapping[str, Canonical], row: Row) -> dict[str, str | None]:
        """The columns that differ."""
        return {column: text for column, text in binding.to_columns(values, row).items() if row.get(column) != text} if values else {}

    def _written(
        self,
        task: Task,
        binding: Binding,
        state: LinkState,
        key: str,
        row: Row,
        values: dict[str, Canonical],
        after: Mapping[str, Canonical],
        end: State,
        again: bool = False,
    ) -> Decision:
        """The write of these fields, of the columns that differ; or the end, if none does. `after`: all fields, as they are to be."""
        shape = self.shapes[binding.entity]
        columns = self._changed(binding, values, shape.held(row) if binding.parts else row)
        problem = unfit_text(columns)
        if problem is not None:
            return Dead(task, problem, "22021")
        if not columns:
            return End(task, end, "nothing to write", state)
        made = self._made_here(binding, row, task, shape) if binding.parts else frozenset()
        rows = shape.writes(root_key(binding, key), row, columns, after, made)
        touched = shape.shared_rows(rows, row)
        if touched & self.touched:
            return Wait(task, _no_park(task))  # another thing of this wave writes to it: then it is as that leaves it
        self.touched |= touched
        inserted = {write.part for write in rows if write.op is Op.INSERT}
        made = frozenset(name for name in made if any(binding.split(column)[0] in inserted for column in binding.sides[name].made_in))
        values = {name: value for name, value in values.items() if name not in made}
        return Write(task, Op.UPDATE, key, columns, values, state, rows, again, made)

    def _made_here(self, binding: Binding, row: Row, task: Task, shape: Rows) -> frozenset[str]:
        """Fields that get their value from an insert expression of a part, should its row be inserted now."""
        absent = {part.name for part in shape.parts if not is_there(part, row)}
        return frozenset(
            name for name in self._made(binding, task) if any(binding.split(column)[0] in absent for column in binding.sides[name].made_in)
        )

    def _made(self, binding: Binding, task: Task) -> frozenset[str]:
        """Fields that an insert expression makes: a number out of the application's own sequence. Not what it made once."""
        owner, values = self.pipeline.entities[binding.entity].owner, task.record.values
        return frozenset(
            name for name in binding.generated if values.get(name) is None or (owner.get(name) == self.system and not task.anew)
        )

    # a lost target

    def _is_another(self, task: Task, entity: Entity, binding: Binding, row: Row) -> Dead | None:
        """Whether the row under the thing's key is another thing's, made since the target was lost, as far as match values tell. Only where
        no crosswalk says whose it is."""
        key = binding.key_of(row)
        name = entity.name, self.system, key
        if name in self.there.known or name not in self.there.register:
            return None
        held, wanted = held_match(entity, binding, row), self._match(entity, binding, {}, task.record)
        if entity.refs.keys() & set(entity.match_on) or held is None or wanted is None or held == wanted:
            return None
        del self.there.register[name], self.there.names[name], self.there.own[task.thing][key]
        told = f"its row {row_name(self.system, key)} has another {', '.join(entity.match_on)} now: it may have become another thing's"
        return Dead(task, f"{told}; mend the row, or remove it, and rebuild again", "key_taken")

    def _old_key(self, record: GoldenRecord, binding: Binding) -> Mapping[str, str]:
        """The key columns of the row that the thing had: all that refers to it by its key still holds."""
        key = record.keys.get(self.system) or named_after(record.link, self.system)
        name = record.entity, self.system, key or ""
        if key is None or (record.entity, key) in self.there.rows or self.there.names.get(name, record.link) != record.link:
            return {}
        return binding.key_values(key)

    # common

    @staticmethod
    def _is_applied(task: Task, state: LinkState, name: str, version: Version) -> bool:
        """applied: whether what was written here last is this version, or a later one."""
        applied = state.version(name)
        return version < applied or (version == applied and not task.anew)

    @staticmethod
    def _plain(value: Canonical | _NoValue) -> Canonical:
        return None if isinstance(value, _NoValue) else value

    def _over_known(
        self,
        task: Task,
        state: LinkState,
        binding: Binding,
        name: str,
        held: Mapping[str, Canonical | _NoValue],
        row: Row,
    ) -> bool:
        """guard: whether the value there is the one that merge had seen, or our own last that merge has not heard of yet. Where a part has
        no row, and merge has heard of none: whether we have never written to one either, so that nobody has taken it away."""
        now = held.get(name)
        if task.anew:
            return True
        if isinstance(now, _NoValue):
            return False
        if name in state.wrote and state.wrote[name] == now and not self._has_come_back(task.record, state, binding, name):
            return True
        seen = task.record.seen.get(self.system)
        if seen is None or name in seen:
            return seen is not None and seen[name] == now
        return name not in state.wrote and self._is_absent(binding, name, row)

    def _has_come_back(self, record: GoldenRecord, state: LinkState, binding: Binding, name: str) -> bool:
        """Whether merge had heard of our last write of a field. Then what it has seen there says more than what we wrote: our value may
        be there again because somebody set it back, and nobody may have read that yet (docs/decisions/0035)."""
        written = state.applied.get(name, state.version(EXISTS)).hlc  # what a default gave came with the row
        heard = record.heard.get(self.system, {}).get(binding.split(binding.columns[name][0])[0], 0)
        return 0 < written <= heard

    def _in_parts(self, binding: Binding, name: str) -> bool:
        return bool(binding.parts) and any(binding.split(column)[0] != ROOT for column in binding.columns[name])

    def _is_absent(self, binding: Binding, name: str, row: Row) -> bool:
        """Whether the field is in parts that have no row."""
        places = [(binding.split(column)[0], row.get(column)) for column in binding.columns[name]]
        return bool(places) and all(part != ROOT and text is None and not is_there(binding.part[part], row) for part, text in places)

    def _local(self, task: Task, entity: Entity, binding: Binding, name: str, value: Canonical) -> tuple[Canonical, Decision | None]:
        """The value as this system has it: a reference by its own key. Else what to do without."""
        referred = entity.refs.get(name)
        if referred is None or value is None:
            return value, None
        found = self.there.resolve(referred, str(value))
        if found is not None:
            return found, None
        park = Park(task, referred, str(value), f"{name}: {referred} {value} is not in {self.system} yet")
        link = self.there.names.get((referred, *parse_row_name(str(value))))
        if link is not None and (referred, link) in self.present and not self.last:
            return None, Wait(task, park)
        return None, park

    def _may_leave_out(self, binding: Binding, name: str, missing: Decision, task: Task) -> bool:
        """A thing that refers to itself, or a ring of things of one batch: the reference is written once its end is there, if it may be
        null."""
        if not isinstance(missing, Park | Wait):
            return False
        park = missing.instead if isinstance(missing, Wait) else missing
        link = self.there.names.get((park.entity, *parse_row_name(park.waits_for)))
        to_itself = (park.entity, link) == task.thing
        in_ring = self.last and link is not None and (park.entity, link) in self.present
        if not (to_itself or in_ring):
            return False
        columns = [binding.shape.column(column) for column in binding.columns[name]]
        return all(column is not None and not column.not_null for column in columns)
