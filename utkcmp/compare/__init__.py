"""Two photos in, who is older out."""

import os

import lazy_loader

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # must be set before onnxruntime is first imported
BAND = 0.6  # below this confidence, at least four in ten answers are wrong: too close to call
MEASURES = "calibrate_models path_difference photos_of robustness_table through_photos"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "alignment": ["find_faces"],
        "answers": ["compare", "compare_many", "files_of", "load", "put_in_order"],
        "figures": ["alignment_figure", "comparison_figure", "order_figure", "robustness_curves"],
        "photos": ["NoAnswerError", "PhotoError", "only_face"],
        "predictor": ["Predictor"],
        "robustness": MEASURES.split(),
        "widget": ["upload_widget"],
    },
)
