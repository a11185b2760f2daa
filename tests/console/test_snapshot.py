"""`concord snapshot`, with a source that runs in a thread of this process, and without one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from connectors.catalog import read_tables
from connectors.source.connector import Source, SourceSettings
from console import snapshot
from schemas.registry import MemoryRegistry
from tests.console.console_fixtures import World, world
from tests.services import wait_until

__all__ = ["world"]


@contextmanager
def source_of(world: World, system: str, tables: list[str]) -> Iterator[Source]:
    told = world.config.systems[system]
    captured = {("public", table): frozenset[str]() for table in tables}
    kafka = {"bootstrap.servers": world.kafka}
    source = Source(
        SourceSettings(system, told.dsn, told.slot, told.publication, captured, kafka, heartbeat_seconds=3600, partitions=2),
        MemoryRegistry(),
    )
    thread = threading.Thread(target=source.run)
    thread.start()
    try:
        source.ready.wait(60)
        slot = told.slot
        wait_until(
            lambda: all(
                done for (done,) in world.db[system].execute("SELECT done FROM concord.snapshot WHERE pipeline = %s", (slot,)).fetchall()
            ),
            "the first snapshot is not finished",
        )
        yield source
    finally:
        source.stop()
        thread.join(60)


def rows_on(world: World, topic: str) -> int:
    return sum(high - low for low, high in world.cluster().ends([topic]).values())


def test_rows_are_read_again_and_it_says_when_kafka_has_them(world: World) -> None:
    world.prepare()
    world.do(world.erp, "INSERT INTO partner (legal_name, tax_id) SELECT 'n' || n, 't' || n FROM generate_series(1, 20) n")
    with source_of(world, world.erp, ["partner", "user"]):
        topic = f"{world.erp}.public.partner"
        assert rows_on(world, topic) == 20
        status, told = world.concord("snapshot", world.erp, "partner")
        assert (status, told["state"], told["rows"]) == (0, "done", 20)
        assert rows_on(world, topic) == 40
        status, told = world.concord(
            "snapshot", world.erp, "public.partner", "--where", "tax_id=t3", "--where", "tax_id=t5", "--where", "id>3"
        )
        assert (status, told["rows"]) == (0, 1)
        assert rows_on(world, topic) == 41
        assert world.run("snapshot", world.erp, "partner", "--where", "id<=2").exit_code == 0


def test_without_a_source_it_waits_in_the_database_and_is_read_when_there_is_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.prepare()
    world.do(world.erp, "INSERT INTO partner (legal_name) VALUES ('a')")
    with source_of(world, world.erp, ["partner", "user"]):
        pass
    monkeypatch.setattr(snapshot, "ABSENT_SECONDS", 0.0)
    status, told = world.concord("snapshot", world.erp, "partner")
    assert (status, told["state"]) == (1, "waiting")
    assert world.concord("snapshot", world.erp, "user", "--no-wait")[0] == 0
    with source_of(world, world.erp, ["partner", "user"]):
        assert rows_on(world, f"{world.erp}.public.partner") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "is no table that is captured"),
        (["partner", "--where", "nothing=1"], "has no column 'nothing'"),
        (["partner", "--where", "id"], "not a condition: 'id'"),
        (["partner", "--where", "id=x"], "invalid input syntax for type bigint"),
        (["partner", "--where", "legal_name=" + "x" * 3000], "longer than 2000 bytes"),
        (["partner"], "nothing of it was read yet"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_at_once(world: World, arguments: list[str], said: str) -> None:
    world.prepare(topics=False)
    status, told = world.concord("snapshot", world.erp, *arguments)
    assert status == 2
    assert said in told["error"]


def test_conditions_hold_just_what_they_say_whatever_is_in_them(database: str) -> None:
    nasty = ["x'; DROP TABLE u; --", "%s {} a=b", "", "ab", None]
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute('CREATE TABLE u (id int PRIMARY KEY, "a note" text, "Drop" char(3), at date)')
        for number, note in enumerate(nasty):
            conn.execute("INSERT INTO u VALUES (%s, %s, %s, '2026-01-01'::date + %s)", (number, note, note and note[:2], number))
        table = read_tables(conn, [("public", "u")])["public.u"]

        def ids(*conditions: str) -> list[Any]:
            predicate = snapshot.predicate_of(table, conditions, conn)
            return [one for (one,) in conn.execute(f"SELECT id FROM u WHERE {predicate} ORDER BY id".encode()).fetchall()]

        for number, note in enumerate(nasty[:-1]):
            assert ids(f"a note={note}") == [number]
        assert ids("a note is null") == ids('"a note" is null', "Drop is null") == [4]
        assert ids("a note is not null", "id>=1", "id<3") == [1, 2]
        assert ids("Drop=ab", "Drop=x'") == [0, 3]
        assert ids("at<2026-01-02") == [0]
