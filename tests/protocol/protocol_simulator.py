"""Two databases, at-least-once streams with crashes between them, and sinks that are exactly once: random histories for the production
steps.

The steps under test are the real ones: `streams.rows` (intake), `streams.claims` (identify), `streams.fold` (merge). Around them
everything is simulated from a seed: what users do, skewed and jumping clocks, who runs next, which step crashes and how far it had come,
replays with and without the table. The sink is the simplest one that keeps DESIGN §4.6. A run ends when nothing is in flight; `verdict`
then says what the databases and their logs must say: both hold the same, no thing twice, no edit un-happened, the owner was never
overruled, nothing that was replaced came back.

`without` takes a rule away, to see that the verdicts notice.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import orjson

from connectors.sink.plan import supersedes
from schemas.change import Canonical, Change, Op, parse_row_name, row_name
from schemas.golden import NEVER, GoldenRecord, Version, golden_from_avro
from schemas.repair import Repair, decode_told
from streams import fold as folding
from streams.claims import on_claim
from streams.fold import Rules, fold
from streams.repaired import repaired
from streams.rows import Place, RowChange, Step, first_link, name_again, on_answer, on_event, on_moved, takes

SYSTEMS = ("crm", "erp")
RANKS = {"crm": 1, "erp": 2}
PARTITIONS = 2
CUSTOMER = ("code", "name", "limit", "city")  # code is what rows are matched on
ORDER = ("customer", "note")
OUTPUTS_FIRST = "outputs-first"

ALONE = tuple((feature,) for feature in ("generated", "soft", "ignore", "scope", "refs", "toast", "lossy", "early"))
# what a run may have besides plain rows; late: intake maps the field `city` from some moment on, and then every row is read again
FEATURES = (
    "codes",
    "generated",
    "soft",
    "ignore",
    "scope",
    "refs",
    "toast",
    "lossy",
    "rekey",
    "born",
    "calm",
    "early",
    "late",
    "gap",
    "twins",
    "empty",
)
# what may be taken away
RULES = (
    OUTPUTS_FIRST,
    "claim",
    "crosswalk",
    "replica",
    "position",
    "diff",
    "echo",
    "hlc-seen",
    "hlc-last",
    "first-sight",
    "owner",
    "count",
    "level",
    "applied",
    "adopt",
    "guard",
    "heard",
    "visible",
    "one-row",
)

Row = dict[str, Any]


class Database:
    def __init__(self, name: str, skew: int) -> None:
        self.name, self.skew = name, skew
        self.rows: dict[str, dict[str, Row]] = {"customer": {}, "order": {}}
        self.next_key = 1
        self.log: list[dict[str, Any]] = []
        self.born: set[str] = set()
        self.unread: list[tuple[str, str]] = []  # what the snapshot has still to read
        self.crosswalk: dict[tuple[str, str, str], str] = {}  # (entity, system, key) -> link
        self.keys: dict[tuple[str, str], str] = {}  # (entity, link) -> our row
        self.applied: dict[tuple[str, str], dict[str, Version]] = defaultdict(dict)
        self.wrote: dict[tuple[str, str], Row] = defaultdict(dict)
        self.progress: Counter[tuple[str, int]] = Counter()
        self.parked: dict[tuple[str, str], GoldenRecord] = {}
        # our last transaction, when it is in the log and no other session sees it yet
        self.unseen: set[int] = set()  # LSNs of its events
        self.unseen_keys: set[tuple[str, str, str]] = set()  # what it put into the crosswalk
        self.lost = False  # its slot is: nobody reads the log
        self.begins = 0  # where the slot begins: nobody reads what is before
        self.unheard: set[int] = set()  # LSNs that nobody has read, of rows that were not there before, or are not there after

    def show(self) -> None:
        self.unseen.clear()
        self.unseen_keys.clear()

    def insert(self, entity: str, row: Row) -> str:
        key, self.next_key = str(self.next_key), self.next_key + 1
        self.rows[entity][key] = row
        return key


class Topic:
    def __init__(self) -> None:
        self.partitions: list[list[tuple[str, Any]]] = [[] for _ in range(PARTITIONS)]

    def send(self, key: str, message: Any, partition: int | None = None) -> None:
        self.partitions[partition_of(key) if partition is None else partition].append((key, message))


def partition_of(key: str) -> int:
    return sum(map(ord, key)) % PARTITIONS


class World:
    def __init__(
        self,
        seed: int,
        without: tuple[str, ...] = (),
        features: tuple[str, ...] = (),
        codes: int = 6,
        initial: int = 3,
        skew: int = 5000,
        pace: int = 12,
        crash: float = 0.15,
        ops: int = 40,
        replays: float = 0.03,
    ) -> None:
        self.rng = random.Random(seed)
        self.without, self.features = set(without), set(features)
        self.codes, self.pace, self.crash, self.ops, self.replays = codes, pace, crash, ops, replays
        self.now, self.values, self.numbers = 1_000_000, 0, 0  # µs
        self.db = {name: Database(name, self.rng.randint(-skew, skew)) for name in SYSTEMS}
        self.entities = ("customer", "order") if self.has("refs") else ("customer",)
        self.captured = {(n, e): Topic() for n in SYSTEMS for e in self.entities}
        self.links = {(n, e): Topic() for n in SYSTEMS for e in self.entities}
        self.claims = Topic()
        self.changes = {e: Topic() for e in self.entities}
        self.golden = {e: Topic() for e in self.entities}
        self.read: Counter[Any] = Counter()
        self.known: dict[tuple[str, str], dict[str, Any]] = {(n, e): {} for n in SYSTEMS for e in self.entities}
        self.owners: dict[str, Any] = {}
        self.state: dict[str, dict[str, Any]] = {e: {} for e in self.entities}
        self.conflicts: list[Any] = []
        self.rules = {e: self.rules_of(e) for e in self.entities}
        self.mapped = not self.has("late")  # whether intake knows the field `city` yet
        for d in self.db.values():
            for code in self.rng.sample([f"C{i}" for i in range(codes)] + [None] * 3, self.rng.randint(0, initial)):
                if self.has("born") and d.name == "erp" and code is None:
                    continue
                d.unread.append(("customer", d.insert("customer", self.a_customer(d, code, "i"))))
            d.born = {f"{e} {key}" for e, key in d.unread}

    # ---- what it is about --------------------------------------------------------------------------------------------
    def keeps(self, rule: str) -> bool:
        return rule not in self.without

    def has(self, feature: str) -> bool:
        return feature in self.features

    def fields(self, entity: str) -> tuple[str, ...]:
        if entity == "order":
            return ORDER
        return CUSTOMER + (("number",) if self.has("generated") else ()) + (("active",) if self.has("soft") else ())

    def rules_of(self, entity: str) -> Rules:
        fields = self.fields(entity)
        owners = {"limit": "erp", "number": "erp"} if self.keeps("owner") else {}
        return Rules(
            entity=entity,
            systems=SYSTEMS,
            ranks=RANKS,
            owners=owners,
            written={"crm": fields, "erp": fields},
            generated={"erp": frozenset({"number"})} if self.has("generated") and entity == "customer" else {},
            delete="soft" if self.has("soft") and entity == "customer" else "ignore" if self.has("ignore") else "propagate",
            soft={"active": False} if self.has("soft") and entity == "customer" else {},
            same=lambda system, name, golden, held: self.same(entity, system, name, golden, held),
        )

    def represent(self, system: str, name: str, value: Canonical) -> Canonical:
        """ERP keeps names in capitals."""
        return value.upper() if self.has("lossy") and system == "erp" and name == "name" and isinstance(value, str) else value

    def same(self, entity: str, system: str, name: str, golden: Canonical, held: Canonical) -> bool:
        if entity == "order" and name == "customer" and isinstance(golden, str) and isinstance(held, str):
            return golden == held or self.same_thing(golden, held)
        return self.represent(system, name, golden) == held

    def same_thing(self, a: str, b: str) -> bool:
        for d in self.db.values():
            one, other = (d.crosswalk.get(("customer", *parse_row_name(name))) for name in (a, b))
            if one is not None and one == other:
                return True
        return False

    def a_customer(self, d: Database, code: str | None, mark: str) -> Row:
        row: Row = {"code": code, "in": True, **{f: self.fresh(mark, d, f) for f in ("name", "limit", "city")}}
        if self.has("generated"):
            row["number"] = self.number() if d.name == "erp" else None
        if self.has("soft"):
            row["active"] = True
        if self.has("empty") and self.rng.random() < 0.5:
            row[self.rng.choice(("limit", "city"))] = None
        return row

    def fresh(self, mark: str, d: Database, name: str) -> Canonical:
        """A value never used before: so a value tells which edit it came from."""
        self.values += 1
        if self.has("gap") and name == "city" and mark != "i":
            return f"x{self.values % 3}"  # few values: what was there before is there again
        return self.represent(d.name, name, f"{mark}{self.values}")

    def number(self) -> str:
        self.numbers += 1
        return f"P{self.numbers}"

    # ---- what users do -----------------------------------------------------------------------------------------------
    def commit(
        self,
        d: Database,
        changes: list[tuple[str, str, Row | None]],
        now: int,
        origin: int | None = None,
        op: str | None = None,
        **more: Any,
    ) -> None:
        for entity, key, row in changes:
            kind = op or ("d" if row is None else "u" if f"{entity} {key}" in d.born else "c")
            d.born.add(f"{entity} {key}")
            event = {"entity": entity, "key": key, "op": kind, "row": row and dict(row), "lsn": len(d.log) + 1, "ts": now + d.skew}
            d.log.append({**event, "origin": origin, "made": (), "was": None, "to": None, **more})

    def user(self) -> None:
        r, d = self.rng, self.db[self.rng.choice(SYSTEMS)]
        d.show()  # users work on what they see
        self.now += r.randint(1, 2000)
        dice, customers = r.random(), d.rows["customer"]
        births = not (self.has("born") and d.name == "erp")
        if self.has("refs") and dice < 0.25:
            return self.user_orders(d)
        if dice < 0.25 or not customers:
            code = r.choice([None] + [f"C{i}" for i in range(self.codes)])
            if (code is None and not births) or (code and self.taken(d, code)):
                return None
            row = self.a_customer(d, code, "n")
            self.commit(d, [("customer", d.insert("customer", row), row)], self.now)
        elif dice < 0.85:
            key = r.choice(list(customers))
            row = customers[key]
            for f in r.sample(("name", "limit", "city"), r.randint(1, 2)):
                row[f] = row[f] if r.random() < 0.1 else self.fresh("e", d, f)  # a form saved with or without a change
            if self.has("codes") and (not self.has("calm") or self.is_known(d, key)) and r.random() < 0.2:
                code = r.choice([None] + [f"C{i}" for i in range(self.codes)])
                row["code"] = row["code"] if code and self.taken(d, code) else code
            if self.has("scope") and r.random() < 0.2:
                row["in"] = not row["in"] and not (row["code"] and self.taken(d, row["code"])) and not self.has_another(d, key)
            if self.has("soft") and r.random() < 0.2:
                row["active"] = not row["active"]
            self.commit(d, [("customer", key, row)], self.clock())
        elif dice < 0.95:
            if self.has("refs"):
                return None  # its orders keep it from being deleted
            key = r.choice(list(customers))
            if self.has("rekey") and ("customer", d.name, key) in d.crosswalk and r.random() < 0.5:
                row = customers.pop(key)
                new = d.insert("customer", row)
                self.commit(d, [("customer", key, None)], self.now, to=new)
                self.commit(d, [("customer", new, row)], self.now, was=key)
                return None
            del customers[key]
            self.commit(d, [("customer", key, None)], self.now)
        elif births:  # insert, then update, in one transaction: both have one commit time
            row = self.a_customer(d, None, "a")
            first = dict(row)
            row["name"] = self.fresh("b", d, "name")
            key = d.insert("customer", row)
            self.commit(d, [("customer", key, first), ("customer", key, row)], self.now)
        return None

    def user_orders(self, d: Database) -> None:
        r, orders = self.rng, d.rows["order"]
        customer = r.choice([*d.rows["customer"], None])
        if not orders or r.random() < 0.5:
            row = {"customer": customer and row_name(d.name, customer), "note": self.fresh("n", d, "note"), "in": True}
            self.commit(d, [("order", d.insert("order", row), row)], self.now)
        else:
            key = r.choice(list(orders))
            orders[key]["note"] = self.fresh("e", d, "note")
            if r.random() < 0.5:
                orders[key]["customer"] = customer and row_name(d.name, customer)
            self.commit(d, [("order", key, orders[key])], self.clock())

    def taken(self, d: Database, code: str) -> bool:
        """The application's own unique constraint, if it has one."""
        return not self.has("twins") and any(row["code"] == code and row["in"] for row in d.rows["customer"].values())

    def has_another(self, d: Database, key: str) -> bool:
        """A row that left scope is not taken back in by hand while another row stands for its thing."""
        link = self.link(d.name, "customer", key)
        return any(row["in"] and other != key and self.link(d.name, "customer", other) == link for other, row in d.rows["customer"].items())

    def is_known(self, d: Database, key: str) -> bool:
        """The row's thing is known on both sides, and nothing of it is on its way."""
        link = d.crosswalk.get(("customer", d.name, key))
        known = all(any(x == link and s == n for (_, s, _), x in self.db[n].crosswalk.items()) for n in SYSTEMS)
        return link is not None and known and not any(row["pending"] for (_, e), t in self.known.items() for row in t.values())

    def clock(self) -> int:
        """Commit times are not in commit order: sessions race, and clocks are set back."""
        return self.now - (self.rng.randint(0, 4000) if self.rng.random() < 0.2 else 0)

    # ---- source ------------------------------------------------------------------------------------------------------
    def snapshot(self, n: str) -> None:
        d = self.db[n]
        d.show()
        if d.unread:
            entity, key = d.unread.pop()
            if key in d.rows[entity]:
                self.commit(d, [(entity, key, d.rows[entity][key])], self.now, op="r")

    def source(self, n: str) -> None:
        d = self.db[n]
        if self.read[n] < len(d.log) and not d.lost:
            event = d.log[self.read[n]]
            self.captured[n, event["entity"]].send(event["key"], event)
            self.read[n] += 1
            if self.rng.random() < self.crash:  # sent, but not confirmed: sent again
                self.read[n] = max(d.begins, self.read[n] - self.rng.randint(1, 3))

    def lose_slots(self) -> None:
        """A slot is lost, or made anew: then everything is read again first (docs/decisions/0022)."""
        for n, d in self.db.items():
            if d.lost and self.rng.random() < 0.3 and self.is_linked(n):
                self.find_again(n)
            elif self.rng.random() < 0.05 and not self.is_inside_a_transaction(n):
                d.lost = True

    def is_inside_a_transaction(self, n: str) -> bool:
        at, log = self.read[n], self.db[n].log
        return 0 < at < len(log) and log[at - 1]["ts"] == log[at]["ts"]

    def is_linked(self, n: str) -> bool:
        """Whether every row that was read before has its link: one that has not and is deleted meanwhile is missed by nobody (0022)."""
        read = all(self.read["intake", n, e, p] >= len(t) for e in self.entities for p, t in enumerate(self.captured[n, e].partitions))
        return read and not any(row["pending"] for e in self.entities for row in self.known[n, e].values())

    def find_again(self, n: str) -> None:
        d = self.db[n]
        d.show()
        missed = d.log[self.read[n] :]
        new = {(event["entity"], event["key"]) for event in missed if event["op"] == "c"}
        d.unheard |= {event["lsn"] for event in missed if (at := (event["entity"], event["key"])) in new or at[1] not in d.rows[at[0]]}
        d.lost, d.begins = False, len(d.log)
        self.read[n] = d.begins
        d.unread.clear()
        for e in self.entities:
            for key, row in d.rows[e].items():
                thing = e, d.crosswalk.get((e, n, key), "")
                applied = d.applied.get(thing, {})
                ours = {f: (value, applied[f].hlc) for f, value in d.wrote.get(thing, {}).items() if f in applied}
                self.commit(d, [(e, key, row)], self.now, op="r", ours=ours)
            gone = [key for (entity, link), key in d.keys.items() if entity == e and key not in d.rows[e]]
            for key in gone:
                self.commit(d, [(e, key, None)], self.now)

    def replay(self, n: str) -> None:
        """A system's topics are read again: from an earlier offset, or, the table lost, from the start."""
        lost, e = self.rng.random() < 0.5, self.rng.choice(self.entities)
        if lost:
            self.known[n, e].clear()
        for p in range(PARTITIONS):
            self.read["intake", n, e, p] = 0 if lost else self.rng.randint(0, self.read["intake", n, e, p])

    # ---- one step of a stream agent, at least once -------------------------------------------------------------------
    def step(self, agent: tuple[str, ...], topic: Topic, handle: Callable[[str, Any], tuple[list[Any], Callable[[], Any]] | None]) -> None:
        """`handle` gives outputs and what writes the state; None: not now."""
        for p, messages in enumerate(topic.partitions):
            at = self.read[*agent, p]
            if at >= len(messages) or self.rng.random() < 0.3:
                continue
            handled = handle(*messages[at])
            if handled is None:
                continue
            outputs, write_state = handled
            doing = [*outputs, write_state] if self.keeps(OUTPUTS_FIRST) else [write_state, *outputs]
            if self.rng.random() < self.crash:  # how far it got before it died; its offset was not committed
                doing = doing[: self.rng.randint(0, len(doing))]
                at -= 1 + (self.rng.randint(0, 5) if self.rng.random() < 0.3 else 0)
            for do in doing:
                do()
            self.read[*agent, p] = max(0, at + 1)

    def stored(self, state: Any) -> Any:
        """What a table gives back: the value itself, or, after a recovery, what its JSON says."""
        return orjson.loads(orjson.dumps(state)) if self.rng.random() < 0.3 else state

    # ---- intake and identify
    # ---------------------------------------------------------------------------------------------------------------

    def row_change(self, n: str, entity: str, known: Any, event: dict[str, Any]) -> RowChange:
        row = event["row"]
        image = {f: row[f] for f in self.fields(entity) if f != "city" or self.mapped} if row else None
        if image and self.has("toast") and event["op"] == "u" and entity == "customer" and event["lsn"] % 2:
            before = next(
                (e["row"] for e in reversed(self.db[n].log[: event["lsn"] - 1]) if (e["entity"], e["key"]) == (entity, event["key"])), None
            )
            image = {f: v for f, v in image.items() if f not in ("city", "code") or not before or before[f] != v}
        values = image if row and row["in"] else None
        op = Op(event["op"])
        if not self.keeps("first-sight") and op is Op.READ:
            op = Op.CREATE
        return RowChange(
            key=event["key"],
            op=op if event["was"] is None else Op.UPDATE,
            position=f"{event['lsn']:032X}",
            ts_us=event["ts"],
            origin_hlc=event["origin"],
            values=values,
            match=values.get("code") if values and entity == "customer" and self.keeps("claim") else None,
            match_known=values is None or entity != "customer" or "code" in values,
            was=event["was"],
            outside=(lambda: image) if image and values is None else None,
            ours=event.get("ours", {}),
        )

    def intake(self, n: str, entity: str) -> None:
        table = self.known[n, entity]
        births = not (self.has("born") and n == "erp" and entity == "customer")

        def told(link: str, change: Change) -> Callable[[], None]:
            data = change.encode()
            return lambda: self.changes[entity].send(link, data)

        def claimed(value: str, claim: Any) -> Callable[[], None]:
            return lambda: self.claims.send(value, claim)

        def write(key: str, known: Any) -> Callable[[], None]:
            return lambda: table.pop(key, None) if known is None else table.__setitem__(key, self.stored(known))

        def handle_event(key: str, event: Any) -> tuple[list[Any], Callable[[], Any]] | None:
            known = table.get(key)
            place = Place(n, entity, partition_of(key))
            if event["to"] is not None:
                step = on_moved(known, self.row_change(n, entity, known, event), place)
                return [claimed(*x) for x in step.claims], write(key, step.known)
            d = self.db[n]
            crosswalk = {name: link for name, link in d.crosswalk.items() if name not in d.unseen_keys}
            found = crosswalk.get((entity, n, key)) or (event["was"] and crosswalk.get((entity, n, event["was"])))
            if event["lsn"] in d.unseen and not found and (known is None or known["link"] is None) and self.keeps("visible"):
                return None  # the echo is here before its transaction can be seen: asked again
            step = self.linked(d, entity, known, self.row_change(n, entity, known, event), place, births, found or None)
            return [told(*x) for x in step.changes] + [claimed(*x) for x in step.claims], write(key, step.known)

        def handle_answer(key: str, answer: Any) -> tuple[list[Any], Callable[[], Any]]:
            place = Place(n, entity, partition_of(key))
            known = table.get(key)
            in_force = self.take(self.db[n], entity, key, answer["link"]) if takes(known, answer["link"], answer["value"]) else None
            born = not (self.has("born") and n == "erp")
            step = on_answer(known, answer["link"], answer["value"], answer["at"], place, key, born, in_force)
            return [told(*x) for x in step.changes] + [claimed(*x) for x in step.claims], write(key, step.known)

        self.step(("intake", n, entity), self.captured[n, entity], handle_event)
        self.step(("answer", n, entity), self.links[n, entity], handle_answer)

    def linked(self, d: Database, entity: str, known: Any, change: RowChange, place: Place, births: bool, found: str | None) -> Step:
        first = first_link(known, change, place, births, found)
        if first is not None:
            found = self.take(d, entity, change.key, first) or self.take(
                d, entity, change.key, name_again(d.name, change.key, change.version)
            )
            assert found is not None
        return on_event(known, change, place, births, found)

    def take(self, d: Database, entity: str, key: str, link: str) -> str | None:
        """one-row: puts a row's first link in force in its own database. The link that it has then; None: the thing has another row."""
        d.show()
        if not self.keeps("one-row"):
            return link
        mine = d.crosswalk.get((entity, d.name, key))
        if mine is not None:
            return mine
        other = d.keys.get((entity, link))
        if other is not None and other != key and other in d.rows[entity] and d.rows[entity][other]["in"]:
            return None
        d.crosswalk[entity, d.name, key] = link
        d.keys[entity, link] = key
        return link

    def identify(self) -> None:
        def handle(value: str, message: Any) -> tuple[list[Any], Callable[[], Any]]:
            decided = on_claim(self.owners.get(value), message)

            def answer(a: Any) -> Callable[[], None]:
                doc = {"link": a.link, "value": value, "at": a.at}
                return lambda: self.links[a.system, a.table].send(a.key, doc, a.partition)

            return [answer(a) for a in decided.answers], lambda: self.owners.__setitem__(value, self.stored(decided.owner))

        self.step(("identify",), self.claims, handle)

    # ---- merge -------------------------------------------------------------------------------------------------------
    def merge(self, entity: str) -> None:
        def handle(link: str, data: bytes) -> tuple[list[Any], Callable[[], Any]]:
            state, told = self.state[entity].get(link), decode_told(data)
            if isinstance(told, Repair):
                done = repaired(link, state, told, self.rules[entity])
            else:
                state, change = self.crippled(state, told)
                done = fold(link, state, change, self.rules[entity])
            record = done.record
            if record is not None and not self.keeps("level"):
                was = state and (state["fields"], state["exists"])
                record = None if done.state and was == (done.state["fields"], done.state["exists"]) else record
            if record is not None and self.rng.random() < 0.2:
                record = golden_from_avro(entity, record.to_avro())
            outputs: list[Any] = [lambda: self.golden[entity].send(link, record)] if record else []
            outputs += [lambda: self.conflicts.extend(done.conflicts)] if done.conflicts else []
            return outputs, lambda: self.state[entity].__setitem__(link, self.stored(done.state))

        def without_count(standing: Any, write: Any, unsaid: bool = False) -> Any:
            entry = real(standing, write, unsaid)
            if standing is None or entry[0] != standing[0] or entry[4:6] != tuple(standing[4:6]):
                return (*entry[:6], 1, *entry[7:])
            return (entry[0], standing[1], standing[2], *entry[3:6], 1, *entry[7:])

        real = folding.folded
        with mock.patch.object(folding, "folded", real if self.keeps("count") else without_count):
            self.step(("merge", entity), self.changes[entity], handle)

    def crippled(self, state: Any, change: Change) -> tuple[Any, Change]:
        """The fold's inputs with a rule's ground taken away."""
        if change.origin_hlc is not None and not self.keeps("echo"):
            change = replace(change, origin_hlc=None)
        if change.origin_hlc is not None and not self.keeps("hlc-seen"):
            change = replace(change, origin_hlc=0)
        if not self.keeps("replica"):
            change = replace(change, key="the one")
        spoil = {rule for rule in ("diff", "hlc-last", "position") if not self.keeps(rule)}
        if state and spoil:
            replicas = {
                n: {
                    "seen": replica["seen"],
                    "rows": {
                        key: (
                            "" if "position" in spoil else row[0],
                            -1 if "hlc-last" in spoil else row[1],
                            row[2],
                            {} if "diff" in spoil else row[3],
                            *row[4:],
                        )
                        for key, row in replica["rows"].items()
                    },
                }
                for n, replica in state["replicas"].items()
            }
            state = {**state, "replicas": replicas}
        return state, change

    # ---- sink: one transaction per batch, its progress inside
    # ------------------------------------------------------------------------------

    def sink(self, n: str) -> None:
        d = self.db[n]
        d.show()  # a session goes on when its commit is done
        for e in self.entities:
            for p, messages in enumerate(self.golden[e].partitions):
                at = d.progress[e, p]
                batch = messages[at : at + self.rng.randint(1, 4)]
                self.write(d, [record for _, record in batch])
                d.progress[e, p] += len(batch)
        if d.parked:
            waiting, d.parked = list(d.parked.values()), {}
            self.write(d, waiting)

    def write(self, d: Database, records: list[GoldenRecord]) -> None:
        if not self.has("early") or not records:
            return self.transact(d, records)
        keys, begin = set(d.crosswalk), len(d.log)
        self.transact(d, records)
        d.unseen = set(range(begin + 1, len(d.log) + 1))
        d.unseen_keys = d.crosswalk.keys() - keys
        return None

    def transact(self, d: Database, records: list[GoldenRecord]) -> None:
        for record in records:
            for system, key in record.keys.items():
                if self.keeps("crosswalk") or system != d.name:
                    d.crosswalk.setdefault((record.entity, system, key), record.link)
        wrote: list[tuple[str, str, Row | None]] = []
        hlc = 0
        made: tuple[str, ...] = ()
        for record in records:
            parked = d.parked.get((record.entity, record.link))
            if parked is not None and supersedes(record, parked):
                del d.parked[record.entity, record.link]
            if d.name in record.targets:
                hlc = max(hlc, record.hlc)
                for change, these in self.apply(d, record):
                    wrote.append(change)
                    if these:
                        made = these
                        self.now += 1
                        self.commit(d, wrote, self.now, origin=hlc, made=made)
                        wrote = []
        self.now += 1
        self.commit(d, wrote, self.now, origin=hlc)

    def own_values(self, d: Database, record: GoldenRecord) -> Row | None:
        """The record's values as this system holds them; None when it must wait: for what it refers to, or for the value that another row
        holds."""
        values: Row = {f: self.represent(d.name, f, v) for f, v in record.values.items()}
        if record.entity == "order" and values.get("customer"):
            system, key = parse_row_name(values["customer"])
            if system != d.name:
                link = d.crosswalk.get(("customer", system, key))
                mine = None if link is None else d.keys.get(("customer", link))
                if mine is None:
                    mine = next((k for (e, s, k), x in d.crosswalk.items() if (e, s, x) == ("customer", d.name, link)), None)
                if mine is None:
                    return None
                values["customer"] = row_name(d.name, mine)
        return values

    def apply(self, d: Database, record: GoldenRecord) -> Iterator[tuple[tuple[str, str, Row | None], tuple[str, ...]]]:
        n, e, link = d.name, record.entity, record.link
        thing, rows, rules = (e, link), d.rows[e], self.rules[e]
        applied = d.applied[thing]
        key, seen = d.keys.get(thing), record.seen.get(n)
        crosswalk = d.crosswalk

        def live(k: str | None) -> bool:
            return k in rows and rows[k]["in"]

        def newer(what: str, version: Version) -> bool:
            return version > applied.get(what, NEVER) or not self.keeps("applied")

        if not live(key) and live(record.keys.get(n)) and crosswalk.get((e, n, record.keys[n]), link) == link:
            key = record.keys[n]  # merge knows the row
            crosswalk[e, n, key], d.keys[thing] = link, key

        def over_known(f: str) -> bool:
            """Is the value there the one that merge had seen, or our own?"""
            assert key is not None
            if not self.keeps("guard") or rows[key][f] == (seen or {}).get(f, NEVER):
                return True
            return rows[key][f] == d.wrote[thing].get(f, NEVER) and not heard(f)

        def heard(f: str) -> bool:
            """Has merge heard of our last write?"""
            written = applied.get(f, applied.get("exists", NEVER)).hlc
            return self.keeps("heard") and 0 < written <= record.heard.get(n, {}).get("", 0)

        if not record.alive and rules.delete == "soft":
            if live(key) and newer("exists", record.exists):
                assert key is not None
                if all(over_known(f) for f in rules.soft):
                    applied["exists"] = record.exists
                    for f in rules.soft:
                        applied.pop(f, None)  # should it come back, its own values are news again
                    if any(rows[key][f] != v for f, v in rules.soft.items()):
                        rows[key].update(rules.soft)
                        d.wrote[thing].update(rules.soft)
                        yield (e, key, dict(rows[key])), ()
            return
        if not record.alive:
            if live(key) and not all(map(over_known, self.fields(e))):
                return  # an edit that merge has not seen: it will decide, and ask again
            if not live(key) and seen is not None:
                return  # its row has just gone, or got another key: merge does not know yet
            if newer("exists", record.exists):
                applied["exists"] = record.exists
                if live(key):
                    assert key is not None
                    del rows[key]
                    yield (e, key, None), ()
            return
        if record.exists < applied.get("exists", NEVER) and self.keeps("applied"):
            return
        applied["exists"] = record.exists
        new = self.own_values(d, record)
        if new is None:
            d.parked[thing] = record
            return
        if not live(key):
            if key is not None and (n not in record.keys or seen is not None):
                return  # gone here, and merge does not know yet: its own event is on the way
            code = new.get("code")
            adopted = next((k for k, x in rows.items() if code and x["code"] == code and x["in"]), None) if self.keeps("adopt") else None
            named = parse_row_name(link)  # the row that the thing is named after may have another match value by now
            if adopted is None and named[0] == n and live(named[1]) and crosswalk.get((e, *named), link) == link and self.keeps("adopt"):
                adopted = named[1]
            if adopted is not None and (e, n, adopted) in crosswalk and crosswalk[e, n, adopted] != link:
                d.parked[thing] = record  # another thing's: waits until it lets the value go
                return
            if adopted is None:
                row: Row = {f: new.get(f) for f in self.fields(e)} | {"in": True}
                made: tuple[str, ...] = ()
                for f in rules.generated.get(n, ()):
                    if row[f] is None or rules.owners.get(f) == n:
                        row[f], made = self.number(), (*made, f)
                key = d.insert(e, row)
                crosswalk[e, n, key], d.keys[thing] = link, key
                applied.update(record.versions)
                d.wrote[thing] = {f: row[f] for f in self.fields(e) if f not in made}
                yield (e, key, dict(row)), made
                return
            key = adopted
            crosswalk[e, n, key], d.keys[thing] = link, key
        assert key is not None
        row, wrote = rows[key], False
        for f, version in record.versions.items():
            unsaid = row[f] is None and (record.seen.get(n) or {}).get(f, NEVER) is None  # the owner's row says nothing
            decided = rules.owners.get(f) == n and version.owned and not record.mends(n, f) and not unsaid
            if not newer(f, version) or (decided and row[f] != d.wrote[thing].get(f, NEVER)):
                continue  # older, or what the owner decided itself
            if row[f] == new[f]:
                if f in d.wrote[thing] and (d.wrote[thing][f] != new[f] or heard(f)):
                    del d.wrote[thing][f]
                applied[f] = version
            elif f == "code" and new[f] and any(x["code"] == new[f] and x["in"] and k != key for k, x in rows.items()):
                d.parked[thing] = record  # waits for the value; the rest is written
            elif over_known(f):
                row[f], d.wrote[thing][f], applied[f], wrote = new[f], new[f], version, True
        if wrote:
            yield (e, key, dict(row)), ()

    # ---- running -----------------------------------------------------------------------------------------------------
    def in_flight(self) -> bool:
        streams: list[tuple[tuple[str, ...], Topic]] = [
            ((name, n, e), t[n, e]) for name, t in (("intake", self.captured), ("answer", self.links)) for n, e in t
        ]
        streams += [(("identify",), self.claims)] + [(("merge", e), t) for e, t in self.changes.items()]
        return (
            any(d.unread or self.read[n] < len(d.log) for n, d in self.db.items())
            or any(self.read[*agent, p] < len(m) for agent, t in streams for p, m in enumerate(t.partitions))
            or any(d.progress[e, p] < len(m) for d in self.db.values() for e, t in self.golden.items() for p, m in enumerate(t.partitions))
        )

    def parts(self) -> list[Callable[[], None]]:
        per_system = [lambda n=n, f=f: f(n) for n in SYSTEMS for f in (self.snapshot, self.source, self.sink)]
        intakes = [lambda n=n, e=e: self.intake(n, e) for n in SYSTEMS for e in self.entities]
        return [*per_system, *intakes, *[lambda e=e: self.merge(e) for e in self.entities], self.identify]

    def run(self) -> str:
        parts = self.parts()
        for _ in range(self.rng.randint(1, self.ops)):
            self.user()
            if self.has("gap"):
                self.lose_slots()
            for _ in range(self.rng.randint(0, self.pace)):
                self.rng.choice(parts)()
            if self.rng.random() < self.replays:
                self.replay(self.rng.choice(SYSTEMS))
            if not self.mapped and self.rng.random() < 0.1:
                self.mapped = True
        if self.has("late"):
            self.read_again(parts)
        self.crash /= 3
        for _ in range(20):  # a person resolves duplicates, one after the other
            if not self.settle(parts):
                return "never settles"
            if not any(map(self.has, ("codes", "rekey", "scope", "twins"))) or not self.resolve():
                break
        return self.verdict()

    def read_again(self, parts: list[Callable[[], None]]) -> None:
        """Once intake knows all fields, and maybe a while after it, every row is read once more."""
        self.mapped = True
        for _ in range(self.rng.randint(0, self.pace)):
            self.rng.choice(parts)()
        for d in self.db.values():
            d.unread += [("customer", key) for key in d.rows["customer"]]

    def settle(self, parts: list[Callable[[], None]]) -> bool:
        for left in range(3000, -1, -1):
            for n, d in self.db.items():
                if d.lost and (not left or self.is_linked(n)):
                    self.find_again(n)
            if not any(d.lost for d in self.db.values()):
                break
            self.rng.choice(parts)()
        for _ in range(30_000):
            if not self.in_flight():
                for n in SYSTEMS:
                    self.sink(n)  # what is parked has its last chance
                if not self.in_flight():
                    return True
            self.rng.choice(parts)()
        return False

    def resolve(self) -> bool:
        """What a person does with duplicates: a row that waits for another's value gets one of its own, and so does one whose value cannot
        be written."""
        for owner in self.owners.values():
            for claim in owner["waiting"]:
                if self.give_own_code(claim["system"], claim["key"]):
                    return True
        for d in self.db.values():
            for entity, link in d.parked:
                for m, other in self.db.items():
                    key = next((k for k in other.rows["customer"] if entity == "customer" and self.link(m, "customer", k) == link), None)
                    if key is not None and m != d.name and self.give_own_code(m, key):
                        return True
        return False

    def give_own_code(self, n: str, key: str) -> bool:
        row = self.db[n].rows["customer"].get(key)
        if row is None:
            return False
        self.now += 10_000
        self.values += 1
        row["code"] = f"D{self.values}"
        self.commit(self.db[n], [("customer", key, row)], self.now)
        return True

    # ---- what must be true -------------------------------------------------------------------------------------------
    def link(self, n: str, entity: str, key: str) -> str | None:
        return self.db[n].crosswalk.get((entity, n, key)) or (self.known[n, entity].get(key) or {}).get("link")

    def verdict(self) -> str:
        for n, d in self.db.items():
            for e in self.entities:
                live = {key: row for key, row in d.rows[e].items() if row["in"]}
                if any(count > 1 for count in Counter(self.link(n, e, key) for key in live if self.counts(n, key)).values()):
                    return "a thing twice in one system"
            codes = Counter(row["code"] for row in d.rows["customer"].values() if row["code"] and row["in"])
            if any(count > 1 for count in codes.values()):
                return "a match value twice in one system"
            if any(not self.dangles(thing[0], record) for thing, record in d.parked.items()):
                return "parked for ever"
        return self.difference() or self.history() or self.taken_away() or "ok"

    def taken_away(self) -> str | None:
        """Whether we deleted a row that is none of our making, of a thing that nobody has deleted in the other system."""
        if self.has("soft") or self.has("scope") or self.has("rekey") or self.has("ignore"):
            return None
        deleted = {
            (n, event["entity"], self.link(n, event["entity"], event["key"]))
            for n, d in self.db.items()
            for event in d.log
            if event["op"] == "d" and event["origin"] is None
        }
        for n, d in self.db.items():
            made = {(event["entity"], event["key"]) for event in d.log if event["op"] == "c" and event["origin"] is not None}
            for event in d.log:
                if event["op"] == "d" and event["origin"] is not None and (event["entity"], event["key"]) not in made:
                    link = self.link(n, event["entity"], event["key"])
                    if not any((m, event["entity"], link) in deleted for m in SYSTEMS if m != n):
                        return "a row is gone that nobody deleted"
        return None

    def counts(self, n: str, key: str) -> bool:
        """A row that may not be born here and has no thing elsewhere is none of ours."""
        return not (self.has("born") and n == "erp" and self.link(n, "customer", key) is None)

    def dangles(self, entity: str, record: GoldenRecord) -> bool:
        """Refers to a row that is gone: a foreign key would not have let it happen."""
        if entity != "order" or not record.values.get("customer"):
            return False
        system, key = parse_row_name(str(record.values["customer"]))
        return key not in self.db[system].rows["customer"]

    def is_dead(self, entity: str, link: str | None) -> bool:
        """Softly deleted: its rows hold what the delete makes of them, and are otherwise left alone."""
        return self.has("soft") and entity == "customer" and not self.state[entity][link or ""]["exists"][0]

    def difference(self) -> str | None:
        for e in self.entities:
            things: dict[str | None, dict[str, Row]] = defaultdict(dict)
            for n, d in self.db.items():
                for key, row in d.rows[e].items():
                    if row["in"] and (e != "customer" or self.counts(n, key)):
                        things[self.link(n, e, key)][n] = row
            for link, rows in things.items():
                if len(rows) < len(SYSTEMS) and any((e, link) in d.parked for d in self.db.values()):
                    continue
                if len(rows) < len(SYSTEMS):
                    gone = any(n in self.state[e].get(link or "", {"replicas": {}})["replicas"] for n in SYSTEMS if n not in rows)
                    left_alone = (self.has("soft") and all(row["active"] is False for row in rows.values())) or self.has("ignore")
                    if e == "customer" and left_alone and gone:
                        continue
                    return f"a {e} is missing in a system"
                for f in self.rules[e].soft if self.is_dead(e, link) else self.fields(e):
                    crm, erp = rows["crm"][f], rows["erp"][f]
                    equal = self.same_thing(crm, erp) if f == "customer" and crm and erp else self.represent("erp", f, crm) == erp
                    if not equal:
                        return f"systems differ in {f}"
        return None

    def history(self) -> str | None:
        """What the logs say about every field: nobody's last word is lost, the owner's holds, nothing that was replaced comes back."""
        fields = [
            f
            for f in ("name", "limit", "city", "number", "code")
            if f in self.fields("customer") and not (f == "code" and self.has("codes"))
        ]
        given: dict[Any, dict[str, Any]] = defaultdict(dict)  # (link, field) -> system -> its last edit
        unheard: dict[Any, set[Any]] = defaultdict(set)  # (link, field) -> edits that came with a row that was only found, or went with one
        images: dict[Any, list[Any]] = defaultdict(list)

        def plain(value: Any) -> Any:
            return value.upper() if self.has("lossy") and isinstance(value, str) else value

        for n, d in self.db.items():
            image: dict[str, Row] = {}
            for event in d.log:
                if event["entity"] != "customer":
                    continue
                key, row = event["key"], event["row"] if event["row"] and event["row"]["in"] else None
                if event["was"]:
                    image[key] = image.get(event["was"], {})
                for f in fields if row else ():
                    assert row is not None
                    value, old = plain(row[f]), image.get(key, {}).get(f)
                    if old != value:
                        ours = event["origin"] is not None and f not in event["made"]
                        images[n, key, f].append((value, event["lsn"], ours))
                        if event["lsn"] in d.unheard or (self.has("twins") and not self.stands(n, key)):
                            unheard[self.link(n, "customer", key), f].add(value)
                        elif not ours:
                            given[self.link(n, "customer", key), f][n] = (value, event["lsn"], bool(value) and str(value)[:1] in "iI")
                if event["to"] is None:
                    image[key] = {f: plain(row[f]) for f in fields} if row else {}
        owners = self.rules_of("customer").owners if self.keeps("owner") else {"limit": "erp", "number": "erp"}
        for (_, _, f), values in images.items():
            seen = [value for value, _, _ in values]
            comes_back = f in owners or self.has("scope") or self.has("rekey") or self.may_come_back(f)
            if len(set(seen)) < len(seen) and not comes_back:
                return "a replaced value came back"
        for n, d in self.db.items():
            for key, row in d.rows["customer"].items():
                if row["in"] and self.counts(n, key) and not self.is_dead("customer", self.link(n, "customer", key)):
                    link = self.link(n, "customer", key)
                    told = {f: plain(row[f]) for f in fields if row[f] not in unheard[link, f]}
                    problem = self.history_of(n, key, told, given, images, owners)
                    if problem:
                        return problem
        return None

    def stands(self, n: str, key: str) -> bool:
        return self.db[n].rows["customer"].get(key, {}).get("in", False)

    def may_come_back(self, name: str) -> bool:
        """Whether a value that was replaced may be seen again without anybody having written it."""
        return self.has("gap") and name == "city"

    def may_be_lost(self, link: str | None, name: str, last: dict[str, Any]) -> bool:
        """Whether the last word about a field may not have been heard. `last`: system -> its last edit."""
        if not self.has("late") or name != "city":
            return False
        rows = [self.db[n].rows["customer"].get(self.db[n].log[lsn - 1]["key"]) for n, (_, lsn, _) in last.items()]
        return any(row is None or not row["in"] for row in rows)  # gone before it was mapped

    def history_of(self, n: str, key: str, row: Row, given: Any, images: Any, owners: Any) -> str | None:
        for f in row:
            last = given[self.link(n, "customer", key), f]
            if (
                last
                and row[f] not in [value for value, _, _ in last.values()]
                and not self.may_be_lost(self.link(n, "customer", key), f, last)
            ):
                return f"an edit of {f} un-happened"
            if owners.get(f) in last and row[f] != last[owners[f]][0]:
                return f"the owner of {f} was overruled"
            told = not (f == "city" and self.has("late"))  # the first edit of another field that is mapped says this one, too: 0033
            if (
                told
                and f not in ("code", "number")
                and len(last) == 2
                and all(first for _, _, first in last.values())
                and row[f] != last["erp"][0]
            ):
                return "a first sight beat an older one"
            for m, (value, lsn, _) in last.items() if f not in owners and not (self.has("gap") and f == "city") else ():
                other = [v for x, (v, _, _) in last.items() if x != m]
                saw = [i for v, i, ours in images[m, key, f] if ours and v in other and i < lsn] if m == n else []
                if saw and row[f] != value:
                    return "an edit lost to what it was made on"
        return None


def outcomes(seeds: range, **options: Any) -> Counter[str]:
    return Counter(World(seed, **options).run() for seed in seeds)


if __name__ == "__main__":
    import sys

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    features = tuple(x for x in sys.argv[2:] if x in FEATURES)
    without = tuple(x for x in sys.argv[2:] if x in RULES)
    if "all" in sys.argv:
        for rule in RULES:
            print(f"{rule:15}", dict(outcomes(range(count), without=(rule,), features=features)), flush=True)
    else:
        print(dict(outcomes(range(count), without=without, features=features)))
