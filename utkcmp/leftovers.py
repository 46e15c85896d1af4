"""Processes that end with the one that started them, even where that one is killed.

By themselves, helpers of Ray notice after a minute that nobody is left, processes that decode after
20 seconds, a kernel after one. Here a watcher, this file run by itself, reads from a pipe that ends
with the process it watches, however that dies, and kills what carries its mark. It needs /proc, as
Linux has it; elsewhere everything ends in its own time.
"""

import contextlib
import functools
import itertools
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator

MARK = "UTKCMP_ENDS_WITH"  # an environment variable
KERNEL_THREAD = 0x00200000  # PF_KTHREAD, a flag in /proc/<pid>/stat
_numbers = itertools.count()


@contextlib.contextmanager
def ends_with_us() -> Iterator[str]:
    """What is started in this block, and what that starts, ends at the latest with this process.

    Gives the block's mark, for ``end_marked``.
    """
    before = os.environ.get(MARK)
    os.environ[MARK] = mark = f"{_watcher(os.getpid())}/{next(_numbers)}/"
    try:
        yield mark
    finally:
        if before is None:
            del os.environ[MARK]
        else:
            os.environ[MARK] = before


def end_marked(mark: str) -> None:
    """Kill all processes that were started with a mark that begins so.

    One that is just being started shows no mark for a moment, a long one where it has to wait for a
    processor; so it goes on until a few rounds have found neither.
    """
    wanted, empty, end = f"{MARK}={mark}".encode(), 0, time.monotonic() + 60
    while empty < 5 and time.monotonic() < end:
        seen = {pid: _environment(pid) for pid in _processes()}
        found = [pid for pid, entries in seen.items() if _carries(entries, wanted)]
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        empty = 0 if found or b"" in seen.values() else empty + 1
        time.sleep(0.1)


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()] if _has_proc() else []


def _carries(entries: bytes | None, wanted: bytes) -> bool:
    return any(entry.startswith(wanted) for entry in (entries or b"").split(b"\0"))


def _environment(pid: int) -> bytes | None:
    """What a process was started with; empty while it is being started, None if it has ended, is
    not ours, is the kernel's own, or has had nothing for long. See proc(5)."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            if entries := file.read():
                return entries
        with open(f"/proc/{pid}/stat", "rb") as file:
            facts = file.read().rpartition(b")")[2].split()  # from the third on
    except OSError:
        return None
    state, flags, started = facts[0], int(facts[6]), int(facts[19]) / os.sysconf("SC_CLK_TCK")
    young = time.clock_gettime(time.CLOCK_BOOTTIME) - started < 60
    return b"" if young and state != b"Z" and not flags & KERNEL_THREAD else None


def _has_proc() -> bool:
    return os.path.isdir("/proc/self")


@functools.cache
def _watcher(pid: int) -> str:
    """The token of this process, whose number is ``pid``, once it has a watcher: one, however often
    asked. The open end of the watcher's pipe is kept for as long as the process lives."""
    token = uuid.uuid4().hex
    if _has_proc():
        read, _ = os.pipe()
        nowhere = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-IS", __file__, f"{token}/"],
            {name: value for name, value in os.environ.items() if name != MARK},
            file_actions=[(os.POSIX_SPAWN_DUP2, read, 0), *nowhere],
            setsid=True,  # not killed with the group of the one it watches
        )
        os.close(read)
    return token


if __name__ == "__main__":
    sys.stdin.read()
    end_marked(sys.argv[1])
