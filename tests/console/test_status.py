"""`concord status` and `settled`: real databases and topics, what the parts would have done is done by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from console import status, verified
from console.parts import being, write_json
from console.status import Observer, size
from console.wiring import ensure_system, group_of_streams
from schemas import topics
from schemas.metrics import SECONDS_BUCKETS
from tests.console.a_report import REPORT
from tests.console.console_fixtures import World, world

__all__ = ["world"]


@pytest.fixture
def ready(world: World) -> World:
    """Everything is there and idle: slots confirmed, snapshots done, topics empty."""
    world.prepare()
    for system in world.db:
        ensure_system(world.config, system)
        name = world.config.systems[system].slot
        for table in ("account", "contact") if system == world.crm else ("partner", "user"):
            world.do(system, "INSERT INTO concord.snapshot (pipeline, table_name, done) VALUES (%s, %s, true)", name, f"public.{table}")
    return world


def confirm(world: World) -> None:
    """What the sources do when there is nothing to read. A slot that nobody streams from moves in no other way."""
    for system, connection in world.db.items():
        slot = world.config.systems[system].slot
        connection.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", (slot,))


def produce(world: World, topic: str, count: int = 3) -> int:
    producer = Producer({"bootstrap.servers": world.kafka})
    for _ in range(count):
        producer.produce(topic, b"x", b"k", partition=1)
    assert producer.flush(10) == 0
    return count


def commit(world: World, topic: str, offset: int) -> None:
    admin = AdminClient({"bootstrap.servers": world.kafka})
    group = ConsumerGroupTopicPartitions(group_of_streams(world.config), [TopicPartition(topic, 1, offset)])
    admin.alter_consumer_group_offsets([group])[group.group_id].result(10)


def settled(world: World, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With sources that confirm at once, as long as nobody says otherwise."""
    real = status.read_database

    def confirming(connection: psycopg.Connection[tuple[Any, ...]], *rest: Any) -> status.Database:
        confirm(world)
        told = real(connection, *rest)
        return told if told.slot != "inactive" else status.Database(**{**_fields(told), "slot": "streaming"})

    monkeypatch.setattr(status, "read_database", confirming)
    with Observer(world.config) as observer:
        return observer.is_settled()


def _fields(told: status.Database) -> dict[str, Any]:
    return {name: getattr(told, name) for name in status.Database.__dataclass_fields__}


def test_an_idle_pipeline_is_settled(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settled(ready, monkeypatch)


def test_a_change_that_no_source_has_confirmed_is_in_flight(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "CONFIRM_SECONDS", 0.1)
    confirm(ready)
    ready.do(ready.crm, "INSERT INTO account VALUES (gen_random_uuid(), 'news')")
    with Observer(ready.config) as observer:
        assert not observer.is_settled()


@pytest.mark.parametrize("which", ["captured", "claims", "changes", "links"])
def test_what_the_streams_have_not_committed_is_in_flight(ready: World, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    topic = {
        "captured": topics.captured(ready.crm, "public", "account"),
        "claims": topics.claims(ready.customer),
        "changes": topics.changes(ready.customer),
        "links": topics.links(ready.erp, "public", "user"),
    }[which]
    end = produce(ready, topic)
    assert not settled(ready, monkeypatch)
    commit(ready, topic, end - 1)
    assert not settled(ready, monkeypatch)
    commit(ready, topic, end)
    assert settled(ready, monkeypatch)


def test_what_a_sink_has_not_stored_as_progress_is_in_flight(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = topics.golden(ready.customer)
    end = produce(ready, topic)
    insert = 'INSERT INTO concord.progress VALUES (%s, 1, %s) ON CONFLICT (topic, partition) DO UPDATE SET "offset" = excluded."offset"'
    ready.do(ready.crm, insert, topic, end)
    assert not settled(ready, monkeypatch)
    with Observer(ready.config) as observer:
        report = observer.report()
    assert report["systems"][ready.crm]["sink_lag_events"] == 0
    assert report["systems"][ready.erp]["sink_lag_events"] == end
    assert report["entities"][ready.customer]["lag_events"] == end
    ready.do(ready.erp, insert, topic, end)
    assert settled(ready, monkeypatch)


def test_nothing_is_settled_before_the_snapshot_is_done(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ready.do(ready.erp, "UPDATE concord.snapshot SET done = false WHERE table_name = 'public.user'")
    assert not settled(ready, monkeypatch)


def test_what_comes_while_looking_is_in_flight(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[[Observer], status.Ends] = Observer.ends
    looks = []

    def ends(observer: Observer) -> status.Ends:
        looks.append(1)
        if len(looks) == 2:
            produce(ready, topics.captured(ready.crm, "public", "account"))
        return real(observer)

    monkeypatch.setattr(Observer, "ends", ends)
    assert not settled(ready, monkeypatch)
    assert len(looks) == 2


def test_the_report_has_exactly_the_promised_shape(ready: World) -> None:
    produce(ready, topics.conflicts(ready.customer), 2)
    ready.do(
        ready.erp,
        'INSERT INTO concord.parked (entity, link, waits_for_entity, waits_for, topic, partition, "offset", record, reason, since) '
        "VALUES (%s, 'l', 'e', 'w', 't', 0, 0, '', 'no parent', now() - interval '1 hour')",
        ready.contact,
    )
    exit_status, told = ready.concord("status")
    assert exit_status == 1  # no part runs
    assert set(told) == {"settled", "systems", "parts", "entities"}
    assert told["settled"] is False
    assert set(told["systems"]) == {ready.crm, ready.erp}
    assert set(told["systems"][ready.crm]) == set(REPORT["systems"]["erp"])
    assert told["systems"][ready.crm]["slot"] == "inactive"
    assert told["systems"][ready.crm]["snapshot"]["public.account"] == {"done": True, "rows": 0}
    assert told["systems"][ready.erp]["parked"] == 1
    assert set(told["parts"]) == {f"source-{ready.crm}", f"source-{ready.erp}", "streams-0", f"sink-{ready.crm}-0", f"sink-{ready.erp}-0"}
    assert set(told["parts"]["streams-0"]) == set(REPORT["parts"]["sink-erp-0"])
    assert told["parts"]["streams-0"]["alive"] is False
    assert told["entities"][ready.customer] == {"events": {}, "conflicts": 2, "lag_events": 0, "parked": 0, "dead": 0, "verified": None}
    assert set(told["entities"][ready.customer]) == set(REPORT["entities"]["customer"])
    assert told["systems"][ready.erp]["parked_oldest_seconds"] >= 3600
    assert told["entities"][ready.contact]["parked"] == 1
    assert "inactive" in ready.run("status").stdout
    verified.keep(ready.config, {ready.customer: (10, 0)})
    verified.keep(ready.config, {ready.customer: (12, 3)})
    with Observer(ready.config) as observer:
        found = observer.report()["entities"][ready.customer]["verified"]
        readers = {reader[:2] for reader, position, end in observer.positions() if position <= end}
    assert (found["things"], found["differences"]) == (12, 3)
    assert readers == {("streams", ""), ("source", ready.crm), ("source", ready.erp), ("sink", ready.crm), ("sink", ready.erp)}


def test_a_database_that_does_not_answer_hides_only_itself(world: World) -> None:
    world.prepare(topics=False)
    world.file.write_text(world.file.read_text().replace(world.dsn[world.erp], "postgresql://nobody:s3cret@127.0.0.1:1/nowhere"))
    exit_status, told = world.concord("status")
    assert exit_status == 2
    assert "127.0.0.1" in told["systems"][world.erp]["error"]
    assert told["systems"][world.crm]["parked"] == 0
    assert world.run("status").exit_code == 2


def test_waiting_in_vain_ends_with_1(world: World) -> None:
    exit_status, told = world.concord("status", "--wait", "0.2")
    assert exit_status == 1
    assert told["settled"] is False


def test_a_living_part_is_seen_with_its_metrics_and_a_stale_one_is_not_alive(
    ready: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = CollectorRegistry()
    events = Counter("concord_events", "…", ("part", "system", "entity", "state"), registry=registry)
    events.labels("sink", ready.erp, ready.customer, "applied").inc(3)
    spread = Histogram("concord_commit_to_commit_seconds", "…", ("from_system", "to_system"), buckets=SECONDS_BUCKETS, registry=registry)
    for number in range(1, 101):
        spread.labels(ready.crm, ready.erp).observe(number / 1000)
    (tmp_path / "metrics").write_bytes(generate_latest(registry))
    run_dir = Path(ready.config.state_dir) / ready.config.name
    with being(f"sink-{ready.erp}-0", run_dir) as told_by:
        told_by.tell(state="running", metrics=(tmp_path / "metrics").as_uri())
        write_json(
            run_dir / "up.json",
            {"parts": {f"sink-{ready.erp}-0": {"pid": 1, "restarts": 4, "last_exit": {"code": -9, "reason": "killed", "at": "2026"}}}},
        )
        with Observer(ready.config) as observer:
            report = observer.report()
        part = report["parts"][f"sink-{ready.erp}-0"]
        assert (part["alive"], part["state"], part["restarts"]) == (True, "running", 4)
        assert report["systems"][ready.erp]["events"] == {"applied": 3}
        assert report["entities"][ready.customer]["events"] == {"applied": 3}
        latency = report["systems"][ready.erp]["commit_to_commit"][ready.crm]
        assert latency["count"] == 100
        assert latency["p50_ms"] == pytest.approx(50, rel=0.1)
        assert latency["p99_ms"] == pytest.approx(99, rel=0.1)
        monkeypatch.setattr(status, "STALE_SECONDS", -1.0)
        assert status.parts(ready.config, run_dir)[f"sink-{ready.erp}-0"]["state"] == "not responding"
    assert status.parts(ready.config, run_dir)[f"sink-{ready.erp}-0"]["alive"] is False


@pytest.mark.parametrize(("count", "shown"), [(None, "?"), (0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_500_000_000, "2.5 GB")])
def test_bytes_are_shown_in_fitting_units(count: int | None, shown: str) -> None:
    assert size(count) == shown


def test_a_topic_is_read_to_its_end_and_no_further(ready: World) -> None:
    topic = topics.dead(ready.crm)
    produce(ready, topic, 5)
    assert [letter.offset for letter in ready.cluster().read(topic)] == [0, 1, 2, 3, 4]
    assert [letter.offset for letter in ready.cluster().read(topic, limit=4, newest=True)] == [1, 2, 3, 4]
