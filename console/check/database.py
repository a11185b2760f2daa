"""One system's database as the checks see it: how to ask, and what was found so far."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import psycopg

from console.asking import Asking, Connection, literal, named
from console.check.findings import About, Checked
from console.logs import first_line
from schemas.catalog import Table
from schemas.config import Config


class Database(Asking):
    """A session in one system, what was found so far, and how to ask."""

    def __init__(self, config: Config, system: str, connection: Connection, tables: Mapping[str, Table], found: Checked) -> None:
        super().__init__(system, connection)
        self.config = config
        self.told = config.systems[system]
        self.tables = tables
        self.found = found
        self.role, self.superuser, self.name = self.rows(
            "SELECT rolname::text, rolsuper, current_database()::text FROM pg_roles WHERE rolname = current_user"
        )[0]

    # --- findings

    def problem(self, about: About, what: str, mend: str = "", where: str = "") -> None:
        self.found.problem(about, self._at(where), what, mend)

    def note(self, about: About, what: str, mend: str = "", where: str = "") -> None:
        self.found.note(about, self._at(where), what, mend)

    def _at(self, where: str) -> str:
        return f"{self.system}: {where}" if where else self.system

    def sequence(self, name: str, where: str) -> int | None:
        """The sequence that the file names so, as this session finds it. None: a problem, now reported."""
        try:
            oid = self.one("SELECT to_regclass(%s)::oid::int8", name)
        except psycopg.Error as error:
            if self.connection.broken:
                raise
            self.found.problem(About.INSERTS, where, f"{name}: {first_line(error)}", "a sequence's name, and the right to use its schema")
            return None
        if oid is None:
            self.found.problem(About.INSERTS, where, f"there is no sequence {name}", "with its schema, and quoted if need be")
        return None if oid is None else int(oid)

    @contextmanager
    def planning(self) -> Iterator[None]:
        """For EXPLAIN that must find an index however small the table is."""
        with self.connection.transaction():
            self.connection.execute("SET LOCAL enable_seqscan = off")
            yield


def counting(scope: Mapping[str, Sequence[str | None]], table: Table) -> str:
    """SQL for the rows that count, by `where` of the configuration."""
    tests = []
    for column, texts in scope.items():
        described = table.column(column)
        of_type = described.type if described is not None else "text"
        values = [f"{literal(text)}::{of_type}" for text in texts if text is not None]
        either = [f"t.{named(column)} IN ({', '.join(values)})"] if values else []
        either += [f"t.{named(column)} IS NULL"] if None in texts else []
        tests.append(f"({' OR '.join(either)})")
    return " AND ".join(tests) or "true"


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names in a sentence; many are cut."""
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
