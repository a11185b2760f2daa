"""Which records of a golden topic a later one of the same thing has overtaken, for a sink that is behind."""

from __future__ import annotations

from confluent_kafka import Producer

from connectors.sink.beginning import Beginning
from tests.services import MakeTopic


def test_only_the_last_record_of_each_thing_that_is_behind_counts(kafka: str, make_topic: MakeTopic) -> None:
    place = (make_topic("golden"), 0)
    producer = Producer({"bootstrap.servers": kafka})
    for key, value in ((b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"b", None), (b"c", b"1")):
        producer.produce(place[0], value, key, partition=0)
    assert producer.flush(30) == 0
    beginning = Beginning({"bootstrap.servers": kafka})
    beginning.look({place: 0})
    assert [beginning.is_overtaken(place, offset, key) for offset, key in enumerate((b"a", b"b", b"a", b"b", b"c"))] == [
        True,
        False,  # the tombstone after it says no more than it does
        False,
        False,
        False,
    ]
    assert not beginning.is_overtaken(place, 5, b"a"), "it came after the look"
    assert beginning.is_overtaken(place, 0, b"a"), "a batch that is tried again is judged as before"
    beginning.passed(place, 2)
    assert beginning.is_overtaken(place, 0, b"a"), "two workers, or a restart: still in the midst of it"
    beginning.look({place: 1})  # what was applied is not looked at again
    assert not beginning.is_overtaken(place, 2, b"a")
    beginning.passed(place, 5)
    assert not beginning.is_overtaken(place, 0, b"a")
