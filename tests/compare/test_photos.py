"""Every photo, good or bad, gives faces or a clear error message."""

import io
import os
import struct
import sys
import zlib

import numpy as np
import pytest
import skimage
from PIL import Image
from sklearn.datasets import load_sample_image

from utkcmp.compare.alignment import POINTS, find_faces
from utkcmp.compare.photos import NoAnswerError, PhotoError, faces_in, only_face, read_photo
from utkcmp.compare.robustness import paste


@pytest.fixture(scope="module")
def crop(crops):
    return crops[0]


@pytest.fixture(scope="module")
def photo(crop):
    return paste(crop, 180, 5.0, 360, np.random.default_rng(0))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG whose header declares 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
        for part in (header, pixels, b"IEND")
    )


def moving() -> bytes:
    frames = [Image.new("L", (40, 40), grey) for grey in (0, 90)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


VIDEO = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + bytes(500)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9"/></svg>'


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "zero bytes"),
        (b"some text, no picture", "not an image"),
        (VIDEO, "not an image"),
        (SVG, "not an image"),
        (bomb(), "too large"),
        (encoded(Image.new("RGB", (9, 9)), "PNG"), "too small"),
        (moving(), "single picture"),
    ],
)
def test_files_that_are_no_photo(tmp_path, content, said):
    path = tmp_path / "file.jpg"
    path.write_bytes(content)
    with pytest.raises(PhotoError, match=said) as caught:
        read_photo(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "expected" in message and "\n" not in message


def test_a_truncated_photo(photo):
    data = encoded(photo, "JPEG")
    with pytest.raises(PhotoError, match="cut off.*expected the whole file"):
        read_photo(data[: len(data) // 2])


def test_a_folder_a_missing_file_and_one_too_long(tmp_path, monkeypatch):
    with pytest.raises(PhotoError, match="is a folder: expected a photo"):
        read_photo(tmp_path)
    with pytest.raises(PhotoError, match="no such file"):
        read_photo(tmp_path / "missing.jpg")
    (tmp_path / "long.jpg").write_bytes(bytes(100))
    monkeypatch.setattr(sys.modules["utkcmp.data.decode"], "MAX_BYTES", 99)
    with pytest.raises(PhotoError, match="too large"):
        read_photo(tmp_path / "long.jpg")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    path = tmp_path / "locked.jpg"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(PhotoError, match="permission denied"):
        read_photo(path)


def deep(photo):
    return encoded(Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257), "PNG")


def transparent(photo):
    """Only the middle is opaque."""
    image, edge = photo.convert("RGBA"), 40
    opaque = Image.new("L", photo.size)
    opaque.paste(255, (edge, edge, photo.width - edge, photo.height - edge))
    image.putalpha(opaque)
    return encoded(image, "PNG")


def turned(orientation, stored):
    """Stored rotated, with the EXIF orientation that restores it."""

    def make(photo):
        exif = Image.Exif()
        exif[0x0112] = orientation
        return encoded(photo.transpose(stored), "JPEG", exif=exif, quality=95)

    return make


@pytest.mark.parametrize(
    "make",
    [
        lambda photo: encoded(photo.convert("L"), "JPEG"),
        lambda photo: encoded(photo.convert("CMYK"), "JPEG"),
        lambda photo: encoded(photo.convert("P"), "GIF"),
        lambda photo: encoded(photo, "WEBP", quality=90),
        lambda photo: encoded(photo, "BMP"),
        deep,
        transparent,
        turned(3, Image.Transpose.ROTATE_180),
        turned(6, Image.Transpose.ROTATE_90),
        turned(8, Image.Transpose.ROTATE_270),
    ],
    ids="greyscale CMYK palette WebP BMP 16-bit transparent EXIF-3 EXIF-6 EXIF-8".split(),
)
def test_any_kind_of_photo_shows_the_same_face(photo, make):
    assert only_face(make(photo)).face.box == pytest.approx(only_face(photo).face.box, abs=12)


def test_images_and_arrays(photo):
    expect = only_face(photo).face.box
    grey = np.asarray(photo.convert("L"))
    for given in (np.asarray(photo), grey, grey[:, :, None], np.asarray(photo.convert("RGBA"))):
        assert only_face(given).face.box == pytest.approx(expect, abs=12)
    before = photo.tobytes()
    read_photo(photo)
    assert photo.tobytes() == before


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((90, 90)), np.zeros((3, 90, 90), np.uint8), np.zeros(9, np.uint8)],
    ids=["floats", "channels first", "one row"],
)
def test_arrays_that_are_no_photo(pixels):
    with pytest.raises(PhotoError, match=r"not a photo: expected .*uint8 \(H, W\)"):
        read_photo(pixels)
    with pytest.raises(PhotoError, match="too small"):
        read_photo(np.zeros((9, 9, 3), np.uint8))


def test_names_with_blanks_and_other_letters(tmp_path, photo):
    path = tmp_path / "Großmutter und 祖母 1950.png"
    photo.save(path)
    assert only_face(path).name == str(path)


class Stream(io.RawIOBase):
    """A stream like a pipe or a socket: not seekable, with short reads."""

    def __init__(self, data):
        self.file = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        part = self.file.read(min(len(buffer), 1000))
        buffer[: len(part)] = part
        return len(part)


class Readable:
    """An object with nothing but a ``read`` method."""

    def __init__(self, data):
        self.read = io.BytesIO(data).read


class Elsewhere:
    """A path-like object other than ``pathlib.Path``."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


def test_streams_and_paths_of_other_kinds(photo, tmp_path):
    data = encoded(photo, "PNG")
    (tmp_path / "a.png").write_bytes(data)
    for given in (Stream(data), Readable(data), Elsewhere(tmp_path / "a.png")):
        assert read_photo(given).tobytes() == photo.tobytes()
    with pytest.raises(PhotoError, match=f"{tmp_path}/none.png cannot be read"):
        read_photo(Elsewhere(tmp_path / "none.png"))


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_what_follows_a_picture_cuts_nothing_off(photo, kind):
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False)
    data = encoded(photo, kind)
    for rest in (b"SEFH and more", bytes(99), b"\0\0\1\0free"):
        assert read_photo(data + rest).size == photo.size
    with pytest.raises(PhotoError, match="cut off"):
        read_photo(data[:-9])


def test_a_cat_and_a_landscape_are_no_faces():
    cat = os.path.join(os.path.dirname(skimage.__file__), "data", "chelsea.png")
    for given in (cat, load_sample_image("china.jpg"), load_sample_image("flower.jpg")):
        with pytest.raises(NoAnswerError, match="no face was found in .*: expected one"):
            faces_in(given)
    square = np.asarray(Image.open(cat).convert("RGB").crop((75, 0, 375, 300)))
    with pytest.raises(NoAnswerError, match="no face"):  # being square does not make it a crop
        faces_in(square)


def test_a_face_found_on_its_side_is_not_taken_as_it_lies():
    """In any position of this photo a face is found, but only upright are its points right."""
    folder = os.path.join(os.path.dirname(skimage.__file__), "data")
    photo = read_photo(os.path.join(folder, "astronaut.png"))
    expect = only_face(photo)
    assert expect.turned == 0
    for stored in (90, 180, 270):  # counter-clockwise, as Pillow turns
        lying = photo.rotate(stored, expand=True)
        assert find_faces(lying)
        got = only_face(lying)
        assert got.turned == stored and got.crop.tobytes() == expect.crop.tobytes()


def test_a_face_below_20_pixels(crop):
    photo = Image.new("RGB", (120, 120), "grey")
    photo.paste(crop.resize((20, 20), Image.Resampling.LANCZOS), (50, 50))
    with pytest.raises(NoAnswerError, match="no face was found|only 1[0-9] pixels wide"):
        only_face(photo)


def test_a_small_face_is_named_with_its_size(photo, monkeypatch):
    monkeypatch.setattr("utkcmp.compare.photos.LEAST_FACE", 500)
    with pytest.raises(NoAnswerError, match=r"is only \d+ pixels wide: expected 500 or more"):
        only_face(photo)


def test_several_faces_are_numbered_from_the_left(crop, tmp_path):
    group = Image.new("RGB", (800, 300), "grey")
    for left in (560, 20, 290):
        group.paste(crop, (left, 50))
    path = tmp_path / "group.png"
    group.save(path)
    faces = faces_in(path)
    assert [face.name for face in faces] == [f"{path} #{number}" for number in (1, 2, 3)]
    middles = [face.face.points[:, 0].mean() for face in faces]
    assert middles == sorted(middles)
    with pytest.raises(NoAnswerError, match="shows 3 faces: expected one"):
        only_face(path)


def test_a_finished_crop_is_not_looked_at(crop):
    blank = Image.new("RGB", (60, 60), "grey")
    seen = only_face(blank, aligned=True)
    assert seen.crop.tobytes() == blank.tobytes() and seen.face.finished
    assert seen.face.points == pytest.approx(POINTS * 0.3)
