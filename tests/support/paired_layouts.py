"""Pairs of picture and map in each of the layouts that an import reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = tuple[bytes, bytes, Any]  # picture, map, caption


def as_folders(rows: list[Row], folder: Path) -> Path:
    for n, (picture, condition, caption) in enumerate(rows):
        for name, content in ((f"image/{n}.jpg", picture), (f"canny/{n}.png", condition)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        if caption is not None:
            (folder / f"image/{n}.txt").write_text(caption)
    return folder


def as_listing(rows: list[Row], folder: Path) -> Path:
    """As fill50k, with its two folders and prompt.json."""
    lines = []
    for n, (picture, condition, caption) in enumerate(rows):
        names = {"source": f"canny/{n}.png", "target": f"target/{n}.jpg"}
        for name, content in ((names["target"], picture), (names["source"], condition)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        lines.append(json.dumps(names | {"prompt": caption}))
    (folder / "prompt.json").write_text("\n".join(lines))
    return folder


def as_parquet(rows: list[Row], folder: Path) -> Path:
    folder.mkdir(parents=True)
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pictures, maps = ([{"bytes": row[i], "path": None} for row in rows] for i in (0, 1))
    columns = {"image": pa.array(pictures, image), "text": [row[2] for row in rows], "canny": pa.array(maps, image)}
    pq.write_table(pa.table(columns), folder / "train-00000-of-00001.parquet", row_group_size=2)
    return folder


def as_arrow(rows: list[Row], folder: Path) -> Path:
    folder.mkdir(parents=True)
    table = pq.read_table(as_parquet(rows, folder / "made") / "train-00000-of-00001.parquet")
    (folder / "made" / "train-00000-of-00001.parquet").unlink()
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=2)
    return folder


LAYOUTS = [as_folders, as_listing, as_parquet, as_arrow]
