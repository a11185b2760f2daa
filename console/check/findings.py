"""What `concord check` found, in a shape for scripts, and on a screen for a person who has forty of them.

A *problem* would stop or break the sync, or the application. A *note* is worth knowing before it happens. What does not answer could not be
asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.markup import escape

from schemas.errors import Problem


class About(StrEnum):
    """What a finding is about. Findings are shown in this order: what has to be right first comes first."""

    FILE = "configuration"
    KAFKA = "Kafka"
    SERVER = "server"
    DEBEZIUM = "Debezium"
    RIGHTS = "rights"
    PUBLICATIONS = "publications"  # … and replica identity: what makes the application's own writes fail
    VISIBILITY = "row-level security"
    INSERTS = "what an insert needs"
    KEYS = "keys and indexes"
    REFERENCES = "references and deletes"
    VALUES = "what columns can hold"
    TRIGGERS = "triggers and rules"


_ORDER = {about: place for place, about in enumerate(About)}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found."""

    about: About
    problem: Problem
    rows: int | None = None  # that it is so of now; None: that is no question, or it was not asked

    def to_json(self) -> dict[str, str | int]:
        told = {"where": self.problem.where, "what": self.problem.what, "mend": self.problem.mend, "about": self.about.value}
        return {**told} if self.rows is None else {**told, "rows": self.rows}


@dataclass
class Checked:
    """All that was found."""

    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    unanswered: list[Finding] = field(default_factory=list)

    @property
    def fit(self) -> bool:
        return not self.problems and not self.unanswered

    def problem(self, about: About, where: str, what: str, mend: str = "") -> None:
        self._add(self.problems, about, Problem(where, what, mend))

    def note(self, about: About, where: str, what: str, mend: str = "", rows: int | None = None) -> None:
        self._add(self.notes, about, Problem(where, what, mend), rows)

    def could_not_ask(self, about: About, where: str, what: str, mend: str = "") -> None:
        self._add(self.unanswered, about, Problem(where, what, mend))

    def take(self, about: About, problems: Iterable[Problem]) -> None:
        """Problems that somebody else has found."""
        for problem in problems:
            self._add(self.problems, about, problem)

    @staticmethod
    def _add(found: list[Finding], about: About, problem: Problem, rows: int | None = None) -> None:
        finding = Finding(about, problem, rows)
        if finding not in found:  # two entities in one table may find the same of it
            found.append(finding)

    def to_json(self) -> dict[str, Any]:
        def told(found: list[Finding]) -> list[dict[str, str | int]]:
            return [one.to_json() for one in found]

        return {"fit": self.fit, "problems": told(self.problems), "notes": told(self.notes), "unanswered": told(self.unanswered)}


# --- on a screen ------------------------------------------------------------------------------------------------------------------


def show(found: Checked, console: Console) -> None:
    """Problems, what could not be asked, notes; in each by what it is about; what is the same of several places once, and what is true of
    no row that is there now by name only."""
    for heading, style, findings in (
        ("problem", "bold red", found.problems),
        ("could not be asked", "bold yellow", found.unanswered),
        ("note", "bold cyan", found.notes),
    ):
        for about, group in groupby(sorted(findings, key=lambda one: _ORDER[one.about]), key=lambda one: one.about):
            console.print(f"\n[{style}]{_counted(heading, members := list(group))}[/] · [bold]{about.value}[/]", soft_wrap=True)
            for wheres, what, mends in _folded([one for one in members if one.rows != 0]):
                console.print(f"  [bold]{escape(', '.join(wheres))}[/]: {escape(what)}", soft_wrap=True)
                for mend in mends:
                    console.print(f"      → {escape(mend)}", soft_wrap=True)
            if of_none := list(dict.fromkeys(one.problem.where for one in members if one.rows == 0)):
                console.print(f"  every value that is there fits, others would not: {escape(', '.join(of_none))}", soft_wrap=True)
                console.print("      → concord check --json says what of each", soft_wrap=True)
    if found.problems or found.unanswered or found.notes:
        console.print()
    if found.fit:
        console.print("[green]fit: nothing stands in the way[/]" + (f" ({_counted('note', found.notes)})" if found.notes else ""))
    else:
        unanswered = f", {len(found.unanswered)} could not be asked" if found.unanswered else ""
        notes = f", {_counted('note', found.notes)}" if found.notes else ""
        console.print(f"[bold]{_counted('problem', found.problems)}{unanswered}{notes}[/]{_where_they_are(found.problems)}")


def _counted(word: str, findings: list[Finding]) -> str:
    if word == "could not be asked":
        return word
    return f"{len(findings)} {word}{'s' * (len(findings) != 1)}"


def _folded(findings: list[Finding]) -> Iterator[tuple[list[str], str, list[str]]]:
    """(places, what, mends): what is said in the same words of several places is said once."""
    by_what: dict[str, list[Problem]] = {}
    for finding in findings:
        by_what.setdefault(finding.problem.what, []).append(finding.problem)
    for what, problems in by_what.items():
        mends = dict.fromkeys(problem.mend for problem in problems if problem.mend)
        yield list(dict.fromkeys(problem.where for problem in problems)), what, list(mends)


def _where_they_are(problems: list[Finding]) -> str:
    counts = Counter(finding.about for finding in problems)
    if len(counts) < 2:
        return ""
    return ": " + ", ".join(f"{counts[about]} {about.value}" for about in About if about in counts)
