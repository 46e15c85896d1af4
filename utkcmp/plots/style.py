"""Shared style of figures: colours, age-gap bins, dot plots, sheets of faces."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from utkcmp.files import percent

LEFT, RIGHT = "#c2571a", "#2a6f97"  # left face, right face; also reference and model
MUTED = "#8a8f98"
DRAWN = "Drawn faces of the same ages: the photographs are not shown."
GAP_LABELS = ["1", "2", "3–5", "6–10", "11–20", ">20"]


def use_style() -> None:
    """Set the style of all figures: SVG in notebooks, one palette, light grid."""
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
            "legend.frameon": False,
            "image.composite_image": False,  # keeps the pixels of each face
            "svg.fonttype": "path",
        }
    )


def bars(axis: plt.Axes, values, lows, highs, hollow=None) -> None:
    """Dots with intervals, (N,) each, the first on top. hollow: bool (N,), None for none."""
    hollow = [False] * len(values) if hollow is None else hollow
    for y, (value, low, high, empty) in enumerate(zip(values, lows, highs, hollow, strict=True)):
        face = "white" if empty else RIGHT
        ends = [[max(0, value - low)], [max(0, high - value)]]
        axis.errorbar(value, y, xerr=ends, fmt="o", color=RIGHT, mfc=face, capsize=3)
    axis.set_ylim(max(1, len(values)) - 0.5, -0.5)


def face_tiles(images, captions: list[str], *, drawn: bool = False, columns: int = 8) -> Figure:
    """A grid of faces with captions. images: uint8 (K, 3, S, S). drawn: say that they are drawn."""
    rows, text = -(-len(captions) // columns), 0.05 + 0.15 * (1 + captions[0].count("\n"))
    figure, axis = _sheet(columns * 1.1, rows * (1.05 + text), 1.07, drawn)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = 1.1 * (number % columns), (1.05 + text) * (number // columns) + text
        _show(axis, image, x, y)
        axis.text(x + 0.5, y - 0.04, caption, fontsize=9, ha="center", va="bottom")
    return figure


def _sheet(width: float, height: float, inches: float, drawn: bool) -> tuple[Figure, plt.Axes]:
    """A figure with one empty axis (one per face would be slow), y down, a face's side as unit."""
    if drawn:
        height += 0.25
    figure = plt.figure(figsize=(width * inches, height * inches), layout="none")
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    axis.set_axis_off()
    if drawn:
        axis.text(0, height - 0.06, DRAWN, fontsize=8, color=MUTED, style="italic", va="bottom")
    return figure, axis


def _show(axis, image: np.ndarray, x: float, y: float) -> None:
    """Draw one face with its upper left corner at (x, y)."""
    pixels, place = np.asarray(image).transpose(1, 2, 0), (x, x + 1, y + 1, y)
    axis.imshow(pixels, interpolation="nearest", extent=place, aspect="auto")


def pair_tiles(images, pairs: pd.DataFrame, *, drawn: bool = False) -> Figure:
    """Pairs of faces side by side, the older one's age in colour.

    images: uint8 (N, 3, S, S), or any object indexed by row; pairs: columns left, right (rows of
    images), left_age, right_age, and optionally answer ("left" or "right") with confidence (0.5 to
    1), or caption, to show instead of the label. drawn: see ``face_tiles``.
    """
    columns, width, height = 3, 2.37, 1.42  # sizes of a pair with its texts, in faces
    rows = max(1, -(-len(pairs) // columns))
    figure, axis = _sheet(columns * width - 0.3, rows * height, 1.35, drawn)
    for number, pair in enumerate(pairs.itertuples()):
        x, y = width * (number % columns), height * (number // columns) + 0.19
        for start, row, age, other in (
            (x, pair.left, pair.left_age, pair.right_age),
            (x + 1.06, pair.right, pair.right_age, pair.left_age),
        ):
            _show(axis, images[row], start, y)
            years = f"{age} {'year' if age == 1 else 'years'}"
            look = {"color": LEFT if age > other else MUTED, "fontsize": 10, "weight": "bold"}
            axis.text(start + 0.5, y - 0.04, years, ha="center", va="bottom", **look)
        text = getattr(pair, "caption", f"label {int(pair.left_age > pair.right_age)}")
        if hasattr(pair, "answer"):
            text = f"answer: {pair.answer} ({percent(pair.confidence)})"
        axis.text(x + 1.03, y + 1.04, text, fontsize=9, ha="center", va="top")
    return figure
