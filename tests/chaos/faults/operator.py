"""What an operator does while everything runs."""

from __future__ import annotations

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
            admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, start)])[group].result(20)
        except KafkaException as error:
            if error.args[0].code() not in (KafkaError.NON_EMPTY_GROUP, KafkaError.UNKNOWN_MEMBER_ID):
                raise
            return False  # a member that was killed is still counted until its session has ended
        return True

    if not seen(altered, 30):
        raise Missed(f"group {group} still has members")
    back = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(20).topic_partitions
    if any(each.offset for each in back):
        raise Missed(f"group {group} did not go back")
    return sum(max(each.offset, 0) for each in known)


def snapshot(world: World, fault: Fault) -> str:
    status, told = world.concord.ask("snapshot", fault.target, fault.table)
    if status == 2 or told.get("state") in ("waiting", "replaced"):
        raise Missed(f"concord snapshot {fault.target} {fault.table}: {told.get('error') or told.get('state')}")
    if status:
        raise Broken(f"concord snapshot {fault.target} {fault.table} ended with {status}: {told}")
    return f"{fault.target}.{fault.table} read again: {told.get('rows')} rows"
