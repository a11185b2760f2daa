"""The connector with a real Kafka: where it starts, what it survives."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from connectors.sink.connector import SinkConnector
from schemas import topics
from schemas.config import Dsn
from schemas.dead import dead_from_avro
from schemas.golden import GoldenRecord
from schemas.registry import EmbeddedRegistry
from schemas.serde import Codec
from tests.services import wait_until
from tests.sink.sink_world import World, a_suffix, later

PARTITIONS = 2


class Line:
    """A world whose golden topics are really there."""

    def __init__(self, dsn: str, kafka: str) -> None:
        self.kafka = kafka
        self.registry = EmbeddedRegistry({"bootstrap.servers": kafka})
        self.world = World(dsn, a_suffix(), kafka=kafka, registry=self.registry)
        self.admin = AdminClient({"bootstrap.servers": kafka})
        self.names = [topics.golden(name) for name in self.world.pipeline.entities]
        self.names += [topics.dead(self.world.erp), topics.dead(self.world.crm)]
        for made in self.admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in self.names]).values():
            made.result(30)
        self.producer = Producer({"bootstrap.servers": kafka, "linger.ms": 0})

    def close(self) -> None:
        self.producer.flush(10)
        self.registry.close()
        for gone in self.admin.delete_topics(self.names).values():
            gone.result(30)
        self.admin.delete_consumer_groups([f"sink{self.world.suffix}-sink-{self.world.erp}"])
        self.world.close()

    def send(self, *records: GoldenRecord) -> None:
        for record in records:
            self.producer.produce(topics.golden(record.entity), self.world.encode(record), record.link)
        assert not self.producer.flush(10)

    def sink(self, worker: int = 0) -> SinkConnector:
        return SinkConnector(self.world.erp, self.world.pipeline, self.registry, worker)


@contextlib.contextmanager
def running(sink: SinkConnector) -> Iterator[SinkConnector]:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            sink.run()
        except BaseException as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield sink
    finally:
        sink.stop()
        thread.join(30)
        assert not thread.is_alive()
    assert not failed


@pytest.fixture
def line(database: str, kafka: str) -> Iterator[Line]:
    made = Line(database, kafka)
    yield made
    made.close()


def test_records_come_in_at_once_and_progress_is_stored_with_them(line: Line) -> None:
    world = line.world
    line.send(world.customer("c1"), world.contact("k1", "c1"))
    with running(line.sink()):
        wait_until(lambda: world.rows('SELECT 1 FROM erp."user"'), "the contact is not there")
        line.send(later(world.customer("c1", keys={world.erp: "1"}, seen=world.seen_partner()), 200, name="B"))
        wait_until(lambda: world.partners()[0][0] == "B", "the update is not there", every=0.001)
    assert sum(world.rows('SELECT "offset" FROM concord.progress')) == 3


def test_our_tables_are_analysed_as_they_grow_not_when_autovacuum_comes(line: Line) -> None:
    """Else one index is as good as another to PostgreSQL, and a look for one thing reads every entry of the system."""
    sql = line.world.sql
    sql.execute("ALTER TABLE concord.key SET (autovacuum_enabled = false)")
    pages = "SELECT relpages, pg_relation_size(oid) / current_setting('block_size')::int8 FROM pg_class WHERE oid = 'concord.key'::regclass"
    try:
        sql.execute("INSERT INTO concord.key (entity, system, key, link) SELECT 'analysed', 'none', g, g FROM generate_series(1, 20000) g")
        known, there = sql.execute(pages).fetchone() or (0, 0)
        assert there > 2 * known, "else there is nothing to do"
        with running(line.sink()):
            wait_until(lambda: 2 * (sql.execute(pages).fetchone() or (0, 0))[0] >= there, "nobody has looked")
    finally:
        sql.execute("DELETE FROM concord.key WHERE entity = 'analysed'")
        sql.execute("ALTER TABLE concord.key RESET (autovacuum_enabled)")


def test_i2_progress_is_the_databases_whatever_kafka_has_committed(line: Line) -> None:
    world = line.world
    line.send(*(world.customer(f"c{n}", tax_id=f"T{n}") for n in range(20)))
    group = Consumer({"bootstrap.servers": line.kafka, "group.id": f"sink{world.suffix}-sink-{world.erp}"})
    golden = line.names[0]
    group.commit(offsets=[TopicPartition(golden, p, 1000) for p in range(PARTITIONS)], asynchronous=False)  # a lie
    group.close()
    with running(line.sink()):
        wait_until(lambda: len(world.partners()) == 20, "not all are there")
    world.sql.execute("UPDATE concord.progress SET \"offset\" = 0; DELETE FROM erp.partner WHERE tax_id = 'T3'")
    world.sql.execute("DELETE FROM concord.key; DELETE FROM concord.link")
    with running(line.sink()):  # reads all again, adopts what is there, inserts what is not
        wait_until(lambda: len(world.partners()) == 20, "the deleted one did not come back")
        wait_until(lambda: sum(world.rows('SELECT "offset" FROM concord.progress')) == 20, "progress was not stored")
    assert len(set(world.partners())) == 20


def test_i3_a_sink_that_has_lost_all_it_knew_makes_no_row_twice(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """The things have no match value: nothing but the crosswalk, and their last records, say that their rows are there."""
    monkeypatch.setattr("connectors.sink.connector.BATCH", 1)  # what is read together is drawn together
    world = line.world
    births = [world.contact(f"k{number}", "c1", email=None) for number in range(4)]
    line.send(world.customer("c1"), *births)
    with running(line.sink()):
        wait_until(lambda: len(world.rows('SELECT 1 FROM erp."user"')) == 4, "the contacts are not there")
    ids = dict(world.rows("SELECT link, key FROM concord.key WHERE system = %s", world.erp))
    line.send(
        *(replace(birth, targets=(), keys={**birth.keys, world.erp: ids[birth.link]}, seen={world.erp: birth.values}) for birth in births)
    )
    world.sql.execute("TRUNCATE concord.progress, concord.key, concord.link")
    with running(line.sink()):
        wait_until(lambda: sum(world.rows('SELECT "offset" FROM concord.progress')) == 9, "not all was read again")
    assert len(world.rows('SELECT 1 FROM erp."user"')) == 4
    assert dict(world.rows("SELECT link, key FROM concord.key WHERE system = %s AND NOT gone", world.erp)).items() >= {
        (birth.link, ids[birth.link]) for birth in births
    }


def test_garbage_in_a_golden_topic_is_a_dead_letter_and_the_rest_goes_on(line: Line) -> None:
    world = line.world
    topic = topics.golden(f"customer{world.suffix}")
    for garbage in (b"", b"nonsense", b"\x00\x7f\xff\xff\xffxyz", world.encode(world.customer("x"))[:-3]):
        line.producer.produce(topic, garbage, b"\xff\xfe", partition=0)
    line.producer.produce(topic, None, b"crm:tombstone", partition=0)
    line.send(world.customer("c1"))
    with running(line.sink()):
        wait_until(world.partners, "the good one is not there")
        wait_until(lambda: len(world.rows("SELECT 1 FROM concord.dead_letter")) == 4, "not all garbage is filed")
    codes = world.rows("SELECT code FROM concord.dead_letter ORDER BY 1")
    assert codes == ["NotAnEvent", "NotAnEvent", "NotAnEvent", "UnknownSchema"]
    reader = Consumer({"bootstrap.servers": line.kafka, "group.id": world.suffix, "auto.offset.reset": "earliest"})
    reader.assign([TopicPartition(topics.dead(world.erp), p, 0) for p in range(PARTITIONS)])
    letters = [dead_from_avro(Codec(line.registry).decode(message.value())[1]) for message in reader.consume(4, 10)]
    reader.close()
    assert {letter.code for letter in letters} == {"NotAnEvent", "UnknownSchema"}
    assert {letter.key for letter in letters} == {b"\xff\xfe"}


class Proxy:
    """A line to a TCP service that can be cut."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self.cut = False
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self.cut:
                    near.close()
                    continue
                far = socket.create_connection(self._to)
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def sever(self) -> None:
        self.cut = True
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    def close(self) -> None:
        self.sever()
        self._listener.close()


def test_a_database_that_was_away_is_waited_for(line: Line) -> None:
    world = line.world
    address = conninfo_to_dict(world.dsn)
    proxy = Proxy(str(address["host"]), int(str(address["port"])))
    config = world.pipeline.config
    through = config.systems[world.erp].model_copy(update={"dsn": Dsn(make_conninfo(world.ours, host="127.0.0.1", port=proxy.port))})
    config = config.model_copy(update={"systems": {**config.systems, world.erp: through}})
    world.pipeline = replace(world.pipeline, config=config)
    with running(line.sink()) as sink:
        line.send(world.customer("c1"))
        wait_until(world.partners, "the first is not there")
        proxy.sever()
        line.send(world.customer("c2", tax_id="T2"))
        wait_until(lambda: sink._metrics.retries._value.get() > 3, "it does not try again")
        assert len(world.partners()) == 1
        proxy.cut = False
        wait_until(lambda: len(world.partners()) == 2, "the second is not there")
    proxy.close()
    assert sum(world.rows('SELECT "offset" FROM concord.progress')) == 2


def test_two_workers_of_one_system_share_it_and_hand_over(line: Line) -> None:
    world = line.world
    records = [world.customer(f"c{n}", tax_id=f"T{n}") for n in range(60)]
    children = [world.contact(f"k{n}", f"c{n}", email=f"{n}@x") for n in range(60)]
    with running(line.sink(0)) as first:
        wait_until(first.ready.is_set, "the first is not ready")
        line.send(*children[:20])
        with running(line.sink(1)) as second:
            wait_until(second.ready.is_set, "the second is not ready")
            line.send(*children[20:], *records)
            wait_until(lambda: len(world.rows('SELECT 1 FROM erp."user"')) == 60, "not all children are there")
            assert len(set(world.rows("SELECT roname FROM pg_replication_origin WHERE roname LIKE %s", f"concord_{world.erp}_%"))) == 2
        line.send(*(later(record, 200, name="B") for record in records))
        wait_until(lambda: sum(world.rows('SELECT "offset" FROM concord.progress')) == 180, "the first did not take over")
    assert len(world.partners()) == 60
    assert world.rows("SELECT 1 FROM concord.parked") == []


RUN_A_SINK = """
import pathlib, signal, sys
from tests.sink.sink_world import CONFIG
from connectors.catalog import read_tables
from connectors.postgres import connect
from connectors.sink.connector import SinkConnector
from schemas.config import loads
from schemas.mapping import compile_config, table_names
from schemas.registry import EmbeddedRegistry

dsn, kafka, suffix = sys.argv[1:]
crm, erp = f"crm{suffix}", f"erp{suffix}"
config = loads(CONFIG.format(name=f"sink{suffix}", kafka=kafka, dsn=dsn, crm=crm, erp=erp, delete="propagate", suffix=suffix), {})
conn = connect(dsn)
pipeline = compile_config(config, {system: read_tables(conn, table_names(config, system)) for system in config.systems})
sink = SinkConnector(erp, pipeline, EmbeddedRegistry({"bootstrap.servers": kafka}))
signal.signal(signal.SIGTERM, lambda *_: sink.stop())
sink.run()
"""


@pytest.mark.slow
def test_i3_killed_in_mid_batch_and_started_again_every_row_is_there_once(line: Line) -> None:
    world = line.world
    # slow enough to be in the middle of something when it is killed
    world.sql.execute("CREATE FUNCTION erp.slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.004); RETURN NEW; END'")
    world.sql.execute("CREATE TRIGGER slow BEFORE INSERT ON erp.partner FOR EACH ROW EXECUTE FUNCTION erp.slow()")
    line.send(*(world.customer(f"c{n}", tax_id=f"T{n}") for n in range(300)))
    root = Path(__file__).parents[2]

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", RUN_A_SINK, world.ours, line.kafka, world.suffix]
        return subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})

    def writing() -> bool:
        return bool(world.rows("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"))

    for kill in range(4):
        process = start()
        wait_until(lambda: writing() or len(world.partners()) == 300, "it does not write")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        if kill == 0:
            assert len(world.partners()) in (0, 300) or world.rows('SELECT sum("offset") FROM concord.progress') == [len(world.partners())]
    process = start()
    try:
        wait_until(lambda: world.rows('SELECT sum("offset")::int FROM concord.progress') == [300], "not all is applied", seconds=60)
    finally:
        process.terminate()
        assert process.wait(20) == 0
    assert len(world.partners()) == 300
    assert len(set(world.partners())) == 300
    assert world.rows("SELECT count(*)::int FROM concord.key WHERE NOT gone") == [600]
