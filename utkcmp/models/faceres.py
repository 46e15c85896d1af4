"""HSE-FaceRes, a MobileNet for face identity and age, as a backbone.

Savchenko 2019, "Efficient facial representations for age, gender and identity recognition in
organizing photo albums using multi-output ConvNet", PeerJ Computer Science 5:e197. Its MobileNet-v1
(Howard et al. 2017) was trained to identify people on VGGFace2, its age head on IMDB-WIKI.
``weights.py`` fetches and converts the weights, and notes their licence.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

AGES = range(1, 101)  # years, the classes of the age head
BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
BLOCKS += [(1024, 2), (1024, 1)]  # channels and stride


class FaceRes(nn.Module):
    """(B, 3, H, W) images, normalised by ``to_float``, to (B, 256) features for the age head.

    Batch norms are folded into the convolutions. So is the conversion from our normalisation to the
    original one, except for a shift by half a grey level, which must precede the zero padding.
    """

    features = 256

    def __init__(self):
        super().__init__()
        layers, width = _convolution(3, 32, stride=2), 32
        for channels, stride in BLOCKS:
            layers += _convolution(width, width, stride, groups=width)
            layers += [nn.Conv2d(width, channels, 1), nn.ReLU6(inplace=True)]
            width = channels
        self.layers = nn.Sequential(*layers)
        self.describe = nn.Linear(width, self.features)
        for layer in self.modules():  # without batch norm, the init must preserve variance
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        self.register_buffer("shift", torch.zeros(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        shift = self.shift.repeat(images.shape[1] // 3, 1, 1)  # six channels: two faces
        maps = self.layers(images + shift)  # (B, 1024, H/32, W/32)
        return self.describe(maps.mean((2, 3))).relu()


class SamePadding(nn.Module):
    """TensorFlow's "same" padding for a 3 x 3 convolution of stride 2: uneven for even sides."""

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        return pad(images, (width % 2, 1, height % 2, 1))


def _convolution(width: int, channels: int, stride: int, groups: int = 1) -> list[nn.Module]:
    padding = [SamePadding()] if stride == 2 else []
    convolution = nn.Conv2d(width, channels, 3, stride, padding=2 - stride, groups=groups)
    return [*padding, convolution, nn.ReLU6(inplace=True)]
