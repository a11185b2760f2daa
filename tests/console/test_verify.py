"""`concord verify` against real tables, with the crosswalk written by hand."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from console import verify as verifying
from console import wiring
from console.verify import passes
from console.verify import rows as reading
from console.wiring import ensure_topics
from tests.console.console_fixtures import World, world

__all__ = ["world"]

A, B, C = (str(uuid.UUID(int=number)) for number in (1, 2, 3))


@pytest.fixture
def synced(world: World) -> World:
    """Two customers and a contact, the same on both sides."""
    world.prepare(topics=False)  # it asks Kafka for counts only
    world.do(world.crm, "INSERT INTO account VALUES (%s, 'Acme', ' de1 ', 'Berlin', 10.50), (%s, 'Bolt', NULL, NULL, NULL)", A, B)
    world.do(
        world.erp, "INSERT INTO partner VALUES (1, 'customer', 'Acme', 'DE1', 'Berlin', 10.5), (2, 'customer', 'Bolt', NULL, NULL, NULL)"
    )
    world.do(world.crm, "INSERT INTO contact VALUES (%s, %s, 'a@b.c')", C, A)
    world.do(world.erp, "INSERT INTO \"user\" VALUES (7, 1, 'a@b.c')")
    world.key(world.customer, f"{world.crm}:{A}", crm=A, erp="1")
    world.key(world.customer, f"{world.crm}:{B}", crm=B, erp="2")
    world.key(world.contact, f"{world.crm}:{C}", crm=C, erp="7")
    return world


def verified(world: World, *entities: str, limit: int = 100) -> dict[str, Any]:
    """Without the waits that only matter while something runs."""
    pipeline = wiring.open_pipeline(world.config)
    return verifying.verify(pipeline, entities or tuple(pipeline.entities), limit, waits=(0, 0), sleep=lambda _: None).to_json()


def test_both_sides_equal_is_0_and_says_how_many(synced: World) -> None:
    ensure_topics(synced.config)
    status, told = synced.concord("verify")
    assert status == 0
    assert told["equal"] is True
    assert told["differences"] == []
    assert told["entities"][synced.customer] == {
        "things": 2,
        "equal": 2,
        "differing": 0,
        "missing": {synced.crm: 0, synced.erp: 0},
        "in_flight": 0,
        "deleted": 0,
        "adjusted": 0,
        "duplicates": 0,
        "repaired": 0,
        "out_of_scope": {synced.crm: 0, synced.erp: 0},
        "conflicts": 0,
        "parked": 0,
        "dead": 0,
    }
    assert told["entities"][synced.contact]["equal"] == 1


def test_each_differing_field_is_named_with_both_values(synced: World) -> None:
    synced.do(synced.erp, "UPDATE partner SET legal_name = 'Acme AG', town = 'Bonn' WHERE id = 1")
    status, told = synced.concord("verify")
    assert status == 1
    assert told["entities"][synced.customer]["differing"] == 1
    assert told["entities"][synced.customer]["equal"] == 1
    link = f"{synced.crm}:{A}"
    assert {(one["link"], one["field"]) for one in told["differences"]} == {(link, "name"), (link, "city")}
    name = next(one for one in told["differences"] if one["field"] == "name")
    assert name["values"] == {synced.crm: "Acme", synced.erp: "Acme AG"}
    assert name["keys"] == {synced.crm: A, synced.erp: "1"}
    assert "name differing" in synced.run("verify").stdout


def test_what_one_side_cannot_hold_is_not_a_difference(synced: World) -> None:
    synced.do(synced.erp, "UPDATE partner SET credit_limit = 10.501 WHERE id = 1")
    assert verified(synced)["equal"]
    synced.do(synced.erp, "UPDATE partner SET credit_limit = 10.51 WHERE id = 1")
    assert not verified(synced)["equal"]


def test_a_reference_is_compared_as_a_thing(synced: World) -> None:
    synced.do(synced.erp, 'UPDATE "user" SET partner_id = 2')
    told = verified(synced)
    assert told["entities"][synced.contact]["differing"] == 1
    assert told["differences"][0]["field"] == "customer"
    assert told["differences"][0]["values"] == {synced.crm: f"{synced.crm}:{A}", synced.erp: f"{synced.erp}:2"}


def test_a_row_that_is_gone_on_one_side_is_missing_there(synced: World) -> None:
    synced.do(synced.erp, 'DELETE FROM "user"')
    told = verified(synced)
    assert told["entities"][synced.contact]["missing"] == {synced.crm: 0, synced.erp: 1}
    assert told["entities"][synced.contact]["things"] == 1
    assert told["differences"][0]["missing_in"] == [synced.erp]
    synced.do(synced.crm, "DELETE FROM contact")
    assert verified(synced)["equal"]


def test_the_second_system_leads_what_the_first_lacks(synced: World) -> None:
    synced.do(synced.crm, "DELETE FROM contact")
    told = verified(synced)
    assert told["entities"][synced.contact]["missing"] == {synced.crm: 1, synced.erp: 0}
    assert told["entities"][synced.contact]["things"] == 1


def test_a_row_nobody_linked_is_missing_where_things_are_born_and_out_of_scope_elsewhere(synced: World) -> None:
    synced.do(synced.erp, "INSERT INTO \"user\" VALUES (8, NULL, 'x@y.z')")
    synced.do(synced.crm, "INSERT INTO contact VALUES (%s, NULL, 'n@y.z')", A)
    told = verified(synced)["entities"][synced.contact]
    assert told["out_of_scope"] == {synced.crm: 0, synced.erp: 1}
    assert told["missing"] == {synced.crm: 0, synced.erp: 1}


def test_rows_that_do_not_count_are_not_looked_at(synced: World) -> None:
    synced.do(synced.erp, "INSERT INTO partner (id, kind, legal_name) VALUES (3, 'supplier', 'Nobody')")
    assert verified(synced)["equal"]
    synced.do(synced.erp, "UPDATE partner SET kind = 'supplier' WHERE id = 1")
    assert verified(synced)["entities"][synced.customer]["missing"][synced.erp] == 1


def test_what_was_deleted_softly_is_not_missing(synced: World) -> None:
    synced.do(synced.erp, 'DELETE FROM "user"')
    synced.do(synced.crm, "DELETE FROM contact")
    synced.do(synced.erp, "DELETE FROM partner WHERE id = 1")
    assert verified(synced, synced.customer)["entities"][synced.customer]["missing"][synced.erp] == 1
    synced.do(synced.crm, "UPDATE account SET active = false WHERE id = %s", A)
    told = verified(synced, synced.customer)
    assert told["equal"]
    assert told["entities"][synced.customer]["deleted"] == 1


def test_a_second_row_with_the_same_match_value_is_a_duplicate_that_waits(synced: World) -> None:
    synced.do(synced.crm, "INSERT INTO account VALUES (%s, 'Acme again', 'De1', NULL, NULL)", C)
    told = verified(synced, synced.customer)
    assert told["entities"][synced.customer]["duplicates"] == 1
    assert told["entities"][synced.customer]["missing"] == {synced.crm: 0, synced.erp: 0}
    assert told["equal"]
    duplicate = next(one for one in told["differences"] if one["what"] == "duplicate")
    assert (duplicate["of"], duplicate["match_value"], duplicate["keys"]) == (A, "DE1", {synced.crm: C})


def test_a_row_in_flight_is_looked_at_again_and_not_reported(synced: World) -> None:
    synced.do(synced.erp, "UPDATE partner SET legal_name = 'Acme AG' WHERE id = 1")
    waited: list[float] = []

    def meanwhile(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            synced.do(synced.crm, "UPDATE account SET name = 'Acme AG' WHERE id = %s", A)

    pipeline = wiring.open_pipeline(synced.config)
    report = verifying.verify(pipeline, [synced.customer], waits=(1, 2, 3), sleep=meanwhile)
    assert report.equal
    assert report.entities[synced.customer].equal == 2
    assert waited == [1, 2]


def test_what_changes_at_every_look_is_in_flight_and_not_called_differing(synced: World) -> None:
    looks = iter(range(100))
    pipeline = wiring.open_pipeline(synced.config)
    synced.do(synced.erp, "UPDATE partner SET town = 'x' WHERE id = 1")
    report = verifying.verify(
        pipeline,
        [synced.customer],
        waits=(0, 0),
        sleep=lambda _: synced.do(synced.erp, "UPDATE partner SET town = %s WHERE id = 1", str(next(looks))),
    )
    count = report.entities[synced.customer]
    assert (count.in_flight, count.differing, count.equal) == (1, 0, 1)
    assert not report.equal


def test_a_value_that_a_trigger_made_of_ours_is_adjusted(synced: World) -> None:
    synced.do(synced.crm, "UPDATE account SET city = 'Muenchen' WHERE id = %s", A)
    synced.do(synced.erp, "UPDATE partner SET town = 'MUENCHEN' WHERE id = 1")
    adjusted = '{"city": ["Muenchen", "MUENCHEN"]}'
    insert = "INSERT INTO concord.link (entity, link, adjusted) VALUES (%s, %s, %s)"
    synced.do(synced.erp, insert, synced.customer, f"{synced.crm}:{A}", adjusted)
    told = verified(synced, synced.customer)
    assert told["entities"][synced.customer]["adjusted"] == 1
    assert told["equal"]
    assert told["differences"][0]["what"] == "adjusted"


def test_why_something_is_missing_is_said(synced: World) -> None:
    link = f"{synced.crm}:{A}"
    synced.do(synced.erp, 'DELETE FROM "user"; DELETE FROM partner WHERE id = 1')
    synced.do(
        synced.erp,
        'INSERT INTO concord.dead_letter (entity, link, topic, partition, "offset", error, code) '
        "VALUES (%s, %s, 't', 0, 1, 'too long', '22001')",
        synced.customer,
        link,
    )
    told = verified(synced, synced.customer)
    assert told["entities"][synced.customer]["dead"] == 1
    assert told["differences"][0]["why"] == f"dead letter {synced.erp}:1: too long"


def test_the_limit_cuts_names_never_counts(synced: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK", 7)
    monkeypatch.setattr(passes, "SUSPECTS", 10)
    synced.do(synced.crm, "INSERT INTO account SELECT gen_random_uuid(), 'n' || n, 'v' || n FROM generate_series(1, 100) n")
    told = verified(synced, synced.customer, limit=3)
    assert told["entities"][synced.customer]["missing"][synced.erp] == 100
    assert told["entities"][synced.customer]["equal"] == 2
    assert len(told["differences"]) == 3
    assert told["differences_total"] == 100


def test_chunks_go_on_after_a_key_of_several_columns(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK", 3)
    world.prepare(topics=False)
    world.do(world.crm, "ALTER TABLE contact DROP CONSTRAINT contact_pkey, ADD COLUMN part int, ADD PRIMARY KEY (part, id)")
    world.do(world.crm, "INSERT INTO contact (id, part) SELECT gen_random_uuid(), n / 4 FROM generate_series(1, 11) n")
    told = verified(world, world.contact)
    assert told["entities"][world.contact]["missing"][world.erp] == 11


def test_a_database_that_knows_nothing_of_concord_cannot_be_asked(world: World) -> None:
    status, told = world.concord("verify")
    assert status == 2
    assert "no schema concord" in told["error"]


def test_an_unknown_entity_is_refused(synced: World) -> None:
    done = synced.run("verify", "--entity", "nothing")
    assert done.exit_code == 2
    assert "no entity 'nothing'" in done.stderr
