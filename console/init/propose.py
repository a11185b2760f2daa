"""Facts of two systems → a first configuration. Pure: every judgement of `concord init` is here and in the modules that it asks.

tables     which tables are one thing           codes      which code is which
fields     which columns are one field          inserts    what else an insert needs
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from console.init import names
from console.init.assign import assigned
from console.init.evidence import columns_alike
from console.init.facts import Meeting, SystemFacts, TableFacts
from console.init.fields import cleaning, fields_of, match_field
from console.init.inserts import needed, sequence_of, thing_code
from console.init.proposal import BindingProposal, EntityProposal, FieldProposal, PartProposal, Plain, Proposal
from console.init.tables import SAME_FIELD, TablePair, candidates, context, of_role, role, same_things
from schemas.config.model import ENTITY_KEYS

PART_FIELD = 0.6  # from here on a column of a side table is thought of as a field of the thing
_GONE = {"archived": True, "deleted": True, "disabled": True, "inactive": True, "active": False, "enabled": False}


def propose(one: SystemFacts, other: SystemFacts, meetings: Sequence[Meeting]) -> Proposal:
    systems = one.name, other.name
    pairs = candidates(one, other)
    for pair in pairs:
        pair.meetings = [meeting for meeting in meetings if meeting.question.tables == (str(pair.one), str(pair.other))]
    together = _parents_first(same_things(pairs))
    entities = _named(together, systems)
    free = {one.name: one.sequences, other.name: other.sequences}
    found = [_entity(pair, systems, entities, free, (one, other), together) for pair in together]
    return Proposal(systems, found, {facts.name: _alone(facts, place, together, pairs) for place, facts in enumerate((one, other))})


def _parents_first(pairs: list[TablePair]) -> list[TablePair]:
    by_table = {str(pair.one): pair for pair in pairs}
    graph = {name: {table for table, _ in pair.one.references.values() if table in by_table} - {name} for name, pair in by_table.items()}
    while True:
        try:
            return [by_table[name] for name in TopologicalSorter({name: sorted(graph[name]) for name in sorted(graph)}).static_order()]
        except CycleError as error:
            cycle = error.args[1]
            graph[cycle[1]].discard(cycle[0])


def _named(pairs: Sequence[TablePair], systems: tuple[str, str]) -> dict[tuple[str, str], str]:
    """(system, table) → the entity's name: what both tables' names have in common, in plain words."""
    found: dict[tuple[str, str], str] = {}
    taken: set[str] = set()
    for pair in pairs:
        one, other = pair.one.table.name, pair.other.table.name
        wanted = re.sub(r"\W", "_", names.thing(one, other))
        for name in (wanted, re.sub(r"\W", "_", one), *(f"{wanted}_{number}" for number in range(2, 99))):
            if name not in taken and name not in ENTITY_KEYS and name not in systems and re.fullmatch(r"[A-Za-z_]\w*", name):
                taken.add(name)
                found[systems[0], str(pair.one)] = found[systems[1], str(pair.other)] = name
                break
    return found


def _entity(
    pair: TablePair,
    systems: tuple[str, str],
    entities: Mapping[tuple[str, str], str],
    free: Mapping[str, Sequence[str]],
    both: tuple[SystemFacts, SystemFacts],
    together: Sequence[TablePair],
) -> EntityProposal:
    name = entities[systems[0], str(pair.one)]
    fields = fields_of(pair, systems, entities, free)
    entity = EntityProposal(name, pair.score, "; ".join(pair.why), {}, fields)
    match = match_field(pair, systems, fields)
    if match is not None:
        entity.match_on, entity.match_why = [match[0].name], match[1]
        if clean := cleaning(pair, systems, match[0]):
            match[0].rules["clean"] = clean
    entity.delete, entity.delete_why = _delete(pair, systems, fields)
    paired = {str(one.one) for one in together}, {str(one.other) for one in together}
    entity.bindings = {
        system: BindingProposal(str(facts), _table_text(facts)) for system, facts in zip(systems, (pair.one, pair.other), strict=True)
    }
    for place, (system, facts) in enumerate(zip(systems, (pair.one, pair.other), strict=True)):
        binding = entity.bindings[system]
        give_needed(entity, place, (pair.one, pair.other), free[system])
        binding.where = _where(facts, entity, system)
        binding.parts = _parts(entity, place, systems, pair, both[place], paired[place])
        binding.not_mapped = _not_mapped(entity, place, systems, pair)
    return entity


def give_needed(entity: EntityProposal, place: int, tables: tuple[TableFacts, TableFacts], free: Sequence[str]) -> None:
    """What an insert needs in one of the two systems, given the fields as they are now."""
    system, other = list(entity.bindings)[place], list(entity.bindings)[1 - place]
    facts, theirs = tables[place], tables[1 - place]
    mapped = {column for one in entity.actives for column in one.columns(system)}
    numbered = [
        column
        for one in entity.actives
        if one.rules.get("owner") == system
        for column in one.columns(system)
        if sequence_of(facts, column, free) is not None
    ]
    nullable = {}
    for one in entity.actives:
        (column, *more), (its, *_) = one.columns(system), one.columns(other)
        if not more and "ref" not in one.rules and "values" not in one.rules and not theirs.column(its).not_null:
            nullable[column] = (
                f"where {its} is null in {other}: it is in {len(theirs.sample) - theirs.filled(its)} of {len(theirs.sample)} rows"
            )
    binding = entity.bindings[system]
    binding.insert, binding.always = needed(facts, mapped, free, entity.name, numbered, nullable)


def _table_text(facts: TableFacts) -> str:
    def part(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if "." in text or '"' in text or text != text.strip() else text

    return f"{part(facts.table.schema)}.{part(facts.table.name)}"


def _delete(pair: TablePair, systems: tuple[str, str], fields: Sequence[FieldProposal]) -> tuple[Plain, str]:
    """Nothing is deleted on the other side before somebody has said so."""
    for one in fields:
        columns = [one.columns(system) for system in systems]
        if not one.active or any(len(names_) != 1 for names_ in columns) or "values" in one.rules:
            continue
        a, b = columns[0][0], columns[1][0]
        if pair.one.kind(a) == pair.other.kind(b) == "boolean":
            for word, gone in _GONE.items():
                if all(names.likeness(column, word) >= 0.9 for column in (a, b)):
                    return {
                        "soft": {one.name: gone}
                    }, f"a row that is deleted on one side is made {one.name}: {str(gone).lower()} on the other"
    return "ignore", "propagate: a row that is deleted on one side is deleted on the other"


# --- thoughts -------------------------------------------------------------------------------------------------------------------------


def _where(facts: TableFacts, entity: EntityProposal, system: str) -> list[tuple[dict[str, Plain], str]]:
    """A column that says which rows are such things."""
    found: list[tuple[dict[str, Plain], str]] = []
    mapped = {column for one in entity.actives for column in one.columns(system)}
    for column in of_role(facts, "plain"):
        if column in mapped:
            continue
        code = thing_code(facts, column, entity.name)
        if code is not None:
            more = [other for other in facts.codes(column) if names.words(other) in (("both",), ("all",))]
            counts = ", ".join(f"{one} ({facts.counts[column][one]})" for one in facts.codes(column)[:6])
            found.append(({column: [code, *more] if more else code}, f"{column} holds {counts}"))
        elif facts.kind(column) == "boolean" and names.likeness(column, entity.name) >= 0.85:
            found.append(({column: True}, f"{column} says whether it is {names.a(entity.name)}"))
    return found


def _parts(
    entity: EntityProposal, place: int, systems: tuple[str, str], pair: TablePair, system: SystemFacts, paired: set[str]
) -> list[PartProposal]:
    """Tables beside that hold what the other side has in the thing's own row."""
    here, there = (pair.one, pair.other) if place == 0 else (pair.other, pair.one)
    mapped = {column for one in entity.actives for column in one.columns(systems[1 - place])}
    open_columns = [column for column in of_role(there, "plain") if column not in mapped]
    found = []
    for name, facts in system.tables.items():
        if name in paired or not open_columns:
            continue
        links = [column for column, (table, _) in facts.references.items() if table == str(here)]
        parents = [column for column, (table, _) in here.references.items() if table == name]
        if not links and not parents:
            continue
        known = context(here, there)

        def score(a: str, b: str, facts: TableFacts = facts, known: tuple[str, ...] = known) -> float:
            return columns_alike(there, a, facts, b, known).score

        together = assigned(open_columns, of_role(facts, "plain"), score, PART_FIELD)
        if not together:
            continue
        part_name = _part_name(facts, here)
        part: dict[str, Plain] = {"table": _table_text(facts)}
        if links:
            part |= {"child": links[0]}
            if order := _order(facts):
                part["first_by"] = order
        else:
            part |= {"parent": parents[0]}
        fields = [
            FieldProposal(
                names.shared_name(a, b),
                {system_name: (f"{part_name}.{b}" if system_name == system.name else a) for system_name in systems},
                worth,
                columns_alike(there, a, facts, b, known).why,
                active=False,
            )
            for a, b, worth in together
        ]
        many = (
            "one row for each"
            if links and links[0] in facts.unique
            else "several rows for each, the first counts"
            if links
            else "shared by many"
        )
        found.append(
            PartProposal(part_name, part, fields, f"{facts.table.name} {'refers to' if links else 'is referred to by'} it: {many}")
        )
    return found


def _part_name(facts: TableFacts, here: TableFacts) -> str:
    own = names.plain_words(here.table.name)
    rest = [word for word in names.plain_words(facts.table.name) if word not in own]
    return "_".join(rest) or re.sub(r"\W", "_", facts.table.name)


def _order(facts: TableFacts) -> list[str]:
    first = [column.name for column in facts.table.columns if set(names.words(column.name)) & {"sequenc", "priority", "rank", "position"}]
    default = [f"{column.name} desc" for column in facts.table.columns if facts.kind(column.name) == "boolean" and "default" in column.name]
    return [*(default or first)[:1], *facts.table.primary_key] if default or first else []


# --- what was left out ----------------------------------------------------------------------------------------------------------------


def _not_mapped(entity: EntityProposal, place: int, systems: tuple[str, str], pair: TablePair) -> list[tuple[str, str]]:
    system, facts = systems[place], (pair.one, pair.other)[place]
    mapped = {column for one in entity.actives for column in one.columns(system)}
    thought = {column: one for one in entity.fields if not one.active for column in one.columns(system)}
    given = {one.column for one in (*entity.bindings[system].insert, *entity.bindings[system].always)}
    found = []
    for column in facts.table.columns:
        name = column.name
        if name in mapped or name in given:
            continue
        match role(facts, name):
            case "key":
                why = "the key: each system has its own"
            case "unusable":
                why = "generated" if column.generated else f"a {column.type}, which cannot be kept in agreement"
            case "created" | "updated" | "by":
                why = "the application's own book-keeping"
            case "reference":
                why = f"refers to {facts.references[name][0]}, which is no entity here"
            case _:
                why = f"see {thought[name].name}" if name in thought else _nearest(pair, place, name, systems)
        found.append((name, why))
    return found


def _nearest(pair: TablePair, place: int, name: str, systems: tuple[str, str]) -> str:
    scores = [(evidence.score, b if place == 0 else a) for (a, b), evidence in pair.evidence.items() if (a if place == 0 else b) == name]
    best = max(scores, default=None)
    if best is None or best[0] < 0.25:
        return f"nothing like it in {systems[1 - place]}"
    taken = ", which is taken" if best[0] >= SAME_FIELD else ""
    return f"nearest is {best[1]} ({best[0]:.2f}){taken}"


def _alone(facts: SystemFacts, place: int, together: Sequence[TablePair], pairs: Sequence[TablePair]) -> list[tuple[str, str]]:
    paired = {str(pair.one if place == 0 else pair.other) for pair in together}
    found = []
    for name in facts.tables:
        if name in paired:
            continue
        near = [
            (pair.score, str(pair.other if place == 0 else pair.one))
            for pair in pairs
            if str(pair.one if place == 0 else pair.other) == name
        ]
        best = max(near, default=None)
        found.append((name, f"nearest is {best[1]} ({best[0]:.2f})" if best is not None and best[0] >= 0.2 else "nothing like it"))
    return found + sorted(facts.left_out.items())
