"""Comparing photos from Python: pairs, albums, and the choice and loading of models."""

import io
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import SIZE, make_model
from PIL import Image

from utkcmp.compare import BAND, compare, compare_many, put_in_order
from utkcmp.compare.answers import TOO_CLOSE, Comparison, Order, load
from utkcmp.compare.photos import NoAnswerError, PhotoError
from utkcmp.compare.predictor import Predictor, find_model
from utkcmp.evaluation.calibration import Calibration
from utkcmp.run import CALIBRATION, CHOICE, PROJECT


class Brightness(Predictor):
    """A model to which the brighter face is older; the age is ten times the brightness."""

    def __init__(self, folder, has_scores=True):
        super().__init__(folder)
        self.scores = has_scores

    has_ages = True
    has_scores = property(lambda self: self.scores)

    def embed(self, crops):
        level = np.array([[np.asarray(crop).mean() / 255] for crop in crops])
        return level, 10 * level[:, 0], np.repeat([[0.5, 0.5]], len(crops), 0)

    def logits(self, brought, left, right):
        return (brought[left] - brought[right])[:, 0] * 100


@pytest.fixture(scope="module")
def bright(predictor):
    return Brightness(predictor.folder)


class Side:
    turned, age = 0, None


def one(probability, calibrated=True, **options):
    return Comparison(Side(), Side(), probability, calibrated, **options)


@pytest.mark.parametrize(
    "answer, said",
    [
        (one(0.87), "left is older (87%)"),
        (one(0.13), "right is older (87%)"),
        (one(0.599), "too close to call (left, 59%)"),
        (one(0.41, band=0.5), "right is older (59%)"),
        (one(0.5, band=0.5), "too close to call (right, 50%)"),
        (one(0.9999), "left is older (over 99%)"),
        (one(0.2, calibrated=False), "right is older (80%, not calibrated)"),
    ],
)
def test_the_sentence(answer, said):
    assert str(answer) == said


def test_the_band_is_the_one_that_is_stated():
    assert one(BAND).answer == "left" and one(BAND - 1e-6).answer == TOO_CLOSE


def test_the_order_as_lines(photos, predictor):
    order = put_in_order([photos / f"{number}.png" for number in range(4)], predictor)
    doubtful = Order(order.faces, np.array([0.9, 0.599, 0.7]), calibrated=True)
    lines = str(doubtful).splitlines()
    assert [line[0] for line in lines[1:]] == [" ", " ", "≈", " "]
    assert lines[3].endswith("59%") and order.faces[2].name in lines[3]


def test_the_answer_is_the_same_whichever_photo_comes_first(photos, predictor):
    for other in range(1, 4):
        forth = compare(photos / "0.png", photos / f"{other}.png", predictor)
        back = compare(photos / f"{other}.png", photos / "0.png", predictor)
        assert forth.probability + back.probability == pytest.approx(1, abs=1e-6)
        assert {forth.answer, back.answer} in ({"left", "right"}, {TOO_CLOSE})


def test_graphs_answer_as_pytorch_does(photos, predictor, tiny):
    """Repeats all steps: resizing, normalisation, both orders, temperature."""
    from utkcmp.data.decode import resize
    from utkcmp.models.inference import to_float
    from utkcmp.models.storage import load_model

    got = compare(photos / "0.png", photos / "1.png", predictor)
    crops = [resize(side.crop, SIZE) for side in (got.left, got.right)]
    left, right = (to_float(torch.from_numpy(one)[None]) for one in crops)
    network = load_model(predictor.folder)
    with torch.no_grad():
        logit = (network(left, right) - network(right, left)) / 2 / 0.02
    assert got.probability == pytest.approx(torch.sigmoid(logit).item(), abs=1e-3)


def test_force(photos, bright):
    pair = photos / "0.png", photos / "1.png"
    close = Brightness(bright.folder)
    close.logits = lambda brought, left, right: np.full(len(left), 0.01)
    assert compare(*pair, close).answer == TOO_CLOSE
    assert compare(*pair, close, force=True).answer == "left"


def test_ages_are_told_only_if_asked_for_and_known(photos, predictor, bright):
    pair = photos / "0.png", photos / "1.png"
    with pytest.raises(NoAnswerError, match="does not predict ages: expected one"):
        compare("missing.png", "missing.png", predictor, ages=True)  # before reading photos
    assert compare(*pair, bright).ages is None
    told = compare(*pair, bright, ages=True)
    assert f"ages: left about {told.ages[0]:.0f}" in str(told)
    assert told.as_dict()["left"]["age_distribution"] == [0.5, 0.5]


def test_what_may_be_handed_in(photos, predictor, tmp_path):
    """Every accepted type gives the same answer; anything else raises PhotoError."""
    data = (photos / "0.png").read_bytes()
    expect = compare(photos / "0.png", photos / "1.png", predictor).probability
    read = io.BytesIO(data)
    read.read()
    with open(photos / "0.png", "rb") as file:
        for given in (data, bytearray(data), memoryview(data), io.BytesIO(data), read, file):
            got = compare(given, photos / "1.png", predictor)
            assert got.probability == pytest.approx(expect, abs=1e-6)
    assert compare(read, photos / "1.png", predictor).left.name == "the left photo"
    for given in (None, 5, object(), io.StringIO("text"), file):
        with pytest.raises(PhotoError, match=r"the left photo|0\.png"):
            compare(given, photos / "1.png", predictor)


def test_eight_threads_give_the_answers_of_one(photos, predictor):
    pairs = [(photos / f"{a}.png", photos / f"{b}.png") for a in range(5) for b in range(a)]

    def ask(pair):
        return compare(*pair, predictor).probability

    expect = [ask(pair) for pair in pairs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, pairs)) == expect


def test_many_pairs_are_answered_as_each_alone(photos, predictor):
    names = ["0.png", "1.png", "wall.png", "group.png", "missing.png"]
    pairs = [(photos / one, photos / other) for one in names[:3] for other in names]
    got = dict(zip(pairs, compare_many(pairs, predictor), strict=True))
    for (left, right), answer in got.items():
        if isinstance(answer, Comparison):
            expect = compare(left, right, predictor).probability
            assert answer.probability == pytest.approx(expect, abs=1e-5)
        else:
            with pytest.raises(type(answer)) as caught:
                compare(left, right, predictor)
            assert str(caught.value) == str(answer)
    assert sum(isinstance(answer, Comparison) for answer in got.values()) == 2


def test_one_bad_pair_does_not_end_the_others(photos, predictor):
    good = photos / "0.png", io.BytesIO((photos / "1.png").read_bytes())
    got = compare_many([good, (photos / "0.png",), None, (None, photos / "0.png"), good], predictor)
    assert isinstance(got[0], Comparison) and str(got[4]) == str(got[0])
    assert [str(one).split(":")[0] for one in got[1:4]] == [
        "pair 2 is not a pair",
        "pair 3 is not a pair",
        "the left photo of pair 4 is not a photo",
    ]


def test_a_folder_is_all_pairs_or_all_photos_of_it(photos, predictor, tmp_path):
    for name in ("0.png", "1.png", "2.png", "wall.png"):
        shutil.copy(photos / name, tmp_path / name)
    (tmp_path / ".hidden").touch()
    got = compare_many(tmp_path, predictor)
    names = [(os.path.basename(a.left.name), os.path.basename(a.right.name)) for a in got[:2]]
    assert names == [("0.png", "1.png"), ("0.png", "2.png")] and len(got) == 6
    order = put_in_order(tmp_path, predictor)
    assert len(order.faces) == 3 and "wall.png" in str(order.skipped[0])
    with pytest.raises(PhotoError, match="expected a folder"):
        compare_many(tmp_path / "missing", predictor)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PhotoError, match="holds no file"):
        put_in_order(tmp_path / "empty", predictor)


def test_each_face_is_embedded_once(photos, bright, monkeypatch):
    seen, embed = [], Brightness.embed
    monkeypatch.setattr(
        Brightness, "embed", lambda self, crops: seen.append(len(crops)) or embed(self, crops)
    )
    names = [photos / f"{number}.png" for number in range(4)]
    assert len(compare_many([(a, b) for a in names for b in names if a != b], bright)) == 12
    assert seen == [4]


def test_an_album_stands_in_the_order_of_its_pairs(photos, predictor):
    names = [photos / f"{number}.png" for number in range(6)]
    order = put_in_order(names, predictor)
    assert sorted(face.name for face in order.faces) == sorted(map(str, names))
    for younger, older, step in zip(order.faces, order.faces[1:], order.steps, strict=False):
        pair = compare(older.name, younger.name, predictor)
        assert pair.probability == pytest.approx(step, abs=1e-5) and step >= 0.5
    assert predictor.has_scores and all(face.photo is None for face in order.faces)


def test_scores_and_all_pairs_give_one_order(photos, predictor):
    names = [photos / f"{number}.png" for number in range(4)]
    models = [Brightness(predictor.folder, has_scores=known) for known in (True, False)]
    by_scores, by_pairs = (put_in_order(names, model).faces for model in models)
    assert [face.name for face in by_scores] == [face.name for face in by_pairs]


def test_a_photo_without_an_answer_is_skipped(photos, predictor, tmp_path):
    good = [photos / f"{number}.png" for number in range(2)]
    order = put_in_order([photos / "wall.png", *good, tmp_path / "missing.png", None], predictor)
    assert len(order.faces) == 2 and str(order).endswith("photos skipped: 3")
    assert "no face" in str(order.skipped[0]) and "no such file" in str(order.skipped[1])
    with pytest.raises(NoAnswerError, match="only one face, in .*0.png: expected two.*no face was"):
        put_in_order([good[0], photos / "wall.png"], predictor)


def test_group_photos(photos, predictor):
    order = put_in_order([photos / "group.png"], predictor)
    assert sorted(face.name[-2:] for face in order.faces) == ["#1", "#2", "#3"]
    with pytest.raises(NoAnswerError, match="only one face, in .*0.png: expected two or more"):
        put_in_order([photos / "0.png"], predictor)
    some = [photos / "0.png", photos / "group.png"]
    assert len(put_in_order(some, predictor, faces="all").faces) == 4
    with pytest.raises(NoAnswerError, match="shows 3 faces: expected one"):
        compare(*some, predictor)
    largest = compare(*some, predictor, faces="largest")
    assert largest.right.name[-2:] in ("#1", "#2", "#3")
    with pytest.raises(ValueError, match="faces = 'all': expected one or largest"):
        compare(*some, predictor, faces="all")


def test_the_same_photo_under_another_name(photos, predictor, tmp_path):
    shutil.copy(photos / "0.png", tmp_path / "copy.png")
    with pytest.raises(NoAnswerError, match="same picture"):
        compare(photos / "0.png", tmp_path / "copy.png", predictor)


def test_a_sideways_photo_is_turned(photos, predictor):
    photo = Image.open(photos / "0.png").convert("RGB")
    for stored, turned in ((90, 90), (180, 180), (270, 270)):  # Pillow rotates counter-clockwise
        got = compare(photo.rotate(stored, expand=True), photos / "1.png", predictor)
        if got.left.turned:  # some drawn faces are found sideways
            assert got.left.turned == turned
            assert f"left photo turned by {turned} degrees clockwise" in str(got)
        assert abs(got.left.face.eyes[0] - got.left.face.eyes[1])[0] > 20 or not got.left.turned


# ---- models --------------------------------------------------------------------------------------


def touch_model(folder, when):
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
        os.utime(folder / name, (when, when))


def test_the_published_model_comes_first_then_the_latest(tmp_path, monkeypatch):
    monkeypatch.setenv("UTKCMP_OUTPUTS", str(tmp_path))
    with pytest.raises(ValueError, match="run 'make report' to make one, or name its folder"):
        find_model()
    for number, run in enumerate(("old", "new")):
        for name in ("a", "b"):
            touch_model(tmp_path / run / "models" / name, 1000 + number + (name == "b") / 2)
    assert find_model() == tmp_path / "new" / "models" / "b"
    (tmp_path / "new" / CHOICE).write_text('{"model": "a"}')
    assert find_model() == tmp_path / "new" / "models" / "a"
    (tmp_path / "new" / CHOICE).write_text('{"model": "gone"}')
    assert find_model() == tmp_path / "new" / "models" / "b"
    shutil.copytree(tmp_path / "old", tmp_path / "utkface")
    assert find_model().parts[-3:-1] == ("utkface", "models")


def test_a_folder_without_model(photos, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no finished model: model.safetensors is missing"):
        compare(photos / "0.png", photos / "1.png", tmp_path)


def test_a_broken_calibration(tmp_path):
    assert Calibration.read(tmp_path) == Calibration()
    for text in ("{", '{"temperature": 0}', '{"unknown": 1}', '{"frame": [[1, 2]]}', "[1]"):
        (tmp_path / CALIBRATION).write_text(text)
        with pytest.raises(ValueError, match="is no calibration"):
            Calibration.read(tmp_path)


def test_a_folder_is_loaded_once_until_it_changes(predictor, tmp_path):
    folder = shutil.copytree(predictor.folder, tmp_path / "model")
    before = load(folder)
    assert load(str(folder)) is before and before.image_size == SIZE
    Calibration(temperature=2.0).write(folder)
    assert load(folder) is not before and load(folder).calibration.temperature == 2
    with pytest.raises(ValueError, match="no finished model"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize(
    "name, options, told, scores",
    [
        ("ResNetAgeRegressor", {"age_loss": "distribution"}, 3, True),
        ("SiameseResNetAge", {"hidden_layers": [4]}, 2, False),
        ("ResNetClassifier", {}, 1, False),
    ],
)
def test_every_kind_of_model_answers(photos, tiny, tmp_path, name, options, told, scores):
    """Exporting the graphs also checks that they agree with PyTorch."""
    predictor = Predictor(make_model(tmp_path / name, name, **options))
    names = [photos / f"{number}.png" for number in range(3)]
    forth, back = compare_many([names[:2], names[1::-1]], predictor)
    assert forth.probability + back.probability == pytest.approx(1, abs=1e-5)
    assert predictor.has_ages == (told > 1) and predictor.has_scores == scores
    if told > 1:
        told = compare(*names[:2], predictor, ages=True)
        distribution = told.left.age_distribution
        if distribution is not None:
            assert distribution @ np.arange(len(distribution)) == pytest.approx(told.ages[0], 1e-3)
            older = "left" if told.ages[0] > told.ages[1] else "right"
            assert compare(*names[:2], predictor, force=True).answer == older


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system tells no such figures")
def test_an_album_of_the_published_model_fits_a_small_machine():
    """Its graphs keep what their largest batch takes, twice over; 200 crops fill several batches.

    Finding faces in photos of 12 million pixels takes some 200 MB beside that.
    """
    code = (
        "import numpy as np\nfrom utkcmp.compare import put_in_order\n"
        "crops = np.random.default_rng(0).integers(0, 256, (200, 64, 64, 3), np.uint8)\n"
        "assert len(put_in_order(list(crops), aligned=True).faces) == 200\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "UTKCMP_OUTPUTS"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 700 * 1024


@pytest.mark.slow
def test_a_whole_network_is_exported_and_takes_a_fifth_of_a_second(photos, tmp_path):
    """Processor time with a loaded model, for two files of 640 pixels and faces of 128 pixels.

    On a slow machine, the limit is six times the time of the network alone.
    """
    import time

    predictor = Predictor(make_model(tmp_path / "model", image_size=128))
    for name in ("0", "1"):
        with Image.open(photos / f"{name}.png") as photo:
            photo.resize((640, 640)).save(tmp_path / f"{name}.jpg", quality=95)
    took, network = [], []
    for _ in range(6):
        start = time.process_time()
        found = compare(tmp_path / "0.jpg", tmp_path / "1.jpg", predictor)
        took.append(time.process_time() - start)
        start = time.process_time()
        predictor.embed([found.left.crop, found.right.crop])
        network.append(time.process_time() - start)
    assert min(took) < max(0.2, 6 * min(network)), (took, network)
