"""Reading and checking photos, and finding and aligning their faces."""

import os
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image

from utkcmp.compare.alignment import LEAST_FACE, POINTS, FoundFace, align, find_faces, whole
from utkcmp.data.archives import MAX_BYTES
from utkcmp.data.decode import FORMATS, MAX_PIXELS, MIN_SIDE, ImageError, decode, upright
from utkcmp.files import printable

Photo = str | os.PathLike | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray
REASONS = {
    "a folder": "is a folder: expected a photo",
    "a device": "is a device or a pipe: expected a photo",
    "zero bytes": "is empty, zero bytes: expected a photo",
    "not an image": f"is not an image: expected a photo as {', '.join(FORMATS)}",
    "too large": f"is too large: expected at most {MAX_PIXELS // 10**6} million pixels "
    f"and {MAX_BYTES // 2**20} MiB",
    "too small": f"is too small: expected {MIN_SIDE} pixels per side or more",
    "animated": "is animated: expected a single picture",
    "truncated": "is cut off in the middle: expected the whole file",
    "damaged": "is damaged: expected a photo that other programs can open",
}
EXPECTED = "a path, bytes, a binary file, an image, or uint8 (H, W), (H, W, 3) or (H, W, 4)"
# Degrees clockwise, tried if no face is surely upright: a face on its side is sometimes found, but
# with wrong points (score at most 0.89 for 360 of them, at least 0.90 for 120 upright ones).
TURNS, SURE = (90, 270, 180), 0.9


class PhotoError(ValueError):
    """A photo cannot be read; the message is one sentence for the user."""


class NoAnswerError(ValueError):
    """Readable photos do not allow an answer; the message is one sentence for the user."""


@dataclass(frozen=True)
class Seen:
    """A face ready to be compared.

    name: the photo's, with the face's number from the left if there are several. face: its
    position in a photo of ``size``, width and height in pixels (half the file's if it is huge).
    crop: the aligned face, RGB. photo: the upright photo, RGB; None in an album, whose crops are
    small, too. turned: degrees clockwise by which the photo was rotated to find a face.
    brought: float32 (C,), its embedding. age: predicted age, years, and age_distribution: float64
    (A,), probabilities of ages 0, 1, 2, ... years; both None if not requested or not predicted.
    """

    name: str
    face: FoundFace
    crop: Image.Image
    photo: Image.Image | None
    size: tuple[int, int]
    turned: int = 0
    brought: np.ndarray | None = None
    age: float | None = None
    age_distribution: np.ndarray | None = None

    def as_dict(self) -> dict:
        found = {
            "file": self.name,
            "photo_size": list(self.size),
            "box": [round(side, 1) for side in self.face.box],
            "eyes": self.face.eyes.round(1).tolist(),
            "score": round(self.face.score, 3),
            "already_cropped": self.face.finished,
            "turned_clockwise": self.turned,
        }
        if self.age is not None:
            found["age"] = round(self.age, 1)
        if self.age_distribution is not None:
            found["age_distribution"] = self.age_distribution.round(4).tolist()
        return found


def read_photo(photo: Photo, name: str | None = None) -> Image.Image:
    """Read a photo as an upright RGB image. Raises PhotoError.

    photo: a path, an open binary file, its bytes, a PIL image, or a uint8 array of shape (H, W),
    (H, W, 3) in RGB or (H, W, 4) in RGBA. name: its name in error messages.
    """
    name = name or name_of(photo)
    try:
        if isinstance(photo, np.ndarray):
            photo = _from_array(photo)
        if isinstance(photo, Image.Image):
            return upright(photo)
        if not isinstance(photo, str | os.PathLike):
            return decode(photo)
        if os.path.exists(photo) and not os.path.isfile(photo):  # a pipe may block for ever
            raise ImageError("a folder" if os.path.isdir(photo) else "a device")
        with open(photo, "rb") as file:
            return decode(file)
    except ImageError as error:
        raise PhotoError(f"{name} {REASONS[str(error)]}") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    except ValueError as error:  # an impossible file name, a closed file
        reason = str(error)
    except TypeError:
        raise PhotoError(f"{name} is not a photo: expected {EXPECTED}") from None
    raise PhotoError(f"{name} cannot be read ({reason}): expected a photo")


def name_of(photo: Photo, otherwise: str | None = None) -> str:
    """A photo's name for messages, on one line and printable.

    otherwise: the name of a photo that has none of its own.
    """
    name = photo if isinstance(photo, str | os.PathLike) else getattr(photo, "name", None)
    if isinstance(name, str | os.PathLike):
        return printable(os.fsdecode(name))
    return otherwise or f"the {type(photo).__name__} given"


def _from_array(pixels: np.ndarray) -> Image.Image:
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise TypeError
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2:] == (1,) else pixels)


def faces_in(
    photo: Photo,
    faces: str = "several",
    aligned: bool = False,
    frame: np.ndarray = POINTS,
    name: str | None = None,
) -> list[Seen]:
    """The aligned faces of a photo, from left to right.

    faces: ``one`` (must be the only one), ``largest``, ``several``, or ``all`` (also small faces
    beside larger ones). aligned: the photo is a finished crop: skip detection. frame: see
    ``alignment.align``. name: the name of a photo that has none of its own. A photo without a sure
    face is turned if that shows a surer one. Raises PhotoError, and NoAnswerError if no face
    measures ``LEAST_FACE`` pixels or more.
    """
    name = name_of(photo, name)
    picture = given = read_photo(photo, name)
    found, turned = [whole(given)] if aligned else find_faces(given, faces == "all", frame), 0
    for degrees in TURNS if not found or found[0].score < SURE else ():
        other = given.rotate(-degrees, expand=True)
        there = find_faces(other, faces == "all", frame, small=False)
        if there and (not found or there[0].score > found[0].score):
            picture, found, turned = other, there, degrees
    if not found:
        raise NoAnswerError(f"no face was found in {name}: expected one, seen from the front")
    large = sorted((f for f in found if f.size >= LEAST_FACE), key=lambda f: f.box[0] + f.box[2])
    if not large:
        widest = max(face.size for face in found)
        expected = f"expected {LEAST_FACE} or more"
        raise NoAnswerError(f"the face in {name} is only {widest:.0f} pixels wide: {expected}")
    if faces == "one" and len(large) > 1:
        raise NoAnswerError(
            f"{name} shows {len(large)} faces: expected one, or ask for the largest or for all"
        )
    seen = []
    for number, face in enumerate(large, start=1):
        own = f"{name} #{number}" if len(large) > 1 else name
        seen.append(Seen(own, face, align(picture, face, frame), picture, picture.size, turned))
    return [max(seen, key=lambda one: one.face.size)] if faces == "largest" else seen


def only_face(photo: Photo, aligned: bool = False, frame: np.ndarray = POINTS) -> Seen:
    """The only face of a photo. Raises as ``faces_in``, also if there are several."""
    return faces_in(photo, "one", aligned, frame)[0]
