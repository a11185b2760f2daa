"""What processes use is counted with what they have started, also when that has ended; memory is looked at while a block lasts."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from bench.usage import MACHINE, Cpu, Memory, megabytes

BUSY = "import time\nwhile time.process_time() < 0.3: pass"
PARENT = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY!r}])\nprint('done', flush=True)\nsys.stdin.read()"


def test_a_child_that_has_ended_counts_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        before = Cpu.of({"parent": [os.getpid()], "nobody": []})
        assert parent.stdout.readline() == "done\n"
        used = Cpu.of({"parent": [parent.pid]}).seconds["parent"]
        assert used >= 0.3
        since = Cpu.of({"parent": [os.getpid()], "nobody": []}).since(before)
        assert since["nobody"] == 0.0
        assert since["parent"] <= since[MACHINE] + 0.5
        parent.communicate()


def test_processes_that_are_gone_use_nothing() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert Cpu.of({"gone": [gone.pid]}).seconds["gone"] == 0.0
    assert megabytes([gone.pid]) == 0.0


def test_memory_is_seen_while_the_block_lasts() -> None:
    with Memory(lambda: {"us": [os.getpid()], "nobody": []}, every=0.01) as memory:
        while len(memory.seen.get("us", ())) < 3:
            time.sleep(0.01)
    assert memory.peak["us"] > 5
    assert "nobody" not in memory.peak
    assert all(one[0] < other[0] + 0.02 for one, other in zip(memory.seen["us"], memory.seen["us"][1:], strict=False))
