"""Which faults a run has, drawn from its seed: when, what kind, to whom, how long. Pure: the same seed is the same plan."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

SYSTEMS = ("crm", "erp")
PARTS = ("source-crm", "source-erp", "streams-0", "streams-1", "sink-crm-0", "sink-erp-0")
LINES = ("kafka", "crm", "erp")  # those that go through a proxy


class Kind(StrEnum):
    KILL = "SIGKILL of a part"
    TERM = "SIGTERM of a part"
    FREEZE = "SIGSTOP, then SIGCONT of a part"
    SUPERVISOR = "SIGKILL of the supervisor"
    BROKER = "SIGKILL of Kafka"
    DATABASE = "SIGKILL of PostgreSQL"
    CUT = "connections cut"
    HOLD = "connections held open without bytes"
    SLOW = "a slow line"
    STATE = "a streams worker's local state deleted"
    SLOT = "a replication slot dropped"
    OFFSETS = "the streams' offsets set back to the start"
    DDL = "a column added to and dropped from mapped and unmapped tables"
    LOCK = "rows locked by the application"
    BULK = "a bulk transaction"
    BACKENDS = "all sessions of a database ended"


# How often, relative to each other; what stops everything for long is rarer.
WEIGHTS = {
    Kind.KILL: 30,
    Kind.TERM: 10,
    Kind.FREEZE: 10,
    Kind.SUPERVISOR: 3,
    Kind.BROKER: 4,
    Kind.DATABASE: 4,
    Kind.CUT: 12,
    Kind.HOLD: 5,
    Kind.SLOW: 6,
    Kind.STATE: 3,
    Kind.SLOT: 2,
    Kind.OFFSETS: 2,
    Kind.DDL: 3,
    Kind.LOCK: 6,
    Kind.BULK: 3,
    Kind.BACKENDS: 6,
}


@dataclass(frozen=True, slots=True)
class Fault:
    at: float  # seconds after people began to work
    kind: Kind
    target: str
    seconds: float  # how long it lasts; 0: an instant
    size: int = 0  # rows, of a bulk transaction


def drawn(seed: int, count: int, seconds: float, bulk_rows: int, only: tuple[Kind, ...] = ()) -> list[Fault]:
    """`count` faults at random instants of a run, in order; several may be at work at once."""
    rng = random.Random(f"chaos {seed}")
    kinds = [kind for kind in WEIGHTS if kind in only or not only]
    weights = [WEIGHTS[kind] for kind in kinds]
    faults = [_drawn(rng, rng.choices(kinds, weights)[0], rng.uniform(0, seconds), bulk_rows) for _ in range(count)]
    return sorted(faults, key=lambda fault: fault.at)


def _drawn(rng: random.Random, kind: Kind, at: float, bulk_rows: int) -> Fault:
    match kind:
        case Kind.KILL | Kind.TERM:
            return Fault(at, kind, rng.choice(PARTS), 0)
        case Kind.FREEZE:
            return Fault(at, kind, rng.choice(PARTS), rng.choice((0.5, 2, 8)))  # 8: longer than the group's session
        case Kind.SUPERVISOR | Kind.BROKER | Kind.OFFSETS:
            return Fault(at, kind, {Kind.SUPERVISOR: "supervisor", Kind.BROKER: "kafka"}.get(kind, "streams"), 0)
        case Kind.DATABASE | Kind.SLOT | Kind.DDL | Kind.BACKENDS:
            return Fault(at, kind, rng.choice(SYSTEMS), 0)
        case Kind.CUT:
            return Fault(at, kind, rng.choice(LINES), 0)
        case Kind.HOLD:
            return Fault(at, kind, rng.choice(LINES), rng.uniform(1, 6))
        case Kind.SLOW:
            return Fault(at, kind, rng.choice(LINES), rng.uniform(2, 8))
        case Kind.STATE:
            return Fault(at, kind, rng.choice(("streams-0", "streams-1")), 0)
        case Kind.LOCK:
            return Fault(at, kind, rng.choice(SYSTEMS), rng.uniform(0.5, 4))
        case Kind.BULK:
            return Fault(at, kind, rng.choice(SYSTEMS), 0, rng.randint(bulk_rows // 2, bulk_rows))
