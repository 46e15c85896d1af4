"""Loading a model's ONNX graphs, and the digest of the files they are made from."""

import contextlib
import hashlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from utkcmp.run import WEIGHTS

STAMPED = ("config.json", "history.csv", WEIGHTS)  # the history has an age regressor's error


def session(path: Path):
    """Load a graph on the CPU, as an ``InferenceSession``. Only here is onnxruntime imported."""
    with interrupts_wait():  # the library turns an interrupt into an ImportError
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # frees idle cores
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C take effect only after the block; without effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    late = []
    before = signal.signal(signal.SIGINT, lambda *given: late.append(given))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if late and callable(before):
        before(*late[0])


def stamp(folder: Path) -> str:
    """A digest of the files that a model's graphs are made from."""
    paths = (folder / name for name in STAMPED)
    return hashlib.sha256(b"".join(p.read_bytes() for p in paths if p.exists())).hexdigest()
