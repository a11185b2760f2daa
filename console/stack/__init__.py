"""The embedded stack: one Kafka and PostgreSQL servers without Docker, for trying out, for the demo and for tests.

    with stack.running(Path(".concord")) as state:      # ends with this process, however it ends
        state.kafka.bootstrap, state.postgres[0].dsn

    stack.up(Path(".concord"), progress=print)          # stays until
    stack.down(Path(".concord"))

Everything is in `home`, an ignored folder of the checkout (layout: state.py). Both calls use what already runs there. Ports are free
ones and remembered. Who starts and ends the servers: guard.py. Importing this starts nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from console.stack import kafka as _kafka
from console.stack import postgres as _postgres
from console.stack import secure as _secure
from console.stack.guard import START_SECONDS, STOP_SECONDS, free_port
from console.stack.postgres import TWO_MAJORS
from console.stack.state import (
    KafkaState,
    PostgresState,
    Spec,
    StackError,
    StackState,
    guarded,
    load_state,
    open_lock,
    runs,
    try_lock,
)

__all__ = [
    "DEFAULT_RUN",
    "TWO_MAJORS",
    "KafkaState",
    "PostgresState",
    "StackError",
    "StackState",
    "clean",
    "down",
    "free_port",
    "kafka_lacks",
    "postgres_lacks",
    "prepare",
    "running",
    "status",
    "up",
]

DEFAULT_RUN = "stack"
Progress = Callable[[str], None]


def _silent(_: str) -> None:
    pass


def kafka_lacks(home: Path) -> str | None:
    """What this machine misses to run Kafka, in words; None if nothing."""
    return _kafka.lacks(home)


def postgres_lacks() -> str | None:
    """The same for PostgreSQL."""
    return _postgres.lacks()


def prepare(home: Path, *, kafka: bool = True, postgres: Sequence[int | None] = TWO_MAJORS, progress: Progress = _silent) -> None:
    """Everything that needs the network or much time; quick when it is there already."""
    home = home.resolve()
    _postgres.choose(postgres, _postgres.installs())
    if kafka:
        _kafka.fetch(home, progress)


def up(
    home: Path,
    *,
    run: str = DEFAULT_RUN,
    kafka: bool = True,
    postgres: Sequence[int | None] = TWO_MAJORS,
    fsync: bool = True,
    progress: Progress = _silent,
) -> StackState:
    """Start the run's servers, or find them running; they stay until `down`.

    `postgres`: the major version of each server, None = the machine's own (else 16). Raises StackError with what to do.
    """
    home = home.resolve()
    with _used(home / run) as users:
        state = _up(home, run, kafka, postgres, fsync, ephemeral=False, progress=progress)
        if not state.kept:
            os.kill(state.guard_pid, signal.SIGUSR1)  # only now: had we been killed before, nothing would stay
            _wait(lambda: (now := load_state(home / run)) is not None and now.kept, 10, "the guard does not answer")
            state = replace(state, kept=True)
        users.close()
    return state


@contextlib.contextmanager
def running(
    home: Path,
    *,
    run: str = DEFAULT_RUN,
    kafka: bool = True,
    postgres: Sequence[int | None] = TWO_MAJORS,
    fsync: bool = True,
    ephemeral: bool = False,
    secure: Path | None = None,
    progress: Progress = _silent,
) -> Iterator[StackState]:
    """The run's servers for the length of the block: started unless they run, and ended with the last process that uses them (kill -9
    included) unless they are kept (`up`). `ephemeral`: leaves no folder behind. `secure`: a folder with certificates; nobody gets
    in without TLS and a password then (secure.py)."""
    home = home.resolve()
    folder = home / run
    if ephemeral:
        _forget_dead_runs(home)
    with _used(folder) as users:
        state = _up(home, run, kafka, postgres, fsync, ephemeral=ephemeral, progress=progress, secure=secure)
        try:
            yield state
        finally:
            was_last = users.close()
            if was_last and not ((now := load_state(folder)) and now.kept):
                _wait(lambda: _gone(state.guard_pid), STOP_SECONDS + 10, f"the stack in {folder} does not end")


def down(home: Path, *, run: str = DEFAULT_RUN, progress: Progress = _silent) -> bool:
    """Stop the run's servers, whoever uses them. Whether there was anything to stop."""
    home = home.resolve()
    folder = home / run
    was_up = guarded(folder)
    if was_up:
        progress(f"stopping {run}")
        pid = _guard_pid(folder)
        os.kill(pid, signal.SIGTERM)
        _wait(lambda: _gone(pid), START_SECONDS + STOP_SECONDS, f"the stack in {folder} (process {pid}) does not end")
    strays = _end_strays(folder)
    if folder.exists():
        (folder / "state.json").unlink(missing_ok=True)
    return was_up or strays


def status(home: Path, *, run: str = DEFAULT_RUN) -> StackState | None:
    """What runs, each server asked whether it answers; None if nothing does."""
    home = home.resolve()
    state = load_state(home / run)
    if state is None or not guarded(home / run):
        return None
    answers = _secure.kafka_answers if Spec.load(home / run).secure else _kafka.answers
    kafka = state.kafka and replace(state.kafka, alive=answers(state.kafka.port))
    return replace(state, kafka=kafka, postgres=tuple(replace(server, alive=_postgres.answers(server.port)) for server in state.postgres))


def clean(home: Path, progress: Progress = _silent) -> None:
    """Stop all runs of this home and remove what they keep: data, logs, jars, copies of binaries. The rest of home stays."""
    home = home.resolve()
    for run in runs(home):
        down(home, run=run, progress=progress)
        shutil.rmtree(home / run, ignore_errors=True)
    for jars in ("kafka", "debezium"):
        shutil.rmtree(home / jars, ignore_errors=True)
    for copies in (home / "postgresql", _postgres.beside_home(home)):
        shutil.rmtree(copies, ignore_errors=True)


# --- how ---------------------------------------------------------------------------------------------------------------------------


def _up(
    home: Path,
    run: str,
    kafka: bool,
    postgres: Sequence[int | None],
    fsync: bool,
    *,
    ephemeral: bool,
    progress: Progress,
    secure: Path | None = None,
) -> StackState:
    folder = home / run
    installs = _postgres.choose(postgres, _postgres.installs()) if postgres else ()
    if guarded(folder):
        _wait(lambda: load_state(folder) is not None or not guarded(folder), START_SECONDS, f"the stack in {folder} does not get ready")
    if state := status(home, run=run):
        wanted = tuple(install.major for install in installs)
        if state.alive and (state.kafka is not None or not kafka) and tuple(server.major for server in state.postgres) == wanted:
            return state
        if state.alive:
            there = [*(["Kafka"] if state.kafka else []), *(f"PostgreSQL {server.major}" for server in state.postgres)]
            raise StackError(
                f"the stack in {folder} runs with {' and '.join(there)}, not with what is asked for: stop it first (concord stack down)"
            )
        progress("a server of the stack has died, starting all again")
    down(home, run=run)
    if kafka:
        _kafka.fetch(home, progress)
    user = _postgres.unprivileged() if postgres else None
    Spec(
        home=str(home),
        run=run,
        kafka=kafka,
        postgres=tuple(install.major for install in installs),
        binaries=tuple(str(_postgres.reachable(install, home, user)) for install in installs),
        versions=tuple(install.version for install in installs),
        data=str(_postgres.place(home, user) / run) if postgres else str(folder),
        user=user,
        fsync=fsync,
        ephemeral=ephemeral,
        secure=str(secure.resolve()) if secure else "",
    ).save()
    _start_guard(folder, progress)
    state = load_state(folder)
    if state is None:
        raise StackError(f"the stack in {folder} ended as soon as it was up: see {folder / 'guard.log'}")
    return state


def _start_guard(folder: Path, progress: Progress) -> None:
    root = str(Path(__file__).resolve().parent.parent.parent)  # where the package `console` is, if it is not installed
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    with (folder / "guard.log").open("ab") as log:
        guard = subprocess.Popen(
            [sys.executable, "-m", "console.stack", "guard", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=folder,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
        )
    assert guard.stdout
    with guard.stdout, _ended_if_we_do_not_wait(guard):
        for line in guard.stdout:
            message = json.loads(line)
            if "say" in message:
                progress(message["say"])
            elif "failed" in message:
                guard.wait(STOP_SECONDS + 10)
                raise StackError(message["failed"])
            else:
                _left_alone.append(guard)
                return
    guard.wait(STOP_SECONDS + 10)
    raise StackError(f"the guard of the stack ended without a word (status {guard.returncode}): see {folder / 'guard.log'}")


@contextlib.contextmanager
def _ended_if_we_do_not_wait(guard: subprocess.Popen[str]) -> Iterator[None]:
    """Ctrl-C while the servers start takes them along, and returns when they have ended."""
    try:
        yield
    except BaseException:
        if guard.poll() is None:
            guard.terminate()
            guard.wait(STOP_SECONDS + 10)
        raise


_left_alone: list[subprocess.Popen[str]] = []  # guards we started; kept, or Popen would warn that they still run


class _Users:
    """This process among the users of a run. The guard waits for `in-use`; `users` tells who is the last."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._locks = [open_lock(folder / "in-use"), open_lock(folder / "users")]
        self._folder = folder

    def enter(self) -> None:
        # refused while a guard that found nobody is about to stop all: then wait for its end
        _wait(
            lambda: try_lock(self._locks[0], fcntl.LOCK_SH), STOP_SECONDS + 10, f"the stack in {self._folder} is stopping and does not end"
        )
        fcntl.flock(self._locks[1], fcntl.LOCK_SH)

    def close(self) -> bool:
        """Whether nobody else uses the run now."""
        if not self._locks:
            return False
        in_use, users = self._locks
        was_last = try_lock(users, fcntl.LOCK_EX)
        os.close(in_use)
        os.close(users)
        self._locks = []
        return was_last


@contextlib.contextmanager
def _used(folder: Path) -> Iterator[_Users]:
    users = _Users(folder)
    try:
        users.enter()
        yield users
    finally:
        users.close()


def _wait(done: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise StackError(f"{otherwise} after {seconds:g} s")
        time.sleep(0.02)


def _guard_pid(folder: Path) -> int:
    """The process that holds guard.lock: it wrote its number there, and has the lock, so the number is its own still."""
    return int((folder / "guard.lock").read_text())


def _gone(pid: int) -> bool:
    """Whether a guard has ended; one that its parent has not asked for yet has."""
    for guard in _left_alone:
        if guard.pid == pid:
            return guard.poll() is not None
    psutil = _psutil()
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _psutil() -> Any:
    try:
        import psutil
    except ImportError as error:
        raise StackError("the embedded stack needs psutil: pip install 'concord[stack]'") from error
    return psutil


def _end_strays(folder: Path) -> bool:
    """End servers of this run that have lost their guard (systems that don't tell a child of its parent's death). Only what names the
    run's own folder in its command line is ours."""
    psutil = _psutil()
    if not (folder / "spec.json").exists():
        return False
    spec = Spec.load(folder)
    marks = {str(folder / "kafka.properties"), *(str(Path(spec.data) / f"postgres-{major}") for major in spec.postgres)}
    strays = []
    for process in psutil.process_iter(["cmdline"]):
        if marks & set(process.info["cmdline"] or ()) and process.pid != os.getpid():
            strays.append(process)
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM if str(folder / "kafka.properties") in process.info["cmdline"] else signal.SIGINT)
    _, left = psutil.wait_procs(strays, timeout=STOP_SECONDS)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return bool(strays)


def _forget_dead_runs(home: Path) -> None:
    """Remove folders of ephemeral runs whose guard was killed before it could."""
    for run in runs(home):
        spec = Spec.load(home / run)
        if not spec.ephemeral or guarded(home / run):
            continue
        lock = open_lock(home / run / "in-use")
        unused = try_lock(lock, fcntl.LOCK_EX)  # else its guard is about to start
        os.close(lock)
        if unused:
            down(home, run=run)
            for path in {home / run, Path(spec.data)}:
                shutil.rmtree(path, ignore_errors=True)
