"""The CRM at work: salesmen who enter customers, contacts, products and orders, and save whole forms from what they read a while ago.

    python -m examples.reference.crm_app --dsn postgresql://… --rate 200 --seconds 60 --seed 1

What it never does, because an application would not let it: delete what has dependants (a walk-in customer without a tax id has none, so
only those are deleted), use an e-mail address twice, delete an order instead of cancelling it.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from examples.reference.people import Company, Person
from examples.reference.workload import BULK_ROWS, HOT, NO_CHANGE, Transaction, Workload, main, shared_tax_id, twin_tax_id

CUSTOMERS = "SELECT id FROM account WHERE type = 'customer' AND vat_number IS NOT NULL AND is_active"
WALK_INS = "SELECT id FROM account WHERE type = 'customer' AND vat_number IS NULL"
PROSPECTS = "SELECT id FROM account WHERE type = 'prospect'"
CONTACTS = "SELECT id FROM contact"
PRODUCTS = "SELECT id, list_price FROM product WHERE is_active"
OPEN_ORDERS = "SELECT id FROM sales_order WHERE status IN ('new', 'confirmed') ORDER BY created_at DESC LIMIT 500"
INVOICES = "SELECT id FROM invoice ORDER BY created_at DESC LIMIT 500"

# What a form saves: all of it, whatever was changed.
FORMS = {
    "account": (
        "type, name, vat_number, customer_no, email, phone, website, billing_street, billing_zip, billing_city, billing_country,"
        " segment, payment_terms, credit_limit, is_active, owner_login, note"
    ),
    "contact": "account_id, salutation, first_name, last_name, email, phone, role, birthday",
    "product": "sku, name, description, unit, list_price, weight_kg, is_active",
}


def _save(table: str) -> str:
    columns = ", ".join(f"{column.strip()} = %s" for column in FORMS[table].split(","))
    return f"UPDATE {table} SET {columns}, updated_at = clock_timestamp() WHERE id = %s"


READ = {table: f"SELECT {columns} FROM {table} WHERE id = %s" for table, columns in FORMS.items()}
SAVE = {table: _save(table) for table in FORMS}
AT = {table: {column.strip(): n for n, column in enumerate(columns.split(","))} for table, columns in FORMS.items()}
NEW_LINE = (
    "INSERT INTO order_line (id, order_id, line_no, product_id, text, quantity, unit_price, discount_pct, created_at, updated_at)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, now(), now())"
)


class Crm(Workload):
    """The CRM's users."""

    name = "crm"
    open_orders = OPEN_ORDERS
    settled: Collection[str] = ()  # columns of a product that nobody changes any more
    weights = {  # noqa: RUF012 - never changed
        "new_customer": 4,
        "new_prospect": 1,
        "win_prospect": 1,
        "new_contact": 6,
        "new_product": 1.5,
        "new_order": 5,
        "edit_account": 14,
        "edit_contact": 10,
        "edit_product": 4,
        "form_account": 6,
        "form_contact": 4,
        "form_product": 2,
        "edit_order": 5,
        "edit_line": 5,
        "delete_line": 1.2,
        "lines_again": 1,
        "delete_contact": 1.5,
        "delete_walk_in": 0.8,
        "deactivate": 0.8,
        "new_mail": 0.8,
        "meddle": 0.8,
    }

    # ---- customers ----------------------------------------------------------------------------------------------------
    def new_customer(self) -> None:
        vat = None if self.rng.random() < 0.25 else f"C{self.unique().upper()}"
        self.enter("customer", vat)
        self.forget(CUSTOMERS if vat else WALK_INS)

    def new_prospect(self) -> None:
        self.enter("prospect" if self.rng.random() < 0.8 else "competitor", None)

    def enter(self, kind: str, vat: str | None) -> UUID:
        """INSERT, then UPDATE in the same transaction: the web site and the terms come second."""
        company, key = self.company(), uuid4()
        with self.transaction() as tx:
            tx.write(
                "account c",
                "INSERT INTO account (id, type, name, vat_number, email, phone, billing_street, billing_zip, billing_city, billing_country,"
                " segment, payment_terms, is_active, owner_login, created_at, updated_at)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 'bronze', 'prepaid', true, %s, now(), now())",
                (key, kind, company.name, vat, self.mail(company), company.phone, company.street, company.zip, company.city,
                 company.country, f"sales{self.rng.randint(1, 9)}"),
            )  # fmt: skip
            tx.write(
                "account u",
                "UPDATE account SET website = %s, segment = %s, payment_terms = %s, updated_at = clock_timestamp() WHERE id = %s",
                (f"https://{company.domain}/", self.segment(), self.terms(), key),
            )
        return key

    def win_prospect(self) -> None:
        """A prospect becomes a customer: its row enters the scope of what is synchronised."""
        if row := self.some(PROSPECTS):
            with self.transaction() as tx:
                tx.write(
                    "account u",
                    "UPDATE account SET type = 'customer', vat_number = %s, updated_at = clock_timestamp()"
                    " WHERE id = %s AND type = 'prospect'",
                    (f"C{self.unique().upper()}", row[0]),
                )
            self.forget(PROSPECTS)

    def edit_account(self) -> None:
        if row := self.some(self.rng.choice([CUSTOMERS, CUSTOMERS, CUSTOMERS, WALK_INS])):
            column, value = self.account_edit()
            self.update("account", column, value, row[0])

    def account_edit(self) -> tuple[str, Any]:
        company, rng = self.company(), self.rng
        return rng.choice(
            [
                ("phone", company.phone),
                ("website", f"https://www.{company.domain}/{rng.randint(1, 99)}" if rng.random() < 0.9 else None),
                ("billing_street", company.street),
                ("billing_city", company.city),
                ("billing_zip", company.zip),
                ("segment", self.segment()),
                ("payment_terms", self.terms()),
                ("name", f"{company.name} {rng.randint(2, 99)}"),
                ("email", self.mail(company)),
                ("note", f"called {rng.randint(1, 9)} times"),  # ours alone: nothing for the ERP in it
            ]
        )

    def update(self, table: str, column: str, value: Any, key: UUID, order: UUID | None = None) -> None:
        """`order`: what the row belongs to, which may be none of ours any more."""
        if self.rng.random() < NO_CHANGE:
            column, value = "updated_at", None
        with self.transaction() as tx:
            if order is not None and not self.is_ours(tx, order):
                return
            if value is None and column == "updated_at":
                tx.write(f"{table} u", f"UPDATE {table} SET updated_at = updated_at WHERE id = %s", (key,))
            else:
                tx.write(f"{table} u", f"UPDATE {table} SET {column} = %s, updated_at = clock_timestamp() WHERE id = %s", (value, key))

    def delete_walk_in(self) -> None:
        if row := self.some(WALK_INS):
            with self.transaction() as tx:
                tx.write("account d", "DELETE FROM account WHERE id = %s AND vat_number IS NULL", (row[0],))
            self.forget(WALK_INS)

    def deactivate(self) -> None:
        """The soft delete; now and then it is taken back."""
        table, query = self.rng.choice([("account", WALK_INS), ("account", WALK_INS), ("product", PRODUCTS)])
        if row := self.some(query):
            with self.transaction() as tx:
                tx.write(
                    f"{table} u",
                    f"UPDATE {table} SET is_active = %s, updated_at = clock_timestamp() WHERE id = %s",
                    (self.rng.random() < 0.5, row[0]),
                )

    # ---- contacts -----------------------------------------------------------------------------------------------------
    def new_contact(self) -> None:
        if row := self.some(CUSTOMERS):
            person = self.person()
            with self.transaction() as tx:
                tx.write(
                    "contact c",
                    "INSERT INTO contact (id, account_id, salutation, first_name, last_name, email, phone, role, birthday,"
                    " created_at, updated_at)"
                    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, now(), now())",
                    (uuid4(), row[0], person.salutation, person.first, person.last, self.person_mail(), person.phone, self.role(),
                     person.birthday),
                )  # fmt: skip

    def edit_contact(self) -> None:
        if row := self.some(CONTACTS):
            person = self.person()
            column, value = self.rng.choice(
                [
                    ("phone", person.phone),
                    ("first_name", person.first),
                    ("last_name", person.last),
                    ("role", self.role()),
                    ("salutation", person.salutation),
                    ("birthday", person.birthday),
                ]
            )
            self.update("contact", column, value, row[0])

    def new_mail(self) -> None:
        """A contact's address changes: what contacts are matched on."""
        if row := self.some(CONTACTS):
            self.update("contact", "email", self.person_mail(), row[0])

    def delete_contact(self) -> None:
        if row := self.some(CONTACTS):
            with self.transaction() as tx:
                tx.write("contact d", "DELETE FROM contact WHERE id = %s", (row[0],))
            self.forget(CONTACTS)

    # ---- products -----------------------------------------------------------------------------------------------------
    def new_product(self) -> None:
        good = self.rng.choice(self.people.goods)
        with self.transaction() as tx:
            tx.write(
                "product c",
                "INSERT INTO product (id, sku, name, description, unit, list_price, weight_kg, is_active, created_at, updated_at)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, true, now(), now())",
                (uuid4(), f"P-{self.unique()}", good.name, good.text, self.unit(), Decimal(good.price).quantize(Decimal("0.01")),
                 Decimal(self.rng.randint(1, 50_000)) / 1000),
            )  # fmt: skip

    def edit_product(self) -> None:
        if row := self.some(PRODUCTS):
            good = self.rng.choice(self.people.goods)
            edits: dict[str, Any] = {
                "name": good.name,
                "description": good.text if self.rng.random() < 0.9 else None,
                "weight_kg": Decimal(self.rng.randint(1, 50_000)) / 1000,
                "unit": self.unit(),
            }
            column = self.rng.choice([column for column in edits if column not in self.settled])
            self.update("product", column, edits[column], row[0])

    # ---- whole forms, saved from what was read a while ago --------------------------------------------------------------
    def form_account(self) -> None:
        self.open_form("account", CUSTOMERS)

    def form_contact(self) -> None:
        self.open_form("contact", CONTACTS)

    def form_product(self) -> None:
        self.open_form("product", PRODUCTS)

    def open_form(self, table: str, query: str) -> None:
        if (row := self.some(query)) and (read := self.conn.execute(READ[table], (row[0],)).fetchone()):
            self.after(self.rng.uniform(0.05, 2), lambda: self.save_form(table, row[0], list(read)))

    def save_form(self, table: str, key: UUID, values: list[Any]) -> None:
        """No lock, no comparison: whatever was written in the meantime is reverted."""
        at = AT[table]
        if self.rng.random() >= NO_CHANGE:
            if table == "account":
                column, value = self.account_edit()
                values[at[column]] = value
            elif table == "contact":
                values[at["phone"]] = self.person().phone
            else:
                values[at["description"]] = self.rng.choice(self.people.goods).text
        with self.transaction() as tx:
            tx.write(f"{table} u", SAVE[table], (*values, key))

    # ---- orders -------------------------------------------------------------------------------------------------------
    def new_order(self) -> None:
        """Header, then lines, then the estimate: three transactions."""
        customer, key, rng = self.some(CUSTOMERS), uuid4(), self.rng
        if customer is None or self.some(PRODUCTS) is None:
            return
        now = datetime.now(UTC)
        with self.transaction() as tx:
            tx.write(
                "sales_order c",
                "INSERT INTO sales_order (id, account_id, status, ordered_at, wanted_on, currency, customer_ref, estimate,"
                " created_at, updated_at)"
                " VALUES (%s, %s, 'new', %s, %s, %s, %s, 0, now(), now())",
                (key, customer[0], now, date.today() + timedelta(days=rng.randint(1, 60)) if rng.random() < 0.8 else None,
                 rng.choice(["EUR", "EUR", "EUR", "USD", "CNY"]), f"PO {rng.randint(1000, 99999)}" if rng.random() < 0.7 else None),
            )  # fmt: skip
        self.after(rng.uniform(0.01, 0.1), lambda: self.enter_lines(key))

    def is_ours(self, tx: Transaction, order: UUID) -> bool:
        """Whether an order may still be edited here."""
        return True

    def enter_lines(self, order: UUID) -> None:
        with self.transaction() as tx:
            for number in range(1, self.rng.randint(1, 6) + 1):
                self.enter_line(tx, order, number)
        self.after(self.rng.uniform(0.05, 0.5), lambda: self.estimate(order))

    def enter_line(self, tx: Transaction, order: UUID, number: int) -> None:
        product = self.some(PRODUCTS)
        if product is None:
            return
        tx.write(
            "order_line c",
            NEW_LINE,
            (uuid4(), order, number, product[0], self.rng.choice([None, "express", "Geschenk", "加急"]), self.quantity(), product[1],
             self.rng.choice([0, 0, 5, Decimal("7.50")])),
        )  # fmt: skip

    def estimate(self, order: UUID) -> None:
        with self.transaction() as tx:
            tx.write(
                "sales_order u",
                "UPDATE sales_order SET estimate = (SELECT coalesce(sum(round(quantity * unit_price * (1 - discount_pct / 100), 2)), 0)"
                " FROM order_line WHERE order_id = sales_order.id), updated_at = clock_timestamp() WHERE id = %s",
                (order,),
            )

    def edit_order(self) -> None:
        if row := self.some(self.open_orders):
            column, value = self.rng.choice(
                [
                    ("wanted_on", date.today() + timedelta(days=self.rng.randint(1, 90))),
                    ("customer_ref", f"PO {self.rng.randint(1000, 99999)}/{self.rng.randint(1, 9)}"),
                ]
            )
            self.update("sales_order", column, value, row[0], order=row[0])

    def edit_line(self) -> None:
        if (order := self.some(self.open_orders)) and (line := self.a_line(order[0])):
            self.update("order_line", "quantity", self.quantity(), line, order=order[0])
            self.after(self.rng.uniform(0.05, 0.5), lambda: self.estimate(order[0]))

    def a_line(self, order: UUID) -> UUID | None:
        lines = self.conn.execute("SELECT id FROM order_line WHERE order_id = %s ORDER BY line_no", (order,)).fetchall()
        return self.rng.choice(lines)[0] if lines else None

    def delete_line(self) -> None:
        if (order := self.some(self.open_orders)) and (line := self.a_line(order[0])):
            with self.transaction() as tx:
                if not self.is_ours(tx, order[0]):
                    return
                tx.write("order_line d", "DELETE FROM order_line WHERE id = %s", (line,))
            self.after(self.rng.uniform(0.05, 0.5), lambda: self.estimate(order[0]))

    def lines_again(self) -> None:
        """A form that deletes and re-inserts its lines with new ids though nothing changed."""
        if order := self.some(self.open_orders):
            with self.transaction() as tx:
                if not self.is_ours(tx, order[0]):
                    return
                lines = tx.ask(
                    "SELECT line_no, product_id, text, quantity, unit_price, discount_pct FROM order_line WHERE order_id = %s"
                    " ORDER BY line_no FOR UPDATE",
                    (order[0],),
                )
                if lines:
                    tx.write("order_line d", "DELETE FROM order_line WHERE order_id = %s", (order[0],))
                for line in lines:
                    tx.write("order_line c", NEW_LINE, (uuid4(), order[0], *line))

    def meddle(self) -> None:
        """Somebody writes what is the ERP's to decide: it will be put right."""
        table, column, value, query = self.rng.choice(
            [
                ("account", "credit_limit", Decimal(self.rng.randint(1, 90) * 1000), CUSTOMERS),
                ("sales_order", "status", "cancelled", self.open_orders),
                ("invoice", "status", "void", INVOICES),
                ("product", "list_price", Decimal(self.rng.randint(100, 99999)) / 100, PRODUCTS),
            ]
        )
        if row := self.some(query):
            self.update(table, column, value, row[0])

    # ---- by the clock -------------------------------------------------------------------------------------------------
    def twin(self, at: int) -> None:
        self.enter("customer", twin_tax_id(self.seed, at))

    def clash(self, at: int) -> None:
        company = self.people.companies[at % len(self.people.companies)]
        column, value = [
            ("phone", company.phone), ("billing_city", company.city), ("name", f"{company.name} (CRM)"), ("segment", "gold"),
        ][at % 4]  # fmt: skip
        with self.transaction() as tx:
            tx.write(
                "account u",
                f"UPDATE account SET {column} = %s, updated_at = clock_timestamp() WHERE vat_number = %s",
                (value, shared_tax_id(at % HOT)),
            )

    def bulk(self, at: int) -> None:
        table, column, value = [("account", "payment_terms", self.terms()), ("contact", "role", self.role())][at // 7 % 2]
        with self.transaction() as tx:
            tx.write(
                f"{table} u",
                f"WITH chosen AS (SELECT id FROM {table} ORDER BY id LIMIT %s FOR UPDATE)"
                f" UPDATE {table} SET {column} = %s, updated_at = clock_timestamp() FROM chosen WHERE {table}.id = chosen.id",
                (BULK_ROWS, value),
            )

    # ---- what people type -----------------------------------------------------------------------------------------------
    def company(self) -> Company:
        return self.rng.choice(self.people.companies)

    def person(self) -> Person:
        return self.rng.choice(self.people.persons)

    def mail(self, company: Company) -> str:
        return f"Info.{self.unique()}@{company.domain}"

    def person_mail(self) -> str | None:
        return f"First.Last.{self.unique()}@Mail.example" if self.rng.random() < 0.9 else None

    def segment(self) -> str:
        return self.rng.choice(["gold", "silver", "bronze", "bronze"])

    def terms(self) -> str:
        return self.rng.choice(["prepaid", "net14", "net30", "net60"])

    def role(self) -> str:
        return self.rng.choice(["decider", "technical", "billing", "other"])

    def unit(self) -> str:
        return self.rng.choice(["piece", "piece", "kilogram", "metre", "litre"])

    def quantity(self) -> Decimal:
        return Decimal(self.rng.randint(1, 40)) if self.rng.random() < 0.7 else Decimal(self.rng.randint(1, 99_999)) / 1000


if __name__ == "__main__":
    sys.exit(main(Crm))
