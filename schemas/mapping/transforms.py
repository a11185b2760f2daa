"""What a value goes through between a column's normal form and the field's: named steps, each with its inverse.

    Step.read   column side → field side          Step.write   field side → column side

A step may answer None: null. It raises ValueError on a value that it cannot take, worded to follow the value: "'X' is no code of …".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import cast

from schemas.change import Canonical
from schemas.mapping import numbers

Function = Callable[[Canonical], Canonical]


@dataclass(frozen=True, slots=True)
class Step:
    """One transform. `write` None: it has no inverse. `exact`: what is written reads back as it was, for every value. `injective`: no two
    column values are read as one, and none as null is."""

    name: str
    read: Function | None
    write: Function | None
    exact: bool = True
    injective: bool = False


def _squeeze(text: str) -> str:
    return " ".join(text.split())


_CLEANERS: dict[str, Callable[[str], str]] = {
    "strip": str.strip,
    "squeeze": _squeeze,  # runs of white space become one space
    "upper": str.upper,
    "lower": str.lower,
    "casefold": str.casefold,
    "digits": lambda text: "".join(re.findall(r"[0-9]+", unicodedata.normalize("NFKC", text))),
    "alnum": lambda text: "".join(filter(str.isalnum, text)),
    "nfc": lambda text: unicodedata.normalize("NFC", text),
    "nfkc": lambda text: unicodedata.normalize("NFKC", text),
    "empty_is_null": lambda text: text,
}


def cleaned(names: Sequence[str]) -> Step:
    """Normalisations, applied on reading until nothing changes any more: so cleaning what is clean does nothing."""
    functions = [_CLEANERS[name] for name in names if name != "empty_is_null"]
    empty_is_null = "empty_is_null" in names

    def once(text: str) -> str:
        for function in functions:
            text = function(text)
        return text

    def read(value: Canonical) -> Canonical:
        text = once(cast(str, value))
        if not text.isascii() or len(functions) > 1:
            for _ in range(8):  # upper case and composition may each give the other something to do, once or twice
                again = once(text)
                if again == text:
                    break
                text = again
        return None if empty_is_null and not text else text

    return Step("clean", read, None, exact=False)


def coded(
    table: Mapping[Canonical, Sequence[Canonical]], otherwise_read: Canonical, otherwise_write: Canonical, has_otherwise: bool
) -> Step:
    """Codes: `table` is field value → column values, all of which are read as it and the first of which is written.

    Without `otherwise` a code that is not listed is refused. With it, column values that are not listed, or listed for several field
    values, are read as `otherwise_read`, and field values that are not listed are written as `otherwise_write`.
    """
    writes = {field: columns[0] for field, columns in table.items()}
    reads: dict[Canonical, Canonical] = {}
    for field, columns in table.items():
        for column in columns:
            reads[column] = otherwise_read if column in reads else field

    def read(value: Canonical) -> Canonical:
        try:
            return reads[value]
        except KeyError:
            if has_otherwise:
                return otherwise_read
            raise ValueError(f"is no code of the mapping, which has {_listed(reads)}") from None

    def write(value: Canonical) -> Canonical:
        try:
            return writes[value]
        except KeyError:
            if has_otherwise:
                return otherwise_write
            raise ValueError(f"is no value of the mapping, which has {_listed(writes)}") from None

    injective = not has_otherwise and None not in reads and all(len(set(columns)) == 1 for columns in table.values())
    return Step("values", read, write, exact=False, injective=injective)


def _listed(codes: Mapping[Canonical, Canonical]) -> str:
    names = [repr(code) for code in codes]
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")


def ambiguous(table: Mapping[Canonical, Sequence[Canonical]]) -> list[tuple[Canonical, Canonical, Canonical]]:
    """(column value, field value, field value) for each code that two field values share."""
    first: dict[Canonical, Canonical] = {}
    found = []
    for field, columns in table.items():
        for column in columns:
            if first.setdefault(column, field) != field:
                found.append((column, first[column], field))
    return found


def prefixed(prefix: str) -> Step:
    def read(value: Canonical) -> Canonical:
        text = cast(str, value)
        if not text.startswith(prefix):
            raise ValueError(f"does not begin with {prefix!r}")
        return text[len(prefix) :]

    return Step("prefix", read, lambda value: prefix + cast(str, value))


def in_unit(factor: Decimal) -> Step:
    """Field = column × factor. The factor's reciprocal must be finite (`kinds.exact_factor`)."""
    back = Decimal(1) / factor
    assert back * factor == 1
    return Step(
        "unit", lambda value: numbers.multiplied(cast(str, value), factor), lambda value: numbers.multiplied(cast(str, value), back)
    )


def scaled(digits: int) -> Step:
    def round_it(value: Canonical) -> Canonical:
        return numbers.rounded(cast(str, value), digits)

    return Step("scale", round_it, round_it, exact=False)


def blanked(blank: Canonical) -> Step:
    """The column value `blank` is null. Writing null is the side's affair: nulls do not go through steps."""
    return Step("blank", lambda value: None if value == blank else value, None, exact=False)


# ── several columns, one text ─────────────────────────────────────────────────────────────────────────────────────────────────────


def joined(parts: Sequence[str | None], separator: str) -> str | None:
    """The parts that hold something, with the separator between. None when none does."""
    texts = [stripped for part in parts if part is not None and (stripped := part.strip())]
    return separator.join(texts) if texts else None


def cut(text: str, separator: str, count: int, last: bool) -> list[str | None]:
    """Inverse of `joined`: `text` in `count` parts, cut at the last separators or the first. Too few leave those before (or behind) empty.

    What cannot come back the same (two separators in a row) is cut so that it does not change any more after that.
    """
    for _ in range(8):
        found = text.strip().rsplit(separator, count - 1) if last else text.strip().split(separator, count - 1)
        parts: list[str | None] = [part.strip() for part in found]
        missing: list[str | None] = [None] * (count - len(parts))
        parts = missing + parts if last else parts + missing
        parts = [part or None for part in parts]
        again = joined(parts, separator) or ""
        if again == text:
            break
        text = again
    return parts
