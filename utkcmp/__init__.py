"""Given two face images, which person is older?"""

import os

__version__ = "0.2.0"

# Must precede the import of PyTorch: with threads that spin while they wait, training takes several
# times as long on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
