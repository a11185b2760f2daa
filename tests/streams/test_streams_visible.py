"""An event is in the log before its transaction can be seen: what intake does not find is not therefore not there (decision 0008)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.conflicts import Rule
from schemas.dead import Where
from schemas.lsn import Position
from streams import crosswalk
from streams.crosswalk import is_visible
from tests.streams.streams_world import StreamsWorld, a_party, an_account

_LOOKING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE %s"
_REGISTER = "INSERT INTO concord.key (entity, system, key, link) VALUES (%s, %s, %s, %s)"


@asynccontextmanager
async def a_transaction(world: StreamsWorld) -> AsyncIterator[tuple[psycopg.AsyncConnection[object], int]]:
    """A connection to the CRM, its transaction begun; its id as the log names it."""
    async with await psycopg.AsyncConnection.connect(world.crm_dsn) as connection:
        [(xid,)] = await (await connection.execute("SELECT pg_current_xact_id()::xid::text")).fetchall()
        yield connection, int(xid)


async def is_looked_for(world: StreamsWorld) -> None:
    """Intake looks whether a transaction is visible."""
    async with await psycopg.AsyncConnection.connect(world.crm_dsn, autocommit=True) as connection:
        async with asyncio.timeout(30):
            while (await (await connection.execute(_LOOKING, ["SELECT q.xid%"])).fetchone()) == (0,):
                await asyncio.sleep(0.01)


async def test_an_echo_that_is_read_before_its_transaction_is_visible_waits_for_its_link(world: StreamsWorld) -> None:
    link = f"{world.erp}:12"
    async with world.running() as app:
        async with a_transaction(world) as (sink, xid):
            for key in ("968", "969"):
                await sink.execute(_REGISTER, (world.customer, world.crm, key, link))
            world.event(world.crm, "account", "c", an_account(968, vat=None), origin=5, xid=xid)
            world.event(world.crm, "account", "c", an_account(969, vat="de1"), origin=5, xid=xid)
            await is_looked_for(world)
            assert world.changes() == []
            assert world.claims() == []
        await world.settled(app)
    assert [found for found, _ in world.changes()] == [link, link]  # neither crm:968, nor what identify would have called 969
    assert [claim["link"] for _, claim in world.claims()] == [link]


async def test_an_echo_whose_transaction_stays_invisible_comes_again(world: StreamsWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crosswalk, "VISIBLE_SECONDS", 0.01)
    async with world.running() as app:
        async with a_transaction(world) as (sink, xid):
            await sink.execute(_REGISTER, (world.customer, world.crm, "968", "the link"))
            world.event(world.crm, "account", "c", an_account(968, vat=None), origin=5, xid=xid)
            await world.until(lambda: app.health().failing, "nothing was tried")
            assert world.changes() == []
        await world.settled(app)
    assert [link for link, _ in world.changes()] == ["the link"]
    assert world.dead(world.crm) == []


async def test_a_row_that_a_trigger_made_under_our_origin_has_no_link_to_wait_for(
    world: StreamsWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crosswalk, "LOOK_SECONDS", (60.0, 60.0))  # one look must do
    async with world.running() as app:
        async with a_transaction(world) as (_, done):
            pass
        world.event(world.crm, "account", "c", an_account(7, vat=None), origin=5, xid=done)
        world.event(world.crm, "account", "c", an_account(8, vat=None), origin=5, xid=(done + 1_000_000_000) & 0xFFFFFFFF)
        await world.settled(app)
    # the second: from a time before the database was restored, its ids are not reached again
    assert {link for link, _ in world.changes()} == {f"{world.crm}:7", f"{world.crm}:8"}


async def test_a_row_that_replaces_another_of_its_thing_in_one_transaction_is_no_duplicate(world: StreamsWorld) -> None:
    with psycopg.connect(world.crm_dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO account (id, org) VALUES (7, 42)")
    async with world.running() as app:
        world.linked(world.crm, world.customer, "7", f"{world.crm}:7")
        world.event(world.crm, "account", "c", an_account(7))
        await world.settled(app)
        async with a_transaction(world) as (user, xid):
            await user.execute("DELETE FROM account")
            await user.execute("INSERT INTO account (id, org) VALUES (8, 42)")
            world.event(world.crm, "account", "d", an_account(7), xid=xid)
            world.event(world.crm, "account", "c", an_account(8), xid=xid)
            await is_looked_for(world)
        await world.settled(app)
    assert {(link, change.key) for link, change in world.changes()} == {(f"{world.crm}:7", "7"), (f"{world.crm}:7", "8")}
    assert world.conflicts() == []


async def crosswalk_of(world: StreamsWorld, system: str) -> dict[str, tuple[str, bool, bool]]:
    """Key → link, gone, live."""
    dsn = world.crm_dsn if system == world.crm else world.erp_dsn
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        found = await connection.execute("SELECT key, link, gone, live FROM concord.key WHERE system = %s", (system,))
        return {key: (link, gone, live) for key, link, gone, live in await found.fetchall()}


async def test_a_first_link_is_in_the_crosswalk_before_it_is_used_and_a_sink_that_was_first_has_won(world: StreamsWorld) -> None:
    adopted, inserted = f"{world.erp}:12", f"{world.erp}:13"
    with psycopg.connect(world.crm_dsn, autocommit=True) as connection:
        for key in (7, 8, 9, 10):
            connection.execute("INSERT INTO account (id, org) VALUES (%s, 42)", (key,))
    async with world.running() as app:
        world.event(world.erp, "party", "c", a_party(12, tax_id="DE1"))
        world.event(world.erp, "party", "c", a_party(13, tax_id="DE2"))
        await world.settled(app)
        world.linked(world.crm, world.customer, "8", "another thing")  # a sink adopted it …
        world.linked(world.crm, world.customer, "10", inserted)  # … and inserted this one
        world.event(world.crm, "account", "c", an_account(7, vat="de1"))
        world.event(world.crm, "account", "c", an_account(8, vat=None))
        world.event(world.crm, "account", "c", an_account(9, vat="de2"))
        await world.settled(app)
    assert await crosswalk_of(world, world.crm) == {
        "7": (adopted, False, True),
        "8": ("another thing", False, False),
        "10": (inserted, False, False),
    }
    assert {(link, change.key) for link, change in world.changes() if change.system == world.crm} == {
        (adopted, "7"),
        ("another thing", "8"),
    }
    [duplicate] = world.conflicts()
    assert (duplicate.rule, duplicate.lost.key) == (Rule.DUPLICATE, "9")  # waits: the thing has a row


async def test_a_row_that_has_gone_gives_its_place_to_the_next_of_its_thing(world: StreamsWorld) -> None:
    async with world.running() as app:
        world.event(world.crm, "account", "c", an_account(7))
        await world.settled(app)
        world.event(world.crm, "account", "d", an_account(7))
        world.event(world.crm, "account", "c", an_account(8))
        await world.settled(app)
    link = f"{world.crm}:7"
    assert await crosswalk_of(world, world.crm) == {"7": (link, False, False), "8": (link, False, True)}


async def test_a_row_whose_name_goes_free_in_its_transaction_gets_that_name(world: StreamsWorld) -> None:
    """Row 9 is known under the name of row 8, and goes in the transaction that makes row 8 anew: which name that one gets must not depend
    on how soon its event is read."""
    with psycopg.connect(world.crm_dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO account (id, org) VALUES (9, 42)")
    async with world.running() as app:
        world.linked(world.crm, world.customer, "9", f"{world.crm}:8")
        async with a_transaction(world) as (user, xid):
            await user.execute("DELETE FROM account")
            await user.execute("INSERT INTO account (id, org) VALUES (8, 42)")
            world.event(world.crm, "account", "c", an_account(8, vat=None), xid=xid)
            await is_looked_for(world)
            assert world.changes() == []
        await world.settled(app)
    assert [(link, change.key) for link, change in world.changes()] == [(f"{world.crm}:8", "8")]


async def test_a_row_whose_names_are_all_other_rows_is_a_dead_letter_until_its_next_event(world: StreamsWorld) -> None:
    """I6: what is not linked is not used under a name that is not its own, and not dropped in silence either."""
    again = f"{world.crm}@{Position(4999, 5000)}:8"
    with psycopg.connect(world.crm_dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO account (id, org) VALUES (8, 42), (9, 42), (10, 42)")
    async with world.running() as app:
        world.linked(world.crm, world.customer, "9", f"{world.crm}:8")
        world.linked(world.crm, world.customer, "10", again)
        world.event(world.crm, "account", "c", an_account(8, vat=None), lsn=5000)
        await world.settled(app)
        assert world.changes() == []
        [letter] = world.dead(world.crm)
        assert (letter.entity, letter.where, letter.code) == (world.customer, Where.INTAKE, "Refused")
        assert letter.error == f"{world.customer} {world.crm}:8: {again} is the name of another row, too"
        world.event(world.crm, "account", "u", an_account(8, vat=None), lsn=6000)
        await world.settled(app)
    assert [(link, change.key) for link, change in world.changes()] == [(f"{world.crm}@{Position(5999, 6000)}:8", "8")]


@given(st.integers(1000, 1 << 40), st.integers(0, 900), st.sets(st.integers(1, 900)))
def test_visible_is_what_ended_before_the_snapshot_whatever_the_epoch(end: int, ago: int, running: set[int]) -> None:
    snapshot = f"{end - max(running, default=0)}:{end}:{','.join(str(end - each) for each in sorted(running, reverse=True))}"
    assert is_visible((end - ago) & 0xFFFFFFFF, snapshot) is (ago > 0 and ago not in running)
    assert not is_visible((end + ago) & 0xFFFFFFFF, snapshot)
