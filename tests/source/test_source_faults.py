"""The source under faults: nothing is lost, nothing is confirmed too early (I1), and what cannot be gone on from is said."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import threading
from collections.abc import Iterator

import psycopg
import pytest

from connectors import concord_schema
from connectors.postgres import connect
from connectors.source import metrics
from connectors.source.connector import SLOT_LOOK_SECONDS, Source
from connectors.source.slot import create_slot, drop_slot, ensure_publication, slot_state, usable
from connectors.source.snapshot import SnapshotStore
from schemas.envelope import position_of
from schemas.errors import Retriable, SlotLost, UnfitDatabase
from tests.services import MakeTopic, wait_until
from tests.source.source_running import Record, a_source, may_read, run_sql, wait_for


class Proxy:
    """A TCP proxy in front of a service, to cut the line."""

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[socket.socket] = []
        self._open = True
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        while True:
            try:
                ours, _ = self._listener.accept()
            except OSError:
                return
            if not self._open:
                ours.close()
                continue
            theirs = socket.create_connection(self._target)
            self._pairs += [ours, theirs]
            self._start(self._pump, ours, theirs)
            self._start(self._pump, theirs, ours)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self._open = False
        for end in self._pairs:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._open = True

    def close(self) -> None:
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)
        for end in self._pairs:
            end.close()


@pytest.fixture
def postgres_line(database: str) -> Iterator[tuple[Proxy, str]]:
    info = psycopg.conninfo.conninfo_to_dict(database)
    proxy = Proxy(f"{info['host']}:{info['port']}")
    yield proxy, psycopg.conninfo.make_conninfo(database, host="127.0.0.1", port=str(proxy.port))
    proxy.close()


def confirmed(dsn: str, slot: str) -> int:
    with psycopg.connect(dsn) as conn:
        state = slot_state(conn, slot)
    assert state is not None
    return state.confirmed


def end_of_log(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute("SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::int8").fetchone()
    assert row is not None
    return int(row[0])


def ids(records: list[Record]) -> list[int]:
    return [record.key["id"] for record in records]


def test_a_cut_line_loses_nothing(postgres_line: tuple[Proxy, str], database: str, kafka: str, topic_prefix: str) -> None:
    proxy, through = postgres_line
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY)")
    with a_source(kafka, through, topic_prefix, ["t"]) as source:
        source.snapshot_done(database)
        for number in range(30):
            run_sql(database, f"INSERT INTO t VALUES ({number})")
            if number % 10 == 5:
                proxy.cut()
            if number % 10 == 8:
                proxy.mend()
        records = source.read(["t"], lambda found: {record.key["id"] for record in found} >= set(range(30)))
        # what comes twice comes with the same position: the second is known as such (I3)
        at: dict[int, str] = {}
        for record in records:
            if record.op == "c":
                assert at.setdefault(record.key["id"], record.value["source"]["sequence"]) == record.value["source"]["sequence"]
        assert sorted(at) == list(range(30))
    assert source.error is None


def test_i1_nothing_is_confirmed_that_kafka_has_not(database: str, kafka: str, topic_prefix: str) -> None:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY)")
    with a_source(kafka, database, topic_prefix, ["t"]) as source:
        source.snapshot_done(database)
        source.stop()
        before = confirmed(database, source.settings.slot)
        run_sql(database, "INSERT INTO t VALUES (1)")
        commit = end_of_log(database)
        source.source._topics.clear()
    # a broker that is not there: the source streams, and Kafka acknowledges nothing
    nowhere = "127.0.0.1:1"
    with a_source(kafka, database, topic_prefix, ["t"], start=False, kafka={"bootstrap.servers": nowhere, "log_level": "0"}) as source:
        source.source = _with_topics_known(source.settings, source.registry, [source.topic("t"), f"dead.{topic_prefix}"])
        thread = threading.Thread(target=source.source.run, daemon=True)
        thread.start()
        try:
            wait_for(source.source.ready.is_set, "streaming")
            wait_for(lambda: _active(database, source.settings.slot), "the slot is in use")
            wait_for(lambda: _unacknowledged(source.settings.system) >= 1, "the row is on its way")
            assert before <= confirmed(database, source.settings.slot) < commit
        finally:
            source.source.stop()
            thread.join(60)
        assert not thread.is_alive()
        assert confirmed(database, source.settings.slot) < commit
    # the broker is back: the row comes
    with a_source(kafka, database, topic_prefix, ["t"]) as source:
        assert 1 in ids(source.read(["t"], lambda found: any(record.key["id"] == 1 for record in found)))
        wait_for(lambda: confirmed(database, source.settings.slot) >= commit, "the row is confirmed")


def _with_topics_known(settings: object, registry: object, topics: list[str]) -> object:
    from connectors.source.connector import Source

    source = Source(settings, registry)  # type: ignore[arg-type]
    source._topics.update(topics)
    return source


def _active(dsn: str, slot: str) -> bool:
    with psycopg.connect(dsn) as conn:
        state = slot_state(conn, slot)
    return state is not None and state.active


def _unacknowledged(system: str) -> float:
    return metrics.UNACKNOWLEDGED.labels(system)._value.get()


def test_an_idle_source_confirms_the_end_of_the_log(database: str, kafka: str, topic_prefix: str) -> None:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE other (id int)")
    with a_source(kafka, database, topic_prefix, ["t"]) as source:
        source.snapshot_done(database)
        run_sql(database, "INSERT INTO other SELECT generate_series(1, 1000)")
        end = end_of_log(database)
        wait_for(lambda: confirmed(database, source.settings.slot) >= end, "what is not ours is confirmed", 5)


def test_stop_confirms_what_kafka_has(database: str, kafka: str, topic_prefix: str) -> None:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY)")
    with a_source(kafka, database, topic_prefix, ["t"]) as source:
        source.snapshot_done(database)
        run_sql(database, "INSERT INTO t SELECT generate_series(1, 100)")
        source.read(["t"], lambda found: len(found) >= 100)
        source.stop()
        wait_for(lambda: not _active(database, source.settings.slot), "the slot is free")
        source.start()
        run_sql(database, "INSERT INTO t VALUES (101)")
        assert ids(source.read(["t"], lambda found: len(found) >= 101)) == list(range(1, 102)), "nothing comes twice after a clean stop"


@pytest.mark.parametrize("lost", [False, True])
def test_a_source_that_waits_for_the_transactions_that_are_open_is_alive_and_stops(
    database: str, kafka: str, topic_prefix: str, lost: bool
) -> None:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY)")
    with a_source(kafka, database, topic_prefix, ["t"], start=lost) as source:
        if lost:
            source.snapshot_done(database)
            source.stop()
            run_sql(database, f"SELECT pg_drop_replication_slot('{source.settings.slot}')")
        with psycopg.connect(database) as person:
            person.execute("INSERT INTO t VALUES (1)")  # and goes for lunch
            waiting = Source(source.settings, source.registry)
            thread = threading.Thread(target=waiting.run)
            thread.start()
            told = "the replication slot is made once the transactions that are open now have ended"
            wait_for(lambda: waiting.health.waits_for == told, "it says what it waits for, and is not ready")
            for _ in range(3):
                wait_for(lambda: waiting.health.idle_seconds > SLOT_LOOK_SECONDS / 2, "it waits")
                wait_for(lambda: waiting.health.idle_seconds < SLOT_LOOK_SECONDS / 2, "its loop turns")
                assert waiting.health.waits_for == told
            waiting.stop()
            thread.join(5)
            assert not thread.is_alive(), "a stop does not wait for people"
            with connect(database) as conn:
                assert slot_state(conn, source.settings.slot) is None
        source.start()
        assert 1 in ids(source.read(["t"], lambda found: any(record.key["id"] == 1 for record in found)))


def test_a_slot_that_was_there_and_is_gone_is_lost(database: str) -> None:
    slot = database.rsplit("/", 1)[1]
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY)")
    with connect(database) as conn:
        concord_schema.ensure(conn)
        store = SnapshotStore(conn, slot)
        ensure_publication(conn, slot, [("public", "t")])
        assert not usable(slot_state(conn, slot), slot, store.any())
        create_slot(conn, slot)
        store.add([("public", "t")])
        assert usable(slot_state(conn, slot), slot, store.any())
        drop_slot(conn, slot)
        with pytest.raises(SlotLost, match=r"is gone: changes since then are missing"):
            usable(slot_state(conn, slot), slot, store.any())


def test_somebody_elses_slot_is_refused(database: str) -> None:
    slot = database.rsplit("/", 1)[1]
    with connect(database) as conn:
        conn.execute("SELECT pg_create_logical_replication_slot(%s, 'test_decoding')", (slot,))
        with pytest.raises(UnfitDatabase, match="test_decoding"):
            usable(slot_state(conn, slot), slot, False)


def test_told_to_stop_on_a_lost_slot_it_stops(database: str, kafka: str, topic_prefix: str) -> None:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY)")
    with a_source(kafka, database, topic_prefix, ["t"], on_lost_slot="stop") as source:
        source.snapshot_done(database)
        source.stop()
        run_sql(database, f"SELECT pg_drop_replication_slot('{source.settings.slot}')")
        source.start()
        assert isinstance(source.error, SlotLost)
        source.source.ready.set()


def test_after_a_lost_slot_every_row_is_read_again_and_vanished_linked_rows_come_out_as_deletes(
    database: str, kafka: str, topic_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY, a text)", "INSERT INTO t SELECT g, 'old' FROM generate_series(1, 5) g")
    linked = {("public", "t"): (("thing", lambda key: {"id": key}),)}
    with a_source(kafka, database, topic_prefix, ["t"], linked=linked) as source:
        source.snapshot_done(database)
        source.stop()
        run_sql(
            database,
            "INSERT INTO concord.key (entity, system, key, link, gone) SELECT 'thing', "
            f"'{topic_prefix}', g::text, 'x:' || g, g = 6 FROM generate_series(1, 6) g",
            "DELETE FROM t WHERE id IN (2, 4)",
            "UPDATE t SET a = 'new' WHERE id = 3",
            """INSERT INTO concord.link (entity, link, applied, wrote) VALUES
                ('thing', 'x:3', '{"": [9, 1, 0, 9, 1, 1], "a": [7, 1, 0, 7, 1, 2], "b": [8, 1, 0, 8, 1, 1]}', '{"a": "wrote"}')""",
            f"SELECT pg_drop_replication_slot('{source.settings.slot}')",
        )
        source.start()
        records = source.read(["t"], lambda found: len(found) >= 5 + 3 + 4)[5:]
        source.snapshot_done(database)
    assert [(record.op, record.key["id"]) for record in records] == [("r", 1), ("r", 3), ("r", 5), ("d", 2), (None, 2), ("d", 4), (None, 4)]
    assert records[1].value["after"]["a"] == "new"
    assert records[3].value["before"] == {"id": 2, "a": None}
    assert records[1].header("concord.ours") == {"thing": {"a": ["wrote", 7]}}
    assert records[0].header("concord.ours") == {}
    assert re.search(r"slot \w+ is gone", caplog.text)


def test_after_a_lost_slot_each_row_is_told_as_it_was_before_the_next_thing_that_happens_to_it(
    database: str, kafka: str, topic_prefix: str
) -> None:
    """Or an edit that nobody read would be taken for part of the first event that is read: an echo of ours, say."""
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY, n int)", "INSERT INTO t SELECT g, 0 FROM generate_series(1, 20) g")
    slot_gone, over = threading.Event(), threading.Event()

    def people() -> None:
        with psycopg.connect(database, autocommit=True) as conn:
            for number in itertools.count():
                conn.execute("UPDATE t SET n = n + 1 WHERE id = %s", [number % 20 + 1])
                if number > 100:
                    slot_gone.set()
                if over.is_set():
                    return

    with a_source(kafka, database, topic_prefix, ["t"]) as source:
        source.snapshot_done(database)
        source.stop()
        run_sql(database, f"SELECT pg_drop_replication_slot('{source.settings.slot}')")
        working = threading.Thread(target=people, daemon=True)
        working.start()
        slot_gone.wait(30)
        source.start()
        over.set()
        working.join()
        run_sql(database, "UPDATE t SET n = n + 1")
        with connect(database) as conn:
            ends = dict(conn.execute("SELECT id, n FROM t").fetchall())
        told = source.read(["t"], lambda found: {r.key["id"]: r.value["after"]["n"] for r in found} == ends)
        records = [record for record in told if record.value["after"]["n"] > 0]
    for key in range(1, 21):
        mine = [record for record in records if record.key["id"] == key]
        assert mine[0].op == "r"
        assert [record.op for record in mine[1:]] == ["u"] * (len(mine) - 1)
        first = mine[0].value["after"]["n"]
        assert [record.value["after"]["n"] for record in mine] == list(range(first, first + len(mine))), "nothing between, nothing twice"
        positions = [position_of(record.value["source"]["sequence"], record.value["source"]["lsn"]) for record in mine]
        assert positions == sorted(positions)
        assert len(mine) > 1


def test_a_reading_again_that_was_interrupted_begins_anew_with_another_slot(database: str, kafka: str, topic_prefix: str) -> None:
    """What was read before the interruption is of another place in the log than what comes after it."""
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY, a text)", "INSERT INTO t VALUES (1, 'old'), (2, 'old')")
    linked = {("public", "t"): (("thing", lambda key: {"id": key}),)}
    with a_source(kafka, database, topic_prefix, ["t"], linked=linked) as source:
        source.snapshot_done(database)
        source.stop()
        slot = source.settings.slot
        with connect(database) as conn:  # a source that came as far as this, and was killed
            store = SnapshotStore(conn, slot)
            drop_slot(conn, slot)
            store.add([("public", "not_mapped_any_more")])  # read once, and nobody reads it now
            store.read_all_again()
            create_slot(conn, slot)
            assert store.owes_all(source.settings.tables)
        run_sql(
            database,
            f"INSERT INTO concord.key (entity, system, key, link) VALUES ('thing', '{topic_prefix}', '2', 'x:2')",
            "UPDATE t SET a = 'new' WHERE id = 1",
            "DELETE FROM t WHERE id = 2",
        )
        source.start()  # it streams once all is read
        run_sql(database, "UPDATE t SET a = 'newer'")
        records = source.read(["t"], lambda found: len(found) >= 2 + 4)[2:]
        with connect(database) as conn:
            store = SnapshotStore(conn, slot)
            assert not store.owes_all(source.settings.tables)
    assert [(record.op, record.key["id"]) for record in records] == [("r", 1), ("d", 2), (None, 2), ("u", 1)]


def test_a_table_that_cannot_be_read_again_is_said_and_the_others_go_on(
    database: str, kafka: str, topic_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE bad (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    with a_source(kafka, database, topic_prefix, ["bad", "t"]) as source:
        source.snapshot_done(database)
        source.stop()
        with connect(database) as conn:
            wait_until(lambda: not (found := slot_state(conn, source.settings.slot)) or not found.active, "the server still holds the slot")
            drop_slot(conn, source.settings.slot)
        run_sql(database, "ALTER TABLE bad DROP CONSTRAINT bad_pkey")
        source.start()
        records = source.read(["t"], lambda found: len(found) >= 2)
        with connect(database) as conn:
            assert not SnapshotStore(conn, source.settings.slot).owes_all(source.settings.tables), (
                "or the slot would be dropped with every start"
            )
    assert [record.op for record in records] == ["r", "r"]
    assert "public.bad: cannot be read again: table public.bad has no primary key" in caplog.text


def test_a_mapped_column_that_disappears_is_said_and_the_stream_goes_on(
    database: str, kafka: str, topic_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY, a text, b text)", "CREATE TABLE other (id int PRIMARY KEY)")
    with a_source(kafka, database, topic_prefix, {"t": {"id", "a"}, "other": set()}) as source:
        source.snapshot_done(database)
        run_sql(database, "ALTER TABLE t RENAME a TO c", "INSERT INTO t VALUES (1, 'x', 'y')", "INSERT INTO other VALUES (1)")
        records = source.read(["t", "other"], lambda found: len(found) >= 2)
        assert [record.value["after"] for record in records] == [{"id": 1, "c": "x", "b": "y"}, {"id": 1}]
        assert metrics.MISSING_COLUMNS.labels(topic_prefix, "public.t")._value.get() == 1
        assert re.search(r"mapped columns are not in the table any more: a;", caplog.text)
        run_sql(database, "ALTER TABLE t RENAME c TO a", "INSERT INTO t VALUES (2, 'x', 'y')")
        source.read(["t"], lambda found: len(found) >= 2)
        assert metrics.MISSING_COLUMNS.labels(topic_prefix, "public.t")._value.get() == 0


def test_a_catalog_ahead_of_the_log_is_no_trouble(database: str, kafka: str, topic_prefix: str) -> None:
    """The changes were made before the schema changes that the catalog already tells."""
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY, a text, b int, c text)", "CREATE TABLE gone (id int PRIMARY KEY)")
    with a_source(kafka, database, topic_prefix, ["t", "gone"]) as source:
        source.snapshot_done(database)
        source.stop()
        run_sql(
            database,
            "INSERT INTO t VALUES (1, NULL, 7, 'x')",
            "INSERT INTO gone VALUES (1)",
            "DROP TABLE gone",
            "UPDATE t SET a = 'set'",
            "ALTER TABLE t ALTER a SET NOT NULL",
            "ALTER TABLE t ALTER b TYPE text",
            "ALTER TABLE t RENAME c TO d",
            "INSERT INTO t VALUES (2, 'y', 'seven', 'z')",
            "CREATE TABLE gone (id int PRIMARY KEY)",
        )
        told = source.settings
        may_read(database, told.system, told.publication, told.tables)  # the new table is another one: nobody may, until it is granted
        source.start()
        records = source.read(["t", "gone"], lambda found: len(found) >= 4)
    assert [record.value["after"] for record in records] == [
        {"id": 1, "a": None, "b": 7, "c": "x"},
        {"id": 1, "a": "set", "b": 7, "c": "x"},
        {"id": 2, "a": "y", "b": "seven", "d": "z"},
        {"id": 1},
    ]


def test_an_unreachable_database_is_tried_again_until_it_is_there(
    postgres_line: tuple[Proxy, str], database: str, kafka: str, topic_prefix: str
) -> None:
    proxy, through = postgres_line
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    proxy.cut()
    with a_source(kafka, through, topic_prefix, ["t"], start=False, admin=database) as source:
        starting = threading.Thread(target=source.start, daemon=True)
        starting.start()
        wait_for(lambda: metrics.RECONNECTS.labels(topic_prefix)._value.get() >= 1, "it was tried")
        proxy.mend()
        starting.join(60)
        assert ids(source.read(["t"], lambda found: len(found) >= 1)) == [1]
    assert source.error is None


def test_errors_are_told_apart_by_their_code(database: str) -> None:
    with connect(database) as conn, pytest.raises(UnfitDatabase):
        create_slot(conn, "not a slot name!")
    with pytest.raises(Retriable):
        connect("postgresql://nobody@127.0.0.1:1/nowhere")


def test_I8_a_row_too_large_for_kafka_is_dead_lettered_and_the_rest_goes_on(
    database: str, kafka: str, topic_prefix: str, make_topic: MakeTopic
) -> None:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY, a text)")
    make_topic("public.t", 1, max_message_bytes=1_000_000)
    with a_source(kafka, database, topic_prefix, ["t"]) as source:
        source.snapshot_done(database)
        run_sql(
            database, "INSERT INTO t VALUES (1, 'x'), (2, (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 50000) g)), (3, 'x')"
        )
        assert ids(source.read(["t"], lambda found: len(found) >= 2)) == [1, 3]
        (letter,) = source.reader.read([f"dead.{topic_prefix}"], lambda found: len(found) >= 1)
        assert letter.value["topic"] == f"{topic_prefix}.public.t"
        assert letter.value["where"] == "source"
        assert "max.message.bytes" in letter.value["error"]
        end = end_of_log(database)
        wait_for(lambda: confirmed(database, source.settings.slot) >= end, "the log is confirmed")
    assert source.error is None


def test_settings_come_from_the_pipeline() -> None:
    """What the source must know of a binding: its table, and every column that the mapping reads."""
    from types import SimpleNamespace

    from connectors.source.connector import settings_for

    binding = SimpleNamespace(
        entity="customer",
        table=SimpleNamespace(schema="public", name="account"),
        key_columns=("id",),
        columns={"name": ("name",), "email": ("mail", "mail_compact")},
        needed=frozenset({"org"}),
        key_values=lambda key: {"id": key},
        parts=(),
        root_columns=("id", "org", "name", "mail"),
    )
    system = SimpleNamespace(dsn="dbname=crm", slot="concord_crm", publication="concord_crm", session={}, role=None, heartbeat_seconds=7.0)
    kafka = SimpleNamespace(bootstrap="b:1", settings={"client.id": "x"}, partitions=4, replication=1)
    config = SimpleNamespace(systems={"crm": system}, kafka=kafka)
    settings = settings_for("crm", SimpleNamespace(config=config, tables=lambda system: [binding]))
    assert settings.tables == {("public", "account"): {"id", "name", "mail", "org"}}
    assert settings.kafka == {"bootstrap.servers": "b:1", "client.id": "x"}
    assert settings.linked[("public", "account")][0][0] == "customer"
