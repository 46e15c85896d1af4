"""The answers of trained models, and their evaluation."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import expit

from utkcmp import models
from utkcmp.data.index import shown_files
from utkcmp.data.pairs import AllPairs, Pairs
from utkcmp.evaluation.bootstrap import intervals
from utkcmp.evaluation.metrics import age_metrics, pair_metrics
from utkcmp.run import RESULT_COLUMNS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from utkcmp.data.datasets import RunData


def answers_to(trained: dict[str, nn.Module], data: RunData, pairs: Pairs) -> dict[str, np.ndarray]:
    """The logits of each model on the same pairs, float64 (K,)."""
    return {
        name: models.pair_logits(model, data.images_for(model), pairs)
        for name, model in trained.items()
    }


def age_table(trained: dict[str, nn.Module], data: RunData) -> pd.DataFrame:
    """``age_metrics`` on the test faces, one row for each model that predicts ages."""
    rows, found = data.rows("test"), {}
    for name, model in trained.items():
        if isinstance(model, models.AgeComparison | models.RankingAgeRegressor):
            predicted = models.predict_ages(model.regressor, data.images_for(model), rows)
            found[name] = age_metrics(predicted, data.ages.numpy()[rows])
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("model")


def all_answers(model: nn.Module, data: RunData) -> tuple[Pairs, np.ndarray]:
    """Every pair of test faces at least a year apart (rows of ``data.images``), and a model's
    logits, float64 (K,). Raises ValueError if the model does not embed each face separately."""
    if not models.embeds_once(model):
        raise ValueError("a model that sees two faces at once cannot be asked millions of pairs")
    pairs = _every_pair(data)
    return pairs, models.pair_logits(model, data.images_for(model), pairs)


def _every_pair(data: RunData) -> Pairs:
    rows = data.rows("test")
    return AllPairs(data.ages.numpy()[rows])[:].take(rows)


def both_orders(
    model: nn.Module, images: Tensor, pairs: Pairs
) -> tuple[np.ndarray, np.ndarray, float]:
    """Logits of the pairs and of the mirrored pairs, float64 (K,) each, and seconds for the former.

    images: uint8 (N, 3, S, S). A model that embeds faces separately sees each face once.
    """
    if not models.embeds_once(model):
        started = time.perf_counter()
        logits = models.pair_logits(model, images, pairs)
        seconds = time.perf_counter() - started
        return logits, models.pair_logits(model, images, pairs.mirrored()), seconds
    rows, left, right = pairs.by_face()
    started = time.perf_counter()
    contributed = models.contributions(model.eval(), images, rows)
    logits = models.compared_logits(model, contributed, left, right)
    seconds = time.perf_counter() - started
    return logits, models.compared_logits(model, contributed, right, left), seconds


@dataclass(frozen=True)
class Evaluated:
    """One model on one split and protocol: the row for results.csv, the pairs and the answers.

    pairs: K pairs of image rows; logits: float64 (K,), positive where the model says left is older.
    """

    row: dict
    pairs: Pairs
    logits: np.ndarray


def evaluate_pairs(
    name: str,
    model: nn.Module,
    data: RunData,
    split: str = "test",
    resamples: int = 1000,
    seed: int | None = None,
) -> list[Evaluated]:
    """Evaluate a pair model on one split, by each protocol that applies.

    ``sample``: fixed pairs shared by all models. ``all``: every pair of test faces a year or more
    apart, for models that embed each face separately. seed: of the training, by default the run's.
    """
    protocols = {"sample": data.pairs(split)}
    if split == "test" and models.embeds_once(model):
        protocols["all"] = _every_pair(data)
    results, seed = [], data.params.seed if seed is None else seed
    for protocol, pairs in protocols.items():
        logits, swapped, seconds = both_orders(model, data.images_for(model), pairs)
        row = {"model": name, "seed": seed, "split": split, "protocol": protocol}
        row |= {"n_pairs": len(pairs), "seconds": round(seconds, 3)}
        row |= pair_metrics(logits, pairs.label) | intervals(logits, pairs, resamples)
        row["swap_disagreement"] = float(((logits > 0) == (swapped > 0)).mean())
        results.append(Evaluated(row, pairs, logits))
    return results


def validate_and_test(
    name: str, model: nn.Module, data: RunData, resamples: int = 1000, seed: int | None = None
) -> list[Evaluated]:
    """``evaluate_pairs`` on the validation split and then on the test split."""
    splits = ("val", "test")
    return sum((evaluate_pairs(name, model, data, one, resamples, seed) for one in splits), [])


def results_table(evaluated: list[Evaluated]) -> pd.DataFrame:
    """The rows for results.csv."""
    return pd.DataFrame([one.row for one in evaluated], columns=RESULT_COLUMNS)


def mistakes(one: Evaluated, data: RunData, n: int = 8) -> pd.DataFrame:
    """The n most confident wrong answers: left, right (image rows), ages, files (named only if
    ``show_faces`` is true), answer, confidence."""
    wrong = np.flatnonzero((one.logits > 0) != (one.pairs.label == 1))
    worst = wrong[np.argsort(-np.abs(one.logits[wrong]), kind="stable")][:n]
    files = shown_files(data.faces, data.params.show_faces)
    table = one.pairs[worst].table(data.faces.assign(file=files))
    table["answer"] = np.where(one.logits[worst] > 0, "left", "right")
    return table.drop(columns="label").assign(confidence=expit(np.abs(one.logits[worst])))
