"""The index of faces: labels from file names, properties of files, groups of duplicates.

One row per file; rejected files stay, with the reason. File names follow UTKFace,
``[age]_[gender]_[ethnicity]_[date and time].jpg.chip.jpg``. Hidden files and folders
(``.DS_Store``, ``.sample.json``, ``__MACOSX``) are ignored.
"""

import hashlib
import io
import re
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from utkcmp.data import archives
from utkcmp.data.archives import ARCHIVE, KINDS, DataError, files_of, read_file
from utkcmp.data.decode import ImageError, content, decode, load, read_header
from utkcmp.data.duplicates import HASHED_SIDE, perceptual_hash, same_pictures
from utkcmp.files import atomic
from utkcmp.processes import in_processes

GENDERS = ("male", "female")
ETHNICITIES = ("White", "Black", "Asian", "Indian", "Others")

INDEX_VERSION = 3  # increment when a change here or in duplicates alters a row
MAX_AGE = 116  # years; UTKFace states 0 to 116
HIGH_AGE = 110  # years; above it an age is accepted but noted

# UTKFace's dates have 14 to 18 digits. Some names lack the gender or the ethnicity, one the dot
# before jpg; one has a blank too many.
SUFFIX = re.compile(
    r"(\s*)(\.?)(jpe?g|png|webp|bmp|tiff?|avif|hei[cf]|mpo)(\.chip\.(jpe?g|png))?\Z", re.IGNORECASE
)
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


def index_faces(
    source: str | Path, cache: str | Path | None = None, progress: bool = True
) -> pd.DataFrame:
    """Index the faces of a folder (with subfolders) or an archive (see ``files_of``).

    cache: a folder for the index, reused until a file's name, size or time changes; None for no
    cache. progress: show a progress bar.
    Returns one row per file, sorted by ``file`` (posix path within the source): ``age`` (years),
    ``gender`` and ``ethnicity`` (indices into GENDERS and ETHNICITIES; NA if unknown), ``taken``
    (as in the name), ``width`` and ``height`` (pixels, as stored), ``bytes``, ``sha256``, ``phash``
    (hex), ``group`` (of duplicates, numbered by first file), ``conflict`` (years between the oldest
    and the youngest label of the group), ``status`` ("ok" or the reason of rejection) and ``notes``
    (oddities, separated by "; ").
    Raises DataError for a source that cannot be read (see ``files_of``) or has no valid face.
    """
    if cache is None:
        return _index(source, progress)
    path = Path(cache) / f"faces-{INDEX_VERSION}-{archives.source_fingerprint(source)[:24]}.csv"
    digest, _, body = path.read_bytes().partition(b"\n") if path.exists() else (b"", b"", b"")
    if hashlib.sha256(body).hexdigest().encode() == digest:  # neither missing nor damaged
        unknown = {name: [""] for name, kind in COLUMNS.items() if kind == "Int64"}
        options = {"dtype": COLUMNS, "keep_default_na": False, "na_values": unknown}
        return pd.read_csv(io.BytesIO(body), **options)
    faces = _index(source, progress)
    body = faces.to_csv(index=False).encode()
    with atomic(path) as temporary:
        temporary.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    return faces


def fingerprint(faces: pd.DataFrame) -> str:
    """SHA-256 (hex) of the valid faces' names, hence labels, and contents, in any order of rows.

    faces: columns file, sha256, status.
    """
    valid = faces[faces.status == "ok"]
    lines = sorted(valid.file + "\0" + valid.sha256 + "\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def shown_files(faces: pd.DataFrame, show_faces: bool = True) -> pd.Series:
    """Names of ``faces`` (columns file, sha256) on pages, (N,) str: ``file`` or, without
    ``show_faces``, the first 12 digits of ``sha256``."""
    return faces.file if show_faces else faces.sha256.str[:12].rename("file")


def parse_name(name: str) -> dict:
    """Parse a file name: age (years), gender and ethnicity (codes or None), taken, notes (list).

    name: without folders. A single digit between age and date is the gender if valid as such (as
    in UTKFace), else the ethnicity. Raises ImageError if no plausible age can be read.

    >>> parse_name("61_1_20170109142408075.jpg.chip.jpg")["notes"]
    ['ethnicity missing']
    """
    suffix = SUFFIX.search(name)
    if not suffix:
        raise ImageError("not an image")
    stem = name[: suffix.start()]
    if full := FULL_NAME.fullmatch(stem):
        age, gender, ethnicity, taken = full.groups()
    elif short := SHORT_NAME.fullmatch(stem):
        age, code, taken = short.groups()
        gender, ethnicity = (code, None) if code in ("0", "1") else (None, code)
    else:
        raise ImageError("name without age")
    age, gender, ethnicity = int(age), _code(gender, GENDERS), _code(ethnicity, ETHNICITIES)
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


def _code(digits: str | None, names: tuple) -> int | None:
    return int(digits) if digits and int(digits) < len(names) else None


def _index(source: str | Path, progress: bool) -> pd.DataFrame:
    files = files_of(source)
    found = in_processes(_examine, files.items(), len(files))
    bar = tqdm(found, "indexing faces", len(files), disable=not progress, leave=False, unit="face")
    rows, thumbs = zip(*bar, strict=True)
    faces = pd.DataFrame(rows, columns=list(COLUMNS))
    names = faces.file.str.rpartition("/")[2]  # some archives hold every file in several folders
    again = faces.assign(name=names).duplicated(["name", "sha256"]) & (faces.status == "ok")
    faces.loc[again, "status"] = "the same file in another folder"
    if not (faces.status == "ok").any():
        reasons = ", ".join(f"{n} {reason}" for reason, n in faces.status.value_counts().items())
        packed = next(filter(ARCHIVE.search, files), None)
        reasons += f"; {packed} is an archive to be unpacked" if packed else ""
        raise DataError(f"{source} holds no valid face ({reasons}): expected {KINDS}")
    ok = faces[faces.status == "ok"]
    label = -1 - np.arange(len(faces))  # rejected files: unique negative labels
    thumbs = np.stack([thumbs[i] for i in ok.index])
    label[ok.index] = same_pictures(ok.sha256.tolist(), ok.phash.tolist(), thumbs)
    faces["group"] = pd.factorize(label)[0]  # numbered by first file
    ages = ok.age.astype("int64").groupby(faces.group)
    faces["conflict"] = faces.group.map(ages.max() - ages.min()).fillna(0)
    return faces.astype(COLUMNS)


def _examine(item: tuple[str, Path]) -> tuple[dict, np.ndarray | None]:
    """One row of the index, without ``group`` and ``conflict``, and the thumbnail if valid."""
    file, path = item
    data, thumb = read_file(path), None
    row = {"file": file, "taken": "", "bytes": len(data), "phash": "", "notes": [], "status": "ok"}
    row["sha256"] = hashlib.sha256(data).hexdigest()
    try:
        row |= parse_name(PurePosixPath(file).name)
        data = content(data)
        row["width"], row["height"] = read_header(data).size
        image, odd = load(data, HASHED_SIDE)
        row["notes"] += odd
        row["phash"], thumb = perceptual_hash(image)
    except ImageError as error:
        row["status"] = str(error)
    return row | {"notes": "; ".join(row["notes"])}, thumb


def read_crops(data, rows: np.ndarray) -> list:
    """The faces of ``rows`` at their size in the source, as RGB images."""
    paths = files_of(archives.data_source(data.params))
    return [decode(read_file(paths[file])) for file in data.faces.file.iloc[rows]]
