"""`concord up`: every part a child process, started again when it dies, stopped together.

    <state_dir>/<pipeline>/up.lock    held (flock) by the one supervisor of this pipeline on this machine
    <state_dir>/<pipeline>/up.json    {"pid", "since", "heartbeat",
                                       "parts": {part: {"pid", "since", "restarts", "last_exit", "next_start"}}}

A part that ends without being asked to is started again after a wait that doubles up to `longest`; for one that had run well for
`well_after` seconds the waits start from the beginning. Stopping goes downstream: sources, then streams, then sinks; each group gets
SIGTERM, finishes its batch and commits. What is not gone after `stop_after` seconds is killed, and what it had not finished comes again
(I1, I2, I9). A second Ctrl-C kills at once.

Each child has a pipe from us as its standard input and ends when that does (`console.parts.end_with_supervisor`): also after kill -9.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from console.parts import HEARTBEAT_SECONDS, SUPERVISED, held, now_text, read_json, tell_json
from schemas.health import Health

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PartCommand:
    """How to start one part."""

    name: str  # source-crm, streams-0, sink-erp-0
    command: tuple[str, ...]
    stage: int  # stopped in this order: 0 source, 1 streams, 2 sink


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a part is started again."""

    first: float = 0.5
    longest: float = 30.0
    well_after: float = 60.0  # a part that ran this long was well: what ended it is something new

    def wait(self, failures: int) -> float:
        """Seconds, after so many ends in a row."""
        return min(self.longest, self.first * 2.0 ** min(failures - 1, 30))


def exit_reason(code: int) -> str:
    """`-9` → "killed by SIGKILL"."""
    if code >= 0:
        return "ended" if code == 0 else f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


@dataclass(slots=True)
class _Child:
    spec: PartCommand
    process: subprocess.Popen[bytes] | None = None
    since: str | None = None
    started: float = 0.0
    restarts: int = 0
    failures: int = 0  # ends in a row without having run well
    last_exit: dict[str, Any] | None = None
    start_at: float | None = 0.0  # on the clock; None: not to be started

    @property
    def alive(self) -> bool:
        return self.process is not None


@dataclass(frozen=True, slots=True)
class _Ended:
    name: str
    code: int


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


@dataclass
class Supervisor:
    """Runs parts until `stop()`. One `run()` per object, from the main thread."""

    parts: Sequence[PartCommand]
    run_dir: Path
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    backoff: Backoff = Backoff()
    stop_after: float = 8.0

    def __post_init__(self) -> None:
        self._children = {part.name: _Child(part) for part in self.parts}
        self._events: queue.SimpleQueue[_Ended | _Stop] = queue.SimpleQueue()
        self._stops = 0
        self._since = now_text()
        self.health = Health()

    def stop(self) -> None:
        """Asks `run` to end; from a signal handler or another thread. A second time: at once."""
        self._events.put(_Stop())

    def run(self) -> int:
        """Returns the exit status: 0 when it was asked to stop. Raises Busy when this pipeline has a supervisor already."""
        file = self.run_dir / "up.json"

        def busy() -> str:
            told = read_json(file)
            return (
                f"this pipeline is up already: pid {told.get('pid', '?')} since {told.get('since', '?')} "
                f"(lock {self.run_dir / 'up.lock'}); stop that one first, or give this one another `name`"
            )

        with held(self.run_dir / "up.lock", busy, seconds=1.0):
            try:
                self._supervise(file)
            finally:
                self._kill_all()
                tell_json(file, self._told())
        return 0

    def _supervise(self, file: Path) -> None:
        next_beat = 0.0
        while not self._stops:
            self.health.turned()
            started = self._start_due()
            now = time.monotonic()
            if started or now >= next_beat:
                tell_json(file, self._told())
                next_beat = now + HEARTBEAT_SECONDS
            waits = [child.start_at - now for child in self._children.values() if child.start_at is not None]
            if self._take(max(0.0, min([next_beat - now, *waits]))):
                next_beat = 0.0
        logger.info("stopping: each part finishes its batch")
        for stage in sorted({part.stage for part in self.parts}):
            self._stop_stage(stage)
            tell_json(file, self._told())

    def _take(self, seconds: float) -> bool:
        """Waits for one thing to happen and notes it. False: nothing did."""
        try:
            event = self._events.get(timeout=seconds)
        except queue.Empty:
            return False
        if isinstance(event, _Stop):
            self._stops += 1
        else:
            self._ended(event)
        return True

    def _start_due(self) -> bool:
        due = [child for child in self._children.values() if child.start_at is not None and child.start_at <= time.monotonic()]
        for child in due:
            self._start(child)
        return bool(due)

    def _start(self, child: _Child) -> None:
        child.process = process = subprocess.Popen(
            child.spec.command,
            env={**self.env, SUPERVISED: "1"},
            stdin=subprocess.PIPE,  # its end is ours: end_with_supervisor
            start_new_session=True,  # Ctrl-C is for us; we tell them in order
        )
        child.started, child.since, child.start_at = time.monotonic(), now_text(), None
        name = child.spec.name
        threading.Thread(target=lambda: self._events.put(_Ended(name, process.wait())), name=f"wait-{name}", daemon=True).start()
        logger.info("%s started, pid %s", name, process.pid)

    def _ended(self, event: _Ended) -> None:
        child = self._children[event.name]
        if child.process is None:
            return  # we killed it ourselves and have noted so
        reason = exit_reason(event.code)
        said = self._last_words(child)
        child.last_exit = {"code": event.code, "reason": f"{reason}: {said}" if said else reason, "at": now_text()}
        if child.process is not None and child.process.stdin is not None:
            child.process.stdin.close()
        ran = time.monotonic() - child.started
        child.process = None
        if self._stops:
            return
        child.failures = 1 if ran >= self.backoff.well_after else child.failures + 1
        wait = self.backoff.wait(child.failures)
        child.restarts += 1
        child.start_at = time.monotonic() + wait
        logger.warning("%s %s after %.1f s, starting it again in %.1f s", event.name, child.last_exit["reason"], ran, wait)

    def _last_words(self, child: _Child) -> str:
        told = read_json(self.run_dir / "parts" / f"{child.spec.name}.json")
        ours = child.process is not None and told.get("pid") == child.process.pid
        return str(told.get("error") or "") if ours else ""

    def _stop_stage(self, stage: int) -> None:
        children = [child for child in self._children.values() if child.spec.stage == stage]
        for child in children:
            child.start_at = None
            if child.process is not None:
                child.process.terminate()
        deadline = time.monotonic() + self.stop_after
        while any(child.alive for child in children) and self._stops < 2:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._take(left)
        for child in children:
            if child.process is not None:
                logger.warning("%s not stopped, killing it: what it had not finished comes again", child.spec.name)
                child.process.kill()
                self._ended(_Ended(child.spec.name, child.process.wait()))

    def _kill_all(self) -> None:
        """Whatever went wrong with us: no child stays."""
        for child in self._children.values():
            if child.process is not None:
                child.process.kill()
                child.process.wait()
                child.process = None

    def _told(self) -> dict[str, Any]:
        now = time.monotonic()
        return {
            "pid": os.getpid(),
            "since": self._since,
            "heartbeat": now_text(),
            "parts": {
                name: {
                    "pid": child.process.pid if child.process is not None else None,
                    "since": child.since if child.process is not None else None,
                    "restarts": child.restarts,
                    "last_exit": child.last_exit,
                    "next_start": None
                    if child.start_at is None
                    else (datetime.now(UTC) + timedelta(seconds=max(0.0, child.start_at - now))).isoformat(timespec="milliseconds"),
                }
                for name, child in self._children.items()
            },
        }
