"""Torch datasets over a folder of faces, and the faces and pairs of a run as tensors."""

import copy
import operator
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data._utils.collate import default_collate_fn_map

from utkcmp.data.archives import DataError, data_source, files_of, read_file
from utkcmp.data.decode import decode
from utkcmp.data.drawing import StandIns
from utkcmp.data.image_cache import cache_images
from utkcmp.data.index import index_faces
from utkcmp.data.pairs import Pairs, sample_pairs, split_pairs
from utkcmp.data.split import split_rows
from utkcmp.params import Params
from utkcmp.run import Run, outputs_root, read_faces


def _no_batch(images, **_):
    raise TypeError(
        "images as PIL gives them make no batch: expected a data set whose transform makes tensors "
        "of one size, such as torchvision.transforms.v2.Compose([ToImage(), Resize((128, 128))])"
    )


default_collate_fn_map[Image.Image] = _no_batch  # more helpful than torch's own error


class _Items(Dataset):
    """A dataset over ``_item`` with iteration, negative indices and slices."""

    def __getitem__(self, place: int | slice):
        if isinstance(place, slice):
            return [self._item(row) for row in range(*place.indices(len(self)))]
        row = operator.index(place)
        if not -len(self) <= row < len(self):
            raise IndexError(f"there is no item {row}: there are {len(self):,}")
        return self._item(row % len(self))

    def __iter__(self):
        return map(self._item, range(len(self)))  # without it, an IndexError ends the iteration


class UTKAgeDataset(_Items):
    """The faces of a folder or archive with their ages: item i is (image, age in years).

    root_dir: UTKFace files; transform: applied to the PIL RGB image, None for the image itself
    (which a DataLoader cannot batch); faces: a run's faces.csv, instead of indexing the files;
    split: "train", "val" or "test" of ``faces`` (evaluation splits without faces of unknown age),
    or None for all. A slice gives a list of items.
    Raises DataError if there are no valid faces or files of ``faces`` are missing, ValueError for a
    split without ``faces``.
    """

    def __init__(
        self,
        root_dir: str | Path,
        transform: Callable | None = None,
        *,
        split: str | None = None,
        faces: str | Path | pd.DataFrame | None = None,
    ):
        self.root_dir, self.transform = Path(root_dir), transform
        if split and faces is None:
            raise ValueError(f"split is {split!r}, but faces is None: expected a run's faces.csv")
        if faces is None:
            faces = index_faces(self.root_dir, progress=False)
        elif not isinstance(faces, pd.DataFrame):
            faces = read_faces(Path(faces))
        faces = faces[faces.status == "ok"].reset_index(drop=True)
        if split:
            faces = faces.iloc[split_rows(faces, split)].reset_index(drop=True)
        self.faces, self.ages = faces, faces.age.to_numpy(np.int64)
        self.paths = files_of(self.root_dir)
        if missing := set(faces.file) - self.paths.keys():
            raise DataError(f"{root_dir} lacks {len(missing)} of the faces, first {min(missing)}")

    def __len__(self) -> int:
        return len(self.faces)

    def _item(self, row: int):
        image = decode(read_file(self.paths[self.faces.file[row]]))
        return self.transform(image) if self.transform else image, int(self.ages[row])


class UTKDataset(_Items):
    """Pairs of faces of a folder or archive: item i is (left, right, label).

    label: 1 if the left face is older, else 0; equal ages make no pair. ``split`` and ``faces`` are
    as in ``UTKAgeDataset``, other options as in ``sample_pairs``. Images are decoded at each
    access, as in the course project; training uses the cached ones of ``RunData``.
    """

    def __init__(
        self,
        root_dir: str | Path,
        transform: Callable | None = None,
        seed: int = 42,
        year_diff: int = 1,
        data_size: int | None = None,
        duplicate_probability: float = 0.0,
        unique_images: bool = False,
        *,
        split: str | None = None,
        faces: str | Path | pd.DataFrame | None = None,
    ):
        self.faces = UTKAgeDataset(root_dir, transform, split=split, faces=faces)
        self.pairs = sample_pairs(
            self.faces.ages,
            data_size=data_size,
            year_diff=year_diff,
            duplicate_probability=duplicate_probability,
            unique_images=unique_images,
            seed=seed,
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def _item(self, item: int):
        rows = self.pairs.left[item], self.pairs.right[item]
        left, right = (self.faces[row][0] for row in rows)
        return left, right, int(self.pairs.label[item])


class RunData:
    """The N valid faces of a run.

    faces: rows of faces.csv; ages: float32 (N,) years; images: uint8 (N, 3, S, S), memory-mapped.
    """

    def __init__(self, run: Run, params: Params):
        self.params, self._index, self._sized = params, run.read_faces(), {}
        valid = self._index[self._index.status == "ok"].reset_index(drop=True)
        self.faces = valid.astype({"age": int})
        self.ages = torch.tensor(self.faces.age.to_numpy(), dtype=torch.float32)
        self.images = self._of_size(params.image_size)

    def _of_size(self, size: int) -> Tensor:
        if size not in self._sized:  # a dict shared by copies
            root = outputs_root() / "cache"
            cached = cache_images(data_source(self.params), self._index, size, cache=root)
            self._sized[size] = torch.from_numpy(np.asarray(cached))
        return self._sized[size]

    def at(self, size: int) -> "RunData":
        """The same data with images of another size, (N, 3, size, size)."""
        if size == self.images.shape[-1]:
            return self
        other = copy.copy(self)
        other.images = self._of_size(size)
        return other

    def images_for(self, model: torch.nn.Module) -> Tensor:
        """The images at a trained model's size, or at the run's for an untrained one."""
        size = getattr(model, "image_size", None)
        return self.at(size).images if size else self.images

    def shown(self) -> Tensor | StandIns:
        """What figures may show: the images or, without ``show_faces``, drawn faces."""
        return self.images if self.params.show_faces else StandIns(self.ages)

    def rows(self, split: str) -> np.ndarray:
        """Rows of one split's faces; for training, without excluded ``duplicates``."""
        return split_rows(self.faces, split, self.params.duplicates)

    def pairs(self, split: str) -> Pairs:
        """The pairs of one split: for training by the parameters, else the ``eval_pairs`` pairs of
        the ``sample`` protocol, the same for all models."""
        p = self.params
        if split != "train":
            return split_pairs(self.faces, split, data_size=p.eval_pairs, seed=p.seed)
        names = ("data_size", "year_diff", "duplicate_probability", "unique_images", "duplicates")
        return split_pairs(self.faces, split, seed=p.seed, **{n: getattr(p, n) for n in names})
