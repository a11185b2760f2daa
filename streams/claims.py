"""Who owns a match value? Identify's step for one value, as a pure function of what its table knows.

What the table knows of a value (JSON):

    {"link":    the thing that the value belongs to | None,
     "slots":   {system: key}      the row that holds the value, one per system,
     "left":    {system: key}      the thing's row in that system now has another value: the system has no room for another row of *this*
     thing,
     "free":    True once all its rows have left: the value may go to another thing,
     "waiting": [claim, …]         rows that want the value and cannot have it, first come first; "not": a thing that the row cannot be}

A value that was let go because its row was deleted stays with its link: a row that is entered again, on any side, is the same thing again.
One that was let go because the row's value was changed is free for another thing when the last row has followed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from schemas.change import row_name
from streams.rows import name_again

Owner = dict[str, Any]
Claim = dict[str, Any]


class Answer(NamedTuple):
    """Goes to `links.<system>.<table>`, partition `partition`."""

    system: str
    table: str
    partition: int
    key: str
    link: str | None  # None: the claim was let go before it was granted
    at: str


class Decided(NamedTuple):
    owner: Owner
    answers: tuple[Answer, ...] = ()
    duplicate: Claim | None = None  # a row that must wait for another row: for a person to look at


def on_claim(owner: Owner | None, message: Claim) -> Decided:
    """One claim or release of a value, or the refusal of what was granted: the thing has another row in that system, so this one waits
    on."""
    known = owner or {"link": None, "slots": {}, "left": {}, "free": False, "waiting": []}
    mine: Owner = {**known, "slots": dict(known["slots"]), "left": dict(known["left"])}
    mine["waiting"] = [claim for claim in known["waiting"] if not _same_row(claim, message)]
    was_waiting = len(mine["waiting"]) < len(known["waiting"])
    answers: list[Answer] = []
    if message["op"] == "claim":
        mine["waiting"] = known["waiting"] if was_waiting else [*mine["waiting"], message]
    elif message["op"] == "refuse":
        if was_waiting:
            mine["waiting"] = known["waiting"]  # the same refusal again
        elif mine["link"] == message["not"] and mine["slots"].get(message["system"]) == message["key"]:
            del mine["slots"][message["system"]]
            if not mine["slots"] and mine["link"] == row_name(message["system"], message["key"]):
                mine["free"] = True  # the value was nobody's: its thing was named after this row
            mine["waiting"] = [*mine["waiting"], {**message, "op": "claim"}]
    else:
        _let_go(mine, message)
        if was_waiting and message["link"] is None and not message["moved"]:
            answers.append(_answer(message, None))
    _grant(mine, answers)
    waits = message["op"] != "release" and any(_same_row(claim, message) for claim in mine["waiting"])
    # not: a row that cannot be the first of a thing and waits for the first; one that replaces another row of its thing and comes before
    # its end
    duplicate = message if waits and not was_waiting and mine["link"] not in (None, message["link"]) else None
    return Decided(mine, tuple(answers), duplicate)


def _let_go(mine: Owner, message: Claim) -> None:
    system = message["system"]
    if mine["slots"].get(system) == message["key"]:
        del mine["slots"][system]
        if message["moved"]:
            mine["left"][system] = message["key"]
    if not mine["slots"] and mine["left"]:
        mine["free"] = True


def _grant(mine: Owner, answers: list[Answer]) -> None:
    """Gives the value to every waiting row that can have it, in the order in which they came."""
    again = True
    while again:
        again = False
        for claim in mine["waiting"]:
            if _takes(mine, claim):
                mine["waiting"] = [other for other in mine["waiting"] if other is not claim]
                if claim["link"] is None:
                    answers.append(_answer(claim, mine["link"]))
                again = True  # the first row of a thing lets in those that waited for one
                break


def _takes(mine: Owner, claim: Claim) -> bool:
    system, key, link = claim["system"], claim["key"], claim["link"]
    if link is not None and link == mine["link"]:
        mine["free"] = False  # the thing is still here: a row of it follows the others
        if mine["slots"].get(system, key) != key:
            return False
        mine["left"].pop(system, None)
    elif claim.get("not") is not None and claim["not"] == mine["link"] and not mine["free"]:
        return False
    elif mine["link"] is None or mine["free"]:
        if link is None and not claim["born"]:
            return False
        mine["link"], mine["left"], mine["free"] = link or _new_name(claim), {}, False
    elif link is not None or system in mine["left"] or mine["slots"].get(system, key) != key:
        return False
    mine["slots"][system] = key
    return True


def _new_name(claim: Claim) -> str:
    """What a thing is called that this row is the first of: after the row, unless that is another thing's name already."""
    system, key = claim["system"], claim["key"]
    name = row_name(system, key)
    return name if claim.get("not") != name else name_again(system, key, claim["at"])


def _same_row(claim: Claim, message: Claim) -> bool:
    return bool(claim["system"] == message["system"] and claim["key"] == message["key"] and claim["table"] == message["table"])


def _answer(claim: Claim, link: str | None) -> Answer:
    return Answer(claim["system"], claim["table"], claim["partition"], claim["key"], link, claim["at"])
