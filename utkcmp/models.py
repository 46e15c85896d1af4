"""The networks. A pair model maps two image batches to one logit a pair, positive: left is older.

Models that embed each face by itself have ``embed`` and ``score_pairs``, and
``forward(left, right) == score_pairs(embed(left), embed(right))``; the six-channel model, which
must see both faces at once, has neither. No model holds a sigmoid: losses take logits.
"""

import difflib
import inspect

import torch
import torchvision
from torch import Tensor, nn

FAMILIES = ("resnet", "vgg", "mobilenet", "efficientnet", "convnext", "regnet")


def backbone_names() -> list[str]:
    """The torchvision networks that may serve as a backbone."""
    names = torchvision.models.list_models(module=torchvision.models)
    return [name for name in names if name.startswith(FAMILIES)]


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
    if name not in backbone_names():
        near = difflib.get_close_matches(name, backbone_names(), n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(
            f"backbone {name!r} is not known{hint}: expected one of {', '.join(backbone_names())}"
        )
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


def make_head(
    in_features: int, hidden_layers: list[int], use_dropout: bool, dropout_prob: float
) -> nn.Sequential:
    """Fully connected layers from (B, in_features) to (B, 1), ReLU and dropout between them."""
    layers: list[nn.Module] = []
    for width in hidden_layers:
        layers += [nn.Linear(in_features, width), nn.ReLU()]
        if use_dropout:
            layers.append(nn.Dropout(dropout_prob))
        in_features = width
    return nn.Sequential(*layers, nn.Linear(in_features, 1))


class SiameseResNet(nn.Module):
    """One shared backbone, the two feature vectors concatenated, fully connected head."""

    def __init__(
        self,
        backbone: str = "resnet18",
        weights: str | None = None,
        hidden_layers: list[int] = (),
        use_dropout: bool = False,
        dropout_prob: float = 0.3,
    ):
        super().__init__()
        self.backbone, features = make_backbone(backbone, weights)
        self.head = make_head(2 * features, hidden_layers, use_dropout, dropout_prob)

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, D) features."""
        return self.backbone(images)

    def score_pairs(self, left: Tensor, right: Tensor) -> Tensor:
        """Two (B, D) feature batches to (B,) logits."""
        return self.head(torch.cat([left, right], dim=1)).squeeze(1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return _embed_once(self, left, right)


def _embed_once(model: nn.Module, left: Tensor, right: Tensor) -> Tensor:
    features = model.embed(torch.cat([left, right]))  # (2*B, D): one pass of the network
    return model.score_pairs(*features.chunk(2))


class ResNetClassifier(nn.Module):
    """The two images concatenated to six channels, one backbone, fully connected head."""

    def __init__(
        self,
        backbone: str = "resnet18",
        weights: str | None = None,
        hidden_layers: list[int] = (),
        use_dropout: bool = False,
        dropout_prob: float = 0.3,
    ):
        super().__init__()
        self.backbone, features = make_backbone(backbone, weights, in_channels=6)
        self.head = make_head(features, hidden_layers, use_dropout, dropout_prob)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        both = torch.cat([left, right], dim=1)  # (B, 6, H, W)
        return self.head(self.backbone(both)).squeeze(1)


class ResNetAgeRegressor(nn.Module):
    """One face to an age in years.

    The output is linear around the training ages (``set_ages``): it cannot die at zero, as an
    output behind a ReLU can.
    """

    def __init__(self, backbone: str = "resnet18", weights: str | None = None):
        super().__init__()
        self.backbone, self.features = make_backbone(backbone, weights)
        self.head = nn.Linear(self.features, 1)
        self.register_buffer("age_mean", torch.tensor(33.0))
        self.register_buffer("age_std", torch.tensor(20.0))

    def set_ages(self, ages: Tensor) -> None:
        """Take mean and spread of the training ages, (N,) years, as the output's scale."""
        self.age_mean.copy_(ages.float().mean())
        self.age_std.copy_(ages.float().std())

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, D) features."""
        return self.backbone(images)

    def forward(self, images: Tensor) -> Tensor:
        standardised = self.head(self.embed(images)).squeeze(1)  # (B,)
        return standardised * self.age_std + self.age_mean


class SiameseResNetAge(nn.Module):
    """A frozen age regressor's features of both faces, and a trained head.

    Weights and batch-norm statistics of the regressor never change: it stays in evaluation mode.
    blind: feed the left face's features in twice, the fault of the course project's code; for
    the ablation of notebook 06 only.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        hidden_layers: list[int] = (),
        use_dropout: bool = False,
        dropout_prob: float = 0.3,
        blind: bool = False,
    ):
        super().__init__()
        self.blind = blind
        self.regressor = ResNetAgeRegressor(backbone).eval().requires_grad_(False)
        self.head = make_head(2 * self.regressor.features, hidden_layers, use_dropout, dropout_prob)

    def train(self, mode: bool = True):
        super().train(mode)
        self.regressor.eval()
        return self

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, D) features, without gradients."""
        with torch.no_grad():
            return self.regressor.embed(images)

    def score_pairs(self, left: Tensor, right: Tensor) -> Tensor:
        """Two (B, D) feature batches to (B,) logits."""
        right = left if self.blind else right
        return self.head(torch.cat([left, right], dim=1)).squeeze(1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return _embed_once(self, left, right)


class AgeRanker(nn.Module):
    """A scalar score a face; logit = score(left) - score(right).

    The same answer whichever face comes first, and one order for any number of faces
    (Bradley and Terry 1952; RankNet, Burges et al. 2005).
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        weights: str | None = None,
        hidden_layers: list[int] = (),
        use_dropout: bool = False,
        dropout_prob: float = 0.3,
    ):
        super().__init__()
        self.backbone, features = make_backbone(backbone, weights)
        self.head = make_head(features, hidden_layers, use_dropout, dropout_prob)

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, 1) scores."""
        return self.head(self.backbone(images))

    def score_pairs(self, left: Tensor, right: Tensor) -> Tensor:
        """Two (B, 1) score batches to (B,) logits."""
        return (left - right).squeeze(1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return _embed_once(self, left, right)


class AgeComparison(nn.Module):
    """A trained age regressor as a pair model: whoever is predicted older is answered.

    spread: the regressor's root mean squared error in units of the training ages' spread. The
    difference of two such errors is taken as normal, whose probit 1.702 turns into a logit.
    """

    def __init__(self, regressor: ResNetAgeRegressor, spread: float):
        super().__init__()
        self.regressor = regressor
        self.scale = 1.702 / (2**0.5 * spread * float(regressor.age_std))

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, 1) predicted ages in years."""
        return self.regressor(images)[:, None]

    def score_pairs(self, left: Tensor, right: Tensor) -> Tensor:
        """Two (B, 1) batches of ages to (B,) logits."""
        return (left - right).squeeze(1) * self.scale

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return _embed_once(self, left, right)


MODELS: dict[str, type[nn.Module]] = {
    model.__name__: model
    for model in (SiameseResNet, ResNetClassifier, ResNetAgeRegressor, SiameseResNetAge, AgeRanker)
}


def build_model(name: str, **options) -> nn.Module:
    """Build a model by its class name and constructor options, and remember both in ``config``.

    Options that the class does not take are left out, so that one parameter set serves all.
    Raises ValueError for an unknown name, with the known ones.
    """
    if name not in MODELS:
        raise ValueError(f"model {name!r} is not known: expected one of {', '.join(MODELS)}")
    taken = inspect.signature(MODELS[name]).parameters
    options = {key: value for key, value in options.items() if key in taken}
    model = MODELS[name](**options)
    model.config = {"model": name, "options": options}
    return model
