"""Outputs of the streams: handed to librdkafka at once, awaited together.

confluent-kafka does the loops in C; one thread polls for delivery reports and hands the last one of a call back to the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from schemas.errors import Refused, Retriable

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1  # how long the polling thread sleeps at most when nothing is on its way; a report wakes it at once

#: What the broker says no to whenever the same record is sent again.
REFUSALS = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._INVALID_ARG,
    }
)


class Output(NamedTuple):
    """One record to send. A plain tuple of the same shape, shortened from the right, does as well."""

    topic: str
    key: bytes | str | None
    value: bytes | None  # None: a tombstone
    partition: int = -1  # -1: by the hash of the key (murmur2, as Java and Debezium do)
    headers: Sequence[tuple[str, bytes]] | None = None


class DeliveryFailed(Retriable):
    """Kafka did not take a record in time; whether it has it is unknown."""


class Delivered(NamedTuple):
    """Where the records of one partition ended up."""

    first: int  # lowest offset
    last: int  # highest offset

    records: int

    @property
    def contiguous(self) -> bool:
        """Nobody else's record came between."""
        return self.last - self.first + 1 == self.records


class ChunkProducer:
    """`deliver` returns when all that it was given is durable (acks=all, idempotent), and raises if anything is not."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._producer = Producer(
            {
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 0,  # adds itself to the latency and buys nothing: a chunk is a batch already
                "partitioner": "murmur2_random",  # keyed outputs are co-partitioned with what Java clients write
                "socket.nagle.disable": True,  # a small request does not wait until the one before it was answered
                "queue.buffering.max.messages": 1_000_000,
                "queue.buffering.max.kbytes": 65_536,  # a gigabyte by default; a chunk whose outputs are more waits for room
                "delivery.timeout.ms": 120_000,  # a broker that restarts is back well before
                "topic.metadata.refresh.fast.interval.ms": 10,  # first record of a topic: 100 ms by default
                **config,
            },
            logger=logging.getLogger("confluent_kafka"),
        )
        self._closing = False
        self._thread = threading.Thread(target=self._poll, name="producer-poll", daemon=True)
        self._thread.start()

    def _poll(self) -> None:
        while not self._closing or len(self._producer):
            self._producer.poll(POLL_SECONDS)

    async def deliver(self, items: Iterable[Output | tuple[Any, ...]]) -> dict[tuple[str, int], Delivered]:
        """Returns what went where, by (topic, partition). Raises DeliveryFailed (try again) or Refused (never again).

        The order of records of one topic partition is kept, also between calls.
        """
        batch = list(items)
        if not batch:
            return {}
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        offsets: dict[tuple[str, int], list[int]] = {}
        errors: list[tuple[KafkaError, str]] = []
        left = len(batch)

        def settle() -> None:
            if not done.done():
                done.set_result(None)

        def report(error: KafkaError | None, message: Message) -> None:  # only ever called in the polling thread
            nonlocal left
            if error is not None:
                errors.append((error, str(message.topic())))
            else:
                offsets.setdefault((str(message.topic()), message.partition() or 0), []).append(message.offset() or 0)
            left -= 1
            if not left:
                loop.call_soon_threadsafe(settle)

        produce = self._producer.produce
        for item in batch:
            topic, key, value, *more = item
            while True:
                try:
                    produce(
                        topic, value, key, more[0] if more else -1, report, headers=list(more[1]) if len(more) > 1 and more[1] else None
                    )
                    break
                except BufferError:
                    await asyncio.sleep(0.01)  # the queue is full: the polling thread is emptying it
                except KafkaException as exc:
                    # What was sent before it is on its way and stays so: outputs may always come twice.
                    raise _failure(exc.args[0], topic) from exc
        await done
        if errors:
            raise _failure(*errors[0])
        return {tp: Delivered(min(found), max(found), len(found)) for tp, found in offsets.items()}

    def warm(self, topics: Iterable[str], timeout: float = 10.0) -> dict[str, int]:
        """Ask for the metadata of topics, so that the first record needs no round trip for it. Blocks.

        Returns the number of partitions of each; 0 for one that is not there.
        """
        found = {}
        for topic in topics:
            try:
                metadata = self._producer.list_topics(topic, timeout).topics[topic]
            except KafkaException as exc:
                raise _failure(exc.args[0], topic) from exc
            found[topic] = 0 if metadata.error is not None else len(metadata.partitions)
        return found

    def close(self, timeout: float = 2.0) -> None:
        """Send what is queued, for at most `timeout` seconds, then end. Blocks."""
        self._producer.flush(timeout)
        self.discard()
        self._thread.join(timeout)

    def discard(self) -> None:
        """Give up what is queued: every waiting `deliver` fails."""
        self._producer.purge()
        self._closing = True


def _failure(error: KafkaError, topic: str) -> DeliveryFailed | Refused:
    text = f"{topic}: {error.str()} ({error.name()})"
    return Refused(text, error.name()) if error.code() in REFUSALS else DeliveryFailed(text)
