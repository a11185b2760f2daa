"""Which tables a new row's table waits for, so that the row is known with what it is matched by. Pure.

    party ◀── party_identifier.code (what customers are matched on)

A row whose match value is not known is a thing of its own, for ever: so a new party must not be told before its identifier has been read,
although they are in two topics that are read side by side, and after a stop with a backlog in each. The first may be read minutes
before the second. Its table waits until all that is in the other's topic at that moment has been passed on; the source puts the rows of a
transaction into Kafka at once, and a snapshot's parts before its roots.

Two tables that wait for each other would wait for ever: an edge that closes such a ring is left out, and with it the promise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from schemas.mapping import Binding, Entity
from schemas.mapping.parts import ROOT

Name = tuple[str, str]  # schema, table


def waited_for(bindings: Iterable[Binding], entities: Mapping[str, Entity]) -> dict[Name, frozenset[Name]]:
    """Of one system's bindings: root table → tables that are read before a new row of it is passed on."""
    graph: dict[Name, set[Name]] = {}
    for binding in bindings:
        table = (binding.table.schema, binding.table.name)
        for other in sorted(_matched_in(binding, entities[binding.entity]) - {table}):
            if not _reaches(graph, other, table):
                graph.setdefault(table, set()).add(other)
    return {table: frozenset(others) for table, others in graph.items()}


def _matched_in(binding: Binding, entity: Entity) -> set[Name]:
    """Tables of the parts that match values are read from, and of those that they hang at."""
    found = set()
    for field in entity.match_on:
        for column in binding.columns.get(field, ()):
            name = binding.split(column)[0]
            while name != ROOT:
                part = binding.part[name]
                found.add((part.table.schema, part.table.name))
                name = part.of
    return found


def _reaches(graph: Mapping[Name, set[Name]], start: Name, end: Name) -> bool:
    return start == end or any(_reaches(graph, each, end) for each in graph.get(start, ()))
