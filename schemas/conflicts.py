"""Conflicts: writes that lost against another system's write to the same field. Merge sends them to `conflicts.<entity>`, keyed by link id.

A conflict is recorded when a value was lost that its writer's rival had not seen: two systems wrote different values, neither made on top
of the other. An edit of a value that had been agreed on is no conflict, nor is a value in place of a null that came with its row: nobody
said anything there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from schemas.change import Canonical
from schemas.errors import SchemaError

EXISTS = "(exists)"  # stands for a field: there (true) or deleted (false)


class Rule(StrEnum):
    """What decided."""

    LATER = "later"  # the later edit wins
    OWNER = "owner"  # the field's owner wins
    FIRST_SIGHT = "first_sight"  # a row first seen by anything but its insert is older than every edit; of two such the higher rank wins
    RANK = "rank"  # written at the same time: the system with the higher rank wins
    REPAIR = "repair"  # an operator had the agreed value written again; `won.key` says who
    DUPLICATE = "duplicate"  # a row took the match value of another thing: for a person to decide


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two writes."""

    system: str
    value: Canonical
    hlc: int  # when it was written, µs; 1: first sight
    rank: int
    owned: bool  # by the field's owner
    key: str | None = None  # the row, where it is known


@dataclass(frozen=True, slots=True)
class Conflict:
    """One lost write."""

    entity: str
    link: str
    field: str
    won: Side
    lost: Side
    rule: Rule
    ts_us: int  # commit time of the change that showed it

    def to_avro(self) -> dict[str, Any]:
        """The Avro datum of `CONFLICT_SCHEMA`."""
        return {
            "entity": self.entity,
            "link": self.link,
            "field": self.field,
            "won": _side_to_avro(self.won),
            "lost": _side_to_avro(self.lost),
            "rule": self.rule.value,
            "ts_us": self.ts_us,
        }


def conflict_from_avro(datum: Mapping[str, Any]) -> Conflict:
    """Inverse of `Conflict.to_avro`. Raises SchemaError when `datum` is not a conflict."""
    try:
        return Conflict(
            entity=datum["entity"],
            link=datum["link"],
            field=datum["field"],
            won=Side(**datum["won"]),
            lost=Side(**datum["lost"]),
            rule=Rule(datum["rule"]),
            ts_us=datum["ts_us"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SchemaError(f"not a conflict: {error!r}") from error


def _side_to_avro(side: Side) -> dict[str, Any]:
    return {
        "system": side.system,
        "value": side.value,
        "hlc": side.hlc,
        "rank": side.rank,
        "owned": side.owned,
        "key": side.key,
    }


CONFLICT_SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Conflict",
    "namespace": "concord",
    "fields": [
        {"name": "entity", "type": "string"},
        {"name": "link", "type": "string"},
        {"name": "field", "type": "string"},
        {
            "name": "won",
            "type": {
                "type": "record",
                "name": "Side",
                "fields": [
                    {"name": "system", "type": "string"},
                    {"name": "value", "type": ["null", "boolean", "string"]},
                    {"name": "hlc", "type": "long"},
                    {"name": "rank", "type": "int"},
                    {"name": "owned", "type": "boolean"},
                    {"name": "key", "type": ["null", "string"], "default": None},
                ],
            },
        },
        {"name": "lost", "type": "Side"},
        {"name": "rule", "type": "string"},
        {"name": "ts_us", "type": "long"},
    ],
}
