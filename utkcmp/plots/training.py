"""Figures and tables of trainings."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from utkcmp.plots.style import LEFT, MUTED, RIGHT

MOST_ROWS = 8  # of an epoch table


def pairs_named(pairs: str) -> str:
    """A number of pairs in words. pairs: as in ``paircounts.fit_pair_counts``.

    >>> pairs_named("20000"), pairs_named("all")
    ('20,000 pairs', 'every pair of a batch')
    """
    return "every pair of a batch" if pairs == "all" else f"{int(pairs):,} pairs"


def epoch_table(history: pd.DataFrame):
    """At most eight epochs of a training as a table: the first, the best, the last and others
    between them; learning rates in scientific form. history: as in ``solver.Fitted``."""
    best = int(history.val_loss.argmin())
    spread = np.linspace(0, len(history) - 1, min(MOST_ROWS - 1, len(history))).round().astype(int)
    table = history.iloc[sorted({*spread.tolist(), best})].set_index("epoch")
    table = table.rename(index={history.epoch.iloc[best]: f"{history.epoch.iloc[best]} (best)"})
    table.columns = table.columns.str.replace("_", " ").str.replace("auc", "AUC")
    return table.style.format(precision=4).format({"lr": "{:.1e}", "seconds": "{:.0f}"})


def learning_curves(history: pd.DataFrame) -> Figure:
    """Loss and AUC by epoch, training against validation; for an age regressor its training loss
    and, on an axis of its own, its validation error in years. The best epoch is marked.

    history: as in ``solver.Fitted``.
    """
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
        axis.legend(frameon=False)
    return figure


def curves_beside(ours: pd.DataFrame, reported: dict[str, pd.DataFrame]) -> Figure:
    """Validation loss and AUC against the faces seen: our training beside reported ones.

    ours: columns faces (number seen so far), val_loss, val_auc; reported: by name, the same.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6))
    styles = zip(reported.items(), ("-", "--", ":"), strict=False)
    lines = [("ours, here", ours, RIGHT, "-")]
    lines += [(name, table, LEFT, style) for (name, table), style in styles]
    for axis, metric, label in zip(axes, ("val_loss", "val_auc"), ("loss", "AUC"), strict=True):
        for name, table, colour, style in lines:
            axis.plot(table.faces, table[metric], style, color=colour, label=name, marker=".")
        axis.set(xlabel="faces seen in training", ylabel=f"validation {label}", xscale="log")
    axes[0].legend(frameon=False, fontsize=9)
    return figure


def arms(table: pd.DataFrame) -> Figure:
    """An experiment: the test AUC of each training, and each arm's difference from another's.

    table: as from ``experiments.compare_arms``; a hollow dot's interval holds zero.
    """
    size = {"figsize": (10, 0.5 * len(table) + 1.4), "width_ratios": (1.2, 1)}
    figure, (first, second) = plt.subplots(1, 2, sharey=True, **size)
    for y, row in enumerate(table.itertuples()):
        each = json.loads(row.aucs)
        first.plot(
            each, [y] * len(each), "o", color=MUTED, ms=4, label="one seed" if not y else None
        )
        first.plot(row.auc, y, "D", color=RIGHT, label="mean" if not y else None)
        if pd.notna(row.difference):
            around = [[row.difference - row.low], [row.high - row.difference]]
            face = "white" if row.low <= 0 <= row.high else RIGHT
            style = {"fmt": "o", "color": RIGHT, "mfc": face, "capsize": 3}
            second.errorbar(row.difference, y, xerr=around, **style)
    first.set_yticks(range(len(table)), table.arm)
    first.set(xlabel="test AUC", ylim=(len(table) - 0.5, -0.5))
    first.legend(frameon=False, fontsize=9)
    second.axvline(0, color=LEFT, linestyle=":")
    second.set(xlabel="difference of AUC, 95% interval")
    return figure


def resumed_curves(histories: pd.DataFrame, broken: str, unbroken: str) -> Figure:
    """Validation loss by evaluation, of trainings that were broken off and of those that were not,
    one colour per seed. histories: columns arm (with these two names), seed, epoch, val_loss."""
    figure, axis = plt.subplots(figsize=(7, 3.2))
    palette = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    colours = {seed: palette[n % len(palette)] for n, seed in enumerate(histories.seed.unique())}
    for arm, style in ((unbroken, "-"), (broken, "--")):
        for seed, one in histories[histories.arm == arm].groupby("seed"):
            axis.plot(one.epoch, one.val_loss, style, marker=".", color=colours[seed])
        axis.plot([], [], style, color=MUTED, label="resumed" if arm == broken else "unbroken")
    axis.set(xlabel="evaluation", ylabel="validation loss", title="Resumed from the weights alone")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(frameon=False)
    return figure


def auc_by_pairs(table: pd.DataFrame) -> Figure:
    """Validation AUC by the number of training pairs: one point per seed, and the mean.

    table: as from ``paircounts.fit_pair_counts``.
    """
    figure, axis = plt.subplots(figsize=(7, 3.2))
    named = table.assign(name=table.pairs.map(pairs_named))
    mean = named.groupby("name", sort=False).val_auc.mean()
    axis.plot(named.name, named.val_auc, "o", color=MUTED, ms=4, label="one seed")
    axis.plot(mean.index, mean, "D", color=RIGHT, label="mean")
    axis.set(xlabel="training pairs", ylabel="validation AUC", title="How many pairs are enough?")
    axis.legend(frameon=False)
    return figure
