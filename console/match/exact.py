"""Rows with the same match value: pairs, duplicates, and what is left. Pure.

    one row of each of several systems            a pair: one thing, as the running pipeline will find too
    two rows of one system                        duplicates, with the other systems' rows of that value: for a person to decide
    a value that nobody else has, or no value     left: likeness may find it a partner

A row that `concord.key` knows is a thing's already and is decided; of two rows that it knows to be different things nothing is to be said
either. A value that more than JUNK_ROWS rows share says nothing about who they are ("unknown", "0"): its rows are duplicates, and left too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.change import row_name

JUNK_ROWS = 12


class FoundRow(NamedTuple):
    """A row that counts."""

    system: str
    key: str
    link: str | None = None  # the thing that it is, by `concord.key`

    @property
    def name(self) -> str:
        return row_name(self.system, self.key)


@dataclass(frozen=True, slots=True)
class SameValue:
    """Rows with one match value, in the order of the entity's systems and of the keys in each."""

    value: str
    rows: tuple[FoundRow, ...]

    def of(self, system: str) -> list[FoundRow]:
        return [row for row in self.rows if row.system == system]


@dataclass
class Exact:
    pairs: list[SameValue] = field(default_factory=list)  # one row of each system
    duplicates: list[SameValue] = field(default_factory=list)
    left: dict[str, list[FoundRow]] = field(default_factory=dict)  # by system
    linked: dict[str, int] = field(default_factory=dict)


def compared(systems: Sequence[str], rows: Iterable[tuple[FoundRow, str | None]]) -> Exact:
    """`rows` with their match values, system by system in the order of the keys."""
    found = Exact(left={system: [] for system in systems}, linked=dict.fromkeys(systems, 0))
    with_value: dict[str, list[FoundRow]] = {}
    for row, value in rows:
        if row.link is not None:
            found.linked[row.system] += 1
        if value is not None:
            with_value.setdefault(value, []).append(row)
        elif row.link is None:
            found.left[row.system].append(row)
    for value, same in with_value.items():
        if all(row.link is not None for row in same):
            continue
        if len(same) == 1:
            found.left[same[0].system].append(same[0])
            continue
        group = SameValue(value, tuple(same))
        in_systems = {row.system for row in same}
        if len(in_systems) == len(same) and len({row.link for row in same} - {None}) <= 1:
            found.pairs.append(group)
            continue
        found.duplicates.append(group)
        if len(in_systems) == 1 or len(same) > JUNK_ROWS:
            for row in same:
                if row.link is None:
                    found.left[row.system].append(row)
    return found
