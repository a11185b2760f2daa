"""Captured records are read as what their bytes are: our Avro, Debezium's JSON with schemas and without.

`debezium_events.json` holds records of Debezium 3.6 as they were captured: by occasion and topic, the schemas once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.catalog import Table
from schemas.envelope import EventOp
from schemas.errors import NotAnEvent, SchemaError
from schemas.registry import MemoryRegistry
from schemas.serde import Codec
from streams.chunks_reader import Record
from streams.events import Events, Seen
from tests.mapping.mapping_builders import a_column

CAPTURED = json.loads((Path(__file__).parent / "debezium_events.json").read_text())
SOURCE = {"version": "3.6.3.Final", "connector": "postgresql", "name": "crm", "ts_ms": 1, "snapshot": None, "db": "crm", "schema": "public"}
SOURCE |= {"table": "t", "sequence": '["5","7"]', "lsn": 7, "txId": 9}


def a_table(name: str = "t", identity: str = "d", **columns: str) -> Table:
    columns = {"id": "integer!", **columns}
    return Table("public", name, tuple(a_column(column, kind) for column, kind in columns.items()), ("id",), replica_identity=identity)


def events(table: Table, codec: Codec | None = None) -> Events:
    return Events(codec or Codec(MemoryRegistry()), table)


def a_record(value: Any, key: Any = None, headers: dict[str, Any] | None = None) -> Record:
    def data(document: Any) -> bytes | None:
        return document if document is None or isinstance(document, bytes) else orjson.dumps(document)

    told = [(name, text.encode()) for name, text in (headers or {}).items()]
    return Record("crm.public.t", 0, 0, 0, data(key), data(value), told)


def an_event(after: Any, op: str = "c", before: Any = None, **source: Any) -> dict[str, Any]:
    return {"before": before, "after": after, "source": {**SOURCE, **source}, "op": op, "ts_us": 5, "transaction": None}


def read(events: Events, record: Record) -> Seen:
    seen = events.read(record)
    assert seen is not None
    return seen


def captured(occasion: str, schemas: bool) -> list[Record]:
    """Records as they were captured, with their schemas or as they would be without."""
    (topic,) = CAPTURED[occasion].values()

    def document(payload: Any, schema: Any) -> Any:
        return {"schema": schema, "payload": payload} if schemas and payload is not None else payload

    return [
        a_record(document(one["value"], topic["value_schema"]), document(one["key"], topic["key_schema"]), dict(one["headers"]))
        for one in topic["records"]
    ]


DEFAULT = a_table("f_default", a="text", n="numeric(10,2)")


def test_one_reader_takes_what_comes() -> None:
    reader = events(a_table(a="numeric"))
    for n, document in enumerate((an_event({"id": 1, "a": "1.50"}), {"schema": SCHEMA, "payload": an_event({"id": 1, "a": "1.50"})}) * 2):
        seen = read(reader, a_record(document, {"id": n}))
        assert (seen.after, seen.key, seen.columns) == ({"id": "1", "a": "1.50"}, {"id": str(n)}, {"id", "a"})
        assert seen.envelope.op is EventOp.CREATE
        assert not seen.doubts


def row_schema(**columns: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"field": name, "optional": name != "id", **told} for name, told in columns.items()]


def schema_of(*fields: dict[str, Any]) -> dict[str, Any]:
    row = {"type": "struct", "fields": list(fields), "optional": True}
    return {"type": "struct", "fields": [{**row, "field": "before"}, {**row, "field": "after"}], "name": "crm.public.t.Envelope"}


SCHEMA = schema_of(*row_schema(id={"type": "int32"}, a={"type": "string"}))


def test_a_schema_is_parsed_once_and_known_again_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = events(a_table(a="numeric"))
    read(reader, a_record({"schema": SCHEMA, "payload": an_event({"id": 1, "a": "1"})}))
    monkeypatch.setattr(reader._json_rows, "_compiled", lambda schema: pytest.fail("parsed again"))
    assert read(reader, a_record({"schema": SCHEMA, "payload": an_event({"id": 2, "a": ',"payload":'})})).after == {
        "id": "2",
        "a": ',"payload":',
    }


@pytest.mark.parametrize("occasion", ["24_key_change_ri_default", "36_origin"])
def test_captured_events_say_the_same_with_schemas_and_without(occasion: str) -> None:
    with_schemas, without = ([events(DEFAULT).read(record) for record in captured(occasion, on) if record.value] for on in (True, False))
    assert with_schemas
    for one, other in zip(with_schemas, without, strict=True):
        assert one is not None
        assert other is not None
        assert one._replace(record=other.record, envelope=other.envelope) == other


@pytest.mark.parametrize("schemas", [True, False])
def test_a_key_change_tells_the_old_key(schemas: bool) -> None:
    records = captured("24_key_change_ri_default", schemas)
    gone, born = (read(events(DEFAULT), record) for record in (records[0], records[2]))
    assert (gone.envelope.op, gone.moved_on, gone.key) == (EventOp.DELETE, True, {"id": "10"})
    assert (born.envelope.op, born.moved_from, born.after) == (EventOp.CREATE, {"id": "10"}, {"id": "11", "a": "TEN", "n": "10.10"})


def test_an_old_key_of_any_type_is_read() -> None:
    columns = {"d": "date", "n": "numeric(10,2)", "u": "uuid", "b": "bytea"}
    header = '{"d":19782,"n":1.50,"u":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11","b":"3q0="}'
    seen = read(events(a_table(**columns)), a_record(an_event({"id": 1}), headers={"__debezium.oldkey": header}))
    assert seen.moved_from == {"d": "2024-02-29", "n": "1.50", "u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "b": "\\xdead"}


def test_a_header_that_cannot_be_read_makes_it_a_delete_and_an_insert() -> None:
    for header in ("", "[]", "{", "null", '{"id": null}', '{"id": [1]}', "{}"):
        assert read(events(a_table()), a_record(an_event({"id": 1}), headers={"__debezium.oldkey": header})).moved_from is None


@pytest.mark.parametrize("schemas", [True, False])
def test_unchanged_values_of_a_captured_update_are_not_known(schemas: bool) -> None:
    table = a_table("f_toast", a="integer", big="text", bigj="jsonb", bigb="bytea", biga="text[]", bign="text!")
    assert read(events(table), captured("29_unchanged_toast", schemas)[1]).after == {"id": "1", "a": "2"}


def test_rows_of_an_incremental_snapshot_stand_where_its_window_closed() -> None:
    records = captured("40_incremental_signal_table", schemas=False)
    seen = [read(events(a_table("f_inc", a="text")), record) for record in records]
    assert {one.envelope.op for one in seen} == {EventOp.READ}
    assert {one.envelope.source.lsn for one in seen} == {None}
    assert {one.position for one in seen} == {f"{28500024:016X}" * 2}


def test_what_else_debezium_sends_is_about_no_row() -> None:
    reader = events(a_table(a="text"))
    asides = [
        {"ts_ms": 1},
        {"status": "BEGIN", "id": "9:7", "event_count": None, "data_collections": None, "ts_ms": 1},
        {"op": "m", "source": SOURCE, "message": {"prefix": "p", "content": "eA=="}, "ts_ms": 1},
        an_event({"key": "s1", "type": "execute-snapshot", "data": "{}"}, schema="concord", table="debezium_signal"),
    ]
    assert [reader.read(a_record(aside)) for aside in asides] == [None] * 4
    assert read(reader, a_record(an_event({"id": 1, "a": "x"}, table="t_2026"))).after == {"id": "1", "a": "x"}  # a partition


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"garbage",
        b"{",
        b'{"op": "claim"}',
        b"{}",
        b"[1]",
        b"\0",
        b"\0\0\0\0\7abc",
        b'{"schema":{"type":"struct"},"payload":7}',
        b'{"id":1}',
    ],
)
def test_what_is_no_event_is_refused(value: bytes) -> None:
    with pytest.raises(SchemaError):
        events(a_table()).read(a_record(value))


def test_an_unwrapped_event_says_what_may_be_the_matter() -> None:
    with pytest.raises(NotAnEvent, match="a transformation of the connector"):
        events(a_table(a="text")).read(a_record({"id": 1, "a": "x", "__op": "c"}))


# what Debezium does not tell --------------------------------------------------------------------------------------------------------------


def test_a_converter_that_puts_defaults_for_nulls_is_noticed() -> None:
    """It does so with a field of the source block too, which says nothing in the log's events."""
    table = a_table(a="text=", b="text")
    replaced = read(events(table), a_record(an_event({"id": 1, "a": "x", "b": None}, snapshot="false")))
    assert list(replaced.doubts) == ["a"]
    assert "replace.null.with.default" in replaced.doubts["a"]
    assert not read(events(table), a_record(an_event({"id": 1, "a": "x", "b": None}))).doubts
    schema = schema_of(*row_schema(id={"type": "int32"}, a={"type": "string", "default": "x"}, b={"type": "string"}))
    document = {"schema": schema, "payload": an_event({"id": 1, "a": "x", "b": None}, snapshot="false")}
    assert list(read(events(table), a_record(document)).doubts) == ["a"]


def test_a_null_that_may_be_an_unchanged_array_is_doubted() -> None:
    table = a_table(a="timestamp without time zone[]", b="text[]")
    row = {"id": 1, "a": None, "b": None}
    assert list(read(events(table), a_record(an_event(row, "u"))).doubts) == ["a"]
    assert not read(events(table), a_record(an_event(row, "u", before=row))).doubts
    assert not read(events(table), a_record(an_event(row, "c"))).doubts


def test_a_type_that_debezium_streams_as_null_is_doubted_but_not_from_our_own_source() -> None:
    table = a_table(a="name")
    assert list(read(events(table), a_record(an_event({"id": 1, "a": None}))).doubts) == ["a"]
    assert not read(events(table), a_record(an_event({"id": 1, "a": None}, version="concord 0.1.0"))).doubts


def test_a_value_that_makes_no_sense_is_doubted_by_its_column() -> None:
    seen = read(events(a_table(a="integer", b="text")), a_record(an_event({"id": 1, "a": "seven", "b": "x"})))
    assert seen.after == {"id": "1", "b": "x"}
    assert seen.doubts == {"a": "has a value that is no whole number"}


@pytest.mark.parametrize("schemas", [True, False])
def test_replica_identity_using_index_does_not_tell_which_row_is_gone(schemas: bool) -> None:
    records = [r for r in captured("28_ri_index", schemas) if r.value is not None]
    reader = events(a_table("f_idx", "i", code="text!", a="text"))
    with pytest.raises(SchemaError, match="REPLICA IDENTITY USING INDEX"):
        reader.read(records[-1])
    gone, born = (read(reader, record) for record in records[2:4])  # the index's column changed, the key did not
    assert (gone.moved_on, born.moved_from, born.after and born.after["id"]) == (True, {"id": "1"}, "1")


def test_columns_that_were_renamed_for_avro_come_under_their_own_names() -> None:
    reader = events(a_table(**{"a": "text", "tax id": "text"}))
    document = {"schema": schema_of(*row_schema(id={"type": "int32"}, a={"type": "string"}, tax_id={"type": "string"}))}
    seen = read(reader, a_record({**document, "payload": an_event({"id": 1, "a": "x", "tax_id": "y"})}))
    assert seen.after == {"id": "1", "a": "x", "tax id": "y"}
    assert seen.columns == {"id", "a", "tax id"}
