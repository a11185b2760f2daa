"""Who goes with whom, one to one, so that the sum is the greatest. Pure.

The assignment problem by shortest augmenting paths with potentials (the Hungarian method): one row after the other finds its place, and
moves others along a chain where the whole gains by it. Whoever has no partner stands in a column of its own that is worth nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf


def assigned(ones: Sequence[str], others: Sequence[str], score: Callable[[str, str], float], least: float) -> list[tuple[str, str, float]]:
    """The pairs, each worth at least `least`, in the order of `ones`."""
    worth = [[found if (found := score(a, b)) >= least else 0.0 for b in others] for a in ones]
    places = _places([[-value for value in row] + [0.0] * len(ones) for row in worth])
    pairs = [(a, place, row) for a, place, row in zip(ones, places, worth, strict=True) if place < len(others)]
    return [(a, others[place], row[place]) for a, place, row in pairs if row[place] > 0]


def _places(cost: Sequence[Sequence[float]]) -> list[int]:
    """The column of each row, so that the cost is the least. There are at least as many columns as rows."""
    rows, columns = len(cost), len(cost[0]) if cost else 0
    row_potential, column_potential = [0.0] * (rows + 1), [0.0] * (columns + 1)
    held_by = [0] * (columns + 1)  # column → row, both counted from 1; column 0 holds the row that is looking
    for row in range(1, rows + 1):
        held_by[0], at = row, 0
        slack, came_from, seen = [inf] * (columns + 1), [0] * (columns + 1), [False] * (columns + 1)
        while held_by[at]:
            seen[at] = True
            holder, step, nearest = held_by[at], inf, 0
            for column in range(1, columns + 1):
                if seen[column]:
                    continue
                found = cost[holder - 1][column - 1] - row_potential[holder] - column_potential[column]
                if found < slack[column]:
                    slack[column], came_from[column] = found, at
                if slack[column] < step:
                    step, nearest = slack[column], column
            for column in range(columns + 1):
                if seen[column]:
                    row_potential[held_by[column]] += step
                    column_potential[column] -= step
                else:
                    slack[column] -= step
            at = nearest
        while at:  # everybody on the way moves on by one
            held_by[at] = held_by[came_from[at]]
            at = came_from[at]
    places = [0] * rows
    for column in range(1, columns + 1):
        if held_by[column]:
            places[held_by[column] - 1] = column - 1
    return places
