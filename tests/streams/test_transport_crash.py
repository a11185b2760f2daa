"""Workers as processes, killed under load. This file is the worker, too: python test_transport_crash.py BOOTSTRAP PREFIX."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from streams.transport import ChunkApp, run_worker
from tests.services import MakeTopic, wait_until

pytestmark = pytest.mark.slow

PARTITIONS = 3
KEYS = 50
ROOT = Path(__file__).resolve().parents[2]


def work(bootstrap: str, prefix: str, instance: str) -> None:
    """Forwards every record with its position, and keeps the highest number per key."""
    topic, out = f"{prefix}.in", f"{prefix}.out"
    app = ChunkApp(
        f"{prefix}.app", bootstrap=bootstrap, chunk_size=200, warm=[out], consumer_group_instance_id=instance if instance != "-" else None
    )
    highest = app.Table("highest")

    @app.agent(app.chunk_topic(topic))
    async def forward(chunks: Any) -> None:
        async for chunk in chunks:
            await app.deliver((out, record.key, b"%d %d %s" % (record.partition, record.offset, record.value), 0) for record in chunk)
            for record in chunk:
                key = record.key.decode()
                highest[key] = max(highest.get(key, -1), int(record.value))

    run_worker(app, on_ready=lambda: print("ready", flush=True))


class Load:
    """Numbered records at a steady rate, in a thread; remembers what the broker has."""

    def __init__(self, kafka: str, topic: str, rate: float) -> None:
        self.topic, self.rate = topic, rate
        self.acked: set[int] = set()
        self.highest: dict[str, int] = {}
        self._producer = Producer({"bootstrap.servers": kafka, "linger.ms": 5})
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        started, number = time.monotonic(), 0
        while not self._done.is_set():
            for _ in range(20):
                key = f"k{random.randrange(KEYS)}"
                self._producer.produce(self.topic, b"%d" % number, key, on_delivery=self._delivered)
                number += 1
            self._producer.poll(0)
            self._done.wait(max(0.0, started + number / self.rate - time.monotonic()))
        self._producer.flush(30)

    def _delivered(self, error: Any, message: Message) -> None:
        assert error is None
        number, key = int(message.value() or b""), (message.key() or b"").decode()
        self.acked.add(number)
        self.highest[key] = max(self.highest.get(key, -1), number)

    def finish(self) -> None:
        self._done.set()
        self._thread.join()


class Worker:
    def __init__(self, kafka: str, prefix: str, instance: str = "-") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-u", __file__, kafka, prefix, instance],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.ready = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == "ready":
                self.ready.set()

    def end(self, how: signal.Signals) -> int:
        self._process.send_signal(how)
        code = self._process.wait(30)
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code


def read_all(kafka: str, topic: str) -> Iterator[Message]:
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "reader", "enable.auto.commit": False})
    try:
        partitions = consumer.list_topics(topic, 30).topics[topic].partitions
        left = {p: end for p in partitions if (end := consumer.get_watermark_offsets(TopicPartition(topic, p), 30)[1])}
        consumer.assign([TopicPartition(topic, p, 0) for p in left])
        while left:
            for message in consumer.consume(2000, 1.0):
                assert message.error() is None
                yield message
                if (message.offset() or 0) + 1 >= left.get(message.partition() or 0, 0):
                    left.pop(message.partition() or 0, None)
    finally:
        consumer.close()


class Watch:
    """Takes down what is committed and, after that, how much was sent: a commit must never be ahead of the outputs (I9)."""

    def __init__(self, kafka: str, group: str, topic: str, out: str) -> None:
        self.group, self.topic, self.out = group, topic, out
        self._consumer = Consumer({"bootstrap.servers": kafka, "group.id": group, "enable.auto.commit": False})
        self.seen: list[tuple[dict[int, int], int]] = []

    def look(self) -> dict[int, int]:
        found = self._consumer.committed([TopicPartition(self.topic, p) for p in range(PARTITIONS)], 30)
        committed = {tp.partition: max(0, tp.offset) for tp in found}
        self.seen.append((committed, self._consumer.get_watermark_offsets(TopicPartition(self.out, 0), 30)[1]))
        return committed

    def settled(self) -> bool:
        ends = {p: self._consumer.get_watermark_offsets(TopicPartition(self.topic, p), 30)[1] for p in range(PARTITIONS)}
        return self.look() == ends

    def close(self) -> None:
        self._consumer.close()


def check(kafka: str, prefix: str, load: Load, watch: Watch) -> None:
    positions: dict[int, dict[int, int]] = defaultdict(dict)  # partition → offset → where its output is first
    numbers = set()
    for message in read_all(kafka, f"{prefix}.out"):
        partition, offset, number = map(int, (message.value() or b"").split())
        numbers.add(number)
        positions[partition].setdefault(offset, message.offset() or 0)
    assert numbers == load.acked, "something was lost, or came from nowhere"
    for found in positions.values():
        assert list(found) == sorted(found), "first deliveries are out of order"
    for committed, sent in watch.seen:
        for partition, offset in committed.items():
            assert all(positions[partition][before] < sent for before in range(offset)), "committed ahead of its outputs"
    changelog = {}
    for message in read_all(kafka, f"{prefix}.app-highest-changelog"):
        changelog[(message.key() or b"").decode()] = orjson.loads(message.value() or b"")
    assert changelog == load.highest, "the table is not what a recomputation gives"


@pytest.fixture
def load(kafka: str, topic_prefix: str, make_topic: MakeTopic) -> Iterator[Load]:
    topic = make_topic("in", PARTITIONS)
    make_topic("out", 1)
    load = Load(kafka, topic, 1500)
    yield load
    load.finish()


@pytest.fixture
def watch(kafka: str, topic_prefix: str, load: Load) -> Iterator[Watch]:
    watch = Watch(kafka, f"{topic_prefix}.app", f"{topic_prefix}.in", f"{topic_prefix}.out")
    yield watch
    watch.close()


def test_a_killed_worker_loses_nothing_and_its_table_is_restored(kafka: str, topic_prefix: str, load: Load, watch: Watch) -> None:
    for _ in range(3):
        worker = Worker(kafka, topic_prefix, "one")  # a static member is back at once
        assert worker.ready.wait(30)
        before = sum(watch.look().values())
        wait_until(lambda before=before: sum(watch.look().values()) > before + 300, "the worker does not get on", every=0.1)  # type: ignore[misc]
        assert worker.end(signal.SIGKILL) == -signal.SIGKILL
    worker = Worker(kafka, topic_prefix, "one")
    assert worker.ready.wait(30)
    load.finish()
    wait_until(watch.settled, "not settled", every=0.1)
    assert worker.end(signal.SIGTERM) == 0
    check(kafka, topic_prefix, load, watch)


def test_two_workers_share_the_work_and_take_over_from_each_other(kafka: str, topic_prefix: str, load: Load, watch: Watch) -> None:
    first, second = Worker(kafka, topic_prefix), Worker(kafka, topic_prefix)
    assert first.ready.wait(30)
    assert second.ready.wait(30)
    watch.look()
    assert first.end(signal.SIGTERM) == 0
    before = sum(watch.look().values())
    wait_until(lambda: sum(watch.look().values()) > before + 500, "the second worker does not take over", every=0.1)
    third = Worker(kafka, topic_prefix)
    assert third.ready.wait(30)
    before = sum(watch.look().values())
    second.end(signal.SIGKILL)
    wait_until(lambda: sum(watch.look().values()) > before + 3000, "the third worker does not take over", every=0.1)
    load.finish()
    wait_until(watch.settled, "not settled", every=0.1)
    assert third.end(signal.SIGTERM) == 0
    check(kafka, topic_prefix, load, watch)


if __name__ == "__main__":
    work(*sys.argv[1:])
