"""What must not hurt: garbage in every topic that is read, a crosswalk that does not answer, chunks that fail after their outputs were
sent."""

from __future__ import annotations

from typing import Any, cast

import orjson
import psycopg
import pytest
from prometheus_client import REGISTRY

from schemas import topics
from schemas.change import Change, Op
from schemas.conflicts import Rule
from schemas.dead import Where
from schemas.serde import wire_header
from streams.transport import DeliveryFailed
from tests.streams.streams_world import PATIENCE, StreamsWorld, an_account

GARBAGE = [b"", b"\x00", b"garbage", b"{}", b"[]", b"null", b"\xff\xfe", orjson.dumps({"op": "claim"}), wire_header(77) + b"no such schema"]


def dead_so_far(system: str, entity: str = "") -> float:
    labels = {"part": "streams", "system": system, "entity": entity, "state": "dead"}
    return REGISTRY.get_sample_value("concord_events_total", labels) or 0.0


async def test_i8_garbage_on_a_captured_topic_ends_as_dead_letters_and_the_rest_goes_on(world: StreamsWorld) -> None:
    topic = topics.captured(world.crm, "public", "account")
    key, good = world.encoded(world.crm, "account", "c", an_account(7), lsn=50)
    _, truncate = world.encoded(world.crm, "account", "t", an_account(7), lsn=60)
    async with world.running() as app:
        for value in [*GARBAGE, good[:-3], good + b"!", good, truncate]:
            world.send(topic, key, value, partition=0)
        world.send(topic, None, world.encoded(world.crm, "account", "d", an_account(8), lsn=70)[1], partition=0)  # a row without key
        world.send(topic, b"no key", good, partition=0)
        world.send(topic, key, good, {"concord.columns": b"{"}, partition=0)
        world.event(world.crm, "account", "c", an_account(9, vat=None, credit="ten"), lsn=80)  # what no number is
        world.event(world.crm, "account", "c", an_account(10, vat=None), lsn=90)
        await world.settled(app)
        dead = world.dead(world.crm)
        assert app.health().failing == {}
    assert {change.key for _, change in world.changes()} == {"7", "10"}
    assert len(dead) == len(GARBAGE) + 2 + 5
    assert all(letter.where is Where.INTAKE and letter.topic == topic and letter.error for letter in dead)
    assert {"TRUNCATE" in letter.error for letter in dead} == {True, False}
    assert [letter.entity for letter in dead if "ten" in letter.error] == [world.customer]
    assert dead_so_far(world.crm) + dead_so_far(world.crm, world.customer) == len(dead)  # I6
    assert sorted(letter.value or b"" for letter in dead)[:2] == [b"", b"\x00"]


async def test_i8_garbage_between_the_agents_ends_as_dead_letters_and_the_rest_goes_on(world: StreamsWorld) -> None:
    claims, changes = topics.claims(world.customer), topics.changes(world.customer)
    links = topics.links(world.crm, "public", "account")
    claim = {"op": "claim", "system": world.crm, "key": "1", "table": "public.account", "partition": 0, "link": None}
    claim |= {"born": True, "at": "0"}
    bad_claims = [{**claim, "partition": 99}, {**claim, "table": "public.other"}, {**claim, "system": "x"}, {**claim, "key": 5}]
    good = Change(world.crm, "7", Op.CREATE, f"{50:032X}", 1, None, {"name": "Acme"}).to_json()
    wrong: list[dict[str, Any]] = [{"pos": "x"}, {"system": "x"}, {"ts": "soon"}, {"values": {"name": 5}}, {"values": None}, {"key": 7}]
    bad_changes = [{**good, **change} for change in wrong]
    async with world.running() as app:
        for value in [*GARBAGE, *map(orjson.dumps, bad_claims)]:
            world.send(claims, b"DE9", value, partition=0)
        world.send(claims, None, orjson.dumps(claim), partition=0)
        world.send(claims, b"\xff", orjson.dumps(claim), partition=0)
        for value in GARBAGE:
            world.send(links, b"7", value, partition=0)
        for value in [*GARBAGE, *map(orjson.dumps, bad_changes)]:
            world.send(changes, b"a link", value, partition=0)
        world.send(changes, b"\xff", orjson.dumps(good), partition=0)
        world.event(world.crm, "account", "c", an_account(7))
        await world.settled(app)
        dead = world.dead(world.crm)
        assert app.health().failing == {}
    assert [record.link for record in world.golden()] == [f"{world.crm}:7"]
    assert len(dead) == 3 * len(GARBAGE) + len(bad_claims) + 2 + len(bad_changes) + 1
    assert {letter.where for letter in dead} == {Where.INTAKE, Where.MERGE}


async def test_a_chunk_says_in_one_line_how_much_of_it_a_person_may_look_at_and_nothing_of_what_is_in_it(
    world: StreamsWorld, caplog: pytest.LogCaptureFixture
) -> None:
    topic = topics.captured(world.crm, "public", "account")
    for number in range(40):
        key, value = world.encoded(
            world.crm, "account", "c", an_account(number, vat="SECRET", credit="a secret" if number % 2 else None), lsn=50
        )
        world.send(topic, key, value, partition=0)
    async with world.running() as app:
        await world.settled(app)
        dead, waiting = world.dead(world.crm), [conflict for conflict in world.conflicts() if conflict.rule is Rule.DUPLICATE]
    assert (len(dead), len(waiting)) == (20, 19)
    assert all("a secret" in letter.error for letter in dead)
    lines = [record for record in caplog.records if record.name == "streams.metrics"]
    told: dict[str, list[int]] = {"dead": [], "wait": []}
    for line in lines:
        told["dead" if "dead letters" in line.msg else "wait"].append(cast("tuple[int, str]", line.args)[0])
    assert (sum(told["dead"]), sum(told["wait"])) == (20, 19)
    assert len(lines) < 20  # as many as chunks, not as records
    assert any(f"the first: {topic}/0@1 (MappingError)" in line.getMessage() for line in lines)
    assert "secret" not in caplog.text.lower()


async def test_an_unreachable_crosswalk_holds_new_rows_back_until_it_answers(world: StreamsWorld) -> None:
    with psycopg.connect(world.crm_dsn, autocommit=True) as connection:
        connection.execute("ALTER TABLE concord.key RENAME TO hidden")
        async with world.running() as app:
            world.event(world.crm, "account", "c", an_account(7, vat=None))
            await world.until(lambda: app.health().failing, "nothing was tried")
            assert world.changes() == []
            connection.execute("ALTER TABLE concord.hidden RENAME TO key")
            await world.until(world.changes, "nothing came after the crosswalk was back")
            await world.settled(app)
    assert world.dead(world.crm) == []  # out of reach is nobody's fault


async def test_i9_a_chunk_whose_outputs_were_not_all_acknowledged_leaves_no_trace_in_a_table(world: StreamsWorld) -> None:
    async with world.running() as app:
        deliver = app.deliver
        failed: list[bool] = []

        async def deliver_and_fail_once(items: Any) -> Any:
            done = await deliver(items)
            about = [output for output in items if output[0] == topics.golden(world.customer)]
            if about and not failed:
                failed.append(True)
                raise DeliveryFailed("the last record is not acknowledged")
            return done

        app.deliver = deliver_and_fail_once  # type: ignore[method-assign]
        world.event(world.crm, "account", "c", an_account(7, vat=None))
        await world.settled(app)
    first, again = world.golden()
    assert first == again  # had the table been ahead, the second would have been old news, and nothing sent


async def test_i3_i9_a_worker_that_starts_anew_knows_what_it_knew(world: StreamsWorld) -> None:
    # it takes what time it needs to commit: else its last chunk comes again to the next, which tells once more what stands
    async with world.running(stop_seconds=PATIENCE) as app:
        world.event(world.crm, "account", "c", an_account(7))
        await world.settled(app)
    async with world.running() as app:
        world.event(world.crm, "account", "u", an_account(7, name="New"))
        world.event(world.crm, "account", "c", an_account(7), lsn=1010)  # the first event once more: old
        await world.settled(app)
    assert [record.values["name"] for record in world.golden()] == ["Acme", "New", "New"]  # what stands is told again
    # who forgot would claim at the update's position; the same claim twice is a chunk that came twice
    assert len({claim["at"] for _, claim in world.claims()}) == 1
