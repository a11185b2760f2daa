"""What the demo prints and by what it decides its exit status."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console

from examples.drive import bars, latency_table, milliseconds, result_table, verdict


def verified(**changed: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "things": 10,
        "equal": 9,
        "differing": 0,
        "missing": {"crm": 0, "erp": 0},
        "in_flight": 0,
        "deleted": 1,
        "adjusted": 0,
        "duplicates": 0,
        "conflicts": 3,
        "parked": 0,
        "dead": 0,
    }
    return {"entities": {"customer": told | changed}, "differences": []}


def printed(*things: Any) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(*things)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_all_equal_ends_with_0() -> None:
    console = Console(file=io.StringIO(), width=160)
    assert verdict(console, verified(), [], show=5) == 0


@pytest.mark.parametrize(
    "changed",
    [{"differing": 1}, {"missing": {"crm": 0, "erp": 1}}, {"in_flight": 1}, {"duplicates": 1}, {"parked": 1}, {"dead": 1}],
    ids=lambda changed: next(iter(changed)),
)
def test_anything_that_is_not_so_ends_with_1(changed: dict[str, Any]) -> None:
    console = Console(file=io.StringIO(), width=160)
    assert verdict(console, verified(**changed), [], show=5) == 1
    assert f"customer: 1 {next(iter(changed))}" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_problem_found_elsewhere_ends_with_1() -> None:
    console = Console(file=io.StringIO(), width=160)
    assert verdict(console, verified(), ["concord up ended with status 70"], show=0) == 1


def test_the_table_has_what_was_verified_and_the_second_opinion() -> None:
    out = printed(result_table(verified(), {"customer": "9 equal, 1 deleted"}))
    assert "9 equal, 1 deleted" in out
    assert out.splitlines()[4].split("│")[1:6] == [" customer ", "     10 ", "     9 ", "         0 ", "       0 "]


def test_bars_count_everything_once() -> None:
    histogram = {0.004: 2.0, 0.009: 5.0, 0.3: 8.0, 60.0: 9.0, math.inf: 10.0}
    assert {step: count for step, count, _ in bars(histogram) if count} == {
        "≤ 5.0 ms": 2, "≤ 10.0 ms": 3, "≤ 500.0 ms": 3, "more": 2,
    }  # fmt: skip
    assert all(bar == "" for _, _, bar in bars({}))


def test_nothing_measured_is_a_dash() -> None:
    assert milliseconds(math.nan) == "–"
    assert "–" in printed(latency_table({("crm", "erp"): {}}))
