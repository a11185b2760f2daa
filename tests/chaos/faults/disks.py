"""A full disk: a small file system of its own (tmpfs) that shrinks to what is in it, and grows again.

Mounting needs root. `own_mounts` puts us into a mount namespace of our own first: what is mounted is seen by us and our children alone and
goes with the last of them, however that ends. Without the right there are no disks and no such faults; the run says so.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from pathlib import Path

from tests.chaos.faults.plan import Fault
from tests.chaos.faults.processes import kill, part
from tests.chaos.faults.world import Missed, World, seen

CLONE_NEWNS = 0x00020000
MS_REMOUNT, MS_REC, MS_PRIVATE = 0x20, 0x4000, 0x40000
ROOMY = 4 << 30  # bytes; memory is taken for what is written only
PAGE = 4096
MET_SECONDS = 20.0

_libc = ctypes.CDLL(None, use_errno=True)


def own_mounts() -> str | None:
    """From here on mounts of this process are its own. Call it while there is one thread. Returns why not, when it cannot be."""
    if not hasattr(_libc, "unshare"):
        return "this system has no mount namespaces"
    if _libc.unshare(CLONE_NEWNS) or _libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        return f"mounting a small file system needs root ({os.strerror(ctypes.get_errno())})"
    return None


class Disk:
    """A file system of its own at a folder. Raises OSError when it cannot be mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._mount(0, ROOMY)

    def fill(self) -> bool:
        """Not a page more can be written, until `free`. False: what is in it grew while it shrank, and there is still room."""
        self._mount(MS_REMOUNT, max(self.used(), PAGE))
        return self.full()

    def free(self) -> None:
        self._mount(MS_REMOUNT, ROOMY)

    def used(self) -> int:
        told = os.statvfs(self.folder)
        return (told.f_blocks - told.f_bfree) * told.f_frsize

    def full(self) -> bool:
        return os.statvfs(self.folder).f_bfree == 0

    def unmount(self) -> None:
        _libc.umount2(os.fsencode(self.folder), 2)  # MNT_DETACH: whatever still has it open

    def _mount(self, flags: int, size: int) -> None:
        options = f"size={size}".encode()
        for _ in range(50):
            if not _libc.mount(b"tmpfs", os.fsencode(self.folder), b"tmpfs", flags, options):
                return
            if not flags or ctypes.get_errno() != errno.EINVAL:
                break
            size = max(self.used(), PAGE)  # more was written meanwhile
            options = f"size={size}".encode()
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(self.folder))


def fill(world: World, fault: Fault) -> str:
    disk = world.disks.get(fault.target if fault.target == "kafka" else "state")
    if disk is None:
        raise Missed("there is no file system of its own to fill: see what was said at the start")
    return _kafka(world, fault, disk) if fault.target == "kafka" else _state(world, fault, disk)


def _kafka(world: World, fault: Fault, disk: Disk) -> str:
    """Until the broker has met it, and for a while. Then the operator makes room and starts it again, if it has not kept going."""
    with world.lock("kafka"):
        log = world.servers.log("kafka")
        before = log.count("No space left on device")
        try:
            disk.fill()
            if not seen(lambda: log.count("No space left on device") > before or not world.servers.runs("kafka"), MET_SECONDS):
                raise Missed("Kafka did not write anything")
            ended = not world.servers.runs("kafka")
            time.sleep(fault.seconds)
        finally:
            disk.free()
            world.servers.restart("kafka")
    return f"Kafka met a full disk{' and ended' if ended else ''}; room and a restart after {fault.seconds:.1f} s"


def _state(world: World, fault: Fault, disk: Disk) -> str:
    """All parts go on without writing what they say of themselves; a worker that is killed meanwhile must start without."""
    with world.lock("state disk"):
        try:
            if not disk.fill():
                raise Missed("the disk was not full")
            told = kill(world, fault)
            time.sleep(fault.seconds)
            full = disk.full()
        finally:
            disk.free()
        if not full:
            raise Missed("somebody made room")
        part(world, "supervisor")
    return f"full for {fault.seconds:.1f} s; {fault.target}, {told}"
