"""`make bench`: Concord and its peers on the same databases, rows and load, all in one run.

    make bench                                         everything, writes docs/bench.md, docs/bench.json and docs/bench/*.svg
    make bench ARGS="--quick"                          small sizes, one round, into .concord/bench-quick: does it work, what comes about
    make bench ARGS="--only source,path --rounds 5"    these sections anew, the others stay as they are in the file
    make bench ARGS="--only path --with debezium"      only contestants with this word in their name
    make bench ARGS="--only memory --hours 8"          a long run
    make bench ARGS="--only growth --rows 10000000"    tables up to ten million rows: an hour and more
    make bench ARGS="--render"                         page and plots once more, from the figures that are there

Sections: source (log to Kafka), path (commit to commit, and how much goes through), growth (workers, rows, parts, lost state), memory,
faust.
Peers: Debezium 3.6 on Kafka Connect, alone and with its JDBC sink (jars from Maven Central, once); PostgreSQL's logical replication; Faust
as it ships. It takes a Kafka and two PostgreSQL servers of its own. One that fails is reported with its reason, the others go on. Figures
are written after each measurement, the page after each section: Ctrl-C keeps what is there. Let nothing else run on the machine.

Exit status: 0 when all was measured, 1 when something failed, 2 when it could not run, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.report import page, sections_of, table_lines
from bench.rounds import Book
from bench.sections import faust, growth, memory, path, source
from bench.world import World, a_world
from console.stack.debezium import VERSION as DEBEZIUM
from console.stack.state import StackError
from examples.drive import HOME, ROOT

SECTIONS = ("source", "path", "growth", "memory", "faust")
OF = {"growth": ("growth", "recovery")}  # a section that writes under other names too
POSTGRES = (16, 18)  # both with `origin = none`


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    began = time.monotonic()

    def say(line: str) -> None:
        console.print(f"{time.monotonic() - began:7.1f} s  {line}", markup=False)

    book = Book(args.out / "bench.json")
    if book.file is not None and book.file.exists() and (args.render or len(args.only) < len(SECTIONS)):
        book.report |= json.loads(book.file.read_text("utf-8"))
    if args.render:
        _write(book, args.out, say)
        return 0
    for ending in (signal.SIGTERM, signal.SIGINT):  # a shell that starts us in the background ignores the second
        signal.signal(ending, signal.default_int_handler)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="concord-bench-") as folder,
            a_world(Path(folder), f"bench-{os.getpid()}", POSTGRES, say) as world,
        ):
            _measure(world, book, args, say)
    except KeyboardInterrupt:
        say("stopped; what was measured is kept")
        return 130
    except StackError as error:
        say(f"could not run: {error}")
        return 2
    finally:
        _write(book, args.out, say)
    _show(book, console)
    ran = {kind for name in args.only for kind in OF.get(name, (name,))}
    return 1 if any(one["section"] in ran for one in book.report["failed"]) else 0


def _measure(world: World, book: Book, args: argparse.Namespace, say: Callable[[str], None]) -> None:
    assert world.state.kafka is not None
    book.report["about"] = _about(world)
    sizes = _sizes(args)
    for name in args.only:
        for kind in OF.get(name, (name,)):
            book.forget(kind)
        began, now = time.monotonic(), datetime.now(UTC)
        told, run = sizes[name]
        say(f"{name}: {told}")
        try:
            run(world, book)
        finally:
            minutes = (time.monotonic() - began) / 60
            book.report.setdefault("made", {})[name] = f"{now:%Y-%m-%d %H:%M} UTC, {minutes:.0f} minutes: {told}"
            _write(book, args.out, say)


def _sizes(args: argparse.Namespace) -> dict[str, tuple[str, Callable[[World, Book], None]]]:
    """Section → (what it will do, in words; what does it)."""
    quick, rounds, wanted = args.quick, args.rounds, args.wanted
    of_source = source.Sizes(rounds, 100_000 if quick else 1_000_000, 60_000 if quick else 300_000)
    of_path = path.Sizes(rounds, 5.0 if quick else 8.0, (200.0, 1000.0), 10_000 if quick else 30_000)
    fewer = min(rounds, 2) if args.rounds_by_default else rounds  # of what is about ourselves
    of_growth = growth.sizes_of(quick, fewer, args.rows or (10_000 if quick else 1_000_000))
    of_memory = memory.Sizes(args.hours * 60 or (1.0 if quick else 4.0))
    keys = 50_000 if quick else 200_000
    of_faust = faust.Sizes(fewer, 60_000 if quick else 300_000, keys, 5.0 if quick else 8.0)
    return {
        "source": (
            f"rounds: {rounds}; a snapshot of {of_source.rows:,} rows, {of_source.events:,} transactions of one row, one of as many rows",
            partial(source.run, sizes=of_source, wanted=wanted),
        ),
        "path": (
            f"rounds: {rounds}; {of_path.seconds:g} s of each rate (idle: {of_path.idle:g}/s), bursts of {of_path.burst:,} each way",
            partial(path.run, sizes=of_path, wanted=wanted),
        ),
        "growth": (
            f"rounds: {fewer} (tables: 1); bursts of {of_growth.burst:,} each way; tables of {growth.in_words(of_growth.rows)} rows",
            partial(growth.run, sizes=of_growth),
        ),
        "memory": (f"{of_memory.rate:g} changes/s each way for {of_memory.minutes:g} minutes", partial(memory.run, sizes=of_memory)),
        "faust": (
            f"rounds: {fewer}; at most {of_faust.records:,} records or {of_faust.seconds:g} s, a table of {of_faust.keys:,} keys",
            partial(faust.run, sizes=of_faust, wanted=wanted),
        ),
    }


def _about(world: World) -> dict[str, str]:
    assert world.state.kafka is not None
    import psutil

    cores, memory = os.cpu_count() or 0, psutil.virtual_memory().total / 2**30
    return {
        "Machine": f"{cores} cores, {memory:.0f} GB, {platform.system()} {platform.machine()}; everything on it at once",
        "PostgreSQL": f"{world.state.postgres[0].version} (CRM) and {world.state.postgres[-1].version} (ERP), fsync on",
        "Kafka": f"{world.state.kafka.version}, one broker with both of Java's compilers, topics of one partition unless said otherwise",
        "Debezium": f"{DEBEZIUM} on Kafka Connect, its JDBC sink {path.JDBC_VERSION}; 1 GB of heap",
        "Python": platform.python_version(),
        "Load on the machine when it began (1 minute)": f"{os.getloadavg()[0]:.1f}",
    }


def _write(book: Book, out: Path, say: Callable[[str], None]) -> None:
    """Plots, figures and page: what is there."""
    if not sections_of(book.report):
        return
    try:
        from bench.plots import draw

        book.report["plots"] = draw(book.report, out / "bench")
    except ImportError:
        say("no plots without matplotlib: pip install 'concord[bench]'")
    book.save()
    (out / "bench.md").write_text(page(book.report), "utf-8")


def _show(book: Book, console: Console) -> None:
    for section in sections_of(book.report):
        for heading, *lines in table_lines(book.report, section):
            grid = Table(title=section, title_justify="left", box=None, header_style="bold", pad_edge=False)
            for number, name in enumerate(heading):
                grid.add_column(name, justify="left" if number < 2 else "right")
            for line in lines:
                grid.add_row(*line)
            console.print(grid)
    for one in book.report["failed"]:
        console.print(f"✗ {one['section']}, {one['contestant']}, round {one['round'] + 1}: {one['why'][:500]}", markup=False)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    text = __doc__ or ""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=text, formatter_class=argparse.RawDescriptionHelpFormatter, usage='make bench ARGS="…"'
    )
    parser.add_argument("--only", default=",".join(SECTIONS), metavar="SECTIONS", help=f"of {', '.join(SECTIONS)}  [default: all]")
    parser.add_argument("--quick", action="store_true", help="small sizes and one round: minutes")
    parser.add_argument("--rounds", type=int, help="how often each is measured  [default: 3, quick: 1]")
    parser.add_argument(
        "--with",
        dest="wanted",
        default="",
        metavar="WORDS",
        help="only contestants with one of these words in their name; the section then has no others",
    )
    parser.add_argument("--rows", type=int, help="the largest table of `growth`  [default: 1000000, quick: 10000]")
    parser.add_argument("--hours", type=float, default=0.0, help="how long `memory` lasts  [default: 4 minutes, quick: 1]")
    parser.add_argument("--out", type=Path, help="where bench.md, bench.json and bench/ go  [default: docs, quick: .concord/bench-quick]")
    parser.add_argument("--render", action="store_true", help="measure nothing, make page and plots of the figures that are there")
    args = parser.parse_args(argv)
    args.only = [name.strip() for name in args.only.split(",") if name.strip()]
    if strange := set(args.only) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(strange))}: there are {', '.join(SECTIONS)}")
    args.wanted = [word.strip() for word in args.wanted.split(",") if word.strip()]
    args.rounds_by_default = args.rounds is None
    args.rounds = args.rounds or (1 if args.quick else 3)
    if args.rounds < 1:
        parser.error("--rounds: at least 1")
    args.out = args.out or (HOME / "bench-quick" if args.quick else ROOT / "docs")
    args.out.mkdir(parents=True, exist_ok=True)
    return args


if __name__ == "__main__":
    sys.exit(main())
