"""The supervisor with parts that are small programs: they die, hang, outlive; no database, no Kafka."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.parts import Busy, being, held, is_held, read_json
from console.supervise import Backoff, PartCommand, Supervisor, exit_reason
from tests.services import wait_until

SLEEPER = "import signal, threading; signal.signal(signal.SIGTERM, lambda *_: exit(0)); threading.Event().wait()"
STUBBORN = "import signal, threading; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); threading.Event().wait()"
# what a real part does first of all
PART = f"from console.parts import end_with_supervisor; end_with_supervisor(); {SLEEPER}"


def a_part(code: str, name: str = "sink-erp-0", stage: int = 2) -> PartCommand:
    return PartCommand(name, (sys.executable, "-c", code), stage)


@contextlib.contextmanager
def running(supervisor: Supervisor) -> Iterator[Supervisor]:
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        yield supervisor
    finally:
        supervisor.stop()
        thread.join(30)
        assert not thread.is_alive(), "the supervisor does not stop"


def told(folder: Path, part: str) -> dict[str, object]:
    return dict(read_json(folder / "up.json").get("parts", {}).get(part, {}))


def pid_of(folder: Path, part: str) -> int:
    wait_until(lambda: told(folder, part).get("pid"), f"{part} has no pid")
    return int(str(told(folder, part)["pid"]))


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_killed_part_is_started_again_and_up_json_says_so(tmp_path: Path) -> None:
    with running(Supervisor([a_part(SLEEPER)], tmp_path, backoff=Backoff(first=0.05))):
        first = pid_of(tmp_path, "sink-erp-0")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: told(tmp_path, "sink-erp-0").get("pid") not in (None, first), "not started again")
        assert told(tmp_path, "sink-erp-0")["restarts"] == 1
        last_exit = told(tmp_path, "sink-erp-0")["last_exit"]
        assert isinstance(last_exit, dict)
        assert last_exit["reason"] == "killed by SIGKILL"
        assert last_exit["code"] == -9


def test_a_disk_without_room_stops_neither_the_supervisor_nor_a_part(tmp_path: Path) -> None:
    """What it says of itself cannot be written: here something is in the way of the file, as a full disk is."""
    starts = tmp_path / "starts"
    in_the_way = tmp_path / f".up.json.{os.getpid()}"
    in_the_way.mkdir()
    code = f"import pathlib; pathlib.Path({str(starts)!r}).open('a').write('x')"
    with running(Supervisor([a_part(code)], tmp_path, backoff=Backoff(first=0.05))):
        wait_until(lambda: starts.exists() and len(starts.read_text()) >= 3, "it is not started again")
        assert not (tmp_path / "up.json").exists()
        in_the_way.rmdir()
        wait_until(lambda: told(tmp_path, "sink-erp-0").get("restarts"), "it does not say so once there is room")
    (tmp_path / "parts" / f".sink-erp-0.json.{os.getpid()}").mkdir(parents=True)
    with being("sink-erp-0", tmp_path) as part:
        part.tell(state="running")
        assert is_held(tmp_path / "parts" / "sink-erp-0.lock")


def test_a_part_that_keeps_dying_waits_longer_each_time(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    code = f"import time; open({str(starts)!r}, 'a').write(f'{{time.monotonic()}}\\n')"
    with running(Supervisor([a_part(code)], tmp_path, backoff=Backoff(first=0.1, longest=0.8))):
        wait_until(lambda: starts.exists() and len(starts.read_text().splitlines()) >= 5, "five starts")
    times = [float(line) for line in starts.read_text().splitlines()]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    for gap, least in zip(gaps, (0.1, 0.2, 0.4, 0.8), strict=False):
        assert gap >= least
    assert Backoff(first=0.1, longest=0.8).wait(30) == 0.8


def test_the_wait_begins_anew_after_the_part_ran_well(tmp_path: Path) -> None:
    supervisor = Supervisor([a_part(SLEEPER)], tmp_path, backoff=Backoff(first=0.05, longest=60, well_after=0.0))
    with running(supervisor):
        for _ in range(8):  # with doubling the last wait would be over six seconds
            pid = pid_of(tmp_path, "sink-erp-0")
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: told(tmp_path, "sink-erp-0").get("pid") not in (None, pid), "not started again", seconds=5)  # noqa: B023  called at once


def test_stopping_goes_downstream_and_kills_what_hangs(tmp_path: Path) -> None:
    order = tmp_path / "order"
    code = (
        "import signal, sys, threading\n"
        "def end(*_):\n    open({order!r}, 'a').write({name!r} + '\\n'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); open({ready!r}, 'w').close(); threading.Event().wait()"
    )
    parts = []
    for stage, name in ((2, "sink-crm-0"), (0, "source-crm"), (1, "streams-0")):
        parts.append(a_part(code.format(order=str(order), name=name, ready=str(tmp_path / f"{name}.ready")), name, stage))
    deaf = STUBBORN.replace("print('up', flush=True)", f"open({str(tmp_path / 'stubborn.ready')!r}, 'w').close()")  # once it is
    stubborn = a_part(deaf, "source-erp", 0)
    with running(Supervisor([*parts, stubborn], tmp_path, stop_after=0.5)):
        wait_until(lambda: len(list(tmp_path.glob("*.ready"))) == 4, "not all parts are up")
        hanging = pid_of(tmp_path, "source-erp")
    assert order.read_text().split() == ["source-crm", "streams-0", "sink-crm-0"]
    wait_until(lambda: not is_alive(hanging), "the part that ignores SIGTERM is still there")
    assert told(tmp_path, "source-erp")["last_exit"] == {
        "code": -9,
        "reason": "killed by SIGKILL",
        "at": told(tmp_path, "source-erp")["last_exit"]["at"],  # type: ignore[index]
    }


def test_kill_9_of_the_supervisor_leaves_no_child(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom console.supervise import PartCommand, Supervisor\n"
        f"parts = [PartCommand(f'sink-erp-{{n}}', (sys.executable, '-c', {PART!r}), 2) for n in range(3)]\n"
        f"Supervisor(parts, Path({str(tmp_path)!r})).run()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) as supervisor:
        children = [pid_of(tmp_path, f"sink-erp-{number}") for number in range(3)]
        assert all(map(is_alive, children))
        supervisor.kill()
    wait_until(lambda: not any(map(is_alive, children)), "children outlive their supervisor")


def test_a_second_supervisor_of_the_same_pipeline_is_refused(tmp_path: Path) -> None:
    with running(Supervisor([a_part(SLEEPER)], tmp_path)):
        pid_of(tmp_path, "sink-erp-0")
        with pytest.raises(Busy, match=f"up already: pid {os.getpid()}"):
            Supervisor([a_part(SLEEPER)], tmp_path).run()
        assert told(tmp_path, "sink-erp-0")["pid"]


def test_what_a_part_said_before_it_failed_is_its_reason(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom console.parts import being\n"
        f"with being('sink-erp-0', Path({str(tmp_path)!r})) as told:\n    told.tell(error='the slot is gone'); raise SystemExit(2)"
    )
    with running(Supervisor([a_part(code)], tmp_path, backoff=Backoff(first=60))):
        wait_until(lambda: told(tmp_path, "sink-erp-0").get("last_exit"), "it did not end")
        assert told(tmp_path, "sink-erp-0")["last_exit"]["reason"] == "exit status 2: the slot is gone"  # type: ignore[index]


def test_a_part_is_one_process_and_its_lock_ends_with_it(tmp_path: Path) -> None:
    with being("sink-erp-0", tmp_path):
        assert is_held(tmp_path / "parts" / "sink-erp-0.lock")
        assert read_json(tmp_path / "parts" / "sink-erp-0.json")["pid"] == os.getpid()
        with (
            pytest.raises(Busy, match="runs already"),
            held(tmp_path / "parts" / "sink-erp-0.lock", lambda: "sink-erp-0 runs already", seconds=0.1),
        ):
            pass
    assert not is_held(tmp_path / "parts" / "sink-erp-0.lock")


def test_a_part_keeps_its_heartbeat_fresh(tmp_path: Path) -> None:
    with being("streams-0", tmp_path) as told_by:
        before = read_json(tmp_path / "parts" / "streams-0.json")["heartbeat"]
        wait_until(lambda: read_json(tmp_path / "parts" / "streams-0.json")["heartbeat"] > before, "no heartbeat")
        told_by.tell(metrics="http://127.0.0.1:1/metrics")
        assert read_json(tmp_path / "parts" / "streams-0.json")["metrics"] == "http://127.0.0.1:1/metrics"


def test_half_a_file_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"a": 1})[:-1])
    assert read_json(tmp_path / "x.json") == {}
    assert read_json(tmp_path / "none.json") == {}


@pytest.mark.parametrize(("code", "reason"), [(0, "ended"), (2, "exit status 2"), (-15, "killed by SIGTERM"), (-99, "killed by signal 99")])
def test_an_exit_has_a_reason(code: int, reason: str) -> None:
    assert exit_reason(code) == reason
