"""A model's graphs, ready to run, and the digest of what they are made from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from utkcmp.run import WEIGHTS

if TYPE_CHECKING:
    import onnxruntime

STAMPED = ("config.json", "history.csv", WEIGHTS)  # an age regressor's error is in its history


def session(path: Path) -> onnxruntime.InferenceSession:
    """A graph, ready to run on the CPU. Nothing else imports onnxruntime (see the room's top)."""
    try:
        import onnxruntime
    except ImportError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # while its library was being loaded
            raise error.__cause__ from None
        raise
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores for others
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def stamp(folder: Path) -> str:
    """A digest of the files that a model's graphs are made from."""
    digest = hashlib.sha256()
    for path in (folder / name for name in STAMPED):
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()
