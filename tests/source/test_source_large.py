"""A transaction of a million rows: memory stays flat, and every row arrives."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition

from connectors.source.slot import slot_state
from tests.source.source_running import run_sql, wait_for

ROWS = 1_000_000
PROGRAM = """
    import sys, threading
    from connectors.source.connector import Source, SourceSettings
    from schemas.registry import MemoryRegistry
    system, dsn, kafka = sys.argv[1:]
    source = Source(
        SourceSettings(
            system=system, dsn=dsn, slot=system, publication=system, tables={("public", "t"): frozenset()},
            kafka={"bootstrap.servers": kafka}, partitions=1,
        ),
        MemoryRegistry(),
    )
    thread = threading.Thread(target=source.run)
    thread.start()
    source.ready.wait(60)
    print("ready", flush=True)
    sys.stdin.read()
    source.stop()
    thread.join()
"""


def resident_mb(pid: int, what: str) -> float:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(what)) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_million_rows_in_one_transaction_in_flat_memory(
    database: str, kafka: str, topic_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY, a text)")
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), topic_prefix, database, kafka]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            before = resident_mb(process.pid, "VmRSS")
            run_sql(database, f"INSERT INTO t SELECT g, 'name ' || g FROM generate_series(1, {ROWS}) g")
            started = time.monotonic()
            with psycopg.connect(database, autocommit=True) as conn:
                row = conn.execute("SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::int8").fetchone()
                assert row is not None

                def all_confirmed() -> bool:
                    state = slot_state(conn, topic_prefix)
                    return state is not None and state.confirmed >= row[0]

                wait_for(all_confirmed, "Kafka has the whole transaction", 170)
            seconds = time.monotonic() - started
            peak = resident_mb(process.pid, "VmHWM")
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)
    with capsys.disabled():
        print(f"\n{ROWS:,} rows in one transaction: {ROWS / seconds:,.0f} rows/s, resident {before:.0f} MB before, {peak:.0f} MB at most")
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "source-tests"})
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(f"{topic_prefix}.public.t", 0), timeout=30)
    finally:
        consumer.close()
    assert high - low == ROWS
    assert peak < 100
