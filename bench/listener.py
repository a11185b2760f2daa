"""Who sees the changes arrive: a reader of a database's own log, the same for every contestant.

    python -m bench.listener DSN FILE        until SIGTERM; "ready" on its standard output once nothing will be missed

It asks nothing of the tables and alters nothing: it reads the columns `id` and `seq` of public.item from a slot of its own, and writes down
for each row, in FILE, three integers of 64 bits:

    seq · when the transaction was committed, as PostgreSQL noted it (µs) · when the row was read here (µs)

A change carries its `seq` through any pipeline. Its latency is from its commit as noted in the log where it was made until it is read from
the log where it arrives. That reading a log takes time itself is in every contestant's figure, and measured: on the side where the change
is made both times are of one transaction. The commit's own note cannot be taken on the arriving side: a transaction that is replicated
carries the time of its origin there (docs/decisions/0034).
"""

from __future__ import annotations

import os
import select
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from psycopg.conninfo import make_conninfo

PUBLICATION = "bench_seen"
RECORD = struct.Struct("<qqq")
DTYPE = np.dtype([("seq", "<i8"), ("committed", "<i8"), ("seen", "<i8")])
_EPOCH = 946_684_800_000_000  # 2000-01-01 in µs: PostgreSQL's zero
_FEEDBACK_SECONDS = 1.0


class Seen:
    """A listener as a child, and what it has written down."""

    def __init__(self, dsn: str, file: Path) -> None:
        self.file = file
        file.unlink(missing_ok=True)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f"DROP PUBLICATION IF EXISTS {PUBLICATION}".encode())
            connection.execute(f"CREATE PUBLICATION {PUBLICATION} FOR TABLE public.item (id, seq)".encode())
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.listener", dsn, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            self.close()
            raise RuntimeError(f"the listener on {file.stem} does not get ready")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def count(self) -> int:
        """Rows so far."""
        return self.file.stat().st_size // RECORD.size if self.file.exists() else 0

    def rows(self, after: int = 0) -> np.ndarray[Any, Any]:
        """All after the first so many."""
        count = self.count
        if count <= after:
            return np.empty(0, DTYPE)
        return np.fromfile(self.file, DTYPE, count - after, offset=after * RECORD.size)

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


def listen(dsn: str, file: Path) -> None:
    name = f"bench_listener_{os.getpid()}"
    connection = psycopg.connect(make_conninfo(dsn, replication="database"), autocommit=True)
    pgconn = connection.pgconn
    pgconn.exec_(f"CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT".encode())
    started = pgconn.exec_(f"START_REPLICATION SLOT {name} LOGICAL 0/0 (proto_version '1', publication_names '{PUBLICATION}')".encode())
    if started.status != psycopg.pq.ExecStatus.COPY_BOTH:
        raise RuntimeError(started.error_message.decode())
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    socket, committed, end, last = pgconn.socket, 0, 0, 0.0
    kept = bytearray()
    with file.open("ab", buffering=0) as out:
        while True:
            length, data = pgconn.get_copy_data(1)
            now = time.time()
            if now - last > _FEEDBACK_SECONDS:
                last = now
                pgconn.put_copy_data(struct.pack(">cqqqqb", b"r", end, end, end, int(now * 1e6) - _EPOCH, 0))
                pgconn.flush()
            if length == 0:
                if kept:
                    out.write(kept)
                    kept.clear()
                select.select([socket, 0], [], [], _FEEDBACK_SECONDS)
                if select.select([0], [], [], 0)[0] and not os.read(0, 1):
                    return  # whoever started us is gone
                pgconn.consume_input()
                continue
            if length < 0:
                return
            message = memoryview(data)
            if message[0] == 0x6B:  # k: keepalive
                end = max(end, struct.unpack_from(">q", message, 1)[0])
                continue
            kind = message[25]
            if kind == 0x42:  # B: final LSN, commit time
                committed = struct.unpack_from(">q", message, 34)[0] + _EPOCH
            elif kind in b"IU":
                kept += RECORD.pack(_second(message, 30), committed, int(now * 1e6))
            elif kind == 0x43:  # C: flags, LSN, end LSN
                end = struct.unpack_from(">q", message, 35)[0]
            if len(kept) > 1 << 16:
                out.write(kept)
                kept.clear()


def _second(message: memoryview, at: int) -> int:
    """The second column of the new row: `seq`."""
    if message[at] != 0x4E:  # K or O: the old row or its key comes first
        at = _after(message, at + 1)
    at += 3  # N, number of columns
    length = struct.unpack_from(">i", message, at + 1)[0]  # `id`, as text
    at += 5 + length
    if message[at] != 0x74:
        return -1
    length = struct.unpack_from(">i", message, at + 1)[0]
    return int(bytes(message[at + 5 : at + 5 + length]))


def _after(message: memoryview, at: int) -> int:
    columns = struct.unpack_from(">h", message, at)[0]
    at += 2
    for _ in range(columns):
        at += 5 + struct.unpack_from(">i", message, at + 1)[0] if message[at] == 0x74 else 1
    return at


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    listen(sys.argv[1], Path(sys.argv[2]))
