"""The file in which a person decides: CSV, a line for each pair, duplicate and candidate, opened in any spreadsheet.

    decision,kind,score,group,proposed,entity,crm,erp,label,reason,overwrites,name: crm,name: erp,…
    accept,exact,,,,customer,crm:4711,erp:12,Acme GmbH,same tax_id,crm.name ← erp,Acme,Acme GmbH
    ,candidate,93,c17,yes,customer,crm:4712,erp:19,Bolt AG,"name 93, city equal",…

Only `decision`, `entity` and the columns with the systems' names are read again; the others are there to decide by, and may be deleted.
Rows are named `system:key`, which no spreadsheet takes for a number or a date. Values that differ stand side by side; a value that a
spreadsheet would run as a formula has a ' before it.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from console.match.foretold import Effect
from console.match.report import Decision, Line
from schemas.change import Canonical, parse_row_name
from schemas.errors import ConcordError, Problem, SchemaError
from schemas.mapping import Pipeline

HEAD = ("decision", "kind", "score", "group", "proposed", "entity")
TAIL = ("label", "reason", "overwrites")
LONGEST = 1_000  # characters of a value: it is there to be looked at
DELIMITERS = (",", ";", "\t")  # the last two: what spreadsheets make of it in some countries


class Unacceptable(ConcordError):
    """A file that cannot be taken as it is, with everything that is wrong in it."""

    def __init__(self, file: Path, problems: Sequence[Problem]) -> None:
        self.file, self.problems = file, tuple(problems)
        super().__init__(f"{file}: {len(self.problems)} problem{'s' * (len(self.problems) != 1)}: {self.problems[0]}")


Names = tuple[tuple[str, str], ...]  # (system, key) of each row, in the order of the systems


@dataclass(frozen=True, slots=True)
class Decided:
    """A line as it was read."""

    number: int  # of the line in the file, from 1
    entity: str
    names: Names
    decision: Decision


# --- writing ----------------------------------------------------------------------------------------------------------------------


@contextmanager
def writing(file: Path, pipeline: Pipeline, entities: Sequence[str]) -> Iterator[Callable[[Line], None]]:
    """Gives a function that writes a line. Whole or not at all: an error or Ctrl-C leaves the file as it was."""
    fields = list(dict.fromkeys(name for entity in entities for name in pipeline.entities[entity].kinds))
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8-sig", newline="") as out:  # with a mark: Excel takes it for UTF-8
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow([*HEAD, *pipeline.systems, *TAIL, *(f"{name}: {system}" for name in fields for system in pipeline.systems)])

            def write(line: Line) -> None:
                writer.writerow(_cells(line, pipeline.systems, fields))

            yield write
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def _cells(line: Line, systems: Sequence[str], fields: Sequence[str]) -> list[str]:
    rows = {row.system: row.name for row in line.rows}
    score = "" if line.score is None else str(line.score)
    head = [line.decision.value, line.kind.value, score, line.group, "yes" if line.proposed else "", line.entity]
    written = "; ".join(
        f"{one.into}.{one.field} ← {one.by}{'' if one.effect is Effect.REPLACED else f' ({one.effect})'}" for one in line.overwrites
    )
    values = [_cell(line.differing[name].get(system)) if name in line.differing else "" for name in fields for system in systems]
    return [*head, *(rows.get(system, "") for system in systems), _cell(line.label), line.reason, written, *values]


def _cell(value: Canonical) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else ("true" if value else "false")
    text = " ⏎ ".join(text[:LONGEST].splitlines()) if not text.isprintable() else text[:LONGEST]
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t") else text


# --- reading ----------------------------------------------------------------------------------------------------------------------


def read(file: Path, pipeline: Pipeline) -> list[Decided]:
    """Every line. Raises Unacceptable with every problem, each with the number of its line."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise Unacceptable(file, [Problem(str(file), f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise Unacceptable(file, [Problem(f"{file}:{line}", "is not UTF-8", "save it as CSV UTF-8")]) from error
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=first.count))
    problems: list[Problem] = []
    found: list[Decided] = []
    try:
        heading = [name.strip() for name in next(reader, [])]
        missing = [name for name in ("decision", "entity", *pipeline.systems) if name not in heading]
        if missing:
            what = f"no column {', '.join(missing)}"
            raise Unacceptable(file, [Problem(f"{file}:1", what, "is this what `concord match -o` wrote?")])
        number = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                row = dict(zip(heading, (cell.strip() for cell in cells), strict=False))
                decided = _decided(
                    number, row, pipeline, lambda what, mend="", at=number: problems.append(Problem(f"{file}:{at}", what, mend))
                )
                if decided is not None:
                    found.append(decided)
            number = reader.line_num + 1
    except csv.Error as error:
        problems.append(Problem(f"{file}:{reader.line_num}", f"is no CSV: {error}"))
    if problems:
        raise Unacceptable(file, problems)
    return found


def _decided(number: int, row: Mapping[str, str], pipeline: Pipeline, wrong: Callable[..., None]) -> Decided | None:
    name, said = row.get("entity", ""), row.get("decision", "").lower()
    entity = pipeline.entities.get(name)
    if entity is None:
        wrong(f"no entity {name!r}", f"there are {', '.join(pipeline.entities)}")
        return None
    if said not in set(Decision):
        wrong(f"decision {row['decision']!r}", "accept, reject or nothing")
        return None
    names = []
    for system in pipeline.systems:
        if not (text := row.get(system, "")):
            continue
        try:
            of, key = parse_row_name(text)
        except SchemaError as error:
            wrong(str(error))
            return None
        if of != system or system not in entity.bindings:
            wrong(f"{text!r} in column {system}", f"expected a {name} of {system}, like {system}:4711")
            return None
        names.append((system, key))
    if not names:
        wrong("names no row")
        return None
    if said == Decision.ACCEPT and len(names) < 2:
        wrong(
            f"accepts {names[0][0]}:{names[0][1]} alone, expected a row of each of two systems", "a duplicate in one system is mended there"
        )
        return None
    return Decided(number, name, tuple(names), Decision(said))


def decisions(file: Path, pipeline: Pipeline) -> dict[tuple[str, Names], Decision]:
    """What a person has decided in the file so far; nothing when there is no file yet. Raises Unacceptable."""
    if not file.exists():
        return {}
    return {(line.entity, line.names): line.decision for line in read(file, pipeline) if line.decision is not Decision.OPEN}
