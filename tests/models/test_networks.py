import pytest
import torch
from torch import nn

from utkcmp.models.networks import AgeComparison, AgeDistribution, build_model, make_head

PAIR_MODELS = [
    "SiameseResNet",
    "ResNetClassifier",
    "SiameseResNetAge",
    "AgeRanker",
    "RankingAgeRegressor",
]


def images(n, size=32):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("name", PAIR_MODELS)
@pytest.mark.parametrize("n", [1, 3])
def test_pair_models_give_one_logit_a_pair(name, n):
    model = build_model(name, hidden_layers=[8, 4], use_dropout=True).eval()
    got = model(images(n), images(n + 1)[:n])
    assert got.shape == (n,) and got.dtype == torch.float32


@pytest.mark.parametrize(
    "name", ["SiameseResNet", "SiameseResNetAge", "AgeRanker", "RankingAgeRegressor"]
)
def test_scoring_embedded_faces_equals_the_forward_pass(name):
    model = build_model(name).eval()
    left, right = images(3), images(4)[:3]
    expect = model(left, right)
    got = model.compare(*(model.contribute(model.embed(face)) for face in (left, right)))
    torch.testing.assert_close(got, expect, atol=1e-5, rtol=1e-4)


def test_swapping_the_faces_flips_the_rankers_sign_exactly():
    model = build_model("AgeRanker").eval()
    left, right = images(3), images(4)[:3]
    parts = [model.contribute(model.embed(face)) for face in (left, right)]
    assert torch.equal(model.compare(*parts), -model.compare(*parts[::-1]))


@pytest.mark.parametrize("name", ["SiameseResNet", "ResNetClassifier", "SiameseResNetAge"])
def test_a_symmetric_model_answers_alike_in_both_orders(name):
    plain, both = (
        build_model(name, hidden_layers=[8], symmetric=symmetric).eval()
        for symmetric in (False, True)
    )
    both.load_state_dict(plain.state_dict())
    left, right = images(3), images(4)[:3]
    expect = (plain(left, right) - plain(right, left)) / 2
    torch.testing.assert_close(both(left, right), expect, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both(left, right), -both(right, left), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(plain(left, right), -plain(right, left), atol=1e-5)


@pytest.mark.parametrize("hidden_layers", [[], [8, 4]])
def test_the_first_layer_as_a_sum_is_the_layer_on_concatenated_features(hidden_layers):
    model = build_model("SiameseResNet", hidden_layers=hidden_layers).eval()
    left, right = model.embed(images(3)), model.embed(images(4)[:3])
    expect = model.head(torch.cat([left, right], dim=1)).squeeze(1)
    got = model.compare(model.contribute(left), model.contribute(right))
    torch.testing.assert_close(got, expect, atol=1e-5, rtol=1e-4)


def test_an_age_distribution_answers_its_expectation():
    head = AgeDistribution(4)
    logits = torch.full((2, 121), -30.0)
    logits[0, 20] = logits[0, 40] = logits[1, 7] = 30
    torch.testing.assert_close(head.expectation(logits), torch.tensor([30.0, 7.0]))


def test_the_distribution_loss_is_least_at_the_labels_own_distribution():
    head, ages = AgeDistribution(4), torch.tensor([30.0, 61.0])
    right = -0.5 * ((head.ages - ages[:, None]) / head.SPREAD) ** 2
    assert head.loss(right, ages).item() == pytest.approx(0, abs=1e-4)
    for wrong in (right.roll(1, dims=1), right * 2, right / 2):
        assert head.loss(wrong, ages) > head.loss(right, ages) + 0.01


def test_an_unknown_age_loss_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'huber' is not known: expected one of mse, distribution"):
        build_model("ResNetAgeRegressor", age_loss="huber")


def test_an_unknown_model_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'Siamese' is not known: expected one of SiameseResNet"):
        build_model("Siamese")


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
        def forward(self, images):
            return images[:, 0, 0, 0]

    model = AgeComparison(Fixed(), error=5)
    left, right = torch.full((1, 3, 1, 1), 50.0), torch.full((1, 3, 1, 1), 30.0)
    expect = 20 * 1.702 / (2**0.5 * 5)
    assert model(left, right).item() == pytest.approx(expect)


def test_an_ensemble_answers_by_the_mean_of_its_members():
    members = [
        build_model("SiameseResNet", hidden_layers=[8]).eval(),
        build_model("SiameseResNetAge").eval(),
        build_model("AgeRanker").eval(),
    ]
    ensemble = build_model("PairEnsemble", members=[one.config for one in members]).eval()
    for own, member in zip(ensemble.members, members, strict=True):
        own.load_state_dict(member.state_dict())
    left, right = torch.randn(2, 5, 3, 16, 16)
    with torch.no_grad():
        got = ensemble(left, right)
        expect = torch.stack([one(left, right) for one in members]).mean(0)
    torch.testing.assert_close(got, expect)


@pytest.mark.parametrize(
    "name", ["SiameseResNet", "SiameseResNetAge", "AgeRanker", "RankingAgeRegressor"]
)
def test_mirror_images_count_half_in_evaluation_only(name):
    model = build_model(name, mirror=True)
    faces = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        model.eval()
        torch.testing.assert_close(model.embed(faces), model.embed(faces.flip(-1)))
        model.mirror = getattr(model, "regressor", model).mirror = False
        plain = (model.embed(faces) + model.embed(faces.flip(-1))) / 2
        model.mirror = getattr(model, "regressor", model).mirror = True
        torch.testing.assert_close(model.embed(faces), plain)


def test_six_channels_can_be_mirrored_and_symmetric():
    model = build_model("ResNetClassifier", mirror=True, symmetric=True).eval()
    left, right = torch.randn(2, 4, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(left, right), -model(right, left))
        torch.testing.assert_close(model(left, right), model(left.flip(-1), right.flip(-1)))
