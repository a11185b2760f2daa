"""Log messages of captured tables → Debezium's records. No I/O but what `send` and the registry do.

    insert                       c
    update                       u; before: the old row under REPLICA IDENTITY FULL, else null
    update that changes the key  d of the old key, tombstone (both with header __debezium.newkey), c of the new key (__debezium.oldkey)
    delete                       d; before: the old row, or only its key; tombstone
    truncate                     t, without a key
    pg_logical_emit_message      m, on topic <system>.message; ours (prefix `concord`) are not sent on

An event's key and value are put together from bytes: what never changes, what is the same for a transaction, and the row.
Debezium's four `__debezium.context.*` headers and its transaction topic are not sent.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from connectors.source import connect, metrics
from connectors.source.delivery import Headers
from connectors.source.encoder import NullInRequired
from connectors.source.pgoutput import UNCHANGED, Begin, Message, Origin, Relation, Truncate, decode, end_of_tuple, tuple_bytes
from connectors.source.relations import CapturedTable, Catalog, captured_table, no_facts
from connectors.source.types import avro_bytes
from schemas.compiled_avro import varint_bytes as varint
from schemas.envelope import COLUMNS_HEADER, CONNECTOR, OURS_HEADER, ColumnTexts
from schemas.errors import SchemaError
from schemas.registry import Registry
from schemas.serde import Codec, read_body, wire_header

logger = logging.getLogger(__name__)

PREFIX: Final = "concord"  # of our own logical messages
Send = Callable[[str, bytes | None, bytes | None, Headers | None], None]  # topic, key, value, headers

_KEY_TUPLE, _OLD_TUPLE = 0x4B, 0x4F


def _nullable_text(text: str | None) -> bytes:
    return b"\x00" if text is None else b"\x02" + avro_bytes(text.encode())


def _nullable_long(n: int | None) -> bytes:
    return b"\x00" if n is None else b"\x02" + varint(n)


class When(NamedTuple):
    """What the events of one transaction have in common."""

    commit_lsn: int  # where its commit record begins: the same after a restart, and greater than that of any transaction before
    commit_us: int
    xid: int | None
    origin: str | None = None
    origin_lsn: int | None = None
    snapshot: str = "false"


NOWHEN: Final = When(0, 0, None)


@dataclass(slots=True)
class _Open:
    """A table whose events can be written: its schemas are registered."""

    table: CapturedTable
    key_header: bytes  # wire header of the key's schema
    row_header: bytes  # wire header of the value's schema, before: null, after: a row
    value_header: bytes  # wire header of the value's schema
    names: bytes  # schema and table, as in the source block
    middle: bytes = b""  # of the source block, for the transaction `middle_of`
    middle_of: object = None


@dataclass(slots=True)
class Emitter:
    """Turns the log of one system into records. One thread."""

    system: str
    database: str
    registry: Registry
    catalog: Catalog
    send: Send
    captured: Mapping[tuple[str, str], frozenset[str]]  # (schema, table) → columns that the mapping needs
    opened: Callable[[str], None] = lambda topic: None  # called before the first event of a topic is sent
    clock_ns: Callable[[], int] = time.time_ns

    _tables: dict[int, _Open | None] = field(default_factory=dict)  # by oid; None: not captured
    _relations: dict[int, Relation] = field(default_factory=dict)
    _nullable: dict[int, frozenset[str]] = field(default_factory=dict)
    _when: When = NOWHEN
    _head: bytes = b""
    _post: bytes = b""
    _now: dict[str, bytes] = field(default_factory=dict)
    _now_ns: int = 0
    _codec: Codec = field(init=False)
    _messages: tuple[Callable[[Any], bytes], Callable[[Any], bytes]] | None = None

    def __post_init__(self) -> None:
        self._codec = Codec(self.registry)
        self.tick()

    # what events have in common

    def tick(self) -> None:
        """Reads the clock: the outer ts_* of the events that follow."""
        now = self._now_ns = self.clock_ns()
        stamps = b"\x02" + varint(now // 1_000_000) + b"\x02" + varint(now // 1000) + b"\x02" + varint(now)
        self._now = {op: avro_bytes(op.encode()) + stamps for op in "cudrt"}

    def _transaction(self, when: When) -> None:
        self._when = when
        self._head, self._post = self._frame(when)

    def _frame(self, when: When) -> tuple[bytes, bytes]:
        """The source block up to `sequence`, and from `xmin` to the end of `transaction`."""
        head = b"".join(
            (
                avro_bytes(CONNECTOR.encode()),
                avro_bytes(b"postgresql"),
                avro_bytes(self.system.encode()),
                varint(when.commit_us // 1000),
                b"\x00",  # of ["string", "null"]
                avro_bytes(when.snapshot.encode()),
                avro_bytes(self.database.encode()),
                b"\x02",
            )
        )
        return head, b"\x00" + _nullable_text(when.origin) + _nullable_long(when.origin_lsn) + b"\x00"

    def _middle(self, opened: _Open, when: When) -> bytes:
        us = when.commit_us
        return b"\x02" + varint(us) + b"\x02" + varint(us * 1000) + opened.names + _nullable_long(when.xid)

    def _tail(self, opened: _Open, lsn: int, op: str) -> bytes:
        """Everything after the rows."""
        if opened.middle_of is not self._when:
            opened.middle = self._middle(opened, self._when)
            opened.middle_of = self._when
        sequence = b'["%d","%d"]' % (self._when.commit_lsn, lsn)
        return b"".join((self._head, varint(len(sequence)), sequence, opened.middle, b"\x02", varint(lsn), self._post, self._now[op]))

    # transactions and tables

    def begin(self, begin: Begin) -> None:
        self._transaction(When(begin.final_lsn, begin.commit_us, begin.xid))

    def origin(self, origin: Origin) -> None:
        when = self._when
        self._transaction(when._replace(origin=origin.name, origin_lsn=int(origin.origin_lsn)))

    def relation(self, relation: Relation) -> None:
        """A table, new or changed. Its schemas are registered when the first row comes."""
        self._relations[relation.oid] = relation
        self._tables.pop(relation.oid, None)
        self._nullable.pop(relation.oid, None)

    def _open(self, oid: int) -> _Open | None:
        relation = self._relations.get(oid)
        if relation is None:
            raise SchemaError(f"a row of relation {oid}, which the log has not described")
        needed = self.captured.get((relation.schema, relation.name))
        if needed is None:
            self._tables[oid] = None
            return None
        type_oids = {column.type_oid for column in relation.columns}
        facts = self.catalog.table(oid, type_oids) or no_facts(relation, self.catalog.types(type_oids))
        table = captured_table(self.system, relation, facts, self._nullable.get(oid, frozenset()))
        opened = self.open_table(table)
        self._tables[oid] = opened
        missing = needed - {column.name for column in table.columns if column.kind is not None}
        metrics.MISSING_COLUMNS.labels(self.system, f"{table.schema}.{table.name}").set(len(missing))
        if missing:
            logger.error(
                "%s: mapped columns are not in the table any more: %s; its events go to the topic without them and are dead-lettered from "
                "there, until the configuration no longer names them",
                table.topic,
                ", ".join(f"{name} ({table.left_out[name]})" if name in table.left_out else name for name in sorted(missing)),
            )
        return opened

    def open_table(self, table: CapturedTable) -> _Open:
        """Registers the schemas of a table."""
        self.opened(table.topic)
        value = wire_header(self.registry.register(f"{table.topic}-value", table.value_schema))
        key = b"" if table.key_schema is None else wire_header(self.registry.register(f"{table.topic}-key", table.key_schema))
        names = avro_bytes(table.schema.encode()) + avro_bytes(table.name.encode())
        return _Open(table, key, value + b"\x00\x02", value, names)

    def _opened(self, data: bytes, at: int) -> _Open | None:
        oid = int.from_bytes(data[at + 1 : at + 5], "big")
        try:
            return self._tables[oid]
        except KeyError:
            return self._open(oid)

    # rows. `data` is a whole message of the stream, `at` where pgoutput's part of it begins

    def insert(self, data: bytes, at: int, lsn: int) -> None:
        opened = self._opened(data, at)
        if opened is None:
            return
        row = [opened.row_header]
        beside: dict[str, str] = {}
        try:
            _, key = opened.table.walk(data, at + 6, row.append, beside, [])
        except NullInRequired as null:
            return self._with_nullable(opened, null, lambda: self.insert(data, at, lsn))
        row.append(self._tail(opened, lsn, "c"))
        headers: Headers | None = [(COLUMNS_HEADER, ColumnTexts(after=beside).encode())] if beside else None
        self.send(opened.table.topic, None if key is None else opened.key_header + key, b"".join(row), headers)

    def update(self, data: bytes, at: int, lsn: int) -> None:
        opened = self._opened(data, at)
        if opened is None:
            return
        try:
            self._update(opened, data, at + 5, lsn)
        except NullInRequired as null:
            self._with_nullable(opened, null, lambda: self.update(data, at, lsn))

    def _update(self, opened: _Open, data: bytes, at: int, lsn: int) -> None:
        table = opened.table
        old: list[bytes] = []
        old_beside: dict[str, str] = {}
        old_key: bytes | None = None
        kind = data[at]
        if kind in (_KEY_TUPLE, _OLD_TUPLE):
            walk = table.walk if kind == _OLD_TUPLE else table.key_walk
            before_at = at + 1
            at, old_key = walk(data, before_at, old.append, old_beside, [])
        new: list[bytes] = []
        beside: dict[str, str] = {}
        unchanged: list[str] = []
        _, key = table.walk(data, at + 1, new.append, beside, unchanged)
        if unchanged and old:
            known = _filled(data, before_at, at + 1)
            new, beside, unchanged = [], {}, []
            _, key = table.walk(known, 0, new.append, beside, unchanged)
        full = kind == _OLD_TUPLE
        if old_key is not None and old_key != key:
            self._key_change(opened, old, old_beside, old_key, new, beside, unchanged, key, lsn)
            return
        before = [b"\x02", *old] if full else [b"\x00"]
        value = b"".join((opened.value_header, *before, b"\x02", *new, self._tail(opened, lsn, "u")))
        texts = _headers(old_beside if full else {}, beside, unchanged)
        self.send(table.topic, None if key is None else opened.key_header + key, value, texts)

    def _key_change(
        self,
        opened: _Open,
        old: Sequence[bytes],
        old_beside: dict[str, str],
        old_key: bytes,
        new: Sequence[bytes],
        beside: dict[str, str],
        unchanged: list[str],
        key: bytes | None,
        lsn: int,
    ) -> None:
        topic = opened.table.topic
        to_new: tuple[str, str | bytes | None] = ("__debezium.newkey", self._key_json(opened, key))
        gone = b"".join((opened.value_header, b"\x02", *old, b"\x00", self._tail(opened, lsn, "d")))
        self.send(topic, opened.key_header + old_key, gone, [to_new, *(_headers(old_beside, {}, []) or [])])
        self.send(topic, opened.key_header + old_key, None, [to_new])
        to_old: tuple[str, str | bytes | None] = ("__debezium.oldkey", self._key_json(opened, old_key))
        value = b"".join((opened.row_header, *new, self._tail(opened, lsn, "c")))
        record_key = None if key is None else opened.key_header + key
        self.send(topic, record_key, value, [to_old, *(_headers({}, beside, unchanged) or [])])

    def delete(self, data: bytes, at: int, lsn: int) -> None:
        opened = self._opened(data, at)
        if opened is None:
            return
        table = opened.table
        full = data[at + 5] == _OLD_TUPLE
        old: list[bytes] = []
        beside: dict[str, str] = {}
        try:
            _, key = (table.walk if full else table.key_walk)(data, at + 6, old.append, beside, [])
        except NullInRequired as null:
            return self._with_nullable(opened, null, lambda: self.delete(data, at, lsn))
        # an old tuple without the primary key (REPLICA IDENTITY USING INDEX) says nothing of which row it was: no before, no key
        before = [b"\x02", *old] if full or key is not None or not table.primary_key else [b"\x00"]
        record_key = None if key is None else opened.key_header + key
        value = b"".join((opened.value_header, *before, b"\x00", self._tail(opened, lsn, "d")))
        self.send(table.topic, record_key, value, _headers(beside, {}, []) if len(before) > 1 else None)
        if record_key is not None:
            self.send(table.topic, record_key, None, None)

    def truncate(self, truncate: Truncate, lsn: int) -> None:
        for oid in truncate.relations:
            opened = self._tables[oid] if oid in self._tables else self._open(oid)
            if opened is not None:
                self.send(opened.table.topic, None, opened.value_header + b"\x00\x00" + self._tail(opened, lsn, "t"), None)

    def _with_nullable(self, opened: _Open, null: NullInRequired, again: Callable[[], None]) -> None:
        """The catalog is ahead of the log: the column was nullable then."""
        oid = opened.table.oid
        self._nullable[oid] = self._nullable.get(oid, frozenset()) | {str(null)}
        self._open(oid)
        again()

    def _key_json(self, opened: _Open, key: bytes | None) -> bytes:
        """A key as Debezium writes it into a header."""
        if key is None or opened.table.key_schema is None:
            return b"null"
        data = opened.key_header + key
        return orjson.dumps(read_body(self.registry.schema(int.from_bytes(data[1:5], "big")), data), default=_json_default)

    # snapshot rows: pgoutput tuples read from the table itself

    def snapshot_tail(self, opened: _Open, when: When, lsn: int, op: str) -> bytes:
        """For all rows of a chunk: they stand where its low watermark stands in the log, and have no LSN of their own."""
        head, post = self._frame(when)
        sequence = b'["%d","%d"]' % (when.commit_lsn, lsn)
        return b"".join((head, avro_bytes(sequence), self._middle(opened, when), b"\x00", post, self._now[op]))

    def snapshot_row(self, opened: _Open, row: bytes, tail: bytes, ours: bytes | None = None) -> None:
        """A row that is there: op r. `ours`: the header of that name."""
        out = [opened.row_header]
        beside: dict[str, str] = {}
        _, key = opened.table.walk(row, 0, out.append, beside, [])
        out.append(tail)
        headers = _headers({}, beside, [])
        if ours is not None:
            headers = [*(headers or ()), (OURS_HEADER, ours)]
        self.send(opened.table.topic, None if key is None else opened.key_header + key, b"".join(out), headers)

    def vanished_row(self, opened: _Open, key_tuple: bytes, tail: bytes) -> None:
        """A row that is not there any more: op d and a tombstone."""
        out = [opened.value_header, b"\x02"]
        beside: dict[str, str] = {}
        _, key = opened.table.key_walk(key_tuple, 0, out.append, beside, [])
        out += [b"\x00", tail]
        record_key = None if key is None else opened.key_header + key
        self.send(opened.table.topic, record_key, b"".join(out), _headers(beside, {}, []))
        self.send(opened.table.topic, record_key, None, None)

    # logical messages

    def message(self, message: Message, lsn: int) -> None:
        if message.prefix == PREFIX:
            return
        topic = f"{self.system}.message"
        if self._messages is None:
            self.opened(topic)
            self._messages = (
                self._codec.encoder(f"{topic}-key", connect.avro_schema(MESSAGE_KEY)),
                self._codec.encoder(f"{topic}-value", connect.avro_schema(MESSAGE_VALUE)),
            )
        key, value = self._messages
        when = self._when if message.transactional else When(lsn, self._now_ns // 1000, None)
        source = {
            "version": CONNECTOR,
            "connector": "postgresql",
            "name": self.system,
            "ts_ms": when.commit_us // 1000,
            "snapshot": "false",
            "db": self.database,
            "sequence": f'["{int(when.commit_lsn)}","{lsn}"]',
            "ts_us": when.commit_us,
            "ts_ns": when.commit_us * 1000,
            "schema": "",
            "table": "",
            "txId": when.xid,
            "lsn": lsn,
            "xmin": None,
            "origin": when.origin,
            "origin_lsn": when.origin_lsn,
        }
        told = {"prefix": message.prefix, "content": message.content}
        event = {"op": "m", "ts_ms": self._now_ns // 1_000_000, "source": source, "transaction": None, "message": told}
        self.send(topic, key({"prefix": message.prefix}), value(event), None)


def _headers(before: dict[str, str], after: dict[str, str], unchanged: list[str]) -> Headers | None:
    if not (before or after or unchanged):
        return None
    return [(COLUMNS_HEADER, ColumnTexts(before, after, tuple(unchanged)).encode())]


def _filled(data: bytes, old_at: int, new_at: int) -> bytes:
    """The new tuple, its unchanged columns taken from the old one where that has them."""
    old = decode(b"I\0\0\0\0N" + data[old_at : end_of_tuple(data, old_at)]).new  # type: ignore[union-attr]
    new = decode(b"I\0\0\0\0N" + data[new_at : end_of_tuple(data, new_at)]).new  # type: ignore[union-attr]
    return tuple_bytes(tuple(was if value is UNCHANGED and was is not None else value for value, was in zip(new, old, strict=True)))


def _json_default(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else orjson.Fragment(format(value, "f"))  # a decimal: a number


MESSAGE_KEY: Final[connect.ConnectSchema] = {
    "type": "struct",
    "fields": [{"type": "string", "optional": True, "field": "prefix"}],
    "optional": False,
    "name": "io.debezium.connector.postgresql.MessageKey",
    "version": 1,
}
MESSAGE_VALUE: Final[connect.ConnectSchema] = {
    "type": "struct",
    "fields": [
        {"type": "string", "optional": False, "field": "op"},
        {"type": "int64", "optional": True, "field": "ts_ms"},
        connect.SOURCE,
        connect.TRANSACTION,
        {
            "type": "struct",
            "fields": [
                {"type": "string", "optional": True, "field": "prefix"},
                {"type": "bytes", "optional": True, "field": "content"},
            ],
            "optional": False,
            "name": "io.debezium.connector.postgresql.Message",
            "version": 1,
            "field": "message",
        },
    ],
    "optional": False,
    "name": "io.debezium.connector.postgresql.MessageValue",
    "version": 1,
}
