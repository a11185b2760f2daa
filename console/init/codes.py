"""Which code of the one side is which of the other. Pure.

learned      rows that meet: nine in ten of those that say `gold` here say `A` there
spelled      equal but for case and points; net14 and 14; the beginning or an abbreviation of the other: DE, DEU; MTR, metre
the same     mr, Herr; new, draft
left over    one is left on either side, and all others are sure
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from console.init.assign import assigned
from console.init.facts import normal

LEARNED_FROM = 3  # rows with a code
LEARNED_SHARE = 0.8
SURE = 0.6
APART = 0.1  # how much better than its rival the best one must be

_SAME = """
new draft open pending created entwurf
confirmed approved accepted
shipped sent delivered
done closed invoiced completed finished
cancelled canceled void annulled x
paid settled collected
mr mister herr
ms mrs frau
dr doctor
yes y true ja 1 on
no n false nein 0 off
male m
female f w
active enabled
inactive disabled archived
piece pce pcs unit each stk
"""
_GROUPS: dict[str, set[int]] = {}
for _number, _line in enumerate(filter(None, map(str.strip, _SAME.splitlines()))):
    for _word in _line.split():
        _GROUPS.setdefault(_word, set()).add(_number)


@dataclass(frozen=True)
class CodeTable:
    """First side's code → second side's. `sure`: every code of both sides has its counterpart, and no other is nearly as good."""

    codes: Mapping[str, str]
    sure: bool
    how: str


def code_table(mine: Sequence[str], theirs: Sequence[str], met: Sequence[tuple[str, str]] = ()) -> CodeTable:
    """`met`: codes of rows that are probably one thing."""
    learned = _learned(met)
    score = {(a, b): 0.95 if learned.get(a) == b else (0.0 if a in learned else spelled_alike(a, b)) for a in mine for b in theirs}
    found = {a: b for a, b, _ in assigned(mine, theirs, lambda a, b: score[a, b], SURE)}
    how = "learned from rows that meet" if learned.keys() & found.keys() else "by how they are spelled"
    free = [b for b in theirs if b not in found.values()]
    rivals = [a for a, b in found.items() if any(score[a, c] > score[a, b] - APART for c in free)]
    left = [a for a in mine if a not in found], free
    if len(left[0]) == len(left[1]) == 1 and len(found) >= 2 and not rivals:
        found[left[0][0]] = left[1][0]
        return CodeTable(found, True, f"{how}; {left[0][0]} and {left[1][0]} are what was left")
    return CodeTable(found, not left[0] and not left[1] and not rivals, how)


def _learned(met: Sequence[tuple[str, str]]) -> dict[str, str]:
    """What rows that meet say; only where different codes say different things."""
    by_code: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for a, b in met:
        by_code[a][b] += 1
    found = {}
    for a, counts in by_code.items():
        (b, count), *_ = counts.most_common(1)
        if counts.total() >= LEARNED_FROM and count >= LEARNED_SHARE * counts.total():
            found[a] = b
    twice = {b for b, count in Counter(found.values()).items() if count > 1}
    return {a: b for a, b in found.items() if b not in twice}


def spelled_alike(one: str, other: str) -> float:
    """0 … 1."""
    a, b = (re.sub(r"[^\w]+", "", normal(text)) for text in (one, other))
    if not a or not b:
        return 1.0 if one == other else 0.0
    if a == b:
        return 1.0
    if _GROUPS.get(a, set()) & _GROUPS.get(b, set()):
        return 0.85
    digits = ["".join(re.findall("[0-9]", text)) for text in (a, b)]
    if digits[0] and digits[0] == digits[1] and (a == digits[0] or b == digits[1]):
        return 0.9
    shorter, longer = sorted((a, b), key=len)
    if len(shorter) >= 2 and longer.startswith(shorter):
        return 0.85
    return 0.7 if shorter[0] == longer[0] and _within(shorter, longer) and not digits[0] and not digits[1] else 0.0


def _within(shorter: str, longer: str) -> bool:
    """Whether the letters stand in the other in that order: MTR in metre."""
    rest = iter(longer)
    return all(letter in rest for letter in shorter)
