"""Figures of the tuning notebook."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from utkcmp.plots.style import LEFT, MUTED, RIGHT, bars


def tuning_slices(trials: pd.DataFrame) -> Figure:
    """Validation AUC against each searched parameter, one point per trial.

    trials: rows of tuning tables, with a column ``source`` ("ours" or "reported").
    """
    names = ["lr", "batch_size", "hidden_layers", "weight_decay", "dropout_prob", "resnet_type"]
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.6), sharey=True)
    trials = trials.assign(hidden_layers=trials.hidden_layers.astype(str))
    trials = trials.sort_values(["hidden_layers", "resnet_type"], key=lambda names: names.str.len())
    for axis, name in zip(axes.flat, names, strict=True):
        palette = {"ours": RIGHT, "reported": LEFT}
        sns.scatterplot(trials, x=name, y="auc", hue="source", palette=palette, ax=axis)
        if base := {"lr": 10, "weight_decay": 10, "batch_size": 2}.get(name):
            axis.set_xscale("log", base=base)
        if name == "hidden_layers":
            axis.tick_params(axis="x", rotation=25, labelsize=8)
        axis.set(xlabel=name, ylabel="AUC")
        axis.get_legend().remove()
    axes[0, 0].legend(fontsize=9)
    figure.suptitle("Trials: validation AUC against each parameter", x=0.01, ha="left")
    return figure


def trials_over_time(epochs: dict[str, pd.DataFrame], trials: dict[str, pd.DataFrame]) -> Figure:
    """Each trial's validation AUC over time, and how the trial ended.

    epochs, trials: by model, from ``tuning.read_epochs`` and ``tuning.search``.
    """
    size = {"figsize": (3.6 * len(epochs), 3.4), "squeeze": False, "sharey": True}
    figure, axes = plt.subplots(1, len(epochs), **size)
    marks = {"finished": ("o", RIGHT), "stopped early": ("X", LEFT), "failed": ("s", MUTED)}
    for axis, (model, rows) in zip(axes.flat, epochs.items(), strict=True):
        status = trials[model].set_index("trial").status.str.split(":").str[0]
        for trial, one in rows.groupby("trial"):
            minutes = one.seconds / 60
            mark, colour = marks[status[trial]]
            axis.plot(minutes, one.auc, ".-", color=MUTED, linewidth=1, markersize=4)
            axis.plot(minutes.iloc[-1:], one.auc.iloc[-1:], mark, color=colour, markersize=8)
        axis.set(xlabel="minutes since the first epoch ended", title=model)
    axes[0, 0].set_ylabel("validation AUC")
    shown = [axes[0, 0].plot([], [], mark, color=hue)[0] for mark, hue in marks.values()]
    figure.legend(shown, marks, loc="outside lower center", ncols=3)
    return figure


def importance_bars(importance: dict[str, pd.DataFrame]) -> Figure:
    """The importance of each parameter, and the level that chance reaches.

    importance: by source of the trials, from ``tuning.parameter_importance``.
    """
    figure, axes = plt.subplots(1, len(importance), figsize=(4.6 * len(importance), 2.8))
    for axis, (whose, table) in zip(axes.flat, importance.items(), strict=True):
        share = axis.barh(table.index, table.importance, color=RIGHT)
        chance = axis.plot(table.chance, table.index, "|", color=LEFT, ms=18, mew=2)
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.set(xlabel="importance (share of the total)", title=whose)
    labels = ["importance", "95th percentile by chance"]
    figure.legend([share, *chance], labels, loc="outside lower center", ncols=2)
    return figure


def head_intervals(differences: pd.DataFrame) -> Figure:
    """AUC with hidden layers minus AUC without, with 95% intervals, one panel per model.

    differences: from ``tuning.head_differences``; may be empty.
    """
    models = list(differences.model.unique()) or ["nothing to compare"]
    size = {"figsize": (4.6 * len(models), 2.8), "squeeze": False, "sharex": True}
    figure, axes = plt.subplots(1, len(models), **size)
    for axis, model in zip(axes.flat, models, strict=True):
        rows = differences[differences.model == model]
        bars(axis, rows.difference, rows.low, rows.high)
        axis.axvline(0, color=LEFT, linestyle=":")
        axis.set_yticks(range(len(rows)), rows.hidden_layers)
        axis.set(xlabel="gain in AUC over no hidden layers", title=model)
        axis.locator_params(axis="x", nbins=4)
    axes[0, 0].set_ylabel("hidden layers")
    return figure
