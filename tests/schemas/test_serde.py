"""The wire format: what is written is read back, and garbage is refused with the right error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import NotAnEvent, SchemaError, UnknownSchema
from schemas.registry import MemoryRegistry
from schemas.serde import Codec, schema_id_of, wire_header

POINT = {
    "type": "record",
    "name": "a.Thing",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "name", "type": ["null", "string"], "default": None},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
    ],
}


@given(st.integers(-(2**63), 2**63 - 1), st.none() | st.text(st.characters(codec="utf-8")), st.lists(st.text(st.characters(codec="utf-8"))))
def test_a_datum_survives_encode_and_decode(number: int, name: str | None, tags: list[str]) -> None:
    codec = Codec(MemoryRegistry())
    datum = {"id": number, "name": name, "tags": tags}
    data = codec.encoder("thing-value", POINT)(datum)
    assert codec.decode(data) == (schema_id_of(data), datum)


@given(st.binary(max_size=200))
def test_garbage_under_a_known_schema_is_refused_or_is_read_to_its_last_byte(garbage: bytes) -> None:
    registry = MemoryRegistry()
    codec = Codec(registry)
    header = wire_header(registry.register("thing-value", POINT))
    try:
        _, datum = codec.decode(header + garbage)
    except NotAnEvent:
        return
    assert set(datum) == {"id", "name", "tags"}


@given(st.binary(max_size=50) | st.none())
def test_garbage_alone_is_no_event(garbage: bytes | None) -> None:
    with pytest.raises((NotAnEvent, UnknownSchema)):
        Codec(MemoryRegistry()).decode(garbage)


def test_bytes_left_over_are_refused() -> None:
    codec = Codec(MemoryRegistry())
    data = codec.encoder("thing-value", POINT)({"id": 1, "name": None, "tags": []})
    with pytest.raises(NotAnEvent, match="3 bytes are left over"):
        codec.decode(data + b"abc")


def test_a_datum_that_does_not_fit_its_schema_is_a_schema_error() -> None:
    encode = Codec(MemoryRegistry()).encoder("thing-value", POINT)
    for datum in (
        {"id": "x", "name": None, "tags": []},
        {"name": None},
        None,
        {"id": 1, "name": 5, "tags": []},
        {"id": 1, "name": "\ud800", "tags": []},
    ):
        with pytest.raises(SchemaError):
            encode(datum)


def test_the_same_schema_has_one_id_whatever_the_order_of_its_keys() -> None:
    shuffled = {"fields": POINT["fields"], "name": "a.Thing", "type": "record"}
    assert MemoryRegistry().register("one", POINT) == MemoryRegistry().register("two", shuffled)
