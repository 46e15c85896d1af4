"""The trials of a search, on Ray.

Ray copies the faces once to each machine, whose trials read them from shared memory, so no shared
disk is needed. If a trial fails, the reason is recorded; if its machine is lost, it is restarted.
"""

import json
import math
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from utkcmp.data.datasets import RunData
from utkcmp.data.pairs import Pairs
from utkcmp.models.inference import apply_rows
from utkcmp.models.networks import build_model
from utkcmp.params import Params, check
from utkcmp.run import Run
from utkcmp.training.settings import DivergedError, Settings
from utkcmp.training.solver import fit
from utkcmp.training.variants import fit_regressor

OWN_FAULTS = (DivergedError, MemoryError, RuntimeError, ValueError)  # retrying would not help
LOST = 3  # restarts of a trial whose machine or process was lost
FIGURES = ["loss", "accuracy", "auc"]


@dataclass(frozen=True)
class TrialData:
    """The data that all trials of a search share.

    images: uint8 (N, 3, S, S), training and validation faces only; ages: float32 (N,), years;
    train, val: pairs of their rows. frozen: for the transfer model, by backbone, the age
    regressor's weights and its features of all images, float32 (N, D).
    """

    images: np.ndarray
    ages: np.ndarray
    train: Pairs
    val: Pairs
    frozen: dict[str, tuple[dict, np.ndarray]]


def gather_data(model: str, run: Run, params: Params, backbones: list[str]) -> TrialData:
    """Collect what the trials of one model share; trains (or reads) the regressors they need.

    model: name of a pair model. backbones: those in the search space.
    """
    data = RunData(run, params.model_copy(update={"data_size": params.tune_data_size}))
    train, val = data.pairs("train"), data.pairs("val")
    rows = np.unique(np.concatenate([train.left, train.right, val.left, val.right]))
    number = np.searchsorted(rows, np.arange(len(data.ages)))  # the place of each in rows
    frozen = {}
    if model == "SiameseResNetAge":
        for backbone in backbones:
            regressor = fit_regressor(data, run, backbone).model
            features = apply_rows(regressor.embed, data.images, rows)
            frozen[backbone] = regressor.state_dict(), features.numpy()
    images, ages = data.images.numpy()[rows], data.ages.numpy()[rows]
    return TrialData(images, ages, train.take(number), val.take(number), frozen)


def run_trial(config: dict, data: TrialData, model: str, params: dict, storage: str) -> None:
    """One trial, in a worker process: train, and report each epoch's validation metrics to Ray.

    config: the trial's parameters, perhaps with its own ``seed``. storage: the search's folder, for
    checkpoints if it exists on this machine.
    """
    from ray import tune

    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    p = Params(**params)
    torch.set_num_threads(max(1, int(p.cpus_per_trial)))
    backbone = config["resnet_type"]
    changes = {"hidden_layers": json.loads(config["hidden_layers"]), "backbone": backbone}
    changes |= {"weights": p.weights_of(backbone), "steps_per_epoch": None, "retrain": False}
    changes |= {"epochs": p.max_num_epochs, "patience": p.max_num_epochs, "devices": 1}
    changes |= {"device": "cuda" if p.gpus_per_trial else "cpu"}
    changes |= {"ema": 0.0}  # a trial is too short for a moving average
    folder = Path(storage) if Path(storage).is_dir() else Path.cwd()
    try:
        p, features = check(params | config | changes), None
        torch.manual_seed(p.seed)
        network = build_model(model, **p.model_dump())
        if data.frozen:
            weights, features = data.frozen[backbone]
            network.regressor.load_state_dict(weights)
            features = torch.from_numpy(features)
        fit(
            network,
            SimpleNamespace(images=torch.from_numpy(data.images), ages=torch.from_numpy(data.ages)),
            Settings.of(p),
            train=data.train,
            val=data.val,
            folder=folder / "checkpoints" / tune.get_context().get_trial_id(),
            features=features,
            on_epoch=lambda row: tune.report(
                {"epoch": row["epoch"]} | {name: row[f"val_{name}"] for name in FIGURES}
            ),
        )
    except OWN_FAULTS as error:
        nothing = {"loss": math.inf, "accuracy": math.nan, "auc": math.nan}
        tune.report(nothing | {"epoch": 0, "failure": str(error).strip().splitlines()[-1]})


def run_trials(data, model: str, params: dict, space: dict, storage: str, count: int, asha: bool):
    """Run trials over ``space`` inside ``ray_session`` and return them as two tables.

    data: TrialData; params: ``Params`` as a dict; space: Ray Tune domains; storage: a folder for
    this search alone, from which an interrupted search resumes without repeating finished trials.
    count: number of trials; asha: draw them by ``params``' searcher and stop poor ones early, else
    take every point of a grid. Returns trials (one row per trial: its parameters, trial, iter,
    total_time, metrics of its best epoch, status) and epochs (trial, epoch, seconds since the first
    one ended, metrics).
    """
    from ray import tune

    p, folder = Params(**params), Path(storage).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, data=data, model=model, params=params, storage=str(folder)),
        {"cpu": p.cpus_per_trial, "gpu": p.gpus_per_trial},
    )
    if _left_whole(folder / "search"):
        tuner = tune.Tuner.restore(str(folder / "search"), trainable, restart_errored=True)
    else:
        shutil.rmtree(folder / "search", ignore_errors=True)
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=_tune_config(p, space, count, asha),
            run_config=tune.RunConfig(
                name="search",
                storage_path=str(folder),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=LOST),
                callbacks=[progress_callback(model, folder, count)],
            ),
        )
    tables = _tables(tuner.fit(), p.max_num_epochs)
    shutil.rmtree(folder, ignore_errors=True)
    return tables


def _left_whole(records: Path) -> bool:
    """Whether an interrupted search can be resumed; early on its records are incomplete, and Ray
    would continue without parameters."""
    from ray import tune

    states = sorted(records.glob("experiment_state-*.json"))
    try:
        return tune.Tuner.can_restore(records) and bool(json.loads(states[-1].read_text()))
    except (OSError, IndexError, ValueError):
        return False


def _tune_config(p: Params, space: dict, count: int, asha: bool):
    """The searcher and the scheduler. Each choice of hidden layers is tried once before any is
    repeated: ten free draws from five choices would miss one in every second search."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    common = {"metric": "loss", "mode": "min", "reuse_actors": True}
    if not asha:
        return tune.TuneConfig(**common)
    draw = np.random.RandomState(p.seed + 1)  # as Ray's domains take it; not the searcher's
    first = [
        {name: domain.sample(random_state=draw) for name, domain in space.items()}
        | {"hidden_layers": widths}
        for widths in space["hidden_layers"].categories[:count]
    ]
    if p.searcher == "bayesian":
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(seed=p.seed)
        algorithm = OptunaSearch(sampler=sampler, points_to_evaluate=first)
    else:
        algorithm = tune.search.BasicVariantGenerator(first, random_state=p.seed)
    scheduler = ASHAScheduler("epoch", max_t=p.max_num_epochs, grace_period=1, reduction_factor=2)
    return tune.TuneConfig(num_samples=count, search_alg=algorithm, scheduler=scheduler, **common)


def progress_callback(model: str, folder: Path, count: int):
    """A Ray Tune callback that shows progress and removes the checkpoints of ended trials."""
    from ray import tune

    class SearchProgress(tune.Callback):
        bar = None

        def on_trial_result(self, iteration, trials, trial, result, **info):
            self.bar = self.bar or tqdm(desc=model, unit="trial", leave=False, total=count)
            self.bar.n = sum(one.is_finished() for one in trials)
            epochs = sum(one.last_result.get("epoch", 0) for one in trials)
            best = np.nanmax([one.last_result.get("auc", 0.0) for one in trials])
            self.bar.set_postfix_str(f"{epochs} epochs, best validation AUC {best:.3f}")

        def on_trial_complete(self, iteration, trials, trial, **info):
            shutil.rmtree(folder / "checkpoints" / trial.trial_id, ignore_errors=True)

        def on_experiment_end(self, trials, **info):
            if self.bar is not None:
                self.bar.close()

        def __getstate__(self):
            return {}

    return SearchProgress()


def _tables(results, max_epochs: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The trials and their epochs, see ``run_trials``; a repeated epoch counts once."""
    columns = ["trial", "epoch", "timestamp", *FIGURES]
    read = [*columns[1:], "time_total_s", "failure"]  # a column that is missing becomes NaN
    trials, epochs = [], [pd.DataFrame(columns=columns)]
    for result in results:
        trial = result.metrics.get("trial_id") or Path(result.path).name
        row = {**result.config, "hidden_layers": json.loads(result.config["hidden_layers"])}
        row |= {"trial": trial, "status": "failed: no epoch was finished"}
        failures = [str(result.error)] if result.error else []
        history = pd.DataFrame(result.metrics_dataframe, columns=read)
        failures += history.failure.dropna().tolist()
        history = history[history.epoch > 0].drop_duplicates("epoch", keep="last")
        if len(history):
            epochs.append(history.assign(trial=trial)[columns])
            row |= history.loc[history.loss.idxmin(), FIGURES]
            row |= {"iter": len(history), "total_time": history.time_total_s.max()}
            row["status"] = "finished" if len(history) >= max_epochs else "stopped early"
        if failures:
            row["status"] = f"failed: {failures[-1].strip().splitlines()[-1]}"
        trials.append(row)
    by_epoch = pd.concat([one for one in epochs if len(one)] or epochs)
    by_epoch = by_epoch.rename(columns={"timestamp": "seconds"})
    by_epoch["seconds"] -= by_epoch.seconds.min()
    return pd.DataFrame(trials), by_epoch.sort_values("seconds", ignore_index=True)
