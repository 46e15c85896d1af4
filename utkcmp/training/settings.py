"""The settings of a training: the parameters that ``solver.fit`` heeds."""

from utkcmp.params import Params, check, check_names

STORED = """
epochs batch_size lr backbone_lr weight_decay optimizer schedule augment clip ema age_weight
steps_per_epoch patience precision devices seed year_diff
""".split()
HOW = ["device", "retrain", "show_faces"]  # settings that do not affect the weights


class DivergedError(ArithmeticError):
    """The training or the validation loss is no longer a finite number."""


class Settings(Params):
    """Parameters, of which a training heeds those in STORED and HOW.

    ``batch_size`` counts pairs or faces, whichever ``fit`` trains on.

    >>> Settings.of(epochs=3, lr=0.1).epochs
    3
    """

    @classmethod
    def of(cls, params: Params | None = None, **changes) -> "Settings":
        """The settings in ``params`` or the defaults, with ``changes``.

        Raises ParameterError for an unknown name or an invalid value.
        """
        check_names(changes, STORED + HOW)
        checked = check((params or Params()).model_dump() | changes)
        return cls(**checked.model_dump())

    def stored(self) -> dict:
        """The settings that affect the weights, as stored in a model's config.json."""
        return {name: getattr(self, name) for name in STORED}
