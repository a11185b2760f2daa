"""Bytes on a golden topic → golden record, refused here if they are not one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.errors import SchemaError
from schemas.golden import GoldenRecord, Version, golden_from_avro
from schemas.serde import Codec


class GoldenDecoder:
    """decode(entity, bytes). Raises SchemaError (NotAnEvent, UnknownSchema) for what is no golden record, Retriable."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def __call__(self, entity: str, raw: bytes) -> GoldenRecord:
        _, datum = self._codec.decode(raw)
        if not isinstance(datum, Mapping):
            raise SchemaError(f"not a golden record of {entity}: {type(datum).__name__}, expected a record")
        record = golden_from_avro(entity, datum)
        problem = _problem(record)
        if problem:
            raise SchemaError(f"not a golden record of {entity}: {problem}")
        return record


def _problem(record: GoldenRecord) -> str:
    """What `golden_from_avro` does not look at: the types inside, and text that PostgreSQL could not be asked about."""
    if not _is_name(record.link):
        return f"link {record.link!r}"
    for version in (record.exists, *record.versions.values()):
        if not _is_version(version):
            return f"version {version!r}"
    if not isinstance(record.keys, Mapping) or not all(_is_name(text) for item in record.keys.items() for text in item):
        return f"keys {record.keys!r}"
    if not isinstance(record.seen, Mapping) or not all(seen is None or isinstance(seen, Mapping) for seen in record.seen.values()):
        return "seen"
    if not isinstance(record.cause.ts_us, int) or not isinstance(record.cause.system, str):
        return f"cause {record.cause!r}"
    if not all(value is None or isinstance(value, str | bool) for value in record.values.values()):
        return "values of another type than text and boolean"
    return "" if isinstance(record.alive, bool) else f"alive {record.alive!r}"


def _is_name(text: Any) -> bool:
    return isinstance(text, str) and bool(text) and "\x00" not in text


def _is_version(version: Version) -> bool:
    return all(type(number) is int and 0 <= number < 1 << 63 for number in version)
