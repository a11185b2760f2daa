"""What things are called in the company that `company` sets up; its workloads and the configuration look for these names."""

from __future__ import annotations

CURRENCIES = {"EUR": ("Euro", "€", "1"), "USD": ("U.S. Dollar", "$", "1.08"), "CNY": ("Renminbi", "¥", "7.80")}  # name, symbol, rate
COUNTRIES = {
    "DE": "Germany", "AT": "Austria", "CH": "Switzerland", "CN": "China", "FR": "France",
    "US": "United States", "JP": "Japan", "ES": "Spain", "PL": "Poland", "GB": "United Kingdom",
}  # fmt: skip
# The CRM's code: Tryton's name. Most are what Tryton brings along.
PAYMENT_TERMS = {"prepaid": "Upon Receipt", "net14": "Net 14 days", "net30": "Net 30 days", "net60": "Net 60 days"}
UNITS = {"piece": "Unit", "kilogram": "Kilogram", "metre": "Meter", "litre": "Liter"}
CUSTOMERS = "Customers"  # the category of the parties that are the CRM's business
GOODS = "Goods"  # the category of products that says where they are booked
WORKS_FOR = "works for"  # how a contact is related to its customer
