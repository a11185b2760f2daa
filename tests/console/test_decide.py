"""`concord dead retry` and `discard` where no part runs: which letters are meant, and which cannot be tried."""

from __future__ import annotations

from confluent_kafka import Producer

from schemas import topics
from schemas.dead import DEAD_SCHEMA, DeadLetter, Where
from schemas.registry import open_registry
from schemas.serde import Codec
from tests.console.console_fixtures import World, world

__all__ = ["world"]


def a_sinks_letter(world: World, link: str, code: str = "22001", entity: str | None = None) -> None:
    world.do(
        world.erp,
        'INSERT INTO concord.dead_letter (entity, link, topic, partition, "offset", record, error, code) '
        "VALUES (%s, %s, 'golden.x', 1, 7, 'rubbish', 'too long', %s)",
        entity or world.customer,
        link,
        code,
    )


def of_streams(world: World, *letters: DeadLetter | bytes) -> None:
    registry = open_registry(world.config.kafka, world.config.registry)
    encode = Codec(registry).encoder(topics.dead(world.crm), DEAD_SCHEMA)
    producer = Producer({"bootstrap.servers": world.kafka})
    for letter in letters:
        producer.produce(topics.dead(world.crm), letter if isinstance(letter, bytes) else encode(letter.to_avro()), partition=0)
    assert producer.flush(10) == 0
    registry.close()


def became(world: World, *command: str) -> dict[str, str]:
    _, told = world.concord("dead", *command)
    return {one["id"].removeprefix(world.name): one["became"] for one in told["letters"]}


def test_which_letters_are_meant_must_be_said(world: World) -> None:
    world.prepare()
    for words in ([], ["erp:1", "--all"], ["--all", "--code", "1"], ["erp:1", "--entity", "x"]):
        assert world.run("dead", "retry", *words).exit_code == 2
    assert world.run("dead", "discard", "--all").exit_code == 2, "why it is discarded must be said"
    assert world.concord("dead", "retry", "--all") == (0, {"letters": []})


def test_letters_are_meant_that_fit_all_that_is_asked_for(world: World) -> None:
    world.prepare(topics=True)
    a_sinks_letter(world, "l:1")
    a_sinks_letter(world, "l:2", code="23514")
    a_sinks_letter(world, "l:3", entity=world.contact)
    assert became(world, "discard", "--code", "22001", "--entity", world.customer, "--reason", "x") == {"_e:1": "discarded"}
    assert became(world, "discard", "--link", "l:3", "--reason", "x") == {"_e:3": "discarded"}
    assert became(world, "discard", "--system", world.crm, "--reason", "x") == {}
    assert became(world, "discard", "--all", "--reason", "x") == {"_e:2": "discarded"}
    assert world.concord("dead", "list") == (0, {"dead": []})
    decided = world.concord("dead", "list", "--decided")[1]["dead"]
    assert [(one["link"], one["decision"]["reason"]) for one in decided] == [("l:1", "x"), ("l:3", "x"), ("l:2", "x")]


def test_what_nobody_can_read_is_refused_and_can_be_discarded(world: World) -> None:
    world.prepare()
    a_sinks_letter(world, "l:1")
    gone = DeadLetter(world.customer, None, f"{topics.claims(world.customer)}", 0, 99, b"k", b"v", "?", "X", Where.INTAKE)
    too_large = DeadLetter(None, None, f"{world.crm}.public.account", -1, -1, b"no key", None, "too large", "X", Where.SOURCE)
    of_streams(world, b"rubbish", gone, too_large)
    refused = {"_e:1": "refused", "_c@0/0": "refused", "_c@0/1": "refused", "_c@0/2": "refused"}
    assert became(world, "retry", "--all") == refused
    assert len(world.concord("dead", "list")[1]["dead"]) == 4
    assert set(became(world, "discard", "--all", "--reason", "rubbish").values()) == {"discarded"}
    assert world.concord("dead", "list") == (0, {"dead": []})
    assert world.concord("status")[1]["systems"][world.crm]["dead"] == 0


def test_a_record_that_fails_again_after_it_was_discarded_is_a_letter_again(world: World) -> None:
    world.prepare()
    letter = DeadLetter(world.customer, None, f"{world.crm}.public.account", 0, 7, b"k", b"v", "bad", "X", Where.INTAKE)
    of_streams(world, letter, letter)
    (told,) = world.concord("dead", "list")[1]["dead"]
    assert told["times"] == 2
    assert became(world, "discard", told["id"], "--reason", "x") == {"_c@0/0": "discarded"}
    assert world.concord("dead", "list") == (0, {"dead": []})
    of_streams(world, DeadLetter(world.customer, None, f"{world.crm}.public.account", 0, 7, b"k", b"v", "bad", "X", Where.INTAKE))
    assert [one["id"].removeprefix(world.name) for one in world.concord("dead", "list")[1]["dead"]] == ["_c@0/2"]
