"""What the compiled mapping answers about rows: key, scope, references, matching, inserts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.catalog import Table
from schemas.errors import MappingError
from schemas.mapping import Expr, Pipeline
from tests.mapping.mapping_builders import a_table, compiled

keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)


def an_order(**changes: Any) -> Pipeline:
    crm = [
        a_table("account", id="uuid!", name="text!", org="integer", deleted="boolean", kind="text"),
        a_table("line", key="order_id,no", order_id="character(4)!", no="integer!", text="text", account="uuid"),
        a_table("note", line_order="character(4)", line_no="integer", text="text"),
    ]
    erp = [
        a_table("party", name="text!", code="text!", kind="text!", created="timestamp without time zone!", active="boolean", extra="text"),
        a_table("item", key="order_id,no", order_id="text!", no="integer!", text="text", party="integer"),
        a_table("remark", item_order="text", item_no="integer", text="text"),
    ]
    entities: dict[str, Any] = {
        "note": {
            "crm": {"table": "note"},
            "erp": {"table": "remark"},
            "fields": {
                "line": {"crm": {"columns": ["line_order", "line_no"]}, "erp": {"columns": ["item_order", "item_no"]}, "ref": "line"},
                "text": {"crm": "text", "erp": "text"},
            },
        },
        "line": {
            "crm": {"table": "line"},
            "erp": {"table": "item"},
            "fields": {
                "order": {"crm": "order_id", "erp": "order_id"},
                "no": {"crm": "no", "erp": "no"},
                "text": {"crm": "text", "erp": "text"},
                "customer": {"crm": "account", "erp": "party", "ref": "customer"},
            },
        },
        "customer": {
            "owner": "erp",
            "crm": {"table": "account", "where": {"org": 42, "deleted": [False, None]}, "insert": {"id": "uuid"}},
            "erp": {
                "table": "party",
                "where": {"kind": ["customer", "both"]},
                "insert": {
                    "code": {"nextval": "code_seq"},
                    "created": {"now": "Asia/Shanghai"},
                    "extra": {"sql": "to_char(now(), '100%')"},
                },
                "always": {"active": True},
            },
            "match_on": ["name", "code"],
            "born_in": ["crm", "erp"],
            "delete": {"soft": {"name": "gone"}},
            "fields": {"name": {"crm": "name", "erp": "name", "clean": "strip"}, "code": {"crm": "kind", "erp": "code", "owner": "crm"}},
        },
    }
    entities["customer"].update(changes)
    return compiled(entities, crm=crm, erp=erp)


PIPELINE = an_order()
CUSTOMER = PIPELINE.entities["customer"]
CRM, ERP = CUSTOMER.bindings["crm"], CUSTOMER.bindings["erp"]
LINE = PIPELINE.entities["line"].bindings["crm"]
NOTE = PIPELINE.entities["note"].bindings["crm"]


def test_entities_come_parents_first() -> None:
    assert list(PIPELINE.entities) == ["customer", "line", "note"]
    assert [binding.entity for binding in PIPELINE.tables("crm")] == ["customer", "line", "note"]
    assert PIPELINE.systems == ("crm", "erp")
    assert PIPELINE.rank == {"crm": 1, "erp": 2}
    assert PIPELINE.notes == ()


def test_references_that_go_round_are_noted_and_refused_nowhere() -> None:
    def half(other: str) -> dict[str, Any]:
        return {"crm": {"table": other[0]}, "erp": {"table": other[0]}, "fields": {"r": {"crm": "r", "erp": "r", "ref": other}}}

    tables = [a_table("x", r="integer"), a_table("y", r="integer"), a_table("z", r="integer")]
    entities = {name: half(other) for name, other in (("x", "y"), ("y", "z"), ("z", "x"))}
    for entity, name in zip(entities.values(), entities, strict=True):
        entity["crm"]["table"] = entity["erp"]["table"] = name
    pipeline = compiled(entities, crm=tables, erp=tables)
    assert set(pipeline.entities) == {"x", "y", "z"}
    assert len(pipeline.notes) == 1
    assert "references go round: " in pipeline.notes[0]


def test_rules_are_those_of_the_file() -> None:
    assert CUSTOMER.owner == {"name": "erp", "code": "crm"}
    assert CUSTOMER.exists_owner == "erp"
    assert CUSTOMER.born_in == {"crm", "erp"}
    assert (CUSTOMER.delete.policy, CUSTOMER.delete.soft) == ("soft", {"name": "gone"})
    assert CUSTOMER.kinds == {"name": "text", "code": "text"}
    assert PIPELINE.entities["line"].refs == {"customer": "customer"}
    assert PIPELINE.entities["line"].born_in == {"crm", "erp"}


# ── keys ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(keys.filter(bool))
def test_a_key_of_one_column_is_its_text(key: str) -> None:
    assert CRM.key_of({"id": key, "name": None}) == key
    assert CRM.key_values(key) == {"id": key}


@given(keys, keys)
def test_a_key_of_several_columns_is_a_json_array(order: str, no: str) -> None:
    line = PIPELINE.entities["line"].bindings["erp"]
    key = line.key_of({"no": no, "order_id": order})
    assert line.key_values(key) == {"order_id": order, "no": no}


def test_a_padded_key_is_the_same_from_the_log_and_from_a_query() -> None:
    assert LINE.key_of({"order_id": "A1  ", "no": "1"}) == LINE.key_of({"order_id": "A1", "no": "1"}) == '["A1","1"]'


@pytest.mark.parametrize("row", [{}, {"id": None}, {"name": "x"}])
def test_a_row_without_key_is_refused(row: dict[str, str | None]) -> None:
    with pytest.raises(MappingError, match=r"a row of crm\.public\.account without key: id"):
        CRM.key_of(row)
    with pytest.raises(MappingError, match="without key"):
        LINE.key_of({**row, "order_id": "1"})


@pytest.mark.parametrize("key", ["", "x", "[1,2]", '["a"]', '{"a":1}', '["a",null]'])
def test_what_is_no_composite_key_is_refused(key: str) -> None:
    with pytest.raises(MappingError, match="not a key"):
        LINE.key_values(key)


# ── scope ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("org", "deleted", "counts"),
    [("42", "f", True), ("42", "false", True), ("42", None, True), ("42", "t", False), ("43", "f", False), (None, "f", False)],
)
def test_scope(org: str | None, deleted: str | None, counts: bool) -> None:
    assert CRM.in_scope({"org": org, "deleted": deleted}) is counts


def test_scope_as_sql_needs_it() -> None:
    assert CRM.scope == {"org": ("42",), "deleted": ("f", None)}
    assert CRM.needed == {"id", "org", "deleted"}
    assert ERP.scope == {"kind": ("customer", "both")}


def test_a_row_that_lacks_a_deciding_column_is_refused() -> None:
    with pytest.raises(MappingError, match="without deleted, which decides"):
        CRM.in_scope({"org": "42"})


def test_a_table_may_serve_several_entities() -> None:
    table = [a_table("party", kind="text", name="text")]
    entity = {"fields": {"name": {"crm": "name", "erp": "name"}}}
    entities = {
        kind: {**entity, "crm": {"table": "party", "where": {"kind": kind}}, "erp": {"table": "party", "where": {"kind": kind}}}
        for kind in ("a", "b")
    }
    pipeline = compiled(entities, crm=table, erp=table)
    assert [binding.entity for binding in pipeline.binding_for("crm", "public", "party")] == ["a", "b"]
    assert pipeline.binding_for("crm", "public", "nothing") == []
    assert pipeline.binding_for("nobody", "public", "party") == []


# ── references ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_reference_is_a_row_name_of_the_system_it_was_read_in() -> None:
    assert LINE.to_canonical({"account": "3f", "text": "x"}) == {"customer": "crm:3f", "text": "x"}
    assert LINE.to_canonical({"account": None}) == {"customer": None}
    assert LINE.to_columns({"customer": "crm:a:b"}) == {"account": "a:b"}
    assert LINE.to_columns({"customer": None}) == {"account": None}
    assert LINE.represent("customer", "erp:7") == "erp:7"
    with pytest.raises(MappingError, match="'erp:7' is no row of crm"):
        LINE.to_columns({"customer": "erp:7"})


def test_a_reference_of_several_columns_is_the_key_they_make() -> None:
    row = {"line_order": "A1  ", "line_no": "7", "text": None}
    name = NOTE.to_canonical(row)["line"]
    assert name == 'crm:["A1","7"]'
    assert NOTE.to_columns({"line": name}) == {"line_order": "A1", "line_no": "7"}
    assert NOTE.to_canonical({**row, "line_no": None}) == {"line": None, "text": None}
    assert NOTE.to_columns({"line": None}) == {"line_order": None, "line_no": None}
    with pytest.raises(MappingError, match="not a key"):
        NOTE.to_columns({"line": "crm:7"})


# ── matching, inserts ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_match_on_clean_values_and_not_on_nothing() -> None:
    assert CUSTOMER.match_value(CRM.to_canonical({"name": " Acme ", "kind": "x"})) == '["Acme","x"]'
    assert CUSTOMER.match_value({"name": "Acme", "code": None}) is None
    assert CUSTOMER.match_value({"name": "", "code": "x"}) is None
    assert CUSTOMER.match_value({"name": "Acme"}) is None
    assert PIPELINE.entities["line"].match_value({"order": "1"}) is None
    assert replace(CUSTOMER, match_on=("name",)).match_value({"name": "Acme"}) == "Acme"


def test_what_an_insert_needs_besides_fields() -> None:
    assert ERP.insert == {
        "code": Expr("nextval(%s::regclass)::text", ("code_seq",)),
        "created": Expr("(now() AT TIME ZONE %s)::timestamp without time zone", ("Asia/Shanghai",)),
        "extra": Expr("(to_char(now(), '100%%'))"),
        "kind": Expr("%s::text", ("customer",)),  # what we insert must count
    }
    assert ERP.always == {"active": Expr("%s::boolean", ("t",))}
    assert CRM.insert == {
        "id": Expr("gen_random_uuid()::uuid"),
        "org": Expr("%s::integer", ("42",)),
        "deleted": Expr("%s::boolean", ("f",)),
    }
    assert ERP.generated == {"code"}
    assert CRM.generated == frozenset()


def test_fields_that_are_not_mapped_are_left_out() -> None:
    assert CRM.to_columns({"nothing": "x", "name": "y"}) == {"name": "y"}
    assert CRM.represent("nothing", "x") == "x"
    assert CRM.fields == ("name", "code")


def test_a_table_without_rows_of_ours_has_none() -> None:
    assert Table("public", "t", (), ("id",)).column("id") is None
