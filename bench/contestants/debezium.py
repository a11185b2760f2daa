"""Real Debezium on Kafka Connect (standalone, one Java process): its PostgreSQL connector alone, and with its JDBC sink behind it.

`default` is a connector as one gets it: JSON with schemas, 500 ms between polls. `tuned` is the fastest that is known to us: larger
batches and queues, 5 ms, lz4, and for the connector alone JSON without schemas. The JDBC sink needs the schemas.
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from bench.usage import Parts
from bench.world import BenchError, World, until
from connectors.debezium.settings import properties
from console.stack import debezium as jars
from console.stack import free_port
from console.stack.jars import Jars
from examples.drive import HOME

POM = Path(__file__).with_name("debezium-jdbc.xml")
JDBC_VERSION = re.search(r"<jdbc\.version>(.+?)<", POM.read_text())[1]  # type: ignore[index]  # our own file
START_SECONDS = 90.0

_TUNED = {
    "max.batch.size": "8192",
    "max.queue.size": "32768",
    "poll.interval.ms": "5",
    "snapshot.fetch.size": "20480",
    "producer.override.batch.size": "262144",
    "producer.override.buffer.memory": "67108864",
    "producer.override.compression.type": "lz4",
}
SOURCES: dict[str, dict[str, str]] = {
    "default": {},
    "tuned": {
        **_TUNED,
        "producer.override.linger.ms": "5",
        "key.converter.schemas.enable": "false",
        "value.converter.schemas.enable": "false",
    },
}
_JSON = "org.apache.kafka.connect.json.JsonConverter"
_FOR_JDBC = {**_TUNED, "producer.override.linger.ms": "0", "snapshot.mode": "no_data"}
_SINK_TUNED = {"batch.size": "3000", "use.reduction.buffer": "true", "consumer.override.max.poll.records": "3000"}


def jdbc_jars(home: Path = HOME) -> Jars:
    return Jars(f"Debezium's JDBC sink {JDBC_VERSION}", POM, home.resolve() / "debezium" / "jdbc")


class _Connect:
    """A standalone worker with connectors, their settings by name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._connectors: tuple[str, ...] = ()
        self._port = 0

    def run(self, world: World, connectors: Mapping[str, Mapping[str, str]]) -> None:
        """Returns when all their tasks run."""
        jars.fetch(HOME, world.say)
        jdbc_jars().fetch(world.say)
        if self._folder is None:
            self._folder = world.new_folder("connect")
        folder, self._port = self._folder, free_port()
        worker = {
            "bootstrap.servers": world.bootstrap,
            "key.converter": _JSON,
            "value.converter": _JSON,
            "offset.storage.file.filename": str(folder / "offsets"),
            "offset.flush.interval.ms": "1000",
            "listeners": f"http://127.0.0.1:{self._port}",
            "plugin.path": ",".join(str(path) for path in (*jars.plugins(HOME), jdbc_jars().folder)),
            "plugin.discovery": "service_load",
            "connector.client.config.override.policy": "All",
            "topic.creation.enable": "true",
        }
        files = {"worker": worker, **connectors}
        for name, settings in files.items():
            (folder / f"{name}.properties").write_text(properties(settings))
        *java, _ = jars.command(HOME)
        command = [*java, "org.apache.kafka.connect.cli.ConnectStandalone", *(str(folder / f"{name}.properties") for name in files)]
        with (folder / "connect.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True)
        self._connectors = tuple(connectors)
        until(self.works, f"Debezium does not get to work, {self._last_words()}", START_SECONDS)

    def check(self) -> None:
        self.works()

    def works(self) -> bool:
        """Raises BenchError when it has ended or a task has failed."""
        if self._process is None or self._process.poll() is not None:
            raise BenchError(f"Kafka Connect ended: {self._last_words()}")
        for name in self._connectors:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/connectors/{name}/status", timeout=5) as answer:
                    told = json.load(answer)
            except (urllib.error.URLError, OSError):
                return False
            if broken := [task for task in told["tasks"] if task["state"] == "FAILED"]:
                raise BenchError(f"connector {name} failed: {broken[0].get('trace', '')[:800]}")
            if not told["tasks"] or any(task["state"] != "RUNNING" for task in told["tasks"]):
                return False
        return True

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def parts(self) -> Parts:
        return {"Kafka Connect": [self._process.pid]} if self._process is not None else {}

    def _last_words(self) -> str:
        if self._folder is None or not (self._folder / "connect.log").exists():
            return "it has said nothing"
        lines = (self._folder / "connect.log").read_text(errors="replace").splitlines()
        told = [line for line in lines[-200:] if " ERROR " in line or line.startswith(("Caused by", "Error", "Exception"))]
        return (told or lines or [""])[-1].strip()


def _source(dsn: str, prefix: str, tables: tuple[str, ...], slot: str) -> dict[str, str]:
    address = conninfo_to_dict(dsn)
    return {
        "name": "source",
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "plugin.name": "pgoutput",
        "database.hostname": str(address["host"]),
        "database.port": str(address["port"]),
        "database.user": str(address["user"]),
        "database.dbname": str(address["dbname"]),
        "topic.prefix": prefix,
        "slot.name": slot,
        "publication.name": slot,
        "publication.autocreate.mode": "disabled",
        "table.include.list": ",".join(f"public.{table}" for table in tables),
        "topic.creation.default.partitions": "1",
        "topic.creation.default.replication.factor": "1",
    }


def _publish(dsn: str, name: str, tables: tuple[str, ...]) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_publication WHERE pubname = %s", [name]).fetchone():
            connection.execute(f"CREATE PUBLICATION {name} FOR TABLE {', '.join(tables)}".encode())


class DebeziumSource(_Connect):
    """The connector alone."""

    def __init__(self, kind: str, tables: tuple[str, ...]) -> None:
        super().__init__(f"Debezium, {kind}")
        self._kind, self._tables = kind, tables
        self._slot = f"bench_dbz_{kind}"
        self._dsn = ""

    def start(self, world: World) -> None:
        self._dsn = world.dsns["crm"]
        _publish(self._dsn, self._slot, self._tables)
        settings = {**_source(self._dsn, f"dbz_{self._kind}", self._tables, self._slot), **SOURCES[self._kind]}
        if "value.converter.schemas.enable" in settings:
            settings |= {"key.converter": _JSON, "value.converter": _JSON}
        self.run(world, {"source": settings})

    def topic(self, table: str) -> str:
        return f"dbz_{self._kind}.public.{table}"

    def read_all(self) -> bool:
        """It streams once its snapshot is over."""
        self.works()
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            row = connection.execute("SELECT active FROM pg_replication_slots WHERE slot_name = %s", [self._slot]).fetchone()
        return bool(row and row[0])


class DebeziumJdbc(_Connect):
    """Connector and JDBC sink in one worker, one way: upserts into the same table on the other side."""

    two_way = False

    def __init__(self, name: str = "Debezium + JDBC sink") -> None:
        super().__init__(name)

    def hurry(self) -> None:
        pass

    def settle(self) -> None:
        pass  # what has arrived is done

    def start(self, world: World) -> None:
        crm, erp = world.dsns["crm"], conninfo_to_dict(world.dsns["erp"])
        _publish(crm, "bench_dbz", ("item",))
        sink = {
            "name": "sink",
            "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
            "tasks.max": "1",
            "topics": "dbz.public.item",
            "connection.url": f"jdbc:postgresql://{erp['host']}:{erp['port']}/{erp['dbname']}?reWriteBatchedInserts=true",
            "connection.username": str(erp["user"]),
            "connection.password": "none",
            "insert.mode": "upsert",
            "delete.enabled": "true",
            "primary.key.mode": "record_key",
            "schema.evolution": "none",
            "collection.name.format": "item",
            "use.time.zone": "UTC",
            **_SINK_TUNED,
        }
        self.run(world, {"source": {**_source(crm, "dbz", ("item",), "bench_dbz"), **_FOR_JDBC}, "sink": sink})
