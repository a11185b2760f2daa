"""Positions and row names: what is printed parses back, and text compares like the value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.change import Change, Op, decode_change, parse_row_name, row_name
from schemas.errors import SchemaError
from schemas.lsn import Lsn, Position, parse_lsn, parse_position

u64 = st.integers(0, 2**64 - 1)
positions = st.builds(Position, u64, u64)


@given(u64)
def test_lsn_survives_print_and_parse(n: int) -> None:
    assert parse_lsn(str(Lsn(n))) == n


@pytest.mark.parametrize("rubbish", ["", "0", "/", "1/", "g/1", "1/1/1", "123456789/0", " 1/2"])
def test_rubbish_is_no_lsn(rubbish: str) -> None:
    with pytest.raises(SchemaError, match="not an LSN"):
        parse_lsn(rubbish)


@pytest.mark.parametrize("outside", [-1, 1 << 64])
def test_an_lsn_has_64_bits(outside: int) -> None:
    with pytest.raises(SchemaError):
        Lsn(outside)


@given(positions)
def test_position_survives_print_and_parse(position: Position) -> None:
    assert parse_position(str(position)) == position


@given(positions, positions)
def test_position_text_compares_like_the_position(a: Position, b: Position) -> None:
    assert (str(a) < str(b)) == (a < b)


@pytest.mark.parametrize("rubbish", ["", "0" * 31, "0" * 33, "x" * 32])
def test_rubbish_is_no_position(rubbish: str) -> None:
    with pytest.raises(SchemaError, match="not a position"):
        parse_position(rubbish)


@given(st.from_regex(r"[a-z][a-z0-9_]*", fullmatch=True), st.text(min_size=1))
def test_row_name_survives_print_and_parse(system: str, key: str) -> None:
    assert parse_row_name(row_name(system, key)) == (system, key)


@pytest.mark.parametrize("rubbish", ["", "crm", ":1", "crm:"])
def test_rubbish_is_no_row_name(rubbish: str) -> None:
    with pytest.raises(SchemaError, match="not a row name"):
        parse_row_name(rubbish)


texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.dictionaries(texts, st.none() | st.booleans() | texts)


@given(
    st.builds(
        Change,
        system=texts,
        key=texts,
        op=st.sampled_from(Op),
        position=positions.map(str),
        ts_us=st.integers(-(2**62), 2**62),
        origin_hlc=st.none() | st.integers(0, 2**62),
        values=st.none() | values,
        positions=st.dictionaries(texts, positions.map(str)),
    )
)
def test_change_survives_encode_and_decode(change: Change) -> None:
    assert decode_change(change.encode()) == change


@pytest.mark.parametrize("rubbish", [b"", b"\x00\x01", b"[]", b"{}", b'{"op": "x"}', b"null", b"3"])
def test_rubbish_is_no_change(rubbish: bytes) -> None:
    with pytest.raises(SchemaError, match="not a change"):
        decode_change(rubbish)
