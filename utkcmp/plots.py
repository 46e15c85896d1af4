"""Every figure of the report: each function takes data and returns a matplotlib Figure."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from sklearn.metrics import roc_auc_score, roc_curve

from utkcmp.readings import pairs_named

LEFT, RIGHT = "#c2571a", "#2a6f97"  # left face, right face; also a model and its reference
MUTED = "#8a8f98"
GAP_LABELS = ["1", "2", "3–5", "6–10", "11–20", ">20"]


def use_style() -> None:
    """Set the report's look: sharp SVG figures in notebooks, one palette, light grid."""
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg")
    sns.set_theme(context="notebook", style="whitegrid", palette="deep")
    plt.rcParams.update(
        {
            "figure.figsize": (8, 4),
            "figure.constrained_layout.use": True,
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "image.composite_image": False,  # each face of a sheet keeps its pixels
            "svg.fonttype": "path",
        }
    )


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


def roc_curves(answers: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """ROC curves of several models.

    answers: by model name, (label, logits), each (K,), label 1 where left is older.
    """
    figure, axis = plt.subplots(figsize=(5 if len(answers) < 3 else 8.5, 4.6))
    for name, (label, logits) in answers.items():
        false_rate, true_rate, _ = roc_curve(label, logits)
        area = roc_auc_score(label, logits)
        axis.plot(false_rate, true_rate, label=f"{name}: {area:.3f}")
    axis.plot([0, 1], [0, 1], color=MUTED, linestyle=":", label="coin flip: 0.500")
    axis.set(
        xlabel="right is older, answered left (share)",
        ylabel="left is older, answered left (share)",
        title="ROC curve, area in the legend",
        aspect="equal",
    )
    beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if len(answers) > 2 else {}
    axis.legend(frameon=False, **beside or {"loc": "lower right"})
    return figure


def accuracy_by_gap(gaps: np.ndarray, correct: np.ndarray) -> Figure:
    """Accuracy by age gap, with Wilson-like error bars of two standard errors.

    gaps: (K,) years, positive; correct: (K,) bool.
    """
    bins = pd.cut(gaps, [0, 1, 2, 5, 10, 20, np.inf], labels=GAP_LABELS)
    table = pd.DataFrame({"gap": bins, "correct": correct}).groupby("gap", observed=True).correct
    mean, count = table.mean(), table.size()
    error = 2 * np.sqrt(mean * (1 - mean) / count)
    figure, axis = plt.subplots(figsize=(7, 3.4))
    names = [f"{gap}\n{n:,} pairs" for gap, n in count.items()]
    axis.errorbar(names, mean, yerr=error, fmt="o-", color=RIGHT, capsize=3)
    axis.axhline(0.5, color=MUTED, linestyle=":", label="coin flip")
    axis.set(
        xlabel="age gap of the pair (years)",
        ylabel="accuracy",
        ylim=(min(0.45, (mean - error).min() - 0.03), 1.03),
        title="Accuracy by age gap",
    )
    axis.legend(frameon=False)
    return figure


def gaps_and_ceiling(
    gaps: np.ndarray, correct: dict[str, np.ndarray], ceiling: pd.Series
) -> Figure:
    """Accuracy by age gap of several models, below what the labels' noise allows.

    gaps: (K,) years, positive; correct: by model, (K,) bool; ceiling: accuracy by gap in years, or
    NaN where it is not known.
    """
    bins = pd.cut(gaps, [0, 1, 2, 5, 10, 20, np.inf], labels=GAP_LABELS)
    figure, axis = plt.subplots(figsize=(8, 3.8))
    allowed = pd.Series(ceiling.reindex(gaps).to_numpy()).groupby(bins, observed=True).mean()
    if allowed.notna().any():
        axis.plot(allowed.index.astype(str), allowed, color=LEFT, label="what the labels allow")
        axis.fill_between(allowed.index.astype(str), allowed, 1.02, color=LEFT, alpha=0.12)
    for name, right in correct.items():
        mean = pd.Series(right).groupby(bins, observed=True).mean()
        axis.plot(mean.index.astype(str), mean, "o-", label=name, markersize=5)
    axis.axhline(0.5, color=MUTED, linestyle=":", label="coin flip")
    axis.set_ylim(min(0.45, axis.get_ylim()[0]), 1.02)
    axis.set(
        xlabel="age gap of the pair (years)",
        ylabel="accuracy",
        title="Accuracy by age gap, and its ceiling",
    )
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def predicted_ages(true: np.ndarray, predicted: np.ndarray) -> Figure:
    """Predicted against true ages, both (N,) years, with the line of no error."""
    figure, axis = plt.subplots(figsize=(5, 4.6))
    axis.scatter(true, predicted, s=8, alpha=0.4, color=RIGHT, rasterized=len(true) > 2000)
    limits = [0, max(true.max(), predicted.max()) + 3]
    axis.plot(limits, limits, color=LEFT, linestyle=":", label="no error")
    axis.axhline(np.median(true), color=MUTED, linestyle="--", label="median age")
    axis.set(xlabel="age in the label (years)", ylabel="predicted age (years)", title="Ages")
    axis.legend(frameon=False)
    return figure


def compared_models(measured: pd.DataFrame, reported: pd.DataFrame, metric: str = "auc") -> Figure:
    """Each model's figure with its interval, and what the course project reported of it.

    measured: rows of results.csv (one protocol); reported: columns model and ``metric``.
    """
    height = 0.6 * len(measured) + 1.6  # inches
    figure, axis = plt.subplots(figsize=(8, height))
    for y, row in enumerate(measured.itertuples()):
        value = getattr(row, metric)
        low, high = getattr(row, f"{metric}_low"), getattr(row, f"{metric}_high")
        axis.errorbar(
            value,
            y,
            xerr=[[value - low], [high - value]],
            fmt="o",
            color=RIGHT,
            capsize=4,
            label="measured here, 95 % interval" if y == 0 else None,
        )
        there = reported[reported.model == row.model][metric]
        axis.plot(there, [y + 0.25] * len(there), "D", color=LEFT, markersize=5, alpha=0.8)
    axis.plot([], [], "D", color=LEFT, markersize=5, label="reported by the course project")
    axis.axvline(0.5, color=MUTED, linestyle=":")
    axis.set_yticks(range(len(measured)), measured.model)
    axis.invert_yaxis()
    name = "AUC" if metric == "auc" else metric
    axis.set(xlabel=f"{name} on test pairs", title=f"{name} of each model")
    below = 0.6 / (0.77 * height)  # six tenths of an inch
    axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -below), ncols=2)
    return figure


def score_scatter(left: np.ndarray, right: np.ndarray) -> Figure:
    """Each face's contribution to the logit as the left face against that as the right, (N,)."""
    figure, axis = plt.subplots(figsize=(4.8, 4.4))
    axis.scatter(left, right, s=10, alpha=0.5, color=RIGHT, rasterized=len(left) > 2000)
    ends = np.array([left.min(), left.max()])
    axis.plot(ends, -ends, color=LEFT, linestyle=":", label="opposite")
    axis.set(
        xlabel="contribution as the left face (logit)",
        ylabel="contribution as the right face (logit)",
        title="One point a test face",
    )
    axis.legend(frameon=False)
    return figure


def face_tiles(
    images: np.ndarray, captions: list[str], *, show_faces: bool = True, columns: int = 8
) -> Figure:
    """A grid of faces with captions; with show_faces False every face is a neutral placeholder.

    images: uint8 (K, 3, S, S).
    """
    figure, axis = _sheet(columns * 1.1, -(-len(captions) // columns) * 1.25, inches=1.07)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = 1.1 * (number % columns), 1.25 * (number // columns) + 0.2
        _show(axis, image, show_faces, x, y)
        axis.text(x + 0.5, y - 0.04, caption, fontsize=9, ha="center", va="bottom")
    return figure


def _sheet(width: float, height: float, inches: float) -> tuple[Figure, plt.Axes]:
    """A figure that is one empty axis, its y downwards; a unit (a face's side) takes ``inches``.

    An axis for each face would take a second to lay out.
    """
    figure = plt.figure(figsize=(width * inches, height * inches), layout="none")
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    axis.set_axis_off()
    return figure, axis


def _show(axis, image: np.ndarray, show_faces: bool, x: float, y: float) -> None:
    """One face on a sheet, its upper left corner at x, y, or a grey head and shoulders there."""
    if show_faces:
        pixels, place = np.asarray(image).transpose(1, 2, 0), (x, x + 1, y + 1, y)
        axis.imshow(pixels, interpolation="nearest", extent=place, aspect="auto")
        return
    square = plt.Rectangle((x, y), 1, 1, color="#e3e6ea")
    shoulders = Ellipse((x + 0.5, y + 1), 0.8, 0.62, color="#b9bfc7")
    for patch in (square, plt.Circle((x + 0.5, y + 0.4), 0.22, color="#b9bfc7"), shoulders):
        axis.add_patch(patch)
    shoulders.set_clip_path(square)


def pair_tiles(images, pairs: pd.DataFrame, *, show_faces: bool = True, columns: int = 3) -> Figure:
    """Pairs of faces side by side, the older one's age in colour.

    images: uint8 (N, 3, S, S); pairs: columns left, right (rows of images), left_age, right_age
    and, where a model has answered, answer ("left" or "right") and confidence (0.5 to 1), or else
    ``caption`` where the label is not what the pair is about.
    """
    width, height = 2.37, 1.42  # of a pair with its texts, in faces
    rows = max(1, -(-len(pairs) // columns))
    figure, axis = _sheet(columns * width - 0.3, rows * height, inches=1.35)
    for number, pair in enumerate(pairs.itertuples()):
        x, y = width * (number % columns), height * (number // columns) + 0.19
        for start, row, age, other in (
            (x, pair.left, pair.left_age, pair.right_age),
            (x + 1.06, pair.right, pair.right_age, pair.left_age),
        ):
            _show(axis, images[row], show_faces, start, y)
            colour = LEFT if age > other else MUTED
            text = axis.text(start + 0.5, y - 0.04, f"{age} years", color=colour, fontsize=10)
            text.set(weight="bold", ha="center", va="bottom")
        if hasattr(pair, "answer"):
            text = f"answer: {pair.answer} ({pair.confidence:.0%})"
        elif hasattr(pair, "caption"):
            text = pair.caption
        else:
            text = f"label {int(pair.left_age > pair.right_age)}"
        axis.text(x + 1.03, y + 1.04, text, fontsize=9, ha="center", va="top")
    return figure
