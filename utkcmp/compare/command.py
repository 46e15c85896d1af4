"""The command: ``python -m utkcmp.compare LEFT RIGHT``."""

import argparse
import json
import sys
from collections.abc import Sequence

from utkcmp.compare.answers import BAND, album, compare_faces, load, order_faces
from utkcmp.compare.photos import NoAnswerError, only_face
from utkcmp.compare.predictor import find_model


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 an answer, 2 none, 1 an error."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except NoAnswerError as error:
        return _fail(options, error, 2)
    except (ValueError, OSError, RuntimeError) as error:
        return _fail(options, error, 1)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m utkcmp.compare",
        description="Who is older? Two photos are compared; more, or one with several faces, are "
        "put in order from the youngest to the oldest.",
        epilog="Exit status: 0 an answer, 2 a question without answer (no face, several faces), "
        "1 an error. Confidences below "
        f"{BAND:.0%} are too close to call; of two people, not of how old they are.".replace(
            "%", " %%"
        ),
    )
    add = parser.add_argument
    add("photos", nargs="*", metavar="PHOTO", help="photos of any size; faces are found")
    add("--model", metavar="FOLDER", help="a trained model, outputs/<run>/models/<name>")
    add("--all", action="store_true", help="put all faces of all photos in order")
    add("--force", action="store_true", help="name a side even if it is too close to call")
    add("--ages", action="store_true", help="state predicted ages, if the model has some")
    add("--aligned", action="store_true", help="the photos are finished crops: look for no face")
    add("--json", action="store_true", help="print the full answer as JSON")
    add("--save", metavar="FIGURE.png", help="draw the faces and the answer")
    add("--export", metavar="MODEL.onnx", help="write the model as ONNX")
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):  # argparse would exit with 2, which here means: no answer
        self.exit(1, f"utkcmp.compare: {message}; see --help\n")


def _fail(options: argparse.Namespace, error: Exception, status: int) -> int:
    if options.json:
        print(json.dumps({"answer": None, "reason": str(error)}, ensure_ascii=False))
    print(f"utkcmp.compare: {error}", file=sys.stderr)
    return status


def _run(options: argparse.Namespace) -> None:
    if not options.photos and not options.export:
        raise ValueError("no photo is given: expected LEFT RIGHT; see --help")
    if options.photos:
        _answer(options)
    if options.export:
        from utkcmp.compare.onnx_export import export  # with PyTorch, which takes seconds to start

        apart = export(options.model or find_model(), options.export)
        print(f"{options.export} written; differs from PyTorch by {apart:.1e} at most")


def _answer(options: argparse.Namespace) -> None:
    """Answer, draw if asked to, and print."""
    predictor = load(options.model)
    how = {"force": options.force, "ages": options.ages}
    if len(options.photos) == 2 and not options.all:
        faces = [only_face(one, options.aligned, predictor.frame) for one in options.photos]
        answer = compare_faces(*faces, predictor, **how)
    else:
        faces = album(options.photos, options.all, options.aligned, predictor.frame)
        answer = order_faces(faces, predictor, **how)
    if options.save:
        from utkcmp.compare.figures import save_answer  # with matplotlib, which takes a second

        save_answer(answer, options.save)
    drawn = predictor.calibration.drawn
    if options.json:
        full = answer.as_dict() | {"model": str(predictor.folder), "model_saw_only_drawings": drawn}
        print(json.dumps(full, indent=2, ensure_ascii=False))
        return
    print(answer)
    if drawn:
        print("note: this model has seen drawn faces only, it knows nothing of people")
