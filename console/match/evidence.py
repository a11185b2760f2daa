"""How much it says that two rows agree in a field, or do not: in bits, measured in the data (Fellegi and Sunter's weights). Pure.

    bits = log2( how often the pairs of one match value are as alike as this  /  how often two rows taken at random are )

That two rows have one e-mail says much, that both are in one country little, that they differ in a field that the two systems keep in
different ways nothing. An equal value says the more the rarer it is: `Müller` is no `Xanderbrück`. Where there are no pairs of one match
value to learn from, what is usual stands in.

The sum over all fields, less what it takes to find the one right row among so many, is the evidence for a pair; its *score* is what that
comes to as a chance in per cent. The fields are not independent (who has one's street has one's town), so bits are taken at less than
their worth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.fuzz import ratio
from rapidfuzz.process import cpdist

from console.match.text import Shape, normal

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

# How alike: equal, nearly, rather, somewhat, not. The last bound is that of `not`.
BOUNDS = (0.999, 0.92, 0.84, 0.72)
EQUAL, DIFFERENT, MISSING = 0, len(BOUNDS), -1
USUAL_IN_PAIRS = np.array([0.60, 0.15, 0.08, 0.07, 0.10])
USUAL_AT_RANDOM = np.array([0.001, 0.0002, 0.001, 0.01, 0.9878])
WEIGHT_IN_PAIRS, WEIGHT_AT_RANDOM = 20, 500  # of what is usual, in pairs looked at
RARE = 10_000  # one in so many: a value that nobody else has, also where there are few rows
FEW = 100  # rows: that there are no more today makes nobody easier to tell
NEARLY = 0.9  # of what a value would say if it were equal, at most, when it is not
WORTH = 0.4  # of a bit, for what the fields say twice


@dataclass
class Compared:
    """One field of the rows of two systems, as numbers of the forms that its values have."""

    name: str
    shape: Shape
    forms: list[str]
    one: Ints  # per row the number of its form; MISSING
    other: Ints
    often: Floats  # per form: how often, in the system that has it oftenest
    sorted: list[str]  # the forms with their words in order

    def levels(self, ones: NDArray[Any], others: NDArray[Any]) -> tuple[Ints, Floats]:
        """Of pairs of row numbers: how alike (the level), and by how much."""
        a, b = self.one[ones], self.other[others]
        return _levels(self.shape, self.forms, self.sorted, a, b)


def compared(name: str, shape: Shape, one: Sequence[str | None], other: Sequence[str | None]) -> Compared:
    """`one`, `other`: the values of the two systems' rows."""
    numbers: dict[str, int] = {}
    cache: dict[str, int] = {}

    def number(value: str | None) -> int:
        if value is None:
            return MISSING
        known = cache.get(value)
        if known is None:
            form = normal(shape, value)
            known = cache[value] = MISSING if form is None else numbers.setdefault(form, len(numbers))
        return known

    ones = np.fromiter(map(number, one), np.int32, len(one))
    others = np.fromiter(map(number, other), np.int32, len(other))
    forms = list(numbers)
    often = np.maximum(_often(ones, len(forms)), _often(others, len(forms)))
    return Compared(name, shape, forms, ones, others, often, _in_order(shape, forms))


def _often(numbers: Ints, forms: int) -> Floats:
    """The share of the rows that have each form. One that a single row has counts as one in RARE at most."""
    there = numbers[numbers >= 0]
    counted = np.bincount(there, minlength=forms).astype(np.float32)
    share = counted / max(len(there), 1)
    return np.where(counted > 1, share, np.minimum(share, 1 / RARE)).astype(np.float32)


def _in_order(shape: Shape, forms: list[str]) -> list[str]:
    return [" ".join(sorted(form.split())) for form in forms] if shape is Shape.WORDS else forms


def _levels(shape: Shape, forms: list[str], in_order: list[str], a: Ints, b: Ints) -> tuple[Ints, Floats]:
    alike = (a == b).astype(np.float32)
    unequal = np.flatnonzero((a != b) & (a >= 0) & (b >= 0))
    if shape is not Shape.WHOLE and len(unequal):
        pairs, inverse = np.unique(a[unequal].astype(np.int64) << 32 | b[unequal], return_inverse=True)
        left, right = (pairs >> 32).tolist(), (pairs & 0xFFFFFFFF).tolist()
        found = _alike(forms, left, right)
        if shape is Shape.WORDS:
            found = np.maximum(found, _alike(in_order, left, right))
        alike[unequal] = found[inverse]
    level = np.searchsorted(-np.array(BOUNDS, dtype=np.float32), -alike, side="left").astype(np.int32)
    level[(a < 0) | (b < 0)] = MISSING
    return level, alike


def _alike(forms: list[str], left: list[int], right: list[int]) -> Floats:
    found: Floats = cpdist([forms[at] for at in left], [forms[at] for at in right], scorer=ratio, score_cutoff=50, dtype=np.float32)
    return found / np.float32(100)


@dataclass
class Weights:
    """What a field's agreement is worth."""

    bits: Floats  # per level; of equal values, of one that is as frequent as they are on the average
    in_pairs: float  # how often the values of a pair are equal

    def of(self, field: Compared, ones: NDArray[Any], level: Ints) -> Floats:
        """The evidence of each pair; 0 where one has no value."""
        bits: Floats = np.where(level == MISSING, np.float32(0), self.bits[level])
        if self.bits[EQUAL] <= 0:
            return bits
        there = level != MISSING
        rare = np.maximum(np.log2(self.in_pairs / field.often[field.one[ones[there]]]), 0)
        bits[there] = np.where(level[there] == EQUAL, rare, np.minimum(bits[there], NEARLY * rare))
        return bits


def weights(field: Compared, known: Iterable[tuple[str, str]] | None, chance: np.random.Generator, looks: int = 50_000) -> Weights:
    """`known`: the values of pairs of one match value; None where the field is one that they were found by."""
    in_pairs = USUAL_IN_PAIRS * WEIGHT_IN_PAIRS
    if known is not None:
        values = list(known)
        sample = compared(field.name, field.shape, [one for one, _ in values], [other for _, other in values])
        every = np.arange(len(values))
        in_pairs = in_pairs + _counted(sample.levels(every, every)[0])
    in_pairs = in_pairs / in_pairs.sum()
    at_random = USUAL_AT_RANDOM * WEIGHT_AT_RANDOM
    if len(field.one) and len(field.other):
        ones, others = (chance.integers(0, len(rows), looks) for rows in (field.one, field.other))
        at_random = at_random + _counted(field.levels(ones, others)[0])
    at_random = at_random / at_random.sum()
    if field.shape is Shape.WHOLE:  # equal or not
        in_pairs, at_random = (np.array([each[EQUAL]] + [1 - each[EQUAL]] * DIFFERENT) for each in (in_pairs, at_random))
    bits = np.log2(in_pairs / at_random).astype(np.float32)
    return Weights(np.maximum.accumulate(bits[::-1])[::-1], float(in_pairs[EQUAL]))  # to be more alike never says less


def _counted(levels: Ints) -> NDArray[Any]:
    return np.bincount(levels[levels >= 0], minlength=DIFFERENT + 1)


def score(bits: Floats, rows: int, others: int) -> Floats:
    """The chance in per cent that rows with so much evidence are one thing, out of so many rows on either side."""
    needed = np.log2(max(rows, others, FEW))
    chance: Floats = 100 / (1 + np.exp2(-np.clip((bits - needed) * WORTH, -30, 30)))
    return chance
