"""A repair, without Kafka: what it makes of a thing, what it never does, and that order and multiplicity do not matter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.change import Change
from schemas.conflicts import EXISTS, Rule
from schemas.errors import SchemaError
from schemas.golden import GoldenRecord, golden_from_avro
from schemas.repair import Repair, SeenRow, decode_told
from streams.fold import End, Folded, Rules, ThingState, fold
from streams.repaired import repaired
from tests.streams.test_fold import FIELDS, RULES, a_change, histories, interleaved, record_of

LINK = "crm:1"
BY = "alice@host"


def a_repair(ts: int = 5000, fields: tuple[str, ...] = FIELDS, **seen: SeenRow) -> Repair:
    return Repair(BY, ts, fields, seen)


def a_row(key: str = "1", **values: Any) -> SeenRow:
    return SeenRow(key, values)


def told(*all_told: Change | Repair, rules: Rules = RULES) -> Folded:
    """All of them, in this order."""
    state: ThingState | None = None
    done = Folded(None, None, (), End.UNCHANGED)
    for one in all_told:
        done = repaired(LINK, state, one, rules) if isinstance(one, Repair) else fold(LINK, state, one, rules)
        state = done.state
    return done


AGREED = (
    a_change("crm", 1, "c", 1000, name="Acme", city="Ulm", limit="5"),
    a_change("erp", 1, "c", 1100, key="7", origin=1000, name="Acme", city="Ulm", limit="5"),
)


def test_a_value_that_differs_is_sent_to_that_system_alone_over_what_was_seen_there() -> None:
    before = told(*AGREED)
    repair = a_repair(crm=a_row("1", name="Acme", city="Ulm", limit="5"), erp=a_row("7", name="Acme AG", city="Ulm", limit="5"))
    done = told(*AGREED, repair)
    record = record_of(done)
    assert record.targets == ("erp",)
    assert record.values == {"name": "Acme", "city": "Ulm", "limit": "5"}
    assert record.seen["erp"] == {"name": "Acme AG", "city": "Ulm", "limit": "5"}
    assert record.mends("erp", "name")
    assert not record.mends("erp", "city")
    assert not record.mends("crm", "name")
    assert before.state is not None
    was = {name: entry[1:7] for name, entry in before.state["fields"].items()}
    assert tuple(record.versions["name"]) > tuple(was["name"])
    assert tuple(record.versions["city"]) == tuple(was["city"])


def test_what_is_written_over_goes_to_the_history_as_the_operators_write() -> None:
    done = told(*AGREED, a_repair(erp=a_row("7", name="Acme AG", city="Ulm", limit="5")))
    (one,) = done.conflicts
    assert (one.field, one.rule, one.ts_us) == ("name", Rule.REPAIR, 5000)
    assert (one.won.system, one.won.value, one.won.key) == ("operator", "Acme", BY)
    assert (one.lost.system, one.lost.value, one.lost.key) == ("erp", "Acme AG", "7")
    assert done.state is not None
    assert done.state["repaired"] == {"by": BY, "ts": 5000, "fields": ["name"]}


def test_the_history_stays_with_the_thing_when_it_changes() -> None:
    repair = a_repair(erp=a_row("7", name="Acme AG", city="Ulm", limit="5"))
    done = told(*AGREED, repair, a_change("crm", 9, "u", 9000, name="Acme", city="Bonn", limit="5"))
    assert done.state is not None
    assert done.state["repaired"]["ts"] == 5000
    assert record_of(done).mend is None


def test_a_row_that_is_not_there_is_inserted_again_though_merge_believes_it_there() -> None:
    record = record_of(told(*AGREED, a_repair(fields=(), erp=SeenRow("7", None))))
    assert record.targets == ("erp",)
    assert record.alive
    assert record.keys["erp"] == "7"
    assert record.seen["erp"] is None


def test_a_row_that_is_there_though_the_thing_is_deleted_is_deleted_again() -> None:
    gone = (a_change("crm", 5, "d", 2000), a_change("erp", 5, "d", 2100, key="7", origin=2000))
    before = told(*AGREED, *gone)
    done = told(*AGREED, *gone, a_repair(fields=(), crm=SeenRow("1", None), erp=a_row("7", name="Acme", city="Ulm", limit="5")))
    record = record_of(done)
    assert record.targets == ("erp",)
    assert not record.alive
    assert before.state is not None
    assert tuple(record.exists) > tuple(before.state["exists"][1:7])
    assert [(one.field, one.won.value, one.lost.value) for one in done.conflicts] == [(EXISTS, False, True)]


def test_what_an_owner_holds_is_written_over_only_where_an_operator_says_so() -> None:
    record = record_of(told(*AGREED, a_repair(fields=("limit",), erp=a_row("7", name="X", city="Ulm", limit="9"))))
    assert record.mends("erp", "limit")
    assert not record.mends("erp", "name")


def test_an_owner_that_was_overruled_while_its_edit_was_on_its_way_decides_still() -> None:
    """[the owner's edit] [our write over it]: heard of in this order, our write is not taken for a trigger's, and the edit is written."""
    repair = a_repair(erp=a_row("7", name="Acme", city="Ulm", limit="9"))
    edit = a_change("erp", 3, "u", 2000, key="7", name="Acme", city="Ulm", limit="9")
    echo = a_change("erp", 4, "u", 6000, key="7", origin=1000, name="Acme", city="Ulm", limit="5")
    assert record_of(told(*AGREED, repair)).mends("erp", "limit")
    done = told(*AGREED, repair, edit, echo)
    assert record_of(done).values["limit"] == "9"
    assert set(record_of(done).targets) == {"crm", "erp"}


def test_a_repair_of_what_agrees_by_now_does_nothing() -> None:
    done = told(*AGREED, a_repair(erp=a_row("7", name="Acme", city="Ulm", limit="5")))
    assert (done.record, done.conflicts, done.end) == (None, (), End.UNCHANGED)


def test_a_thing_that_merge_does_not_know_is_not_made_up() -> None:
    done = told(a_repair(erp=a_row("7", name="Acme")))
    assert (done.state, done.record, done.end) == (None, None, End.SUPERSEDED)


def test_i3_the_same_repair_twice_is_one() -> None:
    repair = a_repair(erp=a_row("7", name="Acme AG", city="Ulm", limit="5"))
    edit = a_change("crm", 9, "u", 9000, name="Acme", city="Bonn", limit="5")
    assert told(*AGREED, repair, edit, repair).state == told(*AGREED, repair, edit).state


def test_an_edit_that_is_heard_of_after_the_repair_wins_whenever_it_was_made() -> None:
    """The difference was an edit on its way: what its writer said is not lost."""
    repair = a_repair(ts=5000, erp=a_row("7", name="Acme AG", city="Ulm", limit="5"))
    for ts in (2000, 6000):
        edit = a_change("erp", 3, "u", ts, key="7", name="Acme AG", city="Ulm", limit="5")
        record = record_of(told(*AGREED, repair, edit))
        assert record.values["name"] == "Acme AG"
        assert record.targets == ("crm",)


def test_the_echo_of_a_repair_is_nobodys_edit() -> None:
    tampered = a_change("erp", 2, "u", 2000, key="7", origin=1000, name="Acme AG", city="Ulm", limit="5")
    repair = a_repair(erp=a_row("7", name="Acme AG", city="Ulm", limit="5"))
    echo = a_change("erp", 3, "u", 6000, key="7", origin=1000, name="Acme", city="Ulm", limit="5")
    done = told(*AGREED, tampered, repair, echo)
    assert done.end is End.ECHO
    assert done.record is None
    assert done.conflicts == ()


@pytest.mark.parametrize("policy", ["propagate", "soft", "ignore"])
def test_a_row_of_a_deleted_thing_is_as_its_policy_wants_it(policy: str) -> None:
    rules = replace(RULES, delete=policy, soft={"city": "gone"} if policy == "soft" else {})
    state: ThingState = {"fields": {}, "exists": None, "replicas": {}}
    for change in AGREED:
        state = fold(LINK, state, change, rules).state or {}
    state = {**state, "exists": (False, *state["exists"][1:])}
    done = repaired(LINK, state, a_repair(fields=(), erp=a_row("7", name="Acme", city="Ulm", limit="5")), rules)
    assert (done.record is not None) is (policy != "ignore")
    there = repaired(LINK, state, a_repair(fields=(), erp=a_row("7", name="Acme", city="gone", limit="5")), rules)
    assert (there.record is not None) is (policy == "propagate")


def test_a_repair_and_its_record_survive_the_wire() -> None:
    repair = a_repair(crm=SeenRow(None, None), erp=a_row("7", name="Ä", active=True, city=None))
    assert decode_told(repair.encode()) == repair
    assert decode_told(AGREED[0].encode()) == AGREED[0]
    record = record_of(told(*AGREED, a_repair(erp=a_row("7", name="X", city="Ulm", limit="5"))))
    assert golden_from_avro("customer", record.to_avro()) == record


@pytest.mark.parametrize(
    "spoiled",
    [
        {"repair": {}},
        {"repair": []},
        {"repair": {"by": 1, "ts": 1, "fields": [], "seen": {}}},
        {"repair": {"by": "a", "ts": "1", "fields": [], "seen": {}}},
        {"repair": {"by": "a", "ts": 1, "fields": [], "seen": {"erp": {"key": "1", "values": {"name": 1.5}}}}},
        {"repair": {"by": "a", "ts": 1, "fields": [], "seen": {"erp": {"key": None, "values": {}}}}},
    ],
)
def test_what_is_no_repair_is_refused(spoiled: Any) -> None:
    with pytest.raises(SchemaError):
        decode_told(orjson.dumps(spoiled))


@st.composite
def repairs(draw: st.DrawFn) -> Repair:
    def row(key: str) -> SeenRow:
        if draw(st.booleans()):
            return SeenRow(key, None)
        return SeenRow(key, {name: draw(st.sampled_from(["a", "b", "c", None])) for name in FIELDS})

    fields = tuple(name for name in FIELDS if draw(st.booleans()))
    return Repair(BY, draw(st.integers(1, 100)), fields, {"crm": row("1"), "erp": row("1")})


def agreed_on(state: ThingState | None) -> Any:
    """Values and who decided them, all of a version but the number of writes."""
    if state is None or state["exists"] is None:
        return None
    entries = {**state["fields"], EXISTS: state["exists"]}
    return {name: (*entry[:6], *entry[7:]) for name, entry in entries.items()}


@settings(max_examples=150, deadline=None)
@given(histories(), st.lists(repairs(), max_size=3), st.data())
def test_i7_edits_alone_decide_whatever_repairs_come_between(logs: list[list[Change]], wishes: list[Repair], data: st.DataObject) -> None:
    changes = interleaved(logs, data)
    mixed: list[Change | Repair] = list(changes)
    for wish in wishes:
        mixed.insert(data.draw(st.integers(0, len(mixed))), wish)
    rules = replace(RULES, owners={})  # of an owner that was overruled nothing is taken for a trigger's any more
    without, with_them = told(*changes, rules=rules), told(*mixed, rules=rules)
    assert agreed_on(without.state) == agreed_on(with_them.state)
    if without.state is not None and with_them.state is not None:
        assert without.state["replicas"] == with_them.state["replicas"]


@settings(max_examples=150, deadline=None)
@given(histories(), repairs(), st.data())
def test_a_repair_only_ever_says_again_what_stands(logs: list[list[Change]], wish: Repair, data: st.DataObject) -> None:
    state = told(*interleaved(logs, data)).state
    kept = orjson.dumps(state)
    done = repaired(LINK, state, wish, RULES)
    assert orjson.dumps(state) == kept
    record: GoldenRecord | None = done.record
    if record is None:
        assert done.state == state
        return
    assert state is not None
    assert record.values == {name: entry[0] for name, entry in state["fields"].items()}
    assert record.alive is state["exists"][0]
    assert all(record.versions[name] >= tuple(entry[1:7]) for name, entry in state["fields"].items())
    assert record.mend is not None
    assert all(set(names) <= set(wish.fields) for names in record.mend.fields.values())
    assert repaired(LINK, done.state, wish, RULES).record is None
