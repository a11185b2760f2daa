"""Flat rows read from tables are what the streams make of the same rows: the first child, aggregates, parents, parts of parts."""

from __future__ import annotations

import functools
import random
from typing import Any

import psycopg
import pytest

from connectors.catalog import read_tables
from connectors.postgres import SESSION
from console.verify import Rows
from console.verify import rows as reading
from schemas.config import loads
from schemas.mapping import Binding, Part, compile_config, table_names

SCHEMA = """
CREATE TYPE grade AS ENUM ('low', 'mid', 'high');
CREATE TABLE account (id int PRIMARY KEY, name text);
CREATE TABLE "sale line" (
  org int, "no%" text, name text, template bigint, "to" text, kind text NOT NULL, PRIMARY KEY (org, "no%"));
CREATE TABLE template (id bigint PRIMARY KEY, name text, active boolean);
CREATE TABLE price (id int PRIMARY KEY, resource text, amount float8, since timestamp, g grade);
CREATE TABLE address (id int PRIMARY KEY, org bigint, line varchar(9), "order" int, street text, active boolean, kind char(3), more jsonb);
CREATE INDEX ON address (org, line);
CREATE INDEX ON price (resource);
"""

CONFIG = """
kafka: {bootstrap: nowhere}
systems: {crm: {dsn: x, rank: 1}, erp: {dsn: x, rank: 2}}
entities:
  thing:
    crm: {table: public.account, insert: {id: "1"}}
    erp:
      table: public."sale line"
      where: {kind: [a, b], template.active: [true, null]}
      insert: {kind: a, org: "1", "no%": uuid}
      parts:
        address:
          table: public.address
          child: [org, line]
          first_by: [order desc nulls first, street]
          where: {kind: [x, null]}
          insert: {id: "1", kind: x}
        template: {table: public.template, parent: template, insert: {id: "1", active: true}}
        price:
          table: public.price
          child: {column: resource, prefix: "template,"}
          of: template
          first_by: [g desc, since, amount desc]
          insert: {id: "1"}
        last: {table: public.price, parent: {column: to, prefix: "price,"}}
        all:
          table: public.price
          child: {column: resource, prefix: "template,"}
          of: template
          where: {g: [low, mid, null]}
          aggregate:
            n: count
            total: {sum: amount}
            most: {max: amount}
            first: {min: since}
            amounts: {list: amount, by: [amount desc]}
            kinds: {list: g, separator: "/"}
        other:
          table: public.address
          child: [org, line]
          where: {active: {not: false}, more->>a: [1.5, "true", b, null]}
        third: {table: public.address, child: [org, line], where: {more->a: {not: [null]}, id: {not: ["3", "7"]}}}
        houses:
          table: public.address
          child: [org, line]
          where: {kind: {not: x}}
          aggregate: {actives: {list: active, by: [street]}, known: {count: street}, z: {max: street}}
    fields:
      name: {crm: name, erp: name}
      street: {erp: address.street}
      title: {erp: template.name}
      amount: {erp: price.amount}
      place: {erp: {column: other.street, write: false}}
      place3: {erp: {column: third.street, write: false}}
      paid: {erp: {column: last.amount, write: false}}
"""
DRAWN = {"all": ["n", "total", "most", "first", "amounts", "kinds"], "houses": ["actives", "known", "z"]}


def config() -> str:
    used = [f"{part}.{name}" for part, names in DRAWN.items() for name in names]
    return CONFIG + "".join(f"      f{n}: {{erp: {column}}}\n" for n, column in enumerate(used))


@pytest.fixture(params=["database", "database_2"])
def conn(request: pytest.FixtureRequest) -> Any:
    with psycopg.connect(request.getfixturevalue(request.param), autocommit=True) as conn:
        conn.execute("".join(f"SET {name} TO '{value}';" for name, value in SESSION.items()).encode())
        conn.execute(SCHEMA)
        yield conn


def a_binding(conn: psycopg.Connection[Any]) -> Binding:
    found = loads(config(), {})
    return (
        compile_config(found, {name: read_tables(conn, table_names(found, name)) for name in ("crm", "erp")})
        .entities["thing"]
        .bindings["erp"]
    )


def filled(conn: psycopg.Connection[Any], seed: int) -> None:
    r = random.Random(seed)

    def some(*values: Any) -> Any:
        return r.choice(values)

    conn.execute('TRUNCATE "sale line", template, price, address')
    documents = (None, "{}", *(f'{{"a": {value}}}' for value in ("1.50", "null", '"1.5"', "true", "[1]", '"b"', "1.6", "{}")))
    numbers = (None, 0.1, 0.2, 0.30000000000000004, 1e20, -5.5, float("nan"), float("inf"))
    with conn.cursor() as cursor:
        for number in range(1, r.randint(1, 4)):
            cursor.execute("INSERT INTO template VALUES (%s, %s, %s)", (number, f"T{number}", some(True, True, False, None)))
        for number in range(r.randint(0, 12)):
            resource = some(
                None, "template,1", "template,2", "template,02", "template,x", "template,", "other,1", "template,99999999999999999999"
            )
            since = some(None, "2026-01-01", "infinity", "2026-01-01 10:00:00.5", "0001-01-01 BC")
            cursor.execute(
                "INSERT INTO price VALUES (%s, %s, %s, %s, %s)", (number, resource, some(*numbers), since, some(None, "low", "mid", "high"))
            )
        for number in range(1, r.randint(2, 7)):
            line = (
                some(1, 2),
                f"n{number}",
                some("A", None),
                some(None, 1, 2, 3, 77),
                some(None, "price,1", "price,x", "price,3"),
                some("a", "b", "c"),
            )
            cursor.execute('INSERT INTO "sale line" VALUES (%s, %s, %s, %s, %s, %s)', line)
        for number in range(r.randint(0, 16)):
            row = (
                number,
                some(1, 2, None),
                some("n1", "n2", "n3", None),
                some(None, 1, 2, 3),
                some(None, "é", "z", "Z", "%"),
                some(True, False, None),
            )
            cursor.execute("INSERT INTO address VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", (*row, some("x", "y", None), some(*documents)))


def as_the_streams_have_it(conn: psycopg.Connection[Any], binding: Binding) -> dict[str, dict[str, str | None]]:
    """Put together in Python, of all rows of all tables."""

    @functools.cache
    def texts(table: Any) -> list[dict[str, str | None]]:
        columns = ", ".join('"' + column.name + '"::text' for column in table.columns)
        rows = conn.execute(f'SELECT {columns} FROM "{table.schema}"."{table.name}"'.encode()).fetchall()
        return [dict(zip([column.name for column in table.columns], row, strict=True)) for row in rows]

    found = {}
    for root in texts(binding.table):
        rows: dict[str, dict[str, str | None] | None] = {"": root}
        flat = {column: root[column] for column in binding.root_columns}
        for part in binding.parts:
            above = rows[part.of]
            hanging = [] if above is None else [row for row in texts(part.table) if part.in_scope(row) and hangs(binding, part, row, above)]
            if part.aggregates:
                flat.update({part.flat(name): part.aggregates[name].of(hanging) for name in part.fields})
                continue
            first = rows[part.name] = min(hanging, key=part.order, default=None)
            flat.update({part.flat(column): None if first is None else first[column] for column in part.columns})
        found[binding.key_of(root)] = flat
    return found


def hangs(binding: Binding, part: Part, row: dict[str, str | None], above: dict[str, str | None]) -> bool:
    if part.kind == "parent":
        return part.target(above) == part.key_of(row)
    key = binding.key_of(above) if part.of == "" else binding.part[part.of].key_of(above)
    return part.target(row) == key


def test_a_flat_row_is_what_the_streams_make_of_the_same_rows(conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    binding = a_binding(conn)
    monkeypatch.setattr(reading, "CHUNK", 3)
    rows = Rows(binding)
    chosen = 0
    for seed in range(60):
        filled(conn, seed)
        wanted = as_the_streams_have_it(conn, binding)
        found = {binding.key_of(row): row for chunk in rows.chunks(conn) for row in chunk}
        told = {key: read(binding, row) for key, row in found.items()}
        assert told == {key: read(binding, row) for key, row in wanted.items()}, seed
        assert list(found) == sorted(found, key=lambda key: [part.encode() for part in binding.key_values(key).values()])
        some = [key for number, key in enumerate(wanted) if number % 2]
        assert rows.by_key(conn, some) == {key: found[key] for key in some if binding.in_scope(found[key])}
        chosen += sum(row["address.street"] is not None for row in found.values())
    assert chosen > 20


def read(binding: Binding, row: dict[str, str | None]) -> dict[str, Any]:
    """Numbers are equal whatever zeros they are spelled with: that is what the mapping is for. All else is compared as it is."""
    numbers = {"all.total", "all.most"}
    return {**binding.to_canonical(row), **{column: text for column, text in row.items() if column not in numbers}}


def test_every_table_is_read_by_an_index(conn: psycopg.Connection[Any]) -> None:
    rows = Rows(a_binding(conn))
    conn.execute("SET enable_seqscan TO off")
    for statement, parameters in ((rows._first, []), (rows._after, ["1", "n7"]), (rows._by_key, [["1"], ["n7"]])):
        plan = "\n".join(line for (line,) in conn.execute(f"EXPLAIN {statement}".encode(), parameters))
        assert "Seq Scan" not in plan, plan
