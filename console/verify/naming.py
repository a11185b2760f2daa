"""What is not as it should be, by name: counted, told with both values, and with what is known of why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from console.verify.report import Count, Report, Verdict
from console.verify.rows import Connection, Crosswalk, Rows
from schemas.errors import MappingError
from schemas.mapping import Entity


class Naming:
    """Enters verdicts on one entity's things into the report."""

    def __init__(
        self, entity: Entity, connections: Mapping[str, Connection], rows: Mapping[str, Rows], crosswalk: Crosswalk, report: Report
    ) -> None:
        self.entity = entity
        self.connections = connections
        self.rows = rows
        self.crosswalk = crosswalk
        self.report = report

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

    def in_flight(self, leading: str, verdict: Verdict | None) -> None:
        self.count.in_flight += 1
        if verdict is not None:
            self.report.add(self._named("in flight", leading, verdict))

    def report_on(self, leading: str, verdicts: Mapping[str, Verdict]) -> None:
        """Counts and names what is not as it should be."""
        duplicates = self._duplicates(leading, {verdict.match_value for verdict in verdicts.values()} - {None})
        adjusted = self._adjusted([verdict for verdict in verdicts.values() if verdict.what == "differing"])
        stuck = self._stuck([verdict for verdict in verdicts.values() if verdict.link is not None])
        for verdict in verdicts.values():
            if verdict.what == "unlinked" and verdict.match_value in duplicates:
                self.count.duplicates += 1
                self.report.add({**self._named("duplicate", leading, verdict), "of": duplicates[verdict.match_value]})
            elif verdict.what == "differing":
                if verdict.fields and all((verdict.link, name) in adjusted for name in verdict.fields):
                    self.count.adjusted += 1
                    self._name_fields("adjusted", leading, verdict, stuck)
                else:
                    self.count.differing += 1
                    self._name_fields("differing", leading, verdict, stuck)
            else:
                self.count.absent += 1
                for system in verdict.missing_in:
                    self.count.missing[system] += 1
                why = stuck.get(verdict.link or "")
                self.report.add({**self._named("missing", leading, verdict), "missing_in": list(verdict.missing_in), **_why(why)})

    def _name_fields(self, what: str, leading: str, verdict: Verdict, stuck: Mapping[str, str]) -> None:
        why = _why(stuck.get(verdict.link or ""))
        if not verdict.fields:
            self.report.add({**self._named(what, leading, verdict), **why})
        for name, values in verdict.fields.items():
            self.report.add({**self._named(what, leading, verdict), "field": name, "values": dict(values), **why})

    def _named(self, what: str, leading: str, verdict: Verdict) -> dict[str, Any]:
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


def _why(why: str | None) -> dict[str, str]:
    return {"why": why} if why else {}
