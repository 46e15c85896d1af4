"""Formatted tables: one column per value with its interval, no NaN, no clipped trials."""

import numpy as np
import pandas as pd

from utkcmp.report import reported_tuning
from utkcmp.report.tables import shown_table, shown_trials


def test_a_figure_and_its_interval_are_one_column():
    rows = {"model": ["a", "b"], "auc": [0.9, 0.5], "auc_low": [0.8, np.nan]}
    rows |= {"auc_high": [0.95, np.nan], "difference": [-0.1, np.nan], "low": [-0.2, np.nan]}
    rows |= {"high": [0.01, np.nan], "seeds": [3.0, np.nan], "n_pairs": [1, 5000]}
    shown = shown_table(pd.DataFrame(rows).set_index("model"))
    assert shown.data.to_dict("list") == {
        "model": ["a", "b"],
        "AUC": ["0.900 (0.800\xa0to\xa00.950)", "0.500"],
        "difference": ["−0.100 (−0.200\xa0to\xa0+0.010)", "–"],
        "seeds": ["3", "–"],
        "pairs": ["1", "5,000"],
    }
    assert ">0<" not in shown.to_html()  # no row numbers


def test_large_numbers_have_fewer_decimals():
    shown = shown_table(pd.DataFrame({"seconds": [0.0236, -2.5, 24.074, 3869.977]})).data
    assert shown.seconds.tolist() == ["0.024", "−2.500", "24.1", "3,870"]


def test_differences_and_p_values_have_their_own_forms():
    rows = {"difference": [3863.6, -0.1], "low": np.nan, "high": np.nan, "p": [1e-9, 0.0412]}
    shown = shown_table(pd.DataFrame(rows)).data
    assert shown["difference"].tolist() == ["+3864", "−0.100"]
    assert shown["p (Holm)"].tolist() == ["<\xa00.001", "0.041"]


def test_a_row_without_a_name_keeps_its_index():
    assert ">red<" in shown_table(pd.DataFrame({"mean": [0.5]}, index=["red"])).to_html()


def test_rates_of_trials_are_scientific_and_dropout_is_that_in_use():
    shown = shown_trials(reported_tuning()).data
    assert len(shown.columns) == 10 and len(shown) == len(reported_tuning())
    assert (
        shown_trials(reported_tuning().assign(hidden_layers=[[]] * 29)).data["hidden layers"][0]
        == "[]"
    )
    assert shown.lr[0] == "5.3e-03" and set(shown.dropout) > {"none", "0.42"}
