"""A field's value in SQL, where its mapping can be said there: a text that is equal in two systems only if the values are.

The reverse need not hold: what is not equal is looked at row by row. So whatever is not plainly the same in PostgreSQL and in Python is
left out: for a field, by saying nothing of it (python functions, lists, templates, places inside documents, …), for single values by the
condition that they fit (`clean` of a text that is not plain ASCII; a code that nobody listed; a reference to a row that nobody linked).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from connectors.rows import FlatRows, literal, quoted
from schemas.catalog import Column
from schemas.change import Canonical
from schemas.config import Field, Side
from schemas.mapping import ROOT, Entity, Pipeline, kinds

_PLAIN = {  # base type → kind, where the text of two columns of the kind is the same if the value is
    **dict.fromkeys(("smallint", "integer", "bigint", "oid"), "number"),
    **dict.fromkeys(("text", "character varying", "character", "citext", "name", "inet", "cidr", "macaddr", "macaddr8", "ltree"), "text"),
    **dict.fromkeys(("boolean", "date", "uuid"), ""),
    "time without time zone": "time",
    "timestamp without time zone": "datetime",
    "jsonb": "json",
}
_AS_TEXT = {"number", "boolean", "uuid", "date"}  # kinds whose normal form is the text that a text column would have
_SPELLED = {  # texts of these kinds that are in normal form
    "number": r"^(0|-?[1-9][0-9]*|-?(0|[1-9][0-9]*)\.[0-9]*[1-9])$",
    "uuid": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
}
_CLEANED: dict[str, Callable[[str], str]] = {  # of printable ASCII
    "strip": lambda text: f"btrim({text})",
    "squeeze": lambda text: f"btrim(regexp_replace({text}, ' +', ' ', 'g'))",
    "upper": lambda text: f'upper({text} COLLATE "C")',
    "lower": lambda text: f'lower({text} COLLATE "C")',
    "casefold": lambda text: f'lower({text} COLLATE "C")',
    "digits": lambda text: f"regexp_replace({text}, '[^0123456789]', '', 'g')",
    "nfc": lambda text: text,
    "nfkc": lambda text: text,
    "empty_is_null": lambda text: f"NULLIF({text}, '')",
}


@dataclass(frozen=True, slots=True)
class Said:
    """A value as SQL: null for null. `fits`: the conditions under which it is that."""

    text: str
    fits: tuple[str, ...] = ()


def said(pipeline: Pipeline, entity: Entity, system: str, name: str, flat: FlatRows) -> Said | None:
    """A field of a flat row. None: its mapping cannot be said."""
    rules = pipeline.config.entities[entity.name].fields[name]
    side = _side(rules, system)
    binding = flat.binding
    if not _is_simple(side) or binding.sides[name].shares or binding.columns[name][:1] != side.columns[:1]:
        return None
    part_name, column = binding.split(side.columns[0])
    part = binding.part.get(part_name)
    if part is not None and part.aggregates:
        return None
    described = (binding.table if part_name == ROOT or part is None else part.table).column(column)
    if described is None:
        return None
    at = f"{flat.alias[part_name]}.{quoted(column)}"
    if name in entity.refs:
        return _reference(entity.refs[name], system, side, described, at) if binding.sides[name].read_parts is None else None
    return _Way(described, at, side, rules, entity.kinds[name], binding.sides[name].null).said()


def _side(rules: Field, system: str) -> Side:
    side = rules.sides[system]
    if rules.values is not None and list(rules.sides).index(system) == 1:
        return side.model_copy(update={"values": rules.values, "otherwise": rules.otherwise})
    return side


def _is_simple(side: Side) -> bool:
    not_said = (side.constant, side.template, side.join, side.list, side.python, side.prefix, side.otherwise)
    return bool(side.columns) and not side.when and all(one is None for one in not_said)


def _reference(target: str, system: str, side: Side, column: Column, at: str) -> Said:
    """The thing that the row refers to."""
    key = f"left({at}::text, 1)" if column.base == "boolean" else f"{at}::text"
    if side.blank is not None:
        key = f"NULLIF({key}, {literal(kinds.as_text(side.blank))})"
    link = f"(SELECT r.link FROM concord.key r WHERE r.entity = {literal(target)} AND r.system = {literal(system)} AND r.key = {key})"
    return Said(link, (f"({key} IS NULL OR {link} IS NOT NULL)",))


class _Way:
    """From the column to the field, a step after the other (`schemas.mapping.sides`)."""

    def __init__(self, column: Column, at: str, side: Side, rules: Field, kind: str, null: Canonical) -> None:
        self.column, self.side, self.rules, self.to, self.null = column, side, rules, kind, null
        self.text, self.kind = f"{at}::text", ""
        self.at = at
        self.fits: list[str] = []

    def said(self) -> Said | None:
        cleaning = (*self.side.clean, *self.rules.clean)
        if self.null is not None and (self.side.blank is not None or "empty_is_null" in cleaning):
            return None
        steps = (self._read, self._blank, self._timezone, self._numbers, self._values, self._bridge, self._scale)
        if not all(step() for step in steps) or not self._clean(cleaning):
            return None
        if self.null is not None:
            self.text = f"coalesce({self.text}, {literal(kinds.as_text(self.null))})"
        return Said(self.text, tuple(self.fits))

    def _normal(self, kind: str, value: Canonical | int | float) -> str:
        return kinds.as_text(kinds.normal_form(kind)(kinds.as_text(value if isinstance(value, str | bool) else str(value))))

    def _number(self, sql: str) -> None:
        self.text = f"trim_scale({sql})::text"

    def _read(self) -> bool:
        base = self.column.base
        if self.column.labels:
            self.kind = "text"
        elif base in _PLAIN:
            self.kind = _PLAIN[base] or base
        elif base in ("numeric", "real", "double precision"):
            self.kind = "number"
            self._number(self.at if base == "numeric" else f"{self.at}::text::numeric")
        elif base == "timestamp with time zone":
            self.kind, self.text = "timestamp", f"({self.at} AT TIME ZONE 'UTC')::text"
        elif base == "bytea":
            self.kind, self.text = "bytes", f"encode({self.at}, 'hex')"
        return self.kind != ""

    def _blank(self) -> bool:
        if self.side.blank is None:
            return True
        if self.kind not in _AS_TEXT | {"text"}:
            return False
        self.text = f"NULLIF({self.text}, {literal(self._normal(self.kind, self.side.blank))})"
        return True

    def _timezone(self) -> bool:
        if self.side.timezone is None:
            return True
        if self.kind != "datetime":
            return False
        self.kind = "timestamp"
        self.text = f"({self.at} AT TIME ZONE {literal(self.side.timezone)} AT TIME ZONE 'UTC')::text"
        return True

    def _numbers(self) -> bool:
        side = self.side
        if side.unit is None and side.scale is None:
            return True
        if self.kind != "number":
            return False
        if side.unit is not None:
            self._number(f"({self.text}::numeric * {kinds.exact_factor(side.unit):f})")
        if side.scale is not None:
            self._number(f"round({self.text}::numeric, {side.scale})")
        return True

    def _values(self) -> bool:
        given = self.side.values
        if given is None:
            return True
        if self.kind not in _AS_TEXT | {"text"}:
            return False
        cases: dict[str, str] = {}
        for value, codes in given.items():
            for code in codes:
                if code is None:
                    continue  # what null is read as: `null`
                if value is None:
                    return False
                cases[self._normal(self.kind, code)] = self._normal(self.to, value)
        whens = " ".join(f"WHEN {literal(code)} THEN {literal(value)}" for code, value in cases.items())
        if not whens:
            return False
        self.fits.append(f"({self.text} IS NULL OR {self.text} IN ({', '.join(map(literal, cases))}))")
        self.text, self.kind = f"CASE {self.text} {whens} END", self.to
        return True

    def _bridge(self) -> bool:
        if self.kind == self.to or (self.to == "text" and self.kind in _AS_TEXT):
            return True
        if self.kind != "text" or self.to not in _SPELLED:
            return False
        self.fits.append(f"({self.text} IS NULL OR {self.text} ~ {literal(_SPELLED[self.to])})")
        return True

    def _scale(self) -> bool:
        if self.rules.scale is not None:
            self._number(f"round({self.text}::numeric, {self.rules.scale})")
        return True

    def _clean(self, steps: tuple[str, ...]) -> bool:
        if not steps:
            return True
        if self.to != "text" or not set(steps) <= _CLEANED.keys():
            return False
        text = self.text
        ascii_only = f"octet_length(convert_to({text}, 'UTF8')) = length({text}) AND {text} !~ '[[:cntrl:]]'"
        self.fits.append(f"({text} IS NULL OR ({ascii_only}))")
        last = [step for step in steps if step == "empty_is_null"]
        for step in [*(step for step in steps if step != "empty_is_null"), *last[:1]]:
            self.text = _CLEANED[step](self.text)
        return True
