"""Registries: embedded on a topic, and an outside one that speaks Confluent's API."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from confluent_kafka import Producer

from schemas.errors import Refused, Retriable, SchemaError, UnknownSchema
from schemas.registry import ConfluentRegistry, EmbeddedRegistry, fingerprint


def a_schema(name: str) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": "a", "type": "int"}]}


@pytest.fixture
def registries(kafka: str, topic_prefix: str) -> Iterator[tuple[EmbeddedRegistry, EmbeddedRegistry]]:
    """Two of one topic, as two processes have them."""
    both = tuple(EmbeddedRegistry({"bootstrap.servers": kafka}, topic=f"{topic_prefix}.schemas") for _ in range(2))
    yield both[0], both[1]
    for registry in both:
        registry.close()


def test_what_one_process_registers_another_reads(registries: tuple[EmbeddedRegistry, EmbeddedRegistry]) -> None:
    one, other = registries
    schema_id = one.register("x-value", a_schema("X"))
    assert schema_id == fingerprint(a_schema("X"))
    assert not other.known(schema_id)
    assert other.schema(schema_id)["fields"] == one.schema(schema_id)["fields"]  # type: ignore[index, call-overload]
    assert other.known(schema_id)
    assert other.register("y-value", a_schema("X")) == schema_id


def test_a_schema_that_is_just_being_registered_is_waited_for(registries: tuple[EmbeddedRegistry, EmbeddedRegistry]) -> None:
    one, other = registries
    one.register("x-value", a_schema("X"))
    other.schema(fingerprint(a_schema("X")))
    late = threading.Thread(target=one.register, args=("y-value", a_schema("Y")))
    late.start()
    assert other.schema(fingerprint(a_schema("Y")))
    late.join()


def test_an_unknown_id_is_waited_for_once(registries: tuple[EmbeddedRegistry, EmbeddedRegistry]) -> None:
    one, _ = registries
    with pytest.raises(UnknownSchema):
        one.schema(5)
    started = time.monotonic()
    with pytest.raises(UnknownSchema):
        one.schema(5)
    assert time.monotonic() - started < 1


def test_garbage_on_the_topic_is_passed_over(
    registries: tuple[EmbeddedRegistry, EmbeddedRegistry], kafka: str, topic_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = registries
    one.register("x-value", a_schema("X"))
    producer = Producer({"bootstrap.servers": kafka})
    for garbage in (b"x", b"[]", b"{}", b'{"id": 3, "schema": {"type": "nonsense"}}', b'{"id": "z", "schema": {}}', None):
        producer.produce(f"{topic_prefix}.schemas", garbage, "k")
    producer.flush(30)
    schema_id = one.register("y-value", a_schema("Y"))
    assert other.schema(schema_id)
    assert "is no schema, passed over" in caplog.text


def test_what_is_no_schema_is_refused(registries: tuple[EmbeddedRegistry, EmbeddedRegistry]) -> None:
    with pytest.raises(SchemaError, match="not an Avro schema"):
        registries[0].register("x-value", {"type": "nonsense"})


class _Confluent(BaseHTTPRequestHandler):
    """As much of Confluent's API as a client needs that registers and looks up."""

    schemas: dict[int, str]
    failing = 0

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "refused" in self.path:
            return self._answer(409, {"error_code": 409, "message": "incompatible"})
        schema_id = next((i for i, s in self.schemas.items() if s == told["schema"]), len(self.schemas) + 1)
        self.schemas[schema_id] = told["schema"]
        self._answer(200, {"id": schema_id, "schema": told["schema"], "subject": "s", "version": 1})

    def do_GET(self) -> None:
        schema_id = int(self.path.split("/ids/")[1].split("?")[0].split("/")[0])
        if schema_id in self.schemas:
            self._answer(200, {"schema": self.schemas[schema_id]})
        else:
            self._answer(404, {"error_code": 40403, "message": "Schema not found"})

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def confluent() -> Iterator[str]:
    handler = type("Handler", (_Confluent,), {"schemas": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.filterwarnings("ignore")  # authlib's own deprecations
def test_an_outside_registry_is_asked(confluent: str) -> None:
    pytest.importorskip("confluent_kafka.schema_registry", reason="needs concord[registry]")
    one, other = ConfluentRegistry(confluent), ConfluentRegistry(confluent)
    schema_id = one.register("x-value", a_schema("X"))
    assert one.known(schema_id)
    assert not other.known(schema_id)
    assert other.schema(schema_id)["name"] == "X"  # type: ignore[index, call-overload]
    with pytest.raises(UnknownSchema):
        other.schema(99)
    with pytest.raises(Refused):
        one.register("refused", a_schema("Z"))


@pytest.mark.filterwarnings("ignore")  # authlib's own deprecations
def test_an_outside_registry_that_is_away_is_tried_again() -> None:
    pytest.importorskip("confluent_kafka.schema_registry", reason="needs concord[registry]")
    with pytest.raises(Retriable):
        ConfluentRegistry("http://127.0.0.1:1", {"max.retries": 0}).schema(1)
