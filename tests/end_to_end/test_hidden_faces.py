"""With ``show_faces: false`` no pixel of a face is in anything that a run would publish.

The faces of the run bear dots of magenta and green, each its own pattern of them (conftest.py). A
picture that shows one, or a part of one, holds these colours; one that shows it in grey, or
recoloured, runs along with its pattern.
"""

import base64
import io
import re
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.ndimage import uniform_filter

from utkcmp.data import Pairs, StandIns
from utkcmp.data.decode import decode, resize
from utkcmp.models.networks import build_model
from utkcmp.plots import style
from utkcmp.training.settings import Settings
from utkcmp.training.solver import Fitted
from utkcmp.training.tensorboard import write_boards

EMBEDDED = re.compile(r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=\s]+)")
SIDE = 28  # pixels: the size at which patterns are compared
ALIKE = 0.7  # a face at 32 px reaches 0.9; a map of what a network looks at, the dots, 0.55


def rasters(path) -> list[Image.Image]:
    """Every picture of pixels in a file: it is one, or they are embedded in SVG, HTML, a notebook,
    or TensorBoard's events."""
    if path.suffix in (".png", ".jpg", ".jpeg"):
        return [Image.open(path)]
    if path.name.startswith("events.out.tfevents"):
        return [Image.open(io.BytesIO(one)) for one in event_pictures(path)]
    if path.suffix not in (".svg", ".html", ".css", ".js", ".json", ".ipynb"):
        return []
    texts, pictures = [path.read_text(encoding="utf-8")], []
    if path.suffix == ".ipynb":
        cells = nbformat.reads(texts.pop(), 4).cells
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        found = [item for output in outputs for item in output.get("data", {}).items()]
        pictures += [text for kind, text in found if kind in ("image/png", "image/jpeg")]
        texts += [text for _, text in found if isinstance(text, str)]
    pictures += [one for text in texts for one in EMBEDDED.findall(text)]
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in pictures]


def event_pictures(path) -> list[bytes]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    values = [value for event in EventFileLoader(str(path)).Load() for value in event.summary.value]
    tensors = [value.tensor for value in values if value.HasField("tensor")]
    strings = [text for tensor in tensors for text in tensor.string_val]
    return [text for text in strings if text[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0")]


def pattern_of(image: Image.Image) -> np.ndarray:
    """A picture's fine structure in grey, of mean 0 and length 1."""
    grey = image.convert("RGB").convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    fine = np.asarray(grey, float)
    fine = (fine - uniform_filter(fine, 5)).ravel()
    return (fine - fine.mean()) / max(np.linalg.norm(fine - fine.mean()), 1e-9)


def shows_a_face(image: Image.Image, patterns: np.ndarray) -> bool:
    """Whether a picture holds the faces' colours or, as a whole, runs along with one of them."""
    pixels = np.asarray(image.convert("RGB")).astype(int).reshape(-1, 3)
    magenta = (pixels[:, [0, 2]] > 180).all(1) & (pixels[:, 1] < 75)
    green = (pixels[:, [0, 2]] < 75).all(1) & (pixels[:, 1] > 215)
    alike = np.abs(patterns @ pattern_of(image)).max()
    return bool(magenta.any() or green.any() or alike > ALIKE)


@pytest.fixture(scope="module")
def patterns(marked_faces):
    return np.stack([pattern_of(Image.open(path)) for path in sorted(marked_faces.iterdir())])


@pytest.fixture
def shown(marked_faces):
    """Four faces as the notebooks hold them: uint8 (4, 3, 32, 32)."""
    paths = sorted(marked_faces.iterdir())[:4]
    return np.stack([resize(decode(path.read_bytes()), 32) for path in paths])


def test_no_pixel_of_a_face_is_in_what_a_run_leaves(whole_report, patterns):
    folder, looked = whole_report.folder, {}
    published = [*folder.glob("report/**/*"), *folder.glob("notebooks/*")]
    for path in [*published, *folder.glob("tensorboard/**/*")]:
        if path.is_file():
            pictures = rasters(path)
            looked[path.suffix] = looked.get(path.suffix, 0) + len(pictures)
            name = path.relative_to(folder).as_posix()
            assert not any(shows_a_face(picture, patterns) for picture in pictures), name
    # There was something to look at: heat maps in the figures, the ROC curve in the events.
    assert looked[".ipynb"] >= 3 and sum(looked.values()) - looked[".ipynb"] >= 6


@pytest.mark.parametrize("kind", ["svg", "png"])
@pytest.mark.parametrize("show", [True, False])
def test_a_shown_face_would_be_found_in_a_figure(shown, patterns, tmp_path, kind, show):
    shown = shown if show else [StandIns(range(20, 60, 10))[row] for row in range(4)]
    figure = style.face_tiles(shown, list("abcd"), drawn=not show)
    figure.savefig(tmp_path / f"tiles.{kind}")
    found = [shows_a_face(one, patterns) for one in rasters(tmp_path / f"tiles.{kind}")]
    assert any(found) == show


def test_a_face_in_grey_would_be_found(marked_faces, patterns, tmp_path):
    for number, side in enumerate((32, 64)):
        face = Image.open(sorted(marked_faces.iterdir())[number]).convert("L")
        face.resize((side, side)).save(tmp_path / "grey.png")
        assert shows_a_face(rasters(tmp_path / "grey.png")[0], patterns)


@pytest.mark.parametrize("show", [True, False])
def test_a_shown_face_would_be_found_on_a_board(tiny, shown, patterns, tmp_path, show):
    model = build_model("SiameseResNet").eval()
    pairs = Pairs(np.array([0, 2]), np.array([1, 3]), np.array([1, 0], np.int8))
    history = pd.DataFrame({"epoch": [1], "val_loss": [0.5]})
    ages = torch.tensor([9.0, 1.0, 2.0, 8.0])
    data = SimpleNamespace(images=torch.from_numpy(shown), ages=ages)
    settings = Settings.of(show_faces=show)
    write_boards(tmp_path, Fitted(model, history, False), data, pairs, settings)
    found = [one for path in tmp_path.rglob("events*") for one in rasters(path)]
    assert found and any(shows_a_face(one, patterns) for one in found) == show
