"""`concord check` against databases that are unfit in every way it knows."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from tests.console.console_fixtures import World, world

__all__ = ["world"]

TEN_MISTAKES = """
name: Concord!
kafka: {bootstrap: "localhost:9092", partitions: 0}
systems:
  crm: {dsn: "postgresql://u:s3cret@127.0.0.1/crm", rank: one}
  erp: {rank: 2}
colour: blue
entities:
  customer:
    match_on: [vat]
    owner: sap
    crm: {table: public.account, wher: {a: 1}}
    erp: {table: public.partner}
    fields:
      name: {crm: name, erp: legal_name, owner: nobody}
      since: {crm: created, erp: {column: since, timezone: Europe/Nowhere}}
"""


def problems(world: World) -> list[str]:
    """What is wrong with the databases; each has a mend."""
    exit_status, told = world.concord("check")
    assert exit_status == (1 if told["problems"] else 0)
    assert all(one["mend"] for one in told["problems"])
    return [f"{one['where']}: {one['what']}" for one in told["problems"]]


def has(found: list[str], *parts: str) -> bool:
    return any(all(part in one for part in parts) for one in found)


def test_what_is_fit_is_0(world: World) -> None:
    exit_status, told = world.concord("check")
    assert exit_status == 0
    assert (told["fit"], told["problems"], told["unanswered"]) == (True, [], [])
    assert "fit" in world.run("check").stdout


def test_ten_mistakes_are_ten_problems(world: World) -> None:
    world.file.write_text(TEN_MISTAKES)
    exit_status, told = world.concord("check")
    assert exit_status == 1
    assert len(told["problems"]) == 10, told["problems"]
    assert len({one["where"] for one in told["problems"]}) == 10
    shown = world.run("check").stdout
    assert all(one["what"] in shown for one in told["problems"])
    assert "10 problems" in shown


@pytest.mark.parametrize("command", [("up",), ("status",), ("verify",), ("dead", "list"), ("source", "crm"), ("sink", "erp"), ("streams",)])
def test_nothing_starts_on_a_bad_configuration(world: World, command: tuple[str, ...]) -> None:
    world.file.write_text(TEN_MISTAKES)
    assert world.run(*command).exit_code == 2


def test_a_configuration_that_is_not_there_could_not_be_asked(world: World) -> None:
    world.file.unlink()
    done = world.run("check")
    assert done.exit_code == 2
    assert "there is no such file" in done.stderr


def test_a_database_that_does_not_answer_is_2_and_its_password_stays_secret(world: World) -> None:
    world.file.write_text(world.file.read_text().replace(world.dsn[world.erp], "postgresql://nobody:s3cret@127.0.0.1:1/nowhere"))
    exit_status, told = world.concord("check")
    assert exit_status == 2
    assert told["unanswered"][0]["where"] == world.erp


def test_tables_and_columns_that_do_not_fit_are_named(world: World) -> None:
    world.do(world.erp, "ALTER TABLE partner ADD branch int NOT NULL, DROP COLUMN town")
    world.do(world.crm, "ALTER TABLE contact DROP CONSTRAINT contact_pkey")
    found = problems(world)
    assert has(found, "no column 'town'")
    assert has(found, "branch")
    assert has(found, "no primary key")


@pytest.fixture
def filters(world: World) -> None:
    if world.db[world.crm].info.server_version < 150_000:
        pytest.skip("publications have row filters and column lists since PostgreSQL 15; run with --postgres naming a newer one")


@pytest.mark.usefixtures("filters")
def test_publications_that_break_the_applications_own_writes_are_found(world: World) -> None:
    world.do(world.crm, "CREATE TABLE log (line text)")
    world.do(world.crm, "CREATE PUBLICATION everything FOR ALL TABLES")
    world.do(world.crm, "CREATE PUBLICATION few FOR TABLE account (name)")
    world.do(world.crm, "CREATE PUBLICATION others FOR TABLE contact WHERE (email <> '')")
    found = problems(world)
    assert has(found, "publication everything", "log")
    assert has(found, "publication few", "lacks the key")
    assert has(found, "publication others", "not in the key")
    with pytest.raises(psycopg.Error, match="replica identity"):  # it is as bad as we say
        world.do(world.crm, "UPDATE log SET line = ''")


@pytest.mark.usefixtures("filters")
def test_publications_that_do_no_harm_are_left_alone(world: World) -> None:
    world.do(world.crm, "CREATE PUBLICATION a FOR TABLE account (id, name) WHERE (id IS NOT NULL)")
    world.do(world.crm, "CREATE PUBLICATION b FOR TABLE contact WHERE (email <> '') WITH (publish = 'insert')")
    world.do(world.crm, "ALTER TABLE contact REPLICA IDENTITY FULL")
    assert problems(world) == []


@pytest.mark.usefixtures("filters")
def test_our_own_publication_must_publish_everything(world: World) -> None:
    name = world.config.systems[world.crm].publication
    world.do(world.crm, f"DROP PUBLICATION {name}")
    world.do(world.crm, f"CREATE PUBLICATION {name} FOR TABLE account WHERE (id IS NOT NULL), contact WITH (publish = 'insert, update')")
    found = problems(world)
    assert has(found, f"publication {name}", "every insert, update and delete")
    assert has(found, f"publication {name}", "filters rows or columns of account")


def test_replica_identity_that_loses_deletes_is_found(world: World) -> None:
    world.do(world.crm, "ALTER TABLE contact REPLICA IDENTITY NOTHING")
    world.do(
        world.erp, "ALTER TABLE partner ALTER tax_id SET NOT NULL; ALTER TABLE partner REPLICA IDENTITY USING INDEX partner_tax_id_key"
    )
    found = problems(world)
    assert has(found, "contact", "REPLICA IDENTITY NOTHING")
    assert has(found, "partner", "USING INDEX")


def test_a_match_column_without_an_index_is_a_note_and_a_problem_when_the_table_is_large(world: World) -> None:
    world.do(world.erp, "ALTER TABLE partner DROP CONSTRAINT partner_tax_id_key")
    exit_status, told = world.concord("check")
    assert exit_status == 0
    assert has([one["what"] for one in told["notes"]], "tax_id is not indexed")
    world.do(world.erp, "INSERT INTO partner (legal_name) SELECT 'n' FROM generate_series(1, 12000); ANALYZE partner")
    assert has(problems(world), "tax_id is not indexed")
    world.do(world.erp, "CREATE INDEX ON partner (upper(tax_id))")  # nobody asks for that
    assert has(problems(world), "tax_id is not indexed")
    world.do(world.erp, "CREATE INDEX ON partner (tax_id)")
    assert problems(world) == []


def test_a_topic_with_another_number_of_partitions_is_found(world: World) -> None:
    world.prepare()
    world.file.write_text(world.file.read_text().replace("partitions: 2", "partitions: 3"))
    assert has(problems(world), f"topic golden.{world.customer}", "has 2 partitions")


def test_a_slot_that_is_gone_is_found(world: World) -> None:
    world.prepare(topics=False)
    slot = world.config.systems[world.crm].slot
    world.do(world.crm, "INSERT INTO concord.snapshot (pipeline, table_name) VALUES (%s, 'public.account')", slot)
    assert has(problems(world), f"slot {slot}", "is gone")


@pytest.fixture
def plain_role(world: World) -> Any:
    """The CRM is visited by a role with no rights but to log in."""
    role = f"{world.name}_role"
    world.do(world.crm, f"DROP SCHEMA concord; DROP PUBLICATION {world.config.systems[world.crm].publication}")
    world.do(world.crm, f"CREATE ROLE {role} LOGIN PASSWORD 's3cret'")
    url = urlsplit(world.dsn[world.crm])
    host = url.netloc.rpartition("@")[2]
    plain = urlunsplit(url._replace(netloc=f"{role}:s3cret@{host}"))
    world.file.write_text(world.file.read_text().replace(world.dsn[world.crm], plain))
    yield role
    world.do(world.crm, f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_every_right_that_is_lacking_is_named_with_its_grant(world: World, plain_role: str) -> None:
    exit_status, told = world.concord("check")
    assert exit_status == 1
    found = [f"{one['where']}: {one['what']}" for one in told["problems"]]
    assert has(found, "may not replicate")
    assert has(found, "replication origins")
    assert has(found, "create the schema concord")
    assert has(found, "public.contact", "lacks SELECT, UPDATE (account_id, email), DELETE")  # born here only: nothing is inserted
    assert has(found, "public.account", "lacks SELECT, INSERT (active, city", "), UPDATE (active, city")
    assert not has(found, "public.account", "DELETE")  # a soft delete
    assert has(found, "public.account", "cannot publish")
    for one in told["problems"]:  # each mend that is SQL mends
        if one["mend"].startswith(("GRANT", "ALTER ROLE", "CREATE SCHEMA")):
            world.do(world.crm, one["mend"])
    left = [one["what"] for one in world.concord("check")[1]["problems"]]
    assert left, "only the publication is left"
    assert all("cannot publish" in what for what in left), left


def test_row_level_security_is_a_problem_until_the_sessions_are_set(world: World, plain_role: str) -> None:
    world.do(world.crm, "ALTER TABLE account ENABLE ROW LEVEL SECURITY")
    assert has(problems(world), "public.account", "row-level security is active")
    world.file.write_text(world.file.read_text().replace("rank: 1", 'rank: 1, session: {app.tenant: "42"}'))
    assert not has(problems(world), "row-level security")
