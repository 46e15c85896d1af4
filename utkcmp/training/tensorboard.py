"""What TensorBoard shows of a finished training, in addition to the curves logged meanwhile."""

import logging
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from torch.utils.tensorboard import SummaryWriter

from utkcmp.data.drawing import StandIns
from utkcmp.data.pairs import Pairs
from utkcmp.models.inference import pair_logits, to_float
from utkcmp.plots.evaluation import roc_curves
from utkcmp.plots.style import pair_tiles

TILES = 12  # answered pairs in the grid


def write_boards(folder: Path, fitted, data, val: Pairs | np.ndarray, settings) -> None:
    """Write hyperparameters with the best epoch's metrics, the model's graph and, for a pair model,
    the ROC curve and a grid of answered validation pairs. Arguments as for ``solver.fit``."""
    model, best = fitted.model, fitted.best
    step = int(fitted.history.epoch.iloc[-1])
    with SummaryWriter(str(folder)) as writer:
        figures = {f"best/{name}": float(best[name]) for name in best.index if "val_" in name}
        options = settings.stored() | model.config["options"] | {"model": model.config["model"]}
        simple = {k: v if isinstance(v, int | float) else str(v) for k, v in options.items()}
        writer.add_hparams(simple, figures, run_name=".", global_step=step)
        inputs = to_float(data.images[:2])
        if isinstance(val, Pairs):
            logits = pair_logits(model, data.images, val)
            curves = roc_curves({model.config["model"]: (val.label, logits)})
            writer.add_figure("roc", curves, step)
            faces = pd.DataFrame({"age": data.ages.numpy().astype(int), "file": ""})
            table = val[:TILES].table(faces)
            table["answer"] = np.where(logits[:TILES] > 0, "left", "right")
            table["confidence"] = expit(np.abs(logits[:TILES]))
            images = data.images.numpy() if settings.show_faces else StandIns(data.ages)
            tiles = pair_tiles(images, table, drawn=not settings.show_faces)
            writer.add_figure("answers", tiles, step)
            inputs = (inputs, inputs)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the tracer
            logging.getLogger("torch").setLevel(logging.ERROR)
            writer.add_graph(model, inputs)
