"""What an insert needs besides the fields: a value for each column that may not be null and has no default. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from console.init import names
from console.init.facts import TableFacts
from console.init.proposal import Given, Plain
from console.init.tables import role

_ACTIVE = {"activ", "enabl", "visibl"}


def sequence_of(facts: TableFacts, column: str, free: Sequence[str]) -> str | None:
    """The sequence that the application numbers a column from: one that speaks of the table and the column, `partner_number_seq`."""
    if column not in facts.unique or facts.kind(column) not in ("text", "number"):
        return None
    if column in facts.numbered:
        return facts.numbered[column]
    about_column = set(names.words(column))
    about_table = set(names.words(facts.table.name))
    for sequence in free:
        told = set(names.words(sequence.rpartition(".")[2]))
        if about_column <= told and (told & about_table or any(names.word_likeness(x, y) >= 0.9 for x in told for y in about_table)):
            return sequence
    return None


def numbered_from(facts: TableFacts, column: str, sequence: str) -> Given:
    """The next number, spelled as the numbers are that are there: K10001."""
    texts = list(facts.counts[column])
    spelled = {match[1] for text in texts if (match := re.fullmatch(r"([^0-9]*)[0-9]+", text)) is not None}
    widths = {len(text) for text in texts}
    if facts.kind(column) == "text" and len(spelled) == 1:
        prefix = spelled.pop()
        why = f"the application's own sequence; numbers look like {min(texts, key=lambda text: (len(text), text))}"
        padded = len(widths) == 1 and any(re.fullmatch(r"[^0-9]*0[0-9]+", text) for text in texts)
        number = f"nextval('{sequence}')"
        if padded:
            width = widths.pop() - len(prefix)  # at least so many digits; lpad would cut off what is longer
            number = f"regexp_replace('{'0' * (width - 1)}' || {number}, '^0+(?=[0-9]{{{width}}})', '')"
        if prefix:
            literal = prefix.replace("'", "''")
            return Given(column, {"sql": f"'{literal}' || {number}"}, why)
        if padded:
            return Given(column, {"sql": number}, why)
    return Given(column, {"nextval": sequence}, "the application's own sequence")


def needed(
    facts: TableFacts,
    mapped: set[str],
    free: Sequence[str],
    thing: str,
    numbered: Sequence[str],
    nullable: Mapping[str, str],
) -> tuple[list[Given], list[Given]]:
    """(insert, always). `mapped`: columns that fields are written to; `numbered`: of them those that are counted here; `nullable`: those
    that may be null where they come from, with what is known of that. `thing`: the entity's name."""
    insert: list[Given] = []
    always: list[Given] = []
    for column in facts.table.columns:
        name = column.name
        if name in numbered and (sequence := sequence_of(facts, name, free)) is not None and name not in facts.numbered:
            insert.append(numbered_from(facts, name, sequence))
            continue
        if name in nullable and column.not_null and not column.has_default and name not in facts.unique:
            insert.append(Given(name, _empty(facts.kind(name), column.base, set()), nullable[name]))
            continue
        if name in mapped or column.generated or column.identity == "a":
            continue
        if column.has_default and column.default == "false" and set(names.words(name)) & _ACTIVE:
            insert.append(Given(name, True, "its default is false, and an application does not show such rows"))
            continue
        there_for = role(facts, name)
        if there_for == "updated":
            always.append(Given(name, _now(facts, name), ""))
        elif there_for == "created" and not column.has_default:
            insert.append(Given(name, _now(facts, name), ""))
        elif column.not_null and not column.has_default:
            insert.append(_value(facts, name, free, thing))
    return insert, always


def _now(facts: TableFacts, name: str) -> Plain:
    return {"now": "UTC"} if facts.kind(name) == "datetime" else "now"


def _value(facts: TableFacts, name: str, free: Sequence[str], thing: str) -> Given:
    column, kind = facts.column(name), facts.kind(name)
    unique = name in facts.unique or facts.table.primary_key == (name,)
    if unique and (sequence := sequence_of(facts, name, free)) is not None:
        return numbered_from(facts, name, sequence)
    if kind == "uuid":
        return Given(name, "uuid")
    if unique and kind == "text":
        return Given(name, "uuid", "unique, and nothing numbers it: how does the application make one?")
    if unique and kind == "number":
        most = f"(SELECT coalesce(max({_quoted(name)}), 0) + 1 FROM {_quoted(facts.table.schema)}.{_quoted(facts.table.name)})"
        return Given(name, {"sql": most}, "a guess that two writers may make at once: is there a sequence?")
    if (code := thing_code(facts, name, thing)) is not None:
        return Given(name, code, f"what makes it {names.a(thing)}: {_counts(facts, name)}")
    if kind == "boolean" and set(names.words(name)) & _ACTIVE:
        return Given(name, True, "an application does not show what is not")
    if (frequent := facts.most_frequent(name)) is not None and kind in ("text", "number", "boolean"):
        if _is_code(facts, name):
            return Given(name, _typed(kind, frequent[0]), f"most frequent: {_counts(facts, name)}")
        return Given(name, _empty(kind, column.base, set()), "its values are all kinds: what does the application put there?")
    if facts.allowed.get(name):
        return Given(name, facts.allowed[name][0], f"one of {', '.join(facts.allowed[name])}")
    if name in facts.references:
        return Given(name, _typed(kind or "text", "1"), f"the key of a row of {facts.references[name][0]}")
    return Given(name, _empty(kind, column.base, set(names.words(name))), "nothing is known of it")


def _empty(kind: str | None, base: str, words: set[str]) -> Plain:
    match kind:
        case "number":
            return 0
        case "boolean":
            return bool(words & _ACTIVE)
        case "timestamp" | "date":
            return "now"
        case "datetime":
            return {"now": "UTC"}
        case "time" | "timetz":
            return "00:00:00"
        case "interval":
            return {"sql": "interval '0'"}
        case "json":
            return {"sql": "''"} if base == "hstore" else "{}"
        case "bytes":
            return {"sql": "'\\x'"}
        case "text":
            return ""
    return {"sql": "'{}'"} if base.endswith("[]") else ""


def thing_code(facts: TableFacts, name: str, thing: str) -> str | None:
    """The code that says that a row is such a thing: `customer` of (customer, supplier, both)."""
    wanted = names.words(thing)
    for code in facts.codes(name):
        found = names.words(code)
        if len(found) == 1 and len(wanted) == 1 and names.word_likeness(found[0], wanted[0]) >= 0.9 and facts.kind(name) == "text":
            return code
    return None


def _typed(kind: str, text: str) -> Plain:
    if kind == "boolean":
        return text in ("t", "true")
    return int(text) if kind == "number" and re.fullmatch(r"-?[0-9]{1,15}", text) else text


def _is_code(facts: TableFacts, name: str) -> bool:
    """A few short values that come again and again; one that is always the same is one too."""
    counts = facts.counts[name]
    few = len(counts) <= 12 and (len(counts) == 1 or len(counts) * 4 <= counts.total())
    return few and all(len(text) <= 20 for text in counts)


def _counts(facts: TableFacts, name: str) -> str:
    return ", ".join(f"{text} ({count})" for text, count in facts.counts[name].most_common(6)) or ", ".join(facts.codes(name))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
