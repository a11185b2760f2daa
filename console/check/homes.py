"""What an entity does in the tables of a system: what is read there, what is written, what an insert gives. Pure.

Home      a table of a binding: its root, or a part
End       a field in one system, as far as it is plain columns of one table
Flow      a field on its way from one system to another
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from schemas.catalog import Column, Table
from schemas.config import Config, Expression, Field, Side
from schemas.mapping import Binding, Entity, Expr, FieldBinding, Part, Pipeline
from schemas.mapping.parts import ROOT


@dataclass(frozen=True)
class Home:
    """A table of a binding, and what the sink does there. Columns are named as the table names them."""

    entity: Entity
    binding: Binding
    part: Part | None  # None: the root
    where: str  # in the file: entities.customer.erp, entities.customer.erp.parts.address
    written: Mapping[str, str]  # column → the field that is written to it
    insert: Mapping[str, Expression]  # as the file gives them
    always: Mapping[str, Expression]
    made: Mapping[str, Expr]  # both, compiled, with what `where` implies
    given: frozenset[str]  # every column that an insert of ours gives
    points: frozenset[str]  # columns that we make point at a row of a parent part that we have inserted
    scope: Mapping[str, tuple[str | None, ...]]  # column → the texts that count, where it is as simple as that
    inserts: bool
    updates: bool
    deletes: bool
    locks: bool  # whether its rows are locked before something is written to them, or below them

    @property
    def system(self) -> str:
        return self.binding.system

    @property
    def table(self) -> Table:
        return self.binding.table if self.part is None else self.part.table

    @property
    def what(self) -> str:
        """What a row of it is: `customer`, `address of customer`."""
        return self.entity.name if self.part is None else f"{self.part.name} of {self.entity.name}"

    def column(self, name: str) -> Column:
        found = self.table.column(name)
        assert found is not None, f"{self.table} has no column {name!r}"  # the mapping was compiled from this table
        return found


def homes(pipeline: Pipeline, system: str) -> list[Home]:
    """Every table that an entity has in a system: parents before children, roots before their parts."""
    return [home for binding in pipeline.tables(system) for home in homes_of(pipeline.config, pipeline.entities[binding.entity], binding)]


def homes_of(config: Config, entity: Entity, binding: Binding) -> list[Home]:
    """The root first."""
    return [_root(config, entity, binding), *(_part(config, entity, binding, part) for part in binding.parts)]


def _written(binding: Binding, part: str) -> dict[str, str]:
    placed = [(binding.split(column), field) for field in binding.fields if field in binding.writable for column in binding.columns[field]]
    return {column: field for (at, column), field in placed if at == part}


def _simple(scope: Mapping[str, tuple[str | None, ...]], table: Table) -> dict[str, tuple[str | None, ...]]:
    return {column: texts for column, texts in scope.items() if texts and table.column(column) is not None}


def _points(binding: Binding, above: str) -> frozenset[str]:
    return frozenset(column for part in binding.parts if part.kind == "parent" and part.of == above and part.made for column in part.link)


def _root(config: Config, entity: Entity, binding: Binding) -> Home:
    told = config.entities[entity.name].bindings[binding.system]
    written = _written(binding, ROOT)
    points = _points(binding, ROOT)
    others = len(entity.bindings) > 1
    return Home(
        entity=entity,
        binding=binding,
        part=None,
        where=f"entities.{entity.name}.{binding.system}",
        written=written,
        insert=told.insert,
        always=told.always,
        made={**binding.always, **binding.insert},
        given=frozenset({*written, *binding.insert, *binding.always, *points}),
        points=points,
        scope=_simple(binding.scope, binding.table),
        inserts=bool(entity.born_in - {binding.system}),
        updates=others and bool(written or told.always or points),
        deletes=others and entity.delete.policy == "propagate",
        locks=entity.writes_rows(binding.system),
    )


def _part(config: Config, entity: Entity, binding: Binding, part: Part) -> Home:
    told = config.entities[entity.name].bindings[binding.system].parts[part.name]
    written = _written(binding, part.name)
    linked = set(part.link) if part.kind == "child" else set()
    points = _points(binding, part.name)
    others = len(entity.bindings) > 1
    return Home(
        entity=entity,
        binding=binding,
        part=part,
        where=f"entities.{entity.name}.{binding.system}.parts.{part.name}",
        written=written,
        insert=told.insert,
        always=told.always,
        made={**part.always, **part.insert},
        given=frozenset({*written, *part.insert, *part.always, *linked, *points}),
        points=points,
        scope=_simple(part.scope, part.table),
        inserts=others and part.made,  # with its root, and whenever the root has none yet
        updates=others and bool(written or points),
        deletes=others and part.made and part.kind == "child" and (part.empty == "delete" or entity.delete.policy == "propagate"),
        locks=bool(written) or any(below.kind == "child" and below.of == part.name and below.made for below in binding.parts),
    )


@dataclass(frozen=True)
class End:
    """A field in one system. `plain`: its values stand in columns of one table, and nothing but transforms is between."""

    home: Home  # of its first column
    side: Side
    bound: FieldBinding
    columns: tuple[Column, ...]  # what its values are read from, or all that they are written to
    plain: bool
    missing: bool  # whether the row that they stand in may not be there

    @property
    def system(self) -> str:
        return self.home.system

    @property
    def told(self) -> str:
        """`crm's account.credit_limit`."""
        return f"{self.system}'s {self.home.table.name}.{', '.join(column.name for column in self.columns)}"

    @property
    def aggregate(self) -> bool:
        return self.home.part is not None and bool(self.home.part.aggregates)


@dataclass(frozen=True)
class Flow:
    """A field's values on their way from one system's columns to another's."""

    entity: Entity
    field: str
    rules: Field
    source: End
    target: End

    @property
    def where(self) -> str:
        return f"entities.{self.entity.name}.fields.{self.field}"

    @property
    def plain(self) -> bool:
        return self.source.plain and self.target.plain

    @property
    def coded(self) -> bool:
        """Whether values become others on the way: codes, a function of the user's."""
        sides = (self.source.side, self.target.side)
        return self.rules.values is not None or any(side.values is not None or side.python is not None for side in sides)

    @property
    def at_birth_only(self) -> bool:
        """The target decides on the field: what comes from elsewhere is written with an insert, and never again."""
        return self.entity.owner.get(self.field) == self.target.system

    @property
    def arrives(self) -> bool:
        """Whether a value of the source is ever written to the target."""
        binding = self.target.home.binding
        if self.field not in binding.writable:
            return False
        if not self.at_birth_only:
            return True
        born = self.source.system in self.entity.born_in
        return self.target.home.inserts and born and self.field not in binding.generated


def flows(pipeline: Pipeline) -> Iterator[Flow]:
    """Every way that a value can go, references left out: they are keys, and each system has its own."""
    for entity in pipeline.entities.values():
        told = pipeline.config.entities[entity.name]
        at = {
            system: {home.part.name if home.part else ROOT: home for home in homes_of(pipeline.config, entity, binding)}
            for system, binding in entity.bindings.items()
        }
        for name, rules in told.fields.items():
            if rules.ref is not None:
                continue
            for source in rules.sides:
                for target in rules.sides:
                    if source != target:
                        sides = rules.sides[source], rules.sides[target]
                        yield Flow(
                            entity,
                            name,
                            rules,
                            _end(at[source], entity.bindings[source], name, sides[0], reading=True),
                            _end(at[target], entity.bindings[target], name, sides[1], reading=False),
                        )


def _end(at: Mapping[str, Home], binding: Binding, field: str, side: Side, *, reading: bool) -> End:
    bound = binding.sides[field]
    names = bound.columns[:1] if reading and bound.read is not None else bound.columns
    placed = [binding.split(column) for column in names]
    home = at[placed[0][0]] if placed else at[ROOT]
    columns = [binding.shape.column(name) for name in names]
    unusual = side.constant is not None or side.template is not None or side.list is not None or bool(side.when)
    one_table = len({part for part, _ in placed}) == 1
    return End(
        home=home,
        side=side,
        bound=bound,
        columns=tuple(replace(column, name=own) for column, (_, own) in zip(columns, placed, strict=True) if column is not None),
        plain=one_table and not unusual and bound.columns == tuple(side.columns),  # else they have places inside a document
        missing=home.part is not None and not home.part.required,
    )
