"""The alternative to training: a published age estimator, applied to both faces."""

import numpy as np

from utkcmp import models
from utkcmp.data.datasets import RunData
from utkcmp.params import FACERES
from utkcmp.run import faceres_weights

SIZE = 160  # pixels per side
MEASURED = 500  # validation faces, at most, used to estimate its error
ABSENT = (
    "No published estimator stands beside these models, since its weights are not on this machine: "
    "`make weights` fetches them, and the next `make report` asks it about the same faces."
)


def load_peer(data: RunData) -> models.AgeComparison | None:
    """HSE-FaceRes with its own age head, not trained here, as a pair model.

    It predicts the expected age from a face of 160 pixels and its mirror image; see
    ``models/weights.py`` for its training data. The pair model compares the ages, its confidence
    following from its error on validation faces. None if its weights are not on this machine.
    """
    if not faceres_weights().exists():
        return None
    options = {"backbone": FACERES, "weights": FACERES, "age_loss": "distribution"}
    options |= {"mirror": True, "image_size": SIZE}
    regressor = models.build_model("ResNetAgeRegressor", **options).eval()
    rows = data.rows("val")
    rows = rows[:: -(-len(rows) // MEASURED)]
    stated = models.predict_ages(regressor, data.images_for(regressor), rows)
    wrong = stated - data.ages.numpy()[rows]
    return models.AgeComparison(regressor, float(np.sqrt((wrong**2).mean()))).eval()
