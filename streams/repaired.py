"""A repair: what stands, written again over what a system was seen to hold. Pure: (state, repair) → golden record and what it replaces.

What brings systems apart behind Concord's back (a restored table, a slot that was lost, a script under our own origin) is not news to
merge, and a sink skips a version that it has applied. So a repair is one more write of every field that differs: of the value that stands.
Nothing but its version changes, which grows (the fold's rule `count`), and the record goes to the systems that differ, with what they were
seen to hold. Then the sinks' own rules do the rest: the version is newer than the one applied; the guard lets it write over what was seen
and nothing else, so an edit made meanwhile stays and is heard of.

    golden                          a system was seen to hold      the record makes its sink
    there                           another value                  write the field, in the owner's row too
    there                           no row                         insert it
    deleted                         a row                          delete it, or give it what a soft delete gives

A value is decided by edits alone, whatever repairs come between: an edit that is still on its way wins or loses as it would have
without (I7), so nothing that anybody did is lost by a repair. Of a repair that comes twice the second does nothing (I3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from schemas.change import Canonical, Change, Op
from schemas.conflicts import EXISTS, Conflict, Rule, Side
from schemas.golden import Mend
from schemas.repair import OPERATOR, Repair, SeenRow
from streams.fold import NO_REPLICA, End, Entry, Folded, Rules, ThingState, current_row, golden_record, with_told


def repaired(link: str, state: ThingState | None, repair: Repair, rules: Rules) -> Folded:
    """The thing's record for the systems that differ from it. `SUPERSEDED`: merge knows nothing of the thing, or has done it already;
    `UNCHANGED`: nothing that was seen differs from what is agreed on by now."""
    if state is None or not state["fields"] or state["exists"] is None or repair.ts_us <= state.get("repaired", {}).get("ts", 0):
        return Folded(state, None, (), End.SUPERSEDED)
    fields, exists, replicas = state["fields"], state["exists"], dict(state["replicas"])
    seen = {system: row for system, row in repair.seen.items() if rules.written.get(system)}
    wrong = {system: _wrong(system, row, fields, exists[0], repair, rules) for system, row in seen.items()}
    targets = tuple(system for system in rules.systems if wrong.get(system))
    if not targets:
        return Folded(state, None, (), End.UNCHANGED)
    names = {name for system in targets for name in wrong[system]}
    again = {name: _once_more(entry) if name in names else entry for name, entry in fields.items()}
    for system in targets:
        remembered = rules.remembered(system)
        told = remembered if EXISTS in wrong[system] else remembered.intersection(wrong[system])
        if told:
            replicas[system] = with_told(replicas.get(system, NO_REPLICA), again, told)
        overruled = {name for name in wrong[system] if rules.owners.get(name) == system and not _is_made(system, name, seen[system], rules)}
        if overruled:
            replicas[system] = _overruled(replicas.get(system, NO_REPLICA), overruled)
    after: dict[str, Any] = {
        **state,
        "fields": again,
        "exists": _once_more(exists) if EXISTS in names else exists,
        "replicas": replicas,
        "repaired": {"by": repair.by, "ts": repair.ts_us, "fields": sorted(names)},
    }
    here = {name: current_row(each["rows"]) for name, each in replicas.items() if each["rows"]}
    cause = Change(OPERATOR, repair.by, Op.UPDATE, "", repair.ts_us, None, {})
    record = golden_record(link, rules.entity, after, here, targets, cause)
    keys = {system: seen[system].key for system in targets}
    record = replace(
        record,
        keys={**{name: key for name, key in record.keys.items() if name not in keys}, **{name: key for name, key in keys.items() if key}},
        seen={**record.seen, **{system: seen[system].values for system in targets}},
        mend=Mend(repair.by, repair.ts_us, {system: tuple(sorted(wrong[system] - {EXISTS})) for system in targets}),
    )
    overwritten = tuple(
        _overwritten(link, repair, rules, system, seen[system], name, again, exists) for system in targets for name in sorted(wrong[system])
    )
    return Folded(after, record, overwritten, End.EDIT)


def _wrong(system: str, row: SeenRow, fields: Mapping[str, Entry], alive: bool, repair: Repair, rules: Rules) -> set[str]:
    """Fields, or EXISTS, in which a system was seen to differ from what is agreed on."""
    values = row.values
    if values is None:
        return {EXISTS} if alive else set()
    if not alive:
        soft = rules.soft if rules.delete == "soft" else {}
        left = any(name in values and not _is(system, name, value, values[name], rules) for name, value in soft.items())
        return {EXISTS} if left or rules.delete == "propagate" else set()
    return {
        name
        for name in repair.fields
        if name in fields
        and name in values
        and name in rules.written[system]
        and not _is(system, name, fields[name][0], values[name], rules)
    }


def _is(system: str, name: str, golden: Canonical, held: Canonical, rules: Rules) -> bool:
    return golden == held or rules.same(system, name, golden, held)


def _once_more(entry: Entry) -> Entry:
    """The value that stands, written once more: only the number of writes grows (count)."""
    return (*entry[:6], entry[6] + 1, *entry[7:])


def _is_made(system: str, name: str, row: SeenRow, rules: Rules) -> bool:
    """Whether the system makes a value itself where there is none: its own, as ever."""
    return name in rules.generated.get(system, ()) and (row.values or {}).get(name) is None


def _overruled(replica: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """Its owner's row may hold our values of these fields from now on: what it shows under our origin is no decision of the owner's."""
    rows = {key: (*row[:5], tuple(name for name in row[5] if name not in names), *row[6:]) for key, row in replica["rows"].items()}
    return {**replica, "rows": rows, "mended": sorted({*replica.get("mended", ()), *names})}


def _overwritten(
    link: str, repair: Repair, rules: Rules, system: str, row: SeenRow, name: str, fields: Mapping[str, Entry], exists: Entry
) -> Conflict:
    """What is written over, for the history: nobody can say when it was written, so its hlc is 0."""
    stands: Canonical = exists[0] if name == EXISTS else fields[name][0]
    held: Canonical = row.values is not None if name == EXISTS else (row.values or {})[name]
    won = Side(OPERATOR, stands, repair.ts_us, 0, False, repair.by)
    return Conflict(rules.entity, link, name, won, Side(system, held, 0, rules.ranks[system], False, row.key), Rule.REPAIR, repair.ts_us)
