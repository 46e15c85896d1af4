"""Parallel map, and child processes that die with their parent.

Left alone, Ray's processes outlive a killed parent by a minute, loky's workers by 20 seconds. So a
watcher process (this file as a script) blocks on a pipe that closes however its parent dies, then
kills every process with the parent's mark in its environment. Linux only: elsewhere processes end
by themselves.
"""

import collections
import contextlib
import functools
import itertools
import os
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil

MANY = 2000  # items for which it pays to start processes
CHUNK, AHEAD = 32, 3  # items per task; pending tasks per process


def in_processes(function: Callable, items: Iterable, count: int) -> Iterator:
    """``map`` over worker processes, in order and with bounded read-ahead.

    function: must be picklable. count: approximate number of items; below MANY they are mapped in
    this process, since starting workers takes seconds. (Threads are no faster for decoding.)
    """
    if count < MANY:
        yield from map(function, items)
        return
    from joblib import cpu_count  # heeds affinity and the limits of containers
    from joblib.externals.loky import get_reusable_executor

    items, under_way = iter(items), collections.deque()
    with ends_with_us(), warnings.catch_warnings():  # idle workers stop and are replaced
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        pool = get_reusable_executor(cpu_count(), timeout=20)
        try:
            while chunk := list(itertools.islice(items, CHUNK)):
                under_way.append(pool.submit(lambda some: [function(one) for one in some], chunk))
                if len(under_way) == AHEAD * cpu_count():
                    yield from under_way.popleft().result()
            while under_way:
                yield from under_way.popleft().result()
        finally:
            for task in under_way:
                task.cancel()


# Redundant environment variables, as a process that sets its title overwrites some of them.
MARKS = [f"UTKCMP_ENDS_WITH_{number}" for number in range(8)]
WATCHER = "nothing"  # a watcher's own mark
_numbers = itertools.count()


@contextlib.contextmanager
def ends_with_us() -> Iterator[str]:
    """Processes started in this block, and their descendants, die with this process.

    Yields the block's mark, for ``end_marked``.
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
    """Kill all processes whose mark begins with ``mark``, and their descendants.

    A starting process shows no mark yet, so several rounds in a row must find nothing.
    """
    empty, end = 0, time.monotonic() + 60
    while empty < 5 and time.monotonic() < end:
        found = {one for one in psutil.process_iter() if _carries(one, mark)}
        for one in list(found):
            with contextlib.suppress(psutil.Error):
                found |= set(one.children(recursive=True))  # Ray's agents overwrite their marks
        empty += 1
        for one in found:
            with contextlib.suppress(psutil.Error):
                if one.status() != psutil.STATUS_ZOMBIE and not _carries(one, WATCHER):
                    one.kill()
                    empty = 0
        time.sleep(0.1)


def _carries(process: psutil.Process, mark: str) -> bool:
    try:  # psutil would stop at what a title has overwritten
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
    except OSError:  # ended, or another user's
        return False
    return any(f"{name}={mark}".encode() in environment for name in MARKS)


@functools.cache
def _watcher(pid: int) -> str:
    """Start the watcher of this process, once per ``pid`` as forks inherit the cache; its token."""
    token = uuid.uuid4().hex
    if psutil.LINUX:
        read, _ = os.pipe()  # the other end stays open for as long as this process lives
        watcher = subprocess.Popen(
            [sys.executable, "-I", __file__, f"{token}/"],
            stdin=read,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | dict.fromkeys(MARKS, WATCHER),
            start_new_session=True,  # survives a kill of the parent's process group
        )
        watcher.returncode = 0  # it outlives this process, which is no reason for a warning
        os.close(read)
    return token


if __name__ == "__main__":
    sys.stdin.read()
    end_marked(sys.argv[1])
