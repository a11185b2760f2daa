"""The command line: what it teaches, what it refuses, what it never says."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import psycopg
import pytest
from click.testing import CliRunner
from rich.console import Console

from console import logs
from console.cli import cli
from console.dead import Count
from console.status import show
from schemas import topics
from schemas.dead import DEAD_SCHEMA, DeadLetter, Where
from schemas.metrics import SECONDS_BUCKETS, added, quantile, since
from schemas.registry import open_registry
from schemas.serde import Codec
from tests.console.a_report import REPORT
from tests.console.console_fixtures import World, world

__all__ = ["world"]


def commands(group: click.Group, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        found += commands(command, (*before, name)) if isinstance(command, click.Group) else [(*before, name)]
    return found


@pytest.mark.parametrize("command", commands(cli), ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, [*command, "--help"])
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) > 5
    if command[-1] not in ("schema", "alerts"):  # they read no configuration
        assert "--config" in done.stdout


def test_every_report_has_json() -> None:
    reporting = {" ".join(command) for command in commands(cli) if "--json" in CliRunner().invoke(cli, [*command, "--help"]).stdout}
    assert reporting == {
        "init",
        "check",
        "match",
        "status",
        "verify",
        "snapshot",
        "replay",
        "debezium",
        "dead list",
        "dead show",
        "dead retry",
        "dead discard",
        "stack up",
        "stack down",
        "stack status",
    }


def test_the_schema_is_json_schema() -> None:
    told = json.loads(CliRunner().invoke(cli, ["schema"]).stdout)
    assert "systems" in told["properties"]


def test_it_runs_as_a_module_and_a_missing_file_is_2(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "console", "status", "--json", "-c", str(tmp_path / "none.yaml")], capture_output=True)
    assert done.returncode == 2
    assert json.loads(done.stdout)["problems"][0]["what"] == "there is no such file"


def test_an_unknown_system_is_refused_by_name(world: World) -> None:
    done = world.run("source", "sap")
    assert done.exit_code == 2
    assert "'sap'" in done.stderr


def test_a_failing_command_shows_no_traceback(world: World) -> None:
    world.file.write_text(world.file.read_text().replace(world.dsn[world.erp], "postgresql://nobody:s3cret@127.0.0.1:1/nowhere"))
    done = world.run("verify")
    assert done.exit_code == 2
    assert "Traceback" not in done.output
    assert world.erp in done.stderr


# --- dead letters -----------------------------------------------------------------------------------------------------------------


def test_letters_of_sinks_and_streams_are_listed_and_shown(world: World) -> None:
    world.prepare()
    assert world.concord("dead", "list") == (0, {"dead": []})
    world.do(
        world.erp,
        'INSERT INTO concord.dead_letter (entity, link, topic, partition, "offset", record, error, code) '
        "VALUES (%s, 'l:1', 'golden.x', 1, 7, %s, 'value too long for name', '22001')",
        world.customer,
        b'{"name": "Acme"}',
    )
    registry = open_registry(world.config.kafka, world.config.registry)
    encode = Codec(registry).encoder(topics.dead(world.crm), DEAD_SCHEMA)
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": world.kafka})
    garbage = DeadLetter(
        world.customer, None, f"{world.crm}.public.account", 1, 42, b"k", b"\xff\xfe", "no Avro", "NotAnEvent", Where.INTAKE
    )
    of_sink = DeadLetter(world.customer, "l:1", "golden.x", 1, 7, b"k", b"v", "value too long", "22001", Where.SINK)
    for letter in (garbage, garbage, of_sink):
        producer.produce(topics.dead(world.crm), encode(letter.to_avro()), partition=0)
    producer.produce(topics.dead(world.crm), b"rubbish", partition=1)
    assert producer.flush(10) == 0
    exit_status, told = world.concord("dead", "list")
    assert exit_status == 1
    assert [(one["id"], one["where"], one["code"]) for one in sorted(told["dead"], key=lambda one: str(one["id"]))] == [
        (f"{world.crm}@0/0", "intake", "NotAnEvent"),
        (f"{world.crm}@1/0", "?", "SchemaError"),
        (f"{world.erp}:1", "sink", "22001"),
    ]
    assert "Acme" not in json.dumps(told)
    assert [one["id"] for one in world.concord("dead", "list", "--system", world.erp)[1]["dead"]] == [f"{world.erp}:1"]
    _, shown = world.concord("dead", "show", f"{world.erp}:1")
    assert (shown["record"], shown["event"]) == ({"name": "Acme"}, "golden.x@1/7")
    _, shown = world.concord("dead", "show", f"{world.crm}@0/0")
    assert (shown["record"], shown["event"]) == ("\\xfffe", f"{world.crm}.public.account@1/42")
    assert world.run("dead", "show", f"{world.erp}:99").exit_code == 2
    assert world.concord("status")[1]["systems"][world.crm]["dead"] == 2
    registry.close()


def test_letters_of_streams_are_counted_once_each_and_more_than_are_told_apart_are_said(world: World) -> None:
    world.prepare()
    registry = open_registry(world.config.kafka, world.config.registry)
    codec = Codec(registry)
    encode = codec.encoder(topics.dead(world.crm), DEAD_SCHEMA)
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": world.kafka})

    def send(offset: int, partition: int, at_us: int) -> None:
        event = DeadLetter(world.customer, None, f"{world.crm}.public.account", 0, offset, b"k", b"x", "no", "E", Where.INTAKE, at_us)
        producer.produce(topics.dead(world.crm), encode(event.to_avro()), partition=partition)

    def look(count: Count, limit: int) -> tuple[dict[str | None, int], bool]:
        assert producer.flush(10) == 0
        count.read(world.cluster(), codec, world.cluster().ends([topics.dead(world.crm)]), limit)
        return count.open({}), count.more

    for offset in range(9):
        send(offset, 0, 1_000_000 + offset)
    send(9, 1, 1_000_009)
    whole, some = Count(), Count()
    assert look(whole, 100) == ({world.customer: 10}, False)
    assert look(some, 4) == ({world.customer: 4}, True)
    assert look(Count(), 10) == ({world.customer: 10}, False), "a partition that has less leaves its part to the others"
    send(9, 0, 2_000_000)  # once more
    send(10, 0, 2_000_000)
    assert look(whole, 100) == ({world.customer: 11}, False)
    assert look(some, 4) == ({world.customer: 5}, True), "what is new is always counted"
    decided = {(f"{world.crm}.public.account@0/{offset}", b"k"): datetime.fromtimestamp(1.5, UTC) for offset in (0, 9)}
    assert whole.open(decided) == {world.customer: 10}, "one has failed again since"
    report = {"systems": {"crm": {**REPORT["systems"]["erp"], "dead_and_more": True}}}
    screen = Console(record=True, width=200)
    show({**REPORT, **report}, screen, "x")
    assert "10 or more" in screen.export_text()
    registry.close()


# --- logs -------------------------------------------------------------------------------------------------------------------------


def a_record(message: str, *args: object, **more: object) -> logging.LogRecord:
    record = logging.LogRecord("connectors.sink", logging.WARNING, __file__, 1, message, args, None)
    record.__dict__.update(more)
    return record


@pytest.mark.parametrize(
    "text",
    [
        "cannot connect to postgresql://crm:s3cret@db/crm",
        "conninfo host=db password=s3cret dbname=crm",
        "conninfo password='s3c ret s3cret' dbname=crm",
        "{'sasl.password': 's3cret'}",
        "PASSWORD=s3cret",
    ],
)
def test_passwords_are_struck_out_of_every_line(text: str) -> None:
    for formatter in (logs.Lines("sink-erp-0"), logs.Json("sink-erp-0")):
        assert "s3cret" not in formatter.format(a_record("%s", text))


def test_a_json_line_has_part_level_and_event() -> None:
    told = json.loads(logs.Json("sink-erp-0").format(a_record("skipped", event="crm.public.account/42@0/16B3748")))
    assert (told["part"], told["level"], told["message"]) == ("sink-erp-0", "WARNING", "skipped")
    assert told["event"] == "crm.public.account/42@0/16B3748"
    assert told["ts"].endswith("Z")


def test_a_database_errors_detail_with_its_row_is_not_logged(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (email text UNIQUE)")
        row = ["secret@example.com"]
        connection.execute("INSERT INTO t VALUES (%s)", row)
        try:
            connection.execute("INSERT INTO t VALUES (%s)", row)
        except psycopg.Error as error:
            record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", (), (type(error), error, error.__traceback__))
    for formatter in (logs.Lines("x"), logs.Json("x")):
        line = formatter.format(record)
        assert "UniqueViolation" in line
        assert "test_cli.py" in line
        assert "secret@example.com" not in line


# --- reading histograms -----------------------------------------------------------------------------------------------------------


def test_a_quantile_of_evenly_spread_seconds_is_where_it_should_be() -> None:
    seconds = [number / 1000 for number in range(1, 1001)]
    buckets = {bound: float(sum(one <= bound for one in seconds)) for bound in (*SECONDS_BUCKETS, float("inf"))}
    for q in (0.1, 0.5, 0.9, 0.99):
        assert quantile(buckets, q) == pytest.approx(q, rel=0.1)
    assert quantile(added(buckets, buckets), 0.5) == pytest.approx(0.5, rel=0.1)
    assert max(since(buckets, buckets).values()) == 0


def test_a_quantile_of_nothing_is_no_number_and_beyond_the_last_bound_is_the_bound() -> None:
    assert quantile({}, 0.5) != quantile({}, 0.5)
    assert quantile({1.0: 0.0, float("inf"): 0.0}, 0.5) != 0
    assert quantile({1.0: 0.0, float("inf"): 5.0}, 0.5) == 1.0
