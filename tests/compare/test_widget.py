import io
from datetime import UTC, datetime

from PIL import Image

from utkcmp.compare import widget
from utkcmp.compare.widget import answer_html, upload_widget


def png(level=0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (level,) * 3).save(file, "PNG")
    return file.getvalue()


def uploaded(content: bytes) -> dict:
    now = datetime.now(UTC)
    return dict(name="a<", type="", size=1, content=memoryview(content), last_modified=now)


def test_two_uploads_are_answered_or_refused_in_a_sentence(predictor, photos):
    files = [io.BytesIO((photos / f"{number}.png").read_bytes()) for number in (0, 1)]
    said = answer_html(*files, predictor)
    assert "data:image/png" in said and "drawn faces, this model says nothing" in said
    assert "no face was found in the left photo" in answer_html(png(), png(9), predictor)
    assert "is not an image" in answer_html(b"<b>", png(), predictor)


def test_the_answer_appears_once_both_photos_are_there_and_names_the_side(predictor, photos):
    box = upload_widget(predictor)
    (left, right), answer = box.children[0].children, box.children[1]
    assert ".heic" in left.accept
    left.value = (uploaded((photos / "0.png").read_bytes()),)
    assert answer.value == "Upload two photos."
    right.value = (uploaded(b"<b>"),)
    assert answer.value.startswith("<p>the right photo (a&lt;) is not an image")
    right.value = (uploaded((photos / "1.png").read_bytes()),)
    assert "data:image/png" in answer.value


def test_the_model_is_the_one_that_the_command_takes(outputs_here, predictor, monkeypatch):
    taken = []
    monkeypatch.setattr(widget, "load", lambda given: taken.append(given))
    upload_widget()
    assert taken == [None]
