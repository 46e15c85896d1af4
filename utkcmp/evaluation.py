"""Metrics of pair answers, with intervals that know that pairs share faces."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from utkcmp.bootstrap import intervals
from utkcmp.faces import shown_files
from utkcmp.inference import (
    compared_logits,
    contributions,
    embeds_once,
    pair_logits,
    pair_metrics,
)
from utkcmp.pairs import AllPairs, Pairs
from utkcmp.run import RESULT_COLUMNS

REPORTED = Path(__file__).parent / "reported"


@dataclass(frozen=True)
class Evaluated:
    """One model on one split and protocol: the row for results.csv and what it was made from.

    logits: float64 (K,), positive where the model says left is older; pairs: K pairs of image rows.
    """

    row: dict
    pairs: Pairs
    logits: np.ndarray


def swap_disagreement(logits: np.ndarray, swapped: np.ndarray) -> float:
    """Share of pairs whose answer changes when the two faces change places.

    >>> swap_disagreement(np.array([1.0, 2.0]), np.array([-1.0, 0.5]))
    0.5
    """
    return float(((logits > 0) == (swapped > 0)).mean())


def evaluate_pairs(
    name: str, model: nn.Module, data, split: str = "test", resamples: int = 1000
) -> list[Evaluated]:
    """Evaluate a pair model on one split, by the protocols it can answer.

    ``seed``: the fixed sample of pairs that all models share. ``all``, on test faces: every pair at
    least a year apart, for models that embed each face once. data: a RunData.
    """
    row, pairs, images = {"model": name, "split": split}, data.pairs(split), data.images_for(model)
    if not embeds_once(model):
        started = time.perf_counter()
        logits = pair_logits(model, images, pairs)
        seconds = time.perf_counter() - started
        swapped = pair_logits(model, images, pairs.mirrored())
        row["protocol"] = "seed"
        return [_evaluated(row, logits, swapped, pairs, resamples, seconds)]
    rows = data.rows(split)
    protocols = {"seed": pairs}
    if split == "test":
        protocols["all"] = AllPairs(data.ages.numpy()[rows])[:].take(rows)
    started = time.perf_counter()
    contributed = contributions(model.eval(), images, rows)
    embedding = time.perf_counter() - started
    results = []
    for protocol, asked in protocols.items():
        left, right = (np.searchsorted(rows, side) for side in (asked.left, asked.right))
        started = time.perf_counter()
        logits = compared_logits(model, contributed, left, right)
        seconds = time.perf_counter() - started + embedding
        swapped = compared_logits(model, contributed, right, left)
        named = row | {"protocol": protocol}
        results.append(_evaluated(named, logits, swapped, asked, resamples, seconds))
    return results


def validate_and_test(name: str, model: nn.Module, data, resamples: int = 1000) -> list[Evaluated]:
    """``evaluate_pairs`` on the validation split and then on the test split."""
    return [
        one
        for split in ("val", "test")
        for one in evaluate_pairs(name, model, data, split, resamples)
    ]


def _evaluated(row, logits, swapped, pairs, resamples, seconds) -> Evaluated:
    measured = pair_metrics(logits, pairs.label) | intervals(logits, pairs, resamples)
    row = row | measured | {"n_pairs": len(pairs), "seconds": round(seconds, 3)}
    row["swap_disagreement"] = swap_disagreement(logits, swapped)
    return Evaluated({column: row[column] for column in RESULT_COLUMNS}, pairs, logits)


def results_table(evaluated: list[Evaluated]) -> pd.DataFrame:
    """Rows for results.csv, in its columns."""
    return pd.DataFrame([one.row for one in evaluated], columns=RESULT_COLUMNS)


def mistakes(one: Evaluated, data, n: int = 8) -> pd.DataFrame:
    """The n most confidently wrong answers: left, right (image rows), files, ages, probability.

    data: a RunData, whose parameters say whether files are named (``shown_files``).
    """
    wrong = np.flatnonzero((one.logits > 0) != (one.pairs.label == 1))
    worst = wrong[np.argsort(-np.abs(one.logits[wrong]), kind="stable")][:n]
    left, right = one.pairs.left[worst], one.pairs.right[worst]
    files = shown_files(data.faces, data.params.show_faces).to_numpy()
    confidence = torch.sigmoid(torch.from_numpy(np.abs(one.logits[worst]))).numpy()
    return pd.DataFrame(
        {
            "left": left,
            "right": right,
            "left_file": files[left],
            "right_file": files[right],
            "left_age": data.faces.age.to_numpy()[left],
            "right_age": data.faces.age.to_numpy()[right],
            "answer": np.where(one.logits[worst] > 0, "left", "right"),
            "confidence": confidence,
        }
    )


def reported_results() -> pd.DataFrame:
    """What the course project reported of its models; not measured here."""
    return pd.read_csv(REPORTED / "results.csv")


def reported_tuning() -> pd.DataFrame:
    """The trials that the course project reported; not measured here."""
    return pd.read_csv(REPORTED / "tuning.csv")
