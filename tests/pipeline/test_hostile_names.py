"""Names as bad as PostgreSQL allows, in every statement that anything of ours composes: each command once, and a change each way."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

import psycopg
import pytest
import yaml
from psycopg import sql

from tests.pipeline.pipeline_fixtures import RunningPipeline, eventually, forget_topics
from tests.services import a_database

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.slow]

LONG = "ü" * 31 + "X"  # 63 bytes
CRM_TABLE = ('S%s "x".{0}', 'Kunde"; DROP TABLE bystander; --')
ERP_TABLE = ("Öffentlich; --", "'); DROP TABLE bystander; --")
PART_TABLE = ("Öffentlich; --", 'Adr.esse %(x)s {y} "z" ')  # with the quotation mark at its end `check` refuses it for Debezium
SEQUENCE = ("Öffentlich; --", "Num'mer; %s")

CRM = """
CREATE TABLE bystander (id int PRIMARY KEY);
CREATE SCHEMA {schema};
CREATE TABLE {table} ({id} uuid PRIMARY KEY, {name} text NOT NULL, {tax} text UNIQUE, {city} text, {long} text);
"""
CRM_COLUMNS = {"id": 'I"d %s', "name": "select", "tax": "{tax}%", "city": "st'a;dt", "long": LONG}
ERP = """
CREATE TABLE bystander (id int PRIMARY KEY);
CREATE SCHEMA {schema};
CREATE SEQUENCE {sequence};
CREATE TABLE {table} ({id} bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {name} text NOT NULL, {tax} text UNIQUE, {number} text NOT NULL,
  {long} text, {stamp} timestamptz);
CREATE TABLE {part} ({id} bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {owner} bigint NOT NULL REFERENCES {table}, {place} int,
  {city} text);
CREATE INDEX ON {part} ({owner});
"""
ERP_COLUMNS = {
    "id": "ID",
    "name": 'Na"me; DROP TABLE bystander',
    "tax": "tax $1 %(a)s",
    "number": "numm/er\\",
    "long": "1" + LONG[:-1],
    "stamp": "now()",
    "owner": "par\"t'ner",
    "place": "pla%ce",
    "city": "{city} %%",
}


def quoted(*names: str) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def config(pipeline_name: str, kafka: str, state: str) -> str:
    crm, erp = CRM_COLUMNS, ERP_COLUMNS
    customer = {
        "match_on": ["tax"],
        "crm": {"table": quoted(*CRM_TABLE), "insert": {crm["id"]: "uuid"}},
        "erp": {
            "table": quoted(*ERP_TABLE),
            "insert": {erp["number"]: {"nextval": quoted(*SEQUENCE)}},
            "always": {erp["stamp"]: "now"},
            "parts": {"address": {"table": quoted(*PART_TABLE), "child": erp["owner"], "first_by": [erp["place"]]}},
        },
        "fields": {
            "name": {"crm": crm["name"], "erp": erp["name"]},
            "tax": {"crm": crm["tax"], "erp": erp["tax"], "clean": ["strip", "upper"]},
            "city": {"crm": crm["city"], "erp": f"address.{erp['city']}"},
            "long": {"crm": crm["long"], "erp": erp["long"]},
        },
    }
    told = {
        "name": pipeline_name,
        "kafka": {"bootstrap": kafka, "partitions": 2},
        "state_dir": state,
        "systems": {system: {"dsn": f"${{{system.upper()}_DSN}}", "rank": rank} for rank, system in enumerate(("crm", "erp"), 1)},
        "entities": {"customer": customer},
    }
    text: str = yaml.safe_dump(told, allow_unicode=True, sort_keys=False)
    return text.replace("{", "{{").replace("}", "}}")  # what RunningPipeline fills in


def composed(text: str, columns: dict[str, str], **places: tuple[str, ...]) -> sql.Composed:
    names = {name: sql.Identifier(column) for name, column in columns.items()}
    return sql.SQL(text).format(**names, **{name: sql.Identifier(*place) for name, place in places.items()})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, kafka: str, postgres: str, postgres_2: str) -> Iterator[RunningPipeline]:
    folder = tmp_path_factory.mktemp("hostile")
    name = "t" + uuid.uuid4().hex[:8]
    with a_database(postgres) as crm, a_database(postgres_2) as erp:
        with psycopg.connect(crm) as one, psycopg.connect(erp) as other:
            one.execute(composed(CRM, CRM_COLUMNS, schema=CRM_TABLE[:1], table=CRM_TABLE))
            other.execute(composed(ERP, ERP_COLUMNS, schema=ERP_TABLE[:1], table=ERP_TABLE, part=PART_TABLE, sequence=SEQUENCE))
        forget_topics(kafka)
        running = RunningPipeline(folder, name, kafka, crm, erp, config(name, kafka, str(folder / "run")))
        try:
            an_account(running, name="Both", tax="DE1")
            running.db["erp"].execute(
                composed("INSERT INTO {table} ({name}, {tax}, {number}) VALUES ('Both', ' de1', '0')", ERP_COLUMNS, table=ERP_TABLE)
            )
            yield running
        finally:
            running.close()


def an_account(pipeline: RunningPipeline, **values: str) -> uuid.UUID:
    key = uuid.uuid4()
    columns = sql.SQL(", ").join(sql.Identifier(CRM_COLUMNS[name]) for name in ("id", *values))
    given = sql.SQL(", ").join(map(sql.Literal, (key, *values.values())))  # as parameters, a % in a name would be taken for one
    insert = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(sql.Identifier(*CRM_TABLE), columns, given)
    pipeline.db["crm"].execute(insert)
    return key


def partner(pipeline: RunningPipeline, tax: str) -> tuple[object, ...] | None:
    columns = {name: sql.Identifier(column).as_string() for name, column in ERP_COLUMNS.items()}
    table, part = sql.Identifier(*ERP_TABLE).as_string(), sql.Identifier(*PART_TABLE).as_string()
    text = (
        f"SELECT t.{columns['name']}, t.{columns['long']}, p.{columns['city']} FROM {table} t LEFT JOIN {part} p "
        f"ON p.{columns['owner']} = t.{columns['id']} WHERE upper(trim(t.{columns['tax']})) = '{tax}'"
    )
    return pipeline.db["erp"].execute(text.encode()).fetchone()


def test_before_it_runs_every_command_asks_and_says(pipeline: RunningPipeline) -> None:
    assert pipeline.concord("check")["problems"] == []
    assert '"pairs"' in json.dumps(pipeline.concord("match", expect=None))
    proposed = pipeline.folder / "proposed.yaml"
    told = pipeline.concord("init", f"crm={pipeline.dsn['crm']}", f"erp={pipeline.dsn['erp']}", "-o", str(proposed), expect=None)
    assert told["entities"] == [] or proposed.exists()


def test_what_runs_quotes_every_name(pipeline: RunningPipeline) -> None:
    pipeline.up()
    pipeline.settle(90)
    an_account(pipeline, name="Größe", tax="DE2", city="Ulm", long="long")
    eventually(lambda: partner(pipeline, "DE2") == ("Größe", "long", "Ulm"))
    update = composed("UPDATE {part} SET {city} = 'Kiel'", ERP_COLUMNS, part=PART_TABLE)
    pipeline.db["erp"].execute(update)
    city = sql.SQL("SELECT count(*) FROM {} WHERE {} = 'Kiel'").format(sql.Identifier(*CRM_TABLE), sql.Identifier(CRM_COLUMNS["city"]))
    eventually(lambda: pipeline.db["crm"].execute(city).fetchone() == (1,))
    if pipeline.source != "debezium":  # which has its own way
        told = pipeline.concord("snapshot", "crm", quoted(*CRM_TABLE), "--where", f"{CRM_COLUMNS['tax']}=DE1")
        assert told["rows"] == 1
        assert pipeline.concord("snapshot", "erp", quoted(*ERP_TABLE), "--vanished")["rows"] == 2
    pipeline.settle()
    assert pipeline.concord("verify")["entities"]["customer"]["equal"] == 2
    gone = sql.SQL("DELETE FROM {} WHERE {} = 'DE2'").format(sql.Identifier(*CRM_TABLE), sql.Identifier(CRM_COLUMNS["tax"]))
    pipeline.db["crm"].execute(gone)
    eventually(lambda: partner(pipeline, "DE2") is None)
    assert pipeline.concord("dead", "list")["dead"] == []
    for system in ("crm", "erp"):
        assert pipeline.one(system, "SELECT count(*) FROM bystander") == 0  # nobody dropped it


def test_two_tables_that_kafka_could_not_tell_apart_are_refused(pipeline: RunningPipeline) -> None:
    text = pipeline.file.read_text()
    told = yaml.safe_load(text)
    other = {**told["entities"]["customer"], "crm": {"table": quoted(CRM_TABLE[0], CRM_TABLE[1].replace(";", ":"))}}
    try:
        pipeline.file.write_text(yaml.safe_dump({**told, "entities": {**told["entities"], "other": other}}, allow_unicode=True))
        problems = pipeline.concord("check", expect=1)["problems"]
        assert any("would share the topic crm.S_s__x_._0_.Kunde___DROP_TABLE_bystander__--" in one["what"] for one in problems), problems
    finally:
        pipeline.file.write_text(text)
