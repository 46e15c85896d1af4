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

# Environment variables, all alike: a process that gives itself a title overwrites some of them.
MARKS = [f"UTKCMP_ENDS_WITH_{number}" for number in range(8)]
WATCHER = "nothing"  # a watcher's own mark
_numbers = itertools.count()


@contextlib.contextmanager
def ends_with_us() -> Iterator[str]:
    """What is started in this block, and what that starts, ends at the latest with this process.

    Gives the block's mark, for ``end_marked``.
    """
    before = {name: os.environ[name] for name in MARKS if name in os.environ}
    mark = f"{_watcher(os.getpid())}/{next(_numbers)}/"
    os.environ.update(dict.fromkeys(MARKS, mark))
    try:
        yield mark
    finally:
        for name in MARKS:
            os.environ.pop(name, None)
        os.environ.update(before)


def end_marked(mark: str) -> None:
    """Kill all processes that were started with a mark that begins so, and what they have started.

    A process may overwrite its mark (Ray's agents do, by a title) and shows none while it is being
    started; so descendants count, and a few rounds must find nothing. Watchers are spared.
    """
    empty, end, mark, watchers = 0, time.monotonic() + 60, _entries(mark), _entries(WATCHER)
    while empty < 5 and time.monotonic() < end:
        found = [pid for pid in _descendants(_marked(mark)) if not _carries(pid, watchers)]
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        empty = 0 if found else empty + 1
        time.sleep(0.1)


def _entries(mark: str) -> tuple[bytes, ...]:
    """A mark as environments hold it."""
    return tuple(f"{name}={mark}".encode() for name in MARKS)


def _marked(entries: tuple[bytes, ...]) -> list[int]:
    return [pid for pid in _processes() if _carries(pid, entries)]


def _descendants(found: list[int]) -> list[int]:
    """Processes and all that descend from them; zombies, which cannot be killed, aside."""
    children = {}
    for pid in _processes():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
            state, parent = file.read().rpartition(b")")[2].split()[:2]
            if state != b"Z":
                children.setdefault(int(parent), []).append(pid)
    found = list(found)
    for pid in found:  # it grows
        found += [child for child in children.get(pid, []) if child not in found]
    return found


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()] if _has_proc() else []


def _carries(pid: int, entries: tuple[bytes, ...]) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return any(entry.startswith(entries) for entry in file.read().split(b"\0"))
    except OSError:  # it has ended, or is not ours
        return False


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
            os.environ | dict.fromkeys(MARKS, WATCHER),
            file_actions=[(os.POSIX_SPAWN_DUP2, read, 0), *nowhere],
            setsid=True,  # not killed with the group of the one it watches
        )
        os.close(read)
    return token


if __name__ == "__main__":
    sys.stdin.read()
    end_marked(sys.argv[1])
