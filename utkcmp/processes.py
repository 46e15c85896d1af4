"""Work in processes of its own, and processes that end with the one that started them.

By themselves, helpers of Ray notice after a minute that nobody is left, processes that decode after
20 seconds, a kernel after one. Here a watcher, this file run by itself, reads from a pipe that ends
with the process it watches, however that dies, and kills what carries its mark. It reads the
environment of other processes, as Linux allows; elsewhere everything ends in its own time.
"""

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
CHUNK, CHUNK_BYTES = 64, 2**22  # items a process takes at a time, and bytes of theirs
AHEAD = 3  # chunks read ahead for each process


def in_processes(function: Callable, items: Iterable, count: int) -> Iterator:
    """``map`` in processes beside this one, in order, taking only few items ahead.

    function: one that can be pickled. count: about how many items there are; few of them are
    mapped here, since a process takes seconds to start. (Threads gain nothing: decoding is many
    short steps, which wait for each other.)
    """
    if count < MANY:
        yield from map(function, items)
        return
    items, failure = iter(items), []

    def chunks():  # joblib reads ahead in a thread of its own, where an error would get lost
        try:
            yield from _chunks(function, items)
        except Exception as error:
            failure.append(error)

    from joblib import Parallel, delayed, parallel_config

    with parallel_config("loky", n_jobs=os.cpu_count(), idle_worker_timeout=20), ends_with_us():
        run = Parallel(return_as="generator", batch_size=1, pre_dispatch=f"{AHEAD}*n_jobs")
        results = run(delayed(_each)(*chunk) for chunk in chunks())
    while True:
        with warnings.catch_warnings(), ends_with_us():
            # Processes that were idle have ended: no matter, others are started.
            warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
            chunk = next(results, None)
        if chunk is None:
            break
        yield from chunk
    if failure:
        raise failure[0]


def _chunks(function: Callable, items: Iterator) -> Iterator[tuple[Callable, list]]:
    """Items in chunks, each with what to do with its items.

    A file too large for a chunk is mapped here, since several of them under way at once would take
    gigabytes.
    """
    chunk, held = [], 0
    for item in items:
        size = len(item[1]) if isinstance(item, tuple) and isinstance(item[-1], bytes) else 0
        if size <= CHUNK_BYTES:
            chunk.append(item)
            held += size
        if len(chunk) == CHUNK or held > CHUNK_BYTES or (chunk and size > CHUNK_BYTES):
            yield function, chunk
            chunk, held = [], 0
        if size > CHUNK_BYTES:
            yield _same, [function(item)]
    if chunk:
        yield function, chunk


def _same(item):
    return item


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
        found = {one for one in found if not _carries(one, WATCHER) and not _ended(one)}
        for one in found:
            with contextlib.suppress(psutil.Error):
                one.kill()
        empty = 0 if found else empty + 1
        time.sleep(0.1)


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        environment = process.environ()
    except (psutil.Error, OSError):  # it has ended, or is not ours
        return False
    return any(environment.get(name, "\0").startswith(mark) for name in MARKS)


def _ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


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
