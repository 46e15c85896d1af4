"""Training with Lightning, its variants, and controlled experiments."""

import lazy_loader

EXPERIMENTS = "STEADY architectures course_recipes faults hidden_layers ladder read_experiment"
VARIANTS = "faces_per_epoch fit_pretrained fit_regressor fit_variant frozen_features repeat "
VARIANTS += "transfer_model"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "experiments": EXPERIMENTS.split(),
        "pair_counts": ["fit_pair_counts", "pair_count_gains"],
        "settings": ["DivergedError", "Settings"],
        "solver": ["Fitted", "fit"],
        "variants": VARIANTS.split(),
    },
)
