"""Arrays and texts with separators ↔ one normal form."""

from __future__ import annotations

from typing import Any

import orjson
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError, MappingError
from schemas.mapping.lists import joined_text, read_array, split_text, write_array
from tests.mapping.mapping_builders import a_mapping

nasty = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8),
    st.text('{}",\\ \tNUL null', max_size=6),
    st.sampled_from(["", "NULL", "null", " ", "{", "}", '"', "\\", "a,b", "\n", "\u00a0", "'"]),
)
flat: Any = st.lists(nasty | st.none(), max_size=5)
grids = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.lists(nasty | st.none(), min_size=width, max_size=width), min_size=1, max_size=3)
)


@given(flat | grids)
def test_a_list_survives_print_and_read(elements: list[Any]) -> None:
    normal = orjson.dumps(elements).decode()
    assert read_array(write_array(normal, None), None) == normal


def test_arrays_are_printed_as_postgres_prints_them(database: str) -> None:
    found: list[Any] = []
    with psycopg.connect(database) as conn:

        @given(flat | grids)
        def check(elements: list[Any]) -> None:
            normal = orjson.dumps(elements).decode()
            text = write_array(normal, None)
            (printed,) = conn.execute("SELECT %s::text[]::text", [text]).fetchone() or (None,)
            assert printed == text
            assert read_array(printed, None) == normal
            found.append(text)

        check()
    assert len(found) > 50


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", "[]"),
        ("[0:1]={a,b}", '["a","b"]'),
        ("[1:1][-2:-1]={{a,b}}", '[["a","b"]]'),
        ("{ a b , c }", '["a b","c"]'),
        ('{NULL,"NULL",Null}', '[null,"NULL",null]'),
        ("{{},{}}", "[[],[]]"),
    ],
)
def test_what_postgres_and_people_write(text: str, expected: str) -> None:
    assert read_array(text, None) == expected


@pytest.mark.parametrize("text", ["", "a", "{", "{a", "{a,}", "{,a}", "{a}b", "{a}{b}", '{"a}', "{a}}", "{a b{c}}", "[1:1]", "NULL"])
def test_what_is_no_array_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an array"):
        read_array(text, None)


# ── as fields ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_array_here_and_a_text_there() -> None:
    crm, erp = a_mapping("text[]", "text", erp_side={"column": "b", "list": ", "})
    assert crm.to_canonical({"a": '{red,"dark blue"}'}) == erp.to_canonical({"b": "red ,dark blue,"}) == {"f": '["red","dark blue"]'}
    assert erp.to_columns({"f": '["red","dark blue"]'}) == {"b": "red, dark blue"}
    assert crm.to_columns({"f": '["red","dark blue"]'}) == {"a": '{red,"dark blue"}'}
    assert erp.to_canonical({"b": ""}) == {"f": "[]"}
    assert erp.to_columns({"f": "[]"}) == {"b": ""}
    assert erp.same("f", '["red",null," "]', '["red"]')  # what a text cannot hold of a list
    with pytest.raises(MappingError, match="'a,b' in it, which would be read back as several"):
        erp.to_columns({"f": '["a,b"]'})


@given(st.lists(nasty | st.none(), max_size=4), st.sampled_from([",", ", ", ";", " ", "\n", " | "]))
def test_a_split_text_settles_after_one_write(elements: list[str | None], separator: str) -> None:
    normal = orjson.dumps(elements).decode()
    try:
        text = joined_text(normal, separator)
    except ValueError:
        assert any(separator.strip() in str(element) or separator in str(element) for element in elements)
        return
    once = split_text(text, separator)
    assert joined_text(once, separator) == text
    assert split_text(joined_text(once, separator), separator) == once


def test_elements_are_compared_in_their_own_kind() -> None:
    crm, erp = a_mapping("integer[]", "numeric(10,2)[]")
    assert crm.to_canonical({"a": "{1,NULL}"}) == erp.to_canonical({"b": "{1.00,NULL}"}) == {"f": '["1",null]'}
    with pytest.raises(MappingError, match="whole number"):
        crm.to_columns({"f": '["1.5"]'})
    crm, erp = a_mapping("text[]", "text[]", clean=["strip", "upper", "empty_is_null"])
    assert crm.to_canonical({"a": '{" a ",b," "}'}) == {"f": '["A","B"]'}


def test_lists_of_different_things_are_not_mixed() -> None:
    with pytest.raises(ConfigError, match="crm has a list of text, erp has a list of boolean"):
        a_mapping("text[]", "boolean[]")
    with pytest.raises(ConfigError, match="say how the text is a list"):
        a_mapping("text[]", "text")
    with pytest.raises(ConfigError, match=r"wants a text, but b of public\.there is a integer"):
        a_mapping("text[]", "integer", erp_side={"column": "b", "list": ","})
    with pytest.raises(ConfigError, match="makes a list, but the field is a text"):
        a_mapping("text", "text", erp_side={"column": "b", "list": ","}, kind="text")
    with pytest.raises(ConfigError, match="cannot be kept in agreement"):
        a_mapping("box[]", "box[]")


def test_json_arrays_and_arrays_are_the_same_list() -> None:
    crm, erp = a_mapping("jsonb", "text[]")
    assert crm.to_canonical({"a": '["a", null, "b c"]'}) == erp.to_canonical({"b": '{a,NULL,"b c"}'}) == {"f": '["a",null,"b c"]'}
    assert crm.to_columns({"f": '["a",null]'}) == {"a": '["a",null]'}
    with pytest.raises(MappingError, match="is not a list"):
        crm.to_canonical({"a": '{"a": 1}'})
