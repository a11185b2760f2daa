"""The snapshot of a table beside streaming, chunk by chunk (the DBLog algorithm).

    snapshot thread                     the log                          reader thread
    low watermark  ───────────────────▶ message {low, chunk}  ─────────▶ remembers the keys of the table's events from here on
    reads the next rows by primary key  … u 17, d 23 …        ─────────▶ (they go out as they come)
    hands the chunk over
    high watermark ───────────────────▶ message {high, chunk} ─────────▶ sends the chunk's rows but 17 and 23, as op r
    waits until Kafka has them
    notes the last key in concord.snapshot

Watermarks are *transactional* logical messages, so that they have a place among the commits: a chunk's rows carry the place of the low one,
and are older than whatever was committed after it.

One gap is closed that the algorithm leaves open on PostgreSQL: a transaction's commit record may stand in the log before the low watermark,
and the transaction be invisible to the chunk's SELECT all the same (it becomes visible a moment after it was logged; long after, with
synchronous replication). So a chunk brings the transactions that were open for its SELECT, and if the reader has seen one of them commit
before the low watermark, the chunk is read again.

After a lost slot everything is read again in another way, before the stream begins (`rereading.py`). Rows may have been deleted unseen: a
table that was linked is then compared with `concord.key` of the same database, and for a key that is there and not marked gone, and not
in the table, a delete is sent. A row may have been born so shortly before the loss that `concord.key` does not name it yet: when the sink
comes to write that name and the row is gone, it asks for the comparison once more, between two watermarks (`ask_for_vanished`).
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import orjson
import psycopg
from psycopg import sql

from connectors.postgres import translated
from connectors.source import metrics
from connectors.source.pgoutput import tuple_bytes
from connectors.source.relations import CapturedTable, DatabaseCatalog, TableFacts, captured_table, relation_of
from schemas.errors import Refused, UnfitDatabase

logger = logging.getLogger(__name__)

PREFIX: Final = "concord"
CHUNK_ROWS: Final = 5_000  # at most; a chunk is held in memory until its high watermark comes by
CHUNK_BYTES: Final = 8 * 1024 * 1024
FETCH_ROWS: Final = 500

# For connectors.concord_schema: one row per table that is, or was, read. `pipeline` is the slot's name: that is what a snapshot belongs to.
MIGRATION = """
CREATE TABLE concord.snapshot (
    pipeline text NOT NULL,
    table_name text NOT NULL,                 -- schema.table
    last_key text[],                          -- of the last row that Kafka has; null: none yet
    predicate text NOT NULL DEFAULT '',       -- SQL; '' reads every row
    vanished boolean NOT NULL DEFAULT false,  -- also send deletes for linked rows that are not in the table any more
    done boolean NOT NULL DEFAULT false,
    rows bigint NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    PRIMARY KEY (pipeline, table_name)
);
"""

# A table can be asked for whole and, beside that, some rows of it. `id` is new with every asking: a pass that was overtaken by another
# asking notes nothing any more.
# Early versions had no `predicate` and `vanished`, and a key of one text: such a table is read from its beginning.
REQUESTS = """
DO $$
BEGIN
    IF (SELECT atttypid FROM pg_attribute WHERE attrelid = 'concord.snapshot'::regclass AND attname = 'last_key') = 'text'::regtype THEN
        ALTER TABLE concord.snapshot
            ALTER COLUMN last_key TYPE text[] USING NULL,
            ADD COLUMN predicate text NOT NULL DEFAULT '',
            ADD COLUMN vanished boolean NOT NULL DEFAULT false;
    END IF;
END $$;
ALTER TABLE concord.snapshot
    DROP CONSTRAINT snapshot_pkey,
    ADD PRIMARY KEY (pipeline, table_name, predicate),
    ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY,
    ADD COLUMN error text;                    -- why it could not be taken, once it is done all the same
"""

# When the slot was lost and the table began to be read again because of it.
LOSSES = "ALTER TABLE concord.snapshot ADD COLUMN lost_at timestamptz;"

CHANNEL: Final = "concord_snapshot"  # NOTIFY: something was asked for

# The same rows asked for again begin anew.
ASKED_AGAIN: Final = """
ON CONFLICT (pipeline, table_name, predicate) DO UPDATE SET last_key = NULL, done = false, rows = 0, id = DEFAULT, error = NULL,
    vanished = excluded.vanished OR s.vanished, started_at = clock_timestamp(), finished_at = NULL"""
NO_ROWS: Final = "false"  # the predicate of a request that is only about rows that vanished


@dataclass(slots=True)
class Chunk:
    """Rows between two watermarks, as pgoutput tuples."""

    table: CapturedTable
    rows: list[bytes]
    vanished: bool = False  # the tuples are keys of rows that are gone
    ours: dict[int, bytes] = field(default_factory=dict)  # number of a row → what our sink had written there, the header `concord.ours`
    open_transactions: frozenset[int] = frozenset()  # 32-bit xids that the SELECT did not see
    last_key: tuple[str, ...] | None = None
    complete: bool = False  # there are no rows after it
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    finished: threading.Event = field(default_factory=threading.Event)  # Kafka has it, or it must be read again
    again: bool = False


def watermark(mark: str, chunk_id: str) -> str:
    return orjson.dumps({"mark": mark, "chunk": chunk_id}).decode()


def parse_watermark(content: bytes) -> tuple[str, str] | None:
    """(low or high, chunk id); None for any other message of ours."""
    try:
        told = orjson.loads(content)
        return told["mark"], told["chunk"]
    except (ValueError, KeyError, TypeError):
        return None


class Aborted(Exception):
    """The stream that the chunks belong to has ended."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A row of concord.snapshot."""

    schema: str
    table: str
    last_key: tuple[str, ...] | None
    predicate: str
    vanished: bool
    id: int

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.table}"


@dataclass(slots=True)
class SnapshotStore:
    """concord.snapshot of one slot."""

    conn: psycopg.Connection[Any]
    slot: str

    def any(self) -> bool:
        """Whether this slot has been streamed from before."""
        with translated("reading concord.snapshot"):
            return self.conn.execute("SELECT 1 FROM concord.snapshot WHERE pipeline = %s LIMIT 1", (self.slot,)).fetchone() is not None

    def add(self, tables: Iterable[tuple[str, str]]) -> None:
        """Tables that are to be read, unless they are known already."""
        names = [f"{schema}.{table}" for schema, table in tables]
        with translated("writing concord.snapshot"):
            self.conn.execute(
                "INSERT INTO concord.snapshot (pipeline, table_name) SELECT %s, unnest(%s::text[]) ON CONFLICT DO NOTHING",
                (self.slot, names),
            )

    def read_all_again(self) -> None:
        """Every table from its beginning, and what vanished. What somebody has asked for besides begins anew too."""
        with translated("writing concord.snapshot"):
            self.conn.execute(
                "UPDATE concord.snapshot SET last_key = NULL, rows = 0, id = DEFAULT, vanished = predicate = '' OR vanished, done = false, "
                "started_at = now(), finished_at = NULL, lost_at = CASE WHEN predicate = '' THEN now() END "
                "WHERE pipeline = %s AND (predicate = '' OR NOT done)",
                (self.slot,),
            )

    def owes_all(self, tables: Iterable[tuple[str, str]]) -> bool:
        """Whether the reading again of these tables that a lost slot began has not come to its end."""
        with translated("reading concord.snapshot"):
            row = self.conn.execute(
                "SELECT 1 FROM concord.snapshot WHERE pipeline = %s AND predicate = '' AND NOT done AND started_at <= lost_at "
                "AND table_name = ANY(%s) LIMIT 1",
                (self.slot, [f"{schema}.{table}" for schema, table in tables]),
            ).fetchone()
        return row is not None

    def request(self, schema: str, table: str, predicate: str = "", vanished: bool = False) -> int:
        """Reads a table again, or the rows of it that the SQL predicate names, while it is live; returns the asking's id.

        `vanished`: and sends deletes for linked rows that are not there. The source is woken.
        """
        with translated("writing concord.snapshot"), self.conn.transaction():
            row = self.conn.execute(
                "INSERT INTO concord.snapshot AS s (pipeline, table_name, predicate, vanished) VALUES (%s, %s, %s, %s)"
                f"{ASKED_AGAIN} RETURNING id",
                (self.slot, f"{schema}.{table}", predicate, vanished),
            ).fetchone()
            self.conn.execute("SELECT pg_notify(%s, %s)", (CHANNEL, self.slot))
        assert row is not None
        return int(row[0])

    def pending(self, tables: Iterable[tuple[str, str]]) -> list[Progress]:
        """Of these tables what is not finished: rows that were asked for by name first, then whole tables in that order."""
        places = {f"{schema}.{table}": (number, schema, table) for number, (schema, table) in enumerate(tables)}
        with translated("reading concord.snapshot"):
            rows = self.conn.execute(
                "SELECT table_name, last_key, predicate, vanished, id FROM concord.snapshot WHERE pipeline = %s AND NOT done", (self.slot,)
            ).fetchall()
        found = [
            (
                predicate == "",
                places[name][0],
                id_,
                Progress(*places[name][1:], None if key is None else tuple(key), predicate, vanished, id_),
            )
            for name, key, predicate, vanished, id_ in rows
            if name in places
        ]
        return [progress for _, _, _, progress in sorted(found, key=lambda one: one[:3])]

    def note(self, progress: Progress, last_key: Sequence[str] | None, rows: int) -> bool:
        """Whether it is still wanted: False when it was asked for anew meanwhile."""
        with translated("writing concord.snapshot"):
            noted = self.conn.execute(
                "UPDATE concord.snapshot SET last_key = coalesce(%s, last_key), rows = rows + %s WHERE pipeline = %s AND id = %s",
                (None if last_key is None else list(last_key), rows, self.slot, progress.id),
            )
        return noted.rowcount > 0

    def finish(self, progress: Progress, error: str | None = None) -> None:
        """Unless it was asked for anew meanwhile."""
        with translated("writing concord.snapshot"):
            self.conn.execute(
                "UPDATE concord.snapshot SET done = true, vanished = false, finished_at = clock_timestamp(), error = %s "
                "WHERE pipeline = %s AND id = %s",
                (error, self.slot, progress.id),
            )


_WROTE = """
SELECT k.key, l.wrote::text, l.applied::text FROM unnest(%s::text[]) AS u(key), LATERAL (
    SELECT * FROM concord.key k WHERE k.entity = %s AND k.system = %s AND k.key = u.key OFFSET 0) k, LATERAL (
    SELECT * FROM concord.link l WHERE l.entity = k.entity AND l.link = k.link OFFSET 0) l"""


def _key_text(texts: Sequence[str]) -> str:
    """A row's key as `concord.key` has it."""
    return texts[0] if len(texts) == 1 else orjson.dumps(texts).decode()


def _named(*names: str) -> sql.SQL:
    """An identifier in a statement with placeholders: a per cent sign in it is none."""
    return sql.SQL(sql.Identifier(*names).as_string().replace("%", "%%"))


@dataclass(slots=True)
class Snapshotter:
    """Reads chunks and has them sent. One thread, on a connection of its own."""

    conn: psycopg.Connection[Any]
    system: str
    store: SnapshotStore
    hand_over: Callable[[Chunk], None]  # to the reader, before the high watermark is written
    linked: Callable[[str, str], Iterable[tuple[str, Callable[[str], dict[str, str]]]]]
    # (schema, table) → its entities: (name, key text → key columns)
    aborted: threading.Event = field(default_factory=threading.Event)
    refused: dict[str, str] = field(default_factory=dict)  # table → why its snapshot could not be taken
    standing: bool = False  # `conn` is in a transaction that sees what all chunks are to see

    def run_pending(self, tables: Sequence[tuple[str, str]]) -> None:
        """Reads all that is not finished. Raises Aborted when the stream ends."""
        tried: set[int] = set()
        while pending := [progress for progress in self.store.pending(tables) if progress.id not in tried]:
            metrics.SNAPSHOT_PENDING.labels(self.system).set(len(pending) + len(self.refused))
            progress = pending[0]  # looked up anew each time: what was asked for meanwhile may come first
            tried.add(progress.id)
            try:
                self._table(progress)
                self.refused.pop(progress.name, None)
            except (UnfitDatabase, Refused) as error:  # I8: a table that is gone, a predicate that is no SQL; the others go on
                self._refuse(progress, error)
        metrics.SNAPSHOT_PENDING.labels(self.system).set(len(self.refused))

    def _refuse(self, progress: Progress, error: UnfitDatabase | Refused) -> None:
        if progress.predicate:  # whoever asked for these rows is told, and asks again
            logger.error("%s.%s: the snapshot cannot be taken: %s", self.system, progress.name, error)
            self.store.finish(progress, error.whole)
            return
        if self.refused.get(progress.name) != str(error):
            logger.error("%s.%s: the snapshot cannot be taken, and is tried again: %s", self.system, progress.name, error)
        self.refused[progress.name] = str(error)

    def _table(self, progress: Progress) -> None:
        name = progress.name
        logger.info("%s.%s: snapshot %s", self.system, name, "goes on" if progress.last_key else "begins")
        rows = 0
        for chunk in self.chunks(progress, self._between_watermarks):
            rows += len(chunk.rows)
            if not chunk.vanished and not self.store.note(progress, chunk.last_key, len(chunk.rows)):
                logger.info("%s.%s: asked for anew, the snapshot begins again", self.system, name)
                return
        self.store.finish(progress)
        logger.info("%s.%s: snapshot finished, %s rows", self.system, name, rows)

    def chunks(self, progress: Progress, taken: Callable[[Callable[[str], Chunk]], Chunk]) -> Iterator[Chunk]:
        """The table's rows from where its snapshot stands, then the keys of linked rows that vanished, if that is asked for.

        `taken`: how a chunk is had from what reads it, given an id.
        """
        last_key = progress.last_key
        while True:
            chunk = taken(partial(self._read, progress, last_key))
            last_key = chunk.last_key if chunk.last_key is not None else last_key
            yield chunk
            if chunk.complete:
                break
        if progress.vanished:
            yield from self._vanished(progress, taken)

    def _between_watermarks(self, read: Callable[[str], Chunk]) -> Chunk:
        while True:
            chunk_id = uuid.uuid4().hex
            self._mark("low", chunk_id)
            chunk = read(chunk_id)
            self.hand_over(chunk)
            self._mark("high", chunk_id)
            while not chunk.finished.wait(1.0):
                if self.aborted.is_set():
                    raise Aborted
            if self.aborted.is_set():
                raise Aborted
            if not chunk.again:
                metrics.SNAPSHOT_ROWS.labels(self.system, f"{chunk.table.schema}.{chunk.table.name}").inc(len(chunk.rows))
                return chunk

    def _mark(self, mark: str, chunk_id: str) -> None:
        with translated(f"writing the {mark} watermark"):
            self.conn.execute("SELECT pg_logical_emit_message(true, %s, %s)", (PREFIX, watermark(mark, chunk_id)))

    def _facts(self, progress: Progress) -> tuple[TableFacts, CapturedTable]:
        catalog = DatabaseCatalog(self.conn)
        oid = catalog.oid_of(progress.schema, progress.table)
        facts = None if oid is None else catalog.table(oid)
        if facts is None:
            raise UnfitDatabase(f"table {progress.name} is not there any more: take it out of the configuration")
        table = captured_table(self.system, relation_of(facts), facts)
        if not table.primary_key:
            raise UnfitDatabase(f"table {progress.name} has no primary key: its rows cannot be told apart")
        return facts, table

    def _read(self, progress: Progress, after: Sequence[str] | None, chunk_id: str) -> Chunk:
        facts, table = self._facts(progress)
        key_at = [next(i for i, column in enumerate(facts.columns) if column.name == name) for name in table.primary_key]
        query = sql.SQL("SELECT {} FROM {}{} ORDER BY {} LIMIT {}").format(
            sql.SQL(", ").join(sql.Identifier(column.name) for column in facts.columns),
            sql.Identifier(facts.schema, facts.name),
            self._where(facts, table, progress, after),
            sql.SQL(", ").join(sql.Identifier(name) for name in table.primary_key),
            sql.Literal(CHUNK_ROWS),
        )
        chunk = Chunk(table, [], id=chunk_id, complete=True)
        with self._seeing(f"reading {progress.name}", chunk):
            size, keys = 0, list[str]()
            for values in self._rows(query):
                row = tuple_bytes(values)
                chunk.rows.append(row)
                size += len(row)
                if self.standing:
                    keys.append(_key_text([(values[i] or b"").decode() for i in key_at]))
                if size >= CHUNK_BYTES or len(chunk.rows) >= CHUNK_ROWS:
                    chunk.complete = False
                    break
            self.conn.execute("CLOSE concord_chunk")
            chunk.ours = self._ours(progress, keys)
            if chunk.rows:
                chunk.last_key = tuple((values[i] or b"").decode() for i in key_at)
        return chunk

    @contextmanager
    def _seeing(self, doing: str, chunk: Chunk) -> Iterator[None]:
        """Everything inside sees one state of the database."""
        with translated(doing):
            if self.standing:
                yield
                return
            with self.conn.transaction():
                self.conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                chunk.open_transactions = self._open_transactions()
                yield

    def _rows(self, query: sql.Composed) -> Iterator[tuple[bytes | None, ...]]:
        """Rows as the types' output functions print them: what the log has, too (`char(n)::text` would lose its blanks)."""
        cursor = self.conn.cursor()
        cursor.execute(sql.SQL("DECLARE concord_chunk NO SCROLL CURSOR FOR {}").format(query))
        while True:
            cursor.execute(f"FETCH {FETCH_ROWS} FROM concord_chunk".encode())
            result = cursor.pgresult
            assert result is not None
            columns = range(result.nfields)
            for index in range(result.ntuples):
                yield tuple(result.get_value(index, column) for column in columns)
            if result.ntuples < FETCH_ROWS:
                return

    def _ours(self, progress: Progress, keys: Sequence[str]) -> dict[int, bytes]:
        """What our sink had written in these rows, as this state of the database has it: of each, so that all are known to be read."""
        found: dict[str, dict[str, Any]] = {}
        for entity, _ in self.linked(progress.schema, progress.table) if keys else ():
            for key, wrote, applied in self.conn.execute(_WROTE, (list(keys), entity, self.system)):
                versions = orjson.loads(applied)
                if ours := {name: (value, versions[name][0]) for name, value in orjson.loads(wrote).items() if name in versions}:
                    found.setdefault(key, {})[entity] = ours
        return {number: orjson.dumps(found.get(key, {})) for number, key in enumerate(keys)}

    def _open_transactions(self) -> frozenset[int]:
        row = self.conn.execute("SELECT array(SELECT x::text::int8 FROM pg_snapshot_xip(pg_current_snapshot()) x)").fetchone()
        return frozenset(xid & 0xFFFFFFFF for xid in (row[0] if row else ()))

    def _where(self, facts: TableFacts, table: CapturedTable, progress: Progress, after: Sequence[str] | None) -> sql.Composable:
        conditions: list[sql.Composable] = []
        if progress.predicate:
            conditions.append(sql.SQL("(") + sql.SQL(progress.predicate) + sql.SQL(")"))  # the operator's own SQL
        if after is not None:
            keys = sql.SQL(", ").join(sql.Identifier(name) for name in table.primary_key)
            values = sql.SQL(", ").join(
                sql.SQL("{}::{}").format(sql.Literal(value), self._type_name(facts, name))
                for name, value in zip(table.primary_key, after, strict=True)
            )
            conditions.append(sql.SQL("({}) > ({})").format(keys, values))
        return sql.SQL(" WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("")

    def _type_name(self, facts: TableFacts, column: str) -> sql.Composable:
        told = next(one for one in facts.columns if one.name == column)
        row = self.conn.execute("SELECT format_type(%s::int8::oid, NULL)", (told.type_oid,)).fetchone()
        return sql.SQL(row[0] if row else "text")

    # rows that are gone

    def _vanished(self, progress: Progress, taken: Callable[[Callable[[str], Chunk]], Chunk]) -> Iterator[Chunk]:
        found = 0
        for entity, key_values in self.linked(progress.schema, progress.table):
            after = ""
            while True:
                last: list[str] = []
                chunk = taken(partial(self._read_vanished, progress, entity, key_values, after, last))
                found += len(chunk.rows)
                yield chunk
                if chunk.complete:
                    break
                after = last[0]
        if found:
            logger.warning("%s.%s: %s linked rows were deleted unseen, deletes sent", self.system, progress.name, found)

    def _read_vanished(
        self,
        progress: Progress,
        entity: str,
        key_values: Callable[[str], dict[str, str]],
        after: str,
        last: list[str],
        chunk_id: str,
    ) -> Chunk:
        facts, table = self._facts(progress)
        chunk = Chunk(table, [], vanished=True, id=chunk_id, complete=True)
        last.clear()
        with self._seeing(f"comparing concord.key with {progress.name}", chunk):
            linked = self.conn.execute(
                "SELECT key FROM concord.key WHERE entity = %s AND system = %s AND NOT gone AND key > %s ORDER BY key LIMIT %s",
                (entity, self.system, after, CHUNK_ROWS),
            ).fetchall()
            if not linked:
                return chunk
            chunk.complete = len(linked) < CHUNK_ROWS
            last.append(linked[-1][0])
            keys = [[key_values(key)[name] for name in table.primary_key] for (key,) in linked]
            types = [self._type_name(facts, name) for name in table.primary_key]
            given = sql.SQL(", ").join(sql.SQL("{}::text[]").format(sql.Placeholder()) for _ in types)
            numbers = range(len(types))
            matches = sql.SQL(" AND ").join(
                sql.SQL("t.{} = k.{}::{}").format(_named(name), sql.Identifier(f"k{i}"), kind)
                for i, name, kind in zip(numbers, table.primary_key, types, strict=True)
            )
            query = sql.SQL("SELECT {} FROM unnest({}) AS k({}) WHERE NOT EXISTS (SELECT FROM {} t WHERE {})").format(
                sql.SQL(", ").join(sql.Identifier(f"k{i}") for i in numbers),
                given,
                sql.SQL(", ").join(sql.Identifier(f"k{i}") for i in numbers),
                _named(facts.schema, facts.name),
                matches,
            )
            at = {name: i for i, name in enumerate(table.primary_key)}
            for gone in self.conn.execute(query, [[key[i] for key in keys] for i in numbers]):
                values = tuple(gone[at[column.name]].encode() if column.name in at else None for column in facts.columns)
                chunk.rows.append(tuple_bytes(values))
        return chunk
