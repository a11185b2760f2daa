"""Events of two connectors about the same commits, compared part by part. Pure: records in, differences out."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import fastavro
import orjson

from schemas.registry import MemoryRegistry
from schemas.serde import schema_id_of
from streams.transport import Record

READ_AT = ("ts_ms", "ts_us", "ts_ns")  # of the envelope: when it was read, by each in its own time
ABSENT = "(absent)"
OUR_PREFIXES = ("concord", "parity")  # of logical messages: heartbeats and watermarks of our source, and what this run nudges the log with


@dataclass(frozen=True, slots=True)
class Event:
    """One record, decoded; the reader's own name is taken out of it."""

    topic: str  # without the reader
    place: tuple[int, int]  # partition, offset
    lsn: int | None  # of its row; of a tombstone, that of the delete before it
    parts: Mapping[str, Any]  # "key.id", "after.name", "source.lsn", "header.…" → value, as the JSON converter prints it

    @property
    def streamed(self) -> bool:
        return self.parts.get("op") != "r"


@dataclass(frozen=True, slots=True)
class Difference:
    """What two events about the same thing do not agree in."""

    part: str
    ours: Any
    theirs: Any


@dataclass(slots=True)
class Compared:
    """One occasion."""

    name: str
    ours: int = 0
    theirs: int = 0
    equal: int = 0  # events that agree in every part
    parts: int = 0  # … and how many parts were compared
    differences: dict[str, list[Difference]] = field(default_factory=dict)  # by topic


class Decoder:
    """Bytes of either connector → documents as the JSON converter prints them."""

    def __init__(self, registry: MemoryRegistry) -> None:
        self._registry = registry
        self._schemas: dict[int, Any] = {}

    def __call__(self, data: bytes | None) -> Any:
        if data is None:
            return None
        if data[:1] == b"\0":
            return self._avro(data)
        document = json.loads(data, parse_float=Decimal)
        return document["payload"] if isinstance(document, dict) and document.keys() == {"schema", "payload"} else document

    def _avro(self, data: bytes) -> Any:
        schema_id = schema_id_of(data)
        if schema_id not in self._schemas:
            self._schemas[schema_id] = fastavro.parse_schema(_physical(self._registry.schema(schema_id)))
        return as_json(fastavro.schemaless_reader(io.BytesIO(data[5:]), self._schemas[schema_id], None))


def _physical(schema: Any) -> Any:
    """Without logical types: decimals stay bytes. A float is read as what it is printed as."""
    if isinstance(schema, dict):
        return {name: _physical(part) for name, part in schema.items() if name != "logicalType" and not name.startswith("__")}
    return [_physical(part) for part in schema] if isinstance(schema, list) else schema


def as_json(datum: Any) -> Any:
    """An Avro datum as Connect's JSON converter prints it."""
    match datum:
        case bytes():
            return base64.b64encode(datum).decode()
        case list():
            return [as_json(item) for item in datum]
        case dict():
            return {name: as_json(item) for name, item in datum.items()}
        case float():
            return {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}.get(repr(datum)) or Decimal(repr(datum))
    return datum


def events(records: Iterable[Record], reader: str, decode: Decoder) -> list[Event]:
    """In the order of each topic."""
    found: list[Event] = []
    last: tuple[str, int | None] = ("", None)
    for record in records:
        topic = record.topic.removeprefix(f"{reader}.")
        value, key = decode(record.value), decode(record.key)
        lsn = last[1] if value is None and last[0] == topic else None if value is None else (value.get("source") or {}).get("lsn")
        last = (topic, lsn)
        parts = dict(_parts(key, value, record.headers, reader))
        if str(parts.get("key.prefix", "")) not in OUR_PREFIXES:
            found.append(Event(topic, (record.partition, record.offset), lsn, parts))
    return found


def _parts(key: Any, value: Any, headers: Iterable[tuple[str, bytes | None]], reader: str) -> Iterator[tuple[str, Any]]:
    yield from _named("key", key)
    if value is None:
        yield "value", None
    else:
        for name, part in value.items():
            if name in READ_AT:
                continue
            yield from _named(name, _without_reader(part, reader) if name == "source" else part)
    for name, data in headers or ():
        if name.startswith("__debezium.") and not name.startswith("__debezium.context."):
            yield f"header {name}", data.decode() if data is not None else None
    yield "headers __debezium.context.*", sum(name.startswith("__debezium.context.") for name, _ in headers or ())


def _named(name: str, part: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(part, dict):
        yield from ((f"{name}.{inner}", value) for inner, value in part.items())
    else:
        yield name, part


def _without_reader(source: Mapping[str, Any], reader: str) -> dict[str, Any]:
    return {**source, "name": source["name"].replace(reader, "…")}


def differences(ours: Event, theirs: Event) -> list[Difference]:
    names = [*ours.parts, *(name for name in theirs.parts if name not in ours.parts)]
    pairs = ((name, ours.parts.get(name, ABSENT), theirs.parts.get(name, ABSENT)) for name in names)
    return [Difference(name, one, other) for name, one, other in pairs if not same(one, other)]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Decimal) or isinstance(other, Decimal):
        return (
            not isinstance(one, str)
            and not isinstance(other, str)
            and one is not None
            and other is not None
            and _float(one) == _float(other)
        )
    return bool(type(one) is type(other) and one == other) or (one == other and not isinstance(one, bool) and not isinstance(other, bool))


def _float(value: Any) -> float:
    return float(value)


def compare(name: str, ours: list[Event], theirs: list[Event]) -> Compared:
    """Topic by topic, the n-th with the n-th: both are in commit order."""
    found = Compared(name, len(ours), len(theirs))
    for topic in dict.fromkeys(event.topic for event in (*ours, *theirs)):
        mine, yours = ([event for event in all_ if event.topic == topic] for all_ in (ours, theirs))
        for at in range(max(len(mine), len(yours))):
            if at >= len(mine) or at >= len(yours):
                missing = Difference("the event", _shown(mine, at), _shown(yours, at))
                found.differences.setdefault(topic, []).append(missing)
                continue
            found.parts += len(mine[at].parts)
            different = differences(mine[at], yours[at])
            found.equal += not different
            if different:
                found.differences.setdefault(topic, []).extend(different)
    return found


def _shown(events: list[Event], at: int) -> str:
    if at >= len(events):
        return ABSENT
    parts = events[at].parts
    key = {name.removeprefix("key."): value for name, value in parts.items() if name.startswith("key")}
    return f"{parts.get('op', 'tombstone')} {orjson.dumps(key, default=str).decode()}"
