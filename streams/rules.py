"""An entity's configuration as the fold wants it: merge folds by it, `concord match` foretells by it. Pure."""

from __future__ import annotations

from collections.abc import Callable

from schemas.change import Canonical
from schemas.mapping import Entity, Pipeline
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
        same=same,
    )
