"""Which thing is this row, who owns a match value: the pure steps of intake and identify."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.change import Op
from streams.claims import Owner, on_claim
from streams.rows import KEPT_PENDING, Known, Place, RowChange, on_answer, on_event, on_moved

HERE = Place("crm", "public.account", 1)


def at(number: int) -> str:
    return f"{number:032X}"


def an_event(number: int = 1, op: str = "c", match: str | None = "V", key: str = "7", **more: Any) -> RowChange:
    values = None if op == "d" else {"code": match, "name": f"n{number}"}
    return RowChange(key, Op(op), at(number), number, None, values, None if op == "d" else match, **more)


def a_claim(system: str = "crm", key: str = "7", link: str | None = None, op: str = "claim", **more: Any) -> dict[str, Any]:
    about = {"op": op, "system": system, "key": key, "table": f"public.{system}", "partition": 0, "at": at(1), "link": link}
    return {**about, **({"born": True} if op != "release" else {"moved": False}), **more}


def after(*messages: dict[str, Any]) -> tuple[Owner, list[tuple[str, str, str | None]]]:
    """The owner after these, and all answers: (system, key, link)."""
    owner: Owner | None = None
    answers = []
    for message in messages:
        decided = on_claim(owner, message)
        owner = decided.owner
        answers += [(answer.system, answer.key, answer.link) for answer in decided.answers]
    assert owner is not None
    return owner, answers


# ---- rows ------------------------------------------------------------------------------------------------------------------------


def test_a_row_without_match_value_is_named_by_its_system() -> None:
    step = on_event(None, an_event(match=None), HERE, True, None)
    assert [link for link, _ in step.changes] == ["crm:7"]
    assert step.claims == ()


def test_a_row_with_a_match_value_waits_for_the_answer_and_its_events_with_it() -> None:
    first = on_event(None, an_event(1), HERE, True, None)
    second = on_event(first.known, an_event(2, "u"), HERE, True, None)
    assert (first.changes, second.changes) == ((), ())
    assert [(value, claim["op"], claim["link"]) for value, claim in first.claims] == [("V", "claim", None)]
    assert second.claims == ()
    answered = on_answer(second.known, "erp:12", "V", at(1), HERE, "7", in_force="erp:12")
    assert [(link, change.position) for link, change in answered.changes] == [("erp:12", at(1)), ("erp:12", at(2))]
    assert on_answer(answered.known, "erp:12", "V", at(1), HERE, "7").changes == ()  # the answer twice


def test_an_event_twice_waits_once_and_is_told_again_when_the_link_is_known() -> None:
    first = on_event(None, an_event(1), HERE, True, None)
    assert on_event(first.known, an_event(1), HERE, True, None).known == first.known
    known = on_answer(first.known, "crm:7", "V", at(1), HERE, "7", in_force="crm:7").known
    again = on_event(known, an_event(1), HERE, True, None)
    assert [link for link, _ in again.changes] == ["crm:7"]  # merge knows it is old
    assert again.claims == ()


def test_the_crosswalk_is_believed_before_anything_else() -> None:
    step = on_event(None, an_event(), HERE, True, "erp:12")
    assert [link for link, _ in step.changes] == ["erp:12"]
    assert [claim["link"] for _, claim in step.claims] == ["erp:12"]


def test_a_changed_match_value_is_claimed_anew_and_never_changes_what_the_row_is() -> None:
    known = on_event(None, an_event(), HERE, True, "erp:12").known
    step = on_event(known, an_event(2, "u", match="W"), HERE, True, None)
    assert [link for link, _ in step.changes] == ["erp:12"]
    assert [(value, claim["op"], claim.get("moved")) for value, claim in step.claims] == [("W", "claim", None), ("V", "release", True)]


def test_a_deleted_row_lets_its_value_go_and_is_remembered() -> None:
    known = on_event(None, an_event(), HERE, True, "erp:12").known
    step = on_event(known, an_event(2, "d"), HERE, True, None)
    assert [(value, claim["op"], claim["moved"]) for value, claim in step.claims] == [("V", "release", False)]
    back = on_event(step.known, an_event(3, "u"), HERE, True, None)
    assert [(link, change.op) for link, change in back.changes] == [("erp:12", Op.CREATE)]  # it is there again
    assert [claim["op"] for _, claim in back.claims] == ["claim"]


def test_what_is_not_in_scope_and_never_was_is_out_of_scope() -> None:
    assert on_event(None, an_event(op="d"), HERE, True, None) == (None, (), (), True)


def test_a_row_that_may_not_be_born_here_waits_for_its_thing() -> None:
    assert on_event(None, an_event(match=None), HERE, False, None).out_of_scope
    step = on_event(None, an_event(), HERE, False, None)
    assert step.out_of_scope
    assert [claim["born"] for _, claim in step.claims] == [False]
    assert len(on_answer(step.known, "erp:12", "V", at(1), HERE, "7", in_force="erp:12").changes) == 1


def test_a_row_whose_thing_has_another_row_here_refuses_and_waits_on() -> None:
    known = on_event(None, an_event(), HERE, True, None).known
    step = on_answer(known, "erp:12", "V", at(1), HERE, "7", in_force=None)
    assert (step.known, step.changes) == (known, ())
    assert [(claim["op"], claim["not"], claim["link"]) for _, claim in step.claims] == [("refuse", "erp:12", None)]


def test_a_row_that_a_sink_gave_another_link_first_keeps_it_and_tells_identify() -> None:
    known = on_event(None, an_event(), HERE, True, None).known
    answered = on_answer(known, "erp:12", "V", at(1), HERE, "7", in_force="erp:15")
    assert [link for link, _ in answered.changes] == ["erp:15"]
    assert [(value, claim["op"], claim["not"], claim["link"]) for value, claim in answered.claims] == [("V", "refuse", "erp:12", "erp:15")]
    again = on_answer(answered.known, "erp:12", "V", at(1), HERE, "7")
    assert (again.changes, again.claims) == ((), answered.claims)  # the answer twice


def test_a_refused_value_that_no_other_row_holds_goes_to_whom_the_row_is() -> None:
    granted = on_claim(None, a_claim("crm", "7"))
    refused = on_claim(granted.owner, a_claim("crm", "7", op="refuse", link="erp:15", **{"not": "crm:7"}))
    assert (refused.owner["link"], refused.owner["slots"], refused.owner["waiting"]) == ("erp:15", {"crm": "7"}, [])


def test_a_row_whose_name_is_another_things_is_the_first_of_a_thing_with_another_name() -> None:
    granted = on_claim(None, a_claim("crm", "7"))
    refused = on_claim(granted.owner, a_claim("crm", "7", op="refuse", **{"not": "crm:7"}))
    (answer,) = refused.answers
    assert answer.link == refused.owner["link"] == f"crm@{answer.at}:7"


def test_a_claim_that_was_let_go_before_it_was_granted_forgets_the_row() -> None:
    known = on_event(on_event(None, an_event(1), HERE, True, None).known, an_event(2, "d"), HERE, True, None).known
    assert known is not None
    assert on_answer(known, None, "V", at(2), HERE, "7").known is None


def test_a_key_that_its_row_has_left_lets_its_value_go_and_deletes_nothing() -> None:
    known = on_event(None, an_event(), HERE, True, "erp:12").known
    step = on_moved(known, an_event(2, "d"), HERE)
    assert step.changes == ()
    assert [claim["op"] for _, claim in step.claims] == ["release"]


@given(st.integers(1, 100))
def test_what_waits_is_bounded_and_keeps_the_first_and_the_last(count: int) -> None:
    known: Known | None = None
    for number in range(1, count + 1):
        known = on_event(known, an_event(number, "c" if number == 1 else "u"), HERE, True, None).known
    assert known is not None
    pending = known["pending"]
    assert len(pending) <= KEPT_PENDING
    assert (pending[0]["pos"], pending[-1]["pos"]) == (at(1), at(count))
    assert pending[-1]["values"]["name"] == f"n{count}"


# ---- claims ----------------------------------------------------------------------------------------------------------------------


def test_two_births_in_two_systems_get_one_link() -> None:
    _, answers = after(a_claim("crm", "7"), a_claim("erp", "12"))
    assert answers == [("crm", "7", "crm:7"), ("erp", "12", "crm:7")]


def test_a_second_row_of_a_system_waits_until_the_first_is_gone() -> None:
    _, answers = after(a_claim(key="7"), a_claim(key="8"), a_claim(key="8"), a_claim(key="7", op="release"))
    assert answers == [("crm", "7", "crm:7"), ("crm", "8", "crm:7")]
    assert on_claim(on_claim(None, a_claim(key="7")).owner, a_claim(key="8")).duplicate is not None


def test_a_value_stays_with_its_link_when_its_rows_are_deleted() -> None:
    _, answers = after(a_claim(key="7"), a_claim(key="7", op="release"), a_claim("erp", "12"))
    assert answers[-1] == ("erp", "12", "crm:7")


def test_a_value_that_all_rows_have_left_is_free_for_another_thing() -> None:
    owner, answers = after(
        a_claim("crm", "7"),
        a_claim("erp", "12"),
        a_claim("crm", "7", "crm:7", "release", moved=True),
        a_claim("crm", "8"),  # its thing is not known until the ERP's row has followed
        a_claim("erp", "12", "crm:7", "release", moved=True),
    )
    assert answers[2:] == [("crm", "8", "crm:8")]
    assert (owner["link"], owner["waiting"]) == ("crm:8", [])


def test_a_value_of_another_thing_is_a_duplicate_for_a_person() -> None:
    decided = on_claim(after(a_claim("crm", "7"))[0], a_claim("erp", "30", link="erp:30"))
    assert decided.answers == ()
    assert decided.duplicate is not None
    assert decided.duplicate["key"] == "30"


def test_a_refused_row_waits_for_another_thing_and_a_refusal_twice_changes_nothing() -> None:
    refuse = {**a_claim("crm", "7", op="refuse"), "not": "erp:12"}
    owner, answers = after(a_claim("erp", "12", "erp:12"), a_claim("crm", "7"), refuse, refuse)
    assert answers == [("crm", "7", "erp:12")]
    assert [claim["key"] for claim in owner["waiting"]] == ["7"]
    free = on_claim(owner, a_claim("erp", "12", "erp:12", "release", moved=True))
    assert [(answer.key, answer.link) for answer in free.answers] == [("7", "crm:7")]


def test_a_row_that_may_not_be_the_first_of_a_thing_waits_for_the_first() -> None:
    _, answers = after(a_claim("erp", "12", born=False), a_claim("crm", "7"))
    assert answers == [("crm", "7", "crm:7"), ("erp", "12", "crm:7")]


@given(st.lists(st.tuples(st.sampled_from(["claim", "release"]), st.sampled_from(["crm", "erp"]), st.sampled_from("1234")), max_size=20))
def test_a_slot_has_one_row_and_nobody_waits_for_a_free_one(messages: list[tuple[str, str, str]]) -> None:
    owner: Owner | None = None
    for op, system, key in messages:
        before = owner
        owner = on_claim(before, a_claim(system, key, op=op)).owner
        assert on_claim(owner, a_claim(system, key, op=op)).owner == owner  # twice is once
        waiting = {(claim["system"], claim["key"]) for claim in owner["waiting"]}
        assert len(waiting) == len(owner["waiting"])
        assert all(system in owner["slots"] for system, _ in waiting)
        assert not waiting & set(owner["slots"].items())
