"""The bench still measures this package: every group of rows, on few faces and tiny networks."""

import json
from functools import partial

from benchmarks import bench, faces, learning, networks, rows
from utkcmp.data import data_source


def test_the_rows_are_measured_printed_and_kept(tiny, outputs, monkeypatch, capsys, tmp_path):
    few = dict(size=16, rounds=1)
    groups = {
        "decoding": partial(faces.decoding_rows, faces=50, pairs=128, part=32, **few),
        "training": partial(networks.training_rows, steps=2, batch=8, **few),
        "evaluation": partial(networks.evaluation_rows, faces=60, count=200, rounds=1),
        "transfer": partial(networks.transfer_rows, pairs=256, part=128, **few),
        "bound": lambda: [rows.bound("memory", 441.237, 1000, "MB"), rows.bound("time", 2, 1, "s")],
    }
    readme = tmp_path / "docs" / "speed.md"
    readme.parent.mkdir()
    readme.write_text(f"before\n{bench.BEGIN}\nold\n{bench.END}\nafter\n")
    monkeypatch.setattr(bench, "GROUPS", groups)
    monkeypatch.setattr(bench, "PROJECT", tmp_path)
    monkeypatch.delenv("UTKFACE", raising=False)
    assert bench.main(["--readme"]) == 1  # the last row does not hold
    kept = json.loads((outputs / "bench.json").read_text())["rows"]
    assert len(kept) == 8 and all(one["against"] > 0 for one in kept)
    assert next(one for one in kept if "difference of logits" in one["name"])["holds"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].endswith("holds") and lines[-1].endswith("FALLS SHORT")
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| memory | 441 MB | 1,000 MB | 0.441 | at most 1 |" in text
    assert "| time | 2 s | 1 s | 2 | at most 1: **falls short** |" in text


def test_the_long_rows_train_as_a_run_does(tiny, small_run, tmp_path):
    _, data = small_run
    faces.full_run(str(data_source(data.params)), str(tmp_path / "run"), size=16, steps=1)
    assert (tmp_path / "run/model/config.json").exists()
    assert learning.time_to_auc(data, "batch", auc=0.0)[::2] == (learning.STEPS, True)
    assert learning.time_to_auc(data, "list", auc=1.1, most=50)[::2] == (50, False)
