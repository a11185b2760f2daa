"""What is not said: passwords, whoever writes the line, and what stands in a row, whatever error quotes it."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator

import psycopg
import pytest

from connectors.postgres import connect, translated
from console import logs
from schemas.config import loads
from schemas.config.model import Dsn
from schemas.errors import ConcordError, MappingError, Refused, Retriable, UnfitDatabase
from tests.services import PATIENCE

VALUE = "Frau Dr. Müller"
CONFIG = """
kafka:
  bootstrap: "localhost:9092"
  settings: {sasl.password: kafkas-own, sasl.username: concord, ssl.key.password: of-the-key}
registry: {url: "http://u:of-the-registry@registry:8081"}
systems:
  crm: {dsn: "postgresql://u:p%40ss:word@h/d?sslpassword=in-a-query", rank: 1}
  erp: {dsn: "host=h user=u password='it''s \\\\'quoted' sslpassword=plain", rank: 2}
entities:
  thing: {crm: {table: t}, erp: {table: t}, fields: {name: {crm: a, erp: b}}}
"""


@pytest.fixture(autouse=True)
def _hiding() -> Iterator[None]:
    before = set(logs._hidden)
    yield
    logs._hidden.clear()
    logs._hidden.update(before)


def line(message: str, *args: object, error: BaseException | None = None) -> str:
    info = (type(error), error, error.__traceback__) if error is not None else None
    return logs.Lines("part").format(logging.LogRecord("x", logging.WARNING, "f", 1, message, args, info))


def test_the_passwords_of_a_configuration_are_known_wherever_they_stand() -> None:
    config = loads(CONFIG, {})
    assert config.secrets() >= {"kafkas-own", "of-the-key", "of-the-registry", "p@ss:word", "in-a-query", "plain"}
    logs.hide(config.secrets())
    told = line("a library says %s and {'sasl': 'kafkas-own'} and p%%40ss%%3Aword, user concord", "p@ss:word")
    assert "kafkas-own" not in told
    assert "p@ss:word" not in told
    assert "p%40ss" not in told
    assert told.endswith("user concord")


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:s3cret@h/d",
        "postgresql://u:with@s3cret@h/d",
        "password=s3cret host=h",
        "password = 's3cret'",
        '{"sasl.password": "s3cret"}',
        "sasl_plain_password='s3cret'",
        "PASSWORD: s3cret",
    ],
)
def test_what_looks_like_a_password_is_struck_out(text: str) -> None:
    assert "s3cret" not in line("connecting to %s", text)
    assert "s3cret" not in logs.first_line(ValueError(text))


@pytest.mark.parametrize("dsn", ["host=h password=s3cret and more", "postgresql://u:s3cret@[h/d"])
def test_an_address_that_cannot_be_read_is_not_shown(dsn: str) -> None:
    with pytest.raises(UnfitDatabase, match="special characters as %XX") as raised:
        connect(Dsn(dsn))
    assert "s3cret" not in str(raised.value)
    assert "s3cret" not in line("failed", error=raised.value)


def test_postgresqls_words_about_a_value_are_for_dead_letters_only(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("CREATE TABLE t (id int PRIMARY KEY, name text UNIQUE CHECK (name <> 'x'), short varchar(3))")
        conn.execute("INSERT INTO t VALUES (1, %s)", (VALUE,))
        conn.execute(f"SET statement_timeout = '{PATIENCE}s'")
        for statement, kind in (
            ("INSERT INTO t (id) VALUES (%s)", "InvalidTextRepresentation"),
            ("INSERT INTO t VALUES (2, %s)", "UniqueViolation in public.t by t_name_key [23505]"),
            ("INSERT INTO t VALUES (3, left(%s, 0) || 'x')", "CheckViolation in public.t by t_name_check [23514]"),
            ("INSERT INTO t (id, short) VALUES (4, %s)", "StringDataRightTruncation"),
        ):
            with pytest.raises(Refused) as raised, translated("writing"):
                conn.execute(statement.encode(), (VALUE,))
            assert kind in str(raised.value)
            told = line("refused: %s", raised.value, error=raised.value)
            assert kind.split(" in ")[0] in told
            assert VALUE not in told, "nor in the traceback, whose cause is psycopg's error with its DETAIL"
            assert raised.value.whole != str(raised.value)


def test_an_error_that_ends_a_thread_goes_the_same_way(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def quoting() -> None:
        raise ValueError(f"invalid literal: {VALUE!r}")

    monkeypatch.setattr(threading, "excepthook", logs.of_thread)
    thread = threading.Thread(target=quoting, name="reader")
    thread.start()
    thread.join()
    (record,) = caplog.records
    told = logs.Json("part").format(record)
    assert "thread reader" in told
    assert "ValueError" in told
    assert VALUE not in told


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (MappingError(f"cannot read {VALUE!r}"), "MappingError"),
        (ValueError(f"invalid literal for int(): {VALUE!r}"), "ValueError"),
        (KeyError(VALUE), "KeyError"),
        (Retriable("the broker is away"), "the broker is away"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (TypeError("an agent returned"), "an agent returned"),
    ],
)
def test_an_error_is_logged_with_its_words_if_they_cannot_quote_a_row(error: Exception, shown: str) -> None:
    try:
        raise error
    except (ConcordError, ValueError, KeyError, OSError, TypeError) as raised:
        told = line("something failed: %s", raised, error=raised)
    assert shown in told
    assert VALUE not in told
    assert __file__ in told, "the traceback is there"
    assert sys.exc_info() == (None, None, None)
