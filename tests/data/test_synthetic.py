import doctest
import hashlib
import json
import re
import shutil
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from utkcmp.data import synthetic as sample
from utkcmp.data.drawing import DrawnFace, StandIns
from utkcmp.data.synthetic import draw_sample, planted_flaws

NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_20(?:16|17)\d{13}\.jpg\.chip\.jpg")
N = 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_sample(tmp_path_factory.mktemp("data") / "faces", n=N, seed=42)


@pytest.fixture(scope="module")
def good(folder):
    """Every file with a valid name that decodes, copies included: [(age, picture)]."""
    faces = []
    for path in sorted(folder.iterdir()):
        try:
            faces.append((int(NAME.fullmatch(path.name)[1]), Image.open(path).convert("RGB")))
        except (TypeError, OSError):
            continue
    return faces


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return draw_sample(tmp_path_factory.mktemp("small") / "faces", n=50, seed=3)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(small, tmp_path):
    first = contents(small)
    assert contents(draw_sample(tmp_path / "same", n=50, seed=3)) == first
    other = contents(draw_sample(tmp_path / "other", n=50, seed=4))
    assert {"readme.txt"} == {name for name, data in other.items() if first.get(name) == data}


def test_a_face_does_not_depend_on_n(small, tmp_path):
    few = contents(small)
    more = contents(draw_sample(tmp_path / "more", n=60, seed=3))
    same = [name for name, data in few.items() if more.get(name) == data and NAME.match(name)]
    assert len(same) >= 50


def test_good_faces_are_200_pixel_rgb_jpegs_named_as_in_utkface(folder, good):
    flaws = planted_flaws(N)
    valid = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    badly_named = ["missing_field", "blank_in_name", "missing_dot", "other_file"]
    assert len(valid) == N + sum(flaws.values()) - sum(flaws[kind] for kind in badly_named)
    unreadable = flaws["truncated"] + flaws["empty"] + flaws["not_an_image"]
    assert len(good) == len(valid) - unreadable
    for path in valid[:40]:
        if path.stat().st_size > 1000:
            with Image.open(path) as picture:
                assert (picture.size, picture.mode, picture.format) == ((200, 200), "RGB", "JPEG")


def test_ages_are_spread_as_in_utkface(good):
    ages = np.array([age for age, _ in good])
    assert ages.min() >= 1 and ages.max() <= 100
    assert 0.05 < np.mean(ages <= 5) < 0.2
    assert 0.4 < np.mean((ages >= 18) & (ages <= 40)) < 0.75
    assert 0.04 < np.mean(ages > 60) < 0.25


def test_badly_named_and_unreadable_files_are_planted(folder):
    flaws = planted_flaws(N)
    names = [path.name for path in folder.iterdir()]
    patterns = {
        "missing_field": r"\d+_[01]_\d{17}\.jpg\.chip\.jpg",
        "blank_in_name": r"\d+_[01]_[0-4]_\d{17} \.jpg\.chip\.jpg",
        "missing_dot": r"\d+_[01]_[0-4]_\d{17}jpg\.chip\.jpg",
        "other_file": r"readme\.txt",
    }
    for kind, pattern in patterns.items():
        assert sum(bool(re.fullmatch(pattern, name)) for name in names) == flaws[kind], kind
    got = Counter()
    for path in filter(lambda path: NAME.fullmatch(path.name), folder.iterdir()):
        data = path.read_bytes()
        if not data.startswith(b"\xff\xd8"):
            got["not_an_image" if data else "empty"] += 1
        elif not data.endswith(b"\xff\xd9"):
            got["truncated"] += 1
            with pytest.raises(OSError), Image.open(path) as picture:
                picture.load()
    assert got == {kind: flaws[kind] for kind in ("truncated", "empty", "not_an_image")}


def test_identical_copies_are_planted_with_equal_and_with_other_ages(folder):
    groups = defaultdict(list)
    for path in folder.iterdir():
        if path.stat().st_size and (name := NAME.fullmatch(path.name)):
            groups[hashlib.sha256(path.read_bytes()).digest()].append(int(name[1]))
    copied = [ages for ages in groups.values() if len(ages) > 1]
    gaps = [max(ages) - min(ages) for ages in copied]
    assert {len(ages) for ages in copied} == {2}
    assert gaps.count(0) == planted_flaws(N)["copy_same_age"]
    others = [gap for gap in gaps if gap]
    assert len(others) == planted_flaws(N)["copy_other_age"]
    assert min(others) in range(2, 5) and max(others) in range(8, 26)


def test_near_identical_faces_are_planted(good):
    ages = [age for age, _ in good]
    tiny = np.stack([np.asarray(face.reduce(20), dtype=float).ravel() for _, face in good])
    apart = np.abs(tiny[:, None] - tiny).mean(axis=2)
    pairs = np.argwhere(np.triu((apart < 2) & (apart > 0), 1))
    gaps = [abs(ages[left] - ages[right]) for left, right in pairs]
    assert gaps.count(0) == planted_flaws(N)["near_same_age"]
    assert len(gaps) - gaps.count(0) == planted_flaws(N)["near_other_age"]
    assert max(gaps) in range(2, 5)


def test_counts_of_flaws_grow_with_n():
    assert min(planted_flaws(50).values()) >= 1
    assert sum(planted_flaws(50).values()) <= 12
    assert all(planted_flaws(40_000)[kind] >= few for kind, few in planted_flaws(400).items())


def test_a_complete_sample_is_left_alone(folder, monkeypatch):
    monkeypatch.setattr(sample, "_write_files", lambda *_: pytest.fail("drawn again"))
    assert draw_sample(str(folder), n=N, seed=42) == folder


@pytest.mark.parametrize("change", ["a file lost", "another seed", "another drawing"])
def test_another_or_incomplete_sample_is_replaced(small, tmp_path, monkeypatch, change):
    folder, seed = shutil.copytree(small, tmp_path / "faces"), 3
    if change == "a file lost":
        sorted(folder.glob("*.jpg"))[0].unlink()
    elif change == "another seed":
        seed = 4
    else:
        monkeypatch.setattr(sample, "DRAWING", sample.DRAWING + 1)
    draw_sample(folder, n=50, seed=seed)
    marker = json.loads((folder / sample.MARKER).read_text())
    assert (marker["seed"], marker["drawing"]) == (seed, sample.DRAWING)
    assert len(list(folder.iterdir())) == 50 + sum(planted_flaws(50).values()) + 1
    assert list(tmp_path.iterdir()) == [folder]  # nothing temporary left beside it


def test_a_stopped_run_leaves_nothing_half_drawn(tmp_path, monkeypatch):
    def stopped(folder, n, seed):
        (folder / "1_0_0_20170110000000000.jpg.chip.jpg").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "_write_files", stopped)
    with pytest.raises(KeyboardInterrupt):
        draw_sample(tmp_path / "faces", n=50)
    assert list(tmp_path.iterdir()) == []


def test_too_few_faces_and_a_negative_seed_are_refused(tmp_path):
    with pytest.raises(ValueError, match="n=49.* expected n >= 50"):
        draw_sample(tmp_path / "faces", n=49)
    with pytest.raises(ValueError, match="seed=-1"):
        draw_sample(tmp_path / "faces", seed=-1)


@pytest.mark.parametrize("kind", ["photos", "a file", "a stranger among the faces", "bad marker"])
def test_a_folder_that_is_no_sample_is_refused_and_kept(small, tmp_path, kind):
    folder = tmp_path / "mine"
    if kind == "a file":
        folder.write_text("mine")
    elif kind == "a stranger among the faces":
        (shutil.copytree(small, folder) / "holiday.jpg").write_bytes(b"mine")
    else:
        folder.mkdir()
        (folder / (sample.MARKER if kind == "bad marker" else "holiday.jpg")).write_text("[]")
    before = folder.read_text() if folder.is_file() else contents(folder)
    with pytest.raises(ValueError, match="mine holds something else .* expected a new or an empty"):
        draw_sample(folder, n=60)
    assert before == (folder.read_text() if folder.is_file() else contents(folder))


def test_hair_greys_with_age(good):
    """The strip at the top of the picture, against the nose's skin, brightens from 18 on."""
    ages, greys = [], []
    for age, face in good:
        if age >= 18:
            hair, skin = np.asarray(face)[4:16, 80:120], np.asarray(face)[100:120, 90:110]
            ages.append(age)
            greys.append(hair.mean(axis=(0, 1)).min() / skin.mean())
    assert spearmanr(greys, ages).statistic > 0.4


def test_eyes_of_small_children_lie_lower(good):
    """Row of the darkest line of the mean face, below the brows, in the columns of an eye."""

    def eye_row(faces):
        grey = np.mean([np.asarray(face.convert("L")) for face in faces], axis=0)
        return 60 + grey[60:130, 55:70].mean(axis=1).argmin()

    assert 62 < eye_row([face for age, face in good if age > 25]) < 76
    assert 84 < eye_row([face for age, face in good if age <= 5]) < 104


def test_age_can_be_learned_but_not_perfectly(good):
    """A linear model of 24 x 24 pixels orders unseen pairs better than chance, with errors."""
    ages = np.array([age for age, _ in good])
    pixels = np.stack([np.asarray(face.resize((24, 24))).ravel() / 255 for _, face in good])
    pixels, first = np.unique(pixels, axis=0, return_index=True)  # no copy on both sides
    ages, train = ages[first], np.random.default_rng(0).random(len(first)) < 0.7
    guess = Ridge(alpha=100).fit(pixels[train], ages[train]).predict(pixels[~train])
    gap = np.subtract.outer(ages[~train], ages[~train])
    score = np.subtract.outer(guess, guess)
    assert 0.72 < roc_auc_score(gap[gap != 0] > 0, score[gap != 0]) < 0.96


def test_examples_in_the_docstrings_hold():
    got = doctest.testmod(sample)
    assert got.attempted >= 3 and got.failed == 0


def test_a_stand_in_is_a_drawing_of_the_age_that_is_the_same_each_time():
    stand_ins = StandIns(np.array([3, 80]))
    young, old = stand_ins[0], stand_ins[1]
    assert young.shape == (3, 100, 100) and young.dtype == np.uint8
    assert (StandIns(np.array([3, 20]))[0] == young).all() and (young != old).any()
    face = DrawnFace(np.random.default_rng(1), 80)
    assert face.age == 80 and face.wrinkles > DrawnFace(np.random.default_rng(1), 3).wrinkles


def test_a_hidden_file_among_drawn_faces_is_no_stranger(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "faces")
    (folder / ".DS_Store").touch()
    count = json.loads((folder / sample.MARKER).read_text())
    assert draw_sample(folder, n=count["n"], seed=count["seed"]) == folder
    assert (folder / ".DS_Store").exists()  # kept, not drawn again
