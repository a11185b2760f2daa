"""Merge: changes of a thing → its golden record. One agent per entity over `changes.<entity>`, keyed by link id.

changes.<entity> ──▶ fold (`streams.fold`) ──▶ golden.<entity>       to the sinks, and to whoever wants to know
                      ▲ state: table          ──▶ conflicts.<entity>    writes that lost
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any, cast

from schemas import topics
from schemas.change import Change, Op
from schemas.conflicts import CONFLICT_SCHEMA
from schemas.dead import Where
from schemas.errors import SchemaError
from schemas.golden import GoldenRecord, golden_schema
from schemas.mapping import Entity, Pipeline
from schemas.metrics import BATCH_SIZE, CONFLICTS, State
from schemas.repair import Repair, decode_told
from schemas.serde import Codec
from streams.crosswalk import Crosswalk
from streams.fold import End, Folded, ThingState, fold
from streams.letters import DeadLetters, named
from streams.metrics import PART, Ends, count
from streams.repaired import repaired
from streams.restated import restated
from streams.rules import rules_of
from streams.transport import Chunk, ChunkApp, ChunkTable, Output, Record

logger = logging.getLogger(__name__)

_POSITION = re.compile(r"[0-9A-F]{32}(,[0-9A-F]*)*")
_AT = re.compile(r"([0-9A-F]{32})?")
_ENDS = {End.SUPERSEDED: State.SUPERSEDED, End.ECHO: State.ECHO, End.UNCHANGED: State.UNCHANGED}
_INT64 = range(-(1 << 63), 1 << 63)


class Merge:
    """The agent of one entity."""

    def __init__(self, app: ChunkApp, pipeline: Pipeline, entity: Entity, codec: Codec, crosswalk: Crosswalk, letters: DeadLetters) -> None:
        self._app, self._entity, self._crosswalk, self._letters = app, entity, crosswalk, letters
        self._rules = rules_of(pipeline, entity, crosswalk.same_thing)
        self._golden = codec.encoder(f"{topics.golden(entity.name)}-value", golden_schema(entity.name, entity.kinds))
        self._conflict = codec.encoder(f"{topics.conflicts(entity.name)}-value", CONFLICT_SCHEMA)
        self._table = cast("ChunkTable[ThingState]", app.Table(f"things.{entity.name}", partitions=pipeline.config.kafka.partitions))
        app.agent(app.chunk_topic(topics.changes(entity.name)), name=f"merge-{entity.name}")(cast(Any, self.run))

    async def run(self, chunks: AsyncIterator[Chunk]) -> None:
        async for chunk in chunks:
            BATCH_SIZE.labels(PART).observe(len(chunk))
            ends, outputs = Ends(), list[Output]()
            rules: dict[str, int] = {}
            changes = list(self._read(chunk, outputs, ends))
            if self._entity.refs:
                await self._crosswalk.learn(self._references(changes))
            again: dict[str, Change] = {}  # things of which something old was read again
            for record, link, change in changes:
                state = self._table.get(link)
                done = self._folded(link, state, change)
                if isinstance(change, Change) and state is not None and done.state is state and done.end is End.SUPERSEDED:
                    again[link] = change
                try:
                    outputs.extend(self._outputs(done))
                except SchemaError as error:
                    self._bury(record, error, _system_of(change, self._entity), link, outputs, ends)
                    continue
                if done.state is not state:
                    self._table[link] = cast(ThingState, done.state)
                for conflict in done.conflicts:
                    rules[conflict.rule.value] = rules.get(conflict.rule.value, 0) + 1
                if isinstance(change, Repair):
                    continue  # not an event of any system
                if done.end in _ENDS:
                    ends[change.system, self._entity.name, _ENDS[done.end]] += 1
                elif done.record is None or not done.record.targets:
                    ends[change.system, self._entity.name, State.APPLIED] += 1  # nobody else has to hold it
            for link, change in again.items():
                self._tell_again(link, change, outputs)
            await self._app.deliver(outputs)  # I9: before the table's changes
            count(ends)
            for rule, number in rules.items():
                CONFLICTS.labels(self._entity.name, rule).inc(number)

    def _tell_again(self, link: str, change: Change, outputs: list[Output]) -> None:
        state = self._table[link]
        told = restated(link, state, change, self._rules)
        try:
            outputs.extend(self._outputs(told))
        except SchemaError as error:
            logger.debug("%s of %s cannot be told again: %s", link, self._entity.name, error)  # it is a dead letter since it was told first
            return
        if told.state is not state:
            self._table[link] = cast(ThingState, told.state)

    def _folded(self, link: str, state: ThingState | None, told: Change | Repair) -> Folded:
        return repaired(link, state, told, self._rules) if isinstance(told, Repair) else fold(link, state, told, self._rules)

    def _read(self, chunk: Chunk, outputs: list[Output], ends: Ends) -> Iterator[tuple[Record, str, Change | Repair]]:
        for record in chunk:
            try:
                link = (record.key or b"").decode()
                told = decode_told(record.value or b"")
                yield record, link, told if isinstance(told, Repair) else self._checked(link, told)
            except (SchemaError, UnicodeDecodeError) as error:
                self._bury(record, error, self._entity.systems[0], None, outputs, ends)

    def _bury(self, record: Record, error: Exception, system: str, link: str | None, outputs: list[Output], ends: Ends) -> None:
        outputs.append(self._letters.output(record, error, Where.MERGE, system, self._entity.name, link))
        ends[system, self._entity.name, State.DEAD] += 1
        ends.example(State.DEAD, named(record, error))

    def _checked(self, link: str, change: Change) -> Change:
        """The change, if it is one of this entity's. Raises SchemaError."""
        values, origin = change.values, change.origin_hlc
        fits = (
            link != ""
            and change.system in self._entity.bindings
            and isinstance(change.key, str)
            and isinstance(change.position, str)
            and _POSITION.fullmatch(change.position) is not None
            and type(change.ts_us) is int
            and change.ts_us in _INT64
            and (origin is None or (type(origin) is int and origin in _INT64))
            and (values is None) == (change.op is Op.DELETE)
            and (values is None or (isinstance(values, dict) and all(isinstance(value, str | bool | None) for value in values.values())))
            and isinstance(change.positions, dict)
            and all(isinstance(at, str) for at in change.positions.values())
            and isinstance(change.was, str | None)
            and isinstance(change.at, str)
            and _AT.fullmatch(change.at) is not None
            and isinstance(change.part, str)
            and isinstance(change.ours, dict)
            and all(_is_written(one) for one in change.ours.values())
        )
        if not fits:
            raise SchemaError(f"not a change of {self._entity.name}: {change.system!r}, {change.key!r}, {change.op.value!r}")
        if values is not None and not values.keys() <= self._entity.kinds.keys():  # a field that is not configured any more
            return replace(change, values={name: value for name, value in values.items() if name in self._entity.kinds})
        return change

    def _references(self, changes: list[tuple[Record, str, Change | Repair]]) -> set[tuple[str, str]]:
        """(entity, row name) of all references that these changes may have to compare: one that has two different names."""
        wanted: set[tuple[str, str]] = set()
        for _, link, change in changes:
            state = self._table.get(link)
            for name, entity in self._entity.refs.items():
                seen = [row.values for row in change.seen.values()] if isinstance(change, Repair) else [change.values]
                names = {(values or {}).get(name) for values in seen}
                if state is not None:
                    names.add(state["fields"][name][0] if name in state["fields"] else None)
                    names.update(row[3].get(name) for replica in state["replicas"].values() for row in replica["rows"].values())
                names.discard(None)
                if len(names) > 1:
                    wanted.update((entity, each) for each in names if isinstance(each, str))
        return wanted

    def _outputs(self, done: Folded) -> list[Output]:
        """Raises SchemaError when a value is not of its field's kind."""
        outputs = []
        if done.record is not None:
            record = self._configured(done.record)
            outputs.append(Output(topics.golden(record.entity), record.link.encode(), self._golden(record.to_avro())))
        for conflict in done.conflicts:
            outputs.append(Output(topics.conflicts(conflict.entity), conflict.link.encode(), self._conflict(conflict.to_avro())))
        return outputs

    def _configured(self, record: GoldenRecord) -> GoldenRecord:
        """Without fields that were configured once and are no longer."""
        kinds = self._entity.kinds
        if record.values.keys() <= kinds.keys():
            return record
        return replace(
            record,
            values={name: value for name, value in record.values.items() if name in kinds},
            versions={name: version for name, version in record.versions.items() if name in kinds},
        )


def _system_of(change: Change | Repair, entity: Entity) -> str:
    """Under whose dead letters it goes."""
    return entity.systems[0] if isinstance(change, Repair) else change.system


def _is_written(one: Any) -> bool:
    """(value, hlc), as `Change.ours` has them."""
    return (
        isinstance(one, list | tuple)
        and len(one) == 2
        and isinstance(one[0], str | bool | None)
        and type(one[1]) is int
        and one[1] in _INT64
    )
