"""Given two face images, which person is older? Each room is a package of its own (see README)."""

import os

__version__ = "0.2.0"

# Read when PyTorch is loaded: threads that wait by spinning keep others from working, so that on a
# busy machine training takes several times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
