"""The sink and an application that wants the same rows: whoever the server ends, the sink tries again and nothing is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from connectors.sink.apply import Batch
from schemas.errors import Retriable
from schemas.golden import GoldenRecord
from tests.services import wait_until
from tests.sink.sink_world import World, later

WAITS = "SELECT FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"


def renamed(world: World) -> list[GoldenRecord]:
    """What merge tells when both customers of the test have got another name."""
    told = []
    for key, tax_id in (("c1", "DE1"), ("c2", "DE2")):
        keys, seen = {world.erp: world.partner_key(tax_id)}, world.seen_partner(tax_id)
        told.append(later(world.customer(key, tax_id=tax_id, keys=keys, seen=seen), 200, name="B"))
    return told


def somebody_waits_for(world: World, holder: psycopg.Connection[tuple[object, ...]]) -> None:
    wait_until(lambda: world.rows(WAITS, holder.info.backend_pid), "the sink does not come to the row that is held")


def test_a_deadlock_with_the_application_asks_for_another_try(world: World) -> None:
    applier, application = world.applier(), world.application()
    world.apply(applier, world.customer("c1"), world.customer("c2", tax_id="DE2"))
    records = renamed(world)
    application.execute("SET deadlock_timeout = '1min'")  # the sink looks first, after a second, and is the one that the server ends
    with ThreadPoolExecutor(1) as beside, application.transaction():
        application.execute("SELECT FROM erp.partner WHERE tax_id = 'DE2' FOR UPDATE")
        applying = beside.submit(applier.apply, Batch([world.task(record) for record in records]))
        somebody_waits_for(world, application)
        application.execute("SELECT FROM erp.partner WHERE tax_id = 'DE1' FOR UPDATE")  # which the sink holds by now
        with pytest.raises(Retriable, match="40P01"):
            applying.result(30)
        applier.rollback()
    world.apply(applier, *records)
    assert [(name, tax_id) for name, tax_id, *_ in world.partners()] == [("B", "DE1"), ("B", "DE2")]


def test_where_transactions_are_serializable_by_default_a_row_that_changed_meanwhile_asks_for_another_try(world: World) -> None:
    applier, application = world.applier(), world.application()
    world.apply(applier, world.customer("c1"), world.customer("c2", tax_id="DE2"))
    records = renamed(world)
    applier._conn.execute("SET default_transaction_isolation = 'serializable'")
    with ThreadPoolExecutor(1) as beside:
        with application.transaction():
            application.execute("UPDATE erp.partner SET town = 'Bonn' WHERE tax_id = 'DE2'")
            applying = beside.submit(applier.apply, Batch([world.task(record) for record in records]))
            somebody_waits_for(world, application)
        with pytest.raises(Retriable, match="40001"):
            applying.result(30)
    applier.rollback()
    world.apply(applier, *records)
    assert [(name, town) for name, _, town, _ in world.partners()] == [("B", "Ulm"), ("B", "Bonn")]
