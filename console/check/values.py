"""What each system can hold of the others' values, and how many of those that are there now it could not.

The types say what may happen (`limits`); one question per table counts it. For codes, and wherever a column takes some texts and not
others, the values that occur go through the mapping itself, and the target is asked about what comes out (`accepts`). A finding is a note:
only the values that come decide whether anything is ever refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from console.check.accepts import refused, taker
from console.check.database import Database, counted, counting, literal, named
from console.check.findings import About, Checked
from console.check.homes import Flow, Home, flows
from console.check.limits import Misfit, Way, misfits, shown
from schemas.catalog import Column
from schemas.change import Canonical
from schemas.config import Side
from schemas.mapping import Entity, Pipeline
from schemas.mapping.kinds import NORMAL, as_text, exact_factor

MOST_CODES = 1_000  # different values of a column that are looked at one by one
SHOWN_CODES = 5
SHOWN_LENGTH = 20  # of a code; what is longer is no code, and may be anybody's data


@dataclass(frozen=True)
class _Question:
    """Things to count in a table, and what to say with the counts: " (37 of 1,500 rows now)", or nothing."""

    tests: tuple[str, ...]
    say: Callable[[Sequence[str]], None]


def check_values(pipeline: Pipeline, databases: Mapping[str, Database], found: Checked, *, rows: bool) -> None:
    questions: defaultdict[tuple[str, str, str], list[_Question]] = defaultdict(list)
    homes: dict[tuple[str, str, str], Home] = {}
    for flow in flows(pipeline):
        if not flow.arrives:
            continue
        place = (flow.source.system, str(flow.source.table), counting(flow.source.binding.scope, flow.source.table))
        homes.setdefault(place, flow.source)
        questions[place] += [*_nulls(flow, found), *_misfits(flow, found)]
        if rows:
            _codes(flow, databases, found)
            _repeated(flow, databases, found)
    for place, asked in questions.items():
        _count(databases[place[0]], homes[place], place[2], asked, rows)
    for entity in pipeline.entities.values():
        for system in entity.bindings:
            _listed_codes(pipeline, databases[system], entity, found)


def _count(db: Database, home: Home, scope: str, asked: list[_Question], rows: bool) -> None:
    """All that is to be counted in one table, in one pass over it."""
    if not asked:
        return
    tests = [test for question in asked for test in question.tests]
    counts = ", ".join(f"count(*) FILTER (WHERE {test})" for test in tests)
    answer = db.about_rows(f"count(*), {counts}", home.table, scope) if rows else None
    told = [""] * len(tests)
    if answer is not None:
        (total, *numbers), whole = answer
        of = f"{counted(total, 'row')} {'now' if whole else 'that were looked at'}"
        told = [f" ({number:,} of {of})" if number else f" (none of {of})" for number in numbers]
    for question in asked:
        question.say(told[: len(question.tests)])
        del told[: len(question.tests)]


# --- nulls ----------------------------------------------------------------------------------------------------------------------------


def _nulls(flow: Flow, found: Checked) -> Iterator[_Question]:
    """A null that the other side has no place for."""
    nullable = [column for column in flow.from_columns if not column.not_null]
    clean = {*flow.from_side.clean, *flow.rules.clean}
    made_null = flow.from_side.blank is not None or "empty_is_null" in clean
    # several columns make one value: null only when all of them are
    if not made_null and (not nullable or len(nullable) < len(flow.from_columns)):
        return
    texts = flow.write.write(None)
    needed = [column for column, text in zip(flow.to_columns, texts, strict=True) if text is None and column.not_null]
    if not needed or (flow.field in flow.target.binding.generated and flow.at_birth_only):
        return
    names = ", ".join(column.name for column in needed)
    source = " AND ".join(f"t.{named(column.name)} IS NULL" for column in flow.from_columns)

    target = f"{flow.target.system}: {{column: {needed[0].name}"
    blank = f'`{target}, blank: ""}}` (read as null again), or ' if needed[0].category == "S" else ""

    def say(counts: Sequence[str]) -> None:
        found.note(
            About.VALUES,
            flow.where,
            f"may be null in {flow.told('source')}, but {flow.target.table.name}.{names} in {flow.target.system} is NOT NULL: a null "
            "becomes "
            f"a dead letter{counts[0]}",
            f"{blank}`{target}, default: …}}` (stays)",
        )

    yield _Question((source,), say)


# --- what the types say ---------------------------------------------------------------------------------------------------------------


def _misfits(flow: Flow, found: Checked) -> Iterator[_Question]:
    if flow.coded or flow.to_side.join is not None:
        return  # codes are looked at one by one; a text that is cut into columns is cut as it comes
    way = _way(flow)
    source = _joined_column(flow) if flow.from_side.join is not None else flow.from_columns[0]
    for target in flow.to_columns:
        found_out = [misfit for misfit in misfits(source, target, way) if misfit.test is not None]  # else only the values can tell
        if not found_out:
            continue

        def say(counts: Sequence[str], target: Column = target, found_out: Sequence[Misfit] = found_out) -> None:
            told = [
                f"{misfit.what} are {'refused, as dead letters' if misfit.refused else 'rounded'}{count}"
                for misfit, count in zip(found_out, counts, strict=True)
            ]
            what = f"{flow.told('source')} is {shown(source)}, {flow.told('target')} {shown(target)}: there values {'; '.join(told)}"
            found.note(About.VALUES, flow.where, what, "; ".join(dict.fromkeys(misfit.mend for misfit in found_out)))

        yield _Question(tuple(misfit.test or "" for misfit in found_out), say)


def _way(flow: Flow) -> Way:
    scales = [scale for scale in (flow.rules.scale, flow.from_side.scale, flow.to_side.scale) if scale is not None]
    lengths = [length for side in (flow.from_side, flow.to_side) if (length := getattr(side, "shorten", None)) is not None]
    return Way(
        source=_source_sql(flow.from_side, flow.from_columns),
        ratio=_factor(flow.from_side) / _factor(flow.to_side),
        scale=min(scales, default=None),
        added=len(flow.to_side.prefix or "") - len(flow.from_side.prefix or ""),
        length=min(lengths, default=None),
    )


def _factor(side: Side) -> Decimal:
    return exact_factor(side.unit) if side.unit is not None else Decimal(1)


def _source_sql(side: Side, columns: Iterable[Column]) -> str:
    names = [f"t.{named(column.name)}" for column in columns]
    if side.join is None:
        return names[0]
    parts = [f"nullif(btrim({name}::text), '')" for name in names]
    return f"concat_ws({literal(side.join)}, {', '.join(parts)})"


def _joined_column(flow: Flow) -> Column:
    """Several columns that make one text, as one."""
    lengths = [column.length for column in flow.from_columns]
    known = [length for length in lengths if length is not None]
    separators = len(flow.from_side.join or "") * (len(lengths) - 1)
    total = sum(known) + separators if len(known) == len(lengths) else None
    base = "text" if total is None else "character varying"
    return Column(" + ".join(column.name for column in flow.from_columns), base, base, "S", length=total)


# --- what only the values can tell ------------------------------------------------------------------------------------------------------


def _codes(flow: Flow, databases: Mapping[str, Database], found: Checked) -> None:
    """The values that occur, through the mapping, and past the target."""
    target = databases[flow.target.system]
    takers = [taker(target, flow.target.table, column) for column in flow.write.columns]
    of_a_form = any(  # a date in a text: the type alone does not say which values fit
        misfit.test is None
        for column in flow.to_columns
        for misfit in misfits(flow.from_columns[0], column, Way())
        if flow.to_side.join is None and flow.from_side.join is None
    )
    if not flow.coded and not of_a_form and not any(one.decides for one in takers):
        return
    occurring = _occurring(databases[flow.source.system], flow)
    unread: dict[str, tuple[list[str], int]] = {}
    written: defaultdict[tuple[str | None, ...], list[tuple[str, int]]] = defaultdict(list)
    for texts, count in occurring:
        shown_text = " ".join(text for text in texts if text is not None)
        try:
            value = _read(flow, texts)
            written[flow.write.write(value)].append((shown_text, count))
        except (ValueError, ArithmeticError) as error:
            reason = str(error)  # without the value: the same for all that it happens to
            codes, total = unread.get(reason, ([], 0))
            unread[reason] = ([*codes, shown_text], total + count)
    for reason, (codes, total) in unread.items():
        found.note(
            About.VALUES,
            flow.where,
            f"{flow.told('source')} holds what cannot be brought to {flow.target.system}: {_told(codes)} {reason}; "
            f"{counted(total, 'row')}, "
            "each a dead letter",
            "add what is missing to `values`, or `otherwise`" if flow.coded else "mend the values, or a python function",
        )
    for number, one in enumerate(takers):
        texts_of = {text: sources for texts, sources in written.items() if (text := texts[number]) is not None}
        for text, reason in refused(target, one, list(texts_of), form=flow.coded or of_a_form).items():
            rows = sum(count for _, count in texts_of[text])
            found.note(
                About.VALUES,
                flow.where,
                f"{flow.told('source')} holds {_told([code for code, _ in texts_of[text]])}, which {flow.target.table}.{one.column} in "
                f"{flow.target.system} refuses: {reason}; {counted(rows, 'row')}, each a dead letter",
                "`values`: its codes and theirs" if not flow.coded else "other codes in `values`",
            )


def _occurring(db: Database, flow: Flow) -> list[tuple[tuple[str | None, ...], int]]:
    """The different values of the source that count, most frequent first, as many as are codes."""
    columns = [f"t.{named(column.name)}::text" for column in flow.from_columns]
    numbers = ", ".join(str(number + 1) for number in range(len(columns)))
    scope = counting(flow.source.binding.scope, flow.source.table)
    for source in (f"{db.source(flow.source.table)} AS t WHERE {scope}", f"{db.sample(flow.source.table, scope)} AS t"):
        found = db.ask(f"SELECT {', '.join(columns)}, count(*) FROM {source} GROUP BY {numbers} ORDER BY count(*) DESC LIMIT {MOST_CODES}")
        if found is not None:
            return [(tuple(row[:-1]), row[-1]) for row in found]
    return []


def _read(flow: Flow, texts: tuple[str | None, ...]) -> Canonical:
    if flow.read.read_parts is not None:
        return flow.read.read_parts(list(texts))
    (text,) = texts
    return flow.read.null if text is None else (flow.read.read(text) if flow.read.read is not None else text)


def _told(codes: list[str]) -> str:
    """Codes by name; what is too long to be one is counted only."""
    short = [repr(code) for code in codes if len(code) <= SHOWN_LENGTH]
    if not short:
        return f"{len(codes)} values"
    return ", ".join(short[:SHOWN_CODES]) + (f" and {len(codes) - SHOWN_CODES} more" if len(codes) > SHOWN_CODES else "")


# --- what the file and the catalog say ------------------------------------------------------------------------------------------------


def _listed_codes(pipeline: Pipeline, db: Database, entity: Entity, found: Checked) -> None:
    """Codes that the file lists and the table never takes."""
    binding = entity.bindings[db.system]
    for field in binding.fields:
        rules = pipeline.config.entities[entity.name].fields[field]
        table = rules.sides[db.system].values or rules.values  # field value → codes; for the field's first system they are the same
        if field not in binding.writable or table is None:
            continue
        side = binding.sides[field]
        texts = []
        for value in table:
            if value is not None:
                texts += [text for text in side.write(NORMAL[entity.kinds[field]](as_text(value))) if text is not None]
        for column in side.columns:
            for text, reason in refused(db, taker(db, binding.table, column), texts).items():
                found.problem(
                    About.VALUES,
                    f"entities.{entity.name}.fields.{field}.values",
                    f"{binding.table}.{column} in {db.system} never takes {text!r}: {reason}",
                    "a code that it takes",
                )


def _repeated(flow: Flow, databases: Mapping[str, Database], found: Checked) -> None:
    """Values that are there several times, and that the target has once only."""
    target = flow.target.table
    unique = [column for column in flow.to_columns if (column.name,) in target.unique]
    source = flow.source.table
    if not unique or flow.coded or flow.field in flow.entity.match_on or len(flow.from_columns) > 1:
        return
    name = flow.from_columns[0].name
    if (name,) in source.unique or source.primary_key == (name,):
        return
    db = databases[flow.source.system]
    scope = counting(flow.source.binding.scope, source)
    groups = f"SELECT count(*) AS n FROM {db.source(source)} AS t WHERE {scope} AND t.{named(name)} IS NOT NULL GROUP BY t.{named(name)}"
    answer = db.ask(f"SELECT count(*), coalesce(sum(n), 0) FROM ({groups} HAVING count(*) > 1) AS repeated")
    if answer and answer[0][0]:
        values, rows = answer[0]
        found.note(
            About.KEYS,
            flow.where,
            f"{counted(values, 'value')} {'are' if values > 1 else 'is'} in {rows:,} rows of {flow.told('source')}, and "
            f"{flow.told('target')} is unique: of each only the "
            "first gets "
            "there",
            f"mend the duplicates in {flow.source.system}, or match_on: [{flow.field}] if they are the same {flow.entity.name}",
        )
