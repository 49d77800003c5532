"""Contact sheets: what is drawn where, which rows are chosen, and what happens to what cannot be drawn."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFont

from condprep.dataset.contact_sheet import GAP, LINE, MAT, PAPER, SheetRow, clip, contact_sheet, sheet
from condprep.errors import DatasetError, UsageError

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 255, 0)


def solid(colour: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour)


def encoded(picture: Image.Image) -> dict:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return {"bytes": out.getvalue(), "path": None}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def dataset(root: Path, rows: list[dict], maps: tuple[str, ...] = ("conditioning_image",)) -> Path:
    kinds = {"image": IMAGE, "text": pa.string()} | dict.fromkeys(maps, IMAGE) | {"source": pa.string()}
    (root / "train").mkdir(parents=True)
    with pa.ipc.new_stream(str(root / "train" / "data-00000-of-00001.arrow"), pa.schema(kinds)) as stream:
        for row in rows:
            stream.write_batch(pa.RecordBatch.from_pylist([row], pa.schema(kinds)))
    return root


def rows(count: int) -> list[dict]:
    picture, edges = encoded(solid(RED)), encoded(solid(BLUE))
    return [
        {"image": picture, "conditioning_image": edges, "text": f"caption {n}", "source": f"{n}.jpg"}
        for n in range(count)
    ]


def test_pictures_stand_beside_their_maps(tmp_path: Path) -> None:
    """The picture is in the left cell, its map in the right one, and the second pair is where `columns` puts it."""
    out = tmp_path / "sheet.png"
    contact_sheet(
        [SheetRow([solid(RED), solid(BLUE)]), SheetRow([solid(GREEN), solid(BLUE)])], out, columns=2, cell=100
    )
    drawn = pixels(out)
    second = GAP + 202 + GAP
    assert drawn.shape == (GAP + 100 + GAP, second + 202 + GAP, 3)
    assert tuple(drawn[GAP + 50, GAP + 50]) == RED
    assert tuple(drawn[GAP + 50, GAP + 152]) == BLUE
    assert tuple(drawn[GAP + 50, second + 50]) == GREEN
    assert tuple(drawn[0, 0]) == PAPER
    contact_sheet([SheetRow([solid(RED)]), SheetRow([solid(GREEN)])], out, columns=1, cell=100)
    assert tuple(pixels(out)[GAP + 100 + GAP + 50, GAP + 50]) == GREEN


def test_pictures_keep_their_aspect(tmp_path: Path) -> None:
    """A wide picture is fitted into its cell without distortion, in the middle of a mat."""
    out = tmp_path / "sheet.png"
    contact_sheet([SheetRow([solid(RED, (200, 100))])], out, cell=100)
    column = pixels(out)[GAP : GAP + 100, GAP + 50]
    assert (column == RED).all(axis=1).sum() == 50
    assert tuple(column[10]) == MAT
    assert tuple(column[90]) == MAT


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "I;16", "CMYK"])
def test_maps_of_every_mode_are_drawn(tmp_path: Path, mode: str) -> None:
    """Binary, grey, palette, transparent, 16-bit and CMYK pictures all show light as light."""
    white = Image.fromarray(np.full((32, 32), 65535, np.uint16)) if mode == "I;16" else solid((255,) * 3).convert(mode)
    contact_sheet([SheetRow([white])], tmp_path / "sheet.png", cell=32)
    assert pixels(tmp_path / "sheet.png")[GAP + 16, GAP + 16].min() >= 250


def test_a_dataset_gives_a_sheet_of_its_rows(tmp_path: Path) -> None:
    """The sheet of a dataset shows each chosen row's picture and map, and writes titles and captions around them."""
    root = dataset(tmp_path / "ds", rows(2))
    assert sheet(root, tmp_path / "out" / "sheet.png", cell=100) == ["0.jpg", "1.jpg"]
    drawn = pixels(tmp_path / "out" / "sheet.png")
    top = GAP + LINE
    assert tuple(drawn[top + 50, GAP + 50]) == RED
    assert tuple(drawn[top + 50, GAP + 152]) == BLUE
    assert (drawn[:top, GAP : GAP + 100] < 100).any()  # a title
    assert (drawn[top + 102 : top + 102 + LINE, GAP : GAP + 100] < 100).any()  # a caption


def test_the_same_seed_shows_the_same_rows(tmp_path: Path) -> None:
    """A sheet is repeatable: seed and dataset decide the rows and the bytes; another seed shows others."""
    root = dataset(tmp_path / "ds", rows(200))
    one, same, other = tmp_path / "1.png", tmp_path / "2.png", tmp_path / "3.png"
    shown = sheet(root, one, rows=8, seed=1, cell=16)
    assert len(set(shown)) == 8
    assert sheet(root, same, rows=8, seed=1, cell=16) == shown
    assert same.read_bytes() == one.read_bytes()
    assert sheet(root, other, rows=8, seed=2, cell=16) != shown
    assert len(sheet(root, other, rows=500, cell=16)) == 200


def test_rows_come_from_all_files(tmp_path: Path) -> None:
    """Rows are drawn over the files of all splits, Arrow or Parquet, and labelled by file where there is no source."""
    kinds = pa.schema({"image": IMAGE, "mask": IMAGE})
    table = pa.Table.from_pylist([{"image": encoded(solid(RED)), "mask": encoded(solid(BLUE))}] * 3, kinds)
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    shown = sheet(tmp_path, tmp_path / "sheet.png", rows=9, cell=16)
    assert len(shown) == 9
    assert shown[3] == "train-00001-of-00002.parquet row 0"
    assert shown[-1] == "test-00000-of-00001.parquet row 2"


def test_several_maps_are_shown_and_a_repeated_one_once(tmp_path: Path) -> None:
    """All annotators' maps stand beside the picture; `conditioning_image`, which repeats one, is not drawn again."""
    edges, depth = encoded(solid(BLUE)), encoded(solid(GREEN))
    row = {"image": encoded(solid(RED)), "conditioning_image": edges, "canny": edges, "depth": depth}
    root = dataset(tmp_path / "ds", [row], ("conditioning_image", "canny", "depth"))
    sheet(root, tmp_path / "sheet.png", cell=100)
    drawn = pixels(tmp_path / "sheet.png")
    assert drawn.shape[1] == GAP + 3 * 102 - 2 + GAP
    assert [tuple(drawn[GAP + LINE + 50, GAP + n * 102 + 50]) for n in range(3)] == [RED, BLUE, GREEN]


def test_what_cannot_be_shown_is_said_in_its_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken, a missing and a far too large picture leave their cells empty but for words; the rest is drawn."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # the limit is the sheet's own, whoever lifted Pillow's
    huge = encoded(Image.new("1", (20_000, 20_000)))
    bad: list[dict | None] = [
        {"bytes": b"no picture", "path": None},
        {"bytes": None, "path": "/etc/passwd"},
        None,
        huge,
    ]
    root = dataset(tmp_path / "ds", [rows(1)[0] | {"conditioning_image": value} for value in bad])
    sheet(root, tmp_path / "sheet.png", cell=100)
    drawn = pixels(tmp_path / "sheet.png")
    for n in range(4):
        x, y = GAP + n % 2 * (202 + GAP), GAP + LINE + n // 2 * (100 + 2 * LINE + GAP)
        assert tuple(drawn[y + 50, x + 50]) == RED
        cell = drawn[y : y + 100, x + 102 : x + 202]
        assert tuple(cell[99, 99]) == MAT
        assert (cell < 100).any()


def test_rows_before_the_damage_are_shown(tmp_path: Path) -> None:
    """From a file that was cut in the middle, rows are drawn that can still be read."""
    path = dataset(tmp_path / "ds", rows(20)) / "train" / "data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    shown = sheet(tmp_path / "ds", tmp_path / "sheet.png", rows=20, cell=16)
    assert 5 <= len(shown) < 15
    assert shown == [f"{n}.jpg" for n in range(len(shown))]


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("short", False),
        ("", False),
        ("a\nb\tc\x00 \x1b[3m", False),
        ("\u202e" * 99, False),
        ("long " * 1000, True),
        ("日本語の" * 200, True),
        ("🙂" * 50, True),
    ],
)
def test_captions_fit_into_one_line(text: str, cut: bool) -> None:
    """Whatever a caption holds, what is written is one printable line that fits its width."""
    font = ImageFont.load_default(13)
    line = clip(text, 100, font.getlength)
    assert font.getlength(line) <= 100
    assert line.isprintable()
    assert line.endswith("…") == cut


def test_nothing_to_show_is_an_error(tmp_path: Path) -> None:
    """No rows, fewer than none, no pictures, an unknown file type, and a sheet of absurd size: errors, and no file is left."""
    with pytest.raises(UsageError, match="no rows"):
        sheet(dataset(tmp_path / "empty", []), tmp_path / "sheet.png")
    with pytest.raises(UsageError, match=r"sheet\.gif"):
        sheet(dataset(tmp_path / "ds", rows(1)), tmp_path / "sheet.gif")
    with pytest.raises(UsageError, match="--rows -3: a sheet shows a row, or more"):
        sheet(tmp_path / "ds", tmp_path / "sheet.png", rows=-3)
    with pytest.raises(UsageError, match="fewer rows"):
        contact_sheet([SheetRow([solid(RED)])] * 10_000, tmp_path / "sheet.png")
    (tmp_path / "text").mkdir()
    with pa.ipc.new_stream(str(tmp_path / "text" / "data-00000-of-00001.arrow"), pa.schema({"text": pa.string()})):
        pass
    with pytest.raises(DatasetError, match="no column holds pictures"):
        sheet(tmp_path / "text", tmp_path / "sheet.png")
    assert not list(tmp_path.glob("sheet*"))
