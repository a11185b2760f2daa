"""The whole comparison: sessions, entities, and what is counted beside the rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack

from connectors import concord_schema
from console import wiring
from console.logs import first_line
from console.status import Observer
from console.verify.passes import WAITS, Passes
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
) -> Report:
    """Raises Retriable when a database does not answer, UnfitDatabase when one knows nothing of Concord."""
    report = Report({name: Count(pipeline.entities[name].systems) for name in entities}, limit=limit)
    with ExitStack() as stack:
        connections: dict[str, Connection] = {}
        for system in pipeline.systems:
            connections[system] = stack.enter_context(wiring.session(pipeline.config, system))
            if not concord_schema.version(connections[system]):
                raise UnfitDatabase(f"system {system} has no schema concord: nothing has been synced yet, start `concord up` first")
        for name in entities:
            Passes(pipeline.entities[name], connections, report, waits, sleep).run()
            _count_stuck(connections.values(), name, report.entities[name])
    _count_in_kafka(pipeline.config, report)
    return report


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
            letters = [observer.dead_before_sinks(system) for system in config.systems]
    except ConcordError as error:
        logger.warning("conflicts and dead letters before the sinks are not counted: %s", first_line(error))
        return
    for name, count in report.entities.items():
        count.conflicts = conflicts.get(name, 0)
        count.dead += sum(counted.get(name, 0) for counted in letters)
