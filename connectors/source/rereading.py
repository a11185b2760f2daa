"""Everything read again after a lost slot, as it was where the new slot begins, and before the stream goes on from there.

    make the slot      PostgreSQL says where it begins, and exports a snapshot of just that place
    read every table   in that snapshot: rows as op r, with what our sink had written there; linked rows that are gone as op d
    wait               until Kafka has it all
    note it            in concord.snapshot; a crash before this begins anew, with another slot
    stream             the next event of each row is exactly the next thing that happened to it

Beside the stream, as the first snapshot (`snapshot.py`), it would not do. Merge tells an edit by what the row held before. What nobody has
read, edits of people and writes of ours alike, must be told as what was found, and not as part of the first event that happens to come
after it: people's edits would be taken for ours, or our old writes for people's news (docs/decisions/0022).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import sql

from connectors.postgres import session_conninfo, translated
from connectors.source import metrics
from connectors.source.delivery import Delivery
from connectors.source.emitter import Emitter, When
from connectors.source.snapshot import Chunk, Progress, SnapshotStore, Snapshotter
from schemas.errors import Refused, Retriable, UnfitDatabase
from schemas.lsn import Lsn, parse_lsn

logger = logging.getLogger(__name__)

Patiently = Callable[[psycopg.Connection[Any], Callable[[], tuple[Any, ...] | None]], tuple[Any, ...] | None]
FLUSH_SECONDS: Final = 0.5  # how soon a stop is seen while Kafka is waited for


@contextmanager
def slot_and_snapshot(dsn: str, settings: Mapping[str, str], slot: str, patiently: Patiently) -> Iterator[tuple[Lsn, str]]:
    """Makes the slot; gives where it begins, and the name of a snapshot of that place, which is there until this ends. `patiently` waits
    for the server meanwhile."""
    conninfo = session_conninfo(dsn, settings, application=f"concord {slot}", client_encoding="UTF8", replication="database")
    logger.info("creating replication slot %s; this waits for the transactions that are open now", slot)
    with translated(f"creating replication slot {slot}"):
        conn = psycopg.connect(conninfo, autocommit=True)
        try:
            made = sql.SQL("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput EXPORT_SNAPSHOT").format(sql.Identifier(slot))
            row = patiently(conn, lambda: conn.execute(made).fetchone())
            if row is None:
                raise Retriable(f"creating replication slot {slot}: no answer")
            yield parse_lsn(row[1]), row[2]
        finally:
            conn.close()


def read_all(
    conn: psycopg.Connection[Any],
    place: tuple[Lsn, str],
    system: str,
    tables: Sequence[tuple[str, str]],
    linked: Callable[[str, str], Any],
    store: SnapshotStore,
    emitter: Emitter,
    delivery: Delivery,
    stopping: Callable[[], bool],
) -> None:
    """Sends what is in these tables at `place` (see `slot_and_snapshot`) and returns when Kafka has it. `conn`: to read with, and for
    nothing else meanwhile. Raises Retriable when it was stopped, and what reading raises but for a table that cannot be read (I8)."""
    begins, snapshot = place
    with translated("reading every table again"), conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        conn.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
        conn.execute("SET LOCAL idle_in_transaction_session_timeout = 0")  # while Kafka is away, or slow
        # its place is after every commit before the slot, and before every one that the slot will bring
        row = conn.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8").fetchone()
        assert row is not None
        when = When(begins - 1, row[0], None, snapshot="incremental")
        snapshotter = Snapshotter(conn, system, store, lambda _: None, linked, standing=True)
        done = []
        for progress in store.pending(tables):
            if progress.predicate:
                continue  # somebody asked for these besides: beside the stream
            if _table(snapshotter, progress, when, begins, emitter, delivery, stopping):
                done.append(progress)
            else:
                store.request(progress.schema, progress.table, vanished=True)  # beside the stream, once it can be read
    delivery.mark(begins)
    while not _everything_is_there(delivery):
        if stopping():
            raise Retriable("stopped while every table was read again; it begins anew")
        delivery.flush(FLUSH_SECONDS)
    for progress in done:
        store.finish(progress)


def _everything_is_there(delivery: Delivery) -> bool:
    delivery.advance()
    return delivery.idle


def _table(
    snapshotter: Snapshotter,
    progress: Progress,
    when: When,
    lsn: int,
    emitter: Emitter,
    delivery: Delivery,
    stopping: Callable[[], bool],
) -> bool:
    """Whether the table could be read."""
    system, rows = snapshotter.system, 0
    logger.info("%s.%s: read again from the beginning", system, progress.name)
    metrics.SNAPSHOT_PENDING.labels(system).set(1)
    try:
        with snapshotter.conn.transaction():  # a table that is not there must not end the others' reading
            for chunk in snapshotter.chunks(progress, lambda read: read("")):
                if stopping():
                    raise Retriable("stopped while every table was read again; it begins anew")
                _send(chunk, when, lsn, emitter)
                rows += len(chunk.rows)
                metrics.SNAPSHOT_ROWS.labels(system, progress.name).inc(len(chunk.rows))
                if not chunk.vanished:
                    snapshotter.store.note(progress, None, len(chunk.rows))
    except (UnfitDatabase, Refused) as error:
        logger.error("%s.%s: cannot be read again: %s", system, progress.name, error)
        return False
    metrics.SNAPSHOT_PENDING.labels(system).set(0)
    logger.info("%s.%s: read again, %s rows", system, progress.name, rows)
    return True


def _send(chunk: Chunk, when: When, lsn: int, emitter: Emitter) -> None:
    opened = emitter.open_table(chunk.table)
    tail = emitter.snapshot_tail(opened, when, lsn, "d" if chunk.vanished else "r")
    for number, values in enumerate(chunk.rows):
        if chunk.vanished:
            emitter.vanished_row(opened, values, tail)
        else:
            emitter.snapshot_row(opened, values, tail, chunk.ours.get(number))
