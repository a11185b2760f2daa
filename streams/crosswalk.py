"""The crosswalk, as the streams use it: `concord.key` in each system's database says which thing a row is.

A system's own rows get there by a sink, in the transaction that creates or adopts them, or by intake, before it uses the first link of a
row that somebody else made: whoever is first, the database lets one link of a row and one row of a thing be in force (docs/decisions/0028).
The other systems' rows get there as golden records tell. An entry's link never changes and no entry is ever deleted, so what has been read
is kept.

An event can be read from the log before its transaction can be seen by a query (docs/decisions/0008): whoever concludes something from an
entry that is not there first waits for the event's transaction, `await_visible`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

import psycopg
from psycopg import sql

from schemas.change import parse_row_name
from schemas.errors import Retriable, SchemaError
from schemas.mapping import Binding, Pipeline

logger = logging.getLogger(__name__)

RowId = tuple[str, str]  # (entity, key) of a row of one system

QUERY_SECONDS = 10.0
TAKE_TRIES = 5  # of a row's first link, while sinks and users make and take away other rows of its thing
VISIBLE_SECONDS = 5.0  # a commit that is in the log is visible within milliseconds, unless it waits for a synchronous standby
LOOK_SECONDS = 0.002, 0.05  # between two looks whether it is: the first, the longest
KEPT_NAMES = 500_000  # row names whose link is remembered: some 100 MB

_LINKS = """
SELECT k.entity, k.key, k.link
FROM unnest(%s::text[], %s::text[]) AS q (entity, key)
JOIN concord.key k ON k.entity = q.entity AND k.system = %s AND k.key = q.key
"""
_NAMES = """
SELECT k.entity, k.system, k.key, k.link
FROM unnest(%s::text[], %s::text[], %s::text[]) AS q (entity, system, key)
JOIN concord.key k ON k.entity = q.entity AND k.system = q.system AND k.key = q.key
"""
_TAKE = """
INSERT INTO concord.key (entity, system, key, link, live, heard)
SELECT q.entity, q.system, q.key, q.link, true, false
FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS q (entity, system, key, link)
WHERE NOT EXISTS (
    SELECT FROM concord.key k
    WHERE k.entity = q.entity AND k.system = q.system AND k.link = q.link AND k.key <> q.key AND NOT k.gone
      AND (k.entity, k.key) NOT IN (SELECT * FROM unnest(%s::text[], %s::text[])))
ORDER BY q.entity, q.system, q.key
ON CONFLICT DO NOTHING RETURNING entity, key, link
"""
_IN_FORCE = """
SELECT q.entity, q.key, k.link, o.key FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS q (entity, system, key, link)
LEFT JOIN concord.key k ON k.entity = q.entity AND k.system = q.system AND k.key = q.key
LEFT JOIN concord.key o
    ON k.link IS NULL AND o.entity = q.entity AND o.system = q.system AND o.link = q.link AND o.key <> q.key AND (o.live OR NOT o.gone)
"""
# Not gone: should its delete never be read, the source must still find that it is missing.
_LEFT = """
UPDATE concord.key k SET live = false
FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS q (entity, system, key, link)
WHERE k.entity = q.entity AND k.system = q.system AND k.key = q.key AND k.link = q.link AND k.live RETURNING k.key
"""
_SNAPSHOT = "SELECT q.xid, age(q.xid::xid) > 0, pg_current_snapshot()::text FROM unnest(%s::text[]) AS q (xid)"


def is_visible(xid: int, snapshot: str) -> bool:
    """Whether a transaction that has begun is seen in `snapshot` (PostgreSQL's text, `xmin:xmax:xid,xid`). `xid`: 32 bits of its id, at
    most 2^31 transactions ago."""
    _, end, running = snapshot.split(":")
    ago = (int(end) - xid) & 0xFFFFFFFF
    return 0 < ago < 1 << 31 and str(int(end) - ago) not in running.split(",")


def _named(*names: str) -> sql.SQL:
    """An identifier in a statement with placeholders: a per cent sign in it is none."""
    return sql.SQL(sql.Identifier(*names).as_string().replace("%", "%%"))


def _words(error: Exception) -> str:
    """One line without values: PostgreSQL's about a statement may quote them, psycopg's about a line that broke does not."""
    if isinstance(error, psycopg.Error) and error.sqlstate and error.sqlstate[:2] in ("21", "22", "23", "44", "P0"):
        return f"{type(error).__name__} [{error.sqlstate}]"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _arrays(system: str, links: Mapping[RowId, str]) -> tuple[list[str], ...]:
    """(entity, key) → link, as the arrays of entities, systems, keys and links."""
    return [entity for entity, _ in links], [system] * len(links), [key for _, key in links], list(links.values())


class Session:
    """One connection to one database, made when it is needed and made anew after an error. One query at a time."""

    def __init__(self, system: str, dsn: str, settings: Mapping[str, str], role: str | None = None) -> None:
        self.system = system
        self._dsn = dsn
        self._settings = dict(settings)
        self._role = role
        self._lock = asyncio.Lock()
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def query(self, statement: str | sql.Composed, parameters: Iterable[Any]) -> list[tuple[Any, ...]]:
        """Raises Retriable, whatever the error: what cannot be asked now must be asked later, no event is to blame for it."""
        async with self._lock:
            try:
                async with asyncio.timeout(QUERY_SECONDS):
                    if self._connection is None:
                        self._connection = await self._connect()
                    text = statement.encode() if isinstance(statement, str) else statement
                    cursor = await self._connection.execute(text, tuple(parameters))
                    return await cursor.fetchall()
            except (psycopg.Error, OSError, TimeoutError) as error:
                await self._drop()
                raise Retriable(f"asking the crosswalk of {self.system}: {_words(error)}") from error
            except BaseException:  # cancelled in mid-query: what the connection answers next would be another question's
                await self._drop()
                raise

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        connection = await psycopg.AsyncConnection.connect(
            self._dsn, autocommit=True, connect_timeout=10, application_name="concord streams", keepalives_idle=10, prepare_threshold=2
        )
        for name, value in self._settings.items():
            await connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        if self._role is not None:
            await connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(self._role)))
        return connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def close(self) -> None:
        async with self._lock:
            await self._drop()


class Crosswalk:
    """All systems' crosswalks. Belongs to one event loop."""

    def __init__(self, pipeline: Pipeline, settings: Mapping[str, str] = {}) -> None:
        """`settings`: of PostgreSQL, for all its sessions."""
        systems = {name: pipeline.config.systems[name] for name in pipeline.systems}
        self._sessions = {name: Session(name, told.dsn, {**told.session, **settings}, told.role) for name, told in systems.items()}
        self._links: dict[tuple[str, str], str] = {}  # (entity, row name) → link
        self._quiet: set[str] = set()  # systems that did not answer, and that has been said

    async def links_of(self, system: str, rows: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """(entity, key) of rows of one system → link, for those that its own database knows. One query. Raises Retriable."""
        asked = list(rows)
        if not asked:
            return {}
        found = await self._sessions[system].query(_LINKS, ([entity for entity, _ in asked], [key for _, key in asked], system))
        return {(entity, key): link for entity, key, link in found}

    async def await_visible(self, system: str, xids: Iterable[int]) -> None:
        """Returns when queries see what these transactions wrote. `xids`: of transactions whose commit was read from the system's log, 32
        bits each. Raises Retriable when one is not seen within VISIBLE_SECONDS.

        One that the server has not assigned yet is of a time before the database was restored: there is nothing to wait for.
        """
        waiting, pause, deadline = {str(xid & 0xFFFFFFFF) for xid in xids}, LOOK_SECONDS[0], time.monotonic() + VISIBLE_SECONDS
        while waiting:
            looked = await self._sessions[system].query(_SNAPSHOT, [sorted(waiting)])
            waiting = {xid for xid, begun, snapshot in looked if begun and not is_visible(int(xid), snapshot)}
            if waiting and time.monotonic() > deadline:
                told = f"{system} has transactions in its log that no query sees yet, {min(waiting)} among them"
                raise Retriable(f"{told}: does a commit wait for a synchronous standby?")
            if waiting:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LOOK_SECONDS[1])

    async def take(
        self, system: str, wanted: Mapping[RowId, str], bindings: Mapping[str, Binding], xids: Mapping[RowId, set[int]]
    ) -> dict[RowId, str | None]:
        """Puts the first links of rows in force: (entity, key) → the link that the row has now. That is the wanted one; or another that a
        sink gave it first; or None, when the thing has another row in this system, which is there and counts.

        `xids`: of the transactions that the row came with; the other row may have gone in one of them. Raises Retriable.
        """
        session, in_force, waiting = self._sessions[system], dict[RowId, str | None](), dict(wanted)
        left = dict[RowId, str]()  # other rows of these things that are not there, or do not count
        for _ in range(TAKE_TRIES):
            if not waiting:
                return in_force
            won = await session.query(_TAKE, (*_arrays(system, waiting), [entity for entity, _ in left], [key for _, key in left]))
            in_force |= {(entity, key): link for entity, key, link in won}
            waiting = {row: link for row, link in waiting.items() if row not in in_force}
            for entity, key, link, other in await session.query(_IN_FORCE, _arrays(system, waiting)) if waiting else ():
                row = entity, key
                if link is not None:
                    in_force[row] = link
                elif other is not None and await self._counts(bindings[entity], other, xids.get(row, set())):
                    in_force[row] = None
                elif other is not None:
                    left[entity, other] = wanted[row]
            if left:
                await session.query(_LEFT, _arrays(system, left))
            waiting = {row: link for row, link in waiting.items() if row not in in_force}
        if waiting:
            raise Retriable(f"{system}: which things {', '.join(sorted({entity for entity, _ in waiting}))} are keeps changing")
        return in_force

    async def _counts(self, binding: Binding, key: str, xids: set[int]) -> bool:
        """Whether a row is there and in scope, also once these transactions are seen. Raises Retriable."""
        if not await self._counts_now(binding, key):
            return False
        await self.await_visible(binding.system, xids)
        return not xids or await self._counts_now(binding, key)

    async def _counts_now(self, binding: Binding, key: str) -> bool:
        values = binding.key_values(key)
        columns = sorted(binding.needed) if not binding.parts else list(values)
        statement = sql.SQL("SELECT {} FROM {} WHERE {}").format(
            sql.SQL(", ").join(sql.SQL("{}::text").format(_named(column)) for column in columns),
            _named(binding.table.schema, binding.table.name),
            sql.SQL(" AND ").join(sql.SQL("{}::text = %s").format(_named(column)) for column in values),
        )
        found = await self._sessions[binding.system].query(statement, list(values.values()))
        return bool(found) and (bool(binding.parts) or binding.in_scope(dict(zip(columns, found[0], strict=True))))

    async def learn(self, names: Iterable[tuple[str, str]]) -> None:
        """Look up the things of (entity, row name)s that are not known yet, so that `same_thing` can tell. Never fails."""
        asked = []
        for entity, name in names:
            if (entity, name) not in self._links:
                try:
                    asked.append((entity, *parse_row_name(name)))
                except SchemaError:
                    continue  # no row name: equal to itself only
        if not asked:
            return
        if len(self._links) > KEPT_NAMES:
            self._links.clear()
        parameters = ([entity for entity, _, _ in asked], [system for _, system, _ in asked], [key for _, _, key in asked])
        answers = await asyncio.gather(*(session.query(_NAMES, parameters) for session in self._sessions.values()), return_exceptions=True)
        for system, answer in zip(self._sessions, answers, strict=True):
            if isinstance(answer, Retriable):
                if system not in self._quiet:
                    logger.warning("%s; references are taken as different meanwhile, sinks will find them equal", answer)
                self._quiet.add(system)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                self._quiet.discard(system)
                self._links.update({(entity, f"{of}:{key}"): link for entity, of, key, link in answer})

    def same_thing(self, entity: str, name: str, other: str) -> bool:
        """Whether two row names are rows of one thing, as far as `learn` has found. Not known is different, which costs one record more."""
        link = self._links.get((entity, name))
        return link is not None and link == self._links.get((entity, other))

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()


class ReadingCrosswalk(Crosswalk):
    """Asks and writes nothing: what it puts in force is in force for whoever asks this object."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(pipeline, {"default_transaction_read_only": "on"})
        self._taken: dict[tuple[str, RowId], str] = {}  # (system, row) → link
        self._holders: dict[tuple[str, str, str], str] = {}  # (system, entity, link) → key

    async def links_of(self, system: str, rows: Iterable[RowId]) -> dict[RowId, str]:
        asked = list(rows)
        taken = {row: self._taken[system, row] for row in asked if (system, row) in self._taken}
        return {**await super().links_of(system, asked), **taken}

    async def take(
        self, system: str, wanted: Mapping[RowId, str], bindings: Mapping[str, Binding], xids: Mapping[RowId, set[int]]
    ) -> dict[RowId, str | None]:
        in_force: dict[RowId, str | None] = {row: self._taken[system, row] for row in wanted if (system, row) in self._taken}
        asked = {row: link for row, link in wanted.items() if row not in in_force}
        for entity, key, link, other in await self._sessions[system].query(_IN_FORCE, _arrays(system, asked)) if asked else ():
            if link is not None:
                in_force[entity, key] = link
            elif other is not None and await self._counts(bindings[entity], other, xids.get((entity, key), set())):
                in_force[entity, key] = None
        for row, link in asked.items():
            if row not in in_force:
                is_first = self._holders.setdefault((system, row[0], link), row[1]) == row[1]
                in_force[row] = link if is_first else None
                if is_first:
                    self._taken[system, row] = link
        return in_force
