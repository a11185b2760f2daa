"""Debezium's representation of a row as Connect's JSON converter writes it → the text PostgreSQL prints for each column.

    schemas.enable=true     {"schema": {…}, "payload": {…}}   what a value is, its Connect schema says    `connect_columns`
    schemas.enable=false    {…}                               what it is, the table's catalog says        `CatalogColumns`

JSON has fewer kinds of values than Avro: bytes are base64, a float that is no number is its name, a real is the shortest text of it.
From there on all go the same way, through `schemas.mapping.debezium`.

Without schemas a value does not say how it was made. Where its form is unmistakable that tells (a decimal's bytes or its text, an
interval's microseconds or its ISO text); for the rest Debezium's default is taken, and what cannot be that is refused, with the setting to
change in its name: docs/debezium.md.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any

import orjson

from schemas.catalog import Column, Table
from schemas.errors import SchemaError
from schemas.mapping import debezium, numbers
from schemas.mapping.debezium import PLACEHOLDER, PLACEHOLDER_BYTES, Columns, Text, Unavailable

_PLACEHOLDER_BASE64 = base64.b64encode(PLACEHOLDER_BYTES).decode()
_FLOAT4 = struct.Struct("<f")
_DECIMAL = re.compile(r"-?[0-9]+(?:\.[0-9]+)?\Z")
_FAULTS = (KeyError, TypeError, ValueError, ArithmeticError, IndexError, struct.error)
_EXACT_DECIMALS = "decimal.handling.mode must be precise or string, and the converter's decimal.format BASE64"
_ADAPTIVE = "time.precision.mode must be adaptive"


def unbase64(value: Any) -> bytes:
    """Raises ValueError on what is no base64."""
    if not isinstance(value, str):
        raise ValueError("is not base64")
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        raise ValueError("is not base64: binary.handling.mode must be bytes") from None


# ── with schemas ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def connect_columns(fields: Iterable[tuple[str, Mapping[str, Any]]], table: Table) -> Callable[[Mapping[str, Any]], Columns]:
    """The reader of rows of one Connect struct, whose fields are given with the columns that they are of. It raises SchemaError on a value
    that is not what its schema says.

    `table` only says which texts are numbers.
    """
    readers = tuple((field["field"], column, _connect_reader(field, table.column(column))) for column, field in fields)

    def read(row: Mapping[str, Any]) -> Columns:
        columns: Columns = {}
        column = ""
        try:
            for field, column, text in readers:
                _put(columns, column, row[field], text)
        except _FAULTS as error:
            raise SchemaError(f"column {column!r} is not what its schema says: {error!r}") from error
        return columns

    return read


def _put(columns: Columns, name: str, value: Any, text: Text | None) -> None:
    if value is None:
        columns[name] = None
    elif text is None:
        if not isinstance(value, str):
            raise ValueError("is no text")
        if value != PLACEHOLDER:
            columns[name] = value
    else:
        try:  # noqa: SIM105 - as in debezium.py: this runs for every value
            columns[name] = text(value)
        except Unavailable:
            pass


def _connect_reader(connect: Mapping[str, Any], column: Column | None) -> Text | None:
    """None: a string that stands as it is."""
    kind, name, parameters = connect["type"], connect.get("name") or "", connect.get("parameters") or {}
    if kind == "array":
        return _array(_connect_reader(connect["items"], column))
    if name == "org.apache.kafka.connect.data.Decimal":
        return partial(_decimal, scale=int(parameters.get("scale", 0)))
    if name == "io.debezium.data.VariableScaleDecimal":
        return _variable_decimal
    if name == "io.debezium.data.Bits":
        return partial(_bits, length=int(parameters.get("length", 0)))
    if kind in ("float", "float32"):
        return _real
    if kind in ("double", "float64"):
        return _double
    if kind == "bytes":
        return _bytes
    if kind == "map":
        return _hstore
    if kind == "string" and not name and column is not None and column.base in ("numeric", "numeric[]"):
        return debezium.decimal_text
    return debezium.text_reader(_AVRO_KINDS.get(kind, kind), name, connect.get("field", ""))


_AVRO_KINDS = {"int8": "int", "int16": "int", "int32": "int", "int64": "long", "struct": "record"}


# ── without schemas ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


class CatalogColumns:
    """The reader of a table's rows, whole or in part (keys), by what the catalog says of its columns.

    Whether decimals come as bytes or as text is learned from the first value that can only be one of them, and then holds for the rest.
    """

    def __init__(self, table: Table) -> None:
        self._table = str(table)
        self._precise: bool | None = None
        self._readers = {column.name: self._reader(column, column.base) for column in table.columns}

    def read(self, row: Mapping[str, Any], faults: dict[str, str] | None = None) -> Columns:
        """Columns that the catalog does not know (added since) are left out: nothing is mapped to them. A value that is not what the
        catalog says is left out too and told in `faults`; without that it raises SchemaError."""
        columns: Columns = {}
        for name, value in row.items():
            if name not in self._readers:
                continue
            try:
                _put(columns, name, value, self._readers[name])
            except _FAULTS as error:
                told = f"has a value that {error if type(error) is ValueError else 'makes no sense: ' + repr(error)}"
                if faults is None:
                    raise SchemaError(f"{self._table}: {name} {told}") from error
                faults[name] = told
        return columns

    def _reader(self, column: Column, base: str) -> Text | None:
        digits = 6 if column.precision is None else column.precision
        match base:
            case "smallint" | "integer" | "bigint" | "oid":
                return _integer
            case "boolean":
                return _boolean
            case "real":
                return _real
            case "double precision":
                return _double
            case "numeric":
                return partial(self._numeric, precision=column.precision, scale=column.scale)
            case "money":
                return partial(self._numeric, precision=19, scale=2)
            case "date":
                return partial(_whole, text=debezium.date_text)
            case "timestamp without time zone":  # milliseconds up to three digits of the second, else microseconds
                return partial(_whole, text=debezium.millis_text if digits <= 3 else debezium.micros_text)
            case "time without time zone":
                return partial(_whole, text=debezium.time_millis_text if digits <= 3 else debezium.time_micros_text)
            case "timestamp with time zone":
                return partial(_string, text=debezium.zoned_timestamp)
            case "time with time zone":
                return partial(_string, text=debezium.zoned_time)
            case "interval":
                return _interval
            case "bytea":
                return _bytes
            case "bit":
                return _boolean if column.length == 1 else partial(_bits, length=column.length or 0)
            case "bit varying":
                return partial(_bits, length=0)
            case "json" | "jsonb":
                return partial(_string, text=debezium.json_text)
            case "hstore":
                return _hstore
            case "point":
                return debezium.point_text
        if base.endswith("[]"):
            return _array(self._reader(column, base[:-2]))
        return None

    def _numeric(self, value: Any, precision: int | None, scale: int | None) -> str:
        if isinstance(value, Mapping):
            self._precise = True
            return _variable_decimal(value)
        if isinstance(value, Decimal):  # of a key in a header
            return format(value, "f")
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise ValueError(f"is a number of floating point, which loses digits: {_EXACT_DECIMALS}")
        if value in (PLACEHOLDER, _PLACEHOLDER_BASE64):
            raise Unavailable
        is_text = _DECIMAL.match(value) is not None or value in debezium.DECIMAL_NAMES
        number = None if scale is None else _unscaled(value, precision, scale)
        if is_text and number is not None:
            if self._precise is None:
                raise ValueError(
                    f"can be a decimal's bytes as well as its text ({value!r}), and none of this table has told yet which of the two they "
                    "are: the converter's schemas.enable must be true here"
                )
            is_text = not self._precise
        if is_text:
            self._precise = False
            return debezium.decimal_text(value)
        if number is None or scale is None:
            raise ValueError(f"is neither a decimal's bytes nor its text: {_EXACT_DECIMALS}")
        self._precise = True
        return debezium.unscaled_text(number, _debeziums(scale))


def _debeziums(scale: int) -> int:
    """The scale that Debezium goes by: of a negative one it takes the eleven bits for a number without sign."""
    return scale if scale >= 0 else scale + 2048


def _unscaled(value: str, precision: int | None, scale: int) -> int | None:
    """The number whose bytes these are, if they can be a decimal's of such a column: no more digits, and no byte more than it needs."""
    try:
        data = base64.b64decode(value, validate=True)
    except binascii.Error:
        return None
    number = int.from_bytes(data, "big", signed=True)
    if len(data) != (number if number >= 0 else ~number).bit_length() // 8 + 1:
        return None
    digits = precision if precision is None or scale >= 0 else precision + 2048
    return None if digits is not None and abs(number) >= 10**digits else number


# ── single values ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _integer(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("is no whole number")
    return str(value)


def _boolean(value: Any) -> str:
    if not isinstance(value, bool):
        raise ValueError("is not a boolean")
    return "t" if value else "f"


def _real(value: Any) -> str:
    number = float(value)
    return numbers.float4_text(number if number in (_INFINITE, -_INFINITE) else _FLOAT4.unpack(_FLOAT4.pack(number))[0])


_INFINITE = float("inf")


def _double(value: Any) -> str:
    return numbers.float8_text(float(value))


def _bytes(value: Any) -> str:
    return debezium.bytes_text(unbase64(value))


def _decimal(value: Any, scale: int) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"is a number of floating point, which loses digits: {_EXACT_DECIMALS}")
    if value == _PLACEHOLDER_BASE64:
        raise Unavailable
    return debezium.unscaled_text(int.from_bytes(unbase64(value), "big", signed=True), scale)


def _variable_decimal(value: Any) -> str:
    if value["value"] == _PLACEHOLDER_BASE64:
        raise Unavailable
    return debezium.unscaled_text(int.from_bytes(unbase64(value["value"]), "big", signed=True), int(value["scale"]))


def _bits(value: Any, length: int) -> str:
    return debezium.bits_text(unbase64(value), length)


def _hstore(value: Any) -> str:
    """hstore.handling.mode json or map."""
    return debezium.json_text(value if isinstance(value, str) else orjson.dumps(value).decode())


def _string(value: Any, text: Text) -> str:
    if not isinstance(value, str):
        raise ValueError("is no text")
    return text(value)


def _whole(value: Any, text: Text) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"is no whole number: {_ADAPTIVE}")
    return text(value)


def _interval(value: Any) -> str:
    """interval.handling.mode numeric or string."""
    if value == PLACEHOLDER:
        raise Unavailable
    return debezium.iso_interval(value) if isinstance(value, str) else _whole(value, debezium.duration_text)


def _array(element: Text | None) -> Text:
    array = debezium.array_text(element)

    def text(values: Any) -> str:
        if not isinstance(values, list):
            raise ValueError("is no array")
        if len(values) == 1 and values[0] == _PLACEHOLDER_BASE64:
            raise Unavailable
        if element is None and not all(value is None or isinstance(value, str) for value in values):
            raise ValueError("is an array of other things than texts")
        return array(values)

    return text
