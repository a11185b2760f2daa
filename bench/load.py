"""The rows and the changes that every contestant gets: one table of nine columns, changed by updates that each carry a number, `seq`.

    python -m bench.load DSN --rate 200 --seconds 10 --seq 1000000 --first 1 --step 2 --rows 20000 --seed 1

Paced changes come as people make them: each on its own, at random moments that do not wait for the one before (an open loop: a contestant
that is slow does not make the load slower). No row is changed twice in one measurement, so nothing may be skipped as overtaken.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

COLUMNS = """id bigint PRIMARY KEY, seq bigint NOT NULL, n bigint NOT NULL, name text NOT NULL, email text, city text,
  amount numeric(12,2) NOT NULL, active boolean NOT NULL, changed timestamptz NOT NULL"""
_VALUES = """{n}, {seq}, {n}, 'Company ' || {n} || ' Ltd', 'office' || {n} || '@example.com', 'Town ' || {n} % 4999,
  ({n} % 100000) / 100.0, {n} % 50 > 0, timestamptz '2026-01-01 00:00+00' + {n} * interval '1 second'"""
_UPDATE = "UPDATE {table} SET seq = {seq}{more} WHERE id = {id}"
_MORE = ", amount = ({seq} % 100000) / 100.0, changed = clock_timestamp()"
PER_SESSION = 60.0  # changes a second that one session makes without falling behind


@dataclass(frozen=True)
class Stretch:
    """The rows that one load changes: `first`, `first + step` …, so that two loads never meet in a row."""

    first: int
    step: int
    rows: int  # how many
    only_seq: bool = False  # no other column changes


def create(dsn: str, *tables: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table in tables:
            connection.execute(f"CREATE TABLE public.{table} ({COLUMNS})".encode())


def fill(dsn: str, table: str, rows: int, first: int = 1) -> None:
    """So many rows in one transaction, `seq` 0."""
    values = _VALUES.format(n="g", seq="0")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"INSERT INTO {table} SELECT {values} FROM generate_series({first}, {first + rows - 1}) g".encode())
        connection.execute(f"VACUUM ANALYZE {table}".encode())


def insert_each(dsn: str, table: str, rows: int, first: int) -> None:
    """So many transactions of one new row, as fast as one session makes them without waiting for the disk."""
    _loop(dsn, f"INSERT INTO {table} VALUES ({_VALUES.format(n='g', seq='g')})", first, rows)


def update_each(dsn: str, stretch: Stretch, seq: int, table: str = "item") -> None:
    """The same with updates: `seq`, `seq + 1` …, each of another row of the stretch."""
    row = f"{stretch.first} + (g - {seq}) % {stretch.rows} * {stretch.step}"
    _loop(dsn, _update("g", row, stretch.only_seq, table), seq, stretch.rows)


def _update(seq: str, row: str, only_seq: bool, table: str = "item") -> str:
    return _UPDATE.format(table=table, seq=seq, more="" if only_seq else _MORE.format(seq=seq), id=row)


def _loop(dsn: str, statement: str, first: int, count: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute(f"DO $$ BEGIN FOR g IN {first}..{first + count - 1} LOOP {statement}; COMMIT; END LOOP; END $$".encode())


class Paced:
    """A paced load as a child, so that measuring and loading do not wait for each other."""

    def __init__(self, dsn: str, rate: float, seconds: float, stretch: Stretch, seq: int, seed: int) -> None:
        told = {"rate": rate, "seconds": seconds, "seq": seq, "seed": seed}
        told |= {"first": stretch.first, "step": stretch.step, "rows": stretch.rows}
        words = [word for name, value in told.items() for word in (f"--{name}", str(value))] + ["--only-seq"] * stretch.only_seq
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.load", dsn, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait(self, seconds: float) -> int:
        """How many changes it made. Raises RuntimeError when it failed."""
        try:
            said, complained = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.stop()
            raise RuntimeError("the load does not come to its end") from None
        if self._process.returncode:
            raise RuntimeError(f"the load failed: {complained[-500:]}")
        return int(said)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def moments(rate: float, seconds: float, chance: random.Random) -> list[float]:
    """Seconds from the start, at random with that mean rate."""
    found, at = list[float](), 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        found.append(at)
    return found


def _paced(dsn: str, rate: float, seconds: float, stretch: Stretch, seq: int, seed: int) -> int:
    chance = random.Random(seed)
    plan = list(enumerate(moments(rate, seconds, chance)))[: stretch.rows]
    rows = [stretch.first + stretch.step * number for number in chance.sample(range(stretch.rows), len(plan))]
    sessions = max(1, min(16, round(rate / PER_SESSION)))
    failed: list[BaseException] = []
    update = _update("%(seq)s::bigint", "%(id)s", stretch.only_seq).replace(" % ", " %% ").encode()
    ready = threading.Barrier(sessions + 1)
    began = [0.0]

    def session(number: int) -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.prepare_threshold = 0
                ready.wait(30)
                ready.wait(30)
                for change, at in plan[number::sessions]:
                    time.sleep(max(0.0, began[0] + at - time.monotonic()))
                    connection.execute(update, {"seq": seq + change, "id": rows[change]})
        except BaseException as error:
            failed.append(error)
            ready.abort()

    threads = [threading.Thread(target=session, args=(number,)) for number in range(sessions)]
    for thread in threads:
        thread.start()
    ready.wait(30)
    began[0] = time.monotonic()
    ready.wait(30)
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return len(plan)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dsn")
    parser.add_argument("--rate", type=float, required=True, help="changes a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seq", type=int, required=True, help="number of the first change")
    for name in ("first", "step", "rows", "seed"):
        parser.add_argument(f"--{name}", type=int, default=1)
    parser.add_argument("--only-seq", action="store_true", help="no other column changes")
    args = parser.parse_args(argv)
    print(_paced(args.dsn, args.rate, args.seconds, Stretch(args.first, args.step, args.rows, args.only_seq), args.seq, args.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
