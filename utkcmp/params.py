"""What a parameter file may hold, checked before anything runs.

A parameter has one meaning in every notebook. Files are flat YAML; later files override earlier
ones and single values override all files, both here and with papermill's ``-f`` and ``-p``.
"""

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from utkcmp.run import outputs_root

EMBEDDED = "embedded"
PairModel = Literal["SiameseResNet", "ResNetClassifier", "SiameseResNetAge"]
Width = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class ParameterError(ValueError):
    """A parameter that is unknown, of the wrong type, out of range or contradictory."""


class Params(BaseModel):
    """Every parameter, with its type, range and meaning; notebooks state their own defaults."""

    model_config = ConfigDict(extra="forbid", validate_default=True, protected_namespaces=())

    run: str = Field("lab", min_length=1, description="folder below outputs/")
    data: str = Field(
        EMBEDDED, min_length=1, description="'embedded', a folder, an archive, or $UTKFACE"
    )
    n_faces: int = Field(400, ge=50, le=100_000, description="embedded faces to draw")
    seed: int = Field(42, ge=0, lt=2**31)
    show_faces: bool = Field(True, description="false hides every face and its file's name")
    image_size: int = Field(32, ge=16, le=512, description="pixels per side")

    duplicates: Literal["keep", "drop_conflicts", "drop_all_but_one"] = "keep"
    max_conflict: int = Field(5, ge=0, description="years; more leaves a group out of evaluation")
    train: int = Field(70, gt=0, lt=100, description="per cent of the faces")
    val: int = Field(20, gt=0, lt=100)
    test: int = Field(10, gt=0, lt=100)
    leaky: bool = Field(False, description="the seed's plain split, which lets duplicates leak")

    year_diff: int = Field(1, ge=1, description="least age difference of a pair, years")
    data_size: int | None = Field(None, description="training pairs; None or negative: all")
    duplicate_probability: float = Field(0.0, ge=0, le=1)
    unique_images: bool = False
    eval_pairs: int = Field(5000, ge=10, description="pairs of the seed's test protocol")

    backbone: str = "resnet18"
    weights: str | None = Field(None, description="torchvision's name of pretrained weights")
    hidden_layers: list[Width] = []
    use_dropout: bool = False
    dropout_prob: float = Field(0.3, ge=0, lt=1)
    symmetric: bool = Field(False, description="answer by both orders of the two faces")
    mirror: bool = Field(False, description="answer by a face and its mirror image")
    age_loss: Literal["mse", "distribution"] = Field("mse", description="of the age regressor")

    pairing: Literal["list", "batch"] = Field(
        "list", description="fixed list, or all pairs of a batch"
    )
    epochs: int = Field(3, ge=1)
    batch_size: int = Field(
        32, ge=2, description="pairs a step; faces a step where pairing is batch"
    )
    lr: float = Field(1e-3, gt=0, le=10)
    weight_decay: float = Field(0.0, ge=0)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    schedule: Literal["constant", "cosine"] = "constant"
    augment: Literal["none", "flip", "full"] = Field(
        "none", description="random changes of training faces: mirrored; and moved, lit, erased"
    )
    clip: float = Field(0.0, ge=0, description="largest norm of a step's gradient; 0: any")
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay a step of the weights' moving average; 0: none"
    )
    age_weight: float = Field(
        0.0, ge=0, description="weight of the age loss beside the pair loss; 0: none"
    )
    steps_per_epoch: int | None = Field(None, ge=1, description="None: all batches")
    patience: int = Field(5, ge=1, description="epochs without a better validation loss")
    precision: Literal["auto", "32", "bf16", "16"] = Field(
        "32", description="of training; auto: bf16 where the device computes in it, else 32"
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda|mps)$")
    devices: int = Field(1, ge=1, description="GPUs, or processes on a CPU, that share a batch")
    retrain: bool = Field(False, description="train anew although a finished model is there")

    compare_pairing: bool = Field(True, description="train with the other pairing too (04)")
    compare_leaky: bool = Field(False, description="train on a split that leaks too (04)")
    ablation_epochs: int | None = Field(
        None, ge=1, description="of these comparisons, all arms alike; None: epochs"
    )
    seeds: list[Seed] = Field([], description="other seeds to train the same again with (04, 05)")
    split_seeds: list[Seed] = Field([], description="other splits to train the same on (04)")

    regressor_epochs: int = Field(8, ge=1)
    regressor_batch_size: int = Field(32, ge=2)
    regressor_lr: float = Field(1e-3, gt=0, le=10)

    tune_models: list[PairModel] = ["SiameseResNet", "ResNetClassifier", "SiameseResNetAge"]
    num_samples: int = Field(2, ge=1, description="trials a model")
    max_num_epochs: int = Field(2, ge=1, description="epochs of a trial that is never stopped")
    tune_data_size: int = Field(400, ge=10, description="training pairs of a trial")
    search_space: dict[str, list] = Field({}, description="narrower choices or [low, high] ranges")
    cpus_per_trial: float = Field(1, gt=0)
    gpus_per_trial: float = Field(0, ge=0)
    searcher: Literal["random", "bayesian"] = Field("random", description="who draws the trials")
    best_epochs: int = Field(2, ge=1, description="of the best trial, trained from scratch")
    head_models: list[PairModel] = Field(
        ["SiameseResNetAge"], description="models whose hidden layers are compared over seeds"
    )
    head_seeds: int = Field(3, ge=1, description="seeds a choice of hidden layers")
    ray_address: str = Field(
        "local",
        pattern=r"^(local|auto|(ray://)?[\w.-]+:\d+)$",
        description="local, auto, host:port or ray://host:port",
    )

    photo_faces: int = Field(24, ge=10, description="test faces that are made into photos (09)")

    resamples: int = Field(1000, ge=100, description="bootstrap resamples of the faces")

    @model_validator(mode="after")
    def _known_network(self):
        from torchvision.models import get_model_weights

        from utkcmp.backbones import check_backbone

        check_backbone(self.backbone)
        known = [one.name for one in get_model_weights(self.backbone)]
        if self.weights is not None and self.weights not in [*known, "DEFAULT"]:
            raise ValueError(
                f"weights {self.weights!r} are not known for {self.backbone}: expected one of "
                f"{', '.join(known)}"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self):
        total = self.train + self.val + self.test
        if total != 100:
            raise ValueError(f"train + val + test is {total}, expected 100")
        return self


def check(values: Mapping[str, Any], source: str = "") -> Params:
    """Take the parameters among ``values`` (a notebook's ``globals()``, say) and check them.

    Names that are no parameters are ignored: use ``check_names`` for files. Raises ParameterError
    with one sentence for the first value of a wrong type or out of range.

    >>> check({"epochs": 3, "something_else": 1}).epochs
    3
    """
    known = {name: values[name] for name in Params.model_fields if name in values}
    try:
        return Params(**known)
    except ValidationError as error:
        raise ParameterError(_sentence(error.errors()[0], source)) from None


def check_names(names: Iterable[str], known: Iterable[str] = (), source: str = "") -> None:
    """Raise ParameterError at the first name that is not ``known``, with the nearest known one."""
    known = list(known) or list(Params.model_fields)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            hint = (
                f"did you mean '{near[0]}'?" if near else f"known are: {', '.join(sorted(known))}"
            )
            where = f" in {source}" if source else ""
            raise ParameterError(f"no notebook knows the parameter '{name}'{where}: {hint}")


def _sentence(error: dict, source: str) -> str:
    where = f" in {source}" if source else ""
    if not error["loc"]:
        return f"parameters{where}: {error['msg'].removeprefix('Value error, ')}"
    name = ".".join(map(str, error["loc"]))
    expected = error["msg"][0].lower() + error["msg"][1:]
    return f"parameter {name} = {error['input']!r}{where}: {expected}"


def load_file(path: str | Path) -> dict[str, Any]:
    """Read one parameter file: a flat YAML mapping. Raises ParameterError in one sentence."""
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(f"parameter file {path}: {error.strerror.lower()}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        raise ParameterError(f"parameter file {path}{at}: is not valid YAML") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ParameterError(f"parameter file {path}: expected 'name: value' lines")
    return values


def load_files(paths: Iterable[str | Path]) -> dict[str, Any]:
    """Read parameter files; a later one overrides an earlier one. Names and values are checked."""
    merged: dict[str, Any] = {}
    for path in paths:
        values = load_file(path)
        check_names(values, source=str(path))
        merged.update(values)
        check(merged, source=str(path))
    return merged


def parse_override(text: str) -> tuple[str, Any]:
    """Read ``name=value`` from a command line, the value as YAML.

    >>> parse_override("hidden_layers=[64, 32]")
    ('hidden_layers', [64, 32])
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ParameterError(f"expected name=value, got {text!r}")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ParameterError(f"the value in {text!r} is not valid YAML") from None


def data_source(params: Params) -> Path:
    """The folder or archive that ``data`` names; draws the embedded faces where it says so.

    Raises ParameterError if ``data`` holds an environment variable that is not set.
    """
    if params.data == EMBEDDED:
        from utkcmp.sample import draw_sample

        folder = outputs_root() / "cache" / f"embedded-{params.n_faces}-{params.seed}"
        return draw_sample(folder, n=params.n_faces, seed=params.seed)
    expanded = os.path.expandvars(params.data)
    if "$" in expanded:
        raise ParameterError(
            f"data is {params.data!r} but that variable is not set: give the faces by "
            "DATA=/path/to/UTKFace.tar.gz (a folder or an archive), or set UTKFACE"
        )
    return Path(expanded).expanduser()
