"""What an insert of ours needs and does: columns that nobody gives, constants that are refused, numbers that the application counts too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import psycopg

from console.asking import NUMBERED_COLUMNS, named
from console.check.accepts import refused, taker
from console.check.database import Database
from console.check.findings import About
from console.check.homes import Home
from console.logs import first_line
from schemas.catalog import Table
from schemas.config import Expression

_INTEGERS = {"smallint", "integer", "bigint"}

_SEQUENCES = f"""
SELECT a.attname::text, s.oid::int8, s.oid::regclass::text, s.relname::text,
       CASE WHEN has_sequence_privilege(s.oid, 'USAGE, SELECT') THEN pg_sequence_last_value(s.oid) END, q.seqstart, q.seqincrement,
       a.attidentity <> ''
FROM {NUMBERED_COLUMNS}
JOIN pg_class s ON s.oid = of_column.sequence AND s.relkind = 'S' JOIN pg_sequence q ON q.seqrelid = s.oid
JOIN pg_attribute a ON a.attrelid = of_column.rel AND a.attnum = of_column.attnum
WHERE of_column.rel = %s ORDER BY a.attnum"""


@dataclass(frozen=True)
class Numbering:
    """What a column is numbered from."""

    column: str
    oid: int
    name: str  # as PostgreSQL shows it: quoted, with its schema where that is needed
    plain: str
    last: int | None  # None: never used, or not for us to know
    start: int
    increment: int
    identity: bool

    @property
    def next(self) -> int:
        return self.start if self.last is None else self.last + self.increment


def check_inserts(db: Database, homes: Sequence[Home], *, rows: bool) -> None:
    numbered = {str(table): [Numbering(*found) for found in db.rows(_SEQUENCES, db.oid(table))] for table in db.tables.values()}
    for home in homes:
        own = numbered[str(home.table)]
        _expressions(db, home)
        if home.inserts:
            _never_given(db, home)
            _constants(db, home)
            _numbers(db, home, own)
            _default_rights(db, home, own)
    if rows:
        for table in db.tables.values():
            _fallen_behind(db, table, numbered[str(table)])
    _unused_sequences(db, homes, numbered)


def _made(home: Home) -> Iterator[tuple[str, str, Expression]]:
    """(insert or always, column, expression)"""
    for kind, expressions in (("insert", home.insert), ("always", home.always)):
        for column, expression in expressions.items():
            yield kind, column, expression


# --- columns without a value --------------------------------------------------------------------------------------------------------


def _never_given(db: Database, home: Home) -> None:
    """A NOT NULL column that a field is mapped to, but no field of the system that the thing comes from."""
    sides = db.config.entities[home.entity.name].fields
    if home.part is not None:
        return  # a part is made when one of its fields has a value
    for column in home.table.columns:
        field = home.written.get(column.name)
        if field is None or not column.not_null or column.has_default or column.name in home.made:
            continue
        for source in sorted(home.entity.born_in - {db.system} - sides[field].sides.keys()):
            db.found.problem(
                About.INSERTS,
                f"entities.{home.entity.name}.fields.{field}",
                f"is not mapped in {source}, so a {home.entity.name} that is born there has no value for {column.name} of {home.table} in "
                f"{db.system}, which is NOT NULL",
                f"insert: {{{column.name}: …}} in {db.system}",
            )


# --- expressions ----------------------------------------------------------------------------------------------------------------------


def _expressions(db: Database, home: Home) -> None:
    """What is given as SQL is planned, not run."""
    for kind, column, expression in _made(home):
        where = f"{home.where}.{kind}.{column}"
        if expression.nextval is not None:
            _sequence_right(db, where, expression.nextval, db.sequence(expression.nextval, where))
        if expression.sql is None:
            continue
        try:
            db.connection.execute(f"EXPLAIN INSERT INTO {db.source(home.table)} ({named(column)}) SELECT ({expression.sql})".encode())
        except psycopg.errors.InsufficientPrivilege as error:
            if not db.superuser and db.one("SELECT has_column_privilege(%s::oid, %s, 'INSERT')", db.oid(home.table), column):
                db.found.problem(About.RIGHTS, where, f"role {db.role} may not: {first_line(error)}", "GRANT what it needs")
        except psycopg.Error as error:
            if db.connection.broken:
                raise
            db.found.problem(About.INSERTS, where, f"PostgreSQL does not take it: {first_line(error)}", "try it in psql")


def _constants(db: Database, home: Home) -> None:
    """Constants that the table refuses, or takes only once."""
    alone = {columns[0] for columns in home.table.unique if len(columns) == 1}
    for column, expression in home.insert.items():
        if not expression.constant or expression.value is None:
            continue
        where = f"{home.where}.insert.{column}"
        text = home.made[column].params[0] if column in home.made and home.made[column].params else None
        if text is None:
            continue
        if column in alone or home.table.primary_key == (column,):
            db.found.problem(
                About.INSERTS,
                where,
                f"is a constant, but {column} of {home.table} is unique: the second insert would fail",
                "{nextval: …}, uuid or {sql: …}",
            )
        reason = refused(db, taker(db, home.table, column), [text]).get(text)
        if reason is not None:
            what = f"{text!r} is refused by {home.table}, so every insert would fail: {reason}"
            db.found.problem(About.INSERTS, where, what, "a value that it takes")


# --- numbers ----------------------------------------------------------------------------------------------------------------------------


def _numbers(db: Database, home: Home, numbered: Sequence[Numbering]) -> None:
    """Columns that the application numbers from a sequence, and we from somewhere else."""
    for sequence in numbered:
        column = sequence.column
        mend = f"insert: {{{column}: {{nextval: {sequence.name}}}}}"
        if (given := home.insert.get(column)) is not None:
            if given.nextval is not None and sequence.oid == db.sequence(given.nextval, f"{home.where}.insert.{column}"):
                continue
            if given.sql is not None and sequence.plain in given.sql:
                continue
            db.found.note(
                About.INSERTS,
                f"{home.where}.insert.{column}",
                f"the application numbers {column} of {home.table} from the sequence {sequence.name}, and this does not: sooner or later "
                "one of "
                "the two is refused",
                mend if not sequence.identity else "take it out: the identity gives it",
            )
        elif (field := home.written.get(column)) is not None:
            db.found.note(
                About.INSERTS,
                f"entities.{home.entity.name}.fields.{field}",
                f"is written to {column} of {home.table} in {db.system}, which the application numbers from the sequence {sequence.name}: "
                "its own "
                "next number may be one that we wrote",
                f"`{db.system}: {{column: {column}, write: false}}` and `owner: {db.system}`, if {db.system} gives the number",
            )


def _default_rights(db: Database, home: Home, numbered: Sequence[Numbering]) -> None:
    """A default is computed with the rights of who inserts; an identity is not."""
    for one in numbered:
        if not one.identity and one.column not in home.given:
            _sequence_right(db, str(home.table), one.name, one.oid)


def _sequence_right(db: Database, where: str, name: str, oid: int | None) -> None:
    if oid is not None and not db.one("SELECT has_sequence_privilege(%s::oid, 'USAGE, UPDATE')", oid):
        mend = f"GRANT USAGE ON SEQUENCE {name} TO {db.role}"
        db.problem(About.RIGHTS, f"role {db.role} may not take numbers from {name}", mend, where)


def _fallen_behind(db: Database, table: Table, numbered: Sequence[Numbering]) -> None:
    """The application's own next insert would fail already."""
    for sequence in numbered:
        column = table.column(sequence.column)
        if column is None or column.base not in _INTEGERS or not _unique(table, column.name):
            continue
        if not db.one("SELECT has_sequence_privilege(%s::oid, 'USAGE, SELECT')", sequence.oid):
            continue
        found = db.ask(f"SELECT {'max' if sequence.increment > 0 else 'min'}({named(column.name)}) FROM {db.source(table)}")
        highest = found[0][0] if found else None
        if highest is not None and (highest >= sequence.next if sequence.increment > 0 else highest <= sequence.next):
            db.note(
                About.INSERTS,
                f"the next number of {sequence.name} is {sequence.next}, but {column.name} is at {highest} already: an insert that takes "
                "it fails",
                f"SELECT setval('{sequence.name}', (SELECT max({db.shown(column.name)}) FROM {db.shown(table.schema, table.name)}))",
                str(table),
            )


def _unique(table: Table, column: str) -> bool:
    return table.primary_key == (column,) or (column,) in table.unique


def _unused_sequences(db: Database, homes: Sequence[Home], numbered: Mapping[str, Sequence[Numbering]]) -> None:
    """A sequence that is no column's default is what the application's code numbers something by: perhaps what we give otherwise."""
    if not any(home.inserts for home in homes):
        return
    known = {sequence.name for sequences in numbered.values() for sequence in sequences}
    used = [told for home in homes for _, _, one in _made(home) for told in (one.nextval, one.sql) if told is not None]
    free = db.rows(
        "SELECT c.oid::regclass::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'S' "
        "AND n.nspname = ANY(%s) AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid "
        "AND d.deptype IN ('a', 'i')) AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = "
        "c.oid "
        "AND d.classid = 'pg_attrdef'::regclass) ORDER BY 1",
        sorted({home.table.schema for home in homes}),
    )
    for name, plain in free:
        if name in known or any(plain in told for told in used):
            continue
        for home in homes:
            if not home.inserts:
                continue
            for column in home.table.columns:
                if _unique(home.table, column.name) and column.name in home.given and _speaks_of(plain, home.table.name, column.name):
                    db.note(
                        About.INSERTS,
                        f"{column.name} looks as if the application numbered it from the sequence {name}, which `insert` does not use",
                        f"insert: {{{column.name}: {{nextval: {name}}}}}, or {{sql: \"'…' || nextval('{name}')\"}}; see how the "
                        "application does it",
                        str(home.table),
                    )


def _speaks_of(sequence: str, table: str, column: str) -> bool:
    """`partner_number_seq` of business_partner.number."""
    words = set(re.findall(r"[a-z]+", sequence.lower()))
    return column.lower() in words and any(len(word) > 2 and word in words for word in re.findall(r"[a-z]+", table.lower()))
