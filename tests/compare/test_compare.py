"""Two photos in, an answer out: the Python functions, the command, its exit status."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_photos import SVG, VIDEO, bomb

from utkcmp.compare import predictor as answering
from utkcmp.compare.answers import (
    BAND,
    TOO_CLOSE,
    Comparison,
    Order,
    compare,
    compare_many,
    load,
    put_in_order,
)
from utkcmp.compare.command import main
from utkcmp.compare.photos import NoAnswerError, PhotoError
from utkcmp.compare.predictor import NoModelError, Predictor, find_model
from utkcmp.compare.robustness import paste
from utkcmp.data.decode import decode
from utkcmp.data.synthetic import draw_sample
from utkcmp.evaluation.calibration import Calibration
from utkcmp.models.networks import build_model
from utkcmp.models.storage import save_model
from utkcmp.run import CALIBRATION, PROJECT

SIZE = 32


def make_model(folder, name="SiameseResNet", image_size=SIZE, **options):
    torch.manual_seed(0)
    model = build_model(name, image_size=image_size, **options)
    history = pd.DataFrame({"epoch": [1], "val_loss": [0.25]})
    save_model(model.eval(), folder, settings={}, history=history)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """An outputs folder with one calibrated model, that of a run called "first"."""
    root = tmp_path_factory.mktemp("outputs")
    folder = make_model(root / "first" / "models" / "siamese")
    Calibration(temperature=0.02, pairs=1000, drawn=True).write(folder)
    return root


@pytest.fixture(scope="module")
def model(root):
    return Predictor(root / "first" / "models" / "siamese")


@pytest.fixture
def outputs_here(root, monkeypatch):
    monkeypatch.setenv("UTKCMP_OUTPUTS", str(root))
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six photos with one drawn face each, and a group of three."""
    folder = draw_sample(tmp_path_factory.mktemp("faces") / "drawn", n=50)
    crops = [decode(path.read_bytes()) for path in sorted(folder.glob("[34]*_*_*.jpg"))[:6]]
    place = tmp_path_factory.mktemp("photos of faces")
    rng = np.random.default_rng(0)
    for number, crop in enumerate(crops):
        paste(crop, 180, 0.0, 300, rng).save(place / f"{number}.png")
    group = Image.new("RGB", (800, 300), "grey")
    for number, crop in enumerate(crops[:3]):
        group.paste(crop, (20 + 270 * number, 50))
    group.save(place / "group.png")
    Image.new("RGB", (90, 90)).save(place / "wall.png")
    return place


def one(probability, **options):
    return Comparison(None, None, probability, calibrated=True, **options)


@pytest.mark.parametrize(
    "answer, said",
    [
        (one(0.87), "left is older (87 %)"),
        (one(0.13), "right is older (87 %)"),
        (one(0.59), "too close to call (left, 59 %)"),
        (one(0.41, band=0.5), "right is older (59 %)"),
        (one(0.5, band=0.5), "too close to call (right, 50 %)"),
        (one(0.9, ages=(61.2, 30.0)), "left is older (90 %) (ages: left about 61, right about 30)"),
        (Comparison(None, None, 0.2, calibrated=False), "right is older (80 %, not calibrated)"),
    ],
)
def test_the_sentence(answer, said):
    assert str(answer) == said


def test_the_order_as_lines(photos, model):
    order = put_in_order([photos / f"{number}.png" for number in range(4)], model)
    doubtful = Order(order.faces, np.array([0.9, 0.55, 0.7]), calibrated=True)
    assert doubtful.uncertain.tolist() == [False, True, False]
    lines = str(doubtful).splitlines()
    assert [line[0] for line in lines[1:]] == [" ", " ", "≈", " "]
    assert lines[3].endswith("55 %") and order.faces[2].name in lines[3]


def test_the_answer_is_the_same_whichever_photo_comes_first(photos, model):
    for other in range(1, 4):
        forth = compare(photos / "0.png", photos / f"{other}.png", model)
        back = compare(photos / f"{other}.png", photos / "0.png", model)
        assert forth.probability + back.probability == pytest.approx(1, abs=1e-6)
        assert {forth.answer, back.answer} in ({"left", "right"}, {TOO_CLOSE})


def test_graphs_answer_as_pytorch_does(photos, model):
    """The whole way by hand: crops resized, normalised, both orders, temperature."""
    from utkcmp.data.decode import resize
    from utkcmp.models.inference import to_float
    from utkcmp.models.storage import load_model

    got = compare(photos / "0.png", photos / "1.png", model)
    crops = [resize(side.crop, SIZE) for side in (got.left, got.right)]
    left, right = (to_float(torch.from_numpy(one)[None]) for one in crops)
    network = load_model(model.folder)
    with torch.no_grad():
        logit = (network(left, right) - network(right, left)) / 2 / 0.02
    assert got.probability == pytest.approx(torch.sigmoid(logit).item(), abs=1e-3)


def test_weights_are_read_from_the_safetensors_alone(tmp_path, photos):
    """The graphs hold none: other weights give another answer without new graphs."""
    folder = make_model(tmp_path / "model")
    before = compare(photos / "0.png", photos / "1.png", folder)
    graph = folder / answering.FACE
    made, size = graph.stat().st_mtime_ns, graph.stat().st_size
    weights = load_file(folder / answering.WEIGHTS)
    save_file({k: -v if k.startswith("head") else v for k, v in weights.items()}, folder / "w")
    (folder / "w").replace(folder / answering.WEIGHTS)
    after = compare(photos / "0.png", photos / "1.png", folder)
    assert after.probability == pytest.approx(1 - before.probability, abs=1e-6)
    assert graph.stat().st_mtime_ns == made and size < 2**20


def test_the_band_and_force(photos, root):
    folder = make_model(root / "unsure" / "models" / "one")
    Calibration(temperature=1e6, pairs=10).write(folder)
    pair = photos / "0.png", photos / "1.png"
    assert compare(*pair, folder).answer == TOO_CLOSE
    assert compare(*pair, folder, force=True).answer in ("left", "right")
    shutil.rmtree(root / "unsure")


def test_ages_only_if_asked_and_known(photos, model, tmp_path):
    pair = photos / "0.png", photos / "1.png"
    with pytest.raises(NoAnswerError, match="tells no ages: expected one with an age regressor"):
        compare(*pair, model, ages=True)
    folder = make_model(tmp_path / "regressor", "ResNetAgeRegressor")
    assert compare(*pair, folder).ages is None
    told = compare(*pair, folder, ages=True)
    older = "left" if told.ages[0] > told.ages[1] else "right"
    assert compare(*pair, folder, force=True).answer == older and f"{told.ages[0]:.0f}" in str(told)
    transfer = make_model(tmp_path / "transfer", "SiameseResNetAge")
    assert len(compare(*pair, transfer, ages=True).ages) == 2


def test_a_model_that_sees_both_faces_at_once(photos, tmp_path):
    folder = make_model(tmp_path / "concat", "ResNetClassifier")
    got = compare_many([(photos / "0.png", photos / f"{k}.png") for k in (1, 2)], folder)
    back = compare(photos / "2.png", photos / "0.png", folder)
    assert got[1].probability + back.probability == pytest.approx(1, abs=1e-6)


def test_many_pairs_are_answered_as_each_alone(photos, model):
    names = ["0.png", "1.png", "wall.png", "2.png", "group.png", "missing.png"]
    pairs = [(photos / one, photos / other) for one in names for other in names]
    got = dict(zip(pairs, compare_many(pairs, model), strict=True))
    for (left, right), answer in got.items():
        if isinstance(answer, Comparison):
            expect = compare(left, right, model).probability
            assert answer.probability == pytest.approx(expect, abs=1e-5)
        else:
            with pytest.raises(type(answer)) as caught:
                compare(left, right, model)
            assert str(caught.value) == str(answer)
    assert sum(isinstance(answer, Comparison) for answer in got.values()) == 6


def test_a_folder_is_all_pairs_of_its_photos(photos, model, tmp_path):
    for name in ("0.png", "1.png", "2.png"):
        shutil.copy(photos / name, tmp_path / name)
    got = compare_many(tmp_path, model)
    names = [(os.path.basename(a.left.name), os.path.basename(a.right.name)) for a in got]
    assert names == [("0.png", "1.png"), ("0.png", "2.png"), ("1.png", "2.png")]
    with pytest.raises(PhotoError, match="expected a folder"):
        compare_many(tmp_path / "missing", model)


def test_each_face_is_embedded_once(photos, model, monkeypatch):
    seen = []
    embed = Predictor.embed
    monkeypatch.setattr(
        Predictor, "embed", lambda self, crops: seen.append(len(crops)) or embed(self, crops)
    )
    names = [photos / f"{number}.png" for number in range(4)]
    assert len(compare_many([(a, b) for a in names for b in names if a != b], model)) == 12
    assert seen == [4]


def test_an_album_stands_in_the_order_of_its_pairs(photos, model):
    names = [photos / f"{number}.png" for number in range(6)]
    order = put_in_order(names, model)
    assert sorted(face.name for face in order.faces) == sorted(map(str, names))
    for younger, older, step in zip(order.faces, order.faces[1:], order.steps, strict=False):
        pair = compare(older.name, younger.name, model)
        assert pair.probability == pytest.approx(step, abs=1e-5) and step >= 0.5


def test_one_group_photo_is_put_in_order(photos, model):
    order = put_in_order([photos / "group.png"], model)
    assert sorted(face.name[-2:] for face in order.faces) == ["#1", "#2", "#3"]
    with pytest.raises(NoAnswerError, match="shows one face: expected two or more"):
        put_in_order([photos / "0.png"], model)
    with pytest.raises(NoAnswerError, match="shows 3 faces"):
        put_in_order([photos / "0.png", photos / "1.png", photos / "group.png"], model)
    every = put_in_order([photos / "0.png", photos / "group.png"], model, every=True)
    assert len(every.faces) == 4


# ---- models --------------------------------------------------------------------------------------


def test_the_published_model_comes_first_then_the_latest(tmp_path, monkeypatch):
    monkeypatch.setenv("UTKCMP_OUTPUTS", str(tmp_path))
    with pytest.raises(NoModelError, match="run 'make report' to make one, or name its folder"):
        find_model()
    for number, run in enumerate(("old", "new")):
        for name in ("a", "b"):
            folder = make_model(tmp_path / run / "models" / name)
            for path in folder.iterdir():
                os.utime(path, (1000 + number, 1000 + number + (name == "b")))
    assert find_model() == tmp_path / "new" / "models" / "b"
    (tmp_path / "new" / "compare.json").write_text('{"model": "a"}')
    assert find_model() == tmp_path / "new" / "models" / "a"
    (tmp_path / "new" / "compare.json").write_text('{"model": "gone"}')
    assert find_model() == tmp_path / "new" / "models" / "b"
    shutil.copytree(tmp_path / "old", tmp_path / "utkface")
    assert find_model().parts[-3:-1] == ("utkface", "models")


def test_a_folder_without_model(photos, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no finished model: model.safetensors is missing"):
        compare(photos / "0.png", photos / "1.png", tmp_path)


def test_a_broken_calibration(tmp_path):
    assert Calibration.read(tmp_path) == Calibration()
    for text in ("{", '{"temperature": 0}', '{"unknown": 1}', '{"frame": [[1, 2]]}', "[1]"):
        (tmp_path / CALIBRATION).write_text(text)
        with pytest.raises(ValueError, match="is no calibration"):
            Calibration.read(tmp_path)


# ---- the command ---------------------------------------------------------------------------------


def run(*arguments, capsys):
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_the_command_answers(photos, outputs_here, capsys):
    status, out, err = run(photos / "0.png", photos / "1.png", capsys=capsys)
    expect = compare(photos / "0.png", photos / "1.png")
    lines = out.splitlines()
    assert status == 0 and err == "" and lines[0] == str(expect)
    assert "drawn faces only" in lines[1]


def test_the_full_answer_and_a_figure(photos, outputs_here, capsys, tmp_path):
    figure = tmp_path / "answer.png"
    pair = photos / "0.png", photos / "1.png"
    status, out, _ = run(*pair, "--json", "--force", "--save", figure, capsys=capsys)
    got = json.loads(out)
    assert status == 0 and got["band"] == 0.5 and got["answer"] in ("left", "right")
    assert got["confidence"] >= 0.5 and got["left"]["file"] == str(pair[0])
    assert len(got["right"]["box"]) == 4 and got["calibrated"] and got["model_saw_only_drawings"]
    assert Image.open(figure).size[0] > 500
    status, _, err = run(*pair, "--save", tmp_path / "answer.txt", capsys=capsys)
    assert status == 1 and "expected a name that ends in .png" in err


def test_an_album_by_the_command(photos, outputs_here, capsys, tmp_path):
    names = [photos / f"{number}.png" for number in range(3)]
    status, out, _ = run(*names, "--save", tmp_path / "order.png", capsys=capsys)
    assert status == 0 and len(out.splitlines()) == 5
    assert Image.open(tmp_path / "order.png").size[0] > 300
    status, out, _ = run(photos / "group.png", "--json", capsys=capsys)
    got = json.loads(out)
    assert status == 0 and len(got["youngest_to_oldest"]) == 3 and len(got["next_is_older"]) == 2


@pytest.mark.parametrize(
    "names, options, status, said",
    [
        (("0.png", "wall.png"), (), 2, "no face was found in"),
        (("0.png", "group.png"), (), 2, "shows 3 faces: expected one"),
        (("0.png", "0.png"), (), 2, "are the same picture: expected two"),
        (("0.png",), (), 2, "shows one face"),
        (("0.png", "1.png"), ("--ages",), 2, "tells no ages"),
        (("0.png", "missing.png"), (), 1, "no such file"),
        (("0.png", "."), (), 1, "is a folder"),
        (("0.png", "1.png"), ("--model", "nowhere"), 1, "holds no finished model"),
        ((), (), 1, "no photo is given"),
    ],
)
def test_the_exit_status(photos, outputs_here, capsys, names, options, status, said):
    paths = [photos / name for name in names]
    got, out, err = run(*paths, *options, capsys=capsys)
    assert got == status and said in err and len(err.splitlines()) == 1 and out == ""
    got, out, _ = run(*paths, *options, "--json", capsys=capsys)
    assert got == status and said in json.loads(out)["reason"]


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "is empty, zero bytes"),
        (b"no picture", "is not an image"),
        (VIDEO, "is not an image"),
        (SVG, "is not an image"),
        (bomb(), "is too large"),
    ],
    ids=["empty", "text", "video", "SVG", "60,000 x 60,000"],
)
def test_a_file_that_is_no_photo_ends_the_command(
    photos, outputs_here, capsys, tmp_path, content, said
):
    path = tmp_path / "no photo, keine Aufnahme für uns.jpg"
    path.write_bytes(content)
    status, out, err = run(photos / "0.png", path, capsys=capsys)
    assert status == 1 and out == "" and len(err.splitlines()) == 1
    assert f"{path} {said}" in err and "expected" in err


def test_two_paths_to_one_file(photos, outputs_here, capsys, tmp_path):
    (tmp_path / "link.png").symlink_to(photos / "0.png")
    status, _, err = run(photos / "0.png", tmp_path / "link.png", capsys=capsys)
    assert status == 2 and "are the same picture" in err


def test_an_unknown_option_is_an_error_not_a_question(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--no-such-option"])
    assert caught.value.code == 1


def test_the_same_photo_under_another_name(photos, model, tmp_path):
    shutil.copy(photos / "0.png", tmp_path / "copy.png")
    with pytest.raises(NoAnswerError, match="same picture"):
        compare(photos / "0.png", tmp_path / "copy.png", model)


def test_the_command_without_pytorch(photos, outputs_here, model, tmp_path):
    """As a user calls it; what is slow to import stays out, and what it takes is bounded."""
    assert model.image_size == SIZE  # the graphs are there
    code = (
        "import sys, utkcmp.compare as c; s = c.main(sys.argv[1:]); "
        "sys.exit(9 if {'torch', 'lightning', 'matplotlib'} & set(sys.modules) else s)"
    )
    command = [sys.executable, "-c", code, photos / "0.png", photos / "1.png"]
    with open(tmp_path / "said", "w+") as said:
        process = subprocess.Popen(command, cwd=PROJECT, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        answer = said.read()
    assert process.returncode == 0, answer
    assert "older" in answer or TOO_CLOSE in answer
    assert used.ru_utime < 6  # seconds of work; about 1.5 where nothing runs
    module = [sys.executable, "-m", "utkcmp.compare", photos / "0.png", photos / "wall.png"]
    assert subprocess.run(module, cwd=PROJECT, capture_output=True).returncode == 2


def test_a_pair_takes_a_fifth_of_a_second(photos, tmp_path):
    """Of processor time, once the model is loaded: from two files of 640 pixels, 128 px a face.

    On a slow machine that is at most six times what the network alone takes for the two faces.
    """
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


def test_a_folder_is_loaded_once_until_it_changes(tmp_path):
    folder = make_model(tmp_path / "model")
    assert load(folder).image_size == SIZE  # asked for, the graphs are written
    before = load(folder)
    assert load(str(folder)) is before
    Calibration(temperature=2.0).write(folder)
    assert load(folder) is not before and load(folder).calibration.temperature == 2
    with pytest.raises(ValueError, match="no finished model"):
        load(tmp_path / "nothing")


def test_the_exported_model_is_the_same(photos, outputs_here, model, tmp_path, capsys):
    path = tmp_path / "model.onnx"
    status, out, _ = run("--export", path, capsys=capsys)
    assert status == 0 and "differs from PyTorch" in out
    shutil.move(path, tmp_path / "elsewhere.onnx")  # nothing beside it is needed
    from utkcmp.data.decode import resize

    expect = compare(photos / "0.png", photos / "1.png", model)
    left, right = (resize(side.crop, SIZE)[None] for side in (expect.left, expect.right))
    graph = answering.session(tmp_path / "elsewhere.onnx")
    logit = graph.run(None, {"left": left, "right": right})[0]
    assert 1 / (1 + np.exp(-logit[0])) == pytest.approx(expect.probability, abs=1e-4)
    assert graph.run(None, {"left": np.repeat(left, 3, 0), "right": np.repeat(right, 3, 0)})[
        0
    ] == pytest.approx(np.repeat(logit, 3), abs=1e-3)


def test_the_band_is_the_one_that_is_stated():
    assert one(BAND).answer == "left" and one(BAND - 1e-6).answer == TOO_CLOSE
