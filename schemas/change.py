"""A change of a known thing: what intake sends to `changes.<entity>`, keyed by link id, and merge folds.

On the wire it is JSON (the topic is ours alone; see docs/decisions/0002):

    {"system": "crm", "key": "4711", "op": "u", "pos": "<32 hex>", "ts": 1763910000123456, "origin": null,
     "values": {"name": "Acme", "limit": "1000"}, "positions": {"street": "<40 hex>"}, "at": "<32 hex>", "part": "address"}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import orjson

from schemas.errors import SchemaError

# A field's value inside Concord: what two systems' columns are compared as. Numbers, dates, times are text in one normal form
# (`schemas.mapping.kinds`); a reference is a row name, `system:key`. Never a float: it would not compare.
Canonical = str | bool | None


class Op(Enum):
    """What happened to a row. Values are Debezium's."""

    CREATE = "c"
    UPDATE = "u"
    DELETE = "d"
    READ = "r"  # seen by a snapshot: it was there before


def row_name(system: str, key: str) -> str:
    """`crm:4711`: names a row across systems; the link id of a thing is the row name of the first row known of it."""
    return f"{system}:{key}"


def parse_row_name(name: str) -> tuple[str, str]:
    """`crm:4711` → ("crm", "4711"). System names have no colon, keys may."""
    system, colon, key = name.partition(":")
    if not colon or not system or not key:
        raise SchemaError(f"not a row name: {name!r}, expected something like 'crm:4711'")
    return system, key


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one system's row of a linked thing."""

    system: str
    key: str  # of the row in that system: the key column's text, several as a JSON array of texts
    op: Op
    position: str  # of the row: str(Position), and of the parts that decide whether it counts; compares with others of the same row
    ts_us: int  # commit time by that system's clock, µs since 1970
    origin_hlc: int | None  # None: somebody's edit. Else our own write: the highest hlc of what it applied
    values: Mapping[str, Canonical] | None  # None when op is DELETE. A field may be absent: not known (unchanged TOAST)
    positions: Mapping[str, str] = field(default_factory=dict)  # of fields in parts: compares with others of the same field and row
    was: str | None = None  # the key that the row had until now, when this change is one of its key
    left: bool = False  # of a DELETE: the row is still there, it only does not count any more. It may come back with what it had
    at: str = ""  # where the event stands in the log, if that is not `position`: it was one of a part
    part: str = ""  # the part whose row the event was about; '': the root's
    # of a READ after a lost slot, whose row may hold writes of ours that nobody has read: field → (what our sink wrote last, its hlc)
    ours: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def log_position(self) -> str:
        """Where the event stands in its system's log: str(Position)."""
        return self.at or self.position

    def to_json(self) -> dict[str, Any]:
        return {
            "system": self.system,
            "key": self.key,
            "op": self.op.value,
            "pos": self.position,
            "ts": self.ts_us,
            "origin": self.origin_hlc,
            "values": self.values,
            **({"positions": self.positions} if self.positions else {}),
            **({"was": self.was} if self.was is not None else {}),
            **({"left": True} if self.left else {}),
            **({"at": self.at} if self.at else {}),
            **({"part": self.part} if self.part else {}),
            **({"ours": self.ours} if self.ours else {}),
        }

    def encode(self) -> bytes:
        return orjson.dumps(self.to_json())


def change_from_json(doc: Mapping[str, Any]) -> Change:
    """Raises SchemaError when `doc` is not a change."""
    try:
        return Change(
            system=doc["system"],
            key=doc["key"],
            op=Op(doc["op"]),
            position=doc["pos"],
            ts_us=doc["ts"],
            origin_hlc=doc["origin"],
            values=doc["values"],
            positions=doc.get("positions", {}),
            was=doc.get("was"),
            left=doc.get("left", False),
            at=doc.get("at", ""),
            part=doc.get("part", ""),
            ours=doc.get("ours", {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SchemaError(f"not a change: {error!r}") from error


def decode_change(data: bytes) -> Change:
    """Raises SchemaError when `data` is not a change."""
    try:
        return change_from_json(orjson.loads(data))
    except orjson.JSONDecodeError as error:
        raise SchemaError(f"not a change: {error}") from error
