"""How the schema `concord` comes up to date: migrations, from whatever version, by whoever starts first."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from connectors import concord_schema
from connectors.concord_schema import LATEST, MIGRATIONS, ensure, version
from connectors.postgres import connect
from connectors.source.snapshot import SnapshotStore
from schemas.errors import UnfitDatabase
from tests.services import a_database

FIRST = Path(__file__).with_name("concord_schema_first.sql")
ROWS = """
INSERT INTO concord.key VALUES ('customer', 'crm', 'c1', 'crm:c1', false), ('customer', 'erp', '7', 'crm:c1', true);
INSERT INTO concord.link VALUES ('customer', 'crm:c1', '{"name": [1, 0, 1, 1]}', '{"name": "Acme"}', '{}');
INSERT INTO concord.progress VALUES ('golden.customer', 0, 42);
INSERT INTO concord.parked (entity, link, waits_for_entity, waits_for, topic, partition, "offset", record, reason)
    VALUES ('contact', 'crm:k1', 'customer', 'crm:c9', 'golden.contact', 1, 5, 'x', 'its customer is not there');
INSERT INTO concord.dead_letter (entity, link, topic, partition, "offset", record, error, code)
    VALUES ('customer', 'crm:c2', 'golden.customer', 0, 41, 'x', 'value too long', '22001');
INSERT INTO concord.snapshot (pipeline, table_name, last_key, done, rows)
    VALUES ('slot', 'public.a', '9', true, 9), ('slot', 'public.b', '4', false, 4);
"""
FINGERPRINTS = (  # of each migration, in order: one that has left this repository is never edited, a change is a migration more
    "dc39e83f715ec1c8",
    "0bf8eb9c12731ac8",
    "16db14ca413239ca",
    "b0af8ae6b9426824",
    "46bb0a4d53b8e522",
    "aaed04ad1cbc355f",
    "48729329adae98c4",
    "41d1fbba59fd7343",
    "15eec622f109562f",
)
CATALOG = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, pg_get_expr(d.adbin, d.adrelid), 'column'
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND adnum = attnum
WHERE relnamespace = 'concord'::regnamespace AND relkind = 'r'
UNION ALL SELECT tablename, indexname, indexdef, true, '', '', 'index' FROM pg_indexes WHERE schemaname = 'concord'
UNION ALL SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), true, '', '', 'constraint' FROM pg_constraint
    WHERE connamespace = 'concord'::regnamespace
ORDER BY 1, 2, 3"""


@pytest.fixture
def two_databases(postgres: str) -> Iterator[tuple[psycopg.Connection[Any], psycopg.Connection[Any]]]:
    with a_database(postgres) as one, a_database(postgres) as other, connect(one) as first, connect(other) as second:
        yield first, second


def test_no_migration_was_edited() -> None:
    assert tuple(hashlib.sha256(migration.encode()).hexdigest()[:16] for migration in MIGRATIONS) == FINGERPRINTS


def test_the_oldest_schema_becomes_todays_and_keeps_its_rows(
    two_databases: tuple[psycopg.Connection[Any], psycopg.Connection[Any]],
) -> None:
    old, fresh = two_databases
    old.execute(FIRST.read_bytes())
    old.execute(ROWS.encode())
    tables = {"key": "entity, system, key, link, gone", "link": "*", "progress": "*", "dead_letter": "*"}
    kept = [f"SELECT {columns} FROM concord.{table} ORDER BY 1, 2, 3".encode() for table, columns in tables.items()]
    before = [old.execute(query).fetchall() for query in kept]
    assert version(old) == ensure(old) == 2
    assert ensure(fresh) == 0
    assert version(old) == version(fresh) == LATEST
    assert old.execute(CATALOG.encode()).fetchall() == fresh.execute(CATALOG.encode()).fetchall()
    assert [old.execute(query).fetchall() for query in kept] == before
    assert old.execute("SELECT link, reason, tried IS NOT NULL FROM concord.parked").fetchall() == [
        ("crm:k1", "its customer is not there", True)
    ]
    store = SnapshotStore(old, "slot")
    assert store.any()
    pending = store.pending([("public", "a"), ("public", "b")])
    assert [(one.name, one.last_key) for one in pending] == [("public.b", None)]  # the one that was not finished begins anew


def test_whichever_part_starts_first_migrates_and_the_others_find_it_done(postgres: str) -> None:
    with a_database(postgres) as dsn:
        with connect(dsn) as conn:
            conn.execute(FIRST.read_bytes())

        def start(_: int) -> int:
            with connect(dsn) as conn:
                return ensure(conn)

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(start, range(8)))
        assert set(found) <= {2, LATEST}
        assert found.count(2) == 1
        with connect(dsn) as conn:
            assert version(conn) == LATEST


def test_a_migration_that_fails_leaves_the_schema_as_it_was(
    two_databases: tuple[psycopg.Connection[Any], psycopg.Connection[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = two_databases
    old.execute(FIRST.read_bytes())
    before = old.execute(CATALOG.encode()).fetchall()
    monkeypatch.setattr(concord_schema, "MIGRATIONS", (*MIGRATIONS, "SELECT 1 / 0"))
    with pytest.raises(psycopg.errors.DivisionByZero):
        ensure(old)
    assert version(old) == 2
    assert old.execute(CATALOG.encode()).fetchall() == before
    monkeypatch.undo()
    ensure(old)
    assert version(old) == LATEST


def test_an_older_program_refuses_a_newer_schema_and_changes_nothing(
    two_databases: tuple[psycopg.Connection[Any], psycopg.Connection[Any]],
) -> None:
    conn, _ = two_databases
    ensure(conn)
    conn.execute("UPDATE concord.meta SET version = %s", (LATEST + 1,))
    before = conn.execute(CATALOG.encode()).fetchall()
    said = rf"schema concord is of version {LATEST + 1}, written by a newer Concord, and this program knows up to {LATEST}: start the newer"
    for role in (None, f"nobody {uuid.uuid4().hex[:8]}"):
        with pytest.raises(UnfitDatabase, match=said):
            ensure(conn, role)
    assert version(conn) == LATEST + 1
    assert conn.execute(CATALOG.encode()).fetchall() == before
