"""The compiled mapping: what source, intake, merge, sink, verify and check ask. Made by `schemas.mapping.compile`, frozen.

    Pipeline ─ entities ─▶ Entity ─ bindings ─▶ Binding ─ one FieldBinding for each field, closures made once, so that a row costs little

A *row* is a mapping of column names to the text that PostgreSQL prints (`col::text` or pgoutput's), None for null; a column that is
not in the row is not known, and neither is the field. With parts it is a flat row: see `schemas.mapping.parts`.
"""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, cast

import orjson

from schemas.catalog import Table
from schemas.change import Canonical
from schemas.config import Config
from schemas.errors import MappingError
from schemas.mapping.expressions import Expr
from schemas.mapping.likeness import Alike
from schemas.mapping.parts import ROOT, Part, Test, counts, joined_key

Row = Mapping[str, str | None]
Kind = str


@dataclass(frozen=True, slots=True)
class Delete:
    """What a delete in one system means for the others; `soft`: the values that a thing gets instead."""

    policy: Literal["propagate", "ignore", "soft"] = "propagate"
    soft: Mapping[str, Canonical] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Share:
    """How a field has a column for itself only in part, so that others may be written to it too."""

    path: tuple[str | int, ...] | None = None  # only this place of the document in it
    prefix: str | None = None  # only texts that begin so
    when: Mapping[str, frozenset[Canonical]] = field(default_factory=dict)  # only while these columns have one of these values

    def apart(self, other: Share) -> bool:
        """Whether both can be there at once."""
        return self.path is not None and other.path is not None and not overlap(self.path, other.path)

    def excludes(self, other: Share) -> bool:
        """Whether only one of them can be there at a time, and the row says which."""
        if self.prefix is not None and other.prefix is not None:
            return not (self.prefix.startswith(other.prefix) or other.prefix.startswith(self.prefix))
        return any(not values & other.when[column] for column, values in self.when.items() if column in other.when)


def overlap(one: tuple[str | int, ...], other: tuple[str | int, ...]) -> bool:
    """Whether two paths are the same, or one leads through the other."""
    return all(a == b for a, b in zip(one, other, strict=False))


@dataclass(frozen=True, slots=True)
class FieldBinding:
    """One field in one system.

    Plain: `read` takes the first column's text. Several columns that make one value: `read_parts` takes them all, null or not. A constant
    has no columns.
    `write` gives one text for each column of a row that is not there yet. `merge`, where it is given, says what is written to one that is:
    its columns may be other fields' too. `represent` is read(write(value)), or None where that is the value itself.
    """

    field: str
    columns: tuple[str, ...]
    read: Callable[[str], Canonical] | None
    read_parts: Callable[[list[str | None]], Canonical] | None
    write: Callable[[Canonical], tuple[str | None, ...]]
    represent: Callable[[Canonical], Canonical] | None
    null: Canonical = None  # what a column that is null is read as
    alike: Alike = "any"  # how rows that hold a value can be looked for in the database
    merge: Callable[[Row, Canonical], dict[str, str | None]] | None = None
    shares: Mapping[str, Share] = dataclasses.field(default_factory=dict)  # of its columns that others may be written to as well
    makes: tuple[str, ...] | None = None  # columns that hold the value and nothing else: an insert expression there makes it. None: all
    beside: frozenset[str] = frozenset()  # columns that are only written with a value

    @property
    def made_in(self) -> tuple[str, ...]:
        return self.columns if self.makes is None else self.makes

    def value_of(self, texts: Sequence[str | None]) -> Canonical:
        """Of all its columns' texts."""
        if self.read_parts is not None:
            return self.read_parts(list(texts))
        text = texts[0]
        return self.null if text is None else (text if self.read is None else self.read(text))

    def merged(self, row: Row, value: Canonical) -> dict[str, str | None]:
        """What is written to a row; an empty one is not there yet."""
        return dict(zip(self.columns, self.write(value), strict=True)) if self.merge is None else self.merge(row, value)


@dataclass(frozen=True)
class Binding:
    """Where an entity lives in one system: one root table, and its parts."""

    system: str
    entity: str
    table: Table  # the root
    shape: Table  # the flat row as a table: the root's columns and each part's, as `part.column`; the root itself if there are no parts
    parts: tuple[Part, ...]  # each after the one that it hangs at
    key_columns: tuple[str, ...]
    fields: tuple[str, ...]  # mapped here
    columns: Mapping[str, tuple[str, ...]]  # of each field: read from the first (all, when they make one value together), written to all
    writable: frozenset[str]  # fields that are written, and compared, here
    generated: frozenset[str]  # fields with a column that has an insert expression
    insert: Mapping[str, Expr]
    always: Mapping[str, Expr]
    scope: Mapping[str, tuple[str | None, ...]]  # column that decides → the texts that count; None: null does. (): not so simple
    needed: frozenset[str]  # columns that decide scope and key
    root_columns: tuple[str, ...]  # of the root table, that anybody needs: key, scope, fields, links of parent parts
    sides: Mapping[str, FieldBinding]
    _plain: tuple[tuple[str, str, Callable[[str], Canonical] | None, Canonical], ...]
    _composed: tuple[FieldBinding, ...]
    _key: tuple[Callable[[str], str] | None, ...]  # normal form of each key column
    _scope: tuple[Test, ...]

    def __str__(self) -> str:
        return f"{self.system}.{self.table}"

    # ── shape ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def part(self) -> Mapping[str, Part]:
        """Parts by name."""
        return {part.name: part for part in self.parts}

    def split(self, column: str) -> tuple[str, str]:
        """A flat row's column → (part or ROOT, its column there)."""
        name, dot, rest = column.partition(".")
        return (name, rest) if dot and name in self.part else (ROOT, column)

    @property
    def tables(self) -> tuple[Table, ...]:
        """The root's table and the parts', each once."""
        return tuple(dict.fromkeys((self.table, *(part.table for part in self.parts))))

    # ── identity and scope ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def key_of(self, row: Row) -> str:
        """The row's key: the key column's text, several as a JSON array. Raises MappingError if one is absent or null."""
        key = joined_key([row.get(column) for column in self.key_columns], self._key)
        if key is None:
            missing = next(column for column in self.key_columns if row.get(column) is None)
            raise MappingError(f"a row of {self} without key: {missing} is {'null' if missing in row else 'absent'}")
        return key

    def key_values(self, key: str) -> dict[str, str]:
        """Inverse of `key_of`. Raises MappingError on what is no key of this table."""
        if len(self.key_columns) == 1:
            return {self.key_columns[0]: key}
        return dict(zip(self.key_columns, key_texts(key, len(self.key_columns), str(self)), strict=True))

    @property
    def tests(self) -> tuple[Test, ...]:
        """What decides whether a row counts: a flat row's column, how it is read, what it may be."""
        return self._scope

    def in_scope(self, row: Row) -> bool:
        """Whether the row counts. Raises MappingError if a column that decides it is absent."""
        return counts(row, self._scope, str(self))

    # ── values ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def to_canonical(self, row: Row) -> dict[str, Canonical]:
        """The row's fields. A field whose column is absent is absent. References are row names of this system. Raises MappingError."""
        values: dict[str, Canonical] = {}
        name = ""
        text: str | None = None
        try:
            for name, column, read, null in self._plain:
                if column in row:
                    text = row[column]
                    if text is None:
                        values[name] = null
                    else:
                        values[name] = text if read is None else read(text)
            for side in self._composed:
                name, text = side.field, None
                if all(column in row for column in side.columns):
                    assert side.read_parts is not None
                    values[name] = side.read_parts([row[column] for column in side.columns])
        except (ValueError, ArithmeticError) as error:
            if text is None:
                text = repr([row[column] for column in self.columns[name]])
            raise self._error(name, text, error) from error
        return values

    def to_columns(self, values: Mapping[str, Canonical], held: Row | None = None) -> dict[str, str | None]:
        """The texts to write for these fields; fields that are not written here are left out. `held`: the row as it is, None if there is
        none: a field may have a place inside a column, and what else is in it stays.

        Give only the fields that differ: a joined text may be cut in another way than the row has it. References must be row names of this
        system. Raises MappingError.
        """
        columns: dict[str, str | None] = {}
        row: Row | None = None
        for name, value in values.items():
            if name not in self.writable:
                continue
            side = self.sides[name]
            try:
                if side.merge is None:
                    for column, text in zip(side.columns, side.write(value), strict=True):
                        columns[column] = text
                    continue
                if row is None:  # what the fields before this one are written as, over what is there
                    row = ChainMap(columns, cast("dict[str, str | None]", held or {}))
                for rival in self._rivals.get(name, ()):
                    self._make_room(side, self.sides[rival], row, values)
                columns.update(side.merge(row, value))
            except (ValueError, ArithmeticError) as error:
                raise self._error(name, value, error) from error
        return columns

    @cached_property
    def _rivals(self) -> Mapping[str, tuple[str, ...]]:
        """Fields of which only one can have a value at a time, since they share a column."""
        found: dict[str, list[str]] = {}
        for one in self.sides.values():
            for other in self.sides.values():
                if one is other or other.field not in self.writable:
                    continue
                shared = [(one.shares[column], other.shares[column]) for column in one.shares.keys() & other.shares.keys()]
                if any(mine.excludes(theirs) for mine, theirs in shared) and not all(mine.apart(theirs) for mine, theirs in shared):
                    found.setdefault(one.field, []).append(other.field)
        return {name: tuple(others) for name, others in found.items()}

    @staticmethod
    def _make_room(side: FieldBinding, rival: FieldBinding, row: Row, values: Mapping[str, Canonical]) -> None:
        """Raises ValueError if writing the one would take the other's value away without anybody having said so."""
        if values.get(side.field) is None or (rival.field in values and values[rival.field] is None):
            return
        if rival.field not in values:
            texts = [row.get(column) for column in rival.columns]
            if rival.value_of(texts) is None:
                return
        shared = ", ".join(column for column in side.columns if column in rival.columns)
        raise ValueError(f"cannot be written to {shared}, which holds {rival.field}: only one of them can be there at a time")

    def represent(self, name: str, value: Canonical) -> Canonical:
        """What this system would hold of a value after it was written; references and unmapped fields unchanged. A value that it
        cannot hold comes back as it is: it differs from everything, is sent, and `to_columns` or the database says why not."""
        side = self.sides.get(name)
        if side is None or side.represent is None:
            return value
        try:
            return side.represent(value)
        except (ValueError, ArithmeticError):
            return value

    def same(self, name: str, golden: Canonical, held: Canonical) -> bool:
        """Whether what the system holds is the golden value, in its own representation. References: plain equality."""
        return golden == held or self.represent(name, golden) == held

    def _error(self, name: str, value: object, error: Exception) -> MappingError:
        shown = repr(value)
        return MappingError(f"{self.entity}.{name} in {self}: {shown if len(shown) <= 60 else shown[:57] + '…'} {error}")


def key_texts(key: str, count: int, what: str) -> list[str]:
    """The parts of a composite key. Raises MappingError."""
    try:
        values = orjson.loads(key)
    except orjson.JSONDecodeError:
        values = None
    if not isinstance(values, list) or len(values) != count or not all(isinstance(value, str) for value in values):
        raise MappingError(f"not a key of {what}: {key!r}, expected a JSON array of {count} texts")
    return values


@dataclass(frozen=True)
class Entity:
    """A business thing: its fields' kinds and rules, and where it lives."""

    name: str
    kinds: Mapping[str, Kind]
    owner: Mapping[str, str | None]
    exists_owner: str | None
    born_in: frozenset[str]
    delete: Delete
    match_on: tuple[str, ...]
    refs: Mapping[str, str]
    bindings: Mapping[str, Binding]
    systems: tuple[str, ...]

    def writes_rows(self, system: str) -> bool:
        """Whether rows that are there are ever changed or deleted in a system: only then they are locked, which takes the right to."""
        binding = self.bindings[system]
        made = any(part.made for part in binding.parts)
        return bool(binding.writable or made) or (self.delete.policy == "propagate" and len(self.bindings) > 1)

    def match_value(self, values: Mapping[str, Canonical]) -> str | None:
        """What rows of two systems are recognised by. None when a match field is null, empty or not known."""
        texts = []
        for name in self.match_on:
            value = values.get(name)
            if value is None or value == "":
                return None
            texts.append(value if isinstance(value, str) else ("true" if value else "false"))
        if not texts:
            return None
        return texts[0] if len(texts) == 1 else orjson.dumps(texts).decode()


@dataclass(frozen=True)
class Pipeline:
    """Everything that is kept in agreement."""

    config: Config
    entities: Mapping[str, Entity]  # parents before children
    systems: tuple[str, ...]
    rank: Mapping[str, int]
    notes: tuple[str, ...] = ()  # worth knowing, not wrong: cycles of references
    _by_table: Mapping[tuple[str, str, str], tuple[Binding, ...]] = field(default_factory=dict)

    def tables(self, system: str) -> list[Binding]:
        """The bindings of a system, one for each entity, parents before children."""
        return [entity.bindings[system] for entity in self.entities.values() if system in entity.bindings]

    def captured(self, system: str) -> list[Table]:
        """The tables whose changes matter in a system, each once: roots, parents before children, each with its parts."""
        found = {(table.schema, table.name): table for binding in self.tables(system) for table in binding.tables}
        return list(found.values())

    def binding_for(self, system: str, schema: str, table: str) -> list[Binding]:
        """The bindings whose root a table is."""
        return list(self._by_table.get((system, schema, table), ()))


def same_text(value: Canonical) -> tuple[str | None, ...]:
    """`write` of a text column that nothing is done to."""
    return (cast("str | None", value),)
