"""From the log to Kafka: the rows that are there, a backlog of one-row transactions, one large transaction.

    1. everybody reads the table's rows (snapshot), then stops; each has a slot of its own
    2. the backlog is made, once for all: N transactions of one row in `item`, then one transaction of N rows in `bulk`
    3. everybody reads the same backlog, one after the other

Time runs from the first event in Kafka to the last, so a Java machine's start is not in it. CPU is that of the contestant's own process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from bench import load
from bench.contestants import Reader
from bench.contestants.concord import ConcordSource
from bench.contestants.debezium import DebeziumSource
from bench.rounds import Book, attempt, interleaved
from bench.usage import Cpu, Memory
from bench.world import BenchError, Ends, World, merged, until

SECTION = "source"
TABLES = ("item", "bulk")
READ_SECONDS = 600.0


@dataclass(frozen=True)
class Sizes:
    rounds: int
    rows: int  # of the snapshot
    events: int  # of the backlog, and of the large transaction


def contestants(wanted: Sequence[str]) -> list[Callable[[], Reader]]:
    makers: list[tuple[str, Callable[[], Reader]]] = [
        ("Concord", partial(ConcordSource, "Concord", TABLES)),
        ("Debezium, tuned", partial(DebeziumSource, "tuned", TABLES)),
        ("Debezium, default", partial(DebeziumSource, "default", TABLES)),
        ("Concord (again)", partial(ConcordSource, "Concord (again)", TABLES, "again")),
    ]
    return [maker for name, maker in makers if not wanted or any(word.lower() in name.lower() for word in wanted)]


def run(world: World, book: Book, sizes: Sizes, wanted: Sequence[str]) -> None:
    order: dict[int, list[Callable[[], Reader]]] = {}
    for round_, maker in interleaved(contestants(wanted), sizes.rounds):
        order.setdefault(round_, []).append(maker)
    for round_, makers in order.items():
        _round(world, book, sizes, round_, [maker() for maker in makers])


def _round(world: World, book: Book, sizes: Sizes, round_: int, readers: list[Reader]) -> None:
    dsn = world.fresh()["crm"]
    for system in world.dsns:
        load.create(world.dsns[system], *TABLES)
    load.fill(dsn, "item", sizes.rows)
    left = [
        reader
        for reader in readers
        if attempt(book, SECTION, reader.name, round_, world.say, partial(_snapshot, world, book, sizes, round_, reader))
    ]
    load.insert_each(dsn, "item", sizes.events, sizes.rows + 1)
    load.fill(dsn, "bulk", sizes.events)
    world.say(f"source: a backlog of {sizes.events:,} transactions and one of {sizes.events:,} rows is in the log")
    for reader in left:
        attempt(book, SECTION, reader.name, round_, world.say, partial(_backlog, world, book, sizes, round_, reader))


def _snapshot(world: World, book: Book, sizes: Sizes, round_: int, reader: Reader) -> None:
    clock = _Clock(world, reader)
    try:
        with Memory(reader.parts) as memory:
            values, series = clock.read("item", 0, sizes.rows, start=True)
            until(reader.read_all, f"{reader.name} does not finish its snapshot")
            time.sleep(1.5)  # its offsets are noted
        values["mb"] = sum(memory.peak.values())
        book.add(SECTION, reader.name, "snapshot", round_, values, series)
    finally:
        clock.close()
    world.say(f"  {reader.name}, snapshot: {values['rate']:,.0f} rows/s")


def _backlog(world: World, book: Book, sizes: Sizes, round_: int, reader: Reader) -> None:
    clock = _Clock(world, reader)
    try:
        with Memory(reader.parts) as memory:
            begin = {table: clock.ends.count(reader.topic(table)) for table in TABLES}
            each, each_series = clock.read("item", begin["item"], sizes.events, start=True)
            bulk, bulk_series = clock.read("bulk", begin["bulk"], sizes.events, start=False)
        each["mb"] = bulk["mb"] = sum(memory.peak.values())
        book.add(SECTION, reader.name, "one-row transactions", round_, each, each_series)
        book.add(SECTION, reader.name, "one transaction", round_, bulk, bulk_series)
    finally:
        clock.close()
    world.say(f"  {reader.name}, backlog: {each['rate']:,.0f} events/s in one-row transactions, {bulk['rate']:,.0f} in one")


class _Clock:
    """Starts a reader and looks at how many records its topics have."""

    def __init__(self, world: World, reader: Reader) -> None:
        self.ends = Ends(world.bootstrap)
        self._world, self._reader = world, reader

    def read(self, table: str, before: int, events: int, start: bool) -> tuple[dict[str, float], dict[str, list[tuple[float, float]]]]:
        """Values and series of `events` records more in a table's topic."""
        topic, looks = self._reader.topic(table), list[tuple[float, int]]()
        if start:
            self._reader.start(self._world)
        cpu: Cpu | None = None
        checked = time.monotonic()
        deadline = checked + READ_SECONDS
        while True:
            count = self.ends.count(topic) - before
            if count > 0 and cpu is None:
                cpu = self._cpu()
            if count > 0:
                looks.append((time.monotonic(), count))
            if count >= events:
                break
            if time.monotonic() > checked + 1:
                self._reader.check()
                checked = time.monotonic()
            if time.monotonic() > deadline:
                raise BenchError(f"{max(0, count):,} of {events:,} events of {table} are in Kafka after {READ_SECONDS:g} s")
            time.sleep(0.02)
        assert cpu is not None
        used = self._cpu().since(cpu)
        (began, first), (ended, last) = looks[0], looks[-1]
        if ended <= began:
            raise BenchError(f"{events:,} events of {table} came faster than they can be counted: take more")
        own = sum(used.get(name, 0.0) for name in self._reader.parts())
        values = {
            "rate": (last - first) / (ended - began),
            "late_rate": _late_rate(looks),
            "events": float(last),
            "us": own / (last - first) * 1e6,
            **{f"us {name}": used[name] / (last - first) * 1e6 for name in ("Kafka", "PostgreSQL")},
        }
        return values, {"rate": _rates(looks)}

    def _cpu(self) -> Cpu:
        return Cpu.of(merged(self._reader.parts(), self._world.parts()))

    def close(self) -> None:
        with suppress(Exception):
            self._reader.stop()
        self.ends.close()


def _late_rate(looks: Sequence[tuple[float, int]]) -> float:
    """Of the second half of the events: a Java machine is warm by then."""
    middle = (looks[0][1] + looks[-1][1]) / 2
    (began, first), (ended, last) = next(look for look in looks if look[1] >= middle), looks[-1]
    return (last - first) / (ended - began) if ended > began else 0.0


def _rates(looks: Sequence[tuple[float, int]], width: float = 0.5) -> list[tuple[float, float]]:
    """(seconds, events a second) in steps."""
    found, (began, before) = list[tuple[float, float]](), looks[0]
    last = began
    for at, count in looks[1:]:
        if at - last >= width:
            found.append((round(last - began, 2), round((count - before) / (at - last), 1)))
            last, before = at, count
    return found
