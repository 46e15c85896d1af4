import pytest
import torch
from torch import nn

from utkcmp.models import (
    AgeComparison,
    build_model,
    make_backbone,
    make_head,
)

PAIR_MODELS = ["SiameseResNet", "ResNetClassifier", "SiameseResNetAge", "AgeRanker"]


def images(n, size=32):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("name", PAIR_MODELS)
@pytest.mark.parametrize("n", [1, 3])
def test_pair_models_give_one_logit_a_pair(name, n):
    model = build_model(name, hidden_layers=[8, 4], use_dropout=True).eval()
    got = model(images(n), images(n + 1)[:n])
    assert got.shape == (n,) and got.dtype == torch.float32


@pytest.mark.parametrize("name", ["SiameseResNet", "SiameseResNetAge", "AgeRanker"])
def test_scoring_embedded_faces_equals_the_forward_pass(name):
    model = build_model(name).eval()
    left, right = images(3), images(4)[:3]
    expect = model(left, right)
    got = model.score_pairs(model.embed(left), model.embed(right))
    torch.testing.assert_close(got, expect, atol=1e-5, rtol=1e-4)


def test_swapping_the_faces_flips_the_rankers_sign_exactly():
    model = build_model("AgeRanker").eval()
    left, right = images(3), images(4)[:3]
    scores = model.embed(left), model.embed(right)
    assert torch.equal(model.score_pairs(*scores), -model.score_pairs(*scores[::-1]))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "vgg16"])
def test_backbones_give_as_many_features_as_they_say(name):
    network, features = make_backbone(name)
    assert network.eval()(images(2)).shape == (2, features)


def test_an_unknown_backbone_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'resnet81' .*did you mean 'resnet18'.*resnet50"):
        make_backbone("resnet81")


def test_an_unknown_model_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'Siamese' is not known: expected one of SiameseResNet"):
        build_model("Siamese")


def test_the_widened_convolution_keeps_its_weights():
    torch.manual_seed(0)
    three, _ = make_backbone("resnet18")
    torch.manual_seed(0)
    six, _ = make_backbone("resnet18", in_channels=6)
    face = images(1)
    torch.testing.assert_close(six.conv1(torch.cat([face, face], 1)), three.conv1(face))


def test_the_head_has_the_layers_asked_for():
    got = [type(layer) for layer in make_head(10, [8, 4], True, 0.5)]
    assert got == [nn.Linear, nn.ReLU, nn.Dropout] * 2 + [nn.Linear]
    assert len(make_head(10, [], True, 0.5)) == 1


def test_the_regressor_answers_in_years_around_the_training_mean():
    model = build_model("ResNetAgeRegressor").eval()
    model.set_ages(torch.tensor([20.0, 40.0, 60.0]))
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    assert model(images(2)).tolist() == [40.0, 40.0]


def test_the_frozen_regressor_stays_as_it_was_in_training_mode():
    model = build_model("SiameseResNetAge").train()
    before = {k: v.clone() for k, v in model.regressor.state_dict().items()}
    model(images(4), images(4)).sum().backward()
    assert all(torch.equal(before[k], v) for k, v in model.regressor.state_dict().items())
    assert all(weight.grad is None for weight in model.regressor.parameters())
    assert model.head[0].weight.grad is not None


def test_the_blind_model_does_not_see_the_right_face():
    seeing, blind = (build_model("SiameseResNetAge", blind=b).eval() for b in (False, True))
    left, one, other = images(2), images(3)[:2], images(4)[:2]
    assert torch.equal(blind(left, one), blind(left, other))
    assert not torch.equal(seeing(left, one), seeing(left, other))


def test_compared_ages_answer_for_the_older():
    class Fixed(nn.Module):
        age_std = torch.tensor(10.0)

        def forward(self, images):
            return images[:, 0, 0, 0]

    model = AgeComparison(Fixed(), spread=0.5)
    left, right = torch.full((1, 3, 1, 1), 50.0), torch.full((1, 3, 1, 1), 30.0)
    expect = 20 * 1.702 / (2**0.5 * 5)
    assert model(left, right).item() == pytest.approx(expect)
