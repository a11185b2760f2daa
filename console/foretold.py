"""What a replay or a rebuild would change: thing by thing, which fields, from what to what, in which system. Its dry run says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from connectors.sink.anew import Foreseen

GOLDEN = "golden"  # stands for a system: what is agreed itself
NAMED = ("insert", "update", "delete", "waits", "dead")  # all else is counted only

_SAID = {
    "insert": "would be inserted",
    "update": "would change",
    "delete": "would be deleted",
    "waits": "would wait",
    "dead": "would be a dead letter",
    "ours": "only Concord's own notes of it would be brought up to date",
    "nothing": "as it should be",
}


@dataclass
class Foretold:
    """All of it is counted, the first `limit` changes are named. Values are in it: the operator asked for them."""

    limit: int
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)  # (system or GOLDEN, what)
    changes: list[Foreseen] = field(default_factory=list)

    def add(self, found: Iterable[Foreseen]) -> None:
        for one in found:
            self.counts[one.system, one.what] += 1
            if one.what in NAMED and len(self.changes) < self.limit:
                self.changes.append(one)

    @property
    def total(self) -> int:
        return sum(number for (_, what), number in self.counts.items() if what in NAMED)

    @property
    def ours(self) -> int:
        """Things of which only rows of the schema concord would be put right."""
        return sum(number for (_, what), number in self.counts.items() if what == "ours")

    def to_json(self) -> dict[str, Any]:
        counts: dict[str, dict[str, int]] = {}
        for (system, what), number in sorted(self.counts.items()):
            counts.setdefault(system, {})[what] = number
        return {"counts": counts, "changes": [one.to_json() for one in self.changes], "changes_total": self.total}

    def show(self, console: Console) -> None:
        for one in self.changes:
            console.print(escape(sentence(one)))
        if (more := self.total - len(self.changes)) > 0:
            console.print(f"… and {more:,} more (--limit)")
        grid = Grid(box=None, header_style="bold", pad_edge=False)
        grid.add_column("in")
        grid.add_column("things", justify="right")
        grid.add_column("")
        for (system, what), number in sorted(self.counts.items()):
            grid.add_row(escape(system), f"{number:,}", _SAID[what])
        console.print(grid)
        console.print("a dry run: nothing was changed" if self.total else "no row and nothing agreed would change")


def sentence(one: Foreseen) -> str:
    """One change in words."""
    row = f" ({one.key})" if one.key is not None and one.system != GOLDEN else ""
    text = f"{one.entity} {one.link}: {_SAID[one.what]} in {one.system}{row}"
    fields = ", ".join(f"{name} {before!r} → {after!r}" for name, (before, after) in one.fields.items())
    return "; ".join(filter(None, [f"{text}: {fields}" if fields else text, one.why]))
