"""Rows that nobody else claims, of two systems: which of them may be one thing, how sure, and why. Pure.

values ─▶ forms (text) ─▶ pairs worth comparing (blocking) ─▶ evidence, score ─▶ groups of rows that hang together,
                                                                               one partner proposed for each row
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from console.match.blocking import Longs, candidates
from console.match.evidence import DIFFERENT, EQUAL, MISSING, Compared, Weights, compared, score, weights
from console.match.text import shape_of

AT_ONCE = 200_000  # pairs
A_ROW = 4  # candidates of it, the best
NEAR = 16.0  # bits: one that says so much less than a better one of a row of its is none
DOUBTFUL = 50  # the most that is said of one whose row has a better one
SEED = 1  # the same question has the same answer
SAMPLE = 2_000  # values that tell what a field holds
SAID = 0.5  # bits that a reason must be worth


@dataclass(frozen=True, slots=True)
class Candidate:
    """Two rows, by number, that may be one thing."""

    one: int
    other: int
    bits: float
    score: int
    reasons: tuple[tuple[str, int, int], ...]  # (field, level, likeness in per cent), the weightiest first
    group: int = 0
    proposed: bool = False  # no row of either system is a better partner

    @property
    def reason(self) -> str:
        said = {EQUAL: "equal", DIFFERENT: "differs"}
        return ", ".join(f"{name} {said.get(level) or f'{alike} % alike'}" for name, level, alike in self.reasons)


Table = Mapping[str, Sequence[str | None]]  # field → values of the rows
KnownPairs = Mapping[str, Sequence[tuple[str, str]]]  # field → values of pairs of one match value; without those they were found by


def alike(kinds: Mapping[str, str], one: Table, other: Table, known: KnownPairs, least: int) -> list[Candidate]:
    """The candidates with a score of at least `least`, group by group, the surest first. `kinds`: of the fields to compare."""
    rows, others = (len(next(iter(table.values()), ())) for table in (one, other))
    if not rows or not others:
        return []
    fields = []
    for name, kind in kinds.items():
        sample = [value for table in (one, other) for value in _sample(table[name])]
        fields.append(compared(name, shape_of(kind, sample), one[name], other[name]))
    chance = np.random.default_rng(SEED)
    worth = [weights(field, known.get(field.name), chance) for field in fields]
    pairs = candidates(fields, rows, others)
    found: list[Candidate] = []
    for start in range(0, len(pairs[0]), AT_ONCE):
        ones, matching = (numbers[start : start + AT_ONCE] for numbers in pairs)
        found += _judged(fields, worth, ones, matching, rows, others, least)
    return _grouped(_with_proposals(found))


def _sample(values: Sequence[str | None]) -> Iterator[str]:
    """Some of the values that are there, from everywhere."""
    there = [value for value in values[:: max(1, len(values) // (2 * SAMPLE))] if value is not None]
    yield from there[:SAMPLE]


def _judged(
    fields: Sequence[Compared], worth: Sequence[Weights], ones: Longs, matching: Longs, rows: int, others: int, least: int
) -> Iterator[Candidate]:
    levels, likeness, evidence = [], [], []
    for field, weight in zip(fields, worth, strict=True):
        level, likely = field.levels(ones, matching)
        levels.append(level)
        likeness.append(likely)
        evidence.append(weight.of(field, ones, level))
    bits = np.sum(evidence, axis=0)
    scores = score(bits, rows, others)
    for at in np.flatnonzero(scores >= least).tolist():
        of = {number: float(evidence[number][at]) for number in range(len(fields)) if levels[number][at] != MISSING}
        reasons = tuple(
            (fields[number].name, int(levels[number][at]), int(100 * likeness[number][at]))
            for number in sorted(of, key=lambda number: -abs(of[number]))
            if abs(of[number]) >= SAID
        )
        yield Candidate(int(ones[at]), int(matching[at]), float(bits[at]), min(99, int(scores[at])), reasons)


def _with_proposals(found: list[Candidate]) -> list[Candidate]:
    """Proposes the best partner for each row, and leaves out what is a second choice for both, or far from the best for one."""
    kept: list[Candidate] = []
    best: tuple[dict[int, float], dict[int, float]] = ({}, {})
    count: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for candidate in sorted(found, key=lambda candidate: (-candidate.bits, candidate.one, candidate.other)):
        rows = candidate.one, candidate.other
        first = [row not in of for row, of in zip(rows, best, strict=True)]
        near = all(candidate.bits > of.get(row, candidate.bits) - NEAR for row, of in zip(rows, best, strict=True))
        few = all(of.get(row, 0) < A_ROW for row, of in zip(rows, count, strict=True))
        if not (any(first) and near and few):
            continue
        for row, of, counted in zip(rows, best, count, strict=True):
            of.setdefault(row, candidate.bits)
            counted[row] = counted.get(row, 0) + 1
        proposed = all(first)
        kept.append(replace(candidate, proposed=proposed, score=candidate.score if proposed else min(candidate.score, DOUBTFUL)))
    return kept


def _grouped(found: Iterable[Candidate]) -> list[Candidate]:
    """Candidates whose rows hang together are one group: numbered from 1, the one with the best candidate first."""
    groups: list[list[Candidate]] = []
    of_row: dict[tuple[str, int], list[Candidate]] = {}
    for candidate in found:
        mine = [candidate]
        for row in (("one", candidate.one), ("other", candidate.other)):
            there = of_row.get(row)
            if there is not None and there is not mine:
                there += mine
                for one in mine:
                    of_row["one", one.one] = of_row["other", one.other] = there
                mine = there
            of_row[row] = mine
        if len(mine) == 1:
            groups.append(mine)
    living = [group for group in groups if of_row["one", group[0].one] is group]
    return [replace(candidate, group=number) for number, group in enumerate(living, 1) for candidate in group]
