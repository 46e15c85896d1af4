"""Batches of pairs and of faces, in an order that depends only on (seed, epoch)."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from utkcmp.data.pairs import Pairs


class FaceBatches:
    """Shuffled batches of faces, without the last incomplete one: iterating gives tensors of rows.

    share: (rank, number of processes); each process gets a part of every batch.
    """

    def __init__(self, rows: np.ndarray, batch_size: int, seed: int, epoch: int, share=(0, 1)):
        self.rows, self.share = rows, share
        batch_size = min(batch_size, len(rows))
        order = np.random.default_rng((seed, epoch)).permutation(len(rows))
        self.order = order[: len(rows) // batch_size * batch_size].reshape(-1, batch_size)

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator:
        number, processes = self.share
        for chosen in self.order:
            yield self.batch(self.rows[np.array_split(chosen, processes)[number]])

    def batch(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(rows)


class PairBatches(FaceBatches):
    """Shuffled batches of a fixed list of pairs; shuffling: the options of ``FaceBatches``.

    Iterating gives (left rows, right rows, label) tensors, (B,) each.
    """

    def __init__(self, pairs: Pairs, *shuffling, **more):
        super().__init__(np.arange(len(pairs)), *shuffling, **more)
        self.pairs = pairs

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        some = self.pairs[rows]
        label = torch.from_numpy(some.label).float()
        return torch.from_numpy(some.left), torch.from_numpy(some.right), label


class ComparedFaces(FaceBatches):
    """Shuffled batches of faces with all their pairs at least ``year_diff`` years apart.

    Iterating gives (rows, left, right, label): rows as from ``FaceBatches``; left, right: int64
    (K,), indices into rows; label: float32 (K,). Pairs are found on the CPU, since ``nonzero`` on a
    GPU would synchronise at every step.
    ages: float32 (N,) years, of all faces; shuffling: the options of ``FaceBatches``.
    """

    def __init__(self, rows: np.ndarray, ages: Tensor, year_diff: int, *shuffling, **more):
        super().__init__(rows, *shuffling, **more)
        self.ages, self.year_diff = ages, year_diff

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        rows = torch.from_numpy(rows)
        gap = self.ages[rows][:, None] - self.ages[rows][None, :]
        left, right = torch.nonzero(gap.abs() >= self.year_diff, as_tuple=True)
        batch = (rows, left, right, (gap[left, right] > 0).float())
        if torch.cuda.is_available():  # so that copies are asynchronous
            batch = tuple(part.pin_memory() for part in batch)
        return batch
