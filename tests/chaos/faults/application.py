"""What people's own programs do to the two databases beside their usual work."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import psycopg
from psycopg import sql

from tests.chaos.faults.plan import Fault
from tests.chaos.faults.world import Missed, World, seen

Connection = psycopg.Connection[tuple[object, ...]]

CUSTOMERS = {"crm": ("account", "vat_number", "phone"), "erp": ("business_partner", "tax_id", "telephone")}  # table, what matches, a field
WRITTEN = {"crm": "updated_at", "erp": "write_date"}  # a column that our application may set to what it is
# Rows that are renamed in the other system all the time: whoever holds one meets the sink.
PROBED = {
    "crm": "SELECT id FROM account WHERE vat_number LIKE 'PROBE-%'",
    "erp": "SELECT id FROM business_partner WHERE tax_id LIKE 'PROBE-%'",
}
MET_SECONDS, DEADLOCK_SECONDS = 15.0, 20.0  # of one try; whoever strikes tries again

# Sessions of sinks that wait for one of ours.
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'concord sink%%' AND %s = ANY (pg_blocking_pids(pid))"


@contextlib.contextmanager
def _transaction(world: World, system: str) -> Iterator[Connection]:
    """Rolled back at the end."""
    with world.database(system) as conn, conn.transaction(force_rollback=True):
        yield conn


def _waits(watch: Connection, holder: Connection) -> bool:
    row = watch.execute(WAITING, [holder.info.backend_pid]).fetchone()
    return row is not None and bool(row[0])


def hold_locks(world: World, fault: Fault) -> str:
    table, _, _ = CUSTOMERS[fault.target]
    with world.database(fault.target) as watch, _transaction(world, fault.target) as conn:
        conn.execute(f"SELECT 1 FROM {table} WHERE id IN ({PROBED[fault.target]}) FOR UPDATE".encode())
        conn.execute(f"SELECT 1 FROM {table} ORDER BY random() LIMIT 50 FOR UPDATE SKIP LOCKED".encode())
        if not seen(lambda: _waits(watch, conn), MET_SECONDS):
            raise Missed("no sink wanted the rows")
        time.sleep(fault.seconds)
    return f"a sink waited for {fault.seconds:.1f} s"


def deadlock(world: World, fault: Fault) -> str:
    """Ten customers are changed on the other side in one transaction while we hold one of them here. As soon as the sink waits for it we
    want the others, which it may hold. The server ends one of the two, most often the sink."""
    here, other = fault.target, "erp" if fault.target == "crm" else "crm"
    log, told = world.servers.log(here), "deadlock detected"
    before, tries, deadline = log.count(told), 0, time.monotonic() + DEADLOCK_SECONDS
    with world.database(here) as watch, world.database(other) as away:
        while log.count(told) == before:
            if time.monotonic() > deadline:
                raise Missed(f"no deadlock in {tries} tries")
            tries += 1
            _try_to_deadlock(world, here, watch, away, other)
    return f"the server ended {log.count(told) - before}, after {tries} tries"


def _try_to_deadlock(world: World, here: str, watch: Connection, away: Connection, other: str) -> None:
    (table, match, _), (there, match_there, phone) = CUSTOMERS[here], CUSTOMERS[other]
    ten = f"SELECT {match_there} FROM {there} WHERE {match_there} LIKE 'DE%%' ORDER BY random() LIMIT 10"
    shared = [value for (value,) in away.execute(ten.encode(), [])]
    with contextlib.suppress(psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable), _transaction(world, here) as conn:
        conn.execute("SET LOCAL deadlock_timeout = '1s'")  # the sink's is 200 ms: it looks first, and once; then we do
        conn.execute("SET LOCAL lock_timeout = '3s'")
        conn.execute(f"SELECT 1 FROM {table} WHERE {match} = %s FOR UPDATE".encode(), [world.rng.choice(shared)])
        called = f"+49 {world.rng.randint(10**6, 10**7)}"
        away.execute(f"UPDATE {there} SET {phone} = %s WHERE {match_there} = ANY (%s)".encode(), [called, shared])
        if seen(lambda: _waits(watch, conn), MET_SECONDS):
            conn.execute(f"SELECT 1 FROM {table} WHERE {match} = ANY (%s) FOR UPDATE".encode(), [shared])


def serialize(world: World, fault: Fault) -> str:
    """For a while new sessions, the sinks' among them, are SERIALIZABLE by default, and rows change under a sink that waits for them."""
    (table, _, _), written, log = CUSTOMERS[fault.target], WRITTEN[fault.target], world.servers.log(fault.target)
    told = "could not serialize"
    before, tries, deadline = log.count(told), 0, time.monotonic() + MET_SECONDS + fault.seconds
    with world.lock(f"isolation {fault.target}"), world.database(fault.target) as watch:
        watch.execute("ALTER DATABASE reference SET default_transaction_isolation = 'serializable'")
        try:
            _connect_anew(watch)
            while log.count(told) == before and time.monotonic() < deadline:
                tries += 1
                with world.database(fault.target) as conn, conn.transaction():
                    conn.execute(f"UPDATE {table} SET {written} = {written} WHERE id IN ({PROBED[fault.target]})".encode())
                    seen(lambda conn=conn: _waits(watch, conn), 2)  # type: ignore[misc]
            time.sleep(fault.seconds)
        finally:
            with world.database(fault.target) as mending:  # ours may be gone with its server
                mending.execute("ALTER DATABASE reference RESET default_transaction_isolation")
                _connect_anew(mending)
    if log.count(told) == before:
        raise Missed(f"no serialization failure in {tries} tries")
    return f"{log.count(told) - before} serialization failures"


def _connect_anew(conn: Connection) -> None:
    conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'reference' AND application_name LIKE 'concord sink%'"
    )


def save_in_bulk(world: World, fault: Fault) -> str:
    """One transaction: a tenth of it new customers, for the rest all customers are saved, several times if need be."""
    copied = {
        "crm": (
            "account (id, type, name, billing_country, segment, payment_terms, is_active, owner_login, created_at, updated_at)",
            "gen_random_uuid(), 'customer', 'bulk ' || n, 'DE', 'gold', 'net30', true, 'bulk', now(), now()",
        ),
        "erp": (
            "business_partner (number, kind, legal_name, country, class, payment_days, credit_limit, active, dunning_level, currency,"
            " language, company, create_uid, create_date, write_date)",
            "'K' || nextval('partner_number_seq'), 'customer', 'bulk ' || n, 'DEU', 'A', 30, 0, true, 0, 'EUR', 'de', 1, 1, now(), now()",
        ),
    }
    table, column = {"crm": ("account", "website"), "erp": ("business_partner", "url")}[fault.target]
    into, values = copied[fault.target]
    with world.database(fault.target) as conn, conn.transaction():
        done = conn.execute(f"INSERT INTO {into} SELECT {values} FROM generate_series(1, %s) n".encode(), [fault.size // 10]).rowcount
        while done < fault.size:
            mark = f"https://bulk.example/{world.rng.randint(0, 10**9)}"
            rest = fault.size - done
            query = f"UPDATE {table} SET {column} = %s WHERE id IN (SELECT id FROM {table} LIMIT %s)"
            done += max(1, conn.execute(query.encode(), [mark, rest]).rowcount)
    return f"{done} rows in one transaction"


def change_tables(world: World, fault: Fault) -> str:
    """A column more and less, of a mapped and of an unmapped table; a mapped column wider; an index; a table more and less."""
    mapped, unmapped, column, types = {
        "crm": ("account", "task_note", "credit_limit", ("numeric(14,2)", "numeric(12,2)")),
        "erp": ("business_partner", "chaos_note", "street", ("varchar(4000)", "text")),
    }[fault.target]
    extra = f"extra_{fault.at * 1000:.0f}"  # the same when it is done again, after its server died half-way

    def all_of(*statements: str) -> None:
        for statement in statements:
            conn.execute(
                sql.SQL(statement).format(
                    mapped=sql.Identifier(mapped),
                    unmapped=sql.Identifier(unmapped),
                    extra=sql.Identifier(extra),
                    column=sql.Identifier(column),
                )
            )

    with world.lock(f"tables {fault.target}"), world.database(fault.target) as conn:
        all_of(
            "CREATE TABLE IF NOT EXISTS {unmapped} (id int)",
            "ALTER TABLE {unmapped} ADD COLUMN IF NOT EXISTS {extra} text DEFAULT 'x'",
            "ALTER TABLE {mapped} ADD COLUMN IF NOT EXISTS {extra} text DEFAULT 'x'",
            "CREATE INDEX IF NOT EXISTS {extra} ON {mapped} ({extra})",
            f"ALTER TABLE {{mapped}} ALTER COLUMN {{column}} TYPE {types[0]}",
        )
        time.sleep(0.5)
        all_of(
            f"ALTER TABLE {{mapped}} ALTER COLUMN {{column}} TYPE {types[1]}",
            "ALTER TABLE {mapped} DROP COLUMN IF EXISTS {extra}",
            "ALTER TABLE {unmapped} DROP COLUMN IF EXISTS {extra}",
        )
    return f"{mapped} and {unmapped} changed and changed back"
