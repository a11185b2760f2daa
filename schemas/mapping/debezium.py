"""Debezium's representation of a row, as its Avro schema describes it → the text PostgreSQL prints for each column.

Real Debezium and our own source both go through here. What Avro's plain types leave open is told by `connect.name` and
`connect.parameters`, as Confluent's converter writes them; a decimal arrives as `Decimal` (fastavro) or as bytes.

A column that holds the unavailable-value placeholder (an unchanged TOAST value) is left out: nothing is known of it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache, partial
from hashlib import md5
from typing import Any
from uuid import UUID

import orjson

from schemas.errors import SchemaError
from schemas.mapping import numbers, times
from schemas.mapping.lists import quoted

PLACEHOLDER = "__debezium_unavailable_value"
PLACEHOLDER_BYTES = PLACEHOLDER.encode()
_PLACEHOLDER_UUID = str(UUID(bytes=md5(PLACEHOLDER_BYTES, usedforsecurity=False).digest(), version=3))  # as Java makes one from a name
_PLACEHOLDER_MAP = f'{{"{PLACEHOLDER}":"{PLACEHOLDER}"}}'  # what an hstore holds instead
_PLACEHOLDER_ELEMENTS = (PLACEHOLDER, PLACEHOLDER_BYTES, _PLACEHOLDER_UUID)  # what an array holds instead: one of them,
_PLACEHOLDER_CODES = list(PLACEHOLDER_BYTES)  # or, if its elements are whole numbers (dates are), these

Columns = dict[str, str | None]
Text = Callable[[Any], str]

# Infinity has no number; these stand for it. Streamed and snapshot dates of Debezium 3 differ.
_DATES = {-2147472692: "infinity", -2147472691: "-infinity", -622191234: "infinity", -625821272: "-infinity"}
_MICROS = {9223372036825200000: "infinity", -9223372036832400000: "-infinity"}
_MILLIS = {9223372036825200: "infinity", -9223372036832400: "-infinity"}


class Unavailable(Exception):
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
                    except Unavailable:
                        pass
        except (KeyError, TypeError, ValueError, ArithmeticError, struct.error) as error:
            raise SchemaError(f"column {name!r} is not what its schema says: {error!r}") from error
        return columns

    return read


def _reader(schema: Any, named: dict[str, Any], field: Mapping[str, Any]) -> Text | None:
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
        return array_text(_element(schema["items"], named, field))
    if name == "org.apache.kafka.connect.data.Decimal" or schema.get("logicalType") == "decimal":
        return _decimal(int(schema.get("scale", parameters.get("scale", 0))))
    if name == "io.debezium.data.Bits":
        return partial(bits_text, length=int(parameters.get("length", 0)))
    return text_reader(kind, name, field.get("name"))


def text_reader(kind: str, name: str, column: Any) -> Text | None:
    """The reader of values of one Avro type and semantic name, without parameters; None: a string that stands as it is."""
    special = _SEMANTIC.get(name) or _SEMANTIC.get(kind)  # a named type that was defined elsewhere stands here by its name
    if special is not None:
        return special
    plain = _PLAIN.get(kind)
    if plain is None and kind not in ("string", "enum"):
        raise SchemaError(f"column {column!r} has a type that no column has: {name or kind!r}")
    return plain


# ── single values ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def date_text(value: Any) -> str:
    if isinstance(value, date):
        return value.isoformat()
    return _DATES.get(value) or times.date_text(value)


def micros_text(value: Any) -> str:
    if isinstance(value, datetime):
        return times.stamp_text(round(value.timestamp() * 1_000_000))
    return _MICROS.get(value) or times.stamp_text(value)


def millis_text(value: Any) -> str:
    if isinstance(value, datetime):
        return micros_text(value)
    return _MILLIS.get(value) or times.stamp_text(value * 1000)


def nanos_text(value: Any) -> str:
    return times.stamp_text(value // 1000)


def time_micros_text(value: Any) -> str:
    if isinstance(value, time):
        return value.isoformat().rstrip("0") if value.microsecond else value.isoformat()
    return times.clock_text(value)


def time_millis_text(value: Any) -> str:
    return time_micros_text(value) if isinstance(value, time) else times.clock_text(value * 1000)


def time_nanos_text(value: Any) -> str:
    return times.clock_text(value // 1000)


def zoned_timestamp(value: str) -> str:
    """2024-02-29T11:14:15.123456Z, -0043-03-15T12:00:00Z for BC, +20000-… after 9999."""
    if len(value) == 27 and value[19] == ".":
        return f"{value[:10]} {value[11:19]}{value[19:26].rstrip('0').rstrip('.')}+00"
    if value in times.INFINITE:
        return value
    if value == PLACEHOLDER:
        raise Unavailable
    if value[0] == "-":
        text = times.stamp_text(times.micros_of(f"{1 + int(value[1 : value.index('-', 1)]):04d}{value[value.index('-', 1) :]} BC"))
    else:
        text = times.stamp_text(times.micros_of(value.removeprefix("+")))
    return f"{text[:-3]}+00 BC" if text.endswith(" BC") else f"{text}+00"


def zoned_time(value: str) -> str:
    return times.normal_timetz(value)


def duration_text(value: int) -> str:
    """Microseconds as hours: days and months are lost on the way, Debezium's month being 30.4375 days."""
    return f"-{times.clock_text(-value)}" if value < 0 else times.clock_text(value)


_ISO_INTERVAL = re.compile(r"(-?)P(?:(-?\d+)Y)?(?:(-?\d+)M)?(?:(-?\d+)D)?(?:T(?:(-?\d+)H)?(?:(-?\d+)M)?(?:(-?)(\d+)(?:\.(\d+))?S)?)?\Z")


def iso_interval(value: str) -> str:
    """interval.handling.mode=string: P1Y2M3DT4H5M6.789S."""
    match = _ISO_INTERVAL.match(value)
    if match is None:
        raise ValueError("is not an ISO interval")
    sign = -1 if match[1] else 1
    years, months, days, hours, minutes, seconds = (sign * int(match[n] or 0) for n in (2, 3, 4, 5, 6, 8))
    micros = sign * int((match[9] or "")[:6].ljust(6, "0"))
    clock = (hours * 60 + minutes) * 60_000_000 + (-1 if match[7] else 1) * (seconds * 1_000_000 + micros)
    return times.interval_text(years * 12 + months, days, clock)


def json_text(value: str) -> str:
    if value in (PLACEHOLDER, _PLACEHOLDER_MAP):
        raise Unavailable
    return value


def _variable_decimal(value: Mapping[str, Any]) -> str:
    if value["value"] == PLACEHOLDER_BYTES:
        raise Unavailable
    return unscaled_text(int.from_bytes(value["value"], "big", signed=True), value["scale"])


def unscaled_text(number: int, scale: int) -> str:
    """Digits and scale → text with that many digits after the point, as PostgreSQL prints a numeric."""
    digits = format(Decimal(abs(number)), "f")  # str() of an int this long may be refused
    if scale < 0:
        digits += "0" * -scale if number else ""
    elif scale > 0:
        digits = digits.rjust(scale + 1, "0")
        digits = f"{digits[:-scale]}.{digits[-scale:]}"
    return f"-{digits}" if number < 0 else digits


# decimal.handling.mode=string tells what is no number by other names than PostgreSQL
DECIMAL_NAMES = {"NAN": "NaN", "NaN": "NaN", "POSITIVE_INFINITY": "Infinity", "NEGATIVE_INFINITY": "-Infinity"}


def decimal_text(value: str) -> str:
    if value == PLACEHOLDER:
        raise Unavailable
    return DECIMAL_NAMES.get(value, value)


def _decimal(scale: int) -> Text:
    def text(value: Any) -> str:
        if isinstance(value, Decimal):
            return format(value, "f")
        if value == PLACEHOLDER_BYTES:
            raise Unavailable
        return unscaled_text(int.from_bytes(value, "big", signed=True), scale)

    return text


_NO_LENGTH = 2**31 - 1  # of a bit varying without one


def bits_text(value: bytes, length: int) -> str:
    number = int.from_bytes(value, "little")
    return f"{number:0{length}b}" if 0 < length < _NO_LENGTH else f"{number:b}"


def point_text(value: Mapping[str, Any]) -> str:
    return f"({numbers.float8_text(value['x'])},{numbers.float8_text(value['y'])})"


def bytes_text(value: bytes) -> str:
    if value == PLACEHOLDER_BYTES:
        raise Unavailable
    return f"\\x{value.hex()}"


def _boolean(value: bool) -> str:
    return "t" if value else "f"


_PLAIN: dict[str, Text] = {
    "int": str,
    "long": str,
    "boolean": _boolean,
    "float": numbers.float4_text,
    "double": numbers.float8_text,
    "bytes": bytes_text,
}
_SEMANTIC: dict[str, Text] = {
    "io.debezium.time.Date": date_text,
    "org.apache.kafka.connect.data.Date": date_text,
    "io.debezium.time.MicroTimestamp": micros_text,
    "io.debezium.time.Timestamp": millis_text,
    "io.debezium.time.NanoTimestamp": nanos_text,
    "org.apache.kafka.connect.data.Timestamp": millis_text,
    "io.debezium.time.MicroTime": time_micros_text,
    "io.debezium.time.Time": time_millis_text,
    "io.debezium.time.NanoTime": time_nanos_text,
    "org.apache.kafka.connect.data.Time": time_millis_text,
    "io.debezium.time.ZonedTimestamp": zoned_timestamp,
    "io.debezium.time.ZonedTime": zoned_time,
    "io.debezium.time.MicroDuration": duration_text,
    "io.debezium.time.Interval": iso_interval,
    "io.debezium.data.Json": json_text,
    "io.debezium.data.VariableScaleDecimal": _variable_decimal,
    "io.debezium.data.geometry.Point": point_text,
}


# ── arrays ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _element(items: Any, named: dict[str, Any], field: Mapping[str, Any]) -> Text | None:
    return _reader(items, named, {"name": field.get("name")})


def array_text(element: Text | None) -> Text:
    def text(values: list[Any]) -> str:
        if (len(values) == 1 and values[0] in _PLACEHOLDER_ELEMENTS) or values == _PLACEHOLDER_CODES:
            raise Unavailable
        return "{" + ",".join("NULL" if value is None else quoted(value if element is None else element(value)) for value in values) + "}"

    return text
