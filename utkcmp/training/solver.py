"""Training, on Lightning: early stopping, checkpoints, resume, TensorBoard, devices."""

import contextlib
import hashlib
import inspect
import io
import json
import logging
import re
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
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from utkcmp.data.pairs import Pairs
from utkcmp.files import atomic, read_json
from utkcmp.models.inference import embeds_once, pick_device
from utkcmp.models.storage import load_model, read_history, save_model
from utkcmp.params import Params
from utkcmp.training.augmentation import AUGMENTATIONS
from utkcmp.training.lightning_module import OPTIMIZERS, SCHEDULES, DivergedError, Task, shows_bars
from utkcmp.training.tensorboard import write_boards

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def pick_precision(name: str, device: torch.device) -> str:
    """``auto`` is bf16 where the device computes in it, else 32 bits; other names are themselves.

    A processor without bf16 instructions emulates them, at several times the cost of 32 bits.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        found = torch.cpu.get_capabilities()
        able = found.get("avx512_bf16", False) or found.get("amx_bf16", False)
    return "bf16" if able else "32"


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
    backbone_lr: float = 1.0,
    weight_decay: float = 0.0,
    optimizer: str = "adam",
    schedule: str = "constant",
    augment: str = "none",
    clip: float = 0.0,
    ema: float = 0.0,
    age_weight: float = 0.0,
    steps_per_epoch: int | None = None,
    patience: int = 5,
    precision: str = "32",
    device: str = "auto",
    devices: int = 1,
    seed: int = 42,
    year_diff: int = 1,
    tensorboard: Path | None = None,
    show_faces: bool = True,
    retrain: bool = False,
    progress: bool = True,
    features: Tensor | None = None,
    on_epoch: Callable[[dict], None] | None = None,
) -> Fitted:
    """Train a model made by ``build_model`` and keep the weights of its best validation loss.

    images: uint8 (N, 3, S, S); ages: float32 (N,) years. What ``train`` holds says how a step is
    made: Pairs are shuffled and cut into batches of pairs; rows (int64) into batches of faces, of
    which every pair at least ``year_diff`` years apart is scored, or, for an age regressor, each
    face. ``val`` is Pairs, or rows for an age regressor.
    backbone_lr: the backbone's learning rate as a factor of ``lr``, which is that of the head.
    augment: see ``images.Augmentation``. clip: largest norm of a step's gradient, 0 for none. ema:
    decay a step of a moving average of the weights, which is then what is validated and kept
    (Polyak and Juditsky 1992), 0 for none. age_weight: weight of a second loss, by which the
    features also predict the ages of their faces (``AgeDistribution``), 0 for none; a frozen model
    has none. precision: a key of PRECISIONS, or auto (``pick_precision``). steps_per_epoch: fewer
    steps than all batches. devices: how many GPUs, or processes on a CPU, share each batch.
    tensorboard: the folder of its event files, without faces if ``show_faces`` is false. features:
    float32 (N, D), a frozen model's features of all images, if they are known already. on_epoch:
    called after each epoch with its row of the history.

    A finished model in ``folder`` that was made with the same settings and data is read instead,
    unless ``retrain``; an unfinished one is continued; one made otherwise is trained anew.

    The same arguments on the same machine give the same weights, bit for bit, on a CPU (if torch
    has as many threads), interrupted or not. A GPU only comes close: what is drawn at random is the
    same, but some kernels add up in whatever order they end, cuDNN picks its algorithms as it goes,
    and of either difference bf16, with 8 bits a number, makes a larger one. Lightning's
    ``deterministic``, which allows only kernels of a fixed order, is not set: it costs speed, and
    some operations have no such kernel.

    Raises DivergedError if the loss is no longer finite, and then the folder holds the best weights
    so far; ValueError for an unknown option.
    """
    task = "age" if model.config["model"] == "ResNetAgeRegressor" else "pairs"
    if task == "pairs" and isinstance(train, np.ndarray) and not embeds_once(model):
        raise ValueError(
            f"{model.config['model']} sees two faces at once and cannot be trained on all pairs of "
            "a batch: set pairing to 'list'"
        )
    _known("optimizer", optimizer, OPTIMIZERS)
    precision = pick_precision(precision, pick_device(device))
    _known("precision", precision, [*PRECISIONS, "auto"])
    _known("schedule", schedule, SCHEDULES)
    _known("augment", augment, AUGMENTATIONS)
    settings = {
        **dict(task=task, epochs=epochs, batch_size=batch_size, lr=lr, backbone_lr=backbone_lr),
        **dict(weight_decay=weight_decay, optimizer=optimizer, schedule=schedule, augment=augment),
        **dict(patience=patience),
        **dict(clip=clip, ema=ema, age_weight=age_weight, steps_per_epoch=steps_per_epoch),
        **dict(precision=precision, devices=devices, seed=seed, year_diff=year_diff),
        "made_from": digest_of(model, images, ages, train, val),
    }
    folder = Path(folder)
    if not retrain and _settings(folder / "config.json") == settings:
        fitted = Fitted(load_model(folder), read_history(folder), reused=True)
        if (folder / "training.json").exists():  # it was killed between training and its boards
            _conclude(folder, fitted, images, ages, val, settings, tensorboard, show_faces)
        return fitted
    model.image_size = images.shape[-1]
    # Lightning trains a model in the mode it finds. Convolutions are fastest channels-last.
    model.train().to(memory_format=torch.channels_last)
    bar, lines = progress and shows_bars(), progress and not shows_bars()
    training = Task(model, images, ages, train, val, settings, on_epoch, features, lines)
    checkpoint = _checkpoint(folder, settings)
    options = (training, folder, checkpoint, settings, device, tensorboard, bar)
    try:
        _train(*options) if devices == 1 else _train_apart(options)
    except DivergedError as error:
        if not (folder / "best.ckpt").exists():
            raise
        history = _keep_best(model, folder, settings | {"diverged": str(error)}, images)
        _remove_checkpoints(folder)
        best = history.epoch[history.val_loss.idxmin()]
        message = f"{error}; {folder.name}/ holds the best weights before it, of epoch {best}"
        raise DivergedError(message) from None
    fitted = Fitted(model, _keep_best(model, folder, settings, images), reused=False)
    _conclude(folder, fitted, images, ages, val, settings, tensorboard, show_faces)
    return fitted


def _conclude(folder, fitted, images, ages, val, settings, tensorboard, show_faces) -> None:
    if tensorboard:
        shown = (images, ages, val, settings, fitted.history, show_faces)
        write_boards(tensorboard, fitted.model, *shown)
    _remove_checkpoints(folder)


def _remove_checkpoints(folder: Path) -> None:
    for leftover in ("best.ckpt", "last.ckpt", "training.json"):
        (folder / leftover).unlink(missing_ok=True)


def _train(training, folder, checkpoint, settings, device, tensorboard, bar) -> None:
    with _quiet_lightning():
        trainer = _trainer(folder, settings, device, tensorboard, bar)
        trainer.fit(training, ckpt_path=checkpoint, weights_only=True)


def _train_apart(options: tuple) -> None:
    """Train in a process of its own, which starts one for each device: a notebook cannot."""
    try:
        torch.multiprocessing.spawn(_rank_zero, (options,))
    except torch.multiprocessing.ProcessRaisedException as error:
        diverged = re.findall(rf"{DivergedError.__name__}: (.*)", str(error))
        raise DivergedError(diverged[-1]) if diverged else error from None


def _rank_zero(number: int, options: tuple) -> None:
    _train(*options)


def _keep_best(model, folder: Path, settings: dict, images: Tensor) -> pd.DataFrame:
    """Put the best epoch's weights into ``model`` and its folder; returns the history."""
    best = torch.load(folder / "best.ckpt", map_location="cpu", weights_only=True)
    last = torch.load(folder / "last.ckpt", map_location="cpu", weights_only=True)
    prefix = "average.module." if settings["ema"] else "model."
    weights = best["state_dict"].items()
    model.load_state_dict({k.removeprefix(prefix): v for k, v in weights if k.startswith(prefix)})
    model.to("cpu").eval()
    history = pd.DataFrame(last["history"])
    save_model(model, folder, settings=settings, image_size=images.shape[-1], history=history)
    return history


def fit_options(params: Params) -> dict:
    """The options of ``fit`` that a parameter file states, as keyword arguments."""
    names = inspect.signature(fit).parameters.keys() - {"train", "val"}  # there: per cent of faces
    return {name: value for name, value in params.model_dump().items() if name in names}


def _known(what: str, value: str, known) -> None:
    if value not in known:
        raise ValueError(f"{what} {value!r} is not known: expected one of {', '.join(known)}")


def digest_of(
    model: nn.Module,
    images: Tensor,
    ages: Tensor,
    train: Pairs | np.ndarray,
    val: Pairs | np.ndarray,
) -> str:
    """One hash over the initial weights, the images' first bytes, the labels and the pairs.

    The arguments are those of ``fit``.
    """
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
        return read_json(path)["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _holds_weights(path: Path) -> bool:
    """Whether a checkpoint is whole and holds plain data; any other pickle is not even unpacked."""
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever a damaged or hostile file makes torch stumble over
        return False
    return True


def _checkpoint(folder: Path, settings: dict) -> Path | None:
    """The checkpoint to go on from; one made with other settings, or unreadable, is removed."""
    last, best, note = (folder / name for name in ("last.ckpt", "best.ckpt", "training.json"))
    if _settings(note) == settings and all(map(_holds_weights, (last, best))):
        return last
    for leftover in (last, best):
        leftover.unlink(missing_ok=True)
    with atomic(note) as temporary:
        temporary.write_text(json.dumps({"settings": settings}))
    return None


def _trainer(folder, settings, device, tensorboard, bar) -> L.Trainer:
    logger = TensorBoardLogger(tensorboard, name="", version="") if tensorboard else False
    callbacks = [
        EarlyStopping("val_loss", patience=settings["patience"], check_on_train_epoch_end=True),
        _checkpoints(folder, "best", monitor="val_loss", save_weights_only=True),
        _checkpoints(folder, "last"),
    ]
    if bar:
        callbacks.append(TQDMProgressBar(refresh_rate=20, leave=False))
    return L.Trainer(
        max_epochs=settings["epochs"],
        limit_train_batches=settings["steps_per_epoch"],
        accelerator="gpu" if pick_device(device).type == "cuda" else "cpu",
        devices=settings["devices"],
        strategy="ddp_spawn" if settings["devices"] > 1 else "auto",
        use_distributed_sampler=False,
        gradient_clip_val=settings["clip"] or None,
        precision=PRECISIONS[settings["precision"]],
        logger=logger,
        callbacks=callbacks,
        plugins=[WholeCheckpoints()],
        reload_dataloaders_every_n_epochs=1,
        enable_progress_bar=bar,
        enable_model_summary=False,
        log_every_n_steps=20,
    )


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are there whole or not at all.

    Lightning writes them to the system's folder for temporary files and moves them from there,
    which is a copy where that lies on another disk: a kill leaves half of one here, or one there.
    """

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        buffer = io.BytesIO()  # writing to a full disk, torch.save would not say why it fails
        torch.save(checkpoint, buffer)
        with atomic(Path(path)) as temporary:
            temporary.write_bytes(buffer.getbuffer())


def _checkpoints(folder: Path, name: str, **options) -> ModelCheckpoint:
    """Keep one file, written after every epoch, or after each that is better in ``monitor``."""
    return ModelCheckpoint(
        folder, name, save_on_train_epoch_end=True, enable_version_counter=False, **options
    )


@contextlib.contextmanager
def _quiet_lightning():
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
