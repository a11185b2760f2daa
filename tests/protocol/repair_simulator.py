"""Random histories in which systems come apart behind Concord's back, and an operator has them repaired, while everything runs.

What is done behind its back: a field of a row changed without a trace in the log, or under our own origin; a row deleted, or a deleted one
put back, without a trace. Repairs are sent at any time, also for what is only in flight; when nothing is in flight, for all that differs,
as often as that takes. Then both systems must be equal. Where nothing is done behind its back, `verdict` judges the history as ever: of
what users did nothing may be lost by a repair. Else it does not: images of rows do not say whose a value is.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from schemas.repair import Repair, SeenRow
from tests.protocol.protocol_simulator import SYSTEMS, Database, Row, World

ROUNDS = 4  # a repair may meet what another one sets off: a parent that comes back, a value that is let go


class RepairWorld(World):
    def __init__(self, seed: int, features: tuple[str, ...] = (), tampering: float = 0.15, repairing: float = 0.3, **more: Any) -> None:
        super().__init__(seed, features=features, **more)
        self.tampering, self.repairing = tampering, repairing
        self.repairs = self.tampered = 0
        self.at_last = False

    # ---- what happens ------------------------------------------------------------------------------------------------
    def user(self) -> None:
        super().user()
        if self.rng.random() < self.tampering:
            self.tamper(self.db[self.rng.choice(SYSTEMS)])
        if self.rng.random() < self.repairing:
            things = self.coming_apart()
            if things:
                self.repair(*self.rng.choice(things))

    def tamper(self, d: Database) -> None:
        """Only with rows that are known: one that nobody knows is no repair's affair."""
        r, rows = self.rng, d.rows["customer"]
        known = [key for key in rows if ("customer", d.name, key) in d.crosswalk]
        dice = r.random()
        if dice < 0.6 and known:
            key = r.choice(known)
            row = rows[key]
            fields = ("name", "limit", "city") if d.name == "crm" else ("name", "city")  # what changes the owner's own there is news
            row[r.choice(fields)] = self.fresh("t", d, "name")
            if r.random() < 0.5:
                self.commit(d, [("customer", key, row)], self.now, origin=1)
        elif dice < 0.8 and not self.has("refs") and (plain := [key for key in known if not rows[key]["code"]]):
            del rows[r.choice(plain)]  # with a code, a user may enter it again: a duplicate, for a person to decide
        elif not self.has("refs"):
            gone = {event["key"]: event["row"] for event in d.log if event["entity"] == "customer" and event["row"]}
            free = [
                key
                for key, row in gone.items()
                if key not in rows
                and ("customer", d.name, key) in d.crosswalk
                and not (row["code"] and self.taken(d, row["code"]))
                and not self.has_another(d, key)
            ]
            if not free:
                return
            key = r.choice(free)
            rows[key] = dict(gone[key])
        else:
            return
        self.tampered += 1

    # ---- what verify and its repair do -------------------------------------------------------------------------------
    def coming_apart(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """(entity, link, fields) of what differs as the databases are now."""
        found = []
        for e in self.entities:
            for link, rows in self.things(e).items():
                if len(rows) < len(SYSTEMS):
                    if not self.may_be_gone(e, rows):
                        found.append((e, link, ()))
                    continue
                crm, erp = rows["crm"][1], rows["erp"][1]
                fields = tuple(f for f in self.fields(e) if not self.alike(f, crm[f], erp[f]))
                if fields:
                    found.append((e, link, fields))
        return found

    def things(self, entity: str) -> dict[str, dict[str, tuple[str, Row]]]:
        things: dict[str, dict[str, tuple[str, Row]]] = defaultdict(dict)
        for n, d in self.db.items():
            for key, row in d.rows[entity].items():
                link = self.link(n, entity, key)
                if row["in"] and link is not None:
                    things[link][n] = (key, row)
        return things

    def may_be_gone(self, entity: str, rows: dict[str, tuple[str, Row]]) -> bool:
        if entity != "customer":
            return False
        return self.has("ignore") or (self.has("soft") and all(row["active"] is False for _, row in rows.values()))

    def alike(self, name: str, crm: Any, erp: Any) -> bool:
        if name == "customer" and crm and erp:
            return self.same_thing(crm, erp)
        return bool(self.represent("erp", name, crm) == erp)

    def repair(self, entity: str, link: str, fields: tuple[str, ...]) -> None:
        rows = self.things(entity)[link]
        self.now += 1
        self.repairs += 1
        seen = {}
        for n, d in self.db.items():
            if n in rows:
                key, row = rows[n]
                seen[n] = SeenRow(key, {f: row[f] for f in self.fields(entity)})
            else:
                keys = [key for (e, m, key), x in d.crosswalk.items() if (e, m, x) == (entity, n, link)]
                seen[n] = SeenRow(d.keys.get((entity, link), keys[-1] if keys else None), None)
        self.changes[entity].send(link, Repair("operator", self.now, fields, seen).encode())

    def verdict(self) -> str:
        for _ in range(ROUNDS):
            if self.at_last or not (apart := self.coming_apart()):
                break
            for one in apart:
                self.repair(*one)
            if not self.settle(self.parts()):
                return "never settles after a repair"
        return super().verdict()

    def history(self) -> str | None:
        return super().history() if not self.tampered else None

    def taken_away(self) -> str | None:
        return super().taken_away() if not self.tampered else None

    def may_come_back(self, name: str) -> bool:
        """A repair of what is only in flight writes it over, until it is heard of."""
        return True
