"""torchvision networks without their classifiers: an image in, a feature vector out."""

import torch
import torchvision
from torch import nn

from utkcmp.params import check_backbone


def make_backbone(
    name: str, weights: str | None = None, in_channels: int = 3
) -> tuple[nn.Module, int]:
    """Build a torchvision network without its classifier.

    name: one of ``params.BACKBONES``; weights: torchvision's own name of pretrained weights, or
    None. With in_channels = 6 the first convolution is widened: its weights are repeated and
    halved, so that two equal images give what one image gave.
    Returns the network, which maps (B, in_channels, H, W) to (B, D), and D.
    Raises ValueError for an unknown name, with the known ones.
    """
    check_backbone(name)
    known = [one.name for one in torchvision.models.get_model_weights(name)]
    if weights not in (None, "DEFAULT", *known):
        raise ValueError(f"{name} has no weights {weights!r}: expected one of {', '.join(known)}")
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
