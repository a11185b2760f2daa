"""What the last `concord verify` found, kept in each system it compared, for `concord status` and its metrics."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from connectors import concord_schema
from console import wiring
from console.logs import first_line
from schemas.config import Config
from schemas.errors import ConcordError

logger = logging.getLogger(__name__)

_KEEP = """
INSERT INTO concord.verified AS v (entity, things, differences) VALUES (%s, %s, %s)
ON CONFLICT (entity) DO UPDATE SET at = excluded.at, things = excluded.things, differences = excluded.differences"""


@dataclass(frozen=True, slots=True)
class Verified:
    """An entity's figures."""

    at: datetime
    things: int
    differences: int  # things that differ or are missing somewhere

    def to_json(self) -> dict[str, Any]:
        return {"at": self.at.isoformat(), "things": self.things, "differences": self.differences}


def keep(config: Config, found: Mapping[str, tuple[int, int]]) -> None:
    """`found`: entity → (things, differences). Who may compare and may not write is told so; the comparison stands."""
    for system in config.systems:
        entities = {name for name in found if system in config.entities[name].bindings}
        try:
            with wiring.session(config, system, as_role=False) as connection:
                concord_schema.ensure(connection, config.systems[system].role)
                with connection.cursor() as cursor:
                    cursor.executemany(_KEEP, [(name, *found[name]) for name in sorted(entities)])
        except ConcordError as error:
            logger.warning("what was found is not kept for concord status: %s", first_line(error))


def last(connection: psycopg.Connection[tuple[Any, ...]]) -> dict[str, Verified]:
    """Entity → what was found last, as this system has it; nothing where the schema is older."""
    if concord_schema.version(connection) < concord_schema.VERIFIED_SINCE:
        return {}
    return {name: Verified(*rest) for name, *rest in connection.execute("SELECT entity, at, things, differences FROM concord.verified")}


def newest(found: Mapping[str, Mapping[str, Verified]], entity: str) -> Verified | None:
    """`found`: system → what it has."""
    return max((told[entity] for told in found.values() if entity in told), key=lambda one: one.at, default=None)
