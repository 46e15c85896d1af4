"""Sentences that read a figure aloud, filled from its numbers; several notebooks say the same."""

import numpy as np
import pandas as pd


def interval(row: dict, metric: str) -> str:
    """``0.871 (0.853 to 0.889)``: one figure of a results row with its 95 % interval."""
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return f"{row[metric]:.3f} ({low:.3f} to {high:.3f})"


def read_history(history: pd.DataFrame) -> str:
    """What a pair model's learning curves show. history: as in ``solver.Fitted``."""
    best, last = history.loc[history.val_loss.idxmin()], history.iloc[-1]
    gap = last.val_loss - last.train_loss
    side = "above" if gap > 0 else "below"
    return (
        f"The validation loss is lowest in epoch {best.epoch:.0f} of {last.epoch:.0f} "
        f"({best.val_loss:.3f}, AUC {best.val_auc:.3f}). In the last epoch it lies {abs(gap):.3f} "
        f"{side} the training loss"
        + (": the network knows its training faces better than new ones." if gap > 0.05 else ".")
    )


def read_result(row: dict) -> str:
    """What one row of results.csv says, against the coin flip."""
    beats = "above" if row["accuracy_low"] > 0.5 else "not surely above"
    return (
        f"On {row['n_pairs']:,} test pairs the model is right in {row['accuracy']:.1%} of cases "
        f"(95 % interval {row['accuracy_low']:.1%} to {row['accuracy_high']:.1%}), {beats} the "
        f"coin flip; the area under the curve is {interval(row, 'auc')}."
    )


def read_gaps(gaps: np.ndarray, correct: np.ndarray) -> str:
    """What accuracy by age gap shows. gaps: (K,) years; correct: (K,) bool."""
    narrow, wide = gaps <= 5, gaps > 20
    if not narrow.any() or not wide.any():
        return "There are too few pairs to compare narrow gaps with wide ones."
    difference = correct[wide].mean() - correct[narrow].mean()
    verdict = "the gap decides how hard the question is" if difference > 0.1 else "little apart"
    return (
        f"Pairs at most 5 years apart are answered rightly in {correct[narrow].mean():.1%} of "
        f"cases, pairs more than 20 years apart in {correct[wide].mean():.1%}: {verdict}."
    )


def read_mistakes(worst: pd.DataFrame) -> str:
    """What the table of the most confident mistakes shows. worst: as from ``mistakes``."""
    if not len(worst):
        return "There is no wrong answer among the test pairs."
    gap = (worst.left_age - worst.right_age).abs().median()
    return (
        f"The surest of these {len(worst)} wrong answers is {worst.confidence.max():.0%} "
        f"confident; in the median their labels lie {gap:.0f} years apart. A wide gap with high "
        "confidence asks for a look at the label."
    )


def read_difference(table: pd.DataFrame, one: str, other: str) -> str:
    """Whose AUC is higher, and whether the intervals overlap. table: results rows by model."""
    better, worse = sorted((one, other), key=lambda model: -table.auc[model])
    overlap = table.auc_low[better] <= table.auc_high[worse]
    return (
        f"{better} has the higher AUC ({table.auc[better]:.3f} against {table.auc[worse]:.3f}); "
        + (
            "the intervals overlap, so this run alone does not decide it."
            if overlap
            else "the intervals do not overlap, so the difference is real."
        )
    )
