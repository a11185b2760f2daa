"""Lists of text arrive in PostgreSQL as they were, whatever is in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.text_lists import array_literal, literals, quick_text_lists

TEXTS = st.one_of(
    st.none(),
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])),
    st.text('"\\{}, \n\tNULnul'),
    st.sampled_from(["", "NULL", "null", '"', "\\", '{"a": "b\\"c"}', "a,b", " a ", "{}", "ß→漢🙂"]),
)


@pytest.fixture(scope="module")
def connection(postgres: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres, autocommit=True) as connection:
        quick_text_lists(connection)
        yield connection


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXTS))
def test_postgresql_reads_what_was_given(connection: psycopg.Connection[Any], texts: list[str | None]) -> None:
    assert connection.execute("SELECT %s::text[]", [texts]).fetchone() == (texts,)
    assert connection.execute("SELECT * FROM unnest(%s::text[])", [texts]).fetchall() == [(text,) for text in texts]


def test_other_lists_are_written_as_ever(connection: psycopg.Connection[Any]) -> None:
    given = ([1, 2, None], [True, None], [b"\x00\xff"], [["a", "b"], ["c", None]], [])
    row = connection.execute("SELECT %s::int[], %s::bool[], %s::bytea[], %s::text[], %s::bigint[]", given).fetchone()
    assert row == given


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXTS), st.lists(st.integers(-(1 << 63), (1 << 63) - 1)), st.lists(st.booleans()))
def test_literals_are_read_as_the_lists_that_they_are_of(
    connection: psycopg.Connection[Any], texts: list[str | None], numbers: list[int], truths: list[bool]
) -> None:
    given_ = literals((texts, numbers, truths, "as it is"))
    assert all(isinstance(one, str) for one in given_)
    row = connection.execute("SELECT %s::text[], %s::bigint[], %s::bool[], %s", given_, prepare=True).fetchone()
    assert row == (texts, numbers, truths, "as it is")


def test_lists_of_anything_else_are_left_to_psycopg(connection: psycopg.Connection[Any]) -> None:
    others = ([1, None], [b"\x00"], [["a"]], [1, True])
    assert literals(others) == others
    assert connection.execute("SELECT %s::int[], %s::bytea[]", literals(others[:2])).fetchone() == others[:2]


def test_text_with_a_zero_is_refused_before_it_is_sent(connection: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.DataError, match="NUL"):
        connection.execute("SELECT %s::text[]", [["a\x00b"]])
    with pytest.raises(psycopg.DataError, match="NUL"):
        array_literal(["a", "\x00"])
    assert connection.execute("SELECT 1").fetchone() == (1,)
