"""One field in one system: the way from its columns' text to the field's normal form and back, made of a codec and steps.

    column text ─ codec.read ─ list ─ blank ─ python ─ prefix ─ timezone ─ unit ─ scale ─ values ─ (text) ─ scale ─ clean ─▶ canonical value
                ◀ codec.write (shorten) ─────────── the inverse of each, the other way round ─────────────────────────────

Several columns become one value first: `join` and `template` make a text of them, a python function whatever it likes; a constant has none.
Where the columns are, `places` knows; references are keys, to which next to nothing is done: `references`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Literal, cast

from schemas.change import Canonical
from schemas.config import Field
from schemas.config.model import Scalar, template_pieces
from schemas.config.problems import did_you_mean
from schemas.mapping import kinds, lists, times, transforms
from schemas.mapping.binding import FieldBinding, Kind
from schemas.mapping.likeness import UUID_IN_TEXT, Alike, Likeness, both, of_cleaning
from schemas.mapping.places import Place
from schemas.mapping.transforms import Step

BRIDGED = {"number", "boolean", "date", "timestamp", "datetime", "time", "timetz", "interval", "uuid", "json"}  # kinds a text may hold

_NEVER_EQUAL = {"json", "xml"}  # types without an equality
_WHOLE = {"smallint", "integer", "bigint", "oid"}  # their text is the number's normal form


def column_text(codec: kinds.Codec, value: Canonical) -> str:
    return cast(str, value if codec.write is None else codec.write(value))


def offered_kind(place: Place) -> Kind | None:
    """The kind that a side brings. None: whatever the others have."""
    side = place.side
    if side.constant is not None or side.values is not None or side.python is not None or side.list is not None:
        return None
    if side.join is not None or side.prefix is not None or side.template is not None:
        return "text"
    if side.unit is not None or side.scale is not None:
        return "number"
    if side.timezone is not None:
        return "timestamp"
    path = place.slots[0].path
    return None if path is not None and path.as_text else place.codecs[0].kind


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
        self._codecs = list(place.codecs)
        made_a_text = place.side.join is not None or place.side.template is not None
        self._at: Kind = kind if not place.codecs else ("text" if made_a_text else place.codecs[0].kind)  # where it stands
        self._steps: list[Step] = []
        self._null: Canonical = None  # a null column is read as
        self._null_text: str | None = None  # null is written as
        self._failed = False

    def _problem(self, key: str, what: str, mend: str = "") -> None:
        self._report(f"{self._place.where}.{key}" if key else self._place.where, what, mend)
        self._failed = True

    def binding(self, field: str) -> FieldBinding | None:
        side = self._side
        if side.constant is not None:
            return self._constant(field)
        self._shorten()
        self._nulls()
        self._list()
        if side.blank is not None and (blank := self._at_column("blank", side.blank)) is not None:
            self._steps.append(transforms.blanked(blank))
        several = side.python is not None and len(side.columns) > 1
        functions = self._functions()
        if functions is not None:
            self._at = self._kind
            if not several:
                read, write = functions
                self._steps.append(Step("python", read.one, None if write is None else write.one, exact=False))
        if side.prefix is not None and self._needs("prefix", "text"):
            self._steps.append(transforms.prefixed(side.prefix))
        self._timezone()
        self._numbers()
        self._values()
        self._bridge()
        self._finish()
        if self._failed:
            return None
        if functions is not None and several:
            made = self._several(field, *functions)
        elif side.template is not None:
            made = self._template(field, side.template)
        else:
            made = self._joined(field) if side.join is not None else self._single(field)
        return None if self._failed else self._place.placed(made, self._wanted())

    def _wanted(self) -> Literal["text", "number", "boolean"]:
        """What a value is inside a document where nothing stands yet."""
        if self._side.values is not None or self._side.python is not None or self._side.prefix is not None:
            return "text"
        return "number" if self._kind == "number" else ("boolean" if self._kind == "boolean" else "text")

    def _constant(self, field: str) -> FieldBinding | None:
        value = self._normal(f"{self._place.where}.constant", self._kind, self._side.constant)
        return None if value is None else FieldBinding(field, (), None, lambda _: value, lambda _: (), lambda _: value)

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
            self._null_text = self._fitting_text(key, value)

    def _fitting_text(self, key: str, value: Canonical) -> str | None:
        """What the columns are given for a value of the file; None, and a problem, where they cannot hold it."""
        try:
            texts = [column_text(codec, value) for codec in self._codecs]
            return texts[0]
        except ValueError as error:
            self._problem(key, f"{value!r} {error}")
            return None

    def _shorten(self) -> None:
        given, table = self._side.shorten, self._place.table
        if given is None:
            return
        for number, (column, codec) in enumerate(zip(self._place.columns, self._codecs, strict=True)):
            length = column.length if given is True else given
            if codec.kind != "text" or column.labels:
                self._problem("shorten", f"wants a text, but {column.name} of {table} is a {column.type}")
            elif length is None:
                self._problem("shorten", f"{column.name} of {table} holds texts of any length", "say how many characters: shorten: 40")
            elif column.length is not None and length > column.length:
                self._problem("shorten", f"{length} is more than {column.name} of {table} holds", f"at most {column.length}, or true")
            else:
                self._codecs[number] = _shortening(codec, length)

    def _list(self) -> None:
        if self._side.list is None:
            return
        if self._at != "text":
            column = self._place.columns[0]
            self._problem("list", f"wants a text, but {column.name} of {self._place.table} is a {column.type}")
            return
        if not self._kind.startswith(kinds.LIST):
            self._problem("list", f"makes a list, but the field is a {self._kind}")
            return
        separator, normal = self._side.list, kinds.normal_form(self._kind)
        self._steps.append(
            Step(
                "list",
                lambda value: normal(lists.split_text(cast(str, value), separator)),
                lambda value: lists.joined_text(value, separator),
                exact=False,
            )
        )
        self._at = self._kind

    def _functions(self) -> tuple[_Function, _Function | None] | None:
        given = self._side.python
        if given is None:
            return None
        read = self._function("python.read" if given.write else "python", given.read)
        write = self._function("python.write", given.write) if given.write is not None else getattr(read, "inverse", None)
        if read is None:
            return None
        if self._side.write and not callable(write):
            self._problem(
                "python",
                f"{given.read} has no inverse, so nothing could be written back",
                "say {read: …, write: …}, give the function an attribute `inverse`, or say write: false",
            )
            return None
        back = _Function(given.write or given.read, write) if callable(write) else None
        return _Function(given.read, read, kinds.normal_form(self._kind)), back

    def _function(self, key: str, path: str) -> Callable[..., object] | None:
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
        return cast("Callable[..., object]", found)

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
                elif code is not None and self._side.write and not self._steps and self._side.join is None:
                    self._fitting_text("values", code)
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
            self._null_text = self._fitting_text("values", table[None][0])
        self._steps.append(step)
        self._at = self._kind

    def _bridge(self) -> None:
        """From the kind of the column to that of the field, where one of them is text."""
        at, to = self._at, self._kind
        if at == to:
            return
        if to == "text" and at in BRIDGED:
            self._steps.append(Step("text", kinds.as_text, _reading(at), exact=False))
        elif at == "json" and to.startswith(kinds.LIST):
            self._steps.append(Step("text", _reading(to), lambda value: value, exact=False))
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
            step = transforms.cleaned(names)
            if self._kind == "text":
                self._steps.append(step)
            elif self._kind == f"{kinds.LIST}text":
                clean = cast("Callable[[Canonical], Canonical]", step.read)
                self._steps.append(Step("clean", lambda value: lists.each(value, clean), None, exact=False))
            else:
                self._problem("", f"clean wants a text, but the field is a {self._kind}")

    # ── the whole way ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _single(self, field: str) -> FieldBinding:
        place, steps, codecs = self._place, self._steps, tuple(self._codecs)
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
        codecs = tuple(self._codecs)
        for column, codec in zip(place.columns, codecs, strict=True):
            if codec.kind != "text":
                mend = "for reading alone: {template: …}, which takes any columns"
                self._problem("join", f"{column.name} is a {column.type}, only texts can be joined", mend)
        inner = _chain([step.read for step in self._steps])
        inward = _chain([step.write for step in reversed(self._steps)])
        readers = [codec.read for codec in codecs]
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
            return tuple(
                blank if part is None else column_text(codec, part) for part, blank, codec in zip(parts, empty, codecs, strict=True)
            )

        return FieldBinding(field, names, None, read_parts, write, lambda value: read_parts(list(write(value))), alike=self._alike())

    def _template(self, field: str, template: str) -> FieldBinding:
        place = self._place
        names = tuple(column.name for column in place.columns)
        readers = [codec.read for codec in place.codecs]
        inner = _chain([step.read for step in self._steps])
        pieces = [(literal, None if name is None else names.index(name)) for literal, name in template_pieces(template)]

        def read_parts(texts: list[str | None]) -> Canonical:
            if all(text is None for text in texts):
                return None
            values = [
                "" if text is None else kinds.as_text(text if read is None else read(text))
                for text, read in zip(texts, readers, strict=True)
            ]
            text = "".join(literal + ("" if number is None else values[number]) for literal, number in pieces).strip()
            return text if inner is None else inner(text)

        def write(value: Canonical) -> tuple[str | None, ...]:
            raise ValueError("cannot be taken apart again")

        return FieldBinding(field, names, None, read_parts, write, None)

    def _several(self, field: str, read: _Function, write: _Function | None) -> FieldBinding:
        """A python function over several columns. It is not asked about nothing: all null is null."""
        place, codecs = self._place, tuple(self._codecs)
        names = tuple(column.name for column in place.columns)
        inner = _chain([step.read for step in self._steps])
        inward = _chain([step.write for step in reversed(self._steps)])
        normal = [kinds.normal_form(codec.kind) for codec in codecs]

        def read_parts(texts: list[str | None]) -> Canonical:
            if all(text is None for text in texts):
                return None
            values = [text if text is None or codec.read is None else codec.read(text) for text, codec in zip(texts, codecs, strict=True)]
            value = read.one(*values)
            return value if value is None or inner is None else inner(value)

        def write_parts(value: Canonical) -> tuple[str | None, ...]:
            value = value if value is None or inward is None else inward(value)
            if value is None or write is None:
                return (None,) * len(names)
            given = write.several(value, names)
            return tuple(
                None if part is None else column_text(codec, form(kinds.as_text(part)))
                for part, codec, form in zip(given, codecs, normal, strict=True)
            )

        return FieldBinding(field, names, None, read_parts, write_parts, lambda value: read_parts(list(write_parts(value))))


def _shortening(codec: kinds.Codec, length: int) -> kinds.Codec:
    return replace(codec, write=lambda value: column_text(codec, kinds.shortened(kinds.write_text(value), length)), lossless=False)


def _is_neutral(separator: str) -> bool:
    """Whether a key has nothing of it: it may be there or not, where a part is empty."""
    return separator.isascii() and separator.isprintable() and not any(map(str.isalnum, separator))


def _reading(kind: Kind) -> Callable[[Canonical], Canonical]:
    normal = kinds.normal_form(kind)
    return lambda value: normal(kinds.as_text(value))


@dataclass(frozen=True, slots=True)
class _Function:
    """A user's function: it may raise ValueError for a value that it cannot take."""

    path: str
    function: Callable[..., object]
    normal: kinds.Read | None = None

    def one(self, *values: Canonical) -> Canonical:
        """What it makes of these: a text, a boolean or None."""
        return self._checked(self.function(*values))

    def several(self, value: Canonical, columns: Sequence[str]) -> list[Canonical]:
        """One value for each column: it gives them in order, or by name."""
        given = self.function(value)
        if isinstance(given, Mapping):
            if set(given) != set(columns):
                raise ValueError(f"was turned into {', '.join(map(str, given))} by {self.path}, expected {', '.join(columns)}")
            given = [given[column] for column in columns]
        if not isinstance(given, tuple | list) or len(given) != len(columns):
            raise ValueError(f"was turned into a {type(given).__name__} by {self.path}, expected {len(columns)} values")
        return [self._checked(part) for part in given]

    def _checked(self, given: object) -> Canonical:
        if given is None or isinstance(given, bool):
            return given
        if not isinstance(given, str):
            raise ValueError(f"was turned into a {type(given).__name__} by {self.path}, expected text")
        return given if self.normal is None else self.normal(kinds.write_text(given))


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
