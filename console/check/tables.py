"""Each of our tables in one system: rights as they are used, rows that row-level security hides, triggers and rules on what we write."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from console.check.database import Database, listed
from console.check.findings import About
from console.check.homes import Home
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
    columns = {column.name for column in table.columns}
    wanted: dict[str, set[str]] = {"SELECT": columns}  # the snapshot reads them all
    if homes is None or any(home.inserts for home in homes):
        wanted["INSERT"] = columns if homes is None else {column for home in homes if home.inserts for column in home.given}
    if homes is None or any(home.updates for home in homes):
        wanted["UPDATE"] = columns if homes is None else {column for home in homes if home.updates for column in _updated(home)}
    lacking: list[str] = []
    for right, needed in wanted.items():
        if db.one("SELECT has_table_privilege(%s::oid, %s)", db.oid(table), right):
            continue
        without = [
            column for column in sorted(needed) if not db.one("SELECT has_column_privilege(%s::oid, %s, %s)", db.oid(table), column, right)
        ]
        if len(without) == len(needed):
            lacking.append(right)
        elif without:
            lacking.append(f"{right} ({db.shown_columns(without)})")
    if (homes is None or any(home.deletes for home in homes)) and not db.one(
        "SELECT has_table_privilege(%s::oid, 'DELETE')", db.oid(table)
    ):
        lacking.append("DELETE")
    if lacking:
        rights = ", ".join(lacking)
        at = db.shown(table.schema, table.name)
        db.problem(About.RIGHTS, f"role {db.role} lacks {rights}", f"GRANT {rights} ON {at} TO {db.role}", name)


def _updated(home: Home) -> set[str]:
    return {*home.written, *home.always}


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
    targets = _written_tables(source) if source is not None else []
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


_WRITES = re.compile(r'\b(?:update|insert\s+into|delete\s+from)\s+(?:only\s+)?((?:"[^"]+"|\w+)(?:\.(?:"[^"]+"|\w+))?)', re.IGNORECASE)


def _written_tables(source: str) -> list[str]:
    names: Iterable[str] = (found.replace('"', "") for found in _WRITES.findall(source))
    return list(dict.fromkeys(names))


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
