"""What the streams count, beside the definitions that all parts share (`schemas.metrics`)."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from schemas.metrics import EVENTS, State

PART = "streams"

logger = logging.getLogger(__name__)

_CALLS = {  # what a person may have to look at
    State.DEAD: "%d records of this chunk are dead letters, the first: %s",
    State.DUPLICATE_WAITING: "%d rows of this chunk wait for a match value that another row has; a person must decide; the first: %s",
}


class Ends(Counter[tuple[str, str, State]]):
    """How many events of a chunk ended how: (system, entity, state). And one of each that a person may have to look at, by its name: no
    row contents, no match value, no error text, which may hold either; the topics `dead.*` and `conflicts.*` do."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.examples: dict[State, str] = {}

    def example(self, state: State, name: str) -> None:
        self.examples.setdefault(state, name)


def count(ends: Ends) -> None:
    """Counts events by the state they ended in (I6), and says so in one line where a person may have to act. Call it when their outputs
    are durable: a chunk that fails comes again."""
    for (system, entity, state), number in ends.items():
        EVENTS.labels(PART, system, entity, state.value).inc(number)
    for state, name in ends.examples.items():
        logger.warning(_CALLS[state], sum(number for (_, _, of), number in ends.items() if of is state), name)
