"""What a model's answers are worth."""

import lazy_loader

CALIBRATION = "calibration_error circular_share coverage_curve fit_temperature reliability"
REGISTRY = "ABLATIONS ABSENT ENSEMBLE MEMBERS PEER choose_model compare_ages head_trainings "
REGISTRY += "load_models load_peer make_ensemble model_costs"
RESULTS = "age_table all_answers answers_to evaluate_pairs mistakes results_table validate_and_test"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bootstrap": ["intervals", "paired_differences", "part_accuracy", "seed_difference"],
        "calibration": CALIBRATION.split(),
        "errors": ["recurring_faces", "shared_errors", "suspect_faces"],
        "label_noise": ["noise_ceiling"],
        "metrics": ["age_metrics", "pair_metrics"],
        "registry": REGISTRY.split(),
        "results": RESULTS.split(),
        "saliency": ["saliency"],
        "slices": ["age_grid", "gap_parts", "slice_table"],
    },
)
