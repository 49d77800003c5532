"""Pictures of noise, their edges, and datasets of them in the layout of `datasets`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import datasets
import numpy as np
import pyarrow as pa
from PIL import Image

from condprep.dataset.arrow import IMAGE

ROW = pa.schema({"image": IMAGE, "conditioning_image": IMAGE, "text": pa.string(), "key": pa.string()})


def png(pixels: Any) -> bytes:
    """Grey or RGB, uint8, as a file."""
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(stream, "PNG")
    return stream.getvalue()


def picture(seed: int = 0, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """(H, W, 3) of noise; size: (height, width)."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def edges(seed: int = 0, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """(H, W): the edges of `picture`."""
    return np.asarray(cv2.Canny(np.ascontiguousarray(picture(seed, size)), 100, 200))


def save_dataset(folder: Path, rows: int = 6, **columns: Any) -> Path:
    """A dataset of `datasets` with a split train; columns take the place of the usual ones."""
    usual: dict[str, Any] = {
        "image": [{"bytes": png(picture(row)), "path": None} for row in range(rows)],
        "text": [f"caption {row}" for row in range(rows)],
        "conditioning_image": [{"bytes": png(edges(row)), "path": None} for row in range(rows)],
    }
    kinds = {name: datasets.Image() for name in usual if name != "text"}
    made = datasets.Dataset.from_dict(usual | columns)
    for name, kind in kinds.items():
        made = made.cast_column(name, kind)
    datasets.DatasetDict({"train": made}).save_to_disk(folder)
    return folder


def save_shards(folder: Path, counts: Sequence[int], sizes: Sequence[tuple[int, int]] = ((64, 64),)) -> Path:
    """A dataset with a split train in as many Arrow files; sizes: (height, width) of its rows, in turn. Row 3 is called "row 3"."""
    numbers = count()
    (folder / "train").mkdir(parents=True)
    for shard, rows in enumerate(counts):
        written = [_row(next(numbers), sizes) for _ in range(rows)]
        with pa.ipc.new_stream(str(folder / "train" / f"data-{shard:05d}-of-{len(counts):05d}.arrow"), ROW) as sink:
            sink.write_batch(pa.RecordBatch.from_pylist(written, ROW))
    return folder


def _row(number: int, sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    size = sizes[number % len(sizes)]
    image, condition = ({"bytes": png(made(number, size)), "path": None} for made in (picture, edges))
    return {"image": image, "conditioning_image": condition, "text": f"caption {number}", "key": f"row {number}"}
