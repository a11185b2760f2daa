"""The worlds of `streams_world` and `joined_world`, each on both PostgreSQL servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.streams.joined_world import JoinedWorld
from tests.streams.streams_world import StreamsWorld


@pytest.fixture
def world(kafka: str, database: str, database_2: str, tmp_path: Path) -> Iterator[StreamsWorld]:
    made = StreamsWorld(kafka, database, database_2, tmp_path)
    yield made
    made.close()


@pytest.fixture
def joined(kafka: str, database: str, database_2: str, tmp_path: Path) -> Iterator[JoinedWorld]:
    made = JoinedWorld(kafka, database, database_2, tmp_path)
    yield made
    made.close()
