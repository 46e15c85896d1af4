"""How far an answer can be trusted: calibration, selective answering, circular answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd
import scipy
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from utkcmp import models
from utkcmp.data.pairs import Pairs
from utkcmp.evaluation.bootstrap import part_accuracy
from utkcmp.evaluation.metrics import pair_metrics
from utkcmp.evaluation.registry import load_pair_model
from utkcmp.evaluation.results import both_orders
from utkcmp.files import write_json
from utkcmp.params import EMBEDDED
from utkcmp.run import CALIBRATION

if TYPE_CHECKING:
    from torch import nn

    from utkcmp.data.datasets import RunData

POINTS = 5  # of a face: eyes, nose, corners of the mouth


def _checked(frame: list) -> list:
    points = np.array(frame)
    if points.shape != (POINTS, 2):
        raise ValueError(f"a frame of {points.shape}, expected {(POINTS, 2)}")
    if not (np.isfinite(points).all() and np.ptp(points, axis=0).min() > 0):
        raise ValueError("a frame whose points lie nowhere or all in one line")
    return frame


@dataclass(frozen=True)
class Calibration:
    """What was measured of a model on validation faces; the defaults if it was not calibrated.

    temperature: divides the logits; pairs: number of pairs it was fitted on. frame: the facial
    landmarks of its training faces, as ``compare.alignment.POINTS``, None for those of UTKFace.
    drawn: the model has seen drawn faces only.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    pairs: int = 0
    frame: Annotated[list[list[float]], AfterValidator(_checked)] | None = None
    drawn: bool = False

    @classmethod
    def read(cls, folder: Path) -> Calibration:
        """The calibration in a model's folder. Raises ValueError if it cannot be read."""
        path = folder / CALIBRATION
        if not path.exists():
            return cls()
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes(), strict=True)
        except (OSError, ValidationError) as error:
            reason = error if isinstance(error, OSError) else error.errors()[0]["msg"]
            raise ValueError(f"{path} is no calibration: {reason}") from None

    def write(self, folder: Path) -> None:
        write_json(asdict(self), folder / CALIBRATION)


def fit_temperature(logits: np.ndarray, label: np.ndarray) -> float:
    """Temperature scaling: the divisor of validation logits that minimises the cross entropy.

    logits, label: (K,). See Guo et al. 2017, "On Calibration of Modern Neural Networks", ICML.

    >>> rng = np.random.default_rng(0)
    >>> logits = rng.normal(0, 2, 20_000)
    >>> label = rng.random(20_000) < scipy.special.expit(logits)
    >>> round(fit_temperature(3 * logits, label), 1)
    3.0
    """
    found = scipy.optimize.minimize_scalar(
        lambda power: pair_metrics(logits / np.exp(power), label)["loss"],
        bounds=(-5, 5),
        method="bounded",
    )
    return float(np.exp(found.x))


def reliability(logits: np.ndarray, pairs: Pairs, bins: int = 10) -> pd.DataFrame:
    """Reliability diagram: accuracy by confidence, the probability (0.5 to 1) of the answer given.

    One row per non-empty bin of equal width, as from ``part_accuracy``, and its mean confidence.
    """
    confidence = scipy.special.expit(np.abs(logits))
    part = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    table = part_accuracy((logits > 0) == (pairs.label == 1), pairs, part)
    return table.assign(confidence=pd.Series(confidence).groupby(part).mean())


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error of a table from ``reliability``, 0 to 1."""
    gaps = (table.confidence - table.accuracy).abs()
    return float(np.average(gaps, weights=table.pairs))


def coverage_curve(logits: np.ndarray, label: np.ndarray, points: int = 50) -> pd.DataFrame:
    """Accuracy if the model answers only its most confident pairs, at ``points`` coverages.

    Returns coverage (share answered, up to 1), accuracy, and the lowest confidence answered.
    """
    order = np.argsort(-np.abs(logits), kind="stable")
    correct = ((logits > 0) == (label == 1))[order]
    counts = np.unique(np.linspace(len(order) / points, len(order), points).astype(int).clip(1))
    accuracy = np.cumsum(correct)[counts - 1] / counts
    confidence = scipy.special.expit(np.abs(logits[order][counts - 1]))
    columns = {"coverage": counts / len(order), "accuracy": accuracy, "confidence": confidence}
    return pd.DataFrame(columns)


def circular_share(model: nn.Module, data: RunData, count: int = 400, seed: int = 42) -> float:
    """The share of ``count`` random triples of test faces with intransitive answers: a older than
    b, b than c, c than a. Coin flips give 0.25, a consistent order 0."""
    rng, rows = np.random.default_rng(seed), data.rows("test")
    triples = np.stack([rng.choice(rows, 3, replace=False) for _ in range(count)])
    left, right = triples.ravel(), np.roll(triples, -1, axis=1).ravel()
    asked = Pairs(left, right, np.zeros(3 * count, np.int8))
    older = (models.pair_logits(model, data.images_for(model), asked) > 0).reshape(-1, 3)
    return float((older.all(1) | ~older.any(1)).mean())


def calibrate(folder: Path, data: RunData, frame: list[list[float]] | None = None) -> Calibration:
    """Fit a trained model's temperature on validation pairs and write it beside the model.

    The temperature is for answers averaged over both orders of the faces, as photos get them.
    frame: the landmarks of its training faces, as from ``alignment.measure_frame``.
    """
    model, pairs = load_pair_model(folder), data.pairs("val")
    logits, swapped, _ = both_orders(model, data.images_for(model), pairs)
    temperature = fit_temperature((logits - swapped) / 2, pairs.label)
    found = Calibration(temperature, len(pairs), frame, data.params.data == EMBEDDED)
    found.write(folder)
    return found
