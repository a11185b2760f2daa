"""The protocol's random histories with an ERP that keeps a customer in several rows: all production steps together.

    ERP   customer(code, name, limit, in, team) ◀─child─ address(customer, seq, city, kind)      the first of kind 'home' by seq
                     └─────────parent──────────▶ team(motto)                                     one that several customers may share
    CRM   a row

The ERP's tables, its log of rows and its transactions are simulated; the join (`streams.assemble`) and the sink's plan with its writes by
rows (`connectors.sink.part_rows`) are the real ones, as are intake, identify and merge. Users put other addresses in front, delete the
first, move a customer to another team, edit a team for all.

The verdicts are those of `protocol_simulator`, over flat rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from connectors.sink.part_rows import Op as RowOp
from connectors.sink.plan import Op, There, Write
from schemas.catalog import Column, Table
from schemas.config import loads
from schemas.mapping import Pipeline, compile_config
from schemas.mapping.parts import ROOT, Part
from streams.assemble import Cause, Tree, node_name, row_message
from streams.fold import Rules
from streams.join import row_change
from streams.rows import Place, on_moved
from streams.rules import parts_read, rules_of
from tests.protocol.protocol_simulator import PARTITIONS, Database, Row, Topic, partition_of
from tests.sink.test_sink_protocol import SinkWorld, text_column
from tests.streams.join_simulator import Held

Texts = dict[str, str | None]
FIELDS = ("code", "name", "limit", "city", "motto")
OF_ROOT = ("code", "name", "limit")

CONFIG = """
kafka: {bootstrap: nowhere}
systems: {crm: {dsn: x, rank: 1}, erp: {dsn: x, rank: 2}}
entities:
  customer:
    crm: {table: public.flat, where: {in: true}, insert: {id: {sql: x}}}
    erp:
      table: public.customer
      where: {in: true}
      insert: {id: {sql: x}}
      parts:
        address:
          {table: public.address, child: customer, first_by: [seq], where: {kind: home}, insert: {id: {sql: x}}, empty: EMPTY}
        team: {table: public.team, parent: team, insert: {id: {sql: x}}}
    match_on: [code]
    fields:
      code: {crm: code, erp: code}
      name: {crm: name, erp: name}
      limit: {crm: limit, erp: limit, owner: erp}
      city: {crm: city, erp: address.city}
      motto: {crm: motto, erp: team.motto}
"""


def a_table(name: str, *columns: str) -> Table:
    key = Column("id", "text", "text", "S", not_null=True)
    flags = [Column("in", "boolean", "boolean", "B")] if "in" in columns else []
    return Table("public", name, (key, *map(text_column, (column for column in columns if column != "in")), *flags), ("id",))


def a_pipeline(empty: str) -> Pipeline:
    flat = a_table("flat", *FIELDS, "in")
    tables = [a_table("customer", *OF_ROOT, "team", "in"), a_table("address", "customer", "seq", "city", "kind"), a_table("team", "motto")]
    return compile_config(loads(CONFIG.replace("EMPTY", empty), {}), {"crm": {str(flat): flat}, "erp": {str(one): one for one in tables}})


class PartsWorld(SinkWorld):
    """`features`: "delete", an address without a city is deleted (else it is blanked); "shared", customers of one team; "cleared", users
    take values away."""

    def __init__(self, seed: int, features: tuple[str, ...] = (), **options: Any) -> None:
        super().__init__(seed, tuple(one for one in features if one not in ("delete",)), **options)
        self.deletes = "delete" in features
        self.pipeline = a_pipeline("delete" if self.deletes else "blank")
        self.planners = {n: type(planner)(self.pipeline, n) for n, planner in self.planners.items()}
        self.binding = self.pipeline.entities["customer"].bindings["erp"]
        self.rules = {"customer": self.rules_of("customer")}
        self.tree, self.read_from = Tree(self.binding), parts_read(self.binding)
        self.tables: dict[str, dict[str, Texts]] = {"customer": {}, "address": {}, "team": {}}
        self.raw: list[dict[str, Any]] = []
        self.xid, self.seq = 1, 0
        self.captured_rows = {name: Topic() for name in self.tables}
        self.joins = Topic()
        self.nodes = [Held() for _ in range(PARTITIONS)]
        erp = self.db["erp"]
        for key, row in list(erp.rows["customer"].items()):
            self.spread(key, dict(row), None)
            self.show_all(erp)
        for key, row in erp.rows["customer"].items():  # what a verdict begins with
            super().commit(erp, [("customer", key, row)], self.now, op="r")
        erp.unread = [(name, key) for name, rows in self.tables.items() for key in rows]
        self.raw.clear()

    # ---- what it is about --------------------------------------------------------------------------------------------
    def fields(self, entity: str) -> tuple[str, ...]:
        return FIELDS

    def rules_of(self, entity: str) -> Rules:
        if not hasattr(self, "binding"):  # while the world is being made
            return super().rules_of(entity)
        return rules_of(self.pipeline, self.pipeline.entities[entity], lambda *_: False)

    def a_customer(self, d: Database, code: str | None, mark: str) -> Row:
        return {**super().a_customer(d, code, mark), "motto": self.fresh(mark, d, "motto")}

    def may_come_back(self, name: str) -> bool:
        return name in ("city", "motto")  # an address is put in front again, a customer goes back to its team

    def may_be_lost(self, link: str | None, name: str, last: dict[str, Any]) -> bool:
        """A root's end is not kept waiting for what its parts have still to say: their rows are read from other partitions. Should the
        thing come back, it has what was heard. And that there is no address is only believed after a while: if we insert one meanwhile,
        it never was so (docs/decisions/0018)."""
        if name not in ("city", "motto"):
            return False
        rows = {event["key"]: event["row"] for event in self.db["erp"].log}
        ended = any(row is None and self.link("erp", "customer", key) == link for key, row in rows.items())
        return ended or (name == "city" and "erp" in last and last["erp"][0] is None)

    # ---- the ERP's tables --------------------------------------------------------------------------------------------
    def log(self, table: str, key: str, row: Texts | None, op: str) -> None:
        self.raw.append({"table": table, "key": key, "row": row and dict(row), "op": op, "xid": self.xid})

    def put(self, table: str, key: str, **columns: str | None) -> None:
        op = "u" if key in self.tables[table] else "c"
        row = self.tables[table].setdefault(key, {"id": key})
        row.update(columns)
        self.log(table, key, row, op)

    def drop(self, table: str, key: str) -> None:
        del self.tables[table][key]
        self.log(table, key, None, "d")

    def new_key(self, table: str) -> str:
        self.seq += 1
        return f"{table[0]}{self.seq}"

    def homes(self, key: str) -> list[Texts]:
        """A customer's addresses, the first first."""
        part = self.binding.part["address"]
        return sorted((row for row in self.tables["address"].values() if row["customer"] == key and part.in_scope(row)), key=part.order)

    def flat(self, key: str) -> Texts | None:
        root = self.tables["customer"].get(key)
        if root is None:
            return None
        found: Texts = {column: root[column] for column in self.binding.root_columns}
        for part in self.binding.parts:
            row = self.row_of(part, key, root)
            found.update({part.flat(column): None if row is None else row[column] for column in part.columns})
        return found

    def row_of(self, part: Part, key: str, root: Texts) -> Texts | None:
        if part.kind == "parent":
            return self.tables[part.table.name].get(root["team"] or "")
        return next(iter(self.homes(key)), None)

    def spread(self, key: str, row: Row | None, before: Row | None) -> None:
        """What an application does to its rows when its user saves a customer."""
        if row is None:
            for address in [one for one, at in self.tables["address"].items() if at["customer"] == key]:
                self.drop("address", address)
            self.drop("customer", key)
            return
        before = before or {}
        root = self.tables["customer"].get(key, {})
        team = root.get("team")
        if row["motto"] != before.get("motto") or not root:
            if team is None and row["motto"] is not None:
                team = self.new_key("team")
                self.put("team", team, motto=str(row["motto"]))
            elif team is not None:
                self.put("team", team, motto=row["motto"])  # type: ignore[arg-type]
        told = {name: row[name] for name in OF_ROOT} | {"in": "t" if row["in"] else "f", "team": team}
        if any(root.get(name, "") != value for name, value in told.items()):
            self.put("customer", key, **told)
        if row["city"] != before.get("city"):
            first = next(iter(self.homes(key)), None)
            if first is not None:
                self.put("address", str(first["id"]), city=row["city"])  # type: ignore[arg-type]
            elif row["city"] is not None:
                self.put("address", self.new_key("address"), customer=key, seq="5", city=str(row["city"]), kind="home")

    def show_all(self, d: Database) -> list[str]:
        """Brings the flat rows up to what the tables say; which ones are others now."""
        changed = []
        for key in [*d.rows["customer"], *(key for key in self.tables["customer"] if key not in d.rows["customer"])]:
            flat = self.flat(key)
            if flat is None:
                del d.rows["customer"][key]
                changed.append(key)
                continue
            row = d.rows["customer"].setdefault(key, {})
            now = {name: flat[name] for name in OF_ROOT}
            now |= {"city": flat["address.city"], "motto": flat["team.motto"], "in": flat["in"] == "t"}  # type: ignore[dict-item]
            if row != now:
                row.update(now)
                changed.append(key)
        return changed

    # ---- transactions ------------------------------------------------------------------------------------------------
    def commit(
        self,
        d: Database,
        changes: list[tuple[str, str, Row | None]],
        now: int,
        origin: int | None = None,
        op: str | None = None,
        **more: Any,
    ) -> None:
        if d.name != "erp":
            return super().commit(d, changes, now, origin, op, **more)
        for _, key, row in changes:
            before = self.image(key)
            self.spread(key, None if row is None else dict(row), before)
            self.committed(d, now, {key})
        return None

    def image(self, key: str) -> Row:
        """The flat row as the tables have it; `rows` may hold what a user is just about to save."""
        flat = self.flat(key)
        return {} if flat is None else {"city": flat["address.city"], "motto": flat["team.motto"]}

    def committed(
        self, d: Database, now: int, meant: set[str], origin: int | None = None, made: Callable[[str], tuple[str, ...]] = lambda _: ()
    ) -> None:
        """Ends a transaction: what it did goes to the log, under one commit; `meant`: the customers that it was about."""
        for number, event in enumerate(event for event in self.raw if "at" not in event):
            event.update(at=(len(self.raw), number), ts=now + d.skew, origin=origin)
        self.xid += 1
        for key in {*meant, *self.show_all(d)}:
            row = d.rows["customer"].get(key)
            super().commit(d, [("customer", key, row)], now, origin, made=made(key))

    # ---- what users do -----------------------------------------------------------------------------------------------
    def user(self) -> None:
        r, d = self.rng, self.db["erp"]
        if r.random() < 0.3 and d.rows["customer"]:
            d.show()
            self.now += r.randint(1, 2000)
            self.user_of_parts(d, r.choice(list(d.rows["customer"])))
        elif self.has("cleared") and r.random() < 0.15 and (d := self.db[r.choice(("crm", "erp"))]).rows["customer"]:
            self.now += r.randint(1, 2000)
            key = r.choice(list(d.rows["customer"]))
            d.rows["customer"][key][r.choice(("city", "motto"))] = None
            self.commit(d, [("customer", key, d.rows["customer"][key])], self.clock())
        elif r.random() < 0.15 and d.rows["customer"]:
            self.now += r.randint(1, 2000)
            other = self.db["crm"]
            if other.rows["customer"]:
                key = r.choice(list(other.rows["customer"]))
                other.rows["customer"][key]["motto"] = self.fresh("e", other, "motto")
                self.commit(other, [("customer", key, other.rows["customer"][key])], self.clock())
        else:
            super().user()

    def user_of_parts(self, d: Database, key: str) -> None:
        r, homes = self.rng, self.homes(key)
        dice = r.random()
        if dice < 0.3:
            place = r.choice(("1", "3", "9"))
            self.put("address", self.new_key("address"), customer=key, seq=place, city=str(self.fresh("a", d, "city")), kind="home")
        elif dice < 0.45 and homes:
            self.put("address", str(r.choice(homes)["id"]), seq=r.choice(("1", "2", "8")))
        elif dice < 0.6 and homes:
            self.drop("address", str(r.choice(homes)["id"]))
        elif dice < 0.7 and homes:
            self.put("address", str(homes[-1]["id"]), city=str(self.fresh("b", d, "city")))
        elif self.has("shared") and dice < 0.9:
            teams = [*self.tables["team"], None]
            self.put("customer", key, team=r.choice(teams))
        elif self.tables["team"]:
            self.put("team", r.choice(list(self.tables["team"])), motto=str(self.fresh("t", d, "motto")))
        self.committed(d, self.clock(), set())

    # ---- source, intake and join of the ERP --------------------------------------------------------------------------
    def snapshot(self, n: str) -> None:
        d = self.db[n]
        if n != "erp":
            return super().snapshot(n)
        if d.unread:
            table, key = d.unread.pop()
            if key in self.tables[table]:
                self.log(table, key, self.tables[table][key], "r")
                self.raw[-1].update(at=(len(self.raw), 0), ts=self.now + d.skew, origin=None, xid=None)
        return None

    def source(self, n: str) -> None:
        if n != "erp":
            return super().source(n)
        if self.read[n] < len(self.raw):
            event = self.raw[self.read[n]]
            self.captured_rows[event["table"]].send(event["key"], event)
            self.read[n] += 1
            if self.rng.random() < self.crash:
                self.read[n] = max(0, self.read[n] - self.rng.randint(1, 3))
        return None

    def intake(self, n: str, entity: str) -> None:
        if n != "erp":
            return super().intake(n, entity)
        for table in self.tables:
            self.step(
                ("feed", table), self.captured_rows[table], lambda key, event, table=table: (self.fed(table, key, event), lambda: None)
            )
        self.step(("join",), self.joins, self.joined)
        return self.answers(n, entity)

    def answers(self, n: str, entity: str) -> None:
        """Only identify's answers: what is captured of the ERP goes to the join."""
        held, self.captured[n, entity] = self.captured[n, entity], Topic()
        super().intake(n, entity)
        self.captured[n, entity] = held

    def fed(self, table: str, key: str, event: dict[str, Any]) -> list[Callable[[], Any]]:
        part = ROOT if table == "customer" else table
        commit, number = event["at"]
        cause = Cause(part, event["op"], f"{commit:016X}{number:016X}", event["ts"], event["origin"], event["xid"])
        row = event["row"] and {column: event["row"][column] for column in self.tree.columns[part]}
        place = partition_of(key)
        offset = next(at for at, (_, one) in enumerate(self.captured_rows[table].partitions[place]) if one is event)
        message = orjson.dumps(row_message(cause, row, place, offset))
        return [lambda: self.joins.send(node_name(part, key), message)]

    def joined(self, name: str, data: bytes) -> tuple[list[Callable[[], Any]], Callable[[], Any]] | None:
        lane = partition_of(name)
        held = self.nodes[lane]
        outcome = self.tree.step(name, orjson.loads(data), held, lane)
        outputs: list[Callable[[], Any]] = []
        for targets, message in outcome.sends:
            encoded = orjson.dumps(message)
            outputs += [lambda to=to, encoded=encoded: self.joins.send(to, encoded) for to in list(targets)]
        known = dict(self.known["erp", "customer"])
        for told in outcome.told:
            event = row_change(told, self.binding, self.pipeline.entities["customer"], self.read_from)
            place = Place("erp", "customer", lane)
            crosswalk = self.db["erp"].crosswalk
            found = crosswalk.get(("customer", "erp", event.key))
            if told.moved_on:
                step = on_moved(known.get(event.key), event, place)
            else:
                step = self.linked(self.db["erp"], "customer", known.get(event.key), event, place, True, found)
            outputs += [
                lambda link=link, change=change: self.changes["customer"].send(link, change.encode()) for link, change in step.changes
            ]
            outputs += [lambda value=value, claim=claim: self.claims.send(value, claim) for value, claim in step.claims]
            if step.known is None:
                known.pop(event.key, None)
            else:
                known[event.key] = self.stored(step.known)

        def write() -> None:
            for node, state in outcome.puts.items():
                held.put(node, state)
            self.known["erp", "customer"] = known

        return outputs, write

    def replay(self, n: str) -> None:
        if n != "erp":
            return super().replay(n)
        lost = self.rng.random() < 0.5
        if lost:  # what the join knew; which thing a row is stands in another table
            self.nodes = [Held() for _ in range(PARTITIONS)]
        for table in self.tables:
            for p in range(PARTITIONS):
                at = self.read["feed", table, p]
                self.read["feed", table, p] = 0 if lost else self.rng.randint(0, at)
        return None

    def in_flight(self) -> bool:
        erp = self.db["erp"]
        captured, self.captured["erp", "customer"] = self.captured["erp", "customer"], Topic()
        sourced, self.read["erp"] = self.read["erp"], len(erp.log)
        others = super().in_flight()
        self.captured["erp", "customer"], self.read["erp"] = captured, sourced
        mine = [(("feed", table), topic) for table, topic in self.captured_rows.items()] + [(("join",), self.joins)]
        return (
            others
            or bool(erp.unread)
            or sourced < len(self.raw)
            or any(self.read[*agent, p] < len(messages) for agent, topic in mine for p, messages in enumerate(topic.partitions))
        )

    # ---- the sink's writes -------------------------------------------------------------------------------------------
    def as_texts(self, n: str, entity: str, key: str, row: Row) -> Texts:
        if n != "erp":
            return super().as_texts(n, entity, key, row)
        return self.flat(key) or {}

    def perform(self, d: Database, write: Write, there: There, hlc: int) -> None:
        if d.name != "erp":
            return super().perform(d, write, there, hlc)
        before = {key: dict(row) for key, row in d.rows["customer"].items()}
        root = write.key or d.insert("customer", {})
        for step in range(1 + max(row.step for row in write.rows)):
            for row in [one for one in write.rows if one.step == step]:
                row.point()
                self.perform_row(root, row)
        self.now += 1
        d.rows["customer"].pop(root, None)
        meant = {root}

        def made(key: str) -> tuple[str, ...]:
            """What the ERP holds otherwise than we meant it: what was behind a deleted address, another customer's motto."""
            now, was = d.rows["customer"].get(key) or {}, before.get(key, {})
            wrote = write.values if key == root else {}
            return tuple(
                name for name in ("city", "motto") if now and now[name] != was.get(name) and now[name] != wrote.get(name, was.get(name))
            )

        self.committed(d, self.now, meant, hlc, made)
        self.planners["erp"].learn(write, None if write.op is Op.DELETE else self.flat(root), there)
        there.rows.update({("customer", key): self.flat(key) or {} for key in d.rows["customer"]})
        return None

    def perform_row(self, root: str, row: Any) -> None:
        table = "customer" if row.part == ROOT else row.part
        match row.op:
            case RowOp.INSERT:
                key = root if row.part == ROOT else self.new_key(table)
                row.key = (key,)
                blank: Texts = {column.name: None for column in self.table(row.part).columns if column.name != "id"}
                scope = {"in": "t"} if row.part == ROOT else {"kind": "home"} if row.part == "address" else {}
                self.put(table, key, **{**blank, **scope, **row.columns})
            case RowOp.UPDATE:
                self.put(table, row.key[0], **row.columns)
            case RowOp.DELETE:
                self.drop(table, row.key[0])
            case RowOp.CLEAR:
                for address in self.homes(row.key[0]):
                    self.drop("address", str(address["id"]))

    def table(self, part: str) -> Table:
        return self.binding.table if part == ROOT else self.binding.part[part].table
