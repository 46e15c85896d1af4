"""What a model's answers are worth."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bootstrap": ["intervals", "paired_differences"],
        "calibration": [
            "calibration_error",
            "coverage_curve",
            "cyclic_share",
            "fit_temperature",
            "random_triples",
            "reliability",
        ],
        "ensembles": ["ENSEMBLE", "make_ensemble", "members_of"],
        "label_noise": ["noise_ceiling"],
        "metrics": ["age_metrics", "pair_metrics"],
        "peers": ["ABSENT", "PEER", "load_peer"],
        "registry": [
            "choose_model",
            "compare_ages",
            "head_trainings",
            "larger_name",
            "load_models",
            "model_costs",
            "trials",
        ],
        "results": [
            "age_table",
            "all_answers",
            "answers_to",
            "circle_answers",
            "evaluate_pairs",
            "mistakes",
            "results_table",
            "validate_and_test",
        ],
        "saliency": ["saliency"],
        "slices": ["age_grid", "slice_table"],
    },
)
