"""A change event as it stands on a captured topic: Debezium's envelope, read from its Avro datum or its JSON.

    key    {primary key columns}, or null
    value  {before, after, source{…}, transaction, op, ts_ms, ts_us, ts_ns}, or null: a tombstone
    header `concord.columns`  what the body cannot hold: see `ColumnTexts`
    header `concord.ours`     of a row that was read after a lost slot: what our sink had written there, see `ours_of`

The rows stay data here (Debezium's representation); `schemas.mapping` turns them into column texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

import orjson

from schemas.errors import NotAnEvent
from schemas.lsn import Position

COLUMNS_HEADER = "concord.columns"
OURS_HEADER = "concord.ours"
CONNECTOR = "concord 0.1.0"  # `source.version` of our own source; Debezium's is its own, 3.6.3.Final
OUR_ORIGINS = "concord_"  # what the names of the replication origins begin with that our sinks write under
UNAVAILABLE = "__debezium_unavailable_value"  # stands for an unchanged TOAST value that the log does not carry


class EventOp(Enum):
    """What an event tells. The first four are `schemas.change.Op`, by value."""

    CREATE = "c"
    UPDATE = "u"
    DELETE = "d"
    READ = "r"  # seen by a snapshot
    TRUNCATE = "t"
    MESSAGE = "m"  # pg_logical_emit_message


@dataclass(frozen=True, slots=True)
class Source:
    """Where and when a change was committed."""

    version: str  # of the connector
    name: str  # the system
    db: str
    schema: str
    table: str
    ts_us: int  # commit time by the database's clock, µs since 1970
    snapshot: str | None  # "false", "true", "first", "last", "incremental", …; None: nothing was said, it is "false"
    sequence: str | None  # '["<commit LSN>","<LSN>"]', decimal; never decreases along the log
    tx_id: int | None
    lsn: int | None
    origin: str | None  # replication origin of the transaction, None: written by somebody else than a replication
    origin_lsn: int | None

    @property
    def by_debezium(self) -> bool:
        """Whether real Debezium captured it."""
        return not self.version.startswith("concord ")


@dataclass(frozen=True, slots=True)
class Envelope:
    """One change event."""

    op: EventOp
    before: Mapping[str, Any] | None  # without REPLICA IDENTITY FULL: None, or on a delete the key only
    after: Mapping[str, Any] | None  # None when op is DELETE or TRUNCATE
    source: Source
    ts_us: int | None  # when the connector read it, not when it was committed

    @property
    def position(self) -> Position:
        """Where the event stands in its system's log. Raises NotAnEvent when the source block does not say."""
        position = position_of(self.source.sequence, self.source.lsn)
        return Position(position.lsn, position.lsn) if self.source.by_debezium else position


def position_of(sequence: str | None, lsn: int | None) -> Position:
    """`source.sequence` and `source.lsn` as our source means them. The first number of Debezium's sequence is not of a commit: it is where
    the event's own transaction began, and of two transactions the one that began first may be the later one (decision 0027)."""
    try:
        after_commit, in_sequence = orjson.loads(sequence or "[null,null]")
        where = lsn if lsn is not None else int(in_sequence)
        return Position(int(after_commit or 0), where)
    except (ValueError, TypeError) as error:
        raise NotAnEvent(f"no position: sequence {sequence!r}, lsn {lsn!r}") from error


def envelope_of(datum: Any) -> Envelope:
    """Raises NotAnEvent when `datum` is not Debezium's envelope."""
    try:
        source = datum["source"]
        ts_us = source.get("ts_us")
        return Envelope(
            op=EventOp(datum["op"]),
            before=datum.get("before"),
            after=datum.get("after"),
            source=Source(
                version=source["version"],
                name=source["name"],
                db=source["db"],
                schema=source["schema"],
                table=source["table"],
                ts_us=ts_us if ts_us is not None else source["ts_ms"] * 1000,
                snapshot=source.get("snapshot"),
                sequence=source.get("sequence"),
                tx_id=source.get("txId"),
                lsn=source.get("lsn"),
                origin=source.get("origin"),
                origin_lsn=source.get("origin_lsn"),
            ),
            ts_us=datum.get("ts_us"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotAnEvent(f"not Debezium's envelope: {error!r}; is a transformation of the connector on that unwraps it?") from error


def is_aside(datum: Any) -> bool:
    """Whether this, on a topic of change events, is something else that Debezium sends: a heartbeat, a transaction's beginning or end, a
    logical message."""
    if not isinstance(datum, dict):
        return False
    return (
        datum.keys() == {"ts_ms"} or (datum.get("status") in ("BEGIN", "END") and "id" in datum) or datum.get("op") == EventOp.MESSAGE.value
    )


@dataclass(frozen=True, slots=True)
class ColumnTexts:
    """Column values that Debezium's representation cannot hold (a numeric NaN, int[][], months of an interval), as PostgreSQL prints them.

    They travel beside the body, so that the body stays Debezium's; readers that do not know the header see what Debezium would tell them.
    """

    before: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)
    unchanged: tuple[str, ...] = ()  # columns of `after` that hold the unchanged-TOAST placeholder: not known

    def encode(self) -> bytes:
        parts = {"before": dict(self.before), "after": dict(self.after), "unchanged": list(self.unchanged)}
        return orjson.dumps({name: part for name, part in parts.items() if part})

    def amend_before(self, row: dict[str, str | None]) -> dict[str, str | None]:
        """`row` (column texts of `before`) with the true texts in place."""
        row.update(self.before)
        return row

    def amend_after(self, row: dict[str, str | None]) -> dict[str, str | None]:
        """`row` (column texts of `after`) with the true texts in place, and without what is not known."""
        row.update(self.after)
        for name in self.unchanged:
            row.pop(name, None)
        return row


NO_TEXTS = ColumnTexts()


def column_texts(headers: Iterable[tuple[str, bytes | None]] | None) -> ColumnTexts:
    """The header `concord.columns` of a record; NO_TEXTS without one. Raises NotAnEvent when it cannot be read."""
    for name, value in headers or ():
        if name == COLUMNS_HEADER:
            try:
                told = orjson.loads(value or b"")
                before, after, unchanged = told.get("before", {}), told.get("after", {}), told.get("unchanged", [])
                if not all(isinstance(text, str) for part in (before.values(), after.values(), unchanged) for text in part):
                    raise ValueError("a value that is no text")
                return ColumnTexts(before, after, tuple(unchanged))
            except (ValueError, AttributeError, TypeError) as error:
                raise NotAnEvent(f"header {COLUMNS_HEADER} {value!r}: {error}") from error
    return NO_TEXTS


def ours_of(headers: Iterable[tuple[str, bytes | None]] | None) -> Mapping[str, Mapping[str, Any]] | None:
    """The header `concord.ours` of a record: entity → field → [the value that our sink wrote last in this row, the hlc of what it applied],
    in the very state that the row was read in. Every row that is read after a lost slot has one; None without. Raises NotAnEvent when it
    cannot be read."""
    for name, value in headers or ():
        if name == OURS_HEADER:
            try:
                told = orjson.loads(value or b"")
                if not all(type(hlc) is int for fields in told.values() for _, hlc in fields.values()):
                    raise ValueError("an hlc that is no number")
                return cast("Mapping[str, Mapping[str, Any]]", told)
            except (ValueError, AttributeError, TypeError) as error:
                raise NotAnEvent(f"header {OURS_HEADER} {value!r}: {error}") from error
    return None
