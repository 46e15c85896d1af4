"""A trained model that answers: which one, its graphs, how far its confidence can be trusted.

Nothing here imports PyTorch, which takes longer to start than a pair takes to answer; see
``graphs``, which makes what is read here.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from utkcmp.alignment import POINTS
from utkcmp.faces import resize
from utkcmp.run import atomic, outputs_root, read_json

FACE, PAIR, WEIGHTS, CALIBRATION = "face.onnx", "pair.onnx", "model.safetensors", "calibration.json"
MAX_HEAD = 2**24  # bytes of a safetensors file's head that are read
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
            found = cls(**read_json(path))
            number = isinstance(found.temperature, int | float)
            if not (number and 0 < found.temperature < math.inf):
                raise ValueError(f"temperature {found.temperature!r}, expected one above 0")
            if not isinstance(found.pairs, int) or not isinstance(found.drawn, bool):
                raise ValueError("expected pairs as a number, and drawn as true or false")
            if found.frame is not None:
                _check_frame(np.array(found.frame, np.float64))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{path} is no calibration: {error}") from None
        return found

    def write(self, folder: Path) -> None:
        with atomic(folder / CALIBRATION) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")


def _check_frame(frame: np.ndarray) -> None:
    if frame.shape != POINTS.shape:
        raise ValueError(f"a frame of {frame.shape}, expected {POINTS.shape}")
    if not (np.isfinite(frame).all() and np.ptp(frame, axis=0).min() > 0):
        raise ValueError("a frame whose points lie nowhere or all in one line")


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
        chosen = read_json(run / CHOICE)["model"]
    except (OSError, ValueError, KeyError, TypeError):
        chosen = None
    configs = run.glob("models/*/config.json")
    finished = [path.parent for path in configs if (path.parent / WEIGHTS).is_file()]
    for folder in finished:
        if folder.name == chosen:
            return folder
    return max(finished, key=lambda one: (one / WEIGHTS).stat().st_mtime, default=None)


def stamp(folder: Path) -> str:
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
        made_from = stamp(folder)
        ready = tuple(session(path) for path in paths)
        if all(_marks(one)["stamp"] == made_from for one in ready) and _asks_and_answers(*ready):
            return ready
    except Exception:  # missing, damaged or of another model: made anew, which says what is wrong
        pass
    from utkcmp.graphs import write_graphs

    write_graphs(folder)
    return tuple(session(path) for path in paths)
