"""Decoding what is damaged, hostile or no picture: always a Rejected with a reason, never a word on stderr."""

from __future__ import annotations

import io
import struct
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from support.pictures import encoded, jpeg_of_size, jpeg_with_segment, png, smooth, with_orientation
from support.thorough import share

from condprep.errors import Rejected
from condprep.images.cost import _pairs
from condprep.images.decode import Picture, decode
from condprep.images.exif import jpeg_metadata
from condprep.runtime.quiet import quiet_pillow

FORMATS = ("JPEG", "PNG", "WebP", "AVIF", "GIF", "BMP", "TIFF")
GOOD = {
    format: with_orientation(smooth(), format, 6) if format in ("JPEG", "TIFF") else encoded(smooth(), format)
    for format in FORMATS
}
GOOD |= {
    "progressive": encoded(smooth(), progressive=True),
    "CMYK": encoded(Image.fromarray(smooth()).convert("CMYK")),
    "deflated TIFF": encoded(smooth(), "TIFF", compression="tiff_deflate"),
    "palette": encoded(Image.fromarray(smooth()).convert("P"), "PNG", transparency=3),
}


def reason(data: bytes, **options: object) -> str:
    """Why the bytes were rejected."""
    with pytest.raises(Rejected) as rejected:
        decode(data, **options)
    assert rejected.value.stage == "decode"
    return rejected.value.reason


# no picture


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty file"),
        (b"<html><body>404", "not a picture of a known format: starts with b'<html><body>'"),
        (b"\0" * 100, "not a picture"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a picture"),
        (b"%PDF-1.7\n", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a picture"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    ],
)
def test_what_is_no_picture_is_named_by_its_first_bytes(data: bytes, expected: str) -> None:
    """The reason shows what the file starts with; nothing that interprets a language is ever opened."""
    assert expected in reason(data)


def test_the_content_decides_not_the_name_or_the_claim() -> None:
    """A PNG is a PNG whatever it is called, and a magic number with nothing behind it is a broken one."""
    for start in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"BM", b"II*\0"):
        assert reason(start).startswith(("broken", "truncated"))


# bombs


@pytest.mark.parametrize(
    "data",
    [
        png(30_000, 30_000),
        jpeg_of_size(60_000, 60_000),
        b"GIF89a" + struct.pack("<HHBBB", 65_000, 65_000, 0, 0, 0) + b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;",
        b"BM" + struct.pack("<IIIIiiHH24x", 54, 0, 54, 40, 40_000, 40_000, 1, 24),
        encoded(smooth(8, 8), "TIFF").replace(
            struct.pack("<HHII", 256, 4, 1, 8), struct.pack("<HHII", 256, 4, 1, 10**9)
        ),
    ],
    ids=["PNG", "JPEG", "GIF", "BMP", "TIFF"],
)
def test_a_bomb_is_refused_by_its_header(data: bytes, tmp_path) -> None:
    """Hundreds of megapixels in a few bytes: refused by size, and no memory for pixels is ever asked for."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "limit" in reason(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_the_limit_is_the_callers() -> None:
    """Exactly max_pixels pass; one fewer allowed, and the reason gives the size and the limit."""
    data = encoded(np.zeros((1000, 2000, 3), np.uint8))
    assert decode(data, max_pixels=2_000_000).size == (1000, 2000)
    assert reason(data, max_pixels=1_999_999) == "2000 x 1000 px = 2 Mpx > limit 2 Mpx"


# damage


@pytest.mark.parametrize("name", GOOD)
def test_a_cut_picture_is_a_reject_with_its_reason(name: str) -> None:
    """Half of a file, of any format, is not a picture unless the caller allows it."""
    data = GOOD[name]
    assert reason(data[: len(data) // 2]).startswith(("truncated", "broken"))


@pytest.mark.parametrize("name", ["JPEG", "progressive", "PNG", "WebP", "GIF", "BMP"])
def test_a_cut_is_called_a_cut(name: str) -> None:
    """The usual formats say that the file is truncated, in these words."""
    data = GOOD[name]
    assert reason(data[: len(data) // 2]).startswith("truncated")


def test_a_jpeg_without_its_last_marker_is_truncated() -> None:
    """Two bytes short is short."""
    assert reason(GOOD["JPEG"][:-2]) == "truncated JPEG"


def test_a_jpeg_damaged_inside_is_a_reject() -> None:
    """With bytes missing from the middle of the scan it is broken, though its end is there."""
    data = encoded(smooth(200, 300), quality=95)
    middle = len(data) // 2
    assert "JPEG" in reason(data[:middle] + data[middle + 200 :])


def test_harmless_complaints_about_a_header_are_no_reason() -> None:
    """A JFIF version nobody knows does not cost a good picture, but its bytes are written anew."""
    data = GOOD["progressive"].replace(b"JFIF\0\x01", b"JFIF\0\x07")
    picture = decode(data)
    assert np.array_equal(picture.rgb, decode(GOOD["progressive"]).rgb)
    assert not picture.pristine


@pytest.mark.parametrize("name", ["JPEG", "progressive", "grey", "CMYK", "PNG", "palette", "BMP"])
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_truncated_pictures_are_kept_where_allowed(name: str, share: float, monkeypatch) -> None:
    """The readable part is that of Pillow's LOAD_TRUNCATED_IMAGES, which stays untouched; never pristine."""
    image, format = Image.fromarray(smooth(160, 240)), name if name in ("PNG", "BMP") else "JPEG"
    mode = {"grey": "L", "CMYK": "CMYK", "palette": "P"}.get(name, "RGB")
    data = encoded(image.convert(mode), "PNG" if mode == "P" else format, progressive=name == "progressive", quality=95)
    cut = data[: int(len(data) * share)]
    picture = decode(cut, allow_truncated=True)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert not picture.pristine
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert np.array_equal(picture.rgb, np.asarray(Image.open(io.BytesIO(cut)).convert("RGB")))


@pytest.mark.parametrize("name", GOOD)
def test_allowing_truncation_changes_nothing_for_a_whole_picture(name: str) -> None:
    """The same pixels and the same verdict on the bytes, with and without."""
    strict, lenient = decode(GOOD[name]), decode(GOOD[name], allow_truncated=True)
    assert np.array_equal(strict.rgb, lenient.rgb)
    assert strict.pristine == lenient.pristine


# fuzz


def outcome(data: bytes, **options: object) -> str:
    """Why the bytes were rejected; else "", after a look at the picture."""
    try:
        picture = decode(data, max_pixels=1_000_000, **options)
    except Rejected as rejected:
        return rejected.reason
    assert isinstance(picture, Picture)
    assert picture.rgb.size > 0
    return ""


@settings(
    max_examples=share(600),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.sampled_from(sorted(GOOD)), st.data(), st.booleans())
def test_fuzzed_pictures_only_ever_raise_rejected(capfd, name: str, data: st.DataObject, lenient: bool) -> None:
    """Bytes flipped anywhere, then a cut: a picture or a Rejected, and neither Python nor a C library prints."""
    damaged = bytearray(GOOD[name])
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255)), max_size=6)):
        damaged[at] = value
    for end in (len(damaged), data.draw(st.integers(0, len(damaged)))):
        said = outcome(bytes(damaged[:end]), allow_truncated=lenient)
        assert said == "" or said.isprintable()
        assert len(said) < 300
    assert capfd.readouterr() == ("", "")


@settings(max_examples=share(300), deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_have_jpeg_metadata(data: bytes) -> None:
    """The segment reader takes anything that may follow a JPEG's first marker."""
    assert 1 <= jpeg_metadata(b"\xff\xd8" + data).orientation <= 8


def test_a_profile_in_pieces_is_put_together_in_order() -> None:
    """ICC chunks in any order are joined by number; with one missing there is no profile."""
    pieces = [b"ICC_PROFILE\0" + bytes([number, 3]) + text for number, text in ((1, b"ab"), (3, b"ef"), (2, b"cd"))]
    data = GOOD["progressive"]
    for piece in pieces:
        data = jpeg_with_segment(data, 0xE2, piece)
    assert jpeg_metadata(data).icc == b"abcdef"
    assert jpeg_metadata(jpeg_with_segment(GOOD["progressive"], 0xE2, pieces[0])).icc is None


# warnings


def test_pillows_warnings_are_off_only_while_it_decodes() -> None:
    """Overlapping users in several threads leave the filters as they were found, however they interleave."""
    before = list(warnings.filters)
    barrier = threading.Barrier(4)

    def use(number: int) -> None:
        barrier.wait()
        for _ in range(50):
            with quiet_pillow():
                pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(4)))
    assert warnings.filters == before


def test_threads_decode_what_one_thread_decodes() -> None:
    """Every kind of picture, from eight threads at once, gives the pixels it gives alone."""
    names = sorted(GOOD) * 6
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda name: decode(GOOD[name]).rgb, names))
    for name, rgb in zip(names, together, strict=True):
        assert np.array_equal(rgb, decode(GOOD[name]).rgb), name


@given(st.lists(st.sampled_from([0xFF, 0xDA, 0]), max_size=40).map(bytes))
def test_scans_are_counted_as_bytes_count_them(data: bytes) -> None:
    """Wherever the two bytes of a scan's marker lie, at even places or odd ones, first or last."""
    assert _pairs(data, b"\xff\xda") == data.count(b"\xff\xda")
