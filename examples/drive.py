"""What the examples' demos share: databases, topics, `concord up` as a child, what it measures, and the table at the end.

Whatever is started here ends with this process, however that ends: `concord up` and the workloads hold the other end of a pipe.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psycopg
from confluent_kafka.admin import AdminClient
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from console import grants, metrics
from console.parts import SUPERVISED
from console.stack import StackState, running
from console.stack.state import StackError
from schemas.config import load
from schemas.metrics import added, quantile, since

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".concord"
STOP_SECONDS = 30.0


ASKED = 3  # times; only a command that crashed is asked again


class DemoError(Exception):
    """The demo cannot go on; says why."""


def say(console: Console, text: str) -> None:
    console.print(f"[bold cyan]▸[/] {text}")


# ---- databases and topics ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stack() -> Iterator[StackState]:
    """The embedded Kafka and two PostgreSQL servers; re-used when they run, ended with the last command that uses them."""
    with running(HOME) as state:
        yield state


def fresh_database(server: str, name: str) -> str:
    """An empty database of that name on the server, whatever was there before; its DSN."""
    with psycopg.connect(server, autocommit=True) as admin:
        drop_database(admin, name)
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(sql.Identifier(name)))
    return make_conninfo(server, dbname=name)


def our_login(dsn: str) -> str:
    """The address of Concord's own role in a demo's database. `Concord.grant` makes the role, as an administrator would."""
    name = str(conninfo_to_dict(dsn)["dbname"])
    return make_conninfo(dsn, user=f"{name}_sync", password=secrets.token_urlsafe(12))


def drop_database(admin: psycopg.Connection[Any], name: str) -> None:
    """With its slots, the replication origins of a pipeline that no longer is, and our role in it."""
    deadline = time.monotonic() + STOP_SECONDS
    while slots := admin.execute("SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s", [name]).fetchall():
        if time.monotonic() > deadline:
            raise DemoError(f"database {name} has slots in use: {', '.join(slot for slot, _ in slots)}")
        for slot, pid in slots:
            if pid is not None:
                admin.execute("SELECT pg_terminate_backend(%s)", [pid])
            with contextlib.suppress(psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
                admin.execute("SELECT pg_drop_replication_slot(%s)", [slot])
    admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
    admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(f"{name}_sync")))


def drop_topics(bootstrap: str, systems: Sequence[str], entities: Sequence[str]) -> None:
    """Every topic that a run before this one may have left: captured rows, steps, golden records, and Faust's own."""
    starts = (
        *(f"{system}." for system in systems),
        *(f"{kind}.{name}" for kind in ("links", "join", "dead") for name in systems),
        *(f"{kind}.{name}" for kind in ("claims", "changes", "golden", "conflicts") for name in entities),
        "demo_",
    )
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def left() -> list[str]:
        return [topic for topic in admin.list_topics(timeout=30).topics if topic.startswith(starts)]

    if found := left():
        for deletion in admin.delete_topics(found, operation_timeout=30).values():
            deletion.result(30)
    deadline = time.monotonic() + STOP_SECONDS
    while left():  # the broker says yes before it has done it, and a topic of the same name must not meet the old one
        if time.monotonic() > deadline:
            raise DemoError("Kafka does not delete the last run's topics")
        time.sleep(0.1)


def drop_databases(servers: Mapping[str, str]) -> None:
    """Databases by name, each on its server."""
    for name, server in servers.items():
        with psycopg.connect(server, autocommit=True) as admin:
            drop_database(admin, name)


def run_name() -> str:
    """A pipeline name that no run before had: of slots, groups and tables."""
    return f"demo_{secrets.token_hex(3)}"


# ---- children --------------------------------------------------------------------------------------------------------------------


def start(command: Sequence[str], environment: Mapping[str, str], log: Path, stdout: int | None = None) -> subprocess.Popen[str]:
    """A child with a session of its own, so that Ctrl-C reaches us and we stop it in our order, and a pipe from us that ends with us."""
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=file if stdout is None else stdout,
            stderr=file,
            text=True,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[str], seconds: float = STOP_SECONDS) -> int:
    """SIGTERM, then patience, then SIGKILL. Returns its exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with contextlib.suppress(OSError):
                pipe.close()
    return process.returncode


class Application:
    """A workload as a child process; `last` is the newest JSON line it wrote, its summary at the end."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] = {}) -> None:
        self.name = name
        self.last: dict[str, Any] = {}
        self.process = start(command, {"PYTHONUNBUFFERED": "1", **environment}, log, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, lines: IO[str]) -> None:
        with contextlib.suppress(ValueError):  # closed under us: it has been stopped
            for line in lines:
                with contextlib.suppress(json.JSONDecodeError):
                    self.last = json.loads(line)

    @property
    def working(self) -> bool:
        return self.process.poll() is None

    @property
    def changes(self) -> int:
        return int(self.last.get("changes", 0))

    def end(self) -> dict[str, Any]:
        """Ask it to stop and return its summary. Raises DemoError when it has failed."""
        if self.working:
            self.process.terminate()
        try:
            status = self.process.wait(STOP_SECONDS)
            self._reader.join(STOP_SECONDS)
        finally:
            stop(self.process)
        if status:
            raise DemoError(f"the {self.name} application ended with status {status}")
        return self.last


# ---- Concord ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Concord:
    """`concord up` as a child, and the questions a person would ask it on the command line."""

    config: Path
    environment: Mapping[str, str]  # what concord.yaml takes from it
    log: Path
    run_dir: Path
    process: subprocess.Popen[str] | None = None
    _first: dict[tuple[str, str], dict[float, float]] = field(default_factory=dict)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "console", *words, "-c", str(self.config)]

    def grant(self, admins: Mapping[str, str]) -> None:
        """`concord check --grant --run`: Concord's own roles, with the rights it needs and no other. `admins`: system → DSN."""
        grants.grant(load(self.config, {**os.environ, **self.environment}), admins, run=True)

    def up(self, *words: str) -> None:
        self.process = start(self.command("up", *words), {**self.environment, SUPERVISED: "1"}, self.log)

    def down(self) -> int:
        return stop(self.process) if self.process else 0

    def check_alive(self) -> None:
        if self.process and self.process.poll() is not None:
            raise DemoError(f"concord up ended with status {self.process.returncode}; its log is {self.log}\n{tail(self.log)}")

    def ask(self, *words: str, seconds: float = 120.0) -> tuple[int, dict[str, Any]]:
        """A reporting command with --json: its exit status and what it said."""
        for _ in range(ASKED):
            asked = subprocess.run(
                self.command(*words, "--json"),
                cwd=ROOT,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
            )
            try:
                return asked.returncode, json.loads(asked.stdout)
            except json.JSONDecodeError:
                if asked.returncode >= 0:
                    break
            with self.log.open("a") as log:  # a crash below Python; faulthandler says where
                log.write(f"concord {' '.join(words)} was ended by signal {-asked.returncode}\n{asked.stderr}\n")
        raise DemoError(f"concord {' '.join(words)} did not answer (exit status {asked.returncode}): {asked.stderr.strip()[-2000:]}")

    def settle(self, seconds: float, meanwhile: Callable[[dict[str, Any]], None] = lambda status: None) -> dict[str, Any]:
        """Wait until nothing is in flight. Returns the last status; raises DemoError when it takes too long."""
        deadline = time.monotonic() + seconds
        while True:
            self.check_alive()
            _, status = self.ask("status", "--wait", "5")
            meanwhile(status)
            if status.get("settled"):
                return status
            if time.monotonic() > deadline:
                raise DemoError(f"still in flight after {seconds:.0f} s: {json.dumps(status)[:3000]}\n{tail(self.log)}")

    # -- what it measures
    def scrape(self) -> metrics.Scrape:
        return metrics.scrape(metrics.addresses(self.run_dir).values())

    def latencies(self, scrape: metrics.Scrape, directions: Sequence[tuple[str, str]]) -> dict[tuple[str, str], dict[float, float]]:
        """Per direction, the histogram of commit → commit since `mark`."""
        found = {}
        for direction in directions:
            now = scrape.histogram("concord_commit_to_commit_seconds", from_system=direction[0], to_system=direction[1])
            found[direction] = since(now, self._first.get(direction, {}))
        return found

    def mark(self, directions: Sequence[tuple[str, str]]) -> None:
        """Measure from here: what came before was the snapshot."""
        self._first = {}
        self._first = self.latencies(self.scrape(), directions)


def pipeline(name: str, config: Path, environment: Mapping[str, str], bootstrap: str) -> Concord:
    """A pipeline with a new name, its log begun anew. `environment`: what its concord.yaml takes from it besides."""
    run, folder = run_name(), HOME / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    log.unlink(missing_ok=True)
    shared = {"CONCORD_NAME": run, "CONCORD_STATE_DIR": str(folder), "KAFKA_BOOTSTRAP": bootstrap}
    return Concord(config, {**shared, **environment}, log, folder / run)


def tail(log: Path, lines: int = 25) -> str:
    try:
        return "\n".join(log.read_text("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""


def milliseconds(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def quantiles(histogram: Mapping[float, float]) -> str:
    return f"p50 {milliseconds(quantile(histogram, 0.5))} p99 {milliseconds(quantile(histogram, 0.99))}"


def bars(histogram: Mapping[float, float], width: int = 40) -> list[tuple[str, int, str]]:
    """The histogram in a few wide steps: (step, count, bar)."""
    steps = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, math.inf)
    counts: list[tuple[str, int]] = []
    below = 0.0
    for step in steps:
        up_to = max((count for bound, count in histogram.items() if bound <= step), default=0.0)
        counts.append((f"≤ {milliseconds(step)}" if step != math.inf else "more", round(up_to - below)))
        below = up_to
    highest = max(count for _, count in counts) or 1
    return [(name, count, "█" * math.ceil(width * count / highest)) for name, count in counts]


# ---- what people see ---------------------------------------------------------------------------------------------------------------


def watch(
    console: Console,
    concord: Concord,
    applications: Sequence[Application],
    directions: Sequence[tuple[str, str]],
    until: Callable[[], bool] | None = None,
) -> None:
    """A live line until then, or until the applications have ended; in a file or a pipe a plain one every five seconds."""
    ended = until or (lambda: not any(application.working for application in applications))
    began = last = time.monotonic()
    before = [0] * len(applications)
    every = 1.0 if console.is_terminal else 5.0
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not ended():
            time.sleep(0.1)
            now = time.monotonic()
            if now - last < every:
                continue
            concord.check_alive()
            scrape = concord.scrape()
            changes = [application.changes for application in applications]
            rates = ", ".join(
                f"{application.name} {(after - earlier) / (now - last):.0f}/s"
                for application, after, earlier in zip(applications, changes, before, strict=True)
            )
            lag = scrape.highest("concord_lag_seconds") or 0.0
            latency = "   ".join(
                f"{source} → {target} {quantiles(histogram)}"
                for (source, target), histogram in concord.latencies(scrape, directions).items()
            )
            line = f"{now - began:4.0f} s   {rates}   lag {scrape.total('concord_lag_events'):.0f} events, {milliseconds(lag)}   {latency}"
            if console.is_terminal:
                live.update(Text(line), refresh=True)
            else:
                console.print(line)
            last, before = now, changes


def result_table(verified: Mapping[str, Any], second: Mapping[str, str], whose: str = "by hand-written SQL") -> Table:
    """Per entity what `concord verify` found; `second` is another opinion, in rich's markup."""
    headings = ("things", "equal", "differing", "missing", "deleted", "conflicts decided", "parked", "dead")
    rows = {}
    for name, told in verified["entities"].items():
        found = [told["things"], told["equal"], told["differing"] + told["in_flight"], sum(told["missing"].values()), told["deleted"]]
        rows[name] = dict(zip(headings, [*found, told["conflicts"] or 0, told["parked"], told["dead"]], strict=True))
    table = Table(title="agreement", title_justify="left", show_footer=True)
    table.add_column("entity", "all")
    for heading in headings:
        table.add_column(heading, f"{sum(counts[heading] for counts in rows.values()):,}", justify="right")
    if second:
        table.add_column(whose)
    for name, counts in rows.items():
        wrong = {"differing", "missing", "parked", "dead"}
        cells = (f"[red]{count:,}[/]" if count and heading in wrong else f"{count:,}" for heading, count in counts.items())
        table.add_row(name, *cells, *([second.get(name, "")] if second else []))
    return table


def latency_table(latencies: Mapping[tuple[str, str], Mapping[float, float]]) -> Table:
    table = Table(title="commit → commit", title_justify="left")
    for name in ("", "changes", "p50", "p90", "p99", "max ≤"):
        table.add_column(name, justify="right" if name else "left")
    for (source, target), histogram in latencies.items():
        table.add_row(
            f"{source} → {target}",
            f"{max(histogram.values(), default=0):,.0f}",
            *(milliseconds(quantile(histogram, q)) for q in (0.5, 0.9, 0.99, 1.0)),
        )
    table.add_section()
    for step, count, bar in bars(added(*latencies.values())):
        table.add_row(step, f"{count:,}", bar, "", "", "")
    return table


def verdict(console: Console, verified: Mapping[str, Any], problems: Sequence[str], show: int) -> int:
    """Names what is not as it should be, `show` of it. Returns the exit status: 0 when all is equal and nothing is parked or dead."""
    found = [f"verify: {json.dumps(difference, ensure_ascii=False)}" for difference in verified["differences"]]
    for name, told in verified["entities"].items():
        counts = {"missing": sum(told["missing"].values())}
        counts |= {what: told[what] for what in ("differing", "in_flight", "duplicates", "parked", "dead")}
        found += [f"{name}: {count} {what}" for what, count in counts.items() if count]
    found += problems
    for problem in found[:show]:
        console.print(Text(f"✗ {problem}", style="red"))
    if len(found) > show:
        console.print(Text(f"… and {len(found) - show} more", style="red"))
    if not found:
        console.print("[bold green]✓[/] both databases agree, nothing is parked, nothing is dead")
    return 1 if found else 0


def run_demo(demo: Callable[[argparse.Namespace, Console], int], args: argparse.Namespace) -> int:
    """Its exit status; 2 when it could not run, 130 after Ctrl-C. Whatever it started is stopped by then."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the same as Ctrl-C
    try:
        return demo(args, console)
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    except (DemoError, StackError) as error:
        console.print(Text(f"✗ {error}", style="red"))
        return 2
