import numpy as np
import pandas as pd
import pytest

from utkcmp.report import sentences


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
    assert sentences.interval(results(m=0.9).iloc[0], "auc") == "0.900 (0.880 to 0.920)"


def test_gaps_are_in_years():
    gaps = pd.DataFrame({"accuracy": [0.51, 0.98], "accuracy_low": 0.5, "accuracy_high": 0.6})
    text = sentences.describe_gaps(gaps.set_axis(["1", ">20"]))
    assert "51.0% at an age gap of 1 year and 98.0% at one of more than 20 years" in text
    assert "2 years and" in sentences.describe_gaps(gaps.set_axis(["2", ">20"]))


@pytest.mark.parametrize(
    "low, high, expect",
    [
        ((0.4, 0.9), (0.6, 1.0), "wider gaps are easier."),
        ((0.4, 0.5), (0.7, 0.8), "wider gaps are not clearly easier."),
        ((0.9, 0.4), (1.0, 0.6), "wider gaps are not clearly easier."),
    ],
)
def test_wider_gaps_are_easier_only_if_the_intervals_say_so(low, high, expect):
    gaps = pd.DataFrame({"accuracy": 0.7, "accuracy_low": low, "accuracy_high": high})
    assert sentences.describe_gaps(gaps.set_axis(["1", ">20"])).endswith(expect)


@pytest.mark.parametrize("low, better", [(0.51, True), (0.5, False), (0.45, False)])
def test_a_model_beats_a_coin_flip_only_if_its_interval_does(low, better):
    row = {"n_pairs": 5000, "accuracy": 0.55, "accuracy_low": low, "accuracy_high": 0.6}
    said = sentences.describe_result(row | {"auc": 0.6, "auc_low": 0.5, "auc_high": 0.7})
    assert ("not clearly better than a coin flip" in said) != better
    assert ", better than a coin flip" in said or not better


def test_a_history_names_its_best_epoch_and_overfitting():
    text = sentences.describe_history(history([0.6, 0.4, 0.5], [0.7, 0.9, 0.88]))
    assert "epoch 2 of 3 (0.400, AUC 0.900)" in text and "0.200 above" in text
    assert "fits its training faces better" in text
    assert "better" not in sentences.describe_history(history([0.31], [0.9]))


def test_validation_chooses_and_test_is_only_told():
    test = results(A=0.95, B=0.93).assign(split="test", protocol="sample")
    chosen = results(A=0.9, B=0.94).assign(split="val", protocol="sample")
    text = sentences.describe_chosen(pd.concat([test, chosen]))
    assert text.startswith("Of 2 candidates (excluding the published age estimator and the")
    assert "**B** was chosen on validation pairs: on test faces its accuracy" in text
    assert "its AUC 0.930 (0.910 to 0.950). The highest test AUC is that of A: 0.950" in text
    both = pd.concat([test, chosen.assign(auc=[0.94, 0.9])])
    assert sentences.describe_chosen(both).count("AUC") == 1
    peer = sentences.describe_chosen(pd.concat([test, chosen[1:]]))
    assert "is that of A, which was not a candidate: 0.950" in peer and "Of 1 candidates" in peer


def test_the_ceiling_says_how_far_the_best_has_come():
    gaps = np.array([1, 5, 5, 20])
    ceiling = pd.DataFrame({"knows": [0.7, 0.9, 1.0], "relabelled": 0.6}, index=[1, 5, 20])
    correct = np.array([True, True, True, False])
    text = sentences.describe_ceiling(gaps, "m", correct, ceiling)  # limit 87.5 %, reached 75 %
    assert "**87.5%**" in text and "67% of the way" in text
    nothing = ceiling.assign(knows=np.nan)
    assert "nothing is known" in sentences.describe_ceiling(gaps, "m", correct, nothing)


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
            part("ethnicity", "both Asian", 0.50, 0.86, small=True),
        ]
    )
    text = sentences.describe_slices(table)
    assert "in their 20s" in text and "both female (gender; 80.0%, expected 86.0%)" in text
    assert "both male" not in text and "Asian" not in text
    fine = sentences.describe_slices(table[2:])
    assert "Of 2 groups by gender or ethnicity, 1 is large enough to judge; none is clearly" in fine
    assert "No group by gender or ethnicity is large enough" in sentences.describe_slices(table[3:])


def test_temperature_and_coverage_are_read():
    assert "overconfident" in sentences.describe_calibration(0.1, 0.01, 2.0)
    assert "underconfident" in sentences.describe_calibration(0.1, 0.01, 0.5)
    assert "neither" in sentences.describe_calibration(0.1, 0.01, 1.0)


def ranked(clear):
    row = {"better": "A", "other": "B", "auc": 0.02, "auc_low": 0.01 if clear else -0.01}
    return pd.DataFrame([row | {"auc_high": 0.05, "clear": clear}])


@pytest.mark.parametrize("clear, says", [(True, ": more than the"), (False, ": no more than the")])
def test_one_training_each_never_makes_a_difference_clear(clear, says):
    said = sentences.describe_difference(ranked(clear), "B", "A")
    assert says in said and "chance in training is not covered" in said and "clear" not in said
    equal = sentences.describe_difference(ranked(clear).assign(auc=0.0004), "B", "A")
    assert "differ by less than half a thousandth" in equal and "higher" not in equal
    every = sentences.describe_differences(ranked(clear))
    assert f"{int(clear)} of 1 differences are larger than the choice" in every
    assert ("`A` and `B`" in every) != clear


@pytest.mark.parametrize(
    "p, seeds, expect, verdict",
    [
        (0.04, 3, "clearly higher", "Yes"),
        (0.04, 2, "2 seeds", "Not shown"),
        (0.04, 1, "one seed", "Not shown"),
        (0.06, 3, "no clear difference after correction", "Not shown"),
        (np.nan, 3, "no clear difference", "Not shown"),
    ],
)
def test_words_are_as_strong_as_the_evidence(p, seeds, expect, verdict):
    row = pd.Series({"difference": 0.02, "low": 0.01, "high": 0.03, "p": p, "seeds": seeds})
    said = sentences.describe_evidence(row)
    assert expect in said and ("clearly" in said) == (verdict == "Yes")
    assert said.endswith(expect) or p < 0.05
    wide = sentences.describe_evidence(pd.Series({**row, "low": 0.0}))
    assert "after correction" not in wide
    assert "difference in AUC +0.020 (95% interval +0.010 to +0.030)" in said
    worse = row * [-1, 1, 1, 1, 1]
    assert (", lower" in sentences.describe_evidence(worse)) == (p < 0.05 and seeds < 3)
    assert sentences.verdict(row) == verdict == sentences.verdict(worse, -1)
    assert sentences.verdict(worse) == verdict.replace("Yes", "No")


def test_an_experiment_names_each_arm_and_what_it_is_held_against():
    table = pd.DataFrame({"arm": ["a", "b"], "against": ["", "a"], "seeds": 3, "auc": [0.8, 0.82]})
    table = table.assign(difference=[np.nan, 0.02], low=[np.nan, 0.01], high=[np.nan, 0.03])
    table["p"] = [np.nan, 0.001]
    said = sentences.describe_experiment(table)
    expected = "- **B** compared with a: difference in AUC +0.020 (95% interval +0.010 to +0.030)"
    assert said.startswith(expected)
    assert said.count("\n") == 0
    assert "a 0.800; b 0.820" in sentences.describe_siamese_or_concat(table)


def test_calibration_that_gets_worse_is_said():
    said = sentences.describe_calibration(0.01, 0.05, 1.2)
    assert "error is 0.010 without the temperature and 0.050 with it" in said


def test_the_course_projects_claims_hold_or_not_by_the_evidence():
    def row(difference, p):
        one = {"arm": "six channels", "against": "Siamese", "difference": difference, "p": p}
        return pd.DataFrame([one | {"low": difference, "high": difference, "seeds": 3}])

    arms = pd.concat([row(np.nan, np.nan), row(-0.1, 0.001), row(-0.05, 0.001)])
    widths = row(0.02, 0.001)
    heads = pd.DataFrame({"model": "SiameseResNetAge", "low": [0.01, -0.1], "high": [0.02, 0.1]})
    models = ranked(True).assign(better="SiameseResNet", other="SiameseResNetAge")
    said = sentences.describe_claims(arms, widths, heads, models)
    assert "*Siamese beats six channels*: yes (six channels compared with Siamese" in said
    assert (
        "*Heads without hidden layers are best*: Siamese, no (with hidden layers compared with"
        in said
    )
    assert "help*: yes, for 1 of 2 heads" in said and "*Transfer is worst*: not shown" in said
    worse = sentences.describe_claims(arms, widths, heads.assign(low=-0.2, high=-0.1), models)
    assert "hidden layers help*: no (" in worse
    arms["p"] = [np.nan, 0.001, 0.3]  # the two arms disagree
    unclear = sentences.describe_claims(arms, widths.assign(p=0.3), heads[:0], models)
    assert unclear.count("not shown") == 4 and "\n" not in unclear


def test_more_pairs_help_only_beyond_the_spread_of_seeds():
    gains = pd.DataFrame({"pairs": ["500", "all"], "fewest": "100", "difference": [0.01, 0.03]})
    said = sentences.describe_pair_counts(gains.assign(low=0.005, high=0.05))
    assert said.startswith("More pairs help: ")
    assert "AUC is +0.030 (+0.005 to +0.050), with every pair of each batch." in said
    assert "do not clearly help" in sentences.describe_pair_counts(
        gains.assign(low=np.nan, high=np.nan)
    )


def test_the_confident_half_is_compared_with_all():
    curve = pd.DataFrame({"coverage": [0.25, 0.5, 1], "accuracy": [1, 0.95, 0.9]})
    said = sentences.describe_coverage("m", curve)
    assert said.endswith("95.0% of cases; on all pairs of the sample, in 90.0%.")


def test_a_face_that_comes_again_is_named():
    worst = pd.DataFrame(
        {"left": [1, 1], "right": [2, 3], "left_age": [1, 1], "right_age": [40, 60]}
    )
    said = sentences.describe_mistakes(worst.assign(confidence=[0.9, 0.8]))
    assert (
        "one face appears in more" in said
        and "median gap between the two labelled ages is 49 years" in said
    )
    once = sentences.describe_mistakes(worst[:1].assign(confidence=0.999))
    assert "no face appears in more than one" in once and "over 99%" in once
