"""Confidence intervals for pairs that share faces: whole faces are resampled, not pairs.

Each pair is weighted by the product of its two faces' counts (Owen 2007, "The pigeonhole
bootstrap", Annals of Applied Statistics 1(2)). A resample changes a metric by the weighted mean of
the pairs' influences, exactly for the accuracy and to first order for the AUC. One product of two
matrices, of pairs (sparse) and of counts, gives all resamples, for millions of pairs in seconds.

The product of two counts overstates the noise of single pairs threefold: with 2,000 pairs of 1,000
faces the resamples spread 1.6 times too far. So they give an interval its shape, and the dyadic
cluster-robust standard error, which counts each pair's own noise once, its width (Fafchamps and
Gubert 2007, "The formation of risk sharing networks", Journal of Development Economics 83(2);
Aronow et al. 2015, "Cluster-robust variance estimation for dyadic data", Political Analysis 23(4)).
As few or unequal faces make the standard error itself uncertain, the width is that of Student's t,
its degrees of freedom the effective number of faces (Carter et al. 2017, "Asymptotic behavior of a
t-test robust to cluster heterogeneity", Review of Economics and Statistics 99(4)).
"""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.special import expit, logit
from scipy.stats import norm, rankdata
from scipy.stats import t as student

from utkcmp.data.pairs import Pairs
from utkcmp.evaluation.metrics import area_under_roc, pair_metrics

_COLUMNS = 500  # resamples held at once


def bootstrap_faces(
    influence: pd.DataFrame, pairs: Pairs, resamples: int = 1000, seed: int = 42
) -> pd.DataFrame:
    """The change of each metric in each resample, one row per resample.

    influence: as from ``influences``, or the difference of two; pairs: K pairs of image rows.
    """
    faces, left, right = pairs.by_face()
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(faces), np.full(len(faces), 1 / len(faces)), size=resamples)
    counts = counts.T.astype(np.float32)  # (N, R)

    def weighted_sum(values: np.ndarray) -> np.ndarray:  # of the pairs, in each resample: (R,)
        matrix = csr_array((values.astype(np.float32), (left, right)), shape=(len(faces),) * 2)
        blocks = np.split(counts, range(_COLUMNS, resamples, _COLUMNS), axis=1)
        sums = [np.einsum("nr,nr->r", matrix @ some, some, dtype=np.float64) for some in blocks]
        return np.concatenate(sums)

    total = weighted_sum(np.ones(len(pairs)))
    with np.errstate(invalid="ignore"):  # a resample of a small part may have no pairs
        return pd.DataFrame({k: weighted_sum(v.to_numpy()) / total for k, v in influence.items()})


def influences(logits: np.ndarray, label: np.ndarray) -> pd.DataFrame:
    """The influence of each pair on accuracy and AUC: K rows with mean 0.

    For the AUC these are centred placement values (DeLong et al. 1988, "Comparing the areas under
    two or more correlated receiver operating characteristic curves", Biometrics 44(3)).
    logits: (K,); label: (K,), both classes present.
    """
    label = label.astype(bool)
    right = (logits > 0) == label
    placed, ranks = np.empty(len(logits)), rankdata(logits)  # of ties, the mean
    for side in (True, False):
        own = label == side
        share = (ranks[own] - rankdata(logits[own])) / max(1, (~own).sum())
        placed[own] = share if side else 1 - share
    weight = len(label) / np.where(label, label.sum(), (~label).sum())
    auc = placed[label].mean() if label.any() else np.nan
    return pd.DataFrame({"accuracy": right - right.mean(), "auc": (placed - auc) * weight})


def standard_errors(influence: pd.DataFrame, pairs: Pairs) -> pd.DataFrame:
    """The dyadic cluster-robust standard error of each column's mean; see above.

    Returns two rows: ``error``, at least that of independent pairs, and effective ``faces``.
    """
    values, count = influence.to_numpy(), len(influence)
    faces, left, right = pairs.by_face()
    by_face = np.square(
        [np.bincount(left, v, len(faces)) + np.bincount(right, v, len(faces)) for v in values.T]
    )
    alone, together = (values**2).sum(0), by_face.sum(1)
    few = len(faces) / max(1, len(faces) - 2)
    error = np.sqrt(np.maximum(together - alone, alone) * few) / count
    with np.errstate(invalid="ignore"):  # 0 / 0 without errors
        effective = together**2 / np.square(by_face).sum(1)
    return pd.DataFrame([error, effective], ["error", "faces"], influence.columns)


def intervals(
    logits: np.ndarray, pairs: Pairs, resamples: int = 1000, seed: int = 42
) -> dict[str, float]:
    """95% intervals over faces: accuracy_low, accuracy_high, auc_low, auc_high; and ``faces``, the
    effective number of faces behind the accuracy (NaN without errors), small where a few faces
    cause most of the errors.

    logits: (K,); pairs: K pairs of image rows. The intervals are computed on the log-odds scale,
    where the distribution of a share near 1 is more symmetric.
    """
    measured, influence = pair_metrics(logits, pairs.label), influences(logits, pairs.label)
    drawn = bootstrap_faces(influence, pairs, resamples, seed)
    known = standard_errors(influence, pairs)
    bounds = {"faces": float(known.accuracy.faces)}
    for metric in known:
        value = measured[metric]
        if 0 < value < 1:
            odds = logit((value + drawn[metric]).clip(1e-6, 1 - 1e-6))
            error, faces = known[metric]
            slope = value * (1 - value)
            low, high = expit(_rescaled(odds, logit(value), error / slope, faces))
        else:
            low, high = _without_errors(value, pairs)
        bounds |= {f"{metric}_low": float(low), f"{metric}_high": float(high)}
    return bounds


def _without_errors(value: float, pairs: Pairs) -> tuple[float, float]:
    """The interval of a share of 1 or 0, as for the most pairs with no face in common; else NaN."""
    disjoint = max(1, len(pairs.by_face()[0]) // 2)
    bound = 0.025 ** (1 / disjoint)  # Clopper and Pearson 1934
    return {1.0: (bound, 1.0), 0.0: (0.0, 1 - bound)}.get(value, (np.nan, np.nan))


def _rescaled(resampled: pd.Series, value: float, error: float, faces: float) -> np.ndarray:
    """The central 95% of resamples, rescaled to a standard error and its effective faces, (2,)."""
    spread = resampled.std()
    if not spread > 0:
        return np.array([value, value])
    scale = error / spread * student.ppf(0.975, max(1.0, faces - 1)) / norm.ppf(0.975)
    return value + (resampled.quantile([0.025, 0.975]) - resampled.mean()).to_numpy() * scale


def paired_differences(
    answers: dict[str, np.ndarray], pairs: Pairs, resamples: int = 1000, seed: int = 42
) -> pd.DataFrame:
    """All pairwise differences between two or more models on the same pairs.

    answers: by model, logits (K,). Returns one row per pair of models: better, other (by AUC), the
    differences of accuracy and AUC with ``_low`` and ``_high`` (95%), ``p`` (of the AUC, corrected
    for multiple tests: Holm 1979, "A simple sequentially rejective multiple test procedure",
    Scandinavian Journal of Statistics 6(2)) and ``clear``, p < 0.05: the AUCs differ beyond the
    sampling of test faces. Variation between training seeds is not covered.
    """
    aucs = {name: area_under_roc(logits, pairs.label) for name, logits in answers.items()}
    ranked = sorted(answers, key=lambda name: -aucs[name])
    rows = [
        {"better": better, "other": other}
        | paired_difference(answers[better], answers[other], pairs, resamples, seed)
        for better, other in combinations(ranked, 2)
    ]
    table = pd.DataFrame(rows)
    table["p"] = holm(table.p)
    return table.assign(clear=table.p < 0.05)


def holm(p: pd.Series) -> pd.Series:
    """p values corrected for their number (Holm 1979, as above); missing ones stay missing."""
    ordered = p.dropna().sort_values()
    corrected = (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1)
    return corrected.reindex(p.index)


def paired_difference(
    one: np.ndarray, other: np.ndarray, pairs: Pairs, resamples: int = 1000, seed: int = 42
) -> dict[str, float]:
    """Accuracy and AUC of ``one`` minus those of ``other``, with ``_low`` and ``_high`` (95%).

    one, other: logits (K,) on the same pairs. ``p`` tests for equal AUC.
    """
    row, measured = {}, [pair_metrics(logits, pairs.label) for logits in (one, other)]
    influence = influences(one, pairs.label) - influences(other, pairs.label)
    drawn = bootstrap_faces(influence, pairs, resamples, seed)
    known = standard_errors(influence, pairs)
    for metric in known:
        row[metric] = measured[0][metric] - measured[1][metric]
        low, high = _rescaled(drawn[metric] + row[metric], row[metric], *known[metric])
        row |= {f"{metric}_low": low, f"{metric}_high": high}
    error, faces = known.auc
    row["p"] = 2 * student.sf(abs(row["auc"]) / error, max(1.0, faces - 1)) if error else 1.0
    return row


def seed_difference(one: np.ndarray, other: np.ndarray, pairs: Pairs) -> dict[str, float]:
    """Mean AUC of one way of training minus that of another: difference, low, high, p.

    one, other: logits (S, K) of S trainings each, with the same seeds, on the same K pairs. The
    95% interval combines the variance over test faces (of the mean influence) with that over seeds
    (of the S differences; none if S is 1), with Satterthwaite's (1946) degrees of freedom.
    """
    count, label = len(one), pairs.label
    by_seed = list(zip(one, other, strict=True))
    influence = sum(influences(a, label) - influences(b, label) for a, b in by_seed)
    error, faces = standard_errors(influence / count, pairs).auc
    gains = [area_under_roc(a, label) - area_under_roc(b, label) for a, b in by_seed]
    parts = np.array([error**2, np.var(gains, ddof=1) / count if count > 1 else 0.0])
    freedom = np.array([max(1.0, np.nan_to_num(faces) - 1), max(1, count - 1)])
    total, middle = parts.sum(), float(np.mean(gains))
    half, p = 0.0, 1.0
    if total > 0:
        joint = total**2 / (parts**2 / freedom).sum()
        half = student.ppf(0.975, joint) * total**0.5
        p = 2 * student.sf(abs(middle) / total**0.5, joint)
    return {"difference": middle, "low": middle - half, "high": middle + half, "p": p}


def part_accuracy(correct: np.ndarray, pairs: Pairs, part: pd.Series) -> pd.DataFrame:
    """The accuracy on each non-empty part of the pairs, with its 95% interval over faces.

    correct: bool (K,); part: (K,) labels, or a Categorical, whose order is kept. Returns, by part,
    pairs, accuracy, accuracy_low and accuracy_high, symmetric and clipped to 0 and 1.
    """
    rows = {}
    groups = pd.Series(np.arange(len(pairs))).groupby(pd.Series(part), observed=True)
    for name, places in groups:
        some, right = pairs[places.to_numpy()], correct[places]
        known = standard_errors(pd.DataFrame({"accuracy": right - right.mean()}), some).accuracy
        if right.all() or not right.any():
            low, high = _without_errors(float(right.mean()), some)
        else:
            half = student.ppf(0.975, max(1.0, known.faces - 1)) * known.error
            low, high = max(0.0, right.mean() - half), min(1.0, right.mean() + half)
        row = {"pairs": len(some), "accuracy": right.mean()}
        rows[name] = row | {"accuracy_low": low, "accuracy_high": high}
    return pd.DataFrame.from_dict(rows, orient="index")
