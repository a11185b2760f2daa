"""Names and settings of all topics (DESIGN §6). One partition count for all, so that they are co-partitioned."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

DAY_MS = 24 * 3600 * 1000
SCHEMAS = "concord.schemas"  # the embedded registry
OWNERS = "concord.owners"  # which pipeline uses which names


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it must exist before anything starts."""

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)


def named(name: str) -> str:
    """`name` as a topic's: what Kafka does not take in one becomes `_`, as Debezium does it. Two tables may come out as one: `clashes`."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def captured(system: str, schema: str, table: str) -> str:
    """Change events of one table, as Debezium names it."""
    return named(f"{system}.{schema}.{table}")


def links(system: str, schema: str, table: str) -> str:
    """Answers to the claims of a table's rows."""
    return named(f"links.{system}.{schema}.{table}")


def clashes(system: str, tables: Iterable[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """Topics that more than one of these tables would have, and whose they would be."""
    found: dict[str, list[tuple[str, str]]] = {}
    for schema, table in sorted(set(tables)):
        found.setdefault(captured(system, schema, table), []).append((schema, table))
    return {topic: places for topic, places in found.items() if len(places) > 1}


def join(system: str, entity: str) -> str:
    """Messages of the join that puts an entity's rows together, in one system."""
    return f"join.{system}.{entity}"


def joined_links(system: str, entity: str) -> str:
    """Answers to the claims of rows that a join puts together. An entity's name has no dot, so it is no table's."""
    return f"links.{system}.{entity}"


def replays(pipeline: str) -> str:
    """What operators ask the streams to read again, each in the partition that is meant. Named after the pipeline, like its groups."""
    return f"{pipeline}.replays"


def claims(entity: str) -> str:
    return f"claims.{entity}"


def changes(entity: str) -> str:
    return f"changes.{entity}"


def golden(entity: str) -> str:
    return f"golden.{entity}"


def conflicts(entity: str) -> str:
    return f"conflicts.{entity}"


def dead(system: str) -> str:
    return f"dead.{system}"


def retained(name: str, partitions: int, days: int) -> Topic:
    return Topic(name, partitions, {"cleanup.policy": "delete", "retention.ms": str(days * DAY_MS)})


def compacted(name: str, partitions: int) -> Topic:
    return Topic(name, partitions, {"cleanup.policy": "compact"})


def member(name: str, reads: Iterable[str]) -> str:
    """The instance id of a member of a consumer group.

    Kafka gives one that comes back under its name the partitions that it had, at once, and does not ask what it wants to read now: so one
    that reads other topics than before is another one. `reads`: what decides which topics these are.
    """
    return f"{name}-{hashlib.sha256(chr(10).join(sorted(reads)).encode()).hexdigest()[:8]}"
