"""The transport without a broker: the real consumer, lanes, ledger and table over a Kafka of three dicts, driven by random schedules.

Random run sizes, rebalances (with and without loss of the table), positions forgotten in mid-work, hung handlers, handlers that fail for
a while or on one record for good, deliveries that fail. After every commit: nothing was committed that was not sent and put into the
changelog, in this order (I9). At the end: everything is committed, the table is its changelog is a recomputation, and the poison records,
and only they, were given up.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord
from faust.types import TP
from mode import Service

from schemas.errors import Retriable
from streams.chunks import Forgotten
from streams.chunks_agent import ChunkAgent
from streams.producer import Delivered, DeliveryFailed
from streams.transport import ChunkApp, Consumer

TOPICS, PARTITIONS, KEYS = ("in", "links"), 2, 5
STREAMS = {TP(topic, partition) for topic in TOPICS for partition in range(PARTITIONS)}
FASTER = 2000.0  # the ledger's clock: a back-off of 0.1 s takes 50 µs


class Broker:
    """Three dicts: what may be read, what was sent, what is committed."""

    def __init__(self, rng: random.Random, records: int, poison: set[tuple[TP, int]]) -> None:
        self.rng, self.records, self.poison = rng, records, poison
        self.committed: dict[TP, int] = {}
        self.sent: dict[TP, list[int]] = defaultdict(list)
        self.wrong: list[str] = []
        self.given_up: set[tuple[TP, int]] = set()
        self.changelog: dict[int, list[tuple[str, int | None]]] = defaultdict(list)

    def record(self, tp: TP, offset: int) -> ConsumerRecord[bytes, bytes]:
        value = b"%d" % (offset * len(TOPICS) + TOPICS.index(tp.topic))  # unique per partition number
        return ConsumerRecord(tp.topic, tp.partition, offset, 0, 0, b"k%d" % (offset % KEYS), value, None, 0, 0, ())

    async def later(self) -> None:
        for _ in range(self.rng.randrange(4)):
            await asyncio.sleep(0)


class Thread(Service):
    """Reader and client, reduced to a position per partition that moves on whatever becomes of the records."""

    abstract = True

    def __init__(self, broker: Broker, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.broker = broker
        self.position: dict[TP, int] = {}
        self.reading: set[TP] = set()
        self.late: list[tuple[TP, list[Any]]] = []

    def call(self, work: Any) -> asyncio.Task[Any]:
        return asyncio.ensure_future(work)

    def assignment(self) -> set[TP]:
        return set(STREAMS)

    async def start_offsets(self, tps: set[TP]) -> tuple[dict[TP, int], dict[TP, int]]:
        await self.broker.later()
        found = {tp: self.broker.committed.get(tp, 0) for tp in tps}
        await self.broker.later()
        return found, {}

    async def fetch(self, positions: dict[TP, int], elsewhere: set[TP]) -> tuple[list[tuple[TP, list[Any]]], list[TP]]:
        """The runs of this turn may be those of the turn before: they were under way when the reader was pointed elsewhere."""
        await self.broker.later()
        for tp in positions.keys() - self.reading | elsewhere:
            self.position[tp] = positions[tp]
        self.reading = set(positions)
        found = []
        for tp in sorted(positions):
            start = self.position[tp]
            end = min(start + self.broker.rng.randrange(30), self.broker.records)
            if start < end:
                found.append((tp, [self.broker.record(tp, offset) for offset in range(start, end)]))
                self.position[tp] = end
        if self.broker.rng.random() < 0.1:
            found, self.late = self.late, found
        else:
            found, self.late = self.late + found, []
        await self.broker.later()
        return found, []


class ModelConsumer(Consumer):
    def _new_consumer_thread(self) -> Any:
        return Thread(self.app.broker)  # type: ignore[attr-defined]

    async def _fetch(self, positions: Any, elsewhere: Any, timeout: float) -> Any:
        return await self._thread.fetch(positions, elsewhere)  # type: ignore[attr-defined]

    async def _commit_offsets(self, offsets: Any, start_new_transaction: bool = True) -> bool:
        await self.app.broker.later()  # type: ignore[attr-defined]
        self.app.check_committed(offsets)  # type: ignore[attr-defined]
        self._committed_offset.update(offsets)
        return True


class ModelApp(ChunkApp):
    broker: Broker

    def check_committed(self, offsets: dict[TP, int]) -> None:
        broker = self.broker
        for tp, offset in offsets.items():
            assert offset >= broker.committed.get(tp, 0)
            sent, logged = set(broker.sent[tp]), {value for _, value in broker.changelog[tp.partition]}
            for before in range(offset):
                if (tp, before) in broker.poison:
                    assert (tp, before) in broker.given_up, f"{tp}@{before} was committed and nobody was told"
                else:
                    assert before in sent, f"{tp}@{before} was committed and not sent"
            newest: dict[bytes, int] = {}
            for before in range(offset):
                if (tp, before) not in broker.poison:
                    record = broker.record(tp, before)
                    newest[record.key or b""] = int(record.value or 0)
            assert all(any(seen is not None and seen >= value for seen in logged) for value in newest.values())
            broker.committed[tp] = offset

    async def _deliver(self, items: Any) -> dict[tuple[str, int], Delivered]:
        batch, broker = list(items), self.broker
        await broker.later()
        fails = broker.rng.random() < 0.05
        if fails and broker.rng.random() < 0.5:
            raise DeliveryFailed("none of it")
        delivered: dict[tuple[str, int], list[int]] = defaultdict(list)
        for topic, key, value, *more in batch:
            if topic.endswith("-changelog"):
                log = broker.changelog[more[0]]
                if value is not None:  # I9: what the table knows was sent before
                    number = int(value)
                    tp = TP(TOPICS[number % len(TOPICS)], more[0])
                    if number // len(TOPICS) not in broker.sent[tp]:
                        broker.wrong.append(f"I9: the table runs ahead of what was sent: {tp}")
                log.append((key.decode(), None if value is None else int(value)))
                delivered[topic, more[0]].append(len(log) - 1)
            else:
                broker.sent[key].append(value)
                delivered[topic, 0].append(0)
        await broker.later()
        if fails:
            raise DeliveryFailed("some of it")
        return {tp: Delivered(min(found), max(found), len(found)) for tp, found in delivered.items()}

    def _renew_producer(self) -> None: ...


async def play(seed: int, records: int = 120) -> None:
    rng = random.Random(seed)
    poison = {(TP(rng.choice(TOPICS), rng.randrange(PARTITIONS)), rng.randrange(records)) for _ in range(rng.randrange(3))}
    broker = Broker(rng, records, poison)
    app = ModelApp(f"model{seed}", broker="kafka://127.0.0.1:1", chunk_size=8, broker_rebalance_timeout=0.02)
    app.broker = broker
    newest = app.Table("newest", partitions=PARTITIONS)

    @app.agent(app.chunk_topic(*TOPICS), name="agent")
    async def agent(chunks: Any) -> None:
        async for chunk in chunks:
            log = set(broker.changelog[chunk.partition])
            if not log >= newest.partition(chunk.partition).items():
                broker.wrong.append(f"before {chunk} the table knows what its changelog does not")
            await broker.later()
            fate = rng.random()
            if fate < 0.01:
                await asyncio.Event().wait()  # hangs until it is abandoned
            for record in chunk:
                if (chunk.tp, record.offset) in poison:
                    raise ValueError("poison")
            await app.deliver([("out", chunk.tp, record.offset) for record in chunk])
            for record in chunk:
                key, value = record.key.decode(), int(record.value)
                newest[key] = max(newest.get(key, -1), value)
                if rng.random() < 0.003:
                    raise Retriable("out of reach, half way through")
            await broker.later()
            if fate > 0.97:
                raise Retriable("out of reach, at the end")

    async def give_up(agent: str, record: Any, error: Exception) -> None:
        assert isinstance(error, ValueError)
        broker.given_up.add((TP(record.topic, record.partition), record.offset))

    app.on_poison = give_up
    consumer = ModelConsumer(
        app.transport,
        callback=app.topics.on_message,
        on_partitions_revoked=app._on_partitions_revoked,
        on_partitions_assigned=app._on_partitions_assigned,
    )
    app.consumer = consumer
    app._agents_by_topic = dict.fromkeys(TOPICS, agent)
    consumer.ledger.clock = lambda: asyncio.get_running_loop().time() * FASTER
    consumer._set_active_tps(set(STREAMS))

    async def drain() -> None:
        while True:
            if consumer.flow_active:
                await consumer._drain_once()
            await asyncio.sleep(0)

    def restore(partitions: set[int]) -> None:
        """The partitions were elsewhere and come back: what is in memory is what the changelog says."""
        for partition in partitions:
            newest._partitions.pop(partition, None)
            newest._offsets.pop(partition, None)
            tp = TP("log", partition)
            log = enumerate(broker.changelog[partition])
            newest.recover(
                partition,
                [ConsumerRecord(*tp, n, 0, 0, key.encode(), None if v is None else b"%d" % v, None, 0, 0, ()) for n, (key, v) in log],
            )

    async def rebalance() -> None:
        consumer.stop_flow()
        await consumer.wait_empty()
        consumer._forget_streams()
        if rng.random() < 0.5:
            restore({rng.randrange(PARTITIONS)})
        await broker.later()
        await consumer.perform_seek()
        consumer.resume_flow()

    drainer = asyncio.ensure_future(drain())
    try:
        async with asyncio.timeout(30):
            while any(broker.committed.get(tp, 0) < records for tp in STREAMS):
                for _ in range(rng.randrange(60)):
                    await asyncio.sleep(0)
                assert not drainer.done(), drainer.exception()
                assert not broker.wrong
                if (what := rng.random()) < 0.75:
                    await consumer.commit()
                elif what < 0.85:
                    consumer._forget_streams()  # without waiting for chunks in work
                else:
                    await rebalance()
    finally:
        drainer.cancel()
        for lane in agent.lanes.values():
            await lane.stop()

    assert broker.given_up == poison
    for partition in range(PARTITIONS):
        expected: dict[str, int] = {}
        for tp in sorted(tp for tp in STREAMS if tp.partition == partition):
            for offset in range(records):
                if (tp, offset) not in poison:
                    record = broker.record(tp, offset)
                    key = (record.key or b"").decode()
                    expected[key] = max(expected.get(key, -1), int(record.value or 0))
        assert dict(broker.changelog[partition]) == expected
        assert newest.partition(partition) == expected


@pytest.mark.parametrize("seed", range(40))
async def test_nothing_is_committed_that_was_not_sent_and_logged_whatever_happens(seed: int) -> None:
    logging.getLogger("streams").setLevel(logging.CRITICAL)
    try:
        await play(seed)
    finally:
        logging.getLogger("streams").setLevel(logging.NOTSET)


def test_agents_are_chunk_agents() -> None:
    app = ChunkApp("model", broker="kafka://127.0.0.1:1")

    @app.agent(app.chunk_topic("a", "b"))
    async def fun(chunks: Any) -> None: ...

    assert isinstance(fun, ChunkAgent)
    assert fun.name.endswith("fun")


def test_a_table_is_changed_by_chunks_only() -> None:
    table = ChunkApp("model", broker="kafka://127.0.0.1:1").Table("t", partitions=1)
    with pytest.raises(RuntimeError, match="only be changed while an agent works"):
        table["a"] = 1
    assert "a" not in table
    assert not issubclass(Forgotten, Retriable)
