"""A server and its replication: version, settings, our slot, room for what we need, rights that are not about one table."""

from __future__ import annotations

from connectors import concord_schema
from connectors.source.slot import SlotState, slot_state, usable
from connectors.source.snapshot import SnapshotStore
from console import remembered
from console.check.database import Database
from console.check.findings import About
from schemas.errors import SlotLost, UnfitDatabase

OLDEST = 14  # logical messages in pgoutput
NEARLY_LOST = 0.25  # of max_slot_wal_keep_size left


def too_old(db: Database) -> bool:
    """Whether the catalogs are not those that the other checks know."""
    if db.version < OLDEST * 10_000:
        db.problem(About.SERVER, f"PostgreSQL {db.version // 10_000} is too old", f"Concord needs {OLDEST} or newer")
        return True
    return False


def check_server(db: Database) -> None:
    _settings(db)
    if usable := _schema_concord(db):
        _slot(db)
    _room(db)
    _rights(db)
    if usable:
        _schema_version(db)
        _mapping(db)


def _settings(db: Database) -> None:
    if (level := db.setting("wal_level")) != "logical":
        db.problem(About.SERVER, f"wal_level is {level}", "ALTER SYSTEM SET wal_level = logical; then restart the server")
    if db.one("SELECT pg_is_in_recovery()"):
        db.problem(About.SERVER, "is a standby", "point dsn to the primary")
    if db.setting("max_slot_wal_keep_size") == "-1":
        db.note(
            About.SERVER,
            "max_slot_wal_keep_size is -1: while Concord is down the server keeps all its log and may fill its disk",
            "watch retained WAL in `concord status`, or set a limit that your longest outage stays below",
        )
    if (timeout := db.setting("idle_replication_slot_timeout")) not in (None, "0"):  # PostgreSQL 18
        db.note(
            About.SERVER,
            f"idle_replication_slot_timeout is {timeout}: if Concord is down for longer, its slot is lost and everything is read again",
            "0, or longer than your longest outage",
        )
    if (encoding := db.setting("server_encoding")) != "UTF8":
        db.note(
            About.VALUES,
            f"the database's encoding is {encoding}: characters that it does not have are refused, and end as dead letters",
            "a database in UTF8, if names of other scripts are to get here",
        )


def _slot(db: Database) -> None:
    name = db.told.slot
    where = f"slot {name}"
    before = bool(concord_schema.version(db.connection)) and SnapshotStore(db.connection, name).any()
    try:
        state = slot_state(db.connection, name)
        usable(state, name, before)
    except SlotLost as error:
        db.problem(About.SERVER, str(error), "`concord up` does both by itself; look into why it was lost first", where)
        return
    except UnfitDatabase as error:
        db.problem(About.SERVER, str(error), f"name another: systems.{db.system}.slot", where)
        return
    if state is None:
        return
    if state.database != db.name:
        mend = f"name another: systems.{db.system}.slot"
        db.problem(About.SERVER, f"is there for database {state.database}, not {db.name}", mend, where)
    _slot_in_use(db, state, where)
    _slot_nearly_lost(db, state, where)


def _slot_in_use(db: Database, state: SlotState, where: str) -> None:
    """Ours when Concord is running; anybody else keeps us out."""
    reader = db.rows(
        "SELECT a.application_name, s.active_pid FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid "
        "WHERE s.slot_name = %s AND s.active",
        state.name,
    )
    for application, pid in reader:
        if application and not application.startswith("concord"):  # not known: a role that may not see other sessions
            db.problem(
                About.SERVER,
                f"is in use by another program: {application} (pid {pid})",
                f"name another: systems.{db.system}.slot",
                where,
            )


def _slot_nearly_lost(db: Database, state: SlotState, where: str) -> None:
    if state.safe_bytes is None:
        return
    limit = state.safe_bytes + state.retained_bytes
    if state.wal_status == "unreserved" or state.safe_bytes < NEARLY_LOST * limit:
        db.note(
            About.SERVER,
            f"may be lost soon: {state.safe_bytes / 2**20:.0f} MB of log can still be written, then max_slot_wal_keep_size ends it",
            "start Concord now, or raise max_slot_wal_keep_size (SELECT pg_reload_conf())",
            where,
        )


def _room(db: Database) -> None:
    ours = bool(db.one("SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %s)", db.told.slot))
    slots, most = db.one("SELECT count(*) FROM pg_replication_slots"), int(db.setting("max_replication_slots") or 0)
    if not ours and slots >= most:
        db.problem(
            About.SERVER,
            f"all {most} replication slots are taken",
            "drop one that nobody uses, or raise max_replication_slots and restart",
        )
    senders = db.one("SELECT count(*) FROM pg_stat_replication")
    most_senders = int(db.setting("max_wal_senders") or 0)
    streaming = bool(db.one("SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %s AND active)", db.told.slot))
    if not streaming and senders >= most_senders:
        db.problem(About.SERVER, f"all {most_senders} WAL senders are taken", "raise max_wal_senders and restart")
    # each sink worker has a replication origin; before PostgreSQL 18 they share max_replication_slots
    most_origins = int(db.setting("max_active_replication_origins") or most)
    origins = db.one("SELECT count(*) FROM pg_replication_origin")
    has_one = db.one("SELECT EXISTS (SELECT FROM pg_replication_origin WHERE starts_with(roname, %s))", f"concord_{db.system}_")
    if not has_one and origins >= most_origins:
        setting = "max_active_replication_origins" if db.setting("max_active_replication_origins") else "max_replication_slots"
        db.problem(
            About.SERVER, f"all {most_origins} replication origins are taken", f"drop one that nobody uses, or raise {setting} and restart"
        )


def _schema_concord(db: Database) -> bool:
    """Whether what we keep can be looked at. A schema that is there must be ours to use and to bring up to date."""
    usable = db.one(
        # a list of rights in one call would ask for any of them
        "SELECT has_schema_privilege('concord', 'USAGE') AND has_schema_privilege('concord', 'CREATE')"
        " WHERE to_regnamespace('concord') IS NOT NULL"
    )
    login = db.one("SELECT session_user::text")
    if usable is False:
        mend = f"concord check --grant, or ALTER SCHEMA concord OWNER TO {db.shown(login)}, and the same for its tables"
        db.problem(About.RIGHTS, f"role {login} may not use the schema concord, which is there", mend)
    return usable is not False


def _rights(db: Database) -> None:
    if db.superuser:
        db.note(
            About.RIGHTS,
            f"role {db.role} is a superuser, and Concord needs far less",
            f"name a role of its own in systems.{db.system}.dsn and let `concord check --grant` make it",
        )
        return
    for (role,) in db.rows(  # who logs in reads the log, whoever the session is then set to makes the slot
        "SELECT rolname::text FROM pg_roles WHERE rolname IN (current_user, session_user) "
        "AND NOT rolreplication AND NOT rolsuper ORDER BY 1"
    ):
        db.problem(About.RIGHTS, f"role {role} may not replicate", f"ALTER ROLE {role} REPLICATION")
    _origin_functions(db, ["create", "session_setup", *(["xact_setup"] if db.told.role is None else [])])
    if not db.one("SELECT to_regnamespace('concord') IS NOT NULL OR has_database_privilege(current_database(), 'CREATE')"):
        mend = f"CREATE SCHEMA concord AUTHORIZATION {db.shown(db.role)}"
        db.problem(About.RIGHTS, f"role {db.role} may not create the schema concord", mend)


def check_role(db: Database) -> None:
    """What `systems.….role` needs besides its rights on the tables; those on the schema concord are granted when Concord starts."""
    _origin_functions(db, ["xact_setup"])  # each transaction says what it has applied


def _origin_functions(db: Database, wanted: list[str]) -> None:
    functions = db.rows(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY(%s) "
        "AND NOT has_function_privilege(oid, 'EXECUTE') ORDER BY 1",
        [f"pg_replication_origin_{name}" for name in wanted],
    )
    if functions:
        named = ", ".join(row[0] for row in functions)
        db.problem(
            About.RIGHTS,
            f"role {db.role} may not use replication origins, by which our own writes are told from the application's",
            f"GRANT EXECUTE ON FUNCTION {named} TO {db.role}",
        )


def _mapping(db: Database) -> None:
    for change in remembered.changes(db.connection, db.config, db.system):
        if change.read_again or change.rows:
            mend = "`concord up` reads it again when it starts" if change.read_again else "rows that do not count any more would be deleted"
            tables = ", ".join(f"{schema}.{table}" for schema, table in change.tables)
            db.note(About.FILE, f"{change.what} since {tables} was read", f"{mend}; with parts that run: `concord snapshot --changed`")


def _schema_version(db: Database) -> None:
    found = concord_schema.version(db.connection)
    if found > concord_schema.LATEST:
        what, _, mend = concord_schema.newer(found, str(db.connection.info.dbname)).rpartition(": ")
        db.problem(About.SERVER, what, mend)
