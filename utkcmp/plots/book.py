"""Figures of the book's own pages."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from utkcmp.plots.style import LEFT, MUTED, RIGHT, bars

INK, PAPER, FROZEN = "#23272e", "#eef2f6", "#d5e6f2"


def results_at_a_glance(measured: pd.DataFrame, reported: pd.DataFrame, aside: set[str]) -> Figure:
    """The AUC of each model with its interval.

    measured: columns model, auc, auc_low, auc_high; reported: model and auc, from the course
    project; aside: models that do not count for the range of the axis. Values below that range are
    written at its edge.
    """
    figure, axis = plt.subplots(figsize=(8, 0.42 * len(measured) + 1.5))
    inside = measured[~measured.model.isin(aside)]
    low, high = inside.auc_low.min(), inside.auc_high.max()
    low, high = low - 0.06 * (high - low), high + 0.04 * (high - low)
    theirs = reported.set_index("model").auc.reindex(measured.model)
    bars(axis, measured, "auc")
    for y, (ours, other) in enumerate(zip(measured.auc, theirs, strict=True)):
        axis.plot(other, y + 0.3, "D", color=LEFT, markersize=5)
        for value, shift, colour in ((ours, 0.0, RIGHT), (other, 0.3, LEFT)):
            if value < low:
                edge = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                style = {"color": colour, "va": "center", "fontsize": 9, "bbox": edge}
                axis.text(low, y + shift, f"◂ {value:.3f}", **style)
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
    draw = {
        "Siamese (SiameseResNet)": _siamese,
        "Six channels (ResNetClassifier)": _six_channels,
        "Frozen transfer (SiameseResNetAge)": lambda axis: _siamese(axis, frozen=True),
        "Ranker (AgeRanker)": _ranker,
    }
    for axis, (title, body) in zip(axes.flat, draw.items(), strict=True):
        axis.set(xlim=(0, 10.6), ylim=(0.5, 3.9), title=title)
        axis.set_axis_off()
        body(axis)
    return figure


def _box(axis, x, y, text, width=2.1, face=PAPER, edge=INK):
    """Draw a box centred on (x, y); return the middles of its left and right sides."""
    corner = (x - width / 2, y - 0.5)
    shape = FancyBboxPatch(corner, width, 1.0, "round,pad=0,rounding_size=0.15")
    shape.set(facecolor=face, edgecolor=edge, linewidth=1.1)
    axis.add_patch(shape)
    axis.text(x, y, text, ha="center", va="center", fontsize=9, color=INK)
    return (x - width / 2, y), (x + width / 2, y)


def _arrow(axis, start, end):
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=INK))


def _faces(axis):
    return (
        _box(axis, 0.85, 3.2, "left face", 1.5, edge=LEFT)[1],
        _box(axis, 0.85, 1.2, "right face", 1.5, edge=RIGHT)[1],
    )


def _siamese(axis, frozen=False):
    backbone = "age regressor\nfrozen" if frozen else "backbone"
    joined = _box(axis, 6.6, 2.2, "[u; v]", 1.3)
    for face, name in zip(_faces(axis), "uv", strict=True):
        ends = _box(axis, 3.4, face[1], backbone, face=FROZEN if frozen else PAPER)
        _arrow(axis, face, ends[0])
        _arrow(axis, ends[1], joined[0])
        axis.text(5.1, face[1] + 0.1, name, fontsize=9, style="italic")
    _shared(axis)
    head = _box(axis, 8.8, 2.2, "head", 1.3)
    _arrow(axis, joined[1], head[0])
    _answer(axis, head[1])


def _six_channels(axis):
    stack = _box(axis, 3.5, 2.2, "6 channels", 2.0)
    for face in _faces(axis):
        _arrow(axis, face, stack[0])
    backbone = _box(axis, 6.3, 2.2, "backbone")
    _arrow(axis, stack[1], backbone[0])
    head = _box(axis, 8.8, 2.2, "head", 1.3)
    _arrow(axis, backbone[1], head[0])
    _answer(axis, head[1])


def _ranker(axis):
    minus = _box(axis, 8.8, 2.2, "difference\nof scores", 1.8)
    for face in _faces(axis):
        ends = _box(axis, 3.4, face[1], "backbone")
        _arrow(axis, face, ends[0])
        head = _box(axis, 6.1, face[1], "head", 1.3)
        _arrow(axis, ends[1], head[0])
        _arrow(axis, head[1], minus[0])
    _shared(axis)
    _answer(axis, minus[1])


def _shared(axis):
    axis.plot([3.4, 3.4], [1.75, 2.65], color=MUTED, linestyle=":", linewidth=1.4)
    axis.text(3.5, 2.2, "same weights", fontsize=8, color=INK, va="center")


def _answer(axis, start):
    _arrow(axis, start, (10.2, 2.2))
    axis.text(10.22, 2.2, "z", fontsize=10, style="italic", va="center")


def accuracy_by_error(curve: pd.Series, points: pd.DataFrame) -> Figure:
    """Accuracy on pairs against the mean absolute error of the two ages compared.

    curve: by error (years); points: as from ``summary.ages_in_pairs``.
    """
    figure, axis = plt.subplots(figsize=(7.5, 3.8))
    axis.plot(curve, color=RIGHT, label="expected of normal errors")
    for row in points[points.oldest - points.youngest > 100].itertuples():
        measured = not np.isnan(row.measured)
        at = (row.error, row.measured if measured else row.expected)
        axis.plot(*at, "D" if measured else "o", color=LEFT if measured else RIGHT, markersize=7)
        name = row.model.partition(",")[0] + (", measured" if measured else "")
        axis.annotate(name, at, (8, 6), textcoords="offset points", fontsize=9)
    axis.set(xlabel="mean absolute error of an age (years)", ylabel="accuracy on pairs")
    axis.set_title("What an error in years is worth in pairs")
    axis.legend(loc="lower left")
    return figure
