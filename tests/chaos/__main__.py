"""`make chaos`: seeded runs of the whole pipeline under faults, judged from outside, and the scorecard.

    python -m tests.chaos --seed 1 --runs 3 --minutes 2 --faults 40      seeds 1, 2 and 3
    python -m tests.chaos --report docs/chaos.md                         also writes the page, and its figures beside it as JSON

A full disk is a tmpfs that shrinks to what is in it, in a mount namespace of the run's own: that needs root. Clocks that differ and step
are a library in front of the PostgreSQL servers' gettimeofday: that needs a C compiler. Without either the run says so and goes on without
those faults.

    python -m tests.chaos --seed 4 --report docs/chaos.md --earlier docs/chaos.json   one more run on the page that is there
    python -m tests.chaos --runs 0 --earlier a.json b.json --report docs/chaos.md     the figures of runs made before, on one page

The page names of each run the commit that ran, with a + when the code had changes besides, and the day (UTC).

Exit status: 0 when nothing was lost, doubled, looped or diverged in any run, 1 when something was, 2 when a run could not be made.
A run that went wrong says of which thing, with its whole history across both logs and all topics, and keeps its logs.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from console.stack.state import StackError
from examples.drive import HOME, ROOT, DemoError, say
from tests.chaos.faults import Kind
from tests.chaos.faults.disks import own_mounts
from tests.chaos.run import Options, Outcome, Run
from tests.chaos.scorecard import BAD, Figures, as_text, figures, page, read, table

SHOWN = 3  # whole histories on the terminal; all of them are in a file


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="of the first run; the next one has the next")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long people work in each run")
    parser.add_argument("--faults", type=int, default=40, help="in each run")
    parser.add_argument("--rate", type=float, default=40.0, help="row changes a second, each side")
    parser.add_argument("--share", type=float, default=0.3, help="how much of the reference data is there at the start")
    parser.add_argument("--bulk-rows", type=int, default=2000, help="rows of a bulk transaction, at most")
    names = [kind.name.lower() for kind in Kind]
    parser.add_argument("--only", choices=names, nargs="+", default=[], metavar="KIND", help=f"only these faults: {', '.join(names)}")
    parser.add_argument("--report", type=Path, help="write the scorecard there, and its figures beside it as .json")
    parser.add_argument(
        "--earlier", type=Path, nargs="+", default=[], metavar="JSON", help="figures of earlier runs, for the same scorecard"
    )
    args = parser.parse_args(argv)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    no_disks = own_mounts()
    runs: list[Figures] = [run for file in args.earlier for run in read(file.read_text("utf-8"))]
    commit = _commit()
    good, could_not = True, False
    began = time.monotonic()
    try:
        for seed in range(args.seed, args.seed + args.runs):
            folder = HOME / "chaos" / f"seed-{seed}"
            only = tuple(Kind[name.upper()] for name in args.only)
            options = Options(seed, args.minutes * 60, args.faults, args.rate, args.bulk_rows, args.share, only, no_disks=no_disks)
            date = time.strftime("%Y-%m-%d", time.gmtime())
            try:
                outcome = Run(options, console, folder)()
            except (DemoError, StackError, RuntimeError) as error:
                console.print(Text(f"✗ seed {seed} could not be run: {error}", style="red"))
                could_not = True
                continue
            runs.append(figures(outcome, commit, date))
            _report(args.report, runs)  # after each: they are long, and may be ended
            if not outcome.good:
                good = False
                _tell(console, outcome, folder)
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    if not args.runs:
        _report(args.report, runs)
    console.print(table(runs))
    say(console, f"{sum(run['faults'] for run in runs)} faults, {time.monotonic() - began:.0f} s")
    return 2 if could_not else 0 if good else 1


def _report(path: Path | None, runs: list[Figures]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(runs), "utf-8")
        path.with_suffix(".json").write_text(as_text(runs), "utf-8")


def _commit() -> str:
    """In short, of the checkout; what is written in docs/ changes no run."""

    def told(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return told("rev-parse", "--short", "HEAD") + ("+" if told("status", "--porcelain", "-uno", "--", ".", ":(exclude)docs") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _tell(console: Console, outcome: Outcome, folder: Path) -> None:
    verdict, seed = outcome.verdict, outcome.options.seed
    if outcome.stuck:
        console.print(Text(f"✗ seed {seed} did not come to its end: {outcome.stuck[:3000]}", style="red"))
    told: set[tuple[str, ...]] = set()
    for what in BAD:
        for sentence in getattr(verdict, what):
            console.print(Text(f"✗ seed {seed}, {what}: {sentence}", style="red"))
            lines = tuple(outcome.stories.get(sentence, ()))
            if lines and lines not in told and len(told) < SHOWN:
                told.add(lines)
                console.print(Text("\n".join(f"    {line}" for line in lines), style="dim"))
    if outcome.stories:
        console.print(f"the whole history of each is in {folder / 'history.txt'}")
    for sentence in (*outcome.broken, *outcome.unseen):
        console.print(Text(f"✗ seed {seed}: {sentence}", style="red"))
    console.print(f"the run's logs are in {folder}")


if __name__ == "__main__":
    sys.exit(main())
