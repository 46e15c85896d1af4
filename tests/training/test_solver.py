import builtins
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from utkcmp.data.pairs import Pairs
from utkcmp.models.networks import build_model
from utkcmp.models.storage import load_model
from utkcmp.training import lightning_module as task
from utkcmp.training import solver
from utkcmp.training.lightning_module import DivergedError
from utkcmp.training.solver import fit, fit_options

pytestmark = pytest.mark.usefixtures("tiny")
SETTINGS = dict(epochs=2, batch_size=16, lr=1e-2, device="cpu", progress=False)


def toy(n=24, size=16):
    """Faces whose brightness grows with age, so that a few steps learn their order."""
    ages = torch.arange(n).float() + 1
    noise = torch.randint(0, 60, (n, 3, size, size), generator=torch.Generator().manual_seed(0))
    images = (noise + (ages / n * 190)[:, None, None, None]).to(torch.uint8)
    left, right = np.triu_indices(n, 1)
    flip = np.random.default_rng(0).random(len(left)) < 0.5
    left, right = np.where(flip, right, left), np.where(flip, left, right)
    label = (ages.numpy()[left] > ages.numpy()[right]).astype("int8")
    return images, ages, Pairs(left, right, label)


def some(pairs, chosen):
    chosen = np.arange(chosen) if isinstance(chosen, int) else chosen
    return Pairs(pairs.left[chosen], pairs.right[chosen], pairs.label[chosen])


def build(name="AgeRanker", **options):
    torch.manual_seed(0)
    return build_model(name, **options)


@pytest.mark.parametrize("name", ["SiameseResNet", "ResNetClassifier", "AgeRanker"])
def test_pair_models_overfit_a_small_batch(name, tmp_path):
    images, ages, pairs = toy()
    few = some(pairs, 16)
    often = some(few, np.tile(np.arange(16), 40))  # 40 steps an epoch
    options = SETTINGS | {"epochs": 10, "lr": 0.03, "patience": 10}
    fitted = fit(build(name), images, ages, train=often, val=few, folder=tmp_path, **options)
    assert fitted.history.train_loss.iloc[-1] < 0.02


def test_the_regressor_learns_ages(tmp_path):
    images, ages, _ = toy()
    rows = np.tile(np.arange(len(ages)), 10)
    model = build("ResNetAgeRegressor")
    model.set_ages(ages)
    options = SETTINGS | {"epochs": 6}
    fitted = fit(model, images, ages, train=rows, val=rows, folder=tmp_path, **options)
    assert fitted.best.val_mae < 0.5 * float((ages - ages.median()).abs().mean())


def test_in_batch_pairs_learn_the_order(tmp_path):
    images, ages, pairs = toy()
    rows = np.tile(np.arange(len(ages)), 10)
    options = SETTINGS | {"epochs": 4, "batch_size": 12}
    fitted = fit(
        build("SiameseResNet"), images, ages, train=rows, val=pairs, folder=tmp_path, **options
    )
    assert fitted.best.val_auc > 0.9


def test_a_model_handed_over_in_evaluation_mode_is_trained_all_the_same(tmp_path):
    images, ages, pairs = toy()
    weights = []
    for mode in (True, False):
        model, folder = build("SiameseResNet").train(mode), tmp_path / str(mode)
        fitted = fit(model, images, ages, train=pairs, val=pairs, folder=folder, **SETTINGS)
        weights.append(fitted.model.state_dict())
    assert weights[0]["backbone.1.num_batches_tracked"] > 0
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_frozen_tensors_stay_frozen(tmp_path):
    images, ages, pairs = toy()
    model = build("SiameseResNetAge", hidden_layers=[8])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fitted = fit(model, images, ages, train=pairs, val=pairs, folder=tmp_path, **SETTINGS)
    after = fitted.model.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed == {"head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"}


def test_a_finished_model_is_reused_and_other_settings_train_anew(tmp_path):
    images, ages, pairs = toy()

    def run(**changed):
        return fit(
            build(), images, ages, train=pairs, val=pairs, folder=tmp_path, **SETTINGS | changed
        )

    first, again, other = run(), run(), run(lr=1e-4)
    assert (first.reused, again.reused, other.reused) == (False, True, False)
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
    assert again.history.equals(first.history)
    assert run(lr=1e-4, retrain=True).reused is False


def test_a_finished_folder_holds_only_what_is_needed(tmp_path):
    images, ages, pairs = toy()
    fit(build(), images, ages, train=pairs, val=pairs, folder=tmp_path, **SETTINGS)
    got = sorted(path.name for path in tmp_path.iterdir())
    assert got == ["config.json", "history.csv", "model.safetensors"]


def test_a_training_killed_at_its_boards_ends_with_them(tmp_path, monkeypatch):
    images, ages, pairs = toy()

    def train():
        options = SETTINGS | {"tensorboard": tmp_path / "board"}
        return fit(build(), images, ages, train=pairs, val=pairs, folder=tmp_path / "m", **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(solver, "write_boards", Mock(side_effect=KeyboardInterrupt))
        train()
    written = Mock()
    monkeypatch.setattr(solver, "write_boards", written)
    assert train().reused and written.call_count == 1
    got = sorted(path.name for path in (tmp_path / "m").iterdir())
    assert got == ["config.json", "history.csv", "model.safetensors"]
    assert train().reused and written.call_count == 1


def test_the_best_epoch_is_kept(tmp_path):
    images, ages, pairs = toy()
    options = SETTINGS | {"epochs": 6, "lr": 0.02, "patience": 6}
    fitted = fit(build(), images, ages, train=pairs, val=pairs, folder=tmp_path, **options)
    from utkcmp.evaluation.metrics import pair_metrics
    from utkcmp.models.inference import pair_logits

    got = pair_metrics(pair_logits(fitted.model, images, pairs), pairs.label)["loss"]
    assert got == pytest.approx(fitted.history.val_loss.min(), rel=1e-4)


def test_patience_ends_the_training(tmp_path):
    images, ages, pairs = toy()
    wrong = Pairs(pairs.left, pairs.right, 1 - pairs.label)  # the better trained, the worse
    options = SETTINGS | {"epochs": 8, "patience": 2}
    fitted = fit(build(), images, ages, train=pairs, val=wrong, folder=tmp_path, **options)
    assert len(fitted.history) < 8


@pytest.mark.parametrize(
    "wrong", [{"optimizer": "adm"}, {"precision": "64"}, {"schedule": "linear"}]
)
def test_an_unknown_option_is_answered_with_the_known_ones(wrong, tmp_path):
    images, ages, pairs = toy()
    with pytest.raises(ValueError, match="is not known: expected one of"):
        fit(build(), images, ages, train=pairs, val=pairs, folder=tmp_path, **SETTINGS | wrong)


def test_a_model_of_both_faces_cannot_train_on_a_batch_of_faces(tmp_path):
    images, ages, pairs = toy()
    with pytest.raises(ValueError, match="set pairing to 'list'"):
        fit(
            build("ResNetClassifier"),
            images,
            ages,
            train=np.arange(9),
            val=pairs,
            folder=tmp_path,
            **SETTINGS,
        )


def test_a_diverging_loss_stops_with_epoch_step_and_rate(tmp_path):
    images, ages, pairs = toy()
    options = SETTINGS | {"lr": 1e30, "optimizer": "sgd", "epochs": 5}
    with pytest.raises(DivergedError, match=r"epoch 1, step \d+, learning rate 1e\+30"):
        fit(build(), images, ages, train=pairs, val=pairs, folder=tmp_path, **options)


def test_what_the_last_step_spoils_is_seen_in_validation(tmp_path):
    images, ages, pairs = toy()
    reported, options = [], SETTINGS | {"lr": 1e30, "optimizer": "sgd", "epochs": 2}
    options |= {"batch_size": len(pairs), "on_epoch": reported.append}
    with pytest.raises(DivergedError, match=r"validation loss is (nan|inf) in epoch 1, learning"):
        fit(build(), images, ages, train=pairs, val=pairs, folder=tmp_path, **options)
    assert not reported


def test_a_late_divergence_keeps_the_best_weights_so_far(tmp_path, monkeypatch):
    images, ages, pairs = toy()
    epochs, real = [], task.binary_cross_entropy_with_logits
    monkeypatch.setattr(
        "utkcmp.training.lightning_module.binary_cross_entropy_with_logits",
        lambda *answers: real(*answers) * (torch.nan if len(epochs) == 2 else 1),
    )
    options = SETTINGS | {"epochs": 5, "on_epoch": epochs.append}
    model = build()
    with pytest.raises(DivergedError, match="epoch 3, step 1, .* best weights before it, of epoch"):
        fit(model, images, ages, train=pairs, val=pairs, folder=tmp_path, **options)
    assert "diverged" in json.loads((tmp_path / "config.json").read_text())["settings"]
    kept = weights_of(load_model(tmp_path))
    assert kept.isfinite().all() and not torch.equal(kept, weights_of(build()))


def weights_of(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def test_a_gradient_is_clipped(tmp_path):
    images, ages, pairs = toy()
    model = build()
    before, options = weights_of(model), SETTINGS | {"epochs": 1, "batch_size": len(pairs)}
    options |= {"optimizer": "sgd", "lr": 1.0, "clip": 0.01}
    fit(model, images, ages, train=pairs, val=pairs, folder=tmp_path, **options)
    moved = weights_of(model) - before
    assert moved.norm().item() == pytest.approx(0.01 * 1.9, rel=1e-3)  # 1 and Nesterov's 0.9


def test_the_moving_average_is_what_is_kept(tmp_path):
    images, ages, pairs = toy()
    options = SETTINGS | {"epochs": 1, "optimizer": "sgd", "batch_size": len(pairs) // 2}
    got = {}
    for name, changes in {"one": {"steps_per_epoch": 1}, "two": {}, "mean": {"ema": 0.75}}.items():
        fitted = fit(
            build(),
            images,
            ages,
            train=pairs,
            val=pairs,
            folder=tmp_path / name,
            **options | changes,
        )
        got[name] = weights_of(fitted.model)
    young = 2 / 11  # the first step weighs no more, though 0.75 was asked for
    torch.testing.assert_close(got["mean"], young * got["one"] + (1 - young) * got["two"])
    assert not torch.allclose(got["mean"], got["two"])


def test_the_moving_average_grows_old():
    """After many steps it decays as asked; what came before the last few weighs little at first."""
    weights = torch.nn.Linear(1, 1, bias=False)
    average, seen = task.moving_average(weights, 0.9), []
    for step in range(200):
        torch.nn.init.constant_(weights.weight, float(step > 99))
        average.update_parameters(weights)
        seen.append(average.module.weight.item())
    assert seen[99] == 0 and seen[100] == pytest.approx(0.1)
    assert seen[109] == pytest.approx(1 - 0.9**10)


def test_an_epoch_takes_the_steps_asked_for(tmp_path):
    images, ages, pairs = toy()
    counted = []
    options = SETTINGS | {"steps_per_epoch": 3, "schedule": "cosine", "on_epoch": counted.append}
    fit(build(), images, ages, train=pairs, val=pairs, folder=tmp_path, **options)
    assert [row["epoch"] for row in counted] == [1, 2]
    assert counted[-1]["lr"] < 1e-6  # the schedule ends with the steps, not with all batches


def test_an_age_loss_beside_the_pairs_leaves_no_trace_in_the_model(tmp_path):
    images, ages, pairs = toy()
    fitted = {
        weight: fit(
            build(),
            *(images, ages),
            train=pairs,
            val=pairs,
            folder=tmp_path / str(weight),
            age_weight=weight,
            **SETTINGS,
        ).model
        for weight in (0.0, 1.0)
    }
    assert set(fitted[1.0].state_dict()) == set(fitted[0.0].state_dict())
    assert not torch.allclose(weights_of(fitted[1.0]), weights_of(fitted[0.0]))


@pytest.mark.slow
def test_two_processes_share_each_batch(tmp_path):
    images, ages, pairs = toy()
    often = some(pairs, np.tile(np.arange(len(pairs)), 4))
    options = SETTINGS | {"epochs": 4, "devices": 2}
    fitted = fit(
        build("SiameseResNet"), images, ages, train=often, val=pairs, folder=tmp_path, **options
    )
    assert len(fitted.history) == 4 and fitted.best.val_auc > 0.9


@pytest.mark.slow
def test_a_divergence_in_several_processes_is_named(tmp_path):
    images, ages, pairs = toy()
    options = SETTINGS | {"lr": 1e30, "optimizer": "sgd", "devices": 2}
    with pytest.raises(DivergedError, match=r"epoch 1, step \d+, learning rate 1e\+30"):
        fit(build(), images, ages, train=pairs, val=pairs, folder=tmp_path, **options)


def test_loading_names_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="holds no finished model"):
        load_model(tmp_path / "nothing")
    images, ages, pairs = toy()
    fit(build(), images, ages, train=pairs, val=pairs, folder=tmp_path, **SETTINGS)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        load_model(tmp_path)
    weights.write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model": "SiameseResNet"}))
    with pytest.raises(ValueError, match="cannot be read"):
        load_model(tmp_path)


def test_tensorboard_gets_the_curves(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    images, ages, pairs = toy()
    board = tmp_path / "board"
    fit(
        build(),
        images,
        ages,
        train=pairs,
        val=pairs,
        folder=tmp_path / "model",
        tensorboard=board,
        **SETTINGS,
    )
    events = EventAccumulator(str(board))
    events.Reload()
    assert {"train_loss", "val_loss", "val_auc"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("val_auc")) == SETTINGS["epochs"]
    assert {"roc", "answers"} <= set(events.Tags()["images"])
    assert events.Tags()["graph"] and "best/val_auc" in events.Tags()["scalars"]
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_options_come_from_the_parameters():
    from utkcmp.params import Params

    got = fit_options(Params(epochs=7, patience=3))
    assert got["epochs"] == 7 and got["patience"] == 3 and "train" not in got


SCRIPT = textwrap.dedent("""
    import sys
    sys.path.insert(0, sys.argv[1])
    from conftest import use_tiny_backbone
    from test_solver import SETTINGS, build, fit, toy
    use_tiny_backbone()
    images, ages, pairs = toy()
    options = SETTINGS | {"epochs": 6, "patience": 6, "schedule": "cosine", "augment": "full"}
    options |= {"ema": 0.9, "age_weight": 0.1, "clip": 1.0, "optimizer": "adamw"}
    model = build("SiameseResNet", hidden_layers=[8], use_dropout=True)
    fit(model, images, ages, train=pairs, val=pairs, folder=sys.argv[2],
        tensorboard=sys.argv[2] + "/board",
        on_epoch=lambda row: print("epoch", row["epoch"], flush=True), **options)
""")


def train_in_a_process(folder, kill_after=None) -> list[str]:
    """Run SCRIPT; kill it with SIGKILL once it has printed ``kill_after``. Gives its lines."""
    here = os.path.dirname(__file__)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, here, str(folder)], stdout=subprocess.PIPE, text=True
    )
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if line.strip() == kill_after:
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == (-signal.SIGKILL if kill_after else 0)
    return lines


def test_a_killed_training_ends_as_one_never_killed(tmp_path):
    assert len(train_in_a_process(tmp_path / "whole")) == 6
    train_in_a_process(tmp_path / "killed", kill_after="epoch 4")
    resumed = train_in_a_process(tmp_path / "killed")
    assert resumed[0] in ("epoch 4", "epoch 5")  # killed before or after the checkpoint
    for name in ("model.safetensors", "config.json"):
        got, expect = ((tmp_path / one / name).read_bytes() for one in ("killed", "whole"))
        assert got == expect, name
    got, expect = (curve(tmp_path / one / "board") for one in ("killed", "whole"))
    assert got == expect and len(got) == 6


def held(folder: Path) -> dict[str, int]:
    """What this process holds, and what lies in a folder."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").open())
    return {
        "MiB": int(status["VmRSS"].split()[0]) // 1024,
        "files": len(os.listdir("/proc/self/fd")),
        "threads": int(status["Threads"]),
        "KiB on disk": sum(path.stat().st_size for path in folder.rglob("*")) // 1024,
    }


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system tells no such figures")
def test_fifty_epochs_hold_no_more_than_ten(small_run, tmp_path):
    _, data = small_run
    seen = []
    fit(
        build("SiameseResNet"),
        data.images,
        data.ages,
        train=data.rows("train"),
        val=data.pairs("val"),
        folder=tmp_path / "model",
        tensorboard=tmp_path / "board",
        on_epoch=lambda row: seen.append(held(tmp_path)),
        **SETTINGS | {"epochs": 50, "patience": 50, "augment": "flip"},
    )
    tenth, last = seen[9], seen[49]
    grown = {name: last[name] - tenth[name] for name in last}
    assert (grown["files"], grown["threads"]) == (0, 0)
    assert grown["MiB"] <= 10 and grown["KiB on disk"] <= 100, grown


def curve(board) -> dict[int, float]:
    """Validation AUC by step, as TensorBoard would draw it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(board))
    events.Reload()
    return {event.step: event.value for event in events.Scalars("val_auc")}


def test_a_training_into_a_log_file_writes_a_line_an_epoch(tmp_path, capsys, monkeypatch):
    monkeypatch.delattr(builtins, "__IPYTHON__", raising=False)  # other tests may have set it
    images, ages, pairs = toy()
    options = SETTINGS | {"epochs": 2, "progress": True}
    fit(build(), images, ages, train=pairs, val=pairs, folder=tmp_path, **options)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert "val auc" in lines[-1]


@pytest.mark.parametrize("precision", ["bf16", "32"])
def test_validation_embeds_in_the_precision_of_the_training(tmp_path, monkeypatch, precision):
    images, ages, pairs = toy()
    model, seen = build(), []
    embed = type(model).embed

    def watched(self, faces):
        if not self.training:
            seen.append(torch.is_autocast_enabled("cpu"))
        return embed(self, faces)

    monkeypatch.setattr(type(model), "embed", watched)
    options = SETTINGS | {"epochs": 1, "precision": precision}
    fit(model, images, ages, train=pairs, val=pairs, folder=tmp_path, **options)
    assert seen and set(seen) == {precision == "bf16"}


def test_the_backbone_may_learn_at_a_rate_of_its_own(tmp_path):
    images, ages, pairs = toy()
    options = SETTINGS | {"optimizer": "sgd", "epochs": 1, "batch_size": len(pairs)}  # one step
    moved = {}
    for factor in (1, 0.1):
        folder = tmp_path / str(factor)
        options |= {"folder": folder, "backbone_lr": factor}
        fitted = fit(build(), images, ages, train=pairs, val=pairs, **options)
        before = dict(build().named_parameters())
        moved[factor] = {
            name: weight - before[name] for name, weight in fitted.model.named_parameters()
        }
    for name, step in moved[0.1].items():
        expect = moved[1][name] * (0.1 if name.startswith("backbone.") else 1)
        torch.testing.assert_close(step, expect, rtol=1e-3, atol=1e-7)
