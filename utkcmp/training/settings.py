"""What a training does with its model and data, as one object."""

from dataclasses import asdict, dataclass, fields

from utkcmp.params import Params, check, check_names

HOW = ("device", "retrain", "show_faces")  # settings that decide nothing about the weights


class DivergedError(ArithmeticError):
    """The training or the validation loss is no longer a finite number."""


@dataclass(frozen=True)
class Settings:
    """The settings of a training; ``Params`` has their meaning, ranges and defaults.

    What data a batch is of depends on what ``fit`` is given to train on.

    >>> Settings.of(epochs=3, lr=0.1).epochs
    3
    """

    epochs: int
    batch_size: int
    lr: float
    backbone_lr: float
    weight_decay: float
    optimizer: str
    schedule: str
    augment: str
    clip: float
    ema: float
    age_weight: float
    steps_per_epoch: int | None
    patience: int
    precision: str
    devices: int
    seed: int
    year_diff: int
    device: str
    retrain: bool
    show_faces: bool

    @classmethod
    def of(cls, params: Params | None = None, **changes) -> "Settings":
        """Those of ``params`` (by default, the defaults), but for ``changes``.

        Raises ParameterError for a change of an unknown name or of a value out of range.
        """
        names = [field.name for field in fields(cls)]
        check_names(changes, names)
        checked = check((params or Params()).model_dump() | changes)
        return cls(**{name: getattr(checked, name) for name in names})

    def stored(self) -> dict:
        """What decides the weights, as a model's config.json keeps it."""
        return {name: value for name, value in asdict(self).items() if name not in HOW}
