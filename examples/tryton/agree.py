"""Do the CRM and Tryton's own client say the same? Another opinion than `concord verify`: Tryton is asked through its client library, the
CRM by hand-written SQL, and things are told by what people tell them by: numbers, article numbers, e-mail addresses.

    {entity: {name: facts}} from either side, in one form
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import psycopg
from psycopg.rows import dict_row

from examples.reference.agree import Agreement

Facts = dict[str, dict[Any, Any]]
STATUS = {
    "draft": "new",
    "quotation": "confirmed",
    "confirmed": "confirmed",
    "processing": "confirmed",
    "done": "invoiced",
    "cancelled": "cancelled",
}
INVOICE_STATUS = {"draft": "draft", "validated": "draft", "posted": "open", "paid": "paid", "cancelled": "void"}
SHOWN = 60  # characters of a value in a message

CUSTOMERS = """
    SELECT customer_no AS number, name, is_active AS active, vat_number AS tax_id, email, phone, website, billing_street AS street,
           billing_zip AS zip, billing_city AS city, billing_country::text AS country, payment_terms AS terms
    FROM account WHERE type = 'customer'"""
CONTACTS = """
    SELECT account.customer_no AS customer, concat_ws(' ', first_name, last_name) AS name, contact.email, contact.phone
    FROM contact JOIN account ON account.id = account_id"""
PRODUCTS = """
    SELECT sku, name, description, is_active AS active, list_price AS price, unit,
           (SELECT sum(on_hand) FROM stock_level WHERE product_id = product.id) AS on_hand
    FROM product"""
ORDERS = """
    SELECT sales_order.id, order_no AS number, customer_ref AS reference, customer_no AS customer, status, currency::text, net_total AS net,
           tax_total AS tax, gross_total AS gross
    FROM sales_order JOIN account ON account.id = account_id"""
LINES = """
    SELECT order_id, line_no AS line, sku, quantity, round(unit_price * (1 - discount_pct / 100), 4) AS price, delivered
    FROM order_line JOIN product ON product.id = product_id"""
INVOICES = """
    SELECT invoice_no AS number, invoice.status, customer_no AS customer, invoice.net_total AS net, invoice.tax_total AS tax,
           invoice.gross_total AS gross, order_no AS order
    FROM invoice JOIN account ON account.id = invoice.account_id LEFT JOIN sales_order ON sales_order.id = order_id"""


def compare(crm: Facts, tryton: Facts) -> dict[str, Agreement]:
    """Entity by entity. A customer whose account was deleted in the CRM stays in Tryton, inactive."""
    found = {}
    for entity, there in tryton.items():
        here, agreement = crm[entity], Agreement()
        for name in sorted({*here, *there}, key=str):
            agreement.things += 1
            if name in here and name in there:
                if here[name] == there[name]:
                    agreement.equal += 1
                else:
                    agreement.differing.append(f"{entity} {name}: {in_words(here[name], there[name])}")
            elif entity == "customer" and not (here if name in here else there)[name]["active"]:
                agreement.deleted += 1  # there; or merged into another in Tryton
            else:
                agreement.missing.append(f"{entity} {name}: not in {'Tryton' if name in here else 'the CRM'}")
        found[entity] = agreement
    return found


def in_words(ours: Any, theirs: Any) -> str:
    if not isinstance(ours, Mapping):
        return f"{ours!r} in the CRM, {theirs!r} in Tryton"
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    return "; ".join(
        f"{name}: {in_words(ours[name], theirs[name])}"
        if isinstance(ours.get(name), Mapping) and isinstance(theirs.get(name), Mapping)
        else f"{name} is {ours.get(name)!r:.{SHOWN}} in the CRM, {theirs.get(name)!r:.{SHOWN}} in Tryton"
        for name in names
    )


# ---- what either side says


def crm_says(conn: psycopg.Connection[Any]) -> Facts:
    def ask(query: str) -> list[dict[str, Any]]:
        return conn.cursor(row_factory=dict_row).execute(query.encode()).fetchall()

    lines: dict[Any, dict[Any, Any]] = {}
    for line in ask(LINES):
        lines.setdefault(line.pop("order_id"), {})[line["line"]] = line_facts(line)
    orders = ask(ORDERS)
    return {
        "customer": {row["number"]: customer(row) for row in ask(CUSTOMERS)},
        "contact": counted(contact(row) for row in ask(CONTACTS)),
        "product": {row["sku"]: product(row) for row in ask(PRODUCTS)},
        "sales_order": {
            row["number"]: {**order(row), "lines": lines.get(row["id"], {}), "status": row["status"]} for row in orders if row["number"]
        },
        "draft": counted((row["customer"], row["reference"], len(lines.get(row["id"], {}))) for row in orders if not row["number"]),
        "invoice": {row["number"]: {**invoice(row), "status": row["status"]} for row in ask(INVOICES)},
    }


def tryton_says(told: Mapping[str, Any]) -> Facts:
    """`told`: by `look`."""
    sales = told["sales"]
    return {
        "customer": {row["number"]: customer(row) for row in told["customers"]},
        "contact": counted(contact(row) for row in told["contacts"]),
        "product": {row["sku"]: product(row) for row in told["products"]},
        "sales_order": {
            row["number"]: {
                **order(row if row["state"] in ("processing", "done") else {**row, "net": None, "tax": None, "gross": None}),
                "lines": {line["line"]: line_facts(line) for line in row["lines"]},
                "status": "shipped" if (row["state"], row["shipment_state"]) == ("processing", "sent") else STATUS[row["state"]],
            }
            for row in sales
            if row["number"]
        },
        "draft": counted((row["customer"], row["reference"], len(row["lines"])) for row in sales if not row["number"]),
        "invoice": {row["number"]: {**invoice(row), "status": INVOICE_STATUS[row["state"]]} for row in told["invoices"]},
    }


def counted(things: Any) -> dict[Any, Any]:
    """Things without a name of their own: each with how often it is there."""
    found: dict[Any, Any] = {}
    for thing in things:
        found[thing] = found.get(thing, 0) + 1
    return found


def customer(row: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: words(row[name]) for name in ("name", "email", "phone", "website", "street", "zip", "city", "tax_id")}
    return {**texts, "active": row["active"], "country": row["country"], "terms": row["terms"]}


def contact(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        row["customer"],
        words(row["name"]),
        (words(row["email"]) or "").lower(),
        words(row["phone"]),
    )  # e-mail is what they are matched on


def product(row: Mapping[str, Any]) -> dict[str, Any]:
    facts = {name: row[name] for name in ("active", "unit")}
    return {
        **facts,
        "name": words(row["name"]),
        "description": words(row["description"]),
        "price": money(row["price"]),
        "on_hand": amount(row["on_hand"]),
    }


def order(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("reference", "customer", "currency")} | {
        name: money(row[name]) for name in ("net", "tax", "gross")
    }


def line_facts(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"sku": row["sku"], **{name: amount(row[name]) for name in ("quantity", "price", "delivered")}}


def invoice(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("customer", "order")} | {name: money(row[name]) for name in ("net", "tax", "gross")}


def words(text: str | None) -> str | None:
    return " ".join(text.split()) or None if text else None


def money(value: Any) -> Decimal | None:
    """With two decimals, as the CRM holds it."""
    return None if value in (None, "None") else Decimal(str(value)).quantize(Decimal("0.01"), ROUND_HALF_UP)


def amount(value: Any) -> Decimal:
    """None and zero are the same: nothing."""
    return Decimal(0) if value in (None, "None") else Decimal(str(value)).normalize() + 0


def shipped_as_agreed(told: Mapping[str, Any]) -> list[str]:
    """Sales that Tryton says are shipped, with a line of which another quantity was: somebody changed it behind the clerk's back."""
    return [
        f"sale {sale['number']}: {line['delivered']} of {line['quantity']} {line['sku']} delivered, and it is said to be shipped"
        for sale in told["sales"]
        if sale["shipment_state"] == "sent"
        for line in sale["lines"]
        if amount(line["delivered"]) != amount(line["quantity"])
    ]
