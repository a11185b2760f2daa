"""Configuration and catalogs → Pipeline, or every reason why not, at once.

for each entity    kinds of its fields    from the types of all its columns and what is done to them
                   a FieldBinding         for each field and system: column codec ─ steps ─ normal form of the field's kind
                   a Binding              for each system: key, scope, what an insert needs
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from typing import cast

import orjson

from schemas.catalog import Column, Table
from schemas.change import Canonical
from schemas.config import Binding as BindingConfig
from schemas.config import Config, Expression, Field, Side, problems_of
from schemas.config import Entity as EntityConfig
from schemas.config.model import Scalar
from schemas.config.problems import did_you_mean
from schemas.errors import ConfigError, MappingError, Problem
from schemas.mapping import kinds, times, transforms
from schemas.mapping.binding import Binding, Delete, Entity, Expr, FieldBinding, Kind, Pipeline, key_texts
from schemas.mapping.transforms import Step

_TABLE = re.compile(r'(?:(?P<schema>"(?:[^"]|"")+"|[^".]+)\.)?(?P<table>"(?:[^"]|"")+"|[^".]+)\Z')
_BRIDGED = {"number", "boolean", "date", "timestamp", "datetime", "time", "timetz", "interval", "uuid", "json"}  # kinds a text may hold


def compile_config(config: Config, catalogs: Mapping[str, Mapping[str, Table]]) -> Pipeline:
    """`catalogs[system]["schema.table"]`. Raises ConfigError with all problems."""
    problems = problems_of(config)
    if problems:  # names that point nowhere would only be reported again
        raise ConfigError(problems)
    compiler = _Compiler(config, catalogs, problems)
    entities = {name: compiler.entity(name, entity) for name, entity in config.entities.items()}
    if problems:
        raise ConfigError(problems)
    order, notes = _order(config)
    ordered = {name: cast(Entity, entities[name]) for name in order}
    by_table: dict[tuple[str, str, str], tuple[Binding, ...]] = {}
    for entity in ordered.values():
        for binding in entity.bindings.values():
            place = (binding.system, binding.table.schema, binding.table.name)
            by_table[place] = (*by_table.get(place, ()), binding)
    return Pipeline(
        config=config,
        entities=ordered,
        systems=tuple(config.systems),
        rank={name: system.rank for name, system in config.systems.items()},
        notes=tuple(notes),
        _by_table=by_table,
    )


def table_name(text: str) -> tuple[str, str] | None:
    """`public.account`, `account`, `public."order.line"` → (schema, table). None: not a table's name."""
    match = _TABLE.match(text.strip())
    if match is None:
        return None
    schema, table = (
        part[1:-1].replace('""', '"') if part.startswith('"') else part for part in (match["schema"] or "public", match["table"])
    )
    return schema, table


def table_names(config: Config, system: str) -> list[tuple[str, str]]:
    """The tables of a system whose catalog entries `compile_config` wants: what to give `connectors.catalog.read_tables`."""
    names = (table_name(entity.bindings[system].table) for entity in config.entities.values() if system in entity.bindings)
    return sorted({name for name in names if name is not None})


def _order(config: Config) -> tuple[list[str], list[str]]:
    """Entities with those they refer to before them, and a note for each cycle."""
    graph = {
        name: {field.ref for field in entity.fields.values() if field.ref is not None and field.ref != name}
        for name, entity in config.entities.items()
    }
    notes: list[str] = []
    while True:
        try:
            found = list(TopologicalSorter({name: sorted(graph[name]) for name in graph}).static_order())
            return found, notes
        except CycleError as error:
            cycle = cast("list[str]", error.args[1])  # each one is referred to by the next
            notes.append(
                f"references go round: {' → '.join(reversed(cycle))}; inserts of these wait for each other where a column is NOT NULL"
            )
            graph[cycle[1]].discard(cycle[0])


@dataclass(frozen=True, slots=True)
class _Place:
    """A field in one system on its way to a FieldBinding."""

    where: str  # for problems
    system: str
    table: Table
    side: Side
    columns: tuple[Column, ...]
    codecs: tuple[kinds.Codec, ...]


class _Compiler:
    def __init__(self, config: Config, catalogs: Mapping[str, Mapping[str, Table]], problems: list[Problem]) -> None:
        self._config = config
        self._catalogs = catalogs
        self._problems = problems

    def _problem(self, where: str, what: str, mend: str = "") -> None:
        self._problems.append(Problem(where, what, mend))

    # ── entities ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def entity(self, name: str, entity: EntityConfig) -> Entity | None:
        before = len(self._problems)
        tables = {}
        for system, binding in entity.bindings.items():
            table = self._table(f"entities.{name}.{system}", system, binding.table)
            if table is not None:
                tables[system] = table
        field_kinds: dict[str, Kind] = {}
        sides: dict[str, dict[str, FieldBinding]] = {system: {} for system in tables}
        for field, rules in entity.fields.items():
            field_kinds[field] = self._field(f"entities.{name}.fields.{field}", field, rules, tables, sides)
        born_in = frozenset(entity.born_in if entity.born_in is not None else entity.bindings)
        self._matching(name, entity, born_in)
        soft = self._soft(name, entity, field_kinds)
        bindings = {
            system: self._binding(name, system, entity, table, sides[system], inserts=bool(born_in - {system}))
            for system, table in tables.items()
        }
        if len(self._problems) > before:
            return None
        return Entity(
            name=name,
            kinds=field_kinds,
            owner={field: rules.owner or entity.owner for field, rules in entity.fields.items()},
            exists_owner=entity.owner,
            born_in=born_in,
            delete=Delete(entity.delete.policy, soft),
            match_on=entity.match_on,
            refs={field: rules.ref for field, rules in entity.fields.items() if rules.ref is not None},
            bindings=bindings,
            systems=tuple(bindings),
        )

    def _table(self, where: str, system: str, text: str) -> Table | None:
        named = table_name(text)
        if named is None:
            self._problem(f"{where}.table", f"{text!r} is no table's name", 'like public.account, or public."strange.name"')
            return None
        catalog = self._catalogs.get(system, {})
        table = catalog.get(".".join(named))
        if table is None:
            self._problem(
                f"{where}.table",
                f"there is no table {'.'.join(named)} in {system}, or no right to see it",
                did_you_mean(".".join(named), catalog) if catalog else "",
            )
        elif not table.primary_key:
            self._problem(f"{where}.table", f"{table} has no primary key", "without one its rows cannot be told apart: add one")
        return table

    def _matching(self, name: str, entity: EntityConfig, born_in: frozenset[str]) -> None:
        for field in entity.match_on:
            rules = entity.fields[field]
            where = f"entities.{name}.match_on"
            for system in sorted(born_in - rules.sides.keys()):
                self._problem(
                    where, f"{field} is not mapped in {system}, so its rows could never match", f"map it in {system}, or take it out"
                )
            if rules.ref is not None:
                self._problem(where, f"{field} is a reference, whose value differs in each system", "match on plain values")

    def _soft(self, name: str, entity: EntityConfig, field_kinds: Mapping[str, Kind]) -> dict[str, Canonical]:
        values: dict[str, Canonical] = {}
        for field, value in entity.delete.soft.items():
            where = f"entities.{name}.delete.soft.{field}"
            if entity.fields[field].ref is not None:
                self._problem(where, "is a reference, which has no one value for all systems")
            elif field_kinds.get(field):
                values[field] = self._normal(where, field_kinds[field], value)
        return values

    def _normal(self, where: str, kind: Kind, value: Scalar) -> Canonical:
        """A value of the file in a kind's normal form."""
        try:
            return value if value is None else kinds.NORMAL[kind](kinds.as_text(value))
        except (ValueError, ArithmeticError) as error:
            self._problem(where, f"{value!r} {error}", f"the field is a {kind}")
            return None

    # ── fields ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _field(self, where: str, field: str, rules: Field, tables: Mapping[str, Table], sides: dict[str, dict[str, FieldBinding]]) -> Kind:
        places = []
        for number, (system, side) in enumerate(rules.sides.items()):
            if system not in tables:
                continue
            if number == 1 and rules.values is not None:  # first system's code: second system's code
                side = side.model_copy(update={"values": rules.values, "otherwise": rules.otherwise})
            place = self._place(f"{where}.{system}", system, tables[system], side)
            if place is not None:
                places.append(place)
        if rules.ref is not None:
            for place in places:
                binding = self._reference(place, field, rules.ref)
                if binding is not None:
                    sides[place.system][field] = binding
            return "ref"
        kind = self._kind(where, rules, places)
        if kind:
            for place in places:
                binding = _SideCompiler(self._problem, self._normal, place, kind, rules).binding(field)
                if binding is not None:
                    sides[place.system][field] = binding
        return kind

    def _place(self, where: str, system: str, table: Table, side: Side) -> _Place | None:
        columns, codecs = [], []
        for name in side.columns:
            column = table.column(name)
            if column is None:
                self._problem(where, f"{table} has no column {name!r}", did_you_mean(name, [column.name for column in table.columns]))
                continue
            codec = kinds.codec_for(column)
            if column.generated:
                self._problem(where, f"{name} of {table} is generated, so change events leave it out", "map the columns it is made of")
            elif codec is None:
                mend = kinds.UNSUPPORTED.get(column.base, "change events leave it out or cannot carry it whole: use another column")
                self._problem(where, f"{name} of {table} is a {column.type}, which cannot be kept in agreement", mend)
            else:
                if side.write and column.identity == "a":
                    self._problem(
                        where,
                        f"{name} of {table} is GENERATED ALWAYS AS IDENTITY and cannot be written",
                        f"say {{column: {name}, write: false}}",
                    )
                columns.append(column)
                codecs.append(codec)
        if len(columns) < len(side.columns):
            return None
        return _Place(where, system, table, side, tuple(columns), tuple(codecs))

    def _kind(self, where: str, rules: Field, places: Sequence[_Place]) -> Kind:
        """What the field's values are compared as. Empty: that cannot be said."""
        if rules.kind is not None:
            return rules.kind
        offered = {place.system: offer for place in places if (offer := _offer(place)) is not None}
        found = set(offered.values())
        if len(found) <= 1:
            return found.pop() if found else "text"
        if "text" in found and found - {"text"} <= _BRIDGED:
            return "text"
        told = ", ".join(f"{system} has a {kind}" for system, kind in offered.items())
        if found == {"datetime", "timestamp"}:
            mend = "say which zone the one without means: {column: …, timezone: Europe/Berlin}"
        elif found <= _BRIDGED | {"text"}:
            mend = "say kind: text if their texts are to be compared, or give values or a python function"
        else:
            mend = "give values or a python function that makes one of the other"
        self._problem(where, f"the columns cannot hold each other's values: {told}", mend)
        return ""

    def _reference(self, place: _Place, field: str, target: str) -> FieldBinding | None:
        entity = self._config.entities[target]
        bound = entity.bindings.get(place.system)
        if bound is None:
            self._problem(
                place.where,
                f"refers to {target}, which is not bound to {place.system}",
                f"bind {target} there, or leave {place.system} out",
            )
            return None
        table = self._catalogs.get(place.system, {}).get(".".join(table_name(bound.table) or ()))
        if table is None or not table.primary_key:
            return None  # reported where it stands
        names = tuple(column.name for column in place.columns)
        if len(names) != len(table.primary_key):
            key = ", ".join(table.primary_key)
            self._problem(
                place.where, f"has {len(names)} columns, but the key of {table} is ({key})", f"name {len(table.primary_key)}, in that order"
            )
            return None
        for columns, schema, name in place.table.foreign_keys:
            if set(columns) == set(names) and (schema, name) != (table.schema, table.name):
                self._problem(
                    place.where, f"is a foreign key to {schema}.{name}, but {target} lives in {table}", "name the entity that it refers to"
                )
                return None
        for column, codec, key_name in zip(place.columns, place.codecs, table.primary_key, strict=True):
            key_column = table.column(key_name)
            key_codec = kinds.codec_for(key_column) if key_column is not None else None
            if key_column is not None and (key_codec is None or key_codec.kind != codec.kind):
                self._problem(
                    place.where,
                    f"{column.name} is a {column.type}, the key {key_name} of {table} a {key_column.type}",
                    "a reference needs the key's type",
                )
                return None
        return _reference_binding(field, place.system, names, [_key_form(column) for column in place.columns], str(table))

    # ── bindings ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _binding(
        self, name: str, system: str, entity: EntityConfig, table: Table, sides: Mapping[str, FieldBinding], *, inserts: bool
    ) -> Binding:
        where = f"entities.{name}.{system}"
        config = entity.bindings[system]
        writable = frozenset(field for field in sides if entity.fields[field].sides[system].write)
        written = self._written(where, entity, sides, writable, config)
        scope, tests = self._scope(where, table, config)
        insert = {column: expr for column, value in config.insert.items() if (expr := self._expr(f"{where}.insert", table, column, value))}
        always = {column: expr for column, value in config.always.items() if (expr := self._expr(f"{where}.always", table, column, value))}
        for column, texts in scope.items():  # what we insert must count
            described = table.column(column)
            if column in config.insert:
                self._in_scope(where, column, config.insert[column], dict(tests)[column])
            elif column not in written and column not in always and described is not None and texts[0] is not None:
                insert[column] = Expr(f"%s::{described.type}", (texts[0],))
        if inserts:
            here = [rules.sides[system] for rules in entity.fields.values() if system in rules.sides]
            mapped = {column for side in here if side.write for column in side.columns}
            self._not_null(where, table, {*mapped, *config.insert, *config.always, *insert})
        return Binding(
            system=system,
            entity=name,
            table=table,
            key_columns=table.primary_key,
            fields=tuple(sides),
            columns={field: side.columns for field, side in sides.items()},
            writable=writable,
            generated=frozenset(field for field in writable if any(column in insert for column in sides[field].columns)),
            insert=insert,
            always=always,
            scope=scope,
            needed=frozenset({*table.primary_key, *scope}),
            sides=sides,
            _plain=tuple((side.field, side.columns[0], side.read, side.null) for side in sides.values() if side.read_parts is None),
            _composed=tuple(side for side in sides.values() if side.read_parts is not None),
            _key=tuple(_key_form(key) for column in table.primary_key if (key := table.column(column)) is not None),
            _scope=tuple((column, read, allowed) for column, (read, allowed) in tests),
        )

    def _written(
        self, where: str, entity: EntityConfig, sides: Mapping[str, FieldBinding], writable: frozenset[str], config: BindingConfig
    ) -> dict[str, str]:
        """column → the field that is written to it."""
        written: dict[str, str] = {}
        for field in sides:
            if field not in writable:
                continue
            for column in sides[field].columns:
                if column in written:
                    self._problem(
                        f"{where.rsplit('.', 1)[0]}.fields.{field}.{where.rsplit('.', 1)[1]}",
                        f"{column} is written by the field {written[column]} too",
                        "one of the two may only read it: {column: …, write: false}",
                    )
                elif column in config.always:
                    self._problem(f"{where}.always.{column}", f"is written by the field {field} too", "keep one of them")
                written.setdefault(column, field)
        return written

    def _scope(
        self, where: str, table: Table, config: BindingConfig
    ) -> tuple[dict[str, tuple[str | None, ...]], list[tuple[str, tuple[kinds.Read | None, frozenset[Canonical]]]]]:
        scope: dict[str, tuple[str | None, ...]] = {}
        tests: list[tuple[str, tuple[kinds.Read | None, frozenset[Canonical]]]] = []
        for name, values in config.where.items():
            column = table.column(name)
            if column is None:
                self._problem(
                    f"{where}.where.{name}", f"{table} has no column {name!r}", did_you_mean(name, [c.name for c in table.columns])
                )
                continue
            codec = kinds.codec_for(column)
            if codec is None or column.generated:
                self._problem(f"{where}.where.{name}", f"is a {column.type}, which change events do not carry", "use another column")
                continue
            if column.base == "json":
                self._problem(f"{where}.where.{name}", "is json, which PostgreSQL cannot compare", "use jsonb, or another column")
                continue
            before = len(self._problems)
            normal = [self._normal(f"{where}.where.{name}", codec.kind, value) for value in values]
            if len(self._problems) > before:
                continue
            for value in normal:
                if column.labels and value is not None and value not in column.labels:
                    self._problem(f"{where}.where.{name}", f"{value!r} is no value of {column.type}", did_you_mean(value, column.labels))
            scope[name] = tuple(None if value is None else _column_text(codec, value) for value in normal)
            tests.append((name, (codec.read, frozenset(normal))))
        return scope, tests

    def _in_scope(self, where: str, column: str, given: Expression, test: tuple[kinds.Read | None, frozenset[Canonical]]) -> None:
        if not given.constant:
            return
        read, allowed = test
        text = None if given.value is None else kinds.as_text(given.value)
        try:
            value = text if text is None or read is None else read(text)
        except ValueError:
            return  # reported as a bad constant
        if value not in allowed:
            self._problem(f"{where}.insert.{column}", f"{given.value!r} would leave the row outside `where`", "insert a value that counts")

    def _not_null(self, where: str, table: Table, known: set[str]) -> None:
        for column in table.columns:
            if column.not_null and not column.has_default and not column.generated and column.name not in known:
                key = column.name in table.primary_key
                mend = f"insert: {{{column.name}: …}}"
                if key and column.base == "uuid":
                    mend = f"insert: {{{column.name}: uuid}}"
                what = "is the key" if key else "is NOT NULL"
                self._problem(f"{where}.insert", f"{column.name} of {table} {what} and has no default, and no field gives it", mend)

    def _expr(self, where: str, table: Table, name: str, given: Expression) -> Expr | None:
        column = table.column(name)
        where = f"{where}.{name}"
        if column is None:
            self._problem(where, f"{table} has no column {name!r}", did_you_mean(name, [column.name for column in table.columns]))
            return None
        if column.generated or column.identity == "a":
            self._problem(where, f"{name} of {table} is generated always and cannot be written", "take it out")
            return None
        cast_to = column.type.replace("%", "%%")
        if given.sql is not None:
            return Expr(f"({given.sql.replace('%', '%%')})")
        if given.nextval is not None:
            return Expr(f"nextval(%s::regclass)::{cast_to}", (given.nextval,))
        if given.uuid:
            return Expr(f"gen_random_uuid()::{cast_to}")
        if given.now:
            if given.now is True:
                return Expr(f"now()::{cast_to}")
            return Expr(f"(now() AT TIME ZONE %s)::{cast_to}", (given.now,))
        if given.value is None:
            if column.not_null:
                self._problem(where, f"is null, but {name} of {table} is NOT NULL")
            return Expr("NULL")
        codec = kinds.codec_for(column)
        text = kinds.as_text(given.value)
        if codec is not None:
            before = len(self._problems)
            normal = self._normal(where, codec.kind, given.value)
            if len(self._problems) > before:
                return None
            if column.labels and normal not in column.labels:
                self._problem(where, f"{given.value!r} is no value of {column.type}", did_you_mean(given.value, column.labels))
            try:
                text = _column_text(codec, cast(str, normal))
            except ValueError as error:
                self._problem(where, f"{given.value!r} {error}")
        return Expr(f"%s::{cast_to}", (text,))


def _column_text(codec: kinds.Codec, value: Canonical) -> str:
    return cast(str, value if codec.write is None else codec.write(value))


def _offer(place: _Place) -> Kind | None:
    """The kind that a side brings. None: whatever the others have."""
    side = place.side
    if side.values is not None or side.python is not None:
        return None
    if side.join is not None or side.prefix is not None:
        return "text"
    if side.unit is not None or side.scale is not None:
        return "number"
    return "timestamp" if side.timezone is not None else place.codecs[0].kind


# ── keys and references ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _key_form(column: Column) -> Callable[[str], str] | None:
    """Key columns whose text is not the same from an event and from a query."""
    if column.base == "character":
        return lambda text: text.rstrip(" ")
    if column.base == "boolean":
        return lambda text: text[:1]
    return None


def _reference_binding(
    field: str, system: str, columns: tuple[str, ...], forms: Sequence[Callable[[str], str] | None], target: str
) -> FieldBinding:
    prefix = f"{system}:"
    nulls: tuple[None, ...] = (None,) * len(columns)

    def key_in(value: Canonical) -> str:
        name = cast(str, value)
        if not name.startswith(prefix):
            raise ValueError(f"is no row of {system}")
        return name[len(prefix) :]

    if len(columns) == 1:
        form = forms[0]
        return FieldBinding(
            field,
            columns,
            read=(lambda text: prefix + text) if form is None else (lambda text: prefix + form(text)),
            read_parts=None,
            write=lambda value: (None,) if value is None else (key_in(value),),
            represent=None,
        )

    def read_parts(texts: list[str | None]) -> Canonical:
        if None in texts:
            return None
        return (
            prefix
            + orjson.dumps([text if form is None else form(cast(str, text)) for text, form in zip(texts, forms, strict=True)]).decode()
        )

    def write(value: Canonical) -> tuple[str | None, ...]:
        if value is None:
            return nulls
        try:
            return tuple(key_texts(key_in(value), len(columns), target))
        except MappingError as error:
            raise ValueError(str(error)) from error

    return FieldBinding(field, columns, read=None, read_parts=read_parts, write=write, represent=None)


# ── one field in one system ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _SideCompiler:
    """Builds the way from a column's text to the field's normal form and back."""

    def __init__(
        self,
        problem: Callable[..., None],
        normal: Callable[[str, Kind, Scalar], Canonical],
        place: _Place,
        kind: Kind,
        rules: Field,
    ) -> None:
        self._report = problem
        self._normal = normal
        self._place = place
        self._side = place.side
        self._kind = kind  # where it leads
        self._rules = rules
        self._at: Kind = "text" if place.side.join is not None else place.codecs[0].kind  # where it stands
        self._steps: list[Step] = []
        self._null: Canonical = None  # a null column is read as
        self._null_text: str | None = None  # null is written as
        self._failed = False

    def _problem(self, key: str, what: str, mend: str = "") -> None:
        self._report(f"{self._place.where}.{key}" if key else self._place.where, what, mend)
        self._failed = True

    def binding(self, field: str) -> FieldBinding | None:
        self._nulls()
        if self._side.blank is not None and (blank := self._at_column("blank", self._side.blank)) is not None:
            self._steps.append(transforms.blanked(blank))
        self._python()
        if self._side.prefix is not None and self._needs("prefix", "text"):
            self._steps.append(transforms.prefixed(self._side.prefix))
        self._timezone()
        self._numbers()
        self._values()
        self._bridge()
        self._finish()
        if self._failed:
            return None
        return self._joined(field) if self._side.join is not None else self._single(field)

    # ── steps, from the column inwards ────────────────────────────────────────────────────────────────────────────────────────────

    def _at_column(self, key: str, value: Scalar) -> Canonical:
        """A value of the file in the normal form of the column."""
        return self._normal(f"{self._place.where}.{key}", self._at, value)

    def _nulls(self) -> None:
        key = "blank" if self._side.blank is not None else "default"
        given = self._side.blank if self._side.blank is not None else self._side.default
        if given is None:
            return
        if self._side.join is not None:
            self._problem(key, "does not go with join", "columns without a part are written as null, or as empty where they are NOT NULL")
            return
        value = self._at_column(key, given)
        if value is not None:
            try:
                self._null_text = _column_text(self._place.codecs[0], value)
            except ValueError as error:
                self._problem(key, f"{given!r} {error}")

    def _python(self) -> None:
        given = self._side.python
        if given is None:
            return
        read = self._function("python.read" if given.write else "python", given.read)
        write = self._function("python.write", given.write) if given.write is not None else getattr(read, "inverse", None)
        if read is None:
            return
        if self._side.write and not callable(write):
            self._problem(
                "python",
                f"{given.read} has no inverse, so nothing could be written back",
                "say {read: …, write: …}, give the function an attribute `inverse`, or say write: false",
            )
            return
        self._steps.append(
            Step(
                "python",
                _guarded(given.read, read, kinds.NORMAL[self._kind]),
                _guarded(given.write or given.read, write) if callable(write) else None,
                exact=False,
            )
        )
        self._at = self._kind

    def _function(self, key: str, path: str) -> Callable[[Canonical], object] | None:
        module, colon, name = path.partition(":")
        if not colon or not module or not name:
            self._problem(key, f"{path!r} is no import path", "like my_company.mapping:from_erp_code")
            return None
        try:
            found: object = import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            self._problem(key, f"{path} cannot be imported: {error}", "is it on PYTHONPATH?")
            return None
        if not callable(found):
            self._problem(key, f"{path} is no function")
            return None
        return cast("Callable[[Canonical], object]", found)

    def _needs(self, key: str, kind: Kind) -> bool:
        """Whether the way stands at `kind`, or can be brought there from a text."""
        if self._at == "text" != kind and self._kind == kind:
            self._bridge()
        if self._at == kind:
            return True
        column = self._place.columns[0]
        self._problem(key, f"wants a {kind}, but {column.name} of {self._place.table} is a {column.type}")
        return False

    def _timezone(self) -> None:
        if self._side.timezone is None:
            return
        if self._at == "timestamp":
            self._problem("timezone", "the column already is an instant: timestamp with time zone", "take timezone out")
        elif self._at == "text" and self._kind == "timestamp":
            self._steps.append(Step("text", _reading("datetime"), kinds.as_text, exact=False))
            self._at = "datetime"
            self._timezone()
        elif self._needs("timezone", "datetime"):
            instant, naive = times.zoned(self._side.timezone)
            self._steps.append(
                Step("timezone", lambda value: instant(cast(str, value)), lambda value: naive(cast(str, value)), exact=False)
            )
            self._at = "timestamp"

    def _numbers(self) -> None:
        if self._side.unit is not None and self._needs("unit", "number"):
            try:
                self._steps.append(transforms.in_unit(kinds.exact_factor(self._side.unit)))
            except ValueError as error:
                self._problem("unit", f"{self._side.unit} {error}", "a factor like 0.001 or 2.5, or a python function")
        if self._side.scale is not None and self._needs("scale", "number"):
            self._steps.append(transforms.scaled(self._side.scale))

    def _values(self) -> None:
        given = self._side.values
        if given is None:
            return
        where = self._place.where
        table: dict[Canonical, list[Canonical]] = {}
        for value, codes in given.items():
            named = self._normal(f"{where}.values.{value}", self._kind, value)
            table.setdefault(named, []).extend(self._normal(f"{where}.values.{value}", self._at, code) for code in codes)
        otherwise = self._side.otherwise
        labels = self._place.columns[0].labels
        for codes_of in table.values():
            for code in codes_of:
                if labels and code is not None and code not in labels:
                    self._problem("values", f"{code!r} is no value of {self._place.columns[0].type}", did_you_mean(code, labels))
        if otherwise is None:
            for code, first, second in transforms.ambiguous(table):
                self._problem(
                    "values",
                    f"{first!r} and {second!r} both become {code!r}, which could not be read back",
                    "make it one to one, or say what it is read as: otherwise: {read: …}",
                )
        read = self._normal(f"{where}.otherwise.read", self._kind, otherwise.read) if otherwise is not None else None
        write = self._normal(f"{where}.otherwise.write", self._at, otherwise.write) if otherwise is not None else None
        step = transforms.coded(table, read, write, otherwise is not None)
        self._null = next((value for value, codes_of in table.items() if None in codes_of), None)
        if None in table and table[None][0] is not None:
            self._null_text = _column_text(self._place.codecs[0], table[None][0])
        self._steps.append(step)
        self._at = self._kind

    def _bridge(self) -> None:
        """From the kind of the column to that of the field, where one of them is text."""
        at, to = self._at, self._kind
        if at == to:
            return
        if to == "text" and at in _BRIDGED:
            self._steps.append(Step("text", kinds.as_text, _reading(at), exact=False))
        elif at == "text" and to in kinds.NORMAL:
            self._steps.append(Step("text", _reading(to), kinds.as_text, exact=False))
        else:
            column = self._place.columns[0]
            self._problem(
                "", f"{column.name} of {self._place.table} is a {column.type}, the field a {to}", "give values or a python function"
            )
        self._at = to

    def _finish(self) -> None:
        if self._rules.scale is not None:
            if self._kind == "number":
                self._steps.append(transforms.scaled(self._rules.scale))
            else:
                self._problem("", f"scale wants a number, but the field is a {self._kind}")
        names = (*self._side.clean, *self._rules.clean)
        if names:
            if self._kind == "text":
                self._steps.append(transforms.cleaned(names))
            else:
                self._problem("", f"clean wants a text, but the field is a {self._kind}")

    # ── the whole way ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _single(self, field: str) -> FieldBinding:
        place, steps = self._place, self._steps
        codecs = place.codecs
        if any(codec.kind != codecs[0].kind for codec in codecs):
            told = ", ".join(f"{column.name} is a {column.type}" for column in place.columns)
            self._problem("", f"columns that are written the same must be of one kind: {told}")
        read = _chain([codecs[0].read, *(step.read for step in steps)])
        inward = _chain([step.write for step in reversed(steps)])
        null, null_text = self._null, self._null_text

        def write(value: Canonical) -> tuple[str | None, ...]:
            if value is None:
                return (null_text,) * len(codecs)
            normal = value if inward is None else inward(value)
            if normal is None:
                return (None,) * len(codecs)
            return tuple(_column_text(codec, normal) for codec in codecs)

        first_write, one = codecs[0].write, len(codecs) == 1
        if one and inward is None and null_text is None:

            def write(value: Canonical) -> tuple[str | None, ...]:
                return (cast("str | None", value if value is None or first_write is None else first_write(value)),)

        def represent(value: Canonical) -> Canonical:
            text = write(value)[0]
            return null if text is None else (text if read is None else read(text))

        exact = codecs[0].lossless and all(step.exact for step in steps) and null is None and null_text is None
        return FieldBinding(field, tuple(column.name for column in place.columns), read, None, write, None if exact else represent, null)

    def _joined(self, field: str) -> FieldBinding:
        place, separator = self._place, cast(str, self._side.join)
        names = tuple(column.name for column in place.columns)
        for column, codec in zip(place.columns, place.codecs, strict=True):
            if codec.kind != "text":
                self._problem("join", f"{column.name} is a {column.type}, only texts can be joined")
        if self._failed:
            return None  # type: ignore[return-value]  # `binding` has reported it
        inner = _chain([step.read for step in self._steps])
        inward = _chain([step.write for step in reversed(self._steps)])
        readers = [codec.read for codec in place.codecs]
        empty = tuple("" if column.not_null else None for column in place.columns)
        last, count = self._side.split == "last", len(names)

        def read_parts(texts: list[str | None]) -> Canonical:
            parts = [cast(str, text if read is None or text is None else read(text)) for text, read in zip(texts, readers, strict=True)]
            text = transforms.joined(parts, separator)
            return text if text is None or inner is None else inner(text)

        def write(value: Canonical) -> tuple[str | None, ...]:
            text = value if value is None or inward is None else inward(value)
            if text is None:
                return empty
            parts = transforms.cut(kinds.write_text(text), separator, count, last)
            return tuple(blank if part is None else part for part, blank in zip(parts, empty, strict=True))

        return FieldBinding(field, names, None, read_parts, write, lambda value: read_parts(list(write(value))))


def _reading(kind: Kind) -> Callable[[Canonical], Canonical]:
    normal = kinds.NORMAL[kind]
    return lambda value: normal(kinds.as_text(value))


def _guarded(path: str, function: Callable[[Canonical], object], normal: kinds.Read | None = None) -> Callable[[Canonical], Canonical]:
    """A user's function: it may raise ValueError for a value it cannot take, and must give a text, a boolean or None."""

    def call(value: Canonical) -> Canonical:
        given = function(value)
        if given is None or isinstance(given, bool):
            return given
        if not isinstance(given, str):
            raise ValueError(f"was turned into a {type(given).__name__} by {path}, expected text")
        return given if normal is None else normal(kinds.write_text(given))

    return call


def _chain(functions: Sequence[Callable[..., Canonical] | None]) -> Callable[..., Canonical] | None:
    """One function for all; stops at null. None: nothing to do."""
    steps = [function for function in functions if function is not None]
    if not steps:
        return None
    if len(steps) == 1:
        return steps[0]
    if len(steps) == 2:
        first, second = steps

        def both(value: Canonical) -> Canonical:
            between = first(value)
            return None if between is None else second(between)

        return both

    def every(value: Canonical) -> Canonical:
        for step in steps:
            value = step(value)
            if value is None:
                return None
        return value

    return every
