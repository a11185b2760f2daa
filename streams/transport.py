"""Hands Faust agents whole chunks of records: our transport on top of Faust's.

    app = ChunkApp("concord", bootstrap="127.0.0.1:9092")
    seen = app.Table("seen", partitions=4)

    @app.agent(app.chunk_topic("crm.public.account", "links.crm.public.account"))
    async def account(chunks):
        async for chunk in chunks:                       # records of ONE partition of one topic, in order
            await app.deliver((OUT, r.key, r.value) for r in chunk)
            seen[key] = ...
        # asking for the next chunk = this one is finished

    async def dead_letter(agent, record, error): await app.deliver([("dead.crm", record.key, record.value)])
    app.on_poison = dead_letter                          # else a record that keeps failing holds its partition

Where a record goes:

    the reader's thread Reader (librdkafka) ── a run of a partition ────┐          (aiokafka, in a thread: membership, commits)
                                                                        ▼
    the event loop      Consumer._drain_once ── Ledger.hand_out ── chunks ──▶ Lane (one per agent and partition number) ──▶ your function
                            ▲                                                   │ deliver: outputs ──┐
                            └── changelog runs ──▶ ChunkRecovery ──▶ ChunkTable │ flush: table ──────┤ ChunkProducer (librdkafka)
                                                                                ▼                    │
                        Faust commits what Ledger.committable allows  ◀── finish ◀── durable ────────┘

Subclasses of Faust's parts, given to it as settings, nothing is patched; tests/streams/test_guard.py says what of Faust this leans on and
when a new version has moved it. Why it is done so: docs/decisions/0001-chunks-through-faust.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import faust
from aiokafka.errors import ConsumerStoppedError, KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from schemas.errors import ConcordError, MappingError, Retriable, SchemaError
from schemas.health import Health as PartHealth
from streams.chunks import FAUST_LOGGER, Chunk, Forgotten, Ledger, current_chunk
from streams.chunks_agent import ChunkAgent, Handler, Lane
from streams.chunks_reader import Reader, Record
from streams.chunks_table import ChunkRecovery, ChunkTable, ChunkTableManager, GroupedTable, changelog_records
from streams.producer import ChunkProducer, Delivered, DeliveryFailed, Output

__all__ = [
    "Chunk",
    "ChunkApp",
    "ChunkTable",
    "DeliveryFailed",
    "Forgotten",
    "GroupedTable",
    "Handler",
    "Health",
    "Output",
    "Record",
    "UnfitTopics",
    "run_worker",
]

logger = logging.getLogger(__name__)

IDLE_SECONDS = 0.5  # a fetch that finds nothing returns after this; being fetched from keeps aiokafka in the group
CAUGHT_UP_SECONDS = 0.1  # how often it is asked how far other workers are, and whether the chunk in hand is still ours
REWIND_TRIES = 5  # a commit that comes to nothing, since the group changes: the new owner does it
WATCH_SECONDS = 0.5  # between two looks at a worker's health
STOP_SECONDS = 2.0  # what chunks in work get to end in when the worker stops

OnPoison = Callable[[str, Any, Exception], Awaitable[None]]


class UnfitTopics(ConcordError):
    """A topic that must be there before the streams start is not, or has another number of partitions than it needs."""


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """aiokafka in a thread of its own, so that heartbeats go on while the event loop works. It reads no records (`Reader`)."""

    logger = FAUST_LOGGER

    def call(self, work: Awaitable[Any]) -> asyncio.Future[Any]:
        """Run a coroutine in the thread; cheaper than Faust's method queue, and it can be cancelled."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(cast(Any, work), self.thread_loop))

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        consumer = self._ensure_consumer()
        consumer.pause(*consumer.assignment())  # the reader reads; aiokafka is our membership of the group
        await super().on_partitions_assigned(assigned, generation_id)

    def keep_alive(self) -> None:
        """Tell aiokafka that we read, else it takes us for stuck and leaves the group."""
        with self._ensure_consumer()._subscription.fetch_context():
            pass

    async def ends(self, topics: Iterable[str]) -> dict[TP, int]:
        """The offset after the last record of each partition, as the broker has it now."""
        consumer = self._ensure_consumer()
        tps = [driver.ensure_aiokafka_TP(TP(topic, number)) for topic in topics for number in consumer.partitions_for_topic(topic) or ()]
        return {TP(*tp): offset for tp, offset in (await consumer.end_offsets(tps)).items()}

    async def committed(self, tps: Iterable[TP]) -> dict[TP, int]:
        """Up to where whoever reads them has finished; 0: not at all."""
        consumer, asked = self._ensure_consumer(), list(tps)
        found = await asyncio.gather(*(consumer.committed(driver.ensure_aiokafka_TP(tp)) for tp in asked))
        return {tp: offset or 0 for tp, offset in zip(asked, found, strict=True)}

    async def start_offsets(self, tps: Iterable[TP]) -> tuple[dict[TP, int], dict[TP, int]]:
        """Where to start reading: the committed offset, else by auto_offset_reset, but never before the first record there is.

        Second: how many records were deleted by retention before they were read.
        """
        consumer = self._ensure_consumer()
        asked = [driver.ensure_aiokafka_TP(tp) for tp in tps]
        committed, first = await asyncio.gather(
            asyncio.gather(*(consumer.committed(tp) for tp in asked)),
            consumer.beginning_offsets(asked),
        )
        found, lost = {}, {}
        unknown = [tp for tp, offset in zip(asked, committed, strict=True) if offset is None]
        ends = await consumer.end_offsets(unknown) if unknown and self.app.conf.consumer_auto_offset_reset == "latest" else first
        for tp, offset in zip(asked, committed, strict=True):
            start = ends[tp] if offset is None else offset
            if start < first[tp]:
                lost[TP(*tp)] = first[tp] - start
            found[TP(*tp)] = max(start, first[tp])
        return found, lost


class Consumer(driver.Consumer):
    """Faust's consumer with the ledger as the one owner of what was read, finished and may be committed."""

    logger = FAUST_LOGGER

    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ledger = Ledger(cast("ChunkApp", self.app).chunk_size)
        self._reader: Reader | None = None
        self._gaps: dict[TP, tuple[int, int]] = {}
        self.settled = asyncio.Event()  # a lane put down its chunk
        self.advanced = asyncio.Event()  # a chunk was finished

    def _new_consumer_thread(self) -> ConsumerThread:
        running = type(asyncio.get_running_loop())
        loop = running() if running.__module__.startswith("uvloop") else None  # the thread gets the same kind of loop
        thread = ConsumerThread(self, loop=self.loop, beacon=self.beacon, thread_loop=loop)
        if loop is not None:
            thread._close_thread_loop_on_stop = True
        return thread

    @property
    def reader(self) -> Reader:
        if self._reader is None:
            self._reader = cast("ChunkApp", self.app).new_reader()
        return self._reader

    def nudge(self) -> None:
        """What is to be read has changed."""
        if self._reader is not None:
            self._reader.nudge()

    async def on_shutdown(self) -> None:
        await super().on_shutdown()
        if self._reader is not None:
            await asyncio.to_thread(self._reader.close)

    # what the lanes report ----------------------------------------------------------------------------------------------------------

    def begin(self, chunk: Chunk) -> None:
        was_full = not self.ledger.wants(chunk.tp)
        self.ledger.begin(chunk)
        if was_full:
            self.nudge()

    def finish(self, chunk: Chunk) -> None:
        if self.ledger.finish(chunk):
            self._n_acked += len(chunk)
            self.advanced.set()

    def give_back(self, agent: str, chunk: Chunk, error: BaseException, *, retriable: bool) -> None:
        """The agent failed: the chunk comes back, later."""
        failure = self.ledger.give_back(chunk, error, retriable=retriable)
        self.nudge()
        if failure is not None:
            wait = max(0.0, failure.until - self.ledger.clock())
            kind = type(error).__name__
            traced = None if isinstance(error, MappingError | SchemaError) else error  # their texts hold values of rows
            logger.error(
                "agent %s failed on %r (%s, %d in a row), again in %.1f s", agent, chunk, kind, failure.count, wait, exc_info=traced
            )

    # waiting for other partitions ---------------------------------------------------------------------------------------------------

    async def ends(self, topics: Iterable[str]) -> dict[TP, int]:
        found: dict[TP, int] = await self._thread.call(self._thread.ends(topics))
        return found

    async def unfinished(self, ends: Mapping[TP, int]) -> dict[TP, int]:
        """Which of these partitions have a record before that offset that is not finished, here or in the worker that reads it."""
        ours = self.assignment()
        positions: dict[TP, int | None] = {tp: self.ledger.position(tp) for tp in ends if tp in ours}
        if theirs := [tp for tp, end in ends.items() if tp not in ours and end]:
            positions.update(await self._thread.call(self._thread.committed(theirs)))
        return {tp: ends[tp] for tp, position in positions.items() if position is None or position < ends[tp]}

    @property
    def _recovery(self) -> ChunkRecovery:
        return cast(ChunkTableManager, self.app.tables).recovery

    # positions, as Faust sees them --------------------------------------------------------------------------------------------------

    def stream_partitions(self) -> set[TP]:
        """Assigned partitions that agents read."""
        return {tp for tp in self.assignment() if not self._is_changelog_tp(tp)}

    def _forget_streams(self) -> None:
        known = {*self.ledger.next, *self.ledger.inflight, *self.assignment()}
        self.ledger.forget({tp for tp in known if not self._is_changelog_tp(tp)})

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await super().on_partitions_revoked(revoked)  # calls wait_empty, which waits for chunks in work and commits them
        self.ledger.forget(revoked)
        self._forget_streams()

    def resume_flow(self) -> None:
        super().resume_flow()
        self.nudge()

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        super().resume_partitions(tps)
        self.nudge()

    async def perform_seek(self) -> None:
        """Start again at the committed offsets: the drain loop looks them up."""
        self._forget_streams()

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Called by recovery, for changelog partitions."""
        self.ledger.forget(partitions)

    async def wait_empty(self) -> None:
        """Before partitions are given away: let chunks in work end, commit. What is not done by the deadline comes again elsewhere."""
        app = cast("ChunkApp", self.app)
        self.ledger.drop_waiting()
        limit = app.stop_seconds if self.app.should_stop else self.app.conf.broker_rebalance_timeout / 2
        deadline = time.monotonic() + limit
        while working := [lane for lane in app.lanes() if lane.chunk is not None]:
            self.settled.clear()
            try:
                await asyncio.wait_for(self.settled.wait(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                logger.warning("still in work after %.0f s, given up: %s", limit, ", ".join(repr(lane.chunk) for lane in working))
                app.abandon(working)
                break
        try:
            async with asyncio.timeout(limit):
                for _ in range(2):  # one that is under way already does not cover what was finished since
                    await self.commit_and_end_transactions()
        except TimeoutError:
            logger.warning("offsets not committed within %.0f s: the last chunks come again", limit)

    async def rewind(self, tp: TP, offset: int) -> bool:
        """Read a partition again from an older offset on. When it returns, a worker that takes over begins there, too; False: it stands
        there, or before.

        Raises Retriable when the partition is not read here now.
        """
        while self._commit_fut is not None:  # what is being committed is of before
            await self.maybe_wait_for_commit_to_finish()
        ledger = self.ledger
        position = ledger.position(tp)
        if tp not in self.stream_partitions() or tp not in ledger.next or position is None:
            raise Retriable(f"{tp.topic}/{tp.partition} is not read by this worker now")
        if offset >= position:
            return False
        ledger.start_again(tp, offset)
        self._committed_offset.pop(tp, None)  # else nothing lower is ever committed
        self.nudge()
        for _ in range(REWIND_TRIES):
            await self.commit({tp})
            committed = (await self._thread.call(self._thread.committed([tp])))[tp]
            if committed <= ledger.done.get(tp, offset):
                return True
        raise Retriable(f"{tp.topic}/{tp.partition}: offset {offset} could not be committed")

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Any:
        tps = self.ledger.inflight.keys() | self.ledger.done.keys()
        return [tp for tp in tps if topics is None or tp in topics or tp.topic in topics]

    def _new_offset(self, tp: TP) -> int | None:
        return self.ledger.committable(tp)

    async def verify_all_partitions_active(self) -> None:
        """Faust's detector of stalled streams watches counters that chunks do not touch; `ChunkApp.health` tells instead."""

    # reading ------------------------------------------------------------------------------------------------------------------------

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):
                if not self.flow_active:
                    await self.wait(cast(Any, self.can_resume_flow))
                    continue
                try:
                    await self._drain_once()
                except ConsumerStoppedError:
                    raise
                except KafkaError as exc:
                    logger.warning("reading from Kafka failed, again in %.1f s: %r", IDLE_SECONDS, exc)
                    await asyncio.sleep(IDLE_SECONDS)
        except (ConsumerStoppedError, asyncio.CancelledError):
            if not self.app.should_stop:
                raise

    async def _drain_once(self) -> None:
        ledger, active = self.ledger, set(self._get_active_partitions())
        lost = {tp for tp in active if tp not in ledger.next}
        if lost:
            await self._look_up(lost)
        positions = {tp: ledger.next[tp] for tp in active if tp in ledger.next and ledger.wants(tp)}
        elsewhere = ledger.rewind & positions.keys()
        ledger.rewind -= elsewhere
        retries = [failure.until - ledger.clock() for tp, failure in ledger.failed.items() if tp in active and tp not in positions]
        runs, astray = await self._fetch(positions, elsewhere, max(0.0, min([IDLE_SECONDS, *retries])))
        for tp in astray:
            ledger.next.pop(tp, None)
        for tp, records in runs:
            if not self.flow_active:
                ledger.rewind.add(tp)
            elif tp in ledger.next and tp not in ledger.rewind:
                self._take(tp, records)
        if astray:
            await asyncio.sleep(IDLE_SECONDS)

    async def _fetch(self, positions: Mapping[TP, int], elsewhere: set[TP], timeout: float) -> tuple[list[tuple[TP, list[Any]]], list[TP]]:
        self._thread.keep_alive()
        self.reader.point(positions, elsewhere)
        return await self.reader.take(timeout)

    def _take(self, tp: TP, records: list[Any]) -> None:
        """Hand out what goes on from where we stand. A gap is believed (compaction, markers) only if it is there at a second look."""
        position, first = self.ledger.next[tp], records[0].offset
        if first > position and not self._is_changelog_tp(tp) and self._gaps.pop(tp, None) != (position, first):
            self._gaps[tp] = (position, first)
            self.ledger.rewind.add(tp)
        elif records[-1].offset >= position:
            self._hand_out(tp, records)

    async def _look_up(self, tps: set[TP]) -> None:
        ledger, recovery = self.ledger, self._recovery
        epoch = ledger.epoch
        logs = {tp for tp in tps if self._is_changelog_tp(tp)}
        found = {tp: offset for tp in logs if (offset := recovery.start_offset(tp)) is not None}
        if tps - logs:
            starts, lost = await self._thread.call(self._thread.start_offsets(tps - logs))
            if epoch != ledger.epoch:
                return
            for tp, count in lost.items():
                logger.error("%s/%d: %d records were deleted by retention before they were read", tp.topic, tp.partition, count)
            self._committed_offset.update(starts)
            found.update(starts)
        ledger.next.update(found)
        ledger.rewind.update(found)

    def _hand_out(self, tp: TP, records: list[Any]) -> None:
        if self._is_changelog_tp(tp):
            position = self.ledger.next[tp]
            self.ledger.next[tp] = records[-1].offset + 1
            self._recovery.apply(tp, [record for record in records if record.offset >= position])
            return
        lane = cast("ChunkApp", self.app).lane(tp)
        for chunk in self.ledger.hand_out(tp, records):
            lane.put(chunk)


class Transport(driver.Transport):
    Consumer = Consumer


@dataclass(frozen=True, slots=True)
class Health:
    """How a worker is doing. `ready`: it has its partitions, its tables are restored, and it reads."""

    ready: bool
    partitions: int  # that its agents read; 0 is fine when there are more workers than partitions
    lag: Mapping[str, int]  # topic → records not finished yet, of this worker's partitions
    failing: Mapping[str, str]  # "topic/partition@offset" → what keeps it from getting on


class ChunkApp(faust.App):
    """A Faust app whose agents receive chunks."""

    logger = FAUST_LOGGER

    #: Takes over a record that keeps failing: (agent, record, error). None: its partition waits and tries for ever.
    on_poison: OnPoison | None = None

    def __init__(
        self,
        id: str,
        *,
        bootstrap: str = "",  # "host:port,host:port"; or Faust's own `broker`
        chunk_size: int = 2000,  # 185,000 records/s at 8,000 against 161,000 at 2,000 and 96,000 at 500; latency asks for less
        fetch_max_wait_ms: int = 50,  # only a broker with nothing to say waits so long; a new position waits for that answer
        client_config: Mapping[str, Any] | None = None,  # librdkafka settings of reader and producer, e.g. security
        producer_config: Mapping[str, Any] | None = None,  # and of the producer alone
        warm: Iterable[str] = (),  # output topics whose metadata is fetched before anything is read; each must exist
        stop_seconds: float = STOP_SECONDS,
        **settings: Any,
    ) -> None:
        if bootstrap:
            settings.setdefault("broker", [f"kafka://{server.strip()}" for server in bootstrap.split(",")])
        settings = {
            "broker_session_timeout": 6.0,  # the broker's minimum: a killed worker's partitions stand still for so long
            "broker_heartbeat_interval": 1.0,
            "broker_rebalance_timeout": 20.0,  # half of it is what a chunk in work gets before its partition moves
            "broker_commit_interval": 0.25,  # a killed worker does this much again; status sees it settled so soon
            "topic_disable_leader": True,  # saves a topic; nobody asks for a leader
            "table_standby_replicas": 0,  # a million keys are restored in seconds
            "consumer_auto_offset_reset": "earliest",
            "store": "memory://",
            "web_enabled": False,
            "autodiscover": False,
            "Agent": ChunkAgent,
            "Table": ChunkTable,
            "TableManager": ChunkTableManager,
            **settings,
        }
        super().__init__(id, **settings)
        self.chunk_size, self.fetch_max_wait_ms, self.stop_seconds = chunk_size, fetch_max_wait_ms, stop_seconds
        self.client_config = dict(client_config or {})
        self.producer_config = dict(producer_config or {})
        self.warm_topics = tuple(warm)
        self._chunk_producer: ChunkProducer | None = None
        self._agents_by_topic: dict[str, ChunkAgent] = {}

    # for agents ---------------------------------------------------------------------------------------------------------------------

    def chunk_topic(self, *names: str, **kwargs: Any) -> Any:
        """Topics for one agent. They must have the same number of partitions if the agent has a table."""
        return self.topic(*names, key_serializer="raw", value_serializer="raw", **kwargs)

    def grouped_table(self, name: str, partitions: int) -> GroupedTable:
        """A table whose entries may be members of groups."""
        return cast(
            GroupedTable, self.tables.add(cast(Any, GroupedTable(self, name=name, beacon=self.tables.beacon, partitions=partitions)))
        )

    async def deliver(self, items: Iterable[Output | tuple[Any, ...]]) -> dict[tuple[str, int], Delivered]:
        """Send `(topic, key, value[, partition[, headers]])`s; returns when all are durable.

        Raises DeliveryFailed if one is not (the chunk in hand then fails and comes back), Refused if one never will be, and Forgotten if
        the chunk in hand was taken away meanwhile.
        """
        chunk = current_chunk.get()
        if chunk is not None and chunk.stale:
            raise Forgotten(repr(chunk))
        return await self._deliver(items)

    async def caught_up(self, topics: Iterable[str]) -> None:
        """Returns when all that is in these topics now is finished, by whichever worker reads it.

        Raises Forgotten if the chunk in hand was taken away meanwhile, or is about to be.
        """
        chunk, consumer = current_chunk.get(), cast("Consumer", self.consumer)
        left = await consumer.ends(topics)
        while True:
            consumer.advanced.clear()
            left = await consumer.unfinished(left)
            if not left:
                return
            if chunk is not None and not chunk.stale and not consumer.flow_active:  # what we wait for stands still, and is waiting for us
                consumer.ledger.go_back(chunk.tp, chunk.first)
            if chunk is not None and chunk.stale:
                raise Forgotten(repr(chunk))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CAUGHT_UP_SECONDS):
                    await consumer.advanced.wait()

    async def _deliver(self, items: Iterable[Output | tuple[Any, ...]]) -> dict[tuple[str, int], Delivered]:
        producer = self._chunk_producer_now()
        try:
            return await producer.deliver(items)
        except DeliveryFailed:
            if producer is self._chunk_producer:  # an idempotent producer that lost a record may be of no more use
                self._renew_producer()
            raise

    def _chunk_producer_now(self) -> ChunkProducer:
        if self._chunk_producer is None:
            self._chunk_producer = ChunkProducer({**self._client_config(), **self.producer_config})
        return self._chunk_producer

    def new_reader(self) -> Reader:
        return Reader(self._client_config(), asyncio.get_running_loop(), self.fetch_max_wait_ms)

    def _client_config(self) -> dict[str, Any]:
        servers = ",".join(f"{url.host}:{url.port or 9092}" for url in self.conf.broker)
        return {"bootstrap.servers": servers, "client.id": self.conf.id, **self.client_config}

    def _renew_producer(self) -> None:
        producer, self._chunk_producer = self._chunk_producer, None
        if producer is not None:
            producer.discard()

    async def flush(self, chunk: Chunk) -> None:
        """Make the table changes of a chunk durable in the changelog."""
        chunk.flushing = True
        try:
            delivered = await self._deliver(changelog_records(chunk))
        except BaseException:
            chunk.undo()
            raise
        finally:
            chunk.flushing = False
        tables = {cast("ChunkTable[Any]", table) for table, _ in chunk.changes}
        chunk.changes = {}
        for table in tables:
            table.flushed(chunk.partition, delivered[table.changelog_topic_name, chunk.partition])

    async def rewind(self, topic: str, partition: int, offset: int) -> bool:
        """Read a topic's partition again from an older offset on; see `Consumer.rewind`. Raises UnfitTopics for one that no agent reads."""
        if topic not in self._agents_by_topic:
            raise UnfitTopics(f"topic {topic!r} is read by no agent")
        return await cast("Consumer", self.consumer).rewind(TP(topic, partition), offset)

    def lane(self, tp: TP) -> Lane:
        return self._agents_by_topic[tp.topic].lane(tp.partition)

    def lanes(self) -> list[Lane]:
        return [lane for agent in set(self._agents_by_topic.values()) for lane in agent.lanes.values()]

    def abandon(self, lanes: Iterable[Lane]) -> None:
        """What these do does not come to an end: nothing of it counts, also not what is on its way to Kafka."""
        self._renew_producer()
        for lane in lanes:
            lane.abandon()

    # for operators ------------------------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """It has its partitions, its tables are restored, and it reads."""
        return self.health().ready

    def health(self) -> Health:
        """Cheap, never blocks."""
        consumer = cast("Consumer | None", self._consumer)
        if consumer is None or consumer._thread._consumer is None or self.should_stop:
            return Health(False, 0, {}, {})
        ledger, tps = consumer.ledger, consumer.stream_partitions()
        consuming = consumer.flow_active and not self.rebalancing and self.tables.actives_ready and all(tp in ledger.next for tp in tps)
        lag: dict[str, int] = {}
        for tp in tps:
            position = ledger.position(tp)
            end = consumer.reader.highwater(tp) if tp in ledger.next else None
            if position is not None and end is not None:
                lag[tp.topic] = lag.get(tp.topic, 0) + max(0, end - position)
        failing = {f"{tp.topic}/{tp.partition}@{failure.first}": failure.error for tp, failure in ledger.failed.items()}
        return Health(consuming, len(tps), lag, failing)

    async def wait_ready(self, timeout: float = 30.0) -> None:
        """Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            while not self.ready:
                if self.crash_reason is not None:
                    raise self.crash_reason
                await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def running(self, timeout: float = 30.0) -> AsyncIterator[ChunkApp]:
        """Within the block the app runs in this event loop, ready."""
        starting = asyncio.get_running_loop().create_task(self.start())
        try:
            await self.wait_ready(timeout)
            await starting
            yield self
        finally:
            await self.stop()
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)

    # Faust's hooks ------------------------------------------------------------------------------------------------------------------

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, cast(Any, self))

    def _create_directories(self) -> None:
        """Nothing of ours is on disk."""

    async def on_first_start(self) -> None:
        for name in ("aiokafka", "faust", "mode"):
            if logging.getLogger(name).level == logging.NOTSET:
                logging.getLogger(name).setLevel(logging.WARNING)  # aiokafka at DEBUG is 5 % of the CPU, the others narrate
        await super().on_first_start()

    async def start(self) -> None:
        self.finalize()
        for agent in self.agents.values():
            for topic in agent.get_topic_names():
                if topic in self._agents_by_topic:
                    raise ValueError(f"topic {topic!r} has two agents, {self._agents_by_topic[topic].name!r} and {agent.name!r}")
                self._agents_by_topic[topic] = cast(ChunkAgent, agent)
        await self._check_topics()  # before Faust makes its consumer, which has a thread
        await super().start()

    async def _check_topics(self) -> None:
        """Everything read or written is there, and co-partitioned where a table needs it. Warms up the producer by the way.

        Raises UnfitTopics, with all problems; DeliveryFailed if Kafka does not answer.
        """
        logs = {cast(str, table.changelog_topic_name): table for table in self.tables.values()}
        asked = dict.fromkeys([*self._agents_by_topic, *self.warm_topics, *logs])
        counts = await asyncio.to_thread(self._chunk_producer_now().warm, asked)
        problems = [f"topic {topic!r} is not there" for topic in asked if not counts[topic] and topic not in logs]
        for agent in set(self._agents_by_topic.values()):
            read = {topic: counts[topic] for topic in sorted(agent.get_topic_names())}
            if len(set(read.values())) > 1:
                problems.append(f"agent {agent.name!r} reads topics that are not co-partitioned: {read}")
        inputs = {counts[topic] for topic in self._agents_by_topic}
        for name, table in logs.items():
            if not table.partitions and len(inputs) != 1:
                problems.append(f"table {table.name!r} needs `partitions`: the topics read have {sorted(inputs)}")
                continue
            table.partitions = table.changelog_topic.partitions = table.partitions or inputs.copy().pop()
            if counts[name] not in (0, table.partitions):
                problems.append(f"changelog {name!r} has {counts[name]} partitions, expected {table.partitions}")
        if problems:
            raise UnfitTopics("; ".join(problems))

    async def on_shutdown(self) -> None:
        await super().on_shutdown()
        producer, self._chunk_producer = self._chunk_producer, None
        if producer is not None:
            await asyncio.to_thread(producer.close, self.stop_seconds)


def run_worker(
    app: ChunkApp,
    *,
    on_ready: Callable[[], None] | None = None,
    health: PartHealth | None = None,
    uvloop: bool = True,
    switch_interval: float = 0.0002,  # three threads pass the interpreter on; at the default 5 ms a record waits for it twice
) -> None:
    """Run until SIGTERM or SIGINT: then chunks in work are finished and committed. Raises what made the worker crash.

    Unlike Faust's own worker it leaves logging, stdout and the process title alone, and opens no port.
    """
    sys.setswitchinterval(switch_interval)
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if uvloop and sys.platform != "win32":
        import uvloop as fast  # here, since there is none for Windows

        factory = fast.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(app, on_ready, health or PartHealth()))


async def _serve(app: ChunkApp, on_ready: Callable[[], None] | None, health: PartHealth) -> None:
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    starting = loop.create_task(app.start())
    stopping = loop.create_task(asked.wait())
    try:
        told = False
        while not asked.is_set() and app.crash_reason is None:
            looks_after = WATCH_SECONDS if told else 0.1
            waiting = [stopping] if starting.done() else [stopping, starting]
            await asyncio.wait(waiting, timeout=looks_after, return_when=asyncio.FIRST_COMPLETED)
            if starting.done() and (error := starting.exception()) is not None:
                raise error
            ready = app.ready
            health.turned()
            if ready:
                health.ready()
            else:
                health.waits("partitions are being assigned, or tables recovered")
            if not told and ready:
                told = True
                gc.freeze()  # what is there now stays: modules, schemas, mappings
                if on_ready is not None:
                    on_ready()
    finally:
        await app.stop()
        for task in (starting, stopping):
            task.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
    if app.crash_reason is not None:
        raise app.crash_reason
