"""Writes docs/types.md: python -m tests.roundtrip"""

from __future__ import annotations

import sys

from console import stack
from examples.drive import HOME
from tests.roundtrip.carried import Outcomes
from tests.roundtrip.page import page
from tests.roundtrip.roads import roads
from tests.roundtrip.test_round_trip_of_types import DOCS
from tests.roundtrip.values import rows


def main() -> int:
    outcomes: Outcomes = {}
    with (
        stack.running(HOME, run="types", kafka=False, fsync=False, ephemeral=True) as services,
        roads(*(server.dsn for server in services.postgres)) as found,
    ):
        for road in found:
            road.carry(rows(None, 0), outcomes)
    (DOCS / "types.md").write_text(page(outcomes), "utf-8")
    print(f"{DOCS / 'types.md'} written: {len(outcomes)} types")
    return 0


if __name__ == "__main__":
    sys.exit(main())
