"""Work in processes of its own, and processes that end with the one that started them.

By themselves, helpers of Ray notice after a minute that nobody is left, processes that decode after
20 seconds, a kernel after one. Here a watcher, this file run by itself, reads from a pipe that ends
with the process it watches, however that dies, and kills what carries its mark. It reads the
environment of other processes, as Linux allows; elsewhere everything ends in its own time.
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

import psutil

MANY = 2000  # items from which on processes are worth their start
CHUNK, AHEAD = 32, 3  # items per task; tasks per process that are under way


def in_processes(function: Callable, items: Iterable, count: int) -> Iterator:
    """``map`` in processes beside this one, in order, taking only few items ahead.

    function: one that can be pickled. count: about how many items there are; few of them are
    mapped here, since a process takes seconds to start. (Threads gain nothing: decoding is many
    short steps, which wait for each other.)
    """
    if count < MANY:
        yield from map(function, items)
        return
    from joblib.externals.loky import get_reusable_executor

    items, under_way = iter(items), collections.deque()
    chunks = iter(lambda: list(itertools.islice(items, CHUNK)), [])
    with ends_with_us(), warnings.catch_warnings():  # idle processes have ended: others are started
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        pool = get_reusable_executor(os.cpu_count(), timeout=20)
        try:
            for chunk in chunks:
                under_way.append(pool.submit(_each, function, chunk))
                if len(under_way) == AHEAD * os.cpu_count():
                    yield from under_way.popleft().result()
            while under_way:
                yield from under_way.popleft().result()
        finally:
            for task in under_way:
                task.cancel()


def _each(function: Callable, chunk: list) -> list:
    return [function(item) for item in chunk]


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

    A process shows no mark while it is being started, so a few rounds must find nothing.
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
    try:
        environment = process.environ()
    except (psutil.Error, OSError):  # it has ended, or is not ours
        return False
    return any(environment.get(name, "\0").startswith(mark) for name in MARKS)


@functools.cache
def _watcher(pid: int) -> str:
    """The token of this process, whose number is ``pid``, once it has a watcher: one, however often
    asked. The open end of the watcher's pipe is kept for as long as the process lives."""
    token = uuid.uuid4().hex
    if psutil.LINUX:
        _watcher.pipe = subprocess.Popen(
            [sys.executable, "-I", __file__, f"{token}/"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | dict.fromkeys(MARKS, WATCHER),
            start_new_session=True,  # not killed with the group of the one it watches
        )
    return token


if __name__ == "__main__":
    sys.stdin.read()
    end_marked(sys.argv[1])
