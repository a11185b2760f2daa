"""The dead letters of a pipeline: what could not be applied as it is, from both places where they are kept.

    crm:17      concord.dead_letter of the system: what its sink could not apply; one per thing, gone when a later version of it could be
    crm@0/42    topic dead.crm, partition and offset: what source, intake and merge could not make sense of, for 30 days

The sink writes its letters to the topic too, for whoever listens there; here they are taken from the table, which knows those still open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from connectors import concord_schema
from console import wiring
from console.kafka import Cluster
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
        if concord_schema.version(connection):
            for row in connection.execute(_SQL + "ORDER BY last_at DESC LIMIT %s", (limit,)):
                yield _from_row(system, row)
    yield from from_topic(Cluster(config.kafka), codec, system, limit)


def from_topic(cluster: Cluster, codec: Codec, system: str, limit: int) -> Iterator[Letter]:
    """The letters of the parts before the sinks, each once however often it was sent."""
    seen: set[str] = set()
    for message in cluster.read(topics.dead(system), limit, newest=True):
        try:
            told = dead_from_avro(codec.decode(message.value)[1])
        except SchemaError as error:
            yield _unreadable(system, message.partition, message.offset, message.ts_ms, f"not a dead letter: {error}", message.value)
            continue
        event = f"{told.topic}@{told.partition}/{told.offset}"
        if told.where is Where.SINK or event in seen:
            continue
        seen.add(event)
        at = datetime.fromtimestamp(told.ts_us / 1e6, UTC).isoformat(timespec="milliseconds")
        letter_id = f"{system}@{message.partition}/{message.offset}"
        yield Letter(
            letter_id, system, told.where.value, told.entity, told.link, event, told.error, told.code, at, at, 1, told.key, told.value
        )


def _unreadable(system: str, partition: int, offset: int, ts_ms: int, error: str, value: bytes | None) -> Letter:
    at = datetime.fromtimestamp(ts_ms / 1e3, UTC).isoformat(timespec="milliseconds")
    event = f"{topics.dead(system)}@{partition}/{offset}"
    return Letter(f"{system}@{partition}/{offset}", system, "?", None, None, event, error, "SchemaError", at, at, 1, None, value)


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
        first_at.isoformat(timespec="milliseconds"),
        last_at.isoformat(timespec="milliseconds"),
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


def show_all(letters: Sequence[Letter], console: Console) -> None:
    if not letters:
        console.print("no dead letters")
        return
    grid = Grid(box=None, header_style="bold", pad_edge=False)
    for heading in ("id", "where", "entity", "link", "times", "last", "code"):
        grid.add_column(heading, no_wrap=True)
    grid.add_column("error", overflow="fold")
    for one in letters:
        cells = (one.id, one.where, one.entity or "", one.link or "", str(one.times), one.last[:19], one.code, one.error)
        grid.add_row(*map(escape, cells))
    console.print(grid)


def show_one(told: dict[str, Any], console: Console) -> None:
    for name, value in told.items():
        shown = json.dumps(value, indent=2, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
        console.print(f"[bold]{name:<8}[/] {escape(shown)}")
