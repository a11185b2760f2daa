"""Parents and children, match values that others hold, things that refer to themselves."""

from __future__ import annotations

from schemas.metrics import State
from tests.sink.sink_world import World, a_version, later

A_PARTNER = "INSERT INTO erp.partner (legal_name, tax_id, number, active, kind, written)"


def users(world: World) -> list[object]:
    return world.rows('SELECT u.name, u.mail, p.legal_name FROM erp."user" u JOIN erp.partner p ON p.id = u."to" ORDER BY u.id')


def test_a_child_before_its_parent_in_one_batch_is_applied_after_it(world: World) -> None:
    outcome = world.apply(world.applier(), world.contact("k1", "c1"), world.customer("c1"))
    assert users(world) == [("Ann", "a@x", "Acme")]
    assert len(outcome.wrote) == 2
    assert not outcome.parks


def test_a_child_waits_parked_and_is_applied_with_its_parent(world: World) -> None:
    applier = world.applier()
    outcome = world.apply(applier, world.contact("k1", "c1"))
    assert [(park.entity, park.waits_for) for park in outcome.parks] == [(f"customer{world.suffix}", f"{world.crm}:c1")]
    assert world.rows("SELECT entity, link, waits_for FROM concord.parked") == [
        (f"contact{world.suffix}", f"{world.crm}:k1", f"{world.crm}:c1")
    ]
    outcome = world.apply(applier, world.customer("c1"))
    assert users(world) == [("Ann", "a@x", "Acme")]
    assert {task.record.link for task in outcome.wrote} == {f"{world.crm}:c1", f"{world.crm}:k1"}
    assert world.rows("SELECT * FROM concord.parked") == []


def test_a_newer_record_takes_the_place_of_a_parked_one(world: World) -> None:
    applier = world.applier()
    first = world.contact("k1", "c1")
    world.apply(applier, first)
    world.apply(applier, later(first, 200, name="Ann B"))
    world.apply(applier, first)  # late
    world.apply(applier, world.customer("c1"))
    assert users(world) == [("Ann B", "a@x", "Acme")]


def test_a_parked_thing_that_was_deleted_is_never_born(world: World) -> None:
    applier = world.applier()
    world.apply(applier, world.contact("k1", "c1"))
    world.apply(applier, world.contact("k1", "c1", alive=False, targets=[], exists=a_version(200, count=2)))
    assert world.rows("SELECT * FROM concord.parked") == []
    world.apply(applier, world.customer("c1"))
    assert users(world) == []


def test_a_parent_born_here_wakes_its_children_when_its_names_come(world: World) -> None:
    applier = world.applier()
    key = world.rows(f"{A_PARTNER} VALUES ('Here', NULL, 'X', true, 'customer', now()) RETURNING id::text")[0]
    world.apply(applier, world.contact("k1", "c1"))
    assert users(world) == []
    world.apply(applier, world.golden(f"{world.erp}:{key}", {"name": "Here"}, targets=[], keys={world.crm: "c1"}, seen={"name": "Here"}))
    assert users(world) == [("Ann", "a@x", "Here")]


def test_a_thing_may_refer_to_itself(world: World) -> None:
    world.apply(world.applier(), world.customer("c1", values={"parent": f"{world.crm}:c1"}))
    assert world.rows("SELECT id = parent FROM erp.partner") == [True]


def test_a_chain_and_a_ring_in_one_batch(world: World) -> None:
    def customer(key: str, parent: str) -> object:
        return world.customer(key, name=key, tax_id=key, values={"parent": f"{world.crm}:{parent}"})

    outcome = world.apply(world.applier(), customer("a", "b"), customer("b", "c"), customer("c", "a"))
    assert not outcome.parks
    assert world.rows("SELECT p.legal_name, q.legal_name FROM erp.partner p JOIN erp.partner q ON q.id = p.parent ORDER BY 1") == [
        ("a", "b"),
        ("b", "c"),
        ("c", "a"),
    ]


def test_an_unlinked_row_with_the_same_match_value_is_adopted(world: World) -> None:
    applier = world.applier()
    world.sql.execute(f"{A_PARTNER} VALUES ('Mine', 'DE1', 'X', true, 'customer', now())")
    outcome = world.apply(applier, world.customer("c1"))
    assert outcome.ends[0].end is State.SUPERSEDED  # nothing is written over what merge has not seen
    assert world.partners() == [("Mine", "DE1", None, "0")]
    assert ("customer", "erp", "1", "crm:c1", False) in world.crosswalk()
    world.apply(applier, world.customer("c1", keys={world.erp: "1"}, seen=world.seen_partner(), hlc=200))
    assert world.partners() == [("Acme", "DE1", "Ulm", "10")]


def test_a_match_value_held_by_another_thing_is_waited_for(world: World) -> None:
    applier = world.applier()
    world.apply(applier, world.customer("c1"))
    outcome = world.apply(applier, world.customer("c2", name="Other"))
    assert [park.waits_for for park in outcome.parks] == ["=DE1"]
    assert world.apply(applier, world.customer("c3", name="Third", tax_id="DE3")).wrote
    assert applier.sweep().parks
    world.sql.execute("UPDATE erp.partner SET tax_id = 'DE7' WHERE tax_id = 'DE1'")
    assert len(applier.sweep().wrote) == 1
    assert [row[:2] for row in world.partners()] == [("Acme", "DE7"), ("Third", "DE3"), ("Other", "DE1")]


def test_a_match_value_let_go_in_the_same_batch_can_be_taken(world: World) -> None:
    applier = world.applier()
    first = world.customer("c1")
    world.apply(applier, first)
    moved = later(world.customer("c1", keys={world.erp: "1"}, seen=world.seen_partner()), 200, tax_id="DE2")
    outcome = world.apply(applier, world.customer("c2", name="Other"), moved)
    assert not outcome.parks
    assert [row[:2] for row in world.partners()] == [("Acme", "DE2"), ("Other", "DE1")]


def test_deletes_go_children_first_though_the_parent_comes_first(world: World) -> None:
    applier = world.applier(world.crm)
    world.sql.execute("INSERT INTO crm.account VALUES (gen_random_uuid(), 'A', 'DE1')")
    world.sql.execute("INSERT INTO crm.contact SELECT gen_random_uuid(), id, 'Ann' FROM crm.account")  # not deferrable
    account, contact = world.rows("SELECT id::text FROM crm.account")[0], world.rows("SELECT id::text FROM crm.contact")[0]
    state = {"name": "A"}
    gone = [
        world.golden(f"{world.crm}:{account}", state, alive=False, targets=[world.crm], exists=a_version(300)),
        world.golden(f"{world.crm}:{contact}", {"name": "Ann"}, entity="contact", alive=False, targets=[world.crm], exists=a_version(300)),
    ]
    seen = {"active": True, "city": None, "credit": "0", "name": "A", "number": None, "parent": None, "tax_id": "DE1"}
    gone[0].seen[world.crm] = seen  # type: ignore[index]
    gone[1].seen[world.crm] = {"name": "Ann", "customer": f"{world.crm}:{account}", "email": None}  # type: ignore[index]
    outcome = world.apply(applier, *gone)
    assert len(outcome.wrote) == 2
    assert world.rows("SELECT 1 FROM crm.account UNION ALL SELECT 1 FROM crm.contact") == []


def test_a_key_of_several_columns_with_a_reference_in_it(world: World) -> None:
    applier = world.applier()
    line = world.golden(
        f'{world.crm}:["c1","1"]', {"customer": f"{world.crm}:c1", "no": "1", "text": "50 %"}, entity="line", keys={world.crm: '["c1","1"]'}
    )
    world.apply(applier, line, world.customer("c1"))
    assert world.rows("SELECT * FROM erp.line") == [(1, 1, "50 %")]
    seen = {"customer": f"{world.erp}:1", "no": "1", "text": "50 %"}
    known = world.golden(line.link, dict(line.values), entity="line", keys={**line.keys, world.erp: '["1","1"]'}, seen=seen)
    world.apply(applier, later(known, 200, text="60 %"))
    assert world.rows("SELECT * FROM erp.line") == [(1, 1, "60 %")]
    world.apply(applier, later(known, 300, no="2"))  # the key itself changes
    assert world.rows("SELECT * FROM erp.line") == [(1, 2, "60 %")]
    assert {
        ("line", "erp", '["1","1"]', 'crm:["c1","1"]', True),
        ("line", "erp", '["1","2"]', 'crm:["c1","1"]', False),
    } <= world.crosswalk()
