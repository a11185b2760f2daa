"""A trading company in a new Tryton database, set up as its own consultants would: through proteus, Tryton's client library.

    currencies ▶ company ▶ countries ▶ chart of accounts, fiscal year, payment term ▶ categories, tax ▶ employee ▶ how customers pay

    TRYTOND_DATABASE_URI=postgresql://… TRYTOND_CONFIG=trytond.conf .concord/tryton-venv/bin/python -m examples.tryton.company

Runs in Tryton's virtual environment, once: the demo keeps the database as a template. Each line that it writes is a step.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

from proteus import Model, config  # type: ignore[import-not-found]  # of Tryton's virtual environment
from trytond.modules.account.tests.tools import (  # type: ignore[import-not-found]
    create_chart,
    create_fiscalyear,
    create_tax,
    get_accounts,
)
from trytond.modules.account_invoice.tests.tools import set_fiscalyear_invoice_sequences  # type: ignore[import-not-found]
from trytond.modules.company.tests.tools import create_company  # type: ignore[import-not-found]

from examples.tryton.desk import connect
from examples.tryton.names import COUNTRIES, CURRENCIES, CUSTOMERS, GOODS, PAYMENT_TERMS, WORKS_FOR

TAX_RATE = Decimal("0.19")


def set_up() -> None:
    """Everything, in the database that proteus is configured for."""
    step("company, currencies, countries")
    currencies()
    company = Model.get("party.party")(name="Muster Handel GmbH")
    company.save()
    create_company(company, "EUR")
    countries()
    step("chart of accounts, fiscal year, tax, payment terms")
    create_chart()
    fiscal_year = set_fiscalyear_invoice_sequences(create_fiscalyear())
    fiscal_year.click("create_period")
    payment_terms()
    step("categories, employee, cash")
    categories()
    employee()
    cash()


def step(name: str) -> None:
    print(name, flush=True)


def currencies() -> None:
    Currency, Rate = Model.get("currency.currency"), Model.get("currency.currency.rate")
    for code, (name, symbol, rate) in CURRENCIES.items():
        currency = Currency(name=name, symbol=symbol, code=code, rounding=Decimal("0.01"))
        currency.save()
        Rate(currency=currency, rate=Decimal(rate), date=date(2000, 1, 1)).save()


def countries() -> None:
    Country = Model.get("country.country")
    Country.save([Country(code=code, name=name) for code, name in COUNTRIES.items()])


def payment_terms() -> None:
    """The one that Tryton does not bring along."""
    term = Model.get("account.invoice.payment_term")(name=PAYMENT_TERMS["net14"])
    term.lines.new(type="remainder").relativedeltas.new(days=14)
    term.save()


def categories() -> None:
    """Of parties: customers are the CRM's business. Of products: where goods are booked. Of relations: who works for whom."""
    Model.get("party.category")(name=CUSTOMERS).save()
    tax = create_tax(TAX_RATE)
    tax.save()
    accounts = get_accounts()
    goods = Model.get("product.category")(name=GOODS, accounting=True)
    goods.account_expense, goods.account_revenue = accounts["expense"], accounts["revenue"]
    goods.customer_taxes.append(tax)
    goods.save()
    RelationType = Model.get("party.relation.type")
    works_for, employs = RelationType(name=WORKS_FOR), RelationType(name="employs")
    RelationType.save([works_for, employs])
    works_for.reverse, employs.reverse = employs, works_for
    RelationType.save([works_for, employs])


def employee() -> None:
    """Who clicks: Tryton writes down who quoted, packed and posted."""
    party = Model.get("party.party")(name="Clerk")
    party.save()
    clerk = Model.get("company.employee")(party=party)
    clerk.save()
    User = Model.get("res.user")
    user = User(config.get_config().user)
    user.employees.append(clerk)
    user.employee = clerk
    user.save()
    context: dict[str, Any] = User.get_preferences(True, {})
    config.get_config()._context = context


def cash() -> None:
    """How customers pay."""
    journal = Model.get("account.journal").find([("type", "=", "cash")])[0]
    account = get_accounts()["cash"]
    Model.get("account.invoice.payment.method")(name="Bank", journal=journal, credit_account=account, debit_account=account).save()


if __name__ == "__main__":
    connect()
    set_up()
