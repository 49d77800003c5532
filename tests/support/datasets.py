"""What datasets on disk hold, as bytes; rows written as others write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import load_from_disk

from condprep.weights.find import Weights

OFFLINE = Weights(offline=True, say=lambda _: None)
# A caption that runs where a page takes it for markup.
HOSTILE = "</script><script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">'"


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content, but for the lock."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def raw_bytes(path: Path, column: str = "image", split: str = "train") -> list[bytes]:
    """The encoded pictures of a column, as stored."""
    from datasets import Image as ImageFeature

    rows = load_from_disk(str(path))[split].cast_column(column, ImageFeature(decode=False))
    return [value["bytes"] for value in rows[column]]


def rows_of(dataset: Path) -> list[dict[str, Any]]:
    """Picture, caption, map and key of each row of the first training shard."""
    with pa.memory_map(str(next(dataset.glob("train/*.arrow")))) as source:
        return list(
            pa.ipc.open_stream(source).read_all().select(["image", "text", "conditioning_image", "key"]).to_pylist()
        )


def written(rows: list[dict[str, Any]], path: Path, condition: str = "canny") -> Path:
    """The rows as a Parquet file whose maps are in the column `condition`."""
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    fields = {"image": image, "text": pa.string(), condition: image, "key": pa.string()}
    renamed = [row | {condition: row["conditioning_image"]} for row in rows]
    pq.write_table(pa.Table.from_pylist(renamed, pa.schema(list(fields.items()))), path)
    return path


def written_poses(pairs: list[tuple[bytes, bytes]], path: Path) -> Path:
    """Pictures and drawings of poses, encoded, as a Parquet file that does not say who drew them."""
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"image": {"bytes": a, "path": None}, "pose": {"bytes": b, "path": None}} for a, b in pairs]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema({"image": image, "pose": image})), path)
    return path
