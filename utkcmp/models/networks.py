"""The networks. A pair model maps two image batches to one logit a pair, positive: left is older.

Models that look at each face by itself (``FaceByFace``) do so in two steps: ``embed`` turns a face
into features, ``contribute`` features into all that the face brings to any pair. What is left for a
pair, ``compare``, is a sum and the rest of the head, so that millions of pairs cost little more
than their faces. The six-channel model, which must see both faces at once, has only ``forward``.
No model holds a sigmoid: losses take logits.
"""

import copy
import inspect

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, kl_div, l1_loss, linear, mse_loss

from utkcmp.models.backbones import make_backbone, read_start
from utkcmp.models.faceres import AGES
from utkcmp.params import FACERES

AGE_LOSSES = ("mse", "distribution")
UNHEARD_OF = -10.0  # logit of an age that a pretrained head does not know


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


def _features_of(model: nn.Module, images: Tensor) -> Tensor:
    """(B, C, H, W) images to (B, D) features of ``model.backbone``.

    Where the model has ``mirror``, features in evaluation mode are the mean of those of the image
    and of its mirror image (flip averaging), at twice the cost.
    """
    features = model.backbone(images)
    if model.mirror and not model.training:
        features = (features + model.backbone(images.flip(-1))) / 2
    return features


class FaceByFace(nn.Module):
    """A pair model whose ``forward`` is ``compare`` of what each face contributes by itself.

    A subclass has ``embed``, (B, 3, H, W) normalised images to (B, D) features, ``contribute``,
    (B, D) features to (B, 2*C), what the face brings as the left one beside what it brings as the
    right one, and ``join``, (B, C) of the left face and (B, C) of the right to (B,) logits, by
    default their sum.
    symmetric: answer by both orders, ``(f(left, right) - f(right, left)) / 2``, so that the answer
    does not depend on which face comes first.
    """

    symmetric = False

    def compare(self, left: Tensor, right: Tensor) -> Tensor:
        """Contributions of the left faces and of the right ones, (B, 2*C) each, to (B,) logits."""
        (left_first, left_second), (right_first, right_second) = left.chunk(2, 1), right.chunk(2, 1)
        logits = self.join(left_first, right_second)
        if self.symmetric:
            logits = (logits - self.join(right_first, left_second)) / 2
        return logits

    def join(self, left: Tensor, right: Tensor) -> Tensor:
        return (left + right).squeeze(1)

    def score_pairs(self, left: Tensor, right: Tensor) -> Tensor:
        """Features of the left faces and of the right ones, (B, D) each, to (B,) logits."""
        return self.compare(self.contribute(left), self.contribute(right))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        contributions = self.contribute(
            self.embed(torch.cat([left, right]))
        )  # one pass: (2*B, 2*C)
        return self.compare(*contributions.chunk(2))


class _ConcatenatedHead(FaceByFace):
    """A head on two concatenated feature vectors; its first layer is a sum over the two faces."""

    head: nn.Sequential

    def contribute(self, features: Tensor) -> Tensor:
        first = self.head[0]
        as_left, as_right = first.weight.chunk(2, dim=1)  # (C, D) each
        return torch.cat([linear(features, as_left, first.bias), linear(features, as_right)], 1)

    def join(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head[1:](left + right).squeeze(1)


class _BackboneAndHead(nn.Module):
    """What pair models that train their backbone are made of, and their options.

    symmetric: as in ``FaceByFace``; mirror: see ``_features_of``; image_size: pixels per side of
    the faces that the model was trained on, None before.
    """

    channels = 3  # that the backbone sees
    vectors = 1  # of features that the head sees

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

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, D) features."""
        return _features_of(self, images)


class SiameseResNet(_BackboneAndHead, _ConcatenatedHead):
    """One shared backbone, the two feature vectors concatenated, fully connected head."""

    vectors = 2


class ResNetClassifier(_BackboneAndHead):
    """The two images concatenated to six channels, one backbone, fully connected head.

    ``symmetric`` and ``mirror`` both double the cost: the first sees the pair in both orders, the
    second the two faces and their mirror images.
    """

    channels = 6

    def embed(self, left: Tensor, right: Tensor) -> tuple[Tensor, ...]:
        """Both faces, (B, 3, H, W) normalised images each, to the (B, D) features of the pair.

        If ``symmetric``, the features of the pair in the other order follow.
        """
        both = torch.cat([left, right], dim=1)  # (B, 6, H, W)
        if not self.symmetric:
            return (_features_of(self, both),)
        both = torch.cat([both, torch.cat([right, left], dim=1)])  # (2*B, 6, H, W)
        return _features_of(self, both).chunk(2)

    def answer(self, features: Tensor, swapped: Tensor | None = None) -> Tensor:
        """What ``embed`` gives, (B, D) each, to (B,) logits."""
        logits = self.head(features).squeeze(1)
        return logits if swapped is None else (logits - self.head(swapped).squeeze(1)) / 2

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.answer(*self.embed(left, right))


class AgeDistribution(nn.Linear):
    """Features (B, D) to the logits of a distribution over the ages 0 to ``OLDEST``, (B, A).

    Deep label distribution learning: the label becomes a normal distribution around the age, and
    the expectation of the answer is the age (Gao et al. 2018, "Age Estimation Using Expectation
    of Label Distribution Learning", IJCAI).
    weights: those of the backbone; with ``faceres`` the head starts from that network's own, which
    knows the ages 1 to 100.
    """

    OLDEST = 120
    SPREAD = 2.0  # years, of the label's distribution

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
        """Mean divergence from the labels' distributions, plus the mean absolute error in decades.

        logits: (B, A); ages: (B,) years, 0 to OLDEST.
        """
        label = (-0.5 * ((self.ages - ages[:, None]) / self.SPREAD) ** 2).softmax(1)  # (B, A)
        divergence = kl_div(logits.float().log_softmax(1), label, reduction="batchmean")
        return divergence + l1_loss(self.expectation(logits), ages) / 10


class ResNetAgeRegressor(nn.Module):
    """One face to an age in years.

    age_loss: "mse", the squared error in units of the training ages' variance, or "distribution",
    see ``AgeDistribution``. With "mse" the output is linear around the training ages
    (``set_ages``): it cannot die at zero, as an output behind a ReLU can.
    Raises ValueError for another loss.
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
        if age_loss not in AGE_LOSSES:
            raise ValueError(
                f"age_loss {age_loss!r} is not known: expected one of {', '.join(AGE_LOSSES)}"
            )
        self.backbone, self.features = make_backbone(backbone, weights)
        by_distribution = age_loss == "distribution"
        self.head = (
            AgeDistribution(self.features, weights)
            if by_distribution
            else nn.Linear(self.features, 1)
        )
        self.register_buffer("age_mean", torch.tensor(33.0))
        self.register_buffer("age_std", torch.tensor(20.0))

    def set_ages(self, ages: Tensor) -> None:
        """Take mean and spread of the training ages, (N,) years, as the output's scale."""
        self.age_mean.copy_(ages.float().mean())
        self.age_std.copy_(ages.float().std())

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, D) features."""
        return _features_of(self, images)

    def ages_of(self, output: Tensor) -> Tensor:
        """The head's output for B faces to (B,) ages, years."""
        if isinstance(self.head, AgeDistribution):
            return self.head.expectation(output)
        return output.squeeze(1) * self.age_std + self.age_mean

    def forward(self, images: Tensor) -> Tensor:
        return self.ages_of(self.head(self.embed(images)))

    def loss(self, images: Tensor, ages: Tensor) -> Tensor:
        """The training loss of (B, 3, H, W) images and their (B,) ages, years."""
        output = self.head(self.embed(images))
        if isinstance(self.head, AgeDistribution):
            return self.head.loss(output, ages)
        return mse_loss(self.ages_of(output), ages) / self.age_std**2


class SiameseResNetAge(_ConcatenatedHead):
    """A frozen age regressor's features of both faces, and a trained head.

    Weights and batch-norm statistics of the regressor never change: it stays in evaluation mode.
    age_loss: that of the regressor; symmetric: as in ``FaceByFace``; mirror: see ``_features_of``.
    blind: feed the left face's features in twice, the fault of the course project's code;
    for the ablation of notebook 06 only.
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

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, D) features."""
        return self.regressor.embed(images)

    def compare(self, left: Tensor, right: Tensor) -> Tensor:
        return super().compare(left, left if self.blind else right)


class AgeRanker(_BackboneAndHead, FaceByFace):
    """A scalar score per face; logit = score(left) - score(right).

    The same answer whichever face comes first, and one order for any number of faces
    (Bradley and Terry 1952; RankNet, Burges et al. 2005).
    """

    def contribute(self, features: Tensor) -> Tensor:
        """(B, D) features to (B, 2): the score, and its opposite for the right side."""
        score = self.head(features)
        return torch.cat([score, -score], dim=1)


class RankingAgeRegressor(FaceByFace):
    """An age regressor that is trained to rank: logit = score(left) - score(right).

    The score is linear in the features and in the expected age, so the network answers as
    ``AgeRanker`` does and states ages as well.
    backbone, weights, mirror, image_size: as for ``ResNetAgeRegressor``, whose ``age_loss`` is
    "distribution".
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

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, D) features."""
        return self.regressor.embed(images)

    def contribute(self, features: Tensor) -> Tensor:
        """(B, D) features to (B, 2): the score, and its opposite for the right side."""
        ages = self.regressor.ages_of(self.regressor.head(features))
        score = self.head(features) + self.per_year * ages[:, None]
        return torch.cat([score, -score], dim=1)


class AgeComparison(FaceByFace):
    """A trained age regressor as a pair model: whoever is predicted older is answered.

    error: the regressor's root mean squared error, years. The difference of two such errors is
    taken as normal, whose probit 1.702 turns into a logit.
    """

    def __init__(self, regressor: ResNetAgeRegressor, error: float):
        super().__init__()
        self.regressor, self.features = regressor, 1
        self.image_size = getattr(regressor, "image_size", None)
        self.scale = 1.702 / (2**0.5 * error)

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, 1) predicted ages in years."""
        return self.regressor(images)[:, None]

    def contribute(self, features: Tensor) -> Tensor:
        return torch.cat([features, -features], dim=1) * self.scale


class PairEnsemble(FaceByFace):
    """Trained models that look at each face by itself, answering by the mean of their logits.

    members: the ``config`` of each, as ``build_model`` keeps it; the ensemble takes faces of the
    largest ``image_size`` among them and reduces these for the others. What single networks get
    wrong by chance averages out (Hansen and Salamon 1990, "Neural Network Ensembles").
    """

    def __init__(self, members: list[dict]):
        super().__init__()
        self.members = nn.ModuleList(
            build_model(one["model"], **one["options"] | {"weights": None}) for one in members
        )
        sizes = [one.image_size or 0 for one in self.members]
        self.image_size = max(sizes) or None
        for number, size in enumerate(sizes):
            reduction = _reduction(max(sizes), size) if 0 < size < max(sizes) else None
            self.register_buffer(f"reduction{number}", reduction, persistent=False)
        self.widths = [one.features for one in self.members]
        self.features = sum(self.widths)
        with torch.no_grad():
            brought = [one.contribute(torch.zeros(1, one.features)) for one in self.members]
        self.contributions = [part.shape[1] // 2 for part in brought]

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, D) features, those of all members."""
        features = []
        for number, one in enumerate(self.members):
            matrix = getattr(self, f"reduction{number}")
            seen = images if matrix is None else matrix @ images @ matrix.T
            features.append(one.embed(seen))
        return torch.cat(features, dim=1)

    def contribute(self, features: Tensor) -> Tensor:
        parts = zip(self.members, features.split(self.widths, dim=1), strict=True)
        brought = [one.contribute(part).chunk(2, dim=1) for one, part in parts]
        return torch.cat([side for sides in zip(*brought, strict=True) for side in sides], dim=1)

    def join(self, left: Tensor, right: Tensor) -> Tensor:
        sides = (side.split(self.contributions, dim=1) for side in (left, right))
        logits = [one.join(*both) for one, *both in zip(self.members, *sides, strict=True)]
        return torch.stack(logits).mean(0)


def _reduction(size: int, smaller: int) -> Tensor:
    """The matrix (smaller, size) that resizes rows of pixels, bilinear with antialiasing.

    Multiplied from both sides it does what ``interpolate`` does, of which ONNX knows too little.
    """
    rows = torch.eye(size)[None, None]
    return interpolate(rows, (smaller, size), mode="bilinear", antialias=True)[0, 0]


MODELS: dict[str, type[nn.Module]] = {
    model.__name__: model
    for model in (
        *(SiameseResNet, ResNetClassifier, ResNetAgeRegressor, SiameseResNetAge, AgeRanker),
        *(RankingAgeRegressor, PairEnsemble),
    )
}


def build_model(name: str, **options) -> nn.Module:
    """Build a model by its class name and constructor options, and remember both in ``config``.

    Options that the class does not take are left out, so that one parameter set serves all.
    Raises ValueError for an unknown name, with the known ones.
    """
    if name not in MODELS:
        raise ValueError(f"model {name!r} is not known: expected one of {', '.join(MODELS)}")
    taken = inspect.signature(MODELS[name]).parameters
    options = {key: options.get(key, option.default) for key, option in taken.items()}
    model = MODELS[name](**options)
    model.config = {"model": name, "options": options}
    return model


def resized_copy(model: nn.Module, image_size: int) -> nn.Module:
    """A copy of a model that takes faces of ``image_size`` pixels per side, its weights the same.

    Convolutions take any size; what a model was trained on is what it answers best.
    """
    other = copy.deepcopy(model)
    other.image_size = image_size
    options = model.config["options"] | {"image_size": image_size}
    other.config = model.config | {"options": options}
    return other
