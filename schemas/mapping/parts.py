"""A part: rows of another table that belong to an entity in one system, compiled. Pure.

    party (root) ◀─child── party_address      the rows whose `link` columns hold the root's key; the first in order is *the* row,
         │                                    or values are made of all of them (aggregates)
         └─parent─▶ party_group               the row whose key the root's `link` columns hold; shared by many roots
                        ▲─child── group_price a part may hang at another part

Together with the root they make a *flat row*: the root's columns under their own names, a part's under `part.column`, an aggregate under
`part.aggregate`. All are null where the part's row is not there (an aggregate: as SQL has it of no rows).

What is decided here by Python is decided by PostgreSQL too, when a row is read from the tables (`ORDER BY`, `sum`, …): `Sorting` and
`Aggregate` say only what both have.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import orjson

from schemas.catalog import Table
from schemas.change import Canonical
from schemas.errors import MappingError
from schemas.mapping.expressions import Expr
from schemas.mapping.numbers import added, normal_number

Texts = Mapping[str, str | None]  # column → text, as PostgreSQL prints it
Comparable = Any


@dataclass(frozen=True, slots=True)
class Others:
    """All values but these."""

    these: frozenset[Canonical]

    def __contains__(self, value: object) -> bool:
        return value not in self.these


Test = tuple[str, Callable[[str], Canonical] | None, Container[Canonical]]  # a column, how it is read, the values that count

ROOT = ""  # what a part hangs at that hangs at the root

_SPECIAL_RANK = {"-Infinity": -1, "Infinity": 1, "NaN": 2}  # PostgreSQL: NaN is greater than all


@dataclass(frozen=True, slots=True)
class Sorting:
    """One column of an order."""

    column: str
    descending: bool
    nulls_first: bool
    collate: bool  # text: in the order of its characters' code points, whatever the database's language
    value: Callable[[str], Comparable]  # compares as PostgreSQL does

    def sql(self, column: str) -> str:
        """The same in an ORDER BY; `column` is quoted already."""
        collation = ' COLLATE "C"' if self.collate else ""
        return f"{column}{collation} {'DESC' if self.descending else 'ASC'} NULLS {'FIRST' if self.nulls_first else 'LAST'}"

    def key(self, text: str | None) -> Comparable:
        if text is None:
            return (0 if self.nulls_first else 2, None)
        value = self.value(text)
        return (1, _Reversed(value) if self.descending else value)


class _Reversed:
    """Compares the other way round."""

    __slots__ = ("value",)

    def __init__(self, value: Comparable) -> None:
        self.value = value

    def __lt__(self, other: _Reversed) -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reversed) and bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash(self.value)


def number_order(text: str) -> Comparable:
    rank = _SPECIAL_RANK.get(normal := normal_number(text), 0)
    return (rank, Decimal(0 if rank else normal))


def stamp_order(text: str) -> Comparable:
    """Of a date or time stamp in normal form: ISO 8601, also 'infinity', years before 1 and beyond 9999."""
    if text in ("infinity", "-infinity"):
        return (1 if text == "infinity" else -1, 0, "")
    year, _, rest = text.removesuffix(" BC").lstrip("-+").partition("-")
    number = int(year)
    if text.endswith(" BC"):
        number = 1 - number
    elif text.startswith("-"):
        number = -number
    return (0, number, rest)


Function = Literal["sum", "count", "max", "min", "list"]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One value made of all rows of a part that count.

    sum     of what is not null, null of nothing; exact, also of floating point (the shortest text of each, added as decimals)
    count   of rows, or of what is not null in a column
    max, min
    list    what is not null, in order: a JSON array of the column's texts, or one text with a separator between; null of nothing
    """

    name: str
    function: Function
    column: str | None
    sorting: tuple[Sorting, ...] = ()  # max, min: the column's own. list: the order; the rows' key comes last
    separator: str | None = None
    form: Callable[[str], str] | None = None  # list: of an element, the same whether it comes from an event or from the table

    def of(self, rows: Iterable[Texts]) -> str | None:
        """`rows`: those that count, in any order."""
        found = list(rows)
        if self.column is None:
            return str(len(found))
        column = self.column
        if self.function == "list":
            found.sort(key=lambda row: tuple(sorting.key(row[sorting.column]) for sorting in self.sorting))
        texts = [text for row in found if (text := row[column]) is not None]
        match self.function:
            case "count":
                return str(len(texts))
            case "list":
                return self.listed(texts)
            case "sum" if texts:
                return added(texts)
            case "max" if texts:
                return max(texts, key=self.sorting[0].value)
            case "min" if texts:
                return min(texts, key=self.sorting[0].value)
        return None

    def listed(self, texts: Sequence[str]) -> str | None:
        """A list's value, of what is in it, in order."""
        elements = [text if self.form is None else self.form(text) for text in texts]
        if not elements:
            return None
        return orjson.dumps(elements).decode() if self.separator is None else self.separator.join(elements)


@dataclass(frozen=True)
class Part:
    """One part of a binding."""

    name: str
    of: str  # the part that it hangs at, or ROOT
    table: Table
    kind: Literal["child", "parent"]
    link: tuple[str, ...]  # child: this table's columns that hold the key above. parent: columns above that hold this table's key
    prefix: str  # before the key in `link`
    columns: tuple[str, ...]  # of this table, that anybody needs: key, links, fields, order, scope, aggregates
    fields: tuple[str, ...]  # columns of this table that are mapped, or aggregates
    writable: frozenset[str]  # columns of this table that fields are written to
    sorting: tuple[Sorting, ...]  # child: which is the first; the key comes last, so no two are equal
    aggregates: Mapping[str, Aggregate]
    insert: Mapping[str, Expr]
    always: Mapping[str, Expr]
    scope: Mapping[str, tuple[str | None, ...]]  # column → the texts that count
    empty: Literal["blank", "delete"]
    made: bool  # whether a sink may insert a row of it
    required: bool  # the root counts only with it, so that it is inserted with the root, whatever its fields are, and stays
    _tests: tuple[Test, ...]
    _key: tuple[Callable[[str], str] | None, ...]  # normal form of each key column
    _link: tuple[Callable[[str], str] | None, ...]  # of each link column

    def __str__(self) -> str:
        return f"{self.name} ({self.table})"

    @property
    def tests(self) -> tuple[Test, ...]:
        """What decides whether a row counts. A place inside a document is read by its `documents.Path`."""
        return self._tests

    @property
    def key_columns(self) -> tuple[str, ...]:
        return self.table.primary_key

    def flat(self, column: str) -> str:
        """The column's name in a flat row."""
        return f"{self.name}.{column}"

    def key_of(self, row: Texts) -> str:
        """The row's key: the key column's text, several as a JSON array. Raises MappingError if one is absent or null."""
        key = joined_key([row.get(column) for column in self.key_columns], self._key)
        if key is None:
            raise MappingError(f"a row of {self.table} without key: one of {', '.join(self.key_columns)} is null or absent")
        return key

    def target(self, row: Texts) -> str | None:
        """The key that the link columns hold: of the row above (child; `row` is this table's), or of this part's row (parent; `row` is the
        one above). None: it points nowhere. Raises MappingError if a link column is absent."""
        texts = []
        for column in self.link:
            try:
                text = row[column]
            except KeyError:
                raise MappingError(f"a row without {column}, which says where {self.name} hangs") from None
            if text is not None and self.prefix:
                text = text[len(self.prefix) :] if text.startswith(self.prefix) and text != self.prefix else None
            texts.append(text)
        return joined_key(texts, self._link)

    def link_texts(self, key_texts: Sequence[str]) -> dict[str, str]:
        """What the link columns must hold to point at the row with this key (its columns' texts, in order)."""
        return {column: self.prefix + text for column, text in zip(self.link, key_texts, strict=True)}

    def in_scope(self, row: Texts) -> bool:
        """Whether the row counts. Raises MappingError if a column that decides it is absent."""
        return counts(row, self._tests, str(self.table))

    def order(self, row: Texts) -> Comparable:
        """What children are compared by: the smallest is the first."""
        return tuple(sorting.key(row[sorting.column]) for sorting in self.sorting)


def joined_key(texts: Sequence[str | None], forms: Sequence[Callable[[str], str] | None]) -> str | None:
    """One key text of a key's columns: the text itself, several as a JSON array. None if one is null."""
    normal = [text if text is None or form is None else form(text) for text, form in zip(texts, forms, strict=True)]
    if any(text is None for text in normal):
        return None
    return normal[0] if len(normal) == 1 else orjson.dumps(normal).decode()


def counts(row: Texts, tests: Iterable[Test], of: str) -> bool:
    """Whether every tested column has one of its values. Raises MappingError if a column is absent."""
    for column, read, allowed in tests:
        try:
            text = row[column]
        except KeyError:
            raise MappingError(f"a row of {of} without {column}, which decides whether it counts") from None
        if text is None:
            if None not in allowed:
                return False
            continue
        try:
            if (text if read is None else read(text)) not in allowed:
                return False
        except ValueError:
            return False
    return True
