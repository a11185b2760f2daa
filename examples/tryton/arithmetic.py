"""What the mapping needs two columns for. Named in `concord.yaml` by import path; a value is a column's text or None."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal


def net_price(unit_price: str | None, discount_pct: str | None) -> str | None:
    """What is charged: Tryton's line has the price after the discount, with four decimals."""
    if unit_price is None:
        return None
    return str((Decimal(unit_price) * (1 - Decimal(discount_pct or 0) / 100)).quantize(Decimal("0.0001"), ROUND_HALF_UP))


def on_hand(received: str | None, sent: str | None) -> str:
    """What came into a location less what left it."""
    return str(Decimal(received or 0) - Decimal(sent or 0))
