"""The snapshot beside the stream: whatever the interleaving, what comes last for a row is what the row is."""

from __future__ import annotations

import random
import threading
from typing import Any
from unittest.mock import Mock

import psycopg
import pytest

from connectors.source import snapshot
from connectors.source.connector import Source, SourceSettings
from connectors.source.pgoutput import Begin, Message
from connectors.source.snapshot import Chunk, SnapshotStore
from schemas.lsn import Lsn
from schemas.registry import MemoryRegistry
from tests.source.source_running import Record, a_source, run_sql, wait_for


def table_as_told(records: list[Record]) -> dict[int, Any]:
    """What a reader who applies one record after the other holds."""
    rows: dict[int, Any] = {}
    for record in records:
        key = record.key["id"]
        if record.value is None or record.op == "d":
            rows.pop(key, None)
        else:
            rows[key] = record.value["after"]["a"]
    return rows


def table_as_told_by_position(records: list[Record]) -> dict[int, Any]:
    """What a reader holds who goes by positions, as merge does."""
    latest: dict[int, tuple[tuple[int, int], Any]] = {}
    for record in records:
        if record.value is None:
            continue
        after_commit, lsn = (int(part.strip('"')) for part in record.value["source"]["sequence"].strip("[]").split(","))
        key, position = record.key["id"], (after_commit, lsn)
        value = None if record.op == "d" else record.value["after"]["a"]
        if key not in latest or position >= latest[key][0]:
            latest[key] = (position, value)
    return {key: value for key, (_, value) in latest.items() if value is not None}


def rows_of(dsn: str) -> dict[int, str]:
    with psycopg.connect(dsn) as conn:
        return dict(conn.execute("SELECT id, a FROM t").fetchall())


@pytest.mark.parametrize("seed", [1, 2])
def test_a_snapshot_under_load_ends_as_the_table(
    seed: int, database: str, kafka: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "CHUNK_ROWS", 20)
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY, a text)", "INSERT INTO t SELECT g, 'first' FROM generate_series(1, 400) g")
    stop = threading.Event()

    def work(seed: int) -> None:
        rng = random.Random(seed)
        with psycopg.connect(database, autocommit=True) as conn:
            while not stop.is_set():
                one = rng.randrange(1, 450)
                kind = rng.random()
                if kind < 0.2:
                    conn.execute("DELETE FROM t WHERE id = %s", (one,))
                elif kind < 0.5:
                    conn.execute("INSERT INTO t VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET a = excluded.a", (one, f"in {rng.random()}"))
                else:
                    conn.execute("UPDATE t SET a = %s WHERE id BETWEEN %s AND %s", (f"up {rng.random()}", one, one + 3))

    workers = [threading.Thread(target=work, args=(seed * 10 + number,), daemon=True) for number in range(2)]
    with a_source(kafka, database, topic_prefix, ["t"]) as source:
        for worker in workers:
            worker.start()
        source.snapshot_done(database)
        stop.set()
        for worker in workers:
            worker.join()
        run_sql(database, "DELETE FROM t WHERE id = 0", "INSERT INTO t VALUES (0, 'end')")
        records = source.read(["t"], lambda found: any(record.key["id"] == 0 for record in found))
    assert table_as_told(records) == rows_of(database)
    assert table_as_told_by_position(records) == rows_of(database)
    assert sum(record.op == "r" for record in records) > 100


def test_a_snapshot_goes_on_after_a_crash_from_the_last_chunk(
    database: str, kafka: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "CHUNK_ROWS", 10)
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY, a text)", "INSERT INTO t SELECT g, 'a' FROM generate_series(1, 100) g")
    noted = SnapshotStore.note
    crashed = threading.Event()

    def crash(self: SnapshotStore, progress: Any, last_key: Any, rows: int) -> bool:
        wanted = noted(self, progress, last_key, rows)
        if last_key == ("40",) and not crashed.is_set():
            crashed.set()
            raise psycopg.OperationalError("the line broke")
        return wanted

    def as_retriable(self: SnapshotStore, progress: Any, last_key: Any, rows: int) -> bool:
        from connectors.postgres import translated

        with translated("noting"):
            return crash(self, progress, last_key, rows)

    monkeypatch.setattr(SnapshotStore, "note", as_retriable)
    with a_source(kafka, database, topic_prefix, ["t"]) as source:
        source.snapshot_done(database)
        assert crashed.is_set()
        records = source.read(["t"], lambda found: len(found) >= 100)
    assert [record.key["id"] for record in records] == list(range(1, 101)), "no row of a finished chunk was read again"


def test_a_new_table_gets_its_snapshot_and_the_others_are_left_alone(database: str, kafka: str, topic_prefix: str) -> None:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    run_sql(database, "CREATE TABLE u (a text, b int, PRIMARY KEY (b, a))", "INSERT INTO u VALUES ('x', 1), ('y', 1), ('it''s', 2)")
    with a_source(kafka, database, topic_prefix, ["t"]) as source:
        source.snapshot_done(database)
    with a_source(kafka, database, topic_prefix, ["t", "u"]) as source:
        records = source.read(["u"], lambda found: len(found) >= 3)
        assert [record.key for record in records] == [{"b": 1, "a": "x"}, {"b": 1, "a": "y"}, {"b": 2, "a": "it's"}]
        source.snapshot_done(database)
        run_sql(database, "INSERT INTO t VALUES (2)")
        assert [record.op for record in source.read(["t"], lambda found: len(found) >= 2)] == ["r", "c"]


def asked(dsn: str, slot: str, *request: Any) -> int:
    with psycopg.connect(dsn, autocommit=True) as conn:
        return SnapshotStore(conn, slot).request("public", *request)


def test_a_predicate_reads_some_rows_again_while_live(database: str, kafka: str, topic_prefix: str) -> None:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY, a text)", "INSERT INTO t SELECT g, 'a' FROM generate_series(1, 6) g")
    with a_source(kafka, database, topic_prefix, ["t"]) as source:
        source.snapshot_done(database)
        asked(database, source.settings.slot, "t", "id % 3 = 0")
        records = source.read(["t"], lambda found: len(found) >= 8)
        assert [record.key["id"] for record in records][6:] == [3, 6]
        source.snapshot_done(database)
        wait_for(lambda: source.error is None, "no error")


def test_what_is_asked_for_is_read_at_once_and_the_whole_table_is_not_forgotten_for_it(
    database: str, kafka: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heartbeat is an hour: only the notification can wake it. Both of two tables have still to be read when the rows are asked for."""
    monkeypatch.setattr(snapshot, "CHUNK_ROWS", 10)
    for table in ("t", "u"):
        run_sql(database, f"CREATE TABLE {table} (id int PRIMARY KEY)", f"INSERT INTO {table} SELECT generate_series(1, 30)")
    noted, inside, go_on = SnapshotStore.note, threading.Event(), threading.Event()

    def wait(self: SnapshotStore, progress: Any, last_key: Any, rows: int) -> bool:
        inside.set()
        go_on.wait(60)
        return noted(self, progress, last_key, rows)

    monkeypatch.setattr(SnapshotStore, "note", wait)
    with a_source(kafka, database, topic_prefix, ["t", "u"], heartbeat_seconds=3600) as source:
        inside.wait(60)
        asked(database, source.settings.slot, "u", "id = 7")
        go_on.set()
        source.snapshot_done(database)
        of_u = [record.key["id"] for record in source.read(["u"], lambda found: len(found) >= 31)]
        assert of_u == [7, *range(1, 31)]
        asked(database, source.settings.slot, "t", "id > 28")
        assert [record.key["id"] for record in source.read(["t"], lambda found: len(found) >= 32)] == [*range(1, 31), 29, 30]


def test_a_table_that_is_asked_for_anew_while_it_is_read_is_read_from_its_beginning(
    database: str, kafka: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "CHUNK_ROWS", 10)
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 30)")
    noted, again = SnapshotStore.note, threading.Event()

    def ask_in_mid_pass(self: SnapshotStore, progress: Any, last_key: Any, rows: int) -> bool:
        if last_key == ("20",) and not again.is_set():
            again.set()
            asked(database, self.slot, "t")
        return noted(self, progress, last_key, rows)

    monkeypatch.setattr(SnapshotStore, "note", ask_in_mid_pass)
    with a_source(kafka, database, topic_prefix, ["t"], heartbeat_seconds=3600) as source:
        records = source.read(["t"], lambda found: len(found) >= 50)
        assert [record.key["id"] for record in records] == [*range(1, 21), *range(1, 31)]
        source.snapshot_done(database)


def test_rows_that_are_gone_come_out_as_deletes_when_they_are_asked_for(database: str, kafka: str, topic_prefix: str) -> None:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    linked = {("public", "t"): (("thing", lambda key: {"id": key}),)}
    with a_source(kafka, database, topic_prefix, ["t"], linked=linked) as source:
        source.snapshot_done(database)
        run_sql(
            database,
            "INSERT INTO concord.key (entity, system, key, link) "
            f"SELECT 'thing', '{topic_prefix}', g::text, 'x:' || g FROM generate_series(1, 2) g",
        )
        asked(database, source.settings.slot, "t", "", True)
        records = source.read(["t"], lambda found: len(found) >= 4)
        source.snapshot_done(database)
    assert [(record.op, record.key["id"]) for record in records] == [("r", 1), ("r", 1), ("d", 2), (None, 2)]


def test_a_predicate_that_is_no_sql_stops_nothing_else_and_whoever_asked_is_told(database: str, kafka: str, topic_prefix: str) -> None:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE u (id int PRIMARY KEY)", "INSERT INTO u VALUES (1)")
    with a_source(kafka, database, topic_prefix, ["t", "u"]) as source:
        source.snapshot_done(database)
        nonsense = asked(database, source.settings.slot, "t", "nonsense (")
        asked(database, source.settings.slot, "u")
        source.read(["u"], lambda found: len(found) >= 2)
        run_sql(database, "INSERT INTO t VALUES (1)")
        source.read(["t"], lambda found: len(found) >= 1)
        source.snapshot_done(database)
        with psycopg.connect(database) as conn:
            (error,) = conn.execute("SELECT error FROM concord.snapshot WHERE id = %s", (nonsense,)).fetchone() or [None]
    assert "syntax error" in error
    assert source.error is None


def test_a_chunk_that_missed_a_commit_before_its_watermark_is_read_again() -> None:
    """A transaction whose commit record is in the log before the low watermark, but which the chunk's SELECT did not see yet."""
    settings = SourceSettings("crm", "", "slot", "pub", {}, {})
    for open_transactions, again in ((frozenset({7}), True), (frozenset({9}), False), (frozenset(), False)):
        sent: list[Any] = []
        source, emitter, delivery = Source(settings, MemoryRegistry()), Mock(), Mock(send=sent.append)
        source._recent.extend([5, 6, 7])
        chunk = Chunk(Mock(topic="crm.public.t"), [b""], open_transactions=open_transactions)
        source._hand_over(chunk)
        for mark in ("low", "high"):
            message = Message(True, Lsn(1), "concord", snapshot.watermark(mark, chunk.id).encode())
            source._watermark(message, Begin(Lsn(2), 0, 8), 1, emitter, delivery, None)
        assert chunk.again is again
        assert emitter.snapshot_row.called is not again
        source._waker.close()
