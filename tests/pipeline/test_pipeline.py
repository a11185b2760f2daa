"""The whole path on real parts: what a change in one database does in the other, and what faults, duplicates and rubbish do not."""

from __future__ import annotations

import functools
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Producer

from tests.pipeline.pipeline_fixtures import RunningPipeline, eventually, running
from tests.services import a_database

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.slow]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, kafka: str, postgres: str, postgres_2: str) -> Iterator[RunningPipeline]:
    """One pipeline for the module: CRM on the first server, ERP on the second, of another major version."""
    folder: Path = tmp_path_factory.mktemp("pipeline")
    with (
        a_database(postgres) as crm,
        a_database(postgres_2) as erp,
        running(folder, "t" + uuid.uuid4().hex[:8], kafka, crm, erp) as pipeline,
    ):
        # rows that were there before: one customer known to both, one to each alone
        pipeline.do(
            "crm", "INSERT INTO account (id, name, vat, city, credit_limit) VALUES (%s, 'Both GmbH', 'DE1', 'Kiel', 5)", uuid.uuid4()
        )
        pipeline.do("crm", "INSERT INTO account (id, name, vat) VALUES (%s, 'Only CRM', 'DE2')", uuid.uuid4())
        for name, tax in (("Both Ltd", " de1 "), ("Only ERP", "DE3")):
            pipeline.do(
                "erp",
                "INSERT INTO partner (legal_name, tax_id, town, class, credit_limit, write_date, active) "
                "VALUES (%s, %s, 'Hull', 'A', 700.5, now(), true)",
                name,
                tax,
            )
        pipeline.up()
        pipeline.settle(90)
        yield pipeline


def new_account(pipeline: RunningPipeline, **columns: object) -> uuid.UUID:
    key = uuid.uuid4()
    row = {"id": key, "name": "Acme", "vat": "V" + key.hex[:12], **columns}
    names, marks = ", ".join(row), ", ".join(["%s"] * len(row))
    pipeline.do("crm", f"INSERT INTO account ({names}) VALUES ({marks})", *row.values())
    return key


def partner(pipeline: RunningPipeline, account: uuid.UUID, columns: str = "legal_name") -> tuple[object, ...] | None:
    """The ERP's row of a CRM account, found by its tax id, or None."""
    vat = pipeline.one("crm", "SELECT upper(trim(vat)) FROM account WHERE id = %s", account)
    rows = pipeline.rows("erp", f"SELECT {columns} FROM partner WHERE upper(trim(tax_id)) = %s", vat)
    return rows[0] if rows else None


def test_what_was_on_both_sides_is_one_thing_and_the_owner_decides(pipeline: RunningPipeline) -> None:
    assert pipeline.one("crm", "SELECT count(*) FROM account WHERE upper(trim(vat)) = 'DE1'") == 1
    assert pipeline.one("erp", "SELECT count(*) FROM partner WHERE upper(trim(tax_id)) = 'DE1'") == 1
    assert pipeline.rows("crm", "SELECT name, credit_limit::text FROM account WHERE upper(trim(vat)) = 'DE1'") == [("Both Ltd", "700.50")]
    assert pipeline.one("crm", "SELECT name FROM account WHERE vat = 'DE3'") == "Only ERP"
    assert pipeline.one("erp", "SELECT legal_name FROM partner WHERE tax_id = 'DE2'") == "Only CRM"


def test_a_new_customer_travels_and_its_number_comes_back(pipeline: RunningPipeline) -> None:
    account = new_account(pipeline, name="Größe & 株式会社", segment="gold", city="上海", created_at="2026-03-29 01:30:00+00")
    row = eventually(lambda: partner(pipeline, account, "legal_name, class, town, since::text, active, number"))
    assert row[:5] == ("Größe & 株式会社", "A", "上海", "2026-03-29 03:30:00", True)
    assert eventually(lambda: pipeline.one("crm", "SELECT number FROM account WHERE id = %s", account)) == row[5]


def test_an_edit_travels_both_ways(pipeline: RunningPipeline) -> None:
    account = new_account(pipeline)
    eventually(lambda: partner(pipeline, account))
    pipeline.do("crm", "UPDATE account SET name = 'Renamed in CRM' WHERE id = %s", account)
    eventually(lambda: partner(pipeline, account) == ("Renamed in CRM",))
    pipeline.do("erp", "UPDATE partner SET legal_name = 'Renamed in ERP', write_date = now() WHERE legal_name = 'Renamed in CRM'")
    eventually(lambda: pipeline.one("crm", "SELECT name FROM account WHERE id = %s", account) == "Renamed in ERP")


def test_the_owner_is_never_overruled(pipeline: RunningPipeline) -> None:
    account = new_account(pipeline, credit_limit=10)
    eventually(lambda: partner(pipeline, account))
    pipeline.do("erp", "UPDATE partner SET credit_limit = 1234.5 WHERE tax_id = (%s)", "V" + account.hex[:12].upper())
    eventually(lambda: str(pipeline.one("crm", "SELECT credit_limit FROM account WHERE id = %s", account)) == "1234.50")
    pipeline.do("crm", "UPDATE account SET credit_limit = 9 WHERE id = %s", account)
    eventually(lambda: str(pipeline.one("crm", "SELECT credit_limit FROM account WHERE id = %s", account)) == "1234.50")
    assert partner(pipeline, account, "credit_limit::text") == ("1234.5",)


def test_a_delete_travels_and_the_key_is_kept_as_gone(pipeline: RunningPipeline) -> None:
    account = new_account(pipeline, vat="VDELETE")
    eventually(lambda: partner(pipeline, account))
    pipeline.do("crm", "DELETE FROM account WHERE id = %s", account)
    eventually(lambda: pipeline.one("erp", "SELECT count(*) FROM partner WHERE tax_id = 'VDELETE'") == 0)
    pipeline.settle()
    assert pipeline.one("erp", "SELECT count(*) FROM concord.key WHERE link = %s", f"crm:{account}") >= 1


def test_of_two_accounts_with_one_vat_number_the_one_that_is_left_stays(pipeline: RunningPipeline) -> None:
    """The second waits for a person to decide; the person deletes the first (docs/decisions/0036)."""
    first = new_account(pipeline, vat="VTWICE", name="First")
    eventually(lambda: partner(pipeline, first))
    second = new_account(pipeline, vat="vtwice", name="Second")  # another text, the same number
    pipeline.settle()
    assert partner(pipeline, second) == ("First",)
    pipeline.do("crm", "DELETE FROM account WHERE id = %s", first)
    eventually(lambda: partner(pipeline, second) == ("Second",))
    pipeline.settle()
    assert pipeline.rows("crm", "SELECT id FROM account WHERE upper(vat) = 'VTWICE'") == [(second,)]
    assert pipeline.rows("erp", "SELECT legal_name FROM partner WHERE upper(tax_id) = 'VTWICE'") == [("Second",)]


def test_a_child_before_its_parent_arrives_with_it(pipeline: RunningPipeline) -> None:
    with psycopg.connect(pipeline.dsn["erp"]) as erp:  # foreign keys are deferred there: the child is first in the log
        erp.execute(
            "INSERT INTO \"user\" (id, partner_id, name, email, write_date) VALUES (900001, 900000, 'Ann Lee', 'ANN@x.example', now())"
        )
        erp.execute(
            "INSERT INTO partner (id, legal_name, tax_id, class, credit_limit, write_date, active) OVERRIDING SYSTEM VALUE "
            "VALUES (900000, 'Late Parent', 'VLATE', 'B', 0, now(), true)"
        )
    row = eventually(
        lambda: pipeline.rows(
            "crm",
            "SELECT c.first_name, c.last_name, c.email, a.name FROM contact c JOIN account a ON a.id = account_id WHERE a.vat = 'VLATE'",
        )
    )
    assert row == [("Ann", "Lee", "ann@x.example", "Late Parent")]


def test_two_births_of_one_customer_are_one_thing(pipeline: RunningPipeline) -> None:
    def born_in_erp() -> None:
        with psycopg.connect(pipeline.dsn["erp"], autocommit=True) as erp:
            for n in range(20):
                erp.execute(
                    "INSERT INTO partner (legal_name, tax_id, class, credit_limit, write_date, active) "
                    "VALUES (%s, %s, 'A', 0, now(), true) ON CONFLICT DO NOTHING",
                    (f"Twin {n}", f"VTWIN{n}"),
                )

    thread = threading.Thread(target=born_in_erp)
    thread.start()
    for n in range(20):
        pipeline.do(
            "crm",
            "INSERT INTO account (id, name, vat) VALUES (%s, %s, %s) ON CONFLICT (vat) DO NOTHING",
            uuid.uuid4(),
            f"Zwilling {n}",
            f"VTWIN{n}",
        )
    thread.join()
    pipeline.settle()
    for system, table, column in (("crm", "account", "vat"), ("erp", "partner", "tax_id")):
        assert pipeline.one(system, f"SELECT count(*) FROM {table} WHERE {column} LIKE 'VTWIN%%'") == 20


def test_i5_an_echo_is_never_sent_on(pipeline: RunningPipeline) -> None:
    account = new_account(pipeline)
    eventually(lambda: partner(pipeline, account))
    pipeline.settle()
    written = pipeline.one("erp", "SELECT xmin::text FROM partner WHERE tax_id = %s", "V" + account.hex[:12].upper())
    mine = pipeline.one("crm", "SELECT xmin::text FROM account WHERE id = %s", account)
    new_account(pipeline)
    pipeline.settle()
    assert pipeline.one("erp", "SELECT xmin::text FROM partner WHERE tax_id = %s", "V" + account.hex[:12].upper()) == written
    assert pipeline.one("crm", "SELECT xmin::text FROM account WHERE id = %s", account) == mine


def test_i8_a_poison_row_ends_as_dead_letter_and_nothing_else_waits(pipeline: RunningPipeline) -> None:
    poison = new_account(pipeline, name="Poison", city="Atlantis")  # the ERP's CHECK refuses it
    good = new_account(pipeline, name="Good")
    eventually(lambda: partner(pipeline, good))
    eventually(lambda: pipeline.one("erp", "SELECT code FROM concord.dead_letter WHERE link = %s", f"crm:{poison}") == "23514")
    letters = pipeline.concord("dead", "list", expect=None)
    assert str(poison) in str(letters)
    pipeline.do("crm", "UPDATE account SET city = 'Kiel' WHERE id = %s", poison)  # a later version supersedes it
    eventually(lambda: partner(pipeline, poison) == ("Poison",))
    eventually(lambda: pipeline.one("erp", "SELECT count(*) FROM concord.dead_letter WHERE link = %s", f"crm:{poison}") == 0)


def test_nasty_values_arrive_as_they_are_or_end_as_dead_letters(pipeline: RunningPipeline) -> None:
    nasty = [
        {"created_at": "0044-03-15 12:00:00+00 BC"},
        {"created_at": "infinity"},
        {"city": ""},
        {"name": "\u202e reversed \U0001f9ff"},
        {"name": "x" * 5000},
    ]
    accounts = [new_account(pipeline, **columns) for columns in nasty]
    for account in accounts:
        eventually(functools.partial(partner, pipeline, account))
    assert partner(pipeline, accounts[1], "since::text") == ("infinity",)
    assert "BC" in str(partner(pipeline, accounts[0], "since::text"))
    pipeline.do("erp", "UPDATE partner SET credit_limit = 'NaN' WHERE tax_id = %s", "V" + accounts[2].hex[:12].upper())
    eventually(lambda: str(pipeline.one("crm", "SELECT credit_limit FROM account WHERE id = %s", accounts[2])) == "NaN")
    pipeline.do(
        "erp", "UPDATE partner SET credit_limit = 1e20 WHERE tax_id = %s", "V" + accounts[3].hex[:12].upper()
    )  # numeric(12,2) refuses
    eventually(lambda: pipeline.one("crm", "SELECT code FROM concord.dead_letter WHERE link = %s", f"crm:{accounts[3]}") == "MappingError")
    pipeline.do("erp", "UPDATE partner SET credit_limit = 1 WHERE tax_id = %s", "V" + accounts[3].hex[:12].upper())
    eventually(lambda: pipeline.one("crm", "SELECT count(*) FROM concord.dead_letter") == 0)


def test_garbage_in_every_topic_harms_nothing(pipeline: RunningPipeline) -> None:
    producer = Producer({"bootstrap.servers": pipeline.kafka})
    topics = ["crm.public.account", "links.crm.public.account", "claims.customer", "changes.customer", "golden.customer"]
    names = set(producer.list_topics(timeout=10).topics)
    for topic in topics:
        found = [name for name in names if name == topic or name == f"{pipeline.name}.{topic}"]
        assert found, f"no topic {topic} in {sorted(names)}"
        for rubbish in (b"", b"garbage", b"\x00\x00\x00\x00\x07abc", b"\x00", b"{}", b"[1]", b"\xff" * 100, b'{"op": "claim"}'):
            producer.produce(found[0], key=b"rubbish", value=rubbish)
            producer.produce(found[0], key=None, value=rubbish)
    producer.flush(10)
    account = new_account(pipeline, name="After the garbage")
    eventually(lambda: partner(pipeline, account) == ("After the garbage",), seconds=60)
    pipeline.settle()


def test_columns_come_and_go_in_mid_stream(pipeline: RunningPipeline) -> None:
    pipeline.do("crm", "ALTER TABLE account ADD COLUMN fresh int DEFAULT 7")
    first = new_account(pipeline, name="With a fresh column")
    pipeline.do("crm", "ALTER TABLE account RENAME COLUMN fresh TO stale")
    second = new_account(pipeline, name="With a renamed column")
    pipeline.do("crm", "ALTER TABLE account DROP COLUMN note")
    third = new_account(pipeline, name="With a dropped column")
    for account in (first, second, third):
        eventually(functools.partial(partner, pipeline, account))


def replaced(pipeline: RunningPipeline, part: str, before: int) -> bool:
    return pipeline.pid(part) != before


def test_a_mapped_column_that_is_renamed_stops_its_entity_with_the_reason(pipeline: RunningPipeline) -> None:
    pipeline.do("crm", "ALTER TABLE contact RENAME COLUMN email TO mail")
    account = new_account(pipeline, name="Goes on")
    pipeline.do("crm", "INSERT INTO contact (id, account_id, last_name) VALUES (%s, %s, 'Stopped')", uuid.uuid4(), account)
    eventually(lambda: partner(pipeline, account) == ("Goes on",))
    told = eventually(lambda: [each for each in pipeline.concord("dead", "list", expect=None)["dead"] if "no column email" in str(each)])
    assert "contact" in str(told)
    pipeline.do("crm", "ALTER TABLE contact RENAME COLUMN mail TO email")
    pipeline.do("crm", "UPDATE contact SET first_name = 'Now' WHERE last_name = 'Stopped'")
    eventually(lambda: pipeline.one("erp", "SELECT count(*) FROM \"user\" WHERE name = 'Now Stopped'") == 1)


@pytest.mark.parametrize("part", ["source crm", "streams", "sink erp"])
def test_kill_9_of_a_part_under_load_loses_nothing(pipeline: RunningPipeline, part: str) -> None:
    stop = threading.Event()
    mark = part.replace(" ", "")

    def load() -> None:
        with psycopg.connect(pipeline.dsn["crm"], autocommit=True) as crm, psycopg.connect(pipeline.dsn["erp"], autocommit=True) as erp:
            n = 0
            while not stop.wait(0.01):
                n += 1
                crm.execute("INSERT INTO account (id, name, vat) VALUES (%s, %s, %s)", (uuid.uuid4(), f"{mark} {n}", f"K{mark}{n}".upper()))
                erp.execute(
                    "UPDATE partner SET legal_name = %s, write_date = now() WHERE tax_id = %s",
                    (f"{mark} {n} edited", f"K{mark}{n - 5}".upper()),
                )

    thread = threading.Thread(target=load)
    thread.start()
    try:
        before = pipeline.pid(part)
        for _ in range(2):
            time.sleep(0.5)  # load between the kills, not a wait for an effect
            os.kill(pipeline.pid(part), 9)
            eventually(functools.partial(replaced, pipeline, part, before))
            before = pipeline.pid(part)
    finally:
        stop.set()
        thread.join()
    report = pipeline.verify()
    entities = report["entities"]
    assert all(one["differing"] == 0 and not any(one["missing"].values()) for one in entities.values()), report
    assert pipeline.one("crm", f"SELECT count(*) FROM account WHERE vat LIKE 'K{mark.upper()}%%'") == pipeline.one(
        "erp", f"SELECT count(*) FROM partner WHERE tax_id LIKE 'K{mark.upper()}%%'"
    )
    restarts = [
        one["restarts"]
        for name, one in pipeline.concord("status", expect=None)["parts"].items()
        if name.replace("-", " ").startswith(pipeline.part(part))
    ]
    assert restarts
    assert restarts[0] >= 1


def test_i10_no_customer_table_is_altered(pipeline: RunningPipeline) -> None:
    for system, tables in (("crm", {"account", "contact"}), ("erp", {"partner", "user"})):
        ours = pipeline.rows(
            system,
            "SELECT DISTINCT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
            "WHERE relkind = 'r' AND n.nspname !~ '^(pg_|information_schema)'",
        )
        assert {name for (name,) in ours} == {"public", "concord"}
        assert {name for (name,) in pipeline.rows(system, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")} == tables
        assert pipeline.one(system, "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == 0
        assert (
            pipeline.one(
                system,
                "SELECT count(*) FROM pg_class WHERE relreplident <> 'd' AND relnamespace = 'public'::regnamespace AND relkind = 'r'",
            )
            == 0
        )
