"""What only real Debezium does in our source's place: its worker dies, its slot is lost, it hands over to our source and takes over again.

The other files here run on it too: `pytest tests/pipeline --source debezium`, `--source debezium-plain` for JSON without schemas,
`--source debezium-avro` with a registry of Apicurio's in CONCORD_TEST_APICURIO.
"""

from __future__ import annotations

import os
import re
import signal
import uuid
from collections.abc import Iterator

import psutil
import psycopg
import pytest

from tests.pipeline.pipeline_fixtures import RunningPipeline, eventually, running
from tests.services import SOURCE_VARIABLE, a_database

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get(SOURCE_VARIABLE, "").startswith("debezium"), reason="runs with --source debezium"),
]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, kafka: str, postgres: str, postgres_2: str) -> Iterator[RunningPipeline]:
    with (
        a_database(postgres) as crm,
        a_database(postgres_2) as erp,
        running(tmp_path_factory.mktemp("debezium"), "t" + uuid.uuid4().hex[:8], kafka, crm, erp) as pipeline,
    ):
        pipeline.up()
        pipeline.settle(120)
        yield pipeline


def arrives(pipeline: RunningPipeline, name: str) -> None:
    """A customer that is born in the CRM now is in the ERP."""
    pipeline.do("crm", "INSERT INTO account (id, name, vat) VALUES (%s, %s, %s)", uuid.uuid4(), name, name.upper())
    eventually(lambda: pipeline.one("erp", "SELECT count(*) FROM partner WHERE legal_name = %s", name) == 1, seconds=90)


def java(pipeline: RunningPipeline) -> psutil.Process:
    (child,) = eventually(lambda: psutil.Process(pipeline.pid("debezium")).children())
    assert isinstance(child, psutil.Process)
    return child


def test_debezium_captures_and_no_source_of_ours_runs(pipeline: RunningPipeline) -> None:
    arrives(pipeline, "First")
    status = pipeline.settle()
    assert {name for name, part in status["parts"].items() if part["alive"]} == {"debezium", "streams-0", "sink-crm-0", "sink-erp-0"}
    assert [one["slot"] for one in status["systems"].values()] == ["streaming", "streaming"]


def test_the_later_of_two_transactions_wins_though_it_began_first(pipeline: RunningPipeline) -> None:
    arrives(pipeline, "Contended")
    with psycopg.connect(pipeline.dsn["crm"]) as early, psycopg.connect(pipeline.dsn["crm"], autocommit=True) as late:
        early.execute("UPDATE account SET city = 'early' WHERE name = 'First'")
        late.execute("UPDATE account SET city = 'overtaken' WHERE name = 'Contended'")
        early.execute("UPDATE account SET city = 'last' WHERE name = 'Contended'")
    eventually(lambda: pipeline.one("erp", "SELECT town FROM partner WHERE legal_name = 'Contended'") == "last", seconds=90)


def test_kafka_connect_dies_and_is_started_again(pipeline: RunningPipeline) -> None:
    before = java(pipeline)
    before.send_signal(signal.SIGKILL)
    arrives(pipeline, "After the kill")
    assert java(pipeline).pid != before.pid
    part = pipeline.concord("status", expect=None)["parts"]["debezium"]
    assert part["restarts"] >= 1
    assert "Kafka Connect ended" in part["last_exit"]["reason"]


def test_no_java_is_left_behind_when_its_part_is_killed(pipeline: RunningPipeline) -> None:
    child = java(pipeline)
    pipeline.kill("debezium")
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    arrives(pipeline, "After its part's end")


def test_our_source_takes_over_and_hands_back(pipeline: RunningPipeline) -> None:
    for source in ("concord", "debezium"):
        pipeline.down()
        pipeline.do("crm", "UPDATE account SET city = %s WHERE name = 'First'", f"until {source}")
        pipeline.source = source
        pipeline.up()
        eventually(
            lambda source=source: pipeline.one("erp", "SELECT town FROM partner WHERE legal_name = 'First'") == f"until {source}",
            seconds=90,
        )  # type: ignore[misc]
        arrives(pipeline, f"By {source}")
        pipeline.settle(120)
    assert pipeline.verify()["entities"]["customer"]["differing"] == 0


def test_a_lost_slot_is_no_gap(pipeline: RunningPipeline) -> None:
    pipeline.settle()
    pipeline.down()
    slot = f"{pipeline.name}_crm"
    with psycopg.connect(pipeline.dsn["crm"], autocommit=True) as crm:
        eventually(lambda: crm.execute("SELECT NOT active FROM pg_replication_slots WHERE slot_name = %s", [slot]).fetchone() == (True,))
        crm.execute("SELECT pg_drop_replication_slot(%s)", [slot])
        crm.execute("UPDATE account SET city = 'In the gap' WHERE name = 'First'")
        crm.execute("INSERT INTO account (id, name, vat) VALUES (%s, 'Born in the gap', 'GAP')", [uuid.uuid4()])
    pipeline.up()
    eventually(lambda: pipeline.one("erp", "SELECT count(*) FROM partner WHERE legal_name = 'Born in the gap'") == 1, seconds=90)
    eventually(lambda: pipeline.one("erp", "SELECT town FROM partner WHERE legal_name = 'First'") == "In the gap", seconds=90)
    arrives(pipeline, "After the gap")


def test_a_kafka_connect_that_is_there_is_told_and_waited_for(pipeline: RunningPipeline) -> None:
    settings = (pipeline.folder / "run" / pipeline.name / "debezium" / "connect.properties").read_text()
    (listener,) = [line for line in settings.splitlines() if line.startswith("listeners=")]
    url = unescaped(listener.removeprefix("listeners="))
    report = pipeline.concord("debezium", "--connect", url)
    assert (report["connect"], report["waiting"]) == (url, {})
    assert set(report["connectors"]) == {f"{pipeline.name}-crm", f"{pipeline.name}-erp"}
    arrives(pipeline, "By an outside one")


def unescaped(text: str) -> str:
    """Of a Java properties file."""
    return re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), text)


def test_check_finds_it_fit(pipeline: RunningPipeline) -> None:
    report = pipeline.concord("check", "--source", "debezium", "--no-rows", expect=None)
    assert [problem for problem in report["problems"] if problem["about"] == "Debezium"] == []
