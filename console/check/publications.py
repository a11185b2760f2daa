"""Publications, anybody's: those that make the application's own UPDATE and DELETE fail, and whether ours is what we need.

PostgreSQL refuses to update a published row that the log could not name. What names it is the *replica identity* of the table that the row
is in, for a partitioned table of each partition:

    default    the primary key: none, or a deferrable one, is nothing
    index      a unique index: dropped meanwhile, it is nothing
    full       all columns: a column list hides some of them; before they are published (18+), generated columns do
    nothing    nothing
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from console.check.database import Database, listed
from console.check.findings import About

# The tables (leaves of partitioned ones) of a set of relations, with what their updates are refused for, if published.
_IDENTITY = """
leaves AS (
    SELECT p.publication, p.rel AS root, p.rel FROM published p
    UNION SELECT l.publication, l.root, i.inhrelid FROM leaves l
    JOIN pg_class c ON c.oid = l.rel AND c.relkind = 'p' JOIN pg_inherits i ON i.inhparent = l.rel
), identity AS (
    SELECT DISTINCT l.publication, l.root, c.oid, c.oid::regclass::text AS name, c.relreplident AS kind,
           EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) AS has_key,
           EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate AND i.indisvalid) AS usable_key,
           EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident AND i.indisvalid) AS has_index,
           EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = 's')
               AS stored,
           EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = 'v')
               AS virtual
    FROM leaves l JOIN pg_class c ON c.oid = l.rel JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_'
)"""

_COLUMNS_OF_IDENTITY = """
    SELECT i.indrelid, a.attnum FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid, unnest(i.indkey::int2[]) AS a(attnum)
    WHERE i.indisprimary AND c.relreplident = 'd' OR i.indisreplident AND c.relreplident = 'i'"""


@dataclass(frozen=True)
class Identity:
    """What the log can name a row of a table by."""

    table: str
    kind: str  # pg_class.relreplident
    has_key: bool
    usable_key: bool
    has_index: bool
    stored: bool
    virtual: bool

    def fault(self, publishes_generated: bool) -> tuple[str, str] | None:
        """Why its UPDATE and DELETE fail once they are published, and the mend. `publishes_generated`: or there are none to publish yet."""
        default = f"ALTER TABLE {self.table} REPLICA IDENTITY DEFAULT"
        match self.kind:
            case "n":
                return "has REPLICA IDENTITY NOTHING", default if self.usable_key else f"ALTER TABLE {self.table} REPLICA IDENTITY FULL"
            case "d" if not self.has_key:
                return "has no primary key", f"give it one, or ALTER TABLE {self.table} REPLICA IDENTITY FULL"
            case "d" if not self.usable_key:
                return (
                    "has a deferrable primary key, which cannot name a row in the log",
                    f"a key that is not deferrable, or ALTER TABLE {self.table} REPLICA IDENTITY FULL",
                )
            case "i" if not self.has_index:
                return "has REPLICA IDENTITY USING INDEX, and the index is gone", default
            case "f" if (self.stored and not publishes_generated) or (self.virtual and not publishes_generated):
                return "has REPLICA IDENTITY FULL and a generated column, which is not published", default
        return None


def check_publications(db: Database) -> None:
    _refusing(db)
    if db.version >= 150_000:
        _hiding(db)
    _ours(db)
    _our_tables(db)


def _refusing(db: Database) -> None:
    """Publications with tables whose rows the log cannot name."""
    in_schemas = (
        "UNION SELECT n.pnpubid, c.oid, 'FOR TABLES IN SCHEMA' FROM pg_publication_namespace n JOIN pg_class c "
        "ON c.relnamespace = n.pnnspid AND c.relkind IN ('r', 'p')"
        if db.version >= 150_000
        else ""
    )
    generated = "p.pubgencols <> 'n'" if db.version >= 180_000 else "true"  # before, nobody minds
    found = db.rows(
        f"""
        WITH RECURSIVE published(publication, rel, how) AS (
            SELECT p.oid, c.oid, 'FOR ALL TABLES' FROM pg_publication p, pg_class c WHERE p.puballtables AND c.relkind = 'r'
            UNION SELECT r.prpubid, r.prrelid, 'FOR TABLE' FROM pg_publication_rel r
            {in_schemas}
        ), {_IDENTITY}
        SELECT p.pubname::text, (SELECT min(how) FROM published o WHERE o.publication = p.oid), {generated}, p.pubupdate, p.pubdelete,
               i.name, i.kind, i.has_key, i.usable_key, i.has_index, i.stored, i.virtual
        FROM identity i JOIN pg_publication p ON p.oid = i.publication WHERE p.pubupdate OR p.pubdelete ORDER BY 1, i.name
        """
    )
    refusing: dict[tuple[str, str, str, str], dict[str, str]] = {}
    for name, how, publishes_generated, updates, deletes, *identity in found:
        told = Identity(*identity)
        if (fault := told.fault(publishes_generated)) is not None:
            what, mend = fault
            writes = " and ".join(["UPDATE"] * updates + ["DELETE"] * deletes)
            refusing.setdefault((name, how, what, writes), {})[told.table] = mend
    for (name, how, what, writes), tables in refusing.items():
        mends = list(dict.fromkeys(tables.values()))
        db.problem(
            About.PUBLICATIONS,
            f"is {how}, and {writes} fail on each table that {what}: {listed(tables)}",
            mends[0] if len(mends) == 1 else f"{mends[0]}; the same for the others, or take them out of {name}",
            f"publication {name}",
        )


def _hiding(db: Database) -> None:
    """Column lists and row filters that hide what the log needs to name a row."""
    outside = db.rows(
        f"""
        WITH identity AS ({_COLUMNS_OF_IDENTITY})
        SELECT p.pubname::text, c.oid::regclass::text, c.relreplident = 'f',
               r.prattrs IS NOT NULL AND (c.relreplident = 'f' OR EXISTS (
                   SELECT FROM identity k WHERE k.indrelid = r.prrelid AND NOT k.attnum = ANY(r.prattrs::int2[]))),
               r.prqual IS NOT NULL AND c.relreplident <> 'f' AND EXISTS (
                   SELECT FROM regexp_matches(r.prqual::text, ':varattno ([0-9]+)', 'g') AS m
                   WHERE NOT EXISTS (SELECT FROM identity k WHERE k.indrelid = r.prrelid AND k.attnum = m[1]::int2))
        FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid JOIN pg_class c ON c.oid = r.prrelid
        WHERE p.pubupdate OR p.pubdelete
        ORDER BY 1, 2
        """
    )
    for name, table, full, list_hides, filter_on_others in outside:
        if list_hides:
            db.problem(
                About.PUBLICATIONS,
                f"its column list for {table} lacks {'columns, and its replica identity is FULL' if full else 'the key'}: "
                "UPDATE and DELETE on the table fail because of it",
                f"ALTER TABLE {table} REPLICA IDENTITY DEFAULT, or take the list out" if full else "add the key's columns to the list",
                f"publication {name}",
            )
        if filter_on_others:
            db.problem(
                About.PUBLICATIONS,
                f"its row filter for {table} uses a column that is not in the key: UPDATE and DELETE on the table fail because of it",
                f"ALTER TABLE {table} REPLICA IDENTITY FULL, or take the filter out",
                f"publication {name}",
            )


def _ours(db: Database) -> None:
    name = db.told.publication
    where = f"publication {name}"
    there = db.rows(
        "SELECT puballtables, pubinsert AND pubupdate AND pubdelete, pubtruncate, pubviaroot FROM pg_publication WHERE pubname = %s", name
    )
    published: set[str] = set()
    if there:
        all_tables, publishes, truncates, via_root = there[0]
        if not publishes:
            mend = f"ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate')"
            db.problem(About.PUBLICATIONS, "does not publish every insert, update and delete", mend, where)
        elif not truncates:
            mend = f"ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate')"
            db.note(About.PUBLICATIONS, "does not publish truncate: a truncated table would not be noticed", mend, where)
        if not via_root:
            _not_via_root(db, name, where)
        if all_tables:
            return
        published = {row[0] for row in db.rows("SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = %s", name)}
        if db.version >= 150_000:
            for (table,) in db.rows(
                "SELECT r.prrelid::regclass::text FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid "
                "WHERE p.pubname = %s AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL)",
                name,
            ):
                db.problem(
                    About.PUBLICATIONS,
                    f"filters rows or columns of {table}, so changes of them are missing",
                    f"take it out of {name} and let Concord add it, and say which rows count with `where`",
                    where,
                )
    for full_name, table in db.tables.items():
        if full_name in published or db.superuser:
            continue
        owner, owns = db.rows("SELECT relowner::regrole::text, pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = %s", db.oid(table))[
            0
        ]
        if not owns:
            verb = f"ALTER PUBLICATION {name} ADD TABLE" if there else f"CREATE PUBLICATION {name} FOR TABLE"
            db.problem(
                About.RIGHTS,
                f"belongs to {owner}, so role {db.role} cannot publish it",
                f"let {owner} do it: {verb} {full_name}; or GRANT {owner} TO {db.role}",
                full_name,
            )


def _not_via_root(db: Database, name: str, where: str) -> None:
    partitioned = _of_kind(db, "c.relkind = 'p'")
    if partitioned:
        db.problem(
            About.PUBLICATIONS,
            f"publishes partitions under their own names, so no change of {listed(partitioned)} would be known",
            f"ALTER PUBLICATION {name} SET (publish_via_partition_root = true)",
            where,
        )


def _of_kind(db: Database, condition: str) -> list[str]:
    """Those of our tables that are so. `condition`: of pg_class c."""
    oids = {db.oid(table): name for name, table in db.tables.items()}
    found = db.rows(f"SELECT c.oid::int8 FROM pg_class c WHERE c.oid::int8 = ANY(%s) AND {condition} ORDER BY 1", list(oids))
    return [oids[oid] for (oid,) in found]


def _our_tables(db: Database) -> None:
    """Our publication would make the application's writes fail, or lack what happens."""
    for name in _of_kind(db, "c.relpersistence = 'u'"):
        mend = f"ALTER TABLE {name} SET LOGGED"
        db.problem(About.PUBLICATIONS, "is UNLOGGED: its changes are not in the log", mend, name)
    for name in _of_kind(db, "c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid)"):
        db.note(
            About.PUBLICATIONS,
            "has tables that inherit from it: their rows are read with its own, but their changes are not captured",
            "partitions instead, or bind those tables too",
            name,
        )
    for name, identity in _identities(db, db.tables):
        fault = identity.fault(publishes_generated=db.version < 180_000)
        table = db.tables[name]
        if fault is not None and identity.kind == "d" and not table.primary_key:
            continue  # the configuration's check says it: without a key nothing can be kept in agreement
        if fault is not None:
            what, mend = fault
            of = "" if identity.table in (name, table.name) else f"partition {identity.table} "
            db.problem(
                About.PUBLICATIONS,
                f"{of}{what}: its updates and deletes cannot be captured, and fail once it is published",
                mend,
                name,
            )
    for name, table in db.tables.items():
        if table.replica_identity == "i":
            _other_index(db, name)


def _identities(db: Database, names: Iterable[str]) -> list[tuple[str, Identity]]:
    oids = {db.oid(db.tables[name]): name for name in names}
    found = db.rows(
        f"""
        WITH RECURSIVE published(publication, rel) AS (SELECT 0, unnest(%s::int8[])::oid), {_IDENTITY}
        SELECT root::int8, name, kind, has_key, usable_key, has_index, stored, virtual FROM identity ORDER BY root, name
        """,
        list(oids),
    )
    return [(oids[root], Identity(*identity)) for root, *identity in found]


def _other_index(db: Database, name: str) -> None:
    table = db.tables[name]
    columns = {
        row[0]
        for row in db.rows(
            "SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey::int2[]) "
            "WHERE i.indrelid = %s AND i.indisreplident",
            db.oid(table),
        )
    }
    if columns and not set(table.primary_key) <= columns:
        db.problem(
            About.PUBLICATIONS,
            "has REPLICA IDENTITY USING INDEX without the primary key: a delete does not say which row it was",
            f"ALTER TABLE {name} REPLICA IDENTITY DEFAULT",
            name,
        )
