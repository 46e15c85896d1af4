"""Training on Lightning, and what a run trains beside its main models."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "pair_counts": ["fit_pair_counts", "pair_count_gains"],
        "settings": ["DivergedError", "Settings"],
        "solver": ["Fitted", "fit"],
        "variants": [
            "fit_larger",
            "fit_other_pairing",
            "fit_regressor",
            "fit_variant",
            "frozen_features",
            "leak_contrast",
            "over_seeds",
            "plainly_split",
            "read_repeats",
            "repeat",
            "spreads",
            "transfer_model",
        ],
    },
)
