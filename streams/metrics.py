"""What the streams count, beside the definitions that all parts share (`schemas.metrics`)."""

from __future__ import annotations

from collections import Counter

from schemas.metrics import EVENTS, State

PART = "streams"

Ends = Counter[tuple[str, str, State]]  # (system, entity, state)


def count(ends: Ends) -> None:
    """Counts events by the state they ended in (I6). Call it when their outputs are durable: a chunk that fails comes again."""
    for (system, entity, state), number in ends.items():
        EVENTS.labels(PART, system, entity, state.value).inc(number)
