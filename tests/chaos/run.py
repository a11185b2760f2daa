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
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from rich.console import Console

from console.parts import read_json
from examples.drive import HOME, ROOT, STOP_SECONDS, Application, Concord, DemoError, say, stop
from examples.reference import load
from tests.chaos import history, truth
from tests.chaos.faults import SYSTEMS, Fault, Kind, drawn
from tests.chaos.proxy import Proxy
from tests.chaos.servers import Servers
from tests.chaos.watch import Watch

CONFIG = ROOT / "examples" / "reference" / "concord.yaml"
NAME = "chaos"
SNAPSHOT_SECONDS, SETTLE_SECONDS, QUIET_SECONDS = 240.0, 180.0, 3.0
PROBE_SECONDS = 0.25
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


@dataclass
class Struck:
    """A fault as it was carried out; `over` when a probe that began after it had come through in both directions."""

    fault: Fault
    began: float
    at: float  # when it had been carried out
    over: float | None = None
    error: str = ""
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
    unseen: list[str] = field(default_factory=list)  # I6: things in a state that status must not show at the end

    @property
    def good(self) -> bool:
        return self.verdict.good and not self.stuck and not self.unseen


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
            with contextlib.suppress(psycopg.OperationalError):  # the server is gone
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
        self._rng = random.Random(f"chaos run {options.seed}")

    def __call__(self) -> Outcome:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        with ExitStack() as stack:
            kafka_line = stack.enter_context(Proxy(("127.0.0.1", 0)))
            self.servers = stack.enter_context(Servers(HOME.resolve(), kafka_line.port))
            kafka_line.target = ("127.0.0.1", self.servers.ports["kafka"])
            self.lines = {"kafka": kafka_line}
            for system in SYSTEMS:
                self.lines[system] = stack.enter_context(Proxy(("127.0.0.1", self.servers.ports[system])))
            self._load()
            self.concord = self._concord()
            stack.callback(self._end)
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
            "CONCORD_STATE_DIR": str(self.folder),
            "KAFKA_BOOTSTRAP": f"127.0.0.1:{self.lines['kafka'].port}",
            "KAFKA_PARTITIONS": "2",
            **{f"{system.upper()}_DSN": self.servers.dsn(system, self.lines[system].port) for system in SYSTEMS},
        }
        return Concord(CONFIG, environment, self.folder / "concord.log", self.folder / NAME)

    def _up(self) -> None:
        self.concord.up("--workers", "2")

    def _end(self) -> None:
        for line in self.lines.values():
            line.hold(False)
            line.slow(0)
        self.concord.down()

    # ---- people and faults ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        options = self.options
        plan = drawn(options.seed, options.faults, options.seconds, options.bulk_rows, options.only)
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
                striker.join(120)
            for application in applications:  # they end by themselves
                with contextlib.suppress(subprocess.TimeoutExpired):
                    application.process.wait(STOP_SECONDS)
            stopping.pop_all()
            self.outcome.applications = [application.end() for application in applications]
        stopped = time.monotonic()
        say(self.console, f"people have stopped after {len(self.outcome.struck)} faults; waiting until nothing is in flight")
        self._ensure_up()
        self._settle(probes)
        self.outcome.settled_after = time.monotonic() - stopped
        self._stopping.set()
        for probe in probes:
            probe.join(10)
        self.outcome.status = self.concord.settle(SETTLE_SECONDS)  # the probes' last change, too

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

    def _settle(self, probes: list[Probe]) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while any(struck.over is None for struck in self.outcome.struck):
            self._note(probes)
            if time.monotonic() > deadline:
                told = ", ".join(f"from {probe.system} {time.monotonic() - probe.arrived:.0f} s ago" for probe in probes)
                _, status = self.concord.ask("status")
                raise DemoError(
                    f"seed {self.options.seed}: not everything comes through any more, {SETTLE_SECONDS:.0f} s after the last fault:"
                    f" the last to arrive was written {told}\n{json.dumps(status, indent=1)}"
                )
            self._stopping.wait(0.1)
        self.concord.settle(SETTLE_SECONDS)

    def _strike(self, fault: Fault) -> None:
        struck = Struck(fault, time.monotonic(), time.monotonic())
        try:
            self._does[fault.kind](self, fault)
        except (psycopg.Error, KafkaException, RuntimeError, OSError, DemoError) as error:  # another fault was in the way
            struck.error = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            self._log(f"{fault.kind} ({fault.target}) struck nothing: {struck.error}")
        else:
            self._log(f"{fault.kind} ({fault.target})")
        struck.at = time.monotonic()
        self.outcome.struck.append(struck)

    def _log(self, line: str) -> None:
        with (self.folder / "faults.log").open("a") as log:
            log.write(f"{time.strftime('%H:%M:%S', time.gmtime())} {line}\n")

    # ---- each kind --------------------------------------------------------------------------------------------------------

    def _pid(self, part: str) -> int | None:
        told = read_json(self.folder / NAME / "parts" / f"{part}.json")
        pid = told.get("pid")
        if not isinstance(pid, int):
            return None
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return None
        return pid if b"console" in command else None  # else somebody else's by now

    def _signal(self, fault: Fault, number: signal.Signals) -> None:
        pid = self._pid(fault.target)
        if pid is None:
            raise DemoError(f"{fault.target} was not running")
        os.kill(pid, number)

    def _kill(self, fault: Fault) -> None:
        self._signal(fault, signal.SIGKILL)

    def _term(self, fault: Fault) -> None:
        self._signal(fault, signal.SIGTERM)

    def _freeze(self, fault: Fault) -> None:
        pid = self._pid(fault.target)
        self._signal(fault, signal.SIGSTOP)
        time.sleep(fault.seconds)
        with contextlib.suppress(ProcessLookupError):
            assert pid is not None
            os.kill(pid, signal.SIGCONT)

    def _supervisor(self, fault: Fault) -> None:
        with self._supervising:
            process = self.concord.process
            assert process is not None
            process.kill()
            process.wait()
            self.concord.down()
            self._up()

    _supervising = threading.Lock()  # who ends the supervisor starts it again

    def _ensure_up(self) -> None:
        process = self.concord.process
        if process is None or process.poll() is not None:
            self._up()

    def _server(self, fault: Fault) -> None:
        with self._restarting[fault.target]:
            self.servers.restart(fault.target)

    _restarting: Mapping[str, threading.Lock] = defaultdict(threading.Lock)

    def _cut(self, fault: Fault) -> None:
        self.lines[fault.target].cut()

    def _hold(self, fault: Fault) -> None:
        self.lines[fault.target].hold(True)
        time.sleep(fault.seconds)
        self.lines[fault.target].hold(False)

    def _slow(self, fault: Fault) -> None:
        self.lines[fault.target].slow(0.02)
        time.sleep(fault.seconds)
        self.lines[fault.target].slow(0)

    def _state(self, fault: Fault) -> None:
        """The worker is killed, its folder removed before the supervisor has it back."""
        self._signal(fault, signal.SIGKILL)
        shutil.rmtree(self.folder / fault.target, ignore_errors=True)

    def _slot(self, fault: Fault) -> None:
        slot = f"{NAME}_{fault.target}"
        with psycopg.connect(self.servers.dsn(fault.target), autocommit=True) as conn:
            for _ in range(200):
                conn.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s AND active", [slot])
                try:
                    conn.execute("SELECT pg_drop_replication_slot(%s)", [slot])
                    return
                except psycopg.errors.ObjectInUse:
                    time.sleep(0.01)
                except psycopg.errors.UndefinedObject:
                    return

    def _offsets(self, fault: Fault) -> None:
        """As an operator would: stop, set the group back, start."""
        with self._supervising:
            self.concord.down()
            try:
                self._set_back(f"{NAME}-streams")
            finally:
                self._up()

    def _set_back(self, group: str) -> None:
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{self.servers.ports['kafka']}", "log_level": 0})
        known = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(20).topic_partitions
        start = [TopicPartition(each.topic, each.partition, 0) for each in known]
        for _ in range(100):
            try:
                admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, start)])[group].result(20)
                return
            except KafkaException as error:
                if error.args[0].code() not in (KafkaError.NON_EMPTY_GROUP, KafkaError.UNKNOWN_MEMBER_ID):
                    raise
                time.sleep(0.2)  # a member that was killed is still counted until its session has ended

    def _ddl(self, fault: Fault) -> None:
        tables = {"crm": ("account", "task_note"), "erp": ("business_partner", "item")}[fault.target]
        column = f"extra_{self._rng.randint(0, 999_999)}"
        with psycopg.connect(self.servers.dsn(fault.target), autocommit=True) as conn:
            for table in tables:
                conn.execute(f'CREATE TABLE IF NOT EXISTS "{table}" (id int)'.encode())
                conn.execute(f'ALTER TABLE "{table}" ADD COLUMN "{column}" text DEFAULT \'x\''.encode())
            time.sleep(0.5)
            for table in tables:
                conn.execute(f'ALTER TABLE "{table}" DROP COLUMN "{column}"'.encode())

    def _lock(self, fault: Fault) -> None:
        table = {"crm": "account", "erp": "business_partner"}[fault.target]
        with psycopg.connect(self.servers.dsn(fault.target)) as conn:
            conn.execute(f"SELECT 1 FROM {table} ORDER BY random() LIMIT 50 FOR UPDATE".encode())
            time.sleep(fault.seconds)
            conn.rollback()

    def _bulk(self, fault: Fault) -> None:
        table, column = {"crm": ("account", "website"), "erp": ("business_partner", "url")}[fault.target]
        with psycopg.connect(self.servers.dsn(fault.target)) as conn:
            done = 0
            while done < fault.size:  # one transaction, the same rows several times if need be
                mark = f"https://bulk.example/{self._rng.randint(0, 10**9)}"
                done += max(1, conn.execute(f"UPDATE {table} SET {column} = %s".encode(), [mark]).rowcount)
            conn.commit()

    def _backends(self, fault: Fault) -> None:
        with psycopg.connect(self.servers.dsn(fault.target, database="postgres"), autocommit=True) as conn:
            conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'reference'")

    _does: Mapping[Kind, Callable[[Run, Fault], None]] = {
        Kind.KILL: _kill,
        Kind.TERM: _term,
        Kind.FREEZE: _freeze,
        Kind.SUPERVISOR: _supervisor,
        Kind.BROKER: _server,
        Kind.DATABASE: _server,
        Kind.CUT: _cut,
        Kind.HOLD: _hold,
        Kind.SLOW: _slow,
        Kind.STATE: _state,
        Kind.SLOT: _slot,
        Kind.OFFSETS: _offsets,
        Kind.DDL: _ddl,
        Kind.LOCK: _lock,
        Kind.BULK: _bulk,
        Kind.BACKENDS: _backends,
    }

    # ---- judge ------------------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        with self._databases() as databases:
            before = {side: truth.counts(conn, side)[1] for side, conn in databases.items()}
            self.outcome.verdict = verdict = truth.judge(databases["crm"], databases["erp"])
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
