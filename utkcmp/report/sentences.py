"""Sentences filled from numbers."""

import numpy as np
import pandas as pd

from utkcmp.evaluation.registry import by_validation
from utkcmp.plots.training import pairs_named
from utkcmp.tuning.tuner import head_differences

MOST_LOST = 1.5  # points of accuracy that the way through photos may cost


def interval(row: dict, metric: str) -> str:
    """``0.871 (0.853 to 0.889)``: one figure of a results row with its 95 % interval."""
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return f"{row[metric]:.3f} ({low:.3f} to {high:.3f})"


def describe_history(history: pd.DataFrame) -> str:
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


def describe_result(row: dict) -> str:
    """What one row of results.csv says, against the coin flip."""
    beats = "above" if row["accuracy_low"] > 0.5 else "not surely above"
    return (
        f"On {row['n_pairs']:,} test pairs the model is right in {row['accuracy']:.1%} of cases "
        f"(95 % interval {row['accuracy_low']:.1%} to {row['accuracy_high']:.1%}), {beats} the "
        f"coin flip; the area under the curve is {interval(row, 'auc')}."
    )


def describe_gaps(gaps: np.ndarray, correct: np.ndarray) -> str:
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


def describe_mistakes(worst: pd.DataFrame) -> str:
    """What the table of the most confident mistakes shows. worst: as from ``mistakes``."""
    if not len(worst):
        return "There is no wrong answer among the test pairs."
    gap = (worst.left_age - worst.right_age).abs().median()
    return (
        f"The surest of these {len(worst)} wrong answers is {worst.confidence.max():.0%} "
        f"confident; in the median their labels lie {gap:.0f} years apart. A wide gap with high "
        "confidence asks for a look at the label."
    )


def describe_symmetry(share: float, symmetric: bool) -> str:
    """What changing places does. share: of the pairs whose answer changes; symmetric: whether the
    model answers by both orders.

    >>> describe_symmetry(0.022, symmetric=False)
    '2.2% of the answers change when the faces change places: nothing in the network forbids it.'
    >>> describe_symmetry(0.0, symmetric=True)
    '0.0% of the answers change when the faces change places: each is made of both orders.'
    """
    why = "each is made of both orders" if symmetric else "nothing in the network forbids it"
    return f"{share:.1%} of the answers change when the faces change places: {why}."


def describe_difference(ranked: pd.DataFrame, one: str, other: str) -> str:
    """Whose AUC is higher, and whether that is real. ranked: as from ``paired_differences``."""
    row = ranked[ranked.better.isin([one, other]) & ranked.other.isin([one, other])].iloc[0]
    return (
        f"{row.better} has a higher AUC than {row.other}, by {row.auc:.3f} (paired 95 % "
        f"interval {row.auc_low:.3f} to {row.auc_high:.3f}): "
        + ("the difference is real." if row.real else "these test faces do not decide it.")
    )


def untrained(table: pd.DataFrame, *models: str) -> str:
    """A sentence if results rows of one of these models are missing, else nothing."""
    missing = [model for model in models if model not in table.index]
    if not missing:
        return ""
    return f"This run has no results of {' and '.join(missing)} yet: notebooks 04 to 06 make them."


def describe_best(test: pd.DataFrame) -> str:
    """Which model has the highest AUC. test: results rows of one protocol, highest AUC first."""
    if test.empty:
        return "No model of this run has been tested yet: notebooks 04 to 06 do that."
    top = test.iloc[0]
    text = (
        f"**{top.model}** has the highest AUC of {len(test)}, {interval(top, 'auc')}, and accuracy "
        f"{interval(top, 'accuracy')}."
    )
    if len(test) == 1:
        return text
    second = test.iloc[1]
    clear = top.auc_low > second.auc_high
    return f"{text} The interval of the next, {second.model}, " + (
        "ends below it." if clear else "overlaps with it: these figures alone do not rank the two."
    )


def describe_chosen(results: pd.DataFrame) -> str:
    """Which model the validation pairs chose, and what it reaches on test. results: results.csv;
    both by the course project's protocol."""
    test = results.query("split == 'test' and protocol == 'sample'")
    test = test.sort_values("auc", ascending=False).set_index("model")
    able = [name for name in by_validation(results) if name in test.index]
    if not able:
        return describe_best(test.reset_index())
    own = test.loc[able[0]]
    text = (
        f"Of {len(test)} models the validation pairs chose **{able[0]}**: on test faces its "
        f"accuracy is {interval(own, 'accuracy')} and its AUC {interval(own, 'auc')}."
    )
    top = test.iloc[0]
    if top.name == able[0]:
        return text
    return f"{text} The highest AUC there, {interval(top, 'auc')}, is that of {top.name}."


def describe_ensemble(table: pd.DataFrame, name: str, members: tuple[str, ...]) -> str:
    """Whether members answer better together. table: validation results by model; name: the
    ensemble's."""
    if name not in table.index:
        return untrained(table, *members) or "This run has no ensemble."
    best = table.auc[list(members)].idxmax()
    gain = table.auc[name] - table.auc[best]
    verdict = "together they answer better" if gain > 0 else "together they answer no better"
    return (
        f"On validation pairs {' and '.join(members)} reach AUCs of "
        f"{' and '.join(f'{table.auc[one]:.3f}' for one in members)}, their ensemble "
        f"{table.auc[name]:.3f}: {verdict} than {best} alone ({gain:+.3f})."
    )


def describe_agreement(correct: list[np.ndarray]) -> str:
    """How often models are right and wrong together. correct: (K,) bool of each, same pairs."""
    if len(correct) < 2:
        return "It takes two trained models to see on which pairs they agree."
    together = np.mean(correct, axis=0)
    return (
        f"Of {len(together):,} test pairs the {len(correct)} models are right together on "
        f"{np.mean(together == 1):.1%} and wrong together on {np.mean(together == 0):.1%}: these "
        "are hard for any of them, or their labels are wrong."
    )


def describe_differences(table: pd.DataFrame) -> str:
    """Which models the data rank. table: as from ``bootstrap.paired_differences``; where many are
    ranked or not, the figure names them."""
    if table.empty:
        return "It takes two trained models to compare."
    real = [f"{row.better} over {row.other}" for row in table.itertuples() if row.real]
    open_ = [f"{row.better} and {row.other}" for row in table.itertuples() if not row.real]
    named = "; ".join(open_) if len(open_) < 5 else f"the {len(open_)} pairs drawn in grey"
    return (
        f"Of {len(table)} differences {len(real)} are real"
        + (f" ({'; '.join(real)})" if 0 < len(real) < 5 else "")
        + (f"; the data do not rank {named}." if open_ else ".")
    )


def describe_slices(table: pd.DataFrame) -> str:
    """Whom a model serves worse than its pairs' gaps explain. table: as from ``slice_table``."""
    groups = table[table.slice.isin(["gender", "ethnicity"]) & ~table.small]
    worse = groups[groups.accuracy_high < groups.expected]
    ages = table[(table.slice == "age of the younger") & ~table.small]
    text = ""
    if len(ages) and (ages.accuracy < ages.expected).any():
        low = ages.loc[(ages.accuracy - ages.expected).idxmin()]
        text = (
            f"Against what their age gaps explain, pairs whose younger face is {low.part} fare "
            f"worst: {low.accuracy:.1%} where {low.expected:.1%} is to be expected. "
        )
    if not len(worse):
        return text + "Of the groups by gender and ethnicity none lies clearly below its own."
    named = [
        f"{row.slice} {row.part} ({row.accuracy:.1%}, expected {row.expected:.1%})"
        for row in worse.itertuples()
    ]
    return f"{text}Served worse than their gaps explain: {'; '.join(named)}."


def describe_calibration(before: float, after: float, temperature: float) -> str:
    """What the temperature does. before, after: expected calibration errors on test pairs."""
    kind = "overconfident" if temperature > 1.05 else "underconfident"
    kind = kind if abs(temperature - 1) > 0.05 else "neither over- nor underconfident"
    return (
        f"The temperature fitted on validation pairs is {temperature:.2f}: the model is {kind}. "
        f"On test pairs confidence and accuracy lie {before:.3f} apart on average, and "
        f"{after:.3f} with that temperature."
    )


def describe_coverage(curve: pd.DataFrame) -> str:
    """What abstaining is worth. curve: as from ``trust.coverage_curve``."""
    half = curve.iloc[(curve.coverage - 0.5).abs().argmin()]
    enough = curve[curve.accuracy >= 0.95]
    text = (
        f"Answering only the surer half of the pairs gives an accuracy of {half.accuracy:.1%} "
        f"instead of {curve.accuracy.iloc[-1]:.1%}"
    )
    if not len(enough):
        return f"{text}; no share of the pairs is answered with 95% accuracy."
    return f"{text}; {enough.coverage.max():.0%} of the pairs can be answered with 95% accuracy."


def describe_ages_compared(table: pd.DataFrame) -> str:
    """What comparing two predicted ages reaches."""
    name = "ages compared"
    return untrained(table, name) or (
        "comparing two predicted ages, without ever training on a pair, reaches an AUC of "
        f"{table.auc[name]:.3f}."
    )


def describe_pairings(batch: pd.DataFrame, fixed: pd.DataFrame) -> str:
    """Which pairing learns faster. Both: histories, as in ``solver.Fitted``, at equal cost."""
    both = {"every pair of a batch": batch, "fixed pairs": fixed}
    ahead, behind = sorted(both, key=lambda name: -both[name].val_auc.max())
    return (
        f"With as many faces embedded, {ahead} reached a validation AUC of "
        f"{both[ahead].val_auc.max():.3f} in {both[ahead].seconds.sum():.0f} s and {behind} "
        f"{both[behind].val_auc.max():.3f} in {both[behind].seconds.sum():.0f} s."
    )


def describe_losses(both: pd.DataFrame, alone: pd.DataFrame) -> str:
    """Whether an age loss beside the pair loss helps. Both: histories, with and without it."""
    reached, without = both.val_auc.max(), alone.val_auc.max()
    gain = reached - without
    return (
        f"Over {len(both)} epochs the validation AUC reached {reached:.3f} with the ages and "
        f"{without:.3f} by the pairs alone: predicting ages "
        f"{'helped' if gain > 0 else 'did not help'} ({gain:+.3f})."
    )


def describe_larger(small: dict, larger: pd.DataFrame, ranked: pd.DataFrame) -> str:
    """What larger faces brought. small: validation row of results.csv; larger: model, auc (on the
    same pairs) and minutes of training, in order; ranked: ``paired_differences`` on test pairs."""
    if larger.empty:
        return "This run trained with faces of one size."
    steps = ", ".join(
        f"{row.auc:.3f} ({row.model}, {row.minutes:.0f} minutes more)"
        for row in larger.itertuples()
    )
    return (
        f"On validation pairs the AUC went from {small['auc']:.3f} to {steps}. On all pairs of the "
        f"test faces {describe_difference(ranked, small['model'], larger.model.iloc[-1])}"
    )


def describe_pair_counts(gains: pd.DataFrame) -> str:
    """Whether more pairs teach the head more. gains: as from ``paircounts.pair_count_gains``."""
    if gains.empty:
        return "This run did not try other numbers of pairs."
    first = gains.iloc[0]
    text = f"Validation AUC: {first.auc_fewest:.3f} from {pairs_named(first.fewest)}, " + ", ".join(
        f"{row.auc:.3f} from {pairs_named(row.pairs)}" for row in gains.itertuples()
    )
    if first.seeds < 2:
        return f"{text}. One seed does not tell a gain from luck: no verdict."
    lines = [f"{text} (means of {first.seeds} seeds). Against {pairs_named(first.fewest)}:", ""]
    for row in gains.itertuples():
        verdict = "better" if row.low > 0 else "worse" if row.high < 0 else "not told apart"
        lines.append(
            f"- {pairs_named(row.pairs)}: {row.difference:+.3f} (95 % interval {row.low:+.3f} to "
            f"{row.high:+.3f}), {verdict}."
        )
    return "\n".join(lines)


def describe_leak(clean: dict, leaky: dict, contrast: pd.DataFrame) -> str:
    """What leakage is worth. clean, leaky: result rows on all pairs; contrast: of leak_contrast."""
    text = (
        f"Trained and tested on the plain split, the same model reaches an AUC of "
        f"{interval(leaky, 'auc')} on all pairs of its test faces, against "
        f"{interval(clean, 'auc')} on the split that keeps duplicates together. "
    )
    if not (contrast.pairs > 0).all():
        return text + "None of its test faces is a picture that training has too."
    known, new = contrast.accuracy
    return text + (
        f"Within the plain split, the {contrast.pairs.iloc[0]:,} pairs with a face whose picture "
        f"was trained on are answered rightly in {known:.1%} of cases, pairs of new faces in "
        f"{new:.1%}."
    )


def describe_ceiling(gaps: np.ndarray, correct: dict, ceiling: pd.DataFrame) -> str:
    """How much of the way to the labels' own limit the best model has come.

    gaps: (K,) years; correct: by model, (K,) bool; ceiling: as from ``noise_ceiling``.
    """
    allowed = ceiling.reindex(gaps).mean()
    if np.isnan(allowed.knows):
        return "No picture lies in these data twice, so nothing is known of the labels' noise."
    text = (
        f"Knowing every true age would be worth an accuracy of **{allowed.knows:.1%}** on these "
        f"pairs; a second set of labels would agree with the first on {allowed.relabelled:.1%}."
    )
    if not correct:
        return text
    best = max(correct, key=lambda name: correct[name].mean())
    reached = correct[best].mean()
    way = (reached - 0.5) / (allowed.knows - 0.5)
    return (
        f"{text} {best} reaches {reached:.1%}, {way:.0%} of the way from the coin flip to that "
        f"line; {allowed.knows - reached:.1%} of the pairs are left to gain."
    )


def describe_saliency(maps: np.ndarray, right: np.ndarray) -> str:
    """Where the attributions lie. maps: (K, 2, S, S), as from ``saliency``; right: bool (K,)."""
    size = maps.shape[-1]
    centre = slice(size // 4, size - size // 4)
    inside = maps[:, :, centre, centre].sum((1, 2, 3))
    sides = maps.sum((0, 2, 3)) / maps.sum()
    text = (
        f"The middle quarter of the picture, with eyes, nose and mouth, holds {inside.mean():.0%} "
        f"of what bears on the answers; the left face {sides[0]:.0%} of it, the right "
        f"{sides[1]:.0%}."
    )
    if right.all() or not right.any():
        return text
    return (
        f"{text} For right answers the middle holds {inside[right].mean():.0%}, for wrong ones "
        f"{inside[~right].mean():.0%}."
    )


def describe_path(row: dict) -> str:
    """What the way through photos costs. row: as from ``robustness.path_difference``."""
    apart = 100 * (row["through"] - row["direct"])
    clear = row["high"] < 0 or row["low"] > 0
    within = "within" if abs(apart) <= MOST_LOST else "more than"
    return (
        f"Of {row['faces']} test faces pasted into photos, {row['found']:.0%} are found. Their "
        f"{row['pairs']:,} pairs are answered rightly in {row['direct']:.1%} of cases from the "
        f"crops and in {row['through']:.1%} the whole way: {apart:+.1f} points (95 % interval "
        f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}), {within} "
        f"{MOST_LOST} points"
        + ("." if clear else "; the interval holds zero, so these faces show no loss for certain.")
    )


def describe_order(order, ages: np.ndarray) -> str:
    """How well an album's order fits the labels. order: a ``compare.Order``; ages: (N,) years."""
    left, right = np.triu_indices(len(ages), 1)
    apart = ages[left] != ages[right]
    share = (ages[left] < ages[right])[apart].mean()
    marked = int(order.uncertain.sum())
    return (
        f"By their labels these faces are {', '.join(map(str, ages))} years old: of their "
        f"{apart.sum()} pairs of different ages {share:.0%} stand in the right order. "
        f"{marked} of {len(ages) - 1} neighbours are marked as too close to call."
    )


def describe_robustness(table: pd.DataFrame) -> str:
    """Which change hurts most. table: as from ``robustness.robustness_table``."""
    plain = table[table.level.isna()].iloc[0]
    known = table[table.level.notna() & table.accuracy.notna()]
    if known.empty:
        return "No face was found in any changed photo."
    worst = known.loc[known.accuracy.idxmin()]
    lost = table.loc[table.found.idxmin()]
    text = (
        f"On the photos as they are {plain.accuracy:.1%} of the answers are right. What costs most "
        f"is {worst.change}: at {worst.level:g} ({worst.unit}) {worst.accuracy:.1%} are right."
    )
    if lost.found < plain.found:
        text += (
            f" Faces get lost first by {lost.change}: at {lost.level:g} ({lost.unit}) "
            f"{lost.found:.0%} are found, and the others get no answer instead of a wrong one."
        )
    return text


THEIRS = "the course project's"


def describe_siamese_or_concat(
    table: pd.DataFrame, usual: pd.DataFrame, ranked: pd.DataFrame
) -> str:
    """Siamese against six channels. table, usual: measured and reported results by model; ranked:
    as from ``paired_differences``."""
    names = ("SiameseResNet", "ResNetClassifier")
    if missing := untrained(table, *names):
        return missing
    siamese, concat = (table.swap_disagreement[name] for name in names)
    reported = [usual.auc[name] for name in names]
    return (
        f"{describe_difference(ranked, *names)} Swapping the faces changes {siamese:.1%} of the "
        f"Siamese answers and {concat:.1%} of the six-channel ones. The course project reported "
        f"{reported[0]:.3f} and {reported[1]:.3f}."
    )


def describe_transfer(table: pd.DataFrame, usual: pd.DataFrame, ranked: pd.DataFrame) -> str:
    """Transfer against the Siamese model, and what the course project's fault cost it. Arguments
    as in ``describe_siamese_or_concat``."""
    names = ("SiameseResNetAge", "SiameseResNetAge, left face twice", "SiameseResNet")
    if missing := untrained(table, *names):
        return missing
    verb = "falls" if table.auc[names[1]] < table.auc[names[0]] else "rises"
    return (
        f"{describe_difference(ranked, names[0], names[2])} Fed the left face twice, as the course "
        f"project's code did, the transfer model {verb} from {table.auc[names[0]]:.3f} to "
        f"{table.auc[names[1]]:.3f}; the course project reported {usual.auc[names[0]]:.3f} and "
        "concluded that transfer is worst."
    )


def describe_hidden_layers(
    heads: pd.DataFrame, trials: pd.DataFrame, reported: pd.DataFrame
) -> str:
    """Whether hidden layers in the head pay.

    heads: trainings that differ in their head and seed alone (model, hidden_layers, seed, auc), or
    empty; trials: tuning trials (hidden_layers, auc), which differ in all else too; reported: the
    course project's trials.
    """
    if len(heads):
        return f"{describe_heads(head_differences(heads))}\n\n{_trials(THEIRS, reported)}"
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


def describe_luck(test: pd.DataFrame, faces: int, reported: pd.DataFrame) -> str:
    """How exactly a test of this many faces knows an AUC. reported: the course project's rows."""
    if test.empty:
        return describe_best(test)
    half = ((test.auc_high - test.auc_low) / 2).median()
    siamese = reported[reported.model == "SiameseResNet"]
    plain = reported[reported.variant.str.contains("without shuffling")]
    return (
        f"With {faces:,} test faces the AUC of a model is known to about ±{half:.3f}: so far it "
        "moves when other people happen to be tested. The course project's two splits gave the "
        f"same model accuracies of {siamese.accuracy.iloc[0]:.3f} and "
        f"{plain.accuracy.iloc[0]:.3f}."
    )


def describe_spreads(table: pd.DataFrame) -> str:
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


def describe_seeds_against_test(table: pd.DataFrame, test: pd.DataFrame) -> str:
    """Whether the luck of training weighs more than that of the test faces.

    table: as for ``describe_spreads``; test: results rows of one protocol.
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


def describe_peer(row: dict, figures: dict[str, float], ranked: pd.DataFrame) -> str:
    """What the published estimator reaches, and whether training was worth it.

    row: its row of results; figures: its ``age_metrics``; ranked: as from ``paired_differences``,
    the peer among the models.
    """
    name = row["model"]
    text = (
        f"**{name}**, never trained here, is wrong about an age by {figures['MAE']:.1f} years on "
        f"average, and by five years at most for {figures['CS@5']:.0%} of the faces. Asked for two "
        f"ages and compared, it is right on {row['accuracy']:.1%} of the pairs (95 % interval "
        f"{row['accuracy_low']:.1%} to {row['accuracy_high']:.1%}), with an AUC of "
        f"{interval(row, 'auc')}."
    )
    against = ranked[(ranked.better == name) | (ranked.other == name)]
    if against.empty:
        return text
    worse = against[against.real & (against.other == name)].better
    ahead = f"surely better: {', '.join(worse)}" if len(worse) else "none is surely better"
    return f"{text} Of the {len(against)} trained models {ahead}."


def describe_reproduced(table: pd.DataFrame, usual: pd.DataFrame, drawn: bool) -> str:
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


def describe_importance(ours: pd.DataFrame, reported: pd.DataFrame) -> str:
    """Which parameters matter beyond chance, in our trials and in the reported ones.

    ours, reported: as ``tuning.parameter_importance`` returns them.
    """
    sentences = []
    for whose, table in (("our trials", ours), ("the course project's", reported)):
        clear = list(table.index[table.importance > table.chance])
        if table.empty:
            sentences.append(f"In {whose} there are too few figures for a forest.")
        elif clear:
            sentences.append(f"In {whose}, {_listed(clear)} stand{'s' * (len(clear) == 1)} out.")
        else:
            sentences.append(
                f"In {whose}, no parameter stands out of what shuffled figures give: with so few "
                f"trials even {table.index[0]}, the first, may be luck."
            )
    return " ".join(sentences)


def describe_heads(differences: pd.DataFrame) -> str:
    """What the repeated trainings say of "no hidden layers is best", model by model.

    differences: as ``tuning.head_differences`` returns them.
    """
    if differences.empty:
        return "No head was trained without hidden layers, so there is nothing to compare with."
    return "\n".join(f"- **{name}**: {_verdict(one)}" for name, one in differences.groupby("model"))


def _verdict(rows: pd.DataFrame) -> str:
    seeds = rows.seeds.min()
    if rows.low.isna().any():
        return "one seed tells a head from another no better than a throw of dice; no verdict."
    worse, better = rows[rows.high < 0], rows[rows.low > 0]
    first = rows.loc[rows.difference.idxmax()]
    best = (
        f"the best head with hidden layers, {first.hidden_layers}, reaches a mean AUC of "
        f"{first.auc:.3f}, none at all {first.auc_without:.3f} (a difference of "
        f"{first.difference:+.3f}, 95 % interval {first.low:+.3f} to {first.high:+.3f}, "
        f"{seeds} seeds). "
    )
    if len(worse) == len(rows):
        return best + "Every head with hidden layers is worse: the claim holds here."
    if len(better):
        return best + f"{_listed(better.hidden_layers)} beat it: the claim fails here."
    if len(worse):
        return best + (
            f"None beats {_listed(worse.hidden_layers)}; of the others the seeds do not tell it "
            "apart: the claim is half shown."
        )
    return best + "The seeds do not tell any of them apart: the claim is not shown."


def describe_retrained(table: pd.DataFrame) -> str:
    """Whether the best trials hold when they are trained anew.

    table: by model, columns trial and retrained (validation AUC), ``its pairs`` and ``pairs`` (from
    how many the trial and the other had learnt).
    """
    lower = table[table.retrained < table.trial]
    if lower.empty:
        return "Every one of them reaches at least what its trial promised."
    shorter = lower["pairs"] < lower["its pairs"]
    fair, unfair = lower.index[~shorter], lower.index[shorter]
    said = []
    if len(fair):
        said.append(
            f"{_listed(fair)} stay{'s' * (len(fair) == 1)} below what the trial promised. The best "
            "of several trials is partly the luckiest of them, and the luck does not come twice."
        )
    if len(unfair):
        said.append(
            f"{_listed(unfair)} stay{'s' * (len(unfair) == 1)} below the trial, but had seen fewer "
            "pairs: `best_epochs` is too small to tell luck from a short training."
        )
    return " ".join(said)


def _listed(names) -> str:
    *most, last = [f"`{name}`" for name in names]
    return f"{', '.join(most)} and {last}" if most else last


def describe_rates(ours: pd.DataFrame, reported: pd.DataFrame) -> str:
    """How the AUC goes with the learning rate. ours, reported: trials, with columns lr and auc."""

    def ranks(one):
        return one.lr.corr(one.auc, method="spearman")

    known = ours.dropna(subset=["auc"])
    said = f"The rank correlation of learning rate and AUC is {ranks(reported):+.2f} in the "
    said += f"{len(reported)} reported trials"
    if min(known.lr.nunique(), known.auc.nunique()) < 2:
        return f"{said}; our {len(known)} do not differ enough to have one."
    return (
        f"{said} and {ranks(known):+.2f} in our {len(known)}, of which one within "
        f"±{2 / (len(known) - 1) ** 0.5:.2f} of zero would say nothing."
    )


def describe_spread(trials: dict[str, pd.DataFrame]) -> str:
    """Whether parameters or models lie further apart. trials: by model, as from ``search``."""
    known = {model: table.auc.dropna() for model, table in trials.items()}
    known = {model: auc for model, auc in known.items() if len(auc)}
    gaps = {model: auc.max() - auc.min() for model, auc in known.items() if len(auc) > 1}
    if not gaps:
        return "one trial of a network does not tell what its parameters are worth."
    widest = max(gaps, key=gaps.get)
    said = f"trials of one network lie up to {gaps[widest]:.3f} of AUC apart ({widest})"
    if len(known) < 2:
        return f"{said}."
    best = [auc.max() for auc in known.values()]
    apart = max(best) - min(best)
    first, second = "parameters", "model"
    if gaps[widest] <= apart:
        first, second = second, first
    return (
        f"{said}, the best of the {len(best)} networks {apart:.3f}: here the choice of {first} "
        f"weighs more than that of {second}."
    )
