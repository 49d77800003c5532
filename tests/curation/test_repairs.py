"""`curate --fix`: maps are made again and turns baked in where it is certain, and all else stays as it was."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support.curated import build_repeats, curate, foreign, photograph, rejects_of, rows_of
from support.pictures import encoded, with_orientation

from condprep.dataset.reader import files


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_repeats(tmp_path_factory.mktemp("curate"))


def test_maps_are_made_again(built: Path, tmp_path: Path) -> None:
    """--fix: maps that were flipped, inverted or swapped become those of the build again, byte for byte; others keep theirs."""
    broken = tmp_path / "ds"
    shutil.copytree(built, broken)
    before = rows_of(built)
    wrong = [dict(row) for row in before]
    for number, change in ((1, lambda m: m[:, ::-1]), (2, lambda m: 255 - m)):
        pixels = np.array(Image.open(io.BytesIO(before[number]["conditioning_image"]["bytes"])).convert("L"))
        wrong[number]["conditioning_image"] = {
            "bytes": encoded(np.ascontiguousarray(change(pixels)), "PNG"),
            "path": None,
        }
    wrong[0]["conditioning_image"], wrong[3]["conditioning_image"] = (before[n]["conditioning_image"] for n in (3, 0))
    rewrite(broken, wrong)
    result = curate(broken, tmp_path / "out", [], fix=True)
    assert result.repaired == {"map made again": 4}
    assert result.dropped == {}
    assert rows_of(tmp_path / "out") == before
    said = (tmp_path / "out" / ".condprep" / "repairs.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in said] == [{"row": n, "repair": "map made again"} for n in range(4)]


def rewrite(dataset: Path, rows: list[dict[str, Any]]) -> None:
    """Other rows into the files of a dataset."""
    for file in files(dataset):
        with pa.memory_map(str(file.path)) as source:
            table = pa.ipc.open_stream(source).read_all()
        count, schema = len(table), table.schema
        del table
        with pa.ipc.new_stream(str(file.path), schema) as sink:
            sink.write_table(pa.Table.from_pylist(rows[:count], schema))
        rows = rows[count:]


def test_turns_are_baked_in(tmp_path: Path) -> None:
    """--fix: a picture that EXIF turns and whose map was made before becomes an upright pair; where it cannot be told, it stays."""
    stored = cv2.resize(photograph(1), (160, 96))
    edges = cv2.Canny(stored, 100, 200)
    turned = {"bytes": with_orientation(stored, "JPEG", 6, quality=95), "path": None}
    square = {"bytes": with_orientation(photograph(2), "JPEG", 6, quality=95), "path": None}
    flat = {"bytes": encoded(cv2.Canny(photograph(2), 100, 200), "PNG"), "path": None}
    rows = [
        {"image": turned, "caption": "one", "canny": {"bytes": encoded(edges, "PNG"), "path": None}, "score": 0.0},
        {"image": square, "caption": "two", "canny": flat, "score": 0.0},
    ]
    result = curate(foreign(rows, tmp_path / "rows.parquet"), tmp_path / "out", [], fix=True)
    first, second = rows_of(tmp_path / "out")
    image, edge = (Image.open(io.BytesIO(first[name]["bytes"])) for name in ("image", "canny"))
    assert image.size == edge.size == (96, 160)
    assert image.getexif().get(0x0112) is None
    assert np.array_equal(np.array(edge), np.rot90(edges, -1))
    assert second == rows[1]
    assert result.repaired == {"turned upright": 1}
    assert "1 rows could not be repaired" in result.notes


def test_a_repair_that_fails_takes_no_group_along(tmp_path: Path) -> None:
    """Of lookalikes one stays that needs no repair; where all need one and it fails, their rejects say so."""
    edges = encoded(cv2.Canny(photograph(2), 100, 200), "PNG")

    def row(quality: int, turned: bool) -> dict[str, Any]:
        """A square picture, of which nobody knows whether its map was made before it was turned."""
        data = with_orientation(photograph(2), "JPEG", 6 if turned else 1, quality=quality)
        image, edge = ({"bytes": one, "path": None} for one in (data, edges))
        return {"image": image, "caption": "words", "canny": edge, "score": 0.0}

    seen = {"bytes": encoded(cv2.rotate(photograph(2), cv2.ROTATE_90_CLOCKWISE), "JPEG", quality=60), "path": None}
    turned, upright, other = [row(95, True), row(90, True)], row(60, False) | {"image": seen}, row(95, False)
    drop = ["near-duplicates", "mismatched"]
    curate(foreign([*turned, upright], tmp_path / "rows.parquet"), tmp_path / "out", drop, fix=True)
    assert rows_of(tmp_path / "out") == [upright]
    curate(foreign([*turned, other], tmp_path / "turned.parquet"), tmp_path / "none", drop, fix=True)
    assert rows_of(tmp_path / "none") == [other]
    reasons = [one["reason"] for one in rejects_of(tmp_path / "none")]
    assert sum("stays if it can be repaired" in one for one in reasons) == 1
    assert sum("not repaired: it cannot be told" in one for one in reasons) == 1
    curate(tmp_path / "turned.parquet", tmp_path / "kept", drop[:1], fix=True)
    assert len(rows_of(tmp_path / "kept")) == 2
