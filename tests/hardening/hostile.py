"""Malicious and damaged image files, made from drawn faces."""

import functools
import io
import struct
import zlib

import numpy as np
from PIL import Image

from utkcmp.data.drawing import DrawnFace, draw_face

STAMP = "20170116174525125"


@functools.cache
def face(seed: int = 0) -> Image.Image:
    """A drawn face, RGB, 200 x 200."""
    return draw_face(DrawnFace(np.random.default_rng(seed)))


def stored(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@functools.cache
def broken_images() -> dict[str, bytes]:
    """Files that are not complete images, by their defect."""
    found = {**cut_jpegs(), **cut_pngs(), **wrong_sizes(), **bombs(), **posing()}
    for kind in ("GIF", "BMP", "WEBP", "TIFF", "AVIF"):
        whole = stored(face(), kind)
        for share in (0.01, 0.5, 0.9):
            found[f"{kind} cut at {share:.0%}"] = whole[: int(share * len(whole))]
    return found


@functools.cache
def odd_images() -> dict[str, bytes]:
    """Files with an intact face and broken or foreign data beside it."""
    image = face()
    exif = {
        "that is only a name": b"Exif\0\0",
        "of another byte order": b"Exif\0\0XX\0*\0\0\0\x08",
        "that points far outside": b"Exif\0\0MM\0*\xff\xff\xff\xf0",
        "that points to itself": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0",
        "with a turn of 9": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0",
        "with a turn in words": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0",
        "with 4 billion turns": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0" + b"\xff" * 8,
        "with more entries than bytes": b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        "of 60,000 bytes of noise": b"Exif\0\0" + np.random.default_rng(0).bytes(60_000),
    }
    found = {f"EXIF {what}": stored(image, exif=data) for what, data in exif.items()}
    found |= {
        f"{kind} named .jpg": stored(image, kind)
        for kind in ("PNG", "GIF", "BMP", "WEBP", "TIFF", "AVIF")
    }
    found["JPEG with a program behind it"] = stored(image) + b"#!/bin/sh\ntouch /tmp/owned\n"
    found["JPEG with a page in its comment"] = stored(image, comment=b"<script>alert(1)</script>")
    # Pillow does not notice missing rows.
    body = zlib.compress(bytes(300 * 601))
    found["PNG of fewer pixels than it claims"] = png(200, 600, b"IDAT" + body)
    found["PNG with texts that unpack to gigabytes"] = png(
        200, 200, *20 * [b"zTXtx\0\0" + zlib.compress(bytes(5_000_000))], b"IDAT" + body
    )
    found["JPEG with noise for a colour profile"] = stored(
        image, icc_profile=bytes(range(256)) * 99
    )
    return found


def hostile_names() -> list[str]:
    """Valid face file names that could break a page, a table, a shell or a terminal."""
    parts = [
        *(
            "two blanks",
            "quote'quote",
            'double"quotes"',
            "new\nline",
            "tab\tand\rreturn",
            "back`tick",
        ),
        *(
            "Großmutter",
            "祖母",
            "👵🏽",
            "\u202egpj",
            "e\u0301",
            "\x1b[2J\x1b[31m",
            "\x07",
            "nul%00",
        ),
        *(
            "$(touch owned)",
            ";touch owned;",
            "|touch owned",
            "&amp;",
            "%s%n{0}{}",
            "$\\frac{",
            "a,b;c",
        ),
        *("<script>alert(1)<script>", "<img src=x onerror=alert(1)>", "<!--", "]]>", "{{7*7}}"),
        *("=cmd|' 'A0", "NA", "null", "-rf", "--help", "..", "~", "*", "C:", "x" * 150, "\udce9"),
    ]
    return [f"{20 + place}_0_1_{part}.jpg" for place, part in enumerate(parts)]


# ---- kinds of damage -----------------------------------------------------------------------------


def jpeg_parts(data: bytes) -> list[tuple[int, int]]:
    """Offset and second marker byte of each segment of a JPEG, up to the scan."""
    found, place = [], 2
    while data[place + 1] != 0xDA:
        found.append((place, data[place + 1]))
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return [*found, (place, 0xDA)]


def cut_jpegs() -> dict[str, bytes]:
    """A JPEG truncated at, in and after each of its segments."""
    data, found = stored(face()), {}
    for number, (place, marker) in enumerate(jpeg_parts(data)):
        for more in (0, 3, 6):
            found[f"JPEG cut {more} bytes into part {number} ({marker:X})"] = data[: place + more]
    scan = jpeg_parts(data)[-1][0]
    for share in (0.1, 0.5, 0.9):
        found[f"JPEG cut at {share:.0%} of its scan"] = data[
            : scan + int(share * (len(data) - scan))
        ]
    found["JPEG of its first and last mark"] = b"\xff\xd8\xff\xd9"
    return found


def cut_pngs() -> dict[str, bytes]:
    """A PNG truncated at and in each of its chunks."""
    data, found, place = stored(face(), "PNG"), {}, 8
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        name, end = kind.decode(), place + 12 + length
        found[f"PNG cut before {name} at {place}"] = data[:place]
        found[f"PNG cut in {name} at {place}"] = data[: place + 8 + length // 2]
        if name == "IHDR":
            found["PNG with a wrong sum of its header"] = data[: end - 4] + bytes(4) + data[end:]
        place = end
    del found[f"PNG cut before IEND at {place - 12}"], found[f"PNG cut in IEND at {place - 12}"]
    return found  # these two contain all pixels


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colours: int = 2) -> bytes:
    """A PNG with a header and these chunks, each given as type and content."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    parts = [header, *chunks, b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
        for part in parts
    )


def wrong_sizes() -> dict[str, bytes]:
    """Files whose header declares a size different from that of the pixel data."""
    data = stored(face())
    place = next(place for place, marker in jpeg_parts(data) if marker in (0xC0, 0xC2)) + 5
    sizes = {"no width": (200, 0), "65,535 squared": (65535, 65535), "one row": (1, 200)}
    found = {
        f"JPEG of {what}": data[:place] + struct.pack(">HH", *size) + data[place + 4 :]
        for what, size in sizes.items()
    }
    pixels = b"IDAT" + zlib.compress(bytes(200 * 601))
    for size in ((0, 200), (200, 0), (2**31 - 1, 2**31 - 1), (2**31 - 1, 20), (201, 200)):
        found[f"PNG of {size[0]} x {size[1]}"] = png(*size, pixels)
    bitmap = stored(face(), "BMP")
    for what, at, value in (
        ("width", 18, -1),
        ("width", 18, 2**31 - 1),
        ("height", 22, -(2**31)),
        ("height", 22, 100_000),
        ("start of pixels", 10, 2**31 - 1),
        ("bits", 28, 3),
    ):
        found[f"BMP with {what} {value}"] = (
            bitmap[:at] + struct.pack("<i", value) + bitmap[at + 4 :]
        )
    moving = stored(face(), "GIF")
    screen = moving[:6] + struct.pack("<HH", 0, 0) + moving[10:]
    frame = screen.index(b"\x2c", 13 + 3 * 256)
    found["GIF whose frame is larger than all"] = (
        screen[: frame + 5] + struct.pack("<HH", 65535, 65535) + screen[frame + 9 :]
    )
    return found


def bombs() -> dict[str, bytes]:
    """Decompression bombs: small files that expand to huge images or texts."""
    huge = zlib.compress(bytes(50_000_000))
    return {
        "PNG bomb of 3.6 billion pixels": png(60_000, 60_000, b"IDAT" + huge),
        "PNG bomb just above the limit": png(25_000, 10_001, b"IDAT" + huge, colours=0, bits=1),
        "PNG bomb in its text": png(200, 200, b"zTXtx\0\0" + huge, b"IDAT" + huge[:100]),
        "PNG bomb in its profile": png(200, 200, b"iCCPx\0\0" + huge, b"IDAT" + huge[:100]),
        "GIF bomb of 4 billion pixels": b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
        + b"\x2c"
        + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
        + b"\x08\x01\0\0;",
        "WebP bomb of 268 million pixels": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0"
        + b"\xff\x3f\0\xff\x3f\0",
    }


def posing() -> dict[str, bytes]:
    """Other content under the name of an image, and images that are not accepted."""
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    return {
        "nothing": b"",
        "zeros": bytes(5000),
        "noise": np.random.default_rng(0).bytes(5000),
        "SVG": svg,
        "SVG behind a JPEG's first bytes": b"\xff\xd8\xff\xe0" + svg,
        "HTML": b"<!doctype html><script>alert(1)</script>",
        "XML that expands itself": b'<!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "&b;&b;">]><a>&c;</a>',
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch owned) system\n",
        "PDF": b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj",
        "a program": b"\x7fELF\x02\x01\x01" + bytes(200),
        "a script": b"#!/bin/sh\ntouch owned\n",
        "a pickle": b"cposix\nsystem\n(S'touch owned'\ntR.",
        "an icon": stored(face().resize((64, 64)), "ICO"),
        "PPM": stored(face(), "PPM"),
        "a moving GIF": stored(face(), "GIF", save_all=True, append_images=[face(1)]),
        "a picture of one pixel": stored(Image.new("RGB", (1, 1))),
    }
