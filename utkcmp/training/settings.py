"""The settings of a training, as one object."""

from dataclasses import asdict, dataclass, fields

from utkcmp.params import Params, check, check_names

HOW = ("device", "retrain", "show_faces")  # settings that do not affect the weights


class DivergedError(ArithmeticError):
    """The training or the validation loss is no longer a finite number."""


@dataclass(frozen=True)
class Settings:
    """The settings of a training; see ``Params`` for their meaning, ranges and defaults.

    ``batch_size`` counts pairs or faces, whichever ``fit`` trains on.

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
        """The settings in ``params`` or the defaults, with ``changes``.

        Raises ParameterError for an unknown name or an invalid value.
        """
        names = [field.name for field in fields(cls)]
        check_names(changes, names)
        checked = check((params or Params()).model_dump() | changes)
        return cls(**{name: getattr(checked, name) for name in names})

    def stored(self) -> dict:
        """The settings that affect the weights, as stored in a model's config.json."""
        return {name: value for name, value in asdict(self).items() if name not in HOW}
