"""Replays: captured topics are read again from an older offset on, because an operator says so. One agent for the pipeline.

    concord replay ──▶ <pipeline>.replays, in the partition that is meant ──▶ this agent

The worker that has a partition of one topic has it of all, so this agent can set back what its own worker reads and has committed. What is
read again goes the way of all events: every step ignores what is not newer, merge tells again what stands (`streams.restated`), and sinks
write what is missing. A command that comes twice sets back twice, which costs time only.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any, cast

from schemas import topics
from schemas.errors import SchemaError
from schemas.mapping import Pipeline
from schemas.replay import decode_replay
from streams.transport import Chunk, ChunkApp, UnfitTopics

logger = logging.getLogger(__name__)


class Replays:
    """The agent of `<pipeline>.replays`."""

    def __init__(self, app: ChunkApp, pipeline: Pipeline) -> None:
        self._app = app
        self._captured = {
            topics.captured(system, table.schema, table.name) for system in pipeline.systems for table in pipeline.captured(system)
        }
        app.agent(app.chunk_topic(topics.replays(pipeline.config.name)), name="replays")(cast(Any, self.run))

    async def run(self, chunks: AsyncIterator[Chunk]) -> None:
        async for chunk in chunks:
            for record in chunk:
                try:
                    replay = decode_replay(record.value)
                    if replay.topic not in self._captured:
                        raise SchemaError(f"{replay.topic!r} is no captured topic of this pipeline")
                    went = await self._app.rewind(replay.topic, chunk.partition, replay.offset)
                except (SchemaError, UnfitTopics) as error:  # nothing of a customer's is lost with it
                    logger.error("%s/%d@%d cannot be replayed: %s", record.topic, record.partition, record.offset, error)
                else:
                    place = f"{replay.topic}/{chunk.partition}"
                    logger.warning(
                        "%s is read again from offset %d, as %s asked%s",
                        place,
                        replay.offset,
                        replay.by,
                        "" if went else ": it stood there",
                    )
