"""What a table's events look like: the log's Relation message and the catalog → schemas and encoders.

A Relation message says what the log knows: column names, types, modifiers, which belong to the replica identity. NOT NULL, defaults,
enum labels, domains, the primary key must be read from the catalog, which tells today's state, not that of the log: it may be ahead by
any number of schema changes. So the log decides which columns there are, and the catalog only adds to those it still knows: by name,
else by place and type (renamed). A table that is gone from the catalog has nullable columns without defaults, and the key that the log
tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import psycopg

from connectors.postgres import translated
from connectors.source import connect
from connectors.source.connect import ConnectSchema
from connectors.source.encoder import EncodedColumn, Walk, row_walk
from connectors.source.pgoutput import Relation, RelationColumn
from connectors.source.types import ColumnType, TypeFacts, column_type, default_datum, left_out
from schemas import topics


class ColumnFacts(NamedTuple):
    """A column as the catalog has it today."""

    name: str
    type_oid: int
    type_modifier: int
    not_null: bool
    default: str | None  # pg_get_expr


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table as the catalog has it today."""

    oid: int
    schema: str
    name: str
    columns: tuple[ColumnFacts, ...]  # in order; generated ones are not in the log and not here
    primary_key: tuple[str, ...]
    replica_identity: str
    types: Mapping[int, TypeFacts]  # of these columns, and the types they are made of


def no_facts(relation: Relation, types: Mapping[int, TypeFacts]) -> TableFacts:
    """For a table that the catalog does not know any more."""
    return TableFacts(relation.oid, relation.schema, relation.name, (), (), relation.replica_identity, types)


class Catalog(Protocol):
    """Where table facts come from."""

    def table(self, oid: int, type_oids: Iterable[int]) -> TableFacts | None: ...

    def types(self, oids: Iterable[int]) -> Mapping[int, TypeFacts]: ...


_COLUMNS = """
SELECT (SELECT nspname::text FROM pg_namespace WHERE oid = c.relnamespace), c.relname::text, c.relreplident::text,
       coalesce((SELECT array_agg(a.attname::text ORDER BY k.place)
                 FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place)
                 JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
                 WHERE i.indrelid = c.oid AND i.indisprimary), '{}')
FROM pg_class c WHERE c.oid = %s"""
_ATTRIBUTES = """
SELECT a.attname::text, a.atttypid::int8, a.atttypmod, a.attnotnull, pg_get_expr(d.adbin, d.adrelid)
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attnum"""
_TYPES = """
SELECT t.oid::int8, t.typname::text, t.typtype::text, t.typbasetype::int8, t.typtypmod,
       CASE WHEN t.typcategory = 'A' THEN t.typelem::int8 ELSE 0 END,
       coalesce((SELECT array_agg(e.enumlabel::text ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid), '{}')
FROM pg_type t WHERE t.oid = ANY(%s::int8[]::oid[])"""


@dataclass(slots=True)
class DatabaseCatalog:
    """The catalog through an ordinary connection."""

    conn: psycopg.Connection[Any]

    def types(self, oids: Iterable[int]) -> dict[int, TypeFacts]:
        found: dict[int, TypeFacts] = {}
        wanted = set(oids)
        while wanted:
            for oid, name, kind, base, modifier, element, labels in self.conn.execute(_TYPES, (list(wanted),)):
                found[oid] = TypeFacts(oid, name, kind, base, modifier, element, tuple(labels))
            asked, wanted = wanted, {part for facts in found.values() for part in (facts.base, facts.element) if part} - set(found)
            wanted -= asked
        return found

    def table(self, oid: int, type_oids: Iterable[int] = ()) -> TableFacts | None:
        """None when there is no such table any more. Raises Retriable, UnfitDatabase."""
        with translated(f"reading the catalog for table {oid}"), self.conn.transaction():
            row = self.conn.execute(_COLUMNS, (oid,)).fetchone()
            if row is None:
                return None
            columns = tuple(ColumnFacts(*attribute) for attribute in self.conn.execute(_ATTRIBUTES, (oid,)))
            types = self.types({column.type_oid for column in columns} | set(type_oids))
            return TableFacts(oid, row[0], row[1], columns, tuple(row[3]), row[2], types)

    def oid_of(self, schema: str, table: str) -> int | None:
        with translated(f"looking for table {schema}.{table}"):
            row = self.conn.execute(
                "SELECT c.oid::int8 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
                (schema, table),
            ).fetchone()
            return int(row[0]) if row else None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a captured table, as its events tell it."""

    name: str
    field: str  # the name as Avro takes it
    kind: ColumnType | None  # None: left out
    required: bool
    default: Any  # datum, None without one
    why_left_out: str = ""

    def connect(self) -> ConnectSchema:
        assert self.kind is not None
        schema: ConnectSchema = {**self.kind.connect, "optional": not self.required, "field": self.field}
        if self.default is not None:
            schema["default"] = self.default
        if self.field != self.name:
            schema["column"] = self.name
        return schema


@dataclass(frozen=True, slots=True)
class CapturedTable:
    """Everything that the events of one table need, for one state of the table."""

    oid: int
    schema: str
    name: str
    topic: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]  # empty: events have no key
    walk: Walk  # a row
    key_walk: Walk  # a tuple that holds the key only
    value_schema: dict[str, Any]  # Avro
    key_schema: dict[str, Any] | None  # Avro
    envelope: ConnectSchema
    key: ConnectSchema | None
    identity_is_key: bool = True  # False: REPLICA IDENTITY USING another INDEX: old tuples do not hold the primary key
    left_out: Mapping[str, str] = field(default_factory=dict)  # column → why


def _matched(relation: Relation, facts: TableFacts) -> dict[str, ColumnFacts]:
    """Log column → what the catalog knows of it: by name, else by place and type among those that are left."""
    by_name = {column.name: column for column in facts.columns}
    found = {column.name: by_name[column.name] for column in relation.columns if column.name in by_name}
    if len(facts.columns) == len(relation.columns):
        for log, now in zip(relation.columns, facts.columns, strict=True):
            renamed = log.name not in found and now.name not in found and now.type_oid == log.type_oid
            if renamed:
                found[log.name] = now
    return {name: now for name, now in found.items() if now.type_oid == _type_of(relation, name)}


def _type_of(relation: Relation, name: str) -> int:
    return next(column.type_oid for column in relation.columns if column.name == name)


def _primary_key(relation: Relation, facts: TableFacts, matched: Mapping[str, ColumnFacts]) -> tuple[str, ...]:
    then_named = {now.name: log for log, now in matched.items()}
    key = tuple(then_named.get(name, name) for name in facts.primary_key)
    told = {column.name for column in relation.columns if column.in_identity}
    if relation.replica_identity == "d" and set(key) != told:
        # the log knows better which columns were the key; their order is the table's
        return tuple(column.name for column in relation.columns if column.in_identity)
    there = {column.name for column in relation.columns}
    return key if there.issuperset(key) else ()


def _field_names(columns: Iterable[RelationColumn]) -> dict[str, str]:
    taken: set[str] = set()
    fields: dict[str, str] = {}
    for column in columns:
        wanted = name = connect.avro_name(column.name)
        number = 2
        while name in taken:
            name, number = f"{wanted}_{number}", number + 1
        taken.add(name)
        fields[column.name] = name
    return fields


def captured_table(system: str, relation: Relation, facts: TableFacts, nullable: frozenset[str] = frozenset()) -> CapturedTable:
    """`nullable`: columns in which a null was seen, whatever the catalog says."""
    matched = _matched(relation, facts)
    key_names = _primary_key(relation, facts, matched)
    fields = _field_names(relation.columns)
    columns = []
    for told in relation.columns:
        now = matched.get(told.name)
        kind = column_type(facts.types, told.type_oid, told.type_modifier)
        required = (now is not None and now.not_null and told.name not in nullable) or told.name in key_names
        default = None if now is None or kind is None else default_datum(kind, now.default, required)
        why = "" if kind is not None else left_out(facts.types.get(told.type_oid))
        columns.append(Column(told.name, fields[told.name], kind, required, default, why))
    by_name = {column.name: column for column in columns}
    if any(by_name[name].kind is None for name in key_names):
        key_names = ()  # a key that cannot be told is none
    encoded = [
        EncodedColumn(
            column.name,
            column.kind,
            column.required,
            value_first=column.default is not None,
            key_index=key_names.index(column.name) if column.name in key_names else None,
        )
        for column in columns
    ]
    topic = topics.captured(system, relation.schema, relation.name)
    record = connect.avro_names(system, relation.schema, relation.name)
    envelope = connect.envelope(record, [column.connect() for column in columns if column.kind is not None])
    key = connect.key(record, [by_name[name].connect() for name in key_names]) if key_names else None
    return CapturedTable(
        oid=relation.oid,
        schema=relation.schema,
        name=relation.name,
        topic=topic,
        columns=tuple(columns),
        primary_key=key_names,
        walk=row_walk(encoded),
        key_walk=row_walk(encoded, partial=True),
        value_schema=connect.avro_schema(envelope),
        key_schema=connect.avro_schema(key) if key is not None else None,
        envelope=envelope,
        key=key,
        identity_is_key=relation.replica_identity != "i"
        or {column.name for column in relation.columns if column.in_identity}.issuperset(key_names),
        left_out={column.name: column.why_left_out for column in columns if column.kind is None},
    )


def relation_of(facts: TableFacts) -> Relation:
    """The Relation message that the log would have for the table as it is today: for snapshots."""
    key = set(facts.primary_key)
    columns = tuple(RelationColumn(column.name, column.type_oid, column.type_modifier, column.name in key) for column in facts.columns)
    return Relation(facts.oid, facts.schema, facts.name, facts.replica_identity, columns)
