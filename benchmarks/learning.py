"""The long row, on real faces: time to a given AUC with in-batch pairs and with fixed pairs."""

import contextlib
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.faces import prepared_run
from benchmarks.networks import BATCH, OPTIONS
from benchmarks.rows import row
from utkcmp.data.datasets import RunData
from utkcmp.models.networks import build_model
from utkcmp.training.settings import Settings
from utkcmp.training.solver import fit

STEPS = 50  # between validations
LONGEST = 3  # times our steps, after which fixed pairs are given up and the ratio is a lower bound


class Reached(Exception):
    """The AUC is reached."""


def time_to_auc(
    data: RunData, pairing: str, auc: float, most: int = 5000
) -> tuple[int, float, bool]:
    """Steps until the validation AUC reaches ``auc``, median seconds per step, and whether it did
    within ``most`` steps.

    pairing: "batch", BATCH faces a step and all their pairs, or "list", half as many fixed pairs.
    """
    history = []

    def on_epoch(one):
        history.append(one)
        steps = len(history) * STEPS
        print(f"  {pairing}, {steps} steps: {one['val_auc']:.4f}", file=sys.stderr, flush=True)
        if one["val_auc"] >= auc:
            raise Reached

    by_faces = pairing == "batch"
    settings = Settings.of(
        **OPTIONS | dict(augment="flip", steps_per_epoch=STEPS),
        epochs=most // STEPS,
        patience=most,
        batch_size=BATCH if by_faces else BATCH // 2,
    )
    torch.manual_seed(data.params.seed)
    model = build_model("SiameseResNet")
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Reached):
        fit(
            model,
            data,
            settings,
            train=data.rows("train") if by_faces else data.pairs("train"),
            val=data.pairs("val"),
            folder=Path(folder),
            on_epoch=on_epoch,
        )
    each = statistics.median(one["seconds"] for one in history) / STEPS
    return len(history) * STEPS, each, history[-1]["val_auc"] >= auc


def learning_rows(source: str, size=48, auc=0.93) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        data = prepared_run(source, folder, size)
    steps, each, reached = time_to_auc(data, "batch", auc)
    if not reached:
        raise RuntimeError(
            f"in-batch pairs did not reach a validation AUC of {auc} in {steps} steps"
        )
    name = f"validation AUC {auc} at {size} px, in-batch pairs against fixed ones"
    name += " (steps times seconds per step"
    ours, longest = steps * each, LONGEST * steps
    steps, each, reached = time_to_auc(data, "list", auc, longest)
    name += ")" if reached else f"; not reached by fixed ones in {steps:,} steps)"
    return [row(name, "s", ours, steps * each, steps * each / ours, least=2.5)]
