"""Error messages for misspelt, mistyped, out-of-range and contradictory parameters."""

import datetime
import math
import string
import typing

import nbformat
import pandas as pd
import papermill
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from utkcmp.data.split import split_faces
from utkcmp.files import RunError
from utkcmp.params import (
    ParameterError,
    Params,
    SearchSpace,
    check,
    check_names,
    load_files,
    parse_override,
)
from utkcmp.report import runner
from utkcmp.report.command import main
from utkcmp.report.plan import NOTEBOOKS, check_amounts, uses
from utkcmp.run import PROJECT, Run, find_weights
from utkcmp.tuning.tuner import CHOICES, RANGES, search_space

NAMES = sorted(Params.model_fields)
FUZZ = settings(max_examples=100, deadline=None)


def explained(function, *arguments):
    """The result of a function of params.py; None if it raises a one-sentence ParameterError."""
    try:
        return function(*arguments)
    except ParameterError as error:
        said = str(error)
        assert said.isprintable() and 10 < len(said) < 1500, said
        return None


# ---- names ---------------------------------------------------------------------------------------


def misspellings(name: str) -> set[str]:
    """A name with a letter doubled, dropped or transposed, in capitals, with dashes or blanks."""
    middle = len(name) // 2
    found = {
        name[:middle] + name[middle:][0] + name[middle:],
        name.upper(),
        name.replace("_", "-"),
        f" {name} ",
    }
    if len(name) > 4:
        found |= {name[:middle] + name[middle + 1 :]}
        found |= {name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :]}
    return found - set(NAMES)


def test_every_name_misspelt_gets_the_correct_one():
    for name in NAMES:
        assert len(misspellings(name)) >= 3
        for wrong in misspellings(name):
            with pytest.raises(ParameterError, match=f"did you mean '{name}'") as caught:
                check_names([wrong])
            assert repr(wrong) in str(caught.value)


# ---- types and ranges ----------------------------------------------------------------------------

NONSENSE = [
    *(b"bytes", datetime.date(2020, 1, 1), {"a": 1}, [[["x"]]], object(), math.nan, 10**400),
    *(-(10**30), "", "\n\0", [None], {1: 2}, [b"x"], [True, "no"], (), {1}, 1j),
]


def test_every_parameter_of_another_type_is_explained():
    for name in NAMES:
        refused = [explained(check, {name: value}) is None for value in NONSENSE]
        assert sum(refused) >= len(NONSENSE) - 2  # an empty list or tuple may be valid
        with pytest.raises(ParameterError, match=rf"parameter {name}(\.\w+)* = .*: \w"):
            check({name: object()})


def test_no_bound_of_a_number_can_be_passed():
    for name in NAMES:
        field, checked = Params.model_fields[name], 0
        for bound in field.metadata:
            for kind, past in (("ge", -1), ("gt", 0), ("le", 1), ("lt", 0)):
                limit = getattr(bound, kind, None)
                if limit is not None:
                    checked += 1
                    with pytest.raises(ParameterError, match=f"parameter {name} = .* should be "):
                        check({name: limit + past})
        kinds = [field.annotation, *typing.get_args(field.annotation)]
        assert checked or not (int in kinds or float in kinds) or name == "data_size", name


WRONG = {
    "image_size: 8": "image_size = 8 .*greater than or equal to 16",
    "epochs: true": "epochs = True .*expected a number",
    "epochs: 2.5": "epochs = 2.5 .*valid integer",
    "epochs: !!binary aGVsbG8=": "epochs = b'hello'",
    "run: !!binary aGVsbG8=": "run = b'hello' .*expected a number or a word",
    "lr: .nan": "lr = nan .*finite number",
    "weight_decay: .inf": "weight_decay = inf .*finite number",
    "seed: 0x10": "seed = '0x10' .*valid integer",
    "lr: 1:30": "lr = '1:30' .*valid number",
    "seed: 0o17": "seed = '0o17' .*valid integer",
    "leaky: no": "line 1: holds no, which has two meanings: expected true, false or a quoted word",
    "{run: On}": "holds On, which has two meanings",
    'pretrained: {"\\r": 1}': r"no notebook knows the parameter '\\r' in pretrained",
    "backbone: " + "x" * 5000: "backbone 'x+",
    "seed: " + "9" * 5000: "is not valid YAML",
    "data_size: 0": "data_size is 0, expected 1 or more, or null for all",
    "year_diff: 117": "year_diff = 117 .*less than or equal to 116",
    "hidden_layers: [1000000000]": r"hidden_layers.0 = 1000000000 .*4096",
    "pair_counts: [5]": "pair_counts.0 = 5 .*greater than or equal to 10",
    "hidden_layers: 64": "hidden_layers = 64 .*valid list",
    "device: tpu": "'auto', 'cpu', 'cuda' or 'mps'",
    "ray_address: here": "expected local, auto, host:port or ray://host:port",
    "run: ../elsewhere": "expected the name of one folder below outputs/",
    "run: /tmp/elsewhere": "expected the name of one folder below outputs/",
    "run: cache": "and not 'cache'",
    "tune_models: []": "at least 1 item",
    "train: 80": "train . val . test is 110, expected 100",
    "{train: 50, val: 20, test: 20}": "train . val . test is 90, expected 100",
    "{backbone: vgg16, image_size: 24}": "image_size 24 is too small for vgg16: expected 32",
    "search_space: {lrr: [1, 2]}": "search_space .* knows no 'lrr': did you mean 'lr'",
    "search_space: {lr: [0.1, 0.01]}": "lr = .0.1, 0.01. .*the lower one first",
    "search_space: {lr: [0.1]}": "at least 2 items",
    "search_space: {lr: [0, 0.1]}": "greater than 0",
    "search_space: {dropout_prob: [0.1, 1.5]}": "less than 1",
    "search_space: {batch_size: []}": "at least 1 item",
    "search_space: {batch_size: [1]}": "batch_size.0 = 1 .*greater than or equal to 2",
    "search_space: {batch_size: 32}": "batch_size = 32 .*valid list",
    "search_space: {resnet_type: [resnet81]}": "did you mean 'resnet18'",
    "search_space: {resnet_type: [vgg16]}\nimage_size: 16": "too small for vgg16",
    "search_space: {use_dropout: [perhaps]}": "use_dropout.0 = 'perhaps'",
    "search_space: {hidden_layers: [[0]]}": "hidden_layers.0.0 = 0",
    "epochs: 3\nepochs: 4": "line 2: states 'epochs' twice",
    "seeds: &a [*a]": "line 1: holds an alias",
    "run: !!python/object/apply:os.system [ls]": "is not valid YAML",
    "epochs: !!int x": "is not valid YAML",
    "? [a]\n: 3": "is not valid YAML",
    "1: 2": "knows the parameter 1 ",
    "true: 2": "knows the parameter True ",
    "seeds: " + "[" * 5000: "is not valid YAML",
}


def test_a_wrong_file_says_what_would_be_right(tmp_path):
    path = tmp_path / "a.yaml"
    for text, expect in WRONG.items():
        path.write_text(text)
        with pytest.raises(ParameterError, match=expect) as caught:
            load_files([path])
        assert str(caught.value).isprintable() and "a.yaml" in str(caught.value)
        assert len(str(caught.value)) < 1500


def test_what_is_shown_is_what_is_meant(tmp_path):
    """In files and on the command line: YAML 1.1 would read 0400 as 256 and 1:30 as 90."""
    meant = {
        **{"n_faces: 0400": 400, "seed: 010": 10, "hidden_layers: [064]": [64], "lr: 1e-4": 1e-4},
        **{"run: 2024-05-01": "2024-05-01", "run: '0400'": "0400", "run: 'no'": "no"},
        **{"data_size: ~": None, "leaky: True": True, "n_faces: 1_000": 1000, "lr: .5": 0.5},
    }
    for text, value in meant.items():
        (tmp_path / "a.yaml").write_text(text)
        name = text.partition(":")[0]
        assert getattr(check(load_files([tmp_path / "a.yaml"])), name) == value
        assert getattr(check(dict([parse_override(text.replace(": ", "=", 1))])), name) == value


def test_a_few_lines_of_aliases_are_not_unfolded(tmp_path):
    lines = ["a: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"b{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    with pytest.raises(ParameterError, match="line 2: holds an alias"):
        load_files([tmp_path / "a.yaml"])
    (tmp_path / "b.yaml").write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ParameterError, match="more than 1 MiB"):
        load_files([tmp_path / "b.yaml"])
    with pytest.raises(ParameterError, match="more than 1 MiB"):
        load_files(["/dev/zero"])


def test_the_space_to_search_is_that_of_the_search():
    assert set(SearchSpace.__annotations__) == RANGES.keys() | CHOICES.keys()
    whole = {**RANGES, **CHOICES}
    assert check({"search_space": whole}).search_space == whole
    assert set(search_space(whole)) == set(whole)


# ---- arbitrary input -----------------------------------------------------------------------------

leaves = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.dates()),
    *(st.complex_numbers(), st.just(object()), st.sampled_from(NAMES)),
    st.integers(min_value=10**300, max_value=10**301),
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(leaves, inner, max_size=4),
    max_leaves=8,
)


@FUZZ
@given(st.dictionaries(st.sampled_from(NAMES), values, min_size=1, max_size=3))
def test_any_values_are_taken_or_explained(found):
    taken = explained(check, found)
    assert taken is None or isinstance(taken, Params)


@FUZZ
@given(st.lists(leaves.filter(lambda one: one.__hash__ is not None), max_size=3))
def test_any_names_are_taken_or_explained(names):
    explained(check_names, names)


alphabet = st.sampled_from([*string.printable, *"é\ufeff\u2028\x85\x00", *NAMES, "!!", "&a ", "*a"])
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
documents = st.one_of(
    st.binary(max_size=200),
    st.lists(alphabet, max_size=60).map(lambda parts: "".join(parts).encode()),
    st.dictionaries(st.sampled_from(NAMES) | plain.filter(lambda x: isinstance(x, str)), plain).map(
        lambda content: yaml.safe_dump(content).encode()
    ),
)


@FUZZ
@given(documents)
@example(b"lr: 2020-13-45")
@example(b"lr: !!timestamp x")
@example(b"lr: !!float x")
@example(b"use_dropout: !!bool x")
@example(b"lr: " + b"1:" * 500 + b"1")
@example(b"{" * 3000)
@example(b'pretrained: {"\\r": 1}')
def test_any_file_is_taken_or_explained(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(content)
    taken = explained(load_files, [path])
    assert taken is None or set(taken) <= set(NAMES)


@FUZZ
@given(st.lists(alphabet, max_size=30).map("".join) | st.text())
@example("epochs=!!int x")
@example("leaky=no")
@example("epochs=" + "[" * 5000)
def test_any_override_is_taken_or_explained(text):
    taken = explained(parse_override, text)
    assert taken is None or isinstance(taken[0], str)


# ---- limits set by the faces and the machine -----------------------------------------------------


USED = {name for notebook in NOTEBOOKS.values() for name in uses(notebook)}


def faces_of(count: int, spread: int = 80) -> pd.DataFrame:
    """An index of valid faces without duplicates."""
    numbers = pd.Series(range(count))
    return pd.DataFrame(
        {
            "file": numbers.map("{}.jpg".format),
            "age": numbers % spread + 1,
            "sha256": numbers.map("{:064x}".format),
            "group": numbers,
            "conflict": 0,
            "status": "ok",
        }
    )


AMOUNTS = [
    ({"unique_images": True}, r"data_size is 400, but there are \d+ pairs that share no face"),
    ({"unique_images": True, "data_size": 200}, r"expected 1\d\d or less"),
    ({"batch_size": 5000}, r"batch_size is 5,000, but there are 2\d\d training faces: expected 2"),
    ({"batch_size": 250, "data_size": 100}, "there are 100 training pairs: expected 100 or less"),
    ({"pair_counts": [50, 90_000]}, r"pair_counts is 90,000, but there are .*possible training p"),
    ({"regressor_batch_size": 500}, r"regressor_batch_size is 500, but .*training faces"),
    ({"year_diff": 90}, "no two of the .* are 90 or more years apart .*expected a smaller"),
    ({"device": "cuda"}, "device is cuda, but PyTorch finds no GPU here: expected auto or cpu"),
    ({"gpus_per_trial": 0.5}, "gpus_per_trial is 0.5, but there are 0 GPUs here"),
    ({"cpus_per_trial": 5000}, r"cpus_per_trial is 5,000.* there are \d+ processors here"),
]


@pytest.mark.parametrize("wrong, said", AMOUNTS, ids=[", ".join(wrong) for wrong, _ in AMOUNTS])
def test_what_faces_or_machine_cannot_give_is_explained(wrong, said, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ParameterError, match=said):
        check_amounts(faces_of(400), Run(tmp_path), wrong, USED)


def test_too_few_faces_for_the_shares_are_explained(tmp_path):
    with pytest.raises(ParameterError, match="split has faces of fewer than two ages .*expected"):
        check_amounts(faces_of(30), Run(tmp_path), {"train": 98, "val": 1, "test": 1}, USED)


def test_what_they_can_give_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    enough = {"unique_images": True, "data_size": 100, "batch_size": 100}
    for right in ({}, enough, {"unique_images": True, "data_size": None, "batch_size": 64}):
        check_amounts(faces_of(400), Run(tmp_path), right, USED)
    check_amounts(faces_of(36), Run(tmp_path), {"seed": 1}, USED)  # less than a default batch
    first = uses(NOTEBOOKS["02_split"])
    check_amounts(faces_of(400), Run(tmp_path), {"batch_size": 5000}, first)


PAPERMILL = '# Parameters\nrun = "x"\n{}\n'


def test_what_papermill_adds_is_known_or_an_error():
    cells = ["", "epochs = 2", PAPERMILL.format("epoch = 3"), "import numpy as np"]
    with pytest.raises(ParameterError, match="'epoch': did you mean 'epochs'"):
        check({"In": cells, "epochs": 2, "epoch": 3, "cells": 1})
    cells[2] = PAPERMILL.format("epochs = 3")
    assert check({"In": cells, "epochs": 3, "cells": 1}).epochs == 3


def test_papermill_itself_adds_it_so(tmp_path):
    source = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("epochs = 2", metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell("from utkcmp.params import check\np = check(globals())"),
            nbformat.v4.new_code_cell("print(p.epochs, p.hidden_layers)"),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}},
    )
    nbformat.write(source, tmp_path / "a.ipynb")
    paths = [str(tmp_path / name) for name in ("a.ipynb", "b.ipynb")]
    given = {"epochs": 3, "hidden_layers": "[256]"}  # as papermill's -p reads a list
    made = papermill.execute_notebook(*paths, given, progress_bar=False)
    assert made.cells[-1].outputs[0].text == "3 [256]\n"
    with pytest.raises(papermill.PapermillExecutionError, match="did you mean 'epochs'"):
        papermill.execute_notebook(*paths, {"epoch": 3}, progress_bar=False)


@pytest.mark.parametrize(
    ("name", "text", "expect"),
    [
        ("hidden_layers", "[256, 64]", [256, 64]),
        ("pretrained", "{epochs: 2}", {"epochs": 2}),
        ("search_space", "{lr: [0.1, 0.2]}", {"lr": [0.1, 0.2]}),
    ],
)
def test_a_list_given_as_text_is_a_list(name, text, expect):
    assert getattr(check({name: text}), name) == expect
    for wrong in ("[256", "[&a 1, *a]"):
        with pytest.raises(ParameterError, match=f"parameter {name} = "):
            check({name: wrong})


def test_the_report_says_so_before_any_notebook_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("UTKCMP_OUTPUTS", str(tmp_path))
    monkeypatch.setattr(runner, "read_data", lambda params: faces_of(400))
    monkeypatch.setattr(runner, "run_step", lambda *_: pytest.fail("a notebook ran"))
    for wrong in ("unique_images=true", "batch_size=5000", "image_size=8", "epoch=3", "lr=.nan"):
        assert main(["-p", wrong]) == 1
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1 and wrong.split("=")[0].strip() in said
    assert not (tmp_path / "lab" / "run.json").exists()


def test_missing_weights_are_said_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("UTKCMP_OUTPUTS", str(tmp_path / "outputs"))
    asked = {"pretrained": {"backbone": "faceres", "weights": "faceres", "image_size": 64}}
    for some in (asked, {"weights": "runs/a.safetensors"}):
        with pytest.raises(RunError, match="are not on this machine"):
            check_amounts(faces_of(400), Run(tmp_path), some, {*USED, "weights", "pretrained"})
        check_amounts(faces_of(400), Run(tmp_path), some, USED - {"weights", "pretrained"})
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/a.safetensors").touch()
    monkeypatch.chdir(PROJECT / "notebooks")  # where notebooks run
    assert find_weights("runs/a.safetensors") == tmp_path / "runs/a.safetensors"


def test_a_split_without_two_ages_is_said_before_anything_runs(tmp_path):
    faces = faces_of(400)
    val = split_faces(faces, 70, 20, 10, 42) == "val"
    faces["conflict"] = faces.conflict.mask(val, 20)  # copies with other ages: not evaluated
    with pytest.raises(ParameterError, match="val has no two faces of different ages"):
        check_amounts(faces, Run(tmp_path), {}, USED)


def test_what_a_number_a_name_or_a_size_may_be(tmp_path):
    assert check({"precision": 16}).precision == "16"  # what papermill's -p makes of it
    with pytest.raises(ParameterError, match="not 'cache'"):
        check({"run": "Cache"})
    vgg = {"backbone": "vgg11", "image_size": 64, "weights": "IMAGENET1K_V1"}
    with pytest.raises(ParameterError, match="ladder_size 16 is too small for vgg11: expected 22"):
        check_amounts(faces_of(400), Run(tmp_path), vgg, {*USED, "ladder_size"})
    check_amounts(faces_of(400), Run(tmp_path), vgg, {*USED} - {"ladder_size"})
    for right in ({"ladder_size": 22}, {"weights": None}):
        check_amounts(faces_of(400), Run(tmp_path), vgg | right, {*USED, "ladder_size"})
