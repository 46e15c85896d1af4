"""Puts into a wheel what lies beside the package: notebooks, parameter files, the published model.

Everything else is said in pyproject.toml.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

MODEL = ("config.json", "history.csv", "calibration.json", "README.md", "*.onnx")


class WithFilesBeside(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:
            paths = [*Path("notebooks").glob("*.ipynb"), *Path("params").glob("*.yaml")]
            paths += Path("outputs").glob("utkface/compare.json")
            for weights in Path("outputs").glob("utkface/models/*/model.safetensors"):
                paths += [weights, *(path for form in MODEL for path in weights.parent.glob(form))]
            for path in paths:
                copy = Path(self.build_lib, "utkcmp", "shipped", path)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)


setup(cmdclass={"build_py": WithFilesBeside})
