"""Each of our tables in one system: rights as they are used, rows that row-level security hides, triggers and rules on what we write."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from console.check.database import Database, listed
from console.check.findings import About
from console.check.homes import Home
from console.check.needs import TRIGGERS_OF_OURS, needed, written_by
from schemas.catalog import Table

_ROW, _BEFORE, _INSERT, _DELETE, _UPDATE = 1, 2, 4, 8, 16  # bits of pg_trigger.tgtype
_ASSIGNED = re.compile(r"\bnew\s*\.\s*\"?(\w+)\"?\s*:?=(?!=)", re.IGNORECASE)
_WHOLE_ROW = re.compile(r"\bnew\s*:=|\bselect\b[^;]*\binto\s+(?:strict\s+)?new\b|populate_record", re.IGNORECASE)
_SWALLOWS = re.compile(r"\breturn\s+(null|old)\b", re.IGNORECASE)


def check_tables(db: Database, homes: Sequence[Home]) -> None:
    of_table: defaultdict[str, list[Home]] = defaultdict(list)
    for home in homes:
        of_table[str(home.table)].append(home)
    _schemas(db)
    for name, table in db.tables.items():
        _rights(db, name, table, of_table.get(name))
        _row_security(db, name, table)
        _triggers(db, name, table, of_table.get(name, []))
        _trigger_rights(db, name, table, of_table.get(name, []))
        _rules(db, name, table)


# --- rights -----------------------------------------------------------------------------------------------------------------------


def _schemas(db: Database) -> None:
    names = sorted({table.schema for table in db.tables.values()})
    for (name,) in db.rows(
        "SELECT nspname::text FROM pg_namespace WHERE nspname = ANY(%s) AND NOT has_schema_privilege(oid, 'USAGE') ORDER BY 1", names
    ):
        db.problem(About.RIGHTS, f"role {db.role} may not use the schema", f"GRANT USAGE ON SCHEMA {db.shown(name)} TO {db.role}", name)


def _rights(db: Database, name: str, table: Table, homes: Sequence[Home] | None) -> None:
    """What we do there, column by column. `homes` None: the mapping is not sound, so every right is asked for."""
    lacking: list[str] = []
    for right, columns in needed(table, homes).items():
        if db.one("SELECT has_table_privilege(%s::oid, %s)", db.oid(table), right):
            continue
        if right == "DELETE":
            lacking.append(right)
            continue
        among = columns if columns is not None else frozenset(column.name for column in table.columns)
        without = [
            column for column in sorted(among) if not db.one("SELECT has_column_privilege(%s::oid, %s, %s)", db.oid(table), column, right)
        ]
        if without:
            lacking.append(right if len(without) == len(among) and columns is None else f"{right} ({db.shown_columns(without)})")
    if lacking:
        rights = ", ".join(lacking)
        at = db.shown(table.schema, table.name)
        db.problem(About.RIGHTS, f"role {db.role} lacks {rights}", f"GRANT {rights} ON {at} TO {db.role}", name)


# --- row-level security -----------------------------------------------------------------------------------------------------------


def _row_security(db: Database, name: str, table: Table) -> None:
    if not table.row_security or not db.one("SELECT row_security_active(%s::oid)", db.oid(table)):
        return
    what = f"row-level security is active for role {db.role}: rows that it hides cannot be read or written, without an error"
    visible = db.ask(f"SELECT count(*) FROM {db.source(table)}")
    there = db.one("SELECT reltuples::int8 FROM pg_class WHERE oid = %s::oid", db.oid(table))
    hidden_all = False
    if visible and there is not None and there >= 0:  # -1: nobody has counted yet
        what += f"; it sees {visible[0][0]:,} of about {there:,} rows"
        hidden_all = not visible[0][0] and there > 0
    if (db.told.session or db.told.role) and not hidden_all:
        db.note(About.VISIBILITY, what, "do `role`, the settings under `session` and the rows that count (`where`) go together?", name)
        return
    mend = f"systems.{db.system}.role: one with BYPASSRLS; or systems.{db.system}.session for our sessions, with `where` for the same rows"
    db.problem(About.VISIBILITY, what, mend, name)


# --- triggers and rules -----------------------------------------------------------------------------------------------------------


def _triggers(db: Database, name: str, table: Table, homes: Sequence[Home]) -> None:
    found = db.rows(
        "SELECT t.tgname::text, t.tgtype::int, p.oid::regproc::text, l.lanname::text, p.prosrc "
        "FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_language l ON l.oid = p.prolang "
        "WHERE t.tgrelid = %s AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') ORDER BY 1",
        db.oid(table),
    )
    inserts, updates, deletes = (any(getattr(home, verb) for home in homes) for verb in ("inserts", "updates", "deletes"))
    ours = inserts * _INSERT | updates * _UPDATE | deletes * _DELETE
    for trigger, kind, function, language, source in found:
        if not kind & ours:
            continue
        where = f"{name}, trigger {trigger}"
        if kind & _BEFORE and kind & _ROW:
            _before(db, where, kind & ours, function, source if language == "plpgsql" else None, table, homes)
        elif not kind & _BEFORE:
            _after(db, where, function, source if language in ("plpgsql", "sql") else None)


def _before(db: Database, where: str, kind: int, function: str, source: str | None, table: Table, homes: Sequence[Home]) -> None:
    """A row trigger that may change or swallow what we write. One that only sets columns that nobody maps (updated_at) is let pass."""
    if source is None:
        db.note(
            About.TRIGGERS,
            f"{function} runs before our writes and may change them: what comes back other than written is recorded and not fought over",
            "give the fields that it sets an owner, so that its values reach the other systems too",
            where,
        )
        return
    if kind & (_INSERT | _UPDATE):
        known = {column.name.lower(): column.name for column in table.columns}
        assigned = {known[one.lower()] for one in _ASSIGNED.findall(source) if one.lower() in known}
        mapped = [(column, field, home.entity.owner[field]) for home in homes for column, field in home.written.items()]
        changed = {column: field for column, field, owner in mapped if column in assigned and owner != db.system}
        if changed:
            db.note(
                About.TRIGGERS,
                f"{function} sets {', '.join(sorted(changed))} before each of our writes: what it makes of them stays here, the other "
                "systems "
                "are not told",
                f"`owner: {db.system}` for {', '.join(sorted(set(changed.values())))}, if its values are to reach them",
                where,
            )
        elif _WHOLE_ROW.search(source):
            db.note(
                About.TRIGGERS, f"{function} replaces the whole row before it is written", "look at what it makes of our columns", where
            )
    if _SWALLOWS.search(source):
        verbs = [word for bit, word in ((_INSERT, "inserts"), (_UPDATE, "updates"), (_DELETE, "deletes")) if kind & bit]
        db.note(
            About.TRIGGERS,
            f"{function} may swallow {' and '.join(verbs)} (RETURN NULL or OLD): a write of ours that hits no row is a dead letter",
            "let it pass for our role, or keep such rows out with `where`",
            where,
        )


def _after(db: Database, where: str, function: str, source: str | None) -> None:
    """What it writes is written in our transaction: it is taken for ours, and is no news to the other systems."""
    targets = dict.fromkeys(name.replace('"', "") for _, name in written_by(source)) if source is not None else ()
    ours = [target for target in targets if any(table.name == target.rpartition(".")[2] for table in db.tables.values())]
    if source is not None and not ours:
        return
    what = f"writes to {listed(ours)}" if ours else "may write to our tables"
    db.note(
        About.TRIGGERS,
        f"{function} {what} after our writes, in our transaction: its changes are taken for ours and are no news to the other systems",
        f"`owner: {db.system}` for the fields that it computes",
        where,
    )


def _trigger_rights(db: Database, name: str, table: Table, homes: Sequence[Home]) -> None:
    """A trigger function that is not SECURITY DEFINER writes with our rights: where it may not, every write of ours fails."""
    does = [any(getattr(home, verb) for home in homes) for verb in ("inserts", "updates", "deletes")]
    for trigger, source in db.rows(TRIGGERS_OF_OURS, db.oid(table), *does):
        for right, target in written_by(source):
            found = db.rows("SELECT to_regclass(%s)::oid::int8, to_regclass(%s)::text", target, target)[0]
            if found[0] is None or db.one("SELECT has_table_privilege(%s::oid, %s)", found[0], right):
                continue
            if right != "DELETE" and db.one("SELECT has_any_column_privilege(%s::oid, %s)", found[0], right):
                continue
            db.problem(
                About.RIGHTS,
                f"writes to {found[1]} with the rights of role {db.role}, which lacks {right} there: our writes would fail",
                f"GRANT {right} ON {found[1]} TO {db.role}; or make its function SECURITY DEFINER",
                f"{name}, trigger {trigger}",
            )


def _rules(db: Database, name: str, table: Table) -> None:
    for rule, event, instead in db.rows(
        "SELECT rulename::text, ev_type::text, is_instead FROM pg_rewrite "
        "WHERE ev_class = %s AND ev_type <> '1' AND ev_enabled IN ('O', "
        "'A') "
        "ORDER BY 1",
        db.oid(table),
    ):
        verb = {"2": "UPDATE", "3": "INSERT", "4": "DELETE"}[event]
        where = f"{name}, rule {rule}"
        if instead:
            what = f"does something else instead of {verb}: our writes ask what they wrote (RETURNING), and would fail or say nothing"
            db.problem(About.TRIGGERS, what, "a trigger in its place", where)
        else:
            db.note(About.TRIGGERS, f"does more with each {verb} of ours", "is it meant for our writes too?", where)
