"""`concord dead retry` and `concord dead discard`: what an operator decides on dead letters.

    letter of         retried by
    a sink            its record goes to `concord.parked`, where the sink's sweep takes it: in the sink's own transaction, guarded like any
                      other record (I2, I3). The letter goes when the record went through, and counts one time more when it did not
    source            the row is read again by a snapshot: the letter has its key only
    intake, identify, the record is sent again, and with it all that came after it under its key: every step ignores what is not newer, but
    merge             one old event alone would be the newest that intake's table has heard of
                      (a captured record that is not in its topic any more: the row is read again by a snapshot)

So all of it works while the pipeline runs, and when it does not: then it waits where it was put. Each decision is in `concord.decision`
with the letter as it was, who made it, and why.
"""

from __future__ import annotations

import getpass
import re
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

import orjson
import psycopg
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from connectors import concord_schema
from connectors.sink.golden import GoldenDecoder
from connectors.sink.plan import EXISTS, value_wait
from console import dead, snapshot, wiring
from console import kafka as brokers
from console.dead import Letter
from console.kafka import Cluster, Partition
from schemas import topics
from schemas.config import Config
from schemas.dead import Where
from schemas.errors import SchemaError
from schemas.golden import GoldenRecord, Version
from schemas.mapping import event_columns, table_names
from schemas.registry import open_registry
from schemas.serde import Codec

EVERY_LETTER = 1_000_000
LOOK_SECONDS = 0.2

_PARK = """
INSERT INTO concord.parked (entity, link, waits_for_entity, waits_for, topic, partition, "offset", record, reason)
SELECT d.entity, d.link, d.entity, u.waits_for, d.topic, d.partition, d."offset", d.record, %s
FROM concord.dead_letter d JOIN unnest(%s::bigint[], %s::text[]) AS u(id, waits_for) ON u.id = d.id
ON CONFLICT (entity, link) DO NOTHING RETURNING entity, link"""
_STANDING = """
SELECT u.id, d.times, d.error, p.reason, l.applied::text
FROM unnest(%s::bigint[], %s::text[], %s::text[]) AS u(id, entity, link)
LEFT JOIN concord.dead_letter d ON d.entity = u.entity AND d.link = u.link
LEFT JOIN concord.parked p ON p.entity = u.entity AND p.link = u.link
LEFT JOIN concord.link l ON l.entity = u.entity AND l.link = u.link"""
_DECIDE = """
INSERT INTO concord.decision
    (letter, decision, decided_by, reason, part, entity, link, event, key, record, error, code, first_at, last_at, times)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""


class Became(StrEnum):
    """What became of a letter."""

    APPLIED = "applied"  # the target has it
    SUPERSEDED = "superseded"  # something newer of the thing is there, or on its way
    HANDLED = "handled"  # intake or merge took it this time, and it goes its way
    READ_AGAIN = "read again"  # a snapshot has read its row
    PARKED = "parked"  # it now waits for another thing
    DEAD = "dead"  # it failed again
    QUEUED = "queued"  # to be tried by a part that does not run now, or is not there yet
    REFUSED = "refused"  # cannot be tried again
    GONE = "gone"  # there is no such letter, any more
    DISCARDED = "discarded"


WELL = frozenset({Became.APPLIED, Became.SUPERSEDED, Became.HANDLED, Became.READ_AGAIN, Became.DISCARDED})


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters. Ids, or everything that fits all of what is given."""

    ids: tuple[str, ...] = ()
    system: str | None = None
    entity: str | None = None
    link: str | None = None
    code: str | None = None

    def fits(self, letter: Letter) -> bool:
        if self.ids:
            return letter.id in self.ids
        return (
            self.system in (None, letter.system)
            and self.entity in (None, letter.entity)
            and self.link in (None, letter.link)
            and self.code in (None, letter.code)
        )


@dataclass(frozen=True, slots=True)
class Operator:
    """Who decides, and why."""

    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    letter: Letter
    became: Became
    why: str = ""


@dataclass
class Report:
    """What became of each letter, in the order of the list."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    def enter(self, letter: Letter, became: Became, why: str = "") -> None:
        self.outcomes[letter.id] = Outcome(letter, became, why)

    @property
    def well(self) -> bool:
        return not self.unknown and all(one.became in WELL for one in self.outcomes.values())

    def to_json(self) -> dict[str, Any]:
        told = [{**one.letter.to_json(), "became": one.became.value, "why": one.why} for one in self.outcomes.values()]
        return {"letters": [*told, *({"id": name, "became": Became.GONE.value, "why": "no such letter"} for name in self.unknown)]}


def oneself() -> str:
    """`alice@host`."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def selected(config: Config, selection: Selection) -> Report:
    """The open letters that are meant, nothing decided yet."""
    systems = [system for system in config.systems if selection.system in (None, system)]
    if selection.ids:
        systems = [system for system in systems if any(one.startswith((f"{system}:", f"{system}@")) for one in selection.ids)]
    report = Report()
    for letter in dead.all_letters(config, systems, EVERY_LETTER):
        if selection.fits(letter):
            report.enter(letter, Became.QUEUED)
    report.unknown = tuple(name for name in selection.ids if name not in report.outcomes)
    return report


def _decided(connection: psycopg.Connection[Any], letters: Iterable[Letter], what: str, operator: Operator) -> None:
    def row(one: Letter) -> tuple[Any, ...]:
        about = (one.where, one.entity, one.link, one.event, one.key, one.record, one.error, one.code)
        times = (datetime.fromisoformat(one.since), datetime.fromisoformat(one.last), one.times)
        return (one.id, what, operator.by, operator.reason, *about, *times)

    rows = [row(letter) for letter in letters]
    with connection.cursor() as cursor:
        cursor.executemany(_DECIDE, rows)


# --- discard ----------------------------------------------------------------------------------------------------------------------


def discard(config: Config, selection: Selection, operator: Operator) -> Report:
    """Closes letters for good. What they are about stays as it is in the systems."""
    report = selected(config, selection)
    for system in config.systems:
        letters = [one.letter for one in report.outcomes.values() if one.letter.system == system]
        kept = {letter.number: letter for letter in letters if letter.where == "sink"}
        if not letters:
            continue
        with wiring.session(config, system) as connection:
            concord_schema.ensure(connection)
            with connection.transaction():
                rows = connection.execute(
                    "DELETE FROM concord.dead_letter d USING unnest(%s::bigint[], %s::int[]) AS u(id, times) "
                    "WHERE d.id = u.id AND d.times = u.times RETURNING d.id",  # one that failed again since is another decision
                    (list(kept), [letter.times for letter in kept.values()]),
                )
                gone = kept.keys() - {number for (number,) in rows}
                closed = [letter for letter in letters if letter.where != "sink" or letter.number not in gone]
                _decided(connection, closed, "discarded", operator)
        for letter in closed:
            report.enter(letter, Became.DISCARDED)
        for number in gone:
            report.enter(kept[number], Became.GONE, "it went through meanwhile, or failed anew: look again")
    return report


# --- retry ------------------------------------------------------------------------------------------------------------------------


def retry(config: Config, selection: Selection, operator: Operator, seconds: float) -> Report:
    """Tries letters again, and waits for at most so long to see what becomes of them."""
    report = selected(config, selection)
    if not report.outcomes:
        return report
    codec = Codec(open_registry(config.kafka, config.registry))
    try:
        deadline = time.monotonic() + seconds
        waiting = _Retry(config, codec, report, operator).ask()
        while waiting := [one for one in waiting if not one.look()]:
            if time.monotonic() > deadline:
                break
            time.sleep(LOOK_SECONDS)
    finally:
        codec.registry.close()
    return report


class _Waiting(Protocol):
    def look(self) -> bool:
        """Enters what has become of its letters by now; whether that is all."""


class _Retry:
    """Puts each letter where it is tried again."""

    def __init__(self, config: Config, codec: Codec, report: Report, operator: Operator) -> None:
        self.config, self.codec, self.report, self.operator = config, codec, report, operator
        self.cluster = Cluster(config.kafka)
        self.decode = GoldenDecoder(codec)

    def ask(self) -> list[_Waiting]:
        letters = [one.letter for one in self.report.outcomes.values()]
        waiting: list[_Waiting] = []
        for system in self.config.systems:
            waiting += self._sink(system, [one for one in letters if one.system == system and one.where == Where.SINK])
        unreadable = [one for one in letters if one.where not in set(Where)]
        for one in unreadable:
            self.report.enter(one, Became.REFUSED, "nobody can read it; discard it")
        lost = [one for one in letters if one.where == Where.SOURCE]
        waiting += self._send([one for one in letters if one.where in (Where.INTAKE, Where.MERGE)], lost)
        for system in self.config.systems:
            waiting += self._read_again(system, [one for one in lost if one.system == system])
        return waiting

    # a sink's

    def _sink(self, system: str, letters: Sequence[Letter]) -> list[_Waiting]:
        records: dict[int, GoldenRecord] = {}
        for letter in letters:
            try:
                records[letter.number] = self.decode(letter.entity or "", letter.record or b"")
            except SchemaError as error:
                why = f"{error}; a good record of its thing takes its place, or discard it"
                self.report.enter(letter, Became.REFUSED, why)
        tried = {letter.number: letter for letter in letters if letter.number in records}
        if not tried:
            return []
        reason = f"asked for again by {self.operator.by}: {self.operator.reason}"
        with wiring.session(self.config, system) as connection:
            concord_schema.ensure(connection)
            with connection.transaction():
                waits = [value_wait(letter.link or "") for letter in tried.values()]
                placed = set(connection.execute(_PARK, (reason, list(tried), waits)).fetchall())
                asked = {number: letter for number, letter in tried.items() if (letter.entity, letter.link) in placed}
                _decided(connection, asked.values(), "retried", self.operator)
        for number in tried.keys() - asked.keys():
            self.report.enter(tried[number], Became.PARKED, "a later record of its thing waits, or it went through meanwhile: look again")
        if not self.cluster.members(wiring.group_of_sink(self.config, system)):
            for letter in asked.values():
                self.report.enter(letter, Became.QUEUED, f"the sink of {system} does not run now; it tries it when it does")
            return []
        return [_AtSink(self.config, system, asked, records, reason, self.report)] if asked else []

    # the streams'

    def _send(self, letters: Sequence[Letter], lost: list[Letter]) -> list[_Waiting]:
        """Sends the records and what came after them under their keys. Captured ones that are not there any more go to `lost`."""
        places = {letter.id: _place(letter) for letter in letters}
        ends = self.cluster.ends({topic for topic, _, _ in places.values()})
        again: list[brokers.Letter] = []
        tails: dict[tuple[Partition, bytes], int] = {}
        alone: set[tuple[Partition, int]] = set()
        sent: dict[str, tuple[Partition, int]] = {}  # letter → which record of the log is its own
        for letter in letters:
            topic, partition, offset = places[letter.id]
            at = (topic, partition)
            low, high = ends.get(at, (0, 0))
            if low <= offset < high:
                sent[letter.id] = (at, offset)
                if letter.key is None:
                    alone.add((at, offset))
                else:
                    tails[at, letter.key] = min(offset, tails.get((at, letter.key), offset))
            elif topic.startswith(topics.changes("")) and at in ends:
                sent[letter.id] = (at, offset)  # a change says all of itself
                again.append(brokers.Letter(topic, partition, offset, letter.key, letter.record, 0))
            elif self._table(letter.system, topic) is not None:
                lost.append(letter)
            else:
                why = f"{topic} does not reach back to it any more: read the rows that it was about again (concord snapshot)"
                self.report.enter(letter, Became.REFUSED, why)
        spans = {
            at: (min([offset for (place, _), offset in tails.items() if place == at] + [o for place, o in alone if place == at]), high)
            for at, (_, high) in ends.items()
            if any(place == at for place, _ in tails) or any(place == at for place, _ in alone)
        }
        for message in self.cluster.scan(spans):
            at = (message.topic, message.partition)
            first = None if message.key is None else tails.get((at, message.key))
            if (first is not None and message.offset >= first) or (at, message.offset) in alone:
                again.append(message)
        if not again:
            return []
        offsets = self.cluster.send(again)
        copies = {((one.topic, one.partition), one.offset): offset for one, offset in zip(again, offsets, strict=True)}
        events = {letter: _event(at, copies[at, offset]) for letter, (at, offset) in sent.items() if (at, offset) in copies}
        tried = {letter.id: letter for letter in letters if letter.id in events}
        for system in {letter.system for letter in tried.values()}:
            with wiring.session(self.config, system) as connection:
                concord_schema.ensure(connection)
                _decided(connection, (one for one in tried.values() if one.system == system), "retried", self.operator)
        if not self.cluster.members(wiring.group_of_streams(self.config)):
            for letter in tried.values():
                self.report.enter(letter, Became.QUEUED, "the streams do not run now; they try it when they do")
            return []
        wanted: dict[Partition, int] = {}
        for one, offset in zip(again, offsets, strict=True):
            at = (one.topic, one.partition)
            wanted[at] = max(wanted.get(at, 0), offset + 1)
        return [_AtStreams(self, tried, events, wanted)]

    # rows that are read again

    def _table(self, system: str, topic: str) -> tuple[str, str] | None:
        return next((name for name in table_names(self.config, system) if topics.captured(system, *name) == topic), None)

    def _read_again(self, system: str, letters: Sequence[Letter]) -> list[_Waiting]:
        rows: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
        for letter in letters:
            table = self._table(system, _place(letter)[0])
            try:
                if table is None:
                    raise SchemaError(f"{_place(letter)[0]} is no table that is captured now")
                rows.setdefault(table, {})[letter.id] = self._key(letter)
            except SchemaError as error:
                self.report.enter(letter, Became.REFUSED, f"its row cannot be told: {error}; read the table again (concord snapshot)")
        known = {letter.id: letter for letter in letters}
        waiting: list[_Waiting] = []
        for table, keys in rows.items():
            try:
                asked_for = snapshot.ask_rows(self.config, system, table, keys)
            except snapshot.Unaskable as error:
                for one in keys:
                    self.report.enter(known[one], Became.REFUSED, f"its row cannot be read again: {error}")
                continue
            for asked, some in asked_for:
                waiting.append(_AtSource(self.config, asked, [known[one] for one in some], self.report))
            with wiring.session(self.config, system) as connection:
                concord_schema.ensure(connection)
                _decided(connection, (known[one] for one in keys), "retried", self.operator)
            for one in keys:
                self.report.enter(known[one], Became.QUEUED, f"its row is read again by the source of {system}")
        return waiting

    def _key(self, letter: Letter) -> dict[str, str]:
        """The columns of the row's key. Raises SchemaError."""
        schema_id, datum = self.codec.decode(letter.key)
        columns = event_columns(self.codec.registry.schema(schema_id))(datum)  # type: ignore[arg-type]
        if not columns or any(text is None for text in columns.values()):
            raise SchemaError("the record has no key")
        return {name: str(text) for name, text in columns.items()}


_PLACE = re.compile(r"(.+)@(-?[0-9]+)/(-?[0-9]+)")


def _place(letter: Letter) -> tuple[str, int, int]:
    """Topic, partition and offset of the record that a letter is about."""
    match = _PLACE.fullmatch(letter.event)
    assert match is not None, letter.event
    return match[1], int(match[2]), int(match[3])


def _event(at: Partition, offset: int) -> str:
    return f"{at[0]}@{at[1]}/{offset}"


@dataclass
class _AtSink:
    """Letters that a sink's sweep is to take."""

    config: Config
    system: str
    letters: Mapping[int, Letter]
    records: Mapping[int, GoldenRecord]
    reason: str
    report: Report

    def look(self) -> bool:
        asked = list(self.letters.values())
        params = ([one.number for one in asked], [one.entity for one in asked], [one.link for one in asked])
        with wiring.session(self.config, self.system) as connection:
            standing = connection.execute(_STANDING, params).fetchall()
        left = False
        for number, times, error, reason, applied in standing:
            letter = self.letters[number]
            if reason == self.reason:
                self.report.enter(letter, Became.QUEUED, f"the sink of {self.system} has not come to it yet")
                left = True
            elif reason is not None:
                self.report.enter(letter, Became.PARKED, reason)
            elif times is not None:
                self.report.enter(replace(letter, times=times), Became.DEAD, error)
            elif _is_applied(self.records[number], applied):
                self.report.enter(letter, Became.APPLIED)
            else:
                self.report.enter(letter, Became.SUPERSEDED, f"{self.system} holds something newer, or an edit there is on its way")
        return not left


def _is_applied(record: GoldenRecord, applied: str | None) -> bool:
    """Whether the target has all versions of the record that it keeps versions of."""
    known = {name: Version(*version) for name, version in orjson.loads(applied or "{}").items()}
    told = {**record.versions, EXISTS: record.exists}
    return bool(known) and all(version <= known[name] for name, version in told.items() if name in known)


@dataclass
class _AtStreams:
    """Letters whose records were sent again."""

    asked: _Retry
    letters: Mapping[str, Letter]
    events: Mapping[str, str]  # letter → the record's copy
    wanted: Mapping[Partition, int]  # what the streams must have come to

    def look(self) -> bool:
        config, report = self.asked.config, self.asked.report
        reached = self.asked.cluster.committed(wiring.group_of_streams(config), {topic for topic, _ in self.wanted})
        if any(reached.get(at, 0) < offset for at, offset in self.wanted.items()):
            for letter in self.letters.values():
                report.enter(letter, Became.QUEUED, "the streams have not come to it yet")
            return False
        failed: dict[str, Letter] = {}
        for system in {letter.system for letter in self.letters.values()}:
            found = dead.from_topic(self.asked.cluster, self.asked.codec, system, EVERY_LETTER, {})
            failed.update((one.event, one) for one in found)
        for name, letter in self.letters.items():
            again = failed.get(self.events[name])
            if again is None:
                report.enter(letter, Became.HANDLED)
            else:
                report.enter(letter, Became.DEAD, f"now {again.id}: {again.error}")
        return True


@dataclass
class _AtSource:
    """Letters whose rows are read again."""

    config: Config
    asked: snapshot.Asked
    letters: Sequence[Letter]
    report: Report

    def look(self) -> bool:
        with wiring.session(self.config, self.asked.system) as connection:
            progress = snapshot.progress_of(connection, self.config.systems[self.asked.system].slot, self.asked)
        for letter in self.letters:
            if progress.state in (snapshot.State.DONE, snapshot.State.REPLACED):
                self.report.enter(letter, Became.READ_AGAIN, f"{progress.rows} rows")
            elif progress.state is snapshot.State.REFUSED:
                self.report.enter(letter, Became.REFUSED, progress.error or "")
            else:
                self.report.enter(letter, Became.QUEUED, snapshot.sentence(self.asked, progress))
        return progress.state not in (snapshot.State.ASKED, snapshot.State.WAITING)


# --- for people -------------------------------------------------------------------------------------------------------------------


def show(report: Report, console: Console) -> None:
    if not report.outcomes and not report.unknown:
        console.print("no dead letter fits")
        return
    grid = Grid(box=None, header_style="bold", pad_edge=False)
    for heading in ("id", "entity", "link", "became"):
        grid.add_column(heading, no_wrap=True)
    grid.add_column("why", overflow="fold")
    for name, one in report.outcomes.items():
        became = f"[{'green' if one.became in WELL else 'red'}]{one.became.value}[/]"
        grid.add_row(escape(name), escape(one.letter.entity or ""), escape(one.letter.link or ""), became, escape(one.why))
    for name in report.unknown:
        grid.add_row(escape(name), "", "", f"[red]{Became.GONE.value}[/]", "no such letter; `concord dead list` names them")
    console.print(grid)
