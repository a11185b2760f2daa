"""Value added tax numbers that Tryton accepts: it checks their check digits. Both sides take theirs from here."""

from __future__ import annotations

# The first of eight digits says who gave the number; the others count.
SHARED, CRM, TRYTON, CRM_LATER, TRYTON_LATER, TWIN = 1, 2, 3, 4, 5, 6


def german_vat(kind: int, number: int) -> str:
    """A valid German number, `DE` and nine digits (ISO 7064, mod 11,10), unlike any other of a smaller `number` or another kind."""
    digits = f"{kind}{number % 10**7:07}"
    product = 10
    for digit in digits:
        product = 2 * ((int(digit) + product) % 10 or 10) % 11
    return f"DE{digits}{(11 - product) % 10}"
