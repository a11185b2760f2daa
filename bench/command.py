"""What the benchmarks share: two empty databases, and a command of `concord` as its user runs it, with what it cost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from examples.drive import HOME, drop_databases, fresh_database


class Ran(NamedTuple):
    """A command that has ended."""

    status: int
    seconds: float
    megabytes: float  # the most it had in memory
    said: str


@contextmanager
def databases(crm: str | None, erp: str | None) -> Iterator[dict[str, str]]:
    """System → DSN of an empty database: the ones that are given, else on an embedded PostgreSQL that goes away with them."""
    if crm and erp:
        yield {"crm": crm, "erp": erp}
        return
    from console.stack import running

    with running(HOME, run=f"bench-{os.getpid()}", kafka=False, ephemeral=True) as state:
        servers = {"crm": state.postgres[0].dsn, "erp": state.postgres[-1].dsn}
        try:
            yield {system: fresh_database(server, f"bench_{system}") for system, server in servers.items()}
        finally:
            drop_databases({f"bench_{system}": server for system, server in servers.items()})


def ran(command: Sequence[str], environment: dict[str, str] | None = None, errors: int = subprocess.STDOUT) -> Ran:
    """Runs it to its end. `errors`: where stderr goes; by default it is said too."""
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    kilobytes = used.ru_maxrss / 1024 if sys.platform == "darwin" else used.ru_maxrss
    return Ran(process.returncode, time.monotonic() - began, kilobytes / 1024, said)


def concord(command: str, config: Path, environment: dict[str, str], *options: str, errors: int = subprocess.STDOUT) -> Ran:
    """One command of ours."""
    return ran([sys.executable, "-m", "console", command, "-c", str(config), *options], environment, errors)
