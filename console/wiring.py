"""From `concord.yaml` to running parts: load, connect, read catalogs, compile, see that everything is there, construct.

    concord.yaml ─▶ Config ─▶ catalogs of its databases ─▶ Pipeline ─▶ topics · schema concord · publication and slot ─▶ the part

The slot of a system is made before its snapshot is begun (the source does that), so nothing can happen between the two. Everything here
may be done again at any time, by several processes at once.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from connectors import concord_schema
from connectors.catalog import read_tables
from connectors.postgres import connect, translated
from console.kafka import Cluster
from console.logs import first_line
from console.supervise import PartCommand
from schemas import topics
from schemas.catalog import Table
from schemas.config import Config, load
from schemas.errors import Retriable, UnfitDatabase
from schemas.mapping import Pipeline, compile_config, table_names
from schemas.topics import Topic

logger = logging.getLogger(__name__)

REPLAY_DAYS = 7  # captured topics: how far back a replay can go
STEP_DAYS = 1  # topics between our own steps
RECORD_DAYS = 30  # what a person may ask about: conflicts, dead letters

T = TypeVar("T")


def open_config(file: Path) -> Config:
    """Raises ConfigError with every problem."""
    return load(file, os.environ)


def run_dir(config: Config) -> Path:
    """Where this pipeline's parts on this machine say that they live."""
    return Path(config.state_dir) / config.name


def group_of_streams(config: Config) -> str:
    """The consumer group of the streams' workers."""
    return f"{config.name}-streams"


@contextmanager
def session(config: Config, system: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A connection to a system, autocommit; errors come out as ours, named for the system."""
    told = config.systems[system]
    try:
        connection = connect(told.dsn, told.session, "concord console")
    except (Retriable, UnfitDatabase) as error:
        raise type(error)(f"system {system}: {error}") from error
    with translated(f"system {system}"), connection:
        yield connection


def read_catalogs(config: Config) -> dict[str, dict[str, Table]]:
    """System → its bound tables as its catalog describes them; one that is not there is left out."""
    found = {}
    for system in config.systems:
        with session(config, system) as connection:
            found[system] = read_tables(connection, table_names(config, system))
    return found


def open_pipeline(config: Config) -> Pipeline:
    """Raises ConfigError with everything that does not fit, Retriable when a database does not answer."""
    return compile_config(config, read_catalogs(config))


def topics_of(pipeline: Pipeline) -> list[Topic]:
    """Every topic that the pipeline needs, as it must be. One partition count for all: they are co-partitioned."""
    count = pipeline.config.kafka.partitions
    wanted = []
    for system in pipeline.systems:
        for table in tables_of(pipeline, system):
            wanted.append(topics.retained(topics.captured(system, table.schema, table.name), count, REPLAY_DAYS))
            wanted.append(topics.retained(topics.links(system, table.schema, table.name), count, STEP_DAYS))
        wanted.append(topics.retained(topics.dead(system), count, RECORD_DAYS))
    for entity in pipeline.entities:
        wanted.append(topics.retained(topics.claims(entity), count, STEP_DAYS))
        wanted.append(topics.retained(topics.changes(entity), count, STEP_DAYS))
        wanted.append(topics.compacted(topics.golden(entity), count))
        wanted.append(topics.retained(topics.conflicts(entity), count, RECORD_DAYS))
    return wanted


def tables_of(pipeline: Pipeline, system: str) -> list[Table]:
    """The tables captured in a system, each once: one may serve several entities."""
    return list({str(binding.table): binding.table for binding in pipeline.tables(system)}.values())


def ensure_topics(pipeline: Pipeline) -> None:
    """Raises ConfigError when a topic is there with another number of partitions."""
    created = Cluster(pipeline.config.kafka).ensure(topics_of(pipeline))
    if created:
        logger.info("created %d topics", len(created))


def ensure_schema(config: Config, system: str) -> None:
    """The schema `concord` in a system's database, up to date."""
    with session(config, system) as connection:
        if (found := concord_schema.ensure(connection)) != concord_schema.LATEST:
            logger.info("system %s: schema concord is now at version %d (was %d)", system, concord_schema.LATEST, found)


def patiently(doing: str, call: Callable[[], T], first: float = 0.5, longest: float = 10.0) -> T:
    """`call()`, again and again for as long as what it needs does not answer, and says so."""
    wait = first
    while True:
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


def metrics_port(pipeline: Pipeline, kind: str, system: str | None = None, worker: int = 0) -> int:
    """The configured port of a part, 0 for a free one: a kind's first port, then one more per system and per worker."""
    base = int(getattr(pipeline.config.metrics, kind))
    if not base:
        return 0
    systems = capturing(pipeline)
    return base + (worker if system is None else systems.index(system) + worker * len(systems))
