"""The run itself: tables, both connectors, all occasions, what they wrote, compared."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from tests.parity.events import Compared, Decoder, Event, compare, events
from tests.parity.occasions import TABLES, occasions
from tests.parity.types import ColumnReport, described, printed, read_back, represented
from tests.parity.world import CAPTURED, OURS, PLAIN, TOLD, USUAL, World, a_world, statements
from tests.services import with_database

HERE = Path(__file__).parent
KEYLESS = ("f_nopk", "f_nopkfull")
FEATURES = ("f_default", "f_full", "f_toast", "f_toastfull", "f_idx", "f_trunc", "f_schema", "f_part")
OWN = ("p_defaults", "P Odd-Names", "p_compound")
TYPES = ("types_all", "types_more")
EXTENSIONS = {"c_hstore": "hstore", "c_citext": "citext", "c_ltree": "ltree"}


@dataclass(slots=True)
class Found:
    """Everything that was compared."""

    occasions: list[Compared]
    types: dict[str, dict[str, ColumnReport]]  # table → column → …
    missing: dict[str, str]  # columns that this server could not have → why


def run(server: str, kafka: str, folder: Path, home: Path, say: Callable[[str], None]) -> Found:
    """Raises ParityError, ConcordError."""
    name = f"parity_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(sql.Identifier(name)))
    dsn = with_database(server, name)
    missing = _prepare(dsn)
    with a_world(World(dsn, kafka, (*TYPES, *FEATURES, *OWN), KEYLESS), folder, home, say) as world:
        spans = []
        _rows(world, 101, missing)
        for occasion in occasions():
            before = world.lsn()
            _happens(world, occasion.sql)
            spans.append((occasion.name, before, world.lsn()))
        say(f"{len(spans)} occasions and two tables of types are in the log")
        world.all_confirmed()
        world.read()
        say(f"read: {', '.join(f'{len(records)} records by {reader}' for reader, records in world.records.items())}")
        return Found(_compared(world, spans), _types(world), missing)


# ── the database ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _prepare(dsn: str) -> dict[str, str]:
    """Tables and the rows that are there before anybody looks."""
    world = World(dsn, "", (), ())
    missing = _missing(dsn)
    for statement in statements((CAPTURED / "01_types.sql").read_text()):
        extension = re.search(r"CREATE EXTENSION IF NOT EXISTS (\w+)", statement)
        if extension is None or not any(EXTENSIONS.get(column) == extension[1] for column in missing):
            world.run(_without(statement, missing))
    world.run(*statements((HERE / "types.sql").read_text()))
    world.run(*statements((CAPTURED / "10_feature_tables.sql").read_text()), *statements(TABLES))
    _rows(world, 1, missing)
    return missing


def _missing(dsn: str) -> dict[str, str]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        there = {name for (name,) in conn.execute("SELECT name FROM pg_available_extensions")}
        missing = {column: f"extension {name} is not installed" for column, name in EXTENSIONS.items() if name not in there}
        try:
            conn.execute("SELECT '<a/>'::xml")
        except psycopg.errors.FeatureNotSupported:
            missing["c_xml"] = "this server was built without libxml"
    return missing


def _without(statement: str, columns: dict[str, str]) -> str:
    for column in columns:
        statement = re.sub(rf"\s{column} \w+,", "", statement)
    return statement


def _rows(world: World, first: int, missing: dict[str, str]) -> None:
    for file in ("02_types_rows.sql", "03_types_edges.sql"):
        for statement in statements((CAPTURED / file).read_text(), id=first, b=first - 1):
            world.run(without_values(statement, missing) if missing else statement)
    world.run(*statements((HERE / "rows.sql").read_text(), id=first))


def without_values(statement: str, gone: dict[str, str]) -> str:
    """An INSERT without some of its columns and their values."""
    match = re.match(r"(INSERT INTO types_all \()([^)]*)\)\s*(SELECT|VALUES)\s*(.*)", statement, re.S)
    assert match is not None, statement
    head, names, keyword, body = match.groups()
    if keyword == "VALUES":
        body = body.strip().rstrip(";")[1:-1]
    values, depth, quoted, start = [], 0, False, 0
    for at, char in enumerate(body):
        if char == "'":
            quoted = not quoted
        elif not quoted:
            depth += (char in "([") - (char in ")]")
            if char == "," and depth == 0:
                values.append(body[start:at])
                start = at + 1
    values.append(body[start:])
    kept = [(name, value) for name, value in zip(names.split(","), values, strict=True) if name not in gone]
    return f"{head}{','.join(name for name, _ in kept)}) SELECT {','.join(value for _, value in kept)}"


def _happens(world: World, sql_: tuple[str, ...]) -> None:
    for statement in sql_:
        if statement.startswith("BEGIN;"):
            with psycopg.connect(world.dsn, autocommit=True) as conn:  # one session, its own transaction
                for part in statement.split("; "):
                    conn.execute(part.encode())
        else:
            world.run(statement)


# ── compared ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _compared(world: World, spans: list[tuple[str, int, int]]) -> list[Compared]:
    decode = Decoder(world.registry)
    decoded = {reader: events(world.records[reader], reader, decode) for reader in (OURS, USUAL)}
    rows = {reader: [event for event in all_ if not event.topic.startswith("public.types_")] for reader, all_ in decoded.items()}

    def of(reader: str, first: int, last: int) -> list[Event]:
        at = [(event, event.lsn - (event.topic == "message")) for event in rows[reader] if event.streamed and event.lsn is not None]
        return [event for event, lsn in at if first <= lsn < last]  # a row's LSN is where its record begins, a message's where it ends

    found = [compare("rows that were there before", *([event for event in rows[reader] if not event.streamed] for reader in (OURS, USUAL)))]
    found += [compare(name, of(OURS, first, last), of(USUAL, first, last)) for name, first, last in spans]
    return found


def _types(world: World) -> dict[str, dict[str, ColumnReport]]:
    decode = Decoder(world.registry)
    found = {}
    for name in TYPES:
        table, types = described(world.dsn, name)
        report = {column.name: ColumnReport(column.name, types[column.name]) for column in table.columns}
        texts = printed(world.dsn, table)
        of = {
            reader: [record for record in world.records[reader] if record.topic == f"{reader}.public.{name}"]
            for reader in (OURS, USUAL, TOLD, PLAIN)
        }
        represented(events(of[OURS], OURS, decode), events(of[USUAL], USUAL, decode), report)
        for reader in (OURS, TOLD, PLAIN):
            read_back(of[reader], reader, world.registry, table, texts, report)
        found[name] = report
    return found
