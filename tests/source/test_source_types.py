"""Every type, snapshot and stream, is what Debezium made of the same rows (captured from it), where we do not differ on purpose."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from tests.source.captured import captured_file, missing_columns, types_rows, types_tables
from tests.source.source_running import Record, a_source, run_sql

# On purpose: what Debezium loses or contradicts itself in. Column → why
DIFFERENT = {
    "c_num_neg": "numeric(5,-2): scale 0 instead of 2046",
    "c_gen": "generated columns are not in the log; Debezium has them in its snapshot only",
    "c_name": "null in Debezium's stream",
}


def prepare(dsn: str) -> set[str]:
    gone = set(missing_columns(dsn))
    run_sql(dsn, *types_tables(gone))
    return gone


def rows(dsn: str, id_: int, base: int, gone: set[str]) -> None:
    run_sql(dsn, *types_rows(id_, base, gone))


def check_rows(records: list[Record], gone: set[str]) -> None:
    captured = captured_file("types.json")
    streamed = {record["after"]["id"] % 100: record["after"] for record in captured["records"] if record["op"] == "c"}
    for record in records:
        after = record.value["after"]
        want = streamed[after["id"] % 100]
        beside = (record.header("concord.columns") or {}).get("after", {})
        for column, value in want.items():
            if column in DIFFERENT or column in gone or column in ("id", "c_serial"):
                continue
            if column == "c_nn_ts" and after["id"] % 100 != 1:
                continue  # DEFAULT now()
            if column == "c_real" and isinstance(value, float):
                value = struct.unpack("<f", struct.pack("<f", value))[0]  # JSON prints a float's shortest text
            assert after[column] == value, f"row {after['id']}, {column}"
        if after["id"] % 100 == 1:
            assert after["c_name"] == "nm"
            assert beside["c_inta2"] == "{{1,2},{3,4}}"
            assert beside["c_interval"] == "1 year 2 mons 3 days 04:05:06.789"
            assert beside["c_varbit"] == "10101"
            assert beside["c_timetz"] == "13:14:15.123456+05:30"
        if after["id"] % 100 == 3:
            assert beside == {"c_num": "NaN"}


def json_like(connect: Any) -> Any:
    import base64

    if isinstance(connect, bytes):
        return base64.b64encode(connect).decode()
    if isinstance(connect, dict):
        return {name: json_like(part) for name, part in connect.items()}
    if isinstance(connect, list):
        return [json_like(part) for part in connect]
    return connect


@pytest.mark.parametrize("server", ["database", "database_2"])
def test_every_type_in_snapshot_and_stream_is_debeziums(server: str, kafka: str, topic_prefix: str, request: pytest.FixtureRequest) -> None:
    dsn = request.getfixturevalue(server)
    gone = prepare(dsn)
    rows(dsn, 1, 0, gone)
    with a_source(kafka, dsn, topic_prefix, ["types_all"]) as source:
        source.snapshot_done(dsn)
        rows(dsn, 101, 100, gone)
        records = source.read(["types_all"], lambda found: len(found) >= 26)
    assert [record.op for record in records] == ["r"] * 13 + ["c"] * 13
    check_rows(records, gone)


def test_the_schema_of_every_type_is_debeziums(database: str) -> None:
    from connectors.postgres import connect
    from connectors.source.relations import DatabaseCatalog, captured_table, relation_of

    gone = prepare(database)
    with connect(database) as conn:
        catalog = DatabaseCatalog(conn)
        oid = catalog.oid_of("public", "types_all")
        assert oid is not None
        facts = catalog.table(oid)
    assert facts is not None
    table = captured_table("t1", relation_of(facts), facts)
    captured = captured_file("types.json")["schemas"]["t1.public.types_all"][-1]
    ours = {field["field"]: json_like(field) for field in table.envelope["fields"][1]["fields"]}
    want = {field["field"]: field for field in captured["row"] if field["field"] not in gone}
    assert list(ours) == list(want)
    assert {name: field for name, field in ours.items() if name not in DIFFERENT} == {n: f for n, f in want.items() if n not in DIFFERENT}
    assert table.key is not None
    assert table.key["fields"] == captured["key"]
    envelope = json_like(table.envelope)
    for field in envelope["fields"][:2]:
        field["fields"], field["name"] = [], "f.public.f_default.Value"
    debezium = captured_file("envelope_schema.json")
    for field in debezium["fields"][:2]:
        field["fields"] = []
    assert {**envelope, "name": "f.public.f_default.Envelope"} == debezium
    assert set(table.left_out) == {"c_int4mr", "c_tsquery", "c_regclass", "c_box", "c_polygon", "c_circle", "c_pair", "c_pglsn"}
    assert json.dumps(table.value_schema)
