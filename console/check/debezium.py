"""What real Debezium cannot do, or would not tell: asked when it reads the logs (`source: debezium`, or `--source debezium`).

Its settings are judged where they are made (`connectors.debezium.settings`); here it is the tables. What is listed was seen with
Debezium 3.6.3: docs/debezium-parity.md.
"""

from __future__ import annotations

from collections.abc import Iterable

from console import debezium
from console.check.database import Database, listed
from console.check.findings import About, Checked
from schemas.catalog import Table
from schemas.config import Config
from schemas.errors import ConfigError
from schemas.mapping import Binding
from schemas.mapping.doubts import of_type, of_unchanged


def check_settings(config: Config, found: Checked) -> None:
    """What concord.yaml tells Debezium."""
    try:
        debezium.captured(config)
    except ConfigError as error:
        found.take(About.DEBEZIUM, error.problems)


def check_debezium(db: Database, bindings: Iterable[Binding]) -> None:
    """The tables of one system, and which of their columns are mapped."""
    mapped = _mapped(bindings)
    for name, table in db.tables.items():
        _quoting(db, name, table)
        _identity(db, name, table)
        columns = mapped.get(name, set())
        for column in table.columns:
            why = of_type(column)
            if column.name in columns and why is not None:
                db.problem(
                    About.DEBEZIUM, why, "leave it out of the mapping, or let our own source read this system", f"{name}.{column.name}"
                )
        if table.replica_identity != "f" and (untold := sorted(of_unchanged(table) & columns)):
            db.note(
                About.DEBEZIUM,
                f"an update that leaves a long {listed(untold)} as it was comes with null there, and is a dead letter",
                f"ALTER TABLE {db.shown(table.schema, table.name)} REPLICA IDENTITY FULL",
                name,
            )


def _quoting(db: Database, name: str, table: Table) -> None:
    """Seen with a table's name. A schema's and a column's are refused with it, untried."""
    odd = [one for one in (table.schema, table.name, *(column.name for column in table.columns)) if one[0] == '"' or one[-1] == '"']
    if odd:
        db.problem(
            About.DEBEZIUM,
            f"{listed(odd)}: a name that begins or ends with a quotation mark is taken for one that is quoted already; its snapshot fails",
            "rename it, or let our own source read this system",
            name,
        )


def _identity(db: Database, name: str, table: Table) -> None:
    if table.replica_identity != "i":
        return
    by_key = db.one("SELECT EXISTS (SELECT FROM pg_index WHERE indrelid = %s AND indisreplident AND indisprimary)", db.oid(table))
    if not by_key:
        db.problem(
            About.DEBEZIUM,
            "has REPLICA IDENTITY USING INDEX: Debezium gives its deletes the key 0, and a changed key looks like a new row",
            f"ALTER TABLE {db.shown(table.schema, table.name)} REPLICA IDENTITY DEFAULT (or FULL)",
            name,
        )


def _mapped(bindings: Iterable[Binding]) -> dict[str, set[str]]:
    """Table → its columns that anybody reads: of fields, keys and links, and those that decide which rows count or come first."""
    found: dict[str, set[str]] = {}
    for binding in bindings:
        found.setdefault(str(binding.table), set()).update(binding.root_columns)
        for part in binding.parts:
            found.setdefault(str(part.table), set()).update(part.columns)
    return found
