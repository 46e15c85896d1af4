"""A synthetic stand-in for UTKFace: drawn faces (see ``drawing``) in its format, with its flaws."""

import contextlib
import io
import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image

from utkcmp.data.drawing import DrawnFace, draw_face
from utkcmp.files import read_json, replaced

DRAWING = 1  # increment when a change here or in drawing.py alters the files
MARKER = ".sample.json"
LEAST = 50  # good faces
FIRST_TAKEN, TAKEN_WITHIN = datetime(2016, 12, 19), 33 * 86_400_000  # ms, as in UTKFace
FLAWS = {  # kind: least number, and one per so many faces
    "missing_field": (1, 200),  # no ethnicity in the name, 39_1_20170116174525125.jpg...
    "blank_in_name": (1, 4000),  # a blank before .jpg.chip.jpg
    "missing_dot": (1, 4000),  # ...357jpg.chip.jpg
    "copy_same_age": (1, 100),  # the bytes of a good face under a second name
    "copy_other_age": (2, 65),  # the same, the two ages 2 to 4 or 8 to 25 years apart
    "near_same_age": (1, 130),  # a good face stored again at a lower JPEG quality
    "near_other_age": (1, 400),  # the same, the two ages 2 to 4 years apart
    "truncated": (1, 4000),  # the first half of a JPEG
    "empty": (1, 4000),  # no bytes at all
    "not_an_image": (1, 4000),  # text under a valid face name
    "other_file": (1, 10**9),  # readme.txt
}


def planted_flaws(n: int = 400) -> dict[str, int]:
    """The number of flawed files that ``draw_sample`` adds to ``n`` good faces, by kind of flaw.

    >>> planted_flaws(400)["copy_other_age"], sum(planted_flaws(400).values())
    (6, 22)
    """
    return {kind: max(least, n // per) for kind, (least, per) in FLAWS.items()}


def draw_sample(folder: str | Path, n: int = 400, seed: int = 42) -> Path:
    """Draw ``n`` synthetic faces into ``folder``, named as in UTKFace, and ``planted_flaws(n)``.

    Good faces are 200 x 200 RGB JPEGs, aged 1 to 100 roughly as in UTKFace. ``n`` (50 or more) and
    ``seed`` (0 or more) determine all bytes (given the versions of numpy and Pillow); face k does
    not depend on ``n``. An existing sample is kept if it is the same one, else replaced atomically.
    Returns ``folder`` as a Path. Raises ValueError if ``n`` or ``seed`` is too small or ``folder``
    contains other files.

    >>> import tempfile
    >>> folder = draw_sample(Path(tempfile.mkdtemp(), "faces"), n=50)
    >>> len(list(folder.glob("*.jpg"))), sum(planted_flaws(50).values())
    (61, 12)
    """
    folder = Path(folder)
    if n < LEAST or seed < 0:
        raise ValueError(f"sample of n={n}, seed={seed}: expected n >= {LEAST} and seed >= 0")
    files = n + sum(planted_flaws(n).values())
    marker = {"drawing": DRAWING, "n": n, "seed": seed, "files": files}
    found, drawn = None, -1  # the existing marker and its number of files
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = read_json(folder / MARKER)
        drawn = int(found["files"])
    there = len([*folder.glob("[!.]*"), *folder.glob(MARKER)]) or folder.is_file()
    if there > drawn + 1:
        raise ValueError(
            f"{folder} holds something else than drawn faces: expected a new or an empty "
            "folder, or one that draw_sample filled"
        )
    if found == marker and there == files + 1:
        return folder
    with replaced(folder) as fresh:
        _write_files(fresh, n, seed)
        (fresh / MARKER).write_text(json.dumps(marker), encoding="utf-8")
    return folder


def _write_files(folder: Path, n: int, seed: int) -> None:
    for k in range(n):
        label, data = _face_file(seed, k)
        (folder / _name(*label, k)).write_bytes(data)
    rng = np.random.default_rng([seed, 1])
    sources = rng.permutation(n)  # so that no face is copied twice
    flaws = [kind for kind, count in planted_flaws(n).items() for _ in range(count)]
    for i, kind in enumerate(flaws):
        copied, near = kind.startswith(("copy", "near")), kind.startswith("near")
        label, data = _face_file(seed, int(sources[i]) if copied else n + i)
        age, gender, ethnicity = label
        if kind.endswith("other_age"):
            gap = rng.integers(2, 5) if near or (n + i) % 2 else rng.integers(8, 26)
            age += int(gap if age < 50 else -gap)
        name = _name(age, gender, ethnicity, n + i)
        if near:
            data = _jpeg(Image.open(io.BytesIO(data)), 50)
        names = {
            "missing_field": name.replace(f"_{gender}_{ethnicity}_", f"_{gender}_"),
            "blank_in_name": name.replace(".", " .", 1),
            "missing_dot": name.replace(".", "", 1),
            "other_file": "readme.txt",
        }
        contents = {
            "truncated": data[: len(data) // 2],
            "empty": b"",
            "not_an_image": b"<html><body>404 Not Found</body></html>\n",
            "other_file": b"Drawn faces, named as in UTKFace. No person is shown.\n",
        }
        (folder / names.get(kind, name)).write_bytes(contents.get(kind, data))


def _face_file(seed: int, k: int) -> tuple[tuple[int, int, int], bytes]:
    """The (age, gender, ethnicity) and the JPEG of face ``k``."""
    rng = np.random.default_rng([seed, 0, k])
    face = DrawnFace(rng)
    picture = draw_face(face)
    return (face.age, face.gender, face.ethnicity), _jpeg(picture, int(rng.integers(60, 96)))


def _jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _name(age: int, gender: int, ethnicity: int, k: int) -> str:
    taken = FIRST_TAKEN + timedelta(milliseconds=k * 1_762_064_483 % TAKEN_WITHIN)  # all distinct
    when = f"{taken:%Y%m%d%H%M%S}{taken.microsecond // 1000:03}"
    return f"{age}_{gender}_{ethnicity}_{when}.jpg.chip.jpg"
