"""`StreamsWorld` with an entity that lies in several tables of the ERP."""

from __future__ import annotations

from typing import Any

from schemas.change import Op
from tests.streams.streams_world import StreamsWorld

_ACCOUNT = {"id": "integer", "vat": "text", "name": "text", "street": "text", "turnover": "numeric", "class": "text"}
_PARTY = {"id": "integer", "name": "text", "group": "integer"}
_IDENTIFIER = {"id": "integer", "party": "integer!", "type": "text!=", "code": "text!="}
_ADDRESS = {"id": "integer", "party": "integer!", "street": "text", "sequence": "integer"}
_GROUP = {"id": "integer", "name": "text", "active": "boolean!="}
_SALE = {"id": "integer", "party": "integer!", "amount": "numeric"}


class JoinedWorld(StreamsWorld):
    """CRM account ⇄ ERP party with its address, its tax number (what they are matched on), its group and what was sold to it."""

    def described(self) -> dict[str, dict[str, dict[str, str]]]:
        parts = {"party": _PARTY, "identifier": _IDENTIFIER, "address": _ADDRESS, "group": _GROUP, "sale": _SALE}
        return {self.crm: {"account": _ACCOUNT}, self.erp: parts}

    def entities(self) -> dict[str, Any]:
        parts = {
            "tax": {"table": "identifier", "child": "party", "where": {"type": "vat"}},
            "address": {"table": "address", "child": "party", "first_by": ["sequence"]},
            "group": {"table": "group", "parent": "group"},
            "sales": {"table": "sale", "child": "party", "aggregate": {"total": {"sum": "amount"}}},
        }
        fields = {
            "tax_id": {self.crm: "vat", self.erp: "tax.code"},
            "name": {self.crm: "name", self.erp: "name"},
            "street": {self.crm: "street", self.erp: "address.street"},
            "class": {self.crm: "class", self.erp: "group.name"},
            "turnover": {self.crm: "turnover", self.erp: "sales.total", "owner": self.erp},
        }
        erp = {"table": "party", "parts": parts, "where": {"group.active": [True, None]}}
        return {self.customer: {self.crm: {"table": "account"}, self.erp: erp, "match_on": ["tax_id"], "fields": fields}}

    def party(self, id: int, op: str = "c", name: str = "Acme", group: int | None = None, **more: Any) -> None:
        self.event(self.erp, "party", op, {"id": id, "name": name, "group": group}, **more)

    def acme(self) -> None:
        """Party 1 with its address 11 and its VAT number 21, in one transaction."""
        together = self.transaction()
        self.party(1, **together)
        self.address(11, 1, "Main 1", **together)
        self.tax(21, 1, "DE1", **together)

    def tax(self, id: int, party: int, code: str, op: str = "c", type: str = "vat", **more: Any) -> None:
        self.event(self.erp, "identifier", op, {"id": id, "party": party, "type": type, "code": code}, **more)

    def address(self, id: int, party: int, street: str | None, op: str = "c", sequence: int | None = None, **more: Any) -> None:
        self.event(self.erp, "address", op, {"id": id, "party": party, "street": street, "sequence": sequence}, **more)

    def group(self, id: int, name: str, op: str = "c", active: bool = True, **more: Any) -> None:
        self.event(self.erp, "group", op, {"id": id, "name": name, "active": active}, **more)

    def sale(self, id: int, party: int, amount: str, op: str = "c", **more: Any) -> None:
        self.event(self.erp, "sale", op, {"id": id, "party": party, "amount": amount}, **more)

    def told(self, key: str) -> list[tuple[Op, Any]]:
        return [(change.op, change.values) for _, change in self.changes() if change.key == key and change.system == self.erp]
