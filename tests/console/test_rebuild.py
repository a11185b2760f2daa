"""`concord replay --rebuild` on a real Kafka and a real database: from the golden topics alone, whatever the database has lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from confluent_kafka.cimpl import NewTopic  # confluent_kafka.admin has it too, but does not say so to type checkers
from rich.console import Console

from console.rebuild import Rebuild, Report
from schemas import topics
from schemas.golden import GoldenRecord
from tests.sink.sink_world import World, a_version
from tests.sink.test_sink_connector import Line

PARTNERS = 'SELECT id, legal_name, tax_id, town, "limit"::text, number FROM erp.partner ORDER BY id'
USERS = 'SELECT id, "to", name, mail FROM erp."user" ORDER BY id'


@pytest.fixture
def line(database: str, kafka: str) -> Iterator[Line]:
    made = Line(database, kafka)
    yield made
    made.world.rows("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()")
    made.close()


def rebuild(world: World, *, dry: bool = False, anyway: bool = False, as_admin: bool = True) -> Report:
    work = Rebuild(world.pipeline, world.erp, admin=world.dsn if as_admin else None)
    try:
        return work.run(dry, 100, anyway)
    finally:
        work.close()


def agreed(world: World, record: GoldenRecord, key: int, **values: Any) -> GoldenRecord:
    """The thing as merge tells it once it has a row in the ERP."""
    told = {**record.values, **values}
    versions = {name: record.versions.get(name, a_version(150, 2, 1)) for name in told}
    return replace(record, values=told, versions=versions, targets=(), keys={**record.keys, world.erp: str(key)}, seen={world.erp: told})


def a_history(line: Line) -> None:
    """Three customers of which one is gone, a contact; of each thing several records, its last one among others' earlier ones."""
    world = line.world
    births = [world.customer(f"c{number}", f"Name {number}", f"DE{number}") for number in range(3)]
    contact = world.contact("k0", "c1")
    line.send(*births, contact)
    told = [agreed(world, birth, 101 + number, number=f"P{number}") for number, birth in enumerate(births)]
    line.send(*told, agreed(world, contact, 55))
    renamed = {**told[1].values, "name": "Renamed"}
    line.send(replace(told[1], values=renamed, versions={**told[1].versions, "name": a_version(300)}))
    line.send(replace(told[2], alive=False, exists=a_version(400), seen={world.erp: None}))


def test_an_empty_database_without_our_schema_is_written_again(line: Line) -> None:
    world = line.world
    a_history(line)
    world.sql.execute("DROP SCHEMA concord CASCADE")
    told = rebuild(world, dry=True)
    assert (told.state, told.things, told.is_well) == ("dry run", 4, False)
    assert told.to_json()["counts"] == {world.erp: {"insert": 3, "ours": 1}}
    assert world.rows(PARTNERS) == []
    assert world.rows("SELECT to_regnamespace('concord')") == [None]
    assert "concord check --grant --run" in rebuild(world, as_admin=False).error
    world.compile()  # … and that is what it does
    lacking = rebuild(world, as_admin=False)
    assert (lacking.state, world.rows(PARTNERS)) == ("refused", [])
    assert "INSERT (id) on erp.partner; " in lacking.error
    assert f"--admin DSN, or {world.erp.upper()}_ADMIN_DSN" in lacking.error
    assert rebuild(world, dry=True, as_admin=False).to_json()["counts"] == {world.erp: {"insert": 3, "ours": 1}}
    done = rebuild(world)
    assert (done.state, done.counts["written"], done.stuck, done.is_well) == ("done", 3, [], True)
    assert done.sequences == {"erp.partner_id_seq": 102, "erp.user_id_seq": 55}
    assert world.rows(PARTNERS) == [(101, "Name 0", "DE0", "Ulm", "10", "P0"), (102, "Renamed", "DE1", "Ulm", "10", "P1")]
    assert world.rows(USERS) == [(55, 102, "Ann", "a@x")]
    assert len(world.rows("SELECT 1 FROM pg_replication_slots WHERE database = current_database()")) == 1
    again = rebuild(world)
    assert (again.counts["written"], again.is_well, again.sequences) == (0, True, {})
    screen = Console(record=True, width=200)
    done.show(screen)
    assert "4 things, 1 as it was, 0 dead, 0 waits, 3 written" in screen.export_text()


def test_a_backup_of_yesterday_gets_what_was_done_since(line: Line) -> None:
    world = line.world
    a_history(line)
    rebuild(world)
    world.sql.execute("UPDATE erp.partner SET legal_name = 'Yesterday' WHERE id = 102; DELETE FROM erp.\"user\"")
    world.sql.execute(
        "INSERT INTO erp.partner (id, legal_name, tax_id, number, active, kind, written) OVERRIDING SYSTEM VALUE "
        "VALUES (103, 'Name 2', 'DE2', 'P2', true, 'customer', now())"
    )
    changes = {(one["what"], one["key"]): one["fields"] for one in rebuild(world, dry=True).to_json()["changes"]}
    assert changes["update", "102"] == {"name": {"from": "Yesterday", "to": "Renamed"}}
    assert {("insert", "55"), ("delete", "103")} <= changes.keys()
    rebuild(world)
    assert [row[:2] for row in world.rows(PARTNERS)] == [(101, "Name 0"), (102, "Renamed")]
    assert world.rows(USERS) == [(55, 102, "Ann", "a@x")]


def test_a_log_that_has_been_turned_back_is_refused_with_the_mend(line: Line) -> None:
    world = line.world
    a_history(line)
    captured = topics.captured(world.erp, "erp", "partner")
    line.admin.create_topics([NewTopic(captured, 1, 1)])[captured].result(30)
    line.names.append(captured)
    source = {"version": "3.6.3.Final", "connector": "postgresql", "name": world.erp, "ts_ms": 1, "snapshot": None, "db": "d"}
    source |= {"schema": "erp", "table": "partner", "sequence": f'["{1 << 60}","{(1 << 60) + 7}"]', "lsn": (1 << 60) + 7, "txId": 9}
    row = {"id": 1, "legal_name": "A", "tax_id": None, "town": None, "number": "1", "active": True, "kind": "customer"}
    event = {"before": None, "after": row, "source": source, "op": "c", "ts_us": 5, "transaction": None}
    line.producer.produce(captured, orjson.dumps(event), orjson.dumps({"id": 1}))
    line.producer.produce(captured, None, orjson.dumps({"id": 1}))
    line.producer.flush(10)
    told = rebuild(world)
    assert (told.state, told.is_well, world.rows(PARTNERS)) == ("refused", False, [])
    assert f"changes up to {1 << 28:X}/7 have been read" in told.error
    assert "pg_resetwal -l 00000001" in told.error
    assert rebuild(world, anyway=True).counts["written"] == 3


def test_a_golden_record_that_cannot_be_read_is_named(line: Line) -> None:
    world = line.world
    a_history(line)
    golden = topics.golden(world.customer("c0").entity)
    line.producer.produce(golden, b"no golden record", b"crm:c9", 0)
    line.producer.flush(10)
    for told in (rebuild(world, dry=True), rebuild(world)):
        assert (told.is_well, told.counts["unreadable"]) == (False, 1)
        (named,) = told.stuck
        assert (named["link"], named["what"]) == ("crm:c9", "cannot be read")
        assert f"{golden}@0/" in named["why"]
    assert [row[0] for row in world.rows(PARTNERS)] == [101, 102], "the others are written"


def test_nothing_agreed_is_nothing_to_rebuild_from(line: Line) -> None:
    told = rebuild(line.world)
    assert told.state == "refused"
    assert "are empty" in told.error
