"""Records that cannot be applied: each alone, with its reason (I6, I8)."""

from __future__ import annotations

import pytest

from connectors.sink.apply import Batch, Unreadable
from console.grants import login_of
from schemas.errors import Retriable
from tests.sink.sink_world import World, a_version, later


def dead(world: World) -> list[object]:
    return world.rows("SELECT replace(link, %s, ''), code, times FROM concord.dead_letter ORDER BY link", world.suffix)


@pytest.mark.parametrize("at", [0, 5, 10])
def test_i8_a_poison_row_among_good_ones_is_the_only_one_that_stays_out(world: World, at: int) -> None:
    records = [world.customer(f"c{n}", tax_id=f"T{n}") for n in range(10)]
    records.insert(at, world.customer("bad", tax_id="T99", values={"city": "Atlantis"}))
    outcome = world.apply(world.applier(), *records, world.contact("k", "bad"))
    assert [d.task.record.link for d in outcome.deads] == [f"{world.crm}:bad"]
    assert len(world.partners()) == 10
    assert dead(world) == [("crm:bad", "23514", 1)]
    assert [p.task.record.link for p in outcome.parks] == [f"{world.crm}:k"]  # I8: what depends on it waits for it


def test_a_later_version_takes_a_dead_letter_away(world: World) -> None:
    applier = world.applier()
    bad = world.customer("c1", values={"city": "Atlantis"})
    world.apply(applier, bad, world.contact("k1", "c1"))
    world.apply(applier, bad)
    assert dead(world) == [("crm:c1", "23514", 2)]
    outcome = world.apply(applier, later(bad, 200, city="Ulm"))
    assert dead(world) == []
    assert len(outcome.wrote) == 2  # and its child with it


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"name": "a\x00b"}, "MappingError"),
        ({"name": None}, "23502"),
        ({"credit": "x"}, "22P02"),
        ({"parent": "no row name"}, "SchemaError"),
    ],
)
def test_values_that_a_target_refuses(world: World, values: dict[str, str | None], code: str) -> None:
    world.apply(world.applier(), world.customer("ok", tax_id="T"), world.customer("c1", values=values))
    assert len(world.partners()) == 1
    assert dead(world) == [("crm:c1", code, 1)]


def test_a_text_that_is_too_long_is_refused_not_cut(world: World) -> None:
    world.apply(world.applier(), world.customer("c1"), world.contact("k1", "c1", email="x" * 31))
    assert dead(world) == [("crm:k1", "MappingError", 1)]


def test_unique_on_the_match_value_waits_on_another_is_a_dead_letter(world: World) -> None:
    applier = world.applier(world.crm)
    world.sql.execute(
        "INSERT INTO erp.partner (legal_name, number, active, kind, written)"
        " SELECT 'X', 'P' || n, true, 'x', now() FROM generate_series(1, 9) n"
    )
    outcome = world.apply(world.applier(), world.customer("c1"))
    assert [d.code for d in outcome.deads] == ["23505"]
    world.sql.execute("INSERT INTO crm.account (id, name) VALUES ('00000000-0000-0000-0000-000000000001', 'A')")
    world.sql.execute("INSERT INTO crm.contact VALUES (gen_random_uuid(), '00000000-0000-0000-0000-000000000001', 'B', 'A@X')")
    values = {"customer": f"{world.crm}:00000000-0000-0000-0000-000000000001", "name": "Ann", "email": "a@x"}
    outcome = world.apply(applier, world.golden(f"{world.erp}:7", values, entity="contact", targets=[world.crm]))
    assert [p.waits_for for p in outcome.parks] == ["=a@x"]  # an index over lower(email): only the database knew
    world.sql.execute("DELETE FROM crm.contact")
    assert len(applier.sweep().wrote) == 1


def test_a_delete_that_comes_before_those_of_its_children_waits_for_them_and_names_another_mend(world: World) -> None:
    applier = world.applier()
    world.apply(applier, world.customer("c1"), world.contact("k1", "c1"), world.customer("c2", tax_id="T2"))
    gone = world.customer("c1", alive=False, keys={world.erp: "1"}, seen=world.seen_partner(), exists=a_version(300, count=2))
    outcome = world.apply(
        applier, gone, later(world.customer("c2", tax_id="T2", keys={world.erp: "2"}, seen=world.seen_partner("T2")), 200, name="B")
    )
    assert outcome.deads == []
    assert f"a {world.contact('k1', 'c1').entity} of it is still there" in outcome.parks[0].reason
    assert "soft" in outcome.parks[0].reason
    assert [row[0] for row in world.partners()] == ["Acme", "B"]
    assert applier.sweep().wrote == []
    seen = {"name": "Ann", "customer": f"{world.erp}:1", "email": None}
    world.apply(applier, world.contact("k1", "c1", alive=False, keys={world.erp: "1"}, seen=seen, exists=a_version(300, count=2)))
    assert len(applier.sweep().wrote) == 1
    assert [row[0] for row in world.partners()] == ["B"]


def test_a_delete_that_a_row_of_nobody_we_know_refuses_names_its_mend(world: World) -> None:
    world.sql.execute("CREATE TABLE erp.visit (partner bigint REFERENCES erp.partner)")
    applier = world.applier()
    world.apply(applier, world.customer("c1"))
    world.sql.execute("INSERT INTO erp.visit VALUES (1)")
    gone = world.customer("c1", alive=False, keys={world.erp: "1"}, seen=world.seen_partner(), exists=a_version(300, count=2))
    (dead,) = world.apply(applier, gone).deads
    assert (dead.code, "soft" in dead.error) == ("23503", True)


def test_a_write_that_hits_no_row_is_an_error_with_that_name(world: World) -> None:
    world.sql.execute("CREATE FUNCTION erp.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    applier = world.applier()
    world.apply(applier, world.customer("c1"))
    seen = world.seen_partner()
    world.sql.execute("CREATE TRIGGER nothing BEFORE INSERT OR UPDATE ON erp.partner FOR EACH ROW EXECUTE FUNCTION erp.nothing()")
    outcome = world.apply(
        applier,
        world.customer("c2", tax_id="T2"),
        later(world.customer("c1", keys={world.erp: "1"}, seen=seen), 200, name="B"),
    )
    assert [(d.code, "hit no row" in d.error) for d in outcome.deads] == [("no_row", True), ("no_row", True)]


def test_a_value_that_comes_back_other_is_noted_once_and_not_fought_over(world: World) -> None:
    world.sql.execute(
        "CREATE FUNCTION erp.upper() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.town := upper(NEW.town); RETURN NEW; END'"
    )
    world.sql.execute("CREATE TRIGGER up BEFORE INSERT OR UPDATE ON erp.partner FOR EACH ROW EXECUTE FUNCTION erp.upper()")
    applier = world.applier()
    record = world.customer("c1")
    world.apply(applier, record)
    assert world.rows("SELECT adjusted FROM concord.link") == [{"city": ["Ulm", "ULM"]}]
    assert not world.apply(applier, world.customer("c1", keys={world.erp: "1"}, seen=world.seen_partner())).wrote
    world.apply(applier, later(world.customer("c1", keys={world.erp: "1"}, seen=world.seen_partner()), 200, city="Kiel"))
    assert world.rows("SELECT town FROM erp.partner") == ["KIEL"]


def test_garbage_is_filed_under_its_key_and_a_good_record_takes_it_away(world: World) -> None:
    applier = world.applier()
    message = Unreadable(f"customer{world.suffix}", "golden", 0, 1, f"{world.crm}:c1".encode(), b"\x00nonsense", "no Avro", "NotAnEvent")
    applier.apply(Batch(unreadable=[message]))
    assert dead(world) == [("crm:c1", "NotAnEvent", 1)]
    world.apply(applier, world.customer("c1"))
    assert dead(world) == []
    applier.apply(Batch(unreadable=[Unreadable(f"customer{world.suffix}", "golden", 0, 2, b"\xff", None, "no\x00", "NotAnEvent")]))
    assert dead(world) == [("golden/0@2", "NotAnEvent", 1)]


def test_a_missing_right_is_a_dead_letter_with_its_reason(world: World) -> None:
    applier = world.applier()
    world.sql.execute(f'REVOKE INSERT ON erp."user" FROM {login_of(world.ours)}')
    outcome = world.apply(applier, world.customer("c1"), world.contact("k1", "c1"))
    assert [(d.task.record.link, d.code) for d in outcome.deads] == [(f"{world.crm}:k1", "42501")]
    assert len(world.partners()) == 1


def test_i8_a_row_locked_for_too_long_waits_alone(world: World) -> None:
    applier = world.applier()
    world.apply(applier, world.customer("c1"))
    seen = world.seen_partner()
    applier._conn.execute("SET lock_timeout = 50")
    other = world.connection()
    with other.transaction():
        other.execute("SELECT FROM erp.partner FOR UPDATE")
        edit = later(world.customer("c1", keys={world.erp: "1"}, seen=seen), 200, name="B")
        outcome = world.apply(applier, world.customer("c2", tax_id="DE2"), edit, world.customer("c3", tax_id="DE3"))
        assert [park.task.record.link for park in outcome.parks] == [f"{world.crm}:c1"]
        assert [park.task.record.link for park in applier.sweep().parks] == [f"{world.crm}:c1"]  # tried again, still locked
        assert sorted(row[1] for row in world.partners()) == ["DE1", "DE2", "DE3"]
    applier.sweep()
    assert [row[0] for row in world.partners() if row[1] == "DE1"] == ["B"]
    assert world.rows("SELECT FROM concord.parked") == []


def test_what_we_keep_locked_for_too_long_asks_for_another_try(world: World) -> None:
    applier = world.applier()
    world.apply(applier, world.customer("c1"))
    other = world.connection()
    with other.transaction():
        other.execute("SELECT FROM concord.link FOR UPDATE")
        applier._conn.execute("SET lock_timeout = 50")
        with pytest.raises(Retriable, match="55P03"):
            world.apply(applier, later(world.customer("c1"), 200, name="B"))
        applier.rollback()
