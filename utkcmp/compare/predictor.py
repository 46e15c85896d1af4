"""Inference on photos with onnxruntime, without PyTorch, and the choice of the model."""

import contextlib
import threading
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from utkcmp.compare.alignment import POINTS
from utkcmp.compare.session import session, stamp
from utkcmp.data.decode import resize
from utkcmp.evaluation.calibration import Calibration
from utkcmp.files import read_json
from utkcmp.run import CHECKOUT, CHOICE, FACE, PAIR, PROJECT, PUBLISHED, WEIGHTS, outputs_root

BATCH, NUMBERS = 16, 2**21  # faces per embedding batch; floats per batch of the pair stage
_exporter = threading.Lock()


class Predictor:
    """A trained model ready for inference; safe to share between threads.

    folder: ``outputs/<run>/models/<name>``. Missing or outdated graphs are exported on first use,
    which takes PyTorch and some seconds. Raises ValueError if the folder holds no finished model.
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
        self.frame = np.array(self.calibration.frame or POINTS)

    @cached_property
    def _graphs(self) -> tuple:
        """The sessions of ``face.onnx`` and ``pair.onnx``, exported first if need be."""
        paths = [self.folder / FACE, self.folder / PAIR]
        with _exporter:
            try:
                ready, made_from = tuple(map(session, paths)), stamp(self.folder)
                names = [[o.name for o in (*g.get_inputs(), *g.get_outputs())] for g in ready]
                known = names[0][:2] == ["images", "brought"]
                known &= names[1] == ["left", "right", "logit"]
                stamps = [one.get_modelmeta().custom_metadata_map["stamp"] for one in ready]
                if known and stamps == [made_from, made_from]:
                    return ready
            except Exception:  # missing, damaged or outdated: a new export reports other faults
                pass
            from utkcmp.compare.onnx_export import write_graphs

            write_graphs(self.folder)
            return tuple(map(session, paths))

    @property
    def image_size(self) -> int:
        """Side length of the model's input, pixels."""
        return self._graphs[0].get_inputs()[0].shape[-1]

    @property
    def has_ages(self) -> bool:
        return len(self._graphs[0].get_outputs()) > 1

    @property
    def has_scores(self) -> bool:
        """Whether the logit of any two faces is the difference of one score per face."""
        return self._graphs[1].get_modelmeta().custom_metadata_map.get("scores") == "yes"

    def embed(self, crops: list[Image.Image]) -> tuple:
        """The embeddings of aligned faces, float32 (N, C), their predicted ages, (N,) years, NaN
        if the model predicts none, and age distributions, (N, A), with A = 0 if there are none.

        crops: RGB, square, one or more. Each passes through the network once, in batches.
        """
        parts = []
        for start in range(0, len(crops), BATCH):
            images = [resize(crop, self.image_size) for crop in crops[start : start + BATCH]]
            parts.append(self._graphs[0].run(None, {"images": np.stack(images)}))
        found = [np.concatenate(part) for part in zip(*parts, strict=True)]
        nothing = [np.full(len(crops), np.nan), np.empty((len(crops), 0))]
        return tuple(found + nothing[len(found) - 1 :])

    def logits(self, brought: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Calibrated logits, float64 (K,), of pairs of faces.

        brought: from ``embed``; left, right: int (K,), its rows. Raises ValueError if a logit is
        not finite.
        """
        chunk, parts = max(1, NUMBERS // brought.shape[1]), [np.empty(0)]
        for start in range(0, len(left), chunk):
            part = slice(start, start + chunk)
            given = {"left": brought[left[part]], "right": brought[right[part]]}
            parts += self._graphs[1].run(None, given)
        logits = np.concatenate(parts).astype(np.float64) / self.calibration.temperature
        if not np.isfinite(logits).all():
            raise ValueError(
                f"the model in {self.folder} returns no finite number: its weights are damaged"
            )
        return logits


def find_model() -> Path:
    """The folder of the model to answer with: the published one, else the latest run's.

    Within a run, it is the one that notebook 09 chose (``compare.json``), else the latest one.
    Raises ValueError if no model has been trained.
    """
    root = outputs_root()
    places = [root] if CHECKOUT else [root, PROJECT / "outputs"]
    found = (path for place in places for path in place.glob(f"*/models/*/{WEIGHTS}"))
    weights = [one for one in found if one.is_file() and one.with_name("config.json").is_file()]
    if not weights:
        raise ValueError(
            f"no trained model was found in {root}: run 'make report' to make one, or name its "
            "folder with --model outputs/<run>/models/<name>"
        )

    def rank(path: Path) -> tuple:
        run, chosen = path.parents[2], False
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            chosen = read_json(run / CHOICE)["model"] == path.parent.name
        return run.name == PUBLISHED, path.is_relative_to(root), chosen, path.stat().st_mtime

    return max(weights, key=rank).parent
