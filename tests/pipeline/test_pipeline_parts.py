"""A customer that is one row in the CRM and rows of six tables in the ERP, on real parts: both ways, and back again."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.pipeline.pipeline_fixtures import RunningPipeline, eventually, forget_topics
from tests.services import a_database

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.slow]

CRM = """
CREATE TABLE account (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL, vat text UNIQUE, street text, city varchar(40), number text,
  email text, segment text, turnover numeric(12,2));
"""
ERP = """
CREATE SEQUENCE address_number;
CREATE TABLE party_group (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
CREATE TABLE party (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, legal_name text NOT NULL, "group" bigint REFERENCES party_group,
  write_date timestamp NOT NULL DEFAULT now());
CREATE TABLE "party-address" (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, party bigint NOT NULL REFERENCES party, sequence int, street text, city text,
  number text, active boolean NOT NULL DEFAULT false);
CREATE TABLE contact (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, party bigint NOT NULL REFERENCES party, sequence int, type text NOT NULL,
  value text NOT NULL, value_compact text);
CREATE TABLE identifier (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, party bigint NOT NULL REFERENCES party, code text);
CREATE TABLE sale (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, resource text, amount float8, state text);
CREATE INDEX ON "party-address" (party); CREATE INDEX ON contact (party); CREATE INDEX ON identifier (party);
CREATE INDEX ON sale (resource);
"""
CONFIG = """
name: {name}
kafka: {{bootstrap: "{kafka}", partitions: 2}}
state_dir: "{state}"
systems:
  crm: {{dsn: "${{CRM_DSN}}", rank: 1, heartbeat_seconds: 1}}
  erp: {{dsn: "${{ERP_DSN}}", rank: 2, heartbeat_seconds: 1}}
entities:
  customer:
    match_on: [tax_id]
    crm: {{table: account}}
    erp:
      table: party
      always: {{write_date: now}}
      parts:
        address:
          table: party-address
          child: party
          first_by: [sequence]
          where: {{active: true}}
          insert: {{number: {{sql: "'A' || nextval('address_number')"}}}}
        email:
          table: contact
          child: party
          first_by: [sequence]
          where: {{type: email}}
          always: {{value_compact: {{column: value}}}}
          empty: delete
        identifier: {{table: identifier, child: party}}
        group: {{table: party_group, parent: group}}
        sales: {{table: sale, child: {{column: resource, prefix: "party,"}}, where: {{state: done}}, aggregate: {{total: {{sum: amount}}}}}}
    fields:
      name: {{crm: name, erp: legal_name}}
      tax_id: {{crm: vat, erp: identifier.code, clean: [strip, upper]}}
      street: {{crm: street, erp: address.street}}
      city: {{crm: city, erp: address.city}}
      number: {{crm: number, erp: address.number, owner: erp}}
      email: {{crm: email, erp: email.value}}
      segment: {{crm: segment, erp: group.name}}
      turnover: {{crm: turnover, erp: sales.total, owner: erp}}
"""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, kafka: str, postgres: str, postgres_2: str) -> Iterator[RunningPipeline]:
    folder: Path = tmp_path_factory.mktemp("parts")
    with a_database(postgres) as crm, a_database(postgres_2) as erp:
        forget_topics(kafka)
        running = RunningPipeline(folder, "t" + uuid.uuid4().hex[:8], kafka, crm, erp, CONFIG)
        try:
            running.do("crm", CRM)
            running.do("erp", ERP)
            running.do("crm", "INSERT INTO account (name, vat, city) VALUES ('Both GmbH', 'DE1', 'Kiel'), ('Only CRM', 'DE2', 'Ulm')")
            for name, code, city in (("Both Ltd", " de1 ", "Hull"), ("Only ERP", "DE3", "York")):
                party = running.one("erp", "INSERT INTO party (legal_name) VALUES (%s) RETURNING id", name)
                running.do("erp", "INSERT INTO identifier (party, code) VALUES (%s, %s)", party, code)
                running.do("erp", 'INSERT INTO "party-address" (party, city, active) VALUES (%s, %s, true)', party, city)
            running.up("--workers", "2", "--sink-workers", "2")  # both workers have a partition of each join
            running.settle(90)
            yield running
        finally:
            running.close()


def new_account(pipeline: RunningPipeline, **columns: object) -> uuid.UUID:
    row = {"id": uuid.uuid4(), "name": "Acme", **columns}
    row.setdefault("vat", "V" + str(row["id"])[:8].upper())
    names, marks = ", ".join(row), ", ".join(["%s"] * len(row))
    pipeline.do("crm", f"INSERT INTO account ({names}) VALUES ({marks})", *row.values())
    return uuid.UUID(str(row["id"]))


def party(pipeline: RunningPipeline, account: uuid.UUID) -> int | None:
    """The ERP's party of a CRM account."""
    vat = pipeline.one("crm", "SELECT vat FROM account WHERE id = %s", account)
    found: int | None = pipeline.one("erp", "SELECT party FROM identifier WHERE upper(trim(code)) = %s", vat)
    return found


def a_customer(pipeline: RunningPipeline, **columns: object) -> tuple[uuid.UUID, int]:
    account = new_account(pipeline, **columns)
    key: int = eventually(lambda: party(pipeline, account))
    pipeline.settle()
    return account, key


def addresses(pipeline: RunningPipeline, key: int) -> list[tuple[object, ...]]:
    return pipeline.rows("erp", 'SELECT street, city FROM "party-address" WHERE party = %s ORDER BY sequence NULLS LAST, id', key)


def in_crm(pipeline: RunningPipeline, account: uuid.UUID, column: str) -> object:
    return pipeline.one("crm", f"SELECT {column} FROM account WHERE id = %s", account)


def test_what_was_on_both_sides_is_one_thing_by_a_value_in_a_part(pipeline: RunningPipeline) -> None:
    assert pipeline.rows("crm", "SELECT name, city FROM account WHERE vat = 'DE1'") == [("Both Ltd", "Hull")]
    assert pipeline.rows("crm", "SELECT name, city FROM account WHERE vat = 'DE3'") == [("Only ERP", "York")]
    query = (
        'SELECT legal_name, city FROM party p JOIN identifier i ON i.party = p.id JOIN "party-address" a ON a.party = p.id WHERE code = %s'
    )
    assert pipeline.rows("erp", query, "DE2") == [("Only CRM", "Ulm")]
    assert pipeline.one("erp", "SELECT count(*) FROM party") == 3


def test_a_new_customer_is_in_all_tables_and_what_the_erp_made_of_it_comes_back(pipeline: RunningPipeline) -> None:
    account, key = a_customer(pipeline, street="Main 1", city="Kiel", email="a@b.c", segment="Vip")
    assert addresses(pipeline, key) == [("Main 1", "Kiel")]
    assert pipeline.rows("erp", "SELECT type, value, value_compact FROM contact WHERE party = %s", key) == [("email", "a@b.c", "a@b.c")]
    assert pipeline.one("erp", 'SELECT g.name FROM party p JOIN party_group g ON g.id = "group" WHERE p.id = %s', key) == "Vip"
    number = pipeline.one("erp", 'SELECT number FROM "party-address" WHERE party = %s', key)
    assert str(number).startswith("A")
    assert in_crm(pipeline, account, "number") == number


def test_an_address_travels_both_ways_and_nothing_is_written_twice(pipeline: RunningPipeline) -> None:
    account, key = a_customer(pipeline, street="Main 1")
    pipeline.do("erp", "UPDATE \"party-address\" SET street = 'Theirs 2' WHERE party = %s", key)
    eventually(lambda: in_crm(pipeline, account, "street") == "Theirs 2")
    pipeline.do("crm", "UPDATE account SET street = 'Ours 3' WHERE id = %s", account)
    eventually(lambda: addresses(pipeline, key) == [("Ours 3", None)])
    pipeline.settle()
    written = "SELECT array_agg(t.xmin::text ORDER BY t.xmin::text) FROM {} t"
    before = [pipeline.one("erp", written.format(table)) for table in ("party", '"party-address"', "contact")]
    mine = pipeline.one("crm", written.format("account"))
    a_customer(pipeline)
    after = [pipeline.one("erp", written.format(table)) for table in ("party", '"party-address"', "contact")]
    assert [set(one) - set(other) for one, other in zip(before, after, strict=True)] == [set(), set(), set()]
    assert set(mine) <= set(pipeline.one("crm", written.format("account")))


def test_another_address_in_front_is_a_change_of_the_customer(pipeline: RunningPipeline) -> None:
    account, key = a_customer(pipeline, street="First")
    pipeline.do("erp", 'UPDATE "party-address" SET sequence = 5 WHERE party = %s', key)
    pipeline.do("erp", "INSERT INTO \"party-address\" (party, sequence, street, active) VALUES (%s, 9, 'Second', true)", key)
    pipeline.settle()
    assert in_crm(pipeline, account, "street") == "First"
    pipeline.do("erp", "UPDATE \"party-address\" SET sequence = 1 WHERE party = %s AND street = 'Second'", key)
    eventually(lambda: in_crm(pipeline, account, "street") == "Second")
    pipeline.do("crm", "UPDATE account SET street = 'Second, edited' WHERE id = %s", account)
    eventually(lambda: addresses(pipeline, key) == [("Second, edited", None), ("First", None)])


def test_an_address_that_is_deleted_in_the_erp_is_made_again_by_an_edit_in_the_crm(pipeline: RunningPipeline) -> None:
    account, key = a_customer(pipeline, street="Main 1", city="Ulm")
    pipeline.do("erp", 'DELETE FROM "party-address" WHERE party = %s', key)
    eventually(lambda: in_crm(pipeline, account, "street") is None and in_crm(pipeline, account, "city") is None)
    pipeline.do("crm", "UPDATE account SET street = 'Main 2' WHERE id = %s", account)
    eventually(lambda: addresses(pipeline, key) == [("Main 2", None)])


def test_what_is_behind_an_address_book_entry_that_was_taken_away_comes_forward(pipeline: RunningPipeline) -> None:
    account, key = a_customer(pipeline, email="first@b.c")
    pipeline.do(
        "erp", "INSERT INTO contact (party, sequence, type, value) VALUES (%s, NULL, 'email', 'second@b.c'), (%s, 1, 'fax', '9')", key, key
    )
    pipeline.settle()
    assert in_crm(pipeline, account, "email") == "first@b.c"
    pipeline.do("crm", "UPDATE account SET email = NULL WHERE id = %s", account)
    eventually(lambda: in_crm(pipeline, account, "email") == "second@b.c")
    pipeline.do("crm", "UPDATE account SET email = NULL WHERE id = %s", account)
    eventually(lambda: pipeline.rows("erp", "SELECT type FROM contact WHERE party = %s", key) == [("fax",)])
    pipeline.settle()
    assert in_crm(pipeline, account, "email") is None


def test_a_group_that_many_share_is_renamed_for_all(pipeline: RunningPipeline) -> None:
    customers = [a_customer(pipeline) for _ in range(3)]
    group = pipeline.one("erp", "INSERT INTO party_group (name) VALUES ('Silver') RETURNING id")
    for _, key in customers:
        pipeline.do("erp", 'UPDATE party SET "group" = %s WHERE id = %s', group, key)
    eventually(lambda: {in_crm(pipeline, account, "segment") for account, _ in customers} == {"Silver"})
    pipeline.settle()
    pipeline.do("crm", "UPDATE account SET segment = 'Gold' WHERE id = %s", customers[0][0])
    eventually(lambda: {in_crm(pipeline, account, "segment") for account, _ in customers} == {"Gold"})
    assert pipeline.one("erp", "SELECT name FROM party_group WHERE id = %s", group) == "Gold"


def test_what_is_drawn_together_arrives(pipeline: RunningPipeline) -> None:
    account, key = a_customer(pipeline)
    pipeline.do(
        "erp",
        "INSERT INTO sale (resource, amount, state) VALUES (%s, 0.1, 'done'), (%s, 0.2, 'done'), (%s, 5, 'draft')",
        *[f"party,{key}"] * 3,
    )
    eventually(lambda: str(in_crm(pipeline, account, "turnover")) == "0.30")


def test_a_delete_takes_the_rows_of_its_parts_with_it(pipeline: RunningPipeline) -> None:
    account, key = a_customer(pipeline, street="Main 1", email="a@b.c", segment="Kept")
    pipeline.do("crm", "DELETE FROM account WHERE id = %s", account)
    eventually(lambda: pipeline.one("erp", "SELECT count(*) FROM party WHERE id = %s", key) == 0)
    for table in ('"party-address"', "contact", "identifier"):
        assert pipeline.one("erp", f"SELECT count(*) FROM {table} WHERE party = %s", key) == 0
    assert pipeline.one("erp", "SELECT count(*) FROM party_group WHERE name = 'Kept'") == 1


def test_parts_that_came_apart_unheard_are_repaired(pipeline: RunningPipeline) -> None:
    account, key = a_customer(pipeline, street="Main 1", city="Ulm", email="a@b.c", segment="gold")
    other, second = a_customer(pipeline, street="Main 2", city="Kiel", email="d@e.f", segment="silver")
    pipeline.unheard("erp", '"party-address"', 'UPDATE "party-address" SET street = %s, city = NULL WHERE party = %s', "Wrong", key)
    pipeline.unheard("erp", "contact", "UPDATE contact SET value = 'x@y.z', value_compact = 'x@y.z' WHERE party = %s", second)
    pipeline.unheard("crm", "account", "UPDATE account SET street = 'Elsewhere' WHERE id = %s", other)
    differing = pipeline.concord("verify", expect=1)["differences"]
    assert {(one["link"], one["field"]) for one in differing} >= {(f"crm:{account}", "street"), (f"crm:{other}", "email")}
    told = pipeline.concord("verify", "--repair")
    assert told["entities"]["customer"]["repaired"] == 2
    assert addresses(pipeline, key) == [("Main 1", "Ulm")]
    assert pipeline.rows("erp", "SELECT value, value_compact FROM contact WHERE party = %s", second) == [("d@e.f", "d@e.f")]
    assert pipeline.one("crm", "SELECT street FROM account WHERE id = %s", other) == "Main 2"
    pipeline.do("erp", 'UPDATE "party-address" SET street = %s WHERE party = %s', "Moved 3", key)
    eventually(lambda: pipeline.one("crm", "SELECT street FROM account WHERE id = %s", account) == "Moved 3")
    assert pipeline.verify()["equal"]


def test_both_sides_at_work_on_the_same_customers_end_equal_while_workers_die(pipeline: RunningPipeline) -> None:
    customers = [a_customer(pipeline, street="s", city="c", email=f"{number}@b.c", segment="one") for number in range(4)]
    keys = [key for _, key in customers]

    def in_the_erp(seed: int) -> None:
        r = random.Random(seed)
        with psycopg.connect(pipeline.dsn["erp"], autocommit=True) as erp:
            for number in range(60):
                key = r.choice(keys)
                match r.randint(0, 5):
                    case 0:
                        erp.execute(
                            'INSERT INTO "party-address" (party, sequence, street, active) VALUES (%s, %s, %s, true)',
                            (key, r.randint(1, 9), f"e{number}"),
                        )
                    case 1:
                        chosen = 'SELECT id FROM "party-address" WHERE party = %s ORDER BY random() LIMIT 1'
                        erp.execute(f'DELETE FROM "party-address" WHERE id = ({chosen})', (key,))
                    case 2:
                        erp.execute('UPDATE "party-address" SET city = %s WHERE party = %s', (f"c{number}", key))
                    case 3:
                        erp.execute("UPDATE contact SET value = %s, value_compact = NULL WHERE party = %s", (f"e{number}@b.c", key))
                    case 4:
                        erp.execute(
                            'UPDATE party SET "group" = (SELECT "group" FROM party WHERE id = %s) WHERE id = %s', (r.choice(keys), key)
                        )
                    case 5:
                        erp.execute("UPDATE party SET legal_name = %s WHERE id = %s", (f"n{number}", key))

    def in_the_crm(seed: int) -> None:
        r = random.Random(seed)
        with psycopg.connect(pipeline.dsn["crm"], autocommit=True) as crm:
            for number in range(60):
                column = r.choice(["name", "street", "city", "email", "segment"])
                value = None if r.random() < 0.2 and column != "name" else f"{column}{number}"
                crm.execute(f"UPDATE account SET {column} = %s WHERE id = %s".encode(), (value, r.choice(customers)[0]))

    workers = [threading.Thread(target=in_the_erp, args=(1,)), threading.Thread(target=in_the_crm, args=(2,))]
    for worker in workers:
        worker.start()
    for part in ("streams 1", "sink erp 1", "streams 0"):  # the other takes over, in mid-flight
        pipeline.kill(part)
    for worker in workers:
        worker.join()
    pipeline.ready()
    report = pipeline.verify()
    assert report["equal"], report
    assert report["entities"]["customer"]["dead"] == 0
