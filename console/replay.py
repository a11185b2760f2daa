"""`concord replay`: captured topics are read again from an older offset on, while everything runs.

    offset, time ─▶ where each partition is to be set back to ─▶ do its topics reach so far back? ─▶ <pipeline>.replays ─▶ the streams

The command goes through a topic, to the worker that reads the partition; when none runs it waits there. What is read again heals what was
lost of our own: rows of `concord.*`, state of the streams, golden records, and what follows from them in the systems. It never makes
anything older: positions and versions decide as they always do.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from console import wiring
from console.kafka import Cluster, Letter, Partition
from schemas import topics
from schemas.config import Config
from schemas.errors import ConcordError
from schemas.mapping import table_name, table_names
from schemas.replay import Replay

LOOK_SECONDS = 0.2

_PLACE = re.compile(r"(?P<topic>.+)@(?P<partition>[0-9]+)/(?P<offset>[0-9]+)")
_AGO = re.compile(r"(?P<number>[0-9]+)(?P<unit>[smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Unplayable(ConcordError):
    """What was asked for cannot be replayed as it was said."""


@dataclass(frozen=True, slots=True)
class Start:
    """From where. One of the three."""

    offset: int | None = None  # in every partition
    time: datetime | None = None  # when it was captured
    place: tuple[str, int, int] | None = None  # topic, partition, offset: that partition alone

    def __str__(self) -> str:
        if self.place is not None:
            topic, partition, offset = self.place
            return f"{topic}@{partition}/{offset}"
        return self.time.isoformat(timespec="seconds") if self.time is not None else f"offset {self.offset}"


def start_of(text: str, now: datetime) -> Start:
    """`earliest`, an offset, `topic@partition/offset`, `2h`, a date or time (UTC, if it says no zone). Raises Unplayable."""
    if text == "earliest":
        return Start(offset=0)
    if text.isdecimal():
        return Start(offset=int(text))
    if match := _PLACE.fullmatch(text):
        return Start(place=(match["topic"], int(match["partition"]), int(match["offset"])))
    if match := _AGO.fullmatch(text):
        return Start(time=now - timedelta(**{_UNITS[match["unit"]]: int(match["number"])}))
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        expected = "an offset, earliest, topic@partition/offset, 2h, or a time like 2026-03-01T12:00"
        raise Unplayable(f"not a place to start from: {text!r}, expected {expected}") from None
    return Start(time=when if when.tzinfo is not None else when.replace(tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class Span:
    """What of one partition is to be read again."""

    topic: str
    partition: int
    start: int
    end: int  # the next offset that has never been read; nothing beyond it is a replay
    reaches: bool = True  # whether everything that was asked for is still there
    oldest: datetime | None = None  # of what is there, where it does not reach

    @property
    def at(self) -> Partition:
        return self.topic, self.partition

    @property
    def records(self) -> int:
        return max(0, self.end - self.start)


@dataclass
class Plan:
    """What a replay would read."""

    system: str
    start: Start
    tables: Mapping[str, tuple[str, str]]  # captured topic → (schema, table)
    spans: list[Span] = field(default_factory=list)

    @property
    def records(self) -> int:
        return sum(span.records for span in self.spans)

    @property
    def short(self) -> list[str]:
        """Topics that do not reach back far enough."""
        return sorted({span.topic for span in self.spans if not span.reaches})

    def complaint(self) -> str:
        """What does not reach back, and what to do instead."""
        lines = []
        for topic in self.short:
            oldest = min((span.oldest for span in self.spans if span.topic == topic and span.oldest is not None), default=None)
            since = f"since {oldest.isoformat(timespec='seconds')} only" if oldest is not None else "no more, nothing is left of it"
            schema, table = self.tables[topic]
            lines.append(f"{topic} reaches back {since}: concord snapshot {self.system} {schema}.{table} --vanished")
        return f"{'; '.join(lines)}; or replay what is there with --anyway"


def planned(config: Config, cluster: Cluster, system: str, start: Start, only: Sequence[str] = ()) -> Plan:
    """Where each captured partition of a system is to be set back to. Raises Unplayable."""
    tables = {topics.captured(system, *name): name for name in table_names(config, system)}
    if only:
        named = {table_name(text) for text in only}
        tables = {topic: name for topic, name in tables.items() if name in named}
        if len(tables) < len(named):
            known = ", ".join(f"{schema}.{table}" for schema, table in table_names(config, system))
            raise Unplayable(f"{system} captures {known}; no such table: {', '.join(only)}")
    if start.place is not None:
        topic, partition, _ = start.place
        if topic not in tables or partition >= config.kafka.partitions:
            raise Unplayable(f"{topic}@{partition} is no partition of a captured topic of {system}")
        tables = {topic: tables[topic]}
    ends = cluster.ends(tables)
    reached = cluster.committed(wiring.group_of_streams(config), tables)
    plan = Plan(system, start, tables)
    firsts = _firsts(cluster, ends, start)
    for at, (low, high) in sorted(ends.items()):
        if start.place is not None and at[1] != start.place[1]:
            continue
        wanted = firsts[at]
        end = min(reached.get(at, low), high)
        reaches, oldest = (True, None) if wanted is not None and wanted >= low else _reaches(cluster, at, low, high, start)
        plan.spans.append(Span(*at, max(low, wanted or 0), end, reaches, oldest))
    return plan


def _firsts(cluster: Cluster, ends: Mapping[Partition, tuple[int, int]], start: Start) -> dict[Partition, int | None]:
    """Where each partition would have to begin; None: only the records' times can tell, see `_reaches`."""
    if start.place is not None:
        return dict.fromkeys(ends, start.place[2])
    if start.time is None:
        return dict.fromkeys(ends, start.offset)
    found = cluster.since(ends, start.time)
    # what lies before the first record of a topic that has lost some may have been of the time that was asked for
    return {at: offset if offset > low or low == 0 else None for (at, (low, _)), offset in zip(ends.items(), found.values(), strict=True)}


def _reaches(cluster: Cluster, at: Partition, low: int, high: int, start: Start) -> tuple[bool, datetime | None]:
    first = next(cluster.scan({at: (low, low + 1)}), None) if low < high else None
    oldest = None if first is None else datetime.fromtimestamp(first.ts_ms / 1000, UTC)
    if start.time is None:
        return low == 0, oldest
    kept = cluster.kept(at[0])  # nothing younger than that was taken away by retention
    return kept is not None and datetime.now(UTC) - start.time <= kept, oldest


# --- doing it ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a replay has come."""

    state: str  # queued: no worker has taken it up; reading; done
    left: int  # records


def command(cluster: Cluster, config: Config, plan: Plan, by: str) -> dict[int, int]:
    """Tells the streams; returns, per partition, what they must have read of it."""
    spans = [span for span in plan.spans if span.records]
    topic, now = topics.replays(config.name), time.time_ns() // 1000
    letters = [Letter(topic, span.partition, -1, None, Replay(span.topic, span.start, by, now).encode(), 0) for span in spans]
    told: dict[int, int] = {}
    for span, offset in zip(spans, cluster.send(letters), strict=True):
        told[span.partition] = max(told.get(span.partition, 0), offset + 1)
    return told


def follow(
    cluster: Cluster, config: Config, plan: Plan, told: Mapping[int, int], tell: Callable[[Progress], None] = lambda _: None
) -> Progress:
    """Until everything was read again, or nobody runs who could."""
    group, topic = wiring.group_of_streams(config), topics.replays(config.name)
    spans = [span for span in plan.spans if span.records]
    while True:
        # in this order: a worker commits the older offset before it has done with the command
        taken = cluster.committed(group, [topic])
        reached = cluster.committed(group, plan.tables)
        if all(taken.get((topic, partition), 0) >= offset for partition, offset in told.items()):
            left = sum(max(0, span.end - reached.get(span.at, span.start)) for span in spans)
            progress = Progress("reading" if left else "done", left)
        else:
            progress = Progress("queued", plan.records)
        tell(progress)
        if progress.state == "done" or not cluster.members(group):
            return progress
        time.sleep(LOOK_SECONDS)


# --- telling ----------------------------------------------------------------------------------------------------------------------


def to_json(plan: Plan, state: str, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`state`: refused, asked, queued, reading, done."""
    return {
        "system": plan.system,
        "from": str(plan.start),
        "state": state,
        "records": plan.records,
        "partitions": [
            {"topic": span.topic, "partition": span.partition, "from": span.start, "to": span.end, "reaches": span.reaches}
            for span in plan.spans
        ],
        **({"error": plan.complaint()} if state == "refused" else {}),
        **(more or {}),
    }


def show_plan(plan: Plan, console: Console) -> None:
    grid = Grid(box=None, header_style="bold", pad_edge=False)
    grid.add_column("topic")
    for heading in ("partition", "from", "to", "records"):
        grid.add_column(heading, justify="right")
    for span in plan.spans:
        grid.add_row(escape(span.topic), str(span.partition), f"{span.start:,}", f"{span.end:,}", f"{span.records:,}")
    console.print(grid)


def sentence(plan: Plan, progress: Progress) -> str:
    match progress.state:
        case "done":
            return f"{plan.system}: all was read again; `concord status --wait 60` waits until it is applied"
        case "reading":
            return f"{plan.system}: {progress.left:,} records left to read again"
        case _:
            return f"{plan.system}: {progress.left:,} records to read again; no worker of the streams has taken it up yet"
