"""The same model trained with one thing changed, for the claims that need a comparison."""

import copy

import pandas as pd

from utkcmp.datasets import RunData
from utkcmp.evaluation import Evaluated
from utkcmp.inference import pair_metrics
from utkcmp.run import Run
from utkcmp.solver import Fitted
from utkcmp.split import split_faces
from utkcmp.training import fit_variant


def fit_other_pairing(run: Run, data: RunData, epochs: int) -> Fitted:
    """Train the Siamese model with the pairing that the run does *not* use, at the same cost.

    A step embeds as many faces, 2 a pair of the fixed list, and there are as many steps as in
    ``epochs`` epochs of the run's own training. No early stopping.
    """
    p, rows, pairs = data.params, data.rows("train"), data.pairs("train")
    if p.pairing == "batch":
        train, size = pairs, p.batch_size // 2
        steps = min(p.steps_per_epoch or len(rows), len(rows) // min(p.batch_size, len(rows)))
    else:
        train, size = rows, 2 * p.batch_size
        own_steps = len(pairs) // min(p.batch_size, len(pairs))
        own_steps = min(p.steps_per_epoch or own_steps, own_steps)
        steps = max(1, len(rows) // min(size, len(rows)))
        epochs = max(1, round(epochs * own_steps / steps))
    changes = {"train": train, "batch_size": size, "steps_per_epoch": steps, "epochs": epochs}
    return fit_variant("siamese_other_pairing", run, data, patience=epochs, **changes)


def plainly_split(data: RunData) -> RunData:
    """The same faces in the course project's plain split, in which duplicates leak."""
    p, leaky = data.params, copy.copy(data)
    split = split_faces(data.faces, p.train, p.val, p.test, p.seed, leaky=True)
    leaky.faces = data.faces.assign(split=split)
    return leaky


def leak_contrast(one: Evaluated, data: RunData) -> pd.DataFrame:
    """Accuracy and AUC on all test pairs with and without a face whose picture was trained on.

    one: all-pairs answers of a model trained on ``data``. One row each, with the number of pairs.
    """
    faces = data.faces
    known = faces.group.isin(faces.group[faces.split == "train"]).to_numpy()
    some = known[one.pairs.left] | known[one.pairs.right]
    rows = {}
    for name, chosen in (("a face trained on", some), ("only new faces", ~some)):
        pairs = one.pairs[chosen]
        rows[name] = {"pairs": len(pairs)}
        if len(pairs):
            rows[name] |= pair_metrics(one.logits[chosen], pairs.label)
    return pd.DataFrame.from_dict(rows, orient="index")
