"""Reading again: what stands is told again, nothing becomes older, and a worker that dies in between does not forget it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from console.kafka import Cluster
from schemas import topics
from schemas.errors import SchemaError
from schemas.golden import GoldenRecord
from schemas.replay import Replay, decode_replay
from streams.rehearsal import changelog
from streams.restated import restated
from tests.streams.joined_world import JoinedWorld
from tests.streams.streams_world import PARTITIONS, StreamsWorld, a_party, an_account
from tests.streams.test_fold import RULES, a_change, folded, record_of

# --- what stands, told again ------------------------------------------------------------------------------------------------------


def test_what_stands_is_told_to_every_system_that_holds_the_thing() -> None:
    history = [a_change("crm", 10, "c", 100, name="A"), a_change("erp", 20, "c", 200, key="9", origin=100, name="A")]
    last = folded(*history, a_change("crm", 30, "u", 300, name="B"))
    settled = folded(*history, a_change("crm", 30, "u", 300, name="B"), a_change("erp", 40, "u", 400, key="9", origin=300, name="B"))
    assert settled.state is not None
    again = restated("crm:1", settled.state, history[0], RULES)
    assert again.state is settled.state
    record = record_of(again)
    assert set(record.targets) == {"crm", "erp"}
    assert (record.values, record.versions, record.exists) == (record_of(last).values, record_of(last).versions, record_of(last).exists)
    assert record.keys == {"crm": "1", "erp": "9"}


def test_what_is_gone_is_told_to_nobody_who_has_nothing_of_it() -> None:
    done = folded(a_change("crm", 10, "c", 100, name="A"), a_change("crm", 20, "d", 200))
    assert done.state is not None
    record = record_of(restated("crm:1", done.state, a_change("crm", 10, "c", 100, name="A"), RULES))
    assert (record.alive, record.targets) == (False, ())


def test_a_field_in_a_row_that_others_share_is_told_only_where_it_differs() -> None:
    rules = replace(RULES, shared={"erp": frozenset({"city"})})
    history = [a_change("crm", 10, "c", 100, name="A", city="X"), a_change("erp", 20, "c", 200, key="9", origin=100, name="A", city="X")]
    done = folded(*history, rules=rules)
    assert done.state is not None
    assert record_of(restated("crm:1", done.state, history[0], rules)).targets == ("crm",)


@pytest.mark.parametrize(
    "data",
    [None, b"", b"{}", b"[]", b"x", b'{"topic": 1, "offset": 0, "by": "", "ts": 0}', b'{"topic": "t", "offset": -1, "by": "", "ts": 0}'],
)
def test_what_is_no_replay_is_refused(data: bytes | None) -> None:
    with pytest.raises(SchemaError, match="not a replay"):
        decode_replay(data)


# --- on a real broker -------------------------------------------------------------------------------------------------------------


def ask(world: StreamsWorld, offset: int = 0, topic: str | None = None) -> None:
    wish = Replay(topic or topics.captured(world.crm, "public", "account"), offset, "alice", 0)
    for partition in range(PARTITIONS):
        world.send(topics.replays(world.name), None, wish.encode(), partition=partition)


async def test_what_is_read_again_changes_nothing_and_tells_again_what_stands(world: StreamsWorld) -> None:
    async with world.running() as app:
        for number in range(20):
            world.event(world.crm, "account", "c", an_account(number, vat=None))
            world.event(world.crm, "account", "u", an_account(number, vat=None, name="Later"))
        await world.settled(app)
        before = world.golden()
        ask(world)
        await world.settled(app)
        assert app.health().failing == {}
    after = world.golden()
    first, last = ({record.link: record for record in records} for records in (before, after))
    assert len(after) >= len(before) + 20
    assert {link: (record.values, record.versions) for link, record in last.items()} == {
        link: (record.values, record.versions) for link, record in first.items()
    }
    assert all(record.values["name"] == "Later" for record in last.values())


async def test_a_wish_that_nobody_was_there_to_hear_is_done_by_the_next_worker(world: StreamsWorld) -> None:
    async with world.running() as app:
        world.event(world.crm, "account", "c", an_account(7, vat=None))
        await world.settled(app)
    assert len(world.golden()) == 1
    ask(world)
    async with world.running() as app:
        await world.settled(app)
    assert [record.values["name"] for record in world.golden()] == ["Acme", "Acme"]


async def test_a_thing_in_several_tables_is_told_again_as_well(joined: JoinedWorld) -> None:
    async with joined.running() as app:
        joined.group(1, "gold")
        for number in range(3):
            joined.tax(number, number, f"DE{number}")
            joined.party(number, group=1)
        await joined.settled(app)
        before = joined.golden()
        for number, table in enumerate(("identifier", "party"), 1):  # a child's events alone, and the root's
            ask(joined, topic=topics.captured(joined.erp, "public", table))
            await joined.settled(app)
            assert len(joined.golden()) >= len(before) + 3 * number
        assert app.health().failing == {}
    assert stands(joined.golden()) == stands(before)


def stands(records: list[GoldenRecord]) -> dict[str, Any]:
    return {record.link: (record.values, record.versions, record.alive, record.keys) for record in records}


async def test_the_lost_state_of_merge_is_made_again_from_every_systems_events(world: StreamsWorld) -> None:
    async with world.running() as app:
        for number in range(6):
            world.event(world.crm, "account", "c", an_account(number, vat=None))
            world.linked(world.erp, world.customer, str(number), f"{world.crm}:{number}")
        await world.settled(app)
        told = {record.link: record for record in world.golden()}
        for number in range(6):
            row = a_party(number, tax_id=None, name="Acme")
            world.event(world.erp, "party", "c", row, origin=told[f"{world.crm}:{number}"].hlc)
            world.event(world.erp, "party", "u", {**row, "legal_name": f"Theirs {number}"})
        await world.settled(app)
    before = stands(world.golden())
    assert {values["name"] for values, *_ in before.values()} == {f"Theirs {number}" for number in range(6)}
    table = changelog(world.name, f"things.{world.customer}")
    for entry in list(Cluster(world.config.kafka).read(table)):
        world.send(table, entry.key, None, partition=entry.partition)
    ask(world)
    ask(world, topic=topics.captured(world.erp, "public", "party"))
    async with world.running() as app:
        await world.settled(app)
        world.event(world.crm, "account", "u", an_account(0, vat=None, name="After"))
        await world.settled(app)
    after = stands(world.golden())
    assert after.pop(f"{world.crm}:0")[0]["name"] == "After"
    before.pop(f"{world.crm}:0")
    assert after == before


def committed(world: StreamsWorld, topic: str) -> list[int]:
    """Per partition: the offset that whoever takes over begins at; 0: nothing is committed."""
    consumer = Consumer({"bootstrap.servers": world.kafka, "group.id": f"{world.name}-streams"})
    try:
        return [max(at.offset, 0) for at in consumer.committed([TopicPartition(topic, n) for n in range(PARTITIONS)], 30)]
    finally:
        consumer.close()


async def test_once_a_wish_is_done_a_worker_that_takes_over_begins_there(world: StreamsWorld) -> None:
    """What is read again cannot be handled, so nothing of it is finished: the broker has the older offset all the same."""
    captured = topics.captured(world.crm, "public", "account")
    async with world.running() as app:
        for number in range(8):
            world.event(world.crm, "account", "c", an_account(number, vat=None))
        await world.settled(app)
        await world.until(lambda: sum(committed(world, captured)) == 8, "what was handled is not committed")
        deliver = app.deliver

        async def refuse(items: object) -> object:
            raise ConnectionError("not now")

        app.deliver = refuse  # type: ignore[method-assign, assignment]
        ask(world)
        await world.until(lambda: committed(world, topics.replays(world.name)) == [1] * PARTITIONS, "the wish is not done")
        assert committed(world, captured) == [0] * PARTITIONS
        app.deliver = deliver  # type: ignore[method-assign]
        await world.settled(app)
        await world.until(lambda: sum(committed(world, captured)) == 8, "what was handled again is not committed")
    assert len(world.golden()) == 16


async def test_garbage_and_foreign_topics_are_passed_over(world: StreamsWorld) -> None:
    async with world.running() as app:
        for garbage in (b"", b"{}", b"\xff", None):
            world.send(topics.replays(world.name), b"k", garbage, partition=0)
        ask(world, topic="no.such.topic")
        ask(world, topic=topics.changes(world.customer))
        ask(world, offset=1_000_000)
        world.event(world.crm, "account", "c", an_account(7, vat=None))
        await world.settled(app)
        assert app.health().failing == {}
    assert len(world.golden()) == 1
