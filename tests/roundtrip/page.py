"""docs/types.md: what arrives of each type. Pure."""

# ruff: noqa: E501 - sentences of a table, whole
from __future__ import annotations

from tests.parity.reasons import LOST as REAL_LOST
from tests.roundtrip.carried import FORMS, Outcome, Outcomes
from tests.roundtrip.values import CASES

_DEBEZIUMS = ("json", "plain", "avro")

# Refused when Debezium read the log: (type, form) → reasons. A dead letter that says so; nothing wrong arrives.
REFUSED: dict[tuple[str, str], set[str]] = {
    (name, form): {why}
    for name, why in (
        ("name", "is of type name, which Debezium streams as null"),
        ("interval[]", "is an array of intervals, which Debezium leaves out"),
        ("time[]", "is an array of times, which Debezium cuts to milliseconds"),
    )
    for form in _DEBEZIUMS
}
# What arrives as something else, and cannot be noticed: (type, form) → the values.
LOST: dict[tuple[str, str], tuple[str, ...]] = {
    **{("integer[]", form): ("{{1,2},{3,4}}", "[0:1]={1,2}") for form in _DEBEZIUMS},
    ("integer[]", "source"): ("[0:1]={1,2}",),
    **{("mood[]", form): ("{sad,NULL}",) for form in _DEBEZIUMS},
    **{("text[]", form): ("{{a,b},{c,NULL}}",) for form in _DEBEZIUMS},
}
_WHY_LOST = {
    "source": "lower bounds other than 1 are not kept",
    "debezium": "arrays of more than one dimension, with lower bounds, or of enums with a null are other values in Debezium's events, and nothing says so",
}

_SHOWN = {"mood": "an enum", "mood[]": "an array of an enum", "posint": "a domain over `integer`", "shortname": "a domain over `varchar`"}
# What real Debezium's own events have otherwise (docs/debezium-parity.md), by the column that shows it there.
_REAL = {"`date`": "c_date", "`numeric[]`": "m_numfree", "`varchar[]`": "m_varchara"}

HEAD = """# Types, and what arrives of them

Every type that can be mapped, from a column on one side to a column of the same type on the other: set there, read from the log,
mapped, written, compared by PostgreSQL. Both ways, between two servers of different versions, for the nasty values of each type
(infinities, NaN, years before Christ, the largest and the smallest, empty, …) and for random ones (`tests/roundtrip`, which this page
is held against; `python -m tests.roundtrip` writes it).

*exact*: PostgreSQL prints the same text on both sides, if nothing else is said. By whom the log was read: **our source**; **Debezium**
as `concord debezium` tells it to be, in JSON with schemas, JSON without, and Avro. Its events are made here from our source's
representation, which is Debezium's as far as [the parity page](debezium-parity.md) shows; that page also has what the streams read of
real Debezium's own bytes.

Not in the table because they cannot be mapped: `money` (its text depends on the server's locale), `bit varying` (change events lose
its length), and the types that neither source puts into its events: multiranges, `tsquery`, `box`, `polygon`, `circle`, `line`,
`lseg`, `path`, `pg_lsn`, `reg*` and composite types.

| type | exactly means | our source | Debezium, JSON | … without schemas | … Avro |
|---|---|---|---|---|---|
"""


def page(outcomes: Outcomes) -> str:
    lines = [
        f"| {_SHOWN.get(name, f'`{name}`')} | {CASES[name].note or 'the same text'} | {' | '.join(_cell(name, form, outcomes[name][form]) for form in FORMS)} |"
        for name in CASES
        if name in outcomes
    ]
    return HEAD + "\n".join(lines) + "\n\n" + _notes() + "\n"


def _cell(name: str, form: str, outcome: Outcome) -> str:
    said = []
    if outcome.exact:
        said.append("exact")
    if outcome.refused:
        said.append(f"refused: {'; '.join(sorted(outcome.refused))}")
    if outcome.wrong:
        said.append("but for[^1]" if form == "source" else "but for[^2]")
    return ", ".join(said)


def _notes() -> str:
    real = "; ".join(f"{name}: {REAL_LOST[column]}" for name, column in _REAL.items())
    notes = f"Real Debezium's own events lose besides, seen on the parity page: {real}."
    return notes + "\n\n" + "\n\n".join(f"[^{number}]: {why}." for number, why in enumerate(_WHY_LOST.values(), 1))
