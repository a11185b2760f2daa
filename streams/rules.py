"""An entity's configuration as the fold wants it: merge folds by it, `concord match` foretells by it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from schemas.change import Canonical
from schemas.mapping import Binding, Entity, Pipeline
from schemas.mapping.parts import ROOT
from streams.fold import Rules

SameThing = Callable[[str, str, str], bool]  # (entity, row name, row name): do both name the same thing?


def rules_of(pipeline: Pipeline, entity: Entity, same_thing: SameThing) -> Rules:
    """The entity's configuration as the fold wants it."""
    bindings, refs = entity.bindings, entity.refs

    def same(system: str, name: str, golden: Canonical, held: Canonical) -> bool:
        if name in refs:
            known = isinstance(golden, str) and isinstance(held, str) and same_thing(refs[name], golden, held)
            return known or bindings[system].same(name, golden, held)  # what it writes for none
        return bindings[system].same(name, golden, held)

    return Rules(
        entity=entity.name,
        systems=entity.systems,
        ranks=pipeline.rank,
        owners=entity.owner,
        exists_owner=entity.exists_owner,
        written={system: tuple(name for name in binding.fields if name in binding.writable) for system, binding in bindings.items()},
        generated={system: binding.generated for system, binding in bindings.items() if binding.generated},
        delete=entity.delete.policy,
        soft=entity.delete.soft,
        parts={system: {name: "+".join(parts) for name, parts in read.items()} for system, read in _read(entity).items() if read},
        shared={system: fields for system, binding in bindings.items() if (fields := _shared(pipeline, binding))},
        never_inserted=frozenset(system for system in entity.systems if not entity.born_in - {system}),
        revealed={system: fields for system, binding in bindings.items() if (fields := _revealed(binding))},
        same=same,
    )


def _read(entity: Entity) -> dict[str, dict[str, tuple[str, ...]]]:
    return {system: parts_read(binding) for system, binding in entity.bindings.items()}


def parts_read(binding: Binding) -> dict[str, tuple[str, ...]]:
    """Field → the parts that it is read from, ROOT among them, of the fields that are not read from the root alone."""
    found = {}
    for name, side in binding.sides.items():
        columns = side.columns if side.read_parts is not None else side.columns[:1]
        parts = tuple(dict.fromkeys(binding.split(column)[0] for column in columns))
        if any(part != ROOT for part in parts):
            found[name] = parts
    return found


def _shared(pipeline: Pipeline, binding: Binding) -> frozenset[str]:
    """Fields that are written to rows which other things have too: rows that many point at, and tables that have several places in the
    system's bindings."""
    uses = Counter(table for other in pipeline.tables(binding.system) for table in map(str, other.tables))
    shared = {ROOT: uses[str(binding.table)] > 1}
    for part in binding.parts:
        shared[part.name] = part.kind == "parent" or uses[str(part.table)] > 1 or (part.of != ROOT and shared[part.of])
    return frozenset(name for name in binding.writable if any(shared[binding.split(column)[0]] for column in binding.sides[name].columns))


def _revealed(binding: Binding) -> frozenset[str]:
    """Fields in rows that may be other ones after our write: behind a child that we delete another one comes first, and one that we insert
    may have its value from an insert expression."""
    behind = {part.name for part in binding.parts if part.kind == "child" and part.empty == "delete"}
    return frozenset(
        name
        for name in binding.writable
        if any(
            (part := binding.split(column)[0]) in behind or (part != ROOT and name in binding.generated) for column in binding.columns[name]
        )
    )
