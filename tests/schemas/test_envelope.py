"""The envelope is read as Debezium writes it; what is none is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.envelope import COLUMNS_HEADER, CONNECTOR, ColumnTexts, EventOp, column_texts, envelope_of, position_of
from schemas.errors import NotAnEvent
from schemas.lsn import Position


def an_event(version: str = CONNECTOR, sequence: str = '["5","7"]', lsn: int = 7, **changes: Any) -> dict[str, Any]:
    source = {
        "version": version,
        "connector": "postgresql",
        "name": "crm",
        "ts_ms": 1,
        "ts_us": 1234,
        "snapshot": "false",
        "db": "crm",
        "sequence": sequence,
        "schema": "public",
        "table": "account",
        "txId": 9,
        "lsn": lsn,
        "origin": None,
        "origin_lsn": None,
    }
    return {"before": None, "after": {"id": 1}, "source": source, "op": "c", "ts_us": 5, **changes}


def test_an_event_is_read() -> None:
    envelope = envelope_of(an_event())
    assert (envelope.op, envelope.after, envelope.before) == (EventOp.CREATE, {"id": 1}, None)
    assert envelope.position == Position(5, 7)
    assert envelope.source.ts_us == 1234


@pytest.mark.parametrize("datum", [None, 5, "x", [], {}, {"source": None}, an_event(op="x"), an_event(source={"name": "crm"})])
def test_what_is_no_event_is_refused(datum: Any) -> None:
    with pytest.raises(NotAnEvent):
        envelope_of(datum)


def test_debeziums_events_of_one_row_are_in_order_though_its_transactions_are_not() -> None:
    """As Debezium 3.6 tells it: one transaction changes row 2 and commits; another began before that, and changes row 2 when it may."""
    first, second = (
        envelope_of(an_event("3.6.3.Final", sequence, lsn)).position for sequence, lsn in (('["110","110"]', 110), ('["100","120"]', 120))
    )
    snapshot = envelope_of(an_event("3.6.3.Final", '[null,"130"]', 130, op="r")).position
    assert first < second < snapshot


def test_position_before_the_first_commit_is_the_lowest() -> None:
    assert position_of('[null,"28180328"]', 28180328) == Position(0, 28180328)


def test_incremental_snapshot_events_of_debezium_have_no_lsn_but_a_position() -> None:
    assert position_of('["28500024","28500024"]', None) == Position(28500024, 28500024)


@pytest.mark.parametrize("sequence", [None, "", "{}", "x", '["a","b"]', "[]"])
def test_no_position_is_an_error(sequence: str | None) -> None:
    with pytest.raises(NotAnEvent):
        _ = position_of(sequence, None)


texts = st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))


@given(texts, texts, st.lists(st.text(st.characters(codec="utf-8"))))
def test_column_texts_survive_encode_and_decode(before: dict[str, str], after: dict[str, str], unchanged: list[str]) -> None:
    told = ColumnTexts(before, after, tuple(unchanged))
    assert column_texts([("other", b"x"), (COLUMNS_HEADER, told.encode())]) == told


def test_column_texts_take_the_place_of_what_the_body_says() -> None:
    told = ColumnTexts({}, {"n": "NaN"}, ("big",))
    assert told.amend_after({"id": "1", "n": None, "big": "placeholder"}) == {"id": "1", "n": "NaN"}


@pytest.mark.parametrize("value", [b"", b"x", b"[]", b'{"after": 1}', b'{"after": {"a": 1}}', None])
def test_a_header_that_cannot_be_read_is_refused(value: bytes | None) -> None:
    with pytest.raises(NotAnEvent):
        column_texts([(COLUMNS_HEADER, value)])
