"""Loading a model's ONNX graphs, and the digest of the files they are made from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from utkcmp.run import WEIGHTS

if TYPE_CHECKING:
    import onnxruntime

STAMPED = ("config.json", "history.csv", WEIGHTS)  # the history has an age regressor's error


def session(path: Path) -> onnxruntime.InferenceSession:
    """Load a graph on the CPU. Only this function imports onnxruntime (see ``__init__.py``)."""
    try:
        import onnxruntime
    except ImportError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # while its library was being loaded
            raise error.__cause__ from None
        raise
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # frees idle cores
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def stamp(folder: Path) -> str:
    """A digest of the files that a model's graphs are made from."""
    paths = (folder / name for name in STAMPED)
    return hashlib.sha256(b"".join(p.read_bytes() for p in paths if p.exists())).hexdigest()
