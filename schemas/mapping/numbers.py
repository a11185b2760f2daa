"""Numbers as text: one normal form, and what PostgreSQL's number types make of it.

Normal form: plain decimal, no exponent, no sign on zero, no zeros at the end of a fraction: "10", "0.5", "-3", "NaN", "Infinity",
"-Infinity". Text handling where it does; `Decimal` only for what is rounded or has an exponent. All functions raise ValueError on what
is no number.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Context, Decimal
from math import inf, nextafter

_PLAIN = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?\Z")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,7})?\Z")
_WORDS = {"nan": "NaN"} | {
    sign + word: ("-" if sign == "-" else "") + "Infinity" for sign in ("", "+", "-") for word in ("inf", "infinity")
}
_DIGITS = 132_000  # numeric holds 131072 digits before the point and 16383 after it: nothing longer is worth spelling out
_EXACT = Context(prec=2 * _DIGITS)
_FLOAT4 = struct.Struct("<f")
_FLOAT4_BITS = struct.Struct("<I")
_FLOAT8_BITS = struct.Struct("<Q")
SPECIAL = frozenset({"NaN", "Infinity", "-Infinity"})


def normal_number(text: str) -> str:
    """Any spelling of a number that PostgreSQL prints or reads → its normal form."""
    if _PLAIN.match(text):
        if "." in text:
            text = text.rstrip("0")
            if text[-1] == ".":
                text = text[:-1]
        return "0" if text == "-0" else text
    text = text.strip()
    if _NUMBER.match(text):
        return plain(Decimal(text))
    word = _WORDS.get(text.lower())
    if word is None:
        raise ValueError("is not a number")
    return word


def plain(number: Decimal) -> str:
    """Normal form of a Decimal."""
    if not number.is_finite():
        return "NaN" if number.is_nan() else ("-Infinity" if number < 0 else "Infinity")
    if number.is_zero():
        return "0"
    if abs(number.adjusted()) > _DIGITS:
        raise ValueError("has more digits than a numeric can hold")
    text = format(number, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text


def rounded(text: str, scale: int) -> str:
    """A normal form rounded to `scale` digits after the point, half away from zero, as PostgreSQL rounds numeric."""
    if text in SPECIAL:
        return text
    point = text.find(".")
    if (point < 0 and scale >= 0) or (point >= 0 and len(text) - point - 1 <= scale):
        return text
    return plain(Decimal(text).quantize(Decimal((0, (1,), -scale)), ROUND_HALF_UP, _EXACT))


def multiplied(text: str, factor: Decimal) -> str:
    """Exact product of a normal form and a factor."""
    return text if text in SPECIAL else plain(_EXACT.multiply(Decimal(text), factor))


def added(texts: Iterable[str]) -> str:
    """The exact sum, as PostgreSQL's numeric has it: with NaN, or both infinities, NaN."""
    total = Decimal(0)
    specials = set()
    for text in texts:
        if (normal := normal_number(text)) in SPECIAL:
            specials.add(normal)
        else:
            total = _EXACT.add(total, Decimal(normal))
    if specials:
        return specials.pop() if len(specials) == 1 else "NaN"
    return plain(total)


def whole_within(text: str, low: int, high: int, type_name: str) -> str:
    """`text` if it is a whole number in these bounds: an integer column takes nothing else."""
    if "." in text or text in SPECIAL:
        raise ValueError("is not a whole number; give the field a scale of 0 if it may be rounded")
    if len(text) > 20 or not low <= int(text) <= high:
        raise ValueError(f"is out of range for {type_name}, {low} to {high}")
    return text


def decimal(text: str, precision: int, scale: int) -> str:
    """What numeric(precision, scale) holds of a normal form: rounded to its scale. Raises ValueError where its digits do not suffice."""
    text = rounded(text, scale)
    if text in SPECIAL:
        if text == "NaN":
            return text
        raise ValueError(f"is infinite, which numeric({precision},{scale}) cannot hold")
    digits, _, fraction = text.lstrip("-").partition(".")
    before = precision - scale  # that many digits stand before the point; fewer than none: zeros after it
    if (digits != "0" and len(digits) > max(before, 0)) or (digits == "0" and text != "0" and not fraction.startswith("0" * -before)):
        raise ValueError(f"has too many digits for numeric({precision},{scale})")
    return text


# ── floating point ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def float8_text(value: float) -> str:
    """What PostgreSQL prints for a double precision: the shortest text that reads back as the same, from 1e+15 on with an exponent."""
    text = repr(value)
    if -1e15 < value < 1e15 and "e" not in text:
        return text[:-2] if text.endswith(".0") else text
    if abs(value) > 2**53 and value not in (inf, -inf):
        digits = len(text.partition("e")[0].rstrip("0.").lstrip("-").replace(".", ""))
        while digits < 17 and _halfway(text, value, nextafter(value, inf), nextafter(value, -inf)):
            digits += 1
            text = f"{value:.{digits - 1}e}"
    return _float_text(text, 15)


def _halfway(text: str, value: float, above: float, below: float) -> bool:
    """Whether a text lies exactly between two floats: it would be read as the even one, but PostgreSQL does not print it so."""
    if above == inf or below == -inf:
        return False
    number, exact = Decimal(text), Decimal(value)
    neighbour = Decimal(above if number > exact else below)
    return number != exact and _EXACT.multiply(_EXACT.subtract(number, exact), Decimal(2)) == _EXACT.subtract(neighbour, exact)


def float4_text(value: float) -> str:
    """The same for a real, given as the double that it is stored in."""
    if value != value or value in (inf, -inf):
        return _float_text(repr(value), 6)
    digits = 1 if -1e-37 < value < 1e-37 else 6  # six digits always survive, except where the number is denormal
    text = repr(value)
    while digits <= 9:
        text = f"{value:.{digits}g}"
        if _FLOAT4.unpack(_FLOAT4.pack(min(max(float(text), -_FLOAT4_MAX), _FLOAT4_MAX)))[0] == value and not (
            abs(value) > 2**24 and _halfway(text, value, _neighbour4(value, 1), _neighbour4(value, -1))
        ):
            break
        digits += 1
    return _float_text(text, 6)


def _neighbour4(value: float, step: int) -> float:
    """The next real above (1) or below (-1)."""
    (bits,) = _FLOAT4_BITS.unpack(_FLOAT4.pack(value))
    neighbour: float = _FLOAT4.unpack(_FLOAT4_BITS.pack(bits + (step if value > 0 else -step)))[0]
    return neighbour


_FLOAT4_MAX: float = _FLOAT4.unpack(_FLOAT4_BITS.pack(0x7F7FFFFF))[0]
_FLOAT4_LIMIT = float(2**128 - 2**103)  # half a step above the greatest: from here on it is infinite


def _float_text(text: str, fixed_below: int) -> str:
    number = Decimal(text)
    if not number.is_finite():
        return plain(number)
    sign, digits, exponent = number.normalize(_EXACT).as_tuple()
    assert isinstance(exponent, int)
    figures = "".join(map(str, digits))
    minus = "-" if sign else ""
    if number.is_zero():
        return minus + "0"
    power = len(figures) + exponent - 1
    if -4 <= power < fixed_below:
        return minus + plain(abs(number))
    return f"{minus}{figures[0]}{'.' if len(figures) > 1 else ''}{figures[1:]}e{'-' if power < 0 else '+'}{abs(power):02d}"


def through_float8(text: str) -> str:
    """The normal form of what a double precision column gives back for a normal form."""
    if text in SPECIAL:
        return text
    value = float(text)
    if value in (inf, -inf) or (value == 0 and text != "0"):
        raise ValueError("is out of range for double precision")
    if -1e15 < value < 1e15:
        short = repr(value)
        if "e" not in short:
            return short[:-2] if short.endswith(".0") else short
    return normal_number(float8_text(value))


def through_float4(text: str) -> str:
    """The same for a real column."""
    if text in SPECIAL:
        return text
    value = _nearest_float4(text)
    if value in (inf, -inf) or (value == 0 and text != "0"):
        raise ValueError("is out of range for real")
    return normal_number(float4_text(value))


def _nearest_float4(text: str) -> float:
    double = float(text)
    if abs(double) >= _FLOAT4_LIMIT:
        if abs(Decimal(text)) >= _FLOAT4_LIMIT:
            return inf if double > 0 else -inf
        return _FLOAT4_MAX if double > 0 else -_FLOAT4_MAX
    value: float = _FLOAT4.unpack(_FLOAT4.pack(double))[0]
    (bits,) = _FLOAT8_BITS.unpack(struct.pack("<d", double))
    if bits & 0x0FFFFFFF == 0 and value != double:  # may be half-way between two reals: rounding twice could go the wrong way
        exact, middle = Decimal(text), Decimal(double)
        if exact != middle:
            (nearest,) = _FLOAT4_BITS.unpack(_FLOAT4.pack(value))
            for neighbour in (nearest - 1, nearest + 1):
                other: float = _FLOAT4.unpack(_FLOAT4_BITS.pack(neighbour & 0xFFFFFFFF))[0]
                if other == other and abs(Decimal(other) - exact) < abs(Decimal(value) - exact):
                    value = other
    return value
