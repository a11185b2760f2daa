"""What an operator does while everything runs."""

from __future__ import annotations

import subprocess
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.chaos.faults.plan import SYSTEMS, Fault
from tests.chaos.faults.world import Broken, Missed, World, seen


def set_offsets_back(world: World, fault: Fault) -> str:
    """As an operator would: stop, set the groups of the streams and of the sinks back, start."""
    with world.lock("supervisor"):
        world.concord.down()
        try:
            groups = [f"{world.name}-streams", *(f"{world.name}-sink-{system}" for system in SYSTEMS)]
            return f"{sum(_set_back(world, group) for group in groups)} records are read again"
        finally:
            world.up()


def _set_back(world: World, group: str) -> int:
    """How many records lie between where the group was and the start."""
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{world.servers.ports['kafka']}", "log_level": 0})
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
    told = _asked(world, "snapshot", fault.target, fault.what)
    return f"{fault.target}.{fault.what} was read again: {told.get('rows')} rows"


def replay(world: World, fault: Fault) -> str:
    told = _asked(world, "replay", fault.target, "--from", fault.what)
    if not told.get("records"):
        raise Missed(f"nothing was captured from {fault.target} within {fault.what}")
    return f"{told['records']} records of {fault.target} are read again, from {fault.what}"


def _asked(world: World, *words: str) -> dict[str, Any]:
    """What the command told. Raises Missed when it could not be asked or nobody comes to it now, Broken when it was refused."""
    said = f"concord {' '.join(words)}"
    try:
        status, told = world.concord.ask(*words)
    except subprocess.TimeoutExpired as error:
        raise Missed(f"{said} is not done after {error.timeout:.0f} s") from None
    if status == 2 or told.get("state") in ("waiting", "replaced", "asked", "queued", "reading"):
        raise Missed(f"{said}: {told.get('error') or told.get('state')}")
    if status:
        raise Broken(f"{said} ended with {status}: {told}")
    return told
