"""The golden record: what merge sends to `golden.<entity>`, keyed by link id, and sinks apply.

To a stranger's consumer it is the entity's fields, plainly named, and `deleted`. What merge and sinks need besides is `Agreement`, carried
as JSON in the one field `concord`:

    {"link": "crm:4711",                                     which thing
     "targets": ["erp"],                                     systems that were seen to differ from it
     "alive": true, "exists": [hlc, rank, owned, hlc, rank, writes],
     "versions": {"name": [hlc, rank, owned, hlc, rank, writes], …},
     "keys": {"crm": "4711", "erp": "12"},                   the row it has in each system, as far as merge knows
     "seen": {"crm": {"name": …} , "erp": null},             what merge had seen there; null: no live row
     "heard": {"crm": {"": hlc, "address": hlc}},            the highest hlc of our writes that had come back, per part ("": root)
     "cause": {"system": "crm", "ts": 1763910000123456, "op": "u", "key": "4711", "pos": "<32 hex>"},
     "mend": {"by": "alice@host", "ts": …, "fields": {"erp": ["name"]}}}      only of a repair: what is written whatever was decided there
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from schemas.change import Canonical
from schemas.errors import SchemaError


class Stamp(NamedTuple):
    """When a write was made: hybrid logical clock (µs), and the rank of its system to tell equals apart."""

    hlc: int
    rank: int


class Version(NamedTuple):
    """What decides which of two values of a field is the later one. Compares as a tuple; grows with every write folded in."""

    hlc: int  # latest write to the field, by anybody
    rank: int
    owned: int  # 1: decided by the field's owner
    won_hlc: int  # the write whose value stands
    won_rank: int
    writes: int  # how many were seen

    @property
    def latest(self) -> Stamp:
        return Stamp(self.hlc, self.rank)

    @property
    def won(self) -> Stamp:
        return Stamp(self.won_hlc, self.won_rank)


NEVER = Version(0, 0, 0, 0, 0, 0)
_version = Version._make  # TypeError unless there are six; half the time of a call with them


@dataclass(frozen=True, slots=True)
class Cause:
    """The change that made merge send a record: for latency, logs and conflicts."""

    system: str
    ts_us: int
    op: str
    key: str
    position: str


@dataclass(frozen=True, slots=True)
class Mend:
    """An operator's repair (`streams.repaired`): who asked, when, and the fields that are written per system, in their owner's row too."""

    by: str
    ts_us: int
    fields: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class GoldenRecord:
    """The agreed state of one thing, and what its sinks need to apply it safely."""

    entity: str
    link: str
    values: Mapping[str, Canonical]  # every field given so far, also when not alive: the last ones
    alive: bool
    exists: Version
    versions: Mapping[str, Version]  # per field of `values`
    targets: tuple[str, ...]
    keys: Mapping[str, str]
    seen: Mapping[str, Mapping[str, Canonical] | None]
    cause: Cause
    mend: Mend | None = None
    heard: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # system -> part, or ROOT -> hlc (µs) of our writes that came back

    def agreement(self) -> bytes:
        """The JSON of the field `concord`."""
        cause, mend = self.cause, self.mend
        return orjson.dumps(
            {
                "link": self.link,
                "targets": self.targets,
                "alive": self.alive,
                "exists": tuple(self.exists),
                "versions": {name: tuple(version) for name, version in self.versions.items()},
                "keys": self.keys,
                "seen": self.seen,
                "cause": {"system": cause.system, "ts": cause.ts_us, "op": cause.op, "key": cause.key, "pos": cause.position},
                **({"heard": self.heard} if self.heard else {}),
                **({} if mend is None else {"mend": {"by": mend.by, "ts": mend.ts_us, "fields": mend.fields}}),
            }
        )

    def to_avro(self) -> dict[str, Any]:
        """The Avro datum of `golden_schema`."""
        return {**self.values, "deleted": not self.alive, "concord": self.agreement().decode()}

    def mends(self, system: str, name: str) -> bool:
        """Whether an operator wants this field written there."""
        return self.mend is not None and name in self.mend.fields.get(system, ())

    @property
    def hlc(self) -> int:
        """The highest hlc in this record: what a sink puts into `origin_lsn` when it applies it."""
        return max([self.exists.hlc, *(version.hlc for version in self.versions.values())])


def golden_from_avro(entity: str, datum: Mapping[str, Any]) -> GoldenRecord:
    """Inverse of `to_avro`. Raises SchemaError when `datum` is not a golden record."""
    try:
        told = orjson.loads(datum["concord"])
        cause = told["cause"]
        return GoldenRecord(
            entity=entity,
            link=told["link"],
            values={name: datum[name] for name in told["versions"]},
            alive=told["alive"],
            exists=_version(told["exists"]),
            versions={name: _version(version) for name, version in told["versions"].items()},
            targets=tuple(told["targets"]),
            keys=told["keys"],
            seen=told["seen"],
            cause=Cause(cause["system"], cause["ts"], cause["op"], cause["key"], cause["pos"]),
            mend=None if (mend := told.get("mend")) is None else _mend(mend),
            heard=told.get("heard", {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SchemaError(f"not a golden record of {entity}: {error!r}") from error


def _mend(told: Mapping[str, Any]) -> Mend:
    return Mend(told["by"], told["ts"], {system: tuple(names) for system, names in told["fields"].items()})


def golden_schema(entity: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """Avro schema of `golden.<entity>`; `fields` is field name → kind (`schemas.mapping.kinds`).

    A kind that is not `boolean` travels as text in its normal form; the property `concord.kind` names it.
    """
    return {
        "type": "record",
        "name": entity,
        "namespace": "golden",
        "fields": [
            *(
                {
                    "name": name,
                    "type": ["null", "boolean" if kind == "boolean" else "string"],
                    "default": None,
                    "concord.kind": kind,
                }
                for name, kind in fields.items()
            ),
            {"name": "deleted", "type": "boolean"},
            {"name": "concord", "type": "string"},
        ],
    }
