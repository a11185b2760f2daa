"""Every type: how both connectors represent it, and what our streams read of it. Pure but for what PostgreSQL prints."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import psycopg
from psycopg import sql

from connectors.catalog import read_tables
from connectors.postgres import connect
from schemas.catalog import Table
from schemas.errors import ConcordError
from schemas.mapping.kinds import Codec as ColumnCodec
from schemas.mapping.kinds import codec_for
from schemas.registry import MemoryRegistry
from schemas.serde import Codec
from streams.events import Events
from streams.transport import Record
from tests.parity.events import ABSENT, Difference, Event, same

Texts = Mapping[str, str | None]


@dataclass(slots=True)
class Reading:
    """What our streams make of one column's values, from one reader."""

    exact: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # the reason → values; each a dead letter that says so, if it is mapped
    wrong: list[Difference] = field(default_factory=list)  # ours: what was read; theirs: what PostgreSQL holds
    left_out: int = 0
    mappable: bool = True


@dataclass(slots=True)
class ColumnReport:
    """One column of one table."""

    name: str
    type: str
    equal: int = 0  # values that both connectors represent alike
    differences: list[tuple[str, Difference]] = field(default_factory=list)  # (r or c, what)
    readings: dict[str, Reading] = field(default_factory=dict)  # reader → …


def printed(dsn: str, table: Table) -> dict[str, Texts]:
    """Key → what PostgreSQL prints of each column."""
    columns = [column.name for column in table.columns]
    texts = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in columns)
    with connect(dsn) as conn, conn.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        rows = cursor.execute(sql.SQL("SELECT {} FROM {}").format(texts, sql.Identifier(table.schema, table.name))).fetchall()
    return {str(row[columns.index("id")]): dict(zip(columns, row, strict=True)) for row in rows}


def described(dsn: str, table: str) -> tuple[Table, dict[str, str]]:
    """(the catalog's table, column → its type as it was declared)."""
    with connect(dsn) as conn:
        (found,) = read_tables(conn, [("public", table)]).values()
        types = conn.execute(
            "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
            (f'public."{table}"',),
        ).fetchall()
    return found, dict(types)


def represented(ours: Iterable[Event], theirs: Iterable[Event], report: Mapping[str, ColumnReport]) -> None:
    """Value by value, in the events' own form."""
    by_key = {(event.parts["key.id"], event.streamed): event for event in theirs}
    for event in ours:
        other = by_key[event.parts["key.id"], event.streamed]
        for name, column in report.items():
            mine, yours = (one.parts.get(f"after.{name}", ABSENT) for one in (event, other))
            if alike(mine, yours):
                column.equal += 1
            else:
                column.differences.append(("c" if event.streamed else "r", Difference(name, mine, yours)))


def alike(one: Any, other: Any) -> bool:
    """Equal, a `real` being as many digits as JSON has of it."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    return same(one, other) or (isinstance(one, Decimal) and isinstance(other, Decimal) and _single(one) == _single(other))


def _single(number: Decimal) -> bytes:
    try:
        return struct.pack("<f", float(number))
    except OverflowError:
        return repr(number).encode()


def read_back(
    records: Iterable[Record],
    reader: str,
    registry: MemoryRegistry,
    table: Table,
    texts: Mapping[str, Texts],
    report: Mapping[str, ColumnReport],
) -> None:
    """What our streams read, against what PostgreSQL prints."""
    events = Events(Codec(registry), table)
    codecs = {column.name: codec_for(column) for column in table.columns}
    for record in records:
        seen = None
        fault = ""
        try:
            seen = events.read(record)
        except ConcordError as error:
            fault = str(error)
        if seen is None or seen.after is None:
            for column in report.values():
                column.readings.setdefault(reader, Reading()).refused[fault or "no event of a row"] += 1
            continue
        want = texts[str(seen.after["id"])]
        for name, column in report.items():
            reading = column.readings.setdefault(reader, Reading(mappable=codecs[name] is not None))
            if name in seen.doubts:
                reading.refused[seen.doubts[name]] += 1
            elif name not in seen.after:
                reading.left_out += 1
            elif _value(codecs[name], seen.after[name]) == _value(codecs[name], want[name]):
                reading.exact += 1
            else:
                reading.wrong.append(Difference(name, seen.after[name], want[name]))


def _value(codec: ColumnCodec | None, text: str | None) -> Any:
    """What the mapping takes a text for: PostgreSQL's log and its casts spell some types differently (t and true)."""
    return text if codec is None or text is None or codec.read is None else codec.read(text)
