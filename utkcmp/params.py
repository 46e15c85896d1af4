"""All parameters, validated before anything runs.

Parameter files are flat YAML. Later files override earlier ones and single values override all
files, both here and with papermill's ``-f`` and ``-p``.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
    with_config,
)
from typing_extensions import TypedDict

from utkcmp.files import NotPlainError, parse_yaml, printable

EMBEDDED = "embedded"
MAX_FILE = 2**20  # bytes of a parameter file
LARGEST = 2**53  # largest integer; floats represent integers exactly up to here
SHOWN, MAX_SENTENCE = 100, 1000  # characters shown of a wrong value and of an error message
T = TypeVar("T")
REGNETS = "400mf 800mf 1_6gf 3_2gf 8gf 16gf 32gf".split()
FACERES = "faceres"  # names a backbone and its pretrained weights
BACKBONES = (
    FACERES,
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *(f"vgg{depth}{kind}" for depth in (11, 13, 16, 19) for kind in ("", "_bn")),
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *(f"efficientnet_{size}" for size in "b0 b1 b2 b3 b4 b5 b6 b7 v2_s v2_m v2_l".split()),
    *(f"convnext_{size}" for size in ("tiny", "small", "base", "large")),
    *(f"regnet_{kind}_{size}" for kind in "xy" for size in REGNETS),
    "regnet_y_128gf",
)
WEIGHTS = ("DEFAULT", "IMAGENET1K_V1", "IMAGENET1K_V2")  # torchvision's
WEIGHTS_FILE = ".safetensors"
LARGER = 1.5  # size of the ladder's larger faces, relative to its other rungs


class ParameterError(ValueError):
    """A parameter that is unknown, of the wrong type, out of range or inconsistent with others."""


def _named(name: str) -> str:
    if not re.fullmatch(r"\w[\w .+-]*", name) or name.lower() == "cache":
        raise ValueError(
            "expected the name of one folder below outputs/, of letters, digits, blanks and "
            "'._+-', and not 'cache'"
        )
    return name


def _address(text: str) -> str:
    if not re.fullmatch(r"local|auto|(ray://)?[\w.-]+:\d+", text):
        raise ValueError("expected local, auto, host:port or ray://host:port")
    return text


def _rising(ends: list[float]) -> list[float]:
    if ends[0] >= ends[1]:
        raise ValueError("expected [low, high], the lower one first")
    return ends


def check_backbone(name: str) -> str:
    """Return ``name``, or raise ValueError listing the known backbones."""
    if name not in BACKBONES:
        near = difflib.get_close_matches(name, BACKBONES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(
            f"backbone {name!r} is not known{hint}: expected one of {', '.join(BACKBONES)}"
        )
    return name


def least_size(backbone: str) -> int:
    """The fewest pixels per side that leave something of a face after all downsampling."""
    return 32 if backbone.startswith(("vgg", "convnext")) else 8


def check_weights(weights: str | None, backbone: str) -> str | None:
    """Return ``weights``, or raise ValueError listing those known for the backbone."""
    known = (FACERES,) if backbone == FACERES else WEIGHTS
    if weights not in (None, *known) and not weights.endswith(WEIGHTS_FILE):
        raise ValueError(
            f"weights {weights!r} are not known for {backbone}: expected null, "
            f"{', '.join(known)} or a {WEIGHTS_FILE} file"
        )
    return weights


PairModel = Literal["SiameseResNet", "ResNetClassifier", "SiameseResNetAge"]
Width = Annotated[int, Field(ge=1, le=4096)]
Widths = Annotated[list[Width], Field(max_length=8)]
Pixels = Annotated[int, Field(ge=16, le=512)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
PairCount = Annotated[int, Field(ge=10)]
Rate = Annotated[float, Field(gt=0, le=10)]
Choices = Annotated[list[T], Field(min_length=1)]
Range = Annotated[list[T], Field(min_length=2, max_length=2), AfterValidator(_rising)]


@with_config(ConfigDict(extra="forbid", allow_inf_nan=False))
class SearchSpace(TypedDict, total=False):
    """A run's restrictions of the space that notebook 07 searches."""

    lr: Range[Annotated[float, Field(gt=0)]]
    weight_decay: Range[Annotated[float, Field(gt=0)]]
    dropout_prob: Range[Annotated[float, Field(ge=0, lt=1)]]
    batch_size: Choices[Annotated[int, Field(ge=2)]]
    hidden_layers: Choices[Widths]
    use_dropout: Choices[bool]
    resnet_type: Choices[Annotated[str, AfterValidator(check_backbone)]]


class Params(BaseModel):
    """Every parameter, with its type, range, default and meaning.

    With the defaults each notebook runs within seconds on a few synthetic faces.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    run: Annotated[str, AfterValidator(_named)] = Field(
        "lab", max_length=60, description="folder below outputs/"
    )
    data: str = Field(EMBEDDED, min_length=1, description="'embedded', folder, archive or $UTKFACE")
    n_faces: int = Field(200, ge=50, le=100_000, description="embedded faces to draw")
    seed: Seed = 42
    show_faces: bool = Field(True, description="false hides every face and its file's name")
    image_size: Pixels = Field(32, description="pixels per side")

    duplicates: Literal["keep", "drop_conflicts", "drop_all_but_one"] = "keep"
    max_conflict: int = Field(5, ge=0, description="years; more leaves a group out of evaluation")
    train: int = Field(70, gt=0, lt=100, description="per cent of the faces")
    val: int = Field(20, gt=0, lt=100)
    test: int = Field(10, gt=0, lt=100)
    leaky: bool = Field(False, description="the course project's plain split: duplicates leak")

    year_diff: int = Field(1, ge=1, le=116, description="least age difference of a pair, years")
    data_size: int | None = Field(400, description="training pairs; None or negative: all")
    duplicate_probability: float = Field(0.0, ge=0, le=1)
    unique_images: bool = False
    eval_pairs: int = Field(300, ge=10, description="pairs of the course project's test protocol")

    backbone: Annotated[str, AfterValidator(check_backbone)] = "resnet18"
    weights: str | None = Field(
        None, description="to start from: torchvision's name, faceres, or a .safetensors file"
    )
    hidden_layers: Widths = []
    use_dropout: bool = False
    dropout_prob: float = Field(0.3, ge=0, lt=1)
    symmetric: bool = Field(False, description="answer by both orders of the two faces")
    mirror: bool = Field(False, description="answer by a face and its mirror image")
    age_loss: Literal["mse", "distribution"] = Field("mse", description="of the age regressor")

    pairing: Literal["list", "batch"] = Field("batch", description="fixed list, or all of a batch")
    epochs: int = Field(2, ge=1)
    batch_size: int = Field(32, ge=2, description="pairs a step; faces if pairing is batch")
    lr: Rate = 1e-3
    backbone_lr: Rate = Field(1.0, description="learning rate of the backbone, as a factor of lr")
    weight_decay: float = Field(0.0, ge=0)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    schedule: Literal["constant", "cosine"] = "cosine"
    augment: Literal["none", "flip", "full"] = Field(
        "flip", description="random changes of training faces: mirrored; and moved, lit, erased"
    )
    clip: float = Field(0.0, ge=0, description="largest norm of a step's gradient; 0: any")
    ema: float = Field(0.0, ge=0, lt=1, description="decay a step of the weights' average; 0: none")
    age_weight: float = Field(0.0, ge=0, description="of the age loss beside the pairs'; 0: none")
    steps_per_epoch: int | None = Field(None, ge=1, description="None: all batches")
    patience: int = Field(8, ge=1, description="epochs without a better validation loss")
    precision: Literal["auto", "32", "bf16", "16"] = Field(
        "32", description="of training; auto: bf16 where the device computes in it, else 32"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = Field(1, ge=1, description="GPUs, or processes on a CPU, that share a batch")
    retrain: bool = Field(False, description="train anew although a finished model is there")

    pretrained: dict[str, Any] = Field(
        {}, description="parameters of the RankingAgeRegressor, where not the run's (06); {}: none"
    )
    seeds: list[Seed] = Field([], description="other seeds to train the same again with (04, 05)")
    ladder_faces: int = Field(256, ge=64, description="faces that each training of 04, 05, 08 sees")
    ladder_size: Pixels = Field(16, description="pixels per side of these faces")
    ladder_seeds: int = Field(2, ge=1, description="trainings of each arm, with as many seeds")

    regressor_epochs: int = Field(2, ge=1)
    regressor_batch_size: int = Field(32, ge=2)
    regressor_lr: Rate = 1e-3

    pair_counts: Choices[PairCount] = Field([100], description="numbers of pairs to compare (06)")

    tune_models: Choices[PairModel] = ["SiameseResNet", "ResNetClassifier", "SiameseResNetAge"]
    num_samples: int = Field(1, ge=1, description="trials per model")
    max_num_epochs: int = Field(1, ge=1, description="epochs of a trial that is never stopped")
    tune_data_size: int = Field(64, ge=10, description="training pairs of a trial")
    search_space: SearchSpace = Field(
        {"resnet_type": ["resnet18"], "batch_size": [32, 64]},
        description="narrower choices or [low, high] ranges",
    )
    cpus_per_trial: float = Field(1, gt=0)
    gpus_per_trial: float = Field(0, ge=0)
    searcher: Literal["random", "bayesian"] = Field("random", description="who draws the trials")
    best_epochs: int = Field(1, ge=1, description="of the best trial, trained from scratch")
    head_models: list[PairModel] = Field(
        ["SiameseResNetAge"], description="models whose hidden layers are compared over seeds"
    )
    head_seeds: int = Field(2, ge=1, description="per number of pairs (06) or choice of head (07)")
    ray_address: Annotated[str, AfterValidator(_address)] = Field(
        "local", description="local, auto, host:port or ray://host:port"
    )

    photo_faces: int = Field(12, ge=10, description="test faces that are made into photos (09)")

    resamples: int = Field(200, ge=100, description="bootstrap resamples of the faces")

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info) -> Any:
        """Reject what pydantic coerces or lets through: true as 1, bytes as text, huge integers."""
        truth = cls.model_fields[info.field_name].annotation is bool
        if isinstance(value, str) and value[:1] in ("[", "{") and info.field_name != "data":
            value = parse_yaml(value)  # papermill's -p passes lists as text
        if info.field_name == "precision" and type(value) is int:  # 16 and 32
            value = str(value)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, bytes) or (isinstance(one, bool) and not truth):
                raise ValueError("expected a number or a word")
            if isinstance(one, int) and abs(one) > LARGEST:
                raise ValueError("expected a smaller number")
        return value

    @model_validator(mode="after")
    def _consistent(self):
        for name in {self.backbone, *self.search_space.get("resnet_type", [])}:
            if self.image_size < least_size(name):
                raise ValueError(
                    f"image_size {self.image_size} is too small for {name}: expected "
                    f"{least_size(name)} or more"
                )
        check_weights(self.weights, self.backbone)
        total = self.train + self.val + self.test
        if total != 100:
            raise ValueError(f"train + val + test is {total}, expected 100")
        if self.data_size == 0:
            raise ValueError("data_size is 0, expected 1 or more, or null for all pairs")
        if self.pretrained:
            changed = ["image_size", *SECTIONS["network"], *SECTIONS["training"]]
            check_names(self.pretrained, changed, "pretrained")
            check(self.model_dump() | {"pretrained": {}} | self.pretrained, "pretrained")
        return self

    def weights_of(self, backbone: str) -> str | None:
        """The initial weights of any backbone that a search may try.

        A file and ``faceres`` fit ``self.backbone`` only; others then start from scratch.
        """
        shared = self.weights in WEIGHTS and backbone != FACERES
        return self.weights if shared or backbone == self.backbone else None


# Sections of parameters, which notebooks refer to; here the first parameter of each.
_FIRST = {"run": "data", "duplicates": "split", "year_diff": "pairs", "backbone": "network"}
_FIRST |= {"pairing": "training", "pretrained": "experiments"}
_FIRST |= {"tune_models": "tuning", "photo_faces": "photos", "resamples": "evaluation"}
SECTIONS: dict[str, list[str]] = {}
_section = ""
for _name in Params.model_fields:
    _section = _FIRST.get(_name, _section)
    SECTIONS.setdefault(_section, []).append(_name)


def check(values: Mapping[str, Any], source: str = "") -> Params:
    """Validate the parameters among ``values``, such as a notebook's ``globals()``.

    Other names are ignored (see ``check_names``), except in the cell that papermill injects.
    Notebooks rebind ``data`` to the faces they read; on a second call the value in ``p`` counts.
    Raises ParameterError for the first unknown name or invalid value.

    >>> check({"epochs": 3, "something_else": 1}).epochs
    3
    """
    for cell in values.get("In", ()):  # IPython's input history
        if cell.startswith("# Parameters\n"):  # injected by papermill
            check_names(re.findall(r"(?m)^(\w+) = ", cell))
    known = {name: values[name] for name in Params.model_fields if name in values}
    if isinstance(earlier := values.get("p"), Params) and not isinstance(known.get("data"), str):
        known["data"] = earlier.data
    try:
        return Params(**known)
    except ValidationError as error:
        raise ParameterError(_sentence(error.errors()[0], source)) from None


def check_names(names: Iterable[str], known: Iterable[str] = (), source: str = "") -> None:
    """Raise ParameterError for the first name that is not ``known``, suggesting the nearest."""
    known = list(known) or list(Params.model_fields)
    for name in names:
        if name not in known:
            where = f" in {source}" if source else ""
            raise ParameterError(
                f"no notebook knows the parameter {_shown(name)}{where}: {_meant(name, known)}"
            )


def _meant(name: Any, known: Iterable[str]) -> str:
    spelt = str(name)[:SHOWN].strip().lower().replace("-", "_")
    near = difflib.get_close_matches(spelt, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known are: {', '.join(sorted(known))}"


def _sentence(error: dict, source: str) -> str:
    where = f" in {source}" if source else ""
    said = printable(error["msg"].removeprefix("Value error, "))[:MAX_SENTENCE]
    place = [printable(str(part))[:SHOWN] for part in error["loc"]]
    if not place:
        return f"parameters{where}: {said}"
    if error["type"] == "extra_forbidden":
        hint = _meant(error["loc"][-1], SearchSpace.__annotations__)
        return (
            f"parameter {'.'.join(place[:-1])}{where} knows no {_shown(error['loc'][-1])}: {hint}"
        )
    expected = said[0].lower() + said[1:]
    return f"parameter {'.'.join(place)} = {_shown(error['input'])}{where}: {expected}"


def _shown(value: Any) -> str:
    """``repr`` of a value on one line, truncated for messages."""
    try:
        text = repr(value)
    except Exception:  # integers of thousands of digits, deeply nested lists
        return "a value too long to show"
    return printable(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")


def load_file(path: str | Path) -> dict[str, Any]:
    """Read one parameter file, a flat YAML mapping. Raises ParameterError."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise NotPlainError("holds more than 1 MiB, expected a few lines")
        values = parse_yaml(content.decode("utf-8"))
        if not isinstance(values, dict | None):
            raise NotPlainError("expected 'name: value' lines")
        return values or {}
    except OSError as error:
        raise ParameterError(f"parameter file {path}: {error.strerror.lower()}") from None
    except UnicodeDecodeError:
        raise ParameterError(f"parameter file {path}: is not text in UTF-8") from None
    except NotPlainError as error:
        at = f", line {error.line}" if error.line else ""
        raise ParameterError(f"parameter file {path}{at}: {error}") from None


def load_files(paths: Iterable[str | Path]) -> dict[str, Any]:
    """Read and validate parameter files; later files override earlier ones."""
    merged: dict[str, Any] = {}
    for path in paths:
        values = load_file(path)
        check_names(values, source=str(path))
        merged.update(values)
        check(merged, source=str(path))
    return merged


def parse_override(text: str) -> tuple[str, Any]:
    """Parse ``name=value`` from a command line, the value as YAML.

    >>> parse_override("hidden_layers=[64, 32]")
    ('hidden_layers', [64, 32])
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ParameterError(f"expected name=value, got {_shown(text)}")
    try:
        return name.strip(), parse_yaml(value)
    except NotPlainError as error:
        raise ParameterError(f"the value in {_shown(text)} {error}") from None
