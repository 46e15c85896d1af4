"""The course project's questions, and those about its figures, answered in sentences."""

import numpy as np
import pandas as pd

from utkcmp.readings import interval, read_best, read_difference, untrained
from utkcmp.tuning import head_differences
from utkcmp.tuningreadings import read_heads

THEIRS = "the course project's"


def read_siamese_or_concat(table: pd.DataFrame, usual: pd.DataFrame, ranked: pd.DataFrame) -> str:
    """Siamese against six channels. table, usual: measured and reported results by model; ranked:
    as from ``paired_differences``."""
    names = ("SiameseResNet", "ResNetClassifier")
    if missing := untrained(table, *names):
        return missing
    siamese, concat = (table.swap_disagreement[name] for name in names)
    reported = [usual.auc[name] for name in names]
    return (
        f"{read_difference(ranked, *names)} Swapping the faces changes {siamese:.1%} of the "
        f"Siamese answers and {concat:.1%} of the six-channel ones. The course project reported "
        f"{reported[0]:.3f} and {reported[1]:.3f}."
    )


def read_transfer(table: pd.DataFrame, usual: pd.DataFrame, ranked: pd.DataFrame) -> str:
    """Transfer against the Siamese model, and what the course project's fault cost it. Arguments
    as in ``read_siamese_or_concat``."""
    names = ("SiameseResNetAge", "SiameseResNetAge, left face twice", "SiameseResNet")
    if missing := untrained(table, *names):
        return missing
    verb = "falls" if table.auc[names[1]] < table.auc[names[0]] else "rises"
    return (
        f"{read_difference(ranked, names[0], names[2])} Fed the left face twice, as the course "
        f"project's code did, the transfer model {verb} from {table.auc[names[0]]:.3f} to "
        f"{table.auc[names[1]]:.3f}; the course project reported {usual.auc[names[0]]:.3f} and "
        "concluded that transfer is worst."
    )


def read_hidden_layers(heads: pd.DataFrame, trials: pd.DataFrame, reported: pd.DataFrame) -> str:
    """Whether hidden layers in the head pay.

    heads: trainings that differ in their head and seed alone (model, hidden_layers, seed, auc), or
    empty; trials: tuning trials (hidden_layers, auc), which differ in all else too; reported: the
    course project's trials.
    """
    if len(heads):
        return f"{read_heads(head_differences(heads))}\n\n{_trials(THEIRS, reported)}"
    return f"{_trials('our', trials)} {_trials(THEIRS, reported)}"


def _trials(whose: str, trials: pd.DataFrame) -> str:
    known = trials.dropna(subset=["auc"])
    plain = known.hidden_layers.astype(str).eq("[]")
    if plain.all() or not plain.any():
        return f"Of {whose} {len(known)} trials all are of one kind, so they say nothing of it."
    return (
        f"Of {whose} trials the {(~plain).sum()} with hidden layers reach a median validation AUC "
        f"of {known.auc[~plain].median():.3f} and at best {known.auc[~plain].max():.3f}, the "
        f"{plain.sum()} without {known.auc[plain].median():.3f} and {known.auc[plain].max():.3f}; "
        "they differ in all other parameters too, which no such comparison can undo."
    )


def read_luck(test: pd.DataFrame, faces: int, reported: pd.DataFrame) -> str:
    """How exactly a test of this many faces knows an AUC. reported: the course project's rows."""
    if test.empty:
        return read_best(test)
    half = ((test.auc_high - test.auc_low) / 2).median()
    siamese = reported[reported.model == "SiameseResNet"]
    plain = reported[reported.variant.str.contains("without shuffling")]
    return (
        f"With {faces:,} test faces the AUC of a model is known to about ±{half:.3f}: so far it "
        "moves when other people happen to be tested. The course project's two splits gave the "
        f"same model accuracies of {siamese.accuracy.iloc[0]:.3f} and "
        f"{plain.accuracy.iloc[0]:.3f}."
    )


def read_spreads(table: pd.DataFrame) -> str:
    """What training again moved. table: as from ``repeats.spreads``, one row a model and what was
    varied (of one protocol each)."""
    if table.empty:
        return (
            "This run trained each model once, so it cannot tell the luck of a training from its "
            "merit; the parameters `seeds` and `split_seeds` repeat it."
        )
    said = []
    for row in table.itertuples():
        what = "that differ in their seed alone" if row.varied == "seed" else "on different splits"
        said.append(
            f"{row.trainings} trainings of {row.model} {what} reach an AUC of {row.auc:.3f} on "
            f"average, with a standard deviation of {row.auc_sd:.3f} ({row.auc_least:.3f} to "
            f"{row.auc_most:.3f})"
        )
    return "; ".join(said) + "."


def read_seeds_against_test(table: pd.DataFrame, test: pd.DataFrame) -> str:
    """Whether the luck of training weighs more than that of the test faces.

    table: as for ``read_spreads``; test: results rows of one protocol.
    """
    seeds = table[(table.varied == "seed") & table.model.isin(test.model)]
    if seeds.empty:
        return ""
    most = seeds.loc[seeds.auc_sd.idxmax()]
    row = test.set_index("model").loc[most.model]
    half = (row.auc_high - row.auc_low) / 2
    more = 2 * most.auc_sd > half
    rough = f" (a rough guess from {most.trainings} trainings)" if most.trainings < 5 else ""
    return (
        f"Twice that deviation for {most.model} is {2 * most.auc_sd:.3f}{rough}; half of the "
        f"interval from resampled test faces is {half:.3f}, so the seed weighs "
        + ("more than the choice of test faces." if more else "less than the choice of test faces.")
    )


def read_peer(row: dict, differences: np.ndarray, error: float, ranked: pd.DataFrame) -> str:
    """What the off-the-shelf estimator reaches, and whether training was worth it.

    row: of ``peers.peer_row``; differences: as given to it; error: its mean absolute error, years;
    ranked: as from ``paired_differences``, the peer among the models.
    """
    name = row["model"]
    text = (
        f"**{name}**, never trained here, is wrong about an age by {error:.1f} years on average. "
        f"Asked for two ages and compared, it is right on {row['accuracy']:.1%} of the pairs (95 % "
        f"interval {row['accuracy_low']:.1%} to {row['accuracy_high']:.1%}), with an AUC of "
        f"{interval(row, 'auc')}; it gives two faces the same age in "
        f"{np.mean(differences == 0):.1%} of the pairs, which counts as an answer for the right "
        "one."
    )
    against = ranked[(ranked.better == name) | (ranked.other == name)]
    if against.empty:
        return text
    worse = against[against.real & (against.other == name)].better
    ahead = f"surely better: {', '.join(worse)}" if len(worse) else "none is surely better"
    return f"{text} Of the {len(against)} trained models {ahead}."


def read_reproduced(table: pd.DataFrame, usual: pd.DataFrame, drawn: bool) -> str:
    """Which of the course project's figures came out again. table, usual: measured and reported
    results by model; drawn: the faces are drawings."""
    if drawn:
        return (
            "The faces of this run are drawings, so nothing can be reproduced here: the reported "
            "figures stand beside ours only to show where those of the real faces will stand."
        )
    kinds: dict[str, list[str]] = {"reproduced": [], "exceeded": [], "not reached": []}
    for name in usual.index.intersection(table.index, sort=False):
        row, there = table.loc[name], usual.auc[name]
        kind = "exceeded" if row.auc_low > there else "not reached"
        kind = "reproduced" if row.auc_low <= there <= row.auc_high else kind
        kinds[kind].append(f"{name} ({row.auc:.3f}, reported {there:.3f})")
    said = [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
    if not said:
        return untrained(table, *usual.index)
    return (
        f"Of the reported AUCs {'; '.join(said)} (reproduced: within our interval). Our split "
        "keeps copies of a picture together, where the reported one lets them leak; our transfer "
        "model sees both faces; and the images, the budget and the parameters are this run's own."
    )
