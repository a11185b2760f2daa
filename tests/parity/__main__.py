"""Our source and real Debezium side by side on one database: every type, every kind of event, compared part by part.

    make parity                         writes docs/debezium-parity.md and .json; exit status 1 when something differs without a reason
    python -m tests.parity --json FILE --page FILE [--postgres 18]

Needs Java 17+ and Maven, like `concord up --source debezium`; a minute or two.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from console import stack
from console.stack.state import StackError
from examples.drive import HOME
from schemas.errors import ConcordError
from tests.parity.page import page, told, unexplained
from tests.parity.run import run
from tests.parity.world import ParityError

DOCS = Path(__file__).resolve().parents[2] / "docs"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--page", type=Path, default=DOCS / "debezium-parity.md")
    parser.add_argument("--json", type=Path, default=DOCS / "debezium-parity.json")
    parser.add_argument("--postgres", type=int, help="major version of the server  [default: this machine's own, else 16]")
    args = parser.parse_args(argv)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    began = time.monotonic()

    def say(line: str) -> None:
        console.print(f"{time.monotonic() - began:6.1f} s  {line}", markup=False)

    try:
        with (
            tempfile.TemporaryDirectory(prefix="concord-parity-") as folder,
            stack.running(HOME, run="parity", postgres=(args.postgres,), fsync=False, ephemeral=True, progress=say) as services,
        ):
            assert services.kafka is not None
            report = told(run(services.postgres[0].dsn, services.kafka.bootstrap, Path(folder), HOME, say), services.postgres[0].version)
    except KeyboardInterrupt:
        return 130
    except (StackError, ParityError, ConcordError) as error:
        say(f"could not be compared: {error}")
        return 2
    args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")
    args.page.write_text(page(report), "utf-8")
    left = unexplained(report)
    for line in left[:40]:
        console.print(f"✗ {line}", markup=False)
    say(f"{args.page} written; {len(left)} differences without a reason")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
