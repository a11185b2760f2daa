"""Reads tables from pg_catalog: a few set-based queries, whatever the number of tables.

Needs no right on the tables themselves. Domains are resolved to what they are based on, with the innermost length that is given, also as
elements of arrays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import psycopg

from schemas.catalog import Column, Table

# `type` is what values can be cast to without being cut: format_type(…, -1) says bpchar, not character, which would be character(1).
_COLUMNS = """
WITH RECURSIVE wanted AS (
    SELECT c.oid, n.nspname, c.relname, c.relreplident, c.relrowsecurity
    FROM unnest(%(schemas)s::text[], %(tables)s::text[]) AS w(nspname, relname)
    JOIN pg_catalog.pg_namespace n ON n.nspname = w.nspname
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.relname AND c.relkind IN ('r', 'p')
), resolved AS (
    SELECT a.attrelid, a.attnum, t.oid, t.typtype, t.typbasetype, t.typtypmod, a.atttypmod AS typmod, t.typnotnull AS not_null,
           t.typdefault IS NOT NULL AS has_default
    FROM wanted w
    JOIN pg_catalog.pg_attribute a ON a.attrelid = w.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    UNION ALL
    SELECT r.attrelid, r.attnum, t.oid, t.typtype, t.typbasetype, t.typtypmod,
           CASE WHEN r.typmod >= 0 THEN r.typmod ELSE r.typtypmod END, r.not_null OR t.typnotnull, r.has_default OR t.typdefault IS NOT NULL
    FROM resolved r
    JOIN pg_catalog.pg_type t ON t.oid = r.typbasetype
    WHERE r.typtype = 'd'
)
SELECT w.oid, w.nspname, w.relname, w.relreplident, w.relrowsecurity,
       a.attname, pg_catalog.format_type(a.atttypid, -1), b.typname, pg_catalog.format_type(r.oid, NULL),
       b.typcategory::text, b.typtype::text,
       a.attnotnull OR r.not_null, a.atthasdef OR a.attidentity <> '' OR r.has_default, a.attgenerated <> '', a.attidentity::text, r.typmod,
       CASE WHEN a.attgenerated = '' THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END,
       (SELECT array_agg(e.enumlabel::text ORDER BY e.enumsortorder) FROM pg_catalog.pg_enum e
        WHERE e.enumtypid = CASE WHEN b.typcategory = 'A' THEN b.typelem ELSE r.oid END),
       bn.nspname, pg_catalog.format_type(eb.oid, NULL), eb.typname, e.typtypmod
FROM wanted w
JOIN pg_catalog.pg_attribute a ON a.attrelid = w.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN resolved r ON r.attrelid = a.attrelid AND r.attnum = a.attnum AND r.typtype <> 'd'
JOIN pg_catalog.pg_type b ON b.oid = r.oid
JOIN pg_catalog.pg_namespace bn ON bn.oid = b.typnamespace
LEFT JOIN pg_catalog.pg_type e ON b.typcategory = 'A' AND e.oid = b.typelem AND e.typtype = 'd'
LEFT JOIN pg_catalog.pg_type eb ON eb.oid = e.typbasetype
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
ORDER BY w.oid, a.attnum
"""

_INDEXES = """
SELECT i.indrelid, i.indisprimary, array_agg(a.attname::text ORDER BY k.place)
FROM pg_catalog.pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, place)
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = ANY(%(oids)s) AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
  AND k.place <= i.indnkeyatts
GROUP BY i.indexrelid, i.indrelid, i.indisprimary
ORDER BY i.indexrelid
"""

_FOREIGN_KEYS = """
SELECT c.conrelid, array_agg(a.attname::text ORDER BY k.place), n.nspname, r.relname
FROM pg_catalog.pg_constraint c
CROSS JOIN LATERAL unnest(c.conkey) WITH ORDINALITY AS k(attnum, place)
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum
JOIN pg_catalog.pg_class r ON r.oid = c.confrelid
JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
WHERE c.contype = 'f' AND c.conrelid = ANY(%(oids)s) AND c.conparentid = 0
GROUP BY c.oid, c.conrelid, n.nspname, r.relname
ORDER BY c.oid
"""


def read_tables(conn: psycopg.Connection[Any], names: Iterable[tuple[str, str]]) -> dict[str, Table]:
    """`names` are (schema, table) pairs, as `schemas.mapping.table_names` gives them. Tables that are not there are left out."""
    wanted = sorted(set(names))
    with conn.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        cursor.execute(_COLUMNS, {"schemas": [schema for schema, _ in wanted], "tables": [table for _, table in wanted]})
        heads: dict[int, tuple[str, str, str, bool]] = {}
        columns: defaultdict[int, list[Column]] = defaultdict(list)
        for oid, schema, table, identity, security, *rest in cursor:
            heads[oid] = (schema, table, identity, security)
            columns[oid].append(_column(rest))
        oids = {"oids": list(heads)}
        primary: dict[int, tuple[str, ...]] = {}
        unique: defaultdict[int, list[tuple[str, ...]]] = defaultdict(list)
        for oid, is_primary, index_columns in cursor.execute(_INDEXES, oids):
            if is_primary:
                primary[oid] = tuple(index_columns)
            else:
                unique[oid].append(tuple(index_columns))
        references: defaultdict[int, list[tuple[tuple[str, ...], str, str]]] = defaultdict(list)
        for oid, key_columns, schema, table in cursor.execute(_FOREIGN_KEYS, oids):
            references[oid].append((tuple(key_columns), schema, table))
    return {
        f"{schema}.{table}": Table(
            schema=schema,
            name=table,
            columns=tuple(columns[oid]),
            primary_key=primary.get(oid, ()),
            unique=tuple(unique[oid]),
            replica_identity=identity,
            row_security=security,
            foreign_keys=tuple(references[oid]),
        )
        for oid, (schema, table, identity, security) in heads.items()
    }


def _column(row: list[Any]) -> Column:
    name, cast_to, raw, base, category, _, not_null, has_default, generated, identity, typmod, default, labels, base_schema, *element = row
    element_base, element_raw, element_typmod = element  # of an array of domains
    if element_base is not None:
        base, raw, typmod = f"{element_base}[]", element_raw, element_typmod
    elif base_schema != "pg_catalog":
        base = raw.removeprefix("_") + "[]" if category == "A" else raw  # without schema or quotes
    length, precision, scale = _modifier(raw.removeprefix("_") if category == "A" else raw, typmod)
    return Column(
        name=name,
        type=cast_to,
        base=base,
        category=category,
        not_null=not_null,
        has_default=has_default,
        generated=generated,
        identity=identity,
        length=length,
        precision=precision,
        scale=scale,
        labels=tuple(labels or ()),
        default=default,
    )


def _modifier(raw: str, typmod: int) -> tuple[int | None, int | None, int | None]:
    """(length, precision, scale) that a type modifier says."""
    if typmod < 0:
        return None, None, None
    match raw:
        case "varchar" | "bpchar":
            return typmod - 4, None, None
        case "bit" | "varbit":
            return typmod, None, None
        case "numeric":
            scale = (typmod - 4) & 0x7FF
            return None, ((typmod - 4) >> 16) & 0xFFFF, scale - 0x800 if scale > 0x3FF else scale
        case "time" | "timetz" | "timestamp" | "timestamptz":
            return None, typmod, None
        case "interval":
            digits = typmod & 0xFFFF
            return None, None if digits == 0xFFFF else digits, None
    return None, None, None
