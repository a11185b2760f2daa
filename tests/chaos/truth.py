"""What really happened in the two databases, and whether it may have. Shares no code with the pipeline.

Triggers of the test keep a history of every row version of the reference tables, in the transaction that made it and under the row's own
lock, so that the order of a row's versions is that of its commits; and who wrote it: a session under a replication origin is a sink, any
other an application. (Concord installs no trigger; this is the referee's.) The hand-written queries of `examples.reference.agree` turn
those images into what both sides can say alike.

    lost       an edit of the application that nobody's later word explains: the field holds what neither side said last, or not what its
               owner said last. Or a row that we deleted though no application has deleted the thing anywhere
    doubled    a thing with two rows in one system, or inserted by us more often than it was missing
    looped     sinks go on writing after everything has settled
    diverged   the sides differ, or a thing is missing on one of them
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from examples.reference.agree import ENTITIES, Pair, compare, crosswalk

TABLES = {
    "crm": ("account", "contact", "product", "stock_level", "sales_order", "order_line", "invoice"),
    "erp": ("business_partner", "partner_contact", "item", "stock_level", "order", "order_line", "invoice"),
}
# Whose word counts alone, of the fields that `agree` compares (examples/reference/README.md, "What flows").
OWNERS: Mapping[str, Mapping[str, str]] = {
    "customer": {"number": "erp", "credit": "erp"},
    "product": {"price": "erp"},
    "stock_level": dict.fromkeys(ENTITIES["stock_level"].fields, "erp"),
    "sales_order": dict.fromkeys(("number", "status", "net", "tax", "gross"), "erp"),
    "order_line": {**dict.fromkeys(ENTITIES["order_line"].fields, "crm"), "delivered": "erp"},
    "invoice": dict.fromkeys(ENTITIES["invoice"].fields, "erp"),
}
# Fields to which an insert of ours gives a value that is the owner's word: out of its own sequence, or what its application starts with.
GIVEN = {"customer": ("number",), "sales_order": ("number", "net", "tax", "gross"), "order_line": ("delivered",)}


def install(conn: psycopg.Connection[Any], side: str) -> None:
    """History tables in the schema `referee`, with the columns of the originals, and what fills them."""
    conn.execute(
        "CREATE SCHEMA referee; CREATE SEQUENCE referee.seq CACHE 1;"
        "CREATE TABLE referee.ddl (at timestamptz DEFAULT clock_timestamp(), what text)"
    )
    for table in TABLES[side]:
        columns = [
            name
            for (name,) in conn.execute(
                "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
                " ORDER BY attnum",
                [f'public."{table}"'],
            ).fetchall()
        ]
        named, row = (", ".join(f"{of}{column}" for column in columns) for of in ("", "($3)."))
        conn.execute(
            f"""
            CREATE TABLE referee."{table}" AS
                SELECT nextval('referee.seq') AS "#", clock_timestamp() AS "@", pg_current_xact_id() AS "xid", false AS "ours",
                       'r'::text AS "op", t.* FROM public."{table}" t;
            ALTER TABLE referee."{table}" ALTER "@" SET DEFAULT clock_timestamp(), ALTER "xid" SET DEFAULT pg_current_xact_id();
            -- EXECUTE: a plan that is kept does not outlive another fault's DDL
            CREATE FUNCTION referee."on_{table}"() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
            DECLARE
                noting text := 'INSERT INTO referee."{table}" ("#", "ours", "op", {named}) SELECT nextval(''referee.seq''), $1, $2, {row}';
                ours boolean := pg_replication_origin_session_is_setup();
            BEGIN
                IF TG_OP = 'DELETE' THEN
                    EXECUTE noting USING ours, 'd', OLD;
                ELSE
                    EXECUTE noting USING ours, lower(left(TG_OP, 1)), NEW;
                END IF;
                RETURN NULL;
            END $$;
            CREATE TRIGGER referee AFTER INSERT OR UPDATE OR DELETE ON public."{table}"
                FOR EACH ROW EXECUTE FUNCTION referee."on_{table}"();
            """.encode()
        )
    conn.commit()


@dataclass(frozen=True, slots=True)
class Version:
    """One version of one row, in the words that both sides have in common; `values` is None when it is gone or out of scope."""

    number: int
    ours: bool
    op: str
    values: tuple[Any, ...] | None


@dataclass
class Verdict:
    """What the referee found; each entry a sentence."""

    changes: Counter[str] = field(default_factory=Counter)  # side → row changes that applications committed
    writes: Counter[str] = field(default_factory=Counter)  # side → row changes of ours
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    looped: list[str] = field(default_factory=list)
    diverged: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not any(self.wrong())

    def wrong(self) -> Iterator[str]:
        """All that is, the sentences that name a thing first."""
        yield from (*self.diverged, *self.doubled, *self.lost, *self.looped)


def counts(conn: psycopg.Connection[Any], side: str) -> tuple[int, int]:
    """Row changes that applications have committed, and ours, so far."""
    union = " UNION ALL ".join(f'SELECT "ours" FROM referee."{table}" WHERE op <> \'r\'' for table in TABLES[side])
    row = conn.execute(f'SELECT count(*) FILTER (WHERE NOT "ours"), count(*) FILTER (WHERE "ours") FROM ({union}) u'.encode()).fetchone()
    assert row is not None
    return row[0], row[1]


def judge(crm: psycopg.Connection[Any], erp: psycopg.Connection[Any]) -> Verdict:
    """Ask when nothing is in flight, and again a while later for `looped`, which only time can tell."""
    verdict = Verdict()
    for side, conn in (("crm", crm), ("erp", erp)):
        verdict.changes[side], verdict.writes[side] = counts(conn, side)
    for name, agreement in compare(crm, erp).items():
        verdict.diverged += agreement.differing
        for missing in agreement.missing:
            (verdict.doubled if "and so is" in missing else verdict.diverged).append(missing)
        _judge_entity(name, ENTITIES[name], {"crm": crm, "erp": erp}, verdict)
    return verdict


def _judge_entity(name: str, pair: Pair, connections: Mapping[str, psycopg.Connection[Any]], verdict: Verdict) -> None:
    links = {side: crosswalk(conn, side) for side, conn in connections.items()}
    histories = {side: history(conn, side, name, pair, links[side]) for side, conn in connections.items()}
    said: dict[str, dict[str, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))  # link → field → side → last word
    deleted: set[str] = set()  # by an application
    taken: list[tuple[str, str, str]] = []  # (link, side, key) of rows that we deleted
    stands: dict[str, dict[str, tuple[Any, ...]]] = defaultdict(dict)  # link → side → what it holds now
    for side, rows in histories.items():
        inserted: Counter[str] = Counter()
        gone: Counter[str] = Counter()
        for key, versions in rows.items():
            link = links[side].get((name, key))
            if link is None:
                continue
            held: tuple[Any, ...] | None = None
            for version in versions:
                inserted[link] += version.ours and version.op == "i"
                gone[link] += version.op == "d"
                deleted.update([link] if version.op == "d" and not version.ours else [])
                taken += [(link, side, key)] if version.op == "d" and version.ours else []
                if version.op == "r":  # there before: only an owner's word counts beside what anybody says later
                    for column, value in zip(pair.fields, version.values or (), strict=True):
                        if OWNERS.get(name, {}).get(column) == side:
                            said[link][column][side] = value
                elif version.values is not None and not version.ours:
                    for column, value in zip(pair.fields, version.values, strict=True):
                        if (held is None and value is not None) or (held is not None and held[pair.fields.index(column)] != value):
                            said[link][column][side] = value  # a null that comes with a row says nothing
                elif version.values is not None and version.op == "i":
                    for column in GIVEN.get(name, ()):
                        if OWNERS[name][column] == side:
                            said[link][column][side] = version.values[pair.fields.index(column)]
                held = version.values
            if held is not None:
                stands[link][side] = held
        for link, times in inserted.items():
            if times > 1 + gone[link]:
                verdict.doubled.append(f"{name} {link} was inserted {times} times in {side}, where it went {gone[link]} times")
    verdict.lost += [f"{name} {link}: row {key} in {side} was deleted by us alone" for link, side, key in taken if link not in deleted]
    for link, sides in stands.items():
        if link in deleted:  # softly: what is left of it is only marked, and otherwise left alone
            continue
        for at, column in enumerate(pair.fields):
            if column in pair.refs or not (words := said[link][column]):
                continue
            owner = OWNERS.get(name, {}).get(column)
            allowed = [words[owner]] if owner in words else list(words.values())
            if wrong := {side: values[at] for side, values in sides.items() if values[at] not in allowed}:
                verdict.lost.append(f"{name} {link}: {column} is {_in_words(wrong)}, last said was {dict(words)!r}")


def _in_words(held: Mapping[str, Any]) -> str:
    """`'a' in crm and erp`, or `'a' in crm, 'b' in erp`: an edit is lost once, on however many sides."""
    sides: dict[str, list[str]] = defaultdict(list)
    for side, value in held.items():
        sides[repr(value)].append(side)
    return ", ".join(f"{value} in {' and '.join(where)}" for value, where in sides.items())


def history(
    conn: psycopg.Connection[Any], side: str, name: str, pair: Pair, links: Mapping[tuple[str, str], str]
) -> dict[str, list[Version]]:
    """Key → its versions in order, told by the same query that compares the tables, run over the history."""
    query = getattr(pair, side)
    assert query.startswith("SELECT id, ")
    query = 'SELECT "#", "ours", "op", id, ' + query.removeprefix("SELECT id, ")
    conn.execute("SET search_path TO referee, public")
    try:
        found: dict[str, list[Version]] = defaultdict(list)
        for number, ours, op, key, *values in conn.execute(f'{query} ORDER BY "#"'.encode()):
            found[str(key)].append(Version(number, ours, op, None if op == "d" else _plain(values)))
        return found
    finally:
        conn.execute("RESET search_path")


def _plain(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(values)
