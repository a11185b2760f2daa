"""Kafka Connect schemas, as Debezium makes them, and the Avro schemas that Confluent's AvroData writes for them. No I/O.

A Connect schema is what the JSON converter prints: type, optional, name, version, parameters, doc, default, and fields or items.
A default is the Avro datum (bytes stay bytes). One addition of ours, `column`: the PostgreSQL name of a column whose field had to be
renamed.

    optional                   ["null", X], default null
    optional with a default    [X, "null"]: Avro takes a default for the first branch
    semantic name, version     connect.name, connect.version;  parameters: connect.parameters;  int16: connect.type
    Decimal                    also logicalType decimal; without a precision 64, AvroData's own default
"""

from __future__ import annotations

import re
from typing import Any, Final

ConnectSchema = dict[str, Any]

DECIMAL: Final = "org.apache.kafka.connect.data.Decimal"
PRECISION: Final = "connect.decimal.precision"
_PRIMITIVES: Final = {
    "boolean": "boolean",
    "int16": "int",
    "int32": "int",
    "int64": "long",
    "float": "float",
    "double": "double",
    "string": "string",
    "bytes": "bytes",
}


def avro_name(name: str) -> str:
    """`name` as Avro takes it: letters, digits and `_`, no digit first. What is not, becomes `_`."""
    adjusted = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return "_" + adjusted if adjusted[:1].isdigit() else adjusted or "_"


def avro_names(*parts: str) -> str:
    """A dotted Avro name out of parts that may hold anything."""
    return ".".join(avro_name(part) for part in parts)


def avro_default(datum: Any) -> Any:
    """A datum as it stands in the JSON of a schema: Avro writes bytes as the text of their code points."""
    if isinstance(datum, bytes):
        return datum.decode("latin-1")
    if isinstance(datum, list):
        return [avro_default(item) for item in datum]
    if isinstance(datum, dict):
        return {name: avro_default(item) for name, item in datum.items()}
    return datum


def avro_schema(connect: ConnectSchema, defined: set[str] | None = None) -> Any:
    """The Avro schema of `connect`. A record is spelled out where it first comes and named after that (`defined`)."""
    defined = set() if defined is None else defined
    base = _base(connect, defined)
    if not connect.get("optional"):
        return base
    return ["null", base] if connect.get("default") is None else [base, "null"]


def _base(connect: ConnectSchema, defined: set[str]) -> Any:
    kind = connect["type"]
    name = connect.get("name")
    avro: dict[str, Any]
    if kind == "struct":
        assert name is not None
        if name in defined:
            return name
        defined.add(name)
        namespace, _, short = name.rpartition(".")
        avro = {"type": "record", "name": short, "namespace": namespace, "fields": [_field(field, defined) for field in connect["fields"]]}
    elif kind == "array":
        avro = {"type": "array", "items": avro_schema(connect["items"], defined)}
    else:
        avro = {"type": _PRIMITIVES[kind]}
    if "doc" in connect:
        avro["connect.doc"] = connect["doc"]
    if "version" in connect:
        avro["connect.version"] = connect["version"]
    parameters = connect.get("parameters", {})
    if parameters:
        avro["connect.parameters"] = parameters
    if connect.get("default") is not None:
        avro["connect.default"] = avro_default(connect["default"])
    if name is not None:
        avro["connect.name"] = name
    if name == DECIMAL:
        avro["logicalType"] = "decimal"
        avro["scale"] = int(parameters["scale"])
        avro["precision"] = int(parameters.get(PRECISION, 64))
    if kind == "int16":
        avro["connect.type"] = "int16"
    return avro["type"] if len(avro) == 1 else avro


def _field(connect: ConnectSchema, defined: set[str]) -> dict[str, Any]:
    field: dict[str, Any] = {"name": connect["field"], "type": avro_schema(connect, defined)}
    default = connect.get("default")
    if default is not None:
        field["default"] = avro_default(default)
    elif connect.get("optional"):
        field["default"] = None
    if "column" in connect:
        field["concord.column"] = connect["column"]
    return field


def _optional(kind: str, field: str) -> ConnectSchema:
    return {"type": kind, "optional": True, "field": field}


def _required(kind: str, field: str) -> ConnectSchema:
    return {"type": kind, "optional": False, "field": field}


SOURCE: Final[ConnectSchema] = {
    "type": "struct",
    "fields": [
        _required("string", "version"),
        _required("string", "connector"),
        _required("string", "name"),
        _required("int64", "ts_ms"),
        {
            "type": "string",
            "optional": True,
            "name": "io.debezium.data.Enum",
            "version": 1,
            "parameters": {"allowed": "true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"},
            "default": "false",
            "field": "snapshot",
        },
        _required("string", "db"),
        _optional("string", "sequence"),
        _optional("int64", "ts_us"),
        _optional("int64", "ts_ns"),
        _required("string", "schema"),
        _required("string", "table"),
        _optional("int64", "txId"),
        _optional("int64", "lsn"),
        _optional("int64", "xmin"),
        _optional("string", "origin"),
        _optional("int64", "origin_lsn"),
    ],
    "optional": False,
    "name": "io.debezium.connector.postgresql.Source",
    "version": 1,
    "field": "source",
}

TRANSACTION: Final[ConnectSchema] = {
    "type": "struct",
    "fields": [_required("string", "id"), _required("int64", "total_order"), _required("int64", "data_collection_order")],
    "optional": True,
    "name": "event.block",
    "version": 1,
    "field": "transaction",
}


def envelope(topic: str, columns: list[ConnectSchema]) -> ConnectSchema:
    """The envelope of a table's events; `topic` is already an Avro name."""
    row: ConnectSchema = {"type": "struct", "fields": columns, "optional": True, "name": f"{topic}.Value"}
    return {
        "type": "struct",
        "fields": [
            {**row, "field": "before"},
            {**row, "field": "after"},
            SOURCE,
            TRANSACTION,
            _required("string", "op"),
            _optional("int64", "ts_ms"),
            _optional("int64", "ts_us"),
            _optional("int64", "ts_ns"),
        ],
        "optional": False,
        "name": f"{topic}.Envelope",
        "version": 2,
    }


def key(topic: str, columns: list[ConnectSchema]) -> ConnectSchema:
    """The key of a table's events."""
    return {"type": "struct", "fields": columns, "optional": False, "name": f"{topic}.Key"}
