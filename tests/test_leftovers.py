"""Processes that end with the one that started them."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import processes_of, wait_for

from utkcmp import leftovers

NESTED = """
import subprocess, sys, time
from utkcmp.leftovers import ends_with_us
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
from utkcmp.sources import MANY, in_processes
next(in_processes(time.sleep, [0] * 64 + [0.01] * MANY, MANY))
print(0, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("whole_group", [True, False])
@pytest.mark.parametrize(("script", "started"), [(NESTED, 4), (DECODING, 2)])
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


def test_a_process_without_a_mark_yet_is_known():
    """One that is being started shows nothing, as one that is given nothing does; a dead one is
    another thing."""
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    process = subprocess.Popen(sleep, env={})
    wait_for(lambda: leftovers._environment(process.pid) == b"")
    process.kill()
    wait_for(lambda: leftovers._environment(process.pid) is None)  # a zombie
    process.wait()
    assert leftovers._environment(process.pid) is None
    assert leftovers._environment(os.getpid())
    kernel = [pid for pid in leftovers._processes() if not os.path.exists(f"/proc/{pid}/exe")]
    assert all(leftovers._environment(pid) is None for pid in kernel)
