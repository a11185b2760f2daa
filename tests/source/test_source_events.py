"""Every feature of the envelope is Debezium's: the same SQL gives the events captured from it, where we do not differ on purpose."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from schemas.envelope import position_of
from tests.source.captured import CAPTURED, captured_file, statements
from tests.source.source_running import Record, Running, a_source, run_sql, wait_for

TABLES = ["f_default", "f_full", "f_nopk", "f_nopkfull", "f_toast", "f_toastfull", "f_idx", "f_trunc", "f_schema", "f_inc", "f_part"]


def feature_tables() -> list[str]:
    return statements((CAPTURED / "10_feature_tables.sql").read_text())


def told(value: Any, system: str) -> Any:
    """An event's value without what depends on the run."""
    if value is None:
        return None
    source = {
        name: part
        for name, part in value["source"].items()
        if name in ("connector", "name", "snapshot", "schema", "table", "xmin", "origin", "origin_lsn")
    }
    source["name"] = "f" if source["name"] == system else source["name"]
    rest = {name: part for name, part in value.items() if name in ("before", "after", "op", "message", "transaction")}
    return {**rest, "source": source}


def headers(record: Record) -> list[list[str]]:
    return [[name, value.decode()] for name, value in record.headers if name.startswith("__debezium")]


def ours(records: list[Record], system: str) -> list[Any]:
    return [("f" + record.topic.removeprefix(system), record.key, told(record.value, system), headers(record)) for record in records]


def debeziums(name: str) -> list[Any]:
    return [
        (record["topic"], record["key"], told(record["value"], "f"), record.get("headers", [])) for record in captured_file(name)["records"]
    ]


FILES = [
    "21_insert.json",
    "22_update_ri_default.json",
    "23_update_ri_full.json",
    "24_key_change_ri_default.json",
    "25_key_change_ri_full.json",
    "26_delete_ri_default.json",
    "27_delete_ri_full.json",
    "29_unchanged_toast.json",
    "30_unchanged_toast_ri_full.json",
    "31_truncate.json",
    "32_logical_message.json",
    "33_no_primary_key.json",
    "34_multi_row_transaction.json",
    "35_subtransaction_rolled_back.json",
    "37_schema_change.json",
    "38_schema_change_in_tx.json",
]


def run_captured(dsn: str, name: str) -> None:
    sql = captured_file(name)["sql"]
    if isinstance(sql, str) and sql.startswith("BEGIN;"):
        run_sql(dsn, sql)  # several statements in one go are a transaction
    else:
        run_sql(dsn, *([sql] if isinstance(sql, str) else sql))


def without_default(value: Any) -> Any:
    """Debezium's JSON converter puts a column's default where the row holds null; in Avro null is null."""
    if value is not None and value["op"] == "d" and value["before"] and value["before"].get("c") == "9.99":
        value["before"]["c"] = None
    return value


@pytest.mark.parametrize("server", ["database", "database_2"])
def test_every_feature_in_a_row_is_debeziums(server: str, kafka: str, topic_prefix: str, request: pytest.FixtureRequest) -> None:
    dsn = request.getfixturevalue(server)
    run_sql(dsn, *feature_tables())
    tables = [table for table in TABLES if table not in ("f_nopk", "f_nopkfull")]
    with a_source(kafka, dsn, topic_prefix, tables) as source:
        source.snapshot_done(dsn)
        run_sql(dsn, f"ALTER PUBLICATION {topic_prefix}_pub ADD TABLE f_nopk, f_nopkfull")
        source.source.settings.tables.update({("public", "f_nopk"): frozenset(), ("public", "f_nopkfull"): frozenset()})  # type: ignore[attr-defined]
        want: dict[str, list[Any]] = {}
        for name in FILES:
            run_captured(dsn, name)
            for event in debeziums(name):
                if event[1] is None and event[2] is None:
                    continue  # on purpose: a tombstone without a key is for nobody
                want.setdefault(event[0], []).append((event[0], event[1], without_default(event[2]), event[3]))
        for topic, events in want.items():
            records = source.reader.read(
                [topic.replace("f.", f"{topic_prefix}.", 1)],
                lambda found, events=events: len([record for record in found if record.op != "r"]) >= len(events),  # type: ignore[misc]
            )
            streamed = [record for record in records if record.op != "r"]
            assert ours(streamed, topic_prefix) == events, topic
        check_positions(source)
        check_schemas(source)


def check_positions(source: Running) -> None:
    records = source.read(["f_default"], lambda found: len([record for record in found if record.op != "r"]) >= 12)
    positions = []
    for record in records:
        if record.value is not None and record.op != "r":
            after_commit, lsn = json.loads(record.value["source"]["sequence"])
            assert int(lsn) == record.value["source"]["lsn"]
            assert int(after_commit) > int(lsn), "the transaction's own commit record comes after its changes"
            assert record.value["source"]["txId"]
            positions.append((int(after_commit), int(lsn)))
    assert positions == sorted(positions)


def check_schemas(source: Running) -> None:
    """f_schema's schemas, one after the other, are those that Debezium had."""
    want = [
        [field["field"] for field in schema["row"]] for schema in captured_file("37_schema_change.json")["schemas"]["f.public.f_schema"]
    ]
    records = source.read(["f_schema"], lambda found: len([record for record in found if record.op != "r"]) >= 10)
    got: list[list[str]] = []
    for record in records:
        if record.value is not None and record.op != "r":
            fields = list(record.value["after"] or record.value["before"])
            if not got or got[-1] != fields:
                got.append(fields)
    names: list[list[str]] = []
    for fields in want:
        if not names or names[-1] != fields:
            names.append(fields)
    assert got[: len(names)] == names


def test_an_origin_is_told(database: str, kafka: str, topic_prefix: str) -> None:
    run_sql(database, *feature_tables())
    origin = f"{topic_prefix}_peer"
    with a_source(kafka, database, topic_prefix, ["f_default"]) as source:
        source.snapshot_done(database)
        run_sql(database, f"SELECT pg_replication_origin_create('{origin}')")
        run_sql(
            database,
            f"SELECT pg_replication_origin_session_setup('{origin}'); "
            "SELECT pg_replication_origin_xact_setup('0/ABCDEF0', now()); INSERT INTO f_default VALUES(30,'from origin',1); "
            "UPDATE f_default SET a='o2' WHERE id=30",
        )
        run_sql(
            database,
            "INSERT INTO f_default VALUES(31,'no origin',1)",
        )
        records = source.read(["f_default"], lambda found: len(found) >= 6)[3:]
        run_sql(database, f"SELECT pg_replication_origin_drop('{origin}')")
    want = debeziums("36_origin.json")
    got = ours(records, topic_prefix)
    for event in got:
        if event[2]["source"]["origin"] == origin:
            event[2]["source"]["origin"] = "peer_erp"
    assert got == want


def test_a_replica_identity_without_the_key_gives_deletes_that_name_no_row(database: str, kafka: str, topic_prefix: str) -> None:
    """On purpose: Debezium gives them the key {"id": 0}, which could be a row's."""
    run_sql(database, *feature_tables())
    with a_source(kafka, database, topic_prefix, ["f_idx"]) as source:
        source.snapshot_done(database)
        run_sql(database, *captured_file("28_ri_index.json")["sql"])
        records = source.read(["f_idx"], lambda found: len(found) >= 5)
    assert [(record.op, record.key, record.value["before"], record.value["after"]) for record in records] == [
        ("c", {"id": 1}, None, {"id": 1, "code": "c1", "a": "a"}),
        ("u", {"id": 1}, None, {"id": 1, "code": "c1", "a": "b"}),
        ("u", {"id": 1}, None, {"id": 1, "code": "c2", "a": "b"}),
        ("u", {"id": 5}, None, {"id": 5, "code": "c2", "a": "b"}),
        ("d", None, None, None),
    ]


def test_a_partitioned_table_is_one_topic(database: str, kafka: str, topic_prefix: str) -> None:
    """On purpose: Debezium has a topic for each leaf, unless the publication goes by the root, as ours does."""
    run_sql(database, *feature_tables())
    with a_source(kafka, database, topic_prefix, ["f_part"]) as source:
        source.snapshot_done(database)
        run_sql(database, *captured_file("39_partitioned.json")["sql"])
        records = source.read(["f_part"], lambda found: len(found) >= 6)
    assert [(record.op, record.key) for record in records] == [
        ("c", {"id": 1, "r": "x"}),
        ("c", {"id": 2, "r": "y"}),
        ("u", {"id": 1, "r": "x"}),
        ("d", {"id": 1, "r": "x"}),
        (None, {"id": 1, "r": "x"}),
        ("c", {"id": 1, "r": "y"}),
    ]


def test_a_snapshot_while_live_is_debeziums_incremental_one(database: str, kafka: str, topic_prefix: str) -> None:
    run_sql(database, *feature_tables())
    with a_source(kafka, database, topic_prefix, ["f_inc"]) as source:
        records = source.read(["f_inc"], lambda found: len(found) >= 5)
    want = [event for event in debeziums("40_incremental_signal_table.json") if event[0] == "f.public.f_inc"]
    assert ours(records, topic_prefix) == want
    for record in records:
        assert (record.value["source"]["lsn"], record.value["source"]["txId"]) == (None, None)
        after_commit, lsn = json.loads(record.value["source"]["sequence"])
        assert int(after_commit) >= int(lsn) > 0


def test_unchanged_toast_is_listed_and_odd_names_are_told(database: str, kafka: str, topic_prefix: str) -> None:
    run_sql(database, 'CREATE TABLE "order-line" (id int PRIMARY KEY, "to" text, "sale-line" text, "sale line" numeric)')
    run_sql(database, 'ALTER TABLE "order-line" ALTER "sale-line" SET STORAGE EXTERNAL')
    with a_source(kafka, database, topic_prefix, ["order-line"]) as source:
        source.snapshot_done(database)
        run_sql(
            database,
            """INSERT INTO "order-line" VALUES (1, 'x', repeat('y', 9000), 'NaN')""",
            """UPDATE "order-line" SET "to" = 'z'""",
        )
        first, second = source.read(["order-line"], lambda found: len(found) >= 2)
    assert first.value["after"] == {"id": 1, "to": "x", "sale_line": "y" * 9000, "sale_line_2": None}
    assert first.header("concord.columns") == {"after": {"sale line": "NaN"}}
    assert second.header("concord.columns") == {"after": {"sale line": "NaN"}, "unchanged": ["sale-line"]}
    schema = source.registry.schema(int.from_bytes((first.raw_value or b"")[1:5], "big"))
    row = next(part for part in schema["fields"][0]["type"] if isinstance(part, dict))  # type: ignore[index, call-overload]
    assert [field.get("concord.column") for field in row["fields"]] == [None, None, "sale-line", "sale line"]


def test_what_is_not_mapped_is_passed_over(database: str, kafka: str, topic_prefix: str) -> None:
    run_sql(database, "CREATE TABLE ours (id int PRIMARY KEY)", "CREATE TABLE theirs (id int PRIMARY KEY)")
    with a_source(kafka, database, topic_prefix, ["ours"]) as source:
        source.snapshot_done(database)
        run_sql(database, f"ALTER PUBLICATION {topic_prefix}_pub ADD TABLE theirs")
        run_sql(database, "INSERT INTO theirs VALUES (1)", "INSERT INTO ours VALUES (2)")
        records = source.read(["ours"], lambda found: len(found) >= 1)
        assert [record.key for record in records] == [{"id": 2}]
        wait_for(lambda: source.source.ready.is_set(), "still streaming")


def test_i4_the_events_of_one_row_come_in_commit_order(database: str, kafka: str, topic_prefix: str) -> None:
    run_sql(database, *feature_tables())
    with (
        a_source(kafka, database, topic_prefix, ["f_default"]) as source,
        psycopg.connect(database) as slow,
        psycopg.connect(database) as quick,
    ):
        source.snapshot_done(database)
        slow.execute("INSERT INTO f_default VALUES (900, 'old LSN, late commit', 1)")  # in the log before all that quick does
        for n in range(20):
            quick.execute("UPDATE f_default SET a = %s WHERE id = 1", [f"v{n}"])
            if n % 3:
                quick.commit()  # several changes in one transaction, and one alone
        quick.commit()
        slow.execute("UPDATE f_default SET a = 'last' WHERE id = 1")
        slow.commit()
        records = source.read(
            ["f_default"], lambda found: any((r.value or {}).get("after", {}).get("a") == "last" for r in found if r.value)
        )
    of_row = [record for record in records if record.key["id"] == 1 and record.value["op"] == "u"]
    assert [record.value["after"]["a"] for record in of_row] == [f"v{n}" for n in range(20)] + ["last"]
    positions = [position_of(record.value["source"]["sequence"], record.value["source"]["lsn"]) for record in of_row]
    assert positions == sorted(set(positions))
    assert len({record.partition for record in of_row}) == 1
