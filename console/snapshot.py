"""`concord snapshot`: rows of a table are read again while everything runs.

    here           concord.snapshot           the source of the system
    ask ─────────▶ a row, NOTIFY ───────────▶ reads chunk by chunk between watermarks beside its stream, goes on after a crash
    follow ◀────── rows so far, done ◀─────── notes each chunk once Kafka has it

Conditions are compared with the catalog and made into SQL here, values as literals of the column's type, and PostgreSQL is asked to plan
the query before the source is: what is refused is refused at once, by name.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson
import psycopg
from psycopg import sql

from connectors import concord_schema
from connectors.catalog import read_tables
from connectors.source.slot import slot_state
from connectors.source.snapshot import SnapshotStore
from console import wiring
from schemas.catalog import Table
from schemas.config import Config
from schemas.errors import ConcordError, UnfitDatabase
from schemas.mapping import table_name, table_names

LONGEST_PREDICATE = 2_000  # bytes: it is part of a key of concord.snapshot
LOOK_SECONDS = 0.2
ABSENT_SECONDS = 5.0  # how long a source may be away (it is being started again) before it is said not to run

_CONDITION = re.compile(r"(?P<column>[^<>=!]+?)\s*(?P<how>=|<=|>=|<|>)\s?(?P<value>.*)", re.DOTALL)
_NULL = re.compile(r"(?P<column>.+?)\s+is\s+(?P<not>not\s+)?null\s*", re.IGNORECASE)


OTHERS_WAY = "Debezium reads the logs here, and has its own way: an execute-snapshot signal (docs/debezium.md)"


class Unaskable(ConcordError):
    """What was asked for cannot be: no such table, no such column, a value that is none of its type."""


class State(StrEnum):
    """How far an asking has come."""

    ASKED = "asked"  # and the source works on it, or is about to
    WAITING = "waiting"  # nobody streams from this system now: it is read when somebody does
    DONE = "done"  # Kafka has the rows
    REFUSED = "refused"
    REPLACED = "replaced"  # the same was asked for anew since


@dataclass(frozen=True, slots=True)
class Asked:
    """Rows that a source was asked to read."""

    system: str
    table: str  # schema.table
    predicate: str
    id: int
    about: int  # rows, as PostgreSQL estimates them


@dataclass(frozen=True, slots=True)
class Progress:
    state: State
    rows: int
    error: str | None = None


def table_of(config: Config, system: str, text: str) -> tuple[str, str]:
    """(schema, table) of a table that is captured. Raises Unaskable."""
    captured = table_names(config, system)
    found = table_name(text)
    if found is None or found not in captured:
        known = ", ".join(f"{schema}.{table}" for schema, table in captured)
        raise Unaskable(f"{system}: {text!r} is no table that is captured, expected one of {known}")
    return found


def predicate_of(table: Table, conditions: Iterable[str], conn: psycopg.Connection[Any]) -> str:
    """Conditions as SQL that must all hold; several `=` of one column are one of them. Raises Unaskable with every problem."""
    problems: list[str] = []
    equal: dict[str, list[str]] = {}
    others: list[sql.Composable] = []
    for text in conditions:
        null, match = _NULL.fullmatch(text), _CONDITION.fullmatch(text)
        told = match or null
        column = None if told is None else table.column(_unquoted(told["column"].strip()))
        if told is None:
            problems.append(f"not a condition: {text!r}, expected COLUMN=VALUE, <, <=, >, >=, or 'COLUMN is null'")
        elif column is None:
            known = ", ".join(one.name for one in table.columns)
            problems.append(f"{table} has no column {told['column'].strip()!r}, expected one of {known}")
        elif match is None:
            words = sql.SQL("{} IS NOT NULL" if told["not"] else "{} IS NULL")
            others.append(words.format(sql.Identifier(column.name)))
        elif match["how"] == "=":
            equal.setdefault(column.name, []).append(match["value"])
        else:
            others.append(
                sql.SQL(f"{{}} {match['how']} {{}}").format(sql.Identifier(column.name), _literal(table, column.name, match["value"]))
            )
    if problems:
        raise Unaskable("; ".join(problems))
    alike = [
        sql.SQL("{} IN ({})").format(sql.Identifier(name), sql.SQL(", ").join(_literal(table, name, value) for value in values))
        for name, values in equal.items()
    ]
    return sql.SQL(" AND ").join([*alike, *others]).as_string(conn)


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if len(name) > 1 and name[0] == name[-1] == '"' else name


def _literal(table: Table, name: str, value: str) -> sql.Composed:
    column = table.column(name)
    assert column is not None
    return sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(column.type))  # as format_type printed it: quoted already


def ask(config: Config, system: str, text: str, conditions: Sequence[str] = (), vanished: bool = False) -> Asked:
    """Asks the source of `system` to read a table again, or the rows of it that fulfil the conditions.

    Raises Unaskable, or UnfitDatabase when it is too early for that.
    """
    _by_our_source(config)
    name = table_of(config, system, text)
    with wiring.session(config, system) as conn:
        table = _described(conn, system, name)
        return _asked(conn, config, system, table, predicate_of(table, conditions, conn), vanished)


def ask_rows(
    config: Config, system: str, name: tuple[str, str], keys: Mapping[str, Mapping[str, str]]
) -> list[tuple[Asked, tuple[str, ...]]]:
    """Asks for single rows: what they are called here → their key columns. Returns each asking with the rows that it is about.

    Raises Unaskable, or UnfitDatabase when it is too early for that.
    """
    _by_our_source(config)
    found: list[tuple[Asked, tuple[str, ...]]] = []
    with wiring.session(config, system) as conn:
        table = _described(conn, system, name)
        turn: dict[str, Mapping[str, str]] = {}
        for label, key in keys.items():
            if turn and len(_of_keys(conn, table, [*turn.values(), key]).encode()) > LONGEST_PREDICATE:
                found.append((_asked(conn, config, system, table, _of_keys(conn, table, turn.values())), tuple(turn)))
                turn = {}
            turn[label] = key
        if turn:
            found.append((_asked(conn, config, system, table, _of_keys(conn, table, turn.values())), tuple(turn)))
    return found


def _by_our_source(config: Config) -> None:
    """Raises Unaskable where nobody would read what is asked for."""
    if config.source == "debezium":
        raise Unaskable(OTHERS_WAY)


def _read_by_us(conn: psycopg.Connection[Any], system: str, slot: str) -> None:
    """The same where nobody told this command who reads the log. Raises Unaskable."""
    row = conn.execute(
        "SELECT a.application_name FROM pg_replication_slots s JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = %s",
        (slot,),
    ).fetchone()
    if row is not None and str(row[0] or "").startswith("Debezium"):
        raise Unaskable(f"system {system}: {OTHERS_WAY}")


def _of_keys(conn: psycopg.Connection[Any], table: Table, keys: Iterable[Mapping[str, str]]) -> str:
    rows = [sql.SQL("({})").format(sql.SQL(", ").join(_literal(table, name, key[name]) for name in sorted(key))) for key in keys]
    names = sorted(next(iter(keys)))
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    return sql.SQL("({}) IN ({})").format(columns, sql.SQL(", ").join(rows)).as_string(conn)


def _described(conn: psycopg.Connection[Any], system: str, name: tuple[str, str]) -> Table:
    table = read_tables(conn, [name]).get(".".join(name))
    if table is None:
        raise UnfitDatabase(f"system {system}: there is no table {'.'.join(name)}")
    return table


def _asked(conn: psycopg.Connection[Any], config: Config, system: str, table: Table, predicate: str, vanished: bool = False) -> Asked:
    if len(predicate.encode()) > LONGEST_PREDICATE:
        raise Unaskable(f"the conditions are longer than {LONGEST_PREDICATE} bytes: ask in several turns")
    _read_by_us(conn, system, config.systems[system].slot)
    about = _planned(conn, table, predicate)
    store = SnapshotStore(conn, config.systems[system].slot)
    if not concord_schema.version(conn) or not store.any():
        raise UnfitDatabase(f"system {system}: nothing of it was read yet; `concord up` begins with reading every table")
    concord_schema.ensure(conn)
    return Asked(system, str(table), predicate, store.request(table.schema, table.name, predicate, vanished), about)


def _planned(conn: psycopg.Connection[Any], table: Table, predicate: str) -> int:
    """How many rows PostgreSQL expects. Raises Unaskable when it says that a value is none of its column's type."""
    query = sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {}").format(sql.Identifier(table.schema, table.name))
    if predicate:
        query += sql.SQL(" WHERE ") + sql.SQL(predicate)
    try:
        row = conn.execute(query).fetchone()
    except psycopg.DataError as error:
        raise Unaskable(f"{str(error).splitlines()[0]}; give values as PostgreSQL prints them") from error
    plan = row[0] if row else []
    plan = orjson.loads(plan) if isinstance(plan, str) else plan
    return int(plan[0]["Plan"]["Plan Rows"]) if plan else 0


def progress_of(conn: psycopg.Connection[Any], slot: str, asked: Asked) -> Progress:
    """How far the source has come now."""
    row = conn.execute(
        "SELECT id, done, rows, error FROM concord.snapshot WHERE pipeline = %s AND table_name = %s AND predicate = %s",
        (slot, asked.table, asked.predicate),
    ).fetchone()
    if row is None or row[0] != asked.id:
        return Progress(State.REPLACED, 0)
    _, done, rows, error = row
    if error is not None:
        return Progress(State.REFUSED, rows, error)
    if done:
        return Progress(State.DONE, rows)
    state = slot_state(conn, slot)
    return Progress(State.ASKED if state is not None and state.active else State.WAITING, rows)


def follow(config: Config, asked: Asked, tell: Callable[[Progress], None] = lambda _: None) -> Progress:
    """Until it is done, or cannot be; or nobody streams from the system for `ABSENT_SECONDS`."""
    slot = config.systems[asked.system].slot
    absent_since: float | None = None
    with wiring.session(config, asked.system) as conn:
        while True:
            progress = progress_of(conn, slot, asked)
            tell(progress)
            if progress.state not in (State.ASKED, State.WAITING):
                return progress
            if progress.state is State.ASKED:
                absent_since = None
            elif absent_since is None:
                absent_since = time.monotonic()
            elif time.monotonic() - absent_since > ABSENT_SECONDS:
                return progress
            time.sleep(LOOK_SECONDS)


def to_json(asked: Asked, progress: Progress) -> dict[str, Any]:
    return {
        "system": asked.system,
        "table": asked.table,
        "where": asked.predicate,
        "state": progress.state.value,
        "rows": progress.rows,
        "about": asked.about,
        "error": progress.error,
    }


def sentence(asked: Asked, progress: Progress) -> str:
    """How it stands, in words."""
    where = f"{asked.system}.{asked.table}"
    match progress.state:
        case State.DONE:
            return f"{where}: {progress.rows:,} rows read again, Kafka has them; `concord status --wait 60` waits until they are applied"
        case State.ASKED:
            return f"{where}: asked for, about {asked.about:,} rows; read {progress.rows:,}"
        case State.WAITING:
            return f"{where}: asked for; the source of {asked.system} does not run now and will read it when it does"
        case State.REPLACED:
            return f"{where}: the same was asked for anew meanwhile"
        case State.REFUSED:
            return f"{where}: cannot be read: {progress.error}"
