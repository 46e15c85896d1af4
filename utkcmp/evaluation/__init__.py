"""What a model's answers are worth."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bootstrap": ["intervals", "paired_differences", "part_accuracy", "seed_difference"],
        "calibration": [
            "calibration_error",
            "circular_share",
            "coverage_curve",
            "fit_temperature",
            "reliability",
        ],
        "errors": ["recurring_faces", "shared_errors", "suspect_faces"],
        "label_noise": ["noise_ceiling"],
        "metrics": ["age_metrics", "pair_metrics"],
        "registry": [
            "ABLATIONS",
            "ABSENT",
            "ENSEMBLE",
            "MEMBERS",
            "PEER",
            "choose_model",
            "compare_ages",
            "head_trainings",
            "load_models",
            "load_peer",
            "make_ensemble",
            "model_costs",
        ],
        "results": [
            "age_table",
            "all_answers",
            "answers_to",
            "evaluate_pairs",
            "mistakes",
            "results_table",
            "validate_and_test",
        ],
        "saliency": ["saliency"],
        "slices": ["age_grid", "gap_parts", "slice_table"],
    },
)
