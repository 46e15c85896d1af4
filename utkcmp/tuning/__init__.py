"""The hyper-parameter search on Ray Tune."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cluster": ["ray_session"],
        "tuner": [
            "beside_trials",
            "compare_all_heads",
            "space_table",
            "head_differences",
            "parameter_importance",
            "read_epochs",
            "retrain_best",
            "search",
        ],
    },
)
