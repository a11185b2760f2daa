"""One field in one system: the way from its columns' text to the field's normal form and back, made of a codec and steps.

    column text ─ codec.read ─ blank ─ python ─ prefix ─ timezone ─ unit ─ scale ─ values ─ (text) ─ scale ─ clean ─▶ canonical value
                ◀ codec.write ─────────────────────── the inverse of each, the other way round ─────────────────────

References are keys, to which nothing is done: `reference_binding`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import cast

import orjson

from schemas.catalog import Column, Table
from schemas.change import Canonical
from schemas.config import Field, Side
from schemas.config.model import Scalar
from schemas.config.problems import did_you_mean
from schemas.errors import MappingError
from schemas.mapping import kinds, times, transforms
from schemas.mapping.binding import FieldBinding, Kind, key_texts
from schemas.mapping.likeness import UUID_IN_TEXT, Alike, Likeness, both, of_cleaning
from schemas.mapping.transforms import Step

BRIDGED = {"number", "boolean", "date", "timestamp", "datetime", "time", "timetz", "interval", "uuid", "json"}  # kinds a text may hold

_NEVER_EQUAL = {"json", "xml"}  # types without an equality
_WHOLE = {"smallint", "integer", "bigint", "oid"}  # their text is the number's normal form


@dataclass(frozen=True, slots=True)
class Place:
    """A field in one system on its way to a FieldBinding."""

    where: str  # for problems
    system: str
    table: Table
    side: Side
    columns: tuple[Column, ...]
    codecs: tuple[kinds.Codec, ...]


def column_text(codec: kinds.Codec, value: Canonical) -> str:
    return cast(str, value if codec.write is None else codec.write(value))


def offered_kind(place: Place) -> Kind | None:
    """The kind that a side brings. None: whatever the others have."""
    side = place.side
    if side.values is not None or side.python is not None:
        return None
    if side.join is not None or side.prefix is not None:
        return "text"
    if side.unit is not None or side.scale is not None:
        return "number"
    return "timestamp" if side.timezone is not None else place.codecs[0].kind


# ── keys and references ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def key_form(column: Column) -> Callable[[str], str] | None:
    """Key columns whose text is not the same from an event and from a query."""
    if column.base == "character":
        return lambda text: text.rstrip(" ")
    if column.base == "boolean":
        return lambda text: text[:1]
    return None


def reference_binding(
    field: str, system: str, columns: tuple[str, ...], forms: Sequence[Callable[[str], str] | None], target: str
) -> FieldBinding:
    prefix = f"{system}:"
    nulls: tuple[None, ...] = (None,) * len(columns)

    def key_in(value: Canonical) -> str:
        name = cast(str, value)
        if not name.startswith(prefix):
            raise ValueError(f"is no row of {system}")
        return name[len(prefix) :]

    if len(columns) == 1:
        form = forms[0]
        return FieldBinding(
            field,
            columns,
            read=(lambda text: prefix + text) if form is None else (lambda text: prefix + form(text)),
            read_parts=None,
            write=lambda value: (None,) if value is None else (key_in(value),),
            represent=None,
            alike="equal",
        )

    def read_parts(texts: list[str | None]) -> Canonical:
        if None in texts:
            return None
        return (
            prefix
            + orjson.dumps([text if form is None else form(cast(str, text)) for text, form in zip(texts, forms, strict=True)]).decode()
        )

    def write(value: Canonical) -> tuple[str | None, ...]:
        if value is None:
            return nulls
        try:
            return tuple(key_texts(key_in(value), len(columns), target))
        except MappingError as error:
            raise ValueError(str(error)) from error

    return FieldBinding(field, columns, read=None, read_parts=read_parts, write=write, represent=None, alike="equal")


# ── one field in one system ───────────────────────────────────────────────────────────────────────────────────────────────────────


class SideCompiler:
    """Builds the way from a column's text to the field's normal form and back."""

    def __init__(
        self,
        problem: Callable[..., None],
        normal: Callable[[str, Kind, Scalar], Canonical],
        place: Place,
        kind: Kind,
        rules: Field,
    ) -> None:
        self._report = problem
        self._normal = normal
        self._place = place
        self._side = place.side
        self._kind = kind  # where it leads
        self._rules = rules
        self._at: Kind = "text" if place.side.join is not None else place.codecs[0].kind  # where it stands
        self._steps: list[Step] = []
        self._null: Canonical = None  # a null column is read as
        self._null_text: str | None = None  # null is written as
        self._failed = False

    def _problem(self, key: str, what: str, mend: str = "") -> None:
        self._report(f"{self._place.where}.{key}" if key else self._place.where, what, mend)
        self._failed = True

    def binding(self, field: str) -> FieldBinding | None:
        self._nulls()
        if self._side.blank is not None and (blank := self._at_column("blank", self._side.blank)) is not None:
            self._steps.append(transforms.blanked(blank))
        self._python()
        if self._side.prefix is not None and self._needs("prefix", "text"):
            self._steps.append(transforms.prefixed(self._side.prefix))
        self._timezone()
        self._numbers()
        self._values()
        self._bridge()
        self._finish()
        if self._failed:
            return None
        return self._joined(field) if self._side.join is not None else self._single(field)

    # ── steps, from the column inwards ────────────────────────────────────────────────────────────────────────────────────────────

    def _at_column(self, key: str, value: Scalar) -> Canonical:
        """A value of the file in the normal form of the column."""
        return self._normal(f"{self._place.where}.{key}", self._at, value)

    def _nulls(self) -> None:
        key = "blank" if self._side.blank is not None else "default"
        given = self._side.blank if self._side.blank is not None else self._side.default
        if given is None:
            return
        if self._side.join is not None:
            self._problem(key, "does not go with join", "columns without a part are written as null, or as empty where they are NOT NULL")
            return
        value = self._at_column(key, given)
        if value is not None:
            try:
                self._null_text = column_text(self._place.codecs[0], value)
            except ValueError as error:
                self._problem(key, f"{given!r} {error}")

    def _python(self) -> None:
        given = self._side.python
        if given is None:
            return
        read = self._function("python.read" if given.write else "python", given.read)
        write = self._function("python.write", given.write) if given.write is not None else getattr(read, "inverse", None)
        if read is None:
            return
        if self._side.write and not callable(write):
            self._problem(
                "python",
                f"{given.read} has no inverse, so nothing could be written back",
                "say {read: …, write: …}, give the function an attribute `inverse`, or say write: false",
            )
            return
        self._steps.append(
            Step(
                "python",
                _guarded(given.read, read, kinds.NORMAL[self._kind]),
                _guarded(given.write or given.read, write) if callable(write) else None,
                exact=False,
            )
        )
        self._at = self._kind

    def _function(self, key: str, path: str) -> Callable[[Canonical], object] | None:
        module, colon, name = path.partition(":")
        if not colon or not module or not name:
            self._problem(key, f"{path!r} is no import path", "like my_company.mapping:from_erp_code")
            return None
        try:
            found: object = import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            self._problem(key, f"{path} cannot be imported: {error}", "is it on PYTHONPATH?")
            return None
        if not callable(found):
            self._problem(key, f"{path} is no function")
            return None
        return cast("Callable[[Canonical], object]", found)

    def _needs(self, key: str, kind: Kind) -> bool:
        """Whether the way stands at `kind`, or can be brought there from a text."""
        if self._at == "text" != kind and self._kind == kind:
            self._bridge()
        if self._at == kind:
            return True
        column = self._place.columns[0]
        self._problem(key, f"wants a {kind}, but {column.name} of {self._place.table} is a {column.type}")
        return False

    def _timezone(self) -> None:
        if self._side.timezone is None:
            return
        if self._at == "timestamp":
            self._problem("timezone", "the column already is an instant: timestamp with time zone", "take timezone out")
        elif self._at == "text" and self._kind == "timestamp":
            self._steps.append(Step("text", _reading("datetime"), kinds.as_text, exact=False))
            self._at = "datetime"
            self._timezone()
        elif self._needs("timezone", "datetime"):
            instant, naive = times.zoned(self._side.timezone)
            self._steps.append(
                Step("timezone", lambda value: instant(cast(str, value)), lambda value: naive(cast(str, value)), exact=False)
            )
            self._at = "timestamp"

    def _numbers(self) -> None:
        if self._side.unit is not None and self._needs("unit", "number"):
            try:
                self._steps.append(transforms.in_unit(kinds.exact_factor(self._side.unit)))
            except ValueError as error:
                self._problem("unit", f"{self._side.unit} {error}", "a factor like 0.001 or 2.5, or a python function")
        if self._side.scale is not None and self._needs("scale", "number"):
            self._steps.append(transforms.scaled(self._side.scale))

    def _values(self) -> None:
        given = self._side.values
        if given is None:
            return
        where = self._place.where
        table: dict[Canonical, list[Canonical]] = {}
        for value, codes in given.items():
            named = self._normal(f"{where}.values.{value}", self._kind, value)
            table.setdefault(named, []).extend(self._normal(f"{where}.values.{value}", self._at, code) for code in codes)
        otherwise = self._side.otherwise
        labels = self._place.columns[0].labels
        for codes_of in table.values():
            for code in codes_of:
                if labels and code is not None and code not in labels:
                    self._problem("values", f"{code!r} is no value of {self._place.columns[0].type}", did_you_mean(code, labels))
        if otherwise is None:
            for code, first, second in transforms.ambiguous(table):
                self._problem(
                    "values",
                    f"{first!r} and {second!r} both become {code!r}, which could not be read back",
                    "make it one to one, or say what it is read as: otherwise: {read: …}",
                )
        read = self._normal(f"{where}.otherwise.read", self._kind, otherwise.read) if otherwise is not None else None
        write = self._normal(f"{where}.otherwise.write", self._at, otherwise.write) if otherwise is not None else None
        step = transforms.coded(table, read, write, otherwise is not None)
        self._null = next((value for value, codes_of in table.items() if None in codes_of), None)
        if None in table and table[None][0] is not None:
            self._null_text = column_text(self._place.codecs[0], table[None][0])
        self._steps.append(step)
        self._at = self._kind

    def _bridge(self) -> None:
        """From the kind of the column to that of the field, where one of them is text."""
        at, to = self._at, self._kind
        if at == to:
            return
        if to == "text" and at in BRIDGED:
            self._steps.append(Step("text", kinds.as_text, _reading(at), exact=False))
        elif at == "text" and to in kinds.NORMAL:
            self._steps.append(Step("text", _reading(to), kinds.as_text, exact=False))
        else:
            column = self._place.columns[0]
            self._problem(
                "", f"{column.name} of {self._place.table} is a {column.type}, the field a {to}", "give values or a python function"
            )
        self._at = to

    def _finish(self) -> None:
        if self._rules.scale is not None:
            if self._kind == "number":
                self._steps.append(transforms.scaled(self._rules.scale))
            else:
                self._problem("", f"scale wants a number, but the field is a {self._kind}")
        names = (*self._side.clean, *self._rules.clean)
        if names:
            if self._kind == "text":
                self._steps.append(transforms.cleaned(names))
            else:
                self._problem("", f"clean wants a text, but the field is a {self._kind}")

    # ── the whole way ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _single(self, field: str) -> FieldBinding:
        place, steps = self._place, self._steps
        codecs = place.codecs
        if any(codec.kind != codecs[0].kind for codec in codecs):
            told = ", ".join(f"{column.name} is a {column.type}" for column in place.columns)
            self._problem("", f"columns that are written the same must be of one kind: {told}")
        read = _chain([codecs[0].read, *(step.read for step in steps)])
        inward = _chain([step.write for step in reversed(steps)])
        null, null_text = self._null, self._null_text

        def write(value: Canonical) -> tuple[str | None, ...]:
            if value is None:
                return (null_text,) * len(codecs)
            normal = value if inward is None else inward(value)
            if normal is None:
                return (None,) * len(codecs)
            return tuple(column_text(codec, normal) for codec in codecs)

        first_write, one = codecs[0].write, len(codecs) == 1
        if one and inward is None and null_text is None:

            def write(value: Canonical) -> tuple[str | None, ...]:
                return (cast("str | None", value if value is None or first_write is None else first_write(value)),)

        def represent(value: Canonical) -> Canonical:
            text = write(value)[0]
            return null if text is None else (text if read is None else read(text))

        exact = codecs[0].lossless and all(step.exact for step in steps) and null is None and null_text is None
        names = tuple(column.name for column in place.columns)
        return FieldBinding(field, names, read, None, write, None if exact else represent, null, self._alike())

    def _alike(self) -> Alike:
        """How rows that hold a value can be looked for. What is not thought of here is "any": all rows are read."""
        side, column, codec = self._side, self._place.columns[0], self._place.codecs[0]
        is_text = side.join is not None or codec.kind == "text"
        as_it_is = is_text or codec.kind == "uuid" or column.base in _WHOLE  # the column's text is the value's
        if column.base in _NEVER_EQUAL or (side.join is not None and not _is_neutral(side.join)):
            return "any"
        found: Likeness | None = Likeness() if side.join is not None else None  # the parts are stripped, and may be cut in another way
        for step in self._steps:
            match step.name:
                case "blank" | "prefix":
                    pass  # two values stay two
                case "unit":
                    as_it_is = False
                case "values" if step.injective:
                    as_it_is = is_text = False
                case "text" if not is_text:
                    pass
                case "text" if self._kind == "uuid":
                    found, is_text = both(found or Likeness(), UUID_IN_TEXT), False
                case "clean" if as_it_is:
                    found = both(found or Likeness(), of_cleaning((*side.clean, *self._rules.clean)))
                case _:
                    return "any"
        return "equal" if found is None else found

    def _joined(self, field: str) -> FieldBinding:
        place, separator = self._place, cast(str, self._side.join)
        names = tuple(column.name for column in place.columns)
        for column, codec in zip(place.columns, place.codecs, strict=True):
            if codec.kind != "text":
                self._problem("join", f"{column.name} is a {column.type}, only texts can be joined")
        if self._failed:
            return None  # type: ignore[return-value]  # `binding` has reported it
        inner = _chain([step.read for step in self._steps])
        inward = _chain([step.write for step in reversed(self._steps)])
        readers = [codec.read for codec in place.codecs]
        empty = tuple("" if column.not_null else None for column in place.columns)
        last, count = self._side.split == "last", len(names)

        def read_parts(texts: list[str | None]) -> Canonical:
            parts = [cast(str, text if read is None or text is None else read(text)) for text, read in zip(texts, readers, strict=True)]
            text = transforms.joined(parts, separator)
            return text if text is None or inner is None else inner(text)

        def write(value: Canonical) -> tuple[str | None, ...]:
            text = value if value is None or inward is None else inward(value)
            if text is None:
                return empty
            parts = transforms.cut(kinds.write_text(text), separator, count, last)
            return tuple(blank if part is None else part for part, blank in zip(parts, empty, strict=True))

        return FieldBinding(field, names, None, read_parts, write, lambda value: read_parts(list(write(value))), alike=self._alike())


def _is_neutral(separator: str) -> bool:
    """Whether a key has nothing of it: it may be there or not, where a part is empty."""
    return separator.isascii() and separator.isprintable() and not any(map(str.isalnum, separator))


def _reading(kind: Kind) -> Callable[[Canonical], Canonical]:
    normal = kinds.NORMAL[kind]
    return lambda value: normal(kinds.as_text(value))


def _guarded(path: str, function: Callable[[Canonical], object], normal: kinds.Read | None = None) -> Callable[[Canonical], Canonical]:
    """A user's function: it may raise ValueError for a value it cannot take, and must give a text, a boolean or None."""

    def call(value: Canonical) -> Canonical:
        given = function(value)
        if given is None or isinstance(given, bool):
            return given
        if not isinstance(given, str):
            raise ValueError(f"was turned into a {type(given).__name__} by {path}, expected text")
        return given if normal is None else normal(kinds.write_text(given))

    return call


def _chain(functions: Sequence[Callable[..., Canonical] | None]) -> Callable[..., Canonical] | None:
    """One function for all; stops at null. None: nothing to do."""
    steps = [function for function in functions if function is not None]
    if not steps:
        return None
    if len(steps) == 1:
        return steps[0]
    if len(steps) == 2:
        first, second = steps

        def both(value: Canonical) -> Canonical:
            between = first(value)
            return None if between is None else second(between)

        return both

    def every(value: Canonical) -> Canonical:
        for step in steps:
            value = step(value)
            if value is None:
                return None
        return value

    return every
