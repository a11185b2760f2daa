"""`make demo-tryton`: Tryton, a real ERP, and the reference CRM kept in agreement, and the proof at the end that they agree.

    Tryton's own venv ▶ its database ▶ load ▶ concord up ▶ people work in both ▶ Tryton's schema is migrated, the CRM works on
    ▶ people work in both ▶ nothing in flight ▶ does Tryton go on by itself? ▶ verify ▶ what Tryton's client says

Exit status: 0 when all is equal, Tryton had no error and its own next things got the next numbers; 1 when not, 2 when it could not run.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
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
from examples.reference.people import pool
from examples.tryton.agree import compare, crm_says, shipped_as_agreed, tryton_says
from examples.tryton.crm_app import Loaded
from examples.tryton.installation import LATER, Tryton, tryton_python

HERE = Path(__file__).parent
DIRECTIONS = (("crm", "tryton"), ("tryton", "crm"))
ENTITIES = ("customer", "contact", "product", "stock_level", "sales_order", "order_line", "invoice")
CRM_DATABASE, TRYTON_DATABASE = "concord_demo_tryton_crm", "concord_demo_tryton"
CUSTOMERS = 100  # on each side, to begin with
SNAPSHOT_SECONDS, SETTLE_SECONDS = 240.0, 180.0
DAY = 86_400  # longer than any demo: whoever works so long is stopped


@dataclass
class Demo:
    """What is running."""

    args: argparse.Namespace
    console: Console
    tryton: Tryton
    crm_dsn: str
    concord: Concord

    # ---- people
    def crm(self) -> Application:
        words = ["--rate", self.args.rate, "--seconds", DAY, "--seed", self.args.seed, "--progress", "--attached"]
        command = [sys.executable, "-m", "examples.tryton.crm_app", "--dsn", self.crm_dsn, *map(str, words)]
        return Application("crm", command, HOME / "demo" / "crm_app.log")

    def desk(self, program: str, seconds: float, rate: float) -> Application:
        command = self.tryton.command(program, "--seconds", seconds, "--rate", rate, "--attached")
        return Application(program, command, HOME / "demo" / f"tryton_{program}.log", self.tryton.environment())

    def at_the_desks(self, seconds: float, crm: Application) -> list[dict[str, Any]]:
        """Tryton's people at work for that long, while the CRM's are; their summaries."""
        with ExitStack() as stopping:
            desks = []
            for program, rate in (("office", self.args.tryton_rate), ("orders", 2.0)):
                desks.append(self.desk(program, seconds, rate))
                stopping.callback(desks[-1].end)
            watch(self.console, self.concord, [crm, *desks], DIRECTIONS, lambda: not any(desk.working for desk in desks))
            stopping.pop_all()
            return [desk.end() for desk in desks]

    def migrate(self, crm: Application) -> None:
        """New columns in tables that are captured. Tryton is down for that long, as its manual wants it; the CRM works on."""
        began = time.monotonic()
        say(self.console, f"Tryton is migrated: {', '.join(LATER)} …")
        with ThreadPoolExecutor(1) as administrator:
            migrated = administrator.submit(self.tryton.activate, self.tryton.database, LATER)
            watch(self.console, self.concord, [crm], DIRECTIONS, migrated.done)
            migrated.result()
        say(self.console, f"  migrated in {time.monotonic() - began:.0f} s")

    def work(self) -> list[dict[str, Any]]:
        with ExitStack() as stopping:
            crm = self.crm()
            stopping.callback(crm.end)
            summaries = self.at_the_desks(self.args.seconds / 2, crm)
            self.migrate(crm)
            summaries += self.at_the_desks(self.args.seconds / 2, crm)
            stopping.pop_all()
            return [crm.end(), *summaries]

    # ---- the proof
    def goes_on(self) -> list[str]:
        """Tryton's own next party and sale get the numbers after the last ones, and it does not save over what Concord wrote."""
        with psycopg.connect(self.crm_dsn, autocommit=True) as crm, psycopg.connect(self.tryton.dsn, autocommit=True) as tryton:
            account = one(
                crm, "SELECT id, customer_no FROM account WHERE customer_no IS NOT NULL AND is_active ORDER BY created_at LIMIT 1"
            )
            last = one(tryton, "SELECT (SELECT max(code_digit) FROM party_party), (SELECT max(number::int) FROM sale_sale)")
            program = Application(
                "go_on", self.tryton.command("go_on", "--party", account[1]), HOME / "demo" / "go_on.log", self.tryton.environment()
            )
            with ExitStack() as stopping:
                stopping.callback(program.end)
                self.wait_for(lambda: "read" in program.last or not program.working, "Tryton does not read a party")
                crm.execute("UPDATE account SET name = name || ' & Co.', updated_at = clock_timestamp() WHERE id = %s", [account[0]])
                self.concord.settle(SETTLE_SECONDS)
                assert program.process.stdin is not None
                program.process.stdin.write("\n")
                program.process.stdin.flush()
                self.wait_for(lambda: not program.working, "Tryton does not save its next things")
                stopping.pop_all()
                told = program.end()
        say(
            self.console,
            f"Tryton by itself: the next party is number {told['party']} after {last[0]}, the next sale {told['sale']} after {last[1]}",
        )
        problems = [f"Tryton saved a form over what Concord had written to party {account[1]}"] if told["saved_over"] else []
        for what, after in (("party", last[0]), ("sale", last[1] or 0)):
            if told[what] != str(after + 1):
                problems.append(f"Tryton's next {what} got number {told[what]} after {after}")
        return problems

    def wait_for(self, reached: Any, otherwise: str) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while not reached():
            if time.monotonic() > deadline:
                raise DemoError(otherwise)
            time.sleep(0.1)


def one(conn: psycopg.Connection[Any], query: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row


def demo(args: argparse.Namespace, console: Console) -> int:
    began = time.monotonic()
    (HOME / "demo").mkdir(parents=True, exist_ok=True)
    with ExitStack() as running:
        python = tryton_python(console)
        say(console, "Kafka and two PostgreSQL servers …")
        state = running.enter_context(stack())
        if state.kafka is None:
            raise DemoError("the stack has no Kafka")
        tryton = Tryton(python, state.postgres[-1].dsn, TRYTON_DATABASE, HOME / "demo", args.seed)
        crm_dsn = fresh_database(state.postgres[0].dsn, CRM_DATABASE)
        drop_topics(state.kafka.bootstrap, ("crm", "tryton"), ENTITIES)
        tryton.new_database(console)
        if not args.keep:
            running.callback(drop_databases, {CRM_DATABASE: state.postgres[0].dsn, TRYTON_DATABASE: state.postgres[-1].dsn})
        say(console, f"Tryton {tryton.version} on PostgreSQL {state.postgres[-1].version}, the CRM on {state.postgres[0].version}")
        fill(args, console, tryton, crm_dsn)

        dsns = {"crm": crm_dsn, "tryton": tryton.dsn}
        environment = {**{f"{system.upper()}_DSN": our_login(dsn) for system, dsn in dsns.items()}, **tryton.facts()}
        concord = pipeline("tryton", HERE / "concord.yaml", environment, state.kafka.bootstrap)
        running.callback(shutil.rmtree, concord.run_dir, True)
        concord.grant(dsns)
        running.callback(concord.down)
        concord.up()
        say(console, f"concord up (log: {concord.log}); initial snapshot …")
        snapshot = time.monotonic()
        concord.settle(SNAPSHOT_SECONDS)
        say(console, f"both sides hold the same after {time.monotonic() - snapshot:.0f} s; now people begin to work")

        running_demo = Demo(args, console, tryton, crm_dsn, concord)
        concord.mark(DIRECTIONS)
        for summary in running_demo.work():
            say(console, f"{summary['application']}: {summary['changes']:,} changes: {summary['actions']}")
        stopped = time.monotonic()
        concord.settle(SETTLE_SECONDS)
        say(console, f"nothing in flight {time.monotonic() - stopped:.1f} s after they stopped")
        latencies = concord.latencies(concord.scrape(), DIRECTIONS)
        problems = running_demo.goes_on()
        concord.settle(SETTLE_SECONDS)
        say(console, "concord verify, and Tryton's own client …")
        _, verified = concord.ask("verify")
        second, found = second_opinion(tryton.ask("look"), crm_dsn)
        say(console, "stopping …")
        if ended := concord.down():
            problems.append(f"concord up ended with status {ended}")
    console.print(result_table(verified, second, "by Tryton's own client"))
    console.print(latency_table(latencies))
    failed = verdict(console, verified, problems + found, args.show)
    say(console, f"{time.monotonic() - began:.0f} s in all")
    return failed


def fill(args: argparse.Namespace, console: Console, tryton: Tryton, crm_dsn: str) -> None:
    """Both sides as if they had been in use before."""
    people = pool(args.seed)
    with psycopg.connect(crm_dsn) as crm:
        crm.execute((load.HERE / "crm.sql").read_bytes())
        loaded = load.fill(crm, Loaded(people, random.Random(f"load {args.seed}"), args.customers / load.CUSTOMERS).crm())
    say(console, "crm: " + ", ".join(f"{rows:,} {table}" for table, rows in loaded.items()))
    began = time.monotonic()
    entered = tryton.ask("office", "--load", args.customers)
    told = ", ".join(f"{count:,} {what}" for what, count in entered.items())
    say(console, f"tryton: {told}, entered in {time.monotonic() - began:.0f} s")


def second_opinion(told: Mapping[str, Any], crm_dsn: str) -> tuple[dict[str, str], list[str]]:
    """What Tryton's users see, against the CRM: per entity in words, and each difference."""
    with psycopg.connect(crm_dsn) as crm:
        found = compare(crm_says(crm), tryton_says(told))
    drafts = found.pop("draft")
    words = {name: agreement.in_words() for name, agreement in found.items()}
    words |= {"order_line": "with its order", "stock_level": "with its product"}
    problems = [problem for agreement in (*found.values(), drafts) for problem in agreement.differing + agreement.missing]
    return words, problems + shipped_as_agreed(told) + [f"Tryton shows an error: {error}" for error in told["errors"]]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.tryton.demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=40.0, help="how long people work, the migration not counted")
    parser.add_argument("--rate", type=float, default=20.0, help="row changes a second in the CRM")
    parser.add_argument("--tryton-rate", type=float, default=4.0, help="saves a second in Tryton's back office")
    parser.add_argument("--customers", type=int, default=CUSTOMERS, help="on each side before anything is synchronised")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the two databases afterwards, to look into")
    parser.add_argument("--show", type=int, default=20, help="name so many problems")
    return run_demo(demo, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
