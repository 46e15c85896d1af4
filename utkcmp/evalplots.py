"""Figures of the evaluation: who is served worse, what an answer is worth, what a model sees."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from utkcmp.plots import LEFT, MUTED, RIGHT


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
