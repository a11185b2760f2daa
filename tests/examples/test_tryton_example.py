"""The Tryton example: its parts without Tryton, and all of it, shorter than the demo, where Tryton is installed."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from examples.reference import load
from examples.reference.people import pool
from examples.reference.workload import Journal
from examples.tryton.agree import compare, crm_says, shipped_as_agreed, tryton_says
from examples.tryton.arithmetic import net_price, on_hand
from examples.tryton.crm_app import Loaded, Sellers
from examples.tryton.installation import is_installed
from examples.tryton.vat import german_vat
from tests.examples.test_examples_configured import compiled

ROOT = Path(__file__).resolve().parents[2]
FACTS = {"TRYTON_PARTY_SEQUENCE": "ir_sequence_1", "TRYTON_CUSTOMERS": "1", "TRYTON_WORKS_FOR": "1"}


def test_a_tax_number_has_the_check_digit_that_the_tax_office_gives() -> None:
    assert german_vat(1, 3669597) == "DE136695976"
    assert len({german_vat(kind, number) for kind in range(1, 7) for number in range(50)}) == 300


def test_what_two_columns_make() -> None:
    assert net_price("12.35", "7.50") == "11.4238"
    assert net_price("12.35", None) == "12.3500"
    assert net_price(None, "5") is None
    assert (on_hand("12.5", "3"), on_hand(None, None)) == ("9.5", "0")


def test_the_configuration_fits_tryton_s_tables(database: str, database_2: str) -> None:
    with psycopg.connect(database) as crm, psycopg.connect(database_2) as tryton:
        crm.execute((load.HERE / "crm.sql").read_bytes())
        tryton.execute(Path(__file__).with_name("tryton.sql").read_bytes())
    entities = compiled("tryton", CRM_DSN=database, TRYTON_DSN=database_2, **FACTS).entities
    customer = entities["customer"].bindings["tryton"]
    assert customer.generated == {"number"}
    assert customer.part["membership"].required
    assert customer.columns["email"] == ("email.value", "email.value_compact")
    assert entities["product"].bindings["tryton"].columns["name"] == ("template.name", "title.value", "title.src")
    sale = entities["sales_order"].bindings["tryton"]
    assert {"number", "status", "net_total", "tax_total", "gross_total"} & sale.writable == set()
    for state, there in ((("draft", "none"), "new"), (("processing", "sent"), "shipped"), (("done", "sent"), "invoiced")):
        assert sale.to_canonical({"id": "1", "state": state[0], "shipment_state": state[1]})["status"] == there
    assert entities["order_line"].bindings["tryton"].part["moves"].prefix == "sale.line,"


@pytest.fixture
def crm(database: str) -> str:
    with psycopg.connect(database) as conn:
        conn.execute((load.HERE / "crm.sql").read_bytes())
        load.fill(conn, Loaded(pool(7), random.Random("load 7"), 0.1).crm())
        conn.execute("UPDATE account SET customer_no = 'K' || left(id::text, 8)")
    return database


def test_every_habit_of_the_sellers_runs(crm: str) -> None:
    with psycopg.connect(crm, autocommit=True) as conn:
        app = Sellers(conn, pool(7), 7, Journal())
        for at in range(8):
            app.do("twin", lambda at=at: app.twin(at))  # type: ignore[misc]
            app.do("clash", lambda at=at: app.clash(at))  # type: ignore[misc]
        app.run(rate=100_000, seconds=2)
    assert not app.journal.refused
    assert set(app.weights) <= set(app.journal.actions)


def test_nobody_edits_an_order_that_the_erp_has_quoted(crm: str) -> None:
    with psycopg.connect(crm, autocommit=True) as conn:
        app = Sellers(conn, pool(7), 7, Journal())
        orders = [row[0] for row in conn.execute(app.open_orders.encode())]
        before = lines_of(conn)
        app.some(app.open_orders, seconds=3600)  # what was open a moment ago
        conn.execute("UPDATE sales_order SET status = 'confirmed'")
        for _ in range(10):
            for habit in (app.edit_order, app.edit_line, app.delete_line, app.lines_again):
                habit()
        assert orders
        assert lines_of(conn) == before
        conn.execute("UPDATE sales_order SET status = 'new'")
        for _ in range(10):
            app.lines_again()
        assert lines_of(conn) != before


def lines_of(conn: psycopg.Connection[Any]) -> list[Any]:
    return conn.execute("SELECT * FROM order_line ORDER BY id").fetchall()


# ---- the second opinion
def seen(**changed: Any) -> dict[str, Any]:
    """What Tryton's client sees of one of each, and the CRM of `crm_with_one_of_each`."""
    line = {"line": 1, "sku": "A", "quantity": "3.0", "price": "9.5000", "delivered": "3.0"}
    sale = {
        "number": "1", "reference": "PO 1", "customer": "7", "state": "done", "shipment_state": "sent", "currency": "EUR",
        "net": "28.50", "tax": "5.42", "gross": "33.92", "lines": [line],
    }  # fmt: skip
    customer = {
        "number": "7", "name": "Ott KG", "active": True, "tax_id": "DE136695976", "email": "a@b.example", "phone": None, "website": None,
        "street": "Weg 1", "zip": "1", "city": "Ulm", "country": "DE", "terms": "net30",
    }  # fmt: skip
    told = {
        "customers": customer,
        "contacts": {"name": "Anna Ott", "customer": "7", "email": "anna@b.example", "phone": None},
        "products": {"sku": "A", "name": "Ware", "description": None, "active": True, "price": "9.9950", "unit": "piece", "on_hand": "4.0"},
        "sales": sale,
        "invoices": {"number": "9", "state": "paid", "customer": "7", "net": "28.50", "tax": "5.42", "gross": "33.92", "order": "1"},
    }
    return {kind: [facts | changed.get(kind, {})] for kind, facts in told.items()}


@pytest.fixture
def crm_with_one_of_each(database: str) -> str:
    a, b, c, d, e, f = (f"00000000-0000-4000-8000-00000000000{n}" for n in range(6))
    with psycopg.connect(database) as conn:
        conn.execute((load.HERE / "crm.sql").read_bytes())
        conn.execute(
            f"""
            INSERT INTO account VALUES ('{a}', 'customer', 'Ott  KG', 'DE136695976', '7', 'a@b.example', NULL, NULL, 'Weg 1', '1',
                'Ulm', 'DE', 'gold', 'net30', NULL, true, 'x', NULL, now(), now());
            INSERT INTO contact VALUES ('{b}', '{a}', NULL, 'Anna', 'Ott', 'anna@b.example', NULL, 'other', NULL, now(), now());
            INSERT INTO product VALUES ('{c}', 'A', 'Ware', NULL, 'piece', 10.00, NULL, true, now(), now());
            INSERT INTO stock_level VALUES ('{c}', '{c}', 'WH', 4, 0, NULL, now());
            INSERT INTO sales_order VALUES ('{d}', '{a}', '1', 'invoiced', now(), NULL, 'EUR', 'PO 1', 0, 28.50, 5.42, 33.92, now(), now());
            INSERT INTO order_line VALUES ('{e}', '{d}', 1, '{c}', NULL, 3, 10.00, 5, 3, now(), now());
            INSERT INTO invoice VALUES ('{f}', '9', '{a}', '{d}', 'paid', now(), now(), 28.50, 5.42, 33.92, now(), now());
            """.encode()
        )
    return database


def differences(dsn: str, told: dict[str, Any]) -> str:
    with psycopg.connect(dsn) as conn:
        found = compare(crm_says(conn), tryton_says(told))
    return " | ".join(problem for agreement in found.values() for problem in agreement.differing + agreement.missing)


def test_tryton_s_client_agrees_with_what_is_equal(crm_with_one_of_each: str) -> None:
    assert differences(crm_with_one_of_each, seen()) == ""
    assert shipped_as_agreed(seen()) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"customers": {"city": "Bonn"}}, "customer 7: city is 'Ulm' in the CRM, 'Bonn' in Tryton"),
        ({"customers": {"number": "8"}}, "customer 7: not in Tryton"),
        ({"contacts": {"customer": "8"}}, "not in the CRM"),
        ({"products": {"on_hand": "5.0"}}, "product A: on_hand"),
        ({"products": {"price": "9.98"}}, "product A: price"),
        ({"sales": {"state": "processing"}}, "sales_order 1: status is 'invoiced' in the CRM, 'shipped' in Tryton"),
        ({"sales": {"lines": []}}, "sales_order 1: lines"),
        ({"invoices": {"order": None}}, "invoice 9: order"),
    ],
)
def test_tryton_s_client_sees_it(crm_with_one_of_each: str, changed: dict[str, Any], expected: str) -> None:
    assert expected in differences(crm_with_one_of_each, seen(**changed))


def test_a_line_that_was_changed_behind_the_clerk_s_back_is_seen() -> None:
    line = {"line": 1, "sku": "A", "quantity": "5.0", "price": "9.5", "delivered": "3.0"}
    assert shipped_as_agreed(seen(sales={"lines": [line]})) == ["sale 1: 3.0 of 5.0 A delivered, and it is said to be shipped"]


# ---- all of it
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    not is_installed(), reason="Tryton is not installed: `make demo-tryton` installs it; then pytest tests/examples/test_tryton_example.py"
)
def test_tryton_and_the_crm_agree_after_people_have_worked_in_both() -> None:
    command = [sys.executable, "-m", "examples.tryton.demo", "--seconds", "16", "--rate", "15", "--customers", "60"]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "both databases agree" in done.stdout
