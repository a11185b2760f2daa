"""The reference CRM at work, only its accounts: what Tryton's parties are kept in agreement with so far."""

from __future__ import annotations

import sys
from typing import Any

from examples.reference.crm_app import Crm
from examples.reference.workload import main


class Accounts(Crm):
    """The CRM's users, as far as they work on accounts."""

    weights = {  # noqa: RUF012 - never changed
        "new_customer": 8,
        "new_prospect": 2,
        "win_prospect": 2,
        "edit_account": 20,
        "form_account": 10,
        "delete_walk_in": 1,
        "deactivate": 2,
        "renumber": 0.5,
    }

    def account_edit(self) -> tuple[str, Any]:
        """Names more often than in real life: they are what is synchronised."""
        if self.rng.random() < 0.6:
            return "name", f"{self.company().name} {self.rng.randint(2, 99)}"
        return super().account_edit()

    def renumber(self) -> None:
        """Somebody writes what is Tryton's to decide: it will be put right."""
        if row := self.some("SELECT id FROM account WHERE type = 'customer' AND customer_no IS NOT NULL"):
            self.update("account", "customer_no", f"X{self.unique()}", row[0])

    def twin(self, at: int) -> None:
        """Parties have no tax id here, so the two sides have nothing to tell by that it is the same customer."""

    def clash(self, at: int) -> None:
        """None: no customer is on both sides from the start."""


if __name__ == "__main__":
    sys.exit(main(Accounts))
