"""What several tests share: a small run on embedded faces, made once a session."""

import os
import secrets
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from utkcmp.models import networks as models
from utkcmp.run import faceres_weights

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # tests measure the CPU path
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start
os.environ.setdefault("RAY_worker_niceness", "0")  # with Ray's 15 trials starve on a busy machine
os.environ.setdefault("RAY_AUTH_MODE", "token")  # else Ray's choice depends on what ran before
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
torch.set_num_threads(1)  # tiny networks gain nothing from more


REAL_FACERES = faceres_weights()  # which few machines have, before outputs are elsewhere
# Trials one after the other, in one process of Ray's: each takes ten seconds to start.
ONE_WORKER = {"cpus_per_trial": os.cpu_count()}


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


def wait_until_ended(value, variable: str = "UTKCMP_OUTPUTS", seconds=60):
    """Wait for ``processes_of`` to be none; else say which they are."""
    end = time.monotonic() + seconds
    while (left := processes_of(value, variable)) and time.monotonic() < end:
        time.sleep(0.2)
    assert not left, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]


def wait_for(condition, seconds=900):
    end = time.monotonic() + seconds
    while not (got := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
    return got


class TinyBackbone(nn.Sequential):
    """A few thousand weights, batch norm among them, in the place of a torchvision network."""

    def __init__(self, in_channels: int = 3):
        super().__init__(
            nn.Conv2d(in_channels, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )


def use_tiny_backbone():
    """Make every model of this process a tiny one; returns what was there before."""
    before = models.make_backbone
    models.make_backbone = lambda name, weights=None, in_channels=3: (TinyBackbone(in_channels), 16)
    return before


@pytest.fixture
def tiny():
    """Tiny networks: for tests of what happens around a network, not of the network."""
    before = use_tiny_backbone()
    yield
    models.make_backbone = before


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
    from utkcmp.data.archives import data_source
    from utkcmp.data.datasets import RunData
    from utkcmp.data.index import index_faces
    from utkcmp.data.split import keep_for_evaluation, split_faces
    from utkcmp.files import atomic
    from utkcmp.params import Params
    from utkcmp.run import Run

    params = Params(run="small", n_faces=120, data_size=200, eval_pairs=60, batch_size=16)
    faces = index_faces(data_source(params), cache=outputs / "cache", progress=False)
    faces["split"] = split_faces(faces, seed=params.seed)
    faces["evaluate"] = keep_for_evaluation(faces, params.max_conflict)
    run = Run(params.run)
    with atomic(run.faces_csv) as temporary:
        faces.to_csv(temporary, index=False)
    return run, RunData(run, params)


WHOLE = dict(
    **dict(run="whole", show_faces=False, epochs=1, regressor_epochs=1, data_size=64),
    **dict(eval_pairs=60, resamples=100, compare_leaky=True, seeds=[43], split_seeds=[44]),
    **dict(age_weight=0.2, finetune={40: 1, 48: 1}, finetune_steps=2),
    **dict(pair_counts=[60], head_seeds=2, **ONE_WORKER),
    **dict(tune_models=["SiameseResNet"], num_samples=1, max_num_epochs=1, tune_data_size=32),
    searcher="bayesian",
)


@pytest.fixture(scope="session")
def marked_faces(tmp_path_factory):
    """A folder of 130 faces in UTKFace's format, each a random pattern of two loud colours.

    Wherever one of them is drawn, whole or in part, these colours show (test_hidden_faces.py).
    """
    folder = tmp_path_factory.mktemp("marked")
    rng = np.random.default_rng(0)
    for number in range(130):
        age, gender, ethnicity = rng.integers([1, 0, 0], [90, 2, 5])
        pattern = rng.integers(0, 2, (10, 10, 1)) * np.array([255, -255, 255]) + [0, 255, 0]
        pixels = pattern.astype(np.uint8).repeat(20, 0).repeat(20, 1)
        name = f"{{}}_{gender}_{ethnicity}_201701{number % 28 + 1:02}{number:09}.jpg.chip.jpg"
        Image.fromarray(pixels).save(folder / name.format(age), quality=95)
        if number < 4:  # one picture under two names, with two ages
            shutil.copyfile(folder / name.format(age), folder / name.format(age + 7))
    return folder


@pytest.fixture(scope="session")
def whole_report(outputs, marked_faces):
    """The notebooks run in miniature on the marked faces, which stay hidden; gives the Run.

    Without 09, which asks about faces that can be found in photos; these patterns cannot.
    """
    from utkcmp.report.plan import NOTEBOOKS
    from utkcmp.report.runner import make_report
    from utkcmp.run import Run

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UTKFACE", str(marked_faces))  # the report sets it; put back afterwards
        some = [name for name in NOTEBOOKS if name != "09_compare_two_photos"]
        given = WHOLE | {"data": str(marked_faces)}
        make_report(given, only=some, command={"make": "make report"})
    return Run("whole")
