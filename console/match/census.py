"""Reads what is there: an entity's rows in each system through the mapping, and what `concord.key` says of them already.

Rows are read as `concord verify` reads them, a chunk at a time, each chunk a statement of its own. What is kept of a row is its key, its
match value and its link; whoever needs its fields asks for them again by key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from connectors import concord_schema
from connectors.postgres import translated
from console.match.exact import FoundRow
from console.verify import CHUNK, Connection, Crosswalk, Rows
from schemas.change import Canonical
from schemas.errors import MappingError
from schemas.mapping import Entity, Row

Values = Mapping[str, Canonical]
Tell = Callable[[str, int], None]  # progress: what is being done, how many rows more


@dataclass
class Counted:
    """What was read of one system."""

    rows: int = 0  # that count
    without_value: int = 0  # without a match value
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # (key, why): would become dead letters


class Census:
    """One entity in all its systems."""

    def __init__(self, entity: Entity, connections: Mapping[str, Connection]) -> None:
        self.entity = entity
        self.connections = connections
        self.counted = {system: Counted() for system in entity.systems}
        self._rows = {system: Rows(entity.bindings[system]) for system in entity.systems}
        self._crosswalk = Crosswalk(
            {system: connection for system, connection in connections.items() if concord_schema.version(connection)}
        )

    def read(self, tell: Tell) -> Iterator[tuple[FoundRow, str | None]]:
        """Every row that counts with its match value, system by system in the order of the keys."""
        entity = self.entity
        for system in entity.systems:
            binding, counted = entity.bindings[system], self.counted[system]
            doing = f"{entity.name}: reading {system}"
            for chunk in self._chunks(system):
                values: dict[str, str | None] = {}
                for row in chunk:
                    try:
                        if binding.in_scope(row):
                            values[binding.key_of(row)] = entity.match_value(binding.to_canonical(row))
                    except MappingError as error:
                        counted.unreadable.append((binding.key_of(row), str(error)))
                links = self._crosswalk.links(entity.name, ((system, key) for key in values))
                counted.rows += len(values)
                counted.without_value += sum(value is None for value in values.values())
                for key, value in values.items():
                    yield FoundRow(system, key, links.get((system, key))), value
                tell(doing, len(chunk))

    def _chunks(self, system: str) -> Iterator[list[Row]]:
        chunks = self._rows[system].chunks(self.connections[system])
        while True:
            with translated(f"reading {self.entity.bindings[system]}"):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    def values(self, system: str, keys: Iterable[str]) -> dict[str, Values]:
        """The fields of those rows that are there, count and can be read, by key."""
        binding, found = self.entity.bindings[system], dict[str, Values]()
        wanted = list(keys)
        for start in range(0, len(wanted), CHUNK):
            with translated(f"reading {binding}"):
                rows = self._rows[system].by_key(self.connections[system], wanted[start : start + CHUNK])
            for key, row in rows.items():
                try:
                    found[key] = binding.to_canonical(row)
                except MappingError:
                    continue
        return found

    def match_values(self, system: str, keys: Iterable[str]) -> dict[str, str | None]:
        """The match values of those rows that are there, count and can be read, by key."""
        wanted, found = list(keys), dict[str, str | None]()
        for start in range(0, len(wanted), CHUNK):
            values = self.values(system, wanted[start : start + CHUNK])
            found.update({key: self.entity.match_value(of) for key, of in values.items()})
        return found

    def groups(self, groups: Sequence[Sequence[FoundRow]]) -> list[dict[FoundRow, Values]]:
        """The fields of each group's rows; rows that have gone since are not in it."""
        wanted: dict[str, dict[str, None]] = {system: {} for system in self.entity.systems}
        for group in groups:
            for row in group:
                wanted[row.system][row.key] = None
        there = {system: self.values(system, keys) for system, keys in wanted.items()}
        return [{row: there[row.system][row.key] for row in group if row.key in there[row.system]} for group in groups]
