"""Entities whose rows hang together: what is written to which table, and what is left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from connectors.sink.apply import Applier, Batch
from tests.services import wait_until
from tests.sink.parts_world import CONFIG, EMPTY, SCHEMA, PartsWorld
from tests.sink.sink_world import a_suffix


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[PartsWorld]:
    """On the first server; on the one that a test names by `on_each_server`."""
    made = PartsWorld(request.getfixturevalue(getattr(request, "param", "database")), a_suffix(), schema=SCHEMA, config=CONFIG)
    yield made
    made.close()


on_each_server = pytest.mark.parametrize("world", ["database", "database_2"], indirect=True)


@on_each_server
def test_a_new_thing_is_written_to_all_its_tables(world: PartsWorld) -> None:
    record = world.a_customer(tax_id="DE1", street="Main 1", city="Ulm", email="a@b.c", phone="123", group="Vip", motto="Go")
    outcome = world.apply(world.applier(), record)
    assert (len(outcome.wrote), outcome.deads) == (1, [])
    assert world.rows('SELECT p.name, g.name FROM erp.party p JOIN erp.party_group g ON g.id = "group"') == [("Acme", "Vip")]
    assert world.addresses() == [(1, "Main 1", "Ulm", True)]
    assert world.rows('SELECT code, code_copy, write_date IS NOT NULL FROM erp."party address"') == [("A1", "A1", True)]
    assert world.contacts() == [(1, "email", "a@b.c", "a@b.c"), (1, "phone", "123", "123")]
    assert world.rows("SELECT party, type, code FROM erp.identifier") == [(1, "vat", "DE1")]
    assert world.rows("SELECT resource, text FROM erp.note") == [("group,1", "Go")]
    assert world.seen() == {**record.values, "code": "A1", "turnover": None}


def born(world: PartsWorld, applier: Applier, **values: Any) -> None:
    outcome = world.apply(applier, world.a_customer(**values))
    assert (len(outcome.wrote), outcome.deads, outcome.parks) == (1, [], [])


def test_nothing_is_inserted_for_a_part_whose_fields_are_all_null(world: PartsWorld) -> None:
    born(world, world.applier())
    assert world.rows('SELECT name, "group" FROM erp.party') == [("Acme", None)]
    assert world.addresses() == world.contacts() == world.rows("SELECT 1 FROM erp.identifier") == []


def test_only_the_chosen_child_is_written_and_of_it_only_what_differs(world: PartsWorld) -> None:
    applier = world.applier()
    born(world, applier, street="Main 1", city="Ulm")
    world.sql.execute(
        "INSERT INTO erp.\"party address\" (party, sequence, city, active) VALUES (1, 5, 'Second', true), (1, 1, 'Gone', false)"
    )
    world.sql.execute("UPDATE erp.\"party address\" SET sequence = 2 WHERE city = 'Ulm'")
    before = world.rows("SELECT id, xmin::text FROM erp.\"party address\" WHERE city <> 'Ulm' ORDER BY id")
    world.apply(applier, world.a_customer(street="Main 2", city="Ulm", hlc=200, seen=world.seen()))
    assert world.addresses() == [(1, "Main 2", "Ulm", True), (1, None, "Second", True), (1, None, "Gone", False)]
    assert world.rows("SELECT id, xmin::text FROM erp.\"party address\" WHERE city <> 'Ulm' ORDER BY id") == before


def test_guard_asks_part_by_part_whether_our_write_has_come_back(world: PartsWorld) -> None:
    """Our address stands there again, set back by somebody; only once merge has heard of ours is that no write of ours (0035)."""
    applier = world.applier()
    born(world, applier, street="Main 1", city="Ulm")
    told = world.a_customer(street="Main 2", city="Ulm", hlc=200, seen={**world.seen(), "street": "Main 2"})
    world.apply(applier, replace(told, heard={world.erp: {"": 500, "address": 100}}))
    assert world.rows('SELECT "%%street" FROM erp."party address"') == ["Main 1"]
    world.apply(applier, replace(told, heard={world.erp: {"": 500}}))
    assert world.rows('SELECT "%%street" FROM erp."party address"') == ["Main 2"]


def test_always_is_set_on_the_root_too_when_only_a_part_is_written(world: PartsWorld) -> None:
    applier = world.applier()
    born(world, applier, street="Main 1")
    world.sql.execute("UPDATE erp.party SET write_date = '2000-01-01'; UPDATE erp.\"party address\" SET write_date = '2000-01-01'")
    world.apply(applier, world.a_customer(street="Main 2", hlc=200, seen=world.seen()))
    assert world.rows(
        "SELECT write_date > '2020-01-01' FROM erp.party UNION ALL SELECT write_date > '2020-01-01' FROM erp.\"party address\""
    ) == [
        True,
        True,
    ]
    world.sql.execute("UPDATE erp.party SET write_date = '2000-01-01'")
    ended = world.apply(applier, world.a_customer(street="Main 2", hlc=300, seen=world.seen()))
    assert not ended.wrote
    assert world.rows("SELECT write_date::text FROM erp.party") == ["2000-01-01 00:00:00"]


@on_each_server
def test_a_child_is_inserted_at_a_root_that_is_there(world: PartsWorld) -> None:
    applier = world.applier()
    born(world, applier)
    world.apply(applier, world.a_customer(street="Main 1", phone="1", group="Vip", motto="Go", hlc=200, seen=world.seen()))
    assert world.addresses() == [(1, "Main 1", None, True)]  # a field that is null is written, not left to the column's default
    assert world.contacts() == [(1, "phone", "1", "1")]
    assert world.rows('SELECT "group"::int FROM erp.party') == [1]
    assert world.rows("SELECT resource FROM erp.note") == ["group,1"]
    assert world.seen()["code"] == "A1"
    wrote = world.rows("SELECT wrote->'code' FROM concord.link")
    assert wrote == [None]  # the sequence's number is the ERP's own, an edit of it


def test_a_child_whose_fields_are_all_null_is_deleted_or_blanked(world: PartsWorld) -> None:
    applier = world.applier()
    born(world, applier, street="Main 1", email="a@b.c", phone="1")
    world.sql.execute("INSERT INTO erp.contact (party, type, value) VALUES (1, 'email', 'second@b.c'), (1, 'fax', '9')")
    world.apply(applier, world.a_customer(phone="1", hlc=200, seen=world.seen()))
    assert world.addresses() == [(1, None, None, True)]
    assert [contact[1:3] for contact in world.contacts()] == [("phone", "1"), ("email", "second@b.c"), ("fax", "9")]
    # what was behind the deleted row is the ERP's own: noted, and not deleted after it
    again = world.apply(applier, world.a_customer(phone="1", hlc=200, seen=world.seen()))
    assert not again.wrote
    assert len(world.contacts()) == 3


def test_a_child_that_was_deleted_here_is_not_there_any_more_and_made_again(world: PartsWorld) -> None:
    applier = world.applier()
    born(world, applier, street="Main 1")
    seen = world.seen()
    world.sql.execute('DELETE FROM erp."party address"')
    # merge has not heard of it: an edit is on its way, nothing is written over it
    world.apply(applier, world.a_customer(street="Main 2", hlc=200, seen=seen))
    assert world.addresses() == []
    world.apply(applier, world.a_customer(street="Main 2", hlc=200, seen=world.seen()))
    assert world.addresses() == [(1, "Main 2", None, True)]


def test_an_edit_in_a_part_that_merge_has_not_seen_is_never_overwritten(world: PartsWorld) -> None:
    applier = world.applier()
    born(world, applier, street="Main 1", city="Ulm", group="Vip")
    seen = world.seen()
    world.sql.execute("UPDATE erp.\"party address\" SET city = 'Bonn'; UPDATE erp.party_group SET name = 'Theirs'")
    world.apply(applier, world.a_customer(street="Main 2", city="Kiel", group="Ours", hlc=200, seen=seen))
    assert world.addresses() == [(1, "Main 2", "Bonn", True)]
    assert world.rows("SELECT name FROM erp.party_group") == ["Theirs"]


def test_another_child_that_comes_first_is_the_one(world: PartsWorld) -> None:
    applier = world.applier()
    born(world, applier, street="Main 1")
    world.sql.execute('UPDATE erp."party address" SET sequence = 2')
    world.sql.execute('INSERT INTO erp."party address" (party, sequence, "%street", active) VALUES (1, 1, \'First\', true)')
    assert world.seen()["street"] == "First"
    world.apply(applier, world.a_customer(street="Main 2", hlc=200, seen=world.seen()))
    assert [address[1] for address in world.addresses()] == ["Main 1", "Main 2"]


# ── a part that many share ────────────────────────────────────────────────────────────────────────────────────────────────────────


@on_each_server
def test_a_shared_part_is_updated_once_and_stays_as_the_first_left_it(world: PartsWorld) -> None:
    applier = world.applier()
    world.sql.execute("INSERT INTO erp.party_group (name) VALUES ('Vip')")
    parties = [world.a_party(name, 1) for name in ("A", "B", "C")]
    records = [
        world.golden(f"{world.erp}:{party}", {"name": name, **EMPTY, "group": group}, keys={world.erp: str(party)}, seen=world.seen(party))
        for party, name, group in zip(parties, "ABC", ("Gold", "Gold", "Other"), strict=True)
    ]
    outcome = world.apply(applier, *records)
    assert world.rows("SELECT name FROM erp.party_group") == ["Gold"]
    assert [task.record.link for task in outcome.wrote] == [records[0].link]
    assert {end.end.value for end in outcome.ends} == {"unchanged", "superseded"}
    assert world.rows("SELECT link, applied ? 'group' FROM concord.link ORDER BY link") == [
        (record.link, expected) for record, expected in zip(records, (True, True, False), strict=True)
    ]


def test_a_link_that_points_elsewhere_is_never_turned(world: PartsWorld) -> None:
    world.sql.execute("ALTER TABLE erp.party DROP CONSTRAINT party_group_fkey")
    party = world.a_party("A", 77)
    outcome = world.apply(
        world.applier(),
        world.golden(f"{world.erp}:{party}", {"name": "A", **EMPTY, "group": "Vip"}, keys={world.erp: str(party)}, seen=world.seen(party)),
    )
    assert "group is '77', but there is no such row of group (erp.party_group)" in outcome.deads[0].error
    assert world.rows('SELECT "group"::int FROM erp.party') == [77]


# ── who is who ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("held", ["DE1", " de1 "])
def test_a_row_is_adopted_by_a_match_value_in_a_part(world: PartsWorld, held: str) -> None:
    party = world.a_party("Theirs")
    world.sql.execute("INSERT INTO erp.identifier (party, type, code) VALUES (%s, 'vat', %s), (%s, 'other', 'DE1')", (party, held, party))
    applier, record = world.applier(), world.a_customer(tax_id="DE1", street="Main 1")
    world.apply(applier, record)  # merge has not seen what is there: nothing is written yet
    assert world.addresses() == []
    world.apply(applier, replace(record, seen={**record.seen, world.erp: world.seen()}))
    assert world.rows("SELECT key FROM concord.key WHERE system = %s", world.erp) == [str(party)]
    assert world.rows("SELECT count(*) FROM erp.party") == [1]
    assert world.addresses() == [(party, "Main 1", None, True)]


def test_a_value_of_another_type_does_not_make_a_row_the_thing(world: PartsWorld) -> None:
    party = world.a_party("Theirs")
    world.sql.execute("INSERT INTO erp.identifier (party, type, code) VALUES (%s, 'other', 'DE1')", (party,))
    born(world, world.applier(), tax_id="DE1")
    assert world.rows("SELECT count(*) FROM erp.party") == [2]


def test_a_match_value_in_a_part_that_another_thing_holds_is_waited_for(world: PartsWorld) -> None:
    applier = world.applier()
    born(world, applier, tax_id="DE1")
    outcome = world.apply(applier, world.a_customer("c2", tax_id="DE1"))
    assert [park.waits_for for park in outcome.parks] == ["=DE1"]
    world.apply(applier, world.a_customer(tax_id="DE2", hlc=200, seen=world.seen()))
    world.apply(applier, world.a_customer("c2", tax_id="DE1", hlc=300))
    assert world.rows("SELECT party, code FROM erp.identifier ORDER BY id") == [(1, "DE2"), (2, "DE1")]


def test_a_unique_index_of_a_parts_table_on_the_match_value_is_waited_for(world: PartsWorld) -> None:
    world.sql.execute("INSERT INTO erp.identifier (party, type, code) VALUES (99, 'vat', 'DE1')")  # hangs at no party: nobody's
    outcome = world.apply(world.applier(), world.a_customer(tax_id="DE1"))
    assert ([park.waits_for for park in outcome.parks], outcome.deads) == (["=DE1"], [])


# ── what a target refuses ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_parts_table_refuses_is_a_dead_letter_and_the_others_go_through(world: PartsWorld) -> None:
    good, long, poison = (
        world.a_customer("c1", street="Main 1"),
        world.a_customer("c2", street="x" * 31),
        world.a_customer("c3", group="Atlantis"),
    )
    outcome = world.apply(world.applier(), good, long, poison)
    assert [(dead.task.record.link.split(":")[1], dead.code) for dead in outcome.deads] == [("c2", "MappingError"), ("c3", "23514")]
    assert world.rows("SELECT name FROM erp.party") == ["Acme"]
    assert world.rows("SELECT count(*) FROM erp.party_group") == [0]


@pytest.mark.parametrize("event", ["INSERT", "UPDATE", "DELETE"])
def test_a_write_of_a_part_that_hits_no_row_is_an_error_of_that_name(world: PartsWorld, event: str) -> None:
    applier = world.applier()
    if event != "INSERT":
        born(world, applier, email="a@b.c")
    seen = None if event == "INSERT" else world.seen()
    world.sql.execute(
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        f"CREATE TRIGGER nothing BEFORE {event} ON erp.contact FOR EACH ROW EXECUTE FUNCTION nothing()"
    )
    outcome = world.apply(applier, world.a_customer(email=None if event == "DELETE" else "x@y.z", hlc=200, seen=seen))
    assert f"{event.lower()} of erp.contact" in outcome.deads[0].error
    assert outcome.deads[0].code == "no_row"


def test_what_a_parts_trigger_makes_of_it_is_noted_and_not_fought_over(world: PartsWorld) -> None:
    applier = world.applier()
    world.sql.execute(
        "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.city := upper(NEW.city); RETURN NEW; END';"
        'CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON erp."party address" FOR EACH ROW EXECUTE FUNCTION shout()'
    )
    born(world, applier, city="Ulm")
    assert world.rows("SELECT adjusted->'city' FROM concord.link") == [["Ulm", "ULM"]]
    assert not world.apply(applier, world.a_customer(city="Ulm", hlc=100, seen=world.seen())).wrote


# ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_delete_takes_the_children_in_scope_with_it_and_leaves_the_parents(world: PartsWorld) -> None:
    applier = world.applier()
    born(world, applier, tax_id="DE1", street="Main 1", email="a@b.c", group="Vip", motto="Go")
    world.sql.execute("INSERT INTO erp.\"party address\" (party, sequence, city, active) VALUES (1, 5, 'Second', true)")
    world.apply(applier, world.a_customer(tax_id="DE1", hlc=200, alive=False, seen=world.seen()))
    assert world.rows("SELECT count(*) FROM erp.party") == [0]
    assert world.addresses() == world.contacts() == world.rows("SELECT 1 FROM erp.identifier") == []
    assert world.rows("SELECT count(*) FROM erp.party_group UNION ALL SELECT count(*) FROM erp.note") == [1, 1]


@pytest.mark.parametrize(
    ("row", "table"),
    [
        ("INSERT INTO erp.\"party address\" (party, city) VALUES (1, 'Not active')", "party address"),
        ("INSERT INTO erp.sale (party, amount, state) VALUES (1, 5, 'done')", "sale"),
    ],
)
def test_rows_that_are_not_ours_keep_a_root_from_being_deleted(world: PartsWorld, row: str, table: str) -> None:
    applier = world.applier()
    born(world, applier, street="Main 1")
    world.sql.execute(row.encode())
    outcome = world.apply(applier, world.a_customer(hlc=200, alive=False, seen=world.seen()))
    assert (outcome.deads[0].code, "delete: {soft: …}" in outcome.deads[0].error, table in outcome.deads[0].error) == ("23503", True, True)
    assert world.addresses()[0] == (1, "Main 1", None, True)


# ── parts of parts, composite keys ────────────────────────────────────────────────────────────────────────────────────────────────


@on_each_server
def test_a_part_of_a_part_with_composite_keys(world: PartsWorld) -> None:
    applier = world.applier()
    born(world, applier)
    outcome = world.apply(applier, world.a_line("c1", "1", plan="Fine", amount="2.5"), world.a_line("c1", "2"))
    assert (len(outcome.wrote), outcome.deads) == (2, [])
    assert world.rows('SELECT party, "no.", text FROM erp.line ORDER BY 2') == [(1, 1, "L"), (1, 2, "L")]
    assert world.rows("SELECT name, party, line, title FROM erp.plan") == [("p1", 1, 1, "Fine")]
    assert world.rows("SELECT plan, party, amount::text FROM erp.rate") == [("p1", 1, "2.5")]
    # a plan without a title is made for the rate that hangs at it
    key = '["1","2"]'
    seen = world.flat_row(key, "line")[1]
    world.apply(applier, world.a_line("c1", "2", amount="9", hlc=200, seen=seen, keys={world.erp: key}))
    assert world.rows("SELECT p.line, p.title, r.amount::text FROM erp.plan p JOIN erp.rate r ON r.plan = p.name ORDER BY 1") == [
        (1, "Fine", "2.5"),
        (2, None, "9"),
    ]
    seen = world.flat_row('["1","1"]', "line")[1]
    world.apply(applier, world.a_line("c1", "1", plan="Fine", amount="3", hlc=200, seen=seen))
    assert world.rows("SELECT amount::text FROM erp.rate ORDER BY 1") == ["3", "9"]
    world.apply(applier, world.a_line("c1", "1", hlc=300, alive=False, seen=world.flat_row('["1","1"]', "line")[1]))
    assert world.rows("SELECT line FROM erp.plan") == [2]
    assert world.rows("SELECT count(*) FROM erp.rate") == [1]


# ── others at the same time ───────────────────────────────────────────────────────────────────────────────────────────────────────


def meanwhile(world: PartsWorld, statement: str, do: Callable[[], Any]) -> Any:
    """Somebody's open transaction; it commits once `do`, in another thread, waits for it."""
    with psycopg.connect(world.dsn) as theirs, ThreadPoolExecutor(1) as pool:
        theirs.execute(statement.encode())
        done = pool.submit(do)
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        wait_until(lambda: done.done() or world.rows(waiting) == [1], "nothing waits for the transaction")
        assert not done.done()
        theirs.commit()
        return done.result(20)


@on_each_server
@pytest.mark.parametrize("there", [True, False])
def test_an_application_that_inserts_the_child_at_the_same_moment_makes_no_second_one(world: PartsWorld, there: bool) -> None:
    applier = world.applier()
    if there:
        born(world, applier)
        record = world.a_customer(street="Ours", hlc=200, seen=world.seen())
    else:
        party = world.a_party()  # to be adopted: a row nobody has linked yet
        world.sql.execute("INSERT INTO erp.identifier (party, type, code) VALUES (%s, 'vat', 'DE1')", (party,))
        record = world.a_customer(tax_id="DE1", street="Ours")
    insert = 'INSERT INTO erp."party address" (party, sequence, "%street", active) VALUES (1, 1, \'Theirs\', true)'
    world.sql.execute('ALTER TABLE erp."party address" ALTER CONSTRAINT "party address_party_fkey" NOT DEFERRABLE')
    meanwhile(world, insert, lambda: world.apply(applier, record))
    assert world.addresses() == [(1, "Theirs", "Nowhere", True)]  # and merge decides
    world.apply(applier, replace(record, seen={**record.seen, world.erp: world.seen()}))
    assert world.addresses() == [(1, "Ours", None, True)]


@on_each_server
def test_a_child_that_is_being_changed_is_waited_for_and_read_as_it_then_is(world: PartsWorld) -> None:
    applier = world.applier()
    born(world, applier, street="Main 1")
    seen = world.seen()
    world.sql.execute('INSERT INTO erp."party address" (party, sequence, "%street", active) VALUES (1, 9, \'Last\', true)')
    world.sql.execute('UPDATE erp."party address" SET sequence = 5 WHERE "%street" = \'Main 1\'')
    record = world.a_customer(street="Ours", hlc=200, seen=seen)
    # the first becomes the last while we wait for its row: the other one is the chosen one, and has an edit that merge has not seen
    meanwhile(world, 'UPDATE erp."party address" SET sequence = 10 WHERE sequence = 5', lambda: world.apply(applier, record))
    assert [address[1] for address in world.addresses()] == ["Main 1", "Last"]


def test_without_a_foreign_key_a_second_child_may_come_and_nothing_loops(world: PartsWorld) -> None:
    applier = world.applier()
    born(world, applier)
    record = world.a_customer(tax_id="DE1", hlc=200, seen=world.seen())
    with psycopg.connect(world.dsn) as theirs:
        theirs.execute("INSERT INTO erp.identifier (party, type, code) VALUES (1, 'vat', 'THEIRS')")
        world.apply(applier, record)
        theirs.commit()
    assert world.rows("SELECT code FROM erp.identifier ORDER BY id") == ["THEIRS", "DE1"]
    assert world.seen()["tax_id"] == "THEIRS"  # the first; an edit of the ERP for merge
    assert not world.apply(applier, replace(record, seen={**record.seen, world.erp: world.seen()})).wrote


def test_a_locked_child_holds_up_nothing_but_its_thing(world: PartsWorld) -> None:
    applier = world.applier()
    born(world, applier, key="c1", street="Main 1")
    born(world, applier, key="c2", street="Main 1")
    seen = {key: world.seen(party) for party, key in ((1, "c1"), (2, "c2"))}
    world.sql.execute("SET lock_timeout TO '100ms'")
    with psycopg.connect(world.dsn) as theirs:
        theirs.execute('UPDATE erp."party address" SET city = city WHERE party = 1')
        records = [world.a_customer(key, street="Main 2", hlc=200, seen=seen[key]) for key in ("c1", "c2")]
        outcome = applier.apply(Batch([world.task(record) for record in records]), ("SET LOCAL lock_timeout TO '100ms'", ()))
        assert [park.task.record.link.split(":")[1] for park in outcome.parks] == ["c1"]
    assert [address[1] for address in world.addresses()] == ["Main 1", "Main 2"]
    applier.sweep()
    assert [address[1] for address in world.addresses()] == ["Main 2", "Main 2"]
