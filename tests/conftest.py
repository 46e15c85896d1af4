"""Shared fixtures: a small run, marked faces, a whole report, photos and a model for them.

All tests that use the report run in one worker of pytest-xdist, the others file by file.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from utkcmp.run import faceres_weights

# Must precede the import of PyTorch and Ray; child processes inherit it.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # tests measure the CPU path
os.environ["OMP_NUM_THREADS"] = "1"  # tiny networks gain nothing from more
os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's 15, trials starve on a busy machine
os.environ.setdefault("RAY_AUTH_MODE", "token")  # else Ray's choice depends on earlier runs
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

# A shell's background job ignores Ctrl-C, as would the processes whose answer to it is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_FACERES = faceres_weights()  # evaluated before fixtures move the outputs; often missing
# The longest groups start first: the tests that use the whole report, the searches, and so on.
FIRST = ["whole_report", "tests/end_to_end/test_cluster.py", "tests/report/test_report.py"]
FIRST += ["tests/training/test_solver.py", "tests/compare/test_command.py"]


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    groups = {}
    for item in items:
        uses = FIRST[0] in getattr(item, "fixturenames", ())
        groups[item] = FIRST[0] if uses else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(groups[item]))
    items.sort(key=lambda item: [*FIRST, groups[item]].index(groups[item]))


@pytest.fixture(autouse=True)
def the_same_faces():
    """Restore UTKFACE, which the command sets for its kernels."""
    before = os.environ.get("UTKFACE")
    yield
    os.environ.pop("UTKFACE", None)
    if before is not None:
        os.environ["UTKFACE"] = before


def pytest_runtest_logreport(report):
    """Print failures immediately, not only at the end."""
    if report.failed and hasattr(report, "node"):  # sent by a worker of pytest-xdist
        print(f"\n{report.nodeid} failed:\n{report.longreprtext}", flush=True)


def processes_of(value, variable: str = "UTKCMP_OUTPUTS") -> set[int]:
    """The other running processes that were given this environment variable."""
    found, mark = set(), f"{variable}={value}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
        except OSError:  # it has ended
            continue
    return found - {os.getpid()}


def wait_until_ended(value, variable: str = "UTKCMP_OUTPUTS", seconds=150):
    """Wait until ``processes_of`` is empty; otherwise fail and list them."""
    end = time.monotonic() + seconds
    while (left := processes_of(value, variable)) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not (got := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
    return got


def use_tiny_backbone():
    """Replace the backbone of every model in this process; returns the original factory."""
    from tiny_backbone import TinyBackbone

    from utkcmp.models import networks

    before = networks.make_backbone
    networks.make_backbone = lambda name, weights=None, in_channels=3: (
        TinyBackbone(in_channels),
        16,
    )
    return before


@pytest.fixture
def tiny(monkeypatch):
    """Tiny networks, for tests of the code around a network."""
    from utkcmp.models import networks

    monkeypatch.setattr(networks, "make_backbone", networks.make_backbone)  # restored afterwards
    use_tiny_backbone()


@pytest.fixture(scope="session")
def outputs(tmp_path_factory):
    """A separate outputs folder for the test session."""
    folder = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UTKCMP_OUTPUTS", str(folder))
        yield folder


def synthetic_faceres() -> tuple[dict, bytes]:
    """Random weights in the format of the HSE-FaceRes package: graph JSON and raw bytes."""
    from utkcmp.models.faceres import BLOCKS

    shapes = {"feats/kernel": (1024, 256), "feats/bias": (256,)}
    shapes |= {"age_pred/kernel": (256, 100), "age_pred/bias": (100,)}
    width, ends = 32, ("_bn/batchnorm_1/mul", "_bn/batchnorm_1/sub")
    shapes |= {"conv1/convolution/merged_input": (3, 3, 3, 32), "conv1" + ends[1]: (32,)}
    for block, (channels, _) in enumerate(BLOCKS, start=1):
        shapes[f"conv_dw_{block}/depthwise_kernel"] = (3, 3, width, 1)
        shapes |= {f"conv_dw_{block}{end}": (width,) for end in ends}
        shapes[f"conv_pw_{block}/convolution/merged_input"] = (1, 1, width, channels)
        shapes[f"conv_pw_{block}{ends[1]}"] = (channels,)
        width = channels
    rng, parts = np.random.default_rng(0), []
    for name, shape in shapes.items():
        inputs = np.prod(shape[:2] if "depthwise" in name else shape[:-1])
        bound = (6 / inputs) ** 0.5 if inputs > 1 else 0.2
        bound *= {"conv1/convolution/merged_input": 0.02, "age_pred/kernel": 50}.get(name, 1)
        parts.append(rng.uniform(-bound, bound, shape) + ("mul" in name))
    listed = [{"name": n, "shape": list(s), "dtype": "float32"} for n, s in shapes.items()]
    graph = {"weightsManifest": [{"weights": listed}]}
    return graph, b"".join(part.astype(np.float32).tobytes() for part in parts)


@pytest.fixture
def faceres(outputs):
    """Random weights of HSE-FaceRes in place of the real ones, for one test."""
    from safetensors.torch import save_file

    from utkcmp.models.weights import convert

    path = faceres_weights()
    path.parent.mkdir(exist_ok=True)
    save_file(convert(*synthetic_faceres()), path)
    yield path
    path.unlink()


@pytest.fixture(scope="session")
def small_run(outputs):
    """A run of 120 embedded faces with their split; returns (Run, RunData)."""
    from utkcmp.data import RunData, data_source, index_faces, keep_for_evaluation, split_faces
    from utkcmp.files import write_csv
    from utkcmp.params import Params
    from utkcmp.run import Run

    params = Params(run="small", n_faces=120, data_size=200, eval_pairs=60, batch_size=16)
    faces = index_faces(data_source(params), cache=outputs / "cache", progress=False)
    faces["split"] = split_faces(faces, seed=params.seed)
    faces["evaluate"] = keep_for_evaluation(faces, params.max_conflict)
    run = Run(params.run)
    write_csv(faces, run.faces_csv)
    return run, RunData(run, params)


ONE_WORKER = {"cpus_per_trial": os.cpu_count()}  # in sequence: a process takes ten seconds
WHOLE = dict(
    **dict(run="whole", show_faces=False, epochs=2, regressor_epochs=1, data_size=64),
    **dict(eval_pairs=60, resamples=100, seeds=[43], ladder_faces=64, ladder_seeds=1),
    **dict(age_weight=0.2, pretrained={"image_size": 40}, backbone="mobilenet_v3_small"),
    **dict(pair_counts=[60], head_seeds=2, photo_faces=10, **ONE_WORKER),
    **dict(tune_models=["SiameseResNet"], num_samples=1, max_num_epochs=1, tune_data_size=32),
    searcher="bayesian",
    search_space={"resnet_type": ["resnet18"], "hidden_layers": [[], [64, 32, 16]]},
)


@pytest.fixture(scope="session")
def marked_faces(tmp_path_factory):
    """A folder of 134 drawn faces in UTKFace's format, each with its own pattern of bright dots.

    The dots reveal any picture that shows a face or part of one (test_hidden_faces.py). There are
    none between eyes and brows, so that the faces are still detected in photos.
    """
    from PIL import Image

    from utkcmp.data.drawing import DrawnFace, draw_face

    folder, rng = tmp_path_factory.mktemp("marked"), np.random.default_rng(0)
    for number in range(130):
        face = DrawnFace(rng)
        pixels = np.array(draw_face(face))
        for y, x in np.ndindex(6, 6):  # one every 40 pixels
            dot = np.s_[max(0, 40 * y - 6) : 40 * y + 6, max(0, 40 * x - 6) : 40 * x + 6]
            if y != 1 or x in (0, 5):
                pixels[dot] = [(255, 0, 255), (0, 255, 0)][rng.integers(2)]
        taken = f"201701{number % 28 + 1:02}{number:09}"
        name = f"{{}}_{face.gender}_{face.ethnicity}_{taken}.jpg.chip.jpg"
        Image.fromarray(pixels).save(folder / name.format(face.age), quality=95)
        if number < 4:  # the same picture with two ages
            shutil.copyfile(folder / name.format(face.age), folder / name.format(face.age + 7))
    return folder


def report_process(outputs: Path, params: dict, *words: str, around=()) -> subprocess.Popen:
    """Start the command in a new session; around: a wrapper command, such as unshare."""
    outputs.mkdir(exist_ok=True)
    file = outputs.parent / f"{outputs.name}-{params['run']}.yaml"
    file.write_text(yaml.safe_dump(params))
    return subprocess.Popen(
        [*around, sys.executable, "-m", "utkcmp.report", "-f", str(file), *words],
        env=os.environ | {"UTKCMP_OUTPUTS": str(outputs), "TESTED": str(file)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen) -> tuple[int, str, str]:
    shown, said = process.communicate(timeout=1800)
    return process.returncode, shown, said


def may(*command: str) -> bool:
    """Whether a command exists and is permitted."""
    there = shutil.which(command[0]) is not None
    return there and subprocess.run(command, capture_output=True).returncode == 0


def shut_off(data: Path) -> list[str]:
    """A wrapper command without network and with read-only data; empty if not permitted."""
    steps = [f"mount --bind {data} {data}", f"mount -o remount,bind,ro {data}", "ip link set lo up"]
    around = ["unshare", "--net", "--mount", "sh", "-c", " && ".join([*steps, 'exec "$@"']), "sh"]
    return around if may(*around, "true") else []


@pytest.fixture(scope="session")
def whole_report(outputs, marked_faces):
    """The Run of a miniature report with all notebooks on the marked faces, which stay hidden.

    The command runs without network and with read-only data, if permitted. It is killed after the
    first epoch and then resumed.
    """
    from utkcmp.run import Run

    around, data = shut_off(marked_faces), ["--data", str(marked_faces)]
    process = report_process(outputs, WHOLE, *data, around=around)
    epoch = outputs / "whole/models/siamese/last.ckpt"
    wait_for(lambda: epoch.exists() or process.poll() is not None)
    os.kill(process.pid, signal.SIGKILL)
    status, _, said = finished(process)
    assert status == -signal.SIGKILL, said
    wait_until_ended(outputs.parent / f"{outputs.name}-whole.yaml", "TESTED")
    status, shown, said = finished(report_process(outputs, WHOLE, *data, around=around))
    heard = [line for line in said.splitlines() if "network_util.cc" not in line]  # Ray, offline
    assert (status, heard) == (0, []), shown
    return Run("whole")


# ---- photos, and a tiny model to compare them ----------------------------------------------------

SIZE = 32


def make_model(folder, name="SiameseResNet", image_size=SIZE, **options):
    """Save a model initialised with seed 0 to a folder, as a training does."""
    import torch

    from utkcmp.models.networks import build_model
    from utkcmp.models.storage import save_model

    torch.manual_seed(0)
    model = build_model(name, image_size=image_size, **options)
    history = pd.DataFrame({"epoch": [1], "val_loss": [0.25]})
    save_model(model.eval(), folder, settings={}, history=history)
    return folder


@pytest.fixture(scope="session")
def crops(tmp_path_factory):
    """Six drawn faces of adults, 200 x 200."""
    from utkcmp.data.decode import decode
    from utkcmp.data.synthetic import draw_sample

    folder = draw_sample(tmp_path_factory.mktemp("faces") / "drawn", n=50)
    return [decode(path.read_bytes()) for path in sorted(folder.glob("[34]*_*_*.jpg"))[:6]]


@pytest.fixture(scope="session")
def photos(crops, tmp_path_factory):
    """Six photos with one face each, one with three, and one with none."""
    from PIL import Image

    from utkcmp.compare.robustness import paste

    place = tmp_path_factory.mktemp("photos of faces")
    rng = np.random.default_rng(0)
    for number, crop in enumerate(crops):
        paste(crop, 180, 0.0, 300, rng).save(place / f"{number}.png")
    group = Image.new("RGB", (800, 300), "grey")
    for number, crop in enumerate(crops[:3]):
        group.paste(crop, (20 + 270 * number, 50))
    group.save(place / "group.png")
    Image.new("RGB", (90, 90)).save(place / "wall.png")
    return place


@pytest.fixture(scope="session")
def compare_root(tmp_path_factory):
    """An outputs folder with the run "first": one calibrated tiny model with its graphs."""
    from utkcmp.compare.predictor import Predictor
    from utkcmp.evaluation.calibration import Calibration
    from utkcmp.models import networks

    root, whole = tmp_path_factory.mktemp("outputs"), networks.make_backbone
    use_tiny_backbone()
    try:
        folder = make_model(root / "first" / "models" / "siamese")
        Calibration(temperature=0.02, pairs=1000, drawn=True).write(folder)
        assert Predictor(folder).image_size == SIZE  # exports the graphs
    finally:
        networks.make_backbone = whole
    return root


@pytest.fixture(scope="session")
def predictor(compare_root):
    from utkcmp.compare.predictor import Predictor

    return Predictor(compare_root / "first" / "models" / "siamese")


@pytest.fixture
def outputs_here(compare_root, monkeypatch):
    monkeypatch.setenv("UTKCMP_OUTPUTS", str(compare_root))
    return compare_root
