"""Tables of the streams: a dict per partition in memory, its changelog in a compacted topic of Kafka.

A change is staged with the chunk that makes it and goes to the changelog when the chunk is finished: the last value per key, in the
partition of the chunk (so all topics of an agent must be co-partitioned), delivered before the chunk is acked (I9). A chunk that fails
leaves no trace. Keys are text. Values are whatever `encode` can write and `decode` can read, JSON by default.

In memory a value is held as it stands in the changelog, in bytes: half of what it takes as objects, and nothing in it for the garbage
collector to walk through (a full collection over 40,000 links as objects took 1.5 s). Whoever gets a value gets one of his own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Generic, TypeVar, cast

import orjson
from faust.stores.base import Store
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.tables.table import Table
from faust.types import TP, AppT
from mode import Service

from streams.chunks import FAUST_LOGGER, Chunk, Forgotten, current_chunk
from streams.producer import Delivered, Output

logger = logging.getLogger(__name__)

V = TypeVar("V")
MISSING: Any = object()

#: Recovery reads a changelog from its start, and the newest segment is never compacted: small segments, compacted early.
CHANGELOG_CONFIG = {"segment.bytes": str(32 << 20), "min.cleanable.dirty.ratio": "0.1"}


class _NoStore(Store[Any, Any]):
    """What Faust starts, stops and tells about rebalances: the table itself holds the data."""

    logger = FAUST_LOGGER

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.data: dict[Any, Any] = {}

    def apply_changelog_batch(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError

    def reset_state(self) -> None: ...

    async def backup_partition(self, *args: Any, **kwargs: Any) -> None: ...

    def restore_backup(self, *args: Any, **kwargs: Any) -> None: ...


class ChunkTable(Table[str, V], Generic[V]):
    """Within a chunk: the mapping of the chunk's partition. Outside of one: all partitions, to look at only."""

    logger = FAUST_LOGGER

    def __init__(
        self,
        app: AppT,
        *,
        encode: Callable[[V], bytes] = orjson.dumps,
        decode: Callable[[bytes], V] = orjson.loads,
        **kwargs: Any,
    ) -> None:
        kwargs["extra_topic_configs"] = {**CHANGELOG_CONFIG, **(kwargs.get("extra_topic_configs") or {})}
        super().__init__(app, **kwargs)
        self.encode, self.decode = encode, decode
        self._partitions: dict[int, dict[str, bytes]] = {}
        self._offsets: dict[int, int] = {}  # partition → all of the changelog up to this offset is in memory

    # the mapping --------------------------------------------------------------------------------------------------------------------

    def partition(self, partition: int) -> dict[str, V]:
        """What is held of one partition."""
        return {key: self.decode(value) for key, value in self._partitions.get(partition, {}).items()}

    def _hold(self, partition: int) -> dict[str, bytes]:
        held = self._partitions.get(partition)
        if held is None:
            held = self._partitions[partition] = self._empty()
        return held

    def _empty(self) -> dict[str, bytes]:
        return {}

    def _visible(self) -> dict[str, bytes]:
        chunk = current_chunk.get()
        if chunk is not None:
            return self._partitions.get(chunk.partition, {})
        if len(self._partitions) == 1:
            return next(iter(self._partitions.values()))
        return {key: value for held in self._partitions.values() for key, value in held.items()}

    def _holder(self, key: str) -> dict[str, bytes]:
        chunk = current_chunk.get()
        if chunk is not None:
            return self._partitions.get(chunk.partition, {})
        return next((held for held in self._partitions.values() if key in held), {})

    def __getitem__(self, key: str) -> V:
        value = self._holder(key).get(key)
        return self.__missing__(key) if value is None else self.decode(value)

    def get(self, key: str, default: Any = None) -> Any:
        value = self._holder(key).get(key)
        return default if value is None else self.decode(value)

    def __contains__(self, key: object) -> bool:
        return key in self._holder(cast(str, key))

    def __setitem__(self, key: str, value: V) -> None:
        encoded = self.encode(value)
        held = self._staging(key)
        held[key] = encoded

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        held = self._staging(key)
        del held[key]

    def _staging(self, key: str) -> dict[str, bytes]:
        chunk = current_chunk.get()
        if chunk is None:
            raise RuntimeError(f"table {self.name!r} can only be changed while an agent works on a chunk")
        if chunk.stale:
            raise Forgotten(repr(chunk))
        held = self._hold(chunk.partition)
        chunk.changes.setdefault((self, key), held.get(key, MISSING))
        return held

    def undo(self, partition: int, key: str, old: Any) -> None:
        """Put back what was there before a chunk changed it."""
        held = self._partitions.get(partition)
        if held is None:
            return  # the partition was given away meanwhile
        if old is MISSING:
            held.pop(key, None)
        else:
            held[key] = old

    def pop(self, key: str, default: Any = MISSING) -> Any:
        value = self._holder(key).get(key)
        if value is not None:
            del self[key]
            return self.decode(value)
        if default is MISSING:
            raise KeyError(key)
        return default

    def update(self, *args: Any, **kwargs: V) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def clear(self) -> None:
        for key in list(self):
            del self[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._visible())

    def __len__(self) -> int:
        if current_chunk.get() is not None:
            return len(self._visible())
        return sum(map(len, self._partitions.values()))

    def keys(self) -> KeysView[str]:
        return self._visible().keys()

    def values(self) -> ValuesView[V]:
        return self.copy().values()

    def items(self) -> ItemsView[str, V]:
        return self.copy().items()

    def copy(self) -> dict[str, V]:
        return {key: self.decode(value) for key, value in self._visible().items()}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {len(self)} keys of {len(self._partitions)} partitions>"

    # the changelog ------------------------------------------------------------------------------------------------------------------

    def _new_store(self) -> _NoStore:
        return _NoStore("memory://", self.app, self, table_name=self.name)

    def change(self, key: str, partition: int) -> Output:
        """The changelog record for what `key` is now."""
        return Output(self.changelog_topic_name, key.encode(), self._partitions[partition].get(key), partition)

    def flushed(self, partition: int, delivered: Delivered) -> None:
        """Our own changes are in the changelog; if nobody else's came between, they need not be read again after a rebalance."""
        if delivered.contiguous and delivered.first == self._offsets.get(partition, -1) + 1:
            self._offsets[partition] = delivered.last

    def recover(self, partition: int, records: Iterable[Any]) -> None:
        """Apply changelog records, in order."""
        held, decode = self._hold(partition), self.decode
        offset = None
        for record in records:
            offset = record.offset
            try:
                if record.value is None:
                    held.pop(record.key.decode(), None)
                else:
                    decode(record.value)
                    held[record.key.decode()] = record.value
            except (ValueError, TypeError, AttributeError, LookupError) as exc:  # not ours: it says nothing about any key
                logger.error(
                    "%s/%d@%d is no entry of table %r, passed over (%s)", record.topic, partition, offset, self.name, type(exc).__name__
                )
        if offset is not None:
            self._offsets[partition] = max(offset, self._offsets.get(partition, -1))

    def persisted_offset(self, tp: TP) -> int | None:
        return self._offsets.get(tp.partition)

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0) -> None:
        # Here, not when recovery is completed as Faust's memory store does: a recovery that is overtaken by the next rebalance
        # would drop by one assignment what was restored by another.
        kept = {tp.partition for tp in assigned if tp.topic == self.changelog_topic_name}
        for partition in self._partitions.keys() - kept:
            del self._partitions[partition]
        for partition in self._offsets.keys() - kept:
            del self._offsets[partition]
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)


class Grouped(dict[str, bytes]):
    """A dict that finds the entries of a group: those whose keys are `group␀member`, no further NUL in `member`."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: dict[str, dict[str, bytes]] = {}

    def __setitem__(self, key: str, value: bytes) -> None:
        super().__setitem__(key, value)
        group, nul, member = key.rpartition("\0")
        if nul:
            self.groups.setdefault(group, {})[member] = value

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        group, nul, member = key.rpartition("\0")
        if nul:
            members = self.groups[group]
            del members[member]
            if not members:
                del self.groups[group]

    def pop(self, key: str, *default: Any) -> Any:
        if key not in self:
            return super().pop(key, *default)
        value = self[key]
        del self[key]
        return value


class GroupedTable(ChunkTable[bytes]):
    """A table whose entries may be members of groups, so that a large group need not be one value. Values are bytes as they are."""

    def __init__(self, app: AppT, **kwargs: Any) -> None:
        super().__init__(app, encode=bytes, decode=bytes, **kwargs)

    def _empty(self) -> dict[str, bytes]:
        return Grouped()

    def members(self, group: str) -> Mapping[str, bytes]:
        """Of the chunk's partition; not to be changed, and gone with the next change."""
        chunk = current_chunk.get()
        held = self._partitions.get(chunk.partition) if chunk is not None else None
        return held.groups.get(group, {}) if isinstance(held, Grouped) else {}


class ChunkRecovery(Recovery):
    """Changelog records are applied a fetched run at a time by the consumer's drain loop, not one by one from a queue."""

    logger = FAUST_LOGGER

    def _set_recovery_started(self) -> None:
        super()._set_recovery_started()
        self.signal_recovery_end.clear()  # else the end of the previous recovery ends this one too, with partitions not restored

    def _add(self, table: Any, tp: TP, offsets: Any) -> None:
        self.tp_to_table[tp] = table
        offsets[tp] = table.persisted_offset(tp)  # the table knows what it holds; Faust goes by what recovery once read

    @Service.task
    async def _slurp_changelogs(self) -> None:
        """Replaced by `apply`."""

    def _offsets_of(self, tp: TP) -> Any:
        return self.active_offsets if tp in self.active_tps else self.standby_offsets if tp in self.standby_tps else None

    def start_offset(self, tp: TP) -> int | None:
        """Where to read a changelog partition from; None if it is not ours."""
        offsets = self._offsets_of(tp)
        return None if offsets is None else (-1 if offsets[tp] is None else offsets[tp]) + 1

    def apply(self, tp: TP, records: list[Any]) -> None:
        table, offsets = self.tp_to_table.get(tp), self._offsets_of(tp)
        if table is None or offsets is None:
            return
        cast("ChunkTable[Any]", table).recover(tp.partition, records)
        self.reached(tp, records[-1].offset)

    def reached(self, tp: TP, offset: int) -> None:
        """All of a changelog partition up to `offset` is in memory."""
        offsets = self._offsets_of(tp)
        if offsets is None:
            return
        offsets[tp] = offset
        if self.in_recovery and not self.need_recovery():
            self._set_recovery_ended()
            self.signal_recovery_end.set()
        if self.standby_tps and not self.tables.standbys_ready and not self.standby_remaining_total():
            self.tables.on_standbys_ready()


class ChunkTableManager(TableManager):
    logger = FAUST_LOGGER

    @property
    def recovery(self) -> ChunkRecovery:
        if self._recovery is None:
            self._recovery = ChunkRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return cast(ChunkRecovery, self._recovery)

    async def on_start(self) -> None:
        # Faust sleeps a second here for agents to start; the boot order starts them before, and the conductor waits for both.
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()


def changelog_records(chunk: Chunk) -> list[Output]:
    """The table changes of a chunk, last value per key."""
    return [cast("ChunkTable[Any]", table).change(key, chunk.partition) for table, key in chunk.changes]
