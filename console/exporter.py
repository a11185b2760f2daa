"""The figures of `concord status` as Prometheus metrics: what is seen of a pipeline from outside, also while its parts are down.

A thread looks every `LOOK_SECONDS`; a scrape gets what it saw last, with the time of it (`concord_status_observed_timestamp_seconds`), and
waits for nothing. `METRICS` says where each figure of the report goes. With `concord up --http` the parts' own metrics stand beside these,
with the label `process`.

Lag in seconds: how long ago the reader's position was the end of what it reads (`Ages`). That needs no record and no clock but ours, and
works while the reader is dead; what had piled up before the exporter started counts from its start.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from importlib.resources import files
from typing import Any

from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from console import endpoints, metrics, status, wiring
from console.logs import first_line
from console.ports import Address
from console.supervise import Supervisor
from schemas.config import Config
from schemas.errors import ConcordError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
STALE_SECONDS = 120.0  # a look at databases and a Kafka that do not answer ends well before
SLOT_STATES = ("streaming", "inactive", "lost", "missing")
REMEMBERED = 2_000  # positions that `Ages` keeps of one reader: with one in ten seconds, the last five hours

Report = Mapping[str, Any]
Series = Iterator[tuple[tuple[str, ...], float]]  # label values → value


class Ages:
    """How far behind a reader is, in seconds, out of looks at its position and at the end of what it reads."""

    def __init__(self) -> None:
        self._ends: dict[tuple[str, ...], deque[tuple[float, float]]] = {}

    def look(self, reader: tuple[str, ...], now: float, position: float, end: float) -> float:
        """Seconds since the end was where the reader is now; 0 when it has everything. Positions and ends grow, `now` too."""
        seen = self._ends.setdefault(reader, deque(maxlen=REMEMBERED))
        if position >= end:
            seen.clear()
            return 0.0
        while seen and seen[0][1] <= position:
            seen.popleft()  # the reader has come past this one
        if not seen or end > seen[-1][1]:
            if len(seen) == seen.maxlen:
                del seen[1]  # the oldest is the one that tells
            seen.append((now, end))
        return max(0.0, now - seen[0][0])


def _per_system(key: str) -> Callable[[Report], Series]:
    def series(report: Report) -> Series:
        for name, told in report["systems"].items():
            if told[key] is not None:
                yield (name,), float(told[key])

    return series


def _per_entity(key: str) -> Callable[[Report], Series]:
    def series(report: Report) -> Series:
        for name, told in report["entities"].items():
            if told[key] is not None:
                yield (name,), float(told[key])

    return series


def _slots(report: Report) -> Series:
    for name, told in report["systems"].items():
        for state in SLOT_STATES:
            yield (name, state), float(told["slot"] == state)


def _snapshot(key: str) -> Callable[[Report], Series]:
    def series(report: Report) -> Series:
        for name, told in report["systems"].items():
            for table, one in told["snapshot"].items():
                yield (name, table), float(one[key])

    return series


def _events(kind: str) -> Callable[[Report], Series]:
    def series(report: Report) -> Series:
        for name, told in report[kind].items():
            for state, count in told["events"].items():
                yield (name, state), float(count)

    return series


def _latencies(report: Report) -> Series:
    for to, told in report["systems"].items():
        for sender, one in told["commit_to_commit"].items():
            for quantile, key in (("0.5", "p50_ms"), ("0.99", "p99_ms")):
                yield (sender, to, quantile), one[key] / 1000


def _carried(report: Report) -> Series:
    for to, told in report["systems"].items():
        for sender, one in told["commit_to_commit"].items():
            yield (sender, to), float(one["count"])


def _parts(value: Callable[[Mapping[str, Any]], float | None]) -> Callable[[Report], Series]:
    def series(report: Report) -> Series:
        for name, told in report["parts"].items():
            found = value(told)
            if found is not None:
                yield (name,), found

    return series


def _part_states(report: Report) -> Series:
    for name, told in report["parts"].items():
        yield (name, str(told["state"])), 1.0


def _time(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:  # not told, or by another version
        return None


def _verified(value: Callable[[Mapping[str, Any]], float | None]) -> Callable[[Report], Series]:
    def series(report: Report) -> Series:
        for name, told in report["entities"].items():
            found = value(told["verified"]) if told["verified"] else None
            if found is not None:
                yield (name,), found

    return series


SYSTEM, ENTITY, PART = ("system",), ("entity",), ("part",)
# name (of a counter without its _total), help, labels, figures
METRICS: tuple[tuple[type[GaugeMetricFamily] | type[CounterMetricFamily], str, str, tuple[str, ...], Callable[[Report], Series]], ...] = (
    (GaugeMetricFamily, "settled", "1 when nothing is in flight anywhere", (), lambda r: iter([((), float(r["settled"]))])),
    (
        GaugeMetricFamily,
        "answers",
        "1 when the system and Kafka could be asked",
        SYSTEM,
        lambda r: (((name,), float(told["error"] is None)) for name, told in r["systems"].items()),
    ),
    (GaugeMetricFamily, "slot", "1 for the state that the replication slot is in", ("system", "state"), _slots),
    (GaugeMetricFamily, "retained_wal_bytes", "Log that the database keeps for our slot", SYSTEM, _per_system("retained_wal_bytes")),
    (
        GaugeMetricFamily,
        "wal_keep_limit_bytes",
        "Retained log at which the slot is lost: max_slot_wal_keep_size; absent without a limit",
        SYSTEM,
        _per_system("wal_keep_limit_bytes"),
    ),
    (GaugeMetricFamily, "snapshot_done", "1 when the snapshot of the table is done", ("system", "table"), _snapshot("done")),
    (GaugeMetricFamily, "snapshot_rows", "Rows that the table's snapshot has read", ("system", "table"), _snapshot("rows")),
    (GaugeMetricFamily, "source_lag_bytes", "Log that is written and not confirmed", SYSTEM, _per_system("source_lag_bytes")),
    (
        GaugeMetricFamily,
        "source_lag_seconds",
        "Age of the event the source handled last, as it says",
        SYSTEM,
        _per_system("source_lag_seconds"),
    ),
    (GaugeMetricFamily, "sink_lag_events", "Golden records that are not applied yet", SYSTEM, _per_system("sink_lag_events")),
    (GaugeMetricFamily, "sink_lag_seconds", "Age of the record the sink handled last, as it says", SYSTEM, _per_system("sink_lag_seconds")),
    (GaugeMetricFamily, "parked", "Records that wait for another thing", SYSTEM, _per_system("parked")),
    (
        GaugeMetricFamily,
        "parked_oldest_seconds",
        "How long the record waits that waits longest; 0 when none does",
        SYSTEM,
        _per_system("parked_oldest_seconds"),
    ),
    (GaugeMetricFamily, "dead_letters", "Records that cannot be applied as they are", SYSTEM, _per_system("dead")),
    (
        CounterMetricFamily,
        "events",
        "Events by the state they ended in, of the parts on this machine",
        ("system", "state"),
        _events("systems"),
    ),
    (GaugeMetricFamily, "commit_to_commit_seconds", "Commit to commit", ("from_system", "to_system", "quantile"), _latencies),
    (CounterMetricFamily, "carried", "Changes carried from commit to commit", ("from_system", "to_system"), _carried),
    (GaugeMetricFamily, "part_alive", "1 when the part runs and answers", PART, _parts(lambda told: float(told["alive"]))),
    (GaugeMetricFamily, "part_state", "1 for the state that the part tells", ("part", "state"), _part_states),
    (
        CounterMetricFamily,
        "part_restarts",
        "Times the supervisor started the part again",
        PART,
        _parts(lambda told: float(told["restarts"])),
    ),
    (GaugeMetricFamily, "part_started_timestamp_seconds", "When the part was started", PART, _parts(lambda told: _time(told["since"]))),
    (
        GaugeMetricFamily,
        "part_last_exit_code",
        "How the part ended last; negative: by that signal",
        PART,
        _parts(lambda told: float(told["last_exit"]["code"]) if told["last_exit"] else None),
    ),
    (
        GaugeMetricFamily,
        "part_last_exit_timestamp_seconds",
        "When the part ended last",
        PART,
        _parts(lambda told: _time(told["last_exit"]["at"]) if told["last_exit"] else None),
    ),
    (GaugeMetricFamily, "entity_lag_events", "Events of the entity that are not handled yet", ENTITY, _per_entity("lag_events")),
    (CounterMetricFamily, "conflicts", "Writes that lost against another system's", ENTITY, _per_entity("conflicts")),
    (GaugeMetricFamily, "entity_parked", "Records of the entity that wait for another thing", ENTITY, _per_entity("parked")),
    (GaugeMetricFamily, "entity_dead_letters", "Records of the entity that cannot be applied", ENTITY, _per_entity("dead")),
    (CounterMetricFamily, "entity_events", "Events by the state they ended in", ("entity", "state"), _events("entities")),
    (
        GaugeMetricFamily,
        "verify_differences",
        "Things that the last concord verify found different or missing",
        ENTITY,
        _verified(lambda told: float(told["differences"])),
    ),
    (
        GaugeMetricFamily,
        "verify_timestamp_seconds",
        "When the last concord verify ended",
        ENTITY,
        _verified(lambda told: _time(told["at"])),
    ),
)


def families(report: Report) -> Iterator[Metric]:
    """Every figure of a report."""
    for kind, name, help_, labels, series in METRICS:
        family = kind(f"concord_status_{name}", help_, labels=labels)
        for values, value in series(report):
            family.add_metric(values, value)
        yield family


class Exporter(Collector):
    """Looks at the pipeline, on and on, and hands out what it saw last. `run` in a thread of its own."""

    def __init__(self, config: Config, parts_too: bool = False) -> None:
        self._config = config
        self._parts_too = parts_too
        self._ages = Ages()
        self._ending = threading.Event()
        self._seen: list[Metric] = []
        self._seen_at = time.monotonic()

    def registry(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        registry.register(self)
        for own in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            if not self._parts_too:  # else each part's own of them stand there, with its name
                registry.register(own)
        return registry

    @property
    def seen_seconds_ago(self) -> float:
        """How old what it hands out is."""
        return time.monotonic() - self._seen_at

    def start(self) -> None:
        threading.Thread(target=self.run, name="exporter", daemon=True).start()

    def run(self) -> None:
        with status.Observer(self._config) as observer:
            while not self._ending.is_set():
                try:
                    self._seen = [*self._look(observer)]
                    self._seen_at = time.monotonic()
                except ConcordError as error:
                    logger.warning("the pipeline could not be looked at: %s", first_line(error))
                self._ending.wait(LOOK_SECONDS)

    def stop(self) -> None:
        self._ending.set()

    def _look(self, observer: status.Observer) -> Iterator[Metric]:
        report = observer.report()
        folder = observer.run_dir / "parts"
        here = {name: told for name, told in report["parts"].items() if (folder / f"{name}.json").exists()}
        yield from families({**report, "parts": here})  # a part that never ran on this machine may be well on another
        lag = GaugeMetricFamily(
            "concord_status_lag_seconds", "How far behind a step is: since when the end was where it is now", labels=("step", "system")
        )
        now = time.monotonic()
        behind: dict[tuple[str, str], float] = {}
        for reader, position, end in observer.positions():
            step = (reader[0], reader[1])
            behind[step] = max(behind.get(step, 0.0), self._ages.look(reader, now, position, end))
        for step, seconds in behind.items():
            lag.add_metric(step, seconds)
        yield lag
        yield GaugeMetricFamily("concord_status_observed_timestamp_seconds", "When the pipeline was looked at last", value=time.time())

    def describe(self) -> Iterable[Metric]:
        return ()  # or registering would collect

    def collect(self) -> Iterable[Metric]:
        yield from self._seen
        if self._parts_too:
            yield from of_parts(metrics.addresses(wiring.run_dir(self._config)))


def of_parts(addresses: Mapping[str, str]) -> Iterator[Metric]:
    """The parts' own metrics, each sample with the part's name as `process`; a part that does not answer is left out."""
    merged: dict[str, Metric] = {}
    for process, address in addresses.items():
        text = metrics.read(address)
        for family in () if text is None else text_string_to_metric_families(text):
            into = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                into.samples.append(sample._replace(labels={**sample.labels, "process": process}))
    yield from merged.values()


def rules() -> str:
    """The alerting rules that come with the package."""
    return (files("console") / "alerts" / "concord.rules.yml").read_text()


def serve_up(address: Address, config: Config, supervisor: Supervisor) -> None:
    """Answers for a supervisor and all its parts, beside it, for as long as the process lives."""
    exporter = Exporter(config, parts_too=True)
    exporter.start()
    alive, _ = endpoints.of_part("up", supervisor.health)

    def ready() -> endpoints.Answer:
        waits_for = not_ready(config)
        return not waits_for, {"part": "up", "ready": not waits_for, "waits_for": waits_for}

    logger.info("serving %s", endpoints.serve(address, alive, ready, exporter.registry()))


def not_ready(config: Config) -> dict[str, str]:
    """Each part on this machine that does not do its work now → why."""
    run_dir = wiring.run_dir(config)
    asked = metrics.addresses(run_dir)
    found = {}
    for name, told in status.parts(config, run_dir).items():
        if not told["alive"]:
            found[name] = str(told["state"])
        elif name not in asked:
            found[name] = "starting"
        elif waits_for := endpoints.waits_for(asked[name]):
            found[name] = waits_for
    return found


def serve_status(address: Address, config: Config) -> None:
    """Answers until the process is stopped: for pipelines whose parts run one by one, or on several machines."""
    exporter = Exporter(config)

    def alive() -> endpoints.Answer:
        ago = exporter.seen_seconds_ago
        return ago < STALE_SECONDS, {"part": "status", "alive": ago < STALE_SECONDS, "looked_seconds_ago": round(ago, 1)}

    logger.info("serving %s", endpoints.serve(address, alive, alive, exporter.registry()))
    exporter.run()
