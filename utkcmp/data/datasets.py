"""Torch datasets over a folder of faces, and one run's data as the solver takes them."""

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


default_collate_fn_map[Image.Image] = _no_batch  # torch's own error names no way out


class _Items(Dataset):
    """Python's sequence protocol over ``_item``: iteration, negative numbers and slices."""

    def __getitem__(self, place: int | slice):
        if isinstance(place, slice):
            return [self._item(row) for row in range(*place.indices(len(self)))]
        row = operator.index(place)
        if not -len(self) <= row < len(self):
            raise IndexError(f"there is no item {row}: there are {len(self):,}")
        return self._item(row % len(self))


class UTKAgeDataset(_Items):
    """The faces of a folder or archive with their ages: item i is (image, age in years).

    root_dir: UTKFace files; transform: maps a PIL RGB image to what a model takes, or None for
    the image itself (which no DataLoader can batch). faces: a run's faces.csv, which names the
    valid faces, so that none is indexed anew; split: "train", "val" or "test", as ``faces`` says
    (test faces of unknown age are left out), or None for all. A slice gives a list of items.
    Raises DataError where there are no valid faces or those of ``faces`` are missing, and
    ValueError for a split without ``faces``.
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
        missing = set(faces.file) - self.paths.keys()
        if missing:
            raise DataError(f"{root_dir} lacks {len(missing)} of the faces, first {min(missing)}")

    def __len__(self) -> int:
        return len(self.faces)

    def image(self, row: int) -> Image.Image:
        """The face of one row, decoded to upright RGB and transformed."""
        image = decode(read_file(self.paths[self.faces.file[row]]))
        return self.transform(image) if self.transform else image

    def _item(self, row: int):
        return self.image(row), int(self.ages[row])


class UTKDataset(_Items):
    """Relation-labelled pairs of a folder's faces: item i is (left, right, label).

    label is 1 where the left face is older, else 0; faces of equal age make no pair. ``split`` and
    ``faces`` are as in ``UTKAgeDataset``, the other options those of ``sample_pairs``; images are
    decoded anew for each item, as in the course project. (The solver reads the cache instead, see
    ``RunData``.)
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

    def shown(self) -> Tensor | StandIns:
        """What figures may show of each row: its image or, without ``show_faces``, a drawn face."""
        return self.images if self.params.show_faces else StandIns(self.ages)

    def rows(self, split: str) -> np.ndarray:
        """Image rows of one split's faces; for training, those that ``duplicates`` leaves."""
        return split_rows(self.faces, split, self.params.duplicates)

    def pairs(self, split: str) -> Pairs:
        """The pairs of one split: as the parameters say for training, else the ``sample``
        protocol's, which every model shares (``eval_pairs`` pairs at least one year apart)."""
        p = self.params
        if split != "train":
            return split_pairs(self.faces, split, data_size=p.eval_pairs, seed=p.seed)
        names = ("data_size", "year_diff", "duplicate_probability", "unique_images", "duplicates")
        return split_pairs(self.faces, split, seed=p.seed, **{n: getattr(p, n) for n in names})
