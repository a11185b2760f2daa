"""The whole history of one thing, from the first write to the last: for whoever has to find out why a run went wrong. Judges nothing.

    both logs        every row version that the referee's triggers saw, with who wrote it and in which transaction
    all topics       captured events, claims and their answers, changes, golden records, conflicts, dead letters
    both databases   what `concord.*` says of it at the end
    the faults       and what our own log says of slots and snapshots

One line each, in the order of the clock; of a row or a record that was told before only what is different.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import psycopg
from confluent_kafka import Consumer, TopicPartition
from psycopg.rows import dict_row

from schemas import topics
from schemas.errors import ConcordError
from schemas.registry import EmbeddedRegistry, Registry
from schemas.serde import Codec
from tests.chaos.truth import TABLES

Thing = tuple[str, str]  # (entity, link)
Row = tuple[str, str, str]  # (entity, system, key)

READ_SECONDS = 60.0
# entity → its table in each system
TABLE_OF = {
    "customer": {"crm": "account", "erp": "business_partner"},
    "contact": {"crm": "contact", "erp": "partner_contact"},
    "product": {"crm": "product", "erp": "item"},
    "stock_level": {"crm": "stock_level", "erp": "stock_level"},
    "sales_order": {"crm": "sales_order", "erp": "order"},
    "order_line": {"crm": "order_line", "erp": "order_line"},
    "invoice": {"crm": "invoice", "erp": "invoice"},
}
_ENTITY_OF = {(system, table): entity for entity, tables in TABLE_OF.items() for system, table in tables.items()}
_WORTH_TELLING = re.compile(r"slot|snapshot|deleted unseen|out of sync|Traceback|giving up|streaming")
_CHATTY = ("aiokafka", "faust", "mode", "kafka")
_HIDDEN = ("updated_at", "write_date")


@dataclass(frozen=True, slots=True)
class Line:
    """Something that happened. `values` are told as what is different from the line of the same source before it."""

    at: float  # seconds since 1970
    source: str
    words: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    topic: str
    partition: int
    offset: int
    at: float
    key: bytes | None
    value: bytes | None


def told_by(
    databases: Mapping[str, psycopg.Connection[Any]], bootstrap: str, folder: Path, sentences: Iterable[str]
) -> dict[str, list[str]]:
    """The histories of the things that the referee's sentences are about. The servers must be up."""
    settings = {"bootstrap.servers": bootstrap, "log_level": 0}
    registry = EmbeddedRegistry(settings)
    try:
        histories = Histories(databases, read_all(settings), registry, folder)
        return {sentence: histories.of_sentence(sentence) for sentence in sentences}
    finally:
        registry.close()


def read_all(settings: Mapping[str, Any]) -> Iterator[Record]:
    """Every record of the pipeline's topics, up to their present ends."""
    consumer = Consumer({**settings, "group.id": "chaos-history", "enable.auto.commit": False})
    starts = tuple(f"{kind}." for kind in (*TABLES, "links", "claims", "changes", "golden", "conflicts", "dead"))
    try:
        left: dict[tuple[str, int], int] = {}
        for topic, told in consumer.list_topics(timeout=READ_SECONDS).topics.items():
            for partition in told.partitions if topic.startswith(starts) else ():
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=READ_SECONDS)
                if high > low:
                    left[topic, partition] = high
        consumer.assign([TopicPartition(topic, partition, 0) for topic, partition in left])
        while left:
            messages = consumer.consume(1000, READ_SECONDS)
            if not messages:
                return  # the rest cannot be read: a history with a hole is better than none
            for message in messages:
                if message.error() is None:
                    topic, partition, offset = message.topic() or "", message.partition() or 0, message.offset() or 0
                    yield Record(topic, partition, offset, message.timestamp()[1] / 1000, _bytes(message.key()), _bytes(message.value()))
            for at in [at for at, high in left.items() if _position(consumer, at) >= high]:
                del left[at]
    finally:
        consumer.close()


class Histories:
    """Tells of any thing what all topics, both databases and the logs in `folder` say of it."""

    def __init__(
        self, databases: Mapping[str, psycopg.Connection[Any]], records: Iterable[Record], registry: Registry, folder: Path
    ) -> None:
        self._databases, self._folder = databases, folder
        self._codec = Codec(registry)
        self._keys: dict[bytes, str] = {}  # raw key of a captured record → the row's key
        self._by_key: dict[tuple[str, str], list[Record]] = {}  # (topic, key as text) → its records
        self._claims: dict[Row, list[Record]] = {}
        self._letters: list[Record] = []
        for record in records:
            self._file(record)

    def of_sentence(self, sentence: str) -> list[str]:
        """Of the thing that the referee's sentence is about: an entity's name, then a row or a link."""
        entity = sentence.partition(" ")[0]
        name = next((word.rstrip(":,") for word in sentence.split() if word.startswith(tuple(f"{system}:" for system in TABLES))), None)
        return [] if name is None or entity not in TABLE_OF else self.of(entity, self._link_of(entity, name))

    def of(self, entity: str, link: str) -> list[str]:
        """Its lines. Never raises for what cannot be read: that is said in its place."""
        rows = set(self._rows(entity, link))
        lines = [
            *(line for row in rows for line in self._log(row)),
            *(line for row in rows for line in self._captured(row)),
            *self._of_thing(entity, link),
            *self._own_log(rows, link),
        ]
        told = list(_told(sorted(lines, key=lambda line: line.at)))
        return [
            f"{entity} {link}: {', '.join(f'{system}:{key}' for _, system, key in sorted(rows)) or 'no row known'}",
            *told,
            *self._kept(entity, link),
        ]

    # ---- filing ------------------------------------------------------------------------------------------------------------

    def _file(self, record: Record) -> None:
        kind, _, name = record.topic.partition(".")
        if kind in TABLES:
            key = self._row_key(record.key)
        elif kind == "dead":
            self._letters.append(record)
            return
        elif kind == "claims":
            told = _json(record.value)
            self._claims.setdefault((name, str(told.get("system")), str(told.get("key"))), []).append(record)
            return
        else:
            key = (record.key or b"").decode("utf-8", "replace")
        self._by_key.setdefault((record.topic, key), []).append(record)

    def _row_key(self, key: bytes | None) -> str:
        if key is None:
            return ""
        found = self._keys.get(key)
        if found is None:
            told = self._decoded(key)
            found = self._keys[key] = str(next(iter(told.values()), ""))
        return found

    def _decoded(self, data: bytes | None) -> dict[str, Any]:
        try:
            told = self._codec.decode(data)[1]
        except ConcordError as error:
            return {"unreadable": str(error)}
        return told if isinstance(told, dict) else {"value": told}

    def _link_of(self, entity: str, name: str) -> str:
        system, _, key = name.partition(":")
        for conn in self._databases.values():
            query = "SELECT link FROM concord.key WHERE entity = %s AND system = %s AND key = %s"
            if (row := conn.execute(query, [entity, system, key]).fetchone()) is not None:
                return str(row[0])
        return name

    def _rows(self, entity: str, link: str) -> Iterator[Row]:
        """All rows that ever were the thing's, as either database knows, and the one that it is named after."""
        system, _, key = link.partition(":")
        if system in TABLES:
            yield entity, system, key
        for conn in self._databases.values():
            for system, key in conn.execute("SELECT system, key FROM concord.key WHERE entity = %s AND link = %s", [entity, link]):
                yield entity, system, key

    # ---- the logs -------------------------------------------------------------------------------------------------------------

    def _log(self, row: Row) -> Iterator[Line]:
        entity, system, key = row
        table = TABLE_OF[entity][system]
        with self._databases[system].cursor(row_factory=dict_row) as cursor:
            query = f'SELECT * FROM referee."{table}" WHERE id::text = %s ORDER BY "#"'
            for values in cursor.execute(query.encode(), [key]):
                at, number, ours, op, xid = (values.pop(name) for name in ("@", "#", "ours", "op", "xid"))
                who = "concord" if ours else "application"
                yield Line(at.timestamp(), f"{system} row {key}", f"#{number} xid {xid} {who} {op}", values)

    # ---- the topics -----------------------------------------------------------------------------------------------------------

    def _captured(self, row: Row) -> Iterator[Line]:
        entity, system, key = row
        table = TABLE_OF[entity][system]
        for record in self._by_key.get((topics.captured(system, "public", table), key), ()):
            if record.value is None:
                continue
            event = self._decoded(record.value)
            source = event.get("source") or {}
            words = f"{event.get('op')} xid {source.get('txId')} seq {source.get('sequence')}"
            if source.get("origin"):
                words += f" origin {source['origin']} applied {source.get('origin_lsn')}"
            if source.get("snapshot") not in (None, "false"):
                words += f" snapshot {source['snapshot']}"
            yield Line(record.at, _place(record), words, event.get("after") or {"gone": event.get("op")})
        for record in self._by_key.get((topics.links(system, "public", table), key), ()):
            yield Line(record.at, _place(record), "answer", _json(record.value))
        for record in self._claims.get(row, ()):
            yield Line(record.at, _place(record), f"claim of {(record.key or b'').decode('utf-8', 'replace')!r}", _json(record.value))

    def _of_thing(self, entity: str, link: str) -> Iterator[Line]:
        for record in self._by_key.get((topics.changes(entity), link), ()):
            change = _json(record.value)
            values = change.pop("values", None)
            yield Line(record.at, f"{_place(record)} {change.get('system')}", f"change {_short(change)}", values or {"gone": True})
        for record in self._by_key.get((topics.golden(entity), link), ()):
            golden = self._decoded(record.value)
            yield Line(record.at, _place(record), "golden", golden)
        for record in self._by_key.get((topics.conflicts(entity), link), ()):
            yield Line(record.at, _place(record), f"conflict {self._decoded(record.value)}")
        for record in self._letters:
            letter = self._decoded(record.value)
            if (letter.get("entity"), letter.get("link")) == (entity, link):
                yield Line(record.at, _place(record), f"dead letter {letter.get('code')}: {letter.get('error')}")

    # ---- what we keep, and what we said ---------------------------------------------------------------------------------------

    def _kept(self, entity: str, link: str) -> Iterator[str]:
        for system, conn in self._databases.items():
            for table in ("key", "link", "parked", "dead_letter"):
                with conn.cursor(row_factory=dict_row) as cursor:
                    for row in cursor.execute(f"SELECT * FROM concord.{table} WHERE entity = %s AND link = %s".encode(), [entity, link]):
                        row.pop("record", None)
                        yield f"  at the end {system} concord.{table}: {_short(row)}"

    def _own_log(self, rows: Iterable[Row], link: str) -> Iterator[Line]:
        """Faults, and of our own log what is about slots and snapshots or names the thing."""
        named = [link, *(key for _, _, key in rows if len(key) > 8)]
        for fault in _lines(self._folder / "faults.log"):
            time, _, words = fault.partition(" ")
            yield Line(_seconds(f"{datetime.now(UTC).date()}T{time}Z"), "—— fault", words)
        for text in _lines(self._folder / "concord.log"):
            if _WORTH_TELLING.search(text) or any(name in text for name in named):
                entry = _json(text.encode())
                if "ts" in entry and not str(entry.get("logger", "")).startswith(_CHATTY):
                    yield Line(_seconds(entry["ts"]), f"—— {entry.get('part')}", f"{entry.get('level')} {str(entry.get('message'))[:300]}")


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8", "replace").splitlines() if path.exists() else []


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _position(consumer: Consumer, at: tuple[str, int]) -> int:
    return int(consumer.position([TopicPartition(*at)])[0].offset)


def _bytes(data: str | bytes | None) -> bytes | None:
    return data.encode() if isinstance(data, str) else data


def _json(data: bytes | None) -> dict[str, Any]:
    try:
        told = orjson.loads(data or b"{}")
    except orjson.JSONDecodeError:
        return {"unreadable": repr(data)}
    return told if isinstance(told, dict) else {"value": told}


def _place(record: Record) -> str:
    return f"{record.topic}/{record.partition}@{record.offset}"


def _short(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items() if value is not None)


def _told(lines: Iterable[Line]) -> Iterator[str]:
    """Each line's words; its values as what is different from the one of the same source (but for its offset) before it."""
    before: dict[str, Mapping[str, Any]] = {}
    for line in lines:
        same = line.source.split("@")[0] + line.source.rpartition(" ")[2] * (" " in line.source)
        was = before.get(same)
        values = {name: value for name, value in line.values.items() if name not in _HIDDEN}
        if values:
            before[same] = values
        news = values if was is None else {name: value for name, value in values.items() if name not in was or was[name] != value}
        at = datetime.fromtimestamp(line.at, UTC).strftime("%H:%M:%S.%f")[:-3]
        yield f"  {at} {line.source}: {line.words}{' | ' if values else ''}{_short(news) or ('the same' if values else '')}"
