"""Join: rows of several tables → rows of an entity → changes of known things. One agent per binding with parts.

    intake of each of its tables ──▶ join.<system>.<entity> ──▶ reducer ──▶ entity rows ──▶ which thing? ──▶ changes.<entity>
                                          ▲                 (`streams.assemble`)         (`streams.linking`)
                                          └── from node to node ──┘

A captured topic is partitioned by the bytes of its key, which only its writer can make; this one by the names of nodes. So all that there
is to know of a node comes by one partition, in order, and a root's entity rows are told in the lane that identify answers to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import orjson

from schemas import topics
from schemas.change import Op
from schemas.errors import MappingError, SchemaError
from schemas.mapping import Binding, Entity, Pipeline
from schemas.metrics import BATCH_SIZE
from streams.assemble import EntityRow, Outcome, Tree
from streams.crosswalk import Crosswalk
from streams.letters import DeadLetters
from streams.linking import EntityChange, Linking
from streams.metrics import PART, Ends, count
from streams.rows import RowChange
from streams.rules import parts_read
from streams.transport import Chunk, ChunkApp, Output, Record

_BAD = (SchemaError, MappingError)

DELIVERED_AT_ONCE = 5_000  # messages: a row that ten thousand others share takes as many, and a chunk may have many such rows


class Join:
    """The agent of one binding."""

    def __init__(self, app: ChunkApp, pipeline: Pipeline, binding: Binding, crosswalk: Crosswalk, letters: DeadLetters) -> None:
        self._app, self._letters = app, letters
        self._tree, self._binding, self._entity = Tree(binding), binding, pipeline.entities[binding.entity]
        self._fields = parts_read(binding)
        self.system, self.topic = binding.system, topics.join(binding.system, binding.entity)
        links = topics.joined_links(binding.system, binding.entity)
        self._nodes = app.grouped_table(self.topic, pipeline.config.kafka.partitions)
        self._linking = Linking(app, pipeline, [binding], links, crosswalk, letters)
        app.agent(app.chunk_topic(self.topic, links), name=self.topic)(cast(Any, self.run))

    async def run(self, chunks: AsyncIterator[Chunk]) -> None:
        async for chunk in chunks:
            BATCH_SIZE.labels(PART).observe(len(chunk))
            await (self.on_messages(chunk) if chunk.topic == self.topic else self._linking.on_answers(chunk))

    async def on_messages(self, chunk: Chunk) -> None:
        ends, outputs, changes = Ends(), list[Output](), list[EntityChange]()
        for record in chunk:
            outcome = self._outcome(record, chunk.partition, outputs, ends)
            if outcome is None:
                continue
            for output in self._messages(outcome):
                outputs.append(output)
                if len(outputs) >= DELIVERED_AT_ONCE:
                    await self._app.deliver(outputs)  # I9: before the table's changes, which are written when this chunk ends
                    outputs.clear()
            self._put(outcome)
            changes.extend(self._changes(record, outcome, outputs, ends))
            if outcome.end is not None:
                ends[self.system, self._entity.name, outcome.end] += 1
        await self._linking.take(changes, chunk.partition, outputs, ends)
        await self._app.deliver(outputs)  # I9
        count(ends)

    def _outcome(self, record: Record, lane: int, outputs: list[Output], ends: Ends) -> Outcome | None:
        try:
            message = orjson.loads(record.value or b"")
            return self._tree.step((record.key or b"").decode(), message, self._nodes, lane)
        except (*_BAD, ValueError) as error:  # orjson's and UTF-8's errors are ValueErrors
            self._letters.bury(record, error, self.system, self._entity.name, outputs, ends)
            return None

    def _messages(self, outcome: Outcome) -> Iterator[Output]:
        for targets, message in outcome.sends:
            value = orjson.dumps(message)  # one for all
            for target in list(targets):  # a group may change while its members are told
                yield Output(self.topic, target.encode(), value)

    def _put(self, outcome: Outcome) -> None:
        for name, state in outcome.puts.items():
            if state is not None:
                self._nodes[name] = state
            elif name in self._nodes:
                del self._nodes[name]

    def _changes(self, record: Record, outcome: Outcome, outputs: list[Output], ends: Ends) -> Iterator[EntityChange]:
        for told in outcome.told:
            try:
                change = row_change(told, self._binding, self._entity, self._fields)
                yield EntityChange(self._entity.name, change, record, told.moved_on)
            except MappingError as error:
                self._letters.bury(record, error, self.system, self._entity.name, outputs, ends)


def row_change(told: EntityRow, binding: Binding, entity: Entity, fields: dict[str, tuple[str, ...]]) -> RowChange:
    """The entity row as intake's steps see it. Raises MappingError."""
    cause, row = told.cause, told.row
    values = binding.to_canonical(row) if row is not None and binding.in_scope(row) else None
    places = {"": told.position, **told.positions}
    return RowChange(
        key=told.key,
        op=Op.DELETE if row is None else told.op,
        position=told.position,
        ts_us=cause.ts_us,
        origin_hlc=cause.origin_hlc,
        values=values,
        match=None if values is None else entity.match_value(values),
        match_known=values is None or all(name in values for name in entity.match_on),
        was=told.was,
        xid=cause.xid,
        positions={name: ",".join([places[part] for part in parts]) for name, parts in fields.items()},
        at=cause.at,
        part=cause.part,
        told=told.version,
        ours=told.ours,
    )
