"""The fold, without Kafka: order and multiplicity, stamps, owners, deletes, echoes, conflicts."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.change import Change, Op
from schemas.conflicts import CONFLICT_SCHEMA, EXISTS, Rule, conflict_from_avro
from schemas.golden import GoldenRecord
from schemas.registry import MemoryRegistry
from schemas.serde import Codec
from streams.fold import FIRST_SIGHT, KEPT_GONE_ROWS, End, Folded, Rules, ThingState, fold

FIELDS = ("name", "city", "limit")
RULES = Rules(
    entity="customer",
    systems=("crm", "erp"),
    ranks={"crm": 1, "erp": 2},
    owners={"limit": "erp"},
    written={"crm": FIELDS, "erp": FIELDS},
)


def at(lsn: int) -> str:
    return f"{lsn:032X}"


def a_change(
    system: str = "crm", lsn: int = 10, op: str = "u", ts: int = 1000, key: str = "1", origin: int | None = None, **values: Any
) -> Change:
    return Change(system, key, Op(op), at(lsn), ts, origin, None if op == "d" else values)


def folded(*changes: Change, rules: Rules = RULES) -> Folded:
    """All of them, in this order; conflicts added up."""
    state: ThingState | None = None
    conflicts: tuple[Any, ...] = ()
    done = Folded(None, None, (), End.UNCHANGED)
    for change in changes:
        done = fold("crm:1", state, change, rules)
        state, conflicts = done.state, conflicts + done.conflicts
    return done._replace(conflicts=conflicts)


def record_of(done: Folded) -> GoldenRecord:
    assert done.record is not None
    return done.record


def values_of(done: Folded) -> dict[str, Any]:
    assert done.state is not None
    return {name: entry[0] for name, entry in done.state["fields"].items()}


@st.composite
def histories(draw: st.DrawFn) -> list[list[Change]]:
    """Per system, its changes of one thing in the order of its log: one live row at a time, echoes among them. The first ones may have been
    mapped without the field `city`."""
    logs = []
    for system in ("crm", "erp"):
        log: list[Change] = []
        mapped = draw(st.sampled_from([0, 0, 2, 3, 4]))
        key, row = 1, dict[str, str | None]()
        for number in range(draw(st.integers(0, 6))):
            ts, origin = draw(st.integers(1, 50)), draw(st.none() | st.integers(1, 60))
            if row and draw(st.integers(0, 5)) == 0:
                log.append(Change(system, str(key), Op.DELETE, at(number + 1), ts, origin, None))
                key, row = key + 1, {}
                continue
            op = Op.CREATE if not row and draw(st.booleans()) else Op.READ if not row else Op.UPDATE
            row = {**row, **{name: draw(st.sampled_from(["a", "b", "c", None])) for name in FIELDS if not row or draw(st.booleans())}}
            values = {name: value for name, value in row.items() if name != "city" or number >= mapped}
            log.append(Change(system, str(key), op, at(number + 1), ts, origin, values))
        logs.append(log)
    return logs


def interleaved(logs: list[list[Change]], data: st.DataObject) -> list[Change]:
    """One order in which merge may get them: each log in its order, some of it again."""
    left, out = [list(log) for log in logs], list[Change]()
    while any(left):
        log = data.draw(st.sampled_from([log for log in left if log]))
        out.append(log.pop(0))
        if data.draw(st.integers(0, 3)) == 0:
            out.append(data.draw(st.sampled_from(out)))
    return out


@settings(max_examples=300, deadline=None)
@given(histories(), st.data())
def test_i7_any_order_and_multiplicity_end_in_the_same_golden_record(logs: list[list[Change]], data: st.DataObject) -> None:
    one, other = folded(*interleaved(logs, data)), folded(*interleaved(logs, data), *itertools.chain(*logs))
    if one.state is None or other.state is None:
        assert one.state is other.state
        return
    assert one.state["fields"] == other.state["fields"]
    assert one.state["exists"] == other.state["exists"]
    assert {n: r["rows"] for n, r in one.state["replicas"].items()} == {n: r["rows"] for n, r in other.state["replicas"].items()}


@settings(max_examples=200, deadline=None)
@given(histories(), st.data())
def test_i3_the_state_survives_its_json_and_nothing_in_it_is_changed_in_place(logs: list[list[Change]], data: st.DataObject) -> None:
    kept: ThingState | None = None
    stored: ThingState | None = None
    for change in interleaved(logs, data):
        before = orjson.dumps(kept)
        done, again = fold("crm:1", kept, change, RULES), fold("crm:1", stored, change, RULES)
        assert orjson.dumps(kept) == before
        assert orjson.dumps(done.state) == orjson.dumps(again.state)
        assert (done.record, done.conflicts, done.end) == (again.record, again.conflicts, again.end)
        kept, stored = done.state, orjson.loads(orjson.dumps(again.state))


@settings(max_examples=200, deadline=None)
@given(histories(), st.data())
def test_a_version_never_shrinks(logs: list[list[Change]], data: st.DataObject) -> None:
    state: ThingState | None = None
    for change in interleaved(logs, data):
        done = fold("crm:1", state, change, RULES)
        for name, entry in (state or {"fields": {}})["fields"].items():
            assert done.state is not None
            after = done.state["fields"][name]
            assert tuple(after[1:7]) >= tuple(entry[1:7])
            assert tuple(after[1:7]) > tuple(entry[1:7]) or after[0] == entry[0]
        state = done.state


def test_i3_a_change_twice_is_superseded_and_changes_nothing() -> None:
    once = folded(a_change(op="c", name="a"))
    again = fold("crm:1", once.state, a_change(op="c", name="a"), RULES)
    assert again.state is once.state
    assert (again.record, again.conflicts, again.end) == (None, (), End.SUPERSEDED)


def test_a_whole_row_save_edits_only_what_it_changed() -> None:
    done = folded(
        a_change(op="c", name="a", city="x"),
        a_change("erp", lsn=1, op="c", ts=2000, key="12", name="a", city="y"),
        a_change(lsn=20, ts=3000, name="b", city="x"),  # CRM never saw the ERP's city
    )
    assert values_of(done) == {"name": "b", "city": "y"}
    assert record_of(done).targets == ("crm", "erp")


def test_an_edit_made_on_our_write_beats_it_though_its_clock_is_behind() -> None:
    done = folded(
        a_change(op="c", ts=9000, name="a"),
        a_change("erp", lsn=1, op="c", ts=10, key="12", origin=9000, name="a"),
        a_change("erp", lsn=2, ts=20, key="12", name="b"),
    )
    assert values_of(done) == {"name": "b"}
    assert record_of(done).versions["name"].hlc == 9001
    assert done.conflicts == ()  # made in knowledge of what it replaced


# ---- what is found after a gap in the log --------------------------------------------------------------------------------------

BOTH_KNOW = (
    a_change(op="c", ts=1000, name="a", city="Ulm"),
    a_change("erp", lsn=1, op="c", ts=1001, key="12", origin=1000, name="a", city="Ulm"),
)


def test_our_own_write_that_nobody_has_read_is_found_and_is_no_edit() -> None:
    """The CRM renames to b, the sink writes it to the ERP, unread; the CRM renames to c: what is found in the ERP must not undo that."""
    known = (*BOTH_KNOW, a_change("erp", lsn=2, ts=9000, key="12", name="a", city="Bonn"))  # an edit there, later than both renames
    found = replace(
        a_change("erp", lsn=3, op="r", ts=9500, key="12", name="b", city="Bonn"), ours={"name": ("b", 2000), "city": ("Ulm", 1000)}
    )
    renames = a_change(lsn=11, ts=2000, name="b", city="Ulm"), a_change(lsn=12, ts=3000, name="c", city="Ulm")
    for history in itertools.permutations([*renames, found]):
        if history.index(renames[0]) < history.index(renames[1]):
            done = folded(*known, *history)
            assert values_of(done) == {"name": "c", "city": "Bonn"}, history
            assert record_of(done).targets == ("crm", "erp")
            assert record_of(done).seen["erp"] == {"name": "b", "city": "Bonn"}, "so that the sink writes over it"


def test_a_persons_edit_that_nobody_has_read_is_found_and_beats_what_our_sink_had_written_there() -> None:
    found = replace(
        a_change("erp", lsn=3, op="r", ts=9500, key="12", name="x", city="Ulm"), ours={"name": ("b", 2000), "city": ("Ulm", 1000)}
    )
    done = folded(*BOTH_KNOW, a_change(lsn=11, ts=2000, name="b", city="Ulm"), found)
    assert values_of(done) == {"name": "x", "city": "Ulm"}
    assert record_of(done).targets == ("crm",)


def test_an_edit_that_sets_back_what_our_unread_write_had_replaced_is_found() -> None:
    """The CRM renames to b, the sink writes it to the ERP, somebody there sets it back to a, all unread: the replica sees no difference."""
    found = replace(
        a_change("erp", lsn=3, op="r", ts=9500, key="12", name="a", city="Ulm"), ours={"name": ("b", 2000), "city": ("Ulm", 1000)}
    )
    done = folded(*BOTH_KNOW, a_change(lsn=11, ts=2000, name="b", city="Ulm"), found)
    assert values_of(done) == {"name": "a", "city": "Ulm"}
    assert record_of(done).targets == ("crm",)


def test_a_value_of_ours_that_was_read_and_replaced_is_a_persons_word_when_it_is_found_again() -> None:
    edited = a_change("erp", lsn=2, ts=3000, key="12", name="x", city="Ulm")
    found = replace(a_change("erp", lsn=3, op="r", ts=9500, key="12", name="a", city="Ulm"), ours={"name": ("a", 1000)})
    assert values_of(folded(*BOTH_KNOW, edited, found))["name"] == "a"


def test_what_an_insert_of_ours_was_given_is_found() -> None:
    """A number out of the ERP's sequence."""
    rules = replace(RULES, generated={"erp": frozenset({"limit"})})
    found = replace(a_change("erp", lsn=3, op="r", key="12", name="a", limit="7"), ours={"name": ("a", 1000)})
    done = folded(a_change(op="c", ts=1000, name="a", limit=None), found, rules=rules)
    assert (values_of(done)["limit"], record_of(done).targets) == ("7", ("crm",))


def test_i5_an_echo_edits_nothing() -> None:
    first = folded(a_change(op="c", name="a"))
    echo = fold("crm:1", first.state, a_change("erp", lsn=1, op="c", ts=2000, key="12", origin=1000, name="a"), RULES)
    assert echo.end is End.ECHO
    assert record_of(echo).targets == ()
    assert record_of(echo).keys == {"crm": "1", "erp": "12"}
    again = fold("crm:1", echo.state, a_change("erp", lsn=2, ts=3000, key="12", origin=1000, name="a"), RULES)
    assert (again.record, again.end) == (None, End.ECHO)


# `city` is mapped from some event on: docs/decisions/0033
UNMAPPED = a_change(op="c", lsn=10, ts=10, name="a")
OUR_INSERT = a_change("erp", lsn=1, op="c", ts=20, key="12", origin=10, name="a", city=None)
OUR_UPDATE = a_change(lsn=20, ts=30, origin=25, name="b", city="Ulm")
READ_AGAIN = a_change(op="r", lsn=30, ts=50, name="b", city="Ulm")


def test_a_field_that_our_own_write_is_the_first_to_show_is_what_the_row_had() -> None:
    edited = a_change("erp", lsn=2, ts=25, key="12", name="b", city=None)
    done = folded(UNMAPPED, OUR_INSERT, edited, OUR_UPDATE)
    assert values_of(done) == {"name": "b", "city": "Ulm"}
    assert (record_of(done).targets, record_of(done).versions["city"].won_hlc) == (("erp",), FIRST_SIGHT)
    again = folded(UNMAPPED, OUR_INSERT, edited, OUR_UPDATE, READ_AGAIN)
    assert done.state is not None
    assert again.state is not None
    assert again.state["fields"] == done.state["fields"]


def test_a_null_that_nobody_said_is_not_written_over_a_field_that_our_write_is_the_first_to_show() -> None:
    inserted = a_change("erp", lsn=1, op="c", ts=20, key="12", origin=10, name="a")  # heard of as long as `city` was not mapped either
    edited = a_change("erp", lsn=2, ts=25, key="12", name="b", city=None)
    before = folded(UNMAPPED, inserted, edited)
    assert (values_of(before), record_of(before).targets) == ({"name": "b", "city": None}, ("crm",))
    done = folded(UNMAPPED, inserted, edited, OUR_UPDATE)
    assert (values_of(done), record_of(done).targets) == ({"name": "b", "city": "Ulm"}, ("erp",))


def test_a_field_that_our_own_write_is_the_first_to_show_is_older_than_every_edit() -> None:
    inserted = a_change("erp", lsn=1, op="c", ts=20, key="12", origin=10, name="a", city=None)
    edited = a_change("erp", lsn=2, ts=25, key="12", name="b", city="Bonn")
    for order in itertools.permutations([OUR_UPDATE, inserted]):
        done = folded(UNMAPPED, *order, edited)
        assert (values_of(done), record_of(done).targets) == ({"name": "b", "city": "Bonn"}, ("crm",))
    assert values_of(folded(UNMAPPED, inserted, edited, OUR_UPDATE)) == {"name": "b", "city": "Bonn"}


def test_what_a_default_gave_our_insert_is_nobodys_word() -> None:
    inserted = a_change("erp", lsn=1, op="c", ts=20, key="12", origin=10, name="a", city="default")
    done = folded(UNMAPPED, inserted, a_change(op="r", lsn=30, ts=50, name="a", city="Ulm"))
    assert (values_of(done)["city"], record_of(done).targets) == ("Ulm", ("erp",))


def test_a_lost_write_is_overwritten_again() -> None:
    done = folded(a_change(op="c", ts=1000, name="a"), a_change("erp", lsn=1, op="c", ts=900, key="12", name="b"))
    assert record_of(done).targets == ("erp",)
    assert record_of(done).versions["name"][-1] == 2  # writes seen
    [conflict] = done.conflicts
    assert (conflict.won.system, conflict.won.value, conflict.lost.system, conflict.lost.value) == ("crm", "a", "erp", "b")
    assert conflict.rule is Rule.LATER


@pytest.mark.parametrize(
    ("one", "other", "rule"),
    [
        (a_change(op="c", ts=5, limit="1"), a_change("erp", lsn=1, op="c", ts=1, key="12", limit="2"), Rule.OWNER),
        (a_change(op="c", ts=5, name="1"), a_change("erp", lsn=1, op="r", ts=9, key="12", name="2"), Rule.FIRST_SIGHT),
        (a_change(op="r", ts=9, name="1"), a_change("erp", lsn=1, op="r", ts=1, key="12", name="2"), Rule.FIRST_SIGHT),
        (a_change(op="c", ts=5, name="1"), a_change("erp", lsn=1, op="c", ts=5, key="12", name="2"), Rule.RANK),
        (a_change(op="c", ts=5, name="1"), a_change("erp", lsn=1, op="c", ts=4, key="12", name="2"), Rule.LATER),
    ],
)
def test_a_conflict_says_what_decided_in_whatever_order_it_shows(one: Change, other: Change, rule: Rule) -> None:
    there, back = folded(one, other), folded(other, one)
    assert values_of(there) == values_of(back)
    assert [(c.rule, c.won.value, c.lost.value) for c in there.conflicts] == [(c.rule, c.won.value, c.lost.value) for c in back.conflicts]
    assert [c.rule for c in there.conflicts] == [rule]


def test_a_first_sight_of_an_equal_value_is_no_conflict() -> None:
    assert folded(a_change(op="c", name="a"), a_change("erp", lsn=1, op="r", key="12", name="a")).conflicts == ()


def test_the_owner_is_never_overruled_and_the_rest_of_the_change_holds() -> None:
    done = folded(
        a_change("erp", lsn=1, op="c", ts=1, key="12", name="a", limit="10"),
        a_change(op="c", ts=2, origin=1, name="a", limit="10"),
        a_change(lsn=20, ts=9000, name="b", limit="99"),
    )
    assert values_of(done) == {"name": "b", "limit": "10"}
    assert record_of(done).targets == ("crm", "erp")


def test_a_delete_takes_the_thing_away_and_a_later_edit_brings_it_back() -> None:
    born = (a_change(op="c", ts=1, name="a"), a_change("erp", lsn=1, op="c", ts=2, key="12", origin=1, name="a"))
    dead = folded(*born, a_change(lsn=20, op="d", ts=10))
    assert (record_of(dead).alive, record_of(dead).targets) == (False, ("erp",))
    back = folded(*born, a_change(lsn=20, op="d", ts=10), a_change("erp", lsn=2, ts=20, key="12", name="b"))
    assert (record_of(back).alive, record_of(back).targets, record_of(back).seen["crm"]) == (True, ("crm",), None)
    assert [(c.field, c.won.value, c.rule) for c in back.conflicts] == [(EXISTS, True, Rule.LATER)]


def test_a_delete_that_is_ignored_edits_nothing_and_the_system_is_left_alone() -> None:
    rules = replace(RULES, delete="ignore")
    born = (a_change(op="c", ts=1, name="a"), a_change("erp", lsn=1, op="c", ts=2, key="12", origin=1, name="a"))
    done = folded(*born, a_change(lsn=20, op="d", ts=10), a_change("erp", lsn=2, ts=20, key="12", name="b"), rules=rules)
    assert (record_of(done).alive, record_of(done).targets) == (True, ())
    again = folded(*born, a_change(lsn=20, op="d", ts=10), a_change(lsn=30, op="c", key="2", ts=20, name="b"), rules=rules)
    assert record_of(again).targets == ("erp",)


def test_a_soft_delete_asks_for_its_values_where_there_is_a_row() -> None:
    rules = replace(RULES, delete="soft", soft={"city": "gone"})
    born = (a_change(op="c", ts=1, name="a", city="x"), a_change("erp", lsn=1, op="c", ts=2, key="12", origin=1, name="a", city="x"))
    dead = folded(*born, a_change(lsn=20, op="d", ts=10), rules=rules)
    assert (record_of(dead).alive, record_of(dead).targets) == (False, ("erp",))
    done = folded(*born, a_change(lsn=20, op="d", ts=10), a_change("erp", lsn=2, key="12", origin=11, name="a", city="gone"), rules=rules)
    assert (done.record, done.end) == (None, End.ECHO)


def test_what_the_target_generates_is_its_edit() -> None:
    rules = replace(RULES, owners={"limit": "erp"}, generated={"erp": frozenset({"limit", "city"})})
    done = folded(
        a_change(op="c", ts=1, name="a", limit=None, city="x"),
        a_change("erp", lsn=1, op="c", ts=2, key="12", origin=1, name="a", limit="P1", city="x"),
        rules=rules,
    )
    assert values_of(done) == {"name": "a", "limit": "P1", "city": "x"}
    assert record_of(done).targets == ("crm",)
    assert record_of(done).versions["limit"].owned == 1


def test_what_the_owners_trigger_does_to_our_update_is_its_edit() -> None:
    done = folded(
        a_change("erp", lsn=1, op="c", ts=1, key="12", name="a", limit="10"),
        a_change(op="c", ts=2, origin=1, name="a", limit="10"),
        a_change(lsn=20, ts=5, name="b", limit="10"),
        a_change("erp", lsn=2, ts=6, key="12", origin=5, name="b", limit="11"),
    )
    assert values_of(done)["limit"] == "11"
    assert record_of(done).targets == ("crm",)


def test_a_row_that_comes_back_into_scope_as_it_was_is_there_again() -> None:
    left = Change("crm", "1", Op.DELETE, at(20), 2000, None, None, left=True)
    back = folded(a_change(op="c", name="a"), left, a_change(lsn=30, op="c", ts=3000, name="a"))
    assert (record_of(back).alive, back.end) == (True, End.EDIT)
    assert record_of(back).versions["name"].hlc == 1000  # nobody has written it anew


def test_an_unchanged_toast_value_says_nothing() -> None:
    done = folded(a_change(op="c", name="a", city="long"), a_change(lsn=20, name="b"), a_change(lsn=15, name="old", city="longer"))
    assert values_of(done) == {"name": "b", "city": "longer"}  # the older event knows of the column what the newer one did not tell


def test_systems_are_compared_in_their_own_representation() -> None:
    rules = replace(RULES, same=lambda system, name, golden, held: str(golden).upper() == held if system == "erp" else golden == held)
    done = folded(a_change(op="c", name="a"), a_change("erp", lsn=1, op="c", key="12", origin=1000, name="A"), rules=rules)
    assert record_of(done).targets == ()
    assert values_of(done) == {"name": "a"}


def test_what_is_not_written_in_a_system_is_not_compared_there() -> None:
    rules = replace(RULES, written={"crm": FIELDS, "erp": ("name",)})
    done = folded(a_change(op="c", name="a", city="x"), a_change("erp", lsn=1, op="c", key="12", origin=1000, name="a"), rules=rules)
    assert record_of(done).targets == ()
    nobody = folded(a_change(op="c", name="a"), rules=replace(RULES, written={"crm": FIELDS, "erp": ()}))
    assert record_of(nobody).targets == ()  # told all the same: others may read the topic


def test_a_row_under_a_new_key_keeps_what_it_held() -> None:
    moved = Change("crm", "2", Op.UPDATE, at(20), 2000, None, {"name": "b", "city": "x"}, was="1")
    done = folded(a_change(op="c", name="a", city="x"), moved)
    assert (record_of(done).keys, record_of(done).alive) == ({"crm": "2"}, True)
    assert record_of(done).versions["city"].hlc == 1000
    assert record_of(done).versions["name"].hlc == 2000


def test_gone_rows_and_what_was_seen_do_not_grow_for_ever() -> None:
    state: ThingState | None = None
    for number in range(1, 200):
        state = fold("crm:1", state, a_change(lsn=10 * number, op="c", ts=number, key=str(number), name="a"), RULES).state
        state = fold(
            "crm:1", state, a_change(lsn=10 * number + 1, ts=number, key=str(number), origin=number, name=f"{number}"), RULES
        ).state
        state = fold("crm:1", state, a_change(lsn=10 * number + 2, op="d", ts=number, key=str(number)), RULES).state
    assert state is not None
    assert len(state["replicas"]["crm"]["rows"]) <= KEPT_GONE_ROWS
    assert len(state["replicas"]["crm"]["seen"]) == 1


@pytest.mark.parametrize(("op", "ts"), [("r", 1_000), ("c", 1_500), ("c", 2_500)])
def test_a_row_that_takes_the_place_of_a_deleted_one_stands(op: str, ts: int) -> None:
    """It waited, since its match value was another's: nobody has deleted it."""
    done = folded(a_change(op="r", lsn=10, name="a"), a_change(op="d", lsn=30, ts=2_000), a_change(op=op, lsn=20, ts=ts, key="2", name="b"))
    record = record_of(done)
    assert record.alive
    assert "erp" in record.targets
    assert record.keys["crm"] == "2"


def test_a_row_that_goes_while_another_stands_takes_nothing_away() -> None:
    done = folded(a_change(op="c", lsn=10, name="a"), a_change(op="c", lsn=20, key="2", name="b"), a_change(op="d", lsn=30, ts=2_000))
    assert done.state is not None
    assert done.state["exists"][0]
    assert not record_of(folded(*[a_change(op="c", lsn=10, name="a"), a_change(op="d", lsn=30, ts=2_000)])).alive


def test_what_the_owners_row_says_that_is_left_is_what_it_decides_in_whatever_order() -> None:
    """Its other row had been edited later: by the log, what that one said would stand, and never be written into this one."""
    first = [a_change("erp", 10, "c", limit="1"), a_change("erp", 40, "u", 4_000, limit="4"), a_change("erp", 50, "d", 5_000)]
    second = [a_change("erp", 30, "c", 3_000, key="2", limit="3"), a_change("erp", 45, "u", 4_500, key="2", limit="3b")]
    orders = [
        first + second,
        [*first[:2], *second, first[2]],
        [first[0], *second, *first[1:]],
        [first[0], second[0], *first[1:], second[1]],
    ]
    for changes in orders:
        done = folded(*changes)
        assert values_of(done) == {"limit": "3b"}, [change.position for change in changes]
        assert done.state is not None
        assert done.state["exists"][0]
    later = a_change("erp", 60, "u", 6_000, key="2", limit="6")
    assert values_of(folded(*orders[0], later)) == {"limit": "6"}


def test_a_record_says_how_far_our_writes_have_come_back() -> None:
    mine = a_change(op="c", lsn=10, name="a")
    echo = a_change("erp", 10, "c", 2_000, "9", origin=1_000, name="a")
    behind = a_change(op="u", lsn=20, ts=3_000, name="b")
    assert record_of(folded(mine)).heard == {}
    assert record_of(folded(mine, echo, behind)).heard == {"erp": {"": 1_000}}
    assert record_of(folded(mine, behind, echo)).heard == {"erp": {"": 1_000}}


def test_a_conflict_survives_its_avro() -> None:
    codec = Codec(MemoryRegistry())
    [conflict] = folded(a_change(op="c", ts=1000, name="a"), a_change("erp", lsn=1, op="c", ts=900, key="12", name="b")).conflicts
    data = codec.encoder("conflicts", CONFLICT_SCHEMA)(conflict.to_avro())
    assert conflict_from_avro(codec.decode(data)[1]) == conflict


def test_a_thousand_changes_are_folded_in_no_time() -> None:
    """No budget, a stop against folly: copying a state deeply would be fifty times this."""
    state, row, began = None, {f"f{number}": "a" for number in range(10)}, time.process_time()
    rules = replace(RULES, written={"crm": tuple(row), "erp": tuple(row)})
    for number in range(1, 1001):
        change = Change("crm", "1", Op.UPDATE, at(number), number, None, {**row, f"f{number % 10}": f"v{number}"})
        state = fold("crm:1", state, change, rules).state
    assert time.process_time() - began < 1


# ---- what counts as a conflict ---------------------------------------------------------------------------------------------------------


def lost(*changes: Change, rules: Rules = RULES) -> list[tuple[str, Any, Any, Rule]]:
    """(field, value that won, value that lost, rule) of every conflict."""
    return [(found.field, found.won.value, found.lost.value, found.rule) for found in folded(*changes, rules=rules).conflicts]


def test_what_nobody_had_said_is_not_lost() -> None:
    """An order is born in the CRM without number and totals; the ERP gives it both, one as it inserts the row, one by a trigger later."""
    rules = replace(RULES, owners={"limit": "erp", "city": "erp"}, generated={"erp": frozenset({"limit"})})
    history = (
        a_change(op="c", ts=10, name="a", limit=None, city=None),
        a_change("erp", lsn=1, op="c", ts=11, key="12", origin=10, name="a", limit="P1", city=None),
        a_change("erp", lsn=2, op="u", ts=12, key="12", name="a", limit="P1", city="99.50"),
        a_change(lsn=20, ts=13, origin=12, name="a", limit="P1", city="99.50"),
    )
    assert lost(*history, rules=rules) == []
    assert values_of(folded(*history, rules=rules)) == {"name": "a", "limit": "P1", "city": "99.50"}


@settings(max_examples=300, deadline=None)
@given(st.permutations([("crm", "1"), ("erp", "12")]), st.lists(st.sampled_from("cr"), min_size=2, max_size=2), st.data())
def test_a_null_that_came_with_its_row_beats_no_value_in_whatever_order(
    rows: list[tuple[str, str]], ops: list[str], data: st.DataObject
) -> None:
    """Whoever owns the field, whatever the ranks and the clocks; and versions grow."""
    one = {name: data.draw(st.sampled_from(["a", None])) for name in FIELDS}
    other = {name: data.draw(st.sampled_from(["b", None])) for name in FIELDS}
    changes = [
        a_change(system, lsn=number, op=op, ts=data.draw(st.integers(1, 9)), key=key, **values)
        for number, ((system, key), op, values) in enumerate(zip(rows, ops, (one, other), strict=True), 1)
    ]
    there, back = folded(*changes), folded(*reversed(changes))
    assert there.state is not None
    assert back.state is not None
    assert [entry[:7] for entry in there.state["fields"].values()] == [entry[:7] for entry in back.state["fields"].values()]
    for name in FIELDS:
        if one[name] is None or other[name] is None:
            assert values_of(there)[name] == (one[name] or other[name])
    assert not there.conflicts or all(conflict.lost.value is not None for conflict in there.conflicts)
    first = folded(changes[0])
    for name, entry in there.state["fields"].items():
        assert first.state is not None
        assert tuple(entry[1:7]) > tuple(first.state["fields"][name][1:7])


@pytest.mark.parametrize("op", ["c", "r"])
@pytest.mark.parametrize("field", FIELDS)
def test_a_null_that_came_with_its_row_is_no_lost_write_in_whatever_order(op: str, field: str) -> None:
    null: dict[str, Any] = {field: None}
    value: dict[str, Any] = {field: "x"}
    one, other = a_change(op=op, ts=5, **null), a_change("erp", lsn=1, op=op, ts=9, key="12", **value)
    assert lost(one, other) == lost(other, one) == []


def test_a_value_that_loses_against_a_null_is_lost_and_so_is_a_null_that_was_written_over_a_value() -> None:
    born = (a_change(op="c", ts=1, name="a"), a_change("erp", lsn=1, op="c", ts=2, key="12", origin=1, name="a"))
    value, null = a_change(lsn=20, ts=10, name="b"), a_change("erp", lsn=2, ts=20, key="12", name=None)
    assert lost(*born, value, null) == lost(*born, null, value) == [("name", None, "b", Rule.LATER)]
    cleared, edited = a_change(lsn=20, ts=10, name=None), a_change("erp", lsn=2, ts=20, key="12", name="b")
    assert lost(*born, cleared, edited) == lost(*born, edited, cleared) == [("name", "b", None, Rule.LATER)]


def test_a_difference_found_at_first_load_is_one_conflict_per_field_and_stays_one() -> None:
    crm: dict[str, Any] = {"name": "Acme", "city": None, "limit": "10"}
    erp: dict[str, Any] = {"name": "ACME GmbH", "city": "Ulm", "limit": "20"}
    sights = (a_change(op="r", ts=9, **crm), a_change("erp", lsn=1, op="r", ts=1, key="12", **erp))
    expected = [("name", "ACME GmbH", "Acme", Rule.FIRST_SIGHT), ("limit", "20", "10", Rule.OWNER)]
    healed = (
        a_change(lsn=20, ts=20, origin=2, **erp),  # what our sink writes comes back
        a_change(lsn=30, op="r", ts=30, **erp),  # and both tables are read once more
        a_change("erp", lsn=40, op="r", ts=30, key="12", **erp),
        a_change(lsn=40, ts=40, **{**erp, "name": "Acme AG"}),  # an edit of what was agreed on
    )
    assert lost(*sights, *healed) == expected
    assert lost(*reversed(sights), *healed) == expected


def test_two_forms_of_one_value_are_no_conflict_in_whatever_order() -> None:
    """ERP keeps capitals."""
    rules = replace(RULES, same=lambda system, name, golden, held: (str(golden).upper() if system == "erp" else golden) == held)
    one, other = a_change(op="r", name="Acme"), a_change("erp", lsn=1, op="r", key="12", name="ACME")
    assert lost(one, other, rules=rules) == lost(other, one, rules=rules) == []


@settings(max_examples=200, deadline=None)
@given(histories(), st.data())
def test_nothing_is_counted_twice_by_what_is_read_twice(logs: list[list[Change]], data: st.DataObject) -> None:
    changes = interleaved([list(log) for log in logs], data)
    once = [change for at, change in enumerate(changes) if change not in changes[:at]]
    assert folded(*changes).conflicts == folded(*once).conflicts


# ---- rows with parts ---------------------------------------------------------------------------------------------------------------------

WITH_PARTS = replace(RULES, parts={"erp": {"city": "address"}}, owners={})


def an_entity_row(
    lsn: int,
    part: str = "",
    op: str = "u",
    ts: int = 1000,
    origin: int | None = None,
    sums: int = 0,
    root: int | None = None,
    **values: Any,
) -> Change:
    """A row of the ERP whose city is read from a part. `root`: LSN of its root row."""
    position = at(lsn if root is None else root)
    positions = {name: f"{sums:040X}" for name in values if name == "city"}
    return Change("erp", "12", Op(op), position, ts, origin, values, positions, at=at(lsn) if part else "", part=part)


def test_a_part_that_is_seen_after_its_root_is_as_old_as_its_root() -> None:
    """The ERP's row is read by a snapshot, then its part; the CRM's value was there too, and the ERP has the higher rank."""
    crm = a_change(op="r", ts=9, name="a", city="Ulm")
    root, part = an_entity_row(1, op="r", name="a", city=None), an_entity_row(2, "address", "r", root=1, sums=2, name="a", city="Bonn")
    for changes in itertools.permutations([crm, root, part]):
        if changes.index(root) < changes.index(part):
            assert values_of(folded(*changes, rules=WITH_PARTS)) == {"name": "a", "city": "Bonn"}
    edited = a_change(lsn=11, ts=20, name="a", city="Köln")
    assert values_of(folded(crm, root, edited, part, rules=WITH_PARTS))["city"] == "Köln"
    assert values_of(folded(crm, root, part, edited, rules=WITH_PARTS))["city"] == "Köln"


def test_a_part_is_edited_when_it_was_edited_although_its_root_was_edited_since() -> None:
    """Two tables are not read in the order of the log."""
    born = (an_entity_row(1, op="c", ts=1, name="a", city="Ulm", sums=1), a_change(op="c", ts=2, origin=1, name="a", city="Ulm"))
    part = an_entity_row(5, "address", ts=50, root=1, sums=5, name="a", city="Bonn")
    root = an_entity_row(6, ts=60, name="b", city="Ulm", sums=1)
    late = an_entity_row(5, "address", ts=50, root=6, sums=5, name="b", city="Bonn")
    between = a_change(lsn=20, ts=55, name="a", city="Köln")
    one = folded(*born, part, an_entity_row(6, ts=60, name="b", city="Bonn", sums=5), between, rules=WITH_PARTS)
    other = folded(*born, root, late, between, rules=WITH_PARTS)
    assert values_of(one) == values_of(other) == {"name": "b", "city": "Köln"}


def test_i3_a_part_never_turns_back_and_a_root_says_nothing_new_of_it() -> None:
    done = folded(
        an_entity_row(1, op="c", name="a", city="Ulm", sums=1),
        an_entity_row(5, "address", root=1, sums=5, name="a", city="Bonn"),
        an_entity_row(6, name="b", city="Ulm", sums=1),  # told before the part's
        an_entity_row(3, "address", root=6, sums=3, name="b", city="Köln"),
        rules=WITH_PARTS,
    )
    assert values_of(done) == {"name": "b", "city": "Bonn"}


def test_a_row_that_leaves_through_its_part_is_gone_though_its_root_is_not_newer() -> None:
    born = an_entity_row(1, op="c", name="a", city="Ulm", sums=1)
    inside, outside = f"{born.position},{1:040X}", f"{born.position},{2:040X}"
    left = Change("erp", "12", Op.DELETE, outside, 9000, None, None, at=at(5), part="address", left=True)
    done = folded(replace(born, position=inside), left, replace(born, position=inside), rules=WITH_PARTS)
    assert done.state is not None
    assert done.state["exists"][0] is False


def test_a_new_row_of_the_thing_has_positions_of_its_own() -> None:
    """The first row's group had seen many rows; the second's has seen one."""
    moved = Change("erp", "13", Op.UPDATE, at(20), 2000, None, {"name": "a", "city": "Bonn"}, {"city": f"{1:040X}"}, was="12")
    done = folded(an_entity_row(1, op="c", name="a", city="Ulm", sums=900), moved, rules=WITH_PARTS)
    assert values_of(done) == {"name": "a", "city": "Bonn"}
    again = replace(moved, position=at(30), op=Op.CREATE, was=None)
    gone = Change("erp", "12", Op.DELETE, at(20), 2000, None, None)
    owned = replace(WITH_PARTS, owners={"city": "erp"})
    assert values_of(folded(an_entity_row(1, op="c", name="a", city="Ulm", sums=900), gone, again, rules=owned))["city"] == "Bonn"


@st.composite
def entity_rows(draw: st.DrawFn) -> tuple[list[Change], list[Change]]:
    """The same events of a root and its part, told in two orders."""
    events = []
    for number in range(2, 2 + draw(st.integers(0, 6))):
        part, ts, origin = draw(st.sampled_from(["", "address"])), draw(st.integers(1, 50)), draw(st.none() | st.integers(1, 60))
        events.append((part, number, ts, origin, draw(st.sampled_from(["a", "b", None]))))
    told = []
    for _ in range(2):
        left = {part: [event for event in events if event[0] == part] for part in ("", "address")}
        root, sums, row = 1, 0, {"name": "n", "city": None}
        rows = [an_entity_row(1, op="c", ts=1, **row)]
        while any(left.values()):
            part, number, ts, origin, value = left[draw(st.sampled_from([part for part in left if left[part]]))].pop(0)
            row = {**row, "city" if part else "name": value}
            root, sums = (root, sums + number) if part else (number, sums)
            rows.append(an_entity_row(number, part, ts=ts, origin=origin, root=root, sums=sums, **row))
        told.append(rows)
    return told[0], told[1]


@settings(max_examples=300, deadline=None)
@given(entity_rows(), histories(), st.data())
def test_i7_a_root_and_its_parts_in_any_order_end_in_the_same_record(
    rows: tuple[list[Change], list[Change]], logs: list[list[Change]], data: st.DataObject
) -> None:
    one, other = (folded(*interleaved([told, logs[0]], data), rules=WITH_PARTS) for told in rows)
    assert one.state is not None
    assert other.state is not None
    assert one.state["exists"][:7] == other.state["exists"][:7]
    for name in ("name", "city"):
        assert one.state["fields"][name][:7] == other.state["fields"][name][:7]


def test_our_own_write_to_a_part_that_nobody_has_read_is_found_and_is_no_edit() -> None:
    """The CRM moves to Bonn, the sink writes it to the ERP, unread; the CRM moves to Köln. The ERP's row is told by its root, or by the
    root and then by the part."""
    known = (
        a_change(op="c", ts=1000, name="a", city="Ulm"),
        an_entity_row(1, op="c", ts=1001, origin=1000, name="a", city="Ulm", sums=1),
        an_entity_row(2, "address", ts=9000, root=1, sums=2, name="a", city="Ulm "),  # an edit there, later than both
        a_change(lsn=11, ts=9100, origin=9000, name="a", city="Ulm "),
    )
    moves = a_change(lsn=12, ts=9200, name="a", city="Bonn"), a_change(lsn=13, ts=9300, name="a", city="Köln")
    ours = {"name": ("a", 1000), "city": ("Bonn", 9200)}
    whole = replace(an_entity_row(5, op="r", ts=9500, sums=5, name="x", city="Bonn"), ours=ours)
    root = replace(an_entity_row(5, op="r", ts=9500, sums=2, name="x", city="Ulm "), ours=ours)
    part = replace(an_entity_row(5, "address", "r", ts=9500, sums=5, root=5, name="x", city="Bonn"), ours=ours)
    for found in ([whole], [root, part]):
        for late in (0, 1):
            done = folded(*known, *moves[:late], *found, *moves[late:], rules=WITH_PARTS)
            assert values_of(done) == {"name": "x", "city": "Köln"}, (found, late)
            assert record_of(done).targets == ("crm", "erp")
            edit = an_entity_row(
                7, "address", ts=1, root=5, sums=7, name="x", city="Bern"
            )  # on top of our write, by a clock that is behind
            after = folded(*known, moves[0], *found, edit, rules=WITH_PARTS)
            assert values_of(after) == {"name": "x", "city": "Bern"}


def test_a_part_that_was_set_back_where_our_write_was_unread_is_found() -> None:
    known = (
        a_change(op="c", ts=1000, name="a", city="Ulm"),
        an_entity_row(1, op="c", ts=1001, origin=1000, name="a", city="Ulm", sums=1),
        a_change(lsn=12, ts=2000, name="a", city="Bonn"),
    )
    found = replace(an_entity_row(5, op="r", ts=9500, sums=5, name="a", city="Ulm"), ours={"city": ("Bonn", 2000)})
    done = folded(*known, found, rules=WITH_PARTS)
    assert (values_of(done), record_of(done).targets) == ({"name": "a", "city": "Ulm"}, ("crm",))


def test_a_part_of_ours_that_was_read_and_replaced_is_a_persons_word_when_it_is_found_again() -> None:
    known = (
        a_change(op="c", ts=1000, name="a", city="Ulm"),
        an_entity_row(1, op="c", ts=1001, origin=1000, name="a", city="Ulm", sums=1),
        a_change(lsn=12, ts=2000, name="a", city="Bonn"),
        an_entity_row(2, "address", ts=2001, origin=2000, root=1, sums=2, name="a", city="Bonn"),
        an_entity_row(3, "address", ts=3000, root=1, sums=3, name="a", city="Köln"),
    )
    found = replace(an_entity_row(5, op="r", ts=9500, sums=5, name="a", city="Bonn"), ours={"city": ("Bonn", 2000)})
    assert values_of(folded(*known, found, rules=WITH_PARTS))["city"] == "Bonn"


# ---- rows that other things share --------------------------------------------------------------------------------------------------------

SHARED = replace(WITH_PARTS, shared={"erp": frozenset({"city"})})


def test_what_was_written_for_another_thing_is_news_and_what_was_written_for_this_one_is_not() -> None:
    born = (
        a_change(op="c", ts=1, name="a", city="Ulm"),
        an_entity_row(1, op="c", ts=2, origin=1, name="a", city="Ulm", sums=1),
    )
    edit = a_change(lsn=20, ts=10, name="a", city="Bonn")
    ours = an_entity_row(2, "address", ts=11, origin=10, root=1, sums=2, name="a", city="Bonn")
    theirs = an_entity_row(3, "address", ts=12, origin=12, root=1, sums=3, name="a", city="Köln")
    assert folded(*born, edit, ours, rules=SHARED).end is End.ECHO
    news = folded(*born, edit, ours, theirs, rules=SHARED)
    assert (values_of(news)["city"], record_of(news).targets) == ("Köln", ("crm",))


def test_our_write_that_comes_back_after_the_next_edit_undoes_nothing() -> None:
    born = (
        a_change(op="c", ts=1, name="a", city="Ulm"),
        an_entity_row(1, op="c", ts=2, origin=1, name="a", city="Ulm", sums=1),
    )
    edits = [a_change(lsn=20 + number, ts=10 + number, name="a", city=f"c{number}") for number in range(3)]
    late = an_entity_row(2, "address", ts=500, origin=10, root=1, sums=2, name="a", city="c0")
    done = folded(*born, *edits, late, rules=SHARED)
    assert (values_of(done)["city"], record_of(done).targets) == ("c2", ("erp",))
    last = folded(*born, *edits, late, an_entity_row(3, "address", ts=501, origin=12, root=1, sums=3, name="a", city="c2"), rules=SHARED)
    assert (values_of(last)["city"], last.end) == ("c2", End.ECHO)
    assert last.state is not None
    assert last.state["replicas"]["erp"]["told"] == {}


def test_what_is_never_written_there_cannot_be_ours() -> None:
    """An order that we brought to the ERP changes what its customer has ordered there."""
    rules = replace(WITH_PARTS, written={"crm": FIELDS, "erp": ("name",)}, owners={"city": "erp"})
    born = (a_change(op="c", ts=1, name="a", city=None), an_entity_row(1, op="c", ts=2, origin=1, name="a", city="0", sums=1))
    done = folded(*born, an_entity_row(2, "address", ts=3, origin=3, root=1, sums=2, name="a", city="100"), rules=rules)
    assert (values_of(done)["city"], record_of(done).targets) == ("100", ("crm",))


def test_a_row_that_our_write_made_for_another_thing_is_news_where_this_one_is_never_inserted() -> None:
    """A product that we brought to the ERP has a stock level there at once."""
    rules = replace(RULES, owners=dict.fromkeys(FIELDS, "erp"), exists_owner="erp", written={"crm": FIELDS, "erp": ()}, delete="ignore")
    made = a_change("erp", lsn=1, op="c", key="12", origin=5, name="a", limit="0", city=None)
    assert folded(made, rules=rules).record is None  # taken for the row that a sink was told to make
    done = folded(made, rules=replace(rules, never_inserted=frozenset({"erp"})))
    assert (record_of(done).targets, record_of(done).alive) == (("crm",), True)
    assert record_of(done).values == {"name": "a", "limit": "0", "city": None}  # all of it, also that there is no city


def test_a_row_that_our_write_took_away_is_gone_where_no_sink_deletes_the_thing() -> None:
    rules = replace(RULES, written={"crm": FIELDS, "erp": ()}, exists_owner="erp", never_inserted=frozenset({"erp"}))
    born = a_change("erp", lsn=1, op="c", key="12", name="a"), a_change("crm", op="c", ts=2000, origin=1000, name="a")
    gone = folded(*born, a_change("erp", lsn=2, op="d", ts=3000, key="12", origin=2000), rules=rules)
    assert (record_of(gone).targets, record_of(gone).alive) == (("crm",), False)


def test_an_echo_of_a_row_that_was_there_says_nothing_about_its_being_there() -> None:
    """The CRM deletes an order; our last write to it there comes back later."""
    rules = replace(RULES, never_inserted=frozenset({"crm"}))
    born = a_change(op="c", name="a"), a_change("erp", lsn=1, op="c", ts=1001, key="12", origin=1000, name="a")
    edit, deleted = a_change("erp", lsn=2, ts=2000, key="12", name="b"), a_change("erp", lsn=3, op="d", ts=3000, key="12")
    late = a_change(lsn=20, ts=4000, origin=2000, name="b")
    assert record_of(folded(*born, edit, deleted, rules=rules)).alive is False
    done = folded(*born, edit, deleted, late, rules=rules)
    assert done.state is not None
    assert done.state["exists"][0] is False


# ---- rows that may be other ones after our write -----------------------------------------------------------------------------------------

REVEALED = replace(WITH_PARTS, revealed={"erp": frozenset({"city"})})


def test_what_was_behind_a_row_that_we_deleted_is_news() -> None:
    """The CRM's user takes the address away, the sink deletes it: the ERP has a second one."""
    born = (
        a_change(op="c", ts=1, name="a", city="Ulm"),
        an_entity_row(1, op="c", ts=2, origin=1, name="a", city="Ulm", sums=1),
        a_change(lsn=20, ts=10, name="a", city=None),
    )
    behind = an_entity_row(2, "address", ts=11, origin=10, root=1, sums=2, name="a", city="Bonn")
    done = folded(*born, behind, rules=REVEALED)
    assert (values_of(done)["city"], record_of(done).targets) == ("Bonn", ("crm",))
    assert values_of(folded(*born, behind, rules=WITH_PARTS))["city"] is None


def test_our_own_value_that_comes_back_once_it_was_taken_away_is_no_news() -> None:
    born = (
        a_change(op="c", ts=1, name="a", city="Ulm"),
        an_entity_row(1, op="c", ts=2, origin=1, name="a", city="Ulm", sums=1),
        a_change(lsn=20, ts=10, name="a", city="Bonn"),
        a_change(lsn=21, ts=12, name="a", city=None),
    )
    done = folded(*born, an_entity_row(2, "address", ts=13, origin=10, root=1, sums=2, name="a", city="Bonn"), rules=REVEALED)
    assert (values_of(done)["city"], record_of(done).targets) == (None, ("erp",))


def test_what_a_trigger_made_of_a_value_there_is_no_news() -> None:
    born = (a_change(op="c", ts=1, name="a", city="Ulm"), an_entity_row(1, op="c", ts=2, origin=1, name="a", city="ULM", sums=1))
    assert values_of(folded(*born, rules=REVEALED))["city"] == "Ulm"


def unheard(change: Change) -> Change:
    """Before any row of the part has been heard of."""
    return replace(change, positions={"city": ""})


def test_that_a_part_is_not_there_has_not_been_seen_before_a_row_of_it_has() -> None:
    born = (a_change(op="c", ts=1, name="a", city="Ulm"), unheard(an_entity_row(1, op="c", ts=2, origin=1, name="a", city=None)))
    assert record_of(folded(*born, rules=WITH_PARTS)).seen["erp"] == {"name": "a"}
    gone = an_entity_row(2, "address", ts=3, root=1, sums=2, name="a", city=None)
    assert record_of(folded(*born, gone, rules=WITH_PARTS)).seen["erp"] == {"name": "a", "city": None}


def test_a_shared_row_that_was_emptied_before_it_was_heard_of_is_empty() -> None:
    """We make a row and point at it; somebody empties it, or points elsewhere, before the join has heard of it."""
    born = (a_change(op="c", ts=1, name="a", city="Ulm"), unheard(an_entity_row(1, op="c", ts=2, origin=1, name="a", city=None)))
    emptied = replace(an_entity_row(1, op="c", ts=2, origin=1, name="a", city=None), positions={"city": at(1) + at(5)})
    as_we_left_it = replace(emptied, positions={"city": at(1) + at(1)})
    turned = replace(an_entity_row(6, ts=9, name="a", city=None), positions={"city": at(6)})
    assert values_of(folded(*born, emptied, rules=SHARED))["city"] is None
    assert values_of(folded(*born, turned, rules=SHARED))["city"] is None
    assert values_of(folded(*born, as_we_left_it, rules=SHARED))["city"] == "Ulm"


@pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
def test_a_null_that_came_with_the_owners_row_is_no_decision_so_the_other_systems_value_is_written_there(order: tuple[int, ...]) -> None:
    """Else neither side is told: the one value stands, and the owner's null beside it (seen in the reference example)."""
    born = a_change("erp", 10, "c", 1000, name="a", city="b", limit=None)
    edited = a_change("crm", 10, "u", 2000, key="9", name="a", city="b", limit="67000")
    done = folded(
        *(one for number in order for one in ((born,), (a_change("crm", 5, "c", 1500, key="9", name="a", city="b"), edited))[number])
    )
    assert values_of(done)["limit"] == "67000"
    assert record_of(done).targets == ("erp",)
    assert done.state is not None
    emptied = [
        a_change("erp", 20, "u", 3000, name="a", city="b", limit="5"),
        a_change("erp", 30, "u", 4000, name="a", city="b", limit=None),
    ]
    for change in emptied:
        done = fold("crm:1", done.state, change, RULES)
    assert (values_of(done)["limit"], record_of(done).targets) == (None, ("crm",)), "what the owner empties is decided"
