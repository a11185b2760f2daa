"""The schema `concord` in a customer's database: everything that we keep there (I10), and how it comes up to date.

    meta         version of this schema: how many of `MIGRATIONS` have run; and a name for this database that Kafka is told
    key          the crosswalk: which row of which system is which thing. Entries are marked gone, never deleted: a replayed old
                 event must find its link. `live`: the one row of this database's own system that is the thing; unique, so that of
                 a sink and of intake, which both write here, one is first. `heard`: not of an entry of intake's that the sink has yet
                 to hear of in a golden record
    link         per thing, what the sink has applied (version per field), wrote last (value per field), and what came back other
                 than it was written
    progress     per partition of a golden topic, the next offset to apply (I2)
    parked       records that wait for another thing: for a row name of an entity (a parent), or for a value that another thing's
                 row holds
    dead_letter  records that cannot be applied as they are, one per thing: a later version of it takes the place of an earlier one
    snapshot     how far the source's snapshot of a table has come
    verified     what the last `concord verify` found, per entity
    mapping      by which mapping the rows were read (`console.remembered`)
    decision     what operators decided on dead letters, with the letters as they were: history, nothing of it is ever deleted

Every part calls `ensure` when it starts: whichever is first runs the migrations that are missing, in order and in one transaction, under
an advisory lock. A migration that has left this repository is never edited, only followed by another at the end (a test holds them to
their fingerprints), and leaves what the program before it reads and writes, since parts of both run side by side during an upgrade. A
program that finds a newer schema than it knows refuses to start.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from connectors.postgres import no_role
from connectors.source.snapshot import LOSSES, REQUESTS
from connectors.source.snapshot import MIGRATION as SNAPSHOT
from schemas.errors import UnfitDatabase

LOCK = 0x434F4E43  # "CONC": pg_advisory_xact_lock of whoever migrates

_FIRST = """
CREATE TABLE concord.key (
    entity text NOT NULL,
    system text NOT NULL,
    key text NOT NULL,
    link text NOT NULL,
    gone boolean NOT NULL DEFAULT false,
    PRIMARY KEY (entity, system, key)
);
CREATE INDEX key_link ON concord.key (entity, link, system);

CREATE TABLE concord.link (
    entity text NOT NULL,
    link text NOT NULL,
    applied jsonb NOT NULL DEFAULT '{}',   -- field -> version as an array; "exists" stands under the empty name
    wrote jsonb NOT NULL DEFAULT '{}',     -- field -> canonical value
    adjusted jsonb NOT NULL DEFAULT '{}',  -- field -> [written, came back]
    PRIMARY KEY (entity, link)
);

CREATE TABLE concord.progress (
    topic text NOT NULL,
    partition int NOT NULL,
    "offset" bigint NOT NULL,
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);

CREATE TABLE concord.parked (
    entity text NOT NULL,
    link text NOT NULL,
    waits_for_entity text NOT NULL,
    waits_for text NOT NULL,
    topic text NOT NULL,
    partition int NOT NULL,
    "offset" bigint NOT NULL,
    record bytea NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    tried timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason text NOT NULL,
    PRIMARY KEY (entity, link)
);
CREATE INDEX parked_waits_for ON concord.parked (waits_for_entity, waits_for);

CREATE TABLE concord.dead_letter (
    id bigserial PRIMARY KEY,
    entity text NOT NULL,
    link text NOT NULL,
    topic text NOT NULL,
    partition int NOT NULL,
    "offset" bigint NOT NULL,
    record bytea,
    error text NOT NULL,
    code text NOT NULL,
    first_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    times int NOT NULL DEFAULT 1,
    UNIQUE (entity, link)
);
"""

_DECISIONS = """
CREATE TABLE concord.decision (
    id bigserial PRIMARY KEY,
    letter text NOT NULL,                  -- its name, as `concord dead list` had it
    decision text NOT NULL,                -- retried, discarded
    decided_by text NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason text NOT NULL,
    part text NOT NULL,                    -- that could not handle the record
    entity text,
    link text,
    event text NOT NULL,                   -- the record: topic@partition/offset
    key bytea,
    record bytea,
    error text NOT NULL,
    code text NOT NULL,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    times int NOT NULL
);
CREATE INDEX decision_event ON concord.decision (event);
"""

# Before they were numbered for good, the first two were edited where they stood: a database set up by an early version lacks this.
_MENDS = """
ALTER TABLE concord.parked ADD COLUMN IF NOT EXISTS tried timestamptz NOT NULL DEFAULT clock_timestamp();

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'concord.meta'::regclass AND contype = 'p') THEN
        ALTER TABLE concord.meta ADD PRIMARY KEY (version);  -- or a publication FOR ALL TABLES refuses its update
    END IF;
    IF (SELECT indnkeyatts FROM pg_index WHERE indexrelid = 'concord.key_link'::regclass) < 3 THEN
        DROP INDEX concord.key_link;
        CREATE INDEX key_link ON concord.key (entity, link, system);
    END IF;
END $$;
"""

# At most one live row of a thing in this database. A program before this one leaves `live` and `heard` as they are.
_ONE_ROW = """
ALTER TABLE concord.key ADD COLUMN live boolean NOT NULL DEFAULT false, ADD COLUMN heard boolean NOT NULL DEFAULT true;
CREATE UNIQUE INDEX key_live ON concord.key (entity, system, link) WHERE live;
"""

_VERIFIED = """
CREATE TABLE concord.verified (
    entity text PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    things bigint NOT NULL,
    differences bigint NOT NULL            -- things that differ or are missing somewhere
);
"""

_MAPPING = """
CREATE TABLE concord.mapping (
    slot text NOT NULL,                    -- the pipeline's in this database
    entity text NOT NULL,
    told jsonb NOT NULL,                   -- fingerprints: of what decides which rows count, and of each field
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (slot, entity)
);
ALTER TABLE concord.meta ADD COLUMN database uuid NOT NULL DEFAULT gen_random_uuid();  -- who we are to Kafka; goes with a dump
"""

MIGRATIONS: tuple[str, ...] = (_FIRST, SNAPSHOT, REQUESTS, _DECISIONS, _MENDS, LOSSES, _ONE_ROW, _VERIFIED, _MAPPING)
# versions that have a table: who only asks migrates nothing
VERIFIED_SINCE = MIGRATIONS.index(_VERIFIED) + 1
MAPPING_SINCE = MIGRATIONS.index(_MAPPING) + 1
LATEST = len(MIGRATIONS)


def version(conn: psycopg.Connection[Any]) -> int:
    """How many migrations have run; 0 when there is no schema `concord`."""
    there = conn.execute("SELECT to_regclass('concord.meta') IS NOT NULL").fetchone()
    if there is None or not there[0]:
        return 0
    row = conn.execute("SELECT version FROM concord.meta").fetchone()
    return int(row[0]) if row else 0


def ensure(conn: psycopg.Connection[Any], role: str | None = None) -> int:
    """Brings the schema up to date in a transaction of its own; returns the version it found. Idempotent, any number at once.

    `role`: whoever writes rows keeps what it knows of them in the same transaction (I2), so it is granted the use of all tables.
    Raises UnfitDatabase when a newer Concord has been here. A migration that fails leaves the schema as it was.
    """
    found = _migrated(conn)
    if role is not None:
        _grant(conn, role)
    return found


_LACKS = """
SELECT NOT has_schema_privilege(%(role)s, 'concord', 'USAGE')
    OR NOT coalesce(bool_and(has_table_privilege(%(role)s, c.oid, 'SELECT') AND has_table_privilege(%(role)s, c.oid, 'INSERT')
        AND has_table_privilege(%(role)s, c.oid, 'UPDATE') AND has_table_privilege(%(role)s, c.oid, 'DELETE')), true)
FROM pg_class c WHERE c.relnamespace = to_regnamespace('concord') AND c.relkind = 'r'"""


def _grant(conn: psycopg.Connection[Any], role: str) -> None:
    try:
        with conn.transaction():
            conn.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            lacks = conn.execute(_LACKS, {"role": role}).fetchone()
            if lacks is None or not lacks[0]:
                return
            for statement in (
                "GRANT USAGE ON SCHEMA concord TO {}",
                "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA concord TO {}",
                "GRANT USAGE ON ALL SEQUENCES IN SCHEMA concord TO {}",
            ):
                conn.execute(sql.SQL(statement).format(sql.Identifier(role)))
    except psycopg.errors.UndefinedObject as error:
        raise no_role(error, role, conn.info.user) from error


def _migrated(conn: psycopg.Connection[Any]) -> int:
    found = version(conn)  # not in the transaction below: who waits for the lock must hold no table that its holder alters
    if found == LATEST:
        return found
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        found = version(conn)  # somebody may have migrated while we waited
        if found > LATEST:
            raise UnfitDatabase(newer(found, str(conn.info.dbname)))
        if found == 0:
            there = conn.execute("SELECT to_regnamespace('concord') IS NOT NULL").fetchone()
            if there is None or not there[0]:  # IF NOT EXISTS would ask for CREATE on the database first
                conn.execute("CREATE SCHEMA concord")  # I10: nothing outside of it
            conn.execute("CREATE TABLE concord.meta (version int PRIMARY KEY)")  # a key, or a publication FOR ALL TABLES refuses its update
            conn.execute("INSERT INTO concord.meta VALUES (0)")
        for migration in MIGRATIONS[found:]:
            conn.execute(migration.encode())
        conn.execute("UPDATE concord.meta SET version = %s", (LATEST,))
        return found


def name_of(conn: psycopg.Connection[Any]) -> str:
    """The database's name for itself, the same for as long as the schema is there. After `ensure`."""
    row = conn.execute("SELECT database FROM concord.meta").fetchone()
    assert row is not None
    return str(row[0])


def newer(found: int, database: str) -> str:
    """What to say of a schema that this program is too old for."""
    return (
        f"database {database!r}: schema concord is of version {found}, written by a newer Concord, and this program knows up to {LATEST}: "
        "start the newer program here too (nothing was changed)"
    )
