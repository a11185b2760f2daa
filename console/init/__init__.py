"""`concord init`: two databases → a first `concord.yaml`, with comments. Reads, never writes to them.

survey    catalogs, some rows of each table           facts       what is known
propose   which tables, which columns, which codes    proposal    what is proposed, and why
settle    what does not compile is only thought of    write       the text of the file
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from connectors.postgres import connect, translated
from console.asking import Asking
from console.init.facts import Meeting, SystemFacts
from console.init.proposal import Proposal, variable
from console.init.propose import give_needed, propose
from console.init.survey import SAMPLE_ROWS, meet, survey
from console.init.tables import PERHAPS, candidates, questions
from console.init.write import written
from schemas.config import loads
from schemas.config.problems import RESERVED_SYSTEMS, SYSTEM_NAME
from schemas.errors import ConfigError, Problem, Retriable, UnfitDatabase
from schemas.mapping import compile_config

MOST_QUESTIONS = 200  # about rows that meet; the likeliest tables first

__all__ = ["addresses", "init", "proposed", "settled", "show", "wanted_schemas", "write_file"]


def addresses(systems: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """`crm=DSN`, or `crm` alone with its DSN in the environment → system → DSN. Raises ConfigError."""
    problems: list[Problem] = []
    found: dict[str, str] = {}
    for given in systems:
        name, _, dsn = given.partition("=")
        dsn = dsn or environment.get(variable(name), "")
        if not SYSTEM_NAME.match(name) or name in RESERVED_SYSTEMS:
            problems.append(
                Problem(name, f"{name!r} cannot be a system's name", "lower case letters, digits and _, a letter first: crm=DSN")
            )
        elif name in found:
            problems.append(Problem(name, "is named twice", "two systems, each with its own name"))
        elif not dsn:
            problems.append(Problem(name, f"no address: neither {name}=DSN nor {variable(name)} is given"))
        found[name] = dsn
    if len(found) != 2 and not problems:
        problems.append(Problem("SYSTEM", f"{len(found)} systems, it takes two", "concord init crm=DSN erp=DSN"))
    if problems:
        raise ConfigError(problems)
    return found


def wanted_schemas(given: Sequence[str], dsns: Mapping[str, str]) -> dict[str, list[str]]:
    """`erp=public` → system → its schemas. Raises ConfigError."""
    found: dict[str, list[str]] = {}
    for one in given:
        system, equals, schema = one.partition("=")
        if system not in dsns or not equals or not schema:
            raise ConfigError([Problem("--schema", f"{one!r}: expected one of {', '.join(f'{name}=SCHEMA' for name in dsns)}")])
        found.setdefault(system, []).append(schema)
    return found


def init(dsns: Mapping[str, str], schemas: Mapping[str, Sequence[str]], progress: Callable[[str], None]) -> tuple[Proposal, str]:
    """Two systems' addresses → what is proposed, and the file's text. Raises Retriable or UnfitDatabase when one cannot be asked."""
    with ExitStack() as stack:
        databases = []
        for system, dsn in dsns.items():
            try:
                connection = stack.enter_context(connect(dsn, None, "concord init"))
            except (Retriable, UnfitDatabase) as error:
                raise type(error)(f"system {system}: {error}") from error
            stack.enter_context(translated(f"system {system}"))
            databases.append(Asking(system, connection))
        facts = []
        for db in databases:
            progress(f"reading {db.system}")
            facts.append(survey(db, schemas.get(db.system)))
        progress("looking for rows that are on both sides")
        proposal = proposed(facts[0], facts[1], _meetings(databases[0], databases[1], facts[0], facts[1]))
    return proposal, written(proposal, SAMPLE_ROWS)


def _meetings(first: Asking, second: Asking, one: SystemFacts, other: SystemFacts) -> list[Meeting]:
    likely = sorted(candidates(one, other), key=lambda pair: -(0.45 * pair.by_name + 0.55 * pair.by_columns))
    asked = [question for pair in likely if 0.45 * pair.by_name + 0.55 * pair.by_columns >= PERHAPS for question in questions(pair)]
    found = []
    for question in asked[:MOST_QUESTIONS]:
        mine, theirs = one.tables[question.tables[0]], other.tables[question.tables[1]]
        if mine.sample and theirs.sample:
            meeting = meet(first, second, mine, theirs, question)
            if meeting is not None:
                found.append(meeting)
    return found


def proposed(one: SystemFacts, other: SystemFacts, meetings: Sequence[Meeting]) -> Proposal:
    """What is proposed, and compiles. Pure."""
    return settled(propose(one, other, meetings), {facts.name: facts for facts in (one, other)})


def settled(proposal: Proposal, facts: Mapping[str, SystemFacts]) -> Proposal:
    """What does not compile is only thought of, with the reason: the file that is written can be started from."""
    for _ in range(50):
        problems = _problems(proposal, facts)
        if not problems:
            break
        for problem in problems:
            _take_back(proposal, problem)
        for entity in proposal.entities:
            one, other = (facts[system].tables[binding.source] for system, binding in entity.bindings.items())
            for place, system in enumerate(proposal.systems):
                give_needed(entity, place, (one, other), facts[system].sequences)
    return proposal


def _problems(proposal: Proposal, facts: Mapping[str, SystemFacts]) -> tuple[Problem, ...]:
    if not any(entity.active for entity in proposal.entities):
        return ()
    environment = {variable(system): f"host={system}" for system in proposal.systems}
    catalogs = {system: {name: table.table for name, table in told.tables.items()} for system, told in facts.items()}
    try:
        compile_config(loads(written(proposal, SAMPLE_ROWS), environment), catalogs)
    except ConfigError as error:
        return error.problems
    return ()


def _take_back(proposal: Proposal, problem: Problem) -> None:
    match = re.match(r"entities\.(\w+)(?:\.(\w+)(?:\.(\w+))?)?", problem.where)
    entity = next((one for one in proposal.entities if match is not None and one.name == match[1]), None)
    if match is None or entity is None:
        raise AssertionError(f"the file that was made is not one: {problem}")
    told = f"{problem.what}{f' ({problem.mend})' if problem.mend else ''}"
    field = entity.field(match[3]) if match[2] == "fields" and match[3] else None
    if field is not None and field.active:
        field.active, field.remark = False, told
    elif match[2] == "match_on" and entity.match_on:
        entity.match_on = []
    elif match[2] == "delete":
        entity.delete, entity.delete_why = "ignore", ""
    else:
        entity.active, entity.remark = False, told
    if field is not None and field.name in entity.match_on:
        entity.match_on = []
    if field is not None and isinstance(entity.delete, dict) and field.name in entity.delete.get("soft", {}):
        entity.delete, entity.delete_why = "ignore", ""


def show(proposal: Proposal, file: Path, console: Console) -> None:
    """What was found, in a few lines."""
    entities = [entity for entity in proposal.entities if entity.active]
    if not entities:
        console.print(f"no table of {proposal.systems[0]} goes with one of {proposal.systems[1]}: nothing was written", soft_wrap=True)
        return
    grid = Grid(box=None, padding=(0, 2, 0, 0))
    for heading in ("entity", "sure", *proposal.systems, "fields", "thought of"):
        grid.add_column(heading, justify="right" if heading in ("sure", "fields", "thought of") else "left")
    for entity in entities:
        active = sum(1 for _ in entity.actives)
        tables = [escape(binding.table) for binding in entity.bindings.values()]
        grid.add_row(escape(entity.name), f"{entity.score:.2f}", *tables, str(active), str(len(entity.fields) - active))
    console.print(grid)
    alone = ", ".join(f"{len(tables)} tables of {system}" for system, tables in proposal.alone.items() if tables)
    console.print(f"wrote [bold]{escape(str(file))}[/]" + (f"; {alone} have no counterpart" if alone else ""), soft_wrap=True)
    console.print("read it, then: concord check", soft_wrap=True)


def write_file(file: Path, text: str, *, force: bool) -> None:
    """Raises FileExistsError rather than write over somebody's work."""
    with file.open("w" if force else "x", encoding="utf-8") as opened:
        opened.write(text)
