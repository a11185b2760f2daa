"""The snapshot of a table beside streaming (the DBLog algorithm): how far it has come is kept in `concord.snapshot`."""

from __future__ import annotations

# For connectors.concord_schema: one row per table that is, or was, read.
MIGRATION = """
CREATE TABLE concord.snapshot (
    pipeline text NOT NULL,
    table_name text NOT NULL,              -- schema.table
    last_key text[],                       -- of the last row that Kafka has; null: none yet
    predicate text NOT NULL DEFAULT '',    -- SQL; '' reads every row
    vanished boolean NOT NULL DEFAULT false,  -- also send deletes for linked rows that are not in the table any more
    done boolean NOT NULL DEFAULT false,
    rows bigint NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    PRIMARY KEY (pipeline, table_name)
);
"""
