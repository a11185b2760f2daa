"""What processes use, looked at from outside: seconds of CPU and bytes of memory, by the part they play.

A part is a process with all that it has started. Ended children count as long as their parent has asked for them: a PostgreSQL server's
sessions stay in its sum.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

Parts = Mapping[str, list[int]]  # part → the processes it begins with


def cpu_seconds(pids: list[int]) -> float:
    """User and system, of these processes, what they have started, and what of it has ended."""
    total = 0.0
    for process in _trees(pids):
        with contextlib.suppress(psutil.Error):
            used = process.cpu_times()
            total += used.user + used.system + getattr(used, "children_user", 0.0) + getattr(used, "children_system", 0.0)
    return total


def megabytes(pids: list[int]) -> float:
    """Resident. Pages that processes share count in each."""
    total = 0
    for process in _trees(pids):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total / 2**20


def _trees(pids: list[int]) -> list[psutil.Process]:
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                found[process.pid] = process
    return list(found.values())


@dataclass(frozen=True)
class Cpu:
    """Seconds of CPU by part at one time."""

    at: float
    seconds: dict[str, float]

    @classmethod
    def of(cls, parts: Parts) -> Cpu:
        return cls(time.monotonic(), {name: cpu_seconds(pids) for name, pids in parts.items()})

    def since(self, before: Cpu) -> dict[str, float]:
        return {name: max(0.0, used - before.seconds.get(name, 0.0)) for name, used in self.seconds.items()}


class Memory:
    """Looks at the memory of parts every so often while the block lasts: `peak` and `seen`, (seconds, megabytes) by part."""

    def __init__(self, parts: Callable[[], Parts], every: float = 0.2) -> None:
        self._parts = parts
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.seen: dict[str, list[tuple[float, float]]] = {}

    def __enter__(self) -> Memory:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def peak(self) -> dict[str, float]:
        return {name: max(value for _, value in seen) for name, seen in self.seen.items() if seen}

    def _look(self) -> None:
        while not self._stop.wait(self._every):
            at = round(time.monotonic() - self._began, 2)
            for name, pids in self._parts().items():
                if (used := megabytes(pids)) > 0:
                    self.seen.setdefault(name, []).append((at, round(used, 1)))
