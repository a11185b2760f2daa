"""Which thing is this row? Intake's step for one row, as a pure function of what its table knows.

The link id of a row is, in this order: what the table says; what `concord.key` of the row's own database says (`found`); for a row without
a match value its own row name. A row with a match value claims it at identify and its events wait here for the answer.

What the table knows of a row, per entity (JSON):

    {"link": link id | None, "match": the match value it has claimed | None, "at": version of its newest event,
     "there": in scope and not deleted, "pending": [changes (JSON, and "xid": their transaction, "version") that wait for the link],
     "outside": {field: value} what it was seen to hold while it was out of scope, if it is}

A value is remembered for good, also of a row that is gone: a replayed old event must find its link.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from schemas.change import Canonical, Change, Op, change_from_json, row_name

Known = dict[str, Any]

KEPT_PENDING = 16  # changes of one row that wait; what comes on top is drawn together, see `_waiting`


@dataclass(frozen=True, slots=True)
class Place:
    """Where the row's events come from."""

    system: str
    table: str  # schema.table
    partition: int


@dataclass(frozen=True, slots=True)
class RowChange:
    """A captured event as one entity sees it: scope decided, columns mapped."""

    key: str
    op: Op
    position: str
    ts_us: int
    origin_hlc: int | None
    values: Mapping[str, Canonical] | None  # None: deleted, or not in scope
    match: str | None = None  # the match value in `values`
    match_known: bool = True  # False: a field of it is not in the event (unchanged TOAST); it is what it was
    was: str | None = None  # the key that the row had until now
    xid: int | None = None  # 32 bits of its transaction's id
    outside: Callable[[], Mapping[str, Canonical]] | None = None  # of a row that is there and out of scope: what it holds, as far as known
    # of a row with parts; see `schemas.change.Change`, where they go
    positions: Mapping[str, str] = field(default_factory=dict)
    at: str = ""
    part: str = ""
    told: str = ""  # grows with every event of the row or of its parts
    ours: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # see `schemas.change.Change.ours`

    @property
    def version(self) -> str:
        """Grows with every event of the row."""
        return self.told or self.position


class Step(NamedTuple):
    """What follows from one event or answer for one row."""

    known: Known | None  # None: nothing to remember
    changes: tuple[tuple[str, Change], ...] = ()  # (link, change) for `changes.<entity>`, in order
    claims: tuple[tuple[str, dict[str, Any]], ...] = ()  # (match value, message) for `claims.<entity>`
    out_of_scope: bool = False


def on_event(known: Known | None, event: RowChange, place: Place, births: bool, found: str | None) -> Step:
    """`births`: things of this entity may be born in this system. `found`: the link in `concord.key`, asked only when the table has
    none."""
    link = (known["link"] if known else None) or found
    gone = event.values is None
    if known is None:
        if gone and link is None:
            return Step(None, out_of_scope=True)  # never ours, as far as anybody knows
        known = {"link": None, "match": None, "at": "", "there": None, "pending": []}
    newer = event.version > known["at"]
    outside: dict[str, Canonical] = known.get("outside") or {}
    if newer and gone:
        outside = {**outside, **event.outside()} if event.outside is not None else {}
    if newer and gone and known["there"] is False:
        return Step({**known, "at": event.version, **_outside(outside)}, out_of_scope=True)

    if not newer and link is None:
        return Step(known)  # it waits already, or was given up

    held = known["match"]
    match = None if gone else event.match if event.match_known else held
    if link is None and match is None and not gone:  # nothing to be matched on: named by the system that made it
        if not births:
            return Step(None, claims=_claims(known, event, place, None, None, births), out_of_scope=True)
        link = row_name(place.system, event.was or event.key)

    if newer and not gone and outside:  # it is back: what this event does not say (unchanged TOAST) may have changed out there
        event = replace(event, values={**outside, **(event.values or {})})
        outside = {}
    change = _change(event, place, enters=newer and known["there"] is False)
    claims = _claims(known, event, place, match, link, births) if newer else ()
    after: Known = {"link": link, "match": match if newer else held, "at": max(event.version, known["at"])}
    after["there"] = not gone if newer else known["there"]
    after |= _outside(outside)
    if link is None:
        after["pending"] = _waiting(known["pending"], change, event)
        return Step(after, claims=claims, out_of_scope=not births)  # what is born elsewhere may still turn out to be this row's thing
    after["pending"] = []
    waited = tuple((link, change_from_json(doc)) for doc in known["pending"])
    return Step(after, (*waited, (link, change)), claims)


def on_moved(known: Known | None, event: RowChange, place: Place) -> Step:
    """The end of a key that its row has left for another. Nothing is deleted: the event of the new key carries on from what this row
    held."""
    if known is None or event.version <= known["at"]:
        return Step(known)
    return Step(
        {**known, "match": None, "at": event.version, "there": False}, claims=_claims(known, event, place, None, known["link"], False)
    )


def first_link(known: Known | None, event: RowChange, place: Place, births: bool, found: str | None) -> str | None:
    """The link that `on_event` would be the first to give the row: it must be in force before it is used (docs/decisions/0028)."""
    if found is not None or (known is not None and known["link"] is not None):
        return None
    step = on_event(known, event, place, births, found)
    return None if step.known is None else step.known["link"]


def name_again(system: str, key: str, at: str) -> str:
    """What a thing is called after its first row when the row's plain name is another thing's: after the row's claim or event, too. No
    system is called so, so nobody takes it for the name of a row."""
    return row_name(f"{system}@{at}", key)


def takes(known: Known | None, link: str | None, value: str) -> bool:
    """Whether this answer would be the first to give the row a link: it must be in force before it is used."""
    if known is None or known["link"] is not None or link is None:
        return False
    return bool(known["match"] == value or (known["match"] is None and not known["there"]))  # else it has claimed another value since


def on_answer(
    known: Known | None,
    link: str | None,
    value: str,
    at: str,
    place: Place,
    key: str,
    births: bool = True,
    in_force: str | None = None,
) -> Step:
    """Identify's answer to a claim of `value`. `link` None: the claim was let go, at position `at`, before it was granted.

    `in_force`: of an answer that `takes`, the row's link by the crosswalk now: this one; another that the row got first; or None, when the
    thing has another row in this system. Then the row is a duplicate for a person to look at, and waits on. When the table has gone back
    with its offset it may know nothing of the claim: the event comes again, and asks again.
    """
    if known is None:
        return Step(known)
    if link is None:
        if known["link"] is not None:
            return Step(known)
        pending = [doc for doc in known["pending"] if doc.get("version", doc["pos"]) > at]
        return Step({**known, "pending": pending} if pending or known["there"] else None)
    changes: tuple[tuple[str, Change], ...] = ()
    if takes(known, link, value):
        if in_force is not None:
            changes = tuple((in_force, change_from_json(doc)) for doc in known["pending"])
            known = {**known, "link": in_force, "pending": []}
    elif known["link"] is None:
        return Step(known)
    if known["link"] == link:
        return Step(known, changes)
    about = {"system": place.system, "key": key, "table": place.table, "partition": place.partition, "at": known["at"]}
    refused = {"op": "refuse", **about, "link": known["link"], "born": births, "not": link}
    return Step(known, changes, ((value, refused),))


def _outside(values: Mapping[str, Canonical]) -> Known:
    return {"outside": values} if values else {}


def _change(event: RowChange, place: Place, enters: bool) -> Change:
    op = event.op
    left = event.values is None and op is not Op.DELETE
    if event.values is None:
        op = Op.DELETE  # also when it left scope
    elif enters and op is Op.UPDATE:
        op = Op.CREATE  # was known, was gone or out of scope, and is there again
    return Change(
        system=place.system,
        key=event.key,
        op=op,
        position=event.position,
        ts_us=event.ts_us,
        origin_hlc=event.origin_hlc,
        values=event.values,
        positions=event.positions if event.values is not None else {},
        was=event.was,
        left=left,
        at=event.at if event.at != event.position else "",
        part=event.part,
        ours=event.ours,
    )


def _claims(
    known: Known, event: RowChange, place: Place, match: str | None, link: str | None, births: bool
) -> tuple[tuple[str, dict[str, Any]], ...]:
    held = known["match"]
    if match == held:
        return ()
    about = {"system": place.system, "key": event.key, "table": place.table, "partition": place.partition, "at": event.version}
    claims: list[tuple[str, dict[str, Any]]] = []
    if match is not None:
        claims.append((match, {"op": "claim", **about, "link": link, "born": births}))
    if held is not None:
        # moved: the row lives on under another value; else it is gone, and the value stays with its link
        claims.append((held, {"op": "release", **about, "link": link, "moved": event.values is not None}))
    return tuple(claims)


def _waiting(pending: list[dict[str, Any]], change: Change, event: RowChange) -> list[dict[str, Any]]:
    """`pending` and one more, never more than KEPT_PENDING.

    A row image holds all that the ones before it did, so nothing is lost when two updates are drawn together but who wrote a value in
    between and
    when: what the first changed counts as written with the second. A row inserted anew needs nothing from before its delete.
    """
    doc = {**change.to_json(), **({} if event.xid is None else {"xid": event.xid}), **({"version": event.told} if event.told else {})}
    if change.op is Op.CREATE:
        return [doc]
    waiting = [*pending, doc]
    while len(waiting) > KEPT_PENDING:
        drawn = next((at for at in range(1, len(waiting) - 1) if waiting[at]["values"] is not None), None)
        if drawn is None or waiting[drawn + 1]["values"] is None:
            del waiting[drawn if drawn is not None else 1]
        else:
            waiting[drawn : drawn + 2] = [{**waiting[drawn + 1], "values": {**waiting[drawn]["values"], **waiting[drawn + 1]["values"]}}]
    return waiting
