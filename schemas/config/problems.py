"""What is wrong with a configuration, in words a person can act on.

`problems_of_shape` translates pydantic's findings; `problems_of` finds what single values cannot show: names that point nowhere, two
systems of one rank, a delete policy for a field that is not there. Neither looks at a database, and neither ever shows an address
or a setting's value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schemas.config.model import (
    ENTITY_KEYS,
    FIELD_KEYS,
    SIDE_KEYS,
    Binding,
    Config,
    Entity,
    Expression,
    Field,
    Kafka,
    Metrics,
    Part,
    Registry,
    Side,
    System,
)
from schemas.errors import Problem

SECRET = {"dsn", "url", "settings", "session"}  # what stands there is never shown
RESERVED_SYSTEMS = {
    "concord",
    "changes",
    "claims",
    "commands",
    "conflicts",
    "dead",
    "golden",
    "join",
    "links",
    "operator",
}  # topics begin so; a person
RESERVED_FIELDS = {"deleted", "concord"}  # of the golden record
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
SYSTEM_NAME = re.compile(r"[a-z][a-z0-9_]{0,19}\Z")
_GATHERED = {"bindings", "sides"}

_OWN_KEYS: dict[str, Iterable[str]] = {
    "": Config.model_fields,
    "kafka": Kafka.model_fields,
    "registry": Registry.model_fields,
    "metrics": Metrics.model_fields,
    "system": System.model_fields,
    "entity": ENTITY_KEYS,
    "binding": Binding.model_fields,
    "part": Part.model_fields,
    "field": FIELD_KEYS,
    "side": SIDE_KEYS,
}


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """A mend for a name that is not known."""
    names = sorted(map(str, known))
    close = get_close_matches(str(name), names, 1, 0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"known are: {', '.join(names)}" if names else ""


def path_of(location: Iterable[int | str]) -> str:
    """Where it stands in the file: pydantic's location without our own words."""
    return ".".join(str(part) for part in location if part not in _GATHERED and part != "[key]")


# ── shape ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def problems_of_shape(error: ValidationError, data: Mapping[str, Any]) -> list[Problem]:
    systems = data.get("systems")
    names = set(systems) if isinstance(systems, Mapping) else set()
    problems: dict[str, Problem] = {}
    for detail in error.errors(include_url=False, include_context=True):
        problem = _problem(detail, names)
        problems.setdefault(f"{problem.where}: {problem.what}", problem)
    misspelt = {  # `tabel: x` is one mistake: what it was meant to be is not missing
        f"{problem.where.rpartition('.')[0]}.{problem.mend[13:-1]}".removeprefix(".")
        for problem in problems.values()
        if problem.mend.startswith("did you mean ")
    }
    return [problem for problem in problems.values() if not (problem.what == "is missing" and problem.where in misspelt)]


def _problem(detail: ErrorDetails, systems: set[str]) -> Problem:
    location = detail["loc"]
    for place, known in ((("entities", "bindings"), ENTITY_KEYS), (("fields", "sides"), FIELD_KEYS)):
        at = _gathered_at(location, place[1])
        if at is not None and location[at] not in systems:  # no system's name: a key nobody knows
            return _unknown(location[: at + 1], {*known, *systems})
    where, kind, given = path_of(location) or "concord.yaml", detail["type"], detail.get("input")
    context = detail.get("ctx") or {}
    secret = any(part in SECRET for part in location)
    shown = "" if secret or isinstance(given, dict | list) or given is None else f", not {_short(given)}"
    if kind == "extra_forbidden":
        return _unknown(location, _OWN_KEYS.get(_model_at(location[:-1]), ()))
    if kind == "missing":
        gathered = location[-1] in _GATHERED
        what = "names no system" if gathered else "is missing"
        return Problem(where, what, "give its table: `crm: {table: public.account}`" if location[-1] == "bindings" else "")
    if kind == "too_short" and location[-1] in _GATHERED:
        return Problem(where, f"names no system; say where it lives, for one of: {', '.join(sorted(systems)) or 'systems'}")
    if kind == "string_pattern_mismatch":
        return Problem(where, f"must be lower case letters, digits and _{shown}")
    if kind in ("literal_error", "enum"):
        return Problem(where, f"must be {context.get('expected', 'one of the known words')}{shown}", _literal_mend(given, context, secret))
    words = {
        "int_parsing": "must be a whole number",
        "int_type": "must be a whole number",
        "int_from_float": "must be a whole number",
        "float_parsing": "must be a number",
        "float_type": "must be a number",
        "bool_parsing": "must be true or false",
        "bool_type": "must be true or false",
        "string_type": "must be text",
        "dict_type": "must be a mapping",
        "model_type": "must be a mapping",
        "model_attributes_type": "must be a mapping",
        "tuple_type": "must be a list",
        "list_type": "must be a list",
        "path_type": "must be a path",
        "string_too_short": "is empty",
        "string_too_long": f"is longer than {context.get('max_length')} characters",
        "too_short": "is empty",
        "greater_than": f"must be more than {context.get('gt')}",
        "greater_than_equal": f"must be at least {context.get('ge')}",
        "less_than": f"must be less than {context.get('lt')}",
        "less_than_equal": f"must be at most {context.get('le')}",
    }
    if kind not in words:
        return Problem(where, detail["msg"])
    return Problem(where, words[kind] + (shown if words[kind].startswith("must") else ""))


def _literal_mend(given: object, context: Mapping[str, Any], secret: bool) -> str:
    close = get_close_matches(str(given), re.findall(r"'([^']*)'", str(context.get("expected", ""))), 1, 0.6)
    return f"did you mean {close[0]}?" if close and not secret else ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


def _gathered_at(location: tuple[int | str, ...], word: str) -> int | None:
    """Index of the name that stands in `bindings` or `sides`."""
    depth = {"bindings": 2, "sides": 4}[word]  # entities.customer.bindings.crm, entities.customer.fields.name.sides.crm
    return depth + 1 if len(location) > depth + 1 and location[depth] == word else None


def _unknown(location: tuple[int | str, ...], known: Iterable[str]) -> Problem:
    key = location[-1]
    return Problem(path_of(location), f"unknown key {key!r}", did_you_mean(key, known))


def _model_at(location: tuple[int | str, ...]) -> str:
    """Which model's keys stand at a location."""
    match location:
        case ():
            return ""
        case ("kafka" | "registry" | "metrics" as name,):
            return str(name)
        case ("systems", _):
            return "system"
        case ("entities", _):
            return "entity"
        case ("entities", _, "bindings", _):
            return "binding"
        case ("entities", _, "bindings", _, "parts", _):
            return "part"
        case ("entities", _, "fields", _):
            return "field"
        case ("entities", _, "fields", _, "sides", _):
            return "side"
    return "?"


def without(data: Any, error: ValidationError) -> Any | None:
    """`data` with harmless stand-ins for the smallest pieces that hold the errors. None when nothing would be left to judge."""
    copied = _copy(data)
    systems = _keys(copied.get("systems"))
    for number, detail in enumerate(error.errors(include_url=False, include_input=False, include_context=False)):
        match [part for part in detail["loc"] if part not in _GATHERED]:
            case ["entities", str(entity), "fields", str(field), *_] if bound := sorted(systems & _keys(copied["entities"][entity])):
                copied["entities"][entity]["fields"][field] = {bound[0]: "unknown"}
            case ["entities", str(entity), str(system), *_] if system in systems:
                copied["entities"][entity][system] = {"table": "unknown"}
            case ["entities", str(entity), str(key), *_] if isinstance(copied["entities"][entity], dict):
                if copied["entities"][entity].pop(key, copied) is copied:  # it was its absence
                    return None
            case ["systems", str(system), *_]:
                given = copied["systems"][system]
                rank = given.get("rank") if isinstance(given, dict) else None
                rank = rank if isinstance(rank, int) else -1_000_000 - number  # that of no other
                copied["systems"][system] = {"dsn": "unknown", "rank": rank, "slot": "unknown"}
            case ["kafka", *_]:
                copied["kafka"] = {"bootstrap": "unknown"}
            case [str(key), *_] if key in copied and key not in ("entities", "systems"):
                copied.pop(key)
            case _:
                return None
    return copied


def _copy(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _copy(value) for key, value in data.items()}
    return [_copy(value) for value in data] if isinstance(data, list) else data


# ── names and rules ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def problems_of(config: Config, data: Any = None) -> list[Problem]:
    """Everything wrong that shows without a database. `data`: the file as it was, when `config` is only the sound part of it."""
    return list(_problems(config, _Names(config, data)))


class _Names:
    """All names of the file, those of its unsound pieces too, so that one mistake is not reported twice."""

    def __init__(self, config: Config, data: Any) -> None:
        raw = data if isinstance(data, Mapping) else {}
        self.systems = {*config.systems, *_keys(raw.get("systems"))}
        self.entities = {*config.entities, *_keys(raw.get("entities"))}
        entities = raw.get("entities")
        self._raw: Mapping[str, Any] = entities if isinstance(entities, Mapping) else {}

    def fields(self, name: str, entity: Entity) -> set[str]:
        raw = self._raw.get(name)
        return {*entity.fields, *_keys(raw.get("fields") if isinstance(raw, Mapping) else None)}

    def bindings(self, name: str, entity: Entity) -> set[str]:
        return {*entity.bindings, *(_keys(self._raw.get(name)) - ENTITY_KEYS)}


def _keys(value: object) -> set[str]:
    return {str(key) for key in value} if isinstance(value, Mapping) else set()


def _problems(config: Config, names: _Names) -> Iterator[Problem]:
    ranks: dict[int, str] = {}
    slots: dict[tuple[str, str], str] = {}
    for name, system in config.systems.items():
        where = f"systems.{name}"
        if not SYSTEM_NAME.match(name):
            yield Problem(where, f"{name!r} cannot be a system's name", "lower case letters, digits and _, at most 20, a letter first")
        elif name in RESERVED_SYSTEMS or name in ENTITY_KEYS | FIELD_KEYS:
            yield Problem(where, f"the name {name!r} is taken by Concord itself", "choose another")
        yield from _session_problems(where, system)
        if system.rank in ranks:
            yield Problem(
                f"{where}.rank",
                f"is {system.rank} as that of {ranks[system.rank]}",
                "ranks decide between writes of the same time: give each its own",
            )
        ranks.setdefault(system.rank, name)
        if (system.dsn, system.slot) in slots and system.slot != "unknown":
            yield Problem(f"{where}.slot", f"is the slot of {slots[system.dsn, system.slot]} too", "each system needs its own")
        slots.setdefault((system.dsn, system.slot), name)
    for name, entity in config.entities.items():
        yield from _entity_problems(name, entity, names)


_OURS = {"datestyle", "timezone", "intervalstyle", "extra_float_digits", "bytea_output", "lc_monetary", "client_encoding"}


def _session_problems(where: str, system: System) -> Iterator[Problem]:
    for name in system.session:
        if name.lower() in _OURS:
            yield Problem(f"{where}.session.{name}", "is set by Concord: values are compared as they are printed", "take it out")
        elif name.lower() in ("role", "session_authorization"):
            yield Problem(f"{where}.session.{name}", "would hold while streaming the log too", f"say {where}.role")


def _entity_problems(name: str, entity: Entity, names: _Names) -> Iterator[Problem]:
    where = f"entities.{name}"
    fields, bound = names.fields(name, entity), names.bindings(name, entity)
    if not _NAME.match(name):
        yield Problem(where, f"{name!r} cannot be an entity's name", "letters, digits and _, a letter first")
    for system in entity.bindings:
        if system not in names.systems:
            yield Problem(f"{where}.{system}", f"unknown key {system!r}", did_you_mean(system, {*ENTITY_KEYS, *names.systems}))
    if entity.owner is not None:
        yield from _system_problem(f"{where}.owner", entity.owner, bound, name)
    for system in entity.born_in or ():
        yield from _system_problem(f"{where}.born_in", system, bound, name)
    if entity.born_in == ():
        yield Problem(f"{where}.born_in", "is empty: nothing could ever be born", "leave it out, or name systems")
    for field in entity.match_on:
        if field not in fields:
            yield Problem(f"{where}.match_on", f"there is no field {field!r}", did_you_mean(field, fields))
    if len(set(entity.match_on)) != len(entity.match_on):
        yield Problem(f"{where}.match_on", "names a field twice")
    yield from _match_problems(f"{where}.match_on", entity)
    for field in entity.delete.soft:
        if field not in fields:
            yield Problem(f"{where}.delete.soft.{field}", f"there is no field {field!r}", did_you_mean(field, fields))
        for system in sorted(entity.bindings.keys() - entity.fields[field].sides.keys()) if field in entity.fields else ():
            what = f"{field} is not mapped in {system}, so a delete elsewhere could not be shown there"
            yield Problem(f"{where}.delete.soft.{field}", what, f"map it in {system}")
        for system, side in entity.fields[field].sides.items() if field in entity.fields else ():
            if system in entity.bindings and not entity.writes(system, side):
                what = f"{field} is never written in {system}, so a delete elsewhere could not be shown there"
                yield Problem(f"{where}.delete.soft.{field}", what, f"map it to a column of {system} that can be written")
    for field, rules in entity.fields.items():
        yield from _field_problems(f"{where}.fields.{field}", field, rules, name, bound, names)
        owner = rules.owner or entity.owner
        for system, side in rules.sides.items():
            if not entity.writes(system, side) and owner != system and len(rules.sides) > 1 and side.constant is None:
                what = f"is never written in {system}, so an edit elsewhere would leave the systems different"
                yield Problem(f"{where}.fields.{field}.{system}.write", what, f"say who decides: owner: {system}")
    for system, binding in entity.bindings.items():
        yield from _expression_problems(f"{where}.{system}", binding.insert, binding.always)
        for part, described in binding.parts.items():
            yield from _part_problems(f"{where}.{system}.parts.{part}", part, described, binding)


def _match_problems(where: str, entity: Entity) -> Iterator[Problem]:
    """What is looked for by a value must hold that value, all of it."""
    born_in = set(entity.bindings if entity.born_in is None else entity.born_in)
    for field in dict.fromkeys(entity.match_on):
        for system, side in entity.fields[field].sides.items() if field in entity.fields else ():
            if system not in entity.bindings or not born_in - {system}:
                continue
            if side.constant is not None:
                yield Problem(where, f"{field} is a constant in {system}, so it tells no row from another", "take it out")
            elif side.shorten is not None:
                what = f"{field} is shortened in {system}, so two different things could look the same there"
                yield Problem(where, what, "match on a field that is kept whole")


def _expression_problems(where: str, insert: Mapping[str, Expression], always: Mapping[str, Expression]) -> Iterator[Problem]:
    for column in insert.keys() & always.keys():
        yield Problem(f"{where}.insert.{column}", "stands under always too", "always is set with inserts as well: keep that one")
    for kind, expressions in (("insert", insert), ("always", always)):
        for column, expression in expressions.items():
            if isinstance(expression.now, str):
                yield from _zone_problem(f"{where}.{kind}.{column}.now", expression.now)


def _part_problems(where: str, name: str, part: Part, binding: Binding) -> Iterator[Problem]:
    if not _NAME.match(name):
        yield Problem(where, f"{name!r} cannot be a part's name", "letters, digits and _, a letter first")
    yield from _expression_problems(where, part.insert, part.always)
    above, seen = part.of, {name}
    while above is not None:
        if above not in binding.parts:
            yield Problem(f"{where}.of", f"there is no part {above!r}", did_you_mean(above, binding.parts))
            return
        if above in seen:
            yield Problem(f"{where}.of", f"goes round: {above} hangs at itself", "a part hangs at the root (no `of`) or at another part")
            return
        if binding.parts[above].aggregate:
            yield Problem(f"{where}.of", f"{above} is drawn together out of many rows, nothing can hang at it", "")
            return
        seen.add(above)
        above = binding.parts[above].of


def _field_problems(where: str, field: str, rules: Field, entity: str, bound: set[str], names: _Names) -> Iterator[Problem]:
    if not _NAME.match(field):
        yield Problem(where, f"{field!r} cannot be a field's name", "letters, digits and _, a letter first")
    if field in RESERVED_FIELDS:
        yield Problem(where, f"the name {field!r} is taken in the golden record", "choose another")
    for system in rules.sides:
        if system not in names.systems:
            yield Problem(f"{where}.{system}", f"unknown key {system!r}", did_you_mean(system, {*FIELD_KEYS, *names.systems}))
        elif system not in bound:
            yield Problem(f"{where}.{system}", f"{entity} is not bound to {system}", f"add `{system}: {{table: …}}` to entities.{entity}")
    if rules.owner is not None:
        yield from _system_problem(f"{where}.owner", rules.owner, set(rules.sides), field)
    if rules.ref is not None:
        if rules.ref not in names.entities:
            yield Problem(f"{where}.ref", f"there is no entity {rules.ref!r}", did_you_mean(rules.ref, names.entities))
        given = [key for key in ("kind", "scale", "values", "clean") if getattr(rules, key)]
        given += [key for side in rules.sides.values() for key in _transforms(side)]
        for key in sorted(set(given)):
            yield Problem(f"{where}.{key}", "does not go with ref: a reference is a key, nothing is done to it", "take it out")
    if rules.values is not None and len(rules.sides) != 2:
        yield Problem(
            f"{where}.values",
            f"here means first system's code: second system's code, but the field has {len(rules.sides)} systems",
            "put values beside column, in each system that has codes of its own",
        )
    elif rules.values is not None and any(side.values is not None for side in rules.sides.values()):
        yield Problem(f"{where}.values", "stands beside a system's own values", "keep one of them")
    if rules.otherwise is not None and rules.values is None:
        yield Problem(f"{where}.otherwise", "goes with values", "add values, or put it where they are")
    if {"upper", "lower"} <= set(rules.clean) or {"upper", "casefold"} <= set(rules.clean):
        yield Problem(f"{where}.clean", "upper and lower undo each other", "keep one of them")
    for system, side in rules.sides.items():
        yield from _side_problems(f"{where}.{system}", side)


_NOT_OF_A_KEY = ("template", "join", "list", "python", "timezone", "unit", "scale", "values", "clean", "shorten")


def _transforms(side: Side) -> list[str]:
    """Those that would make something else of a key."""
    return [key for key in _NOT_OF_A_KEY if getattr(side, key) not in (None, ())]


# What a key makes senseless beside it.
_APART: Mapping[str, tuple[str, ...]] = {
    "constant": tuple(name for name in Side.model_fields if name not in ("constant", "write")),
    "template": tuple(name for name in Side.model_fields if name not in ("template", "columns", "write", "values", "otherwise", "clean")),
    "list": ("join", "python", "prefix", "timezone", "unit", "scale", "values", "shorten"),
    "when": ("default",),
    "blank": ("default",),
}
_OVER_ALL = ("blank", "default", "prefix", "timezone", "unit", "scale", "list", "shorten")  # go with a python function over one column


def _side_problems(where: str, side: Side) -> Iterator[Problem]:
    for column in side.columns:
        if not column:
            yield Problem(where, "names an empty column")
    if len(set(side.columns)) != len(side.columns):
        yield Problem(where, "names a column twice")
    if side.timezone is not None:
        yield from _zone_problem(f"{where}.timezone", side.timezone)
    given = [name for name in Side.model_fields if name in side.model_fields_set and getattr(side, name) not in (None, (), {})]
    for key, others in _APART.items():
        for other in (other for other in others if key in given and other in given):
            yield Problem(f"{where}.{other}", f"does not go with {key}", "keep one of them")
    if side.write and (side.constant is not None or side.template is not None):
        key = "constant" if side.constant is not None else "template"
        yield Problem(f"{where}.write", f"a {key} is only read: there is nothing to write it to", "take write out")
    if side.python is not None and len(side.columns) > 1 and side.join is None:
        for other in (other for other in _OVER_ALL if other in given):
            yield Problem(f"{where}.{other}", "does not go with a python function over several columns", "let the function do it")


def _zone_problem(where: str, zone: str) -> Iterator[Problem]:
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        yield Problem(where, f"there is no time zone {zone!r}", "a name like Europe/Berlin or Asia/Shanghai")


def _system_problem(where: str, system: str, known: set[str], what: str) -> Iterator[Problem]:
    if system not in known:
        yield Problem(where, f"{system!r} is no system of {what}", did_you_mean(system, known))


def keys_of(model: type[BaseModel]) -> tuple[str, ...]:
    return tuple(model.model_fields)
