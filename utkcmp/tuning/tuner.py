"""The Ray Tune search over the course project's space.

Each trial trains by ``solver.fit`` with its own checkpoints and reports validation metrics after
every epoch; ASHA stops poor trials early (Li et al. 2020, "A System for Massively Parallel
Hyperparameter Tuning").
"""

import json
import math
import shutil
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import yaml

from utkcmp.data.datasets import RunData
from utkcmp.files import atomic, is_made_with, read_table, write_csv
from utkcmp.params import ParameterError, Params, check, load_files
from utkcmp.run import Run
from utkcmp.training.pair_counts import gains_by_seed
from utkcmp.training.solver import Fitted
from utkcmp.training.variants import fit_regressor, fit_variant, pairs_per_epoch, transfer_model
from utkcmp.tuning.cluster import beside_records
from utkcmp.tuning.trials import FIGURES, gather_data, run_trials

TRIAL_IDS = {"trial": str}  # hexadecimal: 52254193 and 1234e567 are not numbers
RANGES = {"lr": [1e-4, 1e-1], "weight_decay": [1e-6, 1e-2], "dropout_prob": [0.1, 0.7]}
CHOICES = {
    "batch_size": [4, 8, 16, 32, 64, 128],
    "hidden_layers": [[], [64, 32, 16], [128, 64, 32], [256, 128, 64], [512, 256, 128]],
    "use_dropout": [True, False],
    "resnet_type": ["resnet18", "resnet50"],
}
SEARCHED = sorted(RANGES | CHOICES)
COLUMNS = ["trial", *SEARCHED, "iter", "total_time", *FIGURES, "status"]
HEAD_COLUMNS = ["model", "hidden_layers", "seed", "iter", *FIGURES, "status"]


def space_table(narrower: dict[str, list]) -> pd.DataFrame:
    """The course project's space and this run's, one row per parameter."""
    rows = {}
    for name, full in (RANGES | CHOICES).items():
        drawn = "uniform" if name == "dropout_prob" else "log-uniform"
        shown = f"{name} ({'choice' if name in CHOICES else drawn})"
        rows[shown] = [str(full), str(narrower.get(name, full))]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["course project", "this run"])


def search_space(narrower: dict[str, list] | None = None) -> dict:
    """The course project's search space, or a narrower one, as Ray Tune domains.

    narrower: by name, [low, high] for lr, weight_decay and dropout_prob, a list of choices for
    the others. Widths are JSON strings, since Ray would search within a list.
    """
    from ray import tune

    space = RANGES | CHOICES | (narrower or {})
    space["hidden_layers"] = [json.dumps(widths) for widths in space["hidden_layers"]]
    for name in RANGES:
        draw = tune.uniform if name == "dropout_prob" else tune.loguniform
        space[name] = draw(*map(float, space[name]))
    return space | {name: tune.choice(space[name]) for name in CHOICES}


def search(model: str, run: Run, params: Params) -> pd.DataFrame:
    """Search one pair model's parameters; write and return ``tuning/<model>.csv``.

    One row per trial, the best first, with the metrics of the epoch with the best validation loss;
    ``status`` is "finished", "stopped early" or the reason for a failure. Also writes
    ``<model>_epochs.csv`` and ``<model>.yaml`` (see ``read_epochs``, ``write_best``). A finished
    search is read, an interrupted one resumed. Call inside ``ray_session``.
    """
    table, space = run.tuning(model), search_space(params.search_space)
    settings = _settings(model, run, params)
    if is_made_with(table, settings):
        return read_trials(table)
    trials, epochs = _run(table, settings, model, run, params, space, params.num_samples, asha=True)
    trials = trials.reindex(columns=COLUMNS).sort_values("loss", ignore_index=True)
    write_csv(epochs, run.tuning(f"{model}_epochs"))
    write_best(run, model, trials, params)
    write_csv(trials, table)
    return trials


def _run(table: Path, settings: dict, model, run, params, space: dict, count: int, asha: bool):
    """Run or resume the trials of one table; remove the records of searches with other settings."""
    local, name = run.folder / "tuning" / "ray", f"{table.stem}-{joblib.hash(settings)[:12]}"
    for other in local.glob(f"{table.stem}-*"):
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)
    storage = Path("~/.cache/utkcmp") if params.ray_address.startswith("ray://") else local
    data = gather_data(model, run, params, space["resnet_type"].categories)
    options = (model, params.model_dump(), space, str(storage / name))
    return beside_records(run_trials, data, *options, count, asha)


def read_trials(table: Path) -> pd.DataFrame:
    """A tuning table, with hidden layers as lists. Raises RunError if it is damaged."""
    options = {"converters": {"hidden_layers": json.loads}, "dtype": TRIAL_IDS}
    return read_table(table, ["hidden_layers", *FIGURES], FIGURES, **options)


def read_epochs(run: Run, model: str) -> pd.DataFrame:
    """Every epoch of a search: trial, epoch, seconds (since the first one ended) and metrics."""
    columns = ["trial", "epoch", "seconds", *FIGURES]
    return read_table(run.tuning(f"{model}_epochs"), columns, dtype=TRIAL_IDS)


def write_best(run: Run, model: str, trials: pd.DataFrame, params: Params) -> Path | None:
    """Write the best trial's parameters as a parameter file, ``tuning/<model>.yaml``.

    Add it to the run's own files to train that model in notebooks 04 to 06. None, and no file, if
    no trial has finished an epoch.
    """
    path = run.tuning(model).with_suffix(".yaml")
    ranked = trials.dropna(subset=["loss"]).sort_values("loss").to_dict("records")
    if not ranked:
        path.unlink(missing_ok=True)
        return None
    best, backbone = ranked[0], ranked[0]["resnet_type"]
    found = {name: best[name] for name in SEARCHED if name != "resnet_type"}
    found |= {"backbone": backbone, "weights": params.weights_of(backbone)}
    found["pairing"] = "list"  # as in the trials
    with atomic(path) as temporary:
        head = f"# The best of {len(trials)} trials of {model}: validation AUC {best['auc']:.4f}.\n"
        temporary.write_text(head + yaml.safe_dump(found, sort_keys=True), encoding="utf-8")
    return path


def read_best(path: Path) -> dict:
    """The parameters that ``write_best`` wrote. Raises ParameterError if the file is damaged."""
    found = load_files([path])
    if missing := sorted({*SEARCHED, "backbone"} - {"resnet_type", *found}):
        raise ParameterError(f"parameter file {path}: {missing[0]} is missing")
    return found


def retrain_best(model: str, run: Run, params: Params) -> Fitted | None:
    """Train from scratch with the best trial's parameters, on the run's own training pairs.

    The model, ``models/tuned_<model>``, is trained as in notebooks 04 to 06, for ``best_epochs`` or
    enough epochs to see as many pairs as a trial. None if no trial finished an epoch.
    """
    found = run.tuning(model).with_suffix(".yaml")
    if not found.exists():
        return None
    p, data = check(params.model_dump() | read_best(found), source=str(found)), RunData(run, params)
    longest = params.max_num_epochs * params.tune_data_size
    epochs = max(params.best_epochs, math.ceil(longest / pairs_per_epoch(data, p.batch_size)))
    network = model
    if model == "SiameseResNetAge":
        network = transfer_model(fit_regressor(data, run, p.backbone).model, p)
    data.params = p
    return fit_variant(f"tuned_{model}", run, data, network, epochs=epochs, patience=epochs)


def compare_heads(model: str, run: Run, params: Params) -> pd.DataFrame:
    """Train every choice of hidden layers with several seeds, otherwise as in the best trial.

    Writes and returns ``tuning/<model>_heads.csv``: model, hidden_layers, seed, iter, loss,
    accuracy, auc, status. A seed decides initial weights and the order of the pairs.
    Call inside ``ray_session``, after a ``search`` in which a trial has finished an epoch.
    """
    from ray import tune

    table = run.tuning(f"{model}_heads")
    best = read_best(run.tuning(model).with_suffix(".yaml"))
    heads = params.search_space.get("hidden_layers", CHOICES["hidden_layers"])
    seeds = [params.seed + number for number in range(params.head_seeds)]
    settings = _settings(model, run, params) | {"heads": heads, "seeds": seeds, "best": best}
    if is_made_with(table, settings):
        return read_trials(table)
    space = {name: best[name] for name in SEARCHED if name in best}
    space |= {"resnet_type": tune.choice([best["backbone"]])}
    widths = [json.dumps(head) for head in heads]
    space |= {"hidden_layers": tune.grid_search(widths), "seed": tune.grid_search(seeds)}
    rows, _ = _run(table, settings, model, run, params, space, len(heads) * len(seeds), asha=False)
    rows = rows.assign(model=model, units=rows.hidden_layers.map(sum))
    rows = rows.sort_values(["units", "seed"], ignore_index=True).reindex(columns=HEAD_COLUMNS)
    write_csv(rows, table)
    return rows


def beside_trials(
    best: dict[str, pd.Series], fitted: dict[str, Fitted], run: Run, params: Params
) -> pd.DataFrame:
    """The best trials beside their retrained models: validation AUC and training pairs.

    best: rows of the tuning tables; fitted: from ``retrain_best``; both by model. Returns, by
    model, trial and retrained (AUC), ``pairs, trial`` and ``pairs, retrained``, counting
    repetitions.
    """
    data, rows = RunData(run, params), {}
    for model, trial in best.items():
        again, seen = fitted[model], pairs_per_epoch(data, int(trial.batch_size))
        rows[model] = {"trial": trial.auc, "retrained": again.best.val_auc}
        rows[model]["pairs, trial"] = int(trial["iter"]) * params.tune_data_size
        rows[model]["pairs, retrained"] = len(again.history) * seen
    return pd.DataFrame.from_dict(rows, orient="index")


def compare_all_heads(run: Run, params: Params) -> pd.DataFrame:
    """``compare_heads`` of each of ``head_models`` that was searched with success; may be empty."""
    found = [name for name in params.head_models if name in params.tune_models]
    found = [name for name in found if run.tuning(name).with_suffix(".yaml").exists()]
    empty = pd.DataFrame(columns=HEAD_COLUMNS)
    return pd.concat([compare_heads(name, run, params) for name in found]) if found else empty


def head_differences(heads: pd.DataFrame) -> pd.DataFrame:
    """AUC of each head minus that without hidden layers, paired by seed, with a 95% t interval.

    heads: rows of ``compare_heads``. Returns model, hidden_layers (str), seeds, auc and auc_without
    (means), difference, low, high. The interval covers initial weights and the order of the pairs,
    not the choice of faces; NaN for a single seed.
    """
    tables = [gains_by_seed(pd.DataFrame()).assign(model="")]
    for model, some in heads.groupby("model", sort=False):
        auc = some.assign(head=some.hidden_layers.astype(str)).pivot_table(
            index="seed", columns="head", values="auc", sort=False
        )
        if "[]" in auc:
            auc.insert(0, "[]", auc.pop("[]"))
            tables.append(gains_by_seed(auc).assign(model=model))
    found = pd.concat(tables[1:] or tables)
    found = found.rename(columns={"arm": "hidden_layers", "auc_first": "auc_without"})
    return found[["model", *found.columns.drop("model")]].reset_index(drop=True)


def parameter_importance(
    trials: pd.DataFrame, shuffles: int = 40, trees: int = 100, seed: int = 42
) -> pd.DataFrame:
    """The importance of each parameter to a random forest that predicts the trials' AUC.

    trials: rows of tuning tables with a column ``model``, whose mean AUC is subtracted first.
    Returns, by parameter, importance (impurity-based, sums to 1) and chance, the 95th percentile of
    the importance with shuffled AUCs (Altmann et al. 2010, "Permutation importance: a corrected
    feature importance measure"). Empty for fewer than 5 trials.
    """
    from sklearn.ensemble import RandomForestRegressor

    known = trials.dropna(subset=["auc"])
    if len(known) < 5:
        return pd.DataFrame(columns=["importance", "chance"])
    target = (known.auc - known.groupby("model").auc.transform("mean")).to_numpy()
    numbers = np.log10(known[["lr", "weight_decay", "batch_size"]])
    numbers["hidden_layers"] = [sum(json.loads(str(widths))) for widths in known.hidden_layers]
    numbers["dropout_prob"] = known.dropout_prob.where(known.use_dropout.astype(bool), 0.0)
    numbers["resnet_type"] = known.resnet_type.eq("resnet50").astype(float)
    rng = np.random.default_rng(seed)

    def importance(values):
        forest = RandomForestRegressor(trees, min_samples_leaf=2, random_state=seed)
        return forest.fit(numbers, values).feature_importances_

    chance = [importance(rng.permutation(target)) for _ in range(shuffles)]
    found = {"importance": importance(target), "chance": np.quantile(chance, 0.95, axis=0)}
    named = pd.DataFrame(found, index=numbers.columns)
    return named.sort_values("importance", ascending=False)


def _settings(model: str, run: Run, params: Params) -> dict:
    names = "seed image_size num_samples max_num_epochs tune_data_size searcher search_space "
    names += "year_diff duplicates unique_images duplicate_probability eval_pairs precision "
    names += "optimizer schedule augment clip ema age_weight age_loss mirror symmetric backbone "
    names += "weights backbone_lr patience regressor_epochs regressor_batch_size regressor_lr"
    faces = run.read_faces()
    chosen = {name: getattr(params, name) for name in names.split()}
    return {"model": model, "faces": pd.util.hash_pandas_object(faces).sum().item(), **chosen}
