"""`concord status`: where everything stands, and whether anything is in flight.

Nothing is in flight (`settled`) when, in this order,

    1. every topic ends where its readers have come to: what is committed by the streams' group for the topics they read, and
       `concord.progress` of each system for the golden topics (I2);
    2. after that, each slot has confirmed the whole log of its database up to now (so everything committed there, by the sinks too, is
       in Kafka: I1), and its snapshot is done;
    3. after that, every topic still ends where it did in 1.

What is committed in a system later than 2 is news, not in flight. Nothing here needs the catalogs, so a database that does not answer
hides nothing but itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table as Grid
from rich.text import Text

from connectors import concord_schema
from connectors.postgres import translated
from console import dead, metrics, verified, wiring
from console.kafka import Cluster, Partition, lag
from console.logs import first_line
from console.parts import STALE_SECONDS, is_held, read_json
from schemas import topics
from schemas.config import Config
from schemas.errors import ConcordError, Retriable
from schemas.mapping import table_name, table_names
from schemas.metrics import State, quantile
from schemas.registry import open_registry
from schemas.serde import Codec

logger = logging.getLogger(__name__)

CONFIRM_SECONDS = 2.0  # a source that has caught up answers its server's keep-alive at once; one that needs longer is busy
DEAD_READ_LIMIT = 100_000  # letters of a topic that are told apart for the count, the newest: read in some seconds

Ends = Mapping[Partition, tuple[int, int]]


def stream_topics(config: Config) -> dict[str, set[str]]:
    """Topics that the streams read → the entities they are of."""
    found: dict[str, set[str]] = {topics.replays(config.name): set()}
    for name, entity in config.entities.items():
        for system, binding in entity.bindings.items():
            for table in (binding.table, *(part.table for part in binding.parts.values())):
                if (place := table_name(table)) is not None:
                    found.setdefault(topics.captured(system, *place), set()).add(name)
        found[topics.claims(name)] = {name}
        found[topics.changes(name)] = {name}
    for system in config.systems:
        for topic, entities in wiring.row_topics(config, system).items():
            found.setdefault(topic, set()).update(entities)
    return found


@dataclass(frozen=True)
class Database:
    """What one system says of itself."""

    error: str | None = None
    ready: bool = False  # the schema concord is there
    slot: str = "missing"  # streaming, inactive, lost
    confirmed: int = 0
    current: int = 0
    retained: int | None = None
    snapshots: Mapping[str, tuple[bool, int]] = field(default_factory=dict)  # schema.table → (done, rows)
    progress: Mapping[Partition, int] = field(default_factory=dict)
    keep_limit: int | None = None  # retained log at which the slot is lost; None: no limit
    parked: Mapping[str, int] = field(default_factory=dict)  # by entity
    parked_oldest: float = 0.0  # seconds that a parked record has waited, the longest
    dead: Mapping[str, int] = field(default_factory=dict)
    verified: Mapping[str, verified.Verified] = field(default_factory=dict)


_SLOT = """
SELECT active, coalesce(wal_status, ''), coalesce(confirmed_flush_lsn - '0/0'::pg_lsn, 0)::bigint,
       (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint, (pg_current_wal_lsn() - restart_lsn)::bigint,
       (SELECT nullif(setting, '-1')::bigint * 1048576 FROM pg_settings WHERE name = 'max_slot_wal_keep_size')
FROM (SELECT 1) one LEFT JOIN pg_replication_slots ON slot_name = %s AND database = current_database()
"""


def read_database(connection: psycopg.Connection[tuple[Any, ...]], config: Config, system: str) -> Database:
    """Raises what psycopg raises."""
    row = connection.execute(_SLOT, (config.systems[system].slot,)).fetchone()
    assert row is not None  # the outer join has a row always
    active, wal_status, confirmed, current, retained, keep_limit = row
    slot = "missing" if active is None else "lost" if wal_status == "lost" else "streaming" if active else "inactive"
    told: dict[str, Any] = {"slot": slot, "confirmed": confirmed, "current": current, "retained": retained, "keep_limit": keep_limit}
    if not concord_schema.version(connection):
        return Database(**told)
    snapshots = connection.execute(
        "SELECT table_name, bool_and(done), sum(rows) FILTER (WHERE predicate = '') FROM concord.snapshot WHERE pipeline = %s GROUP BY 1",
        (config.systems[system].slot,),
    )
    parked = connection.execute(
        "SELECT entity, count(*), extract(epoch FROM clock_timestamp() - min(since)) FROM concord.parked GROUP BY 1"
    )
    waiting = parked.fetchall()
    return Database(
        ready=True,
        snapshots={name: (done, int(rows or 0)) for name, done, rows in snapshots},
        progress=progress_of(connection),
        parked={entity: number for entity, number, _ in waiting},
        parked_oldest=max((float(seconds) for _, _, seconds in waiting), default=0.0),
        dead=dict(connection.execute("SELECT entity, count(*) FROM concord.dead_letter GROUP BY 1").fetchall()),
        verified=verified.last(connection),
        **told,
    )


def progress_of(connection: psycopg.Connection[tuple[Any, ...]]) -> dict[Partition, int]:
    rows = connection.execute('SELECT topic, partition, "offset" FROM concord.progress')
    return {(topic, partition): offset for topic, partition, offset in rows}


class Observer:
    """Looks at a pipeline from outside, again and again over the same connections."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.cluster = Cluster(config.kafka)
        self.run_dir = wiring.run_dir(config)
        self.streamed = stream_topics(config)
        self.golden = {topics.golden(entity): entity for entity in config.entities}
        self._connections: dict[str, psycopg.Connection[tuple[Any, ...]]] = {}
        self._stack = ExitStack()
        self._codec: Codec | None = None
        self._letters: dict[str, dead.Count] = {}

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def _session(self, system: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        connection = self._connections.get(system)
        if connection is None or connection.closed:
            connection = self._connections[system] = self._stack.enter_context(wiring.session(self.config, system))
        with translated(f"system {system}"):
            yield connection

    def databases(self) -> dict[str, Database]:
        """Each system's own account; one that does not answer has its error in it."""
        found = {}
        for system in self.config.systems:
            try:
                with self._session(system) as connection:
                    found[system] = read_database(connection, self.config, system)
            except ConcordError as error:
                found[system] = Database(error=first_line(error))
        return found

    def ends(self) -> Ends:
        return self.cluster.ends([*self.streamed, *self.golden])

    def committed(self) -> dict[Partition, int]:
        return self.cluster.committed(wiring.group_of_streams(self.config), self.streamed)

    def reads(self, system: str) -> set[str]:
        """The golden topics that a system's sink reads."""
        return {topics.golden(name) for name, entity in self.config.entities.items() if system in entity.bindings}

    def behind(self, ends: Ends, committed: Mapping[Partition, int], databases: Mapping[str, Database]) -> Behind:
        return Behind(
            streams=lag({at: span for at, span in ends.items() if at[0] in self.streamed}, committed),
            sinks={
                system: lag({at: span for at, span in ends.items() if at[0] in self.reads(system)}, told.progress)
                for system, told in databases.items()
            },
        )

    def is_settled(self) -> bool:
        """The three steps of this module's docstring. Raises Retriable when Kafka does not answer."""
        ends = self.ends()
        if {topic for topic, _ in ends} != {*self.streamed, *self.golden}:
            return False  # a topic is missing: nothing has begun yet
        databases = self.databases()
        if any(told.error or not told.ready for told in databases.values()):
            return False
        if self.behind(ends, self.committed(), databases).total:
            return False
        if not all(self._confirmed(system) for system in self.config.systems):
            return False
        return self.ends() == ends

    def _confirmed(self, system: str) -> bool:
        """Whether the slot has everything that is in the log now, and the snapshot is done. Waits a moment for the confirmation."""
        deadline = time.monotonic() + CONFIRM_SECONDS
        wanted = None
        while True:
            try:
                with self._session(system) as connection:
                    told = read_database(connection, self.config, system)
            except ConcordError:
                return False
            tables = table_names(self.config, system)
            if not all(told.snapshots.get(f"{schema}.{table}", (False, 0))[0] for schema, table in tables):
                return False
            wanted = told.current if wanted is None else wanted
            if not tables or told.confirmed >= wanted:
                return True
            if told.slot != "streaming" or time.monotonic() > deadline:
                return False
            time.sleep(0.02)

    def settled_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not (settled := self._is_settled_now()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return settled

    def _is_settled_now(self) -> bool:
        try:
            return self.is_settled()
        except Retriable as error:  # a Kafka that has just started has no coordinator for its groups yet
            logger.debug("not settled: %s", error)
            return False

    def dead_before_sinks(self, system: str) -> tuple[dict[str | None, int], bool]:
        """Dead letters of source, intake and merge of a system, by entity; and whether there are more, which nobody told apart."""
        ends = self.cluster.ends([topics.dead(system)])
        if not any(high > low for low, high in ends.values()):
            return {}, False
        if self._codec is None:
            self._codec = Codec(open_registry(self.config.kafka, self.config.registry))
            self._stack.callback(self._codec.registry.close)
        try:
            with self._session(system) as connection:
                decided = dead.decided_events(connection)
        except ConcordError:
            decided = {}  # it does not answer: what was decided is open meanwhile
        letters = self._letters.setdefault(system, dead.Count())
        letters.read(self.cluster, self._codec, ends, DEAD_READ_LIMIT)
        return letters.open(decided), letters.more

    def conflicts(self) -> dict[str, int]:
        """Entity → conflicts that were ever recorded: where their topic ends."""
        counted: dict[str, int] = {}
        for (topic, _), (_, high) in self.cluster.ends(map(topics.conflicts, self.config.entities)).items():
            entity = topic.removeprefix(topics.conflicts(""))
            counted[entity] = counted.get(entity, 0) + high
        return counted

    def report(self, settled: bool | None = None) -> dict[str, Any]:
        """`{"settled", "systems", "parts", "entities"}`. When Kafka does not answer, that is an error of every system."""
        scraped = metrics.scrape(metrics.addresses(self.run_dir).values())
        databases = self.databases()
        kafka_error = None
        ends: Ends = {}
        committed: dict[Partition, int] = {}
        letters: dict[str, tuple[dict[str | None, int], bool]] = {system: ({}, False) for system in databases}
        conflicts: dict[str, int] = {}
        try:
            settled = self.is_settled() if settled is None else settled
            ends, committed = self.ends(), self.committed()
            letters = {system: self.dead_before_sinks(system) for system in databases}
            conflicts = self.conflicts()
        except ConcordError as error:
            kafka_error, settled = first_line(error), False
        behind = self.behind(ends, committed, databases)
        compared = {system: told.verified for system, told in databases.items()}
        return {
            "settled": bool(settled),
            "systems": {name: self._system(name, told, behind, scraped, letters[name], kafka_error) for name, told in databases.items()},
            "parts": parts(self.config, self.run_dir),
            "entities": {
                name: {
                    "events": _events(scraped, entity=name),
                    "conflicts": conflicts.get(name, 0),
                    "lag_events": self._lag_of(name, behind) if kafka_error is None else None,
                    "parked": sum(told.parked.get(name, 0) for told in databases.values()),
                    "dead": sum(told.dead.get(name, 0) for told in databases.values())
                    + sum(counted.get(name, 0) for counted, _ in letters.values()),
                    "verified": one.to_json() if (one := verified.newest(compared, name)) else None,
                }
                for name in self.config.entities
            },
        }

    def positions(self) -> Iterator[tuple[tuple[str, ...], float, float]]:
        """Every reader (step, system, and what it reads), how far it has come, and where that ends. What does not answer is left out."""
        databases = self.databases()
        for system, told in databases.items():
            if told.error is None and told.slot in ("streaming", "inactive"):
                yield ("source", system), told.confirmed, told.current
        try:
            ends, committed = self.ends(), self.committed()
        except ConcordError:
            return  # Kafka does not answer: of its readers nothing is known
        for at, (low, high) in ends.items():
            name = (at[0], str(at[1]))
            if at[0] in self.streamed:
                yield ("streams", "", *name), max(low, committed.get(at, low)), high
            for system, told in databases.items():
                if told.error is None and at[0] in self.reads(system):
                    yield ("sink", system, *name), max(low, told.progress.get(at, low)), high

    def _lag_of(self, entity: str, behind: Behind) -> int:
        streams = sum(count for (topic, _), count in behind.streams.items() if entity in self.streamed[topic])
        golden = topics.golden(entity)
        return streams + sum(count for sink in behind.sinks.values() for (topic, _), count in sink.items() if topic == golden)

    def _system(
        self,
        name: str,
        told: Database,
        behind: Behind,
        scraped: metrics.Scrape,
        letters: tuple[Mapping[str | None, int], bool],
        kafka_error: str | None,
    ) -> dict[str, Any]:
        tables = [f"{schema}.{table}" for schema, table in table_names(self.config, name)]
        answers = told.error is None
        return {
            "error": told.error or kafka_error,
            "slot": told.slot if answers else None,
            "retained_wal_bytes": told.retained if answers else None,
            "wal_keep_limit_bytes": told.keep_limit,
            "snapshot": {table: dict(zip(("done", "rows"), told.snapshots.get(table, (False, 0)), strict=True)) for table in tables},
            "source_lag_bytes": max(0, told.current - told.confirmed) if answers and told.slot != "missing" else None,
            "source_lag_seconds": scraped.highest("concord_lag_seconds", part="source", system=name),
            "sink_lag_events": sum(behind.sinks[name].values()) if answers and kafka_error is None else None,
            "sink_lag_seconds": scraped.highest("concord_lag_seconds", part="sink", system=name),
            "parked": sum(told.parked.values()) if answers else None,
            "parked_oldest_seconds": round(told.parked_oldest, 1) if answers else None,
            "dead": sum(told.dead.values()) + sum(letters[0].values()) if answers else None,
            "dead_and_more": letters[1],
            "events": _events(scraped, system=name),
            "commit_to_commit": _latencies(scraped, name, self.config),
        }


@dataclass(frozen=True)
class Behind:
    """What is not read yet."""

    streams: Mapping[Partition, int]
    sinks: Mapping[str, Mapping[Partition, int]]

    @property
    def total(self) -> int:
        return sum(self.streams.values()) + sum(sum(sink.values()) for sink in self.sinks.values())


def _events(scraped: metrics.Scrape, **labels: str) -> dict[str, int]:
    """End states (I6) counted by the parts that run on this machine, since they started."""
    counted = {state.value: int(scraped.total("concord_events_total", state=state.value, **labels)) for state in State}
    return {state: count for state, count in counted.items() if count}


def _latencies(scraped: metrics.Scrape, to: str, config: Config) -> dict[str, dict[str, float | int]]:
    found: dict[str, dict[str, float | int]] = {}
    for sender in config.systems:
        buckets = scraped.histogram("concord_commit_to_commit_seconds", from_system=sender, to_system=to)
        if buckets and (count := max(buckets.values())):
            found[sender] = {
                "count": int(count),
                "p50_ms": round(quantile(buckets, 0.50) * 1000, 2),
                "p99_ms": round(quantile(buckets, 0.99) * 1000, 2),
            }
    return found


def parts(config: Config, run_dir: Path) -> dict[str, dict[str, Any]]:
    """Every part that runs on this machine, or should: what `concord up` starts, and what was started by hand and lives."""
    folder = run_dir / "parts"
    supervisor = read_json(run_dir / "up.json")
    supervised = is_held(run_dir / "up.lock")
    known: dict[str, dict[str, Any]] = supervisor.get("parts", {}) if isinstance(supervisor.get("parts"), dict) else {}
    by_hand = {file.stem for file in folder.glob("*.json") if is_held(file.with_suffix(".lock"))}
    sources = {wiring.DEBEZIUM} if config.source == "debezium" else {f"source-{system}" for system in config.systems}
    usual = sources | {"streams-0"} | {f"sink-{system}-0" for system in config.systems}
    found = {}
    for name in sorted({*known, *by_hand} if supervised else usual | by_hand):
        told, up = read_json(folder / f"{name}.json"), known.get(name, {})
        runs = name in by_hand
        age = _age(told.get("heartbeat")) if runs else None
        found[name] = {
            "alive": bool(runs and age is not None and age <= STALE_SECONDS),
            "pid": told.get("pid") if runs else up.get("pid") if supervised else None,
            "since": told.get("since") if runs else None,
            "state": ("not responding" if age is None or age > STALE_SECONDS else told.get("state")) if runs else "not running",
            "restarts": int(up.get("restarts", 0)),
            "last_exit": up.get("last_exit"),
            "metrics": told.get("metrics") if runs else None,
        }
    return found


def _age(when: object) -> float | None:
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(str(when))).total_seconds()
    except ValueError:
        return None


def status(config: Config) -> dict[str, Any]:
    """The report, now."""
    with Observer(config) as observer:
        return observer.report()


def settled_within(config: Config, seconds: float) -> dict[str, Any]:
    """The report as soon as nothing is in flight, at the latest after so long."""
    with Observer(config) as observer:
        try:
            settled = observer.settled_within(seconds)
        except ConcordError as error:
            logger.debug("not settled: %s", error)
            settled = False
        return observer.report(settled)


def could_be_asked(report: Mapping[str, Any]) -> bool:
    return all(told["error"] is None for told in report["systems"].values())


def is_well(report: Mapping[str, Any]) -> bool:
    """Every part alive, every slot streaming, nothing dead-lettered."""
    return all(part["alive"] for part in report["parts"].values()) and all(
        told["slot"] == "streaming" and not told["dead"] for told in report["systems"].values()
    )


# --- for people -------------------------------------------------------------------------------------------------------------------


def show(report: Mapping[str, Any], console: Console, name: str) -> None:
    console.print(rendered(report, name))


def watch(config: Config, console: Console, every: float = 1.0) -> None:
    """The screen, anew each second, until Ctrl-C."""
    with Observer(config) as observer, Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        try:
            while True:
                began = time.monotonic()
                live.update(rendered(observer.report(), config.name), refresh=True)
                time.sleep(max(0.1, every - (time.monotonic() - began)))
        except KeyboardInterrupt:
            pass


def rendered(report: Mapping[str, Any], name: str) -> RenderableType:
    settled = Text("settled: nothing is in flight", "green") if report["settled"] else Text("in flight", "yellow")
    headline = Text.assemble((name, "bold"), "  ", settled)
    errors = [Text(f"{system}: {told['error']}", "red") for system, told in report["systems"].items() if told["error"]]
    return Group(headline, *errors, Text(), _systems(report), Text(), _parts(report), Text(), _entities(report))


def _grid(*headings: str) -> Grid:
    grid = Grid(box=None, header_style="bold", pad_edge=False)
    for number, heading in enumerate(headings):
        grid.add_column(heading, justify="left" if number == 0 else "right", no_wrap=True)
    return grid


def _systems(report: Mapping[str, Any]) -> Grid:
    grid = _grid("system", "slot", "snapshot", "retained WAL", "source lag", "sink lag", "parked", "dead", "p50 / p99 commit → commit")
    for name, told in report["systems"].items():
        tables = told["snapshot"].values()
        snapshot = "done" if all(one["done"] for one in tables) else f"{sum(one['done'] for one in tables)} of {len(tables)} tables"
        grid.add_row(
            name,
            _bad(told["slot"] or "?", told["slot"] != "streaming"),
            snapshot,
            size(told["retained_wal_bytes"]),
            f"{size(told['source_lag_bytes'])}{_seconds(told['source_lag_seconds'])}",
            f"{_count(told['sink_lag_events'])} events{_seconds(told['sink_lag_seconds'])}",
            _count(told["parked"]),
            _bad(_count(told["dead"]) + (" or more" if told["dead_and_more"] else ""), bool(told["dead"])),
            "  ".join(f"{sender} {one['p50_ms']:.1f} / {one['p99_ms']:.1f} ms" for sender, one in told["commit_to_commit"].items()),
        )
    return grid


def _parts(report: Mapping[str, Any]) -> Grid:
    grid = _grid("part", "state", "pid", "since", "restarts")
    grid.add_column("last exit", overflow="fold")
    for name, told in report["parts"].items():
        last = told["last_exit"]
        grid.add_row(
            name,
            _bad(str(told["state"]), not told["alive"]),
            _count(told["pid"]) if told["pid"] else "",
            (told["since"] or "")[:19].replace("T", " "),
            str(told["restarts"]),
            escape(f"{last['reason']} at {last['at'][:19].replace('T', ' ')}") if last else "",
        )
    return grid


def _entities(report: Mapping[str, Any]) -> Grid:
    states = [state.value for state in State if any(told["events"].get(state.value) for told in report["entities"].values())]
    grid = _grid("entity", "lag", "conflicts", "parked", "dead", *(state.replace("_", " ") for state in states))
    for name, told in report["entities"].items():
        counts = (_count(told["events"].get(state, 0)) for state in states)
        grid.add_row(name, _count(told["lag_events"]), _count(told["conflicts"]), _count(told["parked"]), _count(told["dead"]), *counts)
    return grid


def _bad(text: str, bad: bool) -> str:
    return f"[red]{text}[/]" if bad else text


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number}" if number < 100_000 else f"{number:,}"


def _seconds(seconds: float | None) -> str:
    return f", {seconds:.1f} s" if seconds else ""


def size(count: int | None) -> str:
    """`1.5 MB`."""
    if count is None:
        return "?"
    number, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
