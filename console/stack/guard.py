"""The process that starts a run's servers, watches them, and ends them: `python -m console.stack guard FOLDER`.

No server outlives what it was started for, however that ends:

    command ──holds──▶ in-use (shared lock) ◀──waits for (exclusive)── guard ──parent of──▶ Kafka, PostgreSQL …

- A command that uses the run holds a shared lock on `in-use`. The kernel lets go of it when the command ends, kill -9 included. The
  guard waits for the exclusive lock: when it gets that, nobody uses the run any more, and it stops all.
- SIGUSR1 makes a run a *kept* one (`concord stack up`, once all is up): it stays until SIGTERM (`concord stack down`).
- A guard that is killed takes the servers with it: each asked the kernel for a signal at its parent's death (Linux).

The guard writes to its standard output, one JSON object a line, `{"say": …}` while it sets up, then `{"ready": true}` or
`{"failed": why}`; nothing after that. It has a session of its own, so that Ctrl-C in a terminal reaches the command, which then
tidies up, and not the servers.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import logging
import os
import pwd
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path
from typing import Any

from console.stack import kafka, postgres, secure
from console.stack.state import KafkaState, PostgresState, Spec, StackError, StackState, open_lock, try_lock, write_json

logger = logging.getLogger(__name__)

START_SECONDS = 90.0  # for all servers together; a slow disk, a machine with better things to do
STOP_SECONDS = 20.0  # for a tidy end, then it is killed
ATTEMPTS = 3  # a port that was free when it was chosen may be taken when the server wants it


class Event(Enum):
    STOP = auto()  # we were told to
    KEEP = auto()  # run until told to stop
    UNUSED = auto()  # the last command that used the run has ended
    CHILD = auto()  # a server has ended


@dataclass
class Server:
    name: str  # "kafka", "postgres-15"
    process: subprocess.Popen[bytes]
    ready: Callable[[], bool]
    log: Path
    stop_signal: signal.Signals
    kill_signal: signal.Signals


class Guard:
    def __init__(self, spec: Spec, say: Callable[[str], None]) -> None:
        self.spec = spec
        self.folder = spec.folder
        self.data = Path(spec.data)
        self.secure = Path(spec.secure) if spec.secure else None
        self.say = say
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.servers: list[Server] = []
        self.kept = False

    # 1. set up what a first start needs, all at the same time

    def set_up(self, ports: dict[str, int]) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        steps: list[tuple[str, Path, subprocess.Popen[bytes], Path]] = []
        if self.spec.kafka:
            where = (self.folder / "kafka", ports["kafka"], ports["controller"])
            properties = kafka.settings(*where, secure.kafka_settings(self.secure, *where) if self.secure else {})
            (self.folder / "kafka.properties").write_text(properties)
            if self._is_new(self.folder / "kafka"):
                command = kafka.format_command(Path(self.spec.home), self.folder)
                steps.append(self._step("kafka", self.folder / "kafka", command, None))
        for major, binaries in zip(self.spec.postgres, self.spec.binaries, strict=True):
            data = self.data / f"postgres-{major}"
            if self._is_new(data):
                data.mkdir(mode=0o700)
                if self.spec.user:
                    shutil.chown(data, self.spec.user)
                command = postgres.initdb_command(Path(binaries), data, self.spec.fsync)
                steps.append(self._step(f"postgres-{major}", data, command, self.spec.user))
        deadline = time.monotonic() + START_SECONDS
        for name, data, process, log in steps:
            while process.poll() is None and time.monotonic() < deadline:
                self._pause()
            if process.returncode != 0:  # None: not in time, and it ends with us
                raise StackError(f"{name} could not be set up in {data}:\n{_tail(log)}")
            _made(data).touch()
        for major in self.spec.postgres:
            data = self.data / f"postgres-{major}"
            more = secure.postgres_settings(self.secure, data, self.spec.user) if self.secure else ""
            (data / "postgresql.conf").write_text(postgres.settings(major, self.spec.fsync) + more)

    def _is_new(self, data: Path) -> bool:
        """Whether the data are still to be made; a set-up that did not come to its end is thrown away."""
        if _made(data).exists() and data.is_dir():
            return False
        _made(data).unlink(missing_ok=True)
        shutil.rmtree(data, ignore_errors=True)
        return True

    def _step(self, name: str, data: Path, command: list[str], user: str | None) -> tuple[str, Path, subprocess.Popen[bytes], Path]:
        self.say(f"{name}: making its data folder")
        log = self.folder / f"{name}.log"
        return name, data, self._start(command, log, user, signal.SIGKILL), log

    # 2. start all, wait until each answers

    def start(self) -> StackState:
        for attempt in range(ATTEMPTS):
            ports = self._ports()
            self.set_up(ports)
            try:
                self._start_servers(ports)
                return self._state(ports)
            except StackError as error:
                self.stop()
                taken = [name for name, port in ports.items() if not _is_free(port)]
                if not taken or attempt == ATTEMPTS - 1:
                    raise
                logger.warning("%s; taken meanwhile: %s, choosing other ports", error, taken)
        raise AssertionError("unreachable")

    def _start_servers(self, ports: dict[str, int]) -> None:
        home, user = Path(self.spec.home), self.spec.user
        tidy = not self.spec.ephemeral
        if self.spec.kafka:
            log, port = self.folder / "kafka.log", ports["kafka"]
            gentle = signal.SIGTERM if tidy else signal.SIGKILL
            process = self._start(kafka.run_command(home, self.folder), log, None, gentle)
            answers = secure.kafka_answers if self.secure else kafka.answers
            self.servers.append(Server("kafka", process, lambda: answers(port), log, gentle, signal.SIGKILL))
        for major, binaries in zip(self.spec.postgres, self.spec.binaries, strict=True):
            data, name = self.data / f"postgres-{major}", f"postgres-{major}"
            log = self.folder / f"{name}.log"
            gentle = signal.SIGINT if tidy else signal.SIGQUIT  # fast: ends the sessions; immediate: as in a crash
            process = self._start(postgres.run_command(Path(binaries), data, ports[name]), log, user, gentle)
            self.servers.append(
                Server(name, process, lambda data=data, pid=process.pid: postgres.is_ready(data, pid), log, gentle, signal.SIGQUIT)  # type: ignore[misc]
            )
        deadline = time.monotonic() + START_SECONDS
        for server in self.servers:
            self.say(f"{server.name}: starting")
            while not server.ready():
                if server.process.poll() is not None:
                    raise StackError(f"{server.name} ended while it started (status {server.process.returncode}):\n{_tail(server.log)}")
                if time.monotonic() > deadline:
                    raise StackError(f"{server.name} did not answer in {START_SECONDS:g} s:\n{_tail(server.log)}")
                self._pause()

    def _pause(self) -> None:
        """A moment, while starting; being told to stop ends it."""
        with contextlib.suppress(queue.Empty):
            if self.events.get(timeout=0.02) is Event.STOP:
                raise StackError("told to stop before all was up")

    def _start(self, command: list[str], log: Path, user: str | None, at_our_death: signal.Signals) -> subprocess.Popen[bytes]:
        options: dict[str, Any] = {}
        if user:
            account = pwd.getpwnam(user)
            options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PG")
        }  # PGDATA, PGOPTIONS … are not for our servers
        with log.open("ab") as out:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.data if user else self.folder,
                env=environment,
                preexec_fn=_signal_at_parents_death(at_our_death),
                **options,
            )

    def _ports(self) -> dict[str, int]:
        """The ports of the last time where they are free, else free ones."""
        names = ["kafka", "controller"] if self.spec.kafka else []
        names += [f"postgres-{major}" for major in self.spec.postgres]
        remembered: dict[str, int] = {}
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            remembered = json.loads((self.folder / "ports.json").read_text())
        with _free_ports() as free:
            ports = {name: port if (port := remembered.get(name)) and _is_free(port) else next(free) for name in names}
        write_json(self.folder / "ports.json", ports)
        return ports

    def _state(self, ports: dict[str, int]) -> StackState:
        kafka_state, postgres_states = None, []
        for server in self.servers:
            port, pid, log = ports[server.name], server.process.pid, str(server.log)
            if server.name == "kafka":
                kafka_state = KafkaState(kafka.VERSION, f"127.0.0.1:{port}", port, pid, log)
            else:
                major = int(server.name.removeprefix("postgres-"))
                version = self.spec.versions[self.spec.postgres.index(major)]
                postgres_states.append(PostgresState(version, major, f"postgresql://postgres@127.0.0.1:{port}/postgres", port, pid, log))
        return StackState(self.spec.run, os.getpid(), self.kept, kafka_state, tuple(postgres_states))

    # 3. watch until it is time to end

    def watch(self, state: StackState) -> None:
        threading.Thread(target=self._wait_until_unused, daemon=True).start()
        while (event := self.events.get()) is not Event.STOP:
            if event is Event.KEEP:
                self.kept = True
                write_json(self.folder / "state.json", replace(state, kept=True).as_json())
            elif event is Event.UNUSED and not self.kept:
                logger.info("no command uses this run any more")
                return
            elif event is Event.CHILD:
                for server in self.servers:
                    if server.process.poll() is not None:
                        logger.error("%s ended with status %s", server.name, server.process.returncode)
        logger.info("told to stop")

    def _wait_until_unused(self) -> None:
        lock = open_lock(self.folder / "in-use")
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.close(lock)
        self.events.put(Event.UNUSED)

    # 4. end all

    def stop(self) -> None:
        for server in self.servers:
            if server.process.poll() is None:
                server.process.send_signal(server.stop_signal)
        deadline = time.monotonic() + STOP_SECONDS
        for server in self.servers:
            try:
                server.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.warning("%s did not end in %g s and is killed", server.name, STOP_SECONDS)
                server.process.send_signal(server.kill_signal)
                server.process.wait(STOP_SECONDS)
        self.servers.clear()


def _made(data: Path) -> Path:
    """Stands beside a data folder whose making came to its end."""
    return data.with_name(f"{data.name}.made")


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port in TIME_WAIT is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@contextlib.contextmanager
def _free_ports() -> Iterator[Iterator[int]]:
    """Ports that nobody has, all different, held until the block ends."""
    with contextlib.ExitStack() as held:

        def ports() -> Iterator[int]:
            while True:
                probe = held.enter_context(socket.socket())
                probe.bind(("127.0.0.1", 0))
                yield probe.getsockname()[1]

        yield ports()


def free_port() -> int:
    """One port that nobody has just now."""
    with _free_ports() as ports:
        return next(ports)


def _signal_at_parents_death(number: signal.Signals) -> Callable[[], None] | None:
    """To be called in a new process before it becomes a program: a guard that is killed takes its servers along."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(1, number, 0, 0, 0)  # 1: PR_SET_PDEATHSIG; set after the change of user, which would clear it


def main(folder: Path) -> int:
    spec = Spec.load(folder)
    lock = open_lock(folder / "guard.lock")
    if not try_lock(lock, fcntl.LOCK_EX):
        print(json.dumps({"failed": f"another guard has {folder}"}), flush=True)
        return 1
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s", filename=folder / "guard.log")

    def tell(**message: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # whoever asked has gone: the lock will tell
            print(json.dumps(message), flush=True)

    guard = Guard(spec, lambda text: tell(say=text))
    for number, event in (
        (signal.SIGTERM, Event.STOP),
        (signal.SIGINT, Event.STOP),
        (signal.SIGUSR1, Event.KEEP),
        (signal.SIGCHLD, Event.CHILD),
    ):
        signal.signal(number, lambda *_, event=event: guard.events.put(event))
    status = 0
    try:
        state = guard.start()
        logger.info("ready: %s", state)
        write_json(folder / "state.json", state.as_json())
        tell(ready=True)
        guard.watch(state)
    except StackError as error:
        logger.error("%s", error)
        tell(failed=str(error))
        status = 1
    finally:
        guard.stop()
        (folder / "state.json").unlink(missing_ok=True)
        if spec.ephemeral:
            for path in {folder, Path(spec.data)}:
                shutil.rmtree(path, ignore_errors=True)
    logger.info("stopped")
    return status
