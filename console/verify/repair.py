"""`concord verify --repair`: what is agreed on is written again where a system differs from it. With `--dry-run` it is only said.

    finding                                 what is done
    a linked thing differs, or is missing   a repair goes to `changes.<entity>`, with what each system holds now: merge sends what stands to
    somewhere, or is there though deleted   those that differ (`streams.repaired`), and the sinks write it over just that
    a row that nobody linked                the row is read again by a snapshot: it is news that was lost, and goes the way of all news
    a row that is there and does not count  the same: that it left scope was not heard of
    any more
    a thing that merge has nothing of       the same, with all its rows
    a dead letter, a record that waits      nothing: sending it again would end there again. `concord dead retry`, or what it waits for

Then each is looked at until it is as it should be, for so many seconds. A repair never beats an edit (docs/decisions): what is written by
hand meanwhile stays, and differs until it has come across.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from connectors.sink.golden import GoldenDecoder
from connectors.sink.plan import key_order
from console import kafka as brokers
from console import snapshot, wiring
from console.kafka import Cluster
from console.verify import rows as reading
from console.verify.naming import Finding, decision
from console.verify.passes import Passes
from schemas import topics
from schemas.errors import ConcordError, MappingError, SchemaError
from schemas.golden import GoldenRecord
from schemas.mapping import Pipeline
from schemas.registry import open_registry
from schemas.repair import Repair, SeenRow
from schemas.serde import Codec

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Mending:
    """What an operator wants done."""

    by: str  # alice@host
    dry_run: bool = False
    seconds: float = 30.0  # to wait for what becomes of it, each time that findings are mended


class Repairer:
    """Mends the findings of a pipeline's entities."""

    def __init__(self, pipeline: Pipeline, how: Mending, sleep: Callable[[float], None] = time.sleep) -> None:
        self.pipeline, self.how, self.sleep = pipeline, how, sleep
        self.config = pipeline.config
        self.cluster = Cluster(self.config.kafka)
        self.ranks = {rank: system for system, rank in pipeline.rank.items()}

    def mend(self, passes: Passes, findings: Sequence[Finding]) -> None:
        """Notes in each what is done with it, and whether it is as it should be since. Raises Retriable when Kafka does not answer."""
        wrong = [one for one in findings if one.what in ("differing", "missing")]
        for one in wrong:
            if one.why:
                one.repair = "is not sent again: it would end there again"
        wrong = [one for one in wrong if not one.why]
        if not wrong:
            return
        entity = passes.entity
        known = self._golden(entity.name, {one.verdict.link for one in wrong if one.verdict.link is not None})
        reread: dict[str, dict[str, Finding]] = {system: {} for system in entity.systems}  # system → key → why
        repairs: dict[str, Repair] = {}
        for start in range(0, len(wrong), reading.CHUNK):
            some = wrong[start : start + reading.CHUNK]
            linked = [one for one in some if one.verdict.link in known]
            for one in some:
                if one not in linked:
                    for system, key in one.verdict.keys.items():
                        reread[system][key] = one
            for one, seen, uncounted in self._seen(passes, linked):
                record = known[one.verdict.link or ""]
                for system, key in uncounted.items():
                    reread[system][key] = one
                if not uncounted:
                    repairs[record.link] = self._repair(passes, one, record, seen)
        for system, rows in reread.items():
            for key, one in rows.items():
                one.repair = f"reads {system}:{key} again"
        if self.how.dry_run:
            return
        self._send(entity.name, repairs)
        for system, rows in reread.items():
            refused = self._read_again(passes, system, list(rows))
            for one in rows.values():
                one.why = one.why or refused
        again = {id(one) for rows in reread.values() for one in rows.values() if not one.why}
        self._wait(passes, [one for one in wrong if one.verdict.link in repairs or id(one) in again])

    # what there is

    def _golden(self, entity: str, links: set[str]) -> dict[str, GoldenRecord]:
        """Link → what is agreed on, of those that merge has told of: the topic is read once, little of it is kept."""
        if not links:
            return {}
        keys = {link.encode() for link in links}
        newest: dict[bytes, bytes | None] = {}
        spans = self.cluster.ends([topics.golden(entity)])
        for message in self.cluster.scan(spans):
            if message.key in keys:
                newest[message.key] = message.value
        codec = Codec(open_registry(self.config.kafka, self.config.registry))
        try:
            decode = GoldenDecoder(codec)
            return {record.link: record for record in self._decoded(decode, entity, newest)}
        finally:
            codec.registry.close()

    @staticmethod
    def _decoded(decode: GoldenDecoder, entity: str, values: Mapping[bytes, bytes | None]) -> Iterator[GoldenRecord]:
        for key, value in values.items():
            try:
                if value is not None:
                    yield decode(entity, value)
            except SchemaError as error:
                logger.warning("the golden record of %s cannot be read: %s", key.decode(errors="replace"), error)

    def _seen(self, passes: Passes, findings: Sequence[Finding]) -> Iterator[tuple[Finding, dict[str, SeenRow], dict[str, str]]]:
        """Each with its rows as they are now, and with those that are there and do not count."""
        entity = passes.entity
        known = passes.look.crosswalk.keys(entity.name, [one.verdict.link or "" for one in findings])
        rows = {}
        for system in entity.systems:
            keys = {key for systems in known.values() for key in systems.get(system, ())}
            keys |= {one.verdict.keys[system] for one in findings if system in one.verdict.keys}
            rows[system] = passes.rows[system].by_key(passes.connections[system], keys, counting=False)
        for one in findings:
            seen: dict[str, SeenRow] = {}
            uncounted: dict[str, str] = {}
            try:
                for system in entity.systems:
                    binding = entity.bindings[system]
                    mine = sorted(known.get(one.verdict.link or "", {}).get(system, ()), key=key_order)
                    there = [key for key in mine if key in rows[system]]
                    counts = [key for key in there if binding.in_scope(rows[system][key])]
                    key = one.verdict.keys.get(system)
                    if counts:
                        key = key if key in counts else counts[0]
                        seen[system] = SeenRow(key, binding.to_canonical(rows[system][key]))
                    else:
                        seen[system] = SeenRow(mine[-1] if mine else None, None)
                        if there:
                            uncounted[system] = there[0]
            except MappingError as error:
                one.repair = f"cannot be repaired: {error}"
                continue
            yield one, seen, uncounted

    # what is done

    def _repair(self, passes: Passes, one: Finding, record: GoldenRecord, seen: Mapping[str, SeenRow]) -> Repair:
        fields = tuple(name for name in one.verdict.fields if name not in one.adjusted)
        one.golden = {name: record.values.get(name) for name in fields}
        one.decided = {name: decision(version, self.ranks) for name, version in record.versions.items() if name in fields}
        one.repair = f"sends it again: {', '.join(self._told(passes, one, record, seen, fields)) or 'writes what differs by then'}"
        return Repair(self.how.by, time.time_ns() // 1000, fields, seen)

    def _told(
        self, passes: Passes, one: Finding, record: GoldenRecord, seen: Mapping[str, SeenRow], fields: Iterable[str]
    ) -> Iterator[str]:
        """What becomes of it in each system, in words."""
        for system, row in seen.items():
            binding = passes.entity.bindings[system]
            if row.values is None:
                if record.alive:
                    yield f"{system}: inserts it"
                continue
            if not record.alive:
                yield f"{system}: deletes {row.key}"
                continue
            for name in fields:
                if name in binding.writable and name in row.values and not self._holds(passes, system, name, record, row):
                    yield f"{system}: writes {name}"

    @staticmethod
    def _holds(passes: Passes, system: str, name: str, record: GoldenRecord, row: SeenRow) -> bool:
        golden, held = record.values.get(name), (row.values or {}).get(name)
        if passes.entity.bindings[system].same(name, golden, held):
            return True
        return isinstance(golden, str) and isinstance(held, str) and passes.look.same_thing(name, golden, held)

    def _send(self, entity: str, repairs: Mapping[str, Repair]) -> None:
        topic = topics.changes(entity)
        self.cluster.send([brokers.Letter(topic, -1, -1, link.encode(), repair.encode(), 0) for link, repair in repairs.items()])

    def _read_again(self, passes: Passes, system: str, keys: Sequence[str]) -> str:
        """Why they cannot be read; empty if they are."""
        binding = passes.entity.bindings[system]
        if not keys:
            return ""
        table = binding.table.schema, binding.table.name
        try:
            asked = snapshot.ask_rows(self.config, system, table, {key: binding.key_values(key) for key in keys})
        except snapshot.Unaskable as error:
            logger.warning("%s of %s.%s cannot be read again: %s", len(keys), *table, error)
            return f"its row cannot be read again: {error}"
        for one, _ in asked:
            progress = snapshot.follow(self.config, one)
            if progress.state is not snapshot.State.DONE:
                logger.warning("%s", snapshot.sentence(one, progress))  # `_wait` names each as not repaired
        return ""

    def _wait(self, passes: Passes, findings: Sequence[Finding]) -> None:
        """Looks until all are as they should be, or it has been long enough."""
        waiting = {(one.leading, one.key): one for one in findings}
        deadline = time.monotonic() + self.how.seconds
        while waiting:
            self.sleep(LOOK_SECONDS)
            now = dict(passes.verdicts(waiting))
            for suspect, one in list(waiting.items()):
                verdict = now.get(suspect)  # None: there is no such row any more, as it should be
                if verdict is None or verdict.what not in ("differing", "missing", "unlinked"):
                    one.repaired = True
                    del waiting[suspect]
                else:
                    one.verdict = verdict
            if time.monotonic() > deadline:
                break
        if waiting:
            why = self._why_not(passes)
            for one in waiting.values():
                one.why = why

    def _why_not(self, passes: Passes) -> str:
        parts = [("the streams do", wiring.group_of_streams(self.config))]
        parts += [(f"the sink of {system} does", wiring.group_of_sink(self.config, system)) for system in passes.entity.systems]
        try:
            absent = [f"{part} not run now" for part, group in parts if not self.cluster.members(group)]
        except ConcordError as error:
            absent = [str(error)]
        return ", ".join(absent) or f"it was not so within {self.how.seconds:g} s: `concord status` says what is behind; verify again"
