"""From `concord.yaml` to running parts: load, connect, read catalogs, compile, see that everything is there, construct.

    concord.yaml ─▶ Config ─▶ catalogs of its databases ─▶ Pipeline ─▶ topics · schema concord · publication and slot ─▶ the part

The slot of a system is made before its snapshot is begun (the source does that), so nothing can happen between the two. Everything here
may be done again at any time, by several processes at once.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psycopg
from pydantic import TypeAdapter, ValidationError

from connectors import concord_schema
from connectors.catalog import read_tables
from connectors.postgres import connect, translated
from connectors.source import slot
from connectors.source.snapshot import SnapshotStore
from console import ownership
from console.kafka import Cluster
from console.logs import first_line, hide
from console.parts import read_json, tell_json
from console.supervise import PartCommand
from schemas import topics
from schemas.catalog import Table
from schemas.config import Config, load
from schemas.errors import ConfigError, Problem, Retriable, UnfitDatabase
from schemas.health import Health
from schemas.mapping import Pipeline, compile_config, table_name, table_names
from schemas.registry import open_registry
from schemas.topics import Topic

logger = logging.getLogger(__name__)

REPLAY_DAYS = 7  # captured topics: how far back a replay can go
STEP_DAYS = 1  # topics between our own steps
RECORD_DAYS = 30  # what a person may ask about: conflicts, dead letters

DEBEZIUM = "debezium"  # the part that captures all systems, where `source` says so

T = TypeVar("T")


SOURCE_VARIABLE = "CONCORD_SOURCE"  # who reads the log, whatever the file says: `up --source` tells its parts so


def open_config(file: Path, source: str | None = None) -> Config:
    """`source`: who reads the log, whatever the file says. Raises ConfigError with every problem. No log of this process will show its
    secrets."""
    config = load(file, os.environ)
    hide(config.secrets())
    source = source or os.environ.get(SOURCE_VARIABLE) or config.source
    if source not in ("concord", "debezium"):
        raise ConfigError([Problem(SOURCE_VARIABLE, f"must be 'concord' or 'debezium', not {source!r}")])
    return config if source == config.source else config.model_copy(update={"source": source})


def run_dir(config: Config) -> Path:
    """Where this pipeline's parts on this machine say that they live."""
    return Path(config.state_dir) / config.name


def group_of_streams(config: Config) -> str:
    """The consumer group of the streams' workers."""
    return f"{config.name}-streams"


def group_of_sink(config: Config, system: str) -> str:
    """The consumer group of a system's sink workers."""
    return f"{config.name}-sink-{system}"


@contextmanager
def session(config: Config, system: str, as_role: bool = True) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A connection to a system, autocommit; errors come out as ours, named for the system. `as_role`: with the role's rights, where the
    configuration names one; publication, slot and the schema concord are the login's affair."""
    told = config.systems[system]
    try:
        connection = connect(told.dsn, told.session, "concord console", told.role if as_role else None)
    except (Retriable, UnfitDatabase) as error:
        raise type(error)(f"system {system}: {error}") from error
    with translated(f"system {system}"), connection:
        yield connection


def read_catalogs(config: Config, remembered: Path | None = None) -> dict[str, dict[str, Table]]:
    """System → its bound tables as its catalog describes them; one that is not there is left out.

    With `remembered`, a folder: a database that does not answer is as it was the last time, so that its being down keeps nothing but
    itself from starting again. Raises Retriable when it does not answer and nothing is remembered.
    """
    found = {}
    for system in config.systems:
        wanted = table_names(config, system)
        try:
            with session(config, system) as connection:
                found[system] = read_tables(connection, wanted)
        except Retriable as error:
            known = _recall(remembered, system) if remembered is not None else None
            if known is None:
                raise
            logger.warning("%s; going by its tables as they were last", first_line(error))
            found[system] = {f"{schema}.{name}": known[f"{schema}.{name}"] for schema, name in wanted if f"{schema}.{name}" in known}
        else:
            if remembered is not None:
                tell_json(remembered / f"catalog-{system}.json", {name: asdict(table) for name, table in found[system].items()})
    return found


_TABLE: TypeAdapter[Table] = TypeAdapter(Table)


def _recall(folder: Path, system: str) -> dict[str, Table] | None:
    told = read_json(folder / f"catalog-{system}.json")
    try:
        return {name: _TABLE.validate_python(table) for name, table in told.items()} or None
    except ValidationError:
        return None  # written by another version


def open_pipeline(config: Config, remembered: Path | None = None) -> Pipeline:
    """Raises ConfigError with everything that does not fit, Retriable when a database does not answer."""
    return compile_config(config, read_catalogs(config, remembered))


def topics_of(config: Config) -> list[Topic]:
    """Every topic that the pipeline needs, as it must be. One partition count for all: they are co-partitioned."""
    count = config.kafka.partitions
    wanted = [topics.retained(topics.replays(config.name), count, RECORD_DAYS)]
    for system in config.systems:
        for schema, table in table_names(config, system):
            wanted.append(topics.retained(topics.captured(system, schema, table), count, REPLAY_DAYS))
        wanted += [topics.retained(name, count, STEP_DAYS) for name in sorted(row_topics(config, system))]
        wanted.append(topics.retained(topics.dead(system), count, RECORD_DAYS))
    for entity in config.entities:
        wanted.append(topics.retained(topics.claims(entity), count, STEP_DAYS))
        wanted.append(topics.retained(topics.changes(entity), count, STEP_DAYS))
        wanted.append(topics.compacted(topics.golden(entity), count))
        wanted.append(topics.retained(topics.conflicts(entity), count, RECORD_DAYS))
    return wanted


def row_topics(config: Config, system: str) -> dict[str, set[str]]:
    """The topics of a system between the steps before `changes` → the entities they are of. Rows of a binding with parts are put together
    in a topic of its own."""
    found: dict[str, set[str]] = {}
    for name, entity in config.entities.items():
        binding = entity.bindings.get(system)
        place = table_name(binding.table) if binding is not None else None
        if binding is None or place is None:
            continue
        joined = [topics.join(system, name), topics.joined_links(system, name)]
        for topic in joined if binding.parts else [topics.links(system, *place)]:
            found.setdefault(topic, set()).add(name)
    return found


def ensure_topics(config: Config) -> None:
    """Raises ConfigError when a topic is there with another number of partitions."""
    created = Cluster(config.kafka).ensure(topics_of(config))
    if created:
        logger.info("created %d topics", len(created))


def ensure_schema(config: Config, system: str) -> str:
    """The schema `concord`, up to date; returns the database's name for itself."""
    told = config.systems[system]
    with session(config, system, as_role=False) as connection:
        found = concord_schema.ensure(connection, told.role)
        if found != concord_schema.LATEST:
            logger.info("system %s: schema concord is now at version %d (was %d)", system, concord_schema.LATEST, found)
        return concord_schema.name_of(connection)


def ensure_system(config: Config, system: str) -> None:
    """What must be in a system's database before any part works: the schema `concord`, our publication, our slot.

    All slots are there before the first sink writes anything: what it writes comes back as an echo (I5), not as rows that a snapshot finds.
    A slot that was lost is left to the source, which reads everything again. Debezium makes its own: only then are its snapshot and its
    stream without a gap between them (docs/decisions/0026).
    """
    ensure_schema(config, system)
    told = config.systems[system]
    with session(config, system, as_role=False) as connection:
        tables = table_names(config, system)
        if not tables:
            return
        connection.execute("SELECT pg_advisory_lock(%s)", (concord_schema.LOCK,))  # of this session: one at a time makes what is missing
        slot.ensure_publication(connection, told.publication, tables)
        missing = config.source == "concord" and slot.slot_state(connection, told.slot) is None
        if missing and not SnapshotStore(connection, told.slot).any():
            slot.create_slot(connection, told.slot)
        connection.execute("SELECT pg_advisory_unlock(%s)", (concord_schema.LOCK,))


def prepare(config: Config, systems: Iterable[str], claim: bool = True) -> None:
    """Everything that these systems' parts find there when they start. May be done again, by any number of processes at once.

    Raises ConfigError when the topics are another pipeline's, or do not fit.
    """
    systems = tuple(systems)
    if claim:
        ownership.claim(config, {system: ensure_schema(config, system) for system in systems}, Cluster(config.kafka))
    ensure_topics(config)
    for system in systems:
        ensure_system(config, system)


class _Part(Protocol):
    ready: threading.Event

    def run(self) -> object: ...
    def stop(self) -> None: ...


Run = Callable[[], object]
Stop = Callable[[], None]


def build(
    kind: str, pipeline: Pipeline, system: str | None, worker: int, ready: Callable[[], None], health: Health
) -> tuple[Run, Stop | None]:
    """A part: what runs it, and what asks it to stop; None when it takes SIGTERM itself. `ready` is called when it is at work, `health` is
    kept from then on.

    A part is imported when it is built: a sink that starts again need not wait for Faust.
    """
    config = pipeline.config
    if kind == "streams":
        from streams.app import run_streams

        return lambda: run_streams(pipeline, lambda: open_registry(config.kafka, config.registry), worker, ready, health), None
    part: _Part
    if kind == "debezium":
        from console.debezium import worker as debezium_worker

        part = debezium_worker(config, health)
    elif kind == "source":
        from connectors.source.connector import SourceConnector

        part = SourceConnector(_named(system), pipeline, open_registry(config.kafka, config.registry), health)
    else:
        from connectors.sink.connector import SinkConnector

        part = SinkConnector(_named(system), pipeline, open_registry(config.kafka, config.registry), worker, health=health)

    def tell_when_ready() -> None:
        part.ready.wait()
        ready()

    threading.Thread(target=tell_when_ready, name="ready", daemon=True).start()
    return part.run, part.stop


def _named(system: str | None) -> str:
    assert system is not None
    return system


def patiently(doing: str, call: Callable[[], T], turned: Callable[[], None] = lambda: None, first: float = 0.5, longest: float = 10.0) -> T:
    """`call()`, again and again for as long as what it needs does not answer, and says so; `turned` is called before each try."""
    wait = first
    while True:
        turned()
        try:
            return call()
        except Retriable as error:
            logger.warning("%s: %s; trying again in %.1f s", doing, first_line(error), wait)
            time.sleep(wait)
            wait = min(wait * 2, longest)


def part_commands(pipeline: Pipeline, file: Path, workers: int, sink_workers: int, debug: bool) -> list[PartCommand]:
    """How `concord up` starts each part."""
    options = ("-c", str(file.resolve()), *(("--debug",) if debug else ()))

    def command(*words: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "console", *words, *options)

    if pipeline.config.source == "debezium":
        parts = [PartCommand(DEBEZIUM, command("debezium", "--run"), 0)]
    else:
        parts = [PartCommand(f"source-{system}", command("source", system), 0) for system in capturing(pipeline)]
    parts += [PartCommand(f"streams-{worker}", command("streams", "--worker", str(worker)), 1) for worker in range(workers)]
    parts += [
        PartCommand(f"sink-{system}-{worker}", command("sink", system, "--worker", str(worker)), 2)
        for system in receiving(pipeline)
        for worker in range(sink_workers)
    ]
    return parts


def capturing(pipeline: Pipeline) -> list[str]:
    """Systems that have a table to capture."""
    return [system for system in pipeline.systems if pipeline.tables(system)]


def receiving(pipeline: Pipeline) -> list[str]:
    """Systems that a sink writes to, or registers the crosswalk of."""
    return capturing(pipeline)


def metrics_port(config: Config, kind: str, system: str | None = None, worker: int = 0) -> int:
    """The configured port of a part, 0 for a free one: a kind's first port, then one more per system and per worker."""
    base = int(getattr(config.metrics, "source" if kind == DEBEZIUM else kind))
    if not base:
        return 0
    systems = [name for name in config.systems if table_names(config, name)]
    return base + (worker if system is None else systems.index(system) + worker * len(systems))
