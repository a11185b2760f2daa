"""No queue without a bound (docs/operations.md has the list): what stands between two steps stays small however long the next one waits."""

from __future__ import annotations

import asyncio
import math
import re
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer
from faust.types import TP

import connectors.sink.connector
import connectors.source.connector
import connectors.source.delivery
import connectors.source.snapshot
import streams.chunks
import streams.chunks_reader
from connectors.source.delivery import GATHERED, GATHERED_BYTES, Delivery
from streams.chunks import FULL_CHUNKS, Ledger
from streams.chunks_reader import HELD, TAKE, Reader, Record
from tests.services import MakeTopic

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


@pytest.mark.kafka
async def test_a_reader_holds_no_more_than_its_bound_while_nobody_takes(kafka: str, make_topic: MakeTopic) -> None:
    topic, count = make_topic("read"), 3 * HELD
    producer = Producer({"bootstrap.servers": kafka, "queue.buffering.max.messages": 2 * count})
    for number in range(count):
        producer.produce(topic, str(number).encode(), partition=0)
    assert producer.flush(30) == 0
    reader = Reader({"bootstrap.servers": kafka}, asyncio.get_running_loop(), 50)
    reader.point({TP(topic, 0): 0}, ())
    taken: list[Record] = []
    try:
        while len(taken) < count:
            standing = -1
            while standing != (standing := reader._read_count):
                await asyncio.sleep(0.2)  # until it reads no further: the bound, or the end
            assert reader._read_count - reader._taken_count <= HELD + TAKE
            runs, _ = await reader.take(5)
            taken += [record for _, records in runs for record in records]
    finally:
        await asyncio.to_thread(reader.close)
    assert [record.offset for record in taken] == [*range(count)]


def test_marks_of_a_log_without_records_of_ours_are_one_while_kafka_does_not_answer() -> None:
    delivery = Delivery("crm", {"bootstrap.servers": "127.0.0.1:1"})
    try:
        delivery.send("crm.public.t", b"k", b"v", None)
        for lsn in range(1, 100_000):
            delivery.mark(lsn)
        assert len(delivery._spans) == 2
        assert delivery.advance() == 0, "Kafka has not got what was sent"
        delivery._spans[0].acknowledged = 1
        assert delivery.advance() == 99_999
    finally:
        delivery.close()


def test_an_echo_waits_for_company_and_goes_with_the_next_change() -> None:
    delivery = Delivery("crm", {"bootstrap.servers": "127.0.0.1:1"})
    try:
        assert delivery.release() == math.inf, "nothing waits"
        delivery.send("crm.public.t", b"k", b"echo", None)
        delivery.mark(1, may_wait=60.0)
        assert 0 < delivery.release() <= 60.0
        assert len(delivery._gathered) == 1
        delivery.send("crm.public.t", b"l", b"edit", None)
        delivery.mark(2)
        assert delivery.release() == 0
        assert len(delivery._gathered) == 0
        assert delivery.advance() == 0, "I1: Kafka has got neither"
    finally:
        delivery.close()


def test_what_is_gathered_has_a_bound_also_in_one_transaction() -> None:
    delivery = Delivery("crm", {"bootstrap.servers": "127.0.0.1:1"})
    try:
        for number in range(3 * GATHERED):
            delivery.send("crm.public.t", str(number).encode(), b"v", None)
        assert len(delivery._gathered) < GATHERED
        for _ in range(3):
            delivery.send("crm.public.t", b"k", b"v" * GATHERED_BYTES, None)
            assert len(delivery._gathered) == 0
    finally:
        delivery.close()


def test_a_partition_is_read_no_further_than_its_agent_can_take() -> None:
    ledger, tp = Ledger(100, time.monotonic), TP("t", 0)
    ledger.next[tp] = 0
    handed = 0
    while ledger.wants(tp):
        ledger.hand_out(tp, [Record("t", 0, offset, 0, b"k", b"v", ()) for offset in range(handed, handed + 50)])
        handed += 50
    assert handed == FULL_CHUNKS * 100


def test_the_page_names_each_bound_as_it_is() -> None:
    modules = {
        "connectors/source/delivery.py": connectors.source.delivery,
        "connectors/source/snapshot.py": connectors.source.snapshot,
        "connectors/source/connector.py": connectors.source.connector,
        "connectors/sink/connector.py": connectors.sink.connector,
        "streams/chunks_reader.py": streams.chunks_reader,
        "streams/chunks.py": streams.chunks,
    }
    named = re.findall(r"`([\w/]+\.py)`[^|]*?`([A-Z_]+)` = ([\d,]+)", PAGE.read_text())
    assert len(named) >= 6
    for file, constant, value in named:
        assert getattr(modules[file], constant) == int(value.replace(",", "")), (file, constant)
