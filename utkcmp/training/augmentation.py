"""Data augmentation of a batch of faces, on its device."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from utkcmp.models.inference import normalised

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue (ITU-R BT.601)


class Augmentation(nn.Module):
    """Random augmentation, drawn for each face separately from torch's global random state.

    kind: as ``Params.augment``: "none", "flip" (horizontal), or "full": flip, small rotations,
    translations and changes of scale, brightness, contrast and saturation, and random erasing
    (Zhong et al. 2020, "Random Erasing Data Augmentation").
    Maps uint8 (B, 3, H, W) to normalised float32, as ``to_float`` does.
    """

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    @torch.no_grad()
    def forward(self, batch: Tensor) -> Tensor:
        batch = batch.float() / 255
        if self.kind == "flip":
            batch = torch.where(_some(batch, 0.5), batch.flip(-1), batch)
        elif self.kind == "full":
            with torch.autocast(batch.device.type, enabled=False):  # coordinates need float32
                batch = _erased(_recoloured(_moved(batch)))
        return normalised(batch)


def _drawn(batch: Tensor, low: float, high: float) -> Tensor:
    """A uniform random number for each face: (B, 1, 1, 1)."""
    return torch.empty(len(batch), 1, 1, 1, device=batch.device).uniform_(low, high)


def _some(batch: Tensor, share: float) -> Tensor:
    """True for a random ``share`` of the faces: bool (B, 1, 1, 1)."""
    return _drawn(batch, 0, 1) < share


def _moved(batch: Tensor) -> Tensor:
    """Flip half of the faces; rotate (up to 10 degrees), translate and scale four in five."""
    mirror, changed = 1 - 2.0 * _some(batch, 0.5), 1.0 * _some(batch, 0.8)
    angle = changed * _drawn(batch, -math.pi / 18, math.pi / 18)
    across, down = (changed * _drawn(batch, -0.12, 0.12) for _ in range(2))  # a face spans 2 units
    scale = 1 + changed * _drawn(batch, -0.1, 0.1)
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    rows = (mirror * cosine, mirror * -sine, across), (sine, cosine, down)
    places = torch.stack([torch.cat(row, 1).flatten(1) for row in rows], 1)
    grid = affine_grid(places, batch.shape, align_corners=False)
    return grid_sample(batch, grid, padding_mode="reflection", align_corners=False)


def _recoloured(batch: Tensor) -> Tensor:
    """Change saturation, contrast and brightness of four in five faces, by up to a fifth each."""
    changed = 1.0 * _some(batch, 0.8)
    saturation, contrast, brightness = (1 + changed * _drawn(batch, -0.2, 0.2) for _ in range(3))
    luma = torch.tensor(LUMA, device=batch.device).view(3, 1, 1)
    grey = (batch * luma).sum(1, keepdim=True)
    batch = torch.lerp(grey, batch, saturation)
    batch = torch.lerp(grey.mean((2, 3), keepdim=True), batch, contrast)
    return (batch * brightness).clamp_(0, 1)


def _erased(batch: Tensor) -> Tensor:
    """Grey out a rectangle in a quarter of the faces: 2 to 10% of the area, sides at most 1:3.3."""
    area = _some(batch, 0.25) * _drawn(batch, 0.02, 0.1)
    ratio = _drawn(batch, -math.log(3.3), math.log(3.3)).exp()
    down = _span(batch.shape[2], (area * ratio).sqrt())
    across = _span(batch.shape[3], (area / ratio).sqrt())
    return batch.masked_fill(down.transpose(2, 3) & across, 0.5)


def _span(count: int, length: Tensor) -> Tensor:
    """Which of ``count`` pixels lie in a random interval, of a share (B, 1, 1, 1) of the row."""
    start = _drawn(length, 0, 1) * (1 - length)
    places = (torch.arange(count, device=length.device) + 0.5) / count
    return (places >= start) & (places < start + length)
