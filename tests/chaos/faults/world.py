"""What there is to strike: the servers of a run, the lines to them, the pipeline, and who may do what at one time."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from examples.drive import Concord
from tests.chaos.proxy import Proxy
from tests.chaos.servers import Servers

if TYPE_CHECKING:
    from tests.chaos.faults.disks import Disk


CONNECT_SECONDS = 30.0
OURS = "a fault"  # application_name of the sessions in which faults are made
READ_COMMITTED = r"-c default_transaction_isolation=read\ committed"  # whatever the database's default is made meanwhile


class Missed(Exception):
    """The fault was not seen to happen: another one was in the way, or nobody met it."""


class Broken(Exception):
    """It happened, and the pipeline answered wrongly at once: a process that stays, a second supervisor that is let in."""


@dataclass
class World:
    name: str  # of the pipeline
    folder: Path  # of the run: its logs
    servers: Servers
    lines: Mapping[str, Proxy]
    concord: Concord
    up: Callable[[], None]  # starts the pipeline
    rng: random.Random
    disks: Mapping[str, Disk] = field(default_factory=dict)  # kafka, state; none without the right to mount
    locks: defaultdict[str, threading.RLock] = field(default_factory=lambda: defaultdict(threading.RLock))

    def lock(self, what: str) -> threading.RLock:
        """Held by who ends a thing and starts it again."""
        return self.locks[what]

    def database(self, system: str, database: str = "reference") -> psycopg.Connection[tuple[object, ...]]:
        """Not through the proxy; again while the server is being started. Other faults leave these sessions alone."""
        dsn = self.servers.dsn(system, database=database)
        deadline = time.monotonic() + CONNECT_SECONDS
        while True:
            try:
                return psycopg.connect(dsn, autocommit=True, connect_timeout=5, application_name=OURS, options=READ_COMMITTED)
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)


def seen(happened: Callable[[], bool], seconds: float, every: float = 0.02) -> bool:
    """Whether it happens within so many seconds."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True
