"""Torch datasets over a folder of faces, and one run's data as the solver takes them."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from utkcmp.data.archives import data_source, paths_of
from utkcmp.data.decode import decode
from utkcmp.data.image_cache import cache_images
from utkcmp.data.index import index_faces
from utkcmp.data.pairs import Pairs, sample_pairs, split_pairs
from utkcmp.data.split import training_rows
from utkcmp.params import Params
from utkcmp.run import Run, outputs_root


class UTKAgeDataset(Dataset):
    """All faces of a folder with their ages: item i is (image, age in years).

    root_dir: a folder of UTKFace files; transform: maps a PIL RGB image to what a model takes,
    or None for the image itself. Raises DataError for a folder without valid faces.
    """

    def __init__(self, root_dir: str | Path, transform: Callable | None = None):
        self.root_dir, self.transform = Path(root_dir), transform
        faces = index_faces(self.root_dir, progress=False)
        self.faces = faces[faces.status == "ok"].reset_index(drop=True)
        self.ages = self.faces.age.to_numpy(np.int64)
        self.paths = paths_of(self.root_dir)

    def __len__(self) -> int:
        return len(self.faces)

    def image(self, row: int) -> Image.Image:
        """The face of one row, decoded to upright RGB and transformed."""
        image = decode(self.paths[self.faces.file[row]].read_bytes())
        return self.transform(image) if self.transform else image

    def __getitem__(self, row: int):
        return self.image(row), int(self.ages[row])


class UTKDataset(Dataset):
    """Relation-labelled pairs of a folder's faces: item i is (left, right, label).

    label is 1 where the left face is older, else 0; equal ages never meet. The options are those
    of ``sample_pairs``; images are decoded anew for each item, as in the course project. (The
    solver reads the cache instead, see ``RunData``.)
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
    ):
        self.faces = UTKAgeDataset(root_dir, transform)
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

    def __getitem__(self, item: int):
        left, right = int(self.pairs.left[item]), int(self.pairs.right[item])
        return self.faces.image(left), self.faces.image(right), int(self.pairs.label[item])


class RunData:
    """The faces of one run as tensors: rows are those of the valid faces in faces.csv.

    faces: DataFrame of N rows; ages: float32 (N,) years; images: uint8 (N, 3, S, S), memory-mapped.
    """

    def __init__(self, run: Run, params: Params):
        faces = run.read_faces()
        self.params = params
        valid = faces[faces.status == "ok"].reset_index(drop=True)
        self.faces = valid.astype({"age": int})
        self.ages = torch.tensor(self.faces.age.to_numpy(), dtype=torch.float32)
        self._index, self._sized = faces, {}
        self.images = self._of_size(params.image_size)

    def _of_size(self, size: int) -> Tensor:
        if size not in self._sized:  # shared by copies of these data: the faces are the same
            root = outputs_root() / "cache"
            cached = cache_images(data_source(self.params), self._index, size, cache=root)
            self._sized[size] = torch.from_numpy(np.asarray(cached))
        return self._sized[size]

    def at(self, size: int) -> "RunData":
        """The same faces, split and pairs with images of another size, (N, 3, size, size)."""
        if size == self.images.shape[-1]:
            return self
        other = copy.copy(self)
        other.images = self._of_size(size)
        return other

    def images_for(self, model: torch.nn.Module) -> Tensor:
        """The images at the size that a trained model takes, the run's for one that is not."""
        size = getattr(model, "image_size", None)
        return self.at(size).images if size else self.images

    def rows(self, split: str) -> np.ndarray:
        """Image rows of one split's faces; for training, those that ``duplicates`` leaves."""
        if split == "train":
            return training_rows(self.faces, self.params.duplicates)
        return np.flatnonzero((self.faces.split == split) & self.faces.evaluate)

    def pairs(self, split: str) -> Pairs:
        """The pairs of one split: as the parameters say for training, else the ``sample``
        protocol's, which every model shares (``eval_pairs`` pairs at least one year apart)."""
        p = self.params
        if split != "train":
            return split_pairs(self.faces, split, data_size=p.eval_pairs, seed=p.seed)
        return split_pairs(
            self.faces,
            split,
            data_size=p.data_size,
            year_diff=p.year_diff,
            duplicate_probability=p.duplicate_probability,
            unique_images=p.unique_images,
            duplicates=p.duplicates,
            seed=p.seed,
        )
