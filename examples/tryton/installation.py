"""Tryton set up to try things on: its own virtual environment, a template database with a company, databases copied from it, its programs.

requirements.txt ─▶ .concord/tryton-venv        made again when it changes
modules ▶ company.py ─▶ template database       made once for each version of Tryton, of this set-up and quarter (its fiscal year ends)
template ─▶ a fresh database for each run       a second
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from rich.console import Console

from examples.drive import HOME, ROOT, DemoError, drop_database, say
from examples.reference.people import file_of
from examples.tryton.names import CUSTOMERS, WORKS_FOR

HERE = Path(__file__).parent
VENV = HOME / "tryton-venv"
MODULES = ("sale", "party_relationship")  # they bring the rest
LATER = ("product_measurements",)  # activated while everything runs: new columns in tables that are captured
MADE_OF = ("company.py", "names.py", "requirements.txt", "installation.py")  # the template is made again when one of them changes
# clean_timeout 0: servers listen for what the others have changed, instead of asking every five minutes
CONFIG = "[database]\nuri = {uri}\n[cache]\nclean_timeout = 0\n"
INSTALL_SECONDS, INITIALISE_SECONDS, ASK_SECONDS = 900, 600, 180


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


def is_installed() -> bool:
    """Whether the virtual environment is there, and made of what is wanted now."""
    stamp = VENV / "installed"
    return stamp.exists() and stamp.read_text("utf-8") == (HERE / "requirements.txt").read_text("utf-8")


def tryton_python(console: Console) -> Path:
    """The Python of Tryton's virtual environment, set up when it is not there or its requirements have changed."""
    python = VENV / "bin" / "python"
    if not is_installed():
        say(console, f"installing Tryton into {VENV.relative_to(ROOT)} (a minute, once) …")
        run([sys.executable, "-m", "venv", "--clear", str(VENV)], INSTALL_SECONDS)
        run([str(python), "-m", "pip", "install", "--quiet", "-r", str(HERE / "requirements.txt")], INSTALL_SECONDS)
        (VENV / "installed").write_text((HERE / "requirements.txt").read_text("utf-8"), "utf-8")
    return python


def uri(dsn: str) -> str:
    """Tryton wants a URI."""
    told = conninfo_to_dict(dsn)
    password = f":{quote(str(told['password']), safe='')}" if told.get("password") else ""
    host, port = str(told.get("host", "localhost")), told.get("port", 5432)
    place = f"{quote(str(told.get('user', 'postgres')), safe='')}{password}@{quote(host, safe='')}:{port}"
    return f"postgresql://{place}/{told.get('dbname', '')}"


class Tryton:
    """Tryton on a PostgreSQL server: its database, and its users."""

    def __init__(self, python: Path, server: str, database: str, folder: Path, seed: int) -> None:
        self.python, self.server, self.database, self.seed = python, server, database, seed
        self.config, self.password = folder / "trytond.conf", folder / "trytond.pass"
        self.config.write_text(CONFIG.format(uri=uri(make_conninfo(server, dbname=""))), "utf-8")
        self.password.write_text("demo\n", "utf-8")
        self.dsn = make_conninfo(server, dbname=database)
        self.version = run([str(python), "-c", "import trytond; print(trytond.__version__)"], 60).strip()

    # ---- databases
    def new_database(self, console: Console) -> None:
        template = self.template(console)
        with psycopg.connect(self.server, autocommit=True) as admin:
            drop_database(admin, self.database)
            admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(self.database), sql.Identifier(template)))

    def template(self, console: Console) -> str:
        """The name of the template database; made when it is not there."""
        today = date.today()
        made_of = b"".join((HERE / name).read_bytes() for name in MADE_OF) + f"{self.version} {today.year} {today.month // 3}".encode()
        template = f"concord_tryton_{hashlib.sha256(made_of).hexdigest()[:12]}"
        with psycopg.connect(self.server, autocommit=True) as admin:
            if not admin.execute("SELECT 1 FROM pg_database WHERE datname = %s AND datistemplate", [template]).fetchone():
                say(
                    console,
                    f"a database for Tryton {self.version}: activating {', '.join(MODULES)} and what they need (two minutes, once) …",
                )
                drop_database(admin, template)
                admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(sql.Identifier(template)))
                self.activate(template, MODULES)
                self.set_up(console, template)
                admin.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE true").format(sql.Identifier(template)))
        return template

    def activate(self, database: str, modules: Sequence[str]) -> None:
        """What an administrator does; on a database that is in use it is a migration of its schema."""
        admin = [str(self.python.with_name("trytond-admin")), "-c", str(self.config), "-d", database]
        run(
            [*admin, "-u", *modules, "--activate-dependencies", "--email", "demo@example.com", "-l", "en"],
            INITIALISE_SECONDS,
            {"TRYTONPASSFILE": str(self.password)},
        )

    def set_up(self, console: Console, database: str) -> None:
        command = [str(self.python), "-m", "examples.tryton.company"]
        with subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **self.environment(database)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            for step in process.stdout:
                say(console, f"  {step.strip()} …")
            told = process.stderr.read()
        if process.returncode:
            raise DemoError(f"setting up a company in Tryton ended with status {process.returncode}\n{told[-3000:]}")

    # ---- programs
    def environment(self, database: str | None = None) -> dict[str, str]:
        return {
            "TRYTOND_DATABASE_URI": uri(make_conninfo(self.server, dbname=database or self.database)),
            "TRYTOND_CONFIG": str(self.config),
            "TRYTONPASSFILE": str(self.password),
        }

    def command(self, program: str, *words: object) -> list[str]:
        """One of the workloads of this folder."""
        people = ["--people", str(file_of(self.seed)), "--seed", str(self.seed)]
        return [str(self.python), "-m", f"examples.tryton.{program}", *people, *map(str, words)]

    def ask(self, program: str, *words: object) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(run(self.command(program, *words), ASK_SECONDS, self.environment()).splitlines()[-1])
        return told

    def facts(self) -> dict[str, str]:
        """What `concord.yaml` takes from the environment: keys that are this database's own."""
        asked = {
            "TRYTON_PARTY_SEQUENCE": "SELECT 'ir_sequence_' || party_sequence FROM party_configuration_party_sequence",
            "TRYTON_CUSTOMERS": f"SELECT id::text FROM party_category WHERE name = '{CUSTOMERS}'",
            "TRYTON_WORKS_FOR": f"SELECT id::text FROM party_relation_type WHERE name = '{WORKS_FOR}'",
        }
        with psycopg.connect(self.dsn) as conn:
            return {name: str(conn.execute(query.encode()).fetchone()[0]) for name, query in asked.items()}  # type: ignore[index]
