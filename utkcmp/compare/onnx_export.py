"""Trained models as ONNX graphs: for answering without PyTorch, and for use elsewhere.

Importing PyTorch takes longer than the answer to a pair. So a model's folder holds its two steps
as graphs, ``face.onnx`` and ``pair.onnx``, which onnxruntime reads in a moment. They hold no
weights: their tensors are places in ``model.safetensors`` beside them.
"""

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx_ir
import torch
from torch import Tensor, nn

from utkcmp.compare.predictor import graph_digest, session
from utkcmp.evaluation.calibration import Calibration
from utkcmp.evaluation.registry import load_pair_model
from utkcmp.files import atomic
from utkcmp.models.inference import embeds_once, to_float
from utkcmp.models.networks import AgeComparison, SiameseResNetAge
from utkcmp.run import FACE, PAIR, WEIGHTS

TOLERANCE = 1e-4  # between PyTorch and onnxruntime; of numbers above 1, their share


class FaceStep(nn.Module):
    """What a model does with each face by itself: uint8 (N, 3, S, S) to what it brings to a pair.

    Gives float32 (N, C), and the predicted ages in years, (N,), where the model has such; a model
    that must see two faces at once gets the normalised pixels themselves.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.regressor = getattr(model, "regressor", None)

    def forward(self, images: Tensor):
        pixels = to_float(images)
        if not embeds_once(self.model):
            return (pixels.flatten(1),)
        features = self.model.embed(pixels)
        brought = self.model.contribute(features)
        if isinstance(self.model, AgeComparison):
            return brought, features[:, 0]
        if isinstance(self.model, SiameseResNetAge):
            return brought, self.regressor.ages_of(self.regressor.head(features))
        return (brought,)


class PairStep(nn.Module):
    """What a model does with what two faces bring, (K, C) each: one logit a pair, (K,).

    It answers by both orders, so that the answer does not depend on which face comes first.
    """

    def __init__(self, model: nn.Module, size: int):
        super().__init__()
        self.model, self.size = model, size

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return (self.one_way(left, right) - self.one_way(right, left)) / 2

    def one_way(self, left: Tensor, right: Tensor) -> Tensor:
        if embeds_once(self.model):
            return self.model.compare(left, right)
        shape = (-1, 3, self.size, self.size)
        return self.model(left.view(shape), right.view(shape))


class WholePair(nn.Module):
    """Both steps as one: two batches of faces, uint8 (B, 3, S, S), to calibrated logits (B,)."""

    def __init__(self, model: nn.Module, size: int, temperature: float):
        super().__init__()
        self.face, self.pair = FaceStep(model), PairStep(model, size)
        self.temperature = temperature

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.pair(self.face(left)[0], self.face(right)[0]) / self.temperature


def write_graphs(folder: str | Path) -> None:
    """Write ``face.onnx`` and ``pair.onnx`` beside a trained model's weights."""
    folder = Path(folder)
    model = load_pair_model(folder)
    size = model.image_size
    face, pair = FaceStep(model).eval(), PairStep(model, size).eval()
    images = _example(size)
    brought = face(images)[0]
    marks = {"stamp": graph_digest(folder), "image_size": str(size)}
    names = ["brought", "ages"][: len(face(images))]
    for path, module, inputs, outputs in (
        (folder / PAIR, pair, {"left": brought, "right": brought.flip(0)}, ["logit"]),
        (folder / FACE, face, {"images": images}, names),
    ):
        graph = _traced(module, inputs, outputs)
        graph.metadata_props.update(marks)
        _point_at_weights(graph, folder / WEIGHTS)
        with atomic(path) as temporary:
            onnx_ir.save(graph, temporary)
        check_graph(path, module, inputs)


def export(folder: str | Path, path: str | Path) -> float:
    """Write a trained pair model as one ONNX file, with its weights and its temperature.

    Inputs ``left`` and ``right``: uint8 (B, 3, S, S), RGB; output ``logit``: float32 (B,), whose
    sigmoid is the probability that left is older. Returns the largest difference from PyTorch.
    Raises ValueError as ``load_pair_model`` does, and OSError if the file cannot be written.
    """
    model = load_pair_model(folder)
    size = model.image_size
    module = WholePair(model, size, Calibration.read(Path(folder)).temperature).eval()
    inputs = {"left": _example(size), "right": _example(size).flip(0)}
    graph = _traced(module, inputs, ["logit"])
    graph.metadata_props["image_size"] = str(size)
    with atomic(Path(path)) as temporary:
        onnx_ir.save(graph, temporary)
        return check_graph(temporary, module, inputs)


@torch.no_grad()
def check_graph(path: Path, module: nn.Module, inputs: dict[str, Tensor]) -> float:
    """Ask onnxruntime and PyTorch the same, in batches of all sizes up to that of ``inputs``.

    Returns the largest difference; raises RuntimeError if it is above ``TOLERANCE``.
    """
    graph, worst = session(path), 0.0
    for count in range(1, len(next(iter(inputs.values()))) + 1):
        given = {name: value[:count] for name, value in inputs.items()}
        expect = module(*given.values())
        expect = expect if isinstance(expect, tuple) else (expect,)
        got = graph.run(None, {name: value.numpy() for name, value in given.items()})
        for one, other in zip(got, expect, strict=True):
            scale = other.abs().clamp(min=1).numpy()
            worst = max(worst, float((np.abs(one - other.numpy()) / scale).max()))
    if not worst <= TOLERANCE:
        raise RuntimeError(
            f"{path.name}: onnxruntime and PyTorch differ by {worst:.2g}, expected {TOLERANCE:g}"
        )
    return worst


def _example(size: int) -> Tensor:
    shape = (4, 3, size, size)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).byte()


def _traced(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str]) -> onnx_ir.Model:
    """A module as an ONNX graph whose first dimension may be any number."""
    count = torch.export.Dim("count", min=1)
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            module.requires_grad_(False),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple({0: count} for _ in inputs),
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    for node in program.model.graph:  # where in the source it came from: no matter to a reader
        node.metadata_props.clear()
    return program.model


def _point_at_weights(graph: onnx_ir.Model, weights: Path) -> None:
    """Replace a graph's tensors by places in a safetensors file, as far as they lie there.

    Weights of half precision are widened by the graph as it is loaded.
    """
    with open(weights, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        places = json.loads(file.read(length))
    for name, value in list(graph.graph.initializers.items()):
        place = places.get(name.removeprefix("model."))
        if place is None:
            continue
        start, end = place["data_offsets"]
        half = place["dtype"] == "F16"
        tensor = onnx_ir.ExternalTensor(
            weights.name,
            8 + length + start,
            end - start,
            onnx_ir.DataType.FLOAT16 if half else value.const_value.dtype,
            shape=value.const_value.shape,
            name=f"{name}.half" if half else name,
            base_dir=str(weights.parent),
        )
        if half:
            _widen(graph.graph, value, tensor)
        else:
            value.const_value = tensor


def _widen(graph: onnx_ir.Graph, value: onnx_ir.Value, tensor: onnx_ir.ExternalTensor) -> None:
    """Make an initializer the float32 of a tensor of half precision, which takes its place."""
    del graph.initializers[value.name]
    value.const_value = None
    stored = onnx_ir.Value(
        name=tensor.name, shape=value.shape, type=onnx_ir.TensorType(tensor.dtype)
    )
    stored.const_value = tensor
    graph.register_initializer(stored)
    cast = onnx_ir.node("Cast", [stored], {"to": onnx_ir.DataType.FLOAT}, outputs=[value])
    graph.insert_before(graph[0], cast)


@contextlib.contextmanager
def _quiet_exporter():
    """The exporter's advice kept off the page."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
