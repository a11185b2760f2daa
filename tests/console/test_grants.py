"""`concord check --grant`: a role per system that may do what the configuration needs, and nothing else."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from connectors import concord_schema
from console.grants import OURS
from tests.console.console_fixtures import World, world

__all__ = ["world"]


def asked(world: World, *options: str) -> dict[str, Any]:
    """system → what is told of its database."""
    exit_status, told = world.concord("check", "--grant", *options)
    assert exit_status == 0
    return {system: one for one in told["databases"] for system in one["systems"]}


def sql(told: dict[str, Any]) -> list[str]:
    return [one["sql"] for one in told["statements"] if not one["held"]]


def as_administrator(world: World) -> list[str]:
    return [word for system, dsn in world.admin.items() for word in ("--admin", f"{system}={dsn}")]


def login(world: World, system: str) -> str:
    return f"concord_{world.db[system].info.dbname}"


def unmade(world: World) -> None:
    """As if nobody had ever asked for the roles."""
    for system, connection in world.db.items():
        role = login(world, system)
        connection.execute(f"DROP PUBLICATION {world.config.systems[system].publication}".encode())
        connection.execute(f"DROP OWNED BY {role} CASCADE".encode())
        connection.execute(f"DROP ROLE {role}".encode())


def test_what_has_been_granted_is_fit_and_nothing_is_left_to_grant(world: World) -> None:
    told = asked(world)  # as the login itself, who is no administrator
    assert [one["statements"] for one in told.values()] == [[], []]
    assert world.concord("check")[1]["problems"] == []
    assert "nothing is missing" in world.run("check", "--grant").stdout


def test_it_says_exactly_what_the_mapping_does_and_psql_takes_it(world: World) -> None:
    unmade(world)
    told = asked(world, *as_administrator(world))
    role, publication = login(world, world.erp), world.config.systems[world.erp].publication
    assert sql(told[world.erp]) == [
        f'CREATE ROLE "{role}" LOGIN REPLICATION',
        f"COMMENT ON ROLE \"{role}\" IS '{OURS}'",
        "GRANT EXECUTE ON FUNCTION pg_replication_origin_create(text), pg_replication_origin_session_setup(text) " + f'TO "{role}"',
        f'GRANT EXECUTE ON FUNCTION pg_replication_origin_xact_setup(pg_lsn,timestamp with time zone) TO "{role}"',
        f'CREATE SCHEMA concord AUTHORIZATION "{role}"',
        'GRANT SELECT, INSERT ("active", "credit_limit", "kind", "legal_name", "tax_id", "town"), '
        f'UPDATE ("active", "credit_limit", "legal_name", "tax_id", "town") ON TABLE "public"."partner" TO "{role}"',
        f'GRANT SELECT, INSERT ("email", "id", "partner_id"), UPDATE ("email", "partner_id"), DELETE ON TABLE "public"."user" TO "{role}"',
        f'CREATE PUBLICATION "{publication}" FOR TABLE "public"."partner", "public"."user" WITH (publish_via_partition_root = true)',
    ]
    contact = next(one for one in sql(told[world.crm]) if '"contact"' in one and one.startswith("GRANT"))
    assert "INSERT" not in contact, "contacts are born in the CRM only"
    for system, one in told.items():
        world.do(system, one["script"])
        world.do(system, f"ALTER ROLE \"{login(world, system)}\" PASSWORD 's3cret-of-ours'")
    assert world.concord("check")[1]["problems"] == []


def test_run_makes_the_login_with_the_password_of_its_address_and_never_says_it(world: World) -> None:
    unmade(world)
    told = asked(world, "--run", *as_administrator(world))
    assert all(one["ran"] for one in told.values())
    for system, dsn in world.dsn.items():
        with psycopg.connect(dsn) as connection:
            assert connection.info.user == login(world, system)
        stored = world.db[system].execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [login(world, system)]).fetchone()
        assert stored is not None
        assert stored[0].startswith("SCRAM-SHA-256$")
    assert [one["statements"] for one in asked(world).values()] == [[], []]


def test_what_a_changed_configuration_does_not_need_any_more_is_revoked(world: World) -> None:
    text = world.file.read_text()
    start = text.index(f"  {world.contact}:")
    world.file.write_text(text[:start].replace(f"city: {{{world.crm}: city, {world.erp}: town}}", ""))
    role = login(world, world.erp)
    told = asked(world, "--run", *as_administrator(world))
    assert f'REVOKE INSERT ("town"), UPDATE ("town") ON TABLE "public"."partner" FROM "{role}"' in sql(told[world.erp])
    assert any(one.startswith("REVOKE DELETE, INSERT") and '"public"."user"' in one for one in sql(told[world.erp]))
    assert any(one.startswith("ALTER PUBLICATION") and 'DROP TABLE "public"."user"' in one for one in sql(told[world.erp]))
    with psycopg.connect(world.dsn[world.erp], autocommit=True) as ours:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ours.execute("UPDATE partner SET town = 'x'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ours.execute('SELECT FROM "user"')
    assert [one["statements"] for one in asked(world).values()] == [[], []]
    world.file.write_text(text)
    asked(world, "--run", *as_administrator(world))
    assert world.concord("check")[1]["problems"] == []


def test_a_role_that_others_may_use_keeps_what_it_has(world: World) -> None:
    world.do(world.erp, f"COMMENT ON ROLE {login(world, world.erp)} IS 'of the warehouse too'")
    world.do(world.erp, f"CREATE TABLE stock (id int PRIMARY KEY); GRANT DELETE ON stock TO {login(world, world.erp)}")
    told = asked(world, "--run", *as_administrator(world))[world.erp]
    assert sql(told) == []
    assert [one["sql"] for one in told["statements"]] == [f'REVOKE DELETE ON TABLE "public"."stock" FROM "{login(world, world.erp)}"']
    assert "-- REVOKE" in told["script"]


def test_sequences_functions_and_what_triggers_write_belong_to_it(world: World) -> None:
    erp = world.erp
    world.do(
        erp,
        """
        REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM public;
        CREATE SCHEMA numbers; CREATE SEQUENCE numbers.partner;
        CREATE FUNCTION numbers.next() RETURNS text LANGUAGE sql AS $$ SELECT 'P' || nextval('numbers.partner') $$;
        REVOKE EXECUTE ON FUNCTION numbers.next() FROM public;
        ALTER TABLE partner ADD number text NOT NULL DEFAULT numbers.next(), ADD place int NOT NULL DEFAULT nextval('numbers.partner');
        CREATE TABLE audit (id bigserial PRIMARY KEY, what text);
        CREATE FUNCTION audits() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit (what) VALUES (TG_OP); RETURN NULL; END $$;
        CREATE TRIGGER audits AFTER INSERT OR UPDATE ON partner FOR EACH ROW EXECUTE FUNCTION audits();
        """,
    )
    found = {f"{one['where']}: {one['what']}" for one in world.concord("check")[1]["problems"]}
    assert any("trigger audits" in one and "lacks INSERT" in one for one in found), found
    told = asked(world, *as_administrator(world))[erp]
    role = login(world, erp)
    assert set(sql(told)) == {
        f'GRANT USAGE ON SCHEMA "numbers" TO "{role}"',
        f'GRANT USAGE ON SEQUENCE "numbers"."partner" TO "{role}"',
        f'GRANT USAGE ON SEQUENCE "public"."audit_id_seq" TO "{role}"',
        f'GRANT INSERT ON TABLE "public"."audit" TO "{role}"',
        f'GRANT EXECUTE ON FUNCTION numbers.next() TO "{role}"',
    }
    asked(world, "--run", *as_administrator(world))
    with psycopg.connect(world.dsn[erp], autocommit=True) as ours:
        ours.execute("INSERT INTO partner (kind, legal_name, active) VALUES ('customer', 'n', true)")
    assert world.concord("check")[1]["problems"] == []


def test_schemas_of_types_and_functions_that_we_name_belong_to_it(world: World) -> None:
    erp, role = world.erp, login(world, world.erp)
    world.do(
        erp,
        """
        CREATE SCHEMA kinds; CREATE DOMAIN kinds.town AS text; ALTER TABLE partner ALTER town TYPE kinds.town;
        CREATE SCHEMA unread; CREATE TYPE unread.colour AS ENUM ('red'); CREATE TABLE paint (colour unread.colour);
        CREATE SCHEMA made; CREATE FUNCTION made.origin() RETURNS text LANGUAGE sql AS $$ SELECT 'concord' $$;
        ALTER TABLE partner ADD origin text;
        """,
    )
    world.file.write_text(
        world.file.read_text().replace("where: {kind: customer}}", 'where: {kind: customer}, insert: {origin: {sql: "made.origin()"}}}')
    )
    told = asked(world, "--run", *as_administrator(world))[erp]
    assert {one for one in sql(told) if "SCHEMA" in one} == {
        f'GRANT USAGE ON SCHEMA "kinds" TO "{role}"',
        f'GRANT USAGE ON SCHEMA "made" TO "{role}"',
    }
    with psycopg.connect(world.dsn[erp], autocommit=True) as ours:
        ours.execute("INSERT INTO partner (kind, legal_name, town, active) SELECT 'customer', made.origin(), 'Ulm'::kinds.town, true")
    assert asked(world)[erp]["statements"] == []


def test_the_rights_of_rows_go_to_the_role_that_the_sessions_take(world: World) -> None:
    role = f"{world.name}_rows"
    world.file.write_text(world.file.read_text().replace("rank: 2", f"rank: 2, role: {role}"))
    try:
        told = asked(world, "--run", *as_administrator(world))[world.erp]
        assert any(one.startswith("REVOKE") and '"partner"' in one for one in sql(told)), "the login has no rows any more"
        assert any(one.startswith("GRANT") and '"partner"' in one and one.endswith(f'"{role}"') for one in sql(told))
        assert world.concord("check")[1]["problems"] == []
        assert [one["statements"] for one in asked(world).values()] == [[], []]
    finally:
        world.do(world.erp, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_what_a_superuser_has_made_before_is_handed_over(world: World) -> None:
    world.do(world.crm, "DROP SCHEMA concord CASCADE")
    concord_schema.ensure(world.db[world.crm])  # as it was before there were roles
    assert any("may not use the schema concord" in one["what"] for one in world.concord("check")[1]["problems"])
    told = asked(world, "--run", *as_administrator(world))[world.crm]
    assert f'ALTER SCHEMA concord OWNER TO "{login(world, world.crm)}"' in sql(told)
    with psycopg.connect(world.dsn[world.crm], autocommit=True) as ours:
        assert concord_schema.ensure(ours) == concord_schema.LATEST
        letter = (
            "INSERT INTO concord.dead_letter (entity, link, topic, partition, \"offset\", error, code) VALUES ('', '', '', 0, 0, '', '')"
        )
        ours.execute(letter)  # its number comes from a sequence
    assert world.concord("check")[1]["problems"] == []


def test_a_superuser_is_no_login_for_concord(world: World) -> None:
    world.file.write_text(world.file.read_text().replace(world.dsn[world.crm], world.admin[world.crm]))
    done = world.run("check", "--grant")
    assert done.exit_code == 2
    assert "a superuser: name a role of its own" in done.stderr
    assert any("is a superuser" in one["what"] for one in world.concord("check")[1]["notes"])


def test_run_asks_who_may(world: World) -> None:
    done = world.run("check", "--grant", "--run")
    assert done.exit_code == 2
    assert f"--admin {world.crm}=DSN" in done.stderr
    assert world.run("check", "--run").exit_code == 2
