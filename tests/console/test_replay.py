"""Where a replay begins, as an operator says it, and what its dry run says of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from connectors.sink.anew import Foreseen
from console.foretold import GOLDEN, Foretold, sentence
from console.replay import Plan, Span, Start, Unplayable, start_of

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("earliest", Start(offset=0)),
        ("4711", Start(offset=4711)),
        ("2h", Start(time=NOW - timedelta(hours=2))),
        ("90s", Start(time=NOW - timedelta(seconds=90))),
        ("3d", Start(time=NOW - timedelta(days=3))),
        ("2026-02-28T13:00+01:00", Start(time=datetime(2026, 2, 28, 12, 0, tzinfo=UTC))),
        ("2026-02-28T12:00Z", Start(time=datetime(2026, 2, 28, 12, 0, tzinfo=UTC))),
        ("2026-02-28 12:00", Start(time=datetime(2026, 2, 28, 12, 0, tzinfo=UTC))),
        ("crm.public.account@1/4711", Start(place=("crm.public.account", 1, 4711))),
    ],
)
def test_a_start_is_an_offset_an_age_a_time_or_a_place(said: str, meant: Start) -> None:
    assert start_of(said, NOW) == meant


@pytest.mark.parametrize("said", ["", "yesterday", "-1", "2 h", "2026-13-01", "crm.public.account@1", "h"])
def test_what_is_no_start_is_refused_with_what_would_be_one(said: str) -> None:
    with pytest.raises(Unplayable, match="expected an offset, earliest, "):
        start_of(said, NOW)


def test_a_topic_that_does_not_reach_back_is_named_with_since_when_and_with_what_to_do() -> None:
    oldest = datetime(2026, 2, 27, 8, 30, tzinfo=UTC)
    spans = [Span("crm.public.a", 0, 5, 9, False, oldest), Span("crm.public.b", 0, 0, 3), Span("crm.public.c", 0, 0, 0, False)]
    plan = Plan("crm", Start(offset=0), {f"crm.public.{name}": ("public", name) for name in "abc"}, spans)
    assert plan.short == ["crm.public.a", "crm.public.c"]
    assert plan.records == 7
    told = plan.complaint()
    assert "crm.public.a reaches back since 2026-02-27T08:30:00+00:00 only: concord snapshot crm public.a --vanished" in told
    assert "crm.public.c reaches back no more, nothing is left of it" in told
    assert "crm.public.b" not in told


def test_changes_are_named_up_to_the_limit_and_all_are_counted() -> None:
    foretold = Foretold(limit=2)
    change = Foreseen("customer", "crm:7", "erp", "update", "12", {"name": ("Old", "New")})
    foretold.add([change, change, change, Foreseen("customer", "crm:8", "erp", "nothing"), Foreseen("customer", "crm:9", "erp", "ours")])
    foretold.add([Foreseen("customer", "crm:7", GOLDEN, "nothing")])
    assert (foretold.total, foretold.ours, len(foretold.changes)) == (3, 1, 2)
    assert foretold.to_json()["counts"] == {"erp": {"update": 3, "nothing": 1, "ours": 1}, "golden": {"nothing": 1}}
    assert sentence(change) == "customer crm:7: would change in erp (12): name 'Old' → 'New'"
    screen = Console(record=True, width=160)
    foretold.show(screen)
    assert "… and 1 more (--limit)" in screen.export_text()
