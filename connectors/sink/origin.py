"""The replication origin under which a sink writes, so that its changes are known in the log (I5)."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psycopg
from psycopg import errors

from connectors.postgres import concord_error
from schemas.envelope import OUR_ORIGINS


def hold_origin(conn: psycopg.Connection[tuple[Any, ...]], system: str, worker: int) -> str:
    """Makes this session write under `concord_<system>_<n>` and returns that name: n is the worker's number if it is free, else the next.

    One session at a time can hold an origin; a worker that has just died may still be holding its own. What others left is used again,
    since origins are few. Raises Retriable, or UnfitDatabase if the right is missing.
    """
    prefix = f"{OUR_ORIGINS}{system}_"
    doing = f"taking a replication origin {prefix}n (needs EXECUTE on the functions pg_replication_origin_*)"
    try:
        rows = conn.execute("SELECT roname FROM pg_replication_origin WHERE starts_with(roname, %s)", (prefix,)).fetchall()
        left = sorted(int(name.removeprefix(prefix)) for (name,) in rows if name.removeprefix(prefix).isdigit())
        there = {f"{prefix}{number}" for number in left}
        free = (number for number in range(worker, worker + len(left) + 1000) if number not in left)
        for number in (worker, *(number for number in left if number != worker), *free):
            name = f"{prefix}{number}"
            if name not in there:
                with suppress(errors.UniqueViolation, errors.DuplicateObject):  # another worker was quicker
                    conn.execute("SELECT pg_replication_origin_create(%s)", (name,))
            try:
                conn.execute("SELECT pg_replication_origin_session_setup(%s)", (name,))
            except errors.ObjectInUse:
                continue
            return name
        raise AssertionError("unreachable: a thousand origins in use")
    except psycopg.Error as error:
        raise concord_error(error, doing) from error
