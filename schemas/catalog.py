"""A table as PostgreSQL's catalog describes it: value types only. `connectors.catalog` reads them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `length`, `precision`, `scale` and `labels` of an array are those of its elements."""

    name: str
    type: str  # as format_type prints it without modifier: 'numeric', 'character varying', 'mood', 'integer[]'
    base: str  # the same with domains resolved, schema-qualified names shortened: what values of it look like
    category: str  # pg_type.typcategory of base: 'N' number, 'S' text, 'B' boolean, 'D' date and time, 'E' enum, 'A' array, 'U' other
    not_null: bool = False
    has_default: bool = False  # a default, an identity or a generation expression: an insert may leave it out
    generated: bool = False  # GENERATED ALWAYS AS (…) STORED: cannot be written
    identity: str = ""  # 'a' always, 'd' by default, '' none
    length: int | None = None  # varchar(n), char(n)
    precision: int | None = None  # numeric(p, s): p. time and timestamp: digits of the seconds
    scale: int | None = None  # numeric(p, s): s
    labels: tuple[str, ...] = ()  # of an enum
    default: str | None = None  # its expression, as pg_get_expr prints it


@dataclass(frozen=True, slots=True)
class Table:
    """One table, its columns in order."""

    schema: str
    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    unique: tuple[tuple[str, ...], ...] = ()  # column sets of further plain unique indexes
    replica_identity: str = "d"  # pg_class.relreplident: d default, f full, i index, n nothing
    row_security: bool = False
    foreign_keys: tuple[tuple[tuple[str, ...], str, str], ...] = ()  # (columns, referenced schema, referenced table)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)
