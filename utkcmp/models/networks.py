"""The networks. A pair model maps two batches of images to logits (B,), positive if left is older.

Models that process each face separately (``FaceByFace``) split the work: ``embed`` and
``contribute`` map a face to its part of any pair's logit. For a pair, only a sum and the rest of
the head remain (``compare``), so millions of pairs cost little more than their faces.
"""

import copy
import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, kl_div, l1_loss, linear, mse_loss

from utkcmp.models.backbones import make_backbone, read_start
from utkcmp.models.faceres import AGES
from utkcmp.params import FACERES

UNHEARD_OF = -10.0  # initial logit of ages that the pretrained head lacks


def make_head(
    in_features: int, hidden_layers: list[int], use_dropout: bool, dropout_prob: float
) -> nn.Sequential:
    """Fully connected layers from (B, in_features) to (B, 1), with ReLU and dropout between."""
    layers: list[nn.Module] = []
    for width in hidden_layers:
        layers += [nn.Linear(in_features, width), nn.ReLU()]
        if use_dropout:
            layers.append(nn.Dropout(dropout_prob))
        in_features = width
    return nn.Sequential(*layers, nn.Linear(in_features, 1))


class _Embedding(nn.Module):
    """A model with a ``backbone``; mirror: average features over flips in evaluation mode."""

    def embed(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        if self.mirror and not self.training:
            features = (features + self.backbone(images.flip(-1))) / 2
        return features


class FaceByFace(nn.Module):
    """A pair model that processes each face separately.

    ``embed`` maps (B, 3, H, W) normalised images to (B, D) features, by default those of the
    model's age regressor; a subclass's ``contribute`` maps (B, D) features to (B, 2*C), the face's
    contributions as the left and as the right one; ``join`` maps contributions of the left and the
    right face, (B, C) each, to (B,) logits, by default their sum.
    symmetric: antisymmetrise the logit, ``(f(left, right) - f(right, left)) / 2``.
    """

    symmetric = False

    def embed(self, images: Tensor) -> Tensor:
        return self.regressor.embed(images)

    def compare(self, left: Tensor, right: Tensor) -> Tensor:
        """Contributions of the left and the right faces, (B, 2*C) each, to (B,) logits."""
        (left_first, left_second), (right_first, right_second) = left.chunk(2, 1), right.chunk(2, 1)
        logits = self.join(left_first, right_second)
        if self.symmetric:
            logits = (logits - self.join(right_first, left_second)) / 2
        return logits

    def join(self, left: Tensor, right: Tensor) -> Tensor:
        return (left + right).squeeze(1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        contributions = self.contribute(self.embed(torch.cat([left, right])))  # (2*B, 2*C)
        return self.compare(*contributions.chunk(2))


class _ConcatenatedHead(FaceByFace):
    """A head on two concatenated feature vectors, its first layer split into one per face."""

    head: nn.Sequential

    def contribute(self, features: Tensor) -> Tensor:
        first = self.head[0]
        as_left, as_right = first.weight.chunk(2, dim=1)  # (C, D) each
        return torch.cat([linear(features, as_left, first.bias), linear(features, as_right)], 1)

    def join(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head[1:](left + right).squeeze(1)


class _BackboneAndHead(_Embedding):
    """A backbone and a head, trained together.

    symmetric: as in ``FaceByFace``; mirror: as in ``_Embedding``; image_size: pixels per side of
    the training faces, None before training.
    """

    channels = 3  # of the backbone's input
    vectors = 1  # feature vectors in the head's input

    def __init__(
        self,
        backbone: str = "resnet18",
        weights: str | None = None,
        hidden_layers: list[int] = (),
        use_dropout: bool = False,
        dropout_prob: float = 0.3,
        symmetric: bool = False,
        mirror: bool = False,
        image_size: int | None = None,
    ):
        super().__init__()
        self.symmetric, self.mirror, self.image_size = symmetric, mirror, image_size
        self.backbone, self.features = make_backbone(backbone, weights, self.channels)
        width = self.vectors * self.features
        self.head = make_head(width, hidden_layers, use_dropout, dropout_prob)


class SiameseResNet(_BackboneAndHead, _ConcatenatedHead):
    """A shared backbone, the two feature vectors concatenated, a fully connected head."""

    vectors = 2


class ResNetClassifier(_BackboneAndHead):
    """The two images concatenated to six channels, one backbone, a fully connected head.

    ``symmetric`` and ``mirror`` each double the cost: both orders of the pair, both flips.
    """

    channels = 6

    def embed(self, left: Tensor, right: Tensor) -> tuple[Tensor, ...]:
        """The pair's (B, D) features and, if ``symmetric``, those of the swapped pair."""
        both = torch.cat([left, right], dim=1)  # (B, 6, H, W)
        if not self.symmetric:
            return (super().embed(both),)
        both = torch.cat([both, torch.cat([right, left], dim=1)])  # (2*B, 6, H, W)
        return super().embed(both).chunk(2)

    def answer(self, features: Tensor, swapped: Tensor | None = None) -> Tensor:
        """Features from ``embed``, (B, D) each, to (B,) logits."""
        logits = self.head(features).squeeze(1)
        return logits if swapped is None else (logits - self.head(swapped).squeeze(1)) / 2

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.answer(*self.embed(left, right))


class AgeDistribution(nn.Linear):
    """(B, D) features to (B, A) logits over the ages 0 to ``OLDEST``.

    Label distribution learning: the target is a normal distribution around the age, the prediction
    the expectation (Gao et al. 2018, "Age Estimation Using Expectation of Label Distribution
    Learning", IJCAI).
    weights: the backbone's; ``faceres`` initialises the head too, for the ages 1 to 100.
    """

    OLDEST = 120
    SPREAD = 2.0  # standard deviation of the target, years

    def __init__(self, features: int, weights: str | None = None):
        super().__init__(features, self.OLDEST + 1)
        if weights == FACERES:
            start, known = read_start(weights), slice(AGES.start, AGES.stop)
            with torch.no_grad():
                self.weight.zero_()[known] = start["age.weight"]
                self.bias.fill_(UNHEARD_OF)[known] = start["age.bias"]
        self.register_buffer("ages", torch.arange(self.OLDEST + 1.0), persistent=False)

    def expectation(self, logits: Tensor) -> Tensor:
        """(B, A) logits to (B,) ages, years."""
        return logits.float().softmax(1) @ self.ages

    def loss(self, logits: Tensor, ages: Tensor) -> Tensor:
        """Mean KL divergence from the targets, plus the mean absolute error in decades.

        logits: (B, A); ages: (B,) years, 0 to OLDEST.
        """
        label = (-0.5 * ((self.ages - ages[:, None]) / self.SPREAD) ** 2).softmax(1)  # (B, A)
        divergence = kl_div(logits.float().log_softmax(1), label, reduction="batchmean")
        return divergence + l1_loss(self.expectation(logits), ages) / 10


class ResNetAgeRegressor(_Embedding):
    """A face to its age in years.

    age_loss: "mse", the squared error over the training ages' variance, with a linear output scaled
    by ``set_ages``, or "distribution" (``AgeDistribution``). Raises ValueError for other losses.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        weights: str | None = None,
        age_loss: str = "mse",
        mirror: bool = False,
        image_size: int | None = None,
    ):
        super().__init__()
        self.mirror, self.image_size = mirror, image_size
        self.backbone, self.features = make_backbone(backbone, weights)
        if age_loss == "distribution":
            self.head = AgeDistribution(self.features, weights)
        elif age_loss == "mse":
            self.head = nn.Linear(self.features, 1)
        else:
            known = "expected one of mse, distribution"
            raise ValueError(f"age_loss {age_loss!r} is not known: {known}")
        self.register_buffer("age_mean", torch.tensor(33.0))
        self.register_buffer("age_std", torch.tensor(20.0))

    def set_ages(self, ages: Tensor) -> None:
        """Scale the output by the mean and standard deviation of the training ages, (N,) years."""
        self.age_mean.copy_(ages.float().mean())
        self.age_std.copy_(ages.float().std())

    def ages_of(self, output: Tensor) -> Tensor:
        """The head's output, (B, 1) or (B, A), to (B,) ages, years."""
        if isinstance(self.head, AgeDistribution):
            return self.head.expectation(output)
        return output.squeeze(1) * self.age_std + self.age_mean

    def forward(self, images: Tensor) -> Tensor:
        return self.ages_of(self.head(self.embed(images)))

    def loss(self, images: Tensor, ages: Tensor) -> Tensor:
        """The training loss on (B, 3, H, W) images and (B,) ages, years."""
        output = self.head(self.embed(images))
        if isinstance(self.head, AgeDistribution):
            return self.head.loss(output, ages)
        return mse_loss(self.ages_of(output), ages) / self.age_std**2


class SiameseResNetAge(_ConcatenatedHead):
    """A trained head on the features of a frozen age regressor.

    The regressor stays in evaluation mode, so its batch-norm statistics are frozen too.
    age_loss: the regressor's; symmetric: as in ``FaceByFace``; mirror: as in ``_Embedding``; blind:
    use the left face's features twice, the course project's bug, for the ablation in notebook 06.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        hidden_layers: list[int] = (),
        use_dropout: bool = False,
        dropout_prob: float = 0.3,
        age_loss: str = "mse",
        symmetric: bool = False,
        mirror: bool = False,
        blind: bool = False,
        image_size: int | None = None,
    ):
        super().__init__()
        self.blind, self.symmetric, self.image_size = blind, symmetric, image_size
        self.regressor = ResNetAgeRegressor(backbone, age_loss=age_loss, mirror=mirror)
        self.regressor.eval().requires_grad_(False)
        self.features = self.regressor.features
        self.head = make_head(2 * self.features, hidden_layers, use_dropout, dropout_prob)

    def train(self, mode: bool = True):
        super().train(mode)
        self.regressor.eval()
        return self

    def compare(self, left: Tensor, right: Tensor) -> Tensor:
        return super().compare(left, left if self.blind else right)


class AgeRanker(_BackboneAndHead, FaceByFace):
    """A scalar score per face; logit = score(left) - score(right).

    Antisymmetric and transitive (Bradley and Terry 1952; RankNet, Burges et al. 2005).
    """

    def contribute(self, features: Tensor) -> Tensor:
        score = self.head(features)  # (B, 1)
        return torch.cat([score, -score], dim=1)


class RankingAgeRegressor(FaceByFace):
    """An age regressor trained to rank: logit = score(left) - score(right).

    The score is linear in the features and the expected age. Options: as for ``ResNetAgeRegressor``
    with ``age_loss`` "distribution".
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        weights: str | None = None,
        mirror: bool = False,
        image_size: int | None = None,
    ):
        super().__init__()
        self.image_size = image_size
        self.regressor = ResNetAgeRegressor(backbone, weights, "distribution", mirror)
        self.features = self.regressor.features
        self.head = nn.Linear(self.features, 1)
        self.per_year = nn.Parameter(torch.tensor(0.1))  # logits

    @property
    def backbone(self) -> nn.Module:
        return self.regressor.backbone

    def contribute(self, features: Tensor) -> Tensor:
        ages = self.regressor.ages_of(self.regressor.head(features))
        score = self.head(features) + self.per_year * ages[:, None]
        return torch.cat([score, -score], dim=1)


class AgeComparison(FaceByFace):
    """A trained age regressor as a pair model: the face predicted older is the answer.

    error: the regressor's root mean squared error, years, of normal errors.
    """

    def __init__(self, regressor: ResNetAgeRegressor, error: float):
        super().__init__()
        self.regressor, self.features = regressor, 1
        self.image_size = getattr(regressor, "image_size", None)
        self.scale = 1.702 / (2**0.5 * error)  # 1.702 turns a probit into a logit

    def embed(self, images: Tensor) -> Tensor:
        return self.regressor(images)[:, None]  # (B, 1), years

    def contribute(self, features: Tensor) -> Tensor:
        return torch.cat([features, -features], dim=1) * self.scale


class PairEnsemble(FaceByFace):
    """Mean logit of ``FaceByFace`` models (Hansen and Salamon 1990, "Neural Network Ensembles").

    members: each one's ``config``. Faces have the largest ``image_size``, reduced for the others.
    """

    def __init__(self, members: list[dict]):
        super().__init__()
        self.members = nn.ModuleList(
            build_model(one["model"], **one["options"] | {"weights": None}) for one in members
        )
        sizes = [one.image_size or 0 for one in self.members]
        self.image_size = max(sizes) or None
        for number, size in enumerate(sizes):
            reduction = None
            if 0 < size < max(sizes):  # as matrices, since ONNX lacks antialiased resizing
                rows = torch.eye(max(sizes))[None, None]
                shape = size, max(sizes)
                reduction = interpolate(rows, shape, mode="bilinear", antialias=True)[0, 0]
            self.register_buffer(f"reduction{number}", reduction, persistent=False)
        self.widths = [one.features for one in self.members]
        self.features = sum(self.widths)
        brought = [one.contribute(torch.zeros(1, one.features)) for one in self.members]
        self.contributions = [part.shape[1] for part in brought]

    def embed(self, images: Tensor) -> Tensor:
        features = []
        for number, one in enumerate(self.members):
            matrix = getattr(self, f"reduction{number}")
            seen = images if matrix is None else matrix @ images @ matrix.T
            features.append(one.embed(seen))
        return torch.cat(features, dim=1)

    def contribute(self, features: Tensor) -> Tensor:
        parts = zip(self.members, features.split(self.widths, dim=1), strict=True)
        return torch.cat([one.contribute(part) for one, part in parts], dim=1)

    def compare(self, left: Tensor, right: Tensor) -> Tensor:
        sides = (side.split(self.contributions, dim=1) for side in (left, right))
        logits = [one.compare(*both) for one, *both in zip(self.members, *sides, strict=True)]
        return torch.stack(logits).mean(0)


CLASSES = [SiameseResNet, ResNetClassifier, ResNetAgeRegressor, SiameseResNetAge, AgeRanker]
CLASSES += [RankingAgeRegressor, PairEnsemble]
MODELS: dict[str, type[nn.Module]] = {model.__name__: model for model in CLASSES}


def options_of(name: str) -> Mapping[str, inspect.Parameter]:
    """A model's constructor options. Raises ValueError for an unknown name, listing the known."""
    if name not in MODELS:
        raise ValueError(f"model {name!r} is not known: expected one of {', '.join(MODELS)}")
    return inspect.signature(MODELS[name]).parameters


def build_model(name: str, **options) -> nn.Module:
    """Build a model from its class name and constructor options, kept in its ``config``.

    Options that the class does not take are ignored, so one set of parameters serves all models.
    Raises ValueError for an unknown name, listing the known ones.
    """
    options = {key: options.get(key, one.default) for key, one in options_of(name).items()}
    model = MODELS[name](**options)
    model.config = {"model": name, "options": options}
    return model


def resized_copy(model: nn.Module, image_size: int) -> nn.Module:
    """A copy of a model, with its weights, for faces of ``image_size`` pixels per side."""
    other = copy.deepcopy(model)
    other.image_size = other.config["options"]["image_size"] = image_size
    return other
