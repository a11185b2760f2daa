"""An operator's repair of one thing: a message on `changes.<entity>` beside its changes, keyed by link id, so that merge folds it in turn.

    {"repair": {"by": "alice@host", "ts": 1763910000123456, "fields": ["name"],
                "seen": {"erp": {"key": "12", "values": {"name": "Acme AG", …}}, "crm": {"key": "4711", "values": null}}}}

It carries no value to write: what is written is what merge holds to be agreed when it comes to it. It says what each system was seen to
hold, so that the sinks write over that and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from schemas.change import Canonical, Change, change_from_json
from schemas.errors import SchemaError

OPERATOR = "operator"  # stands for a system where a person decided. No system may be called so: see `schemas.config`


@dataclass(frozen=True, slots=True)
class SeenRow:
    """A system's row of the thing, as somebody looked at it."""

    key: str | None  # the row, or the last one known of it; None: there never was one
    values: Mapping[str, Canonical] | None  # every mapped field; None: there is no row


@dataclass(frozen=True, slots=True)
class Repair:
    """What is to be as merge has it."""

    by: str  # who asked: alice@host
    ts_us: int  # when, µs since 1970; tells one repair of a thing from another
    fields: tuple[str, ...]  # that differ; whether the thing is there at all is seen from `seen`
    seen: Mapping[str, SeenRow]

    def encode(self) -> bytes:
        seen = {system: {"key": row.key, "values": row.values} for system, row in self.seen.items()}
        return orjson.dumps({"repair": {"by": self.by, "ts": self.ts_us, "fields": self.fields, "seen": seen}})


def decode_told(data: bytes) -> Change | Repair:
    """What a message of `changes.<entity>` says. Raises SchemaError when it is neither."""
    try:
        doc = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise SchemaError(f"not a change: {error}") from error
    if isinstance(doc, dict) and "repair" in doc:
        return _repair_from_json(doc["repair"])
    return change_from_json(doc)


def _repair_from_json(doc: Any) -> Repair:
    try:
        seen = {system: SeenRow(row["key"], row["values"]) for system, row in doc["seen"].items()}
        repair = Repair(doc["by"], doc["ts"], tuple(doc["fields"]), seen)
    except (KeyError, TypeError, AttributeError) as error:
        raise SchemaError(f"not a repair: {error!r}") from error
    fits = (
        isinstance(repair.by, str)
        and type(repair.ts_us) is int
        and 0 < repair.ts_us < 1 << 63
        and all(isinstance(name, str) for name in repair.fields)
        and all(_is_row(row) for row in seen.values())
    )
    if not fits:
        raise SchemaError(f"not a repair: by {repair.by!r}, at {repair.ts_us!r}")
    return repair


def _is_row(row: SeenRow) -> bool:
    if not isinstance(row.key, str | None):
        return False
    if row.values is None:
        return True
    return row.key is not None and isinstance(row.values, dict) and all(isinstance(v, str | bool | None) for v in row.values.values())
