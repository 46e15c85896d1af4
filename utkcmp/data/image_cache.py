"""A cache of decoded and resized faces: a memory-mapped uint8 array, keyed by content."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from utkcmp.data.archives import DataError, files_of, read_file
from utkcmp.data.decode import decode, resize
from utkcmp.data.index import fingerprint
from utkcmp.files import atomic
from utkcmp.processes import in_processes

IMAGES_VERSION = 1  # increment when a change alters pixels


def cache_images(
    source: str | Path, faces: pd.DataFrame, size: int, cache: str | Path | None = None
) -> np.ndarray:
    """The valid faces as RGB, uint8 (N, 3, size, size): row i is the i-th valid row of ``faces``.

    faces: the index (columns file, sha256, status), sorted by file. size: pixels per side. cache:
    folder of the memory-mapped array, which is copy-on-write and rebuilt if damaged; None for an
    array in memory.
    Raises DataError if a face has vanished or changed since it was indexed, or the source cannot be
    read; OSError if the disk is full, and then leaves no file behind.
    """
    valid = faces[faces.status == "ok"].sort_values("file")
    if valid.empty:
        raise DataError(f"{source}: no face of the index is valid, expected one or more")
    shape = (len(valid), 3, size, size)
    pixels = _resized(source, valid, size)
    if cache is None:
        return np.stack(list(pixels))
    path = Path(cache) / f"images-{IMAGES_VERSION}-{fingerprint(faces)[:24]}-{size}.npy"
    if _open(path, shape) is None:
        with atomic(path) as temporary:
            _write(temporary, shape, pixels)
    return _open(path, shape)


def _open(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array in a file; None if it is missing, of the wrong length or of another shape."""
    try:
        images = np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError):
        return None
    whole = images.offset + images.nbytes == path.stat().st_size
    return images if whole and images.shape == shape and images.dtype == np.uint8 else None


def _write(path: Path, shape: tuple[int, ...], pixels: Iterable[np.ndarray]) -> None:
    """Write an .npy file row by row: on a full disk, writing to a memory map would crash."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for row in pixels:
            file.write(row.data)
        file.flush()
        os.fsync(file.fileno())


def _resized(source: str | Path, valid: pd.DataFrame, size: int) -> Iterator[np.ndarray]:
    """Yield each valid face, uint8 (3, size, size)."""
    paths = files_of(source)
    items = zip(map(paths.get, valid.file), valid.sha256, strict=True)
    converted = in_processes(partial(_convert, size), items, len(valid))
    bar = tqdm(converted, f"caching faces at {size} px", len(valid), leave=False, unit="face")
    lost = []
    for file, pixels in zip(valid.file, bar, strict=True):
        if pixels is None:
            lost.append(file)
        elif not lost:
            yield pixels
    if lost:
        raise DataError(
            f"{source}: {len(lost)} of {len(valid)} faces vanished or changed after they were "
            f"indexed, first {lost[0]}: expected what notebook 02 read (the same data, n_faces and "
            "seed), or that it runs again"
        )


def _convert(size: int, item: tuple[Path | None, str]) -> np.ndarray | None:
    """A file's pixels; None if it is missing or its digest differs."""
    path, sha256 = item
    data = read_file(path) if path else b""
    if hashlib.sha256(data).hexdigest() != sha256:
        return None
    return resize(decode(data, 3 * size // 2), size)
