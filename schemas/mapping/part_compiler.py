"""`parts` of a binding → Parts, or every reason why not.

resolved_parts   each part with its table, in the order in which they hang: one that cannot hang is reported and left out
shape_of         the flat row as a table, which fields, `where` and messages ask for columns
PartCompiler     the rest, once it is known which columns fields use
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from schemas.catalog import Column, Table
from schemas.config import Aggregate as AggregateConfig
from schemas.config import Binding as BindingConfig
from schemas.config import Expression, Order
from schemas.config import Part as PartConfig
from schemas.config.model import Scalar
from schemas.config.problems import did_you_mean
from schemas.mapping import kinds
from schemas.mapping.binding import FieldBinding
from schemas.mapping.expressions import Expr
from schemas.mapping.parts import ROOT, Aggregate, Comparable, Others, Part, Sorting, Test, number_order, stamp_order
from schemas.mapping.references import key_form

Scope = tuple[dict[str, tuple[str | None, ...]], tuple[Test, ...]]


class Report(Protocol):
    def __call__(self, where: str, what: str, mend: str = "") -> None: ...


@dataclass(frozen=True, slots=True)
class Resolved:
    """A part and its table; `above`: the table that it hangs at."""

    where: str
    name: str
    config: PartConfig
    table: Table
    above: Table


def resolved_parts(where: str, binding: BindingConfig, root: Table, find: Callable[[str, str], Table | None]) -> list[Resolved]:
    """`find(where, name)`: a table of the catalog that has a primary key, or None, reported. Each part comes after what it hangs at."""
    waiting = dict(binding.parts)
    done: dict[str | None, Table] = {None: root}
    found = []
    while ready := [name for name, part in waiting.items() if part.of in done]:
        for name in ready:
            part = waiting.pop(name)
            table = find(f"{where}.parts.{name}", part.table)
            if table is not None:
                done[name] = table
                found.append(Resolved(f"{where}.parts.{name}", name, part, table, done[part.of]))
    return found  # what is left hangs at a part that could not be found, which has been reported


def shape_of(root: Table, parts: Sequence[Resolved]) -> Table:
    """The root's columns, and each part's as `part.column`."""
    columns = list(root.columns)
    for part in parts:
        if part.config.aggregate:
            made = [_aggregate_column(name, given, part.table) for name, given in part.config.aggregate.items()]
            columns += [replace(column, name=f"{part.name}.{column.name}") for column in made if column is not None]
        else:
            columns += [replace(column, name=f"{part.name}.{column.name}") for column in part.table.columns]
    return replace(root, columns=tuple(columns), foreign_keys=(*root.foreign_keys, *_foreign_keys(parts))) if parts else root


def _foreign_keys(parts: Sequence[Resolved]) -> list[tuple[tuple[str, ...], str, str]]:
    return [
        (tuple(f"{part.name}.{column}" for column in columns), schema, table)
        for part in parts
        if not part.config.aggregate
        for columns, schema, table in part.table.foreign_keys
    ]


def _aggregate_column(name: str, given: AggregateConfig, table: Table) -> Column | None:
    """What the value looks like, for fields. None: of a column that is not there, which is reported when the part is compiled."""
    if given.function == "count":
        return Column(name, "bigint", "bigint", "N")
    column = table.column(given.column or "")
    if column is None:
        return None
    if given.function == "sum":
        return Column(name, "numeric", "numeric", "N")
    if given.function == "list":
        return Column(name, "text", "text", "S") if given.separator is not None else Column(name, "jsonb", "jsonb", "U")
    return replace(column, name=name, not_null=False, has_default=False, default=None, identity="")


def report_uncounted(report: Report, where: str, table: Table, tests: Sequence[Test], given: set[str]) -> None:
    """Where null does not count, somebody must give a value (`given`: columns that get one), or what is inserted is not seen again."""
    for name, _, allowed in tests:
        column = table.column(name)
        if column is None or name in given or column.has_default or not isinstance(allowed, Others) or None in allowed:
            continue
        report(f"{where}.where.{name}", f"nothing gives {name} a value, so what is inserted would not count", f"insert: {{{name}: …}}")


class PartCompiler:
    """Compiles the parts of one binding. Its collaborators are those of the binding's compiler: they report what is wrong."""

    def __init__(
        self,
        problem: Report,
        scope: Callable[[str, Table, Mapping[str, tuple[Scalar, ...]]], Scope],
        expressions: Callable[[str, Table, Mapping[str, Expression]], dict[str, Expr]],
        in_scope: Callable[[str, str, Expression, Test], None],
        not_null: Callable[[str, Table, set[str]], None],
    ) -> None:
        self._problem = problem
        self._scope = scope
        self._expressions = expressions
        self._in_scope = in_scope
        self._not_null = not_null

    def part(
        self,
        resolved: Resolved,
        parts: Sequence[Resolved],
        binding: BindingConfig,
        sides: Mapping[str, FieldBinding],
        writable: frozenset[str],
        root_scope: Mapping[str, tuple[str | None, ...]],
        written: Mapping[str, str],
        inserts: bool,
    ) -> Part:
        """`inserts`: whether roots are ever inserted here."""
        where, name, config, table = resolved.where, resolved.name, resolved.config, resolved.table
        link, prefix = self._link(resolved)
        scope, tests = self._scope(where, table, config.where)
        ours = [(field, column) for field, side in sides.items() for at in side.columns if (column := _own(name, at)) is not None]
        written_here = frozenset(column for field, column in ours if field in writable)
        insert = self._expressions(f"{where}.insert", table, config.insert)
        always = self._expressions(f"{where}.always", table, config.always)
        counted = {column: texts for at, texts in root_scope.items() if (column := _own(name, at)) is not None}
        for column, texts in {**scope, **counted}.items():  # what we insert must count
            described = table.column(column)
            if column in config.insert:
                test = next((test for test in tests if test[0] == column), None)
                if test is not None:
                    self._in_scope(where, column, config.insert[column], test)
            elif column not in written_here and column not in always and described is not None and texts and texts[0] is not None:
                insert[column] = Expr(f"%s::{described.type}", (texts[0],))
        given_above = written if config.of is None else {}
        expressed = binding.insert if config.of is None else binding.parts[config.of].insert
        linked_by_hand = config.parent is not None and any(column in given_above or column in expressed for column in link)
        can_be_made = not config.aggregate and not linked_by_hand
        required = can_be_made and inserts and any(texts and None not in texts for texts in counted.values())
        made = can_be_made and (bool(written_here) or required)
        if made:
            filled = set(link) if config.child is not None else set()
            beside = {_own(name, column) for field, _ in ours for column in sides[field].beside}  # not given with a null
            self._not_null(where, table, {*(written_here - beside), *insert, *always, *filled})
            report_uncounted(self._problem, where, table, tests, {*written_here, *insert, *always, *filled})
        sorting = self._sorting(f"{where}.first_by", table, config.first_by) if config.child is not None else ()
        aggregates = {key: self._aggregate(f"{where}.aggregate.{key}", key, given, table) for key, given in config.aggregate.items()}
        wanted = {
            *table.primary_key,
            *(link if config.child is not None else ()),
            *scope,
            *(sort.column for sort in sorting),
            *(sort.column for aggregate in aggregates.values() for sort in aggregate.sorting),
            *(aggregate.column for aggregate in aggregates.values() if aggregate.column is not None),
            *(column for _, column in ours),
            *counted,
            *(linked for other in parts if other.config.of == name and other.config.parent for linked in other.config.parent.columns),
        }
        holder = table if config.child is not None else resolved.above
        return Part(
            name=name,
            of=config.of or ROOT,
            table=table,
            kind="child" if config.child is not None else "parent",
            link=link,
            prefix=prefix,
            columns=tuple(column.name for column in table.columns if column.name in wanted),
            fields=tuple(dict.fromkeys(column for _, column in ours)),
            writable=written_here,
            sorting=sorting,
            aggregates=aggregates,
            insert=insert,
            always=always,
            scope=scope,
            empty=config.empty,
            made=made,
            required=required,
            _tests=tests,
            _key=tuple(key_form(key) for column in table.primary_key if (key := table.column(column)) is not None),
            _link=tuple(None if (linking := holder.column(at)) is None or prefix else key_form(linking) for at in link),
        )

    def _link(self, resolved: Resolved) -> tuple[tuple[str, ...], str]:
        """The link's columns, checked against the key that they hold."""
        config = resolved.config
        if config.child is not None:
            where, given, holder, held = f"{resolved.where}.child", config.child, resolved.table, resolved.above
        else:
            assert config.parent is not None
            where, given, holder, held = f"{resolved.where}.parent", config.parent, resolved.above, resolved.table
        if len(given.columns) != len(held.primary_key):
            key = ", ".join(held.primary_key)
            self._problem(where, f"has {len(given.columns)} columns, but the key of {held} is ({key})", "name as many, in that order")
            return given.columns, given.prefix
        for name, key in zip(given.columns, held.primary_key, strict=True):
            column, key_column = holder.column(name), held.column(key)
            if column is None:
                self._problem(where, f"{holder} has no column {name!r}", did_you_mean(name, [one.name for one in holder.columns]))
                continue
            codec, key_codec = kinds.codec_for(column), kinds.codec_for(key_column) if key_column is not None else None
            if column.generated or codec is None or key_codec is None:
                self._problem(where, f"{name} of {holder} is a {column.type}, which change events do not carry", "use another column")
            elif given.prefix and codec.kind != "text":
                self._problem(where, f"{name} of {holder} is a {column.type}, which cannot begin with {given.prefix!r}", "take prefix out")
            elif not given.prefix and codec.kind != key_codec.kind:
                told = f"{name} of {holder} is a {column.type}, the key {key} of {held} a {key_column.type if key_column else '?'}"
                self._problem(where, told, "a link needs the key's type, or a prefix in a text")
        return given.columns, given.prefix

    def _sorting(self, where: str, table: Table, orders: Sequence[Order]) -> tuple[Sorting, ...]:
        """These columns, then the key: so no two rows are equal."""
        named = {order.column for order in orders}
        wanted = [*orders, *(Order(column=column) for column in table.primary_key if column not in named)]
        return tuple(sorting for order in wanted if (sorting := self._sort(where, table, order)) is not None)

    def _sort(self, where: str, table: Table, order: Order) -> Sorting | None:
        column = table.column(order.column)
        if column is None:
            self._problem(where, f"{table} has no column {order.column!r}", did_you_mean(order.column, [c.name for c in table.columns]))
            return None
        codec = kinds.codec_for(column)
        value = _comparison(column, codec)
        if codec is None or column.generated or value is None:
            self._problem(
                where,
                f"{order.column} of {table} is a {column.type}, which cannot be put in order outside of the database",
                "use a number, a date, a time stamp, a text or an enum",
            )
            return None
        collate = codec.kind == "text" and not column.labels
        return Sorting(order.column, order.descending, order.nulls_first, collate, value)

    def _aggregate(self, where: str, name: str, given: AggregateConfig, table: Table) -> Aggregate:
        column = None if given.column is None else table.column(given.column)
        sorting: tuple[Sorting, ...] = ()
        form: Callable[[str], str] | None = None
        if given.column is not None and column is None:
            self._problem(where, f"{table} has no column {given.column!r}", did_you_mean(given.column, [c.name for c in table.columns]))
        elif column is not None:
            codec = kinds.codec_for(column)
            if codec is None or column.generated:
                self._problem(where, f"{column.name} of {table} is a {column.type}, which change events do not carry", "use another column")
            elif given.function == "sum" and codec.kind != "number":
                self._problem(where, f"{column.name} of {table} is a {column.type}, which has no sum", "count, max, min or list it")
            elif given.function in ("max", "min"):
                sort = self._sort(where, table, Order(column=column.name))
                sorting = (sort,) if sort is not None else ()
            elif given.function == "list":
                form = _normal_text(codec.read)
        if given.function == "list":
            sorting = self._sorting(f"{where}.by", table, given.by)
        return Aggregate(name, given.function, given.column, sorting, given.separator, form)


def _normal_text(read: kinds.Read | None) -> Callable[[str], str] | None:
    return None if read is None else lambda text: kinds.as_text(read(text))


def _own(part: str, column: str) -> str | None:
    """The part's column that a flat row's `column` is, or None."""
    prefix = f"{part}."
    return column[len(prefix) :] if column.startswith(prefix) else None


def _comparison(column: Column, codec: kinds.Codec | None) -> Callable[[str], Comparable] | None:
    """What texts of the column are compared by, so that it is PostgreSQL's order. None: nothing gives that."""
    if codec is None:
        return None
    if column.labels and column.category != "A":
        place = {label: number for number, label in enumerate(column.labels)}
        return lambda text: place.get(text, len(place))
    read = codec.read
    match codec.kind:
        case "number":
            return number_order
        case "boolean":
            return read
        case "date" | "timestamp" | "datetime":
            return stamp_order if read is None else (lambda text: stamp_order(str(read(text))))
        case "time" | "uuid" | "bytes":
            return (lambda text: text) if read is None else read
        case "text" if column.base in ("text", "character varying", "character", "name"):
            return lambda text: (text if read is None else str(read(text))).encode()
    return None
