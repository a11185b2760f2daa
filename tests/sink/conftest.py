"""The world of `sink_world` on each of the two PostgreSQL servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sink.sink_world import World, a_suffix


@pytest.fixture(params=["database", "database_2"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(request.getfixturevalue(request.param), a_suffix())
    yield made
    made.close()
