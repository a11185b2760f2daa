"""Memory over a run: a steady load in both directions for minutes or hours, and what every part has resident all the while."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from bench.contestants.concord import Concord
from bench.figures import slope
from bench.rounds import Book, attempt
from bench.sections.path import a_road, paced
from bench.usage import Memory
from bench.world import SYSTEMS, World

SECTION = "memory"
SLICE_SECONDS = 30.0  # the load comes in slices, and all of one has arrived before the next
TELLS_SLOPE = 600.0  # seconds: with less, a step would be told as a slope
POINTS = 400  # of each part's memory that are kept, for the plot


@dataclass(frozen=True)
class Sizes:
    minutes: float
    rate: float = 200.0  # changes a second in each direction


def run(world: World, book: Book, sizes: Sizes) -> None:
    attempt(book, SECTION, "Concord", 0, world.say, partial(_run, world, book, sizes))


def _run(world: World, book: Book, sizes: Sizes) -> None:
    with ExitStack() as stack:
        pipeline = Concord("Concord")
        road = a_road(stack, world, pipeline, round(4 * sizes.rate * SLICE_SECONDS))
        ends = time.monotonic() + sizes.minutes * 60
        worst = 0.0
        with Memory(lambda: {**pipeline.parts(), "Kafka": world.parts()["Kafka"]}, every=1.0) as memory:
            number = 0
            while (left := ends - time.monotonic()) > 1:
                values, _ = paced(road, sizes.rate, min(SLICE_SECONDS, left), SYSTEMS, seed=number)
                number, worst = number + 1, max(worst, values["p99"])
                if number % 4 == 0:
                    world.say(f"  {left / 60:.1f} minutes left, p99 {values['p99']:.1f} ms; " + shown(memory.peak))
        for part, seen in memory.seen.items():
            book.add(SECTION, "Concord", part, 0, told(seen), {"mb": seen[:: max(1, len(seen) // POINTS)]})
        world.say(f"  {number} slices, worst p99 {worst:.1f} ms; at most " + shown(memory.peak))


def told(seen: list[tuple[float, float]]) -> dict[str, float]:
    """What is said of one part: (seconds, megabytes) in, MB at first (once it is warm), MB at the end, MB an hour."""
    warm = seen[len(seen) // 3 :]
    few = max(1, len(warm) // 10)
    found = {
        "first": statistics.median(value for _, value in warm[:few]),
        "last": statistics.median(value for _, value in warm[-few:]),
        "highest": max(value for _, value in seen),
    }
    if warm[-1][0] - warm[0][0] >= TELLS_SLOPE:
        found["slope"] = slope((at / 3600, value) for at, value in warm)
    return found


def shown(peak: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.0f} MB" for name, value in peak.items())
