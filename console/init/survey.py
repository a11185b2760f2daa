"""Reads what `facts` describe: catalogs, a few hundred rows of each table, rows that meet. Read-only, every question with a deadline."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from connectors.catalog import read_tables
from console.asking import NUMBERED_COLUMNS, Asking, literal, named
from console.init.facts import MOST_CODES, Meeting, Question, Row, SystemFacts, TableFacts, normal
from schemas.catalog import Table

SAMPLE_ROWS = 500  # of each table: enough to tell codes from texts and e-mails from names
ASKED_VALUES = 300  # of a column, looked for on the other side
LONGEST = 200  # characters of a value that are looked at

_TABLES = """
SELECT n.nspname::text, c.relname::text, greatest(c.reltuples, 0)::int8
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
  AND n.nspname <> 'information_schema' AND n.nspname <> 'concord' AND n.nspname !~ '^pg_' AND (%s::text[] IS NULL OR n.nspname = ANY(%s))
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2"""

_CHECKS = """
SELECT n.nspname || '.' || r.relname, a.attname::text, pg_get_constraintdef(c.oid)
FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace
JOIN pg_attribute a ON a.attrelid = c.conrelid AND c.conkey = ARRAY[a.attnum] WHERE c.contype = 'c'"""

_NUMBERED = f"""
SELECT n.nspname || '.' || r.relname, a.attname::text, s.oid::regclass::text
FROM {NUMBERED_COLUMNS}
JOIN pg_class s ON s.oid = of_column.sequence AND s.relkind = 'S' JOIN pg_class r ON r.oid = of_column.rel
JOIN pg_namespace n ON n.oid = r.relnamespace
JOIN pg_attribute a ON a.attrelid = of_column.rel AND a.attnum = of_column.attnum"""

_SEQUENCES = """
SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND n.nspname !~ '^pg_' AND n.nspname <> 'concord' ORDER BY 1"""

# Unique alone: a plain index, or an expression over one column only, lower(email).
_UNIQUE = """
SELECT n.nspname || '.' || r.relname, a.attname::text
FROM pg_index i JOIN pg_class r ON r.oid = i.indrelid JOIN pg_namespace n ON n.oid = r.relnamespace
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum > 0
WHERE i.indisunique AND i.indisvalid AND i.indnkeyatts = 1 AND i.indpred IS NULL AND n.nspname !~ '^pg_' AND (
    i.indkey[0] = a.attnum OR i.indkey[0] = 0 AND 1 = (
        SELECT count(DISTINCT d.refobjsubid) FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid > 0)
    AND EXISTS (
        SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum))"""

_REFERENCES = """
SELECT n.nspname || '.' || r.relname, a.attname::text, fn.nspname || '.' || f.relname, k.attname::text
FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace
JOIN pg_class f ON f.oid = c.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace
JOIN pg_attribute a ON a.attrelid = c.conrelid AND c.conkey = ARRAY[a.attnum]
JOIN pg_attribute k ON k.attrelid = c.confrelid AND k.attnum = c.confkey[1]
WHERE c.contype = 'f' AND c.conparentid = 0"""


def survey(db: Asking, schemas: Sequence[str] | None = None) -> SystemFacts:
    """All tables of a system, or those of some schemas."""
    wanted = None if schemas is None else list(schemas)
    there = {f"{schema}.{table}": ((schema, table), rows) for schema, table, rows in db.rows(_TABLES, wanted, wanted)}
    tables = read_tables(db.connection, [name for name, _ in there.values()])
    readable = {name for name, table in tables.items() if _readable(db, table)}
    allowed: defaultdict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for name, column, definition in db.rows(_CHECKS):
        if texts := listed_texts(definition):
            allowed[name][column] = texts
    numbered = _by_table(db.rows(_NUMBERED))
    unique: defaultdict[str, set[str]] = defaultdict(set)
    for name, column in db.rows(_UNIQUE):
        unique[name].add(column)
    references: defaultdict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    for name, column, table, key in db.rows(_REFERENCES):
        references[name][column] = (table, key)
    left_out = {
        name: "it has no primary key" if not table.primary_key else f"{db.system}'s role may not read it"
        for name, table in tables.items()
        if not table.primary_key or name not in readable
    }
    used = {sequence for columns in numbered.values() for sequence in columns.values()}
    found = {}
    for name, table in tables.items():
        if name not in left_out:
            enums = {column.name: column.labels for column in table.columns if column.labels and column.category == "E"}
            facts = TableFacts(
                table=table,
                rows=there[name][1],
                sample=_rows(db, table, db.sample(table, rows=SAMPLE_ROWS)),
                allowed={**allowed[name], **enums},
                numbered=numbered.get(name, {}),
                unique=frozenset(unique[name]),
                references=references[name],
            )
            found[name] = replace(facts, exact=_exact(db, facts))
    free = tuple(name for (name,) in db.rows(_SEQUENCES) if name not in used)
    return SystemFacts(db.system, found, free, left_out)


def _by_table(rows: Iterable[tuple[str, str, str]]) -> Mapping[str, Mapping[str, str]]:
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for table, column, value in rows:
        found[table][column] = value
    return found


def _readable(db: Asking, table: Table) -> bool:
    return bool(db.one("SELECT has_table_privilege(%s::oid, 'SELECT')", db.oid(table)))


def _rows(db: Asking, table: Table, source: str) -> tuple[Row, ...]:
    columns = [column.name for column in table.columns]
    texts = ", ".join(f"left(t.{named(column)}::text, {LONGEST})" for column in columns)
    found = db.ask(f"SELECT {texts} FROM {source} AS t") or []
    return tuple(dict(zip(columns, row, strict=True)) for row in found)


def _exact(db: Asking, facts: TableFacts) -> dict[str, Counter[str]]:
    """Codes that are rare are codes too. Where there are more values than codes, the sample was misleading, and stays."""
    found = {}
    for column in facts.table.columns:
        if facts.codes(column.name):
            text = f"t.{named(column.name)}::text"
            source = db.source(facts.table)
            counts = db.ask(f"SELECT {text}, count(*) FROM {source} AS t WHERE {text} IS NOT NULL GROUP BY 1 LIMIT {MOST_CODES + 1}")
            if counts is not None and len(counts) <= MOST_CODES:
                found[column.name] = Counter(dict(counts))
    return found


def meet(first: Asking, second: Asking, one: TableFacts, other: TableFacts, question: Question) -> Meeting | None:
    """Looks for values of the one side on the other. None: it could not be asked in time."""
    mine, theirs = question.columns
    rows_of: dict[str, Row] = {}
    for row in one.sample:
        if (text := row[mine]) is not None and text.strip():
            rows_of.setdefault(normal(text), row)
    wanted = list(rows_of)[:ASKED_VALUES]
    if not wanted:
        return Meeting(question, 0, ())
    values = ", ".join(map(literal, wanted))
    folded = f"lower(regexp_replace(btrim(t.{named(theirs)}::text), '\\s+', ' ', 'g'))"
    name = named(other.table.schema, other.table.name)
    columns = [column.name for column in other.table.columns]
    texts = ", ".join(f"left(t.{named(column)}::text, {LONGEST})" for column in columns)
    found = second.ask(f"SELECT {texts} FROM {name} AS t WHERE {folded} = ANY(ARRAY[{values}]::text[]) LIMIT {4 * ASKED_VALUES}")
    if found is None:
        return None
    met: dict[str, tuple[Row, Row]] = {}
    for texts_found in found:
        row = dict(zip(columns, texts_found, strict=True))
        value = normal(row[theirs] or "")
        if value in rows_of:
            met.setdefault(value, (rows_of[value], row))
    return Meeting(question, len(wanted), tuple(met.values()))


_QUOTED = re.compile(r"'((?:[^']|'')*)'::")


def listed_texts(definition: str) -> tuple[str, ...]:
    """The texts that a CHECK lets in, where it is a list and nothing else: CHECK ((kind = ANY (ARRAY['a'::text, 'b'::text])))."""
    listed = re.fullmatch(
        r"CHECK \(\(*[\w\"]+\)*(?:::[\w ]+)?\)* = ANY \(+(?:ARRAY\[(.*)\])\)*(?:::[\w \[\]]+)?\)*(?: NOT VALID)?", definition
    )
    if listed is None:
        return ()
    return tuple(text.replace("''", "'") for text in _QUOTED.findall(listed[1]))
