"""What is said of measurements: percentiles, rates, spreads, and the noise that an A/A run shows."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import CURVE, curve, noise, per_second, percentile, slope, spread, spreads, steady_rate
from bench.sections import memory

VALUES = st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=300)


@given(VALUES, st.floats(0.001, 100))
def test_a_percentile_is_a_measured_value_with_so_many_not_above_it(values: list[float], at: float) -> None:
    found = percentile(values, at)
    assert found in values
    assert sum(value <= found for value in values) >= at / 100 * len(values) - 1e-6
    assert sum(value < found for value in values) <= at / 100 * len(values) + 1e-6


def test_percentiles_of_a_hundred_values() -> None:
    hundred = list(range(100, 0, -1))
    assert [percentile(hundred, at) for at in (1, 29, 50, 99, 99.5, 100)] == [1, 29, 50, 99, 100, 100]
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


@given(VALUES)
def test_a_curve_only_rises_and_ends_at_the_highest(values: list[float]) -> None:
    drawn = list(curve(values).values())
    assert len(drawn) == len(CURVE)
    assert drawn == sorted(drawn)
    assert drawn[-1] == pytest.approx(max(values), abs=1e-4)
    assert curve([]) == {}


def test_a_rate_leaves_the_ragged_ends_out() -> None:
    steady = [number / 1000 for number in range(10_000)]
    late = [*steady, 60.0]  # one straggler does not change what was sustained
    assert steady_rate(steady) == pytest.approx(1000)
    assert steady_rate(late) == pytest.approx(1000, rel=0.01)
    assert steady_rate(steady[:10]) == 0.0
    assert steady_rate([1.0] * 100) == 0.0


def test_arrivals_over_time_name_the_seconds_without_any() -> None:
    assert per_second([10.0, 10.1, 10.2, 12.0], 0.5) == [(0.0, 6.0), (0.5, 0.0), (1.0, 0.0), (1.5, 0.0), (2.0, 2.0)]
    assert per_second([]) == []


def test_slope_is_how_much_it_grows() -> None:
    assert slope([(hour, 100 + 3 * hour) for hour in range(5)]) == pytest.approx(3)
    assert slope([(1.0, 5.0)]) == slope([(1.0, 5.0), (1.0, 9.0)]) == 0.0


@given(VALUES)
def test_a_spread_holds_its_median(values: list[float]) -> None:
    found = spread(values)
    assert found.low <= found.median <= found.high
    assert found.median == statistics.median(values)
    assert found.rounds == len(values)
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_spreads_are_by_metric_and_noise_is_between_two_arms() -> None:
    first = spreads([{"values": {"p50": 9.0, "who": "x"}}, {"values": {"p50": 11.0}}])
    assert list(first) == ["p50"]
    assert first["p50"].relative == pytest.approx(0.2)
    assert noise(first["p50"], spread([12.0, 10.0])) == pytest.approx(1 / 10.5)
    assert noise(spread([0.0]), spread([0.0])) == 0.0


def test_a_short_run_tells_no_slope_and_a_leak_is_one() -> None:
    assert set(memory.told([(second, 100.0) for second in range(60)])) == {"first", "last", "highest"}
    leaking = memory.told([(second, 100 + 10 * second / 3600) for second in range(3600)])
    assert leaking["slope"] == pytest.approx(10)
    assert leaking["first"] < leaking["last"] < leaking["highest"]
