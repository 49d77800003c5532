"""A dataset with repeats and faults, what others' datasets look like, and curating without the network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import condprep
from condprep.dataset.arrow import IMAGE
from condprep.dataset.reader import files
from condprep.weights.find import Weights

OFFLINE = Weights(offline=True, say=lambda _: None)


def photograph(number: int) -> np.ndarray:
    """(160, 160, 3): another piece of a photograph for each number."""
    from skimage import data

    picture = (data.astronaut, data.coffee, data.rocket)[number % 3]()
    y, x = 37 * number % 200, 53 * number % 300
    return cv2.resize(picture[y : y + 200, x : x + 200], (160, 160), interpolation=cv2.INTER_AREA)


def picture_files(folder: Path) -> None:
    """Four photographs; copies of the first: exact, cropped, as a JPEG of quality 40; a blurred one."""
    folder.mkdir()
    for number in (0, 1, 2, 4):
        Image.fromarray(photograph(number)).save(folder / f"{number}.png")
    first = photograph(0)
    Image.fromarray(first).save(folder / "5-copy.png")
    Image.fromarray(cv2.resize(first[6:, 4:], (160, 160))).save(folder / "6-crop.png")
    Image.fromarray(first).save(folder / "7.jpg", quality=40)
    Image.fromarray(cv2.GaussianBlur(photograph(7), (0, 0), 3)).save(folder / "8-blurred.png")


def build_repeats(folder: Path) -> Path:
    """A dataset of those pictures, `ds`, with canny maps and one reject, below the folder; its pictures are in `raw`."""
    picture_files(folder / "raw")
    (folder / "raw" / "9-broken.png").write_text("no picture")
    condprep.build(folder / "raw", folder / "ds", "canny", resolution=160, shard_rows=3)
    return folder / "ds"


def rows_of(dataset: Path) -> list[dict[str, Any]]:
    return [row for file in files(dataset) for row in read(file.path)]


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    with pa.memory_map(str(path)) as source:
        return list(pa.ipc.open_stream(source).read_all().to_pylist())


def rejects_of(dataset: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (dataset / ".condprep" / "rejects.jsonl").read_text().splitlines()]


def curate(dataset: Path, out: Path, drop: Sequence[str], **how: Any) -> Any:
    return condprep.curate(dataset, out, drop, **{"weights": OFFLINE} | how)


def foreign(rows: list[dict[str, Any]], path: Path) -> Path:
    """A Parquet dataset that condprep did not make, with a column of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {"image": IMAGE, "caption": pa.string(), "canny": IMAGE, "score": pa.float32()}
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(list(fields.items()))), path)
    return path


def foreign_rows(dataset: Path) -> list[dict[str, Any]]:
    return [
        {
            "image": row["image"] | {"path": f"{n}.png"},
            "caption": f"<b>{n}</b>",
            "canny": row["conditioning_image"],
            "score": n / 2,
        }
        for n, row in enumerate(rows_of(dataset))
    ]
