"""Faces and pairs: reading, decoding, splitting, pairing."""

import lazy_loader

SPLIT = "SPLITS age_shares earlier_split keep_for_evaluation leaked_faces parted_pictures "
SPLIT += "split_faces write_split"
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "archives": ["data_source"],
        "datasets": ["RunData", "UTKAgeDataset", "UTKDataset"],
        "decode": ["decode"],
        "drawing": ["StandIns"],
        "image_cache": ["cache_images"],
        "index": "ETHNICITIES GENDERS fingerprint index_faces read_crops shown_files".split(),
        "pairs": ["AllPairs", "Pairs", "chance_right", "sample_pairs"],
        "split": SPLIT.split(),
    },
)
