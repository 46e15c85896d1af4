"""Faces decoded and resized once: a uint8 array on disk, memory-mapped, keyed by its content."""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample
from tqdm.auto import tqdm

from utkcmp.faces import ImageError, decode, fingerprint, resize
from utkcmp.run import atomic
from utkcmp.sources import DataError, in_processes, read_files

AUGMENTATIONS = ("none", "flip", "full")
IMAGES_VERSION = 1  # raise it with every change here that changes a pixel
MEAN = (0.485, 0.456, 0.406)  # of ImageNet, as torchvision's pretrained weights expect
STD = (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey, by ITU-R BT.601


def to_float(batch: Tensor) -> Tensor:
    """Normalise uint8 images (B, 3, H, W) to float32 on their device: mean near 0, spread near 1.

    >>> to_float(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))[0, :, 0, 0].round(decimals=2)
    tensor([2.2500, 2.4300, 2.6400])
    """
    return _normalised(batch.float() / 255)


def _normalised(batch: Tensor) -> Tensor:
    mean, std = (torch.tensor(one, device=batch.device).view(3, 1, 1) for one in (MEAN, STD))
    return (batch - mean) / std


class Augmentation(nn.Module):
    """Random changes of a batch, each face its own, on the batch's device.

    kind: "none", "flip" (left-right mirror), or "full": a mirror, small turns, shifts and changes
    of size, brightness, contrast and saturation, and an erased rectangle (Zhong et al. 2020,
    "Random Erasing Data Augmentation").
    Maps uint8 (B, 3, H, W) to normalised float32, as ``to_float`` does; what it draws comes from
    torch's global random state. Raises ValueError for another kind.
    """

    def __init__(self, kind: str = "none"):
        super().__init__()
        if kind not in AUGMENTATIONS:
            known = ", ".join(AUGMENTATIONS)
            raise ValueError(f"augment {kind!r} is not known: expected one of {known}")
        self.kind = kind

    @torch.no_grad()
    def forward(self, batch: Tensor) -> Tensor:
        batch = batch.float() / 255
        if self.kind == "flip":
            batch = torch.where(_some(batch, 0.5), batch.flip(-1), batch)
        elif self.kind == "full":
            with torch.autocast(batch.device.type, enabled=False):  # places need all their digits
                batch = _erased(_recoloured(_moved(batch)))
        return _normalised(batch)


def _drawn(batch: Tensor, low: float, high: float) -> Tensor:
    """A number for each face, uniform between two bounds: (B, 1, 1, 1)."""
    return torch.empty(len(batch), 1, 1, 1, device=batch.device).uniform_(low, high)


def _some(batch: Tensor, share: float) -> Tensor:
    """True for a random ``share`` of the faces: bool (B, 1, 1, 1)."""
    return _drawn(batch, 0, 1) < share


def _moved(batch: Tensor) -> Tensor:
    """Half of the faces mirrored; four of five turned up to 10 degrees, moved and scaled."""
    mirror, changed = 1 - 2.0 * _some(batch, 0.5), 1.0 * _some(batch, 0.8)
    angle = changed * _drawn(batch, -math.pi / 18, math.pi / 18)
    across, down = (changed * _drawn(batch, -0.12, 0.12) for _ in range(2))  # a face is 2 wide
    scale = 1 + changed * _drawn(batch, -0.1, 0.1)
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    rows = (mirror * cosine, mirror * -sine, across), (sine, cosine, down)
    places = torch.stack([torch.cat(row, 1).flatten(1) for row in rows], 1)
    grid = affine_grid(places, batch.shape, align_corners=False)
    return grid_sample(batch, grid, padding_mode="reflection", align_corners=False)


def _recoloured(batch: Tensor) -> Tensor:
    """Saturation, contrast and brightness of four of five faces, by up to a fifth each."""
    changed = 1.0 * _some(batch, 0.8)
    saturation, contrast, brightness = (1 + changed * _drawn(batch, -0.2, 0.2) for _ in range(3))
    luma = torch.tensor(LUMA, device=batch.device).view(3, 1, 1)
    grey = (batch * luma).sum(1, keepdim=True)
    batch = torch.lerp(grey, batch, saturation)
    batch = torch.lerp(grey.mean((2, 3), keepdim=True), batch, contrast)
    return (batch * brightness).clamp_(0, 1)


def _erased(batch: Tensor) -> Tensor:
    """A grey rectangle in a quarter of the faces, 2 to 10 % of them, at most 3.3 times as long."""
    area = _some(batch, 0.25) * _drawn(batch, 0.02, 0.1)
    ratio = _drawn(batch, -math.log(3.3), math.log(3.3)).exp()
    down = _span(batch.shape[2], (area * ratio).sqrt())
    across = _span(batch.shape[3], (area / ratio).sqrt())
    return batch.masked_fill(down.transpose(2, 3) & across, 0.5)


def _span(count: int, length: Tensor) -> Tensor:
    """Which of ``count`` pixels in a row lie in a stretch of it that begins anywhere.

    length: its share of the row, (B, 1, 1, 1). Returns bool (B, 1, 1, count).
    """
    start = _drawn(length, 0, 1) * (1 - length)
    places = (torch.arange(count, device=length.device) + 0.5) / count
    return (places >= start) & (places < start + length)


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
