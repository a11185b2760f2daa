"""What the fold is told of an entity: when a system holds what was agreed on."""

from __future__ import annotations

from streams.rules import rules_of
from tests.mapping.mapping_builders import a_table, compiled


def test_a_reference_is_held_when_it_names_the_same_thing_or_what_is_written_for_none() -> None:
    fields = {
        "parent": {"crm": "parent", "erp": {"column": "parent", "default": 1}, "ref": "e"},
        "kind": {"crm": "kind", "erp": {"constant": "customer"}},
        "name": {"crm": "name", "erp": {"column": "name", "shorten": 4}},
    }
    entities = {"e": {"crm": {"table": "here"}, "erp": {"table": "there"}, "fields": fields}}
    table = {"parent": "integer", "kind": "text", "name": "text"}
    pipeline = compiled(entities, crm=[a_table("here", **table)], erp=[a_table("there", **table)])
    same_things = {("e", "crm:7", "erp:3")}
    rules = rules_of(pipeline, pipeline.entities["e"], lambda entity, one, other: (entity, one, other) in same_things)
    assert rules.same("erp", "parent", "crm:7", "erp:3")
    assert not rules.same("erp", "parent", "crm:8", "erp:3")
    assert rules.same("erp", "parent", None, "erp:1"), "what it writes for none"
    assert not rules.same("erp", "parent", None, "erp:2")
    assert not rules.same("crm", "parent", None, "crm:1")
    assert rules.same("erp", "name", "Acme GmbH", "Acme")
    assert not rules.same("crm", "name", "Acme GmbH", "Acme")
    assert rules.written["erp"] == ("parent", "name"), "a constant is never a target"
