"""The fields of a pair of tables: which columns, with what rules, and what is only thought of. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

from console.init import names
from console.init.codes import code_table
from console.init.evidence import as_number
from console.init.facts import TableFacts, normal
from console.init.inserts import sequence_of
from console.init.proposal import FieldProposal, Plain
from console.init.tables import SAME_FIELD, TablePair, context, of_role, tells
from schemas.config.problems import RESERVED_FIELDS

ENOUGH_ROWS = 20  # without a value, before it is said that a side has none
CLEARLY = 0.7  # a text and a number only go together when it is as clear as that
SHOWN_CODES = 8


def fields_of(
    pair: TablePair, systems: tuple[str, str], entities: Mapping[tuple[str, str], str], free: Mapping[str, Sequence[str]]
) -> list[FieldProposal]:
    """`entities`: (system, table) → the entity that lives there. `free`: system → sequences that no column is numbered from."""
    found = _references(pair, systems, entities)
    joined = _joined(pair, systems)
    if joined is not None:
        found.append(joined)
    used = [{column for one in found for column in one.columns(system)} for system in systems]
    for a, b, score in pair.columns:
        if a not in used[0] and b not in used[1]:
            found.append(_plain(pair, systems, a, b, score, free))
            used[0].add(a)
            used[1].add(b)
    found += _only_dates(pair, systems, used)
    _name(pair, systems, found)
    return found


def _name(pair: TablePair, systems: tuple[str, str], found: list[FieldProposal]) -> None:
    """Names that are plain, and each once."""
    taken: set[str] = set()
    known = context(pair.one, pair.other)
    for one in found:
        columns = [column for system in systems for column in one.columns(system)[:1]]
        wanted = one.name or names.shared_name(columns[0], columns[-1], known)
        wanted = re.sub(r"\W", "_", wanted)
        if not re.match(r"[A-Za-z_]", wanted) or wanted in RESERVED_FIELDS:
            wanted = f"the_{wanted}"
        for name in (wanted, *columns, *(f"{wanted}_{number}" for number in range(2, 99))):
            if name not in taken and re.fullmatch(r"[A-Za-z_]\w*", name) and name not in RESERVED_FIELDS:
                one.name = name
                taken.add(name)
                break


# --- references -----------------------------------------------------------------------------------------------------------------------


def _references(pair: TablePair, systems: tuple[str, str], entities: Mapping[tuple[str, str], str]) -> list[FieldProposal]:
    """Columns that refer to rows of one entity on both sides."""
    found: list[FieldProposal] = []
    known = context(pair.one, pair.other)
    mine, theirs = (
        {column: entity for column, (table, _) in facts.references.items() if (entity := entities.get((system, table))) is not None}
        for system, facts in zip(systems, (pair.one, pair.other), strict=True)
    )
    ways = sorted(
        ((names.likeness(a, b, known), a, b) for a, one in mine.items() for b, other in theirs.items() if one == other),
        key=lambda way: (-way[0], way[1], way[2]),
    )
    used: set[tuple[int, str]] = set()
    for alike, a, b in ways:
        if (0, a) in used or (1, b) in used:
            continue
        used |= {(0, a), (1, b)}
        entity = mine[a]
        alone = [column for column, other in mine.items() if other == entity] == [a]
        name = entity if alone else names.shared_name(a, b)
        why = f"both refer to {names.a(entity)}"
        if not alone:
            why += ", names that are alike" if alike >= 0.5 else ", and are what was left"
        found.append(FieldProposal(name, dict(zip(systems, (a, b), strict=True)), 0.95 if alone else 0.75, why, {"ref": entity}))
    return found


def _only_dates(pair: TablePair, systems: tuple[str, str], used: Sequence[set[str]]) -> list[FieldProposal]:
    """The only date that is left on either side: a thought."""
    left = [
        [column for column in of_role(facts, "plain") if column not in used[place] and facts.kind(column) == "date"]
        for place, facts in enumerate((pair.one, pair.other))
    ]
    if len(left[0]) != 1 or len(left[1]) != 1:
        return []
    sides = dict(zip(systems, (left[0][0], left[1][0]), strict=True))
    return [FieldProposal("", sides, 0.3, "the only date that is left on either side", active=False, remark="perhaps")]


# --- one column here, one there -------------------------------------------------------------------------------------------------------


def _plain(pair: TablePair, systems: tuple[str, str], a: str, b: str, score: float, free: Mapping[str, Sequence[str]]) -> FieldProposal:
    one = FieldProposal("", dict(zip(systems, (a, b), strict=True)), score, pair.evidence[a, b].why)
    if score < SAME_FIELD:
        one.active, one.remark = False, "perhaps"
    kinds = pair.one.kind(a), pair.other.kind(b)
    _codes(pair, one, a, b)
    if kinds[0] != kinds[1] and "values" not in one.rules and one.active:
        if set(kinds) == {"datetime", "timestamp"}:
            naive = systems[kinds.index("datetime")]
            one.sides[naive] = {"column": one.columns(naive)[0], "timezone": "UTC"}
            one.remark = f"which zone does {naive}'s clock mean?"
        elif "text" not in kinds or score < CLEARLY:
            one.active, one.remark = False, f"a {kinds[0]} in {systems[0]}, a {kinds[1]} in {systems[1]}: values, or a python function"
    if kinds == ("number", "number"):
        _unit(pair, systems, one, a, b)
    _numbered(pair, systems, one, free)
    if "owner" not in one.rules:
        _filled(pair, systems, one, a, b)
    return one


def _codes(pair: TablePair, one: FieldProposal, a: str, b: str) -> None:
    """Lists of codes that differ: which is which, as far as that can be said."""
    mine, theirs = pair.one.codes(a), pair.other.codes(b)
    if not mine or not theirs or set(mine) <= set(theirs) or set(theirs) < set(mine):
        return
    met = [(x, y) for row, other in pair.rows if (x := row.get(a)) is not None and (y := other.get(b)) is not None]
    table = code_table(mine, theirs, met)
    if table.codes:
        one.rules["values"] = {code: _code(table.codes.get(code, "?")) for code in mine}
    if table.sure:
        one.why += f"; codes {table.how}"
        return
    one.active = False
    one.remark = f"which code is which? {_listed(pair.one, a)} · {_listed(pair.other, b)}"
    one.rules["values"] = {code: _code(table.codes.get(code, "?")) for code in mine[:SHOWN_CODES]}


def _code(text: str) -> Plain:
    return int(text) if re.fullmatch(r"0|[1-9][0-9]{0,9}", text) else text


def _listed(facts: TableFacts, column: str) -> str:
    """`class: A (502), B (480), C`."""
    codes = facts.codes(column)
    told = [f"{code} ({facts.counts[column][code]})" if facts.counts[column][code] else code for code in codes[:SHOWN_CODES]]
    return f"{column}: {', '.join(told)}{', …' * (len(codes) > SHOWN_CODES)}"


def _unit(pair: TablePair, systems: tuple[str, str], one: FieldProposal, a: str, b: str) -> None:
    """Per cent here and a fraction there, grams and kilograms."""
    ratios = [
        x / y
        for row, other in pair.rows
        if (x := as_number(row.get(a) or "")) is not None and (y := as_number(other.get(b) or "")) is not None and x and y
    ]
    for power in (100, 1000):
        for ratio, text in ((Decimal(power), str(power)), (1 / Decimal(power), f"{1 / Decimal(power):f}")):
            if len(ratios) >= 8 and sum(abs(found / ratio - 1) < Decimal("0.005") for found in ratios) >= 0.9 * len(ratios):
                one.sides[systems[1]] = {"column": b, "unit": text}
                one.why += f"; {power} times the one is the other, in {len(ratios)} rows that meet"
                one.score = max(one.score, 0.8)
                return
    per_cent = [bool(re.search(r"pct|percent|per_cent", name)) for name in (a, b)]
    if per_cent[0] != per_cent[1]:
        text = "100" if per_cent[0] else "0.01"
        one.remark = f"per cent on one side, a fraction on the other? then {systems[1]}: {{column: {b}, unit: {text}}}"


def _numbered(pair: TablePair, systems: tuple[str, str], one: FieldProposal, free: Mapping[str, Sequence[str]]) -> None:
    """A business number: who counts it decides on it."""
    for system, facts in zip(systems, (pair.one, pair.other), strict=True):
        column = one.columns(system)[0]
        if "values" not in one.rules and sequence_of(facts, column, free[system]) is not None:
            one.rules["owner"] = system
            one.why += f"; {system} numbers it"
            return


def _filled(pair: TablePair, systems: tuple[str, str], one: FieldProposal, a: str, b: str) -> None:
    """A column that one side has for it and never fills itself: the other side decides."""
    sides = (systems[0], pair.one, a), (systems[1], pair.other, b)
    for (_, facts, column), (owner, other, its) in (sides, sides[::-1]):
        rows = len(facts.sample)
        never = rows >= ENOUGH_ROWS and not facts.filled(column) and not facts.column(column).not_null
        if never and (other.column(its).not_null or other.filled(its) * 2 > len(other.sample) >= ENOUGH_ROWS):
            one.rules["owner"] = owner
            one.why += f"; {column} is null in all {rows} rows looked at"
            return


# --- two columns here, one there --------------------------------------------------------------------------------------------------------


def _joined(pair: TablePair, systems: tuple[str, str]) -> FieldProposal | None:
    """First and last name here, one name there."""
    for place in (0, 1):
        split, whole = (pair.one, pair.other) if place == 0 else (pair.other, pair.one)
        first, last = (_named(split, wanted) for wanted in ("first_name", "last_name"))
        plain = of_role(whole, "plain")
        full = next((name for name in plain if names.words(name) == names.words("name") and whole.kind(name) == "text"), None)
        if first is None or last is None or full is None or _named(split, "name", exactly=True) is not None:
            continue
        texts = list(whole.counts[full])
        comma = sum(", " in text for text in texts) * 2 > len(texts)
        columns = [last, first] if comma else [first, last]
        side: dict[str, Plain] = {"columns": columns, "join": ", " if comma else " "}
        if comma:
            side["split"] = "first"
        sides: dict[str, Plain] = {systems[place]: side, systems[1 - place]: full}
        told = f"first and last name in {systems[place]}, one name in {systems[1 - place]}"
        return FieldProposal("name", {system: sides[system] for system in systems}, 0.8, told)
    return None


def _named(facts: TableFacts, wanted: str, *, exactly: bool = False) -> str | None:
    best = max(of_role(facts, "plain"), key=lambda name: names.likeness(name, wanted), default=None)
    if best is None or facts.kind(best) != "text":
        return None
    if exactly:
        return best if names.words(best) == names.words(wanted) else None
    return best if names.likeness(best, wanted) >= 0.9 else None


# --- what things are recognised by --------------------------------------------------------------------------------------------------------


def match_field(pair: TablePair, systems: tuple[str, str], found: Sequence[FieldProposal]) -> tuple[FieldProposal, str] | None:
    """The field that tells things apart on both sides, and why it."""
    best: tuple[float, FieldProposal, str] | None = None
    for one in found:
        columns = [one.columns(system) for system in systems]
        if not one.active or {"ref", "values", "owner"} & one.rules.keys() or any(len(names_) != 1 for names_ in columns):
            continue
        a, b = columns[0][0], columns[1][0]
        if pair.one.kind(a) not in ("text", "uuid", "number") or pair.one.kind(a) != pair.other.kind(b):
            continue
        unique = tells(pair.one, a) + tells(pair.other, b)
        meeting = next((meeting for meeting in pair.meetings if meeting.question.columns == (a, b)), None)
        share = meeting.share if meeting is not None else 0.0
        loaded = bool(pair.one.sample) and bool(pair.other.sample)
        if unique < 1 or (loaded and (meeting is None or len(meeting.pairs) < 3)) or (not loaded and unique < 2):
            continue
        by_catalog = [system for system, facts, c in zip(systems, (pair.one, pair.other), (a, b), strict=True) if tells(facts, c) == 1]
        told = [f"unique in {' and '.join(by_catalog) or 'what was looked at'}"]
        if meeting is not None and meeting.asked:
            told.append(f"{len(meeting.pairs)} of {meeting.asked} values looked for are on both sides")
        worth = unique + 3 * share + one.score
        if best is None or worth > best[0]:
            best = worth, one, ", ".join(told)
    return None if best is None else best[1:]


def cleaning(pair: TablePair, systems: tuple[str, str], one: FieldProposal) -> list[str]:
    """What has to be done to texts so that they meet."""
    a, b = (one.columns(system)[0] for system in systems)
    if pair.one.kind(a) != "text":
        return []
    meeting = next((meeting for meeting in pair.meetings if meeting.question.columns == (a, b)), None)
    met = [(row[a] or "", other[b] or "") for row, other in meeting.pairs] if meeting is not None else []
    apart = [(x, y) for x, y in met if x != y]
    email = names.likeness(a, "email") >= 0.85
    steps = []
    if email or any(x != x.strip() or y != y.strip() for x, y in apart):
        steps.append("strip")
    if any(" ".join(x.split()) != x.strip() or " ".join(y.split()) != y.strip() for x, y in apart):
        steps.append("squeeze")
    if email or any(" ".join(x.split()) != " ".join(y.split()) and normal(x) == normal(y) for x, y in apart):
        letters = "".join(text for counts in (pair.one.counts[a], pair.other.counts[b]) for text in counts)
        upper = sum(map(str.isupper, letters)) > sum(map(str.islower, letters))
        steps.append("upper" if upper and not email else "lower")
    return steps
