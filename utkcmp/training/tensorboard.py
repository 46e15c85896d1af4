"""What TensorBoard shows of a finished training, beside the curves that were logged meanwhile."""

import logging
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from utkcmp.data.pairs import Pairs
from utkcmp.models.inference import pair_logits, to_float
from utkcmp.plots.evaluation import roc_curves
from utkcmp.plots.style import pair_tiles

TILES = 12  # answered pairs in the grid


def write_boards(
    folder: Path,
    model: nn.Module,
    images: Tensor,
    ages: Tensor,
    val: Pairs | np.ndarray,
    settings: dict,
    history: pd.DataFrame,
    show_faces: bool = True,
) -> None:
    """Write hyper-parameters with the best epoch's figures, the model's graph and, for a pair
    model, the ROC curve and a grid of answers to validation pairs. Arguments as in ``solver.fit``.
    """
    step = int(history.epoch.iloc[-1])
    with SummaryWriter(str(folder)) as writer:
        best = history.loc[history.val_loss.idxmin()]
        figures = {f"best/{name}": float(best[name]) for name in history if name.startswith("val_")}
        options = settings | model.config["options"] | {"model": model.config["model"]}
        simple = {k: v if isinstance(v, int | float) else str(v) for k, v in options.items()}
        simple.pop("made_from", None)
        writer.add_hparams(simple, figures, run_name=".", global_step=step)
        inputs = to_float(images[:2])
        if isinstance(val, Pairs):
            logits = pair_logits(model, images, val)
            title = model.config["model"]
            writer.add_figure("roc", roc_curves({title: (val.label, logits)}), step)
            grid = _grid(images.numpy(), ages.numpy(), val[:TILES], logits[:TILES], show_faces)
            writer.add_figure("answers", grid, step)
            inputs = (inputs, inputs)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracer's advice
            logging.getLogger("torch").setLevel(logging.ERROR)
            writer.add_graph(model, inputs)


def _grid(images: np.ndarray, ages: np.ndarray, pairs: Pairs, logits: np.ndarray, show_faces: bool):
    table = pd.DataFrame(
        {
            "left": pairs.left,
            "right": pairs.right,
            "left_age": ages[pairs.left].astype(int),
            "right_age": ages[pairs.right].astype(int),
            "answer": np.where(logits > 0, "left", "right"),
            "confidence": 1 / (1 + np.exp(-np.abs(logits))),
        }
    )
    return pair_tiles(images, table, show_faces=show_faces)
