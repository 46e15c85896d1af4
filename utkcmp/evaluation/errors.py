"""Errors that models share: pairs that all get wrong, faces in many of them, suspect labels."""

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from utkcmp import models
from utkcmp.data.datasets import RunData
from utkcmp.data.pairs import Pairs
from utkcmp.evaluation.slices import AGES

FOLDS = 5
DOUBT = 0.1  # a label is suspect if its group and the neighbouring ones have less probability


def shared_errors(answers: dict[str, np.ndarray], pairs: Pairs, n: int = 20) -> pd.DataFrame:
    """Up to n pairs that all models answer wrongly, the most confident first.

    answers: by model, logits (K,). As their scales differ, confidence is the mean over models of
    the rank of ``|logit|`` among the K pairs, 0 to 1. Returns left, right, label and confidence.
    """
    logits = np.stack(list(answers.values()))  # (M, K)
    wrong = ((logits > 0) != (pairs.label == 1)).all(0)
    ranks = np.abs(logits).argsort(1).argsort(1) / max(1, len(pairs) - 1)
    confidence = np.where(wrong, ranks.mean(0), -1)
    worst = np.argsort(-confidence, kind="stable")[: min(n, wrong.sum())]
    return pd.DataFrame(vars(pairs[worst]) | {"confidence": confidence[worst]})


def recurring_faces(errors: pd.DataFrame) -> pd.Series:
    """The number of these pairs that each face is in, if two or more, in descending order."""
    times = pd.concat([errors.left, errors.right]).value_counts()
    return times[times > 1]


def suspect_labels(features: np.ndarray, ages: np.ndarray, seed: int = 42) -> pd.DataFrame:
    """Faces whose label is probably wrong, by confident learning.

    features: (N, D) of faces that the network was not trained on; ages: (N,) labelled ages, years.
    A cross-validated logistic regression predicts the age group from the features. A face is
    suspect if the predicted group is two or more groups from its label, has at least the mean
    probability of that group's own faces, and the label's group and its neighbours together have
    less than DOUBT (Northcutt et al. 2021, "Confident Learning: Estimating Uncertainty in Dataset
    Labels", JAIR 70; the conditions on neighbouring groups are ours, since no face shows its exact
    age). Groups with fewer faces than folds are left out. Returns likely (the group) and
    probability, one row per suspect, most probable first, indexed by position among the N.
    """
    edges, names = AGES
    group = pd.cut(ages, edges, labels=False)
    known = np.flatnonzero(np.bincount(group, minlength=len(names))[group] >= FOLDS)
    own = group[known]
    classes, place = np.unique(own, return_inverse=True)
    if len(classes) < 3:
        return pd.DataFrame(columns=["likely", "probability"])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    method = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    chance = cross_val_predict(method, features[known], own, cv=folds, method="predict_proba")
    sure = np.array([chance[place == k, k].mean() for k in range(len(classes))])
    confident = np.where(chance >= sure, chance, 0)
    likely, surely = confident.argmax(1), confident.max(1)
    near = np.abs(classes - own[:, None]) < 2  # the label's group and its neighbours
    other = (surely > 0) & (np.abs(classes[likely] - own) >= 2)
    chosen = np.flatnonzero(other & ((chance * near).sum(1) < DOUBT))
    chosen = chosen[np.argsort(-surely[chosen], kind="stable")]
    table = {"likely": np.array(names)[classes[likely[chosen]]], "probability": surely[chosen]}
    return pd.DataFrame(table, index=known[chosen])


def suspect_faces(model: nn.Module, data: RunData) -> pd.DataFrame:
    """``suspect_labels`` of the validation and test faces, by a trained model's features.

    One row per face, suspects first: row (of ``data.faces``), age, likely (NaN if not suspect),
    conflict (bool: a copy of the picture has an age more than ``max_conflict`` years apart).
    """
    rows = np.flatnonzero(data.faces.split.isin(["val", "test"]))
    ages = data.faces.age.to_numpy()[rows]
    features = models.apply_rows(model.embed, data.images_for(model), rows).numpy()
    suspects = suspect_labels(features, ages, data.params.seed)
    conflict = data.faces.conflict.to_numpy()[rows] > data.params.max_conflict
    table = pd.DataFrame({"row": rows, "age": ages, "conflict": conflict}).join(suspects)
    return table.sort_values("probability", ascending=False, ignore_index=True, kind="stable")
