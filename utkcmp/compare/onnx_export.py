"""Trained models as ONNX graphs, for inference without PyTorch and for use elsewhere.

Importing PyTorch takes longer than answering a pair, so a model's folder also holds its two stages
as graphs: ``face.onnx`` embeds a face, ``pair.onnx`` compares two embeddings.
"""

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx_ir
import torch
from torch import Tensor, nn

from utkcmp.compare.session import session, stamp
from utkcmp.evaluation.calibration import Calibration
from utkcmp.evaluation.registry import load_pair_model
from utkcmp.files import atomic
from utkcmp.models.inference import embeds_once, to_float
from utkcmp.models.networks import AgeComparison, AgeDistribution, AgeRanker, RankingAgeRegressor
from utkcmp.run import FACE, PAIR

TOLERANCE = 1e-4  # between PyTorch and onnxruntime; relative for values above 1
logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # keep its advice out of notebooks
SMALL = 1000  # tensors of fewer values are not worth storing in half precision


class FaceStep(nn.Module):
    """The per-face stage of a model, from uint8 images (N, 3, S, S).

    Returns ``brought``, float32 (N, C): the embedding, or the normalised pixels if the model must
    see both faces at once. With an age regressor also ``age``, (N,) years, and if that predicts a
    distribution, ``age_distribution``, (N, A), the probabilities of ages 0, 1, 2, ... years.
    """

    names = ("brought", "age", "age_distribution")

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.regressor = getattr(model, "regressor", None)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        pixels = to_float(images)
        if not embeds_once(self.model):
            return (pixels.flatten(1),)
        if self.regressor is None:
            return (self.model.contribute(self.model.embed(pixels)),)
        features = self.regressor.embed(pixels)
        output = self.regressor.head(features)
        age = self.regressor.ages_of(output)
        compared = age[:, None] if isinstance(self.model, AgeComparison) else features
        told = (self.model.contribute(compared), age)
        by_distribution = isinstance(self.regressor.head, AgeDistribution)
        return (*told, output.softmax(1)) if by_distribution else told


class PairStep(nn.Module):
    """The pair stage of a model: the ``brought`` of two faces, (K, C) each, to logits (K,).

    Averages both orders, so that the answer does not depend on which face comes first.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        if embeds_once(self.model):
            return (self.model.compare(left, right) - self.model.compare(right, left)) / 2
        size = self.model.image_size
        left, right = (brought.view(-1, 3, size, size) for brought in (left, right))
        return (self.model(left, right) - self.model(right, left)) / 2


class WholePair(nn.Module):
    """Both stages: two batches of faces, uint8 (B, 3, S, S), to calibrated logits (B,)."""

    def __init__(self, model: nn.Module, temperature: float):
        super().__init__()
        self.face, self.pair, self.temperature = FaceStep(model), PairStep(model), temperature

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.pair(self.face(left)[0], self.face(right)[0]) / self.temperature


def write_graphs(folder: str | Path) -> None:
    """Write ``face.onnx`` and ``pair.onnx`` beside a trained model's weights."""
    folder = Path(folder)
    model = load_pair_model(folder)
    scorers = AgeRanker | AgeComparison | RankingAgeRegressor
    scores = all(  # whether the symmetrised logit is a difference of scores, one per face
        isinstance(one, scorers) or (embeds_once(one) and len(one.head) == 1)
        for one in getattr(model, "members", [model])
    )
    marks = {"stamp": stamp(folder), "scores": "yes" if scores else "no"}
    face, images = FaceStep(model), _example(model.image_size)
    with torch.no_grad():
        brought, *told = face.eval()(images)
    names = FaceStep.names[: 1 + len(told)]
    inputs = {"left": brought, "right": brought.flip(0)}
    _write(folder / PAIR, PairStep(model), inputs, ["logit"], marks)
    _write(folder / FACE, face, {"images": images}, names, marks)


def export(folder: str | Path, path: str | Path) -> str:
    """Write a trained pair model as one ONNX file, with its weights and its temperature.

    Returns a description of inputs, output and the largest difference from PyTorch. Raises
    ValueError as ``load_pair_model`` does, and OSError if the file cannot be written.
    """
    model = load_pair_model(folder)
    size = model.image_size
    module = WholePair(model, Calibration.read(Path(folder)).temperature)
    inputs = {"left": _example(size), "right": _example(size).flip(0)}
    about = (
        f"inputs: left and right, uint8 (B, 3, {size}, {size}), RGB, framed as UTKFace's crops\n"
        "output: logit, float32 (B,); 1 / (1 + exp(-logit)) is the probability that left is older"
    )
    apart = _write(Path(path), module, inputs, ["logit"], {"about": about})
    return f"{about}\ndiffers from PyTorch by {apart:.1e} at most"


def _example(size: int) -> Tensor:
    shape = (4, 3, size, size)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).byte()


def _write(path: Path, module: nn.Module, inputs: dict[str, Tensor], outputs, marks) -> float:
    """Write a module as a graph for any batch size; returns its largest difference from PyTorch.

    Compares each size up to that of ``inputs``; raises RuntimeError above ``TOLERANCE``.
    """
    count, worst = torch.export.Dim("count", min=1), 0.0
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        program = torch.onnx.export(
            module.eval().requires_grad_(False),
            tuple(inputs.values()),
            **dict(input_names=list(inputs), output_names=list(outputs)),
            dynamic_shapes=tuple({0: count} for _ in inputs),
            **dict(dynamo=True, optimize=False, verbose=False),
        )
    for node in program.model.graph:  # drop stack traces of the export
        node.metadata_props.clear()
    _halve(program.model.graph)
    program.model.metadata_props.update(marks)
    with atomic(path) as temporary, torch.no_grad():
        onnx_ir.save(program.model, temporary)
        graph = session(temporary)
        for size in range(1, len(next(iter(inputs.values()))) + 1):
            given = {name: value[:size] for name, value in inputs.items()}
            got = graph.run(None, {name: value.numpy() for name, value in given.items()})
            expect = module(*given.values())
            expect = expect if isinstance(expect, tuple) else (expect,)
            for one, other in zip(got, expect, strict=True):
                scale = other.abs().clamp(min=1).numpy()
                worst = max(worst, float((np.abs(one - other.numpy()) / scale).max()))
        if not worst <= TOLERANCE:
            raise RuntimeError(
                f"{path.name}: onnxruntime and PyTorch differ by {worst:.2g}, "
                f"expected {TOLERANCE:g}"
            )
    return worst


def _halve(graph: onnx_ir.Graph) -> None:
    """Store weights as float16 where this is lossless; the graph casts them back on loading."""
    for name, value in list(graph.initializers.items()):
        whole = value.const_value.numpy()
        with np.errstate(over="ignore"):
            half = whole.astype(np.float16)
        if whole.dtype != np.float32 or whole.size < SMALL or (half != whole).any():
            continue
        stored = onnx_ir.Value(name=f"{name}.half", const_value=onnx_ir.tensor(half))
        stored.dtype, stored.shape = onnx_ir.DataType.FLOAT16, value.shape
        del graph.initializers[name]
        value.const_value = None
        graph.register_initializer(stored)
        wide = onnx_ir.node("Cast", [stored], {"to": onnx_ir.DataType.FLOAT}, outputs=[value])
        graph.insert_before(graph[0], wide)
