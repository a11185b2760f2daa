"""The replication stream of one slot: a connection in CopyBoth mode, read without polling or sleeping.

    ours   START_REPLICATION SLOT … LOGICAL 0/0 (proto_version '1', publication_names '…', messages 'true')
    theirs w  start LSN, end of the log, clock, pgoutput message            rows and the rest
           k  end of the log, clock, "answer now"                           keepalive
    ours   r  written, flushed, applied LSN, clock, "answer now"            feedback: the flushed LSN is what the slot may forget

`receive` gives what is there; when nothing is, the caller waits on `fileno()` for it together with whatever else it waits for.
"""

from __future__ import annotations

import selectors
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql

from connectors.postgres import concord_error, session_conninfo, translated
from connectors.source.pgoutput import EPOCH_US
from schemas.errors import Retriable
from schemas.lsn import Lsn

XLOG_DATA: Final = 0x77  # w
KEEPALIVE: Final = 0x6B  # k
PAYLOAD: Final = 25  # where the message begins in an XLOG_DATA
FEEDBACK: Final = struct.Struct("!cQQQqB")
STARTS: Final = struct.Struct("!Q")
START_SECONDS: Final = 30.0  # how long the server may take to start the stream
_KEEPALIVE: Final = struct.Struct("!QqB")


@dataclass(slots=True)
class ReplicationStream:
    """One open stream. Not thread-safe: one thread reads and confirms."""

    conn: psycopg.Connection[Any]
    confirmed: int = 0

    def receive(self) -> bytes | None:
        """The next message, None when nothing is there now. Raises Retriable when the stream has ended."""
        pgconn = self.conn.pgconn
        try:  # not `translated`: this runs once a row
            count, data = pgconn.get_copy_data(1)
            if count == 0:
                pgconn.consume_input()
                count, data = pgconn.get_copy_data(1)
            if count > 0:
                return bytes(data)
            if count == 0:
                return None
            result = pgconn.get_result()
            raise _error_of(result) if result is not None else psycopg.OperationalError("the server ended it")
        except psycopg.Error as error:
            raise concord_error(error, "reading the replication stream") from error

    def fileno(self) -> int:
        return int(self.conn.pgconn.socket)

    def confirm(self, lsn: int) -> None:
        """Tells the server that nothing up to `lsn` is needed again. I1: the caller has it from Kafka."""
        self.confirmed = max(self.confirmed, lsn)
        now = time.time_ns() // 1000 - EPOCH_US
        with translated("confirming the log position"):
            pgconn = self.conn.pgconn
            pgconn.put_copy_data(FEEDBACK.pack(b"r", self.confirmed, self.confirmed, self.confirmed, now, 0))
            pgconn.flush()

    def close(self) -> None:
        """Ends the stream; the slot is free when the server has noticed."""
        self.conn.close()


def _wait_for_result(pgconn: psycopg.pq.abc.PGconn) -> None:
    """Until `get_result` has one without waiting. Raises OperationalError when the server does not answer."""
    deadline = time.monotonic() + START_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(pgconn.socket, selectors.EVENT_READ)
        while pgconn.flush() or pgconn.is_busy():
            if not selector.select(deadline - time.monotonic()):
                raise psycopg.OperationalError(f"no answer in {START_SECONDS} s")
            pgconn.consume_input()


def _error_of(result: psycopg.pq.abc.PGresult) -> psycopg.Error:
    """What the server said, as psycopg would raise it."""
    state = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
    kind: type[psycopg.Error] = psycopg.errors.lookup(state.decode()) if state else psycopg.OperationalError
    return kind(result.get_error_message().strip())


def keepalive(message: bytes) -> tuple[int, bool]:
    """(end of what the server has sent, whether it wants an answer now)."""
    end, _, wanted = _KEEPALIVE.unpack_from(message, 1)
    return end, bool(wanted)


def open_stream(dsn: str, settings: Mapping[str, str], slot: str, publication: str) -> ReplicationStream:
    """Starts where the slot was confirmed last. Raises Retriable (slot in use, no server) or UnfitDatabase."""
    conninfo = session_conninfo(dsn, settings, application=f"concord {slot}", client_encoding="UTF8", replication="database")
    with translated(f"opening the replication stream of slot {slot}"):
        conn = psycopg.connect(conninfo, autocommit=True)
        try:
            start = sql.SQL("START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '1', publication_names {}, messages 'true')").format(
                sql.Identifier(slot), sql.Literal(sql.Identifier(publication).as_string())
            )
            pgconn = conn.pgconn
            pgconn.nonblocking = 1  # libpq waits without letting other threads run
            pgconn.send_query(start.as_bytes(conn))
            _wait_for_result(pgconn)
            result = pgconn.get_result()
            if result is None or result.status != psycopg.pq.ExecStatus.COPY_BOTH:
                raise _error_of(result) if result is not None else psycopg.OperationalError("no answer")
        except BaseException:
            conn.close()
            raise
    return ReplicationStream(conn)


def end_of_log(conn: psycopg.Connection[Any]) -> Lsn:
    """Where the log ends, as far as decoding can read it: written and flushed."""
    with translated("asking where the log ends"):
        row = conn.execute("SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn").fetchone()
    if row is None:
        raise Retriable("asking where the log ends: no answer")
    return Lsn(int(row[0]))
