"""The Lightning module, its progress display and its trainer.

All random draws depend only on (seed, epoch), so a killed training resumes after its last finished
epoch and ends with the same weights as an uninterrupted one.
"""

import builtins
import io
import logging
import math
import os
import re
import sys
import time
import warnings
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from utkcmp.data.pairs import Pairs
from utkcmp.evaluation.metrics import pair_metrics
from utkcmp.files import atomic
from utkcmp.models import inference, networks
from utkcmp.training.augmentation import Augmentation
from utkcmp.training.batches import ComparedFaces, FaceBatches, PairBatches
from utkcmp.training.settings import DivergedError, Settings

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
WARM_UP = 0.03  # share of the steps with linear warm-up
KEPT_LOGITS = 256  # per step, for the training AUC
# Set by torchrun and other launchers for the processes that they start.
LAUNCHED = "MASTER_ADDR MASTER_PORT NODE_RANK GROUP_RANK RANK LOCAL_RANK WORLD_SIZE".split()
LAUNCHED += ["TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"]


def warm_cosine(step: int, steps: int) -> float:
    """The factor on the learning rate: linear warm-up over WARM_UP of the steps, cosine decay.

    >>> [round(warm_cosine(step, 100), 2) for step in (0, 2, 50, 100)]
    [0.33, 1.0, 0.5, 0.0]
    """
    risen = (step + 1) / max(1, WARM_UP * steps)
    return min(1, risen) * (1 + math.cos(math.pi * min(1, step / steps))) / 2


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a model's weights and buffers.

    After n steps the decay is at most (1 + n) / (10 + n), as in TensorFlow, so that the initial
    weights are soon forgotten. Counters, such as batch normalisation's, are copied.
    """

    def blend(averaged, current, steps):
        if not current[0].is_floating_point():  # an average would be truncated
            torch._foreach_copy_(averaged, current)
            return
        early = (1 + int(steps)) / (10 + int(steps))
        get_ema_multi_avg_fn(min(decay, early))(averaged, current, steps)

    return AveragedModel(model, multi_avg_fn=blend, use_buffers=True).requires_grad_(False)


class Task(L.LightningModule):
    """A model and its training, from the arguments of ``solver.fit``.

    made: the settings and digests that identify the training, stored in its checkpoints.
    """

    def __init__(
        self, model, data, train, val, settings: Settings, made, features=None, on_epoch=None
    ):
        super().__init__()
        self.model, self.images, self.ages = model, data.images, data.ages
        self.train_on, self.validate_on = train, val
        self.settings, self.made = settings, made
        self.features, self.on_epoch = features, on_epoch
        self.augmentation = Augmentation(settings.augment)
        self.by_age = isinstance(model, networks.ResNetAgeRegressor)
        self.frozen = isinstance(model, networks.SiameseResNetAge)
        with_ages = settings.age_weight > 0 and not (self.by_age or self.frozen)
        faces = 1 if inference.embeds_once(model) else 2  # per feature vector
        self.age_heads = nn.ModuleList(
            networks.AgeDistribution(model.features, model.config["options"].get("weights"))
            for _ in range(faces if with_ages else 0)
        )
        if isinstance(model, networks.RankingAgeRegressor):  # it has its own
            self.age_heads = nn.ModuleList([model.regressor.head])
        self.average: AveragedModel | None = None
        self.history: list[dict] = []

    def setup(self, stage):
        if self.settings.ema and self.average is None:
            self.average = moving_average(self.model, self.settings.ema)

    def on_fit_start(self):
        self.ages = self.ages.to(self.device)
        if self.device.type != "cpu":
            self.images = self.images.to(self.device)
        if self.frozen:  # so each face is embedded only once
            if self.features is None:
                rows = np.arange(len(self.images))
                self.features = inference.apply_rows(self.model.embed, self.images, rows)
            self.features = self.features.to(self.device)

    def train_dataloader(self):
        s, trainer = self.settings, self.trainer
        share = (trainer.global_rank, trainer.world_size)
        shuffling = (s.batch_size, s.seed, self.current_epoch, share)
        if isinstance(self.train_on, Pairs):
            return PairBatches(self.train_on, *shuffling)
        if self.by_age:
            return FaceBatches(self.train_on, *shuffling)
        return ComparedFaces(self.train_on, self.ages.cpu(), s.year_diff, *shuffling)

    def configure_optimizers(self):
        s = self.settings
        weights = [p for p in self.parameters() if p.requires_grad]
        if s.backbone_lr != 1 and hasattr(self.model, "backbone"):
            slow = set(self.model.backbone.parameters())
            weights = [
                {"params": [p for p in weights if p not in slow]},
                {"params": [p for p in weights if p in slow], "lr": s.backbone_lr * s.lr},
            ]
        extra = {"momentum": 0.9, "nesterov": True} if s.optimizer == "sgd" else {}
        fused = s.precision == "32" or s.clip == 0  # else Lightning cannot clip
        optimizer = OPTIMIZERS[s.optimizer](
            weights, lr=s.lr, weight_decay=s.weight_decay, fused=fused, **extra
        )
        if s.schedule == "constant":
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = LambdaLR(optimizer, lambda step: warm_cosine(step, steps))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def on_train_epoch_start(self):
        torch.manual_seed(self.settings.seed * 100_003 + self.current_epoch + self.global_rank)
        self.started, self.losses, self.kept = time.perf_counter(), [], []

    def training_step(self, batch, step):
        if self.by_age:
            loss = self.model.loss(self.augmentation(self.images[batch]), self.ages[batch])
            self.losses.append(loss.detach())
            return loss
        logits, label, age_loss = self.answers(batch)
        loss = binary_cross_entropy_with_logits(logits, label)
        every = max(1, len(logits) // KEPT_LOGITS)
        self.losses.append(loss.detach())
        self.kept.append((logits.detach()[::every], label[::every]))
        return loss + self.settings.age_weight * age_loss

    def answers(self, batch) -> tuple[Tensor, Tensor, Tensor | float]:
        """Logits and labels of a batch of PairBatches or ComparedFaces, and the age heads' loss."""
        if len(batch) == 4:
            rows, left, right, label = batch
            contributed, age_loss = self.contributed(rows)
            return self.model.compare(contributed[left], contributed[right]), label, age_loss
        left, right, label = batch
        if not inference.embeds_once(self.model):
            sides = (self.augmentation(self.images[side]) for side in (left, right))
            features = self.model.embed(*sides)
            return self.model.answer(*features), label, self.age_loss(features[0], left, right)
        contributed, age_loss = self.contributed(torch.cat([left, right]))
        return self.model.compare(*contributed.chunk(2)), label, age_loss

    def contributed(self, rows: Tensor) -> tuple[Tensor, Tensor | float]:
        if self.features is not None:
            return self.model.contribute(self.features[rows]), 0.0
        features = self.model.embed(self.augmentation(self.images[rows]))
        return self.model.contribute(features), self.age_loss(features, rows)

    def age_loss(self, features: Tensor, *sides: Tensor) -> Tensor | float:
        """Mean loss of the age heads on features (B, D), 0 without heads.

        sides: for each head, the (B,) rows of its faces.
        """
        losses = [
            head.loss(head(features), self.ages[rows])
            for head, rows in zip(self.age_heads, sides, strict=False)
        ]
        return sum(losses) / len(losses) if losses else 0.0

    def on_train_batch_end(self, outputs, batch, step):
        if self.average:
            self.average.update_parameters(self.model)
        watched = self.device.type == "cpu" or step % 50 == 49  # reading the loss stalls a GPU
        if watched and not torch.isfinite(self.losses[-1]):
            self.diverged("training", self.losses[-1].item(), f", step {step + 1}")

    def on_train_epoch_end(self):
        row = {"epoch": self.current_epoch + 1}
        row["train_loss"] = float(torch.stack(self.losses).mean())
        if self.kept:
            kept = zip(*self.kept, strict=True)
            logits, label = (torch.cat(part).float().cpu().numpy() for part in kept)
            shown = pair_metrics(logits, label)
            row |= {"train_accuracy": shown["accuracy"], "train_auc": shown["auc"]}
        # Rank 0 validates for all processes, so that all stop in the same epoch.
        measured = self.validate() if self.global_rank == 0 else None
        measured = self.trainer.strategy.broadcast(measured)
        if not math.isfinite(measured["loss"]):  # no training loss has seen the last update
            self.diverged("validation", measured["loss"])
        row |= {f"val_{name}": value for name, value in measured.items()}
        row["lr"] = self.optimizers().param_groups[0]["lr"]
        row["seconds"] = time.perf_counter() - self.started
        self.history.append(row)
        curves = {k: float(v) for k, v in row.items() if k != "epoch"}
        self.log_dict(curves | {"step": float(row["epoch"])})  # "step" sets the curves' x axis
        if self.on_epoch:
            self.on_epoch(row)

    def diverged(self, which: str, loss: float, step: str = ""):
        rate = self.optimizers().param_groups[0]["lr"]
        raise DivergedError(
            f"the {which} loss is {loss} in epoch {self.current_epoch + 1}{step}, learning rate "
            f"{rate:.3g}: try a smaller learning rate"
        )

    def validate(self) -> dict[str, float]:
        """The validation metrics, in evaluation mode, of the moving average if there is one."""
        val, model = self.validate_on, self.average.module if self.average else self.model
        if self.by_age:
            wrong = inference.predict_ages(model, self.images, val) - self.ages.cpu().numpy()[val]
            loss = float((wrong**2).mean()) / float(model.age_std) ** 2
            return {"loss": loss, "mae": float(np.abs(wrong).mean())}
        if self.features is None:
            precision = self.trainer.precision_plugin.forward_context
            logits = inference.pair_logits(model, self.images, val, embedding=precision)
        else:
            with inference.evaluating(model), torch.no_grad():
                contributed = model.contribute(self.features)
                logits = inference.compared_logits(model, contributed, val.left, val.right)
        return pair_metrics(logits, val.label)

    def on_save_checkpoint(self, checkpoint):
        checkpoint |= {"history": self.history, "made": self.made}

    def on_load_checkpoint(self, checkpoint):
        self.history = checkpoint["history"]


class Progress(L.Callback):
    """A progress bar in a terminal or notebook, otherwise one line per epoch."""

    def on_train_start(self, trainer, task):
        steps = {"total": trainer.estimated_stepping_batches, "initial": trainer.global_step}
        self.bar = tqdm(**steps, unit="step", leave=False, disable=not on_screen())
        self.validated = ""

    def on_train_batch_end(self, trainer, task, outputs, batch, step):
        if self.bar.update():  # at most ten times per second, as reading the loss stalls a GPU
            loss = f"training loss {float(task.losses[-1]):.3f}"
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self.bar.set_description_str(f"{epoch}, {loss}{self.validated}", refresh=False)

    def on_train_epoch_start(self, trainer, task):
        """Report the previous epoch: its row is made after the callbacks of its end."""
        if not task.history:
            return
        row = task.history[-1]
        shown = [name for name in ("val_loss", "val_auc", "val_mae") if name in row]
        named = (f"{name.removeprefix('val_')} {row[name]:.3f}" for name in shown)
        self.validated = f", validation {', '.join(named)}"
        if self.bar.disable and trainer.is_global_zero:
            epoch = f"epoch {row['epoch']}/{trainer.max_epochs}"
            loss = f"training loss {row['train_loss']:.3f}"
            print(f"{epoch}, {loss}{self.validated}", file=sys.stderr, flush=True)

    on_train_end = on_train_epoch_start

    def teardown(self, trainer, task, stage):
        if hasattr(self, "bar"):
            self.bar.close()


def on_screen() -> bool:
    """Whether output goes to a notebook or a terminal."""
    return hasattr(builtins, "__IPYTHON__") or sys.stderr.isatty()


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are written atomically.

    Lightning moves them from the system's temporary folder, which may be on another disk: a kill
    would leave half a checkpoint here, or a whole one there.
    """

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        buffer = io.BytesIO()  # on a full disk, torch.save itself would not give the reason
        torch.save(checkpoint, buffer)
        with atomic(Path(path)) as temporary:
            temporary.write_bytes(buffer.getbuffer())


def train_here(task: Task, folder: Path, checkpoint: Path | None, tensorboard: Path | None) -> None:
    """Train, or resume from a checkpoint; leaves best.ckpt and last.ckpt in ``folder``."""
    s = task.settings
    always = {"save_on_train_epoch_end": True, "enable_version_counter": False}
    callbacks = [
        EarlyStopping("val_loss", patience=s.patience, check_on_train_epoch_end=True),
        ModelCheckpoint(folder, "best", monitor="val_loss", save_weights_only=True, **always),
        ModelCheckpoint(folder, "last", **always),
        Progress(),
    ]
    for name in ("lightning.pytorch", "lightning.fabric"):  # banners, and advice about loaders
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer = L.Trainer(
            max_epochs=s.epochs,
            limit_train_batches=s.steps_per_epoch,
            accelerator="gpu" if inference.pick_device(s.device).type == "cuda" else "cpu",
            devices=s.devices,
            strategy="ddp_spawn" if s.devices > 1 else "auto",
            use_distributed_sampler=False,
            gradient_clip_val=s.clip or None,
            precision=PRECISIONS[s.precision],
            logger=TensorBoardLogger(tensorboard, name="", version="") if tensorboard else False,
            callbacks=callbacks,
            # LightningEnvironment ignores the variables of a scheduler such as Slurm.
            plugins=[WholeCheckpoints(), LightningEnvironment()],
            reload_dataloaders_every_n_epochs=1,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(task, ckpt_path=checkpoint, weights_only=True)


def train_in_processes(*options) -> None:
    """``train_here`` in a new process that can start one per device, which a notebook cannot."""
    try:
        torch.multiprocessing.spawn(_rank_zero, options)
    except torch.multiprocessing.ProcessRaisedException as error:
        diverged = re.findall(rf"{DivergedError.__name__}: (.*)", str(error))
        raise DivergedError(diverged[-1]) if diverged else error from None


def _rank_zero(number: int, *options) -> None:
    for name in LAUNCHED:  # they are not about the processes started here
        os.environ.pop(name, None)
    train_here(*options)
