"""Fills both databases as if they had been in use for years, partly with the same customers, contacts and products.

    python -m examples.reference.load --crm-dsn postgresql://… --erp-dsn postgresql://… --seed 1

What is on both sides has the same tax id, e-mail address or article number, though not always written the same way, and differs in
the rest.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg

from examples.reference.erp_app import COUNTRIES
from examples.reference.people import Pool, pool
from examples.reference.workload import HOT, SHARED, shared_tax_id

HERE = Path(__file__).parent
CUSTOMERS = 1500  # on each side, SHARED of them on both
CONTACTS, SHARED_CONTACTS = 1200, 300
PRODUCTS, SHARED_PRODUCTS = 350, 250
ORDERS = 250
INVOICES = 400
BERLIN, SHANGHAI = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Shanghai")
Rows = list[tuple[Any, ...]]


def create(crm: psycopg.Connection[Any], erp: psycopg.Connection[Any]) -> None:
    """The two schemas, in databases that do not have them yet."""
    for conn, file in ((crm, "crm.sql"), (erp, "erp.sql")):
        conn.execute((HERE / file).read_text("utf-8").encode())
        conn.commit()


def load(crm: psycopg.Connection[Any], erp: psycopg.Connection[Any], seed: int, share: float = 1.0) -> dict[str, dict[str, int]]:
    """The initial data; `share` below 1 loads that part of it. Returns rows per table of each side."""
    maker = Maker(pool(seed), random.Random(f"load {seed}"), share)
    with crm.transaction(), erp.transaction():
        return {"crm": fill(crm, maker.crm()), "erp": fill(erp, maker.erp())}


def fill(conn: psycopg.Connection[Any], tables: Iterable[tuple[str, str, Rows]]) -> dict[str, int]:
    counts = {}
    with conn.cursor() as cursor:
        for table, columns, rows in tables:
            with cursor.copy(f"COPY {table} ({columns}) FROM STDIN".encode()) as copy:
                for row in rows:
                    copy.write_row(row)
            counts[table.strip('"')] = len(rows)
            if columns.startswith("id,") and isinstance(
                rows[0][0], int
            ):  # explicit identities: the application's next one comes after them
                cursor.execute(b"SELECT setval(pg_get_serial_sequence(%s, 'id'), %s)", (table, max(row[0] for row in rows)))
    return counts


class Maker:
    """Makes the rows of both sides out of one pool."""

    def __init__(self, people: Pool, rng: random.Random, share: float) -> None:
        self.people, self.rng = people, rng
        self.customers = max(int(CUSTOMERS * share), 2 * HOT)
        self.shared = max(int(SHARED * share), HOT)
        self.contacts, self.shared_contacts = int(CONTACTS * share), int(SHARED_CONTACTS * share)
        self.products, self.shared_products = max(int(PRODUCTS * share), 8), max(int(SHARED_PRODUCTS * share), 4)
        self.orders, self.invoices = int(ORDERS * share), int(INVOICES * share)
        self.now = datetime.now(UTC)

    def uuid(self) -> UUID:
        return UUID(int=self.rng.getrandbits(128), version=4)

    def some_day(self) -> datetime:
        return self.now - timedelta(seconds=self.rng.randint(86_400, 5 * 365 * 86_400), microseconds=self.rng.randint(0, 999_999))

    def tax_id(self, n: int) -> str:
        """Of the CRM's n-th customer; the ERP has the first ones too."""
        return shared_tax_id(n) if n < self.shared else f"CRM{n:06}"

    def quantity(self) -> Decimal:
        return Decimal(self.rng.randint(1, 60_000)) / 1000

    def crm(self) -> Iterable[tuple[str, str, Rows]]:
        rng, companies, persons = self.rng, self.people.companies, self.people.persons
        accounts: Rows = []
        for n in range(self.customers):
            company, created = companies[n % len(companies)], self.some_day()
            vat = self.tax_id(n) if n < self.shared or rng.random() < 0.85 else None
            kind = "customer" if vat else rng.choice(["customer", "prospect", "competitor"])
            accounts.append(
                (self.uuid(), kind, company.name, vat, f"info{n}@{company.domain}" if rng.random() < 0.8 else None, company.phone, None,
                 company.street, company.zip, company.city, company.country, rng.choice(["gold", "silver", "bronze"]),
                 rng.choice(["prepaid", "net14", "net30", "net60"]), None, vat is not None or rng.random() < 0.9,
                 f"sales{rng.randint(1, 9)}", created, created)
            )  # fmt: skip
        yield (
            "account",
            "id, type, name, vat_number, email, phone, website, billing_street, billing_zip, billing_city, billing_country, segment,"
            " payment_terms, credit_limit, is_active, owner_login, created_at, updated_at",
            accounts,
        )
        customers = [row[0] for row in accounts if row[3]]
        contacts: Rows = []
        for n in range(self.contacts):
            person, created = persons[n % len(persons)], self.some_day()
            account = customers[n % self.shared] if n < self.shared_contacts else rng.choice(customers)
            contacts.append(
                (self.uuid(), account, person.salutation, person.first, person.last,
                 f"Person{n}@Shared.example" if n < self.shared_contacts else f"person{n}@crm.example" if rng.random() < 0.9 else None,
                 person.phone, rng.choice(["decider", "technical", "billing", "other"]), person.birthday, created, created)
            )  # fmt: skip
        yield (
            "contact",
            "id, account_id, salutation, first_name, last_name, email, phone, role, birthday, created_at, updated_at",
            contacts,
        )
        products: Rows = []
        for n in range(self.products):
            good, created = self.people.goods[n % len(self.people.goods)], self.some_day()
            products.append(
                (self.uuid(), f"ART-{n:05}" if n < self.shared_products else f"CRM-{n:05}", good.name, good.text,
                 rng.choice(["piece", "kilogram", "metre", "litre"]), Decimal(good.price).quantize(Decimal("0.01")),
                 Decimal(rng.randint(1, 50_000)) / 1000, True, created, created)
            )  # fmt: skip
        yield "product", "id, sku, name, description, unit, list_price, weight_kg, is_active, created_at, updated_at", products
        orders: Rows = []
        lines: Rows = []
        for _ in range(self.orders):
            key, ordered = self.uuid(), self.now - timedelta(seconds=rng.randint(60, 5 * 86_400))
            estimate = Decimal(0)
            for number in range(1, rng.randint(1, 5) + 1):
                product, quantity = rng.choice(products), self.quantity()
                estimate += quantity * product[5]
                lines.append((self.uuid(), key, number, product[0], None, quantity, product[5], rng.choice([0, 0, 5]), ordered, ordered))
            orders.append(
                (key, rng.choice(customers), "new", ordered, date.today() + timedelta(days=rng.randint(1, 30)), "EUR",
                 f"PO {rng.randint(1000, 99999)}", estimate, ordered, ordered)
            )  # fmt: skip
        yield (
            "sales_order",
            "id, account_id, status, ordered_at, wanted_on, currency, customer_ref, estimate, created_at, updated_at",
            orders,
        )
        yield (
            "order_line",
            "id, order_id, line_no, product_id, text, quantity, unit_price, discount_pct, created_at, updated_at",
            lines,
        )

    def erp(self) -> Iterable[tuple[str, str, Rows]]:
        rng, companies, persons = self.rng, self.people.companies, self.people.persons
        partners: Rows = []
        for n in range(self.customers):
            shared = n < self.shared
            company = companies[(n if shared else n + CUSTOMERS) % len(companies)]
            created = self.some_day().astimezone(BERLIN).replace(tzinfo=None)
            tax = shared_tax_id(n) if shared else f"ERP{n:06}" if rng.random() < 0.9 else None
            if tax and n >= HOT and rng.random() < 0.1:
                tax = f" {tax.lower()}"  # typed by somebody else
            partners.append(
                (n + 1, f"K{n + 1:05}", "customer" if shared else rng.choice(["customer", "both", "supplier"]),
                 company.name if rng.random() < 0.5 else company.name.upper()[:190], tax,
                 f"office{n}@{company.domain}" if rng.random() < 0.8 else None, company.phone if rng.random() < 0.5 else None,
                 company.street, company.zip, company.city, COUNTRIES[company.country], rng.choice("ABC"), rng.choice([0, 14, 30, 60]),
                 Decimal(rng.randint(0, 800_000)) / 8, 0, "EUR", "de", 1, True, 1, created, created)
            )  # fmt: skip
        yield (
            "business_partner",
            "id, number, kind, legal_name, tax_id, mail, telephone, street, zip, city, country, class, payment_days, credit_limit,"
            " dunning_level, currency, language, company, active, create_uid, create_date, write_date",
            partners,
        )
        customers = [row[0] for row in partners if row[2] != "supplier" and row[4]]
        contacts: Rows = []
        for n in range(self.contacts):
            person = persons[(n if n < self.shared_contacts else n + CONTACTS) % len(persons)]
            created = self.some_day().astimezone(BERLIN).replace(tzinfo=None)
            contacts.append(
                (n + 1, n % self.shared + 1 if n < self.shared_contacts else rng.choice(customers),
                 f"{person.last}, {person.first}" if person.first else person.last, rng.choice(["Herr", "Frau", "Dr.", None]),
                 f"person{n}@shared.example" if n < self.shared_contacts else f"person{n}@erp.example" if rng.random() < 0.9 else None,
                 person.phone, rng.choice([1, 2, 3, 9]), person.birthday, n % 20, True, created, created)
            )  # fmt: skip
        yield (
            "partner_contact",
            'id, partner, name, title, mail, telephone, "function", birth_date, sequence, active, create_date, write_date',
            contacts,
        )
        items: Rows = []
        stock: Rows = []
        for n in range(self.products):
            good, created = self.people.goods[(n * 7) % len(self.people.goods)], self.some_day().astimezone(BERLIN).replace(tzinfo=None)
            items.append(
                (n + 1, f"ART-{n:05}" if n < self.shared_products else f"ERP-{n:05}", good.name, good.text if rng.random() < 0.7 else None,
                 rng.choice(["PCE", "KGM", "MTR", "LTR"]), Decimal(good.price), Decimal(good.price) / 2, rng.uniform(0, 90), "buy",
                 True, created, created)
            )  # fmt: skip
            stock += [
                (2 * n + m + 1, n + 1, warehouse, rng.uniform(0, 900), float(rng.randint(0, 9)),
                 self.some_day().astimezone(SHANGHAI).replace(tzinfo=None), created)
                for m, warehouse in enumerate(("MAIN", "SHA"))
            ]  # fmt: skip
        yield (
            "item",
            "id, item_no, description, long_text, base_uom, price, cost, net_weight, procurement, active, create_date, write_date",
            items,
        )
        yield "stock_level", "id, item, warehouse, quantity, reserved, counted, write_date", stock
        invoices: Rows = []
        for n in range(self.invoices):
            untaxed, issued = Decimal(rng.randint(100, 99_999_999)) / 1000, self.some_day().date()
            tax_amount = (untaxed * Decimal("0.19")).quantize(Decimal("0.0001"))
            created = datetime.combine(issued, datetime.min.time())
            invoices.append(
                (n + 1, f"R{n + 1:06}", rng.choice(customers), rng.choice("PCC"), issued, issued + timedelta(days=30), untaxed, tax_amount,
                 untaxed + tax_amount, 1, created, created)
            )  # fmt: skip
        yield (
            "invoice",
            'id, "number", partner, state, invoice_date, due_date, untaxed, tax, total, journal, create_date, write_date',
            invoices,
        )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.reference.load", description=__doc__)
    parser.add_argument("--crm-dsn", default=os.environ.get("CRM_DSN"), required="CRM_DSN" not in os.environ)
    parser.add_argument("--erp-dsn", default=os.environ.get("ERP_DSN"), required="ERP_DSN" not in os.environ)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="load this part of the usual amount")
    args = parser.parse_args(argv)
    with psycopg.connect(args.crm_dsn) as crm, psycopg.connect(args.erp_dsn) as erp:
        create(crm, erp)
        for side, tables in load(crm, erp, args.seed, args.share).items():
            print(f"{side}: " + ", ".join(f"{rows} {table}" for table, rows in tables.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
