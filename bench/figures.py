"""Numbers of a benchmark, and what may be said of them. No I/O.

A **cell** is one thing that is measured of one contestant (latency at 200 changes/s); it is measured once in each round. What is told of a
metric is the median over the rounds and the lowest and highest of them: its **spread**. The **noise** of a metric is how far the two arms
of an A/A run (the same contestant twice in each round) are apart: what is no further apart than that is no difference.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

CURVE = (0.1, *range(1, 100), 99.5, 99.9, 99.99, 100)  # per cent: what is kept of a distribution, enough to draw it


class Spread(NamedTuple):
    """Of one metric over rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @property
    def relative(self) -> float:
        """Highest − lowest, as a part of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError when there is none."""
    if not values:
        raise ValueError("no values to take the spread of")
    return Spread(statistics.median(values), min(values), max(values), len(values))


def percentile(values: Sequence[float] | np.ndarray[Any, Any], per_cent: float) -> float:
    """The smallest value that so many per cent of all are not above (nearest rank): one that was really measured.

    Raises ValueError when there is none.
    """
    if not len(values):
        raise ValueError("no values to take a percentile of")
    ordered = np.sort(np.asarray(values, dtype=float))
    # a hair less than the product, or 0.29 * 100 would be the 30th
    rank = max(1, int(np.ceil(per_cent * len(ordered) / 100 - 1e-9)))
    return float(ordered[min(rank, len(ordered)) - 1])


def curve(values: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, float]:
    """Per cent → value, at `CURVE`. Keys are text, as JSON has them."""
    ordered = np.sort(np.asarray(values, dtype=float))
    return {f"{at:g}": round(percentile(ordered, at), 4) for at in CURVE} if len(ordered) else {}


def steady_rate(times: Sequence[float] | np.ndarray[Any, Any], lowest: float = 0.1, highest: float = 0.9) -> float:
    """Arrivals a second between the first tenth and the last: without warming up and the ragged end. 0 when it cannot be told."""
    ordered = np.sort(np.asarray(times, dtype=float))
    if len(ordered) < 20:
        return 0.0
    first, last = int(len(ordered) * lowest), int(len(ordered) * highest)
    seconds = float(ordered[last] - ordered[first])
    return (last - first) / seconds if seconds > 0 else 0.0


def per_second(times: Sequence[float] | np.ndarray[Any, Any], width: float = 0.5) -> list[tuple[float, float]]:
    """(seconds since the first, arrivals a second) for each step of `width` seconds; empty ones included."""
    ordered = np.sort(np.asarray(times, dtype=float))
    if not len(ordered):
        return []
    counts = np.bincount(((ordered - ordered[0]) / width).astype(int))
    return [(round(number * width, 2), round(float(count) / width, 1)) for number, count in enumerate(counts)]


def slope(points: Iterable[tuple[float, float]]) -> float:
    """Least squares: how much y grows per x. 0 when it cannot be told."""
    found = list(points)
    if len(found) < 2:
        return 0.0
    x, y = (np.asarray(column, dtype=float) for column in zip(*found, strict=True))
    return float(np.polyfit(x - x[0], y, 1)[0]) if float(np.ptp(x)) > 0 else 0.0


def spreads(measured: Iterable[Mapping[str, Any]]) -> dict[str, Spread]:
    """Metric → its spread, of measurements of one cell of one contestant. Each has `values`, a mapping."""
    found: dict[str, list[float]] = {}
    for one in measured:
        for name, value in one["values"].items():
            if isinstance(value, int | float):
                found.setdefault(name, []).append(float(value))
    return {name: spread(values) for name, values in found.items()}


def noise(first: Spread, second: Spread) -> float:
    """How far two arms of the same thing are apart, as a part of their mean."""
    mean = (first.median + second.median) / 2
    return abs(first.median - second.median) / mean if mean else 0.0
