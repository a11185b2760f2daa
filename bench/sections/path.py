"""The whole path: from the commit on one side to the commit on the other, at several rates, and how much goes through.

    latency   changes come at random moments, an open loop; from the commit in the source's log to the change read from the target's
    burst     as many changes as can be made, waiting in the log: how fast they arrive, and what CPU each costs where

Every change has to arrive; what does not is counted as missing and makes the measurement a failed one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench import load
from bench.contestants import Pipeline
from bench.contestants.concord import Concord
from bench.contestants.debezium import JDBC_VERSION, DebeziumJdbc
from bench.contestants.logical import Logical
from bench.figures import curve, per_second, percentile, steady_rate
from bench.listener import Seen
from bench.report import AGAIN
from bench.rounds import Book, attempt, interleaved
from bench.usage import Cpu, Memory, Parts
from bench.world import SYSTEMS, BenchError, World, merged

SECTION = "path"
__all__ = ["JDBC_VERSION", "Sizes", "run"]
ARRIVE_SECONDS = 180.0  # after the last change was made
WARM = 5_000  # changes in each direction before anything is measured
_SEQ = {"crm": 1_000_000_000, "erp": 2_000_000_000}
_OTHER = {"crm": "erp", "erp": "crm"}


@dataclass(frozen=True)
class Sizes:
    rounds: int
    seconds: float  # of each latency cell
    rates: tuple[float, ...]
    burst: int  # changes in each direction
    idle: float = 30.0  # changes a second that count as idle


@dataclass
class Road:
    """Two databases with a contestant between them and a listener on each, and what was sent along."""

    world: World
    pipeline: Pipeline
    seen: dict[str, Seen]
    rows: int  # in each table
    start_seconds: float  # until the contestant was at work: for Concord, until both sides' rows were linked
    only_seq: bool = False  # the ERP's changes touch no other column
    sent: int = 0

    def parts(self) -> Parts:
        return merged(self.pipeline.parts(), self.world.parts())

    def stretch(self, system: str, count: int | None = None) -> load.Stretch:
        """Odd rows are changed in the CRM, even ones in the ERP."""
        half = self.rows // 2
        only_seq = self.only_seq and system == "erp"
        return load.Stretch(1 if system == "crm" else 2, 2, half if count is None else min(half, count), only_seq)

    def numbers(self, system: str, room: int) -> int:
        """The first of `room` sequence numbers that nobody had."""
        self.sent += room
        return _SEQ[system] + self.sent - room

    def arrived(self, system: str, first: int, count: int, marks: dict[str, int]) -> dict[str, np.ndarray[Any, Any]]:
        """When each change of a system was committed there, read there and read on the other side (µs). Raises BenchError when some do
        not arrive."""
        deadline = time.monotonic() + ARRIVE_SECONDS
        while True:
            here, there = (_first_of(self.seen[side].rows(marks[side]), first, count) for side in (system, _OTHER[system]))
            if len(here) == len(there) == count:
                break
            if time.monotonic() > deadline:
                raise BenchError(
                    f"{len(there):,} of {count:,} changes of {system} arrived in {ARRIVE_SECONDS:g} s ({len(here):,} were seen there)"
                )
            time.sleep(0.2)
        return {"committed": here["committed"], "read": here["seen"], "arrived": there["seen"]}

    def marks(self) -> dict[str, int]:
        return {system: seen.count for system, seen in self.seen.items()}


def _first_of(rows: np.ndarray[Any, Any], first: int, count: int) -> np.ndarray[Any, Any]:
    """The first row of each number from `first` on, by number."""
    ours = rows[(rows["seq"] >= first) & (rows["seq"] < first + count)]
    return ours[np.unique(ours["seq"], return_index=True)[1]]


def a_road(stack: ExitStack, world: World, pipeline: Pipeline, rows: int, only_seq: bool = False) -> Road:
    """Same rows on both sides, the contestant at work, some thousand changes through it so that it is warm."""
    dsns = world.fresh()
    for system in SYSTEMS:
        load.create(dsns[system], "item")
        load.fill(dsns[system], "item", rows)
    stack.callback(pipeline.stop)
    began = time.monotonic()
    pipeline.start(world)
    start_seconds = time.monotonic() - began
    seen = {}
    for system in SYSTEMS:
        seen[system] = Seen(dsns[system], world.folder / f"{system}.seen")
        stack.callback(seen[system].close)
    road = Road(world, pipeline, seen, rows, start_seconds, only_seq)
    burst(road, min(WARM, rows // 4), directions(pipeline))  # a Java machine compiles what it has run often
    paced(road, min(100.0, rows / 8), 2, directions(pipeline), seed=0)
    pipeline.settle()
    return road


def directions(pipeline: Pipeline) -> tuple[str, ...]:
    return SYSTEMS if pipeline.two_way else SYSTEMS[:1]


def paced(road: Road, rate: float, seconds: float, systems: Sequence[str], seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values and series of one latency cell."""
    marks, loads = road.marks(), {}
    before = Cpu.of(road.parts())
    for system in systems:
        stretch = road.stretch(system)
        first = road.numbers(system, stretch.rows)
        loads[system] = (first, load.Paced(road.world.dsns[system], rate, seconds, stretch, first, seed + ord(system[0])))
    try:
        made = {system: (first, child.wait(seconds + 60)) for system, (first, child) in loads.items()}
    finally:
        for _, child in loads.values():
            child.stop()
    found = [road.arrived(system, first, count, marks) for system, (first, count) in made.items()]
    used = Cpu.of(road.parts())
    latency = np.concatenate([(one["arrived"] - one["committed"]) / 1000 for one in found])
    reading = np.concatenate([(one["read"] - one["committed"]) / 1000 for one in found])
    count = len(latency)
    lasted = (max(one["committed"].max() for one in found) - min(one["committed"].min() for one in found)) / 1e6
    values = {
        **{f"p{at:g}": percentile(latency, at) for at in (50, 90, 99)},
        "max": float(latency.max()),
        "reading_p50": percentile(reading, 50),
        "reading_p99": percentile(reading, 99),
        "changes": count,
        "rate": count / lasted if lasted else 0.0,
        **{f"cores {name}": seconds_ / (used.at - before.at) for name, seconds_ in used.since(before).items()},
    }
    return values, {"latency": curve(latency)}


def burst(road: Road, changes: int, systems: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values and series of one burst: all changes are in the log as fast as the database takes them."""
    marks = road.marks()
    before = Cpu.of(road.parts())
    failed: list[BaseException] = []
    made: dict[str, tuple[int, int]] = {}

    def make(system: str, stretch: load.Stretch, first: int) -> None:
        try:
            load.update_each(road.world.dsns[system], stretch, first)
        except BaseException as error:
            failed.append(error)

    threads = []
    with Memory(road.pipeline.parts) as memory:
        for system in systems:
            stretch = road.stretch(system, changes)
            first = road.numbers(system, stretch.rows)
            made[system] = (first, stretch.rows)
            threads.append(threading.Thread(target=make, args=(system, stretch, first)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
        found = [road.arrived(system, first, count, marks) for system, (first, count) in made.items()]
    after = Cpu.of(road.parts())
    used = after.since(before)
    arrived = np.concatenate([one["arrived"] for one in found]) / 1e6
    written = np.concatenate([one["committed"] for one in found]) / 1e6
    values = {
        "rate": steady_rate(arrived),
        "made_rate": steady_rate(written),
        "changes": len(arrived),
        **{f"us {name}": seconds / len(arrived) * 1e6 for name, seconds in used.items()},
        **{f"cores {name}": seconds / (after.at - before.at) for name, seconds in used.items()},
        **{f"mb {name}": peak for name, peak in memory.peak.items()},
    }
    return values, {"arrivals": per_second(arrived)}


def cells(pipeline: Pipeline, sizes: Sizes) -> Iterator[tuple[str, Any]]:
    """(name, what measures it)."""
    ways = [("one way", SYSTEMS[:1]), *([("both ways", SYSTEMS)] if pipeline.two_way else [])]
    yield "idle, one way", partial(paced, rate=sizes.idle, seconds=sizes.seconds, systems=SYSTEMS[:1])
    for way, systems in ways:
        for rate in sizes.rates:
            yield f"{rate:,g}/s, {way}", partial(paced, rate=rate, seconds=sizes.seconds, systems=systems)
    for way, systems in ways:
        yield f"burst, {way}", partial(burst, changes=sizes.burst, systems=systems)


def run(world: World, book: Book, sizes: Sizes, wanted: Sequence[str]) -> None:
    """`wanted`: words of which one is in each contestant's name; none: all."""
    makers: dict[str, Callable[[str], Pipeline]] = {
        "Concord": Concord,
        "Debezium + JDBC sink": DebeziumJdbc,
        "logical replication": Logical,
        "Concord" + AGAIN: Concord,
    }
    chosen = [name for name in makers if not wanted or any(word.lower() in name.lower() for word in wanted)]
    for round_, name in interleaved(chosen, sizes.rounds):
        pipeline = makers[name](name)
        attempt(book, SECTION, pipeline.name, round_, world.say, partial(_one, world, book, sizes, round_, pipeline))


def _one(world: World, book: Book, sizes: Sizes, round_: int, pipeline: Pipeline) -> None:
    with ExitStack() as stack:
        road = a_road(stack, world, pipeline, max(2 * sizes.burst, round(4 * max(sizes.rates) * sizes.seconds)))
        for name, measure in cells(pipeline, sizes):
            if name.startswith("burst"):
                pipeline.hurry()
            options = {} if name.startswith("burst") else {"seed": 100 * round_ + 1}
            values, series = measure(road, **options)
            pipeline.settle()
            book.add(SECTION, pipeline.name, name, round_, values, series)
            told = (
                f"p50 {values['p50']:.1f} ms, p99 {values['p99']:.1f}, max {values['max']:.0f}"
                if "p50" in values
                else f"{values['rate']:,.0f}/s"
            )
            world.say(f"  {pipeline.name}, {name}: {told}")
