"""A sink's session in its database: what it plans by, whose rights it has, under which origin it writes."""

from __future__ import annotations

from typing import Any

import psycopg

from connectors.postgres import connect, take_role
from connectors.sink.origin import hold_origin
from schemas.config import System

# Everything here is looked up by key. A plan made while a table was small must not read all of it once it has grown. A row that somebody
# keeps locked holds up the others for this long, and then waits alone (I8). `session:` overrules this.
PLANNING = {"enable_seqscan": "off", "lock_timeout": "3s"}

Connection = psycopg.Connection[tuple[Any, ...]]


def open_session(name: str, settings: System, application: str, worker: int | None) -> tuple[Connection, str]:
    """A connection for an `Applier`, and the replication origin that it holds. `worker`: its number; None: it writes nothing, and needs
    no origin. Raises Retriable when the database does not answer, UnfitDatabase when it refuses us."""
    conn = connect(settings.dsn, {**PLANNING, **settings.session}, application)
    try:
        conn.prepare_threshold = 0
        conn.prepared_max = 1000  # one per table, kind and set of columns
        origin = "" if worker is None else hold_origin(conn, name, worker)  # as the login: few roles may
        take_role(conn, settings.role)
    except BaseException:
        conn.close()
        raise
    return conn, origin
