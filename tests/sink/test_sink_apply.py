"""Batches against real databases."""

from __future__ import annotations

import pytest

from connectors.concord_schema import LATEST, ensure
from connectors.sink.metrics import SinkMetrics
from connectors.source.snapshot import SnapshotStore
from schemas.metrics import EVENTS, State
from tests.sink.sink_world import World, a_version, later


def test_a_customer_is_inserted_once_and_its_keys_are_known(world: World) -> None:
    outcome = world.apply(world.applier(), world.customer("c1"))
    assert [str(task.record.link) for task in outcome.wrote] == [f"{world.crm}:c1"]
    assert world.partners() == [("Acme", "DE1", "Ulm", "10")]
    assert world.rows("SELECT number, active, kind, written IS NOT NULL FROM erp.partner") == [("P1", True, "customer", True)]
    assert world.crosswalk() == {("customer", "crm", "c1", "crm:c1", False), ("customer", "erp", "1", "crm:c1", False)}


def test_an_update_writes_over_what_merge_had_seen(world: World) -> None:
    applier = world.applier()
    first = world.customer("c1")
    world.apply(applier, first)
    world.sql.execute("UPDATE erp.partner SET town = 'Bonn', note = 'mine'")
    seen = world.seen_partner()
    second = world.customer("c1", keys={world.erp: "1"}, seen=seen, name="Acme 2", values={"city": "Kiel"}, hlc=200)
    world.apply(applier, second)
    assert world.partners() == [("Acme 2", "DE1", "Kiel", "10")]
    assert world.rows("SELECT note FROM erp.partner") == ["mine"]


def test_guard_leaves_an_edit_that_merge_has_not_seen(world: World) -> None:
    applier = world.applier()
    first = world.customer("c1")
    world.apply(applier, first)
    seen = world.seen_partner()
    world.sql.execute("UPDATE erp.partner SET town = 'Bonn'")  # on its way to merge
    second = world.customer("c1", keys={world.erp: "1"}, seen=seen, name="Acme 2", values={"city": "Kiel"}, hlc=200)
    world.apply(applier, second)
    assert world.partners() == [("Acme 2", "DE1", "Bonn", "10")]
    world.apply(
        applier, world.customer("c1", keys={world.erp: "1"}, seen={**seen, "city": "Bonn"}, name="Acme 2", values={"city": "Kiel"}, hlc=200)
    )
    assert world.partners() == [("Acme 2", "DE1", "Kiel", "10")]


def test_guard_leaves_a_value_of_ours_that_somebody_set_back(world: World) -> None:
    """Merge had heard of our write, and of an edit after it; that somebody has set our value back it has not (decision 0035)."""
    applier = world.applier()
    world.apply(applier, world.customer("c1"))
    seen = {**world.seen_partner(), "city": "Bonn"}
    told = {"keys": {world.erp: "1"}, "name": "Acme 2", "values": {"city": "Bonn"}, "hlc": 200}
    world.apply(applier, world.customer("c1", seen=seen, heard=100, **told))
    assert world.partners() == [("Acme 2", "DE1", "Ulm", "10")]
    seen = world.seen_partner()
    world.apply(applier, world.customer("c1", seen={**seen, "name": "Acme", "city": "Kiel"}, **{**told, "name": "Acme 3", "hlc": 300}))
    assert world.partners() == [("Acme 3", "DE1", "Bonn", "10")]  # merge had heard of neither write: both values are ours


def test_what_is_agreed_on_without_us_is_no_write_of_ours(world: World) -> None:
    applier = world.applier()
    world.apply(applier, world.customer("c1"))
    seen = world.seen_partner()
    world.apply(applier, world.customer("c1", keys={world.erp: "1"}, seen=seen, heard=100, hlc=200))  # the same values, decided anew
    world.apply(applier, world.customer("c1", keys={world.erp: "1"}, seen={**seen, "city": "Bonn"}, hlc=300, values={"city": "Bonn"}))
    assert world.partners() == [("Acme", "DE1", "Ulm", "10")]


def test_i3_applying_a_record_twice_or_late_changes_nothing(world: World) -> None:
    applier = world.applier()
    first = world.customer("c1")
    second = later(first, 200, name="Acme 2")
    world.apply(applier, first)
    world.apply(applier, second)
    before = world.rows("SELECT xmin::text, * FROM erp.partner")
    for late in (first, second, first):
        outcome = world.apply(applier, late)
        assert not outcome.wrote
        assert outcome.ends[0].end is State.SUPERSEDED
    assert world.rows("SELECT xmin::text, * FROM erp.partner") == before


def test_a_delete_goes_only_over_known_values(world: World) -> None:
    applier = world.applier()
    first = world.customer("c1")
    world.apply(applier, first)
    seen = world.seen_partner()
    gone = world.customer("c1", alive=False, keys={world.erp: "1"}, seen=seen, exists=a_version(300, count=2))
    world.sql.execute("UPDATE erp.partner SET town = 'Bonn'")
    world.apply(applier, gone)
    assert len(world.partners()) == 1
    world.sql.execute("UPDATE erp.partner SET town = 'Ulm'")
    world.apply(applier, gone)
    assert world.partners() == []
    assert ("customer", "erp", "1", "crm:c1", True) in world.crosswalk()


def test_a_thing_that_comes_back_is_inserted_again(world: World) -> None:
    applier = world.applier()
    first = world.customer("c1")
    world.apply(applier, first)
    world.apply(
        applier, world.customer("c1", alive=False, keys={world.erp: "1"}, seen=world.seen_partner(), exists=a_version(300, count=2))
    )
    world.apply(applier, world.customer("c1", name="Back", keys={world.erp: "1"}, exists=a_version(400, count=3)))
    assert world.partners() == [("Back", "DE1", "Ulm", "10")]
    assert {("customer", "erp", "1", "crm:c1", True), ("customer", "erp", "2", "crm:c1", False)} <= world.crosswalk()


def test_i6_every_record_of_a_batch_ends_in_one_counted_state(world: World) -> None:
    applier = world.applier()
    world.apply(applier, world.customer("c1"))
    records = [
        world.customer("c1"),  # superseded
        world.customer("c2", tax_id="T2"),  # applied
        later(world.customer("c2", tax_id="T2"), 200, name="B"),  # takes its place in the batch
        world.customer("c3", tax_id="T3", targets=[]),  # unchanged
        world.customer("c4", tax_id="T4", values={"city": "Atlantis"}),  # dead
        world.contact("k1", "nobody"),  # parked
    ]
    outcome = world.apply(applier, *records)
    metrics = SinkMetrics(world.erp)
    metrics.ended(outcome, 0)
    counted = {
        (sample.labels["entity"].removesuffix(world.suffix), sample.labels["state"]): sample.value
        for sample in EVENTS.collect()[0].samples
        if sample.name == "concord_events_total" and sample.labels["system"] == world.erp
    }
    assert counted == {
        ("customer", "superseded"): 2,
        ("customer", "applied"): 1,
        ("customer", "unchanged"): 1,
        ("customer", "dead"): 1,
        ("contact", "parked"): 1,
    }


def test_i10_nothing_outside_of_our_schema_is_altered(world: World) -> None:
    def catalog() -> list[object]:
        columns = world.rows(
            "SELECT table_schema, table_name, column_name, data_type, column_default FROM information_schema.columns"
            " WHERE table_schema NOT IN ('concord', 'pg_catalog', 'information_schema') ORDER BY 1, 2, 3"
        )
        others = world.rows(
            "SELECT n.nspname, c.relname, c.relkind, c.relreplident, (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = c.oid)"
            " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('crm', 'erp', 'public') ORDER BY 1, 2"
        )
        return [*columns, *others]

    world.sql.execute("DROP SCHEMA concord CASCADE")
    before = catalog()
    world.compile()  # and the schema is made for our login, which may not itself
    ensure(world.connection())
    assert ensure(world.connection()) == LATEST
    world.apply(world.applier(), world.customer("c1"), world.contact("k1", "c1"))
    assert catalog() == before


# ---- rows that vanished while nobody read the log ------------------------------------------------------------------------------


def test_a_row_that_is_missing_is_not_marked_gone_before_merge_knows(world: World) -> None:
    """Or the source, after a lost slot, would not look for it."""
    applier = world.applier()
    world.apply(applier, world.customer("c1"))
    key, seen = world.partner_key(), world.seen_partner()
    world.sql.execute("DELETE FROM erp.partner")
    known = {world.erp: key}
    world.apply(applier, later(world.customer("c1", keys=known, seen=seen), 200, name="Acme Ltd"))
    assert ("customer", "erp", key, "crm:c1", False) in world.crosswalk()
    world.apply(applier, later(world.customer("c1", keys=known, seen=None, alive=False, exists=a_version(300)), 300, name="Acme Ltd"))
    assert ("customer", "erp", key, "crm:c1", True) in world.crosswalk()


@pytest.mark.parametrize(
    ("lost", "key", "asked"),
    [
        pytest.param(True, "4711", [("erp.partner", "false", True)], id="gone after a lost slot: maybe nobody read its delete"),
        pytest.param(False, "4711", [], id="gone, and no slot was lost: the delete is on its way"),
        pytest.param(True, None, [], id="there"),
    ],
)
@pytest.mark.parametrize("targeted", [False, True])
def test_a_row_that_is_gone_before_its_key_is_known_here_is_looked_for_after_a_lost_slot(
    world: World, lost: bool, key: str | None, asked: list[object], targeted: bool
) -> None:
    applier = world.applier()
    world.sql.execute("INSERT INTO erp.partner (legal_name, number, active, kind, written) VALUES ('Acme', 'P1', true, 'customer', now())")
    store = SnapshotStore(world.sql, world.pipeline.config.systems[world.erp].slot)
    store.add([("erp", "partner"), ("erp", "user")])
    if lost:
        store.read_all_again()
    world.sql.execute("UPDATE concord.snapshot SET done = true")
    key = key or str(world.rows("SELECT id FROM erp.partner")[0])
    born_here = world.golden(f"{world.erp}:{key}", {"name": "Acme"}, targets=(world.erp,) if targeted else (), seen={"name": "Acme"})
    world.apply(applier, born_here)
    assert ("customer", "erp", key, f"erp:{key}", False) in world.crosswalk()
    query = "SELECT table_name, predicate, vanished FROM concord.snapshot WHERE NOT done"
    assert world.rows(query) == asked
    world.sql.execute("UPDATE concord.snapshot SET done = true")
    world.apply(applier, later(born_here, 200, name="Acme Ltd"))
    assert world.rows(query) == [], "once is enough: its key is known now"
