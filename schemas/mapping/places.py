"""Where a field's value stands in a system's rows.

    name                        a column
    address.street              a part's column
    custom_fields->>erp_code    a place inside the JSON of a column                        (`documents`)
    … when: {type_id: 5}        columns that are the field's only while others say so

What is compiled first (`sides`, `references`) knows of none of that: it reads texts and gives texts, one for each column that it was given;
a place inside a document is a column to it, with the text that stands there. `in_documents` and `only_when` make of it what reads and
writes rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from schemas.catalog import Column, Table
from schemas.change import Canonical
from schemas.config import Side
from schemas.mapping import kinds
from schemas.mapping.binding import FieldBinding, Row, Share
from schemas.mapping.documents import Path, split_reference
from schemas.mapping.likeness import Likeness

DOCUMENTS = {"json", "jsonb", "hstore"}  # types that can be looked into


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one text stands: a column, or a place inside one."""

    column: str
    path: Path | None = None
    empty: str | None = None  # the document that a new row begins with; None: what the database makes, if nothing is to be in it


@dataclass(frozen=True, slots=True)
class Condition:
    """Columns that must say so for a value to be there, and what is written to them with it."""

    column: str
    read: kinds.Read | None
    allowed: frozenset[Canonical]
    text: str | None
    nullable: bool

    def holds(self, text: str | None) -> bool:
        if text is None:
            return None in self.allowed
        try:
            return (text if self.read is None else self.read(text)) in self.allowed
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Place:
    """A field in one system on its way to a FieldBinding. `columns`: as the side named them, a place inside a document as a column."""

    where: str  # for problems
    system: str
    table: Table
    side: Side
    columns: tuple[Column, ...]
    codecs: tuple[kinds.Codec, ...]
    slots: tuple[Slot, ...]
    conditions: tuple[Condition, ...] = ()

    @property
    def plain(self) -> bool:
        return not self.conditions and all(slot.path is None for slot in self.slots)

    def placed(self, binding: FieldBinding, wanted: Literal["text", "number", "boolean"] = "text") -> FieldBinding:
        """What was compiled for texts, for this place's rows. `wanted`: the JSON type of a value where none stands yet."""
        slots = tuple(slot if slot.path is None else replace(slot, path=replace(slot.path, wanted=wanted)) for slot in self.slots)
        if any(slot.path is not None for slot in slots):
            binding = in_documents(binding, slots)
        return only_when(binding, self.conditions) if self.conditions else binding


def document_column(table: Table, name: str) -> tuple[Column, Path, Column] | None:
    """(the column that holds the document, the path, the place as a column). None: `name` has no path, or is a column itself. Raises
    ValueError."""
    if table.column(name) is not None:
        return None
    found = split_reference(name)
    if found is None:
        return None
    holder, steps, as_text = found
    column = table.column(holder)
    if column is None:
        raise ValueError(f"{table} has no column {holder!r}")
    if column.base not in DOCUMENTS:
        raise ValueError(f"{holder} of {table} is a {column.type}, there is nothing inside it")
    hstore = column.base == "hstore"
    if hstore and (len(steps) > 1 or not isinstance(steps[0], str)):
        raise ValueError(f"{holder} of {table} is an hstore, whose values are texts: one key, like {holder}->colour")
    kind = ("text", "text", "S") if as_text or hstore else ("jsonb", "jsonb", "U")
    return column, Path(steps, as_text or hstore, hstore), Column(name, *kind)


# ── inside documents ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def in_documents(inner: FieldBinding, slots: tuple[Slot, ...]) -> FieldBinding:
    """Several slots may be in one column, and several fields too: a write takes the row's document and changes its own places in it."""
    columns = tuple(dict.fromkeys(slot.column for slot in slots))
    at = {column: number for number, column in enumerate(columns)}

    def text_at(slot: Slot, document: str | None) -> str | None:
        return document if slot.path is None or document is None else slot.path.read(document)

    def merge(row: Row, value: Canonical) -> dict[str, str | None]:
        texts: dict[str, str | None] = {}
        for slot, text in zip(slots, inner.write(value), strict=True):
            if slot.path is None:
                texts[slot.column] = text
                continue
            is_there = slot.column in texts or slot.column in row
            held = texts[slot.column] if slot.column in texts else row.get(slot.column, slot.empty)
            written = slot.path.written(held, text)
            if is_there or written is not None:
                texts[slot.column] = written
        return texts

    def write(value: Canonical) -> tuple[str | None, ...]:
        texts = merge({}, value)
        return tuple(texts.get(column) for column in columns)

    def read(document: str) -> Canonical:
        return inner.value_of([text_at(slots[0], document)])

    def read_parts(documents: list[str | None]) -> Canonical:
        return inner.value_of([text_at(slot, documents[at[slot.column]]) for slot in slots])

    def represent(value: Canonical) -> Canonical:
        held = value if inner.represent is None else inner.represent(value)
        return None if held == "null" else held  # nothing and a null are the same inside a document

    alone = inner.read_parts is None and slots[0].path is not None
    as_json = any(slot.path is not None and not slot.path.as_text for slot in slots)
    return replace(
        inner,
        columns=columns,
        read=read if alone else inner.read,
        read_parts=None if inner.read_parts is None else read_parts,
        write=write,
        represent=represent if as_json else inner.represent,
        alike="any",
        merge=merge,
        shares={slot.column: Share(path=slot.path.steps) for slot in slots if slot.path is not None},
        makes=tuple(slot.column for slot in slots if slot.path is None),
    )


# ── only beside others ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def only_when(inner: FieldBinding, conditions: tuple[Condition, ...]) -> FieldBinding:
    """Null where the conditions do not hold. A value is written with what they want; null takes away only what was the field's."""
    columns = (*inner.columns, *(condition.column for condition in conditions))
    count = len(inner.columns)

    def holds(row: Mapping[str, str | None]) -> bool:
        return all(condition.column in row and condition.holds(row[condition.column]) for condition in conditions)

    def read_parts(texts: list[str | None]) -> Canonical:
        if not all(condition.holds(text) for condition, text in zip(conditions, texts[count:], strict=True)):
            return None
        return inner.value_of(texts[:count])

    def merge(row: Row, value: Canonical) -> dict[str, str | None]:
        if value is None:
            if not holds(row):
                return {}
            return {**inner.merged(row, None), **{condition.column: None for condition in conditions if condition.nullable}}
        return {**inner.merged(row, value), **{condition.column: condition.text for condition in conditions}}

    def write(value: Canonical) -> tuple[str | None, ...]:
        texts = merge({}, value)
        return tuple(texts.get(column) for column in columns)

    wanted = {condition.column: condition.allowed for condition in conditions}
    return replace(
        inner,
        columns=columns,
        read=None,
        read_parts=read_parts,
        write=write,
        merge=merge,
        null=None,
        alike="any" if isinstance(inner.alike, Likeness) else inner.alike,
        shares={column: replace(inner.shares.get(column, Share()), when=wanted) for column in columns},
        makes=inner.columns if inner.makes is None else inner.makes,
        beside=frozenset(wanted),
    )
