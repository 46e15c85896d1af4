import numpy as np
import pandas as pd
import pytest

from utkcmp.report import sentences as answers
from utkcmp.report import sentences as readings


def results(**auc):
    rows = [
        {"model": name.replace("_", " "), "auc": value, "auc_low": value - 0.02}
        | {"auc_high": value + 0.02, "accuracy": value - 0.1, "accuracy_low": value - 0.13}
        | {"accuracy_high": value - 0.07, "n_pairs": 5000, "swap_disagreement": 0.05}
        for name, value in auc.items()
    ]
    return pd.DataFrame(rows)


def history(val_loss, val_auc, seconds=10.0):
    epochs = range(1, len(val_loss) + 1)
    return pd.DataFrame(
        {"epoch": epochs, "train_loss": 0.3, "val_loss": val_loss, "val_auc": val_auc}
    ).assign(seconds=seconds)


def test_an_interval_is_written_out():
    assert readings.interval(results(m=0.9).iloc[0], "auc") == "0.900 (0.880 to 0.920)"


def test_a_history_names_its_best_epoch_and_overfitting():
    text = readings.describe_history(history([0.6, 0.4, 0.5], [0.7, 0.9, 0.88]))
    assert "epoch 2 of 3 (0.400, AUC 0.900)" in text and "0.200 above" in text
    assert "knows its training faces better" in text
    assert "better" not in readings.describe_history(history([0.31], [0.9]))


@pytest.mark.parametrize("second, says", [(0.93, "overlaps"), (0.80, "ends below it")])
def test_the_best_model_is_held_against_the_next(second, says):
    table = results(good=0.95, next=second)
    assert "**good**" in readings.describe_best(table) and says in readings.describe_best(table)


def test_validation_chooses_and_test_is_only_told():
    test = results(A=0.95, B=0.93).assign(split="test", protocol="sample")
    chosen = results(A=0.9, B=0.94).assign(split="val", protocol="sample")
    text = readings.describe_chosen(pd.concat([test, chosen]))
    assert text.startswith(
        "Of 2 models the validation pairs chose **B**: on test faces its accuracy"
    )
    assert (
        "its AUC 0.930 (0.910 to 0.950). The highest AUC there, 0.950" in text and "of A." in text
    )
    both = pd.concat([test, chosen.assign(auc=[0.94, 0.9])])
    assert readings.describe_chosen(both).count("AUC") == 1
    assert readings.describe_chosen(test) == readings.describe_best(test)


def test_what_is_not_trained_yet_is_said():
    assert "notebooks 04 to 06" in readings.describe_best(results())
    table = results(SiameseResNet=0.9).set_index("model")
    usual = pd.DataFrame()
    got = answers.describe_siamese_or_concat(table, usual, pd.DataFrame())
    assert "ResNetClassifier" in got and "SiameseResNet " not in got
    assert "notebooks 04 to 06" in answers.describe_transfer(table, usual, pd.DataFrame())
    assert "notebooks 04 to 06" in readings.describe_ages_compared(table)


def ranked(real):
    row = {"better": "A", "other": "B", "auc": 0.02, "auc_low": 0.01 if real else -0.01}
    return pd.DataFrame([row | {"auc_high": 0.05, "real": real}])


@pytest.mark.parametrize("real, says", [(True, "real"), (False, "do not decide")])
def test_a_difference_is_real_or_open(real, says):
    assert says in readings.describe_difference(ranked(real), "B", "A")
    assert ("A over B" in readings.describe_differences(ranked(real))) == real


def test_pairings_are_compared_by_what_they_reach():
    batch = history([0.5, 0.4, 0.3], [0.8, 0.95, 0.9], seconds=10)
    fixed = history([0.6, 0.5], [0.7, 0.75], seconds=20)
    text = readings.describe_pairings(batch, fixed)
    assert "every pair of a batch reached a validation AUC of 0.950 in 30 s" in text
    assert text.endswith("fixed pairs 0.750 in 40 s.")
    other_way = readings.describe_pairings(fixed, batch)
    assert "fixed pairs reached a validation AUC of 0.950" in other_way


def test_the_ceiling_says_how_far_the_best_has_come():
    gaps = np.array([1, 5, 5, 20])
    ceiling = pd.DataFrame({"knows": [0.7, 0.9, 1.0], "relabelled": 0.6}, index=[1, 5, 20])
    correct = {"m": np.array([True, True, True, False])}
    text = readings.describe_ceiling(gaps, correct, ceiling)  # 87.5 % allowed, 75 % reached
    assert "**87.5%**" in text and "67% of the way" in text and "12.5% of the pairs" in text
    nothing = ceiling.assign(knows=np.nan)
    assert "nothing is known" in readings.describe_ceiling(gaps, correct, nothing)


def part(slice_, part_, accuracy, expected, small=False):
    return {"slice": slice_, "part": part_, "accuracy": accuracy, "expected": expected} | {
        "accuracy_high": accuracy + 0.02,
        "small": small,
    }


def test_who_is_served_worse_is_named_but_not_from_small_cells():
    table = pd.DataFrame(
        [
            part("age of the younger", "20s", 0.80, 0.85),
            part("gender", "both female", 0.80, 0.86),
            part("gender", "both male", 0.85, 0.86),
            part("ethnicity", "both asian", 0.50, 0.86, small=True),
        ]
    )
    text = readings.describe_slices(table)
    assert "20s fare worst" in text and "both female (80.0%, expected 86.0%)" in text
    assert "both male" not in text and "asian" not in text
    fine = readings.describe_slices(pd.DataFrame([part("gender", "both male", 0.85, 0.86)]))
    assert "none lies clearly below" in fine


def test_temperature_and_coverage_are_read():
    assert "overconfident" in readings.describe_calibration(0.1, 0.01, 2.0)
    assert "underconfident" in readings.describe_calibration(0.1, 0.01, 0.5)
    assert "neither" in readings.describe_calibration(0.1, 0.01, 1.0)
    curve = pd.DataFrame({"coverage": [0.5, 0.8, 1.0], "accuracy": [0.97, 0.95, 0.9]})
    text = readings.describe_coverage(curve)
    assert "97.0% instead of 90.0%" in text and "80% of the pairs" in text
    assert "no share" in readings.describe_coverage(curve.assign(accuracy=0.8))


def test_a_leak_is_read_with_its_contrast():
    row = results(m=0.9).iloc[0]
    contrast = pd.DataFrame({"pairs": [10, 90], "accuracy": [0.95, 0.8]})
    text = readings.describe_leak(row, row, contrast)
    assert "10 pairs" in text and "95.0%" in text and "80.0%" in text
    assert "None of its test faces" in readings.describe_leak(
        row, row, contrast.assign(pairs=[0, 9])
    )


def test_many_open_differences_are_counted():
    table = pd.concat([ranked(False).assign(other=name) for name in "BCDEF"])
    assert readings.describe_differences(table).endswith("do not rank the 5 pairs drawn in grey.")
    table = pd.concat([ranked(True).assign(other=name) for name in "BCDEF"])
    assert readings.describe_differences(table) == "Of 5 differences 5 are real."


def test_an_age_loss_helps_or_does_not():
    both, alone = history([0.5, 0.4], [0.8, 0.9]), history([0.5, 0.4], [0.8, 0.85])
    text = readings.describe_losses(both, alone)
    assert "0.900 with the ages and 0.850" in text and text.endswith("ages helped (+0.050).")
    assert readings.describe_losses(alone, both).endswith("ages did not help (-0.050).")


def test_larger_faces_are_held_against_smaller_ones():
    larger = pd.DataFrame({"model": ["C", "A"], "auc": [0.93, 0.95], "minutes": [10.2, 4.0]})
    text = readings.describe_larger({"model": "B", "auc": 0.9}, larger, ranked(True))
    assert "0.900 to 0.930 (C, 10 minutes more), 0.950 (A, 4 minutes more)" in text
    assert "A has a higher AUC than B" in text and text.endswith("the difference is real.")
    assert "one size" in readings.describe_larger({}, larger[:0], ranked(True))


def test_more_pairs_are_better_where_the_interval_says_so():
    rows = [("1000", 0.01, 0.03), ("2000", -0.01, 0.05), ("all", -0.05, -0.01)]
    gains = pd.DataFrame(rows, columns=["pairs", "low", "high"])
    gains["difference"] = (gains.low + gains.high) / 2
    gains = gains.assign(fewest="100", seeds=3, auc_fewest=0.8, auc=0.8 + gains.difference)
    first, *_, some, more, every = readings.describe_pair_counts(gains).splitlines()
    assert first.startswith("Validation AUC: 0.800 from 100 pairs, 0.820 from 1,000 pairs")
    assert some == "- 1,000 pairs: +0.020 (95 % interval +0.010 to +0.030), better."
    assert more.endswith("not told apart.")
    assert every.startswith("- every pair of a batch: -0.030") and every.endswith("worse.")
    alone = gains.assign(seeds=1, low=np.nan, high=np.nan)
    got = readings.describe_pair_counts(alone)
    assert "no verdict" in got and "interval" not in got
    assert (
        readings.describe_pair_counts(gains[:0]) == "This run did not try other numbers of pairs."
    )
