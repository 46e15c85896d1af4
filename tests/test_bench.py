import json
import time

import numpy as np
import pytest
import torch

from benchmarks import bench, faces, learning, networks, rows
from utkcmp.data.synthetic import draw_sample


def test_a_rows_ratio_is_the_median_of_the_rounds():
    rounds = [(1.0, 2.0), (10.0, 40.0), (4.0, 12.0)]  # ratios 2, 4 and 3
    got = rows.faster("evaluating", rounds, least=3)
    assert got == {
        "name": "evaluating",
        "ours": 4.0,
        "against": 12.0,
        "unit": "s",
        "ratio": 3.0,
        "target": "at least 3",
        "holds": True,
    }
    assert not rows.faster("evaluating", rounds, least=3.1)["holds"]


def test_a_rate_is_the_share_of_the_others():
    got = rows.rate("training", [(2.0, 1.9)], amount=380, unit="faces/s", least=0.95)
    assert (got["ours"], got["against"], got["ratio"], got["holds"]) == (190, 200, 0.95, True)
    assert not rows.rate("training", [(2.0, 1.9)], 380, "faces/s", least=0.96)["holds"]


def test_a_bound_holds_up_to_its_value():
    assert rows.slower("all pairs", [(3.0, 2.0)], most=1.5)["holds"]
    assert not rows.slower("all pairs", [(3.1, 2.0)], most=1.5)["holds"]
    assert rows.bound("memory", 4.0, 4, "GB")["holds"]
    assert not rows.bound("memory", 4.1, 4, "GB")["holds"]


def test_sides_take_turns_and_the_first_turn_does_not_count(monkeypatch):
    called, times = [], iter(np.arange(100.0))
    monkeypatch.setattr(rows, "clock", lambda: next(times))
    got = rows.in_turn(lambda: called.append("ours"), lambda: called.append("against"), rounds=2)
    assert called == ["ours", "against"] * 3 and got == [(1.0, 1.0)] * 2


def test_memory_is_measured_in_a_process_of_its_own():
    took, added, peak = rows.measured(np.ones, 300 * 10**6, np.uint8)
    assert took > 0 and 290 < added < 500 and peak > added


def test_the_solver_and_the_bare_network_take_turns(tiny):
    (got,) = networks.training_rows(size=16, steps=2, batch=8, rounds=2)
    assert got["unit"] == "faces/s" and got["target"] == "at least 0.95"
    assert got["ours"] > 0 and got["against"] > 0


def test_the_bare_network_trains_all_its_weights(tiny):
    model = networks.build_model("SiameseResNet")
    before = [weight.detach().clone() for weight in model.parameters()]
    networks.bare_steps(model, size=16, batch=12, steps=2)()
    assert not any(map(torch.equal, model.parameters(), before))


def test_an_evaluation_face_by_face_gives_the_same_logits(tiny):
    timed, apart, whole = networks.evaluation_rows(faces=60, count=200, rounds=1)
    assert apart["holds"] and apart["ours"] < 1e-4
    assert timed["target"] == "at least 3" and whole["target"] == "at most 1.5"


def test_the_frozen_epoch_is_scaled_to_all_pairs(tiny):
    (got,) = networks.transfer_rows(pairs=512, part=128, size=16, rounds=1)
    assert "timed on 128 pairs" in got["name"] and got["ratio"] > 0


def test_the_cache_beats_decoding():
    (got,) = faces.decoding_rows(faces=50, pairs=256, part=32, size=32, rounds=1)
    assert got["holds"], got


def test_a_full_run_takes_a_folder_anywhere(tiny, outputs, tmp_path):
    source = draw_sample(tmp_path / "faces", n=60)
    faces.full_run(str(source), str(tmp_path / "run"), size=16, steps=1)
    assert (tmp_path / "run" / "model" / "config.json").exists()


def test_utilisation_is_the_mean_of_what_nvidia_smi_says(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 90\necho 100\necho 95\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert networks.utilisation(lambda: time.sleep(1)) == 95


def test_the_steps_to_an_auc_are_counted(tiny, small_run):
    _, data = small_run
    steps, each, reached = learning.time_to_auc(data, "batch", auc=0.0)
    assert steps == learning.STEPS and each > 0 and reached
    steps, _, reached = learning.time_to_auc(data, "list", auc=1.1, most=2 * learning.STEPS)
    assert steps == 2 * learning.STEPS and not reached


def test_fixed_pairs_are_given_up_where_the_answer_is_known(monkeypatch):
    asked = {"batch": (100, 0.5, True), "list": (300, 0.4, False)}
    monkeypatch.setattr(learning, "prepared_run", lambda *_: None)
    monkeypatch.setattr(learning, "time_to_auc", lambda data, pairing, *_: asked[pairing])
    (got,) = learning.learning_rows("faces")
    assert got["ratio"] == 2.4 and not got["holds"]
    assert "not reached by fixed ones in 300 steps" in got["name"]
    asked["list"] = (290, 0.5, True)
    assert learning.learning_rows("faces")[0]["holds"]
    asked["batch"] = (5000, 0.5, False)
    with pytest.raises(RuntimeError, match="did not reach a validation AUC of 0.93 in 5000 steps"):
        learning.learning_rows("faces")


def test_the_table_is_printed_and_kept(outputs, monkeypatch, capsys):
    kept = [rows.bound("memory", np.float32(1.0), 4, "GB"), rows.bound("time", 2.0, 1, "s")]
    monkeypatch.setattr(bench, "GROUPS", {"one": lambda: kept[:1], "two": lambda: kept[1:]})
    assert bench.main(["one"]) == 0 and bench.main(["one", "two"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].endswith("holds") and lines[-1].endswith("FALLS SHORT")
    written = json.loads((outputs / "bench.json").read_text())
    monkeypatch.setattr(bench, "GROUPS", {"one": lambda: kept[:1], "broken": lambda: 1 / 0})
    with pytest.raises(ZeroDivisionError):
        bench.main([])
    assert json.loads((outputs / "bench.json").read_text())["rows"] == kept[:1]
    assert written["rows"] == kept and written["machine"]["cores"] >= 1


def test_the_page_on_speed_gets_the_table(outputs, monkeypatch, tmp_path):
    kept = [rows.bound("memory", 441.237, 1000, "MB"), rows.bound("time", 2.0, 1, "s")]
    monkeypatch.setattr(bench, "GROUPS", {"one": lambda: kept})
    monkeypatch.setattr(bench, "PROJECT", tmp_path)
    readme = tmp_path / "docs" / "speed.md"
    readme.parent.mkdir()
    readme.write_text(f"before\n{bench.BEGIN}\nold\n{bench.END}\nafter\n")
    bench.main(["one", "--readme"])
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| memory | 441 MB | 1000 MB | 0.441 | at most 1 |" in text
    assert "| time | 2 s | 1 s | 2 | at most 1: **falls short** |" in text


def test_rows_of_another_name_are_refused(monkeypatch, capsys):
    monkeypatch.delenv("UTKFACE", raising=False)
    with pytest.raises(SystemExit):
        bench.main(["training", "memory"])
    assert "no rows are called memory: expected pairs, " in capsys.readouterr().err
