"""What is read of the databases: a binding's rows, and which thing each of them is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import psycopg

from connectors.rows import FlatRows, cast_type, quoted
from schemas.mapping import Binding, Row

CHUNK = 1_000  # rows read and compared at once

Connection = psycopg.Connection[tuple[Any, ...]]


class Rows:
    """A binding's flat rows: in the order of the root's key, or by keys."""

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self._flat = flat = FlatRows(binding)
        key = binding.key_columns
        columns = ", ".join(f"r.{quoted(column)}" for column in binding.root_columns)
        in_order, after = (", ".join(f"{alias}.{quoted(column)}" for column in key) for alias in ("t", "r"))
        casts = [f"%s::{cast_type(binding.table, column)}" for column in key]

        def chunk(where: str) -> str:  # the roots first, then what hangs at them
            return flat.select(
                f"(SELECT {columns} FROM {flat.root} r {where}ORDER BY {after} LIMIT {CHUNK}) t", among=f"ORDER BY {in_order}"
            )

        self._first = chunk("")
        self._after = chunk(f"WHERE ({after}) > ({', '.join(casts)}) ")
        numbered = [f"k{number}" for number in range(len(key))]
        on = [f"r.{quoted(column)} = w.{k}::{cast_type(binding.table, column)}" for column, k in zip(key, numbered, strict=True)]
        wanted = f"unnest({', '.join('%s::text[]' for _ in key)}) AS w({', '.join(numbered)})"
        self._by_key = flat.select(f"(SELECT {columns} FROM {wanted} JOIN {flat.root} r ON {' AND '.join(on)}) t")

    def chunks(self, connection: Connection, after: Sequence[str] | None = None) -> Iterator[list[Row]]:
        """The whole table, or what comes after a key. Each chunk is a statement of its own: no transaction stays open, no snapshot holds
        back VACUUM."""
        rows = self._rows(connection, self._first, ()) if after is None else self._rows(connection, self._after, after)
        while rows:
            yield rows
            if len(rows) < CHUNK:
                return
            rows = self._rows(connection, self._after, [rows[-1][column] for column in self.binding.key_columns])

    def by_key(self, connection: Connection, keys: Iterable[str], counting: bool = True) -> dict[str, Row]:
        """Those that are there, by key; with `counting` only those in scope."""
        wanted = [self.binding.key_values(key) for key in keys]
        if not wanted:
            return {}
        rows = self._rows(connection, self._by_key, [[key[column] for key in wanted] for column in self.binding.key_columns])
        return {self.binding.key_of(row): row for row in rows if not counting or self.binding.in_scope(row)}

    def _rows(self, connection: Connection, statement: str, parameters: Sequence[Any]) -> list[Row]:
        return [self._flat.row(values) for values in connection.execute(statement.encode(), parameters)]


class Crosswalk:
    """`concord.key` of all databases together: what one knows already another may only be about to hear."""

    def __init__(self, connections: Mapping[str, Connection]) -> None:
        self._connections = connections

    def links(self, entity: str, names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """(system, key) → link."""
        asked = sorted(set(names))
        if not asked:
            return {}
        query = (
            "SELECT k.system, k.key, k.link FROM concord.key k JOIN unnest(%s::text[], %s::text[]) AS w(system, key) "
            "ON k.system = w.system AND k.key = w.key WHERE k.entity = %s"
        )
        found = {}
        for connection in self._connections.values():
            rows = connection.execute(query, ([system for system, _ in asked], [key for _, key in asked], entity))
            found.update({(system, key): link for system, key, link in rows})
        return found

    def keys(self, entity: str, links: Iterable[str]) -> dict[str, dict[str, set[str]]]:
        """link → system → keys. Also the ones marked gone: whether a row is there is for its table to say."""
        asked = list(set(links))
        found: dict[str, dict[str, set[str]]] = {}
        if not asked:
            return found
        for connection in self._connections.values():
            rows = connection.execute("SELECT link, system, key FROM concord.key WHERE entity = %s AND link = ANY(%s)", (entity, asked))
            for link, system, key in rows:
                found.setdefault(link, {}).setdefault(system, set()).add(key)
        return found
