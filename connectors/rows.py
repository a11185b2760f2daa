"""An entity's rows in SQL: the one way in which flat rows (`schemas.mapping.parts`) are read from a database. Builds text, does no I/O.

    SELECT t."id"::text, …, p0."street"::text, …, p1."total"                                          `selected`
    FROM <who says which roots> t
    LEFT JOIN LATERAL (SELECT … FROM address c WHERE c.party = t.id … ORDER BY … LIMIT 1) p0 ON true   `joins`: the first child
    LEFT JOIN LATERAL (SELECT count(*), … FROM sale c WHERE c.party = t.id …) p1 ON true                        drawn together
    LEFT JOIN template p2 ON p2.id = t.template                                                                 a parent
    LEFT JOIN LATERAL (… WHERE c.template = p2.id …) p3 ON true                                                 a part of a part

Every part costs one look into an index for each root: that of its key (parent), or one on its link columns (child), which has to be
there. So whoever reads a chunk of a table limits the roots first and joins then.

Values come as text (docs/decisions/0005), so that PostgreSQL's own output functions are the only ones that ever print a value. Texts are
safe in statements with placeholders (`%%`): give parameters, if only an empty list.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from functools import cache
from types import UnionType
from typing import cast

import orjson
from psycopg import sql

from schemas.catalog import Column, Table
from schemas.change import Canonical
from schemas.mapping import ROOT, Binding, Part
from schemas.mapping.documents import Path
from schemas.mapping.kinds import as_text, codec_for
from schemas.mapping.parts import Aggregate, Others

_NUMBERS = {"smallint", "integer", "bigint", "numeric", "real", "double precision", "oid"}
_COMPARED_AS_TEXT = {"citext", "interval", "xml"}  # what PostgreSQL calls equal may be two texts, or there is no equality
_TEXTS = {"text", "character varying", "character"}

# What of a prefixed link can be a key of these types, so that a cast of it never fails. Only what is spelled as PostgreSQL spells it.
_WHOLE = "^(0|-?[1-9][0-9]{0,17})$"
_KEY_SPELLED = {
    "smallint": (_WHOLE, "bigint"),
    "integer": (_WHOLE, "bigint"),
    "bigint": (_WHOLE, "bigint"),
    "uuid": ("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", "uuid"),
}


@cache
def quoted(name: str) -> str:
    """An identifier, also safe in a statement with placeholders."""
    return '"' + name.replace('"', '""').replace("%", "%%") + '"'


def literal(text: str) -> str:
    return sql.Literal(text).as_string().strip().replace("%", "%%")


def cast_type(table: Table, column: str) -> str:
    """The type that a text for this column is cast to."""
    return _described(table, column).type.replace("%", "%%")


def table_name(table: Table) -> str:
    return f"{quoted(table.schema)}.{quoted(table.name)}"


def in_scope(part: Part, alias: str) -> list[str]:
    """The part's `where` as conditions: the same as `Part.in_scope`."""
    return [_counts(part.table, alias, *test) for test in part.tests]


def linked(binding: Binding, part: Part, alias: str, above: str) -> list[str]:
    """What makes a row of the part (`alias`) hang at a row above it (`above`), as conditions: by an index on the link columns from above,
    by the key from below."""
    up = table_above(binding, part)
    conditions = []
    for link, key in zip(part.link, (up if part.kind == "child" else part.table).primary_key, strict=True):
        if part.kind == "child":
            holder, held, at, pointed = part.table, up, f"{alias}.{quoted(link)}", f"{above}.{quoted(key)}"
        else:
            holder, held, at, pointed = up, part.table, f"{above}.{quoted(link)}", f"{alias}.{quoted(key)}"
        if part.prefix:
            conditions.append(_prefixed(part, at, pointed, _described(held, key)))
        elif _comparable(_described(holder, link), _described(held, key)):
            conditions.append(f"{at} = {pointed}")
        else:
            conditions.append(f"{at}::text = {pointed}::text")
    return conditions


def table_above(binding: Binding, part: Part) -> Table:
    return binding.table if part.of == ROOT else binding.part[part.of].table


class FlatRows:
    """How a binding's flat rows are selected. The root's alias is `t`, and whoever says which rows are wanted gives it all of
    `binding.root_columns`."""

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self.alias = {ROOT: "t"}
        self._drawn: dict[int, Aggregate] = {}  # place in the row → a list, which becomes its value outside of the database
        columns = list(binding.root_columns)
        selected = [f"t.{quoted(column)}::text" for column in columns]
        self._joins: dict[str, str] = {}
        for number, part in enumerate(binding.parts):
            alias = self.alias[part.name] = f"p{number}"
            if part.aggregates:
                for name in self._aggregates(part):
                    if part.aggregates[name].function == "list":
                        self._drawn[len(columns)] = part.aggregates[name]
                    columns.append(part.flat(name))
                    selected.append(f"{alias}.{quoted(name)}")
            else:
                columns += [part.flat(column) for column in part.columns]
                selected += [f"{alias}.{quoted(column)}::text" for column in part.columns]
            self._joins[part.name] = self._join(part)
        self.columns = tuple(columns)
        self.selected = ", ".join(selected)
        self.joins = " ".join(join for join in self._joins.values() if join)
        self.root = table_name(binding.table)

    def row(self, values: Sequence[str | None]) -> dict[str, str | None]:
        """The flat row of what was selected."""
        if not self._drawn:
            return dict(zip(self.columns, values, strict=True))
        found = list(values)
        for place, aggregate in self._drawn.items():
            text = found[place]
            found[place] = None if text is None else aggregate.listed(orjson.loads(text))
        return dict(zip(self.columns, found, strict=True))

    def select(self, roots: str, more: str = "", among: str = "") -> str:
        """`roots`: what stands after FROM. `more`: selected before the row. `among`: what follows the joins."""
        return " ".join(filter(None, ["SELECT", f"{more},{self.selected}" if more else self.selected, "FROM", roots, self.joins, among]))

    def joins_to(self, part: str) -> str:
        """Only the joins that a part needs, its own among them."""
        found: list[str] = []
        while part != ROOT:
            found.append(self._joins[part])
            part = self.binding.part[part].of
        return " ".join(reversed(found))

    def in_scope(self) -> list[str] | None:
        """What makes a flat row count, as conditions: the same as `Binding.in_scope`. None: it depends on an aggregate."""
        conditions = []
        for column, read, allowed in self.binding.tests:
            name, rest = self.binding.split(column)
            part = self.binding.part.get(name)
            if part is not None and part.aggregates:
                return None
            table = self.binding.table if part is None else part.table
            conditions.append(_counts(table, self.alias[name], rest, read, allowed))
        return conditions

    def key_text(self) -> str:
        """The root's key as one text: the same as `Binding.key_of`."""
        texts = [_key_text(_described(self.binding.table, column), f"t.{quoted(column)}") for column in self.binding.key_columns]
        if len(texts) == 1:
            return texts[0]
        return "'[' || " + " || ',' || ".join(f"to_json({text})::text" for text in texts) + " || ']'"

    def has_key(self, alias: str, text: str) -> str:
        """That a row of the root's table has this key: the inverse, by an index on the key."""
        key = self.binding.key_columns
        parts = [text] if len(key) == 1 else [f"({text}::json ->> {number})" for number in range(len(key))]
        return " AND ".join(
            f"{alias}.{quoted(column)} = {part}::{cast_type(self.binding.table, column)}" for column, part in zip(key, parts, strict=True)
        )

    def key(self, part: str) -> list[str]:
        """A part's key columns, or the root's."""
        columns = self.binding.key_columns if part == ROOT else self.binding.part[part].key_columns
        return [f"{self.alias[part]}.{quoted(column)}" for column in columns]

    # one part

    def _aggregates(self, part: Part) -> list[str]:
        """Those that anybody needs."""
        return [name for name in part.aggregates if name in part.fields or part.flat(name) in self.binding.scope]

    def _join(self, part: Part) -> str:
        alias, above = self.alias[part.name], self.alias[part.of]
        if part.kind == "parent":
            on = [*linked(self.binding, part, alias, above), *in_scope(part, alias)]
            return f"LEFT JOIN {table_name(part.table)} {alias} ON {' AND '.join(on)}"
        where = " AND ".join([*linked(self.binding, part, "c", above), *in_scope(part, "c")])
        if not part.aggregates:
            columns = ", ".join(f"c.{quoted(column)}" for column in part.columns)
            order = ", ".join(sorting.sql(f"c.{quoted(sorting.column)}") for sorting in part.sorting)
            first = f"SELECT {columns} FROM {table_name(part.table)} c WHERE {where} ORDER BY {order} LIMIT 1"
            return f"LEFT JOIN LATERAL ({first}) {alias} ON true"
        wanted = self._aggregates(part)
        if not wanted:
            return ""
        values = ", ".join(f"{_drawn(part.aggregates[name])} AS {quoted(name)}" for name in wanted)
        return f"LEFT JOIN LATERAL (SELECT {values} FROM {table_name(part.table)} c WHERE {where}) {alias} ON true"


def _key_text(column: Column, at: str) -> str:
    return f"left({at}::text, 1)" if column.base == "boolean" else f"{at}::text"


def _drawn(aggregate: Aggregate) -> str:
    """An aggregate's value as text; a list as a JSON array of its elements' texts. The same as `Aggregate.of`."""
    if aggregate.column is None:
        return "count(*)::text"
    column = f"c.{quoted(aggregate.column)}"
    there = f"FILTER (WHERE {column} IS NOT NULL)"
    match aggregate.function:
        case "count":
            return f"count({column})::text"
        case "sum":
            return f"sum({column}::text::numeric)::text"  # a float by its shortest text: exact, whatever the order
        case "list":
            order = ", ".join(sorting.sql(f"c.{quoted(sorting.column)}") for sorting in aggregate.sorting)
            return f"(json_agg({column}::text ORDER BY {order}) {there})::text"
    sorting = replace(aggregate.sorting[0], descending=aggregate.function == "max")  # not every type has a max
    return f"(array_agg({column}::text ORDER BY {sorting.sql(column)}) {there})[1]"


def _counts(table: Table, alias: str, column: str, read: object, allowed: Container[Canonical]) -> str:
    described, at = _described(table, column), f"{alias}.{quoted(column)}"
    excluded = isinstance(allowed, Others)
    values = allowed.these if isinstance(allowed, Others) else cast("frozenset[Canonical]", allowed)
    texts = sorted({value if isinstance(value, str) else as_text(value) for value in values if value is not None})
    if isinstance(read, Path):
        there, any_of = _inside(read, described.base, at, texts)
    else:
        there, any_of = at, [_equals(described, at, value) for value in sorted(values - {None}, key=str)]
    if excluded:
        return f"CASE WHEN {there} IS NULL THEN {str(None not in values).lower()} ELSE NOT ({' OR '.join(any_of) or 'false'}) END"
    if None in values:
        any_of.append(f"{there} IS NULL")
    return any_of[0] if len(any_of) == 1 else f"({' OR '.join(any_of)})"


def _equals(column: Column, at: str, value: Canonical) -> str:
    codec = codec_for(column)
    assert codec is not None
    assert value is not None
    text = literal(as_text(value if codec.write is None else codec.write(value)))
    if column.base in _COMPARED_AS_TEXT:
        return f"{at}::text = {text}"
    return f"{at} = {text}::{column.type.replace('%', '%%')}"


def _inside(path: Path, base: str, at: str, texts: Sequence[str]) -> tuple[str, list[str]]:
    """A place inside a document as text, null where nothing stands there; and that it is one of these values."""
    if path.hstore:
        found = f"({at} -> {literal(str(path.steps[0]))})"
        return found, [f"{found} = {literal(text)}" for text in texts]
    value = "(" + " -> ".join([at, *(literal(step) if isinstance(step, str) else str(step) for step in path.steps)]) + ")"
    found = f"({value} #>> '{{}}')"
    if not path.as_text:
        return found, [f"{value}::jsonb = {literal(text)}::jsonb" for text in texts]
    same = []
    for text in texts:
        number = f"{found}::numeric = {literal(text)}::numeric" if _is_json(text, int | float) else "false"
        document = f"{value}::jsonb = {literal(text)}::jsonb" if _is_json(text, list | dict) else "false"
        same.append(
            f"CASE {base}_typeof({value}) WHEN 'number' THEN {number} WHEN 'object' THEN {document} WHEN 'array' THEN {document}"
            f" ELSE {found} = {literal(text)} END"
        )
    return found, same


def _is_json(text: str, of_type: type | UnionType) -> bool:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, of_type) and not isinstance(value, bool)


def _prefixed(part: Part, at: str, pointed: str, key: Column) -> str:
    prefix = literal(part.prefix)
    if part.kind == "child":
        return f"{at} = {prefix} || {pointed}::text"
    rest = f"substr({at}, {len(part.prefix) + 1})"
    begins = f"starts_with({at}, {prefix}) AND {rest} <> ''"
    if key.base in _KEY_SPELLED:
        spelled, of_type = _KEY_SPELLED[key.base]
        return f"{pointed} = CASE WHEN {begins} AND {rest} ~ {literal(spelled)} THEN {rest}::{of_type} END"
    if key.base in _TEXTS:
        return f"{pointed} = CASE WHEN {begins} THEN {rest} END"
    return f"{pointed}::text = CASE WHEN {begins} THEN {rest} END"


def _comparable(one: Column, other: Column) -> bool:
    """Whether the two columns are compared as they are, so that an index on either is of use."""
    if one.base == other.base:
        return True
    families: tuple[Callable[[Column], bool], ...] = (lambda c: c.base in _NUMBERS, lambda c: c.base in _TEXTS and not c.labels)
    return any(family(one) and family(other) for family in families)


def _described(table: Table, name: str) -> Column:
    column = table.column(name)
    assert column is not None, f"{table} has no column {name!r}"  # the mapping was compiled from this table
    return column
