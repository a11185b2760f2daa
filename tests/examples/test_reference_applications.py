"""The reference schemas, their data and their workloads, without Concord: what the demo starts from must be sound by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from examples.reference import load
from examples.reference.crm_app import Crm
from examples.reference.erp_app import Erp
from examples.reference.people import pool
from examples.reference.workload import HOT, Journal, shared_tax_id

ROOT = Path(__file__).resolve().parents[2]
Pair = tuple[str, str]


@pytest.fixture(scope="module")
def people_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("people")


@pytest.fixture
def pair(database: str, database_2: str) -> Pair:
    """Both databases, loaded with a tenth."""
    with psycopg.connect(database) as crm, psycopg.connect(database_2) as erp:
        load.create(crm, erp)
        load.load(crm, erp, seed=7, share=0.1)
    return database, database_2


def ask(dsn: str, query: str) -> Any:
    with psycopg.connect(dsn) as conn:
        row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("file", ["crm.sql", "erp.sql"])
def test_schema_loads_on_either_major_version(file: str, database: str, database_2: str) -> None:
    for dsn in (database, database_2):
        with psycopg.connect(dsn) as conn:
            conn.execute((load.HERE / file).read_bytes())


def test_foreign_keys_are_deferred_in_the_erp_and_not_deferrable_in_the_crm(pair: Pair) -> None:
    query = "SELECT array_agg(DISTINCT (condeferrable, condeferred)::text) FROM pg_constraint WHERE contype = 'f'"
    assert [ask(dsn, query) for dsn in pair] == [["(f,f)"], ["(t,t)"]]


def test_the_same_seed_gives_the_same_people(people_cache: Path) -> None:
    made = pool(7, people_cache)
    assert pool(7, people_cache) == made  # from the file
    assert {company.country for company in made.companies} >= {"DE", "CN", "JP", "FR"}


def test_part_of_the_customers_is_on_both_sides(pair: Pair) -> None:
    crm, erp = pair
    with psycopg.connect(crm) as a, psycopg.connect(erp) as b:
        ours = {row[0] for row in a.execute("SELECT vat_number FROM account WHERE vat_number IS NOT NULL")}
        theirs = {row[0] for row in b.execute("SELECT upper(btrim(tax_id)) FROM business_partner WHERE tax_id IS NOT NULL")}
    assert HOT <= len(ours & theirs) < min(len(ours), len(theirs))
    assert shared_tax_id(0) in ours & theirs


def test_the_application_can_number_its_next_row_after_the_load(pair: Pair) -> None:
    _, erp = pair
    with psycopg.connect(erp, autocommit=True) as conn:
        app = Erp(conn, pool(7), 7, Journal())
        app.do("new_partner", app.new_partner)
        app.do("new_item", app.new_item)
    assert not app.journal.refused
    assert app.journal.rows == {"business_partner c": 1, "business_partner u": 1, "item c": 1, "stock_level c": 2}


def some_orders(erp: str, number: int) -> None:
    """Orders as they come from the CRM."""
    with psycopg.connect(erp) as conn:
        conn.execute(
            'INSERT INTO "order" ("number", customer, state, order_date, currency, "user", warehouse, company, untaxed, tax, total,'
            " create_date, write_date)"
            " SELECT 'SO' || nextval('order_number_seq'), 1, 'draft', now(), 'EUR', 1, 'MAIN', 1, 0, 0, 0, now(), now()"
            " FROM generate_series(1, %s)",
            [number],
        )
        conn.execute(
            'INSERT INTO order_line ("order", "position", item, quantity, price, discount, delivered, company, create_date, write_date)'
            ' SELECT id, 1, 1, 3, 9.99, 0.05, 0, 1, now(), now() FROM "order"'
        )


@pytest.mark.parametrize("kind", [Crm, Erp])
def test_every_habit_of_the_application_runs(kind: type[Crm] | type[Erp], pair: Pair) -> None:
    dsn = pair[0] if kind is Crm else pair[1]
    if kind is Erp:
        some_orders(dsn, 40)
    with psycopg.connect(dsn, autocommit=True) as conn:
        app = kind(conn, pool(7), 7, Journal())
        for at in range(20):
            app.do("twin", lambda at=at: app.twin(at))  # type: ignore[misc]
            app.do("clash", lambda at=at: app.clash(at))  # type: ignore[misc]
            app.do("bulk", lambda at=at: app.bulk(at))  # type: ignore[misc]
        app.run(rate=100_000, seconds=4)
    done = app.journal
    assert not [reason for reason in done.refused if reason != "write_date moved"]
    assert set(app.weights) <= set(done.actions)
    kinds = {what.split()[0] for what in done.rows}
    assert kinds == (
        {"account", "contact", "product", "sales_order", "order_line"}
        if kind is Crm
        else {"business_partner", "partner_contact", "item", "stock_level", "order", "order_line", "invoice"}
    )
    assert done.changes > 500


def test_journal_has_what_the_log_has(pair: Pair, tmp_path: Path) -> None:
    crm, _ = pair
    with psycopg.connect(crm, autocommit=True) as conn:
        conn.execute("SELECT pg_create_logical_replication_slot(%s, 'test_decoding')", [f"journal_{os.getpid()}"])
        with (tmp_path / "journal").open("w") as file:
            app = Crm(conn, pool(7), 7, Journal(file))
            app.run(rate=2000, seconds=1)
        rows = conn.execute(
            "SELECT count(*) FROM pg_logical_slot_get_changes(%s, NULL, NULL) WHERE data LIKE 'table %%'", [f"journal_{os.getpid()}"]
        ).fetchone()
        conn.execute("SELECT pg_drop_replication_slot(%s)", [f"journal_{os.getpid()}"])
    lines = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    assert rows == (app.journal.changes,) == (sum(sum(line["rows"].values()) for line in lines),)
    assert len(lines) == app.journal.transactions


def test_a_lost_lock_is_read_again_and_the_edit_made(pair: Pair) -> None:
    _, erp = pair
    with psycopg.connect(erp, autocommit=True) as conn:
        app = Erp(conn, pool(7), 7, Journal())
        app.read_form("business_partner", 1, "city", "Ulm", tries=3)
        conn.execute("UPDATE business_partner SET class = 'B', write_date = clock_timestamp() WHERE id = 1")  # somebody else, meanwhile
        while app._due:
            app.do("form_partner", app._due.pop()[3])
        assert app.journal.refused == {"write_date moved": 1}
        assert conn.execute("SELECT city, class FROM business_partner WHERE id = 1").fetchone() == ("Ulm", "B")


@pytest.mark.parametrize("side", ["crm", "erp"])
def test_a_stopped_application_ends_cleanly_and_says_what_it_did(side: str, pair: Pair) -> None:
    command = [
        sys.executable,
        "-m",
        f"examples.reference.{side}_app",
        "--dsn",
        pair[side == "erp"],
        "--rate",
        "100",
        "--seed",
        "7",
        "--progress",
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        stopped = time.monotonic()
        out = process.stdout.read()
        assert process.wait(10) == 0
    assert time.monotonic() - stopped < 5
    last = json.loads(out.splitlines()[-1])
    assert last["application"] == side
    assert last["changes"] >= first["changes"] > 0
