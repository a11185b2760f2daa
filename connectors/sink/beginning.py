"""A sink that is behind in a golden topic goes on with the last record of each thing.

That the last record of a thing says it all is what a compacted topic promises, and what is before it may be compacted away at any time. A
sink that has lost what it knew (`concord.progress`, and with it perhaps the crosswalk) must not live through the history again: the
record of a birth would make the row a second time where nothing but the crosswalk says that it is there. How far behind it is does not
matter: who was interrupted in catching up, or shares the work with another worker, goes on in the same way.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.errors import Retriable

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0

Place = tuple[str, int]  # (topic, partition)


@dataclass(frozen=True, slots=True)
class _Read:
    end: int  # what is behind it is read as it comes
    last: Mapping[bytes | None, int]  # key → offset of its last record


class Beginning:
    """What of that which some partitions hold now is not the last of its key."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._read: dict[Place, _Read] = {}

    def look(self, places: Mapping[Place, int]) -> None:
        """Reads the keys from these offsets on, once. Some hundred bytes of memory a thing that is behind. Raises Retriable."""
        self._read = {}
        consumer = Consumer(
            {
                **self._settings,
                "group.id": "unused",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
            },
            logger=logger,
        )
        try:
            for place, stored in places.items():
                low, high = consumer.get_watermark_offsets(TopicPartition(*place), ANSWER_SECONDS)
                if (start := max(low, stored)) < high:
                    self._read[place] = _Read(high, self._last(consumer, place, start, high))
        except KafkaException as error:
            raise Retriable(f"reading where to begin: {error.args[0]}") from error
        finally:
            consumer.close()

    @staticmethod
    def _last(consumer: Consumer, place: Place, start: int, end: int) -> dict[bytes | None, int]:
        last: dict[bytes | None, int] = {}
        consumer.assign([TopicPartition(*place, start)])
        while True:
            first = consumer.poll(ANSWER_SECONDS)
            if first is None:
                raise Retriable(f"reading where to begin in {place[0]}/{place[1]}: no answer within {ANSWER_SECONDS:g} s")
            for message in (first, *consumer.consume(1_000, 0)):
                problem, offset = message.error(), message.offset() or 0
                if problem is not None and problem.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(problem)
                if problem is None and offset < end and message.value() is not None:  # a tombstone says no more than the record before it
                    last[message.key()] = offset
                if problem is not None or offset + 1 >= end:
                    return last

    def is_overtaken(self, place: Place, offset: int, key: bytes | None) -> bool:
        """Whether a later record of the thing was there already."""
        read = self._read.get(place)
        return read is not None and offset < read.end and read.last.get(key, offset) > offset

    def passed(self, place: Place, offset: int) -> None:
        """The sink has come so far there: what is not asked about any more is forgotten."""
        read = self._read.get(place)
        if read is not None and offset >= read.end:
            del self._read[place]
