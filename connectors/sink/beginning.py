"""A sink that begins at the beginning of a golden topic, with the last record of each thing.

That the last record of a thing says it all is what a compacted topic promises, and what is before it may be compacted away at any time. A
sink that has lost what it knew (`concord.progress`, and with it perhaps the crosswalk) must not live through the history again: the
record of a birth would make the row a second time where nothing but the crosswalk says that it is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.errors import Retriable

ANSWER_SECONDS = 10.0

Place = tuple[str, int]  # (topic, partition)


@dataclass(frozen=True, slots=True)
class _Read:
    end: int  # what is behind it is read as it comes
    last: Mapping[int, int]  # hash of a key → offset of its last record


class Beginning:
    """What of some partitions' present content is not the last of its key. Two keys of one hash: both are read as they come."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._read: dict[Place, _Read] = {}

    def look(self, places: Iterable[Place]) -> None:
        """Reads these partitions' keys, once. Some hundred bytes of memory a thing, until the sink has passed them. Raises Retriable."""
        self._read = {}
        consumer = Consumer(
            {
                **self._settings,
                "group.id": "unused",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
            }
        )
        try:
            for place in places:
                low, high = consumer.get_watermark_offsets(TopicPartition(*place), ANSWER_SECONDS)
                if low < high:
                    self._read[place] = _Read(high, self._last(consumer, place, high))
        except KafkaException as error:
            raise Retriable(f"reading where to begin: {error.args[0]}") from error
        finally:
            consumer.close()

    @staticmethod
    def _last(consumer: Consumer, place: Place, end: int) -> dict[int, int]:
        last: dict[int, int] = {}
        consumer.assign([TopicPartition(*place, 0)])
        while True:
            first = consumer.poll(ANSWER_SECONDS)
            if first is None:
                raise Retriable(f"reading where to begin in {place[0]}/{place[1]}: no answer within {ANSWER_SECONDS:g} s")
            for message in (first, *consumer.consume(1_000, 0)):
                problem, offset = message.error(), message.offset() or 0
                if problem is not None and problem.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(problem)
                if problem is None and offset < end:
                    last[hash(message.key())] = offset
                if problem is not None or offset + 1 >= end:
                    return last

    def is_overtaken(self, place: Place, offset: int, key: bytes | None) -> bool:
        """Whether a later record of the thing was there already."""
        read = self._read.get(place)
        if read is None:
            return False
        if offset >= read.end:
            del self._read[place]
            return False
        return read.last.get(hash(key), offset) > offset
