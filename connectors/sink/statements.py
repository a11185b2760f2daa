"""The sink's SQL, one statement for any number of rows. No I/O.

Values go in as arrays of text and are cast per column, rows come back as text, so that PostgreSQL's own input and output functions are
the only ones that ever read a value. Casts carry no type modifier: a text that is too long is refused by the assignment, where a cast to
varchar(10) would cut it silently.

    EntityStatements     reads flat rows, under lock, and looks for those that hold a match value
    RowStatements        writes rows of one table: an entity's roots, or one of its parts
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connectors.rows import FlatRows, cast_type, in_scope, linked, quoted, table_above, table_name
from connectors.sink.part_rows import Rows
from connectors.source.snapshot import ASKED_AGAIN, CHANNEL, NO_ROWS
from schemas.catalog import Table
from schemas.mapping import ROOT, Binding, Expr, FieldBinding, Part
from schemas.mapping.likeness import Likeness

Statement = tuple[str, tuple[Any, ...]]

ON_THE_WAY = "7 days"  # how old an event can be that is still on its way to us: what Kafka keeps of the captured topics

_OF_ITS_OWN = re.compile(r"nextval\(|gen_random_uuid\(")  # expressions that give another value each time they are asked


def has_no_equality(binding: Binding, column: str) -> bool:
    described = binding.shape.column(column)
    return described is not None and described.base in ("json", "xml")


def likeness_key(side: FieldBinding, alias: str = "t.", names: Mapping[str, str] | None = None) -> str:
    """The key of a row's text in SQL, as `Likeness.key` makes it. Immutable wherever the column's text is, so that it can be indexed.
    `names`: what columns of the flat row are called in their table."""
    assert isinstance(side.alike, Likeness)
    columns = side.columns if side.read is None else side.columns[:1]
    texts = [f"{alias}{quoted(column if names is None else names[column])}::text" for column in columns]
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
    search = _Search(binding, [name for name in match_on if name in binding.sides])
    keys = [
        likeness_key(binding.sides[name], "", search.names) for name in search.fields if binding.sides[name].alike not in ("equal", "any")
    ]
    if not keys:
        return None
    return f"CREATE INDEX CONCURRENTLY ON {table_name(search.table)} ({', '.join(f'({key})' for key in keys)})".replace("%%", "%")


class _Search:
    """Where rows with certain values are looked for: in the root's table if any of the fields is there, else in one part's, from which the
    links lead up to the roots."""

    def __init__(self, binding: Binding, fields: Sequence[str]) -> None:
        def parts_of(name: str) -> set[str]:
            side = binding.sides[name]
            return {binding.split(column)[0] for column in (side.columns if side.read is None else side.columns[:1])}

        of_one = {name: parts.pop() for name in fields if len(parts := parts_of(name)) == 1}
        self.part = ROOT if ROOT in of_one.values() or not of_one else next(iter(of_one.values()))
        self.fields = [name for name, part in of_one.items() if part == self.part]  # what is asked; all else is compared when it is read
        self.table = binding.table if self.part == ROOT else binding.part[self.part].table
        self.names = {column: binding.split(column)[1] for name in self.fields for column in binding.columns[name]}
        self._binding = binding


def _roots_with(binding: Binding, name: str, source: str, condition: str) -> str:
    """That a root `t` is one of those at which a row of a part hangs, chosen or not, directly or not. `source`: what stands after FROM
    and brings that row, `m`."""
    part, below, number = binding.part[name], "m", 0
    joins: list[str] = []
    conditions = [condition, *in_scope(part, "m")]
    while True:
        alias = f"a{number}"
        joins.append(f"JOIN {table_name(table_above(binding, part))} {alias} ON {' AND '.join(linked(binding, part, below, alias))}")
        if part.of == ROOT:
            break
        part, below, number = binding.part[part.of], alias, number + 1
    mine, theirs = (", ".join(f"{one}.{quoted(column)}" for column in binding.key_columns) for one in ("t", alias))
    return f"({mine}) IN (SELECT {theirs} FROM {source} {' '.join(joins)} WHERE {' AND '.join(conditions)})"


@dataclass(frozen=True, slots=True)
class Lock:
    """Which rows of an entity a statement locks: its roots, or a part's chosen ones. `against`: those that have no row of this child part,
    so that nobody else may insert one."""

    part: str
    against: str = ""


class EntityStatements:
    """Reads one binding. Texts are made once; psycopg prepares them by their text. `locking`: a system in which no row is ever changed
    need not give us the right to, which a lock asks for."""

    def __init__(self, binding: Binding, locking: bool = True) -> None:
        self.binding = binding
        self.flat = FlatRows(binding)
        self.shape = Rows(binding)
        self.columns, self.row = self.flat.columns, self.flat.row
        self.writing = {ROOT: RowStatements(binding.table, binding.insert, binding.always, self.flat.selected if not binding.parts else "")}
        for part in self.shape.parts:
            self.writing[part.name] = RowStatements(part.table, part.insert, part.always)
        self._key = binding.key_columns
        self._texts: dict[tuple[str, tuple[str, ...]], str] = {}
        self._roots, self._where = self._wanted()
        self._locking_rows = locking
        self._read = self.flat.select(self._roots, among=self._where + ("" if binding.parts or not locking else " FOR NO KEY UPDATE OF t"))
        self._by_key = self.flat.select(
            f"unnest({_unnest((), range(len(self._key)))[0]}) AS u({_unnest((), range(len(self._key)))[1]}) JOIN"
            f" {self.flat.root} t ON {_on(binding.table, self._key)}"
        )
        self._locks = {lock: self._locking(lock) for lock in self._all_locks()}

    # reading

    def rows_of(self, system: str, links: Sequence[str], keys: Sequence[str]) -> Statement:
        """The rows of these things by the crosswalk, and those with these keys. Locked, but not against foreign key checks, where there are
        no parts; else `locks` come before."""
        return self._read, (list(links), self.binding.entity, system, list(keys))

    def _wanted(self) -> tuple[str, str]:
        """What stands after FROM, up to WHERE, and from there."""
        wanted = """
            SELECT k.key FROM unnest(%s::text[]) AS u(link), LATERAL (
                SELECT k.key FROM concord.key k WHERE k.entity = %s AND k.link = u.link AND k.system = %s OFFSET 0) k
            UNION SELECT unnest(%s::text[])"""
        table = self.binding.table
        if len(self._key) == 1:
            (column,) = self._key
            of_type = cast_type(table, column)
            return f"{self.flat.root} t", f"WHERE t.{quoted(column)} = ANY(ARRAY(SELECT w.key::{of_type} FROM ({wanted}) w))"
        parts = ", ".join(f"(w.key::jsonb->>{n})::{cast_type(table, column)} AS c{n}" for n, column in enumerate(self._key))
        on = " AND ".join(f"t.{quoted(column)} = w.c{n}" for n, column in enumerate(self._key))
        return f"(SELECT {parts} FROM ({wanted}) w) w JOIN {self.flat.root} t ON {on}", ""

    def read_again(self, keys: Sequence[Sequence[str]]) -> Statement:
        """The flat rows with these keys (each its columns' texts), as this transaction has left them."""
        return self._by_key, tuple(_columnwise(keys, len(self._key)))

    # locking, of a binding with parts

    def locks(
        self, system: str, links: Sequence[str], keys: Sequence[str], wanted: Mapping[str, tuple[Sequence[str], Sequence[str]]]
    ) -> list[tuple[Lock, Statement]]:
        """What to send before `rows_of`, each as a statement of its own, so that it sees what was committed while the one before waited.
        `wanted`: child parts that are to have a row, for which things (by link, by key). They return the keys of the rows that they locked.

        A root, or a part's row, at which a child is missing that is to be there, is locked against the foreign key checks of others: nobody
        inserts that child meanwhile. All the others are only locked against updates.
        """
        found = []
        for lock, text in self._locks.items():
            of_links, of_keys = wanted.get(lock.against, ((), ())) if lock.against else (links, keys)
            if of_links or of_keys:
                found.append((lock, (text, (list(of_links), self.binding.entity, system, list(of_keys)))))
        return found

    def is_locked(self, part: Part) -> bool:
        """Whether the part's chosen rows are."""
        return Lock(part.name) in self._locks

    def _all_locks(self) -> list[Lock]:
        """From the root down, strong ones first: no lock is made stronger."""
        if not self.binding.parts or not self._locking_rows:
            return []
        found = []
        for name in (ROOT, *(part.name for part in self.shape.parts)):
            found += [Lock(name, below.name) for below in self.shape.below[name] if below.kind == "child" and below.made]
            if name == ROOT or self.shape.fields[name]:
                found.append(Lock(name))
        return found

    def _locking(self, lock: Lock) -> str:
        flat = self.flat
        conditions = [f"{flat.key(lock.against)[0]} IS NULL"] if lock.against else []
        strength = "FOR UPDATE" if lock.against else "FOR NO KEY UPDATE"
        joins = flat.joins_to(lock.against or lock.part)
        table = self.binding.table if lock.part == ROOT else self.binding.part[lock.part].table
        columns = [quoted(column) for column in table.primary_key]
        if lock.part == ROOT:
            where = " AND ".join([self._where or "WHERE true", *conditions])
            key = [f"t.{column}" for column in columns]
            returned = ", ".join(f"{column}::text" for column in key)
            return f"SELECT {returned} FROM {self._roots} {joins} {where} ORDER BY {', '.join(key)} {strength} OF t"
        where = " AND ".join([self._where or "WHERE true", f"{flat.key(lock.part)[0]} IS NOT NULL", *conditions])
        key = [f"x.{column}" for column in columns]
        inner = f"SELECT {', '.join(flat.key(lock.part))} FROM {self._roots} {joins} {where}"
        returned = ", ".join(f"{column}::text" for column in key)
        # in the order of the key: workers that meet at a row that many things share wait for each other in turn
        return (
            f"SELECT {returned} FROM {table_name(table)} x WHERE ({', '.join(key)}) IN ({inner}) ORDER BY {', '.join(key)} {strength} OF x"
        )

    # who holds a match value

    def holders(self, system: str, columns: tuple[str, ...], values: Sequence[tuple[str, ...]]) -> Statement:
        """The rows with these texts in these columns: whose row it is (or null), the row. By an ordinary index on the columns."""
        text = self._texts.get(("holders", columns))
        split = [self.binding.split(column) for column in columns]
        search = ROOT if any(part == ROOT for part, _ in split) else split[0][0]
        if text is None:
            arrays, names = _unnest(range(len(columns)))
            table = self.binding.table if search == ROOT else self.binding.part[search].table
            alias = "t" if search == ROOT else "m"
            on = " AND ".join(
                f"{alias}.{quoted(column)} = u.c{n}::{cast_type(table, column)}" for n, (part, column) in enumerate(split) if part == search
            )
            if search == ROOT:
                text = self.flat.select(f"unnest({arrays}) AS u({names}) JOIN {self.flat.root} t ON {on}", "k.link", self._linked())
            else:
                found = _roots_with(self.binding, search, f"unnest({arrays}) AS u({names}) JOIN {table_name(table)} m ON {on}", "true")
                text = self.flat.select(f"{self.flat.root} t", "k.link", f"{self._linked()} WHERE {found}")
            self._texts["holders", columns] = text
        given, mine = _columnwise(values, len(columns)), (self.binding.entity, system)
        return text, (*given, *mine) if search == ROOT else (*mine, *given)

    def alike(self, system: str, match_on: Sequence[str], values: Sequence[Mapping[str, str | None]]) -> Statement:
        """The rows that may hold what these texts are read as, and others: as `holders`. Several match columns narrow it down one by one.

        Its arrays are to be seen by the planner (not prepared): then each row of a table without the index is looked up in a hash.
        """
        search = _Search(self.binding, match_on)
        alias = "t" if search.part == ROOT else "m"
        conditions: list[str] = []
        params: list[list[str]] = []
        for name in search.fields:
            side = self.binding.sides[name]
            if isinstance(side.alike, Likeness):
                columns = side.columns if side.read is None else side.columns[:1]
                texts = {"".join(row[column] or "" for column in columns) for row in values}
                conditions.append(f"{likeness_key(side, f'{alias}.', search.names)} = ANY(%s::text[])")
                params.append(sorted({key for text in texts for key in side.alike.keys(text)}))
            elif side.alike == "equal":
                for column in side.columns if side.read is None else side.columns[:1]:
                    of_type = cast_type(search.table, search.names[column])
                    at = f"{alias}.{quoted(search.names[column])}"
                    conditions.append(f"{at} = ANY(ARRAY(SELECT w::{of_type} FROM unnest(%s::text[]) w))")
                    params.append(sorted({text for row in values if (text := row[column]) is not None}))
        where = " AND ".join(conditions) or "true"
        if search.part != ROOT:
            where = _roots_with(self.binding, search.part, f"{table_name(search.table)} m", where)
        among = f"{self._linked()} WHERE {where}"
        return self.flat.select(f"{self.flat.root} t", "k.link", among), (self.binding.entity, system, *params)

    def _linked(self) -> str:
        key = (
            f"t.{quoted(self._key[0])}::text"
            if len(self._key) == 1
            else "array_to_json(ARRAY[" + ", ".join(f"t.{quoted(column)}::text" for column in self._key) + "])::text"
        )
        return f"LEFT JOIN concord.key k ON k.entity = %s AND k.system = %s AND k.key = {key}"

    # rows that are not there any more

    def ask_for_vanished(self, slot: str, keys: Sequence[Sequence[str]]) -> Statement:
        """Asks the source for deletes of linked rows that are not there, if one of these is not and the slot was lost not long ago: then
        its delete may be among what nobody has read. Else the delete is on its way."""
        text = self._texts.get(("vanished", ()))
        if text is None:
            arrays, names = _unnest((), range(len(self._key)))
            text = f"""
                WITH asked AS (
                    INSERT INTO concord.snapshot AS s (pipeline, table_name, predicate, vanished)
                    SELECT w.pipeline, w.table_name, '{NO_ROWS}', true FROM concord.snapshot w
                    WHERE w.pipeline = %s AND w.table_name = %s AND w.predicate = ''
                      AND w.lost_at > clock_timestamp() - interval '{ON_THE_WAY}' AND EXISTS (
                        SELECT FROM unnest({arrays}) AS u({names})
                        WHERE NOT EXISTS (SELECT FROM {self.flat.root} t WHERE {_on(self.binding.table, self._key)}))
                    {ASKED_AGAIN} RETURNING s.pipeline)
                SELECT pg_notify('{CHANNEL}', pipeline) FROM asked"""
            self._texts["vanished", ()] = text
        table = f"{self.binding.table.schema}.{self.binding.table.name}"
        return text, (slot, table, *_columnwise(keys, len(self._key)))

    # deleting what hangs at a row

    def clear(self, part: str, above: str, keys: Sequence[Sequence[str]]) -> Statement:
        """Deletes the rows of a child part that hang at these rows of a part above it, or at these roots, and count."""
        text = self._texts.get(("clear", (part, above)))
        top = self.binding.table if above == ROOT else self.binding.part[above].table
        if text is None:
            arrays, names = _unnest((), range(len(top.primary_key)))
            one, alias, number = self.binding.part[part], "t", 0
            tables, conditions = [f"unnest({arrays}) AS u({names})"], in_scope(one, "t")
            while True:
                tables.append(f"{table_name(table_above(self.binding, one))} a{number}")
                conditions += linked(self.binding, one, alias, f"a{number}")
                alias, number = f"a{number}", number + 1
                if one.of == above:
                    break
                one = self.binding.part[one.of]
                conditions += in_scope(one, alias)
            conditions += [f"{alias}.{quoted(column)} = u.k{n}::{cast_type(top, column)}" for n, column in enumerate(top.primary_key)]
            target = table_name(self.binding.part[part].table)
            text = f"DELETE FROM {target} AS t USING {', '.join(tables)} WHERE {' AND '.join(conditions)}"
            self._texts["clear", (part, above)] = text
        return text, tuple(_columnwise(keys, len(top.primary_key)))


class RowStatements:
    """Writes rows of one table. Each statement returns the row's number in what was given (insert: it is in that order) and the row as it
    now is: its key, or what is asked for as `returned`, of the alias `t`."""

    def __init__(self, table: Table, insert: Mapping[str, Expr], always: Mapping[str, Expr], returned: str = "") -> None:
        self.table = table
        self.key = table.primary_key
        self._name = table_name(table)
        self._insert = {**always, **insert}
        self._always = always
        self._returned = returned or ", ".join(f"t.{quoted(column)}::text" for column in self.key)
        self._texts: dict[tuple[str, tuple[str, ...]], tuple[str, list[Any]]] = {}

    def insert(self, columns: tuple[str, ...], rows: Sequence[Mapping[str, str | None]]) -> Statement:
        known = self._texts.get(("insert", columns))
        if known is None:
            known = self._texts["insert", columns] = self._insert_text(columns)
        text, params = known
        values = _columnwise([tuple(row[column] for column in columns) for row in rows], len(columns))
        counted: list[Any] = [len(rows)] if not columns and "generate_series" in text else []
        return text, (*params, *values, *counted)

    def _insert_text(self, columns: tuple[str, ...]) -> tuple[str, list[Any]]:
        given = {column: f"u.c{n}::{cast_type(self.table, column)}" for n, column in enumerate(columns)}
        made, params = self._made({column: expr for column, expr in self._insert.items() if column not in columns}, given)
        if not given and not made:
            return f"INSERT INTO {self._name} AS t DEFAULT VALUES RETURNING {self._returned}", []
        arrays, names = _unnest(range(len(columns)))
        source = f"unnest({arrays}) AS u({names})" if columns else "generate_series(1, %s)"
        copies = {column: expr.column for column, expr in self._insert.items() if column not in columns and expr.column is not None}
        targets = ", ".join(quoted(column) for column in (*given, *made, *copies))
        values = ", ".join((*given.values(), *made.values()))
        if copies:  # what is copied is made once, below
            below = ", ".join(f"{sql} AS {quoted(column)}" for column, sql in (*given.items(), *made.items()))
            values = ", ".join(f"s.{quoted(column)}" for column in (*given, *made, *(self._copied(copies, column) for column in copies)))
            source = f"(SELECT {below} FROM {source}) s"
        given_key = [described for column in columns if column in self.key and (described := self.table.column(column)) is not None]
        overriding = "OVERRIDING SYSTEM VALUE " if any(column.identity == "a" for column in given_key) else ""
        text = f"INSERT INTO {self._name} AS t ({targets}) {overriding}SELECT {values} FROM {source} RETURNING {self._returned}"
        return text, params

    def _made(self, expressions: Mapping[str, Expr], given: Mapping[str, str]) -> tuple[dict[str, str], list[Any]]:
        """Columns that an expression makes, those that are copied from a column's default among them, and the parameters."""
        made = {column: expr.sql for column, expr in expressions.items() if expr.column is None}
        params = [value for expr in expressions.values() if expr.column is None for value in expr.params]
        copies = {column: expr.column for column, expr in expressions.items() if expr.column is not None}
        for column in copies:
            source = self._copied(copies, column)
            if source not in given and source not in made:
                described = self.table.column(source)
                default = described.default if described is not None else None
                made[source] = f"({default.replace('%', '%%')})" if default is not None else f"NULL::{cast_type(self.table, source)}"
        return made, params

    @staticmethod
    def _copied(copies: Mapping[str, str], column: str) -> str:
        """The column that a column gets the value of, at the end of the chain."""
        seen = {column}
        while (source := copies[column]) in copies:
            if source in seen:
                break  # a ring, which is refused when the configuration is compiled
            seen.add(source)
            column = source
        return source

    def update(self, columns: tuple[str, ...], keys: Sequence[Sequence[str]], rows: Sequence[Mapping[str, str | None]]) -> Statement:
        known = self._texts.get(("update", columns))
        if known is None:
            known = self._texts["update", columns] = self._update_text(columns)
        text, params = known
        values = [(*(row[column] for column in columns), *key) for key, row in zip(keys, rows, strict=True)]
        return text, (*params, *_columnwise(values, len(columns) + len(self.key)))

    def _update_text(self, columns: tuple[str, ...]) -> tuple[str, list[Any]]:
        arrays, names = _unnest(range(len(columns)), range(len(self.key)))
        source = f"unnest({arrays}) WITH ORDINALITY AS u({names}, n)"
        given = {column: f"u.c{n}::{cast_type(self.table, column)}" for n, column in enumerate(columns)}
        always = {column: expr for column, expr in self._always.items() if column not in columns}
        copies = {column: expr.column for column, expr in always.items() if expr.column is not None}
        copied = {column: self._copied(copies, column) for column in copies}
        sets = dict(given)
        below, late = list[str](), list[str | None]()  # what gives another value each time is asked once, and copied
        for source_column in dict.fromkeys(copied.values()):
            if source_column in always and _OF_ITS_OWN.match(always[source_column].sql):
                sets[source_column] = f"u.m{len(below)}"
                below.append(f"{always[source_column].sql} AS m{len(below)}")
                late += always[source_column].params
        params: list[Any] = []
        for column, expr in always.items():
            if expr.column is None and column not in sets:
                sets[column] = expr.sql
                params += expr.params
        for column, source_column in copied.items():
            if source_column in always and not sets[source_column].startswith("u.m"):
                params += always[source_column].params
            sets[column] = sets.get(source_column, f"t.{quoted(source_column)}")
        if below:
            source = f"(SELECT u.*, {', '.join(below)} FROM {source}) u"
        text = (
            f"UPDATE {self._name} AS t SET {', '.join(f'{quoted(column)} = {sql}' for column, sql in sets.items())} FROM {source}"
            f" WHERE {_on(self.table, self.key)} RETURNING u.n, {self._returned}"
        )
        return text, [*params, *late]

    def delete(self, keys: Sequence[Sequence[str]]) -> Statement:
        arrays, names = _unnest((), range(len(self.key)))
        text = (
            f"DELETE FROM {self._name} AS t USING unnest({arrays}) WITH ORDINALITY AS u({names}, n)"
            f" WHERE {_on(self.table, self.key)} RETURNING u.n"
        )
        return text, tuple(_columnwise(keys, len(self.key)))


def _on(table: Table, key: Sequence[str]) -> str:
    return " AND ".join(f"t.{quoted(column)} = u.k{n}::{cast_type(table, column)}" for n, column in enumerate(key))


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
    SELECT k.entity, k.link, k.key, k.gone, k.live, k.heard FROM {_THINGS}, LATERAL (
        SELECT * FROM concord.key k WHERE k.entity = u.entity AND k.link = u.link AND k.system = %s OFFSET 0) k"""
LOAD_DEAD = f"""
    SELECT d.entity, d.link, d.record FROM {_THINGS}, LATERAL (
        SELECT * FROM concord.dead_letter d WHERE d.entity = u.entity AND d.link = u.link OFFSET 0) d"""
LOAD_NAMES = """
    SELECT k.entity, k.system, k.key, k.link, own.key, own.gone, own.live, own.heard
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
    INSERT INTO concord.key AS k (entity, system, key, link, gone, live)
    SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bool[], %s::bool[])
    ON CONFLICT (entity, system, key) DO UPDATE SET gone = excluded.gone, live = excluded.live, heard = true
    WHERE k.link = excluded.link AND (k.gone, k.live, k.heard) <> (excluded.gone, excluded.live, true)"""
# Rows that somebody else made and that we found to be things. Who has given one another link first has won: no link is none, so the
# statement fails, as it does when the thing has another live row meanwhile.
ADOPT_KEYS = """
    INSERT INTO concord.key AS k (entity, system, key, link, live)
    SELECT *, true FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[])
    ON CONFLICT (entity, system, key) DO UPDATE
    SET gone = false, live = true, heard = true, link = CASE WHEN k.link = excluded.link THEN k.link END
    WHERE CASE WHEN k.link = excluded.link THEN (k.gone, k.live, k.heard) <> (false, true, true) ELSE NOT k.gone END"""
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
