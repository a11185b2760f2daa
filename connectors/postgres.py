"""PostgreSQL at the edge: what our sessions are set to, and whose fault an error is.

Every value that Concord compares is PostgreSQL's own text, so every session of ours prints values the same way (`SESSION`).

`translated` is the one place where psycopg's errors become ours. It decides by SQLSTATE, never by the message:

    no SQLSTATE             the connection failed or broke                         Retriable
    08 connection exception                                                        Retriable
    40 transaction rollback  serialization failure, deadlock                       Retriable
    53 insufficient resources  disk full, too many connections                     Retriable
    55 object not in prerequisite state  lock not available, object in use         Retriable  (55000 itself: UnfitDatabase)
    57 operator intervention  shutdown, cannot connect now, cancelled              Retriable
    58 system error  I/O                                                           Retriable
    25006 read-only transaction  a standby, or on its way to becoming a primary    Retriable
    72 snapshot too old                                                            Retriable
    28, 3D, 3F, 42           no such role, database, schema, table; no right       UnfitDatabase
    0A feature not supported  F0 configuration file  XX internal error             UnfitDatabase
    everything else          22 data, 23 integrity, 21, 44, P0, HV, …: the value   Refused(code)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from connectors.text_lists import quick_text_lists
from schemas.errors import ConcordError, Refused, Retriable, UnfitDatabase

# How values are printed (the one text form that source, intake, sink and verify compare).
SESSION: Mapping[str, str] = {
    "DateStyle": "ISO",
    "TimeZone": "UTC",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "jit": "off",  # our statements touch few rows: compiling one takes a hundred times as long as running it
}

_RETRIABLE_CLASSES = frozenset({"08", "40", "53", "55", "57", "58", "72"})
_RETRIABLE = frozenset({"25006"})
_UNFIT_CLASSES = frozenset({"0A", "28", "3D", "3F", "42", "F0", "XX"})
_UNFIT = frozenset({"55000"})


def state_of(error: psycopg.Error) -> str:
    """The SQLSTATE, or '' where there is none: the server did not answer."""
    return error.sqlstate or (error.diag.sqlstate or "")


def without_values(error: psycopg.Error) -> str:
    """What went wrong where, in words of the catalog only: PostgreSQL's own sentence about a value quotes it."""
    diag = error.diag
    at = ".".join(filter(None, (diag.schema_name, diag.table_name, diag.column_name)))
    by = f" by {diag.constraint_name}" if diag.constraint_name else ""
    return type(error).__name__ + (f" in {at}" if at else "") + by


def concord_error(error: psycopg.Error, doing: str) -> ConcordError:
    """psycopg's error as ours; `doing` says what was being done, as in "reading public.account". What a refused value is told apart by
    stands in `said`, not in the message."""
    state = state_of(error)
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    message = f"{doing}: {said}" + (f" [{state}]" if state else "")
    if not state:
        # without a SQLSTATE it is the line that broke, or psycopg refusing a value before it was sent
        return (
            Retriable(message) if isinstance(error, psycopg.OperationalError) else Refused(f"{doing}: {without_values(error)}", said=said)
        )
    if state in _UNFIT or (state[:2] in _UNFIT_CLASSES):
        return UnfitDatabase(message)
    if state in _RETRIABLE or state[:2] in _RETRIABLE_CLASSES:
        return Retriable(message)
    return Refused(f"{doing}: {without_values(error)} [{state}]", state, said)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turns psycopg's errors into Retriable, Refused or UnfitDatabase; all else passes."""
    try:
        yield
    except psycopg.Error as error:
        raise concord_error(error, doing) from error


def _option(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def session_conninfo(dsn: str, settings: Mapping[str, str] | None = None, application: str = "concord", **more: str) -> str:
    """`dsn` with our session settings and the system's own (`session:` in concord.yaml) as start-up options.

    Also keep-alives, so that a peer that vanished is noticed in half a minute instead of two hours.
    """
    wanted = {**SESSION, **(settings or {})}
    options = " ".join(f"-c {name}={_option(value)}" for name, value in wanted.items())
    try:
        given = psycopg.conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:  # its text quotes what it could not read, the password perhaps
        raise UnfitDatabase(
            "the dsn is no address that PostgreSQL's client can read (not shown: it may hold a password); expected "
            "postgresql://user:password@host:port/database, with special characters as %XX, or host=… user=… password='…'"
        ) from None
    return make_conninfo(
        dsn,
        options=" ".join(filter(None, [str(given.get("options") or ""), options])),
        application_name=given.get("application_name") or application,
        connect_timeout=given.get("connect_timeout") or 10,
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=4,
        **more,
    )


def connect(
    dsn: str, settings: Mapping[str, str] | None = None, application: str = "concord", role: str | None = None
) -> psycopg.Connection[tuple[object, ...]]:
    """An ordinary session of ours, autocommit. Raises Retriable when the server does not answer, UnfitDatabase when it refuses us."""
    with translated(f"connecting as {application}"):
        conn = psycopg.connect(session_conninfo(dsn, settings, application), autocommit=True)
    quick_text_lists(conn)
    try:
        take_role(conn, role)
    except BaseException:
        conn.close()
        raise
    return conn


SET_ROLE = "SET ROLE {}"


def take_role(conn: psycopg.Connection[tuple[object, ...]], role: str | None) -> None:
    """From here on the session has this role's rights, and its row-level security (`role:` in concord.yaml). None: stays what it is."""
    if role is None:
        return
    try:
        conn.execute(sql.SQL(SET_ROLE).format(sql.Identifier(role)))
    except psycopg.Error as error:
        raise no_role(error, role, conn.info.user) from error


def no_role(error: psycopg.Error, role: str, login: str) -> ConcordError:
    """Why a role was not taken: as an error that says what to do, if the database has said no."""
    if state_of(error) in ("22023", "42501", "42704"):
        return UnfitDatabase(f"{login} may not take the role {role!r}, or there is none: GRANT {role} TO {login} [{state_of(error)}]")
    return concord_error(error, f"taking the role {role!r}")
