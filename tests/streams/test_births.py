"""Which tables a new row waits for."""

from __future__ import annotations

from typing import Any

from schemas.mapping import Pipeline
from streams.births import waited_for
from tests.mapping.mapping_builders import a_table, compiled

ACCOUNT = a_table("account", name="text", tax="text", street="text", mail="text")
PARTY = a_table("party", name="text", boss="integer")
IDENTIFIER, ADDRESS = a_table("identifier", party="integer", code="text"), a_table("address", party="integer", street="text")
TYPE = a_table("identifier_type", identifier="integer", code="text")
IDENTIFIER_PART: dict[str, Any] = {"table": "identifier", "child": "party"}


def of(parts: dict[str, Any], tax: str, **more: Any) -> dict[tuple[str, str], frozenset[tuple[str, str]]]:
    fields = {"name": {"crm": "name", "erp": "name"}, "tax": {"crm": "tax", "erp": tax, "owner": "erp"}}
    fields |= {"street": {"crm": "street", "erp": "address.street"}} if "address" in parts else {}
    customer = {"crm": {"table": "account"}, "erp": {"table": "party", "parts": parts}, "match_on": ["tax"], "fields": fields}
    pipeline: Pipeline = compiled({"customer": customer, **more}, crm=[ACCOUNT], erp=[PARTY, IDENTIFIER, ADDRESS, TYPE])
    return waited_for(pipeline.tables("erp"), pipeline.entities)


def test_a_row_waits_for_what_it_is_matched_by_and_for_nothing_else() -> None:
    parts = {"id": IDENTIFIER_PART, "address": {"table": "address", "child": "party"}}
    assert of(parts, "id.code") == {("public", "party"): {("public", "identifier")}}


def test_a_row_that_holds_its_match_value_itself_waits_for_nothing() -> None:
    fields = {"name": {"crm": "name", "erp": "name"}, "street": {"crm": "street", "erp": "address.street"}}
    parts = {"address": {"table": "address", "child": "party"}}
    customer = {"crm": {"table": "account"}, "erp": {"table": "party", "parts": parts}, "match_on": ["name"], "fields": fields}
    pipeline = compiled({"customer": customer}, crm=[ACCOUNT], erp=[PARTY, ADDRESS])
    assert waited_for(pipeline.tables("erp"), pipeline.entities) == {}


def test_a_row_waits_for_all_that_its_match_value_hangs_at() -> None:
    parts = {"id": IDENTIFIER_PART, "type": {"table": "identifier_type", "child": "identifier", "of": "id"}}
    assert of(parts, "type.code") == {("public", "party"): {("public", "identifier"), ("public", "identifier_type")}}


def test_two_tables_never_wait_for_each_other() -> None:
    """A customer is matched on its identifier, an identifier on its customer's name."""
    other = {
        "crm": {"table": "account"},
        "erp": {"table": "identifier", "parts": {"owner": {"table": "party", "parent": "party"}}},
        "match_on": ["mail"],
        "fields": {"mail": {"crm": "mail", "erp": "owner.name", "owner": "erp"}},
    }
    found = of({"id": IDENTIFIER_PART}, "id.code", identifier=other)
    assert found == {("public", "party"): {("public", "identifier")}}


def test_a_part_in_the_row_s_own_table_is_not_waited_for() -> None:
    assert of({"boss": {"table": "party", "parent": "boss"}}, "boss.name") == {}
