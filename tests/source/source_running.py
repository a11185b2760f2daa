"""A source on a real database and a real broker, and what comes out of it, for the tests beside this file."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import fastavro
import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from connectors.source.connector import Source, SourceSettings
from console.grants import Wanted, carry_out, login_of, statements
from schemas.errors import ConcordError
from schemas.registry import MemoryRegistry
from schemas.serde import Codec, schema_id_of
from tests.services import SECRET, our_login

DEADLINE = 60.0


def wait_for(effect: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """What `effect` gives once that is true; fails, naming `what`, when it does not come about."""
    until = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        found = effect()
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"in {seconds} s it did not come about: {what}")
        pause.wait(0.02)


@dataclass
class Record:
    topic: str
    partition: int
    offset: int
    key: Any  # as the JSON converter prints it
    value: Any
    headers: list[tuple[str, bytes]]
    raw_key: bytes | None
    raw_value: bytes | None

    @property
    def op(self) -> str | None:
        return None if self.value is None else self.value["op"]

    def header(self, name: str) -> Any:
        return next((json.loads(value) for header, value in self.headers if header == name), None)


def connect_json(datum: Any, schema: Any, row: bool = False) -> Any:
    """An Avro datum as Connect's JSON converter prints it."""
    if isinstance(datum, bytes):
        return base64.b64encode(datum).decode()
    if isinstance(datum, list):
        return [connect_json(item, None) for item in datum]
    if isinstance(datum, dict):
        return {name: connect_json(item, None) for name, item in datum.items()}
    if isinstance(datum, Decimal):
        raise AssertionError("logical types are to be left out here")
    if isinstance(datum, float) and (datum != datum or datum in (float("inf"), float("-inf"))):
        return {"inf": "Infinity", "-inf": "-Infinity"}.get(str(datum), "NaN")
    return datum


def physical(schema: Any) -> Any:
    """A schema without logical types: decimals stay bytes."""
    if isinstance(schema, dict):
        return {
            name: physical(part) for name, part in schema.items() if name not in ("logicalType", "__named_schemas", "__fastavro_parsed")
        }
    if isinstance(schema, list):
        return [physical(part) for part in schema]
    return schema


class Reader:
    """Reads topics from their beginning."""

    def __init__(self, kafka: str, registry: MemoryRegistry) -> None:
        self._kafka = kafka
        self._registry = registry
        self._schemas: dict[int, Any] = {}
        self._codec = Codec(registry)

    def _decode(self, data: bytes | None) -> Any:
        if data is None:
            return None
        schema_id = schema_id_of(data)
        if schema_id not in self._schemas:
            self._schemas[schema_id] = fastavro.parse_schema(physical(self._registry.schema(schema_id)))
        return connect_json(fastavro.schemaless_reader(io.BytesIO(data[5:]), self._schemas[schema_id], None), None)

    def read(
        self, topics: Iterable[str], enough: Callable[[list[Record]], bool], seconds: float = DEADLINE, decode: bool = True
    ) -> list[Record]:
        """Records of these topics, grouped by topic, each in offset order, once there are `enough`."""
        consumer = Consumer(
            {"bootstrap.servers": self._kafka, "group.id": "source-tests", "auto.offset.reset": "earliest", "fetch.wait.max.ms": 50}
        )
        names = list(topics)
        found: list[Record] = []
        try:
            partitions: list[TopicPartition] = []
            waited: set[str] = set()
            until = time.monotonic() + seconds
            while len(waited) < len(names):
                known = consumer.list_topics(timeout=10).topics
                for name in names:
                    if name in known and name not in waited and known[name].partitions:
                        waited.add(name)
                        partitions += [TopicPartition(name, partition, 0) for partition in known[name].partitions]
                if time.monotonic() > until:
                    raise AssertionError(f"topics {set(names) - waited} are not there")
            consumer.assign(partitions)
            while not enough(found):
                for message in consumer.consume(500, 0.1):
                    if message.error():
                        raise KafkaException(message.error())
                    key, value = message.key(), message.value()
                    assert key is None or isinstance(key, bytes)
                    found.append(
                        Record(
                            message.topic() or "",
                            message.partition() or 0,
                            message.offset() or 0,
                            self._decode(key) if decode else None,
                            self._decode(value) if decode else None,
                            list(message.headers() or []),  # type: ignore[arg-type]
                            key,
                            value,
                        )
                    )
                if time.monotonic() > until:
                    raise AssertionError(
                        f"in {seconds} s there came {len(found)} records, not enough: {[(r.topic, r.op, r.key) for r in found][-20:]}"
                    )
        finally:
            consumer.close()
        return sorted(found, key=lambda record: (names.index(record.topic), record.partition, record.offset))


@dataclass
class Running:
    """A source in a thread of this process."""

    settings: SourceSettings
    registry: MemoryRegistry
    reader: Reader
    source: Source = field(init=False)
    error: ConcordError | None = None
    _thread: threading.Thread | None = None

    def start(self) -> Running:
        self.source = Source(self.settings, self.registry)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        wait_for(lambda: self.source.ready.is_set() or self.error, "the source is streaming")
        return self

    def _run(self) -> None:
        try:
            self.source.run()
        except ConcordError as error:
            self.error = error

    def stop(self) -> None:
        if self._thread is not None:
            self.source.stop()
            self._thread.join(DEADLINE)
            assert not self._thread.is_alive(), "the source did not stop"
            self._thread = None

    def topic(self, table: str) -> str:
        return f"{self.settings.system}.public.{table}"

    def read(self, tables: Iterable[str], enough: Callable[[list[Record]], bool], seconds: float = DEADLINE) -> list[Record]:
        return self.reader.read([self.topic(table) for table in tables], enough, seconds)

    def snapshot_done(self, dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:
            wait_for(
                lambda: (
                    conn.execute(
                        "SELECT count(*) > 0 AND bool_and(done) FROM concord.snapshot WHERE pipeline = %s", (self.settings.slot,)
                    ).fetchone()
                    or [False]
                )[0],
                "the snapshot is finished",
            )


@contextlib.contextmanager
def a_source(
    kafka: str, dsn: str, system: str, tables: Iterable[str] | dict[str, set[str]], /, start: bool = True, admin: str = "", **settings: Any
) -> Iterator[Running]:
    """A source of these tables (of schema public), stopped at the end. `admin`: who may, where `dsn` is not the way for that."""
    login = our_login(dsn)
    needed = {("public", table): frozenset(tables[table] if isinstance(tables, dict) else ()) for table in tables}
    given: dict[str, Any] = {
        "system": system,
        "dsn": login,
        "slot": f"{system}_slot",
        "publication": f"{system}_pub",
        "tables": needed,
        "kafka": {"bootstrap.servers": kafka},
        "partitions": 1,
        "heartbeat_seconds": 0.3,
        **settings,
    }
    may_read(admin or dsn, system, given["publication"], needed)
    registry = MemoryRegistry()
    running = Running(SourceSettings(**given), registry, Reader(kafka, registry))
    try:
        yield running.start() if start else running
    finally:
        running.stop()
        admin = AdminClient({"bootstrap.servers": kafka})
        if f"dead.{system}" in admin.list_topics(timeout=30).topics:  # the others begin with the test's prefix
            admin.delete_topics([f"dead.{system}"])[f"dead.{system}"].result()


def may_read(dsn: str, system: str, publication: str, tables: Iterable[tuple[str, str]]) -> None:
    """The source's login, as `concord check --grant` makes it for a system that nothing is written to."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        there = {
            (schema, name)
            for schema, name in tables
            if admin.execute("SELECT to_regclass(%s)", (f'{schema}."{name}"',)).fetchone() != (None,)
        }
        login, password = login_of(our_login(dsn)), SECRET
        rights = {place: {"SELECT": None} for place in there}
        wanted = Wanted((system,), login, None, {publication: frozenset(there)} if there else {}, rights, ())
        carry_out(admin, statements(admin, wanted), login, password)


def run_sql(dsn: str, *statements: str) -> None:
    """Each statement in a transaction of its own."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())
