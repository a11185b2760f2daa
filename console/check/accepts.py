"""Asks a target itself whether it takes a text in a column: by the column's type and by the CHECK constraints that are about it alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psycopg

from console.asking import literal, named
from console.check.database import Database
from schemas.catalog import Table

ONE_BY_ONE = 50  # values that a server is asked about one at a time, before PostgreSQL 16 could say it of many

_CHECKS = """
SELECT c.conname::text, pg_get_expr(c.conbin, c.conrelid) FROM pg_constraint c
JOIN pg_attribute a ON a.attrelid = c.conrelid AND c.conkey = ARRAY[a.attnum]
WHERE c.conrelid = %s AND c.contype = 'c' AND a.attname = %s ORDER BY 1"""

_PARENTS = """
SELECT c.confrelid::regclass::text, k.attname::text FROM pg_constraint c
JOIN pg_attribute a ON a.attrelid = c.conrelid AND c.conkey = ARRAY[a.attnum]
JOIN pg_attribute k ON k.attrelid = c.confrelid AND k.attnum = c.confkey[1]
WHERE c.contype = 'f' AND c.conparentid = 0 AND c.conrelid = %s AND a.attname = %s ORDER BY 1"""

_TYPE = """
SELECT format_type(a.atttypid, a.atttypmod), format_type(a.atttypid, -1), t.typtype = 'd'
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = %s AND a.attname = %s"""


@dataclass(frozen=True)
class Taker:
    """A column, and what decides whether a text gets into it."""

    table: Table
    column: str
    type: str  # with its length
    base_type: str  # without: a cast to it cuts nothing
    domain: bool
    checks: tuple[tuple[str, str], ...]  # (constraint, expression)
    parents: tuple[tuple[str, str], ...]  # (table, its column) that it refers to, alone

    @property
    def decides(self) -> bool:
        """Whether there is more to it than its type."""
        return bool(self.checks or self.parents or self.domain)


def taker(db: Database, table: Table, column: str) -> Taker:
    oid = db.oid(table)
    of_type, base_type, domain = db.rows(_TYPE, oid, column)[0]
    checks = tuple((name, expression) for name, expression in db.rows(_CHECKS, oid, column))
    parents = tuple((shown, key) for shown, key in db.rows(_PARENTS, oid, column))
    return Taker(table, column, of_type, base_type, domain, checks, parents)


def refused(db: Database, taker: Taker, texts: Iterable[str], *, form: bool = True) -> dict[str, str]:
    """Of these texts those that the column does not take, with what refuses them. `form`: also those that its type does not take."""
    wanted = list(dict.fromkeys(texts))
    found = _ill_formed(db, taker, wanted) if form or taker.domain else {}
    rest = [text for text in wanted if text not in found]
    for name, expression in taker.checks:
        for text in _violating(db, taker, expression, rest):
            found.setdefault(text, name)
    for parent, key in taker.parents:
        there = f"SELECT FROM {parent} AS p WHERE p.{named(key)} = v.t::{taker.base_type}"
        for (text,) in db.ask(f"SELECT t FROM unnest({_array(rest)}) AS v(t) WHERE NOT EXISTS ({there})") or ():
            found.setdefault(text, f"{parent} has no such row")
    return found


def _ill_formed(db: Database, taker: Taker, texts: Sequence[str]) -> dict[str, str]:
    if db.version >= 160_000:
        query = f"SELECT t FROM unnest({_array(texts)}) AS v(t) WHERE NOT pg_input_is_valid(t, {literal(taker.type)})"
        return {text: f"no {taker.type}" for (text,) in db.ask(query) or ()}
    if len(texts) > ONE_BY_ONE:
        return {}
    found = {}
    for text in texts:
        try:
            db.connection.execute(f"SELECT {literal(text)}::{taker.base_type}".encode())
        except psycopg.errors.IntegrityError as error:  # a domain's CHECK
            found[text] = str(error.diag.constraint_name or f"no {taker.type}")
        except psycopg.errors.DataError:
            found[text] = f"no {taker.type}"
        except psycopg.Error:
            if db.connection.broken:
                raise
            return found
    return found


def _violating(db: Database, taker: Taker, expression: str, texts: Sequence[str]) -> list[str]:
    """A constraint's expression speaks of its column by name: so a row is made that has a column of that name and no other."""
    row = f"(SELECT v.concord_text::{taker.base_type} AS {named(taker.column)} OFFSET 0) AS row"
    query = f"SELECT v.concord_text FROM unnest({_array(texts)}) AS v(concord_text), LATERAL {row} WHERE NOT ({expression})"
    return [text for (text,) in db.ask(query) or ()]


def _array(texts: Sequence[str]) -> str:
    return f"ARRAY[{', '.join(map(literal, texts))}]::text[]"
