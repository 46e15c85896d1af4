"""Training with Lightning, its variants, and controlled experiments."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "experiments": [
            "STEADY",
            "architectures",
            "faults",
            "hidden_layers",
            "ladder",
            "read_experiment",
        ],
        "pair_counts": ["fit_pair_counts", "pair_count_gains"],
        "settings": ["DivergedError", "Settings"],
        "solver": ["Fitted", "fit"],
        "variants": [
            "faces_per_epoch",
            "fit_pretrained",
            "fit_regressor",
            "fit_variant",
            "frozen_features",
            "repeat",
            "transfer_model",
        ],
    },
)
