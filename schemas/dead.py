"""A dead letter: a record that cannot be handled as it is, with everything needed to look at it, mend it and try again.

On topic `dead.<system>` as Avro (`DEAD_SCHEMA`), keyed by link id where there is one. The sink keeps its own in `concord.dead_letter` too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from schemas.errors import SchemaError


class Where(StrEnum):
    """The part that could not handle the record."""

    SOURCE = "source"
    INTAKE = "intake"
    MERGE = "merge"
    SINK = "sink"


DEAD_SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "DeadLetter",
    "namespace": "concord",
    "fields": [
        {"name": "entity", "type": ["null", "string"], "default": None},
        {"name": "link", "type": ["null", "string"], "default": None},
        {"name": "topic", "type": "string"},
        {"name": "partition", "type": "int"},
        {"name": "offset", "type": "long"},
        {"name": "key", "type": ["null", "bytes"], "default": None},
        {"name": "value", "type": ["null", "bytes"], "default": None},
        {"name": "error", "type": "string"},
        {"name": "code", "type": "string"},
        {"name": "where", "type": "string"},
        {"name": "ts_us", "type": "long"},
    ],
}


def _now_us() -> int:
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One record that could not be handled."""

    entity: str | None  # None: not known, as for bytes that make no sense on a table's topic
    link: str | None
    topic: str  # where the record was read
    partition: int
    offset: int
    key: bytes | None  # as read
    value: bytes | None
    error: str  # a sentence a person can act on
    code: str  # what was decided by: a SQLSTATE, or the name of our error
    where: Where
    ts_us: int = field(default_factory=_now_us)

    def to_avro(self) -> dict[str, Any]:
        """The Avro datum of `DEAD_SCHEMA`."""
        return {**asdict(self), "where": self.where.value}


def dead_from_avro(datum: Mapping[str, Any]) -> DeadLetter:
    """Inverse of `to_avro`. Raises SchemaError when `datum` is not a dead letter."""
    try:
        return DeadLetter(**{**datum, "where": Where(datum["where"])})
    except (KeyError, TypeError, ValueError) as error:
        raise SchemaError(f"not a dead letter: {error!r}") from error
