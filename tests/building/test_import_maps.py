"""Importing pairs: the rows are the source's own pairs, byte for byte where nothing changes; what `verify` calls an error is
a reject; picture and map share one transform."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_from_disk
from PIL import Image
from skimage import data
from support.command import Command
from support.datasets import OFFLINE, tree
from support.paired_layouts import LAYOUTS, Row, as_arrow, as_folders, as_listing, as_parquet
from support.pictures import encoded, png16, smooth, with_orientation
from support.thorough import slow_ones

import condprep
from condprep.annotators.canny import canny
from condprep.building.import_maps import REPAIRED
from condprep.building.paired_source import open_paired
from condprep.dataset.contact_sheet import sheet
from condprep.dataset.inspect import summarize
from condprep.dataset.pairs.open import open_pairs
from condprep.errors import SourceError, UsageError

PHOTOGRAPH = data.astronaut()
PICTURES = [encoded(np.rot90(PHOTOGRAPH, n)[n:, : 480 + n].copy(), quality=95) for n in range(6)]
MAPS = [
    encoded(canny(np.asarray(Image.open(io.BytesIO(picture))), 100, 200), "PNG") for picture in PICTURES
]  # one channel
CAPTIONS = [f"photograph {n}" for n in range(6)]
NAMED = {"image": None, "condition": None, "caption": None}

ROWS: list[Row] = list(zip(PICTURES, MAPS, CAPTIONS))


def stored(dataset: Path) -> list[dict[str, Any]]:
    paths = sorted(dataset.glob("train/*.arrow"))
    return [row for path in paths for row in pa.ipc.open_stream(path.read_bytes()).read_all().to_pylist()]


def pixels(row: dict[str, Any], column: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row[column]["bytes"])).convert("RGB"))


def errors(path: Path) -> dict[int | None, list[str]]:
    """row -> the reasons of what `verify` calls an error of structure or condition, without what importing repairs."""
    found: dict[int | None, list[str]] = defaultdict(list)
    for one in condprep.verify(path, weights=OFFLINE, checks=["structure", "condition"]).findings:
        if one.severity == "error" and one.rule not in REPAIRED:
            found[one.row].append(one.reason)
    return dict(found)


@pytest.mark.parametrize("layout", LAYOUTS[:2] + slow_ones(LAYOUTS[2:]))
def test_pairs_keep_their_bytes(tmp_path: Path, layout: Callable[[list[Row], Path], Path]) -> None:
    """Of any layout: a row for each pair in its order, with the very bytes of picture and map, and nothing to complain of."""
    result = condprep.build(layout(ROWS, tmp_path / "pairs"), tmp_path / "ds")
    rows = stored(tmp_path / "ds")
    assert [(row["image"]["bytes"], row["conditioning_image"]["bytes"], row["text"]) for row in rows] == ROWS
    assert (result.rows, result.rejects, result.untouched) == ({"train": 6}, {}, 6)
    (made,) = result.annotators
    assert (made["annotator"], made["parameters"]) == ("imported", {"kind": "canny"})
    assert not errors(tmp_path / "ds")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fit", ["keep", *slow_ones(["crop"])])
def test_what_verify_calls_an_error_is_a_reject(
    tmp_path: Path, layout: Callable[[list[Row], Path], Path], fit: str
) -> None:
    """inputs = rows + rejects; the rejects are the pairs that `verify` finds wrong in the source, with its reasons."""
    grey = np.asarray(Image.open(io.BytesIO(MAPS[0])))
    rows: list[Row] = [
        ROWS[0],
        (PICTURES[1], b"no picture", "a map that cannot be decoded"),
        (PICTURES[2][:5000], MAPS[2], "half a picture"),
        (PICTURES[0], encoded(grey[: len(grey) // 2], "PNG"), "another shape"),
        (PICTURES[0], encoded(grey[::2, ::2], "PNG"), "half the size"),
        (PICTURES[0], encoded(255 - grey, "PNG"), "black on white"),
        (PICTURES[0], encoded(np.zeros_like(grey), "PNG"), "nothing"),
        (PICTURES[0], PICTURES[0], "the picture itself"),
        (PICTURES[0], encoded(grey, "JPEG"), "spoilt"),
        ROWS[5],
    ]
    source = layout(rows, tmp_path / "pairs")
    kind = "canny" if layout is as_listing else None  # in which nothing says what the maps are
    result = condprep.build(source, tmp_path / "ds", fit=fit, resolution=128, max_upscale=8, condition_kind=kind)
    assert result.inputs == 10 == sum(result.rows.values()) + sum(result.rejects.values())
    assert [row["text"] for row in stored(tmp_path / "ds")] == [CAPTIONS[0], CAPTIONS[5]]
    assert not errors(tmp_path / "ds")
    if kind is None:
        wrong = errors(source)
        assert list(wrong) == list(range(1, 9))
        lines = (tmp_path / "ds" / ".condprep" / "rejects.jsonl").read_text().splitlines()
        for line, reasons in zip(lines, wrong.values()):
            assert json.loads(line)["reason"].endswith(reasons[0].rpartition("decoded: ")[2])


def test_orphans_are_rejects(tmp_path: Path) -> None:
    """A picture without a map, a map without a picture, a second map: each is a reject that names the file."""
    folder = as_folders(ROWS[:2], tmp_path / "pairs")
    (folder / "image" / "alone.jpg").write_bytes(PICTURES[0])
    (folder / "canny" / "lost.png").write_bytes(MAPS[0])
    (folder / "canny" / "1.webp").write_bytes(MAPS[1])
    result = condprep.build(folder, tmp_path / "ds")
    assert (result.inputs, sum(result.rows.values())) == (5, 2)
    lines = map(json.loads, (tmp_path / "ds" / ".condprep" / "rejects.jsonl").read_text().splitlines())
    assert {line["source"] for line in lines} == {"image/alone.jpg", "canny/lost.png", "canny/1.webp"}


def test_a_map_is_that_of_the_picture_of_its_very_name(tmp_path: Path) -> None:
    """Of pictures, or maps, that differ in the extension alone none takes what has another's whole name, whichever comes first."""
    folder = tmp_path / "pairs"
    for name in ("image", "canny"):
        (folder / name).mkdir(parents=True)
    for name, number in {"0.bmp": 3, "0.png": 0, "1.png": 1, "2.jpg": 2}.items():
        (folder / "image" / name).write_bytes(PICTURES[number])
    for name, number in {"0.png": 0, "1.bmp": 4, "1.png": 1, "2.png": 2}.items():
        (folder / "canny" / name).write_bytes(MAPS[number])
    result = condprep.build(folder, tmp_path / "ds")
    assert (result.inputs, result.rejects) == (5, {"no-map": 1, "second-map": 1})
    found = {row["source"]: row["conditioning_image"]["bytes"] for row in stored(tmp_path / "ds")}
    assert found == {"image/0.png": MAPS[0], "image/1.png": MAPS[1], "image/2.jpg": MAPS[2]}


@pytest.mark.parametrize("fit", ["crop", "pad", *slow_ones(["bucket", "keep"])])
def test_picture_and_map_share_their_transform(tmp_path: Path, fit: str) -> None:
    """A map that shows the very pixels of its picture still does after importing, whatever the fit."""
    pairs = [
        (encoded(smooth(300, 180 + 90 * n, n), "PNG"), encoded(smooth(300, 180 + 90 * n, n), "BMP")) for n in range(3)
    ]
    source = as_folders([(picture, copy, "") for picture, copy in pairs], tmp_path / "pairs")
    (source / "canny").rename(source / "condition")
    condprep.build(source, tmp_path / "ds", fit=fit, resolution=128, image_format="png")
    rows = stored(tmp_path / "ds")
    assert len(rows) == 3
    for row in rows:
        assert (pixels(row, "image") == pixels(row, "conditioning_image")).all()
        assert pixels(row, "conditioning_image").shape[:2] == (row["height"], row["width"])


@pytest.mark.parametrize("fit", ["crop", "bucket", "pad"])
def test_binary_maps_stay_binary_and_in_place(tmp_path: Path, fit: str) -> None:
    """Resized, a binary map holds 0 and 255 alone and takes one bit a pixel; a disc is where it is in the picture."""
    y, x = np.mgrid[:400, :500]
    disc = ((y - 180) ** 2 + (x - 260) ** 2 < 90**2) * np.uint8(255)
    ring = disc ^ (((y - 180) ** 2 + (x - 260) ** 2 < 86**2) * np.uint8(255))
    picture = np.stack([disc, disc, 255 - disc], -1)
    source = as_folders([(encoded(picture, "PNG"), encoded(ring, "PNG"), "")], tmp_path / "pairs")
    condprep.build(source, tmp_path / "ds", fit=fit, resolution=192, image_format="png")
    (row,) = stored(tmp_path / "ds")
    stored_map = Image.open(io.BytesIO(row["conditioning_image"]["bytes"]))
    assert stored_map.mode == "1"
    inside = pixels(row, "image")[..., 0] > 127
    ys, xs = np.nonzero(np.asarray(stored_map))
    assert (ys.min(), xs.min()) == pytest.approx([edge.min() for edge in np.nonzero(inside)], abs=1)
    assert (ys.max(), xs.max()) == pytest.approx([edge.max() for edge in np.nonzero(inside)], abs=1)


def test_colours_of_a_segmentation_are_never_mixed(tmp_path: Path) -> None:
    """Resized by the nearest pixel: no colour is in the stored map that was not in the source's."""
    blocks = np.kron(np.random.default_rng(0).integers(0, 8, (10, 10, 3)) * 36, np.ones((40, 40, 1))).astype(np.uint8)
    source = as_folders([(encoded(smooth(400, 400)), encoded(blocks, "PNG"), "")], tmp_path / "pairs")
    (source / "canny").rename(source / "segmentation")
    condprep.build(source, tmp_path / "ds", fit="crop", resolution=256)
    (row,) = stored(tmp_path / "ds")
    colours = {tuple(colour) for colour in pixels(row, "conditioning_image").reshape(-1, 3).tolist()}
    assert colours <= {tuple(colour) for colour in blocks.reshape(-1, 3).tolist()}


def test_what_can_be_repaired_is(tmp_path: Path) -> None:
    """16-bit depth becomes 8 bits, EXIF orientation is baked in, a missing caption is empty: rows without an error."""
    depth = np.linspace(0, 65535, 300 * 200).reshape(300, 200).astype(np.uint16)
    turned = [with_orientation(smooth(200, 300), "JPEG", 6), with_orientation(smooth(300, 200), "JPEG", 1)]
    rows: list[Row] = [(turned[0], png16(depth), "turned"), (turned[1], png16(depth), None)]
    source = as_parquet(rows, tmp_path / "pairs")
    result = condprep.build(source, tmp_path / "ds", condition_column="canny", condition_kind="depth")
    assert result.rows == {"train": 2}
    assert [row["text"] for row in stored(tmp_path / "ds")] == ["turned", ""]
    for row in stored(tmp_path / "ds"):
        found = Image.open(io.BytesIO(row["conditioning_image"]["bytes"]))
        assert (found.mode, found.size, (row["width"], row["height"])) == ("L", (200, 300), (200, 300))
        assert np.abs(np.asarray(found).astype(int) - depth // 257).max() <= 1
    findings = condprep.verify(tmp_path / "ds", weights=OFFLINE).findings
    assert not [one for one in findings if one.severity == "error" and one.check in ("structure", "condition")]


def test_an_interrupted_import_goes_on(tmp_path: Path) -> None:
    """Stopped anywhere and run again, with another number of workers: byte for byte the dataset of one that never stopped."""
    source = as_folders([*ROWS, *ROWS], tmp_path / "pairs")
    options: dict[str, Any] = {"shard_rows": 3, "fit": "crop", "resolution": 128}
    condprep.build(source, tmp_path / "whole", workers=1, **options)

    def stop(state: Any) -> None:
        if state.stage == "build" and state.done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        condprep.build(source, tmp_path / "parts", progress=stop, **options)
    again = condprep.build(source, tmp_path / "parts", workers=3, **options)
    assert again.resumed == 7
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")
    with pytest.raises(UsageError, match="condition_kind"):
        condprep.build(source, tmp_path / "parts", condition_kind="scribble", **options)


def test_an_imported_dataset_carries_on(tmp_path: Path) -> None:
    """It loads, its summary and card say that it was imported, a sheet can be drawn, and further maps be added."""
    condprep.build(as_listing(ROWS, tmp_path / "pairs"), tmp_path / "ds", fit="crop", resolution=128)
    assert load_from_disk(str(tmp_path / "ds"))["train"][0]["conditioning_image"].size == (128, 128)
    assert summarize(tmp_path / "ds").provenance["annotators"][0]["annotator"] == "imported"  # type: ignore[index]
    assert "| conditioning_image | imported | kind = canny |" in (tmp_path / "ds" / "README.md").read_text()
    sheet(tmp_path / "ds", tmp_path / "sheet.png")
    assert open_pairs(tmp_path / "ds").said == "canny"
    condprep.add_columns(tmp_path / "ds", "canny")
    rows = stored(tmp_path / "ds")
    assert list(rows[0])[:4] == ["image", "text", "conditioning_image", "canny"]
    assert open_pairs(tmp_path / "ds").said == "canny"
    assert not errors(tmp_path / "ds")


def test_there_is_no_annotator_to_repeat(tmp_path: Path) -> None:
    """`annotate --like` of an imported dataset says so."""
    condprep.build(as_folders(ROWS[:1], tmp_path / "pairs"), tmp_path / "ds")
    with pytest.raises(UsageError, match="were imported, so there is no annotator to repeat"):
        condprep.annotate([PICTURES[0]], like=tmp_path / "ds")


def test_columns_and_splits_are_chosen(tmp_path: Path, command: Command) -> None:
    """Of a dataset with several columns of pictures, the named ones; of several splits, the named one."""
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    cells = {"a": PICTURES, "b": MAPS, "c": PICTURES}
    columns = {name: pa.array([{"bytes": one, "path": None} for one in of], image) for name, of in cells.items()}
    for split in ("train", "test"):
        (tmp_path / "hf" / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), tmp_path / "hf" / "data" / f"{split}-00000-of-00001.parquet")
    common = ("build", str(tmp_path / "hf"), "--out", str(tmp_path / "ds"), "--image-column", "a")
    assert "--condition-column" in command(*common, "--split", "train").err
    assert "the splits test, train; choose one with --split" in command(*common, "--condition-column", "b").err
    ended = command(*common, "--condition-column", "b", "--split", "test", "--condition-kind", "canny", "--json")
    assert (ended.code, json.loads(ended.out)["rows"]) == (0, {"train": 6})
    rows = stored(tmp_path / "ds")
    assert [row["conditioning_image"]["bytes"] for row in rows] == MAPS
    assert rows[0]["source"] == "test:0"


def test_a_slip_is_told(tmp_path: Path, raw: Path, command: Command) -> None:
    """No annotator for pictures without maps, both at once, options that mean nothing: exit code 2 and a remedy."""
    pairs, out = str(as_folders(ROWS[:1], tmp_path / "pairs")), str(tmp_path / "ds")
    for said, arguments in {
        "holds no pairs: of the pictures": (str(raw), "--out", out),
        "--condition-column 'canny' means nothing": (pairs, "-a", "canny", "--condition-column", "canny", "--out", out),
        "--condition-kind is about maps": (pairs, "-a", "canny", "--condition-kind", "canny", "--out", out),
        "give one of the two": (pairs, "-a", "canny", "--source-kind", "pairs", "--out", out),
        "no splits; leave out --split": (pairs, "--split", "train", "--out", out),
        "--into adds the maps of an annotator": (out, "--into"),
    }.items():
        if "--into" in arguments:
            condprep.build(pairs, out)
        ended = command("build", *arguments)
        assert (ended.code, said in ended.err) == (2, True), (said, ended.err)


def test_a_listing_cannot_lead_outside(tmp_path: Path) -> None:
    """A map that a listing names outside of its folder, or that is not there, is a reject and is not read."""
    folder = as_listing(ROWS[:3], tmp_path / "pairs")
    (tmp_path / "secret.png").write_bytes(MAPS[0])
    lines = (folder / "prompt.json").read_text().splitlines()
    lines[0] = lines[0].replace("canny/0.png", "../secret.png")
    lines[1] = lines[1].replace("canny/1.png", "canny/none.png")
    (folder / "prompt.json").write_text("\n".join([*lines, "{broken", '{"source": 3, "target": "target/0.jpg"}']))
    result = condprep.build(folder, tmp_path / "ds")
    assert (result.inputs, result.rows) == (5, {"train": 1})
    said = (tmp_path / "ds" / ".condprep" / "rejects.jsonl").read_text()
    assert "outside the folder" in said
    assert "missing" in said


def test_damage_costs_no_more_than_what_is_damaged(tmp_path: Path) -> None:
    """Of a cut Arrow file the rows before the cut are imported, and the file is a reject; the next file is read."""
    folder = as_arrow(ROWS, tmp_path / "pairs")
    first = folder / "data-00000-of-00001.arrow"
    (folder / "data-00001-of-00002.arrow").write_bytes(first.read_bytes())
    first.write_bytes(first.read_bytes()[: int(first.stat().st_size * 0.55)])
    result = condprep.build(folder, tmp_path / "ds")
    rows = sum(result.rows.values())
    assert 6 < rows < 12
    assert result.inputs == rows + 1
    assert [row["text"] for row in stored(tmp_path / "ds")] == [*CAPTIONS[: rows - 6], *CAPTIONS]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_are_the_pairs_that_verify_sees(tmp_path: Path, layout: Callable[[list[Row], Path], Path]) -> None:
    """Listed and read one by one, in any order, a dataset's entries are the pairs that iterating gives."""
    source = open_paired(str(layout(ROWS, tmp_path / "pairs")), NAMED, None)
    entries = list(source.entries())
    samples = [source.read(entry) for entry in reversed(entries)][::-1]
    pairs = list(source.pairs)
    assert [(one.data, one.condition) for one in samples] == [(one.image, one.condition) for one in pairs]
    assert [one.text for one in samples] == [(caption,) for caption in CAPTIONS]
    assert len({entry.name for entry in entries}) == 6


def test_no_pairs_is_an_error(tmp_path: Path) -> None:
    """An empty folder, and one with a single column, are no source of pairs."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no dataset"):
        condprep.build(tmp_path / "empty", tmp_path / "ds")
    pq.write_table(pa.table({"image": [PICTURES[0]]}), tmp_path / "one.parquet")
    with pytest.raises(SourceError, match="only 'image' holds pictures"):
        condprep.build(tmp_path / "one.parquet", tmp_path / "ds")


def test_where_most_maps_are_of_one_kind_that_is_said(tmp_path: Path) -> None:
    """Spoilt maps among others make the kind unknown; the note names it, and with --condition-kind they are rejects."""
    grey = np.asarray(Image.open(io.BytesIO(MAPS[0])))
    rows = [*ROWS, *((picture, encoded(255 - grey, "PNG"), "black on white") for picture in PICTURES[:2])]
    source, said = as_listing(rows, tmp_path / "pairs"), []
    condprep.build(source, tmp_path / "ds", weights=condprep.Weights(offline=True, say=said.append))
    assert any("look like canny" in line and "--condition-kind canny" in line for line in said)
    result = condprep.build(source, tmp_path / "canny", condition_kind="canny")
    assert sum(result.rejects.values()) == 2
