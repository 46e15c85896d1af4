"""Batches of pairs and of faces, shuffled by (seed, epoch) alone."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from utkcmp.data.pairs import Pairs


class PairBatches:
    """Batches of a fixed list of pairs, shuffled by (seed, epoch) alone.

    Iterating gives (left rows, right rows, label) tensors of ``batch_size`` pairs, or, with
    ``share`` (which, of how many processes), of this process's part of them.
    """

    def __init__(
        self, pairs: Pairs, batch_size: int, seed: int, epoch: int, share: tuple[int, int] = (0, 1)
    ):
        self.pairs, self.share = pairs, share
        self.order = _shuffled(len(pairs), batch_size, seed, epoch)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for chosen in self.order:
            chosen = _part(chosen, self.share)
            yield (
                torch.from_numpy(self.pairs.left[chosen]),
                torch.from_numpy(self.pairs.right[chosen]),
                torch.from_numpy(self.pairs.label[chosen]).float(),
            )


class FaceBatches:
    """Batches of faces, shuffled by (seed, epoch) alone: iterating gives tensors of rows.

    share: as for ``PairBatches``.
    """

    def __init__(
        self,
        rows: np.ndarray,
        batch_size: int,
        seed: int,
        epoch: int,
        share: tuple[int, int] = (0, 1),
    ):
        self.rows, self.share = rows, share
        self.order = _shuffled(len(rows), batch_size, seed, epoch)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Tensor]:
        for chosen in self.order:
            yield torch.from_numpy(self.rows[_part(chosen, self.share)])


class ComparedFaces(FaceBatches):
    """Batches of faces, and every pair of each batch at least ``year_diff`` years apart.

    Iterating gives (rows, left, right, label): rows as ``FaceBatches`` gives them; left, right:
    int64 (K,), places in rows; label: float32 (K,). The pairs are found here, since a GPU that
    found them would have to be waited for at each step.
    ages: float32 (N,) years, of all faces; shuffling: the options of ``FaceBatches``.
    """

    def __init__(self, rows: np.ndarray, ages: Tensor, year_diff: int, *shuffling, **more):
        super().__init__(rows, *shuffling, **more)
        self.ages, self.year_diff = ages, year_diff

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        for rows in super().__iter__():
            gap = self.ages[rows][:, None] - self.ages[rows][None, :]
            left, right = torch.nonzero(gap.abs() >= self.year_diff, as_tuple=True)
            batch = (rows, left, right, (gap[left, right] > 0).float())
            if torch.cuda.is_available():  # from pinned memory a copy is not waited for
                batch = tuple(part.pin_memory() for part in batch)
            yield batch


def _shuffled(count: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Numbers below ``count``, (batches, batch_size); the last, smaller batch is left out."""
    batch_size = min(batch_size, count)
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return order[: count // batch_size * batch_size].reshape(-1, batch_size)


def _part(chosen: np.ndarray, share: tuple[int, int]) -> np.ndarray:
    number, processes = share
    return np.array_split(chosen, processes)[number]
