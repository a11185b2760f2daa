"""`concord check --grant`: a role per system that may do what the configuration needs, and nothing else, as SQL for an administrator.

    the login (user of systems.….dsn)     LOGIN REPLICATION · the replication origin functions · owner of the schema `concord`
    whoever touches rows: the login, or   SELECT, INSERT (columns), UPDATE (columns), DELETE per table · sequences and functions of
    `systems.….role`                      defaults, `insert` and `always` · what triggers write that run as who writes
    the publication                       made for exactly the tables of the mapping: only their owner may, and that is not us

What is there already is left out, so an empty answer means that all is as it should be. What a role has and the configuration does not need
any more is revoked if the role is ours alone (made here, its comment says so); from another it is only proposed.
"""

from __future__ import annotations

import getpass
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from connectors.catalog import read_tables
from connectors.postgres import connect, state_of, translated
from console import wiring
from console.asking import literal, named
from console.check.homes import Home, homes
from console.check.needs import TRIGGERS_OF_OURS, defaults_used, in_table, needed, written_by
from schemas.config import Config
from schemas.errors import Retriable, UnfitDatabase
from schemas.mapping import Pipeline, compile_config, table_names

OURS = "Concord: what concord.yaml needs, kept by `concord check --grant`"  # a role's comment: revoking from it hurts nobody else
ORIGIN_FUNCTIONS = ("create", "session_setup", "xact_setup")

Place = tuple[str, str]  # schema, name
Session = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement for the administrator. `held`: proposed only, since another program may need what it takes away."""

    text: str
    why: str = ""
    held: bool = False


@dataclass(frozen=True)
class Wanted:
    """What is to be true in one database."""

    systems: tuple[str, ...]
    login: str
    role: str | None
    publications: Mapping[str, frozenset[Place]]
    tables: Mapping[Place, Mapping[str, frozenset[str] | None]]
    homes: tuple[Home, ...]

    @property
    def writer(self) -> str:
        """Whose rights hold where rows are read and written."""
        return self.role or self.login


@dataclass
class Granted:
    """What was found to be missing in one database, and whether it has been done."""

    wanted: Wanted
    database: str
    statements: list[Statement] = field(default_factory=list)
    ran: bool = False

    def to_json(self) -> dict[str, Any]:
        told = [{"sql": one.text, "why": one.why, "held": one.held} for one in self.statements]
        return {"login": self.wanted.login, "role": self.wanted.role, "database": self.database, "statements": told, "ran": self.ran}


def login_of(dsn: str) -> str:
    """Whom an address logs in as: what it says, or what libpq takes instead."""
    return str(conninfo_to_dict(dsn).get("user") or os.environ.get("PGUSER") or getpass.getuser())


def wanted(pipeline: Pipeline, system: str) -> Wanted:
    """What one system of a compiled configuration needs."""
    told = pipeline.config.systems[system]
    at = homes(pipeline, system)
    tables = pipeline.captured(system)
    places = {(table.schema, table.name): needed(table, in_table(at, table)) for table in tables}
    return Wanted((system,), login_of(told.dsn), told.role, {told.publication: frozenset(places)} if places else {}, places, tuple(at))


def _together(one: Wanted, other: Wanted) -> Wanted:
    """Two systems with one login in one database."""
    tables: dict[Place, dict[str, frozenset[str] | None]] = {place: dict(rights) for place, rights in one.tables.items()}
    for place, rights in other.tables.items():
        for right, columns in rights.items():
            had = tables.setdefault(place, {}).get(right, frozenset())
            tables[place][right] = None if had is None or columns is None else had | columns
    publications = {name: one.publications.get(name, frozenset()) | places for name, places in other.publications.items()}
    return Wanted(
        (*one.systems, *other.systems), one.login, one.role, {**one.publications, **publications}, tables, (*one.homes, *other.homes)
    )


def grant(config: Config, admins: Mapping[str, str], *, systems: Iterable[str] | None = None, run: bool = False) -> list[Granted]:
    """What is missing, database by database; with `run` it is done, each database in one transaction.

    `admins`: system → DSN of who may do it; a system without one is only looked at, through its own. Raises ConfigError when the
    configuration does not fit the databases, UnfitDatabase when a login is nobody's own, Retriable.
    """
    with ExitStack() as stack:
        sessions = {system: stack.enter_context(_session(config, system, admins)) for system in config.systems}
        catalogs = {system: read_tables(session, table_names(config, system)) for system, session in sessions.items()}
        pipeline = compile_config(config, catalogs)
        together: dict[tuple[Any, ...], tuple[Session, Wanted]] = {}
        for system, session in sessions.items():
            one = wanted(pipeline, system)
            key = (session.info.host, session.info.port, session.info.dbname, one.login, one.role)
            together[key] = (session, _together(together[key][1], one) if key in together else one)
        found = []
        for session, one in together.values():
            if systems is not None and not set(one.systems) & set(systems):
                continue
            with translated(f"system {', '.join(one.systems)}"):
                granted = Granted(one, session.info.dbname, statements(session, one))
                if run and granted.statements:
                    carry_out(session, granted.statements, one.login, _password(config, one))
                    granted.ran = True
            found.append(granted)
        return found


def _session(config: Config, system: str, admins: Mapping[str, str]) -> Any:
    if system not in admins:
        return wiring.session(config, system, as_role=False)
    try:
        return connect(admins[system], application="concord check --grant")
    except (Retriable, UnfitDatabase) as error:
        raise type(error)(f"system {system}, as its administrator: {error}") from error


def _password(config: Config, of: Wanted) -> str | None:
    given = conninfo_to_dict(config.systems[of.systems[0]].dsn).get("password")
    return None if given is None else str(given)


def carry_out(session: Session, wanted: Sequence[Statement], login: str, password: str | None = None) -> None:
    """All or nothing. A login that is made here gets the password of its address; the server is sent its hash only."""
    with session.transaction():
        for one in wanted:
            if not one.held:
                session.execute(one.text.encode())
        if password is not None and any(one.text.startswith(f"CREATE ROLE {named(login)} ") for one in wanted):
            hashed = session.pgconn.encrypt_password(password.encode(), login.encode(), b"scram-sha-256").decode()
            session.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(login), hashed))


def statements(session: Session, wanted: Wanted) -> list[Statement]:
    """What has to be done, in order. Nothing is changed."""
    return list(_Missing(session, wanted).all())


class _Missing:
    """Compares what is wanted with what is there."""

    def __init__(self, session: Session, wanted: Wanted) -> None:
        self.session = session
        self.wanted = wanted
        self.writer = wanted.writer
        self.relations: defaultdict[int, dict[str, set[str] | None]] = defaultdict(dict)  # oid → right → columns
        self.functions: set[int] = set()
        self.schemas: set[str] = set()  # of what our statements name: PostgreSQL looks a name up by the rights of who says it
        self.whys: dict[int, str] = {}
        self.unknown: list[str] = []  # expressions that could not be looked into

    def all(self) -> Iterator[Statement]:
        self._gather()
        yield from self._roles()
        yield from self._origin_functions()
        yield from self._schema_concord()
        yield from self._schemas()
        yield from self._revoked()
        yield from self._granted()
        yield from self._functions()
        yield from self._publications()

    def rows(self, query: str, *params: Any) -> list[tuple[Any, ...]]:
        return self.session.execute(query.encode(), params or None).fetchall()

    def one(self, query: str, *params: Any) -> Any:
        found = self.rows(query, *params)
        return found[0][0] if found else None

    # --- roles

    def _exists(self, role: str) -> bool:
        return bool(self.one("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s)", role))

    def _asked_as(self, role: str) -> str:
        """Whom to ask PostgreSQL about: a role that is not there yet has what everybody has."""
        return role if self._exists(role) else "public"

    def _is_ours(self, role: str) -> bool:
        comment = self.one("SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %s", role)
        return comment == OURS or not self._exists(role)

    def _roles(self) -> Iterator[Statement]:
        login, role = self.wanted.login, self.wanted.role
        there = self.rows("SELECT rolsuper, rolcanlogin, rolreplication FROM pg_roles WHERE rolname = %s", login)
        if there and there[0][0]:
            systems = ", ".join(f"systems.{system}.dsn" for system in self.wanted.systems)
            raise UnfitDatabase(f"{systems} logs in as {login}, a superuser: name a role of its own there, like concord; it will be made")
        if not there:
            yield Statement(f"CREATE ROLE {named(login)} LOGIN REPLICATION", f"then give it the password of its dsn: \\password {login}")
            yield Statement(f"COMMENT ON ROLE {named(login)} IS {literal(OURS)}")
        else:
            lacks = [word for word, has in zip(("LOGIN", "REPLICATION"), there[0][1:], strict=True) if not has]
            if lacks:
                yield Statement(f"ALTER ROLE {named(login)} {' '.join(lacks)}")
        if role is not None:
            if not self._exists(role):
                yield Statement(f"CREATE ROLE {named(role)} NOLOGIN")
                yield Statement(f"COMMENT ON ROLE {named(role)} IS {literal(OURS)}")
            if not (there and self._exists(role) and self.one("SELECT pg_has_role(%s, %s, 'MEMBER')", login, role)):
                yield Statement(f"GRANT {named(role)} TO {named(login)}", f"systems.{self.wanted.systems[0]}.role")
        database = self.session.info.dbname
        if not self.one("SELECT has_database_privilege(%s, %s, 'CONNECT')", self._asked_as(login), database):
            yield Statement(f"GRANT CONNECT ON DATABASE {named(database)} TO {named(login)}")
        if self.one(
            "SELECT EXISTS (SELECT FROM pg_database d, aclexplode(d.datacl) a JOIN pg_roles r ON r.oid = a.grantee "
            "WHERE d.datname = %s AND r.rolname = %s AND a.privilege_type = 'CREATE')",
            database,
            login,
        ):
            why = "the schema concord is there, and its own"
            yield Statement(f"REVOKE CREATE ON DATABASE {named(database)} FROM {named(login)}", why, held=not self._is_ours(login))

    def _origin_functions(self) -> Iterator[Statement]:
        for role, names in (
            (self.wanted.login, ORIGIN_FUNCTIONS[:2]),
            (self.writer, ORIGIN_FUNCTIONS[2:]),
        ):
            lacking = self.rows(
                "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY(%s) "
                "AND NOT has_function_privilege(%s, oid, 'EXECUTE') ORDER BY 1",
                [f"pg_replication_origin_{name}" for name in names],
                self._asked_as(role),
            )
            if lacking:
                functions = ", ".join(name for (name,) in lacking)
                why = "our own writes are told from the application's"
                yield Statement(f"GRANT EXECUTE ON FUNCTION {functions} TO {named(role)}", why)

    def _schema_concord(self) -> Iterator[Statement]:
        login = self.wanted.login
        owner = self.one("SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'concord'")
        if owner is None:
            yield Statement(f"CREATE SCHEMA concord AUTHORIZATION {named(login)}", "all that Concord keeps here")
            return
        if not self.one(
            "SELECT r.rolname = %s FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner WHERE n.nspname = 'concord'", login
        ):
            yield Statement(f"ALTER SCHEMA concord OWNER TO {named(login)}", f"was {owner}'s")
        for (name,) in self.rows(
            "SELECT c.relname::text FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner "
            "WHERE c.relnamespace = to_regnamespace('concord') AND c.relkind = 'r' AND r.rolname <> %s ORDER BY 1",
            login,
        ):
            yield Statement(f"ALTER TABLE {named('concord', name)} OWNER TO {named(login)}")

    # --- what is needed

    def _gather(self) -> None:
        for place, rights in self.wanted.tables.items():
            oid = self.one(
                "SELECT c.oid::int8 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
                *place,
            )
            for right, columns in rights.items():
                self._need(oid, right, columns)
            self._types(oid, rights)
        for home in self.wanted.homes:
            if home.inserts:
                self._defaults(self._oid(home), defaults_used(home))
            for where, expression in self._expressions(home):
                self._of_expression(where, expression)
            self._of_triggers(home)

    def _types(self, oid: int, rights: Mapping[str, frozenset[str] | None]) -> None:
        """Columns are cast to their types by name."""
        columns = None if None in rights.values() else sorted({column for some in rights.values() for column in some or ()})
        among = "" if columns is None else " AND a.attname = ANY(%s)"
        self.schemas.update(
            schema
            for (schema,) in self.rows(
                "SELECT DISTINCT n.nspname::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
                "JOIN pg_namespace n ON n.oid = t.typnamespace "
                f"WHERE a.attrelid = {oid:d} AND a.attnum > 0 AND NOT a.attisdropped{among}",
                *([] if columns is None else [columns]),
            )
        )

    def _oid(self, home: Home) -> int:
        return int(self.one("SELECT %s::regclass::oid::int8", named(home.table.schema, home.table.name)))

    def _need(self, oid: int, right: str, columns: Iterable[str] | None, why: str = "") -> None:
        had = self.relations[oid].get(right, set())
        self.relations[oid][right] = None if had is None or columns is None else had | set(columns)
        if why:
            self.whys.setdefault(oid, why)

    def _expressions(self, home: Home) -> Iterator[tuple[str, str]]:
        for kind, given, does in (("insert", home.insert, home.inserts), ("always", home.always, home.inserts or home.updates)):
            for column, expression in given.items():
                if expression.nextval is not None and does:
                    yield f"{home.where}.{kind}.{column}", f"nextval({literal(expression.nextval)})"
                elif expression.sql is not None and does:
                    yield f"{home.where}.{kind}.{column}", expression.sql

    def _of_expression(self, where: str, expression: str) -> None:
        """A view of it knows what it depends on; nobody ever sees the view."""
        name = "concord_needs"
        try:
            with self.session.transaction(force_rollback=True):
                self.session.execute(f"CREATE TEMP VIEW {name} AS SELECT ({expression}) AS value".encode())
                used = (
                    "d.classid = 'pg_rewrite'::regclass AND d.objid IN "
                    f"(SELECT oid FROM pg_rewrite WHERE ev_class = 'pg_temp.{name}'::regclass) "
                    f"AND d.refobjid <> 'pg_temp.{name}'::regclass"
                )
                self._depends(used, where)
                self.schemas.update(
                    schema
                    for (schema,) in self.rows(
                        "SELECT DISTINCT (pg_identify_object(d.refclassid, d.refobjid, 0)).schema FROM pg_depend d "
                        f"WHERE {used} AND d.refclassid <> 'pg_class'::regclass"
                    )
                    if schema is not None
                )
        except psycopg.Error as error:
            if self.session.broken:
                raise
            self.unknown.append(f"{where}: what it needs cannot be told [{state_of(error)}]; `concord check` says what is missing")

    def _defaults(self, oid: int, columns: Iterable[str] | None) -> None:
        """What the defaults of these columns (None: of all) use."""
        among = "" if columns is None else " AND a.attname = ANY(%s)"
        self._depends(
            "d.classid = 'pg_attrdef'::regclass AND d.objid IN (SELECT f.oid FROM pg_attrdef f "
            "JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum "
            f"WHERE f.adrelid = {oid:d}{among}) AND d.refobjid <> {oid:d}",
            "defaults",
            *([] if columns is None else [list(columns)]),
        )

    def _depends(self, condition: str, why: str, *params: Any) -> None:
        relations: defaultdict[int, set[str]] = defaultdict(set)
        kinds: dict[int, str] = {}
        for catalog, oid, column, kind in self.rows(
            "SELECT d.refclassid::regclass::text, d.refobjid::int8, a.attname::text, c.relkind::text FROM pg_depend d "
            "LEFT JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid "
            "LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid AND d.refobjsubid > 0 "
            f"WHERE {condition} AND d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass)",
            *params,
        ):
            if catalog == "pg_proc":
                self.functions.add(oid)
            else:
                kinds[oid] = kind
                relations[oid] |= {column} if column is not None else set()
        for oid, columns in relations.items():
            if kinds[oid] == "S":
                self._need(oid, "USAGE", None, why)
            else:
                self._need(oid, "SELECT", columns or None, why)

    def _of_triggers(self, home: Home) -> None:
        """A trigger function runs with the rights of who writes, unless it is SECURITY DEFINER: so we need what it writes."""
        for trigger, source in self.rows(TRIGGERS_OF_OURS, self._oid(home), home.inserts, home.updates, home.deletes):
            for right, name in written_by(source):
                oid = self.one("SELECT to_regclass(%s)::oid::int8", name)
                if oid is None:
                    continue
                why = f"trigger {trigger} of {home.table} writes there"
                self._need(oid, right, None, why)
                if right == "INSERT":
                    self._defaults(oid, None)
                else:
                    self._need(oid, "SELECT", None, why)

    # --- what is there

    def _held(self, role: str) -> dict[int, dict[str, set[str | None]]]:
        """oid → right → columns, None: the whole of it. What was granted to the role itself, outside of the schema concord."""
        found: dict[int, dict[str, set[str | None]]] = {}
        for oid, right, column in self.rows(
            "SELECT c.oid::int8, a.privilege_type, NULL::text FROM pg_class c, aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee "
            "WHERE r.rolname = %s AND c.relowner <> r.oid AND c.relnamespace IS DISTINCT FROM to_regnamespace('concord') "
            "UNION ALL SELECT t.attrelid::int8, a.privilege_type, t.attname::text FROM pg_attribute t, aclexplode(t.attacl) a "
            "JOIN pg_roles r ON r.oid = a.grantee WHERE r.rolname = %s",
            role,
            role,
        ):
            found.setdefault(oid, {}).setdefault(right, set()).add(column)
        return found

    def _owned(self, oid: int) -> bool:
        if not self._exists(self.writer):
            return False
        return bool(self.one("SELECT pg_has_role(%s, relowner, 'USAGE') FROM pg_class WHERE oid = %s", self.writer, oid))

    def _place(self, oid: int) -> tuple[str, str, str]:
        """(SEQUENCE or TABLE, schema, name)"""
        kind, schema, name = self.rows(
            "SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, nspname::text, relname::text FROM pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s",
            oid,
        )[0]
        return kind, schema, name

    # --- the difference

    def _revoked(self) -> Iterator[Statement]:
        yield from self._surplus(self.writer, self.relations)
        if self.wanted.login != self.writer:
            yield from self._surplus(self.wanted.login, {})  # rows are the role's affair

    def _surplus(self, role: str, relations: Mapping[int, Mapping[str, set[str] | None]]) -> Iterator[Statement]:
        for oid, rights in sorted(self._held(role).items()):
            surplus = []
            for right, columns in sorted(rights.items()):
                needs = relations.get(oid, {}).get(right, set())
                if None in columns:  # REVOKE on the table takes the columns' rights along
                    surplus += [right] if needs is not None else []
                elif gone := sorted(str(column) for column in columns if needs is not None and column not in needs):
                    surplus.append(f"{right} ({', '.join(map(named, gone))})")
            if surplus:
                kind, schema, name = self._place(oid)
                text = f"REVOKE {', '.join(surplus)} ON {kind} {named(schema, name)} FROM {named(role)}"
                yield Statement(text, "not needed any more", not self._is_ours(role))

    def _granted(self) -> Iterator[Statement]:
        there = self._held(self.writer)
        for oid, rights in self.relations.items():
            if self._owned(oid):
                continue
            lacking = []
            for right, columns in rights.items():
                has = there.get(oid, {}).get(right, set())
                if columns is None:
                    lacking += [] if None in has else [right]
                elif missing := sorted(columns - ({str(column) for column in has} if None not in has else set())):
                    lacking.append(f"{right} ({', '.join(map(named, missing))})")
            if lacking:
                kind, schema, name = self._place(oid)
                why = self.whys.get(oid, "")
                yield Statement(f"GRANT {', '.join(lacking)} ON {kind} {named(schema, name)} TO {named(self.writer)}", why)
        for told in self.unknown:
            yield Statement("", told, held=True)

    def _schemas(self) -> Iterator[Statement]:
        needed_here = ({self._place(oid)[1] for oid in self.relations} | self.schemas) - {"pg_catalog"}
        for (schema,) in self.rows(
            "SELECT nspname::text FROM pg_namespace WHERE nspname = ANY(%s) AND NOT has_schema_privilege(%s, oid, 'USAGE') ORDER BY 1",
            sorted(needed_here),
            self._asked_as(self.writer),
        ):
            yield Statement(f"GRANT USAGE ON SCHEMA {named(schema)} TO {named(self.writer)}")
        for (schema,) in self.rows(
            "SELECT n.nspname::text FROM pg_namespace n, aclexplode(n.nspacl) a JOIN pg_roles r ON r.oid = a.grantee "
            "WHERE r.rolname = %s AND n.nspowner <> r.oid AND n.nspname <> ALL(%s) AND n.nspname <> 'concord' GROUP BY 1 ORDER BY 1",
            self.writer,
            sorted(needed_here),
        ):
            text = f"REVOKE ALL ON SCHEMA {named(schema)} FROM {named(self.writer)}"
            yield Statement(text, "not needed any more", held=not self._is_ours(self.writer))

    def _functions(self) -> Iterator[Statement]:
        for (function,) in self.rows(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE oid::int8 = ANY(%s) "
            "AND NOT has_function_privilege(%s, oid, 'EXECUTE') ORDER BY 1",
            sorted(self.functions),
            self._asked_as(self.writer),
        ):
            yield Statement(f"GRANT EXECUTE ON FUNCTION {function} TO {named(self.writer)}", "defaults, insert or always")

    def _publications(self) -> Iterator[Statement]:
        for name, places in self.wanted.publications.items():
            there = self.one("SELECT puballtables FROM pg_publication WHERE pubname = %s", name)
            if there:
                continue
            listed = set(
                self.rows(
                    "SELECT n.nspname::text, c.relname::text FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid "
                    "JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = %s",
                    name,
                )
            )
            published = listed | set(
                self.rows("SELECT schemaname::text, tablename::text FROM pg_publication_tables WHERE pubname = %s", name)
            )
            if there is None:
                tables = ", ".join(named(*place) for place in sorted(places))
                text = f"CREATE PUBLICATION {named(name)} FOR TABLE {tables} WITH (publish_via_partition_root = true)"
                yield Statement(text, "only the owner of the tables may")
                continue
            for verb, which in (("ADD", places - published), ("DROP", listed - places)):
                if which:
                    tables = ", ".join(named(*place) for place in sorted(which))
                    yield Statement(f"ALTER PUBLICATION {named(name)} {verb} TABLE {tables}")


def script(found: Granted) -> str:
    """SQL to read, and to give to psql: everything but the statements is a comment, also where a name in it has several lines."""
    lines = [_comment(f"{', '.join(found.wanted.systems)}: in database {found.database}, as an administrator; role {found.wanted.login}")]
    if not found.statements:
        lines.append(_comment("nothing is missing"))
    for one in found.statements:
        if one.why:
            lines.append(_comment(one.why))
        if one.text:
            lines.append(_comment(f"{one.text};") if one.held else f"{one.text};")
    if found.ran:
        lines.append(_comment("done"))
    return "\n".join(lines) + "\n"


def _comment(text: str) -> str:
    return "\n".join(f"-- {line}" for line in text.splitlines())


__all__ = ["Granted", "Statement", "Wanted", "carry_out", "grant", "login_of", "script", "statements", "wanted"]
