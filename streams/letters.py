"""Dead letters of the streams: what cannot be handled as it is goes to `dead.<system>` with its reason, and the rest goes on (I8)."""

from __future__ import annotations

import logging

from schemas import topics
from schemas.dead import DEAD_SCHEMA, DeadLetter, Where
from schemas.errors import Refused
from schemas.mapping import Pipeline
from schemas.metrics import EVENTS, State
from schemas.serde import Codec
from streams.metrics import PART, Ends
from streams.transport import ChunkApp, Output, Record

logger = logging.getLogger(__name__)


class DeadLetters:
    """Writes dead letters; takes over the records that keep failing an agent (`ChunkApp.on_poison`)."""

    def __init__(self, app: ChunkApp, pipeline: Pipeline, codec: Codec) -> None:
        self._app = app
        self._pipeline = pipeline
        self._encode = {system: codec.encoder(f"{topics.dead(system)}-value", DEAD_SCHEMA) for system in pipeline.systems}

    def output(
        self,
        record: Record,
        error: Exception | str,
        where: Where,
        system: str,
        entity: str | None = None,
        link: str | None = None,
        *,
        with_value: bool = True,
    ) -> Output:
        """The record to send. `error`: what is wrong, for a person."""
        code = type(error).__name__ if isinstance(error, Exception) else "Unhandled"
        letter = DeadLetter(
            entity=entity,
            link=link,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=record.key,
            value=record.value if with_value else None,
            error=str(error),
            code=code,
            where=where,
        )
        key = link.encode() if link else record.key
        return Output(topics.dead(system), key, self._encode[system](letter.to_avro()))

    def bury(self, record: Record, error: Exception, system: str, entity: str | None, outputs: list[Output], ends: Ends) -> None:
        """The record is a dead letter, and the end of it is counted. What has come as far as merge says so itself."""
        outputs.append(self.output(record, error, Where.INTAKE, system, entity))
        ends[system, entity or "", State.DEAD] += 1
        ends.example(State.DEAD, named(record, error))

    async def poison(self, agent: str, record: Record, error: Exception) -> None:
        """A record that failed an agent again and again by itself, for a reason nobody foresaw."""
        system, entity = self._about(record.topic)
        where = Where.MERGE if record.topic.startswith("changes.") else Where.INTAKE
        try:
            await self._app.deliver([self.output(record, error, where, system, entity)])
        except Refused as refused:  # too large, most likely: then without the value, it is still in its topic
            told = f"{error} (the value, {len(record.value or b'')} bytes, is left out: {refused})"
            await self._app.deliver([self.output(record, told, where, system, entity, with_value=False)])
        EVENTS.labels(PART, system, entity or "", State.DEAD.value).inc()
        logger.warning("a record that kept failing %s is a dead letter: %s", agent, named(record, error))

    def _about(self, topic: str) -> tuple[str, str | None]:
        """The system whose dead letters a topic's records belong to, and the entity."""
        for name, entity in self._pipeline.entities.items():
            if topic in (topics.claims(name), topics.changes(name)):
                return entity.systems[0], name
        for system in self._pipeline.systems:
            if topic.startswith((f"{system}.", f"links.{system}.", f"join.{system}.")):
                return system, None
        return self._pipeline.systems[0], None


def named(record: Record, error: Exception) -> str:
    """A dead record for a log line: not the error's text, which may hold values of the row; the dead letter has it."""
    return f"{record.topic}/{record.partition}@{record.offset} ({type(error).__name__})"
