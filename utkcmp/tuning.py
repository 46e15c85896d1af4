"""The Ray Tune search over the course project's space, honestly validated.

Each trial trains through ``solver.fit`` with checkpoints of its own and reports validation figures
after every epoch; ASHA stops the poor ones early (Li et al. 2020, "A System for Massively Parallel
Hyperparameter Tuning").
"""

import json
import logging
import os
import shutil
import warnings
from pathlib import Path

import pandas as pd
import torch
import yaml

from utkcmp.datasets import RunData
from utkcmp.models import build_model
from utkcmp.params import Params
from utkcmp.run import Run, atomic
from utkcmp.solver import fit, fit_options, fit_regressor

COLUMNS = ["trial", "batch_size", "dropout_prob", "hidden_layers", "lr", "resnet_type"]
COLUMNS += [
    "use_dropout",
    "weight_decay",
    "iter",
    "total_time",
    "loss",
    "accuracy",
    "auc",
    "status",
]


RANGES = {"lr": [1e-4, 1e-1], "weight_decay": [1e-6, 1e-2], "dropout_prob": [0.1, 0.7]}
CHOICES = {
    "batch_size": [4, 8, 16, 32, 64, 128],
    "hidden_layers": [[], [64, 32, 16], [128, 64, 32], [256, 128, 64], [512, 256, 128]],
    "use_dropout": [True, False],
    "resnet_type": ["resnet18", "resnet50"],
}


def describe_space(narrower: dict[str, list]) -> pd.DataFrame:
    """The seed's space and what a run narrows it to, one row a parameter."""
    space = {f"{name} ({'log-' if name != 'dropout_prob' else ''}uniform)": name for name in RANGES}
    space |= {f"{name} (choice)": name for name in CHOICES}
    full = RANGES | CHOICES
    rows = {shown: [str(full[n]), str(narrower.get(n, full[n]))] for shown, n in space.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["course project", "this run"])


def search_space(narrower: dict[str, list] | None = None) -> dict:
    """The seed's search space as Ray Tune domains.

    narrower: by name, [low, high] for lr, weight_decay and dropout_prob, a list of choices for
    the others. Raises ValueError for a name that is not in the space.
    """
    from ray import tune

    ranges, choices = dict(RANGES), dict(CHOICES)
    for name, values in (narrower or {}).items():
        if name not in ranges | choices:
            known = ", ".join(ranges | choices)
            raise ValueError(f"search_space holds {name!r}: expected one of {known}")
        (ranges if name in ranges else choices)[name] = values
    uniform = {"lr": tune.loguniform, "weight_decay": tune.loguniform, "dropout_prob": tune.uniform}
    return {name: uniform[name](*map(float, ranges[name])) for name in ranges} | {
        name: tune.choice(values) for name, values in choices.items()
    }


def search(model: str, run: Run, params: Params) -> pd.DataFrame:
    """Search one pair model's parameters; write and return ``tuning/<model>.csv``.

    One row a trial, in the seed's columns; ``loss``, ``accuracy`` and ``auc`` are those of the
    epoch with the best validation loss, ``status`` is "finished", "stopped early" or the reason of
    a failure. A finished search with the same parameters is read instead; an interrupted one goes
    on without repeating its finished trials. Call inside ``ray_session``.
    """
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    table, storage = run.tuning(model), run.folder / "tuning" / "ray"
    note = table.with_suffix(".json")
    settings = _settings(model, run, params)
    same = note.exists() and json.loads(note.read_text()) == settings
    if same and table.exists():
        return pd.read_csv(table)
    space = search_space(params.search_space)
    if model == "SiameseResNetAge":  # trained once here, read by the trials
        data = RunData(run, params)
        for backbone in space["resnet_type"].categories:
            fit_regressor(data, run, backbone)
    trainable = tune.with_resources(
        tune.with_parameters(_trial, model=model, run=str(run.folder), params=params.model_dump()),
        {"cpu": params.cpus_per_trial, "gpu": params.gpus_per_trial},
    )
    if same and tune.Tuner.can_restore(storage / model):
        tuner = tune.Tuner.restore(str(storage / model), trainable, restart_errored=True)
    else:
        shutil.rmtree(storage / model, ignore_errors=True)
        table.unlink(missing_ok=True)
        with atomic(note) as temporary:
            temporary.write_text(json.dumps(settings, indent=2))
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="loss",
                mode="min",
                num_samples=params.num_samples,
                search_alg=tune.search.BasicVariantGenerator(random_state=params.seed),
                scheduler=ASHAScheduler(
                    max_t=params.max_num_epochs, grace_period=1, reduction_factor=2
                ),
            ),
            run_config=tune.RunConfig(name=model, storage_path=str(storage), verbose=0),
        )
    trials = _table(tuner.fit(), params.max_num_epochs)
    write_best(run, model, trials)
    with atomic(table) as temporary:
        trials.to_csv(temporary, index=False)
    shutil.rmtree(storage / model, ignore_errors=True)
    return trials


def write_best(run: Run, model: str, trials: pd.DataFrame) -> Path | None:
    """Write the best trial's parameters as a parameter file, ``tuning/<model>.yaml``.

    Lay it over the run's own files to train that model in notebooks 04 to 06. None, and no file, if
    no trial has finished an epoch.
    """
    path = run.tuning(model).with_suffix(".yaml")
    ranked = trials.dropna(subset=["loss"]).sort_values("loss")
    if ranked.empty:
        path.unlink(missing_ok=True)
        return None
    best = ranked.to_dict("records")[0]
    names = ["batch_size", "lr", "weight_decay", "use_dropout", "dropout_prob"]
    found = {name: best[name] for name in names}
    found |= {"backbone": best["resnet_type"], "hidden_layers": list(best["hidden_layers"])}
    if model == "SiameseResNet":  # its trials learn from a fixed list of pairs
        found["pairing"] = "list"
    with atomic(path) as temporary:
        head = f"# The best of {len(trials)} trials of {model}: validation AUC {best['auc']:.4f}.\n"
        temporary.write_text(head + yaml.safe_dump(found, sort_keys=True), encoding="utf-8")
    return path


def _settings(model: str, run: Run, params: Params) -> dict:
    names = ["seed", "image_size", "num_samples", "max_num_epochs", "tune_data_size"]
    names += ["search_space", "year_diff", "duplicates", "eval_pairs", "precision", "optimizer"]
    names += ["regressor_epochs", "regressor_batch_size", "regressor_lr"]
    faces = run.read_faces()
    chosen = {name: getattr(params, name) for name in names}
    return {"model": model, "faces": pd.util.hash_pandas_object(faces).sum().item(), **chosen}


def _trial(config: dict, model: str, run: str, params: dict) -> None:
    """One trial, in a worker process of its own; every epoch is reported to Ray."""
    from ray import tune

    p = Params(**params | {"data_size": params["tune_data_size"]})
    torch.set_num_threads(max(1, int(p.cpus_per_trial)))
    folder = Run(run)
    data = RunData(folder, p)  # the image cache is memory-mapped: trials of one node share it
    torch.manual_seed(p.seed)
    options = {name: config[name] for name in ("hidden_layers", "use_dropout", "dropout_prob")}
    network = build_model(model, backbone=config["resnet_type"], **options)
    if model == "SiameseResNetAge":
        regressor = fit_regressor(data, folder, config["resnet_type"]).model
        network.regressor.load_state_dict(regressor.state_dict())
    fit(
        network,
        data.images,
        data.ages,
        train=data.pairs("train"),
        val=data.pairs("val"),
        folder=Path.cwd() / "model",
        on_epoch=lambda row: tune.report(
            {name: row[f"val_{name}"] for name in ("loss", "accuracy", "auc")}
        ),
        progress=False,
        **fit_options(p)
        | {name: config[name] for name in ("lr", "batch_size", "weight_decay")}
        | {"epochs": p.max_num_epochs, "patience": p.max_num_epochs, "device": _device(p)},
    )


def _device(params: Params) -> str:
    return "cuda" if params.gpus_per_trial else "cpu"


def _table(results, max_epochs: int) -> pd.DataFrame:
    rows = []
    for result in results:
        row = {**result.config, "trial": result.metrics.get("trial_id", Path(result.path).name)}
        history = result.metrics_dataframe
        if result.error is not None:
            row["status"] = f"failed: {str(result.error).strip().splitlines()[-1]}"
        if history is not None and len(history):
            best = history.loc[history.loss.idxmin()]
            row |= {name: best[name] for name in ("loss", "accuracy", "auc")}
            row |= {"iter": len(history), "total_time": history.time_total_s.iloc[-1]}
            done = "finished" if len(history) >= max_epochs else "stopped early"
            row.setdefault("status", done)
        row.setdefault("status", "failed: no epoch was finished")
        rows.append(row)
    return pd.DataFrame(rows).reindex(columns=COLUMNS).sort_values("loss", ignore_index=True)


class ray_session:
    """Start Ray for a block (or join ``ray_address``) and end its processes with the block."""

    def __init__(self, params: Params):
        self.address = None if params.ray_address == "local" else params.ray_address

    def __enter__(self):
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "0")
        import ray

        logging.getLogger("ray").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="ray")
        local = {"num_cpus": os.cpu_count(), "include_dashboard": False}
        ray.init(
            address=self.address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if self.address else local),
        )
        return self

    def __exit__(self, *failure):
        import ray

        ray.shutdown()
