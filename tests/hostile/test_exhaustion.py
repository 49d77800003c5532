"""What would take more memory or time than its bytes are worth is known before it is unpacked, and costs only itself."""

from __future__ import annotations

import io
import struct
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.datasets import rows_of
from support.pictures import encoded, jpeg_of_size, png, smooth

import condprep
from condprep.dataset.arrow import IMAGE
from condprep.dataset.reader import RowGroup, Shard, batches, parts, read_part
from condprep.errors import DatasetError, Rejected, SourceError
from condprep.images.cost import MAX_METADATA, MAX_PARTS, MAX_SCANS
from condprep.images.decode import decode, header, rgb_pixels
from condprep.images.extent import within_its_end
from condprep.runtime.concurrency import ordered_map
from condprep.runtime.parquet_pages import TooLarge, check_whole, sound_rows
from condprep.sources.open import open_source

LONG = 1_000_000  # bytes of a caption


# tables


def repeating(rows: int, size: int = LONG) -> pa.Array:
    """So many rows of one long caption, which is there once."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * size]))


def in_lists(rows: int) -> pa.Array:
    """The same in the list of a single row."""
    return pa.ListArray.from_arrays(pa.array([0, rows], pa.int32()), pa.array(["x" * LONG] * rows))


def parquet(path: Path, **columns: pa.Array) -> Path:
    pq.write_table(pa.table(columns), path, compression="zstd", store_schema=False)
    return path


@pytest.mark.slow
def test_captions_that_all_rows_share_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    """16 GB of captions in half a kilobyte of Parquet: each batch stays within 128 MB."""
    path = parquet(tmp_path / "1.parquet", text=repeating(16_000))
    assert path.stat().st_size < 1000
    first = next(batches(path, ["text"]))
    assert 1 < len(first) < 140
    with pytest.raises(TooLarge, match=r"a row group of column 'text' takes 16,000,000,000 bytes"):
        check_whole(path)
    with pytest.raises(DatasetError, match="its rows take more than"):
        read_part(RowGroup(Shard(path, "train"), 0, 16_000), ["text"])


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (lambda: in_lists(140), "a list in column 'text.list.element' takes 140,000,000 bytes"),
        (lambda: pa.array(["x" * 150_000_000]), "bytes of column 'text' would become 150,000,0"),
    ],
    ids=["a list", "a page"],
)
def test_a_row_out_of_proportion_is_damage(tmp_path: Path, column: Callable[[], pa.Array], told: str) -> None:
    """One row that would take much of the memory by itself is named with what it would take, and not read."""
    path = parquet(tmp_path / "1.parquet", text=column())
    with pytest.raises(DatasetError, match=told):
        next(batches(path, ["text"]))


@pytest.mark.slow
def test_a_listing_out_of_proportion_is_refused_in_a_zip_too(tmp_path: Path) -> None:
    """Pages that become 150 MB, and captions of 2 GB that all rows share: a listing that would take minutes is no listing."""
    names, (beside, within) = {"file_name": pa.array(["0.png"] * 2000)}, (tmp_path / "beside", tmp_path / "within")
    for folder in (beside, within):
        folder.mkdir()
        (folder / "0.png").write_bytes(encoded(smooth(64, 64), "PNG"))
    one = {"file_name": pa.array(["0.png"]), "text": pa.array(["x" * 150_000_000])}
    for columns in (names | {"text": repeating(2000)}, one):
        listing = parquet(beside / "metadata.parquet", **columns)
        with zipfile.ZipFile(within / "0.zip", "w") as file:
            file.write(listing, listing.name)
            file.write(beside / "0.png", "0.png")
        for source in (beside, within / "0.zip"):
            with pytest.raises(SourceError, match="bytes"):
                list(open_source(source).entries())
    parquet(beside / "metadata.parquet", **names | {"text": repeating(2000, 1000)})
    assert [entry.problem is None for entry in open_source(beside).entries()].count(True) == 1


def test_ordinary_tables_are_read_as_ever(tmp_path: Path) -> None:
    """Pictures, captions, lists of captions, numbers, with and without compression, in any version of pages: all rows."""
    noise = np.random.default_rng(0)
    columns = {
        "image": pa.array([{"bytes": noise.bytes(20_000), "path": None} for _ in range(300)], IMAGE),
        "text": pa.array([f"a caption {n}" for n in range(300)]),
        "texts": pa.array([[f"one of {n}", "the same"] for n in range(300)], pa.list_(pa.string())),
        "transform": pa.array([[1.0, 0, 0, 0, 1.0, 0]] * 300, pa.list_(pa.float64())),
        "nulls": pa.nulls(300, pa.string()),
    }
    for number, how in enumerate(({"compression": "none"}, {"compression": "zstd"}, {"data_page_version": "2.0"})):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=100, **how)
        assert sum(map(len, batches(path, list(columns)))) == 300
        assert [read_part(part, list(columns)).num_rows for part in parts(Shard(path, "train"))] == [100] * 3
        assert min(map(len, sound_rows(path, ["text", "nulls"], 1000))) >= 100
        check_whole(path)


def test_a_table_without_rows_is_no_damage(tmp_path: Path) -> None:
    """Its row group has no pages, and the offsets of those that are not there say nothing."""
    pq.write_table(pa.table({"image": pa.array([], IMAGE), "text": pa.array([], pa.string())}), tmp_path / "0.parquet")
    assert sum(map(len, batches(tmp_path / "0.parquet", ["image", "text"]))) == 0


@pytest.mark.parametrize("packer", ["zstd", "lz4"])
def test_a_compressed_batch_out_of_proportion_is_damage(tmp_path: Path, packer: str) -> None:
    """An Arrow file of kilobytes whose captions would take 150 MB; the same with less is read."""
    for size, told in ((150_000_000, "of a compressed batch would become 150,0"), (1000, None)):
        path, table = tmp_path / f"{size}.arrow", pa.table({"text": ["x" * size]})
        with pa.ipc.new_stream(str(path), table.schema, options=pa.ipc.IpcWriteOptions(compression=packer)) as stream:
            stream.write_table(table)
        if told:
            with pytest.raises(DatasetError, match=told):
                list(batches(path, ["text"]))
        else:
            assert sum(map(len, batches(path, ["text"]))) == 1


@pytest.mark.parametrize("kind", [pa.string_view(), pa.list_view(pa.string()), pa.dictionary(pa.int32(), pa.string())])
def test_types_that_repeat_values_are_not_read(tmp_path: Path, kind: pa.DataType) -> None:
    """Views, dictionaries: a row of theirs may be a terabyte. They are named, with the remedy."""
    values = pa.array(["a"]).cast(kind) if not pa.types.is_list_view(kind) else pa.array([["a"]], kind)
    with pa.ipc.new_stream(str(tmp_path / "1.arrow"), pa.schema({"text": kind})) as stream:
        stream.write_table(pa.table({"text": values}))
    with pytest.raises(DatasetError, match="write it as plain strings or lists"):
        list(batches(tmp_path / "1.arrow", ["text"]))


# pictures


def jpeg(**how: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(smooth(64, 64)).save(file, "JPEG", **how)
    return file.getvalue()


def test_a_jpeg_of_thousands_of_scans_is_a_reject(tmp_path: Path) -> None:
    """20,000 scans that change nothing would take minutes; one of an honest number is decoded."""
    progressive = jpeg(progressive=True, quality=90)
    decode(progressive)
    last = progressive.rindex(b"\xff\xda")
    scan = progressive[last:-2]
    hostile = progressive[:-2] + scan * 20_000 + b"\xff\xd9"
    began = time.process_time()
    for act in (decode, header):
        with pytest.raises(Rejected, match=f"scans > limit {MAX_SCANS}") as told:
            act(hostile)
        assert told.value.code == "too-costly"
    assert time.process_time() - began < 5


def test_a_jpeg_of_megabytes_of_exif_is_a_reject() -> None:
    """98 MB of EXIF segments are not put together, but refused."""
    segment = b"\xff\xe1\xff\xff" + b"Exif\0\0".ljust(65533, b"\0")
    whole = jpeg()
    hostile = whole[:2] + segment * (98_000_000 // len(segment)) + whole[2:]
    for act in (decode, header):
        with pytest.raises(Rejected, match=f"before its pixels > limit {MAX_METADATA:,}"):
            act(hostile)
    assert decode(whole[:2] + segment * 10 + whole[2:]).size == (64, 64)


def in_front(picture: bytes, at: int, parts: bytes) -> bytes:
    return picture[:at] + parts + picture[at:]


CMYK = encoded(Image.new("CMYK", (64, 64)), "JPEG")  # is read by Pillow, which takes a segment after the other
PNG, GIF = encoded(smooth(64, 64), "PNG"), encoded(smooth(64, 64), "GIF")
IN_PARTS = {
    "EXIF that grows with each of 250,000 segments": (CMYK, 2, b"\xff\xe1\0\x0cExif\0\0abcd", 250_000),
    "a JPEG's fill bytes": (CMYK, 2, b"\xff", 20_000_000),
    "what lies between a JPEG's segments": (CMYK, 18, b"\0", 20_000_000),
    "markers without a length": (CMYK, 2, b"\xff\xd0", 5_000_000),
    "chunks that nobody knows": (PNG, 33, b"\0\0\0\0prVt" + zlib.crc32(b"prVt").to_bytes(4), 500_000),
    "chunks of pixels that are empty": (PNG, 33, b"\0\0\0\0IDAT" + zlib.crc32(b"IDAT").to_bytes(4), 500_000),
    "a GIF's extensions": (GIF, 13 + 768, b"\x21\xf9\4\0\0\0\0\0", 1_000_000),
    "a GIF's comments": (GIF, 13 + 768, b"\x21\xfe\x02cc\0", 1_000_000),
    "a PPM's comments": (b"P6\n64 64 255\n" + bytes(64 * 64 * 3), 3, b"#" + b"c" * 100 + b"\n", 100_000),
    "a PPM of text": (b"P3\n64 64 255\n" + b"0 " * 64 * 64 * 3, 3, b" ", 40_000_000),
}


@pytest.mark.parametrize("name", IN_PARTS)
def test_what_is_read_a_part_at_a_time_is_counted(name: str) -> None:
    """Megabytes of parts that say nothing take minutes to read: a reject in no time; some of them are no trouble."""
    picture, at, part, times = IN_PARTS[name]
    assert decode(in_front(picture, at, part * 50)).size == (64, 64)
    hostile, began = in_front(picture, at, part * times), time.process_time()
    for act in (decode, header):
        with pytest.raises(Rejected) as told:
            act(hostile)
        assert told.value.code == "too-costly"
    assert time.process_time() - began < 5


def test_jpegs_have_as_many_segments_as_they_like_within_reason() -> None:
    """The limit itself is no fault, one more is."""
    segment = b"\xff\xfe\0\2"
    own = jpeg().count(b"\xff\xdb") + 5  # tables, sizes, JFIF: fewer than a dozen
    assert decode(in_front(jpeg(), 2, segment * (MAX_PARTS - 2 * own))).size == (64, 64)
    with pytest.raises(Rejected, match="more than 10,000 segments"):
        decode(in_front(jpeg(), 2, segment * (MAX_PARTS + 1)))


@pytest.mark.parametrize(
    "start", [b"P6\n9 8\n254\n", b"P6 9 8 1023\n", b"P5 9 8 7\n", b"P5 9 8 4095\n", b"P6 9 8 65535\n"]
)
def test_ppm_of_any_range_is_what_pillow_reads(start: bytes) -> None:
    """Stretched to a byte in one go: to the last level the pixels that Pillow finds one by one, values out of range too."""
    data = start + np.random.default_rng(0).bytes(9 * 8 * 6)
    image = Image.open(io.BytesIO(data))
    expected = rgb_pixels(image)
    assert np.array_equal(decode(data).rgb, expected)


@pytest.mark.parametrize("hollow", [png(14_000, 14_000, 16, 6), png(30_000, 6_000), jpeg_of_size(12_000, 12_000)])
def test_pixels_that_cannot_be_there_take_no_memory(hollow: bytes) -> None:
    """A size within the limit, and fewer bytes than so many pixels take at the very least: cut off, before memory is taken."""
    tracemalloc.start()
    with pytest.raises(Rejected) as told:
        decode(hollow)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert told.value.code == "truncated"
    assert peak < 10_000_000
    flat = encoded(np.zeros((6000, 6000, 3), np.uint8), "JPEG", quality=1, optimize=True)
    assert decode(flat, reduction=lambda _: 8).size == (6000, 6000)


def test_a_tiff_of_one_enormous_tile_is_a_reject() -> None:
    """128 x 128 pixels in a tile of 26,752 squared, which would be unpacked as a whole; honest tiles are decoded."""
    for side, fits in ((128, True), (26_752, False)):
        data = tiled(side)
        if fits:
            assert decode(data).size == (128, 128)
        else:
            with pytest.raises(Rejected, match="in tiles of 26752 x 26752 px"):
                decode(data)


def tiled(side: int) -> bytes:
    """A grey TIFF of 128 x 128 in one packed tile."""
    tile = zlib.compress(bytes(side * side) if side < 1000 else b"")
    tags = [
        (256, 128),
        (257, 128),
        (258, 8),
        (259, 8),
        (262, 1),
        (277, 1),
        (322, side),
        (323, side),
        (324, 8),
        (325, len(tile)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(tile)) + tile + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_what_lies_behind_a_picture_is_not_kept(tmp_path: Path, format: str) -> None:
    """Zeros, an end marker, another picture behind the first: the row holds the picture to its end, and no more."""
    file = io.BytesIO()
    Image.fromarray(smooth(64, 64)).save(file, format)
    whole = file.getvalue()
    assert within_its_end(whole) is whole
    (tmp_path / "raw").mkdir()
    for number, tail in enumerate((bytes(1_000_000), b"\xff\xd9", b"\n", whole, b"IEND" * 9)):
        assert within_its_end(whole + tail) == whole
        (tmp_path / "raw" / f"{number}.{format.lower()}").write_bytes(whole + tail)
    condprep.build(tmp_path / "raw", tmp_path / "ds", "canny", fit="keep")
    assert [row["image"]["bytes"] for row in rows_of(tmp_path / "ds")] == [whole] * 5


def test_progressive_jpegs_end_where_they_end() -> None:
    """Also those with several scans, and with segments between them that look like an end."""
    progressive = jpeg(progressive=True)
    last = progressive.rindex(b"\xff\xc4", 0, progressive.rindex(b"\xff\xda"))
    comment = b"\xff\xfe\x00\x06\xff\xd9\xff\xd9"
    for whole in (progressive, progressive[:last] + comment + progressive[last:]):
        assert decode(whole).pristine
        assert within_its_end(whole) == whole
        assert within_its_end(whole + b"\xff\xd9tail") == whole


# what is under way


def test_what_is_under_way_is_weighed() -> None:
    """Never more than the limit together, however many threads there are; what is larger by itself is alone."""
    under_way, seen = 0, []

    def weighed(weight: int) -> int:
        nonlocal under_way
        seen.append(under_way)
        under_way += weight
        return weight

    weights = [3, 3, 5, 1, 30, 2, 2, 2, 9, 1]
    with ThreadPoolExecutor(4) as pool:
        for done in ordered_map(pool, int, weights, 8, weighed, 10):
            under_way -= done
    assert all(weight <= 10 or weight == 30 for weight in seen)
    assert 30 in seen


# tars


def test_a_negative_size_in_a_tar_is_damage(tmp_path: Path) -> None:
    """A pax header that claims a size below zero: whoever asked for so many bytes would get all there are."""
    path = tmp_path / "1.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for number, size in ((0, None), (1, "-512")):
            member = tarfile.TarInfo(f"{number}.png")
            data = encoded(smooth(64, 64), "PNG")
            member.size = len(data)
            if size:
                member.pax_headers["size"] = size
            tar.addfile(member, io.BytesIO(data))
    entries = list(open_source(path).entries())
    assert entries[0].problem is None
    assert all(entry.problem for entry in entries[1:])
    assert len(entries) > 1
