"""The course project's questions: sentences that turn with the numbers."""

import numpy as np
import pandas as pd

from utkcmp.report import sentences as answers


def results(**auc):
    rows = [
        {"model": name, "auc": value, "auc_low": value - 0.02, "auc_high": value + 0.02}
        | {"accuracy": value - 0.1, "accuracy_low": value - 0.13, "accuracy_high": value - 0.07}
        for name, value in auc.items()
    ]
    return pd.DataFrame(rows)


def heads(plain, hidden):
    rows = [("[]", seed, auc) for seed, auc in enumerate(plain)]
    rows += [("[64, 32]", seed, auc) for seed, auc in enumerate(hidden)]
    table = pd.DataFrame(rows, columns=["hidden_layers", "seed", "auc"])
    return table.assign(model="SiameseResNet")


NO_HEADS = pd.DataFrame(columns=["model", "hidden_layers", "seed", "auc"])
TRIALS = pd.DataFrame({"hidden_layers": ["[]", "[64]", "[64]"], "auc": [0.9, 0.7, 0.8]})


def test_hidden_layers_pay_or_not_by_what_the_seeds_say():
    for plain, hidden, expect in (
        ([0.80, 0.81, 0.82], [0.90, 0.91, 0.93], "the claim fails here"),
        ([0.90, 0.91, 0.93], [0.80, 0.81, 0.82], "the claim holds here"),
        ([0.80, 0.90, 0.85], [0.85, 0.84, 0.88], "the claim is not shown"),
    ):
        got = answers.describe_hidden_layers(heads(plain, hidden), TRIALS, TRIALS)
        assert expect in got, got
        assert f"{np.mean(hidden):.3f}" in got and f"{np.mean(plain):.3f}" in got
    assert "no verdict" in answers.describe_hidden_layers(heads([0.80], [0.95]), TRIALS, TRIALS)


def test_without_such_trainings_the_trials_speak():
    got = answers.describe_hidden_layers(NO_HEADS, TRIALS, TRIALS)
    assert "Of our trials the 2 with hidden layers" in got and "at best 0.800" in got
    got = answers.describe_hidden_layers(NO_HEADS, TRIALS.iloc[:1], TRIALS)
    assert "all are of one kind" in got and "the course project's trials the 2" in got


def test_spreads_are_told_or_said_to_be_missing():
    row = {"model": "M", "varied": "seed", "trainings": 3, "auc": 0.871, "auc_sd": 0.004}
    table = pd.DataFrame([row | {"auc_least": 0.866, "auc_most": 0.875}])
    expect = "0.871 on average, with a standard deviation of 0.004 (0.866 to 0.875)."
    assert answers.describe_spreads(table).endswith(expect)
    assert "`seeds`" in answers.describe_spreads(table.iloc[:0])
    assert "less than" in answers.describe_seeds_against_test(table, results(M=0.87))
    assert "more than" in answers.describe_seeds_against_test(
        table.assign(auc_sd=0.02), results(M=0.87)
    )
    assert answers.describe_seeds_against_test(table, results(other=0.87)) == ""


def test_what_was_reproduced_is_sorted_by_our_interval():
    usual = results(A=0.9, B=0.95, C=0.8, D=0.7).set_index("model")
    table = results(A=0.91, B=0.9, C=0.9).set_index("model")
    got = answers.describe_reproduced(table, usual, drawn=False)
    assert "reproduced: A (0.910, reported 0.900)" in got
    assert "exceeded: C" in got and "not reached: B" in got and "D (" not in got
    assert "drawings" in answers.describe_reproduced(table, usual, drawn=True)


def test_the_peer_is_held_against_the_trained_models():
    row = results(peer=0.9).iloc[0].to_dict()
    ranked = pd.DataFrame(
        {"better": ["A", "peer", "A"], "other": ["peer", "B", "B"], "real": [True, True, False]}
    )
    figures = {"MAE": 6.25, "CS@5": 0.5}
    got = answers.describe_peer(row, figures, ranked)
    assert "by 6.2 years" in got and "for 50% of the faces" in got
    assert got.endswith("Of the 2 trained models surely better: A.")
    none = answers.describe_peer(row, figures, ranked.assign(real=False))
    assert none.endswith("none is surely better.")
