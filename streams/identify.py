"""Identify: who owns a match value? One agent per entity over `claims.<entity>`, keyed by the value: the only writer of the answer.

    intake, join ── claim, release ──▶ claims.<entity> ──▶ here ──▶ links.<system>.…, in the partition of the row's events

The rules are `streams.claims`. A row that wants a value which another row holds waits until it is let go; it is counted, and told on
`conflicts.<entity>` with the rule `duplicate`, since only a person can say which of the two is the right one.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, cast

import orjson

from schemas import topics
from schemas.conflicts import CONFLICT_SCHEMA, Conflict, Rule, Side
from schemas.dead import Where
from schemas.errors import SchemaError
from schemas.mapping import Entity, Pipeline
from schemas.metrics import BATCH_SIZE, CONFLICTS, State
from schemas.serde import Codec
from streams.claims import Answer, Claim, Decided, Owner, on_claim
from streams.letters import DeadLetters, named
from streams.metrics import PART, Ends, count
from streams.transport import Chunk, ChunkApp, ChunkTable, Output, Record


class Identify:
    """The agent of one entity."""

    def __init__(self, app: ChunkApp, pipeline: Pipeline, entity: Entity, codec: Codec, letters: DeadLetters) -> None:
        self._app, self._entity, self._letters = app, entity, letters
        self._partitions = pipeline.config.kafka.partitions
        self._tables = {binding.system: f"{binding.table.schema}.{binding.table.name}" for binding in entity.bindings.values()}
        self._links = {
            binding.system: topics.joined_links(binding.system, entity.name)
            if binding.parts
            else topics.links(binding.system, binding.table.schema, binding.table.name)
            for binding in entity.bindings.values()
        }
        self._conflict = codec.encoder(f"{topics.conflicts(entity.name)}-value", CONFLICT_SCHEMA)
        self._table = cast("ChunkTable[Owner]", app.Table(f"owners.{entity.name}", partitions=self._partitions))
        app.agent(app.chunk_topic(topics.claims(entity.name)), name=f"identify-{entity.name}")(cast(Any, self.run))

    async def run(self, chunks: AsyncIterator[Chunk]) -> None:
        async for chunk in chunks:
            BATCH_SIZE.labels(PART).observe(len(chunk))
            ends, outputs, duplicates = Ends(), list[Output](), 0
            for record in chunk:
                try:
                    value, claim = self._read(record)
                except SchemaError as error:
                    system = self._entity.systems[0]
                    outputs.append(self._letters.output(record, error, Where.INTAKE, system, self._entity.name))
                    ends[system, self._entity.name, State.DEAD] += 1
                    ends.example(State.DEAD, named(record, error))
                    continue
                decided = on_claim(self._table.get(value), claim)
                self._table[value] = decided.owner
                outputs.extend(self._answer(value, answer) for answer in decided.answers)
                if decided.duplicate is not None:
                    duplicates += 1
                    outputs.append(self._duplicate(value, decided))
                    ends[claim["system"], self._entity.name, State.DUPLICATE_WAITING] += 1
                    row = f"{claim['system']}.{claim['table']}/{claim['key']}"
                    ends.example(State.DUPLICATE_WAITING, f"{self._entity.name} {row} for {decided.owner['link']}")
            await self._app.deliver(outputs)  # I9: before the table's changes
            count(ends)
            CONFLICTS.labels(self._entity.name, Rule.DUPLICATE.value).inc(duplicates)

    def _read(self, record: Record) -> tuple[str, Claim]:
        """Raises SchemaError."""
        try:
            value, claim = (record.key or b"").decode(), orjson.loads(record.value or b"")
            fits = (
                value != ""
                and claim["op"] in ("claim", "release", "refuse")
                and self._tables.get(claim["system"]) == claim["table"]
                and type(claim["partition"]) is int
                and 0 <= claim["partition"] < self._partitions
                and isinstance(claim["key"], str)
                and isinstance(claim["at"], str)
                and isinstance(claim["link"], str | None)
                and isinstance(claim["moved" if claim["op"] == "release" else "born"], bool)
                and isinstance(claim.get("not"), str | None)
            )
        except (ValueError, KeyError, TypeError) as error:  # orjson's and UTF-8's errors are ValueErrors
            raise SchemaError(f"not a claim: {error!r}") from error
        if not fits:
            raise SchemaError(f"not a claim on {self._entity.name}: {claim!r}")
        return value, claim

    def _answer(self, value: str, answer: Answer) -> Output:
        told = {"key": answer.key, "link": answer.link, "entity": self._entity.name, "value": value, "at": answer.at}
        return Output(self._links[answer.system], answer.key.encode(), orjson.dumps(told), answer.partition)

    def _duplicate(self, value: str, decided: Decided) -> Output:
        claim, owner = cast(Claim, decided.duplicate), decided.owner
        slots = owner["slots"] or owner["left"]
        holder = claim["system"] if claim["system"] in slots else next(iter(slots), claim["system"])
        name = self._entity.name
        conflict = Conflict(
            entity=name,
            link=owner["link"],
            field=" ".join(self._entity.match_on),
            won=Side(holder, value, 0, 0, False, slots.get(holder)),
            lost=Side(claim["system"], value, 0, 0, False, claim["key"]),
            rule=Rule.DUPLICATE,
            ts_us=time.time_ns() // 1000,
        )
        return Output(topics.conflicts(name), conflict.link.encode(), self._conflict(conflict.to_avro()))
