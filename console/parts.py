"""A part as a process of its own: who it is, that it lives, and how it is told to stop.

    <state_dir>/<pipeline>/parts/sink-erp-0.lock    held (flock) for as long as the process lives: no other can be the same part, and
                                                    however it ends the kernel lets go
    <state_dir>/<pipeline>/parts/sink-erp-0.json    what it says of itself, written anew every `HEARTBEAT_SECONDS`:
        {"part", "pid", "since", "heartbeat", "state": "starting|running|stopping", "metrics": "http://127.0.0.1:40123/metrics", "error"}

A part that `concord up` started has a pipe from it as its standard input. Nothing is ever written into it; it ends when the supervisor
ends, however that came about, and then the part stops by itself, at the latest after `ORPHAN_SECONDS`: no process outlives its command.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import orjson

from schemas.errors import ConcordError

logger = logging.getLogger(__name__)

SUPERVISED = "CONCORD_SUPERVISED"  # set to 1 by the supervisor: standard input is its pipe
HEARTBEAT_SECONDS = 1.0
STALE_SECONDS = 10.0  # a part whose heartbeat is older does not answer: it hangs, or its machine sleeps
ORPHAN_SECONDS = 8.0  # for the batch in hand; what is not finished by then comes again (I1, I2, I9)
CLAIM_SECONDS = 15.0  # the one before may be on its way out: longer than ORPHAN_SECONDS


class Busy(ConcordError):
    """Another process is this part, or this supervisor, already."""


class Stopped(BaseException):
    """A signal asked the process to stop before there was anything to stop; not an Exception, so that no retry swallows it."""


def now_text() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write_json(file: Path, told: dict[str, Any]) -> None:
    """Whole or not at all: a reader never sees half a file."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.write_bytes(orjson.dumps(told, option=orjson.OPT_INDENT_2))
    beside.replace(file)


def tell_json(file: Path, told: dict[str, Any]) -> None:
    """`write_json`; when that cannot be, a warning: a full disk must not stop what it is about. What was said before stays."""
    try:
        write_json(file, told)
    except OSError as error:
        logger.warning("cannot write %s: %s; going on without", file, error.strerror or error)


def read_json(file: Path) -> dict[str, Any]:
    """What is in the file; {} when there is none or it is no JSON object."""
    try:
        told = orjson.loads(file.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return told if isinstance(told, dict) else {}


def is_held(lock: Path) -> bool:
    """Whether a living process holds this lock."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def held(lock: Path, busy: Callable[[], str], seconds: float = CLAIM_SECONDS) -> Iterator[None]:
    """Holds the lock while inside. Raises Busy with what `busy` says when another process does not let go of it in time."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    told = False
    with lock.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Busy(busy()) from None
                if not told and left < seconds - 1:
                    logger.info("waiting for another process to end: %s", busy())
                    told = True
                time.sleep(0.05)
        yield


class PartFile:
    """What a part says of itself, kept fresh by a thread."""

    def __init__(self, folder: Path, part: str) -> None:
        self.part = part
        self._file = folder / f"{part}.json"
        self._told: dict[str, Any] = {"part": part, "pid": os.getpid(), "since": now_text(), "state": "starting"}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def tell(self, **facts: Any) -> None:
        with self._lock:
            self._told.update(facts, heartbeat=now_text())
            tell_json(self._file, self._told)

    def _beat(self) -> None:
        while not self._end.wait(HEARTBEAT_SECONDS):
            self.tell()

    def __enter__(self) -> PartFile:
        self.tell()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


@contextlib.contextmanager
def being(part: str, run_dir: Path) -> Iterator[PartFile]:
    """This process is `part` while inside. Raises Busy when another one is."""
    folder = run_dir / "parts"

    def busy() -> str:
        return f"{part} runs already, pid {read_json(folder / f'{part}.json').get('pid', '?')}"

    with held(folder / f"{part}.lock", busy), PartFile(folder, part) as file:
        yield file


def stop_on_signals(stop: Callable[[], None]) -> None:
    """SIGTERM and SIGINT call `stop`, from the main thread, between two instructions of whatever it does."""

    def handler(number: int, frame: FrameType | None) -> None:
        stop()

    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)


def raise_stopped() -> None:
    raise Stopped


def end_with_supervisor() -> None:
    """Watches the supervisor's pipe, if there is one; when it ends, so do we. Call it first of all."""
    if os.environ.get(SUPERVISED) != "1":
        return

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 512):
                pass
        logger.warning("the supervisor is gone: stopping")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_SECONDS)
        logger.warning("not stopped within %s s: ending at once, what was not finished comes again", ORPHAN_SECONDS)
        os._exit(70)

    threading.Thread(target=watch, name="supervisor-watch", daemon=True).start()
