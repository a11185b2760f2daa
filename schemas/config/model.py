"""The shape of `concord.yaml` as frozen pydantic models.

Two mappings carry names of the reader's own beside fixed keys: an entity its systems' bindings, a field its systems' columns. They are
moved into `bindings` and `sides` before validation; paths in messages leave these two words out.

Shorthands are turned into the one full shape first, so that code sees one form only:

    crm: name                              Side(columns=("name",))
    erp: [value, value_compact]            Side(columns=("value", "value_compact"))        read from the first, written to all
    crm: {columns: [first, last], join: " "}    Side(columns=("first", "last"), join=" ")       one text made of several
    erp: {template: "{zip} {city}"}        Side(columns=("zip", "city"), template=…, write=False)
    where: {org: 42, kind: [a, null], closed: {not: true}}     {"org": ("42",), "kind": ("a", None), "closed": Except((True,))}
    child: party                           Link(columns=("party",))
    first_by: [sequence, id desc]          (Order("sequence"), Order("id", descending=True))
    aggregate: {n: count, total: {sum: amount}}    Aggregate("count"), Aggregate("sum", "amount")
    insert: {created: now, code: {nextval: code_seq}, active: true}    Expression(…) each
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import unquote

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainValidator, WithJsonSchema, model_validator
from pydantic import Field as Spec
from pydantic_core import PydanticCustomError

# What a column or a field may be given in the file. Integers have become text.
Scalar = str | bool | None

KINDS = ("text", "number", "boolean", "date", "timestamp", "datetime", "time", "timetz", "interval", "uuid", "bytes", "json", "ref")
KindName = Literal["text", "number", "boolean", "date", "timestamp", "datetime", "time", "timetz", "interval", "uuid", "bytes", "json"]
Cleaning = Literal["strip", "squeeze", "upper", "lower", "casefold", "digits", "alnum", "nfc", "nfkc", "empty_is_null"]


class Dsn(str):
    """An address that may hold a password: a plain string to everyone who connects with it, masked in `repr`."""

    __slots__ = ()

    @property
    def shown(self) -> str:
        """The same without its password, for messages."""
        if "://" in self:
            masked = re.sub(r"(://[^:/@?#]*:).*@", r"\1***@", self)
            return re.sub(r"(?i)([?&](?:ssl)?password=)[^&]*", r"\1***", masked)
        return re.sub(r"(?i)\b((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", r"\1***", self)

    def secrets(self) -> set[str]:
        """The passwords in it, as they are."""
        if "://" in self:
            found = re.findall(r"://[^:/@?#]*:(.*)@", self) + re.findall(r"(?i)[?&](?:ssl)?password=([^&]*)", self)
            return {unquote(one) for one in found} - {""}
        pairs = re.findall(r"(?i)\b(?:ssl)?password\s*=\s*(?:'((?:[^'\\]|\\.)*)'|(\S+))", self)
        return {re.sub(r"\\(.)", r"\1", quoted or plain) for quoted, plain in pairs} - {""}

    def __repr__(self) -> str:
        return f"Dsn({self.shown!r})"


_SECRET_SETTING = re.compile(r"password|secret|jaas|token|key\.pem")  # of librdkafka's settings


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _scalar(value: object) -> Scalar:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return str(value)
    raise PydanticCustomError("scalar", "must be a single value: text, a number, true, false or null")


def _scalars(value: object) -> tuple[Scalar, ...]:
    if isinstance(value, list | tuple):
        if not value:
            raise PydanticCustomError("scalars", "is an empty list: no row could ever match")
        return tuple(map(_scalar, value))
    return (_scalar(value),)


class Except(tuple[Scalar, ...]):
    """None of these."""

    __slots__ = ()


def _wanted(value: object) -> tuple[Scalar, ...]:
    if isinstance(value, Except):
        return value
    if isinstance(value, Mapping):
        if list(value) != ["not"]:
            raise PydanticCustomError("scalars", "must be a single value, a list of them, or {not: …}")
        return Except(_scalars(value["not"]))
    return _scalars(value)


def _table(value: object) -> dict[Scalar, tuple[Scalar, ...]]:
    if not isinstance(value, Mapping) or not value:
        raise PydanticCustomError("table", "must be a mapping of codes, like {gold: A, silver: B}")
    return {_scalar(key): _scalars(code) for key, code in value.items()}


_SCALAR_SCHEMA = {"type": ["string", "number", "boolean", "null"]}
OneScalar = Annotated[Scalar, PlainValidator(_scalar), WithJsonSchema(_SCALAR_SCHEMA)]
Scalars = Annotated[
    tuple[Scalar, ...],
    PlainValidator(_scalars),
    WithJsonSchema({"anyOf": [_SCALAR_SCHEMA, {"type": "array", "items": _SCALAR_SCHEMA, "minItems": 1}]}),
]
_SCALARS_SCHEMA = {"anyOf": [_SCALAR_SCHEMA, {"type": "array", "items": _SCALAR_SCHEMA, "minItems": 1}]}
Wanted = Annotated[  # what a column is to have in rows that count
    tuple[Scalar, ...],
    PlainValidator(_wanted),
    WithJsonSchema(
        {
            "anyOf": [
                *_SCALARS_SCHEMA["anyOf"],
                {"type": "object", "required": ["not"], "additionalProperties": False, "properties": {"not": _SCALARS_SCHEMA}},
            ]
        }
    ),
]
Codes = Annotated[  # field value: column value; with several, all are read and the first is written
    dict[Scalar, tuple[Scalar, ...]],
    PlainValidator(_table),
    WithJsonSchema(
        {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {"anyOf": [_SCALAR_SCHEMA, {"type": "array", "items": _SCALAR_SCHEMA, "minItems": 1}]},
        }
    ),
]


def _names(value: object) -> object:
    """One name or a list of names."""
    return (value,) if isinstance(value, str) else value


def _not_empty(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise PydanticCustomError("names", "is an empty list, name at least one")
    return value


_NAMES_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
Names = Annotated[tuple[str, ...], BeforeValidator(_names), AfterValidator(_not_empty), WithJsonSchema(_NAMES_SCHEMA)]


def _text(value: object) -> object:
    """Numbers and booleans in a place that is text: a setting `{app.tenant: 42}`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


Text = Annotated[str, BeforeValidator(_text), WithJsonSchema({"type": ["string", "number", "boolean"]})]


def _dsn(value: object) -> Dsn:
    if not isinstance(value, str) or not value.strip():
        raise PydanticCustomError("dsn", "must be a connection string, like postgresql://user@host/database")
    return Dsn(value)


Address = Annotated[Dsn, PlainValidator(_dsn), WithJsonSchema({"type": "string"})]


class Kafka(Model):
    bootstrap: str = Spec(min_length=1)
    partitions: int = Spec(default=4, ge=1, le=1000)  # of every topic: they are co-partitioned; cannot be changed once data is there
    replication: int = Spec(default=1, ge=1)  # one broker: the embedded stack
    settings: dict[str, Text] = Spec(default={}, repr=False)  # librdkafka's names, for security above all: may hold passwords


class Registry(Model):
    url: Address | None = None  # None: the embedded one, a compacted topic


class System(Model):
    dsn: Address
    rank: int  # the higher one wins when two writes have the same time; no two systems share one
    session: dict[str, Text] = {}  # settings of each of our sessions: row-level security
    role: str | None = Spec(default=None, min_length=1)  # SET ROLE in each of our sessions: whose rights and row-level security hold
    slot: str = Spec(min_length=1, max_length=63, pattern=r"^[a-z0-9_]+$")
    publication: str = Spec(min_length=1, max_length=63)
    heartbeat_seconds: float = Spec(default=10.0, gt=0)  # an idle database keeps at most this much WAL for us


class Expression(Model):
    """A column's value made at the moment of writing. Exactly one of these."""

    value: OneScalar = None
    now: bool | str = False  # True, or the zone in which a `timestamp` column wants it
    uuid: bool = False
    sql: str | None = None
    nextval: str | None = None  # name of the sequence
    column: str | None = Spec(default=None, min_length=1)  # the value of another column of the row that is written

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        if isinstance(value, Mapping):
            if len(value) != 1:
                raise PydanticCustomError(
                    "expression", "must be one of: a constant, now, uuid, {now: ZONE}, {sql: …}, {nextval: …}, {column: …}, {value: …}"
                )
            return value
        if isinstance(value, Expression):
            return value
        if value in ("now", "uuid"):
            return {str(value): True}
        return {"value": _scalar(value)}

    @property
    def constant(self) -> bool:
        return not (self.now or self.uuid or self.sql is not None or self.nextval is not None or self.column is not None)


class Link(Model):
    """The columns that hold another row's key, in the order of that key."""

    columns: Names
    prefix: str = ""  # before the key in a text column: 'sale.line,12'; a text that begins otherwise points nowhere

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        if isinstance(value, str | list | tuple):
            return {"columns": value}
        if isinstance(value, Mapping) and "column" in value:
            if "columns" in value:
                raise PydanticCustomError("link", "has both column and columns, keep one")
            return {"columns": value["column"], **{key: inner for key, inner in value.items() if key != "column"}}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.prefix and len(self.columns) != 1:
            raise PydanticCustomError("link", "prefix goes with one column")
        return self


_ORDER = re.compile(r"(?P<column>.*?)(?:\s+(?P<way>asc|desc))?(?:\s+nulls\s+(?P<nulls>first|last))?\s*", re.IGNORECASE)


class Order(Model):
    """One column that rows are put in order by. Nulls come last, whichever way it goes, unless it is said."""

    column: str = Spec(min_length=1)
    descending: bool = False
    nulls_first: bool = False

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        match = _ORDER.fullmatch(value)
        assert match is not None  # every part may be empty
        return {
            "column": match["column"],
            "descending": (match["way"] or "").lower() == "desc",
            "nulls_first": (match["nulls"] or "").lower() == "first",
        }


AGGREGATES = ("sum", "count", "max", "min", "list")


class Aggregate(Model):
    """One value made of all rows of a child part."""

    function: Literal["sum", "count", "max", "min", "list"]
    column: str | None = None  # None: count, of rows
    by: tuple[Order, ...] = ()  # of a list; without, by the rows' key
    separator: str | None = None  # of a list: one text with this between; without, a JSON array of texts

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        if value == "count":
            return {"function": "count"}
        if isinstance(value, Mapping) and "function" not in value:
            named = [key for key in value if key in AGGREGATES]
            if len(named) != 1:
                raise PydanticCustomError("aggregate", "must be count, or one of {sum: …}, {count: …}, {max: …}, {min: …}, {list: …}")
            rest = {key: inner for key, inner in value.items() if key != named[0]}
            return {"function": named[0], "column": value[named[0]], **rest}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.column is None and self.function != "count":
            raise PydanticCustomError("aggregate", "{function} of which column?", {"function": self.function})
        if self.function != "list" and (self.by or self.separator is not None):
            raise PydanticCustomError("aggregate", "by and separator go with list")
        return self


class Part(Model):
    """A row of another table that belongs to the entity in this system, or several drawn together."""

    table: str = Spec(min_length=1)
    child: Link | None = None  # columns of this table: the key of the row that it hangs at
    parent: Link | None = None  # columns of the row that it hangs at: this table's key
    of: str | None = None  # the part that it hangs at; None: the root
    where: dict[str, Wanted] = {}  # rows that count
    first_by: tuple[Order, ...] = ()  # of the children that count, the first is the one; equals by their key
    aggregate: dict[str, Aggregate] = {}  # instead of the first: values made of all of them, only read
    insert: dict[str, Expression] = {}
    always: dict[str, Expression] = {}
    empty: Literal["blank", "delete"] = "blank"  # what becomes of a child whose fields are all null

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.child is None) == (self.parent is None):
            raise PydanticCustomError(
                "part", "says neither child nor parent, or both: {child: column that points at the root} or {parent: …}"
            )
        if self.parent is not None and (self.first_by or self.aggregate or self.empty != "blank"):
            raise PydanticCustomError("part", "first_by, aggregate and empty go with child: a parent is one row")
        if self.aggregate and (self.first_by or self.insert or self.always or self.empty != "blank"):
            raise PydanticCustomError("part", "aggregate is only read: first_by, insert, always and empty do not go with it")
        return self


class Binding(Model):
    """Where an entity lives in one system."""

    table: str = Spec(min_length=1)
    where: dict[str, Wanted] = {}  # rows that count: column equal to, or one of
    insert: dict[str, Expression] = {}  # what an insert needs besides mapped fields
    always: dict[str, Expression] = {}  # set with every write of ours
    parts: dict[str, Part] = {}

    def part_of(self, column: str) -> tuple[str, str] | None:
        """(part, its column) that `part.column` names; None: a column of the table itself."""
        name, dot, rest = column.partition(".")
        return (name, rest) if dot and name in self.parts else None

    def is_aggregate(self, column: str) -> bool:
        """Whether a column is made of many rows, so that nothing can be written to it."""
        found = self.part_of(column)
        return found is not None and bool(self.parts[found[0]].aggregate)


class Otherwise(Model):
    """What stands for codes that `values` does not list."""

    read: OneScalar = None
    write: OneScalar = None


class Function(Model):
    """Python functions by import path, `package.module:name`."""

    read: str
    write: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        return {"read": value} if isinstance(value, str) else value


def _length(value: object) -> int | bool | None:
    if value is None or value is False:
        return None
    if value is True or (isinstance(value, int) and value >= 1):
        return value
    raise PydanticCustomError("length", "must be a number of characters, or true for as many as the column holds")


Length = Annotated[
    int | bool | None, PlainValidator(_length), WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 1}]})
]

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")


def template_pieces(template: str) -> list[tuple[str, str | None]]:
    """`{zip} {city}!` → [("", "zip"), (" ", "city"), ("!", None)]: what stands before each column. `{{` is a brace. Raises ValueError."""
    pieces: list[tuple[str, str | None]] = []
    literal, at = "", 0
    for match in _PIECE.finditer(template):
        literal += template[at : match.start()]
        at = match.end()
        if match[1] is not None:
            pieces.append((literal, match[1].strip()))
            literal = ""
        elif len(match[0]) == 2:
            literal += match[0][0]
        else:
            raise ValueError(f"has a single {match[0]!r}")
    return [*pieces, (literal + template[at:], None)]


class Side(Model):
    """A field's columns in one system, and what its values go through on their way in (read top to bottom) and out (the inverse)."""

    columns: Names = ()
    constant: OneScalar = None  # instead of columns: what all rows of the system have
    template: str | None = None  # instead of columns: a text with them in it, only read
    when: dict[str, Scalars] = {}  # the columns are the field's only while these have (one of) these values; the first is written with it
    join: str | None = None  # several columns are one text with this between them
    split: Literal["last", "first"] = "last"  # where one text is cut back into the columns of `join`
    list: str | None = Spec(default=None, min_length=1)  # the text is a list with this between its elements
    blank: OneScalar = None  # the column value that means null, both ways
    python: Function | None = None  # over all columns, if there are several
    prefix: str | None = Spec(default=None, min_length=1)  # the column's text is this and then the field's
    timezone: str | None = None  # the zone that a `timestamp` column means
    unit: Text | None = None  # field = column x this
    scale: int | None = Spec(default=None, ge=-100, le=1000)  # digits after the point
    values: Codes | None = None  # field value: column value
    otherwise: Otherwise | None = None
    clean: Annotated[tuple[Cleaning, ...], BeforeValidator(_names)] = ()
    shorten: Length = None  # a text too long is cut to so many characters; true: to the column's
    default: OneScalar = None  # written where the field is null
    write: bool = True  # False: only read here, never written nor compared

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        if isinstance(value, str | list | tuple):
            return {"columns": value}
        if not isinstance(value, Mapping):
            return value
        side = dict(value)
        if "sql" in side:
            raise PydanticCustomError("side", "sql cannot be asked about an event: use template, join, values or a python function")
        if "column" in side:
            if "columns" in side:
                raise PydanticCustomError("side", "has both column and columns, keep one")
            side["columns"] = side.pop("column")
        if isinstance(side.get("template"), str):
            if "columns" in side and "write" not in side:
                raise PydanticCustomError("side", "has columns beside template, which names them: keep one")
            try:
                names = [name for _, name in template_pieces(side["template"]) if name is not None]
            except ValueError as error:
                raise PydanticCustomError("side", "template {error}: {{name}} is a column, {{{{ a brace", {"error": str(error)}) from None
            if not names:
                raise PydanticCustomError("side", "template names no column, like {{zip}}")
            side["columns"] = list(dict.fromkeys(names))
        if side.get("constant") is not None or "template" in side:
            side.setdefault("write", False)
        return side

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.columns and self.constant is None:
            raise PydanticCustomError("side", "names no column: {column: …}, {constant: …} or {template: …}")
        if self.join is not None and len(self.columns) < 2:
            raise PydanticCustomError("side", "join needs at least two columns: {columns: [first, last], join: ' '}")
        if self.join == "":
            raise PydanticCustomError("side", "join with nothing between could not be taken apart again")
        if self.otherwise is not None and self.values is None:
            raise PydanticCustomError("side", "otherwise goes with values")
        return self


class Field(Model):
    sides: dict[str, Side] = Spec(min_length=1)
    owner: str | None = None  # whose latest write wins over anybody's
    ref: str | None = None  # the entity that the columns refer to
    kind: KindName | None = None  # what values are compared as, when the columns' types leave it open
    scale: int | None = Spec(default=None, ge=-100, le=1000)
    values: Codes | None = None  # first system's code: second system's code
    otherwise: Otherwise | None = None
    clean: Annotated[tuple[Cleaning, ...], BeforeValidator(_names)] = ()

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, value: object) -> object:
        return gathered(value, FIELD_KEYS, "sides")


class Deletion(Model):
    """What a delete in one system means for the others."""

    policy: Literal["propagate", "ignore", "soft"] = "propagate"
    soft: dict[str, OneScalar] = {}

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        if isinstance(value, str):
            if value not in ("propagate", "ignore"):
                raise PydanticCustomError("deletion", "must be propagate, ignore or {soft: {field: value}}")
            return {"policy": value}
        if isinstance(value, Mapping) and "policy" not in value:
            if not value.get("soft"):
                raise PydanticCustomError("deletion", "must be propagate, ignore or {soft: {field: value}}")
            return {"policy": "soft", **value}
        return value


class Entity(Model):
    bindings: dict[str, Binding] = Spec(min_length=1)
    match_on: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()
    owner: str | None = None  # of each field that names none, and of being there at all
    born_in: Annotated[tuple[str, ...] | None, BeforeValidator(_names)] = None  # None: in every system it is bound to
    delete: Deletion = Deletion(policy="propagate")
    fields: dict[str, Field] = Spec(min_length=1)

    def writes(self, system: str, side: Side) -> bool:
        """Whether a field is written in a system, and compared there."""
        binding = self.bindings.get(system)
        return side.write and not (binding is not None and any(map(binding.is_aggregate, side.columns)))

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, value: object) -> object:
        return gathered(value, ENTITY_KEYS, "bindings")


class Metrics(Model):
    """Ports of the parts' Prometheus endpoints. 0: any free one, written to the state folder."""

    source: int = Spec(default=0, ge=0, le=65535)
    streams: int = Spec(default=0, ge=0, le=65535)
    sink: int = Spec(default=0, ge=0, le=65535)


class Debezium(Model):
    """What real Debezium is told more than it must be to take our source's place (docs/debezium.md)."""

    format: Literal["json", "json-plain", "avro"] = "json"  # JSON that says its types, JSON that does not, Avro through `registry`
    registry: Address | None = None  # Apicurio's, for avro: http://registry:8080/apis/registry/v2
    worker: dict[str, Text] = Spec(default={}, repr=False)  # further settings of the Kafka Connect worker that `concord up` starts
    connector: dict[str, Text] = Spec(default={}, repr=False)  # of every connector; may hold passwords
    systems: dict[str, dict[str, Text]] = Spec(default={}, repr=False)  # of one system's connector


class Config(Model):
    name: str = Spec(default="concord", pattern=r"^[a-z][a-z0-9_]{0,30}$")  # prefix of groups, slots, publications
    kafka: Kafka
    registry: Registry = Registry()
    systems: dict[str, System] = Spec(min_length=1)
    entities: dict[str, Entity] = Spec(min_length=1)
    metrics: Metrics = Metrics()
    source: Literal["concord", "debezium"] = "concord"  # who reads the log; CONCORD_SOURCE and `--source` say it too, and win
    debezium: Debezium = Debezium()
    state_dir: Path = Path(".concord/run")  # relative to the file's folder

    def secrets(self) -> set[str]:
        """All passwords in it: what must not be shown."""
        addresses = [system.dsn for system in self.systems.values()] + ([self.registry.url] if self.registry.url else [])
        found = {secret for address in addresses for secret in address.secrets()}
        theirs = (self.debezium.worker, self.debezium.connector, *self.debezium.systems.values())
        settings = [pair for told in (self.kafka.settings, *theirs) for pair in told.items()]
        return found | {value for name, value in settings if _SECRET_SETTING.search(name)}

    @model_validator(mode="before")
    @classmethod
    def _named_slots(cls, value: object) -> object:
        if not isinstance(value, Mapping) or not isinstance(value.get("systems"), Mapping):
            return value
        named = {
            name: {"slot": _slot(value, name), "publication": _slot(value, name), **system} if isinstance(system, Mapping) else system
            for name, system in value["systems"].items()
        }
        return {**value, "systems": named}


def _slot(config: Mapping[str, object], system: object) -> str:
    """The name of a system's slot and publication, where the file gives none; names that will be refused make none."""
    name = f"{config.get('name', 'concord')}_{system}"
    return name if re.fullmatch(r"[a-z0-9_]{1,63}", name) else "unknown"


FIELD_KEYS = frozenset(Field.model_fields) - {"sides"}
ENTITY_KEYS = frozenset(Entity.model_fields) - {"bindings"}
SIDE_KEYS = frozenset(Side.model_fields) | {"column"}


def gathered(value: object, known: frozenset[str], into: str) -> object:
    """`value` with every key that is not known moved into the mapping `into`."""
    if not isinstance(value, Mapping) or into in value:
        return value
    own = {key: inner for key, inner in value.items() if key in known}
    return {**own, into: {key: inner for key, inner in value.items() if key not in known}}
