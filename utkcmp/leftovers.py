"""Processes that end with the one that started them, even where that one is killed.

By themselves, helpers of Ray notice after a minute that nobody is left, processes that decode after
20 seconds, a kernel after one. Here a watcher reads from a pipe that ends with the process it
watches, however that dies, and kills what carries its mark. It needs /proc, as Linux has it;
elsewhere everything ends in its own time.
"""

import contextlib
import functools
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator

MARK = "UTKCMP_ENDS_WITH"
WATCHER = """
import os, signal, sys, time
mark = sys.argv[1].encode()
sys.stdin.read()
for attempt in range(20):
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if mark in file.read().split(b"\\0"):
                    os.kill(int(name), signal.SIGKILL)
                    found.append(name)
        except OSError:  # it has ended, or is not ours
            continue
    if not found:
        break
    time.sleep(0.1)
"""


@contextlib.contextmanager
def ends_with_us() -> Iterator[None]:
    """What is started in this block, and what that starts, ends at the latest with this process."""
    before = os.environ.get(MARK)
    os.environ[MARK], _ = _watcher(os.getpid())
    try:
        yield
    finally:
        if before is None:
            del os.environ[MARK]
        else:
            os.environ[MARK] = before


@functools.cache
def _watcher(pid: int) -> tuple[str, subprocess.Popen | None]:
    """The mark and the watcher of this process, whose number is ``pid``: one however often asked.

    The open end of the watcher's pipe is kept for as long as the process lives.
    """
    mark = uuid.uuid4().hex
    if not os.path.isdir("/proc"):
        return mark, None
    watcher = subprocess.Popen(
        [sys.executable, "-IS", "-c", WATCHER, f"{MARK}={mark}"],
        env={name: value for name, value in os.environ.items() if name != MARK},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # not killed with the group of the one it watches
    )
    return mark, watcher
