import numpy as np
import pytest
from PIL import Image

from utkcmp.compare import robustness
from utkcmp.compare.alignment import POINTS
from utkcmp.compare.robustness import (
    CHANGES,
    PHOTO,
    SIDE,
    measured,
    paste,
    path_difference,
    photos_of,
    robustness_table,
    through_photos,
)
from utkcmp.data.drawing import DrawnFace, draw_face
from utkcmp.report.sentences import describe_path, describe_robustness


class Brightness:
    """A model to which the brighter face is older."""

    frame = POINTS

    def embed(self, crops):
        return np.array([[np.asarray(crop).mean()] for crop in crops]), None, None

    def logits(self, brought, left, right):
        return (brought[left] - brought[right])[:, 0]


def grey(level, side=200):
    return Image.new("RGB", (side, side), (level,) * 3)


def test_a_pasted_crop_lies_in_the_middle():
    photo = np.asarray(paste(grey(255), 100, 0.0, 300, np.random.default_rng(0)))
    assert (photo[100:200, 100:200] == 255).all() and (photo[:99] < 255).all()
    turned = np.asarray(paste(grey(255), 100, 45.0, 300, np.random.default_rng(0)))
    assert (turned[150, 85:215] == 255).all() and (turned[105, 105] < 255).all()


def test_photos_depend_on_the_seed_alone():
    crops = [grey(200), grey(10)]
    one, other, third = (photos_of(crops, seed) for seed in (1, 1, 2))
    assert (
        [p.tobytes() for p in one] == [p.tobytes() for p in other] != [p.tobytes() for p in third]
    )
    assert {photo.size for photo in one} == {(640, 640)}


def test_accuracy_counts_pairs_of_found_faces():
    ages = np.array([10, 20, 30, 40])
    crops = [grey(10), grey(30), grey(20), None]  # 30 looks younger than 20; 40 is not found
    got = measured(crops, ages, Brightness())
    assert got["found"] == 0.75 and got["pairs"] == 3 and got["accuracy"] == pytest.approx(2 / 3)
    nothing = measured([None] * 4, ages, Brightness())
    assert nothing["found"] == 0 and np.isnan(nothing["accuracy"])


def test_what_the_way_costs():
    ages = np.array([10, 20, 30, 40, 50])
    crops = [grey(level) for level in (10, 20, 30, 40, 50)]
    aligned = [grey(20), grey(10), grey(30), grey(40), None]
    got = path_difference(crops, aligned, ages, Brightness())
    assert got["found"] == 0.8 and got["pairs"] == 6
    assert got["direct"] == 1 and got["through"] == pytest.approx(5 / 6)
    assert got["low"] <= -1 / 6 <= got["high"]
    assert "a change of −16.7 percentage points" in describe_path(got)


def test_only_one_face_makes_a_crop_and_a_photo_on_its_side_is_turned():
    crop = draw_face(DrawnFace(np.random.default_rng(1), 40))
    upright = robustness.paste(crop, 160, 0, 240, np.random.default_rng(0))
    pair = Image.new("RGB", (480, 240))
    pair.paste(upright, (0, 0))
    pair.paste(upright, (240, 0))
    photos = [upright, upright.rotate(90), pair, Image.new("RGB", (240, 240))]
    found = through_photos(photos, Brightness())
    assert [one is not None for one in found] == [True, True, False, False]


def test_changes_change_what_they_say():
    photo = paste(grey(200), SIDE, 0.0, PHOTO, np.random.default_rng(0))
    middle = np.s_[60:180, 60:180]

    def changed(name, level):
        return np.asarray(CHANGES[name].apply(photo, level)).astype(int)

    assert changed("brightness", 0.5)[middle] == pytest.approx(100)
    assert changed("size", 80).shape == (120, 120, 3)
    covered = changed("occlusion", 50)
    assert (covered[50:118, 50:190] == 200).all() and (covered[122:198, 50:190] == 128).all()
    edges = [np.abs(np.diff(changed("blur", level), axis=0)).max() for level in (1, 4)]
    assert edges[0] > 2 * edges[1]
    assert changed("rotation", 45)[2, 2].tolist() == [128] * 3
    assert changed("close-up", 600).shape == (600, 600, 3)
    assert changed("close-up", 600) == pytest.approx(200)
    large = changed("large photo", 4000)
    assert large.shape == (480, 4000, 3) and (large[240, 1453] == 200).all()
    errors = [np.abs(changed("JPEG", q) - np.asarray(photo).astype(int)).mean() for q in (40, 5)]
    assert errors[0] < errors[1]


def test_the_table_has_a_row_a_level(monkeypatch):
    monkeypatch.setattr(robustness, "through_photos", lambda photos, predictor: list(photos))
    ages = np.arange(10, 60, 10)
    table = robustness_table([grey(50 + 30 * k) for k in range(5)], ages, Brightness())
    assert len(table) == sum(1 + len(change.levels) for change in CHANGES.values())
    plain = table[table.level.isna()]
    assert plain.accuracy.nunique() == 1 and (table.found == 1).all()
    worst = table.loc[table.accuracy.idxmin()]
    said = describe_robustness(table)
    assert f"lowest, {worst.accuracy:.1%} (95% interval {worst.accuracy_low:.1%} to" in said
    assert (
        f"{worst.pairs} pairs), with the change *{worst.change}* ({worst.unit}: {worst.level:g})."
        in said
    )
