"""Two photos in, who is older out: ``compare(left, right)``, albums, and the command.

    python -m utkcmp.compare LEFT RIGHT

Faces are found and aligned (``alignment``), and a trained model answers (``answering``).
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from scipy.special import expit

from utkcmp.compare.alignment import POINTS
from utkcmp.compare.photos import NoAnswerError, Photo, PhotoError, Seen, faces_in, only_face
from utkcmp.compare.predictor import Predictor, find_model
from utkcmp.processes import in_processes

BAND = 0.6  # a confidence below it is too close to call: of ten such answers four or more are wrong
TOO_CLOSE = "too close to call"


@dataclass(frozen=True)
class Comparison:
    """The answer to one pair.

    probability: that left is older, 0 to 1; calibrated: whether it may be read as a frequency.
    band: the confidence below which the answer is ``TOO_CLOSE``. ages: predicted, years, left and
    right; None unless they were asked for.
    """

    left: Seen
    right: Seen
    probability: float
    calibrated: bool
    band: float = BAND
    ages: tuple[float, float] | None = None

    @property
    def confidence(self) -> float:
        """The probability of the side that looks older, 0.5 to 1."""
        return max(self.probability, 1 - self.probability)

    @property
    def answer(self) -> str:
        """``left``, ``right`` (who is older) or ``TOO_CLOSE``."""
        if self.confidence < self.band or self.probability == 0.5:
            return TOO_CLOSE
        return "left" if self.probability > 0.5 else "right"

    def __str__(self) -> str:
        side = "left" if self.probability > 0.5 else "right"
        called = f"{TOO_CLOSE} ({side}, " if self.answer == TOO_CLOSE else f"{side} is older ("
        text = f"{called}{self.confidence:.0%})".replace("%", " %")
        if not self.calibrated:
            text = text.replace(" %", " %, not calibrated")
        if self.ages:
            text += " (ages: left about {:.0f}, right about {:.0f})".format(*self.ages)
        return text

    def as_dict(self) -> dict:
        ages = dict(zip(("left", "right"), self.ages, strict=True)) if self.ages else None
        return {
            "answer": self.answer,
            "confidence": self.confidence,
            "probability_left_older": self.probability,
            "calibrated": self.calibrated,
            "band": self.band,
            "left": self.left.as_dict(),
            "right": self.right.as_dict(),
        } | ({"ages": ages} if ages else {})


@dataclass(frozen=True)
class Order:
    """Faces from the youngest to the oldest.

    steps: float64 (N - 1,), the probability that face i + 1 is older than face i. ages: predicted,
    years, (N,); None unless they were asked for.
    """

    faces: list[Seen]
    steps: np.ndarray
    calibrated: bool
    band: float = BAND
    ages: np.ndarray | None = None

    @property
    def uncertain(self) -> np.ndarray:
        """bool (N - 1,): where a face and the next are too close to call."""
        return self.steps < self.band

    def __str__(self) -> str:
        width = max(len(face.name) for face in self.faces)
        lines = ["youngest first; ≈ is too close to call with the one above"]
        for place, face in enumerate(self.faces):
            close = place and self.uncertain[place - 1]
            line = f"{'≈' if close else ' '} {place + 1:2}  {face.name:{width}}"
            if place:
                line += f"  {self.steps[place - 1]:4.0%}".replace("%", " %")
            if self.ages is not None:
                line += f"  about {self.ages[place]:.0f}"
            lines.append(line.rstrip())
        return "\n".join(lines + ([] if self.calibrated else ["confidences are not calibrated"]))

    def as_dict(self) -> dict:
        found = {
            "youngest_to_oldest": [face.as_dict() for face in self.faces],
            "next_is_older": self.steps.tolist(),
            "too_close_to_call": self.uncertain.tolist(),
            "calibrated": self.calibrated,
            "band": self.band,
        }
        return found | ({} if self.ages is None else {"ages": self.ages.tolist()})


def compare(
    left: Photo,
    right: Photo,
    model: str | Path | Predictor | None = None,
    *,
    force: bool = False,
    ages: bool = False,
    aligned: bool = False,
) -> Comparison:
    """Who is older, the person in the left or in the right photo?

    left, right: as for ``photos.read_photo``. model: the folder of a trained model, or one that is
    loaded; None takes ``answering.find_model``'s. force: name a side even if it is too close to
    call. ages: state predicted ages. aligned: the photos are finished crops.
    The answer is the same whichever photo comes first. Raises PhotoError for a photo that cannot be
    read, NoAnswerError for a question without answer, ValueError for a folder without model.
    """
    predictor = load(model)
    faces = [only_face(photo, aligned, predictor.frame) for photo in (left, right)]
    return compare_faces(*faces, predictor, force=force, ages=ages)


def compare_many(
    pairs: str | Path | Iterable[tuple[Photo, Photo]],
    model: str | Path | Predictor | None = None,
    *,
    force: bool = False,
    ages: bool = False,
    aligned: bool = False,
) -> list[Comparison | ValueError]:
    """``compare`` for many pairs at once: each photo is read, and each face embedded, only once.

    pairs: pairs of photos, or a folder, of which all pairs of its files are taken in order of their
    names. Returns one item a pair; where a pair has no answer, the error in its place.
    """
    if isinstance(pairs, str | Path):
        pairs = itertools.combinations(_files(Path(pairs)), 2)
    pairs, predictor = list(pairs), load(model)
    photos = {_key(photo): photo for pair in pairs for photo in pair}
    looked = in_processes(
        partial(_only_crop, aligned, predictor.frame), photos.values(), len(photos)
    )
    found = dict(zip(photos, looked, strict=True))
    asked = [tuple(found[_key(photo)] for photo in pair) for pair in pairs]
    problems = [_problem(*pair) for pair in asked]
    able = [pair for pair, problem in zip(asked, problems, strict=True) if problem is None]
    answers = iter(_answers(able, predictor, force, ages))
    return [next(answers) if problem is None else problem for problem in problems]


def put_in_order(
    photos: Sequence[Photo],
    model: str | Path | Predictor | None = None,
    *,
    every: bool = False,
    force: bool = False,
    ages: bool = False,
    aligned: bool = False,
) -> Order:
    """The faces of several photos, or of one, from the youngest to the oldest.

    every: take all faces of each photo; without it, each of several photos must show one face.
    Other arguments and errors as for ``compare``.
    """
    predictor = load(model)
    faces = album(photos, every, aligned, predictor.frame)
    return order_faces(faces, predictor, force=force, ages=ages)


def album(
    photos: Sequence[Photo], every: bool = False, aligned: bool = False, frame: np.ndarray = POINTS
) -> list[Seen]:
    """The faces of ``put_in_order``. Raises NoAnswerError if there is only one."""
    if every or len(photos) == 1:
        faces = [face for photo in photos for face in faces_in(photo, every, aligned, frame)]
    else:
        faces = [only_face(photo, aligned, frame) for photo in photos]
    if len(faces) < 2:
        raise NoAnswerError(f"{faces[0].name} shows one face: expected two or more to compare")
    return faces


def compare_faces(
    left: Seen, right: Seen, predictor: Predictor, *, force: bool = False, ages: bool = False
) -> Comparison:
    """``compare`` for faces that have been found."""
    if problem := _problem(left, right):
        raise problem
    return _answers([(left, right)], predictor, force, ages)[0]


def order_faces(
    faces: list[Seen], predictor: Predictor, *, force: bool = False, ages: bool = False
) -> Order:
    """``put_in_order`` for two or more faces that have been found.

    They are ordered by their mean logit against all others; for a model that scores faces and
    compares the scores, that is their order by score.
    """
    brought, predicted = _embedded(faces, predictor, ages)
    left, right = np.triu_indices(len(faces), 1)
    logits = np.zeros((len(faces), len(faces)))
    logits[left, right] = predictor.logits(brought[left], brought[right])
    logits -= logits.T
    order = np.argsort(logits.sum(1), kind="stable")
    return Order(
        [faces[place] for place in order],
        expit(logits[order[1:], order[:-1]]),
        predictor.calibration.pairs > 0,
        0.5 if force else BAND,
        None if predicted is None else predicted[order],
    )


def load(model: str | Path | Predictor | None) -> Predictor:
    """A model by its folder, by default ``find_model``'s; one that is loaded is given back.

    The last two folders are kept loaded, until one of their files changes.
    """
    if isinstance(model, Predictor):
        return model
    folder = Path(model or find_model())
    stats = [(path.name, path.stat()) for path in sorted(folder.glob("*"))]
    return _loaded(folder, tuple((name, one.st_mtime_ns, one.st_size) for name, one in stats))


@lru_cache(maxsize=2)
def _loaded(folder: Path, files: tuple) -> Predictor:
    return Predictor(folder)


def _answers(
    pairs: list[tuple[Seen, Seen]], predictor: Predictor, force: bool, ages: bool
) -> list[Comparison]:
    if not pairs:
        return []
    faces = {id(face): face for pair in pairs for face in pair}
    places = {key: place for place, key in enumerate(faces)}
    brought, predicted = _embedded(list(faces.values()), predictor, ages)
    rows = np.array([[places[id(face)] for face in pair] for pair in pairs])
    probabilities = expit(predictor.logits(brought[rows[:, 0]], brought[rows[:, 1]]))
    told = [None] * len(pairs) if predicted is None else map(tuple, predicted[rows].tolist())
    known, band = predictor.calibration.pairs > 0, 0.5 if force else BAND
    return [
        Comparison(*pair, float(probability), known, band, both)
        for pair, probability, both in zip(pairs, probabilities, told, strict=True)
    ]


def _embedded(faces: list[Seen], predictor: Predictor, ages: bool) -> tuple:
    if ages and not predictor.has_ages:
        raise NoAnswerError(
            f"the model {predictor.folder.name} tells no ages: expected one with an age regressor"
        )
    brought, predicted = predictor.embed([face.crop for face in faces])
    return brought, predicted if ages else None


def _problem(left: Seen | ValueError, right: Seen | ValueError) -> ValueError | None:
    """Why two faces cannot be compared; None if they can."""
    for side in (left, right):
        if isinstance(side, ValueError):
            return side
    if left.crop.size == right.crop.size and left.crop.tobytes() == right.crop.tobytes():
        return NoAnswerError(f"{left.name} and {right.name} are the same picture: expected two")
    return None


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise PhotoError(f"{folder} cannot be read ({reason}): expected a folder") from None


def _key(photo: Photo):
    """What tells photos apart without reading them."""
    return photo if isinstance(photo, str | Path | bytes) else id(photo)


def _only_crop(aligned: bool, frame: np.ndarray, photo: Photo) -> Seen | ValueError:
    """The one face of a photo without the photo, or the error that says why there is none."""
    try:
        return replace(only_face(photo, aligned, frame), photo=None)
    except (PhotoError, NoAnswerError) as error:
        return error
