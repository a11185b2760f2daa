"""What the chaos runs stand on: the plan is the seed's, a line that is cut or held is, and the referee sees what it is there to see.

And one short run. The long ones take minutes each and are `make chaos`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import psycopg
import pytest

from examples.drive import ROOT
from examples.reference import load
from schemas.registry import MemoryRegistry
from schemas.serde import Codec
from tests.chaos import clock, truth
from tests.chaos.faults import KINDS_OF_TEST, STRIKES, Fault, Kind, drawn
from tests.chaos.faults.disks import Disk
from tests.chaos.history import Histories, Record
from tests.chaos.proxy import Proxy
from tests.chaos.run import Options, Outcome, Struck
from tests.chaos.scorecard import as_json, as_text, figures, kinds, page, read
from tests.chaos.watch import Look, Watch


def test_a_seed_is_a_plan() -> None:
    plan = drawn(7, 200, 120, 1000)
    assert plan == drawn(7, 200, 120, 1000)
    assert plan != drawn(8, 200, 120, 1000)
    assert {fault.kind for fault in plan} == set(Kind)
    assert all(0 <= fault.at <= 120 for fault in plan)
    assert {fault.kind for fault in drawn(7, 50, 120, 1000, (Kind.CUT,))} == {Kind.CUT}
    few = KINDS_OF_TEST[:3]
    assert {fault.kind for fault in drawn(7, 3, 120, 1000, few)} == set(few)
    assert Kind.DISK not in {fault.kind for fault in drawn(7, 200, 120, 1000, without=(Kind.DISK,))}
    assert set(STRIKES) == set(Kind)


# ---- the line ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[int]:
    """A port that says back what it hears."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while heard := connection.recv(1000):
                connection.sendall(heard)

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def test_a_proxy_passes_on_what_it_hears_until_it_is_cut(echo: int) -> None:
    with Proxy(("127.0.0.1", echo)) as proxy, socket.create_connection(("127.0.0.1", proxy.port), 5) as line:
        line.sendall(b"hello")
        assert line.recv(5) == b"hello"
        proxy.cut()
        with contextlib.suppress(ConnectionResetError):
            assert line.recv(5) == b""


def test_a_held_line_is_silent_and_open(echo: int) -> None:
    with Proxy(("127.0.0.1", echo)) as proxy, socket.create_connection(("127.0.0.1", proxy.port), 5) as line:
        line.sendall(b"1")
        assert line.recv(1) == b"1"
        with proxy.held():
            line.sendall(b"2")
            line.settimeout(0.2)
            with pytest.raises(TimeoutError):
                line.recv(1)
        line.settimeout(5)
        assert line.recv(1) == b"2"
        assert proxy.held_pieces == 1


def test_a_server_that_is_not_there_breaks_the_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Proxy(("127.0.0.1", port)) as proxy, socket.create_connection(("127.0.0.1", proxy.port), 5) as line:
        assert _heard(line) == b""


def _heard(line: socket.socket) -> bytes:
    try:
        return line.recv(1)
    except ConnectionResetError:
        return b""


# ---- the disk and the clock --------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    try:
        made = Disk(tmp_path / "small")
    except OSError as error:
        pytest.skip(f"a file system of its own cannot be mounted here, run as root: {error}")
    yield made
    made.unmount()


def test_a_full_disk_takes_nothing_until_there_is_room(disk: Disk) -> None:
    (disk.folder / "before").write_bytes(b"x" * 100_000)
    assert disk.fill()
    with pytest.raises(OSError, match="No space left"):
        (disk.folder / "more").write_bytes(b"x" * 10_000)
    assert (disk.folder / "before").stat().st_size == 100_000
    disk.free()
    (disk.folder / "more").write_bytes(b"x" * 10_000)
    assert (disk.folder / "more").stat().st_size == 10_000


# What PostgreSQL asks, asked again after a line on standard input.
ASK_THE_TIME = """
import ctypes
for _ in range(3):
    now = (ctypes.c_long * 2)()
    ctypes.CDLL(None).gettimeofday(now, None)
    print(now[0], flush=True)
    input()
"""


def test_a_clock_steps_forth_and_back_while_a_program_runs(tmp_path: Path) -> None:
    made = clock.library(tmp_path)
    if isinstance(made, str):
        pytest.skip(made)
    shifted = clock.Clock(tmp_path / "shift")
    asked = subprocess.Popen(
        [sys.executable, "-c", ASK_THE_TIME],
        env={**os.environ, **shifted.environment(made)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with asked:
        assert asked.stdin is not None
        assert asked.stdout is not None
        told = []
        for step in (10_000, -30_000, 0):
            told.append(int(asked.stdout.readline()) - int(time.time()))
            shifted.step(step)
            asked.stdin.write("\n")
            asked.stdin.flush()
    assert [round(seconds, -3) for seconds in told] == [0, 10_000, -20_000]


# ---- the referee -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sides(
    database: str, database_2: str
) -> Iterator[tuple[psycopg.Connection[tuple[object, ...]], psycopg.Connection[tuple[object, ...]]]]:
    """Both reference databases, empty but for one customer that both have, as Concord would have left it."""
    with psycopg.connect(database) as crm, psycopg.connect(database_2) as erp:
        load.create(crm, erp)
        crm.execute(
            "INSERT INTO account (id, type, name, vat_number, customer_no, billing_country, segment, payment_terms, is_active, owner_login,"
            " created_at, updated_at) VALUES ('00000000-0000-0000-0000-000000000001', 'customer', 'Acme', 'DE1', 'K1', 'DE', 'gold',"
            " 'net30', true, 'x', now(), now())"
        )
        erp.execute(
            "INSERT INTO business_partner (number, kind, legal_name, tax_id, country, class, payment_days, active, dunning_level, currency,"
            " language, company, create_uid, create_date, write_date)"
            " VALUES ('K1', 'customer', 'Acme', 'DE1', 'DEU', 'A', 30, true, 0, 'EUR', 'de', 1, 1, now(), now())"
        )
        for conn, side in ((crm, "crm"), (erp, "erp")):
            conn.execute("CREATE SCHEMA concord; CREATE TABLE concord.key (entity text, system text, key text, link text)")
            keys = {"crm": "00000000-0000-0000-0000-000000000001", "erp": "1"}
            for system, key in keys.items():
                conn.execute("INSERT INTO concord.key VALUES ('customer', %s, %s, 'crm:x')", [system, key])
            conn.execute("SELECT pg_replication_origin_create(%s)", [f"referee_{side}_{conn.info.dbname}"])
            conn.commit()
            truth.install(conn, side)
        yield crm, erp
        for conn, side in ((crm, "crm"), (erp, "erp")):
            conn.rollback()
            conn.execute("SELECT pg_replication_origin_drop(%s)", [f"referee_{side}_{conn.info.dbname}"])
            conn.commit()


def ours(conn: psycopg.Connection[tuple[object, ...]], side: str, statement: str) -> None:
    """As a sink would write it."""
    conn.execute("SELECT pg_replication_origin_session_setup(%s)", [f"referee_{side}_{conn.info.dbname}"])
    conn.execute(statement.encode())
    conn.commit()
    conn.execute("SELECT pg_replication_origin_session_reset()")
    conn.commit()


Sides = tuple[psycopg.Connection[tuple[object, ...]], psycopg.Connection[tuple[object, ...]]]


def test_a_change_that_arrived_is_good(sides: Sides) -> None:
    crm, erp = sides
    crm.execute("UPDATE account SET name = 'Acme Ltd'")
    crm.commit()
    ours(erp, "erp", "UPDATE business_partner SET legal_name = 'Acme Ltd'")
    verdict = truth.judge(crm, erp)
    assert verdict.good, verdict
    assert (verdict.changes["crm"], verdict.writes["erp"]) == (1, 1)


def test_a_change_that_did_not_arrive_diverges(sides: Sides) -> None:
    crm, erp = sides
    crm.execute("UPDATE account SET name = 'Acme Ltd'")
    crm.commit()
    assert len(truth.judge(crm, erp).diverged) == 1


def test_a_change_that_we_undid_is_lost(sides: Sides) -> None:
    crm, erp = sides
    crm.execute("UPDATE account SET name = 'Acme Ltd'")
    crm.commit()
    ours(crm, "crm", "UPDATE account SET name = 'Acme'")
    verdict = truth.judge(crm, erp)
    assert not verdict.diverged
    assert any("name is 'Acme' in crm and erp, last said" in sentence for sentence in verdict.lost)
    assert len(verdict.lost) == 1, "an edit is lost once, on however many sides"


def test_the_owner_overruled_is_lost(sides: Sides) -> None:
    crm, erp = sides
    erp.execute("UPDATE business_partner SET credit_limit = 5")
    crm.execute("UPDATE account SET credit_limit = 7")
    crm.commit()
    erp.commit()
    ours(erp, "erp", "UPDATE business_partner SET credit_limit = 7")
    assert any("credit" in sentence for sentence in truth.judge(crm, erp).lost)


def test_a_row_that_we_alone_deleted_is_lost(sides: Sides) -> None:
    crm, erp = sides
    ours(crm, "crm", "DELETE FROM account")
    assert "customer crm:x: row 00000000-0000-0000-0000-000000000001 in crm was deleted by us alone" in truth.judge(crm, erp).lost
    erp.execute("DELETE FROM business_partner")
    erp.commit()
    assert truth.judge(crm, erp).good


def test_a_thing_that_we_inserted_twice_is_doubled(sides: Sides) -> None:
    crm, erp = sides
    ours(
        erp,
        "erp",
        "INSERT INTO business_partner (number, kind, legal_name, country, class, payment_days, active, dunning_level, currency, language,"
        " company, create_uid, create_date, write_date)"
        " SELECT 'K' || n, 'customer', 'Acme', 'DEU', 'A', 30, true, 0, 'EUR', 'de', 1, 1, now(), now() FROM generate_series(2, 3) n",
    )
    erp.execute("INSERT INTO concord.key VALUES ('customer', 'erp', '2', 'crm:x'), ('customer', 'erp', '3', 'crm:x')")
    assert truth.judge(crm, erp).doubled


# ---- the history -------------------------------------------------------------------------------------------------------------


def test_a_history_has_both_logs_all_topics_and_what_is_kept(sides: Sides, tmp_path: Path) -> None:
    crm, erp = sides
    key = "00000000-0000-0000-0000-000000000001"
    crm.execute("UPDATE account SET name = 'Acme Ltd'")
    crm.commit()
    ours(erp, "erp", "UPDATE business_partner SET legal_name = 'Acme Ltd'")
    for conn in sides:
        for table in ("link", "parked", "dead_letter"):
            conn.execute(f"CREATE TABLE concord.{table} (entity text, link text)".encode())
    crm.execute("INSERT INTO concord.parked VALUES ('customer', 'crm:x')")
    registry = MemoryRegistry()
    codec = Codec(registry)
    keyed = codec.encoder("key", {"type": "record", "name": "Key", "fields": [{"name": "id", "type": "string"}]})
    valued = codec.encoder("value", {"type": "record", "name": "Envelope", "fields": [{"name": "op", "type": "string"}]})
    letter = codec.encoder(
        "dead", {"type": "record", "name": "Dead", "fields": [{"name": name, "type": "string"} for name in ("entity", "link", "error")]}
    )
    (tmp_path / "faults.log").write_text("00:00:01 SIGKILL of Kafka (kafka)\n")
    (tmp_path / "concord.log").write_text(
        '{"ts": "2020-01-01T00:00:00Z", "part": "source-crm", "level": "ERROR", "message": "slot lost"}\n'
    )
    records = [
        Record("crm.public.account", 0, 7, 1e9, keyed({"id": key}), valued({"op": "u"})),
        Record("claims.customer", 0, 1, 1e9, b"DE1", orjson.dumps({"system": "crm", "key": key, "op": "claim"})),
        Record("links.crm.public.account", 0, 2, 1e9, key.encode(), b'{"link": "crm:x"}'),
        Record("changes.customer", 0, 3, 1e9, b"crm:x", b'{"system": "crm", "values": {"name": "Acme"}}'),
        Record("changes.customer", 0, 4, 2e9, b"crm:x", b'{"system": "crm", "values": {"name": "Acme Ltd"}}'),
        Record("golden.customer", 0, 5, 2e9, b"crm:x", valued({"op": "golden"})),
        Record("dead.erp", 0, 6, 2e9, None, letter({"entity": "customer", "link": "crm:x", "error": "no such column"})),
        Record("changes.customer", 0, 9, 2e9, b"crm:another", b"{}"),
    ]
    histories = Histories({"crm": crm, "erp": erp}, records, registry, tmp_path)
    lines = histories.of_sentence(f"customer crm:{key} erp:1: name 'a' / 'b'")
    for wanted in (
        f"crm row {key}: #2", "application u | name=Acme Ltd", "erp row 1: #2", "concord u | legal_name=Acme Ltd",
        "crm.public.account/0@7", "claims.customer/0@1", "links.crm.public.account/0@2",
        "changes.customer/0@4 crm: change system=crm | name=Acme Ltd",
        "golden.customer/0@5", "no such column", "SIGKILL of Kafka", "ERROR slot lost", "crm concord.parked: entity=customer",
    ):  # fmt: skip
        assert any(wanted in line for line in lines), (wanted, lines)
    assert not any("@9" in line for line in lines)
    assert histories.of_sentence("crm: 3 more writes of ours after everything had settled") == []


# ---- the scorecard -----------------------------------------------------------------------------------------------------------


def test_figures_of_runs_go_on_one_page_and_what_went_wrong_is_on_it() -> None:
    outcome = Outcome(Options(7, 60, 3))
    outcome.struck = [
        Struck(Fault(1, Kind.KILL, "sink-erp-0", 0), 10.0, 10.0, over=12.5, visible=1.5),
        Struck(Fault(2, Kind.KILL, "sink-erp-0", 0), 20.0, 20.0, over=21.5, visible=0.0),
        Struck(Fault(3, Kind.SLOT, "crm", 0), 30.0, 30.0, error="there was none"),
    ]
    outcome.verdict.changes.update(crm=100, erp=50)
    outcome.verdict.lost.append("customer crm:x: name is 'a' in crm, last said was {'erp': 'b'}")
    before = figures(Outcome(Options(6, 60, 0), stuck="the line is dead\nand more"), "0123abc", "2026-01-30")
    runs = read(as_text([*read(as_text([before])), figures(outcome, "4567def+", "2026-01-31")]))  # gathered over two calls
    told = as_json(runs)
    assert told["total"] == {
        "runs": 2,
        "faults": 2,
        "changes": 150,
        "lost": 1,
        "doubled": 0,
        "looped": 0,
        "diverged": 0,
        "stuck": 1,
        "broken": 0,
        "left": 0,
    }
    assert told["kinds"][str(Kind.KILL)]["until_over_p99"] == 2.5
    assert told["kinds"][str(Kind.SLOT)] | {"faults": 0, "struck_nothing": 1} == told["kinds"][str(Kind.SLOT)]
    said = page(told["runs"])
    assert "- seed 7, lost: customer crm:x" in said
    assert "- seed 6, stuck: the line is dead\n" in said
    assert f"| {Kind.KILL} | 2 | 0 | 2.0 s | 2.5 s | 0.8 s | 1.5 s |" in said
    assert "What ran: 0123abc (2026-01-30), 4567def+ (2026-01-31)." in said
    assert "| 7 | 4567def+ | 2026-01-31 | 60 s | 2 |" in said
    assert runs[1] == {**figures(outcome, "4567def+", "2026-01-31"), "each": runs[1]["each"]}


def test_figures_of_the_first_kind_are_still_read() -> None:
    fault = {"kind": str(Kind.KILL), "target": "sink-erp-0", "error": "", "until_over": 2.51, "visible": 1.5}
    missed = {"kind": str(Kind.SLOT), "target": "crm", "error": "there was none", "until_over": None, "visible": 0.0}
    [run] = read(json.dumps({"runs": [{"seed": 1, "each": [fault, missed]}]}))
    assert (run["commit"], run["date"]) == ("unknown", "unknown")
    assert [(each.kind, each.faults, each.struck_nothing) for each in kinds([run])] == [(Kind.KILL, 1, 0), (Kind.SLOT, 0, 1)]


def test_how_long_trouble_was_seen_in_the_status() -> None:
    watch = Watch.__new__(Watch)
    watch.looks = [Look(0, 1, ()), Look(2, 3, ("sink-erp-0 not running",)), Look(4, 5, ("sink-erp-0 not running",)), Look(6, 7, ())]
    assert watch.visible(0, 10) == 4
    assert watch.visible(4, 6) == 2
    assert watch.visible(8, 10) == 0


# ---- the pipeline -----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(360)  # a minute or so on a machine that does nothing else
def test_the_pipeline_comes_through_faults_of_the_quick_kinds() -> None:
    """A short run on servers of its own, with faults drawn from `KINDS_OF_TEST`; `make chaos` has the long ones."""
    names = [kind.name.lower() for kind in KINDS_OF_TEST]
    words = ["--seed", "1102", "--minutes", "0.4", "--faults", "12", "--rate", "20", "--bulk-rows", "500", "--share", "0.1"]
    command = [sys.executable, "-m", "tests.chaos", *words, "--only", *names]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert "lost 0, doubled 0, looped 0, diverged 0" in " ".join(run.stdout.split())
