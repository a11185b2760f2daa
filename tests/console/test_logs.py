"""What is logged, and how often."""

from __future__ import annotations

import logging

import pytest

from console.logs import LIBRDKAFKA, REPEAT_SECONDS, Repeats


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def heard(repeats: Repeats, name: str, message: str, *args: object) -> str | None:
    record = logging.LogRecord(name, logging.ERROR, "", 0, message, args, None)
    return record.getMessage() if repeats.filter(record) else None


def test_a_library_that_repeats_itself_is_heard_once_and_then_says_how_often(clock: Clock) -> None:
    repeats = Repeats(clock)
    assert heard(repeats, "aiokafka", "Unable connect to node with id %s", 1) == "Unable connect to node with id 1"
    for number in range(200):
        assert heard(repeats, "aiokafka", "Unable connect to node with id %s", number) is None
    assert heard(repeats, "aiokafka.consumer", "another thing") == "another thing"
    clock.now = REPEAT_SECONDS
    assert heard(repeats, "aiokafka", "Unable connect to node with id 1") == "Unable connect to node with id 1 (200 more like it in 10 s)"
    clock.now = 2 * REPEAT_SECONDS
    assert heard(repeats, "aiokafka", "Unable connect to node with id 1") == "Unable connect to node with id 1"


def test_librdkafkas_lines_are_held_back_through_whatever_logger_they_come(clock: Clock) -> None:
    repeats = Repeats(clock)
    assert heard(repeats, "connectors.sink.connector", LIBRDKAFKA, "FAIL", "consumer-2", "after 11 ms") is not None
    assert heard(repeats, "connectors.sink.connector", LIBRDKAFKA, "FAIL", "consumer-2", "after 12 ms") is None


def test_our_own_lines_always_come_through(clock: Clock) -> None:
    repeats = Repeats(clock)
    assert [heard(repeats, "connectors.sink.connector", "dead letter %s", number) for number in range(2)] == [
        "dead letter 0",
        "dead letter 1",
    ]


def test_what_is_remembered_has_a_bound(clock: Clock) -> None:
    repeats = Repeats(clock)
    for number in range(2000):
        assert heard(repeats, "faust", f"{'x' * number}") is not None
    assert len(repeats._kinds) <= 500
