"""Faust as it ships beside what we put in its place (streams/transport.py): the same records, one agent on one worker.

pass       nothing is done with a record            forward    it is sent on; chunks wait for the delivery, stock Faust does not
table      a table is read and written for it       recovery   a worker without local state has a table again from its changelog
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import orjson
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # its typing forgets to export the one

from bench.faust_worker import MODES, PARTITIONS
from bench.rounds import Book, attempt, interleaved
from bench.world import BenchError, World

SECTION = "faust"
DRIVERS = {"stock Faust": "stock", "Faust with our chunks": "chunks"}
WAIT_SECONDS = 420.0


@dataclass(frozen=True)
class Sizes:
    rounds: int
    records: int  # at most so many are read
    keys: int  # of the table that is recovered
    seconds: float  # at most so long


def run(world: World, book: Book, sizes: Sizes, wanted: Sequence[str]) -> None:
    names = [name for name in DRIVERS if not wanted or any(word.lower() in name.lower() for word in wanted)]
    for mode in MODES:
        for round_, name in interleaved(names, sizes.rounds):
            attempt(book, SECTION, f"{name}, {mode}", round_, world.say, partial(_one, world, book, sizes, round_, name, mode))


def _one(world: World, book: Book, sizes: Sizes, round_: int, name: str, mode: str) -> None:
    topic = f"faust-{DRIVERS[name]}-{mode}-{round_}"
    fill(world.bootstrap, topic, mode, sizes)
    folder = world.new_folder(topic)
    options = {"bootstrap": world.bootstrap, "records": sizes.records, "seconds": sizes.seconds, "folder": folder}
    words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench.faust_worker", DRIVERS[name], mode, topic, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"it has not come to an end in {WAIT_SECONDS:g} s") from None
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise BenchError(f"it ended with status {done.returncode}: {done.stderr.strip()[-600:]}")
    told = json.loads(lines[-1])
    values = {"mb": told["mb"], "seconds": told["seconds"]}
    if mode == "recovery":
        if told["records"] != sizes.keys:
            raise BenchError(f"{told['records']:,} of {sizes.keys:,} keys are there")
        values["rate"] = told["records"] / told["seconds"]
        cell = f"recovery of {sizes.keys:,} keys"
    else:
        values |= {"rate": told["records"] / told["seconds"], "us": told["cpu"] / told["records"] * 1e6}
        cell = mode
    book.add(SECTION, name, cell, round_, values)
    world.say(f"  {name}, {cell}: {values['rate']:,.0f}/s, {told['seconds']:.1f} s")


def fill(bootstrap: str, topic: str, mode: str, sizes: Sizes) -> None:
    """The topic with its records, what else the worker needs, and for a recovery the changelog."""
    changelog = f"{topic}-t-changelog"
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    new = [NewTopic(name, PARTITIONS, 1) for name in (topic, f"{topic}-out")]
    if mode in ("table", "recovery"):
        new.append(NewTopic(changelog, PARTITIONS, 1, config={"cleanup.policy": "compact"}))
    for made in admin.create_topics(new).values():
        made.result(30)
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    padding = "x" * 250
    for number in range(sizes.keys if mode == "recovery" else sizes.records):
        if mode == "recovery":
            key, value = b'"k%d"' % number, orjson.dumps({"id": number, "name": f"customer {number}", "city": "Zurich", "rev": 1})
        else:
            key, value = b"k%d" % (number % 10_000), orjson.dumps({"id": number, "name": f"n{number}", "padding": padding})
        while True:
            try:
                # by hand, so that a table's key and its changelog's are in the partition of the same number
                producer.produce(changelog if mode == "recovery" else topic, value, key, partition=number % PARTITIONS)
                break
            except BufferError:
                producer.poll(1)
        if number % 1000 == 0:
            producer.poll(0)
    if left := producer.flush(120):
        raise BenchError(f"{left:,} records were not taken by Kafka")
