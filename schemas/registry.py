"""Where Avro schemas are kept: an id of 31 bits ↔ a schema.

Embedded (the default): the compacted topic `concord.schemas`, no further server. Ids are derived from the schema, so two processes which
register the same schema at once give it the same id:

    key    the id, in decimal
    value  {"id": 1234, "subject": "crm.public.account-value", "schema": {…}}

Or an outside registry that speaks Confluent's API (`registry: {url: …}`), through confluent-kafka's client, imported only then.

This is the one part of `schemas` that does I/O.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import fastavro
import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic  # confluent_kafka.admin has it too, but does not say so to type checkers
from fastavro.types import Schema

from schemas.errors import Refused, Retriable, SchemaError, UnknownSchema
from schemas.topics import SCHEMAS

logger = logging.getLogger(__name__)
_library = logging.getLogger("kafka.registry")  # librdkafka's own lines

MISS_SECONDS = 2.0  # how long a look-up waits for a schema that its writer may just be registering
FORGIVE_SECONDS = 30.0  # an id that was not there is not waited for again so soon: garbage must not cost two seconds a record
REGISTER_SECONDS = 20.0


class Registry(Protocol):
    """Threads: implementations are safe to share."""

    def register(self, subject: str, schema: dict[str, Any]) -> int:
        """The id of `schema`, durably stored when this returns. Raises SchemaError for no Avro schema, Retriable, Refused."""

    def schema(self, schema_id: int) -> Schema:
        """The parsed schema. Raises UnknownSchema when the registry has none by this id, Retriable when it cannot be asked."""

    def known(self, schema_id: int) -> bool:
        """Whether `schema` would answer at once, without waiting."""

    def close(self) -> None: ...


def fingerprint(schema: Mapping[str, Any], salt: int = 0) -> int:
    """31 bits of the SHA-256 of the schema's JSON with sorted keys. `salt` moves on to the next id should two schemas meet in one."""
    digest = hashlib.sha256(orjson.dumps(schema, option=orjson.OPT_SORT_KEYS) + b"\0" * salt).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _parsed(schema: Mapping[str, Any]) -> Schema:
    try:
        return fastavro.parse_schema(dict(schema))
    except (fastavro.schema.SchemaParseException, fastavro.schema.UnknownType, KeyError, TypeError, ValueError) as error:
        raise SchemaError(f"not an Avro schema: {error!r}") from error


class _Store:
    """id → schema, in memory."""

    def __init__(self) -> None:
        self.parsed: dict[int, Schema] = {}
        self._json: dict[int, bytes] = {}

    def add(self, schema_id: int, schema: Mapping[str, Any]) -> None:
        self.parsed[schema_id] = _parsed(schema)
        self._json[schema_id] = orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)

    def id_for(self, schema: Mapping[str, Any]) -> tuple[int, bool]:
        """(the id that this schema has or will have, whether it is there)."""
        text = orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)
        salt = 0
        while True:
            schema_id = fingerprint(schema, salt)
            there = self._json.get(schema_id)
            if there is None or there == text:
                return schema_id, there is not None
            salt += 1


class MemoryRegistry:
    """A registry of one process, for trying things out without Kafka."""

    def __init__(self) -> None:
        self._store = _Store()

    def register(self, subject: str, schema: dict[str, Any]) -> int:
        schema_id, there = self._store.id_for(schema)
        if not there:
            self._store.add(schema_id, schema)
        return schema_id

    def schema(self, schema_id: int) -> Schema:
        if (found := self._store.parsed.get(schema_id)) is None:
            raise UnknownSchema(f"no schema with id {schema_id}")
        return found

    def known(self, schema_id: int) -> bool:
        return schema_id in self._store.parsed

    def close(self) -> None:
        pass


class EmbeddedRegistry:
    """The registry on a compacted topic. `settings` are librdkafka's (at least `bootstrap.servers`)."""

    def __init__(
        self, settings: Mapping[str, Any], replication: int = 1, topic: str = SCHEMAS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = dict(settings)
        self._replication = replication
        self._topic = topic
        self._clock = clock
        self._store = _Store()
        self._missed: dict[int, float] = {}
        self._lock = threading.RLock()
        self._reader: Consumer | None = None
        self._next_offset = 0

    # reading

    def schema(self, schema_id: int) -> Schema:
        found = self._store.parsed.get(schema_id)
        if found is not None:
            return found
        with self._lock:
            missed = self._missed.get(schema_id)
            waited_for_already = missed is not None and self._clock() - missed < FORGIVE_SECONDS
            self._read_until(lambda: schema_id in self._store.parsed, 0 if waited_for_already else MISS_SECONDS)
            found = self._store.parsed.get(schema_id)
            if found is not None:
                self._missed.pop(schema_id, None)
                return found
            if not waited_for_already:
                if len(self._missed) > 10_000:  # garbage has as many ids as it likes
                    self._missed.clear()
                self._missed[schema_id] = self._clock()
            raise UnknownSchema(f"no schema with id {schema_id} on topic {self._topic}")

    def known(self, schema_id: int) -> bool:
        return schema_id in self._store.parsed

    def _read_until(self, enough: Callable[[], bool], seconds: float) -> None:
        """Reads at least to the present end of the topic, then waits until `enough()` for up to `seconds`.

        Raises Retriable when the end could not be reached: then nothing can be said about what is there.
        """
        reader = self._reader or self._open()
        self._take(reader.consume(500, 0))
        if enough():
            return
        end = self._end(reader)
        deadline, end_deadline = self._clock() + seconds, self._clock() + REGISTER_SECONDS
        while not enough():
            now = self._clock()
            at_end = self._position(reader) >= end
            if at_end and now >= deadline:
                return
            if not at_end and now >= end_deadline:
                raise Retriable(f"reading topic {self._topic}: at offset {self._next_offset} of {end} after {REGISTER_SECONDS} s")
            self._take(reader.consume(500, 0.05 if not at_end else min(0.05, max(deadline - now, 0.001))))

    def _end(self, reader: Consumer) -> int:
        """The offset after the last record of the topic."""
        deadline = self._clock() + REGISTER_SECONDS
        while True:
            try:
                offsets = reader.get_watermark_offsets(TopicPartition(self._topic, 0), timeout=REGISTER_SECONDS)
                return int(offsets[1])
            except KafkaException as error:
                young = error.args[0].code() in (
                    KafkaError._UNKNOWN_PARTITION,
                    KafkaError.UNKNOWN_TOPIC_OR_PART,
                    KafkaError.LEADER_NOT_AVAILABLE,
                    KafkaError.NOT_LEADER_FOR_PARTITION,
                )
                if not young or self._clock() > deadline:  # a topic just made is not known everywhere at once
                    raise Retriable(f"reading topic {self._topic}: {error.args[0]}") from error
                self._take(reader.consume(500, 0.05))

    def _position(self, reader: Consumer) -> int:
        # after compaction offsets have holes at the end of the topic, the consumer's own position steps over them
        at = reader.position([TopicPartition(self._topic, 0)])[0].offset
        return max(self._next_offset, at)

    def _take(self, messages: list[Message]) -> None:
        for message in messages:
            problem = message.error()
            if problem is not None:
                if problem.code() == KafkaError._PARTITION_EOF:
                    self._next_offset = max(self._next_offset, message.offset() or 0)
                continue
            self._next_offset = (message.offset() or 0) + 1
            try:
                record = orjson.loads(message.value() or b"null")
                if record is not None:
                    self._store.add(int(record["id"]), record["schema"])
            except (ValueError, KeyError, TypeError, SchemaError) as error:
                logger.warning("%s@%s is no schema, passed over: %s", self._topic, message.offset(), error)

    def _open(self) -> Consumer:
        self._create_topic()
        reader = Consumer(
            {
                **self._settings,
                "group.id": "concord-schemas",  # librdkafka wants one; nothing is committed under it
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 100,
            },
            logger=_library,
        )
        reader.assign([TopicPartition(self._topic, 0, 0)])
        self._reader = reader
        return reader

    def _create_topic(self) -> None:
        admin = AdminClient(dict(self._settings), logger=_library)
        topic = NewTopic(self._topic, num_partitions=1, replication_factor=self._replication, config={"cleanup.policy": "compact"})
        try:
            admin.create_topics([topic], request_timeout=REGISTER_SECONDS)[self._topic].result()
        except KafkaException as error:
            problem = error.args[0]
            if problem.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise Retriable(f"creating topic {self._topic}: {problem}") from error

    # writing

    def register(self, subject: str, schema: dict[str, Any]) -> int:
        _parsed(schema)
        with self._lock:
            schema_id, there = self._store.id_for(schema)
            if there:
                return schema_id
            self._read_until(lambda: False, 0)
            schema_id, there = self._store.id_for(schema)
            if not there:
                self._write(schema_id, orjson.dumps({"id": schema_id, "subject": subject, "schema": schema}))
                self._store.add(schema_id, schema)
            return schema_id

    def _write(self, schema_id: int, record: bytes) -> None:
        outcome: list[KafkaError | None] = []
        producer = Producer({**self._settings, "acks": "all", "enable.idempotence": True, "linger.ms": 0}, logger=_library)
        producer.produce(self._topic, record, str(schema_id), on_delivery=lambda error, _: outcome.append(error))
        producer.flush(REGISTER_SECONDS)
        if not outcome or outcome[0] is not None:
            raise Retriable(f"writing schema {schema_id} to topic {self._topic}: {outcome[0] if outcome else 'no answer'}")

    def close(self) -> None:
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
                self._next_offset = 0


class ConfluentRegistry:
    """An outside registry that speaks Confluent's API. Needs the extra `concord[registry]`."""

    def __init__(self, url: str, settings: Mapping[str, Any] | None = None) -> None:
        # lazily: the client brings half a dozen packages that the embedded registry does not need
        from confluent_kafka.schema_registry import SchemaRegistryClient

        self._client = SchemaRegistryClient({"url": url, **(settings or {})})
        self._url = url
        self._parsed: dict[int, Schema] = {}
        self._missed: dict[int, float] = {}

    def register(self, subject: str, schema: dict[str, Any]) -> int:
        from confluent_kafka.schema_registry import Schema as RegistrySchema

        parsed = _parsed(schema)
        schema_id = int(
            self._asked(f"registering {subject}", lambda: self._client.register_schema(subject, RegistrySchema(json.dumps(schema), "AVRO")))
        )
        self._parsed[schema_id] = parsed
        return schema_id

    def schema(self, schema_id: int) -> Schema:
        found = self._parsed.get(schema_id)
        if found is not None:
            return found
        missed = self._missed.get(schema_id)
        if missed is not None and time.monotonic() - missed < FORGIVE_SECONDS:
            raise UnknownSchema(f"no schema with id {schema_id} at {self._url}")
        try:
            answer = self._asked(f"looking up schema {schema_id}", lambda: self._client.get_schema(schema_id))
        except UnknownSchema:
            self._missed[schema_id] = time.monotonic()
            raise
        self._parsed[schema_id] = parsed = _parsed(json.loads(answer.schema_str))
        return parsed

    def known(self, schema_id: int) -> bool:
        return schema_id in self._parsed

    def close(self) -> None:
        pass

    def _asked(self, doing: str, ask: Callable[[], Any]) -> Any:
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        try:
            return ask()
        except SchemaRegistryError as error:
            message = f"{doing} at {self._url}: {error.error_message} [{error.error_code}]"
            if error.http_status_code == 404:
                raise UnknownSchema(message) from error
            if error.http_status_code >= 500 or error.http_status_code in (408, 429):
                raise Retriable(message) from error
            raise Refused(message, str(error.error_code)) from error
        except _http_error() as error:
            raise Retriable(f"{doing} at {self._url}: {error!r}") from error


def _http_error() -> type[Exception]:
    """What confluent-kafka's HTTP client raises when the registry does not answer: httpx's, since 2.16.1 httpx2's."""
    client = "httpx2" if importlib.util.find_spec("httpx2") is not None else "httpx"
    found: type[Exception] = importlib.import_module(client).HTTPError
    return found


class _KafkaConfig(Protocol):
    @property
    def bootstrap(self) -> str: ...
    @property
    def replication(self) -> int: ...
    @property
    def settings(self) -> Mapping[str, str]: ...


class _RegistryConfig(Protocol):
    @property
    def url(self) -> str | None: ...


def open_registry(kafka: _KafkaConfig, registry: _RegistryConfig) -> Registry:
    """The registry that `concord.yaml` names: the embedded one without a url. Nothing is connected before the first call."""
    if registry.url:
        return ConfluentRegistry(registry.url)
    return EmbeddedRegistry({"bootstrap.servers": kafka.bootstrap, **kafka.settings}, kafka.replication)
