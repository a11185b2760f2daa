"""A lost target is written again from golden records alone: every row under its old key, nothing newer made older, nothing left out but
what is wrong. And what a dry run foretells is what happens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psycopg
import pytest

from connectors import concord_schema
from connectors.postgres import connect
from connectors.sink.anew import Foreseen, Foresight, as_lost, move_sequences, sequences_behind
from connectors.sink.apply import Applier, Batch, Outcome
from connectors.sink.golden import GoldenDecoder
from connectors.sink.origin import hold_origin
from connectors.sink.session import PLANNING
from schemas.golden import GoldenRecord
from tests.sink.sink_world import World, a_version

A, B, C = (f"00000000-0000-0000-0000-00000000000{number}" for number in (1, 2, 3))


def kept(world: World) -> list[Any]:
    return [
        world.rows('SELECT id, legal_name, tax_id, town, "limit"::text, number, active FROM erp.partner ORDER BY id'),
        world.rows('SELECT id, "to", name, mail FROM erp."user" ORDER BY id'),
    ]


def settled(world: World, *records: GoldenRecord) -> list[GoldenRecord]:
    """The records as merge tells them once it has heard of the rows that they made in the ERP."""
    found = []
    for record in records:
        (key,) = world.rows(
            "SELECT key FROM concord.key WHERE entity = %s AND link = %s AND system = %s", record.entity, record.link, world.erp
        )
        values = dict(record.values)
        if "tax_id" in values:
            (values["number"],) = world.rows("SELECT number FROM erp.partner WHERE id = %s", int(key))
        versions = {name: record.versions.get(name, a_version(150, 2, 1)) for name in values}
        found.append(
            replace(
                record,
                values=values,
                versions=versions,
                targets=(),
                keys={**record.keys, world.erp: key},
                seen={**record.seen, world.erp: values},
            )
        )
    return found


def lost(world: World, records: list[GoldenRecord]) -> list[GoldenRecord]:
    return [found for record in records if (found := as_lost(record, world.erp)) is not None]


def anew(world: World, applier: Applier, records: list[GoldenRecord]) -> Outcome:
    return applier.apply(Batch([replace(world.task(record), anew=True) for record in lost(world, records)]))


def operator(world: World) -> Applier:
    """The administrator's: the pipeline's login may not give keys."""
    conn = connect(world.dsn, PLANNING, "test")
    world.conns.append(conn)
    hold_origin(conn, world.erp, 0)
    return Applier(conn, world.pipeline, world.erp, GoldenDecoder(world.codec), anew=True)


def foresee(world: World, records: list[GoldenRecord]) -> list[Foreseen]:
    conn = connect(world.dsn, PLANNING, "test")
    world.conns.append(conn)
    sight = Foresight(conn, world.pipeline, world.erp, GoldenDecoder(world.codec))
    return sight.foresee(replace(world.task(record), anew=True) for record in lost(world, records))


@pytest.fixture
def golden(world: World) -> list[GoldenRecord]:
    """What stands: three customers, two contacts, all of them in the ERP."""
    records = [
        world.customer(A, "Acme", "DE1"),
        world.customer(B, "Bolt", "DE2"),
        world.customer(C, "Coil", "DE3"),
        world.contact(A, B, "Ann", "a@x"),
        world.contact(B, A, "Bob", "b@x"),
    ]
    world.sql.execute("ALTER TABLE erp.partner ALTER COLUMN id RESTART WITH 101")
    applier = world.applier(worker=7)
    for record in records:
        world.apply(applier, record)
    return settled(world, *records)


def test_an_empty_database_gets_every_row_back_under_its_key_and_number(world: World, golden: list[GoldenRecord]) -> None:
    before = kept(world)
    world.sql.execute('DROP SCHEMA concord CASCADE; TRUNCATE erp.partner, erp."user" RESTART IDENTITY CASCADE')
    foretold = {(one.entity, one.link): (one.what, one.key) for one in foresee(world, golden)}
    assert set(foretold.values()) == {("insert", str(row[0])) for table in before for row in table}
    assert world.rows("SELECT to_regnamespace('concord')") == [None], "a dry run leaves nothing behind"
    concord_schema.ensure(world.sql)
    outcome = anew(world, operator(world), golden)
    assert (len(outcome.wrote), outcome.parks, outcome.deads) == (5, [], [])
    assert kept(world) == before
    behind = sequences_behind(world.sql, world.pipeline, world.erp)
    assert behind == {"erp.partner_id_seq": 103, "erp.user_id_seq": 2}
    move_sequences(world.sql, behind)
    assert sequences_behind(world.sql, world.pipeline, world.erp) == {}
    assert world.rows("SELECT nextval('erp.partner_id_seq')") == [104]


def test_a_backup_of_yesterday_gets_what_was_done_since(world: World, golden: list[GoldenRecord]) -> None:
    acme, bolt, coil, ann, bob = golden
    world.sql.execute("UPDATE erp.partner SET legal_name = 'Yesterday', \"limit\" = 7 WHERE tax_id = 'DE1'")
    world.sql.execute("DELETE FROM erp.\"user\" WHERE mail = 'a@x'")
    gone = replace(coil, alive=False, exists=a_version(900), seen={world.erp: None})
    now = [acme, bolt, gone, ann, bob]
    foretold = {one.link: (one.what, dict(one.fields)) for one in foresee(world, now) if one.entity == acme.entity}
    assert foretold[acme.link] == ("update", {"name": ("Yesterday", "Acme"), "credit": ("7", "10")})
    assert foretold[coil.link][0] == "delete"
    assert foretold[bolt.link] == ("ours", {}), "its number was applied by no sink: the database made it"
    ids = world.rows("SELECT id FROM erp.partner WHERE tax_id IN ('DE1', 'DE2') ORDER BY id")
    anew(world, operator(world), now)
    assert world.rows('SELECT legal_name, "limit"::text FROM erp.partner ORDER BY id') == [("Acme", "10"), ("Bolt", "10")]
    assert world.rows("SELECT id FROM erp.partner ORDER BY id") == ids
    assert world.rows('SELECT mail FROM erp."user" ORDER BY mail') == ["a@x", "b@x"]


def test_what_was_applied_later_is_not_made_older(world: World, golden: list[GoldenRecord]) -> None:
    acme = golden[0]
    later = {"name": a_version(500)}
    world.apply(
        world.applier(worker=8),
        replace(acme, values={**acme.values, "name": "Newer"}, versions={**acme.versions, **later}, targets=(world.erp,)),
    )
    assert world.rows("SELECT legal_name FROM erp.partner WHERE tax_id = 'DE1'") == ["Newer"]
    world.sql.execute("UPDATE erp.partner SET town = 'Elsewhere'")
    anew(world, operator(world), golden)
    assert world.rows("SELECT legal_name, town FROM erp.partner WHERE tax_id = 'DE1'") == [("Newer", "Ulm")]


def test_a_key_that_another_thing_has_taken_since_is_for_a_person(world: World, golden: list[GoldenRecord]) -> None:
    """The sequence of a restored database gave a new row the key of one that is lost."""
    key = int(golden[0].keys[world.erp])
    world.sql.execute('TRUNCATE concord.key, concord.link, erp."user"')
    world.sql.execute("DELETE FROM erp.partner WHERE id = %s", (key,))
    world.sql.execute(
        "INSERT INTO erp.partner (id, legal_name, tax_id, number, active, kind, written) OVERRIDING SYSTEM VALUE "
        "VALUES (%s, 'Intruder', 'XX', 'P999', true, 'customer', now())",
        (key,),
    )
    (told,) = [one for one in foresee(world, golden) if one.what == "dead"]
    assert "may have become another thing's" in told.why
    outcome = anew(world, operator(world), golden)
    assert [(dead.task.record.link, dead.code) for dead in outcome.deads] == [(golden[0].link, "key_taken")]
    assert world.rows("SELECT legal_name FROM erp.partner WHERE id = %s", key) == ["Intruder"]
    assert world.rows("SELECT count(*) FROM concord.key WHERE system = %s AND key = %s", world.erp, str(key)) == [0]


def test_a_row_that_the_crosswalk_has_from_before_is_the_things_own(world: World, golden: list[GoldenRecord]) -> None:
    """Entries of a program that knew no `live` say whose row it is all the same, whatever match value it has by now."""
    world.sql.execute("UPDATE concord.key SET live = false")
    world.sql.execute("UPDATE erp.partner SET tax_id = 'DE9' WHERE tax_id = 'DE1'")
    acme = golden[0]
    assert [one.what for one in foresee(world, golden) if (one.entity, one.link) == (acme.entity, acme.link)] == ["update"]
    assert anew(world, operator(world), golden).deads == []
    assert world.rows("SELECT tax_id FROM erp.partner ORDER BY id") == ["DE1", "DE2", "DE3"]


def test_a_dry_run_knows_in_a_later_batch_what_an_earlier_one_would_have_made(world: World, golden: list[GoldenRecord]) -> None:
    world.sql.execute('TRUNCATE concord.key, concord.link, erp.partner, erp."user" RESTART IDENTITY CASCADE')
    conn = connect(world.dsn, PLANNING, "test")
    world.conns.append(conn)
    sight = Foresight(conn, world.pipeline, world.erp, GoldenDecoder(world.codec))
    for record in lost(world, golden):
        (told,) = sight.foresee([replace(world.task(record), anew=True)])
        assert told.what == "insert", told
    assert {entity for entity, _, _ in sight._made} == {golden[0].entity}, "nobody refers to a contact"


def test_what_waits_for_a_row_that_comes_in_a_later_batch_gets_its_old_key_too(world: World) -> None:
    parent = world.customer(C, "Coil", "DE3")
    child = world.customer(A, "Acme", "DE1", values={"parent": parent.link})
    first = world.applier(worker=7)
    world.apply(first, parent)
    world.apply(first, child)
    golden = settled(world, child, parent)
    before = kept(world)
    world.sql.execute("TRUNCATE concord.key, concord.link, erp.partner RESTART IDENTITY CASCADE")
    applier = operator(world)
    assert [park.task.record.link for park in anew(world, applier, golden[:1]).parks] == [child.link]
    assert len(anew(world, applier, golden[1:]).wrote) == 2
    assert kept(world) == before


def test_who_has_no_row_there_gets_none(world: World) -> None:
    record = world.customer(A, targets=[])
    assert as_lost(record, world.erp) is None
    assert as_lost(replace(record, targets=(world.erp,)), world.erp) is not None
    assert as_lost(replace(record, alive=False, keys={world.erp: "1"}), world.erp) is not None


def test_a_dry_run_holds_no_lock_when_it_has_answered(world: World, golden: list[GoldenRecord]) -> None:
    world.sql.execute("UPDATE erp.partner SET legal_name = 'Yesterday'")
    before = kept(world)
    assert {one.what for one in foresee(world, golden)} == {"update", "nothing"}
    assert kept(world) == before
    with psycopg.connect(world.dsn) as other:
        assert len(other.execute("SELECT id FROM erp.partner FOR UPDATE NOWAIT").fetchall()) == 3
