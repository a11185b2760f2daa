"""The page says what its figures say, and the figures leave no difference unexplained. `make parity` writes both anew."""

from __future__ import annotations

import json

from tests.parity.__main__ import DOCS
from tests.parity.events import ABSENT, Event, compare
from tests.parity.page import page, unexplained

REPORT = json.loads((DOCS / "debezium-parity.json").read_text())


def test_the_page_is_what_the_figures_make() -> None:
    assert (DOCS / "debezium-parity.md").read_text() == page(REPORT)


def test_every_difference_has_its_reason() -> None:
    assert unexplained(REPORT) == []


def test_a_difference_without_a_reason_is_told() -> None:
    column = {**REPORT["types"][1], "different": {"times": 1, "in": "stream", "ours": "a", "debezium": "b", "reason": None}}
    assert unexplained({**REPORT, "types": [column]}) == [f"{column['column']} {column['type']}: ours a, Debezium b"]


def an_event(**parts: object) -> Event:
    return Event("public.t", (0, 0), 1, {"key.id": 1, "op": "c", **parts})


def test_events_are_compared_part_by_part_and_none_may_be_missing() -> None:
    found = compare("x", [an_event(a=1), an_event(a=True)], [an_event(a=1), an_event(a=1), an_event()])
    assert (found.ours, found.theirs, found.equal) == (2, 3, 1)
    assert [(one.part, one.ours, one.theirs) for one in found.differences["public.t"]] == [
        ("a", True, 1),
        ("the event", ABSENT, 'c {"id":1}'),
    ]
