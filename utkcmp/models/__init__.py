"""Networks: construction, storage, inference."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "inference": [
            "MEAN",
            "STD",
            "apply_rows",
            "compared_logits",
            "contributions",
            "embeds_once",
            "pair_logits",
            "predict_ages",
            "to_float",
        ],
        "networks": [
            "AgeComparison",
            "AgeRanker",
            "RankingAgeRegressor",
            "ResNetAgeRegressor",
            "ResNetClassifier",
            "SiameseResNet",
            "SiameseResNetAge",
            "build_model",
        ],
        "storage": ["load_model", "read_config", "read_history", "save_model"],
    },
)
