"""Batches against real databases."""

from __future__ import annotations

from schemas.metrics import State
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
