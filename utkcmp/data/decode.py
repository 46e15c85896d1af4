"""Decoding pictures to upright RGB, with a reason for each broken file."""

import contextlib
import io
import threading
import warnings
import zlib
from collections.abc import Iterator
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from pillow_heif import register_heif_opener

from utkcmp.data.archives import MAX_BYTES

Encoded = bytes | bytearray | memoryview | IO[bytes]  # the content of a file, or an open one
MIN_SIDE, MAX_PIXELS = 16, 250_000_000  # checked before decoding
LARGE = 2**26  # pixels above which pictures are halved to save memory
TO_EIGHT_BITS = (np.arange(2**16) / 257).round().astype(np.uint8)  # lookup table
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
ALBUMS = ("MPO", "TIFF", "HEIF")  # only the first picture counts; in others, several mean animation
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"IDAT", b"eXIf", b"IEND")
PICTURE_BOXES = (b"ftyp", b"meta", b"mdat", b"moov")
_opening = threading.Lock()
register_heif_opener(thumbnails=False)
# Oddities of a file are no news; catch_warnings is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageError(ValueError):
    """A rejected file; the message is the reason in a few words."""


def decode(data: Encoded, at_least: int | None = None) -> Image.Image:
    """Decode one picture to 8-bit RGB, EXIF rotation applied, on a white background.

    data: the content of a JPEG (or MPO), PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC file, or an open
    file, read from its start; of any mode. The size in the header is checked before decoding,
    against decompression bombs.
    at_least: sufficient pixels per side; a JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size,
    which is faster. With None, only pictures above 67 million pixels are halved.
    Raises ImageError, whose message is one of: zero bytes, not an image, too large, too small,
    animated, truncated, damaged.
    """
    return load(content(data), at_least)[0]


def upright(image: Image.Image) -> Image.Image:
    """``decode`` for an open picture, which stays unchanged. Raises ImageError too."""
    _check_size(image)
    try:
        return _rgb(image.copy())
    except Exception as error:
        raise _broken(error) from None


def resize(image: Image.Image, size: int) -> np.ndarray:
    """Resize an RGB image, cropped to its central square, to uint8 (3, size, size)."""
    square = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def content(data: Encoded) -> bytes:
    """The input of ``decode`` as bytes, without the metadata of a PNG."""
    if hasattr(data, "read"):
        file, data = data, bytearray()
        with contextlib.suppress(AttributeError, OSError, ValueError):  # not seekable
            file.seek(0)
        while part := file.read(MAX_BYTES + 1 - len(data)):  # pipes return short reads
            if isinstance(part, str):
                data = part
                break
            data += part
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(
            f"a picture is given as bytes or as a binary file, not {type(data).__name__}"
        )
    data = bytes(data)
    return _pixels_only(data) if data.startswith(b"\x89PNG") else data


def read_header(data: bytes) -> Image.Image:
    """Open ``content``'s bytes and check the header, without decoding pixels. Raises ImageError."""
    if not data:
        raise ImageError("zero bytes")
    if len(data) > MAX_BYTES:
        raise ImageError("too large")
    if data[4:8] == b"ftyp" and _boxes_end(data) > len(data):
        raise ImageError("truncated")
    try:
        with _any_size():
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        animated = image.format not in ALBUMS and getattr(image, "is_animated", False)
    except UnidentifiedImageError:
        raise ImageError("not an image") from None
    except Exception as error:  # decoders raise many kinds
        raise _broken(error) from None
    _check_size(image)
    if animated:
        raise ImageError("animated")
    return image


@contextlib.contextmanager
def _any_size() -> Iterator[None]:
    """Lift Pillow's limit on sizes, which MAX_PIXELS replaces."""
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def load(data: bytes, at_least: int | None) -> tuple[Image.Image, list[str]]:
    """Decode ``content``'s bytes; returns the RGB image and its oddities. Raises ImageError."""
    image = read_header(data)
    deep = ";16" in str(getattr(image, "tile", ""))  # lost by decoding
    try:
        try:
            image = _decoded(image, at_least)
        except OSError as error:
            if image.format != "JPEG" or "truncated" not in str(error):
                raise
            image = _without_end(data, at_least)
        turn = 1
        with contextlib.suppress(Exception):
            turn = image.getexif().get(ExifTags.Base.Orientation)
        odd = {
            "greyscale": image.mode in ("1", "L", "LA") or image.mode.startswith("I"),
            "CMYK": image.mode == "CMYK",
            "palette": image.mode == "P",
            "16-bit": deep,
            "transparent": image.has_transparency_data,
            "EXIF rotation": turn in range(2, 9),
        }
        return _rgb(image), [note for note, holds in odd.items() if holds]
    except Exception as error:
        raise _broken(error) from None


def _decoded(image: Image.Image, at_least: int | None) -> Image.Image:
    large = image.width * image.height > LARGE
    if large or at_least:
        least = at_least or min(image.size) // 2
        image.draft(None, (least, least))
    with _any_size() if large and image.format == "TIFF" else contextlib.nullcontext():
        image.load()  # a TIFF's size is then checked again
    if image.width * image.height <= LARGE:
        return image
    if image.mode in ("RGB", "L"):
        return image.reduce(2)
    half = image.width // 2, image.height // 2
    return image.resize(half, Image.Resampling.NEAREST)  # reduce needs a full copy, or fails


def _without_end(data: bytes, at_least: int | None) -> Image.Image:
    """A JPEG that lacks only its end marker: whatever bytes follow, its pixels are the same."""
    with contextlib.suppress(Exception):
        data = data.removesuffix(b"\xff")
        ends = [read_header(data + 64 * filler + b"\xff\xd9") for filler in (b"\0", b"\xaa")]
        one, other = (_decoded(end, at_least) for end in ends)
        if one.tobytes() == other.tobytes():
            return one
    raise ImageError("truncated")


def _pixels_only(png: bytes) -> bytes:
    """A PNG without metadata chunks, so that faults in these do not matter."""
    parts, place = [png[:8]], 8
    while place < len(png):
        end = place + 12 + int.from_bytes(png[place : place + 4])
        kind, chunk = png[place + 4 : place + 8], png[place:end]
        broken = zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:])
        if kind in PIXEL_CHUNKS and not (kind == b"eXIf" and broken):
            parts.append(chunk)
        place = end
    return b"".join(parts)


def _boxes_end(data: bytes) -> int:
    """The end, by its own length, of the last required box of an AVIF or HEIC file."""
    place, size, end = 0, 8, 0
    while place + 8 <= len(data) and size >= 8:  # size 0: up to the end of the file
        size = int.from_bytes(data[place : place + 4])
        needed = data[place + 4 : place + 8] in PICTURE_BOXES
        size = int.from_bytes(data[place + 8 : place + 16]) if size == 1 else size
        place += size
        end = place if needed else end
    return end


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError("too large")
    if min(image.size) < MIN_SIDE:
        raise ImageError("too small")


def _rgb(image: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # broken EXIF: not rotated
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16 bits; convert() would clip at 255
        image = Image.fromarray(TO_EIGHT_BITS[np.asarray(image).clip(0, 65535)])
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _broken(error: Exception) -> ImageError:
    return ImageError("truncated" if "truncated" in str(error).lower() else "damaged")
