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


_TEXT, _WHOLE = frozenset({str}), frozenset({int})
_ROW, _VALUE = frozenset({dict, type(None)}), frozenset({str, bool, type(None)})


def _problem(record: GoldenRecord) -> str:
    """What `golden_from_avro` does not look at: the types inside, and text that PostgreSQL could not be asked about. Every record of every
    sink passes here: by the sets of their types, which C looks through."""
    keys, seen, heard, cause = record.keys, record.seen, record.heard, record.cause
    if not _are_names([record.link]):
        return f"link {record.link!r}"
    numbers = [*record.exists, *chain.from_iterable(record.versions.values())]
    if set(map(type, numbers)) != _WHOLE or min(numbers) < 0 or max(numbers) >= 1 << 63:
        return f"versions {record.exists!r}, {record.versions!r}"
    if type(keys) is not dict or not _are_names([*keys, *keys.values()]):
        return f"keys {keys!r}"
    if type(seen) is not dict or not _ROW.issuperset(map(type, seen.values())):
        return "seen"
    if type(heard) is not dict or not all(type(back) is dict and _WHOLE.issuperset(map(type, back.values())) for back in heard.values()):
        return f"heard {heard!r}"
    if type(cause.ts_us) is not int or type(cause.system) is not str:
        return f"cause {cause!r}"
    if not _VALUE.issuperset(map(type, record.values.values())):
        return "values of another type than text and boolean"
    return "" if type(record.alive) is bool else f"alive {record.alive!r}"


def _are_names(texts: list[Any]) -> bool:
    return _TEXT.issuperset(map(type, texts)) and all(texts) and "\x00" not in "".join(texts)
