"""`concord check`: the configuration and the databases, before anything starts. Everything at once, each with its mend; nothing is changed.

    concord.yaml alone          schemas.config
    each database               version, wal_level, slots, rights, row-level security, publications that break the application's own writes
    all catalogs together       schemas.mapping.compile_config: types, NOT NULL without a value, keys
    Kafka                       answers, has enough brokers, its topics fit

A *problem* would stop or break the sync (exit status 1). A *note* is worth knowing. What does not answer could not be asked (2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.markup import escape

from connectors import concord_schema
from connectors.catalog import read_tables
from connectors.source.slot import slot_state, usable
from connectors.source.snapshot import SnapshotStore
from console import wiring
from console.kafka import Cluster
from console.logs import first_line
from schemas.catalog import Table
from schemas.config import Config
from schemas.errors import ConcordError, ConfigError, Problem, Retriable, SlotLost, UnfitDatabase
from schemas.mapping import compile_config, table_name, table_names

OLDEST = 14  # logical messages in pgoutput
NAMED = "format('%%I.%%I', %s::text, %s::text)"  # schema, table → quoted name
MANY_ROWS = 10_000  # from here on a match without an index is felt with every new row

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass
class Checked:
    """What was found."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    unanswered: list[Problem] = field(default_factory=list)

    @property
    def fit(self) -> bool:
        return not self.problems and not self.unanswered

    def to_json(self) -> dict[str, Any]:
        def told(found: list[Problem]) -> list[dict[str, str]]:
            return [{"where": one.where, "what": one.what, "mend": one.mend} for one in found]

        return {"fit": self.fit, "problems": told(self.problems), "notes": told(self.notes), "unanswered": told(self.unanswered)}


def check(file: Path) -> Checked:
    """Raises ConfigError only when there is no such file: then nothing could be asked."""
    found = Checked()
    try:
        config = wiring.open_config(file)
    except ConfigError as error:
        if not file.exists():
            raise
        found.problems += error.problems
        return found
    catalogs: dict[str, dict[str, Table]] = {}
    for system in config.systems:
        try:
            with wiring.session(config, system) as connection:
                catalogs[system] = read_tables(connection, table_names(config, system))
                _Database(config, system, connection, catalogs[system], found).check()
        except Retriable as error:
            found.unanswered.append(Problem(system, first_line(error), f"is the server up, is systems.{system}.dsn right?"))
        except ConcordError as error:
            found.problems.append(Problem(system, first_line(error), f"see systems.{system}.dsn"))
    if len(catalogs) == len(config.systems):
        _compile(config, catalogs, found)
    _kafka(config, found)
    return found


def _compile(config: Config, catalogs: dict[str, dict[str, Table]], found: Checked) -> None:
    try:
        pipeline = compile_config(config, catalogs)
    except ConfigError as error:
        found.problems += error.problems
    else:
        found.notes += [Problem("entities", note) for note in pipeline.notes]


def _kafka(config: Config, found: Checked) -> None:
    cluster = Cluster(config.kafka)
    try:
        brokers = cluster.brokers()
        if brokers < config.kafka.replication:
            mend = f"replication: {brokers}, or more brokers"
            found.problems.append(Problem("kafka.replication", f"is {config.kafka.replication}, the cluster has {brokers}", mend))
        cluster.check(wiring.topics_of(config))
    except ConfigError as error:
        found.problems += error.problems
    except Retriable as error:
        found.unanswered.append(Problem("kafka", first_line(error), "is it up, is kafka.bootstrap right?"))
    except ConcordError as error:
        found.problems.append(Problem("kafka", first_line(error), "see kafka.settings"))


class _Database:
    """One system's database. Each check is a method that yields problems; all run, whatever the others find."""

    def __init__(self, config: Config, system: str, connection: Connection, tables: dict[str, Table], found: Checked) -> None:
        self.config = config
        self.system = system
        self.told = config.systems[system]
        self.connection = connection
        self.tables = tables
        self.found = found
        (self.role, self.superuser, self.replicates, self.database), *_ = self.rows(
            "SELECT rolname::text, rolsuper, rolreplication, current_database()::text FROM pg_roles WHERE rolname = current_user"
        )

    def rows(self, query: str, *params: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(query.encode(), params or None).fetchall()

    def one(self, query: str, *params: Any) -> Any:
        rows = self.rows(query, *params)
        return rows[0][0] if rows else None

    def setting(self, name: str) -> str | None:
        value = self.one("SELECT current_setting(%s, true)", name)
        return None if value is None else str(value)

    def note(self, what: str, mend: str = "", where: str = "") -> None:
        self.found.notes.append(Problem(f"{self.system}: {where}" if where else self.system, what, mend))

    def problem(self, what: str, mend: str = "", where: str = "") -> None:
        self.found.problems.append(Problem(f"{self.system}: {where}" if where else self.system, what, mend))

    def check(self) -> None:
        if self._too_old():
            return  # catalogs of older versions would only raise
        steps: list[Callable[[], None]] = [
            self._server,
            self._slot,
            self._room,
            self._rights,
            self._table_rights,
            self._publications,
            self._our_publication,
            self._replica_identity,
            self._row_security,
            self._match_columns,
            self._schema_version,
        ]
        for step in steps:
            step()

    def _too_old(self) -> bool:
        version = self.connection.info.server_version
        if version < OLDEST * 10_000:
            self.problem(f"PostgreSQL {version // 10_000} is too old", f"Concord needs {OLDEST} or newer")
            return True
        return False

    def _server(self) -> None:
        if (level := self.setting("wal_level")) != "logical":
            self.problem(f"wal_level is {level}", "ALTER SYSTEM SET wal_level = logical; then restart the server")
        if self.one("SELECT pg_is_in_recovery()"):
            self.problem("is a standby", "point dsn to the primary")
        if self.setting("max_slot_wal_keep_size") == "-1":
            self.note(
                "max_slot_wal_keep_size is -1: while Concord is down the server keeps all its log and may fill its disk",
                "watch retained WAL in `concord status`, or set a limit that your longest outage stays below",
            )

    def _slot(self) -> None:
        name = self.told.slot
        before = bool(concord_schema.version(self.connection)) and SnapshotStore(self.connection, name).any()
        try:
            state = slot_state(self.connection, name)
            usable(state, name, before)
        except SlotLost as error:
            self.problem(str(error), "`concord up` does both by itself; look into why it was lost first", f"slot {name}")
            return
        except UnfitDatabase as error:
            self.problem(str(error), f"systems.{self.system}.slot", f"slot {name}")
            return
        if state is not None and state.database != self.database:
            self.problem(
                f"is there for database {state.database}, not {self.database}", f"name another: systems.{self.system}.slot", f"slot {name}"
            )

    def _room(self) -> None:
        ours = bool(self.one("SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %s)", self.told.slot))
        slots, most = self.one("SELECT count(*) FROM pg_replication_slots"), int(self.setting("max_replication_slots") or 0)
        if not ours and slots >= most:
            self.problem(f"all {most} replication slots are taken", "drop one that nobody uses, or raise max_replication_slots and restart")
        senders = self.one("SELECT count(*) FROM pg_stat_replication")
        most_senders = int(self.setting("max_wal_senders") or 0)
        streaming = bool(self.one("SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %s AND active)", self.told.slot))
        if not streaming and senders >= most_senders:
            self.problem(f"all {most_senders} WAL senders are taken", "raise max_wal_senders and restart")
        # each sink worker has a replication origin; before PostgreSQL 18 they share max_replication_slots
        most_origins = int(self.setting("max_active_replication_origins") or most)
        origins = self.one("SELECT count(*) FROM pg_replication_origin")
        has_one = self.one("SELECT EXISTS (SELECT FROM pg_replication_origin WHERE starts_with(roname, %s))", f"concord_{self.system}_")
        if not has_one and origins >= most_origins:
            setting = "max_active_replication_origins" if self.setting("max_active_replication_origins") else "max_replication_slots"
            self.problem(f"all {most_origins} replication origins are taken", f"drop one that nobody uses, or raise {setting}")

    def _rights(self) -> None:
        if self.superuser:
            return
        if not self.replicates:
            self.problem(f"role {self.role} may not replicate", f"ALTER ROLE {self.role} REPLICATION")
        functions = self.rows(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY(%s) "
            "AND NOT has_function_privilege(oid, 'EXECUTE') ORDER BY 1",
            ["pg_replication_origin_create", "pg_replication_origin_session_setup", "pg_replication_origin_xact_setup"],
        )
        if functions:
            named = ", ".join(row[0] for row in functions)
            self.problem(
                f"role {self.role} may not use replication origins, by which our own writes are told from the application's",
                f"GRANT EXECUTE ON FUNCTION {named} TO {self.role}",
            )
        if not concord_schema.version(self.connection) and not self.one("SELECT has_database_privilege(current_database(), 'CREATE')"):
            self.problem(f"role {self.role} may not create the schema concord", f"GRANT CREATE ON DATABASE {self.database} TO {self.role}")

    def _table_rights(self) -> None:
        for name, table in self.tables.items():
            lacking = [
                right
                for right in ("SELECT", "INSERT", "UPDATE", "DELETE")
                if not self.one(f"SELECT has_table_privilege({NAMED}, %s)", table.schema, table.name, right)
            ]
            if lacking:
                rights = ", ".join(lacking)
                self.problem(f"role {self.role} lacks {rights}", f"GRANT {rights} ON {name} TO {self.role}", name)
        for where, sequence in self._sequences():
            oid = self.one("SELECT to_regclass(%s)::oid", sequence)
            if oid is not None and not self.one("SELECT has_sequence_privilege(%s::oid, 'USAGE')", oid):
                self.problem(
                    f"role {self.role} may not take numbers from {sequence}", f"GRANT USAGE ON SEQUENCE {sequence} TO {self.role}", where
                )

    def _sequences(self) -> Iterator[tuple[str, str]]:
        for entity in self.config.entities.values():
            if (binding := entity.bindings.get(self.system)) is not None:
                for expression in (*binding.insert.values(), *binding.always.values()):
                    if expression.nextval is not None:
                        yield binding.table, expression.nextval

    def _publications(self) -> None:
        """Publications, anybody's, that make the application's own UPDATE and DELETE fail."""
        keyless = self.rows(
            "SELECT p.pubname::text, array_agg(c.oid::regclass::text ORDER BY 1) FROM pg_publication p, pg_class c "
            "JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE p.puballtables AND (p.pubupdate OR p.pubdelete) AND c.relkind = 'r' AND c.relpersistence = 'p' "
            "AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'concord') AND n.nspname !~ '^pg_' "
            "AND (c.relreplident = 'n' OR c.relreplident = 'd' AND NOT EXISTS "
            "(SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)) GROUP BY 1 ORDER BY 1"
        )
        for name, tables in keyless:
            shown = ", ".join(tables[:5]) + (f" and {len(tables) - 5} more" if len(tables) > 5 else "")
            self.problem(
                f"is FOR ALL TABLES, and UPDATE and DELETE on tables without a primary key fail because of it: {shown}",
                "give them a primary key, or replica identity FULL, or publish the tables by name",
                f"publication {name}",
            )
        if self.connection.info.server_version < 150_000:
            return  # neither row filters nor column lists
        outside = self.rows(
            """
            WITH identity AS (
                SELECT i.indrelid, a.attnum FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid, unnest(i.indkey::int2[]) AS a(attnum)
                WHERE i.indisprimary AND c.relreplident = 'd' OR i.indisreplident AND c.relreplident = 'i'
            )
            SELECT p.pubname::text, r.prrelid::regclass::text,
                   r.prattrs IS NOT NULL AND EXISTS (
                       SELECT FROM identity k WHERE k.indrelid = r.prrelid AND NOT k.attnum = ANY(r.prattrs::int2[])),
                   r.prqual IS NOT NULL AND EXISTS (
                       SELECT FROM pg_depend d WHERE d.classid = 'pg_publication_rel'::regclass AND d.objid = r.oid
                       AND d.refclassid = 'pg_class'::regclass AND d.refobjid = r.prrelid AND d.refobjsubid > 0
                       AND NOT d.refobjsubid = ANY(coalesce(r.prattrs::int2[], '{}'))
                       AND NOT EXISTS (SELECT FROM identity k WHERE k.indrelid = r.prrelid AND k.attnum = d.refobjsubid))
            FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid JOIN pg_class c ON c.oid = r.prrelid
            WHERE (p.pubupdate OR p.pubdelete) AND c.relreplident <> 'f'
            ORDER BY 1, 2
            """
        )
        for name, table, list_lacks_key, filter_on_others in outside:
            if list_lacks_key:
                self.problem(
                    f"its column list for {table} lacks the key: UPDATE and DELETE on the table fail because of it",
                    "add the key's columns to the list",
                    f"publication {name}",
                )
            if filter_on_others:
                self.problem(
                    f"its row filter for {table} uses a column that is not in the key: UPDATE and DELETE on the table fail because of it",
                    f"ALTER TABLE {table} REPLICA IDENTITY FULL, or take the filter out",
                    f"publication {name}",
                )

    def _our_publication(self) -> None:
        name = self.told.publication
        where = f"publication {name}"
        there = self.rows(
            "SELECT puballtables, pubinsert AND pubupdate AND pubdelete, pubtruncate FROM pg_publication WHERE pubname = %s", name
        )
        published: set[str] = set()
        if there:
            all_tables, publishes, truncates = there[0]
            if not publishes:
                self.problem(
                    "does not publish every insert, update and delete",
                    f"ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate')",
                    where,
                )
            elif not truncates:
                self.note("does not publish truncate: a truncated table would not be noticed", "", where)
            if all_tables:
                return
            published = {
                row[0] for row in self.rows("SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = %s", name)
            }
            if self.connection.info.server_version >= 150_000:
                for (table,) in self.rows(
                    "SELECT r.prrelid::regclass::text FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid "
                    "WHERE p.pubname = %s AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL)",
                    name,
                ):
                    self.problem(
                        f"filters rows or columns of {table}, so changes of them are missing",
                        f"take it out of {name} and let Concord add it, and say which rows count with `where`",
                        where,
                    )
        for full_name, table in self.tables.items():
            if full_name in published or self.superuser:
                continue
            owner, owns = self.rows(
                f"SELECT relowner::regrole::text, pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass({NAMED})",
                table.schema,
                table.name,
            )[0]
            if not owns:
                verb = f"ALTER PUBLICATION {name} ADD TABLE" if there else f"CREATE PUBLICATION {name} FOR TABLE"
                self.problem(
                    f"belongs to {owner}, so role {self.role} cannot publish it",
                    f"let {owner} do it: {verb} {full_name}; or GRANT {owner} TO {self.role}",
                    full_name,
                )

    def _replica_identity(self) -> None:
        for name, table in self.tables.items():
            if table.replica_identity == "n":
                self.problem(
                    "has REPLICA IDENTITY NOTHING: its updates and deletes cannot be captured, and fail once it is published",
                    f"ALTER TABLE {name} REPLICA IDENTITY DEFAULT",
                    name,
                )
            elif table.replica_identity == "i":
                columns = {
                    row[0]
                    for row in self.rows(
                        "SELECT a.attname::text FROM pg_index i "
                        "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey::int2[]) "
                        f"WHERE i.indrelid = to_regclass({NAMED}) AND i.indisreplident",
                        table.schema,
                        table.name,
                    )
                }
                if not set(table.primary_key) <= columns:
                    self.problem(
                        "has REPLICA IDENTITY USING INDEX without the primary key: a delete does not say which row it was",
                        f"ALTER TABLE {name} REPLICA IDENTITY DEFAULT",
                        name,
                    )

    def _row_security(self) -> None:
        for name, table in self.tables.items():
            if not table.row_security:
                continue
            if self.one(f"SELECT row_security_active({NAMED})", table.schema, table.name):
                what = f"row-level security is active for role {self.role}: rows that it hides cannot be read or written, without an error"
                if self.told.session:
                    self.note(what, "do the settings under `session` and the rows that count (`where`) go together?", name)
                else:
                    self.problem(
                        what,
                        f"a role with BYPASSRLS; or systems.{self.system}.session for our sessions, with `where` for the same rows",
                        name,
                    )

    def _match_columns(self) -> None:
        """Adopting looks rows up by what they match on."""
        for entity_name, entity in self.config.entities.items():
            binding = entity.bindings.get(self.system)
            place = table_name(binding.table) if binding is not None else None
            table = self.tables.get(".".join(place)) if place is not None else None
            if table is None:
                continue
            columns = [
                entity.fields[name].sides[self.system].columns[0]
                for name in entity.match_on
                if name in entity.fields and self.system in entity.fields[name].sides
            ]
            if not columns:
                continue
            oid = self.one(f"SELECT to_regclass({NAMED})::oid", table.schema, table.name)
            indexed = self.one(
                "SELECT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = %s::oid AND i.indisvalid AND ("
                "EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = i.indkey[0] AND a.attname = ANY(%s)) "
                "OR i.indkey[0] = 0 AND EXISTS (SELECT FROM pg_depend d "
                "JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid "
                "WHERE d.objid = i.indexrelid AND d.refobjid = i.indrelid AND a.attname = ANY(%s))))",
                oid,
                columns,
                columns,
            )
            if indexed:
                continue
            many = (self.one("SELECT reltuples FROM pg_class WHERE oid = %s::oid", oid) or 0) >= MANY_ROWS
            say = self.problem if many else self.note
            say(
                f"{', '.join(columns)} is not indexed, but {entity_name} is matched on it: each new one reads the whole table",
                f"CREATE INDEX ON {table} ({', '.join(columns)})",
                str(table),
            )

    def _schema_version(self) -> None:
        found = concord_schema.version(self.connection)
        if found > concord_schema.LATEST:
            self.problem(f"schema concord is of version {found}, this program knows up to {concord_schema.LATEST}", "use the newer program")


def show(found: Checked, console: Console) -> None:
    for heading, style, problems in (
        ("problem", "bold red", found.problems),
        ("could not be asked", "bold yellow", found.unanswered),
        ("note", "bold", found.notes),
    ):
        for one in problems:
            console.print(f"[{style}]{heading}[/]  [bold]{escape(one.where)}[/]: {escape(one.what)}", soft_wrap=True)
            if one.mend:
                console.print(f"    → {escape(one.mend)}", soft_wrap=True)
    if found.fit:
        console.print("[green]fit: nothing stands in the way[/]" + (f" ({len(found.notes)} notes)" if found.notes else ""))
    else:
        console.print(f"{len(found.problems)} problems" + (f", {len(found.unanswered)} could not be asked" if found.unanswered else ""))
