"""Tryton at work: people who enter, edit and deactivate parties, through Tryton's own client library.

    .concord/tryton-venv/bin/python examples/tryton/party_app.py --database postgresql://… --config trytond.conf --people FILE --seconds 30

Runs in Tryton's virtual environment and knows nothing of Concord. Each line it writes is JSON; the last one says what it did. A party that
somebody wrote to since it was read is Tryton's ConcurrencyException: it is read again and the edit made again. Any other error ends it.

    --load N      only create N parties and end
    --next        only save one more party, and say which number it got
    --list        only say what Tryton's users see: {"parties": [[code, name, active], …]}
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from proteus import Model, config  # type: ignore[import-not-found]  # of Tryton's virtual environment
from trytond.exceptions import ConcurrencyException  # type: ignore[import-not-found]

TRIES = 5


class Parties:
    def __init__(self, rng: random.Random, names: list[str]) -> None:
        self.rng, self.names = rng, names
        self.Party = Model.get("party.party")
        self.actions: Counter[str] = Counter()
        self.conflicts = 0
        self.ids: list[int] = []
        self.read_at = 0.0

    def name(self) -> str | None:
        return None if self.rng.random() < 0.02 else self.rng.choice(self.names)

    def new(self, name: str | None) -> Any:
        party = self.Party()
        party.name = name
        return party

    def some(self) -> int | None:
        """The id of a party; the list is read again every two seconds, so that what came from the CRM is edited too."""
        if time.monotonic() - self.read_at > 2:
            self.ids = [party.id for party in self.Party.find([("active", "in", [True, False])])]
            self.read_at = time.monotonic()
        return self.rng.choice(self.ids) if self.ids else None

    def edit(self, change: Any) -> None:
        """Read, think, save; again when somebody else was quicker."""
        if (key := self.some()) is None:
            return
        for _ in range(TRIES):
            party = self.Party(key)
            read = party.name, party.active
            time.sleep(self.rng.uniform(0, 0.02))
            change(party, *read)
            try:
                party.save()
                return
            except ConcurrencyException:
                self.conflicts += 1

    def act(self) -> None:
        action = self.rng.choices(["create", "create several", "rename", "deactivate", "activate", "unchanged"], [25, 3, 50, 8, 6, 4])[0]
        self.actions[action] += 1
        if action == "create":
            self.new(self.name()).save()
        elif action == "create several":
            self.Party.save([self.new(self.name()) for _ in range(self.rng.randint(5, 25))])
        elif action == "rename":
            name = self.name()
            self.edit(lambda party, *_: setattr(party, "name", name))
        elif action == "unchanged":
            self.edit(lambda party, name, _: setattr(party, "name", name))
        else:
            self.edit(lambda party, *_: setattr(party, "active", action == "activate"))

    def run(self, rate: float, seconds: float, stopping: threading.Event) -> None:
        begun = report = time.monotonic()
        due = begun
        while not stopping.is_set() and (now := time.monotonic()) < begun + seconds:
            if now < due:
                stopping.wait(due - now)
                continue
            self.act()
            due = max(due + 1 / rate, now - 1)
            if now - report >= 1:
                report = now
                say(changes=sum(self.actions.values()), seconds=round(now - begun, 1))


def stop_with_input(stopping: threading.Event) -> None:
    sys.stdin.read()
    stopping.set()


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", required=True, help="postgresql://…")
    parser.add_argument("--config", required=True, help="trytond.conf")
    parser.add_argument("--people", type=Path, help="a JSON file with companies")
    parser.add_argument("--rate", type=float, default=15.0, help="saves a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--attached", action="store_true", help="stop when standard input ends")
    parser.add_argument("--load", type=int, metavar="N")
    parser.add_argument("--next", action="store_true")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    names = [company["name"] for company in json.loads(args.people.read_text("utf-8"))["companies"]] if args.people else ["Next"]
    # Tryton's client refuses control characters in a one-line field, as its own forms do
    names = [" ".join(name.split()) for name in names]
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    config.set_trytond(args.database, config_file=args.config)
    parties = Parties(random.Random(f"tryton {args.seed}"), names)
    if args.load:
        parties.Party.save([parties.new(parties.rng.choice(names)) for _ in range(args.load)])
        say(parties=args.load)
    elif args.next:
        party = parties.new("The next one")
        party.save()
        party.reload()
        say(id=party.id, code=party.code)
    elif args.list:
        found = parties.Party.find([("active", "in", [True, False])])
        say(parties=[[party.code, party.name, party.active] for party in found])
    else:
        if args.attached:
            threading.Thread(target=stop_with_input, args=(stopping,), daemon=True).start()
        begun = time.monotonic()
        parties.run(args.rate, args.seconds, stopping)
        say(
            application="tryton",
            seconds=round(time.monotonic() - begun, 2),
            changes=sum(parties.actions.values()),
            actions=dict(sorted(parties.actions.items())),
            read_again=parties.conflicts,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
