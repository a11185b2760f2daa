"""Signals to our own processes, and what a process of ours keeps on its machine."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time

import psutil

from console.parts import ORPHAN_SECONDS, SUPERVISED, read_json
from examples.drive import start, stop
from tests.chaos.faults.plan import Fault
from tests.chaos.faults.world import Broken, Missed, World, seen

RUNNING_SECONDS = 20.0  # a part that another fault has just ended is given so long to be back
GONE_SECONDS = 40.0  # a stop may wait for a line that is held and for a server that is being started again
REFUSED_SECONDS = 60.0


def part(world: World, name: str) -> psutil.Process:
    """The running process of a part, or of the supervisor. Raises Missed."""
    found: list[psutil.Process] = []

    def running() -> bool:
        pid = _pid(world, name)
        with contextlib.suppress(psutil.NoSuchProcess):
            if (
                pid is not None and "console" in (process := psutil.Process(pid)).cmdline() and not ended(process)
            ):  # else somebody else's by now
                found.append(process)
        return bool(found)

    if not seen(running, RUNNING_SECONDS):
        raise Missed(f"{name} was not running")
    return found[0]


def _pid(world: World, name: str) -> int | None:
    if name == "supervisor":
        process = world.concord.process
        return process.pid if process is not None and process.poll() is None else None
    pid = read_json(world.concord.run_dir / "parts" / f"{name}.json").get("pid")
    return pid if isinstance(pid, int) else None


def ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE or not process.is_running()
    except psutil.NoSuchProcess:
        return True


def supervising(world: World) -> psutil.Process:
    """The supervisor, once it holds the lock and so takes signals. Raises Missed."""
    supervisor = part(world, "supervisor")
    if not seen(lambda: read_json(world.concord.run_dir / "up.json").get("pid") == supervisor.pid, RUNNING_SECONDS):
        raise Missed(f"the supervisor, pid {supervisor.pid}, was still starting")
    return supervisor


def _signalled(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        raise Missed(f"{process.pid} had just ended") from None


def kill(world: World, fault: Fault) -> str:
    process = part(world, fault.target)
    _signalled(process, signal.SIGKILL)
    if not seen(lambda: ended(process), GONE_SECONDS):
        raise Broken(f"{fault.target}, pid {process.pid}, is there {GONE_SECONDS:.0f} s after SIGKILL")
    return f"pid {process.pid} ended"


def terminate(world: World, fault: Fault) -> str:
    process = part(world, fault.target)
    began = time.monotonic()
    _signalled(process, signal.SIGTERM)
    if not seen(lambda: ended(process), GONE_SECONDS):
        raise Broken(f"{fault.target}, pid {process.pid}, runs on {GONE_SECONDS:.0f} s after SIGTERM")
    return f"pid {process.pid} ended after {time.monotonic() - began:.1f} s"


def freeze(world: World, fault: Fault) -> str:
    process = part(world, fault.target)
    _signalled(process, signal.SIGSTOP)
    try:
        if not seen(lambda: ended(process) or process.status() == psutil.STATUS_STOPPED, GONE_SECONDS) or ended(process):
            raise Missed(f"{fault.target} ended before it was frozen")
        time.sleep(fault.seconds)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
    return f"pid {process.pid} stood still for {fault.seconds:g} s"


def kill_supervisor(world: World, fault: Fault) -> str:
    """Another is started at once, while the parts of the first are still there: they must go, it must take over."""
    with world.lock("supervisor"):
        supervisor = part(world, "supervisor")
        left = supervisor.children(recursive=True)
        _signalled(supervisor, signal.SIGKILL)
        world.concord.down()
        world.up()
    began = time.monotonic()
    if not seen(lambda: all(map(ended, left)), GONE_SECONDS):
        orphans = [f"{process.pid} ({' '.join(process.cmdline()[3:5])})" for process in left if not ended(process)]
        raise Broken(f"{GONE_SECONDS:.0f} s after SIGKILL of the supervisor its parts are still there: {', '.join(orphans)}")
    return (
        f"{len(left)} parts ended within {max(time.monotonic() - began, 0.0):.1f} s (allowed: {ORPHAN_SECONDS:.0f} s and what is in hand)"
    )


def stop_supervisor(world: World, fault: Fault) -> str:
    with world.lock("supervisor"):
        supervisor = supervising(world)
        left = supervisor.children(recursive=True)
        began = time.monotonic()
        try:
            status = world.concord.down()
        finally:
            world.up()
    if status or not seen(lambda: all(map(ended, left)), 1):
        raise Broken(
            f"concord up did not stop cleanly after SIGTERM: status {status}, {sum(not ended(one) for one in left)} parts are left"
        )
    return f"stopped with {len(left)} parts after {time.monotonic() - began:.1f} s"


def second_supervisor(world: World, fault: Fault) -> str:
    """It must be refused for as long as the first one runs."""
    with world.lock("supervisor"):
        first = supervising(world)
        second = start(world.concord.command("up"), {**world.concord.environment, SUPERVISED: "1"}, world.folder / "second.log")
        try:
            second.wait(REFUSED_SECONDS)
        except subprocess.TimeoutExpired:
            if (world.concord.run_dir / "up.json").exists() and read_json(world.concord.run_dir / "up.json").get("pid") == second.pid:
                raise Broken(f"a second supervisor, pid {second.pid}, was let in beside {first.pid}") from None
            raise Missed("the second supervisor did not get as far as the lock: a service does not answer") from None
        finally:
            status = stop(second)
    if status != 1:
        raise Broken(f"a second supervisor ended with status {status}, expected 1: see second.log")
    return f"refused beside {first.pid}"


def delete_state(world: World, fault: Fault) -> str:
    """SIGKILL, and all that the worker keeps on its disk is removed before the supervisor has it back: what it says of itself, Faust's data
    folder. Its tables, which are in memory, are gone with the process."""
    told = kill(world, fault)
    state = world.concord.run_dir.parent / fault.target
    files = [file for file in (world.concord.run_dir / "parts" / f"{fault.target}.json", *state.rglob("*")) if file.is_file()]
    for file in files:
        file.unlink(missing_ok=True)
    shutil.rmtree(state, ignore_errors=True)
    return f"{told}, {len(files)} files deleted"
