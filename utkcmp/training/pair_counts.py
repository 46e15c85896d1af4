"""How many training pairs are enough? A head on frozen features, trained on lists of pairs."""

import copy
import shutil

import numpy as np
import pandas as pd
from scipy.stats import t as student
from torch import Tensor, nn

from utkcmp.data.datasets import RunData
from utkcmp.data.pairs import AllPairs
from utkcmp.files import is_made_with, read_table, write_csv
from utkcmp.run import Run
from utkcmp.training.settings import Settings
from utkcmp.training.solver import digest, fit
from utkcmp.training.variants import transfer_model

EVERY_PAIR = "all"  # of each batch of faces
EPOCHS = 5  # of each training
COLUMNS = ["pairs", "seed", "val_auc"]


def fit_pair_counts(
    run: Run, data: RunData, regressor: nn.Module, features: Tensor
) -> pd.DataFrame:
    """Train the head with each of ``pair_counts`` pairs, and with every pair of a batch of faces.

    regressor: the trained age regressor; features: as from ``frozen_features``. Counts are limited
    to the pairs that exist. Each of ``head_seeds`` seeds decides which pairs are drawn, their order
    and the initial weights. All trainings take as many steps, EPOCHS times the batches of the
    largest count (or more, with ``steps_per_epoch``), without early stopping. Writes and returns
    ``repeats/transfer_pairs.csv``, one row per training: pairs (text, a count or ``EVERY_PAIR``),
    seed, val_auc (of the epoch with the best validation loss). Rows made with the same settings and
    data are reused, so an interrupted call resumes; the trained heads are not kept.
    """
    p = data.params
    rows, val = data.rows("train"), data.pairs("val")
    possible = AllPairs(data.ages.numpy()[rows], p.year_diff).possible(p.unique_images)
    counts = sorted({min(count, possible) for count in p.pair_counts})
    steps = max(p.steps_per_epoch or 1, counts[-1] // p.batch_size)  # an epoch sees them all
    changes = {"epochs": EPOCHS, "patience": EPOCHS, "steps_per_epoch": steps}
    settings = Settings.of(p, **changes, retrain=True)  # a head alone cannot be read back
    how = {"unique_images": p.unique_images, "duplicate_probability": p.duplicate_probability}
    asked = settings.stored() | how | {"counts": counts, "head_seeds": p.head_seeds}
    asked["data"] = digest(data, rows, val, features.numpy())
    asked |= transfer_model(regressor, p).config
    path, folder = run.repeats("transfer_pairs"), run.model("transfer_pairs")
    if p.retrain:
        path.unlink(missing_ok=True)
    made = is_made_with(path, asked)
    found = read_table(path, COLUMNS, dtype={"pairs": str}).to_dict("records") if made else []
    done = {(row["pairs"], row["seed"]) for row in found}
    for seed in range(p.seed, p.seed + p.head_seeds):
        for pairs in (*map(str, counts), EVERY_PAIR):
            if (pairs, seed) in done:
                continue
            train = rows
            if pairs != EVERY_PAIR:
                drawn = copy.copy(data)
                drawn.params = p.model_copy(update={"data_size": int(pairs), "seed": seed})
                train = drawn.pairs("train")
            # Repeated, so that all epochs have the same steps.
            again = np.arange(max(steps * p.batch_size, len(train))) % len(train)
            model = transfer_model(regressor, p.model_copy(update={"seed": seed}))
            model.regressor = nn.Identity()  # so that checkpoints hold the head alone
            given = {"train": train[again], "val": val, "folder": folder, "features": features}
            fitted = fit(model, data, settings.model_copy(update={"seed": seed}), **given)
            found.append({"pairs": pairs, "seed": seed, "val_auc": fitted.best.val_auc})
            write_csv(pd.DataFrame(found), path)
    shutil.rmtree(folder, ignore_errors=True)
    return pd.DataFrame(found, columns=COLUMNS)


def pair_count_gains(table: pd.DataFrame) -> pd.DataFrame:
    """Validation AUC of each number of pairs minus that of the fewest, paired by seed.

    table: as from ``fit_pair_counts``. Returns pairs, fewest, seeds, auc and auc_fewest (means),
    difference, low, high (a 95% t interval over what a seed decides, NaN for a single one).

    >>> aucs = {"pairs": ["50", "all"] * 2, "seed": [1, 1, 2, 2], "val_auc": [0.7, 0.8, 0.7, 0.9]}
    >>> pair_count_gains(pd.DataFrame(aucs))[["pairs", "seeds", "difference"]].round(2).values
    array([['all', 2, 0.15]], dtype=object)
    """
    names = list(dict.fromkeys(table.pairs))
    auc = table.pivot(index="seed", columns="pairs", values="val_auc").reindex(columns=names)
    gains = gains_by_seed(auc).rename(columns={"arm": "pairs", "auc_first": "auc_fewest"})
    gains.insert(1, "fewest", names[0])
    return gains


def gains_by_seed(auc: pd.DataFrame) -> pd.DataFrame:
    """AUC of each column minus that of the first, paired by seed, with a 95% t interval.

    auc: one row per seed. Returns arm (the column), seeds, auc and auc_first (means), difference,
    low, high; the interval is NaN for a single seed.
    """
    rows = []
    for name in auc.columns[1:]:
        gain = (auc[name] - auc.iloc[:, 0]).dropna()
        half, middle = student.ppf(0.975, len(gain) - 1) * gain.sem(), gain.mean()
        means = auc[name].mean(), auc.iloc[:, 0].mean(), middle
        rows.append([name, len(gain), *means, middle - half, middle + half])
    columns = ["arm", "seeds", "auc", "auc_first", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)
