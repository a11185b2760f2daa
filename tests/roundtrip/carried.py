"""A row of every type on its way: PostgreSQL here → event, in each form that it can have → intake → mapping → PostgreSQL there.

    source   our source's Avro, with what Debezium's representation cannot hold beside it
    json     Debezium as it is told to be, JSON with schemas          (decimals and intervals as text)
    plain    the same without schemas
    avro     the same in Avro

The three are made from our source's representation, which is Debezium's (docs/debezium-parity.md shows how far): what Debezium's own bytes
are read as is on that page; here it is every value.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import fastavro
import orjson
import psycopg
from psycopg import sql

from connectors.catalog import read_tables
from connectors.postgres import connect
from connectors.source.connect import avro_schema
from connectors.source.emitter import Emitter
from connectors.source.pgoutput import Begin, tuple_bytes
from connectors.source.relations import DatabaseCatalog, captured_table, relation_of
from schemas.config import parse
from schemas.errors import ConcordError, MappingError
from schemas.lsn import Lsn
from schemas.mapping import Binding, compile_config
from schemas.registry import MemoryRegistry
from schemas.serde import Codec, schema_id_of, wire_header
from streams.events import Events, Seen
from streams.transport import Record
from tests.parity.events import as_json
from tests.roundtrip.values import CASES, Case

FORMS = ("source", "json", "plain", "avro")
EXTENSIONS = {"citext": "citext", "hstore": "hstore", "ltree": "ltree"}
SETUP = """
CREATE TYPE mood AS ENUM ('sad', 'o k', 'it''s');
CREATE DOMAIN posint AS int CHECK (VALUE > 0);
CREATE DOMAIN shortname AS varchar(20);
"""
COLUMN = {name: f"c{number}" for number, name in enumerate(CASES)}
Row = Mapping[str, str]  # type → literal


@dataclass(slots=True)
class Outcome:
    """What became of the values of one type in one form."""

    exact: int = 0
    refused: dict[str, int] = field(default_factory=dict)  # why → how many: dead letters, by name
    wrong: list[tuple[str | None, str | None]] = field(default_factory=list)  # (here, there)


Outcomes = dict[str, dict[str, Outcome]]  # type → form → …


class Side:
    """One database with a table of all types, as the source and as the target."""

    def __init__(self, dsn: str, system: str) -> None:
        self.system = system
        self.conn = connect(dsn)
        self.types = self._make()

    def _make(self) -> tuple[str, ...]:
        """The types that this server can have."""
        there = {name for (name,) in self.conn.execute("SELECT name FROM pg_available_extensions")}
        lacking = {name for name, extension in EXTENSIONS.items() if extension not in there}
        for extension in {EXTENSIONS[name] for name in EXTENSIONS.keys() - lacking}:
            self.conn.execute(sql.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(sql.Identifier(extension)))
        try:
            self.conn.execute("SELECT '<a/>'::xml")
        except psycopg.errors.FeatureNotSupported:
            lacking.add("xml")
        self.conn.execute(SETUP)
        return tuple(name for name in CASES if name not in lacking)

    def create(self, types: Iterable[str]) -> None:
        """The table, with a column for each of these types."""
        self.types = tuple(types)
        columns = ", ".join(f"{COLUMN[name]} {name}" for name in types)
        self.conn.execute(f"CREATE TABLE carried (id int PRIMARY KEY, {columns})".encode())
        self.table = read_tables(self.conn, [("public", "carried")])["public.carried"]
        self.captured = _captured(self.conn)

    def insert(self, rows: list[Row], types: tuple[str, ...]) -> list[tuple[str | None, ...]]:
        """The table holds these rows and no others; what PostgreSQL prints of them, id first. A value it does not take is left null."""
        self.conn.execute("TRUNCATE carried")
        marks = sql.SQL(", ").join(sql.SQL("%s::{}").format(sql.SQL(name)) for name in types)
        insert = sql.SQL("INSERT INTO carried VALUES (%s, {})").format(marks)
        for number, row in enumerate(rows):
            self.conn.execute(insert, (number, *(row[name] for name in types)))
        return self.printed()

    def printed(self, interval: str = "postgres") -> list[tuple[str | None, ...]]:
        texts = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column.name)) for column in self.table.columns)
        with self.conn.transaction(), self.conn.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
            cursor.execute(sql.SQL("SET LOCAL intervalstyle = {}").format(sql.Literal(interval)))
            return cursor.execute(sql.SQL("SELECT {} FROM carried ORDER BY carried.id").format(texts)).fetchall()


def _captured(conn: psycopg.Connection[Any]) -> Any:
    catalog = DatabaseCatalog(conn)
    oid = catalog.oid_of("public", "carried")
    assert oid is not None
    facts = catalog.table(oid)
    assert facts is not None
    return captured_table("crm", relation_of(facts), facts)


# ── rows as records, in each form ─────────────────────────────────────────────────────────────────────────────────────────────────


class Forms:
    """Rows of one side's table as records."""

    def __init__(self, side: Side) -> None:
        self.registry = MemoryRegistry()
        self._sent: list[Record] = []
        self._table = side.captured
        self._bases = [column.base for column in side.table.columns]
        self._emitter = Emitter("crm", "crm", self.registry, DatabaseCatalog(side.conn), self._send, {("public", "carried"): frozenset()})
        self._emitter.relation(relation_of(DatabaseCatalog(side.conn).table(side.captured.oid)))  # type: ignore[arg-type]
        self._told = _AsTold(side)
        self._avro = avro_schema(self._told.envelope)
        self._avro_header = wire_header(self.registry.register("told-value", self._avro))
        self._writer = fastavro.parse_schema(_physical(self._avro))

    @staticmethod
    def _sent_as(base: str, text: str | None) -> bytes | None:
        """What the log has of a value: a cast to text spells booleans out, the log does not."""
        return None if text is None else text[:1].encode() if base == "boolean" else text.encode()

    def _send(self, topic: str, key: bytes | None, value: bytes | None, headers: Any) -> None:
        self._sent.append(Record(topic, 0, len(self._sent), 0, key, value, headers or ()))

    def records(self, texts: tuple[str | None, ...], iso: tuple[str | None, ...]) -> dict[str, Record]:
        """Form → the record of one row. `iso`: the same with intervals in ISO's form."""
        self._sent.clear()
        self._emitter.begin(Begin(Lsn(9), 0, 1))
        data = (
            b"I"
            + self._table.oid.to_bytes(4, "big")
            + b"N"
            + tuple_bytes([self._sent_as(*pair) for pair in zip(self._bases, texts, strict=True)])
        )
        self._emitter.insert(data, 0, 8)
        (ours,) = self._sent
        assert ours.value is not None
        schema = fastavro.parse_schema(_physical(self.registry.schema(schema_id_of(ours.value))))
        datum: Any = fastavro.schemaless_reader(io.BytesIO(ours.value[5:]), schema, None)
        self._told.tell(datum["after"], texts, iso)
        datum["source"]["version"] = "3.6.3.Final"
        body = io.BytesIO()
        fastavro.schemaless_writer(body, self._writer, datum)
        printed = _printed(datum)
        return {
            "source": ours,
            "json": ours._replace(key=None, value=orjson.dumps({"schema": self._told.schema, "payload": printed}), headers=()),
            "plain": ours._replace(key=None, value=orjson.dumps(printed), headers=()),
            "avro": ours._replace(key=None, value=self._avro_header + body.getvalue(), headers=()),
        }


class _AsTold:
    """What `decimal.handling.mode=string` and `interval.handling.mode=string` make of our source's representation."""

    def __init__(self, side: Side) -> None:
        self._texts: dict[str, int] = {}
        self._isos: dict[str, int] = {}
        row = []
        for at, (column, field_) in enumerate(zip(side.table.columns, side.captured.envelope["fields"][1]["fields"], strict=True)):
            told = {name: field_[name] for name in ("optional", "field")}
            if column.base == "numeric":
                self._texts[column.name] = at
                row.append({**told, "type": "string"})
            elif column.base == "numeric[]":
                self._texts[column.name] = at
                row.append({**told, "type": "array", "items": {"type": "string", "optional": True}})
            elif column.base == "interval":
                self._isos[column.name] = at
                row.append({**told, "type": "string", "name": "io.debezium.time.Interval", "version": 1})
            else:
                row.append(field_)
        fields = [{**part, "fields": row} if part["field"] in ("before", "after") else part for part in side.captured.envelope["fields"]]
        self.envelope = {**side.captured.envelope, "fields": fields}
        self.schema = _printed(self.envelope)

    def tell(self, after: dict[str, Any], texts: tuple[str | None, ...], iso: tuple[str | None, ...]) -> None:
        for name, at in self._texts.items():
            text = texts[at]
            after[name] = None if text is None else _elements(text) if text[:1] == "{" else text
        for name, at in self._isos.items():
            text = iso[at]
            after[name] = text


def _elements(array: str) -> list[str | None]:
    """Of an array of numbers."""
    return [None if item == "NULL" else item for item in array[1:-1].split(",")] if array != "{}" else []


def _physical(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {name: _physical(part) for name, part in schema.items() if name != "logicalType" and not name.startswith("__")}
    return [_physical(part) for part in schema] if isinstance(schema, list) else schema


def _printed(datum: Any) -> Any:
    """As the JSON converter prints it, in what orjson takes."""
    if isinstance(datum, dict):
        return {name: _printed(part) for name, part in datum.items()}
    if isinstance(datum, list):
        return [_printed(part) for part in datum]
    printed = as_json(datum)
    return float(printed) if isinstance(printed, Decimal) else printed


# ── there ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Road:
    """From one database to the other."""

    def __init__(self, here: Side, there: Side) -> None:
        self.here, self.there = here, there
        self.types = here.types
        self._forms = Forms(here)
        self._events = {form: Events(Codec(self._forms.registry), here.table) for form in FORMS}
        systems = {side.system: {"dsn": "postgresql://nowhere/x", "rank": rank} for rank, side in enumerate((here, there))}
        self._from: dict[str, Binding] = {}
        self._to: dict[str, Binding] = {}
        for name in self.types:  # an entity of its own for each, so that one that is refused takes nothing along
            column = COLUMN[name]
            both = {side.system: {"table": "carried", "insert": {"id": 0}} for side in (here, there)}
            entity = {**both, "fields": {"value": {side.system: column for side in (here, there)}}}
            config = parse({"kafka": {"bootstrap": "x:1"}, "systems": systems, "entities": {"thing": entity}})
            pipeline = compile_config(config, {side.system: {str(side.table): side.table} for side in (here, there)})
            bindings = pipeline.entities["thing"].bindings
            self._from[name], self._to[name] = bindings[here.system], bindings[there.system]

    def carry(self, rows: list[Row], outcomes: Outcomes) -> None:
        """Every value of every row in every form, and what became of it."""
        texts = self.here.insert(rows, self.types)
        isos = self.here.printed("iso_8601")
        records = [self._forms.records(row, iso) for row, iso in zip(texts, isos, strict=True)]
        for form in FORMS:
            arrived = [self._read(form, record[form], outcomes) for record in records]
            self._write(form, texts, arrived, outcomes)

    def _read(self, form: str, record: Record, outcomes: Outcomes) -> dict[str, str | None]:
        """Type → the text that the sink would write; what is refused is noted, and not in it."""
        seen = self._events[form].read(record)
        assert seen is not None
        assert seen.after is not None
        found = {}
        for name in self.types:
            outcome = outcomes.setdefault(name, {}).setdefault(form, Outcome())
            try:
                found[name] = self._mapped(name, seen)
            except ConcordError as error:
                why = re.sub(r"^thing\.value in \S+: ", "", str(error))
                outcome.refused[why] = outcome.refused.get(why, 0) + 1
        return found

    def _mapped(self, name: str, seen: Seen) -> str | None:
        column = COLUMN[name]
        assert seen.after is not None
        if column in seen.doubts:
            raise MappingError(seen.doubts[column])
        if column not in seen.after:
            raise MappingError("is not in the event")
        value = self._from[name].to_canonical(seen.after)["value"]
        return self._to[name].to_columns({"value": value})[column]

    def _write(self, form: str, texts: list[tuple[str | None, ...]], arrived: list[dict[str, str | None]], outcomes: Outcomes) -> None:
        """As the sink does it, texts cast to the column's type; then both sides are compared, by PostgreSQL where the text is not all."""
        conn = self.there.conn
        conn.execute("TRUNCATE carried")
        for number, row in enumerate(arrived):
            names = sql.SQL(", ").join([sql.Identifier("id"), *(sql.Identifier(COLUMN[name]) for name in row)])
            marks = sql.SQL(", ").join([sql.SQL("%s"), *(sql.SQL("%s::{}").format(sql.SQL(name)) for name in row)])
            conn.execute(sql.SQL("INSERT INTO carried ({}) VALUES ({})").format(names, marks), (number, *row.values()))
        held = self.there.printed()
        for name in self.types:
            at = 1 + self.types.index(name)
            pairs = [(here[at], there[at]) for here, there, row in zip(texts, held, arrived, strict=True) if name in row]
            outcome = outcomes[name][form]
            for pair, same in zip(pairs, self._same(CASES[name], pairs), strict=True):
                outcome.exact += same
                if not same:
                    outcome.wrong.append(pair)

    def _same(self, case: Case, pairs: list[tuple[str | None, str | None]]) -> list[bool]:
        if case.same == "text":
            return [here == there for here, there in pairs]
        test = case.same.replace("$1", f"here::{case.type}").replace("$2", f"there::{case.type}")
        asked = f"SELECT {test} FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS t(here, there, n) ORDER BY n"
        rows = self.there.conn.execute(asked.encode(), ([here for here, _ in pairs], [there for _, there in pairs])).fetchall()
        return [bool(same) for (same,) in rows]
