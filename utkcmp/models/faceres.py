"""HSE-FaceRes: a MobileNet that learnt whose face it sees, and then how old, as a backbone.

Savchenko 2019, "Efficient facial representations for age, gender and identity recognition in
organizing photo albums using multi-output ConvNet", PeerJ Computer Science 5:e197. Its MobileNet-v1
(Howard et al. 2017) was trained on VGGFace2 to tell people apart, and with its age head on
IMDB-WIKI. ``weights.py`` fetches and converts the weights, and says what is known of their licence.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

AGES = range(1, 101)  # years, the classes of its age head
BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
BLOCKS += [(1024, 2), (1024, 1)]  # channels and stride


class FaceRes(nn.Module):
    """(B, 3, H, W) images, normalised as by ``to_float``, to the (B, 256) features of the age head.

    It has no batch norm: that is folded into the convolutions. So is what makes its own input of
    ours, but for a shift by half a grey level, which must come before the padding with zeros.
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
        for layer in self.modules():  # without batch norm a deep network needs all its variance
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        self.register_buffer("shift", torch.zeros(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        shift = self.shift.repeat(images.shape[1] // 3, 1, 1)  # for two faces at once, twice
        maps = self.layers(images + shift)  # (B, 1024, H/32, W/32)
        return self.describe(maps.mean((2, 3))).relu()


class SamePadding(nn.Module):
    """TensorFlow's "same" padding for a 3 x 3 convolution of stride 2.

    An odd side gets a zero at both ends, an even one at its end only.
    """

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        return pad(images, (width % 2, 1, height % 2, 1))


def _convolution(width: int, channels: int, stride: int, groups: int = 1) -> list[nn.Module]:
    padding = [SamePadding()] if stride == 2 else []
    convolution = nn.Conv2d(width, channels, 3, stride, padding=2 - stride, groups=groups)
    return [*padding, convolution, nn.ReLU6(inplace=True)]
