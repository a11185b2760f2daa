"""`make demo`: a CRM and an ERP kept in agreement, live, for a minute, and the proof at the end that they agree.

    stack ▶ two databases ▶ load ▶ concord up ▶ snapshot settles ▶ both applications work ▶ they stop ▶ nothing in flight ▶ verify ▶ table

Exit status: 0 when all is equal and nothing is parked or dead, 1 when not, 2 when the demo could not run, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console

from examples.drive import (
    HOME,
    Application,
    Concord,
    DemoError,
    drop_databases,
    drop_topics,
    fresh_database,
    latency_table,
    our_login,
    pipeline,
    result_table,
    run_demo,
    say,
    stack,
    verdict,
    watch,
)
from examples.reference import load
from examples.reference.agree import ENTITIES, compare

HERE = Path(__file__).parent
SYSTEMS = ("crm", "erp")
DIRECTIONS = (("crm", "erp"), ("erp", "crm"))
DATABASES = {"crm": "concord_demo_crm", "erp": "concord_demo_erp"}
SNAPSHOT_SECONDS = 180.0  # a slow machine that also starts five Python processes
SETTLE_SECONDS = 120.0


def demo(args: argparse.Namespace, console: Console) -> int:
    began = time.monotonic()
    with ExitStack() as running:
        say(console, "Kafka and two PostgreSQL servers …")
        state = running.enter_context(stack())
        if state.kafka is None:
            raise DemoError("the stack has no Kafka")
        servers = dict(zip(SYSTEMS, (state.postgres[0], state.postgres[-1]), strict=True))
        dsns = {system: fresh_database(servers[system].dsn, DATABASES[system]) for system in SYSTEMS}
        if not args.keep:
            running.callback(drop_databases, {DATABASES[system]: servers[system].dsn for system in SYSTEMS})
        drop_topics(state.kafka.bootstrap, SYSTEMS, list(ENTITIES))
        say(
            console,
            f"Kafka {state.kafka.version}, the CRM on PostgreSQL {servers['crm'].version}, the ERP on {servers['erp'].version};"
            f" up after {time.monotonic() - began:.0f} s",
        )
        with psycopg.connect(dsns["crm"]) as crm, psycopg.connect(dsns["erp"]) as erp:
            load.create(crm, erp)
            loaded = load.load(crm, erp, args.seed)
        for side, tables in loaded.items():
            say(console, f"{side}: " + ", ".join(f"{rows:,} {table}" for table, rows in tables.items()))

        environment = {f"{system.upper()}_DSN": our_login(dsn) for system, dsn in dsns.items()}
        concord = pipeline("reference", HERE / "concord.yaml", environment, state.kafka.bootstrap)
        running.callback(shutil.rmtree, concord.run_dir, True)
        concord.grant(dsns)
        running.callback(concord.down)
        concord.up()
        say(console, f"concord up (log: {concord.log}); initial snapshot …")
        snapshot = time.monotonic()
        concord.settle(SNAPSHOT_SECONDS)
        say(console, f"both sides hold the same after {time.monotonic() - snapshot:.0f} s; now people begin to work")

        work = time.monotonic()
        summaries = work_for(args, console, concord, dsns)
        for summary in summaries:
            refused = ", ".join(f"{count} {why}" for why, count in summary["refused"].items())
            say(
                console,
                f"{summary['application']}: {summary['changes']:,} changes in {summary['transactions']:,} transactions,"
                f" {summary['rate']:.0f} a second" + (f" (refused: {refused})" if refused else ""),
            )
        concord.settle(SETTLE_SECONDS)
        say(console, f"nothing in flight {time.monotonic() - work - args.seconds:.1f} s after they stopped; concord verify …")
        latencies = concord.latencies(concord.scrape(), DIRECTIONS)
        _, verified = concord.ask("verify")
        with psycopg.connect(dsns["crm"]) as crm, psycopg.connect(dsns["erp"]) as erp:
            agreements = compare(crm, erp)
        say(console, "stopping …")
        ended = concord.down()
    console.print(result_table(verified, {name: agreement.in_words() for name, agreement in agreements.items()}))
    console.print(latency_table(latencies))
    problems = [problem for agreement in agreements.values() for problem in agreement.differing + agreement.missing]
    if ended:
        problems.append(f"concord up ended with status {ended}")
    failed = verdict(console, verified, problems, args.show)
    say(console, f"{time.monotonic() - began:.0f} s in all")
    return failed


def work_for(args: argparse.Namespace, console: Console, concord: Concord, dsns: Mapping[str, str]) -> list[dict[str, Any]]:
    """Both applications for `--seconds`, with a live line; their summaries."""
    concord.mark(DIRECTIONS)
    applications = []
    with ExitStack() as stopping:
        for system in SYSTEMS:
            words = ["--dsn", dsns[system], "--rate", args.rate, "--seconds", args.seconds, "--seed", args.seed, "--progress", "--attached"]
            command = [sys.executable, "-m", f"examples.reference.{system}_app", *map(str, words)]
            applications.append(Application(system, command, HOME / "demo" / f"{system}_app.log"))
            stopping.callback(applications[-1].end)
        watch(console, concord, applications, DIRECTIONS)
        stopping.pop_all()
        return [application.end() for application in applications]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.reference.demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the applications work")
    parser.add_argument("--rate", type=float, default=200.0, help="row changes a second, each side")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the two databases afterwards, to look into")
    parser.add_argument("--show", type=int, default=20, help="name so many problems")
    return run_demo(demo, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
