"""Whose a Kafka's topics are. Topics are named after systems and entities, not after the pipeline, so two pipelines that share such a name
would read and write each other's records: the second one is refused.

    concord.owners (compacted)   "system crm", "entity customer" → {"pipeline": "concord", "databases": {"crm": "9f1c…"}}

A database's name for this is in its `concord.meta`, and goes with it through a dump or a failover. A mark whose topics have been deleted
holds nobody up. Two pipelines that start on an empty Kafka in the same instant may both pass; the next start of either tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from console.kafka import Cluster, Letter
from schemas import topics
from schemas.config import Config
from schemas.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True)
class Owner:
    """Who marked a name."""

    pipeline: str
    databases: Mapping[str, str]  # system → the name that its database has for this

    def strange(self, config: Config, databases: Mapping[str, str], replaced: str | None = None) -> str:
        """Why this is not `config`'s pipeline with these databases; '' when it may be. `replaced`: see `claim`."""
        if self.pipeline != config.name:
            return f"pipeline {self.pipeline!r}"
        known = {system: name for system, name in self.databases.items() if system != replaced}
        other = [system for system, name in databases.items() if known.get(system, name) != name]
        if other:
            return f"another pipeline of the name {self.pipeline!r}, with another database as {', '.join(other)}"
        if not set(self.databases) <= set(config.systems):
            return f"another pipeline of the name {self.pipeline!r}, of {', '.join(self.databases)}"
        return ""


def _names(config: Config) -> Iterator[tuple[str, str, set[str], str]]:
    """(mark, path in the configuration, systems, a topic that is there as long as the name is used)."""
    for system in config.systems:
        yield f"system {system}", f"systems.{system}", {system}, topics.dead(system)
    for entity, told in config.entities.items():
        yield f"entity {entity}", f"entities.{entity}", set(told.bindings), topics.golden(entity)


def owners(cluster: Cluster) -> dict[str, Owner]:
    """Mark → who made it last."""
    found = {}
    for record in cluster.read(topics.OWNERS):
        if record.key is not None and record.value is not None:
            told: dict[str, Any] = orjson.loads(record.value)
            found[record.key.decode()] = Owner(told["pipeline"], told["databases"])
    return found


def compared(
    config: Config, databases: Mapping[str, str], cluster: Cluster, replaced: str | None = None
) -> tuple[list[Problem], list[Letter]]:
    """Every name that another pipeline has, and the marks that are not made yet. Changes nothing.

    `databases`: of the systems that are known now, system → its database's name.
    """
    known = owners(cluster)
    used = cluster.partitions(topic for *_, topic in _names(config))
    problems, marks = [], []
    for mark, where, systems, topic in _names(config):
        ours = {system: name for system, name in databases.items() if system in systems}
        before = known.get(mark)
        if before is not None and topic in used:
            if strange := before.strange(config, ours, replaced):
                problems.append(_taken(where, strange, topic, config.kafka.bootstrap))
                continue
            ours = {**before.databases, **ours}
        if before != Owner(config.name, ours):
            value = orjson.dumps({"pipeline": config.name, "databases": ours})
            marks.append(Letter(topics.OWNERS, 0, -1, mark.encode(), value, 0))
    return problems, marks


def claim(config: Config, databases: Mapping[str, str], cluster: Cluster, replaced: str | None = None) -> None:
    """Marks what this pipeline uses as its own. `replaced`: a system whose database is another one now, and may be: it is rebuilt.

    Raises ConfigError with every name that another pipeline has, and marks nothing then.
    """
    cluster.ensure([topics.compacted(topics.OWNERS, 1)])
    problems, marks = compared(config, databases, cluster, replaced)
    if problems:
        raise ConfigError(problems)
    cluster.send(marks)


def _taken(where: str, owner: str, topic: str, kafka: str) -> Problem:
    return Problem(
        where,
        f"its topics at {kafka} (such as {topic}) belong to {owner}",
        "another Kafka, or other names for systems and entities; if that pipeline is gone for good, delete its topics;"
        " if a database of ours was lost, `concord replay SYSTEM --rebuild` writes the new one",
    )
