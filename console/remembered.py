"""By which mapping a system's rows were read, kept in its database (`concord.mapping`), and what a changed one needs read again.

    an entity, or a field, is new       rows that were read before said nothing of it: the entity's tables are read again
    a field is mapped otherwise         its values were read as something else: the same
    a field is taken out                nothing: it is not written any more, and stays where it is
    other rows count, or are matched    nothing by itself: a row that is read and does not count any more is deleted on the other side
    (`where`, tables, parts, match_on)  (by the entity's policy), so a person says that this is meant: `concord snapshot --changed`

`concord up` asks for what can be asked for by itself when it starts; where parts are restarted one by one, a person does with
`concord snapshot --changed`, once all of them run by the new file: what an older part reads or writes knows nothing of a new field.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import psycopg
from psycopg.types.json import Jsonb
from pydantic import BaseModel

from connectors import concord_schema
from connectors.source.snapshot import SnapshotStore
from console import wiring
from schemas.config import Config
from schemas.mapping import table_name

Connection = psycopg.Connection[tuple[Any, ...]]
AGAIN = "`concord snapshot --changed`"
WRITTEN = frozenset({"insert", "always", "empty", "owner"})  # options that tell how rows are written, or who decides: not how they are read


@dataclass(frozen=True, slots=True)
class Mapped:
    """One entity in one system: fingerprints, of what decides which rows count and of each field."""

    rows: str
    fields: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "fields": dict(self.fields)}


@dataclass(frozen=True, slots=True)
class Change:
    """What is otherwise than when the rows were read."""

    system: str
    entity: str
    tables: tuple[tuple[str, str], ...]  # of the entity, parts first
    new: bool = False
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    rows: bool = False

    @property
    def read_again(self) -> bool:
        """Whether its tables must be read again, and may be without asking."""
        return self.new or bool(self.added or self.changed)

    def to_json(self) -> dict[str, Any]:
        return {
            "system": self.system,
            "entity": self.entity,
            "what": self.what,
            "tables": [f"{schema}.{table}" for schema, table in self.tables],
            "read_again": self.read_again,
        }

    @property
    def what(self) -> str:
        """In words."""
        if self.new:
            return f"entity {self.entity} is new"
        told = [
            f"{_fields(names)} {word}"
            for names, word in ((self.added, "added"), (self.changed, "changed"), (self.gone, "taken out"))
            if names
        ]
        if self.rows:
            told.append("which rows count, or what they are matched by, has changed")
        return f"entity {self.entity}: {', '.join(told)}"


def _fields(names: Sequence[str]) -> str:
    return f"field{'s' * (len(names) > 1)} {', '.join(names)}"


def _plain(told: object, without: frozenset[str] = frozenset()) -> object:
    """A piece of the configuration without what stands there by default: an option that a newer program knows changes no fingerprint."""
    if isinstance(told, BaseModel):
        fields = type(told).model_fields
        return {
            name: _plain(value)
            for name, value in told
            if name not in without and value != fields[name].get_default(call_default_factory=True, validated_data={})
        }
    if isinstance(told, Mapping):
        return {str(key): _plain(value) for key, value in told.items()}
    if isinstance(told, list | tuple):
        kind = [type(told).__name__] if type(told) not in (list, tuple) else []  # `not: x` is not `x`
        return [*kind, *map(_plain, told)]
    return told


def _fingerprint(told: object) -> str:
    return hashlib.sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS, default=str)).hexdigest()[:16]


def mapped(config: Config, entity: str, system: str) -> Mapped:
    """As the configuration has it now. Options that only tell how rows are written are none of it."""
    told = config.entities[entity]
    binding = told.bindings[system]
    rows = {
        "table": binding.table,
        "where": _plain(binding.where),
        "parts": {name: _plain(part, WRITTEN) for name, part in binding.parts.items()},
        "match_on": list(told.match_on),
    }
    fields = {name: _fingerprint(_plain(one, WRITTEN)) for name, one in told.fields.items() if system in one.sides}
    return Mapped(_fingerprint(rows), fields)


def _tables(config: Config, entity: str, system: str) -> tuple[tuple[str, str], ...]:
    binding = config.entities[entity].bindings[system]
    names = [*(part.table for part in binding.parts.values()), binding.table]
    return tuple(dict.fromkeys(place for name in names if (place := table_name(name)) is not None))


def difference(config: Config, system: str, remembered: Mapping[str, Mapped]) -> list[Change]:
    """What the configuration says otherwise than what is remembered of a system."""
    found = []
    for entity, told in config.entities.items():
        if system not in told.bindings:
            continue
        now, before = mapped(config, entity, system), remembered.get(entity)
        tables = _tables(config, entity, system)
        if before is None:
            found.append(Change(system, entity, tables, new=True))
            continue
        change = Change(
            system,
            entity,
            tables,
            added=tuple(name for name in now.fields if name not in before.fields),
            changed=tuple(name for name, told in now.fields.items() if before.fields.get(name, told) != told),
            gone=tuple(name for name in before.fields if name not in now.fields),
            rows=now.rows != before.rows,
        )
        if change.read_again or change.gone or change.rows:
            found.append(change)
    return found


def held_back(found: Iterable[Change]) -> set[tuple[str, str]]:
    """Tables that are not read again by themselves, whatever else has changed: rows that do not count any more would be deleted on the
    other side."""
    return {table for change in found if change.rows for table in change.tables}


def recall(connection: Connection, config: Config, system: str) -> dict[str, Mapped] | None:
    """Entity → as it was when its rows were read. None: nothing is remembered, or nothing was read yet."""
    if concord_schema.version(connection) < concord_schema.MAPPING_SINCE:
        return None
    rows = connection.execute("SELECT entity, told FROM concord.mapping WHERE slot = %s", (config.systems[system].slot,)).fetchall()
    return {entity: Mapped(told["rows"], told["fields"]) for entity, told in rows} or None


def changes(connection: Connection, config: Config, system: str) -> list[Change]:
    """What has changed in a system since its rows were read; nothing where nothing is remembered."""
    remembered = recall(connection, config, system)
    return [] if remembered is None else difference(config, system, remembered)


def settle(connection: Connection, config: Config, system: str, everything: bool = False) -> list[Change]:
    """Asks for what has to be read again and remembers the mapping as it is now, in one transaction; returns what had changed.

    `everything`: also what a person has to mean; else which rows count stays remembered as it was, so that it is said again.
    """
    slot = config.systems[system].slot
    ours = config.source != "debezium"  # which reads rows again when it is told so by its own signals, not by us
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (concord_schema.LOCK,))
        remembered = recall(connection, config, system)
        found = [] if remembered is None else difference(config, system, remembered)
        if not ours and not everything and any(change.read_again for change in found):
            return found  # remembered once a person says that it was read
        store = SnapshotStore(connection, slot)
        held = set() if everything else held_back(found)
        asked = {table for change in found if change.read_again or (everything and change.rows) for table in change.tables} - held
        for schema, table in sorted(asked) if ours else ():
            store.request(schema, table)
        now = {entity: mapped(config, entity, system) for entity, told in config.entities.items() if system in told.bindings}
        for entity, one in now.items():
            before = (remembered or {}).get(entity)
            if held.isdisjoint(_tables(config, entity, system)):
                kept = one if everything or before is None else Mapped(before.rows, one.fields)
            elif before is not None:
                kept = before  # its tables are read once a person has meant it, and until then it is said again
            else:
                continue
            connection.execute(
                "INSERT INTO concord.mapping (slot, entity, told) VALUES (%s, %s, %s) "
                "ON CONFLICT (slot, entity) DO UPDATE SET told = excluded.told, since = excluded.since",
                (slot, entity, Jsonb(kept.to_json())),
            )
        connection.execute("DELETE FROM concord.mapping WHERE slot = %s AND entity <> ALL (%s)", (slot, list(now)))
    return found


def settle_all(config: Config, everything: bool = False) -> list[Change]:
    """`settle` for each system. Raises Retriable when one does not answer: what was done before that stays done."""
    found = []
    for system in config.systems:
        with wiring.session(config, system, as_role=False) as connection:
            concord_schema.ensure(connection, config.systems[system].role)
            found += settle(connection, config, system, everything)
    return found


def warnings(config: Config, systems: Iterable[str]) -> list[str]:
    """What a part that starts by itself says of a mapping that rows were not read by yet."""
    found: list[Change] = []
    for system in systems:
        with wiring.session(config, system, as_role=False) as connection:
            found += changes(connection, config, system)
    mend = "once all parts run by this configuration: `concord snapshot --changed`"
    return [f"{change.system}: {change.what}; {mend}" for change in found if change.read_again or change.rows]


def sentences(found: Sequence[Change], everything: bool = False, debezium: bool = False) -> list[str]:
    """What was done about each change. `debezium`: nothing was, but by a person."""
    told = []
    held = set() if everything else held_back(found)
    for change in found:
        waits = not held.isdisjoint(change.tables)
        tables = ", ".join(f"{schema}.{table}" for schema, table in change.tables)
        where = f"{change.system}: {change.what}"
        if (change.read_again and not waits) or (everything and change.rows):
            done = f"is to be read again: tell Debezium so (an incremental snapshot), then {AGAIN}" if debezium else "is read again"
            told.append(f"{where}; {tables} {done}")
        if waits:
            told.append(
                f"{where}; nothing is read again for that by itself, since rows that do not count any more would be deleted on the other "
                "side: `concord snapshot --changed` if that is meant"
            )
        elif not change.read_again and not change.rows:
            told.append(f"{where}; nothing needs to be read again")
    return told
