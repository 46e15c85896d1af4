"""The table of faces: what each file name says, what each file holds, which are the same picture.

One row a file, rejected ones included with their reason, so that nothing is dropped silently.
File names follow UTKFace, ``[age]_[gender]_[ethnicity]_[date and time].jpg.chip.jpg``. Hidden files
and folders (``.DS_Store``, ``.sample.json``, ``__MACOSX``) are no part of the data and get no row.
"""

import contextlib
import hashlib
import io
import re
import warnings
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from tqdm.auto import tqdm

from utkcmp.duplicates import LOOK_SIDE, look, same_pictures
from utkcmp.run import atomic
from utkcmp.sources import KINDS, MAX_BYTES, DataError, in_processes, list_files, read_files, stamp

GENDERS = ("male", "female")
ETHNICITIES = ("White", "Black", "Asian", "Indian", "Others")

INDEX_VERSION = 1  # raise it with every change that changes a row, here or in duplicates
MAX_AGE = 116  # years; UTKFace states 0 to 116
HIGH_AGE = 110  # years; above it an age is accepted but noted
MIN_SIDE, MAX_PIXELS = 16, 50_000_000  # a smaller or larger picture is rejected before decoding
TO_EIGHT_BITS = (np.arange(2**16) / 257).round().astype(np.uint8)  # a lookup: less memory
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # what a .jpg or .png may turn out to be

# UTKFace has 14 to 18 digits for date and time, drops the gender or the ethnicity at times, and
# once each the dot before jpg and a blank too many.
SUFFIX = re.compile(r"(\s*)(\.?)(jpe?g|png)(\.chip\.(jpe?g|png))?\Z", re.IGNORECASE)
FULL_NAME = re.compile(r"([0-9]{1,3})_([0-9]*)_([0-9]*)_([^_]*)")
SHORT_NAME = re.compile(r"([0-9]{1,3})_(?:([0-9])_)?([0-9]{14,18})")

COLUMNS = {
    "file": str,
    "age": "Int64",
    "gender": "Int64",
    "ethnicity": "Int64",
    "taken": str,
    "width": "Int64",
    "height": "Int64",
    "bytes": "int64",
    "sha256": str,
    "phash": str,
    "group": "int64",
    "conflict": "int64",
    "status": str,
    "notes": str,
}


class ImageError(ValueError):
    """A file that is rejected; the text is the reason in a few words."""


def index_faces(
    source: str | Path, cache: str | Path | None = None, progress: bool = True
) -> pd.DataFrame:
    """Index the faces of a folder (with subfolders), .tar.gz, .tgz, .tar or .zip.

    cache: a folder that keeps the index for the next call, which decodes nothing as long as no
    file's name, size or time has changed; None keeps nothing. progress: show a progress bar.
    Returns one row a file, sorted by ``file`` (posix path within the source): ``age`` (years),
    ``gender`` and ``ethnicity`` (places in GENDERS and ETHNICITIES; NA if unknown), ``taken`` (in
    the name), ``width`` and ``height`` (pixels, as stored), ``bytes``, ``sha256``, ``phash`` (hex),
    ``group`` (files of one picture share a number; numbered by first file), ``conflict`` (years
    between the oldest and the youngest label of the group's valid files), ``status`` ("ok" or the
    reason of rejection) and ``notes`` (what is odd about a file, separated by "; ").
    Raises DataError for a source that cannot be read (see ``read_files``) or has no valid face.
    """
    if cache is None:
        return _index(source, progress)
    path = Path(cache) / f"faces-{INDEX_VERSION}-{stamp(source)[:24]}.csv"
    faces = _load(path)
    if faces is None:
        faces = _index(source, progress)
        _store(path, faces)
    return faces


def fingerprint(faces: pd.DataFrame) -> str:
    """The content of the valid faces as sha256 (hex), whatever the order of the rows.

    faces: columns file, sha256, status. Ages are part of it, since the file names say them.
    """
    valid = faces[faces.status == "ok"]
    lines = sorted(
        f"{file}\0{sha256}\n" for file, sha256 in zip(valid.file, valid.sha256, strict=True)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def shown_files(faces: pd.DataFrame, show_faces: bool = True) -> pd.Series:
    """What pages call the files of ``faces`` (columns file, sha256), (N,) str.

    That is their names, or, where no face may be shown, the first 12 digits of their contents'
    SHA-256: whoever has the data finds them in the column ``sha256`` of faces.csv.
    """
    return faces.file if show_faces else faces.sha256.str[:12].rename("file")


# ---- names ---------------------------------------------------------------------------------------


def parse_name(name: str) -> dict:
    """What a file name says: age (years), gender and ethnicity (codes or None), taken, notes.

    name: the last part of a path. Where only one digit stands between age and date, it is the
    gender if it can be one (as in UTKFace's own such names), else the ethnicity. ``notes`` lists
    what is odd. Raises ImageError with the reason where no plausible age can be read.

    >>> parse_name("61_1_20170109142408075.jpg.chip.jpg")["notes"]
    ['ethnicity missing']
    """
    suffix = SUFFIX.search(name)
    if not suffix:
        raise ImageError("not an image")
    age, gender, ethnicity, taken = _fields(name[: suffix.start()])
    if age > MAX_AGE:
        raise ImageError(f"age above {MAX_AGE}")
    odd = {
        f"age above {HIGH_AGE}": age > HIGH_AGE,
        "gender missing": gender is None,
        "ethnicity missing": ethnicity is None,
        "odd time stamp": not re.fullmatch("[0-9]{17}", taken),
        "blank in name": suffix[1] != "",
        "dot missing": suffix[2] == "",
    }
    notes = [note for note, holds in odd.items() if holds]
    return {"age": age, "gender": gender, "ethnicity": ethnicity, "taken": taken, "notes": notes}


def _fields(stem: str) -> tuple[int, int | None, int | None, str]:
    if full := FULL_NAME.fullmatch(stem):
        age, gender, ethnicity, taken = full.groups()
    elif short := SHORT_NAME.fullmatch(stem):
        age, code, taken = short.groups()
        gender, ethnicity = (code, None) if code in ("0", "1") else (None, code)
    else:
        raise ImageError("name without age")
    return int(age), _code(gender, GENDERS), _code(ethnicity, ETHNICITIES), taken


def _code(digits: str | None, names: tuple) -> int | None:
    return int(digits) if digits and int(digits) < len(names) else None


# ---- pictures ------------------------------------------------------------------------------------


def decode(data: bytes, at_least: int | None = None) -> Image.Image:
    """Decode one picture to upright RGB, 8 bits a channel, transparent parts on white.

    Turned as EXIF says; greyscale, palette, CMYK and 16-bit pictures are converted. The size in
    the header is checked first, so a decompression bomb is never unpacked.
    at_least: pixels per side that are enough; a JPEG may then come at a half, a quarter or an
    eighth of its size, which is faster. None gives the picture as it is.
    Raises ImageError, whose text is one of: zero bytes, not an image, too large, too small,
    animated, truncated, damaged.
    """
    return _upright_rgb(_open(data), at_least)[0]


def upright(image: Image.Image) -> Image.Image:
    """The same for a picture that is open already, which stays as it is. Raises ImageError too."""
    _check_size(image)
    try:
        image.load()
    except Exception as error:
        raise _broken(error) from None
    return _upright_rgb(image.copy(), None)[0]


def resize(image: Image.Image, size: int) -> np.ndarray:
    """Reduce an RGB image to uint8 (3, size, size); of an oblong one, the square in its middle."""
    square = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _open(data: bytes) -> Image.Image:
    """Read the header and judge by it; the pixels stay undecoded."""
    if not data:
        raise ImageError("zero bytes")
    if len(data) > MAX_BYTES:
        raise ImageError("too large")
    try:
        with _quiet():
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        animated = image.format != "MPO" and getattr(image, "is_animated", False)
    except UnidentifiedImageError:
        raise ImageError("not an image") from None
    except Image.DecompressionBombError:
        raise ImageError("too large") from None
    except Exception as error:  # a decoder raises whatever a broken file makes it stumble over
        raise _broken(error) from None
    _check_size(image)
    if animated:
        raise ImageError("animated")
    return image


@contextlib.contextmanager
def _quiet():
    """Pillow's warnings of what is wrong with a file kept off the page; its errors stay."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError("too large")
    if min(image.size) < MIN_SIDE:
        raise ImageError("too small")


def _upright_rgb(image: Image.Image, at_least: int | None) -> tuple[Image.Image, list[str]]:
    """Decode a picture whose header has been read; also gives what is odd about it."""
    deep = ";16" in str(
        getattr(image, "tile", "")
    )  # how the file holds its pixels, known until they are decoded
    try:
        if at_least:
            image.draft(None, (at_least, at_least))
        with _quiet():
            image.load()
    except Exception as error:
        raise _broken(error) from None
    notes = _picture_notes(image, deep)
    with contextlib.suppress(Exception), _quiet():  # broken EXIF: the picture is taken as it stands
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16 bits; convert() would cut off what exceeds 255
        image = Image.fromarray(TO_EIGHT_BITS[np.asarray(image).clip(0, 65535)])
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB"), notes


def _broken(error: Exception) -> ImageError:
    return ImageError("truncated" if "truncated" in str(error).lower() else "damaged")


def _picture_notes(image: Image.Image, deep: bool) -> list[str]:
    turned = False
    with contextlib.suppress(Exception), _quiet():
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    odd = {
        "greyscale": image.mode in ("1", "L", "LA") or image.mode.startswith("I"),
        "CMYK": image.mode == "CMYK",
        "palette": image.mode == "P",
        "16-bit": deep,
        "transparent": image.has_transparency_data,
        "EXIF rotation": turned,
    }
    return [note for note, holds in odd.items() if holds]


# ---- the index -----------------------------------------------------------------------------------


def _index(source: str | Path, progress: bool) -> pd.DataFrame:
    count = len(list_files(source))
    examined = in_processes(_examine, read_files(source), count)
    bar = tqdm(examined, "indexing faces", count, disable=not progress, leave=False, unit="face")
    found = {row["file"]: (row, thumb) for row, thumb in bar}
    rows, thumbs = zip(*(found[file] for file in sorted(found)), strict=True)
    faces = pd.DataFrame(rows, columns=list(COLUMNS))
    if not (faces.status == "ok").any():
        reasons = ", ".join(f"{n} {reason}" for reason, n in faces.status.value_counts().items())
        raise DataError(f"{source} holds no valid face ({reasons}): expected {KINDS}")
    _add_groups(faces, thumbs)
    return faces.astype(COLUMNS)


def _examine(item: tuple[str, bytes]) -> tuple[dict, np.ndarray | None]:
    """One row of the index, without its group, and the thumbnail of a valid picture."""
    file, data = item
    sha256 = hashlib.sha256(data).hexdigest()
    row = {"file": file, "taken": "", "bytes": len(data), "sha256": sha256, "phash": ""}
    notes, thumb = [], None
    try:
        row |= parse_name(PurePosixPath(file).name)
        notes += row["notes"]
        image = _open(data)
        row |= {"width": image.width, "height": image.height}
        image, odd = _upright_rgb(image, LOOK_SIDE)
        notes += odd
        row["phash"], thumb = look(image)
        row["status"] = "ok"
    except ImageError as error:
        row["status"] = str(error)
    return row | {"notes": "; ".join(notes)}, thumb


def _add_groups(faces: pd.DataFrame, thumbs: tuple[np.ndarray | None, ...]) -> None:
    """Fill in ``group``, numbered by first file (a rejected file is alone), and ``conflict``."""
    valid = np.flatnonzero(faces.status == "ok")
    label = -1 - np.arange(len(faces))  # below 0: alone
    ok = faces.iloc[valid]
    label[valid] = same_pictures(
        ok.sha256.tolist(), ok.phash.tolist(), np.stack([thumbs[i] for i in valid])
    )
    faces["group"] = pd.factorize(label)[0]
    ages = ok.age.astype("int64").groupby(faces.group)
    faces["conflict"] = faces.group.map(ages.max() - ages.min()).fillna(0)


# ---- the stored index ----------------------------------------------------------------------------


def _store(path: Path, faces: pd.DataFrame) -> None:
    body = faces.to_csv(index=False).encode()
    with atomic(path) as temporary:
        temporary.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def _load(path: Path) -> pd.DataFrame | None:
    """A stored index; None if there is none or if it is not the one that was stored."""
    if not path.exists():
        return None
    digest, _, body = path.read_bytes().partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    numbers = [name for name, kind in COLUMNS.items() if kind == "Int64"]
    missing = {name: [""] for name in numbers}
    return pd.read_csv(io.BytesIO(body), dtype=COLUMNS, keep_default_na=False, na_values=missing)
