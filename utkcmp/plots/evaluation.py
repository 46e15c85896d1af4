"""Figures of answers: curves, accuracies, intervals, maps."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

from utkcmp.plots.style import GAP_LABELS, LEFT, MUTED, RIGHT


def roc_curves(answers: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """ROC curves of several models.

    answers: by model name, (label, logits), each (K,), label 1 where left is older.
    """
    figure, axis = plt.subplots(figsize=(5 if len(answers) < 3 else 8.5, 4.6))
    for name, (label, logits) in answers.items():
        false_rate, true_rate, _ = roc_curve(label, logits)
        area = roc_auc_score(label, logits)
        axis.plot(false_rate, true_rate, label=f"{name}: {area:.3f}")
    axis.plot([0, 1], [0, 1], color=MUTED, linestyle=":", label="coin flip: 0.500")
    axis.set(
        xlabel="right is older, answered left (share)",
        ylabel="left is older, answered left (share)",
        title="ROC curve, area in the legend",
        aspect="equal",
    )
    beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if len(answers) > 2 else {}
    axis.legend(frameon=False, **beside or {"loc": "lower right"})
    return figure


def accuracy_by_gap(gaps: np.ndarray, correct: np.ndarray) -> Figure:
    """Accuracy by age gap, with Wilson-like error bars of two standard errors.

    gaps: (K,) years, positive; correct: (K,) bool.
    """
    bins = pd.cut(gaps, [0, 1, 2, 5, 10, 20, np.inf], labels=GAP_LABELS)
    table = pd.DataFrame({"gap": bins, "correct": correct}).groupby("gap", observed=True).correct
    mean, count = table.mean(), table.size()
    error = 2 * np.sqrt(mean * (1 - mean) / count)
    figure, axis = plt.subplots(figsize=(7, 3.4))
    names = [f"{gap}\n{n:,} pairs" for gap, n in count.items()]
    axis.errorbar(names, mean, yerr=error, fmt="o-", color=RIGHT, capsize=3)
    axis.axhline(0.5, color=MUTED, linestyle=":", label="coin flip")
    axis.set(
        xlabel="age gap of the pair (years)",
        ylabel="accuracy",
        ylim=(min(0.45, (mean - error).min() - 0.03), 1.03),
        title="Accuracy by age gap",
    )
    axis.legend(frameon=False)
    return figure


def gaps_and_ceiling(
    gaps: np.ndarray, correct: dict[str, np.ndarray], ceiling: pd.Series
) -> Figure:
    """Accuracy by age gap of several models, below what the labels' noise allows.

    gaps: (K,) years, positive; correct: by model, (K,) bool; ceiling: accuracy by gap in years, or
    NaN where it is not known.
    """
    bins = pd.cut(gaps, [0, 1, 2, 5, 10, 20, np.inf], labels=GAP_LABELS)
    figure, axis = plt.subplots(figsize=(8, 3.8))
    allowed = pd.Series(ceiling.reindex(gaps).to_numpy()).groupby(bins, observed=True).mean()
    if allowed.notna().any():
        axis.plot(allowed.index.astype(str), allowed, color=LEFT, label="what the labels allow")
        axis.fill_between(allowed.index.astype(str), allowed, 1.02, color=LEFT, alpha=0.12)
    for name, right in correct.items():
        mean = pd.Series(right).groupby(bins, observed=True).mean()
        axis.plot(mean.index.astype(str), mean, "o-", label=name, markersize=5)
    axis.axhline(0.5, color=MUTED, linestyle=":", label="coin flip")
    axis.set_ylim(min(0.45, axis.get_ylim()[0]), 1.02)
    axis.set(
        xlabel="age gap of the pair (years)",
        ylabel="accuracy",
        title="Accuracy by age gap, and its ceiling",
    )
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def predicted_ages(true: np.ndarray, predicted: np.ndarray) -> Figure:
    """Predicted against true ages, both (N,) years, with the line of no error."""
    figure, axis = plt.subplots(figsize=(5, 4.6))
    axis.scatter(true, predicted, s=8, alpha=0.4, color=RIGHT, rasterized=len(true) > 2000)
    limits = [0, max(true.max(), predicted.max()) + 3]
    axis.plot(limits, limits, color=LEFT, linestyle=":", label="no error")
    axis.axhline(np.median(true), color=MUTED, linestyle="--", label="median age")
    axis.set(xlabel="age in the label (years)", ylabel="predicted age (years)", title="Ages")
    axis.legend(frameon=False)
    return figure


def compared_models(measured: pd.DataFrame, reported: pd.DataFrame, metric: str = "auc") -> Figure:
    """Each model's figure with its interval, and what the course project reported of it.

    measured: rows of results.csv (one protocol); reported: columns model and ``metric``.
    """
    height = 0.6 * len(measured) + 1.6  # inches
    figure, axis = plt.subplots(figsize=(8, height))
    for y, row in enumerate(measured.itertuples()):
        value = getattr(row, metric)
        low, high = getattr(row, f"{metric}_low"), getattr(row, f"{metric}_high")
        axis.errorbar(
            value,
            y,
            xerr=[[value - low], [high - value]],
            fmt="o",
            color=RIGHT,
            capsize=4,
            label="measured here, 95 % interval" if y == 0 else None,
        )
        there = reported[reported.model == row.model][metric]
        axis.plot(there, [y + 0.25] * len(there), "D", color=LEFT, markersize=5, alpha=0.8)
    axis.plot([], [], "D", color=LEFT, markersize=5, label="reported by the course project")
    axis.axvline(0.5, color=MUTED, linestyle=":")
    axis.set_yticks(range(len(measured)), measured.model)
    axis.invert_yaxis()
    name = "AUC" if metric == "auc" else metric
    axis.set(xlabel=f"{name} on test pairs", title=f"{name} of each model")
    below = 0.6 / (0.77 * height)  # six tenths of an inch
    axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -below), ncols=2)
    return figure


def score_scatter(left: np.ndarray, right: np.ndarray) -> Figure:
    """Each face's contribution to the logit as the left face against that as the right, (N,)."""
    figure, axis = plt.subplots(figsize=(4.8, 4.4))
    axis.scatter(left, right, s=10, alpha=0.5, color=RIGHT, rasterized=len(left) > 2000)
    ends = np.array([left.min(), left.max()])
    axis.plot(ends, -ends, color=LEFT, linestyle=":", label="opposite")
    axis.set(
        xlabel="contribution as the left face (logit)",
        ylabel="contribution as the right face (logit)",
        title="One point a test face",
    )
    axis.legend(frameon=False)
    return figure


def slice_intervals(table: pd.DataFrame) -> Figure:
    """Accuracy of each part of the pairs with its interval, the whole as a line.

    table: as from ``slices.slice_table``; small cells are hollow.
    """
    whole, parts = table.iloc[0], table.iloc[1:]
    names = parts.slice.unique()
    heights = [(parts.slice == name).sum() for name in names]
    figure, axes = plt.subplots(
        len(names),
        sharex=True,
        figsize=(8, 0.3 * sum(heights) + 1.2),
        height_ratios=heights,
        squeeze=False,
    )
    for axis, name in zip(axes.flat, names, strict=True):
        some = parts[parts.slice == name]
        for y, row in enumerate(some.itertuples()):
            bars = [[row.accuracy - row.accuracy_low], [row.accuracy_high - row.accuracy]]
            face = "white" if row.small else RIGHT
            axis.errorbar(row.accuracy, y, xerr=bars, fmt="o", color=RIGHT, mfc=face, capsize=2)
        labels = [f"{row.part} ({row.pairs:,})" for row in some.itertuples()]
        axis.set_yticks(range(len(some)), labels)
        axis.set(ylim=(len(some) - 0.5, -0.5))
        axis.set_title(name, fontsize=10)
        axis.axvline(whole.accuracy, color=LEFT, linestyle=":")
    axes[-1, 0].set_xlabel("accuracy (dotted: all pairs; hollow: few faces or pairs)")
    return figure


def age_heat_map(accuracy: pd.DataFrame, count: pd.DataFrame, few: int = 200) -> Figure:
    """Accuracy by the ages of the two faces. Both: as from ``slices.age_grid``; cells of fewer than
    ``few`` pairs are pale."""
    figure, axis = plt.subplots(figsize=(6.6, 5.2))
    style = {"vmin": 0.5, "vmax": 1, "cmap": "viridis", "ax": axis, "linewidths": 0.5}
    sns.heatmap(accuracy, annot=True, fmt=".2f", cbar_kws={"label": "accuracy"}, **style)
    for text in axis.texts:
        x, y = map(int, text.get_position())
        if count.iloc[y, x] < few:
            axis.add_patch(plt.Rectangle((x, y), 1, 1, color="white", alpha=0.65, lw=0))
            text.set_color("#333333")  # legible on the pale cell
    axis.set(xlabel="age of the younger (years, from)", ylabel="age of the older (years, from)")
    axis.set_title("Accuracy by both ages")
    axis.tick_params(axis="y", rotation=0)
    return figure


def calibration_curves(tables: dict[str, pd.DataFrame]) -> Figure:
    """Accuracy against confidence, one line a table of ``trust.reliability``."""
    figure, axis = plt.subplots(figsize=(5, 4.4))
    for (name, table), colour in zip(tables.items(), (LEFT, RIGHT), strict=False):
        axis.plot(table.confidence, table.accuracy, "o-", color=colour, label=name, ms=4)
    axis.plot([0.5, 1], [0.5, 1], color=MUTED, linestyle=":", label="as often right as it says")
    axis.set(xlabel="confidence of the answer", ylabel="accuracy", title="Calibration")
    axis.legend(frameon=False)
    return figure


def coverage_curves(curves: dict[str, pd.DataFrame]) -> Figure:
    """Accuracy where only the most confident pairs are answered: tables of ``coverage_curve``."""
    figure, axis = plt.subplots(figsize=(7, 3.6))
    for name, curve in curves.items():
        axis.plot(curve.coverage, curve.accuracy, label=name)
    axis.set(xlabel="share of the pairs answered", ylabel="accuracy", title="Saying less")
    axis.legend(frameon=False)
    return figure


def embedding_map(places: np.ndarray, ages: np.ndarray) -> Figure:
    """One point a face, coloured by age. places: (N, 2); ages: (N,) years."""
    figure, axis = plt.subplots(figsize=(6.4, 5))
    points = axis.scatter(*places.T, c=ages, s=9, cmap="viridis", rasterized=len(ages) > 2000)
    figure.colorbar(points, label="age (years)")
    axis.set(xticks=[], yticks=[], xlabel="t-SNE, no unit", title="Faces as the model sees them")
    return figure


def differences(table: pd.DataFrame) -> Figure:
    """Paired differences of AUC between models with their intervals.

    table: as from ``bootstrap.paired_differences``.
    """
    figure, axis = plt.subplots(figsize=(8, 0.42 * len(table) + 1.2))
    for y, row in enumerate(table.itertuples()):
        bars = [[row.auc - row.auc_low], [row.auc_high - row.auc]]
        colour = RIGHT if row.real else MUTED
        axis.errorbar(row.auc, y, xerr=bars, fmt="o", color=colour, capsize=3)
    axis.axvline(0, color=LEFT, linestyle=":")
    axis.set_yticks(range(len(table)), [f"{r.better} − {r.other}" for r in table.itertuples()])
    axis.invert_yaxis()
    axis.set(xlabel="difference of AUC on the same pairs", title="Which differences are real?")
    return figure


def mean_saliency(maps: np.ndarray, right: np.ndarray) -> Figure:
    """Mean attribution over many pairs, for right and wrong answers. maps: as from ``saliency``;
    right: bool (K,)."""
    kinds = {"right answers": right, "wrong answers": ~right}
    kinds = {name: chosen for name, chosen in kinds.items() if chosen.any()}
    figure, axes = plt.subplots(
        len(kinds), 2, figsize=(5.2, 2.7 * len(kinds)), squeeze=False, layout="constrained"
    )
    for row, (name, chosen) in zip(axes, kinds.items(), strict=True):
        mean = maps[chosen].mean(0)
        for axis, side, face in zip(row, mean, ("left", "right"), strict=True):
            axis.imshow(side, cmap="magma", vmin=0, vmax=mean.max(), interpolation="bilinear")
            axis.set_axis_off()
            axis.set_title(f"{name}, {face} face", fontsize=10)
    return figure
