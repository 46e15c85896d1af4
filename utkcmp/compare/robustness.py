"""Photos made from finished crops, and what happens to the answers when photos get worse.

Each crop is pasted onto a background, turned and scaled, and then goes the whole way: found,
aligned, compared. So the accuracy can be held against that of the crops themselves.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance, ImageFilter

from utkcmp.compare.alignment import align, find_faces
from utkcmp.compare.predictor import Predictor
from utkcmp.data.pairs import AllPairs, Pairs
from utkcmp.evaluation.bootstrap import intervals, paired_difference
from utkcmp.evaluation.metrics import pair_metrics

SIDE, PHOTO = 160, 240  # pixels of the pasted crop and of its photo where a change is measured


@dataclass(frozen=True)
class Change:
    """What is done to a photo: its unit, its levels, and how."""

    unit: str
    levels: tuple[float, ...]
    apply: Callable[[Image.Image, float], Image.Image]


def _blurred(photo: Image.Image, share: float) -> Image.Image:
    return photo.filter(ImageFilter.GaussianBlur(share / 100 * SIDE))


def _compressed(photo: Image.Image, quality: float) -> Image.Image:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=int(quality))
    return Image.open(file).convert("RGB")


def _small(photo: Image.Image, side: float) -> Image.Image:
    size = round(photo.width * side / SIDE)
    return photo.resize((size, size), Image.Resampling.LANCZOS)


def _lit(photo: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(photo).enhance(factor)


def _turned(photo: Image.Image, degrees: float) -> Image.Image:
    return photo.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))


def _covered(photo: Image.Image, share: float) -> Image.Image:
    """A grey sheet over the lower share of the pasted crop, which lies in the photo's middle."""
    height = round(SIDE * share / 100)
    changed, bottom = photo.copy(), (photo.height + SIDE) // 2
    sheet = Image.new("RGB", (SIDE, height), (128, 128, 128))
    changed.paste(sheet, ((photo.width - SIDE) // 2, bottom - height))
    return changed


CHANGES = {
    "blur": Change("radius, % of the crop's side", (1, 2, 4), _blurred),
    "JPEG": Change("quality", (40, 15, 5), _compressed),
    "size": Change("pixels of the crop's side", (80, 50, 30), _small),
    "brightness": Change("factor", (0.25, 0.5, 2), _lit),
    "rotation": Change("degrees", (15, 30, 45), _turned),
    "occlusion": Change("% of the crop, from below", (20, 35, 50), _covered),
}


def paste(crop: Image.Image, side: int, angle: float, size: int, rng) -> Image.Image:
    """A photo of ``size`` pixels per side with the crop in its middle, turned by ``angle`` degrees.

    side: pixels of the crop; rng: draws the background, a few soft colours.
    """
    colours = Image.fromarray(rng.integers(90, 200, (5, 5, 3), dtype=np.uint8))
    photo = colours.resize((size, size), Image.Resampling.BICUBIC)
    small = crop.resize((side, side), Image.Resampling.LANCZOS)
    mask = Image.new("L", small.size, 255)
    turn = {"resample": Image.Resampling.BICUBIC, "expand": True}
    small, mask = small.rotate(angle, **turn), mask.rotate(angle, **turn)
    photo.paste(small, ((size - small.width) // 2, (size - small.height) // 2), mask)
    return photo


def photos_of(crops: list[Image.Image], seed: int = 42) -> list[Image.Image]:
    """A photo of 640 pixels of each crop, at 70 to 440 pixels, turned by up to 20 degrees."""
    rng = np.random.default_rng(seed)
    return [
        paste(crop, int(rng.integers(70, 441)), float(rng.uniform(-20, 20)), 640, rng)
        for crop in crops
    ]


def through_photos(photos: list[Image.Image], predictor: Predictor) -> list[Image.Image | None]:
    """The one face of each photo, aligned; None where none or several were found."""
    crops: list[Image.Image | None] = []
    for photo in photos:
        faces = find_faces(photo, frame=predictor.frame)
        crops.append(align(photo, faces[0], predictor.frame) if len(faces) == 1 else None)
    return crops


def measured(
    crops: list[Image.Image | None], ages: np.ndarray, predictor: Predictor, resamples: int = 200
) -> dict:
    """How well a model answers every pair of these faces at least a year apart.

    crops: N aligned faces, None where a photo's face was not found; ages: (N,) years. Returns found
    (share), pairs, accuracy and its 95 % interval from a bootstrap over faces.
    """
    there = np.flatnonzero([crop is not None for crop in crops])
    pairs, logits = all_pairs([crops[i] for i in there], ages[there], predictor)
    row = {"found": len(there) / len(crops), "pairs": len(pairs)}
    if not len(pairs):
        return row | dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high"), float("nan"))
    bounds = intervals(logits, pairs, resamples)
    row["accuracy"] = pair_metrics(logits, pairs.label)["accuracy"]
    return row | {name: bounds[name] for name in ("accuracy_low", "accuracy_high")}


def all_pairs(
    crops: list[Image.Image], ages: np.ndarray, predictor: Predictor
) -> tuple[Pairs, np.ndarray]:
    """Every pair of some aligned faces at least a year apart, and its logits, float64 (K,)."""
    if len(np.unique(ages)) < 2:
        none = np.empty(0, np.int64)
        return Pairs(none, none, none), np.empty(0)
    pairs = AllPairs(ages)[:]
    brought, _ = predictor.embed(crops)
    return pairs, predictor.logits(brought[pairs.left], brought[pairs.right])


def robustness_table(
    crops: list[Image.Image], ages: np.ndarray, predictor: Predictor, seed: int = 42
) -> pd.DataFrame:
    """What each change of ``CHANGES`` does to the answers: one row a change and level.

    crops: N finished crops; ages: (N,) years. Columns: change, unit, level, and those of
    ``measured``. The first level of each, NaN, is the photo as it was pasted.
    """
    rng = np.random.default_rng(seed)
    photos = [paste(crop, SIDE, 0.0, PHOTO, rng) for crop in crops]
    plain = measured(through_photos(photos, predictor), ages, predictor)
    rows = []
    for name, change in CHANGES.items():
        rows.append({"change": name, "unit": change.unit, "level": float("nan")} | plain)
        for level in change.levels:
            worse = through_photos([change.apply(photo, level) for photo in photos], predictor)
            row = {"change": name, "unit": change.unit, "level": level}
            rows.append(row | measured(worse, ages, predictor))
    return pd.DataFrame(rows)


def path_difference(
    crops: list[Image.Image],
    aligned: list[Image.Image | None],
    ages: np.ndarray,
    predictor: Predictor,
) -> dict:
    """What the way through photos costs: crops against the same faces as found in photos.

    crops: N finished crops; aligned: as from ``through_photos``; ages: (N,) years. Only faces that
    were found count on either side. Returns faces, found (share), pairs, direct and through
    (accuracies), and the 95 % interval of their difference, low and high, from a bootstrap over
    faces that both share.
    """
    there = np.flatnonzero([crop is not None for crop in aligned])
    pairs, direct = all_pairs([crops[i] for i in there], ages[there], predictor)
    _, through = all_pairs([aligned[i] for i in there], ages[there], predictor)
    bounds = paired_difference(through, direct, pairs)
    return {
        **dict(faces=len(crops), found=len(there) / len(crops), pairs=len(pairs)),
        "direct": pair_metrics(direct, pairs.label)["accuracy"],
        "through": pair_metrics(through, pairs.label)["accuracy"],
        **dict(low=bounds["accuracy_low"], high=bounds["accuracy_high"]),
    }
