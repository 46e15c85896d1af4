"""Figures of trainings."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from utkcmp.plots.style import LEFT, MUTED, RIGHT


def pairs_named(pairs: str) -> str:
    """A number of pairs in words. pairs: as in ``paircounts.fit_pair_counts``.

    >>> pairs_named("20000"), pairs_named("all")
    ('20,000 pairs', 'every pair of a batch')
    """
    return "every pair of a batch" if pairs == "all" else f"{int(pairs):,} pairs"


def learning_curves(history: pd.DataFrame) -> Figure:
    """Loss and, for pair models, AUC by epoch, training against validation; the best epoch marked.

    history: as in ``solver.Fitted``.
    """
    has_auc = "val_auc" in history
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    second = ("auc", "AUC") if has_auc else ("mae", "mean absolute error (years)")
    best = history.loc[history.val_loss.idxmin(), "epoch"]
    for axis, (metric, label) in zip(axes, [("loss", "loss"), second], strict=True):
        for part, colour in (("train", MUTED), ("val", RIGHT)):
            if f"{part}_{metric}" in history:
                values = history[f"{part}_{metric}"]
                name = "training" if part == "train" else "validation"
                axis.plot(history.epoch, values, "o-", color=colour, label=name, markersize=4)
        axis.axvline(best, color=LEFT, linestyle=":", label="best validation loss")
        axis.set(xlabel="epoch", ylabel=label, title=label[0].upper() + label[1:] + " by epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend(frameon=False)
    return figure


def curves_over_time(histories: dict[str, pd.DataFrame]) -> Figure:
    """Validation AUC against the seconds of training, validation included, one line a training.

    histories: by name, as in ``solver.Fitted``.
    """
    figure, axis = plt.subplots(figsize=(8, 3.4))
    for (name, history), colour in zip(histories.items(), (RIGHT, LEFT), strict=True):
        axis.plot(history.seconds.cumsum(), history.val_auc, "o-", color=colour, label=name, ms=4)
    axis.set(xlabel="training time (s)", ylabel="validation AUC", title="Learning by the clock")
    axis.legend(frameon=False, loc="lower right")
    return figure


def auc_by_pairs(table: pd.DataFrame) -> Figure:
    """Validation AUC against the number of training pairs: one point a seed, and the mean.

    table: as from ``paircounts.fit_pair_counts``.
    """
    figure, axis = plt.subplots(figsize=(7, 3.2))
    named = table.assign(name=table.pairs.map(pairs_named))
    mean = named.groupby("name", sort=False).val_auc.mean()
    axis.plot(named.name, named.val_auc, "o", color=MUTED, ms=4, label="one seed")
    axis.plot(mean.index, mean, "D--", color=RIGHT, label="mean")
    axis.set(xlabel="training pairs", ylabel="validation AUC", title="How many pairs are enough?")
    axis.legend(frameon=False)
    return figure
