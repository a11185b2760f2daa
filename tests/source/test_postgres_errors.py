"""psycopg's errors become ours by SQLSTATE; the mapping knows every class that PostgreSQL has."""

from __future__ import annotations

import uuid

import psycopg
import psycopg.errors
import pytest
from psycopg import sql

from connectors import concord_schema
from connectors.postgres import connect, translated
from schemas.errors import ConcordError, Refused, Retriable, UnfitDatabase

ALL = sorted(
    {
        error.sqlstate
        for error in vars(psycopg.errors).values()
        if isinstance(error, type) and issubclass(error, psycopg.Error) and error.sqlstate
    }
)
EXPECTED = {
    "08006": Retriable,  # the connection failed
    "40001": Retriable,  # serialization failure
    "40P01": Retriable,  # deadlock
    "53100": Retriable,  # disk full
    "53300": Retriable,  # too many connections
    "55P03": Retriable,  # lock not available
    "55006": Retriable,  # object in use: the slot, still held by the connection before
    "55000": UnfitDatabase,  # wal_level
    "57P01": Retriable,  # shutdown
    "57P03": Retriable,  # cannot connect now
    "25006": Retriable,  # read-only: a standby
    "22001": Refused,  # too long
    "23505": Refused,  # unique
    "23503": Refused,  # foreign key
    "23514": Refused,  # CHECK
    "22P02": Refused,  # not of that type
    "P0001": Refused,  # RAISE in a trigger
    "42501": UnfitDatabase,  # no right
    "42P01": UnfitDatabase,  # no such table
    "28P01": UnfitDatabase,  # password
    "3D000": UnfitDatabase,  # no such database
}


@pytest.mark.parametrize(("state", "ours"), EXPECTED.items())
def test_a_state_is_whose_fault_it_is(state: str, ours: type[ConcordError]) -> None:
    with pytest.raises(ours, match=rf"doing: .+ \[{state}\]") as raised, translated("doing"):
        raise psycopg.errors.lookup(state)("it went wrong")
    assert type(raised.value) is ours
    assert "it went wrong" in raised.value.whole
    if isinstance(raised.value, Refused):
        assert raised.value.code == state
        assert "it went wrong" not in str(raised.value), "what PostgreSQL says of a value quotes it"


@pytest.mark.parametrize("state", ALL)
def test_every_state_is_one_of_the_three(state: str) -> None:
    with pytest.raises((Retriable, Refused, UnfitDatabase)), translated("doing"):
        raise psycopg.errors.lookup(state)("x")


def test_a_broken_line_is_retriable_and_a_value_psycopg_refuses_is_not(database: str) -> None:
    with connect(database) as conn:
        with pytest.raises(Refused), translated("sending a null byte"):
            conn.execute("SELECT %s", ("a\0b",))
        with pytest.raises(Retriable), translated("going on"):
            conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")


def test_sessions_print_values_the_one_way(database: str) -> None:
    with connect(database, {"app.tenant": "4 2\\x"}) as conn:
        row = conn.execute(
            "SELECT '2026-11-23 15:00:00.5+02'::timestamptz::text, '1 mon 2 days'::interval::text, '\\xab'::bytea::text, "
            "0.1::float8::text, current_setting('app.tenant')"
        ).fetchone()
    assert row == ("2026-11-23 13:00:00.5+00", "1 mon 2 days", "\\xab", "0.1", "4 2\\x")


def test_a_session_takes_its_role_or_says_why_not(database: str) -> None:
    role = f"role {uuid.uuid4().hex[:8]}%"
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        try:
            with connect(database, role=role) as conn:
                assert conn.execute("SELECT current_user, session_user <> current_user").fetchone() == (role, True)
                concord_schema.ensure(admin, role)  # type: ignore[arg-type]
                concord_schema.ensure(admin, role)  # type: ignore[arg-type]
                conn.execute("INSERT INTO concord.progress VALUES ('t', 0, 1)")  # I2: in the same transaction as the rows
                assert concord_schema.version(conn) == concord_schema.LATEST
            with pytest.raises(UnfitDatabase, match=r"may not take the role 'nobody at all', or there is none: GRANT nobody at all TO"):
                connect(database, role="nobody at all")
            with pytest.raises(UnfitDatabase, match="may not take the role 'nobody at all'"):
                concord_schema.ensure(admin, "nobody at all")  # type: ignore[arg-type]
        finally:
            admin.execute(sql.SQL("DROP OWNED BY {0} CASCADE").format(sql.Identifier(role)))
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
