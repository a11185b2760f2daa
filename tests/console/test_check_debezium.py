"""`concord check --source debezium`: what real Debezium cannot do with these tables is refused before it starts."""

from __future__ import annotations

from typing import Any

import psycopg

from console.check import Checked, check_databases
from console.check.debezium import check_settings
from console.check.findings import About
from schemas.config import Config, parse

TABLES = """
CREATE TABLE here (id int PRIMARY KEY, code text NOT NULL UNIQUE, label name, tags text[], sizes numeric[], unmapped interval[]);
ALTER TABLE here REPLICA IDENTITY USING INDEX here_code_key;
CREATE TABLE there (id int PRIMARY KEY, code text, label text, tags text[], sizes numeric[]);
ALTER TABLE there REPLICA IDENTITY USING INDEX there_pkey;
"""


def a_config(dsn: str, **told: Any) -> Config:
    sides = {"crm": {"table": "here", "insert": {"id": 1}}, "erp": {"table": "there", "insert": {"id": 1}}}
    fields = {name: {"crm": name, "erp": name} for name in ("code", "label", "tags", "sizes")}
    systems = {"crm": {"dsn": dsn, "rank": 1}, "erp": {"dsn": dsn, "rank": 2}}
    return parse({"kafka": {"bootstrap": "localhost:1"}, "systems": systems, "entities": {"thing": {**sides, "fields": fields}}, **told})


def about_debezium(found: Checked) -> tuple[dict[str, str], dict[str, str]]:
    problems, notes = (
        {one.problem.where: one.problem.what for one in findings if one.about is About.DEBEZIUM}
        for findings in (found.problems, found.notes)
    )
    return problems, notes


def test_what_debezium_cannot_tell_of_the_tables_is_refused(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(TABLES)
    found, silent = Checked(), Checked()
    check_databases(a_config(database, source="debezium"), found, rows=False)
    problems, notes = about_debezium(found)
    assert set(problems) == {"crm: public.here", "crm: public.here.label"}
    assert "deletes the key 0" in problems["crm: public.here"]
    assert "streams as null" in problems["crm: public.here.label"]
    assert {where: "sizes" in what and "tags" not in what for where, what in notes.items()} == {
        "crm: public.here": True,
        "erp: public.there": True,
    }
    check_databases(a_config(database), silent, rows=False)
    assert about_debezium(silent) == ({}, {})


def test_a_name_that_debezium_would_not_quote_is_refused(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(
            """CREATE TABLE "the ""odd""\" (id int PRIMARY KEY, "in""side" text); CREATE TABLE other (id int PRIMARY KEY, code text)"""
        )
    sides = {"crm": {"table": '"the ""odd"""', "insert": {"id": 1}}, "erp": {"table": "other", "insert": {"id": 1}}}
    config = a_config(database, source="debezium", entities={"thing": {**sides, "fields": {"code": {"crm": 'in"side', "erp": "code"}}}})
    found = Checked()
    check_databases(config, found, rows=False)
    problems, _ = about_debezium(found)
    assert {where: what.partition(":")[0] for where, what in problems.items()} == {'crm: public.the "odd"': 'the "odd"'}


def test_settings_that_lose_values_are_problems() -> None:
    found = Checked()
    told = {"connector": {"value.converter.replace.null.with.default": "true"}}
    check_settings(a_config("postgresql://db/x", source="debezium", debezium=told), found)
    problems, _ = about_debezium(found)
    assert set(problems) == {"debezium (crm)", "debezium (erp)"}
