"""Pictures decoded to upright RGB, with every kind of broken file told apart."""

import contextlib
import io
import threading
import warnings
import zlib
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from pillow_heif import register_heif_opener

from utkcmp.data.archives import MAX_BYTES

MIN_SIDE, MAX_PIXELS = 16, 250_000_000  # a smaller or larger picture is rejected before decoding
LARGE = 2**26  # pixels above which a picture comes at half its size, or memory would run short
TO_EIGHT_BITS = (np.arange(2**16) / 257).round().astype(np.uint8)  # a lookup: less memory
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
ALBUMS = ("MPO", "TIFF", "HEIF")  # their first picture is the one meant; others move
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"IDAT", b"eXIf", b"IEND")
PICTURE_BOXES = (b"ftyp", b"meta", b"mdat", b"moov")
_opening = threading.Lock()
register_heif_opener(thumbnails=False)


class ImageError(ValueError):
    """A file that is rejected; the text is the reason in a few words."""


def decode(
    data: bytes | bytearray | memoryview | IO[bytes], at_least: int | None = None
) -> Image.Image:
    """Decode one picture to upright RGB, 8 bits per channel, transparent parts on white.

    data: the content of a JPEG (MPO too), PNG, WebP, BMP, GIF, TIFF, AVIF or HEIC file, or an open
    file, read from its start. Turned as EXIF says; greyscale, palette, CMYK and 16-bit pictures
    are converted. The size in the header is checked first, so a decompression bomb is never
    unpacked; metadata are not read, but for the turn.
    at_least: pixels per side that are enough; a JPEG may then come at a half, a quarter or an
    eighth of its size, which is faster. None gives the picture as it is, or at half its size if
    it has more than 67 million pixels.
    Raises ImageError, whose text is one of: zero bytes, not an image, too large, too small,
    animated, truncated, damaged.
    """
    return load(content(data), at_least)[0]


def upright(image: Image.Image) -> Image.Image:
    """The same for a picture that is open already, which stays as it is. Raises ImageError too."""
    _check_size(image)
    try:
        with warnings.catch_warnings(action="ignore"):
            image.load()
            return _rgb(image.copy())
    except Exception as error:
        raise _broken(error) from None


def resize(image: Image.Image, size: int) -> np.ndarray:
    """Reduce an RGB image to uint8 (3, size, size); of an oblong one, the square in its middle."""
    square = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def content(data: bytes | bytearray | memoryview | IO[bytes]) -> bytes:
    """The bytes of what ``decode`` takes, without the metadata of a PNG."""
    if hasattr(data, "read"):
        file, data = data, bytearray()
        with contextlib.suppress(AttributeError, OSError, ValueError):  # it only runs forward
            file.seek(0)
        while part := file.read(MAX_BYTES + 1 - len(data)):  # a pipe gives little at a time
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
    """Open what ``content`` gave and judge by its header; the pixels stay undecoded."""
    if not data:
        raise ImageError("zero bytes")
    if len(data) > MAX_BYTES:
        raise ImageError("too large")
    if data[4:8] == b"ftyp" and _boxes_end(data) > len(data):
        raise ImageError("truncated")
    try:
        with _opening, warnings.catch_warnings(action="ignore"):
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # ours is below
            try:
                image = Image.open(io.BytesIO(data), formats=FORMATS)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
        animated = image.format not in ALBUMS and getattr(image, "is_animated", False)
    except UnidentifiedImageError:
        raise ImageError("not an image") from None
    except Exception as error:  # a decoder raises whatever a broken file makes it stumble over
        raise _broken(error) from None
    _check_size(image)
    if animated:
        raise ImageError("animated")
    return image


def load(data: bytes, at_least: int | None) -> tuple[Image.Image, list[str]]:
    """Decode what ``content`` gave; also says what is odd about it."""
    image = read_header(data)
    deep = ";16" in str(getattr(image, "tile", ""))  # known until the pixels are decoded
    try:
        with warnings.catch_warnings(action="ignore"):
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
    image.load()
    if image.width * image.height <= LARGE:
        return image
    if image.mode in ("RGB", "L"):
        return image.reduce(2)
    half = image.width // 2, image.height // 2
    return image.resize(half, Image.Resampling.NEAREST)  # reduce would copy it whole, or cannot


def _without_end(data: bytes, at_least: int | None) -> Image.Image:
    """A JPEG of which only the end mark is missing, so that what follows changes no pixel."""
    with contextlib.suppress(Exception):
        data = data.removesuffix(b"\xff")
        ends = [read_header(data + 64 * filler + b"\xff\xd9") for filler in (b"\0", b"\xaa")]
        one, other = (_decoded(end, at_least) for end in ends)
        if one.tobytes() == other.tobytes():
            return one
    raise ImageError("truncated")


def _pixels_only(png: bytes) -> bytes:
    """A PNG without the chunks that hold no pixels: no fault in those hides the picture."""
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
    """Where the last box of an AVIF or HEIC file that the picture needs says that it ends."""
    place, size, end = 0, 8, 0
    while place + 8 <= len(data) and size >= 8:  # 0: to the end of the file
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
    with contextlib.suppress(Exception):  # broken EXIF: taken as it stands
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16 bits; convert() would cut off what exceeds 255
        image = Image.fromarray(TO_EIGHT_BITS[np.asarray(image).clip(0, 65535)])
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _broken(error: Exception) -> ImageError:
    return ImageError("truncated" if "truncated" in str(error).lower() else "damaged")
