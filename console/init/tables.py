"""Which tables are the same thing: by name, by their columns, by the tables that they refer to, by rows that meet. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from console.init import names
from console.init.assign import assigned
from console.init.evidence import Evidence, columns_alike
from console.init.facts import Meeting, Question, Row, SystemFacts, TableFacts

NEAREST = 6  # tables of the other side that are looked at column by column, for each
SAME_THING = 0.5  # from here on two tables are proposed as one entity
SAME_FIELD = 0.5  # from here on two columns are proposed as one field
PERHAPS = 0.38  # … and from here on thought of
QUESTIONS = 3  # pairs of columns by which rows of two tables may meet

Role = Literal["key", "created", "updated", "by", "reference", "plain", "unusable"]
_WHO = {"by", "uid", "user", "id", "login", "owner"}
_WHEN = {"date", "at", "time", "on", "day", "stamp", "timestamp", "last", "dat", "tim"}


def role(facts: TableFacts, name: str) -> Role:
    """What a column is there for."""
    column, kind = facts.column(name), facts.kind(name)
    if kind is None or column.generated:
        return "unusable"
    if facts.table.primary_key == (name,) and (kind == "uuid" or column.base in ("smallint", "integer", "bigint")):
        return "key"
    rest = [word for word in names.words(name) if word not in _WHEN]
    for of in ("create", "update"):
        if rest and names.is_stamp(name, of) and all(names.is_stamp(word, of) or word in _WHO for word in rest):
            return ("created" if of == "create" else "updated") if kind in ("timestamp", "datetime", "date") else "by"
    return "reference" if name in facts.references else "plain"


def of_role(facts: TableFacts, *roles: Role) -> list[str]:
    return [column.name for column in facts.table.columns if role(facts, column.name) in roles]


def context(*tables: TableFacts) -> tuple[str, ...]:
    """Stems that columns of these tables need not say again."""
    return tuple(dict.fromkeys(word for facts in tables for word in names.words(facts.table.name)))


@dataclass
class TablePair:
    """Two tables, how alike they are, and their columns."""

    one: TableFacts
    other: TableFacts
    meetings: Sequence[Meeting] = ()
    by_name: float = 0.0
    score: float = 0.0
    why: list[str] = field(default_factory=list)

    @cached_property
    def meeting(self) -> Meeting | None:
        """The columns by which most rows meet; None: too few do."""
        best = max(self.meetings, key=lambda meeting: (len(meeting.pairs), meeting.share), default=None)
        return best if best is not None and len(best.pairs) >= 3 else None

    @property
    def rows(self) -> Sequence[tuple[Row, Row]]:
        """Rows that are probably one thing."""
        return self.meeting.pairs if self.meeting is not None else ()

    @cached_property
    def evidence(self) -> Mapping[tuple[str, str], Evidence]:
        """Of each two plain columns."""
        known = context(self.one, self.other)
        return {
            (a, b): columns_alike(self.one, a, self.other, b, known, self.rows)
            for a in of_role(self.one, "plain")
            for b in of_role(self.other, "plain")
        }

    def score_of(self, a: str, b: str) -> float:
        found = self.evidence.get((a, b))
        return 0.0 if found is None else found.score

    @cached_property
    def columns(self) -> list[tuple[str, str, float]]:
        """Plain columns one to one, sure or thought of."""
        return assigned(of_role(self.one, "plain"), of_role(self.other, "plain"), self.score_of, PERHAPS)

    @cached_property
    def by_columns(self) -> float:
        mine, theirs = len(of_role(self.one, "plain")), len(of_role(self.other, "plain"))
        total = sum(score for _, _, score in self.columns if score >= SAME_FIELD)
        return 0.75 * total / (min(mine, theirs) or 1) + 0.25 * total / (max(mine, theirs) or 1)


def candidates(one: SystemFacts, other: SystemFacts) -> list[TablePair]:
    """For each table the nearest of the other side, by name and by the words of their columns."""
    words = {facts: _column_words(facts) for system in (one, other) for facts in system.tables.values()}
    found: dict[tuple[str, str], TablePair] = {}
    rough: list[tuple[float, TablePair]] = []
    for mine in one.tables.values():
        for theirs in other.tables.values():
            by_name = names.likeness(mine.table.name, theirs.table.name, of_tables=True)
            union = len(words[mine] | words[theirs]) or 1
            score = 0.5 * by_name + 0.5 * len(words[mine] & words[theirs]) / union
            if score > 0.1:
                rough.append((score, TablePair(mine, theirs, by_name=by_name)))
    rough.sort(key=lambda item: (-item[0], str(item[1].one), str(item[1].other)))
    taken: dict[tuple[int, str], int] = {}
    for _, pair in rough:
        places = (0, str(pair.one)), (1, str(pair.other))
        if any(taken.get(place, 0) < NEAREST for place in places):
            found[str(pair.one), str(pair.other)] = pair
            for place in places:
                taken[place] = taken.get(place, 0) + 1
    return list(found.values())


def _column_words(facts: TableFacts) -> frozenset[str]:
    return frozenset(names.canonical(word) for name in of_role(facts, "plain", "reference") for word in names.words(name))


def questions(pair: TablePair) -> list[Question]:
    """By which columns rows of the two tables may meet: what is unique on a side, or nearly, and not just counted up."""
    known = context(pair.one, pair.other)
    found = []
    for a in of_role(pair.one, "plain"):
        for b in of_role(pair.other, "plain"):
            if pair.one.kind(a) != pair.other.kind(b) or pair.one.kind(a) not in ("text", "uuid", "number"):
                continue
            unique = tells(pair.one, a) + tells(pair.other, b)
            alike = names.likeness(a, b, known)
            if unique >= 1 and alike >= 0.4:
                found.append((unique + alike, a, b))
    found.sort(key=lambda item: (-item[0], item[1], item[2]))
    return [Question((str(pair.one), str(pair.other)), (a, b)) for _, a, b in found[:QUESTIONS]]


def tells(facts: TableFacts, name: str) -> float:
    """1: unique by the catalog. 0.7: no value is there twice in the sample. 0: it does not tell rows apart."""
    if facts.kind(name) == "number" and name in facts.numbered:
        return 0.0  # counted up on each side for itself
    if name in facts.unique:
        return 1.0
    counts = facts.counts[name]
    return 0.7 if counts.total() >= 20 and len(counts) >= 0.97 * counts.total() and facts.kind(name) != "number" else 0.0


def same_things(pairs: Iterable[TablePair]) -> list[TablePair]:
    """The pairs that are one thing, each table once."""
    every = {(str(pair.one), str(pair.other)): pair for pair in pairs}
    for pair in every.values():
        pair.score = 0.45 * pair.by_name + 0.55 * min(pair.by_columns, 1.0)
        if pair.meeting is not None:
            pair.score += (1 - pair.score) * 0.5 * min(1.0, 2 * pair.meeting.share)
    ground = {place: pair.score for place, pair in every.items()}
    for _ in range(3):  # what refers to things that go together goes together rather
        partners = {a: b for a, b, _ in _together(every)}
        for place, pair in every.items():
            pair.score = min(1.0, max(0.0, ground[place] + _structure(pair, partners)))
    found = [every[a, b] for a, b, _ in _together(every)]
    for pair in found:
        pair.score = round(pair.score, 2)
        pair.why = _why(pair, {str(one.one): str(one.other) for one in found})
    return found


def _together(pairs: Mapping[tuple[str, str], TablePair]) -> list[tuple[str, str, float]]:
    ones = sorted({a for a, _ in pairs})
    others = sorted({b for _, b in pairs})
    return assigned(ones, others, lambda a, b: pairs[a, b].score if (a, b) in pairs else 0.0, SAME_THING)


def _targets(facts: TableFacts) -> set[str]:
    return {table for table, _ in facts.references.values()}


def _structure(pair: TablePair, partners: Mapping[str, str]) -> float:
    mine, theirs = _targets(pair.one), _targets(pair.other)
    together = {table for table in mine if partners.get(table) in theirs}
    if together:
        return 0.15 * len(together) / min(len(mine), len(theirs))
    both = any(table in partners for table in mine) and any(table in partners.values() for table in theirs)
    return -0.1 if both else 0.0


def _why(pair: TablePair, partners: Mapping[str, str]) -> list[str]:
    one, other = pair.one.table.name, pair.other.table.name
    by_name = "the same name" if one == other else "names mean the same" if pair.by_name >= 0.85 else "names are alike"
    told = [by_name] if pair.by_name >= 0.4 else []
    sure = sum(score >= SAME_FIELD for _, _, score in pair.columns)
    told.append(f"{sure} of {len(of_role(pair.one, 'plain'))} and {len(of_role(pair.other, 'plain'))} columns go together")
    together = [table for table in sorted(_targets(pair.one)) if partners.get(table) in _targets(pair.other)]
    if together:
        told.append(f"both refer to {', '.join(table.partition('.')[2] for table in together)}")
    if pair.meeting is not None:
        a, b = pair.meeting.question.columns
        told.append(f"{len(pair.meeting.pairs)} of {pair.meeting.asked} values of {a} looked for are in {b}")
    return told
