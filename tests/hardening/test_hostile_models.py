"""Malicious models, records and results: refused in one sentence, and nothing is executed."""

import json
import os
import pickle
import struct

import numpy as np
import pandas as pd
import pytest
import torch
from hostile import face, stored
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file

from utkcmp.compare.command import main
from utkcmp.compare.predictor import find_model
from utkcmp.compare.session import session
from utkcmp.evaluation.calibration import Calibration
from utkcmp.evaluation.registry import load_pair_model, model_folders
from utkcmp.files import RunError
from utkcmp.models.networks import build_model
from utkcmp.models.storage import load_model, save_model
from utkcmp.params import ParameterError
from utkcmp.run import CALIBRATION, FACE, PAIR, WEIGHTS, Run
from utkcmp.training.solver import _checkpoint
from utkcmp.tuning.tuner import read_best, read_trials

pytestmark = pytest.mark.usefixtures("tiny")
SIZE = 32


class Payload:
    """An object that creates a folder named ``owned`` when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


def make_model(folder, name="SiameseResNet", **options):
    torch.manual_seed(0)
    model = build_model(name, image_size=SIZE, **options).eval()
    history = pd.DataFrame({"epoch": [1], "val_loss": [0.25]})
    save_model(model, folder, settings={}, history=history)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_model(tmp_path / "model", hidden_layers=[8])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    place = tmp_path_factory.mktemp("photos")
    for number in range(2):
        (place / f"{number}.png").write_bytes(stored(face(number), "PNG"))
    return [str(place / f"{number}.png") for number in range(2)]


def change(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def options(folder, **changes):
    before = json.loads((folder / "config.json").read_text())["options"]
    change(folder, options=before | changes)


def weights(folder, **changes):
    tensors = load_file(folder / WEIGHTS) | changes
    save_file({name: one for name, one in tensors.items() if one is not None}, folder / WEIGHTS)


def pickled(folder, name=WEIGHTS):
    (folder / name).write_bytes(pickle.dumps(Payload()))


def cut(folder, name=WEIGHTS):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])


def long_head(folder):
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2**62) + b"{}")


def deep(folder):
    (folder / "config.json").write_text("[" * 100_000)


def far_places(folder):
    head = json.dumps(
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    ).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(head)) + head)


HEAD = "head.0.weight"
ATTACKS = {
    "a pickle as weights": (pickled, "model.safetensors, "),
    "torch's pickle as weights": (
        lambda f: torch.save(Payload(), f / WEIGHTS),
        "model.safetensors",
    ),
    "half of the weights": (cut, "model.safetensors, "),
    "no weights": (lambda f: (f / WEIGHTS).write_bytes(b""), "model.safetensors, "),
    "a head of exabytes": (long_head, "model.safetensors, "),
    "tensors beyond the file": (far_places, "model.safetensors, "),
    "a wrong shape": (
        lambda f: weights(f, **{HEAD: torch.zeros(8, 7)}),
        r"head.0.weight has shape \(8, 7\), expected \(8, 32\)",
    ),
    "another precision": (
        lambda f: weights(f, **{HEAD: torch.zeros(8, 32).bfloat16()}),
        "head.0.weight is of torch.bfloat16, expected torch.float32",
    ),
    "weights that are no numbers": (
        lambda f: weights(f, **{HEAD: torch.full((8, 32), torch.nan)}),
        "head.0.weight holds what is no finite number",
    ),
    "a tensor less": (lambda f: weights(f, **{HEAD: None}), "head.0.weight is missing"),
    "a tensor more": (lambda f: weights(f, extra=torch.zeros(1)), "extra is one tensor too many"),
    "another model's name": (lambda f: options(f, age_loss="mse"), "SiameseResNet has no option"),
    "another model": (
        lambda f: change(f, model="AgeRanker"),
        r"for this AgeRanker: head.0.weight has shape \(8, 32\), expected \(8, 16\)",
    ),
    "an unknown model": (lambda f: change(f, model="os.system"), "'os.system' is not known: exp"),
    "a model of no name": (lambda f: change(f, model=["x"]), "does not describe a model"),
    "an unknown option": (lambda f: options(f, execute="ls"), "has no option 'execute'"),
    "an unknown backbone": (lambda f: options(f, backbone="resnet81"), "did you mean 'resnet18'"),
    "layers of terabytes": (lambda f: options(f, hidden_layers=[10**9] * 9), "hidden_layers"),
    "layers in words": (lambda f: options(f, hidden_layers="wide"), "hidden_layers = 'wide'"),
    "dropout in words": (lambda f: options(f, use_dropout="perhaps"), "use_dropout = 'perhaps'"),
    "options as a list": (lambda f: change(f, options=[1]), "cannot be read"),
    "a size of nothing": (lambda f: change(f, image_size=0), "image_size = 0"),
    "a size of terabytes": (lambda f: change(f, image_size=10**9), "image_size = 1000000000"),
    "a size in words": (lambda f: change(f, image_size="big"), "image_size = 'big'"),
    "a config without size": (
        lambda f: (f / "config.json").write_text('{"model": "AgeRanker", "options": {}}'),
        "states no 'image_size'",
    ),
    "a config that is a list": (lambda f: (f / "config.json").write_text("[1]"), "cannot be read"),
    "a config that is no JSON": (lambda f: cut(f, "config.json"), "config.json is no JSON"),
    "a config without end": (deep, "config.json is no JSON"),
    "a pickle as config": (lambda f: pickled(f, "config.json"), "config.json is no JSON"),
    "a config in Latin-1": (lambda f: (f / "config.json").write_bytes(b'"\xe9"'), "is no JSON"),
}


def some(names, every: int):
    """Mark all but every n-th name as slow, so that `make test` runs only those."""
    slow = pytest.mark.slow
    return [pytest.param(n, marks=() if i % every == 0 else slow) for i, n in enumerate(names)]


@pytest.mark.parametrize("what", some(ATTACKS, 5))
def test_a_hostile_model_is_one_sentence(what, folder, photos, capfd):
    attack, said = ATTACKS[what]
    attack(folder)
    with pytest.raises(ValueError, match=said) as caught:
        load_model(folder)
    message = str(caught.value)
    assert message.startswith(f"the model in {folder} cannot be read: ") and "\n" not in message
    with pytest.raises(ValueError):
        load_pair_model(folder)
    status = main([*photos, "--aligned", "--model", str(folder)])
    out, err = capfd.readouterr()
    assert (status, out, err) == (1, "", f"utkcmp.compare: {message}\n")
    assert not os.path.exists("owned")


# ---- checkpoints ---------------------------------------------------------------------------------


def torch_zip(path):
    torch.save({"state_dict": Payload()}, path)


def plain_pickle(path):
    path.write_bytes(pickle.dumps({"state_dict": Payload()}))


def cut_zip(path):
    torch.save({"state_dict": {"model.a": torch.zeros(999)}}, path)
    path.write_bytes(path.read_bytes()[:-900])


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
@pytest.mark.parametrize("attack", [torch_zip, plain_pickle, cut_zip])
def test_a_hostile_checkpoint_is_not_gone_on_from(tmp_path, monkeypatch, attack, name):
    monkeypatch.chdir(tmp_path)
    for one in ("last.ckpt", "best.ckpt"):
        torch.save({"state_dict": {}, "made": {"epochs": 1}}, tmp_path / one)
    assert _checkpoint(tmp_path, {"epochs": 1}) == tmp_path / "last.ckpt"
    attack(tmp_path / name)
    assert _checkpoint(tmp_path, {"epochs": 1}) is None
    assert not (tmp_path / "last.ckpt").exists() and not (tmp_path / "owned").exists()


def test_a_training_beside_a_hostile_checkpoint_starts_anew(tmp_path, monkeypatch):
    from test_solver import train

    monkeypatch.chdir(tmp_path)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(tmp_path / "m", epochs=3, given={"on_epoch": stop})
    (tmp_path / "m").mkdir(exist_ok=True)
    for name in ("last.ckpt", "best.ckpt"):
        torch_zip(tmp_path / "m" / name)
    fitted = train(tmp_path / "m", epochs=3)
    assert len(fitted.history) == 3 and not (tmp_path / "owned").exists()


# ---- graphs --------------------------------------------------------------------------------------


def answer(folder, photos, capfd) -> tuple[int, str]:
    status = main([*photos, "--aligned", "--force", "--model", str(folder)])
    return status, "".join(capfd.readouterr())


def no_graph(path, marks):
    path.write_bytes(b"no graph")


def half_a_graph(path, marks):
    path.write_bytes(path.read_bytes()[:200])


def pickle_as_graph(path, marks):
    path.write_bytes(pickle.dumps(Payload()))


def graph_of_other_names(path, marks):
    """Valid metadata on a graph with other inputs."""
    write_graph(path, marks, "elsewhere", [1])


def graph_that_reads_elsewhere(path, marks):
    """Valid metadata, names and shapes on a graph that reads a file outside its folder."""
    write_graph(path, marks, "images", ["count", 3, SIZE, SIZE], outside="../outside")


def write_graph(path, marks, name, shape, outside=None):
    given = helper.make_tensor_value_info(name, TensorProto.UINT8, shape)
    gives = helper.make_tensor_value_info("brought", TensorProto.FLOAT, [4])
    constant = helper.make_tensor("c", TensorProto.FLOAT, [4], np.zeros(4, np.float32))
    if outside:
        constant = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[4], data_location=1)
        constant.external_data.add(key="location", value=outside)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["brought"])], "g", [given], [gives], [constant]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, marks)
    path.write_bytes(model.SerializeToString())


GRAPHS = [no_graph, half_a_graph, pickle_as_graph, graph_of_other_names, graph_that_reads_elsewhere]


def test_broken_and_hostile_graphs_are_made_anew(folder, photos, capfd, monkeypatch):
    """Each is noticed and exported again; the exporter here restores the original graphs."""
    status, said = answer(folder, photos, capfd)
    whole, made = {name: (folder / name).read_bytes() for name in (FACE, PAIR)}, []

    def make(where):
        made.append(where)
        for name, content in whole.items():
            (folder / name).write_bytes(content)

    monkeypatch.setattr("utkcmp.compare.onnx_export.write_graphs", make)
    marks = session(folder / FACE).get_modelmeta().custom_metadata_map
    (folder.parent / "outside").write_bytes(bytes(16))
    attacks = [(attack, name) for attack in GRAPHS for name in (FACE, PAIR)]
    for number, (attack, name) in enumerate(attacks, start=1):
        attack(folder / name, marks)
        (folder / "config.json").touch()  # makes the command reload the folder
        assert answer(folder, photos, capfd) == (status, said) and status == 0
        assert len(made) == number, f"{attack.__name__} as {name} was taken"
    weights(folder, **{HEAD: torch.zeros(8, 32)})
    answer(folder, photos, capfd)
    assert len(made) > number, "graphs of other weights were taken"
    assert not os.path.exists("owned")


def test_weights_that_became_no_numbers_under_their_graphs(folder, photos, capfd):
    answer(folder, photos, capfd)
    weights(folder, **{HEAD: torch.full((8, 32), torch.nan)})
    status, said = answer(folder, photos, capfd)
    assert status == 1 and said.endswith("holds what is no finite number\n")


# ---- what a run and a model have recorded --------------------------------------------------------

CALIBRATIONS = [
    *("{", "[1]", "5", "[" * 100_000, '{"unknown": 1}', '{"temperature": 0}'),
    *('{"temperature": "hot"}', '{"temperature": NaN}', '{"temperature": Infinity}'),
    *('{"pairs": "many"}', '{"drawn": "yes"}', '{"frame": [[1, 2]]}', '{"frame": "here"}'),
    json.dumps({"frame": [["a", "b"]] * 5}),
    json.dumps({"frame": [[1, 1]] * 5}),
    json.dumps({"frame": [[1, float("nan")]] * 5}),
]


@pytest.mark.parametrize("text", some(CALIBRATIONS, 4))
def test_a_hostile_calibration_is_one_sentence(text, folder, photos, capfd):
    (folder / CALIBRATION).write_text(text)
    with pytest.raises(ValueError, match="calibration.json is no calibration"):
        Calibration.read(folder)
    status, said = answer(folder, photos, capfd)
    assert status == 1 and len(said.splitlines()) == 1


def test_a_hostile_choice_leads_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("UTKCMP_OUTPUTS", str(tmp_path / "outputs"))
    run = tmp_path / "outputs" / "utkface"
    own = make_model(run / "models" / "own")
    make_model(tmp_path / "elsewhere")
    for text in ("{", "[]", '{"model": 5}', '{"model": ["own"]}', "[" * 100_000, "null"):
        (run / "compare.json").write_text(text)
        assert find_model() == own
    for name in ("../../../elsewhere", str(tmp_path / "elsewhere"), ".", "", "own/../own", "\0"):
        (run / "compare.json").write_text(json.dumps({"model": name}))
        assert find_model() == own
    (own / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="no trained model"):
        find_model()


def test_a_hostile_history_is_one_sentence(tmp_path, photos, capfd):
    folder = make_model(tmp_path / "ages", "ResNetAgeRegressor")
    for text in ("", "a,b\n1,2\n", "epoch,val_loss\n1,low\n", "\0", 'epoch,val_loss\n"1'):
        (folder / "history.csv").write_text(text)
        with pytest.raises(RunError, match=r"history.csv is damaged \(.*\): expected"):
            load_pair_model(folder)
        status, said = answer(folder, photos, capfd)
        assert status == 1 and len(said.splitlines()) == 1


RECORDS = [
    *("{", "[]", "5", "null", '"x"', "\0", "[" * 100_000, '{"seconds": []}', '{"data": 5}'),
    *('{"seconds": {"01": "<script>"}}', '{"data": {"faces": "many"}}', '{"split": "x"}'),
]


def test_a_hostile_record_is_one_sentence(tmp_path):
    run = Run(tmp_path)
    for text in RECORDS:
        run.run_json.write_text(text)
        with pytest.raises(RunError, match="run.json is damaged: expected .* remove it"):
            run.read_record()
        with pytest.raises(RunError):
            run.record("data", faces=1)
    run.run_json.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(RunError):
        run.read_record()


TABLES = [
    "",
    "\0\0",
    "a,b\n1,2\n",
    'model,split,protocol\n"',
    "model,split,protocol,auc\na,b,c,high\n",
]


def test_hostile_tables_are_one_sentence(tmp_path):
    run = Run(tmp_path)
    for text in [*TABLES, pickle.dumps(Payload(), 0).decode()]:
        for path, read in ((run.results_csv, run.read_results), (run.faces_csv, run.read_faces)):
            path.write_text(text)
            with pytest.raises(RunError, match=rf"{path.name} is damaged .* remove it") as caught:
                read()
            assert "\n" not in str(caught.value)
    table = tmp_path / "trials.csv"
    for layers in ("[1", "__import__('os').mkdir('owned')", "[" * 5000):
        table.write_text(f"hidden_layers,loss,accuracy,auc\n{layers},1,1,1\n")
        with pytest.raises(RunError, match="trials.csv is damaged"):
            read_trials(table)
    assert not os.path.exists("owned")


BESTS = {
    "!!python/object/apply:os.mkdir [owned]": "is not valid YAML",
    "batch_size: 32": "is missing",
    "batch_size: many": "batch_size = 'many'",
    "epoch: 3": "did you mean 'epochs'",
    "[": "is not valid YAML",
    "a: &a [*a]": "holds an alias",
}


@pytest.mark.parametrize("text", some(BESTS, 2))
def test_a_hostile_best_trial_is_one_sentence(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best.yaml").write_text(text)
    with pytest.raises(ParameterError, match=BESTS[text]) as caught:
        read_best(tmp_path / "best.yaml")
    assert "\n" not in str(caught.value) and not os.path.exists("owned")


def test_a_hostile_transfer_model_names_no_other_folder(tmp_path):
    run = Run(tmp_path)
    folder = make_model(run.model("transfer"), "SiameseResNetAge")
    assert model_folders(run)["ages compared"] == "age_regressor_resnet18"
    options(folder, backbone="../../elsewhere")
    with pytest.raises(ValueError, match="cannot be read: config.json, .*is not known"):
        model_folders(run)
