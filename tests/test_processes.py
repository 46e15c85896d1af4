"""Processes that end with the one that started them."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
from conftest import processes_of, wait_for

from utkcmp import processes as leftovers

NESTED = """
import subprocess, sys, time
from utkcmp.processes import ends_with_us
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
start = "import subprocess, time; subprocess.Popen({!r}, start_new_session=True); time.sleep(600)"
with ends_with_us():
    subprocess.Popen([sys.executable, "-c", start.format(sleep)], start_new_session=True)
outside = subprocess.Popen(sleep, start_new_session=True)
print(outside.pid, flush=True)
time.sleep(600)
"""
DECODING = """
import time
from utkcmp.processes import MANY, in_processes
next(in_processes(time.sleep, [0] * 64 + [0.01] * MANY, MANY))
print(0, flush=True)
time.sleep(600)
"""
OVERWRITTEN = """
import subprocess, sys, time
from utkcmp.processes import ends_with_us
title = (
    "import ctypes, time; start = open('/proc/self/stat').read().rsplit(')', 1)[1].split()[47];"
    "ctypes.memset(int(start), 0, 99); print(0, flush=True); time.sleep(600)"  # of the environment
)
with ends_with_us():
    child = subprocess.Popen([sys.executable, "-c", title], stdout=subprocess.PIPE)
child.stdout.readline()
print(0, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("whole_group", [True, False])
@pytest.mark.parametrize(
    ("script", "started"), [(NESTED, 4), (DECODING, 2), (OVERWRITTEN, 2)], ids=range(3)
)
def test_what_a_killed_process_started_ends_too(tmp_path, script, started, whole_group):
    environment = os.environ | {"UTKCMP_OUTPUTS": str(tmp_path)}
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    outside = {int(process.stdout.readline())} - {0}
    wait_for(lambda: len(processes_of(tmp_path)) > started)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    try:
        wait_for(lambda: processes_of(tmp_path) == outside, seconds=60)
    finally:
        for pid in outside:
            os.kill(pid, signal.SIGKILL)


TITLED = """
import subprocess, sys, time
from utkcmp.processes import ends_with_us
child = "import subprocess, time; subprocess.Popen({!r}, env={{}}); time.sleep(600)"
with ends_with_us():
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    subprocess.Popen([sys.executable, "-c", child.format(sleep)], start_new_session=True)
print(0, flush=True)
time.sleep(600)
"""


def test_what_has_lost_its_mark_ends_with_what_started_it():
    process = subprocess.Popen([sys.executable, "-c", TITLED], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    family = wait_for(lambda: two(psutil.Process(process.pid).children(recursive=True)))
    marked = [one for one in family if leftovers.MARKS[0] in one.environ()]
    assert len(marked) == 1
    process.kill()
    process.wait()
    assert not psutil.wait_procs(family, timeout=30)[1]


def two(family: list[psutil.Process]) -> list[psutil.Process] | None:
    """What a process started and what that started, its watcher aside."""
    own = [one for one in family if not leftovers._carries(one, leftovers.WATCHER)]
    return own if len(own) == 2 else None


def test_a_process_that_ends_by_itself_says_nothing_of_its_watcher():
    script = "from utkcmp.processes import ends_with_us\nwith ends_with_us(): pass"
    done = subprocess.run([sys.executable, "-W", "default", "-c", script], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
