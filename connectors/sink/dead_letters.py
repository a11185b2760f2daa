"""Dead letters on their way to topic `dead.<system>`.

The row in `concord.dead_letter` is written first, in the batch's transaction, and is the one that counts; the topic is for whoever
listens there. A letter that Kafka does not take is said in the log and still in the table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from connectors.sink.apply import Outcome
from schemas import topics
from schemas.dead import DEAD_SCHEMA, DeadLetter, Where
from schemas.errors import ConcordError
from schemas.serde import Codec

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 10.0


class DeadLetters:
    """Sends them. Connects when there is the first one."""

    def __init__(self, system: str, kafka: Mapping[str, Any], codec: Codec) -> None:
        self._topic = topics.dead(system)
        self._kafka = dict(kafka)
        self._codec = codec
        self._producer: Producer | None = None
        self._encode: Callable[[Any], bytes] | None = None

    def send(self, outcome: Outcome) -> None:
        """Hands over all dead letters of a batch that was committed; does not wait for Kafka."""
        letters = [
            DeadLetter(
                dead.task.record.entity,
                dead.task.record.link,
                dead.task.topic,
                dead.task.partition,
                dead.task.offset,
                dead.task.record.link.encode(),
                dead.task.raw,
                dead.error,
                dead.code,
                Where.SINK,
            )
            for dead in outcome.deads
        ]
        letters += [
            DeadLetter(m.entity, None, m.topic, m.partition, m.offset, m.key, m.value, m.error, m.code, Where.SINK)
            for m in outcome.unreadable
        ]
        for letter in letters:
            self._send(letter)
        if self._producer is not None:
            self._producer.poll(0)

    def _send(self, letter: DeadLetter) -> None:
        try:
            if self._producer is None or self._encode is None:
                self._encode = self._codec.encoder(f"{self._topic}-value", DEAD_SCHEMA)
                room = {"queue.buffering.max.kbytes": 32_768}  # what finds none is in the table only
                self._producer = Producer({**room, **self._kafka, "acks": "all", "enable.idempotence": True}, logger=logger)
            self._producer.produce(self._topic, self._encode(letter.to_avro()), letter.key, on_delivery=_delivered)
        except (ConcordError, KafkaException, BufferError) as error:
            logger.warning("a dead letter is in the table only, topic %s did not take it: %s", self._topic, error)

    def close(self) -> None:
        if self._producer is not None:
            self._producer.flush(FLUSH_SECONDS)


def _delivered(error: KafkaError | None, _: Message) -> None:
    if error is not None:
        logger.warning("a dead letter is in the table only, Kafka did not take it: %s", error)
