"""Places inside JSON and hstore columns: read as PostgreSQL reads them, written without touching what is beside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.catalog import Table
from schemas.change import Canonical
from schemas.errors import ConfigError, MappingError
from schemas.mapping import Binding
from schemas.mapping.documents import Path, split_reference
from tests.mapping.mapping_builders import a_table, compiled

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=6)
keys = st.sampled_from(["a", "b", "0", "erp code", "ü"])
documents: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)
objects = st.dictionaries(keys, documents, max_size=4)
paths = st.lists(keys | st.integers(0, 2), min_size=1, max_size=3)


# ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("name", None),
        ("custom->>erp_code", ("custom", ("erp_code",), True)),
        ("custom -> address ->> city", ("custom", ("address", "city"), True)),
        ("custom->address", ("custom", ("address",), False)),
        ("phones->0->>number", ("phones", (0, "number"), True)),
        ("custom->>'0'", ("custom", ("0",), True)),
        ("""custom->'it''s'->>"a->b" """, ("custom", ("it's", "a->b"), True)),
        ("address.custom->>erp-code", ("address.custom", ("erp-code",), True)),
        ("custom->>with space", ("custom", ("with space",), True)),
    ],
)
def test_a_path_is_written_as_in_postgres(reference: str, expected: Any) -> None:
    assert split_reference(reference) == expected


@pytest.mark.parametrize("reference", ["custom->", "custom->>", "custom->>a->>b", "custom->>a->b", "custom->'a", "custom->->a"])
def test_what_is_no_path_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match=r"path|nothing can be inside"):
        split_reference(reference)


# ── reading and writing, against PostgreSQL ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def conn(postgres: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres) as connection:
        yield connection


def test_a_path_is_read_as_postgres_reads_it(conn: psycopg.Connection[Any]) -> None:
    @given(documents, paths)
    def check(document: Any, steps: list[str | int]) -> None:
        text = orjson_like(document)
        # strict: a scalar is no array of one, which `->0` takes it for
        path = "strict $" + "".join(f"[{step}]" if isinstance(step, int) else f".{orjson_like(step)}" for step in steps)
        (shown,) = conn.execute("SELECT jsonb_path_query_first(%s, %s, '{}', true) #>> '{}'", [text, path]).fetchone() or (None,)
        found = Path(tuple(steps), as_text=True).read(text)
        assert (found is None) == (shown is None)
        if found is not None and not isinstance(document, float) and shown != found:  # numbers and nested JSON are in normal form
            assert conn.execute("SELECT %s::jsonb = %s::jsonb", [shown, found]).fetchone() == (True,)

    check()


def orjson_like(document: Any) -> str:
    """Integers beyond 64 bits too."""
    import json

    return json.dumps(document, ensure_ascii=False)


def test_a_write_changes_its_place_and_nothing_else(conn: psycopg.Connection[Any]) -> None:
    written: list[bool] = []

    @given(objects | st.none(), st.lists(keys, min_size=1, max_size=3), texts | st.sampled_from(["5", "1.50", "true", "null"]) | st.none())
    def check(document: Any, steps: list[str], value: str | None) -> None:
        path = Path(tuple(steps), as_text=True)
        before = None if document is None else orjson_like(document)
        try:
            after = path.written(before, value)
        except ValueError:
            return  # something else is on the way
        written.append(after != before)
        held = None if after is None else conn.execute("SELECT %s::jsonb::text", [after]).fetchone()[0]  # type: ignore[index]
        assert (None if held is None else path.read(held)) == value
        assert path.written(held, value) == held  # nothing to write any more
        if value is None:
            beside = "SELECT coalesce(%s::jsonb #- %s::text[], '{}') = coalesce(%s::jsonb, '{}')"
            arguments = [before, steps, after] if path.read(before or "{}") is not None else [before, [], after]
        else:  # put back what was there, or nothing, and it is the document before
            beside = (
                "SELECT %s::jsonb #- %s::text[] = jsonb_set_lax(coalesce(%s::jsonb, '{}'), '{}', NULL, true, 'return_target') #- %s::text[]"
            )
            arguments = [after, steps, with_parents(before, steps), steps]
        assert conn.execute(beside, arguments).fetchone() == (True,), (before, after)

    check()
    assert any(written)


def with_parents(document: str | None, steps: list[str]) -> str:
    """The document with the objects on the way to a place, where they are not there."""
    import json

    whole = json.loads(document or "{}")
    at = whole
    for step in steps[:-1]:
        if at.get(step) is None:
            at[step] = {}
        at = at[step]
    return json.dumps(whole)


def test_keys_keep_their_order_and_numbers_their_digits() -> None:
    path = Path(("m",), as_text=True)
    assert (
        path.written('{"z": 1.500, "a": 12345678901234567890.10, "m": "x"}', "y") == '{"z": 1.500, "a": 12345678901234567890.10, "m": "y"}'
    )
    same = '{ "m" :"x"}'
    assert path.written(same, "x") is same


@pytest.mark.parametrize(
    ("held", "value", "wanted", "expected"),
    [
        ('{"v": 5}', "6", "text", '{"v": 6}'),  # the type that stands there is kept
        ('{"v": 5}', "007", "text", '{"v": "007"}'),
        ('{"v": "5"}', "6", "number", '{"v": "6"}'),
        ('{"v": true}', "false", "text", '{"v": false}'),
        ('{"v": true}', "maybe", "text", '{"v": "maybe"}'),
        ("{}", "6", "number", '{"v": 6}'),
        ("{}", "NaN", "number", '{"v": "NaN"}'),
        ('{"v": null}', "true", "boolean", '{"v": true}'),
        ("{}", "true", "text", '{"v": "true"}'),
        ('{"v": {"w": 1}}', "6", "number", '{"v": 6}'),
        ('{"v": 5, "w": 1}', None, "number", '{"w": 1}'),
        ('{"v": null}', None, "number", '{"v": null}'),
    ],
)
def test_a_value_keeps_its_type(held: str, value: str | None, wanted: Any, expected: str) -> None:
    assert Path(("v",), True, wanted=wanted).written(held, value) == expected


def test_elements_of_arrays() -> None:
    number = Path(("phones", 0, "number"), as_text=True)
    assert number.read('{"phones": [{"number": "1"}, {"number": "2"}]}') == "1"
    assert number.written('{"phones": [{"number": "1", "kind": "x"}, 2]}', "9") == '{"phones": [{"number": "9", "kind": "x"}, 2]}'
    assert number.written("{}", "9") == '{"phones": [{"number": "9"}]}'
    second = Path(("phones", 1), as_text=True)
    assert second.written('{"phones": ["a"]}', "b") == '{"phones": ["a", "b"]}'
    assert second.written('{"phones": ["a", "b"]}', None) == '{"phones": ["a", null]}'
    with pytest.raises(ValueError, match="element 1 is wanted, but the array has 0"):
        second.written('{"phones": []}', "b")
    with pytest.raises(ValueError, match="'number' is to be a key, but the document has a text there"):
        number.written('{"phones": ["a"]}', "b")
    with pytest.raises(ValueError, match="but the document has an object there"):
        second.written('{"phones": {}}', "b")


# ── as fields ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

FIELDS: dict[str, Any] = {
    "code": {"crm": "code", "erp": "custom->>code"},
    "score": {"crm": "score", "erp": "custom->score->>value"},
    "vip": {"crm": "vip", "erp": "custom->>vip"},
    "since": {"crm": "since", "erp": "custom->>since"},
    "options": {"crm": "options", "erp": "custom->options"},
    "tags": {"crm": "tags", "erp": "custom->tags"},
    "segment": {"crm": "segment", "erp": {"column": "custom->>segment", "values": {"gold": 1, "none": None}}},
    "colour": {"crm": "colour", "erp": "attributes->colour"},
    "boss": {"crm": "boss", "erp": "custom->>boss", "ref": "e"},
}
ACCOUNT = a_table(
    "account",
    code="text",
    score="numeric",
    vip="boolean",
    since="date",
    options="jsonb",
    tags="text[]",
    segment="text",
    colour="text",
    boss="integer",
)


def a_party(custom: str = "jsonb", fields: dict[str, Any] | None = None, **binding: Any) -> Binding:
    party = a_table("party", custom=custom, attributes="hstore", name="text", boss="integer")
    return compile_with(party, fields or FIELDS, **binding)


def compile_with(party: Table, fields: dict[str, Any], **binding: Any) -> Binding:
    entities = {"e": {"crm": {"table": "account"}, "erp": {"table": "party", **binding}, "fields": fields}}
    return compiled(entities, crm=[ACCOUNT], erp=[party]).entities["e"].bindings["erp"]


HELD = (
    '{"code": "K7", "score": {"value": 1.50, "by": "me"}, "vip": true, "since": "2024-02-29", "options": {"b": 2, "a": [1]},'
    ' "tags": ["x", "y z"], "segment": 1, "boss": 12, "other": "kept"}'
)
VALUES: dict[str, Canonical] = {
    "code": "K7",
    "score": "1.5",
    "vip": True,
    "since": "2024-02-29",
    "options": '{"a":[1],"b":2}',
    "tags": '["x","y z"]',
    "segment": "gold",
    "colour": "red",
    "boss": "erp:12",
}


def test_several_fields_live_in_one_document() -> None:
    erp = a_party()
    row = {"custom": HELD, "attributes": '"colour"=>"red", "x"=>NULL'}
    assert erp.to_canonical(row) == VALUES
    assert erp.to_columns(VALUES, row) == row  # nothing to write
    assert erp.to_canonical({"custom": None, "attributes": None}) == {**dict.fromkeys(VALUES), "segment": "none"}
    assert erp.to_canonical({"custom": "{}"}) == {name: None if name != "segment" else "none" for name in VALUES if name != "colour"}
    changed = erp.to_columns({"code": "K8", "score": "2", "segment": "none"}, row)
    assert changed == {
        "custom": '{"code": "K8", "score": {"value": 2, "by": "me"}, "vip": true, "since": "2024-02-29", "options": {"b": 2, "a": [1]},'
        ' "tags": ["x", "y z"], "boss": 12, "other": "kept"}'
    }
    assert erp.to_columns({"colour": None}, row) == {"attributes": '"x"=>NULL'}
    assert erp.columns["code"] == ("custom",)


def test_a_new_row_gets_a_document_of_its_own() -> None:
    erp = a_party()
    assert erp.to_columns({"code": "K7", "score": "2", "vip": True, "boss": "erp:5"}) == {
        "custom": '{"code": "K7", "score": {"value": 2}, "vip": true, "boss": 5}'
    }
    assert erp.to_columns({"code": None}) == {}  # the database's own default
    assert erp.to_columns({"code": "x"}, {"custom": None}) == {"custom": '{"code": "x"}'}
    begun = a_party(insert={"custom": '{"made": "by us"}'})
    assert begun.to_columns({"code": "K7"}) == {"custom": '{"made": "by us", "code": "K7"}'}
    assert "code" not in begun.generated
    assert a_party("jsonb!").to_columns({"code": None}) == {"custom": "{}"}


def test_a_default_is_what_a_new_document_begins_with() -> None:
    from dataclasses import replace

    party = a_table("party", custom="jsonb!=", attributes="hstore")
    columns = tuple(replace(c, default="""'{"it''s": 1}'::jsonb""") if c.name == "custom" else c for c in party.columns)
    erp = compile_with(replace(party, columns=columns), {"code": FIELDS["code"]})
    assert erp.to_columns({"code": "x"}) == {"custom": """{"it's": 1, "code": "x"}"""}


def test_a_document_that_is_something_else_is_refused_and_not_overwritten() -> None:
    erp = a_party()
    assert erp.to_canonical({"custom": "[1]"})["code"] is None
    with pytest.raises(
        MappingError, match=r"e\.code in erp\.public\.party: 'x' cannot be written: 'code' is to be a key, but the document"
    ):
        erp.to_columns({"code": "x"}, {"custom": "[1]"})


def test_two_fields_may_not_be_in_each_other() -> None:
    fields = {"code": FIELDS["code"], "options": {"crm": "options", "erp": "custom->code"}}
    with pytest.raises(ConfigError, match=r"fields\.options\.erp: custom is written by the field code too"):
        a_party(fields=fields)
    with pytest.raises(ConfigError, match="custom is written by the field code too"):
        a_party(fields={"code": FIELDS["code"], "options": {"crm": "options", "erp": "custom"}})


@pytest.mark.parametrize(
    ("erp", "message"),
    [
        ("nothing->>x", "public.party has no column 'nothing'"),
        ("name->>x", "name of public.party is a text, there is nothing inside it"),
        ("attributes->a->b", "whose values are texts: one key"),
        ("custom->>a->>b", "nothing can be inside it"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(erp: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        a_party(fields={"code": {"crm": "code", "erp": erp}})
    with pytest.raises(ConfigError, match="insert value is no constant"):
        a_party(fields={"code": FIELDS["code"]}, insert={"custom": {"sql": "f()"}})


def test_scope_may_ask_a_document() -> None:
    erp = a_party(where={"custom->>kind": ["a", "b"], "custom->>closed": {"not": True}})
    assert erp.in_scope({"custom": '{"kind": "a"}'})
    assert not erp.in_scope({"custom": '{"kind": "a", "closed": true}'})
    assert not erp.in_scope({"custom": None})
    assert "custom" in erp.needed


def test_a_write_into_an_hstore_changes_its_key_and_nothing_else(postgres: str) -> None:
    pairs = st.dictionaries(texts, texts | st.none(), max_size=4)
    with psycopg.connect(postgres) as conn:
        if conn.execute("SELECT FROM pg_available_extensions WHERE name = 'hstore'").fetchone() is None:
            pytest.skip("a PostgreSQL without hstore: use one that has contrib")
        conn.execute("CREATE EXTENSION hstore")

        @given(pairs, texts | st.sampled_from(['a"b', "a\\b", "=>", "NULL", ""]), texts | st.none())
        def check(held: dict[str, str | None], key: str, value: str | None) -> None:
            (before,) = conn.execute("SELECT hstore(%s::text[], %s::text[])::text", [list(held), list(held.values())]).fetchone() or (None,)
            after = Path((key,), as_text=True, hstore=True).written(before, value)
            kept = "SELECT %s::hstore -> %s::text, %s::hstore - %s::text = %s::hstore - %s::text"
            assert conn.execute(kept, [after, key, after, key, before, key]).fetchone() == (value, True)

        check()
        conn.rollback()
