"""Rows on networks: the solver against the bare network, and pairs scored from embedded faces.

Images and ages are random, as a network's speed does not depend on them.
"""

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.rows import Rounds, clock, faster, in_turn, rate, row, seconds, slower
from utkcmp.data.pairs import AllPairs, Pairs, sample_pairs
from utkcmp.evaluation.metrics import pair_metrics
from utkcmp.models.inference import (
    compared_logits,
    contributions,
    pair_logits,
    pick_device,
    to_float,
)
from utkcmp.models.networks import build_model
from utkcmp.training.settings import Settings
from utkcmp.training.solver import fit, pick_precision

BATCH = 128  # faces a step, as in params/utkface.yaml
# The settings of the run on real faces that affect speed.
OPTIONS = dict(optimizer="adamw", lr=1e-3, augment="full", ema=0.99, precision="auto")
OPTIONS |= dict(schedule="constant")
TEST_FACES = 2258  # a tenth of UTKFace
PAIRS = 5000  # of the ``sample`` protocol


def random_faces(count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 images (count, 3, size, size) and float32 ages (count,), with a fixed seed."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=rng)
    return images, torch.randint(1, 90, (count,), generator=rng).float()


def epochs_in_turn(
    other: Callable, rounds: int, model: nn.Module, data, train, val, features=None, **options
) -> Rounds:
    """Train by the solver, and call ``other`` after each epoch: seconds of both, without the first.

    data, train, val, features: as for ``fit``; options: its settings. An epoch's time is the
    ``seconds`` of its history, without checkpointing.
    """
    timed, same_clock = [], SimpleNamespace(perf_counter=clock)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("utkcmp.training.lightning_module.time", same_clock),
    ):
        fit(
            model,
            data,
            Settings.of(**OPTIONS | options, epochs=rounds + 1, patience=rounds + 1),
            train=train,
            val=val,
            folder=Path(folder),
            features=features,
            on_epoch=lambda one: timed.append((one["seconds"], seconds(other))),
        )
    return timed[1:]


def bare_steps(model: nn.Module, size: int, batch: int, steps: int) -> Callable:
    """A function that trains ``model`` for some steps on one random batch on its device.

    Network, precision, memory format, loss and optimizer are those of the solver.
    """
    device = pick_device()
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=OPTIONS["lr"], fused=True)
    faces = torch.randn(batch, 3, size, size, device=device)
    faces = faces.contiguous(memory_format=torch.channels_last)
    ages = random_faces(batch, 1)[1].to(device)
    gap = ages[:, None] - ages[None, :]
    left, right = torch.nonzero(gap, as_tuple=True)
    label = (gap[left, right] > 0).float()
    half = pick_precision(OPTIONS["precision"], device) == "bf16"

    def run():
        for _ in range(steps):
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                brought = model.contribute(model.embed(faces))
                logits = model.compare(brought[left], brought[right])
                loss = binary_cross_entropy_with_logits(logits, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()  # waits for a GPU

    return run


def training_rows(backbone="resnet18", size=None, steps=None, batch=BATCH, rounds=13) -> list[dict]:
    """The solver against the bare network, and the utilisation of a GPU."""
    gpu = pick_device().type == "cuda"
    size, steps = size or (128 if gpu else 64), steps or (200 if gpu else 5)
    images, ages = random_faces(max(256, steps * batch), size)
    one = sample_pairs(ages.numpy(), data_size=1)  # so that validation takes almost no time
    given = dict(train=np.arange(len(ages)), val=one, batch_size=batch, steps_per_epoch=steps)
    bare = bare_steps(build_model("SiameseResNet", backbone=backbone), size, batch, steps)
    model = build_model("SiameseResNet", backbone=backbone)
    data = SimpleNamespace(images=images, ages=ages)
    rounds = epochs_in_turn(bare, rounds, model, data, **given)
    name = f"training steps through the solver at {size} px, against the bare network"
    rows = [rate(name, rounds, steps * batch, "faces/s", 0.90 if gpu else 0.95)]
    if gpu:
        busy = utilisation(lambda: epochs_in_turn(int, 5, model, data, **given))
        name = f"the device's utilisation while the solver trains at {size} px"
        rows.append(row(name, "%", busy, 100, busy / 100, least=0.90))
    return rows


def utilisation(work: Callable) -> float:
    """Mean utilisation of the first CUDA device while ``work`` runs, per cent, by nvidia-smi."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    command += ["--id=0", "--loop-ms=200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            work()
        finally:
            process.terminate()
        return float(np.mean([float(line) for line in process.stdout]))


def pair_by_pair(model: nn.Module, images: torch.Tensor, pairs: Pairs) -> np.ndarray:
    """Logits of pairs, their faces embedded again for each pair."""
    device, logits = next(model.parameters()).device, []
    with torch.no_grad():
        for start in range(0, len(pairs), BATCH):
            some = pairs[start : start + BATCH]
            sides = (to_float(images[side].to(device)) for side in (some.left, some.right))
            logits.append(model(*sides).double().cpu().numpy())
    return np.concatenate(logits)


def face_by_face(model: nn.Module, images: torch.Tensor, pairs: Pairs) -> dict[str, float]:
    """The metrics of pairs of images, each embedded once, as in ``evaluate_pairs``."""
    contributed = contributions(model, images, np.arange(len(images)))
    return pair_metrics(compared_logits(model, contributed, pairs.left, pairs.right), pairs.label)


def evaluation_rows(backbone="resnet18", faces=TEST_FACES, count=PAIRS, rounds=3) -> list[dict]:
    device = pick_device()
    size = 128 if device.type == "cuda" else 32
    model = build_model("SiameseResNet", backbone=backbone).to(device).eval()
    model = model.to(memory_format=torch.channels_last)
    images, ages = random_faces(faces, size)
    some, every = sample_pairs(ages.numpy(), data_size=count), AllPairs(ages.numpy())
    timed = in_turn(
        lambda: pair_logits(model, images, some), lambda: pair_by_pair(model, images, some), rounds
    )
    apart = np.abs(pair_logits(model, images, some) - pair_by_pair(model, images, some)).max()
    about = f"{count:,} pairs of {faces:,} faces at {size} px"
    whole = in_turn(
        lambda: face_by_face(model, images, every[:]),
        lambda: face_by_face(model, images, some),
        rounds,
    )
    return [
        faster(f"evaluating {about}, face by face against pair by pair", timed, 3),
        row("the same: largest difference of logits", "", apart, 1e-4, apart / 1e-4, most=1),
        slower(f"evaluating all {len(every):,} pairs, against {about}", whole, 1.5),
    ]


def transfer_rows(backbone="resnet18", pairs=100_000, part=256, size=64, rounds=3) -> list[dict]:
    """One epoch of the frozen model on cached features, against running the backbone each step."""
    device, faces = pick_device(), 1000
    images, ages = random_faces(faces, size)
    listed = sample_pairs(ages.numpy(), data_size=pairs)
    model, through = (build_model("SiameseResNetAge", backbone=backbone) for _ in range(2))
    through = through.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(through.head.parameters(), lr=OPTIONS["lr"], fused=True)
    half = pick_precision(OPTIONS["precision"], device) == "bf16"

    def run():
        for start in range(0, part, BATCH):
            some = listed[start : start + BATCH]
            label = torch.from_numpy(some.label).float().to(device)
            sides = (to_float(images[side].to(device)) for side in (some.left, some.right))
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss = binary_cross_entropy_with_logits(through(*sides), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    data = SimpleNamespace(images=images, ages=ages)
    given = dict(train=listed, val=listed[:1], features=torch.randn(faces, model.features))
    timed = epochs_in_turn(run, rounds, model, data, **given, batch_size=BATCH, augment="none")
    scaled = [(ours, against * pairs / part) for ours, against in timed]
    name = f"frozen transfer, an epoch of {pairs:,} pairs from known features, against the backbone"
    return [faster(f"{name} at {size} px (timed on {part} pairs)", scaled, 50)]
