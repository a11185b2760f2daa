"""Debezium's representation of a row, as its Avro schema describes it → the text PostgreSQL prints for each column.

Real Debezium and our own source both go through here. What Avro's plain types leave open is told by `connect.name` and
`connect.parameters`, as Confluent's converter writes them; a decimal arrives as `Decimal` (fastavro) or as bytes.

A column that holds the unavailable-value placeholder (an unchanged TOAST value) is left out: nothing is known of it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache
from typing import Any

import orjson

from schemas.errors import SchemaError
from schemas.mapping import numbers, times
from schemas.mapping.lists import quoted

PLACEHOLDER = "__debezium_unavailable_value"
PLACEHOLDER_BYTES = PLACEHOLDER.encode()
_PLACEHOLDER_CODES = list(PLACEHOLDER_BYTES)  # what an array of integers holds instead

Columns = dict[str, str | None]
_Text = Callable[[Any], str]

# Infinity has no number; these stand for it. Streamed and snapshot dates of Debezium 3 differ.
_DATES = {-2147472692: "infinity", -2147472691: "-infinity", -622191234: "infinity", -625821272: "-infinity"}
_MICROS = {9223372036825200000: "infinity", -9223372036832400000: "-infinity"}
_MILLIS = {9223372036825200: "infinity", -9223372036832400: "-infinity"}


class _Unavailable(Exception):
    """The value is a placeholder."""


def event_columns(avro_record_schema: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Columns]:
    """The reader of rows of one Avro record schema. Make it once for each schema id and keep it; the last few are kept here as well.

    The reader raises SchemaError on a value that is not what its schema says.
    """
    return _compiled(orjson.dumps(avro_record_schema, option=orjson.OPT_SORT_KEYS, default=str))


@lru_cache(maxsize=512)
def _compiled(schema: bytes) -> Callable[[Mapping[str, Any]], Columns]:
    record = orjson.loads(schema)
    if not isinstance(record, dict) or record.get("type") != "record":
        raise SchemaError(f"not the schema of a row: {str(record)[:80]!r}, expected an Avro record")
    named: dict[str, Any] = {}
    readers = tuple(
        (field["name"], field.get("concord.column", field["name"]), _reader(field["type"], named, field)) for field in record["fields"]
    )

    def read(row: Mapping[str, Any]) -> Columns:
        columns: Columns = {}
        name = ""
        try:
            for name, column, text in readers:
                value = row[name]
                if value is None:
                    columns[column] = None
                elif text is None:
                    if value != PLACEHOLDER:
                        columns[column] = value
                else:
                    try:  # noqa: SIM105 - this runs for every value; a context manager costs as much as the rest
                        columns[column] = text(value)
                    except _Unavailable:
                        pass
        except (KeyError, TypeError, ValueError, ArithmeticError, struct.error) as error:
            raise SchemaError(f"column {name!r} is not what its schema says: {error!r}") from error
        return columns

    return read


def _reader(schema: Any, named: dict[str, Any], field: Mapping[str, Any]) -> _Text | None:
    """None: a string that stands as it is."""
    if isinstance(schema, list):
        branches = [branch for branch in schema if branch != "null"]
        if len(branches) != 1:
            raise SchemaError(f"column {field.get('name')!r}: a union of {len(branches)} types is no column")
        return _reader(branches[0], named, field)
    if isinstance(schema, str):
        if schema in named:
            return _reader(named[schema], {k: v for k, v in named.items() if k != schema}, field)
        schema = {"type": schema, **({"connect.name": field["connect.name"]} if "connect.name" in field else {})}
    kind = schema["type"]
    if isinstance(kind, list | dict):
        return _reader(kind, named, field)
    name = schema.get("connect.name", "")
    parameters = schema.get("connect.parameters") or {}
    if kind in ("record", "enum", "fixed"):
        full = schema["name"] if "." in schema["name"] or "namespace" not in schema else f"{schema['namespace']}.{schema['name']}"
        named[full] = named[schema["name"]] = schema
        name = name or full
    if kind == "array":
        return _array(_element(schema["items"], named, field))
    special = _SEMANTIC.get(name) or _SEMANTIC.get(kind)  # a named type that was defined elsewhere stands here by its name
    if special is not None:
        return special
    if name == "org.apache.kafka.connect.data.Decimal" or schema.get("logicalType") == "decimal":
        return _decimal(int(schema.get("scale", parameters.get("scale", 0))))
    if name == "io.debezium.data.Bits":
        return _bits(int(parameters.get("length", 0)))
    plain = _PLAIN.get(kind)
    if plain is None:
        if kind == "string" or kind == "enum":
            return None
        raise SchemaError(f"column {field.get('name')!r} has a type that no column has: {name or kind!r}")
    return plain


# ── single values ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _date(value: Any) -> str:
    if isinstance(value, date):
        return value.isoformat()
    return _DATES.get(value) or times.date_text(value)


def _micros(value: Any) -> str:
    if isinstance(value, datetime):
        return times.stamp_text(round(value.timestamp() * 1_000_000))
    return _MICROS.get(value) or times.stamp_text(value)


def _millis(value: Any) -> str:
    if isinstance(value, datetime):
        return _micros(value)
    return _MILLIS.get(value) or times.stamp_text(value * 1000)


def _nanos(value: Any) -> str:
    return times.stamp_text(value // 1000)


def _time_micros(value: Any) -> str:
    if isinstance(value, time):
        return value.isoformat().rstrip("0") if value.microsecond else value.isoformat()
    return times.clock_text(value)


def _time_millis(value: Any) -> str:
    return _time_micros(value) if isinstance(value, time) else times.clock_text(value * 1000)


def _time_nanos(value: Any) -> str:
    return times.clock_text(value // 1000)


def _zoned_timestamp(value: str) -> str:
    """2024-02-29T11:14:15.123456Z, -0043-03-15T12:00:00Z for BC, +20000-… after 9999."""
    if len(value) == 27 and value[19] == ".":
        return f"{value[:10]} {value[11:19]}{value[19:26].rstrip('0').rstrip('.')}+00"
    if value in times.INFINITE:
        return value
    if value == PLACEHOLDER:
        raise _Unavailable
    if value[0] == "-":
        text = times.stamp_text(times.micros_of(f"{1 + int(value[1 : value.index('-', 1)]):04d}{value[value.index('-', 1) :]} BC"))
    else:
        text = times.stamp_text(times.micros_of(value.removeprefix("+")))
    return f"{text[:-3]}+00 BC" if text.endswith(" BC") else f"{text}+00"


def _zoned_time(value: str) -> str:
    return times.normal_timetz(value)


def _duration(value: int) -> str:
    """Microseconds as hours: days and months are lost on the way, Debezium's month being 30.4375 days."""
    return f"-{times.clock_text(-value)}" if value < 0 else times.clock_text(value)


def _variable_decimal(value: Mapping[str, Any]) -> str:
    if value["value"] == PLACEHOLDER_BYTES:
        raise _Unavailable
    return _unscaled(int.from_bytes(value["value"], "big", signed=True), value["scale"])


def _unscaled(number: int, scale: int) -> str:
    """Digits and scale → text with that many digits after the point, as PostgreSQL prints a numeric."""
    digits = format(Decimal(abs(number)), "f")  # str() of an int this long may be refused
    if scale < 0:
        digits += "0" * -scale if number else ""
    elif scale > 0:
        digits = digits.rjust(scale + 1, "0")
        digits = f"{digits[:-scale]}.{digits[-scale:]}"
    return f"-{digits}" if number < 0 else digits


def _decimal(scale: int) -> _Text:
    def text(value: Any) -> str:
        if isinstance(value, Decimal):
            return format(value, "f")
        if value == PLACEHOLDER_BYTES:
            raise _Unavailable
        return _unscaled(int.from_bytes(value, "big", signed=True), scale)

    return text


def _bits(length: int) -> _Text:
    def text(value: bytes) -> str:
        number = int.from_bytes(value, "little")
        return f"{number:0{length}b}" if length else f"{number:b}"

    return text


def _point(value: Mapping[str, Any]) -> str:
    return f"({numbers.float8_text(value['x'])},{numbers.float8_text(value['y'])})"


def _bytes(value: bytes) -> str:
    if value == PLACEHOLDER_BYTES:
        raise _Unavailable
    return f"\\x{value.hex()}"


def _boolean(value: bool) -> str:
    return "t" if value else "f"


_PLAIN: dict[str, _Text] = {
    "int": str,
    "long": str,
    "boolean": _boolean,
    "float": numbers.float4_text,
    "double": numbers.float8_text,
    "bytes": _bytes,
}
_SEMANTIC: dict[str, _Text] = {
    "io.debezium.time.Date": _date,
    "org.apache.kafka.connect.data.Date": _date,
    "io.debezium.time.MicroTimestamp": _micros,
    "io.debezium.time.Timestamp": _millis,
    "io.debezium.time.NanoTimestamp": _nanos,
    "org.apache.kafka.connect.data.Timestamp": _millis,
    "io.debezium.time.MicroTime": _time_micros,
    "io.debezium.time.Time": _time_millis,
    "io.debezium.time.NanoTime": _time_nanos,
    "org.apache.kafka.connect.data.Time": _time_millis,
    "io.debezium.time.ZonedTimestamp": _zoned_timestamp,
    "io.debezium.time.ZonedTime": _zoned_time,
    "io.debezium.time.MicroDuration": _duration,
    "io.debezium.data.VariableScaleDecimal": _variable_decimal,
    "io.debezium.data.geometry.Point": _point,
}


# ── arrays ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _element(items: Any, named: dict[str, Any], field: Mapping[str, Any]) -> _Text | None:
    return _reader(items, named, {"name": field.get("name")})


def _array(element: _Text | None) -> _Text:
    def text(values: list[Any]) -> str:
        if (len(values) == 1 and values[0] in (PLACEHOLDER, PLACEHOLDER_BYTES)) or values == _PLACEHOLDER_CODES:
            raise _Unavailable
        return "{" + ",".join("NULL" if value is None else quoted(value if element is None else element(value)) for value in values) + "}"

    return text
