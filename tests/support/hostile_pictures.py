"""Pictures that nobody should trust, by name, made here: sizes that are not there, bombs, what is no picture at all."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image
from support.pictures import encoded, jpeg_of_size, png, smooth

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO")
SUFFIX = {"JPEG": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}
NO_PICTURES = {
    "empty.jpg": b"",
    "zeros.png": bytes(100_000),
    "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n(pwned) print\nshowpage\n",
    "pdf.png": b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n",
    "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "page.jpg": b"<script>alert(1)</script>",
    "pickle.png": b"\x80\x04cposix\nsystem\n(S'true'\ntR.",
    "escape.jpg": b"\x1b]0;owned\x07",
}


def pictures() -> dict[str, bytes]:
    """Some eighty, in formats that are read and in none."""
    return NO_PICTURES | _cut() | _claims() | _bombs() | _in_parts()


def _cut() -> dict[str, bytes]:
    """Sound ones, their first half, and with a number changed in their headers."""
    found = {}
    for form in FORMATS:
        data, suffix = encoded(smooth(64, 64), form), SUFFIX.get(form, form.lower())
        found[f"sound.{suffix}"] = data
        found[f"half.{suffix}"] = data[: len(data) // 2]
        for at in (18, 26):
            found[f"turned-{at}.{suffix}"] = data[:at] + b"\xff\xff" + data[at + 2 :]
    return found


def _claims() -> dict[str, bytes]:
    """Of sizes for which there is no memory, and whose pixels are not there."""
    wide = struct.pack("<HH", 65535, 65535)
    jp2 = bytearray(encoded(smooth(64, 64), "JPEG2000"))
    for at in (4, 20):
        struct.pack_into(">II", jp2, jp2.index(b"\xff\x4f\xff\x51") + 4 + at, 60_000, 60_000)
    gif, webp = encoded(smooth(64, 64), "GIF"), encoded(smooth(64, 64), "WEBP", lossless=True)
    bmp = encoded(smooth(64, 64), "BMP")
    return {
        "claims.png": png(60_000, 60_000),
        "claims-2-31.png": png(2**31 - 1, 2**31 - 1),
        "claims-16-bit.png": png(14_000, 14_000, 16, 6),
        "claims.jpg": jpeg_of_size(65_500, 65_500),
        "claims-in-limit.jpg": jpeg_of_size(12_000, 12_000),
        "claims.gif": gif[:6] + wide + gif[10:],
        "claims.tga": bytes([0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0]) + wide + b"\x18\0\xff\1\2\3",
        "claims.ppm": b"P6 60000 60000 255\n",
        "claims-text.ppm": b"P3 60000 60000 255\n1 1 1",
        "claims.bmp": bmp[:18] + struct.pack("<ii", 2**31 - 1, 2**31 - 1) + bmp[26:],
        "claims.webp": webp[:21] + b"\xff\xff\xff\x0f" + webp[25:],
        "claims.jp2": bytes(jp2),
        "claims.ico": b"\0\0\1\0\1\0\0\0\0\0\1\0\x20\0" + struct.pack("<II", 2**31, 22),
    }


def _bombs() -> dict[str, bytes]:
    """Bytes that become many more, or take long."""
    progressive = encoded(smooth(64, 64), progressive=True, quality=90)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    tile = zlib.compress(b"")
    tags = [(256, 128), (257, 128), (258, 8), (259, 8), (262, 1), (277, 1), (322, 26_752), (323, 26_752)]
    tags += [(324, 8), (325, len(tile))]
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    tiff = b"II*\0" + struct.pack("<I", 8 + len(tile)) + tile + struct.pack("<H", len(tags)) + fields + bytes(4)
    frames, moving = [Image.new("RGB", (400, 400), (n, 0, 0)) for n in range(20)], {}
    for form in ("GIF", "PNG", "WEBP", "AVIF", "TIFF"):
        file = io.BytesIO()
        frames[0].save(file, form, save_all=True, append_images=frames[1:], speed=10)  # of AVIF's encoder
        moving[f"moving.{SUFFIX.get(form, form.lower())}"] = file.getvalue()
    shared = bytes(2_000_000)
    exif = b"II*\0" + struct.pack("<I", 8 + len(shared)) + shared + struct.pack("<H", 800)
    exif += b"".join(struct.pack("<HHII", 40_000 + n, 7, len(shared), 8) for n in range(800)) + bytes(4)
    return moving | {
        "scans.jpg": progressive[:-2] + scan * 20_000 + b"\xff\xd9",
        "tile.tif": tiff,
        "shared-exif.webp": encoded(smooth(64, 64), "WEBP", exif=exif),
        "shared-exif.tif": exif,
        "zeros-behind.png": encoded(smooth(64, 64), "PNG") + bytes(20_000_000),
        "flat.png": encoded(np.zeros((3000, 3000, 3), np.uint8), "PNG"),
        "flat.webp": encoded(Image.new("RGB", (3000, 3000)), "WEBP", lossless=True, quality=0, method=0),
        "more-rows.png": png(64, 64, rows=bytes(30_000_000)),
        "text.png": png(64, 64, rows=bytes(64 * 193), zTXt=b"a\0\0" + zlib.compress(bytes(60_000_000))),
        "profile.png": png(64, 64, rows=bytes(64 * 193), iCCP=b"a\0\0" + zlib.compress(bytes(30_000_000))),
        "profile.jpg": encoded(smooth(64, 64), icc_profile=b"\xff" * 100_000),
    }


def _in_parts() -> dict[str, bytes]:
    cmyk = encoded(Image.new("CMYK", (64, 64)))
    chunks, gif = encoded(smooth(64, 64), "PNG"), encoded(smooth(64, 64), "GIF")
    part = b"\0\0\0\0prVt" + zlib.crc32(b"prVt").to_bytes(4)
    return {
        "segments.jpg": cmyk[:2] + b"\xff\xe1\0\x0cExif\0\0abcd" * 300_000 + cmyk[2:],
        "fill.jpg": cmyk[:2] + b"\xff" * 10_000_000 + cmyk[2:],
        "chunks.png": chunks[:33] + part * 300_000 + chunks[33:],
        "blocks.gif": gif[:781] + b"\x21\xf9\4\0\0\0\0\0" * 500_000 + gif[781:],
        "comments.ppm": b"P3\n" + b"#c\n" * 1_000_000 + b"64 64 255\n" + b"#c\n" * 1_000_000 + b"1 " * 12_288,
    }
