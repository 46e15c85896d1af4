"""Sentences of the tuning notebook, filled from its numbers."""

import pandas as pd


def read_importance(ours: pd.DataFrame, reported: pd.DataFrame) -> str:
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


def read_heads(differences: pd.DataFrame) -> str:
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


def read_retrained(table: pd.DataFrame) -> str:
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


def read_rates(ours: pd.DataFrame, reported: pd.DataFrame) -> str:
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


def read_spread(trials: dict[str, pd.DataFrame]) -> str:
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
