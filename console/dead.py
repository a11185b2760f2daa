"""The dead letters of a pipeline: what could not be applied as it is, from both places where they are kept.

    crm:17      concord.dead_letter of the system: what its sink could not apply; one per thing, gone when a later version of it could be
    crm@0/42    topic dead.crm, partition and offset: what source, intake and merge could not make sense of, for 30 days

The sink writes its letters to the topic too, for whoever listens there; here they are taken from the table, which knows those still open.
A letter that somebody decided on (`console.decide`) is in `concord.decision` of its system, and open again only if the record failed since.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import orjson
import psycopg
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from connectors import concord_schema
from console import wiring
from console.kafka import Cluster, Partition
from console.kafka import Letter as Message
from schemas import topics
from schemas.config import Config
from schemas.dead import Where, dead_from_avro
from schemas.errors import SchemaError
from schemas.registry import Registry, open_registry
from schemas.serde import Codec

_TABLE_ID = re.compile(r"([^:@]+):([0-9]+)")
_TOPIC_ID = re.compile(r"([^:@]+)@([0-9]+)/([0-9]+)")

_SQL = """
SELECT id, entity, link, topic, partition, "offset", error, code, first_at, last_at, times, record FROM concord.dead_letter
"""
_DECISIONS = """
SELECT letter, part, entity, link, event, error, code, first_at, last_at, times, key, record, decision, decided_by, decided_at, reason
FROM concord.decision ORDER BY id DESC LIMIT %s
"""

Event = tuple[str, bytes | None]  # the record that a letter is about: topic@partition/offset, and its key (a source knows no offset)


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter, wherever it is kept."""

    id: str
    system: str
    where: str  # source, intake, merge, sink
    entity: str | None
    link: str | None
    event: str  # the record that could not be handled: topic@partition/offset
    error: str
    code: str
    since: str
    last: str
    times: int
    key: bytes | None
    record: bytes | None
    decision: Mapping[str, str] = field(default_factory=dict)  # what, by, at, reason; {} while it is open

    @property
    def number(self) -> int:
        """Of a sink's letter: its id in `concord.dead_letter`."""
        return int(self.id.rpartition(":")[2])

    def to_json(self) -> dict[str, Any]:
        """Everything but the record: lists are for looking over, and a record holds a row."""
        return {
            "id": self.id,
            "system": self.system,
            "where": self.where,
            "entity": self.entity,
            "link": self.link,
            "event": self.event,
            "code": self.code,
            "error": self.error,
            "since": self.since,
            "last": self.last,
            "times": self.times,
            **({"decision": dict(self.decision)} if self.decision else {}),
        }


def all_letters(config: Config, systems: Sequence[str], limit: int) -> list[Letter]:
    """The newest `limit` of each place of each system, oldest first."""
    codec = Codec(open_registry(config.kafka, config.registry))
    try:
        found = [letter for system in systems for letter in _of_system(config, codec, system, limit)]
    finally:
        codec.registry.close()
    return sorted(found, key=lambda letter: letter.last)


def _of_system(config: Config, codec: Codec, system: str, limit: int) -> Iterator[Letter]:
    with wiring.session(config, system) as connection:
        decided = decided_events(connection)
        if concord_schema.version(connection):
            for row in connection.execute(_SQL + "ORDER BY last_at DESC LIMIT %s", (limit,)):
                yield _from_row(system, row)
    yield from from_topic(Cluster(config.kafka), codec, system, limit, decided)


def decided_events(connection: psycopg.Connection[tuple[Any, ...]]) -> dict[Event, datetime]:
    """The records of letters that were decided on, and when such a record had failed last by then, by the clock of whoever wrote the
    letter."""
    if not _keeps_decisions(connection):
        return {}
    rows = connection.execute("SELECT event, key, max(last_at) FROM concord.decision WHERE part <> 'sink' GROUP BY 1, 2")
    return {(event, key): at for event, key, at in rows}


def _keeps_decisions(connection: psycopg.Connection[tuple[Any, ...]]) -> bool:
    row = connection.execute("SELECT to_regclass('concord.decision') IS NOT NULL").fetchone()
    return row is not None and row[0]


def all_decisions(config: Config, systems: Sequence[str], limit: int) -> list[Letter]:
    """The newest `limit` decisions of each system, oldest first, each as the letter it was about."""
    found = []
    for system in systems:
        with wiring.session(config, system) as connection:
            if not _keeps_decisions(connection):
                continue
            for row in connection.execute(_DECISIONS, (limit,)):
                letter_id, part, entity, link, event, error, code, first, last, times, key, record, what, by, at, reason = row
                decision = {"what": what, "by": by, "at": _text(at), "reason": reason}
                since, until = _text(first), _text(last)
                found.append(Letter(letter_id, system, part, entity, link, event, error, code, since, until, times, key, record, decision))
    return sorted(found, key=lambda letter: letter.decision["at"])


def from_topic(cluster: Cluster, codec: Codec, system: str, limit: int, decided: Mapping[Event, datetime]) -> list[Letter]:
    """The open letters of the parts before the sinks, each once however often it was sent."""
    found: dict[Event, Letter] = {}
    for message in cluster.read(topics.dead(system), limit, newest=True):
        letter_id = f"{system}@{message.partition}/{message.offset}"
        try:
            told = dead_from_avro(codec.decode(message.value)[1])
        except SchemaError as error:
            at = _text(datetime.fromtimestamp(message.ts_ms / 1e3, UTC))
            event = f"{topics.dead(system)}@{message.partition}/{message.offset}"
            why = f"not a dead letter: {error}"
            if (event, None) not in decided:
                found[event, None] = Letter(letter_id, system, "?", None, None, event, why, "SchemaError", at, at, 1, None, message.value)
            continue
        event = f"{told.topic}@{told.partition}/{told.offset}"
        when = datetime.fromtimestamp(told.ts_us / 1e6, UTC)
        closed = decided.get((event, told.key))
        if told.where is Where.SINK or (closed is not None and when <= closed):
            continue
        at = _text(when)
        first = found.get((event, told.key)) or Letter(
            letter_id, system, told.where.value, told.entity, told.link, event, told.error, told.code, at, at, 0, told.key, told.value
        )
        found[event, told.key] = replace(first, last=at, times=first.times + 1)
    return list(found.values())


class Count:
    """How many letters of the parts before the sinks are open, without keeping them. What was read is not read again."""

    def __init__(self) -> None:
        self._first: dict[Partition, int] = {}  # what lies before was never read
        self._next: dict[Partition, int] = {}
        self._last: dict[Event, tuple[str | None, datetime, Partition, int]] = {}  # → entity, when and where it failed last
        self.more = False  # whether there are letters that were never read

    def read(self, cluster: Cluster, codec: Codec, ends: Mapping[Partition, tuple[int, int]], limit: int) -> None:
        """What is new up to these ends; at first, the newest `limit` that there are."""
        if any(high < self._next.get(at, 0) for at, (_, high) in ends.items()):
            self._first, self._next, self._last = {}, {}, {}  # another topic of this name
        if not self._next:
            shares = _shares({at: high - low for at, (low, high) in ends.items()}, limit)
            self._first = {at: high - shares[at] for at, (_, high) in ends.items()}
        spans = {at: (max(low, self._next.get(at, self._first.get(at, low))), high) for at, (low, high) in ends.items()}
        for message in cluster.scan(spans):
            self._take(codec, message)
        self._next = {at: high for at, (_, high) in ends.items()}
        self.more = any(low < self._first.get(at, low) for at, (low, _) in ends.items())
        gone = [event for event, (_, _, at, offset) in self._last.items() if at in ends and offset < ends[at][0]]
        for event in gone:  # not kept any longer
            del self._last[event]

    def _take(self, codec: Codec, message: Message) -> None:
        at, event, entity = (message.topic, message.partition), f"{message.topic}@{message.partition}/{message.offset}", None
        key, when = None, datetime.fromtimestamp(message.ts_ms / 1e3, UTC)
        with contextlib.suppress(SchemaError):
            told = dead_from_avro(codec.decode(message.value)[1])
            if told.where is Where.SINK:
                return
            event, key, entity = f"{told.topic}@{told.partition}/{told.offset}", told.key, told.entity
            when = datetime.fromtimestamp(told.ts_us / 1e6, UTC)
        before = self._last.get((event, key))
        self._last[event, key] = entity, when if before is None else max(when, before[1]), at, message.offset

    def open(self, decided: Mapping[Event, datetime]) -> dict[str | None, int]:
        """By entity, those that nobody decided on since they failed last."""
        counted: dict[str | None, int] = {}
        for event, (entity, when, _, _) in self._last.items():
            if (closed := decided.get(event)) is None or when > closed:
                counted[entity] = counted.get(entity, 0) + 1
        return counted


def _shares(there: Mapping[Partition, int], limit: int) -> dict[Partition, int]:
    """How many of each, `limit` of all: no partition's part is lost to one that has less."""
    shares, left = {}, limit
    for number, (at, count) in enumerate(sorted(there.items(), key=lambda each: each[1])):
        shares[at] = min(count, left // (len(there) - number))
        left -= shares[at]
    return shares


def _text(at: datetime) -> str:
    return at.isoformat(timespec="microseconds")


def _from_row(system: str, row: Sequence[Any]) -> Letter:
    number, entity, link, topic, partition, offset, error, code, first_at, last_at, times, record = row
    return Letter(
        f"{system}:{number}",
        system,
        "sink",
        entity,
        link,
        f"{topic}@{partition}/{offset}",
        error,
        code,
        _text(first_at),
        _text(last_at),
        times,
        None,
        record,
    )


def letter(config: Config, letter_id: str) -> Letter | None:
    """The letter by its id, or None."""
    if (match := _TABLE_ID.fullmatch(letter_id)) and match[1] in config.systems:
        with wiring.session(config, match[1]) as connection:
            if not concord_schema.version(connection):
                return None
            row = connection.execute(_SQL + "WHERE id = %s", (int(match[2]),)).fetchone()
            return _from_row(match[1], row) if row else None
    if (match := _TOPIC_ID.fullmatch(letter_id)) and match[1] in config.systems:
        return next((one for one in all_letters(config, [match[1]], 1_000_000) if one.id == letter_id), None)
    return None


def opened(config: Config, letter: Letter) -> dict[str, Any]:
    """The letter with its record in readable form: decoded Avro where it is that, else JSON, text or hexadecimal digits."""
    registry = open_registry(config.kafka, config.registry)
    try:
        return {**letter.to_json(), "key": readable(letter.key, registry), "record": readable(letter.record, registry)}
    finally:
        registry.close()


def readable(data: bytes | None, registry: Registry) -> Any:
    """What is in some bytes, as something JSON can say."""
    if data is None:
        return None
    try:
        datum = Codec(registry).decode(data)[1]
        if isinstance(datum, dict) and isinstance(datum.get("concord"), str):
            datum["concord"] = orjson.loads(datum["concord"])
        return json.loads(json.dumps(datum, default=_as_text))
    except (SchemaError, ValueError):
        pass
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "\\x" + data.hex()


def _as_text(value: object) -> str:
    return "\\x" + value.hex() if isinstance(value, bytes) else str(value)


def show_all(letters: Sequence[Letter], console: Console, nothing: str = "no dead letters") -> None:
    if not letters:
        console.print(nothing)
        return
    grid = Grid(box=None, header_style="bold", pad_edge=False)
    decided = any(one.decision for one in letters)
    for heading in ("id", "where", "entity", "link", "times", "last", "code"):
        grid.add_column(heading, no_wrap=True)
    grid.add_column("decided" if decided else "error", overflow="fold")
    for one in letters:
        told = one.error
        if one.decision:
            told = f"{one.decision['what']} by {one.decision['by']} at {one.decision['at'][:19]}: {one.decision['reason']}"
        cells = (one.id, one.where, one.entity or "", one.link or "", str(one.times), one.last[:19], one.code, told)
        grid.add_row(*map(escape, cells))
    console.print(grid)


def show_one(told: dict[str, Any], console: Console) -> None:
    for name, value in told.items():
        shown = json.dumps(value, indent=2, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
        console.print(f"[bold]{name:<8}[/] {escape(shown)}")
