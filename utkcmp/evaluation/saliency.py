"""Saliency maps of pair models, by Captum."""

import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn

from utkcmp.data.pairs import Pairs
from utkcmp.models.inference import to_float


def saliency(
    model: nn.Module, images: Tensor, pairs: Pairs, steps: int = 16, batch_size: int = 32
) -> np.ndarray:
    """Attribution of each answer to the pixels of both faces, float32 (K, 2, S, S), left first.

    model: in evaluation mode; images: uint8 (N, 3, S, S); pairs: K pairs of rows. Integrated
    gradients of the logit from a grey baseline (Sundararajan et al. 2017, "Axiomatic Attribution
    for Deep Networks", ICML), absolute values summed over colours; each pair's map sums to 1.
    """
    method, maps = IntegratedGradients(model), []
    for start in range(0, len(pairs), batch_size):
        some = pairs[start : start + batch_size]
        faces = tuple(to_float(images[torch.from_numpy(side)]) for side in (some.left, some.right))
        grey = tuple(torch.zeros_like(one) for one in faces)
        found = method.attribute(faces, grey, n_steps=steps, internal_batch_size=4 * batch_size)
        sizes = torch.stack([one.abs().sum(1) for one in found], dim=1)  # (B, 2, S, S)
        maps.append((sizes / sizes.sum((1, 2, 3), keepdim=True)).float().numpy())
    return np.concatenate(maps)
