"""The ERP at work: it numbers, prices, delivers and invoices what the CRM sold, counts stock, edits partners under an optimistic lock.

    python -m examples.reference.erp_app --dsn postgresql://… --rate 200 --seconds 60 --seed 1

A form is read, kept open for a while, and saved whole with `WHERE write_date = (what was read)`; if somebody wrote in between, the form
is read again and the edit made again. One business action is several transactions: an invoice is a header with zero totals, then totals,
then a number.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from examples.reference.people import Company
from examples.reference.workload import BULK_ROWS, HOT, NO_CHANGE, Workload, main, shared_tax_id, twin_tax_id

NOW = "clock_timestamp() AT TIME ZONE 'Europe/Berlin'"
PARTNERS = "SELECT id FROM business_partner WHERE kind <> 'supplier' AND tax_id IS NOT NULL AND active"
WALK_INS = "SELECT id FROM business_partner WHERE kind <> 'supplier' AND tax_id IS NULL AND active"
SUPPLIERS = "SELECT id FROM business_partner WHERE kind = 'supplier'"
CONTACTS = "SELECT id FROM partner_contact WHERE active"
ITEMS = "SELECT id FROM item WHERE active"
STOCK = "SELECT id FROM stock_level"
DRAFTS = "SELECT id FROM \"order\" WHERE state = 'draft' ORDER BY id LIMIT 50"
CONFIRMED = "SELECT id FROM \"order\" WHERE state = 'confirmed' ORDER BY id LIMIT 50"
SENT = "SELECT id FROM \"order\" WHERE state = 'sent' ORDER BY id LIMIT 50"
POSTED = "SELECT id FROM invoice WHERE state = 'P' ORDER BY id LIMIT 50"
LOOSE_DRAFTS = "SELECT id FROM invoice WHERE state = 'D' AND \"order\" IS NULL ORDER BY id LIMIT 50"
COUNTRIES = {"DE": "DEU", "CN": "CHN", "FR": "FRA", "US": "USA", "JP": "JPN", "ES": "ESP", "PL": "POL"}

FORMS = {
    "business_partner": (
        "number, kind, legal_name, tax_id, mail, telephone, url, street, zip, city, country, class, payment_days, credit_limit,"
        " dunning_level, currency, language, company, active"
    ),
    "partner_contact": 'partner, name, title, mail, telephone, "function", birth_date, sequence, active',
    "item": "item_no, description, long_text, base_uom, price, cost, net_weight, procurement, active",
}
READ = {table: f"SELECT write_date, {columns} FROM {table} WHERE id = %s" for table, columns in FORMS.items()}
SAVE = {
    table: f"UPDATE {table} SET {', '.join(f'{column.strip()} = %s' for column in columns.split(','))}, write_date = {NOW}"
    " WHERE id = %s AND write_date = %s"
    for table, columns in FORMS.items()
}
AT = {table: {column.strip(' "'): n for n, column in enumerate(columns.split(","))} for table, columns in FORMS.items()}
NEW_PARTNER = (
    "INSERT INTO business_partner (number, kind, legal_name, tax_id, mail, telephone, street, zip, city, country, class, payment_days,"
    " dunning_level, currency, language, company, active, create_uid, create_date, write_date)"
    f" VALUES ('K' || nextval('partner_number_seq'), %s, %s, %s, %s, %s, %s, %s, %s, %s, 'C', 0, 0, 'EUR', 'de', 1, true, 7, {NOW}, {NOW})"
    " RETURNING id"
)
NEW_CONTACT = (
    'INSERT INTO partner_contact (partner, name, title, mail, telephone, "function", birth_date, sequence, active, create_date, write_date)'
    f" VALUES (%s, %s, %s, %s, %s, %s, %s, 1, true, {NOW}, {NOW}) RETURNING id"
)


class Erp(Workload):
    """The ERP's users and its nightly jobs, which run all day."""

    name = "erp"
    weights = {  # noqa: RUF012 - never changed
        "new_partner": 3,
        "new_supplier": 0.7,
        "new_contact": 4,
        "new_partner_with_contact": 1,
        "new_item": 1.5,
        "form_partner": 12,
        "form_contact": 6,
        "form_item": 4,
        "edit_supplier": 1,
        "save_unchanged": 2,
        "credit": 4,
        "price": 6,
        "stock": 18,
        "deactivate": 1,
        "delete_contact": 1.2,
        "confirm": 7,
        "deliver": 6,
        "bill": 6,
        "collect": 3,
        "loose_invoice": 2,
        "drop_draft": 0.5,
    }
    mistakes = {"share_mail": 0.5}  # noqa: RUF012 - never changed

    # ---- partners -----------------------------------------------------------------------------------------------------
    def new_partner(self) -> None:
        tax = None if self.rng.random() < 0.2 else f"E{self.unique().upper()}"
        self.enter(self.rng.choice(["customer", "customer", "both"]), tax)
        self.forget(PARTNERS if tax else WALK_INS)

    def new_supplier(self) -> None:
        """None of the CRM's business."""
        self.enter("supplier", f"S{self.unique().upper()}")

    def enter(self, kind: str, tax_id: str | None) -> int:
        """INSERT, then UPDATE in the same transaction: the class and the terms come second."""
        company = self.company()
        with self.transaction() as tx:
            key: int = tx.create("business_partner c", NEW_PARTNER, self.partner_values(kind, company, tax_id))
            tx.write(
                "business_partner u",
                f"UPDATE business_partner SET class = %s, payment_days = %s, url = %s, credit_limit = %s, write_date = {NOW} WHERE id = %s",
                (self.klass(), self.days(), f"https://{company.domain}/", self.limit(), key),
            )
        return key

    def partner_values(self, kind: str, company: Company, tax_id: str | None) -> tuple[Any, ...]:
        return (
            kind, company.name, tax_id, self.mail(company), company.phone, company.street, company.zip, company.city,
            COUNTRIES[company.country],
        )  # fmt: skip

    def new_partner_with_contact(self) -> None:
        """The contact first, the partner after it, in one transaction: the foreign key is deferred."""
        with self.transaction() as tx:
            row = tx.one("SELECT nextval(pg_get_serial_sequence('business_partner', 'id'))")
            assert row is not None
            tx.create("partner_contact c", NEW_CONTACT, self.contact_values(row[0]))
            tx.create(
                "business_partner c",
                NEW_PARTNER.replace("(number,", "(id, number,").replace("VALUES (", f"OVERRIDING SYSTEM VALUE VALUES ({int(row[0])}, "),
                self.partner_values("customer", self.company(), f"E{self.unique().upper()}"),
            )

    def form_partner(self) -> None:
        self.open_form("business_partner", self.rng.choice([PARTNERS, PARTNERS, PARTNERS, WALK_INS]), self.partner_edit)

    def edit_supplier(self) -> None:
        self.open_form("business_partner", SUPPLIERS, self.partner_edit)

    def partner_edit(self) -> tuple[str, Any]:
        company = self.company()
        return self.rng.choice(
            [
                ("telephone", company.phone),
                ("url", f"http://{company.domain}"),
                ("street", company.street),
                ("city", company.city),
                ("zip", company.zip),
                ("class", self.klass()),
                ("payment_days", self.days()),
                ("legal_name", f"{company.name} {self.rng.randint(2, 99)}"),
                ("mail", self.mail(company)),
                ("dunning_level", self.rng.randint(0, 3)),  # the ERP's alone
            ]
        )

    def credit(self) -> None:
        if row := self.some(PARTNERS):
            self.set("business_partner", "credit_limit", self.limit(), row[0])

    def deactivate(self) -> None:
        """The soft delete; now and then it is taken back."""
        table, query = self.rng.choice([("business_partner", WALK_INS), ("business_partner", WALK_INS), ("item", ITEMS)])
        if row := self.some(query):
            self.set(table, "active", self.rng.random() < 0.5, row[0])

    def set(self, table: str, column: str, value: Any, key: int) -> None:
        with self.transaction() as tx:
            tx.write(f"{table} u", f"UPDATE {table} SET {column} = %s, write_date = {NOW} WHERE id = %s", (value, key))

    def save_unchanged(self) -> None:
        """A form saved as it was opened: not even its write_date moves."""
        if row := self.some(self.rng.choice([PARTNERS, WALK_INS])):
            with self.transaction() as tx:
                tx.write("business_partner u", "UPDATE business_partner SET legal_name = legal_name, city = city WHERE id = %s", (row[0],))

    def share_mail(self) -> None:
        """Two customers get one e-mail address, which the CRM refuses: the second one is a dead letter there until a person decides."""
        first, second = self.some(PARTNERS), self.some(PARTNERS)
        if first and second and first != second:
            with self.transaction() as tx:
                tx.write(
                    "business_partner u",
                    f"UPDATE business_partner SET mail = other.mail, write_date = {NOW} FROM business_partner AS other"
                    " WHERE business_partner.id = %s AND other.id = %s AND other.mail IS NOT NULL",
                    (second[0], first[0]),
                )

    # ---- forms under the optimistic lock ------------------------------------------------------------------------------
    def open_form(self, table: str, query: str, edit: Callable[[], tuple[str, Any]]) -> None:
        if row := self.some(query):
            column, value = edit()
            self.read_form(table, row[0], column, value, tries=5)

    def read_form(self, table: str, key: int, column: str, value: Any, tries: int) -> None:
        if read := self.conn.execute(READ[table], (key,)).fetchone():
            self.after(self.rng.uniform(0.05, 1.5), lambda: self.save_form(table, key, list(read), column, value, tries))

    def save_form(self, table: str, key: int, read: list[Any], column: str, value: Any, tries: int) -> None:
        write_date, *values = read
        if self.rng.random() >= NO_CHANGE:
            values[AT[table][column]] = value
        with self.transaction() as tx:
            hit = tx.write(f"{table} u", SAVE[table], (*values, key, write_date))
        if not hit:
            self.journal.refused["write_date moved"] += 1
            if tries > 1:
                self.read_form(table, key, column, value, tries - 1)

    # ---- contacts -----------------------------------------------------------------------------------------------------
    def new_contact(self) -> None:
        if row := self.some(PARTNERS):
            with self.transaction() as tx:
                tx.create("partner_contact c", NEW_CONTACT, self.contact_values(row[0]))

    def contact_values(self, partner: int) -> tuple[Any, ...]:
        person = self.rng.choice(self.people.persons)
        return (
            partner,
            f"{person.last}, {person.first}" if person.first else person.last,
            {"mr": "Herr", "ms": "Frau", "dr": "Dr."}[person.salutation],
            f"{self.unique()}@erp.example" if self.rng.random() < 0.9 else None,
            person.phone,
            self.function(),
            person.birthday,
        )

    def form_contact(self) -> None:
        person = self.rng.choice(self.people.persons)
        edits: list[tuple[str, Any]] = [
            ("telephone", person.phone),
            ("name", f"{person.last}, {person.first}" if person.first else person.last),
            ("function", self.function()),
            ("sequence", self.rng.randint(1, 20)),
        ]
        self.open_form("partner_contact", CONTACTS, lambda: self.rng.choice(edits))

    def delete_contact(self) -> None:
        if row := self.some(CONTACTS):
            with self.transaction() as tx:
                tx.write("partner_contact d", "DELETE FROM partner_contact WHERE id = %s", (row[0],))
            self.forget(CONTACTS)

    # ---- items and stock ----------------------------------------------------------------------------------------------
    def new_item(self) -> None:
        good = self.rng.choice(self.people.goods)
        with self.transaction() as tx:
            key = tx.create(
                "item c",
                "INSERT INTO item (item_no, description, long_text, base_uom, price, cost, net_weight, procurement, active,"
                " create_date, write_date)"
                f" VALUES (%s, %s, %s, %s, %s, %s, %s, 'make', true, {NOW}, {NOW}) RETURNING id",
                (
                    f"I-{self.unique()}",
                    good.name,
                    good.text,
                    self.uom(),
                    Decimal(good.price),
                    Decimal(good.price) / 2,
                    self.rng.uniform(0, 80),
                ),
            )
            for warehouse in ("MAIN", "SHA"):
                tx.create(
                    "stock_level c",
                    "INSERT INTO stock_level (item, warehouse, quantity, reserved, counted, write_date)"
                    f" VALUES (%s, %s, 0, 0, NULL, {NOW}) RETURNING id",
                    (key, warehouse),
                )

    def form_item(self) -> None:
        good = self.rng.choice(self.people.goods)
        edits: list[tuple[str, Any]] = [
            ("description", good.name),
            ("long_text", good.text),
            ("base_uom", self.uom()),
            ("net_weight", self.rng.uniform(0, 80)),
            ("cost", Decimal(good.price) / 3),
        ]
        self.open_form("item", ITEMS, lambda: self.rng.choice(edits))

    def price(self) -> None:
        if row := self.some(ITEMS):
            self.set("item", "price", Decimal(self.rng.randint(1, 99_999_999)) / 10_000, row[0])

    def stock(self) -> None:
        if row := self.some(STOCK):
            with self.transaction() as tx:
                tx.write(
                    "stock_level u",
                    f"UPDATE stock_level SET quantity = %s, counted = now() AT TIME ZONE 'Asia/Shanghai', write_date = {NOW} WHERE id = %s",
                    (self.rng.uniform(0, 5000) if self.rng.random() < 0.3 else float(self.rng.randint(0, 5000)), row[0]),
                )

    # ---- orders: what the CRM sold, carried on --------------------------------------------------------------------------
    def confirm(self) -> None:
        """Totals in one transaction, the state in the next."""
        if row := self.some(DRAFTS, 0.5):
            self.total(row[0])
            self.after(self.rng.uniform(0.01, 0.3), lambda: self.state(row[0], "draft", "confirmed"))
            self.forget(DRAFTS)

    def total(self, order: int) -> None:
        with self.transaction() as tx:
            found = tx.one(
                'SELECT coalesce(sum(round(quantity::numeric * price * (1 - discount), 2)), 0) FROM order_line WHERE "order" = %s',
                (order,),
            )
            assert found is not None
            untaxed: Decimal = found[0]
            tax = (untaxed * Decimal("0.19")).quantize(Decimal("0.01"))
            tx.write(
                "order u",
                f'UPDATE "order" SET untaxed = %s, tax = %s, total = %s, write_date = {NOW} WHERE id = %s',
                (untaxed, tax, untaxed + tax, order),
            )

    def state(self, order: int, before: str, after: str) -> None:
        with self.transaction() as tx:
            tx.write("order u", f'UPDATE "order" SET state = %s, write_date = {NOW} WHERE id = %s AND state = %s', (after, order, before))

    def deliver(self) -> None:
        """Every line is delivered and taken from stock; the totals are computed again, since lines may have changed."""
        if (row := self.some(CONFIRMED, 0.5)) is None:
            return
        if self.rng.random() < 0.05:
            self.state(row[0], "confirmed", "cancelled")
        else:
            with self.transaction() as tx:
                tx.write(
                    "order_line u",
                    f'UPDATE order_line SET delivered = quantity, write_date = {NOW} WHERE "order" = %s AND delivered <> quantity',
                    (row[0],),
                )
                tx.write(
                    "stock_level u",
                    f"UPDATE stock_level SET quantity = stock_level.quantity - taken.quantity, write_date = {NOW}"
                    ' FROM (SELECT item, sum(quantity) AS quantity FROM order_line WHERE "order" = %s GROUP BY item) AS taken'
                    " WHERE stock_level.item = taken.item AND stock_level.warehouse = 'MAIN'",
                    (row[0],),
                )
                tx.write(
                    "order u", f"UPDATE \"order\" SET state = 'sent', write_date = {NOW} WHERE id = %s AND state = 'confirmed'", (row[0],)
                )
            self.after(self.rng.uniform(0.01, 0.2), lambda: self.total(row[0]))
        self.forget(CONFIRMED)

    # ---- invoices -----------------------------------------------------------------------------------------------------
    def bill(self) -> None:
        if row := self.some(SENT, 0.5):
            with self.transaction() as tx:
                if not tx.write(
                    "order u", f"UPDATE \"order\" SET state = 'done', write_date = {NOW} WHERE id = %s AND state = 'sent'", (row[0],)
                ):
                    return
                found = tx.one('SELECT customer, untaxed FROM "order" WHERE id = %s', (row[0],))
                assert found is not None
                key = self.header(tx.create, found[0], row[0])
            self.forget(SENT)
            self.after(self.rng.uniform(0.01, 0.3), lambda: self.invoice_totals(key, found[1]))

    def loose_invoice(self) -> None:
        """An invoice without an order: a service, a fee."""
        if row := self.some(PARTNERS):
            with self.transaction() as tx:
                key = self.header(tx.create, row[0], None)
            if self.rng.random() < 0.8:
                amount = Decimal(self.rng.randint(100, 9_999_999)) / 100
                self.after(self.rng.uniform(0.01, 0.5), lambda: self.invoice_totals(key, amount))

    def header(self, create: Callable[..., Any], partner: int, order: int | None) -> int:
        key: int = create(
            "invoice c",
            'INSERT INTO invoice (partner, "order", state, invoice_date, untaxed, tax, total, journal, create_date, write_date)'
            f" VALUES (%s, %s, 'D', current_date, 0, 0, 0, 1, {NOW}, {NOW}) RETURNING id",
            (partner, order),
        )
        return key

    def invoice_totals(self, invoice: int, untaxed: Decimal) -> None:
        tax = (untaxed * Decimal("0.19")).quantize(Decimal("0.0001"))  # four decimals here, two in the CRM
        with self.transaction() as tx:
            hit = tx.write(
                "invoice u",
                f"UPDATE invoice SET untaxed = %s, tax = %s, total = %s, write_date = {NOW} WHERE id = %s AND state = 'D'",
                (untaxed, tax, untaxed + tax, invoice),
            )
        if hit:
            self.after(self.rng.uniform(0.01, 0.5), lambda: self.post(invoice))

    def post(self, invoice: int) -> None:
        with self.transaction() as tx:
            tx.write(
                "invoice u",
                "UPDATE invoice SET state = 'P', number = 'R' || nextval('invoice_number_seq'), due_date = invoice_date + %s,"
                f" write_date = {NOW} WHERE id = %s AND state = 'D'",
                (self.rng.choice([0, 14, 30, 60]), invoice),
            )

    def collect(self) -> None:
        if row := self.some(POSTED, 0.5):
            self.set("invoice", "state", "X" if self.rng.random() < 0.05 else "C", row[0])
            self.forget(POSTED)

    def drop_draft(self) -> None:
        """A draft that nobody needs is deleted, not cancelled."""
        if row := self.some(LOOSE_DRAFTS, 0.5):
            with self.transaction() as tx:
                tx.write("invoice d", "DELETE FROM invoice WHERE id = %s AND state = 'D'", (row[0],))
            self.forget(LOOSE_DRAFTS)

    # ---- by the clock -------------------------------------------------------------------------------------------------
    def twin(self, at: int) -> None:
        self.enter("customer", twin_tax_id(self.seed, at))

    def clash(self, at: int) -> None:
        company = self.people.companies[(at + 1) % len(self.people.companies)]
        column, value = [
            ("telephone", company.phone), ("city", company.city), ("legal_name", f"{company.name} (ERP)"), ("class", "B"),
        ][at % 4]  # fmt: skip
        with self.transaction() as tx:
            tx.write(
                "business_partner u",
                f"UPDATE business_partner SET {column} = %s, write_date = {NOW} WHERE tax_id = %s",
                (value, shared_tax_id(at % HOT)),
            )

    def bulk(self, at: int) -> None:
        """Stock-taking, or a new discount class: a thousand rows in one transaction."""
        table, change = [
            ("stock_level", "quantity = quantity + 1, counted = now() AT TIME ZONE 'Asia/Shanghai'"),
            ("business_partner", f"class = '{self.klass()}'"),
        ][at // 7 % 2]
        with self.transaction() as tx:
            tx.write(
                f"{table} u",
                f"WITH chosen AS (SELECT id FROM {table} ORDER BY id LIMIT %s FOR UPDATE)"
                f" UPDATE {table} SET {change}, write_date = {NOW} FROM chosen WHERE {table}.id = chosen.id",
                (BULK_ROWS,),
            )

    # ---- what people type -----------------------------------------------------------------------------------------------
    def company(self) -> Company:
        return self.rng.choice(self.people.companies)

    def mail(self, company: Company) -> str:
        return f"office.{self.unique()}@{company.domain}"

    def limit(self) -> Decimal | None:
        return Decimal(self.rng.randint(0, 2_000_000)) / 8 if self.rng.random() < 0.95 else None  # three decimals here, two in the CRM

    def klass(self) -> str:
        return self.rng.choice(["A", "B", "C", "C"])

    def days(self) -> int:
        return self.rng.choice([0, 14, 30, 60])

    def function(self) -> int:
        return self.rng.choice([1, 2, 3, 9])

    def uom(self) -> str:
        return self.rng.choice(["PCE", "PCE", "KGM", "MTR", "LTR"])


if __name__ == "__main__":
    sys.exit(main(Erp))
