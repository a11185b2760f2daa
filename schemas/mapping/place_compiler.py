"""Finds where a field's values stand: names of the configuration → columns of the catalog, or what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from schemas.catalog import Column, Table
from schemas.change import Canonical
from schemas.config import Binding as BindingConfig
from schemas.config import Expression, Side
from schemas.config.model import Scalar
from schemas.config.problems import did_you_mean
from schemas.mapping import kinds
from schemas.mapping.binding import FieldBinding
from schemas.mapping.places import Condition, Place, Slot, document_column
from schemas.mapping.references import Pointing, constant_reference, key_form, reference_binding

Normal = Callable[[str, str, Scalar], Canonical]  # (where, kind, value of the file) → normal form; None, and a problem, if it is none

_LITERAL = re.compile(r"'((?:[^']|'')*)'::(?:jsonb?|[\w.]*hstore)\Z")  # a default that is a document


class Report(Protocol):
    def __call__(self, where: str, what: str, mend: str = "") -> None: ...


def no_such_column(table: Table, name: str) -> tuple[str, str]:
    """What is wrong, and its mend. `table` may be the shape of a binding with parts."""
    part, dot, _ = name.partition(".")
    names = [column.name for column in table.columns]
    if dot and not any(known.startswith(f"{part}.") for known in names):
        return f"there is no part {part!r} for {name}", f"add `parts: {{{part}: {{table: …, child: …}}}}` to the binding"
    return f"{table} has no column {name!r}", did_you_mean(name, names)


class PlaceCompiler:
    """Of one binding. `table`: its shape, so that parts' columns have their names."""

    def __init__(self, problem: Report, normal: Normal, system: str, table: Table, binding: BindingConfig) -> None:
        self._problem = problem
        self._normal = normal
        self._system = system
        self._table = table
        self._binding = binding

    def place(self, where: str, side: Side) -> Place | None:
        columns: list[Column] = []
        codecs: list[kinds.Codec] = []
        slots: list[Slot] = []
        for name in side.columns:
            found = self._slot(where, name)
            if found is None:
                continue
            holder, column, slot = found
            codec = self._codec(where, holder, column)
            if codec is None:
                continue
            if side.write and holder.identity == "a":
                mend = f"say {{column: {name}, write: false}}"
                self._problem(where, f"{name} of {self._table} is GENERATED ALWAYS AS IDENTITY and cannot be written", mend)
            columns.append(column)
            codecs.append(codec)
            slots.append(slot)
        conditions = self._conditions(where, side)
        if len(columns) < len(side.columns) or conditions is None:
            return None
        return Place(where, self._system, self._table, side, tuple(columns), tuple(codecs), tuple(slots), conditions)

    def _slot(self, where: str, name: str) -> tuple[Column, Column, Slot] | None:
        """(the column of the table, what the field takes it for, where)."""
        try:
            inside = document_column(self._table, name)
        except ValueError as error:
            self._problem(where, f"{name!r} {error}" if str(error).startswith("is ") else str(error))
            return None
        if inside is not None:
            holder, path, column = inside
            return holder, column, Slot(holder.name, path, self._new_document(where, holder))
        found = self._table.column(name)
        if found is None:
            self._problem(where, *no_such_column(self._table, name))
            return None
        return found, found, Slot(name)

    def _codec(self, where: str, holder: Column, column: Column) -> kinds.Codec | None:
        name, table = holder.name, self._table
        codec = kinds.codec_for(column)
        if holder.generated:
            self._problem(where, f"{name} of {table} is generated, so change events leave it out", "map the columns it is made of")
            return None
        if codec is None:
            mend = kinds.UNSUPPORTED.get(holder.base, "change events leave it out or cannot carry it whole: use another column")
            self._problem(where, f"{name} of {table} is a {holder.type}, which cannot be kept in agreement", mend)
        return codec

    def _new_document(self, where: str, column: Column) -> str | None:
        """What a new row's document begins with."""
        given = self._inserted(column.name)
        empty = "" if column.base == "hstore" else "{}"
        if given is not None:
            if given.constant:
                return empty if given.value is None else kinds.as_text(given.value)
            what = f"{column.name} is written by paths into it, and its insert value is no constant"
            self._problem(where, what, "insert a constant: what a new document begins with")
        elif column.default is not None and (literal := _LITERAL.match(column.default)) is not None:
            return literal[1].replace("''", "'")
        return empty if column.not_null else None

    def _inserted(self, column: str) -> Expression | None:
        found = self._binding.part_of(column)
        return self._binding.insert.get(column) if found is None else self._binding.parts[found[0]].insert.get(found[1])

    def _conditions(self, where: str, side: Side) -> tuple[Condition, ...] | None:
        found: list[Condition] = []
        for name, values in side.when.items():
            at = f"{where}.when.{name}"
            column = self._table.column(name)
            if column is None:
                self._problem(at, *no_such_column(self._table, name))
                continue
            codec = self._codec(at, column, column)
            if codec is None:
                continue
            normal = [self._normal(at, codec.kind, value) for value in values]
            try:
                texts = [None if value is None else (value if codec.write is None else codec.write(value)) for value in normal]
            except ValueError as error:
                self._problem(at, f"one of its values {error}")
                continue
            found.append(Condition(name, codec.read, frozenset(normal), texts[0], not column.not_null))  # type: ignore[arg-type]
        return tuple(found) if len(found) == len(side.when) else None

    # ── references ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def reference(self, place: Place, field: str, target: str, referred: Table) -> FieldBinding | None:
        """`referred`: the table in which the entity `target` lives; it has a key."""
        key_columns = [column for name in referred.primary_key if (column := referred.column(name)) is not None]
        side = place.side
        if side.constant is not None:
            key = self._key(f"{place.where}.constant", side.constant, key_columns)
            return None if key is None else constant_reference(field, place.system, key)
        names = tuple(column.name for column in place.columns)
        if len(names) != len(key_columns):
            key_text = ", ".join(referred.primary_key)
            what = f"has {len(names)} columns, but the key of {referred} is ({key_text})"
            self._problem(place.where, what, f"name {len(key_columns)}, in that order")
            return None
        for columns, schema, name in place.table.foreign_keys:
            if set(columns) == set(names) and (schema, name) != (referred.schema, referred.name):
                what = f"is a foreign key to {schema}.{name}, but {target} lives in {referred}"
                self._problem(place.where, what, "name the entity that it refers to")
                return None
        in_text = side.prefix is not None or any(slot.path is not None for slot in place.slots)
        for column, codec, key_column in zip(place.columns, place.codecs, key_columns, strict=True):
            key_codec = kinds.codec_for(key_column)
            if key_codec is None or codec.kind != ("text" if in_text else key_codec.kind):
                what = f"{column.name} is a {column.type}, the key {key_column.name} of {referred} a {key_column.type}"
                self._problem(place.where, what, "a reference needs the key's type, or a text with `prefix` before the key")
                return None
        if side.prefix is not None and len(key_columns) > 1:
            self._problem(
                f"{place.where}.prefix", f"goes before one key, but that of {referred} has {len(key_columns)} columns", "take it out"
            )
            return None
        blank, default = (self._key(f"{place.where}.{key}", getattr(side, key), key_columns) for key in ("blank", "default"))
        forms = [_form_in_text(column) if in_text else key_form(column) for column in (key_columns if in_text else place.columns)]
        binding = reference_binding(field, place.system, names, forms, str(referred), Pointing(side.prefix or "", blank, default))
        key_codec = kinds.codec_for(key_columns[0])
        number = side.prefix is None and key_codec is not None and key_codec.kind == "number"
        return place.placed(binding, "number" if number else "text")

    def _key(self, where: str, given: Scalar, key_columns: list[Column]) -> str | None:
        """A key that the file names."""
        if given is None:
            return None
        if len(key_columns) != 1:
            self._problem(where, "names one value, but the key has several columns", "take it out")
            return None
        codec = kinds.codec_for(key_columns[0])
        value = None if codec is None else self._normal(where, codec.kind, given)
        return None if value is None else kinds.as_text(value)


def _form_in_text(key_column: Column) -> Callable[[str], str]:
    """The key in a text, as the key's own column would have it. Raises ValueError if it is none."""
    codec = kinds.codec_for(key_column)
    assert codec is not None
    normal, form = kinds.normal_form(codec.kind), key_form(key_column)

    def key(text: str) -> str:
        named = kinds.as_text(normal(text))
        return named if form is None else form(named)

    return key
