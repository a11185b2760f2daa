"""Numbers: one normal form, and the same rounding as PostgreSQL's."""

from __future__ import annotations

import math
import struct
from decimal import ROUND_HALF_UP, Context, Decimal
from random import Random

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.mapping.numbers import (
    float4_text,
    float8_text,
    multiplied,
    normal_number,
    rounded,
    through_float4,
    through_float8,
    whole_within,
)

plain_numbers = st.decimals(allow_nan=False, allow_infinity=False, places=None).map(str)
normal = plain_numbers.filter(lambda text: abs(Decimal(text).adjusted()) < 2000).map(normal_number)
LARGE = Context(prec=10_000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[("10", "10"), ("10.00", "10"), ("0.50", "0.5"), ("-3", "-3"), ("-0", "0"), ("-0.00", "0"), ("0.0", "0")],
        *[("1e+20", "1" + "0" * 20), ("1.5e-05", "0.000015"), ("+7", "7"), (".5", "0.5"), ("5.", "5"), ("007", "7"), (" 1 ", "1")],
        *[("NaN", "NaN"), ("Infinity", "Infinity"), ("-Infinity", "-Infinity"), ("inf", "Infinity"), ("-inf", "-Infinity")],
        ("9" * 5000 + ".10", "9" * 5000 + ".1"),
    ],
)
def test_every_spelling_has_one_normal_form(text: str, expected: str) -> None:
    assert normal_number(text) == expected
    assert normal_number(expected) == expected


@pytest.mark.parametrize(
    "text", ["", "-", ".", "1_000", "١٢", "0x10", "1,5", "1e", "e5", "1e999999999", "1e-999999999", "ten", "1 2", "NaN1", "\x00"]
)
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a number|more digits"):
        normal_number(text)


@given(normal)
def test_the_normal_form_keeps_the_value(text: str) -> None:
    assert normal_number(text) == text
    assert "e" not in text.lower()
    assert not (("." in text) and text.endswith("0"))


@given(normal, st.integers(-20, 20))
@example("0.005", 2)
@example("-0.005", 2)
@example("99.995", 2)
@example("-0.4", 0)
@example("149", -2)
def test_rounding_is_half_away_from_zero(text: str, scale: int) -> None:
    expected = Decimal(text).quantize(Decimal((0, (1,), -scale)), ROUND_HALF_UP, LARGE)
    assert Decimal(rounded(text, scale)) == expected
    assert rounded(rounded(text, scale), scale) == rounded(text, scale)


@given(st.floats(allow_nan=False))
def test_a_double_survives_its_text(value: float) -> None:
    text = float8_text(value)
    assert float(text) == value
    assert through_float8(normal_number(text)) == normal_number(text)


@given(st.floats(width=32))
@example(1.401298464324817e-45)
@example(3.4028234663852886e38)
@example(-0.0)
def test_a_real_survives_its_text(value: float) -> None:
    text = float4_text(value)
    back = struct.unpack("<f", struct.pack("<f", float(text)))[0]
    assert back == value or (math.isnan(back) and math.isnan(value))
    assert through_float4(normal_number(text)) == normal_number(text)


@given(st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_going_through_a_column_twice_changes_nothing_more(value: float) -> None:
    text = normal_number(repr(value))
    for through in (through_float8, through_float4):
        try:
            once = through(text)
        except ValueError:
            continue
        assert through(once) == once


def test_what_a_float_column_cannot_hold_is_refused() -> None:
    for through in (through_float8, through_float4):
        with pytest.raises(ValueError, match="out of range"):
            through("1" + "0" * 400)
        with pytest.raises(ValueError, match="out of range"):
            through("0." + "0" * 400 + "1")
        assert through("NaN") == "NaN"


def test_only_whole_numbers_go_into_an_integer_column() -> None:
    def whole(text: str) -> str:
        return whole_within(text, -32768, 32767, "smallint")

    assert [whole(text) for text in ("-3", "-32768", "32767", "0")] == ["-3", "-32768", "32767", "0"]
    for text in ("0.5", "NaN", "Infinity"):
        with pytest.raises(ValueError, match="whole number"):
            whole(text)
    for text in ("32768", "-32769", "1" + "0" * 6000):
        with pytest.raises(ValueError, match="is out of range for smallint, -32768 to 32767"):
            whole(text)


@given(normal, st.sampled_from(["0.001", "1000", "-2.5", "0.5", "64"]))
def test_a_unit_can_be_undone(text: str, factor: str) -> None:
    there = multiplied(text, Decimal(factor))
    assert multiplied(there, 1 / Decimal(factor)) == text


def test_random_floats_print_as_in_postgres(database: str) -> None:
    random = Random(20)
    doubles = [struct.unpack("<d", random.randbytes(8))[0] for _ in range(3000)]
    doubles += [float(f"{random.randrange(1, 100)}e{random.randrange(16, 40)}") for _ in range(2000)]  # often half-way between two doubles
    reals = [struct.unpack("<f", random.randbytes(4))[0] for _ in range(3000)]
    reals += [
        struct.unpack("<f", struct.pack("<f", float(f"{random.randrange(1, 100)}e{random.randrange(7, 30)}")))[0] for _ in range(2000)
    ]
    with psycopg.connect(database) as conn:
        for kind, values, text in (("float8", doubles, float8_text), ("float4", reals, float4_text)):
            finite = [value for value in values if math.isfinite(value)]
            rows = conn.execute(f"SELECT v::text FROM unnest(%s::text[]::{kind}[]) AS v", [[repr(value) for value in finite]]).fetchall()
            assert [text(value) for value in finite] == [printed for (printed,) in rows]


def test_floats_print_as_in_postgres(database: str) -> None:
    doubles = [
        1e15,
        1e16,
        123456789012345.6,
        999999999999999.9,
        1e-4,
        1e-5,
        0.1,
        1 / 3,
        1e308,
        5e-324,
        2**53,
        4.5e14,
        -1e22,
        1.7976931348623157e308,
        9007199254740993.0,
    ]
    doubles += [float("nan"), float("inf"), float("-inf"), 0.0, -0.0]
    reals = [
        struct.unpack("<f", struct.pack("<I", bits))[0]
        for bits in (1, 0x7F7FFFFF, 0x3DCCCCCD, 0x4B800000, 0x49742400, 0x358637BD, 0x497423F0, 0x3F800001)
    ]
    with psycopg.connect(database) as conn:
        conn.execute("SET extra_float_digits = 1")
        for value in doubles:
            assert conn.execute("SELECT %s::float8::text", [repr(value)]).fetchone() == (float8_text(value),)
        for value in reals:
            assert conn.execute("SELECT %s::float4::text", [repr(value)]).fetchone() == (float4_text(value),)
        for text in (
            "16777217",
            "16777217.0000001",
            "0.1",
            "3.4028235677973365e38",
            "8e-46",
            "33554434.9999999999999999",
            "1.00000017881393421514957253748434595763683319091796875",
        ):
            (printed,) = conn.execute("SELECT %s::float4::text", [text]).fetchone() or ("",)
            assert through_float4(normal_number(text)) == normal_number(printed), text
        for text in ("0.1", "1e23", "9007199254740993", "2.2250738585072011e-308", "123456789.123456789123456789"):
            (printed,) = conn.execute("SELECT %s::float8::text", [text]).fetchone() or ("",)
            assert through_float8(normal_number(text)) == normal_number(printed), text
        for text in ("0.005", "-0.005", "2.675", "99.995", "-1.5", "0.0049"):
            (printed,) = conn.execute("SELECT %s::numeric(20,2)::text", [text]).fetchone() or ("",)
            assert rounded(text, 2) == normal_number(printed), text
