"""The sink of one system: golden topics → its database.

    on assignment     read the progress in the database, start there (I2); what Kafka has committed is never looked at. Where there is none,
                      the last record of each thing is enough (`beginning`)
    a batch           what is there, at most `BATCH`; never waits to fill. Only where nothing in it is for this system, it waits a
                      little for what is: half of all records tell a sink no more than which rows a thing has elsewhere
    apply             one transaction (`apply.py`), its progress inside
    after commit      dead letters to their topic, metrics, Kafka offsets as a hint

While the database does not answer, the batch is kept, its partitions are paused and it is tried again for as long as it takes; the
consumer stays in its group. Several workers share a system's partitions, each with a connection and a replication origin of its own.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from connectors.postgres import translated
from connectors.sink.apply import Applier, Batch, Connection, Fenced, Outcome, Place, Unreadable
from connectors.sink.beginning import Beginning
from connectors.sink.dead_letters import DeadLetters
from connectors.sink.golden import GoldenDecoder, is_for
from connectors.sink.metrics import SinkMetrics
from connectors.sink.plan import Task
from connectors.sink.session import open_session
from schemas import topics
from schemas.errors import ConcordError, Refused, Retriable, SchemaError
from schemas.health import Health
from schemas.mapping import Pipeline
from schemas.metrics import State
from schemas.registry import Registry
from schemas.serde import Codec

logger = logging.getLogger(__name__)

BATCH = 500  # messages; one transaction stays well under a second
POLL_SECONDS = 0.1  # a message wakes it at once; this is how soon a stop is seen
HOLD_SECONDS = 0.02  # how long records wait for one that is for this system
CARE_SECONDS = 2.0  # how often parked records are tried again and counted, and our tables looked at
ANALYSE_AGAIN_SECONDS = 60.0  # after it failed
HINT_SECONDS = 1.0  # how often Kafka is told how far we are
FIRST_WAIT, LONGEST_WAIT = 0.05, 5.0  # seconds between tries of a batch

COUNT_WAITING = """
    SELECT 'parked', entity, count(*) FROM concord.parked GROUP BY entity
    UNION ALL SELECT 'dead', entity, count(*) FROM concord.dead_letter GROUP BY entity"""
GROWN = """
    SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'concord'::regnamespace AND c.relname IN ('key', 'link', 'parked')
    AND pg_has_role(session_user, c.relowner, 'USAGE')
    AND pg_relation_size(c.oid) > 2 * c.relpages::int8 * current_setting('block_size')::int8"""


class SinkConnector:
    """`run` returns when `stop` was called (from a signal handler or another thread): the batch in hand is finished first."""

    def __init__(
        self,
        system: str,
        pipeline: Pipeline,
        registry: Registry,
        worker: int = 0,
        metrics: SinkMetrics | None = None,
        dead_letters: DeadLetters | None = None,
        clock: Callable[[], float] = time.time,
        health: Health | None = None,
    ) -> None:
        config = pipeline.config
        self.system = system
        self.worker = worker
        self.ready = threading.Event()  # set when the first assignment has been positioned
        self._pipeline = pipeline
        self._settings = config.systems[system]
        self._metrics = metrics or SinkMetrics(system)
        self.health = health or Health()
        self._clock = clock
        self._entity_of = {topics.golden(name): name for name in pipeline.entities}
        kafka: dict[str, Any] = {"bootstrap.servers": config.kafka.bootstrap, **config.kafka.settings}
        self._beginning = Beginning(kafka)
        self._codec = Codec(registry)
        self._decode = GoldenDecoder(self._codec)
        self._dead_letters = dead_letters or DeadLetters(system, kafka, self._codec)
        self._consumer_settings = {
            **kafka,
            "group.id": f"{config.name}-sink-{system}",
            "client.id": f"{config.name}-sink-{system}-{worker}",
            # the same worker started again takes its partitions back at once, instead of after the session of the one that died
            "group.instance.id": topics.member(f"{config.name}-sink-{system}-{worker}", self._entity_of),
            "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 1000,
            "partition.assignment.strategy": "range",  # eager; the same partitions of all topics go together: a parent and its children
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 50,  # a fetch is answered at once when there is something; this is for partitions that are new to it
            "socket.nagle.disable": True,  # a small request does not wait until the one before it was answered
            "fetch.queue.backoff.ms": 10,  # the default of a second would show when a backlog is read
            "queued.max.messages.kbytes": 16 * 1024,  # memory, whatever the size of messages
        }
        self._stopping = False
        self._consumer: Consumer | None = None
        self._conn: Connection | None = None
        self._applier: Applier | None = None
        self._assigned: list[TopicPartition] = []
        self._epoch = 0  # grows with every rebalance: what was read before is void
        self._position_due = False
        self._stored: dict[Place, int] = {}  # what `concord.progress` says
        self._kept: list[Message] = []  # handed out by Kafka while we were busy trying again, or held
        self._held_until = 0.0  # by the monotonic clock; 0: nothing is held
        self._care_at = 0.0
        self._analyse_at = 0.0
        self._hint_at = 0.0
        self._known_waiting: dict[str, set[str]] = {"parked": set(), "dead": set()}

    # what others call

    def run(self) -> None:
        """Raises UnfitDatabase or Refused when it cannot go on."""
        try:
            self._consumer = Consumer(self._consumer_settings, logger=logger)
            self._consumer.subscribe(list(self._entity_of), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke)
            while not self._stopping:
                self._step()
        finally:
            self._close()

    def stop(self) -> None:
        self._stopping = True

    # one turn

    def _step(self) -> None:
        self.health.turned()
        consumer = self._the_consumer()
        if self._position_due:
            self._retried(self._position)
            return
        messages, self._kept = self._kept, []
        epoch = self._epoch
        wait = self._held_until - time.monotonic() if messages else POLL_SECONDS
        if wait > 0:
            first = consumer.poll(min(wait, POLL_SECONDS))
            messages += [] if first is None else [first]
        messages += consumer.consume(BATCH - len(messages), 0) if 0 < len(messages) < BATCH else []
        if epoch != self._epoch or self._position_due:
            return  # they were of partitions that have gone, or will be read again
        messages = [message for message in messages if self._is_record(message)]
        if messages and self._holds(messages):
            self._kept = messages
        elif messages:
            self._held_until = 0.0
            self._retried(lambda: self._handle(messages))
        else:
            self._lag(None)
        self._care()

    def _holds(self, messages: list[Message]) -> bool:
        """Whether these wait a little: none of them is for this system, and they have not waited yet."""
        now = time.monotonic()
        if not self._held_until:
            self._held_until = now + HOLD_SECONDS
        return now < self._held_until and len(messages) < BATCH and not any(is_for(self.system, message.value()) for message in messages)

    def _is_record(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.fatal() or error.code() in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED):
            raise Refused(f"reading golden records for {self.system}: {error}", str(error.name()))
        logger.debug("reading golden records: %s", error)  # a broker that is away: the client tries again by itself
        return False

    def _handle(self, messages: list[Message]) -> None:
        applier = self._the_applier()
        batch = self._batch(messages)
        self._metrics.batch_size.observe(len(messages))
        try:
            with self._metrics.transaction.time():
                outcome = applier.apply(batch)
        except Fenced as fenced:
            applier.rollback()
            logger.warning("%s; reading the progress again", fenced)
            self._position_due = True
            return
        for place, (_, after) in batch.progress.items():
            self._stored[place] = after
            self._beginning.passed(place, after)
        self._ended(outcome)
        self._hint()
        self._lag(messages[-1])

    def _batch(self, messages: list[Message]) -> Batch:
        batch = Batch()
        for message in messages:
            topic, partition, offset = message.topic() or "", message.partition() or 0, message.offset() or 0
            place = (topic, partition)
            if place not in self._stored or offset < self._stored[place]:
                continue
            batch.progress[place] = (self._stored[place], offset + 1)
            entity, value = self._entity_of[topic], message.value()
            if value is None:  # a tombstone says no more than the record before it
                self._metrics.count(entity, State.UNCHANGED)
                continue
            try:
                record = self._decode(entity, value)
                if record.mend is None and self._beginning.is_overtaken(place, offset, message.key()):
                    self._metrics.count(entity, State.SUPERSEDED)
                else:
                    batch.tasks.append(Task(record, topic, partition, offset, value))
            except SchemaError as error:
                told = f"{error}; it is passed over, its thing waits for a good record"
                batch.unreadable.append(Unreadable(entity, topic, partition, offset, message.key(), value, told, type(error).__name__))
        return batch

    def _ended(self, outcome: Outcome) -> None:
        self._metrics.ended(outcome, int(self._clock() * 1e6))
        for dead in outcome.deads:
            logger.warning("%s: dead letter [%s]; `concord dead list` says why", dead.task, dead.code)  # the why may quote the row
        for message in outcome.unreadable:
            where = f"{message.topic}@{message.partition}/{message.offset}"
            logger.warning("%s: dead letter [%s]; `concord dead list` says why", where, message.code)
        self._dead_letters.send(outcome)
        if outcome.parks:
            self._care_at = min(self._care_at, time.monotonic() + 0.2)  # what it waits for may have come through another worker just now

    def _care(self) -> None:
        """Every few seconds: whether our tables have grown, parked records whose time may have come, and how many wait."""
        now = time.monotonic()
        if now < self._care_at or self._position_due:
            return
        self._care_at = now + CARE_SECONDS
        self._retried(self._sweep)

    def _sweep(self) -> None:
        applier = self._the_applier()
        self._analyse()
        if self._count_waiting():
            outcome = applier.sweep()
            if outcome.wrote or outcome.ends or outcome.deads:
                self._ended(outcome)
                self._count_waiting()

    def _analyse(self) -> None:
        """Has PostgreSQL look at our tables once they have doubled: autovacuum comes a minute later. Until somebody does, one index of
        theirs is as good as another to it, and with the wrong one each look reads every entry of the system. The tables are the login's,
        not the role's under which it writes. A help only: where it fails, autovacuum does it."""
        assert self._conn is not None
        now = time.monotonic()
        if now < self._analyse_at:
            return
        try:
            with translated(f"analysing our tables in {self.system}"):
                if grown := self._conn.execute(GROWN).fetchall():
                    with self._conn.transaction():
                        self._conn.execute("SET LOCAL ROLE NONE")
                        for (table,) in grown:
                            self._conn.execute(f"ANALYZE (SKIP_LOCKED) concord.{table}".encode())
        except ConcordError as error:
            self._analyse_at = now + ANALYSE_AGAIN_SECONDS
            logger.warning("%s; until autovacuum comes, plans may be slow", error)

    def _count_waiting(self) -> bool:
        """Sets the gauges; whether anything is parked."""
        assert self._conn is not None
        with translated(f"counting what waits in {self.system}"):
            rows = self._conn.execute(COUNT_WAITING).fetchall()
        found: dict[str, dict[str, int]] = {what: dict.fromkeys(known, 0) for what, known in self._known_waiting.items()}
        for what, entity, number in rows:
            found[what][entity] = number
            self._known_waiting[what].add(entity)
        self._metrics.waiting(found["parked"], found["dead"])
        return any(found["parked"].values())

    # trying again

    def _retried(self, do: Callable[[], None]) -> None:
        """Does it, again and again while the database or the registry does not answer.

        Gives up on a stop, or when partitions changed hands.
        """
        wait, epoch, paused = FIRST_WAIT, self._epoch, False
        while True:
            try:
                do()
                break
            except Retriable as error:
                self._metrics.retries.inc()
                self.health.turned()
                self.health.waits("the target or the registry does not answer, or asked to try again")
                (logger.warning if not paused else logger.debug)("%s; trying again until it works", error)
                if self._applier is not None:
                    self._applier.rollback()
                if not paused:
                    self._pause(True)
                    paused = True
                self._wait(wait * random.uniform(0.5, 1.0))
                wait = min(wait * 2, LONGEST_WAIT)
                if self._stopping or self._epoch != epoch:
                    self._position_due = not self._stopping
                    break
                if self._lost_connection():
                    # the commit may have gone through before the line broke: only the database knows
                    self._position_due = True
                    break
        if paused:
            self._pause(False)
        if paused and not self._position_due:
            self.health.ready()

    def _wait(self, seconds: float) -> None:
        """Waits, and stays a member of the group."""
        until = time.monotonic() + seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            message = self._the_consumer().poll(min(left, POLL_SECONDS))
            if message is not None:
                self._kept.append(message)

    def _pause(self, on: bool) -> None:
        consumer = self._the_consumer()
        with suppress(KafkaException):  # partitions that have just gone
            (consumer.pause if on else consumer.resume)(consumer.assignment())

    # the database

    def _lost_connection(self) -> bool:
        return self._conn is None or self._conn.closed or self._conn.broken

    def _the_applier(self) -> Applier:
        """Raises Retriable when the database does not answer."""
        if self._applier is None or self._lost_connection():
            self._disconnect()
            conn, origin = open_session(self.system, self._settings, f"concord sink {self.system} {self.worker}", self.worker)
            self._conn = conn
            logger.info("writing to %s under origin %s", self.system, origin)
            self._applier = Applier(conn, self._pipeline, self.system, self._decode)
        return self._applier

    def _disconnect(self) -> None:
        if self._conn is not None:
            self._conn.close()
        self._conn = self._applier = None

    # Kafka

    def _the_consumer(self) -> Consumer:
        assert self._consumer is not None, "not running"
        return self._consumer

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._epoch += 1
        self._assigned = partitions
        self._position_due = True
        self.health.waits("where to go on is not read from the target yet")
        consumer.assign([])  # nothing is fetched before the database has said from where

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._epoch += 1
        self._assigned = []
        self._stored.clear()
        self._kept.clear()
        self._position_due = False
        self.health.waits("no partitions are assigned yet")
        consumer.unassign()

    def _position(self) -> None:
        """I2: the database says where to go on."""
        places = [(partition.topic, partition.partition) for partition in self._assigned]
        stored = self._the_applier().positions(places) if places else {}
        self._beginning.look({place: stored[place] for place in places})
        start = [TopicPartition(topic, partition, stored[topic, partition] or OFFSET_BEGINNING) for topic, partition in places]
        self._the_consumer().assign(start)
        self._stored = stored
        self._kept.clear()
        self._position_due = False
        self.ready.set()
        self.health.ready()

    def _hint(self) -> None:
        """Tells Kafka how far we are, for those who look there. Never read back (I2)."""
        now = time.monotonic()
        if now < self._hint_at:
            return
        self._hint_at = now + HINT_SECONDS
        with suppress(KafkaException):
            offsets = [TopicPartition(topic, partition, offset) for (topic, partition), offset in self._stored.items() if offset]
            if offsets:
                self._the_consumer().commit(offsets=offsets, asynchronous=True)

    def _lag(self, latest: Message | None) -> None:
        """Lag as far as the client knows without asking."""
        consumer, behind = self._the_consumer(), 0
        for (topic, partition), stored in self._stored.items():
            marks: Mapping[int, int] | Any = None
            with suppress(KafkaException):
                marks = consumer.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
            if marks and marks[1] > 0:
                behind += max(marks[1] - stored, 0)
        self._metrics.lag_events.set(behind)
        if not behind:
            self._metrics.lag_seconds.set(0)
        elif latest is not None:
            _, written_ms = latest.timestamp()
            self._metrics.lag_seconds.set(max(self._clock() - written_ms / 1000, 0))

    def _close(self) -> None:
        self._dead_letters.close()
        if self._consumer is not None:
            self._hint_at = 0
            self._hint()
            self._consumer.close()
        self._disconnect()
