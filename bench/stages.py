"""Where the time of a change goes: CPU of each process per change, and when one change passes each hop.

    python -m bench.stages                              idle, 200 changes/s on each side, as many as there go
    python -m bench.stages --phases idle,200 --seconds 20 --profile sink-erp-0=/tmp/sink.txt

The reference example on the embedded stack, its own applications at work. An idle change is one update of one row while nothing else
happens, seen by a reader of the topics and by one of the target's row; under load the latency is what the sinks report. CPU is that of
the processes in the same time, divided by the row changes that the applications committed: PostgreSQL's has their own work in it.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import psycopg
from confluent_kafka import Consumer, TopicPartition

from bench.usage import cpu_seconds
from console.metrics import Scrape
from console.stack import running
from console.stack.state import StackState
from examples.drive import HOME, Application, Concord, drop_databases, drop_topics, fresh_database, our_login, pipeline
from examples.reference import load
from examples.reference.agree import ENTITIES
from schemas import topics
from schemas.metrics import added, quantile

SYSTEMS = ("crm", "erp")
DIRECTIONS = (("crm", "erp"), ("erp", "crm"))
CONFIG = Path(load.__file__).parent / "concord.yaml"
FULL = 3000.0  # changes/s on each side that are asked for when as many as there go are wanted
IDLE_CHANGES = 100
WARM_SECONDS = 5.0
DRAINED_SECONDS = 1.5  # nothing has arrived for so long: all has


class Cpu:
    """CPU seconds of the processes by name, those that have ended since the first look included as far as their parent counts them."""

    def __init__(self, state: StackState, concord: Concord) -> None:
        assert state.kafka is not None
        self._groups = {"kafka": [state.kafka.pid], "postgres": [each.pid for each in state.postgres]}
        assert concord.process is not None
        self.parts: dict[str, int] = {}
        for child in psutil.Process(concord.process.pid).children():
            words = child.cmdline()
            words = words[words.index("console") + 1 : words.index("-c")]
            name = "-".join(word for word in words if not word.startswith("--"))
            self._groups[name] = [child.pid]
            self.parts[name] = child.pid

    def seconds(self) -> dict[str, float]:
        return cpu_seconds(self._groups)

    def threads(self) -> dict[str, float]:
        """By process and name of the thread, numbers left out; of those that live."""
        found: dict[str, float] = {}
        for name, (pid, *_) in self._groups.items():
            for thread in psutil.Process(pid).threads() if name != "postgres" else ():
                try:
                    told = Path(f"/proc/{pid}/task/{thread.id}/comm").read_text().strip()
                except OSError:
                    continue
                told = f"{name}: {re.sub(r'[0-9]+', '#', told)}"
                found[told] = found.get(told, 0.0) + thread.user_time + thread.system_time
        return found


class Hops:
    """When a record of a topic arrived at a reader of our own: the earliest after a moment."""

    def __init__(self, bootstrap: str, names: Sequence[str]) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False, "fetch.wait.max.ms": 500}
        )
        places = [TopicPartition(name, number) for name in names for number in self._consumer.list_topics(name, 10).topics[name].partitions]
        for place in places:
            place.offset = self._consumer.get_watermark_offsets(place, timeout=10)[1]
        self._consumer.assign(places)
        self._seen: list[tuple[float, str]] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stopping:
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None:
                self._seen.append((time.perf_counter(), str(message.topic())))

    def first_after(self, moment: float) -> dict[str, float]:
        found: dict[str, float] = {}
        for at, topic in self._seen:
            if at >= moment:
                found.setdefault(topic, at - moment)
        return found

    def close(self) -> None:
        self._stopping = True
        self._thread.join()
        self._consumer.close()


def idle(dsns: Mapping[str, str], bootstrap: str, changes: int) -> dict[str, Any]:
    """One update at a time, of a customer that both sides have: milliseconds from its commit to each hop, of the CRM's edits."""
    names = [topics.captured("crm", "public", "account"), topics.changes("customer"), topics.golden("customer")]
    hops: dict[str, list[float]] = {}
    observer = Hops(bootstrap, names)
    try:
        with psycopg.connect(dsns["crm"], autocommit=True) as crm, psycopg.connect(dsns["erp"], autocommit=True) as erp:
            partners: dict[str, int] = dict(
                erp.execute("SELECT tax_id, id FROM business_partner WHERE kind <> 'supplier' AND active").fetchall()
            )
            accounts = crm.execute("SELECT vat_number, id FROM account WHERE type = 'customer' AND is_active ORDER BY 1").fetchall()
            both = [(key, partners[tax]) for tax, key in accounts if tax in partners]
            for number, (account, partner) in zip(range(changes), both, strict=False):
                phone = f"+49 30 {time.time_ns() // 1000}"
                crm.execute("UPDATE account SET phone = %s WHERE id = %s", (phone, account))
                began = time.perf_counter()
                while True:
                    row = erp.execute("SELECT telephone FROM business_partner WHERE id = %s", (partner,)).fetchone()
                    if row is not None and row[0] == phone:
                        break
                    if time.perf_counter() > began + 10:
                        raise RuntimeError(f"the edit of account {account} did not arrive")
                    time.sleep(0.0003)
                hops.setdefault("target row", []).append(time.perf_counter() - began)
                time.sleep(0.1 + 0.05 * (number % 7) / 7)  # not in step with anybody's timer; the echo has come back by then
                for topic, after in observer.first_after(began).items():
                    hops.setdefault(topic, []).append(after)
    finally:
        observer.close()
    return {"hops_ms": {name: _spread(hops[name]) for name in (*names, "target row") if name in hops}, "changes": changes}


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": round(1000 * cuts[49], 2), "p99": round(1000 * cuts[98], 2)}


def work(concord: Concord, dsns: Mapping[str, str], rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """Both applications at that rate each; ends when all has arrived."""
    concord.mark(DIRECTIONS)
    before = concord.scrape()
    began = time.monotonic()
    applications = []
    with ExitStack() as stopping:
        for system in SYSTEMS:
            words = ["--dsn", dsns[system], "--rate", rate, "--seconds", seconds, "--seed", seed, "--attached"]
            command = [sys.executable, "-m", f"examples.reference.{system}_app", *map(str, words)]
            applications.append(Application(system, command, HOME / "demo" / f"{system}_app.log"))
            stopping.callback(applications[-1].end)
        while any(application.working for application in applications):
            time.sleep(0.2)
        stopping.pop_all()
        summaries = [application.end() for application in applications]
    arrived, last = -1.0, time.monotonic()
    while time.monotonic() < last + DRAINED_SECONDS:
        time.sleep(0.2)
        now = sum(max(each.values(), default=0.0) for each in concord.latencies(concord.scrape(), DIRECTIONS).values())
        if now != arrived:
            arrived, last = now, time.monotonic()
    after = concord.scrape()
    histogram = added(*concord.latencies(after, DIRECTIONS).values())
    changes = sum(summary["changes"] for summary in summaries)
    return {
        "changes": changes,
        "transactions": sum(summary["transactions"] for summary in summaries),
        "changes_per_second": round(changes / (last - began)),
        "applications_cpu": sum(summary["cpu_seconds"] for summary in summaries),
        "p50_ms": round(1000 * quantile(histogram, 0.5), 1),
        "p99_ms": round(1000 * quantile(histogram, 0.99), 1),
        "batches": {part: _batches(before, after, part) for part in ("streams", "sink")},
    }


def _batches(before: Scrape, after: Scrape, part: str) -> dict[str, float]:
    """How many there were, and their mean size."""
    number, events = (
        after.total(f"concord_batch_size_{what}", part=part) - before.total(f"concord_batch_size_{what}", part=part)
        for what in ("count", "sum")
    )
    return {"number": number, "mean": round(events / number, 1) if number else 0.0}


def measured(phase: str, args: argparse.Namespace, state: StackState, concord: Concord, dsns: Mapping[str, str]) -> dict[str, Any]:
    cpu = Cpu(state, concord)
    before, threads = cpu.seconds(), cpu.threads()
    profiles = []
    for wanted in args.profile or ():
        part, _, file = wanted.partition("=")
        words = f"record --gil --format raw -r 400 -p {cpu.parts[part]} -d {int(args.seconds)} -o".split()
        profiles.append(subprocess.Popen(["py-spy", *words, f"{file}.{phase}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    assert state.kafka is not None
    if phase == "idle":
        found = idle(dsns, state.kafka.bootstrap, IDLE_CHANGES)
    else:
        found = work(concord, dsns, FULL if phase == "max" else float(phase), args.seconds, args.seed)
    for profile in profiles:
        profile.wait()
    after, threads_after = cpu.seconds(), cpu.threads()
    spent = {name: round(1e6 * (threads_after[name] - threads.get(name, 0.0)) / found["changes"]) for name in threads_after}
    most = dict(sorted(((name, us) for name, us in spent.items() if us > 10), key=lambda item: -item[1])[:16])
    used = {name: round(1e6 * (after[name] - before[name]) / found["changes"]) for name in before}
    return {**found, "cpu_us_per_change": used, "cpu_us": sum(used.values()), "threads": most}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.stages", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--phases", default="idle,200,max", help="idle, max, or changes/s on each side")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long the applications work")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile", action="append", metavar="PART=FILE", help="py-spy's raw stacks of that part, per phase")
    args = parser.parse_args(argv)
    with ExitStack() as stack:
        state = stack.enter_context(running(HOME, run="bench-stages", ephemeral=True))
        assert state.kafka is not None
        servers = dict(zip(SYSTEMS, (state.postgres[0], state.postgres[-1]), strict=True))
        dsns = {system: fresh_database(servers[system].dsn, f"stages_{system}") for system in SYSTEMS}
        stack.callback(drop_databases, {f"stages_{system}": servers[system].dsn for system in SYSTEMS})
        drop_topics(state.kafka.bootstrap, SYSTEMS, list(ENTITIES))
        with psycopg.connect(dsns["crm"]) as crm, psycopg.connect(dsns["erp"]) as erp:
            load.create(crm, erp)
            load.load(crm, erp, args.seed)
        environment = {f"{system.upper()}_DSN": our_login(dsn) for system, dsn in dsns.items()}
        concord = pipeline("stages", CONFIG, environment, state.kafka.bootstrap)
        stack.callback(shutil.rmtree, concord.run_dir, True)
        concord.grant(dsns)
        stack.callback(concord.down)
        concord.up()
        concord.settle(180.0)
        work(concord, dsns, 100.0, WARM_SECONDS, args.seed + 1)
        for phase in args.phases.split(","):
            print(json.dumps({"phase": phase, **measured(phase, args, state, concord, dsns)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
