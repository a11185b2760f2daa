"""What an operator does to a running pipeline, with the commands as they are typed: dead letters decided on, rows read again."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.pipeline.pipeline_fixtures import RunningPipeline, eventually, running
from tests.services import a_database

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.slow]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, kafka: str, postgres: str, postgres_2: str) -> Iterator[RunningPipeline]:
    with (
        a_database(postgres) as crm,
        a_database(postgres_2) as erp,
        running(tmp_path_factory.mktemp("operator"), "t" + uuid.uuid4().hex[:8], kafka, crm, erp) as pipeline,
    ):
        pipeline.up()
        pipeline.settle()
        yield pipeline


def an_account(pipeline: RunningPipeline, **columns: Any) -> uuid.UUID:
    account = uuid.uuid4()
    told = {"id": account, "name": "Acme", "vat": "V" + account.hex[:12].upper(), **columns}
    pipeline.do("crm", f"INSERT INTO account ({', '.join(told)}) VALUES ({', '.join('%s' for _ in told)})", *told.values())
    return account


def partner(pipeline: RunningPipeline, account: uuid.UUID, column: str = "legal_name") -> Any:
    return pipeline.one("erp", f"SELECT {column} FROM partner WHERE tax_id = %s", "V" + account.hex[:12].upper())


def letters(pipeline: RunningPipeline, *options: str) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = pipeline.concord("dead", "list", *options, expect=None)["dead"]
    return told


def the_letter(pipeline: RunningPipeline, about: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    found: dict[str, Any] = eventually(lambda: next(filter(about, letters(pipeline)), None))
    return found


def became(told: dict[str, Any]) -> dict[str, str]:
    return {one["id"]: one["became"] for one in told["letters"]}


# --- dead letters: the sink's -----------------------------------------------------------------------------------------------------


def test_a_sinks_letter_is_tried_again_and_it_is_said_what_became_of_it(pipeline: RunningPipeline) -> None:
    poison = an_account(pipeline, city="Atlantis")  # the ERP's CHECK refuses it
    letter = the_letter(pipeline, lambda one: one["link"] == f"crm:{poison}")
    told = pipeline.concord("dead", "retry", letter["id"], expect=1)
    assert became(told) == {letter["id"]: "dead"}
    assert "partner_town_check" in told["letters"][0]["why"]
    assert next(one["times"] for one in letters(pipeline) if one["id"] == letter["id"]) == 2
    pipeline.do("erp", "ALTER TABLE partner DROP CONSTRAINT partner_town_check")
    told = pipeline.concord("dead", "retry", "--entity", "customer", "--code", "23514", "--reason", "the check is gone")
    assert became(told) == {letter["id"]: "applied"}
    assert partner(pipeline, poison, "town") == "Atlantis"
    assert pipeline.one("crm", "SELECT number FROM account WHERE id = %s", poison) == partner(pipeline, poison, "number")
    assert not [one for one in letters(pipeline) if one["link"] == f"crm:{poison}"]
    pipeline.do("erp", "UPDATE partner SET town = 'Ulm'; ALTER TABLE partner ADD CHECK (town <> 'Atlantis')")
    history = [one for one in letters(pipeline, "--decided") if one["link"] == f"crm:{poison}"]
    assert [(one["decision"]["what"], one["decision"]["reason"]) for one in history] == [("retried", ""), ("retried", "the check is gone")]
    assert "@" in history[0]["decision"]["by"]


def test_a_letter_that_is_retried_while_nothing_runs_is_tried_when_it_does(pipeline: RunningPipeline) -> None:
    poison = an_account(pipeline, city="Atlantis")
    letter = the_letter(pipeline, lambda one: one["link"] == f"crm:{poison}")
    pipeline.down()
    told = pipeline.concord("dead", "retry", letter["id"], "--wait", "0", expect=1)
    assert became(told) == {letter["id"]: "queued"}
    pipeline.do("erp", "ALTER TABLE partner DROP CONSTRAINT partner_town_check")
    pipeline.up()
    eventually(lambda: partner(pipeline, poison) == "Acme")
    eventually(lambda: not letters(pipeline))
    pipeline.do("crm", "UPDATE account SET city = 'Ulm' WHERE id = %s", poison)
    eventually(lambda: partner(pipeline, poison, "town") == "Ulm")
    pipeline.do("erp", "ALTER TABLE partner ADD CHECK (town <> 'Atlantis')")


def test_a_discarded_letter_is_closed_and_stays_in_the_history(pipeline: RunningPipeline) -> None:
    poison = an_account(pipeline, city="Atlantis")
    letter = the_letter(pipeline, lambda one: one["link"] == f"crm:{poison}")
    told = pipeline.concord("dead", "discard", letter["id"], "--reason", "a test", "--by", "alice")
    assert became(told) == {letter["id"]: "discarded"}
    assert letters(pipeline) == []
    assert pipeline.concord("status", expect=None)["systems"]["erp"]["dead"] == 0
    assert pipeline.concord("dead", "discard", letter["id"], "--reason", "again", expect=1)["letters"][0]["became"] == "gone"
    (decided,) = [one for one in letters(pipeline, "--decided") if one["decision"]["what"] == "discarded"]
    assert (decided["link"], decided["code"], decided["decision"]["by"]) == (f"crm:{poison}", "23514", "alice")
    pipeline.settle()
    assert pipeline.concord("verify", expect=1)["entities"]["customer"]["missing"]["erp"] == 1  # it is not called well for that
    pipeline.do("crm", "UPDATE account SET city = 'Ulm' WHERE id = %s", poison)
    eventually(lambda: partner(pipeline, poison) == "Acme")


# --- dead letters: the streams' ---------------------------------------------------------------------------------------------------


def a_partner(pipeline: RunningPipeline, name: str, of_class: str) -> None:
    pipeline.do(
        "erp",
        "INSERT INTO partner (legal_name, class, credit_limit, write_date, active) VALUES (%s, %s, 0, now(), true)",
        name,
        of_class,
    )


def segment(pipeline: RunningPipeline, name: str) -> Any:
    return pipeline.one("crm", "SELECT segment FROM account WHERE name = %s", name)


def forget(pipeline: RunningPipeline, letter: dict[str, Any]) -> None:
    """What retention does: the record that the letter is about is not in its topic any more."""
    topic, _, place = letter["event"].partition("@")
    partition, offset = map(int, place.split("/"))
    admin = AdminClient({"bootstrap.servers": pipeline.kafka})
    for done in admin.delete_records([TopicPartition(topic, partition, offset + 1)]).values():
        done.result(10)


def test_a_record_that_intake_could_not_map_goes_through_once_the_mapping_is_mended(pipeline: RunningPipeline) -> None:
    a_partner(pipeline, "First", "D")  # no such code in the mapping
    mine = the_letter(pipeline, lambda one: one["where"] == "intake")
    a_partner(pipeline, "Second", "D")
    eventually(lambda: len(letters(pipeline)) == 2)
    pipeline.do("erp", "UPDATE partner SET class = 'A' WHERE legal_name = 'Second'")
    eventually(lambda: segment(pipeline, "Second") == "gold")
    told = pipeline.concord("dead", "retry", mine["id"], expect=1)
    assert set(became(told).values()) == {"dead"}
    assert mine["id"] not in {one["id"] for one in letters(pipeline)}
    assert len(letters(pipeline)) == 2, "the copy's letter stands for the first"
    a_partner(pipeline, "Third", "E")
    third = the_letter(pipeline, lambda one: "'E'" in one["error"])
    pipeline.file.write_text(pipeline.file.read_text().replace("bronze: C}", "bronze: C, platinum: D, copper: E}"))
    pipeline.down()
    pipeline.up()
    pipeline.settle()
    told = pipeline.concord("dead", "retry", *(one["id"] for one in letters(pipeline) if one["id"] != third["id"]), "--wait", "30")
    assert set(became(told).values()) == {"handled"}
    eventually(lambda: segment(pipeline, "First") == "platinum")
    pipeline.settle()
    assert segment(pipeline, "Second") == "gold", "an older event that goes through late turns nothing back"
    forget(pipeline, third)
    told = pipeline.concord("dead", "retry", "--all", "--wait", "30")
    assert became(told) == {third["id"]: "read again"}
    eventually(lambda: segment(pipeline, "Third") == "copper")
    assert letters(pipeline) == []


def test_letters_that_are_not_named_are_not_touched(pipeline: RunningPipeline) -> None:
    done = pipeline.concord("dead", "retry", "erp:4711", expect=1)
    assert became(done) == {"erp:4711": "gone"}
    assert pipeline.concord("dead", "retry", "--all")["letters"] == []


# --- replay -----------------------------------------------------------------------------------------------------------------------


def test_a_replay_heals_what_was_lost_of_ours_and_makes_nothing_older(pipeline: RunningPipeline) -> None:
    accounts = [an_account(pipeline, name=f"Tampered {number}") for number in range(12)]
    pipeline.settle()
    pipeline.do("crm", "UPDATE account SET name = 'Newer' WHERE id = %s", accounts[0])
    pipeline.settle()
    links = [f"crm:{account}" for account in accounts]
    before = [pipeline.rows(system, "SELECT * FROM concord.key WHERE link = ANY(%s) ORDER BY 1, 2, 3", links) for system in ("crm", "erp")]
    numbers = pipeline.rows("erp", "SELECT id, number, legal_name FROM partner ORDER BY id")
    for system in ("crm", "erp"):
        pipeline.do(system, "DELETE FROM concord.key WHERE link = ANY(%s)", links)
        pipeline.do(system, "DELETE FROM concord.link WHERE link = ANY(%s)", links)
    told = pipeline.concord("replay", "crm", "--from", "earliest")
    assert told["state"] == "done"
    assert told["records"] >= len(accounts)
    pipeline.settle()
    after = [pipeline.rows(system, "SELECT * FROM concord.key WHERE link = ANY(%s) ORDER BY 1, 2, 3", links) for system in ("crm", "erp")]
    assert after == before
    assert pipeline.one("erp", "SELECT count(*) FROM concord.link WHERE link = ANY(%s)", links) == len(accounts)
    assert pipeline.rows("erp", "SELECT id, number, legal_name FROM partner ORDER BY id") == numbers
    assert partner(pipeline, accounts[0]) == "Newer"
    pipeline.verify()
    pipeline.do("crm", "UPDATE account SET name = 'Newest' WHERE id = %s", accounts[1])
    eventually(lambda: partner(pipeline, accounts[1]) == "Newest")


def test_a_replay_that_topics_do_not_reach_back_for_says_so_and_does_nothing(pipeline: RunningPipeline) -> None:
    an_account(pipeline)
    pipeline.settle()
    admin = AdminClient({"bootstrap.servers": pipeline.kafka})
    for done in admin.delete_records([TopicPartition("crm.public.account", number, 1) for number in range(2)]).values():
        done.result(10)
    told = pipeline.concord("replay", "crm", "--from", "0", "--table", "account", expect=1)
    assert told["state"] == "refused"
    assert "concord snapshot crm public.account --vanished" in told["error"]
    assert pipeline.concord("replay", "crm", "--from", "30d", expect=1)["state"] == "refused"
    assert pipeline.concord("replay", "crm", "--from", "2h")["state"] == "done"
    assert pipeline.concord("replay", "crm", "--from", "0", "--table", "account", "--anyway")["state"] == "done"
    assert "expected" in pipeline.concord("replay", "crm", "--from", "yesterday", expect=2)["error"]
