"""The model of a run that answers about photos, and what its confidence is worth."""

from __future__ import annotations

import hashlib
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
from PIL import Image

from utkcmp import models
from utkcmp.compare.alignment import POINTS, measure_frame
from utkcmp.data.decode import resize
from utkcmp.data.index import read_crops
from utkcmp.evaluation.calibration import Calibration, calibrate
from utkcmp.evaluation.registry import load_pair_model, model_folders
from utkcmp.files import read_json
from utkcmp.run import (
    CHECKOUT,
    CHOICE,
    FACE,
    PAIR,
    PROJECT,
    PUBLISHED,
    WEIGHTS,
    Run,
    outputs_root,
)

if TYPE_CHECKING:
    from utkcmp.data.datasets import RunData

FRAME_FACES = 100  # validation faces by which a run's frame is measured


def calibrate_models(run: Run, data: RunData) -> dict[str, Calibration]:
    """``calibrate`` for each of a run's models that look at each face by itself, by its folder."""
    folders = [run.model(name) for name in dict.fromkeys(model_folders(run).values())]
    frame = measure_frame(read_crops(data, data.rows("val")[:FRAME_FACES])).round(1).tolist()
    able = [folder for folder in folders if models.embeds_once(load_pair_model(folder))]
    return {folder.name: calibrate(folder, data, frame) for folder in able}


MAX_HEAD = 2**24  # bytes of a safetensors file's head that are read


class NoModelError(ValueError):
    """There is no model to answer with; the text says how to make one."""


class Predictor:
    """A trained model as it answers.

    folder: ``outputs/<run>/models/<name>``. Graphs that are missing or of other weights are made
    at the first question, which takes PyTorch and some seconds.
    Raises ValueError for a folder without a finished model.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        for name in ("config.json", WEIGHTS):
            if not (self.folder / name).is_file():
                raise ValueError(
                    f"{self.folder} holds no finished model: {name} is missing; expected a folder "
                    "like outputs/<run>/models/<name>"
                )
        self.calibration = Calibration.read(self.folder)
        frame = self.calibration.frame
        self.frame = POINTS if frame is None else np.array(frame)

    @cached_property
    def _graphs(self) -> tuple[onnxruntime.InferenceSession, onnxruntime.InferenceSession]:
        return _ready_graphs(self.folder)

    @property
    def image_size(self) -> int:
        """Pixels per side that the model takes."""
        return int(_marks(self._graphs[0])["image_size"])

    @property
    def has_ages(self) -> bool:
        return len(self._graphs[0].get_outputs()) > 1

    def embed(self, crops: list[Image.Image], batch_size: int = 64) -> tuple:
        """What each aligned face brings to a pair, float32 (N, C), and ages (N,), years, or None.

        crops: RGB, square. Each face passes the network once, in batches.
        """
        parts = []
        for start in range(0, len(crops), batch_size):
            chosen = crops[start : start + batch_size]
            images = np.stack([resize(crop, self.image_size) for crop in chosen])
            parts.append(self._graphs[0].run(None, {"images": images}))
        brought, *ages = (np.concatenate(part) for part in zip(*parts, strict=True))
        return brought, ages[0] if ages else None

    def logits(self, left: np.ndarray, right: np.ndarray, chunk: int = 1 << 12) -> np.ndarray:
        """Calibrated logits, float64 (K,), of what the left and the right faces bring, (K, C).

        Raises ValueError if the model's weights give no numbers.
        """
        parts = [
            self._graphs[1].run(None, {"left": left[i : i + chunk], "right": right[i : i + chunk]})[
                0
            ]
            for i in range(0, len(left), chunk)
        ]
        logits = np.concatenate(parts).astype(np.float64) / self.calibration.temperature
        if not np.isfinite(logits).all():
            raise ValueError(f"the model in {self.folder} gives no number: its weights are damaged")
        return logits


def find_model() -> Path:
    """The folder of the model to answer with: the published one, else the latest run's.

    In a run it is the one that notebook 09 chose (``compare.json``), else the last one trained.
    Raises NoModelError if nothing has been trained.
    """
    root = outputs_root()
    for place in (root, *([] if CHECKOUT else [PROJECT / "outputs"])):
        if chosen := _chosen(place / PUBLISHED):
            return chosen
    trained = chain(root.glob(f"*/{CHOICE}"), root.glob(f"*/models/*/{WEIGHTS}"))
    for path in sorted(trained, key=lambda path: path.stat().st_mtime, reverse=True):
        if chosen := _chosen(path.parents[0 if path.name == CHOICE else 2]):
            return chosen
    raise NoModelError(
        f"no trained model lies below {root}: run 'make report' to make one, or name its folder "
        "with --model outputs/<run>/models/<name>"
    )


def _chosen(run: Path) -> Path | None:
    """A run's model to answer with; None if it has no finished one."""
    try:
        chosen = read_json(run / CHOICE)["model"]
    except (OSError, ValueError, KeyError, TypeError):
        chosen = None
    configs = run.glob("models/*/config.json")
    finished = [path.parent for path in configs if (path.parent / WEIGHTS).is_file()]
    for folder in finished:
        if folder.name == chosen:
            return folder
    return max(finished, key=lambda one: (one / WEIGHTS).stat().st_mtime, default=None)


def graph_digest(folder: Path) -> str:
    """What a model's graphs were made from; not its weights, of which they hold only the places."""
    with open(folder / WEIGHTS, "rb") as file:  # its head says where each tensor lies
        length = file.read(8)
        head = file.read(min(int.from_bytes(length, "little"), MAX_HEAD))
    digest = hashlib.sha256(str((folder / WEIGHTS).stat().st_size).encode() + length + head)
    for name in ("config.json", "history.csv"):  # an age regressor's error is in its history
        digest.update((folder / name).read_bytes() if (folder / name).exists() else b"")
    return digest.hexdigest()


def session(path: Path) -> onnxruntime.InferenceSession:
    """A graph, ready to run on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # leave cores to others
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _marks(graph: onnxruntime.InferenceSession) -> dict[str, str]:
    return graph.get_modelmeta().custom_metadata_map


def _asks_and_answers(face, pair) -> bool:
    """Whether two graphs take and give what ``graphs.FaceStep`` and ``graphs.PairStep`` do."""
    (images,), (brought, *ages) = face.get_inputs(), face.get_outputs()
    left, right = pair.get_inputs()
    size = int(_marks(face)["image_size"])
    return (
        (images.name, images.type, images.shape[1:]) == ("images", "tensor(uint8)", [3, size, size])
        and [one.name for one in ages] in ([], ["ages"])
        and (left.name, right.name) == ("left", "right")
        and brought.shape[1:] == left.shape[1:] == right.shape[1:]
        and {one.type for one in (brought, *ages, left, right)} == {"tensor(float)"}
        and [one.name for one in pair.get_outputs()] == ["logit"]
    )


def _ready_graphs(folder: Path) -> tuple:
    """The two steps' graphs of a model's folder, made if need be."""
    paths = [folder / FACE, folder / PAIR]
    try:
        made_from = graph_digest(folder)
        ready = tuple(session(path) for path in paths)
        if all(_marks(one)["stamp"] == made_from for one in ready) and _asks_and_answers(*ready):
            return ready
    except Exception:  # missing, damaged or of another model: made anew, which says what is wrong
        pass
    from utkcmp.compare.onnx_export import write_graphs

    write_graphs(folder)
    return tuple(session(path) for path in paths)
