"""What each system can hold of the others' values, and how many of those that are there now it could not.

The types say what may happen (`limits`); one question per table counts it. For codes, and wherever a column takes some texts and not
others, the values that occur go through the mapping itself, and the target is asked about what comes out (`accepts`). A finding is a note:
only the values that come decide whether anything is ever refused. Fields with a place inside a document, lists and templates are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from console.asking import counted, literal, named
from console.check.accepts import refused, taker
from console.check.database import Database, counting
from console.check.findings import About, Checked
from console.check.homes import End, Flow, flows
from console.check.limits import Misfit, Way, misfits, shown
from schemas.catalog import Column, Table
from schemas.config import Side
from schemas.mapping import Entity, Pipeline
from schemas.mapping.kinds import as_text, exact_factor, normal_form

MOST_CODES = 1_000  # different values of a column that are looked at one by one
SHOWN_CODES = 5
SHOWN_LENGTH = 20  # of a code; what is longer is no code, and may be anybody's data


@dataclass(frozen=True)
class _Counts:
    """For how many rows each test is true. `of`: "1,500 rows now"; None: they were not counted."""

    numbers: tuple[int, ...] = ()
    of: str | None = None

    @property
    def rows(self) -> int | None:
        """Of the test that is true most often."""
        return None if self.of is None else max(self.numbers, default=None)

    def told(self, test: int) -> str:
        if self.of is None or not self.numbers:
            return ""
        return f" ({self.numbers[test]:,} of {self.of})" if self.numbers[test] else f" (none of {self.of})"


@dataclass(frozen=True)
class _Question:
    """Things to count in a table, and what to say with the counts."""

    tests: tuple[str, ...]
    say: Callable[[_Counts], None]


def check_values(pipeline: Pipeline, databases: Mapping[str, Database], found: Checked, *, rows: bool) -> None:
    questions: defaultdict[tuple[str, str], list[_Question]] = defaultdict(list)  # of (system, scope) …
    tables: dict[tuple[str, str], Table] = {}  # … of which table
    for flow in flows(pipeline):
        if not flow.arrives or not flow.plain:
            continue
        home = flow.source.home
        place = (home.system, f"{home.table} {counting(home.scope, home.table)}")
        tables[place] = home.table
        asked = [*_nulls(flow, found), *_misfits(flow, found)]
        if flow.source.aggregate:
            for question in asked:
                question.say(_Counts())
            continue
        questions[place] += asked
        if rows:
            _codes(flow, databases, found)
            _repeated(flow, databases, found)
    for (system, scope), asked in questions.items():
        _count(databases[system], tables[system, scope], scope.removeprefix(f"{tables[system, scope]} "), asked, rows)
    for entity in pipeline.entities.values():
        for system in entity.bindings:
            _listed_codes(pipeline, databases[system], entity, found)


def _count(db: Database, table: Table, scope: str, asked: list[_Question], rows: bool) -> None:
    """All that is to be counted in one table, in one pass over it."""
    tests = [test for question in asked for test in question.tests]
    counts = ", ".join(f"count(*) FILTER (WHERE {test})" for test in tests)
    answer = db.about_rows(f"count(*), {counts}", table, scope) if rows and tests else None
    numbers: list[int] = []
    of = None
    if answer is not None:
        (total, *numbers), whole = answer
        of = f"{counted(total, 'row')} {'now' if whole else 'that were looked at'}"
    for question in asked:
        question.say(_Counts(tuple(numbers[: len(question.tests)]), of))
        del numbers[: len(question.tests)]


# --- nulls ----------------------------------------------------------------------------------------------------------------------------


def _nulls(flow: Flow, found: Checked) -> Iterator[_Question]:
    """A null that the other side has no place for."""
    source, target = flow.source, flow.target
    nullable = [column for column in source.columns if not column.not_null]
    made_null = source.side.blank is not None or "empty_is_null" in {*source.side.clean, *flow.rules.clean}
    # several columns make one value: null only when all of them are
    if not made_null and not source.missing and (not nullable or len(nullable) < len(source.columns)):
        return
    texts = target.bound.write(None)
    needed = [column for column, text in zip(target.columns, texts, strict=True) if text is None and column.not_null]
    part = target.home.part
    if not needed or (part is not None and part.empty == "delete" and len(set(target.home.written.values())) == 1):
        return  # a part's row without its only value is taken away
    names = ", ".join(column.name for column in needed)
    side = f"{target.system}: {{column: {target.side.columns[0]}"
    blank = f'`{side}, blank: ""}}` (read as null again), or ' if needed[0].category == "S" else ""

    def say(counts: _Counts) -> None:
        found.note(
            About.VALUES,
            flow.where,
            f"may be null in {source.told}, but {target.home.table.name}.{names} in {target.system} is NOT NULL: a null becomes a dead "
            f"letter{counts.told(0)}",
            f"{blank}`{side}, default: …}}` (stays)",
            counts.rows,
        )

    count = " AND ".join(f"t.{named(column.name)} IS NULL" for column in source.columns)
    yield _Question((count,) if nullable and not source.aggregate else (), say)


# --- what the types say ---------------------------------------------------------------------------------------------------------------


def _misfits(flow: Flow, found: Checked) -> Iterator[_Question]:
    source, target = flow.source, flow.target
    if flow.coded or target.side.join is not None:
        return  # codes are looked at one by one; a text that is cut into columns is cut as it comes
    column = _joined_column(source) if source.side.join is not None else source.columns[0]
    for into in target.columns:
        found_out = [
            misfit for misfit in misfits(column, into, _way(flow, into)) if misfit.test is not None
        ]  # else only the values can tell
        if not found_out:
            continue

        def say(counts: _Counts, into: Column = into, found_out: Sequence[Misfit] = found_out) -> None:
            told = [
                f"{misfit.what} are {'refused, as dead letters' if misfit.refused else 'rounded'}{counts.told(number)}"
                for number, misfit in enumerate(found_out)
                if not counts.rows or counts.numbers[number]  # what is true of some rows says enough
            ]
            what = f"{source.told} is {shown(column)}, {target.told} {shown(into)}: there values {'; '.join(told)}"
            found.note(About.VALUES, flow.where, what, "; ".join(dict.fromkeys(misfit.mend for misfit in found_out)), counts.rows)

        yield _Question(tuple(misfit.test or "" for misfit in found_out), say)


def _way(flow: Flow, into: Column) -> Way:
    source, target = flow.source.side, flow.target.side
    scales = [scale for scale in (flow.rules.scale, source.scale, target.scale) if scale is not None]
    shorten = into.length if target.shorten is True else target.shorten
    return Way(
        source=_source_sql(flow.source),
        ratio=_factor(source) / _factor(target),
        scale=min(scales, default=None),
        added=len(target.prefix or "") - len(source.prefix or ""),
        length=shorten or None,
    )


def _factor(side: Side) -> Decimal:
    return exact_factor(side.unit) if side.unit is not None else Decimal(1)


def _source_sql(source: End) -> str:
    names = [f"t.{named(column.name)}" for column in source.columns]
    if source.side.join is None:
        return names[0]
    parts = [f"nullif(btrim({name}::text), '')" for name in names]
    return f"concat_ws({literal(source.side.join)}, {', '.join(parts)})"


def _joined_column(source: End) -> Column:
    """Several columns that make one text, as one."""
    lengths = [column.length for column in source.columns]
    known = [length for length in lengths if length is not None]
    separators = len(source.side.join or "") * (len(lengths) - 1)
    total = sum(known) + separators if len(known) == len(lengths) else None
    base = "text" if total is None else "character varying"
    return Column(" + ".join(column.name for column in source.columns), base, base, "S", length=total)


# --- what only the values can tell ------------------------------------------------------------------------------------------------------


def _codes(flow: Flow, databases: Mapping[str, Database], found: Checked) -> None:
    """The values that occur, through the mapping, and past the target."""
    source, target = flow.source, flow.target
    db = databases[target.system]
    takers = [taker(db, target.home.table, column.name) for column in target.columns]
    of_a_form = any(  # a date in a text: the type alone does not say which values fit
        misfit.test is None
        for column in target.columns
        for misfit in misfits(source.columns[0], column, Way())
        if target.side.join is None and source.side.join is None
    )
    if not flow.coded and not of_a_form and not any(one.decides for one in takers):
        return
    unread: dict[str, tuple[list[str], int]] = {}
    written: defaultdict[tuple[str | None, ...], list[tuple[str, int]]] = defaultdict(list)
    for texts, count in _occurring(databases[source.system], source):
        code = " ".join(text for text in texts if text is not None)
        try:
            written[target.bound.write(source.bound.value_of(texts))].append((code, count))
        except (ValueError, ArithmeticError) as error:
            if not (flow.coded or of_a_form):
                continue  # counted by what the types say
            reason = str(error)  # without the value: the same for all that it happens to
            codes, total = unread.get(reason, ([], 0))
            unread[reason] = ([*codes, code], total + count)
    for reason, (codes, total) in unread.items():
        found.note(
            About.VALUES,
            flow.where,
            f"{source.told} holds what cannot be brought to {target.system}: {_told(codes)} {reason}; "
            f"{counted(total, 'row')}, each a dead letter",
            "add what is missing to `values`, or `otherwise`" if flow.coded else "mend the values, or a python function",
        )
    for number, one in enumerate(takers):
        texts_of = {text: sources for texts, sources in written.items() if (text := texts[number]) is not None}
        for text, reason in refused(db, one, list(texts_of), form=flow.coded or of_a_form).items():
            rows = sum(count for _, count in texts_of[text])
            found.note(
                About.VALUES,
                flow.where,
                f"{source.told} holds {_told([code for code, _ in texts_of[text]])}, which {target.home.table}.{one.column} in "
                f"{target.system} "
                f"refuses: {reason}; {counted(rows, 'row')}, each a dead letter",
                "`values`: its codes and theirs" if not flow.coded else "other codes in `values`",
            )


def _occurring(db: Database, source: End) -> list[tuple[tuple[str | None, ...], int]]:
    """The different values of the source that count, most frequent first, as many as are codes."""
    columns = [f"t.{named(column.name)}::text" for column in source.columns]
    numbers = ", ".join(str(number + 1) for number in range(len(columns)))
    table = source.home.table
    scope = counting(source.home.scope, table)
    for rows in (f"{db.source(table)} AS t WHERE {scope}", f"{db.sample(table, scope)} AS t"):
        found = db.ask(f"SELECT {', '.join(columns)}, count(*) FROM {rows} GROUP BY {numbers} ORDER BY count(*) DESC LIMIT {MOST_CODES}")
        if found is not None:
            return [(tuple(row[:-1]), row[-1]) for row in found]
    return []


def _told(codes: list[str]) -> str:
    """Codes by name; what is too long to be one is counted only."""
    short = [repr(code) for code in codes if len(code) <= SHOWN_LENGTH]
    if not short:
        return counted(len(codes), "value")
    return ", ".join(short[:SHOWN_CODES]) + (f" and {len(codes) - SHOWN_CODES} more" if len(codes) > SHOWN_CODES else "")


def _repeated(flow: Flow, databases: Mapping[str, Database], found: Checked) -> None:
    """Values that are there several times, and that the target has once only."""
    source, target = flow.source.home.table, flow.target.home.table
    unique = [column for column in flow.target.columns if (column.name,) in target.unique]
    if not unique or flow.coded or flow.field in flow.entity.match_on or len(flow.source.columns) > 1:
        return
    name = flow.source.columns[0].name
    if (name,) in source.unique or source.primary_key == (name,):
        return
    db = databases[flow.source.system]
    scope = counting(flow.source.home.scope, source)
    groups = f"SELECT count(*) AS n FROM {db.source(source)} AS t WHERE {scope} AND t.{named(name)} IS NOT NULL GROUP BY t.{named(name)}"
    answer = db.ask(f"SELECT count(*), coalesce(sum(n), 0) FROM ({groups} HAVING count(*) > 1) AS repeated")
    if answer and answer[0][0]:
        values, rows = answer[0]
        found.note(
            About.KEYS,
            flow.where,
            f"{counted(values, 'value')} {'are' if values > 1 else 'is'} in {rows:,} rows of {flow.source.told}, and {flow.target.told} is "
            "unique: of each only the first gets there",
            f"mend the duplicates in {flow.source.system}, or match_on: [{flow.field}] if they are the same {flow.entity.name}",
        )


# --- what the file and the catalog say ------------------------------------------------------------------------------------------------


def _listed_codes(pipeline: Pipeline, db: Database, entity: Entity, found: Checked) -> None:
    """Codes that the file lists and the table never takes."""
    binding = entity.bindings[db.system]
    tables = {part.name: part.table for part in binding.parts}
    for field in binding.fields:
        rules = pipeline.config.entities[entity.name].fields[field]
        side, told = binding.sides[field], rules.sides[db.system]
        values = told.values or rules.values  # field value → codes; for the field's first system they are the same
        if field not in binding.writable or values is None or side.columns != tuple(told.columns):
            continue
        texts: list[str] = []
        for value in values:
            if value is not None:
                texts += [text for text in side.write(normal_form(entity.kinds[field])(as_text(value))) if text is not None]
        for flat in side.columns:
            part, column = binding.split(flat)
            table = tables.get(part, binding.table)
            for text, reason in refused(db, taker(db, table, column), texts).items():
                found.problem(
                    About.VALUES,
                    f"entities.{entity.name}.fields.{field}.values",
                    f"{table}.{column} in {db.system} never takes {text!r}: {reason}",
                    "a code that it takes",
                )
