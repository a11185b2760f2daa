"""Avro in the Confluent wire format: one zero byte, the schema id in four bytes (big-endian), the Avro body.

`Codec` is what producers and consumers hold. Reading needs no schema of one's own: the writer's is looked up by its id.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import fastavro
from fastavro.types import Schema

from schemas import compiled_avro
from schemas.errors import NotAnEvent, SchemaError
from schemas.registry import Registry

MAGIC = 0
_HEADER = struct.Struct(">bI")


def wire_header(schema_id: int) -> bytes:
    """The five bytes before an Avro body."""
    return _HEADER.pack(MAGIC, schema_id)


def schema_id_of(data: bytes | None) -> int:
    """The schema id that `data` was written with. Raises NotAnEvent when it is not in the wire format."""
    if data is None or len(data) < _HEADER.size or data[0] != MAGIC:
        raise NotAnEvent(f"not Avro in the wire format: {(data or b'')[:16]!r}, expected a zero byte and a schema id")
    schema_id: int = _HEADER.unpack_from(data)[1]
    return schema_id


def read_body(schema: Schema, data: bytes) -> Any:
    """The datum of a whole message under its writer's schema. Raises NotAnEvent when the bytes are not that."""
    body = io.BytesIO(data)
    body.seek(_HEADER.size)
    try:
        datum = fastavro.schemaless_reader(body, schema, None)
    # fastavro has no error of its own for bytes that make no sense: it runs out of them, indexes past a union or overflows
    except (EOFError, ValueError, LookupError, TypeError, ArithmeticError, StopIteration, MemoryError, struct.error) as error:
        raise NotAnEvent(f"not a datum of schema {schema_id_of(data)}: {error!r}") from error
    if body.tell() != len(data):
        raise NotAnEvent(f"not a datum of schema {schema_id_of(data)}: {len(data) - body.tell()} bytes are left over")
    return datum


class Codec:
    """Encodes and decodes messages with the schemas of a registry.

    Threads: safe. A look-up of an id that is new here may block for up to two seconds; `Registry.known` tells before.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._readers: dict[int, compiled_avro.Reader | None] = {}

    def decode(self, data: bytes | None) -> tuple[int, Any]:
        """(schema id, datum). Raises NotAnEvent, UnknownSchema, or Retriable when the registry cannot be asked."""
        schema_id = schema_id_of(data)
        assert data is not None
        if schema_id not in self._readers:
            self._readers[schema_id] = compiled_avro.reader(self.registry.schema(schema_id))
        read = self._readers[schema_id]
        if read is None:
            return schema_id, read_body(self.registry.schema(schema_id), data)
        try:
            return schema_id, read(data, _HEADER.size)
        except (ValueError, LookupError, TypeError, ArithmeticError, struct.error) as error:
            raise NotAnEvent(f"not a datum of schema {schema_id}: {error}") from error

    def encoder(self, subject: str, schema: dict[str, Any]) -> Callable[[Any], bytes]:
        """Registers `schema` and returns what writes messages with it; the encoder raises SchemaError on a datum that does not fit."""
        header = wire_header(self.registry.register(subject, schema))
        parsed = fastavro.parse_schema(schema)
        write = compiled_avro.writer(schema)

        def encode_quickly(datum: Any) -> bytes:
            try:
                return b"".join((header, *write(datum)))  # type: ignore[misc]  # it is there: see below
            except (ValueError, TypeError, AttributeError) as error:
                raise SchemaError(f"not a datum of {subject}: {error!r}") from error

        def encode(datum: Any) -> bytes:
            body = io.BytesIO()
            body.write(header)
            try:
                fastavro.schemaless_writer(body, parsed, datum)
            except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, struct.error) as error:
                raise SchemaError(f"not a datum of {subject}: {error!r}") from error
            return body.getvalue()

        return encode if write is None else encode_quickly
