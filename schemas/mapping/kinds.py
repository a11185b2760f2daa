"""Kinds: what values are compared as, and how each PostgreSQL type becomes one.

A *codec* is made for one column from its catalog entry. `read` takes the column's text to the kind's normal form, `write` takes a normal
form to the text that PostgreSQL will print once it is stored, so that `read(write(value))` is what the system will hold. None stands for
"nothing to do". Null never gets here.

| kind | normal form | PostgreSQL types |
|---|---|---|
| text | as it is | text, varchar, char(n) without its padding, name, citext, enums, inet, ranges, xml, ltree |
| number | plain decimal: 10, 0.5, NaN | smallint, integer, bigint, oid, numeric, real, double precision |
| boolean | true, false | boolean |
| date | 2026-11-23, PostgreSQL's text | date |
| timestamp | an instant, 2026-11-23T15:00:00.123456Z | timestamp with time zone; without, with a `timezone` |
| datetime | 2026-11-23T15:00:00.123456 | timestamp without time zone |
| time, timetz | 15:00:00.5; in UTC with +00 | time, time with time zone |
| interval | PostgreSQL's text | interval |
| uuid | lower case | uuid |
| bytes | hexadecimal | bytea |
| list of … | JSON array of the elements' normal forms | arrays |
| json | sorted keys, compact, numbers in normal form | json, jsonb, hstore |
| ref | row name, `crm:4711` | whatever the key is |
"""

from __future__ import annotations

import json
import re
import unicodedata
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, cast

from schemas.catalog import Column
from schemas.change import Canonical
from schemas.mapping import lists, numbers, times

Read = Callable[[str], Canonical]
Write = Callable[[Canonical], str | None]

_INTEGERS = {"smallint": (-(2**15), 2**15 - 1), "integer": (-(2**31), 2**31 - 1), "bigint": (-(2**63), 2**63 - 1), "oid": (0, 2**32 - 1)}
_TEXTS = {
    *("text", "character varying", "citext", "inet", "cidr", "macaddr", "macaddr8", "xml", "ltree"),
    *("int4range", "int8range", "numrange", "daterange", "tsrange", "tstzrange", "tsvector"),
}
UNSUPPORTED = {
    "money": "its text depends on the server's locale; use a numeric column",
    "bit varying": "change events lose its length; use text",
}


@dataclass(frozen=True, slots=True)
class Codec:
    """How one column's text becomes a value and back."""

    kind: str
    read: Read | None = None
    write: Write | None = None
    lossless: bool = True  # the column can hold every value of its kind as it is


def codec_for(column: Column) -> Codec | None:
    """None: a type whose values cannot be kept in agreement."""
    base = column.base
    if base in _INTEGERS:
        low, high = _INTEGERS[base]
        return Codec("number", None, lambda value: numbers.whole_within(cast(str, value), low, high, base), lossless=False)
    if column.category == "A" and base.endswith("[]"):
        return _list_codec(column)
    if column.labels:
        return Codec("text", None, _one_of(column.labels, column.type), lossless=False)
    match base:
        case "numeric":
            if column.scale is None or column.precision is None:
                return Codec("number", numbers.normal_number, None)
            digits, scale = column.precision, column.scale
            return Codec("number", numbers.normal_number, lambda value: numbers.decimal(cast(str, value), digits, scale), lossless=False)
        case "double precision":
            return Codec("number", numbers.normal_number, lambda value: numbers.through_float8(cast(str, value)), lossless=False)
        case "real":
            return Codec("number", numbers.normal_number, lambda value: numbers.through_float4(cast(str, value)), lossless=False)
        case "boolean":
            return Codec("boolean", read_boolean, write_boolean)
        case "character varying" if column.length is not None:
            length = column.length
            return Codec("text", None, lambda value: _fitting(write_text(value), length), lossless=False)
        case "character":
            width = column.length
            return Codec("text", _unpadded, lambda value: _fitting(write_text(value).rstrip(" "), width), lossless=False)
        case "name":
            return Codec("text", None, _write_name, lossless=False)
        case '"char"':
            return Codec("text", None, _write_one_byte, lossless=False)
        case "date":
            return Codec("date", None, lambda value: times.held_date(cast(str, value)))
        case "timestamp with time zone":
            return _stamp_codec("timestamp", times.normal_timestamp, times.postgres_timestamp, column.precision)
        case "timestamp without time zone":
            return _stamp_codec("datetime", times.normal_datetime, times.postgres_datetime, column.precision)
        case "time without time zone":
            return _time_codec("time", times.normal_time, column.precision)
        case "time with time zone":
            return _time_codec("timetz", times.normal_timetz, column.precision)
        case "interval":
            return Codec("interval", None, _as_text)
        case "uuid":
            return Codec("uuid", None, _as_text)
        case "bytea":
            return Codec("bytes", _read_bytes, lambda value: f"\\x{value}")
        case "json":
            return Codec("json", normal_json, None)
        case "jsonb":
            return Codec("json", normal_json, _write_jsonb)
        case "hstore":
            return Codec("json", read_hstore, write_hstore)
        case "bit":
            bits = column.length or 1
            return Codec("text", _read_bit if bits == 1 else None, lambda value: _bits(cast(str, value), bits), lossless=False)
    if base in _TEXTS:
        return Codec("text", None, write_text)
    return None


# ── text ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_text(value: Canonical) -> str:
    """Refuses what no PostgreSQL text can hold, before it spoils a whole batch."""
    text = cast(str, value)
    if "\x00" in text:
        raise ValueError("has a NUL character, which PostgreSQL text cannot hold")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("has half of a surrogate pair, which is no character") from None
    return text


def _fitting(text: str, length: int | None) -> str:
    """Refuses what is too long; but spaces at the end that do not fit are taken off, as SQL wants it and PostgreSQL does."""
    if length is None or len(text) <= length:
        return text
    if text[length:].strip(" "):
        raise ValueError(f"has {len(text)} characters, the column holds {length}; `shorten: true` says that it may be cut")
    return text[:length]


def shortened(text: str, length: int) -> str:
    """At most `length` characters of a text, cut where no character is torn from its accents and nothing is left hanging."""
    if len(text) <= length:
        return text
    end = length
    while end > 0 and (_clings(text[end]) or text[end - 1] == _JOINER):
        end -= 1
    return text[: end or length].rstrip(" ")


_JOINER = "\u200d"  # between the parts of one emoji


def _clings(character: str) -> bool:
    """Whether it belongs to the character before it: an accent, a variation selector, a skin tone, a joiner."""
    return character == _JOINER or unicodedata.category(character) in ("Mn", "Me", "Mc") or "\U0001f3fb" <= character <= "\U0001f3ff"


def _one_of(labels: tuple[str, ...], type_name: str) -> Write:
    known = frozenset(labels)

    def write(value: Canonical) -> str:
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"is no value of {type_name}, which has {', '.join(labels[:10])}{', …' if len(labels) > 10 else ''}")
        return value

    return write


NAME_BYTES = 63  # a cast to `name` cuts what is longer without a word


def _write_name(value: Canonical) -> str:
    text = write_text(value)
    if len(text.encode()) > NAME_BYTES:
        raise ValueError(f"has {len(text.encode())} bytes, a name holds {NAME_BYTES}")
    return text


def _write_one_byte(value: Canonical) -> str:
    text = write_text(value)
    if len(text) > 1 or not text.isascii():
        raise ValueError('is not one ASCII character, all that a "char" holds')
    return text


def _as_text(value: Canonical) -> str:
    return cast(str, value)


def _unpadded(text: str) -> str:
    return text.rstrip(" ")


def _read_bit(text: str) -> str:
    return {"t": "1", "f": "0", "true": "1", "false": "0"}.get(text, text)


def _bits(text: str, length: int) -> str:
    if len(text) != length or text.strip("01"):
        raise ValueError(f"is not {length} bits")
    return text


# ── the others ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

_BOOLEANS = {"t": True, "f": False, "true": True, "false": False}
_LOOSE_BOOLEANS = {**_BOOLEANS, "1": True, "0": False, "y": True, "n": False, "yes": True, "no": False, "on": True, "off": False}


def read_boolean(text: str) -> bool:
    try:
        return _BOOLEANS[text]
    except KeyError:
        raise ValueError("is not a boolean") from None


def write_boolean(value: Canonical) -> str:
    if value is True:
        return "t"
    if value is False:
        return "f"
    raise ValueError("is not a boolean")


def _stamp_codec(kind: str, read: Read, write: Callable[[str], str], precision: int | None) -> Codec:
    if precision is None or precision >= 6:
        return Codec(kind, read, lambda value: write(times.held_stamp(cast(str, value))))
    return Codec(kind, read, lambda value: write(times.held_stamp(times.rounded_stamp(cast(str, value), precision))), lossless=False)


def _time_codec(kind: str, read: Read, precision: int | None) -> Codec:
    if precision is None or precision >= 6:
        return Codec(kind, read, _as_text)
    return Codec(kind, read, lambda value: times.rounded_time(cast(str, value), precision), lossless=False)


def _read_bytes(text: str) -> str:
    if not text.startswith("\\x"):
        raise ValueError("is not bytea in hexadecimal")
    return text[2:].lower()


def _loose_boolean(text: str) -> bool:
    try:
        return _LOOSE_BOOLEANS[text.strip().lower()]
    except KeyError:
        raise ValueError("is not a boolean") from None


_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")


def normal_uuid(text: str) -> str:
    if _UUID.match(text):
        return text
    try:
        return str(uuid.UUID(text.strip()))
    except ValueError:
        raise ValueError("is not a UUID") from None


def _normal_hex(text: str) -> str:
    text = text.removeprefix("\\x").lower()
    if len(text) % 2 or re.fullmatch(r"[0-9a-f]*", text) is None:
        raise ValueError("is not hexadecimal")
    return text


_INTERVAL = re.compile(r"[-+0-9a-z:. ]+\Z", re.IGNORECASE)


def _normal_interval(text: str) -> str:
    if _INTERVAL.match(text) is None:
        raise ValueError("is not an interval")
    return text


def _loose_timestamp(text: str) -> str:
    return (
        times.normal_timestamp(text.replace(" +", "+"))
        if text in times.INFINITE
        else times.normal_timestamp(text.strip().replace(" ", "T", 1))
    )


def _loose_datetime(text: str) -> str:
    return times.normal_datetime(text if text in times.INFINITE else text.strip().replace(" ", "T", 1))


# Any text that a person or another system may have written → normal form of the kind.
NORMAL: dict[str, Read] = {
    "text": lambda text: text,
    "number": numbers.normal_number,
    "boolean": _loose_boolean,
    "date": lambda text: times.normal_date(text.strip()),
    "timestamp": _loose_timestamp,
    "datetime": _loose_datetime,
    "time": lambda text: times.normal_time(text.strip()),
    "timetz": lambda text: times.normal_timetz(text.strip()),
    "interval": _normal_interval,
    "uuid": normal_uuid,
    "bytes": _normal_hex,
    "json": lambda text: normal_json(text),
}


def as_text(value: Canonical) -> str:
    """A value of another kind that lives in a text."""
    if value is True:
        return "true"
    return "false" if value is False else cast(str, value)


# ── lists ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

LIST = "list of "  # a list's kind is this and its elements' kind


def _list_codec(column: Column) -> Codec | None:
    element = codec_for(replace(column, base=column.base[:-2], type=column.type.removesuffix("[]"), category=""))
    if element is None:
        return None
    read, write = element.read, element.write
    return Codec(
        f"{LIST}{element.kind}",
        lambda text: lists.read_array(text, read),
        lambda value: lists.write_array(value, write),
        lossless=element.lossless,
    )


def normal_form(kind: str) -> Read:
    """Any text that a person or another system may have written → the kind's normal form."""
    if kind.startswith(LIST):
        element = NORMAL[kind.removeprefix(LIST)]
        return lambda text: lists.normal_list(text, element)
    return NORMAL[kind]


# ── json ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Number(str):
    """A JSON number in normal form: written without quotes."""

    __slots__ = ()


def _json_number(text: str) -> _Number:
    return _Number(numbers.normal_number(text))


def _no_constant(text: str) -> Any:
    raise ValueError(f"has {text}, which is not JSON")


_DECODER = json.JSONDecoder(parse_float=_json_number, parse_int=_json_number, parse_constant=_no_constant)


def normal_json(text: str) -> str:
    """Sorted, compact; a number keeps all its digits, 1.50 becomes 1.5."""
    try:
        return _json_text(_DECODER.decode(text))
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos}") from None


def _write_jsonb(value: Canonical) -> str:
    text = cast(str, value)
    if "\\u" in text and _UNFIT_FOR_JSONB.search(text):
        raise ValueError("has a NUL or half of a surrogate pair in it, which jsonb cannot hold")
    return text


_UNFIT_FOR_JSONB = re.compile(r"(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f])")  # in normal form only half a pair is spelled as \ud8..


def _json_text(value: Any) -> str:
    if isinstance(value, _Number):
        return str.__str__(value)
    if isinstance(value, str):
        return json_string(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json_string(key)}:{_json_text(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_json_text, value)) + "]"
    return {None: "null", True: "true", False: "false"}[value]


def json_string(text: str) -> str:
    plain = json.dumps(text, ensure_ascii=False)
    try:
        plain.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell and UTF-8 cannot
        return json.dumps(text)
    return plain


# ── hstore ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

_PAIR = re.compile(r'\s*"((?:[^"\\]|\\.)*)"=>(?:"((?:[^"\\]|\\.)*)"|NULL)\s*(?:,|\Z)', re.DOTALL)


def read_hstore(text: str) -> str:
    if text.startswith("{"):  # as change events have it
        return normal_json(text)
    pairs: dict[str, str | None] = {}
    at = 0
    while at < len(text):
        match = _PAIR.match(text, at)
        if match is None:
            raise ValueError("is not an hstore")
        pairs[re.sub(r"\\(.)", r"\1", match[1])] = None if match[2] is None else re.sub(r"\\(.)", r"\1", match[2])
        at = match.end()
    return _json_text(pairs)


def write_hstore(value: Canonical) -> str:
    pairs = _DECODER.decode(cast(str, value))
    if not isinstance(pairs, dict) or not all(v is None or (isinstance(v, str) and not isinstance(v, _Number)) for v in pairs.values()):
        raise ValueError("is no object of texts, which is all that an hstore can hold")

    def quoted(text: str) -> str:
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'

    return ", ".join(f"{quoted(key)}=>{'NULL' if text is None else quoted(text)}" for key, text in pairs.items())


def exact_factor(text: str) -> Decimal:
    """A unit's factor whose reciprocal is a finite decimal too, so that the way back is exact. Raises ValueError."""
    factor = Decimal(numbers.normal_number(text)) if numbers.normal_number(text) not in numbers.SPECIAL else Decimal(0)
    if factor == 0:
        raise ValueError("must be a number other than 0")
    top, bottom = factor.as_integer_ratio()
    for number in (abs(top), bottom):
        for prime in (2, 5):
            while number % prime == 0:
                number //= prime
        if number != 1:
            raise ValueError("cannot be undone exactly: its reciprocal has endless digits")
    return factor
