"""Kafka and two PostgreSQL servers of a run's own, that can be killed at any instant and started again on their data.

Made of the same pieces as the embedded stack (`console.stack`), whose guard would take a killed server for the end. They end with this
process, however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from console.stack import TWO_MAJORS, free_port
from console.stack import kafka as kafka_server
from console.stack import postgres as postgres_server
from tests.chaos import clock

START_SECONDS = 180.0
_starter = ThreadPoolExecutor(1, "starts servers")
SYSTEMS = ("crm", "erp")


class Server:
    """One server process, and the command that starts it."""

    def __init__(
        self,
        name: str,
        command: list[str],
        folder: Path,
        ready: Callable[[int], bool],
        user: str | None = None,
        more: Mapping[str, str] = MappingProxyType({}),  # of its environment
    ) -> None:
        self.name, self._command, self._folder, self._ready, self._user, self._more = name, command, folder, ready, user, more
        self.log = Log(folder.parent / f"{name}.log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Through a thread that lives as long as we do: what `_die_with_us` asks for happens when the *thread* that started it ends."""
        _starter.submit(self._start).result()

    def _start(self) -> None:
        options: dict[str, Any] = {}
        if self._user:
            account = pwd.getpwnam(self._user)
            options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")} | dict(self._more)
        with self.log.file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=environment,
                preexec_fn=_die_with_us,
                **options,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._ready(self._process.pid):
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with status {self._process.returncode} while it started: see {self.name}.log")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not answer in {START_SECONDS:g} s")
            time.sleep(0.02)

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> int | None:
        """SIGKILL, of all its processes. Returns when they are gone: a PostgreSQL does not start beside what is left of the one before.

        Returns its pid; None when it was not running.
        """
        if self._process is not None and self._process.poll() is None:
            children = psutil.Process(self._process.pid).children(recursive=True)
            self._process.kill()
            self._process.wait()
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            psutil.wait_procs(children, timeout=START_SECONDS)
            return self._process.pid
        return None


class Log:
    """What a server has written."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def count(self, text: str) -> int:
        """How often it says so."""
        try:
            return self.file.read_bytes().count(text.encode())
        except FileNotFoundError:
            return 0


def _die_with_us() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG; set after the change of user, which would clear it


class Servers:
    """`kafka_port` is what clients are told: a proxy's. `place` makes the folder of Kafka's data. `ahead`: seconds by which a database
    server's clock is ahead, where clocks can be shifted; else `lacks` says why they cannot."""

    def __init__(
        self,
        home: Path,
        kafka_port: int,
        place: Callable[[Path], object] = Path.mkdir,
        ahead: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.user = postgres_server.unprivileged()
        self._folder = Path(tempfile.mkdtemp(prefix="concord-chaos-"))
        if self.user:
            shutil.chown(self._folder, self.user)
        made = clock.library(self._folder)
        self.lacks = made if isinstance(made, str) else None
        self.clocks = {} if isinstance(made, str) else {system: clock.Clock(self._folder / f"{system}.clock") for system in SYSTEMS}
        for system, shifted in self.clocks.items():
            shifted.step(ahead.get(system, 0.0))
        self._library = made
        self.ports = {"kafka": free_port(), "controller": free_port(), **{system: free_port() for system in SYSTEMS}}
        self._servers = {"kafka": self._kafka(home, kafka_port, place)}
        installs = postgres_server.choose(TWO_MAJORS, postgres_server.installs())
        for system, install in zip(SYSTEMS, (installs[0], installs[-1]), strict=True):
            self._servers[system] = self._postgres(system, postgres_server.reachable(install, home, self.user), install.major)

    def __enter__(self) -> Servers:
        try:
            for server in self._servers.values():
                server.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers.values():
            server.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def folder(self) -> Path:
        return self._folder

    def restart(self, name: str, away: float = 0) -> int | None:
        """SIGKILL, and up again on what is on the disk, `away` seconds later. Returns the pid of the one that was killed, if it ran."""
        pid = self._servers[name].kill()
        time.sleep(away)
        self._servers[name].start()
        return pid

    def runs(self, name: str) -> bool:
        return self._servers[name].runs

    def log(self, name: str) -> Log:
        return self._servers[name].log

    def dsn(self, system: str, port: int | None = None, database: str = "reference") -> str:
        return f"postgresql://postgres@127.0.0.1:{port or self.ports[system]}/{database}"

    def _kafka(self, home: Path, advertised: int, place: Callable[[Path], object]) -> Server:
        folder, port = self._folder / "kafka", self.ports["kafka"]
        folder.mkdir()
        place(folder / "data")
        settings = kafka_server.settings(folder / "data", port, self.ports["controller"])
        settings = settings.replace(
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{port}", f"advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}"
        )
        (folder / "kafka.properties").write_text(settings + "\n", "utf-8")
        subprocess.run(kafka_server.format_command(home, folder), check=True, capture_output=True, cwd=folder)
        return Server("kafka", kafka_server.run_command(home, folder), folder, lambda _: kafka_server.answers(port))

    def _postgres(self, system: str, binaries: Path, major: int) -> Server:
        data = self._folder / system
        data.mkdir(mode=0o700)
        options: dict[str, Any] = {}
        if self.user:
            shutil.chown(data, self.user)
            account = pwd.getpwnam(self.user)
            options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        subprocess.run(postgres_server.initdb_command(binaries, data, True), check=True, capture_output=True, cwd=data, **options)
        # a slot that somebody forgot must not fill the disk, and the referee's deadlocks are meant
        (data / "postgresql.conf").write_text(postgres_server.settings(major, True) + "deadlock_timeout = '200ms'\n", "utf-8")
        command = postgres_server.run_command(binaries, data, self.ports[system])
        more = {} if isinstance(self._library, str) else self.clocks[system].environment(self._library)
        return Server(system, command, data, lambda pid: postgres_server.is_ready(data, pid), self.user, more)
