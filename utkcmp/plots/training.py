"""Figures and tables of training runs."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from utkcmp.plots.style import LEFT, MUTED, RIGHT, bars

MOST_ROWS = 8


def epoch_table(history: pd.DataFrame):
    """At most MOST_ROWS epochs of ``Fitted.history``: first, best, last and some between."""
    best = int(history.val_loss.argmin())
    spread = np.linspace(0, len(history) - 1, min(MOST_ROWS - 1, len(history))).round().astype(int)
    table = history.iloc[sorted({*spread.tolist(), best})].set_index("epoch")
    table = table.rename(index={history.epoch.iloc[best]: f"{history.epoch.iloc[best]} (best)"})
    table.columns = table.columns.str.replace("_", " ").str.replace("auc", "AUC")
    return table.style.format({"lr": "{:.1e}", "seconds": "{:.0f}"}, precision=3)


def learning_curves(history: pd.DataFrame) -> Figure:
    """Loss and AUC of ``Fitted.history`` by epoch, the best epoch marked; of an age regressor,
    training loss and validation error in years."""
    pairs = "val_auc" in history
    panels = [("loss", "loss", ("train", "val") if pairs else ("train",))]
    error = "mean absolute validation error (years)"
    panels.append(("auc", "AUC", ("train", "val")) if pairs else ("mae", error, ("val",)))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    best = history.loc[history.val_loss.idxmin(), "epoch"]
    for axis, (metric, label, parts) in zip(axes, panels, strict=True):
        for part in parts:
            name, colour = {"train": ("training", MUTED), "val": ("validation", RIGHT)}[part]
            values = history[f"{part}_{metric}"]
            axis.plot(history.epoch, values, "o-", color=colour, label=name, markersize=4)
        axis.axvline(best, color=LEFT, linestyle=":", label="lowest validation loss")
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend()
    return figure


def curves_beside(ours: pd.DataFrame, reported: dict[str, pd.DataFrame]) -> Figure:
    """Validation loss and AUC against the number of faces seen; tables have the columns faces
    (number seen so far), val_loss, val_auc."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6))
    styles = zip(reported.items(), ("-", "--", ":"), strict=False)
    lines = [("ours, here", ours, RIGHT, "-")]
    lines += [(name, table, LEFT, style) for (name, table), style in styles]
    for axis, metric, label in zip(axes, ("val_loss", "val_auc"), ("loss", "AUC"), strict=True):
        for name, table, colour, style in lines:
            axis.plot(table.faces, table[metric], style, color=colour, label=name, marker=".")
        axis.set(xlabel="faces seen in training", ylabel=f"validation {label}", xscale="log")
    axes[0].legend(fontsize=9)
    return figure


def arms(table: pd.DataFrame) -> Figure:
    """Test AUC of each training, and each arm's difference from its reference, hollow unless its
    corrected p is below 0.05. table: from ``experiments.compare_arms``."""
    size = {"figsize": (10, 0.5 * len(table) + 1.4), "width_ratios": (1.2, 1)}
    figure, (first, second) = plt.subplots(1, 2, sharey=True, **size)
    table = table.reset_index(drop=True)
    each = table.aucs.map(json.loads).explode()
    first.plot(each, each.index, "o", color=MUTED, ms=4, label="one seed")
    first.plot(table.auc, table.index, "D", color=RIGHT, label="mean")
    first.set_yticks(table.index, table.arm)
    first.set_xlabel("test AUC")
    first.legend(fontsize=9)
    bars(second, table.difference, table.low, table.high, ~(table.p < 0.05))
    second.axvline(0, color=LEFT, linestyle=":")
    second.set_xlabel("difference in AUC, 95% interval")
    return figure


def resumed_curves(histories: pd.DataFrame, broken: str, unbroken: str) -> Figure:
    """Validation loss of interrupted and uninterrupted trainings, one colour per seed.

    histories: columns arm, seed, epoch, val_loss. broken, unbroken: the names of the two arms.
    """
    figure, axis = plt.subplots(figsize=(7, 3.2))
    named = histories.replace({"arm": {broken: "resumed", unbroken: "uninterrupted"}})
    order = ["uninterrupted", "resumed"]
    look = {"hue": "seed", "palette": "deep", "style": "arm", "style_order": order, "marker": "."}
    sns.lineplot(named[named.arm.isin(order)], x="epoch", y="val_loss", ax=axis, **look)
    axis.set(xlabel="evaluation", ylabel="validation loss", title="Resumed from the weights alone")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def auc_by_pairs(table: pd.DataFrame) -> Figure:
    """Validation AUC by number of training pairs. table: from ``pair_counts.fit_pair_counts``."""
    figure, axis = plt.subplots(figsize=(7, 3.2))
    every = "every pair of a batch"
    names = [every if count == "all" else f"{int(count):,} pairs" for count in table.pairs]
    named = table.assign(name=names)
    mean = named.groupby("name", sort=False).val_auc.mean()
    axis.plot(named.name, named.val_auc, "o", color=MUTED, ms=4, label="one seed")
    axis.plot(mean.index, mean, "D", color=RIGHT, label="mean")
    axis.set(xlabel="training pairs", ylabel="validation AUC", title="How many pairs are enough?")
    axis.legend()
    return figure
