"""The whole comparison: sessions, entities, and what is counted beside the rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial

from connectors import concord_schema
from console import wiring
from console.logs import first_line
from console.status import Observer
from console.verify.compare import Look
from console.verify.hashed import Hashed
from console.verify.passes import WAITS, Passes, Repairs
from console.verify.report import Count, Report
from console.verify.rows import Connection
from schemas.config import Config
from schemas.errors import ConcordError, UnfitDatabase
from schemas.mapping import Pipeline

logger = logging.getLogger(__name__)


def verify(
    pipeline: Pipeline,
    entities: Sequence[str],
    limit: int = 100,
    *,
    waits: Sequence[float] = WAITS,
    sleep: Callable[[float], None] = time.sleep,
    repairs: Repairs | None = None,
    hashes: bool = True,
    tell: Callable[[str, int], None] = lambda what, more: None,
) -> Report:
    """`repairs`: mends what is found. `hashes`: lets the databases compare what can be said in SQL. `tell`: what is read, and how many rows
    more of it.

    Raises Retriable when a database does not answer, UnfitDatabase when one knows nothing of Concord.
    """
    ranks = {rank: system for system, rank in pipeline.rank.items()}
    report = Report({name: Count(pipeline.entities[name].systems) for name in entities}, limit=limit)
    began = time.monotonic()
    with ExitStack() as stack:
        connections: dict[str, Connection] = {}
        for system in pipeline.systems:
            connections[system] = stack.enter_context(wiring.session(pipeline.config, system))
            if not concord_schema.version(connections[system]):
                raise UnfitDatabase(f"system {system} has no schema concord: nothing has been synced yet, start `concord up` first")
        for name in entities:
            hashed = partial(Hashed.of, pipeline) if hashes else _nothing
            Passes(pipeline.entities[name], connections, report, ranks, waits, sleep, repairs, hashed, tell).run()
            _count_stuck(connections.values(), name, report.entities[name])
    report.seconds = time.monotonic() - began
    _count_in_kafka(pipeline.config, report)
    return report


def _nothing(look: Look) -> None:
    return None


def about(pipeline: Pipeline, entities: Sequence[str]) -> int:
    """How many rows there are to read, as PostgreSQL estimates it: each system leads in turn."""
    rows = 0
    query = (
        "SELECT sum(greatest(c.reltuples, 0))::bigint FROM unnest(%s::text[], %s::text[]) AS u(schema, name)"
        " JOIN pg_namespace s ON s.nspname = u.schema JOIN pg_class c ON c.relnamespace = s.oid AND c.relname = u.name"
    )
    for system in pipeline.systems:
        tables = [pipeline.entities[name].bindings[system].table for name in entities if system in pipeline.entities[name].bindings]
        with wiring.session(pipeline.config, system) as connection:
            row = connection.execute(query, ([table.schema for table in tables], [table.name for table in tables])).fetchone()
            rows += int(row[0] or 0) if row else 0
    return rows


def _count_stuck(connections: Iterable[Connection], entity: str, count: Count) -> None:
    query = (
        "SELECT (SELECT count(*) FROM concord.parked WHERE entity = %(e)s), (SELECT count(*) FROM concord.dead_letter WHERE entity = %(e)s)"
    )
    for connection in connections:
        parked, dead = connection.execute(query, {"e": entity}).fetchone() or (0, 0)
        count.parked += parked
        count.dead += dead


def _count_in_kafka(config: Config, report: Report) -> None:
    """Conflicts, all that were ever recorded, and the dead letters of the parts before the sinks.

    When Kafka does not answer they are not counted, and it is said: the databases could be compared all the same.
    """
    try:
        with Observer(config) as observer:
            conflicts = observer.conflicts()
            letters = [observer.dead_before_sinks(system)[0] for system in config.systems]
    except ConcordError as error:
        logger.warning("conflicts and dead letters before the sinks are not counted: %s", first_line(error))
        return
    for name, count in report.entities.items():
        count.conflicts = conflicts.get(name, 0)
        count.dead += sum(counted.get(name, 0) for counted in letters)
