import numpy as np
import pandas as pd
import pytest

from utkcmp.data.pairs import AllPairs
from utkcmp.evaluation.slices import age_grid, pair_slices, slice_table


@pytest.fixture(scope="module")
def asked():
    """Sixty faces, some of unknown gender, all their pairs and noisy answers."""
    rng = np.random.default_rng(0)
    faces = pd.DataFrame(
        {
            "age": rng.integers(1, 90, 60),
            "gender": rng.choice([0, 1, np.nan], 60, p=[0.45, 0.45, 0.1]),
            "ethnicity": rng.integers(0, 3, 60).astype(float),
        }
    )
    pairs = AllPairs(faces.age.to_numpy())[:]
    gap = faces.age.to_numpy()[pairs.left] - faces.age.to_numpy()[pairs.right]
    return faces, pairs, gap / 10 + rng.normal(size=len(pairs))


def test_gaps_and_ages_divide_the_pairs_without_rest(asked):
    faces, pairs, _ = asked
    for name in ("age gap (years)", "age of the younger"):
        masks = [mask for slice_, _, mask in pair_slices(pairs, faces) if slice_ == name]
        assert (np.sum(masks, axis=0) == 1).all()


def test_parts_are_what_they_say(asked):
    faces, pairs, _ = asked
    masks = {(name, part): mask for name, part, mask in pair_slices(pairs, faces)}
    gap = np.abs(faces.age.to_numpy()[pairs.left] - faces.age.to_numpy()[pairs.right])
    assert (gap[masks["age gap (years)", "3–5"]] >= 3).all()
    assert (gap[masks["age gap (years)", "3–5"]] <= 5).all()
    for i, (left, right) in enumerate(zip(pairs.left, pairs.right, strict=True)):
        one, other = faces.gender[left], faces.gender[right]
        known = not (np.isnan(one) or np.isnan(other))
        assert masks["gender", "both male"][i] == (one == other == 0)
        assert masks["gender", "the same"][i] == (known and one == other)
        assert masks["gender", "different"][i] == (known and one != other)


def test_the_table_counts_and_measures_each_part(asked):
    faces, pairs, logits = asked
    got = slice_table(logits, pairs, faces, resamples=100)
    assert got.slice[0] == "all pairs" and got.pairs[0] == len(pairs) and not got.small[0]
    wide = got[got.part == ">20"].iloc[0]
    gap = np.abs(faces.age.to_numpy()[pairs.left] - faces.age.to_numpy()[pairs.right])
    correct = (logits > 0) == (pairs.label == 1)
    assert wide.pairs == (gap > 20).sum()
    assert wide.accuracy == pytest.approx(correct[gap > 20].mean())
    assert wide.accuracy_low <= wide.accuracy <= wide.accuracy_high
    assert got[got.part == "1"].small.all()
    assert got.expected[0] == pytest.approx(got.accuracy[0])
    assert wide.expected == pytest.approx(wide.accuracy)  # a part by gap explains itself


def test_a_part_whose_errors_hang_on_one_face_is_small(asked):
    """A wrong label makes one face wrong in all its pairs: of many faces it alone is to blame."""
    faces, pairs, _ = asked
    right = np.where(pairs.label == 1, 3.0, -3.0)
    often = np.bincount(np.r_[pairs.left, pairs.right]).argmax()
    of_it = (pairs.left == often) | (pairs.right == often)
    blamed = slice_table(np.where(of_it, -right, right), pairs, faces, resamples=100).iloc[0]
    spread = np.random.default_rng(0).random(len(pairs)) < of_it.mean()
    usual = slice_table(np.where(spread, -right, right), pairs, faces, resamples=100).iloc[0]
    assert blamed.small and not usual.small


def test_the_age_grid_counts_every_pair_once(asked):
    faces, pairs, logits = asked
    accuracy, count = age_grid(logits, pairs, faces.age.to_numpy())
    assert count.to_numpy().sum() == len(pairs)
    mean = np.nansum(accuracy.to_numpy() * count.to_numpy()) / len(pairs)
    assert mean == pytest.approx(((logits > 0) == (pairs.label == 1)).mean())
    assert (count.stack().index.map(lambda cell: cell[0] >= cell[1]) | (count.stack() == 0)).all()
