"""Entities that lie in several tables, from captured events to changes and golden records: the join on a real broker."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from schemas import topics
from schemas.change import Op
from schemas.metrics import EVENTS, State
from streams import join
from tests.streams.joined_world import JoinedWorld


@pytest.fixture
def world(joined: JoinedWorld) -> JoinedWorld:
    return joined


def values(**columns: Any) -> dict[str, Any]:
    return {"tax_id": "DE1", "name": "Acme", "street": "Main 1", "class": None, "turnover": None, **columns}


async def test_a_root_that_comes_with_its_parts_is_one_change_whatever_comes_first(world: JoinedWorld) -> None:
    async with world.running() as app:
        world.acme()
        world.group(3, "Gold")
        together = world.transaction()
        world.address(12, 2, "Side 2", **together)
        world.tax(22, 2, "DE2", **together)
        world.party(2, group=3, **together)
        await world.settled(app)
    assert world.told("1") == [(Op.CREATE, values())]
    assert world.told("2") == [(Op.CREATE, values(tax_id="DE2", street="Side 2", **{"class": "Gold"}))]
    assert sorted((value, claim["key"]) for value, claim in world.claims()) == [("DE1", "1"), ("DE2", "2")]
    assert world.dead(world.erp) == []


async def test_rows_are_matched_on_what_lies_in_a_part(world: JoinedWorld) -> None:
    account = {"id": 7, "vat": "DE1", "name": "Acme", "street": None, "turnover": None, "class": None}
    async with world.running() as app:
        world.event(world.crm, "account", "c", account)
        world.acme()
        await world.settled(app)
    assert {link for link, _ in world.changes()} == {f"{world.crm}:7"} or {link for link, _ in world.changes()} == {f"{world.erp}:1"}
    last = world.golden()[-1]
    assert (last.keys, last.values["street"]) == ({world.crm: "7", world.erp: "1"}, "Main 1")


async def test_what_happens_to_parts_is_told_with_its_own_cause(world: JoinedWorld) -> None:
    async with world.running() as app:
        world.acme()
        await world.settled(app)
        world.address(12, 1, "Side 2", sequence=0, ts_us=111)  # becomes the first
        await world.settled(app)
        world.address(12, 1, None, "d", ts_us=222)
        await world.settled(app)
        world.address(11, 1, "Far 3", "u", origin=99, ts_us=333)
        await world.settled(app)
        world.sale(31, 1, "100.50", origin=100, ts_us=444)
        world.sale(32, 1, "1", origin=100, ts_us=444)
        await world.settled(app)
        world.party(1, "d")
        await world.settled(app)
    told = [change for _, change in world.changes()]
    assert [change.values and change.values["street"] for change in told][:4] == ["Main 1", "Side 2", "Main 1", "Far 3"]
    assert [(change.part, change.ts_us, change.origin_hlc) for change in told][1:4] == [
        ("address", 111, None),
        ("address", 222, None),
        ("address", 333, 99),
    ]
    assert {change.values["turnover"] for change in told if change.part == "sales" and change.values} >= {"101.5"}
    assert (told[-1].op, told[-1].values) == (Op.DELETE, None)
    assert len({change.position for change in told}) == 2
    # the address was our own write, the sales were not written for this customer
    assert [(record.values["street"], record.values["turnover"], record.alive) for record in world.golden()][-2:] == [
        ("Main 1", "101.5", True),
        ("Main 1", "101.5", False),
    ]


async def test_a_group_renamed_reaches_all_in_it_in_bounded_portions_and_leaves_scope_with_all(
    world: JoinedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join, "DELIVERED_AT_ONCE", 7)
    async with world.running() as app:
        world.group(3, "Gold")
        for number in range(1, 41):
            together = world.transaction()
            world.party(number, group=3, **together)
            world.tax(100 + number, number, f"DE{number}", **together)
        await world.settled(app)
        world.group(3, "Platinum", "u")
        await world.settled(app)
        world.group(3, "Platinum", "u", active=False)
        await world.settled(app)
    last: dict[str, list[Any]] = {}
    for _, change in world.changes():
        last.setdefault(change.key, []).append(change.values and change.values["class"])
    assert len(last) == 40
    assert all(told[-3:] == ["Gold", "Platinum", None] for told in last.values())
    alive = {record.link: record.alive for record in world.golden()}
    assert (len(alive), set(alive.values())) == (40, {False})


async def test_a_worker_that_starts_again_knows_its_nodes(world: JoinedWorld) -> None:
    async with world.running() as app:
        world.group(3, "Gold")
        together = world.transaction()
        world.party(1, group=3, **together)
        world.address(11, 1, "Main 1", **together)
        world.address(12, 1, "Side 2", sequence=9)
        world.tax(21, 1, "DE1", **together)
        await world.settled(app)
    async with world.running() as app:
        world.address(11, 1, None, "d")
        world.group(3, "Platinum", "u")
        await world.settled(app)
    assert world.told("1")[-1][1] == values(street="Side 2", **{"class": "Platinum"})


async def test_i8_a_row_that_cannot_be_placed_and_a_message_that_is_none_are_dead_letters(world: JoinedWorld) -> None:
    def dead() -> float:
        return EVENTS.labels("streams", world.erp, world.customer, State.DEAD.value)._value.get()

    before = dead()
    async with world.running() as app:
        world.send(topics.join(world.erp, world.customer), b"/1", b'{"kind":"nonsense"}')
        world.send(topics.join(world.erp, world.customer), b"/1", b"\xff")
        world.event(world.erp, "address", "t", {"id": 1})
        together = world.transaction()
        world.party(1, **together)
        world.tax(21, 1, "DE1", **together)
        await world.settled(app)
    assert [change.values and change.values["tax_id"] for _, change in world.changes()] == ["DE1"]
    letters = world.dead(world.erp)
    assert sorted(letter.topic.split(".")[0] for letter in letters) == sorted(["join", "join", world.erp])
    assert any("TRUNCATE" in letter.error for letter in letters)
    assert dead() - before == 2


async def test_a_key_that_changes_takes_its_parts_along(world: JoinedWorld) -> None:
    async with world.running() as app:
        world.acme()
        await world.settled(app)
        together = world.transaction()
        world.party(1, "d", headers={"__debezium.newkey": b'{"id":2}'}, **together)
        world.party(2, headers={"__debezium.oldkey": b'{"id":1}'}, **together)
        world.address(11, 2, "Main 1", "u", **together)
        world.tax(21, 2, "DE1", "u", **together)
        await world.settled(app)
    assert {link for link, _ in world.changes()} == {f"{world.erp}:1"}
    last = world.golden()[-1]
    assert (last.keys, last.alive, last.values["street"]) == ({world.erp: "2"}, True, "Main 1")
    assert all(record.alive for record in world.golden())


async def test_after_a_lost_slot_a_part_is_judged_by_what_our_sink_had_written_there(world: JoinedWorld) -> None:
    """The CRM's new street was written to the ERP and set back there by somebody, all unread; the address is read before its party."""
    account, moved = {"id": 7, "vat": "DE1", "name": "Acme", "street": "Main 1", "turnover": None, "class": None}, 2_000_000_000_000_000
    async with world.running() as app:
        world.acme()
        await world.settled(app)
        world.event(world.crm, "account", "r", account)
        await world.settled(app)
        world.event(world.crm, "account", "u", {**account, "street": "Side 2"}, ts_us=moved)
        await world.settled(app)
        assert world.golden()[-1].values["street"] == "Side 2"
        place, all_read = {"lsn": world.lsn + 1000, "after": world.lsn + 1000}, {"concord.ours": b"{}"}
        world.address(11, 1, "Main 1", "r", headers=all_read, **place)
        world.tax(21, 1, "DE1", "r", headers=all_read, **place)
        await world.settled(app)
        before = len(world.told("1"))
        ours = orjson.dumps({world.customer: {"street": ["Side 2", moved], "tax_id": ["DE1", 1]}})
        world.party(1, "r", headers={"concord.ours": ours}, **place)
        await world.settled(app)
    assert [change.ours for _, change in world.changes() if change.ours][-1:] == [{"street": ["Side 2", moved], "tax_id": ["DE1", 1]}]
    assert len(world.told("1")) > before
    last = world.golden()[-1]
    assert (last.values["street"], last.versions["street"].won_hlc > moved) == ("Main 1", True)
    assert world.crm in last.targets


async def test_what_was_captured_is_read_again_and_says_nothing_new(world: JoinedWorld) -> None:
    async with world.running() as app:
        world.group(3, "Gold")
        together = world.transaction()
        world.party(1, group=3, **together)
        world.tax(21, 1, "DE1", **together)
        for number in range(30):  # a form that deletes and inserts its rows, again and again
            together = world.transaction()
            if number:
                world.address(99 + number, 1, None, "d", **together)
            world.address(100 + number, 1, f"Main {number}", **together)
        await world.settled(app)
        captured = [world.read(topics.captured(world.erp, "public", table)) for table in ("group", "party", "identifier", "address")]
        before = await asyncio.to_thread(world.golden)
        for table, records in zip(("group", "party", "identifier", "address"), captured, strict=True):
            for key, value in records:
                world.send(topics.captured(world.erp, "public", table), key, value)
        await world.settled(app)
    streets = [told["street"] for _, told in world.told("1") if told]
    assert streets[-1] == "Main 29"
    told = [(record.values, record.versions) for record in world.golden()]  # what stands may be told again, and is what stood
    assert all(one == told[-1] for one in told[len(before) - 1 :])
    assert told[-1][0]["street"] == "Main 29"
