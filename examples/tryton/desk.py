"""What Tryton's users have in common: its client library, a pace, and what they do when somebody else was quicker.

    read ▶ think ▶ change ▶ save                      ▶ next
      ◀── ConcurrencyException, gone, deadlock ────┘     somebody wrote in the meantime: read it again, change it again

Any other error of Tryton ends the program: there must be none. Runs in Tryton's virtual environment and knows nothing of Concord. Each line
that it writes is JSON; the last one says what was done.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from proteus import Model, config  # type: ignore[import-not-found]  # of Tryton's virtual environment
from psycopg.errors import OperationalError
from trytond.exceptions import ConcurrencyException  # type: ignore[import-not-found]
from trytond.model.exceptions import AccessError  # type: ignore[import-not-found]

QUICKER = (ConcurrencyException, OperationalError)
TRIES = 8
LIST_SECONDS = 2.0  # a list is read again after this, so that what came from the CRM is worked on too
EVERYTHING = [("active", "in", [True, False])]


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


class Desk:
    """Somebody who works in Tryton. Subclasses say what they do."""

    name = ""
    weights: Mapping[str, float] = {}  # method name → how often, relative

    def __init__(self, rng: random.Random, people: Mapping[str, Any]) -> None:
        self.rng, self.people = rng, people
        self.actions: Counter[str] = Counter()
        self.read_again = 0
        self.started = int(time.time() * 10)
        self._lists: dict[str, tuple[float, list[int]]] = {}

    # ---- for actions
    def model(self, name: str) -> Any:
        return Model.get(name)

    def some(self, model: str, domain: Sequence[Any] = ()) -> int | None:
        """The id of a record of that kind, whoever made it. None: there is none."""
        key, now = f"{model} {domain}", time.monotonic()
        until, ids = self._lists.get(key, (0.0, []))
        if until < now:
            ids = [record.id for record in self.model(model).find(list(domain), order=[("id", "DESC")], limit=2000)]
            self._lists[key] = (now + LIST_SECONDS, ids)
        return self.rng.choice(ids) if ids else None

    def edit(self, model: str, key: int | None, change: Callable[[Any], None]) -> None:
        """Read, think, change, save; again when somebody else was quicker."""
        if key is None:
            return

        def once() -> None:
            record = self.model(model)(key)
            change(record)
            time.sleep(self.rng.uniform(0, 0.02))
            record.save()

        self.retried(once)

    def retried(self, action: Callable[[], None]) -> None:
        """AccessError is what Tryton says of a record that is not there any more."""
        for left in reversed(range(TRIES)):
            try:
                action()
                return
            except AccessError:
                if not left:
                    return  # whoever deleted it was quicker for good
                self.read_again += 1
            except QUICKER:
                if not left:
                    raise
                self.read_again += 1

    def text(self, text: str | None) -> str | None:
        """As Tryton's forms take it: no line breaks and no blanks around."""
        return " ".join(text.split()) or None if text else None

    # ---- the loop
    def act(self) -> None:
        name = self.rng.choices(list(self.weights), list(self.weights.values()))[0]
        self.retried(getattr(self, name))
        self.actions[name] += 1

    def by_the_clock(self) -> None:
        """What is done at the same instant as in the CRM."""

    def before_leaving(self) -> None:
        """What must not be left undone."""

    def run(self, rate: float, seconds: float, stopping: threading.Event) -> None:
        begun = report = time.monotonic()
        due = begun
        while not stopping.is_set() and (now := time.monotonic()) < begun + seconds:
            self.by_the_clock()
            if now < due:
                stopping.wait(min(due - now, 0.1))
                continue
            self.act()
            due = max(due + 1 / rate, now - 1)
            if now - report >= 1:
                report = now
                say(changes=self.actions.total(), seconds=round(now - begun, 1))
        self.before_leaving()

    def summary(self, seconds: float) -> dict[str, Any]:
        return {
            "application": f"tryton {self.name}",
            "seconds": round(seconds, 2),
            "changes": self.actions.total(),
            "actions": dict(sorted(self.actions.items())),
            "read_again": self.read_again,
        }


def parser(doc: str | None) -> argparse.ArgumentParser:
    told = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("--people", type=Path, required=True, help="a JSON file with companies, persons and goods")
    told.add_argument("--seed", type=int, default=1)
    told.add_argument("--seconds", type=float, default=30.0)
    told.add_argument("--rate", type=float, default=10.0, help="actions a second")
    told.add_argument("--attached", action="store_true", help="stop when standard input ends: whoever started this is gone")
    return told


def connect() -> None:
    """To the database that Tryton's own variables name; Tryton wants to know it before the first import of its modules."""
    config.set_trytond(os.environ["TRYTOND_DATABASE_URI"], config_file=os.environ["TRYTOND_CONFIG"])


def stop_with_input(stopping: threading.Event) -> None:
    sys.stdin.read()
    stopping.set()


def at_work(desk: Desk, args: argparse.Namespace) -> int:
    """Until the time is over, SIGTERM, or the end of standard input."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if args.attached:
        threading.Thread(target=stop_with_input, args=(stopping,), daemon=True).start()
    begun = time.monotonic()
    desk.run(args.rate, args.seconds, stopping)
    say(**desk.summary(time.monotonic() - begun))
    return 0


def people_of(args: argparse.Namespace) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(args.people.read_text("utf-8"))
    return told
