"""Batched inference: features, logits of pairs, ages."""

import contextlib

import numpy as np
import torch
from torch import Tensor, nn

from utkcmp.data.pairs import Pairs
from utkcmp.models.networks import FaceByFace

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, as torchvision's pretrained weights expect
STD = (0.229, 0.224, 0.225)
BATCH, CHUNK = 256, 2**16  # images and pairs per step


def to_float(batch: Tensor) -> Tensor:
    """Normalise uint8 images (B, 3, H, W) to float32 by ImageNet's mean and standard deviation.

    >>> to_float(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))[0, :, 0, 0].round(decimals=2)
    tensor([2.2500, 2.4300, 2.6400])
    """
    return normalised(batch.float() / 255)


def normalised(batch: Tensor) -> Tensor:
    """``to_float`` for images that are float already, 0 to 1."""
    mean, std = (torch.tensor(one, device=batch.device).view(3, 1, 1) for one in (MEAN, STD))
    return (batch - mean) / std


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; ``auto``: CUDA if available, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def embeds_once(model: nn.Module) -> bool:
    """Whether the model embeds each face separately (``FaceByFace``)."""
    return isinstance(model, FaceByFace)


@torch.no_grad()
def apply_rows(function, images: Tensor, rows: np.ndarray) -> Tensor:
    """Apply a network, or a method of one, to the given rows of (N, 3, S, S) uint8 images.

    Returns (len(rows), ...) float32 on the CPU. The network must be in evaluation mode.
    """
    device, parts = _device_of(function), []
    for chosen in torch.from_numpy(rows).split(BATCH):
        batch = images[chosen.to(images.device)].to(device)
        parts.append(function(to_float(batch)).float().cpu())
    return torch.cat(parts)


def _device_of(function) -> torch.device:
    module = getattr(function, "__self__", function)
    return next(module.parameters()).device


@torch.no_grad()
def pair_logits(
    model: nn.Module, images: Tensor, pairs: Pairs, embedding=contextlib.nullcontext
) -> np.ndarray:
    """Logits of all pairs, float64 (K,), in evaluation mode; the model's mode is restored.

    images: uint8 (N, 3, S, S); pairs: rows into images. A ``FaceByFace`` model embeds each face
    once. embedding: makes the context, e.g. ``torch.autocast``, of the forward passes.
    """
    with evaluating(model):
        if embeds_once(model):
            rows, *sides = pairs.by_face()
            contributed = contributions(model, images, rows, embedding)
            return compared_logits(model, contributed, *sides)
        device, parts = _device_of(model), []
        for start in range(0, len(pairs), BATCH):
            some = pairs[start : start + BATCH]
            rows = (torch.from_numpy(side).to(images.device) for side in (some.left, some.right))
            sides = (to_float(images[side].to(device)) for side in rows)
            with embedding():
                features = model.embed(*sides)
            parts.append(model.answer(*(one.float() for one in features)).double().cpu().numpy())
        return np.concatenate(parts)


@contextlib.contextmanager
def evaluating(model: nn.Module):
    """Put a model into evaluation mode for a block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@torch.no_grad()
def contributions(
    model: FaceByFace, images: Tensor, rows: np.ndarray, embedding=contextlib.nullcontext
) -> Tensor:
    """Each face's contribution to any pair, float32 (len(rows), 2*C) on the CPU.

    The model must be in evaluation mode. embedding: as for ``pair_logits``.
    """
    with embedding():
        features = apply_rows(model.embed, images, rows)
    return model.contribute(features.to(_device_of(model))).cpu()


@torch.no_grad()
def compared_logits(
    model: FaceByFace, contributed: Tensor, left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """Logits, float64 (K,), of pairs given as rows of ``contributions``, each (K,)."""
    contributed, parts = contributed.to(_device_of(model)), []
    for start in range(0, len(left), CHUNK):
        sides = (torch.from_numpy(side[start : start + CHUNK]) for side in (left, right))
        chosen = (contributed[side.to(contributed.device)] for side in sides)
        parts.append(model.compare(*chosen).double().cpu().numpy())
    return np.concatenate(parts)


def predict_ages(regressor: nn.Module, images: Tensor, rows: np.ndarray) -> np.ndarray:
    """Predicted ages in years, float64 (len(rows),), in evaluation mode."""
    with evaluating(regressor):
        return apply_rows(regressor, images, rows).double().numpy()
