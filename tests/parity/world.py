"""One database, our source and three Debezium connectors on it, and what each of them writes about the same commits.

ours    our source, Avro
usual   Debezium with its own defaults for values (JSON with schemas; nulls not replaced): what our source's events are to be
told    Debezium as `concord up --source debezium` tells it, JSON with schemas
plain   the same, JSON without schemas
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from connectors.debezium.connect import Connect
from connectors.debezium.settings import connector_settings, worker_settings
from connectors.debezium.watching import Captured
from connectors.debezium.worker import DebeziumWorker, Program
from connectors.postgres import connect
from connectors.source.connector import Source, SourceSettings
from connectors.source.slot import slot_state
from console.stack import debezium as jars
from console.stack import free_port
from schemas.config import Config, parse
from schemas.lsn import Lsn
from schemas.registry import MemoryRegistry
from streams.transport import Record

OURS, USUAL, TOLD, PLAIN = "ours", "usual", "told", "plain"
READERS = (OURS, USUAL, TOLD, PLAIN)
PUBLICATION = "parity"
PATIENCE = 180.0
USUAL_VALUES = ("decimal.handling.mode", "interval.handling.mode", "hstore.handling.mode")  # settings that `usual` leaves out


class ParityError(Exception):
    """It could not be compared."""


def until(is_so: Callable[[], object], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            raise ParityError(f"{otherwise} after {PATIENCE:g} s")
        time.sleep(0.3)


@dataclass
class World:
    """What is written about one database."""

    dsn: str
    kafka: str
    tables: tuple[str, ...]
    keyless: tuple[str, ...]  # tables that have no primary key: our source does not read what is in them, only what comes
    registry: MemoryRegistry = field(default_factory=MemoryRegistry)
    records: dict[str, list[Record]] = field(default_factory=dict)  # reader → all that it wrote, each topic in order

    def run(self, *statements: str) -> None:
        """Each statement in a transaction of its own, if it does not say otherwise."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement.encode())

    def lsn(self) -> int:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            row = conn.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::int8").fetchone()
        assert row is not None
        return int(row[0])

    def all_confirmed(self) -> None:
        """Returns when Kafka has everything that is in the log now, from each of them."""
        wanted = self.lsn()
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            for reader in READERS:
                until(partial(self._confirmed, conn, reader, wanted), f"{reader} has not confirmed the log")

    @staticmethod
    def _confirmed(conn: psycopg.Connection[Any], reader: str, wanted: int) -> bool:
        state = slot_state(conn, reader)
        conn.execute("SELECT pg_logical_emit_message(false, 'parity', '')")  # something to confirm beyond
        return state is not None and state.active and state.confirmed >= Lsn(wanted)

    def read(self) -> None:
        """All topics from their beginning to where they end now."""
        admin = AdminClient({"bootstrap.servers": self.kafka})
        found = admin.list_topics(timeout=30).topics
        consumer = Consumer({"bootstrap.servers": self.kafka, "group.id": "parity", "enable.auto.commit": False})
        try:
            for reader in READERS:
                parts = [
                    TopicPartition(name, number, 0)
                    for name, topic in found.items()
                    if name.startswith(f"{reader}.")
                    for number in topic.partitions
                ]
                self.records[reader] = sorted(_all(consumer, parts), key=lambda record: (record.topic, record.partition, record.offset))
        finally:
            consumer.close()


def _all(consumer: Consumer, parts: list[TopicPartition]) -> Iterator[Record]:
    ends = {(part.topic, part.partition): consumer.get_watermark_offsets(part, timeout=30)[1] for part in parts}
    left = sum(ends.values())
    consumer.assign(parts)
    while left:
        for message in consumer.consume(1000, 1.0):
            if message.error():
                raise ParityError(str(message.error()))
            where = message.topic() or "", message.partition() or 0
            if (message.offset() or 0) < ends[where]:
                left -= 1
                headers: Any = message.headers() or []
                key, value = message.key(), message.value()
                stamp = message.timestamp()[1]
                yield Record(*where, message.offset() or 0, stamp, key, value, headers)  # type: ignore[arg-type]


# ── starting ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def a_world(world: World, folder: Path, home: Path, say: Callable[[str], None]) -> Iterator[World]:
    """Both connectors at work on tables of `public` that are there; what is in them is read first."""
    names = ", ".join(f'"{table}"' for table in world.tables)
    world.run(f"CREATE PUBLICATION {PUBLICATION} FOR TABLE {names} WITH (publish_via_partition_root = true)")
    with _our_source(world, say), _debezium(world, folder, home, say):
        yield world


@contextlib.contextmanager
def _our_source(world: World, say: Callable[[str], None]) -> Iterator[None]:
    tables: dict[tuple[str, str], frozenset[str]] = {("public", table): frozenset() for table in world.tables}
    settings = SourceSettings(
        system=OURS,
        dsn=world.dsn,
        slot=OURS,
        publication=PUBLICATION,
        tables=tables,
        kafka={"bootstrap.servers": world.kafka},
        partitions=1,
        heartbeat_seconds=0.3,
    )
    source = Source(settings, world.registry)
    failed: list[BaseException] = []
    thread = threading.Thread(target=_noting, args=(source.run, failed), daemon=True)
    thread.start()
    try:
        until(lambda: source.ready.is_set() or failed, "our source does not stream")
        with psycopg.connect(world.dsn, autocommit=True) as conn:
            until(lambda: failed or _read_all(conn), "our source has not read the tables")
        if failed:
            raise ParityError(f"our source: {failed[0]}")
        if world.keyless:
            world.run(f"ALTER PUBLICATION {PUBLICATION} ADD TABLE {', '.join(world.keyless)}")
            tables.update({("public", table): frozenset() for table in world.keyless})
        say("our source streams")
        yield
    finally:
        source.stop()
        thread.join(30)


def _read_all(conn: psycopg.Connection[Any]) -> bool:
    row = conn.execute("SELECT count(*) > 0 AND bool_and(done) FROM concord.snapshot WHERE pipeline = %s", (OURS,)).fetchone()
    return bool(row and row[0])


def _noting(run: Callable[[], None], failed: list[BaseException]) -> None:
    try:
        run()
    except Exception as error:
        failed.append(error)


def a_config(world: World) -> Config:
    systems = {name: {"dsn": world.dsn, "rank": rank, "heartbeat_seconds": 1} for rank, name in enumerate(READERS)}
    entity = {name: {"table": "f_default"} for name in READERS}
    return parse(
        {
            "name": "parity",
            "kafka": {"bootstrap": world.kafka},
            "systems": {name: {**told, "slot": name, "publication": PUBLICATION} for name, told in systems.items()},
            "entities": {"thing": {**entity, "fields": {"a": dict.fromkeys(READERS, "a")}}},
        }
    )


def debezium_settings(world: World) -> dict[str, dict[str, str]]:
    """Of the three connectors, by the reader they are."""
    tables = [("public", table) for table in (*world.tables, *world.keyless)]
    config = a_config(world)
    usual = {name: value for name, value in connector_settings(config, USUAL, tables).items() if name not in USUAL_VALUES}
    plain = connector_settings(
        config.model_copy(update={"debezium": config.debezium.model_copy(update={"format": "json-plain"})}), PLAIN, tables
    )
    return {USUAL: usual, TOLD: connector_settings(config, TOLD, tables), PLAIN: plain}


@contextlib.contextmanager
def _debezium(world: World, folder: Path, home: Path, say: Callable[[str], None]) -> Iterator[None]:
    jars.fetch(home, say)
    port = free_port()
    config = a_config(world)
    program = Program(jars.command(home), worker_settings(config, port, jars.plugins(home)), f"http://127.0.0.1:{port}", folder)
    session = partial(connect, world.dsn)
    systems: Mapping[str, Captured] = {
        name: Captured(name, name, settings, name, (), session) for name, settings in debezium_settings(world).items()
    }
    worker = DebeziumWorker(program, systems, os.environ)
    failed: list[BaseException] = []
    thread = threading.Thread(target=_noting, args=(worker.run, failed), daemon=True)
    thread.start()
    try:
        until(lambda: worker.ready.is_set() or failed, f"Debezium does not stream, see {folder}")
        if failed:
            raise ParityError(f"Debezium: {failed[0]}")
        say(f"Debezium {Connect(program.url).has_debezium()} streams, three connectors")
        yield
    finally:
        worker.stop()
        thread.join(60)


# ── what is done to the database ──────────────────────────────────────────────────────────────────────────────────────────────────
