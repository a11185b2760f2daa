"""A column's value made by the database at the moment of writing: `insert` and `always`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Expr:
    """A column's value made by the database. `sql` is in psycopg's format: `%s` for each of `params`, `%%` for a per cent sign.

    It is cast to the column's type (without length, so that nothing is cut), except what the configuration gave as `sql`.
    """

    sql: str
    params: tuple[str | None, ...] = ()
    column: str | None = None  # not made by `sql`: the value that this column of the row gets in the same write
