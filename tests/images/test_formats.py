"""Formats beyond the web's: read as Pillow and its plug-ins read them, named where a plug-in is missing, and bounded."""

from __future__ import annotations

import io
import struct
import sys
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image, PngImagePlugin
from support.pictures import ADOBE_RGB, encoded, jpeg_with_segment, pillow, rgb_profile, smooth
from support.thorough import slow_ones

from condprep.errors import Rejected
from condprep.images.decode import decode
from condprep.images.exif import exif_orientation
from condprep.images.readers import jxl_size

ADOBE = rgb_profile(2.2, ADOBE_RGB)


def saved(format: str, mode: str = "RGB", size: tuple[int, int] = (20, 31), **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(smooth(*size)).convert(mode).save(file, format, **options)
    return file.getvalue()


CASES = {
    "JPEG 2000": saved("JPEG2000"),
    "JPEG 2000 codestream": saved("JPEG2000", no_jp2=True),
    "PPM": saved("PPM"),
    "PGM": saved("PPM", "L"),
    "PBM": saved("PPM", "1"),
    "plain PPM": b"P3 2 1 255 1 2 3 250 251 252",
    "TGA": saved("TGA"),
    "TGA with alpha": saved("TGA", "RGBA"),
    "packed TGA": saved("TGA", compression="tga_rle"),
    "palette TGA": saved("TGA", "P"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_format_reads_as_pillow_reads_it(name: str) -> None:
    """JPEG 2000, the PPM family and TGA: Pillow's pixels, alpha on white; none keeps its bytes in a dataset."""
    picture = decode(CASES[name])
    seen = Image.open(io.BytesIO(CASES[name])).convert("RGBA")
    white = Image.new("RGBA", seen.size, "white")
    assert np.array_equal(picture.rgb, np.asarray(Image.alpha_composite(white, seen).convert("RGB")))
    assert not picture.pristine


def test_a_grey_picture_of_16_bits_keeps_its_high_byte() -> None:
    """As 16-bit PNGs do."""
    pixels = np.arange(0, 65536, 64, dtype=">u2")
    assert np.array_equal(decode(b"P5 1024 1 65535 " + pixels.tobytes()).rgb[0, :, 1], pixels >> 8)


def test_an_icon_gives_its_largest_picture() -> None:
    """Of several sizes the first in Pillow's order, the largest."""
    data = saved("ICO", size=(64, 64), sizes=[(16, 16), (48, 48)])
    assert decode(data).size == (48, 48)


def test_an_icon_that_hides_a_bomb_is_refused() -> None:
    """Its directory says 16 x 16, the PNG inside says more than the limit: no memory is taken for it."""
    data = saved("ICO", size=(64, 64), sizes=[(64, 64)])
    at = data.index(b"IHDR")
    header = b"IHDR" + struct.pack(">II", 30_000, 30_000) + data[at + 12 : at + 17]
    bomb = data[:at] + header + struct.pack(">I", zlib.crc32(header)) + data[at + 21 :]
    with pytest.raises(Rejected, match=r"ICO|limit"):
        decode(bomb, max_pixels=1_000_000)


def test_heic_is_read_where_its_reader_is_installed() -> None:
    """The size and, but for what the codec loses, the pixels; an upright picture whatever its orientation."""
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif.from_pillow(Image.fromarray(smooth(64, 96))).save(file, quality=95)
    picture = decode(file.getvalue())
    assert picture.size == (64, 96)
    assert np.abs(picture.rgb.astype(int) - smooth(64, 96)).mean() < 4


@pytest.mark.parametrize("size", [(8, 8), (20, 31), (256, 256), (300, 500), (48, 40), (9, 1)])
def test_jpeg_xl_is_read_where_its_reader_is_installed(size: tuple[int, int]) -> None:
    """Lossless is the very picture; the size is known before its reader, which decodes at once, is called."""
    pytest.importorskip("pillow_jxl")
    data = saved("JXL", size=size, lossless=True)
    assert jxl_size(data) == size
    assert np.array_equal(decode(data).rgb, smooth(*size))
    with pytest.raises(Rejected, match="limit"):
        decode(data, max_pixels=size[0] * size[1] - 1)


@pytest.mark.parametrize(
    ("data", "module", "extra"),
    [(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow_heif", "heif"), (b"\xff\x0a\x00", "pillow_jxl", "jxl")],
)
def test_a_missing_reader_is_named_with_the_remedy(data: bytes, module: str, extra: str, monkeypatch) -> None:
    """What would be read says how."""
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("condprep.images.decode.jxl_size", lambda data: (1, 1))
    with pytest.raises(Rejected, match=rf"pip install 'condprep\[{extra}\]'"):
        decode(data)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("place", ["after", *slow_ones(["before"])])
def test_a_png_with_a_workflow_of_megabytes_keeps_its_pixels(compressed: bool, place: str) -> None:
    """Text of any size, before the pixels or after them, packed or not; other readers refuse it, so its bytes are not kept."""
    info = PngImagePlugin.PngInfo()
    for _ in range(1 if compressed else 70):
        info.add_text("workflow", "x" * (3 << 20), zip=compressed)
    data = saved("PNG", pnginfo=info)
    if place == "after":
        at = data.index(b"zTXt" if compressed else b"tEXt") - 4
        end = data.index(b"IDAT") - 4
        data = data[:at] + data[end:-12] + data[at:end] + data[-12:]
    with pytest.raises(ValueError, match="MAX_TEXT"):
        Image.open(io.BytesIO(data)).load()
    picture = decode(data)
    assert np.array_equal(picture.rgb, smooth(20, 31))
    assert not picture.pristine


def test_a_png_with_a_profile_of_megabytes_is_read_through_it() -> None:
    """What follows the end of the profile proper changes no colour; the profile still does."""
    plain, padded = (saved("PNG", icc_profile=profile) for profile in (ADOBE, ADOBE + bytes(2 << 20)))
    assert np.array_equal(decode(padded).rgb, decode(plain).rgb)
    assert not np.array_equal(decode(plain).rgb, smooth(20, 31))


def test_a_jpeg_of_unusual_subsampling_is_read() -> None:
    """4:4:1, that is one sample of colour for four lines: Pillow's pixels."""
    data = bytearray(simplejpeg.encode_jpeg(smooth(64, 64), 95, "RGB", "411"))
    data[data.index(b"\xff\xc0") + 11] = 0x14
    assert np.array_equal(decode(bytes(data)).rgb, pillow(bytes(data)))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [3, 4, 8, 9])
def test_orientation_may_be_a_number_of_any_width(order: str, kind: int) -> None:
    """Some cameras write a LONG where the standard has a SHORT; Pillow turns both."""
    value = struct.pack(order + ("HH" if kind in (3, 8) else "I"), *((6, 0) if kind in (3, 8) else (6,)))
    header = b"II*\0" if order == "<" else b"MM\0*"
    exif = header + struct.pack(order + "IHHHI", 8, 1, 0x0112, kind, 1) + value + bytes(4)
    assert exif_orientation(exif) == 6
    data = jpeg_with_segment(encoded(smooth(20, 33)), 0xE1, b"Exif\0\0" + exif)
    assert np.array_equal(decode(data).rgb, pillow(data))
    assert decode(data).size == (33, 20)
