"""Does Tryton go on by itself? What it saves next gets the next numbers, and nobody saves over what was written since he read it.

    TRYTOND_DATABASE_URI=postgresql://… TRYTOND_CONFIG=trytond.conf .concord/tryton-venv/bin/python -m examples.tryton.go_on --party 4711

Reads that party, says so, and waits for a line on standard input: in between the CRM changes it. Runs in Tryton's virtual environment and
knows nothing of Concord.
"""

from __future__ import annotations

import sys
from decimal import Decimal

from proteus import Model  # type: ignore[import-not-found]  # of Tryton's virtual environment
from trytond.exceptions import ConcurrencyException  # type: ignore[import-not-found]

from examples.tryton.desk import connect, parser, say
from examples.tryton.names import GOODS


def next_numbers() -> dict[str, str]:
    """Of a party, and of a sale to it of a new product."""
    party = Model.get("party.party")(name="The next one")
    party.addresses[0].city = "Ulm"
    party.save()
    party.reload()
    template = Model.get("product.template")(name="The next one", salable=True)
    template.default_uom = Model.get("product.uom").find([("name", "=", "Unit")])[0]
    template.account_category = Model.get("product.category").find([("name", "=", GOODS)])[0]
    template.list_price = Decimal(1)
    template.products[0].suffix_code = "NEXT"
    template.save()
    sale = Model.get("sale.sale")(party=party)
    line = sale.lines.new(product=template.products[0])
    line.quantity, line.unit_price = 1.0, Decimal(1)
    sale.click("quote")
    return {"party": party.code, "sale": sale.number, "product": template.products[0].code}


def saves_over(code: str) -> bool:
    """Whether Tryton saves a form over what has been written to the party since it was read."""
    party = Model.get("party.party").find([("code", "=", code)])[0]
    name = party.name
    say(read=name)
    sys.stdin.readline()
    party.name = f"{name} (stale)"
    try:
        party.save()
    except ConcurrencyException:
        return False
    return True


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--party", required=True, help="its number")
    args = options.parse_args()
    connect()
    saved = saves_over(args.party)
    say(saved_over=saved, **next_numbers())
    return 0


if __name__ == "__main__":
    sys.exit(main())
