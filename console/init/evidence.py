"""How alike two columns are, and why: by name, by type, by the values that are on both sides, by rows that meet. Pure.

name and type    0.8 and 0.2 of the ground
the same values  raise it, as far as they say anything: that two columns hold `true` says nothing
rows that meet   raise it most: the same tax id, and the same city
only here        both sides have many values, and none of them is on the other: lowers it
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from console.init import names
from console.init.facts import Row, TableFacts, normal

ENOUGH_ROWS = 8  # that meet, before their agreeing says anything
TELLING = 12  # different values: below that, having them in common says little

_KIND_LIKENESS = {
    frozenset({"datetime", "timestamp"}): 0.9,
    frozenset({"date", "timestamp"}): 0.2,
    frozenset({"date", "datetime"}): 0.2,
    frozenset({"text", "number"}): 0.3,
    frozenset({"text", "uuid"}): 0.3,
    frozenset({"text", "boolean"}): 0.1,
    frozenset({"number", "boolean"}): 0.2,
    frozenset({"text", "json"}): 0.2,
}


@dataclass(frozen=True, order=True)
class Evidence:
    """How sure, and what says so."""

    score: float
    why: str
    agreed: float | None = None  # of the rows that meet, beyond what chance would do; None: too few, or it says nothing


def columns_alike(
    one: TableFacts, a: str, other: TableFacts, b: str, context: Iterable[str] = (), pairs: Sequence[tuple[Row, Row]] = ()
) -> Evidence:
    """Two columns of two tables. `pairs`: rows of both that are probably one thing."""
    kinds = one.kind(a), other.kind(b)
    if None in kinds:
        return Evidence(0.0, "a type that cannot be kept in agreement")
    by_type = 1.0 if kinds[0] == kinds[1] else _KIND_LIKENESS.get(frozenset(kinds) - {None}, 0.0)  # type: ignore[arg-type]
    codes = one.codes(a), other.codes(b)
    coded = bool(codes[0]) and bool(codes[1])
    if coded:
        by_type = max(by_type, 0.8)
    if by_type == 0:
        return Evidence(0.0, f"a {kinds[0]} and a {kinds[1]}")
    by_name = names.likeness(a, b, context)
    ground = (0.8 * by_name + 0.2) * (0.5 + 0.5 * by_type)
    why = [_name_told(a, b, by_name)]
    if not coded and bool(codes[0]) != bool(codes[1]) and _telling(one, a, other, b):
        ground *= 0.7  # codes here, free values there
    in_common = _in_common(one, a, other, b)
    agreed = agreement(pairs, a, b)
    if agreed is not None and agreed > 0.05:
        ground += (1 - ground) * 0.9 * agreed
        why.append(f"equal in {agreed:.0%} of the rows that meet")
    elif in_common is not None and in_common > 0.05:
        ground += (1 - ground) * 0.6 * in_common
        why.append(f"{in_common:.0%} of the values are on both sides")
    elif in_common is not None:
        ground *= 0.9 * (0.6 + 0.4 * _same_shape(one, a, other, b))
    return Evidence(round(min(ground, 1.0), 3), ", ".join(why), agreed)


def _name_told(a: str, b: str, by_name: float) -> str:
    if a == b:
        return "the same name"
    if by_name >= 0.85:
        return "names mean the same"
    if by_name >= 0.5:
        return "names are alike"
    return "names are not alike" if by_name < 0.2 else "names are somewhat alike"


def _telling(one: TableFacts, a: str, other: TableFacts, b: str) -> bool:
    return one.filled(a) >= ENOUGH_ROWS and other.filled(b) >= ENOUGH_ROWS


def _in_common(one: TableFacts, a: str, other: TableFacts, b: str) -> float | None:
    """The share of the smaller side's values that the other has too. None: too few to say anything."""
    mine = {_comparable(text) for text in one.counts[a]}
    theirs = {_comparable(text) for text in other.counts[b]}
    smaller = min(len(mine), len(theirs))
    if smaller < TELLING or _small_numbers(mine) or _small_numbers(theirs):
        return None
    return len(mine & theirs) / smaller


def _small_numbers(values: set[str]) -> bool:
    """Counters, keys, quantities: that 1, 2 and 3 are on both sides says nothing."""
    return all(len(value) <= 4 and value.lstrip("-").replace(".", "").isdigit() for value in values)


def _comparable(text: str) -> str:
    number = as_number(text)
    return normal(text) if number is None else f"{number.normalize():f}"


def as_number(text: str) -> Decimal | None:
    if not re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", text):  # 007 is a code
        return None
    try:
        return Decimal(text)
    except InvalidOperation:
        return None


def agreement(pairs: Sequence[tuple[Row, Row]], a: str, b: str) -> float | None:
    """How much more often two columns agree in rows that meet than they would by chance: 0 … 1. None: that cannot be said."""
    met = [
        (_comparable(mine), _comparable(theirs))
        for one, other in pairs
        if (mine := one.get(a)) is not None and (theirs := other.get(b)) is not None
    ]
    if len(met) < ENOUGH_ROWS:
        return None
    here, there = Counter(one for one, _ in met), Counter(other for _, other in met)
    chance = sum(count * there[value] for value, count in here.items()) / len(met) ** 2
    if chance > 0.9:
        return None
    return max(0.0, (sum(one == other for one, other in met) / len(met) - chance) / (1 - chance))


_FEATURES = (r"@", r"[0-9]", r"[^\W\d_]", r"\s", r"[/:.]", r"[A-Z]")


def _same_shape(one: TableFacts, a: str, other: TableFacts, b: str) -> float:
    """Whether values look the same: e-mail addresses, telephone numbers, long texts. 0 … 1."""
    mine, theirs = _shape(one.counts[a]), _shape(other.counts[b])
    apart = sum(abs(x - y) for x, y in zip(mine, theirs, strict=True)) / len(mine)
    return max(0.0, 1.0 - 2.5 * apart)


def _shape(values: Counter[str]) -> list[float]:
    texts = list(values)[:100]
    length = sum(map(len, texts)) / len(texts) if texts else 0.0
    shares = [sum(len(re.findall(feature, text)) / (len(text) or 1) for text in texts) / (len(texts) or 1) for feature in _FEATURES]
    return [*shares, min(length / 60, 1.0)]
