"""Figures of the book's own pages."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from utkcmp.plots.style import LEFT, MUTED, RIGHT, bars

INK, PAPER, FROZEN = "#23272e", "#eef2f6", "#d5e6f2"
# Boxes, each with its middle, width and text: those that each face passes, then the pair's.
JOINED, HEAD = (6.6, 1.3, "[u; v]"), (8.8, 1.3, "head")
STACK = [(3.5, 2.0, "6 channels"), (6.3, 2.1, "backbone"), HEAD]
SCORE = [(3.4, 2.1, "backbone"), (6.1, 1.3, "head")]
NETWORKS = {
    "Siamese (SiameseResNet)": ([(3.4, 2.1, "backbone")], [JOINED, HEAD]),
    "Six channels (ResNetClassifier)": ([], STACK),
    "Frozen transfer (SiameseResNetAge)": ([(3.4, 2.1, "age regressor\nfrozen")], [JOINED, HEAD]),
    "Ranker": (SCORE, [(8.8, 1.8, "difference\nof scores")]),
}


def results_at_a_glance(measured: pd.DataFrame, reported: pd.DataFrame, aside: set[str]) -> Figure:
    """The AUC of each model with its interval.

    measured: columns model, auc, auc_low, auc_high; reported: model and auc, from the course
    project; aside: models that do not count for the range of the axis. Values beyond that range are
    written at its edge.
    """
    figure, axis = plt.subplots(figsize=(8, 0.42 * len(measured) + 1.5))
    inside = measured[~measured.model.isin(aside)]
    low, high = inside.auc_low.min(), inside.auc_high.max()
    low, high = low - 0.06 * (high - low), high + 0.04 * (high - low)
    theirs = reported.set_index("model").auc.reindex(measured.model)
    bars(axis, measured.auc, measured.auc_low, measured.auc_high)
    for y, (ours, other) in enumerate(zip(measured.auc, theirs, strict=True)):
        axis.plot(other, y + 0.3, "D", color=LEFT, markersize=5)
        for value, shift, colour in ((ours, 0.0, RIGHT), (other, 0.3, LEFT)):
            edge = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            style = {"color": colour, "va": "center", "fontsize": 9, "bbox": edge}
            if value < low:
                axis.text(low, y + shift, f"◂ {value:.3f}", **style)
            elif value > high:
                axis.text(high, y + shift, f"{value:.3f} ▸", ha="right", **style)
    axis.plot([], [], "o-", color=RIGHT, label="measured here, with 95% interval")
    axis.plot([], [], "D", color=LEFT, markersize=5, label="reported by the course project")
    axis.set_yticks(range(len(measured)), measured.model)
    axis.set(xlim=(low, high), ylim=(len(measured) - 0.4, -0.6))
    axis.set(xlabel="AUC on the sample of test pairs", title="AUC of each model")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def network_diagrams() -> Figure:
    """The three networks of the course project and the ranker, as boxes and arrows."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 5.2))
    for axis, (title, (shared, joint)) in zip(axes.flat, NETWORKS.items(), strict=True):
        axis.set(xlim=(0, 10.6), ylim=(0.5, 3.9), title=title)
        axis.set_axis_off()
        ends = [_box(axis, 0.85, 3.2, 1.5, "left face", edge=LEFT)]
        ends += [_box(axis, 0.85, 1.2, 1.5, "right face", edge=RIGHT)]
        for box in shared:
            ends = [_box(axis, box[0], end[1], *box[1:], after=[end]) for end in ends]
        if JOINED in joint:
            for (_, y), name in zip(ends, "uv", strict=True):
                axis.text(5.1, y + 0.1, name, fontsize=9, style="italic")
        if shared:
            axis.plot([3.4, 3.4], [1.75, 2.65], color=MUTED, linestyle=":", linewidth=1.4)
            axis.text(3.5, 2.2, "same weights", fontsize=8, color=INK, va="center")
        for x, *box in joint:
            ends = [_box(axis, x, 2.2, *box, after=ends)]
        _arrow(axis, *ends, (10.2, 2.2))
        axis.text(10.22, 2.2, "z", fontsize=10, style="italic", va="center")
    return figure


def _box(axis, x, y, width, text, after=(), edge=INK):
    """A box centred on (x, y) with arrows from ``after``; returns the middle of its right side."""
    corner = (x - width / 2, y - 0.5)
    shape = FancyBboxPatch(corner, width, 1.0, "round,pad=0,rounding_size=0.15")
    shape.set(facecolor=FROZEN if "frozen" in text else PAPER, edgecolor=edge, linewidth=1.1)
    axis.add_patch(shape)
    axis.text(x, y, text, ha="center", va="center", fontsize=9, color=INK)
    for start in after:
        _arrow(axis, start, (x - width / 2, y))
    return x + width / 2, y


def _arrow(axis, start, end):
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=INK))


def accuracy_by_error(curve: pd.Series, points: pd.DataFrame) -> Figure:
    """Accuracy on pairs against the mean absolute error of the two ages compared.

    curve: by error (years); points: as from ``summary.ages_in_pairs``.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.8))
    axis.plot(curve, color=RIGHT, label="expected for normal errors")
    for row in points[points.oldest - points.youngest > 100].itertuples():
        measured = not np.isnan(row.measured)
        at = (row.error, row.measured if measured else row.expected)
        axis.plot(*at, "D" if measured else "o", color=LEFT if measured else RIGHT, markersize=7)
        name = row.model.partition(",")[0] + (", measured" if measured else "")
        axis.annotate(name, at, (8, 6), textcoords="offset points", fontsize=9)
    axis.set(xlabel="mean absolute error of an age (years)", ylabel="accuracy on pairs")
    axis.set_title("Pair accuracy implied by an age error")
    axis.legend(loc="lower left")
    return figure
