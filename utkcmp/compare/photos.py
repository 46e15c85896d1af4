"""Photos as they are handed in: read, checked, and their faces found and aligned."""

import os
from dataclasses import dataclass
from pathlib import Path
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
    "animated": "moves: expected a single picture",
    "truncated": "is cut off in the middle: expected the whole file",
    "damaged": "is damaged: expected a photo that other programs can open",
}
EXPECTED = "a path, bytes, a binary file, an image, or uint8 (H, W), (H, W, 3) or (H, W, 4)"
# By how many degrees, clockwise, a photo is turned in which no face is surely upright: those on
# their side are found, too, at times, with wrong points (360 of them scored 0.89 at most, and the
# 120 upright ones 0.90 at least).
TURNS, SURE = (90, 270, 180), 0.9


class PhotoError(ValueError):
    """A photo that cannot be read; the text is one sentence for the user."""


class NoAnswerError(ValueError):
    """A question that cannot be answered, about photos that can be read; one sentence."""


@dataclass(frozen=True)
class Seen:
    """A face as it is compared.

    name: the photo's, with the face's number from the left where a photo has several. face: where
    it lies. crop: the aligned face, RGB. photo: the upright photo, RGB; None in an album, whose
    crops are small, too. turned: degrees by which the photo was turned clockwise to find a face.
    brought: float32 (C,), what the model embeds it as. age: predicted, years, and
    age_distribution: float64 (A,), the probabilities of 0, 1, 2, ... years; None if they were not
    asked for or the model tells none.
    """

    name: str
    face: FoundFace
    crop: Image.Image
    photo: Image.Image | None
    turned: int = 0
    brought: np.ndarray | None = None
    age: float | None = None
    age_distribution: np.ndarray | None = None

    def as_dict(self) -> dict:
        found = {
            "file": self.name,
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
    """A photo as an upright RGB image.

    photo: a path, an open binary file, the bytes of one, a PIL image, or a uint8 array (H, W),
    (H, W, 3) in RGB or (H, W, 4) in RGBA. name: what to call it in a message.
    Raises PhotoError in one sentence.
    """
    name = name or name_of(photo)
    try:
        if isinstance(photo, np.ndarray):
            photo = _from_array(photo)
        if isinstance(photo, Image.Image):
            return upright(photo)
        if not isinstance(photo, str | os.PathLike):
            return decode(photo)
        if Path(photo).is_dir():
            raise ImageError("a folder")
        if Path(photo).exists() and not Path(photo).is_file():  # a pipe might never give anything
            raise ImageError("a device")
        with open(photo, "rb") as file:
            return decode(file)
    except ImageError as error:
        raise PhotoError(f"{name} {REASONS[str(error)]}") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    except ValueError as error:  # a name that no file can have, a file that is closed
        reason = str(error)
    except TypeError:
        raise PhotoError(f"{name} is no photo: expected {EXPECTED}") from None
    raise PhotoError(f"{name} cannot be read ({reason}): expected a photo")


def name_of(photo: Photo, otherwise: str | None = None) -> str:
    """What a photo is called in a sentence, on one line whatever its name holds.

    otherwise: for a photo that has no name of its own.
    """
    name = photo if isinstance(photo, str | os.PathLike) else getattr(photo, "name", None)
    if isinstance(name, str | os.PathLike):
        return printable(os.fsdecode(name))
    return otherwise or f"the {type(photo).__name__} given"


def _from_array(pixels: np.ndarray) -> Image.Image:
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise TypeError
    if min(pixels.shape[:2]) < MIN_SIDE:
        raise ImageError("too small")
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2:] == (1,) else pixels)


def faces_in(
    photo: Photo,
    faces: str = "several",
    aligned: bool = False,
    frame: np.ndarray = POINTS,
    name: str | None = None,
) -> list[Seen]:
    """The faces of a photo, from left to right, aligned.

    faces: ``one``, which must be the only one, the ``largest``, ``several``, or ``all``, small ones
    beside larger ones too. aligned: take the photo for a finished crop, without looking for a face.
    frame: see ``alignment.align``. name: what to call a photo that has no name of its own.
    A photo without a sure face is turned if that shows a surer one.
    Raises PhotoError, and NoAnswerError where no face has ``LEAST_FACE`` pixels or more.
    """
    name = name_of(photo, name)
    picture = given = read_photo(photo, name)
    found, turned = [whole(given)] if aligned else find_faces(given, faces == "all", frame), 0
    for degrees in TURNS if not found or found[0].score < SURE else ():
        other = given.rotate(-degrees, expand=True)
        there = find_faces(other, faces == "all", frame, small=False)
        if there and (not found or there[0].score > found[0].score):
            picture, found, turned = other, there, degrees
    large = sorted((f for f in found if f.size >= LEAST_FACE), key=lambda f: f.box[0] + f.box[2])
    if not found:
        raise NoAnswerError(f"no face was found in {name}: expected one, seen from the front")
    if not large:
        raise NoAnswerError(
            f"the face in {name} is only {max(f.size for f in found):.0f} pixels wide: "
            f"expected {LEAST_FACE} or more"
        )
    if faces == "one" and len(large) > 1:
        raise NoAnswerError(
            f"{name} shows {len(large)} faces: expected one "
            "(--largest takes the largest, --all puts all in order)"
        )
    names = [f"{name} #{number}" for number in range(1, len(large) + 1)]
    seen = [
        Seen(own, face, align(picture, face, frame), picture, turned)
        for own, face in zip(names if len(large) > 1 else [name], large, strict=True)
    ]
    return [max(seen, key=lambda one: one.face.size)] if faces == "largest" else seen


def only_face(photo: Photo, aligned: bool = False, frame: np.ndarray = POINTS) -> Seen:
    """The one face of a photo. Raises as ``faces_in``, also where there are several."""
    return faces_in(photo, "one", aligned, frame)[0]
