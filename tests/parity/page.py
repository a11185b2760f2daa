"""What was compared, as JSON and as a page. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Any

from console.stack.debezium import VERSION
from tests.parity.events import Compared
from tests.parity.reasons import EVERYWHERE, LOST, REPRESENTED, STREAMED, of_event
from tests.parity.run import Found
from tests.parity.types import ColumnReport, Reading
from tests.parity.world import OURS, PLAIN, TOLD

LONGEST = 60
HEAD = """\
# Our source and Debezium, side by side

Both on one database (PostgreSQL {postgres}), through the same commits; Debezium {debezium}. `make parity` wrote this page, and
[its figures](debezium-parity.json) with an example of each difference; nothing is claimed here that it did not compare.
{counted} were compared; **{left} differences without a reason**.

## Events

Key, before, after, op, every field of `source`, headers and tombstones; not compared is when each read it (`ts_ms`, `ts_us`, `ts_ns`
beside `op`). Debezium with its own defaults for values, JSON with schemas, `replace.null.with.default=false`; our source in Avro.

Different everywhere:"""
TYPES = """\
## Types

*Represented*: whether the value stands in both events alike. *Read*: what our streams make of it, against what PostgreSQL holds: from
our source; from Debezium as `concord debezium` tells it to be, in JSON with schemas and without. Refused: a dead letter that says so,
if the column is mapped.

| type | represented | read from our source | from Debezium, with schemas | without |
|---|---|---|---|---|"""
Report = dict[str, Any]


def told(found: Found, postgres: str) -> Report:
    """Everything that the page shows, and each difference's first example."""
    return {
        "debezium": VERSION,
        "postgres": postgres,
        "events": [_occasion(one) for one in found.occasions],
        "types": [_column(table, column) for table, columns in found.types.items() for column in columns.values()],
        "not_on_this_server": found.missing,
    }


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _occasion(one: Compared) -> Report:
    counted: Counter[str] = Counter()
    example = {}
    for differences in one.differences.values():
        for difference in differences:
            counted[difference.part] += 1
            example.setdefault(difference.part, difference)
    return {
        "occasion": one.name,
        "ours": one.ours,
        "debezium": one.theirs,
        "parts_compared": one.parts,
        "different": [
            {
                "part": part,
                "times": times,
                "ours": _short(example[part].ours),
                "debezium": _short(example[part].theirs),
                "reason": of_event(one.name, part),
            }
            for part, times in counted.items()
        ],
    }


def _column(table: str, column: ColumnReport) -> Report:
    read = {reader: _reading(reader, column.name, reading) for reader, reading in column.readings.items()}
    found: Report = {"table": table, "column": column.name, "type": column.type, "equal": column.equal, "different": None, "read": read}
    if column.differences:
        op, difference = column.differences[0]
        found["different"] = {
            "times": len(column.differences),
            "in": {"r": "snapshot", "c": "stream"}[op] if len({op for op, _ in column.differences}) == 1 else "snapshot and stream",
            "ours": _short(difference.ours),
            "debezium": _short(difference.theirs),
            "reason": REPRESENTED.get(column.name),
        }
    return found


def _reading(reader: str, column: str, reading: Reading) -> Report:
    told: Report = {"exact": reading.exact, "refused": dict(reading.refused), "left_out": reading.left_out, "mappable": reading.mappable}
    if reading.wrong:
        first = reading.wrong[0]
        reason = LOST.get(column) if reader != OURS else None
        told["wrong"] = {"times": len(reading.wrong), "read": _short(first.ours), "held": _short(first.theirs), "reason": reason}
    return told


def unexplained(report: Report) -> list[str]:
    """Differences that have no reason, in words."""
    found = [
        f"{one['occasion']}: {each['part']} ({each['times']}×), ours {each['ours']}, Debezium {each['debezium']}"
        for one in report["events"]
        for each in one["different"]
        if each["reason"] is None
    ]
    for column in report["types"]:
        name = f"{column['column']} {column['type']}"
        if column["different"] and column["different"]["reason"] is None:
            found.append(f"{name}: ours {column['different']['ours']}, Debezium {column['different']['debezium']}")
        for reader, read in column["read"].items():
            if read["mappable"] and (wrong := read.get("wrong")) and wrong["reason"] is None:
                found.append(f"{name}: {reader} is read as {wrong['read']}, PostgreSQL holds {wrong['held']}")
    return found


# ── the page ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def page(report: Report) -> str:
    left = unexplained(report)
    parts = sum(one["parts_compared"] for one in report["events"])
    values = sum(column["equal"] + (column["different"] or {"times": 0})["times"] for column in report["types"])
    events = sum(one["ours"] for one in report["events"])
    counted = f"{events} events in {parts:,} parts and {values:,} values of {len(report['types'])} columns"
    lines = [
        *HEAD.format(postgres=report["postgres"], debezium=report["debezium"], counted=counted, left=len(left)).splitlines(),
        "",
        *(f"- `{part}`: {reason}" for part, reason in {**EVERYWHERE, **STREAMED}.items()),
        "",
        "| occasion | events, ours | Debezium | everything else |",
        "|---|---|---|---|",
        *(_occasion_line(one) for one in report["events"]),
        "",
        *TYPES.splitlines(),
        *(_type_line(column) for column in report["types"] if column["column"] != "id"),
        "",
    ]
    if report["not_on_this_server"]:
        lines += ["Not compared here: " + "; ".join(f"`{column}`: {why}" for column, why in report["not_on_this_server"].items()) + ".", ""]
    return "\n".join(lines)


def _occasion_line(one: Report) -> str:
    rest: dict[str, list[str]] = {}
    for each in one["different"]:
        if each["part"] not in EVERYWHERE and not (
            each["part"] in STREAMED and of_event(one["occasion"], each["part"]) == STREAMED[each["part"]]
        ):
            rest.setdefault(each["reason"] or "**no reason known**", []).append(f"`{each['part']}`")
    said = "; ".join(f"{reason} ({', '.join(parts[:4])}{' …' if len(parts) > 4 else ''})" for reason, parts in rest.items())
    return f"| {one['occasion']} | {one['ours']} | {one['debezium']} | {'different: ' + said if said else 'equal'} |"


def _type_line(column: Report) -> str:
    different = column["different"]
    total = column["equal"] + (different["times"] if different else 0)
    represented = (
        f"{total} equal"
        if not different
        else f"{different['times']} of {total} different ({different['in']}): {different['reason'] or '**?**'}"
    )
    cells = [_read_cell(column["read"][reader]) for reader in (OURS, TOLD, PLAIN)]
    return f"| `{column['type']}` | {represented} | {' | '.join(cells)} |"


def _read_cell(read: Report) -> str:
    if read["left_out"] and not read["exact"]:
        return "left out"
    if not read["mappable"]:
        return "cannot be mapped"
    if read["refused"]:
        return f"refused: {'; '.join(read['refused'])}"
    if wrong := read.get("wrong"):
        return f"{wrong['times']} of {read['exact'] + wrong['times']} **wrong**: {wrong['reason'] or '?'}"
    return "exact" + (", left out of the stream" if read["left_out"] else "")
