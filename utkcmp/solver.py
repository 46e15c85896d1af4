"""Training, on Lightning: losses, early stopping, checkpoints, resume, TensorBoard.

What a step draws at random depends on (seed, epoch) alone, so a run that was killed goes on from
its last finished epoch and ends with the same weights as one that was not.
"""

import contextlib
import hashlib
import inspect
import json
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from utkcmp.datasets import FaceBatches, PairBatches, RunData
from utkcmp.images import to_float
from utkcmp.inference import (
    apply_rows,
    embeds_once,
    feature_logits,
    pair_logits,
    pair_metrics,
    pick_device,
    predict_ages,
)
from utkcmp.models import SiameseResNetAge, build_model
from utkcmp.pairs import Pairs
from utkcmp.params import Params
from utkcmp.run import Run, atomic

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
KEPT_LOGITS = 256  # a step, for the training AUC


class DivergedError(ArithmeticError):
    """The training loss is no longer a finite number."""


@dataclass
class Fitted:
    """A trained model with the best epoch's weights, in evaluation mode.

    history: one row an epoch (epoch, train_loss, train_accuracy, train_auc, val_loss, ..., lr,
    seconds); reused: nothing was trained, the finished model was read from its folder.
    """

    model: nn.Module
    history: pd.DataFrame
    reused: bool

    @property
    def seconds(self) -> float:
        return float(self.history.seconds.sum())

    @property
    def best(self) -> pd.Series:
        return self.history.loc[self.history.val_loss.idxmin()]


class _Task(L.LightningModule):
    """One training: a model, the images in memory and what a step does with a batch of rows."""

    def __init__(self, model, images, ages, train, val, settings, on_epoch):
        super().__init__()
        self.model, self.ages = model, ages
        self.images, self.features = images, None
        self.train_on, self.validate_on = train, val
        self.settings, self.on_epoch = settings, on_epoch
        self.history: list[dict] = []

    def on_fit_start(self):
        self.ages = self.ages.to(self.device)
        if self.device.type != "cpu":
            self.images = self.images.to(self.device)
        if isinstance(self.model, SiameseResNetAge):  # frozen: each face is embedded only once
            self.model.eval()
            rows = np.arange(len(self.images))
            self.features = apply_rows(self.model.embed, self.images, rows).to(self.device)

    def train_dataloader(self):
        batches = FaceBatches if isinstance(self.train_on, np.ndarray) else PairBatches
        s = self.settings
        return batches(self.train_on, s["batch_size"], s["seed"], self.current_epoch)

    def configure_optimizers(self):
        s = self.settings
        weights = [p for p in self.model.parameters() if p.requires_grad]
        extra = {"momentum": 0.9, "nesterov": True} if s["optimizer"] == "sgd" else {}
        optimizer = OPTIMIZERS[s["optimizer"]](
            weights, lr=s["lr"], weight_decay=s["weight_decay"], fused=True, **extra
        )
        if s["schedule"] == "constant":
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def on_train_epoch_start(self):
        torch.manual_seed(self.settings["seed"] * 100_003 + self.current_epoch)
        self.started, self.losses, self.kept = time.perf_counter(), [], []

    def faces(self, rows: Tensor) -> Tensor:
        """The faces of the given rows as the network takes them, (B, 3, S, S) float32."""
        batch = to_float(self.images[rows])
        if self.settings["augment"]:
            flipped = torch.rand(len(rows), 1, 1, 1, device=batch.device) < 0.5
            batch = torch.where(flipped, batch.flip(3), batch)
        return batch

    def training_step(self, batch, step):
        if self.settings["task"] == "age":
            ages = self.ages[batch]
            loss = mse_loss(self.model(self.faces(batch)), ages) / self.model.age_std**2
            self.losses.append(loss.detach())
            return loss
        logits, label = self.pairs_of(batch)
        loss = binary_cross_entropy_with_logits(logits, label)
        every = max(1, len(logits) // KEPT_LOGITS)
        self.losses.append(loss.detach())
        self.kept.append((logits.detach()[::every], label[::every]))
        return loss

    def pairs_of(self, batch) -> tuple[Tensor, Tensor]:
        """Logits and labels of a batch: its pairs, or every valid pair of its faces."""
        if isinstance(batch, Tensor):
            gap = self.ages[batch][:, None] - self.ages[batch][None, :]
            left, right = torch.nonzero(gap.abs() >= self.settings["year_diff"], as_tuple=True)
            label = (gap[left, right] > 0).float()
            features = self.embedded(batch)
            return self.model.score_pairs(features[left], features[right]), label
        left, right, label = batch
        if embeds_once(self.model):
            features = self.embedded(torch.cat([left, right]))
            return self.model.score_pairs(*features.chunk(2)), label
        return self.model(self.faces(left), self.faces(right)), label

    def embedded(self, rows: Tensor) -> Tensor:
        if self.features is not None:
            return self.features[rows]
        return self.model.embed(self.faces(rows))

    def on_train_batch_end(self, outputs, batch, step):
        watched = self.device.type == "cpu" or step % 50 == 49  # a GPU is not made to wait
        if watched and not torch.isfinite(self.losses[-1]):
            raise DivergedError(
                f"the training loss is {self.losses[-1].item()} in epoch {self.current_epoch + 1}, "
                f"step {step + 1}, learning rate {self.optimizers().param_groups[0]['lr']:.3g}: "
                "try a smaller learning rate"
            )

    def on_train_epoch_end(self):
        row = {"epoch": self.current_epoch + 1}
        row["train_loss"] = float(torch.stack(self.losses).mean())
        if self.kept:
            logits, label = (
                torch.cat(part).float().cpu().numpy() for part in zip(*self.kept, strict=True)
            )
            shown = pair_metrics(logits, label)
            row |= {"train_accuracy": shown["accuracy"], "train_auc": shown["auc"]}
        row |= {f"val_{name}": value for name, value in self.validate().items()}
        row["lr"] = self.optimizers().param_groups[0]["lr"]
        row["seconds"] = time.perf_counter() - self.started
        self.history.append(row)
        self.log_dict({k: float(v) for k, v in row.items() if k != "epoch"})
        if self.on_epoch:
            self.on_epoch(row)

    def validate(self) -> dict[str, float]:
        """The validation figures, with dropout off and batch-norm statistics fixed."""
        val = self.validate_on
        if self.settings["task"] == "age":
            ages, got = self.ages.cpu().numpy()[val], predict_ages(self.model, self.images, val)
            return {
                "loss": float(((got - ages) ** 2).mean()) / float(self.model.age_std) ** 2,
                "mae": float(np.abs(got - ages).mean()),
            }
        if self.features is not None:
            self.model.eval()
            logits = feature_logits(self.model, self.features, val.left, val.right)
            self.model.train()
        else:
            logits = pair_logits(self.model, self.images, val)
        return pair_metrics(logits, val.label)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint):
        self.history = checkpoint["history"]


def fit(
    model: nn.Module,
    images: Tensor,
    ages: Tensor,
    *,
    train: Pairs | np.ndarray,
    val: Pairs | np.ndarray,
    folder: Path,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float = 0.0,
    optimizer: str = "adam",
    schedule: str = "constant",
    augment: bool = False,
    patience: int = 5,
    precision: str = "32",
    device: str = "auto",
    seed: int = 42,
    year_diff: int = 1,
    tensorboard: Path | None = None,
    retrain: bool = False,
    progress: bool = True,
    on_epoch: Callable[[dict], None] | None = None,
) -> Fitted:
    """Train a model made by ``build_model`` and keep the weights of its best validation loss.

    images: uint8 (N, 3, S, S); ages: float32 (N,) years. What ``train`` holds says how a step is
    made: Pairs are shuffled and cut into batches of pairs; rows (int64) into batches of faces, of
    which every pair at least ``year_diff`` years apart is scored, or, for an age regressor, each
    face. ``val`` is Pairs, or rows for an age regressor. The age loss is the squared error in
    units of the training ages' variance.

    A finished model in ``folder`` that was made with the same settings and data is read instead,
    unless ``retrain``; an unfinished one is continued; one made otherwise is trained anew.
    Raises DivergedError if the loss is no longer finite, ValueError for an unknown option.
    """
    task = "age" if model.config["model"] == "ResNetAgeRegressor" else "pairs"
    if task == "pairs" and isinstance(train, np.ndarray) and not embeds_once(model):
        raise ValueError(
            f"{model.config['model']} sees two faces at once and cannot be trained on all pairs of "
            "a batch: set pairing to 'list'"
        )
    _known("optimizer", optimizer, OPTIMIZERS)
    _known("precision", precision, PRECISIONS)
    _known("schedule", schedule, ("constant", "cosine"))
    settings = {
        **dict(task=task, epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay),
        **dict(optimizer=optimizer, schedule=schedule, augment=augment, patience=patience),
        **dict(precision=precision, seed=seed, year_diff=year_diff),
        "made_from": _digest(model, images, ages, train, val),
    }
    folder = Path(folder)
    if not retrain and _settings(folder / "config.json") == settings:
        return Fitted(load_model(folder), pd.read_csv(folder / "history.csv"), reused=True)
    task_ = _Task(model, images, ages, train, val, settings, on_epoch)
    with _quiet():
        trainer = _trainer(folder, settings, device, tensorboard, progress)
        trainer.fit(task_, ckpt_path=_checkpoint(folder, settings), weights_only=True)
    best = torch.load(folder / "best.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    model.load_state_dict({key.removeprefix("model."): value for key, value in best.items()})
    model.to("cpu").eval()
    history = pd.DataFrame(task_.history)
    save_model(model, folder, settings=settings, image_size=images.shape[-1], history=history)
    for leftover in ("best.ckpt", "last.ckpt", "training.json"):
        (folder / leftover).unlink(missing_ok=True)
    return Fitted(model, history, reused=False)


def fit_options(params: Params) -> dict:
    """The options of ``fit`` that a parameter file states, as keyword arguments."""
    names = inspect.signature(fit).parameters.keys() - {"train", "val"}  # there: per cent of faces
    return {name: value for name, value in params.model_dump().items() if name in names}


def fit_regressor(data: RunData, run: Run, backbone: str) -> Fitted:
    """Train (or read) the run's age regressor, whose features the transfer model takes.

    One exists for each backbone, in ``models/age_regressor_<backbone>``.
    """
    p, name = data.params, f"age_regressor_{backbone}"
    torch.manual_seed(p.seed)
    model = build_model("ResNetAgeRegressor", backbone=backbone, weights=p.weights)
    model.set_ages(data.ages[data.rows("train")])
    options = fit_options(p) | {
        "epochs": p.regressor_epochs,
        "batch_size": p.regressor_batch_size,
        "lr": p.regressor_lr,
    }
    return fit(
        model,
        data.images,
        data.ages,
        train=data.rows("train"),
        val=data.rows("val"),
        folder=run.model(name),
        tensorboard=run.tensorboard(name),
        **options,
    )


def _known(what: str, value: str, known) -> None:
    if value not in known:
        raise ValueError(f"{what} {value!r} is not known: expected one of {', '.join(known)}")


def _digest(model, images, ages, train, val) -> str:
    """One hash over the initial weights, the images' first bytes, the labels and the pairs."""
    digest = hashlib.sha256(json.dumps(model.config, sort_keys=True).encode())
    for tensor in model.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    digest.update(str(tuple(images.shape)).encode() + images[:, :, ::8, ::8].numpy().tobytes())
    digest.update(ages.numpy().tobytes())
    for part in (train, val):
        arrays = (part,) if isinstance(part, np.ndarray) else (part.left, part.right, part.label)
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _settings(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())["settings"]
    except (OSError, ValueError, KeyError):
        return None


def _checkpoint(folder: Path, settings: dict) -> Path | None:
    """The checkpoint to go on from; one made with other settings is removed."""
    last, note = folder / "last.ckpt", folder / "training.json"
    if _settings(note) == settings and last.exists():
        return last
    for leftover in (last, folder / "best.ckpt"):
        leftover.unlink(missing_ok=True)
    with atomic(note) as temporary:
        temporary.write_text(json.dumps({"settings": settings}))
    return None


def _trainer(folder, settings, device, tensorboard, progress) -> L.Trainer:
    logger = TensorBoardLogger(tensorboard, name="", version="") if tensorboard else False
    callbacks = [
        EarlyStopping("val_loss", patience=settings["patience"], check_on_train_epoch_end=True),
        _checkpoints(folder, "best", monitor="val_loss", save_weights_only=True),
        _checkpoints(folder, "last"),
    ]
    if progress:
        callbacks.append(TQDMProgressBar(refresh_rate=20, leave=False))
    return L.Trainer(
        max_epochs=settings["epochs"],
        accelerator="gpu" if pick_device(device).type == "cuda" else "cpu",
        devices=1,
        precision=PRECISIONS[settings["precision"]],
        logger=logger,
        callbacks=callbacks,
        reload_dataloaders_every_n_epochs=1,
        enable_progress_bar=progress,
        enable_model_summary=False,
        log_every_n_steps=20,
    )


def _checkpoints(folder: Path, name: str, **options) -> ModelCheckpoint:
    """Keep one file, written after every epoch, or after each that is better in ``monitor``."""
    return ModelCheckpoint(
        folder, name, save_on_train_epoch_end=True, enable_version_counter=False, **options
    )


@contextlib.contextmanager
def _quiet():
    """Lightning's banners and advice about loaders (there are none to tune) kept off the page."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def save_model(model: nn.Module, folder: Path, *, settings: dict, image_size: int, history) -> None:
    """Write history.csv, model.safetensors and, last, the config.json that makes them valid."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").unlink(missing_ok=True)
    with atomic(folder / "history.csv") as temporary:
        history.to_csv(temporary, index=False)
    with atomic(folder / "model.safetensors") as temporary:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary)
    config = {**model.config, "image_size": image_size, "settings": settings}
    with atomic(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n")


def load_model(folder: str | Path) -> nn.Module:
    """Load a model from the folder that ``fit`` wrote, in evaluation mode on the CPU.

    Raises ValueError in one sentence if the folder holds no model or its files do not fit.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
        model = build_model(config["model"], **{**config["options"], "weights": None})
        model.config["options"] = config["options"]
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except OSError as error:
        raise ValueError(
            f"{folder} holds no finished model: expected config.json and model.safetensors, "
            f"{error.strerror or error}"
        ) from None
    except (KeyError, TypeError, json.JSONDecodeError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the model in {folder} cannot be read: {reason}") from None
    return model.eval()
