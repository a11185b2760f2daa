"""`concord replay SYSTEM --rebuild`: a target that was lost, or restored from a backup, gets what is agreed, from `golden.*` alone.

    golden.<entity>, all that is there now ─▶ the last record of each thing ─▶ the sink's transactions (`connectors.sink.anew`)

Things that are there first, parents before children; then those that are gone, children before parents. What is written is written under a
replication origin, so it comes back as an echo (I5). It may be broken off and begun again at any time: what is as it should be is not
written. It runs beside the pipeline as well as without: a version that a sink has applied meanwhile is never made older (I3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import psycopg
from rich.console import Console
from rich.markup import escape

from connectors import concord_schema
from connectors.postgres import translated
from connectors.sink.anew import Foresight, as_lost, move_sequences, rights_lacking, sequences_behind
from connectors.sink.apply import Applier, Batch, Outcome
from connectors.sink.golden import GoldenDecoder
from connectors.sink.plan import Task
from connectors.sink.session import open_session
from console import ownership, wiring
from console.foretold import Foretold
from console.kafka import Cluster, Letter, Partition
from console.rehearse import as_record
from schemas import topics
from schemas.config import Dsn
from schemas.errors import SchemaError
from schemas.golden import golden_schema
from schemas.lsn import Lsn, parse_lsn, parse_position
from schemas.mapping import Pipeline
from schemas.registry import open_registry
from schemas.serde import Codec
from streams.events import Events

BATCH = 500  # things in one transaction
SEGMENT = 16 << 20  # bytes of a WAL file, unless the server was made with another size

_WAL = "SELECT timeline_id, (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size') FROM pg_control_checkpoint()"

_MAY_MAKE_OURS = """
SELECT coalesce(has_schema_privilege(to_regnamespace('concord')::oid, 'CREATE'), has_database_privilege(current_database(), 'CREATE'))"""

Tell = Callable[[str], None]
Connect = Callable[[], psycopg.Connection[tuple[Any, ...]]]


@dataclass
class Report:
    """What a rebuild did, or would do."""

    system: str
    state: str  # done, dry run, refused
    things: int = 0
    counts: Counter[str] = field(default_factory=Counter)  # written, as it was, waits, dead, unreadable
    stuck: list[dict[str, str]] = field(default_factory=list)  # what waits, what is dead and what cannot be read, and why
    sequences: dict[str, int] = field(default_factory=dict)  # moved past this key, or to be moved
    foretold: Foretold | None = None
    error: str = ""

    @property
    def is_well(self) -> bool:
        if self.foretold is not None:
            return not (self.foretold.total or self.counts["unreadable"])
        return self.state == "done" and not (self.counts["waits"] or self.counts["dead"] or self.counts["unreadable"])

    def to_json(self) -> dict[str, Any]:
        return {
            "system": self.system,
            "state": self.state,
            "things": self.things,
            "counts": dict(self.counts),
            "stuck": self.stuck,
            "sequences": self.sequences,
            **({"error": self.error} if self.error else {}),
            **(self.foretold.to_json() if self.foretold is not None else {}),
        }

    def show(self, console: Console) -> None:
        if self.error:
            console.print(self.error, markup=False)
            return
        if self.foretold is not None:
            self.foretold.show(console)
        for one in self.stuck:
            console.print(escape(f"{one['entity']} {one['link']}: {one['what']}: {one['why']}"))
        for name, highest in self.sequences.items():
            console.print(escape(f"sequence {name}: {'to be moved' if self.foretold else 'moved'} past {highest}"))
        if self.foretold is None:
            told = ", ".join(f"{number:,} {what}" for what, number in sorted(self.counts.items())) or "nothing agreed on"
            mend = "mend what is stuck and rebuild again before you start" if not self.is_well else "`concord verify` compares"
            console.print(f"{self.system}: {self.things:,} things, {told}; {mend}")


class Rebuild:
    """One rebuild of one system."""

    def __init__(self, pipeline: Pipeline, system: str, tell: Tell = lambda _: None, admin: str | None = None) -> None:
        """`admin`: the DSN of somebody who may give rows their keys and move sequences; without, the system's own login is used."""
        self._pipeline, self._system, self._tell = pipeline, system, tell
        config = pipeline.config
        mine = config.systems[system]
        self._settings = mine if admin is None else mine.model_copy(update={"dsn": Dsn(admin), "role": None})
        self._cluster = Cluster(config.kafka)
        self._registry = open_registry(config.kafka, config.registry)
        self._codec = Codec(self._registry)
        self._decode = GoldenDecoder(self._codec)
        self._unreadable: dict[str, dict[str, str]] = {}  # place of a golden record → what is said of it
        self._entities = [name for name, entity in pipeline.entities.items() if system in entity.bindings]
        self._encoders = {}
        for name in self._entities:
            schema = golden_schema(name, pipeline.entities[name].kinds)
            self._encoders[name] = self._codec.encoder(f"{topics.golden(name)}-value", schema)

    def close(self) -> None:
        self._registry.close()

    def run(self, dry: bool, limit: int, anyway: bool = False) -> Report:
        """Raises Retriable when Kafka or the registry does not answer; for the database it waits, once it has begun."""
        ends = self._cluster.ends(topics.golden(name) for name in self._entities)
        if not any(low < high for low, high in ends.values()):
            told = f"nothing to rebuild {self._system} from: {', '.join(topics.golden(name) for name in self._entities)} are empty"
            return Report(self._system, "refused", error=told)
        if (complaint := self._may_not(dry)) or (not anyway and (complaint := self._turned_back())):
            return Report(self._system, "refused", error=complaint)
        return self._foresee(ends, limit) if dry else self._write(ends, limit)

    def _session(self, worker: int | None) -> psycopg.Connection[tuple[Any, ...]]:
        return open_session(self._system, self._settings, f"concord rebuild {self._system}", worker)[0]

    def _may_not(self, dry: bool) -> str:
        """What the login lacks for this, and what to do; '' if nothing."""
        with self._session(None) if dry else wiring.session(self._pipeline.config, self._system, as_role=False) as connection:
            may = connection.execute(_MAY_MAKE_OURS).fetchone()
            if not concord_schema.version(connection) and (may is None or not may[0]):  # it is the login's own
                return (
                    f"the schema concord is not there in {self._system}, and {connection.info.user} may not make it: first "
                    "`concord check --grant --run`, then rebuild again"
                )
        if dry:
            return ""
        with self._session(None) as connection:
            lacking, who = rights_lacking(connection, self._pipeline, self._system), connection.info.user
        if not lacking:
            return ""
        return (
            f"to give rows the keys that they had takes rights that {who} does not have: {'; '.join(lacking)}. Name "
            f"somebody who has: --admin DSN, or {self._system.upper()}_ADMIN_DSN in the environment"
        )

    # what is read -------------------------------------------------------------------------------------------------------------------

    def _tasks(self, ends: dict[Partition, tuple[int, int]]) -> Iterator[list[Task]]:
        """The last record of each thing, in batches of one entity."""
        gone: Counter[str] = Counter()
        for entity in self._entities:
            yield from self._of_entity(entity, ends, True, gone)
        for entity in reversed(self._entities):
            if gone[entity]:
                yield from self._of_entity(entity, ends, False, gone)

    def _of_entity(self, entity: str, ends: dict[Partition, tuple[int, int]], alive: bool, gone: Counter[str]) -> Iterator[list[Task]]:
        batch: list[Task] = []
        for at, span in sorted(ends.items()):
            if at[0] != topics.golden(entity):
                continue
            latest = {letter.key: letter.offset for letter in self._cluster.scan({at: span})}
            for letter in self._cluster.scan({at: span}):
                if latest.get(letter.key) != letter.offset or letter.value is None:
                    continue
                task = self._task(entity, letter)
                if isinstance(task, str):
                    link = (letter.key or b"").decode(errors="replace")
                    place = f"{letter.topic}@{letter.partition}/{letter.offset}"
                    self._unreadable[place] = {"entity": entity, "link": link, "what": "cannot be read", "why": f"{place}: {task}"}
                elif task is not None and task.record.alive is not alive:
                    gone[entity] += alive
                elif task is not None:
                    batch.append(task)
                if len(batch) == BATCH:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def _task(self, entity: str, letter: Letter) -> Task | str | None:
        """None: nothing to do here; a text: why it cannot be read, and so not rebuilt."""
        try:
            record = as_lost(self._decode(entity, letter.value or b""), self._system)
        except SchemaError as error:
            return str(error)
        if record is None:
            return None
        known = {name: value for name, value in record.values.items() if name in self._pipeline.entities[entity].kinds}
        record = replace(record, values=known, versions={name: record.versions[name] for name in known})
        datum = {**dict.fromkeys(self._pipeline.entities[entity].kinds), **record.to_avro()}
        return Task(record, letter.topic, letter.partition, letter.offset, self._encoders[entity](datum), anew=True)

    # what is done with it -----------------------------------------------------------------------------------------------------------

    def _foresee(self, ends: dict[Partition, tuple[int, int]], limit: int) -> Report:
        report = Report(self._system, "dry run", foretold=Foretold(limit))
        assert report.foretold is not None
        with self._session(None) as connection:
            sight = Foresight(connection, self._pipeline, self._system, self._decode)
            for tasks in self._tasks(ends):
                report.foretold.add(sight.foresee(tasks))
                self._looked_at(report, tasks)
            report.sequences = sequences_behind(connection, self._pipeline, self._system)
        self._name_unreadable(report, limit)
        return report

    def _name_unreadable(self, report: Report, limit: int) -> None:
        """Nothing says how these things stood: their rows are as they were found, and no rebuild mends that."""
        if self._unreadable:
            report.counts["unreadable"] = len(self._unreadable)
            report.stuck = [*self._unreadable.values(), *report.stuck][:limit]

    def _write(self, ends: dict[Partition, tuple[int, int]], limit: int) -> Report:
        # the slot is there before anything is written, so that all of it comes back as an echo
        wiring.ensure_system(self._pipeline.config, self._system)
        mine = wiring.ensure_schema(self._pipeline.config, self._system)  # a database without its past: Kafka knows it by another name
        ownership.claim(self._pipeline.config, {self._system: mine}, self._cluster, replaced=self._system)
        report = Report(self._system, "done")
        stuck: dict[tuple[str, str], dict[str, str]] = {}
        with ExitStack() as closing:
            target = _Target(lambda: self._session(0), self._pipeline, self._system, self._decode, closing)
            for tasks in self._tasks(ends):
                outcome = wiring.patiently(f"rebuilding {self._system}", partial(target.apply, tasks))
                _take(outcome, report, stuck)
                self._looked_at(report, tasks)
            while (outcome := wiring.patiently(f"rebuilding {self._system}", target.sweep)).wrote:
                _take(outcome, report, stuck)
            report.sequences = sequences_behind(target.connection, self._pipeline, self._system)
            move_sequences(target.connection, report.sequences)
        report.stuck = list(stuck.values())[:limit]
        report.counts["waits"] = sum(one["what"] == "waits" for one in stuck.values())
        report.counts["dead"] = sum(one["what"] == "dead letter" for one in stuck.values())
        self._name_unreadable(report, limit)
        return report

    def _looked_at(self, report: Report, tasks: Sequence[Task]) -> None:
        report.things += len(tasks)
        self._tell(f"{report.things:,} things, now {tasks[-1].record.entity}")

    # whether its log goes on --------------------------------------------------------------------------------------------------------

    def _turned_back(self) -> str:
        """A database restored from a copy may have a log that begins before what was read of the lost one: its next changes would be taken
        for old ones. What to do then; '' if it goes on."""
        with wiring.session(self._pipeline.config, self._system, as_role=False) as connection:
            row = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
            now = parse_lsn(row[0] if row else "0/0")
            read = self._read_up_to()
            if now >= read:
                return ""
            file = _wal_file(connection, read)
        return (
            f"the log of {self._system} stands at {now}, and changes up to {read} have been read: until it has passed that, what is "
            f"changed there would be taken for older than what is known. Stop PostgreSQL, `pg_resetwal -l {file} DATADIR`, start it, and "
            "rebuild again; or go on without (--anyway)"
        )

    def _read_up_to(self) -> Lsn:
        """The highest position in the last captured events of each partition."""
        latest = 0
        for table in self._pipeline.captured(self._system):
            events = Events(self._codec, table)
            spans = self._cluster.ends([topics.captured(self._system, table.schema, table.name)])
            for letter in self._cluster.scan({at: (max(low, high - 2), high) for at, (low, high) in spans.items()}):  # a tombstone is last
                if letter.value is None:
                    continue
                try:
                    seen = events.read(as_record(letter))
                except SchemaError:
                    continue
                if seen is not None:
                    latest = max(latest, *parse_position(seen.position))
        return Lsn(latest)


class _Target:
    """The database, connected anew when the line breaks."""

    def __init__(self, connect: Connect, pipeline: Pipeline, system: str, decode: GoldenDecoder, closing: ExitStack) -> None:
        self._connect, self._pipeline, self._system, self._decode, self._closing = connect, pipeline, system, decode, closing
        self._applier: Applier | None = None
        self.connection = self._connected()

    def _connected(self) -> psycopg.Connection[tuple[Any, ...]]:
        connection = self._connect()
        self._closing.callback(connection.close)
        self._applier = Applier(connection, self._pipeline, self._system, self._decode, anew=True)
        return connection

    def apply(self, tasks: Sequence[Task]) -> Outcome:
        return self._now().apply(Batch(list(tasks)))

    def sweep(self) -> Outcome:
        return self._now().sweep()

    def _now(self) -> Applier:
        if self.connection.closed or self.connection.broken:
            self.connection = self._connected()
        assert self._applier is not None
        self._applier.rollback()  # of a try that failed
        return self._applier


def _take(outcome: Outcome, report: Report, stuck: dict[tuple[str, str], dict[str, str]]) -> None:
    report.counts["written"] += len(outcome.wrote)
    report.counts["as it was"] += len(outcome.ends)
    for task in outcome.wrote:
        stuck.pop(task.thing, None)
    for end in outcome.ends:
        stuck.pop(end.task.thing, None)
    stuck.update((park.task.thing, _named(park.task, "waits", park.reason)) for park in outcome.parks)
    stuck.update((dead.task.thing, _named(dead.task, "dead letter", dead.error)) for dead in outcome.deads)


def _named(task: Task, what: str, why: str) -> dict[str, str]:
    return {"entity": task.record.entity, "link": task.record.link, "what": what, "why": why}


def _wal_file(connection: psycopg.Connection[Any], past: Lsn) -> str:
    """The name of the first WAL file behind a position, as pg_resetwal wants it."""
    with translated("asking for the timeline"):
        row = connection.execute(_WAL).fetchone()
    timeline, size = (int(row[0]), int(row[1])) if row else (1, SEGMENT)
    number, per_log = past // size + 1, (1 << 32) // size
    return f"{timeline:08X}{number // per_log:08X}{number % per_log:08X}"
