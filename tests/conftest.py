"""What several tests share, each made once: a small run, marked faces, a whole report.

All that uses the report runs in one worker of pytest-xdist, all else file by file.
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

# Before anything imports PyTorch or Ray; processes that tests start inherit it.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # tests measure the CPU path
os.environ["OMP_NUM_THREADS"] = "1"  # tiny networks gain nothing from more
os.environ.setdefault("RAY_worker_niceness", "0")  # with Ray's 15 trials starve on a busy machine
os.environ.setdefault("RAY_AUTH_MODE", "token")  # else Ray's choice depends on what ran before
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

REAL_FACERES = faceres_weights()  # which few machines have, before outputs are elsewhere
# What takes longest begins first: all that uses the whole report, then the searches.
FIRST = ["whole_report", "tests/end_to_end/test_cluster.py"]


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in a hook of its own
def pytest_collection_modifyitems(items):
    groups = {}
    for item in items:
        uses = FIRST[0] in getattr(item, "fixturenames", ())
        groups[item] = FIRST[0] if uses else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(groups[item]))
    items.sort(key=lambda item: [*FIRST, groups[item]].index(groups[item]))


@pytest.fixture(autouse=True)
def the_same_faces():
    """The command sets UTKFACE for its kernels; other tests of this process must not see it."""
    before = os.environ.get("UTKFACE")
    yield
    os.environ.pop("UTKFACE", None)
    if before is not None:
        os.environ["UTKFACE"] = before


def pytest_runtest_logreport(report):
    """Say what failed when it happens, not only at the end."""
    if report.failed and hasattr(report, "node"):  # as it comes from a worker of pytest-xdist
        print(f"\n{report.nodeid} failed:\n{report.longreprtext}", flush=True)


def processes_of(value, variable: str = "UTKCMP_OUTPUTS") -> set[int]:
    """Processes that run now and were given this environment variable, this one aside."""
    found, mark = set(), f"{variable}={value}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
        except OSError:  # it has ended
            continue
    return found - {os.getpid()}


def wait_until_ended(value, variable: str = "UTKCMP_OUTPUTS", seconds=150):
    """Wait for ``processes_of`` to be none; else say which they are."""
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
    """Make every model of this process a tiny one; returns what was there before."""
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
    """Tiny networks: for tests of what happens around a network, not of the network."""
    from utkcmp.models import networks

    monkeypatch.setattr(networks, "make_backbone", networks.make_backbone)  # put back afterwards
    use_tiny_backbone()


@pytest.fixture(scope="session")
def outputs(tmp_path_factory):
    """An outputs folder of its own for every test session."""
    folder = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UTKCMP_OUTPUTS", str(folder))
        yield folder


def synthetic_faceres() -> tuple[dict, bytes]:
    """Random weights as the package of HSE-FaceRes holds its own: the graph's JSON, and bytes."""
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
    """Random weights of HSE-FaceRes where the real ones would lie, during one test."""
    from safetensors.torch import save_file

    from utkcmp.models.weights import convert

    path = faceres_weights()
    path.parent.mkdir(exist_ok=True)
    save_file(convert(*synthetic_faceres()), path)
    yield path
    path.unlink()


@pytest.fixture(scope="session")
def small_run(outputs):
    """A run with 120 embedded faces of 32 px, split; gives (Run, RunData)."""
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


ONE_WORKER = {"cpus_per_trial": os.cpu_count()}  # trials in turn: each process takes ten seconds
WHOLE = dict(
    **dict(run="whole", show_faces=False, epochs=2, regressor_epochs=1, data_size=64),
    **dict(eval_pairs=60, resamples=100, seeds=[43], ladder_faces=64, ladder_seeds=1),
    **dict(age_weight=0.2, pretrained={"image_size": 40}),
    **dict(pair_counts=[60], head_seeds=2, photo_faces=10, **ONE_WORKER),
    **dict(tune_models=["SiameseResNet"], num_samples=1, max_num_epochs=1, tune_data_size=32),
    searcher="bayesian",
)


@pytest.fixture(scope="session")
def marked_faces(tmp_path_factory):
    """A folder of 134 drawn faces in UTKFace's format, each with its own pattern of loud dots.

    Wherever one of them is shown, whole or in part, these colours show (test_hidden_faces.py).
    No dot lies between the eyes and the brows: the faces are still found in photos.
    """
    from PIL import Image

    from utkcmp.data.drawing import draw_face, random_face

    folder, rng = tmp_path_factory.mktemp("marked"), np.random.default_rng(0)
    for number in range(130):
        face = random_face(rng)
        pixels = np.array(draw_face(face))
        for y, x in np.ndindex(6, 6):  # one every 40 pixels
            dot = np.s_[max(0, 40 * y - 6) : 40 * y + 6, max(0, 40 * x - 6) : 40 * x + 6]
            if y != 1 or x in (0, 5):
                pixels[dot] = [(255, 0, 255), (0, 255, 0)][rng.integers(2)]
        taken = f"201701{number % 28 + 1:02}{number:09}"
        name = f"{{}}_{face.gender}_{face.ethnicity}_{taken}.jpg.chip.jpg"
        Image.fromarray(pixels).save(folder / name.format(face.age), quality=95)
        if number < 4:  # one picture under two names, with two ages
            shutil.copyfile(folder / name.format(face.age), folder / name.format(face.age + 7))
    return folder


def report_process(outputs: Path, params: dict, *words: str, around=()) -> subprocess.Popen:
    """The command in a session of its own; around: a command that runs it, such as unshare."""
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
    """Whether a command is there and permitted."""
    there = shutil.which(command[0]) is not None
    return there and subprocess.run(command, capture_output=True).returncode == 0


def shut_off(data: Path) -> list[str]:
    """What runs a command without a network and with data that can only be read; nothing where
    that is not permitted."""
    steps = [f"mount --bind {data} {data}", f"mount -o remount,bind,ro {data}", "ip link set lo up"]
    around = ["unshare", "--net", "--mount", "sh", "-c", " && ".join([*steps, 'exec "$@"']), "sh"]
    return around if may(*around, "true") else []


@pytest.fixture(scope="session")
def whole_report(outputs, marked_faces):
    """All notebooks run in miniature by the command on the marked faces, which stay hidden.

    It has no network and may only read the data, where that can be had. It is killed as soon as an
    epoch has ended, and the same command then goes on from there. Gives the Run.
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
    heard = [line for line in said.splitlines() if "network_util.cc" not in line]  # Ray, cut off
    assert (status, heard) == (0, []), shown
    return Run("whole")


# ---- photos, and one tiny model that answers about them ----------------------------------------

SIZE = 32


def make_model(folder, name="SiameseResNet", image_size=SIZE, **options):
    """Save a model, whose weights are those of seed 0, into a folder, as a training does."""
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
    """Six photos with one face each, a group of three, and one of nobody."""
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
    """An outputs folder with one calibrated tiny model, its graphs made, of a run named "first"."""
    from utkcmp.compare.predictor import Predictor
    from utkcmp.evaluation.calibration import Calibration
    from utkcmp.models import networks

    root, whole = tmp_path_factory.mktemp("outputs"), networks.make_backbone
    use_tiny_backbone()
    try:
        folder = make_model(root / "first" / "models" / "siamese")
        Calibration(temperature=0.02, pairs=1000, drawn=True).write(folder)
        assert Predictor(folder).image_size == SIZE  # asked for, the graphs are made
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
