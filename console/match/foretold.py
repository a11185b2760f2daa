"""What go-live would do to rows that become one thing. Pure: the rows' first sight goes through the fold itself, by the entity's own rules.

A row that was there before anybody looked is older than every edit; between two such a value beats none, then the field's owner decides,
then the system with the higher rank (DESIGN §4.4). What stands in the winner overwrites the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from schemas.change import Canonical, Change, Op
from schemas.errors import MappingError
from schemas.lsn import Position
from schemas.mapping import Entity
from streams.fold import Rules, fold

NOTHING = (None, "")


class Decider(StrEnum):
    """Why the winner wins."""

    OWNER = "owner"
    VALUE = "value"  # it says something, and the other nothing: whoever they are
    RANK = "rank"


class Effect(StrEnum):
    """What becomes of the value that was there."""

    REPLACED = "replaced"
    FILLED = "filled"
    EMPTIED = "emptied"  # by an empty text: a null would lose
    REFUSED = "refused"  # it cannot be written there: a dead letter


class Overwrite(NamedTuple):
    """One value that would be written over another system's."""

    field: str
    into: str
    by: str  # the system whose value it is
    rule: Decider
    effect: Effect
    was: Canonical
    becomes: Canonical


@dataclass(frozen=True, slots=True)
class Foretold:
    """What a thing would be, and what that overwrites."""

    values: Mapping[str, Canonical]
    overwrites: tuple[Overwrite, ...]


def foretell(entity: Entity, rules: Rules, rows: Mapping[tuple[str, str], Mapping[str, Canonical]]) -> Foretold:
    """`rows`: (system, key) → fields of the rows that become one thing, one of each system."""
    state = None
    for number, ((system, key), values) in enumerate(rows.items(), 1):
        seen = Change(system, key, Op.READ, str(Position(0, number)), 0, None, values)
        state = fold("match:", state, seen, rules).state
    if state is None:
        return Foretold({}, ())
    overwrites = []
    for (system, key), values in rows.items():
        decided = state["replicas"][system]["rows"][key][5]
        for name in rules.written.get(system, ()):
            entry = state["fields"].get(name)
            if entry is None or name not in values or name in decided:
                continue
            golden, held = entry[0], values[name]
            if golden == held or rules.same(system, name, golden, held):
                continue
            rule = Decider.OWNER if entry[3] else Decider.VALUE if held is None else Decider.RANK
            effect = _effect(entity, system, name, golden, held)
            overwrites.append(Overwrite(name, system, entry[7], rule, effect, held, golden))
    return Foretold({name: entry[0] for name, entry in state["fields"].items()}, tuple(overwrites))


def _effect(entity: Entity, system: str, name: str, golden: Canonical, held: Canonical) -> Effect:
    binding = entity.bindings[system]
    if name not in entity.refs or golden is None:  # a reference is written as this system's own key, whatever that will be
        try:
            texts = binding.to_columns({name: golden})
        except MappingError:
            return Effect.REFUSED
        columns = ((binding.table.column(column), text) for column, text in texts.items())
        if any(text is None and column is not None and column.not_null for column, text in columns):
            return Effect.REFUSED
    if golden in NOTHING:
        return Effect.EMPTIED
    return Effect.FILLED if held in NOTHING else Effect.REPLACED
