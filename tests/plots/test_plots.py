"""Every figure: it draws, labels its axes, and shows no face where none may be shown."""

import io
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from utkcmp.plots import data as dataplots
from utkcmp.plots import evaluation as evalplots
from utkcmp.plots import evaluation as plots
from utkcmp.plots import style, training

RNG = np.random.default_rng(0)
AGES = RNG.integers(1, 90, 80)
HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2],
        "train_loss": [0.7, 0.5],
        "val_loss": [0.6, 0.55],
        "train_auc": [0.6, 0.8],
        "val_auc": [0.7, 0.75],
        "seconds": [3.0, 2.0],
    }
)
LABEL, LOGITS = RNG.integers(0, 2, 200), RNG.normal(size=200)
GAPS = RNG.integers(1, 60, 200)
FACES = pd.DataFrame(
    {
        "age": AGES,
        "gender": RNG.choice(["male", "female"], 80),
        "ethnicity": RNG.choice(["White", "Asian"], 80),
        "split": RNG.choice(["train", "val", "test"], 80),
    }
)
RESULTS = pd.DataFrame(
    {"model": ["A", "B"], "auc": [0.9, 0.8], "auc_low": [0.85, 0.7], "auc_high": [0.95, 0.85]}
)
SLICES = pd.DataFrame(
    {
        "slice": ["all pairs", "gender", "gender"],
        "part": ["", "the same", "different"],
        "pairs": [200, 90, 110],
        "accuracy": [0.8, 0.7, 0.9],
        "accuracy_low": [0.7, 0.6, 0.8],
        "accuracy_high": [0.9, 0.8, 0.95],
        "small": [False, True, False],
        "expected": [0.8, 0.75, 0.85],
    }
)
PARTS = pd.DataFrame(
    {"pairs": [90, 110], "accuracy": [0.5, 0.8], "accuracy_low": 0.4, "accuracy_high": 0.9},
    index=["1", "2"],
)
ARMS = pd.DataFrame(
    {"arm": ["a", "b"], "auc": [0.8, 0.9], "aucs": ["[0.79, 0.81]", "[0.9]"]}
).assign(difference=[np.nan, 0.1], low=[np.nan, 0.05], high=[np.nan, 0.15], p=[np.nan, 0.01])
GRID = pd.DataFrame([[0.6, np.nan], [0.9, 0.7]], index=[0, 10], columns=[0, 10])
FIGURES = {
    "learning_curves": lambda: training.learning_curves(HISTORY),
    "curves_beside": lambda: training.curves_beside(
        HISTORY.assign(faces=[10, 20]), {"reported": HISTORY.assign(faces=[100, 200])}
    ),
    "arms": lambda: training.arms(ARMS),
    "resumed_curves": lambda: training.resumed_curves(
        pd.concat([HISTORY.assign(arm=name, seed=1) for name in "ab"]), "a", "b"
    ),
    "auc_by_pairs": lambda: training.auc_by_pairs(
        pd.DataFrame({"pairs": ["50", "all"] * 2, "seed": [1, 1, 2, 2], "val_auc": LOGITS[:4]})
    ),
    "roc_curves": lambda: plots.roc_curves({"m": (LABEL, LOGITS)}),
    "accuracy_by_gap": lambda: plots.accuracy_by_gap({"m": PARTS}, pd.Series({"1": 0.7})),
    "accuracy_of_two": lambda: plots.accuracy_by_gap({"m": PARTS, "n": PARTS}),
    "predicted_ages": lambda: plots.predicted_ages(AGES, AGES + 3.0),
    "score_scatter": lambda: plots.score_scatter(LOGITS, -LOGITS),
    "age_histogram": lambda: dataplots.age_histogram(FACES),
    "ages_by_group": lambda: dataplots.ages_by_group(FACES),
    "split_ages": lambda: dataplots.split_ages(FACES),
    "split_shares": lambda: dataplots.split_shares(
        pd.DataFrame(
            {"faces": [40, 40], "train": [0.7, 0.6], "val": 0.2, "test": [0.1, 0.2]}, index=[0, 10]
        ),
        {"train": 0.7, "val": 0.2, "test": 0.1},
    ),
    "conflict_histogram": lambda: dataplots.conflict_histogram(np.array([1, 3, 9]), 5),
    "gap_difficulty": lambda: dataplots.gap_difficulty({"test": GAPS}, {5: np.full(60, 0.8)}),
    "age_heat_map": lambda: evalplots.age_heat_map(GRID, GRID.notna().astype(int) * 300, few=200),
    "calibration_curves": lambda: evalplots.calibration_curves(
        {"m": PARTS.assign(confidence=[0.6, 0.9])}
    ),
    "coverage_curves": lambda: evalplots.coverage_curves(
        {"m": pd.DataFrame({"coverage": [0.5, 1], "accuracy": [0.9, 0.8]})}
    ),
    "differences": lambda: evalplots.differences(
        RESULTS.assign(better="A", other=["B", "C"], clear=[True, False])
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_draws_and_names_its_axes(name, recwarn):
    figure = FIGURES[name]()
    figure.savefig(io.BytesIO())
    assert figure.axes[0].get_xlabel() or figure.axes[0].get_ylabel()
    assert not [one for one in recwarn if issubclass(one.category, RuntimeWarning)]
    plt.close(figure)


def test_slices_and_saliency_draw():
    for figure in (
        evalplots.slice_intervals(SLICES),
        evalplots.mean_saliency(RNG.random((6, 2, 8, 8)), np.arange(6) < 4),
    ):
        figure.savefig(io.BytesIO())
        plt.close(figure)


@pytest.mark.parametrize("drawn", [True, False])
def test_tiles_lie_beside_each_other_and_say_when_they_are_drawings(drawn):
    images = RNG.integers(0, 256, (12, 3, 8, 8)).astype(np.uint8)
    pairs = pd.DataFrame({"left": [0, 1], "right": [2, 3], "left_age": [5, 9], "right_age": [7, 1]})
    for figure in (
        style.pair_tiles(images, pairs, drawn=drawn),
        style.face_tiles(images[:4], list("abcd"), drawn=drawn),
    ):
        figure.savefig(io.BytesIO())
        axis = figure.axes[0]
        assert len(axis.get_images()) == 4
        assert (style.DRAWN in {text.get_text() for text in axis.texts}) == drawn
        places = [image.get_extent() for image in axis.get_images()]
        assert all(0 <= x < end <= axis.get_xlim()[1] for x, end, _, _ in places)
        assert all(0 <= y < end <= axis.get_ylim()[0] for _, _, end, y in places)
        side_by_side = sorted(places)
        assert all(a[1] < b[0] for a, b in itertools.pairwise(side_by_side))
        plt.close(figure)


def test_an_epoch_table_has_at_most_eight_rows_and_the_best():
    epochs = np.arange(1, 31)
    history = pd.DataFrame(
        {"epoch": epochs, "val_loss": (epochs - 12.0) ** 2, "lr": 1e-3, "seconds": 2}
    )
    got = training.epoch_table(history)
    shown = list(got.data.index)
    assert len(shown) <= 8 and shown[0] == 1 and shown[-1] == 30 and "12 (best)" in shown
    assert "1.0e-03" in got.to_string()


def test_a_regressor_has_each_loss_on_an_axis_of_its_own():
    history = HISTORY.drop(columns=["train_auc", "val_auc"]).assign(val_mae=[9.0, 8.0])
    first, second = training.learning_curves(history).axes
    assert len(first.lines) == len(second.lines) == 2  # one curve and the best epoch each
    assert "years" in second.get_ylabel()
