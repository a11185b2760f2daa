"""PostgreSQL types as Debezium represents them (default handling modes): column text → Avro bytes. No I/O.

A `ColumnType` is what a column's events are made of: its Connect schema, and a function from PostgreSQL's text to the Avro body of
the value. A text that Debezium's representation cannot hold makes that function raise ValueError: the value is then null (or zero) in
the body, as it is with Debezium, and its text travels beside it (`schemas.envelope.ColumnTexts`), so nothing is lost:

    numeric NaN and infinity, infinite intervals         null in the body
    arrays of more than one dimension, or lower bounds   as many nulls as the outermost has
    intervals with months or days, timetz, varbit        a value that cannot be turned back: `beside` says so

Where Debezium is wrong or contradicts itself between snapshot and stream we are not: `name` has its text, numeric(5,-2) has scale 0,
dates are those of its stream. Left out, as Debezium leaves them out: `left_out` says why.
"""

from __future__ import annotations

import binascii
import datetime
import io
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import fastavro
import orjson

from connectors.source.connect import DECIMAL, PRECISION, ConnectSchema, avro_schema
from schemas.compiled_avro import varint_bytes as varint
from schemas.envelope import UNAVAILABLE

Encode = Callable[[bytes], bytes]

LONG_MAX: Final = 2**63 - 1
LONG_MIN: Final = -(2**63)
_DAY_US: Final = 86_400_000_000
_MONTH_US: Final = 2_629_800_000_000  # 30.4375 days
_PLACEHOLDER: Final = UNAVAILABLE.encode()

# What Debezium's stream has for infinity: dates are PostgreSQL's own extremes with the epochs' difference added in 32 bits.
DATE_INFINITY: Final = -2_147_472_692
DATE_MINUS_INFINITY: Final = -2_147_472_691
TIMESTAMP_INFINITY: Final = 9_223_372_036_825_200_000
TIMESTAMP_MINUS_INFINITY: Final = -9_223_372_036_832_400_000


def avro_bytes(value: bytes) -> bytes:
    """Avro's bytes and string."""
    return varint(len(value)) + value


def _boolean(text: bytes) -> bytes:
    return b"\x01" if text == b"t" or text == b"1" else b"\x00"


def _integer(text: bytes) -> bytes:
    return varint(int(text))


_FLOAT = struct.Struct("<f").pack
_DOUBLE = struct.Struct("<d").pack


def _real(text: bytes) -> bytes:
    return _FLOAT(float(text))


def _double(text: bytes) -> bytes:
    return _DOUBLE(float(text))


def _unscaled(n: int) -> bytes:
    """Big-endian two's complement in as few bytes as it takes: Java's BigInteger.toByteArray."""
    return avro_bytes(n.to_bytes((n if n >= 0 else ~n).bit_length() // 8 + 1, "big", signed=True))


def _digits(text: bytes) -> tuple[int, int]:
    """`12.50` → (1250, 2). Raises ValueError for NaN and infinity."""
    whole, _, fraction = text.partition(b".")
    return int(whole + fraction), len(fraction)


def _decimal(scale: int) -> Encode:
    def encode(text: bytes) -> bytes:
        n, has = _digits(text)
        if has < scale:
            n *= 10 ** (scale - has)
        elif has > scale:  # the column has had another scale: exact or not at all
            n, rest = divmod(n, 10 ** (has - scale))
            if rest:
                raise ValueError(f"more than {scale} decimals")
        return _unscaled(n)

    return encode


def _variable_scale(text: bytes) -> bytes:
    n, scale = _digits(text)
    return varint(scale) + _unscaled(n)


def _money(text: bytes) -> bytes:
    """`-$1,234.56`, as lc_monetary=C prints it."""
    n, scale = _digits(text.replace(b"$", b"").replace(b",", b""))
    if scale != 2:
        raise ValueError("money with other than two decimals")
    return _unscaled(n)


def _bytea(text: bytes) -> bytes:
    if text[:2] != b"\\x":
        raise ValueError("bytea in another format than hex")
    return avro_bytes(binascii.unhexlify(text[2:]))


def _days(text: bytes) -> int:
    """Days since 1970-01-01 of `YYYY-MM-DD` or `YYYY-MM-DD BC`, proleptic Gregorian."""
    if len(text) == 10:
        return datetime.date.fromisoformat(text.decode()).toordinal() - 719_163
    text, bc, _ = text.partition(b" BC")
    year, month, day = (int(part) for part in text.split(b"-"))
    if bc:
        year = 1 - year
    # the calendar repeats every 400 years of 146,097 days
    eras, year = divmod(year - 1, 400)
    return datetime.date(year + 1, month, day).toordinal() + eras * 146_097 - 719_163


def _date(text: bytes) -> bytes:
    if text == b"infinity":
        return varint(DATE_INFINITY)
    if text == b"-infinity":
        return varint(DATE_MINUS_INFINITY)
    return varint(_days(text))


def _clock_us(text: bytes) -> int:
    """µs since midnight of `HH:MM:SS[.ffffff]`."""
    fraction = int(text[9:].ljust(6, b"0")) if len(text) > 8 else 0
    return ((int(text[0:2]) * 60 + int(text[3:5])) * 60 + int(text[6:8])) * 1_000_000 + fraction


def _micro_time(text: bytes) -> bytes:
    return varint(_clock_us(text))


def _milli_time(text: bytes) -> bytes:
    return varint(_clock_us(text) // 1000)


def _shortest_fraction(us: int) -> str:
    return f".{us:06}".rstrip("0") if us else ""


def _zoned_time(text: bytes) -> bytes:
    """`13:14:15.123456+05:30` → `07:44:15.123456Z`."""
    at = max(text.rfind(b"+"), text.rfind(b"-"))
    parts = [int(part) for part in text[at + 1 :].split(b":")] + [0, 0]
    offset = ((parts[0] * 60 + parts[1]) * 60 + parts[2]) * 1_000_000
    us = (_clock_us(text[:at]) - (offset if text[at : at + 1] == b"+" else -offset)) % _DAY_US
    seconds, us = divmod(us, 1_000_000)
    return avro_bytes(f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{_shortest_fraction(us)}Z".encode())


def _instant_us(text: bytes) -> int:
    """µs since 1970 of `YYYY-MM-DD HH:MM:SS[.ffffff][ BC]` in UTC."""
    if text == b"infinity":
        return TIMESTAMP_INFINITY
    if text == b"-infinity":
        return TIMESTAMP_MINUS_INFINITY
    date, _, rest = text.partition(b" ")
    clock, bc, _ = rest.partition(b" BC")
    return _days(date + b" BC" if bc else date) * _DAY_US + _clock_us(clock)


def _long(n: int) -> bytes:
    if not LONG_MIN <= n <= LONG_MAX:
        raise ValueError("more than 64 bits")
    return varint(n)


def _micro_timestamp(text: bytes) -> bytes:
    return _long(_instant_us(text))


def _milli_timestamp(text: bytes) -> bytes:
    return varint(_instant_us(text) // 1000)


def _zoned_timestamp(digits: int) -> Encode:
    """`2024-02-29 11:14:15.123+00` → `2024-02-29T11:14:15.123000Z`, with as many digits as the column's type has."""

    def encode(text: bytes) -> bytes:
        if text[19:] == b"+00" or (text[19:20] == b"." and text[-3:] == b"+00"):  # a year of four digits
            if text[4:5] != b"-":
                raise ValueError("not a timestamp")
            told = text[:10] + b"T" + text[11:-3]
        else:
            if text in (b"infinity", b"-infinity"):
                return avro_bytes(text)
            clock, bc, _ = text.partition(b" BC")
            if clock[-3:] != b"+00":
                raise ValueError("not in UTC")
            day, _, time = clock[:-3].partition(b" ")
            year, month_and_day = day[:-6], day[-6:]
            if bc:
                n = int(year) - 1
                told = (b"-%04d" % n if n else b"0000") + month_and_day + b"T" + time
            else:
                told = b"+" + year + month_and_day + b"T" + time
        if digits:
            at = told.rfind(b".")
            if at < 0:
                told += b"." + b"0" * digits
            else:
                told = told[: at + 1] + told[at + 1 : at + 1 + digits].ljust(digits, b"0")
        return avro_bytes(told + b"Z")

    return encode


_INTERVAL = re.compile(
    rb"(?:(-?\+?\d+) years? ?)?(?:([-+]?\d+) mons? ?)?(?:([-+]?\d+) days? ?)?(?:([-+]?)(\d+):(\d\d):(\d\d)(?:\.(\d{1,6}))?)?"
)


def _interval(text: bytes) -> bytes:
    """IntervalStyle postgres → µs, a month being 30.4375 days; beyond 64 bits it stops at the last one, as Debezium does."""
    match = _INTERVAL.fullmatch(text)
    if match is None or not text:
        raise ValueError("not an interval")
    years, months, days = (int(part or 0) for part in match.group(1, 2, 3))
    hours, minutes, seconds = (int(part or 0) for part in match.group(5, 6, 7))
    clock = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + int((match[8] or b"").ljust(6, b"0"))
    us = (years * 12 + months) * _MONTH_US + days * _DAY_US + (-clock if match[4] == b"-" else clock)
    return varint(min(max(us, LONG_MIN), LONG_MAX))


def _has_months_or_days(text: bytes) -> bool:
    return b"mon" in text or b"day" in text or b"year" in text


def _bits(text: bytes) -> bytes:
    n = int(text or b"0", 2)
    return avro_bytes(n.to_bytes((n.bit_length() + 7) // 8, "little"))


_HSTORE = re.compile(rb'"((?:[^"\\]|\\.)*)"=>(?:"((?:[^"\\]|\\.)*)"|NULL)(?:, )?', re.S)
_ESCAPED = re.compile(rb"\\(.)", re.S)


def _hstore(text: bytes) -> bytes:
    pairs: dict[str, str | None] = {}
    at = 0
    while at < len(text):
        match = _HSTORE.match(text, at)
        if match is None:
            raise ValueError("not an hstore")
        value = None if match[2] is None else _ESCAPED.sub(rb"\1", match[2]).decode()
        pairs[_ESCAPED.sub(rb"\1", match[1]).decode()] = value
        at = match.end()
    return avro_bytes(orjson.dumps(pairs))


def _point(text: bytes) -> bytes:
    x, y = (_DOUBLE(float(part)) for part in text.strip(b"()").split(b","))
    # Avro: x, y, the well-known binary (little-endian, a point), no srid
    return x + y + b"\x02" + avro_bytes(b"\x01\x01\x00\x00\x00" + x + y) + b"\x00"


def array_items(text: bytes) -> list[bytes | None]:
    """The items of `{1,NULL,"a\\"b"}`. Raises ValueError when it has more than one dimension or a lower bound of its own."""
    if text[:1] != b"{" or text[-1:] != b"}":
        raise ValueError("not an array of one dimension that begins at 1")
    if text == b"{}":
        return []
    items: list[bytes | None] = []
    at, end = 1, len(text) - 1
    while True:
        if text[at : at + 1] == b'"':
            close = at + 1
            while text[close] != 0x22:
                close += 2 if text[close] == 0x5C else 1
            items.append(_ESCAPED.sub(rb"\1", text[at + 1 : close]))
            at = close + 1
        elif text[at : at + 1] == b"{":
            raise ValueError("more than one dimension")
        else:
            comma = text.find(b",", at, end)
            close = end if comma < 0 else comma
            item = text[at:close]
            items.append(None if item == b"NULL" else item)
            at = close
        if at == end:
            return items
        if text[at : at + 1] != b",":
            raise ValueError("not an array")
        at += 1


def _array(item: Encode, nullable: bool) -> Encode:
    def encode(text: bytes) -> bytes:
        items = array_items(text)
        if not items:
            return b"\x00"
        if not nullable:
            if None in items:
                raise ValueError("a null among the items")
            return varint(len(items)) + b"".join(item(one) for one in items if one is not None) + b"\x00"
        return varint(len(items)) + b"".join(b"\x00" if one is None else b"\x02" + item(one) for one in items) + b"\x00"

    return encode


def _array_of(items: list[bytes]) -> bytes:
    return varint(len(items)) + b"".join(b"\x02" + item for item in items) + b"\x00"


def _many_dimensions(text: bytes) -> bytes:
    """What Debezium makes of an array of arrays: as many nulls as the outermost has."""
    depth = count = 0
    quoted = False
    skip = False
    for char in text[text.find(b"{") :]:
        if skip:
            skip = False
        elif char == 0x5C:
            skip = True
        elif char == 0x22:
            quoted = not quoted
        elif not quoted:
            if char == 0x7B:
                depth += 1
                count += depth == 2
            elif char == 0x7D:
                depth -= 1
    return varint(count) + b"\x00" * count + b"\x00" if count else b"\x00"


def array_fallback(text: bytes) -> bytes:
    """The body for an array that `array_items` refuses; its text goes beside."""
    return _many_dimensions(text) if text[:1] in (b"{", b"[") else b"\x00"


@dataclass(frozen=True, slots=True)
class ColumnType:
    """How the values of one type travel."""

    connect: ConnectSchema  # without optional, default, field
    encode: Encode  # text → Avro body, without a union's index. Raises ValueError on what it cannot hold
    zero: bytes  # what a NOT NULL column holds where there is no value
    unavailable: bytes | None = None  # the placeholder of an unchanged TOAST value; None: null, or zero
    beside: Callable[[bytes], bool] | None = None  # whether the text must travel beside the value
    fallback: Encode | None = None  # the body where encode raised, instead of null
    inline: str | None = None  # the same as encode, as an expression in `v` (text) and `l` (its length), for generated code
    is_array: bool = False


@dataclass(frozen=True, slots=True)
class TypeFacts:
    """A type as the catalog describes it (pg_type)."""

    oid: int
    name: str
    kind: str = "b"  # typtype: b base, c composite, d domain, e enum, m multirange, p pseudo, r range
    base: int = 0  # of a domain
    base_modifier: int = -1
    element: int = 0  # of an array
    labels: tuple[str, ...] = ()  # of an enum


def _text_type(name: str | None = None, **parameters: str) -> ColumnType:
    connect: ConnectSchema = {"type": "string"}
    if name is not None:
        connect |= {"name": name, "version": 1}
    if parameters:
        connect["parameters"] = parameters
    return ColumnType(connect, avro_bytes, b"\x00", avro_bytes(_PLACEHOLDER), inline="(VI[l] if l < 8192 else varint(l)) + v")


def _number_type(kind: str, name: str | None = None, encode: Encode = _integer, **more: Any) -> ColumnType:
    connect: ConnectSchema = {"type": kind}
    if name is not None:
        connect |= {"name": name, "version": 1}
    return ColumnType(connect, encode, **{"zero": b"\x00", **more})


_PLAIN: Final[Mapping[str, ColumnType]] = {
    "bool": ColumnType({"type": "boolean"}, _boolean, b"\x00", inline="(b'\\x01' if v == b't' else b'\\x00')"),
    "int2": _number_type("int16", inline="varint(int(v))"),
    "int4": _number_type("int32", inline="varint(int(v))"),
    "int8": _number_type("int64", inline="varint(int(v))"),
    "oid": _number_type("int64", inline="varint(int(v))"),
    "float4": _number_type("float", encode=_real, zero=_FLOAT(0)),
    "float8": _number_type("double", encode=_double, zero=_DOUBLE(0)),
    "money": ColumnType({"type": "bytes", "name": DECIMAL, "version": 1, "parameters": {"scale": "2"}}, _money, _unscaled(0)),
    "bytea": ColumnType({"type": "bytes"}, _bytea, b"\x00", avro_bytes(_PLACEHOLDER)),
    "date": _number_type("int32", "io.debezium.time.Date", _date),
    "timetz": replace(
        _text_type("io.debezium.time.ZonedTime"), encode=_zoned_time, zero=avro_bytes(b"00:00:00Z"), beside=lambda text: True, inline=None
    ),
    "interval": _number_type("int64", "io.debezium.time.MicroDuration", _interval, beside=_has_months_or_days),
    "uuid": _text_type("io.debezium.data.Uuid"),
    "json": _text_type("io.debezium.data.Json"),
    "jsonb": _text_type("io.debezium.data.Json"),
    "xml": _text_type("io.debezium.data.Xml"),
    "tsvector": _text_type("io.debezium.data.Tsvector"),
    "ltree": _text_type("io.debezium.data.Ltree"),
    "hstore": replace(
        _text_type("io.debezium.data.Json"),
        encode=_hstore,
        zero=avro_bytes(b"{}"),
        unavailable=avro_bytes(orjson.dumps({UNAVAILABLE: UNAVAILABLE})),
        inline=None,
    ),
    "point": ColumnType(
        {
            "type": "struct",
            "fields": [
                {"type": "double", "optional": False, "field": "x"},
                {"type": "double", "optional": False, "field": "y"},
                {"type": "bytes", "optional": True, "field": "wkb"},
                {"type": "int32", "optional": True, "field": "srid"},
            ],
            "name": "io.debezium.data.geometry.Point",
            "version": 1,
            "doc": "Geometry (POINT)",
        },
        _point,
        _point(b"(0,0)"),
    ),
    **dict.fromkeys(("text", "varchar", "bpchar", "name", "char", "citext", "inet", "cidr", "macaddr", "macaddr8"), _text_type()),
    **dict.fromkeys(("int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange"), _text_type()),
}

_VARIABLE_SCALE: Final = ColumnType(
    {
        "type": "struct",
        "fields": [{"type": "int32", "optional": False, "field": "scale"}, {"type": "bytes", "optional": False, "field": "value"}],
        "name": "io.debezium.data.VariableScaleDecimal",
        "version": 1,
        "doc": "Variable scaled decimal",
    },
    _variable_scale,
    _variable_scale(b"0"),
)


def _numeric(modifier: int) -> ColumnType:
    if modifier < 4:
        return _VARIABLE_SCALE
    precision = (modifier - 4) >> 16 & 0xFFFF
    scale = ((modifier - 4) & 0x7FF ^ 1024) - 1024  # eleven bits with a sign
    if scale < 0:  # numeric(5,-2) holds seven digits before the point; Debezium says scale 2046
        precision, scale = precision - scale, 0
    parameters = {"scale": str(scale), PRECISION: str(max(precision, scale))}  # Avro wants no more decimals than digits
    return ColumnType({"type": "bytes", "name": DECIMAL, "version": 1, "parameters": parameters}, _decimal(scale), _unscaled(0))


def _seconds_digits(modifier: int) -> int:
    return 6 if modifier < 0 else modifier


def _time(modifier: int) -> ColumnType:
    if _seconds_digits(modifier) <= 3:
        return _number_type("int32", "io.debezium.time.Time", _milli_time)
    return _number_type("int64", "io.debezium.time.MicroTime", _micro_time)


def _timestamp(modifier: int) -> ColumnType:
    if _seconds_digits(modifier) <= 3:
        return _number_type("int64", "io.debezium.time.Timestamp", _milli_timestamp)
    return _number_type("int64", "io.debezium.time.MicroTimestamp", _micro_timestamp)


def _timestamptz(modifier: int) -> ColumnType:
    encode = _zoned_timestamp(_seconds_digits(modifier))
    return replace(_text_type("io.debezium.time.ZonedTimestamp"), encode=encode, zero=encode(b"1970-01-01 00:00:00+00"), inline=None)


def _bit(modifier: int) -> ColumnType:
    if modifier == 1:
        return ColumnType({"type": "boolean"}, _boolean, b"\x00")
    return ColumnType(
        {"type": "bytes", "name": "io.debezium.data.Bits", "version": 1, "parameters": {"length": str(modifier)}}, _bits, b"\x00"
    )


def _varbit(modifier: int) -> ColumnType:
    length = modifier if modifier > 0 else LONG_MAX >> 32  # without a limit Debezium says 2147483647
    connect = {"type": "bytes", "name": "io.debezium.data.Bits", "version": 1, "parameters": {"length": str(length)}}
    return ColumnType(connect, _bits, b"\x00", beside=lambda text: True)


_BY_MODIFIER: Final[Mapping[str, Callable[[int], ColumnType]]] = {
    "numeric": _numeric,
    "time": _time,
    "timestamp": _timestamp,
    "timestamptz": _timestamptz,
    "bit": _bit,
    "varbit": _varbit,
}


def _array_type(item: ColumnType) -> ColumnType:
    if item.connect in ({"type": "string"}, {"type": "bytes"}):
        unavailable = _array_of([avro_bytes(_PLACEHOLDER)])
    elif item.connect in ({"type": "int32"}, {"type": "int64"}):
        unavailable = _array_of([varint(byte) for byte in _PLACEHOLDER])
    else:
        unavailable = None
    inner = item.beside
    nullable = item.connect.get("name") != "io.debezium.data.Enum"  # Debezium has it so
    return ColumnType(
        {"type": "array", "items": {**item.connect, "optional": nullable}},
        _array(item.encode, nullable),
        b"\x00",
        unavailable,
        beside=None if inner is None else lambda text: any(one is not None and inner(one) for one in array_items(text)),
        fallback=array_fallback if nullable else lambda text: b"\x00",
        is_array=True,
    )


def column_type(types: Mapping[int, TypeFacts], oid: int, modifier: int) -> ColumnType | None:
    """How a column of this type travels; None if it is left out (`left_out` says why)."""
    facts = types.get(oid)
    if facts is None:
        return None
    if facts.kind == "d":
        return column_type(types, facts.base, facts.base_modifier if facts.base_modifier != -1 else modifier)
    if facts.kind == "e":
        return _text_type("io.debezium.data.Enum", allowed=",".join(facts.labels))
    if facts.element:
        item = column_type(types, facts.element, modifier)
        if item is None or item.is_array or (item.connect["type"] == "struct" and item is not _VARIABLE_SCALE):
            return None
        return _array_type(item)
    if facts.name in _BY_MODIFIER:
        return _BY_MODIFIER[facts.name](modifier)
    return _PLAIN.get(facts.name)


def left_out(facts: TypeFacts | None) -> str:
    """Why a column is not in the events."""
    if facts is None:
        return "its type is not in the catalog any more"
    kind = {"c": "a composite type", "m": "a multirange", "p": "a pseudo-type"}.get(
        facts.kind, "a type without a representation in Debezium's events"
    )
    return f"{facts.name} is {kind}"


_LITERAL = re.compile(r"\(?(?:'((?:[^']|'')*)'|(-?\d+(?:\.\d+)?)|(true|false))\)?(?:::[a-zA-Z_\" .()\d,\[\]]+)?", re.S)
_NULL = re.compile(r"NULL(::.*)?", re.S)


def default_text(expression: str) -> str | None:
    """The text of a default that is a constant (`'x'::text`, `7`, `(-5)`, `true`); None for anything that is computed."""
    match = _LITERAL.fullmatch(expression)
    if match is None:
        return None
    if match[1] is not None:
        return match[1].replace("''", "'")
    return match[2] if match[2] is not None else match[3][:1]


def datum(kind: ColumnType, body: bytes) -> Any:
    """What a reader without logical types makes of an Avro body."""
    schema = avro_schema({**kind.connect, "optional": False})
    return fastavro.schemaless_reader(io.BytesIO(body), fastavro.parse_schema(_physical(schema)), None)


def _physical(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {name: _physical(part) for name, part in schema.items() if name != "logicalType"}
    if isinstance(schema, list):
        return [_physical(part) for part in schema]
    return schema


def default_datum(kind: ColumnType, expression: str | None, required: bool) -> Any:
    """A column's default as Debezium tells it: a constant's value; for a computed one the type's zero if it is NOT NULL; else none."""
    if expression is None or _NULL.fullmatch(expression):
        return None
    text = default_text(expression)
    if text is not None:
        try:
            return datum(kind, kind.encode(text.encode()))
        except (ValueError, ArithmeticError, LookupError, struct.error):
            pass  # a literal in another spelling than PostgreSQL's output, such as 'today': computed
    return datum(kind, kind.zero) if required else None
