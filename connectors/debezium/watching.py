"""A Connect worker's connectors, one per system: put there, looked after, and their systems said to be captured.

put       the settings of each connector, which are the same every time
look      a connector or task that failed is started again, after a wait that doubles
captured  Debezium streams from a slot only when it has read all there was; then `concord.snapshot` says of each table that it is done,
          which is what `concord status` goes by, and our own source should it take over
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from connectors.debezium.connect import Connect, ConnectorState
from connectors.debezium.settings import Settings, TableName
from connectors.source.slot import slot_state
from connectors.source.snapshot import SnapshotStore
from schemas.errors import ConcordError

logger = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds until what failed is started again
WELL_AFTER = 60.0  # a connector that ran so long was well: its next failure is something new

Session = Callable[[], AbstractContextManager["psycopg.Connection[Any]"]]


@dataclass(frozen=True, slots=True)
class Captured:
    """One system, as Debezium is to capture it."""

    system: str
    connector: str  # its name in the Connect cluster
    settings: Settings = field(repr=False)  # a password may be in it
    slot: str
    tables: tuple[TableName, ...]
    session: Session  # a connection to it, as the login


@dataclass(slots=True)
class _Watched:
    captured: Captured
    streams: bool = False  # what was there is read, and concord.snapshot says so
    failures: int = 0
    restart_at: float | None = None
    running_since: float | None = None
    error: str = ""


class Watching:
    """Looks after the connectors of some systems. Not for several threads."""

    def __init__(self, connect: Connect, systems: Mapping[str, Captured]) -> None:
        self._connect = connect
        self._watched = {system: _Watched(captured) for system, captured in systems.items()}

    def put(self) -> None:
        """Raises Retriable, Refused."""
        for one in self._watched.values():
            self._connect.put(one.captured.connector, one.captured.settings)

    def look(self) -> None:
        """One round. Raises Retriable when Connect does not answer."""
        for one in self._watched.values():
            state = self._connect.state(one.captured.connector)
            self._look_after(one, state, time.monotonic())
            if state.runs and not one.streams:
                one.streams = mark_captured(one.captured)

    @property
    def waiting(self) -> dict[str, str]:
        """Systems that are not captured yet, or not now → what is wrong with their connector; ''."""
        return {system: one.error for system, one in self._watched.items() if not one.streams or one.running_since is None}

    def _look_after(self, one: _Watched, state: ConnectorState, now: float) -> None:
        name = one.captured.connector
        if state.runs:
            one.running_since = one.running_since or now
            one.restart_at, one.error = None, ""
            if now - one.running_since > WELL_AFTER:
                one.failures = 0
            return
        one.running_since = None
        if state.failed:
            if one.restart_at is None:
                one.failures += 1
                wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (one.failures - 1))
                one.restart_at, one.error = now + wait, state.trace
                logger.warning("connector %s failed: %s; starting it again in %.1f s", name, state.trace, wait)
            elif now >= one.restart_at:
                self._connect.restart(name)
                one.restart_at = None
        elif not state.connector:
            self._connect.put(name, one.captured.settings)  # somebody deleted it


def mark_captured(captured: Captured) -> bool:
    """Whether Debezium streams from the system's slot; if so every table of it is marked as read."""
    try:
        with captured.session() as conn:
            slot = slot_state(conn, captured.slot)
            if slot is None or not slot.active:
                return False
            store = SnapshotStore(conn, captured.slot)
            store.add(captured.tables)
            for table in _whole(store, captured.tables):
                store.finish(table)
    except ConcordError as error:
        logger.warning("system %s: not known yet whether it is captured: %s", captured.system, error)
        return False
    logger.info("system %s: what was there is read, Debezium streams from slot %s", captured.system, captured.slot)
    return True


def _whole(store: SnapshotStore, tables: tuple[TableName, ...]) -> Iterator[Any]:
    return (progress for progress in store.pending(tables) if progress.predicate == "")
