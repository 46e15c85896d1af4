"""Running the notebooks and building the report from them."""

import lazy_loader

FROM_SENTENCES = """
FACERES_ORIGIN counted describe_ages_compared describe_calibration describe_ceiling describe_chosen
describe_claims describe_coverage describe_difference describe_differences describe_evidence
describe_experiment describe_faults describe_gaps describe_heads describe_history
describe_importance describe_mistakes describe_pair_counts describe_path describe_rates
describe_reproduced describe_result describe_retrained describe_robustness
describe_siamese_or_concat describe_slices describe_symmetry describe_transfer interval signed
verdict
"""
REPORTED = """
beside_recipes beside_reported reported_curve reported_results reported_test reported_tuning
"""
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "course_project": REPORTED.split(),
        "sentences": FROM_SENTENCES.split(),
        "tables": ["shown_table", "shown_trials"],
    },
)
