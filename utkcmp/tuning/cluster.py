"""Ray for a block of code: started here, or an existing cluster joined.

Whatever is started here ends with the block, whether it succeeds, fails, is interrupted or killed.
"""

import logging
import os
import socket
import warnings
from collections.abc import Callable
from pathlib import Path

from utkcmp.params import Params
from utkcmp.processes import end_marked, ends_with_us

# Ray reads these when it is imported; in a cluster they are sent to the workers as well.
SETTINGS = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a trial without a GPU may still see one
    "RAY_AIR_NEW_OUTPUT": "0",  # progress is shown by trials.SearchProgress
    "RAY_TRAIN_V2_ENABLED": "0",
    "RAY_worker_niceness": "0",  # trials are the work itself; Ray would put all else before them
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C must stop the notebook, not only the search
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # seconds between records of the search's state
}


class ray_session:
    """Ray for a ``with`` block, as ``params.ray_address`` says.

    "local" starts Ray on this machine and ends its processes with the block. "auto", "host:port"
    (on a machine of the cluster) and "ray://host:port" (from outside, by Ray's client) join a
    cluster, which gets this package's code and stays when the block ends.
    Raises ConnectionError if there is no cluster to join.
    """

    def __init__(self, params: Params):
        self.address = params.ray_address

    def __enter__(self):
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        import ray

        logging.getLogger("ray").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="ray")
        options = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address == "local":
            _start(**options)
            return self
        sent = {"py_modules": [str(Path(__file__).parents[1])], "env_vars": SETTINGS}
        try:
            _knock(self.address)
        except OSError as error:
            raise ConnectionError(
                f"ray_address is {self.address!r}, but no Ray cluster answers there: start one "
                "with 'ray start --head', or set ray_address to local"
            ) from error
        try:
            ray.init(address=self.address, runtime_env=sent, **options)
        except (OSError, RuntimeError) as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise ConnectionError(
                f"ray_address is {self.address!r}, where Ray cannot be joined: expected a cluster "
                "of the same Ray and Python versions and, if it was started with a token, that "
                "token in ~/.ray/auth_token and RAY_AUTH_MODE=token in the environment; Ray says: "
                f"{said[0]}"
            ) from error
        return self

    def __exit__(self, *failure):
        import ray

        ray.shutdown()


def _start(attempts: int = 5, **options) -> None:
    """Start Ray here; it gives itself 30 s, too few on a busy machine."""
    import ray

    for left in reversed(range(attempts)):
        with ends_with_us() as mark:
            try:  # "local": without an address Ray would first look for a cluster to join
                ray.init("local", num_cpus=os.cpu_count(), include_dashboard=False, **options)
                return
            except Exception as error:
                ray.shutdown()
                end_marked(mark)  # Ray forgets what it had started
                if left == 0 or "timed out during startup" not in str(error):
                    raise


def _knock(address: str) -> None:
    """Raise OSError if nothing listens at an address, where Ray would wait for minutes."""
    if address != "auto":
        host, port = address.removeprefix("ray://").rsplit(":", 1)
        socket.create_connection((host, int(port)), timeout=10).close()


def beside_records(function: Callable, *arguments):
    """Call a function in the process that keeps the search's records, and return its result.

    That is this process, or, where Ray is reached by its client ("ray://"), one on the machine
    that the client is connected to.
    """
    import ray

    if not ray.util.client.ray.is_connected():
        return function(*arguments)
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote = ray.remote(num_cpus=0, scheduling_strategy=there)(function)
    return ray.get(remote.remote(*arguments))
