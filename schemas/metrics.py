"""Prometheus metrics that more than one part reports, under one definition each, and how to read them back.

    concord_events_total{part, system, entity, state}          every event by its end state (I6); system: a sink's is the one written to
    concord_conflicts_total{entity, rule}                      writes that lost against another system's
    concord_commit_to_commit_seconds{from_system, to_system}   commit of a change in one system → commit of it in the other
    concord_lag_events{part, system}                           events that are there and not handled yet
    concord_lag_seconds{part, system}                          age of the event handled last, while there are more; 0 when there are none
    concord_retained_wal_bytes{system}                         log that the database keeps for our slot
    concord_batch_size{part}                                   events handled at once

What only one part reports is defined beside that part (`connectors/source/metrics.py`, …). `console.metrics` serves them all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from prometheus_client import Counter, Gauge, Histogram


class State(StrEnum):
    """How an event ended (I6). The value is the label."""

    APPLIED = "applied"  # the system's row holds it
    SUPERSEDED = "superseded"  # something newer was applied before
    PARKED = "parked"  # waits for another thing to be there
    OUT_OF_SCOPE = "out_of_scope"  # its row is none of ours by the configuration
    DEAD = "dead"  # cannot be applied as it is; in the dead letters with its reason
    ECHO = "echo"  # our own write, seen in the log
    UNCHANGED = "unchanged"  # says nothing that was not known
    DUPLICATE_WAITING = "duplicate_waiting"  # a second row with a match value that another row of its system holds


# 0.5 ms … 60 s, each a fifth wider than the one before: a quantile read from them is off by a tenth at most, usually by a hundredth.
SECONDS_BUCKETS: tuple[float, ...] = (*(float(f"{0.0005 * 1.2**step:.3g}") for step in range(64)), 60.0)
SIZE_BUCKETS: tuple[float, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)

EVENTS = Counter("concord_events", "Events by the state they ended in", ("part", "system", "entity", "state"))
CONFLICTS = Counter("concord_conflicts", "Writes that lost against another system's write to the same field", ("entity", "rule"))
COMMIT_TO_COMMIT = Histogram(
    "concord_commit_to_commit_seconds",
    "From the commit of a change in one system to the commit of it in the other",
    ("from_system", "to_system"),
    buckets=SECONDS_BUCKETS,
)
LAG_EVENTS = Gauge("concord_lag_events", "Events that are there and not handled yet", ("part", "system"))
LAG_SECONDS = Gauge("concord_lag_seconds", "Age of the event handled last while there are more, else 0", ("part", "system"))
RETAINED_WAL = Gauge("concord_retained_wal_bytes", "Write-ahead log that the database keeps for our slot", ("system",))
BATCH_SIZE = Histogram("concord_batch_size", "Events handled at once", ("part",), buckets=SIZE_BUCKETS)


def quantile(buckets: Mapping[float, float] | Iterable[tuple[float, float]], q: float) -> float:
    """The value below which the share `q` (0 … 1) of what a histogram counted lies.

    `buckets`: upper bound → count of everything up to it, as Prometheus exposes them (`le` may be +Inf).
    Between two bounds the counts are taken as evenly spread over the logarithm.
    NaN when nothing was counted; the highest finite bound when the answer is beyond it.
    """
    ordered: Sequence[tuple[float, float]] = sorted(buckets.items() if isinstance(buckets, Mapping) else buckets)
    if not ordered or ordered[-1][1] <= 0:
        return math.nan
    rank = q * ordered[-1][1]
    low, below = 0.0, 0.0
    for bound, count in ordered:
        if count >= rank and count > below:
            if math.isinf(bound):
                return low
            share = (rank - below) / (count - below)
            return bound * share if low <= 0 else low * (bound / low) ** share
        low, below = bound, count
    return low


def added(*histograms: Mapping[float, float]) -> dict[float, float]:
    """Several histograms with the same bounds as one: for the same quantity from several processes."""
    total: dict[float, float] = {}
    for histogram in histograms:
        for bound, count in histogram.items():
            total[bound] = total.get(bound, 0.0) + count
    return total


def since(now: Mapping[float, float], before: Mapping[float, float]) -> dict[float, float]:
    """What a histogram counted between two readings; all of it when the process was started anew between them."""
    anew = sum(now.values()) < sum(before.values())
    return {bound: count - (0.0 if anew else before.get(bound, 0.0)) for bound, count in now.items()}
