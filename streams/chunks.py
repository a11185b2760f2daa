"""Chunks, and the book that is kept about them. No I/O, no Faust but its type of a topic partition.

A **chunk** is a run of records of one partition, in order: what an agent receives, and what is acked as one. The **ledger** knows for
each partition where reading stands, what was handed out, what of it is finished, and what failed:

        committed            finished        handed out, in work or waiting        next
    ────────┼───────────────────┼──────────────────────┼──────────────────────────────┼──────▶ offset
            └── may be committed┘└────────── `inflight`, oldest first ────────────────┘

1. `next[tp]` is the offset of the next record to hand out. No entry: look up the committed offset first.
2. A record that was taken from the client and not handed out marks its partition in `rewind`: nothing is ever skipped.
3. Only the finished head of `inflight` may be committed. A stale chunk (taken away, or behind one that failed) is never acked.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from faust.types import TP

#: Faust's and mode's services log their starts and stops as the module of their class; ours are no news either.
FAUST_LOGGER = logging.getLogger("faust.chunks")

RETRY_FIRST_SECONDS = 0.1
RETRY_LONGEST_SECONDS = 30.0
ALONE = 3  # a record that failed this often on its own is poison
SPLIT = 8  # a failed chunk comes back in this many parts: 2,000 records are down to one in four steps


FULL_CHUNKS = 10  # this many wait before a partition is read no further


class Undo(Protocol):
    """A table, as a chunk knows it."""

    def undo(self, partition: int, key: str, old: Any) -> None: ...


class Forgotten(Exception):
    """The chunk in hand was taken away (its partition moved, or a chunk before it failed): stop working on it."""


class Chunk(Sequence[Any]):
    """Records of one partition, in order: a sequence of `chunks_reader.Record`."""

    __slots__ = ("acked", "begun", "changes", "flushing", "partition", "records", "stale", "topic", "tp")

    def __init__(self, tp: TP, records: list[Any]) -> None:
        self.tp = tp
        self.topic: str = tp.topic
        self.partition: int = tp.partition
        self.records = records
        self.begun = 0  # the how manieth chunk that was begun; 0: not begun yet, may still grow
        self.acked = False
        self.stale = False
        self.flushing = False  # its table changes are on their way: only their delivery decides what becomes of them
        self.changes: dict[tuple[Undo, str], Any] = {}  # (table, key) → the value before this chunk

    @property
    def first(self) -> int:
        return int(self.records[0].offset)

    @property
    def next(self) -> int:
        """The offset after the last record."""
        return int(self.records[-1].offset) + 1

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.records)

    def __getitem__(self, index: Any) -> Any:
        return self.records[index]

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.first}..{self.next - 1}"

    def undo(self) -> None:
        """Put the tables back to what they were before this chunk."""
        for (table, key), old in self.changes.items():
            table.undo(self.partition, key, old)
        self.changes = {}

    def discard(self) -> None:
        """Nothing of this chunk counts any more."""
        self.stale = True
        if not self.flushing:
            self.undo()


#: The chunk that this task is working on.
current_chunk: ContextVar[Chunk | None] = ContextVar("current_chunk", default=None)


@dataclass(slots=True)
class Failure:
    """A partition that does not get on at `first`."""

    first: int  # where the retry starts
    count: int  # failures in a row there: what the delay grows with
    alone: int  # of these, those of a single record that were not the fault of something out of reach
    until: float  # monotonic time of the next try
    error: str
    parts: list[tuple[int, int]] = field(
        default_factory=list
    )  # (end, size): up to `end`, chunks of at most `size` records; the innermost last


class Ledger:
    """What was handed out of which partition, and what became of it."""

    def __init__(self, chunk_size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.chunk_size = chunk_size
        self.clock = clock
        self.next: dict[TP, int] = {}
        self.rewind: set[TP] = set()  # the client reads elsewhere than at `next`
        self.inflight: dict[TP, deque[Chunk]] = {}
        self.done: dict[TP, int] = {}
        self.failed: dict[TP, Failure] = {}
        self.epoch = 0  # grows when positions are forgotten: a look-up begun before is void
        self._begun = 0
        self._full: set[TP] = set()  # too much waits; read on when less than a chunk does

    # reading ------------------------------------------------------------------------------------------------------------------------

    def wants(self, tp: TP) -> bool:
        """Whether records of this partition may be taken from the client now: not before its next try, nor when enough wait."""
        failure = self.failed.get(tp)
        if failure is not None and failure.until > self.clock():
            return False
        waiting = sum(len(chunk) for chunk in self.inflight.get(tp, ()) if not chunk.begun)
        if tp in self._full:
            if waiting >= self.chunk_size:
                return False
            self._full.discard(tp)
        elif waiting >= FULL_CHUNKS * self.chunk_size:
            self._full.add(tp)
            return False
        return True

    def hand_out(self, tp: TP, records: list[Any]) -> list[Chunk]:
        """New chunks of `records`; the youngest chunk grows first if nobody has begun it. Records before `next` are left out."""
        start = self.next[tp]
        if records[0].offset < start:
            records = [record for record in records if record.offset >= start]
        queue = self.inflight.setdefault(tp, deque())
        chunks: list[Chunk] = []
        position = 0
        while position < len(records):
            size = self._size_at(tp, records[position].offset)
            tail = queue[-1] if queue else None
            room = size - len(tail) if tail is not None and not tail.begun and tp not in self.failed else 0
            if tail is not None and room > 0:
                tail.records.extend(records[position : position + room])
                position += room
            else:
                chunk = Chunk(tp, records[position : position + size])
                queue.append(chunk)
                chunks.append(chunk)
                position += size
        if records:
            self.next[tp] = records[-1].offset + 1
        return chunks

    def _size_at(self, tp: TP, offset: int) -> int:
        failure = self.failed.get(tp)
        for end, size in reversed(failure.parts if failure is not None else ()):
            if offset < end:
                return size
        return self.chunk_size

    def begin(self, chunk: Chunk) -> None:
        """An agent takes the chunk in hand: it grows no more, and must be finished or given back."""
        self._begun += 1
        chunk.begun = self._begun

    # outcomes -----------------------------------------------------------------------------------------------------------------------

    def finish(self, chunk: Chunk) -> bool:
        """The chunk is finished; False if nobody waits for it any more."""
        if chunk.stale or chunk.acked:
            return False
        chunk.acked = True
        failure = self.failed.get(chunk.tp)
        if failure is not None:
            while failure.parts and chunk.next >= failure.parts[-1][0]:
                failure.parts.pop()
            if not failure.parts and chunk.next > failure.first:
                del self.failed[chunk.tp]
        self._advance(chunk.tp)
        return True

    def give_back(self, chunk: Chunk, error: BaseException, *, retriable: bool) -> Failure | None:
        """The agent failed: hand out the chunk again, and all after it, later. None if nobody waits for it any more.

        If the same may go through later, the chunk comes back as it is; else in smaller parts, down to the record that is to blame.
        """
        if chunk.stale or chunk.acked:
            return None
        tp, last = chunk.tp, self.failed.get(chunk.tp)
        again = last if last is not None and last.first == chunk.first else None
        count, alone = (again.count, again.alone) if again is not None else (0, 0)
        parts = list(last.parts) if last is not None else []
        if retriable:
            count += 1
            if not parts:
                parts.append((chunk.next, len(chunk)))
        elif len(chunk) > 1:
            parts.append((chunk.next, max(1, len(chunk) // SPLIT)))
            count = 1  # smaller parts are a first try of their own
        else:
            count, alone = count + 1, alone + 1
        delay = min(RETRY_LONGEST_SECONDS, RETRY_FIRST_SECONDS * 2 ** min(count - 1, 20))
        failure = Failure(chunk.first, count, alone, self.clock() + delay, f"{type(error).__name__}: {error}", parts)
        self.failed[tp] = failure
        self.go_back(tp, chunk.first)
        return failure

    def is_poison(self, chunk: Chunk) -> bool:
        """One record that now fails as often as it is worth trying alone."""
        last = self.failed.get(chunk.tp)
        return last is not None and len(chunk) == 1 and last.first == chunk.first and last.alone >= ALONE - 1

    def go_back(self, tp: TP, offset: int) -> None:
        """Hand out again from `offset` on; what was handed out from there is stale, what is older stays."""
        self._advance(tp)
        queue = self.inflight.get(tp, deque())
        gone = [chunk for chunk in queue if chunk.first >= offset]
        for _ in gone:
            queue.pop()
        for chunk in reversed(gone):
            chunk.discard()
        self.next[tp] = offset
        self.rewind.add(tp)

    def start_again(self, tp: TP, offset: int) -> None:
        """Hand out again from an older offset on, which is what may be committed from now on."""
        self.failed.pop(tp, None)  # its retry is for records that will come anew
        self._full.discard(tp)
        self.go_back(tp, offset)
        self.done[tp] = offset

    def drop_waiting(self) -> None:
        """Take back every chunk that nobody has begun."""
        for tp, queue in self.inflight.items():
            waiting = next((chunk for chunk in queue if not chunk.begun), None)
            if waiting is not None:
                self.go_back(tp, waiting.first)

    def forget(self, tps: Iterable[TP]) -> None:
        """Drop all that was handed out and not finished; reading starts again at the committed offset."""
        self.epoch += 1
        gone: list[Chunk] = []
        for tp in tps:
            gone.extend(self.inflight.pop(tp, ()))
            self.next.pop(tp, None)
            self.done.pop(tp, None)
            self.failed.pop(tp, None)
        for chunk in sorted(gone, key=lambda c: -c.begun):  # youngest first: an undo puts back what was there before it
            if not chunk.acked:
                chunk.discard()

    # committing ---------------------------------------------------------------------------------------------------------------------

    def _advance(self, tp: TP) -> None:
        queue = self.inflight.get(tp)
        while queue and queue[0].acked:
            self.done[tp] = queue.popleft().next

    def committable(self, tp: TP) -> int | None:
        """The offset that may be committed: all before it is finished."""
        self._advance(tp)
        return self.done.get(tp)

    def position(self, tp: TP) -> int | None:
        """The first record that is not finished, committed or not; None if it is not known."""
        self._advance(tp)
        queue = self.inflight.get(tp)
        return queue[0].first if queue else self.next.get(tp)
