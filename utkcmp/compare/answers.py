"""Who is older in two photos (``compare``), in many pairs of them, and the order of an album."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.special import expit

from utkcmp.compare import BAND
from utkcmp.compare.photos import NoAnswerError, Photo, PhotoError, Seen, faces_in, name_of
from utkcmp.compare.predictor import BATCH, Predictor, find_model
from utkcmp.files import percent
from utkcmp.processes import in_processes

TOO_CLOSE = "too close to call"
KEPT = 100  # pixels per side of an album's crops after embedding


@dataclass(frozen=True)
class Comparison:
    """The answer to one pair.

    probability: that left is older, 0 to 1; calibrated: whether it can be read as a frequency.
    band: below this confidence the answer is ``TOO_CLOSE``.
    """

    left: Seen
    right: Seen
    probability: float
    calibrated: bool
    band: float = BAND

    @property
    def confidence(self) -> float:
        """Probability that the side named is the older one, 0.5 to 1."""
        return max(self.probability, 1 - self.probability)

    @property
    def answer(self) -> str:
        """The older side, ``left`` or ``right``, or ``TOO_CLOSE``."""
        if self.confidence < self.band or self.probability == 0.5:
            return TOO_CLOSE
        return "left" if self.probability > 0.5 else "right"

    @property
    def ages(self) -> tuple[float, float] | None:
        """Predicted ages of left and right, years; None unless requested."""
        return None if self.left.age is None else (self.left.age, self.right.age)

    def __str__(self) -> str:
        side = "left" if self.probability > 0.5 else "right"
        notes = [percent(self.confidence)] + ([] if self.calibrated else ["not calibrated"])
        for name, seen in (("left", self.left), ("right", self.right)):
            if seen.turned:
                notes.append(f"{name} photo turned by {seen.turned} degrees clockwise")
        answer = f"{TOO_CLOSE} ({side}, " if self.answer == TOO_CLOSE else f"{side} is older ("
        answer += f"{', '.join(notes)})"
        if self.ages:
            answer += " (ages: left about {:.0f}, right about {:.0f})".format(*self.ages)
        return answer

    def as_dict(self) -> dict:
        return {
            "answer": self.answer,
            "confidence": self.confidence,
            "probability_left_older": self.probability,
            "calibrated": self.calibrated,
            "band": self.band,
            "left": self.left.as_dict(),
            "right": self.right.as_dict(),
        }


@dataclass(frozen=True)
class Order:
    """Faces from the youngest to the oldest.

    steps: float64 (N - 1,), the probability that face i + 1 is older than face i. skipped: one
    error for each photo left out.
    """

    faces: list[Seen]
    steps: np.ndarray
    calibrated: bool
    band: float = BAND
    skipped: list[ValueError] = field(default_factory=list)

    @property
    def uncertain(self) -> np.ndarray:
        """bool (N - 1,): whether a face and the next are too close to call."""
        return self.steps < self.band

    def __str__(self) -> str:
        width = max(len(face.name) for face in self.faces)
        lines = ["youngest first; ≈ is too close to call with the one above"]
        for place, face in enumerate(self.faces):
            line = f"{self.mark(place)} {place + 1:2}  {face.name:{width}}  {self.share(place):>4}"
            if face.age is not None:
                line += f"  about {face.age:.0f}"
            if face.turned:
                line += f"  (photo turned by {face.turned} degrees clockwise)"
            lines.append(line.rstrip())
        lines += [] if self.calibrated else ["confidences are not calibrated"]
        lines += [f"photos skipped: {len(self.skipped)}"] if self.skipped else []
        return "\n".join(lines)

    def mark(self, place: int) -> str:
        """≈ if a face is too close to call with the one before it, else a blank."""
        return "≈" if place and self.uncertain[place - 1] else " "

    def share(self, place: int) -> str:
        """The probability that a face is older than the one before it, as text."""
        return percent(self.steps[place - 1]) if place else ""

    def as_dict(self) -> dict:
        return {
            "youngest_to_oldest": [face.as_dict() for face in self.faces],
            "next_is_older": self.steps.tolist(),
            "too_close_to_call": self.uncertain.tolist(),
            "calibrated": self.calibrated,
            "band": self.band,
            "skipped": [str(error) for error in self.skipped],
        }


def compare(
    left: Photo,
    right: Photo,
    model: str | Path | Predictor | None = None,
    *,
    faces: str = "one",
    force: bool = False,
    ages: bool = False,
    aligned: bool = False,
) -> Comparison:
    """Who is older, the person in the left or in the right photo?

    left, right: as for ``photos.read_photo``. model: the folder of a trained model, or a loaded
    model; None takes ``find_model``'s. faces: ``one`` expects one face per photo, ``largest`` takes
    the largest of several. force: name a side even if it is too close to call. ages: also predict
    ages. aligned: the photos are finished crops.
    Swapping the photos does not change the answer. Raises PhotoError if a photo cannot be read,
    NoAnswerError if the question has no answer, ValueError if the folder holds no model.
    """
    _check(faces, "one", "largest")
    predictor = load(model, ages)
    named = [("the left photo", left), ("the right photo", right)]
    found = _seen(named, predictor, faces, aligned, ages, keep=True)
    (answer,) = _answers([[0, 1]], found, predictor, force)
    if isinstance(answer, ValueError):
        raise answer
    return answer


def compare_many(
    pairs: str | Path | Iterable[tuple[Photo, Photo]],
    model: str | Path | Predictor | None = None,
    *,
    faces: str = "one",
    force: bool = False,
    ages: bool = False,
    aligned: bool = False,
) -> list[Comparison | ValueError]:
    """``compare`` many pairs at once; each photo is read, and each face embedded, only once.

    pairs: pairs of photos, or a folder: all pairs of its files, sorted by name. Returns one item
    per pair; for a pair without an answer, the error.
    """
    _check(faces, "one", "largest")
    if isinstance(pairs, str | os.PathLike):
        pairs = itertools.combinations(files_of(pairs), 2)
    predictor, photos, places, asked = load(model, ages), [], {}, []
    for number, pair in enumerate(pairs, start=1):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            asked.append(ValueError(f"pair {number} is not a pair: expected two photos"))
            continue
        asked.append([])
        for side, photo in zip(("left", "right"), pair, strict=True):
            key = photo if isinstance(photo, str | Path) else id(photo)
            if key not in places:
                places[key] = len(photos)
                photos.append((f"the {side} photo of pair {number}", photo))
            asked[-1].append(places[key])
    found = _seen(photos, predictor, faces, aligned, ages)
    return _answers(asked, found, predictor, force)


def put_in_order(
    photos: str | Path | Sequence[Photo],
    model: str | Path | Predictor | None = None,
    *,
    faces: str = "one",
    force: bool = False,
    ages: bool = False,
    aligned: bool = False,
) -> Order:
    """The faces of several photos, or of one, from the youngest to the oldest.

    photos: as for ``compare``, or a folder of them. faces: ``all`` takes every face of each photo;
    with ``one``, each of several photos must show one face. Photos that fail are skipped. Faces
    are ordered by their mean logit against all others; for a model that compares scores, this is
    the order of the scores. Other arguments as for ``compare``. Raises NoAnswerError if fewer than
    two faces remain, PhotoError if no photo can be read, and a single photo's own error.
    """
    _check(faces, "one", "largest", "all")
    predictor = load(model, ages)
    photos = files_of(photos) if isinstance(photos, str | os.PathLike) else photos
    named = [(f"photo {number}", photo) for number, photo in enumerate(photos, start=1)]
    single = len(named) == 1
    faces = "several" if single and faces == "one" else faces
    found = list(_seen(named, predictor, faces, aligned, ages, keep=single))
    skipped = [one for one in found if isinstance(one, ValueError)]
    seen = [one for one in found if isinstance(one, Seen)]
    if single and skipped:
        raise skipped[0]
    if len(seen) < 2:
        reasons = "".join(f"; {error}" for error in skipped[:3])
        if skipped and not seen and all(isinstance(error, PhotoError) for error in skipped):
            raise PhotoError(f"no photo can be read: expected two or more{reasons}")
        left = f"there is only one face, in {seen[0].name}" if seen else "no photo shows a face"
        raise NoAnswerError(f"{left}: expected two or more to compare{reasons}")
    brought = np.stack([one.brought for one in seen])
    order = np.argsort(_totals(brought, predictor), kind="stable")
    steps = expit(predictor.logits(brought, order[1:], order[:-1]))
    calibrated, band = predictor.calibration.pairs > 0, 0.5 if force else BAND
    return Order([seen[place] for place in order], steps, calibrated, band, skipped)


def _check(faces: str, *known: str) -> None:
    if faces not in known:
        raise ValueError(f"faces = {faces!r}: expected {' or '.join(known)}")


def load(model: str | Path | Predictor | None = None, ages: bool = False) -> Predictor:
    """Load a model from its folder, by default ``find_model``'s; return a loaded one unchanged.

    The last two folders stay in memory until one of their files changes. ages: the model must
    predict ages. Raises NoAnswerError if it does not, ValueError if the folder holds no model.
    """
    if not isinstance(model, Predictor):
        folder = Path(model or find_model())
        stats = [(path.name, path.stat()) for path in sorted(folder.glob("*"))]
        model = _loaded(folder, tuple((name, s.st_mtime_ns, s.st_size) for name, s in stats))
    if ages and not model.has_ages:
        name = model.folder.name
        raise NoAnswerError(
            f"the model {name} does not predict ages: expected one with an age regressor"
        )
    return model


_loaded = lru_cache(maxsize=2)(lambda folder, files: Predictor(folder))  # files: key only


def files_of(folder: str | Path) -> list[Path]:
    """A folder's files, sorted, without hidden ones. Raises PhotoError if there are none."""
    name = name_of(folder)
    try:
        found = sorted(one for one in Path(folder).iterdir() if not one.name.startswith("."))
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise PhotoError(f"{name} cannot be read ({reason}): expected a folder") from None
    if not (files := [one for one in found if not one.is_dir()]):
        raise PhotoError(f"{name} holds no file: expected a folder of photos")
    return files


def _seen(
    named: list[tuple[str, Photo]],
    predictor: Predictor,
    faces: str,
    aligned: bool,
    ages: bool,
    keep: bool = False,
) -> Iterator[Seen | ValueError]:
    """The faces of many photos, each embedded and, with ``ages``, with its predicted age.

    Photos are read in parallel processes if all can be pickled. keep: keep the photo and the full
    crop of each face, not just a small crop.
    """
    frame = predictor.frame

    def look(one: tuple[str, Photo]) -> list[Seen | ValueError]:
        name, photo = one
        try:
            found = faces_in(photo, faces, aligned, frame, name)
        except (PhotoError, NoAnswerError) as error:
            return [error]
        return found if keep else [replace(one, photo=None) for one in found]

    alone = any(not isinstance(photo, str | Path | bytes) for _, photo in named)
    looked = in_processes(look, named, 0 if alone else len(named))
    each = itertools.chain.from_iterable(looked)
    while batch := list(itertools.islice(each, BATCH)):
        crops = [one.crop for one in batch if isinstance(one, Seen)]
        rows = zip(*predictor.embed(crops), strict=True) if crops else iter(())
        for one in batch:
            if isinstance(one, Seen):
                brought, age, distribution = next(rows)
                distribution = distribution.astype(float) if len(distribution) else None
                told = {"age": float(age), "age_distribution": distribution} if ages else {}
                crop = one.crop if keep else one.crop.resize((KEPT, KEPT))
                one = replace(one, crop=crop, brought=brought, **told)
            yield one


def _answers(
    asked: list[list[int] | ValueError],
    found: Iterable[Seen | ValueError],
    predictor: Predictor,
    force: bool,
) -> list[Comparison | ValueError]:
    """The answer or the error for each pair of indices into ``found``."""
    found, answers, able = list(found), [], []
    for pair in asked:
        sides = [pair] if isinstance(pair, ValueError) else [found[place] for place in pair]
        problem = next((side for side in sides if isinstance(side, ValueError)), None)
        if not problem and len({(one.crop.size, one.crop.tobytes()) for one in sides}) == 1:
            names = " and ".join(one.name for one in sides)
            problem = NoAnswerError(f"{names} are the same picture: expected two")
        able += [] if problem else [len(answers)]
        answers.append(problem or sides)
    if not able:
        return answers
    seen = [place for place, one in enumerate(found) if isinstance(one, Seen)]
    brought = np.stack([found[place].brought for place in seen])
    left, right = np.searchsorted(seen, [asked[number] for number in able]).T
    probabilities = expit(predictor.logits(brought, left, right)).tolist()
    calibrated, band = predictor.calibration.pairs > 0, 0.5 if force else BAND
    for number, probability in zip(able, probabilities, strict=True):
        answers[number] = Comparison(*answers[number], probability, calibrated, band)
    return answers


def _totals(brought: np.ndarray, predictor: Predictor) -> np.ndarray:
    """The sort key of faces, (N,): the sum of each one's logits against all others or, where that
    gives the same order, its logit against the first."""
    everyone = np.arange(len(brought))
    if predictor.has_scores:
        return predictor.logits(brought, everyone, np.zeros_like(everyone))
    totals = np.zeros(len(brought))
    for left in everyone[:-1]:
        others = everyone[left + 1 :]
        logits = predictor.logits(brought, np.full_like(others, left), others)
        totals[left] += logits.sum()
        totals[others] -= logits
    return totals
