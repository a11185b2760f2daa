"""Bytes on a golden topic → golden record, refused here if they are not one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

from schemas.errors import SchemaError
from schemas.golden import GoldenRecord, golden_from_avro
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


def is_for(system: str, raw: bytes | None) -> bool:
    """Whether a system is among a record's targets, by a look at its bytes; also for what is none, or cannot be told from them. Mistaken
    only where a field is called `targets`: whoever asks must not rely on a no.

    The last such list is the record's own: its values stand before it, and quotes in the JSON behind it are escaped.
    """
    at = -1 if raw is None else raw.rfind(b'"targets":[')
    return raw is None or at < 0 or f'"{system}"'.encode() in raw[at : raw.find(b"]", at)]


def _problem(record: GoldenRecord) -> str:
    """What `golden_from_avro` does not look at: the types inside, and text that PostgreSQL could not be asked about."""
    if not _is_name(record.link):
        return f"link {record.link!r}"
    numbers = [*record.exists, *chain.from_iterable(record.versions.values())]
    if set(map(type, numbers)) != {int} or min(numbers) < 0 or max(numbers) >= 1 << 63:
        return f"versions {record.exists!r}, {record.versions!r}"
    if not isinstance(record.keys, Mapping) or not all(_is_name(text) for item in record.keys.items() for text in item):
        return f"keys {record.keys!r}"
    if not isinstance(record.seen, Mapping) or not all(seen is None or isinstance(seen, Mapping) for seen in record.seen.values()):
        return "seen"
    if not isinstance(record.heard, Mapping) or not all(
        isinstance(back, Mapping) and all(type(hlc) is int for hlc in back.values()) for back in record.heard.values()
    ):
        return f"heard {record.heard!r}"
    if not isinstance(record.cause.ts_us, int) or not isinstance(record.cause.system, str):
        return f"cause {record.cause!r}"
    if not all(value is None or isinstance(value, str | bool) for value in record.values.values()):
        return "values of another type than text and boolean"
    return "" if isinstance(record.alive, bool) else f"alive {record.alive!r}"


def _is_name(text: Any) -> bool:
    return isinstance(text, str) and bool(text) and "\x00" not in text
