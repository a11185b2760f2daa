"""References: columns that hold the key of another entity's row ↔ its row name.

4711                          crm:4711
sale.line,12                  erp:12        with `prefix: "sale.line,"`; a text that begins otherwise points elsewhere: null here
0                             null          with `blank: 0`
null                          erp:1         with `default: 1`, what is written where a thing refers to nothing
("A", 3)                      erp:["A","3"] a key of several columns
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import orjson

from schemas.catalog import Column
from schemas.change import Canonical, row_name
from schemas.errors import MappingError
from schemas.mapping.binding import FieldBinding, Row, Share, key_texts

Form = Callable[[str], str] | None  # a key column's text → the text that names the row


def key_form(column: Column) -> Form:
    """Key columns whose text is not the same from an event and from a query."""
    if column.base == "character":
        return lambda text: text.rstrip(" ")
    if column.base == "boolean":
        return lambda text: text[:1]
    return None


@dataclass(frozen=True, slots=True)
class Pointing:
    """How a column's text says a key."""

    prefix: str = ""
    blank: str | None = None  # the key that means none
    default: str | None = None  # the key that is written for none


def reference_binding(field: str, system: str, columns: tuple[str, ...], forms: Sequence[Form], target: str, how: Pointing) -> FieldBinding:
    """`target`: the table that it refers to, for messages."""
    if len(columns) > 1:
        return _composite(field, system, columns, forms, target)
    (column,), form, prefix, blank = columns, forms[0], how.prefix, how.blank
    name_of = f"{system}:"
    nothing = how.default if blank is None else blank
    null_text = None if nothing is None else prefix + nothing

    def read(text: str) -> Canonical:
        if prefix:
            if not text.startswith(prefix) or text == prefix:
                return None
            text = text[len(prefix) :]
        key = text if form is None else form(text)
        return None if key == blank else name_of + key

    def write(value: Canonical) -> tuple[str | None, ...]:
        return (null_text,) if value is None else (prefix + _key_in(value, system),)

    def merge(row: Row, value: Canonical) -> dict[str, str | None]:
        held = row.get(column)
        if value is None and held is not None and not held.startswith(prefix):
            return {}  # it points elsewhere
        return {column: write(value)[0]}

    default = None if how.default is None else row_name(system, how.default)
    return FieldBinding(
        field,
        columns,
        read=read if form is not None or prefix or blank is not None else (lambda text: name_of + text),
        read_parts=None,
        write=write,
        represent=None if default is None else (lambda value: default if value is None else value),
        alike="equal",
        merge=merge if prefix else None,
        shares={column: Share(prefix=prefix)} if prefix else {},
    )


def constant_reference(field: str, system: str, key: str) -> FieldBinding:
    """All rows of the system refer to this one."""
    name = row_name(system, key)
    return FieldBinding(field, (), None, lambda _: name, lambda _: (), lambda _: name)


def _composite(field: str, system: str, columns: tuple[str, ...], forms: Sequence[Form], target: str) -> FieldBinding:
    nulls: tuple[None, ...] = (None,) * len(columns)

    def read_parts(texts: list[str | None]) -> Canonical:
        if None in texts:
            return None
        keys = [text if form is None else form(cast(str, text)) for text, form in zip(texts, forms, strict=True)]
        return row_name(system, orjson.dumps(keys).decode())

    def write(value: Canonical) -> tuple[str | None, ...]:
        if value is None:
            return nulls
        try:
            return tuple(key_texts(_key_in(value, system), len(columns), target))
        except MappingError as error:
            raise ValueError(str(error)) from error

    return FieldBinding(field, columns, read=None, read_parts=read_parts, write=write, represent=None, alike="equal")


def _key_in(value: Canonical, system: str) -> str:
    """The key in a row name of this system."""
    name = cast(str, value)
    if not name.startswith(f"{system}:"):
        raise ValueError(f"is no row of {system}")
    return name[len(system) + 1 :]
