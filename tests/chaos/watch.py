"""What `concord status` shows while a run goes on, looked at as `concord status --watch` does: how long an outage can be seen there."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from console.status import Observer, is_well
from schemas.config import load
from schemas.errors import ConcordError

EVERY_SECONDS = 1.0


class Look(NamedTuple):
    """One look at the status, from when it was asked until it answered."""

    asked: float  # time.monotonic()
    answered: float
    trouble: tuple[str, ...]  # what is not as it should be, in a word each; () when all is well


class Watch(threading.Thread):
    """Looks at the status again and again until it is told to stop."""

    def __init__(self, config: Path, environment: Mapping[str, str], stopping: threading.Event) -> None:
        super().__init__(name="watches the status", daemon=True)
        self._config = load(config, environment)
        self._stopping = stopping
        self.looks: list[Look] = []

    def run(self) -> None:
        with Observer(self._config) as observer:
            while not self._stopping.wait(EVERY_SECONDS):
                asked = time.monotonic()
                try:
                    trouble = trouble_in(observer.report(settled=False))
                except (ConcordError, psycopg.Error, OSError) as error:
                    trouble = (f"no answer: {type(error).__name__}",)
                self.looks.append(Look(asked, time.monotonic(), trouble))

    def visible(self, since: float, until: float) -> float:
        """Seconds of that time in which the status showed that something was not as it should be."""
        seconds, shown_from = 0.0, None
        for look in self.looks:
            if shown_from is not None:
                seconds += max(0.0, min(look.answered, until) - max(shown_from, since))
            shown_from = look.answered if look.trouble else None
        return seconds + (max(0.0, until - max(shown_from, since)) if shown_from is not None else 0.0)


def trouble_in(report: Mapping[str, Any]) -> tuple[str, ...]:
    found = [f"{name} {part['state']}" for name, part in report["parts"].items() if not part["alive"]]
    for name, told in report["systems"].items():
        if told["error"]:
            found.append(f"{name}: {told['error'][:80]}")
        elif told["slot"] != "streaming":
            found.append(f"slot of {name} {told['slot']}")
        elif not all(table["done"] for table in told["snapshot"].values()):
            found.append(f"snapshot of {name}")
        if told["dead"]:
            found.append(f"dead letters of {name}")
    if not found and not is_well(report):
        found.append("not well")
    return tuple(found)
