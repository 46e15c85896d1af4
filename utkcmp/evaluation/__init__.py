"""What a model's answers are worth."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bootstrap": [
            "intervals",
            "paired_differences",
            "part_accuracy",
            "sample_scatter",
            "seed_difference",
        ],
        "calibration": [
            "calibration_error",
            "circular_share",
            "coverage_curve",
            "fit_temperature",
            "reliability",
        ],
        "ensembles": ["make_ensemble"],
        "errors": ["recurring_faces", "shared_errors", "suspect_faces"],
        "label_noise": ["noise_ceiling"],
        "metrics": ["age_metrics", "pair_metrics"],
        "peers": ["ABSENT", "load_peer"],
        "registry": [
            "ABLATIONS",
            "ENSEMBLE",
            "MEMBERS",
            "PEER",
            "choose_model",
            "compare_ages",
            "load_models",
            "head_trainings",
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
