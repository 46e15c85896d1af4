import builtins
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from utkcmp.data.pairs import Pairs
from utkcmp.evaluation.metrics import pair_metrics
from utkcmp.models.inference import pair_logits
from utkcmp.models.networks import build_model
from utkcmp.models.storage import load_model
from utkcmp.params import ParameterError
from utkcmp.training import lightning_module as task
from utkcmp.training.settings import DivergedError, Settings
from utkcmp.training.solver import fit

pytestmark = pytest.mark.usefixtures("tiny")
SETTINGS = dict(epochs=2, batch_size=16, lr=1e-2, schedule="constant", augment="none", device="cpu")


def toy(n=24, size=16):
    """Faces whose brightness grows with age, so that a few steps learn their order; all pairs."""
    ages = torch.arange(n).float() + 1
    noise = torch.randint(0, 60, (n, 3, size, size), generator=torch.Generator().manual_seed(0))
    images = (noise + (ages / n * 190)[:, None, None, None]).to(torch.uint8)
    left, right = np.triu_indices(n, 1)
    flip = np.random.default_rng(0).random(len(left)) < 0.5
    left, right = np.where(flip, right, left), np.where(flip, left, right)
    label = (ages.numpy()[left] > ages.numpy()[right]).astype("int8")
    return SimpleNamespace(images=images, ages=ages), Pairs(left, right, label)


DATA, PAIRS = toy()
ROWS = np.arange(len(DATA.ages))


def build(name="AgeRanker", **options):
    torch.manual_seed(0)
    return build_model(name, **options)


def train(folder, model=None, train=PAIRS, val=PAIRS, given=None, **changes):
    """``fit`` on the toy faces; given: its arguments besides the settings."""
    settings = Settings.of(**SETTINGS | changes)
    return fit(model or build(), DATA, settings, train=train, val=val, folder=folder, **given or {})


def weights_of(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


@pytest.mark.parametrize(
    "name", ["SiameseResNet", "ResNetClassifier", "AgeRanker", "RankingAgeRegressor"]
)
def test_pair_models_learn_pairs_by_heart(name, tmp_path):
    few = PAIRS[np.arange(16)]
    often = few[np.tile(np.arange(16), 40)]  # 40 steps per epoch
    fitted = train(tmp_path, build(name), often, few, epochs=8, lr=0.03)
    assert fitted.history.train_loss.iloc[-1] < 0.05


def test_the_regressor_learns_ages(tmp_path):
    model = build("ResNetAgeRegressor")
    model.set_ages(DATA.ages)
    rows = np.tile(ROWS, 10)
    fitted = train(tmp_path, model, rows, ROWS, epochs=6)
    assert fitted.best.val_mae < 0.5 * float((DATA.ages - DATA.ages.median()).abs().mean())


def test_all_pairs_of_a_batch_teach_the_order(tmp_path):
    rows = np.tile(ROWS, 10)
    fitted = train(tmp_path, build("SiameseResNet"), rows, epochs=4, batch_size=12)
    assert fitted.best.val_auc > 0.9


def test_frozen_tensors_stay_frozen(tmp_path):
    model = build("SiameseResNetAge", hidden_layers=[8])
    before = model.state_dict()
    after = train(tmp_path, model).model.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed == {"head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"}


def test_a_training_may_be_asked_for_again(tmp_path):
    """What a cell that is run twice gets: the same model, not one that is trained further."""
    model, other = build(), build().eval()
    first, again = train(tmp_path, model), train(tmp_path, model)
    assert (first.reused, again.reused) == (False, True) and again.history.equals(first.history)
    handed_back = train(tmp_path, first.model)
    anew = train(tmp_path, other, retrain=True)  # in evaluation mode, trained all the same
    assert handed_back.reused and not anew.reused
    for fitted in (again, handed_back, anew):
        assert torch.equal(weights_of(fitted.model), weights_of(first.model))
    assert torch.equal(weights_of(model), weights_of(build()))
    assert not train(tmp_path, lr=1e-4).reused
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "history.csv",
        "model.safetensors",
    ]


@pytest.mark.parametrize("changes", [{"retrain": True}, {"lr": 0.1}])
def test_a_trained_model_is_not_trained_on_in_its_own_folder(changes, tmp_path):
    trained = train(tmp_path).model
    with pytest.raises(ValueError, match="already trained: build it anew"):
        train(tmp_path, trained, **changes)
    assert not train(tmp_path / "other", trained, **changes).reused


def test_a_training_killed_at_its_boards_ends_with_them(tmp_path, monkeypatch):
    boards = {"tensorboard": tmp_path / "board"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopped = Mock(side_effect=KeyboardInterrupt)
        patch.setattr("utkcmp.training.tensorboard.write_boards", stopped)
        train(tmp_path / "m", given=boards)
    written = Mock()
    monkeypatch.setattr("utkcmp.training.tensorboard.write_boards", written)
    assert train(tmp_path / "m", given=boards).reused and written.call_count == 1
    assert train(tmp_path / "m", given=boards).reused and written.call_count == 1
    assert not list((tmp_path / "m").glob("*.ckpt"))


def test_the_best_epoch_is_kept_and_patience_ends_the_training(tmp_path):
    wrong = Pairs(PAIRS.left, PAIRS.right, 1 - PAIRS.label)  # the better trained, the worse
    fitted = train(tmp_path, val=wrong, epochs=8, patience=2)
    assert len(fitted.history) < 8 and fitted.best.epoch < len(fitted.history)
    got = pair_metrics(pair_logits(fitted.model, DATA.images, wrong), wrong.label)["loss"]
    assert got == pytest.approx(fitted.best.val_loss, rel=1e-4)


@pytest.mark.parametrize("wrong", [{"optimizer": "adm"}, {"precision": "64"}, {"epoch": 3}])
def test_an_unknown_setting_is_answered_with_what_is_known(wrong):
    with pytest.raises(ParameterError, match="'adam', 'adamw' or 'sgd'|'bf16'|mean 'epochs'"):
        Settings.of(**wrong)


def test_settings_come_from_the_parameters_and_their_changes():
    from utkcmp.params import Params

    got = Settings.of(Params(epochs=7, patience=3), patience=4)
    assert (got.epochs, got.patience) == (7, 4)
    assert got.stored() == Settings.of(Params(epochs=7, patience=4, retrain=True)).stored()


def test_a_model_of_both_faces_cannot_train_on_a_batch_of_faces(tmp_path):
    with pytest.raises(ValueError, match="set pairing to 'list'"):
        train(tmp_path, build("ResNetClassifier"), ROWS)


def test_a_diverging_loss_stops_with_epoch_step_and_rate(tmp_path):
    with pytest.raises(DivergedError, match=r"epoch 1, step \d+, learning rate 10"):
        train(tmp_path, build("SiameseResNet"), lr=10, optimizer="sgd", epochs=9, weight_decay=1e30)


def test_what_the_last_step_spoils_is_seen_in_validation(tmp_path):
    reported, given = [], {}
    given["on_epoch"] = reported.append
    spoilt = dict(lr=10, weight_decay=1e38, optimizer="sgd", batch_size=len(PAIRS))
    with pytest.raises(DivergedError, match=r"validation loss is (nan|inf) in epoch 1, learning"):
        train(tmp_path, given=given, **spoilt)
    assert not reported


def test_a_late_divergence_keeps_the_best_weights_so_far(tmp_path, monkeypatch):
    epochs, real = [], task.binary_cross_entropy_with_logits
    monkeypatch.setattr(
        "utkcmp.training.lightning_module.binary_cross_entropy_with_logits",
        lambda *answers: real(*answers) * (torch.nan if len(epochs) == 2 else 1),
    )
    with pytest.raises(DivergedError, match="epoch 3, step 1, .* best weights before it, of epoch"):
        train(tmp_path, epochs=5, given={"on_epoch": epochs.append})
    assert "diverged" in json.loads((tmp_path / "config.json").read_text())["settings"]
    kept = weights_of(load_model(tmp_path))
    assert kept.isfinite().all() and not torch.equal(kept, weights_of(build()))


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_gradient_is_clipped(tmp_path, precision):
    once = dict(epochs=1, batch_size=len(PAIRS), optimizer="sgd", lr=1.0, clip=0.01)
    fitted = train(tmp_path, precision=precision, **once)
    moved = weights_of(fitted.model) - weights_of(build())
    assert moved.norm().item() == pytest.approx(0.01 * 1.9, rel=1e-3)  # 1 and Nesterov's 0.9


def test_the_backbone_learns_at_a_rate_of_its_own(tmp_path):
    once = dict(epochs=1, batch_size=len(PAIRS), optimizer="sgd")
    moved = {}
    for factor in (1.0, 0.1):
        after = train(tmp_path / str(factor), backbone_lr=factor, **once).model.state_dict()
        before = build().state_dict()
        moved[factor] = {name: after[name] - before[name] for name in before}
    name, head = "backbone.0.weight", "head.0.weight"
    torch.testing.assert_close(moved[0.1][name], 0.1 * moved[1.0][name], atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(moved[0.1][head], moved[1.0][head])


def test_the_moving_average_is_what_is_kept(tmp_path):
    once, got = dict(epochs=1, optimizer="sgd", batch_size=len(PAIRS) // 2), {}
    for name, changes in {"one": {"steps_per_epoch": 1}, "two": {}, "mean": {"ema": 0.75}}.items():
        got[name] = weights_of(train(tmp_path / name, **once | changes).model)
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


def test_the_moving_average_copies_counters():
    """The average of a count with itself was one less, once it was large enough."""
    model = torch.nn.BatchNorm1d(1)
    average = task.moving_average(model, 0.99)
    for count in range(1, 300):
        model.num_batches_tracked.fill_(count)
        average.update_parameters(model)
        assert average.module.num_batches_tracked == count


def test_an_epoch_takes_the_steps_asked_for(tmp_path):
    history = train(tmp_path, steps_per_epoch=3, schedule="cosine").history
    assert history.epoch.tolist() == [1, 2]
    assert history.lr.iloc[-1] < 1e-6  # the schedule ends with the steps, not with all batches


def test_an_age_loss_beside_the_pairs_leaves_no_trace_in_the_model(tmp_path):
    alone, beside = (train(tmp_path / str(w), age_weight=w).model for w in (0.0, 1.0))
    assert set(alone.state_dict()) == set(beside.state_dict())
    assert not torch.allclose(weights_of(alone), weights_of(beside))


@pytest.mark.slow
def test_two_processes_share_each_batch_in_a_schedulers_job_too(tmp_path, monkeypatch):
    job = {"JOB_ID": "7", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in (job | {"NODELIST": "localhost", "JOB_NAME": "night"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    often = PAIRS[np.tile(np.arange(len(PAIRS)), 4)]
    fitted = train(tmp_path / "good", build("SiameseResNet"), often, epochs=4, devices=2)
    assert len(fitted.history) == 4 and fitted.best.val_auc > 0.9
    with pytest.raises(DivergedError, match=r"epoch 1, step \d+, learning rate 10"):
        train(tmp_path / "bad", lr=10, weight_decay=1e30, optimizer="sgd", epochs=9, devices=2)


def test_what_a_launcher_said_is_not_about_the_processes_of_a_training(monkeypatch):
    """torchrun, or a container for a job on several machines: Lightning would wait for others."""
    for name in ("NODE_RANK", "LOCAL_RANK", "RANK", "MASTER_PORT", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("MASTER_ADDR", "elsewhere")
    seen, here = [], task.LightningEnvironment()

    def train_here(*options):
        seen.append((here.node_rank(), here.local_rank(), here.main_address, options))
        assert here.main_port > 1024 and not here.creates_processes_externally

    monkeypatch.setattr(task, "train_here", train_here)
    task._rank_zero(0, "a task")
    assert seen == [(0, 0, "127.0.0.1", ("a task",))]


def events_of(board):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(board))
    events.Reload()
    return events


def curve(board) -> list[tuple[int, float]]:
    """Validation AUC by step, as TensorBoard would draw it."""
    return [(event.step, event.value) for event in events_of(board).Scalars("val_auc")]


def test_tensorboard_gets_one_curve_by_epoch(tmp_path):
    given = {"tensorboard": tmp_path / "board"}
    train(tmp_path / "m", epochs=3, given=given)
    history = train(tmp_path / "m", epochs=2, given=given).history  # trained anew
    events = events_of(tmp_path / "board")
    assert {"train_loss", "val_loss", "val_auc"} <= set(events.Tags()["scalars"])
    assert {"roc", "answers"} <= set(events.Tags()["images"])
    assert events.Tags()["graph"] and "best/val_auc" in events.Tags()["scalars"]
    assert "_hparams_/session_start_info" in events.summary_metadata
    steps, values = zip(*curve(tmp_path / "board"), strict=True)
    assert steps == (1, 2) and values == pytest.approx(history.val_auc.tolist())


def train_with_everything(folder, on_epoch):
    """Six epochs with all that a checkpoint must hold."""
    model = build("SiameseResNet", hidden_layers=[8], use_dropout=True)
    options = dict(epochs=6, schedule="cosine", augment="full", ema=0.9, age_weight=0.1, clip=1.0)
    given = {"tensorboard": folder / "board", "on_epoch": lambda row: on_epoch(row["epoch"])}
    train(folder, model, optimizer="adamw", given=given, **options)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from conftest import use_tiny_backbone
from test_solver import train_with_everything
use_tiny_backbone()
kill = lambda epoch: epoch == 4 and os.kill(os.getpid(), signal.SIGKILL)
train_with_everything(Path(sys.argv[3]), kill)
"""


def test_a_killed_training_ends_as_one_never_killed(tmp_path):
    here, epochs = Path(__file__).parent, []
    train_with_everything(tmp_path / "whole", lambda epoch: None)
    killed = [sys.executable, "-c", KILLED, here, here.parent, tmp_path / "killed"]
    assert subprocess.run(killed).returncode == -signal.SIGKILL
    train_with_everything(tmp_path / "killed", epochs.append)
    assert epochs in ([4, 5, 6], [5, 6])  # killed before or after the checkpoint
    for name in ("model.safetensors", "config.json"):
        got, expect = ((tmp_path / one / name).read_bytes() for one in ("killed", "whole"))
        assert got == expect, name
    got, expect = (dict(curve(tmp_path / one / "board")) for one in ("killed", "whole"))
    assert got == expect and sorted(got) == [1, 2, 3, 4, 5, 6]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system tells no such figures")
def test_fifty_epochs_hold_no_more_than_ten(tmp_path):
    seen = []

    def held(row):
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        on_disk = sum(path.stat().st_size for path in tmp_path.rglob("*")) // 1024
        files = len(os.listdir("/proc/self/fd"))
        seen.append([int(status["VmRSS"].split()[0]) // 1024, on_disk, files, status["Threads"]])

    given = {"tensorboard": tmp_path / "board", "on_epoch": held}
    train(tmp_path / "model", epochs=50, patience=50, augment="flip", train=ROWS, given=given)
    (memory, disk, *tenth), (memory_at_last, disk_at_last, *last) = seen[9], seen[49]
    assert tenth == last and memory_at_last - memory <= 10 and disk_at_last - disk <= 100, seen


def test_a_training_into_a_log_file_writes_a_line_per_epoch(tmp_path, capsys, monkeypatch):
    monkeypatch.delattr(builtins, "__IPYTHON__", raising=False)  # other tests may have set it
    history = train(tmp_path).history
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert f"auc {history.val_auc.iloc[-1]:.3f}" in lines[-1]


def test_a_bar_moves_within_an_epoch_and_shows_loss_and_auc(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(task, "on_screen", lambda: True)
    monkeypatch.setattr(task, "tqdm", lambda **options: tqdm(mininterval=0, ncols=120, **options))
    from tqdm import tqdm

    history = train(tmp_path, steps_per_epoch=3).history
    said = capsys.readouterr().err.replace("\r", "\n")
    for done in range(1, 7):
        assert f"{done}/6" in said  # steps of both epochs
    assert "epoch 1/2, training loss" in said
    assert f"epoch 2/2, training loss {history.train_loss[1]:.1f}"[:-1] in said
    assert f"validation loss {history.val_loss[0]:.3f}, auc {history.val_auc[0]:.3f}" in said


@pytest.mark.parametrize("precision", ["bf16", "32"])
def test_validation_embeds_in_the_precision_of_the_training(tmp_path, monkeypatch, precision):
    model, seen = build(), []
    embed = type(model).embed

    def watched(self, faces):
        if not self.training:
            seen.append(torch.is_autocast_enabled("cpu"))
        return embed(self, faces)

    monkeypatch.setattr(type(model), "embed", watched)
    train(tmp_path, model, epochs=1, precision=precision)
    assert seen and set(seen) == {precision == "bf16"}


def test_a_trained_model_is_of_the_size_it_was_trained_on(tmp_path):
    assert build().image_size is None
    assert train(tmp_path, build(image_size=32)).model.image_size == 16
    assert load_model(tmp_path).image_size == 16


def test_loading_names_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="holds no finished model"):
        load_model(tmp_path / "nothing")
    train(tmp_path)
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
