"""Kafka Connect as a child of this process: the part `debezium`.

Java starts, answers, is told its connectors, and is watched; when it ends this part ends, and who supervises it starts both again. It
remembers everything in Kafka, so it goes on where it was. A part that is killed takes its Java along (Linux; elsewhere a second worker
would share the work with it, which harms nothing).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from connectors.debezium.connect import Connect
from connectors.debezium.settings import Settings, properties
from connectors.debezium.watching import Captured, Watching
from schemas.errors import Retriable
from schemas.health import Health

logger = logging.getLogger(__name__)

START_SECONDS = 90.0  # Java has to answer by then; on a busy machine with cold disks it takes long
STOP_SECONDS = 6.0  # it commits its offsets; what it had not finished comes again (I1)
LOOK_SECONDS = 0.5
SILENT_SECONDS = 60.0  # a worker that runs and does not answer for so long hangs


@dataclass(frozen=True, slots=True)
class Program:
    """Kafka Connect on this machine."""

    command: tuple[str, ...]  # Java with its class path; the properties file comes last
    settings: Settings = field(repr=False)
    url: str
    folder: Path  # its properties and its log


class DebeziumWorker:
    """Runs until `stop()`. One `run()` per object, in the main thread: the one whose end Java follows."""

    def __init__(
        self, program: Program, systems: Mapping[str, Captured], environment: Mapping[str, str], health: Health | None = None
    ) -> None:
        self.health = health or Health()
        self.ready = threading.Event()
        self._program = program
        self._environment = dict(environment)  # passwords that the settings only name
        self._connect = Connect(program.url)
        self._watching = Watching(self._connect, systems)
        self._stop = threading.Event()

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> None:
        """Raises Retriable when Java ends or does not answer, Refused when it takes a connector's settings for wrong."""
        with self._java() as java:
            if not self._until(java, self._answers, START_SECONDS, "does not answer"):
                return
            logger.info("Kafka Connect %s answers at %s, log %s", self._connect.version(), self._program.url, self._log)
            if not self._until(java, self._put, START_SECONDS, "does not take its connectors"):
                return
            self._watch(java)

    def _watch(self, java: subprocess.Popen[bytes]) -> None:
        answered = time.monotonic()
        while not self._stop.wait(LOOK_SECONDS):
            self.health.turned()
            self._alive(java)
            try:
                self._watching.look()
                answered = time.monotonic()
            except Retriable as error:
                if time.monotonic() - answered > SILENT_SECONDS:
                    raise
                logger.debug("%s", error)
                self.health.waits("Kafka Connect does not answer")
                continue
            if self._watching.waiting:
                self.health.waits("not every system is captured yet")
            else:
                self.health.ready()
            if not self._watching.waiting and not self.ready.is_set():
                self.ready.set()

    def _answers(self) -> bool:
        self._connect.version()
        return True

    def _put(self) -> bool:
        self._watching.put()
        return True

    def _until(self, java: subprocess.Popen[bytes], does: Callable[[], bool], seconds: float, otherwise: str) -> bool:
        """Tries until it goes through; False when asked to stop before that."""
        deadline = time.monotonic() + seconds
        while True:
            self.health.turned()
            self._alive(java)
            try:
                return does()
            except Retriable as error:
                if time.monotonic() > deadline:
                    raise Retriable(f"Kafka Connect {otherwise} after {seconds:g} s: {error}; see {self._log}") from error
            if self._stop.wait(0.1):
                return False

    def _alive(self, java: subprocess.Popen[bytes]) -> None:
        if (status := java.poll()) is not None:
            raise Retriable(f"Kafka Connect ended with status {status}: {self._last_words()}; see {self._log}")

    @property
    def _log(self) -> Path:
        return self._program.folder / "connect.log"

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = self._log.read_text(errors="replace").splitlines()
            told = [line for line in lines[-200:] if " ERROR " in line or line.startswith(("Caused by", "Error", "Exception"))]
            return (told or lines or [""])[-1].strip()
        return ""

    @contextlib.contextmanager
    def _java(self) -> Iterator[subprocess.Popen[bytes]]:
        folder = self._program.folder
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "connect.properties"
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as text:
            text.write(properties(self._program.settings))
        with self._log.open("ab") as log:
            java = subprocess.Popen(
                [*self._program.command, str(file)],
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                start_new_session=True,  # Ctrl-C is for us
                preexec_fn=_ends_with_us(),
            )
        try:
            yield java
        finally:
            if java.poll() is None:
                java.terminate()
                try:
                    java.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    java.kill()
            java.wait()


def _ends_with_us() -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG
