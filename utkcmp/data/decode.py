"""Pictures decoded to upright RGB, with every kind of broken file told apart."""

import contextlib
import io
import warnings

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from utkcmp.data.archives import MAX_BYTES

MIN_SIDE, MAX_PIXELS = 16, 50_000_000  # a smaller or larger picture is rejected before decoding
TO_EIGHT_BITS = (np.arange(2**16) / 257).round().astype(np.uint8)  # a lookup: less memory
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # what a .jpg or .png may turn out to be


class ImageError(ValueError):
    """A file that is rejected; the text is the reason in a few words."""


# ---- pictures ------------------------------------------------------------------------------------


def decode(data: bytes, at_least: int | None = None) -> Image.Image:
    """Decode one picture to upright RGB, 8 bits a channel, transparent parts on white.

    Turned as EXIF says; greyscale, palette, CMYK and 16-bit pictures are converted. The size in
    the header is checked first, so a decompression bomb is never unpacked.
    at_least: pixels per side that are enough; a JPEG may then come at a half, a quarter or an
    eighth of its size, which is faster. None gives the picture as it is.
    Raises ImageError, whose text is one of: zero bytes, not an image, too large, too small,
    animated, truncated, damaged.
    """
    return _upright_rgb(_open(data), at_least)[0]


def upright(image: Image.Image) -> Image.Image:
    """The same for a picture that is open already, which stays as it is. Raises ImageError too."""
    _check_size(image)
    try:
        image.load()
    except Exception as error:
        raise _broken(error) from None
    return _upright_rgb(image.copy(), None)[0]


def resize(image: Image.Image, size: int) -> np.ndarray:
    """Reduce an RGB image to uint8 (3, size, size); of an oblong one, the square in its middle."""
    square = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _open(data: bytes) -> Image.Image:
    """Read the header and judge by it; the pixels stay undecoded."""
    if not data:
        raise ImageError("zero bytes")
    if len(data) > MAX_BYTES:
        raise ImageError("too large")
    try:
        with _no_warnings():
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        animated = image.format != "MPO" and getattr(image, "is_animated", False)
    except UnidentifiedImageError:
        raise ImageError("not an image") from None
    except Image.DecompressionBombError:
        raise ImageError("too large") from None
    except Exception as error:  # a decoder raises whatever a broken file makes it stumble over
        raise _broken(error) from None
    _check_size(image)
    if animated:
        raise ImageError("animated")
    return image


@contextlib.contextmanager
def _no_warnings():
    """Pillow's warnings of what is wrong with a file kept off the page; its errors stay."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError("too large")
    if min(image.size) < MIN_SIDE:
        raise ImageError("too small")


def _upright_rgb(image: Image.Image, at_least: int | None) -> tuple[Image.Image, list[str]]:
    """Decode a picture whose header has been read; also gives what is odd about it."""
    deep = ";16" in str(
        getattr(image, "tile", "")
    )  # how the file holds its pixels, known until they are decoded
    try:
        if at_least:
            image.draft(None, (at_least, at_least))
        with _no_warnings():
            image.load()
    except Exception as error:
        raise _broken(error) from None
    notes = _picture_notes(image, deep)
    with (
        contextlib.suppress(Exception),
        _no_warnings(),
    ):  # broken EXIF: the picture is taken as it stands
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16 bits; convert() would cut off what exceeds 255
        image = Image.fromarray(TO_EIGHT_BITS[np.asarray(image).clip(0, 65535)])
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB"), notes


def _broken(error: Exception) -> ImageError:
    return ImageError("truncated" if "truncated" in str(error).lower() else "damaged")


def _picture_notes(image: Image.Image, deep: bool) -> list[str]:
    turned = False
    with contextlib.suppress(Exception), _no_warnings():
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    odd = {
        "greyscale": image.mode in ("1", "L", "LA") or image.mode.startswith("I"),
        "CMYK": image.mode == "CMYK",
        "palette": image.mode == "P",
        "16-bit": deep,
        "transparent": image.has_transparency_data,
        "EXIF rotation": turned,
    }
    return [note for note, holds in odd.items() if holds]
