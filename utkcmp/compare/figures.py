"""Figures of answers about photos: detected faces, alignment steps, albums, robustness."""

import itertools
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from utkcmp.compare.alignment import CROP, POINTS
from utkcmp.compare.answers import KEPT, TOO_CLOSE, Comparison, Order
from utkcmp.compare.photos import Seen
from utkcmp.data.decode import resize
from utkcmp.data.drawing import StandIns
from utkcmp.files import atomic
from utkcmp.plots.style import LEFT, MUTED, RIGHT, face_tiles

SHOWN = 800  # pixels of a photo's longer side in a figure
PAGE = 60  # faces per page of an album


def comparison_figure(answer: Comparison, show_faces: bool = True) -> Figure:
    """Two photos with their faces framed, the older one in colour; the answer below."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 4.4), layout="constrained")
    for axis, side, face in zip(axes, ("left", "right"), (answer.left, answer.right), strict=True):
        older = answer.answer == side
        _show_photo(axis, [face], LEFT if older else MUTED, show_faces)
        axis.set_title(f"{side}: older" if older else side, color=LEFT if older else "black")
    axis = figure.add_axes((0.12, 0.09, 0.76, 0.035))  # the probability and the undecided band
    axis.set_in_layout(False)
    figure.get_layout_engine().set(rect=(0, 0.16, 1, 0.84))
    axis.axvspan(1 - answer.band, answer.band, color=MUTED, alpha=0.3, lw=0)
    axis.plot([1 - answer.probability], [0.5], "o", color=LEFT, markersize=9, clip_on=False)
    axis.set(xlim=(0, 1), ylim=(0, 1), yticks=[], xticks=[0, 0.5, 1])
    axis.set_xticklabels(["left is older", TOO_CLOSE, "right is older"], fontsize=9)
    axis.grid(False)
    figure.suptitle(textwrap.fill(str(answer), 60), fontsize=13, fontweight="bold")
    return figure


def order_figure(order: Order, page: int = 0, ages: np.ndarray | None = None) -> Figure:
    """One page of an album's faces, youngest to oldest; ≈ marks uncertain neighbours.

    ages: (N,) years, in this order; if given, drawn faces of these ages replace the real ones.
    """
    images, captions, drawn = [], [], ages is not None
    for place in range(len(order.faces))[page * PAGE : (page + 1) * PAGE]:
        name = Path(order.faces[place].name).name
        short = (name if len(name) < 16 else f"{name[:14]}…").replace("$", r"\$")
        captions.append(f"{short}\n{order.mark(place)} {place + 1}. {order.share(place)}".rstrip())
        images.append(StandIns(ages)[place] if drawn else resize(order.faces[place].crop, KEPT))
    return face_tiles(images, captions, drawn=drawn, columns=min(6, len(images)))


def group_figure(order: Order) -> Figure:
    """The single photo of an order, its faces numbered as in their names."""
    numbers = [face.name.rpartition(" ")[2] for face in order.faces]
    signs = ["", *(" ≈ " if close else " < " for close in order.uncertain)]
    text = "".join(sign + number for sign, number in zip(signs, numbers, strict=True))
    figure, axis = plt.subplots(figsize=(8, 6), layout="constrained")
    _show_photo(axis, order.faces, LEFT, labels=numbers)
    axis.set_title("youngest to oldest: " + textwrap.fill(text, 70), fontsize=11)
    return figure


def alignment_figure(seen: Seen, frame: np.ndarray = POINTS, show_faces: bool = True) -> Figure:
    """Alignment of one face: its box in the photo, its five landmarks, the aligned crop."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained")
    _show_photo(axes[0], [seen], LEFT, show_faces)
    axes[0].set_title("1. the face is found")
    left, top, right, bottom = (round(side) for side in seen.face.box)
    margin = round(0.2 * (right - left))
    area = (left - margin, top - margin, right + margin, bottom + margin)
    _show(axes[1], seen.photo.crop(area), show_faces)
    axes[1].plot(*(seen.face.points - area[:2]).T, "o", color=LEFT, markersize=5)
    axes[1].set_title("2. eyes, nose and mouth")
    _show(axes[2], seen.crop, show_faces)
    axes[2].plot(*(frame * seen.crop.width / CROP).T, "+", color=RIGHT, markersize=9)
    axes[2].set_title("3. aligned; +: positions in the frame")
    return figure


def robustness_curves(table: pd.DataFrame, direct: float) -> Figure:
    """Accuracy and the share of faces found, one panel per kind of change to the photos.

    table: from ``robustness.robustness_table``; direct: accuracy on the unchanged crops.
    """
    count = table.change.nunique()
    figure, axes = plt.subplots(
        2, -(-count // 2), figsize=(11, 5.6), sharey=True, squeeze=False, layout="constrained"
    )
    changes = table.groupby("change", sort=False)
    for axis, (kind, part) in zip(axes.flat, changes, strict=False):
        places = np.arange(len(part))
        bounds = part.accuracy_low, part.accuracy_high
        axis.fill_between(places, *bounds, color=LEFT, alpha=0.2, lw=0)
        axis.plot(places, part.accuracy, "o-", color=LEFT, label="accuracy, 95% interval")
        axis.plot(places, part.found, "s--", color=RIGHT, label="faces found")
        axis.axhline(direct, color=MUTED, lw=1, ls=":", label="untouched crops")
        axis.set(title=kind, xlabel=part.unit.iloc[0], ylim=(0, 1.04))
        axis.set_xticks(places, ["as is" if np.isnan(one) else f"{one:g}" for one in part.level])
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("share")
    axes[0, 0].legend(loc="lower left", fontsize=8)
    return figure


def _show_photo(axis, faces: list[Seen], colour: str, show_faces: bool = True, labels=()) -> None:
    """Draw a photo with boxes around the given faces."""
    whole = faces[0].photo
    photo = whole.copy()
    photo.thumbnail((SHOWN, SHOWN))
    _show(axis, photo, show_faces)
    scale = photo.width / whole.width
    for face, label in itertools.zip_longest(faces, labels):
        left, top, right, bottom = (side * scale for side in face.face.box)
        frame = Rectangle((left, top), right - left, bottom - top, fill=False, color=colour, lw=2.5)
        axis.add_patch(frame)
        if label:
            axis.text(left, top, label, color="white", backgroundcolor=colour, fontsize=9)


def _show(axis, image: Image.Image, show_faces: bool) -> None:
    axis.set_axis_off()
    axis.imshow(image if show_faces else Image.new("RGB", image.size, (225, 225, 225)))
    if not show_faces:
        axis.text(0.5, 0.5, "not shown", transform=axis.transAxes, ha="center", color=MUTED)


def save_answer(answer: Comparison | Order, path: str | Path) -> None:
    """Save the figure of an answer: a pair, a numbered group photo, or an album's sheet of faces.

    An album of more than ``PAGE`` faces takes several files: NAME.png, NAME-2.png, ...
    """
    path = Path(path)
    if isinstance(answer, Comparison):
        figures = [comparison_figure(answer)]
    elif answer.faces[0].photo:
        figures = [group_figure(answer)]
    else:
        figures = (order_figure(answer, page) for page in range(-(-len(answer.faces) // PAGE)))
    for number, figure in enumerate(figures, start=1):
        with atomic(path.with_stem(f"{path.stem}-{number}") if number > 1 else path) as temporary:
            figure.savefig(temporary, dpi=150)
        plt.close(figure)
