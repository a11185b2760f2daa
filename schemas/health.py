"""Whether a part is alive and whether it is ready: told by the part, asked over HTTP (`/healthz`, `/readyz`) by whoever restarts or routes.

    alive   its loop turns. A turn takes in all that the part waits for with a deadline: a batch, a chunk of rows, a try to connect. Nothing
            that only somebody else can mend makes a part not alive: while Kafka or a database is down it waits, and its loop turns
    ready   it does its work: the slot is streamed from, tables are recovered and partitions assigned, the target was asked where to go on

One thread writes (the part's own loop), any may read.
"""

from __future__ import annotations

import time
from collections.abc import Callable

# The longest single wait inside a turn is a statement that the target holds up: `lock_timeout` 3 s, a connection 10 s, Kafka's buffer full
# 0.5 s at a time. A loop that has not turned for a minute hangs.
STUCK_SECONDS = 60.0


class Health:
    """What one part tells of itself."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turned = clock()
        self._waits_for: str | None = "starting"

    def turned(self) -> None:
        """The loop has come round once more."""
        self._turned = self._clock()

    def ready(self) -> None:
        self._waits_for = None

    def waits(self, reason: str) -> None:
        """Not ready, for this reason: no row contents, no addresses."""
        self._waits_for = reason

    @property
    def waits_for(self) -> str | None:
        """Why it is not ready; None when it is."""
        return self._waits_for

    @property
    def idle_seconds(self) -> float:
        """Since the loop turned last."""
        return self._clock() - self._turned

    @property
    def alive(self) -> bool:
        return self.idle_seconds < STUCK_SECONDS
