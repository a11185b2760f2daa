"""Tryton's order desk at work: sales drafted elsewhere are quoted, confirmed, shipped, invoiced and paid, by the buttons a clerk clicks.

    draft ─ choose party and products again, as the form does ─▶ quotation ─ unchanged since? ─▶ confirmed, processing
                                                                    │ changed: back to draft
    processing ─ assign ▶ pick ▶ pack ▶ ship ▶ do ─▶ shipped ─ post ─▶ invoiced ─ pay ─▶ done

    TRYTOND_DATABASE_URI=postgresql://… TRYTOND_CONFIG=trytond.conf .concord/tryton-venv/bin/python -m examples.tryton.orders --people FILE

Runs in Tryton's virtual environment and knows nothing of Concord. What a draft row lacks (addresses, payment term, taxes) is what Tryton's
form computes when a party or a product is chosen. A draft is taken when nobody has touched it for a moment; whoever drafts sees that it is
quoted and leaves it alone from then on. What came in between is seen before it is confirmed.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from examples.tryton.desk import Desk, at_work, connect, parser, people_of

QUIET_SECONDS = 2.0  # untouched for so long: a draft is complete
SETTLED_SECONDS = 3.0  # between quotation and confirmation: what was changed before the drafter saw the quotation has come by then
CANCELLED = 0.06  # of the quotations
Step = Callable[[Any], None]


class Orders(Desk):
    """One step of one sale at a time, the furthest first."""

    name = "orders"

    def __init__(self, rng: random.Random, people: Any) -> None:
        super().__init__(rng, people)
        self.quoted: dict[int, tuple[float, Any]] = {}  # sale → when, and its lines as they were then
        self.payment_method = self.model("account.invoice.payment.method").find([])[0]

    def act(self) -> None:
        self.retried(self.next_step)

    def next_step(self) -> None:
        for find, step in ((self.to_pay, self.pay), (self.to_ship, self.ship), (self.to_confirm, self.confirm), (self.drafts, self.quote)):
            if found := find():
                step(self.model("sale.sale")(self.rng.choice(found).id))
                return

    def done(self, what: str) -> None:
        self.actions[what] += 1

    def sales(self, *domain: Any) -> list[Any]:
        return list(self.model("sale.sale").find(list(domain), limit=50))

    # ---- quote
    def drafts(self) -> list[Any]:
        before = self.now() - timedelta(seconds=QUIET_SECONDS)
        return [
            sale
            for sale in self.sales(("state", "=", "draft"), ("create_date", "<", before))
            if sale.lines and max(self.touched(record) for record in (sale, *sale.lines)) < before
        ]

    def now(self) -> datetime:
        """Tryton's own: UTC without a zone."""
        return datetime.utcnow()

    def touched(self, record: Any) -> datetime:
        told: datetime = record.write_date or record.create_date
        return told

    def quote(self, sale: Any) -> None:
        """What the form fills in when a person chooses party and products; the prices are what was agreed."""
        party, sale.party = sale.party, None
        sale.party = party
        if not sale.invoice_address:
            return self.ask_for_address(party)
        for line in sale.lines:
            price, product, line.product = line.unit_price, line.product, None
            line.product = product
            line.unit_price = price
        sale.save()
        sale.click("quote")
        self.quoted[sale.id] = (time.monotonic(), self.agreed(sale))
        self.done("quote")
        return None

    def agreed(self, sale: Any) -> Any:
        return sorted((line.id, line.product.id, line.quantity, line.unit_price) for line in sale.lines)

    def ask_for_address(self, party: Any) -> None:
        """A customer without an address cannot be invoiced: the clerk asks for it and enters it."""
        company = self.rng.choice(self.people["companies"])
        address = party.addresses.new()
        address.street_unstructured, address.city = company["street"], self.text(company["city"])
        party.save()
        self.done("ask for address")

    # ---- confirm
    def to_confirm(self) -> list[Any]:
        now = time.monotonic()
        for sale in self.sales(("state", "=", "quotation")):
            self.quoted.setdefault(sale.id, (now, self.agreed(sale)))  # by somebody who is gone
        due = [key for key, (at, _) in self.quoted.items() if at + SETTLED_SECONDS < now]
        return self.sales(("id", "in", due), ("state", "=", "quotation"))

    def confirm(self, sale: Any) -> None:
        _, agreed = self.quoted[sale.id]
        if self.agreed(sale) != agreed:
            sale.click("draft")
            self.done("back to draft")
        elif self.rng.random() < CANCELLED:
            sale.click("cancel")
            self.done("cancel")
        else:
            sale.click("confirm")
            self.done("confirm")
        del self.quoted[sale.id]

    # ---- ship
    def to_ship(self) -> list[Any]:
        return self.sales(("state", "=", "processing"), ("shipment_state", "in", ["waiting", "partially shipped"]))

    def ship(self, sale: Any) -> None:
        for shipment in sale.shipments:
            if shipment.state == "waiting":
                shipment.click("assign_try")
                if shipment.state == "waiting":
                    shipment.click("assign_force")  # it is there, though nobody has counted it
            for state, button in (("assigned", "pick"), ("picked", "pack"), ("packed", "ship"), ("shipped", "do")):
                if shipment.state == state:
                    shipment.click(button)
        self.done("ship")

    # ---- invoice
    def to_pay(self) -> list[Any]:
        return self.sales(
            ("state", "=", "processing"), ("shipment_state", "=", "sent"), ("invoice_state", "in", ["pending", "awaiting payment"])
        )

    def pay(self, sale: Any) -> None:
        """Posts what is not posted, then takes the money: two visits."""
        for invoice in sale.invoices:
            if invoice.state in ("draft", "validated"):
                invoice.click("post")
                self.done("post")
            elif invoice.state == "posted":
                wizard = invoice.click("pay")
                wizard.form.payment_method = self.payment_method
                wizard.execute("choice")
                self.done("pay")


def main() -> int:
    args = parser(__doc__).parse_args()
    connect()
    return at_work(Orders(random.Random(f"tryton orders {args.seed}"), people_of(args)), args)


if __name__ == "__main__":
    sys.exit(main())
