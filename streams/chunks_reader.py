"""Reads partitions with librdkafka. Group membership and commits stay with Faust's client; the bytes come this way.

aiokafka decodes every fetch answer in Python, with all partitions in it, also the empty ones: 3 ms of CPU per answer at 144 partitions,
several times what all the rest of a small chunk costs. Here a thread takes what has arrived and hands it to the event loop.

What is handed over is a run of a partition's log, nothing is promised about where it starts: a run that was under way when the reader was
pointed elsewhere still arrives. `Consumer` takes what goes on from where it stands and sends the reader back for the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Message, TopicPartition
from faust.types import TP

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05  # how long the thread sleeps at most when nothing arrives, and a new position waits; a record wakes it at once
HIGHWATER_SECONDS = 0.25  # how often the ends of partitions are looked at
TAKE = 5000  # records per turn
HELD = 4 * TAKE  # records read and not taken; then the thread reads no more, and the client's own buffer fills up (16 MiB)


class Record(NamedTuple):
    """A record as it is in Kafka."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # milliseconds since 1970
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Reader:
    """`point` says which partitions to read from where, `take` gives what has arrived."""

    def __init__(self, config: Mapping[str, Any], loop: asyncio.AbstractEventLoop, fetch_max_wait_ms: int) -> None:
        self._consumer = Consumer(
            {
                "group.id": "unused",  # a must for the client; nothing is subscribed or committed under it
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",  # positions are looked up by the one who keeps them
                "fetch.wait.max.ms": fetch_max_wait_ms,
                "fetch.queue.backoff.ms": 10,  # once a queue was full; a second by default
                "queued.max.messages.kbytes": 16384,
                "socket.nagle.disable": True,  # a small request does not wait until the one before it was answered
                **config,
            },
            logger=logging.getLogger("confluent_kafka"),
        )
        self._loop = loop
        self._reading: set[TP] = set()
        self._moves: deque[tuple[set[TP], dict[TP, int]]] = deque()  # carried out by the thread: a poll elsewhere would block it for long
        self._highwaters: dict[TP, int] = {}
        self._arrived: deque[tuple[TP, list[Record]]] = deque()
        self._read_count, self._taken_count = 0, 0  # of records; the first is the thread's, the second the loop's
        self._taken = threading.Event()
        self._astray: deque[TP] = deque()
        self._some = asyncio.Event()
        self._error: BaseException | None = None  # what ended the thread
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self._thread.start()

    def point(self, positions: Mapping[TP, int], elsewhere: Iterable[TP]) -> None:
        """Read exactly these partitions; those `elsewhere`, and new ones, from the given offset on."""
        gone = self._reading - positions.keys()
        moved = self._reading.intersection(elsewhere) - gone
        fresh = (positions.keys() - self._reading) | moved
        if gone or fresh:
            self._moves.append((gone | moved, {tp: positions[tp] for tp in fresh}))
            self._reading = set(positions)

    def nudge(self) -> None:
        """`take` returns at once, since what was asked for has changed."""
        self._some.set()

    async def take(self, timeout: float) -> tuple[list[tuple[TP, list[Record]]], list[TP]]:
        """Runs of records in the order of their arrival, and partitions whose position is not there any more."""
        if not self._arrived and not self._astray:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._some.wait()
        self._some.clear()
        if self._error is not None:
            raise self._error
        runs = [self._arrived.popleft() for _ in range(len(self._arrived))]
        self._taken_count += sum(len(records) for _, records in runs)
        self._taken.set()
        return runs, [self._astray.popleft() for _ in range(len(self._astray))]

    def highwater(self, tp: TP) -> int | None:
        """The offset of the next record that will be written, as of the last answer; None before the first."""
        return self._highwaters.get(tp)

    def _run(self) -> None:
        try:
            self._read()
        except BaseException as exc:  # the outermost place of this thread
            self._error = exc
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._some.set)

    def _read(self) -> None:
        consumer, read, looked = self._consumer, set[TP](), 0.0
        while not self._closing:
            while self._moves:
                gone, fresh = self._moves.popleft()
                read -= gone
                if gone:
                    consumer.incremental_unassign([TopicPartition(*tp) for tp in gone])
                if fresh:
                    consumer.incremental_assign([TopicPartition(tp.topic, tp.partition, offset) for tp, offset in fresh.items()])
                read |= fresh.keys()
            if time.monotonic() > looked + HIGHWATER_SECONDS:
                looked = time.monotonic()
                found = {tp: consumer.get_watermark_offsets(TopicPartition(*tp), cached=True)[1] for tp in read}
                self._highwaters.update((tp, high) for tp, high in found.items() if high != OFFSET_INVALID)
            if self._read_count - self._taken_count >= HELD:  # the loop is busy, or the flow is stopped: the client holds the rest
                self._taken.wait(POLL_SECONDS)
                self._taken.clear()
                continue
            message = consumer.poll(POLL_SECONDS)
            if message is None:
                continue
            batch = [message, *consumer.consume(TAKE, 0)]  # `consume` with a timeout would wait for all of it
            runs: dict[TP, list[Record]] = {}
            for message in batch:
                tp = TP(message.topic() or "", message.partition() or 0)
                if (error := message.error()) is not None:
                    self._complain(tp, error)
                else:
                    runs.setdefault(tp, []).append(_record(message))
            for tp, records in runs.items():
                self._highwaters[tp] = max(records[-1].offset + 1, self._highwaters.get(tp, 0))
            self._read_count += sum(map(len, runs.values()))
            self._arrived.extend(runs.items())
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._some.set)

    def _complain(self, tp: TP, error: KafkaError) -> None:
        if error.code() not in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            logger.warning("reading %s/%d: %s (%s)", tp.topic, tp.partition, error.str(), error.name())
        if tp.topic:
            self._astray.append(tp)

    def close(self) -> None:
        """Blocks, for a fraction of a second."""
        self._closing = True
        self._thread.join()
        with contextlib.suppress(KafkaException):
            self._consumer.close()


def _record(message: Message) -> Record:
    return Record(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        message.timestamp()[1],
        message.key(),
        message.value(),
        message.headers() or (),  # type: ignore[arg-type]
    )
