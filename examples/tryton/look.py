"""What Tryton's own client sees, as one JSON line: a second opinion on what is kept in agreement.

    TRYTOND_DATABASE_URI=postgresql://… TRYTOND_CONFIG=trytond.conf .concord/tryton-venv/bin/python -m examples.tryton.look

Runs in Tryton's virtual environment and knows nothing of Concord.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from proteus import Model, config  # type: ignore[import-not-found]  # of Tryton's virtual environment

from examples.tryton import names
from examples.tryton.desk import EVERYTHING, connect, say

Rows = list[dict[str, Any]]


def rows(model: str, domain: Sequence[Any], fields: Sequence[str], **context: Any) -> Rows:
    """As a client reads a list: one request. `party.name` comes in `party.`."""
    read: Rows = Model.get(model)._proxy.search_read(
        list(domain), 0, None, [("id", "ASC")], list(fields), {**config.get_config().context, **context}
    )
    return read


def first(mechanisms: Rows, kind: str) -> str | None:
    return next((mechanism["value"] for mechanism in mechanisms if mechanism["type"] == kind), None)


PARTY = ["code", "name", "active", "contact_mechanisms.type", "contact_mechanisms.value"]


def customers() -> Rows:
    fields = [
        *PARTY, "addresses.street", "addresses.postal_code", "addresses.city", "addresses.country.code", "tax_identifier.code",
        "customer_payment_term.name",
    ]  # fmt: skip
    terms = {name: code for code, name in names.PAYMENT_TERMS.items()}
    found = []
    for party in rows("party.party", [("categories.name", "=", names.CUSTOMERS), ("replaced_by", "=", None), *EVERYTHING], fields):
        address: dict[str, Any] = next(iter(party["addresses."] or []), {})
        mechanisms = party["contact_mechanisms."] or []
        found.append(
            {
                "number": party["code"],
                "name": party["name"],
                "active": party["active"],
                "tax_id": (party["tax_identifier."] or {}).get("code"),
                "email": first(mechanisms, "email"),
                "phone": first(mechanisms, "phone"),
                "website": first(mechanisms, "website"),
                "street": address.get("street"),
                "zip": address.get("postal_code"),
                "city": address.get("city"),
                "country": (address.get("country.") or {}).get("code"),
                "terms": terms.get((party["customer_payment_term."] or {}).get("name", "")),
            }
        )
    return found


def contacts() -> Rows:
    fields = [*PARTY, "relations.type.name", "relations.to.code"]
    found = []
    for person in rows("party.party", [("relations.type.name", "=", names.WORKS_FOR)], fields):
        mechanisms = person["contact_mechanisms."] or []
        employer = next(relation["to."]["code"] for relation in person["relations."] if relation["type."]["name"] == names.WORKS_FOR)
        found.append(
            {"name": person["name"], "customer": employer, "email": first(mechanisms, "email"), "phone": first(mechanisms, "phone")}
        )
    return found


def products() -> Rows:
    units = {name: code for code, name in names.UNITS.items()}
    warehouse = Model.get("stock.location").find([("type", "=", "warehouse")])[0]
    fields = ["code", "name", "description", "active", "list_price_used", "default_uom.name", "quantity"]
    return [
        {
            "sku": product["code"],
            "name": product["name"],
            "description": product["description"],
            "active": product["active"],
            "price": str(product["list_price_used"]),
            "unit": units[product["default_uom."]["name"]],
            "on_hand": str(product["quantity"]),
        }
        for product in rows("product.product", EVERYTHING, fields, locations=[warehouse.id], stock_date_end=None)
    ]


def sales() -> Rows:
    """Those that were drafted elsewhere: by the root user, whose number is 0."""
    fields = [
        "create_uid",
        "number", "reference", "state", "shipment_state", "invoice_state", "currency.code", "party.code", "shipping_date",
        "untaxed_amount", "tax_amount", "total_amount", "lines.sequence", "lines.product.code", "lines.quantity", "lines.unit_price",
        "lines.moves.state", "lines.moves.quantity",
    ]  # fmt: skip
    return [
        {
            "number": sale["number"],
            "reference": sale["reference"],
            "customer": sale["party."]["code"],
            "state": sale["state"],
            "shipment_state": sale["shipment_state"],
            "currency": sale["currency."]["code"],
            "net": str(sale["untaxed_amount"]),
            "tax": str(sale["tax_amount"]),
            "gross": str(sale["total_amount"]),
            "lines": [
                {
                    "line": line["sequence"],
                    "sku": line["product."]["code"],
                    "quantity": str(line["quantity"]),
                    "price": str(line["unit_price"]),
                    "delivered": str(sum(move["quantity"] for move in line["moves."] or [] if move["state"] == "done")),
                }
                for line in sale["lines."] or []
            ],
        }
        for sale in rows("sale.sale", [], fields)
        if sale["create_uid"] == 0
    ]


def invoices() -> Rows:
    fields = ["number", "state", "party.code", "untaxed_amount", "tax_amount", "total_amount", "sales.number", "invoice_date"]
    return [
        {
            "number": invoice["number"],
            "state": invoice["state"],
            "customer": invoice["party."]["code"],
            "net": str(invoice["untaxed_amount"]),
            "tax": str(invoice["tax_amount"]),
            "gross": str(invoice["total_amount"]),
            "order": next((sale["number"] for sale in invoice["sales."] or []), None),
        }
        for invoice in rows("account.invoice", [("type", "=", "out"), ("number", "!=", None)], fields)
    ]


def main() -> int:
    connect()
    errors = [error["summary"] for error in rows("ir.error", [], ["summary"])]
    say(customers=customers(), contacts=contacts(), products=products(), sales=sales(), invoices=invoices(), errors=errors)
    return 0


if __name__ == "__main__":
    sys.exit(main())
