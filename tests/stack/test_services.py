"""The fixtures of tests/services.py keep what they promise."""

from __future__ import annotations

import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from tests.services import MakeTopic, a_database


def test_database_is_dropped_with_its_slots(postgres: str) -> None:
    with a_database(postgres) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [f"slot_of_{name}"])
    with psycopg.connect(postgres) as admin:
        assert admin.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone() is None
        assert admin.execute("SELECT FROM pg_replication_slots WHERE database = %s", [name]).fetchone() is None


def test_the_two_databases_are_of_two_major_versions(database: str, database_2: str) -> None:
    with psycopg.connect(database) as one, psycopg.connect(database_2) as two:
        majors = {connection.info.server_version // 10_000 for connection in (one, two)}
        assert len(majors) == 2
        assert min(majors) >= 14
        for connection in (one, two):
            assert connection.execute("SHOW wal_level").fetchone() == ("logical",)


def test_made_topic_has_the_partitions_and_the_settings_asked_for(kafka: str, topic_prefix: str, make_topic: MakeTopic) -> None:
    topic = make_topic("golden", 3, cleanup_policy="compact")
    assert topic == f"{topic_prefix}.golden"
    found = AdminClient({"bootstrap.servers": kafka}).list_topics(topic, timeout=10).topics[topic]
    assert len(found.partitions) == 3


def test_markers_follow_from_fixtures(request: pytest.FixtureRequest, kafka: str) -> None:
    assert request.node.get_closest_marker("kafka")
    assert not request.node.get_closest_marker("postgres")
