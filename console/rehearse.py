"""The dry run of a replay: the events are folded again in memory, on what the streams know today, and nothing is changed.

    changelogs of the streams ─▶ tables ┐
    captured topics, from the start on ─▶ the streams' own agents (`streams.rehearsal`) ─▶ golden records ─┬▶ against what is agreed now
                                                                                                           └▶ against the systems' rows,
                                                                                                    as the sink would plan (`Foresight`)

The streams' state is read after the end of the replay was fixed, so it is never behind what is folded again. It takes the memory that one
worker of the streams takes for all partitions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from connectors.sink.anew import Foreseen, Foresight
from connectors.sink.golden import GoldenDecoder
from connectors.sink.plan import Task
from connectors.sink.session import open_session
from console.foretold import GOLDEN, Foretold
from console.kafka import Cluster, Letter
from console.replay import Plan
from schemas import topics
from schemas.change import Canonical
from schemas.golden import GoldenRecord
from schemas.mapping import Pipeline
from schemas.registry import Registry, open_registry
from streams.chunks_reader import Record
from streams.crosswalk import ReadingCrosswalk
from streams.rehearsal import CHUNK, Poison, Rehearsal, changelog

AT_ONCE = 500  # things asked about in one transaction

Tell = Callable[[str], None]
Standing = Mapping[str, Any]  # link → what merge knows of the thing
Thing = tuple[str, str]  # (entity, link)


@dataclass
class Rehearsed:
    """What came of the events."""

    records: int = 0
    last: dict[Thing, GoldenRecord] = field(default_factory=dict)
    targeted: dict[str, dict[Thing, GoldenRecord]] = field(default_factory=dict)  # system → the last record that asks it to do something
    agreed: dict[Thing, GoldenRecord | Any] = field(default_factory=dict)  # what stands: a golden record, or what merge knows
    conflicts: int = 0
    dead: int = 0
    poison: list[Poison] = field(default_factory=list)  # what no agent could handle; not among the dead

    def take(self, record: GoldenRecord) -> None:
        thing = record.entity, record.link
        self.last[thing] = record
        for system in record.targets:
            self.targeted.setdefault(system, {})[thing] = record


def rehearse(pipeline: Pipeline, plan: Plan, limit: int, tell: Tell = lambda _: None) -> tuple[Rehearsed, Foretold]:
    """What the replay would change. Raises Retriable when Kafka or a database does not answer."""
    registry = open_registry(pipeline.config.kafka, pipeline.config.registry)
    try:
        return asyncio.run(_rehearsed(pipeline, plan, registry, limit, tell))
    finally:
        registry.close()


async def _rehearsed(pipeline: Pipeline, plan: Plan, registry: Registry, limit: int, tell: Tell) -> tuple[Rehearsed, Foretold]:
    found, decode = await folded_again(pipeline, plan, registry, tell)
    foretold = Foretold(limit)
    foretold.add(golden_changes(found))
    for system, records in found.targeted.items():
        _foresee(pipeline, system, records, decode, foretold, tell)
    return found, foretold


async def folded_again(pipeline: Pipeline, plan: Plan, registry: Registry, tell: Tell = lambda _: None) -> tuple[Rehearsed, GoldenDecoder]:
    """The events of the plan, folded on what the streams know."""
    cluster, crosswalk = Cluster(pipeline.config.kafka), ReadingCrosswalk(pipeline)
    try:
        rehearsal = Rehearsal(pipeline, registry, crosswalk)
        _load(cluster, rehearsal, pipeline.config.name, tell)
        before = {entity: dict(rehearsal.tables[f"things.{entity}"]) for entity in pipeline.entities}
        decode = GoldenDecoder(rehearsal.codec)
        found = Rehearsed()
        for topic in rehearsal.in_order(plan.tables):
            for letters in _chunks(_captured(cluster, plan, topic)):
                await rehearsal.feed([as_record(letter) for letter in letters])
                found.records += len(letters)
                collect(rehearsal, pipeline, decode, found)
                tell(f"{found.records:,} of {plan.records:,} events folded again")
        found.agreed = _agreed(cluster, before, found, decode)
        return found, decode
    finally:
        await crosswalk.close()


def golden_changes(found: Rehearsed) -> Iterator[Foreseen]:
    """What would be agreed, against what is."""
    for thing, record in found.last.items():
        yield _golden(record, found.agreed.get(thing))


# --- what is read -----------------------------------------------------------------------------------------------------------------


def _load(cluster: Cluster, rehearsal: Rehearsal, pipeline: str, tell: Tell) -> None:
    tables = {changelog(pipeline, name): name for name in rehearsal.tables}
    for number, letter in enumerate(cluster.scan(cluster.ends(tables)), 1):
        rehearsal.load(tables[letter.topic], letter.key, letter.value)
        if number % 10_000 == 0:
            tell(f"{number:,} records of the streams' state read")


def _captured(cluster: Cluster, plan: Plan, topic: str) -> Iterator[Letter]:
    yield from cluster.scan({span.at: (span.start, span.end) for span in plan.spans if span.topic == topic})


def _chunks(letters: Iterable[Letter]) -> Iterator[list[Letter]]:
    chunk: list[Letter] = []
    for letter in letters:
        chunk.append(letter)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def as_record(letter: Letter) -> Record:
    return Record(letter.topic, letter.partition, letter.offset, letter.ts_ms, letter.key, letter.value, letter.headers)


def collect(rehearsal: Rehearsal, pipeline: Pipeline, decode: GoldenDecoder, found: Rehearsed) -> None:
    """Takes in what the agents have told since."""
    for entity in pipeline.entities:
        for output in rehearsal.told.get(topics.golden(entity), ()):
            if output.value is not None:
                found.take(decode(entity, output.value))
        found.conflicts += len(rehearsal.told.get(topics.conflicts(entity), ()))
    found.dead += sum(len(rehearsal.told.get(topics.dead(system), ())) for system in pipeline.systems)
    rehearsal.told.clear()
    found.poison += rehearsal.poison
    rehearsal.poison.clear()


def _agreed(cluster: Cluster, before: Mapping[str, Standing], found: Rehearsed, decode: GoldenDecoder) -> dict[Thing, GoldenRecord | Any]:
    """What stands of each thing: as merge knows it, or, where that is lost, as the golden topic has it."""
    agreed: dict[Thing, GoldenRecord | Any] = {}
    lost: dict[str, set[str]] = {}
    for entity, link in found.last:
        state = before[entity].get(link)
        if state is not None:
            agreed[entity, link] = state
        else:
            lost.setdefault(entity, set()).add(link)
    for entity, links in lost.items():
        for letter in cluster.scan(cluster.ends([topics.golden(entity)])):
            link = (letter.key or b"").decode(errors="replace")
            if link in links and letter.value is not None:
                agreed[entity, link] = decode(entity, letter.value)
    return agreed


# --- what it is held against ------------------------------------------------------------------------------------------------------


def _golden(record: GoldenRecord, agreed: GoldenRecord | Any | None) -> Foreseen:
    values: Mapping[str, Canonical]
    if agreed is None:
        values, alive = {}, False
    elif isinstance(agreed, GoldenRecord):
        values, alive = agreed.values, agreed.alive
    else:
        values, alive = {name: entry[0] for name, entry in agreed["fields"].items()}, bool(agreed["exists"] and agreed["exists"][0])
    names = dict.fromkeys((*values, *record.values))
    told = {name: (values.get(name), record.values.get(name)) for name in names if values.get(name) != record.values.get(name)}
    if alive != record.alive:
        return Foreseen(record.entity, record.link, GOLDEN, "insert" if record.alive else "delete", None, told)
    return Foreseen(record.entity, record.link, GOLDEN, "update" if told else "nothing", None, told)


def _foresee(
    pipeline: Pipeline, system: str, records: Mapping[Thing, GoldenRecord], decode: GoldenDecoder, foretold: Foretold, tell: Tell
) -> None:
    connection, _ = open_session(system, pipeline.config.systems[system], f"concord replay {system}", None)
    with connection:
        sight = Foresight(connection, pipeline, system, decode)
        depth = {name: number for number, name in enumerate(pipeline.entities)}
        ordered = sorted(records.values(), key=lambda record: depth[record.entity])
        for start in range(0, len(ordered), AT_ONCE):
            tell(f"{start:,} of {len(ordered):,} things held against {system}")
            some = ordered[start : start + AT_ONCE]
            foretold.add(sight.foresee([Task(record, topics.golden(record.entity), 0, 0, b"") for record in some]))
