"""The transport on a real broker, apps in the test's own event loop."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from schemas.errors import Refused, Retriable
from streams.transport import ChunkApp, ChunkTable, DeliveryFailed, Output, UnfitTopics
from tests.services import MakeTopic

PATIENCE = 20.0


@pytest.fixture
def send(kafka: str) -> Iterator[Callable[..., None]]:
    """send(topic, key, value, partition): durable when it returns."""
    producer = Producer({"bootstrap.servers": kafka, "linger.ms": 5})

    def send(topic: str, records: list[tuple[str, str | None, int]]) -> None:
        for key, value, partition in records:
            producer.produce(topic, value, key, partition)
        assert producer.flush(PATIENCE) == 0

    yield send
    producer.flush(0)


@pytest.fixture
def read(kafka: str) -> Callable[..., list[Message]]:
    """All that is in a topic now."""

    def read(topic: str) -> list[Message]:
        consumer = Consumer({"bootstrap.servers": kafka, "group.id": "reader", "enable.auto.commit": False})
        try:
            partitions = consumer.list_topics(topic, PATIENCE).topics[topic].partitions
            ends = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), PATIENCE)[1] for p in partitions}
            consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
            found: list[Message] = []
            left = {p for p, end in ends.items() if end}
            while left:
                for message in consumer.consume(1000, 1.0):
                    assert message.error() is None
                    found.append(message)
                    if (message.offset() or 0) + 1 >= ends[message.partition() or 0]:
                        left.discard(message.partition() or 0)
            return found
        finally:
            consumer.close()

    return read


@pytest.fixture
def committed(kafka: str) -> Callable[..., dict[int, int]]:
    """Committed offsets of a group, by partition; 0 where there is none."""

    def committed(group: str, topic: str, partitions: int) -> dict[int, int]:
        consumer = Consumer({"bootstrap.servers": kafka, "group.id": group, "enable.auto.commit": False})
        try:
            found = consumer.committed([TopicPartition(topic, p) for p in range(partitions)], PATIENCE)
            return {tp.partition: max(0, tp.offset) for tp in found}
        finally:
            consumer.close()

    return committed


def an_app(kafka: str, topic_prefix: str, **settings: Any) -> ChunkApp:
    return ChunkApp(f"{topic_prefix}.app", bootstrap=kafka, **settings)


async def until(is_so: Callable[[], object], otherwise: str = "it did not come to be so") -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not is_so():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"{otherwise} within {PATIENCE:g} s")


def latest(app: ChunkApp, table: str, *topics: str) -> ChunkTable[Any]:
    """An agent that keeps the newest value of each key, by topic."""
    newest: ChunkTable[Any] = app.Table(table)

    @app.agent(app.chunk_topic(*topics), name="latest")
    async def agent(chunks: Any) -> None:
        async for chunk in chunks:
            assert len({(record.topic, record.partition) for record in chunk}) == 1
            for record in chunk:
                key = record.key.decode()
                if record.value is None:
                    newest.pop(key, None)
                else:
                    newest[key] = {**newest.get(key, {}), chunk.topic.rsplit(".", 1)[1]: record.value.decode(), "from": chunk.partition}

    return newest


async def test_two_topics_of_one_agent_share_a_table_partition_also_after_recovery(
    kafka: str, topic_prefix: str, make_topic: MakeTopic, send: Any, read: Any
) -> None:
    rows, links = make_topic("rows", 3), make_topic("links", 3)
    send(rows, [(f"k{n}", f"row{n}", n % 3) for n in range(300)])
    send(links, [(f"k{n}", f"link{n}", n % 3) for n in range(300)])
    send(rows, [("k7", None, 1), ("k8", "again", 2)])
    expected = {f"k{n}": {"rows": f"row{n}", "links": f"link{n}", "from": n % 3} for n in range(300)}
    app = an_app(kafka, topic_prefix)
    table = latest(app, "both", rows, links)
    async with app.running():
        await until(lambda: len(table) >= 299 and table.get("k8", {}).get("rows") == "again" and app.health().lag == {rows: 0, links: 0})
        before = table.copy()
    assert {k: v for k, v in before.items() if k not in ("k7", "k8")} == {k: v for k, v in expected.items() if k not in ("k7", "k8")}
    log = read(table.changelog_topic_name)
    assert {message.partition() for message in log} == {0, 1, 2}
    for message in log:
        assert message.value() is None or json.loads(message.value() or b"")["from"] == message.partition()

    second = an_app(kafka, topic_prefix)
    restored = latest(second, "both", rows, links)
    async with second.running():
        assert restored.copy() == before
        assert {partition: len(restored.partition(partition)) for partition in range(3)} == {0: 100, 1: len(restored.partition(1)), 2: 100}


async def test_who_gets_a_value_of_a_table_has_one_of_his_own(
    kafka: str, topic_prefix: str, make_topic: MakeTopic, send: Any, read: Any
) -> None:
    topic = make_topic("in", 1)
    send(topic, [("k", "1", 0)])
    app = an_app(kafka, topic_prefix)
    table: ChunkTable[list[int]] = app.Table("lists")

    @app.agent(app.chunk_topic(topic))
    async def keep(chunks: Any) -> None:
        async for _ in chunks:
            put = [1]
            table["k"] = put
            put.append(2)
            table["k"].append(3)
            next(iter(table.values())).append(4)

    async with app.running():
        await until(lambda: app.health().lag == {topic: 0})
        assert table["k"] == [1]
    assert [json.loads(m.value()) for m in read(table.changelog_topic_name)] == [[1]]


async def test_a_chunk_that_fails_leaves_no_trace_and_comes_back(
    kafka: str, topic_prefix: str, make_topic: MakeTopic, send: Any, read: Any, committed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    topic, out = make_topic("in", 2), make_topic("out", 1)
    send(topic, [(f"k{n % 10}", str(n), n % 2) for n in range(200)])
    app = an_app(kafka, topic_prefix, chunk_size=50)
    counts: ChunkTable[int] = app.Table("counts")
    failures = 0

    @app.agent(app.chunk_topic(topic))
    async def count(chunks: Any) -> None:
        nonlocal failures
        async for chunk in chunks:
            for record in chunk:
                counts[record.key.decode()] = counts.get(record.key.decode(), 0) + 1  # not idempotent: an undo that is not exact shows
                if record.offset in (30, 60) and failures < 4:
                    failures += 1
                    raise Retriable("out of reach")
            await app.deliver([(out, record.key, record.value) for record in chunk])

    async with app.running():
        await until(lambda: app.health().lag == {topic: 0})
        await until(lambda: committed(app.conf.id, topic, 2) == {0: 100, 1: 100})
        assert counts.copy() == {f"k{n}": 20 for n in range(10)}
    assert failures == 4
    assert sorted(int(m.value()) for m in read(out)) == list(range(200))
    assert {m.key().decode(): json.loads(m.value()) for m in read(counts.changelog_topic_name)} == {f"k{n}": 20 for n in range(10)}
    assert "again in" in caplog.text


async def test_poison_is_given_up_alone_and_nothing_else_waits(
    kafka: str, topic_prefix: str, make_topic: MakeTopic, send: Any, read: Any, committed: Any
) -> None:
    topic, out, dead = make_topic("in", 2), make_topic("out", 1), make_topic("dead", 1)
    send(topic, [(f"k{n}", "poison" if n == 501 else str(n), n % 2) for n in range(1000)])
    app = an_app(kafka, topic_prefix, warm=[out, dead])

    @app.agent(app.chunk_topic(topic), name="forward")
    async def forward(chunks: Any) -> None:
        async for chunk in chunks:
            await app.deliver([(out, record.key, b"%d" % int(record.value)) for record in chunk])

    given_up: list[tuple[str, str, int, str]] = []

    async def dead_letter(agent: str, record: Any, error: Exception) -> None:
        await app.deliver([Output(dead, record.key, record.value, headers=[("error", str(error).encode())])])
        given_up.append((agent, record.topic, record.partition, record.value.decode()))

    app.on_poison = dead_letter
    async with app.running():
        await until(lambda: committed(app.conf.id, topic, 2) == {0: 500, 1: 500})
        assert app.health().failing == {}
    assert given_up == [("forward", topic, 1, "poison")]
    assert [m.value() for m in read(dead)] == [b"poison"]
    assert {int(m.value()) for m in read(out)} == {n for n in range(1000) if n != 501}


async def test_without_a_dead_letter_only_its_partition_waits(
    kafka: str, topic_prefix: str, make_topic: MakeTopic, send: Any, read: Any, committed: Any
) -> None:
    topic, out = make_topic("in", 2), make_topic("out", 1)
    send(topic, [("k", "poison" if n == 51 else str(n), n % 2) for n in range(100)])
    app = an_app(kafka, topic_prefix)

    @app.agent(app.chunk_topic(topic))
    async def forward(chunks: Any) -> None:
        async for chunk in chunks:
            await app.deliver([(out, record.key, b"%d" % int(record.value)) for record in chunk])

    async with app.running():
        await until(lambda: committed(app.conf.id, topic, 2) == {0: 50, 1: 25})
        assert list(app.health().failing) == [f"{topic}/1@25"]
        assert "ValueError" in app.health().failing[f"{topic}/1@25"]
        assert app.health().lag == {topic: 25}


async def test_what_kafka_refuses_is_poison_and_what_it_cannot_take_now_is_not(
    kafka: str, topic_prefix: str, make_topic: MakeTopic
) -> None:
    out = make_topic("out", 1)
    app = an_app(kafka, topic_prefix, producer_config={"delivery.timeout.ms": 2000})
    with pytest.raises(Refused):
        await app.deliver([(out, b"k", b"x" * 2_000_000)])
    with pytest.raises(DeliveryFailed):
        await app.deliver([(f"{topic_prefix}.not-there", b"k", b"v")])
    assert await app.deliver([(out, b"k", b"v"), (out, b"k", None)]) == {(out, 0): (0, 1, 2)}
    await app.on_shutdown()


async def test_partitions_move_with_their_tables(kafka: str, topic_prefix: str, make_topic: MakeTopic, send: Any) -> None:
    rows, links = make_topic("rows", 4), make_topic("links", 4)
    send(rows, [(f"k{n}", f"a{n}", n % 4) for n in range(80)])
    first, second = an_app(kafka, topic_prefix), an_app(kafka, topic_prefix)
    one, two = latest(first, "both", rows, links), latest(second, "both", rows, links)
    async with first.running():
        await until(lambda: len(one) == 80)
        async with second.running():
            await until(lambda: first.health().partitions == second.health().partitions == 4 and first.ready and second.ready)
            assert not one.keys() & two.keys()
            assert {**one.copy(), **two.copy()} == {f"k{n}": {"rows": f"a{n}", "from": n % 4} for n in range(80)}
            send(links, [(f"k{n}", f"b{n}", n % 4) for n in range(80)])
            await until(lambda: all("links" in value for table in (one, two) for value in table.values()))
            assert len(one) + len(two) == 80
        await until(lambda: first.ready and first.health().partitions == 8)
        assert one.copy() == {f"k{n}": {"rows": f"a{n}", "links": f"b{n}", "from": n % 4} for n in range(80)}
        send(rows, [(f"k{n}", f"c{n}", n % 4) for n in range(80)])
        await until(lambda: one.copy() == {f"k{n}": {"rows": f"c{n}", "links": f"b{n}", "from": n % 4} for n in range(80)})


async def test_garbage_in_a_changelog_is_passed_over_and_said(
    kafka: str, topic_prefix: str, make_topic: MakeTopic, send: Any, caplog: pytest.LogCaptureFixture
) -> None:
    topic, log = make_topic("in", 1), make_topic("app-both-changelog", 1, cleanup_policy="compact")
    send(log, [("k", '{"in": "1"}', 0), ("k", "\x00 no json", 0), ("l", '{"in": "2"}', 0)])
    app = an_app(kafka, topic_prefix)
    table = latest(app, "both", topic)
    assert table.changelog_topic_name == f"{app.conf.id}-both-changelog"
    table.changelog_topic.topics = [log]
    app.tables._changelogs = {log: table}  # type: ignore[attr-defined]
    async with app.running():
        assert table.copy() == {"k": {"in": "1"}, "l": {"in": "2"}}
    assert "is no entry of table 'both'" in caplog.text


async def test_topics_that_do_not_fit_are_refused_at_once(kafka: str, topic_prefix: str, make_topic: MakeTopic) -> None:
    four, two = make_topic("four", 4), make_topic("two", 2)
    app = an_app(kafka, topic_prefix, warm=[f"{topic_prefix}.gone"])
    latest(app, "both", four, two)
    with pytest.raises(UnfitTopics) as refused:
        await app.start()
    await app.stop()
    assert f"topic '{topic_prefix}.gone' is not there" in str(refused.value)
    assert "not co-partitioned" in str(refused.value)
    assert "table 'both' needs `partitions`" in str(refused.value)


async def test_a_handler_that_hangs_does_not_keep_the_worker_from_stopping(
    kafka: str, topic_prefix: str, make_topic: MakeTopic, send: Any, committed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    topic = make_topic("in", 2)
    send(topic, [("a", "1", 0), ("hang", "2", 1)])
    app = an_app(kafka, topic_prefix, stop_seconds=0.3)
    seen = asyncio.Event()

    @app.agent(app.chunk_topic(topic))
    async def agent(chunks: Any) -> None:
        async for chunk in chunks:
            if chunk[0].key == b"hang":
                seen.set()
                await asyncio.Event().wait()

    with caplog.at_level(logging.WARNING):
        async with app.running():
            await asyncio.wait_for(seen.wait(), PATIENCE)
            await until(lambda: app.health().lag == {topic: 1})
            started = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - started < 3
    assert "still in work" in caplog.text
    assert committed(app.conf.id, topic, 2) == {0: 1, 1: 0}


async def test_an_agent_waits_until_others_have_finished_all_that_is_there(
    kafka: str, topic_prefix: str, make_topic: MakeTopic, send: Any
) -> None:
    """Also what another worker reads. Each of the two has some of the partitions."""
    roots, parts = make_topic("roots", 2), make_topic("parts", 2)
    handled: list[str] = []
    hold = asyncio.Event()
    send(parts, [(f"p{n}", "part", n % 2) for n in range(40)])
    send(roots, [("r0", "root", 0), ("r1", "root", 1)])

    def a_worker(number: int) -> ChunkApp:
        app = an_app(kafka, topic_prefix, chunk_size=10, consumer_group_instance_id=str(number))

        @app.agent(app.chunk_topic(roots), name="roots")
        async def on_roots(chunks: Any) -> None:
            async for chunk in chunks:
                await app.caught_up([parts])
                handled.extend(record.key.decode() for record in chunk)

        @app.agent(app.chunk_topic(parts), name="parts")
        async def on_parts(chunks: Any) -> None:
            async for chunk in chunks:
                await hold.wait()
                handled.extend(record.key.decode() for record in chunk)

        return app

    one, other = a_worker(1), a_worker(2)
    async with one.running(), other.running():
        await until(lambda: one.health().partitions and other.health().partitions)
        await until(lambda: sum(lane.chunk is not None for app in (one, other) for lane in app.lanes()) == 4)
        assert handled == []
        hold.set()
        await until(lambda: len(handled) == 42)
    assert {"r0", "r1"} == set(handled[40:])


async def test_a_worker_stops_though_an_agent_waits(
    kafka: str, topic_prefix: str, make_topic: MakeTopic, send: Any, committed: Any
) -> None:
    roots, parts = make_topic("roots", 1), make_topic("parts", 1)
    send(parts, [("p", "part", 0)])
    send(roots, [("r", "root", 0)])
    handled: list[str] = []

    def a_worker(works: bool) -> ChunkApp:
        app = an_app(kafka, topic_prefix, stop_seconds=60.0)

        @app.agent(app.chunk_topic(roots), name="roots")
        async def on_roots(chunks: Any) -> None:
            async for _ in chunks:
                await app.caught_up([parts])
                handled.append("r")

        @app.agent(app.chunk_topic(parts), name="parts")
        async def on_parts(chunks: Any) -> None:
            async for _ in chunks:
                if not works:
                    raise Retriable("out of reach")
                handled.append("p")

        return app

    stuck = a_worker(works=False)
    async with asyncio.timeout(PATIENCE), stuck.running():  # stopping does not wait for `stop_seconds`
        await until(lambda: stuck.health().failing and any(lane.chunk is not None for lane in stuck.lanes()))
    assert handled == []
    async with a_worker(works=True).running():
        await until(lambda: len(handled) == 2)
    assert handled == ["p", "r"]
