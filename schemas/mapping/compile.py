"""Configuration and catalogs → Pipeline, or every reason why not, at once.

for each entity    kinds of its fields    from the types of all its columns and what is done to them
                   a FieldBinding         for each field and system: column codec ─ steps ─ normal form of the field's kind
                   a Binding              for each system: key, scope, what an insert needs
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from graphlib import CycleError, TopologicalSorter
from typing import cast

from schemas import topics
from schemas.catalog import Column, Table
from schemas.change import Canonical
from schemas.config import Binding as BindingConfig
from schemas.config import Config, Expression, Field, problems_of
from schemas.config import Entity as EntityConfig
from schemas.config.model import Except, Scalar
from schemas.config.problems import did_you_mean
from schemas.errors import ConfigError, Problem
from schemas.mapping import kinds
from schemas.mapping.binding import Binding, Delete, Entity, FieldBinding, Kind, Pipeline
from schemas.mapping.expressions import Expr
from schemas.mapping.part_compiler import PartCompiler, Resolved, report_uncounted, resolved_parts, shape_of
from schemas.mapping.parts import Others, Test
from schemas.mapping.place_compiler import PlaceCompiler, no_such_column
from schemas.mapping.places import Place, document_column
from schemas.mapping.references import key_form
from schemas.mapping.sides import BRIDGED, SideCompiler, column_text, offered_kind

_TABLE = re.compile(r'(?:(?P<schema>"(?:[^"]|"")+"|[^".]+)\.)?(?P<table>"(?:[^"]|"")+"|[^".]+)\Z')


def compile_config(config: Config, catalogs: Mapping[str, Mapping[str, Table]]) -> Pipeline:
    """`catalogs[system]["schema.table"]`. Raises ConfigError with all problems."""
    problems = [*problems_of(config), *_clashes(config)]
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
    """The tables of a system that `compile_config` wants, roots and parts: what to give `connectors.catalog.read_tables`."""
    bound = [entity.bindings[system] for entity in config.entities.values() if system in entity.bindings]
    texts = [text for binding in bound for text in (binding.table, *(part.table for part in binding.parts.values()))]
    return sorted({name for text in texts if (name := table_name(text)) is not None})


def _clashes(config: Config) -> list[Problem]:
    """Tables whose events could not be told apart."""
    return [
        Problem(
            f"systems.{system}",
            f"the tables {' and '.join(map('.'.join, places))} would share the topic {topic}: what Kafka does not take in a topic's name "
            "becomes _ there",
            "rename one of them, or leave its entity out",
        )
        for system in config.systems
        for topic, places in topics.clashes(system, table_names(config, system)).items()
    ]


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
        tables: dict[str, Table] = {}
        parts: dict[str, list[Resolved]] = {}
        shapes: dict[str, Table] = {}
        for system, binding in entity.bindings.items():
            where = f"entities.{name}.{system}"
            table = self._table(system, where, binding.table)
            if table is not None:
                tables[system] = table
                parts[system] = resolved_parts(where, binding, table, partial(self._table, system))
                shapes[system] = shape_of(table, parts[system])
        field_kinds: dict[str, Kind] = {}
        sides: dict[str, dict[str, FieldBinding]] = {system: {} for system in tables}
        for field, rules in entity.fields.items():
            field_kinds[field] = self._field(f"entities.{name}.fields.{field}", field, rules, shapes, sides, entity)
        born_in = frozenset(entity.born_in if entity.born_in is not None else entity.bindings)
        self._matching(name, entity, born_in)
        soft = self._soft(name, entity, field_kinds)
        bindings = {
            system: self._binding(
                name, system, entity, table, parts[system], shapes[system], sides[system], inserts=bool(born_in - {system})
            )
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

    def _table(self, system: str, where: str, text: str) -> Table | None:
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
            return value if value is None else kinds.normal_form(kind)(kinds.as_text(value))
        except (ValueError, ArithmeticError) as error:
            self._problem(where, f"{value!r} {error}", f"the field is a {kind}")
            return None

    # ── fields ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _field(
        self,
        where: str,
        field: str,
        rules: Field,
        tables: Mapping[str, Table],
        sides: dict[str, dict[str, FieldBinding]],
        entity: EntityConfig,
    ) -> Kind:
        places = []
        for number, (system, side) in enumerate(rules.sides.items()):
            if system not in tables:
                continue
            if number == 1 and rules.values is not None:  # first system's code: second system's code
                side = side.model_copy(update={"values": rules.values, "otherwise": rules.otherwise})
            side = side.model_copy(update={"write": entity.writes(system, side)})
            finder = PlaceCompiler(self._problem, self._normal, system, tables[system], entity.bindings[system])
            place = finder.place(f"{where}.{system}", side)
            if place is None:
                continue
            places.append(place)
            if rules.ref is not None and (target := self._referred(place, rules.ref)) is not None:
                binding = finder.reference(place, field, rules.ref, target)
                if binding is not None:
                    sides[system][field] = binding
        if rules.ref is not None:
            return "ref"
        kind = self._kind(where, rules, places)
        if kind:
            for place in places:
                binding = SideCompiler(self._problem, self._normal, place, kind, rules).binding(field)
                if binding is not None:
                    sides[place.system][field] = binding
        return kind

    def _kind(self, where: str, rules: Field, places: Sequence[Place]) -> Kind:
        """What the field's values are compared as. Empty: that cannot be said."""
        if rules.kind is not None:
            return rules.kind
        offered = {place.system: offer for place in places if (offer := offered_kind(place)) is not None}
        found = set(offered.values())
        if len(found) <= 1:
            made_a_list = any(place.side.list is not None for place in places)
            return found.pop() if found else (f"{kinds.LIST}text" if made_a_list else "text")
        if "text" in found and found - {"text"} <= BRIDGED:
            return "text"
        if "json" in found and len(found) == 2 and (lists := [kind for kind in found if kind.startswith(kinds.LIST)]):
            return lists[0]
        told = ", ".join(f"{system} has a {kind}" for system, kind in offered.items())
        if found == {"datetime", "timestamp"}:
            mend = "say which zone the one without means: {column: …, timezone: Europe/Berlin}"
        elif "text" in found and any(kind.startswith(kinds.LIST) for kind in found):
            mend = "say how the text is a list: {column: …, list: ', '}"
        elif found <= BRIDGED | {"text"}:
            mend = "say kind: text if their texts are to be compared, or give values or a python function"
        else:
            mend = "give values or a python function that makes one of the other"
        self._problem(where, f"the columns cannot hold each other's values: {told}", mend)
        return ""

    def _referred(self, place: Place, target: str) -> Table | None:
        """The table in which an entity lives in the place's system."""
        bound = self._config.entities[target].bindings.get(place.system)
        if bound is None:
            what = f"refers to {target}, which is not bound to {place.system}"
            self._problem(place.where, what, f"bind {target} there, or leave {place.system} out")
            return None
        table = self._catalogs.get(place.system, {}).get(".".join(table_name(bound.table) or ()))
        return table if table is not None and table.primary_key else None  # reported where it stands

    # ── bindings ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _binding(
        self,
        name: str,
        system: str,
        entity: EntityConfig,
        table: Table,
        parts: Sequence[Resolved],
        shape: Table,
        sides: Mapping[str, FieldBinding],
        *,
        inserts: bool,
    ) -> Binding:
        where = f"entities.{name}.{system}"
        config = entity.bindings[system]
        writable = frozenset(field for field in sides if entity.writes(system, entity.fields[field].sides[system]))
        written = self._written(where, entity, sides, writable, config)
        scope, tests = self._scope(where, shape, config.where)
        insert = self._expressions(f"{where}.insert", table, config.insert)
        always = self._expressions(f"{where}.always", table, config.always)
        for column, texts in scope.items():  # what we insert must count
            described = table.column(column)
            if column in config.insert:
                self._in_scope(where, column, config.insert[column], next(test for test in tests if test[0] == column))
            elif column not in written and column not in always and described is not None and texts and texts[0] is not None:
                insert[column] = Expr(f"%s::{described.type}", (texts[0],))
        if inserts:
            report_uncounted(self._problem, where, table, tests, {*written, *always, *config.insert, *insert})
        compiler = PartCompiler(self._problem, self._scope, self._expressions, self._in_scope, self._not_null)
        compiled = tuple(compiler.part(resolved, parts, config, sides, writable, scope, written, inserts) for resolved in parts)
        if inserts:
            linked = {column for part in compiled if part.kind == "parent" and part.of == "" and part.made for column in part.link}
            here = [rules.sides[system] for rules in entity.fields.values() if system in rules.sides]
            mapped_to = {column for side in here if entity.writes(system, side) for column in side.columns}  # also those that were refused
            beside = {column for field in writable for column in sides[field].beside}
            self._not_null(where, table, {*mapped_to, *(written.keys() - beside), *config.insert, *config.always, *insert, *linked})
        inserted = {*insert, *(part.flat(column) for part in compiled for column in part.insert)}
        root_links = [column for part in compiled if part.kind == "parent" and part.of == "" for column in part.link]
        mapped = [column for side in sides.values() for column in side.columns]
        needed = {column for column in (*table.primary_key, *scope, *mapped, *root_links) if table.column(column) is not None}
        return Binding(
            system=system,
            entity=name,
            table=table,
            shape=shape,
            parts=compiled,
            key_columns=table.primary_key,
            fields=tuple(sides),
            columns={field: side.columns for field, side in sides.items()},
            writable=writable,
            generated=frozenset(field for field in writable if any(column in inserted for column in sides[field].made_in)),
            insert=insert,
            always=always,
            scope=scope,
            needed=frozenset({*table.primary_key, *scope}),
            root_columns=tuple(column.name for column in table.columns if column.name in needed),
            sides=sides,
            _plain=tuple((side.field, side.columns[0], side.read, side.null) for side in sides.values() if side.read_parts is None),
            _composed=tuple(side for side in sides.values() if side.read_parts is not None),
            _key=tuple(key_form(key) for column in table.primary_key if (key := table.column(column)) is not None),
            _scope=tests,
        )

    def _written(
        self, where: str, entity: EntityConfig, sides: Mapping[str, FieldBinding], writable: frozenset[str], config: BindingConfig
    ) -> dict[str, str]:
        """column → the field that is written to it."""
        written: dict[str, str] = {}
        for field in (field for field in sides if field in writable):
            for column in sides[field].columns:
                at = f"{where.rsplit('.', 1)[0]}.fields.{field}.{where.rsplit('.', 1)[1]}"
                rival = next(
                    (one for one in sides if one in writable and one != field and _collide(sides[one], sides[field], column)), None
                )
                if rival is not None and list(sides).index(rival) < list(sides).index(field):
                    mend = "one of the two may only read it: {column: …, write: false}"
                    self._problem(at, f"{column} is written by the field {rival} too", mend)
                elif (part := config.part_of(column)) is not None and part[1] in config.parts[part[0]].always:
                    at = f"{where}.parts.{part[0]}.always.{part[1]}"
                    self._problem(at, f"is written by the field {field} too", "keep one of them")
                elif column in config.always:
                    self._problem(f"{where}.always.{column}", f"is written by the field {field} too", "keep one of them")
                written.setdefault(column, field)
        return written

    def _scope(
        self, where: str, table: Table, given: Mapping[str, tuple[Scalar, ...]]
    ) -> tuple[dict[str, tuple[str | None, ...]], tuple[Test, ...]]:
        """Which columns decide, with the texts that count (none, where all others do), and how they are asked."""
        scope: dict[str, tuple[str | None, ...]] = {}
        tests: list[Test] = []
        for name, values in given.items():
            at = f"{where}.where.{name}"
            try:
                inside = document_column(table, name)
            except ValueError as error:
                self._problem(at, str(error))
                continue
            column, path, told = (table.column(name), None, table.column(name)) if inside is None else inside
            if column is None or told is None:
                self._problem(at, *no_such_column(table, name))
                continue
            codec = kinds.codec_for(told)
            if codec is None or column.generated:
                self._problem(at, f"is a {column.type}, which change events do not carry", "use another column")
                continue
            if told.base == "json":
                self._problem(at, "is json, which PostgreSQL cannot compare", "use jsonb, or another column")
                continue
            before = len(self._problems)
            normal = [self._normal(at, codec.kind, value) for value in values]
            for value in normal:
                if column.labels and value is not None and value not in column.labels:
                    self._problem(at, f"{value!r} is no value of {column.type}", did_you_mean(value, column.labels))
            texts = [self._text(at, codec, value) for value in normal] if len(self._problems) == before else []
            if len(self._problems) > before:
                continue
            one_of_these = not isinstance(values, Except)
            scope[column.name] = tuple(texts) if one_of_these and path is None else scope.get(column.name, ())
            allowed = frozenset(normal)
            tests.append((column.name, codec.read if path is None else path, allowed if one_of_these else Others(allowed)))
        return scope, tuple(tests)

    def _text(self, where: str, codec: kinds.Codec, value: Canonical) -> str | None:
        """What a column holds for a value of the file; a problem, if it cannot."""
        try:
            return None if value is None else column_text(codec, value)
        except ValueError as error:
            self._problem(where, f"{value!r} {error}")
            return None

    def _in_scope(self, where: str, column: str, given: Expression, test: Test) -> None:
        if not given.constant:
            return
        _, read, allowed = test
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

    def _expressions(self, where: str, table: Table, given: Mapping[str, Expression]) -> dict[str, Expr]:
        for column, value in given.items():
            if value.column is not None and value.column in given and given[value.column].column is not None:
                self._problem(f"{where}.{column}", f"{value.column} is the value of another column itself", "name that one")
        return {column: expr for column, value in given.items() if (expr := self._expr(where, table, column, value))}

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
        if given.column is not None:
            return self._same_as(where, table, column, given.column)
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
            if column.labels and column.category != "A" and normal not in column.labels:
                self._problem(where, f"{given.value!r} is no value of {column.type}", did_you_mean(given.value, column.labels))
                return None
            text = self._text(where, codec, normal) or ""
        return Expr(f"%s::{cast_to}", (text,))

    def _same_as(self, where: str, table: Table, column: Column, other: str) -> Expr | None:
        """The value of another column of the row."""
        found = table.column(other)
        if found is None:
            self._problem(where, f"{table} has no column {other!r}", did_you_mean(other, [column.name for column in table.columns]))
            return None
        if found is column or found.generated:
            self._problem(where, f"{other} is {'the same column' if found is column else 'generated'}", "name another column of the row")
            return None
        if found.identity:
            self._problem(where, f"{other} is an identity, which is known only once the row is there", "name another column of the row")
            return None
        if found.identity:
            mend = "a column with a sequence as its default, or nextval of one"
            self._problem(where, f"{other} is an identity, whose value is not known before the row is there", mend)
            return None
        return Expr("", column=other)


def _collide(one: FieldBinding, other: FieldBinding, column: str) -> bool:
    """Whether two fields would overwrite each other in a column."""
    if column not in one.columns or column not in other.columns:
        return False
    mine, theirs = one.shares.get(column), other.shares.get(column)
    return mine is None or theirs is None or not (mine.apart(theirs) or mine.excludes(theirs))
