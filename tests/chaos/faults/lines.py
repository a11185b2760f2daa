"""The network between us and a service, through the proxy in front of it."""

from __future__ import annotations

import time

from tests.chaos.faults.plan import Fault
from tests.chaos.faults.world import Missed, World, seen

MET_SECONDS = 5.0  # a heartbeat passes every second


def cut(world: World, fault: Fault) -> str:
    count = world.lines[fault.target].cut()
    if not count:
        raise Missed(f"there was no connection to {fault.target}")
    return f"{count} connections cut"


def hold(world: World, fault: Fault) -> str:
    line = world.lines[fault.target]
    with line.held():
        before = line.held_pieces
        if not seen(lambda: line.held_pieces > before, MET_SECONDS):
            raise Missed(f"nothing was sent to or from {fault.target}")
        time.sleep(fault.seconds)
        return f"{line.held_pieces - before} connections waited for bytes for {fault.seconds:.1f} s"


def slow(world: World, fault: Fault) -> str:
    line = world.lines[fault.target]
    before = line.slowed_pieces
    with line.slowed():
        time.sleep(fault.seconds)
        if line.slowed_pieces == before:
            raise Missed(f"nothing was sent to or from {fault.target}")
    return f"{line.slowed_pieces - before} pieces were late, within {fault.seconds:.1f} s"
