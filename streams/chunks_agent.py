"""Agents that receive chunks, and the lanes they run in.

The agent's function runs once per *partition number*, as a task of its own (a lane), for the chunks of that partition of all its topics:

    @app.agent(app.chunk_topic("crm.public.account", "links.crm.public.account"))
    async def account(chunks):
        async for chunk in chunks:                    # of one partition of one topic, in order
            await app.deliver(...)                    # returns when durable                                   ┐
            table[key] = value                        # staged                                                 │ I9
        # asking for the next chunk: this one is finished → table changes to the changelog → durable → acked   ┘

So while one lane waits for its deliveries the others work; chunks that share a table partition never overlap. An exception means that
nothing of the chunk counts: its table changes are undone and it comes back (`Ledger.give_back`); the function is called anew at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from faust.agents.agent import Agent
from faust.types.streams import StreamT
from mode.utils.objects import canonshortname

from schemas.errors import Retriable
from streams.chunks import FAUST_LOGGER, Chunk, Forgotten, current_chunk

if TYPE_CHECKING:
    from streams.transport import ChunkApp, Consumer

logger = logging.getLogger(__name__)

Handler = Callable[[AsyncIterator[Chunk]], Awaitable[None]]

#: What may go through when tried again, however often it takes: never a reason to call a record poison.
OUT_OF_REACH = (Retriable, ConnectionError, TimeoutError)


class Lane:
    """One partition number of one agent: takes chunks in turn, calls the agent's function, settles what it did.

    I4: a row's events are in one partition, and a partition's chunks are handled one after the other.
    """

    def __init__(self, agent: ChunkAgent, partition: int) -> None:
        self.agent, self.partition = agent, partition
        self.app = cast("ChunkApp", agent.app)
        self.chunk: Chunk | None = None  # in hand
        self._waiting: deque[Chunk] = deque()
        self._filled = asyncio.Event()
        self._task = self._start()

    @property
    def consumer(self) -> Consumer:
        return cast("Consumer", self.app.consumer)

    def put(self, chunk: Chunk) -> None:
        self._waiting.append(chunk)
        self._filled.set()

    # what the agent iterates over ---------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Lane:
        return self

    async def __anext__(self) -> Chunk:
        if self.chunk is not None:
            await self._settle(self.chunk)
            self._put_down()
        while True:
            while self._waiting:
                chunk = self._waiting.popleft()
                if not chunk.stale:
                    self.consumer.begin(chunk)
                    self.chunk = chunk
                    current_chunk.set(chunk)
                    return chunk
            self._filled.clear()
            await self._filled.wait()

    def _put_down(self) -> None:
        self.chunk = None
        current_chunk.set(None)
        self.consumer.settled.set()

    async def _settle(self, chunk: Chunk) -> None:
        if chunk.changes and not chunk.stale:
            await self.app.flush(chunk)  # I9: the outputs were awaited by the agent, the changelog is awaited here …
        self.consumer.finish(chunk)  # I9: … and only then may the offset be committed

    # the function, again and again --------------------------------------------------------------------------------------------------

    def _start(self) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._run(), name=f"{self.agent.name}/{self.partition}")
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().create_task(self.app.crash(error))

    async def _run(self) -> None:
        while True:
            try:
                await self.agent.handler(self)
                raise TypeError(f"agent {self.agent.name!r} returned, expected it to ask for chunks for as long as it runs")
            except Exception as exc:  # the outermost place of all that an agent does
                await self._failed(exc)

    async def _failed(self, error: Exception) -> None:
        chunk = self.chunk
        if chunk is None:  # failed before it asked for a chunk
            logger.exception("agent %s/%d failed outside of a chunk", self.agent.name, self.partition)
            await asyncio.sleep(1.0)
            return
        try:
            if chunk.stale:
                return
            chunk.undo()
            retriable = isinstance(error, OUT_OF_REACH)
            if not retriable and self.app.on_poison is not None and self.consumer.ledger.is_poison(chunk):
                try:
                    await self.app.on_poison(self.agent.name, chunk[0], error)
                    await self._settle(chunk)
                    return
                except Exception as exc:  # as above: what a person wrote
                    logger.exception("agent %s: %r could not be given up", self.agent.name, chunk)
                    chunk.undo()
                    error, retriable = exc, True
            self.consumer.give_back(self.agent.name, chunk, error, retriable=retriable)
        finally:
            self._put_down()

    def abandon(self) -> None:
        """The function does not come to an end: nothing of what it does counts, start anew."""
        if self.chunk is not None:
            self.chunk.discard()
        self.chunk = None
        self._task.cancel()
        self._task = self._start()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class ChunkAgent(Agent):
    """A Faust agent whose function is fed by lanes. Faust's own actor subscribes to the topics and does nothing else."""

    logger = FAUST_LOGGER

    def __init__(self, fun: Handler, *, name: str | None = None, **kwargs: Any) -> None:
        self.handler = fun
        self.lanes: dict[int, Lane] = {}
        super().__init__(self._subscribe, name=name or canonshortname(fun), **kwargs)

    async def _subscribe(self, _stream: StreamT[Any]) -> None:
        await asyncio.Event().wait()

    def lane(self, partition: int) -> Lane:
        lane = self.lanes.get(partition)
        if lane is None:
            lane = self.lanes[partition] = Lane(self, partition)
        return lane

    @property
    def label(self) -> str:
        return f"{type(self).__name__}: {self.name}"

    async def on_stop(self) -> None:
        await super().on_stop()
        for lane in self.lanes.values():
            await lane.stop()
        self.lanes.clear()


__all__ = ["ChunkAgent", "Forgotten", "Handler", "Lane"]
