"""`docs/mapping.md`, executed: its tables are created, its examples compiled, its values read and written.

    ```sql crm            DDL of one of the two databases
    ```python my_mapping  a module that examples may name
    ```yaml entities      compiled; what follows are tables of values
    ```yaml fields        the same, of the page's `customer`
    ```yaml erp binding   what an insert there makes
    ```yaml systems       read
    ```yaml refused …     must be refused with just the problems that are quoted below it

A value table has columns of a system (crm `name`), one field (`name`) and arrows between; `before` is the row that is written over.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
import yaml

from connectors.catalog import read_tables
from connectors.postgres import SESSION
from connectors.rows import FlatRows
from connectors.sink.statements import RowStatements
from console.check import check_databases
from console.check.findings import Checked
from schemas.catalog import Table
from schemas.change import Canonical
from schemas.config import Aggregate, Config, Dsn, Expression, json_schema, loads
from schemas.config.load import parse
from schemas.config.model import ENTITY_KEYS, FIELD_KEYS, SIDE_KEYS, Binding, Part, System
from schemas.errors import ConfigError, MappingError
from schemas.mapping import Binding as Compiled
from schemas.mapping import Pipeline, compile_config
from tests.services import a_database

PAGE = (Path(__file__).parents[2] / "docs" / "mapping.md").read_text()
SYSTEMS = (
    "kafka: {bootstrap: 'localhost:9092'}\nsystems:\n  crm: {dsn: postgresql://crm, rank: 1}\n  erp: {dsn: postgresql://erp, rank: 2}\n"
)
CUSTOMER = "customer:\n  crm: {table: account}\n  erp: {table: party}\n  fields:\n"
REFUSED = "✗"


@dataclass
class Block:
    """A fenced block, and what follows it up to the next one."""

    line: int
    kind: str
    text: str
    quoted: list[str] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"line {self.line}"


def blocks_of(page: str) -> Iterator[Block]:
    found: Block | None = None
    inside = in_table = False
    for number, line in enumerate(page.splitlines(), 1):
        if line.startswith("```"):
            if not inside:
                if found is not None:
                    yield found
                found = Block(number, line[3:], "")
            inside = not inside
        elif inside:
            assert found is not None
            found.text += line + "\n"
        elif line.startswith("#"):
            if found is not None:
                yield found
            found = None
        elif found is not None and line.startswith("> "):
            found.quoted.append(line[2:])
        elif found is not None and line.startswith("|"):
            if not in_table:
                found.tables.append([])
            found.tables[-1].append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        in_table = line.startswith("|") and not inside
    if found is not None:
        yield found


BLOCKS = list(blocks_of(PAGE))


def of_kind(*kinds: str) -> list[Block]:
    return [block for block in BLOCKS if block.kind in kinds]


@pytest.fixture(scope="module")
def databases(postgres: str, postgres_2: str) -> Iterator[dict[str, str]]:
    with a_database(postgres) as crm, a_database(postgres_2) as erp:
        found = {"crm": crm, "erp": erp}
        for block in of_kind("sql crm", "sql erp"):
            with psycopg.connect(found[block.kind.removeprefix("sql ")]) as conn:
                conn.execute(block.text.encode())
        yield found


@pytest.fixture(scope="module")
def catalogs(databases: dict[str, str]) -> dict[str, dict[str, Table]]:
    found = {}
    for system, dsn in databases.items():
        with psycopg.connect(dsn) as conn:
            names = conn.execute("SELECT schemaname::text, tablename::text FROM pg_tables WHERE schemaname = 'public'").fetchall()
            found[system] = read_tables(conn, names)
    return found


@pytest.fixture(scope="module", autouse=True)
def modules() -> Iterator[None]:
    """The page's Python, importable."""
    for block in BLOCKS:
        if block.kind.startswith("python "):
            module = ModuleType(block.kind.removeprefix("python "))
            exec(block.text, module.__dict__)
            sys.modules[module.__name__] = module
    yield
    sys.modules.pop("my_mapping", None)


def indented(text: str, by: int) -> str:
    return "".join(" " * by + line + "\n" for line in text.splitlines())


def a_config(block: Block) -> Config:
    if block.kind.endswith("entities"):
        return loads(SYSTEMS + "entities:\n" + indented(block.text, 2), {})
    if block.kind == "erp binding":
        entity = "customer:\n  crm: {table: account}\n  erp:\n" + indented(block.text, 4)
        return loads(SYSTEMS + "entities:\n" + indented(entity + "  fields:\n    name: {crm: name, erp: legal_name}\n", 2), {})
    return loads(SYSTEMS + "entities:\n" + indented(CUSTOMER + indented(block.text, 4), 2), {})


# ── values ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

_COLUMN = re.compile(r"(crm|erp) `(.*)`( before)?\Z")


def text_of(cell: str) -> str | None:
    return None if cell == "*null*" else cell.replace("&nbsp;", " ").removeprefix("`").removesuffix("`")


def canonical_of(cell: str, kind: str) -> Canonical:
    text = text_of(cell)
    return text == "true" if kind == "boolean" and text is not None else text


@dataclass
class Side:
    """One system's columns of a value table."""

    binding: Compiled
    columns: dict[int, str]  # place in the line → column
    before: dict[int, str]
    arrow: int
    left: bool


class ValueTable:
    def __init__(self, pipeline: Pipeline, head: list[str]) -> None:
        self.head = head
        (self.at,) = [place for place, cell in enumerate(head) if re.fullmatch(r"`.*`", cell)]
        self.field = head[self.at].strip("`")
        (entity,) = [entity for entity in pipeline.entities.values() if self.field in entity.kinds]
        self.kind = entity.kinds[self.field]
        self.sides = []
        for system in ("crm", "erp"):
            named = {place: match for place, cell in enumerate(head) if (match := _COLUMN.match(cell)) and match[1] == system}
            if named:
                left = min(named) < self.at
                self.sides.append(
                    Side(
                        entity.bindings[system],
                        {place: match[2] for place, match in named.items() if not match[3]},
                        {place: match[2] for place, match in named.items() if match[3]},
                        self.at - 1 if left else self.at + 1,
                        left,
                    )
                )
        assert self.sides, head

    def check(self, line: list[str]) -> None:
        shown = 0
        for side in self.sides:
            arrow = line[side.arrow]
            assert arrow in ("", "→", "←", "↔"), line
            if arrow == "↔" or ((arrow == "→") == side.left and arrow):
                self.read(side, line)
                shown += 1
            if arrow == "↔" or ((arrow == "←") == side.left and arrow):
                self.write(side, line)
                shown += 1
        assert shown, f"nothing is shown by {line}"

    def read(self, side: Side, line: list[str]) -> None:
        row = {column: text_of(line[place]) for place, column in side.columns.items()}
        expected = line[self.at]
        if expected.startswith(REFUSED):
            with pytest.raises(MappingError) as caught:
                side.binding.to_canonical(row)
            assert expected.removeprefix(REFUSED).strip() in str(caught.value)
        else:
            assert side.binding.to_canonical(row)[self.field] == canonical_of(expected, self.kind), line

    def write(self, side: Side, line: list[str]) -> None:
        value = canonical_of(line[self.at], self.kind)
        held = {column: text_of(line[place]) for place, column in side.before.items()} or None
        expected = {column: line[place] for place, column in side.columns.items()}
        if any(cell.startswith(REFUSED) for cell in expected.values()):
            with pytest.raises(MappingError) as caught:
                side.binding.to_columns({self.field: value}, held)
            (words,) = [cell.removeprefix(REFUSED).strip() for cell in expected.values() if cell.startswith(REFUSED)]
            assert words in str(caught.value)
            return
        assert self.field in side.binding.writable, f"{self.field} is not written to {side.binding}"
        written = {**(held or {}), **side.binding.to_columns({self.field: value}, held)}
        assert {column: written.get(column) for column in expected} == {column: text_of(cell) for column, cell in expected.items()}, line
        there = side.binding.to_canonical(written)
        if self.field in there:  # what the system then holds is what we say that it holds
            assert side.binding.same(self.field, value, there[self.field]), line


def check_scope(pipeline: Pipeline, table: list[list[str]]) -> None:
    head, _, *lines = table
    columns = [_COLUMN.match(cell) for cell in head[:-1]]
    assert all(columns), head
    named = {match[2]: place for place, match in enumerate(columns) if match is not None}
    (binding,) = [entity.bindings["erp"] for entity in pipeline.entities.values() if named.keys() <= {*entity.bindings["erp"].scope}]
    for *cells, counts in lines:
        row = {column: text_of(cells[place]) for column, place in named.items()}
        missing = {column: next(iter(texts), None) for column, texts in binding.scope.items() if column not in row}
        assert binding.in_scope({**missing, **row}) == {"yes": True, "no": False}[counts], cells


@pytest.mark.parametrize("block", of_kind("yaml entities", "yaml fields"), ids=str)
def test_examples_do_what_the_page_says(block: Block, catalogs: dict[str, dict[str, Table]]) -> None:
    pipeline = compile_config(a_config(block), catalogs)
    for table in block.tables:
        head, rule, *lines = table
        assert set("".join(rule)) <= set("-|"), rule
        if head[-1] == "counts":
            check_scope(pipeline, table)
            continue
        if not any(map(_COLUMN.match, head)):
            continue  # a table that explains
        values = ValueTable(pipeline, head)
        for line in lines:
            values.check(line)


ROWS = {
    "crm": "INSERT INTO account (name, vat_number, kind, tags) VALUES ('Acme', 'DE1', 'customer', '{a,b}'), (NULL, NULL, NULL, NULL)",
    "erp": """INSERT INTO party (legal_name, tax_id, kind, company, custom_fields, origin) VALUES
        ('Acme', 'DE1', 'customer', 7, '{"code": 7, "address": {"city": "Kiel"}}', 'sale,3'), (NULL, NULL, NULL, NULL, '[]', NULL);
        INSERT INTO party_address (party, active, company) SELECT id, id > 1, 1 FROM party""",
}


def test_all_examples_can_be_selected_and_have_nothing_against_them(
    databases: dict[str, str], catalogs: dict[str, dict[str, Table]]
) -> None:
    for block in of_kind("yaml entities"):
        config = a_config(block)
        at = {name: system.model_copy(update={"dsn": Dsn(databases[name])}) for name, system in config.systems.items()}
        found = Checked()
        check_databases(config.model_copy(update={"systems": at}), found, rows=False)
        assert [str(one.problem) for one in (*found.problems, *found.unanswered)] == [], block
    pipelines = [compile_config(a_config(block), catalogs) for block in of_kind("yaml entities", "yaml fields")]
    for system, dsn in databases.items():
        with psycopg.connect(dsn) as conn:
            conn.execute(ROWS[system].encode())
            for binding in (entity.bindings[system] for pipeline in pipelines for entity in pipeline.entities.values()):
                flat = FlatRows(binding)
                for values in conn.execute(flat.select(f"{flat.root} t").encode(), []).fetchall():
                    row = flat.row(values)
                    assert isinstance(binding.in_scope(row), bool)
                    assert set(binding.needed) <= set(row)
            conn.rollback()


@pytest.mark.parametrize("block", of_kind("yaml refused entities", "yaml refused fields"), ids=str)
def test_what_is_refused_is_refused_with_these_words(block: Block, catalogs: dict[str, dict[str, Table]]) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_config(a_config(block), catalogs)
    assert sorted(str(problem) for problem in caught.value.problems) == sorted(block.quoted)


def test_an_insert_makes_what_the_page_says(databases: dict[str, str], catalogs: dict[str, dict[str, Table]]) -> None:
    (block,) = of_kind("yaml erp binding")
    block.kind = "erp binding"
    binding = compile_config(a_config(block), catalogs).entities["customer"].bindings["erp"]
    made = [*binding.insert, *binding.always]
    returned = ", ".join(f't."{column}"::text' for column in made)
    statement, params = RowStatements(binding.table, binding.insert, binding.always, returned).insert(
        ("legal_name",), [{"legal_name": "Acme"}]
    )
    with psycopg.connect(databases["erp"]) as conn:
        for name, value in SESSION.items():
            conn.execute("SELECT set_config(%s, %s, false)", (name, value))
        row = conn.execute(statement.encode(), params).fetchone()
        assert row is not None
        (berlin,) = conn.execute("SELECT (now() AT TIME ZONE 'Europe/Berlin')::text").fetchone() or (None,)
    got = dict(zip(made, row, strict=True))
    assert got["customer_since"] == berlin
    head, _, line = block.tables[0]
    for cell, expected in zip(head, line, strict=True):
        match = _COLUMN.match(cell)
        assert match is not None
        assert got.pop(match[2]) == expected if expected != "…" else got.pop(match[2]) is not None, cell
    assert got == {}


def test_the_systems_of_the_page_are_systems() -> None:
    (block,) = of_kind("yaml systems")
    entities = "entities: {e: {crm: {table: t}, erp: {table: t}, fields: {f: {crm: a, erp: a}}}}\n"
    config = loads("kafka: {bootstrap: 'localhost:9092'}\n" + entities + "systems:\n" + indented(block.text, 2), {})
    told = yaml.safe_load(block.text)
    assert set(told["crm"]) | set(told["erp"]) == set(System.model_fields)
    without = {system: {key: given[key] for key in ("dsn", "rank")} for system, given in told.items()}
    plain = parse({"kafka": {"bootstrap": "x"}, "systems": without, "entities": yaml.safe_load(entities)["entities"]})
    for key in ("slot", "publication", "heartbeat_seconds"):  # "these are the defaults"
        assert getattr(config.systems["erp"], key) == getattr(plain.systems["erp"], key)


def test_the_json_schema_takes_all_that_the_page_says() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    for block in of_kind("yaml entities", "yaml fields", "yaml erp binding", "erp binding"):
        if block.kind.endswith("entities"):
            entities = yaml.safe_load(block.text)
        elif block.kind == "yaml fields":
            entities = yaml.safe_load(CUSTOMER + indented(block.text, 4))
        else:
            entities = {"customer": {"erp": yaml.safe_load(block.text), "fields": {"name": {"erp": "legal_name"}}}}
        errors = list(validator.iter_errors({**yaml.safe_load(SYSTEMS), "entities": entities}))
        assert not errors, (block, [error.message for error in errors])
    wrong = {"customer": {"erp": {"table": "t"}, "fields": {"name": {"erp": {"column": "a", "shorten": "long"}}}}}
    assert list(validator.iter_errors({**yaml.safe_load(SYSTEMS), "entities": wrong}))


def test_the_page_lists_all_keys() -> None:
    listed = {
        match[1]: set(re.findall(r"`(?!insert`, `always)([\w…{}: A-Z]+)`", match[2]))
        for match in re.finditer(r"^\| (.+?) \| (.+) \|$", PAGE.partition("## All keys")[2], re.MULTILINE)
    }
    assert listed["the file"] == set(Config.model_fields)
    assert listed["a system"] == set(System.model_fields)
    assert listed["an entity"] == ENTITY_KEYS
    assert listed["a binding"] == set(Binding.model_fields)
    assert listed["a part"] == set(Part.model_fields)
    assert listed["a field"] == FIELD_KEYS
    assert listed["a side"] == SIDE_KEYS
    expressions = {name.strip("{}").partition(":")[0] for name in listed["`insert`, `always`"]}
    assert expressions == set(Expression.model_fields)
    assert Aggregate.model_fields


def test_every_transform_has_an_example() -> None:
    shown: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                shown.add(str(key))
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    for block in of_kind("yaml entities", "yaml fields", "yaml erp binding", "erp binding"):
        walk(yaml.safe_load(block.text))
    for keys in (SIDE_KEYS, FIELD_KEYS, ENTITY_KEYS, Binding.model_fields, Part.model_fields, Expression.model_fields):
        assert set(keys) - shown - {"uuid"} == set(), "without an example"


def test_every_link_of_the_page_leads_somewhere() -> None:
    headings = {re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in PAGE.splitlines() if line.startswith("#")}
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= headings
