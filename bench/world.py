"""Where contestants meet: one Kafka and two PostgreSQL servers of the embedded stack, empty again for each of them.

Two servers of different major versions, both with `origin = none` (16 and newer), or logical replication could not go both ways.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from psycopg.conninfo import make_conninfo

from bench.usage import Parts
from console.stack import StackState, running
from examples.drive import HOME, drop_database, fresh_database

SYSTEMS = ("crm", "erp")
DATABASES = {"crm": "bench_crm", "erp": "bench_erp"}
WAIT_SECONDS = 120.0
_SUBSCRIPTIONS = "SELECT subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE datname = current_database()"
_NOT_YET = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION)

Say = Callable[[str], None]


class BenchError(Exception):
    """A contestant, or the bench itself, did not do what it has to; says what."""


@dataclass
class World:
    """`dsns` change with `fresh`."""

    state: StackState
    folder: Path  # of this run, for logs and what the contestants keep; gone afterwards
    say: Say
    dsns: dict[str, str] = field(default_factory=dict)
    runs: int = 0

    @property
    def bootstrap(self) -> str:
        assert self.state.kafka is not None
        return self.state.kafka.bootstrap

    @property
    def servers(self) -> dict[str, str]:
        """System → a superuser's DSN on its server."""
        return {"crm": self.state.postgres[0].dsn, "erp": self.state.postgres[-1].dsn}

    def fresh(self) -> dict[str, str]:
        """Both databases empty and no topics, whatever was there before; system → DSN."""
        self.runs += 1
        for system, server in self.servers.items():
            self._drop(server, DATABASES[system])
            self.dsns[system] = fresh_database(server, DATABASES[system])
        self._drop_topics()
        return self.dsns

    @staticmethod
    def _drop(server: str, name: str) -> None:
        with psycopg.connect(server, autocommit=True) as admin:
            if not admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                return
            with psycopg.connect(make_conninfo(server, dbname=name), autocommit=True) as inside:
                for (subscription,) in inside.execute(_SUBSCRIPTIONS).fetchall():
                    inside.execute(f"ALTER SUBSCRIPTION {subscription} DISABLE".encode())
                    inside.execute(f"ALTER SUBSCRIPTION {subscription} SET (slot_name = NONE)".encode())
                    inside.execute(f"DROP SUBSCRIPTION {subscription}".encode())
            drop_database(admin, name)

    def new_folder(self, name: str) -> Path:
        """For a contestant's files, empty."""
        folder = self.folder / f"{name}-{self.runs}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def parts(self) -> Parts:
        """The servers' processes."""
        found: dict[str, list[int]] = {"Kafka": [], "PostgreSQL": []}
        for process in psutil.Process(self.state.guard_pid).children():
            kafka = any("kafka.Kafka" in word for word in process.cmdline())
            found["Kafka" if kafka else "PostgreSQL"].append(process.pid)
        return found

    def _drop_topics(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

        def left() -> list[str]:
            return [topic for topic in admin.list_topics(timeout=30).topics if not topic.startswith("__")]

        if found := left():
            for deletion in admin.delete_topics(found, operation_timeout=30).values():
                deletion.result(30)
        until(lambda: not left(), "Kafka does not delete the topics of the run before")


class Ends:
    """How many records topics have: asks for the offsets of their ends, which costs the broker next to nothing."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench-ends", "enable.auto.commit": False, "log_level": 0})
        self._partitions: dict[str, list[int]] = {}

    def count(self, topic: str) -> int:
        """0 when it is not there."""
        if topic not in self._partitions:
            found = self._consumer.list_topics(topic, timeout=30).topics.get(topic)
            if found is None or found.error is not None or not found.partitions:
                return 0
            self._partitions[topic] = list(found.partitions)
        try:
            ends = [self._consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=30) for number in self._partitions[topic]]
        except KafkaException as error:
            if error.args[0].code() in _NOT_YET:
                return 0
            raise
        return sum(high for _, high in ends)

    def close(self) -> None:
        self._consumer.close()


def until(is_so: Callable[[], object], otherwise: str, seconds: float = WAIT_SECONDS, every: float = 0.05) -> None:
    """Returns as soon as it is so. Raises BenchError with `otherwise` when it is not in time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise BenchError(f"{otherwise} after {seconds:g} s")
        time.sleep(every)


@contextmanager
def a_world(folder: Path, run: str, postgres: tuple[int | None, ...], say: Say) -> Iterator[World]:
    """The servers for the length of the block; they end with this process, however it ends. Kafka runs with both of Java's compilers, as a
    broker does that has been there for days: it takes a minute to get warm."""
    os.environ.setdefault("KAFKA_JVM_PERFORMANCE_OPTS", "-XX:+UseSerialGC")
    with running(HOME, run=run, postgres=postgres, ephemeral=True, progress=say) as state:
        yield World(state, folder, say)


def merged(*parts: Mapping[str, list[int]]) -> Parts:
    """Parts of several, by name."""
    found: dict[str, list[int]] = {}
    for one in parts:
        for name, pids in one.items():
            found.setdefault(name, []).extend(pids)
    return found
