"""What notebook 09 measures: calibration, and how robust the answers are to worse photos.

Each test crop is pasted onto a background, rotated and scaled, then found, aligned and compared
like any photo, so that the accuracy can be compared with that on the crops themselves.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from utkcmp import models
from utkcmp.compare.alignment import measure_frame
from utkcmp.compare.photos import NoAnswerError, only_face
from utkcmp.compare.predictor import Predictor
from utkcmp.data.index import read_crops
from utkcmp.data.pairs import AllPairs, Pairs
from utkcmp.evaluation.bootstrap import intervals, paired_difference
from utkcmp.evaluation.calibration import Calibration, calibrate
from utkcmp.evaluation.metrics import pair_metrics
from utkcmp.evaluation.registry import load_pair_model, model_folders
from utkcmp.run import Run

if TYPE_CHECKING:
    from utkcmp.data.datasets import RunData

FRAME_FACES = 100  # validation faces from which a run's frame is measured
SIDE, PHOTO, EDGE = 160, 240, 40  # pixels per side of the pasted crop, its photo, and around it
GREY, RESAMPLES = (128, 128, 128), 200


def calibrate_models(run: Run, data: RunData) -> dict[str, Calibration]:
    """``calibrate`` each model of a run that embeds faces one by one; keys are folder names."""
    folders = [run.model(name) for name in model_folders(run).values()]
    frame = measure_frame(read_crops(data, data.rows("val")[:FRAME_FACES])).round(1).tolist()
    able = [folder for folder in folders if models.embeds_once(load_pair_model(folder))]
    return {folder.name: calibrate(folder, data, frame) for folder in able}


class Change(NamedTuple):
    """A change to a photo: the unit and values of its level, and the function."""

    unit: str
    levels: tuple[float, ...]
    apply: Callable[[Image.Image, float], Image.Image]


def _compressed(photo: Image.Image, quality: float) -> Image.Image:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=int(quality))
    return Image.open(file).convert("RGB")


def _covered(photo: Image.Image, share: float) -> Image.Image:
    """The photo with the lowest ``share`` percent of the pasted crop covered in grey."""
    changed = photo.copy()
    changed.paste(GREY, (EDGE, EDGE + SIDE - round(SIDE * share / 100), EDGE + SIDE, EDGE + SIDE))
    return changed


def _distant(photo: Image.Image, width: float) -> Image.Image:
    """The photo as a small part of one ``width`` pixels wide."""
    wide = Image.new("RGB", (int(width), 2 * photo.height), GREY)
    wide.paste(photo, (wide.width // 3, photo.height // 2))
    return wide


CHANGES = {
    "blur": Change(
        *("radius, % of the crop's side", (1, 2, 4)),
        lambda photo, share: photo.filter(ImageFilter.GaussianBlur(share / 100 * SIDE)),
    ),
    "JPEG": Change("quality", (40, 15, 5), _compressed),
    "size": Change(
        *("side of the crop, pixels", (80, 50, 30)),
        lambda photo, side: ImageOps.scale(photo, side / SIDE, Image.Resampling.LANCZOS),
    ),
    "brightness": Change(
        *("factor", (0.25, 0.5, 2)),
        lambda photo, factor: ImageEnhance.Brightness(photo).enhance(factor),
    ),
    "rotation": Change(
        *("degrees", (15, 45, 90)),
        lambda photo, turn: photo.rotate(turn, Image.Resampling.BICUBIC, fillcolor=GREY),
    ),
    "occlusion": Change("% of the crop covered, from below", (20, 35, 50), _covered),
    "close-up": Change(  # only the pasted crop, resized
        *("side of the photo, pixels", (224, 600, 1200)),
        lambda photo, side: ImageOps.crop(photo, EDGE).resize((side, side)),
    ),
    "large photo": Change("pixels of the photo's longer side", (1920, 4000, 8000), _distant),
}


def paste(crop: Image.Image, side: int, angle: float, size: int, rng) -> Image.Image:
    """A photo of ``size`` pixels per side with the crop in its middle, turned by ``angle`` degrees.

    side: pixels of the pasted crop; rng: draws the background, a few soft colours.
    """
    colours = Image.fromarray(rng.integers(90, 200, (5, 5, 3), dtype=np.uint8))
    photo = colours.resize((size, size), Image.Resampling.BICUBIC)
    small = crop.resize((side, side), Image.Resampling.LANCZOS).convert("RGBA")
    small = small.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    photo.paste(small, ((size - small.width) // 2, (size - small.height) // 2), small)
    return photo


def photos_of(crops: list[Image.Image], seed: int = 42) -> list[Image.Image]:
    """Paste each crop, at 70 to 440 pixels and rotated by up to 20°, into a photo of 640 pixels."""
    rng = np.random.default_rng(seed)
    return [paste(crop, rng.integers(70, 441), rng.uniform(-20, 20), 640, rng) for crop in crops]


def through_photos(photos: Iterable[Image.Image], predictor: Predictor) -> list[Image.Image | None]:
    """The aligned face of each photo; None where not exactly one face is found."""
    aligned = []
    for photo in photos:
        try:
            aligned.append(only_face(photo, frame=predictor.frame).crop)
        except NoAnswerError:
            aligned.append(None)
    return aligned


def measured(crops: list[Image.Image | None], ages: np.ndarray, predictor: Predictor) -> dict:
    """A model's accuracy on all pairs of these faces at least a year apart.

    crops: N aligned faces, None where none was found; ages: (N,) years. Returns found (share),
    pairs (count), accuracy and its 95% interval from a bootstrap over faces.
    """
    there = np.flatnonzero([crop is not None for crop in crops])
    pairs, logits = all_pairs([crops[i] for i in there], ages[there], predictor)
    found = {}
    if len(pairs):
        found = pair_metrics(logits, pairs.label) | intervals(logits, pairs, RESAMPLES)
    row = {"found": len(there) / len(crops), "pairs": len(pairs)}
    names = ("accuracy", "accuracy_low", "accuracy_high")
    return row | {name: found.get(name, float("nan")) for name in names}


def all_pairs(
    crops: list[Image.Image], ages: np.ndarray, predictor: Predictor
) -> tuple[Pairs, np.ndarray]:
    """All pairs of aligned faces at least a year apart, and their logits, float64 (K,)."""
    if len(np.unique(ages)) < 2:
        none = np.empty(0, np.int64)
        return Pairs(none, none, none), np.empty(0)
    pairs = AllPairs(ages)[:]
    return pairs, predictor.logits(predictor.embed(crops)[0], pairs.left, pairs.right)


def robustness_table(
    crops: list[Image.Image], ages: np.ndarray, predictor: Predictor, seed: int = 42
) -> pd.DataFrame:
    """The effect of each change in ``CHANGES`` on the answers: one row per change and level.

    crops: N finished crops; ages: (N,) years. Columns: change, unit, level, and those of
    ``measured``. The first level of each change, NaN, is the unchanged photo.
    """
    rng = np.random.default_rng(seed)
    photos = [paste(crop, SIDE, 0.0, PHOTO, rng) for crop in crops]
    plain = measured(through_photos(photos, predictor), ages, predictor)
    rows = []
    for name, (unit, levels, apply) in CHANGES.items():
        row = {"change": name, "unit": unit}
        rows.append(row | {"level": float("nan")} | plain)
        for level in levels:
            worse = through_photos((apply(photo, level) for photo in photos), predictor)
            rows.append(row | {"level": level} | measured(worse, ages, predictor))
    return pd.DataFrame(rows)


def path_difference(
    crops: list[Image.Image],
    aligned: list[Image.Image | None],
    ages: np.ndarray,
    predictor: Predictor,
) -> dict:
    """The cost of detection and alignment: accuracy on crops and on the same faces in photos.

    crops: N finished crops; aligned: from ``through_photos``; ages: (N,) years. Both accuracies
    count only the faces found. Returns faces, found (share), pairs, direct and through
    (accuracies), and low and high, the paired 95% interval over faces of through minus direct.
    """
    there = np.flatnonzero([crop is not None for crop in aligned])
    pairs, direct = all_pairs([crops[i] for i in there], ages[there], predictor)
    _, through = all_pairs([aligned[i] for i in there], ages[there], predictor)
    bounds = paired_difference(through, direct, pairs)
    row = {"faces": len(crops), "found": len(there) / len(crops), "pairs": len(pairs)}
    row["direct"] = pair_metrics(direct, pairs.label)["accuracy"]
    row["through"] = pair_metrics(through, pairs.label)["accuracy"]
    return row | {"low": bounds["accuracy_low"], "high": bounds["accuracy_high"]}
