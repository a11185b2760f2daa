"""Captured records, read: bytes → envelope → column texts. What intake sees of an event before it knows the entity.

Nobody says who wrote a topic, or how: each key and each value is read as what it is.

    00 …                             Avro in the wire format: our own source, or Debezium with an Avro converter
    {"schema": …, "payload": …}      JSON that says its types: Debezium, schemas.enable=true
    {…}                              JSON that does not: schemas.enable=false; the table's catalog says them

    headers      concord.columns (what the body cannot hold), __debezium.oldkey and .newkey (a row's key changed)
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

import orjson

from schemas.catalog import Table
from schemas.envelope import Envelope, EventOp, column_texts, envelope_of, is_aside, ours_of
from schemas.errors import NotAnEvent, SchemaError, UnknownSchema
from schemas.mapping import event_columns
from schemas.mapping.debezium_json import CatalogColumns, connect_columns
from schemas.mapping.doubts import DEFAULTED, NO_KEY, UNCHANGED, of_settings, of_type, of_unchanged
from schemas.serde import Codec, schema_id_of
from streams.transport import Record

Columns = dict[str, str | None]
OLD_KEY, NEW_KEY = "__debezium.oldkey", "__debezium.newkey"
KNOWN_SCHEMAS = 32  # of one kind that a topic's JSON is recognised by; a schema changes when its table does
_NO_KEYS = ("0", "")  # what Debezium puts where it does not know a key
_NO_DOUBTS: dict[str, str] = {}


class Seen(NamedTuple):
    """One captured event, read as far as it can be without knowing the entity."""

    record: Record
    envelope: Envelope
    position: str
    key: Columns | None  # of the record's key
    before: Columns | None
    after: Columns | None
    moved_from: Columns | None  # the old key, of the second event of a key change
    moved_on: bool  # the first event of a key change: the row lives on under another key
    columns: frozenset[str]  # that the table had when the event was captured
    doubts: Mapping[str, str]  # columns whose value cannot be trusted → why
    ours: Mapping[str, Mapping[str, Any]] | None = None  # see `schemas.envelope.ours_of`


@dataclass(frozen=True, slots=True)
class _Rows:
    """How the rows of one schema are read."""

    read: Callable[[Mapping[str, Any]], Columns]
    names: frozenset[str]
    doubts: Mapping[str, str]
    defaulted: frozenset[str]  # may be null and have a default


class Events:
    """Reads the captured records of one table. Not for several threads."""

    def __init__(self, codec: Codec, table: Table) -> None:
        self._codec = codec
        self._table = table
        self._rows: dict[int, _Rows] = {}
        self._keys: dict[int, Callable[[Mapping[str, Any]], Columns]] = {}
        self._json_rows = _Documents(self._connect_rows)
        self._json_keys = _Documents(self._connect_key)
        self._catalog = CatalogColumns(table)
        self._nullable = frozenset(column.name for column in table.columns if column.has_default and not column.not_null)
        names = {column.name for column in table.columns}
        self._renamed = {renamed: name for name in names if (renamed := _as_avro(name)) not in names}
        self._untold = {column.name: why for column in table.columns if (why := of_type(column)) is not None}
        self._unchanged = of_unchanged(table)

    async def fetch_schemas(self, records: Iterable[Record]) -> None:
        """Schemas that are new here, looked up beside the event loop: a miss waits a little for its writer to register it. Raises
        Retriable."""
        registry = self._codec.registry
        for schema_id in {found for record in records for data in (record.key, record.value) if (found := _schema_id(data)) is not None}:
            if not registry.known(schema_id):
                try:
                    await asyncio.to_thread(registry.schema, schema_id)
                except UnknownSchema:
                    continue  # told when the record itself is read

    def read(self, record: Record) -> Seen | None:
        """None: it is about no row of this table, and nothing is wrong with it. Raises NotAnEvent, UnknownSchema, SchemaError."""
        datum, rows, faults = self._value(record.value)
        if is_aside(datum):
            return None
        envelope = envelope_of(datum)
        if rows is None:
            rows = self._schemaless(envelope, faults)
        if self._is_another_tables(envelope, rows):
            return None
        texts = column_texts(record.headers)
        headers = dict(record.headers or ())
        before = None if envelope.before is None else texts.amend_before(rows.read(envelope.before))
        after = None if envelope.after is None else texts.amend_after(rows.read(envelope.after))
        seen = Seen(
            record=record,
            envelope=envelope,
            position=str(envelope.position),
            key=self._key(record.key),
            before=before,
            after=after,
            moved_from=self._header_key(headers.get(OLD_KEY)),
            moved_on=headers.get(NEW_KEY) is not None,
            columns=rows.names,
            doubts={**rows.doubts, **faults} if faults else rows.doubts,
            ours=ours_of(record.headers) if record.headers else None,
        )
        return self._from_debezium(seen, rows) if envelope.source.by_debezium else seen

    # what the bytes are ----------------------------------------------------------------------------------------------------------------

    def _value(self, data: bytes | None) -> tuple[Any, _Rows | None, dict[str, str]]:
        """(the envelope's datum, how its rows are read if a schema says so, what will be found wrong with them)."""
        if data is not None and data[:1] == b"{":
            rows, datum = self._json_rows.read(data)
            return datum, rows, {}
        if data is None or data[:1] != b"\0":
            raise NotAnEvent(f"neither Avro in the wire format nor JSON: {(data or b'')[:16]!r}")
        schema_id, datum = self._codec.decode(data)
        known = self._rows.get(schema_id)
        if known is None and not is_aside(datum):
            known = self._rows[schema_id] = self._avro_rows(schema_id)
        return datum, known, {}

    def _key(self, data: bytes | None) -> Columns | None:
        if data is None:
            return None
        if data[:1] == b"{":
            read, datum = self._json_keys.read(data)
            if not isinstance(datum, dict):
                raise NotAnEvent(f"not the key of a row: {data[:80]!r}")
            return self._catalog.read(datum) if read is None else read(datum)
        schema_id, datum = self._codec.decode(data)
        columns = self._keys.get(schema_id)
        if columns is None:
            columns = self._keys[schema_id] = event_columns(self._named(self._codec.registry.schema(schema_id)))
        return columns(datum)

    def _header_key(self, value: bytes | None) -> Columns | None:
        """The key in a header, if it can be read: what cannot be handed on is a delete and an insert."""
        try:
            key = json.loads(value, parse_float=Decimal) if value else None
            columns = self._catalog.read(key) if isinstance(key, dict) else {}
        except (ValueError, SchemaError):
            return None
        return columns if columns and None not in columns.values() else None

    # how rows are read -----------------------------------------------------------------------------------------------------------------

    def _avro_rows(self, schema_id: int) -> _Rows:
        row = self._named(_row_schema(self._codec.registry.schema(schema_id)))
        fields = {str(field.get("concord.column", field["name"])): _branch(field["type"]) for field in row["fields"]}
        defaulted = {name for name, field in zip(fields, row["fields"], strict=True) if isinstance(field["type"], list)}
        has_default = {name for name, field in zip(fields, row["fields"], strict=True) if field.get("default") is not None}
        return self._rows_of(event_columns(row), fields, frozenset(defaulted & has_default))

    def _connect_rows(self, schema: Mapping[str, Any]) -> _Rows | None:
        """None: not the schema of an envelope."""
        row = next((field for field in schema.get("fields", ()) if field.get("field") in ("after", "before")), None)
        if row is None:
            return None
        columns = [(self._column(field["field"]), field) for field in row.get("fields", ())]
        fields = {column: (str(field["type"]), str(field.get("name") or "")) for column, field in columns}
        defaulted = {column for column, field in columns if field.get("optional") and field.get("default") is not None}
        return self._rows_of(connect_columns(columns, self._table), fields, frozenset(defaulted))

    def _connect_key(self, schema: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Columns]:
        return connect_columns([(self._column(field["field"]), field) for field in schema.get("fields", ())], self._table)

    def _rows_of(
        self, read: Callable[[Mapping[str, Any]], Columns], fields: Mapping[str, tuple[str, str]], defaulted: frozenset[str]
    ) -> _Rows:
        doubts = {name: why for name, told in fields.items() if (why := of_settings(self._table.column(name), *told)) is not None}
        return _Rows(read, frozenset(fields), doubts, defaulted)

    def _schemaless(self, envelope: Envelope, faults: dict[str, str]) -> _Rows:
        names = frozenset(name for row in (envelope.before, envelope.after) if row is not None for name in row)
        return _Rows(lambda row: self._catalog.read(row, faults), names, _NO_DOUBTS, self._nullable)

    def _named(self, schema: Any) -> Any:
        """An Avro record schema whose fields know their columns."""
        if not self._renamed or not isinstance(schema, dict):
            return schema
        return {**schema, "fields": [{"concord.column": self._column(field["name"]), **field} for field in schema.get("fields", ())]}

    def _column(self, field: str) -> str:
        """The column that a field is of, also where Debezium's field.name.adjustment.mode renamed it."""
        return self._renamed.get(field, field)

    # what Debezium does not tell -------------------------------------------------------------------------------------------------------

    def _is_another_tables(self, envelope: Envelope, rows: _Rows) -> bool:
        """An event that a router of the connector brought here, of its signal table for example. A partition's is ours."""
        source, table = envelope.source, self._table
        elsewhere = source.table != table.name or source.schema != table.schema
        return elsewhere and envelope.op is not EventOp.TRUNCATE and not rows.names.issuperset(table.primary_key)

    def _from_debezium(self, seen: Seen, rows: _Rows) -> Seen:
        """Raises SchemaError for a delete that does not say of what."""
        envelope = seen.envelope
        doubts = {**seen.doubts, **self._untold}
        streamed = envelope.op is not EventOp.READ
        if streamed and envelope.source.snapshot is not None:  # the default of that field, which is null in the log's events
            doubts |= dict.fromkeys(rows.defaulted, DEFAULTED)
        if envelope.op is EventOp.UPDATE and envelope.before is None and seen.after is not None:
            doubts |= {name: UNCHANGED for name in self._unchanged if seen.after.get(name, "") is None}
        moved_from = seen.moved_from
        if self._table.replica_identity == "i":
            if envelope.op is EventOp.DELETE and not seen.moved_on and _is_no_key(seen.key):
                raise SchemaError(NO_KEY)
            if _is_no_key(moved_from) and seen.after is not None:  # the identity changed, not the key
                moved_from = {name: seen.after.get(name) for name in self._table.primary_key}
        return seen._replace(doubts=doubts, moved_from=moved_from)


class _Documents:
    """Reads documents of the JSON converter. A schema that was seen before is known by its bytes and not parsed again.

    `compiled` makes of a schema what its documents are read with.
    """

    def __init__(self, compiled: Callable[[Mapping[str, Any]], Any]) -> None:
        self._compiled = compiled
        self._known: dict[bytes, Any] = {}  # what stands before the payload → compiled

    def read(self, data: bytes) -> tuple[Any, Any]:
        """(compiled, or None without a schema; the payload). Raises NotAnEvent."""
        for prefix, compiled in self._known.items():
            if data.startswith(prefix):
                try:
                    return compiled, orjson.loads(memoryview(data)[len(prefix) : -1])
                except orjson.JSONDecodeError:
                    break
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise NotAnEvent(f"not JSON: {error}") from error
        if not isinstance(document, dict) or document.keys() != {"schema", "payload"} or not _is_schema(document["schema"]):
            return None, document
        try:
            compiled = self._compiled(document["schema"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise NotAnEvent(f"not the schema of a change event: {error!r}") from error
        self._learn(data, document["schema"], compiled)
        return compiled, document["payload"]

    def _learn(self, data: bytes, schema: Any, compiled: Any) -> None:
        mark = b'"payload":'
        prefix = data[: data.find(mark) + len(mark)]
        try:
            alone = orjson.loads(prefix + b"null}")
        except orjson.JSONDecodeError:
            return
        if alone == {"schema": schema, "payload": None} and data.endswith(b"}"):
            if len(self._known) >= KNOWN_SCHEMAS:
                self._known.pop(next(iter(self._known)))
            self._known[prefix] = compiled


def _is_schema(schema: Any) -> bool:
    return isinstance(schema, dict) and "type" in schema


def _is_no_key(key: Columns | None) -> bool:
    return key is not None and any(part in _NO_KEYS for part in key.values())


def _as_avro(name: str) -> str:
    """How field.name.adjustment.mode=avro writes a column's name."""
    adjusted = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return f"_{adjusted}" if adjusted[:1].isdigit() else adjusted


def _schema_id(data: bytes | None) -> int | None:
    return schema_id_of(data) if data is not None and data[:1] == b"\0" and len(data) >= 5 else None


def _row_schema(envelope: Any) -> Mapping[str, Any]:
    """The Avro record of a row, inside the envelope's schema. Raises NotAnEvent."""
    for field in envelope.get("fields", ()) if isinstance(envelope, dict) else ():
        if field["name"] in ("before", "after"):
            branches = field["type"] if isinstance(field["type"], list) else [field["type"]]
            for branch in branches:
                if isinstance(branch, dict) and branch.get("type") == "record":
                    return branch
    raise NotAnEvent("not the schema of a change event: no record of the row in it")


def _branch(kind: Any) -> tuple[str, str]:
    """(type, semantic name) of a column's Avro type."""
    if isinstance(kind, list):
        kind = next((branch for branch in kind if branch != "null"), "null")
    if isinstance(kind, dict):
        inner = kind["type"]
        return _branch(inner) if isinstance(inner, list | dict) else (str(inner), str(kind.get("connect.name", "")))
    return str(kind), ""
