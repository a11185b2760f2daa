"""Jars that Maven resolves: each pom into a folder of its own below `home`, once."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from console.stack.state import StackError

DEPENDENCY_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


@dataclass(frozen=True, slots=True)
class Jars:
    """What one pom names."""

    what: str  # in words: "Kafka 4.3.0"
    pom: Path
    folder: Path  # libs/ and pom.sha256 are in it

    @property
    def libs(self) -> Path:
        return self.folder / "libs"

    @property
    def fetched(self) -> bool:
        stamp = self.folder / "pom.sha256"
        return stamp.exists() and stamp.read_text() == self._digest() and self.libs.is_dir()

    @property
    def lacks(self) -> str | None:
        """What this machine misses to fetch them; None if nothing, or if they are there."""
        if not self.fetched and shutil.which("mvn") is None:
            return f"the jars of {self.what} come through Maven and there is no mvn in PATH: install it (Debian: maven)"
        return None

    def fetch(self, progress: Callable[[str], None]) -> None:
        """Resolve the jars unless they are there already. The old ones stay until the new ones are complete."""
        if self.fetched:
            return
        if missing := self.lacks:
            raise StackError(missing)
        progress(f"{self.what}: resolving jars with Maven")
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self.folder / f"libs-{uuid.uuid4().hex[:8]}"
        command = ["mvn", "-q", "-B", "-f", str(self.pom), DEPENDENCY_PLUGIN, f"-DoutputDirectory={new}", "-DincludeScope=runtime"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder)
            if done.returncode:
                said = (done.stdout + done.stderr).strip()[-2000:]
                raise StackError(f"Maven could not resolve the jars of {self.what} ({' '.join(command)}):\n{said}")
            shutil.rmtree(self.libs, ignore_errors=True)
            new.rename(self.libs)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        (self.folder / "pom.sha256").write_text(self._digest())

    def _digest(self) -> str:
        return hashlib.sha256(self.pom.read_bytes()).hexdigest()
