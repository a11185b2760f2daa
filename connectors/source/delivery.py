"""Records on their way to Kafka, and what the log may be told about them (I1).

What is sent between two `mark`s is a span: a transaction, as a rule. A span is done when Kafka has acknowledged every record of it, in
whatever order; the log position that may be confirmed is that of the last span before which all are done.

    sent      │ span 1: 3 records │ span 2: 1 record │ span 3: 2 records …
    acked     │ 3 of 3            │ 1 of 1           │ 1 of 2
    mark      lsn 100             lsn 140            lsn 180              → 140 may be confirmed

Records are gathered and handed to librdkafka together. A request of its own for each small transaction costs Kafka, and everybody who
reads it, more than the records do; so the reader rests for a moment after it has sent something (`connector.PACE_SECONDS`), and what our
own sinks wrote waits a little for company (`mark`), since nobody is waiting for an echo. What comes after a silence goes at once.

librdkafka hands out acknowledgements to whoever polls it: the sender, in passing while it has work, and now and then while it waits for the
log. (A thread that polled in its place would fight it for the interpreter, and wake it, at every record.)
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from connectors.source import metrics
from schemas.errors import Retriable

logger = logging.getLogger(__name__)

Headers = list[tuple[str, str | bytes | None]]  # as confluent-kafka types them
MAX_BYTES: Final = 64 * 1024 * 1024  # a record; PostgreSQL's values go to 1 GB, Kafka's brokers say 1 MB unless the topic says otherwise
BATCH_BYTES: Final = 900_000  # of one request to a partition: below what a broker takes unless told otherwise
GATHERED: Final = 256  # records that are handed over together, at most
GATHERED_BYTES: Final = 1024 * 1024  # and when they are larger than this

PRODUCER: Final[Mapping[str, Any]] = {
    "acks": "all",
    "enable.idempotence": True,
    "linger.ms": 0,  # waiting would be latency; under load batches form by themselves
    "partitioner": "murmur2_random",  # Java's default, Debezium's: the same key goes to the same partition whoever writes
    "message.timeout.ms": 0,  # never give up: the log waits in the database meanwhile
    "socket.nagle.disable": True,  # a small request does not wait until the one before it was answered
    "queue.buffering.max.messages": 100_000,
    "queue.buffering.max.kbytes": 32_768,  # memory stays flat, however large the transaction
    "message.max.bytes": MAX_BYTES,
    "batch.size": BATCH_BYTES,
    "topic.metadata.propagation.max.ms": 30_000,
}


class _Span:
    """Records sent between two marks. Neither count goes back."""

    __slots__ = ("acknowledged", "delivery", "lsn", "sent")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.sent = 0
        self.acknowledged = 0
        self.lsn: int | None = None  # None while it is open

    def delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.delivery.refused(self, error, message)
            return
        self.acknowledged += 1

    @property
    def done(self) -> bool:
        return self.lsn is not None and self.acknowledged == self.sent


class Delivery:
    """Sends records and knows what Kafka has. For one thread."""

    def __init__(
        self,
        system: str,
        settings: Mapping[str, Any],
        relieve: Callable[[], None] = lambda: None,
        dead_letter: Callable[[str, bytes | None, str], tuple[str, bytes]] | None = None,
    ) -> None:
        self._dead_letter = dead_letter  # (topic, key, error) → (topic, value) of what takes the place of a record too large for Kafka
        self._relieve = relieve  # called now and then while the buffer is full: the database must hear from us
        self._producer = Producer({**PRODUCER, **settings}, logger=logger)
        self._spans: deque[_Span] = deque([_Span(self)])
        self._failure: str | None = None
        self._gathered: list[tuple[_Span, str, bytes | None, bytes | None, Headers | None]] = []
        self._gathered_bytes = 0
        self._due = math.inf  # by the monotonic clock, when what was gathered is handed over
        self._sent = metrics.SENT.labels(system)
        self._acknowledged = metrics.ACKNOWLEDGED.labels(system)
        self._unacknowledged = metrics.UNACKNOWLEDGED.labels(system)
        self.reached = 0  # what may be confirmed

    def send(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers | None) -> None:
        """Takes the record; waits while the buffer is full. Raises Retriable when Kafka has refused one before."""
        span = self._spans[-1]
        span.sent += 1
        self._gathered.append((span, topic, key, value, headers))
        self._gathered_bytes += len(value or b"")
        if len(self._gathered) >= GATHERED or self._gathered_bytes >= GATHERED_BYTES:
            self._hand_over()
            self.poll()
            self.check()

    def release(self) -> float:
        """Hands over what was gathered if its time has come; returns in how many seconds that is, 0 if it was now. inf: nothing waits."""
        if not self._gathered:
            return math.inf
        left = self._due - time.monotonic()
        if left > 0:
            return left
        self._hand_over()
        return 0.0

    def _hand_over(self) -> None:
        gathered, self._gathered, self._gathered_bytes, self._due = self._gathered, [], 0, math.inf
        for record in gathered:
            self._produce(*record)

    def _produce(self, span: _Span, topic: str, key: bytes | None, value: bytes | None, headers: Headers | None) -> None:
        while True:
            try:
                if headers is None:
                    self._producer.produce(topic, value, key, on_delivery=span.delivered)
                else:
                    self._producer.produce(topic, value, key, on_delivery=span.delivered, headers=headers)
                return
            except BufferError:
                self._relieve()
                self._producer.poll(0.5)  # returns with the first acknowledgement
                self.check()
            except KafkaException as error:
                if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE and self._dead_letter is not None:
                    self._bury(span, topic, key, error.args[0])
                    return
                raise Retriable(f"sending to {topic}: {error.args[0]}") from error

    def mark(self, lsn: int, may_wait: float = 0.0) -> None:
        """Everything sent so far belongs to what ends at `lsn` in the log; it may wait that many seconds for more to go with it.

        While Kafka does not answer, the log goes on with much that is none of ours; where nothing was sent in between, two marks are one,
        so that no more spans are kept than records.
        """
        span = self._spans[-1]
        if self._gathered:
            self._due = min(self._due, time.monotonic() + may_wait) if may_wait else 0.0
        if span.sent == 0 and len(self._spans) > 1:
            self._spans[-2].lsn = lsn  # I1: nothing of ours lies between
            return
        span.lsn = lsn
        self._spans.append(_Span(self))

    def advance(self) -> int:
        """The log position up to which Kafka has everything; 0 before the first. Raises Retriable when Kafka has refused a record."""
        self.check()
        spans = self._spans
        while spans[0].done:
            span = spans.popleft()
            assert span.lsn is not None
            self.reached = max(self.reached, span.lsn)  # I1
            self._sent.inc(span.sent)
            self._acknowledged.inc(span.acknowledged)
        return self.reached

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way and nothing is open. Only after `advance`."""
        return len(self._spans) == 1 and self._spans[0].sent == 0

    def poll(self) -> None:
        """Takes in the acknowledgements that are there."""
        self._producer.poll(0)

    def refused(self, span: _Span, error: KafkaError, message: Message) -> None:
        """A record that Kafka did not take: one that is too large is dead (I8), anything else ends the stream, to be opened again.

        A broker refuses a batch as a whole; but a record beyond the size of a batch travels alone, and a smaller one is not to blame.
        """
        key = message.key()
        too_large = error.code() == KafkaError.MSG_SIZE_TOO_LARGE and len(message) > BATCH_BYTES - 1000
        if too_large and self._dead_letter is not None and (key is None or isinstance(key, bytes)):
            try:
                self._bury(span, message.topic() or "", key, error)
                return
            except (BufferError, KafkaException) as again:
                logger.warning("a dead letter of %s could not be sent: %s", message.topic(), again)
        if self._failure is None:
            hint = f" (max.message.bytes of the topic must be over {BATCH_BYTES})" if error.code() == KafkaError.MSG_SIZE_TOO_LARGE else ""
            self._failure = f"Kafka refused a record of {message.topic()}: {error}{hint}"

    def _bury(self, span: _Span, topic: str, key: bytes | None, error: KafkaError) -> None:
        """Sends the dead letter in the record's place: the span is done when Kafka has that."""
        assert self._dead_letter is not None
        dead_topic, value = self._dead_letter(topic, key, str(error))
        self._producer.produce(dead_topic, value, key, on_delivery=span.delivered)

    def check(self) -> None:
        if self._failure is not None:
            raise Retriable(self._failure)

    def forget(self) -> None:
        """Starts again after the stream was opened anew: what is still on its way will come a second time."""
        self._spans = deque([_Span(self)])
        self._failure = None
        self._gathered, self._gathered_bytes, self._due = [], 0, math.inf

    def measure(self) -> None:
        self._unacknowledged.set(len(self._producer) + len(self._gathered))

    def flush(self, seconds: float) -> None:
        """Waits until Kafka has everything, at most that long."""
        self._hand_over()
        self._producer.flush(seconds)

    def close(self) -> None:
        """What is not sent by now is dropped: the log still has it."""
        self._producer.purge()
        self._producer.flush(1.0)
