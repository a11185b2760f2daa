"""What the console asks Kafka: topics, where they end, how far a group has come, and what a small topic holds.

`translated` turns confluent-kafka's errors into ours by code: what librdkafka calls retriable, and everything that says "not now", is
Retriable.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec  # confluent_kafka.admin has these three, but does not say so to type checkers
from confluent_kafka.admin._metadata import ClusterMetadata
from confluent_kafka.cimpl import NewTopic

from schemas.config import Kafka
from schemas.errors import ConfigError, Problem, Refused, Retriable
from schemas.topics import Topic

logger = logging.getLogger(__name__)
_library = logging.getLogger("kafka.client")  # librdkafka's own lines

ANSWER_SECONDS = 10.0
SEND_BYTES = 64 << 20  # a captured row may be as large (connectors.source.delivery)
LOOK_SECONDS = 1.0  # after so long without an answer it is looked whether there was a refusal
LEADER_SECONDS = 3.0  # a partition that was just created, or is moving, has a leader again by then

_NOT_NOW = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._TRANSPORT,
    KafkaError._WAIT_COORD,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_CONTROLLER,
    KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}

T = TypeVar("T")
Partition = tuple[str, int]


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """confluent-kafka's errors as Retriable or Refused; all else passes."""
    try:
        yield
    except KafkaException as error:
        problem = error.args[0]
        message = f"{doing}: {problem.str()} [{problem.name()}]"
        if problem.retriable() or problem.code() in _NOT_NOW:
            raise Retriable(message) from error
        raise Refused(message, problem.name()) from error


def settings(kafka: Kafka) -> dict[str, Any]:
    """librdkafka's settings for any client of ours."""
    return {"bootstrap.servers": kafka.bootstrap, **kafka.settings, "logger": _library}


@dataclass(frozen=True, slots=True)
class Letter:
    """One message of a topic, as it is."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    ts_ms: int
    headers: Sequence[tuple[str, bytes]] = ()


class Cluster:
    """Kafka as the console sees it. Raises Retriable when it does not answer within `ANSWER_SECONDS`, with what TLS or the login said."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._refusal = ""  # what TLS or SASL said last: the call itself only says that there was no answer
        self._admin = AdminClient({**settings(kafka), "error_cb": self._heard})  # type: ignore[dict-item]

    def _heard(self, error: KafkaError) -> None:
        if error.code() in (KafkaError._SSL, KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
            self._refusal = f"{error.str()} [{error.name()}]"

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        self._refusal = ""
        try:
            with translated(doing):
                yield
        except Retriable as error:
            self._admin.poll(0)  # what was heard meanwhile
            if self._refusal:
                raise Retriable(f"{doing}: {self._refusal}; see kafka.settings (ssl.*, sasl.*)") from error
            raise

    def partitions(self, topics: Iterable[str]) -> dict[str, int]:
        """Topic → number of partitions, of those that exist."""
        wanted = set(topics)
        with self._asking(f"listing topics at {self._kafka.bootstrap}"):
            found = self._metadata().topics
            there = {name: told for name, told in found.items() if name in wanted}
            for told in there.values():
                if told.error is not None:
                    raise KafkaException(told.error)  # it is there and cannot be asked now: not the same as not there
        return {name: len(told.partitions) for name, told in there.items()}

    def ends(self, topics: Iterable[str]) -> dict[Partition, tuple[int, int]]:
        """(first, next) offset of each partition of those topics that exist."""
        partitions = [(name, number) for name, count in self.partitions(topics).items() for number in range(count)]
        low = self._offsets(partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        high = self._offsets(partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        return {partition: (low[partition], high[partition]) for partition in partitions}

    def since(self, ends: Mapping[Partition, tuple[int, int]], when: datetime) -> dict[Partition, int]:
        """The first record of each partition that was written at `when` or later; its end, if there is none."""
        spec = OffsetSpec.for_timestamp(int(when.timestamp() * 1000))
        found = self._offsets(list(ends), spec)
        return {at: found[at] if found[at] >= 0 else high for at, (_, high) in ends.items()}

    def kept(self, topic: str) -> timedelta | None:
        """For how long records of a topic are kept at least; None when its size may cut that short."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        with translated(f"asking how topic {topic} is kept"):
            told = _answer(self._admin.describe_configs([resource], request_timeout=ANSWER_SECONDS)[resource])
        if int(told["retention.bytes"].value or -1) >= 0:
            return None
        milliseconds = int(told["retention.ms"].value or -1)
        longest = timedelta.max // timedelta(milliseconds=1)
        return timedelta.max if milliseconds < 0 or milliseconds > longest else timedelta(milliseconds=milliseconds)

    def _offsets(self, partitions: Sequence[Partition], spec: OffsetSpec) -> dict[Partition, int]:
        if not partitions:
            return {}
        deadline = time.monotonic() + LEADER_SECONDS
        while True:
            try:
                with translated("asking where topics end"):
                    wanted = {TopicPartition(*partition): spec for partition in partitions}
                    asked = self._admin.list_offsets(wanted, request_timeout=ANSWER_SECONDS)
                    return {(at.topic, at.partition): _answer(future).offset for at, future in asked.items()}
            except Retriable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)  # a partition without a leader: just made, or just moving

    def committed(self, group: str, topics: Iterable[str]) -> dict[Partition, int]:
        """The next offset to read of each partition of these topics that the group has committed.

        Asked by a consumer that never joins: the admin client's own question ends the process (librdkafka's issue 5040) while the group's
        coordinator is not there yet, as in the first seconds of a new cluster.
        """
        partitions = [TopicPartition(name, number) for name, count in self.partitions(topics).items() for number in range(count)]
        if not partitions:
            return {}
        consumer = Consumer({**settings(self._kafka), "group.id": group, "enable.auto.commit": False})
        deadline = time.monotonic() + ANSWER_SECONDS
        try:
            while True:
                try:
                    with translated(f"asking how far group {group} has come"):
                        found = consumer.committed(partitions, timeout=ANSWER_SECONDS)
                    return {(at.topic, at.partition): at.offset for at in found if at.offset >= 0 and at.error is None}
                except Retriable:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)  # the coordinator is just being made, or moving
        finally:
            consumer.close()

    def brokers(self) -> int:
        with self._asking(f"asking Kafka at {self._kafka.bootstrap}"):
            return len(self._metadata().brokers)

    def _metadata(self) -> ClusterMetadata:
        """At once when TLS or the login was refused and nobody else answers: that does not pass by itself."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            asked = time.monotonic()
            try:
                return self._admin.list_topics(timeout=LOOK_SECONDS)
            except KafkaException:
                self._admin.poll(0)  # what was heard meanwhile
                if self._refusal or time.monotonic() - asked < LOOK_SECONDS or time.monotonic() > deadline:
                    raise

    def check(self, topics: Sequence[Topic]) -> list[Topic]:
        """Those that are not there.

        Raises ConfigError when one is there with another number of partitions: rows would not meet their answers any more.
        """
        there = self.partitions(topic.name for topic in topics)
        misfits = [topic for topic in topics if there.get(topic.name, topic.partitions) != topic.partitions]
        if misfits:
            raise ConfigError([_misfit(topic, there[topic.name]) for topic in misfits])
        return [topic for topic in topics if topic.name not in there]

    def ensure(self, topics: Sequence[Topic]) -> list[str]:
        """Creates those that are not there; returns their names. Raises as `check` does."""
        missing = self.check(topics)
        if not missing:
            return []
        wanted = [NewTopic(topic.name, topic.partitions, self._kafka.replication, config=topic.config) for topic in missing]
        created = []
        with translated("creating topics"):
            for name, future in self._admin.create_topics(wanted, request_timeout=ANSWER_SECONDS, operation_timeout=ANSWER_SECONDS).items():
                try:
                    _answer(future)
                    created.append(name)
                except KafkaException as error:
                    if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another part was faster
                        raise
        return created

    def read(self, topic: str, limit: int = 100_000, newest: bool = False) -> Iterator[Letter]:
        """What is in a topic now, at most `limit` messages, partition by partition; with `newest` the last ones. For small topics."""
        ends = {partition: span for partition, span in self.ends([topic]).items() if span[0] < span[1]}
        if not ends:
            return
        share = max(1, limit // len(ends))
        spans = {at: (max(low, high - share) if newest else low, high) for at, (low, high) in ends.items()}
        left = dict.fromkeys(ends, share)
        for message in self.scan(spans):
            left[topic, message.partition] -= 1
            if left[topic, message.partition] >= 0:
                yield message

    def scan(self, spans: Mapping[Partition, tuple[int, int]]) -> Iterator[Letter]:
        """Everything that is there from the first offset of each partition up to, not with, the second; each partition in order."""
        left = {at: end for at, (start, end) in spans.items() if start < end}
        if not left:
            return
        consumer = Consumer(
            {
                **settings(self._kafka),
                "group.id": "concord-console",  # librdkafka wants one; nothing is committed under it
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
            }
        )
        try:
            with translated(f"reading {', '.join(sorted({topic for topic, _ in left}))}"):
                consumer.assign([TopicPartition(*at, spans[at][0]) for at in left])
                while left:
                    first = consumer.poll(ANSWER_SECONDS)
                    if first is None:
                        raise Retriable(f"reading from Kafka: no answer within {ANSWER_SECONDS:g} s")
                    for message in (first, *consumer.consume(1_000, 0)):
                        at = (message.topic() or "", message.partition() or 0)
                        problem = message.error()
                        if problem is not None and problem.code() != KafkaError._PARTITION_EOF:
                            raise KafkaException(problem)
                        offset = message.offset() or 0
                        if problem is None and offset < left.get(at, 0):
                            yield _letter(message)
                        if at in left and (problem is not None or offset + 1 >= left[at]):
                            del left[at]
                            consumer.incremental_unassign([TopicPartition(*at)])
        finally:
            consumer.close()

    def send(self, letters: Sequence[Letter]) -> list[int]:
        """Writes these into their topics and partitions (-1: that of their key), in this order; returns where each ended up (offsets). What
        was sent before an error stays sent."""
        mine = {"acks": "all", "enable.idempotence": True, "message.max.bytes": SEND_BYTES, "partitioner": "murmur2_random"}
        producer = Producer({**settings(self._kafka), **mine})
        offsets = [-1] * len(letters)
        failed: list[KafkaError] = []

        def delivered(number: int, error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failed.append(error)
            else:
                offsets[number] = message.offset() or 0

        with translated("writing to Kafka"):
            for number, one in enumerate(letters):
                while True:
                    try:
                        producer.produce(
                            one.topic,
                            one.value,
                            one.key,
                            one.partition,
                            headers=list(one.headers),
                            on_delivery=partial(delivered, number),
                        )
                        break
                    except BufferError:
                        producer.poll(ANSWER_SECONDS)
            if producer.flush(ANSWER_SECONDS * 3):
                raise Retriable("writing to Kafka: no answer")
            if failed:
                raise KafkaException(failed[0])
        return offsets

    def members(self, group: str) -> int:
        """How many consumers a group has now."""
        with translated(f"asking who is in group {group}"):
            described = self._admin.describe_consumer_groups([group], request_timeout=ANSWER_SECONDS)[group]
            try:
                return len(_answer(described).members or ())
            except KafkaException as error:
                if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                    return 0
                raise


def _letter(message: Message) -> Letter:
    return Letter(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        message.key(),
        message.value(),
        message.timestamp()[1],
        message.headers() or (),  # type: ignore[arg-type]
    )


def _misfit(topic: Topic, there: int) -> Problem:
    return Problem(
        f"topic {topic.name}",
        f"has {there} partitions, the configuration wants {topic.partitions}",
        f"kafka.partitions: {there}, or another `name` for this pipeline and topics of its own",
    )


def _answer(future: Future[T]) -> T:
    return future.result(ANSWER_SECONDS + 5)


def lag(ends: Mapping[Partition, tuple[int, int]], reached: Mapping[Partition, int]) -> dict[Partition, int]:
    """Messages not read yet, per partition. A reader that has no offset yet has everything before it that is still there."""
    return {at: max(0, high - max(reached.get(at, low), low)) for at, (low, high) in ends.items()}
