"""One look at rows of one system: what each of them is elsewhere, and whether all say the same."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from console.verify.report import Verdict
from console.verify.rows import Connection, Crosswalk, Rows
from schemas.change import Canonical, parse_row_name
from schemas.errors import MappingError
from schemas.mapping import Binding, Entity, Row


def comparable(entity: Entity, one: Binding, other: Binding) -> list[str]:
    """Fields that must agree between two systems: written in both, or written in one and decided by the other."""
    return [
        name
        for name in one.fields
        if name in other.fields
        and (name in one.writable or entity.owner[name] == one.system)
        and (name in other.writable or entity.owner[name] == other.system)
        and (name in one.writable or name in other.writable)
    ]


Suspect = tuple[str, str]  # (leading system, key)


class Look:
    """One entity across its systems."""

    def __init__(self, entity: Entity, connections: Mapping[str, Connection]) -> None:
        self.entity = entity
        self.connections = connections
        self.crosswalk = Crosswalk(connections)
        self.rows = {system: Rows(entity.bindings[system]) for system in entity.systems}
        self.comparable = {
            (one, other): comparable(entity, entity.bindings[one], entity.bindings[other])
            for one in entity.systems
            for other in entity.systems
            if one != other
        }

    def at(self, leading: str, there: Mapping[str, Row], led: Collection[Suspect] | None = None) -> dict[str, Verdict]:
        """A verdict on each of these rows of the leading system.

        Things that an earlier system has are passed over, since they were led from there; looking again, only those that are looked at
        again from there (`led`): the others came to be there later.
        """
        entity = self.entity
        links = self.crosswalk.links(entity.name, ((leading, key) for key in there))
        keys = self.crosswalk.keys(entity.name, links.values())
        rows: dict[str, dict[str, Row]] = {leading: dict(there)}
        for system in entity.systems:
            wanted = {key for known in keys.values() for key in known.get(system, ())} - rows.get(system, {}).keys()
            rows.setdefault(system, {}).update(self.rows[system].by_key(self.connections[system], wanted))
        things: dict[str, str | Verdict] = {}
        for key in there:
            link = links.get((leading, key))
            things[key] = self._unlinked(leading, key, there[key]) if link is None else link
        found: dict[str, Verdict] = {}
        candidates: dict[str, dict[str, dict[str, dict[str, Canonical]]]] = {}  # key → system → key → values
        for key, thing in things.items():
            if isinstance(thing, Verdict):
                found[key] = thing
                continue
            live = {system: sorted(keys[thing].get(system, set()) & rows[system].keys()) for system in entity.systems}
            earlier = entity.systems[: entity.systems.index(leading)]
            elsewhere = ((system, one) for system in earlier for one in live[system])
            if any(led is None or one in led for one in elsewhere) or key != live[leading][0]:
                found[key] = Verdict("passed_over", thing)  # an earlier system led it, or another row of this one does
                continue
            try:
                candidates[key] = {
                    system: {one: entity.bindings[system].to_canonical(rows[system][one]) for one in of_system}
                    for system, of_system in live.items()
                }
            except MappingError as error:
                named = {system: of_system[0] for system, of_system in live.items() if of_system}
                found[key] = Verdict("differing", thing, named, note=str(error))
        references = self._references(candidates.values())
        for key, systems in candidates.items():
            thing = things[key]
            assert isinstance(thing, str)
            found[key] = self._judge(leading, thing, systems, keys[thing], references)
        return found

    def same_thing(self, name: str, one: str, other: str) -> bool:
        """Whether two values of a field are rows of one thing."""
        entity = self.entity.refs.get(name)
        if entity is None:
            return False
        links = self.crosswalk.links(entity, map(parse_row_name, (one, other)))
        return len(links) == 2 and len(set(links.values())) == 1

    def _unlinked(self, leading: str, key: str, row: Row) -> Verdict:
        if leading not in self.entity.born_in:
            return Verdict("out_of_scope", keys={leading: key})
        others = tuple(system for system in self.entity.systems if system != leading)
        try:
            match_value = self.entity.match_value(self.entity.bindings[leading].to_canonical(row))
        except MappingError as error:
            return Verdict("unlinked", keys={leading: key}, missing_in=others, note=str(error))
        return Verdict("unlinked", keys={leading: key}, missing_in=others, match_value=match_value)

    def _references(self, candidates: Iterable[Mapping[str, Mapping[str, Mapping[str, Canonical]]]]) -> dict[tuple[str, str], str]:
        """(entity, row name) → link, of every reference in these rows."""
        named: dict[str, set[str]] = {}
        for systems in candidates:
            for of_system in systems.values():
                for values in of_system.values():
                    for name, entity in self.entity.refs.items():
                        if isinstance(value := values.get(name), str):
                            named.setdefault(entity, set()).add(value)
        found = {}
        for entity, names in named.items():
            links = self.crosswalk.links(entity, map(parse_row_name, names))
            found.update({(entity, f"{system}:{key}"): link for (system, key), link in links.items()})
        return found

    def _judge(
        self,
        leading: str,
        link: str,
        systems: Mapping[str, Mapping[str, Mapping[str, Canonical]]],
        known: Mapping[str, set[str]],
        references: Mapping[tuple[str, str], str],
    ) -> Verdict:
        keys = {system: next(iter(of_system)) for system, of_system in systems.items() if of_system}
        absent = tuple(system for system, of_system in systems.items() if not of_system)
        if absent:
            here = systems[leading][keys[leading]]
            if all(self._may_be_gone(leading, here, system, known) for system in absent):
                return Verdict("deleted", link, keys)
            return Verdict("missing", link, keys, missing_in=absent)
        fields: dict[str, dict[str, Canonical]] = {}
        for other in systems:
            if other == leading:
                continue
            # several rows of one system may be the same thing for a while (deleted and entered again): the one that agrees counts
            told = min(
                (
                    self._differing(leading, mine, other, theirs, references)
                    for mine in systems[leading].values()
                    for theirs in systems[other].values()
                ),
                key=len,
            )
            for name, values in told.items():
                fields.setdefault(name, {}).update(values)
        return Verdict("differing", link, keys, fields) if fields else Verdict("equal", link, keys)

    def _may_be_gone(self, leading: str, here: Mapping[str, Canonical], absent: str, known: Mapping[str, set[str]]) -> bool:
        """Whether the policy leaves the leading system's row alone although the other one's is gone."""
        policy = self.entity.delete
        if not known.get(absent):
            return False  # it never was there
        if policy.policy == "ignore":
            return True
        if policy.policy != "soft":
            return False
        binding = self.entity.bindings[leading]
        return all(binding.same(name, value, here.get(name)) for name, value in policy.soft.items() if name in binding.fields)

    def _differing(
        self,
        one: str,
        mine: Mapping[str, Canonical],
        other: str,
        theirs: Mapping[str, Canonical],
        references: Mapping[tuple[str, str], str],
    ) -> dict[str, dict[str, Canonical]]:
        found: dict[str, dict[str, Canonical]] = {}
        for name in self.comparable[one, other]:
            a, b = mine.get(name), theirs.get(name)
            if a == b:
                continue
            if (entity := self.entity.refs.get(name)) is not None:
                link = references.get((entity, str(a)))
                if link is not None and link == references.get((entity, str(b))):
                    continue
            bindings = self.entity.bindings
            if bindings[one].same(name, b, a) or bindings[other].same(name, a, b):
                continue
            found[name] = {one: a, other: b}
        return found
