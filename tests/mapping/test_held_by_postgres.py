"""The promise that merge and sink rest on: what a database holds after a write is what `represent` said it would.

One table with a column for every type and transform; nasty values are written as the sink writes them (texts, cast to the column's type)
and read as it reads them (`column::text`), on two versions of PostgreSQL. What a column cannot hold is refused before it gets there: of all
that is sent here the database refuses nothing, and cuts nothing.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql

from connectors.catalog import read_tables
from schemas.change import Canonical
from schemas.config import parse
from schemas.errors import MappingError
from schemas.mapping import Binding, compile_config, table_names
from tests.mapping.mapping_builders import a_config

NUMBERS = ["0", "10.5", "-0.005", "0.005", "99.995", "1234567.891", "-3", "NaN", "Infinity", "0.1", "7", "16777217", "1" + "0" * 400]
NUMBERS += [
    "32767",
    "32768",
    "-32769",
    "2147483648",
    "4294967295",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "-1",
]
NUMBERS += ["9999999999.995", "9999999999.994", "-9999999999.995", "0.00994", "0.00995"]
NUMBERS += ["123456789012345678901234567890.123456789", "100000000000000000000000", "0.000000000000000000000000000000000000000000001"]
TEXTS = [
    "",
    " ",
    "ab",
    "ab  ",
    "Ünï",
    "名前",
    "e\u0301",
    "👩‍👧",
    "a\tb\nc",
    "\\x",
    "'; --",
    "{}",
    "%s",
    "NULL",
    "Anna Maria Li",
    "  x  y ",
    "nine char      ",
    "Zoe\u0308 Zoe\u0308 Z",
    "x" * 64,
    "ü" * 32,
]
INSTANTS = ["2026-11-23T15:00:00.123456Z", "2026-11-23T15:00:00.999999Z", "1999-12-31T23:59:59.999500Z", "2024-10-27T00:30:00.000000Z"]
INSTANTS += [
    "2024-10-27T01:30:00.000000Z",
    "0044-03-15T12:00:00.000000Z BC",
    "20000-01-01T00:00:00.000001Z",
    "infinity",
    "-infinity",
    "1800-01-01T00:00:00.000000Z",
    "4714-11-24T00:00:00.000000Z BC",
    "4714-11-23T23:59:59.999999Z BC",
    "294276-12-31T23:59:59.999999Z",
    "294277-01-01T00:00:00.000000Z",
]
NAIVE = [text.replace("Z", "") for text in INSTANTS]
DATES = ["2024-02-29", "infinity", "0044-03-15 BC", "20000-01-01", "4714-11-24 BC", "4714-11-23 BC", "5874897-12-31", "5874898-01-01"]
LISTS = [
    "[]",
    '["a",null]',
    '["x y"]',
    '["NULL","null",""]',
    '["a,b","{c}","\\\\","\\"q\\"","ü\\n"]',
    '[["a","b"],["c",null]]',
    '["abcdefghij"]',
]
JSON = ['{"a":[1,2.5,null],"b":"é"}', "1.5", '"x"', "null", "[]", "100000000000000000000.000001"]

# column → (its type, the field's side, values)
CASES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "n_any": ("numeric", {}, NUMBERS),
    "n_money": ("numeric(12,2)", {}, NUMBERS),
    "n_int": ("integer", {}, NUMBERS),
    "n_small": ("smallint", {"scale": 0}, NUMBERS),
    "n_big": ("bigint", {"scale": 0}, NUMBERS),
    "n_oid": ("oid", {"scale": 0}, NUMBERS),
    "n_digits": ("numeric(5)", {}, NUMBERS),
    "n_cube": ("cube", {}, NUMBERS),
    "n_double": ("double precision", {}, NUMBERS),
    "n_real": ("real", {}, NUMBERS),
    "n_cents": ("bigint", {"unit": "0.01"}, NUMBERS),
    "t_text": ("text", {}, TEXTS),
    "t_varchar": ("varchar(9)", {}, TEXTS),
    "t_char": ("char(5)", {}, TEXTS),
    "t_domain": ("short", {}, TEXTS),
    "t_name": ("name", {}, TEXTS),
    "t_cut": ("varchar(9)", {"shorten": True}, TEXTS),
    "t_cut_char": ("char(5)", {"shorten": 4}, TEXTS),
    "t_cut_text": ("text", {"shorten": 5, "prefix": "K-"}, TEXTS),
    "t_cut_clean": ("varchar(4)", {"shorten": True, "clean": ["squeeze", "upper"]}, TEXTS),
    "t_letter": ('"char"', {}, TEXTS),
    "t_prefix": ("text", {"prefix": "K-"}, TEXTS),
    "t_blank": ("text NOT NULL DEFAULT ''", {"blank": ""}, TEXTS),
    "t_enum": ("mood", {"values": {"ab": "happy", "": "sad"}}, TEXTS),
    "t_mood": ("mood", {}, ["sad", "happy", "angry", "Sad", ""]),
    "t_strange": ('"Mood of, ""it"" 100%"', {}, ["it's", "so so", "angry"]),
    "a_text": ("text[]", {}, LISTS),
    "a_short": ("varchar(3)[]", {}, LISTS),
    "a_moods": ("mood[]", {}, ['["sad",null]', '["angry"]']),
    "a_shorts": ("short[]", {}, LISTS),
    "a_numbers": ("numeric(5,2)[]", {}, ['["1.005","-3",null]', '["1000"]', "[]", '["NaN"]']),
    "a_flags": ("boolean[]", {}, ["[true,false,null]"]),
    "a_moments": ("timestamptz[]", {}, ['["2026-11-23T15:00:00.123456Z",null]']),
    "a_split": ("text", {"list": ", "}, ['["a","b c"]', "[]", '["a,b"]', '["",null," x "]']),
    "b_bool": ("boolean", {}, ["true", "false"]),
    "b_code": ("char(1)", {"values": {True: "Y", False: "N"}}, ["true", "false"]),
    "d_date": ("date", {}, DATES),
    "i_zoned": ("timestamptz", {}, INSTANTS),
    "i_zoned3": ("timestamptz(3)", {}, INSTANTS),
    "i_naive": ("timestamp(0)", {"timezone": "Europe/Berlin"}, INSTANTS),
    "l_naive": ("timestamp(2)", {}, NAIVE),
    "c_time": ("time(1)", {}, ["15:00:00.96", "23:59:59.5", "00:00:00", "24:00:00"]),
    "c_timetz": ("timetz", {}, ["15:00:00.5+00", "00:00:00+00"]),
    "s_span": ("interval", {}, ["1 year 2 mons 3 days 04:05:06.789", "-00:00:01", "00:00:00"]),
    "u_uuid": ("uuid", {}, ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    "y_bytes": ("bytea", {}, ["", "deadbeef00"]),
    "j_json": ("json", {}, JSON),
    "j_jsonb": ("jsonb", {}, [*JSON, '"\\\\u0000"', '"\\u0000"', '{"\\ud800":1}']),
    "x_bits": ("bit(3)", {}, ["101", "000", "1010", "10", "abc"]),
    "x_bit": ("bit", {}, ["1", "0", "10"]),
    "r_range": ("int4range", {}, ["[1,5)", "empty"]),
    "e_inet": ("inet", {}, ["192.168.0.1/24"]),
    "v_citext_like": ("name", {}, TEXTS),
}
SETTINGS = """
SET timezone = 'UTC'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 1; SET bytea_output = 'hex'
"""
# these columns cannot hold some of their values, which is refused and never cut
REFUSING = {"n_money", "n_int", "n_small", "n_big", "n_oid", "n_digits", "n_cube", "n_double", "n_real", "n_cents"}
REFUSING |= {"t_varchar", "t_char", "t_domain", "t_name", "v_citext_like", "t_letter", "t_enum", "t_mood", "t_strange"}
REFUSING |= {"a_short", "a_shorts", "a_moods", "a_numbers", "a_split", "d_date", "i_zoned", "i_zoned3", "i_naive", "l_naive", "j_jsonb"}
REFUSING |= {"x_bits", "x_bit"}


def a_database(conn: psycopg.Connection[Any]) -> Binding:
    columns = ", ".join(f"{name} {kind}" for name, (kind, _, _) in CASES.items())
    conn.execute("CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN short AS varchar(9)")
    conn.execute("""CREATE TYPE "Mood of, ""it"" 100%" AS ENUM ('it''s', 'so so')""")
    conn.execute(f"CREATE DOMAIN cube AS numeric({'2,4' if conn.info.server_version >= 150_000 else '4,4'})")
    columns += ", id int PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, first text, last text NOT NULL DEFAULT ''"
    conn.execute(f"CREATE TABLE there ({columns})")
    conn.execute(SETTINGS)
    fields: dict[str, Any] = {name: {"erp": {"column": name, **side}} for name, (_, side, _) in CASES.items()}
    fields["b_code"]["kind"] = "boolean"
    fields["full_name"] = {"erp": {"columns": ["first", "last"], "join": " "}}
    config = parse(a_config({"e": {"erp": {"table": "there"}, "fields": fields}}, "erp"))
    pipeline = compile_config(config, {"erp": read_tables(conn, table_names(config, "erp"))})
    return pipeline.entities["e"].bindings["erp"]


def held_after_writing(conn: psycopg.Connection[Any], binding: Binding, field: str, value: Canonical) -> Canonical:
    """Writes as the sink does. Raises MappingError or psycopg's errors."""
    texts = binding.to_columns({field: value})
    casts = {column.name: column.type for column in binding.table.columns}
    statement = sql.SQL("INSERT INTO there ({}) VALUES ({}) RETURNING {}").format(
        sql.SQL(", ").join(map(sql.Identifier, texts)),
        sql.SQL(", ").join(sql.SQL("%s::{}").format(sql.SQL(casts[column].replace("%", "%%"))) for column in texts),
        sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in texts),
    )
    with conn.transaction():
        row = conn.execute(statement, list(texts.values())).fetchone()
    assert row is not None
    return binding.to_canonical(dict(zip(texts, row, strict=True)))[field]


@pytest.mark.parametrize("server", ["database", "database_2"])
def test_what_postgres_holds_is_what_represent_says(server: str, request: pytest.FixtureRequest) -> None:
    refused: set[tuple[str, str]] = set()
    with psycopg.connect(request.getfixturevalue(server)) as conn:
        binding = a_database(conn)
        for field, values in [*((name, case[2]) for name, case in CASES.items()), ("full_name", TEXTS)]:
            for value in [None, *values]:
                canonical: Canonical = {"true": True, "false": False}[str(value)] if field.startswith("b_") and value else value
                try:
                    held = held_after_writing(conn, binding, field, canonical)
                except MappingError:
                    refused.add((field, str(value)))
                    assert binding.represent(field, canonical) == canonical, "differs from all that could be held"
                    continue
                assert held == binding.represent(field, canonical), (field, value)
                assert binding.same(field, canonical, held)
                assert binding.represent(field, held) == held, (field, value)
                assert held_after_writing(conn, binding, field, held) == held
    assert {field for field, _ in refused} == REFUSING
    assert ("t_varchar", "Anna Maria Li") in refused
    assert ("t_char", "Anna Maria Li") in refused
    assert ("t_domain", "Anna Maria Li") in refused
    assert {("n_int", "10.5"), ("n_int", "2147483648"), ("n_oid", "-1"), ("n_money", "9999999999.995")} <= refused
    assert ("n_money", "9999999999.994") not in refused
    assert ("n_cube", "0.00994") not in refused
