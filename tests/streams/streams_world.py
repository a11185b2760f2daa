"""The streams between a real Kafka and two real databases: events are written as a source would, records are read as a sink would."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic  # confluent_kafka.admin has it too, but does not say so to type checkers

from connectors import concord_schema
from console import wiring
from console.grants import Wanted, carry_out, login_of, statements
from schemas import topics
from schemas.change import Change, decode_change
from schemas.config import parse
from schemas.conflicts import Conflict, conflict_from_avro
from schemas.dead import DeadLetter, dead_from_avro
from schemas.envelope import CONNECTOR
from schemas.golden import GoldenRecord, golden_from_avro
from schemas.mapping import Pipeline, compile_config
from schemas.registry import MemoryRegistry
from schemas.serde import Codec
from streams.app import StreamsApp, create_app
from tests.mapping.mapping_builders import a_table
from tests.services import SECRET, our_login

PATIENCE = 30.0
PARTITIONS = 2

_ACCOUNT = {"id": "integer", "vat": "text", "name": "text", "credit": "numeric(12,2)", "org": "integer"}
_PARTY = {"id": "integer", "tax_id": "text", "legal_name": "text", "credit_limit": "numeric", "number": "text"}
_DEAL = {"id": "integer", "account": "integer", "note": "text"}
_ORDER = {"id": "integer", "party": "integer", "remark": "text"}
_AVRO = {"integer": "int", "text": "string", "numeric(12,2)": "string", "numeric": "string", "boolean": "boolean"}


@dataclass
class StreamsWorld:
    """CRM account ⇄ ERP party (matched on the VAT number, credit limit and number owned by the ERP), CRM deal ⇄ ERP order (refers to
    them)."""

    kafka: str
    crm_dsn: str
    erp_dsn: str
    state_dir: Path
    name: str = field(default_factory=lambda: f"t{secrets.token_hex(4)}")

    def __post_init__(self) -> None:
        self.crm, self.erp = f"{self.name}crm", f"{self.name}erp"
        self.admin = {self.crm: self.crm_dsn, self.erp: self.erp_dsn}
        self.crm_dsn, self.erp_dsn = map(our_login, (self.crm_dsn, self.erp_dsn))
        self.customer, self.order = f"{self.name}_customer", f"{self.name}_order"
        self.registry = MemoryRegistry()
        self.codec = Codec(self.registry)
        self.lsn, self.xid = 1000, 100
        self.tables = self.described()
        self.config = parse(
            {
                "name": self.name,
                "kafka": {"bootstrap": self.kafka, "partitions": PARTITIONS},
                "systems": {self.crm: {"dsn": self.crm_dsn, "rank": 1}, self.erp: {"dsn": self.erp_dsn, "rank": 2}},
                "entities": self.entities(),
                "state_dir": str(self.state_dir),
            }
        )
        self.pipeline = self._pipeline()
        self.producer = Producer({"bootstrap.servers": self.kafka, "linger.ms": 0, "partitioner": "murmur2_random"})
        for system, dsn in ((self.crm, self.crm_dsn), (self.erp, self.erp_dsn)):
            self._grant(system)
            with psycopg.connect(dsn, autocommit=True) as connection:
                concord_schema.ensure(connection)
        self._create_topics()

    def described(self) -> dict[str, dict[str, dict[str, str]]]:
        """System → table → columns and their types; the key comes first."""
        return {
            self.crm: {"account": _ACCOUNT, "deal": _DEAL},
            self.erp: {"party": _PARTY, "order": _ORDER},
        }

    def entities(self) -> dict[str, Any]:
        return {
            self.customer: {
                self.crm: {"table": "account", "where": {"org": 42}},
                self.erp: {"table": "party", "insert": {"number": {"sql": "nextval('party_number')::text"}}},
                "match_on": ["tax_id"],
                "fields": {
                    "tax_id": {self.crm: "vat", self.erp: "tax_id", "clean": ["strip", "upper"]},
                    "name": {self.crm: "name", self.erp: "legal_name"},
                    "credit": {self.crm: "credit", self.erp: "credit_limit", "owner": self.erp},
                },
            },
            self.order: {
                self.crm: {"table": "deal"},
                self.erp: {"table": "order"},
                "born_in": [self.crm],
                "fields": {
                    "customer": {self.crm: "account", self.erp: "party", "ref": self.customer},
                    "note": {self.crm: "note", self.erp: "remark"},
                },
            },
        }

    def _pipeline(self) -> Pipeline:
        catalogs = {
            system: {f"public.{name}": a_table(name, **columns) for name, columns in tables.items()}
            for system, tables in self.tables.items()
        }
        return compile_config(self.config, catalogs)

    def _grant(self, system: str) -> None:
        """What streams need in a database: to write the crosswalk, and to look whether a row is there. The tables are empty, unless a test
        puts rows in."""
        login = login_of(self.config.systems[system].dsn)
        with psycopg.connect(self.admin[system], autocommit=True) as admin:
            carry_out(admin, statements(admin, Wanted((system,), login, None, {}, {}, ())), login, SECRET)
            for table, columns in self.tables[system].items():
                types = ", ".join(f'"{name}" {of.rstrip("!=")}' for name, of in columns.items())
                admin.execute(f'CREATE TABLE "{table}" ({types}); GRANT ALL ON "{table}" TO {login}'.encode())

    def _create_topics(self) -> None:
        self.topics = [topic.name for topic in wiring.topics_of(self.config)]
        self.admin = AdminClient({"bootstrap.servers": self.kafka})
        for created in self.admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in self.topics]).values():
            created.result(PATIENCE)

    def close(self) -> None:
        left = [name for name in self.admin.list_topics(timeout=PATIENCE).topics if name in self.topics or name.startswith(self.name)]
        for deleted in self.admin.delete_topics(left, operation_timeout=PATIENCE).values():
            deleted.result(PATIENCE)
        self.producer.flush(0)

    # ---- running -----------------------------------------------------------------------------------------------------

    def app(self, worker: int = 0, **settings: Any) -> StreamsApp:
        return create_app(self.pipeline, self.registry, worker=worker, **settings)

    @asynccontextmanager
    async def running(self, **settings: Any) -> AsyncIterator[StreamsApp]:
        app = self.app(**settings)
        async with app.running():
            yield app

    # ---- what a source writes ----------------------------------------------------------------------------------------

    def event(
        self,
        system: str,
        table: str,
        op: str,
        row: dict[str, Any],
        *,
        origin: int | None = None,
        lsn: int | None = None,
        ts_us: int | None = None,
        headers: dict[str, bytes] | None = None,
        xid: int = 1,
        after: int | None = None,
        flush: bool = True,
    ) -> None:
        """A change event as the source writes it. `origin`: written by a sink, with this hlc. `after`: LSN of the commit before."""
        self.lsn += 10
        at = self.lsn if lsn is None else lsn
        key, value = self.encoded(system, table, op, row, origin=origin, lsn=at, ts_us=ts_us, xid=xid, after=after)
        self.send(topics.captured(system, "public", table), key, value, headers, flush=flush)

    def transaction(self) -> dict[str, int]:
        """What the events of one transaction have in common."""
        self.xid += 1
        return {"xid": self.xid, "after": self.lsn}

    def encoded(
        self,
        system: str,
        table: str,
        op: str,
        row: dict[str, Any],
        *,
        origin: int | None = None,
        lsn: int,
        ts_us: int | None = None,
        xid: int = 1,
        after: int | None = None,
    ) -> tuple[bytes, bytes]:
        columns = {name: kind.rstrip("!=") for name, kind in self.tables[system][table].items()}
        prefix = f"{system}.public.{table}"
        fields = [{"name": "id", "type": "int"}] + [
            {"name": name, "type": ["null", _AVRO[kind]], "default": None} for name, kind in columns.items() if name != "id"
        ]
        row_schema = {"type": "record", "name": "Value", "namespace": prefix, "fields": fields}
        schema = {
            "type": "record",
            "name": "Envelope",
            "namespace": prefix,
            "fields": [
                {"name": "before", "type": ["null", row_schema], "default": None},
                {"name": "after", "type": ["null", f"{prefix}.Value"], "default": None},
                {"name": "source", "type": _SOURCE},
                {"name": "op", "type": "string"},
                {"name": "ts_us", "type": ["null", "long"], "default": None},
            ],
        }
        key_schema = {"type": "record", "name": "Key", "namespace": prefix, "fields": [{"name": "id", "type": "int"}]}
        source = {
            "version": CONNECTOR,
            "name": system,
            "db": system,
            "schema": "public",
            "table": table,
            "ts_us": time.time_ns() // 1000 if ts_us is None else ts_us,
            "ts_ms": time.time_ns() // 1_000_000,
            "snapshot": "false",
            "sequence": f'["{lsn - 1 if after is None else after}","{lsn}"]',
            "lsn": lsn,
            "txId": xid,
            "origin": None if origin is None else f"concord_{system}_0",
            "origin_lsn": origin,
        }
        datum = {"before": None, "after": None if op in "dt" else row, "source": source, "op": op, "ts_us": None}
        key = self.codec.encoder(f"{prefix}-key", key_schema)({"id": row["id"]})
        return key, self.codec.encoder(f"{prefix}-value", schema)(datum)

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: dict[str, bytes] | None = None,
        partition: int = -1,
        flush: bool = True,
    ) -> None:
        self.producer.produce(topic, value, key, partition, headers=list((headers or {}).items()))
        assert not flush or self.producer.flush(PATIENCE) == 0

    def linked(self, system: str, entity: str, key: str, link: str) -> None:
        """What a sink registers."""
        dsn = self.crm_dsn if system == self.crm else self.erp_dsn
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("INSERT INTO concord.key (entity, system, key, link) VALUES (%s, %s, %s, %s)", (entity, system, key, link))

    # ---- what is in the topics ---------------------------------------------------------------------------------------

    def read(self, topic: str) -> list[tuple[bytes | None, bytes | None]]:
        """All (key, value) of a topic, partition by partition."""
        consumer = Consumer({"bootstrap.servers": self.kafka, "group.id": "reader", "enable.auto.commit": False, "fetch.wait.max.ms": 10})
        found: list[tuple[bytes | None, bytes | None]] = []
        try:
            for partition in range(PARTITIONS):
                _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), PATIENCE)
                consumer.assign([TopicPartition(topic, partition, 0)])
                while end:
                    message = consumer.poll(PATIENCE)
                    assert message is not None
                    assert message.error() is None
                    found.append((message.key(), message.value()))
                    if (message.offset() or 0) + 1 >= end:
                        break
            return found
        finally:
            consumer.close()

    def golden(self, entity: str | None = None) -> list[GoldenRecord]:
        name = entity or self.customer
        return [golden_from_avro(name, self.codec.decode(value)[1]) for _, value in self.read(topics.golden(name))]

    def changes(self, entity: str | None = None) -> list[tuple[str, Change]]:
        return [((key or b"").decode(), decode_change(value or b"")) for key, value in self.read(topics.changes(entity or self.customer))]

    def claims(self) -> list[tuple[str, Any]]:
        return [((key or b"").decode(), orjson.loads(value or b"")) for key, value in self.read(topics.claims(self.customer))]

    def conflicts(self) -> list[Conflict]:
        return [conflict_from_avro(self.codec.decode(value)[1]) for _, value in self.read(topics.conflicts(self.customer))]

    def dead(self, system: str) -> list[DeadLetter]:
        return [dead_from_avro(self.codec.decode(value)[1]) for _, value in self.read(topics.dead(system))]

    async def until(self, what: Callable[[], Any], otherwise: str) -> Any:
        """What `what` gives, as soon as it is something."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = await asyncio.to_thread(what)
            if found:
                return found
            assert time.monotonic() < deadline, otherwise
            await asyncio.sleep(0.05)

    async def settled(self, app: StreamsApp) -> None:
        """All that was sent before has been handled, three looks in a row, and an event that follows it through all agents as well."""
        await asyncio.to_thread(self.producer.flush, PATIENCE)
        quiet = 0
        deadline = time.monotonic() + PATIENCE
        while quiet < 5:
            assert time.monotonic() < deadline, f"does not settle: {app.health()}"
            quiet = quiet + 1 if await asyncio.to_thread(self._is_done, app) else 0
            await asyncio.sleep(0.02)

    def _is_done(self, app: StreamsApp) -> bool:
        """Every topic is finished to its end, asked from the broker."""
        consumer = self._watcher()
        reading: Any = app.consumer
        ledger = reading.ledger
        assigned = reading.stream_partitions()
        if not assigned:
            return False  # between two assignments: on a slow machine a member may be late for the broker
        for tp in assigned:
            _, end = consumer.get_watermark_offsets(TopicPartition(tp.topic, tp.partition), PATIENCE)
            if (ledger.position(tp) or 0) < end:
                return False
        return True

    def _watcher(self) -> Consumer:
        if not hasattr(self, "_watching"):
            self._watching = Consumer({"bootstrap.servers": self.kafka, "group.id": "watcher"})
        return self._watching


_SOURCE = {
    "type": "record",
    "name": "Source",
    "namespace": "io.debezium.connector.postgresql",
    "fields": [
        *({"name": name, "type": "string"} for name in ("version", "name", "db", "schema", "table", "snapshot")),
        *({"name": name, "type": "long"} for name in ("ts_us", "ts_ms")),
        *({"name": name, "type": ["null", "string"], "default": None} for name in ("sequence", "origin")),
        *({"name": name, "type": ["null", "long"], "default": None} for name in ("lsn", "txId", "origin_lsn")),
    ],
}


def an_account(id: int, vat: str | None = "de1", name: str = "Acme", credit: str | None = "10.00", org: int = 42) -> dict[str, object]:
    return {"id": id, "vat": vat, "name": name, "credit": credit, "org": org}


def a_party(id: int, tax_id: str | None = "DE1", name: str = "Acme", limit: str | None = "10", number: str = "P1") -> dict[str, object]:
    return {"id": id, "tax_id": tax_id, "legal_name": name, "credit_limit": limit, "number": number}
