"""Which faults a run has, drawn from its seed: when, what kind, to whom, how long. Pure: the same seed is the same plan."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

SYSTEMS = ("crm", "erp")
WORKERS = 2  # of the streams, and of each sink: what one does not do the other takes over in mid-flight
STREAMS = tuple(f"streams-{worker}" for worker in range(WORKERS))
PARTS = (
    *(f"source-{system}" for system in SYSTEMS),
    *STREAMS,
    *(f"sink-{system}-{worker}" for system in SYSTEMS for worker in range(WORKERS)),
)
LINES = ("kafka", "crm", "erp")  # those that go through a proxy
# Tables that the operator has read again: (the CRM's, the ERP's), each with a reference to another or none.
TABLES = {"crm": ("account", "contact", "product", "sales_order"), "erp": ("business_partner", "item", "stock_level", "invoice")}


class Kind(StrEnum):
    KILL = "SIGKILL of a part"
    TERM = "SIGTERM of a part"
    FREEZE = "SIGSTOP, then SIGCONT of a part or of the supervisor"
    SUPERVISOR = "SIGKILL of the supervisor, another takes over"
    STOP = "SIGTERM of the supervisor, then up again"
    SECOND = "a second supervisor started beside the first"
    STATE = "a streams worker's local state deleted"
    BROKER = "SIGKILL of Kafka"
    DATABASE = "SIGKILL of PostgreSQL"
    BACKENDS = "all sessions of a database ended"
    SLOT = "a replication slot dropped"
    INVALID = "a replication slot invalidated by max_slot_wal_keep_size"
    CLOCK = "a database server's clock steps"
    CUT = "connections cut"
    HOLD = "connections held open without bytes"
    SLOW = "a slow line"
    DISK = "Kafka's disk full"
    STATE_DISK = "the disk of the streams' state full"
    DDL = "DDL on mapped and unmapped tables"
    LOCK = "rows locked by the application"
    DEADLOCK = "a deadlock of the application with a sink"
    SERIALIZE = "serialization failures"
    BULK = "a bulk transaction"
    OFFSETS = "the consumer groups' offsets set back to the start"
    SNAPSHOT = "concord snapshot"
    REPLAY = "concord replay"


# How often, relative to each other; what stops everything for long is rarer.
WEIGHTS = {
    Kind.KILL: 30,
    Kind.TERM: 10,
    Kind.FREEZE: 10,
    Kind.SUPERVISOR: 3,
    Kind.STOP: 2,
    Kind.SECOND: 2,
    Kind.STATE: 3,
    Kind.BROKER: 4,
    Kind.DATABASE: 4,
    Kind.BACKENDS: 6,
    Kind.SLOT: 2,
    Kind.INVALID: 2,
    Kind.CLOCK: 6,
    Kind.CUT: 12,
    Kind.HOLD: 5,
    Kind.SLOW: 6,
    Kind.DISK: 2,
    Kind.STATE_DISK: 2,
    Kind.DDL: 3,
    Kind.LOCK: 6,
    Kind.DEADLOCK: 4,
    Kind.SERIALIZE: 3,
    Kind.BULK: 3,
    Kind.OFFSETS: 2,
    Kind.SNAPSHOT: 3,
    Kind.REPLAY: 2,
}
# What a short run in the test suite draws from: all that is over within seconds.
KINDS_OF_TEST = tuple(kind for kind in Kind if kind not in (Kind.STOP, Kind.OFFSETS, Kind.DISK, Kind.STATE_DISK, Kind.SLOT, Kind.INVALID))


@dataclass(frozen=True, slots=True)
class Fault:
    at: float  # seconds after people began to work
    kind: Kind
    target: str
    seconds: float = 0  # how long it lasts; 0: an instant. Of a clock: by how much it steps
    size: int = 0  # rows, of a bulk transaction
    what: str = ""  # is read again: a table of a snapshot, the start of a replay


def drawn(
    seed: int, count: int, seconds: float, bulk_rows: int, only: Collection[Kind] = (), without: Collection[Kind] = ()
) -> list[Fault]:
    """`count` faults at random instants of a run, in order; several may be at work at once. With `only`, each of these kinds at least once
    if there are as many faults. `without`: kinds that cannot be had on this machine."""
    rng = random.Random(f"chaos {seed}")
    kinds = [kind for kind in WEIGHTS if (kind in only or not only) and kind not in without]
    weights = [WEIGHTS[kind] for kind in kinds]
    first = rng.sample(kinds, min(count, len(kinds))) if only else []
    chosen = [*first, *rng.choices(kinds, weights, k=count - len(first))]
    faults = [_drawn(rng, kind, rng.uniform(0, seconds), bulk_rows) for kind in chosen]
    return sorted(faults, key=lambda fault: fault.at)


def _drawn(rng: random.Random, kind: Kind, at: float, bulk_rows: int) -> Fault:
    match kind:
        case Kind.KILL | Kind.TERM:
            return Fault(at, kind, rng.choice(PARTS))
        case Kind.FREEZE:
            return Fault(at, kind, rng.choice((*PARTS, "supervisor")), rng.choice((0.5, 2, 8)))  # 8: longer than the group's session
        case Kind.SUPERVISOR | Kind.STOP | Kind.SECOND:
            return Fault(at, kind, "supervisor")
        case Kind.OFFSETS:
            return Fault(at, kind, "all groups")
        case Kind.BROKER:
            return Fault(at, kind, "kafka", rng.choice((0, 0, 5)))
        case Kind.DATABASE:
            return Fault(at, kind, rng.choice(SYSTEMS), rng.choice((0, 0, 5)))
        case Kind.SLOT | Kind.INVALID | Kind.DDL | Kind.BACKENDS:
            return Fault(at, kind, rng.choice(SYSTEMS))
        case Kind.CLOCK:
            return Fault(at, kind, rng.choice(SYSTEMS), rng.choice((-90, -10, -2, -0.5, 0.5, 2, 10, 90)))
        case Kind.CUT:
            return Fault(at, kind, rng.choice(LINES))
        case Kind.HOLD:
            return Fault(at, kind, rng.choice(LINES), rng.uniform(1, 6))
        case Kind.SLOW:
            return Fault(at, kind, rng.choice(LINES), rng.uniform(2, 8))
        case Kind.DISK:
            return Fault(at, kind, "kafka", rng.uniform(1, 5))
        case Kind.STATE_DISK:
            return Fault(at, kind, rng.choice(STREAMS), rng.uniform(3, 8))
        case Kind.STATE:
            return Fault(at, kind, rng.choice(STREAMS))
        case Kind.LOCK | Kind.DEADLOCK | Kind.SERIALIZE:
            return Fault(at, kind, rng.choice(SYSTEMS), rng.uniform(0.5, 4))
        case Kind.BULK:
            return Fault(at, kind, rng.choice(SYSTEMS), size=rng.randint(bulk_rows // 2, bulk_rows))
        case Kind.SNAPSHOT:
            system = rng.choice(SYSTEMS)
            return Fault(at, kind, system, what=rng.choice(TABLES[system]))
        case Kind.REPLAY:
            return Fault(at, kind, rng.choice(SYSTEMS), what=rng.choice(("earliest", "20s", "5s")))
