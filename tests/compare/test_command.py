"""The command: its answers, exit status, output streams and side effects."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import wait_for
from PIL import Image
from test_photos import SVG, VIDEO, bomb

from utkcmp.compare import compare
from utkcmp.compare.answers import TOO_CLOSE
from utkcmp.compare.command import main
from utkcmp.run import PROJECT


def run(*arguments, capsys):
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_the_command_answers(photos, outputs_here, capsys):
    status, out, err = run(photos / "0.png", photos / "1.png", capsys=capsys)
    expect = compare(photos / "0.png", photos / "1.png")
    lines = out.splitlines()
    assert status == 0 and err == "" and lines[0] == str(expect)
    assert "drawn faces, this model says nothing" in lines[1]


def test_the_full_answer_and_a_figure(photos, outputs_here, capsys, tmp_path):
    figure = tmp_path / "answer.png"
    pair = photos / "0.png", photos / "1.png"
    status, out, _ = run(*pair, "--json", "--force", "--save", figure, capsys=capsys)
    got = json.loads(out)
    assert status == 0 and got["band"] == 0.5 and got["answer"] in ("left", "right")
    assert got["confidence"] >= 0.5 and got["left"]["file"] == str(pair[0])
    assert len(got["right"]["box"]) == 4 and got["calibrated"] and got["model_saw_only_drawings"]
    assert Image.open(figure).size[0] > 500


def test_what_cannot_be_drawn_takes_no_answer_away(photos, outputs_here, capsys, tmp_path):
    pair = photos / "0.png", photos / "1.png"
    status, out, err = run(*pair, "--save", tmp_path / "answer.txt", capsys=capsys)
    assert status == 1 and out == "" and "expected a name in .png" in err  # checked before any work
    (tmp_path / "file").touch()
    for options in ((), ("--json",)):
        status, out, err = run(*pair, *options, "--save", tmp_path / "file/a.png", capsys=capsys)
        assert status == 1 and len(err.splitlines()) == 1
        assert json.loads(out)["answer"] if options else "(" in out
    (tmp_path / "folder.png").mkdir()
    status, out, err = run(*pair, "--save", tmp_path / "folder.png", capsys=capsys)
    assert (status, err) == (1, f"utkcmp.compare: {tmp_path}/folder.png: is a directory\n")


def test_an_album_in_pages_and_as_a_table(photos, outputs_here, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("utkcmp.compare.figures.PAGE", 2)
    names = [photos / f"{number}.png" for number in range(3)]
    status, out, _ = run(*names, "--save", tmp_path / "order.png", capsys=capsys)
    assert status == 0 and len(out.splitlines()) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["order-2.png", "order.png"]
    status, out, _ = run(*names, "--csv", capsys=capsys)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["too_close_to_call"] for row in rows][0] == "False" and status == 0
    assert [bool(row["older_than_previous"]) for row in rows] == [False, True, True]
    assert {row["file"] for row in rows} == set(map(str, names))
    status, out, _ = run(*names[:2], "--csv", capsys=capsys)
    row = next(csv.DictReader(io.StringIO(out)))
    assert row["answer"] in ("left", "right", TOO_CLOSE) and row["left.file"] == str(names[0])


def test_a_group_photo_is_drawn_with_numbers(photos, outputs_here, capsys, tmp_path):
    """Faces have the same numbers in the answer and in the figure."""
    from utkcmp.compare.answers import put_in_order
    from utkcmp.compare.figures import group_figure

    path = tmp_path / "group.svg"
    status, out, _ = run(photos / "group.png", "--json", "--save", path, capsys=capsys)
    got = json.loads(out)
    assert status == 0 and len(got["youngest_to_oldest"]) == 3 and path.exists()
    figure = group_figure(put_in_order([photos / "group.png"]))
    texts = {text.get_text(): text.get_position()[0] for text in figure.axes[0].texts}
    for face in got["youngest_to_oldest"]:
        assert texts[face["file"][-2:]] == pytest.approx(face["box"][0], abs=1)
    listed = [face["file"][-2:] for face in got["youngest_to_oldest"]]
    title = figure.axes[0].get_title(loc="center") or figure.axes[0].get_title(loc="left")
    assert [part for part in title.split() if part.startswith("#")] == listed


@pytest.mark.parametrize(
    "names, options, status, said",
    [
        (("0.png", "wall.png"), (), 2, "no face was found in"),
        (("0.png", "group.png"), (), 2, "shows 3 faces: expected one"),
        (("0.png", "0.png"), (), 2, "are the same picture: expected two"),
        (("0.png",), (), 2, "only one face"),
        (("0.png", "1.png"), ("--ages",), 2, "does not predict ages"),
        (("0.png", "missing.png"), (), 1, "no such file"),
        (("0.png", "1.png"), ("--model", "nowhere"), 1, "holds no finished model"),
        ((), (), 1, "no photo is given"),
    ],
)
def test_the_exit_status(photos, outputs_here, capsys, names, options, status, said):
    paths = [photos / name for name in names]
    got, out, err = run(*paths, *options, capsys=capsys)
    assert got == status and said in err and len(err.splitlines()) == 1 and out == ""
    got, out, _ = run(*paths, *options, "--json", capsys=capsys)
    assert got == status and said in json.loads(out)["reason"]


def test_a_folder_whose_bad_photos_are_named_and_skipped(photos, outputs_here, capsys):
    status, out, err = run(photos, capsys=capsys)
    assert status == 3 and len([line for line in out.splitlines() if ".png" in line]) == 6
    skipped = err.splitlines()
    assert len(skipped) == 2 and "shows 3 faces" in skipped[0] and "wall.png" in skipped[1]


def test_what_a_folder_holds_that_cannot_be_opened_is_named(photos, outputs_here, capsys, tmp_path):
    for number in (0, 1):
        shutil.copy(photos / f"{number}.png", tmp_path)
    (tmp_path / "below").mkdir()
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    status, _, err = run(tmp_path, capsys=capsys)
    assert status == 3 and [line.split(tmp_path.name)[1][:5] for line in err.splitlines()] == [
        "/gone",
        "/loop",
        "/pipe",
    ]


def test_the_largest_face(photos, outputs_here, capsys):
    status, out, _ = run(photos / "0.png", photos / "group.png", "--largest", capsys=capsys)
    assert status == 0 and "%" in out


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "is empty, zero bytes"),
        (b"text", "is not an image"),
        (VIDEO, "is not an image"),
        (SVG, "is not an image"),
        (bomb(), "is too large"),
    ],
    ids=["empty", "text", "video", "SVG", "60,000 x 60,000"],
)
def test_a_file_that_is_no_photo_ends_the_command(
    photos, outputs_here, capsys, tmp_path, content, said
):
    path = tmp_path / "no photo, keine Aufnahme für uns.jpg"
    path.write_bytes(content)
    status, out, err = run(photos / "0.png", path, capsys=capsys)
    assert status == 1 and out == "" and len(err.splitlines()) == 1
    assert f"{path} {said}" in err and "expected" in err


def test_two_paths_to_one_file(photos, outputs_here, capsys, tmp_path):
    (tmp_path / "link.png").symlink_to(photos / "0.png")
    status, _, err = run(photos / "0.png", tmp_path / "link.png", capsys=capsys)
    assert status == 2 and "are the same picture" in err


def test_an_unknown_option_is_an_error_not_a_question(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--no-such-option"])
    assert caught.value.code == 1


def test_the_help_states_the_band_and_every_status(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "below 60% are" in said and all(f" {status} " in said for status in range(4))


def test_the_exported_model_is_the_same(photos, outputs_here, predictor, tmp_path, capsys, tiny):
    from utkcmp.compare.session import session
    from utkcmp.data.decode import resize

    path = tmp_path / "predictor.onnx"
    status, out, _ = run("--export", path, capsys=capsys)
    assert status == 0 and "differs from PyTorch" in out
    assert "inputs: left and right, uint8 (B, 3, 32, 32)" in out and "output: logit" in out
    shutil.move(path, tmp_path / "elsewhere.onnx")  # it needs no other file
    expect = compare(photos / "0.png", photos / "1.png", predictor)
    left, right = (resize(side.crop, 32)[None] for side in (expect.left, expect.right))
    graph = session(tmp_path / "elsewhere.onnx")
    logit = graph.run(None, {"left": left, "right": right})[0]
    assert 1 / (1 + np.exp(-logit[0])) == pytest.approx(expect.probability, abs=1e-4)
    many = {"left": np.repeat(left, 3, 0), "right": np.repeat(right, 3, 0)}
    assert graph.run(None, many)[0] == pytest.approx(np.repeat(logit, 3), abs=1e-3)


# ---- as a separate process -----------------------------------------------------------------------


def started(*arguments, prefix=(), encoding="utf-8", **options):
    command = [*prefix, sys.executable, "-m", "utkcmp.compare", *map(str, arguments)]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(PROJECT)}
    environment |= options.pop("env", {})
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment, **options)


def test_what_is_slow_to_import_stays_out(photos, outputs_here):
    heavy = {"torch", "lightning", "matplotlib", "onnxruntime", "cv2"}
    code = (
        "import sys, contextlib, utkcmp.compare, utkcmp.compare.command as c\n"
        f"with contextlib.suppress(SystemExit): c.main(['--help'])\nheavy = {heavy}\n"
        "print(heavy & set(sys.modules), file=sys.stderr)\nstatus = c.main(sys.argv[1:])\n"
        "print(heavy & set(sys.modules) - {'onnxruntime', 'cv2'}, status, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, photos / "0.png", photos / "1.png"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.stderr == "set()\nset() 0\n", done.stderr


def test_signs_that_the_terminal_has_not(photos, outputs_here, tmp_path):
    shutil.copy(photos / "0.png", tmp_path / "Grüße 祖母.png")
    photo = tmp_path / "Grüße 祖母.png"
    out, err = started(photo, photos / "1.png", "--json", encoding="ascii").communicate()
    assert json.loads(out)["left"]["file"] == str(photo) and err == b""
    names = [photo, *(photos / f"{number}.png" for number in (1, 2))]
    out, err = started(*names, encoding="latin-1").communicate()
    assert len(out.splitlines()) == 5 and err == b"" and b"~ is too close" in out


def test_a_closed_pipe_and_ctrl_c_are_no_tracebacks(photos, outputs_here):
    names = [photos / "0.png", photos / "1.png"]
    closed = started(*names, "--json")
    closed.stdout.close()
    assert closed.stderr.read() == b"" and closed.wait() == 0
    long = started(*names * 200)
    maps = Path(f"/proc/{long.pid}/maps")
    wait_for(lambda: "onnxruntime" in maps.read_text())  # detection is running
    long.send_signal(signal.SIGINT)
    assert long.communicate() == (b"", b"utkcmp.compare: interrupted\n")
    assert long.returncode == 130


def test_ctrl_c_while_onnxruntime_is_loaded_is_one(monkeypatch, tmp_path):
    """Its library makes another error of it, after which the whole answer followed."""
    from utkcmp.compare.session import session

    swallows = "try:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n    pass"
    module = f"import os, signal\n{swallows}"
    (tmp_path / "onnxruntime.py").write_text(module)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        session(tmp_path / "face.onnx")


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)], ids=["text", "JSON", "CSV"])
def test_a_full_disk_and_a_closed_output_are_no_tracebacks(photos, outputs_here, form):
    names = [photos / "0.png", photos / "1.png"]
    command = [sys.executable, "-m", "utkcmp.compare", *names, *form]
    for where, status, said in (
        (">/dev/full", 1, b"utkcmp.compare: no space left on device\n"),
        (">&-", 0, b""),
    ):
        shell = ["sh", "-c", f'"$@" {where}', "sh", *command]
        done = subprocess.run(shell, cwd=PROJECT, capture_output=True)
        assert (done.returncode, done.stderr) == (status, said)


def test_onnxruntime_is_imported_in_one_place():
    """In a package that first disables its telemetry."""
    code = {path: path.read_text() for path in (PROJECT / "utkcmp").rglob("*.py")}
    loads = [
        path for path, text in code.items() if re.search(r"^ *import onnxruntime$", text, re.M)
    ]
    assert loads == [PROJECT / "utkcmp" / "compare" / "session.py"]
    assert 'environ["ORT_DISABLE_TELEMETRY"] = "1"' in (loads[0].parent / "__init__.py").read_text()


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_nothing_leaves_the_machine_and_no_file_is_left(photos, outputs_here, tmp_path):
    """Traced with an album whose long names used to crash onnxruntime's telemetry."""
    log, home = tmp_path / "log", tmp_path / "home"
    home.mkdir()
    watch = ["strace", "-f", "-qq", "-e", "trace=connect,openat,mkdir", "-o", log]
    names = [photos / "0.png", photos / "1.png"]
    names += [photos / ("./" * 500 + "0.png")] * 36
    places = {"HOME": str(home), "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(home)}
    process = started(*names, prefix=watch, env=places, cwd=tmp_path)
    out, err = process.communicate()
    assert process.returncode == 0, err
    calls = log.read_text().splitlines()
    assert not [line for line in calls if "connect(" in line and "AF_INET" in line]
    written = [line for line in calls if "O_CREAT" in line or "mkdir(" in line]
    ours = (str(outputs_here), "__pycache__", "/dev/", "/proc/")
    assert not [line for line in written if not any(place in line for place in ours)]
    assert list(home.iterdir()) == []


def test_a_very_wide_photo_has_an_answer(photos, outputs_here, capsys, tmp_path):
    wide = Image.new("RGB", (33_000, 240), "grey")
    wide.paste(Image.open(photos / "0.png").convert("RGB").resize((200, 200)), (15_000, 20))
    wide.save(tmp_path / "wide.png")
    three = photos / "0.png", photos / "1.png", tmp_path / "wide.png"
    status, out, err = run(*three, "--csv", capsys=capsys)
    assert status == 0 and err == "" and "wide.png" in out


def test_an_empty_folder_among_photos_is_skipped(photos, outputs_here, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    named = photos / "0.png", tmp_path / "empty", photos / "1.png"
    status, out, err = run(*named, capsys=capsys)
    assert status == 3 and "skipped: " in err and "holds no file" in err and "1.png" in out


def test_photos_that_all_cannot_be_read_are_an_error(outputs_here, capsys):
    status, _, err = run("no1.png", "no2.png", "no3.png", capsys=capsys)
    assert status == 1 and "no photo can be read" in err and "no1.png" in err


def test_options_may_stand_between_photos(photos, outputs_here, capsys):
    status, out, _ = run(photos / "0.png", "--force", photos / "1.png", capsys=capsys)
    assert status == 0 and "is older" in out
    again = run("--force", "--", photos / "0.png", photos / "1.png", capsys=capsys)
    assert again[:2] == (0, out)


def test_a_photo_is_not_overwritten_by_the_figure(photos, outputs_here, capsys, tmp_path):
    mine = shutil.copy(photos / "0.png", tmp_path / "mine.png")
    before = Path(mine).read_bytes()
    status, out, err = run(mine, photos / "1.png", "--save", mine, capsys=capsys)
    assert status == 1 and "is one of the photos" in err and "(" in out
    assert Path(mine).read_bytes() == before
