"""Ray for a block of code: start it on this machine, or join an existing cluster.

Whatever is started here ends with the block, even if it fails or is killed.
"""

import contextlib
import logging
import os
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from utkcmp.params import Params
from utkcmp.processes import end_marked, ends_with_us

# Environment that Ray reads on import; in a cluster it is also sent to the workers.
SETTINGS = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # do not hide GPUs from trials without one
    "RAY_AIR_NEW_OUTPUT": "0",  # progress is shown by trials.progress_callback
    "RAY_TRAIN_V2_ENABLED": "0",
    "RAY_worker_niceness": "0",  # by default Ray gives workers a low priority
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C must stop the notebook, not only the search
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # seconds between saves of the search's state
}
LONGEST_TMPDIR = 40  # characters: Ray's socket paths, of at most 107, are below it


@contextlib.contextmanager
def ray_session(params: Params) -> Iterator[None]:
    """Ray for a ``with`` block, as ``params.ray_address`` says.

    "local" starts Ray on this machine and ends its processes with the block. "auto", "host:port"
    (on a machine of the cluster) and "ray://host:port" (from outside, by Ray's client) join a
    cluster, which is sent this package and keeps running after the block.
    Raises ConnectionError if there is no cluster to join.
    """
    address, options = params.ray_address, {"log_to_driver": False, "logging_level": logging.ERROR}
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if len(tempfile.gettempdir()) > LONGEST_TMPDIR:  # such as a scheduler's folder for a job
        os.environ.setdefault("RAY_TMPDIR", "/tmp")
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="ray")
    try:
        _start(**options) if address == "local" else _join(address, **options)
        yield
    finally:
        ray.shutdown()


def _join(address: str, **options) -> None:
    import ray

    sent = {"py_modules": [str(Path(__file__).parents[1])], "env_vars": SETTINGS}
    try:
        if address != "auto":  # where nothing listens, Ray would wait for minutes
            host, port = address.removeprefix("ray://").rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ConnectionError(
            f"ray_address is {address!r}, but no Ray cluster answers there: start one with "
            "'ray start --head', or set ray_address to local"
        ) from error
    try:
        ray.init(address, runtime_env=sent, **options)
    except (OSError, RuntimeError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ConnectionError(
            f"ray_address is {address!r}, where Ray cannot be joined: expected a cluster of the "
            "same Ray and Python versions and, if it was started with a token, that token in "
            "~/.ray/auth_token and RAY_AUTH_MODE=token in the environment; Ray says: "
            f"{said[0]}"
        ) from error


def _start(attempts: int = 5, **options) -> None:
    """Start Ray on this machine, with retries: its time limit of 30 s is short on a busy one."""
    import ray

    for left in reversed(range(attempts)):
        with ends_with_us() as mark:
            try:  # without "local" Ray would first look for a cluster to join
                ray.init("local", num_cpus=os.cpu_count(), include_dashboard=False, **options)
                return
            except Exception as error:
                ray.shutdown()
                end_marked(mark)  # ray.shutdown leaves processes behind
                if left == 0 or "timed out during startup" not in str(error):
                    raise


def beside_records(function: Callable, *arguments):
    """Call a function where the search's records are kept, and return its result.

    That is this process or, with Ray's client ("ray://"), one on the machine it is connected to.
    """
    import ray

    if not ray.util.client.ray.is_connected():
        return function(*arguments)
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote = ray.remote(num_cpus=0, scheduling_strategy=there)(function)
    return ray.get(remote.remote(*arguments))
