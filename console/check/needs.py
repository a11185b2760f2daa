"""What Concord does in each table of a system, as rights: what `check` asks for and `--grant` gives. Pure.

SELECT     every column: the snapshot reads them all, and the log holds them anyway
INSERT     the columns that an insert of ours gives
UPDATE     the columns that we write, and one at least of a table whose rows we lock before we write them: PostgreSQL asks no more
DELETE     where a delete elsewhere is one here
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from console.check.homes import Home
from schemas.catalog import Table

Needed = Mapping[str, frozenset[str] | None]  # right → the columns it is needed on; None: the whole table


def needed(table: Table, homes: Sequence[Home] | None) -> dict[str, frozenset[str] | None]:
    """`homes`: those that are in this table. None: the mapping is not sound, so every right is asked for."""
    columns = frozenset(column.name for column in table.columns)
    if homes is None:
        return {"SELECT": None, "INSERT": columns, "UPDATE": columns, "DELETE": None}
    found: dict[str, frozenset[str] | None] = {"SELECT": None}
    if any(home.inserts for home in homes):
        found["INSERT"] = frozenset(column for home in homes if home.inserts for column in home.given)
    if updated := _updated(table, homes):
        found["UPDATE"] = updated
    if any(home.deletes for home in homes):
        found["DELETE"] = None
    return found


def _updated(table: Table, homes: Iterable[Home]) -> frozenset[str]:
    written = {column for home in homes if home.updates for column in (*home.written, *home.always, *home.points)}
    if not written and any(home.locks for home in homes):
        written = set(table.primary_key[:1])
    return frozenset(written)


def in_table(homes: Iterable[Home], table: Table) -> list[Home]:
    return [home for home in homes if (home.table.schema, home.table.name) == (table.schema, table.name)]


def defaults_used(home: Home) -> set[str]:
    """Columns whose default an insert of ours may leave to PostgreSQL, which computes it with our rights: those that we never give, and
    those that take no null, when the field is null."""
    return {column.name for column in home.table.columns if column.has_default and (column.name not in home.given or column.not_null)}


_WRITES = re.compile(
    r'\b(update|insert\s+into|delete\s+from)\s+(?:only\s+)?((?:"(?:[^"]|"")+"|\w+)(?:\.(?:"(?:[^"]|"")+"|\w+))?)', re.IGNORECASE
)


def written_by(source: str) -> list[tuple[str, str]]:
    """(right, table as it is named) of what a trigger function's text writes, as far as its text says."""
    found = ((verb.split()[0].upper(), name) for verb, name in _WRITES.findall(source))
    return list(dict.fromkeys(pair for pair in found if pair[1].lower() not in ("set", "of", "nowait", "skip")))


# Triggers that fire at our writes, with the text of functions that run with our rights. Parameters: the table; whether we insert, update,
# delete there.
TRIGGERS_OF_OURS = """
SELECT t.tgname::text, p.prosrc FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_language l ON l.oid = p.prolang
WHERE t.tgrelid = %s AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND NOT p.prosecdef AND l.lanname = 'plpgsql'
  AND (%s AND t.tgtype & 4 > 0 OR %s AND t.tgtype & 16 > 0 OR %s AND t.tgtype & 8 > 0)
ORDER BY 1"""
