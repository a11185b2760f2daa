"""The fold: what a change of one system's row makes of a thing. Pure: (state, change) → (state, golden record or None, conflicts).

State of one thing, as merge's table keeps it (JSON; lists and tuples mean the same, nothing in it is ever changed in place):

    {"fields":   {name: entry},
     "exists":   entry | None,
     "replicas": {system: {"seen": [(position, hlc), …], "rows": {key: row}}},
     "repaired": …}                                                                  where an operator sent it again: `streams.repaired`

    entry = (value, hlc, rank, owned, won_hlc, won_rank, count, system, position[, unsaid])
              the six after the value are a `schemas.golden.Version`; system and position: of the write that the value comes from.
              unsaid: the stamp (owned, hlc, rank) of a null that came with the row (its insert, or when it was first seen), and that
              nobody wrote over a value; such an entry's version says that nothing has won
    row   = (position, last, alive, values, positions, decided[, parts])
              what a system was last observed to hold under one row key. last: hlc of the row's last edit. values: {} when it is gone;
              what it held when it only left scope, so that what comes back with it unchanged is nobody's edit.
              positions: only of fields whose position is not the row's (unchanged TOAST values, parts).
              decided: the fields that this system owns and has given their value in this row itself
              parts: of a row with parts. {"last": {part: hlc of its last edit}, "unsaid": [fields whose part has not been seen yet]}

    A replica of a system with parts has besides: "parts": {part: seen}, since the rows of two tables are not read in the order of the log;
    and "told": {field: values}, see `_is_ours`. And "mended": [fields of its own that a repair has overruled],
    which never are "decided" again: sinks write over what they have written themselves.

I7: whatever the order and multiplicity in which the changes of a thing arrive, its record ends the same: a
version is a function of the set of writes.

The rules are those of DESIGN §4.4. Each is named where it is kept:

  replica       what a system holds is remembered per row key; its current row is the live one with the highest position
  position      a change says nothing about a field whose position is not newer than the one held (I3)
  diff          a change edits the fields in which it differs from the replica, not all that the row image carries
  echo          a change under our own origin updates the replica and edits nothing (I5), but for what we have not written (_not_ours)
  hlc-seen      an edit is stamped later than what its system had applied before it, by its log
  hlc-last      … and later than the row's edit before it
  found         what is found after a gap in the log, and our sink had written there itself, is no edit of that system
  first-sight   a row, or a field, first seen by anything but its insert is older than every edit; so is a field of a row that was known
                without it, when our own write to the row shows it (docs/decisions/0033)
  unsaid        a null that came with its row says nothing, and loses to whatever somebody said, whoever that is
  owner         the owner's latest write wins over anybody's; which of its own is the latest, its log says
  count         a version grows with every write folded in, won or lost, so that a lost write is overwritten again
  one-row       a thing has one row in a system, others with its match value wait. One that takes its place stands, whenever it was
                written: nobody has taken it away. And a row that goes while another stands takes nothing away
  level         after every change each system that differs from golden is a target, not only when golden changed
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, cast

from schemas.change import Canonical, Change, Op
from schemas.conflicts import EXISTS, Conflict, Rule, Side
from schemas.golden import Cause, GoldenRecord, Version

ThingState = dict[str, Any]
Entry = Sequence[Any]
Row = Sequence[Any]
Write = tuple[Canonical, int, int, int, str, str]  # value, hlc, rank, owned, system, position

FIRST_SIGHT = 1  # hlc of what was there before anybody looked: older than every clock
KEPT_TOLD = 8  # values of a field that a system was told and that have not come back, see `_is_ours`
KEPT_GONE_ROWS = 16  # per system and thing, see `_forget_gone_rows`
KEPT_SEEN = 8  # see `_seen_since`

_POSITION = 32  # characters of a row's position

_MISSING: Any = object()
_NO_ROW: Row = ("", 0, False, {}, {}, ())
NO_REPLICA: dict[str, Any] = {"seen": (), "rows": {}}
_NO_PARTS: Mapping[str, Any] = {}
_NO_FIELDS: frozenset[str] = frozenset()
_NOTHING: ThingState = {"fields": {}, "exists": None, "replicas": {}}


def equal(system: str, name: str, golden: Canonical, held: Canonical) -> bool:
    """The simplest `Rules.same`."""
    return golden == held


@dataclass(frozen=True, slots=True)
class Rules:
    """What the fold needs to know of one entity's configuration."""

    entity: str
    systems: tuple[str, ...]  # all with a binding
    ranks: Mapping[str, int]  # the higher wins a tie
    owners: Mapping[str, str | None] = field(default_factory=dict)  # per field
    exists_owner: str | None = None
    written: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # per system: fields that are written, and so compared, there
    generated: Mapping[str, frozenset[str]] = field(default_factory=dict)  # per system: fields that its insert makes a value for
    delete: str = "propagate"  # or "soft", "ignore"
    soft: Mapping[str, Canonical] = field(default_factory=dict)  # of delete == "soft": what a live row of a dead thing must hold
    parts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # per system: the part that a field is read from, not the root
    # per system: fields in rows that other things have too (a part that many share, or that is a thing of its own)
    shared: Mapping[str, frozenset[str]] = field(default_factory=dict)
    # systems where no sink inserts the thing: a row that came there by a write of ours was written for another thing
    never_inserted: frozenset[str] = frozenset()
    # per system: fields in rows that may be other ones after our write: what was behind one that we deleted, or was made with one
    revealed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    # same(system, field, golden value, value held there): equal in that system's own representation? Equal values never need asking.
    same: Callable[[str, str, Canonical, Canonical], bool] = equal

    def remembered(self, system: str) -> frozenset[str]:
        """Fields of which is kept what a system was told of them, until it comes back."""
        return self.shared.get(system, _NO_FIELDS) | self.revealed.get(system, _NO_FIELDS)


class End(Enum):
    """What became of a change."""

    EDIT = "edit"  # it changed something, or was told to systems that differ
    SUPERSEDED = "superseded"  # older than what is known, or all its writes lost
    ECHO = "echo"
    UNCHANGED = "unchanged"


class Folded(NamedTuple):
    """`state` is the one given when nothing in it changed."""

    state: ThingState | None
    record: GoldenRecord | None
    conflicts: tuple[Conflict, ...]
    end: End


def fold(link: str, state: ThingState | None, change: Change, rules: Rules) -> Folded:
    """One more change of the thing `link`."""
    system, key, position = change.system, change.key, change.position
    before = state or _NOTHING
    fields, exists = before["fields"], before["exists"]
    replica = before["replicas"].get(system, NO_REPLICA)
    rows: Mapping[str, Row] = replica["rows"]
    held = rows.get(key, _NO_ROW)
    moved = held is _NO_ROW and change.was is not None and change.was in rows
    if moved:
        held = rows[cast(str, change.was)]  # the row has got a new key: what it held goes with it
    fresh = _fresh(change, held, moved)
    if fresh is None:
        return Folded(state, None, (), End.SUPERSEDED)  # position: I3
    _, last, was_alive, old, _, decided = held[:6]
    of_part = rules.parts.get(system, _NO_PARTS)
    lasts, unsaid = _parts_of(held)
    at, part = change.log_position, change.part
    seen = replica["seen"] if not part else replica.get("parts", _NO_PARTS).get(part, ())
    if change.origin_hlc is not None:
        seen = _with_seen(seen, at, change.origin_hlc)

    told = replica.get("told", _NO_PARTS)
    found: dict[str, Sequence[Sequence[Any]]] = {}  # `seen` of the other parts that were found after a lost slot
    edited = [name for name, value in fresh.items() if name not in old or old[name] != value]  # diff
    if change.ours:
        seen_of = {"": replica["seen"], **replica.get("parts", _NO_PARTS)}
        read = {
            where: max(_seen_before(seen_of.get(each, ()), at, True) for each in where.split("+"))
            for where in {of_part.get(name, "") for name in fresh}
        }
        edited = [name for name, value in fresh.items() if _is_found_edited(change, name, value, old, read[of_part.get(name, "")], rules)]
        applied = max(hlc for _, hlc in change.ours.values())  # found
        seen = _with_seen(seen, at, applied)
        found = {each: _with_seen(seen_of.get(each, ()), at, applied) for where in read for each in where.split("+") if each != part}
    edited += _emptied(change, fresh, held, told)
    gone = change.values is None
    echo = change.origin_hlc is not None
    ours = echo and not _came_or_went_by_another_thing(gone, was_alive, system, rules)  # that the row is there, or not
    if ours:
        edits, told = _not_ours(change, edited, held, fields, told, rules)
    else:
        edits = edited
    nulls = {name for name in edits if fresh[name] is None and name not in old}  # unsaid: they only came with their row
    conflicts: list[Conflict] = []
    others = {other: row for other, row in rows.items() if other not in (key, change.was)}
    alone = not any(row[2] for row in others.values())  # one-row
    deleted = gone and not ours and rules.delete != "ignore" and (was_alive or held is _NO_ROW) and alone
    back = not gone and not ours and not was_alive and held is not _NO_ROW  # also when it is as it was when it left scope
    won = False
    if edits or deleted or back:
        rank, remembered = rules.ranks[system], rules.remembered(system)
        first_sight = change.op is Op.READ or (change.op is Op.UPDATE and not was_alive)
        # hlc-seen. An echo's own writes were made on top of what it brought.
        earliest = max(FIRST_SIGHT if first_sight else change.ts_us, _seen_before(seen, at, echo or bool(change.ours)) + 1)
        stamps = {part: max(earliest, (lasts.get(part, 0) if part else last) + 1)}  # hlc-last, of the row in which it happened
        before_us = max((row[0] for row in others.values()), default="") if alone else ""  # one-row: when the one before it went
        if edits:
            fields = dict(fields)
        for name in edits:
            value = fresh[name]
            where = of_part.get(name, "")
            if where not in stamps:
                stamps[where] = max(earliest, (lasts.get(where, 0) if where else last) + 1)
            standing = fields.get(name)
            if ours:
                newly = _is_first_heard(name, held, standing, remembered)
            else:
                newly = change.op is Op.READ and was_alive and (name not in old or name in unsaid)
            stamp = FIRST_SIGHT if newly else stamps[where]
            of_field = f"{position},{change.positions[name]}" if name in change.positions else position
            if before_us > of_field:
                of_field = before_us + of_field
            write: Write = (value, stamp, rank, int(rules.owners.get(name) == system), system, of_field)
            entry = fields[name] = folded(standing, write, unsaid=name in nulls)
            mine = entry[7] == system and entry[8] == of_field
            won = won or mine
            if standing is not None and standing[7] != system and standing[0] != value:
                conflict = _conflict(link, change, rules, name, standing, write, old.get(name, _MISSING), mine)
                if conflict is not None:
                    conflicts.append(conflict)
        if not ours:
            standing, stamp = exists, stamps[part]
            if before_us and (held is _NO_ROW or gone):  # one-row: it has taken the place of one that went, until it goes itself
                stamp = max(stamp, 1 + max(row[1] for row in others.values()), 1 + _seen_before(seen, before_us, True))
            write = (not gone, stamp, rank, int(rules.exists_owner == system), system, position)
            exists = folded(standing, write)
            won = won or ((gone or back) and exists[7] == system and exists[8] == position)
            if standing is not None and standing[0] == gone and standing[7] != system:
                clash = _clash_of_existence(link, change, rules, fields, standing, write, old)
                if clash is not None:
                    conflicts.append(clash)
        last = stamps.pop("", last)
        if stamps:
            lasts = {**lasts, **stamps}

    if gone and not alone:
        fields = _as_the_others_have_it(fields, others, system, position, rules)
    decides = [
        name
        for name in edits
        if rules.owners.get(name) == system and name not in decided and name not in replica.get("mended", ()) and name not in nulls
    ]
    row = _row(change, held, fresh, last, (*decided, *decides) if decides else decided, lasts)
    new_rows = dict(rows)
    if change.was is not None and change.was != key and change.was in rows and rows[change.was][0] < position:
        new_rows[change.was] = (position, rows[change.was][1], False, {}, {}, ())
    new_rows[key] = row
    new_rows = _forget_gone_rows(new_rows)
    after: dict[str, Any] = {**replica, "rows": new_rows}
    if not part:
        after["seen"] = _seen_since(seen, new_rows)
    elif seen:
        after["parts"] = {**replica.get("parts", _NO_PARTS), part: seen[-KEPT_SEEN:]}
    for each, seen in found.items():
        if each:
            after["parts"] = {**after.get("parts", _NO_PARTS), each: seen[-KEPT_SEEN:]}
        else:
            after["seen"] = _seen_since(seen, new_rows)
    if told is not _NO_PARTS:
        after["told"] = told
    replicas = {**before["replicas"], system: after}

    record = None
    after_it: ThingState = {**before, "fields": fields, "exists": exists, "replicas": replicas}
    if fields and exists is not None:
        here = {name: current_row(each["rows"]) for name, each in replicas.items() if each["rows"]}
        targets = targets_of(fields, exists[0], here, rules)  # level
        for target in targets:
            if remembered := rules.remembered(target):
                replicas[target] = with_told(replicas.get(target, NO_REPLICA), fields, remembered)
        news = key not in rows or _told_differently(before, fields, exists)
        if targets or news:
            record = golden_record(link, rules.entity, after_it, here, targets, change)
    edited_something = End.EDIT if won else End.SUPERSEDED
    nothing = End.ECHO if echo else End.UNCHANGED
    end = edited_something if edits or deleted or back else nothing
    return Folded(after_it, record, tuple(conflicts), end)


def _as_the_others_have_it(
    fields: Mapping[str, Entry], others: Mapping[str, Row], system: str, position: str, rules: Rules
) -> Mapping[str, Entry]:
    """one-row: the fields after one of two rows has gone. What their owner decided is what its other row says."""
    row = current_row(others)[1]
    values, decided = row[3], row[5]
    after = {
        name: folded(fields[name], (values[name], row[1], rules.ranks[system], 1, system, position + row[4].get(name, row[0])))
        for name in decided
        if name in fields and name in values and fields[name][0] != values[name]
    }
    return {**fields, **after} if after else fields


def folded(standing: Entry | None, write: Write, unsaid: bool = False) -> Entry:
    """One more write to a field. The outcome is a function of the set of writes, and the version grows with each (count)."""
    value, hlc, rank, owned, system, position = write
    if standing is None:
        if unsaid:
            return (value, hlc, rank, 0, 0, 0, 1, system, position, (owned, hlc, rank))
        return (value, hlc, rank, owned, hlc, rank, 1, system, position)
    stands, top_hlc, top_rank, was_owned, won_hlc, won_rank, count, by, since = standing[:9]
    if (hlc, rank) > (top_hlc, top_rank):
        top_hlc, top_rank = hlc, rank
    if unsaid or len(standing) > 9:  # unsaid
        if not unsaid:
            return (value, top_hlc, top_rank, owned, hlc, rank, count + 1, system, position)
        if len(standing) > 9 and (owned, hlc, rank) > tuple(standing[9]):
            return (value, top_hlc, top_rank, 0, 0, 0, count + 1, system, position, (owned, hlc, rank))
        return (stands, top_hlc, top_rank, was_owned, won_hlc, won_rank, count + 1, *standing[7:])
    if owned and was_owned:
        # Nobody else writes this field there, so what the owner's log says last must stand, whatever its clock said.
        latest = position > since
        if (hlc, rank) > (won_hlc, won_rank):
            won_hlc, won_rank = hlc, rank
        if latest:
            return (value, top_hlc, top_rank, 1, won_hlc, won_rank, count + 1, system, position)
        return (stands, top_hlc, top_rank, 1, won_hlc, won_rank, count + 1, by, since)
    mine, standing_one = (owned, hlc, rank), (was_owned, won_hlc, won_rank)
    if mine > standing_one or (mine == standing_one and system == by and position > since):  # of two rows first seen there: the later one
        return (value, top_hlc, top_rank, owned, hlc, rank, count + 1, system, position)
    return (stands, top_hlc, top_rank, was_owned, won_hlc, won_rank, count + 1, by, since)


# ---- what is new ---------------------------------------------------------------------------------------------------------------------


def _fresh(change: Change, held: Row, moved: bool) -> Mapping[str, Canonical] | None:
    """The fields that the change knows better than the replica; {} for a delete; None when it is old altogether. `moved`: the replica is
    that of another key, whose parts have other positions."""
    newer = change.position > held[0]
    values = change.values
    if values is None:
        return {} if newer else None
    if newer and (moved or not change.positions):
        return values
    if not held[2] and not newer:
        return None  # the row is gone: what came before that does not matter
    held_at, held_position, position, own = held[4], held[0], change.position, change.positions
    fresh = {}
    for name, value in values.items():
        at = own.get(name)
        if at is None:
            is_fresh = position > held_at.get(name, held_position)
        else:
            known = held_at.get(name)
            is_fresh = known is None or at > known
        if is_fresh:
            fresh[name] = value
    return fresh if fresh or newer else None


def _emptied(change: Change, fresh: Mapping[str, Canonical], held: Row, told: Mapping[str, Any]) -> list[str]:
    """Fields that the system was told a value of, and that are null where the first is heard of their part's row: somebody has taken the
    value away, or the row, before our own write was heard of."""
    if not told or not change.positions:
        return []
    where = held[4]
    return [
        name
        for name in told
        if where.get(name) == "" and change.positions.get(name) and fresh.get(name, _MISSING) is None
        if change.origin_hlc is None or _is_later(change, name)
    ]


def _is_found_edited(change: Change, name: str, value: Canonical, old: Mapping[str, Canonical], read: int, rules: Rules) -> bool:
    """Whether somebody edited a field while nobody read the log. What it held before is what our sink wrote last, if that write has not
    come back before (`read`: the hlc up to which they have), else what the replica says."""
    wrote, hlc = change.ours.get(name, (_MISSING, 0))
    if hlc > read:
        return not (wrote == value or rules.same(change.system, name, wrote, value))
    return name not in old or old[name] != value


def _not_ours(
    change: Change, edited: list[str], held: Row, fields: Mapping[str, Entry], told: Mapping[str, Any], rules: Rules
) -> tuple[list[str], Mapping[str, Any]]:
    """Of an echo, the fields that the target gave a value itself (docs/decisions/0006), or that were written for another thing (0011). And
    what of what it was told has not come back yet.

    What the row was not known to have, since its field is mapped for the first time: it was there before our write (0033). An insert's
    generated fields, when we had no value to give, or gave none because the system owns the field. The owner's decided
    fields in an update: no sink writes over those in the owner's row, so a trigger did. What no sink writes there at all. What lies
    in a row that other things share, and is not what we told it of this one. And a value where we told it of none: that of the row behind
    the one that we deleted (0018).
    """
    system, decided = change.system, held[5]
    generated, written = rules.generated.get(system, frozenset()), rules.written.get(system, ())
    shared, revealed = rules.shared.get(system, _NO_FIELDS), rules.revealed.get(system, _NO_FIELDS)
    unsaid = _parts_of(held)[1]
    edits = []
    values = change.values or {}
    for name in edited:
        inserted = change.op is Op.CREATE or name in unsaid
        if name in generated and inserted:
            made = rules.owners.get(name) == system or (standing := fields.get(name)) is None or standing[0] is None
        else:
            made = (name in decided and change.op is Op.UPDATE) or (name not in written and values[name] is not None)
        is_absent = values[name] is None and change.positions.get(name) == ""  # the part's row has not been heard of yet
        made = made or (not is_absent and _is_first_heard(name, held, fields.get(name), shared | revealed))
        if (name in shared or name in revealed) and not (made or is_absent):
            ours, told = _is_ours(system, name, values[name], fields.get(name), told, rules, _is_later(change, name))
            made = not ours and (name in shared or fields[name][0] is None)
        if made:
            edits.append(name)
    return edits, told


def _is_first_heard(name: str, held: Row, standing: Entry | None, remembered: frozenset[str]) -> bool:
    """Whether a write of ours shows a field of a row that was there, and that nobody had read it of: no sink writes over what merge has not
    seen. Of what lies in rows of other things, which others write to as well, only what nobody has said anything of."""
    return held[2] and name not in held[3] and (standing is None or name not in remembered)


def _came_or_went_by_another_thing(gone: bool, was_alive: bool, system: str, rules: Rules) -> bool:
    """Whether a row that a write of ours brought into being, or took away, was none of this thing's: no sink does that to it there."""
    if system not in rules.never_inserted:
        return False
    return (rules.delete != "propagate" or rules.exists_owner == system) if gone else not was_alive


def _is_later(change: Change, name: str) -> bool:
    """Whether a field comes from a shared row as it was left after the event: who came to point at it has been told of it as it is now.

    Along a parent edge a position is where it came to be pointed at and then the row's own.
    """
    position = change.positions.get(name, "")
    return len(position) == 2 * _POSITION and position[_POSITION:] > change.log_position


def _is_ours(
    system: str, name: str, value: Canonical, standing: Entry | None, told: Mapping[str, Any], rules: Rules, later: bool
) -> tuple[bool, Mapping[str, Any]]:
    """Whether a value that was written under our origin was written for this thing: it is what is agreed on, or what was when a sink was
    told. Our writes to a row come back in the order in which they were made, so what was told before it will not come any more; those to
    several rows of a child part, which may lie in several partitions, come back in any order. `later`: it has been written since."""
    values = told.get(name, ())
    for number, one in enumerate(values):
        if one == value or rules.same(system, name, one, value):
            left = [*(values[:number] if name in rules.revealed.get(system, _NO_FIELDS) else ()), *values[number + 1 :]]
            return True, {**told, name: left} if left else {each: told[each] for each in told if each != name}
    says_nothing = value is None and not later
    return standing is None or says_nothing or standing[0] == value or rules.same(system, name, standing[0], value), told


def with_told(replica: Mapping[str, Any], fields: Mapping[str, Entry], shared: frozenset[str]) -> dict[str, Any]:
    """What a target is told of its shared fields now."""
    told = dict(replica.get("told", _NO_PARTS))
    for name in shared:
        if name in fields:
            values = told.get(name, ())
            if not values or values[-1] != fields[name][0]:
                told[name] = [*values, fields[name][0]][-KEPT_TOLD:]
    return {**replica, "told": told}


def _parts_of(row: Row) -> tuple[Mapping[str, int], Sequence[str]]:
    """(hlc of each part's last edit, fields whose part has not been seen yet)"""
    return (row[6]["last"], row[6]["unsaid"]) if len(row) > 6 else (_NO_PARTS, ())


def _row(change: Change, held: Row, fresh: Mapping[str, Canonical], last: int, decided: Sequence[str], lasts: Mapping[str, int]) -> Row:
    """The row key's replica after the change."""
    values, position, own = change.values, change.position, change.positions
    held_position, _, was_alive, old, held_at, _ = held[:6]
    newest = max(position, held_position)
    if values is None:
        row: Row = (newest, last, False, old if change.left else {}, {}, decided if change.left else ())
        return (*row, {"last": lasts, "unsaid": _parts_of(held)[1] if change.left else []}) if lasts else row
    if fresh is values and not own and (not old or old.keys() <= values.keys()):
        return (position, last, True, values, {}, decided)  # the usual row: all its fields at one position
    positions = {name: at for name in old if (at := held_at.get(name, held_position)) != newest or name in own}
    for name in fresh:
        if name in own:
            positions[name] = own[name]
        elif position != newest:
            positions[name] = position
        else:
            positions.pop(name, None)
    row = (newest, last, True if position >= held_position else was_alive, {**old, **fresh}, positions, decided)
    if not own:
        return row
    was_unsaid = _parts_of(held)[1]
    unsaid = [name for name in own if row[3].get(name) is None and (name not in old or name in was_unsaid)]
    return (*row, {"last": lasts, "unsaid": unsaid})


def _forget_gone_rows(rows: dict[str, Row]) -> dict[str, Row]:
    """Keeps at most KEPT_GONE_ROWS of the row keys that are gone, the latest ones.

    A gone row is remembered so that its old events, read again, are known to be old. One that has been forgotten and is replayed looks
    like a row for as long as its own delete is not replayed too; its edits carry their old commit times and lose.
    """
    if len(rows) <= KEPT_GONE_ROWS:
        return rows
    gone = sorted((row[0], key) for key, row in rows.items() if not row[2])
    for _, key in gone[: len(gone) - KEPT_GONE_ROWS if len(gone) > KEPT_GONE_ROWS else 0]:
        del rows[key]
    return rows


def current_row(rows: Mapping[str, Row]) -> tuple[str, Row]:
    """A system's row of the thing: the live one with the highest position, else the one that was there last."""
    if len(rows) == 1:
        return next(iter(rows.items()))
    return max(rows.items(), key=lambda item: (item[1][2], item[1][0]))


# ---- what a system had applied before -------------------------------------------------------------------------------------------------


def _with_seen(seen: Sequence[Sequence[Any]], position: str, hlc: int) -> Sequence[Sequence[Any]]:
    """One more echo. Both columns grow from entry to entry: one that is neither later nor higher than another tells nothing."""
    if not seen or (position > seen[-1][0] and hlc > seen[-1][1]):
        return (*seen, (position, hlc))
    earlier = [entry for entry in seen if entry[0] < position and entry[1] < hlc]
    if any(entry[0] <= position and entry[1] >= hlc for entry in seen):
        return seen
    later = [entry for entry in seen if entry[0] > position and entry[1] > hlc]
    return (*earlier, (position, hlc), *later)


def _seen_before(seen: Sequence[Sequence[Any]], position: str, itself: bool) -> int:
    """The highest hlc that the system had applied before `position` in its log."""
    for at, hlc in reversed(seen):
        if at < position or (itself and at == position):
            return int(hlc)
    return 0


def _seen_since(seen: Sequence[Sequence[Any]], rows: Mapping[str, Row]) -> Sequence[Sequence[Any]]:
    """`seen` without what no change can ask for any more.

    A change is folded only when it is newer than its row, so nothing will ask for what lies before the last entry that is older than all
    live rows; the same under replay, since what is read again of a known row is old. A row key that is not known yet may ask (it waited for
    its link): it is told 0, as if it had been written without knowing of us, which it was. KEPT_SEEN bounds it for a thing with two live
    rows of which one never changes.
    """
    if len(seen) < 2:
        return seen
    oldest = min((row[0] for row in rows.values() if row[2]), default=seen[-1][0])
    first = 0
    while first + 1 < len(seen) and seen[first + 1][0] <= oldest:
        first += 1
    return seen[max(first, len(seen) - KEPT_SEEN) :]


# ---- who differs -----------------------------------------------------------------------------------------------------------------------


def targets_of(fields: Mapping[str, Entry], alive: bool, here: Mapping[str, tuple[str, Row]], rules: Rules) -> tuple[str, ...]:
    """The systems whose row is not what it should be."""
    return tuple(
        system for system in rules.systems if rules.written.get(system) and _differs(system, fields, alive, here.get(system), rules)
    )


def _differs(system: str, fields: Mapping[str, Entry], alive: bool, current: tuple[str, Row] | None, rules: Rules) -> bool:
    row = current[1] if current else None
    live = row is not None and row[2]
    if not alive and rules.delete != "soft":
        return bool(live)
    if not live:
        # ignore: who deleted it is not given it again. soft: a dead thing is not made anywhere.
        return alive and not (rules.delete == "ignore" and row is not None)
    assert row is not None
    held, decided, same = row[3], row[5], rules.same
    if not alive:
        return any(
            name in held and held[name] != value and not same(system, name, value, held[name])
            for name, value in rules.soft.items()
            if name in rules.written[system]
        )
    for name in rules.written[system]:
        entry = fields.get(name)
        if entry is None:
            continue
        value = held.get(name, _MISSING)
        if (
            value != entry[0]
            and value is not _MISSING  # not known what it holds (unchanged TOAST)
            and name not in decided  # the owner's own: no sink writes over it
            and not same(system, name, entry[0], value)
        ):
            return True
    return False


def _told_differently(before: ThingState, fields: Mapping[str, Entry], exists: Entry) -> bool:
    """Does a reader of the golden topic learn something, even when no system is a target?"""
    was, existed = before["fields"], before["exists"]
    if existed is None or existed[0] != exists[0] or len(was) != len(fields):
        return True
    return was is not fields and any(was[name][0] != entry[0] for name, entry in fields.items())


def golden_record(
    link: str, entity: str, state: ThingState, here: Mapping[str, tuple[str, Row]], targets: tuple[str, ...], change: Change
) -> GoldenRecord:
    fields, exists = state["fields"], state["exists"]
    return GoldenRecord(
        entity=entity,
        link=link,
        values={name: entry[0] for name, entry in fields.items()},
        alive=exists[0],
        exists=Version._make(exists[1:7]),
        versions={name: Version._make(entry[1:7]) for name, entry in fields.items()},
        targets=targets,
        keys={system: key for system, (key, _) in here.items()},
        seen={system: _heard(row) if row[2] else None for system, (_, row) in here.items()},
        cause=Cause(change.system, change.ts_us, change.op.value, change.key, change.log_position),
        heard={system: back for system in targets if (back := _came_back(state["replicas"].get(system, NO_REPLICA)))},
    )


def _came_back(replica: Mapping[str, Any]) -> dict[str, int]:
    """How far our writes to a system have come back: part, or "" → hlc."""
    back = {part: int(seen[-1][1]) for part, seen in replica.get("parts", _NO_PARTS).items() if seen}
    if replica["seen"]:
        back[""] = int(replica["seen"][-1][1])
    return back


def _heard(row: Row) -> Mapping[str, Canonical]:
    """What a live row was seen to hold. That a part is not there has not been seen, as long as none of its rows has been heard of."""
    values, positions = row[3], row[4]
    unheard = [name for name, at in positions.items() if not at and values.get(name) is None]
    return {name: value for name, value in values.items() if name not in unheard} if unheard else cast("Mapping[str, Canonical]", values)


# ---- conflicts ---------------------------------------------------------------------------------------------------------------------------


def _conflict(
    link: str, change: Change, rules: Rules, name: str, standing: Entry, write: Write, held: Canonical, wins: bool
) -> Conflict | None:
    """The write that is lost, if it is: two systems wrote different values, and the winner had not seen the other's.

    Nothing is lost with a null that came with its row. `held`: what the row held before this write, _MISSING when that is not known.
    """
    system, value, other = change.system, write[0], standing[7]
    if rules.same(system, name, standing[0], value) or (
        name in rules.written.get(other, ()) and rules.same(other, name, value, standing[0])  # one of them, as the other system has it
    ):
        return None
    if wins:
        if held is not _MISSING and (held == standing[0] or rules.same(system, name, standing[0], held)):
            return None  # made on top of what stood
        if len(standing) > 9:  # unsaid
            return None
        return _lost(link, change, rules, name, winner=_written(write, change.key), loser=_stood(standing))
    if value is None and held is _MISSING:
        return None
    return _lost(link, change, rules, name, winner=_stood(standing), loser=_written(write, change.key))


def _clash_of_existence(
    link: str,
    change: Change,
    rules: Rules,
    fields: Mapping[str, Entry],
    standing: Entry,
    write: Write,
    old: Mapping[str, Canonical],
) -> Conflict | None:
    """A delete against an edit of another system, when neither had seen the other."""
    lost_now = (write[3], write[1], write[2]) <= (standing[3], standing[4], standing[5])
    if lost_now:
        return _lost(link, change, rules, EXISTS, winner=_stood(standing), loser=_written(write, change.key))
    if change.values is not None:  # an edit after a delete: the row was there still, unless it is a new one, or softly deleted
        knew = change.op is Op.CREATE or rules.delete == "soft"
    else:  # a delete after an edit: had the row what was agreed on?
        knew = all(
            name not in old or old[name] == fields[name][0] or rules.same(change.system, name, fields[name][0], old[name])
            for name in rules.written.get(change.system, ())
            if name in fields
        )
    if knew:
        return None
    return _lost(link, change, rules, EXISTS, winner=_written(write, change.key), loser=_stood(standing))


def _written(write: Write, key: str) -> Side:
    value, hlc, rank, owned, system, _ = write
    return Side(system, value, hlc, rank, bool(owned), key)


def _stood(standing: Entry) -> Side:
    return Side(standing[7], standing[0], standing[4], standing[5], bool(standing[3]))


def _lost(link: str, change: Change, rules: Rules, name: str, winner: Side, loser: Side) -> Conflict:
    if winner.owned != loser.owned:
        rule = Rule.OWNER
    elif FIRST_SIGHT in (winner.hlc, loser.hlc):
        rule = Rule.FIRST_SIGHT
    elif winner.hlc == loser.hlc:
        rule = Rule.RANK
    else:
        rule = Rule.LATER
    return Conflict(rules.entity, link, name, winner, loser, rule, change.ts_us)
