"""Intake: captured row changes → changes of known things. One agent per root table.

    <system>.<schema>.<table> ──▶ echo? ─▶ in scope? ─▶ columns to fields ─▶ which thing? ──▶ changes.<entity>   keyed by link
                                                                              │    ▲
                                                                    claims.<entity> │ links.<system>.<schema>.<table>
                                                                              ▼    │
                                                                            identify

A table may serve several entities; its agent's table keeps, per row key, what `streams.rows` knows of the row for each of them. Both
topics have the same partitions, and one lane handles a partition of both, so an event and an answer never cross.

An event that cannot be handled is a dead letter, and all others of its chunk go on (I8). Only what is out of reach (the crosswalk, the
registry) fails the chunk: it comes again until it is there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import orjson

from schemas import topics
from schemas.change import Canonical, Op
from schemas.dead import Where
from schemas.envelope import EventOp
from schemas.errors import MappingError, NotAnEvent, SchemaError
from schemas.mapping import Binding, Entity, Pipeline
from schemas.metrics import BATCH_SIZE, State
from schemas.serde import Codec
from streams.crosswalk import Crosswalk
from streams.events import Columns, Events, Seen
from streams.letters import DeadLetters, named
from streams.metrics import PART, Ends, count
from streams.rows import Known, Place, RowChange, Step, on_answer, on_event, on_moved
from streams.transport import Chunk, ChunkApp, ChunkTable, Output, Record

ORIGIN_PREFIX = "concord_"  # of the replication origins that sinks write under
_BAD = (SchemaError, MappingError)

_OPS = {EventOp.CREATE: Op.CREATE, EventOp.UPDATE: Op.UPDATE, EventOp.DELETE: Op.DELETE, EventOp.READ: Op.READ}


def row_change(seen: Seen, binding: Binding, entity: Entity) -> RowChange:
    """The event as one entity sees it. Raises MappingError."""
    envelope, after = seen.envelope, seen.after
    key = _key_of(seen, binding)
    counts = after is not None and binding.in_scope(after)
    values = binding.to_canonical(after) if after is not None and counts else None
    source = envelope.source
    ours = source.origin is not None and source.origin.startswith(ORIGIN_PREFIX)  # I5
    op = _OPS[envelope.op]
    if op is Op.UPDATE and seen.before is not None and values is not None and _was_outside(binding, seen.before):
        op = Op.CREATE
    was = None
    if seen.moved_from is not None:
        was = binding.key_of({column: str(part) for column, part in seen.moved_from.items()})
        op = Op.UPDATE
    return RowChange(
        key=key,
        op=op,
        position=seen.position,
        ts_us=source.ts_us,
        origin_hlc=(source.origin_lsn or 0) if ours else None,
        values=values,
        match=None if values is None else entity.match_value(values),
        match_known=values is None or all(name in values for name in entity.match_on),
        was=was if was != key else None,
        xid=source.tx_id,
        outside=None if after is None or counts else partial(_held_outside, binding, after),
    )


def _held_outside(binding: Binding, row: Columns) -> Mapping[str, Canonical]:
    """What a row that is out of scope holds; nothing, if the mapping cannot read it: it is nobody's business while it does not count."""
    try:
        return binding.to_canonical(row)
    except MappingError:
        return {}


def _key_of(seen: Seen, binding: Binding) -> str:
    row = seen.after if seen.after is not None and all(column in seen.after for column in binding.key_columns) else seen.key
    if row is None:
        raise MappingError(f"an event of {binding} without key: nobody can tell which row it is about")
    return binding.key_of(row)


def _was_outside(binding: Binding, before: Columns) -> bool:
    """Whether a row that is in scope now was not before; False when that is not known."""
    return binding.needed <= before.keys() and not binding.in_scope(before)


class Intake:
    """The agent of one root table."""

    def __init__(
        self, app: ChunkApp, pipeline: Pipeline, bindings: Sequence[Binding], codec: Codec, crosswalk: Crosswalk, letters: DeadLetters
    ) -> None:
        self._app, self._crosswalk, self._letters = app, crosswalk, letters
        self._events = Events(codec)
        self._bindings = {binding.entity: binding for binding in bindings}
        self._entities = {name: pipeline.entities[name] for name in self._bindings}
        self._mapped = {binding.entity: {column for each in binding.columns.values() for column in each} for binding in bindings}
        root = bindings[0]
        self.system, self.name = root.system, f"{root.table.schema}.{root.table.name}"
        self.captured = topics.captured(root.system, root.table.schema, root.table.name)
        self.links = topics.links(root.system, root.table.schema, root.table.name)
        self.last_ts_us = 0  # commit time of the event handled last
        self._table = cast("ChunkTable[dict[str, Known]]", app.Table(self.captured, partitions=pipeline.config.kafka.partitions))
        app.agent(app.chunk_topic(self.captured, self.links), name=f"intake-{self.captured}")(cast(Any, self.run))

    async def run(self, chunks: AsyncIterator[Chunk]) -> None:
        async for chunk in chunks:
            BATCH_SIZE.labels(PART).observe(len(chunk))
            await (self.on_events(chunk) if chunk.topic == self.captured else self.on_answers(chunk))

    # what was captured ----------------------------------------------------------------------------------------------------------------

    async def on_events(self, chunk: Chunk) -> None:
        ends, outputs = Ends(), list[Output]()
        await self._events.fetch_schemas(chunk)
        changes: list[tuple[Record, str, RowChange, bool]] = []
        for record in chunk:
            if record.value is not None:  # else a tombstone: its delete came before it, and compaction is what it is for
                changes.extend(self._read(record, outputs, ends))
        found = await self._found(changes)
        place = Place(self.system, self.name, chunk.partition)
        for _, entity, change, moved_on in changes:
            key = change.key
            known = (self._table.get(key) or {}).get(entity)
            if moved_on:
                self._take(entity, key, known, on_moved(known, change, place), outputs)
                ends[self.system, entity, State.SUPERSEDED] += 1
                continue
            link = found.get((entity, key)) or (found.get((entity, change.was)) if change.was else None)
            step = on_event(known, change, place, self.system in self._entities[entity].born_in, link)
            self._take(entity, key, known, step, outputs)
            if step.out_of_scope:
                ends[self.system, entity, State.OUT_OF_SCOPE] += 1
            self.last_ts_us = change.ts_us
        await self._app.deliver(outputs)  # I9: before the table's changes, which are written when this chunk ends
        count(ends)

    def _read(self, record: Record, outputs: list[Output], ends: Ends) -> list[tuple[Record, str, RowChange, bool]]:
        """The event as each of the table's entities sees it; what cannot be read becomes a dead letter."""
        try:
            seen = self._events.read(record)
            if seen.envelope.op not in _OPS:
                told = {EventOp.TRUNCATE: "a TRUNCATE: which rows it removed is not in the log; snapshot the table to find out"}
                raise NotAnEvent(told.get(seen.envelope.op, f"an event of kind {seen.envelope.op.value!r} on a table's topic"))
        except SchemaError as error:
            self._bury(record, error, None, outputs, ends)
            return []
        changes = []
        for entity, binding in self._bindings.items():
            try:
                self._check_columns(seen, entity)
                change = row_change(seen, binding, self._entities[entity])
                changes.append((record, entity, change, seen.moved_on and seen.envelope.op is EventOp.DELETE))
            except _BAD as error:
                self._bury(record, error, entity, outputs, ends)
        return changes

    def _check_columns(self, seen: Seen, entity: str) -> None:
        """A mapped column that was dropped or renamed stops its entity and says so: going on would let the systems drift apart."""
        gone = self._mapped[entity] - seen.columns
        if gone and seen.after is not None:
            raise SchemaError(
                f"{self.system}: {self.name} has no column {', '.join(sorted(gone))} any more, which {entity} is mapped to: "
                "bring it back or change the mapping, then read the table again"
            )

    def _bury(self, record: Record, error: Exception, entity: str | None, outputs: list[Output], ends: Ends) -> None:
        outputs.append(self._letters.output(record, error, Where.INTAKE, self.system, entity))
        ends[self.system, entity or "", State.DEAD] += 1
        ends.example(State.DEAD, named(record, error))

    async def _found(self, changes: Sequence[tuple[Record, str, RowChange, bool]]) -> dict[tuple[str, str], str]:
        """(entity, key) → link, of rows whose link the table does not have and the crosswalk does. Raises Retriable.

        The sink links a row in the transaction that makes it, so an echo's link is there; but its event may be read before the transaction
        is visible. Only once it is, no link means that there is none: a trigger's row (docs/decisions/0008).
        """
        unknown = self._unknown(changes)
        found = await self._crosswalk.links_of(self.system, unknown)
        missed = [
            (entity, change.key, change.xid)
            for _, entity, change, _ in changes
            if change.origin_hlc is not None and change.values is not None and change.xid is not None
            if (entity, change.key) in unknown and (entity, change.key) not in found
        ]
        if missed:
            await self._crosswalk.await_visible(self.system, {xid for _, _, xid in missed})
            found |= await self._crosswalk.links_of(self.system, {(entity, key) for entity, key, _ in missed})
        return found

    def _unknown(self, changes: Iterable[tuple[Record, str, RowChange, bool]]) -> set[tuple[str, str]]:
        """(entity, key) of rows whose link the table does not have."""
        unknown = set()
        for _, entity, change, _ in changes:
            known = (self._table.get(change.key) or {}).get(entity)
            if known is None or known["link"] is None:
                unknown.add((entity, change.key))
                if change.was is not None:
                    unknown.add((entity, change.was))
        return unknown

    # what identify answers --------------------------------------------------------------------------------------------------------------

    async def on_answers(self, chunk: Chunk) -> None:
        ends, outputs = Ends(), list[Output]()
        for record in chunk:
            try:
                entity, key, link, value, at = _answer(record, self._bindings)
            except SchemaError as error:
                self._bury(record, error, None, outputs, ends)
                continue
            known = (self._table.get(key) or {}).get(entity)
            taken = link is not None and known is not None and known["link"] is None and await self._is_taken(entity, link, key, known)
            births = self.system in self._entities[entity].born_in
            step = on_answer(known, link, value, at, Place(self.system, self.name, chunk.partition), key, births, taken)
            self._take(entity, key, known, step, outputs)
        await self._app.deliver(outputs)  # I9
        count(ends)

    async def _is_taken(self, entity: str, link: str, key: str, known: Known) -> bool:
        """Whether the thing has another row here. It may have gone in the very transaction that this row came with. Raises Retriable."""
        if not await self._crosswalk.another_row(self._bindings[entity], link, key):
            return False
        xids = {doc["xid"] for doc in known["pending"] if "xid" in doc}
        await self._crosswalk.await_visible(self.system, xids)
        return not xids or await self._crosswalk.another_row(self._bindings[entity], link, key)

    # both ---------------------------------------------------------------------------------------------------------------------------------

    def _take(self, entity: str, key: str, known: Known | None, step: Step, outputs: list[Output]) -> None:
        outputs.extend(Output(topics.changes(entity), link.encode(), change.encode()) for link, change in step.changes)
        outputs.extend(Output(topics.claims(entity), value.encode(), orjson.dumps(claim)) for value, claim in step.claims)
        if not _tells_more(known, step.known):
            return
        told = dict(self._table.get(key) or {})
        if step.known is None:
            told.pop(entity, None)
        else:
            told[entity] = step.known
        if told:
            self._table[key] = told
        else:
            self._table.pop(key, None)


def _tells_more(known: Known | None, after: Known | None) -> bool:
    """Whether the table must be written. The newest position alone is not worth it: an event that is taken for new once more then says
    nothing about the row's link, match value or presence that the table does not hold."""
    if known is None or after is None:
        return known is not after
    return known is not after and any(known.get(name) != after.get(name) for name in ("link", "match", "there", "pending", "outside"))


def _answer(record: Record, bindings: Mapping[str, Binding]) -> tuple[str, str, str | None, str, str]:
    """(entity, key, link, match value, position). Raises SchemaError."""
    try:
        told = orjson.loads(record.value or b"")
        entity, key, link, value, at = told["entity"], told["key"], told["link"], told["value"], told["at"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise SchemaError(f"not an answer to a claim: {error!r}") from error
    if entity not in bindings or not all(isinstance(text, str) for text in (key, value, at)) or not isinstance(link, str | None):
        raise SchemaError(f"not an answer to a claim of this table: {told!r}")
    return entity, key, link, value, at
