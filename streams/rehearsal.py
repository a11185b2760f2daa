"""The streams in memory, for a question: what would come of these events? Nothing is read or written here but what the caller hands in.

    tables (`load`) ─┐
                     ▼
    records ─▶ the agents of `streams.app` ⇄ each other ──▶ `told`: golden records, conflicts, dead letters

The agents are the real ones, so are the pure functions behind them (join, intake, identify, merge); only what they stand on is another: a
table is a dict, a delivery is a call, a topic that nobody reads is a list, and the crosswalk asks the databases and writes nothing. A
record that fails an agent for a reason nobody foresaw is named (`poison`), nothing of it is left, and all others go on, as in a worker.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import orjson
from aiokafka.partitioner import murmur2
from fastavro.types import Schema
from faust.types import TP

from schemas.errors import Retriable, UnknownSchema
from schemas.mapping import Pipeline
from schemas.registry import MemoryRegistry, Registry
from schemas.serde import Codec
from streams.app import add_agents
from streams.chunks import Chunk, current_chunk
from streams.chunks_reader import Record
from streams.chunks_table import Grouped
from streams.crosswalk import ReadingCrosswalk
from streams.producer import Output
from streams.transport import ChunkApp

CHUNK = 2_000  # records handed to an agent at once

Agent = Callable[[AsyncIterator[Chunk]], Awaitable[None]]


def changelog(pipeline: str, table: str) -> str:
    """The topic in which a table of the streams is kept."""
    return f"{pipeline}-streams-{table}-changelog"


_NOT_THERE: Any = object()


class Nodes(Grouped):
    """What `GroupedTable` is to a join."""

    def members(self, group: str) -> Mapping[str, bytes]:
        return self.groups.get(group, {})


class Undoable:
    """A table whose changes can be taken back, in front of what holds it: an agent replaces entries, it never changes one in place."""

    def __init__(self, held: dict[str, Any]) -> None:
        self._held = held
        self._before: dict[str, Any] = {}  # what the entries changed since `keep` were

    def keep(self) -> None:
        self._before.clear()

    def undo(self) -> None:
        for key, value in self._before.items():
            if value is not _NOT_THERE:
                self._held[key] = value
            elif key in self._held:
                del self._held[key]
        self._before.clear()

    def _note(self, key: str) -> None:
        self._before.setdefault(key, self._held.get(key, _NOT_THERE))

    def __getitem__(self, key: str) -> Any:
        return self._held[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self._held.get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def __setitem__(self, key: str, value: Any) -> None:
        self._note(key)
        self._held[key] = value

    def __delitem__(self, key: str) -> None:
        self._note(key)
        del self._held[key]

    def pop(self, key: str, *default: Any) -> Any:
        self._note(key)
        return self._held.pop(key, *default)


class UndoableNodes(Undoable):
    _held: Nodes

    def members(self, group: str) -> Mapping[str, bytes]:
        return self._held.members(group)


class Poison(NamedTuple):
    """A record that no agent could handle, for a reason nobody foresaw."""

    record: str  # topic@partition/offset; of a step between agents, the place has a meaning in the rehearsal only
    error: str  # its kind, no text: that may hold values of the row


class Rehearsed:
    """Schemas that are there already are read; new ones are remembered, and never written."""

    def __init__(self, real: Registry) -> None:
        self._real, self._own = real, MemoryRegistry()

    def register(self, subject: str, schema: dict[str, Any]) -> int:
        return self._own.register(subject, schema)

    def schema(self, schema_id: int) -> Schema:
        try:
            return self._own.schema(schema_id)
        except UnknownSchema:
            return self._real.schema(schema_id)

    def known(self, schema_id: int) -> bool:
        return self._own.known(schema_id) or self._real.known(schema_id)

    def close(self) -> None:
        self._real.close()


class Rehearsal:
    """What agents take for their app."""

    on_poison: Any = None

    def __init__(self, pipeline: Pipeline, registry: Registry, crosswalk: ReadingCrosswalk) -> None:
        self.tables: dict[str, dict[str, Any]] = {}
        self.told: dict[str, list[Output]] = {}  # topic that no agent reads → what was sent there
        self.poison: list[Poison] = []
        self.codec = Codec(Rehearsed(registry))
        self._partitions = pipeline.config.kafka.partitions
        self._undoable: dict[str, Undoable] = {}  # the tables, as the agents hold them
        self._agents: dict[str, Agent] = {}
        self._outputs: list[Output] = []  # of the chunk in hand
        self._pending: deque[Record] = deque()
        self._offset = 0
        self.intakes = add_agents(cast(ChunkApp, self), pipeline, self.codec, crosswalk)

    # what the caller hands in -------------------------------------------------------------------------------------------------------

    def load(self, table: str, key: bytes | None, value: bytes | None) -> None:
        """One record of a table's changelog. Records of one key in their order; what is no entry says nothing, as in a worker."""
        held = self.tables[table]
        with contextlib.suppress(ValueError):
            name = (key or b"").decode()
            if value is None:
                held.pop(name, None)
            else:
                held[name] = value if isinstance(held, Nodes) else orjson.loads(value)

    def in_order(self, captured: Iterable[str]) -> list[str]:
        """Captured topics, those before which others' new rows wait first: so they are to be fed."""
        waits = {intake.captured: intake.waits_for for intake in self.intakes}
        found: dict[str, None] = {}

        def take(topic: str) -> None:
            for other in waits.get(topic, ()):
                if other not in found:
                    take(other)
            found.setdefault(topic)

        for topic in sorted(captured):
            take(topic)
        wanted = set(captured)
        return [topic for topic in found if topic in wanted]

    async def feed(self, records: Sequence[Record]) -> None:
        """These captured records, and all that follows from them. Raises Retriable when the crosswalk or the registry does not answer."""
        self._pending.extend(records)
        while self._pending:
            first = self._pending[0]
            place, chunk = (first.topic, first.partition), list[Record]()
            while self._pending and len(chunk) < CHUNK and self._pending[0][:2] == place:
                chunk.append(self._pending.popleft())
            await self._handle(Chunk(TP(*place), chunk))

    async def _handle(self, chunk: Chunk) -> None:
        """I8: of a chunk that fails each record is tried alone."""
        error = await self._tried(chunk)
        if error is None:
            return
        if len(chunk) == 1:
            record = chunk[0]
            self.poison.append(Poison(f"{record.topic}@{record.partition}/{record.offset}", type(error).__name__))
            return
        for record in list(chunk):
            await self._handle(Chunk(chunk.tp, [record]))

    async def _tried(self, chunk: Chunk) -> Exception | None:
        """All of what follows from the chunk, or nothing. Raises Retriable."""

        async def one() -> AsyncIterator[Chunk]:
            yield chunk

        for table in self._undoable.values():
            table.keep()
        self._outputs.clear()
        handing = current_chunk.set(chunk)
        try:
            await self._agents[chunk.topic](one())
        except Retriable:
            raise
        except Exception as error:
            for table in self._undoable.values():
                table.undo()
            return error
        finally:
            current_chunk.reset(handing)
        for output in self._outputs:
            self._take(output)
        return None

    def _take(self, output: Output) -> None:
        if output.topic not in self._agents:
            self.told.setdefault(output.topic, []).append(output)
            return
        key = output.key.encode() if isinstance(output.key, str) else output.key
        partition = output.partition if output.partition >= 0 else (murmur2(key or b"") & 0x7FFFFFFF) % self._partitions
        self._offset += 1
        self._pending.append(Record(output.topic, partition, self._offset, 0, key, output.value, output.headers or ()))

    # what agents call ---------------------------------------------------------------------------------------------------------------

    def Table(self, name: str, partitions: int) -> Undoable:
        return self._undoable.setdefault(name, Undoable(self.tables.setdefault(name, {})))

    def grouped_table(self, name: str, partitions: int) -> Undoable:
        return self._undoable.setdefault(name, UndoableNodes(self.tables.setdefault(name, Nodes())))

    def chunk_topic(self, *names: str) -> tuple[str, ...]:
        return names

    def agent(self, topics: tuple[str, ...], name: str) -> Callable[[Agent], Agent]:
        def taken(agent: Agent) -> Agent:
            self._agents.update(dict.fromkeys(topics, agent))
            return agent

        return taken

    async def deliver(self, items: Iterable[Output]) -> None:
        self._outputs.extend(Output(*item) for item in items)

    async def caught_up(self, topics: Iterable[str]) -> None:
        """Whoever feeds sees to it that these come first."""
