"""Figures of the data: ages and groups, splits, duplicates, age gaps of pairs."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from utkcmp.plots.style import LEFT, MUTED, RIGHT

PALETTE = {"male": "#2a6f97", "female": "#e0a458", "not given": "#8a8f98"}
SPLIT_COLOURS = {"train": "#8a8f98", "val": "#c2571a", "test": "#2a6f97"}


def _by_gender(faces: pd.DataFrame) -> dict:
    """Arguments of seaborn functions."""
    known = [name for name in PALETTE if (faces.gender == name).any()]
    return {"data": faces, "x": "age", "hue": "gender", "hue_order": known, "palette": PALETTE}


def age_histogram(faces: pd.DataFrame) -> Figure:
    """Faces by age, stacked by gender. faces: valid rows, columns age (years), gender (name)."""
    figure, axis = plt.subplots(figsize=(9.5, 3.4))
    look = {"multiple": "stack", "edgecolor": "none", "alpha": 0.9}
    bins = np.arange(0, faces.age.max() + 2) - 0.5
    sns.histplot(**_by_gender(faces), **look, bins=bins, ax=axis)
    axis.set(xlabel="age (years)", ylabel="faces", title="Faces by age, one year per bar")
    axis.set_xlim(-1.5, faces.age.max() + 1.5)
    axis.xaxis.set_major_locator(plt.MultipleLocator(10))
    axis.grid(axis="x", visible=False)
    axis.get_legend().set(title=None, frame_on=False)
    return figure


def ages_by_group(faces: pd.DataFrame) -> Figure:
    """Ages by ethnicity and gender as box plots, whiskers at the 5th and 95th percentiles.

    faces: columns age (years), ethnicity and gender (names).
    """
    counts = faces.ethnicity.value_counts()
    figure, axis = plt.subplots(figsize=(9, 0.6 * len(counts) + 1.2))
    look = {"whis": (5, 95), "showfliers": False, "width": 0.7, "gap": 0.15}
    sns.boxplot(**_by_gender(faces), **look, y="ethnicity", order=counts.index, ax=axis)
    names = [f"{name} ({count:,} faces)" for name, count in counts.items()]
    axis.set_yticks(range(len(counts)), names)
    axis.set(xlabel="age (years)", ylabel="", title="Ages by labelled ethnicity and gender")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _shares(axis: plt.Axes, values: dict[str, np.ndarray], bins: np.ndarray, what: str) -> None:
    """Normalised step histogram of each split's values."""
    for split, some in values.items():
        style = {"histtype": "step", "color": SPLIT_COLOURS[split], "lw": 1.6}
        label = f"{split} ({len(some):,} {what})"
        axis.hist(some, bins, weights=np.full(len(some), 1 / len(some)), label=label, **style)
    axis.legend()


def split_ages(faces: pd.DataFrame) -> Figure:
    """The age distributions of the three splits. faces: columns age, split."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.3))
    ages = {split: faces.age[faces.split == split].to_numpy(int) for split in SPLIT_COLOURS}
    _shares(axes[0], ages, np.arange(0, faces.age.max() + 6, 5), "faces")
    for split, some in ages.items():
        axes[1].ecdf(some, color=SPLIT_COLOURS[split], lw=1.6)
    axes[0].set(xlabel="age (years)", ylabel="share of the split", title="Ages, five years per bar")
    axes[1].set(xlabel="age (years)", ylabel="share at most this old", title="Cumulative")
    return figure


def split_shares(table: pd.DataFrame, wanted: dict[str, float]) -> Figure:
    """The share of each split by age band, with two binomial standard deviations.

    table: from ``split.age_shares``; wanted: intended share by split.
    """
    figure, axis = plt.subplots(figsize=(9.5, 3.4))
    place = np.arange(len(table))
    for shift, (split, share) in zip((-0.15, 0, 0.15), wanted.items(), strict=True):
        colour, spread = SPLIT_COLOURS[split], 2 * np.sqrt(share * (1 - share) / table.faces)
        axis.axhline(share, color=colour, linestyle=":")
        style = {"fmt": "o", "color": colour, "markersize": 5, "capsize": 2, "lw": 1.2}
        label = f"{split}, {share:.0%} intended"
        axis.errorbar(place + shift, table[split], yerr=spread, label=label, **style)
    ends = [f"–{following - 1}" for following in table.index[1:]] + ["+"]
    names = [f"{start}{end}" for start, end in zip(table.index, ends, strict=True)]
    axis.set_xticks(place, names)
    axis.set(xlabel="age (years)", ylabel="share of these faces", ylim=(0, 1))
    axis.set_title("How the faces of each age are divided")
    axis.grid(axis="x", visible=False)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def conflict_histogram(conflicts: np.ndarray, max_conflict: int) -> Figure:
    """Years between the oldest and the youngest label of a picture. conflicts: one per picture."""
    figure, axis = plt.subplots(figsize=(9, 3))
    bins = np.arange(0.5, max(conflicts.max(), max_conflict) + 2)
    far = conflicts > max_conflict
    for some, colour, label in (
        (conflicts[~far], RIGHT, f"up to {max_conflict} years: kept"),
        (conflicts[far], LEFT, "further apart: left out of evaluation"),
    ):
        axis.hist(some, bins, color=colour, label=f"{label} ({len(some):,})", edgecolor="none")
    axis.set(xlabel="years between two labels of one picture", ylabel="pictures")
    axis.set_title("Pictures whose labels disagree")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(plt.MaxNLocator(integer=True))
    axis.grid(axis="x", visible=False)
    axis.legend()
    return figure


def gap_difficulty(gaps: dict[str, np.ndarray], errors: dict[int, np.ndarray]) -> Figure:
    """Distribution of age gaps, and the accuracy of comparing estimated ages.

    gaps: by split, (K,) years. errors: by error in years, accuracy at gaps of 1, 2, ... years.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.5))
    bins = np.arange(1, max(gap.max() for gap in gaps.values()) + 3, 2)
    _shares(axes[0], gaps, bins, "pairs")
    axes[0].set(xlabel="age gap of the pair (years)", ylabel="share of pairs", title="Age gaps")
    shades = sns.color_palette("crest", len(errors))
    for (error, right), colour in zip(errors.items(), shades, strict=True):
        axes[1].plot(np.arange(1, len(right) + 1), right, color=colour, label=f"± {error} years")
    axes[1].axhline(0.5, color=MUTED, linestyle=":", label="coin flip")
    axes[1].set(xlabel="age gap of the pair (years)", ylabel="correct answers (share)")
    axes[1].set(ylim=(0.47, 1.02), title="Effect of errors in age")
    axes[1].legend(loc="center right", title="SD of each age's error")
    return figure
