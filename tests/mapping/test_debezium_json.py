"""Rows as Debezium's JSON converter writes them, with schemas and without → what PostgreSQL prints.

The rows are those of `test_debezium_events.py`, as they were captured; here they are read as they are.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.catalog import Column, Table
from schemas.errors import SchemaError
from schemas.mapping.debezium import PLACEHOLDER, iso_interval
from schemas.mapping.debezium_json import CatalogColumns, connect_columns
from schemas.mapping.doubts import of_settings, of_type, of_unchanged
from tests.mapping.mapping_builders import a_column
from tests.mapping.test_debezium_events import LEFT_OUT, LOST, READ, ROW, datum

TYPES = json.loads((Path(__file__).parent / "debezium_types.json").read_text())
# the file has the modifiers of columns, not of arrays' elements
COLUMNS = tuple(Column(**({**column, "scale": 2} if column["name"] == "c_numa" else column)) for column in TYPES["columns"])
TABLE = Table("public", "types_all", COLUMNS, ("id",))


def a_reader(**columns: str) -> CatalogColumns:
    return CatalogColumns(Table("public", "t", tuple(a_column(name, kind) for name, kind in columns.items()), ("id",)))


@pytest.mark.parametrize("row", TYPES["rows"])
def test_with_schemas_json_says_what_avro_says(row: str) -> None:
    whole = {field["field"]: TYPES["rows"][row].get(field["field"]) for field in TYPES["fields"]}  # the file leaves nulls out
    assert connect_columns([(field["field"], field) for field in TYPES["fields"]], TABLE)(whole) == READ(datum(ROW, whole))


@pytest.mark.parametrize("row", TYPES["rows"])
def test_without_schemas_the_catalog_says_the_same(row: str) -> None:
    said = CatalogColumns(TABLE).read(TYPES["rows"][row])
    true = READ(datum(ROW, TYPES["rows"][row]))
    if said.get("c_num_neg") is not None:
        assert str(true["c_num_neg"]).startswith("12300.000")
    for name in said.keys() - LEFT_OUT - {"c_varbit"}:  # whose length nothing tells
        assert said[name] == true[name], name


def test_decimals_are_read_as_bytes_and_as_text() -> None:
    read = a_reader(n="numeric(10,2)", u="numeric").read
    assert read({"n": "EtaH", "u": {"scale": 1, "value": "9Q=="}}) == {"n": "12345.67", "u": "-1.1"}
    read = a_reader(n="numeric(10,2)", u="numeric").read
    assert read({"n": "12345.67", "u": "-1.10"}) == {"n": "12345.67", "u": "-1.10"}
    assert read({"u": "NAN"}) == {"u": "NaN"}
    assert read({"u": "NEGATIVE_INFINITY"}) == {"u": "-Infinity"}
    assert read({"u": PLACEHOLDER}) == {}


def test_what_may_be_a_decimals_bytes_or_its_text_is_refused_until_another_has_told() -> None:
    reader = a_reader(n="numeric(12,0)", m="numeric(10,2)")
    with pytest.raises(SchemaError, match=r"schemas\.enable must be true"):
        reader.read({"n": "1234"})
    reader.read({"m": "1.50"})
    assert reader.read({"n": "1234"}) == {"n": "1234"}
    reader = a_reader(n="numeric(12,0)", m="numeric(10,2)")
    reader.read({"m": "AJY="})
    assert reader.read({"n": "1234"}) == {"n": str(int.from_bytes(base64.b64decode("1234"), "big", signed=True))}


@given(st.integers(-(10**12) + 1, 10**12 - 1), st.integers(0, 5), st.booleans())
def test_a_decimal_never_changes_its_value_whichever_way_it_came(n: int, scale: int, precise: bool) -> None:
    text = f"{'-' * (n < 0)}{str(abs(n)).rjust(scale + 1, '0')}"
    text = f"{text[:-scale]}.{text[-scale:]}" if scale else text
    data = base64.b64encode(n.to_bytes((n if n >= 0 else ~n).bit_length() // 8 + 1, "big", signed=True)).decode()
    faults: dict[str, str] = {}
    found = a_reader(n=f"numeric(12,{scale})").read({"n": data if precise else text}, faults)
    assert found == {"n": text} or "bytes as well as its text" in faults["n"]


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        ("numeric", 1.5, "decimal.handling.mode must be precise or string"),
        ("numeric(10,2)", "x y", "neither a decimal's bytes nor its text"),
        ("date", "2024-02-29Z", "time.precision.mode must be adaptive"),
        ("timestamp without time zone", "2024-02-29T00:00:00Z", "time.precision.mode must be adaptive"),
        ("bytea", "abc", "binary.handling.mode must be bytes"),
        ("integer", "7", "is no whole number"),
        ("integer", True, "is no whole number"),
        ("text", 7, "is no text"),
        ("boolean", 1, "is not a boolean"),
        ("text[]", [1], "other things than texts"),
        ("integer[]", 7, "is no array"),
    ],
)
def test_a_value_that_cannot_be_the_columns_is_refused_and_says_which_setting(kind: str, value: Any, told: str) -> None:
    faults: dict[str, str] = {}
    assert a_reader(id="integer", a=kind).read({"id": 1, "a": value}, faults) == {"id": "1"}
    assert told in faults["a"]
    with pytest.raises(SchemaError, match=r"public\.t: a has a value that"):
        a_reader(a=kind).read({"a": value})


def test_a_column_that_the_catalog_does_not_know_is_left_out() -> None:
    assert a_reader(id="integer").read({"id": 1, "fresh": {"x": 1}}) == {"id": "1"}


@pytest.mark.parametrize(
    ("iso", "text"),
    [
        ("P1Y2M-3DT4H5M6.789S", "1 year 2 mons -3 days +04:05:06.789"),
        ("P0Y-1M2DT-3H-4M-5.678S", "-1 mons +2 days -03:04:05.678"),
        ("P0Y0M0DT0H0M-0.5S", "-00:00:00.5"),
        ("P0Y0M1DT0H0M-1S", "1 day -00:00:01"),
        ("P178000000Y0M0DT0H0M0S", "178000000 years"),
        ("P0Y0M0DT0H0M0S", "00:00:00"),
    ],
)
def test_an_interval_as_iso_text_is_what_postgres_prints(iso: str, text: str) -> None:
    assert iso_interval(iso) == text
    assert a_reader(i="interval").read({"i": iso}) == {"i": text}


def test_unchanged_values_are_left_out_whatever_their_type() -> None:
    kinds = {
        **{"a": "text", "b": "bytea", "c": "hstore", "d": "text[]", "e": "integer[]", "f": "uuid[]", "g": "date[]", "h": "bytea[]"},
        **{"i": "numeric", "j": "jsonb"},
    }
    codes = list(PLACEHOLDER.encode())
    base = base64.b64encode(PLACEHOLDER.encode()).decode()
    row = {
        "a": PLACEHOLDER,
        "b": base,
        "c": json.dumps({PLACEHOLDER: PLACEHOLDER}, separators=(",", ":")),
        "d": [PLACEHOLDER],
        "e": codes,
        "f": ["b68a35a7-17ad-35b3-af2a-ae46edb4545a"],
        "g": codes,
        "h": [base],
        "i": PLACEHOLDER,
        "j": PLACEHOLDER,
    }
    assert a_reader(**kinds).read(row) == {}


def test_settings_that_lose_values_show_in_the_schema() -> None:
    assert "decimal.handling.mode" in str(of_settings(a_column("n", "numeric"), "double", ""))
    assert "time.precision.mode" in str(of_settings(a_column("d", "date"), "string", "io.debezium.time.IsoDate"))
    cut = "org.apache.kafka.connect.data.Timestamp"
    assert "time.precision.mode" in str(of_settings(a_column("t", "timestamp without time zone"), "long", cut))
    assert of_settings(a_column("t", "timestamp without time zone(3)"), "long", cut) is None
    assert "binary.handling.mode" in str(of_settings(a_column("b", "bytea"), "string", ""))
    for column in COLUMNS:
        field = next((field for field in TYPES["fields"] if field["field"] == column.name), None)
        if field is not None:
            assert of_settings(column, field["type"], field.get("name", "")) is None, column.name


def test_types_that_debezium_cannot_carry_are_named() -> None:
    assert {column.name for column in COLUMNS if of_type(column)} == {"c_name"}
    unchanged = of_unchanged(TABLE)
    assert unchanged >= {"c_numa", "c_tsa", "c_tstza", "c_enuma"}
    assert not unchanged & {"c_texta", "c_inta", "c_int8a", "c_uuida", "c_datea", "c_jsonba", "c_byteaa"}


def test_what_the_captured_rows_lose_is_told_by_the_table_of_losses() -> None:
    """The same list as for Avro: JSON loses nothing more."""
    said = CatalogColumns(TABLE).read(TYPES["rows"]["101"])
    for name in said.keys() - LEFT_OUT - LOST.keys() - {"c_serial", "c_gen", "c_bool", "c_bit1", "c_boola", "c_char"}:
        assert said[name] == TYPES["postgres"]["101"].get(name), name
