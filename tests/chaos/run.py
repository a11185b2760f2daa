"""One seeded run: the pipeline on the reference applications, under load on both sides and under faults, and what came of it.

    servers (kafka, crm, erp) ◀─ proxies ◀─ concord up --workers 2        applications go to their databases directly
    load ▶ triggers of the referee ▶ snapshot settles ▶ people work, faults strike ▶ people stop ▶ all settles ▶ the referee judges

Probes, one in each direction, are a customer renamed over and over, and how long until the other side shows it: what an outage is to a
user, and when it was over.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
from confluent_kafka import KafkaException
from rich.console import Console

from examples.drive import HOME, ROOT, STOP_SECONDS, Application, Concord, DemoError, our_login, say, stop
from examples.reference import load
from tests.chaos import history, truth
from tests.chaos.faults import STRIKES, SYSTEMS, Broken, Fault, Kind, Missed, World, drawn
from tests.chaos.faults.disks import Disk
from tests.chaos.faults.plan import WORKERS
from tests.chaos.proxy import Proxy
from tests.chaos.servers import Servers
from tests.chaos.watch import Watch

CONFIG = ROOT / "examples" / "reference" / "concord.yaml"
NAME = "chaos"
SNAPSHOT_SECONDS, SETTLE_SECONDS, QUIET_SECONDS = 400.0, 300.0, 3.0
ROWS_A_SECOND = 100  # of a bulk transaction, on a slow machine
PROBE_SECONDS = 0.25
STRIKE_SECONDS = 10.0  # how long a fault waits for something that it can strike
# … and one that needs the pipeline at work, or a server for a while: other faults keep it from that most of the time of a dense run.
# At most; as long as people work in a short run.
MEET_SECONDS = 120.0
MEETING = (Kind.DDL, Kind.LOCK, Kind.DEADLOCK, Kind.SERIALIZE, Kind.BULK, Kind.SNAPSHOT, Kind.REPLAY, Kind.OFFSETS)
CARRIED_OUT_SECONDS = 360.0  # a try that began at the end of that, and a server that starts on a busy machine
HISTORIES = 60  # of things that went wrong, at most


@dataclass(frozen=True)
class Options:
    seed: int
    seconds: float  # that people work
    faults: int
    rate: float = 40.0  # row changes a second, each side
    bulk_rows: int = 2000
    share: float = 0.3  # of the reference data
    only: tuple[Kind, ...] = ()  # kinds of faults; (): all
    no_disks: str | None = None  # why there are no small file systems; None: there are

    @property
    def patience(self) -> float:
        """Seconds in which everything must have come through after the last fault."""
        return SETTLE_SECONDS + self.bulk_rows / ROWS_A_SECOND


@dataclass
class Struck:
    """A fault as it was carried out; `over` when a probe that began after it had come through in both directions."""

    fault: Fault
    began: float
    at: float  # when it had been carried out
    over: float | None = None
    effect: str = ""  # what was seen to happen
    error: str = ""  # why nothing was
    visible: float = 0.0  # seconds from `began` until `over` in which `concord status` showed trouble


@dataclass
class Outcome:
    options: Options
    struck: list[Struck] = field(default_factory=list)
    verdict: truth.Verdict = field(default_factory=truth.Verdict)
    settled_after: float = 0.0  # seconds after people stopped
    statuses: list[str] = field(default_factory=list)
    status: Mapping[str, Any] = field(default_factory=dict)
    applications: list[Mapping[str, Any]] = field(default_factory=list)
    stories: dict[str, list[str]] = field(default_factory=dict)  # what is wrong, in a sentence → the thing's whole history
    stuck: str = ""  # why the run did not come to its end
    broken: list[str] = field(default_factory=list)  # what the pipeline answered wrongly to a fault, at once
    unseen: list[str] = field(default_factory=list)  # I6: things in a state that status must not show at the end

    @property
    def good(self) -> bool:
        return self.verdict.good and not self.stuck and not self.broken and not self.unseen


class Probe(threading.Thread):
    """A customer of its own that is renamed in one system; `last_begun` of the newest rename that arrived in the other."""

    def __init__(self, servers: Servers, system: str, other: str, stopping: threading.Event) -> None:
        super().__init__(name=f"probe from {system}", daemon=True)
        self._servers, self.system, self._other, self._stopping = servers, system, other, stopping
        self.arrived = 0.0  # when the newest one that arrived was written
        self.delays: list[tuple[float, float]] = []  # written at, seconds until it was there
        self._tax_id = f"PROBE-{system}"

    def run(self) -> None:
        for number in itertools.count():
            if self._stopping.is_set():
                return
            # the server is gone; or was, just after it had taken the customer in
            with contextlib.suppress(psycopg.OperationalError, psycopg.errors.UniqueViolation):
                began, name = time.monotonic(), f"probe {self.system} {number}"
                self._write(name)
                while not self._stopping.is_set() and self._stands(name):
                    if self._shows(self._other, name):
                        self.delays.append((began, time.monotonic() - began))
                        self.arrived = began
                        break
                    self._stopping.wait(0.02)
            self._stopping.wait(PROBE_SECONDS)

    def _write(self, name: str) -> None:
        with psycopg.connect(self._servers.dsn(self.system), autocommit=True, connect_timeout=3) as conn:
            if self.system == "crm":
                row = conn.execute("UPDATE account SET name = %s WHERE vat_number = %s", [name, self._tax_id])
                if not row.rowcount:
                    conn.execute(
                        "INSERT INTO account (id, type, name, vat_number, billing_country, segment, payment_terms, is_active, owner_login,"
                        " created_at, updated_at)"
                        " VALUES (gen_random_uuid(), 'customer', %s, %s, 'DE', 'gold', 'net30', true, 'probe', now(), now())",
                        [name, self._tax_id],
                    )
            else:
                row = conn.execute("UPDATE business_partner SET legal_name = %s WHERE tax_id = %s", [name, self._tax_id])
                if not row.rowcount:
                    conn.execute(
                        "INSERT INTO business_partner (number, kind, legal_name, tax_id, country, class, payment_days, credit_limit,"
                        " active, dunning_level, currency, language, company, create_uid, create_date, write_date) VALUES ('K' ||"
                        " nextval('partner_number_seq'), 'customer', %s, %s, 'DEU', 'A', 30, 0, true, 0, 'EUR', 'de', 1, 1, now(), now())",
                        [name, self._tax_id],
                    )

    def _stands(self, name: str) -> bool:
        """Whether nobody has renamed the customer since: then the name may never arrive, and the next one is written."""
        return self._shows(self.system, name)

    def _shows(self, system: str, name: str) -> bool:
        query = {"crm": "SELECT 1 FROM account WHERE name = %s", "erp": "SELECT 1 FROM business_partner WHERE legal_name = %s"}[system]
        with psycopg.connect(self._servers.dsn(system), autocommit=True, connect_timeout=3) as conn:
            return conn.execute(query.encode(), [name]).fetchone() is not None


class Run:
    def __init__(self, options: Options, console: Console, folder: Path) -> None:
        self.options, self.console, self.folder = options, console, folder
        self.outcome = Outcome(options)
        self._stopping = threading.Event()
        self._without: set[Kind] = set()
        self._rng = random.Random(f"chaos run {options.seed}")

    def __call__(self) -> Outcome:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        with ExitStack() as stack:
            self._disks: dict[str, Disk] = {}
            kafka_line = stack.enter_context(Proxy(("127.0.0.1", 0)))
            ahead = {system: self._rng.choice((-3.0, -0.2, 0.0, 0.2, 3.0)) for system in SYSTEMS}
            servers = Servers(HOME.resolve(), kafka_line.port, lambda folder: self._place("kafka", folder), ahead)
            self.servers = stack.enter_context(servers)
            self._place("state", self.folder / "state")
            for disk in self._disks.values():
                stack.callback(disk.unmount)
            for kinds, lacks in (((Kind.CLOCK,), servers.lacks), ((Kind.DISK, Kind.STATE_DISK), self.options.no_disks)):
                if lacks:
                    self._without.update(kinds)
                    say(self.console, f"left out: {', '.join(kinds)}: {lacks}")
            kafka_line.target = ("127.0.0.1", self.servers.ports["kafka"])
            self.lines = {"kafka": kafka_line}
            for system in SYSTEMS:
                self.lines[system] = stack.enter_context(Proxy(("127.0.0.1", self.servers.ports[system])))
            self._load()
            self.concord = self._concord()
            self.world = World(NAME, self.folder, self.servers, self.lines, self.concord, self._up, self._rng, self._disks)
            stack.callback(self.concord.down)
            self._up()
            self.concord.settle(SNAPSHOT_SECONDS)
            say(self.console, f"seed {self.options.seed}: both sides hold the same; people begin to work, faults strike")
            self.watch = Watch(CONFIG, {**os.environ, **self.concord.environment}, self._stopping)
            self.watch.start()
            try:
                self._work()
            except DemoError as error:
                self.outcome.stuck = str(error)
            finally:
                self._stopping.set()
                self.watch.join(60)
            for struck in self.outcome.struck:
                struck.visible = self.watch.visible(struck.began, struck.over or time.monotonic())
            self._judge()
        return self.outcome

    def _place(self, name: str, folder: Path) -> None:
        """The folder, on a file system of its own where that can be."""
        if self.options.no_disks:
            folder.mkdir()
            return
        self._disks[name] = Disk(folder)

    # ---- set up -----------------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        for system in SYSTEMS:
            with psycopg.connect(self.servers.dsn(system, database="postgres"), autocommit=True) as admin:
                admin.execute("CREATE DATABASE reference TEMPLATE template0 ENCODING 'UTF8'")
        with psycopg.connect(self.servers.dsn("crm")) as crm, psycopg.connect(self.servers.dsn("erp")) as erp:
            load.create(crm, erp)
            load.load(crm, erp, self.options.seed, self.options.share)
            for side, conn in (("crm", crm), ("erp", erp)):
                truth.install(conn, side)

    def _concord(self) -> Concord:
        environment = {
            "CONCORD_NAME": NAME,
            "CONCORD_STATE_DIR": str(self.folder / "state"),
            "KAFKA_BOOTSTRAP": f"127.0.0.1:{self.lines['kafka'].port}",
            "KAFKA_PARTITIONS": str(WORKERS),
            **{f"{system.upper()}_DSN": our_login(self.servers.dsn(system, self.lines[system].port)) for system in SYSTEMS},
        }
        concord = Concord(CONFIG, environment, self.folder / "concord.log", self.folder / "state" / NAME)
        concord.grant({system: self.servers.dsn(system) for system in SYSTEMS})
        return concord

    def _up(self) -> None:
        self.concord.up("--workers", str(WORKERS), "--sink-workers", str(WORKERS))

    def _ensure_up(self) -> None:
        process = self.concord.process
        if process is None or process.poll() is not None:
            self._up()

    # ---- people and faults ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        options = self.options
        plan = drawn(options.seed, options.faults, options.seconds, options.bulk_rows, options.only, self._without)
        probes = [Probe(self.servers, one, other, self._stopping) for one, other in (SYSTEMS, SYSTEMS[::-1])]
        began = time.monotonic()
        with ExitStack() as stopping:
            applications = [self._application(system) for system in SYSTEMS]
            for application in applications:
                stopping.callback(stop, application.process)
            stopping.callback(self._stopping.set)
            for probe in probes:
                probe.start()
            strikers: list[threading.Thread] = []
            for fault in plan:
                self._wait_until(began + fault.at, probes, applications)
                striker = threading.Thread(target=self._strike, args=(fault,), name=str(fault.kind), daemon=True)
                striker.start()
                strikers.append(striker)
            self._wait_until(began + options.seconds, probes, applications)
            for striker in strikers:
                striker.join(CARRIED_OUT_SECONDS)
            if late := [striker.name for striker in strikers if striker.is_alive()]:
                raise DemoError(f"seed {options.seed}: still being carried out: {', '.join(late)}")
            for application in applications:  # they end by themselves
                with contextlib.suppress(subprocess.TimeoutExpired):
                    application.process.wait(STOP_SECONDS)
            stopping.pop_all()
            for application in applications:
                try:
                    self.outcome.applications.append(application.end())
                except DemoError as error:  # it is no part of what is judged, and what it had committed is
                    say(self.console, f"seed {options.seed}: {error}, see {self.folder}")
        stopped = time.monotonic()
        say(self.console, f"people have stopped after {len(self.outcome.struck)} faults; waiting until nothing is in flight")
        self._ensure_up()
        self._until_over(probes)
        self._stopping.set()
        for probe in probes:  # with them at work something is always in flight
            probe.join(10)
        self.outcome.status = self.concord.settle(self.options.patience)
        self.outcome.settled_after = time.monotonic() - stopped

    def _application(self, system: str) -> Application:
        options = self.options
        words = ["--dsn", self.servers.dsn(system), "--rate", options.rate, "--seconds", options.seconds, "--seed", options.seed]
        command = [sys.executable, "-m", f"examples.reference.{system}_app", *map(str, words), "--progress", "--attached", "--persistent"]
        return Application(system, command, self.folder / f"{system}_app.log")

    def _wait_until(self, at: float, probes: list[Probe], applications: list[Application]) -> None:
        while (now := time.monotonic()) < at:
            self._stopping.wait(min(0.1, at - now))
            self._note(probes)
            if self.console.is_terminal:
                told = ", ".join(f"{application.name} {application.changes:,} changes" for application in applications)
                self.console.print(f"{len(self.outcome.struck)} faults, {told}", end="\r")

    def _note(self, probes: list[Probe]) -> None:
        """A fault is over for people when what they write after it arrives, both ways."""
        arrived = min(probe.arrived for probe in probes)
        for struck in self.outcome.struck:
            if struck.over is None and arrived > struck.at:
                struck.over = time.monotonic()

    def _until_over(self, probes: list[Probe]) -> None:
        deadline = time.monotonic() + self.options.patience
        while any(struck.over is None for struck in self.outcome.struck):
            self._note(probes)
            if time.monotonic() > deadline:
                told = ", ".join(f"from {probe.system} {time.monotonic() - probe.arrived:.0f} s ago" for probe in probes)
                _, status = self.concord.ask("status")
                raise DemoError(
                    f"seed {self.options.seed}: not everything comes through any more, {self.options.patience:.0f} s after the last fault:"
                    f" the last to arrive was written {told}\n{json.dumps(status, indent=1)}"
                )
            self._stopping.wait(0.1)

    def _strike(self, fault: Fault) -> None:
        struck = Struck(fault, time.monotonic(), time.monotonic())
        try:
            struck.effect = self._struck(fault)
        except Broken as error:
            struck.effect = str(error)
            self.outcome.broken.append(f"{fault.kind} ({fault.target}): {error}")
        except (
            Missed,
            psutil.Error,
            psycopg.Error,
            KafkaException,
            RuntimeError,
            OSError,
            DemoError,
        ) as error:  # another fault was in the way
            told = str(error) if isinstance(error, Missed) else f"{type(error).__name__}: {error}"
            struck.error = (told.splitlines() or [""])[0][:200]
        self._log(f"{fault.kind} ({fault.target}) {'struck nothing: ' + struck.error if struck.error else '· ' + struck.effect}")
        struck.at = time.monotonic()
        self.outcome.struck.append(struck)

    def _struck(self, fault: Fault) -> str:
        """What was seen to happen. Raises what was in the way when there was nothing to strike in time: a part is started again, say, or a
        server that the fault needs is away."""
        meeting = fault.kind in MEETING
        passing = (Missed, psycopg.OperationalError, KafkaException) if meeting else (Missed,)
        deadline = time.monotonic() + (max(STRIKE_SECONDS, min(MEET_SECONDS, self.options.seconds)) if meeting else STRIKE_SECONDS)
        while True:
            try:
                return STRIKES[fault.kind](self.world, fault)
            except passing:
                if time.monotonic() > deadline:
                    raise
            self._stopping.wait(0.25)

    def _log(self, line: str) -> None:
        with (self.folder / "faults.log").open("a") as log:
            log.write(f"{time.strftime('%H:%M:%S', time.gmtime())} {line}\n")

    # ---- judge ------------------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        with self._databases() as databases:
            before = {side: truth.counts(conn, side)[1] for side, conn in databases.items()}
            verdict = truth.judge(databases["crm"], databases["erp"])
            if self.outcome.stuck:  # what is in flight is neither lost nor wrong; its histories say where it stands
                self.outcome.verdict = truth.Verdict(verdict.changes, verdict.writes)
                self.outcome.stories = self._histories(databases, verdict)
                return
            self.outcome.verdict = verdict
            time.sleep(QUIET_SECONDS)  # nothing may happen any more: only time can tell
            for side, conn in databases.items():
                conn.rollback()
                more = truth.counts(conn, side)[1] - before[side]
                if more:
                    verdict.looped.append(f"{side}: {more} more writes of ours after everything had settled")
            self.outcome.stories = self._histories(databases, verdict)
        self.outcome.unseen = [
            f"{name}: {told[what]} {what}"
            for name, told in self.outcome.status.get("entities", {}).items()
            for what in ("parked", "dead")
            if told.get(what)
        ]

    def _histories(self, databases: Mapping[str, psycopg.Connection[Any]], verdict: truth.Verdict) -> dict[str, list[str]]:
        """Of what went wrong, while the servers are still up; all of them also in a file beside the logs."""
        wrong = list(verdict.wrong())[:HISTORIES]
        if not wrong:
            return {}
        stories = history.told_by(databases, f"127.0.0.1:{self.servers.ports['kafka']}", self.folder, wrong)
        text = "\n\n".join("\n".join((f"✗ {sentence}", *lines)) for sentence, lines in stories.items())
        (self.folder / "history.txt").write_text(text + "\n", "utf-8")
        return stories

    @contextlib.contextmanager
    def _databases(self) -> Iterator[dict[str, psycopg.Connection[Any]]]:
        with psycopg.connect(self.servers.dsn("crm")) as crm, psycopg.connect(self.servers.dsn("erp")) as erp:
            yield {"crm": crm, "erp": erp}
