"""Rows are found by what they are read as, whatever their text is, and become things (adoption)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.sink.apply import Applier, Outcome
from connectors.sink.plan import held_match
from connectors.sink.statements import EntityStatements, likeness_index, likeness_key
from schemas.golden import GoldenRecord
from schemas.mapping.binding import FieldBinding
from schemas.mapping.likeness import of_cleaning
from schemas.mapping.transforms import cleaned
from schemas.metrics import State
from tests.mapping.test_likeness import chains, texts
from tests.services import wait_until
from tests.sink import sink_world
from tests.sink.sink_world import World


@pytest.fixture(params=["database", "database_2"])
def dirty(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The world with a tax id that is cleaned."""
    config = sink_world.CONFIG.replace("{erp}: tax_id}}", "{erp}: tax_id, clean: [strip, upper]}}")
    assert config != sink_world.CONFIG
    monkeypatch.setattr(sink_world, "CONFIG", config)
    made = World(request.getfixturevalue(request.param), sink_world.a_suffix())
    yield made
    made.close()


def a_partner(world: World, tax_id: str, kind: str = "customer") -> str:
    (key,) = world.rows(
        "INSERT INTO erp.partner (legal_name, tax_id, number, active, kind, written) "
        "VALUES ('Held', %s, %s, true, %s, now()) RETURNING id::text",
        tax_id,
        secrets.token_hex(4),
        kind,
    )
    return str(key)


def links(world: World) -> dict[str, str]:
    return dict(world.rows("SELECT key, replace(link, %s, '') FROM concord.key WHERE system = %s", world.suffix, world.erp))


@pytest.mark.parametrize("held", [" de1 ", "dE1", "\u3000de1\t", "DE1"])
def test_a_row_whose_text_is_another_is_adopted(dirty: World, held: str) -> None:
    key = a_partner(dirty, held)
    dirty.apply(dirty.applier(), dirty.customer("c1"))
    assert dirty.rows("SELECT count(*) FROM erp.partner") == [1]
    assert links(dirty) == {key: "crm:c1"}
    assert dirty.rows("SELECT tax_id FROM erp.partner") == [held]  # it says the same: nothing to write


def test_of_several_the_one_that_says_it_as_we_would_then_the_lowest(dirty: World) -> None:
    first, second, clean = a_partner(dirty, " de1"), a_partner(dirty, "de1 "), a_partner(dirty, "DE1")
    low, _ = a_partner(dirty, " de2"), a_partner(dirty, "de2 ")
    dirty.apply(dirty.applier(), dirty.customer("c1"), dirty.customer("c2", tax_id="DE2"))
    assert links(dirty) == {clean: "crm:c1", low: "crm:c2"}
    assert first != second


def test_the_row_that_merge_names_comes_first(dirty: World) -> None:
    named, _ = a_partner(dirty, " de1"), a_partner(dirty, "DE1")
    dirty.apply(dirty.applier(), replace(dirty.customer("c1"), keys={dirty.crm: "c1", dirty.erp: named}))
    assert links(dirty) == {named: "crm:c1"}


def test_what_is_another_things_is_never_adopted(dirty: World) -> None:
    applier = dirty.applier()
    taken = a_partner(dirty, " de1 ")
    dirty.apply(applier, dirty.customer("c1"))
    outcome = dirty.apply(applier, dirty.customer("c2"))
    assert [park.waits_for for park in outcome.parks] == ["=DE1"]
    free = a_partner(dirty, "de1")
    applier.sweep()
    assert links(dirty) == {taken: "crm:c1", free: "crm:c2"}


def test_what_waits_for_a_value_goes_on_when_it_is_let_go(dirty: World) -> None:
    applier = dirty.applier()
    key = a_partner(dirty, " de1 ")
    dirty.apply(applier, dirty.customer("c1"))
    dirty.apply(applier, dirty.customer("c2"))
    dirty.sql.execute("UPDATE erp.partner SET tax_id = 'DE9' WHERE id = %s", (int(key),))
    applier.sweep()
    assert dirty.rows("SELECT tax_id FROM erp.partner ORDER BY id") == ["DE9", "DE1"]
    assert dirty.rows("SELECT FROM concord.parked") == []


def test_a_value_that_another_row_has_in_another_text_is_not_taken_from_it(dirty: World) -> None:
    applier = dirty.applier()
    dirty.apply(applier, dirty.customer("c1"))
    a_partner(dirty, " de2 ")
    edit = dirty.customer("c1", tax_id="DE2", keys={dirty.erp: dirty.partner_key()}, seen=dirty.seen_partner(), hlc=200)
    outcome = dirty.apply(applier, edit)
    assert [park.waits_for for park in outcome.parks] == ["=DE2"]
    assert sorted(dirty.rows("SELECT tax_id FROM erp.partner")) == [" de2 ", "DE1"]


def test_rows_out_of_scope_and_of_other_values_are_left_alone(dirty: World) -> None:
    a_partner(dirty, "d.e-1")  # has the key of DE1, and is another value
    a_partner(dirty, " de1 ", kind="supplier")
    dirty.apply(dirty.applier(), dirty.customer("c1"))
    assert len(links(dirty)) == 1
    assert dirty.rows("SELECT count(*) FROM erp.partner") == [3]


def test_a_batch_reads_the_table_once_and_uses_the_index_that_an_operator_made(dirty: World) -> None:
    entity = dirty.pipeline.entities[f"customer{dirty.suffix}"]
    binding = entity.bindings[dirty.erp]
    dirty.sql.execute(
        "INSERT INTO erp.partner (legal_name, tax_id, number, active, kind, written) "
        "SELECT 'X', ' x' || n, 'N' || n, true, 'customer', now() FROM generate_series(1, 3000) n"
    )
    dirty.sql.execute("ANALYZE erp.partner")
    wanted: list[dict[str, str | None]] = [{"tax_id": f"X{n}"} for n in range(1, 501)]
    text, params = EntityStatements(binding).alike(dirty.erp, entity.match_on, wanted)
    rows = dirty.sql.execute(text, params, prepare=False).fetchall()
    assert len(rows) == 500
    statements = EntityStatements(binding)
    assert {held_match(entity, binding, statements.row(row[1:])) for row in rows} == {f"X{n}" for n in range(1, 501)}

    def plan() -> str:
        return "\n".join(line for (line,) in dirty.sql.execute(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {text}", params, prepare=False))

    assert plan().count("Seq Scan on partner") == 1
    assert "loops=500" not in plan().split("partner")[1].splitlines()[0]
    index = likeness_index(binding, entity.match_on)
    assert index is not None
    dirty.sql.execute(index)  # type: ignore[call-overload]
    dirty.sql.execute("ANALYZE erp.partner")
    assert "Seq Scan on partner" not in plan()


@pytest.mark.parametrize("server", ["postgres", "postgres_2"])
def test_the_database_makes_the_keys_that_we_make(server: str, request: pytest.FixtureRequest) -> None:
    with psycopg.connect(request.getfixturevalue(server), autocommit=True) as conn:

        @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(texts, min_size=1, max_size=20), chains)
        def hold(given: list[str], chain: list[str]) -> None:
            likeness, clean = of_cleaning(chain), cleaned(chain).read
            assert clean is not None
            side = FieldBinding("f", ("f",), str, None, lambda value: (str(value),), None, None, likeness)
            query = f"SELECT t.f, {likeness_key(side)} FROM unnest(%s::text[]) AS t(f)"
            for text, key in conn.execute(query, (given,)).fetchall():  # type: ignore[call-overload]
                assert key == likeness.key(text)
                if (result := clean(text)) is not None:
                    assert key in likeness.keys(str(result))  # the superset

        hold()


def while_intake_decides(world: World, applier: Applier, decision: tuple[str, str], record: GoldenRecord) -> Outcome:
    """What becomes of a record while a transaction gives an ERP row (key, link) that commits only when the sink waits for it."""
    with world.connection() as intake, ThreadPoolExecutor(1) as pool:
        with intake.transaction():
            intake.execute(
                "INSERT INTO concord.key (entity, system, key, link, live, heard) VALUES (%s, %s, %s, %s, true, false)",
                (record.entity, world.erp, *decision),
            )
            applied = pool.submit(world.apply, applier, record)
            waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'transactionid'"
            wait_until(lambda: world.rows(waits), "the sink does not wait")
        return applied.result()


def test_a_row_that_intake_gave_another_link_first_is_not_adopted(dirty: World) -> None:
    key = a_partner(dirty, "DE1")
    record = dirty.customer("c1")
    outcome = while_intake_decides(dirty, dirty.applier(), (key, f"{dirty.erp}:{key}"), record)
    assert [park.waits_for for park in outcome.parks] == ["=DE1"]
    assert dirty.rows("SELECT key FROM concord.key WHERE link = %s AND system = %s", record.link, dirty.erp) == []
    assert dirty.rows("SELECT count(*) FROM erp.partner") == [1]


def test_a_thing_that_intake_gave_a_row_meanwhile_is_not_inserted(dirty: World) -> None:
    key = a_partner(dirty, "DE2")  # by now
    record = dirty.customer("c1")
    outcome = while_intake_decides(dirty, dirty.applier(), (key, record.link), record)
    assert [end.end for end in outcome.ends] == [State.SUPERSEDED]  # merge has not heard of the row: nothing is written over
    assert dirty.rows("SELECT count(*) FROM erp.partner") == [1]
    assert dirty.rows("SELECT key, live, heard FROM concord.key WHERE link = %s AND system = %s", record.link, dirty.erp) == [
        (key, True, True)
    ]
