"""Do the CRM and the ERP say the same? Compared by hand-written SQL, not through Concord's mapping: another opinion than `concord verify`.

Only which row is which thing is taken from Concord (`concord.key`). Each query gives a row's key and what the other side must say too, in
one form for both sides; what one side cannot hold exactly (a price of four decimals in numeric(12,2)) is compared as that side holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg

SIDES = ("crm", "erp")
COUNTRY = "CASE country WHEN 'DEU' THEN 'DE' WHEN 'CHN' THEN 'CN' WHEN 'FRA' THEN 'FR' WHEN 'USA' THEN 'US' WHEN 'JPN' THEN 'JP'"
COUNTRY += " WHEN 'ESP' THEN 'ES' WHEN 'POL' THEN 'PL' END"
TERMS = "CASE payment_days WHEN 0 THEN 'prepaid' ELSE 'net' || payment_days END"
ROLE = "CASE \"function\" WHEN 1 THEN 'decider' WHEN 2 THEN 'technical' WHEN 3 THEN 'billing' ELSE 'other' END"
MONEY = "numeric(12,2)"


@dataclass(frozen=True)
class Pair:
    """One entity's two queries: a key, then the columns named in `fields`. A `ref` field holds the other row's key on its side."""

    fields: tuple[str, ...]
    crm: str
    erp: str
    refs: Mapping[str, str] = field(default_factory=dict)  # field → entity
    soft: str | None = None  # the field that is false where the other side's row has been deleted


ENTITIES = {
    "customer": Pair(
        (
            "number",
            "name",
            "tax_id",
            "email",
            "phone",
            "website",
            "street",
            "zip",
            "city",
            "country",
            "segment",
            "terms",
            "credit",
            "active",
        ),
        "SELECT id, customer_no, name, upper(btrim(vat_number)), email, phone, website, billing_street, billing_zip, billing_city,"
        " billing_country::text, segment, payment_terms, credit_limit, is_active FROM account WHERE type = 'customer'",
        "SELECT id, number, legal_name, upper(btrim(tax_id)), mail, telephone, url, street, zip, city,"
        f" {COUNTRY}, CASE class WHEN 'A' THEN 'gold' WHEN 'B' THEN 'silver' ELSE 'bronze' END, {TERMS}, credit_limit::{MONEY}, active"
        " FROM business_partner WHERE kind IN ('customer', 'both')",
        soft="active",
    ),
    "contact": Pair(
        ("customer", "name", "title", "email", "phone", "role", "birthday"),
        "SELECT id, account_id, concat_ws(', ', last_name, first_name), salutation, lower(btrim(email)), phone, role, birthday"
        " FROM contact",
        "SELECT id, partner, name, CASE title WHEN 'Herr' THEN 'mr' WHEN 'Frau' THEN 'ms' WHEN 'Dr.' THEN 'dr' END, lower(btrim(mail)),"
        f" telephone, {ROLE}, birth_date FROM partner_contact",
        refs={"customer": "customer"},
    ),
    "product": Pair(
        ("sku", "name", "description", "unit", "price", "weight", "active"),
        "SELECT id, sku, name, description, unit, list_price, weight_kg, is_active FROM product",
        "SELECT id, item_no, description, long_text, CASE base_uom WHEN 'PCE' THEN 'piece' WHEN 'KGM' THEN 'kilogram'"
        f" WHEN 'MTR' THEN 'metre' ELSE 'litre' END, price::{MONEY}, net_weight::text::numeric(10,3), active FROM item",
        soft="active",
    ),
    "stock_level": Pair(
        ("product", "warehouse", "on_hand", "reserved", "counted_at"),
        "SELECT id, product_id, warehouse, on_hand, reserved, counted_at AT TIME ZONE 'Asia/Shanghai' FROM stock_level",
        "SELECT id, item, warehouse, quantity::text::numeric(12,3), reserved::text::numeric(12,3), counted FROM stock_level",
        refs={"product": "product"},
    ),
    "sales_order": Pair(
        ("number", "customer", "status", "ordered_at", "wanted_on", "currency", "reference", "net", "tax", "gross"),
        "SELECT id, order_no, account_id, status, ordered_at AT TIME ZONE 'Europe/Berlin', wanted_on, currency::text, customer_ref,"
        " net_total, tax_total, gross_total FROM sales_order",
        "SELECT id, \"number\", customer, CASE state WHEN 'draft' THEN 'new' WHEN 'sent' THEN 'shipped' WHEN 'done' THEN 'invoiced'"
        f' ELSE state::text END, order_date, "to", currency::text, "reference", untaxed::{MONEY}, tax::{MONEY},'
        f' total::{MONEY} FROM "order"',
        refs={"customer": "customer"},
    ),
    "order_line": Pair(
        ("order", "line_no", "product", "text", "quantity", "price", "discount", "delivered"),
        "SELECT id, order_id, line_no, product_id, text, quantity, unit_price, discount_pct, delivered FROM order_line",
        'SELECT id, "order", "position", item, description, quantity::text::numeric(12,3), price, discount * 100,'
        " delivered::text::numeric(12,3) FROM order_line",
        refs={"order": "sales_order", "product": "product"},
    ),
    "invoice": Pair(
        ("number", "customer", "order", "status", "issued_on", "due_on", "net", "tax", "gross"),
        "SELECT id, invoice_no, account_id, order_id, status, issued_on, due_on, net_total, tax_total, gross_total FROM invoice",
        "SELECT id, \"number\", partner, \"order\", CASE state WHEN 'D' THEN 'draft' WHEN 'P' THEN 'open' WHEN 'C' THEN 'paid'"
        f" ELSE 'void' END, invoice_date, due_date, untaxed::{MONEY}, tax::{MONEY}, total::{MONEY} FROM invoice",
        refs={"customer": "customer", "order": "sales_order"},
    ),
}


@dataclass
class Agreement:
    """What was found of one entity."""

    things: int = 0
    equal: int = 0
    deleted: int = 0  # gone on one side, and marked so on the other
    differing: list[str] = field(default_factory=list)  # each in words
    missing: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not self.differing and not self.missing

    def in_words(self) -> str:
        """In rich's markup."""
        words = f"{self.equal:,} equal" + (f", {self.deleted} deleted" if self.deleted else "")
        if self.complete:
            return words
        return f"[red]{words}, {len(self.differing)} differing, {len(self.missing)} missing[/]"


def compare(crm: psycopg.Connection[Any], erp: psycopg.Connection[Any]) -> dict[str, Agreement]:
    """Every in-scope row of either side against its partner. Ask when nothing is in flight."""
    links = {side: crosswalk(conn, side) for side, conn in (("crm", crm), ("erp", erp))}
    return {name: compare_entity(name, pair, crm, erp, links) for name, pair in ENTITIES.items()}


def crosswalk(conn: psycopg.Connection[Any], side: str) -> dict[tuple[str, str], str]:
    """(entity, key of this side's row) → link, as this side's own database has it."""
    rows = conn.execute("SELECT entity, key, link FROM concord.key WHERE system = %s", (side,))
    return {(entity, key): link for entity, key, link in rows}


def compare_entity(
    name: str, pair: Pair, crm: psycopg.Connection[Any], erp: psycopg.Connection[Any], links: Mapping[str, Mapping[tuple[str, str], str]]
) -> Agreement:
    found = Agreement()
    rows: dict[str, dict[str, tuple[str, list[Any]]]] = {}
    for side, conn, query in (("crm", crm, pair.crm), ("erp", erp, pair.erp)):
        rows[side] = {}
        for key, *values in conn.execute(query.encode()):
            for at, column in enumerate(pair.fields):
                if column in pair.refs and values[at] is not None:  # which thing it points at, not which row
                    values[at] = links[side].get((pair.refs[column], str(values[at])), f"{side}:{values[at]}")
            link = links[side].get((name, str(key)))
            if link is None:
                found.missing.append(f"{name} {side}:{key} is unknown to Concord")
            elif link in rows[side]:
                found.missing.append(f"{name} {side}:{key} is {link}, and so is {rows[side][link][0]}")
            else:
                rows[side][link] = (str(key), values)
    active = pair.fields.index(pair.soft) if pair.soft else None
    for link in rows["crm"].keys() | rows["erp"].keys():
        found.things += 1
        ours, theirs = rows["crm"].get(link), rows["erp"].get(link)
        if ours and theirs:
            unequal = [f"{column} {a!r} / {b!r}" for column, a, b in zip(pair.fields, ours[1], theirs[1], strict=True) if a != b]
            if unequal:
                found.differing.append(f"{name} crm:{ours[0]} erp:{theirs[0]}: {', '.join(unequal)}")
            else:
                found.equal += 1
        else:
            side, (key, values) = ("crm", ours) if ours else ("erp", theirs or ("", []))
            if active is not None and values[active] is False:
                found.deleted += 1
            else:
                found.missing.append(f"{name} {side}:{key} has no partner")
    return found
