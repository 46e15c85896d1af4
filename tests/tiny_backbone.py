"""A few thousand weights in the place of a torchvision network."""

from torch import nn


class TinyBackbone(nn.Sequential):
    """Convolutions with batch norm; 16 features."""

    def __init__(self, in_channels: int = 3):
        super().__init__(
            nn.Conv2d(in_channels, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
