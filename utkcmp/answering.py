"""A trained model that answers: which one, its graphs, how far its confidence can be trusted.

Nothing here imports PyTorch, which takes longer to start than a pair takes to answer; see
``graphs``, which makes what is read here.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from utkcmp.alignment import POINTS
from utkcmp.faces import resize
from utkcmp.run import atomic, outputs_root

FACE, PAIR, WEIGHTS, CALIBRATION = "face.onnx", "pair.onnx", "model.safetensors", "calibration.json"
CHOICE = "compare.json"  # in a run's folder: the model that notebook 09 chose
PUBLISHED = "utkface"  # the run that the repository brings along


@dataclass(frozen=True)
class Calibration:
    """What was measured of a model on validation faces; the defaults where nothing was.

    temperature: the number to divide logits by; pairs: those that it was fitted on, 0 for none.
    frame: where its faces' points lie, as ``alignment.POINTS``; None for UTKFace's places.
    drawn: the model has seen drawn faces only.
    """

    temperature: float = 1.0
    pairs: int = 0
    frame: list[list[float]] | None = None
    drawn: bool = False

    @classmethod
    def read(cls, folder: Path) -> "Calibration":
        """That of a model's folder. Raises ValueError if its file cannot be read."""
        path = folder / CALIBRATION
        if not path.exists():
            return cls()
        try:
            found = cls(**json.loads(path.read_text()))
            if not found.temperature > 0:
                raise ValueError(f"temperature {found.temperature}, expected one above 0")
            if found.frame and np.shape(found.frame) != POINTS.shape:
                raise ValueError(f"a frame of {np.shape(found.frame)}, expected {POINTS.shape}")
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{path} is no calibration: {error}") from None
        return found

    def write(self, folder: Path) -> None:
        with atomic(folder / CALIBRATION) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")


class NoModelError(ValueError):
    """There is no model to answer with; the text says how to make one."""


class Answerer:
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
        return int(self._graphs[0].get_modelmeta().custom_metadata_map["image_size"])

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
        """Calibrated logits, float64 (K,), of what the left and the right faces bring, (K, C)."""
        parts = [
            self._graphs[1].run(None, {"left": left[i : i + chunk], "right": right[i : i + chunk]})[
                0
            ]
            for i in range(0, len(left), chunk)
        ]
        return np.concatenate(parts).astype(np.float64) / self.calibration.temperature


def find_model() -> Path:
    """The folder of the model to answer with: the published one, else the latest run's.

    In a run it is the one that notebook 09 chose (``compare.json``), else the last one trained.
    Raises NoModelError if nothing has been trained.
    """
    root = outputs_root()
    if chosen := _chosen(root / PUBLISHED):
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
        folder = run / "models" / json.loads((run / CHOICE).read_text())["model"]
        if (folder / "config.json").exists():
            return folder
    except (OSError, ValueError, KeyError, TypeError):
        pass
    finished = [path.parent for path in run.glob("models/*/config.json")]
    return max(finished, key=lambda one: (one / WEIGHTS).stat().st_mtime, default=None)


def stamp(folder: Path) -> str:
    """What a model's graphs were made from; not its weights, of which they hold only the places."""
    digest = hashlib.sha256(str((folder / WEIGHTS).stat().st_size).encode())
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


def _ready_graphs(folder: Path) -> tuple:
    """The two steps' graphs of a model's folder, made if need be."""
    paths = [folder / FACE, folder / PAIR]
    try:
        made_from = stamp(folder)
        ready = tuple(session(path) for path in paths)
        if all(one.get_modelmeta().custom_metadata_map["stamp"] == made_from for one in ready):
            return ready
    except Exception:  # missing, damaged or of another model: made anew, which says what is wrong
        pass
    from utkcmp.graphs import write_graphs

    write_graphs(folder)
    return tuple(session(path) for path in paths)
