"""What several tests share: a small run on embedded faces, made once a session."""

import os

import pytest
import torch
from torch import nn

from utkcmp import models

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # tests measure the CPU path
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start
torch.set_num_threads(1)  # tiny networks gain nothing from more


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


@pytest.fixture(scope="session")
def small_run(outputs):
    """A run with 120 embedded faces of 32 px, split; gives (Run, RunData)."""
    from utkcmp.datasets import RunData
    from utkcmp.faces import index_faces
    from utkcmp.params import Params, data_source
    from utkcmp.run import Run, atomic
    from utkcmp.split import keep_for_evaluation, split_faces

    params = Params(run="small", n_faces=120, data_size=200, eval_pairs=60, batch_size=16)
    faces = index_faces(data_source(params), cache=outputs / "cache", progress=False)
    faces["split"] = split_faces(faces, seed=params.seed)
    faces["evaluate"] = keep_for_evaluation(faces, params.max_conflict)
    run = Run(params.run)
    with atomic(run.faces_csv) as temporary:
        faces.to_csv(temporary, index=False)
    return run, RunData(run, params)
