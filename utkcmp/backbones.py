"""torchvision networks without their classifiers: an image in, a feature vector out."""

import difflib
import functools

import torch
import torchvision
from torch import nn

FAMILIES = ("resnet", "vgg", "mobilenet", "efficientnet", "convnext", "regnet")
HUNGRY = ("vgg", "convnext")  # families that halve an image five times without padding


@functools.cache
def backbone_names() -> list[str]:
    """The torchvision networks that may serve as a backbone."""
    names = torchvision.models.list_models(module=torchvision.models)
    return [name for name in names if name.startswith(FAMILIES)]


def check_backbone(name: str) -> None:
    """Raise ValueError, with the known names, if there is no backbone of this name."""
    if name not in backbone_names():
        near = difflib.get_close_matches(name, backbone_names(), n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(
            f"backbone {name!r} is not known{hint}: expected one of {', '.join(backbone_names())}"
        )


def least_side(name: str) -> int:
    """The fewest pixels per side of an image that a backbone can take.

    >>> least_side("vgg16"), least_side("resnet18")
    (32, 8)
    """
    return 32 if name.startswith(HUNGRY) else 8


def make_backbone(
    name: str, weights: str | None = None, in_channels: int = 3
) -> tuple[nn.Module, int]:
    """Build a torchvision network without its classifier.

    name: one of ``backbone_names()``; weights: torchvision's own name of pretrained weights, or
    None. With in_channels = 6 the first convolution is widened: its weights are repeated and
    halved, so that two equal images give what one image gave.
    Returns the network, which maps (B, in_channels, H, W) to (B, D), and D.
    Raises ValueError for an unknown name, with the known ones.
    """
    check_backbone(name)
    network = torchvision.models.get_model(name, weights=weights)
    if hasattr(network, "fc"):
        features = network.fc.in_features
        network.fc = nn.Identity()
    else:  # the convolutions alone: VGG's own classifier holds 9 of 10 of its weights
        last = [m for m in network.features.modules() if isinstance(m, nn.Conv2d)][-1]
        features = last.out_channels
        network = nn.Sequential(network.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if in_channels != 3:
        _widen_first_convolution(network, in_channels)
    return network, features


def _widen_first_convolution(network: nn.Module, in_channels: int) -> None:
    name, old = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    copies = in_channels // old.in_channels
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,
        old.stride,
        old.padding,
        bias=old.bias is not None,
    )
    with torch.no_grad():
        new.weight.copy_(old.weight.repeat(1, copies, 1, 1) / copies)
        if old.bias is not None:
            new.bias.copy_(old.bias)
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, new)
