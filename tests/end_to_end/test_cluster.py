"""Searches by Ray, for real: on a cluster of two nodes on this machine, killed, and cut in half."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pandas as pd
import pytest
from conftest import ONE_WORKER, processes_of, wait_for, wait_until_ended

from utkcmp.params import Params
from utkcmp.tuning import cluster
from utkcmp.tuning.cluster import _start, ray_session
from utkcmp.tuning.tuner import (
    COLUMNS,
    beside_trials,
    compare_all_heads,
    compare_heads,
    head_differences,
    read_epochs,
    read_trials,
    retrain_best,
    search,
    write_best,
)

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
SMALL |= dict(tune_data_size=160, max_num_epochs=2, seed=42, regressor_epochs=1, head_seeds=2)
SMALL |= ONE_WORKER
SPACE = {"resnet_type": ["mobilenet_v3_small"], "batch_size": [16]}
SMALL |= dict(search_space=SPACE | {"lr": [1e-4, 1e-3]})
NARROW = SPACE | {"batch_size": [16, 32], "hidden_layers": [[], [8]]}


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


def start_node(*options, hidden=None, home=None, token=None) -> subprocess.Popen:
    """A Ray node that runs one trial, in a session of its own; it cannot see the folder ``hidden``.

    Workers take any free port: two nodes on one machine would else be given the same ones.
    """
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--block"]
    ray += [f"--num-cpus={os.cpu_count()}"]
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


@contextlib.contextmanager
def joined_cluster(hidden: Path):
    """A head and a second node that cannot see a folder, joined; gives the second node."""
    port, nodes = free_port(), []
    options = ["--include-dashboard=false", f"--ray-client-server-port={free_port()}"]
    try:
        nodes.append(start_node("--head", f"--port={port}", *options))
        wait_for(lambda: listens(port))
        nodes.append(start_node(f"--address=127.0.0.1:{port}", hidden=hidden))
        with ray_session(Params(ray_address=f"127.0.0.1:{port}")):
            import ray

            def both_there():
                assert all(node.poll() is None for node in nodes), "a node has ended"
                return ray.cluster_resources().get("CPU") == 2 * os.cpu_count()

            wait_for(both_there, seconds=60)
            yield nodes[1]
    finally:
        for node in nodes:
            kill_node(node)


@pytest.fixture(scope="module")
def second_node(outputs):
    """One cluster and one session, whose processes the searches below share."""
    with contextlib.ExitStack() as stack:
        for left in (2, 1, 0):  # a node gives its agents 15 seconds, too few on a busy machine
            try:
                node = stack.enter_context(joined_cluster(outputs))
                break
            except (ConnectionError, AssertionError):
                if not left:
                    raise
        yield node


@pytest.fixture
def run(small_run):
    shutil.rmtree(small_run[0].folder / "tuning", ignore_errors=True)
    return small_run[0]


def test_trials_outlive_the_machine_they_ran_on(run, second_node):
    """The first to use the cluster: of its nodes one is left to the others."""
    import ray

    storage, ran_there = run.folder / "tuning/ray", []

    def lose():  # as soon as a trial on the second node has ended an epoch
        def there():
            own = set(descendants(second_node.pid))
            rows = [row for rows in reported(storage).values() for row in rows]
            return {row["pid"] for row in rows} & own

        ran_there.extend(wait_for(there))
        kill_node(second_node)

    killer = threading.Thread(target=lose)
    killer.start()
    longer = {"tune_data_size": 800}  # else one node is done before the other's worker has started
    trials = search("SiameseResNet", run, Params(**parameters(**longer)))
    killer.join()
    assert ran_there
    wait_for(lambda: sum(node["Alive"] for node in ray.nodes()) == 1, seconds=120)
    assert len(trials) == 4 and set(trials.status) <= {"finished", "stopped early"}
    assert trials.auc.notna().all()
    assert len(pd.read_csv(run.tuning("SiameseResNet"))) == 4


def test_a_killed_search_leaves_no_process_and_repeats_no_trial(run, outputs, second_node):
    three = dict(num_samples=3)
    driver, storage = start_driver(outputs, "kill", **three), run.folder / "tuning/ray"
    ended = wait_for(lambda: recorded(storage))
    assert len(processes_of("kill", "TESTED")) > 3
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    wait_until_ended("kill", "TESTED")
    finished = {name: rows for name, rows in reported(storage).items() if name in ended}
    assert finished.keys() == ended
    trials = search("SiameseResNet", run, Params(**parameters(**three)))
    assert len(trials) == 3 and set(trials.status) <= {"finished", "stopped early"}
    kept = trials.set_index("trial")
    for name, rows in finished.items():
        assert kept.loss[name] == min(row["loss"] for row in rows)
        assert kept.total_time[name] == pytest.approx(rows[-1]["time_total_s"])


def test_searches_of_one_session(run, second_node):
    """Trials, heads, failures with reasons from another searcher, the best retrained."""
    p = Params(**parameters(num_samples=2, tune_data_size=60, search_space=NARROW))
    model = "SiameseResNetAge"
    trials = search(model, run, p)
    heads = compare_heads(model, run, p)
    kept = read_trials(run.tuning(model))
    pd.testing.assert_frame_equal(search(model, run, p), kept)  # read, not run
    diverging = NARROW | {"lr": [1e29, 1e30], "hidden_layers": [[8]]}
    changed = {"search_space": diverging, "searcher": "bayesian", "num_samples": 1}
    failed = search(model, run, p.model_copy(update=changed))

    assert list(trials.columns) == COLUMNS and trials.loss.is_monotonic_increasing

    why = failed.status.str.match(r"failed: .*(loss is (nan|inf)|diverged|NaN|parameter lr)")
    assert all(why), failed.status
    assert failed.auc.isna().all() and not run.tuning(model).with_suffix(".yaml").exists()
    assert retrain_best(model, run, p) is None
    assert compare_all_heads(run, p).empty

    assert len(heads) == 4 and set(heads.status) == {"finished"}
    assert heads.groupby(heads.hidden_layers.astype(str)).loss.nunique().eq(2).all()
    assert len(head_differences(heads)) == 1

    write_best(run, model, trials, p)
    fitted = retrain_best(model, run, p)
    assert len(fitted.history) == p.best_epochs
    assert run.model(f"tuned_{model}").joinpath("config.json").exists()
    best = trials.iloc[0]
    beside = beside_trials({model: best}, {model: fitted}, run, p).loc[model]
    assert beside.trial == best.auc and beside.retrained == fitted.best.val_auc
    assert beside["pairs, trial"] == best["iter"] * p.tune_data_size
    assert beside["pairs, retrained"] == p.best_epochs * p.data_size
    assert len(read_epochs(run, model)) == 0  # of the last search, in which all failed


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


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fail", "interrupt"])
def test_no_process_of_ray_outlives_the_run(how, run, outputs):
    driver = start_driver(outputs, how, num_samples=1 if how == "fail" else 2)
    if how == "interrupt":
        wait_for(lambda: reported(run.folder / "tuning/ray"))
        os.kill(driver.pid, signal.SIGINT)
    said, _ = driver.communicate(timeout=1200)
    assert driver.returncode != 0
    assert {"fail": "on purpose", "interrupt": "KeyboardInterrupt"}[how] in said
    wait_until_ended(how, "TESTED")


@pytest.mark.slow
def test_a_search_from_outside_the_cluster(run, outputs, tmp_path):
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
    trials = pd.read_csv(run.tuning("SiameseResNet"))
    assert len(trials) == 4 and set(trials.status) <= {"finished", "stopped early"}
    assert not list(tmp_path.glob(".cache/utkcmp/*")) and not (run.folder / "tuning/ray").exists()


@pytest.mark.parametrize(("length", "expect"), [(40, None), (41, "/tmp"), (90, "/tmp")])
def test_a_long_folder_for_temporary_files_is_not_rays(monkeypatch, length, expect):
    """A scheduler's for a job, say: below it the paths of Ray's sockets would be too long."""
    monkeypatch.setenv("RAY_TMPDIR", "")  # so that it is put back
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/".ljust(length, "x"))
    monkeypatch.setattr(cluster, "_start", lambda **_: None)
    with ray_session(Params()):
        assert os.environ.get("RAY_TMPDIR") == expect


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
        imports = "from utkcmp.tuning.cluster import ray_session; from utkcmp.params import Params"
        process = subprocess.run(
            [sys.executable, "-c", f"{imports}\n{join}"], capture_output=True, text=True
        )
    finally:
        kill_node(head)
    assert process.returncode == 1 and "joined" not in process.stdout
    assert "where Ray cannot be joined: expected" in process.stderr.splitlines()[-1]
