"""Asking networks in evaluation mode, in batches: features, logits of pairs, ages."""

import contextlib

import numpy as np
import torch
from torch import Tensor, nn

from utkcmp.data.pairs import Pairs
from utkcmp.models.networks import FaceByFace

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, as torchvision's pretrained weights expect
STD = (0.229, 0.224, 0.225)


def to_float(batch: Tensor) -> Tensor:
    """Normalise uint8 images (B, 3, H, W) to float32 on their device: mean near 0, spread near 1.

    >>> to_float(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))[0, :, 0, 0].round(decimals=2)
    tensor([2.2500, 2.4300, 2.6400])
    """
    return _normalised(batch.float() / 255)


def _normalised(batch: Tensor) -> Tensor:
    mean, std = (torch.tensor(one, device=batch.device).view(3, 1, 1) for one in (MEAN, STD))
    return (batch - mean) / std


def pick_device(name: str = "auto") -> torch.device:
    """``auto`` is the first CUDA GPU if there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def embeds_once(model: nn.Module) -> bool:
    """Whether the model looks at each face by itself (see models.py)."""
    return isinstance(model, FaceByFace)


@torch.no_grad()
def apply_rows(function, images: Tensor, rows: np.ndarray, batch_size: int = 256) -> Tensor:
    """Apply a network to the given rows of (N, 3, S, S) uint8 images, in batches.

    Returns the (len(rows), ...) float32 outputs on the CPU; the network must be in evaluation mode.
    """
    device = _device_of(function)
    parts = []
    for chosen in torch.from_numpy(rows).split(batch_size):
        batch = images[chosen.to(images.device)].to(device)
        parts.append(function(to_float(batch)).float().cpu())
    return torch.cat(parts)


def _device_of(function) -> torch.device:
    module = getattr(function, "__self__", function)
    return next(module.parameters()).device


@torch.no_grad()
def pair_logits(
    model: nn.Module,
    images: Tensor,
    pairs: Pairs,
    batch_size: int = 256,
    embedding=contextlib.nullcontext,
) -> np.ndarray:
    """Logits of all pairs, float64 (K,), in evaluation mode; the model's mode is put back.

    images: uint8 (N, 3, S, S); pairs: rows into images. A model that embeds faces sees each face
    once, any other sees each pair. embedding: makes the context, e.g. ``torch.autocast``, in which
    faces or pairs are embedded.
    """
    with _evaluating(model):
        if not embeds_once(model):
            return _paired_logits(model, images, pairs, batch_size, embedding)
        rows, *sides = pairs.by_face()
        contributed = contributions(model, images, rows, batch_size, embedding)
        return compared_logits(model, contributed, *sides)


@contextlib.contextmanager
def _evaluating(model: nn.Module):
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@torch.no_grad()
def contributions(
    model: FaceByFace,
    images: Tensor,
    rows: np.ndarray,
    batch_size: int = 256,
    embedding=contextlib.nullcontext,
) -> Tensor:
    """What each face brings to a pair, float32 (len(rows), 2*C) on the CPU; each is embedded once.

    The model must be in evaluation mode. embedding: as for ``pair_logits``.
    """
    with embedding():
        features = apply_rows(model.embed, images, rows, batch_size)
    return model.contribute(features.to(_device_of(model))).cpu()


@torch.no_grad()
def compared_logits(
    model: FaceByFace,
    contributed: Tensor,
    left: np.ndarray,
    right: np.ndarray,
    chunk: int = 1 << 16,
) -> np.ndarray:
    """Logits, float64 (K,), of pairs of rows of ``contributions``."""
    contributed, parts = contributed.to(_device_of(model)), []
    for start in range(0, len(left), chunk):
        sides = (torch.from_numpy(side[start : start + chunk]) for side in (left, right))
        chosen = (contributed[side.to(contributed.device)] for side in sides)
        parts.append(model.compare(*chosen).double().cpu().numpy())
    return np.concatenate(parts)


def _paired_logits(model, images: Tensor, pairs: Pairs, batch_size: int, embedding) -> np.ndarray:
    device, parts = _device_of(model), []
    for start in range(0, len(pairs), batch_size):
        some = pairs[start : start + batch_size]
        rows = (torch.from_numpy(side).to(images.device) for side in (some.left, some.right))
        sides = (to_float(images[side].to(device)) for side in rows)
        with embedding():
            features = model.embed(*sides)
        parts.append(model.answer(*(one.float() for one in features)).double().cpu().numpy())
    return np.concatenate(parts)


def predict_ages(regressor: nn.Module, images: Tensor, rows: np.ndarray) -> np.ndarray:
    """Predicted ages in years, float64 (len(rows),), in evaluation mode."""
    with _evaluating(regressor):
        return apply_rows(regressor, images, rows).double().numpy()
