"""The faults of a chaos run: which there are and when they strike (`plan`), and how each is done, by what it strikes.

    plan         kinds, how often, the plan of a seed: pure
    world        what there is to strike; `Missed` and `Broken`
    processes    our own: SIGKILL, SIGTERM, SIGSTOP of parts and of the supervisor, a second supervisor, local state deleted
    lines        cut, held open without bytes, slow
    services     Kafka and PostgreSQL: SIGKILL, their sessions ended, slots dropped and invalidated, clocks that step
    disks        a full disk for Kafka and for the streams' state
    application  what people's own programs do: locks, deadlocks, serialization failures, bulk transactions, DDL
    operator     what the operator does meanwhile: consumer offsets set back, a snapshot, a replay

Each is a function `(world, fault) → what was seen to happen`. A fault that was not seen to happen raises `Missed` and is not counted; one
that happened, and which the pipeline answered wrongly at once, raises `Broken`. What comes of it later the referee judges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.chaos.faults import application, disks, lines, operator, processes, services
from tests.chaos.faults.plan import KINDS_OF_TEST, SYSTEMS, Fault, Kind, drawn
from tests.chaos.faults.world import Broken, Missed, World

__all__ = ["KINDS_OF_TEST", "STRIKES", "SYSTEMS", "Broken", "Fault", "Kind", "Missed", "World", "drawn"]

STRIKES: Mapping[Kind, Callable[[World, Fault], str]] = {
    Kind.KILL: processes.kill,
    Kind.TERM: processes.terminate,
    Kind.FREEZE: processes.freeze,
    Kind.SUPERVISOR: processes.kill_supervisor,
    Kind.STOP: processes.stop_supervisor,
    Kind.SECOND: processes.second_supervisor,
    Kind.STATE: processes.delete_state,
    Kind.BROKER: services.kill_server,
    Kind.DATABASE: services.kill_server,
    Kind.BACKENDS: services.end_sessions,
    Kind.SLOT: services.drop_slot,
    Kind.INVALID: services.invalidate_slot,
    Kind.CLOCK: services.step_clock,
    Kind.CUT: lines.cut,
    Kind.HOLD: lines.hold,
    Kind.SLOW: lines.slow,
    Kind.DISK: disks.fill,
    Kind.STATE_DISK: disks.fill,
    Kind.DDL: application.change_tables,
    Kind.LOCK: application.hold_locks,
    Kind.DEADLOCK: application.deadlock,
    Kind.SERIALIZE: application.serialize,
    Kind.BULK: application.save_in_bulk,
    Kind.OFFSETS: operator.set_offsets_back,
    Kind.SNAPSHOT: operator.snapshot,
    Kind.REPLAY: operator.replay,
}
