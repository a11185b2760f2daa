"""The reference CRM at work, with an ERP that checks what it is given: tax numbers are valid, and who has quoted an order owns its lines.

python -m examples.tryton.crm_app --dsn postgresql://… --rate 30 --seconds 60 --seed 1
"""

from __future__ import annotations

import sys
from decimal import Decimal
from uuid import UUID

from examples.reference.crm_app import CUSTOMERS, WALK_INS, Crm
from examples.reference.load import Maker
from examples.reference.workload import Transaction, main
from examples.tryton.vat import CRM, CRM_LATER, SHARED, TWIN, german_vat

CLASHES = 25  # customers that both sides edit at once
ALONE = " AND ".join(f"NOT EXISTS (SELECT 1 FROM {table} WHERE account_id = account.id)" for table in ("contact", "sales_order", "invoice"))


class Sellers(Crm):
    """The CRM's users."""

    open_orders = "SELECT id FROM sales_order WHERE status = 'new' ORDER BY created_at DESC LIMIT 200"
    settled = ("unit",)  # Tryton counts stock in it
    weights = {**Crm.weights, "renumber": 0.5}  # noqa: RUF012 - never changed

    def is_ours(self, tx: Transaction, order: UUID) -> bool:
        """Until the ERP has quoted it. Locked, so that the answer still holds when we write."""
        return tx.one("SELECT 1 FROM sales_order WHERE id = %s AND status = 'new' FOR UPDATE", (order,)) is not None

    def new_customer(self) -> None:
        vat = None if self.rng.random() < 0.25 else self.vat()
        self.enter("customer", vat)
        self.forget(CUSTOMERS if vat else WALK_INS)

    def vat(self) -> str:
        return german_vat(CRM_LATER, int(self._run, 16) * 10 + next(self._unique))

    def win_prospect(self) -> None:
        if row := self.some("SELECT id FROM account WHERE type = 'prospect'"):
            with self.transaction() as tx:
                tx.write(
                    "account u",
                    "UPDATE account SET type = 'customer', vat_number = %s, updated_at = clock_timestamp()"
                    " WHERE id = %s AND type = 'prospect'",
                    (self.vat(), row[0]),
                )

    def delete_walk_in(self) -> None:
        """Only who has no contact, no order and no invoice."""
        if row := self.some(f"{WALK_INS} AND {ALONE}"):
            with self.transaction() as tx:
                tx.write("account d", f"DELETE FROM account WHERE id = %s AND vat_number IS NULL AND {ALONE}", (row[0],))

    def renumber(self) -> None:
        """Somebody writes what is Tryton's to decide: it will be put right."""
        if row := self.some("SELECT id FROM account WHERE type = 'customer' AND customer_no IS NOT NULL"):
            self.update("account", "customer_no", f"X{self.unique()}", row[0])

    def quantity(self) -> Decimal:
        """Whole ones: a piece cannot be cut."""
        return Decimal(self.rng.randint(1, 40))

    # ---- by the clock
    def twin(self, at: int) -> None:
        self.enter("customer", german_vat(TWIN, at))

    def clash(self, at: int) -> None:
        company = self.people.companies[at % len(self.people.companies)]
        column, value = [
            ("phone", company.phone),
            ("billing_city", company.city),
            ("name", f"{company.name} (CRM)"),
            ("email", self.mail(company)),
        ][at % 4]
        with self.transaction() as tx:
            tx.write(
                "account u",
                f"UPDATE account SET {column} = %s, updated_at = clock_timestamp() WHERE vat_number = %s",
                (value, german_vat(SHARED, at % CLASHES)),
            )


class Loaded(Maker):
    """What the CRM holds before anything is synchronised."""

    def tax_id(self, n: int) -> str:
        return german_vat(SHARED, n) if n < self.shared else german_vat(CRM, n)

    def quantity(self) -> Decimal:
        return Decimal(self.rng.randint(1, 60))


if __name__ == "__main__":
    sys.exit(main(Sellers))
