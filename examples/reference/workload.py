"""What both applications have in common: a connection of their own, a pace, a journal, and the habits of real applications.

An action is one thing that a user does; it may be several transactions, some of them later (`after`). Pace is counted in row
changes, so that `--rate 200` is 200 events a second in the log. What is committed is counted per table and operation, and written to
the journal if one is asked for, a line per transaction: what a test compares with what arrived.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

import psycopg
from psycopg import errors

from examples.reference.people import Pool, pool

Row = tuple[Any, ...]
TWIN_SECONDS = 5  # every so often the same new customer is entered on both sides in the same second
CLASH_SECONDS = 1  # and the same customer is edited on both sides
BULK_SECONDS = 25  # and a thousand rows are saved in one transaction
BULK_ROWS = 1000
NO_CHANGE = 0.04  # of the updates: a form saved as it was opened
SHARED = 600  # customers that are on both sides before anything is synchronised
HOT = 25  # of them, the ones that both sides edit at once


def shared_tax_id(n: int) -> str:
    """Of the n-th customer that both sides have from the start."""
    return f"DE{100_000_000 + 7919 * n}"


def twin_tax_id(seed: int, tick: int) -> str:
    """Of the customer that both sides enter at a tick of the clock."""
    return f"TW{seed}-{tick}"


@dataclass
class Journal:
    """What an application has committed."""

    file: TextIO | None = None
    transactions: int = 0
    changes: int = 0
    rows: Counter[str] = field(default_factory=Counter)  # 'account c' → how many
    actions: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)  # SQLSTATE → how many transactions the database refused

    def committed(self, action: str, rows: Counter[str]) -> None:
        self.transactions += 1
        self.changes += rows.total()
        self.rows.update(rows)
        if self.file:
            self.file.write(json.dumps({"at": time.time_ns() // 1000, "action": action, "rows": rows}) + "\n")


class Transaction:
    """Statements of one transaction, their rows counted."""

    def __init__(self, conn: psycopg.Connection[Row]) -> None:
        self._conn = conn
        self.rows: Counter[str] = Counter()

    def ask(self, query: str, params: Sequence[Any] = ()) -> list[Row]:
        return self._conn.execute(query, params).fetchall()

    def one(self, query: str, params: Sequence[Any] = ()) -> Row | None:
        return self._conn.execute(query, params).fetchone()

    def write(self, what: str, query: str, params: Sequence[Any] = ()) -> int:
        """Run an INSERT, UPDATE or DELETE; `what` is its table and 'c', 'u' or 'd'. Returns how many rows it hit."""
        hit = self._conn.execute(query, params).rowcount
        if hit:
            self.rows[what] += hit
        return hit

    def create(self, what: str, query: str, params: Sequence[Any] = ()) -> Any:
        """Run an INSERT … RETURNING one column; returns its value."""
        row = self._conn.execute(query, params).fetchone()
        assert row is not None
        self.rows[what] += 1
        return row[0]


class Workload:
    """An application at work. Subclasses say what its users do."""

    name = ""
    weights: Mapping[str, float]  # method name → how often, relative
    mistakes: Mapping[str, float] = MappingProxyType({})  # the same, of what only a person can put right: with --mistakes

    def __init__(self, conn: psycopg.Connection[Row], people: Pool, seed: int, journal: Journal) -> None:
        self.conn, self.people, self.seed, self.journal = conn, people, seed, journal
        self.rng = random.Random(f"{self.name} {seed}")
        self.does = dict(self.weights)
        self.stopping = threading.Event()
        self.reconnect: Callable[[], psycopg.Connection[Row]] | None = None  # None: a lost connection is the end
        self._due: list[tuple[float, int, str, Callable[[], None]]] = []
        self._order = count()
        self._unique = count(1)
        self._run = f"{int(time.time()):x}"  # so that a second run on the same database makes new addresses and numbers
        self._action = ""
        self._ids: dict[str, list[Row]] = {}
        self._fresh_until: dict[str, float] = {}

    # ---- for actions ------------------------------------------------------------------------------------------------
    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """One transaction, counted when it is committed."""
        tx = Transaction(self.conn)
        with self.conn.transaction():
            yield tx
        self.journal.committed(self._action, tx.rows)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do this later: the next step of the same business."""
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), self._action, action))

    def some(self, query: str, seconds: float = 2.0) -> Row | None:
        """A random row of a list that is read again every `seconds`; None when it is empty."""
        now = time.monotonic()
        if self._fresh_until.get(query, 0) <= now:
            self._ids[query] = self.conn.execute(query).fetchall()
            self._fresh_until[query] = now + seconds
        rows = self._ids[query]
        return self.rng.choice(rows) if rows else None

    def forget(self, query: str) -> None:
        """Read that list again next time."""
        self._fresh_until.pop(query, None)

    def unique(self) -> str:
        """A text that nobody else makes: for e-mail addresses and numbers."""
        return f"{self.name}{self._run}{next(self._unique)}"

    # ---- the loop ---------------------------------------------------------------------------------------------------
    def run(self, rate: float, seconds: float, progress: TextIO | None = None) -> None:
        """Work at `rate` row changes a second for that long, or until `stopping` is set. Steps that are still due are left undone."""
        begun = time.monotonic()
        end = begun + seconds
        next_free = begun
        ticks = {"twin": TWIN_SECONDS, "clash": CLASH_SECONDS, "bulk": BULK_SECONDS}
        wall = time.time()
        next_tick = {name: (wall // every + 1) * every for name, every in ticks.items()}
        next_report = begun + 1
        names, weights = list(self.does), list(self.does.values())
        while not self.stopping.is_set() and (now := time.monotonic()) < end:
            for name, at in next_tick.items():
                if time.time() >= at:
                    next_tick[name] = at + ticks[name]
                    self.do(name, lambda name=name, at=at: getattr(self, name)(int(at)))  # type: ignore[misc]
            if now >= next_report:
                next_report += 1
                self.report(progress, now - begun)
            if now < next_free:
                soonest = min(next_free, next_report, end, now + max(0.0, min(next_tick.values()) - time.time()))
                self.stopping.wait(max(0.0, soonest - now))
                continue
            before = self.journal.changes
            if self._due and self._due[0][0] <= now:
                _, _, name, action = heapq.heappop(self._due)
                self.do(name, action)
            else:
                name = self.rng.choices(names, weights)[0]
                self.do(name, getattr(self, name))
            cost = (self.journal.changes - before) / rate
            next_free = max(next_free + cost, now - 1)  # a hold-up of more than a second is not caught up with
            if cost == 0:  # nothing to do that: not a reason to spin
                next_free = max(next_free, now + 0.0002)

    def do(self, name: str, action: Callable[[], None]) -> None:
        """One action; what the database refuses is rolled back, counted and left, as a user would who sees a message."""
        self._action = name
        try:
            action()
            self.journal.actions[name] += 1
        except (errors.DeadlockDetected, errors.SerializationFailure, errors.UniqueViolation) as error:
            self.journal.refused[f"{name} {error.sqlstate}"] += 1
        except errors.FeatureNotSupported as error:  # a column has another type now than the statement was prepared for
            if self.reconnect is None:
                raise
            self.journal.refused[f"{name} {error.sqlstate}"] += 1
            self.conn.close()
            self._connect_again(self.reconnect)
        except psycopg.OperationalError as error:  # the server is gone; nobody knows whether the last commit went through
            if self.reconnect is None or not (self.conn.closed or self.conn.broken):
                raise
            self.journal.refused[f"{name} {error.sqlstate or 'connection lost'}"] += 1
            self._connect_again(self.reconnect)

    def _connect_again(self, connect: Callable[[], psycopg.Connection[Row]]) -> None:
        while not self.stopping.is_set():
            try:
                self.conn = connect()
                return
            except psycopg.OperationalError:
                self.stopping.wait(0.1)

    def report(self, out: TextIO | None, seconds: float) -> None:
        if out:
            out.write(
                json.dumps({"seconds": round(seconds, 1), "changes": self.journal.changes, "transactions": self.journal.transactions})
                + "\n"
            )
            out.flush()
        if self.journal.file:
            self.journal.file.flush()

    # ---- what happens by the clock, on both sides at once -------------------------------------------------------------
    def twin(self, at: int) -> None:
        """Enter the customer that the other side enters in this second too."""
        raise NotImplementedError

    def clash(self, at: int) -> None:
        """Edit the customer that the other side edits in this second too."""
        raise NotImplementedError

    def bulk(self, at: int) -> None:
        """Save a thousand rows in one transaction."""
        raise NotImplementedError


def summary(workload: Workload, seconds: float) -> dict[str, Any]:
    journal = workload.journal
    return {
        "application": workload.name,
        "seconds": round(seconds, 2),
        "changes": journal.changes,
        "transactions": journal.transactions,
        "rate": round(journal.changes / seconds, 1) if seconds else 0.0,
        "rows": dict(sorted(journal.rows.items())),
        "actions": dict(sorted(journal.actions.items())),
        "refused": dict(sorted(journal.refused.items())),
        "cpu_seconds": round(time.process_time(), 2),
    }


def stop_with_input(stopping: threading.Event) -> None:
    sys.stdin.read()
    stopping.set()


def main(kind: type[Workload], argv: Sequence[str] | None = None) -> int:
    """Command line of an application: ends with one JSON line; SIGTERM and SIGINT end it early and cleanly."""
    parser = argparse.ArgumentParser(prog=f"python -m {kind.__module__}", description=kind.__doc__)
    parser.add_argument("--dsn", default=os.environ.get(f"{kind.name.upper()}_DSN"), help=f"its database; default ${kind.name.upper()}_DSN")
    parser.add_argument("--rate", type=float, default=200.0, help="row changes a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--journal", type=Path, help="write a line per committed transaction here")
    parser.add_argument("--progress", action="store_true", help="a JSON line every second")
    parser.add_argument("--attached", action="store_true", help="stop when standard input ends: whoever started this is gone")
    parser.add_argument("--persistent", action="store_true", help="connect again when the server is gone, for as long as it takes")
    parser.add_argument("--mistakes", action="store_true", help="also do what only a person can put right")
    args = parser.parse_args(argv)
    if not args.dsn:
        parser.error("--dsn is needed")
    if args.rate <= 0:
        parser.error("--rate must be greater than 0")

    def connect() -> psycopg.Connection[Row]:
        return psycopg.connect(args.dsn, autocommit=True, application_name=f"{kind.name} application")

    with connect() as conn:
        file = args.journal.open("a", encoding="utf-8") if args.journal else None
        try:
            workload = kind(conn, pool(args.seed), args.seed, Journal(file))
            workload.reconnect = connect if args.persistent else None
            if args.mistakes:
                workload.does |= workload.mistakes
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: workload.stopping.set())
            if args.attached:
                threading.Thread(target=stop_with_input, args=(workload.stopping,), daemon=True).start()
            begun = time.monotonic()
            workload.run(args.rate, args.seconds, sys.stdout if args.progress else None)
            print(json.dumps(summary(workload, time.monotonic() - begun)), flush=True)
        finally:
            if file:
                file.close()
    return 0
