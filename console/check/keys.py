"""Keys, uniqueness and references: what rows are found by, what refuses a row, what refuses a delete."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

import psycopg

from connectors.sink import statements
from console.asking import named
from console.check.database import Database, listed
from console.check.findings import About, Checked
from console.check.homes import Home
from schemas.config import Config
from schemas.mapping import Part, Pipeline
from schemas.mapping.likeness import Likeness
from schemas.mapping.parts import ROOT

MANY_ROWS = 10_000  # from here on a table that is read from end to end is felt


def check_keys(db: Database, homes: Sequence[Home]) -> None:
    for home in homes:
        if home.inserts:
            _unique(db, home)
            if home.part is None:
                _match_columns(db, home)
            else:
                _link_columns(db, home.part, home)
        _foreign_keys(db, home)
        if home.deletes:
            _referred_to(db, home, homes)


def has_many(db: Database, home: Home) -> bool:
    there = db.one("SELECT reltuples FROM pg_class WHERE oid = %s::oid", db.oid(home.table))
    return bool(there and there >= MANY_ROWS)


# --- rows are found by an index -----------------------------------------------------------------------------------------------------


def uses_index(db: Database, table: str, condition: str) -> bool | None:
    """Whether some index serves a condition, by PostgreSQL's own judgement. None: we may not ask."""
    try:
        with db.planning():
            (plan,) = db.connection.execute(f"EXPLAIN (FORMAT JSON, COSTS OFF) SELECT 1 FROM {table} AS t WHERE {condition}".encode())
    except psycopg.Error:
        if db.connection.broken:
            raise
        return None
    told = plan[0]
    return _has_condition(json.loads(told) if isinstance(told, str) else told)


def _has_condition(plan: Any) -> bool:
    """An index that is read from end to end, for want of a better, has no condition."""
    if isinstance(plan, list):
        return any(map(_has_condition, plan))
    inner = [value for value in plan.values() if isinstance(value, list | dict)] if isinstance(plan, dict) else []
    return isinstance(plan, dict) and ("Index Cond" in plan or any(map(_has_condition, inner)))


def equality(home: Home, columns: Iterable[str]) -> str:
    return " AND ".join(f"t.{named(column)} = (SELECT NULL::{home.column(column).type})" for column in columns)


def _match_columns(db: Database, home: Home) -> None:
    """The sink looks for a row with the match value of what it is about to insert: for the text first, then for one that reads the same."""
    binding, match_on = home.binding, home.entity.match_on
    sides = [binding.sides[name] for name in match_on if name in binding.sides]
    columns = list(dict.fromkeys(column for side in sides for column in (side.columns if side.read is None else side.columns[:1])))
    if not sides or len(sides) < len(match_on) or any(home.table.column(column) is None for column in columns):
        return  # what is matched on is in a part
    name = str(home.table)
    many = has_many(db, home)
    if uses_index(db, db.source(home.table), equality(home, columns)) is False:
        say = db.problem if many else db.note
        say(
            About.KEYS,
            f"{', '.join(columns)} is not indexed, but {home.entity.name} is matched on it: each new one reads the whole table",
            f"CREATE INDEX CONCURRENTLY ON {db.shown(home.table.schema, home.table.name)} ({db.shown_columns(columns)})",
            name,
        )
        return
    if not many:
        return
    index = statements.likeness_index(binding, match_on)
    if index is not None:
        keys = [statements.likeness_key(side).replace("%%", "%") for side in sides if isinstance(side.alike, Likeness)]
        if uses_index(db, db.source(home.table), " AND ".join(f"{key} = (SELECT NULL::text)" for key in keys)) is False:
            db.note(
                About.KEYS,
                f"{home.entity.name} is matched on what {', '.join(columns)} reads as once it is cleaned, and no index finds that: each "
                "batch "
                "with new ones reads the table",
                index,
                name,
            )
    elif any(side.alike == "any" for side in sides):
        db.note(
            About.KEYS,
            f"{home.entity.name} is matched on {', '.join(columns)}, whose values nothing in the database can look for: each batch with "
            "new "
            "ones reads the table",
            "match on a plain column, or narrow it down with a second match field",
            name,
        )


def _link_columns(db: Database, part: Part, home: Home) -> None:
    """Children are read by the key that they hold, with every write of their root."""
    if part.kind == "child" and uses_index(db, db.source(part.table), equality(home, part.link)) is False:
        say = db.problem if has_many(db, home) else db.note
        say(
            About.KEYS,
            f"{', '.join(part.link)} is not indexed, but {home.what} is found by it: each write reads the whole table",
            f"CREATE INDEX CONCURRENTLY ON {db.shown(part.table.schema, part.table.name)} ({db.shown_columns(part.link)})",
            str(part.table),
        )


# --- uniqueness ---------------------------------------------------------------------------------------------------------------------

_UNIQUE = """
SELECT c.relname::text, pg_get_indexdef(i.indexrelid), con.contype = 'x', pg_get_constraintdef(con.oid),
       ARRAY(
           SELECT DISTINCT a.attname::text FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum > 0
           AND (a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1]) OR i.indexprs IS NOT NULL AND EXISTS (
               SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
               AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum)) ORDER BY 1)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
LEFT JOIN pg_constraint con ON con.conindid = i.indexrelid AND con.contype IN ('u', 'x')
WHERE i.indrelid = %s AND NOT i.indisprimary AND (i.indisunique OR i.indisexclusion) AND i.indisvalid ORDER BY 1"""


def _unique(db: Database, home: Home) -> None:
    """What is unique there and not what things are matched on: the second row with the value is refused."""
    binding = home.binding
    part = ROOT if home.part is None else home.part.name
    placed = [binding.split(column) for field in home.entity.match_on for column in binding.columns.get(field, ())]
    matched = {column for at, column in placed if at == part}
    for index, definition, exclusion, constraint, columns in db.rows(_UNIQUE, db.oid(home.table)):
        written = [column for column in columns if column in home.written]
        if not written or set(columns) & matched:  # 0007: a value of the match columns waits, it is not refused
            continue
        if all(home.written[column] in binding.generated for column in written):
            continue
        what = constraint if exclusion else definition.partition(" USING ")[2].partition(" ")[2]
        fields = list(dict.fromkeys(home.written[column] for column in written))
        on = f"matched on {', '.join(home.entity.match_on)}" if home.entity.match_on else "not matched on anything"
        db.note(
            About.KEYS,
            f"{'no two rows may overlap in' if exclusion else 'is unique by'} {what} ({index}), but {home.entity.name} is {on}: a second "
            "one "
            f"with the same {', '.join(fields)} is refused, and becomes a dead letter",
            f"add {', '.join(fields)} to match_on if the same value means the same {home.entity.name}; else see `concord dead list`",
            str(home.table),
        )


# --- references -----------------------------------------------------------------------------------------------------------------------


def _foreign_keys(db: Database, home: Home) -> None:
    """Keys of other rows that are mapped as if they were values."""
    refs = home.entity.refs
    told = db.config.entities[home.entity.name]
    for columns, schema, table in home.table.foreign_keys:
        fields = {home.written[column] for column in columns if column in home.written} - refs.keys()
        for field in sorted(fields):
            if told.fields[field].values is not None or any(side.values is not None for side in told.fields[field].sides.values()):
                continue
            known = [name for name, bound in _bound_to(db.config, db.system) if bound == f"{schema}.{table}"]
            db.found.note(
                About.REFERENCES,
                f"entities.{home.entity.name}.fields.{field}",
                f"is mapped as a plain value, but {', '.join(columns)} of {home.table} in {db.system} refers to {schema}.{table}: where "
                "there "
                "is no such row, the write is refused",
                f"ref: {known[0]}" if known else f"an entity for {schema}.{table} and `ref:`, unless its keys are the same in all systems",
            )


def _bound_to(config: Config, system: str) -> Iterator[tuple[str, str]]:
    for name, entity in config.entities.items():
        if system in entity.bindings:
            text = entity.bindings[system].table
            yield name, text if "." in text else f"public.{text}"


_REFERRING = """
SELECT c.conrelid::regclass::text, n.nspname || '.' || r.relname, c.confdeltype::text, r.reltuples::float8,
       ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY AS k(n, place) JOIN pg_attribute a
             ON a.attrelid = c.conrelid AND a.attnum = k.n ORDER BY k.place),
       ARRAY(SELECT format_type(a.atttypid, -1) FROM unnest(c.conkey) WITH ORDINALITY AS k(n, place) JOIN pg_attribute a
             ON a.attrelid = c.conrelid AND a.attnum = k.n ORDER BY k.place)
FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace
WHERE c.confrelid = %s AND c.contype = 'f' AND c.conparentid = 0 ORDER BY 1, 5"""


def _referred_to(db: Database, home: Home, homes: Sequence[Home]) -> None:
    """Deletes that are passed on here, and what stands in their way."""
    entity = home.what
    bound = {str(other.table) for other in homes}
    deleted = {str(other.table) for other in homes if other.deletes}  # their own deletes come too
    keep: list[str] = []
    for shown, table, on_delete, rows, columns, types in db.rows(_REFERRING, db.oid(home.table)):
        if on_delete in "ar" and table not in deleted:
            keep.append(shown)
        elif on_delete == "c" and table in bound - deleted:
            db.note(
                About.REFERENCES,
                f"deleting a {entity} here takes its rows of {shown} with it (ON DELETE CASCADE); the other systems keep theirs",
                "`delete: propagate` for that entity too, or a soft delete for this one",
                str(home.table),
            )
        key = " AND ".join(f"t.{named(column)} = (SELECT NULL::{of_type})" for column, of_type in zip(columns, types, strict=True))
        if rows >= MANY_ROWS and uses_index(db, shown, key) is False:
            db.note(
                About.REFERENCES,
                f"{', '.join(columns)} of {shown} refers to it and is not indexed: each delete of a {entity} reads all of its {rows:,.0f} "
                "rows",
                f"CREATE INDEX CONCURRENTLY ON {shown} ({db.shown_columns(columns)})",
                str(home.table),
            )
    if keep:
        one = len(set(keep)) == 1
        db.note(
            About.REFERENCES,
            f"{listed(dict.fromkeys(keep))} refer{'s' * one} to it and keep{'s' * one} a row from being deleted: the delete of a {entity} "
            "that "
            "has such rows becomes a dead letter",
            f"entities.{home.entity.name}.delete: {{soft: {{field: value}}}}, or ignore",
            str(home.table),
        )


# --- cycles ---------------------------------------------------------------------------------------------------------------------------


def check_cycles(pipeline: Pipeline, found: Checked) -> None:
    """Rows that wait for each other before any of them can be inserted: references of which none may be null."""
    for system in pipeline.systems:
        waits: dict[str, dict[str, str]] = {}  # entity → those it cannot be inserted without → by which field
        for binding in pipeline.tables(system):
            entity = pipeline.entities[binding.entity]
            if not entity.born_in - {system}:
                continue
            for field, target in entity.refs.items():
                columns = [binding.shape.column(column) for column in binding.columns.get(field, ())]
                if columns and field in binding.writable and any(column is not None and column.not_null for column in columns):
                    waits.setdefault(entity.name, {})[target] = field
        for ring in _rings({name: set(targets) for name, targets in waits.items()}):
            steps = [f"{one}.{waits[one][other]}" for one, other in zip(ring, [*ring[1:], ring[0]], strict=True)]
            where = f"entities.{ring[0]}.fields.{waits[ring[0]][ring[1] if len(ring) > 1 else ring[0]]}"
            what = (
                f"refers to a {ring[0]} and is NOT NULL in {system}: the first one would wait for itself"
                if len(ring) == 1
                else f"{' → '.join(steps)} go round, and all of them are NOT NULL in {system}: none of these could ever be inserted first"
            )
            mend = f"let one of them be null in {system}; or write it with an `insert` expression and `write: false`"
            found.problem(About.REFERENCES, where, what, mend)


def _rings(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """Each ring once, by taking one edge of each that is found out."""
    for name in sorted(graph):
        if name in graph[name]:
            yield [name]
            graph[name].discard(name)
    while True:
        try:
            list(TopologicalSorter(graph).static_order())
            return
        except CycleError as error:
            ring = error.args[1][:-1][::-1]  # graphlib: each one is waited for by the next
            yield list(ring)
            graph[ring[0]].discard(ring[1])
