"""The hyper-parameter search on Ray Tune."""

import lazy_loader

TUNER = "beside_trials compare_all_heads head_differences parameter_importance read_epochs "
TUNER += "retrain_best search space_table"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"cluster": ["ray_session"], "tuner": TUNER.split()}
)
