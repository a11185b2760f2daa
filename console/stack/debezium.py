"""Kafka Connect with Debezium as one Java process: jars resolved by Maven from `connect.xml`, `debezium.xml`, `apicurio.xml`.

    HOME/debezium/connect     Connect and its JSON converter: the class path
    HOME/debezium/postgres    Debezium's PostgreSQL connector, a plug-in with a class loader of its own
    HOME/debezium/avro        Apicurio's Avro converter, the same; fetched when it is asked for

Nothing here starts it: `connectors.debezium.worker` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from console.stack.jars import Jars
from console.stack.kafka import HERE, java
from console.stack.state import StackError

VERSION = re.search(r"<debezium\.version>(.+?)<", (HERE / "debezium.xml").read_text())[1]  # type: ignore[index]  # our own file
_HEAP = "1g"


def lacks(home: Path, avro: bool = False) -> str | None:
    """What this machine misses to run it; None if nothing."""
    try:
        java()
    except StackError as error:
        return str(error)
    return next((missing for jars in _jars(home, avro) if (missing := jars.lacks) is not None), None)


def fetch(home: Path, progress: Callable[[str], None], avro: bool = False) -> None:
    """Raises StackError with what to do."""
    for jars in _jars(home, avro):
        jars.fetch(progress)


def plugins(home: Path, avro: bool = False) -> list[Path]:
    """Connect's plugin.path: folders of which each folder is a plug-in."""
    return [jars.folder for jars in _jars(home, avro)[1:]]


def command(home: Path) -> tuple[str, ...]:
    """What starts a worker; its properties file is the argument that is missing."""
    return (
        java(),
        f"-Xmx{_HEAP}",
        "-XX:+UseSerialGC",  # as the embedded Kafka: two cores have better things to do
        "-XX:-UsePerfData",
        f"-Dlog4j2.configurationFile={HERE / 'connect-log4j2.properties'}",
        "-cp",
        f"{_jars(home, False)[0].libs}/*",
        "org.apache.kafka.connect.cli.ConnectDistributed",
    )


def _jars(home: Path, avro: bool) -> list[Jars]:
    folder = home.resolve() / "debezium"
    found = [
        Jars("Kafka Connect", HERE / "connect.xml", folder / "connect"),
        Jars(f"Debezium {VERSION}", HERE / "debezium.xml", folder / "postgres"),
    ]
    if avro:
        found.append(Jars("Apicurio's Avro converter", HERE / "apicurio.xml", folder / "avro"))
    return found
