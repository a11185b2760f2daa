"""`make demo-tryton`: Tryton, a real ERP, and the reference CRM kept in agreement, and the proof at the end that they agree.

    Tryton's own venv ▶ its database ▶ load ▶ concord up ▶ people work in both ▶ nothing in flight ▶ verify ▶ what Tryton says

Exit status: 0 when all is equal, Tryton had no error and its own next party got the next number; 1 when not, 2 when it could not run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from rich.console import Console

from examples.drive import (
    HOME,
    ROOT,
    Application,
    Concord,
    DemoError,
    drop_database,
    drop_topics,
    fresh_database,
    latency_table,
    result_table,
    run_demo,
    run_name,
    say,
    stack,
    verdict,
    watch,
)
from examples.reference import load
from examples.reference.people import file_of, pool

HERE = Path(__file__).parent
VENV = HOME / "tryton-venv"
DIRECTIONS = (("crm", "tryton"), ("tryton", "crm"))
CRM_DATABASE, TRYTON_DATABASE = "concord_demo_tryton_crm", "concord_demo_tryton"
PARTIES = 400
INSTALL_SECONDS, INITIALISE_SECONDS = 600, 300
SNAPSHOT_SECONDS, SETTLE_SECONDS = 180.0, 120.0


def run(command: Sequence[str], seconds: float, environment: Mapping[str, str] = {}) -> str:
    """A command's standard output. Raises DemoError with its last words when it fails."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    if done.returncode:
        raise DemoError(f"{' '.join(map(str, command[:4]))} … ended with status {done.returncode}\n{(done.stderr or done.stdout)[-3000:]}")
    return done.stdout


def tryton_python(console: Console) -> Path:
    """The Python of Tryton's virtual environment, set up when it is not there or its requirements have changed."""
    wanted, stamp = (HERE / "requirements.txt").read_text("utf-8"), VENV / "installed"
    python = VENV / "bin" / "python"
    if not stamp.exists() or stamp.read_text("utf-8") != wanted:
        say(console, f"installing Tryton into {VENV.relative_to(ROOT)} …")
        run([sys.executable, "-m", "venv", "--clear", str(VENV)], INSTALL_SECONDS)
        run([str(python), "-m", "pip", "install", "--quiet", "-r", str(HERE / "requirements.txt")], INSTALL_SECONDS)
        stamp.write_text(wanted, "utf-8")
    return python


def uri(dsn: str) -> str:
    """Tryton wants a URI."""
    told = conninfo_to_dict(dsn)
    password = f":{quote(str(told['password']), safe='')}" if told.get("password") else ""
    host, port = str(told.get("host", "localhost")), told.get("port", 5432)
    place = f"{quote(str(told.get('user', 'postgres')), safe='')}{password}@{quote(host, safe='')}:{port}"
    return f"postgresql://{place}/{told.get('dbname', '')}"


class Tryton:
    """Tryton on the embedded PostgreSQL: its database, and its users."""

    def __init__(self, python: Path, server: str, folder: Path, seed: int) -> None:
        self.python, self.server, self.folder, self.seed = python, server, folder, seed
        self.config = folder / "trytond.conf"
        self.config.write_text(f"[database]\nuri = {uri(make_conninfo(server, dbname=''))}\n", "utf-8")
        self.dsn = ""

    @property
    def version(self) -> str:
        return run([str(self.python), "-c", "import trytond; print(trytond.__version__)"], 60).strip()

    def new_database(self, console: Console) -> None:
        """A fresh one with the module `party`, copied from a template that is made once per version: Tryton takes half a minute for it."""
        template = f"concord_tryton_{self.version.replace('.', '_')}"
        with psycopg.connect(self.server, autocommit=True) as admin:
            if not admin.execute("SELECT 1 FROM pg_database WHERE datname = %s AND datistemplate", [template]).fetchone():
                say(console, "setting up Tryton's database …")
                drop_database(admin, template)
                admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(sql.Identifier(template)))
                self.initialise(template)
                admin.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE true").format(sql.Identifier(template)))
            drop_database(admin, TRYTON_DATABASE)
            admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(TRYTON_DATABASE), sql.Identifier(template)))
        self.dsn = make_conninfo(self.server, dbname=TRYTON_DATABASE)

    def initialise(self, database: str) -> None:
        password = self.folder / "trytond.pass"
        password.write_text("demo\n", "utf-8")
        command = [str(self.python.with_name("trytond-admin")), "-c", str(self.config), "-d", database, "-u", "party"]
        run(
            [*command, "--activate-dependencies", "--email", "demo@example.com", "-l", "en"],
            INITIALISE_SECONDS,
            {"TRYTONPASSFILE": str(password)},
        )

    def sequence(self) -> str:
        """The SQL sequence that Tryton numbers parties from."""
        with psycopg.connect(self.dsn) as conn:
            row = conn.execute("SELECT 'ir_sequence_' || party_sequence FROM party_configuration_party_sequence").fetchone()
        assert row is not None
        return str(row[0])

    def command(self, *words: object) -> list[str]:
        app = [str(self.python), str(HERE / "party_app.py"), "--database", uri(self.dsn), "--config", str(self.config)]
        return [*app, "--people", str(file_of(self.seed)), "--seed", str(self.seed), *map(str, words)]

    def ask(self, *words: object) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(run(self.command(*words), 120).splitlines()[-1])
        return told


def demo(args: argparse.Namespace, console: Console) -> int:
    began = time.monotonic()
    folder = HOME / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as running:
        python = tryton_python(console)
        say(console, "Kafka and two PostgreSQL servers …")
        state = running.enter_context(stack())
        if state.kafka is None:
            raise DemoError("the stack has no Kafka")
        tryton = Tryton(python, state.postgres[-1].dsn, folder, args.seed)
        crm_dsn = fresh_database(state.postgres[0].dsn, CRM_DATABASE)
        drop_topics(state.kafka.bootstrap, ("crm", "tryton"), ["customer"])
        tryton.new_database(console)
        if not args.keep:
            running.callback(drop_databases, {CRM_DATABASE: state.postgres[0].dsn, TRYTON_DATABASE: state.postgres[-1].dsn})
        say(console, f"Tryton {tryton.version} on PostgreSQL {state.postgres[-1].version}, the CRM on {state.postgres[0].version}")
        people = pool(args.seed)
        with psycopg.connect(crm_dsn) as crm:
            crm.execute((load.HERE / "crm.sql").read_bytes())
            table = next(iter(load.Maker(people, random.Random(f"load {args.seed}"), 0.4).crm()))
            loaded = load.fill(crm, [table])
        say(console, f"{loaded['account']} accounts in the CRM, {tryton.ask('--load', PARTIES)['parties']} parties in Tryton")

        name = run_name()
        log = folder / "tryton.log"
        log.unlink(missing_ok=True)
        environment = {
            "CONCORD_NAME": name,
            "CONCORD_STATE_DIR": str(folder),
            "KAFKA_BOOTSTRAP": state.kafka.bootstrap,
            "CRM_DSN": crm_dsn,
            "TRYTON_DSN": tryton.dsn,
            "TRYTON_PARTY_SEQUENCE": tryton.sequence(),
        }
        concord = Concord(HERE / "concord.yaml", environment, log, folder / name)
        running.callback(shutil.rmtree, concord.run_dir, True)
        running.callback(concord.down)
        concord.up()
        say(console, f"concord up (log: {log}); initial snapshot …")
        concord.settle(SNAPSHOT_SECONDS)
        say(console, "both sides hold the same; now people begin to work")

        concord.mark(DIRECTIONS)
        words = ["--seconds", str(args.seconds), "--seed", str(args.seed), "--attached"]
        crm_app = [sys.executable, "-m", "examples.tryton.crm_app", "--dsn", crm_dsn, "--progress", "--rate", str(args.rate), *words]
        with ExitStack() as stopping:
            applications = []
            for application, command in (("crm", crm_app), ("tryton", tryton.command("--rate", args.tryton_rate, *words))):
                applications.append(Application(application, command, folder / f"{application}_app.log"))
                stopping.callback(applications[-1].end)
            watch(console, concord, applications, DIRECTIONS)
            stopping.pop_all()
            summaries = [application.end() for application in applications]
        for summary in summaries:
            say(console, f"{summary['application']}: {summary['changes']:,} changes: {summary['actions']}")
        concord.settle(SETTLE_SECONDS)
        latencies = concord.latencies(concord.scrape(), DIRECTIONS)
        problems = numbers_go_on(console, tryton)
        concord.settle(SETTLE_SECONDS)
        _, verified = concord.ask("verify")
        with psycopg.connect(crm_dsn) as crm:
            problems += what_tryton_says(tryton.ask("--list")["parties"], crm)
        say(console, "stopping …")
        if ended := concord.down():
            problems.append(f"concord up ended with status {ended}")
    console.print(result_table(verified, {}))
    console.print(latency_table(latencies))
    failed = verdict(console, verified, problems, args.show)
    say(console, f"{time.monotonic() - began:.0f} s in all")
    return failed


def drop_databases(servers: Mapping[str, str]) -> None:
    for name, server in servers.items():
        with psycopg.connect(server, autocommit=True) as admin:
            drop_database(admin, name)


def numbers_go_on(console: Console, tryton: Tryton) -> list[str]:
    """Tryton's own next party must get the number after the last one, whoever took that."""
    with psycopg.connect(tryton.dsn) as conn:
        row = conn.execute("SELECT max(code_digit), count(*) FROM party_party").fetchone()
    assert row is not None
    told = tryton.ask("--next")
    say(console, f"{row[1]} parties, the highest number is {row[0]}; the next party that Tryton itself saves gets {told['code']}")
    return [] if told["code"] == str(row[0] + 1) else [f"Tryton's next party got number {told['code']} after {row[0]}"]


def what_tryton_says(parties: Sequence[Sequence[Any]], crm: psycopg.Connection[Any]) -> list[str]:
    """A second opinion: what Tryton's own client sees, against the CRM, by number. An account deleted in the CRM is inactive in Tryton."""
    rows = crm.execute("SELECT customer_no, name, is_active FROM account WHERE type = 'customer'").fetchall()
    accounts = {number: (" ".join(name.split()), active) for number, name, active in rows}
    problems = [f"an account {name!r} has no number" for number, name, _ in rows if number is None]
    if len(accounts) != len(rows):
        problems.append(f"{len(rows)} accounts have {len(accounts)} numbers")
    for number, name, active in parties:
        account = accounts.pop(number, None)
        if account is None and active:
            problems.append(f"party {number} {name!r} has no account")
        elif account is not None and account != (" ".join((name or "").split()), active):
            problems.append(f"party {number} is {(name, active)} in Tryton and {account} in the CRM")
    return problems + [f"account {number} {account} has no party" for number, account in accounts.items() if number is not None]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.tryton.demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="how long people work")
    parser.add_argument("--rate", type=float, default=50.0, help="row changes a second in the CRM")
    parser.add_argument("--tryton-rate", type=float, default=15.0, help="saves a second in Tryton")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the two databases afterwards, to look into")
    parser.add_argument("--show", type=int, default=20, help="name so many problems")
    return run_demo(demo, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
