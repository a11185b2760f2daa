"""Rounds: who is measured when, what came of it, and that one who fails does not spoil the others.

    round 0   A B C D        Each contestant is measured once a round, next to the others, so that what changes slowly
    round 1   D C B A        (a warm disk, a busy neighbour) falls on all of them. Every second round goes backwards and each
    round 2   B C D A        pair begins with the next one.

The book keeps every measurement as it was made and is saved after each, so that a run that is cut short keeps its figures.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def interleaved(contestants: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """(round, contestant): everybody once a round, in the order drawn above."""
    for number in range(rounds):
        by = number // 2 % max(1, len(contestants))
        order = [*contestants[by:], *contestants[:by]]
        for contestant in reversed(order) if number % 2 else order:
            yield number, contestant


@dataclass
class Book:
    """What has been measured, as plain data: `report`."""

    file: Path | None
    report: dict[str, Any] = field(default_factory=lambda: {"measured": [], "failed": []})

    def add(
        self, section: str, contestant: str, cell: str, round_: int, values: dict[str, Any], series: dict[str, Any] | None = None
    ) -> None:
        """One measurement. `values`: metric → number; `series`: what plots are made of."""
        kept = {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
        entry = {"section": section, "contestant": contestant, "cell": cell, "round": round_, "values": kept, "series": series or {}}
        self.report["measured"].append(entry)
        self.save()

    def fail(self, section: str, contestant: str, round_: int, why: str) -> None:
        self.report["failed"].append({"section": section, "contestant": contestant, "round": round_, "why": why})
        self.save()

    def forget(self, section: str) -> None:
        """A section that is measured anew."""
        for kind in ("measured", "failed"):
            self.report[kind] = [one for one in self.report[kind] if one["section"] != section]

    def save(self) -> None:
        """Whole or not at all: a run may be cut at any moment."""
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        beside = self.file.with_suffix(".part")
        beside.write_text(
            json.dumps(self.report, ensure_ascii=False, separators=(",", ":")).replace('{"section"', '\n{"section"') + "\n", "utf-8"
        )
        os.replace(beside, self.file)


def attempt(book: Book, section: str, contestant: str, round_: int, say: Callable[[str], None], does: Callable[[], None]) -> bool:
    """`does()`; when it fails that is noted with its reason and the run goes on. Whether it went through."""
    began = time.monotonic()
    try:
        does()
    except Exception as error:
        why = f"{type(error).__name__}: {error}".strip()
        book.fail(section, contestant, round_, why[:1500])
        say(f"{section}: {contestant} failed: {why.partition(chr(10))[0][:300]}")
        return False
    say(f"{section}: round {round_ + 1}, {contestant} done in {time.monotonic() - began:.0f} s")
    return True
