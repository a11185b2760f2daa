"""The sink's SQL, one statement for any number of rows. No I/O.

Values go in as arrays of text and are cast per column, rows come back as text, so that PostgreSQL's own input and output functions are
the only ones that ever read a value. Casts carry no type modifier: a text that is too long is refused by the assignment, where a cast to
varchar(10) would cut it silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from schemas.mapping import Binding, FieldBinding
from schemas.mapping.likeness import Likeness

Statement = tuple[str, tuple[Any, ...]]


@cache
def quoted(name: str) -> str:
    """An identifier, also safe in a statement with placeholders."""
    return '"' + name.replace('"', '""').replace("%", "%%") + '"'


def cast(binding: Binding, column: str) -> str:
    """The type that a text for this column is cast to."""
    described = binding.table.column(column)
    assert described is not None, f"{binding.table} has no column {column!r}"
    return described.type.replace("%", "%%")


def has_no_equality(binding: Binding, column: str) -> bool:
    described = binding.table.column(column)
    return described is not None and described.base in ("json", "xml")


def table_name(binding: Binding) -> str:
    return f"{quoted(binding.table.schema)}.{quoted(binding.table.name)}"


def loaded_columns(binding: Binding) -> tuple[str, ...]:
    """What the sink reads of a row: its key, what decides whether it counts, its fields."""
    wanted = {*binding.key_columns, *binding.needed, *(column for columns in binding.columns.values() for column in columns)}
    return tuple(column.name for column in binding.table.columns if column.name in wanted)


def likeness_key(side: FieldBinding, alias: str = "t.") -> str:
    """The key of a row's text in SQL, as `Likeness.key` makes it. Immutable wherever the column's text is, so that it can be indexed."""
    assert isinstance(side.alike, Likeness)
    texts = [f"{alias}{quoted(column)}::text" for column in (side.columns if side.read is None else side.columns[:1])]
    text = texts[0] if len(texts) == 1 else " || ".join(f"coalesce({one}, '')" for one in texts)
    # in "C" the letters are ASCII's, whatever the database's language
    strong, weak = (
        f"regexp_replace(lower(({text}) COLLATE \"C\"), '[^{kept}]+', '', 'g')" if kept else "''"
        for kept in (side.alike.strong, side.alike.weak)
    )
    return f"CASE WHEN ({text}) COLLATE \"C\" ~ '^[ -~]*$' THEN '=' || {strong} ELSE '~' || {weak} END"


def likeness_index(binding: Binding, match_on: Sequence[str]) -> str | None:
    """The statement that an operator may give, so that rows whose match value has to be cleaned are found without reading all. None: it
    would help nothing, what is matched on is found by an ordinary index, or by none."""
    keys = [
        likeness_key(binding.sides[name], "")
        for name in match_on
        if name in binding.sides and binding.sides[name].alike not in ("equal", "any")
    ]
    if not keys:
        return None
    return f"CREATE INDEX CONCURRENTLY ON {table_name(binding)} ({', '.join(f'({key})' for key in keys)})".replace("%%", "%")


class TableStatements:
    """The statements of one binding. Texts are made once; psycopg prepares them by their text."""

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self.table = table_name(binding)
        self.columns = loaded_columns(binding)
        self.returned = ", ".join(f"t.{quoted(column)}::text" for column in self.columns)
        self._key = binding.key_columns
        self._texts: dict[tuple[str, tuple[str, ...]], str] = {}
        self._read = self._read_text()

    def row(self, values: Sequence[str | None]) -> dict[str, str | None]:
        return dict(zip(self.columns, values, strict=True))

    # reading

    def rows_of(self, system: str, links: Sequence[str], keys: Sequence[str]) -> Statement:
        """The rows of these things by the crosswalk, and those with these keys; locked, but not against foreign key checks."""
        return self._read, (list(links), self.binding.entity, system, list(keys))

    def _read_text(self) -> str:
        wanted = """
            SELECT k.key FROM unnest(%s::text[]) AS u(link), LATERAL (
                SELECT k.key FROM concord.key k WHERE k.entity = %s AND k.link = u.link AND k.system = %s OFFSET 0) k
            UNION SELECT unnest(%s::text[])"""
        if len(self._key) == 1:
            (column,) = self._key
            of_type = cast(self.binding, column)
            return (
                f"SELECT {self.returned} FROM {self.table} t"
                f" WHERE t.{quoted(column)} = ANY(ARRAY(SELECT w.key::{of_type} FROM ({wanted}) w)) FOR NO KEY UPDATE"
            )
        parts = ", ".join(f"(w.key::jsonb->>{n})::{cast(self.binding, column)} AS c{n}" for n, column in enumerate(self._key))
        on = " AND ".join(f"t.{quoted(column)} = w.c{n}" for n, column in enumerate(self._key))
        return f"SELECT {self.returned} FROM (SELECT {parts} FROM ({wanted}) w) w JOIN {self.table} t ON {on} FOR NO KEY UPDATE OF t"

    def holders(self, system: str, columns: tuple[str, ...], values: Sequence[tuple[str, ...]]) -> Statement:
        """The rows with these texts in these columns: whose row it is (or null), the row. By an ordinary index on the columns."""
        text = self._texts.get(("holders", columns))
        if text is None:
            arrays, names = _unnest(range(len(columns)))
            on = " AND ".join(f"t.{quoted(column)} = u.c{n}::{cast(self.binding, column)}" for n, column in enumerate(columns))
            text = self._texts["holders", columns] = (
                f"SELECT k.link, {self.returned} FROM unnest({arrays}) AS u({names}) JOIN {self.table} t ON {on} {self._linked()}"
            )
        return text, (*_columnwise(values, len(columns)), self.binding.entity, system)

    def alike(self, system: str, match_on: Sequence[str], values: Sequence[Mapping[str, str | None]]) -> Statement:
        """The rows that may hold what these texts are read as, and others: as `holders`. Several match columns narrow it down one by one.

        Its arrays are to be seen by the planner (not prepared): then each row of a table without the index is looked up in a hash.
        """
        conditions: list[str] = []
        params: list[list[str]] = []
        for name in match_on:
            side = self.binding.sides[name]
            if isinstance(side.alike, Likeness):
                columns = side.columns if side.read is None else side.columns[:1]
                texts = {"".join(row[column] or "" for column in columns) for row in values}
                conditions.append(f"{likeness_key(side)} = ANY(%s::text[])")
                params.append(sorted({key for text in texts for key in side.alike.keys(text)}))
            elif side.alike == "equal":
                for column in side.columns if side.read is None else side.columns[:1]:
                    of_type = cast(self.binding, column)
                    conditions.append(f"t.{quoted(column)} = ANY(ARRAY(SELECT w::{of_type} FROM unnest(%s::text[]) w))")
                    params.append(sorted({text for row in values if (text := row[column]) is not None}))
        where = " AND ".join(conditions) or "true"
        return f"SELECT k.link, {self.returned} FROM {self.table} t {self._linked()} WHERE {where}", (self.binding.entity, system, *params)

    def _linked(self) -> str:
        key = (
            f"t.{quoted(self._key[0])}::text"
            if len(self._key) == 1
            else "array_to_json(ARRAY[" + ", ".join(f"t.{quoted(column)}::text" for column in self._key) + "])::text"
        )
        return f"LEFT JOIN concord.key k ON k.entity = %s AND k.system = %s AND k.key = {key}"

    # writing: each returns the row's number in what was given (insert: in that order) and the row as it now is

    def insert(self, columns: tuple[str, ...], rows: Sequence[Mapping[str, str | None]]) -> Statement:
        made = {**self.binding.always, **self.binding.insert}
        made = {column: expression for column, expression in made.items() if column not in columns}
        text = self._texts.get(("insert", columns))
        if text is None:
            arrays, names = _unnest(range(len(columns)))
            targets = ", ".join(quoted(column) for column in (*columns, *made))
            given = [f"u.c{n}::{cast(self.binding, column)}" for n, column in enumerate(columns)]
            values = ", ".join([*given, *(expression.sql for expression in made.values())])
            source = f"unnest({arrays}) AS u({names})" if columns else "generate_series(1, %s)"
            text = self._texts["insert", columns] = (
                f"INSERT INTO {self.table} AS t ({targets}) SELECT {values} FROM {source} RETURNING {self.returned}"
                if targets
                else f"INSERT INTO {self.table} AS t DEFAULT VALUES RETURNING {self.returned}"
            )
        params = [value for expression in made.values() for value in expression.params]
        values_given = _columnwise([tuple(row[column] for column in columns) for row in rows], len(columns))
        counted = [len(rows)] if made and not columns else []
        return text, (*params, *values_given, *counted)

    def update(self, columns: tuple[str, ...], keys: Sequence[str], rows: Sequence[Mapping[str, str | None]]) -> Statement:
        made = {column: expression for column, expression in self.binding.always.items() if column not in columns}
        text = self._texts.get(("update", columns))
        if text is None:
            arrays, names = _unnest(range(len(columns)), range(len(self._key)))
            sets = ", ".join(
                [f"{quoted(column)} = u.c{n}::{cast(self.binding, column)}" for n, column in enumerate(columns)]
                + [f"{quoted(column)} = {expression.sql}" for column, expression in made.items()]
            )
            text = self._texts["update", columns] = (
                f"UPDATE {self.table} AS t SET {sets} FROM unnest({arrays}) WITH ORDINALITY AS u({names}, n) WHERE {self._by_key()}"
                f" RETURNING u.n, {self.returned}"
            )
        params = [value for expression in made.values() for value in expression.params]
        values = [(*(row[column] for column in columns), *self._key_texts(key)) for key, row in zip(keys, rows, strict=True)]
        return text, (*params, *_columnwise(values, len(columns) + len(self._key)))

    def delete(self, keys: Sequence[str]) -> Statement:
        text = self._texts.get(("delete", ()))
        if text is None:
            arrays, names = _unnest((), range(len(self._key)))
            text = self._texts["delete", ()] = (
                f"DELETE FROM {self.table} AS t USING unnest({arrays}) WITH ORDINALITY AS u({names}, n)"
                f" WHERE {self._by_key()} RETURNING u.n"
            )
        return text, tuple(_columnwise([self._key_texts(key) for key in keys], len(self._key)))

    def _by_key(self) -> str:
        return " AND ".join(f"t.{quoted(column)} = u.k{n}::{cast(self.binding, column)}" for n, column in enumerate(self._key))

    def _key_texts(self, key: str) -> tuple[str, ...]:
        values = self.binding.key_values(key)
        return tuple(values[column] for column in self._key)


def _unnest(columns: Iterable[int], keys: Iterable[int] = ()) -> tuple[str, str]:
    names = [*(f"c{n}" for n in columns), *(f"k{n}" for n in keys)]
    return ", ".join("%s::text[]" for _ in names), ", ".join(names)


def _columnwise(rows: Sequence[Sequence[str | None]], width: int) -> list[list[str | None]]:
    return [[row[n] for row in rows] for n in range(width)]


# our own tables

LOCK_PROGRESS = """
    SELECT p.topic, p.partition, p."offset" FROM unnest(%s::text[], %s::int[]) AS u(topic, partition)
    JOIN concord.progress p USING (topic, partition)
    ORDER BY p.topic, p.partition FOR UPDATE OF p"""
BEGIN_PROGRESS = (
    "INSERT INTO concord.progress SELECT u.*, 0 FROM unnest(%s::text[], %s::int[]) AS u(topic, partition) ON CONFLICT DO NOTHING"
)
READ_PROGRESS = """
    SELECT p.topic, p.partition, p."offset" FROM unnest(%s::text[], %s::int[]) AS u(topic, partition)
    JOIN concord.progress p USING (topic, partition)"""
WRITE_PROGRESS = """
    UPDATE concord.progress p SET "offset" = u.at FROM unnest(%s::text[], %s::int[], %s::bigint[]) AS u(topic, partition, at)
    WHERE p.topic = u.topic AND p.partition = u.partition"""

# LATERAL with OFFSET 0, or with FOR UPDATE inside: one look into the index per thing. As a plain join, a table that nobody has analysed
# yet is read from end to end for every batch.
_THINGS = "unnest(%s::text[], %s::text[]) AS u(entity, link)"
LOAD_PARKED = f"""
    SELECT p.entity, p.link, p.topic, p.partition, p."offset", p.record FROM {_THINGS}, LATERAL (
        SELECT * FROM concord.parked p WHERE p.entity = u.entity AND p.link = u.link FOR UPDATE) p"""
LOAD_LINKS = f"""
    SELECT l.entity, l.link, l.applied::text, l.wrote::text, l.adjusted::text FROM {_THINGS}, LATERAL (
        SELECT * FROM concord.link l WHERE l.entity = u.entity AND l.link = u.link FOR UPDATE) l"""
LOAD_OWN = f"""
    SELECT k.entity, k.link, k.key, k.gone FROM {_THINGS}, LATERAL (
        SELECT * FROM concord.key k WHERE k.entity = u.entity AND k.link = u.link AND k.system = %s OFFSET 0) k"""
LOAD_DEAD = f"""
    SELECT d.entity, d.link, d.record FROM {_THINGS}, LATERAL (
        SELECT * FROM concord.dead_letter d WHERE d.entity = u.entity AND d.link = u.link OFFSET 0) d"""
LOAD_NAMES = """
    SELECT k.entity, k.system, k.key, k.link, own.key, own.gone
    FROM unnest(%s::text[], %s::text[], %s::text[]) AS u(entity, system, key), LATERAL (
        SELECT * FROM concord.key k WHERE k.entity = u.entity AND k.system = u.system AND k.key = u.key OFFSET 0) k
    LEFT JOIN LATERAL (
        SELECT * FROM concord.key o WHERE o.entity = k.entity AND o.link = k.link AND o.system = %s OFFSET 0) own ON true"""
ANY_PARKED = "SELECT EXISTS (SELECT FROM concord.parked)"

# Children that wait for these names; what another worker has in hand it looks after itself.
WAITING_FOR = """
    SELECT p.entity, p.link, p.topic, p.partition, p."offset", p.record
    FROM unnest(%s::text[], %s::text[]) AS u(entity, name) JOIN concord.parked p ON p.waits_for_entity = u.entity AND p.waits_for = u.name
    ORDER BY p.since, p.entity, p.link FOR UPDATE OF p SKIP LOCKED"""

# Parked records that may go through by now: their name is there (registered by another worker at the same moment), or they wait for a
# value.
DUE_PARKED = """
    SELECT p.entity, p.link, p.topic, p.partition, p."offset", p.record FROM concord.parked p
    WHERE starts_with(p.waits_for, '=') OR EXISTS (
        SELECT FROM concord.key k JOIN concord.key own ON own.entity = k.entity AND own.link = k.link AND own.system = %s AND NOT own.gone
        WHERE k.entity = p.waits_for_entity AND k.system = split_part(p.waits_for, ':', 1)
          AND k.key = substr(p.waits_for, strpos(p.waits_for, ':') + 1))
    ORDER BY p.tried, p.since LIMIT %s FOR UPDATE OF p SKIP LOCKED"""

WRITE_LINKS = """
    INSERT INTO concord.link (entity, link, applied, wrote, adjusted)
    SELECT u.entity, u.link, u.applied::jsonb, u.wrote::jsonb, u.adjusted::jsonb
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[]) AS u(entity, link, applied, wrote, adjusted)
    ON CONFLICT (entity, link) DO UPDATE SET applied = excluded.applied, wrote = excluded.wrote, adjusted = excluded.adjusted"""
WRITE_KEYS = """
    INSERT INTO concord.key AS k (entity, system, key, link, gone)
    SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bool[])
    ON CONFLICT (entity, system, key) DO UPDATE SET gone = excluded.gone WHERE k.link = excluded.link AND k.gone <> excluded.gone"""
WRITE_PARKED = """
    INSERT INTO concord.parked AS p (entity, link, waits_for_entity, waits_for, topic, partition, "offset", record, reason)
    SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::int[], %s::bigint[], %s::bytea[], %s::text[])
    ON CONFLICT (entity, link) DO UPDATE SET waits_for_entity = excluded.waits_for_entity, waits_for = excluded.waits_for,
        topic = excluded.topic, partition = excluded.partition, "offset" = excluded."offset", record = excluded.record,
        reason = excluded.reason, tried = clock_timestamp()"""
DELETE_PARKED = f"DELETE FROM concord.parked p USING {_THINGS} WHERE p.entity = u.entity AND p.link = u.link"
WRITE_DEAD = """
    INSERT INTO concord.dead_letter AS d (entity, link, topic, partition, "offset", record, error, code)
    SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::int[], %s::bigint[], %s::bytea[], %s::text[], %s::text[])
    ON CONFLICT (entity, link) DO UPDATE SET topic = excluded.topic, partition = excluded.partition, "offset" = excluded."offset",
        record = excluded.record, error = excluded.error, code = excluded.code, last_at = clock_timestamp(), times = d.times + 1"""
DELETE_DEAD = f"DELETE FROM concord.dead_letter d USING {_THINGS} WHERE d.entity = u.entity AND d.link = u.link"
XACT_ORIGIN = "SELECT pg_replication_origin_xact_setup(%s::pg_lsn, clock_timestamp())"

# The columns that a unique index is about, those in its expressions too: the name of the violated constraint is that of its index.
UNIQUE_COLUMNS = """
    SELECT a.attname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace s ON s.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = i.indrelid
     AND (a.attnum = ANY(i.indkey) OR a.attnum IN (
        SELECT d.refobjsubid FROM pg_depend d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid AND d.refobjid = i.indrelid))
    WHERE s.nspname = %s AND c.relname = %s AND a.attnum > 0"""
FOREIGN_KEY_COLUMNS = """
    SELECT a.attname FROM pg_constraint k JOIN pg_namespace s ON s.oid = k.connamespace JOIN pg_class c ON c.oid = k.conrelid
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = ANY(k.conkey)
    WHERE s.nspname = %s AND c.relname = %s AND k.conname = %s"""
