import numpy as np
import pytest
import torch
from torch import nn

from utkcmp.data.pairs import Pairs
from utkcmp.evaluation.saliency import saliency


class Corner(nn.Module):
    """Looks at the upper left quarter of the left face only."""

    def forward(self, left, right):
        return left[:, :, :4, :4].square().sum((1, 2, 3)) + 0 * right.sum((1, 2, 3))


def test_only_what_bears_on_the_answer_is_marked():
    images = torch.randint(0, 256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    pairs = Pairs(np.array([0, 2, 1]), np.array([1, 3, 2]), np.array([1, 0, 1], dtype=np.int8))
    got = saliency(Corner(), images.to(torch.uint8), pairs, batch_size=2)
    assert got.shape == (3, 2, 8, 8) and got.dtype == np.float32
    assert got[:, 0, :4, :4].sum((1, 2)) == pytest.approx(np.ones(3), abs=1e-5)
    assert (got[:, 1] == 0).all() and (got[:, 0, 4:] == 0).all()
