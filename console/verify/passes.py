"""The passes over one entity: each system leads in turn, and what is not equal is looked at again until it is clear what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from console.verify import rows as reading
from console.verify.compare import Look, Suspect
from console.verify.naming import Naming
from console.verify.report import Report, Verdict
from console.verify.rows import Connection
from schemas.mapping import Entity

SUSPECTS = 20_000  # kept at once; then they are settled before reading on: memory stays flat however much differs
WAITS = (0.2, 0.4, 0.8, 1.6)  # seconds before each further look: two orders of magnitude more than a change takes on its way
CHANGING_LOOKS = 6  # further looks at what was different at each of them


class Passes:
    """One entity across its systems."""

    def __init__(
        self,
        entity: Entity,
        connections: Mapping[str, Connection],
        report: Report,
        waits: Sequence[float],
        sleep: Callable[[float], None],
    ) -> None:
        self.entity = entity
        self.connections = connections
        self.look = Look(entity, connections)
        self.rows = self.look.rows
        self.naming = Naming(entity, connections, self.rows, self.look.crosswalk, report)
        self.waits = waits
        self.sleep = sleep

    def run(self) -> None:
        suspects: list[Suspect] = []
        for leading in self.entity.systems:
            binding = self.entity.bindings[leading]
            for chunk in self.rows[leading].chunks(self.connections[leading]):
                there = {binding.key_of(row): row for row in chunk if binding.in_scope(row)}
                for key, verdict in self.look.at(leading, there).items():
                    if verdict.what in ("differing", "missing", "unlinked"):
                        suspects.append((leading, key))
                    else:
                        self.naming.settle(leading, verdict)
                if len(suspects) >= SUSPECTS:
                    self.look_again(suspects)
                    suspects = []
        self.look_again(suspects)

    # --- looking again ------------------------------------------------------------------------------------------------------------

    def look_again(self, suspects: Sequence[Suspect]) -> None:
        """Settles suspects: looks again after each wait; what stayed as it was all the time is what it is."""
        before: dict[Suspect, Verdict | None] = dict.fromkeys(suspects)
        for looks in range(len(self.waits) + CHANGING_LOOKS):
            if not before:
                return
            self.sleep(self.waits[min(looks, len(self.waits) - 1)])
            stays: dict[Suspect, Verdict | None] = {}
            final = looks >= len(self.waits) - 1
            for leading in self.entity.systems:
                mine = [key for system, key in before if system == leading]
                for start in range(0, len(mine), reading.CHUNK):
                    self._look_at(leading, mine[start : start + reading.CHUNK], before, stays, final)
            before = stays
        for (leading, _), verdict in before.items():
            self.naming.in_flight(leading, verdict)

    def _look_at(
        self, leading: str, keys: Sequence[str], before: Mapping[Suspect, Verdict | None], stays: dict[Suspect, Verdict | None], final: bool
    ) -> None:
        verdicts = self.look.at(leading, self.rows[leading].by_key(self.connections[leading], keys), before)
        sure: dict[str, Verdict] = {}
        for key, verdict in verdicts.items():  # a row that is gone or left scope has none: then there is no such thing to compare
            if verdict.what not in ("differing", "missing", "unlinked"):
                self.naming.settle(leading, verdict)
            elif final and verdict == before[leading, key]:
                sure[key] = verdict
            else:
                stays[leading, key] = verdict
        self.naming.report_on(leading, sure)
