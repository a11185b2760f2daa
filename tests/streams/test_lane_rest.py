"""A lane rests when its chunks are held up, so that small ones become larger ones when everything is busy; and only then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faust.types import TP

from streams import chunks_agent
from streams.chunks import Chunk
from streams.chunks_agent import ENOUGH, Lane
from streams.chunks_reader import Record

WORK = 0.2  # seconds that a chunk takes


@pytest.fixture
def long_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rests that can be told from the hold-ups of a busy machine."""
    monkeypatch.setattr(chunks_agent, "LONGEST_REST", 5.0)


def a_chunk(records: int) -> Chunk:
    return Chunk(TP("in", 0), [Record("in", 0, offset, 0, b"k", b"v", ()) for offset in range(records)])


class Played:
    """A lane between nothing: `begun` is when it began each chunk and how many records were in it."""

    def __init__(self) -> None:
        self.work = 0.0
        self.begun: list[tuple[float, int]] = []
        consumer = SimpleNamespace(begin=lambda chunk: None, finish=lambda chunk: None, settled=asyncio.Event())

        async def handler(chunks: AsyncIterator[Chunk]) -> None:
            async for chunk in chunks:
                self.begun.append((time.monotonic(), len(chunk)))
                await asyncio.sleep(self.work)

        self.lane = Lane(cast(Any, SimpleNamespace(app=SimpleNamespace(consumer=consumer), handler=handler, name="played")), 0)

    async def held_up(self) -> None:
        """One chunk takes as long as usual; the next one is in hand, and is held up."""
        self.lane.put(a_chunk(1))
        await self.begins(1)
        await asyncio.sleep(WORK)
        self.work = WORK
        self.lane.put(a_chunk(1))
        await self.begins(2)

    async def begins(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.begun) < count:
                await asyncio.sleep(0.001)


@pytest.mark.usefixtures("long_rests")
async def test_a_chunk_after_one_that_was_held_up_waits_and_grows() -> None:
    played = Played()
    await played.held_up()
    grows = a_chunk(1)
    played.lane.put(grows)
    await asyncio.sleep(1.5 * WORK)
    grows.records.append(grows[0])  # as the ledger does with a chunk that nobody has begun
    await played.begins(3)
    _, (second, _), (third, size) = played.begun
    assert third - second >= 2.5 * WORK
    assert size == 2
    await played.lane.stop()


@pytest.mark.usefixtures("long_rests")
async def test_a_chunk_after_a_pause_is_begun_at_once() -> None:
    played = Played()
    await played.held_up()
    await asyncio.sleep(4 * WORK)
    put = time.monotonic()
    played.lane.put(a_chunk(1))
    await played.begins(3)
    assert played.begun[2][0] - put < WORK
    await played.lane.stop()


@pytest.mark.usefixtures("long_rests")
async def test_chunks_that_take_as_long_as_ever_are_no_reason_to_rest() -> None:
    played = Played()
    played.work = WORK
    for count in range(1, 4):
        played.lane.put(a_chunk(1))
        await played.begins(count)
    (first, _), _, (third, _) = played.begun
    assert third - first < 3 * WORK
    await played.lane.stop()


@pytest.mark.usefixtures("long_rests")
async def test_who_has_much_to_do_does_not_rest() -> None:
    played = Played()
    await played.held_up()
    played.lane.put(a_chunk(ENOUGH))
    await played.begins(3)
    _, (second, _), (third, _) = played.begun
    assert third - second < 1.9 * WORK
    await played.lane.stop()


async def test_a_chunk_that_took_long_is_no_reason_to_rest_long() -> None:
    played = Played()
    await played.held_up()
    played.lane.put(a_chunk(1))
    await played.begins(3)
    _, (second, _), (third, _) = played.begun
    assert third - second < 1.9 * WORK
    await played.lane.stop()
