"""Intake: captured row changes → changes of known things, or messages of a join. One agent per captured table.

    <system>.<schema>.<table> ──▶ echo? ─▶ in scope? ─▶ columns to fields ─▶ which thing? ──▶ changes.<entity>
                              │                                             (`streams.linking`)
                              └──▶ the columns that a join wants of this table ──▶ join.<system>.<entity>, to the row's node

A table may serve several entities: as the root of some, whose rows need no other table's, and in the joins of others. An event that
cannot be handled is a dead letter, and all others of its chunk go on (I8). Only what is out of reach (the crosswalk, the registry) fails
the chunk: it comes again until it is there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import orjson

from schemas import topics
from schemas.catalog import Table
from schemas.change import Canonical, Op
from schemas.envelope import OUR_ORIGINS, EventOp
from schemas.errors import MappingError, NotAnEvent, SchemaError
from schemas.mapping import Binding, Entity, Part, Pipeline
from schemas.mapping.parts import ROOT
from schemas.metrics import BATCH_SIZE, State
from schemas.serde import Codec
from streams.assemble import Cause, node_name, row_message
from streams.births import waited_for
from streams.crosswalk import Crosswalk
from streams.events import Columns, Events, Seen
from streams.letters import DeadLetters
from streams.linking import EntityChange, Linking
from streams.metrics import PART, Ends, count
from streams.rows import RowChange
from streams.transport import Chunk, ChunkApp, Output, Record

_BAD = (SchemaError, MappingError)

_OPS = {EventOp.CREATE: Op.CREATE, EventOp.UPDATE: Op.UPDATE, EventOp.DELETE: Op.DELETE, EventOp.READ: Op.READ}


def row_change(seen: Seen, binding: Binding, entity: Entity) -> RowChange:
    """The event as one entity sees it. Raises MappingError."""
    envelope, after = seen.envelope, seen.after
    key = _key_of(seen, binding)
    counts = after is not None and binding.in_scope(after)
    values = binding.to_canonical(after) if after is not None and counts else None
    source = envelope.source
    op = _OPS[envelope.op]
    if op is Op.UPDATE and seen.before is not None and values is not None and _was_outside(binding, seen.before):
        op = Op.CREATE
    was = _was(seen, binding)
    if was is not None:
        op = Op.UPDATE
    return RowChange(
        key=key,
        op=op,
        position=seen.position,
        ts_us=source.ts_us,
        origin_hlc=_origin_hlc(seen),
        values=values,
        match=None if values is None else entity.match_value(values),
        match_known=values is None or all(name in values for name in entity.match_on),
        was=was if was != key else None,
        xid=source.tx_id,
        ours=(seen.ours or {}).get(binding.entity, {}),
        outside=None if after is None or counts else partial(_held_outside, binding, after),
    )


def _held_outside(binding: Binding, row: Columns) -> Mapping[str, Canonical]:
    """What a row that is out of scope holds; nothing, if the mapping cannot read it: it is nobody's business while it does not count."""
    try:
        return binding.to_canonical(row)
    except MappingError:
        return {}


def _origin_hlc(seen: Seen) -> int | None:
    """I5: of a transaction of ours, what it applied."""
    source = seen.envelope.source
    ours = source.origin is not None and source.origin.startswith(OUR_ORIGINS)
    return (source.origin_lsn or 0) if ours else None


def _was(seen: Seen, binding: Binding) -> str | None:
    """The key that the row had until now."""
    return None if seen.moved_from is None else binding.key_of(seen.moved_from)


def _key_of(seen: Seen, keyed: Binding | Part) -> str:
    row = seen.after if seen.after is not None and all(column in seen.after for column in keyed.key_columns) else seen.key
    if row is None:
        raise MappingError(f"an event of {keyed} without key: nobody can tell which row it is about")
    return keyed.key_of(row)


def _was_outside(binding: Binding, before: Columns) -> bool:
    """Whether a row that is in scope now was not before; False when that is not known."""
    return binding.needed <= before.keys() and not binding.in_scope(before)


@dataclass(frozen=True)
class Feed:
    """What a join wants of a table's rows. A table may have several places in one join."""

    binding: Binding
    part: Part | None  # None: the root

    @property
    def columns(self) -> tuple[str, ...]:
        return self.binding.root_columns if self.part is None else self.part.columns

    def output(self, seen: Seen) -> Output | None:
        """The message to the row's node; None for a row that no node need know of. Raises MappingError."""
        binding, part, op = self.binding, self.part, _OPS[seen.envelope.op]
        key, source, after = _key_of(seen, part or binding), seen.envelope.source, seen.after
        row = None if after is None else {column: after[column] for column in self.columns if column in after}
        if part is not None and op is Op.CREATE and row is not None and part.kind == "child" and not part.in_scope(row):
            return None  # a new row that does not count; had it been there before, its delete has been read
        name = ROOT if part is None else part.name
        cause = Cause(name, op.value, seen.position, source.ts_us, _origin_hlc(seen), source.tx_id, seen.ours is not None)
        was = _was(seen, binding) if part is None else None
        moved_on = part is None and seen.moved_on and op is Op.DELETE
        ours = (seen.ours or {}).get(binding.entity) if part is None else None
        message = row_message(cause, row, seen.record.partition, seen.record.offset, was if was != key else None, moved_on, ours)
        return Output(topics.join(binding.system, binding.entity), node_name(name, key).encode(), orjson.dumps(message))


class Intake:
    """The agent of one captured table."""

    def __init__(
        self, app: ChunkApp, pipeline: Pipeline, system: str, table: Table, codec: Codec, crosswalk: Crosswalk, letters: DeadLetters
    ) -> None:
        self._app = app
        self._events = Events(codec, table)
        self.system, self.name = system, f"{table.schema}.{table.name}"
        self.captured = topics.captured(system, table.schema, table.name)
        self.last_ts_us = 0  # commit time of the event handled last
        bindings = pipeline.tables(system)
        whole = [binding for binding in bindings if not binding.parts and same_table(binding.table, table)]
        self._bindings = {binding.entity: binding for binding in whole}
        self._entities = pipeline.entities
        self._feeds = list(_feeds(bindings, table))
        self._mapped = {binding.entity: _columns_read(binding) for binding in whole}
        others = waited_for(bindings, pipeline.entities).get((table.schema, table.name), frozenset())
        self.waits_for = [topics.captured(system, schema, name) for schema, name in sorted(others)]
        self._letters = letters
        self._linking = Linking(app, pipeline, whole, self.captured, crosswalk, letters) if whole else None
        read = [self.captured, *([topics.links(system, table.schema, table.name)] if whole else [])]
        app.agent(app.chunk_topic(*read), name=f"intake-{self.captured}")(cast(Any, self.run))

    async def run(self, chunks: AsyncIterator[Chunk]) -> None:
        async for chunk in chunks:
            BATCH_SIZE.labels(PART).observe(len(chunk))
            if chunk.topic == self.captured:
                await self.on_events(chunk)
            elif self._linking is not None:
                await self._linking.on_answers(chunk)

    async def on_events(self, chunk: Chunk) -> None:
        ends, outputs = Ends(), list[Output]()
        await self._events.fetch_schemas(chunk)
        changes: list[EntityChange] = []
        born = False
        for record in chunk:
            if record.value is not None:  # else a tombstone: its delete came before it, and compaction is what it is for
                born |= self._read(record, changes, outputs, ends)
        if born and self.waits_for:
            await self._app.caught_up(self.waits_for)
        if self._linking is not None:
            await self._linking.take(changes, chunk.partition, outputs, ends)
        await self._app.deliver(outputs)  # I9: before the table's changes, which are written when this chunk ends
        count(ends)

    def _read(self, record: Record, changes: list[EntityChange], outputs: list[Output], ends: Ends) -> bool:
        """The event as each of the table's entities sees it; what cannot be read becomes a dead letter. Returns whether its row is new."""
        try:
            seen = self._events.read(record)
            if seen is None:
                ends[self.system, "", State.OUT_OF_SCOPE] += 1
                return False
            if seen.envelope.op not in _OPS:
                told = {EventOp.TRUNCATE: "a TRUNCATE: which rows it removed is not in the log; snapshot the table to find out"}
                raise NotAnEvent(told.get(seen.envelope.op, f"an event of kind {seen.envelope.op.value!r} on a table's topic"))
        except SchemaError as error:
            self._letters.bury(record, error, self.system, None, outputs, ends)
            return False
        self.last_ts_us = seen.envelope.source.ts_us
        for entity, binding in self._bindings.items():
            try:
                self._check_columns(seen, entity, self._mapped[entity])
                change = row_change(seen, binding, self._entities[entity])
                changes.append(EntityChange(entity, change, record, seen.moved_on and seen.envelope.op is EventOp.DELETE))
            except _BAD as error:
                self._letters.bury(record, error, self.system, entity, outputs, ends)
        for feed in self._feeds:
            entity = feed.binding.entity
            try:
                self._check_columns(seen, entity, frozenset(feed.columns))
                if (output := feed.output(seen)) is not None:
                    outputs.append(output)
                else:
                    ends[self.system, entity, State.OUT_OF_SCOPE] += 1
            except _BAD as error:
                self._letters.bury(record, error, self.system, entity, outputs, ends)
        return seen.envelope.op in (EventOp.CREATE, EventOp.READ)

    def _check_columns(self, seen: Seen, entity: str, wanted: frozenset[str]) -> None:
        """A mapped column that was dropped or renamed, or whose value cannot be trusted, stops its entity and says so: going on would let
        the systems drift apart."""
        if (doubtful := wanted & seen.doubts.keys()) and seen.after is not None:
            told = "; ".join(f"{column} {seen.doubts[column]}" for column in sorted(doubtful))
            raise SchemaError(f"{self.system}: {self.name}, which {entity} is mapped to: {told}")
        gone = wanted - seen.columns
        if gone and seen.after is not None:
            raise SchemaError(
                f"{self.system}: {self.name} has no column {', '.join(sorted(gone))} any more, which {entity} is mapped to: "
                "bring it back or change the mapping, then read the table again"
            )


def _feeds(bindings: Iterable[Binding], table: Table) -> Iterable[Feed]:
    """Every place that a table has in a join."""
    for binding in bindings:
        if binding.parts and same_table(binding.table, table):
            yield Feed(binding, None)
        yield from (Feed(binding, part) for part in binding.parts if same_table(part.table, table))


def same_table(one: Table, other: Table) -> bool:
    return (one.schema, one.name) == (other.schema, other.name)


def _columns_read(binding: Binding) -> frozenset[str]:
    return binding.needed | {column for each in binding.columns.values() for column in each}
