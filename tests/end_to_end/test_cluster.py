"""Ray for real: processes, a cluster of two nodes on this machine, kills."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from conftest import ONE_WORKER, processes_of, wait_for, wait_until_ended

from utkcmp.params import Params
from utkcmp.tuning.cluster import _start, ray_session
from utkcmp.tuning.tuner import search

DRIVER = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
from utkcmp.tuning.cluster import ray_session
from utkcmp.params import Params
from utkcmp.run import Run
from utkcmp.tuning.tuner import search
p = Params(**json.loads(sys.argv[1]))
with ray_session(p):
    search("SiameseResNet", Run(p.run), p)
    if "fail" in sys.argv:
        raise SystemError("on purpose")
"""
SMALL = dict(n_faces=120, image_size=16, eval_pairs=60, batch_size=16, num_samples=4)
SMALL |= dict(tune_data_size=160, max_num_epochs=2, seed=42)
SMALL |= dict(search_space={"resnet_type": ["resnet18"], "batch_size": [16], "lr": [1e-4, 1e-3]})


def parameters(**changes) -> dict:
    return SMALL | {"run": "small"} | changes


def start_driver(outputs, *extra, **changes) -> subprocess.Popen:
    """A search in a process of its own, as a batch job would run it."""
    environment = os.environ | {"UTKCMP_OUTPUTS": str(outputs), "TESTED": " ".join(extra)}
    command = [sys.executable, "-c", DRIVER, json.dumps(parameters(**changes)), *extra]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **quiet)


def reported(storage: Path) -> dict[str, list[dict]]:
    """The epochs that each trial of a running search has reported so far, by trial."""
    found = {}
    for path in storage.glob("*/search/*/result.json"):
        lines = path.read_text().splitlines()
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        if rows:
            found[rows[0]["trial_id"]] = rows
    return found


def recorded(storage: Path) -> set[str]:
    """The trials that have ended by the search's own record, from which it would be restored."""
    for path in storage.glob("*/search/experiment_state-*.json"):
        try:
            state = json.loads(path.read_text())
        except ValueError:  # it is being written
            continue
        trials = [json.loads(trial) for trial, _ in state["trial_data"]]
        return {trial["trial_id"] for trial in trials if trial["status"] == "TERMINATED"}
    return set()


@pytest.fixture
def storage(small_run):
    run, _ = small_run
    shutil.rmtree(run.folder / "tuning", ignore_errors=True)
    return run.folder / "tuning" / "ray"


@pytest.mark.parametrize(
    "how", [*(pytest.param(one, marks=pytest.mark.slow) for one in ("fail", "interrupt")), "kill"]
)
def test_no_process_of_ray_outlives_the_run(how, small_run, outputs, storage):
    driver = start_driver(outputs, how, num_samples=1 if how == "fail" else 2, **ONE_WORKER)
    if how != "fail":
        wait_for(lambda: reported(storage))
        assert len(processes_of(how, "TESTED")) > 3
        os.kill(driver.pid, signal.SIGINT if how == "interrupt" else signal.SIGKILL)
    said, _ = driver.communicate(timeout=1200)
    assert driver.returncode != 0
    assert {"fail": "on purpose", "interrupt": "KeyboardInterrupt", "kill": ""}[how] in said
    wait_until_ended(how, "TESTED")


def test_what_a_failed_start_left_ends_before_the_next(monkeypatch):
    import ray

    begun = []

    def init(*address, **options):
        assert all(one.wait(60) == -signal.SIGKILL for one in begun)
        begun.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        if len(begun) < 3:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    _start(attempts=3)
    assert len(begun) == 3 and begun[-1].poll() is None
    begun[-1].kill()


def test_a_killed_driver_goes_on_without_repeating_a_finished_trial(small_run, outputs, storage):
    driver = start_driver(outputs, **ONE_WORKER)
    ended = wait_for(lambda: recorded(storage))
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    finished = {name: rows for name, rows in reported(storage).items() if name in ended}
    assert finished.keys() == ended
    run, p = small_run[0], Params(**parameters(**ONE_WORKER))
    with ray_session(p):
        trials = search("SiameseResNet", run, p)
    assert len(trials) == 4 and set(trials.status) <= {"finished", "stopped early"}
    kept = trials.set_index("trial")
    for name, rows in finished.items():
        assert kept.loss[name] == min(row["loss"] for row in rows)
        assert kept.total_time[name] == pytest.approx(rows[-1]["time_total_s"])


def start_node(*options, hidden=None, home=None, token=None) -> subprocess.Popen:
    """A Ray node of one processor, in a session of its own; it cannot see the folder ``hidden``.

    Workers take any free port: two nodes on one machine would else be given the same ones.
    """
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--num-cpus=1", "--block"]
    ray += ["--node-ip-address=127.0.0.1", "--min-worker-port=0", "--max-worker-port=0", *options]
    if (
        hidden
        and subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0
    ):
        hide = f'mount -t tmpfs none {hidden} && exec "$@"'
        ray = ["unshare", "--mount", "sh", "-c", hide, "sh", *ray]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | ({"HOME": str(home)} if home else {})
    environment |= {"RAY_AUTH_TOKEN": token} if token else {}
    return subprocess.Popen(ray, env=environment, start_new_session=True, **quiet)


def descendants(pid: int) -> list[int]:
    """A process and all it has started, from /proc."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def kill_node(node: subprocess.Popen):
    for pid in descendants(node.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    node.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def listens(port: int) -> bool:
    with socket.socket() as knock:
        return knock.connect_ex(("127.0.0.1", port)) == 0


def test_trials_outlive_the_machine_they_ran_on(small_run, outputs, storage):
    port = free_port()
    options = ["--include-dashboard=false", f"--ray-client-server-port={free_port()}"]
    head = start_node("--head", f"--port={port}", *options)
    worker = None
    try:
        wait_for(lambda: listens(port))
        worker = start_node(f"--address=127.0.0.1:{port}", hidden=outputs)
        run, p = small_run[0], Params(**parameters(ray_address=f"127.0.0.1:{port}"))
        ran_there = []

        def lose():  # as soon as a trial on the second node has ended an epoch
            def there():
                own = set(descendants(worker.pid))
                rows = [row for rows in reported(storage).values() for row in rows]
                return {row["pid"] for row in rows} & own

            ran_there.extend(wait_for(there))
            kill_node(worker)

        with ray_session(p):
            import ray

            wait_for(lambda: ray.cluster_resources().get("CPU") == 2)
            killer = threading.Thread(target=lose)
            killer.start()
            trials = search("SiameseResNet", run, p)
            killer.join()
            assert ran_there
            wait_for(lambda: sum(node["Alive"] for node in ray.nodes()) == 1, seconds=120)
    finally:
        for node in filter(None, (worker, head)):
            kill_node(node)
    assert len(trials) == 4 and set(trials.status) <= {"finished", "stopped early"}
    assert trials.auc.notna().all()
    assert len(pd.read_csv(run.tuning("SiameseResNet"))) == 4


@pytest.mark.slow
def test_a_search_from_outside_the_cluster(small_run, outputs, storage, tmp_path):
    port, client = free_port(), free_port()
    options = ["--include-dashboard=false", f"--ray-client-server-port={client}"]
    head = start_node("--head", f"--port={port}", *options, home=tmp_path)
    try:
        wait_for(lambda: listens(client))
        driver = start_driver(outputs, ray_address=f"ray://127.0.0.1:{client}")
        said, _ = driver.communicate(timeout=1200)
        assert driver.returncode == 0, said
    finally:
        kill_node(head)
    trials = pd.read_csv(small_run[0].tuning("SiameseResNet"))
    assert len(trials) == 4 and set(trials.status) <= {"finished", "stopped early"}
    assert not list(tmp_path.glob(".cache/utkcmp/*")) and not storage.exists()


def test_a_cluster_that_is_not_there_is_named():
    with pytest.raises(ConnectionError, match="'127.0.0.1:9', but no Ray cluster answers"):
        with ray_session(Params(ray_address="127.0.0.1:9")):
            pass


@pytest.mark.slow
def test_a_cluster_of_another_token_is_one_sentence():
    port = free_port()
    options = ["--include-dashboard=false", f"--ray-client-server-port={free_port()}"]
    head = start_node("--head", f"--port={port}", *options, token="0" * 32)
    try:
        wait_for(lambda: listens(port))
        join = f"with ray_session(Params(ray_address='127.0.0.1:{port}')): print('joined')"
        imports = "from utkcmp.cluster import ray_session; from utkcmp.params import Params"
        process = subprocess.run(
            [sys.executable, "-c", f"{imports}\n{join}"], capture_output=True, text=True
        )
    finally:
        kill_node(head)
    assert process.returncode == 1 and "joined" not in process.stdout
    assert "where Ray cannot be joined: expected" in process.stderr.splitlines()[-1]
