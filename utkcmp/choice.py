"""The model of a run that answers about photos, and what its confidence is worth."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from utkcmp.alignment import measure_frame
from utkcmp.answering import CHOICE, Calibration
from utkcmp.comparison import model_folders
from utkcmp.datasets import RunData
from utkcmp.faces import decode
from utkcmp.graphs import load_pair_model
from utkcmp.inference import compared_logits, contributions, embeds_once, pair_logits
from utkcmp.pairs import Pairs
from utkcmp.params import EMBEDDED, data_source
from utkcmp.run import Run, atomic, by_validation
from utkcmp.sources import read_files
from utkcmp.trust import fit_temperature

FRAME_FACES = 100  # validation faces by which a run's frame is measured


def choose_model(run: Run) -> str:
    """The folder below ``models/`` of the model that is to answer, recorded in ``compare.json``.

    It is the one with the highest validation AUC of those that look at each face by itself, since
    only these order an album without asking about every two faces anew.
    Raises FileNotFoundError if the run has no such model.
    """
    folders, ranked = model_folders(run), by_validation(run.read_results())
    able = [folders[name] for name in ranked if name in folders and "twice" not in name]
    for name in able:
        if embeds_once(load_pair_model(run.model(name))[0]):
            with atomic(run.folder / CHOICE) as temporary:
                temporary.write_text(json.dumps({"model": name}) + "\n")
            return name
    raise FileNotFoundError(
        f"{run.shown(run.model('.'))} holds no evaluated model: run notebook 04 or 06 first"
    )


def calibrate_models(run: Run, data: RunData) -> dict[str, Calibration]:
    """``calibrate`` for each of a run's models that look at each face by itself, by its folder."""
    folders = [run.model(name) for name in dict.fromkeys(model_folders(run).values())]
    frame = measure_frame(read_crops(data, data.rows("val")[:FRAME_FACES])).round(1).tolist()
    able = [folder for folder in folders if embeds_once(load_pair_model(folder)[0])]
    return {folder.name: calibrate(folder, data, frame) for folder in able}


def calibrate(folder: Path, data: RunData, frame: list[list[float]] | None = None) -> Calibration:
    """Measure a trained model's temperature on validation pairs and write it beside the model.

    The temperature is that of answers by both orders of two faces, as photos get them.
    frame: where its training faces have their points, as from ``alignment.measure_frame``.
    """
    model, _ = load_pair_model(folder)
    pairs = data.pairs("val")
    temperature = fit_temperature(symmetric_logits(model, data, pairs), pairs.label)
    drawn = data.params.data == EMBEDDED
    found = Calibration(temperature, len(pairs), frame, drawn)
    found.write(Path(folder))
    return found


def symmetric_logits(model, data: RunData, pairs: Pairs) -> np.ndarray:
    """Logits by both orders of two faces, ``(f(left, right) - f(right, left)) / 2``, (K,)."""
    images = data.images_for(model)
    if embeds_once(model):
        rows, left, right = pairs.by_face()
        brought = contributions(model.eval(), images, rows)
        one, other = (compared_logits(model, brought, *o) for o in ((left, right), (right, left)))
    else:
        one, other = (pair_logits(model, images, asked) for asked in (pairs, pairs.mirrored()))
    return (one - other) / 2


def read_crops(data: RunData, rows: np.ndarray) -> list[Image.Image]:
    """The faces of some rows as they lie in the source, upright RGB, in the order of ``rows``."""
    files = data.faces.file.iloc[rows].tolist()
    read = {name: decode(content) for name, content in read_files(data_source(data.params), files)}
    return [read[file] for file in files]
