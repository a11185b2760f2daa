"""What is done to the database, one occasion after the other: every kind of event. Rows of types are in types.sql and rows.sql."""

from __future__ import annotations

from dataclasses import dataclass

from tests.source.captured import captured_file


@dataclass(frozen=True, slots=True)
class Occasion:
    """Something that happens, and what it is called on the page."""

    name: str
    sql: tuple[str, ...]


_FILES = {
    "an insert": "21_insert.json",
    "an update, REPLICA IDENTITY DEFAULT": "22_update_ri_default.json",
    "an update, REPLICA IDENTITY FULL": "23_update_ri_full.json",
    "a key that changes": "24_key_change_ri_default.json",
    "a key that changes, REPLICA IDENTITY FULL": "25_key_change_ri_full.json",
    "a delete": "26_delete_ri_default.json",
    "a delete, REPLICA IDENTITY FULL": "27_delete_ri_full.json",
    "REPLICA IDENTITY USING INDEX without the key": "28_ri_index.json",
    "unchanged TOAST values": "29_unchanged_toast.json",
    "unchanged TOAST values, REPLICA IDENTITY FULL": "30_unchanged_toast_ri_full.json",
    "TRUNCATE": "31_truncate.json",
    "logical messages": "32_logical_message.json",
    "a table without a primary key": "33_no_primary_key.json",
    "a transaction of several rows": "34_multi_row_transaction.json",
    "a savepoint that is rolled back": "35_subtransaction_rolled_back.json",
    "columns added, renamed, dropped, of another type": "37_schema_change.json",
    "a column added in mid-transaction": "38_schema_change_in_tx.json",
    "a partitioned table, and a row that moves between partitions": "39_partitioned.json",
}
_MORE = (
    Occasion(
        "a transaction under a replication origin",
        (
            "SELECT pg_replication_origin_create('parity_peer')",
            "SELECT pg_replication_origin_session_setup('parity_peer'); SELECT pg_replication_origin_xact_setup('0/ABCDEF0', now()); "
            "INSERT INTO f_default VALUES(30,'from origin',1); UPDATE f_default SET a='o2' WHERE id=30",
            "INSERT INTO f_default VALUES(31,'no origin',1)",
            "SELECT pg_replication_origin_drop('parity_peer')",
        ),
    ),
    Occasion(
        "nulls where the column has a default",
        ("INSERT INTO p_defaults (id, n, t, b) VALUES (2, NULL, NULL, NULL)", "INSERT INTO p_defaults (id) VALUES (3)"),
    ),
    Occasion(
        "names with capitals, spaces, dashes and other scripts",
        ("INSERT INTO \"P Odd-Names\" VALUES (1, 'a', 'b', 'c')", 'UPDATE "P Odd-Names" SET "Größe-1" = \'z\''),
    ),
    Occasion("a compound key", ("INSERT INTO p_compound VALUES (1, 'x', 'a')", "UPDATE p_compound SET b = 'y'", "DELETE FROM p_compound")),
    Occasion(
        "two-phase commit",
        (
            "BEGIN; INSERT INTO f_default VALUES(40,'prepared',1); PREPARE TRANSACTION 'parity'",
            "COMMIT PREPARED 'parity'",
        ),
    ),
    Occasion("a row of 2 MB", ("INSERT INTO f_default VALUES(41, repeat('x', 2000000), 1)",)),
    Occasion("an update that changes nothing", ("UPDATE f_default SET a = a WHERE id = 1",)),
    Occasion("COPY of a thousand rows", ("INSERT INTO f_default SELECT g, 'c' || g, g FROM generate_series(1001, 2000) g",)),
)

TABLES = """
CREATE TABLE p_defaults (id int PRIMARY KEY, n numeric(8,2) DEFAULT 1.5, t text DEFAULT 'dflt', b boolean DEFAULT true, i int DEFAULT 7);
CREATE TABLE "P Odd-Names" (id int PRIMARY KEY, "Größe-1" text, "two words" text, "CamelCase" text);
CREATE TABLE p_compound (a int, b text, c text, PRIMARY KEY (b, a));
INSERT INTO p_defaults (id, n) VALUES (1, NULL);
"""


def occasions() -> list[Occasion]:
    return [*(_captured(name, file) for name, file in _FILES.items()), *_MORE]


def _captured(name: str, file: str) -> Occasion:
    sql = captured_file(file)["sql"]
    return Occasion(name, (sql,) if isinstance(sql, str) else tuple(sql))
