"""Faces decoded and resized once: a uint8 array on disk, memory-mapped, keyed by its content."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from utkcmp.data.archives import DataError, read_files
from utkcmp.data.decode import ImageError, decode, resize
from utkcmp.data.index import fingerprint
from utkcmp.files import atomic
from utkcmp.processes import in_processes

IMAGES_VERSION = 1  # raise it with every change here that changes a pixel


def cache_images(
    source: str | Path,
    faces: pd.DataFrame,
    size: int,
    cache: str | Path | None = None,
    progress: bool = True,
) -> np.ndarray:
    """The valid faces as uint8 (N, 3, size, size), RGB: row i is the i-th valid row of ``faces``.

    faces: the index (columns file, sha256, status), sorted by file. size: pixels per side.
    cache: the folder that keeps the array for the next call, which then reads nothing else. It is
    memory-mapped, and what is written to it stays in memory and never reaches the file. A file that
    is not whole is built anew. None keeps nothing and gives an array in memory.
    Raises DataError if a face has vanished or changed since it was indexed, or the source cannot be
    read; OSError if the disk is full, and then nothing is left behind.
    """
    valid = faces[faces.status == "ok"].sort_values("file")
    if valid.empty:
        raise DataError(f"{source}: no face of the index is valid, expected one or more")
    shape = (len(valid), 3, size, size)
    rows = _resized(source, valid, size, progress)
    if cache is None:
        images = np.empty(shape, np.uint8)
        for row, pixels in rows:
            images[row] = pixels
        return images
    path = Path(cache) / f"images-{IMAGES_VERSION}-{fingerprint(faces)[:24]}-{size}.npy"
    images = _open(path, shape)
    if images is None:
        with atomic(path) as temporary:
            _write(temporary, shape, rows)
        images = _open(path, shape)
    return images


def _open(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array in a file; None if the file is missing, cut, too long or of another shape."""
    try:
        images = np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError):
        return None
    whole = images.offset + images.nbytes == path.stat().st_size
    return images if whole and images.shape == shape and images.dtype == np.uint8 else None


def _write(path: Path, shape: tuple[int, ...], rows: Iterable[tuple[int, np.ndarray]]) -> None:
    """Write an .npy file row by row: on a full disk that fails, where a memory map would crash."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for row, pixels in rows:
            file.seek(start + row * pixels.nbytes)
            file.write(pixels.data)
        file.flush()
        os.fsync(file.fileno())


def _resized(
    source: str | Path, valid: pd.DataFrame, size: int, progress: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """Each valid face once or more, in the source's order: its row and its pixels."""
    rows = {file: row for row, file in enumerate(valid.file)}
    expected = dict(zip(valid.file, valid.sha256, strict=True))

    missing = set(rows)
    converted = in_processes(partial(_convert, size), read_files(source, rows), len(rows))
    label = f"caching faces at {size} px"
    for file, sha256, pixels in tqdm(
        converted, label, len(rows), disable=not progress, leave=False, unit="face"
    ):
        if sha256 == expected[file]:
            missing.discard(file)
            yield rows[file], pixels
    if missing:
        raise DataError(
            f"{source}: {len(missing)} of {len(rows)} faces vanished or changed after they were "
            f"indexed, first {min(missing)}: expected the files of the index, or a new index"
        )


def _convert(size: int, item: tuple[str, bytes]) -> tuple[str, str, np.ndarray | None]:
    """A file's name, the digest of its content and its pixels; None if they cannot be read."""
    file, data = item
    try:
        pixels = resize(decode(data, 3 * size // 2), size)
    except ImageError:  # it has changed since it was indexed, which its digest shows
        pixels = None
    return file, hashlib.sha256(data).hexdigest(), pixels
