"""Controlled experiments: the ladder, architectures, hidden layers, the course project's faults.

An *arm* is one way of training. All arms of an experiment see the same number of faces in as many
steps, with the same seeds, and answer the same test pairs; each is compared with the arm from which
it differs in one thing or in the group of things that it is named after. Trainings are small
(``ladder_faces`` faces of ``ladder_size`` pixels), so that they can be repeated with several seeds.
``experiments/trainings/`` keeps answers and history, not weights; a killed run resumes from it.
"""

import copy
import json
import shutil
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch
from torch import nn

from utkcmp.data.datasets import RunData
from utkcmp.data.pairs import Pairs, sample_pairs
from utkcmp.data.split import split_faces
from utkcmp.evaluation.bootstrap import holm, seed_difference
from utkcmp.evaluation.metrics import area_under_roc
from utkcmp.evaluation.results import all_answers
from utkcmp.files import atomic, read_table, write_csv
from utkcmp.models.inference import pair_logits, to_float
from utkcmp.models.networks import build_model
from utkcmp.models.storage import load_model
from utkcmp.params import FACERES, LARGER, Params, load_files
from utkcmp.run import PROJECT, Run, faceres_weights
from utkcmp.training.settings import STORED, Settings
from utkcmp.training.solver import digest, model_digest
from utkcmp.training.variants import fit_variant, frozen_features, transfer_model

# The recipe of the course project's best SiameseResNet, and ours, both without the pairing.
COURSE = {"optimizer": "adam", "lr": 0.00248, "weight_decay": 5.58e-6, "schedule": "constant"}
COURSE |= {"augment": "none", "clip": 0.0, "ema": 0.0, "age_weight": 0.0, "backbone_lr": 1.0}
OURS = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05, "schedule": "cosine"}
OURS = COURSE | OURS | {"augment": "full"}
AGES, AVERAGE = {"age_weight": 0.2}, {"ema": 0.99}
HIDDEN = [512, 256, 128]  # the course project's widest head
WIDE = f"hidden layers {'-'.join(map(str, HIDDEN))}"
DROPOUT = {"hidden_layers": HIDDEN, "use_dropout": True, "dropout_prob": 0.3}
EVALUATIONS = 4  # per training, evenly spaced
PRETRAINED_RATE = 0.2  # of the learning rate: at the full one the pretrained backbone diverges
ANSWERS = "answers.npz"
SCRATCH = "experiment"  # below models/, while an arm is trained
IN_TRAINING_MODE = 500  # validation pairs that are also answered in training mode
COLUMNS = ["arm", "against", "seeds", "faces", "passes", "auc", "auc_sd", "difference"]
COLUMNS += ["low", "high", "p", "minutes", "aucs"]
FAULT_COLUMNS = ["fault", "measure", "sound", "faulty", "difference", "low", "high", "p", "seeds"]
FIRST = "fixed pairs, Adam (the course project's)"
STEADY = "constant learning rate"
SIAMESE, SIX = "Siamese", "six channels"
# The course project's own configurations, by the names of its reported results: files in params/.
RECIPES = {
    "SiameseResNet, no hidden layers": "siamese_resnet18",
    "ResNetClassifier, no hidden layers": "concat_resnet18",
    f"ResNetClassifier, {WIDE}": "concat_resnet18_hidden",
    f"ResNetClassifier, {WIDE}, less weight decay": "concat_resnet18_hidden_less_wd",
    f"SiameseResNetAge, {WIDE}": "siamese_age",
}


@dataclass(frozen=True)
class Arm:
    """One way of training.

    build: makes the network for a seed; changes: options of ``fit_variant``; against: the arm to
    compare with; broken: resume half-way from the weights alone; passes: of the network per face.
    """

    build: Callable[[int], nn.Module]
    changes: dict
    data: RunData
    against: str = ""
    broken: bool = False
    passes: float = 1.0


class Budget:
    """What every arm spends: faces per step, steps per evaluation, evaluations; and the seeds.

    Set by the parameters, limited by the faces and pairs available.
    """

    def __init__(self, data: RunData, batch: int | None = None):
        p, faces, pairs = data.params, len(data.rows("train")), len(data.pairs("train"))
        self.batch = max(2, min(batch or p.batch_size, faces, 2 * pairs) // 2 * 2)
        most = min(faces // self.batch, pairs // (self.batch // 2))
        total = max(EVALUATIONS, p.ladder_faces // self.batch)
        self.steps = min(most, total // EVALUATIONS)
        self.evaluations = max(2, total // self.steps // 2 * 2)
        self.seeds = range(p.seed, p.seed + p.ladder_seeds)

    def on(self, train: Pairs | np.ndarray, longer: int = 1) -> dict:
        """Options of ``fit_variant`` for a fixed list of pairs, or for every pair of batches of
        faces (rows); longer: the factor on the epochs."""
        batch = self.batch // 2 if isinstance(train, Pairs) else self.batch
        options = {"train": train, "batch_size": batch, "steps_per_epoch": self.steps}
        epochs = self.evaluations * longer
        return options | {"epochs": epochs, "patience": epochs, "retrain": False}


def network(name: str = "SiameseResNet", **options) -> Callable[[int], nn.Module]:
    return lambda seed: build_model(name, **options)


def train_arm(run: Run, arm: Arm, seed: int) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Train an arm with one seed, or read the result of an identical training.

    Returns logits, by ``test``, ``val`` and ``training_mode`` (first ``val`` pairs), and history.
    """
    torch.manual_seed(seed)
    model, val = arm.build(seed), arm.data.pairs("val")
    pairs = {"val": val, "test": arm.data.pairs("test")}
    changes = {k: v for k, v in arm.changes.items() if k != "features"}
    made_from = model_digest(model), digest(arm.data, *pairs.values())
    known = {k: v for k, v in changes.items() if k in STORED} | {"seed": seed}
    settings = Settings.of(arm.data.params, **known).stored()
    name = joblib.hash([made_from, changes, settings, arm.broken])
    folder = run.experiment(f"trainings/{name[:16]}")
    if (folder / ANSWERS).exists():
        return _read(folder)
    parts, histories = (2 if arm.broken else 1), []
    for part in range(parts):
        epochs = max(1, arm.changes["epochs"] // parts)
        changes = arm.changes | {"seed": seed, "epochs": epochs, "boards": False}
        fitted = fit_variant(f"{SCRATCH}/{folder.name}/{part}", run, arm.data, model, **changes)
        model, histories = fitted.model, [*histories, fitted.history]
    answers = {split: pair_logits(model, arm.data.images, some) for split, some in pairs.items()}
    answers["training_mode"] = training_mode_logits(model, arm.data.images, val[:IN_TRAINING_MODE])
    history = pd.concat(histories, ignore_index=True)
    history["epoch"] = np.arange(1, len(history) + 1)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(history, folder / "history.csv")
    with atomic(folder / ANSWERS) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **{k: v.astype(np.float32) for k, v in answers.items()})
    shutil.rmtree(run.model(SCRATCH), ignore_errors=True)
    return _read(folder)


def _read(folder: Path) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    with np.load(folder / ANSWERS, allow_pickle=False) as stored:
        answers = {name: stored[name].astype(np.float64) for name in stored.files}
    return answers, read_table(folder / "history.csv", ["epoch", "val_auc"])


@torch.no_grad()
def training_mode_logits(model: nn.Module, images: torch.Tensor, pairs: Pairs) -> np.ndarray:
    """Logits of a copy of the model in training mode: dropout on, batch norm over 32 pairs."""
    model, parts = copy.deepcopy(model).train(), []
    for start in range(0, len(pairs), 32):
        some = pairs[start : start + 32]
        sides = (to_float(images[torch.from_numpy(side)]) for side in (some.left, some.right))
        parts.append(model(*sides))
    return torch.cat(parts).double().numpy()


def compare_arms(run: Run, experiment: str, arms: dict[str, Arm], budget: Budget) -> pd.DataFrame:
    """Train all arms with all seeds, and compare each with the arm that it is ``against``.

    Writes ``experiments/<experiment>_histories.csv``, all epochs, and writes and returns
    ``experiments/<experiment>.csv``, one row per arm: arm, against ("" for the first), seeds, faces
    and passes of the network (in each training), auc and auc_sd (over seeds, on test pairs),
    difference, low, high and p (from ``seed_difference``; p corrected by ``holm``), minutes (of all
    trainings) and aucs (of each seed, as JSON).
    """
    table = _compared(run, experiment, arms, budget)
    table["p"] = holm(table.p)
    write_csv(table, run.experiment(f"{experiment}.csv"))
    return table


def _compared(run: Run, experiment: str, arms: dict[str, Arm], budget: Budget) -> pd.DataFrame:
    logits, rows, histories = {}, [], []
    for name, arm in arms.items():
        trained = {seed: train_arm(run, arm, seed) for seed in budget.seeds}
        pairs = arm.data.pairs("test")
        logits[name] = np.stack([answers["test"] for answers, _ in trained.values()])
        aucs = [area_under_roc(one, pairs.label) for one in logits[name]]
        row = {"arm": name, "against": arm.against, "seeds": len(aucs)}
        row |= _spent(arm) | {"auc": np.mean(aucs), "aucs": json.dumps([round(a, 4) for a in aucs])}
        row["auc_sd"] = np.std(aucs, ddof=1) if len(aucs) > 1 else np.nan
        row["minutes"] = sum(history.seconds.sum() for _, history in trained.values()) / 60
        if arm.against:
            row |= seed_difference(logits[name], logits[arm.against], pairs)
        rows.append(row)
        histories += [one.assign(arm=name, seed=seed) for seed, (_, one) in trained.items()]
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    write_csv(pd.concat(histories), run.experiment(f"{experiment}_histories.csv"))
    return table


def _spent(arm: Arm) -> dict:
    steps = arm.changes["epochs"] * arm.changes["steps_per_epoch"] * arm.changes["batch_size"]
    faces = steps * 2 if isinstance(arm.changes["train"], Pairs) else steps
    return {"faces": faces, "passes": round(faces * arm.passes)}


def read_experiment(run: Run, experiment: str) -> pd.DataFrame:
    """The table of an experiment; empty if it has not been run."""
    path = run.experiment(f"{experiment}.csv")
    table = read_table(path) if path.exists() else pd.DataFrame()
    return table if "p" in table else table.assign(p=np.nan)  # of an older version


def ladder(run: Run, data: RunData) -> pd.DataFrame:
    """From the course project's way of training to ours, step by step; see ``compare_arms``.

    Where there is a pretrained start, its network is trained on the larger faces from these weights
    and from scratch, with the same lower learning rate for the backbone in both.
    """
    small = data.at(data.params.ladder_size)
    budget, larger = Budget(small), data.at(round(LARGER * data.params.ladder_size))
    fixed, every = budget.on(small.pairs("train")), budget.on(small.rows("train"))
    best, arms, before = OURS | AGES | AVERAGE | every, {}, ""
    for rung, build, changes, faces in (
        (FIRST, network(), COURSE | fixed, small),
        ("AdamW, cosine schedule, augmentation", network(), OURS | fixed, small),
        ("every pair of a batch", network(), OURS | every, small),
        ("age-distribution loss", network(), OURS | AGES | every, small),
        ("moving average, mirror image", network(mirror=True), best, small),
        (f"larger faces ({larger.images.shape[-1]} px)", network(mirror=True), best, larger),
    ):
        arms[rung], before = Arm(build, changes, faces, before), rung
    if start := _pretrained(data.params):
        slower = best | {"backbone_lr": PRETRAINED_RATE}
        scratch, rung = (f"{start['backbone']} {how}" for how in ("from scratch", "pretrained"))
        arms[scratch] = Arm(network(mirror=True, backbone=start["backbone"]), slower, larger)
        arms[rung] = Arm(network(mirror=True, **start), slower, larger, scratch)
    return compare_arms(run, "ladder", arms, budget)


def _pretrained(p: Params) -> dict | None:
    """Options of a pretrained network: with the run's own weights or, if they are on this machine,
    those of HSE-FaceRes; None without either."""
    if p.weights:
        return {"backbone": p.backbone, "weights": p.weights}
    return {"backbone": FACERES, "weights": FACERES} if faceres_weights().exists() else None


def architectures(run: Run, data: RunData) -> pd.DataFrame:
    """The Siamese network against the six-channel one, with the ladder's second recipe: on the same
    fixed pairs, and at equal compute, as a pair costs the Siamese network two passes."""
    small = data.at(data.params.ladder_size)
    budget, six = Budget(small), network("ResNetClassifier")
    pairs = small.pairs("train")
    once, twice = (OURS | budget.on(pairs, longer) for longer in (1, 2))
    arms = {
        SIAMESE: Arm(network(), once, small),
        SIX: Arm(six, once, small, SIAMESE, passes=0.5),
        f"{SIX}, equal compute": Arm(six, twice, small, SIAMESE, passes=0.5),
    }
    return compare_arms(run, "architectures", arms, budget)


def hidden_layers(run: Run, data: RunData) -> pd.DataFrame:
    """No hidden layers against the course project's widest head, for both architectures."""
    small = data.at(data.params.ladder_size)
    budget, arms = Budget(small), {}
    changes = OURS | budget.on(small.pairs("train"))
    for name, model, passes in ((SIAMESE, "SiameseResNet", 1), (SIX, "ResNetClassifier", 0.5)):
        wide = f"{name}, {WIDE}"
        arms[name] = Arm(network(model), changes, small, passes=passes)
        arms[wide] = Arm(network(model, hidden_layers=HIDDEN), changes, small, name, passes=passes)
    return compare_arms(run, "hidden_layers", arms, budget)


def course_recipes(run: Run, data: RunData) -> pd.DataFrame:
    """The course project's own configurations on fixed pairs, as they are but for the size of the
    faces and their number; see ``compare_arms``. The frozen one uses the run's age regressor."""
    regressor = load_model(run.model(f"age_regressor_{data.params.backbone}"))
    small, images = data.at(data.params.ladder_size), data.at(regressor.image_size)
    transfer, arms = _transfer(regressor, data), {}
    features = frozen_features(transfer(data.params.seed), images)
    for name, file in RECIPES.items():
        given, model = load_files([PROJECT / f"params/{file}.yaml"]), name.split(",")[0]
        frozen = model == "SiameseResNetAge"
        some = images if frozen else small
        spent = Budget(some, 2 * given["batch_size"]).on(some.pairs("train"))
        changes = COURSE | {key: given[key] for key in given.keys() & COURSE.keys()} | spent
        if frozen:
            changes |= {"features": features}
            arms[name] = Arm(transfer, changes, images)
        else:
            passes = 0.5 if model == "ResNetClassifier" else 1
            build = network(model, hidden_layers=given["hidden_layers"])
            arms[name] = Arm(build, changes, small, passes=passes)
    return compare_arms(run, "course_recipes", arms, Budget(small))


def faults(run: Run, data: RunData, trials: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The cost of each of the course project's faults, introduced one at a time.

    The sound baselines use the ladder's second recipe, on frozen features without augmentation; the
    resumed training and its baseline have a constant learning rate, since a new schedule would be a
    second difference. Uses the run's age regressor, for the transfer arms, and its Siamese model,
    to compare samples of pairs with all pairs. trials: by model, the epochs of a search, as from
    ``tuning.read_epochs``. Writes and returns ``experiments/faults.csv``, one row per fault: fault,
    measure, sound, faulty, difference, low, high (95%, or the range of samples; NaN where nothing
    is random), p (as in ``compare_arms``) and seeds. Raises ValueError if a model is missing.
    """
    regressor = load_model(run.model(f"age_regressor_{data.params.backbone}"))
    siamese = load_model(run.model("siamese"))
    small, images = data.at(data.params.ladder_size), data.at(regressor.image_size)
    budget = Budget(small)
    plain = _plainly_split(small)
    clean = _without_leaks(plain)
    fixed, drifting, leaking, sealed = (
        OURS | budget.on(some.pairs("train")) for some in (small, images, plain, clean)
    )
    steady = fixed | {"schedule": "constant"}
    drifting |= {"augment": "none"}
    transfer, mistaken = (_transfer(regressor, data, blind) for blind in (False, True))
    frozen = drifting | {"features": frozen_features(transfer(data.params.seed), images)}
    sound, dropout = "frozen backbone", "dropout in the head"
    copies = "plain split, without the copies"
    arms = {
        sound: Arm(transfer, frozen, images),
        "left face twice": Arm(mistaken, frozen, images, sound),
        "frozen backbone in training mode": Arm(
            lambda _: _drifting(regressor), drifting, images, sound
        ),
        dropout: Arm(network(**DROPOUT), fixed, small),
        copies: Arm(network(), sealed, clean),
        "plain split": Arm(network(), leaking, plain, copies),
        STEADY: Arm(network(), steady, small),
        "resumed from the weights alone": Arm(network(), steady, small, STEADY, broken=True),
    }
    table = _compared(run, "fault_arms", arms, budget).set_index("arm")
    rows = [
        [name, "test AUC", table.auc[one.against], *table.loc[name, ["auc", *FAULT_COLUMNS[4:]]]]
        for name, one in arms.items()
        if one.against
    ]
    answers = [train_arm(run, arms[dropout], seed)[0] for seed in budget.seeds]
    rows.append(_training_mode_row(answers, small.pairs("val")[:IN_TRAINING_MODE]))
    rows += [_one_checkpoint_row(model, epochs) for model, epochs in trials.items() if len(epochs)]
    rows += [_one_sample_row(siamese, data), *_matrix_rows(data)]
    result = pd.DataFrame(rows, columns=FAULT_COLUMNS)
    result["p"] = holm(result.p)
    write_csv(result, run.experiment("faults.csv"))
    return result


def _transfer(regressor: nn.Module, data: RunData, blind: bool = False) -> Callable:
    plain = {"hidden_layers": HIDDEN, "use_dropout": False, "symmetric": False, "mirror": False}
    params = data.params.model_copy(update=plain)
    return lambda seed: transfer_model(regressor, params.model_copy(update={"seed": seed}), blind)


def _drifting(regressor: nn.Module) -> nn.Module:
    """A Siamese model with the regressor's backbone, frozen but left in training mode, so that its
    batch-norm statistics drift."""
    options = regressor.config["options"]
    model = build_model("SiameseResNet", backbone=options["backbone"], hidden_layers=HIDDEN)
    model.backbone.load_state_dict(regressor.backbone.state_dict())
    model.backbone.requires_grad_(False)
    return model


def _plainly_split(data: RunData) -> RunData:
    """The same faces in the course project's plain split, which separates copies of a picture."""
    p, plain = data.params, copy.copy(data)
    split = split_faces(data.faces, p.train, p.val, p.test, p.seed, leaky=True)
    plain.faces = data.faces.assign(split=split)
    return plain


def _without_leaks(plain: RunData) -> RunData:
    """The plain split without the training faces whose picture is also in validation or test."""
    clean, faces = copy.copy(plain), plain.faces
    asked = faces.group.isin(faces.group[faces.split.isin(["val", "test"])])
    clean.faces = faces.assign(split=faces.split.mask(asked & (faces.split == "train"), ""))
    return clean


def _training_mode_row(answers: list[dict[str, np.ndarray]], pairs: Pairs) -> list:
    sound = np.stack([one["val"][: len(pairs)] for one in answers])
    faulty = np.stack([one["training_mode"] for one in answers])
    aucs = [[area_under_roc(one, pairs.label) for one in logits] for logits in (sound, faulty)]
    row = [
        "validation in training mode",
        "validation AUC used for the choice",
        *np.mean(aucs, axis=1),
    ]
    return [*row, *seed_difference(faulty, sound, pairs).values(), len(answers)]


def _one_checkpoint_row(model: str, epochs: pd.DataFrame, orders: int = 2000) -> list:
    """What a search returns if all trials save to one file, simulated for trials in random order:
    the file holds the last trial's best epoch, whichever trial is called the best."""
    aucs = epochs.loc[epochs.groupby("trial").loss.idxmin()].sort_values("loss").auc
    sound, faulty = aucs.iloc[0], aucs.mean()
    drawn = np.random.default_rng(0).choice(aucs.to_numpy(), orders)
    low, high = np.quantile(drawn - sound, [0.025, 0.975])
    row = [f"one checkpoint for {len(aucs)} trials ({model})", "validation AUC of what is returned"]
    return [*row, sound, faulty, faulty - sound, low, high, np.nan, np.nan]


def _one_sample_row(model: nn.Module, data: RunData, samples: int = 10) -> list:
    """The AUCs of samples of the course project's size around that of all test pairs: sound is the
    latter, faulty the sample furthest from it, low and high are the extremes."""
    pairs, logits = all_answers(model, data)
    whole, rng = area_under_roc(logits, pairs.label), np.random.default_rng(42)
    size = min(data.params.eval_pairs, len(pairs))
    chosen = (rng.choice(len(pairs), size, replace=False) for _ in range(samples))
    drawn = np.array([area_under_roc(logits[some], pairs.label[some]) for some in chosen]) - whole
    furthest = drawn[np.abs(drawn).argmax()]
    row = ["one sample of pairs", f"test AUC, the furthest off of {samples} samples"]
    return [*row, whole, whole + furthest, furthest, drawn.min(), drawn.max(), np.nan, np.nan]


def _matrix_rows(data: RunData, most: int = 3000) -> list[list]:
    """Memory and time to draw the training pairs from an N×N matrix, as the course project did,
    against drawing pair numbers. The matrix is measured on at most ``most`` faces and scaled
    quadratically."""
    ages = data.ages.numpy().astype(np.int64)[data.rows("train")]
    some, size = ages[:most], data.params.data_size

    def draw_from_matrix():
        candidates = np.argwhere(some[:, None] - some[None, :] >= 1)
        return candidates[np.random.default_rng(0).permutation(len(candidates))[:size]]

    faulty = _measured(draw_from_matrix) * (len(ages) / len(some)) ** 2
    sound = _measured(lambda: sample_pairs(ages, data_size=size))
    measures = ("memory (MB)", "time (s)")
    return [
        ["pairs from an N×N matrix", measure, *figures, *[np.nan] * 4]
        for measure, *figures in zip(measures, sound, faulty, faulty - sound, strict=True)
    ]


def _measured(function: Callable) -> np.ndarray:
    """Peak memory in MB and seconds of a call, (2,)."""
    tracemalloc.start()
    started = time.perf_counter()
    function()
    seconds = time.perf_counter() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return np.array([peak / 1e6, seconds])
