"""What an entity does in a table of a system: what is read there, what is written, what an insert gives. Pure.

Home      a table of a binding
Flow      a field on its way from one system to another: where its values come from, where they are written
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from schemas.catalog import Column, Table
from schemas.config import Config, Expression, Field, Side
from schemas.mapping import Binding, Entity, Expr, FieldBinding, Pipeline


@dataclass(frozen=True)
class Home:
    """A table of a binding, and what the sink does there."""

    entity: Entity
    binding: Binding
    table: Table
    where: str  # in the file: entities.customer.erp
    written: Mapping[str, str]  # column → the field that is written to it
    insert: Mapping[str, Expression]  # as the file gives them
    always: Mapping[str, Expression]
    made: Mapping[str, Expr]  # both, compiled, with what `where` implies
    given: frozenset[str]  # every column that an insert of ours gives
    inserts: bool
    updates: bool
    deletes: bool

    @property
    def system(self) -> str:
        return self.binding.system

    def column(self, name: str) -> Column:
        found = self.table.column(name)
        assert found is not None, f"{self.table} has no column {name!r}"  # the mapping was compiled from this table
        return found


def homes(pipeline: Pipeline, system: str) -> list[Home]:
    """Every table that an entity has in a system, parents before children."""
    return [_root(pipeline.config, pipeline.entities[binding.entity], binding) for binding in pipeline.tables(system)]


def _root(config: Config, entity: Entity, binding: Binding) -> Home:
    told = config.entities[entity.name].bindings[binding.system]
    written = {column: field for field in binding.fields if field in binding.writable for column in binding.columns[field]}
    others = len(entity.bindings) > 1
    return Home(
        entity=entity,
        binding=binding,
        table=binding.table,
        where=f"entities.{entity.name}.{binding.system}",
        written=written,
        insert=told.insert,
        always=told.always,
        made={**binding.always, **binding.insert},
        given=frozenset({*written, *binding.insert, *binding.always}),
        inserts=bool(entity.born_in - {binding.system}),
        updates=others and bool(written or told.always),
        deletes=others and entity.delete.policy == "propagate",
    )


@dataclass(frozen=True)
class Flow:
    """A field's values on their way from one system's columns to another's."""

    entity: Entity
    field: str
    rules: Field
    source: Home
    target: Home
    from_side: Side
    to_side: Side
    read: FieldBinding
    write: FieldBinding

    @property
    def where(self) -> str:
        return f"entities.{self.entity.name}.fields.{self.field}"

    @property
    def from_columns(self) -> tuple[Column, ...]:
        """What the value is read from: the first column, or all that make it together."""
        names = self.read.columns if self.read.read is None else self.read.columns[:1]
        return tuple(self.source.column(name) for name in names)

    @property
    def to_columns(self) -> tuple[Column, ...]:
        return tuple(self.target.column(name) for name in self.write.columns)

    @property
    def coded(self) -> bool:
        """Whether values become others on the way: codes, a function of the user's."""
        sides = (self.from_side, self.to_side)
        return self.rules.values is not None or any(side.values is not None or side.python is not None for side in sides)

    @property
    def at_birth_only(self) -> bool:
        """The target decides on the field: what comes from elsewhere is written with an insert, and never again."""
        return self.entity.owner.get(self.field) == self.target.system

    @property
    def arrives(self) -> bool:
        """Whether a value of the source is ever written to the target."""
        if self.field not in self.target.binding.writable:
            return False
        if not self.at_birth_only:
            return True
        return self.target.inserts and self.source.system in self.entity.born_in and self.field not in self.target.binding.generated

    def told(self, side: str) -> str:
        """`account.credit_limit in crm`."""
        home, columns = (self.source, self.from_columns) if side == "source" else (self.target, self.to_columns)
        return f"{home.system}'s {home.table.name}.{', '.join(column.name for column in columns)}"


def flows(pipeline: Pipeline) -> Iterator[Flow]:
    """Every way that a value can go, references left out: they are keys, and each system has its own."""
    for entity in pipeline.entities.values():
        told = pipeline.config.entities[entity.name]
        at = {system: _root(pipeline.config, entity, binding) for system, binding in entity.bindings.items()}
        for name, rules in told.fields.items():
            if rules.ref is not None:
                continue
            for source in rules.sides:
                for target in rules.sides:
                    if source != target:
                        yield Flow(
                            entity,
                            name,
                            rules,
                            at[source],
                            at[target],
                            rules.sides[source],
                            rules.sides[target],
                            at[source].binding.sides[name],
                            at[target].binding.sides[name],
                        )
