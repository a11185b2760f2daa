"""How far a consumer group has come."""

from __future__ import annotations

from confluent_kafka import Consumer, TopicPartition

from console.kafka import Cluster
from schemas.config import Kafka
from tests.services import MakeTopic


def test_what_a_group_has_committed_and_nothing_of_one_that_never_was(kafka: str, make_topic: MakeTopic, topic_prefix: str) -> None:
    cluster, topic, other = Cluster(Kafka(bootstrap=kafka)), make_topic("a", 2), make_topic("b")
    assert cluster.committed(f"{topic_prefix}-nobody", [topic]) == {}
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": f"{topic_prefix}-group"})
    consumer.commit(offsets=[TopicPartition(topic, 1, 17), TopicPartition(other, 0, 3)], asynchronous=False)
    consumer.close()
    assert cluster.committed(f"{topic_prefix}-group", [topic, "not-there"]) == {(topic, 1): 17}
