"""A first configuration as data: what is proposed, what is only thought of (`active=False`: written as a comment), and why. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Plain = Any  # what YAML has: texts, numbers, booleans, mappings, lists


@dataclass
class FieldProposal:
    """A field: which columns it is, and what says so."""

    name: str
    sides: dict[str, Plain]  # system → its column, or the side in full
    score: float
    why: str
    rules: dict[str, Plain] = field(default_factory=dict)  # owner, clean, values, ref, …
    active: bool = True
    remark: str = ""  # what a person has to look at

    def columns(self, system: str) -> tuple[str, ...]:
        side = self.sides.get(system)
        if isinstance(side, Mapping):
            given = side.get("columns", side.get("column"))
            return tuple(given) if isinstance(given, list) else (str(given),)
        return () if side is None else (str(side),)

    def to_plain(self) -> dict[str, Plain]:
        return {**self.sides, **self.rules}


@dataclass
class Given:
    """A column that an insert (or every write) of ours gives a value."""

    column: str
    value: Plain
    why: str = ""


@dataclass
class PartProposal:
    """Rows of another table that may belong to the entity. Always a thought only."""

    name: str
    part: dict[str, Plain]
    fields: list[FieldProposal]
    why: str


@dataclass
class BindingProposal:
    """Where an entity lives in one system."""

    source: str  # `schema.table`
    table: str  # as the file names it
    insert: list[Given] = field(default_factory=list)
    always: list[Given] = field(default_factory=list)
    where: list[tuple[dict[str, Plain], str]] = field(default_factory=list)  # thoughts: rows that count, and why
    parts: list[PartProposal] = field(default_factory=list)
    not_mapped: list[tuple[str, str]] = field(default_factory=list)  # column, why


@dataclass
class EntityProposal:
    """A thing that lives in both systems."""

    name: str
    score: float
    why: str
    bindings: dict[str, BindingProposal]
    fields: list[FieldProposal]
    match_on: list[str] = field(default_factory=list)
    match_why: str = ""
    delete: Plain = "ignore"
    delete_why: str = ""
    active: bool = True
    remark: str = ""

    def field(self, name: str) -> FieldProposal | None:
        return next((one for one in self.fields if one.name == name), None)

    @property
    def actives(self) -> Iterator[FieldProposal]:
        return (one for one in self.fields if one.active)

    def to_plain(self) -> dict[str, Plain]:
        """As the file has it, without what is only thought of."""
        bindings: dict[str, Plain] = {}
        for system, binding in self.bindings.items():
            given = {"insert": binding.insert, "always": binding.always}
            bindings[system] = {
                "table": binding.table,
                **{key: {one.column: one.value for one in values} for key, values in given.items() if values},
            }
        return {
            **bindings,
            **({"match_on": self.match_on} if self.match_on else {}),
            "delete": self.delete,
            "fields": {one.name: one.to_plain() for one in self.actives},
        }


@dataclass
class Proposal:
    """Everything."""

    systems: tuple[str, str]
    entities: list[EntityProposal]
    alone: dict[str, list[tuple[str, str]]]  # system → tables that have no counterpart, and why

    def to_plain(self) -> dict[str, Plain]:
        """What `concord.yaml` says, as data."""
        return {
            "kafka": {"bootstrap": "${KAFKA_BOOTSTRAP:-localhost:9092}"},
            "systems": {name: {"dsn": f"${{{variable(name)}}}", "rank": rank} for rank, name in enumerate(self.systems, 1)},
            "entities": {entity.name: entity.to_plain() for entity in self.entities if entity.active},
        }

    def to_json(self) -> dict[str, Plain]:
        return {
            "systems": list(self.systems),
            "entities": [_entity_json(entity) for entity in self.entities],
            "without_counterpart": {
                system: [{"table": table, "why": why} for table, why in tables] for system, tables in self.alone.items()
            },
        }


def variable(system: str) -> str:
    """The environment variable that holds a system's address."""
    return f"{system.upper()}_DSN"


def _entity_json(entity: EntityProposal) -> dict[str, Plain]:
    return {
        "name": entity.name,
        "active": entity.active,
        "score": entity.score,
        "why": entity.why,
        "remark": entity.remark,
        "match_on": entity.match_on,
        "match_why": entity.match_why,
        "delete": entity.delete,
        "bindings": {
            system: {
                "table": binding.table,
                "insert": {one.column: {"value": one.value, "why": one.why} for one in binding.insert},
                "always": {one.column: {"value": one.value, "why": one.why} for one in binding.always},
                "where": [{"where": where, "why": why} for where, why in binding.where],
                "parts": [
                    {"name": one.name, "part": one.part, "why": one.why, "fields": [_field_json(f) for f in one.fields]}
                    for one in binding.parts
                ],
                "not_mapped": [{"column": column, "why": why} for column, why in binding.not_mapped],
            }
            for system, binding in entity.bindings.items()
        },
        "fields": [_field_json(one) for one in entity.fields],
    }


def _field_json(one: FieldProposal) -> dict[str, Plain]:
    return {
        "name": one.name,
        "active": one.active,
        "score": one.score,
        "why": one.why,
        "remark": one.remark,
        **({"sides": one.sides} if one.sides else {}),
        **one.rules,
    }
