"""The source of one system: its log to Kafka.

connect ─▶ publication, slot (SlotLost: say so, read everything again, `rereading.py`) ─▶ stream
  reader thread      receive → emitter → Kafka; when nothing is there: confirm what Kafka has (I1), wait
  snapshot thread    tables that are not read yet, chunk by chunk beside the stream (snapshot.py)
  caretaker thread   every heartbeat: a message into the log, the slot's health
an error of the database or of Kafka ─▶ everything closed, opened again with backoff: the slot still has what was not confirmed
"""

from __future__ import annotations

import contextlib
import logging
import random
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeVar

import psycopg
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from psycopg.conninfo import conninfo_to_dict

from connectors import concord_schema
from connectors.postgres import connect, translated
from connectors.source import metrics
from connectors.source.delivery import MAX_BYTES, Delivery, Headers
from connectors.source.emitter import PREFIX, Emitter, When
from connectors.source.pgoutput import Begin, Commit, Message, Origin, Relation, Truncate, decode
from connectors.source.relations import DatabaseCatalog
from connectors.source.replication import KEEPALIVE, PAYLOAD, STARTS, ReplicationStream, keepalive, open_stream
from connectors.source.rereading import read_all, slot_and_snapshot
from connectors.source.slot import create_slot, drop_slot, ensure_publication, slot_state, usable
from connectors.source.snapshot import CHANNEL, Aborted, Chunk, SnapshotStore, Snapshotter, parse_watermark
from schemas.dead import DEAD_SCHEMA, DeadLetter, Where
from schemas.envelope import OUR_ORIGINS
from schemas.errors import ConcordError, Retriable, SlotLost
from schemas.health import Health
from schemas.metrics import EVENTS, LAG_SECONDS, RETAINED_WAL, State
from schemas.registry import Registry
from schemas.serde import Codec
from schemas.topics import DAY_MS, captured, dead

logger = logging.getLogger(__name__)

T = TypeVar("T")
TableName = tuple[str, str]
KeyValues = Callable[[str], dict[str, str]]  # key text → key columns

BACKOFF: Final = (0.2, 30.0)  # seconds before the stream is opened again: first, at most; doubled each time, and shaken
SILENCE_SECONDS: Final = 5.0  # the database hears from us at least so often (wal_sender_timeout is 60)
CONFIRM_SECONDS: Final = 0.02  # between two looks at what Kafka has, and between two words to the database about it
PACE_SECONDS: Final = (0.005, 0.02)  # how long the log rests after something was sent: at first, and at most, while there is more each time
PACE_GROWS: Final = 1.5
ECHO_SECONDS: Final = 0.02  # how long what our own sinks wrote waits for company
BUSY_CONFIRM_MESSAGES: Final = 5_000  # while there is always more to read: how often what Kafka has is confirmed
STOP_SECONDS: Final = 10.0  # how long a stop waits for Kafka
SLOT_LOOK_SECONDS: Final = 0.5  # how soon a stop is seen while a slot is made
RECENT_COMMITS: Final = 10_000


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """What a source must know."""

    system: str
    dsn: str
    slot: str
    publication: str
    tables: Mapping[TableName, frozenset[str]]  # captured tables → columns that the mapping needs
    kafka: Mapping[str, Any]  # librdkafka's settings, bootstrap.servers at least
    session: Mapping[str, str] = field(default_factory=dict)
    role: str | None = None  # under which the tables are read
    partitions: int = 4
    replication: int = 1
    heartbeat_seconds: float = 10.0
    linked: Mapping[TableName, tuple[tuple[str, KeyValues], ...]] = field(default_factory=dict)  # → (entity, key text → key columns)
    on_lost_slot: Literal["resnapshot", "stop"] = "resnapshot"


class _Table(Protocol):
    @property
    def schema(self) -> str: ...
    @property
    def name(self) -> str: ...


class _Part(Protocol):
    @property
    def table(self) -> _Table: ...
    @property
    def columns(self) -> tuple[str, ...]: ...


class _Binding(Protocol):
    @property
    def entity(self) -> str: ...
    @property
    def table(self) -> _Table: ...
    @property
    def key_columns(self) -> tuple[str, ...]: ...
    @property
    def root_columns(self) -> tuple[str, ...]: ...
    @property
    def parts(self) -> Sequence[_Part]: ...
    def key_values(self, key: str) -> dict[str, str]: ...


class _Pipeline(Protocol):
    @property
    def config(self) -> Any: ...
    def tables(self, system: str) -> Iterable[_Binding]: ...


def settings_for(system: str, pipeline: _Pipeline) -> SourceSettings:
    """A system's source as `concord.yaml` describes it."""
    config = pipeline.config
    told = config.systems[system]
    tables: dict[TableName, frozenset[str]] = {}
    linked: dict[TableName, tuple[tuple[str, KeyValues], ...]] = {}
    for binding in pipeline.tables(system):
        for part in binding.parts:  # before the root: a snapshot that finds them first tells of a thing once, and whole
            at = (part.table.schema, part.table.name)
            tables[at] = tables.get(at, frozenset()) | frozenset(part.columns)
        name = (binding.table.schema, binding.table.name)
        tables[name] = tables.get(name, frozenset()) | frozenset(binding.root_columns)
        linked[name] = (*linked.get(name, ()), (binding.entity, binding.key_values))
    return SourceSettings(
        system=system,
        dsn=told.dsn,
        slot=told.slot,
        publication=told.publication,
        tables=tables,
        kafka={"bootstrap.servers": config.kafka.bootstrap, **config.kafka.settings},
        session=told.session,
        role=told.role,
        partitions=config.kafka.partitions,
        replication=config.kafka.replication,
        heartbeat_seconds=told.heartbeat_seconds,
        linked=linked,
    )


class _Waker:
    """Wakes a thread that waits on sockets."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # full: it will wake anyway; closed: nobody waits
            self._theirs.send(b"\0")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._ours.recv(4096):
                pass

    def fileno(self) -> int:
        return self._ours.fileno()

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


class _Ending(threading.Event):
    """Set when a stream has ended; a thread that waits on sockets can wait for it too."""

    def __init__(self) -> None:
        super().__init__()
        self._waker = _Waker()

    def set(self) -> None:
        super().set()
        self._waker.wake()

    def fileno(self) -> int:
        return self._waker.fileno()

    def close(self) -> None:
        self._waker.close()


@dataclass(slots=True)
class _Window:
    """Between the low and the high watermark of a chunk."""

    chunk_id: str
    when: When
    lsn: int
    committed_before: frozenset[int]
    seen: set[tuple[str, bytes]] = field(default_factory=set)  # (topic, key without its schema id)
    truncated: set[str] = field(default_factory=set)


class Source:
    """Streams one database's log to Kafka until it is stopped."""

    def __init__(self, settings: SourceSettings, registry: Registry, health: Health | None = None) -> None:
        self.settings = settings
        self.health = health or Health()
        metrics.SLOT_LOST.labels(settings.system)  # there from the start, at 0
        self._registry = registry
        self._waker = _Waker()
        self._stopping = threading.Event()
        self._topics: set[str] = set()
        self._chunks: dict[str, Chunk] = {}  # handed over, their high watermark not yet seen
        self._sent_chunks: deque[tuple[int, Chunk]] = deque()  # (LSN that must be reached, chunk)
        self._window: _Window | None = None
        self._recent: deque[int] = deque(maxlen=RECENT_COMMITS)
        self.ready = threading.Event()  # the stream is open: for whoever starts us

    # running

    def run(self) -> None:
        """Until `stop`. Raises what no retry can mend: UnfitDatabase, SlotLost (if told to stop on it), Refused."""
        pause = BACKOFF[0]
        delivery = Delivery(self.settings.system, self.settings.kafka, self._relieve, self._dead_letter)
        try:
            while not self._stopping.is_set():
                started = time.monotonic()
                self.health.turned()
                try:
                    self._stream_once(delivery)
                except Retriable as error:
                    metrics.RECONNECTS.labels(self.settings.system).inc()
                    self.health.waits("the replication stream broke off; it is opened again")
                    self.health.turned()
                    if time.monotonic() - started > BACKOFF[1]:
                        pause = BACKOFF[0]  # it went well for a while
                    seconds = pause * random.uniform(0.5, 1.0)
                    logger.warning("%s: %s; again in %.1f s", self.settings.system, error, seconds)
                    self._stopping.wait(seconds)
                    pause = min(pause * 2, BACKOFF[1])
                    delivery.forget()
        finally:
            metrics.STREAMING.labels(self.settings.system).set(0)
            delivery.close()
            self._waker.close()

    def stop(self) -> None:
        """Ends `run` soon: what Kafka has acknowledged is confirmed first. From any thread or a signal handler."""
        self._stopping.set()
        self._waker.wake()

    def _connect(self, role: str | None = None) -> psycopg.Connection[Any]:
        """Publication, slot and the schema concord are the login's affair: `role` is for reading the tables."""
        return connect(self.settings.dsn, self.settings.session, f"concord source {self.settings.system}", role)

    def _stream_once(self, delivery: Delivery) -> None:
        settings = self.settings
        with self._connect() as conn:
            with translated("preparing the schema concord"):
                concord_schema.ensure(conn, settings.role)
            store = SnapshotStore(conn, settings.slot)
            lost = self._prepare(conn, store)
            for schema, table in settings.tables:
                self._ensure_topic(captured(settings.system, schema, table))
            self._ensure_topic(dead(settings.system))
            self._encode_dead = Codec(self._registry).encoder(f"{dead(settings.system)}-value", DEAD_SCHEMA)
            emitter = Emitter(
                system=settings.system,
                database=str(conn.info.dbname or conninfo_to_dict(settings.dsn).get("dbname") or ""),
                registry=self._registry,
                catalog=DatabaseCatalog(conn),
                send=delivery.send,
                captured=settings.tables,
                opened=self._ensure_topic,
            )
            if lost:
                self._read_again(store, emitter, delivery)
            stream = open_stream(settings.dsn, settings.session, settings.slot, settings.publication)
            self._chunks, self._sent_chunks, self._window = {}, deque(), None
            self._recent.clear()
            aborted = _Ending()
            threads = [
                threading.Thread(target=self._beside, args=(work, aborted), name=f"{settings.system} {name}", daemon=True)
                for name, work in (("snapshot", self._snapshot), ("caretaker", self._take_care))
            ]
            try:
                self._failed: ConcordError | None = None
                for thread in threads:
                    thread.start()
                metrics.STREAMING.labels(settings.system).set(1)
                self.ready.set()
                self.health.ready()
                logger.info("%s: streaming slot %s", settings.system, settings.slot)
                self._read(stream, emitter, delivery)
            finally:
                metrics.STREAMING.labels(settings.system).set(0)
                aborted.set()
                for chunk in [*self._chunks.values(), *(chunk for _, chunk in self._sent_chunks)]:
                    chunk.finished.set()
                stream.close()
                for thread in threads:
                    thread.join(STOP_SECONDS)
                if not any(thread.is_alive() for thread in threads):
                    aborted.close()

    def _prepare(self, conn: psycopg.Connection[Any], store: SnapshotStore) -> bool:
        """Publication, then slot, then what is to be read. True: the slot was lost, it is still to be made, and everything to be read."""
        settings = self.settings
        # a table that is not published yet is not in the log before this: its snapshot comes after
        ensure_publication(conn, settings.publication, settings.tables)
        try:
            there = usable(slot_state(conn, settings.slot), settings.slot, store.any())
            lost = there and store.owes_all(settings.tables)
            if lost:
                logger.warning("%s: reading every table again was interrupted, and begins anew", settings.system)
        except SlotLost as error:
            if settings.on_lost_slot == "stop":
                raise
            logger.error("%s: %s. Reading every table again, and looking for deleted rows", settings.system, error)
            metrics.SLOT_LOST.labels(settings.system).set_to_current_time()
            lost = True
        if not lost:
            if not there:
                self._patiently(conn, lambda: create_slot(conn, settings.slot))
            store.add(settings.tables)
            return False
        store.add(settings.tables)
        store.read_all_again()  # before the slot: a crash from here on comes back here
        drop_slot(conn, settings.slot)
        return True

    def _read_again(self, store: SnapshotStore, emitter: Emitter, delivery: Delivery) -> None:
        settings = self.settings

        def linked(schema: str, table: str) -> Iterable[tuple[str, KeyValues]]:
            return settings.linked.get((schema, table), ())

        made = slot_and_snapshot(settings.dsn, settings.session, settings.slot, self._patiently)
        with self._connect(settings.role) as conn, made as place:
            self.health.waits("every table is read again after the slot was lost")
            read_all(conn, place, settings.system, list(settings.tables), linked, store, emitter, delivery, self._is_stopping)

    def _patiently(self, conn: psycopg.Connection[Any], make: Callable[[], T]) -> T:
        """What `make` makes of a slot with this connection. PostgreSQL waits in it for the transactions that are open, however long people
        leave them so: the loop turns meanwhile, and a stop ends it. Raises what `make` raises, Retriable when it was stopped."""
        self.health.waits("the replication slot is made once the transactions that are open now have ended")
        with ThreadPoolExecutor(1, f"{self.settings.system} slot") as beside:
            making = beside.submit(make)
            while not wait([making], SLOT_LOOK_SECONDS).done:
                if self._is_stopping():
                    conn.cancel_safe(timeout=STOP_SECONDS)
                    with contextlib.suppress(ConcordError, psycopg.Error):
                        making.result()
                    raise Retriable("stopped while the replication slot was made")
            self.health.waits("starting")
            return making.result()

    def _is_stopping(self) -> bool:
        """Asked in every turn of a loop."""
        self.health.turned()
        return self._stopping.is_set()

    # the reader

    def _read(self, stream: ReplicationStream, emitter: Emitter, delivery: Delivery) -> None:
        self._stream, self._delivery, self._last_word = stream, delivery, time.monotonic()
        in_transaction = False
        rest, rested = PACE_SECONDS[0], False
        may_wait = 0.0
        commit_us = 0
        unconfirmed = 0
        in_window = self._send_in_window(delivery)
        system = self.settings.system
        lag = LAG_SECONDS.labels("source", system)
        confirmed = metrics.CONFIRMED_LSN.labels(system)
        receive, insert, update, delete = stream.receive, emitter.insert, emitter.update, emitter.delete
        with selectors.DefaultSelector() as selector:
            selector.register(stream.fileno(), selectors.EVENT_READ)
            selector.register(self._waker.fileno(), selectors.EVENT_READ)
            while not self._stopping.is_set():
                data = receive()
                if data is None:
                    if rested:
                        rest, rested = min(rest * PACE_GROWS, PACE_SECONDS[1]) if unconfirmed else PACE_SECONDS[0], False
                    waits = delivery.release()
                    delivery.poll()
                    self._confirm(stream, delivery)
                    confirmed.set(stream.confirmed)
                    delivery.measure()
                    lag.set(0)
                    unconfirmed = 0
                    owing = not delivery.idle or delivery.reached > stream.confirmed
                    if waits:
                        selector.select(min(waits, CONFIRM_SECONDS if owing else SILENCE_SECONDS))
                    else:
                        time.sleep(rest)
                        rested = True
                    self._waker.clear()
                    self.health.turned()
                    if self._failed is not None:
                        raise self._failed
                    emitter.tick()
                    continue
                if data[0] == KEEPALIVE:
                    end, wanted = keepalive(data)
                    delivery.poll()
                    delivery.advance()
                    if not in_transaction and delivery.idle and end > stream.confirmed:
                        stream.confirm(end)  # I1: nothing of ours is in the log up to here that Kafka has not got
                        self._last_word = time.monotonic()
                    elif wanted:
                        stream.confirm(delivery.reached)
                        self._last_word = time.monotonic()
                    continue
                kind = data[PAYLOAD]
                if kind == 0x49:  # I
                    insert(data, PAYLOAD, STARTS.unpack_from(data, 1)[0])
                elif kind == 0x55:  # U
                    update(data, PAYLOAD, STARTS.unpack_from(data, 1)[0])
                elif kind == 0x44:  # D
                    delete(data, PAYLOAD, STARTS.unpack_from(data, 1)[0])
                else:
                    message = decode(data[PAYLOAD:])
                    lsn = STARTS.unpack_from(data, 1)[0]
                    if isinstance(message, Begin):
                        in_transaction, may_wait = True, 0.0
                        commit_us = message.commit_us
                        begun = message
                        emitter.begin(message)
                        self._recent.append(message.xid)
                    elif isinstance(message, Commit):
                        in_transaction = False
                        delivery.mark(message.end_lsn, may_wait)
                        if self._closing is not None:
                            self._sent_chunks.append((message.end_lsn, self._closing))
                            self._closing = None
                    elif isinstance(message, Origin):
                        emitter.origin(message)
                        may_wait = ECHO_SECONDS if message.name.startswith(OUR_ORIGINS) else 0.0
                    elif isinstance(message, Relation):
                        emitter.relation(message)
                    elif isinstance(message, Truncate):
                        emitter.truncate(message, lsn)
                    elif isinstance(message, Message):
                        if message.prefix == PREFIX:
                            if message.transactional:
                                self._watermark(message, begun, lsn, emitter, delivery, in_window)
                        else:
                            emitter.message(message, lsn)
                        if not message.transactional:
                            delivery.mark(lsn)
                unconfirmed += 1
                if unconfirmed >= BUSY_CONFIRM_MESSAGES:
                    unconfirmed = 0
                    self._confirm(stream, delivery)
                    self.health.turned()
                    lag.set(max(0.0, time.time() - commit_us / 1e6))
                    emitter.tick()
                    if self._failed is not None:
                        raise self._failed
            delivery.flush(STOP_SECONDS)
            self._confirm(stream, delivery, at_once=True)

    _failed: ConcordError | None = None
    _closing: Chunk | None = None
    _last_word = 0.0
    _stream: ReplicationStream | None = None
    _delivery: Delivery | None = None

    def _confirm(self, stream: ReplicationStream, delivery: Delivery, at_once: bool = False) -> None:
        """Confirms what Kafka has (I1), unless it has just been done, and lets the snapshot go on that waited for it."""
        reached = delivery.advance()
        silent = time.monotonic() - self._last_word
        if (reached > stream.confirmed and (at_once or silent >= CONFIRM_SECONDS)) or silent > SILENCE_SECONDS:
            stream.confirm(reached)
            self._last_word = time.monotonic()
        while self._sent_chunks and self._sent_chunks[0][0] <= reached:
            self._sent_chunks.popleft()[1].finished.set()

    def _relieve(self) -> None:
        """Kafka's buffer is full: meanwhile the database must not take us for dead."""
        self.health.turned()
        if self._stopping.is_set():
            raise Retriable("stopped while Kafka's buffer was full")
        if self._stream is not None and self._delivery is not None and time.monotonic() - self._last_word > SILENCE_SECONDS:
            self._confirm(self._stream, self._delivery)

    # snapshots, the reader's half

    def _send_in_window(self, delivery: Delivery) -> Callable[[str, bytes | None, bytes | None, Headers | None], None]:
        def send(topic: str, key: bytes | None, value: bytes | None, headers: Headers | None) -> None:
            window = self._window
            if window is not None:
                if key is not None:
                    window.seen.add((topic, key[5:]))
                else:
                    window.truncated.add(topic)
            delivery.send(topic, key, value, headers)

        return send

    def _watermark(self, message: Message, begun: Begin, lsn: int, emitter: Emitter, delivery: Delivery, in_window: Any) -> None:
        told = parse_watermark(message.content)
        if told is None:
            return
        mark, chunk_id = told
        if mark == "low":
            when = When(begun.final_lsn, begun.commit_us, None, snapshot="incremental")
            self._window = _Window(chunk_id, when, lsn, frozenset(self._recent))
            emitter.send = in_window
            return
        window, self._window = self._window, None
        emitter.send = delivery.send
        chunk = self._chunks.pop(chunk_id, None)
        if chunk is None or window is None or window.chunk_id != chunk_id:
            return  # of a stream before this one: that chunk is read again
        if chunk.open_transactions & window.committed_before:
            chunk.again = True
            chunk.finished.set()
            return
        self._send_chunk(chunk, window, emitter, delivery)
        self._closing = chunk  # finished when this transaction is confirmed

    def _send_chunk(self, chunk: Chunk, window: _Window, emitter: Emitter, delivery: Delivery) -> None:
        opened = emitter.open_table(chunk.table)
        topic = chunk.table.topic
        if topic in window.truncated:
            return
        tail = emitter.snapshot_tail(opened, window.when, window.lsn, "d" if chunk.vanished else "r")
        seen = {key for table, key in window.seen if table == topic}

        def send(name: str, key: bytes | None, value: bytes | None, headers: Headers | None) -> None:
            if key is None or key[5:] not in seen:
                delivery.send(name, key, value, headers)

        emitter.send = send
        try:
            row = emitter.vanished_row if chunk.vanished else emitter.snapshot_row
            for values in chunk.rows:
                row(opened, values, tail)
        finally:
            emitter.send = delivery.send

    # beside the reader

    def _beside(self, work: Callable[[_Ending], None], aborted: _Ending) -> None:
        """A thread's work; its error ends the stream, and `run` decides what then."""
        try:
            work(aborted)
        except Aborted:
            pass
        except ConcordError as error:
            if not aborted.is_set():
                self._failed = error
                self._waker.wake()

    def _snapshot(self, aborted: _Ending) -> None:
        settings = self.settings
        with self._connect(settings.role) as conn, selectors.DefaultSelector() as selector:
            asked = threading.Event()
            conn.add_notify_handler(lambda _: asked.set())
            with translated("listening for what is asked for"):
                conn.execute(f"LISTEN {CHANNEL}".encode())
            selector.register(conn.fileno(), selectors.EVENT_READ)
            selector.register(aborted.fileno(), selectors.EVENT_READ)
            store = SnapshotStore(conn, settings.slot)
            snapshotter = Snapshotter(
                conn, settings.system, store, self._hand_over, lambda schema, table: settings.linked.get((schema, table), ()), aborted
            )
            while not aborted.is_set():
                snapshotter.run_pending(list(settings.tables))
                if not asked.is_set():  # else a notification came with an answer, and the socket tells nothing any more
                    selector.select(settings.heartbeat_seconds)
                asked.clear()

    def _hand_over(self, chunk: Chunk) -> None:
        self._chunks[chunk.id] = chunk

    def _take_care(self, aborted: _Ending) -> None:
        settings = self.settings
        with self._connect() as conn:
            while not aborted.is_set():
                state = slot_state(conn, settings.slot)
                if state is None or state.wal_status == "lost" or state.invalidation:
                    raise Retriable(
                        f"replication slot {settings.slot} is lost while it is streamed from"
                    )  # found out why when opened again
                RETAINED_WAL.labels(settings.system).set(state.retained_bytes)
                metrics.SLOT_HEALTH.labels(settings.system).set(0 if state.wal_status == "unreserved" else 1)
                if state.wal_status == "unreserved":
                    logger.warning(
                        "%s: slot %s is about to be lost: the log it needs is over max_slot_wal_keep_size, %s bytes retained",
                        settings.system,
                        settings.slot,
                        state.retained_bytes,
                    )
                with translated("writing the heartbeat"):
                    conn.execute("SELECT pg_logical_emit_message(false, %s, 'heartbeat')", (PREFIX,))
                aborted.wait(settings.heartbeat_seconds)

    # topics

    def _dead_letter(self, topic: str, key: bytes | None, error: str) -> tuple[str, bytes]:
        """For a record that is too large for Kafka: its topic and key are all that can be kept."""
        system = self.settings.system
        logger.error("%s: a record with key %r is too large for Kafka and was dead-lettered: %s", topic, key, error)
        EVENTS.labels("source", system, "", State.DEAD.value).inc()
        letter = DeadLetter(
            entity=None,
            link=None,
            topic=topic,
            partition=-1,
            offset=-1,
            key=key,
            value=None,
            error=f"the row is too large for Kafka ({error}): raise max.message.bytes of the topic, then read the row again",
            code="MSG_SIZE_TOO_LARGE",
            where=Where.SOURCE,
        )
        assert self._encode_dead is not None
        return dead(system), self._encode_dead(letter.to_avro())

    _encode_dead: Callable[[Any], bytes] | None = None

    def _ensure_topic(self, topic: str) -> None:
        """A topic that is not there would hold up everything behind its first record."""
        if topic in self._topics:
            return
        settings = self.settings
        config = {"cleanup.policy": "delete", "retention.ms": str(7 * DAY_MS), "max.message.bytes": str(MAX_BYTES)}
        new = NewTopic(topic, num_partitions=settings.partitions, replication_factor=settings.replication, config=config)
        admin = AdminClient(dict(settings.kafka), logger=logger)  # held until the answer is there: it takes its requests with it
        try:
            admin.create_topics([new], request_timeout=20.0)[topic].result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise Retriable(f"creating topic {topic}: {error.args[0]}") from error
        self._topics.add(topic)


class SourceConnector(Source):
    """The source of `system` as the pipeline describes it."""

    def __init__(self, system: str, pipeline: _Pipeline, registry: Registry, health: Health | None = None) -> None:
        super().__init__(settings_for(system, pipeline), registry, health)
