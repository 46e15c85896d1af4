"""A run in tables, sentences and figures, for the book's own pages, README and model cards."""

import json
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from utkcmp import evaluation, models, training, tuning
from utkcmp.data.drawing import DrawnFace, draw_face
from utkcmp.data.pairs import chance_right
from utkcmp.evaluation.registry import AGES_COMPARED, by_validation, model_folders
from utkcmp.files import read_json
from utkcmp.params import EMBEDDED, FACERES
from utkcmp.plots import book as plots
from utkcmp.plots.style import face_tiles, use_style
from utkcmp.report import sentences
from utkcmp.report.course_project import REPORTED, reported_test
from utkcmp.report.plan import READ_TEST
from utkcmp.run import CHOICE, Run

TEMPLATES = Path(__file__).parent / "templates"
ERRORS = np.arange(2.0, 8.1, 0.5)  # mean absolute errors, years


def facts(run: Run, chapters: list) -> dict[str, Any]:
    """The template variables of the book's own pages. chapters: list of ``book.Chapter``."""
    record = run.read_record()
    given = {name: value for one in chapters for name, value in one.given.items()}
    read = [n for name, n in record.get("executed", {}).items() if name.startswith(READ_TEST)]
    drawn = all(one.parameters.get("data", EMBEDDED) == EMBEDDED for one in chapters)
    choice, slices = run.folder / CHOICE, read_slices(run)
    answering = read_json(choice)["model"] if choice.exists() else None  # None before notebook 09
    return {
        "name": run.folder.name,
        "record": record,
        "p": record.get("parameters", {}),
        "test_read": sum(read),
        "drawn": drawn,
        "results": results_table(run),
        "learned": learned(run),
        "answering": answering,
        "card": model_card(run, answering) if answering and len(slices) and not drawn else "",
        "faceres": sentences.FACERES_ORIGIN,
        "slices": slices,
        "fairness": sentences.describe_slices(slices) if len(slices) else "",
        "ages": None if drawn or not run.faces_csv.exists() else ages_in_pairs(run),
        "given": yaml.safe_dump(json.loads(json.dumps(given))).strip(),
        "parameters": parameter_rows(chapters),
    }


def figures(run: Run, ages: pd.DataFrame | None) -> dict[str, Figure]:
    """The figures of the book's own pages, by name. ages: from ``ages_in_pairs``, or None."""
    use_style()
    found = {"networks": plots.network_diagrams(), "augmented": augmented_face()}
    if len(run.read_results().query("split == 'test'")):
        found["results"] = results_figure(run)
    if ages is not None:
        curve = [accuracy_from_error(tested_ages(run), error) for error in ERRORS]
        found["ages"] = plots.accuracy_by_error(pd.Series(curve, index=ERRORS), ages)
    return found


def augmented_face(seed: int = 6) -> Figure:
    """A drawn face and eight random augmentations of it."""
    import torch

    from utkcmp.models.inference import MEAN, STD
    from utkcmp.training.augmentation import Augmentation

    face = np.asarray(draw_face(DrawnFace(np.random.default_rng(seed)))).transpose(2, 0, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changed = Augmentation("full")(torch.from_numpy(face.copy()).expand(8, -1, -1, -1)).numpy()
    mean, std = (np.reshape(one, (3, 1, 1)) for one in (MEAN, STD))
    changed = ((changed * std + mean).clip(0, 1) * 255).astype(np.uint8)
    return face_tiles([face, *changed], ["as drawn", *map(str, range(1, 9))], columns=9)


def results_figure(run: Run) -> Figure:
    """The AUC of each model, best first, beside the course project's."""
    use_style()
    test = run.read_results().query("split == 'test' and protocol == 'sample'")
    ranked = test.sort_values("auc", ascending=False)
    return plots.results_at_a_glance(ranked, reported_test(), set(evaluation.ABLATIONS))


def results_table(run: Run) -> str:
    """Test results as a Markdown table, best first, beside the reported ones; empty if untested."""
    results = run.read_results().query("split == 'test'")
    if results.empty:
        return ""
    reported, metrics = reported_test().set_index("model"), ["accuracy", "auc"]
    ranked = results[results.protocol == "sample"].sort_values("auc", ascending=False)
    for one in metrics:
        ends = zip(results[one], results[f"{one}_low"], results[f"{one}_high"], strict=True)
        results[one] = [f"{value:.3f} ({low:.3f}–{high:.3f})" for value, low, high in ends]
    cells = results.set_index(["protocol", "model"])[metrics]
    heads = "| model | accuracy | AUC | reported | accuracy, all pairs | AUC, all pairs |"
    lines = [heads, "|---" * 6 + "|"]
    for name in ranked.model:
        theirs, every = "–", ["–", "–"]
        if name in reported.index:
            theirs = f"{reported.accuracy[name]:.3f} / {reported.auc[name]:.3f}"
        if ("all", name) in cells.index:
            every = cells.loc["all", name]
        lines.append(f"| {' | '.join([name, *cells.loc['sample', name], theirs, *every])} |")
    return "\n".join(lines)


def learned(run: Run) -> list[str]:
    """A run's answers to the course project's questions, in sentences; none before notebook 08."""
    if not run.compared("differences").exists():
        return []
    results = run.read_results()
    table = results.query("split == 'test' and protocol == 'sample'").set_index("model")
    usual, ranked = reported_test().set_index("model"), pd.read_csv(run.compared("differences"))
    ages = sentences.describe_ages_compared(table)
    architectures, widths, faults = (
        training.read_experiment(run, name) for name in ("architectures", "hidden_layers", "faults")
    )
    said, chosen = [sentences.describe_chosen(results)], by_validation(results)[0]
    if evaluation.PEER in table.index and chosen in table.index:
        better = sentences.describe_difference(ranked, chosen, evaluation.PEER)
        pretrained = run.read_record().get("parameters", {}).get("pretrained", {})
        started = chosen == "RankingAgeRegressor" and pretrained.get("weights") == FACERES
        start = " from which it started" if started else ""
        said.append(f"Is {chosen} better than the published network{start}? {better}")
    if len(architectures):
        siamese = sentences.describe_siamese_or_concat(architectures)
        said.append(f"Siamese or six channels? {sentences.flat(siamese)}")
    transfer = sentences.describe_transfer(usual, ranked, faults)
    said.append(f"Is transfer worse than Siamese? {transfer}")
    if len(widths):
        heads = sentences.describe_heads(tuning.head_differences(evaluation.head_trainings(run)))
        hidden = sentences.flat(f"{sentences.describe_experiment(widths)}\n{heads}")
        said.append(f"Hidden layers or none? {hidden}")
    return [*said, sentences.capital(ages)]


def read_slices(run: Run) -> pd.DataFrame:
    """The table ``slices.csv`` of notebook 08, or an empty one."""
    path = run.compared("slices")
    if not path.exists():
        return pd.DataFrame(columns=["slice", "model"])
    return pd.read_csv(path).fillna({"part": ""})


def model_card(run: Run, name: str) -> str:
    """The model card of one model (Mitchell et al. 2019, "Model Cards for Model Reporting").

    name: its folder in the run's ``models/``.
    """
    config = models.read_config(run.model(name))
    networks = [one["options"] for one in config["options"].get("members", [config])]
    titles = {folder: title for title, folder in model_folders(run).items()}
    title = titles.get(name, config["model"])
    results = run.read_results().query("split == 'test'")
    own = read_slices(run).query("model == @title")
    return template("_card", jinja2.StrictUndefined).render(
        title=title,
        size=max(one["image_size"] for one in networks),
        starts=sorted({one["weights"] for one in networks if one.get("weights")}),
        config=config,
        faceres=sentences.FACERES_ORIGIN,
        record=run.read_record(),
        results=results[results.model == title].to_dict("records"),
        slices=own.to_dict("records"),
        said=sentences.describe_slices(own) if len(own) else "",
    )


def template(name: str, undefined=jinja2.ChainableUndefined) -> jinja2.Template:
    """One of this package's Markdown templates; missing values are left blank by default."""
    options = {"loader": jinja2.FileSystemLoader(TEMPLATES), "undefined": undefined}
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, **options)
    environment.filters["code"] = as_code
    return environment.get_template(f"{name}.md.j2")


def as_code(value: Any) -> str:
    """Any value as inline code in a Markdown table.

    >>> print(as_code("a|b`c"))
    `` a\\|b`c ``
    """
    text = str(value).replace("|", "\\|").replace("\n", " ")
    return f"`{text}`" if "`" not in text else f"`` {text} ``"


def tested_ages(run: Run) -> np.ndarray:
    """The ages of the test faces used for evaluation, int (N,) years."""
    return run.read_faces().query("split == 'test' and evaluate").age.to_numpy(int)


def accuracy_from_error(ages: np.ndarray, error: float) -> float:
    """The expected accuracy of comparing two predicted ages, over all pairs of different ages.

    ages: int (N,) years; error: the mean absolute error of the predictions, years. Errors are
    assumed to be independent, normal and unbiased, with the same variance at every age.

    >>> round(accuracy_from_error(np.array([20, 30, 30]), error=10 * np.sqrt(2 / np.pi)), 3)
    0.76
    """
    counts = np.bincount(ages)
    gaps, pairs = np.arange(1, len(counts)), np.correlate(counts, counts, "full")[len(counts) :]
    return float(np.average(chance_right(gaps, error * np.sqrt(np.pi / 2)), weights=pairs))


def ages_in_pairs(run: Run) -> pd.DataFrame:
    """Published mean absolute errors on UTKFace and the pair accuracy they imply; last, this run's
    own regressor with its measured accuracy.

    Columns model, source (a key of references.bib), error (years), youngest, oldest, expected (from
    ``accuracy_from_error``) and measured (accuracy, NaN for published models).
    """
    table, ages = pd.read_csv(REPORTED / "ages.csv").assign(measured=np.nan), tested_ages(run)
    own = model_folders(run).get(AGES_COMPARED)
    measured = run.read_results().query("split == 'test' and model == @AGES_COMPARED")
    if own and len(measured):
        history = models.read_history(run.model(own))
        row = {"model": "this run's age regressor", "youngest": 0, "oldest": 120}
        row["error"] = history.val_mae[history.val_loss.idxmin()]
        row["measured"] = measured.sort_values("n_pairs").accuracy.iloc[-1]
        table = pd.concat([table, pd.DataFrame([row])], ignore_index=True)
    table["expected"] = [
        accuracy_from_error(ages[(ages >= one.youngest) & (ages <= one.oldest)], one.error)
        for one in table.itertuples()
    ]
    return table


def parameter_rows(chapters: list) -> list[dict[str, Any]]:
    """All parameters, one row per value and the notebooks that ran with it."""
    values = [
        (name, repr(value), name in one.given, one.number)
        for one in chapters
        for name, value in one.parameters.items()
    ]
    table, rows = pd.DataFrame(values, columns=["name", "value", "given", "number"]), []
    for (name, value), some in table.groupby(["name", "value"]):
        on = "all" if len(some) == len(chapters) else ", ".join(some.number)
        rows.append({"name": name, "value": value, "given": some.given.iloc[0], "notebooks": on})
    return rows
