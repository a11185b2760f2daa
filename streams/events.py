"""Captured records, read: wire format → envelope → column texts. What intake sees of an event before it knows the entity.

key, value   Avro in the wire format ─▶ datum ─▶ schemas.envelope ─▶ schemas.mapping.debezium ─▶ text of each column
headers      concord.columns (what the body cannot hold), __debezium.oldkey and .newkey (a row's key changed)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from schemas.envelope import Envelope, column_texts, envelope_from_avro
from schemas.errors import NotAnEvent, UnknownSchema
from schemas.mapping import event_columns
from schemas.serde import Codec, schema_id_of
from streams.transport import Record

Columns = dict[str, str | None]
OLD_KEY, NEW_KEY = "__debezium.oldkey", "__debezium.newkey"


class Seen(NamedTuple):
    """One captured event, read as far as it can be without knowing the entity."""

    record: Record
    envelope: Envelope
    position: str
    key: Columns | None  # of the record's key
    before: Columns | None
    after: Columns | None
    moved_from: Mapping[str, Any] | None  # the old key, of the second event of a key change
    moved_on: bool  # the first event of a key change: the row lives on under another key
    columns: frozenset[str]  # that the table had when the event was captured


class Events:
    """Reads captured records: wire format, envelope, column texts."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._rows: dict[int, tuple[Callable[[Mapping[str, Any]], Columns], frozenset[str]]] = {}
        self._keys: dict[int, Callable[[Mapping[str, Any]], Columns]] = {}

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

    def read(self, record: Record) -> Seen:
        """Raises NotAnEvent, UnknownSchema, SchemaError."""
        schema_id, datum = self._codec.decode(record.value)
        envelope = envelope_from_avro(datum)
        known = self._rows.get(schema_id)
        if known is None:
            row = _row_schema(self._codec.registry.schema(schema_id))
            names = frozenset(str(field.get("concord.column", field["name"])) for field in row["fields"])
            known = self._rows[schema_id] = (event_columns(row), names)
        columns, names = known
        texts = column_texts(record.headers)
        headers = dict(record.headers or ())
        return Seen(
            record=record,
            envelope=envelope,
            position=str(envelope.position),
            key=self._key(record.key),
            before=None if envelope.before is None else texts.amend_before(columns(envelope.before)),
            after=None if envelope.after is None else texts.amend_after(columns(envelope.after)),
            moved_from=_header_key(headers.get(OLD_KEY)),
            moved_on=_header_key(headers.get(NEW_KEY)) is not None,
            columns=names,
        )

    def _key(self, data: bytes | None) -> Columns | None:
        if data is None:
            return None
        schema_id, datum = self._codec.decode(data)
        columns = self._keys.get(schema_id)
        if columns is None:
            columns = self._keys[schema_id] = event_columns(self._codec.registry.schema(schema_id))  # type: ignore[arg-type]
        return columns(datum)


def _schema_id(data: bytes | None) -> int | None:
    try:
        return None if data is None else schema_id_of(data)
    except NotAnEvent:
        return None


def _row_schema(envelope: Any) -> Mapping[str, Any]:
    """The Avro record of a row, inside the envelope's schema. Raises NotAnEvent."""
    for field in envelope.get("fields", ()) if isinstance(envelope, dict) else ():
        if field["name"] in ("before", "after"):
            branches = field["type"] if isinstance(field["type"], list) else [field["type"]]
            for branch in branches:
                if isinstance(branch, dict) and branch.get("type") == "record":
                    return branch
    raise NotAnEvent("not the schema of a change event: no record of the row in it")


def _header_key(value: bytes | None) -> Mapping[str, Any] | None:
    """The key in a header, if it can be read: what cannot be handed on is a delete and an insert."""
    try:
        key = orjson.loads(value) if value else None
    except orjson.JSONDecodeError:
        return None
    readable = isinstance(key, dict) and all(isinstance(part, str | int) and not isinstance(part, bool) for part in key.values())
    return key if readable and key else None
