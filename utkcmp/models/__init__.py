"""Networks: construction, storage, inference."""

import lazy_loader

INFERENCE = "MEAN STD apply_rows compared_logits contributions embeds_once pair_logits "
INFERENCE += "predict_ages to_float"
NETWORKS = "AgeComparison AgeRanker RankingAgeRegressor ResNetAgeRegressor ResNetClassifier "
NETWORKS += "SiameseResNet SiameseResNetAge build_model"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "inference": INFERENCE.split(),
        "networks": NETWORKS.split(),
        "storage": ["load_model", "read_config", "read_history", "save_model"],
    },
)
