"""Kafka and PostgreSQL: killed, their sessions ended, slots dropped and invalidated, clocks that step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import psutil
import psycopg

from tests.chaos.faults.plan import Fault
from tests.chaos.faults.processes import part
from tests.chaos.faults.world import OURS, Missed, World, seen

SLOT_SECONDS = 30.0


def kill_server(world: World, fault: Fault) -> str:
    """SIGKILL, away for a while, and up again on what is on the disk."""
    with world.lock(fault.target):
        pid = world.servers.restart(fault.target, fault.seconds)
    if pid is None:
        raise Missed(f"{fault.target} was not running")
    return f"pid {pid} ended, another one after {fault.seconds:g} s"


def end_sessions(world: World, fault: Fault) -> str:
    with world.database(fault.target, "postgres") as conn:
        ended = conn.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'reference' AND application_name <> %s", [OURS]
        ).fetchone()
    if not ended or not ended[0]:
        raise Missed(f"nobody was connected to {fault.target}")
    return f"{ended[0]} sessions ended"


def drop_slot(world: World, fault: Fault) -> str:
    slot = f"{world.name}_{fault.target}"
    with world.lock(f"slot {fault.target}"), world.database(fault.target) as conn:
        if not conn.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", [slot]).fetchone():
            raise Missed(f"slot {slot} was not there")

        def dropped() -> bool:
            conn.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s AND active", [slot])
            with contextlib.suppress(psycopg.errors.ObjectInUse):
                conn.execute("SELECT pg_drop_replication_slot(%s)", [slot])
                return True
            return False

        if not seen(dropped, SLOT_SECONDS):
            raise Missed(f"slot {slot} could not be dropped: its source was quicker each time")
    return f"slot {slot} dropped"


def invalidate_slot(world: World, fault: Fault) -> str:
    """The source stands still while the server writes more log than it may keep for a slot."""
    slot = f"{world.name}_{fault.target}"
    with world.lock(f"slot {fault.target}"), world.database(fault.target) as conn, _standing_still(world, f"source-{fault.target}"):
        conn.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
        conn.execute("SELECT pg_reload_conf()")

        def lost() -> bool:
            conn.execute("SELECT pg_logical_emit_message(false, 'chaos', 'more'), pg_switch_wal()")
            conn.execute("CHECKPOINT")
            row = conn.execute("SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s", [slot]).fetchone()
            if row is None:
                raise Missed(f"slot {slot} was not there")
            return row[0] == "lost"

        try:
            if not seen(lost, SLOT_SECONDS):
                raise Missed(f"slot {slot} was not invalidated")
        finally:
            with world.database(fault.target) as mending:  # ours may be gone with its server
                mending.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
                mending.execute("SELECT pg_reload_conf()")
    return f"slot {slot} lost"


@contextlib.contextmanager
def _standing_still(world: World, name: str) -> Iterator[None]:
    process = part(world, name)
    process.suspend()
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):  # another fault has ended it
            process.resume()


def step_clock(world: World, fault: Fault) -> str:
    clock = world.servers.clocks.get(fault.target)
    if clock is None:
        raise Missed("this machine cannot shift a server's clock: see what was said at the start")
    with world.lock(f"clock {fault.target}"):
        before = _ahead(world, fault.target)
        clock.step(fault.seconds)
        after = _ahead(world, fault.target)
    if abs(after - before - fault.seconds) > 0.25:
        raise Missed(f"the clock went from {before:+.1f} s to {after:+.1f} s")
    return f"the clock is {after:+.1f} s off, {before:+.1f} s before"


def _ahead(world: World, system: str) -> float:
    """Seconds by which a server's clock is ahead of ours."""
    with world.database(system) as conn:
        row = conn.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
    assert row is not None
    assert isinstance(row[0], float)
    return row[0] - time.time()
