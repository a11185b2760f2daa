"""A value of every type that can be mapped arrives on the other side exactly, both ways, whoever read the log.

`docs/types.md` is the table of it; `python -m tests.roundtrip` writes it anew after a change (it needs what the tests need).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.roundtrip.carried import FORMS, Outcomes, Road
from tests.roundtrip.page import LOST, REFUSED, page
from tests.roundtrip.roads import roads
from tests.roundtrip.values import CASES, rows

DOCS = Path(__file__).resolve().parents[2] / "docs"
Roads = list[Road]


@pytest.fixture(scope="module")
def both_ways(postgres: str, postgres_2: str) -> Iterator[Roads]:
    with roads(postgres, postgres_2) as found:
        yield found


def check(outcomes: Outcomes) -> None:
    for name, of_form in outcomes.items():
        for form, outcome in of_form.items():
            lost = LOST.get((name, form), ())
            wrong = [pair for pair in outcome.wrong if pair[0] not in lost]
            assert wrong == [], f"{name} by {form}: (here, there)"
            assert set(outcome.refused) <= REFUSED.get((name, form), set()), f"{name} by {form}"


def test_the_nasty_values_of_every_type_arrive_and_the_page_says_so(both_ways: Roads) -> None:
    outcomes: Outcomes = {}
    for road in both_ways:
        road.carry(rows(None, 0), outcomes)
    check(outcomes)
    assert set(outcomes) <= set(CASES)
    shown = (DOCS / "types.md").read_text()
    for line in page(outcomes).splitlines():
        assert line in shown, "docs/types.md is not what this run shows: python -m tests.roundtrip writes it"


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1))
def test_any_value_of_every_type_arrives_both_ways_and_in_every_form(both_ways: Roads, seed: int) -> None:
    outcomes: Outcomes = {}
    for road in both_ways:
        road.carry(rows(seed, 12), outcomes)
    check(outcomes)
    assert all(set(of_form) == set(FORMS) for of_form in outcomes.values())
