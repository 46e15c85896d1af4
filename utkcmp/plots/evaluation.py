"""Figures of evaluations; their tables come from ``utkcmp.evaluation``."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

from utkcmp.plots.style import LEFT, MUTED, RIGHT, bars


def roc_curves(answers: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """ROC curves. answers: by model, (label, logits), (K,) each, label 1 where left is older."""
    figure, axis = plt.subplots(figsize=(5 if len(answers) < 3 else 8.5, 4.6))
    for name, (label, logits) in answers.items():
        area = f"{name}: {roc_auc_score(label, logits):.3f}"
        axis.plot(*roc_curve(label, logits)[:2], label=area)
    axis.plot([0, 1], [0, 1], color=MUTED, linestyle=":", label="coin flip: 0.500")
    axis.set(xlabel="false positive rate (right face older, answer left)", aspect="equal")
    axis.set(ylabel="true positive rate (left face older)", title="ROC curves, areas in the legend")
    beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    axis.legend(**beside if len(answers) > 2 else {"loc": "lower right"})
    return figure


def accuracy_by_gap(tables: dict[str, pd.DataFrame], allowed: pd.Series | None = None) -> Figure:
    """Accuracy by age gap, with intervals. tables: from ``part_accuracy``, by model; allowed: the
    upper bound set by label noise, by gap."""
    first = next(iter(tables.values()))
    figure, axis = plt.subplots(figsize=(8.5 if len(tables) > 1 else 7, 3.6))
    names = [f"{gap}\n{count:,}" for gap, count in first.pairs.items()]
    shifts = np.linspace(-0.25, 0.25, len(tables)) if len(tables) > 1 else [0]
    for (name, table), shift in zip(tables.items(), shifts, strict=True):
        around = [table.accuracy - table.accuracy_low, table.accuracy_high - table.accuracy]
        place = np.arange(len(table)) + shift
        axis.errorbar(place, table.accuracy, around, fmt="o", capsize=2, label=name)
    if allowed is not None and allowed.notna().any():
        places = first.index.get_indexer(allowed.index)
        ends = places - 0.4, places + 0.4
        axis.hlines(allowed, *ends, color=LEFT, linestyle="--", label="what the labels allow")
    axis.axhline(0.5, color=MUTED, linestyle=":", label="coin flip")
    axis.set_xticks(range(len(names)), names)
    axis.set(xlabel="age gap (years), number of pairs", ylabel="accuracy")
    axis.set_title("Accuracy by age gap")
    axis.set_ylim(min(0.45, axis.get_ylim()[0]), 1.03)
    axis.grid(axis="x", visible=False)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def predicted_ages(true: np.ndarray, predicted: np.ndarray) -> Figure:
    """Predicted against true ages, both (N,) years."""
    figure, axis = plt.subplots(figsize=(5, 4.6))
    axis.scatter(true, predicted, s=8, alpha=0.4, color=RIGHT, rasterized=len(true) > 2000)
    limits = [0, max(true.max(), predicted.max()) + 3]
    axis.plot(limits, limits, color=LEFT, linestyle=":", label="no error")
    axis.axhline(np.median(true), color=MUTED, linestyle="--", label="median age")
    axis.set(xlabel="labelled age (years)", ylabel="predicted age (years)")
    axis.set_title("Predicted and labelled ages")
    axis.legend()
    return figure


def score_scatter(left: np.ndarray, right: np.ndarray) -> Figure:
    """Each face's contribution to the logit, (N,), as the left and as the right face."""
    figure, axis = plt.subplots(figsize=(4.8, 4.4))
    axis.scatter(left, right, s=10, alpha=0.5, color=RIGHT, rasterized=len(left) > 2000)
    ends = np.array([left.min(), left.max()])
    axis.plot(ends, -ends, color=LEFT, linestyle=":", label="opposite")
    axis.set(xlabel="contribution as the left face (logit)", title="One point per test face")
    axis.set(ylabel="contribution as the right face (logit)")
    axis.legend()
    return figure


def slice_intervals(table: pd.DataFrame) -> Figure:
    """Accuracy of each slice, with its interval and the accuracy expected from its age gaps;
    hollow if small. table: from ``slice_table``."""
    whole, parts = table.iloc[0], table.iloc[1:]
    names = parts.slice.unique()
    heights = [(parts.slice == name).sum() for name in names]
    size = {"figsize": (8, 0.3 * sum(heights) + 1.4), "height_ratios": heights}
    figure, axes = plt.subplots(len(names), sharex=True, squeeze=False, **size)
    for axis, name in zip(axes.flat, names, strict=True):
        some = parts[parts.slice == name]
        bars(axis, some.accuracy, some.accuracy_low, some.accuracy_high, some.small)
        axis.plot(some.expected, range(len(some)), "|", color=LEFT, ms=14, mew=2)
        labels = [f"{row.part} ({row.pairs:,})" for row in some.itertuples()]
        axis.set_yticks(range(len(some)), labels)
        axis.set_title(name, fontsize=10)
        axis.axvline(whole.accuracy, color=MUTED, linestyle=":")
    axes[-1, 0].set_xlabel(
        "accuracy (vertical mark: expected from age gaps; dotted: all pairs; hollow: small group)"
    )
    return figure


def age_heat_map(accuracy: pd.DataFrame, count: pd.DataFrame, few: int = 200) -> Figure:
    """Accuracy by both ages, from ``age_grid``; cells of fewer than ``few`` pairs are pale."""
    figure, axis = plt.subplots(figsize=(6.6, 5.2))
    style = {"vmin": 0.5, "vmax": 1, "cmap": "viridis", "ax": axis, "linewidths": 0.5}
    sns.heatmap(accuracy, annot=True, fmt=".2f", cbar_kws={"label": "accuracy"}, **style)
    for text in axis.texts:
        x, y = map(int, text.get_position())
        if count.iloc[y, x] < few:
            axis.add_patch(plt.Rectangle((x, y), 1, 1, color="white", alpha=0.65, lw=0))
            text.set_color("#333333")  # legible on the pale cell
    axis.set(xlabel="age of the younger (first year)", ylabel="age of the older (first year)")
    axis.set_title("Accuracy by both ages")
    axis.tick_params(axis="y", rotation=0)
    return figure


def calibration_curves(tables: dict[str, pd.DataFrame]) -> Figure:
    """Accuracy against confidence, with intervals. tables: from ``part_accuracy``, by name, with a
    column of mean ``confidence``."""
    figure, axis = plt.subplots(figsize=(5.4, 4.4))
    for (name, table), colour in zip(tables.items(), (LEFT, RIGHT), strict=False):
        around = [table.accuracy - table.accuracy_low, table.accuracy_high - table.accuracy]
        style = {"fmt": "o", "color": colour, "capsize": 2, "label": name}
        axis.errorbar(table.confidence, table.accuracy, around, **style)
    axis.plot([0.5, 1], [0.5, 1], color=MUTED, linestyle=":", label="perfect calibration")
    axis.set(xlabel="confidence of the answer", ylabel="accuracy", title="Calibration")
    axis.legend()
    return figure


def coverage_curves(curves: dict[str, pd.DataFrame]) -> Figure:
    """Accuracy on the most confident pairs. curves: by model, as from ``coverage_curve``."""
    figure, axis = plt.subplots(figsize=(8.5, 3.6))
    for name, curve in curves.items():
        axis.plot(curve.coverage, curve.accuracy, label=name)
    axis.set(xlabel="share of the pairs answered", ylabel="accuracy of these answers")
    axis.set_title("Accuracy of the most confident answers")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def differences(table: pd.DataFrame) -> Figure:
    """AUC of one model minus another's, coloured if significant, from ``paired_differences``."""
    names = list(dict.fromkeys([*table.better, *table.other]))
    cells = {"index": "better", "columns": "other"}
    shown, clear = (
        table.pivot(**cells, values=column).reindex(index=names[:-1], columns=names[1:])
        for column in ("auc", "clear")
    )
    colours = shown.where(clear.eq(True) | shown.isna(), 0)
    figure, axis = plt.subplots(figsize=(0.9 * len(names) + 3, 0.45 * len(names) + 2))
    style = {"cmap": "Blues", "vmin": 0, "vmax": 0.1, "linewidths": 1, "cbar": False, "ax": axis}
    sns.heatmap(colours, annot=shown, fmt="+.3f", annot_kws={"fontsize": 9}, **style)
    axis.set(title="Differences in AUC", xlabel="minus the AUC of", ylabel="AUC of")
    axis.set_xticklabels(axis.get_xticklabels(), rotation=30, ha="right")
    axis.grid(visible=False)
    return figure


def mean_saliency(maps: np.ndarray, correct: np.ndarray) -> Figure:
    """Mean over correct and wrong answers of ``saliency``'s maps. correct: bool (K,)."""
    kinds = {"correct answers": correct, "wrong answers": ~correct}
    kinds = {name: chosen for name, chosen in kinds.items() if chosen.any()}
    size = {"figsize": (5.2, 2.7 * len(kinds)), "layout": "constrained"}
    figure, axes = plt.subplots(len(kinds), 2, squeeze=False, **size)
    for row, (name, chosen) in zip(axes, kinds.items(), strict=True):
        mean = maps[chosen].mean(0)
        for axis, side, face in zip(row, mean, ("left", "right"), strict=True):
            axis.imshow(side, cmap="magma", vmin=0, vmax=mean.max(), interpolation="bilinear")
            axis.set_axis_off()
            axis.set_title(f"{name}, {face} face", fontsize=10)
    return figure
