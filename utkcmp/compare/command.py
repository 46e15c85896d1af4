"""The command: ``utkcmp-compare LEFT RIGHT``, or ``python -m utkcmp.compare``."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from utkcmp import compare

FIGURES = (".png", ".jpg", ".svg", ".pdf")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, documented in ``--help``."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # the terminal may lack characters of a name
            stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    plain = given.index("--") if "--" in given else len(given)
    options = _parser().parse_intermixed_args(given[:plain])
    options.photos += given[plain + 1 :]  # names that may begin with a dash
    try:
        return _run(options)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the reader has closed the pipe
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # OpenCV and onnxruntime raise their own
        reason = str(error) or "the memory of this machine is too small for these photos"
        if isinstance(error, OSError) and error.strerror:
            where = f"{error.filename}: " if error.filename else ""
            reason = where + error.strerror.lower()
        with contextlib.suppress(OSError):
            if options.json:
                print(json.dumps({"answer": None, "reason": reason}))
        return _fail(reason, 2 if isinstance(error, compare.NoAnswerError) else 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="utkcmp-compare",
        description="Who is older? Two photos are compared; more, a folder of photos, or one photo "
        "with several faces, are put in order from the youngest to the oldest.",
        epilog="Exit status: 0 an answer, 3 an answer with some photos skipped, 2 a question "
        "without answer (no face, several faces), 1 an error. Confidences below "
        f"{100 * compare.BAND:.0f}% are too close to call. The answer is about how old people "
        "look.",
    )
    # By default argparse exits with 2, which here means "no answer".
    parser.error = lambda message: parser.exit(_fail(f"{message}; see --help", 1))
    add = parser.add_argument
    add("photos", nargs="*", metavar="PHOTO", help="photos of any size, or folders of photos")
    add("--model", metavar="FOLDER", help="a trained model, outputs/<run>/models/<name>")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--largest", action="store_true", help="take the largest face of each photo")
    which.add_argument("--all", action="store_true", help="put all faces of all photos in order")
    add("--force", action="store_true", help="name a side even if it is too close to call")
    add("--ages", action="store_true", help="state predicted ages; the model must predict them")
    add("--aligned", action="store_true", help="the photos are finished crops: skip face detection")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the full answer as JSON")
    form.add_argument("--csv", action="store_true", help="print the answer as a table")
    add("--save", metavar="FIGURE.png", help="draw the faces and the answer")
    add("--export", metavar="MODEL.onnx", help="write the model as ONNX")
    return parser


def _fail(reason: str, status: int) -> int:
    with contextlib.suppress(OSError):
        print(f"utkcmp.compare: {reason}", file=sys.stderr)
    return status


def _run(options: argparse.Namespace) -> int:
    if not options.photos and not options.export:
        raise ValueError("no photo is given: expected LEFT RIGHT; see --help")
    if options.save and Path(options.save).suffix.lower() not in FIGURES:
        raise ValueError(f"{options.save} cannot be drawn: expected a name in {', '.join(FIGURES)}")
    predictor = compare.load(options.model)
    status = _answer(options, predictor) if options.photos else 0
    if options.export:
        from utkcmp.compare.onnx_export import export  # imports PyTorch, which takes seconds

        text = f"{options.export} written\n{export(predictor.folder, options.export)}"
        print(text, file=sys.stderr if options.json or options.csv else sys.stdout, flush=True)
    return status


def _answer(options: argparse.Namespace, predictor) -> int:
    """Answer and print, then draw if requested; returns the exit status."""
    how = {"force": options.force, "aligned": options.aligned}
    how["faces"] = "all" if options.all else "largest" if options.largest else "one"
    how["ages"] = options.ages or ((options.json or options.csv) and predictor.has_ages)
    photos, skipped = [], []
    for photo in options.photos:
        try:
            photos += compare.files_of(photo) if os.path.isdir(photo) else [photo]
        except compare.PhotoError as error:
            skipped.append(error)
    if skipped and len(photos) < 2:
        raise skipped[0]
    if len(photos) == 2 and photos == options.photos and not options.all:  # not from a folder
        answer = compare.compare(*photos, predictor, **how)
    else:
        answer = compare.put_in_order(photos, predictor, **how)
        answer.skipped.extend(skipped)
        skipped = answer.skipped
    _print(answer, options, predictor)
    options.json = False  # already printed: later errors go to stderr
    print(end="", flush=True)  # a write error ends the command here
    for error in skipped:
        _fail(f"skipped: {error}", 3)
    if options.save:
        there = [one for one in (*photos, options.save) if os.path.exists(one)]
        if options.save in there and any(os.path.samefile(one, options.save) for one in there[:-1]):
            raise ValueError(f"{options.save} is one of the photos: give the figure another name")
        from utkcmp.compare.figures import save_answer  # imports matplotlib, which takes a second

        save_answer(answer, options.save)
    return 3 if skipped else 0


def _print(answer, options: argparse.Namespace, predictor) -> None:
    """Print an answer as JSON, as a table (a row per face of an order) or, with ~ for ≈ if stdout
    cannot encode it, as text."""
    drawn, full = predictor.calibration.drawn, answer.as_dict()
    if options.json:
        full |= {"model": str(predictor.folder), "model_saw_only_drawings": drawn}
        print(json.dumps(full, indent=2))
    elif options.csv:
        import pandas as pd

        table = pd.json_normalize(full.get("youngest_to_oldest", full))
        if "answer" not in full:
            table["older_than_previous"] = [None, *full["next_is_older"]]
            table["too_close_to_call"] = [False, *full["too_close_to_call"]]
            table["calibrated"] = full["calibrated"]
        table["model_saw_only_drawings"] = drawn
        lists = [name for name in table if isinstance(table[name][0], list)]
        table.drop(columns=lists).to_csv(sys.stdout, index=False)
    else:
        text = str(answer)
        try:
            "≈".encode(getattr(sys.stdout, "encoding", None) or "ascii")
        except UnicodeEncodeError:
            text = text.replace("≈", "~")
        print(text)
        if drawn:
            print("note: trained on drawn faces, this model says nothing about people")
