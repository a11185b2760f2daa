"""Random bindings with parts, random histories of their tables, and the join between topics that deliver at least once.

Everything comes from the seed: the tree of parts (children and parents, parts of parts, aggregates, several parts of one table, composite
and text keys, prefixed links, orders, `where` on every level), what users do in which transactions, what a snapshot still has to read, long
texts that an event leaves out, who runs next, which step crashes and how far it had come, what an old worker still delivers.

The step under test is the real one (`streams.assemble`). The truth is a SQL engine's: `Sqlite` joins the tables as they are at the end.
"""

from __future__ import annotations

import random
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from schemas.catalog import Table
from schemas.config import parse
from schemas.mapping import Binding, compile_config
from schemas.mapping.parts import ROOT, Part
from streams.assemble import Cause, EntityRow, Tree, node_name, row_message
from tests.mapping.mapping_builders import a_config, a_table

PARTITIONS = 2
Columns = dict[str, str | None]


# ---- bindings ------------------------------------------------------------------------------------------------------------------------


@dataclass
class Shape:
    """A table on its way to be one."""

    key: tuple[tuple[str, str], ...]  # (column, type)
    columns: dict[str, str] = field(default_factory=dict)


def a_random_binding(rng: random.Random) -> Binding:
    tables: dict[str, Shape] = {"root": _a_shape(rng)}
    at: dict[str, str] = {ROOT: "root"}  # part → its table
    parts: dict[str, dict[str, Any]] = {}
    fields: dict[str, Any] = {column: {"erp": column} for column in ("value", "note", "stamp")}
    for number in range(rng.randint(1, 5)):
        name = f"p{number}"
        above = rng.choice([ROOT, ROOT, *(part for part, told in parts.items() if "aggregate" not in told)])
        twin = next((one for one in parts.values() if one.get("of", ROOT) == above and "child" in one), None)
        part: dict[str, Any] = {} if above == ROOT else {"of": above}
        if twin is not None and rng.random() < 0.4:  # another part of the same table
            at[name], part["table"], part["child"] = twin["table"], twin["table"], twin["child"]
        else:
            table = at[name] = part["table"] = f"t{number}"
            tables[table] = _a_shape(rng)
            kind = rng.choice(("child", "child", "parent"))
            holder, held = (tables[table], tables[at[above]]) if kind == "child" else (tables[at[above]], tables[table])
            part[kind] = _a_link(rng, holder, held, name)
        if rng.random() < 0.4:
            part["where"] = {"active": True}
        if "child" in part and rng.random() < 0.3:
            part["aggregate"] = {
                "n": "count",
                "total": {"sum": "amount"},
                "most": {"max": "amount"},
                "all": {"list": "value", "by": ["rank desc"]},
            }
            fields |= {f"{name}_{made}": {"erp": f"{name}.{made}"} for made in part["aggregate"]}
        else:
            if "child" in part:
                part["first_by"] = rng.sample(["rank", "rank desc", "amount nulls first", "value"], rng.randint(0, 2))
            fields |= {f"{name}_{column}": {"erp": f"{name}.{column}"} for column in ("value", "note", "stamp")}
        parts[name] = part
    for part in parts.values():
        part["first_by"] = _distinct(part.get("first_by", ()))
        if not part["first_by"]:
            del part["first_by"]
    where = {f"{name}.active": True for name, part in parts.items() if "aggregate" not in part and rng.random() < 0.15}
    entities = {"thing": {"erp": {"table": "root", "parts": parts, "where": where}, "fields": fields}}
    catalog = {str(table): table for name, shape in tables.items() for table in [_table(name, shape)]}
    return compile_config(parse(a_config(entities, "erp")), {"erp": catalog}).entities["thing"].bindings["erp"]


def _distinct(orders: Any) -> list[str]:
    seen: dict[str, str] = {}
    for order in orders:
        seen.setdefault(order.split()[0], order)
    return list(seen.values())


def _a_shape(rng: random.Random) -> Shape:
    kind = rng.choice(("integer", "integer", "text"))
    key = (("k", kind),) if rng.random() < 0.8 else (("k1", "integer"), ("k2", "text"))
    return Shape(key, {"value": "text", "note": "text", "stamp": "integer", "rank": "integer", "amount": "numeric", "active": "boolean"})


def _a_link(rng: random.Random, holder: Shape, held: Shape, name: str) -> Any:
    """Columns of `holder` with the key of `held`."""
    if len(held.key) == 1 and rng.random() < 0.3:
        holder.columns[f"to_{name}"] = "text"
        return {"column": f"to_{name}", "prefix": "it,"}
    columns = [f"to_{name}_{column}" for column, _ in held.key]
    holder.columns |= dict(zip(columns, [kind for _, kind in held.key], strict=True))
    return columns


def _table(name: str, shape: Shape) -> Table:
    columns = {column: f"{kind}!=" for column, kind in shape.key} | shape.columns
    return a_table(name, key=",".join(column for column, _ in shape.key), **columns)


# ---- the database --------------------------------------------------------------------------------------------------------------------


class Database:
    """The tables, what users do with them, and their log."""

    def __init__(self, binding: Binding, rng: random.Random) -> None:
        self.binding, self.rng = binding, rng
        self.tables = {table.name: table for table in binding.tables}
        self.rows: dict[str, dict[str, Columns]] = {name: {} for name in self.tables}
        self.links = self._links()
        self.lsn, self.committed, self.xid, self.stamp = 100, 90, 1, 0
        self.log: list[dict[str, Any]] = []
        self.unread: list[tuple[str, str]] = []
        self.unseen: set[tuple[str, str]] = set()  # rows whose long texts nobody has been told yet

    def _links(self) -> dict[str, list[tuple[Part, Table]]]:
        """Table → (part, table whose key its link columns hold)."""
        links: dict[str, list[tuple[Part, Table]]] = defaultdict(list)
        for part in self.binding.parts:
            above = self.binding.table if part.of == ROOT else self.binding.part[part.of].table
            holder, held = (part.table, above) if part.kind == "child" else (above, part.table)
            links[holder.name].append((part, held))
        return links

    def some_key(self, table: Table) -> list[str]:
        return [str(self.rng.randint(1, 3)) for _ in table.primary_key]

    def key_of(self, table: Table, row: Columns) -> str:
        texts = [row[column] for column in table.primary_key]
        return str(texts[0]) if len(texts) == 1 else orjson.dumps(texts).decode()

    def some_row(self, table: Table, key: list[str], old: Columns | None) -> Columns:
        rng = self.rng
        self.stamp += 1
        row: Columns = {**(old or {}), **dict(zip(table.primary_key, key, strict=True))}
        if old is None or rng.random() < 0.7:
            row["value"], row["stamp"] = f"{table.name} {key} {self.stamp:04}", str(self.stamp)
            row["note"] = rng.choice([None, f"{row['value']} and a text that is long"])
        if old is None or rng.random() < 0.3:
            row["rank"] = rng.choice([None, "1", "2", "3"])
        if old is None or rng.random() < 0.3:
            row["amount"] = rng.choice([None, "1.5", "-2", "10"])
        if old is None or rng.random() < 0.3:
            row["active"] = rng.choice("ttf")
        for part, held in self.links[table.name]:
            if old is None or rng.random() < 0.3:
                texts = self.some_key(held)
                told = part.link_texts(texts)
                if rng.random() < 0.15:
                    told = dict.fromkeys(told)
                elif part.prefix and rng.random() < 0.2:
                    told = dict.fromkeys(told, f"other,{texts[0]}")
                row.update(told)
        return row

    def user(self) -> None:
        """One transaction. Its changes may be older in the log than what was committed before it."""
        rng = self.rng
        self.xid += 1
        changes: list[dict[str, Any]] = []
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            table = self.tables[rng.choice(list(self.tables))]
            rows = self.rows[table.name]
            texts = self.some_key(table)
            key = self.key_of(table, dict(zip(table.primary_key, texts, strict=True)))
            old = rows.get(key)
            if old is not None and rng.random() < 0.3:
                changes += self.deleted(table, key)
                if rng.random() < 0.5:  # a form deletes and inserts
                    changes += self.written(table, key, self.some_row(table, texts, None), None)
            else:
                changes += self.written(table, key, self.some_row(table, texts, old), old)
        late = rng.random() < 0.3
        for number, change in enumerate(changes, 1):
            self.lsn += 10
            lsn = self.lsn - rng.randint(1, 40) * 10 + number if late else self.lsn
            self.log.append({**change, "at": (self.committed, lsn if not late else number), "xid": self.xid})
        self.lsn += 10
        self.committed = self.lsn

    def written(self, table: Table, key: str, row: Columns, old: Columns | None) -> list[dict[str, Any]]:
        self.rows[table.name][key] = row
        told = dict(row)
        known = old is not None and (table.name, key) not in self.unseen
        if old is not None and known and row["note"] is not None and row["note"] == old["note"] and self.rng.random() < 0.5:
            del told["note"]  # unchanged TOAST
        self.unseen.discard((table.name, key))
        return [{"table": table.name, "key": key, "op": "u" if old is not None else "c", "row": told}]

    def deleted(self, table: Table, key: str) -> list[dict[str, Any]]:
        del self.rows[table.name][key]
        return [{"table": table.name, "key": key, "op": "d", "row": None}]

    def snapshot(self, pace: int) -> None:
        """A chunk of rows, read while users go on: they carry the place of the watermark, and come after what was done meanwhile."""
        if not self.unread:
            return
        mark = (self.committed, self.lsn + 1)  # of the watermark, which is a transaction
        self.lsn += 10
        self.committed = self.lsn
        chunk = [self.unread.pop() for _ in range(min(len(self.unread), self.rng.randint(1, 4)))]
        read = {(table, key): dict(self.rows[table][key]) for table, key in chunk if key in self.rows[table]}
        since = len(self.log)
        for _ in range(self.rng.randint(0, pace)):
            self.user()
        changed = {(event["table"], event["key"]) for event in self.log[since:]}
        for (table, key), row in read.items():
            self.unseen.discard((table, key))
            if (table, key) not in changed:
                self.log.append({"table": table, "key": key, "op": "r", "row": row, "at": mark, "xid": None})


# ---- the streams ---------------------------------------------------------------------------------------------------------------------


class Held:
    """A partition of the join's table, as the reducer sees it."""

    def __init__(self) -> None:
        self.states: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        return self.states.get(name)

    def members(self, group: str) -> dict[str, bytes]:
        prefix = f"{group}\0"
        return {name[len(prefix) :]: value for name, value in self.states.items() if name.startswith(prefix)}

    def put(self, name: str, value: bytes | None) -> None:
        if value is None:
            self.states.pop(name, None)
        else:
            self.states[name] = value


def partition_of(name: str) -> int:
    return sum(map(ord, name)) % PARTITIONS


class World:
    def __init__(
        self, seed: int, crash: float = 0.15, ops: int = 30, strays: float = 0.02, initial: float = 0.5, pace: int = 8, without: str = ""
    ) -> None:
        self.rng = random.Random(seed)
        self.binding = a_random_binding(self.rng)
        self.tree = Tree(self.binding)
        self.crash, self.ops, self.strays, self.pace, self.without = crash, ops, strays, pace, without
        self.db = Database(self.binding, self.rng)
        for name, table in self.db.tables.items():
            for _ in range(self.rng.randint(0, 4) if self.rng.random() < initial else 0):
                texts = self.db.some_key(table)
                key = self.db.key_of(table, dict(zip(table.primary_key, texts, strict=True)))
                if key not in self.db.rows[name]:
                    self.db.rows[name][key] = self.db.some_row(table, texts, None)
                    self.db.unread.append((name, key))
                    self.db.unseen.add((name, key))
        self.sourced = 0
        self.captured: dict[tuple[str, int], list[dict[str, Any]]] = {(name, p): [] for name in self.db.tables for p in range(PARTITIONS)}
        self.topic: list[list[tuple[str, bytes]]] = [[] for _ in range(PARTITIONS)]
        self.sent: list[tuple[str, bytes]] = []
        self.read: Counter[Any] = Counter()
        self.held = [Held() for _ in range(PARTITIONS)]
        self.told: list[EntityRow] = []
        self.columns = {name: self._columns(name) for name in self.db.tables}

    def _columns(self, table: str) -> list[tuple[str, tuple[str, ...]]]:
        """(node's part, columns it wants) of a table."""
        found = [(ROOT, self.binding.root_columns)] if table == self.binding.table.name else []
        return found + [(part.name, part.columns) for part in self.binding.parts if part.table.name == table]

    # ---- one step of everybody
    def source(self) -> None:
        if self.sourced < len(self.db.log):
            event = self.db.log[self.sourced]
            self.captured[event["table"], partition_of(event["key"])].append(event)
            self.sourced += 1
            if self.rng.random() < self.crash:
                self.sourced = max(0, self.sourced - self.rng.randint(1, 3))

    def feed(self) -> None:
        place = self.rng.choice(list(self.captured))
        at = self.read[place]
        if at < len(self.captured[place]):
            event = self.captured[place][at]
            sends = [lambda m=message: self.send(*m) for message in self.messages(event, place[1], at)]
            self.step(place, at, sends)

    def messages(self, event: dict[str, Any], partition: int, offset: int) -> Iterator[tuple[str, bytes]]:
        for part, columns in self.columns[event["table"]]:
            commit, lsn = event["at"]
            cause = Cause(part, event["op"], f"{commit:016X}{lsn:016X}", 1000 * commit, None, event["xid"])
            row = event["row"] and {column: event["row"][column] for column in columns if column in event["row"]}
            yield node_name(part, event["key"]), orjson.dumps(row_message(cause, row, partition, offset))

    def send(self, name: str, data: bytes) -> None:
        self.topic[partition_of(name)].append((name, data))
        self.sent.append((name, data))

    def join(self, p: int | None = None) -> None:
        p = self.rng.randrange(PARTITIONS) if p is None else p
        at = self.read["join", p]
        if at >= len(self.topic[p]):
            return
        name, data = self.topic[p][at]
        held = self.held[p]
        message = orjson.loads(data)
        if self.without == "own" and message["kind"] == "document":
            self.believe(name, message["part"], message["key"])
        outcome = self.tree.step(name, message, held, p)
        doing: list[Callable[[], Any]] = []
        for targets, message in outcome.sends:
            encoded = orjson.dumps(message)
            doing += [lambda to=to, encoded=encoded: self.send(to, encoded) for to in list(targets)]
        doing += [lambda row=row: self.told.append(row) for row in outcome.told]
        puts = [lambda n=n, v=v: held.put(n, v) for n, v in outcome.puts.items()]
        if self.without == "outputs":
            self.step(("join", p), at, [*puts, *doing])
        else:
            self.step(("join", p), at, [*doing, *puts], atomic=len(puts))

    def believe(self, name: str, part: str, key: str) -> None:
        """Takes the sender of a document for the one that is pointed at."""
        held = self.held[partition_of(name)]
        node = orjson.loads(held.get(name) or b'{"slots":{}}')
        if part in node["slots"]:
            node["slots"][part] |= {"to": key, "pending": False, "v": ""}
            held.put(name, orjson.dumps(node))

    def step(self, reader: Any, at: int, doing: list[Callable[[], Any]], atomic: int = 0) -> None:
        """outputs before state, both before the offset; `atomic`: the last ones are one write."""
        if self.rng.random() < self.crash:
            far = self.rng.randint(0, len(doing))
            doing = doing[:far] if far <= len(doing) - atomic else doing
            at -= 1 + (self.rng.randint(0, 4) if self.rng.random() < 0.3 else 0)
        for do in doing:
            do()
        self.read[reader] = max(0, at + 1)

    def stray(self) -> None:
        """What a worker that lost its partitions sends all the same."""
        if self.sent and self.rng.random() < self.strays:
            self.send(*self.rng.choice(self.sent))

    # ---- running
    def run(self) -> str:
        for _ in range(self.rng.randint(1, self.ops)):
            if self.db.unread and self.rng.random() < 0.3:
                self.db.snapshot(2)
            self.db.user()
            for _ in range(self.rng.randint(0, self.pace)):
                self.rng.choice((self.source, self.feed, self.join, self.join))()
                self.stray()
        while self.db.unread:
            self.db.snapshot(0)
        self.crash /= 4
        if not self.settle():
            return "never settles"
        return self.verdict()

    def settle(self) -> bool:
        for _ in range(60_000):
            if self.sourced >= len(self.db.log) and all(self.read[place] >= len(log) for place, log in self.captured.items()):
                if all(self.read["join", p] >= len(self.topic[p]) for p in range(PARTITIONS)):
                    return True
                self.join()
            else:
                self.rng.choice((self.source, self.feed, self.join, self.join))()
        return False

    def replay(self) -> str:
        """Everything captured is read again from somewhere, with what the tables hold: nothing may be told that is not so."""
        self.crash = self.strays = 0.0
        before, shown = len(self.told), self.shown()
        for place, log in self.captured.items():
            self.read[place] = self.rng.randint(0, len(log))
        if not self.settle():
            return "never settles"
        for row in self.told[before:]:
            if (row.row if row.row is not None and self.binding.in_scope(row.row) else None) != shown.get(row.key):
                return "a replay turned a row back"
        return self.verdict()

    # ---- what must be true
    def shown(self) -> dict[str, Columns]:
        """Root key → flat row, as a reader has it that keeps the greater position of each part."""
        found: dict[str, Columns] = {}
        at: dict[str, dict[str, str]] = defaultdict(dict)
        for told in self.told:
            if told.row is None or not self.binding.in_scope(told.row):
                if told.position > at[told.key].get(ROOT, ""):
                    at[told.key] = {ROOT: told.position}
                    found.pop(told.key, None)
                continue
            if told.key not in found and told.position <= at[told.key].get(ROOT, ""):
                continue
            row = found.setdefault(told.key, {})
            for part, position in {ROOT: told.position, **told.positions}.items():
                if position > at[told.key].get(part, "") or part not in at[told.key]:
                    at[told.key][part] = position
                    row.update({column: text for column, text in told.row.items() if self.binding.split(column)[0] == part})
        return found

    def truth(self) -> dict[str, Columns]:
        return {key: row for key, row in Sqlite(self.binding, self.db.rows).flat_rows().items() if self.binding.in_scope(row)}

    def verdict(self) -> str:
        truth = self.truth()
        shown = self.shown()
        if truth.keys() != shown.keys():
            return "a row that is not there, or one too many"
        for key, row in truth.items():
            if shown[key] != row:
                return "not the SQL join"
        return self.history() or "ok"

    def history(self) -> str | None:
        """A row of a table is never shown as it was after it was shown as it became later, unless it hangs at another row now, which may
        not know yet that it has left. A version only grows with what it tells."""
        latest: dict[tuple[str, ...], int] = {}
        newest: dict[str, str] = {}
        for told in self.told:
            if told.version <= newest.get(told.key, "") and self.without != "position":
                continue  # sent twice, or late
            newest[told.key] = told.version
            for part in (ROOT, *self.binding.part):
                stamp = (told.row or {}).get("stamp" if part == ROOT else f"{part}.stamp")
                if stamp is not None and told.row is not None:
                    of = (told.key, part, *self.path(part, told.row))
                    if int(stamp) < latest.get(of, 0):
                        return "a value fell back"
                    latest[of] = int(stamp)
        return None

    def path(self, part: str, row: Columns) -> Iterator[str]:
        """The rows that are shown, from the part's up to the root."""
        while part != ROOT:
            yield str(row[f"{part}.value"]).rpartition(" ")[0]
            part = self.binding.part[part].of


class Sqlite:
    """The same join by a SQL engine, over the tables as they are."""

    def __init__(self, binding: Binding, rows: dict[str, dict[str, Columns]]) -> None:
        self.binding = binding
        self.db = sqlite3.connect(":memory:")
        for table in binding.tables:
            columns = ", ".join(f'"{column.name}" {_SQLITE.get(column.base, "TEXT")}' for column in table.columns)
            self.db.execute(f'CREATE TABLE "{table.name}" ({columns})')
            for row in rows[table.name].values():
                values = [row[column.name] for column in table.columns]
                self.db.execute(f'INSERT INTO "{table.name}" VALUES ({", ".join("?" * len(values))})', values)

    def flat_rows(self) -> dict[str, Columns]:
        root = self.binding.table.name
        wanted = {column: f'CAST(r."{column}" AS TEXT)' for column in self.binding.root_columns}
        for part in self.binding.parts:
            shown = Tree(self.binding).shown[part.name]
            wanted |= {part.flat(column): self.column(part, column) for column in shown}
        told = ", ".join(wanted.values())
        found = {}
        for values in self.db.execute(f'SELECT {told} FROM "{root}" r'):
            row = dict(zip(wanted, values, strict=True))
            found[self.binding.key_of(row)] = {column: self.text(column, text) for column, text in row.items()}
        self.db.close()
        return found

    def column(self, part: Part, column: str) -> str:
        if part.aggregates:
            return self.aggregate(part, column)
        return f'(SELECT CAST(x."{column}" AS TEXT) FROM "{part.table.name}" x WHERE x.rowid = {self.chosen(part)})'

    def chosen(self, part: Part) -> str:
        """The rowid of the part's row."""
        order = ", ".join(sorting.sql(f'c."{sorting.column}"').replace(' COLLATE "C"', "") for sorting in part.sorting)
        return f"(SELECT c.rowid FROM {self.rows_of(part)}{f' ORDER BY {order}' if order else ''} LIMIT 1)"

    def rows_of(self, part: Part) -> str:
        """`c`: the part's rows; the one that they hang at is `a`."""
        above = self.binding.table.name if part.of == ROOT else self.binding.part[part.of].table.name
        at = "r.rowid" if part.of == ROOT else self.chosen(self.binding.part[part.of])
        key_of, linked = ("a", "c") if part.kind == "child" else ("c", "a")
        held = self.binding.part[part.of].table if part.of != ROOT else self.binding.table
        keys = (held if part.kind == "child" else part.table).primary_key
        links = [
            f'{linked}."{link}" = \'{part.prefix}\' || {key_of}."{key}"' if part.prefix else f'{linked}."{link}" = {key_of}."{key}"'
            for link, key in zip(part.link, keys, strict=True)
        ]
        scope = [f"c.\"{column}\" = '{texts[0]}'" for column, texts in part.scope.items()]
        return f'"{above}" a, "{part.table.name}" c WHERE a.rowid = {at} AND {" AND ".join([*links, *scope])}'

    def aggregate(self, part: Part, name: str) -> str:
        rows = self.rows_of(part)
        match name:
            case "n":
                return f"(SELECT CAST(count(*) AS TEXT) FROM {rows})"
            case "total":
                return f"(SELECT CAST(sum(c.amount) AS TEXT) FROM {rows})"
            case "most":
                return f"(SELECT CAST(max(CAST(c.amount AS REAL)) AS TEXT) FROM {rows})"
        order = ", ".join(sorting.sql(f'c."{sorting.column}"').replace(' COLLATE "C"', "") for sorting in part.aggregates[name].sorting)
        return f"(SELECT json_group_array(v) FROM (SELECT c.value AS v FROM {rows} ORDER BY {order}))"

    def text(self, column: str, text: Any) -> str | None:
        part, name = self.binding.split(column)
        if part != ROOT and self.binding.part[part].aggregates:
            if name == "all":
                return None if text == "[]" else orjson.dumps(orjson.loads(text)).decode()
            if name in ("total", "most") and text is not None:
                return f"{float(text):g}"
        return None if text is None else str(text)


_SQLITE = {"integer": "INTEGER", "numeric": "NUMERIC"}


def outcomes(seeds: range, **options: Any) -> Counter[str]:
    return Counter(World(seed, **options).run() for seed in seeds)


if __name__ == "__main__":
    import sys

    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    print(dict(outcomes(range(first, first + int(sys.argv[1]) if len(sys.argv) > 1 else 300))))
