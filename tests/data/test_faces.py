import io
import os
import shutil
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFile, ImageOps
from pillow_heif import register_heif_opener

from utkcmp.data import index as module
from utkcmp.data.archives import DataError
from utkcmp.data.decode import LARGE, MAX_PIXELS, ImageError, decode
from utkcmp.data.index import COLUMNS, fingerprint, index_faces, parse_name

register_heif_opener()  # to write such files
STAMP = "20170116174525125"
CLOSE = 12  # of 255, what JPEG does to the blots; two pictures are 70 apart
NAME = f"25_0_1_{STAMP}.jpg.chip.jpg"


def picture(seed=0, mode="RGB", side=64) -> Image.Image:
    """Blots of colour, fine enough for a hash: no two seeds look alike."""
    blots = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    return Image.fromarray(blots).resize((side, side), Image.Resampling.BICUBIC).convert(mode)


def stored(image: Image.Image, kind="JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write(folder, files: dict[str, bytes]):
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes unpack to."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, body)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


# ---- names ---------------------------------------------------------------------------------------

NAMES = {
    f"1_0_0_{STAMP}.jpg": (1, 0, 0, []),
    NAME: (25, 0, 1, []),
    f"0_1_4_{STAMP}.JPEG": (0, 1, 4, []),
    **{f"25_0_1_{STAMP}.{end}": (25, 0, 1, []) for end in ("PNG", "HEIC", "avif", "tif", "mpo")},
    f"110_0_1_{STAMP}.jpg": (110, 0, 1, []),
    f"116_1_0_{STAMP}.jpg": (116, 1, 0, ["age above 110"]),
    f"61_1_{STAMP}.jpg.chip.jpg": (61, 1, None, ["ethnicity missing"]),
    f"61_3_{STAMP}.jpg.chip.jpg": (61, None, 3, ["gender missing"]),
    f"61_{STAMP}.jpg.chip.jpg": (61, None, None, ["gender missing", "ethnicity missing"]),
    f"53__0_{STAMP}.jpg": (53, None, 0, ["gender missing"]),
    f"53_0__{STAMP}.jpg": (53, 0, None, ["ethnicity missing"]),
    f"44_3_7_{STAMP}.jpg": (44, None, None, ["gender missing", "ethnicity missing"]),
    "14_0_0_2017011022340900.jpg.chip.jpg": (14, 0, 0, ["odd time stamp"]),
    "28_1_2_201701161846515488.jpg": (28, 1, 2, ["odd time stamp"]),
    "28_1_20170116184651.jpg": (28, 1, None, ["ethnicity missing", "odd time stamp"]),
    "28_1_2_.jpg": (28, 1, 2, ["odd time stamp"]),
    f"55_0_0_{STAMP}jpg.chip.jpg": (55, 0, 0, ["dot missing"]),
    f"24_0_1_{STAMP} .jpg": (24, 0, 1, ["blank in name"]),
    f"24_0_1_{STAMP} .jpg.chip.jpg": (24, 0, 1, ["blank in name"]),
}


def test_a_name_says_age_gender_and_ethnicity():
    for name, expect in NAMES.items():
        got = parse_name(name)
        assert (got["age"], got["gender"], got["ethnicity"], got["notes"]) == expect, name
        assert got["taken"].isdigit() or name == "28_1_2_.jpg"


BAD_NAMES = {
    "face.jpg": "name without age",
    "39.jpg": "name without age",
    "20170116_123456.jpg": "name without age",
    "100_1234.jpg": "name without age",
    f"-5_0_1_{STAMP}.jpg": "name without age",
    f"2.5_0_1_{STAMP}.jpg": "name without age",
    f"٢٥_0_1_{STAMP}.jpg": "name without age",
    f"_0_1_{STAMP}.jpg": "name without age",
    f"117_0_1_{STAMP}.jpg": "age above 116",
    "readme.txt": "not an image",
    f"25_0_1_{STAMP}.jpg.txt": "not an image",
    f"25_0_1_{STAMP}.gif": "not an image",
    f"25_0_1_{STAMP}": "not an image",
}


def test_a_name_without_a_plausible_age_is_rejected():
    for name, reason in BAD_NAMES.items():
        with pytest.raises(ImageError, match=f"^{reason}$"):
            parse_name(name)


# ---- pictures ------------------------------------------------------------------------------------


def difference(got: Image.Image, expect: Image.Image) -> float:
    assert got.mode == expect.mode == "RGB" and got.size == expect.size
    return np.abs(np.asarray(got).astype(int) - np.asarray(expect)).mean()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_becomes_rgb(mode):
    image = picture(mode=mode)
    assert difference(decode(stored(image, "PNG")), image.convert("RGB")) == 0


def test_cmyk_and_grey_jpegs_become_rgb():
    for mode in ("CMYK", "L"):
        image = picture(mode=mode)
        assert difference(decode(stored(image, quality=95)), image.convert("RGB")) < CLOSE


def test_sixteen_bits_are_scaled_not_cut_off():
    deep = Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16))
    got = np.asarray(decode(stored(deep, "PNG")))[..., 0]
    assert np.array_equal(got.ravel(), np.linspace(0, 255, 64 * 64).round()) or (
        np.abs(got.ravel() - np.linspace(0, 255, 64 * 64)).max() <= 0.51
    )


def test_transparent_parts_lie_on_white():
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 10, 20))
    for transparent in (image, image.quantize()):
        got = decode(stored(transparent, "PNG"))
        assert got.getpixel((15, 10)) == (255, 255, 255)
        assert got.getpixel((5, 10)) == (0, 0, 255)


FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF", "MPO")


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_of_phones_and_scanners_is_read(kind):
    image = picture().resize((80, 60))
    assert difference(decode(stored(image, kind, quality=95)), image) < CLOSE + 30 * (kind == "GIF")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "MPO"])
def test_exif_turns_the_picture_upright(kind):
    upright = picture().resize((64, 48))
    turns = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the inverse of each
    for orientation in turns if kind == "JPEG" else (3, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turn = turns[orientation]
        image = upright if turn is None else upright.transpose(Image.Transpose(turn))
        got = decode(stored(image, kind, quality=95, exif=exif.tobytes()))
        assert difference(got, upright) < CLOSE + 3


def test_several_pages_or_burst_pictures_give_the_first():
    for kind in ("TIFF", "HEIF", "MPO"):
        several = stored(picture(1), kind, save_all=True, append_images=[picture(2)], quality=95)
        assert difference(decode(several), picture(1)) < CLOSE


def chunk(kind: bytes, content: bytes, check: int | None = None) -> bytes:
    check = zlib.crc32(kind + content) if check is None else check
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def test_trouble_outside_the_pixels_is_no_trouble():
    """Metadata above 1 MiB or with a wrong sum, a picture without its end mark."""
    huge = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(3_000_000))
    for extra in (
        *(chunk(b"iTXt", huge), chunk(b"tEXt", b"a\0b", check=1), chunk(b"iCCP", b"x\0\0y")),
        *(chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(70_000_000))), chunk(b"eXIf", b"x", 1)),
    ):
        assert difference(decode(PNG[:33] + extra + PNG[33:]), picture()) == 0
    assert difference(decode(PNG[:-12]), picture()) == 0
    progressive = stored(picture(), progressive=True)
    for jpeg in (JPEG, progressive):
        for cut in (jpeg[:-1], jpeg[:-2]):
            assert difference(decode(cut), decode(jpeg)) == 0
            assert difference(decode(cut, 8), decode(jpeg, 8)) == 0


def test_a_picture_of_many_megapixels_comes_at_half_its_size(monkeypatch):
    """The size of 50 million pixels that phones make is below the limit."""
    monkeypatch.setattr(sys.modules[decode.__module__], "LARGE", 300 * 300)
    image = picture(side=400)
    for kind in ("JPEG", "PNG", "HEIF"):
        got = decode(stored(image, kind, quality=95))
        assert difference(got, image.resize((200, 200), Image.Resampling.BOX)) < CLOSE
    assert decode(stored(image.quantize(), "PNG")).size == (200, 200)
    assert decode(stored(image), at_least=60).size == (100, 100)
    monkeypatch.undo()
    assert 8160 * 6144 < LARGE and 16_384 * 12_288 < MAX_PIXELS


def test_open_files_and_views_are_taken(tmp_path):
    (tmp_path / "a.jpg").write_bytes(JPEG)
    written = io.BytesIO()
    picture().save(written, "PNG")  # its end is where it stands
    with open(tmp_path / "a.jpg", "rb") as file:
        for data in (bytearray(JPEG), memoryview(JPEG), io.BytesIO(JPEG), file, written):
            assert decode(data).size == (64, 64)
    for wrong in ("a.jpg", io.StringIO("text"), 3):
        with pytest.raises(TypeError, match="given as bytes or as a binary file, not"):
            decode(wrong)


def test_broken_exif_is_no_reason_to_reject():
    image = picture()
    for exif in (b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0" + bytes(range(40))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert difference(decode(stored(image, exif=exif, quality=95)), image) < CLOSE


JPEG, PNG = stored(picture()), stored(picture(), "PNG")
BAD_PICTURES = {
    "zero bytes": [b""],
    "not an image": [b"<html>404</html>", b"%!PS-Adobe-3.0 EPSF-3.0", stored(picture(), "PPM")],
    "truncated": [
        *(JPEG[: len(JPEG) // 2], JPEG[:-20], JPEG[:-3], JPEG[:200], PNG[: len(PNG) // 2]),
        *(stored(picture(), kind)[:-cut] for kind in ("AVIF", "HEIF", "TIFF") for cut in (9, 800)),
        *(stored(picture(), "JPEG", progressive=True)[:-20], stored(picture(), "MPO")[:-20]),
    ],
    "damaged": [PNG[:300] + bytes(300) + PNG[600:]],
    "animated": [
        stored(picture(), "GIF", save_all=True, append_images=[picture(1)]),
        stored(picture(), "PNG", save_all=True, append_images=[picture(1)]),
        stored(picture(), "WEBP", save_all=True, append_images=[picture(1)]),
    ],
    "too small": [stored(Image.new("RGB", (15, 40)))],
    "too large": [bomb(20_000, 12_501), bomb(60_000, 60_000)],
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("reason", BAD_PICTURES)
def test_a_bad_picture_is_rejected_with_its_reason(reason):
    for data in BAD_PICTURES[reason]:
        with pytest.raises(ImageError) as error:
            decode(data)
        assert str(error.value) == reason


def test_a_bomb_is_never_unpacked(monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("unpacked"))
    with pytest.raises(ImageError, match="too large"):
        decode(bomb(20_000, 12_501))
    tall = np.array([20_000, 12_501], ">u2")
    place = JPEG.index(b"\xff\xc0") + 5
    with pytest.raises(ImageError, match="too large"):
        decode(JPEG[:place] + tall.tobytes() + JPEG[place + 4 :])


def test_no_damage_escapes_as_another_error():
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for whole in (JPEG, PNG, stored(picture(), "GIF"), stored(picture(), "WEBP")):
            for _ in range(150):
                data = np.frombuffer(whole, np.uint8).copy()
                data[rng.integers(0, 200, 4)] = rng.integers(0, 256, 4)
                try:
                    assert decode(data.tobytes()).mode == "RGB"
                except ImageError:
                    pass


# ---- the index -----------------------------------------------------------------------------------


def test_the_index_has_one_row_a_file_in_order_with_its_reason(tmp_path):
    files = {
        f"30_0_2_{STAMP}.jpg": JPEG,
        f"116_0_2_{STAMP}.png": stored(picture(1, "L"), "PNG"),
        f"117_0_2_{STAMP}.jpg": JPEG,
        f"5_1_{STAMP}.jpg": JPEG[:300],
        f"7_1_4_{STAMP}.jpg": b"",
        "readme.txt": b"text",
        ".DS_Store": b"hidden",
    }
    got = index_faces(write(tmp_path / "a", files), progress=False)
    assert {name: str(kind) for name, kind in got.dtypes.items()} == {
        name: getattr(kind, "__name__", kind) for name, kind in COLUMNS.items()
    }
    assert list(got.file) == sorted(set(files) - {".DS_Store"})
    assert list(got.status) == [
        "ok",
        "age above 116",
        "ok",
        "truncated",
        "zero bytes",
        "not an image",
    ]
    assert got.age.tolist() == [116, pd.NA, 30, 5, 7, pd.NA]
    assert got.notes.tolist() == ["age above 110; greyscale", "", "", "ethnicity missing", "", ""]
    assert got.group.tolist() == [0, 1, 2, 3, 4, 5]
    assert (got.width[2], got.height[2], got.bytes[2]) == (64, 64, len(JPEG))
    assert got.taken[0] == STAMP and len(got.sha256[1]) == 64 and len(got.phash[0]) == 64


def test_what_is_odd_about_a_picture_is_noted(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16)
    files = {
        "1_0_0_1.jpg": stored(picture(1, "L")),
        "2_0_0_1.jpg": stored(picture(2, "CMYK")),
        "3_0_0_1.png": stored(picture(3).quantize(), "PNG"),
        "4_0_0_1.png": stored(deep, "PNG"),
        "5_0_0_1.png": stored(picture(5, "RGBA"), "PNG"),
        "6_0_0_1.jpg": stored(picture(6), exif=exif),
    }
    got = index_faces(write(tmp_path / "a", files), progress=False)
    assert got.notes.str.removeprefix("odd time stamp; ").tolist() == [
        "greyscale",
        "CMYK",
        "palette",
        "greyscale; 16-bit",
        "transparent",
        "EXIF rotation",
    ]
    assert (got.status == "ok").all()


def copies(tmp_path):
    """Two pictures of two files each and a third one; one of the pairs is 20 years apart."""
    return write(
        tmp_path / "copies",
        {
            f"10_0_0_{STAMP}.jpg": stored(picture(1)),
            f"30_0_0_{STAMP}.jpg": stored(picture(1)),
            f"40_0_0_{STAMP}.jpg": stored(picture(2)),
            f"40_0_1_{STAMP}.jpg": stored(picture(2), quality=40),
            f"50_0_0_{STAMP}.jpg": stored(picture(3)),
            f"60_0_0_{STAMP}.jpg": stored(picture(3))[:-50],  # rejected, so no member of a group
        },
    )


def test_copies_form_groups_and_say_how_far_their_ages_are_apart(tmp_path):
    got = index_faces(copies(tmp_path), progress=False)
    assert got.group.tolist() == [0, 0, 1, 1, 2, 3]
    assert got.conflict.tolist() == [20, 20, 0, 0, 0, 0]


def archived(folder, path):
    return Path(shutil.make_archive(path, "gztar", folder))


def test_the_kind_of_source_does_not_matter(tmp_path, monkeypatch):
    monkeypatch.setenv("UTKCMP_OUTPUTS", str(tmp_path / "outputs"))
    folder = copies(tmp_path)
    got = index_faces(archived(folder, tmp_path / "a"), progress=False)
    pd.testing.assert_frame_equal(got, index_faces(folder, progress=False))


def test_no_valid_face_is_one_sentence_with_the_reasons(tmp_path):
    folder = write(tmp_path / "bad", {"a.txt": b"x", "b.txt": b"x", f"1_0_0_{STAMP}.jpg": b""})
    with pytest.raises(DataError) as error:
        index_faces(folder, progress=False)
    got = str(error.value)
    assert got.startswith(f"{folder} holds no valid face (2 not an image, 1 zero bytes): expected")
    write(folder, {"part1.tar.gz": b"x"})
    with pytest.raises(DataError, match="part1.tar.gz is an archive to be unpacked"):
        index_faces(folder, progress=False)


def test_a_missing_folder_is_an_error_with_and_without_a_cache(tmp_path):
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(DataError, match="none does not exist: expected a folder"):
            index_faces(tmp_path / "none", cache=cache, progress=False)


# ---- the stored index ----------------------------------------------------------------------------


@pytest.fixture
def forbid_decoding(monkeypatch):
    return lambda: monkeypatch.setattr(module, "_examine", lambda item: pytest.fail("decoded"))


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_the_second_call_reads_the_stored_index_only(tmp_path, monkeypatch, forbid_decoding, kind):
    monkeypatch.setenv("UTKCMP_OUTPUTS", str(tmp_path / "outputs"))
    source = copies(tmp_path)
    if kind == "archive":
        source = archived(source, tmp_path / "a")
    expect = index_faces(source, cache=tmp_path / "cache", progress=False)
    forbid_decoding()
    got = index_faces(source, cache=tmp_path / "cache", progress=False)
    pd.testing.assert_frame_equal(got, expect)


def test_a_changed_folder_is_indexed_anew(tmp_path):
    folder, cache = copies(tmp_path), tmp_path / "cache"
    before = index_faces(folder, cache=cache, progress=False)
    write(folder, {f"70_0_0_{STAMP}.jpg": stored(picture(7))})
    after = index_faces(folder, cache=cache, progress=False)
    assert len(after) == len(before) + 1


def test_a_damaged_or_half_written_index_is_built_anew(tmp_path):
    folder, cache = copies(tmp_path), tmp_path / "cache"
    expect = index_faces(folder, cache=cache, progress=False)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    for damaged in (b"", whole[:-9], whole[:500], whole.replace(b"30_0", b"31_0")):
        path.write_bytes(damaged)
        got = index_faces(folder, cache=cache, progress=False)
        pd.testing.assert_frame_equal(got, expect)
        assert path.read_bytes() == whole


def test_the_fingerprint_follows_the_content_of_valid_faces_only(tmp_path):
    folder = copies(tmp_path)
    faces = index_faces(folder, progress=False)
    got = fingerprint(faces)
    assert fingerprint(faces.sample(frac=1, random_state=0)) == got
    write(folder, {"notes.txt": b"more"})
    assert fingerprint(index_faces(folder, progress=False)) == got
    data = bytearray((folder / f"50_0_0_{STAMP}.jpg").read_bytes())
    data[-3] ^= 1
    write(folder, {f"50_0_0_{STAMP}.jpg": bytes(data)})
    assert fingerprint(index_faces(folder, progress=False)) != got


def test_the_size_is_the_stored_one(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = ImageOps.pad(picture(), (400, 300))
    folder = write(tmp_path / "a", {NAME: stored(wide, exif=exif)})
    got = index_faces(folder, progress=False)
    assert (got.width[0], got.height[0]) == (400, 300)


def test_a_jpeg_decoded_at_least_so_large_is_the_reduced_picture():
    image = picture(side=400)
    got = decode(stored(image, quality=95), at_least=90)
    assert difference(got, image.resize((100, 100), Image.Resampling.BOX)) < CLOSE
    assert decode(stored(image), at_least=201).size == (400, 400)
    assert decode(stored(image, "PNG"), at_least=90).size == (400, 400)


# ---- the real faces ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif("UTKFACE" not in os.environ, reason="UTKFACE names no UTKFace")
def test_utkface_is_indexed_whole(tmp_path):
    got = index_faces(os.environ["UTKFACE"], cache=tmp_path, progress=False)
    assert (got.status == "ok").sum() > 20_000
    assert got.age[got.status == "ok"].between(0, 116).all()
    identical = got[got.sha256.duplicated(keep=False)]
    assert len(identical) > 500 and identical.groupby("sha256").group.nunique().eq(1).all()
    assert got.group.value_counts().iloc[0] < 10, "groups chain"


def test_the_same_file_in_another_folder_is_no_second_face(tmp_path):
    one, other = (stored(picture(seed)) for seed in (1, 2))
    files = {f"{folder}/30_0_0_20170101.jpg": one for folder in ("UTKFace", "crop_part1")}
    files |= {"crop_part1/31_0_0_20170101.jpg": one, "crop_part1/32_0_0_2.jpg": other}
    faces = index_faces(write(tmp_path / "f", files), progress=False)
    assert faces.status.value_counts().to_dict() == {"ok": 3, "the same file in another folder": 1}
    assert faces.groupby("sha256").group.nunique().max() == 2  # rejected, so of no group
