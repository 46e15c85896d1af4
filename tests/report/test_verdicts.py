"""Sentences on the course project's questions: their verdicts follow the numbers."""

import numpy as np
import pandas as pd

from utkcmp.report import sentences
from utkcmp.report.course_project import REPORTED, reported_curve, reported_results
from utkcmp.tuning.tuner import head_differences


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
    return head_differences(table.assign(model="SiameseResNetAge"))


def test_hidden_layers_pay_or_not_by_what_the_seeds_say():
    for plain, hidden, expect in (
        (
            [0.80, 0.81, 0.82],
            [0.90, 0.91, 0.93],
            "these heads do better than the one without hidden layers: `[64, 32]`",
        ),
        (
            [0.90, 0.91, 0.93],
            [0.80, 0.81, 0.82],
            "these heads do worse than the one without hidden layers: `[64, 32]`",
        ),
        ([0.80, 0.90, 0.85], [0.85, 0.84, 0.88], "hidden layers make no clear difference"),
    ):
        got = sentences.describe_heads(heads(plain, hidden))
        assert expect in got, got
        assert f"{np.mean(hidden):.3f}" in got and f"{np.mean(plain):.3f}" in got
    assert "cannot be told from chance" in sentences.describe_heads(heads([0.80], [0.95]))


def test_what_was_reproduced_is_sorted_by_our_interval():
    usual = results(A=0.9, B=0.95, C=0.8, D=0.7).set_index("model")
    table = results(A=0.91, B=0.9, C=0.9).set_index("model")
    got = sentences.describe_reproduced(table, usual, drawn=False)
    assert "within our interval: A (0.910, reported 0.900)" in got and "D (" not in got
    assert "below our interval: C" in got and "above our interval: B" in got
    assert "drawings" in sentences.describe_reproduced(table, usual, drawn=True)


def test_the_fault_alone_is_what_transfer_is_judged_by():
    table = results(SiameseResNetAge=0.9, SiameseResNet=0.95).set_index("model")
    ranked = pd.DataFrame([{"better": "SiameseResNet", "other": "SiameseResNetAge", "auc": 0.05}])
    ranked = ranked.assign(auc_low=0.04, auc_high=0.06, clear=True)
    row = {"fault": "left face twice", "sound": 0.91, "faulty": 0.75, "difference": -0.16}
    faults = pd.DataFrame([row | {"low": -0.2, "high": -0.12, "p": 0.001, "seeds": 3}])
    got = sentences.describe_transfer(table, ranked, faults)
    evidence = "difference in AUC −0.160 (95% interval −0.200 to −0.120), clearly lower."
    assert f"the AUC is 0.750 instead of 0.910: {evidence}" in got
    told = sentences.describe_faults(faults)
    assert told == f"- **Left face twice**: 0.750 instead of 0.910; {evidence}"
    assert "no claim about transfer" in got
    without = sentences.describe_transfer(table, ranked, pd.DataFrame())
    assert without.endswith("reported an AUC of 0.900.")


def test_the_course_projects_curves_are_those_of_its_tables():
    """The rows of its README match its TensorBoard curves at the lowest validation loss."""
    kept = reported_results().query("split == 'val'").drop_duplicates("model").set_index("model")
    for model in ("SiameseResNet", "ResNetClassifier"):
        curve = reported_curve(model)
        best = curve.loc[curve.val_loss.idxmin()]
        assert round(best.val_loss, 4) == kept.loss[model]
        assert abs(best.val_auc - kept.auc[model]) < 1e-4
    assert reported_curve("SiameseResNetAge").val_loss.argmin() == 0  # never improved
    assert 8.4 < reported_curve("age regressor").val_loss.min() ** 0.5 < 8.7  # years, plausible
    assert reported_curve("SiameseResNet").faces[0] == 2 * 100_000
    models = pd.read_csv(REPORTED / "curves.csv").model.unique()
    assert len(models) == 6 and all(len(reported_curve(model)) > 10 for model in models)
