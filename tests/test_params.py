import pytest

from utkcmp.data.archives import data_source
from utkcmp.params import ParameterError, Params, check, check_names, load_files, parse_override
from utkcmp.run import PROJECT

FILES = sorted((PROJECT / "params").glob("*.yaml"))


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_parameter_file_is_valid(path):
    assert load_files([path])


def test_a_later_file_overrides_an_earlier_one(tmp_path):
    first = write(tmp_path, "a.yaml", "epochs: 3\nlr: 0.1\n")
    second = write(tmp_path, "b.yaml", "epochs: 7\n")
    assert load_files([first, second]) == {"epochs": 7, "lr": 0.1}


def test_unknown_name_is_refused_with_the_nearest_one(tmp_path):
    path = write(tmp_path, "a.yaml", "epoch: 3\n")
    with pytest.raises(ParameterError, match=r"'epoch' in .*a\.yaml: did you mean 'epochs'\?"):
        load_files([path])


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"epochs": "three"}, "epochs = 'three'"),
        ({"epochs": 0}, "epochs = 0"),
        ({"image_size": 8}, "image_size = 8"),
        ({"duplicate_probability": 1.5}, "duplicate_probability = 1.5"),
        ({"optimizer": "adm"}, "optimizer = 'adm'"),
        ({"hidden_layers": [64, 0]}, "hidden_layers.1 = 0"),
        ({"pretrained": {"epoch": 3}}, "in pretrained: did you mean 'epochs'"),
        ({"pretrained": {"epochs": 0}}, "epochs = 0 in pretrained"),
        ({"pretrained": {"seed": 1}}, "no notebook knows the parameter 'seed' in pretrained"),
        ({"train": 70, "val": 20, "test": 20}, r"train \+ val \+ test is 110"),
    ],
)
def test_wrong_values_are_named_in_one_sentence(values, named):
    with pytest.raises(ParameterError, match=named) as caught:
        check(values, source="x.yaml")
    assert "\n" not in str(caught.value) and "x.yaml" in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    with pytest.raises(ParameterError, match=r"a\.yaml"):
        load_files([write(tmp_path, "a.yaml", text)])


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(ParameterError, match=r"gone\.yaml: no such file"):
        load_files([tmp_path / "gone.yaml"])


def test_override_values_are_yaml():
    assert parse_override("hidden_layers=[64, 32]") == ("hidden_layers", [64, 32])
    assert parse_override("weights=null") == ("weights", None)
    with pytest.raises(ParameterError, match="expected name=value"):
        parse_override("epochs")


def test_names_are_checked_against_those_given():
    check_names(["lr"], known=["lr", "epochs"])
    with pytest.raises(ParameterError, match="known are: epochs, lr"):
        check_names(["zzz"], known=["lr", "epochs"])


def test_data_may_be_an_environment_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("UTKFACE", str(tmp_path))
    assert data_source(Params(data="$UTKFACE")) == tmp_path
    monkeypatch.delenv("UTKFACE")
    with pytest.raises(ParameterError, match="DATA="):
        data_source(Params(data="$UTKFACE"))


def test_an_unknown_network_is_found_before_anything_runs():
    with pytest.raises(ParameterError, match="'resnet81' is not known .did you mean 'resnet18'"):
        check({"backbone": "resnet81"})
    with pytest.raises(ParameterError, match="'V3' are not known for resnet18: .* IMAGENET1K_V1"):
        check({"backbone": "resnet18", "weights": "V3"})
    assert check({"weights": "IMAGENET1K_V1"}).weights == "IMAGENET1K_V1"
