"""Functions made for an Avro schema read and write what fastavro reads and writes, byte for byte, and refuse what makes no sense."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import compiled_avro
from schemas.errors import SchemaError
from schemas.golden import golden_schema
from schemas.registry import MemoryRegistry
from schemas.serde import Codec

TEXT = st.text(st.characters(codec="utf-8"), max_size=80)
LONG = st.integers(-(1 << 63), (1 << 63) - 1)
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 4}
PLAIN: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "string": ("string", TEXT),
    "long": ("long", LONG),
    "int": ("int", st.integers(-(1 << 31), (1 << 31) - 1)),
    "boolean": ("boolean", st.booleans()),
    "double": ("double", st.floats(allow_nan=False)),
    "float": ("float", st.floats(allow_nan=False, width=32)),
    "bytes": ("bytes", st.binary(max_size=80)),
    "decimal": (DECIMAL, st.decimals(-(10**9), 10**9, places=4)),
    "named": ({"type": "string", "connect.name": "io.debezium.data.Enum"}, TEXT),
}


@st.composite
def schemas_and_data(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A record of fields that may be null, or records themselves, one of them named a second time; and a datum of it."""
    inner, inner_datum = draw(records("inner"))
    fields, datum = draw(fields_and_data())
    fields += [{"name": "before", "type": ["null", inner]}, {"name": "after", "type": ["null", "a.inner"]}, {"name": "kind", "type": KIND}]
    datum |= {"before": draw(st.sampled_from([None, inner_datum])), "after": draw(st.sampled_from([None, inner_datum]))}
    datum["kind"] = draw(st.sampled_from(KIND["symbols"]))
    return {"type": "record", "name": "a.outer", "fields": fields}, datum


KIND: dict[str, Any] = {"type": "enum", "name": "a.kind", "symbols": ["one", "two", "three"]}


@st.composite
def fields_and_data(draw: st.DrawFn) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    fields, datum = [], {}
    for number, name in enumerate(draw(st.lists(st.sampled_from(sorted(PLAIN)), min_size=1, max_size=8))):
        kind, values = PLAIN[name]
        shape = draw(st.sampled_from([kind, ["null", kind], [kind, "null"]]))
        fields.append({"name": f"f{number}", "type": shape})
        datum[f"f{number}"] = draw(st.none() | values if isinstance(shape, list) else values)
    return fields, datum


@st.composite
def records(draw: st.DrawFn, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    fields, datum = draw(fields_and_data())
    return {"type": "record", "name": f"a.{name}", "fields": fields}, datum


def body_of(schema: Any, datum: Any) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, schema, datum)
    return body.getvalue()


def reader_of(schema: Any) -> Callable[[bytes, int], Any]:
    read = compiled_avro.reader(schema)
    assert read is not None
    return read


@given(schemas_and_data())
def test_what_fastavro_wrote_is_read_as_fastavro_reads_it(given_: tuple[dict[str, Any], dict[str, Any]]) -> None:
    schema, datum = fastavro.parse_schema(given_[0]), given_[1]
    body = body_of(schema, datum)
    expected = fastavro.schemaless_reader(io.BytesIO(body), schema, None)
    assert reader_of(schema)(b"12345" + body, 5) == expected


@settings(max_examples=300)
@given(schemas_and_data(), st.data())
def test_bytes_that_were_changed_are_read_as_fastavro_reads_them_or_refused(
    given_: tuple[dict[str, Any], dict[str, Any]], data: st.DataObject
) -> None:
    schema, body = fastavro.parse_schema(given_[0]), bytearray(body_of(fastavro.parse_schema(given_[0]), given_[1]))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        found = reader_of(schema)(bytes(body), 0)
    except (ValueError, LookupError, TypeError, ArithmeticError, struct.error):
        return
    stream = io.BytesIO(bytes(body))
    assert repr(found) == repr(fastavro.schemaless_reader(stream, schema, None))  # by text: a NaN is not equal to itself
    assert stream.tell() == len(body)


def test_a_boolean_that_is_neither_is_refused() -> None:
    read = reader_of(fastavro.parse_schema({"type": "record", "name": "r", "fields": [{"name": "f", "type": "boolean"}]}))
    assert [read(bytes([byte]), 0) for byte in (0, 1)] == [{"f": False}, {"f": True}]
    with pytest.raises(IndexError):
        read(b"\x02", 0)


@given(st.dictionaries(st.sampled_from(["name", "city", "active"]), TEXT), st.booleans(), TEXT)
def test_a_golden_record_is_written_as_fastavro_writes_it(values: dict[str, Any], deleted: bool, told: str) -> None:
    schema = golden_schema("customer", {"name": "text", "city": "text", "active": "boolean"})
    datum = {**values, "active": deleted if "active" in values else None, "deleted": deleted, "concord": told}
    write = compiled_avro.writer(schema)
    assert write is not None
    assert b"".join(write(datum)) == body_of(fastavro.parse_schema(schema), datum)


@given(LONG)
def test_whole_numbers_are_written_as_fastavro_writes_them(number: int) -> None:
    schema = {"type": "record", "name": "a.Number", "fields": [{"name": "n", "type": "long"}, {"name": "m", "type": ["long", "null"]}]}
    write = compiled_avro.writer(schema)
    assert write is not None
    for datum in ({"n": number, "m": number}, {"n": number, "m": None}):
        assert b"".join(write(datum)) == body_of(fastavro.parse_schema(schema), datum)


@pytest.mark.parametrize("value", [1, b"text", ["text"], "a lone \udc80"])
def test_a_value_of_another_type_is_not_written(value: Any) -> None:
    encode = Codec(MemoryRegistry()).encoder("golden.customer-value", golden_schema("customer", {"name": "text"}))
    with pytest.raises(SchemaError, match=r"golden\.customer-value"):
        encode({"name": value, "deleted": False, "concord": "{}"})


@pytest.mark.parametrize(
    "kind",
    [
        {"type": "array", "items": "string"},
        {"type": "map", "values": "string"},
        ["null", "a.itself"],
    ],
    ids=["array", "map", "recursive"],
)
def test_what_is_not_known_is_left_to_fastavro(kind: Any) -> None:
    schema = {"type": "record", "name": "a.itself", "fields": [{"name": "f", "type": kind}]}
    assert compiled_avro.reader(fastavro.parse_schema(schema)) is None
    assert compiled_avro.writer(schema) is None
