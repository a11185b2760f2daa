"""The replication slot and the publication of one system: made when missing, watched while streaming.

A slot is our only claim on the log. When it is gone, or the server has thrown away log that it needed, changes are missing: that is
`SlotLost`, and it is never gone on from there with a gap.

    slot            concord.snapshot     what it means
    there, usable   –                    go on
    missing         no row               first start: make it, then snapshot
    missing         rows of ours         it was there: SlotLost
    there, lost     –                    SlotLost (max_slot_wal_keep_size, idle timeout, standby conflict)
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from connectors.postgres import translated
from schemas.errors import Retriable, SlotLost, UnfitDatabase
from schemas.lsn import Lsn

logger = logging.getLogger(__name__)

TableName = tuple[str, str]  # schema, table

RESNAPSHOT = "changes since then are missing; drop it (SELECT pg_drop_replication_slot) and let every table be read again"


@dataclass(frozen=True, slots=True)
class SlotState:
    """A row of pg_replication_slots."""

    name: str
    plugin: str
    database: str
    active: bool
    wal_status: str  # reserved, extended, unreserved (may be lost any moment), lost
    invalidation: str  # why it cannot be used any more; '' if it can
    confirmed: Lsn
    retained_bytes: int
    safe_bytes: int | None  # log that may still be written before the slot is lost; None: no limit


_STATE = """
SELECT s.slot_name::text, s.plugin::text, s.database::text, s.active, coalesce(s.wal_status, 'lost'),
       coalesce(to_jsonb(s) ->> 'invalidation_reason', CASE WHEN s.wal_status = 'lost' THEN 'its log is gone' ELSE '' END),
       coalesce(s.confirmed_flush_lsn - '0/0'::pg_lsn, 0)::int8,
       coalesce(CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_lsn() - s.restart_lsn END, 0)::int8, s.safe_wal_size::int8
FROM pg_replication_slots s WHERE s.slot_name = %s"""


def slot_state(conn: psycopg.Connection[Any], name: str) -> SlotState | None:
    """None when there is no slot of that name."""
    with translated(f"looking at slot {name}"):
        row = conn.execute(_STATE, (name,)).fetchone()
    if row is None:
        return None
    slot, plugin, database, active, status, invalidation, confirmed, retained, safe = row
    return SlotState(slot, plugin, database, active, status, invalidation, Lsn(confirmed), max(retained, 0), safe)


def usable(state: SlotState | None, name: str, streamed_before: bool) -> bool:
    """Whether the slot can be streamed from; False: it has to be made. Raises SlotLost, or UnfitDatabase for somebody else's slot."""
    if state is None:
        if streamed_before:
            raise SlotLost(f"replication slot {name} is gone: {RESNAPSHOT}")
        return False
    if state.plugin != "pgoutput":
        raise UnfitDatabase(f"replication slot {name} is there with plugin {state.plugin!r}, expected pgoutput: choose another slot name")
    if state.wal_status == "lost" or state.invalidation:
        raise SlotLost(f"replication slot {name} is invalidated ({state.invalidation or 'its log is gone'}): {RESNAPSHOT}")
    return True


def ensure_publication(conn: psycopg.Connection[Any], name: str, tables: Iterable[TableName]) -> tuple[TableName, ...]:
    """Makes the publication, or adds the tables that it lacks; returns those. Tables too many are left alone: their events are passed over.

    It must be there before the slot is: the log before it cannot be decoded with it.
    """
    try:
        with translated(f"making publication {name}"):
            return _publication(conn, name, sorted(tables))
    except UnfitDatabase as error:
        if not isinstance(error.__cause__, psycopg.errors.InsufficientPrivilege):
            raise
        raise UnfitDatabase(f"{error}: only who owns the tables may; `concord check --grant` has the SQL for them") from error.__cause__


def _publication(conn: psycopg.Connection[Any], name: str, wanted: list[TableName]) -> tuple[TableName, ...]:
    quoted = [sql.Identifier(*table) for table in wanted]
    there = conn.execute("SELECT puballtables FROM pg_publication WHERE pubname = %s", (name,)).fetchone()
    if there is None:
        # via the root: a partitioned table is one table to the mapping, whichever leaf a row is in
        statement = sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true)")
        conn.execute(statement.format(sql.Identifier(name), sql.SQL(", ").join(quoted)))
        return tuple(wanted)
    if there[0]:
        return ()
    published = set(
        conn.execute(
            "SELECT n.nspname::text, c.relname::text FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid "
            "JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = %s "
            "UNION SELECT schemaname::text, tablename::text FROM pg_publication_tables WHERE pubname = %s",
            (name, name),
        ).fetchall()
    )
    lacking = [table for table in wanted if table not in published]
    if lacking:
        statement = sql.SQL("ALTER PUBLICATION {} ADD TABLE {}")
        conn.execute(statement.format(sql.Identifier(name), sql.SQL(", ").join(sql.Identifier(*table) for table in lacking)))
    return tuple(lacking)


def create_slot(conn: psycopg.Connection[Any], name: str) -> Lsn:
    """Makes the slot; everything committed after the LSN it returns will be streamed. Waits for the transactions now open to end."""
    logger.info("creating replication slot %s; this waits for the transactions that are open now", name)
    with translated(f"creating replication slot {name}"):
        row = conn.execute("SELECT lsn - '0/0'::pg_lsn FROM pg_create_logical_replication_slot(%s, 'pgoutput')", (name,)).fetchone()
    if row is None:
        raise Retriable(f"creating replication slot {name}: no answer")
    return Lsn(int(row[0]))


def drop_slot(conn: psycopg.Connection[Any], name: str) -> None:
    """Drops the slot if it is there and nobody streams from it."""
    with translated(f"dropping replication slot {name}"):
        conn.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", (name,))
