"""A dry run folds the events as the streams did, on what the streams know, and leaves no trace."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg

from connectors.sink.golden import GoldenDecoder
from console.kafka import Cluster
from console.rehearse import Rehearsed, as_record, collect, folded_again, golden_changes
from console.replay import Start, planned
from schemas import topics
from schemas.golden import GoldenRecord
from streams.chunks import Chunk
from streams.crosswalk import ReadingCrosswalk
from streams.rehearsal import Rehearsal, changelog
from tests.streams.joined_world import JoinedWorld
from tests.streams.streams_world import StreamsWorld, a_party, an_account


def all_ends(world: StreamsWorld) -> dict[tuple[str, int], tuple[int, int]]:
    """Where every topic of the pipeline ends."""
    return Cluster(world.config.kafka).ends(
        [*world.topics, *(name for name in world.admin.list_topics(timeout=30).topics if world.name in name)]
    )


async def rehearsed(world: StreamsWorld, system: str) -> Rehearsed:
    plan = planned(world.config, Cluster(world.config.kafka), system, Start(offset=0))
    found, _ = await folded_again(world.pipeline, plan, world.registry)
    return found


def said(record: GoldenRecord) -> tuple[Any, ...]:
    return record.values, record.versions, record.alive, record.exists, record.keys


async def a_history(world: StreamsWorld) -> None:
    async with world.running() as app:
        for number in range(6):
            world.event(world.crm, "account", "c", an_account(number, vat=f"de{number}"))
        await world.settled(app)
        links = {record.values["tax_id"]: record.link for record in world.golden()}
        for number in range(4):
            world.linked(world.erp, world.customer, str(100 + number), links[f"DE{number}"])
            world.event(
                world.erp, "party", "c", a_party(100 + number, tax_id=f"DE{number}", number=f"P{number}"), origin=world.golden()[-1].hlc
            )
            world.event(world.erp, "party", "u", a_party(100 + number, tax_id=f"DE{number}", number=f"P{number}", name="Theirs"))
        world.event(world.crm, "deal", "c", {"id": 1, "account": 2, "note": "first"})
        world.event(world.crm, "account", "u", an_account(0, vat="de0", name="Ours"))
        world.event(world.crm, "account", "d", an_account(5))
        await world.settled(app)


async def test_on_what_the_streams_know_nothing_changes_and_nothing_is_written(world: StreamsWorld) -> None:
    await a_history(world)
    before, standing = all_ends(world), {record.link: record for record in world.golden()}
    for system in (world.crm, world.erp):
        found = await rehearsed(world, system)
        assert found.records >= 8
        assert {one.what for one in golden_changes(found)} == {"nothing"}
        assert all(said(record) == said(standing[link]) for (entity, link), record in found.last.items() if entity == world.customer)
        assert (found.conflicts, found.dead) == (0, 0)
    assert all_ends(world) == before


async def test_from_nothing_they_come_to_what_the_streams_came_to(world: StreamsWorld) -> None:
    """The same agents: both systems' events, on empty tables."""
    await a_history(world)
    cluster, crosswalk = Cluster(world.config.kafka), ReadingCrosswalk(world.pipeline)
    rehearsal, found = Rehearsal(world.pipeline, world.registry, crosswalk), Rehearsed()
    for system in (world.crm, world.erp):
        plan = planned(world.config, cluster, system, Start(offset=0))
        await rehearsal.feed([as_record(letter) for letter in cluster.scan({span.at: (span.start, span.end) for span in plan.spans})])
    collect(rehearsal, world.pipeline, GoldenDecoder(rehearsal.codec), found)
    await crosswalk.close()
    standing = {(record.entity, record.link): record for entity in (world.customer, world.order) for record in world.golden(entity)}
    assert {thing: said(record) for thing, record in found.last.items()} == {thing: said(record) for thing, record in standing.items()}


async def test_links_that_nobody_has_yet_are_written_nowhere(world: StreamsWorld) -> None:
    await a_history(world)
    for system, dsn in ((world.crm, world.crm_dsn), (world.erp, world.erp_dsn)):
        with psycopg.connect(dsn, autocommit=True) as database:
            database.execute("DELETE FROM concord.key WHERE system = %s", [system])
            before = database.execute("SELECT * FROM concord.key ORDER BY 1, 2, 3").fetchall()
            cluster, crosswalk = Cluster(world.config.kafka), ReadingCrosswalk(world.pipeline)
            rehearsal = Rehearsal(world.pipeline, world.registry, crosswalk)  # on empty tables: every row needs its first link
            plan = planned(world.config, cluster, system, Start(offset=0))
            await rehearsal.feed([as_record(letter) for letter in cluster.scan({span.at: (span.start, span.end) for span in plan.spans})])
            await crosswalk.close()
            assert rehearsal.told[topics.golden(world.customer)]
            assert database.execute("SELECT * FROM concord.key ORDER BY 1, 2, 3").fetchall() == before


async def test_a_record_that_no_agent_can_handle_is_named_and_all_others_go_on(world: StreamsWorld) -> None:
    """An agent that fails on one thing after it has changed its table and told: nothing of that is left, the rest of the chunk is."""
    await a_history(world)
    cluster, crosswalk = Cluster(world.config.kafka), ReadingCrosswalk(world.pipeline)
    rehearsal, found = Rehearsal(world.pipeline, world.registry, crosswalk), Rehearsed()
    topic = topics.captured(world.crm, "public", "account")
    intake = rehearsal._agents[topic]
    bad, _ = world.encoded(world.crm, "account", "c", an_account(1), lsn=1)

    async def failing(chunks: AsyncIterator[Chunk]) -> None:
        async def noted() -> AsyncIterator[Chunk]:
            async for chunk in chunks:
                sizes.append(len(chunk))
                yield chunk
                if any(record.key == bad for record in chunk):
                    raise ArithmeticError("of nobody's making")

        await intake(noted())

    sizes: list[int] = []
    rehearsal._agents[topic] = failing
    plan = planned(world.config, cluster, world.crm, Start(offset=0))
    await rehearsal.feed([as_record(letter) for letter in cluster.scan({span.at: (span.start, span.end) for span in plan.spans})])
    collect(rehearsal, world.pipeline, GoldenDecoder(rehearsal.codec), found)
    await crosswalk.close()
    assert max(sizes) > 1, "others are in the same chunk"
    assert [(one.record.partition("@")[0], one.error) for one in found.poison] == [(topic, "ArithmeticError")]
    assert sorted(rehearsal.tables[topic]) == ["0", "2", "3", "4", "5"]
    told = {record.values["tax_id"] for (entity, _), record in found.last.items() if entity == world.customer}
    assert told == {"DE0", "DE2", "DE3", "DE4", "DE5"}


async def test_what_is_lost_is_named_with_what_it_would_become(world: StreamsWorld) -> None:
    await a_history(world)
    table = changelog(world.name, f"things.{world.customer}")
    lost = next(record for record in world.golden() if record.values["tax_id"] == "DE1")
    cluster = Cluster(world.config.kafka)
    place = next(letter for letter in cluster.read(table) if letter.key == lost.link.encode())
    world.send(table, place.key, None, partition=place.partition)
    found = await rehearsed(world, world.crm)
    (change,) = [one for one in golden_changes(found) if one.what != "nothing"]
    assert (change.link, change.what) == (lost.link, "update")
    assert change.fields == {"name": ("Theirs", "Acme"), "number": ("P1", None)} or change.fields == {"name": ("Theirs", "Acme")}


async def test_rows_of_several_tables_are_put_together_as_ever(joined: JoinedWorld) -> None:
    async with joined.running() as app:
        joined.group(1, "gold")
        for number in range(3):
            joined.tax(number, number, f"DE{number}")
            joined.address(number, number, "Here 1")
            joined.party(number, group=1)
        await joined.settled(app)
        joined.address(1, 1, "There 2", op="u")
        joined.group(1, "silver", op="u")
        await joined.settled(app)
    standing = {record.link: record for record in joined.golden()}
    found = await rehearsed(joined, joined.erp)
    assert len(found.last) == 3
    assert {one.what for one in golden_changes(found)} == {"nothing"}
    assert all(said(record) == said(standing[link]) for (_, link), record in found.last.items())
