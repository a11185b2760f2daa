"""Says when a new version of Faust or aiokafka has moved what the transport overrides or leans on.

Each function and class named here was read and relied upon; `guard.json` has the hash of its source as it was then. After an upgrade:
read what this test names, adjust the transport, run its tests (the model, the broker, the crash), then

    python tests/streams/test_guard.py --accept
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import inspect
import json
import sys
from pathlib import Path
from typing import Any

ACCEPTED = Path(__file__).with_name("guard.json")
PACKAGES = ("faust-streaming", "aiokafka", "mode-streaming")

#: module: what of it is overridden (`streams.transport`, `streams.chunks_*`), called, or must go on behaving as it does.
LEANS_ON = {
    "faust.transport.consumer": """
        Consumer._drain_messages Consumer.perform_seek Consumer.resume_flow Consumer.stop_flow Consumer.pause_partitions
        Consumer.resume_partitions Consumer._get_active_partitions Consumer._set_active_tps Consumer.on_partitions_revoked
        Consumer.on_partitions_assigned Consumer.wait_empty Consumer.on_stop Consumer._commit_handler Consumer._commit_livelock_detector
        Consumer.verify_all_partitions_active Consumer.commit Consumer.force_commit Consumer.commit_and_end_transactions
        Consumer.maybe_wait_for_commit_to_finish Consumer._commit_tps Consumer._filter_committable_offsets
        Consumer._filter_tps_with_pending_acks Consumer._should_commit Consumer._new_offset Consumer._handle_attached
        Consumer._commit_offsets Consumer._is_changelog_tp ThreadDelegateConsumer ConsumerThread.on_partitions_revoked
        ConsumerThread.on_partitions_assigned Fetcher""",
    "faust.transport.drivers.aiokafka": """
        ConsumerRebalanceListener Consumer._new_consumer_thread Consumer.on_stop AIOKafkaConsumerThread.__post_init__
        AIOKafkaConsumerThread.on_start AIOKafkaConsumerThread.on_thread_stop
        AIOKafkaConsumerThread._commit
        AIOKafkaConsumerThread.assignment ensure_aiokafka_TP Transport._create_topic Transport._really_create_topic""",
    "faust.transport.conductor": """
        Conductor._subscriber Conductor._update_indices Conductor.add""",
    "faust.tables.recovery": """
        Recovery._restart_recovery Recovery._resume_streams Recovery._slurp_changelogs Recovery.on_recovery_completed
        Recovery._set_recovery_started Recovery._set_recovery_ended Recovery.on_rebalance Recovery._add Recovery.revoke
        Recovery._build_highwaters Recovery._build_offsets Recovery._seek_offsets Recovery.need_recovery Recovery.flush_buffers""",
    "faust.tables.manager": """
        TableManager.recovery TableManager.on_start TableManager._update_channels TableManager.on_rebalance TableManager.add""",
    "faust.tables.base": """
        Collection.__init__ Collection.on_start Collection.data Collection.persisted_offset Collection.on_recovery_completed
        Collection.on_rebalance Collection._new_changelog_topic Collection._new_store""",
    "faust.tables.table": "Table.__missing__",
    "faust.stores.base": "Store",
    "faust.agents.agent": """
        Agent.__init__ Agent.on_stop Agent.actor_from_stream Agent._start_task Agent._prepare_actor Agent._execute_actor Agent.stream
        Agent.get_topic_names Agent.label""",
    "faust.agents.manager": "AgentManager.on_start AgentManager.on_stop AgentManager.stop",
    "faust.app.base": """
        App.__init__ App._on_partitions_revoked App._on_partitions_assigned App._stop_consumer App._stop_fetcher App._consumer_wait_empty
        App.on_first_start App.on_start App.on_started App.on_stop App.agent App.Table App.topic App._new_transport App._create_directories
        App.on_rebalance_start App.on_rebalance_end""",
    "faust.assignor.partition_assignor": "PartitionAssignor._get_copartitioned_groups PartitionAssignor._perform_assignment",
    "mode.services": "Service.start Service.stop Service.crash ServiceCallbacks.on_shutdown",
    "mode.threads": "ServiceThread",
    "aiokafka.consumer.fetcher": "Fetcher._get_actions_per_node",
    "aiokafka.consumer.consumer": """
        AIOKafkaConsumer.committed AIOKafkaConsumer.beginning_offsets AIOKafkaConsumer.end_offsets AIOKafkaConsumer.assignment
        AIOKafkaConsumer.pause""",
    "aiokafka.consumer.subscription_state": "SubscriptionState.pause SubscriptionState.fetch_context SubscriptionState.fetcher_idle_time",
    "aiokafka.consumer.group_coordinator": "GroupCoordinator._heartbeat_routine GroupCoordinator._on_join_complete",
}


def source_of(module: str, path: str) -> str:
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        found = inspect.getattr_static(found, name)
    if isinstance(found, property):
        found = found.fget
    found = getattr(found, "fun", found)  # a mode ServiceTask
    return inspect.getsource(inspect.unwrap(getattr(found, "__func__", found)))


def hashes() -> dict[str, str]:
    return {
        f"{module}:{path}": hashlib.sha256(source_of(module, path).encode()).hexdigest()[:16]
        for module, paths in LEANS_ON.items()
        for path in paths.split()
    }


def versions() -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in PACKAGES}


def test_what_the_transport_leans_on_is_as_it_was_read() -> None:
    accepted = json.loads(ACCEPTED.read_text())
    now = hashes()
    changed = sorted(name for name in now.keys() | accepted["sources"].keys() if now.get(name) != accepted["sources"].get(name))
    assert not changed, f"read these, then accept ({accepted['versions']} → {versions()}): " + ", ".join(changed)


def test_every_override_is_guarded() -> None:
    """A method of ours that takes the place of one of Faust's is in the list above."""
    from streams import chunks_agent, chunks_table, transport

    guarded = {path for paths in LEANS_ON.values() for path in paths.split()}
    open_ = []
    for module in (transport, chunks_agent, chunks_table):
        for cls in vars(module).values():
            if not inspect.isclass(cls) or cls.__module__ != module.__name__:
                continue
            theirs = [base for base in cls.__mro__[1:] if base.__module__.startswith(("faust.", "mode."))]
            for name, value in vars(cls).items():
                if not (inspect.isfunction(value) or isinstance(value, property)):
                    continue
                owner = next((base for base in theirs if name in vars(base)), None)
                if owner is None or owner.__module__.startswith(("mode.utils", "faust.types")):
                    continue  # the mapping protocol, and interfaces
                if name.startswith("__") and name != "__init__":
                    continue
                if f"{owner.__name__}.{name}" not in guarded and owner.__name__ not in guarded:
                    open_.append(f"{cls.__name__}.{name} over {owner.__module__}:{owner.__name__}.{name}")
    assert not open_


if __name__ == "__main__":
    if sys.argv[1:] != ["--accept"]:
        sys.exit("usage: test_guard.py --accept")
    ACCEPTED.write_text(json.dumps({"versions": versions(), "sources": hashes()}, indent=1, sort_keys=True) + "\n")
