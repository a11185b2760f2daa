"""What the sink reports besides the metrics that all parts share (`schemas.metrics`).

concord_parked{system, entity}              records that wait for another thing, now
concord_dead_letters{system, entity}        records that cannot be applied as they are, now
concord_sink_retries_total{system}          batches tried again because the database did not answer or asked to
concord_sink_transaction_seconds{system}    from the first statement of a batch's transaction to its commit
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram

from connectors.sink.apply import Outcome
from schemas import metrics as shared
from schemas.metrics import SECONDS_BUCKETS, State

PARKED = Gauge("concord_parked", "Records that wait for another thing", ("system", "entity"))
DEAD_LETTERS = Gauge("concord_dead_letters", "Records that cannot be applied as they are", ("system", "entity"))
RETRIES = Counter("concord_sink_retries", "Batches tried again", ("system",))
TRANSACTION = Histogram("concord_sink_transaction_seconds", "Duration of a batch's transaction", ("system",), buckets=SECONDS_BUCKETS)


class SinkMetrics:
    """The metrics of one system's sink."""

    def __init__(self, system: str) -> None:
        self._system = system
        self._ends: dict[tuple[str, State], Counter] = {}
        self.retries = RETRIES.labels(system)
        self.transaction = TRANSACTION.labels(system)
        self.batch_size = shared.BATCH_SIZE.labels("sink")
        self.lag_events = shared.LAG_EVENTS.labels("sink", system)
        self.lag_seconds = shared.LAG_SECONDS.labels("sink", system)

    def count(self, entity: str, state: State, number: int = 1) -> None:
        counter = self._ends.get((entity, state))
        if counter is None:
            counter = self._ends[entity, state] = shared.EVENTS.labels("sink", self._system, entity, state.value)
        counter.inc(number)

    def ended(self, outcome: Outcome, committed_us: int) -> None:
        """I6: every record by how it ended, once; one that was parked before counts again when it is applied."""
        waiting = {park.task for park in outcome.parks}
        for task in outcome.wrote:
            if task not in waiting:  # else only a part of it was written
                self.count(task.record.entity, State.APPLIED)
            cause = task.record.cause
            if cause.system != self._system:
                seconds = max(committed_us - cause.ts_us, 0) / 1e6
                shared.COMMIT_TO_COMMIT.labels(cause.system, self._system).observe(seconds)
        for end in outcome.ends:
            self.count(end.task.record.entity, end.end)
        for park in outcome.parks:
            if not park.task.woken:
                self.count(park.task.record.entity, State.PARKED)
        for dead in outcome.deads:
            self.count(dead.task.record.entity, State.DEAD)
        for message in outcome.unreadable:
            self.count(message.entity, State.DEAD)

    def waiting(self, parked: Mapping[str, int], dead: Mapping[str, int]) -> None:
        """How many records of each entity are parked and dead now."""
        for gauge, numbers in ((PARKED, parked), (DEAD_LETTERS, dead)):
            for entity, number in numbers.items():
                gauge.labels(self._system, entity).set(number)
