"""What verify found, as figures and as named differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.change import Canonical


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one look at one thing showed."""

    what: str  # equal, differing, missing, deleted, out_of_scope, unlinked, passed_over
    link: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, Mapping[str, Canonical]] = field(default_factory=dict)  # differing: field → system → value
    missing_in: tuple[str, ...] = ()
    match_value: str | None = None
    note: str = ""


@dataclass
class Count:
    """An entity's figures."""

    systems: tuple[str, ...]
    equal: int = 0
    differing: int = 0
    in_flight: int = 0
    deleted: int = 0  # gone in one system, and the policy leaves the other as it is
    adjusted: int = 0  # a trigger or a domain made something else of what was written; recorded, never fought over
    duplicates: int = 0
    repaired: int = 0  # differed or were missing, and are as they should be since
    missing: dict[str, int] = field(default_factory=dict)
    absent: int = 0  # things that are missing somewhere
    out_of_scope: dict[str, int] = field(default_factory=dict)
    conflicts: int | None = None
    parked: int = 0
    dead: int = 0

    def __post_init__(self) -> None:
        self.missing = dict.fromkeys(self.systems, 0)
        self.out_of_scope = dict.fromkeys(self.systems, 0)

    @property
    def things(self) -> int:
        return self.equal + self.differing + self.in_flight + self.deleted + self.adjusted + self.repaired + self.absent

    def to_json(self) -> dict[str, Any]:
        return {
            "things": self.things,
            "equal": self.equal,
            "differing": self.differing,
            "missing": self.missing,
            "in_flight": self.in_flight,
            "deleted": self.deleted,
            "adjusted": self.adjusted,
            "duplicates": self.duplicates,
            "repaired": self.repaired,
            "out_of_scope": self.out_of_scope,
            "conflicts": self.conflicts,
            "parked": self.parked,
            "dead": self.dead,
        }


@dataclass
class Report:
    """What was found; `differences` is cut at the limit, the counts are not."""

    entities: dict[str, Count]
    differences: list[dict[str, Any]] = field(default_factory=list)
    differences_total: int = 0
    limit: int = 100
    seconds: float = 0.0  # that the comparison took

    @property
    def equal(self) -> bool:
        """Nothing differs, nothing is missing, and nothing changed too fast to be compared."""
        return not any(count.differing or count.absent or count.in_flight for count in self.entities.values())

    def add(self, difference: dict[str, Any]) -> None:
        self.differences_total += 1
        if len(self.differences) < self.limit:
            self.differences.append(difference)

    def to_json(self) -> dict[str, Any]:
        return {
            "equal": self.equal,
            "entities": {name: count.to_json() for name, count in self.entities.items()},
            "differences": self.differences,
            "differences_total": self.differences_total,
            "seconds": round(self.seconds, 3),
        }
