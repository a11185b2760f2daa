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


def cpu_seconds(parts: Parts) -> dict[str, float]:
    """Part → user and system time of its processes, of what they have started, and of what of it has ended. One look at all processes."""
    children: dict[int, list[psutil.Process]] = {}
    everybody: dict[int, psutil.Process] = {}
    for process in psutil.process_iter(["ppid"]):
        everybody[process.pid] = process
        children.setdefault(process.info["ppid"], []).append(process)

    def of(process: psutil.Process) -> float:
        started, before = children.get(process.pid, ()), -1.0
        while True:  # again while one ends: it would be counted twice, as itself and among those that have ended
            total: float = sum(of(child) for child in started)
            try:
                used = process.cpu_times()
            except psutil.Error:
                return total
            ended: float = getattr(used, "children_user", 0.0) + getattr(used, "children_system", 0.0)
            if not started or before == ended:
                return total + float(used.user) + float(used.system) + ended
            before = ended

    return {name: sum(of(everybody[pid]) for pid in pids if pid in everybody) for name, pids in parts.items()}


def megabytes(pids: list[int]) -> float:
    """Resident, of these processes alone: looking for what they have started costs more than a look every so often may."""
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(pid).memory_info().rss
    return total / 2**20


MACHINE = "machine"  # not a part: all that the machine's cores have done, whoever it was for


def machine_seconds() -> float:
    """Of all cores together, without idling and waiting for disks."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0))


@dataclass(frozen=True)
class Cpu:
    """Seconds of CPU by part at one time, and the machine's."""

    at: float
    seconds: dict[str, float]

    @classmethod
    def of(cls, parts: Parts) -> Cpu:
        return cls(time.monotonic(), {**cpu_seconds(parts), MACHINE: machine_seconds()})

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
