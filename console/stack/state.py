"""What runs where: the record that the stack keeps of itself, for all commands to find.

.concord/                    home
  kafka/libs/                Kafka's jars, shared by all runs
  <run>/                     one running stack: "stack" for people, "test-<pid>-…" for a test session
    spec.json                what was asked for
    state.json               what runs: written when all answer, gone when all have ended
    ports.json               remembered, so that addresses survive a restart
    guard.lock               held by the guard as long as it lives
    in-use, users            held by the commands that use the run (guard.py)
    kafka/ postgres-15/ …    data
    kafka.log postgres-15.log guard.log
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from schemas.errors import ConcordError


class StackError(ConcordError):
    """The stack cannot be what was asked for; says why and what to do."""


@dataclass(frozen=True)
class KafkaState:
    version: str
    bootstrap: str  # host:port
    port: int
    pid: int
    log: str  # path
    alive: bool = True  # as of when it was asked


@dataclass(frozen=True)
class PostgresState:
    version: str  # "15.13"
    major: int
    dsn: str  # superuser, database postgres
    port: int
    pid: int
    log: str  # path
    alive: bool = True


@dataclass(frozen=True)
class StackState:
    run: str
    guard_pid: int
    kept: bool  # runs until it is told to stop; else until the last command that uses it ends
    kafka: KafkaState | None
    postgres: tuple[PostgresState, ...]  # in the order asked for

    @property
    def servers(self) -> tuple[KafkaState | PostgresState, ...]:
        return ((self.kafka,) if self.kafka else ()) + self.postgres

    @property
    def alive(self) -> bool:
        return all(server.alive for server in self.servers)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> StackState:
        kafka = KafkaState(**data["kafka"]) if data["kafka"] else None
        return cls(data["run"], data["guard_pid"], data["kept"], kafka, tuple(PostgresState(**each) for each in data["postgres"]))


@dataclass(frozen=True)
class Spec:
    """What was asked for; the guard reads it."""

    home: str
    run: str
    kafka: bool
    postgres: tuple[int, ...]  # major versions
    binaries: tuple[str, ...]  # the bin folder of each
    versions: tuple[str, ...]
    data: str  # where PostgreSQL's data go: the run's folder, or a readable place (postgres.py)
    user: str | None  # whom PostgreSQL runs as; None: as ourselves
    fsync: bool
    ephemeral: bool  # leaves no folder behind and need not end tidily
    secure: str = ""  # folder with ca.pem, server.pem, server.key and password: TLS and passwords only (secure.py); "": neither

    @property
    def folder(self) -> Path:
        return Path(self.home) / self.run

    @classmethod
    def load(cls, folder: Path) -> Spec:
        data: dict[str, Any] = json.loads((folder / "spec.json").read_text())
        known = {each.name for each in fields(cls)}  # one that an earlier or later version wrote is read as far as it says what we need
        told: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items() if key in known}
        try:
            return cls(**told)
        except TypeError as error:
            raise StackError(f"{folder} was set up by another version of Concord: `make clean` removes it") from error

    def save(self) -> None:
        write_json(self.folder / "spec.json", asdict(self))


def write_json(path: Path, data: Any) -> None:
    """All of it or nothing: a reader never sees half a file."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(data, indent=1) + "\n")
    new.replace(path)


def load_state(folder: Path) -> StackState | None:
    try:
        return StackState.from_json(json.loads((folder / "state.json").read_text()))
    except FileNotFoundError:
        return None


def open_lock(path: Path) -> int:
    """A file to `flock`. Not inherited by programs we start, released by the kernel however we end."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def try_lock(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def guarded(folder: Path) -> bool:
    """Whether the guard of this run lives."""
    if not (folder / "guard.lock").exists():
        return False
    lock = open_lock(folder / "guard.lock")
    try:
        return not try_lock(lock, fcntl.LOCK_SH)
    finally:
        os.close(lock)


def runs(home: Path) -> Iterable[str]:
    """The names of all runs in this home, living or not."""
    return sorted(spec.parent.name for spec in home.glob("*/spec.json"))
