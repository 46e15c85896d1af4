import pytest
import torch
from test_networks import images

from utkcmp.models.backbones import make_backbone


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "vgg16"])
def test_backbones_give_as_many_features_as_they_say(name):
    network, features = make_backbone(name)
    assert network.eval()(images(2)).shape == (2, features)


def test_an_unknown_backbone_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'resnet81' .*did you mean 'resnet18'.*resnet50"):
        make_backbone("resnet81")


def test_the_widened_convolution_keeps_its_weights():
    torch.manual_seed(0)
    three, _ = make_backbone("resnet18")
    torch.manual_seed(0)
    six, _ = make_backbone("resnet18", in_channels=6)
    face = images(1)
    torch.testing.assert_close(six.conv1(torch.cat([face, face], 1)), three.conv1(face))
