"""Formatted tables for the pages."""

import pandas as pd
from pandas.io.formats.style import Styler

from utkcmp.report.sentences import NOTHING, signed, with_interval

HEADINGS = {"n_pairs": "pairs", "auc": "AUC", "auc_sd": "SD over seeds"}
HEADINGS |= {"auc_fewest": "AUC, fewest", "p": "p (Holm)"}


def shown_table(table: pd.DataFrame) -> Styler:
    """A table with three decimals (fewer from 10), each value beside its 95% interval.

    table: ``x``, ``x_low`` and ``x_high`` become one column, as do difference, low and high. Lines
    break only before an interval.

    >>> row = {"model": "one", "auc": 0.9, "auc_low": 0.8, "auc_high": 0.95, "n_pairs": 5000}
    >>> shown_table(pd.DataFrame([row])).data.iloc[0].tolist()
    ['one', '0.900 (0.800\xa0to\xa00.950)', '5,000']
    """
    table = table.reset_index() if table.index.name else table
    shown = {}
    for name in table:
        signs = name == "difference"
        low, high = ("low", "high") if signs else (f"{name}_low", f"{name}_high")
        if low in table:
            form, some = _signed if signs else _number, table[[name, low, high]]
            said = [with_interval(*row, form) for row in some.itertuples(index=False)]
            shown[name] = [one.replace(" to ", "\xa0to\xa0") for one in said]
        elif not name.endswith(("low", "high")):
            shown[name] = _texts(table[name])
    table = pd.DataFrame(shown, index=table.index).rename(columns=HEADINGS)
    table.columns = table.columns.str.replace("_", " ")
    style = table.style.set_table_attributes('class="dataframe"')
    return style.hide(axis="index") if isinstance(table.index, pd.RangeIndex) else style


def shown_trials(trials: pd.DataFrame) -> Styler:
    """Trials of a search, rates in scientific notation. trials: from ``tuning.search``."""
    shown = trials.assign(
        dropout=trials.dropout_prob.map("{:.2f}".format).where(trials.use_dropout, "none"),
        lr=trials.lr.map("{:.1e}".format),
        decay=trials.weight_decay.map("{:.0e}".format),
    ).rename(columns={"resnet_type": "network", "batch_size": "batch", "iter": "epochs"})
    columns = ["network", "hidden_layers", "batch", "lr", "decay", "dropout", "epochs"]
    return shown_table(shown[[*columns, "loss", "accuracy", "auc"]].reset_index(drop=True))


def _number(value: float) -> str:
    return f"{value:,.{_decimals(value)}f}".replace("-", "−")


def _signed(value: float) -> str:
    return signed(value, f".{_decimals(value)}f")


def _decimals(value: float) -> int:
    return 3 if abs(value) < 10 else 1 if abs(value) < 100 else 0


def _p_value(value: float) -> str:
    return _number(value) if value >= 0.0005 else "<\xa00.001"


def _texts(column: pd.Series) -> list[str]:
    """A column as text, whole numbers without decimals."""
    numbers = pd.api.types.is_numeric_dtype(column)
    whole = pd.api.types.is_integer_dtype(column) or (
        numbers
        and (column.dropna() % 1 == 0).all()
        and (column.max() > 1 or column.name == "seeds")
    )
    form = "{:,.0f}".format if whole else _number if numbers else str
    form = _p_value if column.name == "p" else form
    missing = column.isna()  # a list counts as one value
    return [NOTHING if none else form(value) for value, none in zip(column, missing, strict=True)]
