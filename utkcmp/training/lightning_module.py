"""One training as Lightning sees it: what a step does with a batch, and what an epoch reports.

What a step draws at random depends on (seed, epoch) alone, so a run that was killed goes on from
its last finished epoch and ends with the same weights as one that was not.
"""

import builtins
import math
import sys
import time

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from utkcmp.data.pairs import Pairs
from utkcmp.evaluation.metrics import pair_metrics
from utkcmp.models.inference import (
    apply_rows,
    compared_logits,
    embeds_once,
    pair_logits,
    predict_ages,
)
from utkcmp.models.networks import AgeDistribution, SiameseResNetAge
from utkcmp.training.augmentation import Augmentation
from utkcmp.training.batches import ComparedFaces, FaceBatches, PairBatches

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
SCHEDULES = ("constant", "cosine")
WARM_UP = 0.03  # share of the steps in which the cosine schedule's rate rises to its value
KEPT_LOGITS = 256  # a step, for the training AUC


class DivergedError(ArithmeticError):
    """The training or the validation loss is no longer a finite number."""


def warm_cosine(step: int, steps: int) -> float:
    """The learning rate of a step as a share of its value: up within WARM_UP, then a half cosine.

    >>> [round(warm_cosine(step, 100), 2) for step in (0, 2, 50, 100)]
    [0.33, 1.0, 0.5, 0.0]
    """
    risen = (step + 1) / max(1, WARM_UP * steps)
    return min(1, risen) * (1 + math.cos(math.pi * min(1, step / steps))) / 2


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a model's weights and buffers, which starts young.

    After n steps the decay is at most (1 + n) / (10 + n), as in TensorFlow's
    ExponentialMovingAverage: an average over a few hundred steps does not show the beginning.
    """

    def blend(averaged, current, steps):
        young = (1 + int(steps)) / (10 + int(steps))
        get_ema_multi_avg_fn(min(decay, young))(averaged, current, steps)

    return AveragedModel(model, multi_avg_fn=blend, use_buffers=True).requires_grad_(False)


class Task(L.LightningModule):
    """A model, the images in memory, and the settings of ``solver.fit``.

    features: (N, D) of a frozen model's faces, if they are known. lines: print one an epoch.
    """

    def __init__(
        self, model, images, ages, train, val, settings, on_epoch=None, features=None, lines=False
    ):
        super().__init__()
        self.model, self.ages = model, ages
        self.images, self.features = images, features
        self.train_on, self.validate_on = train, val
        self.settings, self.on_epoch, self.lines = settings, on_epoch, lines
        self.augmentation = Augmentation(settings["augment"])
        frozen = isinstance(model, SiameseResNetAge)
        ages_in_view = 1 if embeds_once(model) else 2
        with_ages = settings["age_weight"] > 0 and settings["task"] == "pairs" and not frozen
        self.age_heads = nn.ModuleList(
            AgeDistribution(model.features, model.config["options"].get("weights"))
            for _ in range(ages_in_view if with_ages else 0)
        )
        self.average: AveragedModel | None = None
        self.history: list[dict] = []

    def setup(self, stage):
        if self.settings["ema"] and self.average is None:
            self.average = moving_average(self.model, self.settings["ema"])

    @property
    def validated(self):
        """The network whose figures count: the moving average, if there is one."""
        return self.average.module if self.average else self.model

    def on_fit_start(self):
        self.ages = self.ages.to(self.device)
        if self.device.type != "cpu":
            self.images = self.images.to(self.device)
        if isinstance(self.model, SiameseResNetAge):  # frozen: each face is embedded only once
            self.model.eval()
            if self.features is None:
                rows = np.arange(len(self.images))
                self.features = apply_rows(self.model.embed, self.images, rows)
            self.features = self.features.to(self.device)

    def train_dataloader(self):
        s, trainer = self.settings, self.trainer
        share = (trainer.global_rank, trainer.world_size)
        shuffling = (s["batch_size"], s["seed"], self.current_epoch, share)
        if isinstance(self.train_on, Pairs):
            return PairBatches(self.train_on, *shuffling)
        if s["task"] == "age":
            return FaceBatches(self.train_on, *shuffling)
        return ComparedFaces(self.train_on, self.ages.cpu(), s["year_diff"], *shuffling)

    def configure_optimizers(self):
        s = self.settings
        backbone, heads = [], []
        for name, weight in self.named_parameters():
            if weight.requires_grad:
                (backbone if name.startswith("model.backbone.") else heads).append(weight)
        groups = [{"params": heads}]
        if backbone:
            groups.append({"params": backbone, "lr": s["lr"] * s["backbone_lr"]})
        extra = {"momentum": 0.9, "nesterov": True} if s["optimizer"] == "sgd" else {}
        scaled = s["precision"] == "16" and s["clip"] > 0  # a fused step leaves nothing to clip
        optimizer = OPTIMIZERS[s["optimizer"]](
            groups, lr=s["lr"], weight_decay=s["weight_decay"], fused=not scaled, **extra
        )
        if s["schedule"] == "constant":
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = LambdaLR(optimizer, lambda step: warm_cosine(step, steps))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def on_train_epoch_start(self):
        torch.manual_seed(self.settings["seed"] * 100_003 + self.current_epoch + self.global_rank)
        self.started, self.losses, self.kept = time.perf_counter(), [], []

    def faces(self, rows: Tensor) -> Tensor:
        """The faces of the given rows as the network takes them, (B, 3, S, S) float32."""
        return self.augmentation(self.images[rows])

    def training_step(self, batch, step):
        if self.settings["task"] == "age":
            loss = self.model.loss(self.faces(batch), self.ages[batch])
            self.losses.append(loss.detach())
            return loss
        logits, label, age_loss = self.answers(batch)
        loss = binary_cross_entropy_with_logits(logits, label)
        every = max(1, len(logits) // KEPT_LOGITS)
        self.losses.append(loss.detach())
        self.kept.append((logits.detach()[::every], label[::every]))
        return loss + self.settings["age_weight"] * age_loss

    def answers(self, batch) -> tuple[Tensor, Tensor, Tensor | float]:
        """Logits and labels of a batch of PairBatches or of ComparedFaces, and the loss of the age
        heads on its faces (0 without any)."""
        if len(batch) == 4:
            rows, left, right, label = batch
            contributed, age_loss = self.contributed(rows)
            return self.model.compare(contributed[left], contributed[right]), label, age_loss
        left, right, label = batch
        if not embeds_once(self.model):
            features = self.model.embed(self.faces(left), self.faces(right))
            return self.model.answer(*features), label, self.age_loss(features[0], left, right)
        contributed, age_loss = self.contributed(torch.cat([left, right]))
        return self.model.compare(*contributed.chunk(2)), label, age_loss

    def contributed(self, rows: Tensor) -> tuple[Tensor, Tensor | float]:
        if self.features is not None:
            return self.model.contribute(self.features[rows]), 0.0
        features = self.model.embed(self.faces(rows))
        return self.model.contribute(features), self.age_loss(features, rows)

    def age_loss(self, features: Tensor, *sides: Tensor) -> Tensor | float:
        """Mean loss of the age heads, one for each of the faces that the features (B, D) show.

        sides: the (B,) rows of these faces.
        """
        losses = [
            head.loss(head(features), self.ages[rows])
            for head, rows in zip(self.age_heads, sides, strict=False)
        ]
        return sum(losses) / len(losses) if losses else 0.0

    def on_train_batch_end(self, outputs, batch, step):
        if self.average:
            self.average.update_parameters(self.model)
        watched = self.device.type == "cpu" or step % 50 == 49  # a GPU is not made to wait
        if watched and not torch.isfinite(self.losses[-1]):
            self.diverged("training", self.losses[-1].item(), f", step {step + 1}")

    def on_train_epoch_end(self):
        row = {"epoch": self.current_epoch + 1}
        row["train_loss"] = float(torch.stack(self.losses).mean())
        if self.kept:
            logits, label = (
                torch.cat(part).float().cpu().numpy() for part in zip(*self.kept, strict=True)
            )
            shown = pair_metrics(logits, label)
            row |= {"train_accuracy": shown["accuracy"], "train_auc": shown["auc"]}
        # One process measures for all, so that all stop in the same epoch.
        measured = self.validate() if self.global_rank == 0 else None
        measured = self.trainer.strategy.broadcast(measured)
        if not math.isfinite(measured["loss"]):  # the last step's loss was that before the step
            self.diverged("validation", measured["loss"])
        row |= {f"val_{name}": value for name, value in measured.items()}
        row["lr"] = self.optimizers().param_groups[0]["lr"]
        row["seconds"] = time.perf_counter() - self.started
        self.history.append(row)
        self.log_dict({k: float(v) for k, v in row.items() if k != "epoch"})
        if self.lines and self.global_rank == 0:
            print(epoch_line(row, self.trainer.max_epochs), file=sys.stderr, flush=True)
        if self.on_epoch:
            self.on_epoch(row)

    def diverged(self, which: str, loss: float, step: str = ""):
        rate = self.optimizers().param_groups[0]["lr"]
        raise DivergedError(
            f"the {which} loss is {loss} in epoch {self.current_epoch + 1}{step}, learning rate "
            f"{rate:.3g}: try a smaller learning rate"
        )

    def validate(self) -> dict[str, float]:
        """The validation figures, with dropout off and batch-norm statistics fixed."""
        val, model = self.validate_on, self.validated
        if self.settings["task"] == "age":
            ages, got = self.ages.cpu().numpy()[val], predict_ages(model, self.images, val)
            return {
                "loss": float(((got - ages) ** 2).mean()) / float(model.age_std) ** 2,
                "mae": float(np.abs(got - ages).mean()),
            }
        if self.features is None:
            precision = self.trainer.precision_plugin.forward_context
            return pair_metrics(
                pair_logits(model, self.images, val, embedding=precision), val.label
            )
        model.eval()
        with torch.no_grad():
            contributed = model.contribute(self.features)
        logits = compared_logits(model, contributed, val.left, val.right)
        model.train()
        return pair_metrics(logits, val.label)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint):
        self.history = checkpoint["history"]


def epoch_line(row: dict, epochs: int) -> str:
    """What an output that is no screen (a log file, a batch job) gets to see of an epoch.

    >>> row = {"epoch": 1, "train_loss": 0.7, "val_loss": 0.65, "val_auc": 0.71, "seconds": 8.0}
    >>> epoch_line(row, 3)
    'epoch 1/3  train loss 0.7000  val loss 0.6500  val auc 0.7100  8.0 s'
    """
    shown = "val_auc" if "val_auc" in row else "val_mae"
    return (
        f"epoch {row['epoch']}/{epochs}  train loss {row['train_loss']:.4f}  "
        f"val loss {row['val_loss']:.4f}  {shown.replace('_', ' ')} {row[shown]:.4f}  "
        f"{row['seconds']:.1f} s"
    )


def shows_bars() -> bool:
    """Whether output goes to a notebook or a terminal, which can draw a progress bar."""
    return hasattr(builtins, "__IPYTHON__") or sys.stderr.isatty()
