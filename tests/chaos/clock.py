"""Clocks of the database servers that differ and step back.

A server is started with a small library in front of the C library's `gettimeofday` (`clock.c`), which is where PostgreSQL takes the time of
a commit from; what it adds stands in a file that may be changed at any time. Nothing of the pipeline knows of it. It needs a C compiler
(`cc`) and a system with LD_PRELOAD; without, the clocks are the machine's and do not step, and the run says so.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


def library(folder: Path) -> Path | str:
    """The library, compiled into the folder; or why there is none."""
    compiler = shutil.which("cc")
    if compiler is None:
        return "shifting a server's clock needs a C compiler (cc): install one (Debian: gcc)"
    made = folder / "clock.so"
    done = subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(made), str(SOURCE)], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"{SOURCE.name} could not be compiled: {(done.stderr.strip().splitlines() or ['no reason given'])[0]}"
    return made


class Clock:
    """What is added to a server's clock."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.write_bytes(bytes(8))
        file.chmod(0o644)
        self._seconds = 0.0
        with file.open("r+b") as opened:
            self._shift = mmap.mmap(opened.fileno(), 8)

    def environment(self, made: Path) -> dict[str, str]:
        """What a server is started with."""
        return {"LD_PRELOAD": str(made), "CHAOS_CLOCK": str(self.file)}

    def step(self, seconds: float) -> None:
        """Forth, or back."""
        self._seconds += seconds
        self._shift[:] = struct.pack("=q", round(self._seconds * 1e6))
