"""What an operator does while everything runs."""

from __future__ import annotations

import subprocess
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from psycopg import sql

from tests.chaos.faults.plan import SYSTEMS, Fault
from tests.chaos.faults.world import Broken, Missed, World, seen

TAKEN_SECONDS = 90.0  # until who was away when the command came is there and has done as it said


def set_offsets_back(world: World, fault: Fault) -> str:
    """As an operator would: stop, set the groups of the streams and of the sinks back, start."""
    with world.lock("supervisor"):
        world.concord.down()
        try:
            groups = [f"{world.name}-streams", *(f"{world.name}-sink-{system}" for system in SYSTEMS)]
            return f"{sum(_set_back(world, group) for group in groups)} records are read again"
        finally:
            world.up()


def _bootstrap(world: World) -> str:
    return f"127.0.0.1:{world.servers.ports['kafka']}"


def _set_back(world: World, group: str) -> int:
    """How many records lie between where the group was and the start."""
    admin = AdminClient({"bootstrap.servers": _bootstrap(world), "log_level": 0})
    known = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(20).topic_partitions
    start = [TopicPartition(each.topic, each.partition, 0) for each in known]

    def altered() -> bool:
        try:
            told = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, start)])[group].result(20)
        except KafkaException as error:
            if error.args[0].code() not in (KafkaError.NON_EMPTY_GROUP, KafkaError.UNKNOWN_MEMBER_ID):
                raise
            return False  # a member that was killed is still counted until its session has ended
        return not any(each.error for each in told.topic_partitions)

    if not seen(altered, 30):
        raise Missed(f"group {group} still has members")
    back = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(20).topic_partitions
    if left := [f"{each.topic}@{each.partition}/{each.offset}" for each in back if each.offset > 0]:
        raise Missed(f"group {group} did not go back: {', '.join(left)}")
    return sum(max(each.offset, 0) for each in known)


def snapshot(world: World, fault: Fault) -> str:
    """The command does not wait for a source that is away; what it asked for stays in the database until the source is there."""
    told = _asked(world, "snapshot", fault.target, fault.what)
    table, slot = told["table"], f"{world.name}_{fault.target}"
    read = sql.SQL("SELECT rows FROM concord.snapshot WHERE pipeline = %s AND table_name = %s AND predicate = %s AND done")

    def rows() -> object:
        with world.database(fault.target) as conn:
            row = conn.execute(read, [slot, table, told["where"]]).fetchone()
        return None if row is None else row[0]

    if told["state"] == "done":
        return f"{fault.target}.{table} was read again: {told['rows']} rows"
    if not seen(lambda: rows() is not None, TAKEN_SECONDS, every=0.5):
        raise Missed(f"{fault.target}.{table} is not read again within {TAKEN_SECONDS:.0f} s: {told['state']}")
    return f"{fault.target}.{table} was read again when its source was there: {rows()} rows"


def replay(world: World, fault: Fault) -> str:
    """The command does not wait for a worker that is away; what it said stays in Kafka until one is there."""
    told = _asked(world, "replay", fault.target, "--from", fault.what)
    if not told.get("records"):
        raise Missed(f"nothing was captured from {fault.target} within {fault.what}")
    if told["state"] not in ("reading", "done") and not seen(lambda: _taken_up(world), TAKEN_SECONDS, every=0.5):
        raise Missed(f"no worker took the replay of {fault.target} up within {TAKEN_SECONDS:.0f} s")
    return f"{told['records']} records of {fault.target} are read again, from {fault.what}"


def _taken_up(world: World) -> bool:
    """Whether the streams have done with every command that lies in their topic. False while Kafka does not tell."""
    topic, group = f"{world.name}.replays", f"{world.name}-streams"
    consumer = Consumer({"bootstrap.servers": _bootstrap(world), "group.id": group, "enable.auto.commit": False, "log_level": 0})
    try:
        partitions = [TopicPartition(topic, each) for each in consumer.list_topics(topic, timeout=5).topics[topic].partitions]
        ends = [consumer.get_watermark_offsets(each, timeout=5)[1] for each in partitions]
        return all(each.offset >= end for each, end in zip(consumer.committed(partitions, timeout=5), ends, strict=True) if end)
    except KafkaException:
        return False
    finally:
        consumer.close()


def _asked(world: World, *words: str) -> dict[str, Any]:
    """What the command told. Raises Missed when it could not be asked now, Broken when it was refused."""
    said = f"concord {' '.join(words)}"
    try:
        status, told = world.concord.ask(*words, seconds=60)
    except subprocess.TimeoutExpired as error:
        raise Missed(f"{said} is not done after {error.timeout:.0f} s") from None
    if status == 2 or told.get("state") == "replaced":
        raise Missed(f"{said}: {told.get('error') or told.get('state')}")
    if status and told.get("state") not in ("waiting", "asked", "queued", "reading"):
        raise Broken(f"{said} ended with {status}: {told}")
    return told
