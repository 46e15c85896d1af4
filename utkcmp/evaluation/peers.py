"""What a user would take instead of training: a published age estimator, asked for both ages."""

import numpy as np

from utkcmp import models
from utkcmp.data.datasets import RunData
from utkcmp.params import FACERES
from utkcmp.run import faceres_weights

SIZE = 160  # pixels per side
MEASURED = 500  # validation faces, at most, that its error is estimated on
ABSENT = (
    "No published estimator stands beside these models, since its weights are not on this machine: "
    "`make weights` fetches them, and the next `make report` asks it about the same faces."
)


def load_peer(data: RunData) -> models.AgeComparison | None:
    """HSE-FaceRes with its own age head, never trained here, as a pair model.

    It states the expected age of a face of 160 pixels and of its mirror image; see
    ``models/weights.py`` on what it learnt from. As a pair model it answers by the ages, with the
    confidence that its error on validation faces gives. None if its weights are not here.
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
