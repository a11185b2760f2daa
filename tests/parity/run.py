"""The run itself: tables, both connectors, all occasions, what they wrote, compared."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from tests.parity.events import Compared, Decoder, Event, compare, events
from tests.parity.occasions import TABLES, occasions
from tests.parity.types import ColumnReport, described, printed, read_back, represented
from tests.parity.world import OURS, PLAIN, TOLD, USUAL, World, a_world
from tests.services import with_database
from tests.source.captured import CAPTURED, missing_columns, statements, types_rows, types_tables

HERE = Path(__file__).parent
KEYLESS = ("f_nopk", "f_nopkfull")
FEATURES = ("f_default", "f_full", "f_toast", "f_toastfull", "f_idx", "f_trunc", "f_schema", "f_part")
OWN = ("p_defaults", "P Odd-Names", "p_compound")
TYPES = ("types_all", "types_more")


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
    missing = missing_columns(dsn)
    world.run(*types_tables(missing))
    world.run(*statements((HERE / "types.sql").read_text()))
    world.run(*statements((CAPTURED / "10_feature_tables.sql").read_text()), *statements(TABLES))
    _rows(world, 1, missing)
    return missing


def _rows(world: World, first: int, missing: dict[str, str]) -> None:
    world.run(*types_rows(first, first - 1, missing))
    world.run(*statements((HERE / "rows.sql").read_text(), id=first))


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
