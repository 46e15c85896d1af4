"""How far an answer can be trusted: calibration, abstention, contradictions."""

from __future__ import annotations

import json
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
from utkcmp.files import atomic
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
    """What was measured of a model on validation faces; the defaults where nothing was.

    temperature: the number to divide logits by; pairs: those that it was fitted on, 0 for none.
    frame: where its faces' points lie, as ``compare.alignment.POINTS``; None for UTKFace's places.
    drawn: the model has seen drawn faces only.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    pairs: int = 0
    frame: Annotated[list[list[float]], AfterValidator(_checked)] | None = None
    drawn: bool = False

    @classmethod
    def read(cls, folder: Path) -> Calibration:
        """That of a model's folder. Raises ValueError if its file cannot be read."""
        path = folder / CALIBRATION
        if not path.exists():
            return cls()
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes(), strict=True)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
        except OSError as error:
            reason = str(error)
        raise ValueError(f"{path} is no calibration: {reason}")

    def write(self, folder: Path) -> None:
        with atomic(folder / CALIBRATION) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")


def fit_temperature(logits: np.ndarray, label: np.ndarray) -> float:
    """The number to divide logits by, so that their probabilities fit the labels best.

    logits: (K,) on validation pairs; label: (K,). Minimises the cross entropy (Guo et al. 2017,
    "On Calibration of Modern Neural Networks", ICML).

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
    """How often answers of a given confidence are correct.

    The confidence of an answer is the probability of the side it names, 0.5 to 1; ``bins`` parts of
    that range. One row per part that has answers, as from ``part_accuracy``, and confidence (mean).
    """
    confidence = scipy.special.expit(np.abs(logits))
    part = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    table = part_accuracy((logits > 0) == (pairs.label == 1), pairs, part)
    return table.assign(confidence=pd.Series(confidence).groupby(part).mean())


def calibration_error(table: pd.DataFrame) -> float:
    """Expected calibration error: the mean gap of confidence and accuracy, weighted by pairs.

    table: as from ``reliability``.
    """
    gaps = (table.confidence - table.accuracy).abs()
    return float(np.average(gaps, weights=table.pairs))


def coverage_curve(logits: np.ndarray, label: np.ndarray, points: int = 50) -> pd.DataFrame:
    """Accuracy where the model answers only its most confident pairs.

    Returns coverage (share answered, up to 1), accuracy, and confidence (the least one answered).
    """
    order = np.argsort(-np.abs(logits), kind="stable")
    correct = ((logits > 0) == (label == 1))[order]
    counts = np.unique(np.linspace(len(order) / points, len(order), points).astype(int).clip(1))
    return pd.DataFrame(
        {
            "coverage": counts / len(order),
            "accuracy": np.cumsum(correct)[counts - 1] / counts,
            "confidence": scipy.special.expit(np.abs(logits[order][counts - 1])),
        }
    )


def circular_share(model: nn.Module, data: RunData, count: int = 400, seed: int = 42) -> float:
    """The share of ``count`` random triples of test faces that a model answers in a circle: a older
    than b, b than c, c than a. A coin flip gives 0.25, an order of all faces 0."""
    rng, rows = np.random.default_rng(seed), data.rows("test")
    triples = np.stack([rng.choice(rows, 3, replace=False) for _ in range(count)])
    asked = Pairs(
        triples.ravel(), np.roll(triples, -1, axis=1).ravel(), np.zeros(3 * count, np.int8)
    )
    older = (models.pair_logits(model, data.images_for(model), asked) > 0).reshape(-1, 3)
    return float((older.all(1) | ~older.any(1)).mean())


def calibrate(folder: Path, data: RunData, frame: list[list[float]] | None = None) -> Calibration:
    """Measure a trained model's temperature on validation pairs and write it beside the model.

    The temperature is that of answers by both orders of two faces, as photos get them.
    frame: where its training faces have their points, as from ``alignment.measure_frame``.
    """
    model = load_pair_model(folder)
    pairs = data.pairs("val")
    temperature = fit_temperature(symmetric_logits(model, data, pairs), pairs.label)
    drawn = data.params.data == EMBEDDED
    found = Calibration(temperature, len(pairs), frame, drawn)
    found.write(Path(folder))
    return found


def symmetric_logits(model, data: RunData, pairs: Pairs) -> np.ndarray:
    """Logits by both orders of two faces, ``(f(left, right) - f(right, left)) / 2``, (K,)."""
    one, other, _ = both_orders(model, data.images_for(model), pairs)
    return (one - other) / 2
