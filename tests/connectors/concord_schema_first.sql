-- The schema concord as the first commit of it made it (version 2), before its first migrations were edited where they stood.
CREATE SCHEMA concord;
CREATE TABLE concord.meta (version int NOT NULL);
INSERT INTO concord.meta VALUES (2);

CREATE TABLE concord.key (
    entity text NOT NULL,
    system text NOT NULL,
    key text NOT NULL,
    link text NOT NULL,
    gone boolean NOT NULL DEFAULT false,
    PRIMARY KEY (entity, system, key)
);
CREATE INDEX key_link ON concord.key (entity, link);

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

CREATE TABLE concord.snapshot (
    pipeline text NOT NULL,
    table_name text NOT NULL,
    last_key text,
    done boolean NOT NULL DEFAULT false,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    rows bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (pipeline, table_name)
);
