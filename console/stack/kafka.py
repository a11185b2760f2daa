"""Apache Kafka as one Java process: KRaft, one node that is broker and controller; jars resolved by Maven from `pom.xml`.

Nothing here starts the broker: `guard.py` does. Only `fetch` runs a program (Maven).
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import socket
import struct
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from console.stack.jars import Jars
from console.stack.state import StackError

HERE = Path(__file__).resolve().parent
POM = HERE / "pom.xml"
VERSION = re.search(r"<kafka\.version>(.+?)<", POM.read_text())[1]  # type: ignore[index]  # our own file


@functools.cache
def java() -> str:
    """The Java to run Kafka with: JAVA_HOME's, else the one in PATH; 17 or newer."""
    candidates = [os.path.join(os.environ["JAVA_HOME"], "bin", "java")] if "JAVA_HOME" in os.environ else []
    found = next((path for path in [*candidates, shutil.which("java")] if path and os.access(path, os.X_OK)), None)
    if found is None:
        raise StackError("Kafka needs Java 17 or newer and there is none in JAVA_HOME or PATH: install a JDK (Debian: openjdk-17-jdk)")
    answer = subprocess.run([found, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    if answer.returncode or not version or int(version[1]) < 17:
        said = (answer.stderr or answer.stdout).strip().partition("\n")[0]
        raise StackError(f"Kafka needs Java 17 or newer, {found} says {said!r}: install a newer JDK or point JAVA_HOME to one")
    return found


def libs(home: Path) -> Path:
    return _jars(home).libs


def lacks(home: Path) -> str | None:
    """What this machine misses to run Kafka; None if nothing."""
    try:
        java()
    except StackError as error:
        return str(error)
    return _jars(home).lacks


def fetch(home: Path, progress: Callable[[str], None]) -> None:
    """Resolve the jars unless they are there already. Raises StackError with what to do."""
    if missing := lacks(home):
        raise StackError(missing)
    _jars(home).fetch(progress)


def _jars(home: Path) -> Jars:
    return Jars(f"Kafka {VERSION}", POM, home / "kafka")


# Less memory, and two cores have better things to do; ready a second earlier, for minutes, not days, of work.
JVM = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"


def settings(data: Path, port: int, controller_port: int, more: Mapping[str, object] = MappingProxyType({})) -> str:
    """server.properties. `more`: what is to be otherwise, or besides."""
    return "\n".join(
        f"{key}={value}"
        for key, value in {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller_port}",
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": data,
            # one node
            "default.replication.factor": 1,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            # a topic nobody made is a mistake we want to see
            "auto.create.topics.enable": "false",
            # a group of one starts at once; a dead worker is noticed in seconds
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            # small: files, threads and heap for hundreds of topics of a few megabytes
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.num.partitions": 4,
            "log.index.size.max.bytes": 1 << 20,
            "log.cleaner.dedupe.buffer.size": 16 << 20,
            "log.cleaner.threads": 1,
            "num.network.threads": 2,
            "num.io.threads": 4,
            "num.recovery.threads.per.data.dir": 2,
            "background.threads": 2,
            "log.deletion.delay.ms": 1000,
            **more,
        }.items()
    )


def _java_command(home: Path, folder: Path, heap: str) -> list[str]:
    return [
        java(),
        f"-Xmx{heap}",
        *os.environ.get("KAFKA_JVM_PERFORMANCE_OPTS", JVM).split(),  # as Kafka's own scripts take it
        "-XX:-UsePerfData",  # no file in /tmp
        f"-Djava.io.tmpdir={_created(folder / 'tmp')}",
        f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}",
        "-cp",
        f"{libs(home)}/*",
    ]


def format_command(home: Path, folder: Path) -> list[str]:
    cluster = "c" + urlsafe_b64encode(uuid.uuid4().bytes).decode()[:21]  # an id that starts with "-" would be read as an option
    tool = ["kafka.tools.StorageTool", "format", "--standalone", "--cluster-id", cluster, "--config", str(folder / "kafka.properties")]
    return [*_java_command(home, folder, "128m"), *tool]


def run_command(home: Path, folder: Path) -> list[str]:
    return [*_java_command(home, folder, "512m"), "kafka.Kafka", str(folder / "kafka.properties")]


def answers(port: int) -> bool:
    """Whether a broker serves requests here: asks for its API versions, the one request that needs nothing else.
    That the port is open is not enough: it is, seconds before requests are read."""
    request = struct.pack(">hhih", 18, 0, 1, -1)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            return len(connection.recv(4)) == 4
    except OSError:
        return False


def _created(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
