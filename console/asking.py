"""A session that only asks: read-only, every question about a customer's rows with a deadline.

Questions about the catalog take parameters. Those about rows are composed of quoted names and literals, since the customer's own names are
in them; they are given up after `PATIENCE` and asked of a sample instead.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg import sql

from schemas.catalog import Table

logger = logging.getLogger(__name__)

PATIENCE = 5  # seconds for one question about a table's rows: the checks of a hundred tables are still a coffee
SAMPLE = 10_000  # rows, where the whole table takes longer

# Columns that a sequence numbers, by default or as an identity; joins with pg_class and pg_attribute by these names.
NUMBERED_COLUMNS = """(
    SELECT d.adrelid, d.adnum, p.refobjid AS sequence FROM pg_attrdef d
    JOIN pg_depend p ON p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refclassid = 'pg_class'::regclass
    UNION
    SELECT p.refobjid, p.refobjsubid, p.objid FROM pg_depend p
    WHERE p.classid = 'pg_class'::regclass AND p.refclassid = 'pg_class'::regclass AND p.deptype IN ('a', 'i') AND p.refobjsubid > 0
) AS of_column(rel, attnum, sequence)"""

Connection = psycopg.Connection[tuple[Any, ...]]


def named(*names: str) -> str:
    """A quoted name, for a statement without parameters."""
    return sql.Identifier(*names).as_string()


def literal(value: Any) -> str:
    return sql.Literal(value).as_string()


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


class Asking:
    """Questions to one database."""

    def __init__(self, system: str, connection: Connection) -> None:
        self.system = system
        self.connection = connection
        self.version = connection.info.server_version
        connection.execute("SET default_transaction_read_only = on")  # nothing is changed

    # --- the catalog

    def rows(self, query: str, *params: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(query.encode(), params or None).fetchall()

    def one(self, query: str, *params: Any) -> Any:
        rows = self.rows(query, *params)
        return rows[0][0] if rows else None

    def setting(self, name: str) -> str | None:
        value = self.one("SELECT current_setting(%s, true)", name)
        return None if value is None else str(value)

    def shown(self, *names: str) -> str:
        """Names for a statement that a person reads: quoted where they must be."""
        return ".".join(str(self.one("SELECT quote_ident(%s)", name)) for name in names)

    def shown_columns(self, columns: Iterable[str]) -> str:
        return ", ".join(map(self.shown, columns))

    def oid(self, table: Table) -> int:
        """Of a table that is there: it was read from this database's catalog."""
        query = "SELECT c.oid::int8 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s"
        return int(self.one(query, table.schema, table.name))

    # --- rows

    def ask(self, query: str) -> list[tuple[Any, ...]] | None:
        """A question about rows. None: it took too long, or this session may not ask, or PostgreSQL cannot make sense of it."""
        try:
            with self.connection.transaction():
                self.connection.execute(f"SET LOCAL statement_timeout = '{PATIENCE}s'".encode())
                return self.connection.execute(query.encode()).fetchall()
        except psycopg.Error as error:
            if self.connection.broken:
                raise
            logger.debug("%s: %s", self.system, error)
            return None

    def about_rows(self, columns: str, table: Table, where: str = "true") -> tuple[tuple[Any, ...], bool] | None:
        """One row of aggregates over a table, and whether over all of it (else over a sample). None: it could not be asked."""
        found = self.ask(f"SELECT {columns} FROM {self.source(table)} AS t WHERE {where}")
        if found:
            return found[0], True
        found = self.ask(f"SELECT {columns} FROM {self.sample(table, where)} AS t")
        return (found[0], False) if found else None

    def source(self, table: Table) -> str:
        return named(table.schema, table.name)

    def sample(self, table: Table, where: str = "true", rows: int = SAMPLE) -> str:
        """Some rows from all over a table, as a subquery."""
        there = self.one("SELECT reltuples::float8 FROM pg_class WHERE oid = %s::oid", self.oid(table)) or 0
        share = min(100.0, 200.0 * rows / there) if there > rows else 100.0  # twice as many: some do not count, and it is cut
        return f"(SELECT * FROM {self.source(table)} AS t TABLESAMPLE SYSTEM ({share}) WHERE {where} LIMIT {rows})"
