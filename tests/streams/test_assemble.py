"""The join's reducer, without Kafka: random bindings, histories and interleavings against SQL, and what single events do."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import orjson
import psycopg
import pytest

from schemas.change import Op
from schemas.config import parse
from schemas.errors import MappingError, SchemaError
from schemas.mapping import Binding, compile_config
from schemas.mapping.parts import ROOT, Part
from schemas.metrics import State
from streams import assemble
from streams.assemble import KEPT_GONE, Cause, EntityRow, Tree, node_name, row_message
from tests.mapping.mapping_builders import a_config, a_table
from tests.streams.join_simulator import Columns, Held, World

# ---- random histories ------------------------------------------------------------------------------------------------------------------


def outcome(seed: int, **options: Any) -> str:
    world = World(seed, **options)
    ended = world.run()
    return world.replay() if ended == "ok" else ended


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_random_histories_end_as_the_sql_join_and_no_value_falls_back(first: int) -> None:
    assert Counter(outcome(seed) for seed in range(first, first + 100)) == {"ok": 100}


def test_what_is_remembered_of_rows_that_left_is_bounded_and_a_replay_turns_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "KEPT_GONE", 1)
    assert Counter(outcome(seed, ops=50, strays=0.1) for seed in range(120)) == {"ok": 120}


def test_random_histories_end_as_postgresqls_join(postgres: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        for seed in range(2000, 2040):
            world = World(seed)
            assert world.run() == "ok"
            truth = {key: row for key, row in joined_by_postgres(connection, world).items() if world.binding.in_scope(row)}
            assert world.shown() == truth, f"seed {seed}"


def joined_by_postgres(connection: psycopg.Connection[Any], world: World) -> dict[str, Columns]:
    """Root key → flat row, from the tables as they are."""
    binding = world.binding
    for table in binding.tables:
        columns = ", ".join(f'"{column.name}" {column.type}' for column in table.columns)
        connection.execute(f'DROP TABLE IF EXISTS pg_temp."{table.name}"'.encode())
        connection.execute(f'CREATE TEMP TABLE "{table.name}" ({columns})'.encode())
        for row in world.db.rows[table.name].values():
            places = ", ".join(f"%s::{column.type}" for column in table.columns)
            connection.execute(f'INSERT INTO "{table.name}" VALUES ({places})'.encode(), [row[column.name] for column in table.columns])
    wanted = {column: f'"r"."{column}"::text' for column in binding.root_columns}
    wanted |= {part.flat(column): f'"{part.name}"."{column}"::text' for part in binding.parts for column in world.tree.shown[part.name]}
    joins = " ".join(lateral(binding, part) for part in binding.parts)
    found = {}
    query = f'SELECT {", ".join(wanted.values())} FROM "{binding.table.name}" r {joins}'
    for values in connection.execute(query.encode()).fetchall():
        row: Columns = dict(zip(wanted, values, strict=True))
        for column, text in row.items():
            if text is not None and column.endswith(".all"):
                row[column] = orjson.dumps(orjson.loads(text)).decode()
            elif text is not None and column.endswith(".active"):
                row[column] = text[0]
            elif text is not None and column.endswith((".total", ".most")):
                row[column] = f"{float(text):g}"
        found[binding.key_of(row)] = row
    return found


def lateral(binding: Binding, part: Part) -> str:
    above = "r" if part.of == ROOT else part.of
    held = binding.table if part.of == ROOT else binding.part[part.of].table
    keys = held.primary_key if part.kind == "child" else part.table.primary_key
    holder, key_of = ("c", above) if part.kind == "child" else (above, "c")
    links = [
        f'"{holder}"."{link}" = \'{part.prefix}\' || "{key_of}"."{key}"' if part.prefix else f'"{holder}"."{link}" = "{key_of}"."{key}"'
        for link, key in zip(part.link, keys, strict=True)
    ]
    where = " AND ".join([*links, *(f"c.\"{column}\" = '{texts[0]}'" for column, texts in part.scope.items())])
    if not part.aggregates:
        order = ", ".join(sorting.sql(f'c."{sorting.column}"') for sorting in part.sorting)
        chosen = f" ORDER BY {order} LIMIT 1" if order else ""
        return f'LEFT JOIN LATERAL (SELECT * FROM "{part.table.name}" c WHERE {where}{chosen}) "{part.name}" ON true'
    listed = ", ".join(sorting.sql(f'c."{sorting.column}"') for sorting in part.aggregates["all"].sorting)
    made = f'count(*) AS n, sum(amount) AS total, max(amount) AS most, json_agg(value ORDER BY {listed}) AS "all"'
    return f'LEFT JOIN LATERAL (SELECT {made} FROM "{part.table.name}" c WHERE {where}) "{part.name}" ON true'


# ---- what single events do -----------------------------------------------------------------------------------------------------------

PARTY = a_table("party", name="text", kind="text", template="integer", notes="text")
ADDRESS = a_table("address", party="integer!", street="text", sequence="integer", active="boolean!=")
TEMPLATE = a_table("template", name="text", active="boolean!=")
PRICE = a_table("price", template="integer!", amount="numeric")
SALE = a_table("sale", party="integer!", amount="numeric")
THERE = a_table("there", **dict.fromkeys(("name", "street", "product", "price", "total", "notes"), "text"))


def a_tree(**binding: Any) -> Tree:
    parts = {
        "address": {"table": "address", "child": "party", "first_by": ["sequence"], "where": {"active": True}},
        "template": {"table": "template", "parent": "template"},
        "price": {"table": "price", "child": "template", "of": "template"},
        "sales": {"table": "sale", "child": "party", "aggregate": {"total": {"sum": "amount"}}},
    }
    fields = {
        "name": {"erp": "name"},
        "notes": {"erp": "notes"},
        "street": {"erp": "address.street"},
        "product": {"erp": "template.name"},
        "price": {"erp": {"column": "price.amount", "write": False}},
        "total": {"erp": "sales.total"},
    }
    entities = {"customer": {"erp": {"table": "party", "parts": parts, **binding}, "fields": fields}}
    catalog = {str(table): table for table in (PARTY, ADDRESS, TEMPLATE, PRICE, SALE)}
    return Tree(compile_config(parse(a_config(entities, "erp")), {"erp": catalog}).entities["customer"].bindings["erp"])


class Running:
    """A join whose messages are delivered one after the other; `hold` keeps what is for some nodes until `let_go`."""

    def __init__(self, tree: Tree | None = None) -> None:
        self.tree, self.held = tree or a_tree(), Held()
        self.waiting: deque[tuple[str, Any]] = deque()
        self.told: list[EntityRow] = []
        self.ends: list[State | None] = []
        self.lsn, self.transaction = 0, 0

    def commit(self, *changes: tuple[str, str, Columns | None], settle: bool = True, origin: int | None = None) -> list[EntityRow]:
        """One transaction: (part, op, row; of a delete, its key). What is told of it."""
        before, self.transaction = len(self.told), self.transaction + 1
        for part, op, row in changes:
            self.lsn += 1
            at = f"{self.transaction:016X}{self.lsn:016X}"
            cause = Cause(part, op, at, self.transaction, origin, self.transaction)
            key = str((row or {})["id"])
            self.send(node_name(part, key), row_message(cause, None if op == "d" else row, 0, self.lsn))
        if settle:
            self.settle()
        return self.told[before:]

    def send(self, name: str, message: Any) -> None:
        self.waiting.append((name, orjson.loads(orjson.dumps(message))))

    def settle(self) -> None:
        while self.waiting:
            self.next()

    def next(self) -> None:
        name, message = self.waiting.popleft()
        outcome = self.tree.step(name, message, self.held, 0)
        for targets, sent in outcome.sends:
            for to in targets:
                self.send(to, sent)
        for put, value in outcome.puts.items():
            self.held.put(put, value)
        self.told += outcome.told
        self.ends.append(outcome.end)


def a_party(**columns: Any) -> tuple[str, str, Columns]:
    return (ROOT, columns.pop("op", "c"), {"id": "1", "name": "Acme", "kind": "customer", "template": None, "notes": None, **columns})


def an_address(op: str = "c", **columns: Any) -> tuple[str, str, Columns]:
    return ("address", op, {"id": "7", "party": "1", "street": "Main 1", "sequence": "1", "active": "t", **columns})


def streets(told: list[EntityRow]) -> list[str | None]:
    return [row.row["address.street"] for row in told if row.row is not None]


def test_a_root_with_its_parts_in_one_transaction_is_told_once_and_whole() -> None:
    for order in (1, -1):
        template, price = (
            ("template", "c", {"id": "5", "name": "Bolt", "active": "t"}),
            ("price", "c", {"id": "9", "template": "5", "amount": "3"}),
        )
        [told] = Running().commit(*[a_party(template="5"), an_address(), template, price][::order])
        assert told.op is Op.CREATE
        assert told.row is not None
        assert {column: told.row[column] for column in ("name", "address.street", "template.name", "price.amount", "sales.total")} == {
            "name": "Acme",
            "address.street": "Main 1",
            "template.name": "Bolt",
            "price.amount": "3",
            "sales.total": None,
        }


def test_a_part_that_is_not_there_is_looked_for_twice_and_then_null() -> None:
    join = Running()
    [told] = join.commit(a_party())
    assert streets([told]) == [None]
    [later] = join.commit(an_address())
    assert (later.op, later.cause.part, streets([later])) == (Op.UPDATE, "address", ["Main 1"])
    assert later.version > told.version
    assert later.position == told.position
    assert later.positions["address"] > told.positions["address"]


def test_a_form_that_deletes_and_inserts_a_child_with_the_same_values_says_nothing() -> None:
    join = Running()
    join.commit(a_party(), an_address())
    assert join.commit(("address", "d", {"id": "7"}), an_address(id="8")) == []
    [told] = join.commit(("address", "d", {"id": "8"}), an_address(id="9", street="Side 2"))
    assert streets([told]) == ["Side 2"]


def test_a_cascade_deletes_the_root_and_tells_nothing_of_its_parts() -> None:
    for order in (1, -1):
        join = Running()
        join.commit(a_party(), an_address())
        told = join.commit(*[("address", "d", {"id": "7"}), (ROOT, "d", {"id": "1"})][::order])
        assert [row.op for row in told] == [Op.DELETE]


def test_a_child_that_is_gone_is_told_after_the_second_look() -> None:
    join = Running()
    join.commit(a_party(), an_address())
    [told] = join.commit(("address", "d", {"id": "7"}))
    assert (streets([told]), told.op, told.cause.op) == ([None], Op.UPDATE, "d")


OURS = {"street": ["Side 2", 7]}


def a_found(part: str, row: Columns, ours: Any = None) -> tuple[str, Any]:
    """A row read after a lost slot, to its node."""
    cause = Cause(part, "r", f"{1000:016X}{1000:016X}", 9, None, None, found=True)
    return node_name(part, str(row["id"])), row_message(cause, row, 0, 99, ours=ours)


@pytest.mark.parametrize("order", [1, -1])
def test_what_our_sink_had_written_before_a_slot_was_lost_comes_with_the_root_and_what_is_found_of_its_parts(order: int) -> None:
    join = Running()
    join.commit(a_party(), an_address())
    found = [a_found(ROOT, {**a_party()[2], "name": "Acne"}, OURS), a_found("address", {**an_address()[2], "street": "Far 3"})]
    for name, message in found[::order]:
        join.send(name, message)
        join.settle()
    told = join.told[1:]
    assert [(row.cause.part, row.ours) for row in told] == ([(ROOT, OURS), ("address", OURS)] if order == 1 else [(ROOT, OURS)])
    assert streets(told) == ["Main 1", "Far 3"][-len(told) :]
    join.transaction = 1000
    [later] = join.commit(an_address("u", street="Side 4"))
    assert (streets([later]), later.ours) == (["Side 4"], {})


def test_a_part_that_is_read_again_by_itself_waits_for_nothing() -> None:
    join = Running()
    join.commit(a_party(), an_address())
    assert streets(join.commit(an_address("r", street="Far 3"))) == ["Far 3"]


def test_another_becomes_the_first() -> None:
    join = Running()
    join.commit(a_party(), an_address(), an_address(id="8", street="Side 2", sequence="2"))
    assert streets(join.commit(an_address("u", id="8", street="Side 2", sequence="0"))) == ["Side 2"]
    assert streets(join.commit(an_address("u", id="8", street="Side 2", sequence="0", active="f"))) == ["Main 1"]
    assert streets(join.commit(an_address(id="9", street="Far 3", sequence=None))) == []


def test_a_part_that_moves_to_another_row_is_gone_from_the_one_and_there_at_the_other() -> None:
    join = Running()
    join.commit(a_party(), a_party(id="2"), an_address())
    told = join.commit(an_address("u", party="2"))
    assert {row.key: streets([row]) for row in told} == {"1": [None], "2": ["Main 1"]}


def test_a_template_is_one_message_to_all_that_point_at_it() -> None:
    join = Running()
    join.commit(
        ("template", "c", {"id": "5", "name": "Bolt", "active": "t"}), *(a_party(id=str(number), template="5") for number in range(1, 21))
    )
    told = join.commit(("template", "u", {"id": "5", "name": "Nut", "active": "t"}))
    assert {row.key for row in told} == {str(number) for number in range(1, 21)}
    assert all(row.row is not None and row.row["template.name"] == "Nut" for row in told)
    join.commit(*(a_party(op="u", id=str(number), template=None) for number in range(1, 20)))
    assert [row.key for row in join.commit(("template", "u", {"id": "5", "name": "Screw", "active": "t"}))] == ["20"]


def test_the_old_parent_is_shown_until_the_new_one_answers() -> None:
    join = Running()
    templates = [("template", "c", {"id": str(number), "name": f"T{number}", "active": "t"}) for number in (5, 6)]
    join.commit(*templates, a_party(template="5"))
    told = join.commit(a_party(op="u", template="6", name="Acme AG"))
    assert [(row.row or {})["template.name"] for row in told] == ["T5", "T6"]
    assert {(row.row or {})["name"] for row in told} == {"Acme AG"}


def test_a_row_enters_and_leaves_scope_through_a_part() -> None:
    join = Running(a_tree(where={"template.active": True}))
    join.commit(("template", "c", {"id": "5", "name": "Bolt", "active": "f"}), a_party(template="5"))
    [entered] = join.commit(("template", "u", {"id": "5", "name": "Bolt", "active": "t"}))
    assert (entered.op, join.tree.binding.in_scope(entered.row or {})) == (Op.CREATE, True)
    [left] = join.commit(("template", "u", {"id": "5", "name": "Bolt", "active": "f"}))
    assert not join.tree.binding.in_scope(left.row or {})
    assert left.position > entered.position
    assert join.commit(("template", "u", {"id": "5", "name": "Nut", "active": "f"})) == []
    assert join.ends[-1] is State.OUT_OF_SCOPE


def test_a_text_that_an_event_leaves_out_is_what_it_was() -> None:
    join = Running()
    long = "x" * 3000
    join.commit(a_party(notes=long), an_address(street=long))
    party, address = a_party(op="u", name="Acme AG"), an_address("u", sequence="3")
    del party[2]["notes"], address[2]["street"]
    assert [(row.row or {})["notes"] for row in join.commit(party)] == [long]
    join.commit(address)
    [told] = join.commit(a_party(op="u"))
    assert streets([told]) == [long]


def test_what_is_drawn_together_is_drawn_once_for_a_transaction() -> None:
    join = Running()
    join.commit(a_party())
    sales = [("sales", "c", {"id": str(number), "party": "1", "amount": f"{number}.5"}) for number in range(1, 21)]
    assert [(row.row or {})["sales.total"] for row in join.commit(*sales)] == ["220"]


def test_a_childs_row_that_does_not_count_leaves_no_state_behind() -> None:
    join = Running()
    join.commit(a_party(), an_address())
    states = len(join.held.states)
    for number in range(100, 100 + 5 * KEPT_GONE):
        join.commit(an_address(id=str(number), active="f"))
        join.commit(an_address(id=str(number)), ("address", "d", {"id": str(number)}))
    assert len(join.held.states) == states
    assert len(join.held.states["/1"]) < 3000


def test_a_row_under_another_key_says_what_it_was() -> None:
    join = Running()
    join.commit(a_party())
    cause = Cause(ROOT, "d", f"{9:016X}{90:016X}", 9, None, 9)
    join.send("/1", row_message(cause, None, 0, 9, moved_on=True))
    join.send("/2", row_message(cause._replace(op="c", at=f"{9:016X}{91:016X}"), a_party(id="2")[2], 0, 10, was="1"))
    join.settle()
    gone, here = join.told[-2:]
    assert (gone.key, gone.moved_on, gone.row) == ("1", True, None)
    assert (here.key, here.was, here.op) == ("2", "1", Op.UPDATE)


def test_a_row_that_cannot_be_placed_and_what_is_no_message_are_refused() -> None:
    join = Running()
    with pytest.raises(MappingError, match="without sequence, which says where it belongs"):
        join.commit(("address", "u", {"id": "7", "party": "1", "active": "t"}))
    with pytest.raises(SchemaError, match="not a message to '/1'"):
        join.tree.step("/1", {"kind": "row"}, join.held, 0)
    with pytest.raises(SchemaError, match="kind 'x'"):
        join.tree.step("/1", {"kind": "x"}, join.held, 0)


# ---- the rules are there for something ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["position", "farewell", "own", "outputs", "past"])
def test_a_history_goes_wrong_without_the_rule(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if rule == "farewell":
        monkeypatch.setattr(assemble, "_with_gone", lambda slot, gone: {})
    elif rule == "past":
        monkeypatch.setattr(assemble, "KEPT_GONE", 1)
        monkeypatch.setattr(assemble, "_is_past", lambda slot, at, via: False)
    for seed in range(3000, 3400):
        world = World(seed, without=rule, strays=0.1)
        ended = world.run()
        if ended != "ok" or world.replay() != "ok":
            return
    raise AssertionError("nothing noticed that the rule is gone")
