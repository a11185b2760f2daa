"""Rows as Debezium sends them → what PostgreSQL prints.

`debezium_types.json` holds one table with a column of every type: Debezium 3.6's Connect schema, its rows (ids below 100 by snapshot, from
101 streamed) and what `column::text` says in PostgreSQL 15 for the same rows.
"""

from __future__ import annotations

import base64
import json
import struct
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from schemas.catalog import Column
from schemas.errors import SchemaError
from schemas.mapping import event_columns
from schemas.mapping.kinds import codec_for

TYPES = json.loads((Path(__file__).parent / "debezium_types.json").read_text())
AVRO = {"int8": "int", "int16": "int", "int32": "int", "int64": "long", "float32": "float", "float64": "double", "float": "float"}


def avro(connect: dict[str, Any]) -> Any:
    """A Connect schema as Confluent's converter writes it in Avro."""
    kind = connect["type"]
    names = {"connect.name": connect["name"]} if "name" in connect else {}
    if "parameters" in connect:
        names["connect.parameters"] = connect["parameters"]
    schema: Any
    if kind == "struct":
        name = connect.get("name", "Row")
        schema = {"type": "record", "name": name, "fields": [{"name": f["field"], "type": avro(f)} for f in connect["fields"]], **names}
    elif kind == "array":
        schema = {"type": "array", "items": avro(connect["items"]), **names}
    else:
        plain = AVRO.get(kind, kind)
        schema = {"type": plain, **names} if names else plain
        if connect.get("name", "").endswith("data.Decimal"):
            schema |= {"logicalType": "decimal", "scale": int(connect["parameters"]["scale"]), "precision": 64}
    return ["null", schema] if connect.get("optional") else schema


def datum(connect: dict[str, Any], value: Any) -> Any:
    """A value of the JSON converter as the Avro converter gives it."""
    if value is None:
        return None
    if connect["type"] == "bytes":
        return base64.b64decode(value)
    if connect["type"] == "array":
        return [datum(connect["items"], item) for item in value]
    if connect["type"] == "struct":
        return {f["field"]: datum(f, value.get(f["field"])) for f in connect["fields"]}
    if connect["type"] == "float":
        return struct.unpack("<f", struct.pack("<f", float(value)))[0]
    return float(value) if connect["type"] == "double" else value


ROW = {"type": "struct", "fields": TYPES["fields"]}
READ = event_columns(avro(ROW))
COLUMNS = {column["name"]: Column(**column) for column in TYPES["columns"]}

# What Debezium itself loses or tells otherwise, row by row; our own source sends these in a header beside the event.
LOST = {
    "c_num": {"3"},  # NaN
    "c_timetz": {"1"},  # the zone
    "c_interval": {"1", "9", "13"},  # months and days
    "c_num_neg": {"1"},  # a negative scale
    "c_inta2": {"1"},  # more than one dimension
    "c_varbit": {"1", "10"},  # its length
    "c_money": {"1", "11", "13"},  # the locale's signs
    "c_hstore": {"1", "10"},  # as JSON
    "c_name": {"101"},  # null when streamed
    "c_date": {"7"},  # BC in a snapshot
    "c_int4mr": {"1"},
}
LEFT_OUT = {"c_gen", "c_int4mr", "c_tsquery", "c_regclass", "c_box", "c_polygon", "c_circle", "c_pair", "c_pglsn"}


@pytest.mark.parametrize("row", TYPES["rows"])
def test_a_row_of_every_type_says_what_postgres_prints(row: str) -> None:
    said = READ(datum(ROW, TYPES["rows"][row]))
    true = TYPES["postgres"][row]
    for name in said:
        lost = LOST.get(name, set())
        if row in lost or (int(row) > 100 and str(int(row) - 100) in lost - {"7"}) or name in ("c_serial", "c_gen"):
            continue
        if name in ("c_nn_ts", "c_def_num", "c_nn_text", "c_nn_int") and row not in ("1", "101"):
            continue
        text, expected = said[name], true.get(name)
        if name == "c_bit1" and text is not None:
            text = {"t": "1", "f": "0"}[text]
        if name in ("c_char",) and text is not None:  # PostgreSQL's cast to text takes the padding off, its log has it
            text = text.rstrip(" ")
        if name == "c_bool" and text is not None:
            text = {"t": "true", "f": "false"}[text]
        if name == "c_boola" and expected is not None:
            assert text == "{t,f,NULL}"
            continue
        if name == "c_timetz" and expected == "24:00:00+00":
            assert text == "00:00:00+00"
            continue
        assert text == expected, name


@pytest.mark.parametrize("name", sorted(name for name in COLUMNS.keys() - LEFT_OUT - LOST.keys() if codec_for(COLUMNS[name])))
def test_both_texts_of_a_value_have_one_normal_form(name: str) -> None:
    codec = codec_for(COLUMNS[name])
    assert codec is not None
    for row in TYPES["rows"]:
        said = READ(datum(ROW, TYPES["rows"][row])).get(name)
        true = TYPES["postgres"][row].get(name)
        if said is None or true is None or name in ("c_serial", "c_nn_ts"):
            continue
        if name == "c_boola":
            continue
        assert (codec.read or str)(said) == (codec.read or str)(true), row


def row_of(*columns: tuple[str, Any], **values: Any) -> dict[str, str | None]:
    return event_columns({"type": "record", "name": "R", "fields": [{"name": name, "type": kind} for name, kind in columns]})(values)


def test_an_unchanged_toast_value_is_absent() -> None:
    variable = {"type": "record", "name": "io.debezium.data.VariableScaleDecimal", "connect.name": "io.debezium.data.VariableScaleDecimal"}
    variable["fields"] = [{"name": "scale", "type": "int"}, {"name": "value", "type": "bytes"}]  # type: ignore[assignment]
    columns = [
        ("id", "long"),
        ("big", ["null", "string"]),
        ("js", ["null", {"type": "string", "connect.name": "io.debezium.data.Json"}]),
        ("bin", ["null", "bytes"]),
        ("list", ["null", {"type": "array", "items": ["null", "string"]}]),
        ("ints", ["null", {"type": "array", "items": ["null", "int"]}]),
        ("num", ["null", variable]),
    ]
    placeholder = "__debezium_unavailable_value"
    read = row_of(
        *columns,
        id=1,
        big=placeholder,
        js=placeholder,
        bin=placeholder.encode(),
        list=[placeholder],
        ints=list(placeholder.encode()),
        num={"scale": 0, "value": placeholder.encode()},
    )
    assert read == {"id": "1"}


def test_decimals_come_as_decimals_or_as_bytes() -> None:
    decimal = {
        "type": "bytes",
        "logicalType": "decimal",
        "scale": 2,
        "precision": 12,
        "connect.name": "org.apache.kafka.connect.data.Decimal",
    }
    assert row_of(("n", decimal), n=Decimal("10.50")) == {"n": "10.50"}
    assert row_of(("n", decimal), n=(-1).to_bytes(1, "big", signed=True)) == {"n": "-0.01"}
    assert row_of(("n", decimal), n=Decimal("0.00")) == {"n": "0.00"}


def test_a_named_type_defined_elsewhere_in_the_envelope_is_known_by_its_name() -> None:
    assert row_of(("n", ["null", "io.debezium.data.VariableScaleDecimal"]), n={"scale": 3, "value": b"\x01"}) == {"n": "0.001"}


def test_a_type_is_defined_once_and_named_after_that() -> None:
    point = {"type": "record", "name": "Point", "namespace": "io.debezium.data.geometry", "fields": [{"name": "x", "type": "double"}]}
    columns = (("a", ["null", point]), ("b", ["null", "io.debezium.data.geometry.Point"]))
    read = row_of(*columns, a={"x": 1.5, "y": 2.0}, b={"x": -0.0, "y": 1e300})
    assert read == {"a": "(1.5,2)", "b": "(-0,1e+300)"}


def test_a_column_whose_name_avro_cannot_hold_comes_under_its_own_name() -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": "tax_id", "type": "string", "concord.column": "tax-id"}]}
    assert event_columns(schema)({"tax_id": "x"}) == {"tax-id": "x"}


def test_a_numeric_of_many_thousand_digits_is_read() -> None:
    number = 10**20_000 + 7
    value = {"scale": 5, "value": number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)}
    text = row_of(("n", "io.debezium.data.VariableScaleDecimal"), n=value)["n"]
    assert text is not None
    assert text.startswith("1000")
    assert text.endswith("0.00007")
    assert len(text) == 20_002


@pytest.mark.parametrize(
    ("schema", "row"),
    [
        ("string", {}),
        ({"type": "int", "connect.name": "io.debezium.time.Date"}, {"c": "x"}),
        ({"type": "string", "connect.name": "io.debezium.time.ZonedTimestamp"}, {"c": "yesterday"}),
        ("float", {"c": "x"}),
        ("io.debezium.data.VariableScaleDecimal", {"c": {"scale": 1}}),
    ],
)
def test_a_value_that_is_not_what_its_schema_says_is_refused(schema: Any, row: dict[str, Any]) -> None:
    read = event_columns({"type": "record", "name": "R", "fields": [{"name": "c", "type": schema}]})
    with pytest.raises(SchemaError, match="column 'c'"):
        read(row)


def test_what_is_no_row_schema_is_refused() -> None:
    with pytest.raises(SchemaError, match="expected an Avro record"):
        event_columns({"type": "string"})
