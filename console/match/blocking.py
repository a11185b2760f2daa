"""Which rows are worth comparing: those that share something rare. Pure. 100,000 × 100,000 pairs become some ten for each row.

    rows ─▶ keys (words, words less a letter, mailboxes, numbers …) ─┬─ rare ──────────▶ every pair that has the key
                                                                     └─ frequent, two at a time ─▶ rare again (`muller` + `kiel`)

Keys are taken from the rarest up, for as long as the pairs do not get too many, so that memory and time are bounded by the number of rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from console.match.evidence import Compared, Ints
from console.match.text import keys_of

Longs = NDArray[np.int64]

PAIRS_A_ROW = 24  # that share a rare key of one field, at most
KEPT_A_ROW = 12  # that are compared in all fields
TOGETHER = 4  # of a row's frequent keys in a field, that are taken two at a time
FREQUENT = 5_000  # rows that have a key: more, and it says nothing even together with another


class Keyed(NamedTuple):
    """Rows and their keys: row number and number of the key, one after the other."""

    rows: Ints
    keys: NDArray[Any]


class Pairs(NamedTuple):
    """Pairs of row numbers, as one × the number of others + other, each once; and what they share: more, and rarer, is higher."""

    codes: Longs
    shared: NDArray[Any]


def candidates(fields: Iterable[Compared], ones: int, others: int) -> tuple[Longs, Longs]:
    """Row numbers of the pairs that are worth comparing."""
    budget = PAIRS_A_ROW * max(min(ones, others), 1)
    found: list[Pairs] = []
    frequent: tuple[list[Keyed], list[Keyed]] = ([], [])
    before = 0
    for field in fields:
        one, other, whole = _keyed(field)
        meeting = _Meeting(one, other, len(whole), budget)
        found.append(_best([meeting.pairs(others)], others))
        for side, keyed in zip(frequent, (one, other), strict=True):
            rows, keys = meeting.frequent(keyed, whole)
            side.append(Keyed(rows, keys + before))
        before += len(whole)
    combined = [_together(side) for side in frequent]
    numbers = np.unique(np.concatenate([keyed.keys for keyed in combined]), return_inverse=True)[1].astype(np.int32)
    one, other = Keyed(combined[0].rows, numbers[: len(combined[0].rows)]), Keyed(combined[1].rows, numbers[len(combined[0].rows) :])
    found.append(_best([_Meeting(one, other, int(numbers.max(initial=-1)) + 1, budget).pairs(others)], others))
    best = _best(found, others)
    return best.codes // others, best.codes % others


def _keyed(field: Compared) -> tuple[Keyed, Keyed, NDArray[np.bool_]]:
    """The keys of both systems' rows in a field; of each key whether it is a whole word, not one less a letter."""
    hashes, whole, starts = array("q"), bytearray(), array("q", [0])
    for form in field.forms:
        for key, is_whole in keys_of(field.shape, form):
            hashes.append(key)
            whole.append(is_whole)
        starts.append(len(hashes))
    _, first, numbers = np.unique(np.frombuffer(hashes, np.int64), return_index=True, return_inverse=True)
    numbers, at = numbers.astype(np.int32), np.frombuffer(starts, np.int64)

    def of(forms: Ints) -> Keyed:
        rows = np.flatnonzero(forms >= 0).astype(np.int32)
        begin, count = at[forms[rows]], at[forms[rows] + 1] - at[forms[rows]]
        return Keyed(np.repeat(rows, count), numbers[np.repeat(begin, count) + _within(count)])

    return of(field.one), of(field.other), np.frombuffer(whole, np.bool_)[first]


def _within(counts: NDArray[Any]) -> Longs:
    """0, 1, …, count - 1 of each count."""
    ends = np.cumsum(counts)
    within: Longs = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
    return within


class _Meeting:
    """Where the keys of two systems' rows meet."""

    def __init__(self, one: Keyed, other: Keyed, keys: int, budget: int) -> None:
        self.one, self.other = one, other
        self.of_one, self.of_other = (np.bincount(keyed.keys, minlength=keys) for keyed in (one, other))
        meet = self.of_one * self.of_other
        there = np.flatnonzero(meet)
        by_rarity = there[np.argsort(meet[there], kind="stable")]
        self.rare = np.zeros(keys, bool)
        self.rare[by_rarity[np.cumsum(meet[by_rarity]) <= budget]] = True
        self.known = (meet > 0) & ~self.rare & (np.maximum(self.of_one, self.of_other) <= FREQUENT)

    def pairs(self, others: int) -> Pairs:
        """Those that share a rare key."""
        ones, matching = (self._by_key(keyed) for keyed in (self.one, self.other))
        count_one, count_other = self.of_one[self.rare], self.of_other[self.rare]
        sizes = count_one * count_other
        within, width = _within(sizes), np.repeat(count_other, sizes)
        begin_one, begin_other = (np.repeat(np.cumsum(count) - count, sizes) for count in (count_one, count_other))
        codes = ones[begin_one + within // width].astype(np.int64) * others + matching[begin_other + within % width]
        codes, at = np.unique(codes, return_inverse=True)
        return Pairs(codes, np.bincount(at, weights=np.repeat(1 / (1 + sizes), sizes), minlength=len(codes)))

    def _by_key(self, keyed: Keyed) -> Ints:
        """The rows that have a rare key, in the order of the keys."""
        rare = self.rare[keyed.keys]
        rows: Ints = keyed.rows[rare][np.argsort(keyed.keys[rare], kind="stable")]
        return rows

    def frequent(self, keyed: Keyed, whole: NDArray[np.bool_]) -> Keyed:
        """The frequent whole words that a row has, the TOGETHER rarest."""
        kept = (self.known & whole)[keyed.keys]
        rows, keys = keyed.rows[kept], keyed.keys[kept]
        order = np.lexsort((keys, np.maximum(self.of_one, self.of_other)[keys], rows))
        rows, keys = rows[order], keys[order].astype(np.int64)
        first = _place(rows) < TOGETHER
        return Keyed(rows[first], keys[first])


def _place(rows: NDArray[Any]) -> Longs:
    """Of each entry its place among those of its row; `rows` in order."""
    return _within(np.diff(np.r_[np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]]), len(rows)]) if len(rows) else np.zeros(0, np.int64))


def _together(frequent: list[Keyed]) -> Keyed:
    """Each row's frequent keys of all fields, two at a time."""
    rows, keys = np.concatenate([keyed.rows for keyed in frequent]), np.concatenate([keyed.keys for keyed in frequent])
    order = np.lexsort((keys, rows))
    rows, keys = rows[order], keys[order]
    found = [Keyed(rows[:0], keys[:0])]
    for step in range(1, len(frequent) * TOGETHER):  # an entry and the one so many after it, if that is the same row's
        same = rows[step:] == rows[:-step]
        found.append(Keyed(rows[step:][same], keys[:-step][same] << 32 | keys[step:][same]))
    return Keyed(np.concatenate([keyed.rows for keyed in found]), np.concatenate([keyed.keys for keyed in found]))


def _best(found: list[Pairs], others: int) -> Pairs:
    """Of each row the KEPT_A_ROW that share the most and the rarest."""
    codes, at = np.unique(np.concatenate([pairs.codes for pairs in found]), return_inverse=True)
    shared = np.bincount(at, weights=np.concatenate([pairs.shared for pairs in found]), minlength=len(codes))
    kept = np.zeros(len(codes), bool)
    for rows in (codes // others, codes % others):
        order = np.lexsort((codes, -shared, rows))
        kept[order[_place(rows[order]) < KEPT_A_ROW]] = True
    return Pairs(codes[kept], shared[kept])
