import io
from datetime import UTC, datetime

from PIL import Image

from utkcmp.compare import widget
from utkcmp.compare.alignment import POINTS
from utkcmp.compare.predictor import Predictor
from utkcmp.compare.widget import answer_html, upload_widget


def png(level=0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (level,) * 3).save(file, "PNG")
    return file.getvalue()


def uploaded(content: bytes) -> dict:
    now = datetime.now(UTC)
    return dict(name="a", type="", size=1, content=memoryview(content), last_modified=now)


class NoModel(Predictor):
    def __init__(self):
        self.frame = POINTS


def test_two_uploads_are_answered_or_refused_in_a_sentence():
    assert "no face was found in the bytes given" in answer_html(png(), png(9), NoModel())
    assert "&lt;" not in answer_html(b"<b>", png(), NoModel())
    assert "is not an image" in answer_html(b"<b>", png(), NoModel())


def test_the_answer_appears_once_both_photos_are_there(monkeypatch):
    asked = []
    monkeypatch.setattr(widget, "answer_html", lambda *files: asked.append(files[:2]) or "answered")
    box = upload_widget(NoModel())
    (left, right), answer = box.children[0].children, box.children[1]
    left.value = (uploaded(b"a"),)
    assert asked == [] and answer.value == "Upload two photos."
    right.value = (uploaded(b"b"),)
    assert asked == [(b"a", b"b")] and answer.value == "answered"
