"""Figures of the book's own pages."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from utkcmp.plots.style import LEFT, RIGHT, bars


def results_at_a_glance(measured: pd.DataFrame, reported: pd.DataFrame, aside: set[str]) -> Figure:
    """The AUC of each model with its interval, on an axis that reaches only as far as it must.

    measured: columns model, auc, auc_low, auc_high, in the order of the rows; reported: model and
    auc, as the course project gave them; aside: models that the axis need not reach. What lies
    beyond the axis is an arrow at its edge, with its value.
    """
    figure, axis = plt.subplots(figsize=(8, 0.42 * len(measured) + 1.5))
    inside = measured[~measured.model.isin(aside)]
    low, high = inside.auc_low.min(), inside.auc_high.max()
    low, high = low - 0.06 * (high - low), high + 0.04 * (high - low)
    there = reported.set_index("model").auc
    bars(axis, measured, "auc")
    for y, row in enumerate(measured.itertuples()):
        theirs = there.get(row.model, np.nan)
        axis.plot(theirs, y + 0.3, "D", color=LEFT, markersize=5)
        for value, shift, colour in ((row.auc, 0.0, RIGHT), (theirs, 0.3, LEFT)):
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


def accuracy_by_error(curve: pd.Series, points: pd.DataFrame) -> Figure:
    """Accuracy on pairs against the mean absolute error of the ages that are compared.

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
    axis.set(
        xlabel="mean absolute error of an age (years)",
        ylabel="accuracy on pairs",
        title="What an error in years is worth in pairs",
    )
    axis.legend(loc="lower left")
    return figure
