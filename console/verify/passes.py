"""The passes over one entity: each system leads in turn, and what is not equal is looked at again until it is clear what it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

import psycopg

from console.verify import rows as reading
from console.verify.compare import Look, Suspect
from console.verify.hashed import Hashed
from console.verify.naming import Finding, Naming
from console.verify.report import Report, Verdict
from console.verify.rows import Connection
from schemas.mapping import Entity, Row

logger = logging.getLogger(__name__)

ENOUGH = 20_000  # rows hashed, to see whether it is worth while
SUSPECTS = 20_000  # kept at once; then they are settled before reading on: memory stays flat however much differs
WAITS = (0.2, 0.4, 0.8, 1.6)  # seconds before each further look: two orders of magnitude more than a change takes on its way
CHANGING_LOOKS = 6  # further looks at what was different at each of them


class Repairs(Protocol):
    """What mends findings: `console.verify.repair`."""

    def mend(self, passes: Passes, findings: Sequence[Finding]) -> None: ...


class Passes:
    """One entity across its systems."""

    def __init__(
        self,
        entity: Entity,
        connections: Mapping[str, Connection],
        report: Report,
        ranks: Mapping[int, str],
        waits: Sequence[float],
        sleep: Callable[[float], None],
        repairs: Repairs | None = None,
        hashed: Callable[[Look], Hashed | None] = lambda _: None,
        tell: Callable[[str, int], None] = lambda what, more: None,
    ) -> None:
        self.entity = entity
        self.connections = connections
        self.look = Look(entity, connections)
        self.rows = self.look.rows
        self.naming = Naming(entity, connections, self.rows, self.look.crosswalk, report, ranks)
        self.waits = waits
        self.sleep = sleep
        self.repairs = repairs
        self.hashed = hashed(self.look)
        self.tell = tell

    def run(self) -> None:
        suspects: list[Suspect] = []
        for leading in self.entity.systems:
            for read, equal, there in self._chunks(leading):
                self.tell(f"{self.entity.name} by {leading}", read)
                self.naming.count.equal += equal
                for key, verdict in self.look.at(leading, there).items():
                    if verdict.what in ("differing", "missing", "unlinked"):
                        suspects.append((leading, key))
                    else:
                        self.naming.settle(leading, verdict)
                if len(suspects) >= SUSPECTS:
                    self.look_again(suspects)
                    suspects = []
        self.look_again(suspects)

    def _chunks(self, leading: str) -> Iterator[tuple[int, int, Mapping[str, Row]]]:
        """(rows read, things that are equal by their hashes, rows to look at), to the end of the leading system's table."""
        rows, binding, connection = self.rows[leading], self.entity.bindings[leading], self.connections[leading]
        read = odd = 0
        after: Sequence[str] | None = None
        if self.hashed is not None:
            try:
                for chunk in self.hashed.chunks(leading):
                    read, odd = read + chunk.rows, odd + len(chunk.odd)
                    for start in range(0, max(len(chunk.odd), 1), reading.CHUNK):
                        there = rows.by_key(connection, chunk.odd[start : start + reading.CHUNK])
                        yield (0, 0, there) if start else (chunk.rows, chunk.equal, there)
                    after = chunk.last
                    if after is None:
                        return
                    if read >= ENOUGH and odd > read // 2:
                        break  # hashing as well as fetching costs more than fetching
            except (psycopg.DataError, psycopg.NotSupportedError) as error:  # a value that the database does not take for what it is here
                logger.info("%s by %s: hashes cannot be had, rows are fetched: %s", self.entity.name, leading, error)
        for some in rows.chunks(connection, after):
            yield len(some), 0, {binding.key_of(row): row for row in some if binding.in_scope(row)}

    def look_again(self, suspects: Sequence[Suspect]) -> None:
        """Settles suspects: looks again after each wait; what stayed as it was all the time is what it is."""
        before: dict[Suspect, Verdict | None] = dict.fromkeys(suspects)
        sure: dict[Suspect, Verdict] = {}
        for looks in range(len(self.waits) + CHANGING_LOOKS):
            if not before:
                break
            self.sleep(self.waits[min(looks, len(self.waits) - 1)])
            final = looks >= len(self.waits) - 1
            stays: dict[Suspect, Verdict | None] = {}
            for suspect, verdict in self.verdicts(before):
                if verdict.what not in ("differing", "missing", "unlinked"):
                    self.naming.settle(suspect[0], verdict)
                elif final and verdict == before[suspect]:
                    sure[suspect] = verdict
                else:
                    stays[suspect] = verdict
            before = stays
        findings = self.naming.findings(sure)
        if self.repairs is not None:
            self.repairs.mend(self, findings)
        for one in findings:
            self.naming.enter(one)
        for last in before.values():
            self.naming.in_flight(last)

    def verdicts(self, suspects: Collection[Suspect]) -> Iterator[tuple[Suspect, Verdict]]:
        """How these are now; a row that is gone or left scope has no verdict: then there is no such thing to compare."""
        for leading in self.entity.systems:
            mine = [key for system, key in suspects if system == leading]
            for start in range(0, len(mine), reading.CHUNK):
                there = self.rows[leading].by_key(self.connections[leading], mine[start : start + reading.CHUNK])
                for key, verdict in self.look.at(leading, there, suspects).items():
                    yield (leading, key), verdict
