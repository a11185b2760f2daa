"""What is not as it should be, by name: counted, told with both values, and with what is known of why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from console.verify.compare import Suspect
from console.verify.report import Count, Report, Verdict
from console.verify.rows import Connection, Crosswalk, Rows
from schemas.change import Canonical
from schemas.errors import MappingError
from schemas.golden import NEVER, Version
from schemas.mapping import Entity


@dataclass(slots=True)
class Finding:
    """One thing that is not as it should be."""

    what: str  # differing, missing, adjusted, duplicate
    leading: str
    key: str
    verdict: Verdict
    why: str = ""
    of: str | None = None  # of a duplicate: the row that has its match value
    decided: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    adjusted: frozenset[str] = frozenset()
    golden: Mapping[str, Canonical] = field(default_factory=dict)  # what is agreed on, where it was asked
    repair: str = ""  # what a repair does or did
    repaired: bool = False


class Naming:
    """Enters verdicts on one entity's things into the report."""

    def __init__(
        self,
        entity: Entity,
        connections: Mapping[str, Connection],
        rows: Mapping[str, Rows],
        crosswalk: Crosswalk,
        report: Report,
        ranks: Mapping[int, str],
    ) -> None:
        self.entity = entity
        self.connections = connections
        self.rows = rows
        self.crosswalk = crosswalk
        self.report = report
        self.ranks = ranks  # rank → system

    @property
    def count(self) -> Count:
        return self.report.entities[self.entity.name]

    def settle(self, leading: str, verdict: Verdict) -> None:
        match verdict.what:
            case "equal":
                self.count.equal += 1
            case "deleted":
                self.count.deleted += 1
            case "out_of_scope":
                self.count.out_of_scope[leading] += 1

    def in_flight(self, verdict: Verdict | None) -> None:
        self.count.in_flight += 1
        if verdict is not None:
            self.report.add(self._named("in flight", verdict))

    def findings(self, verdicts: Mapping[Suspect, Verdict]) -> list[Finding]:
        """What is not as it should be, each with what is known of it."""
        found: list[Finding] = []
        for leading in self.entity.systems:
            mine = {key: verdict for (system, key), verdict in verdicts.items() if system == leading}
            duplicates = self._duplicates(leading, {verdict.match_value for verdict in mine.values()} - {None})
            adjusted = self._adjusted([verdict for verdict in mine.values() if verdict.what == "differing"])
            linked = [verdict for verdict in mine.values() if verdict.link is not None]
            stuck, decided = self._stuck(linked), self._decided([verdict for verdict in linked if verdict.fields])
            for key, verdict in mine.items():
                link = verdict.link or ""
                one = Finding(verdict.what, leading, key, verdict, why=stuck.get(link, ""), decided=decided.get(link, {}))
                if verdict.what == "unlinked":
                    one.what = "duplicate" if verdict.match_value in duplicates else "missing"
                    one.of = duplicates.get(verdict.match_value)
                elif verdict.fields and all((verdict.link, name) in adjusted for name in verdict.fields):
                    one.what = "adjusted"
                one.adjusted = frozenset(name for name in verdict.fields if (verdict.link, name) in adjusted)
                found.append(one)
        return found

    def enter(self, one: Finding) -> None:
        """Counts it and tells it by name."""
        verdict, count = one.verdict, self.count
        why = {**({"why": one.why} if one.why else {}), **({"repair": one.repair} if one.repair else {})}
        if one.repaired:
            count.repaired += 1
        elif one.what == "duplicate":
            count.duplicates += 1
        elif one.what == "adjusted":
            count.adjusted += 1
        elif one.what == "differing":
            count.differing += 1
        else:
            count.absent += 1
            for system in verdict.missing_in:
                count.missing[system] += 1
        told = self._named("repaired" if one.repaired else one.what, verdict)
        if one.what == "duplicate":
            self.report.add({**told, "of": one.of})
        elif one.what == "missing":
            self.report.add({**told, "missing_in": list(verdict.missing_in), **why})
        elif not verdict.fields:
            self.report.add({**told, **why})
        for name, values in verdict.fields.items():
            decided = {"decided": one.decided[name]} if name in one.decided else {}
            agreed = {"golden": one.golden[name]} if name in one.golden else {}
            self.report.add({**told, "field": name, "values": dict(values), **agreed, **decided, **why})

    def _named(self, what: str, verdict: Verdict) -> dict[str, Any]:
        told: dict[str, Any] = {"what": what, "entity": self.entity.name, "link": verdict.link, "keys": dict(verdict.keys)}
        if verdict.match_value is not None:
            told["match_value"] = verdict.match_value
        if verdict.note:
            told["note"] = verdict.note
        return told

    def _duplicates(self, leading: str, match_values: set[str | None]) -> dict[str | None, str]:
        """Match value → key of the linked row of the same system that has it. One more pass over the table, only when somebody asks."""
        found: dict[str | None, str] = {}
        if not match_values:
            return found
        binding = self.entity.bindings[leading]
        for chunk in self.rows[leading].chunks(self.connections[leading]):
            having: dict[str, str] = {}
            for row in chunk:
                try:
                    if binding.in_scope(row) and (value := self.entity.match_value(binding.to_canonical(row))) in match_values:
                        having[binding.key_of(row)] = str(value)
                except MappingError:
                    continue  # it is a suspect of its own
            for _, key in self.crosswalk.links(self.entity.name, ((leading, key) for key in having)):
                found[having[key]] = key
        return found

    def _adjusted(self, verdicts: Sequence[Verdict]) -> set[tuple[str | None, str]]:
        """(link, field) where what a system holds is what it made of our write."""
        found: set[tuple[str | None, str]] = set()
        fields = {verdict.link: verdict.fields for verdict in verdicts}
        for system in self.entity.systems if fields else ():
            query = "SELECT link, adjusted FROM concord.link WHERE entity = %s AND link = ANY(%s) AND adjusted <> '{}'"
            for thing, adjusted in self.connections[system].execute(query, (self.entity.name, list(fields))):
                for name, (_, came_back) in adjusted.items():
                    if name in fields[thing] and fields[thing][name].get(system) == came_back:
                        found.add((thing, name))
        return found

    def _stuck(self, verdicts: Sequence[Verdict]) -> dict[str, str]:
        """Link → why a system does not have it."""
        found: dict[str, str] = {}
        links = [verdict.link for verdict in verdicts]
        for system in self.entity.systems if links else ():
            connection = self.connections[system]
            asked = (self.entity.name, links)
            for link, waits_for, reason in connection.execute(
                "SELECT link, waits_for_entity || ' ' || waits_for, reason FROM concord.parked WHERE entity = %s AND link = ANY(%s)", asked
            ):
                found[link] = f"parked in {system}: waits for {waits_for} ({reason})"
            for link, number, error in connection.execute(
                "SELECT link, id, error FROM concord.dead_letter WHERE entity = %s AND link = ANY(%s)", asked
            ):
                found[link] = f"dead letter {system}:{number}: {error}"
        return found

    def _decided(self, verdicts: Sequence[Verdict]) -> dict[str, dict[str, dict[str, Any]]]:
        """Link → field → the write that stands, as far as a sink has written its value: the newest version applied anywhere."""
        newest: dict[tuple[str, str], Version] = {}
        links = [verdict.link for verdict in verdicts]
        for system in self.entity.systems if links else ():
            query = "SELECT link, applied FROM concord.link WHERE entity = %s AND link = ANY(%s)"
            for link, applied in self.connections[system].execute(query, (self.entity.name, links)):
                for name, told in applied.items():
                    newest[link, name] = max(Version(*told), newest.get((link, name), NEVER))
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for (link, name), version in newest.items():
            found.setdefault(link, {})[name] = decision(version, self.ranks)
        return found


def decision(version: Version, ranks: Mapping[int, str]) -> dict[str, Any]:
    """Which write decided a field: whose, when (UTC; None where it was there before anybody looked), and whether as its owner."""
    at = datetime.fromtimestamp(version.won_hlc / 1e6, UTC).isoformat(timespec="microseconds") if version.won_hlc > 1 else None
    return {"system": ranks.get(version.won_rank), "at": at, "owner": bool(version.owned), "writes": version.writes}
