"""Figures of answers about photos: faces and boxes, the steps of alignment, albums, robustness."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from utkcmp.compare.alignment import CROP, POINTS
from utkcmp.compare.answers import TOO_CLOSE, Comparison, Order
from utkcmp.compare.photos import Seen
from utkcmp.files import atomic

LEFT, RIGHT, MUTED = "#c2571a", "#2a6f97", "#8a8f98"
SHOWN = 800  # pixels of a photo's longer side in a figure


def comparison_figure(answer: Comparison, show_faces: bool = True) -> Figure:
    """The two photos, their faces framed, the older one's frame in colour; below, the answer."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 4.4), layout="constrained")
    for axis, side, face in zip(axes, ("left", "right"), (answer.left, answer.right), strict=True):
        older = answer.answer == side
        show_photo(axis, face, LEFT if older else MUTED, show_faces)
        axis.set_title(f"{side}: older" if older else side, color=LEFT if older else "black")
    _bar(figure, answer)
    figure.suptitle(str(answer), fontsize=14, fontweight="bold")
    return figure


def _bar(figure: Figure, answer: Comparison) -> None:
    """A bar below the photos: the probability of either side, and the band between."""
    axis = figure.add_axes((0.12, 0.09, 0.76, 0.035))
    axis.set_in_layout(False)
    figure.get_layout_engine().set(rect=(0, 0.16, 1, 0.84))
    axis.axvspan(1 - answer.band, answer.band, color=MUTED, alpha=0.3, lw=0)
    axis.plot([1 - answer.probability], [0.5], "o", color=LEFT, markersize=9, clip_on=False)
    axis.set(xlim=(0, 1), ylim=(0, 1), yticks=[], xticks=[0, 0.5, 1])
    axis.set_xticklabels(["left is older", TOO_CLOSE, "right is older"], fontsize=9)
    axis.grid(False)


def order_figure(order: Order, columns: int = 6, show_faces: bool = True) -> Figure:
    """An album's aligned faces from the youngest to the oldest; ≈ marks uncertain neighbours."""
    columns = min(columns, len(order.faces))
    rows = -(-len(order.faces) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.6 * columns, 2.0 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for place, (axis, face) in enumerate(zip(axes.flat, order.faces, strict=False)):
        _show(axis, face.crop, show_faces)
        title = f"{place + 1}"
        if place:
            mark = "≈ " if order.uncertain[place - 1] else ""
            title = f"{mark}{title}  ({order.steps[place - 1]:.0%})"
        axis.set_title(title, fontsize=10, color=MUTED if "≈" in title else "black", loc="center")
        name = Path(face.name).name
        axis.text(
            *(0.5, -0.04, name if len(name) < 20 else f"{name[:18]}…"),
            **dict(transform=axis.transAxes, ha="center", va="top", fontsize=7, color=MUTED),
            parse_math=False,  # a name may hold dollars
        )
    return figure


def alignment_figure(seen: Seen, frame: np.ndarray = POINTS, show_faces: bool = True) -> Figure:
    """The steps for one face: framed in its photo, its five points, the aligned crop."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained")
    show_photo(axes[0], seen, LEFT, show_faces)
    axes[0].set_title("1. the face is found")
    left, top, right, bottom = (round(side) for side in seen.face.box)
    margin = round(0.2 * (right - left))
    area = (left - margin, top - margin, right + margin, bottom + margin)
    _show(axes[1], seen.photo.crop(area), show_faces)
    axes[1].plot(*(seen.face.points - area[:2]).T, "o", color=LEFT, markersize=5)
    axes[1].set_title("2. eyes, nose and mouth")
    _show(axes[2], seen.crop, show_faces)
    axes[2].plot(*(frame * seen.crop.width / CROP).T, "+", color=RIGHT, markersize=9)
    axes[2].set_title("3. aligned; +: places of training faces")
    for axis in axes:
        axis.set_axis_off()
    return figure


def robustness_curves(table: pd.DataFrame, direct: float) -> Figure:
    """Accuracy, and the share of faces found, by what was done to the photos.

    table: as from ``robustness.robustness_table``; direct: accuracy on the untouched crops.
    """
    kinds = list(dict.fromkeys(table.change))
    figure, axes = plt.subplots(
        2, -(-len(kinds) // 2), figsize=(10, 5.6), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, kind in zip(axes.flat, kinds, strict=False):
        part = table[table.change == kind]
        places = np.arange(len(part))
        axis.fill_between(
            places, part.accuracy_low, part.accuracy_high, color=LEFT, alpha=0.2, lw=0
        )
        axis.plot(places, part.accuracy, "o-", color=LEFT, label="accuracy, 95 % interval")
        axis.plot(places, part.found, "s--", color=RIGHT, label="faces found")
        axis.axhline(direct, color=MUTED, lw=1, ls=":", label="untouched crops")
        axis.set(title=kind, xlabel=part.unit.iloc[0], ylim=(0, 1.04))
        axis.set_xticks(
            places, ["as is" if level != level else f"{level:g}" for level in part.level]
        )
    for axis in axes[:, 0]:
        axis.set_ylabel("share")
    axes[0, 0].legend(loc="lower left", fontsize=8)
    return figure


def show_photo(axis, seen: Seen, colour: str, show_faces: bool = True) -> None:
    """A photo with its face framed, on one axis."""
    photo = seen.photo.copy()
    photo.thumbnail((SHOWN, SHOWN))
    scale = photo.width / seen.photo.width
    _show(axis, photo, show_faces)
    left, top, right, bottom = (side * scale for side in seen.face.box)
    axis.add_patch(
        Rectangle((left, top), right - left, bottom - top, fill=False, color=colour, lw=2.5)
    )


def _show(axis, image: Image.Image, show_faces: bool) -> None:
    axis.set_axis_off()
    if show_faces:
        axis.imshow(image)
        return
    axis.imshow(np.full((image.height, image.width, 3), 225, np.uint8))
    axis.text(0.5, 0.5, "not shown", transform=axis.transAxes, ha="center", color=MUTED)


def save_answer(answer: Comparison | Order, path: str | Path) -> None:
    """Write the figure of an answer. Raises ValueError for a kind of file that is not known."""
    draw = comparison_figure if isinstance(answer, Comparison) else order_figure
    figure, path = draw(answer), Path(path)
    if path.suffix.lstrip(".").lower() not in figure.canvas.get_supported_filetypes():
        plt.close(figure)
        raise ValueError(f"{path} cannot be drawn: expected a name that ends in .png, .svg or .pdf")
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=150)
    plt.close(figure)
