"""Backbones: networks without their classifiers, from images to feature vectors."""

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from utkcmp.files import RunError
from utkcmp.models.faceres import FaceRes
from utkcmp.params import FACERES, WEIGHTS, check_backbone, check_weights
from utkcmp.run import find_weights


def make_backbone(
    name: str, weights: str | None = None, in_channels: int = 3
) -> tuple[nn.Module, int]:
    """Build a network without its classifier.

    name: one of ``params.BACKBONES``; weights: torchvision's name of pretrained weights,
    ``faceres``, a file (``read_start``), or None; in_channels: 3, or 6 for two images, for which
    pretrained weights are repeated and halved: two equal images give the features of one.
    Returns the network, which maps (B, in_channels, H, W) to (B, D), and D.
    Raises ValueError for unknown names, RunError for weights that are missing or do not fit.
    """
    check_backbone(name)
    check_weights(weights, name)
    if name == FACERES:
        network, features = FaceRes(), FaceRes.features
    else:
        chosen = weights if weights in WEIGHTS else None
        known = [one.name for one in torchvision.models.get_model_weights(name)]
        if chosen not in (None, "DEFAULT", *known):
            known = ", ".join(known)
            raise ValueError(f"{name} has no weights {weights!r}: expected one of {known}")
        network = torchvision.models.get_model(name, weights=chosen)
        if hasattr(network, "fc"):
            features = network.fc.in_features
            network.fc = nn.Identity()
        else:  # convolutions only: VGG's classifier holds 90% of its weights
            last = [m for m in network.features.modules() if isinstance(m, nn.Conv2d)][-1]
            features = last.out_channels
            network = nn.Sequential(network.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if weights not in (None, *WEIGHTS):
        start, expected = read_start(weights), network.state_dict()
        found = {key: start[key] for key in expected if key in start}
        if wrong := misfit(expected, found):
            raise RunError(f"the weights {weights} are not of {name}: {wrong}")
        network.load_state_dict(found)
    if in_channels != 3:
        _widen_first_convolution(network, in_channels, copied=weights is not None)
    return network, features


def read_start(weights: str) -> dict[str, Tensor]:
    """The tensors of a file of weights, named as in a backbone. Raises RunError.

    weights: ``faceres``, or a .safetensors file of a backbone or of a model trained here.
    """
    path = find_weights(weights)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"the weights {path} cannot be read: {error}") from None
    return {name.rpartition("backbone.")[2]: tensor for name, tensor in tensors.items()}


def misfit(expected: dict[str, Tensor], found: dict[str, Tensor]) -> str | None:
    """Why stored tensors do not fit those of a network; None if they do."""
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} is one tensor too many"
        shapes = tuple(found[name].shape), tuple(expected[name].shape)
        if shapes[0] != shapes[1]:
            return f"{name} has shape {shapes[0]}, expected {shapes[1]}"
        halved = (found[name].dtype, expected[name].dtype) == (torch.float16, torch.float32)
        if found[name].dtype != expected[name].dtype and not halved:
            return f"{name} is of {found[name].dtype}, expected {expected[name].dtype}"
        if not found[name].isfinite().all():
            return f"{name} holds what is no finite number"
    return None


def _widen_first_convolution(network: nn.Module, in_channels: int, copied: bool) -> None:
    """copied: from the old filters, for each image; else drawn afresh, since a network that starts
    with equal filters for both images cannot tell one from the other."""
    name, old = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    copies = in_channels // old.in_channels
    shape = in_channels, old.out_channels, old.kernel_size, old.stride, old.padding
    new = nn.Conv2d(*shape, bias=old.bias is not None)
    with torch.no_grad():
        if copied:
            new.weight.copy_(old.weight.repeat(1, copies, 1, 1) / copies)
        else:
            nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
        if old.bias is not None:
            new.bias.copy_(old.bias)
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, new)
