"""Photos as they are handed in: read, checked, and their faces found and aligned."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from utkcmp.compare.alignment import LEAST_FACE, POINTS, FoundFace, align, find_faces, whole
from utkcmp.data.archives import MAX_BYTES, printable
from utkcmp.data.decode import FORMATS, MAX_PIXELS, MIN_SIDE, ImageError, decode, upright

Photo = str | Path | bytes | Image.Image | np.ndarray
REASONS = {
    "zero bytes": "is empty, zero bytes: expected a photo",
    "not an image": f"is not an image: expected a photo as {', '.join(FORMATS)}",
    "too large": f"is too large: expected at most {MAX_PIXELS // 10**6} million pixels "
    f"and {MAX_BYTES // 2**20} MiB",
    "too small": f"is too small: expected {MIN_SIDE} pixels per side or more",
    "animated": "moves: expected a single picture",
    "truncated": "is cut off in the middle: expected the whole file",
    "damaged": "is damaged: expected a photo that other programs can open",
}


class PhotoError(ValueError):
    """A photo that cannot be read; the text is one sentence for the user."""


class NoAnswerError(ValueError):
    """A question that cannot be answered, about photos that can be read; one sentence."""


@dataclass(frozen=True)
class Seen:
    """A face as it is compared.

    name: the photo's, with the face's number from the left where a photo has several. face: where
    it lies. crop: the aligned face, RGB. photo: the upright photo, RGB; None in large batches.
    """

    name: str
    face: FoundFace
    crop: Image.Image
    photo: Image.Image | None

    def as_dict(self) -> dict:
        return {
            "file": self.name,
            "box": [round(side, 1) for side in self.face.box],
            "eyes": self.face.eyes.round(1).tolist(),
            "score": round(self.face.score, 3),
            "already_cropped": self.face.finished,
        }


def read_photo(photo: Photo) -> Image.Image:
    """A photo as an upright RGB image.

    photo: a path, the bytes of a file, a PIL image, or a uint8 array (H, W), (H, W, 3) in RGB or
    (H, W, 4) in RGBA. Raises PhotoError in one sentence.
    """
    name = name_of(photo)
    try:
        if isinstance(photo, Image.Image):
            return upright(photo)
        if isinstance(photo, np.ndarray):
            return upright(_from_array(photo))
        return decode(photo if isinstance(photo, bytes) else _read(Path(photo)))
    except ImageError as error:
        raise PhotoError(f"{name} {REASONS[str(error)]}") from None


def name_of(photo: Photo) -> str:
    """What a photo is called in a sentence, on one line whatever its name holds."""
    if isinstance(photo, str | Path):
        return printable(str(photo))
    return f"the {type(photo).__name__} given"


def _read(path: Path) -> bytes:
    name = name_of(path)
    if path.is_dir():
        raise PhotoError(f"{name} is a folder: expected a photo (its photos: {name}/*.jpg)")
    try:
        if path.exists() and not path.is_file():  # a pipe might never give anything
            raise PhotoError(f"{name} is a device or a pipe: expected a photo")
        if path.stat().st_size > MAX_BYTES:  # before it is read
            raise ImageError("too large")
        return path.read_bytes()
    except (ImageError, PhotoError):
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise PhotoError(f"{name} cannot be read ({reason}): expected a photo") from None


def _from_array(pixels: np.ndarray) -> Image.Image:
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise PhotoError(
            f"an array of {pixels.dtype} {pixels.shape} is no photo: "
            "expected uint8 (H, W), (H, W, 3) or (H, W, 4)"
        )
    if min(pixels.shape[:2]) < MIN_SIDE:
        raise ImageError("too small")
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2:] == (1,) else pixels)


def faces_in(
    photo: Photo, every: bool = False, aligned: bool = False, frame: np.ndarray = POINTS
) -> list[Seen]:
    """The faces of a photo, from left to right, aligned.

    every: look for small faces too where there are larger ones; aligned: take the photo for a
    finished crop, without looking for a face; frame: see ``alignment.align``.
    Raises PhotoError, and NoAnswerError where no face has ``LEAST_FACE`` pixels or more.
    """
    name, picture = name_of(photo), read_photo(photo)
    found = [whole(picture)] if aligned else find_faces(picture, every, frame)
    large = sorted((f for f in found if f.size >= LEAST_FACE), key=lambda f: f.box[0] + f.box[2])
    if not found:
        raise NoAnswerError(
            f"no face was found in {name}: expected one, seen from the front and upright"
        )
    if not large:
        raise NoAnswerError(
            f"the face in {name} is only {max(f.size for f in found):.0f} pixels wide: "
            f"expected {LEAST_FACE} or more"
        )
    numbered = len(large) > 1
    return [
        Seen(f"{name} #{number}" if numbered else name, face, align(picture, face, frame), picture)
        for number, face in enumerate(large, start=1)
    ]


def only_face(photo: Photo, aligned: bool = False, frame: np.ndarray = POINTS) -> Seen:
    """The one face of a photo. Raises as ``look``, and NoAnswerError where there are several."""
    found = faces_in(photo, aligned=aligned, frame=frame)
    if len(found) > 1:
        raise NoAnswerError(
            f"{name_of(photo)} shows {len(found)} faces: expected one (--all puts all in order)"
        )
    return found[0]
