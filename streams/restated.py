"""What stands, told again. Pure: (state, old change) → golden record.

A change that is older than what merge knows of its row says nothing new (`fold`). But that it comes at all says that somebody reads the log
again: an operator's replay, or a worker that was killed. What merge once sent may have been lost since, or what a sink keeps of it; so the
thing's record goes out once more, to every system that holds a row of it or should. Sinks compare with their rows and with what they have
applied: where all is well, nothing is written, and nothing ever becomes older by it (I3).
"""

from __future__ import annotations

from schemas.change import Change
from streams.fold import NO_REPLICA, End, Folded, Rules, ThingState, current_row, golden_record, targets_of, with_told


def restated(link: str, state: ThingState, change: Change, rules: Rules) -> Folded:
    """The record of the thing as it stands. `change`: the old one that gives the occasion."""
    fields, exists, replicas = state["fields"], state["exists"], state["replicas"]
    if not fields or exists is None:
        return Folded(state, None, (), End.SUPERSEDED)
    here = {name: current_row(each["rows"]) for name, each in replicas.items() if each["rows"]}
    differing = targets_of(fields, exists[0], here, rules)
    # Not to systems where it is remembered what they are told, if they have what stands: it would not come back.
    held = {name for name, (_, row) in here.items() if row[2] and not rules.remembered(name)} if exists[0] else set()
    targets = tuple(system for system in rules.systems if system in differing or (system in held and rules.written.get(system)))
    told = {
        system: with_told(replicas.get(system, NO_REPLICA), fields, remembered)
        for system in differing
        if (remembered := rules.remembered(system))
    }
    after = {**state, "replicas": {**replicas, **told}} if told else state
    return Folded(after, golden_record(link, rules.entity, after, here, targets, change), (), End.SUPERSEDED)
