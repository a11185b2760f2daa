"""What `concord match` foretells is what the fold does."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from console.match.foretold import Decider, Effect, foretell
from schemas.change import Change, Op
from schemas.lsn import Position
from schemas.mapping import Pipeline
from streams.fold import fold
from streams.rules import rules_of
from tests.mapping.mapping_builders import a_table, compiled

SYSTEMS = ("crm", "erp", "web")  # by rank, the highest last


def a_pipeline() -> Pipeline:
    """Three systems, one of which has no note; the CRM owns it."""
    fields = {
        "name": {"crm": "name", "erp": "name", "web": "name"},
        "note": {"crm": "note", "erp": "note", "owner": "crm"},
        "amount": {"crm": "amount", "erp": {"column": "amount", "scale": 0}, "web": "amount"},
    }
    table = a_table("account", name="text", note="text", amount="numeric")
    bound = {system: {"table": "account"} for system in SYSTEMS}
    return compiled({"customer": {**bound, "fields": fields}}, **{system: [table] for system in SYSTEMS})


PIPELINE = a_pipeline()
CUSTOMER = PIPELINE.entities["customer"]
RULES = rules_of(PIPELINE, CUSTOMER, lambda entity, name, other: name == other)

TEXTS = st.sampled_from([None, "", "a", "b"])
VALUES = st.fixed_dictionaries({"name": TEXTS, "note": TEXTS, "amount": st.sampled_from([None, "1", "1.4", "2"])})


@given(st.permutations(SYSTEMS), st.lists(VALUES, min_size=2, max_size=3))
def test_the_systems_that_would_be_written_are_the_targets_of_the_golden_record_in_any_order(
    order: list[str], values: list[dict[str, Any]]
) -> None:
    rows = {(system, "1"): {name: of[name] for name in CUSTOMER.bindings[system].fields} for system, of in zip(order, values, strict=False)}
    found = foretell(CUSTOMER, RULES, rows)
    state, targets, golden = None, set(), {}
    for number, ((system, key), of) in enumerate(reversed(list(rows.items())), 1):
        done = fold("link", state, Change(system, key, Op.READ, str(Position(0, number)), 0, None, of), RULES)
        state = done.state
        if done.record is not None:
            targets, golden = set(done.record.targets), dict(done.record.values)
    assert found.values == golden
    assert {one.into for one in found.overwrites} == targets & {system for system, _ in rows}
    assert all(rows[one.into, "1"][one.field] == one.was and golden[one.field] == one.becomes for one in found.overwrites)


def test_a_value_beats_none_then_the_owner_decides_then_the_rank() -> None:
    crm, erp = {"name": "a", "note": "x", "amount": "2"}, {"name": None, "note": "y", "amount": "1"}
    found = foretell(CUSTOMER, RULES, {("crm", "1"): crm, ("erp", "1"): erp})
    assert {(one.field, one.into, one.by, one.rule, one.effect) for one in found.overwrites} == {
        ("name", "erp", "crm", Decider.VALUE, Effect.FILLED),
        ("note", "erp", "crm", Decider.OWNER, Effect.REPLACED),
        ("amount", "crm", "erp", Decider.RANK, Effect.REPLACED),
    }


def test_an_empty_text_is_a_value_and_empties() -> None:
    rows = {("crm", "1"): {"name": "a", "note": None, "amount": None}, ("erp", "1"): {"name": "", "note": None, "amount": None}}
    (one,) = foretell(CUSTOMER, RULES, rows).overwrites
    assert (one.into, one.effect) == ("crm", Effect.EMPTIED)


def test_what_one_side_cannot_hold_exactly_is_not_overwritten() -> None:
    erp, web = {"name": "a", "note": "x", "amount": "1"}, {"name": "a", "amount": "1.4"}
    assert not foretell(CUSTOMER, RULES, {("erp", "1"): erp, ("web", "1"): web}).overwrites
