"""PostgreSQL's logical replication messages (`pgoutput`, protocol version 1): bytes → messages. No I/O.

    Begin  [Origin]  { [Relation | Type …]  Insert | Update | Delete | Truncate | Message }  Commit       a transaction
    Message                                                                                               outside of one: not transactional

A tuple is a count and that many columns: `n` null, `u` unchanged TOAST (not in the log), `t` length and text. Update may be preceded by the
old tuple: `K` (key columns only, the rest null) or `O` (all, REPLICA IDENTITY FULL).

Rows are the bulk of the stream: `connectors.source.encoder` walks their bytes itself and needs of this module only where the tuples begin
(`tuples_of`). `decode` reads everything, and is what the walk is tested against.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from schemas.errors import SchemaError
from schemas.lsn import Lsn

EPOCH_US: Final = 946_684_800_000_000  # PostgreSQL counts from 2000-01-01


class Unchanged(Enum):
    """A column whose value the log does not carry, since the update left its TOAST value alone."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED
Tuple = tuple[bytes | Unchanged | None, ...]


class Begin(NamedTuple):
    final_lsn: Lsn  # where the transaction's commit record begins
    commit_us: int  # µs since 1970, by the database's clock
    xid: int


class Commit(NamedTuple):
    commit_lsn: Lsn  # where the commit record begins
    end_lsn: Lsn  # where the next record begins: what is confirmed
    commit_us: int


class Origin(NamedTuple):
    """The transaction was written by a replication: whose, and what it said with pg_replication_origin_xact_setup."""

    origin_lsn: Lsn
    name: str


class RelationColumn(NamedTuple):
    name: str
    type_oid: int
    type_modifier: int
    in_identity: bool  # part of the replica identity


class Relation(NamedTuple):
    """A table as it was when the changes that follow were made."""

    oid: int
    schema: str
    name: str
    replica_identity: str  # d default, n nothing, f full, i index
    columns: tuple[RelationColumn, ...]


class Type(NamedTuple):
    oid: int
    schema: str
    name: str


class Insert(NamedTuple):
    relation: int
    new: Tuple


class Update(NamedTuple):
    relation: int
    key: Tuple | None  # the old key, if the update changed it
    old: Tuple | None  # the old row, under REPLICA IDENTITY FULL
    new: Tuple


class Delete(NamedTuple):
    relation: int
    key: Tuple | None
    old: Tuple | None


class Truncate(NamedTuple):
    relations: tuple[int, ...]
    cascade: bool
    restart_identity: bool


class Message(NamedTuple):
    """What pg_logical_emit_message wrote."""

    transactional: bool
    lsn: Lsn
    prefix: str
    content: bytes


AnyMessage = Begin | Commit | Origin | Relation | Type | Insert | Update | Delete | Truncate | Message

_BEGIN = struct.Struct("!QqI")
_COMMIT = struct.Struct("!BQQq")
_U64 = struct.Struct("!Q")
_U32 = struct.Struct("!I")
_U16 = struct.Struct("!H")
_COLUMN = struct.Struct("!Ii")
_MESSAGE = struct.Struct("!BQ")


@dataclass(slots=True)
class _Reader:
    data: bytes
    at: int

    def take(self, layout: struct.Struct) -> tuple[int, ...]:
        values = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return values

    def byte(self) -> int:
        value = self.data[self.at]
        self.at += 1
        return value

    def text(self) -> str:
        end = self.data.index(0, self.at)
        text = self.data[self.at : end].decode()
        self.at = end + 1
        return text

    def blob(self) -> bytes:
        (length,) = self.take(_U32)
        blob = self.data[self.at : self.at + length]
        if len(blob) != length:
            raise ValueError(f"{length} bytes announced, {len(blob)} there")
        self.at += length
        return blob

    def tuple(self) -> Tuple:
        (count,) = self.take(_U16)
        columns: list[bytes | Unchanged | None] = []
        for _ in range(count):
            kind = self.byte()
            if kind == 0x74:  # t
                columns.append(self.blob())
            elif kind == 0x6E:  # n
                columns.append(None)
            elif kind == 0x75:  # u
                columns.append(UNCHANGED)
            else:
                raise ValueError(f"column kind {chr(kind)!r}, expected n, u or t")
        return tuple(columns)


def _relation(read: _Reader) -> Relation:
    (oid,) = read.take(_U32)
    schema, name, identity = read.text(), read.text(), chr(read.byte())
    (count,) = read.take(_U16)
    columns = []
    for _ in range(count):
        flags, column = read.byte(), read.text()
        type_oid, modifier = read.take(_COLUMN)
        columns.append(RelationColumn(column, type_oid, modifier, bool(flags & 1)))
    return Relation(oid, schema or "pg_catalog", name, identity, tuple(columns))


def _update(read: _Reader) -> Update:
    (relation,) = read.take(_U32)
    key = old = None
    kind = read.byte()
    if kind == 0x4B:  # K
        key, kind = read.tuple(), read.byte()
    elif kind == 0x4F:  # O
        old, kind = read.tuple(), read.byte()
    if kind != 0x4E:  # N
        raise ValueError(f"tuple kind {chr(kind)!r}, expected N")
    return Update(relation, key, old, read.tuple())


def _delete(read: _Reader) -> Delete:
    (relation,) = read.take(_U32)
    kind = read.byte()
    if kind not in (0x4B, 0x4F):
        raise ValueError(f"tuple kind {chr(kind)!r}, expected K or O")
    row = read.tuple()
    return Delete(relation, row if kind == 0x4B else None, row if kind == 0x4F else None)


def _truncate(read: _Reader) -> Truncate:
    (count,) = read.take(_U32)
    options = read.byte()
    return Truncate(tuple(read.take(_U32)[0] for _ in range(count)), bool(options & 1), bool(options & 2))


def _insert(read: _Reader) -> Insert:
    (relation,) = read.take(_U32)
    if (kind := read.byte()) != 0x4E:
        raise ValueError(f"tuple kind {chr(kind)!r}, expected N")
    return Insert(relation, read.tuple())


def _message(read: _Reader) -> Message:
    flags, lsn = read.take(_MESSAGE)
    return Message(bool(flags & 1), Lsn(lsn), read.text(), read.blob())


def _begin(read: _Reader) -> Begin:
    final, commit, xid = read.take(_BEGIN)
    return Begin(Lsn(final), commit + EPOCH_US, xid)


def _commit(read: _Reader) -> Commit:
    _, commit_lsn, end_lsn, commit = read.take(_COMMIT)
    return Commit(Lsn(commit_lsn), Lsn(end_lsn), commit + EPOCH_US)


def _origin(read: _Reader) -> Origin:
    return Origin(Lsn(read.take(_U64)[0]), read.text())


def _type(read: _Reader) -> Type:
    return Type(read.take(_U32)[0], read.text() or "pg_catalog", read.text())


_READERS: dict[int, Callable[[_Reader], AnyMessage]] = {
    ord("B"): _begin,
    ord("C"): _commit,
    ord("O"): _origin,
    ord("R"): _relation,
    ord("Y"): _type,
    ord("I"): _insert,
    ord("U"): _update,
    ord("D"): _delete,
    ord("T"): _truncate,
    ord("M"): _message,
}


def decode(data: bytes) -> AnyMessage:
    """Raises SchemaError on bytes that are no pgoutput message."""
    reader = _READERS.get(data[0]) if data else None
    if reader is None:
        raise SchemaError(f"not a pgoutput message: {data[:1]!r}, expected one of {bytes(_READERS)!r}")
    read = _Reader(data, 1)
    try:
        message = reader(read)
    except (struct.error, ValueError, IndexError) as error:
        raise SchemaError(f"not a pgoutput message of kind {chr(data[0])}: {error}") from error
    if read.at != len(data):
        raise SchemaError(f"not a pgoutput message of kind {chr(data[0])}: {len(data) - read.at} bytes are left over")
    return message


def end_of_tuple(data: bytes, at: int) -> int:
    """Where the tuple that begins at `at` ends."""
    (count,) = _U16.unpack_from(data, at)
    at += 2
    for _ in range(count):
        if data[at] == 0x74:
            at += 5 + int(_U32.unpack_from(data, at + 1)[0])
        else:
            at += 1
    return at


def tuple_bytes(values: Tuple) -> bytes:
    """The inverse of reading one: column texts as a pgoutput tuple, so that snapshot rows go the same way as the log's."""
    parts = [_U16.pack(len(values))]
    for value in values:
        if value is None:
            parts.append(b"n")
        elif isinstance(value, bytes):
            parts.append(b"t" + _U32.pack(len(value)) + value)
        else:
            parts.append(b"u")
    return b"".join(parts)
