"""What an operator does to a pipeline under load: asks it over HTTP, stops it, gives it another configuration part by part."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from console.exporter import METRICS
from console.kafka import Cluster
from console.stack.guard import free_port
from schemas.config import load as load_config
from tests.pipeline.pipeline_fixtures import RunningPipeline, an_account, eventually, partner, running
from tests.services import a_database

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.slow, pytest.mark.own_source]

PARTS = ("sink-crm-0", "sink-erp-0", "streams-0", "source-crm", "source-erp")  # in the order of a rolling restart
HTTP = f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, kafka: str, postgres: str, postgres_2: str) -> Iterator[RunningPipeline]:
    with (
        a_database(postgres) as crm,
        a_database(postgres_2) as erp,
        running(tmp_path_factory.mktemp("operations"), "t" + uuid.uuid4().hex[:8], kafka, crm, erp) as pipeline,
    ):
        pipeline.up("--http", HTTP)
        pipeline.ready()
        pipeline.settle()
        yield pipeline


def ask(path: str) -> tuple[int, Any]:
    """What `concord up` answers: (status, JSON or text)."""
    try:
        with urllib.request.urlopen(f"http://{HTTP}{path}", timeout=20) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            status, text = error.code, error.read()
    return status, text.decode() if path == "/metrics" else json.loads(text)


# --- probes and metrics -----------------------------------------------------------------------------------------------------------


def test_up_tells_who_is_ready_and_serves_every_figure(pipeline: RunningPipeline) -> None:
    an_account(pipeline, city="Ulm")
    pipeline.verify()
    eventually(lambda: ask("/readyz") == (200, {"part": "up", "ready": True, "waits_for": {}}))
    assert ask("/healthz")[0] == 200
    eventually(lambda: 'concord_status_verify_differences{entity="customer"} 0.0' in ask("/metrics")[1])
    served = {sample.name: family for family in text_string_to_metric_families(ask("/metrics")[1]) for sample in family.samples}
    not_now = {"wal_keep_limit_bytes", "part_last_exit_code", "part_last_exit_timestamp_seconds"}  # no limit is set, nothing has ended
    names = {f"concord_status_{name}{'_total' if kind is CounterMetricFamily else ''}" for kind, name, *_ in METRICS if name not in not_now}
    assert names <= set(served), names - set(served)
    assert {sample.labels["process"] for sample in served["process_start_time_seconds"].samples} == {*PARTS}
    assert {sample.labels["process"] for sample in served["concord_source_slot_lost_timestamp_seconds"].samples} == {*PARTS[3:]}
    stopped = pipeline.pid("sink erp")
    os.kill(stopped, signal.SIGSTOP)
    try:
        status, told = ask("/readyz")
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert (status, set(told["waits_for"])) == (503, {"sink-erp-0"})
    assert "does not answer" in told["waits_for"]["sink-erp-0"]
    eventually(lambda: ask("/readyz")[0] == 200)


# --- stopping, and another configuration, under load ----------------------------------------------------------------------------------


@contextlib.contextmanager
def load(pipeline: RunningPipeline) -> Iterator[Callable[[], int]]:
    """Inserts and edits on both sides for as long as the block runs; yields how many there were by now."""
    ending, done = threading.Event(), [0]

    def work() -> None:
        with psycopg.connect(pipeline.dsn["crm"], autocommit=True) as crm, psycopg.connect(pipeline.dsn["erp"], autocommit=True) as erp:
            while not ending.is_set():
                number = done[0]
                account = uuid.uuid4()
                crm.execute(
                    "INSERT INTO account (id, name, vat, city, note) VALUES (%s, %s, %s, 'Ulm', %s)",
                    (account, f"L {number}", f"L{account.hex[:12].upper()}", f"note {number}"),
                )
                crm.execute("UPDATE account SET name = name || '!' WHERE id = %s", (account,))
                erp.execute("UPDATE partner SET credit_limit = credit_limit + 1 WHERE id = (SELECT max(id) FROM partner)")
                done[0] += 3
                ending.wait(0.05)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield lambda: done[0]
    finally:
        ending.set()
        thread.join()


def more(count: Callable[[], int], than: int = 30) -> None:
    """Waits until the load has done so much more."""
    before = count()
    eventually(lambda: count() > before + than)


def records(pipeline: RunningPipeline, *topics: str) -> int:
    kafka = Cluster(load_config(pipeline.file, pipeline.env).kafka)
    return sum(high for _, high in kafka.ends(topics).values())


def test_a_stop_under_load_ends_well_and_nothing_is_handled_again(pipeline: RunningPipeline) -> None:
    kafka = Cluster(load_config(pipeline.file, pipeline.env).kafka)
    pipeline.settle()
    captured, mapped = ("crm.public.account", "erp.public.partner"), "changes.customer"
    before = records(pipeline, *captured), records(pipeline, mapped)
    with load(pipeline) as count:
        more(count)
        assert pipeline.process is not None
        pipeline.process.send_signal(signal.SIGTERM)
        assert pipeline.process.wait(30) == 0
        told = json.loads((pipeline.folder / "run" / pipeline.name / "up.json").read_text())["parts"]
        assert {name: one["last_exit"]["code"] for name, one in told.items()} == dict.fromkeys(PARTS, 0), pipeline.tail()
        assert "killing it" not in pipeline.tail()
        progress = {(t, p): o for t, p, o in pipeline.rows("erp", 'SELECT topic, partition, "offset" FROM concord.progress') if o}
        hinted = kafka.committed(f"{pipeline.name}-sink-erp", {topic for topic, _ in progress})
        assert {at: offset for at, offset in progress.items() if hinted.get(at) != offset} == {}, "what was applied is what is told"
        pipeline.up()
        more(count)
    pipeline.verify()
    events, changes = records(pipeline, *captured) - before[0], records(pipeline, mapped) - before[1]
    assert 0 < changes <= events, "each event was mapped once: what was in hand at the stop was not mapped again"


def restart(pipeline: RunningPipeline, part: str) -> None:
    """SIGTERM; the supervisor starts it again, and it runs by the file as it is now."""
    before = pipeline.concord("status", expect=None)["parts"][part]
    os.kill(before["pid"], signal.SIGTERM)

    def is_back() -> bool:
        now = pipeline.concord("status", expect=None)["parts"][part]
        return now["state"] == "running" and now["pid"] != before["pid"]

    eventually(is_back, message=f"{part} is not back")
    assert pipeline.concord("status", expect=None)["parts"][part]["last_exit"]["code"] == 0


def test_another_configuration_part_by_part_under_load_loses_nothing_of_what_was_mapped(pipeline: RunningPipeline) -> None:
    old = an_account(pipeline, note="from before", city="Ulm")
    pipeline.do("crm", "CREATE TABLE lead (id uuid PRIMARY KEY, title text)")
    pipeline.do("erp", "CREATE TABLE prospect (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text)")
    pipeline.do("crm", "INSERT INTO lead VALUES (gen_random_uuid(), 'from before')")
    pipeline.settle()
    text = pipeline.file.read_text().replace("      city: {crm: city, erp: town}\n", "      note: {crm: note, erp: internal}\n")
    text += (
        "  lead:\n    crm: {table: lead, insert: {id: uuid}}\n    erp: {table: prospect}\n    fields: {title: {crm: title, erp: title}}\n"
    )
    with load(pipeline) as count:
        more(count)
        # what the new file needs is granted before; what only the old one needs is still used until the last part runs by the new one
        pipeline.file.write_text(text.replace("      note:", "      city: {crm: city, erp: town}\n      note:"))
        pipeline.grant()
        pipeline.file.write_text(text)
        said = [note["what"] for note in pipeline.concord("check", "--no-rows", expect=None)["notes"] if note["about"] == "configuration"]
        assert {"entity customer: field note added, field city taken out since public.account was read"} <= set(said)
        for part in PARTS:
            restart(pipeline, part)
            more(count)
        changed = pipeline.concord("snapshot", "--changed")["changes"]
        assert {(one["system"], one["entity"]) for one in changed} == {(s, e) for s in ("crm", "erp") for e in ("customer", "lead")}
        more(count)
    pipeline.verify()
    assert pipeline.one("crm", "SELECT count(*) FROM account WHERE name LIKE 'L %' AND note <> 'note ' || trim('L !' FROM name)") == 0
    assert pipeline.one("crm", "SELECT count(*) FROM account WHERE name LIKE 'L %' AND note IS NULL") == 0
    assert partner(pipeline, old, "internal") == "from before"
    assert pipeline.one("erp", "SELECT count(*) FROM prospect WHERE title = 'from before'") == 1
    assert pipeline.one("erp", "SELECT count(*) FROM partner WHERE tax_id LIKE 'L%' AND legal_name NOT LIKE '%!'") == 0
    pipeline.do("crm", "UPDATE account SET city = 'Bonn', note = 'new' WHERE id = %s", old)
    eventually(lambda: partner(pipeline, old, "internal") == "new")
    assert partner(pipeline, old, "town") == "Ulm", "a field that was taken out is not written any more"


def test_another_pipeline_on_the_same_topics_is_refused(pipeline: RunningPipeline, tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    file.write_text(pipeline.file.read_text().replace(f"name: {pipeline.name}", "name: other").replace("/run", "/other"))
    done = subprocess.run([sys.executable, "-m", "console", "up", "-c", str(file)], env=pipeline.env, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert f"belong to pipeline '{pipeline.name}'" in done.stderr.decode()
    assert pipeline.concord("status", expect=None)["parts"]["streams-0"]["alive"]
