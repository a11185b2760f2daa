"""`concord debezium`, and the part of that name: real Debezium reads the logs in our sources' place.

up --source debezium      a Kafka Connect of our own, a child of the part `debezium` (connectors.debezium.worker)
debezium --connect URL    an outside one is told the connectors, and watched until every system is captured
debezium                  what it would be told, to look at or to give to it by other means
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from connectors.debezium.connect import Connect
from connectors.debezium.settings import Settings, connector_settings, worker_settings
from connectors.debezium.watching import Captured, Watching
from connectors.debezium.worker import DebeziumWorker, Program
from console import wiring
from console.stack import debezium as jars
from console.stack import free_port
from console.stack.state import StackError
from schemas.config import Config
from schemas.errors import ConfigError, Problem, Retriable, UnfitDatabase
from schemas.health import Health
from schemas.mapping import table_names

HOME_VARIABLE = "CONCORD_HOME"  # where the embedded stack keeps its jars
LOOK_SECONDS = 0.5
MASKED = "***"


def home() -> Path:
    return Path(os.environ.get(HOME_VARIABLE) or ".concord")


def captured(config: Config, password: Callable[[str], str | None] = lambda system: None) -> dict[str, Captured]:
    """System → how Debezium is to capture it. `password`: what stands for a system's password in its settings; None: itself.

    Raises ConfigError with everything that Debezium cannot do, or would lose values by.
    """
    problems: list[Problem] = []
    found = {}
    for system, told in config.systems.items():
        tables = tuple(table_names(config, system))
        if not tables:
            continue
        try:
            settings = connector_settings(config, system, tables, password(system))
        except ConfigError as error:
            problems += error.problems
            continue
        session = partial(wiring.session, config, system, as_role=False)
        found[system] = Captured(system, f"{config.name}-{system}", settings, told.slot, tables, session)
    problems += [
        Problem(f"debezium.systems.{name}", "is no system", f"known are: {', '.join(config.systems)}")
        for name in config.debezium.systems
        if name not in config.systems
    ]
    if problems:
        raise ConfigError(problems)
    return found


def worker(config: Config, health: Health) -> DebeziumWorker:
    """The part. Raises ConfigError."""
    avro = config.debezium.format == "avro"
    port = free_port()
    folder = wiring.run_dir(config) / wiring.DEBEZIUM
    variables = {system: f"CONCORD_PASSWORD_{number}" for number, system in enumerate(config.systems)}
    secrets = {system: one.settings.get("database.password") for system, one in captured(config).items()}
    systems = captured(config, lambda system: f"${{env:{variables[system]}}}")
    settings = worker_settings(config, port, jars.plugins(home(), avro))
    environment = {variables[system]: secret for system, secret in secrets.items() if secret is not None}
    return DebeziumWorker(Program(jars.command(home()), settings, f"http://127.0.0.1:{port}", folder), systems, environment, health)


def fetch(config: Config, progress: Callable[[str], None]) -> None:
    """What the part needs and this machine has not yet. Raises ConfigError with what to do."""
    try:
        jars.fetch(home(), progress, config.debezium.format == "avro")
    except StackError as error:
        raise ConfigError([Problem("debezium", str(error))]) from error


# ── an outside Connect ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Report:
    """What was told, and what became of it."""

    connect: str | None  # where to; None: to nobody
    settings: dict[str, Settings]  # connector → settings, passwords struck out
    waiting: dict[str, str] = field(default_factory=dict)  # systems that are not captured yet → why

    def to_json(self) -> dict[str, Any]:
        return {"connect": self.connect, "connectors": self.settings, "waiting": self.waiting}


def told(config: Config) -> Report:
    """What Debezium would be told."""
    return Report(None, {one.connector: _shown(one.settings) for one in captured(config).values()})


def put(config: Config, url: str, seconds: float, progress: Callable[[str], None]) -> Report:
    """Tells an outside Connect its connectors and waits until they stream. Raises ConfigError, Retriable, Refused."""
    connect = Connect(url)
    systems = captured(config)
    version = connect.has_debezium()
    if version is None:
        raise UnfitDatabase(f"Kafka Connect at {url} has no Debezium: install its PostgreSQL connector (io.debezium, 3.x)")
    if not version.startswith("3."):
        raise UnfitDatabase(f"Kafka Connect at {url} has Debezium {version}, and our streams know that of 3.x")
    progress(f"Kafka Connect {connect.version()}, Debezium {version}")
    watching = Watching(connect, systems)
    watching.put()
    deadline = time.monotonic() + seconds
    while watching.waiting:
        try:
            watching.look()
        except Retriable as error:
            progress(str(error))
        if not watching.waiting or time.monotonic() > deadline:
            break
        progress(f"reading what is there: {', '.join(watching.waiting)}")
        time.sleep(LOOK_SECONDS)
    return Report(url, {one.connector: _shown(one.settings) for one in systems.values()}, watching.waiting)


def _shown(settings: Settings) -> Settings:
    return {name: MASKED if "password" in name or name.endswith("jaas.config") else value for name, value in settings.items()}


def show(report: Report, console: Console) -> None:
    for name, settings in report.settings.items():
        console.print(f"[bold]{escape(name)}[/]")
        if report.connect is None:
            for key, value in settings.items():
                console.print(f"  {escape(key)} = {escape(value)}", soft_wrap=True)
    if report.connect is not None:
        for system, why in report.waiting.items():
            console.print(f"[yellow]{escape(system)}: not captured yet[/]{escape(': ' + why if why else '')}", soft_wrap=True)
        if not report.waiting:
            console.print(f"[green]captured: Debezium at {escape(report.connect)} streams[/]")
