"""What is known of two databases before anybody has said anything: their catalogs, some rows of each table, and rows that hold a value of
the other side. Value types only: `survey` reads them, `propose` judges them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from schemas.catalog import Column, Table
from schemas.mapping.kinds import codec_for

Row = Mapping[str, str | None]  # column → the beginning of its text

MOST_CODES = 30  # a column with more different values is no list of codes


@dataclass(frozen=True, eq=False)
class TableFacts:
    """A table, some of its rows, and what its constraints say."""

    table: Table
    rows: int  # about
    sample: tuple[Row, ...] = ()
    exact: Mapping[str, Counter[str]] = field(default_factory=dict)  # column of codes → its values in all rows, how often each
    allowed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # column → the only texts that a CHECK or its enum lets in
    numbered: Mapping[str, str] = field(default_factory=dict)  # column → the sequence that it is numbered from
    unique: frozenset[str] = frozenset()  # columns that are unique alone, also through an expression: lower(email)
    references: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # column → (table, its column) that it alone refers to

    def __str__(self) -> str:
        return str(self.table)

    def column(self, name: str) -> Column:
        found = self.table.column(name)
        assert found is not None, f"{self.table} has no column {name!r}"
        return found

    def kind(self, name: str) -> str | None:
        codec = codec_for(self.column(name))
        return None if codec is None else codec.kind

    @cached_property
    def counts(self) -> Mapping[str, Counter[str]]:
        """Column → its values, how often each: in all rows for codes, else in the sample."""
        found: dict[str, Counter[str]] = {column.name: Counter() for column in self.table.columns}
        for row in self.sample:
            for column, text in row.items():
                if text is not None:
                    found[column][text] += 1
        return {**found, **self.exact}

    def filled(self, name: str) -> int:
        """Rows of the sample that have a value."""
        return self.counts[name].total()

    def codes(self, name: str) -> tuple[str, ...]:
        """The values of a column that holds codes, most frequent first; () if it holds something else, or nothing is known."""
        counts = self.counts[name]
        if self.allowed.get(name):
            return tuple(sorted(self.allowed[name], key=lambda code: -counts[code]))
        few = 0 < len(counts) <= MOST_CODES and len(counts) * 4 <= counts.total() and all(len(code) <= 40 for code in counts)
        of_codes = self.kind(name) == "text" or (self.kind(name) == "number" and len(counts) <= 12)
        return tuple(code for code, _ in counts.most_common()) if few and of_codes else ()

    def most_frequent(self, name: str) -> tuple[str, int] | None:
        common = self.counts[name].most_common(1)
        return common[0] if common else None


@dataclass(frozen=True, eq=False)
class SystemFacts:
    """One system's tables."""

    name: str
    tables: Mapping[str, TableFacts]  # by `schema.table`; those that could be kept in agreement
    sequences: tuple[str, ...] = ()  # that no column is numbered from: the application's code does it
    left_out: Mapping[str, str] = field(default_factory=dict)  # table → why


@dataclass(frozen=True)
class Question:
    """Which rows of the one table hold a value of the other?"""

    tables: tuple[str, str]
    columns: tuple[str, str]


@dataclass(frozen=True)
class Meeting:
    """Rows of both sides that hold the same value, whatever its case and the blanks around it."""

    question: Question
    asked: int  # different values of the first side that were looked for
    pairs: tuple[tuple[Row, Row], ...]  # one for each value that was found

    @property
    def share(self) -> float:
        return len(self.pairs) / self.asked if self.asked else 0.0


def normal(text: str) -> str:
    """What two people would call the same value."""
    return " ".join(text.split()).casefold()
