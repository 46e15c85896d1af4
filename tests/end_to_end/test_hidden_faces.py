"""With ``show_faces: false`` no pixel of a face is in anything that a run would publish.

The faces of the run are patterns of magenta and green, each its own (conftest.py). A picture that
shows one, or a part of one, holds these colours; one that shows it in grey, or recoloured, runs
along with its pattern.

Notebook 09 asks about faces that can be found in photos, which these patterns cannot. It gets drawn
faces with dots of the two colours instead.
"""

import base64
import io
import re
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from utkcmp.compare import robustness
from utkcmp.data.decode import decode, resize
from utkcmp.data.drawing import draw_face, random_face
from utkcmp.data.index import index_faces
from utkcmp.data.pairs import Pairs
from utkcmp.data.split import keep_for_evaluation, split_faces
from utkcmp.files import atomic
from utkcmp.models.networks import build_model
from utkcmp.models.storage import save_model
from utkcmp.plots import style
from utkcmp.run import PROJECT, Run
from utkcmp.training.settings import Settings
from utkcmp.training.solver import Fitted
from utkcmp.training.tensorboard import write_boards

EMBEDDED = re.compile(r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=\s]+)")
SIDE = 20  # pixels: the size at which patterns are compared


def rasters(path) -> list[Image.Image]:
    """Every picture of pixels in a file: it is one, or they are embedded in SVG, HTML, a notebook,
    or TensorBoard's events."""
    if path.suffix in (".png", ".jpg", ".jpeg"):
        return [Image.open(path)]
    if path.name.startswith("events.out.tfevents"):
        return [Image.open(io.BytesIO(one)) for one in event_pictures(path)]
    if path.suffix in (".ttf", ".woff2"):
        return []
    texts = [path.read_text(encoding="utf-8")]
    if path.suffix == ".ipynb":
        cells = nbformat.reads(texts.pop(), 4).cells
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        found = [item for output in outputs for item in output.get("data", {}).items()]
        pictures = [text for kind, text in found if kind in ("image/png", "image/jpeg")]
        texts += [text for _, text in found if isinstance(text, str)]
    else:
        pictures = []
    pictures += [one for text in texts for one in EMBEDDED.findall(text)]
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in pictures]


def event_pictures(path) -> list[bytes]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    values = [value for event in EventFileLoader(str(path)).Load() for value in event.summary.value]
    tensors = [value.tensor for value in values if value.HasField("tensor")]
    strings = [text for tensor in tensors for text in tensor.string_val]
    return [text for text in strings if text[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0")]


def shows_a_face(image: Image.Image, patterns: np.ndarray) -> bool:
    """Whether a picture holds the faces' colours or, as a whole, runs along with one of them.

    patterns: of all faces, (N, SIDE * SIDE), each of mean 0 and length 1.
    """
    grey = image.convert("RGB").convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    pattern = normalised(np.asarray(grey, float)[None])[0]
    return has_their_colours(image) or bool(np.abs(patterns @ pattern).max() > 0.7)


def has_their_colours(image: Image.Image) -> bool:
    pixels = np.asarray(image.convert("RGB")).astype(int).reshape(-1, 3)
    magenta = (pixels[:, [0, 2]] > 180).all(1) & (pixels[:, 1] < 75)
    green = (pixels[:, [0, 2]] < 75).all(1) & (pixels[:, 1] > 215)
    return bool(magenta.any() or green.any())


def normalised(pictures: np.ndarray) -> np.ndarray:
    flat = pictures.reshape(len(pictures), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)


@pytest.fixture(scope="module")
def patterns(marked_faces):
    faces = [decode(path.read_bytes()) for path in sorted(marked_faces.iterdir())]
    small = [face.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX) for face in faces]
    return normalised(np.stack([np.asarray(one, float) for one in small]))


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
    assert looked[".svg"] >= 3 and looked[".ipynb"] >= 3
    assert sum(looked.values()) - looked[".svg"] - looked[".ipynb"] >= 3


@pytest.mark.parametrize("kind", ["svg", "png"])
@pytest.mark.parametrize("show", [True, False])
def test_a_shown_face_would_be_found_in_a_figure(shown, patterns, tmp_path, kind, show):
    figure = style.face_tiles(shown, list("abcd"), show_faces=show)
    figure.savefig(tmp_path / f"tiles.{kind}")
    found = [shows_a_face(one, patterns) for one in rasters(tmp_path / f"tiles.{kind}")]
    assert any(found) == show


def test_a_face_in_grey_would_be_found(marked_faces, patterns, tmp_path):
    face = Image.open(sorted(marked_faces.iterdir())[5]).convert("L").resize((64, 64))
    face.save(tmp_path / "grey.png")
    assert shows_a_face(rasters(tmp_path / "grey.png")[0], patterns)


@pytest.mark.parametrize("show", [True, False])
def test_a_shown_face_would_be_found_on_a_board(small_run, tiny, shown, patterns, tmp_path, show):
    import torch

    model = build_model("SiameseResNet").eval()
    pairs = Pairs(np.array([0, 2]), np.array([1, 3]), np.array([1, 0], np.int8))
    history = pd.DataFrame({"epoch": [1], "val_loss": [0.5]})
    ages = torch.tensor([9.0, 1.0, 2.0, 8.0])
    data = SimpleNamespace(images=torch.from_numpy(shown), ages=ages)
    settings = Settings.of(show_faces=show)
    write_boards(tmp_path, Fitted(model, history, False), data, pairs, settings)
    found = [one for path in tmp_path.rglob("events*") for one in rasters(path)]
    assert found and any(shows_a_face(one, patterns) for one in found) == show


@pytest.fixture
def run_for_photos(outputs, tiny, tmp_path):
    """A run with an evaluated model and 120 drawn faces, all over with dots of the two colours."""
    run, source, rng = Run("photos"), tmp_path / "faces", np.random.default_rng(0)
    source.mkdir()
    for number in range(120):
        face = random_face(rng)
        pixels = np.array(draw_face(face))
        for y, x in np.ndindex(6, 6):  # one every 40 pixels, none on an eye
            dot = np.s_[max(0, 40 * y - 5) : 40 * y + 5, max(0, 40 * x - 5) : 40 * x + 5]
            pixels[dot] = [(255, 0, 255), (0, 255, 0)][(x + y) % 2]
        name = f"{face.age}_{face.gender}_{face.race}_20170101{number:09}.jpg.chip.jpg"
        Image.fromarray(pixels).save(source / name, quality=95)
    faces = index_faces(source, cache=outputs / "cache", progress=False)
    faces["split"], faces["evaluate"] = split_faces(faces), keep_for_evaluation(faces, 5)
    with atomic(run.faces_csv) as temporary:
        faces.to_csv(temporary, index=False)
    history = pd.DataFrame({"epoch": [1], "val_loss": [0.5]})
    model = build_model("SiameseResNet", image_size=32).eval()
    save_model(model, run.model("siamese"), settings={}, history=history)
    row = dict(model="SiameseResNet", split="val", protocol="sample", auc=0.9)
    run.add_results(pd.DataFrame([row]))
    return source


@pytest.mark.parametrize("show", [True, False])
def test_page_09_shows_a_face_only_if_asked(run_for_photos, monkeypatch, tmp_path, show):
    given = dict(
        run="photos", data=str(run_for_photos), show_faces=show, eval_pairs=60, photo_faces=10
    )
    monkeypatch.setattr(robustness, "CHANGES", {"blur": robustness.CHANGES["blur"]})  # to be quick
    plt.close("all")
    page, scope = nbformat.read(PROJECT / "notebooks" / "09_compare_two_photos.ipynb", 4), {}
    for cell in page.cells:
        if cell.cell_type == "code":
            exec(cell.source, scope)
        if "parameters" in cell.metadata.get("tags", []):
            scope |= given
    found = []
    for number in plt.get_fignums():
        plt.figure(number).savefig(tmp_path / f"{number}.png", dpi=100)
        found.append(has_their_colours(Image.open(tmp_path / f"{number}.png")))
    plt.close("all")
    # Two photos, the steps of the alignment, the album; the curves of robustness show none.
    assert found == [show] * 3 + [False]
