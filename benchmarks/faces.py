"""Rows on faces: drawing pairs, the cache against decoding, the memory of a full run."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.networks import OPTIONS
from benchmarks.rows import MB, Rounds, bound, faster, in_turn, measured
from utkcmp.data.datasets import RunData, UTKDataset
from utkcmp.data.decode import resize
from utkcmp.data.image_cache import cache_images
from utkcmp.data.index import index_faces
from utkcmp.data.pairs import sample_pairs
from utkcmp.data.split import keep_for_evaluation, split_faces, write_split
from utkcmp.data.synthetic import draw_sample
from utkcmp.evaluation.results import evaluate_pairs
from utkcmp.models.inference import to_float
from utkcmp.models.networks import build_model
from utkcmp.params import Params
from utkcmp.run import Run, outputs_root
from utkcmp.training.batches import PairBatches
from utkcmp.training.settings import Settings
from utkcmp.training.solver import fit


def draw_pairs(faces: int, count: int) -> None:
    ages = np.random.default_rng(0).integers(1, 117, faces).astype(np.int16)
    assert len(sample_pairs(ages, data_size=count)) == count


def pairs_rows() -> list[dict]:
    rows = []
    for faces, seconds, megabytes in ((16_500, 0.3, 100), (10_000_000, 10, 1000)):
        took, added, _ = measured(draw_pairs, faces, 100_000, repeats=3)
        name = f"100,000 pairs of {faces:,} faces"
        rows += [bound(name, took, seconds, "s"), bound(f"{name}, memory", added, megabytes, "MB")]
    return rows


def decoding_rows(faces=200, pairs=2048, part=64, size=64, rounds=5) -> list[dict]:
    """Batches of a fixed list of pairs: from the cache, against decoding each sample by Pillow."""
    with tempfile.TemporaryDirectory() as folder:
        source = draw_sample(Path(folder) / "faces", n=faces)
        listed = UTKDataset(
            source, lambda image: torch.from_numpy(resize(image, size)), data_size=pairs
        )
        timed = loading(listed, size, part, rounds)
    scaled = [(ours, against * pairs / part) for ours, against in timed]
    name = f"{pairs:,} pairs as batches at {size} px from the cache, against Pillow"
    return [faster(f"{name} (timed on {part} pairs)", scaled, 20)]


def loading(listed: UTKDataset, size: int, part: int, rounds: int) -> Rounds:
    """Seconds for all pairs from the cache and for ``part`` pairs decoded one by one."""
    source, index = listed.faces.root_dir, index_faces(listed.faces.root_dir, progress=False)
    images = torch.from_numpy(cache_images(source, index, size))

    def from_cache():
        for left, right, _ in PairBatches(listed.pairs, 64, seed=0, epoch=0):
            to_float(images[left]), to_float(images[right])

    def by_pillow():
        for start in range(0, part, 64):
            samples = [listed[item] for item in range(start, min(part, start + 64))]
            for side in (0, 1):
                to_float(torch.stack([sample[side] for sample in samples]))

    return in_turn(from_cache, by_pillow, rounds)


def prepare_faces(source: str, cache: str) -> None:
    faces = index_faces(source, cache=cache, progress=False)
    cache_images(source, faces, 64, cache=cache)


def data_rows(source: str) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        first, *_ = measured(prepare_faces, source, folder)
        again, *_ = measured(prepare_faces, source, folder)
    return [
        bound("index and cache of the faces at 64 px, first time", first, 60, "s"),
        bound("index and cache of the faces at 64 px, second time", again, 1, "s"),
    ]


def prepared_run(source: str, folder: str, size: int) -> RunData:
    """The data of a run in ``folder``, with its split; the image cache outlives the folder."""
    params = Params(data=source, image_size=size, data_size=100_000)
    faces = index_faces(source, cache=outputs_root() / "cache", progress=False)
    faces["split"], faces["evaluate"] = split_faces(faces), keep_for_evaluation(faces)
    write_split(Run(folder), faces)
    return RunData(Run(folder), params)


def full_run(source: str, folder: str, size: int, steps: int) -> None:
    """Load the faces as a run does, train a few steps, validate, and evaluate all test pairs."""
    data, model = prepared_run(source, folder, size), build_model("SiameseResNet")
    settings = Settings.of(**OPTIONS, epochs=1, batch_size=128, steps_per_epoch=steps)
    used = {"train": data.rows("train"), "val": data.pairs("val")}
    fitted = fit(model, data, settings, **used, folder=Path(folder) / "model")
    evaluate_pairs("SiameseResNet", fitted.model, data)


def memory_rows(source: str, size=128, steps=5) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        _, _, peak = measured(full_run, source, folder, size, steps)
    name = f"peak resident memory of a run at {size} px, the mapped cache of all faces included"
    return [bound(name, peak * MB / 1e9, 4, "GB")]
