"""Mappings that do not fit their databases: all reasons at once, each with its place and its mend."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from schemas.catalog import Column, Table
from schemas.errors import ConfigError, Problem
from tests.mapping.mapping_builders import a_table, compiled


def problems(entities: dict[str, Any], **tables: list[Table]) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        compiled(entities, **tables)
    return list(caught.value.problems)


def one_problem(entity: dict[str, Any], crm: Table, erp: Table, **others: Any) -> Problem:
    found = problems({"customer": {"crm": {"table": crm.name}, "erp": {"table": erp.name}, **entity}, **others}, crm=[crm], erp=[erp])
    assert len(found) == 1, found
    return found[0]


ACCOUNT = a_table("account", name="text", code="text", at="timestamp with time zone", parent="integer")
PARTY = a_table("party", name="text", code="text", at="timestamp without time zone", parent="integer")
NAME = {"name": {"crm": "name", "erp": "name"}}


def with_column(table: Table, column: Column) -> Table:
    return replace(table, columns=(*table.columns, column))


def test_all_at_once() -> None:
    entities = {
        "customer": {
            "crm": {"table": "acount"},
            "erp": {"table": "party", "where": {"knd": "x"}, "insert": {"cod": 1}, "always": {"name": 1}},
            "fields": {"name": {"crm": "name", "erp": "nam"}, "at": {"crm": "at", "erp": "at"}, "title": {"crm": "name", "erp": "name"}},
        },
        "product": {
            "crm": {"table": "product"},
            "erp": {"table": "item"},
            "fields": {"sku": {"crm": "sku", "erp": "sku", "values": {"a": 1, "b": 1}}},
        },
    }
    item = replace(a_table("item", sku="integer!"), primary_key=())
    found = problems(entities, crm=[ACCOUNT, a_table("product", sku="text", price="numeric!")], erp=[PARTY, item])
    assert {(problem.where, problem.mend) for problem in found} == {
        ("entities.customer.crm.table", "did you mean public.account?"),
        ("entities.customer.fields.name.erp", "did you mean name?"),
        ("entities.customer.erp.always.name", "keep one of them"),
        ("entities.customer.erp.where.knd", "known are: at, code, id, name, parent"),
        ("entities.customer.erp.insert.cod", "did you mean code?"),
        ("entities.product.erp.table", "without one its rows cannot be told apart: add one"),
        ("entities.product.fields.sku.erp.values", "make it one to one, or say what it is read as: otherwise: {read: …}"),
        ("entities.product.crm.insert", "insert: {price: …}"),
    }


def test_not_null_without_a_value() -> None:
    party = with_column(PARTY, Column("created", "date", "date", "D", not_null=True))
    found = one_problem({"fields": NAME}, ACCOUNT, party)
    assert str(found) == (
        "entities.customer.erp.insert: created of public.party is NOT NULL and has no default, and no field gives it (insert: {created: …})"
    )
    for given in ({"insert": {"created": "now"}}, {"always": {"created": "now"}}):
        entity = {"crm": {"table": "account"}, "erp": {"table": "party", **given}, "fields": NAME}
        compiled({"customer": entity}, crm=[ACCOUNT], erp=[party])
    # nothing is ever inserted where alone it is born
    compiled(
        {"customer": {"crm": {"table": "account"}, "erp": {"table": "party"}, "fields": NAME, "born_in": "erp"}}, crm=[ACCOUNT], erp=[party]
    )


def test_a_key_that_the_database_does_not_make() -> None:
    account = a_table("account", id="uuid!", name="text")
    found = one_problem({"fields": NAME}, account, PARTY)
    assert found.what == "id of public.account is the key and has no default, and no field gives it"
    assert found.mend == "insert: {id: uuid}"


def test_a_column_that_is_made_by_the_database() -> None:
    generated = with_column(PARTY, Column("code2", "text", "text", "S", has_default=True, generated=True))
    found = one_problem({"fields": {**NAME, "code": {"crm": "code", "erp": "code2"}}}, ACCOUNT, generated)
    assert found.what == "code2 of public.party is generated, so change events leave it out"
    identity = with_column(PARTY, Column("no", "integer", "integer", "N", True, True, identity="a"))
    numbered = with_column(ACCOUNT, Column("no", "integer", "integer", "N"))
    found = one_problem({"fields": {**NAME, "no": {"crm": "no", "erp": "no"}}}, numbered, identity)
    assert found.mend == "say {column: no, write: false}"
    found = one_problem({"fields": NAME, "erp": {"table": "party", "insert": {"no": 1}}}, ACCOUNT, identity)
    assert found.what == "no of public.party is generated always and cannot be written"


def test_two_fields_that_write_one_column() -> None:
    found = one_problem({"fields": {**NAME, "title": {"crm": "code", "erp": "name"}}}, ACCOUNT, PARTY)
    assert found.where == "entities.customer.fields.title.erp"
    assert found.what == "name is written by the field name too"
    entity = {"crm": {"table": "account"}, "erp": {"table": "party"}}
    fields = {**NAME, "title": {"crm": "code", "erp": {"column": "name", "write": False}, "owner": "erp"}}
    compiled({"customer": {**entity, "fields": fields}}, crm=[ACCOUNT], erp=[PARTY])


def reference(crm: Any = "parent", erp: Any = "parent") -> dict[str, Any]:
    return {**NAME, "parent": {"crm": crm, "erp": erp, "ref": "customer"}}


def test_references_need_the_keys_type_and_number() -> None:
    assert (
        "parent is a text, the key id of public.account a integer"
        in one_problem({"fields": reference()}, replace_parent("text"), PARTY).what
    )
    found = one_problem({"fields": reference(crm=["parent", "code"])}, ACCOUNT, PARTY)
    assert found.what == "has 2 columns, but the key of public.account is (id)"


def replace_parent(kind: str) -> Table:
    return a_table("account", name="text", code="text", at="timestamp with time zone", parent=kind)


def test_a_reference_to_an_entity_that_is_not_there() -> None:
    elsewhere = {"crm": {"table": "account"}, "fields": {"name": {"crm": "name"}}, "born_in": "crm"}
    fields = {**NAME, "parent": {"crm": "parent", "erp": "parent", "ref": "other"}}
    found = one_problem({"fields": fields}, ACCOUNT, PARTY, other=elsewhere)
    assert found.what == "refers to other, which is not bound to erp"


def test_a_foreign_key_to_another_table() -> None:
    wrong = replace(ACCOUNT, foreign_keys=((("parent",), "public", "user"),))
    found = one_problem({"fields": reference()}, wrong, PARTY)
    assert found.what == "is a foreign key to public.user, but customer lives in public.account"


def test_matching_needs_the_field_wherever_things_are_born() -> None:
    fields = {**NAME, "code": {"crm": "code"}}
    assert (
        one_problem({"fields": fields, "match_on": "code"}, ACCOUNT, PARTY).what
        == "code is not mapped in erp, so its rows could never match"
    )
    assert "is a reference" in one_problem({"fields": reference(), "match_on": ["parent"]}, ACCOUNT, PARTY).what


def test_values_that_do_not_fit_their_columns() -> None:
    party = with_column(PARTY, Column("state", "mood", "mood", "E", labels=("sad", "happy")))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"where": {"id": "x"}}, "'x' is not a number"),
        ({"where": {"state": "hapy"}}, "'hapy' is no value of mood"),
        ({"insert": {"state": "hapy"}}, "'hapy' is no value of mood"),
        ({"insert": {"at": "tomorrow"}}, "'tomorrow' is not a date and time"),
        ({"insert": {"id": None}}, "is null, but id of public.party is NOT NULL"),
        ({"where": {"state": "sad"}, "insert": {"state": "happy"}}, "'happy' would leave the row outside `where`"),
        ({"table": "pub.lic.party"}, "'pub.lic.party' is no table's name"),
        ({"table": 'public."no such"'}, "there is no table public.no such in erp, or no right to see it"),
    ]
    for binding, what in cases:
        found = one_problem({"fields": NAME, "erp": {"table": "party", **binding}}, ACCOUNT, party)
        assert found.what == what
    soft = {"crm": "at", "erp": {"column": "at", "timezone": "UTC"}}
    found = one_problem({"fields": {**NAME, "at": soft}, "delete": {"soft": {"at": "never"}}}, ACCOUNT, party)
    assert (found.where, found.what, found.mend) == (
        "entities.customer.delete.soft.at",
        "'never' is not a date and time",
        "the field is a timestamp",
    )


def test_strange_names_need_quotes_only_for_dots() -> None:
    table = replace(a_table("x", name="text"), schema="Sales", name="order.line")
    entity = {"crm": {"table": 'Sales."order.line"'}, "erp": {"table": "party"}, "fields": NAME}
    pipeline = compiled({"customer": entity}, crm=[table], erp=[PARTY])
    assert pipeline.entities["customer"].bindings["crm"].table is table


def test_mistakes_that_need_no_database_are_found_here_too() -> None:
    from schemas.config import Config
    from schemas.mapping import compile_config

    config = Config.model_validate(
        {
            "kafka": {"bootstrap": "x"},
            "systems": {"crm": {"dsn": "a", "rank": 1}},
            "entities": {"c": {"crm": {"table": "t"}, "owner": "x", "fields": NAME}},
        }
    )
    with pytest.raises(ConfigError, match=r"entities\.c\.owner: 'x' is no system of c"):
        compile_config(config, {})
