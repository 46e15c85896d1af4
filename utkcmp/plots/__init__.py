"""Figures: every function takes arrays or tables and returns a matplotlib Figure."""

import lazy_loader

DATA = "age_histogram ages_by_group conflict_histogram gap_difficulty split_ages split_shares"
EVALUATION = "accuracy_by_gap age_heat_map calibration_curves coverage_curves differences "
EVALUATION += "mean_saliency predicted_ages roc_curves score_scatter slice_intervals"
TRAINING = "arms auc_by_pairs curves_beside epoch_table learning_curves resumed_curves"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "book": ["results_at_a_glance"],
        "data": DATA.split(),
        "evaluation": EVALUATION.split(),
        "style": ["face_tiles", "pair_tiles", "use_style"],
        "training": TRAINING.split(),
        "tuning": ["head_intervals", "importance_bars", "trials_over_time", "tuning_slices"],
    },
)
