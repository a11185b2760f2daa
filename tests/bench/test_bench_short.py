"""A short run on real servers: what is measured is there, every change has arrived, and nothing is left behind. The peers in Java are left
to `make bench`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.report import page
from bench.rounds import Book
from bench.sections import path, source
from bench.world import World
from console import stack
from tests.services import HOME

ROOT = HOME.parent
pytestmark = [pytest.mark.slow, pytest.mark.kafka, pytest.mark.postgres, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if lacks := stack.kafka_lacks(HOME) or stack.postgres_lacks():
        pytest.skip(lacks)
    run = f"test-{os.getpid()}-bench"
    with stack.running(HOME, run=run, postgres=(16, 18), fsync=False, ephemeral=True) as state:
        yield World(state, tmp_path_factory.mktemp("bench"), print)


def test_the_path_of_two_contestants_is_measured(world: World) -> None:
    book = Book(None)
    path.run(world, book, path.Sizes(1, 1.0, (50.0,), 400), ("logical", "again"))
    assert book.report["failed"] == []
    cells = ["idle, one way", "50/s, one way", "50/s, both ways", "burst, one way", "burst, both ways"]
    for name in ("logical replication", "Concord (again)"):
        found = {one["cell"]: one["values"] for one in book.report["measured"] if one["contestant"] == name}
        assert list(found) == cells
        assert all(
            found[cell]["reading_p50"] > 0 and 0 < found[cell]["p50"] <= found[cell]["p99"] <= found[cell]["max"] for cell in cells[:3]
        )
        assert [found[cell]["changes"] for cell in cells[3:]] == [400, 800]
        assert all(found[cell]["us PostgreSQL"] > 0 for cell in cells[3:])
    assert "| idle, one way | logical replication |" in page(book.report)


def test_our_source_is_measured_in_all_three_cells(world: World) -> None:
    book = Book(None)
    source.run(world, book, source.Sizes(1, 30_000, 30_000), ("again",))
    assert book.report["failed"] == []
    values = {one["cell"]: one["values"] for one in book.report["measured"]}
    assert list(values) == ["snapshot", "one-row transactions", "one transaction"]
    assert all(one["rate"] > 0 and one["us"] > 0 and one["mb"] > 0 for one in values.values())


def test_ctrl_c_stops_cleanly_and_keeps_what_is_there(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--only", "path", "--with", "logical", "--out", str(tmp_path)]
    bench = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "bench.json").exists():
            assert bench.poll() is None
            assert time.monotonic() < deadline, "nothing is measured"
            time.sleep(0.1)
        children = psutil.Process(bench.pid).children(recursive=True)
        bench.send_signal(signal.SIGINT)
        said, _ = bench.communicate(timeout=60)
    finally:
        if bench.poll() is None:
            bench.kill()
            bench.communicate()
    assert bench.returncode == 130
    assert "stopped; what was measured is kept" in said
    assert "| idle, one way | logical replication |" in (tmp_path / "bench.md").read_text()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert [process.cmdline() for process in alive] == []
