"""The same configuration again, with other seeds and on other splits: how much was luck?"""

import copy

import numpy as np
import pandas as pd

from utkcmp.comparison import FOLDERS
from utkcmp.datasets import RunData
from utkcmp.evaluation import Evaluated, evaluate_pairs
from utkcmp.run import Run, read_table, write_csv
from utkcmp.split import split_faces
from utkcmp.training import fit_variant

METRICS = ["accuracy", "auc"]


def repeat(name: str, run: Run, data: RunData, own: list[Evaluated]) -> pd.DataFrame:
    """Train a model again with each of ``seeds`` and on each of ``split_seeds``, and test it.

    name: of a pair model, as in results.csv; own: its test results in this run, which are the first
    of each series. A seed decides the initial weights and the order of the batches; a split seed
    which faces are trained and tested on, with the run's own seed otherwise. Models lie beside the
    run's own, as ``<folder>_seed<k>`` and ``<folder>_split<k>``, and are trained once. Writes and
    returns ``repeats/<folder>.csv``, one row a training and protocol: model, varied (own, seed or
    split), seed, protocol, n_pairs, accuracy, auc.
    """
    p, folder = data.params, FOLDERS[name]
    rows = _rows("own", p.seed, own)
    for seed in dict.fromkeys(p.seeds):
        if seed != p.seed:
            rows += _again(name, f"{folder}_seed{seed}", run, data, seed=seed)
    for seed in dict.fromkeys(p.split_seeds):
        if seed != p.seed:
            found = _again(name, f"{folder}_split{seed}", run, other_split(data, seed))
            rows += [row | {"varied": "split", "seed": seed} for row in found]
    table = pd.DataFrame(rows)
    write_csv(table, run.repeats(folder))
    return table


def _rows(varied: str, seed: int, results: list[Evaluated]) -> list[dict]:
    names = ["model", "protocol", "n_pairs", *METRICS]
    chosen = [one.row for one in results if one.row["split"] == "test"]
    return [
        {"varied": varied, "seed": seed} | {name: row[name] for name in names} for row in chosen
    ]


def _again(name: str, folder: str, run: Run, data: RunData, seed: int | None = None) -> list[dict]:
    seed = data.params.seed if seed is None else seed
    fitted = fit_variant(folder, run, data, name, seed=seed)
    resamples = data.params.resamples
    return _rows("seed", seed, evaluate_pairs(name, fitted.model, data, "test", resamples))


def other_split(data: RunData, seed: int) -> RunData:
    """The same faces, parted into training, validation and test by another seed."""
    p, other = data.params, copy.copy(data)
    other.faces = data.faces.assign(split=split_faces(data.faces, p.train, p.val, p.test, seed))
    return other


def read_repeats(run: Run) -> pd.DataFrame:
    """The rows of all models' repeated trainings; empty if there are none."""
    columns = ["varied", "seed", "model", "protocol", "n_pairs", *METRICS]
    paths = [path for path in map(run.repeats, sorted(FOLDERS.values())) if path.exists()]
    tables = [read_table(path, columns) for path in paths]
    return pd.concat(tables) if tables else pd.DataFrame(columns=columns)


def spreads(repeats: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread of repeated trainings, the run's own among them.

    repeats: rows as ``repeat`` makes them. One row a model, protocol and what was varied (seed or
    split), where something was: trainings, and of accuracy and AUC the mean, ``_sd`` (standard
    deviation between trainings, n - 1), ``_least`` and ``_most``.
    """
    rows = []
    for varied in ("seed", "split"):
        chosen = repeats[repeats.varied.isin(["own", varied])]
        for (model, protocol), some in chosen.groupby(["model", "protocol"], sort=False):
            if len(some) > 1:
                row = {"model": model, "protocol": protocol, "varied": varied}
                row["trainings"] = len(some)
                for metric in METRICS:
                    values = some[metric].to_numpy(np.float64)
                    row |= {metric: values.mean(), f"{metric}_sd": values.std(ddof=1)}
                    row |= {f"{metric}_least": values.min(), f"{metric}_most": values.max()}
                rows.append(row)
    columns = ["model", "protocol", "varied", "trainings"]
    kinds = [f"{metric}{kind}" for metric in METRICS for kind in ("", "_sd", "_least", "_most")]
    return pd.DataFrame(rows, columns=columns + kinds)


def over_seeds(table: pd.DataFrame, metric: str = "auc", protocol: str = "seed") -> pd.Series:
    """Mean and standard deviation over seeds as text, by model: ``0.871 ± 0.004 (3)``.

    table: as from ``spreads``; in brackets the number of trainings.
    """
    some = table[(table.varied == "seed") & (table.protocol == protocol)]
    texts = [
        f"{row[metric]:.3f} ± {row[f'{metric}_sd']:.3f} ({row['trainings']})"
        for row in some.to_dict("records")
    ]
    return pd.Series(texts, index=some.model.to_numpy(), dtype=str)
