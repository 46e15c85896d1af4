"""Two photos in, who is older out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "alignment": ["find_faces"],
        "answers": ["BAND", "compare", "compare_many", "put_in_order"],
        "figures": ["alignment_figure", "comparison_figure", "order_figure", "robustness_curves"],
        "photos": ["only_face"],
        "predictor": ["Predictor", "calibrate_models"],
        "robustness": ["path_difference", "photos_of", "robustness_table", "through_photos"],
        "widget": ["upload_widget"],
    },
)
