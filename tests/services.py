"""Kafka and two PostgreSQL servers for the tests, each from the first place that has it:

1. an address: `--kafka`, `--postgres`, `--postgres-2`, or CONCORD_TEST_KAFKA, CONCORD_TEST_POSTGRES, CONCORD_TEST_POSTGRES_2;
2. a container, where a Docker daemon answers;
3. the embedded stack: a private one that this session starts when the first test asks for it and ends with itself, however it ends.

Nothing starts that no test asks for. A test is marked `kafka` or `postgres` by the fixtures it uses: `pytest -m "not kafka"` needs no Java.
The services are shared by all tests of a session, so each test takes names of its own: `database`, `topic_prefix`, `make_topic`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # its typing forgets to export the one
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from console import grants
from schemas.config import Config

HOME = Path(__file__).resolve().parent.parent / ".concord"
KAFKA_IMAGE = "apache/kafka:4.1.1"
POSTGRES_IMAGES = ("postgres:16", "postgres:18")
PATIENCE = 30.0  # seconds that a service gets for an answer; a stuck one fails the test that waits, by name


@dataclass(frozen=True)
class Service:
    """One address a test can ask for."""

    name: str
    option: str
    variable: str

    def address(self, config: pytest.Config) -> str | None:
        value = config.getoption(self.option)
        return str(value) if value else os.environ.get(self.variable) or None


KAFKA = Service("kafka", "--kafka", "CONCORD_TEST_KAFKA")
POSTGRES = Service("postgres", "--postgres", "CONCORD_TEST_POSTGRES")
POSTGRES_2 = Service("postgres-2", "--postgres-2", "CONCORD_TEST_POSTGRES_2")
SERVICES = (KAFKA, POSTGRES, POSTGRES_2)
SOURCES = ("concord", "debezium", "debezium-plain", "debezium-avro")
SOURCE_VARIABLE = "CONCORD_TEST_SOURCE"  # set from --source, for what has no pytest at hand


class MakeTopic(Protocol):
    def __call__(self, name: str, partitions: int = 1, **config: str | int) -> str: ...


# --- pytest's hooks ---------------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("services", "where the tests find Kafka and PostgreSQL")
    for service in SERVICES:
        group.addoption(service.option, metavar="ADDRESS", help=f"use this one (default: ${service.variable}, else Docker, else embedded)")
    group.addoption(
        "--source", choices=SOURCES, default="concord", help="who reads the logs in tests/pipeline: our source, or real Debezium"
    )


def pytest_configure(config: pytest.Config) -> None:
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # a shell does that to what it runs in the background, and our children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "own_source: is about our own source, skipped with another --source")
    os.environ[SOURCE_VARIABLE] = source = config.getoption("--source")
    if source == "debezium-avro" and not os.environ.get("CONCORD_TEST_APICURIO"):
        raise pytest.UsageError("--source debezium-avro needs an Apicurio registry: give its address in CONCORD_TEST_APICURIO")


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [f"{service.name}: {_origin(service, config)}" for service in SERVICES]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if "kafka" in names:
            item.add_marker("kafka")
        if names & {"postgres", "postgres_2"}:
            item.add_marker("postgres")
        if item.get_closest_marker("own_source") and os.environ[SOURCE_VARIABLE] != "concord":
            item.add_marker(pytest.mark.skip(reason="is about our own source"))


def _origin(service: Service, config: pytest.Config) -> str:
    if address := service.address(config):
        return f"{address} (given)"
    if _docker_answers():
        return "a container, when a test asks for it"
    if missing := _embedded_lacks(service):
        return f"NOT THERE, its tests are skipped: {missing}; install it or give {service.option} or {service.variable}"
    return "embedded, when a test asks for it"


# --- the places a service can come from -------------------------------------------------------------------------------------------


@functools.cache
def _docker_answers() -> bool:
    """Whether a Docker daemon answers. CONCORD_TEST_DOCKER=0 says no without asking."""
    if os.environ.get("CONCORD_TEST_DOCKER") == "0":
        return False
    url = urlsplit(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
    try:
        with socket.socket(socket.AF_UNIX if url.scheme == "unix" else socket.AF_INET) as docker:  # docker's own client leaks this socket
            docker.settimeout(5)
            docker.connect(url.path if url.scheme == "unix" else (url.hostname, url.port or 2375))
            docker.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b" 200 " in docker.recv(64)
    except OSError:
        return False


def _embedded_lacks(service: Service) -> str | None:
    """What the embedded stack would miss to be this service; None if nothing."""
    from console import stack

    return stack.kafka_lacks(HOME) if service is KAFKA else stack.postgres_lacks()


class _Embedded:
    """The session's private stack. Kafka and PostgreSQL are separate ones, so that a test that needs one does not wait for the other."""

    def __init__(self) -> None:
        self._stop = contextlib.ExitStack()
        self._states: dict[bool, Any] = {}

    def state(self, service: Service) -> Any:
        from console import stack

        if lacks := _embedded_lacks(service):
            pytest.skip(f"{service.name}: {lacks}")
        kafka = service is KAFKA
        if kafka not in self._states:
            run = f"test-{os.getpid()}-{'kafka' if kafka else 'postgres'}"
            running = stack.running(HOME, run=run, kafka=kafka, postgres=() if kafka else stack.TWO_MAJORS, fsync=False, ephemeral=True)
            self._states[kafka] = self._stop.enter_context(running)
        return self._states[kafka]

    def close(self) -> None:
        self._stop.close()


@pytest.fixture(scope="session")
def _embedded() -> Iterator[_Embedded]:
    embedded = _Embedded()
    yield embedded
    embedded.close()


@contextlib.contextmanager
def _container(image: str, port: int, host_port: int | None = None, command: str = "", **env: str) -> Iterator[str]:
    """host:port of a container's port, once it answers there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # testcontainers' own deprecations are not ours
        from testcontainers.core.container import DockerContainer

        container = DockerContainer(image)
        for name, value in env.items():
            container.with_env(name, value)
        if host_port:
            container.with_bind_ports(port, host_port)
        else:
            container.with_exposed_ports(port)
        if command:
            container.with_command(command)
        container.start()
    try:
        yield f"{container.get_container_host_ip()}:{container.get_exposed_port(port)}"
    finally:
        container.stop()


@contextlib.contextmanager
def _kafka_container() -> Iterator[str]:
    from console.stack import free_port

    host_port = free_port()
    settings = {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": "PLAINTEXT://0.0.0.0:9092,CONTROLLER://localhost:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://{os.environ.get('TC_HOST', 'localhost')}:{host_port}",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "4",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }
    with _container(KAFKA_IMAGE, 9092, host_port, **settings) as address:
        yield address


@contextlib.contextmanager
def _postgres_container(image: str) -> Iterator[str]:
    command = "postgres -c wal_level=logical -c max_replication_slots=200 -c max_wal_senders=200 -c max_connections=300 -c fsync=off"
    with _container(image, 5432, command=command, POSTGRES_HOST_AUTH_METHOD="trust") as address:
        yield f"postgresql://postgres@{address}/postgres"


# --- fixtures ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest, _embedded: _Embedded) -> Iterator[str]:
    """Bootstrap servers. Topics are not created by asking for them: `make_topic`."""
    if address := KAFKA.address(request.config):
        yield address
    elif _docker_answers():
        with _kafka_container() as address:
            _wait_for_kafka(address)
            yield address
    else:
        yield _embedded.state(KAFKA).kafka.bootstrap
    _admin.cache_clear()  # before its broker goes, which it would complain about


def _postgres(service: Service, index: int, request: pytest.FixtureRequest, embedded: _Embedded) -> Iterator[str]:
    if dsn := service.address(request.config):
        yield dsn
    elif _docker_answers():
        with _postgres_container(POSTGRES_IMAGES[index]) as dsn:
            _wait_for_postgres(dsn)
            yield dsn
    else:
        yield embedded.state(service).postgres[index].dsn


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest, _embedded: _Embedded) -> Iterator[str]:
    """A superuser's DSN on server one, wal_level=logical."""
    yield from _postgres(POSTGRES, 0, request, _embedded)


@pytest.fixture(scope="session")
def postgres_2(request: pytest.FixtureRequest, _embedded: _Embedded) -> Iterator[str]:
    """A superuser's DSN on server two, another major version."""
    yield from _postgres(POSTGRES_2, 1, request, _embedded)


@pytest.fixture
def database(postgres: str) -> Iterator[str]:
    """The DSN of a fresh empty database on server one, gone after the test, with its slots."""
    with a_database(postgres) as dsn:
        yield dsn


@pytest.fixture
def database_2(postgres_2: str) -> Iterator[str]:
    """The same on server two."""
    with a_database(postgres_2) as dsn:
        yield dsn


@pytest.fixture
def topic_prefix(kafka: str) -> Iterator[str]:
    """A start of topic, group and system names that no other test has, like "t4f2a19c0". Topics with it are deleted after the test."""
    prefix = f"t{secrets.token_hex(4)}"
    yield prefix
    admin = _admin(kafka)
    left = [topic for topic in admin.list_topics(timeout=PATIENCE).topics if topic.startswith(prefix)]
    if left:
        for deletion in admin.delete_topics(left, operation_timeout=PATIENCE).values():
            deletion.result(PATIENCE)


@pytest.fixture
def make_topic(kafka: str, topic_prefix: str) -> MakeTopic:
    """make_topic("changes", 4, cleanup_policy="compact") → the full name of a new topic, ready to be written to."""

    def make(name: str, partitions: int = 1, **config: str | int) -> str:
        topic = f"{topic_prefix}.{name}"
        admin = _admin(kafka)
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        admin.create_topics([NewTopic(topic, partitions, 1, config=settings)])[topic].result(PATIENCE)

        def has_leaders() -> bool:
            found = admin.list_topics(topic, timeout=PATIENCE).topics[topic].partitions
            return len(found) == partitions and all(partition.leader >= 0 for partition in found.values())

        wait_until(has_leaders, f"topic {topic} has no leaders")
        return topic

    return make


# --- what fixtures and tests use --------------------------------------------------------------------------------------------------


def wait_until(is_so: Callable[[], object], otherwise: str, seconds: float = PATIENCE, every: float = 0.02) -> None:
    """Return as soon as `is_so()`; fail the test with `otherwise` when it is not so in time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            pytest.fail(f"{otherwise} after {seconds:g} s")
        time.sleep(every)


def with_database(dsn: str, name: str) -> str:
    """The same server, another database; a URL stays a URL."""
    if "://" in dsn:
        return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))
    return make_conninfo(dsn, dbname=name)


def database_of(dsn: str) -> str:
    return urlsplit(dsn).path.lstrip("/") if "://" in dsn else str(conninfo_to_dict(dsn)["dbname"])


SECRET = "s3cret-of-ours"  # every login of ours has it: what must not be printed


def our_login(dsn: str) -> str:
    """A database's address for Concord's own processes, which never are the superuser. The role is made by `concord check --grant`
    (`console.grants.grant`), as an operator would; it goes with the database."""
    role = f"concord_{database_of(dsn)}"
    if "://" in dsn:
        url = urlsplit(dsn)
        return urlunsplit(url._replace(netloc=f"{role}:{SECRET}@{url.netloc.rpartition('@')[2]}"))
    return make_conninfo(dsn, user=role, password=SECRET)


def a_reader(dsn: str) -> str:
    """A database's address for who may look at everything and change nothing. Its role is our login's, which is not made then."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        role = sql.Identifier(grants.login_of(our_login(dsn)))
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, SECRET))
        admin.execute(sql.SQL("GRANT pg_read_all_data TO {}").format(role))
    return our_login(dsn)


def granted(config: Config, admins: Mapping[str, str]) -> None:
    """Makes the logins of a configuration, or brings their rights up to date. `admins`: system → a superuser's DSN."""
    grants.grant(config, admins, run=True)


@contextlib.contextmanager
def a_database(server: str) -> Iterator[str]:
    """A fresh empty UTF-8 database; dropped at the end whoever is still connected, and its slots before it."""
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(sql.Identifier(name)))
    try:
        yield with_database(server, name)
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            _drop_slots(admin, name)
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(f"concord_{name}")))


def _drop_slots(admin: psycopg.Connection, database: str) -> None:
    """A database with a slot cannot be dropped; a slot in use cannot either, and ending its walsender takes a moment."""

    def none_left() -> bool:
        slots = admin.execute("SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s", [database]).fetchall()
        for name, pid in slots:
            if pid is not None:
                admin.execute("SELECT pg_terminate_backend(%s)", [pid])
            with contextlib.suppress(psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
                admin.execute("SELECT pg_drop_replication_slot(%s)", [name])
        return not slots

    wait_until(none_left, f"database {database} still has replication slots")


@functools.cache
def _admin(kafka: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka})


def _wait_for_kafka(address: str) -> None:
    from confluent_kafka import KafkaException

    def answers() -> bool:
        with contextlib.suppress(KafkaException):
            return bool(_admin(address).list_topics(timeout=1).brokers)
        return False

    wait_until(answers, f"Kafka does not answer at {address}", 60)


def _wait_for_postgres(dsn: str) -> None:
    def answers() -> bool:
        try:
            psycopg.connect(dsn, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    wait_until(answers, f"PostgreSQL does not answer at {dsn}", 60)
